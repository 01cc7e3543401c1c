"""The annotated ECG records at hand, brought through the device's own path, and how detections are scored against them.

Which annotations are references: MIT-BIH's beat labels and QTDB's ``atr`` cover whole records. The 23 records of QTDB
without ``atr`` (sel30-sel52, sudden death and controls) have only ``man``, some 30 to 50 chosen beats that were checked
by hand; detections count there only between annotated beats that follow one another. QTDB's ``pu*`` come from another
program and are no reference. Annotations of the ESC ST-T records (``sele*``) sit at the QRS onset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import wfdb
from tests_support import reference_data

from device.pipeline.filters import EcgFilter
from device.pipeline.resample import Resampler
from device.pipeline.rpeaks import FILTER_DELAY_S, HeartRate, RPeak
from device.pipeline.spec import default_spec
from device.pipeline.types import Chunk, Clock

Floats = npt.NDArray[np.float64]
SPEC = default_spec().ecg
SFREQ = SPEC.sfreq
TOLERANCE_S = 0.075
BEAT_SYMBOLS = frozenset("NLRBAaJSVrFejnE/fQ?")
"""WFDB codes that mark a beat; the rest mark waves, rhythm, noise."""


@dataclass(frozen=True)
class EcgRecord:
    """One lead of one record with its reference."""

    name: str
    lead: int
    beats: Floats
    """Annotated beats, s."""
    complete: bool
    """Whether every beat of the record is annotated."""
    data: Floats
    """(n_times, 2) ecg mV, hr 1/min at SFREQ; sample 0 is at ``start``."""
    start: float
    """Time of data[0], s."""
    peaks: Floats
    """Detected R peaks, s, without the filter's delay."""


def chunk(x: Floats, sfreq: float, start: int = 0) -> Chunk:
    """One channel as one chunk on an ideal clock."""
    return Chunk("ecg", start, np.asarray(x, float)[:, None], np.ones(len(x), bool), Clock(0, 0.0, 1.0 / sfreq))


def clean(x: Floats, sfreq: float) -> Chunk:
    """Raw ECG, (n_times,) in mV, through the device's filter and resampler."""
    (out,) = Resampler("ecg", SFREQ, n_chans=1).push(EcgFilter(SPEC, sfreq).push(chunk(x, sfreq)))
    return out


def with_heart_rate(x: Floats, sfreq: float) -> tuple[Chunk, list[RPeak]]:
    """Raw ECG to (ecg, hr) and the R peaks."""
    stage = HeartRate(SFREQ)
    out = stage.push(clean(x, sfreq))
    peaks = list(stage.peaks)
    out += stage.flush()
    data, valid = np.concatenate([c.data for c in out]), np.concatenate([c.valid for c in out])
    return Chunk("ecg", out[0].start, data, valid, out[0].clock), peaks + list(stage.peaks)


def _raw() -> Iterator[tuple[str, Floats, float, Floats, bool]]:
    """Name, (n_times, n_leads) mV, Hz, annotated beats in s, whether they are complete."""
    root = reference_data()
    for path in sorted((root / "mitbih_tpcp").glob("*.npz")):
        with np.load(path) as file:
            x, sfreq = file["ecg"].astype(float)[:, None], float(file["fs"])
        labels = np.loadtxt(path.with_name(f"{path.stem}_all.csv"), delimiter=",", skiprows=1, usecols=1)
        yield f"mitdb/{path.stem}", x, sfreq, labels / sfreq, True
    for name in (root / "qtdb" / "RECORDS").read_text().split():
        base = root / "qtdb" / name
        complete = base.with_suffix(".atr").exists()
        record = wfdb.rdrecord(str(base))
        marks = wfdb.rdann(str(base), "atr" if complete else "man")
        beats = [s for s, symbol in zip(marks.sample, marks.symbol, strict=True) if symbol in BEAT_SYMBOLS]
        yield f"qtdb/{name}", record.p_signal, float(record.fs), np.array(beats) / record.fs, complete


@cache
def records(lead: int) -> tuple[EcgRecord, ...]:
    """One lead of every record that has it."""
    out = []
    for name, x, sfreq, beats, complete in _raw():
        if lead < x.shape[1]:
            ecg, peaks = with_heart_rate(x[:, lead], sfreq)
            times = np.array([peak.position for peak in peaks]) / SFREQ - FILTER_DELAY_S
            out.append(EcgRecord(name, lead, beats, complete, ecg.data, ecg.start / SFREQ, times))
    return tuple(out)


def score(record: EcgRecord) -> tuple[int, int, int]:
    """True positives, missed beats, false detections, each beat and each detection used once."""
    stop = record.start + len(record.data) / SFREQ
    beats = record.beats[(record.beats >= record.start) & (record.beats < stop)]
    peaks = record.peaks if record.complete else record.peaks[_within(record.peaks, beats)]
    hits = _matches(beats, peaks)
    return hits, len(beats) - hits, len(peaks) - hits


def _within(peaks: Floats, beats: Floats) -> npt.NDArray[np.bool_]:
    """Which peaks lie near an annotated beat or between two that follow one another (within 1.5 usual gaps)."""
    gaps = np.diff(beats)
    follow = gaps < 1.5 * np.median(gaps)
    before = np.searchsorted(beats, peaks) - 1
    between = (before >= 0) & (before < len(follow))
    between[between] = follow[before[between]]
    near = np.abs(peaks[:, None] - beats[None, :]).min(axis=1) <= TOLERANCE_S
    return np.asarray(between | near)


def _matches(beats: Floats, peaks: Floats) -> int:
    """Number of pairs within the tolerance, in order of time."""
    i = j = hits = 0
    while i < len(beats) and j < len(peaks):
        apart = peaks[j] - beats[i]
        hit = abs(apart) <= TOLERANCE_S
        hits += hit
        i, j = i + (hit or apart > 0), j + (hit or apart < 0)
    return hits


def rates(counts: tuple[int, int, int]) -> tuple[float, float]:
    """Sensitivity, precision."""
    hits, missed, false = counts
    return hits / max(1, hits + missed), hits / max(1, hits + false)


def pooled(scores: dict[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    """Counts over all records."""
    hits, missed, false = (sum(counts) for counts in zip(*scores.values(), strict=True))
    return hits, missed, false


def main() -> None:
    """Print the scores of both leads: ``PYTHONPATH=. python tests/ecg_references.py``."""
    for lead in (0, 1):
        scores = {record.name: score(record) for record in records(lead)}
        for name, counts in {**scores, "all": pooled(scores)}.items():
            sensitivity, precision = rates(counts)
            if name == "all" or min(sensitivity, precision) < 0.99:
                print(f"lead {lead}  {name:16s} sensitivity {sensitivity:.4f}  precision {precision:.4f}  {counts}")


if __name__ == "__main__":
    main()
