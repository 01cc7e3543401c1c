"""A daemon that is changed while its sensors stream: paused, reloaded, given another bundle; nothing is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sqlite3
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pylsl
import pytest
from mosquitto import Broker, Reader, free_port, until
from mqtt_sinks import configured
from test_daemon import INFOS, SENT
from tiny_bundle import CARD, MODEL, REPORT, tiny_bundle, tiny_manifest
from wearer_at_rest import profile

from device.bundle import Bundle, write_bundle
from device.config import (
    Config,
    ControlConfig,
    HttpConfig,
    InferenceConfig,
    JsonlConfig,
    LslConfig,
    PersonConfig,
    RecordingConfig,
    SinksConfig,
    SqliteConfig,
)
from device.daemon import run
from device.errors import ConfigError
from device.inference import Classifier
from device.notification import Arrival, Event, Notification
from device.orders_command import order
from device.pipeline.spec import SignalSpec, default_spec
from device.profile import write_profile
from device.recording import RecordingReader
from device.selftest import probe_of
from device.session import open_session
from firmware_bridge.daemon_client import DaemonError, status
from firmware_bridge.registry import Sensor

HALF = len(SENT) // 2
EDGY = msgspec.structs.replace(default_spec(), stride_s=10.0)
"""Other windows than the default's."""


def proved(path: Path, spec: SignalSpec | None = None, **changes: Any) -> Bundle:
    """The tiny bundle with a self-test, and some keys of its manifest changed."""
    manifest = tiny_manifest(spec)
    probe = probe_of(Classifier(tiny_bundle(path, spec)))
    return write_bundle(path, msgspec.structs.replace(manifest, **{"probe": probe, **changes}), MODEL, CARD, REPORT)


class Fed:
    """A source that gives what it is fed, and ends when it is told to."""

    name = "fed"
    streams = INFOS

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Notification | None] = asyncio.Queue()

    def feed(self, sent: Sequence[Notification | None]) -> None:
        for it in sent:
            self._queue.put_nowait(it)

    async def notifications(self) -> AsyncGenerator[Arrival, None]:
        while (notification := await self._queue.get()) is not None:
            yield notification


