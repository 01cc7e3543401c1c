"""A wearer's baseline in the running daemon: recorded over its socket, used by it, and in its way never."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import wearer_at_rest
from aiohttp.test_utils import TestClient, TestServer
from tiny_bundle import tiny_bundle
from virtual_time import run_virtual
from wearer_at_rest import profile

from device.baseline import Progress
from device.baseline_command import from_daemon
from device.calibration import UNUSED, Models
from device.config import (
    Config,
    ControlConfig,
    InferenceConfig,
    JsonlConfig,
    PersonConfig,
    RecordingConfig,
    SinksConfig,
)
from device.daemon import run
from device.errors import BaselineError, BundleError
from device.notification import Notification
from device.pipeline.model_input import baseline_of
from device.pipeline.spec import SignalSpec, default_spec
from device.pipeline.types import Window
from device.profile import Profile, read_profile, write_profile
from device.recording import RecordingReader
from device.resting import BaselineRequest, Outcome, Resting
from device.session import open_session
from device.web.app import KEY_HEADER, make_app
from firmware_bridge.daemon_client import DaemonError, ask, status
from firmware_bridge.registry import Sensor

COLD, CALIBRATED = default_spec(), default_spec(calibrated=True)
BEGIN_S = 20.0
"""The wearer asks for the baseline so long after the sensors have begun."""
SENT = wearer_at_rest.sent()
BEGIN_NS = SENT[0].host_ns + round(BEGIN_S * 1e9)
BEFORE = [n for n in SENT if n.host_ns <= BEGIN_NS]
AFTER = [n for n in SENT if n.host_ns > BEGIN_NS]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A daemon with both bundles, whose wearer has no profile yet."""
    return Config(
        sensors=(Sensor(role="ecg", name="chest", address="A0:9E:1A:00:00:01", protocol="polar-pmd-ecg"),),
        inference=InferenceConfig(
            bundle=tiny_bundle(tmp_path / "cold.affect", COLD).path,
            calibrated=tiny_bundle(tmp_path / "calibrated.affect", CALIBRATED).path,
        ),
        person=PersonConfig(profile=str(tmp_path / "ada.json")),
        control=ControlConfig(socket=str(tmp_path / "s")),
        recording=RecordingConfig(directory=str(tmp_path / "recordings")),
        sinks=SinksConfig(jsonl=JsonlConfig(path=str(tmp_path / "out.jsonl"), queue=1000)),
    )


def place(config: Config) -> Path:
    assert config.person.profile is not None
    return Path(config.person.profile)


class AtRest:
    """Both sensors. They stop to wait for ``asked`` when the wearer shall ask, and go on to ``until``."""

    name = "both"
    streams = wearer_at_rest.infos()

    def __init__(self, until: int | None = None) -> None:
        self.ready, self.asked, self.leave = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.until = until

    async def notifications(self) -> AsyncGenerator[Notification, None]:
        for notification in BEFORE:
            yield notification
        self.ready.set()
        await self.asked.wait()
        for notification in AFTER[: self.until]:
            yield notification
            await asyncio.sleep(0)
        await self.leave.wait()


class Kept:
    """A screen that keeps what it is told, and lets the sensors go on once the rest has begun."""

    def __init__(self, source: AtRest) -> None:
        self.source = source
        self.steps: list[Progress] = []
        self.outcome: Outcome | None = None

    def push(self, progress: Progress) -> None:
        self.steps.append(progress)
        self.source.asked.set()

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome


