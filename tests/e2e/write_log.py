"""What a disk may hold after a power cut, out of the log of all its writes that QEMU's blklogwrites keeps.

A disk owes what was written before a flush was answered. Of what came after it, anything may be there: whole, in part
or not, in any order. The log's format is that of Linux' dm-log-writes. Knows nothing of file systems.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
_ENTRY = struct.Struct("<4Q")
_FLUSH, _DISCARD, _KNOWN = 1, 4, 15


@dataclass(frozen=True, slots=True)
class Write:
    """One entry of the log."""

    offset: int
    """On the disk, bytes."""
    bytes: int
    at: int
    """Of its data in the log, bytes."""
    end: int
    """Where the next entry begins."""
    is_flush: bool
    is_discard: bool


def writes(log: Path) -> list[Write]:
    """All that are whole, in the order in which they were done."""
    found, place, size = [], SECTOR, log.stat().st_size
    with log.open("rb") as file:
        while place + SECTOR <= size:
            file.seek(place)
            sector, sectors, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            is_discard = bool(flags & _DISCARD)
            end = place + SECTOR + (0 if is_discard else sectors * SECTOR)
            if flags & ~_KNOWN or end > size or not (sectors or flags):
                break
            write = Write(sector * SECTOR, sectors * SECTOR, place + SECTOR, end, bool(flags & _FLUSH), is_discard)
            found.append(write)
            place = end
    return found


def cut(before: Path, log: Path, done: Sequence[Write], chance: random.Random, disk: Path) -> int:
    """Make ``disk`` what ``before`` may have become when the power went after these writes; how many it has lost.

    Each write after the last flush is there, or not, or its first sectors are.
    """
    copied(before, disk)
    flushed = max((number for number, write in enumerate(done) if write.is_flush), default=-1)
    lost = 0
    with log.open("rb") as source, disk.open("r+b") as target:
        for number, write in enumerate(done):
            left = write.bytes
            if number > flushed:
                left = chance.choice((0, write.bytes, chance.randint(0, write.bytes // SECTOR) * SECTOR))
            lost += left < write.bytes
            if write.is_discard or not left:
                continue
            source.seek(write.at)
            target.seek(write.offset)
            target.write(source.read(left))
    return lost


def copied(source: Path, target: Path) -> Path:
    """A sparse copy."""
    target.unlink(missing_ok=True)
    subprocess.run([shutil.which("cp") or "cp", "--sparse=always", "--reflink=auto", source, target], check=True)
    return target
