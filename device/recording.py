"""Raw notifications of a run, in successive segments of one directory: written, kept within bounds, and read as one.

It knows nothing of protocols, of what the bytes mean, of a segment's format, or of asyncio.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from device.errors import RecordingError
from device.notification import Arrival, ClockReading, Unrecorded
from device.segment import (
    MAX_STREAMS,
    SUFFIX,
    Header,
    SegmentReader,
    SegmentWriter,
    affectd_version,
    is_compressed,
    is_unbegun,
)
from device.storage import (
    DAY_NS,
    PART,
    Kept,
    Policy,
    clear,
    compressed,
    free_bytes,
    kept_in,
    name_of,
    next_run,
    recorded_after,
    recorded_before,
)
from device.wall import dating, read_clocks
from firmware_bridge.packet import StreamInfo
from firmware_bridge.private import make_folder

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_RECOVER = "name the whole directory, or replay what there is with --recover"

_log = logging.getLogger(__name__)


class RecordingWriter:
    """Writes one run. Each record is handed to the kernel at once, so that a killed process loses none;
    ``sync`` bounds what a power cut can take, ``tend`` what the disk must hold.

    ``append`` never waits for the disk to have it; ``sync`` and ``tend`` may take long and are for other threads.
    A full disk costs the oldest segments first. Where none is left, what comes is counted, and its place is told in the
    recording once there is room again.
    """

    def __init__(
        self,
        directory: Path,
        streams: Mapping[str, StreamInfo],
        policy: Policy | None = None,
        *,
        clocks: Callable[[], ClockReading] = read_clocks,
        write: Callable[[int, bytes], int] = os.write,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        if not 1 <= len(streams) <= MAX_STREAMS:
            raise ValueError(f"{len(streams)} streams: a recording holds 1 to {MAX_STREAMS}")
        self.directory = Path(directory)
        self.policy = policy or Policy()
        self.records = self.unrecorded = 0
        self._clocks = clocks
        self._write = write
        self._free = free
        self._missed: Unrecorded | None = None
        self._said = False
        self._path = self.directory  # until it is known which segment
        self._refused = ""
        """Why nothing is written at present, though it could be."""
        self._live: SegmentWriter | None = None
        self._open: list[SegmentWriter] = []
        """Segments whose files are open, the live one last."""
        self._changing = threading.Lock()
        """Held while a segment comes to be, goes, or is replaced."""
        self._settled: set[Path] = set()
        """Segments that are compressed, or cannot be."""
        self._leave_off = threading.Event()
        self._lock = -1
        try:
            self._lock = _locked(self.directory)
            clear(self.directory)
            self._kept = kept_in(self.directory)
            self._run = next_run(self._kept)
            self.header = self._header(dict(streams), secrets.token_hex(8), recorded_after(self._kept, _say_broken_off))
            self._path = self._named(self.header)
            self._make_room(self._turn)
        except OSError as error:
            if error.errno not in _FULL:
                self._release()
                self._fail(error, "cannot be created", "make the directory writable, or change [recording] directory")
            self._complain(error)

    @property
    def path(self) -> Path:
        """Of the segment that is written, or would be."""
        return self._path

    def append(self, arrival: Arrival) -> None:
        """Add one record, in a new segment where it is time for one.

        Raises RecordingError where the disk refuses it, which leaves the segment whole; it is counted then.
        """
        try:
            if self._refused:
                raise OSError(errno.ENOSPC, self._refused)
            self._make_room(lambda: self._append(arrival))
        except OSError as error:
            self._miss(arrival, error)
            self._fail(error, "cannot be written", "make room on the disk, or change [recording] directory")
        if self._said:
            self._said = False
            _log.warning("recording again; %d records are missing so far", self.unrecorded)

    def keep(self, arrival: Arrival) -> bool:
        """``append`` for who goes on without a recording: what the disk refuses is counted, and said once; whether it
        was taken."""
        try:
            self.append(arrival)
        except RecordingError:
            return False
        return True

    def _append(self, arrival: Arrival) -> None:
        live = self._turn(arrival.host_ns)
        if self._missed is not None:
            live.append(self._missed)
            self.records += 1
            self._missed = None
        live.append(arrival)
        self.records += 1

    def _turn(self, host_ns: int = 0) -> SegmentWriter:
        """The segment for a record of this time: a new one where there is none, or the last one has had its time."""
        live = self._live
        if live is not None and not live.torn and live.until(host_ns) < self.policy.segment_s * 1e9:
            return live
        try:
            return self._begin(host_ns)
        except OSError:
            if live is None or live.torn:
                raise
            return live  # longer than it should be, but nothing is lost; the next record tries again

    def _begin(self, host_ns: int) -> SegmentWriter:
        before, header = self._live, self.header
        if before is not None:
            recorded_ns = before.header.recorded_ns + before.until(host_ns)
            header = self._header(header.streams, header.run, recorded_ns, before.header.number + 1)
        with self._changing:
            self._live = live = SegmentWriter(self._named(header), header, self._write, self.policy.recipients)
            self._path = live.path
            self._open.append(live)
            if before is not None:
                before.seal()
                self._kept.append(Kept(before.path, before.bytes))
        return live

    def _header(self, streams: dict[str, StreamInfo], run: str, recorded_ns: int, number: int = 0) -> Header:
        now = self._clocks()
        return Header(
            created=datetime.fromtimestamp(now.wall_ns / 1e9, UTC).isoformat(),
            affectd=affectd_version(),
            host_ns=now.host_ns,
            wall_ns=now.wall_ns,
            streams=streams,
            run=run,
            number=number,
            before=self.records,
            recorded_ns=recorded_ns,
            asleep_ns=now.asleep_ns,
            is_synchronised=now.is_synchronised,
            subject=self.policy.subject,
        )

    def _named(self, header: Header) -> Path:
        created = datetime.fromisoformat(header.created)
        return self.directory / name_of(self._run, header.number, f"{created:%Y%m%dT%H%M%S.%fZ}")

    def _make_room(self, write: Callable[[], object]) -> None:
        """Write, at the cost of the oldest segments where the disk is full."""
        while True:
            try:
                write()
                return
            except OSError as error:
                if error.errno not in _FULL or not self._delete_oldest("the disk is full"):
                    raise
                os.fsync(self._lock)  # a journal may give the room back only then

    def _miss(self, arrival: Arrival, error: OSError) -> None:
        self.unrecorded += 1
        missed = self._missed or Unrecorded(arrival.host_ns, 0, error.strerror or str(error))
        self._missed = replace(missed, records=missed.records + 1)
        self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            _log.error("not recording to %s: %s; predictions go on", self.directory, error.strerror)

    def sync(self) -> None:
        """Make everything appended so far outlive a power cut; one thread at a time."""
        segments = list(self._open)
        os.fsync(self._lock)  # the files' names, too
        for segment in segments:
            segment.sync()
        for segment in segments[:-1]:
            segment.close()
            self._open.remove(segment)

    def tend(self) -> None:
        """Compress what is sealed and delete what is too much; ``leave_off`` ends it early, in another thread."""
        policy = self.policy
        self._delete_excess()
        if policy.compress:
            for kept in [it for it in list(self._kept) if it.path not in self._settled]:
                if not self._leave_off.is_set() and self._free(self.directory) > policy.min_free_bytes + kept.bytes:
                    self._compress(kept)

    def leave_off(self) -> None:
        """Let ``tend`` end soon; what it has not done, a later run does."""
        self._leave_off.set()

    def _compress(self, kept: Kept) -> None:
        try:
            if not is_compressed(kept.path) and not SegmentReader(kept.path).header.sealed:
                part = compressed(kept.path, self._leave_off.is_set)
                if part is None:
                    return
                self._put_in_place(part, kept)
                os.fsync(self._lock)
        except FileNotFoundError:
            return  # deleted meanwhile
        except RecordingError as error:
            _log.warning("%s", error)
        except OSError as error:
            _log.warning("%s: stays as it is, it cannot be compressed: %s", kept.path, error.strerror)
        self._settled.add(kept.path)

    def _put_in_place(self, part: Path, kept: Kept) -> None:
        with self._changing:
            if kept not in self._kept:
                part.unlink()
                return
            size = part.stat().st_size
            part.replace(kept.path)
            kept.bytes = size

    def _delete_excess(self) -> None:
        while why := self._excess():
            if not self._delete_oldest(why):
                break
        short = self._free(self.directory) < self.policy.min_free_bytes
        self._refused = f"less than min_free_bytes = {self.policy.min_free_bytes} free" if short else ""

    def _excess(self) -> str:
        """Why the oldest segment must go; empty where it may stay."""
        policy, live = self.policy, self._live
        if policy.max_bytes is not None and self.bytes > policy.max_bytes:
            return f"more than max_bytes = {policy.max_bytes}"
        if policy.keep_days is not None and self._kept and live is not None:
            age = live.header.recorded_ns + live.span_ns - recorded_before(self._kept)
            if age > policy.keep_days * DAY_NS:
                return f"older than keep_days = {policy.keep_days} of recording"
        if self._free(self.directory) < policy.min_free_bytes:
            return f"less than min_free_bytes = {policy.min_free_bytes} free"
        return ""

    def _delete_oldest(self, why: str) -> bool:
        """Delete one sealed segment, if there is one."""
        with self._changing:
            if not self._kept:
                return False
            kept = self._kept[0]
            try:
                kept.path.unlink(missing_ok=True)
            except OSError as error:
                _log.error("%s: cannot be deleted (%s): %s", kept.path, why, error.strerror)
                return False
            del self._kept[0]
        _log.warning("%s: deleted, %d bytes: %s", kept.path, kept.bytes, why)
        return True

    @property
    def bytes(self) -> int:
        """Of all segments in the directory."""
        return sum(kept.bytes for kept in list(self._kept)) + (self._live.bytes if self._live else 0)

    def to_json(self) -> dict[str, Any]:
        """How it stands, fit for JSON."""
        kept = list(self._kept)
        return {
            "path": str(self.path),
            "records": self.records,
            "unrecorded": self.unrecorded,
            "segments": len(kept) + (self._live is not None),
            "bytes": self.bytes,
            "oldest": kept[0].path.name if kept else self.path.name,
        }

    def close(self) -> None:
        """Mark the end and let go of the directory; a second call does nothing."""
        if self._lock < 0:
            return
        if self.unrecorded:
            _log.warning("%d records could not be recorded", self.unrecorded)
        try:
            if self._live is not None:
                self._live.seal()
            self.sync()
        except OSError as error:
            self._fail(error, "may not be whole on the disk", "look at the disk's health")
        finally:
            self._release()

    def _fail(self, error: OSError, what: str, remedy: str) -> NoReturn:
        raise RecordingError(self.path, f"record {self.records + 1}", f"{what}: {error.strerror}", remedy) from error

    def _release(self) -> None:
        for segment in self._open:
            segment.close()
        self._open.clear()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _locked(directory: Path, remedy: str = "stop it, or give this one another [recording] directory") -> int:
    """The directory, made and held against a second writer; raises OSError, RecordingError."""
    make_folder(directory)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise RecordingError(directory, "", "another affectd records here", remedy) from None
    return lock


def _say_broken_off(segment: SegmentReader) -> None:
    """The run before had no clean end: a kill, or a power cut."""
    torn = f"; {segment.left_out} bytes behind it are torn" if segment.left_out else ""
    _log.warning("%s: was broken off, and is whole up to its last record%s", segment.path, torn)


class RecordingReader:
    """Reads one run: a segment, several, or a directory of them; iterating gives its Arrivals as if it were one file.

    Damage, and a segment that is missing between two others, raises RecordingError; with ``recover`` its place is told
    by an Unrecorded instead, and ``left_out`` and ``damage`` say what was not given out. That the first segments are
    missing is no damage.
    """

    def __init__(self, path: Path | Sequence[Path], *, recover: bool = False, identity: Path | None = None) -> None:
        paths = [Path(it) for it in path] if isinstance(path, Sequence) else [Path(path)]
        self.path = paths[0]
        """The first that was named."""
        self.recover = recover
        self.closed = False
        """Whether the iteration met the mark of a clean close."""
        self.left_out = 0
        """Bytes that were not given out, but for segments that are not there."""
        self.damage: RecordingError | None = None
        """The first."""
        self._segments = _of_one_run(
            [SegmentReader(file, recover=recover, identity=identity) for file in _files(paths)]
        )
        self.header = self._segments[0].header

    @property
    def streams(self) -> dict[str, StreamInfo]:
        """How to read each stream's notifications."""
        return self.header.streams

    @functools.cached_property
    def clock(self) -> ClockReading:
        """The reading of the clocks that dates the run (:func:`device.wall.dating`); all of it is read for that."""
        readings = [segment.header.clock for segment in self._segments]
        for it in self._segments:  # readers of their own, for an iteration may be under way
            again = SegmentReader(it.path, recover=True, identity=it.identity)
            readings += [arrival for arrival in again if isinstance(arrival, ClockReading)]
        return dating(readings)

    def wall_of(self, host_ns: int) -> datetime:
        """Wall time in UTC of a host time of the run, as far as the run came to know it."""
        return datetime.fromtimestamp(self.clock.wall_of(host_ns) / 1e9, UTC)

    def __iter__(self) -> Iterator[Arrival]:
        self.closed, self.left_out, self.damage = False, 0, None
        number, host_ns = self.header.before, 0
        for segment in self._segments:
            if segment.header.before != number:
                yield self._missing(segment, number, host_ns)
                number = segment.header.before
            for arrival in segment:
                number, host_ns = number + 1, arrival.host_ns
                yield arrival
            self.closed = segment.closed
            self.left_out += segment.left_out
            self.damage = self.damage or segment.damage

    def _missing(self, segment: SegmentReader, number: int, host_ns: int) -> Unrecorded:
        missing = segment.header.before - number
        error = RecordingError(segment.path, "", f"{missing} records of its run before it are not there", _RECOVER)
        if not self.recover:
            raise error
        self.damage = self.damage or error
        return Unrecorded(host_ns, missing, error.reason)


