"""Predictions, events and the wall clock as lines of JSON in a file, appended, each line in one write.

It knows nothing of who reads them.
"""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import msgspec

from device.errors import SinkError
from device.notification import ClockReading, Event
from device.sinks.base import Item, Written
from firmware_bridge.private import FILE_MODE, make_folder

_REMEDY = "name another file in [sinks.jsonl] path, or make this one writable"

NAMED = b'{"subject":'
"""What a line begins with that says of whom it is."""


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


class JsonlSink(Written):
    """Appends to one file."""

    name = "jsonl"

    def __init__(self, path: Path, subject: str = "") -> None:
        """Open or begin a file; each line says of whom it is, unless that is nobody's name. Raises SinkError."""
        self.path = Path(path)
        self._of = mark_of(subject)
        self._begins = True
        """Whether the next line is the first of a run."""
        try:
            make_folder(self.path.parent)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
        except OSError as error:
            raise SinkError(str(path), f"cannot be written: {error.strerror}", _REMEDY) from error
        self._mend()

    def _mend(self) -> None:
        """End a line that a power cut tore, so that the next one stands alone."""
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            try:
                self._append(b"\n")
            except SinkError:
                os.close(self._fd)
                raise

    def write(self, item: Item) -> None:
        """Append one line, whole or not at all: one write to a file opened for appending. Raises SinkError."""
        line = msgspec.json.encode(to_tree(item, self._begins))
        self._append(self._of + line.removeprefix(b"{") + b"\n" if self._of else line + b"\n")
        self._begins = False

    def _append(self, line: bytes) -> None:
        before = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line) != len(line):
                os.ftruncate(self._fd, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            remedy = "make room on its disk; what was written before is whole"
            raise SinkError(str(self.path), f"cannot be written: {error.strerror}", remedy) from error

    async def close(self) -> None:
        """Flush to the disk and close."""
        await asyncio.to_thread(self.finish)

    def finish(self) -> None:
        """Flush to the disk and close; raises SinkError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or a terminal has no disk
                reason = f"its last lines may not be on the disk: {error.strerror}"
                raise SinkError(str(self.path), reason, "look at the disk's health") from error
        finally:
            os.close(self._fd)


def mark_of(subject: str) -> bytes:
    """What every line of a subject begins with; empty where nobody is named."""
    return NAMED + msgspec.json.encode(subject) + b"," if subject else b""
