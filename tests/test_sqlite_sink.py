"""The database of results: every row that was written is there after kill -9, dated, and readable meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from device.errors import EventError, SinkError
from device.inference import Prediction
from device.marking import LONGEST, Marking, event_of
from device.notification import Event
from device.sinks.sqlite import RESULTS, Run, SqliteSink

RUN = Run(5_000_000_000, 1_700_000_000_000_000_000, "tiny", "ab12" * 16, "x.affrec", "0.1.0")
SURE = Prediction(
    3, 10.0, 70.0, "stress", {"rest": 0.2, "stress": 0.8}, ("ecg", "eda"), None, {"ecg": 0.9, "eda": 1.0},
    {"ecg": ("motion",)}, 0.7, RUN.bundle, RUN.bundle_sha256,
)  # fmt: skip
UNSURE = replace(SURE, index=4, label=None, probabilities=None, modalities=(), abstained="contact", distance=None)
WRITER = """
import sys
from pathlib import Path
from dataclasses import replace
sys.path.insert(0, {tests!r})
from test_sqlite_sink import RUN, SURE
from device.sinks.sqlite import SqliteSink
sink = SqliteSink(Path({path!r}), RUN)
for index in range(1_000_000):
    sink.write(replace(SURE, index=index))
    print(index, flush=True)
"""


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_what_is_written_is_read_by_others_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "results.db"
    sink = SqliteSink(path, RUN)
    for item in (SURE, UNSURE, Event(75_000_000_000, "stroop start")):
        asyncio.run(sink.publish(item))
    found = rows(path, "SELECT * FROM prediction")
    assert found[0] == (
        *(1, 3, 10.0, 70.0, "stress", None, json.dumps(SURE.probabilities), "ecg+eda"),
        *(json.dumps(SURE.sqi), json.dumps({"ecg": ["motion"]}), 0.7),
    )
    assert found[1][4:8] == (None, "contact", None, "") and found[1][10] is None
    assert rows(path, "SELECT wall, kind, what FROM timeline") == [
        ("2023-11-14T22:14:25.000Z", "prediction", "stress"),  # 70 s of a clock that began at 5 s, 65 s after the start
        ("2023-11-14T22:14:25.000Z", "prediction", None),
        ("2023-11-14T22:14:30.000Z", "event", "stroop start"),
    ]
    asyncio.run(sink.close())
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_runs_share_a_file_and_keep_their_own_clocks(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    for k in range(2):
        sink = SqliteSink(path, replace(RUN, wall_ns=RUN.wall_ns + k * 86_400_000_000_000))
        sink.write(SURE)
        asyncio.run(sink.close())
    assert rows(path, "SELECT run, wall FROM timeline") == [
        (1, "2023-11-14T22:14:25.000Z"), (2, "2023-11-15T22:14:25.000Z"),
    ]  # fmt: skip


def test_every_row_that_was_written_survives_kill_9(tmp_path: Path) -> None:
    """At random moments, one run after the other into the same file, none of them ever closed."""
    path, rng, told = tmp_path / "results.db", random.Random(0), []
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path))
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.2))
            child.send_signal(signal.SIGKILL)
            lines = child.stdout.read().splitlines()
        told.append(1 + len([line for line in lines if line.isdigit()]))
    assert max(told) > 10
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    kept = [n for (n,) in rows(path, "SELECT count(*) FROM prediction GROUP BY run ORDER BY run")]
    assert len(kept) == len(told) and all(told[k] <= n <= told[k] + 1 for k, n in enumerate(kept))


def test_a_newer_affectd_s_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    asyncio.run(SqliteSink(path, RUN).close())
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {RESULTS.version + 1}")
    before = path.read_bytes()
    with pytest.raises(SinkError, match=r"results\.db.*is of a newer affectd"):
        SqliteSink(path, RUN)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + bytes(range(256)) * 8])
def test_another_file_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(SinkError, match=r"no database of affectd.*move it away"):
        SqliteSink(path, RUN)
    assert path.read_bytes() == content


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        SqliteSink(tmp_path / "file" / "results.db", RUN)


def test_a_full_disk_fails_that_row_and_no_other(tmp_path: Path) -> None:
    """SQLite's own limit of pages stands for the disk's end."""
    sink = SqliteSink(tmp_path / "results.db", RUN)
    pages = sink._db.execute("PRAGMA page_count").fetchone()[0]
    sink._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    written = 0
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for written in range(10_000):
            sink.write(replace(SURE, index=written))
    sink._db.execute(f"PRAGMA max_page_count = {pages + 100}")
    sink.write(replace(SURE, index=written))
    assert rows(sink.path, "SELECT count(*) FROM prediction") == [(written + 1,)]
    asyncio.run(sink.close())


@pytest.mark.parametrize("text", ["", "  ", None, 7, "x" * (LONGEST + 1), "a\nb", "bell\x07"])
def test_descriptions_that_say_nothing_or_too_much_are_refused(text: object) -> None:
    with pytest.raises(EventError):
        event_of(text, 1)


@pytest.mark.parametrize("room", [True, False])
def test_an_event_is_published_also_where_a_full_disk_takes_no_recording(room: bool) -> None:
    published: list[Event] = []
    marking = Marking(lambda _: room, lambda: 7)
    marking.publish = published.append
    assert marking.mark("stroop") == (Event(7, "stroop"), room) and published == [Event(7, "stroop")]
