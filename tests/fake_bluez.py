"""A fake org.bluez on a private bus, for the real bleak: adapters, sensors, GATT, and every way BlueZ has to fail.

It knows nothing of affectd. Messages are handled as they come, without introspection, so that a property can be absent,
an answer can never come, and the one who asks is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
</busconfig>
"""
HANG = "hang"
"""A fault: the call is never answered."""
Fault = str | tuple[str, str]
"""HANG, or name and text of a D-Bus error."""
Objects = dict[str, dict[str, dict[str, Variant]]]

ROOT = "/org/bluez"
AGENTS, ADAPTER, DEVICE = "org.bluez.AgentManager1", "org.bluez.Adapter1", "org.bluez.Device1"
SERVICE, CHARACTERISTIC = "org.bluez.GattService1", "org.bluez.GattCharacteristic1"
OBJECTS, PROPERTIES = "org.freedesktop.DBus.ObjectManager", "org.freedesktop.DBus.Properties"
SYSTEMD = "org.freedesktop.systemd1"
IN_PROGRESS = ("org.bluez.Error.InProgress", "Operation already in progress")
ABORTED = ("org.bluez.Error.Failed", "le-connection-abort-by-local")
NO_REPLY = ("org.freedesktop.DBus.Error.NoReply", "Did not receive a reply.")


@contextlib.contextmanager
def private_bus(folder: Path) -> Iterator[None]:
    """A dbus-daemon of our own, which every client in this process takes for the system bus."""
    config, socket = folder / "bus.conf", folder / "bus"
    socket.unlink(missing_ok=True)
    config.write_text(BUS_CONFIG.format(socket=socket))
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"]
    before = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()  # its address: it listens
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={socket}"
        try:
            yield
        finally:
            daemon.terminate()
            os.environ.pop("DBUS_SYSTEM_BUS_ADDRESS")
            if before is not None:
                os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = before


@dataclass
class Characteristic:
    """One characteristic of a fake sensor."""

    flags: tuple[str, ...]
    value: bytes = b""
    secure: bool = False
    """Whether it needs a bond."""


@dataclass(eq=False)
class FakeSensor:
    """One sensor: services by UUID, and what it does on a write (through ``FakeBluez.notify``)."""

    address: str
    services: dict[str, dict[str, Characteristic]]
    on_write: Callable[[FakeSensor, str, bytes], None] = lambda sensor, uuid, data: None
    name: str = "fake"
    in_range: bool = True
    connected: bool = False
    connecting: Message | None = None
    """Connect, not answered yet."""
    bonded: bool = False
    """The host's side of the bond."""
    bond_kept: bool = True
    """The sensor's side of it."""
    mtu: int = 247
    writes: list[tuple[str, bytes]] = field(default_factory=list)
    notifying: dict[str, str] = field(default_factory=dict)
    """Characteristic to who asked for it."""
    sent: int = 0


