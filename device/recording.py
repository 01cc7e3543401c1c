"""Raw notifications on disk: one append-only segment, a CRC per record, readable after a power cut without repair.

It knows nothing of protocols, of what the bytes mean, or of asyncio.

A segment, all integers little-endian:

====================  =======================================================================================
magic                 8 bytes ``89 61 66 66 72 65 63 0a``
head                  u16 format version, u32 length of the header, u32 CRC-32 of the header (since format version 3
                      of the version field and the header)
header                JSON, see :class:`Header`
record, any number    u32 length of the payload, u32 CRC-32 of the length field and the payload, payload
====================  =======================================================================================

A payload starts with a byte that says its type:

1. notification: u8 stream in the order of the header, u64 host_ns, the bytes
2. end: u64 number of records before it, written by a clean close; a segment without one is whole up to its last record
3. link change (since format version 2): u8 stream, u64 host_ns, u8 state as in ``LinkState``, the reason in UTF-8
4. event (since format version 3): u64 host_ns, the description in UTF-8
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn, Self, get_args

import msgspec

from device.errors import RecordingError
from device.notification import Arrival, Event, LinkChange, LinkState, Notification
from firmware_bridge.packet import StreamInfo

MAGIC = b"\x89affrec\n"
"""A byte no text file starts with, and a line feed that a transfer as text would change."""
FORMAT_VERSION = 3
READABLE = (1, 2, FORMAT_VERSION)
SUFFIX = ".affrec"
MAX_STREAMS = 255
"""A record names its stream in one byte."""
MAX_PAYLOAD = 1 << 16
"""Bytes; an attribute value has at most 512, so a longer record is a wrong length field."""

_FILE_MODE = 0o600
"""Physiological data: for the owner's eyes only."""
_DIRECTORY_MODE = 0o700
_HEAD = struct.Struct("<HII")
_RECORD = struct.Struct("<II")
_NOTIFICATION = struct.Struct("<BBQ")
_END = struct.Struct("<BQ")
_LINK = struct.Struct("<BBQB")
_EVENT = struct.Struct("<BQ")
_TYPE_NOTIFICATION = 1
_TYPE_END = 2
_TYPE_LINK = 3
_TYPE_EVENT = 4
_STATES: tuple[LinkState, ...] = get_args(LinkState)
_REASON_BYTES = 500
"""Of a link change; a longer reason is cut."""

_RECOVER = "replay it with --recover, which stops at the last whole record"
_FOREIGN = "name a recording made by `affectd run`"


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the records need to be read and dated."""

    created: str
    """Wall time at the start, ISO 8601 in UTC, as the host believed it."""
    affectd: str
    """Version that wrote it."""
    host_ns: int
    """Host's monotonic clock at the start, ns."""
    wall_ns: int
    """Host's wall clock at the same moment, ns since 1970: ``wall_ns - host_ns`` dates every record."""
    streams: dict[str, StreamInfo]
    """How to read each stream's notifications, by its name."""


def affectd_version() -> str:
    """Version of the installed package."""
    try:
        return version("affectd")
    except PackageNotFoundError:
        return "unknown"


def _header_crc(number: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(number.to_bytes(2, "little")) if number >= 3 else 0)


