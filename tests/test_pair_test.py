"""affectd-pair test: a verdict that a person can act on, from the sensor itself or from what affectd streams."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_fakes import GOOD, STRAP, WRIST, FakeRadio, FakeSensor, Tool, ecg_frames, h10, wrist

from device.control import Control
from device.notification import Notification
from firmware_bridge import registry
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.packet import StreamInfo
from firmware_bridge.pair.assess import Report
from firmware_bridge.pair.plot import braille
from firmware_bridge.registry import Sensor

BONDED = Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", bonded=True)


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    tool = Tool(tmp_path / "sensors.toml", capsys)
    registry.write(tool.path, [BONDED, Sensor("eda", "band", WRIST, "open-eda", bonded=True)])
    return tool


def test_a_sensor_that_is_well(tool: Tool) -> None:
    strap = h10(bonded=True)
    tool.radio = FakeRadio(strap)
    code, out, _ = tool("test", "strap")
    assert code == 0
    said = " ".join(out.split())
    for fact in (
        "130.02 Hz of 130 Hz",
        "100% good",
        "72/min",
        "battery 87 %",
        "ATT MTU 247",
        "signal -60 dBm",
        "is well",
    ):
        assert fact in said
    assert any(0x2800 < ord(char) < 0x2900 for char in out)  # the plot
    assert strap.events == ["start", "stop", "disconnect"]  # no pairing, no bond touched
    record = tool.json("test", STRAP, "--seconds", "10")
    assert (record["ok"], record["mtu"], record["rssi"], record["by_daemon"]) == (True, 247, -60, False)
    assert 10 <= record["seconds"] < 11


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        (replace(GOOD, lost=200, gaps=3), "4.9% of the samples lost in 3 gaps: bring it closer"),
        (replace(GOOD, arriving=65.0), "sends 65.0 Hz: expected 130 Hz"),
        (replace(GOOD, good=0.25, problems=("contact",)), "only 25% of it is good (contact): moisten"),
        (replace(GOOD, good=None), "nothing in it could be judged: is it worn?"),
    ],
)
def test_a_sensor_that_is_not_well_is_exit_code_1(tool: Tool, report: Report, problem: str) -> None:
    tool.radio, tool.report = FakeRadio(h10(bonded=True)), report
    code, out, err = tool("test", "strap")
    assert code == 1
    assert f"bad: {problem}" in " ".join(out.split())
    assert f"affectd-pair: strap: {problem}" in err
    code, out, _ = tool("test", "strap", "--json")
    assert (code, '"ok": false' in out) == (1, True)


def test_small_flaws_are_no_problem(tool: Tool) -> None:
    strap = h10(bonded=True)
    strap.values["00002a19-0000-1000-8000-00805f9b34fb"] = b"\x05"
    strap.stream = lambda: [b"\xff", *ecg_frames(200)]
    tool.radio, tool.report = FakeRadio(strap), replace(GOOD, lost=10, arriving=127.0, good=None)
    record = tool.json("test", "strap", "--seconds", "10")
    assert record["problems"] == []
    assert record["notes"] == [
        "1 notifications could not be read",
        "too short to judge its quality: --seconds 25 or more",
        "battery at 5 %: change it soon",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stream": tuple}, "the stream ended: A0:9E:1A:00:00:01: the stream of polar-pmd-ecg: no answer within 35 s"),
        ({"stream": lambda: ecg_frames(5)}, "no answer within 5 s"),
        ({"drops_after_s": 6.0}, "the link ended"),
        ({"stream": lambda: [b"\xff"] * 99}, "sends nothing that polar-pmd-ecg can read"),
    ],
)
def test_a_stream_that_ends_is_judged_by_what_came(tool: Tool, changes: dict[str, Any], problem: str) -> None:
    tool.radio = FakeRadio(h10(bonded=True, **changes))
    code, out, _ = tool("test", "strap")
    assert code == 1
    assert problem in " ".join(out.split())


def test_a_bond_that_is_lost_is_an_error_with_the_remedy(tool: Tool) -> None:
    tool.radio = FakeRadio(h10())
    assert "Not paired; pair it again" in tool.fails("test", "strap")


def test_another_unit_than_the_registry_s_is_refused(tool: Tool) -> None:
    ohm = bytes(open_eda.Info(boot_id=1, unit=open_eda.Unit.OHM))
    tool.radio = FakeRadio(wrist(info=ohm, bonded=True))
    assert "is not as it was added (open-eda: at 'info'" in tool.fails("test", "band")


def test_an_address_that_was_never_added_is_tried_and_left_without_a_bond(tool: Tool) -> None:
    tool.path.unlink()
    strap = h10()
    tool.radio = FakeRadio(strap)
    assert tool.json("test", STRAP.lower(), "--seconds", "5")["name"] == ""
    assert strap.events == ["pair", "start", "stop", "disconnect", "forget"]
    bonded = h10(bonded=True)
    tool.radio = FakeRadio(bonded)
    tool.json("test", STRAP, "--seconds", "5")
    assert bonded.bonded  # by somebody else


# -- beside a running affectd


class Source:
    """A sensor of a daemon; it says what was asked of it."""

    def __init__(self, sensor: Sensor, state: str) -> None:
        self.sensor = sensor
        self.link = type("Link", (), {"state": state})()
        self.asked: list[str] = []

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        return {self.sensor.name: polar_pmd.STREAM_INFO}

    async def pause(self) -> None:
        self.asked.append("pause")

    async def resume(self) -> None:
        self.asked.append("resume")


def beside(socket: Path, source: Source) -> Callable[[Any], Any]:
    """A runner of the tool beside a daemon with one sensor, which sends 40 frames a second."""
    link = {"state": source.link.state, "battery": 55, "mtu": 240}
    control = Control(
        lambda: {"sensors": [{"name": "strap", "address": source.sensor.address, "link": link}]}, [source]
    )

    async def send() -> None:
        for number, frame in enumerate(ecg_frames()):
            control.tap(Notification(source.sensor.name, number * 561_538_461, frame))
            await asyncio.sleep(0.025)

    @asynccontextmanager
    async def streaming() -> Any:
        async with asyncio.timeout(60), control.listening(socket):
            task = asyncio.create_task(send())
            try:
                yield
            finally:
                task.cancel()

    async def scene(work: Any) -> Any:
        async with streaming():
            return await work

    return lambda work: asyncio.run(scene(work))


@pytest.fixture
def daemon(tool: Tool, tmp_path: Path) -> Source:
    source = Source(BONDED, "streaming")
    tool.socket = tmp_path / "s"
    tool.run = beside(tool.socket, source)
    return source


def test_what_affectd_streams_is_watched_and_nothing_is_taken_away(tool: Tool, daemon: Source) -> None:
    record = tool.json("test", "strap", "--seconds", "3")
    assert (record["by_daemon"], record["battery"], record["mtu"], record["bad"]) == (True, 55, 240, 0)
    assert (tool.opened, daemon.asked) == ([], [])


def test_a_sensor_that_affectd_does_not_get_is_lent(tool: Tool, tmp_path: Path) -> None:
    source = Source(BONDED, "waiting")
    tool.socket, tool.radio = tmp_path / "s", FakeRadio(h10(bonded=True, every_s=0.01))
    tool.run = beside(tool.socket, source)
    record = tool.json("test", "strap", "--seconds", "3")
    assert not record["by_daemon"]
    assert source.asked == ["pause", "resume"]


def test_scan_add_and_remove_borrow_the_radio_and_give_it_back(tool: Tool, daemon: Source) -> None:
    tool.radio = FakeRadio(h10(every_s=0.01), wrist(every_s=0.01))
    assert {it["address"] for it in tool.json("scan", "--seconds", "1")} == {STRAP, WRIST}
    assert "strap: connected to affectd, hence not heard here." in tool("scan", "--seconds", "1")[2]
    assert daemon.asked == []  # a running stream goes on beside a scan
    tool.path.unlink()
    record = tool.json("add", STRAP, "--yes")
    assert record["daemon_running"]
    assert daemon.asked == ["pause", "resume"]  # but not while its own sensor is bonded anew
    tool.json("remove", STRAP)
    assert daemon.asked == ["pause", "resume"] * 2


def test_a_failure_gives_the_radio_back_too(tool: Tool, daemon: Source) -> None:
    tool.path.unlink()
    tool.radio = FakeRadio()
    tool.fails("remove", "nobody")
    tool.radio = FakeRadio(h10(values={polar_pmd.CONTROL_UUID: b"\x0f\x00"}))
    assert "no ECG" in tool.fails("add", STRAP, "--yes")
    assert daemon.asked == ["pause", "resume"]


def test_a_socket_at_which_nobody_listens_is_no_daemon(tool: Tool, tmp_path: Path) -> None:
    import socket

    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    tool.socket, tool.radio = tmp_path / "dead", FakeRadio(h10(bonded=True))
    tool.run = asyncio.run
    assert len(tool.json("scan", "--seconds", "1")) == 1


# -- the plot


def test_the_highest_is_on_top_and_the_oldest_left() -> None:
    assert braille([0.0, 1.0, 2.0, 3.0], 2, 1) == ["\u2860\u280a"]
    assert braille([3.0, 2.0, 1.0, 0.0], 2, 1) == ["\u2811\u2884"]
    assert braille([7.0] * 4, 2, 1) == ["\u2812\u2812"]  # flat: in the middle


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=300),
    st.integers(1, 40),
    st.integers(1, 8),
)
def test_every_signal_fits_its_place(values: list[float], width: int, height: int) -> None:
    lines = braille(values, width, height)
    assert [len(line) for line in lines] == [width] * height
    dots = any(ord(char) != 0x2800 for line in lines for char in line)
    assert dots == any(map(math.isfinite, values))


def test_a_gap_is_a_gap() -> None:
    (line,) = braille([1.0] * 40 + [math.nan] * 40 + [1.0] * 40, 12, 1)
    assert line[4:8] == "⠀" * 4
    assert "⠀" not in line[:4] + line[8:]


def test_a_sensor_that_is_not_near_is_an_error_and_no_verdict(tool: Tool) -> None:
    tool.radio = FakeRadio(FakeSensor("C0:FF:EE:00:00:77"))
    assert "not heard within 45 s" in tool.fails("test", "strap")
