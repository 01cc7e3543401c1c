"""Signals as lines of text, drawn with braille dots: 2 x 4 to a character.

It knows nothing of what a signal means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from device.pipeline.types import Floats

DOTS_X, DOTS_Y = 2, 4
_BRAILLE = 0x2800
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bit of the dot in each row and column of a character (Unicode 15, block Braille Patterns)."""


def braille(times: Floats, values: Floats, span: tuple[float, float], width: int, height: int) -> list[str]:
    """``height`` lines of ``width`` characters.

    ``times`` and ``values`` are (n_times,); ``span`` is the time at the left and right edge. Each column of dots shows
    the whole range of its samples, and joins the column before it; a column without samples stays empty, so that a gap
    is seen.
    """
    dots = np.zeros((height * DOTS_Y, width * DOTS_X), dtype=bool)
    begin, end = span
    columns = np.floor((times - begin) / (end - begin) * width * DOTS_X).astype(int)
    inside = (columns >= 0) & (columns < width * DOTS_X)
    columns, values = columns[inside], values[inside]
    if len(values):
        _draw(dots, columns, _rows(values, len(dots)))
    cells = dots.reshape(height, DOTS_Y, width, DOTS_X)
    codes = _BRAILLE + np.einsum("hywx,yx->hw", cells, _BITS)
    return ["".join(map(chr, line)) for line in codes]


def _rows(values: Floats, n_rows: int) -> npt.NDArray[np.int_]:
    """Row of each value, the largest on top; a flat signal in the middle."""
    low, high = values.min(), values.max()
    if high == low:
        return np.full(len(values), n_rows // 2)
    rows: npt.NDArray[np.int_] = np.rint((high - values) / (high - low) * (n_rows - 1)).astype(int)
    return rows


def _draw(dots: npt.NDArray[np.bool_], columns: npt.NDArray[np.int_], rows: npt.NDArray[np.int_]) -> None:
    """Set the dots of each column from its highest to its lowest sample; samples are in order of time."""
    previous: tuple[int, int] | None = None
    for column in np.unique(columns):
        mine = rows[columns == column]
        top, bottom = int(mine.min()), int(mine.max())
        if previous is not None and column - previous[0] == 1:
            top, bottom = min(top, previous[1]), max(bottom, previous[1])
        dots[top : bottom + 1, column] = True
        previous = int(column), int(mine[-1])
