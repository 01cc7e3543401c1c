"""results/quantize.json: flat records of a conversion, one for each format, set of sensors and peer.

Knows nothing of how a figure was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device.inference import RUNTIMES
from quantize.errors import ResultsError
from quantize.recipe import medians_of

Record = dict[str, Any]
PEERS = (("onnxruntime", "int8"), ("onnxruntime", "float32"), ("torch", "float32"))
"""Runtime and format of what the file is timed beside."""
ORDER = ("model", "task", "format", "mask", "peer")


def records(report: Mapping[str, Any], timed: Mapping[str, Any], arena_bytes: int | None, command: str) -> list[Record]:
    """Of the last attempt at each format that ran; without times where nothing was timed."""
    last = {attempt["format"]: attempt for attempt in report["attempts"] if attempt["masks"]}
    found = medians_of(timed)
    peers: Sequence[tuple[str, str] | None] = [peer for peer in PEERS if peer in found] or [None]
    return [
        {
            "model": report["model"]["name"],
            "task": report.get("task", ""),
            "format": form,
            "mask": mask,
            "is_taken": form == report["recipe"]["taken"],
            "size_bytes": attempt["size_bytes"],
            "float_ops": attempt["float_operators"],
            "agreement": figures["agreement"],
            "balanced_accuracy_drop": figures["balanced_accuracy_drop"],
            "passes": not attempt["failures"],
            "latency_us": found.get((RUNTIMES[0], form)),
            "peer": " ".join(peer) if peer else None,
            "peer_latency_us": found[peer] if peer else None,
            "macs": timed.get("macs"),
            "arena_bytes": arena_bytes if form == report["recipe"]["taken"] else None,
            "machine": timed.get("machine"),
            "command": command,
        }
        for form, attempt in last.items()
        for mask, figures in attempt["masks"].items()
        for peer in peers
    ]


def merge(path: Path, new: Sequence[Record]) -> list[Record]:
    """Write records into a file, in the place of all of the same networks; every record in it. Raises ResultsError."""
    known: list[Record] = []
    if path.is_file():
        ours = {_network(record) for record in new}
        try:
            known = [r for r in json.loads(path.read_text(encoding="utf-8")) if _network(r) not in ours]
        except (ValueError, TypeError, KeyError) as error:
            raise ResultsError(path, "", f"holds no records ({error})", "give another file, or none") from error
    merged = sorted([*known, *new], key=lambda r: [str(r[key]) for key in ORDER])
    path.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    return merged


def _network(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["model"], record["task"]
