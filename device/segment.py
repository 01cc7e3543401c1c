"""One file of raw notifications: append-only, a CRC per record, readable after a power cut without repair.

It knows nothing of protocols, of what the bytes mean, of other files, or of asyncio.

A segment, all integers little-endian; the whole of it may be compressed (xz), under the same name:

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
5. unrecorded (since format version 4): u64 host_ns, u64 records, the reason in UTF-8
6. sealed (since format version 4): u64 number, another payload sealed with it, see ``device.sealing``; where the header
   has a key, every record is
7. clock (since format version 4): u64 host_ns, i64 wall_ns, u64 asleep_ns, u8 1 where the wall clock is synchronised
"""

from __future__ import annotations

import contextlib
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO, cast, get_args

import msgspec

from device.errors import RecordingError
from device.notification import Arrival, ClockReading, Event, LinkChange, LinkState, Notification, Unrecorded
from device.sealing import Opener, Sealer
from firmware_bridge.packet import StreamInfo
from firmware_bridge.private import FILE_MODE

MAGIC = b"\x89affrec\n"
"""A byte no text file starts with, and a line feed that a transfer as text would change."""
FORMAT_VERSION = 5
READABLE = (1, 2, 3, 4, FORMAT_VERSION)
SUFFIX = ".affrec"
XZ_MAGIC = b"\xfd7zXZ\x00"
MAX_STREAMS = 255
"""A record names its stream in one byte."""
MAX_PAYLOAD = 1 << 16
"""Bytes; an attribute value has at most 512, so a longer record is a wrong length field."""
MAX_HEADER = 1 << 20
"""Bytes; 255 streams take a tenth of it."""

_HEAD = struct.Struct("<HII")
_RECORD = struct.Struct("<II")
_NOTIFICATION = struct.Struct("<BBQ")
_END = struct.Struct("<BQ")
_LINK = struct.Struct("<BBQB")
_EVENT = struct.Struct("<BQ")
_UNRECORDED = struct.Struct("<BQQ")
_CLOCK = struct.Struct("<BQqQ?")
_TYPE_NOTIFICATION = 1
_TYPE_END = 2
_TYPE_LINK = 3
_TYPE_EVENT = 4
_TYPE_UNRECORDED = 5
_TYPE_SEALED = 6
_TYPE_CLOCK = 7
_STATES: tuple[LinkState, ...] = get_args(LinkState)
_SEAL_BYTES = 32
"""More than a sealed record is longer by."""
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
    """Host's clock at the start, ns."""
    wall_ns: int
    """Host's wall clock at the same moment, ns since 1970, as the host believed it."""
    streams: dict[str, StreamInfo]
    """How to read each stream's notifications, by its name."""
    run: str = ""
    """Which run of the daemon it is of, at random; empty before format version 4, where a run has one segment."""
    number: int = 0
    """Which segment of its run, from 0."""
    before: int = 0
    """Records of its run in the segments before it."""
    recorded_ns: int = 0
    """Time that was recorded in this directory before it, ns: an age that no step of the wall clock changes."""
    sealed: str = ""
    """Key of its records, wrapped with age for who may read them, in base64; empty where they are not encrypted."""
    asleep_ns: int = 0
    is_synchronised: bool = False
    subject: str = ""
    """Of whom it is; empty where nobody was named, and before format version 5."""

    @property
    def clock(self) -> ClockReading:
        """What the clocks said at the start."""
        return ClockReading(self.host_ns, self.wall_ns, self.asleep_ns, self.is_synchronised)


def affectd_version() -> str:
    """Version of the installed package."""
    try:
        return version("affectd")
    except PackageNotFoundError:
        return "unknown"


def _header_crc(number: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(number.to_bytes(2, "little")) if number >= 3 else 0)


