"""Scripted sensors, person and judge for affectd-pair, at its seams. Run in virtual time: nothing really waits.

A sensor plays its ``stream`` from each start to the next stop or the link's end, one notification every ``every_s``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from virtual_time import run_virtual

from firmware_bridge.codecs import heart_rate, open_eda, polar_pmd
from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.pair import cli
from firmware_bridge.pair.assess import Assessor, Report
from firmware_bridge.pair.link import BATTERY_UUID, SERIAL_UUID
from firmware_bridge.pair.outside import Outside
from firmware_bridge.pair.radio import Answers, Radio
from firmware_bridge.radio.types import Advertisement, Central, GattClient

STRAP, WRIST, PHONE = "A0:9E:1A:00:00:01", "C0:FF:EE:00:00:02", "11:22:33:44:55:66"
H10_FEATURES = bytes.fromhex("0F 05 00")
HANG = "hang"
"""In place of an answer: there is none."""


def ecg_frames(n: int | None = None) -> Iterator[bytes]:
    """Frames of a Polar H10 without a heart."""
    for number in range(n) if n else itertools.count():
        yield bytes(polar_pmd.EcgFrame(10**18 + number * 561_538_461, tuple(range(73))))


def eda_frames(levels_us: Iterable[float]) -> Iterator[bytes]:
    """Frames of four samples, each at one level in uS, as 8 Hz gives two a second."""
    for number, level in enumerate(levels_us):
        yield bytes(open_eda.Data(number % 65536, number * 500, (round(level * 1000),) * 4))


@dataclass
class FakeSensor:
    """One sensor."""

    address: str
    name: str = ""
    advertised: tuple[str, ...] = ()
    services: frozenset[str] = frozenset()
    values: dict[str, Any] = field(default_factory=dict)
    """Characteristic to its value, to an error, or HANG."""
    answers: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    """What is written to the characteristic and value that then come."""
    starts: bytes = b""
    stops: bytes = b""
    stream_uuid: str = ""
    stream: Callable[[], Iterable[bytes]] = tuple
    every_s: float = 0.5
    wakes_after_s: float = 0.0
    """From a start to its stream, in silence."""
    rssi: int = -60
    secure: bool = False
    pairs: RadioError | str | None = None
    """What comes of pairing; None: a bond."""
    asks: str = ""
    """What it asks while pairing: passkey or confirm."""
    bonded: bool = False
    connectable: RadioError | None = None
    drops_after_s: float | None = None
    mtu: int = 247
    events: list[str] = field(default_factory=list)
    """What happened to it, in order."""
    pulse: int | None = None
    """What it says of the heart rate by itself, 1/min, where it offers the service."""


def h10(**changes: Any) -> FakeSensor:
    start = bytes(polar_pmd.Response(polar_pmd.Op.START, 0, 0))
    fields: dict[str, Any] = {
        "name": "Polar H10 0A1B2C3D",
        "advertised": (heart_rate.SERVICE_UUID,),
        "services": frozenset({heart_rate.SERVICE_UUID, polar_pmd.SERVICE_UUID}),
        "values": {polar_pmd.CONTROL_UUID: H10_FEATURES, SERIAL_UUID: b"0A1B2C3D\x00", BATTERY_UUID: b"\x57"},
        "answers": {polar_pmd.START: (polar_pmd.CONTROL_UUID, start)},
        "starts": polar_pmd.START,
        "stops": polar_pmd.STOP,
        "stream_uuid": polar_pmd.DATA_UUID,
        "stream": ecg_frames,
        "every_s": 73 / 130,
        "secure": True,
    }
    return FakeSensor(STRAP, **fields | changes)


def wrist(levels_us: Iterable[float] = (5.0,) * 500, info: bytes | None = None, **changes: Any) -> FakeSensor:
    start = bytes(open_eda.Response(open_eda.Op.START, 0))
    fields: dict[str, Any] = {
        "advertised": (open_eda.SERVICE_UUID.upper(),),
        "services": frozenset({open_eda.SERVICE_UUID}),
        "values": {open_eda.INFO_UUID: info or bytes(open_eda.Info(boot_id=1))},
        "answers": {open_eda.START: (open_eda.CONTROL_UUID, start)},
        "starts": open_eda.START,
        "stops": open_eda.STOP,
        "stream_uuid": open_eda.DATA_UUID,
        "stream": lambda: eda_frames(levels_us),
        "secure": True,
        "rssi": -72,
    }
    return FakeSensor(WRIST, **fields | changes)


H9 = FakeSensor(STRAP, "Polar H9 0A1B", (heart_rate.SERVICE_UUID,), frozenset({heart_rate.SERVICE_UUID}), rssi=-50)
HOSTILE = FakeSensor(PHONE, "\x1b[31m[red]evil[/]\r\nPolar H10\u202e" + "A" * 200, rssi=-30)


class FakeClient:
    """One connection to a FakeSensor."""

    def __init__(self, sensor: FakeSensor, radio: FakeRadio, gone: Callable[[], None]) -> None:
        self._sensor = sensor
        self._radio = radio
        self._gone = gone
        self._callbacks: dict[str, Callable[[bytes], None]] = {}
        self._player: asyncio.Task[None] | None = None
        self.connected = True
        if sensor.drops_after_s is not None:
            asyncio.get_running_loop().call_later(sensor.drops_after_s, self.drop)

    @property
    def services(self) -> frozenset[str]:
        return self._sensor.services

    @property
    def mtu(self) -> int:
        return self._sensor.mtu

    async def read(self, uuid: str) -> bytes:
        await self._usable()
        value = self._sensor.values.get(uuid)
        if value == HANG:
            await asyncio.Event().wait()
        if value is None:
            raise RadioError(self._sensor.address, RadioFault.GATT, f"has no characteristic {uuid}")
        if isinstance(value, Exception):
            raise value
        return bytes(value)

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        await self._usable()
        if self._sensor.secure and not self._sensor.bonded:
            raise RadioError(self._sensor.address, RadioFault.AUTHENTICATION, "Not paired")
        if data == self._sensor.stops:
            self._sensor.events.append("stop")
            self._end_stream()
        if data in self._sensor.answers:
            uuid, answer = self._sensor.answers[data]
            self._callbacks[uuid](answer)
        if data == self._sensor.starts:
            self._sensor.events.append("start")
            self._player = asyncio.create_task(self._play())

    async def subscribe(self, uuid: str, callback: Callable[[bytes], None]) -> None:
        await self._usable()
        self._callbacks[uuid] = callback
        if uuid == heart_rate.MEASUREMENT_UUID and self._sensor.pulse is not None:
            callback(bytes(heart_rate.HeartRate(self._sensor.pulse)))

    async def pair(self) -> None:
        await self._usable()
        self._sensor.events.append("pair")
        if self._sensor.pairs == HANG:
            await asyncio.Event().wait()
        if isinstance(self._sensor.pairs, RadioError):
            raise self._sensor.pairs
        if not self._sensor.bonded:
            await self._radio.ask(self._sensor)
        self._sensor.bonded = True

    async def disconnect(self) -> None:
        if self.connected:
            self._sensor.events.append("disconnect")
        self.drop()

    def drop(self) -> None:
        if self.connected:
            self.connected = False
            self._end_stream()
            self._gone()

    def _end_stream(self) -> None:
        if self._player is not None:
            self._player.cancel()

    async def _play(self) -> None:
        await asyncio.sleep(self._sensor.wakes_after_s)
        for data in self._sensor.stream():
            await asyncio.sleep(self._sensor.every_s)
            self._callbacks[self._sensor.stream_uuid](data)

    async def _usable(self) -> None:
        await asyncio.sleep(0.02)
        if not self.connected:
            raise RadioError(self._sensor.address, RadioFault.LINK, "not connected")


class FakeRadio:
    """Radio and Central in one."""

    keeps_bonds = True

    def __init__(self, *sensors: FakeSensor, fails: Exception | None = None) -> None:
        self.sensors = {it.address: it for it in sensors}
        self.fails = fails
        self.extra: Iterable[Advertisement] = ()
        """Advertised besides, once, without a pause."""
        self.agents: list[Answers] = []
        self.agents_for: list[str] = []
        self.scans = 0
        self.closed = 0
        self.held: list[bool] = []

    @property
    def central(self) -> Central:
        return self

    @asynccontextmanager
    async def agent(self, address: str, answers: Answers) -> AsyncIterator[None]:
        self.agents_for.append(address)
        self.agents.append(answers)
        try:
            yield
        finally:
            self.agents.remove(answers)

    async def ask(self, sensor: FakeSensor) -> None:
        """What BlueZ does while a sensor pairs."""
        refused = RadioError(sensor.address, RadioFault.AUTHENTICATION, "Authentication Failed")
        if not self.agents:
            raise refused
        answers = self.agents[-1]
        if sensor.asks == "passkey" and await answers.passkey() != 123456:
            raise refused
        if sensor.asks == "confirm" and not await answers.confirm(654321):
            raise refused

    async def bonded(self, address: str) -> bool:
        return address in self.sensors and self.sensors[address].bonded

    @asynccontextmanager
    async def scan(self) -> AsyncIterator[AsyncIterator[Advertisement]]:
        self._check()
        self.scans += 1
        advertisements = self._advertisements()
        async with contextlib.aclosing(advertisements):
            yield advertisements

    async def _advertisements(self) -> Any:
        for heard in self.extra:
            yield heard
        while True:
            await asyncio.sleep(0.1)
            for it in self.sensors.values():
                yield Advertisement(it.address, it.name, it.rssi, it.advertised)

    async def connect(self, address: str, *, limit_s: float, on_disconnect: Callable[[], None]) -> GattClient:
        self._check()
        await asyncio.sleep(0.5)
        sensor = self.sensors.get(address)
        if sensor is None:
            raise RadioError(address, RadioFault.NOT_FOUND, f"not heard within {limit_s:.0f} s")
        if sensor.connectable is not None:
            raise sensor.connectable
        return FakeClient(sensor, self, on_disconnect)

    async def hold(self, address: str, touching: bool) -> None:
        self.held.append(touching)

    async def forget(self, address: str) -> None:
        if address in self.sensors:
            self.sensors[address].events.append("forget")
            self.sensors[address].bonded = False

    async def close(self) -> None:
        self.closed += 1

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails


class FakePerson:
    """Answers from a script, in order; an exception in it is raised."""

    def __init__(self, *script: str | BaseException, there: bool | None = None) -> None:
        self.script = list(script)
        self.there = bool(script) if there is None else there
        self.said: list[str] = []
        self.shown: list[str] = []
        self.asked: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, text: str) -> None:
        self.shown.append(text)

    async def ask(self, question: str) -> str:
        self.asked.append(question)
        await asyncio.sleep(3)
        answer = self.script.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@dataclass
class FakeAssessor:
    """Says what the test wants it to."""

    info: StreamInfo
    told: Report
    packets: list[Packet] = field(default_factory=list)

    def push(self, packet: Packet, host_ns: int) -> None:
        self.packets.append(packet)

    def report(self) -> Report:
        return self.told

    def recent(self, seconds: float) -> Sequence[float]:
        return [value * self.info.scale for packet in self.packets for value in packet.values]


def assess_as(report: Report) -> Callable[[StreamInfo], Assessor]:
    return lambda info: FakeAssessor(info, report)


GOOD = Report(samples=3900, sfreq=130.02, arriving=130.0, good=1.0, heart_rate=71.6, level=0.1)


@dataclass
class Tool:
    """The command line over fakes."""

    path: Path
    capsys: pytest.CaptureFixture[str]
    radio: FakeRadio = field(default_factory=FakeRadio)
    person: FakePerson = field(default_factory=FakePerson)
    report: Report = GOOD
    socket: Path | None = None
    opened: list[str | None] = field(default_factory=list)
    run: Callable[[Any], Any] = run_virtual
    more: dict[str, Any] = field(default_factory=dict)
    """Further fields of Outside."""

    @asynccontextmanager
    async def open(self, adapter: str | None) -> AsyncIterator[Radio]:
        self.opened.append(adapter)
        try:
            yield self.radio
        finally:
            await self.radio.close()

    def __call__(self, *args: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        outside = Outside(assess_as(self.report), self.open, lambda: self.person, run=self.run, **self.more)
        code = 0
        socket = self.socket or self.path.with_name("no.sock")
        try:
            cli.main(["--file", str(self.path), "--socket", str(socket), *args], outside=outside)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = self.capsys.readouterr()
        return code, out, err

    def json(self, *args: str) -> Any:
        """Output of a command that goes well."""
        code, out, err = self(*args, "--json")
        assert code == 0, err
        return json.loads(out)

    def fails(self, *args: str, code: int = 2) -> str:
        """The one line on stderr of a command that fails, with nothing on stdout."""
        got, out, err = self(*args)
        assert (got, out, err.count("\n")) == (code, "", 1), err
        assert err.startswith("affectd-pair: ")
        return err
