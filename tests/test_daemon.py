"""The daemon's flow from scripted sources to the recording and the sinks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import resource
import signal
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_sealing import Person
from tiny_bundle import tiny_bundle

from device.config import (
    Config,
    ControlConfig,
    InferenceConfig,
    JsonlConfig,
    PersonConfig,
    RecordingConfig,
    SinksConfig,
    SqliteConfig,
)
from device.daemon import run
from device.erasing import erase_subject
from device.errors import BundleError, DeviceError, KeyFileError, SourceError
from device.notification import ClockReading, Event, Notification, Unrecorded
from device.pipeline.spec import default_spec
from device.recording import RecordingReader, RecordingWriter
from device.results import exported
from device.segment import is_compressed
from device.session import open_session
from device.sources.virtual import VirtualSensor, VirtualSource, notifications
from device.timekeeping import Timekeeping
from firmware_bridge.daemon_client import DaemonError, ask, listened_at, status
from firmware_bridge.packet import StreamInfo
from firmware_bridge.registry import Sensor

SECONDS = 100.0
RNG = np.random.default_rng(5)
CHEST = VirtualSensor("chest", "polar-pmd-ecg", RNG.normal(0, 0.3, round(SECONDS * 130)), 130.0)
EDA = 5 + RNG.normal(0, 0.01, round((SECONDS - 8) * 8)).cumsum()  # ends early: the last windows wait for it in vain
WRIST = VirtualSensor("wrist", "open-eda", EDA, 8.0)
SENT = list(notifications([CHEST, WRIST]))
ROWS_ERASED = {"rows of sealed", "rows of clock", "rows of run"}
INFOS = {"chest": CHEST.info(), "wrist": WRIST.info()}


class Scripted:
    """A source that gives what it is told, then ends, raises, or waits for ever."""

    def __init__(self, name: str, sent: Iterable[Notification], end: Exception | str | None = None) -> None:
        self.name = name
        self.sent = list(sent)
        self.end = end
        self.closed = False

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        return {self.name: INFOS[self.name]}

    async def notifications(self) -> AsyncGenerator[Notification, None]:
        try:
            for notification in self.sent:
                yield notification
                await asyncio.sleep(0)
            if isinstance(self.end, Exception):
                raise self.end
            if self.end == "wait":
                await asyncio.Event().wait()
        finally:
            self.closed = True


def of(name: str) -> list[Notification]:
    return [n for n in SENT if n.stream == name]


def daemon_config(tmp_path: Path) -> Config:
    tiny_bundle(tmp_path / "tiny.affect")
    return Config(
        sensors=(Sensor(role="ecg", name="chest", address="A0:9E:1A:00:00:01", protocol="polar-pmd-ecg"),),
        inference=InferenceConfig(bundle=str(tmp_path / "tiny.affect")),
        control=ControlConfig(socket=str(tmp_path / "affectd.sock")),
        recording=RecordingConfig(directory=str(tmp_path / "recordings"), fsync_s=0.01),
        sinks=SinksConfig(jsonl=JsonlConfig(path=str(tmp_path / "out.jsonl"))),
    )


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return daemon_config(tmp_path)


def recorded(config: Config) -> list[Notification]:
    reader = RecordingReader(Path(config.recording.directory))
    records = list(reader)
    assert reader.closed
    return records


def published(config: Config) -> list[dict[str, object]]:
    assert config.sinks.jsonl is not None
    lines = [json.loads(line) for line in Path(config.sinks.jsonl.path).read_text().splitlines()]
    return [line for line in lines if "clock" not in line]


def test_what_the_sensors_send_is_recorded_and_predicted(config: Config) -> None:
    stats = asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
    assert recorded(config) == SENT
    assert config.inference.bundle is not None
    session = open_session(tiny_bundle(Path(config.inference.bundle)), INFOS)
    expected = [p for n in SENT for p in session.push(n)] + session.flush()
    assert published(config) == [json.loads(json.dumps(p.to_json())) for p in expected]
    assert len(expected) >= 5
    assert stats["chest"].assembly.samples == session.stats["chest"].assembly.samples


def test_what_it_keeps_of_one_wearer_is_erased_and_that_of_the_next_is_read_by_who_may(
    config: Config, tmp_path: Path
) -> None:
    """Two runs, a subject each, the results encrypted; the first is erased."""
    reader = Person(tmp_path, "reader")
    (tmp_path / "recipients").write_text(reader.public + "\n")
    results = SqliteConfig(path=str(tmp_path / "results.db"), recipients=str(tmp_path / "recipients"))
    for subject in ("P07", "P08"):
        sinks = msgspec.structs.replace(config.sinks, sqlite=results)
        config = msgspec.structs.replace(config, sinks=sinks, person=PersonConfig(subject=subject))
        asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["subject"] for line in lines} == {"P07", "P08"}
    with pytest.raises(KeyFileError, match="is encrypted"):
        list(exported(Path(results.path)))
    report = erase_subject(config, "P07")
    assert {it.what for it in report.erased} == {"segments", "lines", *ROWS_ERASED} and not report.left
    assert not [it.name for it in tmp_path.rglob("*") if it.is_file() and b"P07" in it.read_bytes()]
    assert recorded(config) == SENT
    rows = exported(Path(results.path), reader.identity)
    kept = [{k: v for k, v in row.items() if k not in ("wall", "run")} for row in rows]
    assert kept == published(config) and len(kept) >= 5


def test_what_somebody_marks_is_recorded_and_published_beside_the_predictions(config: Config) -> None:
    """Over the socket, while sensors stream; the database and the lines of JSON have all of it."""
    path = Path(config.recording.directory).parent / "results.db"
    config = msgspec.structs.replace(
        config, sinks=msgspec.structs.replace(config.sinks, sqlite=SqliteConfig(path=str(path)))
    )
    socket, stop = Path(config.control.socket), asyncio.Event()

    async def all_of_it() -> None:
        source = Scripted("chest", of("chest"), "wait")
        daemon = asyncio.create_task(run(config, sources=[source], stop=stop))
        while not listened_at(socket):
            await asyncio.sleep(0.01)
        async with ask(socket, {"do": "mark", "description": " stroop start "}) as answers:
            assert (await anext(answers))["marked"] == "stroop start"
        with pytest.raises(DaemonError, match="an event without a description; say what happens"):
            async with ask(socket, {"do": "mark"}):
                pass
        while len(published(config)) < 6:
            await asyncio.sleep(0.01)
        stop.set()
        await daemon

    asyncio.run(all_of_it())
    (event,) = (record for record in recorded(config) if isinstance(record, Event))
    assert event.description == "stroop start"
    lines = published(config)
    assert [line for line in lines if "event" in line] == [{"event": "stroop start", "start": event.host_ns / 1e9}]
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT time, description FROM event").fetchall() == [(event.host_ns / 1e9, "stroop start")]
        told = db.execute('SELECT "index", start, modalities FROM prediction').fetchall()
        bundle, recording = db.execute("SELECT bundle, recording FROM run").fetchone()
    assert told == [(p["index"], p["start"], "+".join(p["modalities"])) for p in lines if "event" not in p]
    assert (bundle, (Path(config.recording.directory) / recording).is_file()) == ("tiny", True)


def test_a_clock_that_is_set_is_recorded_published_and_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's clocks are stood in for: it has no real-time clock, and the network comes late."""
    began, now = 1_000_000_000, 1_800_000_000 * 10**9
    readings = iter([ClockReading(began, 0)])
    right = ClockReading(began + 5, now + 5, 0, True)
    monkeypatch.setattr("device.timekeeping.LOOK_S", 0.01)
    monkeypatch.setattr("device.daemon.Timekeeping", partial(Timekeeping, read=lambda: right))
    monkeypatch.setattr("device.daemon.RecordingWriter", partial(RecordingWriter, clocks=lambda: next(readings, right)))
    path = Path(config.recording.directory).parent / "results.db"
    config = msgspec.structs.replace(
        config, sinks=msgspec.structs.replace(config.sinks, sqlite=SqliteConfig(path=str(path)))
    )
    socket, stop = Path(config.control.socket), asyncio.Event()

    async def all_of_it() -> dict[str, object]:
        daemon = asyncio.create_task(run(config, sources=[Scripted("chest", of("chest"), "wait")], stop=stop))
        async with asyncio.timeout(60):
            while not listened_at(socket):
                await asyncio.sleep(0.01)
            while not (said := (await status(socket))["clock"])["corrections"] or not published(config):
                await asyncio.sleep(0.01)
        stop.set()
        await daemon
        return said

    said = asyncio.run(all_of_it())
    assert said["is_synchronised"] and said["corrections"] == 1
    assert said["corrected"] == {"by_s": now / 1e9, "ago_s": 0.0}
    assert [it for it in recorded(config) if isinstance(it, ClockReading)] == [right]
    assert RecordingReader(Path(config.recording.directory)).clock == right
    assert config.sinks.jsonl is not None
    lines = [json.loads(line) for line in Path(config.sinks.jsonl.path).read_text().splitlines()]
    assert [line["clock"] for line in lines if "clock" in line] == [0.0, right.wall_ns / 1e9]
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT wall_ns, is_synchronised FROM clock").fetchall() == [(0, 0), (right.wall_ns, 1)]