class Life:
    """One daemon after the other with the same configuration, which is `self.config` whenever it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = proved(folder / "first.affect")
        self.config: Config | Exception = Config(
            sensors=tuple(
                Sensor(role, name, f"A0:9E:1A:00:00:0{n}", INFOS[name].protocol)
                for n, (role, name) in enumerate((("ecg", "chest"), ("eda", "wrist")))
            ),
            inference=InferenceConfig(bundle=str(folder / "first.affect")),
            control=ControlConfig(socket=str(folder / "s"), state=str(folder / "state" / "pause.json")),
            recording=RecordingConfig(directory=str(folder / "recordings"), fsync_s=60.0),
            sinks=SinksConfig(
                jsonl=JsonlConfig(path=str(folder / "out.jsonl")), sqlite=SqliteConfig(path=str(folder / "results.db"))
            ),
        )
        self.socket = folder / "s"
        self.source = Fed()

    def change(self, **tables: Any) -> None:
        assert isinstance(self.config, Config)
        self.config = msgspec.structs.replace(self.config, **tables)

    def _read(self) -> Config:
        if isinstance(self.config, Exception):
            raise self.config
        return self.config

    def live(self, talk: Callable[[], Awaitable[None]]) -> None:
        """Run a daemon, talk to it, feed it to its end."""

        async def all_of_it() -> None:
            self.source = Fed()
            assert isinstance(self.config, Config)
            daemon = asyncio.create_task(
                run(self.config, sources=[self.source], stop=asyncio.Event(), reread=self._read)
            )
            async with asyncio.timeout(60):
                while (await self.said()).get("inference") is None:
                    await asyncio.sleep(0.01)
                await talk()
                self.source.feed([None])
                await daemon

        asyncio.run(all_of_it())

    async def said(self) -> dict[str, Any]:
        with contextlib.suppress(DaemonError):
            return await status(self.socket)
        return {}

    async def took(self, sent: Sequence[Notification]) -> None:
        """Feed, and wait until all of it is through."""
        told = await status(self.socket)
        n = told["recording"]["records"] + told["recording"]["left_out"] + told["held_back"] + len(sent)
        self.source.feed(sent)
        while True:
            told = await status(self.socket)
            if told["recording"]["records"] + told["recording"]["left_out"] + told["held_back"] >= n:
                return
            await asyncio.sleep(0.005)

    async def order(self, name: str, **what: Any) -> dict[str, Any]:
        return await order(self.socket, name, **what)

    def recorded(self, run: int = 1) -> list[Arrival]:
        """Events are dated by this machine's clock, far from the sensors', so that they begin segments."""
        return list(RecordingReader(sorted((self.folder / "recordings").glob(f"r{run:06d}-*"))))

    def events(self) -> list[str]:
        return [it.description for it in self.recorded() if isinstance(it, Event)]

    def lines(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def predictions(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        return [line for line in self.lines(name) if "label" in line]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.folder / "results.db")) as db:
            return db.execute(query).fetchall()


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def data(arrivals: Sequence[Arrival]) -> list[Arrival]:
    return [it for it in arrivals if isinstance(it, Notification)]


def expected(first: Bundle, then: Bundle, at: int = HALF) -> Iterator[dict[str, Any]]:
    """What one session says that goes over from one bundle to the other."""
    session = open_session(first, INFOS)
    for number, notification in enumerate(SENT):
        if number == at:
            spec = then.manifest.spec
            if spec == first.manifest.spec:
                session.use(Classifier(then), None)
            else:
                yield from (p.to_json() for p in session.go_over(spec, Classifier(then), None))
        yield from (p.to_json() for p in session.push(notification))
    yield from (p.to_json() for p in session.flush())


def test_a_reload_while_sensors_stream_loses_nothing(life: Life) -> None:
    """Another bundle of the same windows, one sink elsewhere, one gone, one setting: all of it in the middle."""
    second = proved(
        life.folder / "second.affect", name="second", temperature=dict.fromkeys(("ecg", "eda", "ecg+eda"), 3.0)
    )

    async def talk() -> None:
        await life.took(SENT[:HALF])
        assert await life.order("reload") == {"changed": [], "restart": []}
        life.change(
            inference=InferenceConfig(bundle=str(second.path)),
            sinks=SinksConfig(jsonl=JsonlConfig(path=str(life.folder / "more.jsonl"))),
            recording=RecordingConfig(directory=str(life.folder / "elsewhere"), fsync_s=7.0),
            control=ControlConfig(socket=str(life.folder / "t"), state=str(life.folder / "state" / "pause.json")),
        )
        assert await life.order("reload") == {
            "changed": ["inference.bundle", "recording.fsync_s", "sinks.jsonl.path", "sinks.sqlite"],
            "restart": ["control.socket", "recording.directory"],
        }
        said = await status(life.socket)
        assert (said["bundle"], [sink["name"] for sink in said["sinks"]]) == ("second", ["jsonl"])
        await life.took(SENT[HALF:])
        assert (await life.order("reload"))["restart"] == ["control.socket", "recording.directory"]

    life.live(talk)
    assert data(life.recorded()) == SENT
    assert life.events() == [f"affectd: bundle {second.sha256}"]
    got = [*life.predictions(), *life.predictions("more.jsonl")]
    assert got == json.loads(json.dumps([*expected(life.first, second)]))
    assert [p["index"] for p in got] == [*range(got[0]["index"], got[0]["index"] + len(got))]
    assert {p["bundle_sha256"] for p in life.predictions("more.jsonl")} == {second.sha256}


def test_a_wrong_configuration_changes_nothing_and_is_said(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    """By signal and by command; the same where a sink does not open or a bundle fails its self-test."""
    right = life.config
    assert isinstance(right, Config)
    (life.folder / "file").write_text("")
    broken = proved(life.folder / "broken.affect")
    assert broken.manifest.probe is not None
    far = {
        mask: tuple(tuple(x + 1 for x in row) for row in rows) for mask, rows in broken.manifest.probe.logits.items()
    }
    proved(life.folder / "broken.affect", probe=msgspec.structs.replace(broken.manifest.probe, logits=far))
    more = JsonlConfig(path=str(life.folder / "more.jsonl"))

    async def talk() -> None:
        await life.took(SENT[:HALF])
        before = await status(life.socket)
        life.config = ConfigError("c.toml", 3, "unknown key", "leave it out")
        with pytest.raises(DaemonError, match=r"c\.toml: line 3: unknown key; leave it out"):
            await life.order("reload")
        os.kill(os.getpid(), signal.SIGHUP)
        while caplog.text.count("the configuration is as it was: c.toml") < 2:
            await asyncio.sleep(0.01)
        life.config = right
        life.change(sinks=SinksConfig(jsonl=more, sqlite=SqliteConfig(path=str(life.folder / "file" / "x.db"))))
        with pytest.raises(DaemonError, match="cannot be written"):
            await life.order("reload")
        life.change(sinks=SinksConfig(jsonl=more), inference=InferenceConfig(bundle=str(life.folder / "broken.affect")))
        with pytest.raises(DaemonError, match="logits differ by"):
            await life.order("reload")
        after = await status(life.socket)
        for key in ("bundle_sha256", "recording", "predictions"):
            assert after[key] == before[key]
        assert [sink["name"] for sink in after["sinks"]] == ["jsonl", "sqlite"]
        while (await status(life.socket))["tasks"] != before["tasks"]:  # the sink that had been opened is closed
            await asyncio.sleep(0.005)
        life.config = right
        await life.took(SENT[HALF:])

    caplog.set_level(logging.INFO)
    life.live(talk)
    assert data(life.recorded()) == SENT
    assert life.predictions() == json.loads(json.dumps([*expected(life.first, life.first)]))
    assert life.events() == []


@pytest.mark.parametrize("spec", [default_spec(), EDGY], ids=["the same windows", "other windows"])
def test_another_bundle_is_gone_over_to_between_two_arrivals(life: Life, spec: SignalSpec) -> None:
    second = proved(life.folder / "second.affect", spec, name="second")
    warms_up = spec != default_spec()

    async def talk() -> None:
        await life.took(SENT[:HALF])
        told = (await life.order("bundle", path=second.path))["switched"]
        assert (told["bundle"], told["sha256"], told["before"]) == ("second", second.sha256, life.first.sha256)
        assert (told["warms_up"], told["calibrated"]) == (warms_up, False)
        await life.took(SENT[HALF:])
        assert await life.order("reload") == {"changed": [], "restart": []}
        assert (await status(life.socket))["bundle"] == "second"  # the file has not changed, so neither does this

    life.live(talk)
    assert data(life.recorded()) == SENT
    wanted = json.loads(json.dumps([*expected(life.first, second)]))
    assert life.predictions() == wanted
    first = open_session(life.first, INFOS)
    alone = [p.to_json() for n in SENT[:HALF] for p in first.push(n)]
    ends = [p.to_json() for p in first.flush()] if warms_up else []
    assert wanted[: len(alone) + len(ends)] == json.loads(json.dumps([*alone, *ends]))
    assert all(p["bundle"] == "second" for p in wanted[len(alone) + len(ends) :])
    assert {p["bundle"] for p in wanted} == {"tiny", "second"}
    runs = life.rows("SELECT r.bundle, r.bundle_sha256, count(*) FROM prediction JOIN run r ON r.id = run GROUP BY run")
    of = {name: sum(p["bundle"] == name for p in wanted) for name in ("tiny", "second")}
    assert runs == [("tiny", life.first.sha256, of["tiny"]), ("second", second.sha256, of["second"])]


def test_readers_are_told_of_another_bundle_and_not_of_one_that_fails(life: Life) -> None:
    """By `affectd bundle use` and by SIGHUP's reload, to a broker, over HTTP and over LSL, each with other labels."""
    second = proved(life.folder / "second.affect", name="second", labels=("calm", "tense"))
    third = proved(life.folder / "third.affect", EDGY, name="third", labels=("low", "high"))
    (life.folder / "noise.affect").write_bytes(b"noise")
    told: list[tuple[str, str, list[str]]] = []
    with Broker(life.folder / "broker") as broker, Reader(broker) as reader:
        http = HttpConfig(port=free_port(), log=str(life.folder / "log.db"))
        mqtt = configured(broker.port, life.folder)
        lsl = LslConfig(device=f"operations-{os.getpid()}")
        assert isinstance(life.config, Config)
        life.change(sinks=msgspec.structs.replace(life.config.sinks, http=http, mqtt=mqtt, lsl=lsl))

        def look() -> tuple[str, str, list[str]]:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{http.port}/v1/state", timeout=30) as response:
                served = json.load(response)["bundle"]["name"]
            (found,) = pylsl.resolve_bypred(f"starts-with(source_id,'affectd-{lsl.device}-prob')", timeout=30)
            labels = pylsl.StreamInlet(found, recover=False).info(timeout=30).get_channel_labels()
            return reader.of("affectd/dev/state")[-1]["bundle"]["name"], served, labels

        async def see(states: int) -> None:
            await asyncio.to_thread(until, lambda: len(reader.of("affectd/dev/state")) == states, "a state")
            told.append(await asyncio.to_thread(look))

        async def talk() -> None:
            await life.took(SENT[:HALF])
            await see(1)
            await life.order("bundle", path=second.path)
            await see(2)
            with pytest.raises(DaemonError, match="zip"):
                await life.order("bundle", path=str(life.folder / "noise.affect"))
            await see(2)
            life.change(inference=InferenceConfig(bundle=str(third.path)))
            assert await life.order("reload") == {"changed": ["inference.bundle"], "restart": []}
            await see(3)
            await life.took(SENT[HALF:])

        life.live(talk)
    assert told == [
        ("tiny", "tiny", ["rest", "stress"]),
        ("second", "second", ["calm", "tense"]),
        ("second", "second", ["calm", "tense"]),
        ("third", "third", ["low", "high"]),
    ]


