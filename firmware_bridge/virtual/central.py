"""A simulated radio with virtual sensors within reach: the Central of ``radio/types.py`` without radio, root or BlueZ.

Knows nothing of protocols. Both ends are real Bluetooth hosts (bumble) over an in-process link: GATT, pairing and
encryption happen as over the air.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

from bumble import core
from bumble.att import ATT_Error, ErrorCode
from bumble.core import UUID, AdvertisingData
from bumble.device import Advertisement as Heard
from bumble.device import Connection, Device, DeviceConfiguration, Peer
from bumble.gatt_client import CharacteristicProxy
from bumble.hci import Address, HCI_Error, HCI_LE_Create_Connection_Cancel_Command
from bumble.host import Host
from bumble.keys import MemoryKeyStore
from bumble.pairing import PairingConfig, PairingDelegate

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.types import Advertisement
from firmware_bridge.virtual.air import Air, AirController
from firmware_bridge.virtual.board import Say
from firmware_bridge.virtual.sensors import VirtualSensor
from firmware_bridge.virtual.serve import sensors_on
from firmware_bridge.virtual.spec import SensorSpec, parse

ADDRESS = "C0:AF:FE:00:00:01"
"""Of the simulated adapter."""
ADVERTISE_MS = 20.0
"""Between advertisements of a sensor: the shortest interval there is (Core 5.4, Vol 6, Part B, 4.4.2.2)."""
MTU = 517
"""What Linux asks for."""
ENCRYPT_S = 5.0
"""Limit of encrypting with a bond: a few packets."""

EnterPasskey = Callable[[], Awaitable[int | None]]
"""Asked for the passkey a sensor shows; None: do not pair."""

_T = TypeVar("_T")
_UNAUTHORISED = {
    ErrorCode.INSUFFICIENT_AUTHENTICATION,
    ErrorCode.INSUFFICIENT_ENCRYPTION,
    ErrorCode.INSUFFICIENT_AUTHORIZATION,
}


class _Keyboard(PairingDelegate):
    """What the central can ask a person; without a person, Just Works alone."""

    def __init__(self, enter: EnterPasskey | None) -> None:
        keys = PairingDelegate.KeyDistribution.DISTRIBUTE_ENCRYPTION_KEY
        capability = PairingDelegate.NO_OUTPUT_NO_INPUT if enter is None else PairingDelegate.KEYBOARD_INPUT_ONLY
        super().__init__(capability, keys, keys)
        self._enter = enter

    async def get_number(self) -> int | None:
        return None if self._enter is None else await self._enter()


class SimulatedClient:
    """One connected virtual sensor: the GattClient of ``radio/types.py``."""

    def __init__(self, connection: Connection, bonded: Callable[[], bool]) -> None:
        self._connection = connection
        self._bonded = bonded
        self._peer = Peer(connection)
        self._linked = True
        self._on_disconnect: Callable[[], None] | None = None
        connection.once("disconnection", self._ended)

    def _ended(self, _reason: int) -> None:
        self._linked = False
        if self._on_disconnect is not None:
            self._on_disconnect()

    async def open(self, on_disconnect: Callable[[], None]) -> None:
        """Once, after connecting: encryption where there is a bond, MTU, services; from then on ends are told of."""
        if self._bonded():
            await self._do(asyncio.wait_for(self._connection.encrypt(), ENCRYPT_S))
        await self._do(self._peer.request_mtu(MTU))
        await self._do(self._peer.discover_services())
        await self._do(self._peer.discover_characteristics())
        self._on_disconnect = on_disconnect

    @property
    def services(self) -> frozenset[str]:
        """UUIDs, 128-bit, lower case."""
        return frozenset(_full(service.uuid) for service in self._peer.services)

    @property
    def mtu(self) -> int:
        """ATT MTU negotiated."""
        return self._connection.att_mtu

    async def read(self, uuid: str) -> bytes:
        """Value of a characteristic."""
        return bytes(await self._do(self._peer.read_value(self._characteristic(uuid))))

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        """Write a characteristic."""
        await self._do(self._peer.write_value(self._characteristic(uuid), data, with_response=response))

    async def subscribe(self, uuid: str, callback: Callable[[bytes], None]) -> None:
        """Call back with every notification or indication, until the link ends."""
        await self._do(self._peer.subscribe(self._characteristic(uuid), lambda value: callback(bytes(value))))

    async def pair(self) -> None:
        """Pair and bond, unless bonded already."""
        if not self._bonded():
            await self._do(self._connection.pair())
        elif not self._connection.is_encrypted:
            await self._do(self._connection.encrypt())

    async def disconnect(self) -> None:
        """Let go of the link; a second call does nothing."""
        if self._linked:
            await self._do(self._connection.disconnect())

    def _characteristic(self, uuid: str) -> CharacteristicProxy[Any]:
        if found := self._peer.get_characteristics_by_uuid(UUID(uuid)):
            return found[0]
        raise RadioError(self._name, RadioFault.GATT, f"it has no characteristic {uuid}")

    @property
    def _name(self) -> str:
        return self._connection.peer_address.to_string(False)

    async def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """A call of bumble's with RadioError for all that can go wrong; bumble cancels what a lost link interrupts."""
        if not self._linked:
            work.close()
            raise RadioError(self._name, RadioFault.LINK, "the link has ended")
        try:
            return await work
        except (core.BaseBumbleError, TimeoutError) as error:
            raise _radio_error(self._name, error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._linked or (task is not None and task.cancelling()):
                raise
            raise RadioError(self._name, RadioFault.LINK, "the link ended") from None


def _radio_error(what: str, error: Exception) -> RadioError:
    match error:
        case ATT_Error(error_code=code) if code in _UNAUTHORISED:
            return RadioError(what, RadioFault.AUTHENTICATION, "it answers encrypted links only")
        case ATT_Error():
            return RadioError(what, RadioFault.GATT, f"it refuses: {error}")
        case HCI_Error():
            return RadioError(what, RadioFault.AUTHENTICATION, f"it no longer knows the bond ({error})")
        case core.ProtocolError():
            return RadioError(what, RadioFault.AUTHENTICATION, f"pairing fails: {error}")
        case TimeoutError() | core.TimeoutError() | core.CommandTimeoutError():
            return RadioError(what, RadioFault.TIMEOUT, "it does not answer")
    return RadioError(what, RadioFault.LINK, f"the link fails: {error!r}")


class SimulatedCentral:
    """The Central of ``radio/types.py``. Comes up when entered, or by itself when first used."""

    def __init__(self, specs: tuple[SensorSpec, ...], enter_passkey: EnterPasskey | None, say: Say) -> None:
        self._specs, self._say = specs, say
        self._delegate = _Keyboard(enter_passkey)
        self._keys = MemoryKeyStore()
        self._stack = AsyncExitStack()
        self._rise = asyncio.Lock()
        self._listeners: set[asyncio.Queue[Advertisement]] = set()
        self._device: Device | None = None
        self._connecting = asyncio.Lock()
        self.sensors: Mapping[str, VirtualSensor] = {}
        """By id, once it is up: to make things happen to them."""

    async def __aenter__(self) -> SimulatedCentral:
        await self._up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _up(self) -> Device:
        async with self._rise:
            if self._device is None:
                air = Air()
                self.sensors = await self._stack.enter_async_context(
                    sensors_on(air, self._specs, self._say, ADVERTISE_MS)
                )
                self._device = await self._power_on(air)
            return self._device

    async def _power_on(self, air: Air) -> Device:
        host = Host()
        host.controller = AirController("central", air)
        device = Device(config=DeviceConfiguration(name="affectd", address=Address(ADDRESS)), host=host)
        device.keystore = self._keys
        device.pairing_config_factory = lambda _connection: PairingConfig(delegate=self._delegate)
        device.on("advertisement", self._heard)
        await device.power_on()
        return device

    @asynccontextmanager
    async def scan(self) -> AsyncIterator[AsyncIterator[Advertisement]]:
        """Scanning while inside."""
        device, heard = await self._up(), asyncio.Queue[Advertisement]()
        self._listeners.add(heard)
        try:
            if len(self._listeners) == 1:
                await device.start_scanning()
            yield _each(heard)
        finally:
            self._listeners.discard(heard)
            if not self._listeners:
                await device.stop_scanning()

    def _heard(self, heard: Heard) -> None:
        advertisement = _advertisement(heard)
        for listener in self._listeners:
            listener.put_nowait(advertisement)

    async def connect(self, address: str, *, limit_s: float, on_disconnect: Callable[[], None]) -> SimulatedClient:
        """Connect within ``limit_s`` in all."""
        device = await self._up()
        try:
            async with asyncio.timeout(limit_s):
                connection = await self._link(device, address)
                return await _opened(SimulatedClient(connection, lambda: address in self._bonds()), on_disconnect)
        except TimeoutError:
            raise RadioError(address, RadioFault.NOT_FOUND, f"not found within {limit_s:g} s") from None
        except core.BaseBumbleError as error:
            raise RadioError(address, RadioFault.LINK, f"cannot connect: {error!r}") from error

    async def _link(self, device: Device, address: str) -> Connection:
        async with self._connecting:  # a radio makes one link at a time
            try:
                return await device.connect(Address(address), timeout=None)
            except asyncio.CancelledError:  # bumble leaves the controller connecting
                await asyncio.shield(device.send_sync_command_raw(HCI_LE_Create_Connection_Cancel_Command()))
                raise

    def _bonds(self) -> set[str]:
        return {Address(name).to_string(False) for name in self._keys.all_keys}

    async def forget(self, address: str) -> None:
        """Drop the bond."""
        for name in [name for name in self._keys.all_keys if Address(name).to_string(False) == address]:
            await self._keys.delete(name)

    async def close(self) -> None:
        """Switch everything off."""
        if self._device is not None:
            for connection in [*self._device.connections.values()]:
                await connection.disconnect()
            await self._device.power_off()
            self._device = None
        await self._stack.aclose()


async def _opened(client: SimulatedClient, on_disconnect: Callable[[], None]) -> SimulatedClient:
    """The client ready for use, or no link at all."""
    try:
        await client.open(on_disconnect)
    except BaseException:
        await asyncio.shield(client.disconnect())
        raise
    return client


async def _each(heard: asyncio.Queue[Advertisement]) -> AsyncIterator[Advertisement]:
    while True:
        yield await heard.get()


def _full(short: UUID) -> str:
    """128-bit, lower case."""
    return str(uuid.UUID(bytes=bytes(reversed(short.to_bytes(force_128=True)))))


_NAMES = (AdvertisingData.COMPLETE_LOCAL_NAME, AdvertisingData.SHORTENED_LOCAL_NAME)
_UUID_BYTES = {
    AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.COMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS: 2,
    AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
    AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS: 16,
}


def _advertisement(heard: Heard) -> Advertisement:
    name, found = "", list[str]()
    for kind, value in heard.data.ad_structures:
        if kind in _NAMES:
            name = value.decode(errors="replace")
        size = _UUID_BYTES.get(kind, 0)
        whole = len(value) // size * size if size else 0
        found += (_full(UUID.from_bytes(value[at : at + size])) for at in range(0, whole, size or 1))
    return Advertisement(heard.address.to_string(False), name, heard.rssi, tuple(dict.fromkeys(found)))


def simulated_central(
    *sensors: SensorSpec | str,
    seed: int = 0,
    enter_passkey: EnterPasskey | None = None,
    say: Say = lambda _sensor, _event: None,
) -> SimulatedCentral:
    """A radio that hears these sensors (as ``parse`` reads them), for ``async with`` or until ``close``.

    Raises SpecError. ``enter_passkey`` is asked for what a sensor shows; ``say`` is told what happens to sensors.
    """
    specs = (sensor if isinstance(sensor, SensorSpec) else parse(sensor, seed=seed) for sensor in sensors)
    return SimulatedCentral(tuple(specs), enter_passkey, say)
