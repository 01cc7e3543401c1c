"""A file that is there whole or not at all, whatever happens while it is written.

Standard library only; knows nothing of what is in it.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from firmware_bridge.private import FILE_MODE


def replace(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Write beside it, to the disk, and put it in place; raises OSError, and then the old file is as it was."""
    rewrite(path, (data,), mode)


def rewrite(path: Path, pieces: Iterable[bytes], mode: int = FILE_MODE) -> None:
    """:func:`replace` for what is large, piece by piece; ``pieces`` may come from the old file."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            _keep_owner(path, file.fileno())
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def unfinished(path: Path) -> Iterator[Path]:
    """What a crash in :func:`replace` has left beside a file."""
    return path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}")


def _keep_owner(path: Path, file: int) -> None:
    """Root's change of a file leaves it to whose it is."""
    if os.geteuid() == 0 and path.exists():
        found = path.stat()
        os.fchown(file, found.st_uid, found.st_gid)


def sync_directory(path: Path) -> None:
    """Without this a power cut may undo the rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
