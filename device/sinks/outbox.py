"""Messages that wait on the disk until somebody has taken them: first in, first out, bounded, one SQLite file.

Every message is on the disk before ``put`` returns (WAL, synchronous FULL). It knows nothing of who takes them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from device.sinks.database import Kind, opened, used

_VERSION_1 = """
CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE dropped (n INTEGER NOT NULL) STRICT;
INSERT INTO dropped VALUES (0);
"""
_VERSION_2 = "ALTER TABLE message ADD COLUMN subject TEXT NOT NULL DEFAULT '';"
OUTBOX = Kind("outbox", "[sinks.mqtt] outbox", (_VERSION_1, _VERSION_2))
_PUT = "INSERT INTO message (topic, payload, subject) VALUES (?, ?, ?)"


class Message(NamedTuple):
    """One that waits."""

    id: int
    """Grows with every message, over all runs."""
    topic: str
    payload: bytes


class Outbox:
    """One file, for one process; each method may be called from any thread."""

    def __init__(self, path: Path, most: int, subject: str = "", kind: Kind = OUTBOX) -> None:
        """Open or begin a file that holds at most ``most`` messages; those to come are of ``subject``. Raises
        SinkError."""
        self.path = Path(path)
        self.most = most
        self.subject = subject
        self._lock = threading.Lock()
        self._db = opened(self.path, kind, alone=True)
        with used(self._db, self.path, kind):
            self.waiting: int = self._one("SELECT count(*) FROM message")
            """Messages in it."""
            self.dropped: int = self._one("SELECT n FROM dropped")
            """Messages that its bound has cost since the file was begun."""
            self.newest: int = self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence")
            """``id`` of the last message there ever was; 0 where there was none."""

    def _one(self, query: str) -> int:
        (value,) = self._db.execute(query).fetchone()
        return int(value)

    def put(self, topic: str, payload: bytes) -> None:
        """Add one, on the disk; beyond the bound the oldest are dropped and counted. Raises sqlite3.Error."""
        with self._lock:
            with self._db:
                self._db.execute("BEGIN")
                added = self._db.execute(_PUT, (topic, payload, self.subject)).lastrowid
                over = max(0, self.waiting + 1 - self.most)
                if over:
                    oldest = "SELECT id FROM message ORDER BY id LIMIT ?"
                    self._db.execute(f"DELETE FROM message WHERE id IN ({oldest})", (over,))
                    self._db.execute("UPDATE dropped SET n = n + ?", (over,))
            self.newest = added or 0
            self.waiting += 1 - over
            self.dropped += over

    def after(self, last: int, most: int) -> list[Message]:
        """The next ``most`` messages behind ``id`` ``last``, oldest first."""
        query = "SELECT id, topic, payload FROM message WHERE id > ? ORDER BY id LIMIT ?"
        with self._lock:
            return [Message(*row) for row in self._db.execute(query, (last, most))]

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
