"""The sensor's own clock: seconds since power-on, drifting against the host's.

Knows nothing of ticks or of samples.
"""

from __future__ import annotations

from collections.abc import Callable


class SensorClock:
    """Runs ``speed * (1 + ppm / 1e6)`` times as fast as ``host``, which gives monotonic seconds."""

    def __init__(self, host: Callable[[], float], *, speed: float = 1.0, ppm: float = 0.0) -> None:
        self._host = host
        self._speed = speed
        self._ppm = ppm
        self._uptime, self._since = 0.0, host()

    @property
    def rate(self) -> float:
        """Seconds of the sensor per second of the host."""
        return self._speed * (1 + self._ppm / 1e6)

    def now(self) -> float:
        """Seconds since power-on."""
        return self._uptime + (self._host() - self._since) * self.rate

    def wait_s(self, uptime: float) -> float:
        """Seconds of the host until then, negative where it has passed."""
        return (uptime - self.now()) / self.rate

    def drift(self, ppm: float) -> None:
        """Go on from here at another rate."""
        self._uptime, self._since = self.now(), self._host()
        self._ppm = ppm

    def reset(self) -> None:
        """Power-on."""
        self._uptime, self._since = 0.0, self._host()
