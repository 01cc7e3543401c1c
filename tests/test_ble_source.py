"""The radio source against a scripted peripheral: it starts, recovers, and always stops the sensor's stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from bleak.exc import BleakError

from device.errors import SourceError
from device.notification import Notification
from device.sources.ble import BleSource, Timings
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.registry import Sensor

CHEST = Sensor(role="ecg", name="chest", address="A0:9E:1A:00:00:01", protocol="polar-pmd-ecg")
WRIST = Sensor(role="eda", name="wrist", address="A0:9E:1A:00:00:02", protocol="open-eda")
FRAME = bytes(polar_pmd.EcgFrame(1, (1, 2, 3)))
QUICK = Timings(connect=0.05, request=0.05, first=0.05, stall=0.05, leave=0.05, backoff=1.0, backoff_max=4.0)
STARTED = bytes(polar_pmd.Response(polar_pmd.Op.START, 0, 0))
FEATURES = bytes(polar_pmd.Features(b"\x01"))


class Peripheral:
    """One scripted sensor over all connections; the n-th connection plays the n-th script.

    A script is a list of steps: bytes are sent as data, "gone" drops the link, "silent" waits for ever; it begins
    when the stream is started. A script that is an exception fails the connection instead.
    """

    def __init__(self, *scripts: Any, info: bytes = FEATURES, answer: bytes | None = STARTED) -> None:
        self.scripts = list(scripts)
        self.info = info
        self.answer = answer
        self.writes: list[bytes] = []
        self.open = 0
        self.addresses: list[str] = []

    def __call__(self, address: str, *, disconnected_callback: Callable[[Any], None], timeout: float) -> Link:
        self.addresses.append(address)
        return Link(self, self.scripts.pop(0) if self.scripts else BleakError("not there"), disconnected_callback)


class Link:
    """What bleak's client offers, for one connection."""

    def __init__(self, peripheral: Peripheral, script: Any, gone: Callable[[Any], None]) -> None:
        self.peripheral, self.script, self.gone = peripheral, script, gone
        self.callbacks: dict[str, Callable[[Any, bytearray], None]] = {}
        self.connected = False

    async def connect(self) -> None:
        if isinstance(self.script, Exception):
            raise self.script
        if self.script == "hang":
            await asyncio.Event().wait()
        self.connected = True
        self.peripheral.open += 1

    async def disconnect(self) -> None:
        self.peripheral.open -= self.connected
        self.connected = False

    async def read_gatt_char(self, uuid: str) -> bytearray:
        return bytearray(self.peripheral.info)

    async def start_notify(self, uuid: str, callback: Callable[[Any, bytearray], None]) -> None:
        self.callbacks[uuid] = callback

    async def write_gatt_char(self, uuid: str, data: bytes, *, response: bool) -> None:
        assert response
        if not self.connected:
            raise BleakError("not connected")
        self.peripheral.writes.append(bytes(data))
        if data in (polar_pmd.START, open_eda.START):
            if self.peripheral.answer is not None:
                self.callbacks[uuid](None, bytearray(self.peripheral.answer))
            self.play()

    def play(self) -> None:
        (data,) = (call for uuid, call in self.callbacks.items() if uuid in (polar_pmd.DATA_UUID, open_eda.DATA_UUID))
        for step in self.script:
            if step == "gone":
                self.peripheral.open -= 1
                self.connected = False
                self.gone(self)
            elif step != "silent":
                data(None, bytearray(step))


def take(source: BleSource, n: int) -> list[Notification]:
    """The first ``n`` notifications; then the generator is closed, as a stop does."""

    async def scenario() -> list[Notification]:
        got: list[Notification] = []
        async with contextlib.aclosing(source.notifications()) as notifications:
            async for notification in notifications:
                got.append(notification)
                if len(got) == n:
                    break
        return got

    return asyncio.run(scenario())


def source_of(peripheral: Peripheral, sensor: Sensor = CHEST) -> tuple[BleSource, list[float]]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    clock = iter(range(1, 1000))
    return BleSource(sensor, client=peripheral, timings=QUICK, clock_ns=lambda: next(clock), sleep=sleep), waits


def test_it_starts_reads_and_stops_the_stream() -> None:
    peripheral = Peripheral([FRAME, FRAME])
    source, waits = source_of(peripheral)
    assert source.streams == {"chest": polar_pmd.STREAM_INFO}
    assert take(source, 2) == [Notification("chest", 1, FRAME), Notification("chest", 2, FRAME)]
    assert peripheral.writes == [polar_pmd.START, polar_pmd.STOP]
    assert (peripheral.open, peripheral.addresses, waits) == (0, [CHEST.address], [])


