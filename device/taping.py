"""Between the daemon and its recording: raw data is left out where somebody says so, while predictions go on.

It knows nothing of sockets, nor of how a recording is written.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from device.errors import RequestError
from device.notification import Arrival, Notification

STOPPED, STARTED = "affectd: recording stopped", "affectd: recording started"
"""Events, in the recording and the sinks: between the two there is no raw data."""


class Records(Protocol):
    """What takes arrivals; :class:`device.recording.RecordingWriter` is one."""

    def keep(self, arrival: Arrival) -> object:
        """Add one, where the disk takes it."""


class Taping:
    """Hands arrivals on, or leaves out what sensors send; links' changes and events are always recorded.

    ``mark`` makes an event. It begins recording with every start of the daemon.
    """

    def __init__(self, recording: Records, mark: Callable[[str], object]) -> None:
        self._recording = recording
        self._mark = mark
        self.on = True
        self.left_out = 0
        """Notifications that were not recorded."""

    def keep(self, arrival: Arrival) -> None:
        """Add one, or count it."""
        if self.on or not isinstance(arrival, Notification):
            self._recording.keep(arrival)
        else:
            self.left_out += 1

    def set(self, on: bool) -> bool:
        """Record raw data from now on, or none; whether that is a change."""
        if on == self.on:
            return False
        self.on = on
        self._mark(STARTED if on else STOPPED)
        return True

    async def answers(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answer to one request of the control socket; raises RequestError."""
        on = request.get("on")
        if not isinstance(on, bool):
            raise RequestError("recording: on is true or false", "use the affectd of the same version")
        yield {"changed": self.set(on), "on": self.on}
