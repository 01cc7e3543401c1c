"""Puts packets in their place: Packet in, Chunk in physical units out, lost packets as explicit gaps.

Does not know which protocol the packet came from beyond its StreamInfo; opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from device.pipeline.clock import HostFit, RateFit
from device.pipeline.types import Chunk, Clock
from firmware_bridge.packet import Packet, StreamInfo

RESET_S = 2.0
"""A sensor clock that steps back, or ahead of the host's clock, by more than this was reset."""
LATE_S = 30.0
"""A notification later than this is not late, no sensor buffers so much: its clock stood still or was reset."""
SLEW = 0.005
"""Largest correction of the time axis as a share of the time passed: 0.4 beats/min at a heart rate of 75."""
SLEW_FAR = 0.02
"""The same while the axis is more than FAR_S away (after a first notification that came very late)."""
FAR_S = 0.5
SHORT_WRAP_S = 3600.0
"""A sensor clock that wraps within this long is unwrapped with the help of the arrival: a gap may outlast it."""
EARLY_SHARE = 0.5
"""Of such a clock's span: how much too early a packet may seem, the rest is for late ones. Early is what follows a
first packet that came late, before the envelope of arrivals has seen a prompt one."""


@dataclass(slots=True)
class StreamStats:
    """Counters of one stream since its start."""

    packets: int = 0
    samples: int = 0
    lost_samples: int = 0
    gaps: int = 0
    duplicates: int = 0
    late: int = 0
    resets: int = 0
    sfreq: float = 0.0
    """Fitted rate over the whole run of the sensor's clock, samples per sensor second."""
    sfreq_now: float = 0.0
    """Fitted rate over the last minutes; it moves with the sensor's temperature and places what comes next."""
    drift_ppm: float = 0.0
    """Host seconds per sensor second, minus one, in parts per million."""


@dataclass(slots=True)
class _Last:
    """Where the stream stands after its newest packet."""

    seq: int | None
    seconds: float
    """Sensor time of the newest sample, s since the first packet (unwrapped)."""
    ticks: int
    boot: int | None
    stamp_index: int
    """The stamped sample."""
    stamp_seconds: float
    """Its sensor time, s."""
    stop: int
    """Index after the newest sample."""
    host: float
    """Arrival of the newest packet, s."""
    time: float
    """Host time given to the newest sample, s."""


