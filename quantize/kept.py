"""What a conversion came to, kept for when the same is to be converted again.

Knows nothing of what the files are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

MOST = 64
"""Conversions that are kept, the last ones used: some 40 MB."""


def key_of(parts: Iterable[bytes]) -> str:
    """A name that another content does not have: SHA-256 over the parts and their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def fetch(root: Path, key: str, folder: Path) -> bool:
    """Put the files that are kept under a key into a folder; whether there were any."""
    kept = root / key
    if not kept.is_dir():
        return False
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    os.utime(kept)
    return True


def keep(root: Path, key: str, folder: Path, files: Sequence[Path]) -> None:
    """Keep some files of a folder, whole or not at all; the conversions that have not been used for longest go."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".new-") as name:
        made = Path(name) / key
        for path in files:
            (made / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, made / path.relative_to(folder))
        if not (root / key).exists():
            made.rename(root / key)
    kept = sorted((path for path in root.iterdir() if not path.name.startswith(".")), key=lambda p: p.stat().st_mtime)
    for old in kept[:-MOST]:
        shutil.rmtree(old, ignore_errors=True)
