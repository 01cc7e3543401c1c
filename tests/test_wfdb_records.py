"""The WFDB reader on real records (QT Database, MIT-BIH) against wfdb itself, and on small and broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from tests_support import reference_data

from train.data import wfdb_records
from train.data._channels import factor, kind_of
from train.data.errors import DataError


def write(root: Path, name: str, leads: dict[str, str], data: np.ndarray, fs: float = 250.0) -> None:
    """One record in format 16; ``leads``: name -> unit."""
    root.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name, fs=fs, units=list(leads.values()), sig_name=list(leads), p_signal=data, fmt=["16"] * len(leads),
        write_dir=str(root),
    )  # fmt: skip


def ecg(n: int = 500, columns: int = 1) -> np.ndarray:
    """Something with an amplitude like an ECG's."""
    return np.sin(np.arange(n * columns).reshape(n, columns) / 9)


def test_real_qtdb_records_are_what_wfdb_reads() -> None:
    root = reference_data() / "qtdb"
    names = wfdb_records.subjects(root)
    assert wfdb_records.recognise(root) and len(names) == 105
    assert names.index("sel30") < names.index("sel31") < names.index("sel100")
    for name in ("sel100", "sel14046"):
        (recording,) = wfdb_records.load(root, name)
        theirs = wfdb.rdrecord(str(root / name))
        signal = recording.signals["ecg"]
        assert (signal.sfreq, signal.units, signal.ch_names) == (250, "mV", tuple(theirs.sig_name))
        assert np.array_equal(signal.data, theirs.p_signal, equal_nan=True)
        assert list(recording.signals) == ["ecg"]
        assert any("not calibrated" in note for note in recording.notes) == (name == "sel14046")


def test_every_channel_name_of_qtdb_is_an_ecg_lead() -> None:
    root = reference_data() / "qtdb"
    leads = {lead for name in wfdb_records.subjects(root) for lead in wfdb.rdheader(str(root / name)).sig_name}
    assert {lead for lead in leads if kind_of(lead) != "ecg"} == set()


def test_a_real_mitbih_lead_written_as_a_record_comes_back(tmp_path: Path) -> None:
    with np.load(reference_data() / "mitbih_tpcp" / "100.npz") as held:
        lead, fs = held["ecg"].astype(float).ravel()[:20000], float(held["fs"])
    write(tmp_path / "mitdb", "100", {"MLII": "uV", "resp": "NU"}, np.stack([lead * 1000, lead], 1), fs)
    (recording,) = wfdb_records.load(tmp_path, "mitdb/100")
    assert recording.signals["ecg"].sfreq == 360
    np.testing.assert_allclose(recording.signals["ecg"].data[:, 0], lead, atol=1e-4)
    assert any("'resp' (NU)" in note and "left out" in note for note in recording.notes)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ecg", ["MLII", "mod.V1", "V4-V5", "aVR", "ECG lead II", "EKG1", "D3", "vx", "I", "lead V5"]),
        ("eda", ["hand GSR", "EDA_wrist", "Skin conductance", "eda"]),
        (None, ["RESP", "ABP", "EMG", "PLETH", "ECG resp", "EEG Fpz", "M1", "VI", "SEDATION", ""]),
    ],
)
def test_what_a_channel_name_stands_for(kind: str | None, names: list[str]) -> None:
    assert [kind_of(name) for name in names] == [kind] * len(names)


@pytest.mark.parametrize(
    ("modality", "expected", "units"),
    [
        ("ecg", 1, ["mV", "mv", "millivolts", " mV "]),
        ("ecg", 1e-3, ["uV", "UV", "µV", "μV", "microvolt"]),
        ("ecg", 1e3, ["V", "volt"]),
        ("ecg", 1e-6, ["nV"]),
        ("ecg", None, ["", "NU", "uS", "bpm", "mmHg"]),
        ("eda", 1, ["uS", "µS", "μS", "us", "microsiemens", "umho"]),
        ("eda", 1e-3, ["nS"]),
        ("eda", 1e3, ["mS"]),
        ("eda", 1e6, ["S"]),
        ("eda", None, ["", "kOhm", "mV"]),
    ],
)
def test_units(modality: str, expected: float | None, units: list[str]) -> None:
    assert [factor(modality, unit) for unit in units] == [expected] * len(units)


