"""What BlueZ says of itself over D-Bus, and what can be repaired that way: adapters, devices, bonds, the service.

Knows nothing of GATT, sensors or when a repair is due. The names are those of BlueZ's doc/org.bluez.*.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dbus_fast import BusType, DBusError, InvalidAddressError, Message, MessageType, Variant, unpack_variants
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.faults import dbus_fault, os_fault

BLUEZ = "org.bluez"
ADAPTER = "org.bluez.Adapter1"
DEVICE = "org.bluez.Device1"
PROPERTIES = "org.freedesktop.DBus.Properties"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
BUS = "org.freedesktop.DBus"
BOND_LOST = "org.bluez.Reason.Authentication"
"""Why a link ended where the sensor had no key for it (signal Disconnected, BlueZ 5.80 or newer)."""
CALL_S = 5.0
"""Limit of a call: BlueZ answers from memory, or after a disconnection of 2 s. A bluetoothd that hangs never does."""
POWER_S = 10.0
"""Limit of switching an adapter: some load their firmware then."""
RESTART_S = 30.0
"""Limit of restarting the service: systemd waits for the old one to end."""
_MODALIAS = re.compile(r"usb:v1D6Bp0246d([0-9A-F]{2})([0-9A-F]{2})")
"""BlueZ's own product code (main.conf, DeviceID) ends in its version, major and minor: d0542 is 5.66."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """One radio."""

    path: str
    """D-Bus path; its end is the kernel's name, which may change when the radio comes back."""
    address: str
    """Its own Bluetooth address, upper case."""
    powered: bool
    modalias: str = ""

    @property
    def name(self) -> str:
        """The kernel's name, ``hci0``."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """One device that BlueZ knows of, connected, bonded or just heard."""

    path: str
    address: str
    adapter: str
    """Path of its adapter."""
    connected: bool
    bonded: bool
    resolved: bool
    """Whether its services are known."""
    properties: Mapping[str, Any]
    """All of Device1, unpacked."""


class Change(Enum):
    """What has changed about the radio."""

    GONE = "BlueZ is gone"
    BACK = "BlueZ is back"
    ADAPTER_GONE = "the adapter is gone"
    ADAPTER_BACK = "an adapter is here"
    POWERED_OFF = "the adapter is switched off"
    POWERED_ON = "the adapter is switched on"
    DEVICE_GONE = "BlueZ has removed the device"
    REFUSED = "the sensor has no key for its bond"


Watcher = Callable[[Change, str], None]
"""Called with what has changed and the D-Bus path it is about (empty: BlueZ as a whole; REFUSED: the address)."""

_RULES = (
    f"type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{BLUEZ}'",
    f"type='signal',sender='{BLUEZ}',interface='{PROPERTIES}',member='PropertiesChanged',arg0='{ADAPTER}'",
    f"type='signal',sender='{BLUEZ}',interface='{OBJECTS}'",
    f"type='signal',sender='{BLUEZ}',interface='{DEVICE}',member='Disconnected'",
)


class Bluez:
    """One connection to the system bus, opened by the first call and again after a loss of the bus."""

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._opening = asyncio.Lock()
        self._guard: asyncio.Task[None] | None = None
        self._watchers: list[Watcher] = []
        self._reasons: dict[str, tuple[str, str]] = {}

    async def open(self) -> None:
        """Connect to the bus, unless connected; raises RadioError. BlueZ itself may be absent."""
        async with self._opening:
            if self._bus is None or not self._bus.connected:
                await self._release()
                self._bus = await self._connect()
                self._guard = asyncio.create_task(self._guarding(self._bus), name="D-Bus guard")

    async def close(self) -> None:
        """Let go of the bus."""
        self._watchers.clear()
        await self._release()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Be told of every change while the bus is open; call what comes back to end it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher) if watcher in self._watchers else None

    async def running(self) -> bool:
        """Whether bluetoothd is on the bus."""
        body = await self._call(BUS, "/org/freedesktop/DBus", BUS, "NameHasOwner", "s", [BLUEZ])
        return bool(body[0])

    async def adapters(self) -> tuple[Adapter, ...]:
        """Every adapter, in the order of their names; raises RadioError."""
        found = [_adapter(path, each[ADAPTER]) for path, each in (await self.objects()).items() if ADAPTER in each]
        return tuple(sorted(found, key=lambda adapter: (len(adapter.path), adapter.path)))

    async def adapter(self, wanted: str | None = None) -> Adapter:
        """The adapter of an address or name, else the first powered one, else the first; raises RadioError."""
        adapters = await self.adapters()
        if wanted is None and adapters:
            return next((adapter for adapter in adapters if adapter.powered), adapters[0])
        for adapter in adapters:
            if wanted is not None and wanted.upper() in (adapter.address, adapter.name.upper()):
                return adapter
        here = ", ".join(f"{adapter.name} ({adapter.address})" for adapter in adapters) or "none"
        raise RadioError(wanted or "bluetooth", RadioFault.NO_ADAPTER, f"no such adapter; there is {here}")

    async def devices(self, address: str | None = None) -> tuple[KnownDevice, ...]:
        """Every device known of, or those of one address (one for each adapter); raises RadioError."""
        found = [_device(path, each[DEVICE]) for path, each in (await self.objects()).items() if DEVICE in each]
        return tuple(device for device in found if address in (None, device.address))

    async def bonded(self, address: str) -> bool:
        """Whether this host holds a bond with a device."""
        return any(device.bonded for device in await self.devices(address))

    async def version(self) -> str | None:
        """BlueZ's version as an adapter's product code tells it; None where main.conf hides it."""
        codes = (_MODALIAS.search(adapter.modalias.replace("bluetooth:", "usb:")) for adapter in await self.adapters())
        return next((f"{int(code[1], 16)}.{int(code[2], 16)}" for code in codes if code), None)

    async def power(self, adapter: Adapter, on: bool) -> None:
        """Switch an adapter; raises RadioError (POWERED_OFF where rfkill holds it)."""
        body = [ADAPTER, "Powered", Variant("b", on)]
        await self._call(BLUEZ, adapter.path, PROPERTIES, "Set", "ssv", body, limit_s=POWER_S)

    async def disconnect_device(self, device: KnownDevice) -> None:
        """End a link, whoever made it; raises RadioError."""
        await self._call(BLUEZ, device.path, DEVICE, "Disconnect")

    async def remove_device(self, address: str, *, bonded_too: bool = False) -> bool:
        """Make BlueZ forget a device; one with a bond only where told. Whether anything was removed."""
        removed = False
        for device in await self.devices(address):
            if not device.bonded or bonded_too:
                await self._call(BLUEZ, device.adapter, ADAPTER, "RemoveDevice", "o", [device.path])
                removed = True
        return removed

    def disconnect_reason(self, address: str) -> tuple[str, str]:
        """Name and text of why the last link ended, as BlueZ 5.80 or newer tells; empty where it does not."""
        return self._reasons.get(address, ("", ""))

    def forget_reason(self, address: str) -> None:
        """A new connection is to be made: the reason of an older end means nothing any more."""
        self._reasons.pop(address, None)

    async def restart_service(self) -> None:
        """Ask systemd to restart bluetooth.service; raises RadioError, NOT_PERMITTED where polkit does not allow it."""
        systemd = "org.freedesktop.systemd1"
        body = ["bluetooth.service", "replace"]
        try:
            await self._call(
                systemd, "/org/freedesktop/systemd1", f"{systemd}.Manager", "RestartUnit", "ss", body, limit_s=RESTART_S
            )
        except RadioError as error:
            remedy = "`systemctl restart bluetooth`, or let this user do it with a polkit rule"
            raise RadioError("bluetooth.service", error.fault, f"not restarted: {error.reason}", remedy) from error

    async def objects(self) -> dict[str, dict[str, dict[str, Any]]]:
        """All of BlueZ's objects: path to interface to properties; raises RadioError."""
        body = await self._call(BLUEZ, "/", OBJECTS, "GetManagedObjects")
        return {path: {name: unpack_variants(props) for name, props in each.items()} for path, each in body[0].items()}

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        limit_s: float = CALL_S,
    ) -> list[Any]:
        """Body of the answer to one method call; raises RadioError and nothing else."""
        await self.open()
        assert self._bus is not None
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body or [],
        )
        try:
            async with asyncio.timeout(limit_s):
                reply = await self._bus.call(message)
        except TimeoutError:
            raise RadioError(destination, RadioFault.TIMEOUT, f"no answer to {member} within {limit_s:g} s") from None
        except (OSError, EOFError) as error:
            raise RadioError("D-Bus", os_fault(error), f"the system bus is lost ({error!r})") from error
        except (AttributeError, DBusError) as error:  # a bus that ended while the call was under way
            raise RadioError("D-Bus", RadioFault.NO_BLUEZ, f"the system bus is lost ({error!r})") from error
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            fault = dbus_fault(str(reply.error_name), text)
            raise RadioError(destination, fault, f"{member}: {text or reply.error_name}")
        return list(reply.body)

    async def _connect(self) -> MessageBus:
        try:
            bus = MessageBus(bus_type=BusType.SYSTEM)
        except InvalidAddressError as error:
            raise RadioError("D-Bus", RadioFault.NO_BLUEZ, f"no system bus: {error}") from error
        try:
            async with asyncio.timeout(CALL_S):
                await bus.connect()
                bus.add_message_handler(self._heard)
                for rule in _RULES:
                    await bus.call(_bus_call("AddMatch", rule))
        except BaseException as error:
            bus.disconnect()
            if (told := _as_radio_error(error)) is not None:
                raise told from error
            raise
        return bus

    async def _release(self) -> None:
        """Close what is open of the bus; never raises. The guard ends with its bus."""
        bus, self._bus = self._bus, None
        guard, self._guard = self._guard, None
        if bus is not None:
            bus.disconnect()
        if guard is not None:
            await asyncio.wait({guard}, timeout=CALL_S)

    async def _guarding(self, bus: MessageBus) -> None:
        """A bus that ends, unless it was let go of, takes with it all that is known of BlueZ."""
        with contextlib.suppress(Exception):  # it replays what ended the bus
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        if self._bus is bus:
            _log.warning("the system bus is lost")
            self._tell(Change.GONE, "")

    def _tell(self, change: Change, path: str) -> None:
        for watcher in tuple(self._watchers):
            try:
                watcher(change, path)
            except Exception:
                _log.exception("a watcher of %s fails", change.value)

    def _heard(self, message: Message) -> None:
        """One signal; anything unforeseen in it is left alone."""
        if message.message_type is not MessageType.SIGNAL:
            return
        match message.member, message.body:
            case "NameOwnerChanged", [name, _, new] if name == BLUEZ:
                self._tell(Change.BACK if new else Change.GONE, "")
            case "InterfacesAdded", [path, interfaces] if ADAPTER in interfaces:
                self._tell(Change.ADAPTER_BACK, path)
            case "InterfacesRemoved", [path, interfaces] if ADAPTER in interfaces:
                self._tell(Change.ADAPTER_GONE, path)
            case "InterfacesRemoved", [path, interfaces] if DEVICE in interfaces:
                self._tell(Change.DEVICE_GONE, path)
            case "PropertiesChanged", [interface, changed, _] if interface == ADAPTER and "Powered" in changed:
                self._tell(Change.POWERED_ON if changed["Powered"].value else Change.POWERED_OFF, message.path or "")
            case "Disconnected", [reason, text]:
                address = _address_of(message.path or "")
                self._reasons[address] = (str(reason), str(text))
                if reason == BOND_LOST:
                    self._tell(Change.REFUSED, address)