class FakeBluez:
    """BlueZ with one adapter and any number of sensors."""

    names: tuple[str, ...] = ("org.bluez", SYSTEMD)
    """It stands in for systemd too, which a private bus has none of."""

    def __init__(self, *sensors: FakeSensor, adapter: str = "F0:F0:F0:F0:F0:01", hci: str = "hci0") -> None:
        self.sensors = list(sensors)
        self.address = adapter
        self.hci = hci
        self.powered = True
        self.present = True
        self.silent = False
        """Nothing is sent to the bus any more, as after a SIGSTOP."""
        self.rfkill = False
        self.aborts = 0
        """The next connections that radio noise ends before they are made."""
        self.agent = False
        self.tells_reasons = False
        """Whether it has the signal Disconnected, as BlueZ 5.80 has."""
        self.crashes = False
        """Whether a lost bond takes bluetoothd down, as Linux 6.1 does; it is started again at once."""
        self.crash: asyncio.Task[None] | None = None
        self.calls: Counter[str] = Counter()
        self.discovering: set[str] = set()
        self.restarts = 0
        self._faults: dict[str, list[Fault]] = {}
        self._known: set[str] = set()
        self._resolved: set[str] = set()
        self._bus: MessageBus | None = None
        self._timers: set[asyncio.TimerHandle] = set()

    async def __aenter__(self) -> FakeBluez:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    # What a test does to it.

    async def start(self) -> None:
        """Take the name; what was connected stays so, as the kernel's links do."""
        self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        self._bus.add_message_handler(self._handle)
        for name in self.names:
            await self._bus.request_name(name)

    async def kill(self) -> None:
        """SIGKILL: the name is lost, nobody is told anything."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.discovering.clear()
        bus, self._bus = self._bus, None
        if bus is not None:
            bus.disconnect()
            with contextlib.suppress(Exception):
                await bus.wait_for_disconnect()

    async def restart(self) -> None:
        """A new bluetoothd: links are gone, unbonded devices forgotten."""
        await self.kill()
        for sensor in self.sensors:
            sensor.connected = False
            sensor.notifying.clear()
        self._resolved.clear()
        self._known = {sensor.address for sensor in self.sensors if sensor.bonded}
        await self.start()

    def fail(self, member: str, fault: Fault, times: int = 1) -> None:
        """The next calls of a method end this way."""
        self._faults.setdefault(member, []).extend([fault] * times)

    def drop(self, sensor: FakeSensor, reason: str = "Remote") -> None:
        """The link ends, seen from BlueZ."""
        if not sensor.connected:
            return
        sensor.connected = False
        sensor.notifying.clear()
        path = self.device(sensor)
        if self.tells_reasons:
            self._signal(path, DEVICE, "Disconnected", "ss", [f"org.bluez.Reason.{reason}", "for a test"])
        if path in self._resolved:
            self._changed(path, DEVICE, ServicesResolved=Variant("b", False))
            self._lose_services(sensor)
        self._changed(path, DEVICE, Connected=Variant("b", False))

    def power(self, on: bool) -> None:
        """As by ``bluetoothctl power``."""
        self.powered = on
        if not on:
            self.discovering.clear()
            for sensor in self.sensors:
                self.drop(sensor, "Local")
        self._changed(self.adapter, ADAPTER, Powered=Variant("b", on))

    def unplug(self) -> None:
        """The adapter goes without a word about its links."""
        for path in sorted(self._objects(), reverse=True):
            if path != ROOT:
                self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, list(self._objects()[path])])
        self.present = False
        self.discovering.clear()
        self._known = {sensor.address for sensor in self.sensors if sensor.bonded}
        self._resolved.clear()
        for sensor in self.sensors:
            sensor.connected = False
            sensor.notifying.clear()

    def plug_in(self, hci: str) -> None:
        """It comes back, under whatever name."""
        self.present, self.powered, self.hci = True, True, hci
        for path in sorted(self._objects()):
            self._added(path)

    def leave_connected(self, sensor: FakeSensor) -> None:
        """As a process that died leaves it: connected, its services known, nobody subscribed."""
        self._known.add(sensor.address)
        sensor.connected = True
        self._resolved.add(self.device(sensor))

    def notify(self, sensor: FakeSensor, uuid: str, data: bytes) -> None:
        """Send a notification, if anyone subscribed."""
        if sensor.connected and uuid in sensor.notifying:
            sensor.sent += 1
            self._changed(self._path_of(sensor, uuid), CHARACTERISTIC, Value=Variant("ay", data))

    def later(self, seconds: float, action: Callable[..., None], *args: Any) -> None:
        """Do something later, unless killed by then."""
        timer = asyncio.get_running_loop().call_later(seconds, lambda: (self._timers.discard(timer), action(*args)))
        self._timers.add(timer)

    # Paths and objects.

    @property
    def adapter(self) -> str:
        return f"{ROOT}/{self.hci}"

    def device(self, sensor: FakeSensor) -> str:
        return f"{self.adapter}/dev_{sensor.address.replace(':', '_')}"

    def _path_of(self, sensor: FakeSensor, uuid: str) -> str:
        return next(path for path, found, _ in self._characteristics(sensor) if found == uuid)

    def _characteristics(self, sensor: FakeSensor) -> Iterator[tuple[str, str, Characteristic]]:
        for number, (_, characteristics) in enumerate(sensor.services.items()):
            for place, (uuid, characteristic) in enumerate(characteristics.items()):
                service = f"{self.device(sensor)}/service{number:02x}00"
                yield f"{service}/char{number:02x}{place + 1:02x}", uuid, characteristic

    def _objects(self) -> Objects:
        objects: Objects = {ROOT: {AGENTS: {}}}
        if self.present:
            version = "usb:v1D6Bp0246d0542"
            objects[self.adapter] = {
                ADAPTER: {
                    "Address": Variant("s", self.address),
                    "Powered": Variant("b", self.powered),
                    "Discovering": Variant("b", bool(self.discovering)),
                    "Roles": Variant("as", ["central", "peripheral"]),
                    "Modalias": Variant("s", version),
                }
            }
            for sensor in self.sensors:
                if sensor.address in self._known:
                    objects |= self._device_objects(sensor)
        return objects

    def _device_objects(self, sensor: FakeSensor) -> Objects:
        path = self.device(sensor)
        properties = {
            "Address": Variant("s", sensor.address),
            "AddressType": Variant("s", "random"),
            "Name": Variant("s", sensor.name),
            "Alias": Variant("s", sensor.name),
            "Adapter": Variant("o", self.adapter),
            "UUIDs": Variant("as", list(sensor.services)),
            "Connected": Variant("b", sensor.connected),
            "ServicesResolved": Variant("b", path in self._resolved),
            "Paired": Variant("b", sensor.bonded),
            "Bonded": Variant("b", sensor.bonded),
            "Trusted": Variant("b", False),
        }
        if self.discovering and not sensor.connected and sensor.in_range:
            properties["RSSI"] = Variant("n", -55)
        objects: Objects = {path: {DEVICE: properties}}
        if path in self._resolved:
            objects |= self._gatt_objects(sensor)
        return objects

    def _gatt_objects(self, sensor: FakeSensor) -> Objects:
        objects: Objects = {}
        for number, uuid in enumerate(sensor.services):
            service = {"UUID": Variant("s", uuid), "Device": Variant("o", self.device(sensor))}
            objects[f"{self.device(sensor)}/service{number:02x}00"] = {
                SERVICE: service | {"Primary": Variant("b", True)}
            }
        for path, uuid, characteristic in self._characteristics(sensor):
            properties = {
                "UUID": Variant("s", uuid),
                "Service": Variant("o", path.rpartition("/")[0]),
                "Flags": Variant("as", list(characteristic.flags)),
                "MTU": Variant("q", sensor.mtu),
                "NotifyAcquired": Variant("b", False),
                "Value": Variant("ay", characteristic.value),
            }
            objects[path] = {CHARACTERISTIC: properties}
        return objects

    def _lose_services(self, sensor: FakeSensor) -> None:
        for path, interfaces in sorted(self._gatt_objects(sensor).items(), reverse=True):
            self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, list(interfaces)])
        self._resolved.discard(self.device(sensor))

    # Messages.

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        member = message.member or ""
        self.calls[member] += 1
        if self.silent:
            return True
        if faults := self._faults.get(member):
            fault = faults.pop(0)
            return True if fault == HANG else Message.new_error(message, *fault)
        try:
            return self._answer(message, member)
        except _RefusedError as refused:
            return Message.new_error(message, refused.name, refused.text)

    def _answer(self, message: Message, member: str) -> Message | bool:
        path = message.path or ""
        if member == "GetManagedObjects":
            return Message.new_method_return(message, "a{oa{sa{sv}}}", [self._objects()])
        if message.interface == f"{SYSTEMD}.Manager":
            return self._restart_unit(message)
        if message.interface == AGENTS:
            self.agent = member != "UnregisterAgent"
            return Message.new_method_return(message)
        if path not in self._objects():
            raise _RefusedError("org.freedesktop.DBus.Error.UnknownObject", f"no object {path}")
        if message.interface == PROPERTIES:
            return self._set(message)
        action = getattr(self, f"_do_{member}", None)
        if action is None:
            raise _RefusedError("org.freedesktop.DBus.Error.UnknownMethod", member)
        answer = action(message, self._sensor_at(path))
        return Message.new_method_return(message) if answer is None else answer

    def _restart_unit(self, message: Message) -> Message:
        self.restarts += 1
        self.later(0.01, lambda: setattr(self, "_restarting", asyncio.ensure_future(self.restart())))
        return Message.new_method_return(message, "o", ["/org/freedesktop/systemd1/job/1"])

    def _set(self, message: Message) -> Message:
        _, name, value = message.body
        if name == "Powered":
            if self.rfkill:
                raise _RefusedError("org.bluez.Error.Blocked", "Blocked through rfkill")
            self.power(value.value)
        return Message.new_method_return(message)

    def _sensor_at(self, path: str) -> FakeSensor | None:
        return next((sensor for sensor in self.sensors if path.startswith(self.device(sensor))), None)

    def _do_SetDiscoveryFilter(self, message: Message, _: None) -> None:  # noqa: N802
        pass

    def _do_StartDiscovery(self, message: Message, _: None) -> None:  # noqa: N802
        if not self.powered:
            raise _RefusedError("org.bluez.Error.NotReady", "Resource Not Ready")
        if message.sender in self.discovering:
            raise _RefusedError(*IN_PROGRESS)
        self.discovering.add(str(message.sender))
        self.later(0.005, self._advertise)

    def _advertise(self) -> None:
        if self.discovering and self.powered and self.present:
            for sensor in self.sensors:
                if sensor.in_range and not sensor.connected:
                    new = sensor.address not in self._known
                    self._known.add(sensor.address)
                    rssi = Variant("n", -55)
                    if new:
                        self._added(self.device(sensor))
                    else:
                        self._changed(self.device(sensor), DEVICE, RSSI=rssi)
            self.later(0.02, self._advertise)

    def _do_StopDiscovery(self, message: Message, _: None) -> None:  # noqa: N802
        self.discovering.discard(str(message.sender))

    def _do_RemoveDevice(self, message: Message, _: None) -> None:  # noqa: N802
        sensor = self._sensor_at(message.body[0])
        if sensor is None or sensor.address not in self._known:
            raise _RefusedError("org.bluez.Error.DoesNotExist", "Does Not Exist")
        self.drop(sensor, "Local")
        sensor.bonded = False
        self._known.discard(sensor.address)
        self._signal("/", OBJECTS, "InterfacesRemoved", "oas", [self.device(sensor), [DEVICE]])

    def _do_Connect(self, message: Message, sensor: FakeSensor) -> Message | bool:  # noqa: N802
        if not self.powered:
            raise _RefusedError("org.bluez.Error.NotReady", "Resource Not Ready")
        if not sensor.in_range:
            raise _RefusedError(*ABORTED)
        if self.aborts:
            self.aborts -= 1
            sensor.connected = True
            self._changed(self.device(sensor), DEVICE, Connected=Variant("b", True))
            self.later(0.002, self.drop, sensor)
            raise _RefusedError(*ABORTED)
        sensor.connecting = message
        self.later(0.002, self._connected, message, sensor)
        return True

    def _connected(self, message: Message, sensor: FakeSensor) -> None:
        path = self.device(sensor)
        if sensor.connecting is not message:
            return
        sensor.connecting = None
        sensor.connected = True
        self._changed(path, DEVICE, Connected=Variant("b", True))
        if sensor.bonded and not sensor.bond_kept and self.crashes:
            self.crash = asyncio.create_task(self.restart())
            return
        if sensor.bonded and not sensor.bond_kept:  # encryption fails: the kernel ends the link
            self.drop(sensor, "Authentication")
            self._reply(Message.new_error(message, *ABORTED))
            return
        self._reply(Message.new_method_return(message))
        self._resolved.add(path)
        for each in sorted(self._gatt_objects(sensor)):
            self._added(each)
        self._changed(path, DEVICE, ServicesResolved=Variant("b", True))

    def _do_Disconnect(self, message: Message, sensor: FakeSensor) -> None:  # noqa: N802
        if sensor.connecting is not None:  # which ends it, as with BlueZ
            self._reply(Message.new_error(sensor.connecting, *ABORTED))
            sensor.connecting = None
        self.drop(sensor, "Local")

    def _do_Pair(self, message: Message, sensor: FakeSensor) -> None:  # noqa: N802
        if not self.agent:
            raise _RefusedError("org.bluez.Error.AuthenticationFailed", "Authentication Failed")
        sensor.bonded = sensor.bond_kept = True
        self._changed(self.device(sensor), DEVICE, Paired=Variant("b", True), Bonded=Variant("b", True))

    def _do_ReadValue(self, message: Message, sensor: FakeSensor) -> Message:  # noqa: N802
        uuid, characteristic = self._usable(message, sensor)
        if uuid in sensor.notifying:  # BlueZ's quirk: whoever subscribed gets what another reads
            self._changed(str(message.path), CHARACTERISTIC, Value=Variant("ay", characteristic.value))
        return Message.new_method_return(message, "ay", [characteristic.value])

    def _do_WriteValue(self, message: Message, sensor: FakeSensor) -> None:  # noqa: N802
        uuid, _ = self._usable(message, sensor)
        sensor.writes.append((uuid, bytes(message.body[0])))
        sensor.on_write(sensor, uuid, bytes(message.body[0]))

    def _do_StartNotify(self, message: Message, sensor: FakeSensor) -> None:  # noqa: N802
        uuid, _ = self._usable(message, sensor)
        if sensor.notifying.get(uuid) == message.sender:
            raise _RefusedError(*IN_PROGRESS)
        sensor.notifying[uuid] = str(message.sender)

    def _do_StopNotify(self, message: Message, sensor: FakeSensor) -> None:  # noqa: N802
        uuid, _ = self._usable(message, sensor)
        sensor.notifying.pop(uuid, None)

    def _usable(self, message: Message, sensor: FakeSensor) -> tuple[str, Characteristic]:
        found = {path: (uuid, each) for path, uuid, each in self._characteristics(sensor)}
        uuid, characteristic = found[str(message.path)]
        if characteristic.secure and not sensor.bonded:
            raise _RefusedError("org.bluez.Error.NotPermitted", "Not paired")
        return uuid, characteristic

    # Signals.

    def _changed(self, path: str, interface: str, **changed: Variant) -> None:
        self._signal(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, changed, []])

    def _added(self, path: str) -> None:
        self._signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, self._objects()[path]])

    def _signal(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        self._reply(Message.new_signal(path, interface, member, signature, body))

    def _reply(self, message: Message) -> None:
        if self._bus is not None and not self.silent:
            self._bus.send(message)


class _RefusedError(Exception):
    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        super().__init__(name)
