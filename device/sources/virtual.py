"""Virtual sensors: signals in physical units, encoded by affectd's own codecs, arriving as over a radio.

It knows nothing of files, of radios or of what becomes of the notifications.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.signal import firwin, upfirdn

from device.notification import Arrival, Notification
from device.pipeline.types import Floats
from device.sources.base import paced
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.packet import StreamInfo

H10_SFREQ = 130.045
"""Hz: what a real Polar H10 that calls itself 130 Hz was measured at, over 115 min."""
H10_FRAME = 73
"""Samples of a PMD frame."""
EDA_FRAME = 4
"""Samples of an open EDA notification: half a second at 8 Hz."""
UPTIME_S = 30.0
"""How long the sensors have been on when the signals begin."""
BEGIN_NS = 1_000_000_000_000
"""Host time of the signals' second 0: the host has been up for 1000 s."""
LATENCY_S = 0.03
"""Least delay from a frame's last sample to its arrival: a connection interval."""
JITTER_S = 0.02
"""Mean of what comes on top, exponentially distributed: delays on a radio are one-sided."""
OVERSAMPLING = 8
"""Before the cubic interpolation, whose error then is below 1e-4 of a component at 0.8 of Nyquist."""
HALF_WIDTH = 64
"""Samples on either side that the up-sampling filter looks at: flat to 0.9 of Nyquist."""
STOPBAND_BETA = 8.6
"""Of its Kaiser window: 90 dB, below a step of any sensor's converter."""

Frame = tuple[float, bytes]
"""Second of the last sample, notification."""


@dataclass(frozen=True, slots=True)
class VirtualSensor:
    """One sensor and what it measures."""

    name: str
    """Name of its stream."""
    protocol: str
    """``polar-pmd-ecg`` or ``open-eda``."""
    data: Floats
    """(n_times,) mV for ECG, uS for EDA."""
    sfreq: float
    """Rate of ``data`` in Hz."""
    start: float = 0.0
    """Second of the first sample."""
    loss: float = 0.0
    """Share of the notifications that are lost, at random."""
    dropouts: tuple[tuple[float, float], ...] = ()
    """Stretches [from, to) in s in which nothing arrives."""

    def __post_init__(self) -> None:
        if self.protocol not in _ENCODERS:
            raise ValueError(f"no virtual sensor speaks {self.protocol!r}, only {', '.join(_ENCODERS)}")
        if self.data.ndim != 1 or not np.isfinite(self.data).all():
            raise ValueError(f"data of shape {self.data.shape} where finite (n_times,) is needed")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"loss {self.loss}: a share from 0 to 1")

    def info(self) -> StreamInfo:
        """How to read its notifications."""
        return polar_pmd.STREAM_INFO if self.protocol == polar_pmd.PROTOCOL else _eda_info(self.sfreq).stream_info()

    def frames(self) -> Iterator[Frame]:
        """Every notification it sends, whether or not it arrives."""
        return _ENCODERS[self.protocol](self.data, self.sfreq, self.start)


def _eda_info(sfreq: float) -> open_eda.Info:
    return open_eda.Info(boot_id=1, rate_mhz=round(sfreq * 1000))


def resample(data: Floats, sfreq: float, to_sfreq: float) -> Floats:
    """(n_times,) at ``sfreq`` to (n_times_out,) at ``to_sfreq`` (Hz), any ratio, from the same first sample on.

    Band-limited up-sampling by ``OVERSAMPLING``, then a cubic spline; the signal must hold nothing above half of
    ``to_sfreq``. Only virtual sensors use it: it looks ahead, which the signal path never does.
    """
    taps = firwin(2 * HALF_WIDTH * OVERSAMPLING + 1, 1 / OVERSAMPLING, window=("kaiser", STOPBAND_BETA))
    padded = np.pad(data, HALF_WIDTH, mode="reflect", reflect_type="odd")
    delay = 2 * HALF_WIDTH * OVERSAMPLING
    fine = upfirdn(taps * OVERSAMPLING, padded, up=OVERSAMPLING)[delay : delay + len(data) * OVERSAMPLING]
    n_times = int(np.floor((len(data) - 1) * to_sfreq / sfreq)) + 1
    at = np.arange(n_times) * (sfreq * OVERSAMPLING / to_sfreq)
    return np.asarray(CubicSpline(np.arange(len(fine)), fine)(at))


def _integers(data: Floats, info: StreamInfo) -> list[int]:
    """Physical values as the sensor sends them, saturated at the ends of its range."""
    low, high = info.value_range
    return [int(value) for value in np.clip(np.rint(data / info.scale), low, high)]


def _runs(values: Sequence[int], size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(first index, values) of each whole run."""
    for start in range(0, len(values) - size + 1, size):
        yield start, tuple(values[start : start + size])


def h10_frames(data: Floats, sfreq: float, start: float) -> Iterator[Frame]:
    """(n_times,) mV at ``sfreq`` Hz to the frames of an H10, sampled at its true rate."""
    values = _integers(resample(data, sfreq, H10_SFREQ), polar_pmd.STREAM_INFO)
    for first, samples in _runs(values, H10_FRAME):
        last = start + (first + H10_FRAME - 1) / H10_SFREQ
        ticks = polar_pmd.CLOCK_RESET_TICKS + round((UPTIME_S + last) * 1e9)
        yield last, bytes(polar_pmd.EcgFrame(ticks, samples))


def open_eda_frames(data: Floats, sfreq: float, start: float) -> Iterator[Frame]:
    """(n_times,) uS at ``sfreq`` Hz to the notifications of an open EDA sensor of the same rate."""
    info = _eda_info(sfreq)
    for number, (first, samples) in enumerate(_runs(_integers(data, info.stream_info()), EDA_FRAME)):
        ticks = round((UPTIME_S + start + first / sfreq) * info.clock_hz) % 2**32
        yield start + (first + EDA_FRAME - 1) / sfreq, bytes(open_eda.Data(number % 2**16, ticks, samples))


_ENCODERS: Mapping[str, Callable[[Floats, float, float], Iterator[Frame]]] = {
    polar_pmd.PROTOCOL: h10_frames,
    open_eda.PROTOCOL: open_eda_frames,
}


def notifications(
    sensors: Iterable[VirtualSensor], *, seed: int = 0, begin_ns: int = BEGIN_NS
) -> Iterator[Notification]:
    """What the host receives, in order of arrival; equal arguments give equal bytes and times."""
    generators = np.random.default_rng(seed).spawn(len(sensors := tuple(sensors)))
    arriving = (_arrivals(sensor, rng, begin_ns) for sensor, rng in zip(sensors, generators, strict=True))
    return heapq.merge(*arriving, key=lambda notification: notification.host_ns)


def _arrivals(sensor: VirtualSensor, rng: np.random.Generator, begin_ns: int) -> Iterator[Notification]:
    """One sensor's notifications; a link keeps their order, so none overtakes the one before."""
    earliest = begin_ns
    for last, data in sensor.frames():
        delay, luck = LATENCY_S + rng.exponential(JITTER_S), rng.random()
        earliest = max(earliest + 1, begin_ns + round((last + delay) * 1e9))
        silent = any(begin <= last < end for begin, end in sensor.dropouts)
        if luck >= sensor.loss and not silent:
            yield Notification(sensor.name, earliest, data)


class VirtualSource:
    """Virtual sensors as one source; ``speed`` in times of real time, None for as fast as possible."""

    name = "virtual sensors"

    def __init__(self, sensors: Iterable[VirtualSensor], *, seed: int = 0, speed: float | None = None) -> None:
        self.sensors = tuple(sensors)
        self.seed = seed
        self.speed = speed

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """One stream per sensor."""
        return {sensor.name: sensor.info() for sensor in self.sensors}

    def notifications(self) -> AsyncGenerator[Arrival, None]:
        """What the host receives, in order of arrival."""
        return paced(notifications(self.sensors, seed=self.seed), self.speed)
