"""Predictions, events and the wall clock as lines of JSON in a file, appended, each line in one write.

With recipients each line holds another one, sealed, and names its key, which stands before the first, wrapped for them.
The daemon's are on the disk before the next one comes, so that a power cut takes at most the line that is being
written. It knows nothing of who reads them.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
import secrets
from pathlib import Path

import msgspec

from device.errors import SinkError
from device.notification import ClockReading, Event
from device.sealing import Sealer, padded
from device.sinks.base import Item, Written
from firmware_bridge.private import FILE_MODE, make_folder

_REMEDY = "name another file in [sinks.jsonl] path, or make this one writable"

_FIRST_BYTES = 1 << 16
"""More than a key's line has, for a hundred recipients."""
NAMED = b'{"subject":'
"""What a line begins with that says of whom it is."""

_log = logging.getLogger(__name__)


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

    def __init__(self, path: Path, subject: str = "", recipients: tuple[str, ...] = ()) -> None:
        """Open or begin a file; each line says of whom it is, unless that is nobody's name. With ``recipients``, public
        keys of age, they alone read what it will hold. Raises SinkError."""
        self.path = Path(path)
        self._sealer = Sealer(recipients) if recipients else None
        self._key = secrets.token_hex(8)
        """What lines call the key by."""
        self._of = mark_of(subject)
        self._begins = True
        """Whether the next line is the first of a run."""
        try:
            make_folder(self.path.parent)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
        except OSError as error:
            raise SinkError(str(path), f"cannot be written: {error.strerror}", _REMEDY) from error
        self._mend()
        if self._sealer is not None and self._holds_plain():
            _log.warning("%s: what it held before is not encrypted, and stays so; move it away", self.path)

    def _holds_plain(self) -> bool:
        """Whether it begins so."""
        first, whole, _ = os.pread(self._fd, _FIRST_BYTES, 0).partition(b"\n")
        return bool(first or whole) and b'"wrapped":' not in first

    def _mend(self) -> None:
        """End a line that a power cut tore, so that the next one stands alone."""
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            try:
                self._append(b"\n")
            except SinkError:
                os.close(self._fd)
                raise
            _log.warning("%s: its last line was torn, and stays so", self.path)

    def write(self, item: Item) -> None:
        """Append one line, whole or not at all: one write to a file opened for appending. Raises SinkError."""
        tree = to_tree(item, self._begins)
        self._append(self._line(tree) if self._sealer is None else self._sealed(self._sealer, tree))
        self._begins = False

    def _line(self, tree: object) -> bytes:
        line = msgspec.json.encode(tree)
        return self._of + line.removeprefix(b"{") + b"\n" if self._of else line + b"\n"

    def _sealed(self, sealer: Sealer, tree: object) -> bytes:
        """A line, and before the first its key's."""
        key = self._line({"key": self._key, "wrapped": sealer.wrapped}) if self._begins else b""
        body = sealer.seal(padded(msgspec.json.encode(tree)))
        return key + self._line({"key": self._key, "sealed": base64.b64encode(body).decode()})

    def _append(self, line: bytes) -> None:
        before = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, line) != len(line):
                os.ftruncate(self._fd, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            remedy = "make room on its disk; what was written before is whole"
            raise SinkError(str(self.path), f"cannot be written: {error.strerror}", remedy) from error

    async def publish(self, item: Item) -> None:
        """Put one line on the disk, without holding up the event loop where that is slow."""
        await asyncio.to_thread(self._put, item)

    def _put(self, item: Item) -> None:
        self.write(item)
        self._sync()

    async def close(self) -> None:
        """Flush to the disk and close."""
        await asyncio.to_thread(self.finish)

    def finish(self) -> None:
        """Flush to the disk and close; raises SinkError."""
        try:
            self._sync()
        finally:
            os.close(self._fd)

    def _sync(self) -> None:
        """Make all that was written outlive a power cut, the file's name, too; raises SinkError."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or a terminal has no disk
                reason = f"its last lines may not be on the disk: {error.strerror}"
                raise SinkError(str(self.path), reason, "look at the disk's health") from error


def mark_of(subject: str) -> bytes:
    """What every line of a subject begins with; empty where nobody is named."""
    return NAMED + msgspec.json.encode(subject) + b"," if subject else b""