def test_eda_in_siemens_and_eda_as_a_voltage(tmp_path: Path) -> None:
    data = np.stack([ecg()[:, 0], 5 + ecg()[:, 0], ecg()[:, 0]], 1)
    write(tmp_path, "drive01", {"ECG": "mV", "EDA": "uS", "hand GSR": "mV"}, data)
    (recording,) = wfdb_records.load(tmp_path, "drive01")
    assert {n: (s.units, s.ch_names) for n, s in recording.signals.items()} == {
        "ecg": ("mV", ("ECG",)),
        "eda": ("uS", ("EDA",)),
    }
    np.testing.assert_allclose(recording.signals["eda"].data, data[:, 1:2], atol=1e-3)
    assert any("hand GSR" in note and "no conductance" in note for note in recording.notes)


def test_channels_at_several_rates_and_samples_marked_invalid(tmp_path: Path) -> None:
    data = ecg()
    data[100:110] = np.nan
    write(tmp_path, "r", {"II": "mV"}, data)
    (tmp_path / "m.hea").write_text("m 2 100 50\nm.dat 16x5 200/mV 16 0 0 0 0 ECG\nm.dat 16 100/uS 16 0 0 0 0 EDA\n")
    np.tile(np.array([0, 200, 400, 600, 800, 500], "<i2"), 50).tofile(tmp_path / "m.dat")
    (gaps,) = wfdb_records.load(tmp_path, "r")
    assert "ecg: 10 of 500 samples are NaN, from 0.4 s on" in gaps.notes
    (many,) = wfdb_records.load(tmp_path, "m")
    assert {n: (s.sfreq, s.data.shape) for n, s in many.signals.items()} == {
        "ecg": (500, (250, 1)),
        "eda": (100, (50, 1)),
    }
    assert many.signals["ecg"].data[:5, 0].tolist() == [0, 1, 2, 3, 4] and many.signals["eda"].data[0, 0] == 5


def test_segments_are_joined_and_are_no_subjects(tmp_path: Path) -> None:
    for k in (1, 2):
        write(tmp_path, f"long_{k}", {"II": "mV"}, ecg(300) * k)
    (tmp_path / "long.hea").write_text("long/2 1 250 600\nlong_1 300\nlong_2 300\n")
    assert wfdb_records.subjects(tmp_path) == ["long"]
    (recording,) = wfdb_records.load(tmp_path, "long")
    np.testing.assert_allclose(recording.signals["ecg"].data, np.concatenate([ecg(300), ecg(300) * 2]), atol=1e-3)


def test_broken_records_are_named_with_remedy(tmp_path: Path) -> None:
    assert not wfdb_records.recognise(tmp_path) and not wfdb_records.recognise(tmp_path / "none")
    with pytest.raises(DataError, match="point to an unpacked database"):
        wfdb_records.subjects(tmp_path)
    write(tmp_path, "unit", {"II": "NU"}, ecg())
    write(tmp_path, "name", {"PLETH": "mV"}, ecg())
    write(tmp_path, "cut", {"II": "mV"}, ecg())
    write(tmp_path, "gone", {"II": "mV"}, ecg())
    (tmp_path / "cut.dat").write_bytes((tmp_path / "cut.dat").read_bytes()[:300])
    (tmp_path / "gone.dat").unlink()
    (tmp_path / "text.hea").write_text("not a header at all\n")
    (tmp_path / "empty.hea").write_text("")
    (tmp_path / "rate.hea").write_text("rate 1 0 500\nunit.dat 16 200/mV 16 0 0 0 0 II\n")
    messages = {
        "unit": "channel 'II': unit 'NU' is not known.*write the true unit into the header",
        "name": r"no channel is ECG in volts.*'PLETH' \(mV\)",
        "cut": "cannot be read as WFDB",
        "gone": "cannot be read as WFDB",
        "text": "cannot be read as WFDB",
        "empty": "cannot be read as WFDB",
        "rate": "rate 0 Hz|cannot be read as WFDB",
        "absent": "is missing; see the list",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=message) as caught:
            wfdb_records.load(tmp_path, name)
        assert caught.value.path.endswith(f"{name}.hea") and caught.value.remedy and "\n" not in str(caught.value)
