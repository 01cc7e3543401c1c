"""One BLE notification as the host received it: the unit of sources and of recordings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notification:
    """Bytes of one notification with the host's monotonic arrival time."""

    stream: str
    """Name of the stream it belongs to (a key of the recording's or the daemon's stream table)."""
    host_ns: int
    """Arrival, nanoseconds of the host's monotonic clock."""
    data: bytes
    """The notification, untouched."""