def test_a_bad_packet_is_counted_recorded_and_the_stream_goes_on(config: Config) -> None:
    bad = Notification("chest", SENT[200].host_ns, b"\x00\x01")
    sent = [*SENT[:200], bad, *SENT[200:]]

    class Both(Scripted):
        streams = INFOS

    stats = asyncio.run(run(config, sources=[Both("both", sent)], stop=asyncio.Event()))
    assert recorded(config) == sent
    assert stats["chest"].bad.total() == 1
    assert stats["wrist"].bad.total() == 0
    assert stats["chest"].assembly.gaps == 0
    assert len(published(config)) >= 5


def test_segments_that_have_ended_are_compressed_meanwhile(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.daemon.TEND_S", 0.01)
    recording = msgspec.structs.replace(config.recording, segment_s=20.0)
    config = msgspec.structs.replace(config, recording=recording)
    directory, stop, wanted = Path(config.recording.directory), asyncio.Event(), of("chest")

    async def all_of_it() -> None:
        daemon = asyncio.create_task(run(config, sources=[Scripted("chest", wanted, "wait")], stop=stop))
        async with asyncio.timeout(60):
            while len(paths := sorted(directory.glob("*.affrec"))) < 5 or not all(map(is_compressed, paths[:-1])):
                await asyncio.sleep(0.01)
            while list(RecordingReader(directory, recover=True)) != wanted:
                await asyncio.sleep(0.01)
        stop.set()
        await daemon

    asyncio.run(all_of_it())
    assert recorded(config) == wanted
    assert not list(directory.glob("*.part"))


def test_a_disk_that_takes_no_more_stops_no_prediction(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    """A segment may have 9000 bytes, as on a disk that is full: the rest of it is missing, and said to be."""
    recording = msgspec.structs.replace(config.recording, segment_s=40.0)
    config = msgspec.structs.replace(config, recording=recording)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(published(config)) >= 5
    found = list(RecordingReader(Path(config.recording.directory)))
    missing = sum(it.records for it in found if isinstance(it, Unrecorded))
    kept = [it for it in found if not isinstance(it, Unrecorded)]
    assert missing and [it for it in SENT if it in kept] == kept
    assert "not recording to" in caplog.text and "recording again" in caplog.text


def test_a_source_that_fails_stops_no_other(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    failing = Scripted("wrist", of("wrist")[:5], SourceError("wrist", "is another", "pair it"))
    asyncio.run(run(config, sources=[failing, Scripted("chest", of("chest"))], stop=asyncio.Event()))
    assert len([n for n in recorded(config) if n.stream == "chest"]) == len(of("chest"))
    assert "source wrist ends: wrist: is another; pair it" in caplog.text


def test_an_unforeseen_error_of_a_source_stops_no_other(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    failing = Scripted("wrist", of("wrist")[:5], ZeroDivisionError("oops"))
    asyncio.run(run(config, sources=[failing, Scripted("chest", of("chest"))], stop=asyncio.Event()))
    assert len([n for n in recorded(config) if n.stream == "chest"]) == len(of("chest"))
    assert "source wrist ends" in caplog.text


def test_the_end_of_every_source_by_error_is_an_error(config: Config) -> None:
    sources = [Scripted(name, [], SourceError(name, "is another", "pair it")) for name in INFOS]
    with pytest.raises(SourceError, match="is another"):
        asyncio.run(run(config, sources=sources, stop=asyncio.Event()))
    assert recorded(config) == []


def test_a_stop_closes_the_sources_and_the_recording(config: Config) -> None:
    sources = [Scripted(name, of(name)[:20], "wait") for name in INFOS]

    async def scenario() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(run(config, sources=sources, stop=stop))
        while not all(Path(config.recording.directory).glob("*")) or len(asyncio.all_tasks()) < 4:
            await asyncio.sleep(0)
        stop.set()
        await running

    asyncio.run(scenario())
    assert all(source.closed for source in sources)
    recorded(config)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_clean_stop(config: Config, number: int) -> None:
    class Signalling(Scripted):
        async def notifications(self) -> AsyncGenerator[Notification, None]:
            for notification in self.sent:
                yield notification
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()

    asyncio.run(run(config, sources=[Signalling("wrist", of("wrist"))]))
    assert recorded(config) == of("wrist")


def test_a_second_daemon_is_refused(config: Config) -> None:
    async def scenario() -> None:
        stop = asyncio.Event()
        first = asyncio.create_task(run(config, sources=[Scripted("wrist", [], "wait")], stop=stop))
        while not Path(config.recording.directory).exists():
            await asyncio.sleep(0)
        try:
            with pytest.raises(DeviceError, match="another affectd records here"):
                await run(config, sources=[Scripted("wrist", [])], stop=asyncio.Event())
        finally:
            stop.set()
            await first

    asyncio.run(scenario())


def test_a_missing_bundle_stops_the_start(config: Config) -> None:
    import msgspec

    missing = msgspec.structs.replace(config, inference=InferenceConfig(bundle="/none.affect"))
    with pytest.raises(BundleError, match=r"/none\.affect: no such file"):
        asyncio.run(run(missing, sources=[Scripted("wrist", [])], stop=asyncio.Event()))


def test_a_bundle_that_needs_a_baseline_stops_the_start(config: Config) -> None:
    assert config.inference.bundle is not None
    tiny_bundle(Path(config.inference.bundle), default_spec(calibrated=True))
    with pytest.raises(BundleError, match="needs the wearer's resting baseline"):
        asyncio.run(run(config, sources=[Scripted("wrist", [])], stop=asyncio.Event()))


def test_states_are_logged_once_per_change(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
    said = [record.message for record in caplog.records if record.message.startswith("predicting from")]
    assert said
    assert all(a != b for a, b in itertools.pairwise(said))