class RecordingWriter:
    """Writes one segment. Each record is handed to the kernel at once, so that a killed process loses none;
    ``sync`` bounds what a power cut can take.
    """

    def __init__(
        self,
        directory: Path,
        streams: Mapping[str, StreamInfo],
        *,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if not 1 <= len(streams) <= MAX_STREAMS:
            raise ValueError(f"{len(streams)} streams: a recording holds 1 to {MAX_STREAMS}")
        self._ids = {name: number for number, name in enumerate(streams)}
        wall = wall_ns()
        created = datetime.fromtimestamp(wall / 1e9, UTC)
        self.header = header = Header(created.isoformat(), affectd_version(), monotonic_ns(), wall, dict(streams))
        self.path = Path(directory) / f"{created:%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
        self.records = 0
        self._lock = self._fd = -1
        try:
            self._open(header)
        except OSError as error:
            self._release()
            self._fail(error, "cannot be created", "make the directory writable, or change [recording] directory")

    def _open(self, header: Header) -> None:
        self.path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        self._lock = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            remedy = "stop it, or give this one another [recording] directory"
            raise RecordingError(self.path.parent, "", "another affectd records here", remedy) from None
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, _FILE_MODE)
        text = msgspec.json.encode(header)
        self._write(MAGIC + _HEAD.pack(FORMAT_VERSION, len(text), _header_crc(FORMAT_VERSION, text)) + text)
        self.sync()
        os.fsync(self._lock)  # the file's name, too, must outlive a power cut

    def append(self, arrival: Arrival) -> None:
        """Add one record; raises RecordingError where the disk refuses it, which leaves the segment whole."""
        if isinstance(arrival, Event):
            self._append(_EVENT.pack(_TYPE_EVENT, arrival.host_ns) + arrival.description.encode(errors="replace"))
        elif isinstance(arrival, LinkChange):
            head = self._ids[arrival.stream], arrival.host_ns, _STATES.index(arrival.state)
            self._append(_LINK.pack(_TYPE_LINK, *head) + arrival.reason.encode(errors="replace")[:_REASON_BYTES])
        else:
            head = _TYPE_NOTIFICATION, self._ids[arrival.stream], arrival.host_ns
            self._append(_NOTIFICATION.pack(*head) + arrival.data)
        self.records += 1

    def sync(self) -> None:
        """Make everything appended so far outlive a power cut. May take long; safe to call in another thread."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Mark the end and let go of the file; a second call does nothing."""
        if self._fd < 0:
            return
        try:
            self._append(_END.pack(_TYPE_END, self.records))
            self.sync()
        finally:
            self._release()

    def _append(self, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD:
            raise ValueError(f"{len(payload)} bytes: a record holds {MAX_PAYLOAD}")
        length = len(payload).to_bytes(4, "little")
        crc = zlib.crc32(payload, zlib.crc32(length))
        whole = os.fstat(self._fd).st_size
        try:
            self._write(length + crc.to_bytes(4, "little") + payload)
        except OSError as error:
            os.ftruncate(self._fd, whole)
            self._fail(error, "cannot be written", "make room on the disk, or change [recording] directory")

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def _fail(self, error: OSError, what: str, remedy: str) -> NoReturn:
        raise RecordingError(self.path, f"record {self.records + 1}", f"{what}: {error.strerror}", remedy) from error

    def _release(self) -> None:
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RecordingReader:
    """Reads one segment from its start; iterating gives its Arrivals.

    A damaged record raises RecordingError that names the byte and the record; with ``recover`` it ends the iteration
    instead, and ``left_out`` and ``damage`` say what was not given out.
    """

    def __init__(self, path: Path, *, recover: bool = False) -> None:
        self.path = Path(path)
        self.recover = recover
        self.closed = False
        """Whether the iteration met the mark of a clean close."""
        self.left_out = 0
        """Bytes behind the last whole record that were not given out."""
        self.damage: RecordingError | None = None
        with self._file() as file:
            self.header = self._read_header(file)
            self._start = file.tell()
        self._names = tuple(self.header.streams)

    @property
    def streams(self) -> dict[str, StreamInfo]:
        """How to read each stream's notifications."""
        return self.header.streams

    def __iter__(self) -> Iterator[Arrival]:
        self.closed, self.left_out, self.damage = False, 0, None
        with self._file() as file:
            file.seek(self._start)
            try:
                yield from self._records(file)
            except RecordingError as damage:
                if not self.recover:
                    raise
                self.damage = damage
                self.left_out = self.path.stat().st_size - int(damage.place)

    def _records(self, file: BinaryIO) -> Iterator[Arrival]:
        number = 0
        while True:
            offset = file.tell()
            payload = self._payload(file, offset, number + 1)
            if payload is None:
                return
            if self.closed:
                raise self._damaged(offset, f"record {number + 1}: follows the end of the recording")
            arrival = self._parse(payload, offset, number)
            if arrival is None:
                self.closed = True
                continue
            number += 1
            yield arrival

    def _payload(self, file: BinaryIO, offset: int, number: int) -> bytes | None:
        """One record's payload; None at the end of the file."""
        head = file.read(_RECORD.size)
        if not head:
            return None
        if len(head) < _RECORD.size:
            raise self._damaged(offset, f"record {number}: cut short, {len(head)} of {_RECORD.size} bytes of its head")
        length, crc = _RECORD.unpack(head)
        if not 1 <= length <= MAX_PAYLOAD:
            raise self._damaged(offset, f"record {number}: a length of {length} bytes, expected 1 to {MAX_PAYLOAD}")
        payload = file.read(length)
        if len(payload) < length:
            raise self._damaged(offset, f"record {number}: cut short, {len(payload)} of {length} bytes")
        if zlib.crc32(payload, zlib.crc32(head[:4])) != crc:
            raise self._damaged(offset, f"record {number}: its bytes and its checksum differ")
        return payload

    def _parse(self, payload: bytes, offset: int, before: int) -> Arrival | None:
        """One payload; None for the end."""
        kind = payload[0]
        if kind == _TYPE_END and len(payload) == _END.size:
            if (count := _END.unpack(payload)[1]) != before:
                raise self._damaged(offset, f"the end counts {count} records where {before} were read")
            return None
        if kind == _TYPE_NOTIFICATION and len(payload) >= _NOTIFICATION.size:
            _, stream, host_ns = _NOTIFICATION.unpack_from(payload)
            if stream < len(self._names):
                return Notification(self._names[stream], host_ns, payload[_NOTIFICATION.size :])
        if kind == _TYPE_LINK and len(payload) >= _LINK.size:
            _, stream, host_ns, state = _LINK.unpack_from(payload)
            if stream < len(self._names) and state < len(_STATES):
                reason = payload[_LINK.size :].decode(errors="replace")
                return LinkChange(self._names[stream], host_ns, _STATES[state], reason)
        if kind == _TYPE_EVENT and len(payload) >= _EVENT.size:
            _, host_ns = _EVENT.unpack_from(payload)
            return Event(host_ns, payload[_EVENT.size :].decode(errors="replace"))
        raise self._damaged(offset, f"record {before + 1}: type {kind} that this version of affectd cannot read")

    def _damaged(self, offset: int, reason: str) -> RecordingError:
        return RecordingError(self.path, offset, reason, _RECOVER)

    def _file(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise RecordingError(self.path, "", f"cannot be read: {error.strerror}", _FOREIGN) from error

    def _read_header(self, file: BinaryIO) -> Header:
        start = file.read(len(MAGIC) + _HEAD.size)
        if not start.startswith(MAGIC):
            raise RecordingError(self.path, 0, "not a recording of affectd", _FOREIGN)
        if len(start) < len(MAGIC) + _HEAD.size:
            raise self._no_header(len(start), "cut short in its head")
        number, length, crc = _HEAD.unpack_from(start, len(MAGIC))
        if number not in READABLE:
            reason = f"format version {number}, expected {FORMAT_VERSION}"
            raise RecordingError(self.path, len(MAGIC), reason, "read it with the affectd that wrote it")
        text = file.read(min(length, self.path.stat().st_size))
        if len(text) < length or _header_crc(number, text) != crc:
            raise self._no_header(len(start), "its header is damaged or cut short")
        try:
            return msgspec.json.decode(text, type=Header)
        except msgspec.DecodeError as error:
            raise self._no_header(len(start), f"its header cannot be read: {error}") from error

    def _no_header(self, offset: int, reason: str) -> RecordingError:
        return RecordingError(self.path, offset, reason, "nothing can be read without it: use another recording")
