"""The reader of tpcp's MIT-BIH records: real ones against wfdb's QTDB, the device's R peaks and laws; broken ones."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from ecg_references import EcgRecord, rates, score, with_heart_rate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.signal import correlate, resample_poly
from tests_support import reference_data

from device.pipeline.rpeaks import FILTER_DELAY_S
from train.data import datasets, mitbih_tpcp
from train.data.errors import DataError

RECORDS = ["100", "102", "104", "105", "106", "108", "114", "116", "119", "121", "123", "200"]
ECG = np.sin(np.arange(720) / 9).astype(np.float32)


def positions(column: str, *samples: object) -> str:
    """A table of beats as pandas writes it."""
    return f",{column}\n" + "".join(f"{row},{sample}\n" for row, sample in enumerate(samples))


def write(root: Path, record: str = "100", **changes: Any) -> Path:
    """One small record in the published layout; ``all``, ``pvc`` are files, the rest goes into the npz."""
    root.mkdir(parents=True, exist_ok=True)
    tables = {"all": positions("R", 77, 370, 662), "pvc": positions("PVC", 370)}
    for name, text in tables.items():
        (root / f"{record}_{name}.csv").write_text(changes.pop(name, text))
    held = {"ecg": ECG, "fs": 360} | changes
    np.savez_compressed(root / f"{record}.npz", **{name: value for name, value in held.items() if value is not None})
    return root


def test_a_whole_record(tmp_path: Path) -> None:
    write(tmp_path, "102")
    write(tmp_path, "201", ecg=np.where(np.arange(720) < 36, np.float32("nan"), ECG))
    assert datasets.find(tmp_path).name == "mitbih-tpcp"
    assert mitbih_tpcp.subjects(tmp_path) == ["102", "201"]
    (recording,) = mitbih_tpcp.load(tmp_path, "102")
    signal = recording.signals["ecg"]
    assert (recording.dataset, recording.subject, recording.session) == ("mitbih-tpcp", "102", "102")
    assert (signal.sfreq, signal.units, signal.ch_names) == (360, "mV", ("V5",))
    assert np.array_equal(signal.data[:, 0], ECG)
    assert recording.annotations == () and recording.notes == ()
    (recording,) = mitbih_tpcp.load(tmp_path, "201")
    assert recording.signals["ecg"].ch_names == ("MLII",)
    assert recording.notes == ("201 and 202 are of one person", "ecg: 36 of 720 samples are NaN, from 0.0 s on")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(beats=st.sets(st.integers(0, 719)), sfreq=st.integers(1, 2000), premature=st.sets(st.integers(0, 719)))
def test_beats_come_back_in_seconds(tmp_path: Path, beats: set[int], sfreq: int, premature: set[int]) -> None:
    """Law: what was written, over the rate, each marked as premature or not."""
    pvc = sorted(beats & premature)
    root = write(tmp_path, all=positions("R", *sorted(beats)), pvc=positions("PVC", *pvc), fs=sfreq)
    r_peaks_s, is_pvc = mitbih_tpcp.beats(root, "100")
    np.testing.assert_allclose(r_peaks_s * sfreq, sorted(beats))
    assert is_pvc.dtype == bool and [sample in premature for sample in sorted(beats)] == is_pvc.tolist()


def test_real_records() -> None:
    """Twelve leads of 30 min in the database's 200 steps per mV, and as many beats and PVCs as it lists."""
    root = reference_data() / "mitbih_tpcp"
    assert mitbih_tpcp.recognise(root) and mitbih_tpcp.subjects(root) == RECORDS
    leads, counts = {}, {}
    for name in RECORDS:
        (recording,) = mitbih_tpcp.load(root, name)
        ecg = recording.signals["ecg"]
        assert (ecg.sfreq, len(ecg.data), recording.notes) == (360, 650000, ())
        assert np.abs(ecg.data * 200 - np.rint(ecg.data * 200)).max() < 1e-3
        r_peaks_s, is_pvc = mitbih_tpcp.beats(root, name)
        assert r_peaks_s[-1] < ecg.stop
        leads[name], counts[name] = ecg.ch_names[0], (len(r_peaks_s), int(is_pvc.sum()))
    assert [name for name in RECORDS if leads[name] == "V5"] == ["102", "104", "114"]
    assert (counts["100"], counts["119"], counts["200"]) == ((2273, 1), (1987, 444), (2601, 826))


