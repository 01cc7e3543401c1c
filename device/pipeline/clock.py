"""Fits a sensor's clock: how many samples a sensor second holds, and which host second a sensor tick is.

Knows nothing of packets' contents; sees only (sample index, sensor seconds, host seconds) triples.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from device.pipeline.types import Floats

FIT_STAMPS = 1024
"""Stamps kept for the rate: about ten minutes of Polar H10 frames."""
REFIT_EVERY = 16
"""Stamps between two fits once there are plenty; the rate of a crystal moves slowly."""
BUCKET_S = 10.0
"""One lower-envelope point per this many seconds: enough notifications for one of them to be prompt."""
BUCKETS = 60
"""Ten minutes of envelope: long against latency, short against temperature."""
DRIFT_MIN_BUCKETS = 12
"""Two minutes before a drift is believed; below, 1 ms of latency would read as 10 ppm or more."""
DRIFT_MAX = 500e-6
"""Crystals are within 20-100 ppm; more than this is an artefact of the fit."""


def paired_slope(x: Floats, y: Floats) -> float:
    """Slope of y over x, robust: the median slope between each point and the one half the series later.

    A two-block form of Theil (1950), "A rank-invariant method of linear regression analysis".
    """
    half = len(x) // 2
    dx = x[-half:] - x[:half]
    return float(np.median((y[-half:] - y[:half]) / dx))


class RateFit:
    """Samples per sensor second, from the stamps of one uninterrupted sensor clock."""

    def __init__(self, sfreq: float, tolerance: float) -> None:
        self.sfreq = sfreq
        self._bounds = (sfreq * (1 - tolerance), sfreq * (1 + tolerance))
        self._index: deque[int] = deque(maxlen=FIT_STAMPS)
        self._seconds: deque[float] = deque(maxlen=FIT_STAMPS)
        self._count = 0
        self._first = (0, 0.0)

    @property
    def whole(self) -> float:
        """Samples per sensor second from the first stamp to the newest."""
        if self._count < 2:
            return self.sfreq
        return (self._index[-1] - self._first[0]) / (self._seconds[-1] - self._first[1])

    def restart(self) -> None:
        """Forget the stamps (the sensor's clock was reset), keep the rate."""
        self._index.clear()
        self._seconds.clear()
        self._count = 0

    def add(self, index: int, seconds: float) -> None:
        """Take one stamp: the sample's index and its sensor time in s, both increasing."""
        if self._count == 0:
            self._first = (index, seconds)
        self._index.append(index)
        self._seconds.append(seconds)
        self._count += 1
        if self._count >= 2 and (self._count < 4 * REFIT_EVERY or self._count % REFIT_EVERY == 0):
            self._fit()

    def _fit(self) -> None:
        first = self._index[0]
        slope = paired_slope(np.array(self._seconds), np.array([i - first for i in self._index], dtype=np.float64))
        if self._bounds[0] <= slope <= self._bounds[1]:
            self.sfreq = slope


class HostFit:
    """Host time of a sensor time: offset by the lower envelope of latency, drift by a robust line through it.

    A BLE notification can only be late, so the smallest (host - sensor) difference is the best one.
    """

    def __init__(self) -> None:
        self.drift = 0.0
        self._seconds: deque[float] = deque(maxlen=BUCKETS)
        self._offset: deque[float] = deque(maxlen=BUCKETS)
        self._bucket = -1

    def restart(self) -> None:
        """Forget everything (the sensor's clock was reset)."""
        self.__init__()  # type: ignore[misc]

    def add(self, seconds: float, host: float) -> None:
        """Take one arrival: sensor time of the newest sample and host time of its notification, s."""
        bucket, offset = int(seconds // BUCKET_S), host - seconds
        if bucket != self._bucket:
            self._bucket = bucket
            self._fit()
            self._seconds.append(seconds)
            self._offset.append(offset)
        elif offset < self._offset[-1]:
            self._seconds[-1], self._offset[-1] = seconds, offset

    def _fit(self) -> None:
        if len(self._seconds) >= DRIFT_MIN_BUCKETS:
            slope = paired_slope(np.array(self._seconds), np.array(self._offset))
            self.drift = min(max(slope, -DRIFT_MAX), DRIFT_MAX)

    def host(self, seconds: float) -> float:
        """Host time in s of a sensor time in s."""
        return seconds + min(o + self.drift * (seconds - s) for s, o in zip(self._seconds, self._offset, strict=True))
