"""What device/assess.py puts into the tool: the pipeline judges as in the daemon. And whole runs of the tool."""

from __future__ import annotations

import asyncio
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_bluez import Characteristic, FakeBluez, FakeSensor, private_bus
from pair_fakes import h10

from device.assess import PipelineAssessor
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.pair.assess import Report
from firmware_bridge.pair.person import Terminal, agrees
from firmware_bridge.pair.proof import TouchJudge, values_of
from firmware_bridge.virtual.signals import noise, shipped

ADDRESS = "A0:9E:1A:00:00:01"
ECG, EDA = polar_pmd.STREAM_INFO, open_eda.STREAM_INFO


def packets(
    info: StreamInfo, values: list[int], size: int, true_hz: float | None = None
) -> Iterator[tuple[Packet, int]]:
    """Samples as the sensor sends them, and when each packet comes."""
    hz = true_hz or info.sfreq
    for at in range(0, len(values) - size + 1, size):
        stamped = at + size - 1 if info.stamped == "last" else at
        seq = at // size % 2**info.seq_bits if info.seq_bits else None
        ticks = round(stamped / hz * info.tick_hz)
        yield Packet(ticks, tuple(values[at : at + size]), seq), round((at + size) / hz * 1e9)


def report(info: StreamInfo, sent: Iterator[tuple[Packet, int]]) -> Report:
    assessor = PipelineAssessor(info)
    for packet, host_ns in sent:
        assessor.push(packet, host_ns)
    return assessor.report()


def ecg(seconds: float) -> list[int]:
    return list(shipped("ecg-130", 130.0).values)[: round(130 * seconds)]


def eda(seconds: float) -> list[int]:
    return list(shipped("eda-8", 8.0).values)[: round(8 * seconds)]


def test_thirty_seconds_of_a_good_ecg() -> None:
    got = report(ECG, packets(ECG, ecg(30), 73, true_hz=130.4))
    assert (got.good, got.lost, got.gaps, got.problems) == (1.0, 0, 0, ())
    assert got.sfreq == pytest.approx(130.4, abs=0.05)
    assert got.arriving == pytest.approx(130.4, abs=0.05)
    assert got.heart_rate is not None
    assert 50 < got.heart_rate < 80  # of the recording: intervals of 0.75 to 1.2 s


def test_thirty_seconds_of_a_good_eda() -> None:
    got = report(EDA, packets(EDA, eda(30), 4))
    assert (got.good, got.heart_rate) == (1.0, None)
    assert got.level == pytest.approx(eda(30)[-1] / 1000)


def test_no_heart_and_no_skin_are_judged_bad_and_not_left_out() -> None:
    unworn = report(ECG, packets(ECG, (list(noise("x", 130.0).values) * 5)[: 30 * 130], 73))
    assert unworn.good == 0.0
    assert unworn.problems
    released = report(EDA, packets(EDA, [0] * 240, 4))
    assert (released.good, released.problems) == (0.0, ("contact",))


def test_losses_are_counted_and_a_window_with_a_gap_is_bad() -> None:
    sent = [it for number, it in enumerate(packets(ECG, ecg(30), 73)) if number not in (30, 31)]
    got = report(ECG, iter(sent))
    assert (got.lost, got.gaps) == (146, 1)
    assert got.arriving == pytest.approx(130.0, abs=0.1)
    assert got.good is not None
    assert got.good < 1.0


def test_half_the_rate_shows_by_the_host_s_clock() -> None:
    sent = ((packet, 2 * host_ns) for packet, host_ns in packets(ECG, ecg(30), 73))
    arriving = report(ECG, sent).arriving
    assert arriving == pytest.approx(65.0, abs=0.1)


def test_a_heart_rate_does_not_outlive_its_beats() -> None:
    flat = ecg(20) + [0] * 130 * 15
    assert report(ECG, packets(ECG, flat, 73)).heart_rate is None


