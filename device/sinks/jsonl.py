"""Predictions, events and the wall clock as lines of JSON in a file, appended, each line in one write.

It knows nothing of who reads them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from device.errors import SinkError
from device.notification import ClockReading, Event
from device.sinks.base import Item

_MODE = 0o600
"""What somebody felt: for the owner's eyes only."""
_DIRECTORY_MODE = 0o700
_REMEDY = "name another file in [sinks.jsonl] path, or make this one writable"


def to_tree(item: Item, begins_run: bool = False) -> object:
    """What is written of one, fit for JSON; ``start`` is in s of the host's clock, ``clock`` the wall clock then, in s
    since 1970."""
    if isinstance(item, Event):
        return {"event": item.description, "start": item.host_ns / 1e9}
    if isinstance(item, ClockReading):
        read = {"clock": item.wall_ns / 1e9, "start": item.host_ns / 1e9}
        known = {"asleep_s": item.asleep_ns / 1e9, "is_synchronised": item.is_synchronised}
        return read | known | {"begins_run": begins_run}
    return item


class JsonlSink:
    """Appends to one file."""

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
        except OSError as error:
            raise SinkError(str(path), f"cannot be written: {error.strerror}", _REMEDY) from error
        self._begins = True
        """Whether the next line is the first of a run."""
        self._mend()

    def _mend(self) -> None:
        """End a line that a power cut tore, so that the next one stands alone."""
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")

    def write(self, item: Item) -> None:
        """Append one line, whole or not at all: one write to a file opened for appending."""
        line = msgspec.json.encode(to_tree(item, self._begins)) + b"\n"
        before = os.fstat(self._fd).st_size
        if os.write(self._fd, line) != len(line):
            os.ftruncate(self._fd, before)
            raise SinkError(str(self.path), "the disk is full", "make room on it")
        self._begins = False

    async def publish(self, item: Item) -> None:
        """Append one line, without holding up the event loop where the disk is slow."""
        await asyncio.to_thread(self.write, item)

    async def close(self) -> None:
        """Flush to the disk and close."""
        await asyncio.to_thread(self.finish)

    def finish(self) -> None:
        """Flush to the disk and close."""
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