@pytest.mark.parametrize("name", ["100", "102", "104", "114", "116", "123"])
def test_real_leads_are_those_that_qtdb_names(name: str) -> None:
    """QTDB holds stretches of these records, at 250 Hz and with the lead's name: same lead, same mV."""
    root = reference_data()
    ecg = mitbih_tpcp.load(root / "mitbih_tpcp", name)[0].signals["ecg"]
    theirs = wfdb.rdrecord(str(root / "qtdb" / f"sel{name}"), sampto=20000)
    whole = resample_poly(ecg.data[:, 0], 25, 36)
    lead = theirs.p_signal[:, theirs.sig_name.index(ecg.ch_names[0])]
    at = int(np.argmax(correlate(whole - whole.mean(), lead - lead.mean(), mode="valid", method="fft")))
    ours = whole[at : at + len(lead)]
    assert np.corrcoef(ours, lead)[0, 1] > 0.98
    assert np.std(ours) / np.std(lead) == pytest.approx(1, abs=0.02)


def test_the_devices_r_peaks_are_the_listed_beats() -> None:
    root = reference_data() / "mitbih_tpcp"
    ecg = mitbih_tpcp.load(root, "100")[0].signals["ecg"]
    found, peaks = with_heart_rate(ecg.data[:, 0], ecg.sfreq)
    sfreq = 1 / found.clock.period
    times = np.array([peak.position for peak in peaks]) / sfreq - FILTER_DELAY_S
    r_peaks_s, _ = mitbih_tpcp.beats(root, "100")
    assert min(rates(score(EcgRecord("100", 0, r_peaks_s, True, found.data, found.start / sfreq, times)))) >= 0.999


def test_listed_beats_are_extrema_of_the_ecg() -> None:
    """Within 100 ms of a beat the ECG is as far from its usual value as anywhere within 250 ms."""
    root = reference_data() / "mitbih_tpcp"
    ecg = mitbih_tpcp.load(root, "100")[0].signals["ecg"]
    height = np.abs(ecg.data[:, 0] - np.median(ecg.data))
    r_peaks_s, _ = mitbih_tpcp.beats(root, "100")
    at = np.rint(r_peaks_s[1:-1] * ecg.sfreq).astype(int)
    near, wide = (height[at[:, None] + np.arange(-reach, reach + 1)].max(axis=1) for reach in (36, 90))
    assert np.mean(near == wide) >= 0.99


def test_premature_beats_are_premature() -> None:
    """A PVC comes sooner after the beat before it than other beats do, in every record with enough of them."""
    root = reference_data() / "mitbih_tpcp"
    for name in ("105", "106", "114", "116", "119", "200"):
        r_peaks_s, is_pvc = mitbih_tpcp.beats(root, name)
        gaps = np.diff(r_peaks_s)
        assert np.median(gaps[is_pvc[1:]]) < 0.9 * np.median(gaps[~is_pvc[1:]]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ecg": None}, r"100\.npz: file: cannot be read as npz with ecg and fs \(.*ecg"),
        ({"fs": None}, r"100\.npz: file: cannot be read as npz with ecg and fs \(.*fs"),
        ({"ecg": np.array([0.1, None])}, r"100\.npz: file: cannot be read .*allow_pickle"),
        ({"ecg": ECG[:, None]}, r"100\.npz: ecg: float32 of shape \(720, 1\), not real numbers of \(n_times,\)"),
        ({"ecg": np.arange(9)}, r"100\.npz: ecg: int64 of shape \(9,\)"),
        ({"ecg": ECG[:0]}, r"100\.npz: ecg: float32 of shape \(0,\)"),
        ({"ecg": np.where(np.arange(720) == 7, np.float32("inf"), ECG)}, r"100\.npz: ecg, sample 7: is infinite"),
        ({"fs": 0}, r"100\.npz: fs: '0' is not one rate in Hz"),
        ({"fs": np.nan}, r"100\.npz: fs: 'nan' is not one rate"),
        ({"fs": [360, 360]}, r"100\.npz: fs: '\[360 360\]' is not one rate"),
        ({"fs": "360"}, r"100\.npz: fs: '360' is not one rate"),
    ],
)
def test_a_foreign_npz_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        mitbih_tpcp.load(tmp_path, "100")
    assert caught.value.remedy and "\n" not in str(caught.value)


