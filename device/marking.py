"""Events: what somebody says happens (`affectd mark "stroop start"`) is recorded at once and then published.

It knows nothing of sockets or sinks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from device.errors import EventError
from device.notification import Event
from device.wall import host_ns

LONGEST = 200
"""Characters of a description; a longer text is a diary, and belongs into one."""


def event_of(description: object, when_ns: int) -> Event:
    """An event; raises EventError for a description that is empty, too long or not one line."""
    text = description.strip() if isinstance(description, str) else ""
    if not text:
        raise EventError("an event without a description", 'say what happens: `affectd mark "stroop start"`')
    if len(text) > LONGEST:
        raise EventError(f"a description of {len(text)} characters", f"say it in {LONGEST}")
    if not text.isprintable():
        raise EventError("a description with characters that cannot be printed", "say it in one line of text")
    return Event(when_ns, text)


class Marking:
    """Takes events of a running daemon."""

    def __init__(self, record: Callable[[Event], bool], clock: Callable[[], int] = host_ns) -> None:
        self._record = record
        self._clock = clock
        self.publish: Callable[[Event], None] = lambda _: None
        """Where they go beside the recording, once that is open."""

    def mark(self, description: object) -> tuple[Event, bool]:
        """Record and publish, the latter also where a full disk takes no recording; the event, and whether it was
        recorded. Raises EventError."""
        event = event_of(description, self._clock())
        recorded = self._record(event)
        self.publish(event)
        return event, recorded

    async def answers(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answer to one request of the control socket."""
        event, recorded = self.mark(request.get("description"))
        yield {"marked": event.description, "host_ns": event.host_ns, "recorded": recorded}