def _adapter(path: str, properties: Mapping[str, Any]) -> Adapter:
    address = str(properties.get("Address", "")).upper()
    return Adapter(path, address, bool(properties.get("Powered")), str(properties.get("Modalias", "")))


def _device(path: str, properties: Mapping[str, Any]) -> KnownDevice:
    return KnownDevice(
        path=path,
        address=str(properties.get("Address", "")).upper(),
        adapter=str(properties.get("Adapter", path.rpartition("/")[0])),
        connected=bool(properties.get("Connected")),
        bonded=bool(properties.get("Bonded", properties.get("Paired"))),  # Bonded: BlueZ 5.65 or newer
        resolved=bool(properties.get("ServicesResolved")),
        properties=properties,
    )


def _address_of(path: str) -> str:
    """``/org/bluez/hci0/dev_A0_9E_..`` to its address."""
    return path.rpartition("/dev_")[2].replace("_", ":").upper()


def _bus_call(member: str, argument: str) -> Message:
    path = "/org/freedesktop/DBus"
    return Message(destination=BUS, path=path, interface=BUS, member=member, signature="s", body=[argument])


def _as_radio_error(error: BaseException) -> RadioError | None:
    """What ended the opening of the bus, where it is a failure."""
    if isinstance(error, TimeoutError):
        return RadioError("D-Bus", RadioFault.TIMEOUT, f"the system bus does not answer within {CALL_S:g} s")
    if isinstance(error, OSError | EOFError):
        reason = f"no system bus ({error.strerror if isinstance(error, OSError) else error!r})"
        return RadioError("D-Bus", os_fault(error), reason)
    if isinstance(error, AuthError | DBusError):
        return RadioError("D-Bus", RadioFault.NOT_PERMITTED, f"the system bus refuses this user: {error}")
    return None
