"""The repairs of a link that BlueZ offers, for one adapter.

Knows nothing of when one is due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from firmware_bridge.radio.bluez import BOND_LOST, Bluez, Change

_NEWS = frozenset({Change.BACK, Change.ADAPTER_BACK, Change.POWERED_ON})

_log = logging.getLogger(__name__)


class BluezRepairs:
    """Repairs of the adapter with an address; None: the first powered one, else the first."""

    def __init__(self, bluez: Bluez, adapter: str | None = None) -> None:
        self._bluez = bluez
        self._wanted = adapter

    async def adapter_name(self) -> str:
        """``hci0 (B8:27:..)``."""
        adapter = await self._bluez.adapter(self._wanted)
        return f"{adapter.name} ({adapter.address})"

    async def bonded(self, address: str) -> bool:
        """Whether this host holds a bond with a device."""
        return await self._bluez.bonded(address)

    def end_of_link(self, address: str) -> tuple[bool, str]:
        """Whether the last link ended for a lost bond, and BlueZ's words; it tells neither before 5.80."""
        reason, text = self._bluez.disconnect_reason(address)
        return reason == BOND_LOST, text

    async def clear(self, address: str) -> None:
        """End whatever link there is, and forget the device unless bonded."""
        for device in await self._bluez.devices(address):
            if device.connected:
                await self._bluez.disconnect_device(device)
        if await self._bluez.remove_device(address):
            _log.info("%s: stale state of BlueZ cleared", address, extra={"address": address})

    async def unbond(self, address: str) -> None:
        """Forget the device, bond and all."""
        await self._bluez.remove_device(address, bonded_too=True)

    async def power(self, on: bool) -> None:
        """Switch the adapter."""
        await self._bluez.power(await self._bluez.adapter(self._wanted), on)

    async def restart_service(self) -> None:
        """Ask systemd."""
        await self._bluez.restart_service()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Tell of whatever makes a new attempt worth while."""
        return self._bluez.watch(lambda change, _: changed() if change in _NEWS else None)
