"""The radio shell of affectd-pair: who advertises, and what a sensor says of itself once connected.

Knows nothing of the registry or of the terminal. The tool's only file that imports bleak, when it is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from firmware_bridge.codecs import heart_rate, open_eda, polar_pmd
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.protocols import PROTOCOLS

if TYPE_CHECKING:
    from bleak.backends.device import BLEDevice

SERIAL_UUID = "00002a25-0000-1000-8000-00805f9b34fb"
"""Serial number string of the SIG's Device Information service."""

NAME_LENGTH = 40
"""Characters of an advertised name that are kept: real names have under 20, a hostile one up to 248."""
FIND_S = 15.0
"""A worn sensor advertises at least every 2 s; several may be missed beside Wi-Fi."""
CONNECT_S = 30.0
"""bleak's own default for a connection with service discovery."""
ANSWER_S = 10.0
"""Added to what was asked for: a call into BlueZ that failed inside may never return."""


class RadioError(FirmwareBridgeError):
    """The radio or a sensor cannot be used; the message ends with what to do."""


class Device(Protocol):
    """bleak's BLEDevice, as far as it is used."""

    @property
    def address(self) -> str:
        """Bluetooth address."""


class Advertisement(Protocol):
    """bleak's AdvertisementData, as far as it is used."""

    @property
    def local_name(self) -> str | None:
        """Advertised name, as sent by anyone who likes."""

    @property
    def rssi(self) -> int:
        """Received power in dBm."""

    @property
    def service_uuids(self) -> list[str]:
        """Advertised services."""


class Service(Protocol):
    """bleak's BleakGATTService, as far as it is used."""

    @property
    def uuid(self) -> str:
        """128-bit UUID, lower case."""


class Client(Protocol):
    """bleak's BleakClient once connected, as far as it is used."""

    @property
    def services(self) -> Iterable[Service]:
        """Services found on the sensor."""

    async def read_gatt_char(self, char_specifier: str, /) -> bytearray:
        """Value of a characteristic."""


@dataclass(frozen=True, slots=True)
class Radio:
    """The calls of bleak that the tool makes: a fake is put in here."""

    discover: Callable[[float], Awaitable[Mapping[str, tuple[Device, Advertisement]]]]
    """Listen for some seconds: address -> device and its last advertisement."""
    find: Callable[[str, float], Awaitable[Device | None]]
    """The device of an address, None if it was not heard within some seconds."""
    connect: Callable[[Device, float], AbstractAsyncContextManager[Client]]
    """Connected inside the context; seconds to connect in."""
    errors: tuple[type[Exception], ...] = ()
    """What these calls raise, beside OSError and TimeoutError."""


def bleak_radio() -> Radio:
    """The machine's Bluetooth adapter through bleak; raises RadioError where bleak is not installed."""
    try:
        from bleak import BleakClient, BleakScanner
        from bleak.exc import BleakError
    except ImportError as error:
        raise RadioError(f"bleak cannot be imported ({error}); install it: pip install 'affectd[device]'") from error
    return Radio(
        discover=lambda seconds: BleakScanner.discover(seconds, return_adv=True),
        find=lambda address, seconds: BleakScanner.find_device_by_address(address, seconds),
        connect=lambda device, seconds: BleakClient(cast("BLEDevice", device), timeout=seconds),
        errors=(BleakError, EOFError, *_dbus_errors()),
    )


def _dbus_errors() -> tuple[type[Exception], ...]:
    """What bleak lets through from its D-Bus library, which it has on Linux only."""
    try:
        from dbus_fast.errors import AuthError, DBusError, InvalidAddressError
    except ImportError:
        return ()
    return AuthError, DBusError, InvalidAddressError


@dataclass(frozen=True, slots=True)
class Kind:
    """What something seems to be from its advertisement, which anyone can forge: `add` asks the sensor itself."""

    what: str
    use: str
    """What affectd can take from it; empty: nothing."""
    protocol: str | None = None


_BY_NAME = (
    ("Polar H10", Kind("Polar H10 chest strap", "ECG 130 Hz", polar_pmd.PROTOCOL)),
    ("Polar H9", Kind("Polar H9 chest strap", "nothing yet (RR intervals only, no ECG)")),
    ("Movesense", Kind("Movesense sensor", "nothing yet (its ECG protocol is not supported)")),
)
"""By the start of the name: a Polar H10 advertises heart rate only, a Movesense neither of its services."""
_BY_SERVICE = (
    (open_eda.SERVICE_UUID, Kind("open EDA sensor", "EDA", open_eda.PROTOCOL)),
    (polar_pmd.SERVICE_UUID, Kind("Polar sensor", "ECG, if it has any", polar_pmd.PROTOCOL)),
    (heart_rate.SERVICE_UUID, Kind("heart rate sensor", "nothing yet (RR intervals only, no ECG)")),
)
_UNKNOWN = Kind("unknown", "")


