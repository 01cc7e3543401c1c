"""Holds what a power cut has left of affectd's data against what left the sensors and what was acknowledged.

Knows nothing of how the power was cut.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stage import StageError
from wire import Sent

from device.notification import Event, Notification
from device.recording import RecordingReader
from device.results import exported
from device.segment import SUFFIX, is_unbegun
from firmware_bridge.errors import DecodeError
from firmware_bridge.protocols import PROTOCOLS

PROTOCOL_OF = {"chest": "polar-pmd-ecg", "wrist": "open-eda"}


@dataclass(frozen=True, slots=True)
class Witness:
    """What must have survived, with monotonic seconds of this machine."""

    sent: Sequence[Sent]
    marked: Mapping[str, float]
    """Event to when it was acknowledged."""
    cuts: Sequence[float]
    """When the power went, the last time included."""
    grace_s: float
    """Before a cut, in which what came may be lost."""
    stops: Sequence[tuple[float, float]] = ()
    """From asking the service to stop until it had: it takes nothing any more."""

    def is_due(self, at: float) -> bool:
        """Whether what was there then must be there still."""
        spared = [*((cut - self.grace_s, cut) for cut in self.cuts), *self.stops]
        return at <= self.cuts[-1] and all(not begin < at <= end for begin, end in spared)


@functools.lru_cache(1 << 16)
def stream_of(data: bytes) -> str | None:
    """The sensor that notifies this as data; None for a battery and the like."""
    for name, protocol in PROTOCOL_OF.items():
        with contextlib.suppress(DecodeError):
            if PROTOCOLS[protocol].decoder().push(data):
                return name
    return None


def examined(folder: Path, witness: Witness) -> str:
    """What is there, in short, where all is that must be; raises StageError."""
    order = {it.data: number for number, it in enumerate(witness.sent)}
    found = [_recording(paths) for paths in _runs(folder / "recordings")]
    for it in found:
        _in_order(it.notifications, order)
    recorded = Counter(it.data for run in found for it in run.notifications)
    _once("notifications", recorded)
    due = [it for it in witness.sent if witness.is_due(it.at) and stream_of(it.data)]
    if lost := [witness.cuts[-1] - it.at for it in due if it.data not in recorded]:
        raise StageError(f"{len(lost)} of {len(due)} notifications are gone, {min(lost):.1f} to {max(lost):.1f} s old")
    marked = {text for text, at in witness.marked.items() if witness.is_due(at)}
    kept = {
        "recording": Counter(text for run in found for text in run.events),
        "database": _of_database(folder / "results.db"),
        "outbox": _of_outbox(folder / "outbox.db"),
        "JSONL": _of_lines(folder / "predictions.jsonl"),
    }
    for place, events in kept.items():
        _once(f"events in {place}", events)
        if gone := marked - events.keys():
            ages = sorted(round(witness.cuts[-1] - witness.marked[text], 1) for text in gone)
            raise StageError(f"{place}: {len(gone)} of {len(marked)} events are gone, of which the ages are {ages} s")
    torn = sum(run.torn for run in found)
    there = f"{recorded.total()} notifications of {len(found)} runs, where {len(due)} must be, {torn} bytes torn"
    return f"{there}; {len(marked)} events, each in {len(kept)} places"


@dataclass(frozen=True, slots=True)
class _Run:
    notifications: list[Notification]
    events: list[str]
    torn: int


def _runs(directory: Path) -> list[list[Path]]:
    """Segments that were begun, by run."""
    paths = sorted(it for it in directory.glob(f"*{SUFFIX}") if not is_unbegun(it)) if directory.exists() else []
    return [list(run) for _, run in itertools.groupby(paths, key=lambda path: path.name.partition("-")[0])]


def is_broken_off(folder: Path) -> bool:
    """Whether the newest segment was begun and not closed."""
    runs = _runs(folder / "recordings")
    if not runs:
        return False
    reader = RecordingReader(runs[-1], recover=True)
    return not (list(reader) and reader.closed)


def _recording(paths: Sequence[Path]) -> _Run:
    reader = RecordingReader(paths, recover=True)
    arrivals = list(reader)
    notifications = [it for it in arrivals if isinstance(it, Notification)]
    return _Run(notifications, [it.description for it in arrivals if isinstance(it, Event)], reader.left_out)


def _in_order(recorded: Iterable[Notification], order: Mapping[bytes, int]) -> None:
    last: dict[str, int] = {}
    for it in recorded:
        place = order.get(it.data)
        if place is None or place <= last.get(it.stream, -1):
            raise StageError(f"{it.stream}: a notification that no sensor has sent, or not in that order: {it}")
        last[it.stream] = place


def _once(what: str, found: Counter[str] | Counter[bytes]) -> None:
    if twice := [it for it, times in found.items() if times > 1]:
        raise StageError(f"{len(twice)} {what} are there twice: {twice[:2]}")


def _of_database(path: Path) -> Counter[str]:
    if not path.exists():
        return Counter()
    _whole(path)
    return Counter(it["event"] for it in exported(path) if "event" in it)


def _of_outbox(path: Path) -> Counter[str]:
    if not path.exists():
        return Counter()
    _whole(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'message'").fetchone()[0]:
            return Counter()
        rows = db.execute("SELECT payload FROM message WHERE topic LIKE '%/event'").fetchall()
    return Counter(json.loads(payload)["description"] for (payload,) in rows)


def _whole(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        if (told := db.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            raise StageError(f"{path.name}: {told}")


def _of_lines(path: Path) -> Counter[str]:
    """Of lines that are whole; the very last may be torn, and so may one that was when the next run began."""
    found, torn = Counter[str](), []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            tree = json.loads(line)
        except ValueError:
            torn += [line] if line else []
            continue
        found.update([tree["event"]] if "event" in tree else [])
    if zeros := [it for it in torn if not it.strip(b"\0")]:
        raise StageError(f"{path.name}: {len(zeros)} lines of zeros")
    return found
