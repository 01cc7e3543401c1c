"""What all sensors share of the radio: the Central, the repairs of the ladder, and who streams.

Knows nothing of streams or protocols. ``Repairs`` is the seam to BlueZ; a simulated radio has none, and is then only
connected to anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from device.sources.ladder import Rung, Shared
from firmware_bridge.errors import RadioError
from firmware_bridge.radio.types import Central

OFF_S = 1.0
"""How long the adapter stays off in a power cycle: what hangs in its controller is to end."""
SETTLE_S = 2.0
"""After a power cycle or a restart, before the first scan: BlueZ loads its adapters and bonds."""

_log = logging.getLogger(__name__)


class Repairs(Protocol):
    """What can be done to the radio. Everything raises RadioError."""

    async def adapter_name(self) -> str:
        """Name and address of the adapter in use, for people."""

    async def bonded(self, address: str) -> bool:
        """Whether this host holds a bond with the sensor."""

    def end_of_link(self, address: str) -> tuple[bool, str]:
        """Of the sensor's last link: whether it ended for a lost bond, and what BlueZ says of its end."""

    async def clear(self, address: str) -> None:
        """End a stale link, and forget the sensor unless bonded."""

    async def unbond(self, address: str) -> None:
        """Forget the sensor, bond and all."""

    async def power(self, on: bool) -> None:
        """Switch the adapter."""

    async def restart_service(self) -> None:
        """Ask systemd to restart bluetooth.service."""

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call back when an adapter or BlueZ has come or gone; call what comes back to end it."""


Agent = Callable[[str], AbstractAsyncContextManager[object]]
"""Gives a context in which BlueZ has an agent for the sensor of an address, so that pairing needs nobody."""


class Radio:
    """One radio for all sensors. Without ``agent`` nothing is paired."""

    def __init__(self, central: Central, repairs: Repairs | None = None, *, agent: Agent | None = None) -> None:
        self.central = central
        self.repairs = repairs
        self.agent = agent
        self.shared = Shared()
        self._streaming: set[str] = set()
        self._repairing = asyncio.Lock()
        self.changes = 0
        """How often an adapter or BlueZ has come."""
        self._changed = asyncio.Event()
        self._unwatch = repairs.watch(self._change) if repairs else lambda: None

    def close(self) -> None:
        """Stop watching; the Central and the repairs are closed by who opened them."""
        self._unwatch()

    def streams(self, name: str, does: bool) -> None:
        """A sensor streams, or does not."""
        (self._streaming.add if does else self._streaming.discard)(name)

    def alone(self, name: str) -> bool:
        """Whether no other sensor streams."""
        return not self._streaming - {name}

    async def wait(self, seconds: float, seen: int) -> None:
        """Wait, unless the radio changes, or has changed since ``changes`` was ``seen``."""
        if self.changes == seen:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def adapter_name(self) -> str:
        """Adapter in use; empty where it cannot be told."""
        try:
            return await self.repairs.adapter_name() if self.repairs else ""
        except RadioError:
            return ""

    async def bonded(self, address: str) -> bool | None:
        """Whether this host holds a bond; None where it cannot be told."""
        try:
            return await self.repairs.bonded(address) if self.repairs else None
        except RadioError:
            return None

    def end_of_link(self, address: str) -> tuple[bool, str]:
        """Whether the last link ended for a lost bond, and what is said of its end."""
        return self.repairs.end_of_link(address) if self.repairs else (False, "")

    async def unbond(self, address: str) -> bool:
        """Drop the host's side of a bond, if there is one; whether there was.

        Raises RadioError where BlueZ does not answer: a connection with a bond that one side has lost is no use.
        """
        if self.repairs is None or not await self.repairs.bonded(address):
            return False
        await self.repairs.unbond(address)
        return True

    async def climb(self, rung: Rung, address: str) -> str:
        """Do what a rung says, for everyone at once; what could not be done, empty where all went well."""
        if self.repairs is None:
            return ""
        try:
            async with self._repairing:
                await self._do(rung, address, self.repairs)
        except RadioError as error:
            _log.warning(
                "%s: could not %s: %s", address, rung.value, error, extra={"rung": rung.value, "address": address}
            )
            return str(error)
        return ""

    async def _do(self, rung: Rung, address: str, repairs: Repairs) -> None:
        now_s = asyncio.get_running_loop().time()
        if not self.shared.may(rung, now_s):  # another sensor has just had it done
            return
        self.shared.did(rung, now_s)
        match rung:
            case Rung.CLEAR:
                await repairs.clear(address)
            case Rung.POWER_ON:
                await repairs.power(True)
            case Rung.POWER:
                await repairs.power(False)
                await asyncio.sleep(OFF_S)
                await repairs.power(True)
                await asyncio.sleep(SETTLE_S)
            case Rung.SYSTEMD:
                await repairs.restart_service()
                await asyncio.sleep(SETTLE_S)

    def _change(self) -> None:
        self.changes += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
