"""Reader of WESAD's SX_quest.csv: when each condition ran, and how the person rated it.

Knows nothing of signals, and nothing of any clock but that of the RespiBAN recording from whose start it counts.

Lines begin with ``# NAME``, cells are separated by ``;``. ORDER names the conditions and, behind them, reading tasks;
START and END give their times as ``minutes.seconds``, trailing zeros dropped (``7.08`` is 7 min 8 s, ``50.3`` is 50 min
30 s). One DIM line (valence; arousal, each 1 to 9) for each of the five conditions, in their order. PANAS, STAI and
SSSQ are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from train.data import _tables
from train.data.errors import DataError
from train.data.types import Annotation

CONDITIONS = {"Base": "baseline", "TSST": "stress", "Fun": "amusement", "Medi 1": "meditation", "Medi 2": "meditation"}
"""ORDER's names -> descriptions."""
TASKS = frozenset({"bRead", "sRead", "fRead"})
"""Reading between conditions: labels 5 to 7, to be ignored in this data set."""
MARGIN_S = 10.0
"""The release's own labels begin this much after START and end this much before END, to the sample, in all 75
conditions: people take some time to begin and to stop."""
RATING_RANGE = (1.0, 9.0)
"""Self-assessment manikins."""
REMEDY = "get SX_quest.csv again from the data set"

_TIME = re.compile(r"(\d+)(?:\.(\d{1,2}))?")


def read(path: Path) -> tuple[Annotation, ...]:
    """The five conditions in order of time, s from the start of the RespiBAN recording, as SX.pkl labels them.

    Each carries its ``valence`` and ``arousal`` where the file has them. Raises DataError with the line.
    """
    lines = _tables.read_lines(path, REMEDY)
    rows = {name: _row(path, lines, name) for name in ("ORDER", "START", "END")}
    names = [cell for cell in rows["ORDER"][1] if cell]
    conditions = [name for name in names if name not in TASKS]
    for name in conditions:
        if name not in CONDITIONS:
            known = ", ".join((*CONDITIONS, *sorted(TASKS)))
            raise DataError(str(path), f"line {rows['ORDER'][0]}", f"condition {name!r} is not known ({known})", REMEDY)
    ratings = _ratings(path, lines, len(conditions))
    told = dict(zip(conditions, ratings, strict=True))
    found = [_condition(path, rows, names.index(name), name, told[name]) for name in conditions]
    return tuple(sorted(found, key=lambda note: note.onset))


def _row(path: Path, lines: Sequence[str], name: str) -> tuple[int, list[str]]:
    """Number and cells of the line ``# NAME``."""
    for number, line in enumerate(lines, 1):
        head, *cells = (cell.strip() for cell in line.split(";"))
        if head.lstrip("# ") == name:
            return number, cells
    raise DataError(str(path), f"line {len(lines)}", f"the file ends without a line '# {name}'", REMEDY)


def _condition(
    path: Path, rows: Mapping[str, tuple[int, list[str]]], column: int, name: str, ratings: Mapping[str, float]
) -> Annotation:
    """One condition without the margin at its ends."""
    start, end = (_seconds(path, *rows[row], column) for row in ("START", "END"))
    if end - start <= 2 * MARGIN_S:
        reason = (
            f"{name} ends {end - start:.0f} s after its start: no more than the {2 * MARGIN_S:.0f} s cut off its ends"
        )
        raise DataError(str(path), f"line {rows['END'][0]}, column {column + 2}", reason, REMEDY)
    return Annotation(start + MARGIN_S, end - start - 2 * MARGIN_S, CONDITIONS[name], ratings)


def _seconds(path: Path, number: int, cells: Sequence[str], column: int) -> float:
    """``minutes.seconds`` -> s."""
    cell = cells[column] if column < len(cells) else ""
    match = _TIME.fullmatch(cell)
    # One digit is the tens: the spreadsheet that wrote the file took 50.30 for a number.
    seconds = int((match[2] or "0").ljust(2, "0")) if match else 60
    if match is None or seconds >= 60:
        place = f"line {number}, column {column + 2}"
        raise DataError(str(path), place, f"{cell!r} is not a time as minutes.seconds", REMEDY)
    return 60.0 * int(match[1]) + seconds


def _ratings(path: Path, lines: Sequence[str], n: int) -> list[dict[str, float]]:
    """Valence and arousal of each condition in the file's order; empty where the file has none."""
    found = [(at, line.split(";")) for at, line in enumerate(lines, 1) if line.lstrip("# ").startswith("DIM;")]
    if found and len(found) != n:
        raise DataError(str(path), f"line {found[-1][0]}", f"{len(found)} lines DIM for {n} conditions", REMEDY)
    return [_rating(path, at, cells) for at, cells in found] or [{} for _ in range(n)]


def _rating(path: Path, at: int, cells: Sequence[str]) -> dict[str, float]:
    """One DIM line; a cell left blank is left out."""
    rating = {}
    for name, cell in zip(("valence", "arousal"), cells[1:], strict=False):
        if cell.strip():
            value = _tables.number(path, at, cell, REMEDY)
            if not RATING_RANGE[0] <= value <= RATING_RANGE[1]:
                raise DataError(str(path), f"line {at}", f"{name} {value:g} is not within 1 .. 9", REMEDY)
            rating[name] = value
    return rating
