"""Reader of one Empatica E4 folder in its published layout: EDA, BVP, IBI, HR, TEMP, ACC and tags.

Knows nothing of any study: phases and labels come from elsewhere.

Layout (``info.txt`` beside the files): line 1 the start as Unix time in UTC, line 2 the rate in Hz, then one sample per
line, a column per channel. ``IBI.csv``: line 1 start and the word IBI, then offset in s and interval in s. ``tags.csv``
(in Stress-Predict ``tags_S01.csv``): Unix times of button presses, no header.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data.errors import DataError
from train.data.types import IRREGULAR_RATE, Annotation, Floats, Recording, Signal

MAX_START_LAG_S = 60.0
"""HR.csv starts 10 s after the others (first average); a file that starts more than this off is of another session."""
MAX_END_SPREAD_S = 30.0
"""The band flushes its streams separately: in 50 real folders their ends lie within 8 s. More means a cut file."""
ACC_COUNTS_PER_G = 64.0
"""ACC.csv holds 1/64 g."""

REMEDY = "get the file again from the data set; this one is cut or edited"


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one file reads."""

    ch_names: tuple[str, ...]
    units: str
    divisor: float = 1.0


LAYOUTS = {
    "eda": _Layout(("eda",), "uS"),
    "bvp": _Layout(("bvp",), "a.u."),
    "hr": _Layout(("hr",), "1/min"),
    "temp": _Layout(("temp",), "degC"),
    "acc": _Layout(("acc_x", "acc_y", "acc_z"), "g", ACC_COUNTS_PER_G),
}
MODALITIES = (*LAYOUTS, "ibi")


@dataclass(frozen=True, slots=True, eq=False)
class E4Folder:
    """All that one folder holds."""

    path: Path
    start_utc: float
    """Unix time of the recording's start, s."""
    signals: dict[str, Signal]
    tags: tuple[float, ...]
    """Button presses, s from the recording's start."""


def read_folder(folder: Path, modalities: Iterable[str] = MODALITIES) -> E4Folder:
    """Read the wanted modalities of a folder; files that are not there are left out.

    Raises DataError (file, line, remedy) where a file breaks the layout, or where no wanted file is there.
    """
    wanted = [name for name in modalities if (folder / f"{name.upper()}.csv").is_file()]
    if not wanted:
        raise DataError(str(folder), "folder", "holds no E4 file", "point to a folder with EDA.csv, BVP.csv, ...")
    read = {name: _read_signal(folder / f"{name.upper()}.csv", name) for name in wanted}
    start = min(utc for utc, _ in read.values())
    signals = {name: _placed(folder, name, signal, utc - start) for name, (utc, signal) in read.items()}
    _check_ends(folder, signals)
    return E4Folder(folder, start, signals, tuple(tag - start for tag in _read_tags(folder)))


def load(folder: Path, subject: str | None = None) -> Recording:
    """Folder -> Recording; button presses become annotations ``tag`` without duration."""
    read = read_folder(folder)
    tags = tuple(Annotation(tag, 0.0, "tag") for tag in sorted(read.tags))
    return Recording("e4", subject or folder.name, folder.name, read.signals, tags)


def _placed(folder: Path, name: str, signal: Signal, start: float) -> Signal:
    """The signal at its own start within the recording."""
    if start > MAX_START_LAG_S:
        reason = f"starts {start:.0f} s after the folder's first file"
        raise DataError(str(folder / f"{name.upper()}.csv"), "line 1", reason, "put back the file of this session")
    return Signal(signal.data, signal.sfreq, signal.units, signal.ch_names, start)


def _check_ends(folder: Path, signals: dict[str, Signal]) -> None:
    """A file that ends long before the others was cut at a line's end."""
    stops = {name: signal.stop for name, signal in signals.items() if signal.sfreq}
    for name, stop in stops.items():
        short = max(stops.values()) - stop
        if short > MAX_END_SPREAD_S:
            path = folder / f"{name.upper()}.csv"
            place = f"line {len(signals[name].data) + 2}"
            raise DataError(str(path), place, f"ends {short:.0f} s before the folder's other files", REMEDY)


