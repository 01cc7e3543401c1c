"""Watches the machine's clocks beside the flow; what they say anew is recorded at once and then published.

It knows nothing of how clocks are read, of files or of sinks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from device.notification import ClockReading
from device.wall import MOVED_NS, WallWatch, read_clocks, set_by_ns

LOOK_S = 5.0
"""Between two looks: a correction is late by so much, and dates what came before it all the same."""

_log = logging.getLogger(__name__)


class Timekeeping:
    """Of one run, from the reading at its beginning on."""

    def __init__(
        self,
        begin: ClockReading,
        record: Callable[[ClockReading], object],
        read: Callable[[], ClockReading] = read_clocks,
    ) -> None:
        self._watch = WallWatch(begin)
        self._record = record
        self._read = read
        self._publish: Callable[[ClockReading], None] = lambda _: None
        self._corrections = 0
        self._corrected: tuple[int, ClockReading] | None = None
        """By how much, and the reading thereafter."""

    @contextlib.asynccontextmanager
    async def watching(self, publish: Callable[[ClockReading], None]) -> AsyncIterator[None]:
        """Publish the reading that stands, and meanwhile look every so often."""
        self._publish = publish
        publish(self._watch.told)

        async def look() -> None:
            while True:
                await asyncio.sleep(LOOK_S)
                self.look()

        task = asyncio.create_task(look(), name="clock")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    def look(self) -> None:
        """Read the clocks; record, publish and say what is new."""
        before, now = self._watch.told, self._read()
        if not self._watch.push(now):
            return
        self._record(now)
        self._publish(now)
        by_ns, by = set_by_ns(before, now), ""
        if abs(by_ns) > MOVED_NS:  # else it was a sleep, or the network that came
            self._corrections += 1
            self._corrected = by_ns, now
            by = f"was set by {by_ns / 1e9:+.3f} s, "
        asleep_s = (now.asleep_ns - before.asleep_ns) / 1e9
        slept = f"; the machine has slept for {asleep_s:.0f} s" if asleep_s >= 1 else ""
        _log.info("the wall clock %sis %s%s", by, in_words(now.is_synchronised), slept)

    def to_json(self) -> dict[str, Any]:
        """How it stands, fit for JSON."""
        now = self._read()
        corrected = None
        if self._corrected is not None:
            by_ns, after = self._corrected
            corrected = {"by_s": by_ns / 1e9, "ago_s": round((now.host_ns - after.host_ns) / 1e9, 3)}
        return {
            "is_synchronised": now.is_synchronised,
            "wall": datetime.fromtimestamp(now.wall_ns / 1e9, UTC).isoformat(),
            "asleep_s": round(now.asleep_ns / 1e9, 3),
            "corrections": self._corrections,
            "corrected": corrected,
        }


def in_words(is_synchronised: bool) -> str:
    """Of a clock."""
    return "synchronised" if is_synchronised else "not known to be synchronised"
