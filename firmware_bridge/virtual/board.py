"""The body of a virtual sensor: radio, address, advertising, bond and clock.

Knows nothing of protocols: a Firmware gives the services and is told what happens.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from bumble.core import UUID, AdvertisingData, BaseBumbleError
from bumble.device import Connection, Device, DeviceConfiguration
from bumble.gatt import Characteristic, Service
from bumble.hci import Address, HCI_ErrorCode
from bumble.host import Host
from bumble.keys import MemoryKeyStore, PairingKeys
from bumble.pairing import PairingConfig, PairingDelegate
from bumble.profiles.gap import GenericAccessService

from firmware_bridge.virtual.air import Air, AirController
from firmware_bridge.virtual.clock import SensorClock
from firmware_bridge.virtual.spec import SensorSpec
from firmware_bridge.virtual.stream import Faults, Send, Stream

Say = Callable[[str, str], None]
"""Told (sensor, what happened) once for everything that happens."""

ADVERTISE_MS = 320.0
"""Between advertisements: found within a second, and little work for a small machine."""
SLOT_MS = 0.625
"""bumble's controller takes advertising slots for ms."""
ADVERTISED_BYTES = 31
"""Room in a legacy advertisement."""


class Firmware(Protocol):
    """What runs on a sensor."""

    @property
    def name(self) -> str:
        """Advertised."""

    @property
    def advertised(self) -> tuple[str, ...]:
        """UUIDs of the services in the advertisement."""

    def services(self) -> list[Service]:
        """Once, before power-on."""

    def ended(self) -> None:
        """The link is gone."""

    def reset(self) -> None:
        """Power-on: counters start anew."""

    def electrodes(self) -> None:
        """``board.faults.lead_off`` has changed."""

    def state(self) -> dict[str, object]:
        """What only this kind has to tell."""


class Display(PairingDelegate):
    """Input and output of a sensor that shows a passkey, or has neither."""

    def __init__(self, board: Board) -> None:
        shows = board.spec.passkey is not None
        keys = PairingDelegate.KeyDistribution.DISTRIBUTE_ENCRYPTION_KEY  # its address is fixed: no identity to tell
        capability = PairingDelegate.DISPLAY_OUTPUT_ONLY if shows else PairingDelegate.NO_OUTPUT_NO_INPUT
        super().__init__(capability, keys, keys)
        self._board = board

    async def generate_passkey(self) -> int:
        """The one it was given."""
        return self._board.spec.passkey or 0

    async def display_number(self, number: int, digits: int) -> None:
        """On standard output, so to speak."""
        self._board.say(f"shows passkey {number:0{digits}d}")