def test_windows_that_are_begun_end_where_others_follow(life: Life) -> None:
    """Near the end, where some wait for a sensor that sends no more."""
    at, classifier = len(SENT) - 3, Classifier(life.first)
    one, other = open_session(life.first, INFOS), open_session(life.first, INFOS)
    for notification in SENT[:at]:
        assert one.push(notification) == other.push(notification)
    ends = one.go_over(EDGY, classifier, None)
    assert ends and ends == other.flush()
    assert one.flush() == [] and one.stats == other.stats


def test_a_bundle_that_is_no_good_leaves_the_old_one_predicting(life: Life) -> None:
    tiny_bundle(life.folder / "untested.affect")
    proved(life.folder / "calibrated.affect", default_spec(calibrated=True))
    (life.folder / "noise.affect").write_bytes(b"noise")

    async def talk() -> None:
        await life.took(SENT[:HALF])
        for name, reason in (
            ("none", "no such file"), ("noise", "zip"), ("untested", "probe: is missing"),
            ("calibrated", "needs the wearer's resting baseline"),
        ):  # fmt: skip
            with pytest.raises(DaemonError, match=reason):
                await life.order("bundle", path=str(life.folder / f"{name}.affect"))
        with pytest.raises(DaemonError, match="not an absolute path"):
            await life.order("bundle", path="first.affect")
        with pytest.raises(DaemonError, match="use the affectd of the same version"):
            await life.order("bundle", file=7)
        await life.took(SENT[HALF:])

    life.live(talk)
    assert life.predictions() == json.loads(json.dumps([*expected(life.first, life.first)]))


