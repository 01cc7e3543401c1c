"""A signal drawn in braille characters: two columns and four rows of dots each.

Knows nothing of terminals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_BASE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column (Unicode, Braille Patterns)."""


def braille(values: Sequence[float], width: int, height: int) -> list[str]:
    """``height`` lines of ``width`` characters, oldest left, the highest value on top; nothing where NaN is."""
    columns, rows = 2 * width, 4 * height
    if len(values) < columns:  # steps
        values = [values[column * len(values) // columns] for column in range(columns)] if values else ()
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for column in range(columns):
        ends = _ends(values[column * len(values) // columns : (column + 1) * len(values) // columns])
        if ends is None:
            before = None
            continue
        bottom, top = (_row(value, low, high, rows) for value in ends)
        if before is not None:  # joined to the column before
            bottom, top = min(bottom, before + 1), max(top, before - 1)
        before = (bottom + top) // 2
        for row in range(max(0, bottom), min(rows - 1, top) + 1):
            upside = rows - 1 - row
            cells[upside // 4][column // 2] |= _DOTS[upside % 4][column % 2]
    return ["".join(chr(_BASE + cell) for cell in line) for line in cells]


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def _row(value: float, low: float, high: float, rows: int) -> int:
    """0 at the bottom; a flat signal runs in the middle."""
    return rows // 2 if high == low else round((value - low) / (high - low) * (rows - 1))
