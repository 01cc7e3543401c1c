"""The AMIGOS reader on small files in the published layout (nobody here has the data), whole and broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from train.data import amigos
from train.data.errors import DataError

RNG = np.random.default_rng(0)


def row(values: list[Any]) -> np.ndarray:
    """A 1 x n cell."""
    cell = np.empty((1, len(values)), object)
    for index, value in enumerate(values):
        cell[0, index] = value
    return cell


def trial(seconds: float = 8.0, gsr: float = 2e5) -> np.ndarray:
    """(n_times, 17) as published."""
    data = RNG.normal(0, 0.2, (round(seconds * 128), 17))
    data[:, 16] = gsr * (1 + 0.01 * data[:, 16])
    return data


def content(trials: list[np.ndarray], **changes: Any) -> dict[str, Any]:
    """The four variables of a file."""
    answers = np.array([[6.5, 3.0, 5.0, 4.0, 2.5, 1, 0, 0, 0, 0, 0, 0]])
    ids = ["10", "13", "138", "N1"][: len(trials)]
    made = {
        "joined_data": row(trials),
        "labels_selfassessment": row([answers if t.size else np.empty((1, 0)) for t in trials]),
        "labels_ext_annotation": row([np.array([[1, 0.1, 0.2], [2, 0.1, 0.3]]) for _ in trials]),
        "VideoIDs": row(ids),
    }
    return made | changes


def write(root: Path, subject: str = "P01", made: dict[str, Any] | None = None) -> Path:
    """One person's file in its own folder, as unpacked."""
    path = root / f"Data_Preprocessed_{subject}" / f"Data_Preprocessed_{subject}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, made or content([trial(), trial(9.0)]), do_compression=True)
    return path


def test_one_recording_per_trial_with_units_and_self_assessment(tmp_path: Path) -> None:
    trials = [trial(), np.empty((0, 0)), trial(9.0)]
    write(tmp_path, made=content(trials))
    first, last = amigos.load(tmp_path, "P01")
    assert (first.dataset, first.subject, first.session, last.session) == ("amigos", "P01", "video 10", "video 138")
    assert {n: (s.sfreq, s.units, s.data.shape) for n, s in first.signals.items()} == {
        "ecg": (128.0, "mV", (1024, 2)),
        "eda": (128.0, "uS", (1024, 1)),
        "eeg": (128.0, "a.u.", (1024, 14)),
    }
    assert np.array_equal(first.signals["ecg"].data, trials[0][:, 14:16])
    np.testing.assert_allclose(last.signals["eda"].data[:, 0], 1e6 / trials[2][:, 16])
    baseline, video = first.annotations
    assert (baseline.onset, baseline.duration, baseline.description) == (0, 5, "baseline")
    assert (video.onset, video.duration, video.description) == (5, 3, "video")
    assert video.ratings["arousal"] == 6.5 and video.ratings["valence"] == 3 and video.ratings["neutral"] == 1
    assert len(video.ratings) == 12
    assert "videos without data: 13" in first.notes
    assert any("read as ohm" in note for note in first.notes) and any("taken as mV" in note for note in first.notes)


def test_subjects_in_natural_order_side_by_side_or_in_folders(tmp_path: Path) -> None:
    assert not amigos.recognise(tmp_path)
    with pytest.raises(DataError, match="point to the unpacked data set"):
        amigos.subjects(tmp_path)
    for subject in ("P10", "P02"):
        write(tmp_path, subject)
    savemat(tmp_path / "Data_Preprocessed_P01.mat", content([trial()]))
    assert amigos.recognise(tmp_path)
    assert amigos.subjects(tmp_path) == ["P01", "P02", "P10"]
    assert amigos.load(tmp_path, "P01")[0].session == "video 10"
    with pytest.raises(DataError, match="no Data_Preprocessed_P77"):
        amigos.load(tmp_path, "P77")


@pytest.mark.parametrize(
    ("gsr", "unit", "us"), [(2e5, "ohm", 5.0), (200.0, "kilohm", 5.0), (5.0, "uS", 5.0), (5e-6, "siemens", 5.0)]
)
def test_gsr_in_any_unit_it_could_be_in(tmp_path: Path, gsr: float, unit: str, us: float) -> None:
    write(tmp_path, made=content([trial(gsr=gsr)]))
    recording = amigos.load(tmp_path, "P01")[0]
    assert np.median(recording.signals["eda"].data) == pytest.approx(us, rel=0.01)
    assert any(f"read as {unit} of skin" in note for note in recording.notes)


def test_ecg_in_counts_and_samples_that_are_missing(tmp_path: Path) -> None:
    data = trial()
    data[:, 14:16] = 2060 + 100 * data[:, 14:16]
    data[640:768, 16] = np.nan
    data[900, 16] = 0.0
    write(tmp_path, "P09", content([data]))
    recording = amigos.load(tmp_path, "P09")[0]
    ecg = recording.signals["ecg"].data
    np.testing.assert_allclose(ecg, (data[:, 14:16] - 2060) * 3000 / 4095 / 175)
    assert np.isnan(recording.signals["eda"].data).sum() == 129
    assert "eda: 129 of 1024 samples are NaN, from 5.0 s on" in recording.notes
    assert any("Shimmer 2 counts" in note for note in recording.notes)
    assert any("usually leave this person out" in note for note in recording.notes)


def test_a_modality_without_any_sample_is_left_out_and_told(tmp_path: Path) -> None:
    data = trial()
    data[:, 16] = np.nan
    answers = row([np.array([[6.5, np.nan, *np.zeros(10) + 1]])])
    write(tmp_path, made=content([data], labels_selfassessment=answers))
    recording = amigos.load(tmp_path, "P01")[0]
    assert sorted(recording.signals) == ["ecg", "eeg"]
    assert "eda: no sample in this trial" in recording.notes
    assert "valence" not in recording.annotations[1].ratings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joined_data": None}, "joined_data: is missing"),
        ({"joined_data": row([trial()[:, :16]])}, r"joined_data, trial 1: shape \(1024, 16\).*\(n, 17\)"),
        ({"joined_data": row([trial(4.0)])}, "trial 1: 4.0 s: ends before its video"),
        ({"joined_data": row([trial(gsr=35.0)])}, "GSR.*fits neither"),
        ({"joined_data": row(["text"])}, "holds no numbers"),
        ({"joined_data": row([np.empty((0, 0))])}, "no trial was recorded"),
        ({"joined_data": row([trial(), trial()])}, "2 trials, 1 self-assessments"),
        ({"joined_data": row([np.where(np.arange(17) == 14, np.inf, trial())])}, "ecg, sample 0: is infinite"),
        ({"labels_selfassessment": row([np.ones((1, 5))])}, "video 10: 5 answers"),
        ({"labels_selfassessment": row([np.full((1, 12), 11.0)])}, "arousal is 11, outside 1 .. 9"),
        ({"VideoIDs": 3.0}, "VideoIDs: is missing or no row"),
    ],
)
def test_a_broken_file_is_named_with_place_and_remedy(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made = {name: value for name, value in content([trial()], **change).items() if value is not None}
    path = write(tmp_path, made=made)
    with pytest.raises(DataError, match=message) as caught:
        amigos.load(tmp_path, "P01")
    assert caught.value.path == str(path) and caught.value.remedy and "\n" not in str(caught.value)


def test_a_cut_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="cut or broken"):
        amigos.load(tmp_path, "P01")
