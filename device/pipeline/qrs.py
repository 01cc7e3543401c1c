"""Candidates for a QRS: the tops of a QRS-band envelope, with the deflections near each.

Does not decide which of them are beats.

Every array step is elementwise or a recursion, never a sum whose order follows the length: any cut of the stream
gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, lfilter

from device.pipeline.types import Floats

QRS_BAND_HZ = (8.0, 20.0)
"""Most of the QRS and little of the T wave (Elgendi 2013, PLoS ONE 8:e73557)."""
AVERAGE_S = 0.094
"""Moving average over the rectified band: one QRS width (Elgendi 2013: 97 ms)."""
ENVELOPE_DELAY_S = 0.086
"""The envelope's top comes this long after the QRS: half the average, and the band-pass near 13 Hz."""
REFRACTORY_S = 0.2
"""No two beats are closer (Pan & Tompkins 1985)."""
LOCATE_S = 0.11
"""The R peak lies within this of the candidate: half the width of a broad ventricular beat."""
NEIGHBOUR_S = 0.031
"""Sharpness is how far a sample stands out of the two this far to its sides: half a narrow QRS."""


@dataclass(frozen=True, slots=True)
class Deflection:
    """The most prominent sample of one sign near a candidate."""

    height: float
    index: int
    offset: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A top of the envelope that no other within the refractory time exceeds."""

    index: int
    height: float
    up: Deflection
    down: Deflection

    @property
    def sharpness(self) -> float:
        """Height of the taller of the two deflections."""
        return max(self.up.height, self.down.height)


def _trailing_sum(x: Floats, n: int) -> Floats:
    """Sums of ``n`` neighbours, (len(x) - n + 1,), by doubling: the order of additions depends on ``n`` alone."""
    if n == 1:
        return x
    half = _trailing_sum(x, n // 2)
    pairs: Floats = half[: len(half) - n // 2] + half[n // 2 :]
    return pairs if n % 2 == 0 else pairs[:-1] + x[n - 1 :]


def _trailing_max(x: Floats, n: int) -> Floats:
    """Maxima of ``n`` neighbours, (len(x) - n + 1,)."""
    width = 1
    while 2 * width <= n:
        x = np.maximum(x[:-width], x[width:])
        width *= 2
    return x if width == n else np.maximum(x[: len(x) - (n - width)], x[n - width :])


class Candidates:
    """Turns samples of one gapless run into candidates, each ``reach`` samples after its top."""

    def __init__(self, sfreq: float) -> None:
        self._average = max(1, round(AVERAGE_S * sfreq))
        self._delay = round(ENVELOPE_DELAY_S * sfreq)
        self._locate = round(LOCATE_S * sfreq)
        self._side = max(1, round(NEIGHBOUR_S * sfreq))
        self.reach = round(REFRACTORY_S * sfreq)
        self.before = self._delay + self._locate
        # One second-order section: lfilter's recursion is as exact here as sosfilt's and costs an eighth per call.
        self._b, self._a = butter(1, QRS_BAND_HZ, "bandpass", fs=sfreq)
        around = self.before + self._side + self.reach
        self._keep = max(around, 2 * self.reach + self._average) + 2
        self._state: Floats | None = None

    def restart(self, start: int, first: float) -> None:
        """Begin a run at sample ``start`` as if its first value had always been there (the band's gain there is 0)."""
        self._stop = start
        self._state = np.zeros(2)
        self._origin = first
        self._x = np.zeros(self._keep)
        self._rectified = np.zeros(self._keep)

    def push(self, x: Floats) -> list[Candidate]:
        """Candidates with index in [old stop - reach, new stop - reach); ``x`` is (n_times,)."""
        x = x - self._origin
        band, self._state = lfilter(self._b, self._a, x, zi=self._state)
        return self._advance(x, np.abs(band))

    def finish(self) -> list[Candidate]:
        """The run ends: the last ``reach`` samples' candidates, with silence after them."""
        return self._advance(np.full(self.reach, self._x[-1]), np.zeros(self.reach))

    def _advance(self, x: Floats, rectified: Floats) -> list[Candidate]:
        self._x = np.concatenate([self._x, x])
        self._rectified = np.concatenate([self._rectified, rectified])
        self._stop += len(x)
        found = [self._measure(index, height) for index, height in self._tops(len(x))]
        self._x, self._rectified = self._x[-self._keep :], self._rectified[-self._keep :]
        return [candidate for candidate in found if candidate.height > 0.0]

    def _tops(self, n_new: int) -> list[tuple[int, float]]:
        """Index and height of the tops that the newest ``n_new`` samples have made certain."""
        needed = n_new + 2 * self.reach + self._average - 1
        envelope = _trailing_sum(self._rectified[-needed:], self._average)
        middle = envelope[self.reach : len(envelope) - self.reach]
        rising = middle > envelope[self.reach - 1 : len(envelope) - self.reach - 1]
        tops = np.flatnonzero((middle == _trailing_max(envelope, 2 * self.reach + 1)) & rising)
        first = self._stop - self.reach - n_new
        return [(first + int(k), float(middle[k]) / self._average) for k in tops]

    def _measure(self, index: int, envelope: float) -> Candidate:
        """Height is the geometric mean of envelope and sharpness: noise bursts lack the one, T waves the other."""
        center = len(self._x) - (self._stop - index) - self._delay
        d, first = self._side, center - self._locate
        x = self._x[first - d : center + self._locate + d + 1]
        outstanding = x[d:-d] - 0.5 * (x[: -2 * d] + x[2 * d :])
        at = self._stop - len(self._x) + first
        up, down = _deflection(outstanding, at), _deflection(-outstanding, at)
        return Candidate(index, float(np.sqrt(envelope * max(up.height, down.height))), up, down)


def _deflection(x: Floats, at: int) -> Deflection:
    """Largest value of ``x``, whose first sample is ``at``, with the top of the parabola through its neighbours."""
    k = int(x.argmax())
    offset = 0.0
    if 0 < k < len(x) - 1:
        before, top, after = float(x[k - 1]), float(x[k]), float(x[k + 1])
        bend = 2.0 * top - before - after
        offset = 0.5 * (after - before) / bend if bend > 0.0 else 0.0
    return Deflection(max(0.0, float(x[k])), at + k, offset)