def test_a_rate_that_the_filters_cannot_take_is_not_judged_and_no_crash() -> None:
    slow = replace(ECG, sfreq=50.0)
    got = report(slow, packets(slow, ecg(10), 10))
    assert (got.good, got.samples) == (None, 1300)


def test_nothing_is_a_report_too() -> None:
    assessor = PipelineAssessor(ECG)
    assert assessor.report() == Report(sfreq=130.0)
    assert list(assessor.recent(5.0)) == []


def test_the_newest_samples_for_a_plot_have_their_gaps() -> None:
    assessor = PipelineAssessor(EDA)
    for number, (packet, host_ns) in enumerate(packets(EDA, [1000] * 79 + [2**31 - 1], 4)):
        if number != 18:
            assessor.push(packet, host_ns)
    recent = list(assessor.recent(1.5))
    assert [value if math.isfinite(value) else None for value in recent] == [1.0] * 4 + [None] * 4 + [1.0] * 3 + [None]
    assert len(assessor.recent(1e9)) == 80


# -- the touch


def touched(*levels: float | None, sfreq: float = 8.0) -> TouchJudge:
    judge = TouchJudge(sfreq)
    for level in levels:
        for _ in range(round(2 * sfreq)):
            judge.push(level)
    return judge


@pytest.mark.parametrize(
    ("levels", "phase"),
    [
        ((0.0,), "touch"),
        ((None,), "touch"),
        ((4.0,), "release"),
        ((4.0, 0.0, 4.0), "done"),
        ((0.0, 0.04), "touch"),
        ((0.3, 0.1, 0.15), "touch"),  # leaks over the electrodes, and no touch yet
        ((0.3, 0.1, 0.25), "done"),
        ((4.0, 3.0, 5.0), "release"),  # motion of a worn sensor
    ],
)
def test_a_touch_is_a_step_from_released_to_touched(levels: tuple[float | None, ...], phase: str) -> None:
    assert touched(*levels).phase == phase


def test_a_brush_past_the_electrodes_is_no_touch() -> None:
    judge = touched(0.0)
    for value in [5.0] * 3 + [0.0] * 8:
        judge.push(value)
    assert judge.phase == "touch"


def test_open_and_saturated_samples_have_no_value() -> None:
    packet = Packet(0, (open_eda.OPEN_VALUE, 1500, open_eda.SATURATED_VALUE))
    assert list(values_of(packet, EDA)) == [None, 1.5, None]


# -- the terminal


def test_a_terminal_asks_until_it_gets_an_answer_and_goes_on_showing() -> None:
    ours, theirs = pty.openpty()

    async def scene(terminal: Terminal) -> bool:
        asyncio.get_running_loop().call_later(0.05, os.write, ours, b"what\n")
        asyncio.get_running_loop().call_later(0.10, terminal.show, "72/min")
        asyncio.get_running_loop().call_later(0.15, os.write, ours, b"Yes\n")
        return await agrees(terminal, "Is it?")

    with os.fdopen(theirs, "r", closefd=True) as answers, os.fdopen(os.dup(theirs), "w") as out:
        terminal = Terminal(answers, out)
        assert terminal.there
        assert asyncio.run(scene(terminal))
        terminal.say("bye")
    written = os.read(ours, 10_000).decode()
    os.close(ours)
    assert written.count("Is it? [y/n]") >= 3  # asked, asked again, and kept behind what is shown
    assert "72/min Is it? [y/n]" in written


def test_without_a_terminal_nobody_is_there_and_nothing_is_shown(tmp_path: Path) -> None:
    with (tmp_path / "in").open("w+") as answers, (tmp_path / "out").open("w+") as out:
        terminal = Terminal(answers, out)
        terminal.show("72/min")
        terminal.say("bye")
        assert not terminal.there
    assert (tmp_path / "out").read_text() == "bye\n"


# -- whole runs


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[None]:
    with private_bus(tmp_path):
        yield


