"""The machine's own adapter as a Central: bleak with bleak-retry-connector over BlueZ.

Knows nothing of protocols, nor when a connection is worth another attempt. Every await has a limit, every failure is a
RadioError, and a loss of BlueZ that nobody reports (bluetoothd killed) ends every link at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from bleak import BleakClient
from bleak.backends.bluezdbus.version import BlueZFeatures
from bleak.backends.device import BLEDevice
from bleak_retry_connector import establish_connection

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.bleak_bus import close_bleak_bus, drop_bleak_bus
from firmware_bridge.radio.bleak_errors import radio_error
from firmware_bridge.radio.bleak_link import DEFAULT_LIMITS, FALSE_STARTS, BleakLink, Limits
from firmware_bridge.radio.bleak_scan import SharedScan
from firmware_bridge.radio.bluez import BOND_LOST, Adapter, Bluez, Change, KnownDevice
from firmware_bridge.radio.bounded import bounded
from firmware_bridge.radio.types import Advertisement, Central, GattClient

SEARCH_SHARE = 2 / 3
"""Part of a connection's limit that may go into hearing the sensor; connecting takes 1 to 4 s."""
ATTEMPTS = 2
"""Of establish_connection: the second is for the aborts that radio noise causes; more are the caller's to decide."""
NEWS_S = 0.2
"""The end of BlueZ and the failure of a call to it come over two connections to the bus, in any order."""
_GONE = frozenset({Change.GONE, Change.ADAPTER_GONE, Change.POWERED_OFF})

_log = logging.getLogger(__name__)


def bleak_central(
    adapter: str | None = None, *, bluez: Bluez | None = None, limits: Limits = DEFAULT_LIMITS
) -> Central:
    """The Central of an adapter, told by its address (``hci0`` works too, but moves); None: the first powered one.

    ``bluez`` is shared where the caller has one open. Opens nothing before it is used.
    """
    return BleakCentral(adapter, bluez, limits)


