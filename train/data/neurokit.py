"""Reader of the example recordings of NeuroKit2 (Makowski et al. 2021, Behavior Research Methods 53:1689; MIT).

Knows nothing of windows or networks.

Layout: the CSV files of NeuroKit's ``data/`` and ``tests/ecg_data/`` as they are, in one folder; RECORDINGS are those
with an ECG. The rate stands in a file's name. A header names the columns, but for NUMBERED, which have a sample's
number and the ECG (so NeuroKit's own tests read them). ``neurokit2.data`` documents what was recorded, and SHOWN after
it: in both files with a photosensor it is low while a picture is shown, or while the rest lasts. None of the files is
documented as simulated. ``bio_resting_8min_200hz.json`` (four people) is not read.

What is not documented, and what was taken:

- Units. NeuroKit states none. ECG is taken as mV and EDA as uS. For ON_STEPS more is known: their samples lie on the
  steps of a BIOPAC MP150 (16 bits over -10 to 10 V) behind its ECG100C at gain 2000, one of the four that it has, in
  mV, and its EDA100C at 5 uS/V; those of ``bio_eventrelated_100hz`` on tenths of them, as means of ten samples do. The
  other three show no steps (they are resampled or filtered), and their notes say that the amplitude is not calibrated.
  An ECG whose amplitude cannot be in mV is refused.
- People. Each file is a subject of its own, but several may be of one person: keep them on one side of a split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data._checks import gap_notes
from train.data._tables import header, natural, numbers, read_lines
from train.data.check import ECG_SWING_MV, PIECE_S, typical_swing
from train.data.errors import DataError
from train.data.types import Annotation, Floats, Recording, Signal

Bools = npt.NDArray[np.bool_]

NAME = "neurokit"
TITLE = "NeuroKit2's example recordings (Makowski et al. 2021)"
LICENCE = "MIT"
URL = "https://github.com/neuropsychology/NeuroKit/tree/master/data"

RECORDINGS = (
    "bad_500",
    "bio_eventrelated_100hz",
    "bio_resting_5min_100hz",
    "bio_resting_8min_100hz",
    "ecg_1000hz",
    "ecg_3000hz",
    "good_4000",
)
NUMBERED = ("bad_500", "good_4000")
"""Without a header: sample number, ECG."""
ON_STEPS = ("bio_eventrelated_100hz", "bio_resting_8min_100hz", "ecg_3000hz", "good_4000")
"""Whose samples show the recorder's resolution, and with it the unit."""
SIGNALS = {"ecg": ("ecg", "mV"), "eda": ("eda", "uS"), "ppg": ("bvp", "a.u."), "rsp": ("resp", "a.u.")}
"""Column in lower case -> modality and unit taken."""
PHOTOSENSOR = "photosensor"
PHOTO_LOW_V = 2.5
"""Half of what the photosensor gives in light."""
SHOWN = {
    "bio_eventrelated_100hz": ("negative picture", "neutral picture", "neutral picture", "negative picture"),
    "bio_resting_8min_100hz": ("rest",),
}
"""What each stretch with a low photosensor is, in order."""
UNIT_KNOWN = "NeuroKit states no unit; mV was taken (uS for EDA), which the steps of the samples bear out"
UNIT_TAKEN = "ecg: amplitude is not calibrated (NeuroKit states no unit; mV was taken)"
REMEDY = "get the file again from NeuroKit's repository"


def recognise(root: Path) -> bool:
    """Whether one of the recordings is there, by name."""
    return any(_path(root, name).is_file() for name in RECORDINGS)


