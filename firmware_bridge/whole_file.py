"""A file that is there whole or not at all, whatever happens while it is written.

Standard library only; knows nothing of what is in it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from firmware_bridge.private import FILE_MODE


def replace(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Write beside it, to the disk, and put it in place; raises OSError, and then the old file is as it was."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Without this a power cut may undo the rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
