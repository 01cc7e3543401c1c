"""Every exception bleak, dbus-fast or the bus's socket can raise, to the RadioError it means.

Knows nothing of what was being done; whoever did it says so.
"""

from __future__ import annotations

from bleak.exc import (
    BleakBluetoothNotAvailableError,
    BleakBluetoothNotAvailableReason,
    BleakCharacteristicNotFoundError,
    BleakDBusError,
    BleakDeviceNotFoundError,
    BleakError,
    BleakGATTProtocolError,
)

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.faults import dbus_fault, os_fault, text_fault

_NEEDS_BOND = frozenset({0x05, 0x08, 0x0C, 0x0F})
"""Insufficient authentication, authorization, encryption key size, encryption (Core v5.4, vol 3, part F, 3.4.1.1)."""
_ATT_UNLIKELY = 0x0E
"""What BlueZ answers to requests that were on their way when the link ended."""
_UNAVAILABLE = {
    BleakBluetoothNotAvailableReason.POWERED_OFF: RadioFault.POWERED_OFF,
    BleakBluetoothNotAvailableReason.NO_BLUETOOTH: RadioFault.NO_ADAPTER,
    BleakBluetoothNotAvailableReason.NO_BLE_CENTRAL_ROLE: RadioFault.NO_ADAPTER,
}


def radio_error(what: str, error: BaseException, doing: str) -> RadioError:
    """The RadioError of an exception; a RadioError stays what it is."""
    if isinstance(error, RadioError):
        return error
    told = _told(error)
    reason = f"{doing}: {_text(told)}"
    return RadioError(what, _fault(told), reason)


def _told(error: BaseException) -> BaseException:
    """bleak-retry-connector wraps the last attempt's error, which says more."""
    cause = error.__cause__
    retried = type(error).__module__.startswith("bleak_retry_connector")
    return _told(cause) if retried and cause is not None else error


def _text(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return str(error) or "no answer"
    if isinstance(error, BleakDBusError):
        return error.dbus_error_details or error.dbus_error
    if isinstance(error, BleakError):
        return " ".join(str(part) for part in error.args) or type(error).__name__
    return repr(error)


def _fault(error: BaseException) -> RadioFault:
    match error:
        case TimeoutError():
            return RadioFault.TIMEOUT
        case BleakBluetoothNotAvailableError():
            return _UNAVAILABLE.get(error.reason, RadioFault.NOT_PERMITTED)
        case BleakCharacteristicNotFoundError():
            return RadioFault.GATT
        case BleakGATTProtocolError():
            return _att_fault(int(error.args[0]))
        case BleakDBusError():
            return dbus_fault(error.dbus_error, error.dbus_error_details or "")
        case BleakDeviceNotFoundError():
            return RadioFault.LINK  # it was there when the connection began
        case BleakError():
            return _bleak_fault(str(error))
        case OSError() | EOFError():
            return os_fault(error)
        case _:  # assertions and missing keys of bleak's, when the link ends within a call
            return RadioFault.LINK


def _att_fault(code: int) -> RadioFault:
    if code in _NEEDS_BOND:
        return RadioFault.AUTHENTICATION
    return RadioFault.LINK if code == _ATT_UNLIKELY else RadioFault.GATT


def _bleak_fault(text: str) -> RadioFault:
    if "BlueZ >=" in text:
        return RadioFault.NO_BLUEZ
    if text.startswith("Multiple Characteristics"):
        return RadioFault.GATT
    return text_fault(text)
