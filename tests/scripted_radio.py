"""A scripted Central at the seam of ``radio/types.py``: sensors that answer their protocol, and fail as told.

It knows nothing of bleak or BlueZ. Steps of a connection's script: bytes are a notification, a number a wait in
seconds, "gone" drops the link, "stall" waits for the next start of the stream. An exception in place of a script fails
the connection, "hang" keeps it connecting until its limit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.errors import RadioError, RadioFault

CONNECT_S = 1.5
"""How long connecting takes."""
BATTERY = ("0000180f-0000-1000-8000-00805f9b34fb", "00002a19-0000-1000-8000-00805f9b34fb")
Script = Sequence[Any] | Exception | str
STARTED = {
    polar_pmd.START: bytes(polar_pmd.Response(polar_pmd.Op.START, 0, 0)),
    open_eda.START: bytes(open_eda.Response(open_eda.Op.START, 0)),
}
STOPS = (polar_pmd.STOP, open_eda.STOP)


def fault(kind: RadioFault) -> RadioError:
    return RadioError("A0:9E:1A:00:00:01", kind, f"scripted {kind.name}")


class Peripheral:
    """One sensor over all its connections; the n-th connection plays the n-th script, the last one for ever."""

    def __init__(self, *scripts: Script, info: bytes, answers: dict[bytes, bytes] | None = None) -> None:
        self.scripts = list(scripts)
        self.info = info
        self.answers = STARTED if answers is None else answers
        self.battery: int | None = None
        self.hangs: set[str] = set()
        """Calls that never return."""
        self.refuses: dict[str, RadioError] = {}
        """Calls that fail."""
        self.writes: list[bytes] = []
        self.links: list[Link] = []
        self.attempts_s: list[float] = []
        self.paired = 0

    @property
    def connected(self) -> int:
        return sum(link.connected for link in self.links)


class Link:
    """One connection to a Peripheral."""

    def __init__(self, peripheral: Peripheral, script: Sequence[Any], gone: Callable[[], None]) -> None:
        self.peripheral = peripheral
        self.steps = list(script)
        self.gone = gone
        self.connected = True
        self.mtu = 247
        self.callbacks: dict[str, Callable[[bytes], None]] = {}
        self._player: asyncio.Task[None] | None = None

    @property
    def services(self) -> frozenset[str]:
        return frozenset({BATTERY[0]} if self.peripheral.battery is not None else ())

    async def read(self, uuid: str) -> bytes:
        await self._call("read")
        return bytes([self.peripheral.battery or 0]) if uuid == BATTERY[1] else self.peripheral.info

    async def subscribe(self, uuid: str, callback: Callable[[bytes], None]) -> None:
        await self._call("subscribe")
        self.callbacks[uuid] = callback

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        await self._call("stop" if data in STOPS else "write")
        self.peripheral.writes.append(data)
        if data in self.peripheral.answers:
            self.callbacks[uuid](self.peripheral.answers[data])
        if data in STARTED:
            self._player = asyncio.create_task(self._play())

    async def pair(self) -> None:
        await self._call("pair")
        self.peripheral.paired += 1

    async def disconnect(self) -> None:
        if self.connected and "disconnect" in self.peripheral.hangs:
            await asyncio.Event().wait()
        self.drop()

    def drop(self) -> None:
        if self.connected:
            self.connected = False
            if self._player is not None and self._player is not asyncio.current_task():
                self._player.cancel()
            self.gone()

    def send(self, data: bytes) -> None:
        """On the stream's characteristic, whatever the state of the link."""
        uuids = (polar_pmd.DATA_UUID, open_eda.DATA_UUID)
        next(callback for uuid, callback in self.callbacks.items() if uuid in uuids)(data)

    async def _call(self, name: str) -> None:
        if not self.connected:
            raise fault(RadioFault.LINK)
        if name in self.peripheral.refuses:
            raise self.peripheral.refuses[name]
        if name in self.peripheral.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)

    async def _play(self) -> None:
        while self.steps:
            match self.steps.pop(0):
                case bytes(data):
                    await asyncio.sleep(0.5)
                    self.send(data)
                case float(seconds):
                    await asyncio.sleep(seconds)
                case "stall":
                    return
                case "gone":
                    self.drop()
                    return


class ScriptedCentral:
    """A radio with peripherals in reach, by address."""

    def __init__(self, **peripherals: Peripheral) -> None:
        self.peripherals = {address(name): peripheral for name, peripheral in peripherals.items()}

    def scan(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext()

    async def connect(self, address: str, *, limit_s: float, on_disconnect: Callable[[], None]) -> Link:
        peripheral = self.peripherals[address]
        loop = asyncio.get_running_loop()
        peripheral.attempts_s.append(loop.time())
        script = peripheral.scripts.pop(0) if len(peripheral.scripts) > 1 else peripheral.scripts[0]
        if isinstance(script, Exception):
            await asyncio.sleep(0.1)
            raise script
        if script == "hang":
            await asyncio.sleep(limit_s)
            raise fault(RadioFault.TIMEOUT)
        await asyncio.sleep(CONNECT_S)
        link = Link(peripheral, script, on_disconnect)
        peripheral.links.append(link)
        return link

    async def forget(self, address: str) -> None:
        pass

    async def close(self) -> None:
        pass


def address(name: str) -> str:
    return {"chest": "A0:9E:1A:00:00:01", "wrist": "A0:9E:1A:00:00:02"}[name]


class ScriptedRepairs:
    """BlueZ's repairs, written down; ``cures`` says what each does to the sensors."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.bonds: set[str] = set()
        self.end = (False, "")
        self.cures: dict[str, Callable[[], None]] = {}
        self.refuses: dict[str, RadioError] = {}
        self.changed: Callable[[], None] = lambda: None

    async def adapter_name(self) -> str:
        return "hci0 (F0:F0:F0:F0:F0:01)"

    async def bonded(self, address: str) -> bool:
        return address in self.bonds

    def end_of_link(self, address: str) -> tuple[bool, str]:
        return self.end

    async def clear(self, address: str) -> None:
        self._do("clear")

    async def unbond(self, address: str) -> None:
        self._do("unbond")
        self.bonds.discard(address)

    async def power(self, on: bool) -> None:
        self._do("on" if on else "off")

    async def restart_service(self) -> None:
        self._do("systemd")

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        self.changed = changed
        return lambda: None

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what in self.refuses:
            raise self.refuses[what]
        self.cures.get(what, lambda: None)()
