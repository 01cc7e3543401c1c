"""Brings a filtered stream to the model's rate, on one grid for all modalities: grid sample k is host time k / sfreq.

Does not low-pass: the filters before it have limited the band. Never interpolates over a gap.
"""

from __future__ import annotations

import math

import numpy as np

from device.pipeline.types import Bools, Chunk, Clock, Floats

HALF = 8
"""Input samples used on each side of an output sample."""
PHASES = 512
"""Rows of the kernel table; between two rows it is linear, good to about 1e-6 of full scale."""
KAISER_BETA = 6.0
"""Window of the sinc: about 60 dB, with the pass-band of all our signals below 0.65 of the sensor's Nyquist rate."""


def kernel_table() -> Floats:
    """(PHASES + 1, 2 * HALF) windowed-sinc weights; row p serves an output p / PHASES after the left neighbour."""
    offsets = np.arange(-HALF + 1, HALF + 1)[None, :] - (np.arange(PHASES + 1) / PHASES)[:, None]
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(0.0, 1.0 - (offsets / HALF) ** 2))) / np.i0(KAISER_BETA)
    table = np.sinc(offsets) * window
    table = table / table.sum(axis=1, keepdims=True)
    return np.where(np.abs(table) < 1e-15, 0.0, table)  # sinc's zeros, exact: equal rates then change no bit


TABLE = kernel_table()
TAPS = np.arange(-HALF + 1, HALF + 1)


class Resampler:
    """Windowed-sinc interpolation from the stream's fitted clock to the model's grid.

    Every operation is elementwise and every output depends only on its own input samples and their times, so that the
    result is bit-equal for any cut of the stream. Delay: HALF input samples.
    """

    def __init__(self, modality: str, sfreq: float, n_chans: int) -> None:
        self.sfreq = sfreq
        self._modality = modality
        self._n_chans = n_chans
        self._expected: int | None = None
        self._next = -(2**62)
        self._clear()

    def _clear(self) -> None:
        self._times: Floats = np.empty(0)
        self._data: Floats = np.empty((0, self._n_chans))
        self._valid: Bools = np.empty(0, dtype=np.bool_)
        self._fresh = True

    def push(self, chunk: Chunk) -> list[Chunk]:
        """Take a chunk of (n_times, n_chans); give out the grid samples that are now certain: one chunk or none."""
        if chunk.start != self._expected:
            self._clear()
        self._expected = chunk.stop
        self._times = np.concatenate([self._times, chunk.times()])
        self._data = np.concatenate([self._data, chunk.data])
        self._valid = np.concatenate([self._valid, chunk.valid])
        if len(self._times) < 2 * HALF:
            return []
        out = self._outputs()
        kept = slice(-2 * HALF, None)
        self._times, self._data, self._valid = self._times[kept], self._data[kept], self._valid[kept]
        return out

    def _outputs(self) -> list[Chunk]:
        if self._fresh:
            self._next = max(self._next, self._first_at(self._times[HALF - 1]))
            self._fresh = False
        stop = self._first_at(self._times[-HALF])
        if stop <= self._next:
            return []
        start, self._next = self._next, stop
        data, valid = self._interpolate(np.arange(start, stop) / self.sfreq)
        return [Chunk(self._modality, start, data, valid, Clock(0, 0.0, 1.0 / self.sfreq))]

    def _first_at(self, time: float) -> int:
        """First grid sample at or after a host time."""
        k = math.floor(time * self.sfreq) - 1
        while k / self.sfreq < time:
            k += 1
        return k

    def _interpolate(self, times: Floats) -> tuple[Floats, Bools]:
        left = np.searchsorted(self._times, times, side="right") - 1
        phase = (times - self._times[left]) / (self._times[left + 1] - self._times[left]) * PHASES
        row = np.minimum(phase.astype(np.int64), PHASES - 1)
        weight = (phase - row)[:, None]
        weights = TABLE[row] * (1.0 - weight) + TABLE[row + 1] * weight
        source = left[:, None] + TAPS
        # One contiguous row of fixed length per output: numpy sums each row in the same order whatever their number.
        columns = [(weights * self._data[:, channel][source]).sum(axis=1) for channel in range(self._n_chans)]
        return np.stack(columns, axis=1), self._valid[source].all(axis=1)