class SegmentWriter:
    """Writes one new file. Each record is handed to the kernel at once, so that a killed process loses none.

    OSErrors are the caller's: one from ``append`` leaves the segment whole, unless ``torn`` says otherwise.
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        write: Callable[[int, bytes], int] = os.write,
        recipients: tuple[str, ...] = (),
    ) -> None:
        self._sealer = Sealer(recipients) if recipients else None
        if self._sealer is not None:
            header = msgspec.structs.replace(header, sealed=self._sealer.wrapped)
        self.path = path
        self.header = header
        self.records = self.bytes = 0
        self.torn = False
        """Whether half a record could not be taken back: nothing may follow it."""
        self.span_ns = 0
        """Between the host times of the first and the latest record, ns."""
        self._first_ns: int | None = None
        self._ids = {name: number for number, name in enumerate(header.streams)}
        self._write_some = write
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, FILE_MODE)
        text = msgspec.json.encode(header)
        try:
            self._write(MAGIC + _HEAD.pack(FORMAT_VERSION, len(text), _header_crc(FORMAT_VERSION, text)) + text)
        except OSError:
            self.close()
            path.unlink()
            raise

    def append(self, arrival: Arrival) -> None:
        """Add one record."""
        self._append(self._payload(arrival))
        self.records += 1
        if self._first_ns is None:
            self._first_ns = arrival.host_ns
        self.span_ns = self.until(arrival.host_ns)

    def until(self, host_ns: int) -> int:
        """From the first record to a host time, ns."""
        return 0 if self._first_ns is None else max(0, host_ns - self._first_ns)

    def seal(self) -> None:
        """Mark the end, where there is room for the mark; nothing is appended after it."""
        if not self.torn:
            with contextlib.suppress(OSError):
                self._append(_END.pack(_TYPE_END, self.records))

    def sync(self) -> None:
        """Make everything appended so far outlive a power cut. May take long; safe to call in another thread."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _payload(self, arrival: Arrival) -> bytes:
        if isinstance(arrival, Event):
            return _EVENT.pack(_TYPE_EVENT, arrival.host_ns) + arrival.description.encode(errors="replace")
        if isinstance(arrival, ClockReading):
            return _CLOCK.pack(
                _TYPE_CLOCK, arrival.host_ns, arrival.wall_ns, arrival.asleep_ns, arrival.is_synchronised
            )
        if isinstance(arrival, Unrecorded):
            head = _UNRECORDED.pack(_TYPE_UNRECORDED, arrival.host_ns, arrival.records)
            return head + _cut(arrival.reason)
        if isinstance(arrival, LinkChange):
            state = _STATES.index(arrival.state)
            return _LINK.pack(_TYPE_LINK, self._ids[arrival.stream], arrival.host_ns, state) + _cut(arrival.reason)
        return _NOTIFICATION.pack(_TYPE_NOTIFICATION, self._ids[arrival.stream], arrival.host_ns) + arrival.data

    def _append(self, payload: bytes) -> None:
        if len(payload) > MAX_PAYLOAD - _SEAL_BYTES:
            raise ValueError(f"{len(payload)} bytes: a record holds {MAX_PAYLOAD - _SEAL_BYTES}")
        if self._sealer is not None:
            payload = bytes([_TYPE_SEALED]) + self._sealer.seal(payload)
        length = len(payload).to_bytes(4, "little")
        crc = zlib.crc32(payload, zlib.crc32(length))
        try:
            self._write(length + crc.to_bytes(4, "little") + payload)
        except OSError:
            self.torn = True
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.bytes)
                self.torn = False
            raise

    def _write(self, data: bytes) -> None:
        """All of it, whereupon it counts."""
        rest = data
        while rest:
            rest = rest[self._write_some(self._fd, rest) :]
        self.bytes += len(data)


def _cut(reason: str) -> bytes:
    return reason.encode(errors="replace")[:_REASON_BYTES]


def is_compressed(path: Path) -> bool:
    """Whether a segment is compressed already; raises OSError."""
    with path.open("rb") as file:
        return file.read(len(XZ_MAGIC)) == XZ_MAGIC


def is_unbegun(path: Path) -> bool:
    """Whether a crash left it before its header was whole, so that no record can be in it; raises OSError."""
    size, head = path.stat().st_size, len(MAGIC) + _HEAD.size
    with path.open("rb") as file:
        start = file.read(head)
    if not start.strip(b"\0"):
        return size < MAX_HEADER and not path.read_bytes().strip(b"\0")
    if not start.startswith(MAGIC[: len(start)]):
        return False
    return len(start) < head or size < head + _HEAD.unpack_from(start, len(MAGIC))[1]


