"""Reader of RECOLA (Ringeval et al. 2013, FG workshops): ECG and EDA with ratings of arousal and valence over time.

Knows nothing of windows or networks. Nobody of this project has the data (a signed agreement is needed); the tests
write files in the published layout.

Layout: ``RECOLA-Biosignals-recordings/P16.csv``: columns ``time``, ``ECG``, ``EDA``, ``;`` between them, names with
trailing blanks, 1 kHz, 5 minutes. ``RECOLA-Annotation/emotional_behaviour/arousal/P16.csv`` (and ``valence``):
``time;FM1 ;FM2 ;FM3 ;FF1 ;FF2 ;FF3``, six raters, -1 to 1, every 40 ms. Not everybody has both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data._checks import MAX_OVERHANG_S, gap_notes
from train.data._tables import header, natural, numbers, read_lines
from train.data.errors import DataError
from train.data.types import Floats, Recording, Signal

NAME = "recola"
TITLE = "RECOLA: remote collaborative and affective interactions"
LICENCE = "signed agreement, academic use only"
URL = "https://diuf.unifr.ch/main/diva/recola/"

SIGNALS = Path("RECOLA-Biosignals-recordings")
RATINGS = Path("RECOLA-Annotation", "emotional_behaviour")
RATE_HZ = 1000.0
RATING_HZ = 25.0
DIMENSIONS = ("arousal", "valence")
RATERS = ("FM1", "FM2", "FM3", "FF1", "FF2", "FF3")
UNITS = {"ECG": ("ecg", "mV"), "EDA": ("eda", "uS")}
MAX_RATE_ERROR = 0.01
MAX_JITTER_S = 0.02
"""Printed times are rounded to 10 ms at the coarsest."""
REMEDY = "get the file again from the data set"


def recognise(root: Path) -> bool:
    """Whether the folder of biosignals is there."""
    return (root / SIGNALS).is_dir()


def subjects(root: Path) -> list[str]:
    """P16, P17, ...: those with biosignals."""
    found = natural(path.stem for path in (root / SIGNALS).glob("P*.csv"))
    if not found:
        raise DataError(str(root / SIGNALS), "folder", "holds no P16.csv", "point to the data set's top folder")
    return found


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording: ``ecg`` (mV), ``eda`` (uS), ``arousal`` and ``valence`` (n_times, 6 raters) where rated."""
    signals, notes = _biosignals(root / SIGNALS / f"{subject}.csv")
    stop = max(signal.stop for signal in signals.values())
    for dimension in DIMENSIONS:
        path = root / RATINGS / dimension / f"{subject}.csv"
        if path.is_file():
            signals[dimension] = _ratings(path, stop)
        else:
            notes.append(f"{dimension}: no ratings of this person")
    return [Recording(NAME, subject, subject, signals, (), (*notes, *gap_notes(signals)))]


def _biosignals(path: Path) -> tuple[dict[str, Signal], list[str]]:
    """ECG and EDA, whichever columns are there."""
    columns, data = _timed(path, RATE_HZ)
    start = float(data[0, 0])
    signals, notes = {}, ["units are not in the file: ecg taken as mV, eda as uS"]
    for column, (modality, units) in UNITS.items():
        if column in columns:
            signals[modality] = Signal(data[:, [columns.index(column)]], RATE_HZ, units, (modality,), start)
        else:
            notes.append(f"{modality}: no column {column}")
    if not signals:
        raise DataError(str(path), "line 1", f"neither ECG nor EDA in {columns}", REMEDY)
    return signals, notes


def _ratings(path: Path, stop: float) -> Signal:
    """(n_times, 6) of one dimension, within the recording that ends at ``stop`` s."""
    columns, data = _timed(path, RATING_HZ)
    if missing := [rater for rater in RATERS if rater not in columns]:
        raise DataError(str(path), "line 1", f"no column of rater {missing[0]}", REMEDY)
    values = data[:, [columns.index(rater) for rater in RATERS]]
    bad = np.flatnonzero((np.abs(values) > 1).any(axis=1))
    if len(bad):
        raise DataError(str(path), f"line {bad[0] + 2}", "a rating is outside -1 .. 1", REMEDY)
    late = np.flatnonzero((data[:, 0] >= stop + MAX_OVERHANG_S) | (data[:, 0] <= -MAX_OVERHANG_S))
    if len(late):
        reason = f"{data[late[0], 0]:g} s: labels outside the recording (0 .. {stop:g} s)"
        raise DataError(str(path), f"line {late[0] + 2}", reason, REMEDY)
    return Signal(values, RATING_HZ, "1", RATERS, float(data[0, 0]))


def _timed(path: Path, rate: float) -> tuple[list[str], Floats]:
    """(column names, table) of a file whose first column is the time at a steady rate."""
    lines = read_lines(path, REMEDY)
    columns = header(path, lines, ";", REMEDY)
    if columns[0] != "time":
        raise DataError(str(path), "line 1", f"first column is {columns[0]!r}, not 'time'", REMEDY)
    data = numbers(path, lines, len(columns), ";", REMEDY)
    _check_time(path, data[:, 0], rate)
    return columns, data


def _check_time(path: Path, times: Floats, rate: float) -> None:
    """The times run at the published rate without a jump."""
    missing = np.flatnonzero(np.isnan(times))
    if len(missing):
        raise DataError(str(path), f"line {missing[0] + 2}", "has no time", REMEDY)
    if len(times) < 2:
        raise DataError(str(path), "line 2", "is the only sample", REMEDY)
    off = np.flatnonzero(np.abs(times - times[0] - np.arange(len(times)) / rate) > MAX_JITTER_S)
    if not len(off):
        return
    seen = 1 / max(float(np.median(np.diff(times))), 1e-9)
    if abs(seen / rate - 1) > MAX_RATE_ERROR and np.ptp(np.diff(times)) < MAX_JITTER_S:
        raise DataError(str(path), "column time", f"runs at {seen:g} Hz, published is {rate:g} Hz", REMEDY)
    at = int(off[0])
    raise DataError(str(path), f"line {at + 2}", f"time jumps from {times[at - 1]:g} to {times[at]:g} s", REMEDY)
