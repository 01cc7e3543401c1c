"""Time: whatever the wall clock does, and however long the machine sleeps, positions and durations are right, and wall
times are put right once they are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sqlite_sink import RUN, SURE
from tiny_bundle import tiny_bundle
from virtual_time import run_virtual

from device.notification import Arrival, ClockReading, Event, LinkChange, Notification
from device.pipeline.assemble import Assembler
from device.pipeline.types import Chunk
from device.recording import RecordingReader, RecordingWriter
from device.segment import SegmentReader
from device.session import open_session
from device.sinks.jsonl import JsonlSink
from device.sinks.sqlite import RESULTS, SqliteSink
from device.sources.ble_session import SLEPT_NS, Session
from device.sources.virtual import BEGIN_NS, H10_SFREQ, LATENCY_S, VirtualSensor, notifications
from device.storage import Policy
from device.timekeeping import LOOK_S, Timekeeping
from device.wall import (
    MOVED_NS,
    TRIES,
    WallWatch,
    _Timex,
    asleep_ns,
    dating,
    host_ns,
    is_synchronised,
    kernel_error_us,
    read_clocks,
    set_by_ns,
)
from firmware_bridge.codecs import polar_pmd
from firmware_bridge.errors import RadioError

S = 10**9
HOUR, DAY = 3600 * S, 86_400 * S
NOW = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()) * S
"""The true wall time at host time 0."""
STREAMS = {"chest": polar_pmd.STREAM_INFO}
CHEST = VirtualSensor("chest", polar_pmd.PROTOCOL, np.random.default_rng(3).normal(0, 0.3, 90 * 130), 130.0)
SENT = list(notifications([CHEST]))


class Clocks:
    """A machine's clocks, virtual: the host's goes on, the wall clock may be wrong, drift, and be set right."""

    def __init__(self, wrong_ns: int = 0, ppm: float = 0.0) -> None:
        self.host = 0
        self.wrong = float(wrong_ns)
        self.ppm = ppm
        self.asleep = 0
        self.synchronised = False

    def go_on(self, ns: int) -> None:
        self.host += ns
        self.wrong += ns * self.ppm * 1e-6

    def sleep(self, ns: int) -> None:
        self.go_on(ns)
        self.asleep += ns

    def set_right(self) -> None:
        self.wrong, self.synchronised = 0.0, True

    def read(self) -> ClockReading:
        return ClockReading(self.host, NOW + self.host + round(self.wrong), self.asleep, self.synchronised)


# Reading


def test_a_reading_is_the_quickest_of_some() -> None:
    """Something comes between the clocks in all but the third: the wall clock then seems to have been set."""
    slow = iter([0, 5, 0, 7, 0, 0, 9, 0, 9, 0])
    now = [1000]

    def host() -> int:
        now[0] += 10 + next(slow)
        return now[0]

    reading = read_clocks(host, lambda: now[0] + NOW, lambda: 4, lambda: True)
    assert next(slow, None) is None and TRIES * 2 == 10
    assert reading.wall_ns - reading.host_ns == NOW - 5
    assert (reading.asleep_ns, reading.is_synchronised) == (4, True)


def test_what_was_set_right_while_it_was_read_is_not_held_for_right() -> None:
    clocks = Clocks(-50 * 365 * DAY)

    def wall() -> int:
        read = clocks.read().wall_ns
        clocks.set_right()
        return read

    assert not read_clocks(lambda: clocks.host, wall, lambda: 0, lambda: clocks.synchronised).is_synchronised


def test_the_machine_s_own_clocks() -> None:
    first, second = read_clocks(), read_clocks()
    assert first.asleep_ns >= 0 and first.host_ns <= second.host_ns <= host_ns()
    assert abs(set_by_ns(first, second)) < MOVED_NS
    assert asleep_ns() >= 0 and is_synchronised() in (True, False)
    if sys.platform == "linux":  # the kernel's own word for the time since the start, suspended or not
        assert abs(float(Path("/proc/uptime").read_text().split()[0]) - host_ns() / S) < 60


@pytest.mark.parametrize(
    ("error_us", "flag", "expected"),
    [
        (16_000_000, False, False),
        (15_999_999, False, True),
        (16_000_000, True, True),
        (None, False, False),
        (None, True, True),
    ],
)
def test_either_the_kernel_or_timesyncd_knows(tmp_path: Path, error_us: int | None, flag: bool, expected: bool) -> None:
    """16 s: what timedatectl holds for not synchronised; None: the hardened unit, which may not ask."""
    if flag:
        (tmp_path / "synchronized").touch()
    assert is_synchronised(lambda: error_us, tmp_path / "synchronized") == expected


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is Linux's")
def test_the_kernel_is_understood(tmp_path: Path) -> None:
    """The C compiler's layout of struct timex is the reference."""
    source = tmp_path / "timex.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/timex.h>\n"
        'int main(void) { printf("%zu %zu", offsetof(struct timex, maxerror), sizeof(struct timex)); }\n'
    )
    subprocess.run(["gcc", source, "-o", tmp_path / "timex"], check=True)
    offset, size = map(int, subprocess.run([tmp_path / "timex"], check=True, capture_output=True).stdout.split())
    assert _Timex.maxerror.offset == offset and ctypes.sizeof(_Timex) >= size
    error_us = kernel_error_us()
    assert error_us is None or 0 <= error_us <= 16_000_000


