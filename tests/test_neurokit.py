"""The reader of NeuroKit's recordings: real ones against what NeuroKit documents and annotates, and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ecg_references import with_heart_rate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_support import reference_data

from device.pipeline.rpeaks import FILTER_DELAY_S
from train.data import datasets, neurokit
from train.data.check import check_subject
from train.data.errors import DataError
from train.data.types import Floats

BIOPAC_STEP_V = 20 / 2**16
"""A BIOPAC MP150 resolves -10 to 10 V in 16 bits."""
STEPS = {
    ("bio_resting_8min_100hz", "ecg"): BIOPAC_STEP_V / 2000 * 1000,
    ("bio_resting_8min_100hz", "eda"): BIOPAC_STEP_V * 5,
    ("bio_eventrelated_100hz", "ecg"): BIOPAC_STEP_V / 2000 * 1000 / 10,
    ("bio_eventrelated_100hz", "eda"): BIOPAC_STEP_V * 5 / 10,
    ("ecg_3000hz", "ecg"): BIOPAC_STEP_V / 2000 * 1000,
    ("good_4000", "ecg"): BIOPAC_STEP_V / 2000 * 1000,
}
"""ECG100C at gain 2000 in mV, EDA100C at 5 uS/V; means of ten samples have tenths of them."""
TIME = np.arange(2000) / 100
ECG = np.sin(9 * TIME)
PHOTO = np.where(np.isin(TIME // 2, (1, 3, 5, 8)), 0.0, 5.0)
"""Low four times for 2 s, at 2, 6, 10 and 16 s."""


def table(**columns: Floats) -> str:
    """A CSV file with a header."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return ",".join(columns) + "\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)


def numbered(ecg: Floats, first: int = 100000) -> str:
    """A CSV file without one, as NeuroKit's test data."""
    return "".join(f"{first + k},{x!r}\n" for k, x in enumerate(ecg.tolist()))


def write(root: Path, name: str = "ecg_1000hz", text: str | None = None) -> Path:
    """One recording."""
    (root / f"{name}.csv").write_text(table(ECG=ECG) if text is None else text)
    return root


def test_a_recording_with_pictures(tmp_path: Path) -> None:
    text = table(ECG=ECG, EDA=4 + TIME / 100, Photosensor=PHOTO, RSP=ECG / 2, Room=TIME)
    write(tmp_path, "bio_eventrelated_100hz", text)
    write(tmp_path, "good_4000", numbered(ECG))
    (tmp_path / "good_4000_annotation.csv").write_text("ECG_P_Onsets,,2863\n")
    (tmp_path / "eog_100hz.csv").write_text(table(vEOG=ECG))
    assert datasets.find(tmp_path).name == "neurokit"
    assert neurokit.subjects(tmp_path) == ["bio_eventrelated_100hz", "good_4000"]
    (recording,) = neurokit.load(tmp_path, "bio_eventrelated_100hz")
    assert {n: (s.sfreq, s.units, s.ch_names, s.data.shape) for n, s in recording.signals.items()} == {
        "ecg": (100, "mV", ("ECG",), (2000, 1)),
        "eda": (100, "uS", ("EDA",), (2000, 1)),
        "resp": (100, "a.u.", ("RSP",), (2000, 1)),
    }
    assert np.array_equal(recording.signals["ecg"].data[:, 0], ECG)
    assert [(a.onset, a.duration, a.description) for a in recording.annotations] == [
        (2, 2, "negative picture"),
        (6, 2, "neutral picture"),
        (10, 2, "neutral picture"),
        (16, 2, "negative picture"),
    ]
    assert recording.notes == (neurokit.UNIT_KNOWN, "column 'room' is not known: left out")


def test_gaps_stay_gaps_and_an_unknown_unit_is_noted(tmp_path: Path) -> None:
    write(tmp_path, text=table(ECG=np.where(TIME < 0.1, np.nan, ECG)))
    write(tmp_path, "bad_500", numbered(ECG).replace("\n", "\r\n"))
    (recording,) = neurokit.load(tmp_path, "ecg_1000hz")
    assert np.isnan(recording.signals["ecg"].data[:10, 0]).all()
    assert recording.notes == (neurokit.UNIT_TAKEN, "ecg: 10 of 2000 samples are NaN, from 0.0 s on")
    (recording,) = neurokit.load(tmp_path, "bad_500")
    assert recording.signals["ecg"].sfreq == 500 and recording.notes == (neurokit.UNIT_TAKEN,)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ecg=st.lists(st.floats(-5, 5), min_size=2, max_size=50), with_header=st.booleans())
def test_samples_come_back_or_are_refused_by_their_swing(tmp_path: Path, ecg: list[float], with_header: bool) -> None:
    """Law: a short recording is as it was written, or swings by what no ECG does."""
    values = np.array(ecg)
    name = "ecg_1000hz" if with_header else "good_4000"
    write(tmp_path, name, table(ECG=values) if with_header else numbered(values))
    if np.ptp(values) >= 0.1:
        assert np.array_equal(neurokit.load(tmp_path, name)[0].signals["ecg"].data[:, 0], values)
    else:
        with pytest.raises(DataError, match="not in mV"):
            neurokit.load(tmp_path, name)


