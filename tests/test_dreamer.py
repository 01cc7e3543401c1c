"""The DREAMER reader on small files in the published layout (nobody here has the data), whole and broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from train.data import dreamer
from train.data.errors import DataError

RNG = np.random.default_rng(0)


def column(values: list[Any]) -> np.ndarray:
    """An n x 1 cell."""
    cell = np.empty((len(values), 1), object)
    for index, value in enumerate(values):
        cell[index, 0] = value
    return cell


def person(clips: int = 3, **changes: Any) -> dict[str, Any]:
    """One element of Data: ECG in counts of the sensor."""
    ecg = lambda seconds: np.rint(2040 + 60 * RNG.normal(size=(256 * seconds, 2)))  # noqa: E731
    eeg = {"baseline": column([np.ones((128, 14))] * clips), "stimuli": column([np.ones((256, 14))] * clips)}
    made = {
        "Age": "22",
        "Gender": "male",
        "EEG": eeg,
        "ECG": {"baseline": column([ecg(2)] * clips), "stimuli": column([ecg(3) for _ in range(clips)])},
        "ScoreValence": np.array([[4], [3], [5]][:clips]),
        "ScoreArousal": np.array([[3], [3], [4]][:clips]),
        "ScoreDominance": np.array([[2], [1], [4]][:clips]),
    }
    return made | changes


def write(root: Path, people: list[dict[str, Any]], **changes: Any) -> Path:
    """DREAMER.mat with its fields in the published order."""
    struct = {"Data": column(people).T, "EEG_SamplingRate": 128.0, "ECG_SamplingRate": 256.0}
    struct |= {"EEG_Electrodes": column(["AF3", "F7"]).T, "noOfSubjects": float(len(people)), "noOfVideoSequences": 3.0}
    struct |= {"Disclaimer": "While every care", "Provider": "UWS", "Version": "1.0.2", "Acknowledgement": "-"}
    savemat(root / "DREAMER.mat", {"DREAMER": struct | changes}, do_compression=True)
    return root / "DREAMER.mat"


def test_one_recording_per_clip_baseline_first_then_the_film(tmp_path: Path) -> None:
    people = [person(), person()]
    write(tmp_path, people)
    assert dreamer.recognise(tmp_path) and dreamer.subjects(tmp_path) == ["S1", "S2"]
    recordings = dreamer.load(tmp_path, "S2")
    assert [r.session for r in recordings] == ["clip 1", "clip 2", "clip 3"]
    second = recordings[1]
    ecg = second.signals["ecg"]
    assert (ecg.sfreq, ecg.units, ecg.ch_names, ecg.data.shape) == (256, "mV", ("ecg_1", "ecg_2"), (6 * 256, 2))
    counts = people[1]["ECG"]["stimuli"][1, 0]
    np.testing.assert_allclose(ecg.data[3 * 256 :], (counts - 2060) * 3000 / 4095 / 175)
    assert np.isnan(ecg.data[512:768]).all() and not np.isnan(ecg.data[:512]).any()
    rest, film = second.annotations
    assert (rest.onset, rest.duration, rest.description) == (0, 2, "baseline")
    assert (film.onset, film.duration, film.description) == (3, 3, "film")
    assert film.ratings == {"valence": 3, "arousal": 3, "dominance": 1}
    assert any("Shimmer 2 counts" in n for n in second.notes) and any("pause" in n for n in second.notes)


def test_ecg_in_mv_stays_and_missing_samples_are_told(tmp_path: Path) -> None:
    film = RNG.normal(0, 0.3, (768, 2))
    film[10:20] = np.nan
    one = person(1, ECG={"baseline": column([film[100:]]), "stimuli": column([film])})
    write(tmp_path, [one])
    recording = dreamer.load(tmp_path, "S1")[0]
    np.testing.assert_array_equal(recording.signals["ecg"].data[-768:], film)
    assert any("taken as mV" in note for note in recording.notes)
    assert any(note.startswith("ecg: 10 of 1436 samples are NaN") for note in recording.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ECG": {"stimuli": column([np.ones((9, 2))])}}, "S1, ECG.baseline: is missing"),
        ({"ECG": {"baseline": column([np.ones((9, 2))] * 2), "stimuli": column([np.ones((9, 2))])}}, "2 baselines, 1"),
        (
            {"ECG": {"baseline": column([np.ones((9, 3))]), "stimuli": column([])}},
            r"baseline\{1\}: \(9, 3\), published",
        ),
        ({"ECG": {"baseline": column([np.full((9, 2), np.inf)]), "stimuli": column([np.ones((9, 2))])}}, "is infinite"),
        ({"ScoreValence": np.array([[4], [9], [2]])}, "S1, ScoreValence: a score is outside 1 .. 5"),
        ({"ScoreValence": np.array([[4], [np.nan], [2]])}, "outside 1 .. 5"),
        ({"ScoreArousal": np.array([[4], [2]])}, "ScoreArousal: is not 3 numbers"),
    ],
)
def test_a_broken_person_is_named_and_the_next_one_reads(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    clips = 1 if "infinite" in message else 3
    path = write(tmp_path, [person(clips, **change), person()])
    with pytest.raises(DataError, match=message) as caught:
        dreamer.load(tmp_path, "S1")
    assert caught.value.path == str(path) and caught.value.remedy
    assert len(dreamer.load(tmp_path, "S2")) == 3


def test_a_wrong_rate_a_missing_file_and_an_unknown_person(tmp_path: Path) -> None:
    assert not dreamer.recognise(tmp_path)
    with pytest.raises(DataError, match=r"point to the folder of DREAMER\.mat"):
        dreamer.subjects(tmp_path)
    write(tmp_path, [person()], ECG_SamplingRate=128.0)
    with pytest.raises(DataError, match="ECG_SamplingRate: is 128, published is 256"):
        dreamer.load(tmp_path, "S1")
    with pytest.raises(DataError, match="holds no person S9"):
        dreamer.load(tmp_path, "S9")
    write(tmp_path, [], Data=1.0)
    with pytest.raises(DataError, match=r"S1, ECG\.baseline: is missing"):
        dreamer.load(tmp_path, "S1")
    savemat(tmp_path / "DREAMER.mat", {"other": 1.0})
    with pytest.raises(DataError, match=r"DREAMER\.Data: is missing"):
        dreamer.subjects(tmp_path)
