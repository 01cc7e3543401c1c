"""The wearer's page and the real control socket, asked as a browser asks; what the daemon says is scripted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from command_line import affectd
from test_health import WELL
from wearer_at_rest import profile

from device.baseline import Progress
from device.baseline_command import guidance, summary
from device.control import Control
from device.errors import BaselineError, LabelError
from device.labelling import Change, Kept, LabelAnswer
from device.metrics import CONTENT_TYPE, exposition
from device.resting import Outcome
from device.web.app import KEY_HEADER, STATIC, make_app

KEY = "only-the-owner-has-seen-it"
ME = {KEY_HEADER: KEY}
NETWORK = "5" * 64
PROGRESS = Progress(60.0, 180.0, {"ecg": 60.0, "eda": 0.0}, {"eda": ("contact",)}, ("not at rest: x",), False)
OUTCOME = Outcome(profile(), "/ada.json", True, (), "Predictions rest on it from now on.")
NEWEST = {"label": "stress", "probabilities": {"rest": 0.2, "stress": 0.8}, "modalities": ["ecg"], "abstained": None}
STATUS = {
    "prediction": NEWEST,
    "calibration": {"mode": "calibrated", "person": "Ada", "reason": ""},
    "sensors": [
        {"name": "chest", "role": "ecg", "link": {"state": "streaming", "reason": ""}},
        {"name": "wrist", "role": "eda", "link": {"state": "searching", "reason": "out of reach"}},
    ],
}


class Daemon:
    """What a running affectd would answer, and what it was asked."""

    def __init__(self) -> None:
        self.rests: list[dict[str, Any]] = []
        self.labels: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.refusal: BaselineError | LabelError | None = None
        self.breaks = False

    async def baseline(self, asked: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.rests.append(asked)
        try:
            if self.refusal and not self.breaks:
                raise self.refusal
            yield {"progress": msgspec.to_builtins(PROGRESS)}
            if self.refusal:
                raise self.refusal
            if asked["person"] == "forever":
                await asyncio.Event().wait()
            yield {"outcome": msgspec.to_builtins(OUTCOME)}
        finally:
            self.left.set()

    async def label(self, asked: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.labels.append(asked)
        if self.refusal:
            raise self.refusal
        change = Change("labelled", 1, asked["label"], mask="ecg", age_s=3.0) if asked["label"] else None
        kept = (Kept("old", "4" * 64, {"rest": 9}), Kept("now", NETWORK, {"stress": 2}))
        yield {"labels": msgspec.to_builtins(LabelAnswer("now", NETWORK, ("rest", "stress"), True, None, kept, change))}


def browsed(
    folder: Path,
    talk: Callable[[TestClient[Any, Any], Daemon], Awaitable[None]],
    status: dict[str, Any] = STATUS,
    metrics_key: str | None = None,
) -> None:
    """Talk to the page of a running daemon; in the end nothing of either is left."""

    async def scenario() -> None:
        daemon, path = Daemon(), folder / "affectd.sock"
        control = Control(lambda: status, [], daemon.baseline, daemon.label)
        server = TestServer(make_app(path, KEY, metrics_key), handler_cancellation=True)
        async with asyncio.timeout(20), control.listening(path), TestClient(server) as client:
            await talk(client, daemon)

    asyncio.run(scenario())


async def refusal(response: ClientResponse) -> tuple[int, str, str]:
    said = await response.json()
    assert set(said) == {"error", "remedy"}
    return response.status, said["error"], said["remedy"]


async def steps(response: ClientResponse) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in response.content]


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], _: Daemon) -> None:
        page = await client.get("/")
        assert page.status == 200 and page.content_type == "text/html"
        assert page.headers["Content-Security-Policy"].startswith("default-src 'self';")
        asked_for = set(re.findall(r'(?:href|src)="(/[^"]*)"', await page.text()))
        assert asked_for == {f"/static/{path.name}" for path in STATIC.iterdir() if path.name != "page.html"}
        for path in asked_for:
            assert (await client.get(path)).status == 200
        assert (await client.get("/static/../app.py")).status == 404

    browsed(tmp_path, talk)
    for path in STATIC.iterdir():
        assert not re.search(r"https?://|(?<!:)//[a-z]", path.read_text()), path


@pytest.mark.parametrize("headers", [{}, {KEY_HEADER: ""}, {KEY_HEADER: KEY[:-1]}, {KEY_HEADER: "\u00fc"}])
def test_nobody_asks_without_the_key(headers: dict[str, str], tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], daemon: Daemon) -> None:
        for response in (
            await client.get("/api/status", headers=headers),
            await client.post("/api/rest", json={}, headers=headers),
            await client.post("/api/label", json={"forget": True}, headers=headers),
        ):
            assert (await refusal(response))[0] == 403
        assert not daemon.rests and not daemon.labels

    browsed(tmp_path, talk)


@pytest.mark.parametrize("own", [None, "s" * 32])
def test_a_scraper_needs_a_key_too_which_opens_nothing_else(own: str | None, tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], _: Daemon) -> None:
        key = {"Authorization": f"Bearer {own or KEY}"}
        answer = await client.get("/metrics", headers=key)
        assert (answer.status, answer.headers["Content-Type"]) == (200, CONTENT_TYPE)
        assert await answer.text() == exposition(WELL)
        wrong = ({}, ME, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {KEY if own else own}"})
        for headers in (*wrong, {**key, "Host": "evil.example"}):
            assert (await refusal(await client.get("/metrics", headers=headers)))[0] == 403
        assert (await client.get("/api/status", headers=key)).status == 403

    browsed(tmp_path, talk, WELL, own)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.1.7:8765"])
def test_another_name_for_this_machine_is_refused(host: str, tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], _: Daemon) -> None:
        for path in ("/", "/static/page.js", "/api/status"):
            response = await client.get(path, headers={**ME, "Host": host})
            assert (await refusal(response))[::2] == (403, "open it as 127.0.0.1")

    browsed(tmp_path, talk)


def test_status_in_words(tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], _: Daemon) -> None:
        said = await (await client.get("/api/status", headers=ME)).json()
        assert said["lines"] == ["newest: stress 80% from ecg", "calibrated for Ada"]
        assert said["sensors"] == [
            {"name": "chest", "role": "ecg", "state": "streaming"},
            {"name": "wrist", "role": "eda", "state": "searching", "reason": "out of reach"},
        ]

    browsed(tmp_path, talk)


def test_a_rest_is_told_as_the_terminal_tells_it(tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], daemon: Daemon) -> None:
        response = await client.post("/api/rest", json={"minutes": 4, "person": "Ada"}, headers=ME)
        on_the_way, at_the_end = await steps(response)
        assert daemon.rests == [{"allow": None, "rest_s": 240.0, "person": "Ada", "keep": True}]
        assert at_the_end == {"outcome": summary(OUTCOME)}
        assert (on_the_way["elapsed_s"], on_the_way["rest_s"]) == (60.0, 180.0)
        assert on_the_way["states"] == {"ecg": "good", "eda": "no contact"} and on_the_way["problems"] == ["eda"]
        assert on_the_way["warnings"] == ["not at rest: x"]
        assert guidance(PROGRESS) == f"{on_the_way['guide']}; 2 min to go; ECG good, EDA no contact"

    browsed(tmp_path, talk)


def test_a_rest_ends_when_the_page_goes_away(tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], daemon: Daemon) -> None:
        response = await client.post("/api/rest", json={"person": "forever"}, headers=ME)
        assert json.loads(await response.content.readline())["states"]["ecg"] == "good"
        assert not daemon.left.is_set()
        response.close()
        await daemon.left.wait()

    browsed(tmp_path, talk)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_rest_that_is_refused_or_breaks_off_says_why(breaks: bool, tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], daemon: Daemon) -> None:
        daemon.refusal, daemon.breaks = BaselineError("eda", "no sensor sends it", "put the wrist band on"), breaks
        response = await client.post("/api/rest", json={}, headers=ME)
        wanted = ("baseline: eda: no sensor sends it", "put the wrist band on")
        if breaks:
            assert (await steps(response))[-1] == dict(zip(("error", "remedy"), wanted, strict=True))
        else:
            assert await refusal(response) == (503, *wanted)

    browsed(tmp_path, talk)


def test_labels(tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], daemon: Daemon) -> None:
        said = await (await client.post("/api/label", json={}, headers=ME)).json()
        assert said == {"labels": {"rest": 0, "stress": 2}, "lines": []}
        said = await (await client.post("/api/label", json={"label": "stress"}, headers=ME)).json()
        assert said["lines"] == ["The window that ended 3 s ago is an example of stress (from ecg)."]
        assert daemon.labels[-1] == {"label": "stress", "undo": False, "forget": False}
        daemon.refusal = LabelError("the window is too old", "wait for the next one")
        response = await client.post("/api/label", json={"undo": True}, headers=ME)
        assert await refusal(response) == (503, "label: the window is too old", "wait for the next one")

    browsed(tmp_path, talk)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"\xff", b'{"minutes": 1}', b'{"minutes": 6}', b'{"minutes": "3"}', b'{"hours": 3}',
     b'{"person": "a\\nb"}', b'{"allow": "eeg"}', b"[" * 4000, b'{"person": "' + b"a" * 5000 + b'"}'],
)  # fmt: skip
def test_what_is_no_request_is_refused(body: bytes, tmp_path: Path) -> None:
    async def talk(client: TestClient[Any, Any], daemon: Daemon) -> None:
        response = await client.post("/api/rest", data=body, headers=ME)
        assert response.status == (413 if len(body) > 4096 else 400)
        assert not daemon.rests

    browsed(tmp_path, talk)


def test_without_a_daemon_the_page_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with TestClient(TestServer(make_app(tmp_path / "none.sock", KEY))) as client:
            assert (await client.get("/")).status == 200
            for response in (
                await client.get("/api/status", headers=ME),
                await client.post("/api/rest", json={}, headers=ME),
            ):
                status, error, remedy = await refusal(response)
                assert (status, error) == (503, "no affectd listens there") and "systemctl start affectd" in remedy

    asyncio.run(scenario())


def test_the_command_serves_until_it_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of its own says where it is, on loopback; another cannot have its port; SIGTERM ends it well."""
    script = "import sys; from device.cli import main; sys.argv = sys.argv[1:]; main()"
    command = [sys.executable, "-c", script, "affectd", "web", "--port", "0", "--socket", str(tmp_path / "none.sock")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as it:
        assert it.stdout is not None
        found = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/#(\S{22}) \(Ctrl-C ends it\)\n", it.stdout.readline())
        assert found
        code, out, err = affectd(capsys, monkeypatch, "web", "--port", found[1])
        assert (code, out) == (2, "") and err.count("\n") == 1 and "another --port" in err
        it.send_signal(signal.SIGTERM)
        assert it.wait(20) == 0
