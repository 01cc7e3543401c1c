"""What a link looks like from outside: its status, and the log of its changes.

Knows nothing of radios.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from device.notification import LinkChange, LinkState

_LEVELS: Mapping[LinkState, int] = {
    "silent": logging.WARNING,
    "waiting": logging.WARNING,
    "refused": logging.ERROR,
}
"""What a person may want to see; everything else is in the way of things."""

_log = logging.getLogger("device.sources.ble")


@dataclass(slots=True)
class LinkStatus:
    """One sensor's link, for the status socket."""

    state: LinkState = "ended"
    reason: str = ""
    """Why, and what to do about it; empty where it is in the way of things."""
    since_ns: int = 0
    """When the state began, the host's clock."""
    connections: int = 0
    drops: int = 0
    """Connections that ended without being let go of."""
    restarts: int = 0
    """Streams started anew on the same link."""
    notifications: int = 0
    last_ns: int = 0
    """When data last came; 0: never."""
    mtu: int = 0
    """Of the present or last connection."""
    battery: int | None = None
    """Percent, at the last reading; None: the sensor does not say."""
    adapter: str = ""
    rung: str = ""
    """What the recovery ladder tries; empty: nothing is wrong."""


def log_change(change: LinkChange, rung: str) -> None:
    """One line, with fields for journald."""
    fields = {"sensor": change.stream, "state": change.state, "reason": change.reason, "rung": rung}
    text = f": {change.reason}" if change.reason else ""
    level = _LEVELS.get(change.state, logging.INFO)
    _log.log(level, "sensor %s: %s%s", change.stream, change.state, text, extra=fields)