def _files(paths: Iterable[Path]) -> list[Path]:
    """The segments that are named, those of directories included; raises RecordingError.

    Among several, one that a crash left before its header was whole is no damage: it never held anything.
    """
    files = [file for path in paths for file in (_segments_of(path) if path.is_dir() else [path])]
    return [file for file in files if not (file.is_file() and is_unbegun(file))] or files[:1]


def _segments_of(directory: Path) -> list[Path]:
    try:
        found = [kept.path for kept in kept_in(directory)]
    except OSError as error:
        remedy = "make it readable, or name another"
        raise RecordingError(directory, "", f"cannot be read: {error.strerror}", remedy) from error
    if not found:
        raise RecordingError(directory, "", "holds no recording", "name one made by `affectd run`")
    return found


def _of_one_run(segments: list[SegmentReader]) -> list[SegmentReader]:
    """In the order of their run; raises RecordingError where they are of several, or one is there twice."""
    segments.sort(key=lambda segment: segment.header.number)
    first = segments[0]
    runs = Counter(segment.header.run or str(segment.path) for segment in segments)
    if len(runs) > 1:
        other = next(
            segment for segment in segments if segment.header.run != first.header.run or not segment.header.run
        )
        reason = f"of {len(runs)} runs of affectd, e.g. {other.path.name} is of another"
        raise RecordingError(first.path, "", reason, "name the segments of one: they begin with the same number")
    for one, two in itertools.pairwise(segments):
        if one.header.number == two.header.number:
            raise RecordingError(two.path, "", f"is the same segment as {one.path.name}", "name each once")
    return segments


