"""In the container: stands in for bluetoothd, as org.bluez on the system bus, with a strap and a wristband in reach.

They are never off: what a packet holds follows from its number alone, and that from the machine's clock, so that
packets which are not received are missing as a real sensor's would be. What happens to a sensor is a line on stdout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_bluez import Characteristic, FakeBluez, FakeSensor

from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.stop import stop_on_signals
from firmware_bridge.virtual.signals import shipped

BONDS = Path("/var/lib/bluetooth")
ECG_SAMPLES, EDA_SAMPLES = 73, 4
ECG, EDA = shipped("ecg-130", 130.0), shipped("eda-8", 8.0)
EDA_INFO = open_eda.Info(boot_id=1)


def ecg_packet(number: int) -> bytes:
    """Stamped with the time of its last sample, ns."""
    first = number * ECG_SAMPLES
    last_s = (first + ECG_SAMPLES - 1) / ECG.sfreq
    return bytes(polar_pmd.EcgFrame(polar_pmd.CLOCK_RESET_TICKS + round(last_s * 1e9), ECG.run(first, ECG_SAMPLES)))


def eda_packet(number: int) -> bytes:
    """Stamped with the time of its first sample."""
    first = number * EDA_SAMPLES
    ticks = round(first / EDA.sfreq * EDA_INFO.clock_hz) % 2**32
    return bytes(open_eda.Data(number % 2**16, ticks, EDA.run(first, EDA_SAMPLES)))


class Wearable:
    """One sensor; ``period_s`` from packet to packet while it streams."""

    def __init__(
        self,
        sensor: FakeSensor,
        data: str,
        period_s: float,
        packet: Callable[[int], bytes],
        answer: Callable[[bytes], bytes],
        commands: tuple[int, int],
    ) -> None:
        self.sensor, self.bluez = sensor, FakeBluez()
        self._data, self._period_s, self._packet, self._answer = data, period_s, packet, answer
        self._start, self._stop = commands
        self._task: asyncio.Task[None] | None = None
        sensor.on_write = self._written

    def _written(self, sensor: FakeSensor, uuid: str, data: bytes) -> None:
        if data[0] in (self._start, self._stop) and self._task is not None:
            self._task.cancel()
        if data[0] == self._start:
            self._task = asyncio.create_task(self._stream())
        if data[0] in (self._start, self._stop):
            print(f"{sensor.name}: {'started' if data[0] == self._start else 'stopped'}", flush=True)
        self.bluez.notify(sensor, uuid, self._answer(data))

    async def _stream(self) -> None:
        """Each packet when its last sample is taken, for as long as there is a link."""
        number = int(time.monotonic() / self._period_s)
        while self.sensor.connected:
            await asyncio.sleep((number + 1) * self._period_s - time.monotonic())
            self.bluez.notify(self.sensor, self._data, self._packet(number))
            number += 1


def strap() -> Wearable:
    """A Polar H10."""
    control = Characteristic(("read", "write", "indicate"), bytes(polar_pmd.Features(bytes([1]))))
    services = {
        polar_pmd.SERVICE_UUID: {polar_pmd.CONTROL_UUID: control, polar_pmd.DATA_UUID: Characteristic(("notify",))}
    }

    def answer(data: bytes) -> bytes:
        return bytes(polar_pmd.Response(data[0], data[1] if len(data) > 1 else 0, 0))

    sensor = FakeSensor("A0:9E:1A:00:00:01", services, name="Polar H10 E2E")
    commands = polar_pmd.Op.START, polar_pmd.Op.STOP
    return Wearable(sensor, polar_pmd.DATA_UUID, ECG_SAMPLES / ECG.sfreq, ecg_packet, answer, commands)


def band() -> Wearable:
    """A home-made wristband of the open profile."""
    services = {
        open_eda.SERVICE_UUID: {
            open_eda.INFO_UUID: Characteristic(("read",), bytes(EDA_INFO)),
            open_eda.DATA_UUID: Characteristic(("notify",)),
            open_eda.STATUS_UUID: Characteristic(("read", "notify"), bytes(open_eda.Status(electrode_off=False))),
            open_eda.CONTROL_UUID: Characteristic(("write", "indicate")),
        }
    }
    sensor = FakeSensor("A0:9E:1A:00:00:02", services, name="Open EDA E2E")
    commands = open_eda.Op.START, open_eda.Op.STOP

    def answer(data: bytes) -> bytes:
        return bytes(open_eda.Response(open_eda.Op(data[0]), open_eda.Result.OK))

    return Wearable(sensor, open_eda.DATA_UUID, EDA_SAMPLES / EDA.sfreq, eda_packet, answer, commands)


class Bluetoothd(FakeBluez):
    """Keeps its bonds over a restart."""

    names = ("org.bluez",)

    def _do_Pair(self, message: Any, sensor: FakeSensor) -> None:  # noqa: N802
        super()._do_Pair(message, sensor)
        (BONDS / sensor.address).touch()


async def serve() -> None:
    """Until SIGTERM."""
    stop, wearables = stop_on_signals(), (strap(), band())
    BONDS.mkdir(exist_ok=True)
    for wearable in wearables:
        wearable.sensor.bonded = (BONDS / wearable.sensor.address).exists()
    async with Bluetoothd(*(wearable.sensor for wearable in wearables)) as bluez:
        for wearable in wearables:
            wearable.bluez = bluez
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve())
