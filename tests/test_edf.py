"""The EDF reader on files that edfio writes, with the header's own bytes changed where a writer would not do it."""

from __future__ import annotations

from pathlib import Path

import edfio
import numpy as np
import pytest

from train.data import edf
from train.data.errors import DataError

ECG = np.sin(np.arange(2600) / 9)
EDA = 4 + np.sin(np.arange(80) / 9)


def channel(data: np.ndarray, rate: float, label: str, unit: str, scale: float = 1.0) -> edfio.EdfSignal:
    """One channel with a physical range that leaves no rounding to speak of."""
    span = (float(data.min() * scale) - 0.1, float(data.max() * scale) + 0.1)
    return edfio.EdfSignal(data * scale, rate, label=label, physical_dimension=unit, physical_range=span)


def write(path: Path, *channels: edfio.EdfSignal, notes: tuple[tuple[float, float | None, str], ...] = ()) -> Path:
    """One file; EDF+ where it has annotations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [edfio.EdfAnnotation(*note) for note in notes]
    edfio.Edf(channels, annotations=made or None).write(path)
    return path


def test_units_rates_and_annotations(tmp_path: Path) -> None:
    write(
        tmp_path / "p2" / "night.edf", channel(ECG, 130, "ECG I", "uV", 1000), channel(EDA, 4, "EDA", "uS"),
        channel(ECG, 130, "Nasal flow", "L/s"), notes=((2.0, 5.0, "baseline"), (8.0, None, "tag")),
    )  # fmt: skip
    (recording,) = edf.load(tmp_path, "p2/night")
    assert {n: (s.sfreq, s.units, s.ch_names, s.data.shape) for n, s in recording.signals.items()} == {
        "ecg": (130, "mV", ("ECG I",), (2600, 1)),
        "eda": (4, "uS", ("EDA",), (80, 1)),
    }
    np.testing.assert_allclose(recording.signals["ecg"].data[:, 0], ECG, atol=1e-3)
    np.testing.assert_allclose(recording.signals["eda"].data[:, 0], EDA, atol=1e-3)
    assert [(a.onset, a.duration, a.description) for a in recording.annotations] == [(2, 5, "baseline"), (8, 0, "tag")]
    assert any("'Nasal flow' (L/s)" in note for note in recording.notes)


def test_the_same_signal_in_every_unit(tmp_path: Path) -> None:
    for unit, scale in (("mV", 1), ("uV", 1000), ("V", 0.001), ("nV", 1e6)):
        signal = edfio.EdfSignal(ECG * scale, 130, label="ECG", physical_dimension=unit)
        (recording,) = edf.load(tmp_path, write(tmp_path / f"{unit}.edf", signal).stem)
        np.testing.assert_allclose(recording.signals["ecg"].data[:, 0], ECG, atol=1e-3)


def test_subjects_are_files_in_natural_order(tmp_path: Path) -> None:
    assert not edf.recognise(tmp_path)
    with pytest.raises(DataError, match=r"holds no \.edf"):
        edf.subjects(tmp_path)
    for name in ("S10.edf", "S2.EDF", "sub/S1.edf"):
        write(tmp_path / name, channel(ECG, 130, "ECG", "mV"))
    assert edf.recognise(tmp_path) and edf.subjects(tmp_path) == ["S2", "S10", "sub/S1"]
    with pytest.raises(DataError, match="no such file"):
        edf.load(tmp_path, "S3")


def test_an_annotation_that_overhangs_is_cut_and_one_outside_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.edf", channel(ECG, 130, "ECG", "mV"), notes=((10.0, 10.5, "rest"),))
    (recording,) = edf.load(tmp_path, "a")
    assert recording.annotations[0].stop == 20
    write(tmp_path / "a.edf", channel(ECG, 130, "ECG", "mV"), notes=((10.0, 5.0, "rest"), (15.0, 60.0, "stress")))
    with pytest.raises(
        DataError, match=r"annotation 2: 'stress' at 15 .. 75 s: labels outside the recording \(0 .. 20 s\)"
    ):
        edf.load(tmp_path, "a")


@pytest.mark.parametrize(
    ("label", "unit", "message"),
    [
        ("ECG", "", "channel 'ECG': unit '' is not known"),
        ("ECG", "bpm", "channel 'ECG': unit 'bpm' is not known"),
        ("GSR", "kOhm", r"channel 'GSR': unit 'kOhm' is not known \(nS, uS, mS, S\)"),
        ("GSR", "mV", r"no channel is ECG in volts or EDA in siemens; there is 'GSR' \(mV\)"),
        ("channel 1", "mV", r"there is 'channel 1' \(mV\)"),
    ],
)
def test_unknown_units_and_names_are_refused(tmp_path: Path, label: str, unit: str, message: str) -> None:
    path = write(tmp_path / "a.edf", channel(ECG, 130, label, unit))
    with pytest.raises(DataError, match=message) as caught:
        edf.load(tmp_path, "a")
    assert caught.value.path == str(path) and caught.value.remedy


def test_broken_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.edf", channel(ECG, 130, "ECG", "mV"))
    whole = path.read_bytes()
    for content in (
        b"",
        b"no EDF",
        whole[:300],
        whole[:-100],
        whole[: -260 * 2],
        whole.replace(b"2600", b"26x0").replace(b"130 ", b"1x0 "),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as EDF") as caught:
            edf.load(tmp_path, "a")
        assert "\n" not in str(caught.value)


def test_a_file_with_gaps_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.edf", channel(ECG, 130, "ECG", "mV"), notes=((1.0, None, "tag"),))
    content = path.read_bytes()
    assert content.count(b"+10\x14\x14") == 1
    path.write_bytes(content.replace(b"EDF+C", b"EDF+D").replace(b"+10\x14\x14", b"+99\x14\x14"))
    with pytest.raises(DataError, match="has gaps"):
        edf.load(tmp_path, "a")


def test_bdf(tmp_path: Path) -> None:
    signal = edfio.BdfSignal(ECG * 1000, 130, label="ECG", physical_dimension="uV")
    edfio.Bdf([signal]).write(tmp_path / "a.bdf")
    (recording,) = edf.load(tmp_path, "a")
    np.testing.assert_allclose(recording.signals["ecg"].data[:, 0], ECG, atol=1e-5)