def strap(fake: list[FakeBluez]) -> FakeSensor:
    """A Polar H10 at the fake org.bluez."""
    like = h10()

    def written(sensor: FakeSensor, uuid: str, data: bytes) -> None:
        if data == polar_pmd.START:
            fake[0].later(0.01, fake[0].notify, sensor, *like.answers[data])
            for number, frame in enumerate(like.stream()):
                if number > 50:
                    break
                fake[0].later(0.1 * number + 0.02, fake[0].notify, sensor, polar_pmd.DATA_UUID, frame)

    pmd = {
        polar_pmd.CONTROL_UUID: Characteristic(("read", "write", "indicate"), b"\x0f\x01\x00", secure=True),
        polar_pmd.DATA_UUID: Characteristic(("notify",), secure=True),
    }
    return FakeSensor(ADDRESS, {polar_pmd.SERVICE_UUID: pmd}, written, "Polar H10 0A1B2C3D")


def test_add_test_and_remove_through_the_real_bleak(bus: None, tmp_path: Path) -> None:
    """The tool in a process of its own, BlueZ a fake one on a private bus, which pairs only where there is an agent."""

    async def tool(*args: str) -> tuple[int, str, str]:
        command = [sys.executable, "-c", "from device.pair import main; main()", "--file", str(tmp_path / "s.toml")]
        command += ["--socket", str(tmp_path / "none"), *args]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, stdin=pipe)
        out, err = await process.communicate()
        return int(process.returncode or 0), out.decode(), err.decode()

    async def scene() -> None:
        fake: list[FakeBluez] = []
        sensor = strap(fake)
        fake.append(FakeBluez(sensor))
        async with asyncio.timeout(90), fake[0]:
            code, out, err = await tool("add", "Polar", "--yes", "--json")
            assert code == 0, err
            assert json.loads(out)["bonded"]
            assert sensor.bonded
            assert sensor.writes[-1] == (polar_pmd.CONTROL_UUID, polar_pmd.STOP)
            assert (fake[0].agent, fake[0].discovering) == (False, set())
            assert not sensor.connected
            code, out, err = await tool("test", ADDRESS, "--seconds", "3", "--json")
            assert json.loads(out)["mtu"] == 247, err
            code, out, _ = await tool("doctor", "--json")
            levels = {(it["check"], it["level"]) for it in json.loads(out)}
            assert {("bluetoothd", "ok"), ("agent", "ok"), ("bonds", "ok"), ("adapter", "ok")} <= levels
            code, out, err = await tool("remove", ADDRESS, "--json")
            assert json.loads(out)["bond_dropped"], err
            assert not sensor.bonded

    asyncio.run(scene())


def as_from_a_terminal() -> None:
    """A shell's background jobs, and all that they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_the_sensor_stopped_and_the_agent_gone(bus: None, tmp_path: Path, number: int) -> None:
    async def scene() -> None:
        fake: list[FakeBluez] = []
        sensor = strap(fake)
        fake.append(FakeBluez(sensor))
        async with asyncio.timeout(60), fake[0]:
            command = ["from device.pair import main; main()", "--socket", str(tmp_path / "none"), "test", ADDRESS]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", *command, preexec_fn=as_from_a_terminal
            )
            while sensor.sent < 5:
                await asyncio.sleep(0.01)
            process.send_signal(number)
            assert await process.wait() == 130
            assert sensor.writes[-1] == (polar_pmd.CONTROL_UUID, polar_pmd.STOP)
            assert (sensor.connected, sensor.bonded, fake[0].agent) == (False, False, False)

    asyncio.run(scene())


def test_a_simulated_strap_is_tested_with_its_plot() -> None:
    command = [sys.executable, "-c", "from device.pair import main; main()", "--simulate"]
    heard = subprocess.run([*command, "scan", "--seconds", "2", "--json"], capture_output=True, text=True, check=True)
    address = next(it["address"] for it in json.loads(heard.stdout) if "polar-pmd-ecg" in it["protocols"])
    done = subprocess.run([*command, "test", address, "--seconds", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search("[\u2801-\u28ff]", done.stdout)
    assert "is well" in done.stdout
