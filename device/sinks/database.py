"""One private SQLite file: opened or begun, brought to the tables of today, and emptied so that nothing of a row stays.

What is written is on the disk before the next statement comes (WAL, synchronous FULL), and what is deleted is
overwritten. A file carries with it how an older affectd goes back to its own tables, which cannot know those to come:
an upgrade that is taken back loses nothing. It knows nothing of what the tables hold.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from device.errors import SinkError
from firmware_bridge.private import FILE_MODE, make_folder

_BUSY_S = 5.0
"""A reader holds the file for less."""
_BUSY_ALONE_S = 1.0
"""Another process that has the file open is another affectd."""
_BACKWARDS = "CREATE TABLE IF NOT EXISTS backwards (version INTEGER PRIMARY KEY, script TEXT NOT NULL) STRICT;"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of file."""

    what: str
    key: str
    """Where the configuration names it."""
    versions: tuple[str, ...]
    """What makes each version of the tables out of the one before; their number is the file's ``user_version``."""
    backwards: Mapping[int, str] = field(default_factory=dict)
    """Version of the tables -> what makes the one before out of it, without loss of what that one knows. Where there is
    nothing, a file of that version is refused by whoever does not know it."""

    @property
    def version(self) -> int:
        """Of the tables of today."""
        return len(self.versions)


def opened(path: Path, kind: Kind, *, alone: bool = False) -> sqlite3.Connection:
    """For any thread, ``alone`` for this process only; raises SinkError, and then the file is as it was."""
    try:
        make_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))  # SQLite's own files take its mode
    except OSError as error:
        remedy = f"name another file in {kind.key}, or make this one writable"
        raise SinkError(str(path), f"cannot be written: {error.strerror}", remedy) from error
    busy_s = _BUSY_ALONE_S if alone else _BUSY_S
    db = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
    with used(db, path, kind):
        _prepare(db, path, kind, alone)
    return db


@contextlib.contextmanager
def used(db: sqlite3.Connection, path: Path, kind: Kind) -> Iterator[None]:
    """Close it where it proves to be of no use; raises SinkError for what SQLite says."""
    try:
        yield
    except SinkError:
        db.close()
        raise
    except sqlite3.Error as error:
        db.close()
        if "locked" in str(error):
            raise SinkError(str(path), "another program uses it", "stop that one, or name another file") from error
        if "full" in str(error):
            raise SinkError(str(path), str(error), "make room: as much again as it takes") from error
        remedy = f"move it away, then a new one is begun, or name another file in {kind.key}"
        raise SinkError(str(path), f"is no {kind.what} of affectd ({error})", remedy) from error


def read_only(path: Path, kind: Kind, *, alone: bool = False) -> sqlite3.Connection:
    """With the tables of today, whoever writes it meanwhile; of an older file a copy in memory. Raises SinkError.

    Where nobody writes it, ``alone`` leaves no files of SQLite's beside it.
    """
    if not path.is_file():
        raise SinkError(str(path), "no such file", f"name a {kind.what} of affectd")
    mode = "rw" if alone else "ro"
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    with used(db, path, kind):
        lacking = _lacking(db, path, kind)
        if not lacking:
            return db
        copy = sqlite3.connect(":memory:", isolation_level=None)
        with contextlib.closing(db):
            db.backup(copy)
        copy.executescript("".join(lacking))
        return copy


def _lacking(db: sqlite3.Connection, path: Path, kind: Kind) -> tuple[str, ...]:
    """What an older file's tables lack; raises SinkError for those of a newer affectd."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > kind.version:
        reason = f"is of a newer affectd (version {version} of its tables, this one knows {kind.version})"
        raise SinkError(str(path), reason, f"name another file in {kind.key}, or install the newer one")
    return kind.versions[version:]


def _prepare(db: sqlite3.Connection, path: Path, kind: Kind, alone: bool) -> None:
    """Tables in a new file, or what an older one lacks; a newer affectd's file goes back, or is left as it is."""
    changes = _way_back(db, kind) or _way_on(db, path, kind)
    if alone:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = ON")
    if changes:
        db.set_authorizer(_own_file)
        db.executescript(f"BEGIN; {changes} PRAGMA user_version = {kind.version}; COMMIT;")
        db.set_authorizer(None)
    elif alone:
        db.execute("BEGIN IMMEDIATE")  # exclusive from the first write on
        db.execute("COMMIT")


def _way_on(db: sqlite3.Connection, path: Path, kind: Kind) -> str:
    """From an older file's tables, or none, to those of today; empty where it has these."""
    lacking = _lacking(db, path, kind)
    new = range(kind.version - len(lacking) + 1, kind.version + 1)
    ways = [(version, kind.backwards[version].replace("'", "''")) for version in new if version in kind.backwards]
    kept = "".join(f"INSERT OR REPLACE INTO backwards VALUES ({version}, '{script}');" for version, script in ways)
    return "".join(lacking) + (_BACKWARDS + kept if kept else "")


def _way_back(db: sqlite3.Connection, kind: Kind) -> str:
    """From a newer affectd's tables to those of today, by what it has left there; empty where there is no whole way."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version <= kind.version or not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'backwards'").fetchone():
        return ""
    steps = "SELECT script FROM backwards WHERE version > ? AND version <= ? ORDER BY version DESC"
    scripts = [script for (script,) in db.execute(steps, (kind.version, version))]
    if len(scripts) < version - kind.version:
        return ""
    _log.warning("a %s of a newer affectd (version %d of its tables) goes back to %d", kind.what, version, kind.version)
    return "".join((*scripts, f"DELETE FROM backwards WHERE version > {kind.version};"))


def _own_file(action: int, *_: object) -> int:
    """What comes out of a file has no business in another one."""
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH) else sqlite3.SQLITE_OK


def scrub(db: sqlite3.Connection) -> None:
    """Leave nothing of what was ever deleted, in the file or in its log; raises sqlite3.Error."""
    db.execute("VACUUM")
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("database is locked")
