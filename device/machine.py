"""What the machine has left: memory of this process, heat of the processor, room on the disk.

Standard library only; what cannot be read is None.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

ROOT = Path("/")


def machine(place: Path, root: Path = ROOT) -> dict[str, Any]:
    """Fit for JSON; the disk is the one that ``place`` lies on."""
    return {"memory_bytes": _memory(root), "cpu_celsius": _celsius(root), **_disk(place)}


def _memory(root: Path) -> int | None:
    """Resident bytes."""
    try:
        return int((root / "proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _celsius(root: Path) -> float | None:
    """Of the hottest zone; the kernel gives thousandths."""
    found = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):  # a zone that is switched off
            continue
    return max(found, default=None)


def _disk(place: Path) -> dict[str, int | None]:
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return {"disk_bytes": None, "disk_free_bytes": None}
    return {"disk_bytes": usage.total, "disk_free_bytes": usage.free}
