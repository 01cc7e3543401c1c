"""Files and folders for their owner's eyes only: what somebody's body did, and which sensors somebody wears.

Standard library only; knows nothing of what is in them.
"""

from __future__ import annotations

from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700


def make_folder(path: Path) -> None:
    """Make it, with its parents, unless it is there; raises OSError."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
