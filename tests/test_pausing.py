"""A pause for privacy by itself, in virtual time, and the words of the commands that change a daemon."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import affectd
from hypothesis import given
from hypothesis import strategies as st
from test_health import WELL
from virtual_time import run_virtual

from device.control import Control
from device.errors import RequestError, StateError
from device.log_level import set_level
from device.notification import Event, LinkChange, Notification
from device.orders_command import seconds_of
from device.pausing import PAUSED, REASON, RESUMED, Pausing

BEGIN = datetime(2026, 11, 22, 12, tzinfo=UTC)
DATA = Notification("chest", 1, b"")


class Link:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def pause(self, why: str = "") -> None:
        await asyncio.sleep(3)  # stopping a stream and disconnecting takes a while
        self.asked.append(why)

    async def resume(self) -> None:
        self.asked.append("resume")


class Paused:
    """A daemon's pause, whose wall clock is the loop's, some hours off."""

    def __init__(self, place: Path, ahead: timedelta = timedelta()) -> None:
        self.link, self.events, self.ahead = Link(), list[str](), ahead
        self.pausing = Pausing(place, [self.link], self.events.append, self.now)

    def now(self) -> datetime:
        return BEGIN + self.ahead + timedelta(seconds=asyncio.get_running_loop().time() - 1000.0)


def test_a_pause_with_an_end_ends_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        it = Paused(tmp_path / "pause.json")
        async with it.pausing.kept():
            asking = asyncio.create_task(it.pausing.begin(1800.0))
            await asyncio.sleep(1)
            assert not it.pausing.admits(DATA)  # at once, not only when the sensors have been let go
            assert it.pausing.admits(Event(1, "x")) and it.pausing.admits(LinkChange("chest", 1, "paused"))
            assert await asking is None
            assert stat.S_IMODE((tmp_path / "pause.json").stat().st_mode) == 0o600
            await asyncio.sleep(1700)
            assert it.pausing.pause is not None and (it.link.asked, it.events) == ([REASON], [PAUSED])
            await asyncio.sleep(200)
            assert it.pausing.admits(DATA) and it.pausing.held_back == 1
        assert (it.link.asked, it.events) == ([REASON, "resume"], [PAUSED, RESUMED])
        assert not (tmp_path / "pause.json").exists()

    run_virtual(scenario())


def test_another_pause_changes_its_end_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        it = Paused(tmp_path / "pause.json")
        async with it.pausing.kept():
            await it.pausing.begin(60.0)
            await it.pausing.begin()
            await asyncio.sleep(3600)
            assert it.pausing.pause is not None and it.pausing.pause.until is None
            assert await it.pausing.end() and not await it.pausing.end()
        assert (it.link.asked, it.events) == ([REASON, "resume"], [PAUSED, RESUMED])

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("for_s", "ahead", "left_s"),
    [
        (None, timedelta(days=400), None),
        (3600.0, timedelta(minutes=30), 1800.0),
        (3600.0, timedelta(minutes=61), 0.0),
        (3600.0, timedelta(days=-400), 3600.0),  # a machine without a clock: no longer than it was to be
    ],
)
def test_a_restart_goes_on_with_what_is_left(
    tmp_path: Path, for_s: float | None, ahead: timedelta, left_s: float | None
) -> None:
    place = tmp_path / "sub" / "pause.json"

    async def scenario() -> None:
        it = Paused(place)
        async with it.pausing.kept():
            await it.pausing.begin(for_s)
        again = Paused(place, ahead)
        async with again.pausing.kept():
            lasts = again.pausing.to_json()
            assert (lasts is None) == (left_s == 0.0) == (not place.exists())
            if lasts is not None:
                assert lasts["left_s"] == pytest.approx(left_s, abs=9) if left_s else lasts["left_s"] is None
                assert (again.link.asked, again.events) == ([REASON], [PAUSED])

    run_virtual(scenario())


@pytest.mark.parametrize("content", [b"", b"{", b'{"since": "2026-11-22T12:00:00Z", "why": "newer"}', b"\xff" * 9999])
def test_a_file_that_cannot_be_read_is_a_pause_until_somebody_ends_it(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "pause.json"
    place.write_bytes(content)

    async def scenario() -> None:
        it = Paused(place)
        async with it.pausing.kept():
            assert not it.pausing.admits(DATA) and it.link.asked == [REASON]
            assert await it.pausing.end()
        assert not place.exists()

    run_virtual(scenario())
    assert "pause.json: is no pause that this affectd knows" in caplog.text
    assert "`affectd resume` ends it" in caplog.text


def test_a_place_that_cannot_be_written_pauses_all_the_same_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    async def scenario() -> None:
        it = Paused(tmp_path / "file" / "pause.json")
        (answer,) = [told async for told in it.pausing.answer_pause({})]
        assert answer["outlives_restart"] is False and "[control] state" in answer["reason"]
        assert not it.pausing.admits(DATA)
        with pytest.raises(StateError, match="cannot be removed"):
            await it.pausing.end()
        assert it.pausing.admits(DATA)

    run_virtual(scenario())


@pytest.mark.parametrize("wrong", [{"for_s": 0}, {"for_s": -1}, {"for_s": "1h"}, {"for_s": 1e9}, {"until": 1}])
def test_requests_that_make_no_sense_pause_nothing(tmp_path: Path, wrong: dict[str, Any]) -> None:
    async def scenario() -> None:
        it = Paused(tmp_path / "pause.json")
        with pytest.raises(RequestError, match="no pause: "):
            async for _ in it.pausing.answer_pause(wrong):
                pass
        assert it.pausing.admits(DATA)

    run_virtual(scenario())


@given(hours=st.integers(0, 99), minutes=st.integers(0, 99), seconds=st.integers(0, 99))
def test_times_are_read_as_they_are_said(hours: int, minutes: int, seconds: int) -> None:
    assert seconds_of(f"{hours}h{minutes}m{seconds}s") == 3600 * hours + 60 * minutes + seconds
    assert seconds_of(f"{minutes}m") == 60 * minutes


@pytest.mark.parametrize("text", ["", "30", "m", "1.5h", "30m2h", "-5m", "1h 30m"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time like 30m"):
        seconds_of(text)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no log level 'loud'; choose debug, info, warning"):
        set_level("loud")


Answer = dict[str, Any]
SWITCHED = {
    "bundle": "second", "sha256": "ab", "before": "cd", "runtime": "r", "largest_difference": 0.012, "warms_up": True,
    "calibrated": False,
}  # fmt: skip
SAID: dict[str, tuple[tuple[str, ...], Answer, Answer, str]] = {
    "pause": (
        ("pause", "--for", "1h30m"),
        {"for_s": 5400.0},
        {"paused": {"until": "2026-11-22T12:00:00Z"}, "outlives_restart": True, "reason": None},
        "A restart changes nothing of that",
    ),
    "pause that is lost": (
        ("pause",),
        {"for_s": None},
        {"paused": {"until": None}, "outlives_restart": False, "reason": "no room"},
        "A restart of affectd would end it: no room.",
    ),
    "resume": (("resume",), {}, {"resumed": True}, "Going on"),
    "recording": (
        ("recording", "stop"),
        {"on": False},
        {"changed": True, "on": False},
        "lasts until `affectd recording start`",
    ),
    "bundle": (("bundle", "use", "/x.affect"), {"path": "/x.affect"}, {"switched": SWITCHED}, "it warms up first"),
    "reload": (("reload",), {}, {"changed": ["sinks.jsonl"], "restart": ["radio.adapter"]}, "restart affectd`: radio."),
    "log-level": (("log-level", "debug"), {"level": "debug"}, {"level": "debug"}, "Logging debug"),
}


@pytest.fixture
def answered(tmp_path: Path) -> Iterator[Callable[[str, Answer, Answer], tuple[Path, list[Answer]]]]:
    """A control socket in another thread, which answers one kind of request and says what it was asked."""
    loop, threads, stops = asyncio.new_event_loop(), [], []

    def start(name: str, answer: Answer, status: Answer) -> tuple[Path, list[Answer]]:
        asked: list[Answer] = []
        ready = threading.Event()

        async def answers(request: Answer) -> AsyncGenerator[Answer, None]:
            asked.append(request)
            yield answer

        async def serve() -> None:
            stop = asyncio.Event()
            stops.append(stop)
            async with Control(lambda: status, [], orders={name: answers}).listening(tmp_path / "s"):
                ready.set()
                await stop.wait()

        threads.append(threading.Thread(target=loop.run_until_complete, args=[serve()]))
        threads[0].start()
        assert ready.wait(20)
        return tmp_path / "s", asked

    yield start
    for stop in stops:
        loop.call_soon_threadsafe(stop.set)
    for thread in threads:
        thread.join()
    loop.close()


@pytest.mark.parametrize("case", SAID)
def test_what_came_of_it_is_said(
    case: str, answered: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args, request, answer, words = SAID[case]
    socket, asked = answered(args[0], answer, {})
    code, out, err = affectd(capsys, monkeypatch, *args, "--socket", socket)
    assert (code, err) == (0, "") and words in out
    code, out, _ = affectd(capsys, monkeypatch, *args, "--socket", socket, "--json")
    assert (code, json.loads(out)) == (0, answer)
    assert asked == [request, request]


@pytest.mark.parametrize(("free", "code"), [(2**33, 0), (2**20, 1)])
def test_health_is_an_exit_code(
    free: int, code: int, answered: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = WELL | {"machine": WELL["machine"] | {"disk_free_bytes": free}}
    socket, _ = answered("x", {}, status)
    found, out, err = affectd(capsys, monkeypatch, "health", "--socket", socket)
    assert (found, err) == (code, "") and ("All is well" in out) == (code == 0)
    found, out, _ = affectd(capsys, monkeypatch, "health", "--socket", socket, "--json")
    assert (found, json.loads(out)["healthy"]) == (code, code == 0)
    found, out, _ = affectd(capsys, monkeypatch, "metrics", "--socket", socket)
    assert found == 0 and f"affectd_disk_free_bytes {free}" in out


def test_without_a_daemon_health_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = affectd(capsys, monkeypatch, "health", "--socket", tmp_path / "none")
    assert (code, out) == (2, "") and "no affectd listens there" in err
