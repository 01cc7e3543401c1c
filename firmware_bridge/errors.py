"""Errors of firmware_bridge.

FirmwareBridgeError
+-- DecodeError            bytes that are not what the protocol says; carries the protocol, the offset, the bytes
+-- ExchangeError          a sensor that refuses, or cannot give, what was asked; carries the state, reason, remedy
+-- RadioError             the radio or a link fails; carries what, the fault, reason, remedy
+-- RegistryError          the file of paired sensors is wrong; carries the file, the place, reason, remedy
+-- UnknownProtocolError   (protocols.py) no codec of that name
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from firmware_bridge.packet import Packet


class FirmwareBridgeError(Exception):
    """Root of every error this package raises on purpose."""


class DecodeError(FirmwareBridgeError):
    """A notification that does not follow its protocol."""

    def __init__(self, protocol: str, data: bytes, offset: int, reason: str, packets: Sequence[Packet] = ()) -> None:
        self.protocol = protocol
        self.data = bytes(data)
        self.offset = offset
        self.reason = reason
        self.packets = tuple(packets)
        """Good packets around the fault, where a notification may hold several."""
        super().__init__(f"{protocol}: byte {offset} of {len(data)}: {reason}")


class ExchangeError(FirmwareBridgeError):
    """A sensor's answer ends the conversation."""

    def __init__(self, protocol: str, state: str, reason: str, remedy: str, permanent: bool) -> None:
        self.protocol = protocol
        self.state = state
        self.reason = reason
        self.remedy = remedy
        self.permanent = permanent
        """Whether a new connection would end the same way."""
        super().__init__(f"{protocol}: at {state!r}: {reason}; {remedy}")


class RadioFault(Enum):
    """What kind of failure it is: decides what is tried next. The value is what to do about it."""

    NO_BLUEZ = "install BlueZ 5.55 or newer, and `systemctl start bluetooth`"
    NO_ADAPTER = "plug in a Bluetooth adapter; `affectd-pair doctor` says what the machine has"
    POWERED_OFF = "`rfkill unblock bluetooth` and `bluetoothctl power on`"
    NOT_PERMITTED = "add this user to the group `bluetooth`, and log in again"
    NOT_FOUND = "wear it (a strap wakes on wet skin), bring it close, and end its link to any phone"
    AUTHENTICATION = "pair it again: `affectd-pair remove`, then `affectd-pair add`"
    IN_PROGRESS = "another program uses the radio or a dead one left its state; `affectd-pair doctor` says which"
    LINK = "bring it close; a USB radio or 5 GHz Wi-Fi helps where 2.4 GHz Wi-Fi is near"
    TIMEOUT = "try again; where it comes again, `systemctl restart bluetooth`"
    GATT = "check that the sensor is what it was paired as: `affectd-pair test`"


class RadioError(FirmwareBridgeError):
    """The radio, or the link to a sensor, fails."""

    def __init__(self, what: str, fault: RadioFault, reason: str, remedy: str | None = None) -> None:
        self.what = what
        """Address or name of the sensor, or the adapter."""
        self.fault = fault
        self.reason = reason
        self.remedy = remedy or fault.value
        super().__init__(f"{what}: {reason}; {self.remedy}")


class RegistryError(FirmwareBridgeError):
    """The file of paired sensors cannot be used."""

    def __init__(self, path: str, place: str, reason: str, remedy: str) -> None:
        self.path = path
        self.place = place
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{path}: {place}: {reason}; {remedy}")