def _read_signal(path: Path, name: str) -> tuple[float, Signal]:
    """One file -> (start as Unix time, signal with start 0)."""
    lines = _lines(path)
    if name == "ibi":
        return _read_ibi(path, lines)
    layout = LAYOUTS[name]
    if len(lines) < 3:
        raise DataError(str(path), f"line {len(lines) + 1}", "ends before the first sample", REMEDY)
    starts, rates = (_header(path, lines, at, len(layout.ch_names)) for at in (0, 1))
    data = _table(path, lines, 2, len(layout.ch_names)) / layout.divisor
    return starts, Signal(data, rates, layout.units, layout.ch_names)


def _read_ibi(path: Path, lines: list[str]) -> tuple[float, Signal]:
    """IBI.csv -> irregular signal: time of the beat and the interval that ends there, s."""
    head = lines[0].split(",")
    if len(head) != 2 or head[1].strip() != "IBI":
        raise DataError(str(path), "line 1", f"{lines[0][:40]!r} is not 'start, IBI'", REMEDY)
    data = _table(path, lines, 1, 2)
    bad = np.flatnonzero((np.diff(data[:, 0]) <= 0) | (data[1:, 1] <= 0))
    if len(bad):
        raise DataError(
            str(path), f"line {bad[0] + 3}", "beats are out of order or an interval is not positive", REMEDY
        )
    return _number(path, 1, head[0]), Signal(data, IRREGULAR_RATE, "s", ("time", "ibi"))


def _read_tags(folder: Path) -> list[float]:
    """Button presses of ``tags.csv`` or ``tags_<subject>.csv`` as Unix times; none where there is no file."""
    found = sorted(folder.glob("tags*.csv"))
    if not found:
        return []
    text = found[0].read_text("utf-8", errors="replace").splitlines()
    return [_number(found[0], at, line) for at, line in enumerate(text, 1) if line.strip()]


def _lines(path: Path) -> list[str]:
    """Lines of a file that ends in a line end, as every exported file does."""
    try:
        text = path.read_bytes().decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"byte {error.start}", "is not text", REMEDY) from None
    lines = text.splitlines()
    if not lines or not text.endswith("\n"):
        raise DataError(str(path), f"line {max(len(lines), 1)}", "the file ends in the middle of a line", REMEDY)
    return lines


def _header(path: Path, lines: Sequence[str], at: int, columns: int) -> float:
    """The one positive number that a header line repeats for every column."""
    numbers = {_number(path, at + 1, part) for part in lines[at].split(",")}
    if len(numbers) != 1 or lines[at].count(",") != columns - 1 or (number := numbers.pop()) <= 0:
        what = ("start as Unix time", "rate in Hz")[at]
        raise DataError(str(path), f"line {at + 1}", f"{lines[at][:40]!r} is not {columns} x one {what}", REMEDY)
    return number


def _number(path: Path, line: int, text: str) -> float:
    """A finite number, or DataError naming the line."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(str(path), f"line {line}", f"{text.strip()[:40]!r} is not a number", REMEDY)
    return number


def _table(path: Path, lines: Sequence[str], skip: int, columns: int) -> Floats:
    """(n, columns) numbers after ``skip`` header lines."""
    if len(lines) == skip:
        return np.empty((0, columns))
    try:
        data = np.loadtxt(lines[skip:], delimiter=",", ndmin=2)
    except ValueError:
        data = np.empty((0, 0))
    if data.shape != (len(lines) - skip, columns) or not np.isfinite(data).all():
        raise _first_fault(path, lines, skip, columns)
    return data


def _first_fault(path: Path, lines: Sequence[str], skip: int, columns: int) -> DataError:
    """The error that names the first line which is not ``columns`` numbers."""
    for at, line in enumerate(lines[skip:], skip + 1):
        parts = line.split(",")
        if len(parts) != columns:
            return DataError(str(path), f"line {at}", f"{len(parts)} columns where the layout has {columns}", REMEDY)
        try:
            for part in parts:
                _number(path, at, part)
        except DataError as error:
            return error
    return DataError(str(path), f"line {skip + 1}", "cannot be read as a table of numbers", REMEDY)
