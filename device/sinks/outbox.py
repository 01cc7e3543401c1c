"""Messages that wait on the disk until somebody has taken them: first in, first out, bounded, one SQLite file.

Every message is on the disk before ``put`` returns (WAL, synchronous FULL), encrypted where there is a key. It knows
nothing of who takes them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from device.errors import SinkError
from device.sealing import Box, padded
from device.sinks.database import Kind, opened, scrub, used

_VERSION_1 = """
CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE dropped (n INTEGER NOT NULL) STRICT;
INSERT INTO dropped VALUES (0);
"""
_VERSION_2 = "ALTER TABLE message ADD COLUMN subject TEXT NOT NULL DEFAULT '';"
PLAIN = _VERSION_1, _VERSION_2
LOCKED = """
CREATE TABLE lock (proof BLOB NOT NULL) STRICT;  -- a row where messages are encrypted: it proves the key
"""
OUTBOX = Kind("outbox", "[sinks.mqtt] outbox", (*PLAIN, LOCKED))
_PUT = "INSERT INTO message (id, topic, payload, subject) VALUES (?, ?, ?, ?)"
_NEXT = "SELECT id, topic, payload FROM message WHERE id > ? ORDER BY id LIMIT ?"
_PROOF = b"affectd"
_BATCH = 1000
"""Messages that are encrypted at a time where they were not: a megabyte."""

_log = logging.getLogger(__name__)


class Message(NamedTuple):
    """One that waits."""

    id: int
    """Grows with every message, over all runs."""
    topic: str
    payload: bytes


class Outbox:
    """One file, for one process; each method may be called from any thread."""

    def __init__(self, path: Path, most: int, subject: str = "", box: Box | None = None, kind: Kind = OUTBOX) -> None:
        """Open or begin a file that holds at most ``most`` messages; those to come are of ``subject``. With a ``box``
        all are encrypted, also those that were not. Raises SinkError, and then the file is as it was."""
        self.path = Path(path)
        self.most = most
        self.subject = subject
        self._lock = threading.Lock()
        self._box = box
        self._db = opened(self.path, kind, alone=True)
        with used(self._db, self.path, kind):
            self._unlock(kind)
            self.waiting: int = self._one("SELECT count(*) FROM message")
            """Messages in it."""
            self.dropped: int = self._one("SELECT n FROM dropped")
            """Messages that its bound has cost since the file was begun."""
            self.newest: int = self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence")
            """``id`` of the last message there ever was; 0 where there was none."""

    def _unlock(self, kind: Kind) -> None:
        """Prove the key, or encrypt from now on."""
        locked = self._db.execute("SELECT proof FROM lock").fetchone()
        remedy = f"give it its key (see {kind.key}_key_file), or move it away: then a new one is begun"
        if self._box is None:
            if locked:
                raise SinkError(str(self.path), "is encrypted, and there is no key", remedy)
        elif locked:
            try:
                self._box.open(locked[0], _PROOF)
            except ValueError as error:
                raise SinkError(str(self.path), "is encrypted with another key", remedy) from error
        else:
            self._lock_up(self._box)

    def _lock_up(self, box: Box) -> None:
        """Encrypt what waits, all or nothing, and leave nothing of what it was."""
        last = n = 0
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            while rows := self._db.execute(_NEXT, (last, _BATCH)).fetchall():
                sealed = ((_sealed(box, *row), row[0]) for row in rows)
                self._db.executemany("UPDATE message SET payload = ? WHERE id = ?", sealed)
                last, n = rows[-1][0], n + len(rows)
            self._db.execute("INSERT INTO lock VALUES (?)", (box.seal(_PROOF, _PROOF),))
        if n:
            scrub(self._db)
            _log.info("%s: %d messages were not encrypted, and are now", self.path, n)

    def _one(self, query: str) -> int:
        (value,) = self._db.execute(query).fetchone()
        return int(value)

    def put(self, topic: str, payload: bytes) -> None:
        """Add one, on the disk; beyond the bound the oldest are dropped and counted. Raises sqlite3.Error."""
        with self._lock:
            with self._db:
                self._db.execute("BEGIN")
                number = self.newest + 1
                body = payload if self._box is None else _sealed(self._box, number, topic, payload)
                self._db.execute(_PUT, (number, topic, body, self.subject))
                over = max(0, self.waiting + 1 - self.most)
                if over:
                    oldest = "SELECT id FROM message ORDER BY id LIMIT ?"
                    self._db.execute(f"DELETE FROM message WHERE id IN ({oldest})", (over,))
                    self._db.execute("UPDATE dropped SET n = n + ?", (over,))
            self.newest = number
            self.waiting += 1 - over
            self.dropped += over

    def after(self, last: int, most: int) -> list[Message]:
        """The next ``most`` messages behind ``id`` ``last``, oldest first; encrypted ones that somebody has changed are
        dropped, counted and said."""
        with self._lock:
            found = [Message(*row) for row in self._db.execute(_NEXT, (last, most))]
        if self._box is None:
            return found
        whole = [it for sealed in found for it in _opened(self._box, sealed)]
        if len(whole) < len(found):
            self._give_up({it.id for it in found} - {it.id for it in whole})
            return self.after(last, most)
        return whole

    def _give_up(self, broken: set[int]) -> None:
        _log.error("%s: the seals of %d messages are broken; they are dropped", self.path, len(broken))
        self.remove(broken)
        with self._lock:
            self._db.execute("UPDATE dropped SET n = n + ?", (len(broken),))
        self.dropped += len(broken)

    def remove(self, ids: Iterable[int]) -> None:
        """Somebody has taken these; one that is gone already is no error."""
        with self._lock, self._db:
            self._db.execute("BEGIN")
            done = self._db.executemany("DELETE FROM message WHERE id = ?", ((number,) for number in ids))
            gone = done.rowcount
        self.waiting -= gone

    def close(self) -> None:
        """Let go of the file; what waits stays in it."""
        with self._lock:
            self._db.close()


def _place(number: int, topic: str) -> bytes:
    return f"{number} {topic}".encode()


def _sealed(box: Box, number: int, topic: str, payload: bytes) -> bytes:
    """A payload in JSON for its row, all of one length."""
    return box.seal(padded(payload), _place(number, topic))


def _opened(box: Box, sealed: Message) -> Iterator[Message]:
    """One, or none where its seal is broken."""
    with contextlib.suppress(ValueError):
        payload = box.open(sealed.payload, _place(sealed.id, sealed.topic))
        yield sealed._replace(payload=payload.rstrip(b" "))
