"""Text tables of published data sets: lines, numbers with blanks for missing samples, names in natural order.

Knows nothing of any one layout or of what a column means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from train.data.errors import DataError
from train.data.types import Floats

MISSING = frozenset({"", "nan", "n/a", "na"})
"""Cells (lower case, stripped) that say: no sample here."""

MAX_FOLDERS = 3
"""PTB-XL keeps its records three folders deep; an unbounded search of a wrong folder could take minutes."""


def natural(names: Iterable[str]) -> list[str]:
    """Names in the order a person counts: S2 before S10."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"([0-9]+)", name)])


def below(root: Path, pattern: str) -> Iterator[Path]:
    """Files that match in the folder and up to MAX_FOLDERS deeper."""
    return (path for depth in range(MAX_FOLDERS + 1) for path in root.glob("*/" * depth + pattern))


def read_lines(path: Path, remedy: str) -> list[str]:
    """Lines of a UTF-8 file that ends in a line end; DataError where it is missing, no text, empty or cut."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(str(path), "file", f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"byte {error.start}", "is not text", remedy) from None
    lines = text.splitlines()
    if not lines:
        raise DataError(str(path), "line 1", "the file is empty", remedy)
    if not text.endswith(("\n", "\r")):
        reason = "the file ends in the middle of a line"
        raise DataError(str(path), f"line {len(lines)}", reason, f"{remedy}, or end its last line if it is whole")
    return lines


def header(path: Path, lines: Sequence[str], delimiter: str, remedy: str) -> list[str]:
    """Column names of line 1, stripped; DataError where one is empty or given twice."""
    names = [name.strip().strip('"') for name in lines[0].split(delimiter)]
    for name in names:
        if not name or names.count(name) > 1:
            reason = f"column name {name!r} is given twice" if name else "a column has no name"
            raise DataError(str(path), "line 1", reason, remedy)
    return names


def numbers(path: Path, lines: Sequence[str], columns: int, delimiter: str, remedy: str, *, first: int = 2) -> Floats:
    """(n, columns) numbers from line ``first`` on; NaN for MISSING cells. DataError names the line."""
    rows = lines[first - 1 :]
    if not rows:
        raise DataError(str(path), f"line {first}", "ends before the first sample", remedy)
    try:
        data = np.loadtxt(rows, delimiter=delimiter, comments=None, ndmin=2)
    except ValueError:
        data = np.empty((0, 0))
    if data.shape != (len(rows), columns) or np.isinf(data).any():
        slowly = (row_numbers(path, at, line, columns, delimiter, remedy) for at, line in enumerate(rows, first))
        data = np.array(list(slowly), dtype=float)
    return data


def row_numbers(path: Path, at: int, line: str, columns: int, delimiter: str, remedy: str) -> list[float]:
    """Numbers of one line; the slow way, for tables with blanks and to find the line that is wrong."""
    cells = line.split(delimiter)
    if len(cells) != columns:
        raise DataError(str(path), f"line {at}", f"{len(cells)} columns where the header has {columns}", remedy)
    return [math.nan if cell.strip().lower() in MISSING else number(path, at, cell, remedy) for cell in cells]


def number(path: Path, at: int, cell: str, remedy: str) -> float:
    """One finite number, or DataError naming the line."""
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = " (decimal comma?)" if re.fullmatch(r"\s*[-+]?\d+,\d+\s*", cell) else ""
        raise DataError(str(path), f"line {at}", f"{cell.strip()[:40]!r} is not a number{hint}", remedy)
    return value