def with_daemon(config: Config, talk: Callable[[AtRest], Awaitable[None]], until: int | None = None) -> None:
    """Run the daemon on the wearer at rest, and a tool beside it."""

    async def scenario() -> None:
        source, stop = AtRest(until), asyncio.Event()
        async with asyncio.timeout(300):
            daemon = asyncio.create_task(run(config, sources=[source], stop=stop))
            ready = asyncio.create_task(source.ready.wait())
            await asyncio.wait({daemon, ready}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            try:
                if not daemon.done():
                    await _recorded(config, len(BEFORE))
                    await talk(source)
            finally:
                source.asked.set()
                source.leave.set()
                await daemon

    asyncio.run(scenario())


async def _recorded(config: Config, n: int) -> None:
    """Wait until the daemon has taken so many notifications."""
    while (await status(Path(config.control.socket)))["recording"]["records"] < n:
        await asyncio.sleep(0)


def windows_inside(tmp_path: Path, rest_s: float, spec: SignalSpec = COLD) -> list[Window]:
    begin = BEFORE[-1].host_ns / 1e9
    every = wearer_at_rest.windows(tmp_path, spec)
    return [w for w in every if begin <= w.start and w.start + spec.window_s <= begin + rest_s]


def predictions(config: Config) -> list[dict[str, Any]]:
    assert config.sinks.jsonl is not None
    lines = [json.loads(line) for line in Path(config.sinks.jsonl.path).read_text().splitlines()]
    return [line for line in lines if "clock" not in line]


def test_a_baseline_over_the_socket_is_kept_and_used_at_once(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept: list[Kept] = []

    async def talk(source: AtRest) -> None:
        before = await status(Path(config.control.socket))
        assert before["bundle"] == "tiny"
        assert before["calibration"]["mode"] == "cold_start"
        kept.append(Kept(source))
        await from_daemon(Path(config.control.socket), BaselineRequest(person="Ada", rest_s=150.0), None, kept[0])
        after = await status(Path(config.control.socket))
        assert after["calibration"] == {"mode": "calibrated", "person": "Ada", "reason": None}

    with_daemon(config, talk)
    steps, outcome = kept[0].steps, kept[0].outcome
    assert [step.elapsed_s for step in steps] == sorted(step.elapsed_s for step in steps)
    assert (steps[0].elapsed_s, steps[-1].rest_s) == (0.0, 150.0)
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert outcome is not None and outcome.in_use and outcome.path == str(place(config))
    written = read_profile(place(config))
    assert outcome.profile == written
    assert written.baseline == baseline_of(windows_inside(tmp_path / "again", 150.0), COLD)
    assert (written.person, written.rest_s) == ("Ada", 150.0)

    said = predictions(config)  # cold start up to somewhere, calibrated from there on, and not one window lost
    cold, calibrated = (_replayed(config, which, written) for which in ("bundle", "calibrated"))
    assert [p["index"] for p in said] == [p["index"] for p in cold]
    assert cold != calibrated
    splits = [n for n in range(len(said) + 1) if said[:n] == cold[:n] and said[n:] == calibrated[n:]]
    assert splits and 0 < splits[0] < len(said)
    for number in (*written.baseline.center.values(), "Ada"):
        assert str(number) not in caplog.text


def test_a_rest_on_the_page_is_kept_and_used_likewise(config: Config) -> None:
    """From the browser's side of HTTP to the profile on disk, with a daemon that streams."""
    said: list[dict[str, Any]] = []

    async def talk(source: AtRest) -> None:
        me = {KEY_HEADER: "key"}
        async with TestClient(TestServer(make_app(Path(config.control.socket), "key"))) as client:
            response = await client.post("/api/rest", json={"minutes": 2.5, "person": "Ada"}, headers=me)
            async for line in response.content:
                said.append(json.loads(line))
                source.asked.set()
            now = await (await client.get("/api/status", headers=me)).json()
            assert "calibrated for Ada" in now["lines"]

    with_daemon(config, talk)
    assert len(said) > 5 and said[-2]["states"] == {"ecg": "good", "eda": "good"}
    assert said[-1]["outcome"][0] == "The resting baseline of Ada, from 2 min 30 s of rest:"
    assert read_profile(place(config)).rest_s == 150.0


def _replayed(config: Config, which: str, written: Profile) -> list[dict[str, Any]]:
    """What one bundle says of the daemon's recording from beginning to end."""
    (path,) = Path(config.recording.directory).iterdir()
    reader = RecordingReader(path)
    bundle = tiny_bundle(Path(getattr(config.inference, which)), CALIBRATED if which == "calibrated" else COLD)
    session = open_session(bundle, reader.streams, baseline=written.baseline)
    found = [p for arrival in reader for p in session.push(arrival)] + session.flush()
    return [json.loads(json.dumps(p.to_json())) for p in found]


def test_a_tool_that_leaves_writes_nothing_and_the_next_one_is_served(config: Config, tmp_path: Path) -> None:
    path = Path(config.control.socket)

    async def talk(source: AtRest) -> None:
        with pytest.raises(DaemonError, match="another one is being recorded; wait until it is over"):
            async with ask(path, {"do": "baseline"}), ask(path, {"do": "baseline"}):
                pass
        while True:  # the first one's end is noticed a moment after it has gone
            with contextlib.suppress(DaemonError):
                async with ask(path, {"do": "baseline", "rest_s": 120.0, "keep": False}) as answers:
                    source.asked.set()
                    async for answer in answers:
                        if "outcome" in answer:
                            assert answer["outcome"]["path"] is None
                    return
            await asyncio.sleep(0.001)

    with_daemon(config, talk)
    assert not place(config).exists()


def test_ctrl_c_writes_nothing(config: Config) -> None:
    async def talk(source: AtRest) -> None:
        interruptible = (
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # even in background
        )
        code = interruptible + "from device.cli import main; main()"
        args = ("baseline", "--socket", config.control.socket, "--json")
        tool = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *args, stdout=-1, stderr=-1)
        assert tool.stdout is not None
        assert json.loads(await tool.stdout.readline())["progress"]["elapsed_s"] == 0
        tool.send_signal(signal.SIGINT)
        _, err = await tool.communicate()
        assert (tool.returncode, b"Traceback" in err) == (130, False)
        source.asked.set()  # all that would have made the baseline comes, and two minutes more
        await _recorded(config, len(SENT))

    with_daemon(config, talk)
    assert not place(config).exists()


def test_with_a_file_of_its_own_the_tool_writes_and_the_daemon_stays_as_it_is(config: Config, tmp_path: Path) -> None:
    mine = tmp_path / "mine.json"

    async def talk(source: AtRest) -> None:
        request = BaselineRequest(rest_s=120.0, keep=False, allow="eda")
        await from_daemon(Path(config.control.socket), request, mine, Kept(source))
        assert (await status(Path(config.control.socket)))["calibration"]["mode"] == "cold_start"

    with_daemon(config, talk)
    assert read_profile(mine).modalities == ("eda",)
    assert not place(config).exists()


def test_a_daemon_that_stops_during_the_rest_is_told(config: Config) -> None:
    async def talk(source: AtRest) -> None:
        class Ending(Kept):
            def push(self, progress: Progress) -> None:
                super().push(progress)
                self.source.leave.set()

        with pytest.raises(DaemonError, match="it ended during the rest; nothing is written"):
            await from_daemon(Path(config.control.socket), BaselineRequest(), None, Ending(source))

    with_daemon(config, talk, until=100)
    assert not place(config).exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too short": ({"rest_s": 30}, "a rest of 30 s where 120 to 300 s are possible"),
    "no number": ({"rest_s": "long"}, "no request for one: Expected `float`"),
    "unknown": ({"hurry": True}, "no request for one: Object contains unknown field"),
    "no name": ({"person": "\n"}, "expected printable text"),
    "no such sensor": ({"allow": "emg"}, "no request for one"),
}


