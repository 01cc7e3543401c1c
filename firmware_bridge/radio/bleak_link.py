"""One sensor connected through bleak, as a GattClient.

Knows nothing of scanning, of adapters or of what is said to the sensor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.bleak_errors import radio_error
from firmware_bridge.radio.bounded import bounded


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each call may take, s: BlueZ may never answer one."""

    request: float = 10.0
    """One read, write or subscription; a first one may have to pair."""
    unsubscribe: float = 2.0
    pair: float = 30.0
    """SMP's own timeout (Core v5.4, vol 3, part H, 3.4)."""
    disconnect: float = 4.0
    """BlueZ waits 2 s by itself."""


FALSE_STARTS = 4
"""Links that end as soon as they are made, in one attempt: of radio noise one or two; a lost bond makes them all."""
MIN_MTU = 23
"""ATT's default (Core v5.4, vol 3, part G, 5.2.1)."""

DEFAULT_LIMITS = Limits()

_log = logging.getLogger(__name__)


class BleakLink:
    """One link, from its first attempt to its end; ``ended`` is called once when it is let go of."""

    def __init__(
        self,
        address: str,
        on_disconnect: Callable[[], None],
        ended: Callable[[BleakLink], None],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.address = address
        self.limits = limits
        self.path = ""
        """D-Bus path of the device."""
        self.false_starts = 0
        """How often the link ended before it stood."""
        self.give_up: Callable[[], object] = lambda: None
        """Called when these are too many: bleak would try on and on."""
        self._client: BleakClient | None = None
        self._on_disconnect: Callable[[], None] | None = on_disconnect
        self._ended = ended
        self._subscribed: set[str] = set()
        self._over = False

    @property
    def services(self) -> frozenset[str]:
        """UUIDs of the services it offers, 128-bit, lower case."""
        return frozenset(service.uuid.lower() for service in self._connected().services)

    @property
    def mtu(self) -> int:
        """ATT MTU negotiated, as BlueZ's property tells it (5.62 or newer); bleak's own figure is a guess."""
        characteristics = self._connected().services.characteristics.values()
        return max((_mtu(characteristic) for characteristic in characteristics), default=MIN_MTU)

    def established(self, client: BleakClient) -> None:
        """The connection stands; raises RadioError where it has ended meanwhile."""
        self._client = client
        details = next((characteristic.obj for characteristic in client.services.characteristics.values()), ("",))
        self.path = str(details[0]).partition("/service")[0]
        if not client.is_connected or not client.services.services:
            self._on_disconnect = None
            raise RadioError(self.address, RadioFault.LINK, "the link ended as it was made")

    def gone(self, client: BleakClient | None = None) -> None:
        """The link has ended, or, before it stands, an attempt at it has."""
        if self._client is None:
            self.false_starts += 1
            if self.false_starts == FALSE_STARTS:
                self.give_up()
            return
        self._over = True
        if self._on_disconnect is not None:
            callback, self._on_disconnect = self._on_disconnect, None
            callback()

    async def read(self, uuid: str) -> bytes:
        """Value of a characteristic."""
        async with self._request("read", uuid) as (client, characteristic):
            return bytes(await client.read_gatt_char(characteristic))

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        """Write a characteristic."""
        async with self._request("write", uuid) as (client, characteristic):
            await client.write_gatt_char(characteristic, data, response=response)

    async def subscribe(self, uuid: str, callback: Callable[[bytes], None]) -> None:
        """Have BlueZ notify (StartNotify: AcquireNotify crashes bluetoothd); a second time writes the CCC anew."""

        def hear(_: BleakGATTCharacteristic, data: bytearray) -> None:
            if not self._over:
                callback(bytes(data))

        if uuid in self._subscribed:
            await self._unsubscribe(uuid)
        async with self._request("subscribe to", uuid) as (client, characteristic):
            self._subscribed.add(uuid)
            await client.start_notify(characteristic, hear, bluez={"use_start_notify": True})

    async def pair(self) -> None:
        """Pair and bond, unless bonded already."""
        client = self._connected()
        try:
            await bounded(client.pair(), self.limits.pair)
        except Exception as error:
            failed = radio_error(self.address, error, "pair")
            fault = RadioFault.AUTHENTICATION if failed.fault is RadioFault.TIMEOUT else failed.fault
            raise RadioError(self.address, fault, failed.reason) from error

    async def disconnect(self) -> None:
        """Let go of the link; a second call does nothing. Never raises."""
        client = self._client
        if client is not None:
            self.gone()
        self._client = None
        self._ended(self)
        if client is not None:
            try:
                await bounded(client.disconnect(), self.limits.disconnect)
            except Exception as error:  # BlueZ or the link may be gone: bleak has closed its bus in any case
                _log.debug("%s: not disconnected in good order: %r", self.address, error)

    async def _unsubscribe(self, uuid: str) -> None:
        """BlueZ refuses a second StartNotify of one client."""
        self._subscribed.discard(uuid)
        client = self._connected()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self.limits.unsubscribe):
                await client.stop_notify(self._characteristic(client, uuid))

    @contextlib.asynccontextmanager
    async def _request(self, doing: str, uuid: str) -> AsyncIterator[tuple[BleakClient, BleakGATTCharacteristic]]:
        """Client and characteristic within a limit; any failure inside is a RadioError."""
        client = self._connected()
        characteristic = self._characteristic(client, uuid)
        try:
            async with asyncio.timeout(self.limits.request):
                yield client, characteristic
        except Exception as error:
            what = "the link ended" if self._over else f"{doing} {uuid}"
            raise radio_error(self.address, error, what) from error

    def _connected(self) -> BleakClient:
        if self._client is None or self._over:
            raise RadioError(self.address, RadioFault.LINK, "not connected")
        return self._client

    def _characteristic(self, client: BleakClient, uuid: str) -> BleakGATTCharacteristic:
        """The first of that UUID: several are allowed, and some sensors repeat the battery's."""
        found = [each for each in client.services.characteristics.values() if each.uuid.lower() == uuid.lower()]
        if not found:
            raise RadioError(self.address, RadioFault.GATT, f"has no characteristic {uuid}")
        return min(found, key=lambda each: each.handle)


def _mtu(characteristic: BleakGATTCharacteristic) -> int:
    details = characteristic.obj
    told = details[1].get("MTU") if isinstance(details, tuple) and len(details) > 1 else None
    return int(told) if told else MIN_MTU
