"""What every codec hands on: a Packet of integers exactly as sent, and the StreamInfo that reads them.

Knows nothing of radios, clocks of the host, or filters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Modality = Literal["ecg", "eda"]


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """How to read the packets of one sensor stream. One stream has one rate."""

    protocol: str
    """Name of the codec, e.g. ``polar-pmd-ecg``."""
    modality: Modality
    """What is measured."""
    ch_names: tuple[str, ...]
    """Channel names, in the order of the values."""
    units: str
    """Physical unit after ``scale``: ``mV`` for ECG, ``uS`` for EDA."""
    scale: float
    """Physical value = integer as sent * scale."""
    sfreq: float
    """Nominal rate in Hz. The true rate is fitted from the sensor's ticks."""
    sfreq_tolerance: float
    """Relative error of the nominal rate the maker admits, e.g. 0.05."""
    tick_hz: float
    """Rate of the sensor's clock in Hz (1e9 for nanoseconds)."""
    tick_bits: int
    """The sensor's clock wraps at ``2 ** tick_bits``."""
    stamped: Literal["first", "last"]
    """Which sample of a packet its ticks belong to."""
    seq_bits: int = 0
    """The packet counter wraps at ``2 ** seq_bits``; 0 where the protocol has none."""
    value_range: tuple[int, int] = (-(2**31), 2**31 - 1)
    """Smallest and largest integer the sensor can mean; a value at either end is saturated."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One notification's samples, integers as sent.

    Where what is sent is not linear in the unit (ohm, ranges, an impedance), the codec's dataclass keeps it exactly
    as sent, and the packet holds it converted, in integers fine enough to lose nothing (pS for conductance).
    """

    ticks: int
    """The sensor's clock at the stamped sample, as sent (wrapped)."""
    values: tuple[int, ...]
    """Samples, channel by channel within a sample."""
    seq: int | None = None
    """Packet counter as sent (wrapped); None where the protocol has none."""
    boot: int | None = None
    """Changes when the sensor's clock has started anew; None where a packet does not say."""
