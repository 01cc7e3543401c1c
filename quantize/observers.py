"""The ranges that eight bits are spread over, chosen from what every tensor held while it was calibrated.

Pure: histograms in, ranges out. Knows nothing of files or converters.

``min-max`` is the converter's own: whatever was seen fits in, and one rare value makes every step coarser. The two
others let rare values saturate: ``percentile`` beyond a fixed share of them, ``mse`` where rounding and clipping
together lose least (Krishnamoorthi 2018, arXiv 1806.08342; Nagel et al. 2021, arXiv 2106.08295, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Range = tuple[float, float]

MIN_MAX = "min-max"
N_BINS = 2048
"""Of a histogram: 8 to each of 256 steps."""
PERCENTILE = 99.99
"""Share of a tensor's values within its range, in percent, half of the rest on either side; a usual choice."""
N_STEPS = 255
"""Of eight bits."""
SHARES = np.linspace(0.05, 1.0, 96)
"""Of either end, tried for the least error."""


def counted(values: npt.NDArray[np.float32], low: float, high: float) -> Counts:
    """(N_BINS,) how many of the values, of any shape, fall into each of equal bins from ``low`` to ``high``; what lies
    outside is counted with the ends."""
    counts, _ = np.histogram(np.clip(values, low, high), N_BINS, (low, high))
    return counts.astype(np.int64)


def percentile(counts: Counts, low: float, high: float) -> Range:
    """The range that holds ``PERCENTILE`` of what was counted, to a bin."""
    edges, seen = np.linspace(low, high, N_BINS + 1), np.cumsum(counts)
    rest = (1 - PERCENTILE / 100) / 2 * seen[-1]
    first = int(np.searchsorted(seen, rest, side="right"))
    last = int(np.searchsorted(seen, seen[-1] - rest, side="left"))
    return float(edges[first]), float(edges[last + 1])


def least_error(counts: Counts, low: float, high: float) -> Range:
    """The range of least mean squared error, of shares of either end; zero stays inside, as int8 needs it.

    Rounding to steps of size s costs s^2 / 12 for a value inside, clipping its distance squared for one outside.
    """
    edges = np.linspace(low, high, N_BINS + 1)
    at = (edges[1:] + edges[:-1]) / 2
    lows, highs = min(low, 0.0) * SHARES, max(high, 0.0) * SHARES
    below = (np.maximum(lows[:, None] - at, 0.0) ** 2) @ counts
    above = (np.maximum(at - highs[:, None], 0.0) ** 2) @ counts
    step = (highs[None] - lows[:, None]) / N_STEPS
    error = below[:, None] + above[None] + step**2 / 12 * counts.sum()
    i, k = np.unravel_index(int(error.argmin()), error.shape)
    return float(lows[i]), float(highs[k])


OBSERVERS: Mapping[str, Callable[[Counts, float, float], Range]] = {
    MIN_MAX: lambda counts, low, high: (low, high),
    "percentile": percentile,
    "mse": least_error,
}
"""By name: counts of ``counted`` and its ends, to a range inside them."""
