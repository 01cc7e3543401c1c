"""The directory of segments: their order, what compresses one, and which goes first where there are too many.

It knows nothing of what is in a segment beyond its header, or of who records.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device.errors import RecordingError
from device.segment import SUFFIX, SegmentReader, is_unbegun
from firmware_bridge.private import FILE_MODE

DAY_NS = 86_400 * 10**9
BLOCK = 1 << 16
"""Bytes compressed between two looks at whether to leave off: some 50 ms of a small machine."""
PART = ".part"
"""Behind the name of a file that is being compressed."""
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 18}]
"""Of a strap and a wristband 38 % is left, for a second of CPU per hour recorded; gzip -6 leaves 48 %, zstd -19 44 % in
more time. The small dictionary keeps memory at some MB. xz checks what it unpacks (CRC-64)."""
_RUN = re.compile(r"r(\d{6,})-")


@dataclass(frozen=True, slots=True)
class Policy:
    """When a segment ends, what becomes of it, and how long it stays."""

    segment_s: float = float("inf")
    compress: bool = False
    keep_days: int | None = None
    max_bytes: int | None = None
    min_free_bytes: int = 0
    recipients: tuple[str, ...] = ()
    """Public keys of age for which records are encrypted; without one they are not."""
    subject: str = ""
    """Of whom they are; empty where nobody is named."""


@dataclass(slots=True)
class Kept:
    """A sealed segment on disk."""

    path: Path
    bytes: int


def name_of(run: int, number: int, created: str) -> str:
    """Of a segment: in the order of names the oldest is first, whatever the wall clock said."""
    return f"r{run:06}-{number:06}-{created}{SUFFIX}"


def next_run(kept: Sequence[Kept]) -> int:
    """Number for a run that begins beside these."""
    return 1 + max((int(found[1]) for it in kept if (found := _RUN.match(it.path.name))), default=0)


def kept_in(directory: Path) -> list[Kept]:
    """Every segment, the oldest first (those of before runs had numbers begin with the year); raises OSError."""
    found = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX and path.is_file())
    return [Kept(path, path.stat().st_size) for path in found if not is_unbegun(path)]


def clear(directory: Path) -> None:
    """Remove what a crash has left half made, which holds no record; raises OSError."""
    for path in directory.iterdir():
        if path.name.endswith(SUFFIX + PART) or (path.suffix == SUFFIX and path.is_file() and is_unbegun(path)):
            path.unlink()


def recorded_after(kept: Sequence[Kept], broken_off: Callable[[SegmentReader], None] = lambda _: None) -> int:
    """Time recorded in a directory up to its newest segment's end, ns; what cannot be read counts as nothing.

    A newest segment that nobody closed is shown to ``broken_off``.
    """
    for it in reversed(kept):
        with contextlib.suppress(RecordingError):
            reader = SegmentReader(it.path, recover=True)
            if reader.header.sealed:  # how long it is cannot be read here: it counts as less than it is
                return reader.header.recorded_ns
            times = [arrival.host_ns for arrival in reader]
            if not reader.closed:
                broken_off(reader)
            return reader.header.recorded_ns + (max(0, times[-1] - times[0]) if times else 0)
    return 0


def recorded_before(kept: Sequence[Kept]) -> int:
    """Time recorded before the oldest segment that can be read, ns."""
    for it in kept:
        with contextlib.suppress(RecordingError):
            return SegmentReader(it.path).header.recorded_ns
    return 0


def compressed(path: Path, leave_off: Callable[[], bool]) -> Path | None:
    """A whole compressed copy beside a segment, on the disk, for its place; None where it was left off.

    Raises OSError; then, too, no copy stays.
    """
    part = path.with_name(path.name + PART)
    try:
        with path.open("rb") as source, open(part, "xb", opener=_private) as file:
            with lzma.open(file, "wb", filters=_FILTERS) as packed:
                while block := source.read(BLOCK):
                    if leave_off():
                        break
                    packed.write(block)
            os.fsync(file.fileno())
            whole = not block
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if not whole:
        part.unlink()
        return None
    return part


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


def free_bytes(directory: Path) -> int:
    """What may still be written there."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize
