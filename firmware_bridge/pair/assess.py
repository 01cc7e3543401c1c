"""The seam at which a signal is judged: packets in, a report out. `device/pair.py` puts the pipeline's own judges in.

Knows nothing of how rate, quality and heart rate are found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from firmware_bridge.packet import Packet, StreamInfo


@dataclass(frozen=True, slots=True)
class Report:
    """What a stream has been worth so far."""

    samples: int = 0
    lost: int = 0
    """Samples that the sensor's stamps or counter show to be missing."""
    gaps: int = 0
    duplicates: int = 0
    resets: int = 0
    """Times the sensor's clock began anew."""
    sfreq: float = 0.0
    """Samples per second of the sensor's clock, Hz."""
    arriving: float | None = None
    """Samples per second of the host's clock, lost ones counted, Hz; None: too short to tell."""
    good: float | None = None
    """Share of the judged windows that are good enough to predict from; None: too short to judge one."""
    problems: tuple[str, ...] = ()
    """What is wrong with the others, commonest first."""
    heart_rate: float | None = None
    """1/min, of the last beats; None: none found (yet), or no ECG."""
    level: float | None = None
    """The newest value in the stream's unit; None: none yet, or no value (electrodes open, saturated)."""


class Assessor(Protocol):
    """Judges one stream."""

    def push(self, packet: Packet, host_ns: int) -> None:
        """Take one packet with its arrival on the host's monotonic clock, ns."""

    def report(self) -> Report:
        """On everything so far."""

    def recent(self, seconds: float) -> Sequence[float]:
        """The newest samples in the stream's unit, for a plot; NaN for lost and unusable ones."""


Assess = Callable[[StreamInfo], Assessor]
"""A fresh assessor for a stream."""
