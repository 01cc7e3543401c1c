"""Results that the device writes and cannot read: their readers see what a plain database says, others nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import affectd
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pyrage import decrypt
from test_sealing import Person
from test_sqlite_sink import RUN, SURE, UNSURE, rows

from device.errors import KeyFileError, SinkError
from device.notification import ClockReading, Event
from device.results import exported
from device.sealing import BLOCK
from device.sinks.sqlite import RESULTS, SqliteSink

ANOTHER = replace(SURE, index=5, start=15.0, stop=75.0, bundle="other", bundle_sha256="cd34" * 16)
ITEMS = (
    ClockReading(RUN.host_ns, RUN.wall_ns),
    Event(60_000_000_000, "stroop start"),
    SURE,
    UNSURE,
    ANOTHER,
    Event(80_000_000_000, "x" * 200),
)


@pytest.fixture
def people(tmp_path: Path) -> tuple[Person, Person]:
    return Person(tmp_path, "ada"), Person(tmp_path, "eve")


def write(path: Path, *recipients: str) -> Path:
    sink = SqliteSink(path, replace(RUN, subject="P07"), recipients)
    for item in ITEMS:
        sink.write(item)
    asyncio.run(sink.close())
    return path


@pytest.fixture
def sealed(tmp_path: Path, people: tuple[Person, Person]) -> Path:
    return write(tmp_path / "sealed.db", people[0].public)


def test_its_reader_sees_what_a_plain_database_says(
    tmp_path: Path, sealed: Path, people: tuple[Person, Person]
) -> None:
    ada, eve = people
    plain = list(exported(write(tmp_path / "plain.db")))
    assert list(exported(sealed, ada.identity)) == plain
    assert [row.get("event") or (row["index"], row["label"], row["bundle"]) for row in plain] == [
        "stroop start", (3, "stress", "tiny"), (4, None, "tiny"), (5, "stress", "other"), "x" * 200,
    ]  # fmt: skip
    head = {"wall": "2023-11-14T22:14:25.000Z", "run": 1, "subject": "P07"}
    assert plain[1] == json.loads(json.dumps(head | SURE.to_json()))
    with pytest.raises(KeyFileError, match=r"sealed\.db: is encrypted; give --identity FILE"):
        list(exported(sealed))
    with pytest.raises(KeyFileError, match="opens nothing that is encrypted for others"):
        list(exported(sealed, eve.identity))


def test_what_lies_on_the_disk_tells_nothing_not_even_by_its_length(sealed: Path) -> None:
    data = sealed.read_bytes()
    assert b"stress" in write(sealed.parent / "plain.db").read_bytes()
    for word in (b"stroop", b"stress", b"contact", b"motion", b"xxxx"):
        assert word not in data
    bodies = rows(sealed, "SELECT length(body) FROM sealed")
    assert bodies == 5 * [(8 + BLOCK + 16,)]
    assert rows(sealed, "SELECT (SELECT count(*) FROM prediction) + (SELECT count(*) FROM event)") == [(0,)]


def test_the_rows_are_what_the_documentation_says(sealed: Path, people: tuple[Person, Person]) -> None:
    """Read by other means than ours: age for the key, RFC 8439 for each row."""
    found = rows(sealed, "SELECT r.sealed, s.body FROM sealed AS s JOIN run AS r ON r.id = s.run ORDER BY s.id")
    texts = []
    for key, body in found:
        assert isinstance(key, str) and isinstance(body, bytes)
        cipher = ChaCha20Poly1305(decrypt(base64.b64decode(key), [people[0].key]))
        texts.append(cipher.decrypt(bytes(4) + body[:8], body[8:], None))
    assert [int.from_bytes(body[:8], "little") for _, body in found] == [1, 2, 3, 4, 5]
    assert json.loads(texts[1]) == json.loads(json.dumps(SURE.to_json()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("UPDATE sealed SET body = zeroblob(length(body)) WHERE id = 2", "row 2: it is not in its place"),
        ("UPDATE sealed SET body = (SELECT body FROM sealed WHERE id = 1) WHERE id = 2", "row 2: it is not in"),
        (
            "UPDATE sealed SET body = CAST(substr(body, 1, 8) || zeroblob(1040) AS BLOB) WHERE id = 2",
            "row 2: its seal is broken",
        ),
    ],
)
def test_a_row_that_was_changed_or_moved_is_refused(
    sealed: Path, people: tuple[Person, Person], change: str, why: str
) -> None:
    with contextlib.closing(sqlite3.connect(sealed, isolation_level=None)) as db:
        db.execute(change)
    with pytest.raises(SinkError, match=f"run 1, encrypted {why}"):
        list(exported(sealed, people[0].identity))


def test_what_was_there_in_clear_before_is_said_and_read_with_the_rest(
    tmp_path: Path, people: tuple[Person, Person], caplog: pytest.LogCaptureFixture
) -> None:
    path, ada = write(tmp_path / "results.db"), people[0]
    assert "is not encrypted" not in caplog.text
    write(path, ada.public)
    assert f"{path}: what it held before is not encrypted, and stays so" in caplog.text
    both = list(exported(path, ada.identity))
    half = len(both) // 2
    assert [row | {"run": 0} for row in both[:half]] == [row | {"run": 0} for row in both[half:]]


def test_a_database_of_version_1_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "data" / "results_version_1.sql").read_text())
    before = path.read_bytes()
    found = list(exported(path))
    assert (found[0]["wall"], found[0]["index"], found[0]["subject"]) == (
        "2023-11-14T22:14:25.000Z", 3, None,
    )  # fmt: skip
    assert len(found) == 3 and path.read_bytes() == before


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "results.db", RUN)
    sink.write(SURE)
    rows_of: Iterator[object] = exported(sink.path)
    next(rows_of)
    sink.write(UNSURE)
    assert len(list(exported(sink.path))) == 2
    sink._db.close()


def test_the_command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    sealed: Path,
    people: tuple[Person, Person],
) -> None:
    def export(*args: object) -> tuple[int, str, str]:
        return affectd(capsys, monkeypatch, "results", "export", *args)

    code, out, _ = export(sealed, "--identity", people[0].identity)
    assert code == 0 and [json.loads(line) for line in out.splitlines()] == list(exported(sealed, people[0].identity))
    file = sealed.parent / "out.jsonl"
    assert export(sealed, "--identity", people[0].identity, "--out", file)[:2] == (0, "")
    assert file.read_text() == out and stat.S_IMODE(file.stat().st_mode) == 0o600
    newer = sealed.parent / "newer.db"
    with contextlib.closing(sqlite3.connect(newer)) as db:
        db.execute(f"PRAGMA user_version = {RESULTS.version + 1}")
    for args, why in (
        ((sealed,), "is encrypted; give --identity FILE"),
        ((sealed.parent / "none.db",), "none.db: no such file; name a database of affectd"),
        ((people[0].identity,), "is no database of affectd"),
        ((newer,), "is of a newer affectd"),
        ((sealed, "--identity", people[0].identity, "--out", sealed.parent / "no" / "x"), "cannot be written"),
    ):
        code, _, err = export(*args)
        assert code == 2 and why in err and err.count("\n") == 1