def test_another_wearer_waits_for_a_restart(life: Life) -> None:
    async def talk() -> None:
        await life.took(SENT[:HALF])
        life.change(person=PersonConfig(subject="P08", profile=str(life.folder / "p08.json")))
        assert await life.order("reload") == {"changed": ["person.profile"], "restart": ["person.subject"]}
        await life.took(SENT[HALF:])

    life.live(talk)
    assert not [p for p in life.predictions() if "subject" in p]


def test_a_profile_that_is_named_later_calibrates(life: Life) -> None:
    write_profile(life.folder / "ada.json", profile())
    calibrated = proved(life.folder / "calibrated.affect", default_spec(calibrated=True), name="calibrated")

    async def talk() -> None:
        await life.took(SENT[:HALF])
        assert isinstance(life.config, Config)
        inference = msgspec.structs.replace(life.config.inference, calibrated=str(calibrated.path))
        life.change(person=PersonConfig(profile=str(life.folder / "ada.json")), inference=inference)
        assert (await life.order("reload"))["changed"] == ["inference.calibrated", "person.profile"]
        said = await status(life.socket)
        assert (said["bundle"], said["calibration"]["person"]) == ("calibrated", "Ada")
        await life.took(SENT[HALF:])

    life.live(talk)
    got = life.predictions()
    assert [p["index"] for p in got] == [*range(got[0]["index"], got[0]["index"] + len(got))]
    assert {p["bundle"] for p in got} == {"tiny", "calibrated"}