def to_erase(paths: Iterable[Path]) -> list[Path]:
    """The segments that are named, and all that directories hold, damaged ones too; raises RecordingError."""
    found = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(it for it in path.iterdir() if it.name.endswith((SUFFIX, SUFFIX + PART)))
        found += [it for it in inside if it.is_file()]
        if not inside or not inside[0].is_file() or SUFFIX not in inside[0].suffixes:
            raise RecordingError(path, "", "holds no recording", "name one made by `affectd run`")
    return found


def erase_all(segments: Sequence[Path]) -> None:
    """Erase; of an encrypted one the wrapped key goes first, without which the rest is noise.

    Raises RecordingError where affectd records beside one of them, before anything is erased, and where one stays.
    """
    with contextlib.ExitStack() as stack:
        for directory in sorted({it.parent for it in segments}):
            stack.enter_context(held(directory))
        erase_held(segments)


def erase_held(segments: Iterable[Path]) -> None:
    """``erase_all`` for who holds their directories."""
    for segment in segments:
        try:
            _forget_key(segment)
            segment.unlink()
        except OSError as error:
            reason = f"cannot be erased: {error.strerror}"
            raise RecordingError(error.filename or segment, "", reason, "make its directory writable") from error


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Meanwhile no affectd records in a directory, and then what was done in it is on the disk; raises
    RecordingError."""
    try:
        lock = _locked(directory, "stop it first: `systemctl stop affectd`")
    except OSError as error:
        reason = f"cannot be used: {error.strerror}"
        raise RecordingError(directory, "", reason, "do it as its owner, or as root") from error
    try:
        yield
        os.fsync(lock)
    finally:
        os.close(lock)


def _forget_key(path: Path) -> None:
    with contextlib.suppress(RecordingError):
        reader = SegmentReader(path)
        if reader.header.sealed:
            with path.open("r+b") as file:
                file.write(bytes(reader.start))
                file.flush()
                os.fsync(file.fileno())
