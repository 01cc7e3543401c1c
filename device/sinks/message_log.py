"""Messages that stay on the disk for readers who come, go and come again: an outbox that nobody takes from.

A reader says which was its last and gets those behind it, once and in order; where some are gone by then, that is said.
It knows nothing of how readers ask.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from device.sealing import Box
from device.sinks.database import Kind
from device.sinks.outbox import LOCKED, PLAIN, Message, Outbox

ELSEWHERE = -1
"""Place of a position that is none of this log's: another file stood here when it was given out."""
_NAMED = """
CREATE TABLE log (name TEXT NOT NULL) STRICT;
INSERT INTO log VALUES (lower(hex(randomblob(4))));
"""
LOG = Kind("log", "[sinks.http] log", (*PLAIN, _NAMED, LOCKED))
_POSITION = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")


class Entry(NamedTuple):
    """One message as a reader gets it."""

    position: str
    topic: str
    json: bytes
    """An object with ``topic``, ``position`` and ``message``."""

    @classmethod
    def of(cls, position: str, topic: str, message: bytes) -> Entry:
        """The same of a payload that is JSON already."""
        parts = {"topic": topic, "position": position, "message": msgspec.Raw(message)}
        return cls(position, topic, msgspec.json.encode(parts))


class MessageLog(Outbox):
    """One file; beyond its bound the oldest go."""

    def __init__(self, path: Path, most: int, subject: str = "", box: Box | None = None) -> None:
        super().__init__(path, most, subject, box, LOG)
        (self._name,) = self._db.execute("SELECT name FROM log").fetchone()

    def position(self, place: int) -> str:
        """What a reader shows who has had everything up to message ``place``."""
        return f"{self._name}-{place}"

    def place(self, position: str) -> int:
        """The other way round; ``ELSEWHERE`` where it is not of this log. Raises ValueError for what is no position."""
        found = _POSITION.fullmatch(position)
        if found is None:
            raise ValueError("not a position")
        place = int(found[2])
        return place if found[1] == self._name and place <= self.newest else ELSEWHERE

    @property
    def oldest(self) -> int:
        """``id`` of the first message that is kept; 0 where there is none."""
        with self._lock:
            return self._one("SELECT coalesce(min(id), 0) FROM message")

    def read(self, place: int, most: int) -> tuple[list[Entry], int]:
        """Up to ``most`` messages behind ``place``, and the place behind them.

        Where some are gone, an entry ``gap`` comes first that says how many, or null where that cannot be known.
        """
        if place == self.newest:
            return [], place
        messages = self.after(max(place, 0), most)
        messages = [it for n, it in enumerate(messages) if it.id == messages[0].id + n]  # up to the next that is gone
        entries = [Entry.of(self.position(it.id), it.topic, it.payload) for it in messages]
        if (gap := self._gap(place, messages)) is not None:
            entries.insert(0, gap)
        return entries, messages[-1].id if messages else self.newest

    def _gap(self, place: int, messages: list[Message]) -> Entry | None:
        behind = messages[0].id - 1 if messages else self.newest
        if place == behind:
            return None
        lost = None if place == ELSEWHERE else behind - place
        return Entry.of(self.position(behind), "gap", msgspec.json.encode({"lost": lost}))
