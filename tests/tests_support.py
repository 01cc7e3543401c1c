"""What several tests share: where the reference recordings are, and random cuts of a stream."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device.pipeline.types import Chunk


def reference_data() -> Path:
    """Folder of the real recordings; skips the test, saying why, where it is not set up."""
    folder = os.environ.get("AFFECTD_REFERENCE_DATA")
    if not folder:
        pytest.skip("AFFECTD_REFERENCE_DATA is not set: the real reference recordings are not at hand")
    return Path(folder)


def cut_up(chunk: Chunk, cuts: list[int]) -> list[Chunk]:
    """Split one chunk before each of the given offsets (those outside or repeated are ignored)."""
    pieces = []
    for index in sorted({chunk.start + c for c in cuts if 0 < c < len(chunk.data)}):
        head, chunk = chunk.cut(index)
        pieces.append(head)
    return [*pieces, chunk]
