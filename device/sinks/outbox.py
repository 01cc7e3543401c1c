"""Messages that wait on the disk until somebody has taken them: first in, first out, bounded, one SQLite file.

Every message is on the disk before ``put`` returns (WAL, synchronous FULL). It knows nothing of who takes them.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from device.errors import SinkError

SCHEMA_VERSION = 1
"""In the file's ``user_version``; one from a newer affectd is refused."""
_MODE = 0o600
"""What somebody felt: for the owner's eyes only."""
_DIRECTORY_MODE = 0o700
_BUSY_S = 1.0
"""Another process that has the file open is another affectd."""
_SCHEMA = f"""
BEGIN;
CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL) STRICT;
CREATE TABLE dropped (n INTEGER NOT NULL) STRICT;
INSERT INTO dropped VALUES (0);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class Message(NamedTuple):
    """One that waits."""

    id: int
    """Grows with every message, over all runs."""
    topic: str
    payload: bytes


class Outbox:
    """One file, for one process; each method may be called from any thread."""

    def __init__(self, path: Path, most: int, key: str = "[sinks.mqtt] outbox") -> None:
        """Open or begin a file that holds at most ``most`` messages and is named by ``key``; raises SinkError."""
        self.path = Path(path)
        self.key = key
        self.most = most
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, _MODE))  # SQLite's own files take its mode
            self._db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        except OSError as error:
            remedy = f"name another file in {key}, or make this one writable"
            raise SinkError(str(path), f"cannot be written: {error.strerror}", remedy) from error
        try:
            self._prepare()
            self.waiting: int = self._one("SELECT count(*) FROM message")
            """Messages in it."""
            self.dropped: int = self._one("SELECT n FROM dropped")
            """Messages that its bound has cost since the file was begun."""
            self.newest: int = self._one("SELECT coalesce(max(id), 0) FROM message")
            """``id`` of the last message; 0 where there is none."""
        except sqlite3.Error as error:
            self._db.close()
            if "locked" in str(error):
                raise SinkError(str(path), "another affectd uses it", "stop that one, or name another file") from error
            remedy = f"move it away, then a new one is begun, or name another file in {key}"
            raise SinkError(str(path), f"is no outbox of affectd ({error})", remedy) from error

    def _prepare(self) -> None:
        """Take the file for this process alone; a newer affectd's is left as it is."""
        version = self._one("PRAGMA user_version")
        if version > SCHEMA_VERSION:
            self._db.close()
            reason = f"is of a newer affectd (version {version} of its tables, this one knows {SCHEMA_VERSION})"
            raise SinkError(str(self.path), reason, f"name another file in {self.key}, or install that one")
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if version == 0:
            self._db.executescript(_SCHEMA)
        self._db.execute("UPDATE dropped SET n = n")  # exclusive from the first write on

    def _one(self, query: str) -> int:
        (value,) = self._db.execute(query).fetchone()
        return int(value)

    def put(self, topic: str, payload: bytes) -> None:
        """Add one, on the disk; beyond the bound the oldest are dropped and counted. Raises sqlite3.Error."""
        insert = "INSERT INTO message (topic, payload) VALUES (?, ?)"
        with self._lock:
            with self._db:
                self._db.execute("BEGIN")
                added = self._db.execute(insert, (topic, payload)).lastrowid
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
