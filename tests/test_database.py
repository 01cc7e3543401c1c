"""One private SQLite file: older tables are brought up to date, newer ones go back where they say how."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from device.errors import SinkError
from device.sinks.database import Kind, opened, read_only
from device.sinks.message_log import LOG
from device.sinks.outbox import OUTBOX
from device.sinks.sqlite import RESULTS

FIRST = "CREATE TABLE said (text TEXT NOT NULL) STRICT;"
LOUD = "ALTER TABLE said ADD COLUMN loud INTEGER NOT NULL DEFAULT 0;"
WHERE = "CREATE TABLE place (name TEXT NOT NULL) STRICT; INSERT INTO place VALUES ('it''s here');"
BACK = {2: "ALTER TABLE said DROP COLUMN loud;", 3: "DELETE FROM place WHERE name = 'it''s here'; DROP TABLE place;"}
OLD = Kind("notebook", "[sinks.x] path", (FIRST,))
NEXT = Kind("notebook", "[sinks.x] path", (FIRST, LOUD), {2: BACK[2]})
LATEST = Kind("notebook", "[sinks.x] path", (FIRST, LOUD, WHERE), BACK)


def write(path: Path, kind: Kind, text: str) -> None:
    with contextlib.closing(opened(path, kind)) as db:
        db.execute("INSERT INTO said (text) VALUES (?)", (text,))


def held(path: Path) -> tuple[int, list[str], list[str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        said = [text for (text,) in db.execute("SELECT text FROM said ORDER BY rowid")]
        return version, said, [column for _, column, *_ in db.execute("PRAGMA table_info(said)")]


@pytest.mark.parametrize("between", [NEXT, LATEST])
@pytest.mark.parametrize("begun", [OLD, NEXT, LATEST])
def test_an_upgrade_that_is_taken_back_keeps_what_either_has_written(
    begun: Kind, between: Kind, tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    write(path, begun, "begun")
    write(path, between, "by the newer one")
    write(path, OLD, "by the older one")
    assert held(path) == (1, ["begun", "by the newer one", "by the older one"], ["text"])
    write(path, LATEST, "upgraded again")
    assert held(path) == (3, ["begun", "by the newer one", "by the older one", "upgraded again"], ["text", "loud"])
    write(path, NEXT, "one back")
    assert held(path)[0] == 2


def test_a_way_back_with_a_step_missing_is_none_and_the_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    write(path, Kind("notebook", "[sinks.x] path", LATEST.versions, {3: BACK[3]}), "kept")
    before = path.read_bytes()
    with pytest.raises(SinkError, match=r"is of a newer affectd \(version 3 of its tables, this one knows 1\)"):
        opened(path, OLD)
    assert path.read_bytes() == before
    with contextlib.closing(opened(path, NEXT)):
        assert held(path)[:2] == (2, ["kept"])


def test_a_way_back_that_fails_leaves_the_file(tmp_path: Path) -> None:
    """One that makes room for itself, and one that would reach another file."""
    for n, script in enumerate(("DELETE FROM said; DROP TABLE nothing;", f"ATTACH '{tmp_path}/other.db' AS other;")):
        path = tmp_path / f"{n}.db"
        write(path, Kind("notebook", "[sinks.x] path", NEXT.versions, {2: script}), "kept")
        with pytest.raises(SinkError, match="is no notebook of affectd"):
            opened(path, OLD)
        assert held(path)[:2] == (2, ["kept"])
    assert not (tmp_path / "other.db").exists()


def test_to_look_at_a_newer_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    write(path, LATEST, "kept")
    with pytest.raises(SinkError, match="is of a newer affectd"):
        read_only(path, OLD)
    assert held(path)[0] == 3


def test_to_look_at_an_older_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    write(path, OLD, "kept")
    before = path.read_bytes()
    with contextlib.closing(read_only(path, LATEST, alone=True)) as db:
        assert db.execute("SELECT text, loud FROM said").fetchall() == [("kept", 0)]
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [RESULTS, OUTBOX, LOG], ids=lambda it: it.what)
def test_each_way_back_leads_to_the_tables_that_were_there(kind: Kind, tmp_path: Path) -> None:
    """Of our own files: columns and their types, by version."""

    def tables(versions: int, back_to: int) -> dict[str, list[tuple[object, ...]]]:
        path = tmp_path / f"{versions}-{back_to}.db"
        for n in (versions, back_to):
            opened(path, Kind(kind.what, kind.key, kind.versions[:n], kind.backwards)).close()
        with contextlib.closing(sqlite3.connect(path)) as db:
            names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
            return {name: db.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in {*names} - {"backwards"}}

    assert tables(kind.version, kind.version)
    for version in kind.backwards:
        assert tables(version, version - 1) == tables(version - 1, version - 1), version