class SegmentReader:
    """Reads one segment from its start; iterating gives its Arrivals.

    A damaged record raises RecordingError that names the byte and the record; with ``recover`` it ends the iteration
    instead, and ``left_out`` and ``damage`` say what was not given out.
    """

    def __init__(self, path: Path, *, recover: bool = False, identity: Path | None = None) -> None:
        self.path = Path(path)
        self.recover = recover
        self.identity = identity
        self._opener: Opener | None = None
        self.closed = False
        """Whether the iteration met the mark of a clean close."""
        self.left_out = 0
        """Bytes behind the last whole record that were not given out; all of a file whose compression is damaged."""
        self.damage: RecordingError | None = None
        with self._file() as file:
            self.header = self._read_header(file)
            self.start = file.tell()
            """Bytes before the first record, unpacked."""
        self._names = tuple(self.header.streams)

    @property
    def streams(self) -> dict[str, StreamInfo]:
        """How to read each stream's notifications."""
        return self.header.streams

    def __iter__(self) -> Iterator[Arrival]:
        self.closed, self.left_out, self.damage = False, 0, None
        self._opener = self._opened()
        with self._file() as file:
            file.seek(self.start)
            try:
                yield from self._records(file)
            except RecordingError as damage:
                if not self.recover:
                    raise
                self.damage = damage
                self.left_out = self._behind(file, int(damage.place))

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
        head = self._read(file, offset, _RECORD.size)
        if not head:
            return None
        if len(head) < _RECORD.size:
            raise self._damaged(offset, f"record {number}: cut short, {len(head)} of {_RECORD.size} bytes of its head")
        length, crc = _RECORD.unpack(head)
        if not 1 <= length <= MAX_PAYLOAD:
            raise self._damaged(offset, f"record {number}: a length of {length} bytes, expected 1 to {MAX_PAYLOAD}")
        payload = self._read(file, offset, length)
        if len(payload) < length:
            raise self._damaged(offset, f"record {number}: cut short, {len(payload)} of {length} bytes")
        if zlib.crc32(payload, zlib.crc32(head[:4])) != crc:
            raise self._damaged(offset, f"record {number}: its bytes and its checksum differ")
        return self._unsealed(payload, offset, number)

    def _opened(self) -> Opener | None:
        if not self.header.sealed:
            return None
        if self.identity is None:
            raise RecordingError(self.path, "", "is encrypted", "give --identity FILE, the age key of who may read it")
        return Opener(self.header.sealed, self.identity)

    def _unsealed(self, payload: bytes, offset: int, number: int) -> bytes:
        if self._opener is None:
            return payload
        try:
            if payload[0] != _TYPE_SEALED:
                raise ValueError("it is not sealed")
            return self._opener.open(payload[1:])
        except ValueError as error:
            raise self._damaged(offset, f"record {number}: {error}") from error

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
        if kind == _TYPE_UNRECORDED and len(payload) >= _UNRECORDED.size:
            _, host_ns, records = _UNRECORDED.unpack_from(payload)
            return Unrecorded(host_ns, records, payload[_UNRECORDED.size :].decode(errors="replace"))
        if kind == _TYPE_CLOCK and len(payload) == _CLOCK.size:
            return ClockReading(*_CLOCK.unpack(payload)[1:])
        raise self._damaged(offset, f"record {before + 1}: type {kind} that this version of affectd cannot read")

    def _damaged(self, offset: int, reason: str) -> RecordingError:
        return RecordingError(self.path, offset, reason, _RECOVER)

    def _file(self) -> BinaryIO:
        try:
            return cast(BinaryIO, lzma.open(self.path)) if is_compressed(self.path) else self.path.open("rb")
        except OSError as error:
            raise RecordingError(self.path, "", f"cannot be read: {error.strerror}", _FOREIGN) from error

    def _read(self, file: BinaryIO, offset: int, length: int) -> bytes:
        try:
            return file.read(length)
        except (lzma.LZMAError, EOFError) as error:
            raise self._damaged(offset, f"its compression is damaged: {error}") from error

    def _behind(self, file: BinaryIO, offset: int) -> int:
        try:
            return file.seek(0, os.SEEK_END) - offset
        except (lzma.LZMAError, EOFError):
            return self.path.stat().st_size

    def _read_header(self, file: BinaryIO) -> Header:
        start = self._read(file, 0, len(MAGIC) + _HEAD.size)
        if not start.startswith(MAGIC):
            raise RecordingError(self.path, 0, "not a recording of affectd", _FOREIGN)
        if len(start) < len(MAGIC) + _HEAD.size:
            raise self._no_header(len(start), "cut short in its head")
        number, length, crc = _HEAD.unpack_from(start, len(MAGIC))
        if number not in READABLE:
            reason = f"format version {number}, expected {FORMAT_VERSION}"
            raise RecordingError(self.path, len(MAGIC), reason, "read it with the affectd that wrote it")
        text = self._read(file, len(start), min(length, MAX_HEADER))
        if len(text) < length or _header_crc(number, text) != crc:
            raise self._no_header(len(start), "its header is damaged or cut short")
        try:
            return msgspec.json.decode(text, type=Header)
        except msgspec.DecodeError as error:
            raise self._no_header(len(start), f"its header cannot be read: {error}") from error

    def _no_header(self, offset: int, reason: str) -> RecordingError:
        return RecordingError(self.path, offset, reason, "nothing can be read without it: use another recording")