def recognise(name: str, service_uuids: Iterable[str]) -> Kind:
    """What a name and the advertised services tell."""
    offered = {uuid.lower() for uuid in service_uuids}
    named = [kind for start, kind in _BY_NAME if name.startswith(start)]
    served = [kind for uuid, kind in _BY_SERVICE if uuid in offered]
    return (named + served + [_UNKNOWN])[0]


def clean(text: str, length: int = NAME_LENGTH) -> str:
    """Text fit to print: without control and format characters, and not endless."""
    return "".join(char for char in text if char.isprintable())[:length].strip()


@dataclass(frozen=True, slots=True)
class Found:
    """One device that was heard."""

    address: str
    name: str
    rssi: int
    kind: Kind


async def scan(seconds: float, radio: Radio) -> list[Found]:
    """Everything heard within ``seconds``, what affectd can use first, then the nearest; raises RadioError."""
    with _explained(radio, "scan"):
        async with asyncio.timeout(seconds + ANSWER_S):
            heard = await radio.discover(seconds)
    found = [_found(device.address, advertisement) for device, advertisement in heard.values()]
    return sorted(found, key=lambda it: (it.kind.protocol is None, it.kind is _UNKNOWN, -it.rssi, it.address))


def _found(address: str, advertisement: Advertisement) -> Found:
    name = clean(advertisement.local_name or "")
    return Found(clean(address).upper(), name, advertisement.rssi, recognise(name, advertisement.service_uuids))


@dataclass(frozen=True, slots=True)
class Identity:
    """What a connected sensor says of itself."""

    protocol: str
    serial: str | None
    """None: the sensor did not say."""


async def identify(address: str, radio: Radio) -> Identity:
    """Connect and ask; raises RadioError, or DecodeError where the sensor's answer makes no sense."""
    with _explained(radio, address):
        async with asyncio.timeout(FIND_S + CONNECT_S + ANSWER_S):
            device = await radio.find(address, FIND_S)
            if device is None:
                raise RadioError(f"{address}: not heard within {FIND_S:.0f} s; wear it, and end its link to any phone")
            async with radio.connect(device, CONNECT_S) as client:
                return await _ask(address, client, radio)


async def _ask(address: str, client: Client, radio: Radio) -> Identity:
    offered = {service.uuid.lower() for service in client.services}
    for name, codec in PROTOCOLS.items():
        if codec.SERVICE_UUID in offered:
            codec.read_info(bytes(await client.read_gatt_char(codec.INFO_UUID)))
            return Identity(name, await _serial(client, radio))
    what = "heart rate, but no ECG or EDA" if heart_rate.SERVICE_UUID in offered else "neither ECG nor EDA"
    raise RadioError(f"{address}: offers {what} that affectd can read; `affectd-pair scan` shows what it can use")


async def _serial(client: Client, radio: Radio) -> str | None:
    try:
        value = await client.read_gatt_char(SERIAL_UUID)
    except radio.errors:
        return None
    return clean(value.decode(errors="replace")) or None


_REMEDIES = (
    ("no bluetooth adapter", "plug in a Bluetooth adapter, or `rfkill unblock bluetooth`"),
    ("powered", "`rfkill unblock bluetooth` and `bluetoothctl power on`"),
    ("notready", "`rfkill unblock bluetooth` and `bluetoothctl power on`"),
    ("serviceunknown", "install BlueZ 5.55 or newer and `systemctl start bluetooth`"),
    ("authenti", "pair it first: `bluetoothctl pair {address}`"),
    ("encrypt", "pair it first: `bluetoothctl pair {address}`"),
    ("notpermitted", "pair it first: `bluetoothctl pair {address}`"),
    ("notauthorized", "pair it first: `bluetoothctl pair {address}`"),
    ("accessdenied", "add this user to the group `bluetooth`"),
    ("inprogress", "wait a minute, `bluetoothctl disconnect {address}` and try again"),
    ("transport", "correct or unset DBUS_SYSTEM_BUS_ADDRESS"),
)
"""A part of an error's text, in lower case, and what to do about it; the first that fits."""


def _remedy(text: str, address: str) -> str:
    fitting = (remedy for part, remedy in _REMEDIES if part in text.lower())
    return next(fitting, "bring it close, switch it off and on, and try again").replace("{address}", address)


@contextmanager
def _explained(radio: Radio, what: str) -> Iterator[None]:
    """Turn what the radio raises into one RadioError that says what to do."""
    try:
        yield
    except FirmwareBridgeError:
        raise
    except TimeoutError as error:
        raise RadioError(f"{what}: no answer in time; try again, or `systemctl restart bluetooth`") from error
    except OSError as error:
        raise RadioError(f"{what}: no D-Bus ({error.strerror}); `systemctl start dbus bluetooth`") from error
    except radio.errors as error:
        text = clean(" ".join(str(part) for part in error.args[:2] if isinstance(part, str)), 120)
        raise RadioError(f"{what}: {text or type(error).__name__}; {_remedy(text, what)}") from error