def subjects(root: Path) -> list[str]:
    """The recordings on disk, by file name without suffix."""
    found = natural(name for name in RECORDINGS if _path(root, name).is_file())
    if not found:
        reason = f"holds none of {', '.join(f'{name}.csv' for name in RECORDINGS)}"
        raise DataError(str(root), "folder", reason, "point to the folder of the CSV files")
    return found


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording: ``ecg`` (mV), and where recorded ``eda`` (uS), ``bvp``, ``resp``, pictures or rest."""
    path = _path(root, subject)
    if subject not in RECORDINGS or not path.is_file():
        raise DataError(str(path), "file", "is missing or none of NeuroKit's", f"known are {', '.join(RECORDINGS)}")
    columns = _numbered(path) if subject in NUMBERED else _headed(path)
    sfreq = _sfreq(subject)
    made = {SIGNALS[name][0]: _signal(name, columns[name], sfreq) for name in SIGNALS if name in columns}
    _refuse_other_amplitude(path, made.get("ecg"))
    low = columns.get(PHOTOSENSOR, np.empty(0)) < PHOTO_LOW_V
    annotations = _annotations(path, low, SHOWN.get(subject, ()), sfreq)
    left_out = [f"column {name!r} is not known: left out" for name in columns if name not in (*SIGNALS, PHOTOSENSOR)]
    unit = UNIT_KNOWN if subject in ON_STEPS else UNIT_TAKEN
    return [Recording(NAME, subject, subject, made, annotations, (unit, *left_out, *gap_notes(made)))]


def _path(root: Path, name: str) -> Path:
    return root / f"{name}.csv"


def _sfreq(name: str) -> float:
    """Hz, as the end of a recording's name says."""
    return float(re.findall(r"_(\d+)(?:hz)?$", name)[0])


def _headed(path: Path) -> dict[str, Floats]:
    """Name in lower case -> column, (n_times,)."""
    lines = read_lines(path, REMEDY)
    names = header(path, [lines[0].lower()], ",", REMEDY)
    return dict(zip(names, numbers(path, lines, len(names), ",", REMEDY).T, strict=True))


def _numbered(path: Path) -> dict[str, Floats]:
    """The same of a file without a header, its samples' numbers checked and taken off."""
    numbered, ecg = numbers(path, read_lines(path, REMEDY), 2, ",", REMEDY, first=1).T
    out_of_turn = np.flatnonzero(np.diff(numbered) != 1)
    if len(out_of_turn):
        raise DataError(str(path), f"line {out_of_turn[0] + 2}", "is not the next sample's number", REMEDY)
    return {"ecg": ecg}


def _signal(name: str, column: Floats, sfreq: float) -> Signal:
    return Signal(column[:, None], sfreq, SIGNALS[name][1], (name.upper(),))


def _refuse_other_amplitude(path: Path, ecg: Signal | None) -> None:
    """DataError where there is no ECG, or it cannot be in mV."""
    if ecg is None:
        raise DataError(str(path), "line 1", "has no column ECG", REMEDY)
    values = ecg.data[:, 0]
    if not np.isfinite(values).any():
        raise DataError(str(path), "ECG", "has no samples", REMEDY)
    swing = typical_swing(values, max(2, round(PIECE_S * ecg.sfreq)))
    low, high = ECG_SWING_MV
    if not low <= swing <= high:
        reason = f"swings by {swing:.3g} in {PIECE_S:g} s, where {low:g} to {high:g} mV are usual: not in mV"
        remedy = "write it with its true unit into a plain folder (docs/DATA.md)"
        raise DataError(str(path), "ECG", reason, remedy)


def _annotations(path: Path, low: Bools, shown: Sequence[str], sfreq: float) -> tuple[Annotation, ...]:
    """Stretches in which the photosensor is low, (n_times,), by what ``shown`` says of each."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], low, [False])))) / sfreq
    starts, stops = edges[::2], edges[1::2]
    if len(starts) != len(shown):
        reason = f"is low {len(starts)} times, where NeuroKit documents {len(shown)}"
        raise DataError(str(path), PHOTOSENSOR, reason, REMEDY)
    return tuple(Annotation(float(a), float(b - a), what) for a, b, what in zip(starts, stops, shown, strict=True))