class Assembler:
    """Packets of one stream in, chunks out.

    Sensor ticks place samples, the host's monotonic clock dates them. Loss is found first (a step of the ticks that
    differs from the samples received by more than half a packet, or a step of the packet counter); only then is the
    time axis stretched over the samples.
    """

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self.stats = StreamStats(sfreq=info.sfreq, sfreq_now=info.sfreq)
        self._rate = RateFit(info.sfreq, info.sfreq_tolerance)
        self._host = HostFit()
        self._last: _Last | None = None

    def push(self, packet: Packet, host_ns: int) -> list[Chunk]:
        """Place one packet.

        Parameters
        ----------
        packet : Packet
        host_ns : int
            Arrival on the host's monotonic clock, ns.

        Returns
        -------
        list of Chunk
            One chunk, or none for a duplicate, a late or an empty packet.
        """
        self.stats.packets += 1
        n_times = len(packet.values) // len(self.info.ch_names)
        host = host_ns * 1e-9
        last = self._last
        if n_times == 0:
            return []
        if last is None:
            return [self._begin(packet, n_times, host, start=0, not_before=-np.inf)]
        step = self._tick_step(packet, last, host)
        if self._is_reset(packet, last, step, host):
            return [self._reset(packet, n_times, host, last)]
        if self._is_old(packet, last, step):
            return []
        return [self._continue(packet, n_times, host, last, step)]

    def _is_reset(self, packet: Packet, last: _Last, step: float, host: float) -> bool:
        """The sensor says so; or a sample arrives before it was measured, or as late as LATE_S after."""
        if packet.boot != last.boot:
            return True
        lateness = host - self._host.host(last.seconds + step)
        return step < -RESET_S or not -RESET_S <= lateness <= LATE_S

    def _tick_step(self, packet: Packet, last: _Last, host: float) -> float:
        """Sensor seconds from the last packet's stamp to this one's, unwrapped."""
        step = _wrapped_step(packet.ticks, last.ticks, self.info.tick_bits) / self.info.tick_hz
        span: float = (1 << self.info.tick_bits) / self.info.tick_hz
        if span > SHORT_WRAP_S:
            return step
        latest = host - self._host.host(last.seconds) + EARLY_SHARE * span
        return step + (latest - step) // span * span

    def _is_old(self, packet: Packet, last: _Last, step: float) -> bool:
        """Duplicate or reordered packet: counted and left out."""
        seq_step = self._seq_step(packet, last)
        if step < -RESET_S:
            return False
        if step == 0 or seq_step == 0:
            self.stats.duplicates += 1
            return True
        if step < 0 or (seq_step is not None and seq_step < 0):
            self.stats.late += 1
            return True
        return False

    def _seq_step(self, packet: Packet, last: _Last) -> int | None:
        if packet.seq is None or last.seq is None or not self.info.seq_bits:
            return None
        return _wrapped_step(packet.seq, last.seq, self.info.seq_bits)

    def _stamp_offset(self, n_times: int) -> int:
        """Place of the stamped sample in its packet."""
        return n_times - 1 if self.info.stamped == "last" else 0

    def _begin(self, packet: Packet, n_times: int, host: float, start: int, not_before: float) -> Chunk:
        """First packet of a sensor clock: dated by its arrival."""
        self._rate.restart()
        self._host.restart()
        period = 1.0 / self._rate.sfreq
        seconds = (n_times - 1 - self._stamp_offset(n_times)) * period
        end = max(host, not_before + n_times * period)
        self._host.add(seconds, host)
        return self._emit(packet, n_times, host, start, seconds, end, period)

    def _reset(self, packet: Packet, n_times: int, host: float, last: _Last) -> Chunk:
        """The sensor's clock began anew: the gap is dated by the host's clock."""
        self.stats.resets += 1
        missing = max(round((host - last.host) * self._rate.sfreq) - n_times, 1)
        self._count_gap(missing)
        return self._begin(packet, n_times, host, last.stop + missing, last.time)

    def _continue(self, packet: Packet, n_times: int, host: float, last: _Last, step: float) -> Chunk:
        """A packet of the running sensor clock, with the samples lost before it made a gap."""
        sfreq = self._rate.sfreq
        stamp_offset = self._stamp_offset(n_times)
        expected = last.stamp_index + step * sfreq
        missing = self._missing(packet, last, expected - (last.stop + stamp_offset), n_times)
        start = last.stop + missing
        seconds = last.stamp_seconds + step + (n_times - 1 - stamp_offset) / sfreq
        if missing:
            self._count_gap(missing)
        self._host.add(seconds, host)
        end = self._slewed(seconds, last)
        period = (end - last.time) / (n_times + missing)
        return self._emit(packet, n_times, host, start, seconds, end, period)

    def _missing(self, packet: Packet, last: _Last, deviation: float, n_times: int) -> int:
        """Samples lost before this packet: 0 unless the stamps or the counter say otherwise."""
        seq_step = self._seq_step(packet, last)
        if seq_step == 1 or (seq_step is None and deviation <= 0.5 * n_times):
            return 0
        return max(round(deviation), 1)

    def _count_gap(self, missing: int) -> None:
        self.stats.gaps += 1
        self.stats.lost_samples += missing

    def _slewed(self, seconds: float, last: _Last) -> float:
        """Host time of the newest sample: continuous, never faster off the sensor's clock than SLEW."""
        natural = (seconds - last.seconds) * (1.0 + self._host.drift)
        error = self._host.host(seconds) - (last.time + natural)
        limit = (SLEW_FAR if abs(error) > FAR_S else SLEW) * natural
        return last.time + natural + min(max(error, -limit), limit)

    def _emit(
        self, packet: Packet, n_times: int, host: float, start: int, seconds: float, end: float, period: float
    ) -> Chunk:
        offset = self._stamp_offset(n_times)
        stamp_seconds = seconds - (n_times - 1 - offset) / self._rate.sfreq
        self._rate.add(start + offset, stamp_seconds)
        stop = start + n_times
        self._last = _Last(
            packet.seq, seconds, packet.ticks, packet.boot, start + offset, stamp_seconds, stop, host, end
        )
        self.stats.samples += n_times
        self.stats.sfreq, self.stats.sfreq_now = self._rate.whole, self._rate.sfreq
        self.stats.drift_ppm = self._host.drift * 1e6
        values = np.array(packet.values, dtype=np.int64).reshape(n_times, len(self.info.ch_names))
        low, high = self.info.value_range
        valid = ((values > low) & (values < high)).all(axis=1)
        clock = Clock(start, end - (n_times - 1) * period, period)
        return Chunk(self.info.modality, start, values * self.info.scale, valid, clock)


def _wrapped_step(new: int, old: int, bits: int) -> int:
    """Difference of two counters that wrap at ``2 ** bits``, the shorter way round."""
    span = 1 << bits
    step = (new - old) % span
    return step - span if step >= span // 2 else step
