"""The control socket, asked by the real client over a real UNIX socket."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.control import WATCH_QUEUE, Control
from device.errors import BaselineError, ControlError
from device.notification import LinkChange, LinkState, Notification
from firmware_bridge.codecs import polar_pmd
from firmware_bridge.daemon_client import DaemonError, ask, status
from firmware_bridge.packet import StreamInfo
from firmware_bridge.registry import Sensor


class Link:
    def __init__(self, state: LinkState) -> None:
        self.state = state


class Source:
    """A sensor that can be lent; it says what was asked of it."""

    def __init__(self, name: str, number: int, state: LinkState = "streaming") -> None:
        self.sensor = Sensor("ecg", name, f"A0:9E:1A:00:00:0{number}", "polar-pmd-ecg")
        self.link = Link(state)
        self.asked: list[str] = []

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        return {self.sensor.name: polar_pmd.STREAM_INFO}

    async def pause(self) -> None:
        self.asked.append("pause")

    async def resume(self) -> None:
        self.asked.append("resume")


def held(path: Path, control: Control, talk: Callable[[], Awaitable[None]]) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(20), control.listening(path):
            await talk()
            while len(asyncio.all_tasks()) > 1:  # every talk ends when its client has gone
                await asyncio.sleep(0.001)

    asyncio.run(scenario())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "affectd.sock"


def test_the_status_is_told_to_the_owner_and_the_group_alone(path: Path) -> None:
    async def talk() -> None:
        assert await status(path) == {"predictions": 3}
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

    held(path, Control(lambda: {"predictions": 3}, []), talk)
    assert not path.exists()


def test_a_loan_lasts_until_the_tool_closes_and_leaves_the_other_streams_alone(path: Path) -> None:
    chest, wrist, searching = Source("chest", 1), Source("wrist", 2), Source("third", 3, "searching")

    async def talk() -> None:
        async with ask(path, {"do": "lend", "address": chest.sensor.address}) as answers:
            assert (await anext(answers))["paused"] == ["chest", "third"]
            assert (chest.asked, wrist.asked, searching.asked) == (["pause"], [], ["pause"])
            with pytest.raises(DaemonError, match="chest is lent to another tool; end that one first"):
                async with ask(path, {"do": "lend", "address": chest.sensor.address}):
                    pass
            async with ask(path, {"do": "lend", "address": None}) as more:
                assert (await anext(more))["paused"] == []

    held(path, Control(dict, [chest, wrist, searching]), talk)
    assert (chest.asked, wrist.asked, searching.asked) == (["pause", "resume"], [], ["pause", "resume"])


def test_a_watcher_sees_its_sensor_and_one_that_does_not_read_costs_nothing(path: Path) -> None:
    chest, wrist = Source("chest", 1), Source("wrist", 2)
    control = Control(dict, [chest, wrist])

    async def talk() -> None:
        async with ask(path, {"do": "watch", "sensor": "chest"}) as answers:
            assert (await anext(answers))["stream"]["protocol"] == "polar-pmd-ecg"
            control.tap(LinkChange("chest", 1, "silent"))
            control.tap(Notification("wrist", 2, b"no"))
            control.tap(Notification("chest", 3, b"\x01\xff"))
            assert await anext(answers) == {"ok": True, "host_ns": 3, "data": "01ff"}
            for number in range(10 * WATCH_QUEUE):
                control.tap(Notification("chest", number, b""))
            assert (await anext(answers))["host_ns"] >= 9 * WATCH_QUEUE  # the oldest were dropped
        control.tap(Notification("chest", 4, b""))  # nobody watches any more

    held(path, control, talk)


def test_a_baseline_ends_with_the_tool_that_asked_for_it(path: Path) -> None:
    asked: list[dict[str, Any]] = []

    async def answers(request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        asked.append(request)
        try:
            yield {"progress": 1}
            if request == {"refuse": True}:
                raise BaselineError("eda", "there is no sensor of it", "attach one")
            await asyncio.Event().wait()
        finally:
            asked.append({"over": True})

    async def talk() -> None:
        async with ask(path, {"do": "baseline", "person": "Ada"}) as told:
            assert await anext(told) == {"ok": True, "progress": 1}
        with pytest.raises(DaemonError, match="baseline: eda: there is no sensor of it; attach one"):
            async with ask(path, {"do": "baseline", "refuse": True}) as told:
                await anext(told)
                await anext(told)

    held(path, Control(dict, [], answers), talk)
    assert sorted(map(str, asked)) == sorted(map(str, [{"person": "Ada"}, {"refuse": True}, *2 * [{"over": True}]]))


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"do": "watch", "sensor": "knee"}, "no sensor 'knee'"),
        ({"do": "watch", "sensor": "third"}, "third is not streaming"),
        ({"do": "dance"}, "unknown request"),
        ({}, "unknown request"),
    ],
)
def test_requests_that_make_no_sense_are_refused_with_a_reason(
    path: Path, request_: dict[str, Any], reason: str
) -> None:
    async def talk() -> None:
        with pytest.raises(DaemonError, match=reason):
            async with ask(path, request_):
                pass

    held(path, Control(dict, [Source("third", 3, "waiting")]), talk)


@settings(max_examples=25)
@given(garbage=st.binary(max_size=200).filter(lambda data: b"\n" not in data))
def test_garbage_is_refused_and_the_next_one_is_served(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes
) -> None:
    path = tmp_path_factory.mktemp("g") / "s"

    async def talk() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(garbage + b"\n")
        assert json.loads(await reader.readline())["ok"] is False
        writer.close()
        await writer.wait_closed()
        assert await status(path) == {}

    held(path, Control(dict, []), talk)


def test_an_endless_line_is_refused(path: Path) -> None:
    async def talk() -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * 200_000)
        assert json.loads(await reader.readline())["ok"] is False
        writer.close()
        with pytest.raises(OSError):
            await writer.wait_closed()
            raise BrokenPipeError  # whether the close itself fails depends on how much was read

    held(path, Control(dict, []), talk)


def test_one_daemon_per_socket_and_a_dead_ones_socket_is_taken_over(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def talk() -> None:
        with pytest.raises(ControlError, match=r"another affectd listens here; stop it, or .*\[control\] socket"):
            async with Control(dict, []).listening(path):
                pass
        assert await status(path) == {}

    held(path, Control(dict, []), talk)


def test_a_place_that_is_no_good_is_named(tmp_path: Path) -> None:
    async def listen(path: Path) -> None:
        async with Control(dict, []).listening(path):
            pass

    for path in (tmp_path / ("x" * 120), Path("/proc/affectd.sock")):
        with pytest.raises(ControlError, match=r"cannot listen: .*choose another \[control\] socket"):
            asyncio.run(listen(path))


def test_without_a_daemon_the_client_says_so(path: Path) -> None:
    with pytest.raises(DaemonError, match=r"no affectd listens there; start it"):
        asyncio.run(status(path))