def test_a_broken_npz_is_named(tmp_path: Path) -> None:
    path = write(tmp_path) / "100.npz"
    whole = path.read_bytes()
    damaged = whole[:100] + bytes(50) + whole[150:]
    for broken in (b"", b"no", whole[:-40], whole[:200], damaged, b"\x80\x04K\x01."):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"100\.npz: file: cannot be read as npz"):
            mitbih_tpcp.load(tmp_path, "100")
    with path.open("wb") as file:
        np.save(file, ECG)
    with pytest.raises(DataError, match="cannot be read as npz"):
        mitbih_tpcp.load(tmp_path, "100")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ecg.npy", b"text")
        archive.writestr("fs.npy", b"360")
    with pytest.raises(DataError, match=r"100\.npz: ecg: \|S4 of shape \(\)"):
        mitbih_tpcp.load(tmp_path, "100")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"all": ""}, r"100_all\.csv: line 1: the file is empty"),
        ({"all": positions("R", 77)[:-1]}, r"100_all\.csv: line 2: the file ends in the middle of a line"),
        ({"all": positions("PVC", 77)}, r"100_all\.csv: line 1: is ',PVC', not ',R'"),
        ({"all": positions("R", 77, "x")}, r"100_all\.csv: line 3: 'x' is not a number"),
        ({"all": positions("R", 77, "")}, r"100_all\.csv: line 3: nan does not follow as a sample of 720"),
        ({"all": positions("R", 77.5)}, r"100_all\.csv: line 2: 77\.5 does not follow"),
        ({"all": positions("R", -1)}, r"100_all\.csv: line 2: -1 does not follow"),
        ({"all": positions("R", 77, 77)}, r"100_all\.csv: line 3: 77 does not follow"),
        ({"all": positions("R", 77, 720)}, r"100_all\.csv: line 3: 720 does not follow as a sample of 720"),
        ({"all": ",R\n0,77,1\n"}, r"100_all\.csv: line 2: 3 columns where the header has 2"),
        ({"pvc": positions("PVC", 371)}, r"100_pvc\.csv: PVC at sample 371: is not among the beats of 100_all\.csv"),
    ],
)
def test_broken_beats_are_named_and_keep_nobody_from_the_ecg(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        mitbih_tpcp.beats(tmp_path, "100")
    assert caught.value.remedy
    assert len(mitbih_tpcp.load(tmp_path, "100")) == 1


def test_pickles_are_recognised_and_explained(tmp_path: Path) -> None:
    (tmp_path / "100.pk.gz").write_bytes(b"")
    (tmp_path / "100_all.csv").write_text(positions("R", 77))
    assert datasets.find(tmp_path).name == "mitbih-tpcp"
    with pytest.raises(DataError, match=r"holds pickles \(100\.pk\.gz\), which are not read") as caught:
        mitbih_tpcp.subjects(tmp_path)
    assert "docs/DATA.md" in caught.value.remedy


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "100.npz", ecg=ECG, fs=360)
    assert not mitbih_tpcp.recognise(tmp_path), "an npz with a number for a name may be anybody's"
    with pytest.raises(DataError, match=r"101\.npz: file: is missing; see the list"):
        mitbih_tpcp.load(tmp_path, "101")
    with pytest.raises(DataError, match=r"100_all\.csv: file: cannot be read \(No such file"):
        mitbih_tpcp.beats(tmp_path, "100")