class BleakCentral:
    """One adapter."""

    def __init__(self, adapter: str | None, bluez: Bluez | None, limits: Limits) -> None:
        self._wanted = adapter
        self._limits = limits
        self._bluez = bluez or Bluez()
        self._owns_bluez = bluez is None
        self._unwatch = self._bluez.watch(self._changed)
        self._scan = SharedScan()
        self._links: set[BleakLink] = set()
        self._attempts: dict[str, asyncio.Future[None]] = {}
        self._bonded_attempts: set[str] = set()
        """Addresses of bonded sensors that are being connected to."""
        self._fatal_attempts: set[str] = set()
        """Those during which bluetoothd ended."""

    @property
    def scanning(self) -> bool:
        """Whether the radio scans now."""
        return self._scan.running

    def scan(self) -> AbstractAsyncContextManager[AsyncIterator[Advertisement]]:
        """Scanning while inside, together with whoever else does."""
        return self._scanning()

    @contextlib.asynccontextmanager
    async def _scanning(self) -> AsyncIterator[AsyncIterator[Advertisement]]:
        adapter = await self._adapter()

        async def heard() -> AsyncGenerator[Advertisement, None]:
            while True:
                item = await inbox.get()
                if isinstance(item, RadioError):
                    raise item
                yield item.advertisement

        async with self._scan.listening(adapter) as inbox, contextlib.aclosing(heard()) as advertisements:
            yield advertisements

    async def connect(self, address: str, *, limit_s: float, on_disconnect: Callable[[], None]) -> GattClient:
        """Hear the sensor, or adopt its link, and connect; raises RadioError within ``limit_s``."""
        assert address not in self._attempts, f"{address}: one connection at a time"
        link = BleakLink(address, on_disconnect, self._links.discard, self._limits)
        attempt = asyncio.ensure_future(self._connect(link, limit_s))
        self._attempts[address] = attempt
        link.give_up = attempt.cancel
        try:
            await bounded(attempt, limit_s)
        except BaseException as error:
            await link.disconnect()
            if isinstance(error, Exception):
                if address in self._bonded_attempts:
                    await asyncio.sleep(NEWS_S)
                raise self._explained(link, radio_error(address, error, "connect")) from error
            raise
        finally:
            del self._attempts[address]
            self._bonded_attempts.discard(address)
            self._fatal_attempts.discard(address)
        self._links.add(link)
        return link

    async def forget(self, address: str) -> None:
        """Drop the host's bond and all it remembers of the sensor."""
        await self._bluez.remove_device(address, bonded_too=True)

    async def close(self) -> None:
        """Stop scanning, end every link, and close every connection to the bus."""
        self._unwatch()
        await self._scan.close()
        await asyncio.gather(*(link.disconnect() for link in tuple(self._links)))
        await close_bleak_bus()
        if self._owns_bluez:
            await self._bluez.close()

    async def _adapter(self) -> Adapter:
        """The adapter, looked up each time: it may have come back under another name. Powered, or RadioError."""
        adapter = await self._bluez.adapter(self._wanted)
        if not adapter.powered:
            raise RadioError(adapter.name, RadioFault.POWERED_OFF, "the adapter is switched off")
        return adapter

    async def _connect(self, link: BleakLink, limit_s: float) -> None:
        adapter = await self._adapter()
        self._bluez.forget_reason(link.address)
        device = await self._adopted(link.address) or await self._found(link.address, adapter, limit_s * SEARCH_SHARE)
        # bleak asks `bluetoothctl --version` before its first connection, and where that is cancelled every later
        # connection waits for its answer for ever.
        BlueZFeatures.checked_bluez_version = True
        props = device.details.get("props", {}) if isinstance(device.details, dict) else {}
        if props.get("Paired"):
            self._bonded_attempts.add(link.address)
        client = await establish_connection(
            BleakClient, device, link.address, link.gone, max_attempts=ATTEMPTS, use_services_cache=False
        )
        link.established(client)

    async def _adopted(self, address: str) -> BLEDevice | None:
        """The link that a dead process left: its sensor does not advertise. One without services is ended."""
        for device in await self._bluez.devices(address):
            if not device.connected:
                continue
            if device.resolved:
                _log.info("%s is connected already: taking that link over", address, extra={"address": address})
                return _ble_device(device)
            await self._bluez.disconnect_device(device)
        return None

    async def _found(self, address: str, adapter: Adapter, limit_s: float) -> BLEDevice:
        """Scan until it is heard."""
        others: set[str] = set()
        try:
            async with self._scan.listening(adapter) as inbox, asyncio.timeout(limit_s):
                while True:
                    item = await inbox.get()
                    if isinstance(item, RadioError):
                        raise item
                    if item.advertisement.address == address:
                        return item.device
                    others.add(item.advertisement.address)
        except TimeoutError:
            reason = f"not heard within {limit_s:.0f} s, {len(others)} other devices were"
            raise RadioError(address, RadioFault.NOT_FOUND, reason) from None

    def _explained(self, link: BleakLink, error: RadioError) -> RadioError:
        """The same, or what is known besides: BlueZ 5.80 tells of a lost bond."""
        reason, text = self._bluez.disconnect_reason(link.address)
        if reason == BOND_LOST:
            return RadioError(link.address, RadioFault.AUTHENTICATION, f"the sensor has lost its bond ({text})")
        if link.address in self._fatal_attempts:
            reason = "bluetoothd ended while connecting, as it does on Linux 6.1 where the sensor has lost its bond"
            return RadioError(link.address, RadioFault.AUTHENTICATION, reason)
        if link.false_starts >= FALSE_STARTS:
            times = f"{link.false_starts} times in a row"
            return RadioError(link.address, RadioFault.LINK, f"the link ends as soon as it is made, {times}")
        return error

    def _changed(self, change: Change, path: str) -> None:
        """End what has ended, also where BlueZ cannot say so any more."""
        if change in _GONE:
            self._scan.fail(path, RadioError(path or "bluetooth", _fault_of(change), change.value))
        if change is Change.REFUSED and (attempt := self._attempts.get(path)) is not None:
            attempt.cancel()  # bleak would try on and on
        if change is Change.GONE:
            drop_bleak_bus()
            self._fatal_attempts |= self._bonded_attempts
            for address in self._bonded_attempts:
                self._attempts[address].cancel()  # the next one would end BlueZ again
        ending = (Change.GONE, Change.ADAPTER_GONE, Change.DEVICE_GONE)
        for link in tuple(self._links) if change in ending else ():
            if link.path.startswith(path):
                link.gone()


def _fault_of(change: Change) -> RadioFault:
    faults = {Change.ADAPTER_GONE: RadioFault.NO_ADAPTER, Change.POWERED_OFF: RadioFault.POWERED_OFF}
    return faults.get(change, RadioFault.NO_BLUEZ)


def _ble_device(device: KnownDevice) -> BLEDevice:
    name = device.properties.get("Name")
    return BLEDevice(device.address, name, {"path": device.path, "props": dict(device.properties)})