def test_requests_that_make_no_sense_are_refused(config: Config) -> None:
    async def talk(source: AtRest) -> None:
        for request, message in REFUSED.values():
            with pytest.raises(DaemonError, match=message):
                async with ask(Path(config.control.socket), {"do": "baseline", **request}):
                    pass

    with_daemon(config, talk, until=0)


# How the daemon begins, by what it finds.

INFOS = wearer_at_rest.infos().values()


def change(**changes: Any) -> Callable[[Path], None]:
    return lambda path: write_profile(path, profile(**changes))


CASES: dict[str, tuple[Callable[[Path], Any], str | None]] = {
    "fits": (change(), None),
    "none": (lambda path: None, "ada.json: no such file; record a baseline with `affectd baseline`"),
    "damaged": (lambda path: path.write_bytes(b'{"format"'), "ada.json: no profile, or a damaged one"),
    "another version": (change(fingerprint="0" * 64), "ada.json: fingerprint: made with another version of the model"),
    "one sensor's": (
        lambda path: write_profile(path, profile("ecg")),
        "ada.json: modalities: serves ecg alone, and an eda sensor is attached",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_profile_is_used_where_it_fits_and_else_the_daemon_runs_in_cold_start(
    config: Config, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    prepare, reason = CASES[case]
    prepare(place(config))
    asked: list[dict[str, Any]] = []

    async def talk(source: AtRest) -> None:
        asked.append(await status(Path(config.control.socket)))

    with_daemon(config, talk, until=0)
    found = asked[0]["calibration"]
    if reason is None:
        assert found == {"mode": "calibrated", "person": "Ada", "reason": None}
        assert "cold start" not in caplog.text
    else:
        assert (found["mode"], found["person"]) == ("cold_start", None)
        assert reason in found["reason"]
        assert caplog.text.count(f"cold start: {found['reason']}") == 1


def test_the_bundle_itself_may_want_the_profile(config: Config, tmp_path: Path) -> None:
    alone = InferenceConfig(bundle=config.inference.calibrated)
    models = Models(alone, INFOS)
    write_profile(place(config), profile())
    assert models.choose(place(config)).baseline == profile().baseline
    cold = models.choose(tmp_path / "none.json")
    assert (cold.baseline, cold.calibration.mode) == (None, "cold_start")
    with pytest.raises(BundleError, match=r"needs the wearer's resting baseline, and there is none; record one"):
        open_session(cold.bundle, wearer_at_rest.infos())


def test_another_subject_s_profile_means_cold_start(config: Config) -> None:
    models = Models(config.inference, INFOS)
    write_profile(place(config), profile(subject="P07"))
    assert models.choose(place(config), "P07").calibration.mode == "calibrated"
    cold = models.choose(place(config), "P08")
    assert (cold.calibration.mode, cold.baseline, cold.shots) == ("cold_start", None, None)
    assert "is the profile of P07, not of P08" in str(cold.calibration.reason)


def test_a_profile_that_no_bundle_reads_is_said(config: Config) -> None:
    models = Models(InferenceConfig(bundle=config.inference.bundle), INFOS)
    write_profile(place(config), profile())
    assert models.choose(place(config)).calibration.reason == UNUSED
    assert models.choose(None).calibration.reason is None


def test_a_calibrated_bundle_is_one(config: Config) -> None:
    with pytest.raises(BundleError, match=r"is not calibrated: it needs no baseline; name it as \[inference\] bundle"):
        Models(InferenceConfig(bundle=config.inference.bundle, calibrated=config.inference.bundle), INFOS)


def test_a_baseline_that_would_serve_nobody_is_refused_before_the_rest(config: Config, tmp_path: Path) -> None:
    coarse = msgspec.structs.replace(COLD, stride_s=15.0)
    models = Models(
        InferenceConfig(
            bundle=tiny_bundle(tmp_path / "coarse.affect", coarse).path, calibrated=config.inference.calibrated
        ),
        INFOS,
    )
    models.check_windows(CALIBRATED)
    service = Resting(config, models, INFOS, models.choose(None), lambda choice, classifier: None)
    service.tap(BEFORE[-1])
    with pytest.raises(BaselineError, match=r"reads other windows than the bundle that runs; take it from a recording"):
        asyncio.run(_first(service))


async def _first(service: Resting) -> dict[str, Any]:
    return await anext(service.answers({}))


def resting(config: Config) -> Resting:
    models = Models(config.inference, INFOS)
    return Resting(config, models, INFOS, models.choose(None), lambda choice, classifier: None)


def test_silence_ends_the_rest(config: Config) -> None:
    async def scenario() -> None:
        service = resting(config)
        with pytest.raises(BaselineError, match=r"no sensor has sent anything yet; `affectd status` says why"):
            await anext(service.answers({}))
        service.tap(BEFORE[-1])
        answers = service.answers({})
        assert (await anext(answers))["progress"]["elapsed_s"] == 0
        with pytest.raises(BaselineError, match=r"no sensor has sent anything for 30 s; .*; then rest once more"):
            await anext(answers)
        await anext(again := service.answers({}))  # the next one is served
        await again.aclose()

    run_virtual(scenario())


def test_what_stands_in_the_way_is_said_before_anybody_sits_still(config: Config, tmp_path: Path) -> None:
    async def refused(service: Resting, reason: str) -> None:
        service.tap(BEFORE[-1])
        with pytest.raises(Exception, match=reason):
            await anext(service.answers({}))

    homeless = msgspec.structs.replace(
        config, person=PersonConfig(), inference=InferenceConfig(config.inference.bundle)
    )
    asyncio.run(refused(resting(homeless), r"the daemon has no file for it; set \[person\] profile, or give --profile"))
    place(config).write_text("[inference]\n")
    asyncio.run(refused(resting(config), r"ada\.json: is there and is no profile"))
