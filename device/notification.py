"""What is recorded: notifications as the host received them, the changes of their link, events, what is missing, and
what the wall clock says.

``host_ns`` is nanoseconds of the host's own clock, which starts with the machine, never steps, and goes on in suspend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LinkState = Literal[
    "searching", "connecting", "starting", "streaming", "silent", "waiting", "paused", "refused", "ended"
]
"""searching and connecting: no link yet. starting: linked, the stream is being set up. streaming: data comes. silent:
linked, data has stopped. waiting: the next attempt is due later. paused: lent to a tool. refused: no new connection
can help, a person must. ended: let go of in good order."""


@dataclass(frozen=True, slots=True)
class Notification:
    """Bytes of one notification with the host's arrival time."""

    stream: str
    """Name of the stream it belongs to (a key of the recording's or the daemon's stream table)."""
    host_ns: int
    """Arrival, nanoseconds of the host's clock."""
    data: bytes
    """The notification, untouched."""


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A sensor's link has changed its state. A new connection begins with ``starting``."""

    stream: str
    host_ns: int
    """When, nanoseconds of the host's clock."""
    state: LinkState
    reason: str = ""
    """Why, for people; empty where it is in the way of things."""


@dataclass(frozen=True, slots=True)
class Event:
    """What somebody says happens, e.g. that a task begins."""

    host_ns: int
    """When, nanoseconds of the host's clock."""
    description: str


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """Here arrivals are missing that affectd had, because the disk took none or a segment is not there."""

    host_ns: int
    """When the first of them came, nanoseconds of the host's clock."""
    records: int
    """How many."""
    reason: str


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What the clocks of the machine say at one moment; of the wall clock, it may be wrong."""

    host_ns: int
    wall_ns: int
    """Nanoseconds since 1970, as the host believes."""
    asleep_ns: int = 0
    """How long the machine has been suspended since its start; ``host_ns`` has it in it."""
    is_synchronised: bool = False
    """Whether the wall clock is known to follow a time server's, or a better one; else it may be off by years."""

    def wall_of(self, host_ns: int) -> int:
        """Wall time of a host time, ns since 1970."""
        return host_ns + self.wall_ns - self.host_ns


Arrival = Notification | LinkChange | Event | Unrecorded | ClockReading
"""One thing that a recording holds; the first two come from sources."""