# What is new


@pytest.mark.parametrize("step_ns", [56 * 365 * DAY, -S // 2, -DAY, MOVED_NS + 1, -MOVED_NS - 1])
def test_a_step_is_told_once(step_ns: int) -> None:
    clocks = Clocks(-step_ns)
    watch = WallWatch(clocks.read())
    for second in range(100):
        clocks.go_on(5 * S)
        if second == 50:
            clocks.wrong += step_ns
        before = watch.told
        assert watch.push(clocks.read()) == (second == 50)
        if second == 50:
            assert set_by_ns(before, watch.told) == step_ns


def test_a_slow_drift_is_told_before_it_is_long() -> None:
    """50 ppm in steps of 0.25 ms, which alone are nothing: 0.9 s in five hours."""
    clocks = Clocks(ppm=50.0)
    watch, told = WallWatch(clocks.read()), 0
    for _ in range(5 * 720):
        clocks.go_on(5 * S)
        told += watch.push(clocks.read())
        assert abs(set_by_ns(watch.told, clocks.read())) <= MOVED_NS
    assert told == 8


def test_the_synchronisation_and_a_sleep_are_told() -> None:
    clocks = Clocks()
    watch = WallWatch(clocks.read())
    clocks.set_right()
    assert watch.push(clocks.read()) and not watch.push(clocks.read())
    clocks.sleep(HOUR)
    assert watch.push(clocks.read()) and watch.told.asleep_ns == HOUR
    clocks.go_on(HOUR)
    assert not watch.push(clocks.read())


# Recorded, published, said


def kept(clocks: Clocks, sink: SqliteSink, writer: RecordingWriter) -> Timekeeping:
    def record(reading: ClockReading) -> None:
        writer.append(reading)
        sink.write(reading)

    return Timekeeping(clocks.read(), record, clocks.read)


def test_a_run_that_begins_in_1970_is_dated_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a real-time clock: the network comes after an hour. What was believed before stays to be seen."""
    caplog.set_level("INFO")
    clocks = Clocks(-NOW)
    run = replace(RUN, host_ns=0, wall_ns=clocks.read().wall_ns)
    sink = SqliteSink(tmp_path / "results.db", run)
    with RecordingWriter(tmp_path / "r", STREAMS, Policy(segment_s=1800.0), clocks=clocks.read) as writer:
        time = kept(clocks, sink, writer)
        for half_hour in range(5):
            if half_hour == 2:
                clocks.set_right()
            time.look()
            event = Event(clocks.host, f"mark {half_hour}")
            writer.append(event)
            sink.write(event)
            clocks.go_on(HOUR // 2)
        assert time.to_json() | {"wall": None} == {
            "is_synchronised": True,
            "wall": None,
            "asleep_s": 0.0,
            "corrections": 1,
            "corrected": {"by_s": NOW / 1e9, "ago_s": 5400.0},
        }
    asyncio.run(sink.close())
    with contextlib.closing(sqlite3.connect(tmp_path / "results.db")) as db:
        rows = db.execute("SELECT wall, what, is_synchronised, believed FROM timeline").fetchall()
        assert db.execute("SELECT * FROM clock").fetchall() == [(1, HOUR, NOW + HOUR, 0, 1)]
    assert rows == [
        ("2026-11-22T12:00:00.000Z", "mark 0", 1, "1970-01-01T00:00:00.000Z"),
        ("2026-11-22T12:30:00.000Z", "mark 1", 1, "1970-01-01T00:30:00.000Z"),
        ("2026-11-22T13:00:00.000Z", "mark 2", 1, "2026-11-22T13:00:00.000Z"),
        ("2026-11-22T13:30:00.000Z", "mark 3", 1, "2026-11-22T13:30:00.000Z"),
        ("2026-11-22T14:00:00.000Z", "mark 4", 1, "2026-11-22T14:00:00.000Z"),
    ]
    reader = RecordingReader(tmp_path / "r")
    found = {it.description: reader.wall_of(it.host_ns) for it in reader if isinstance(it, Event)}
    assert {f"{when:%Y-%m-%dT%H:%M:%S.000Z}": what for what, when in found.items()} == {row[0]: row[1] for row in rows}
    said = [it.message for it in caplog.records if it.name == "device.timekeeping"]
    assert said == [f"the wall clock was set by +{NOW // S}.000 s, is synchronised"]


def test_dates_of_a_clock_that_is_never_known_to_be_right_are_its_latest(tmp_path: Path) -> None:
    clocks = Clocks(-DAY)
    with RecordingWriter(tmp_path, STREAMS, clocks=clocks.read) as writer:
        clocks.go_on(HOUR)
        clocks.wrong = 0  # somebody has set it
        writer.append(clocks.read())
    assert RecordingReader(tmp_path).wall_of(0) == datetime.fromtimestamp(NOW / S, UTC)


SECONDS = (0, 17, 500)
READINGS = st.lists(
    st.builds(
        ClockReading,
        st.integers(0, 10**6).map(lambda ms: ms * 10**6),
        st.integers(0, 2 * 10**9).map(lambda s: s * S),
        st.integers(0, DAY),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda it: it.host_ns,
)


@given(READINGS)
@settings(max_examples=15, deadline=None)
def test_recording_and_database_are_dated_alike(readings: list[ClockReading]) -> None:
    """Whatever was read in whichever order; and between two rows lies what the host's clock has counted."""
    with tempfile.TemporaryDirectory() as name:
        first, *later = readings = sorted(readings, key=lambda it: it.host_ns)
        path = Path(name)
        sink = SqliteSink(path / "results.db", replace(RUN, host_ns=first.host_ns, wall_ns=first.wall_ns))
        with RecordingWriter(path / "r", STREAMS, clocks=lambda: first) as writer:
            sink.write(first)
            for reading in later:
                writer.append(reading)
                sink.write(reading)
        for second in SECONDS:
            sink.write(Event(second * S, str(second)))
        asyncio.run(sink.close())
        expected = dating(readings)
        reader = RecordingReader(path / "r")
        assert reader.clock == expected and list(reader) == later
        with contextlib.closing(sqlite3.connect(path / "results.db")) as db:
            (told,) = db.execute("SELECT host_ns, wall_ns, is_synchronised FROM dating").fetchall()
            walls = [datetime.fromisoformat(wall) for (wall,) in db.execute("SELECT wall FROM timeline")]
        assert told == (expected.host_ns, expected.wall_ns, expected.is_synchronised)
        off = [
            abs((wall - reader.wall_of(second * S)).total_seconds())
            for wall, second in zip(walls, SECONDS, strict=True)
        ]
        assert max(off) <= 0.001
        spans = [round((wall - walls[0]).total_seconds(), 2) for wall in walls]
        assert spans == list(SECONDS)


def test_lines_of_json_can_be_dated(tmp_path: Path) -> None:
    for _ in range(2):
        sink = JsonlSink(tmp_path / "out.jsonl")
        sink.write(ClockReading(5 * S, NOW, 2 * S, True))
        sink.write(ClockReading(5 * S, NOW, 2 * S, True))
        sink.finish()
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    line = {"clock": NOW / 1e9, "start": 5.0, "asleep_s": 2.0, "is_synchronised": True}
    assert lines == 2 * [line | {"begins_run": True}, line | {"begins_run": False}]


def test_it_looks_by_itself_and_says_first_where_it_stands() -> None:
    clocks, published, recorded = Clocks(-DAY), list[ClockReading](), list[ClockReading]()
    begin = clocks.read()
    time = Timekeeping(begin, recorded.append, clocks.read)

    async def some_minutes() -> None:
        async with time.watching(published.append):
            for minute in range(5):
                await asyncio.sleep(60 + LOOK_S / 2)
                clocks.go_on(60 * S)
                if minute == 2:
                    clocks.set_right()
        clocks.wrong = DAY
        await asyncio.sleep(600)

    run_virtual(some_minutes())
    assert published == [begin, *recorded] and [it.is_synchronised for it in recorded] == [True]
    assert recorded[0].wall_of(0) == NOW


def test_a_sleep_is_said_and_corrects_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clocks, recorded = Clocks(-DAY), list[ClockReading]()
    time = Timekeeping(clocks.read(), recorded.append, clocks.read)
    clocks.sleep(25 * S)
    time.look()
    assert [it.asleep_ns for it in recorded] == [25 * S]
    assert caplog.messages == ["the wall clock is not known to be synchronised; the machine has slept for 25 s"]
    assert (time.to_json()["corrections"], time.to_json()["corrected"]) == (0, None)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_time import *
clocks, path = Clocks(-DAY), Path({path!r})
sink, writer = SqliteSink(path / "results.db", RUN), RecordingWriter(path / "r", STREAMS, clocks=clocks.read)
writer.append(Event(0, "before"))
time = kept(clocks, sink, writer)
clocks.set_right()
time.look()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_correction_survives_kill_9_before_it_is_synced(tmp_path: Path) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), path=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    reader = RecordingReader(tmp_path / "r")
    assert list(reader) == [Event(0, "before"), ClockReading(0, NOW, 0, True)] and not reader.closed
    assert reader.wall_of(0) == datetime.fromtimestamp(NOW / S, UTC)
    with contextlib.closing(sqlite3.connect(tmp_path / "results.db")) as db:
        assert db.execute("SELECT count(*) FROM clock").fetchone() == (1,)


# Nothing else depends on the wall clock


@given(st.lists(st.tuples(st.integers(0, len(SENT)), st.integers(-NOW, 100 * 365 * DAY), st.booleans()), max_size=8))
@settings(max_examples=8, deadline=None)
def test_whatever_the_wall_clock_does_positions_durations_and_predictions_are_the_same(
    steps: list[tuple[int, int, bool]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        bundle = tiny_bundle(path / "tiny.affect")
        plain = open_session(bundle, STREAMS)
        expected = [p for n in SENT for p in plain.push(n)] + plain.flush()
        clocks = Clocks()
        time_steps = sorted(steps)
        with RecordingWriter(path / "r", STREAMS, Policy(segment_s=20.0), clocks=clocks.read) as writer:
            time = Timekeeping(clocks.read(), writer.append, clocks.read)
            for number, notification in enumerate(SENT):
                clocks.host = notification.host_ns
                while time_steps and time_steps[0][0] <= number:
                    _, wrong, clocks.synchronised = time_steps.pop(0)
                    clocks.wrong = wrong
                    time.look()
                writer.append(notification)
        names = [p.name for p in sorted((path / "r").iterdir())]
        headers = [SegmentReader(path / "r" / it).header for it in names]
        assert [it.number for it in headers] == list(range(len(names))) and len(names) == 5
        reader = RecordingReader(path / "r")
        arrivals = list(reader)
        assert [it for it in arrivals if isinstance(it, Notification)] == SENT
        session = open_session(bundle, STREAMS)
        told = [p for it in arrivals for p in session.push(it)] + session.flush()
        assert [msgspec.json.encode(p) for p in told] == [msgspec.json.encode(p) for p in expected]
        assert session.stats == plain.stats
        span = reader.wall_of(SENT[-1].host_ns) - reader.wall_of(SENT[0].host_ns)
        assert span.total_seconds() == pytest.approx((SENT[-1].host_ns - SENT[0].host_ns) / 1e9, abs=2e-6)


def test_segments_stay_in_order_where_the_clock_steps_back_to_the_same_moment(tmp_path: Path) -> None:
    """Each segment and each run begins at the very same wall time, or before."""
    for run in range(3):
        with RecordingWriter(
            tmp_path,
            STREAMS,
            Policy(10.0, keep_days=1),
            clocks=lambda run=run: ClockReading(0, NOW - run * DAY),  # type: ignore[misc]
        ) as writer:
            for second in range(35):
                writer.append(Event(second * S, f"{run} {second}"))
            writer.tend()
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 12
    found = [it.description for path in paths for it in SegmentReader(path) if isinstance(it, Event)]
    assert found == [f"{run} {second}" for run in range(3) for second in range(35)]


# Sleep

DECODE = polar_pmd.CODEC.decoder


def slept_through(asleep_s: float, *, reset: bool = False) -> tuple[list[Notification], list[Notification]]:
    """What a strap that goes on sends before a suspend and after it; it measures all the while."""
    before = list(notifications([replace(CHEST, data=CHEST.data[: 40 * 130])]))
    second = VirtualSensor("chest", polar_pmd.PROTOCOL, CHEST.data[: 40 * 130], 130.0, 40.0 + asleep_s)
    after = list(notifications([second]))
    if reset:  # it was switched off meanwhile: its clock begins anew
        anew = list(notifications([replace(CHEST, data=CHEST.data[: 40 * 130])]))
        after = [replace(a, data=b.data) for a, b in zip(after, anew, strict=True)]
    return before, after


def assembled(assembler: Assembler, arrivals: Sequence[Arrival]) -> Iterator[tuple[float, Chunk]]:
    """Each chunk with the true host second of its last sample, but for the radio's delay."""
    decoder = DECODE()
    for it in arrivals:
        if isinstance(it, Notification):
            for packet in decoder.push(it.data):
                for chunk in assembler.push(packet, it.host_ns):
                    yield it.host_ns / 1e9 - LATENCY_S, chunk


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("asleep_s", [5.0, 300.0, 3600.0, 12 * 3600.0])
def test_a_sleep_is_a_gap_of_its_length_and_nothing_is_dated_wrong(asleep_s: float, reset: bool) -> None:
    """Whether the link was kept or made anew: the strap's clock went on, or was reset."""
    before, after = slept_through(asleep_s, reset=reset)
    assembler = Assembler(polar_pmd.STREAM_INFO)
    first = list(assembled(assembler, before))
    assert assembler.stats.gaps == 0
    second = list(assembled(assembler, [LinkChange("chest", after[0].host_ns, "starting"), *after]))
    assert assembler.stats.gaps == 1 and assembler.stats.resets == reset
    true_gap = second[0][0] - first[-1][0]
    tolerance = 0.2 if reset else 0.05 + 5e-5 * asleep_s  # s; a reset clock is dated by one arrival
    samples = second[0][1].stop - first[-1][1].stop
    assert abs(samples / assembler.stats.sfreq_now - true_gap) < tolerance + 1e-4 * asleep_s
    for true, chunk in [*first, *second]:
        assert abs(chunk.times()[-1] - true) < 0.25


def test_on_a_clock_that_stands_still_in_a_sleep_an_hour_would_be_lost() -> None:
    """Why the host's clock is CLOCK_BOOTTIME: the same strap dated by CLOCK_MONOTONIC."""
    before, after = slept_through(3600.0)
    still = [replace(it, host_ns=it.host_ns - HOUR) for it in after]
    assembler = Assembler(polar_pmd.STREAM_INFO)
    list(assembled(assembler, [*before, *still]))
    assert assembler.stats.lost_samples < 5 * H10_SFREQ


def test_what_was_under_way_when_the_machine_fell_asleep_ends_the_connection() -> None:
    asleep, given_on = [7 * HOUR], list[Notification]()

    async def connection() -> None:
        session = Session(
            "chest", polar_pmd.CODEC, lambda: BEGIN_NS, given_on.append, lambda _: None, asleep_ns=lambda: asleep[0]
        )
        session.accept()
        session.hear(polar_pmd.CODEC.data_uuid, SENT[0].data)
        asleep[0] += SLEPT_NS // 2
        session.hear(polar_pmd.CODEC.data_uuid, SENT[1].data)
        assert len(given_on) == 2 and not session.ended.is_set()
        asleep[0] += HOUR
        session.hear(polar_pmd.CODEC.data_uuid, SENT[2].data)
        session.hear(polar_pmd.CODEC.data_uuid, SENT[3].data)
        with pytest.raises(RadioError, match="the machine has slept"):
            await session.silence(10.0, 10.0)

    run_virtual(connection())
    assert [it.data for it in given_on] == [SENT[0].data, SENT[1].data]


# A database of the version before


RUNS = "SELECT id, host_ns, wall_ns, bundle, bundle_sha256, recording, affectd FROM run"


def version_1(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "data" / "results_version_1.sql").read_text())


def test_an_older_database_is_taken_on_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    version_1(path)
    old = "SELECT wall, run, time, kind, what, abstained, probabilities, modalities FROM timeline"
    tables = (RUNS, "SELECT * FROM prediction", "SELECT * FROM event", old)
    with contextlib.closing(sqlite3.connect(path)) as db:
        before = [db.execute(query).fetchall() for query in tables]
    sink = SqliteSink(path, replace(RUN, host_ns=0, wall_ns=0))
    sink.write(ClockReading(HOUR, NOW + HOUR, 0, True))
    sink.write(replace(SURE, index=0))
    asyncio.run(sink.close())
    with contextlib.closing(sqlite3.connect(path)) as db:
        for query, rows in zip(tables, before, strict=True):
            assert db.execute(query).fetchall()[: len(rows)] == rows
        assert db.execute("PRAGMA user_version").fetchone() == (RESULTS.version,)
        assert db.execute("SELECT wall, believed FROM timeline WHERE run = 2").fetchall() == [
            ("2026-11-22T12:01:10.000Z", "1970-01-01T00:01:10.000Z")
        ]
        made = "SELECT name, sql FROM sqlite_schema WHERE name IN ('clock', 'event', 'reading', 'dating', 'timeline')"
        taken_on = sorted(db.execute(made))
        assert len(taken_on) == 5
    SqliteSink(tmp_path / "new.db", RUN)._db.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "new.db")) as db:
        assert sorted(db.execute(made)) == taken_on


def test_an_upgrade_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    version_1(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE VIEW dating AS SELECT 1")  # in the way of the second step
        before = list(db.iterdump())
    with pytest.raises(Exception, match="dating"):
        SqliteSink(path, RUN)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before and db.execute("PRAGMA user_version").fetchone() == (1,)