class Board:
    """One powered sensor on the air; ``sensors.py`` makes things go wrong with it."""

    def __init__(self, spec: SensorSpec, address: str, air: Air, say: Say, advertise_ms: float = ADVERTISE_MS) -> None:
        loop = asyncio.get_running_loop()
        self.spec, self.address = spec, address
        self.clock = SensorClock(loop.time, speed=spec.speed, ppm=spec.ppm)
        self.faults = Faults.of(spec)
        self.streams: dict[str, Stream] = {}
        self.connection: Connection | None = None
        self.visible = True
        """Whether it advertises when it has no link."""
        self.reboot: Callable[[], Coroutine[Any, Any, None]]
        """For firmware that reboots on command."""
        self.disconnects = self.resets = 0
        self.advertising = False
        self._air, self._say = air, say
        self._tasks: set[asyncio.Task[None]] = set()
        self._controller = AirController(spec.key, air)
        self._keys = MemoryKeyStore()
        self.device = self._device(advertise_ms * SLOT_MS)
        self.firmware: Firmware

    def _device(self, interval: float) -> Device:
        host = Host()
        host.controller = self._controller
        config = DeviceConfiguration(
            address=Address(self.address),
            advertising_interval_min=interval,
            advertising_interval_max=interval,
            gap_service_enabled=False,  # the firmware knows the name
        )
        device = Device(config=config, host=host)
        device.keystore = self._keys
        device.gatt_server.max_mtu = self.spec.mtu
        device.pairing_config_factory = self._pairing
        device.on("connection", self._connected)
        return device

    def _pairing(self, _connection: Connection) -> PairingConfig:
        return PairingConfig(sc=True, mitm=self.spec.passkey is not None, bonding=True, delegate=Display(self))

    # What the firmware uses

    def say(self, event: str) -> None:
        """Tell what happens."""
        self._say(self.spec.key, event)

    def luck(self, what: str) -> random.Random:
        """Dice of one purpose."""
        return random.Random(f"{self.spec.seed}/{self.spec.key}/{what}")

    def stream(self, name: str, send: Send) -> Stream:
        """A stream, not yet running."""
        self.streams[name] = Stream(name, self.clock, self.faults, self.luck(name), send)
        return self.streams[name]

    def notifier(self, characteristic: Characteristic[bytes]) -> Send:
        """Notifies the subscriber, if there is one."""

        async def send(data: bytes) -> None:
            if self.connection is not None:
                await self.device.notify_subscriber(self.connection, characteristic, data)

        return send

    def indicate(self, characteristic: Characteristic[bytes], data: bytes) -> None:
        """Indicate as soon as what is being answered is done."""

        async def send() -> None:
            if self.connection is not None:
                await self.device.indicate_subscriber(self.connection, characteristic, data)

        self.spawn(send())

    @property
    def mtu(self) -> int:
        """ATT MTU of the link."""
        return self.connection.att_mtu if self.connection is not None else 23

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the sensor; a link that ends under it is no error."""
        task = asyncio.get_running_loop().create_task(self._work(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # where it was cancelled before it began
        return task

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (BaseBumbleError, TimeoutError) as error:
            self.say(f"gives up: {error!r}")

    # Power and link

    async def power_on(self, firmware: Firmware) -> None:
        """Boot and advertise."""
        self.firmware = firmware
        self.device.add_services([GenericAccessService(self.name), *firmware.services()])
        self.device.advertising_data = self._advertisement()
        await self.device.power_on()
        await self.advertise()

    async def power_off(self) -> None:
        """Leave the air for good."""
        self.visible = False
        self.firmware.ended()
        await self.hang_up(HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR)
        await self.advertise()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.device.power_off()
        self._air.remove_controller(self._controller)

    @property
    def name(self) -> str:
        """Advertised, and in its Generic Access Service."""
        return self.spec.name or self.firmware.name

    def _advertisement(self) -> bytes:
        name = self.name.encode()
        entries = [(AdvertisingData.FLAGS, bytes([6]))]  # general discoverable, no BR/EDR
        short = b"".join(bytes(UUID(uuid)) for uuid in self.firmware.advertised if len(UUID(uuid).uuid_bytes) == 2)
        long = b"".join(bytes(UUID(uuid)) for uuid in self.firmware.advertised if len(UUID(uuid).uuid_bytes) == 16)
        entries += [(AdvertisingData.INCOMPLETE_LIST_OF_16_BIT_SERVICE_CLASS_UUIDS, short)] if short else []
        entries += [(AdvertisingData.INCOMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, long)] if long else []
        room = ADVERTISED_BYTES - 2 - len(bytes(AdvertisingData(entries)))
        kind = AdvertisingData.COMPLETE_LOCAL_NAME if len(name) <= room else AdvertisingData.SHORTENED_LOCAL_NAME
        return bytes(AdvertisingData([*entries, (kind, name[:room])]))

    async def advertise(self) -> None:
        """Advertise exactly when visible and without link."""
        wanted = self.visible and self.connection is None
        if wanted and not self.advertising:
            self.advertising = True
            await self.device.start_advertising()
            self.say(f"advertises as {self.address}")
        elif not wanted and self.advertising:
            self.advertising = False
            await self.device.stop_advertising()

    async def hang_up(self, reason: int) -> None:
        """End the link, if there is one; the host sees ``reason``."""
        if (connection := self.connection) is not None:
            await connection.disconnect(reason)

    def started(self) -> None:
        """A host has commanded a stream to start."""
        if self.faults.silent_until == "start":
            self.faults.silent_until = None

    def _connected(self, connection: Connection) -> None:
        if self.faults.silent_until == "connect":
            self.faults.silent_until = None
        self.connection, self.advertising = connection, False
        self.say(f"connected by {connection.peer_address.to_string(False)}")
        connection.on("disconnection", self._disconnected)
        connection.on("pairing", self._paired)
        connection.on("pairing_failure", lambda reason: self.say(f"pairing failed, reason {reason}"))
        connection.on("connection_encryption_change", lambda: self.say("encrypted"))
        connection.on("connection_att_mtu_update", lambda: self.say(f"MTU {connection.att_mtu}"))

    def _disconnected(self, reason: int) -> None:
        self.connection = None
        self.disconnects += 1
        self.say(f"disconnected, {HCI_ErrorCode(reason).name}")
        self.firmware.ended()
        self.spawn(self.advertise())

    def _paired(self, keys: PairingKeys) -> None:
        authenticated = keys.ltk is not None and keys.ltk.authenticated
        self.say(f"paired{' with passkey' if authenticated else ''}")
        if self.spec.passkey is not None and not authenticated:
            self.say("refuses a bond without passkey")
            self.forget_bonds()
            self.spawn(self.hang_up(HCI_ErrorCode.AUTHENTICATION_FAILURE_ERROR))

    @property
    def bonded(self) -> bool:
        """Whether it holds keys of any host."""
        return bool(self._keys.all_keys)

    def forget_bonds(self) -> None:
        """Lose every host's keys."""
        self._keys.all_keys.clear()

    def state(self) -> dict[str, object]:
        """All there is to know of it, as JSON has it."""
        link = self.connection
        return {
            "kind": self.spec.kind,
            "address": self.address,
            "connected": link is not None,
            "encrypted": link is not None and bool(link.encryption),
            "bonded": self.bonded,
            "advertising": self.advertising,
            "mtu": self.mtu if link is not None else None,
            "silent": self.faults.silent_until is not None,
            "lead_off": self.faults.lead_off,
            "uptime_s": round(self.clock.now(), 3),
            "disconnects": self.disconnects,
            "resets": self.resets,
            "streaming": any(stream.running for stream in self.streams.values()),
            "packets": sum(stream.counts.sent for stream in self.streams.values()),
            "streams": {
                name: {"running": stream.running, **vars(stream.counts)} for name, stream in self.streams.items()
            },
            **self.firmware.state(),
        }