def test_real_recordings() -> None:
    """Rates by name, the lengths that NeuroKit documents, and no warning of affectd-train data check."""
    root = reference_data() / "neurokit"
    assert neurokit.recognise(root) and set(neurokit.subjects(root)) == set(neurokit.RECORDINGS)
    found = {}
    for name in neurokit.RECORDINGS:
        (recording,) = neurokit.load(root, name)
        assert check_subject(name, [recording]).warnings == ()
        assert recording.notes == (neurokit.UNIT_KNOWN if name in neurokit.ON_STEPS else neurokit.UNIT_TAKEN,)
        assert len({len(signal.data) for signal in recording.signals.values()}) == 1
        ecg = recording.signals["ecg"]
        found[name] = (ecg.sfreq, round(ecg.duration, 1), set(recording.signals))
    assert found == {
        "bad_500": (500, 60, {"ecg"}),
        "bio_eventrelated_100hz": (100, 150, {"ecg", "eda", "resp"}),
        "bio_resting_5min_100hz": (100, 300, {"ecg", "bvp", "resp"}),
        "bio_resting_8min_100hz": (100, 506.8, {"ecg", "eda", "resp"}),
        "ecg_1000hz": (1000, 50, {"ecg"}),
        "ecg_3000hz": (3000, 16.7, {"ecg"}),
        "good_4000": (4000, 12.5, {"ecg"}),
    }


def test_real_pictures_last_3_s_and_the_rest_8_min() -> None:
    root = reference_data() / "neurokit"
    (event,), (rest,) = (neurokit.load(root, name) for name in neurokit.SHOWN)
    assert [a.description.split()[0] for a in event.annotations] == ["negative", "neutral", "neutral", "negative"]
    assert [a.duration for a in event.annotations] == pytest.approx([3] * 4, abs=0.1)
    assert [(a.description, round(a.duration)) for a in rest.annotations] == [("rest", 480)]


@pytest.mark.parametrize("name", neurokit.RECORDINGS)
def test_samples_lie_on_the_recorders_steps_where_the_note_says_so(name: str) -> None:
    """What tells the unit: in another one the steps would be no setting of the recorder."""
    (recording,) = neurokit.load(reference_data() / "neurokit", name)
    for modality in {"ecg", "eda"} & set(recording.signals):
        step = STEPS.get((name, modality), BIOPAC_STEP_V / 2000 * 1000)
        at = recording.signals[modality].data / step
        off = np.abs(at - np.rint(at)).max()
        assert off < 0.01 if name in neurokit.ON_STEPS else off > 0.4


def test_the_devices_r_peaks_are_those_that_neurokit_annotates() -> None:
    """Each annotated QRS of good_4000, from its onset to the next offset, holds one R peak of the device."""
    root = reference_data() / "neurokit"
    ecg = neurokit.load(root, "good_4000")[0].signals["ecg"]
    lines = (root / "good_4000_annotation.csv").read_text().splitlines()
    marks = {row[0]: np.array([k for k in row[1:] if k], float) / 4000 for row in (line.split(",") for line in lines)}
    found, peaks = with_heart_rate(ecg.data[:, 0], ecg.sfreq)
    times = np.array([peak.position for peak in peaks]) * found.clock.period - FILTER_DELAY_S
    onsets, offsets = marks["ECG_R_Onsets"], marks["ECG_R_Offsets"]
    settled = onsets[(onsets > found.start * found.clock.period) & (onsets < offsets[-1])]
    beats = [(onset, offsets[offsets > onset][0]) for onset in settled]
    assert len(beats) >= 13
    assert [int(((times > on) & (times < off)).sum()) for on, off in beats] == [1] * len(beats)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ecg_1000hz", "", r"ecg_1000hz\.csv: line 1: the file is empty"),
        ("ecg_1000hz", "ECG\n", r"ecg_1000hz\.csv: line 2: ends before the first sample"),
        ("ecg_1000hz", "ECG\n0.1\n0.", r"ecg_1000hz\.csv: line 3: the file ends in the middle of a line"),
        ("ecg_1000hz", "ECG\n0.1\nx\n", r"ecg_1000hz\.csv: line 3: 'x' is not a number"),
        ("ecg_1000hz", "ECG\n0.1\ninf\n", r"ecg_1000hz\.csv: line 3: 'inf' is not a number"),
        ("ecg_1000hz", "ECG,ecg\n0.1,1\n", r"ecg_1000hz\.csv: line 1: column name 'ecg' is given twice"),
        ("ecg_1000hz", "EDA\n0.1\n", r"ecg_1000hz\.csv: line 1: has no column ECG"),
        ("ecg_1000hz", "ECG,EDA\nn/a,1\n,2\n", r"ecg_1000hz\.csv: ECG: has no samples"),
        ("ecg_1000hz", table(ECG=1000 * ECG), r"ECG: swings by 2e\+03 in 10 s, where .* usual: not in mV"),
        ("ecg_1000hz", table(ECG=ECG / 1000), r"ECG: swings by 0\.002 in 10 s"),
        ("ecg_1000hz", table(ECG=ECG, Photosensor=PHOTO), "photosensor: is low 4 times, where NeuroKit documents 0"),
        ("bio_resting_8min_100hz", table(ECG=ECG), "photosensor: is low 0 times, where NeuroKit documents 1"),
        ("good_4000", "100000,0.1\n100002,0.2\n", r"good_4000\.csv: line 2: is not the next sample's number"),
        ("good_4000", "100000,0.1\n,0.2\n", r"good_4000\.csv: line 2: is not the next sample's number"),
        ("good_4000", "x,0.1\n", r"good_4000\.csv: line 1: 'x' is not a number"),
        ("good_4000", "100000,0.1,3\n", r"good_4000\.csv: line 1: 3 columns where the header has 2"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    write(tmp_path, name, text)
    with pytest.raises(DataError, match=message) as caught:
        neurokit.load(tmp_path, name)
    assert caught.value.path.endswith(f"{name}.csv") and caught.value.remedy and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ecg_3000hz", "../ecg_1000hz", "eog_100hz"])
def test_what_is_no_recording_is_said(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    write(tmp_path, "eog_100hz", table(vEOG=ECG))
    with pytest.raises(DataError, match="is missing or none of NeuroKit's; known are bad_500, "):
        neurokit.load(tmp_path, name)