def test_the_other_protocol_starts_its_own_way() -> None:
    data = bytes(open_eda.Data(1, 2, (3,)))
    answer = bytes(open_eda.Response(open_eda.Op.START, 0))
    peripheral = Peripheral([data], info=bytes(open_eda.Info(boot_id=7)), answer=answer)
    source, _ = source_of(peripheral, WRIST)
    assert take(source, 1) == [Notification("wrist", 1, data)]
    assert peripheral.writes == [open_eda.START, open_eda.STOP]


@pytest.mark.parametrize("trouble", [BleakError("le-connection-abort"), TimeoutError(), OSError("no adapter"), "hang"])
def test_a_failed_connection_is_tried_again(trouble: object) -> None:
    peripheral = Peripheral(trouble, [FRAME])
    source, waits = source_of(peripheral)
    assert len(take(source, 1)) == 1
    assert waits == [1.0]
    assert peripheral.open == 0


def test_the_wait_doubles_up_to_its_limit_and_starts_anew_after_success() -> None:
    trouble = [BleakError("away")] * 4
    peripheral = Peripheral(*trouble, [FRAME, "gone"], BleakError("away"), [FRAME])
    source, waits = source_of(peripheral)
    assert len(take(source, 2)) == 2
    assert waits == [1.0, 2.0, 4.0, 4.0, 1.0, 2.0]


def test_a_silent_link_is_stopped_and_made_anew() -> None:
    peripheral = Peripheral(["silent"], [FRAME, "silent"], [FRAME])
    source, waits = source_of(peripheral)
    assert len(take(source, 2)) == 2
    assert peripheral.writes == [polar_pmd.START, polar_pmd.STOP] * 3
    assert waits == [1.0, 1.0]


def test_a_refused_or_missing_answer_is_tried_again() -> None:
    for answer in (bytes(polar_pmd.Response(polar_pmd.Op.START, 0, polar_pmd.Status.INVALID_MTU)), None, b"\x0f\x01"):
        peripheral = Peripheral([FRAME], [FRAME], answer=answer)
        source, waits = source_of(peripheral)

        async def scenario(source: BleSource = source, peripheral: Peripheral = peripheral) -> None:
            task = asyncio.create_task(anext(source.notifications()))
            while len(peripheral.addresses) < 3:
                await asyncio.sleep(0.01)
                assert not task.done()
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(scenario())
        assert waits[:2] == [1.0, 2.0]
        assert peripheral.writes == [polar_pmd.START, polar_pmd.STOP] * 2


def test_a_cancelled_task_still_stops_the_stream() -> None:
    peripheral = Peripheral([FRAME, "silent"])
    source, _ = source_of(peripheral)

    async def scenario() -> None:
        async def drain() -> None:
            async with contextlib.aclosing(source.notifications()) as notifications:
                async for _ in notifications:
                    arrived.set()

        arrived = asyncio.Event()
        task = asyncio.create_task(drain())
        await arrived.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(scenario())
    assert peripheral.writes[-1] == polar_pmd.STOP
    assert peripheral.open == 0


def test_a_link_that_hangs_does_not_hold_up_the_way_out() -> None:
    class Hanging(Peripheral):
        def __call__(self, *args: Any, **options: Any) -> Link:
            link = super().__call__(*args, **options)

            async def hang() -> None:
                await asyncio.Event().wait()

            link.disconnect = hang  # type: ignore[method-assign]
            return link

    source, _ = source_of(Hanging([FRAME]))
    assert len(take(source, 1)) == 1


@pytest.mark.parametrize(
    ("sensor", "info", "message"),
    [
        (CHEST, bytes(polar_pmd.Features(b"\x04")), "chest: is not what it was paired as: .*expected bit 0"),
        (WRIST, bytes(open_eda.Info(boot_id=7, rate_mhz=4000)), "wrist: sends 4 Hz.*where 8.*is expected; set"),
    ],
)
def test_another_sensor_than_paired_is_an_error(sensor: Sensor, info: bytes, message: str) -> None:
    peripheral = Peripheral([FRAME], info=info)
    source, _ = source_of(peripheral, sensor)
    with pytest.raises(SourceError, match=message):
        take(source, 1)
    assert peripheral.open == 0