def test_in_a_pause_nothing_is_recorded_or_predicted_and_a_restart_does_not_end_it(life: Life) -> None:
    quarter = len(SENT) // 4

    async def paused() -> None:
        await life.took(SENT[:quarter])
        assert (await life.order("resume")) == {"resumed": False}
        told = await life.order("pause")
        assert told["outlives_restart"] is True and told["paused"]["until"] is None
        await life.took(SENT[quarter:HALF])
        said = await status(life.socket)
        assert said["paused"]["left_s"] is None and said["held_back"] == HALF - quarter

    life.live(paused)
    assert data(life.recorded()) == SENT[:quarter]
    session = open_session(life.first, INFOS)
    wanted = [p.to_json() for n in SENT[:quarter] for p in session.push(n)] + [p.to_json() for p in session.flush()]
    assert life.predictions() == json.loads(json.dumps(wanted))
    assert life.events() == ["affectd: paused"]

    async def resumed() -> None:
        await life.took(SENT[HALF : 3 * quarter])
        assert (await status(life.socket))["paused"] is not None
        assert (await life.order("resume")) == {"resumed": True}
        assert (await status(life.socket))["paused"] is None
        await life.took(SENT[3 * quarter :])

    life.live(resumed)
    arrivals = life.recorded(run=2)
    assert data(arrivals) == SENT[3 * quarter :]
    assert [it.description for it in arrivals if isinstance(it, Event)] == ["affectd: paused", "affectd: resumed"]
    assert [description for (description,) in life.rows("SELECT description FROM event ORDER BY time")] == [
        *("affectd: paused", "affectd: paused", "affectd: resumed")
    ]
    assert not (life.folder / "state" / "pause.json").exists()


def test_raw_recording_stops_and_starts_while_predictions_go_on(life: Life) -> None:
    quarter = len(SENT) // 4

    async def talk() -> None:
        await life.took(SENT[:quarter])
        assert await life.order("recording", on=False) == {"changed": True, "on": False}
        assert await life.order("recording", on=False) == {"changed": False, "on": False}
        await life.took(SENT[quarter:HALF])
        assert (await status(life.socket))["recording"]["left_out"] == HALF - quarter
        await life.order("mark", description="stroop")
        assert await life.order("recording", on=True) == {"changed": True, "on": True}
        await life.took(SENT[HALF:])
        with pytest.raises(DaemonError, match="on is true or false"):
            await life.order("recording", on="no")

    life.live(talk)
    assert data(life.recorded()) == [*SENT[:quarter], *SENT[HALF:]]
    assert life.events() == ["affectd: recording stopped", "stroop", "affectd: recording started"]
    assert life.predictions() == json.loads(json.dumps([*expected(life.first, life.first)]))
