"""Names and texts of D-Bus errors to the RadioFault they mean.

Knows nothing of bleak or of a bus: strings in, a fault out. The names are those of BlueZ's doc/ and of the D-Bus
specification; the texts are BlueZ's own, which puts most of its reasons into words (src/error.c, src/gatt-client.c).
"""

from __future__ import annotations

from collections.abc import Mapping

from firmware_bridge.errors import RadioFault

_NAMES: Mapping[str, RadioFault] = {
    "org.freedesktop.DBus.Error.ServiceUnknown": RadioFault.NO_BLUEZ,
    "org.freedesktop.DBus.Error.NameHasNoOwner": RadioFault.NO_BLUEZ,
    "org.freedesktop.DBus.Error.Disconnected": RadioFault.NO_BLUEZ,
    "org.freedesktop.DBus.Error.NoServer": RadioFault.NO_BLUEZ,
    "org.freedesktop.DBus.Error.AccessDenied": RadioFault.NOT_PERMITTED,
    "org.freedesktop.DBus.Error.AuthFailed": RadioFault.NOT_PERMITTED,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": RadioFault.NOT_PERMITTED,
    "org.freedesktop.DBus.Error.NoReply": RadioFault.TIMEOUT,
    "org.freedesktop.DBus.Error.Timeout": RadioFault.TIMEOUT,
    "org.freedesktop.DBus.Error.TimedOut": RadioFault.TIMEOUT,
    "org.bluez.Error.InProgress": RadioFault.IN_PROGRESS,
    "org.bluez.Error.Busy": RadioFault.IN_PROGRESS,
    "org.bluez.Error.NotReady": RadioFault.POWERED_OFF,
    "org.bluez.Error.Blocked": RadioFault.POWERED_OFF,
    "org.bluez.Error.AuthenticationFailed": RadioFault.AUTHENTICATION,
    "org.bluez.Error.AuthenticationCanceled": RadioFault.AUTHENTICATION,
    "org.bluez.Error.AuthenticationRejected": RadioFault.AUTHENTICATION,
    "org.bluez.Error.AuthenticationTimeout": RadioFault.AUTHENTICATION,
    "org.bluez.Error.NotAuthorized": RadioFault.AUTHENTICATION,
    "org.bluez.Error.NotPermitted": RadioFault.GATT,
    "org.bluez.Error.NotSupported": RadioFault.GATT,
    "org.bluez.Error.InvalidArguments": RadioFault.GATT,
    "org.bluez.Error.ImproperlyConfigured": RadioFault.GATT,
    "org.bluez.Reason.Authentication": RadioFault.AUTHENTICATION,
}
_SPAWN = "org.freedesktop.DBus.Error.Spawn."
"""Begins the errors of a bluetoothd that could not be started or ended at once."""

_UNIT = "unit dbus-org.bluez.service "
"""Begins what systemd says, under a name for each, of a bluetooth.service that is disabled, masked or broken."""

_DIED = "message recipient disconnected"
"""What the bus says, under the name NoReply, of a bluetoothd that ended before it answered."""

_TEXTS: tuple[tuple[str, RadioFault], ...] = (
    ("key-missing", RadioFault.AUTHENTICATION),
    ("not paired", RadioFault.AUTHENTICATION),
    ("insufficient authentication", RadioFault.AUTHENTICATION),
    ("insufficient encryption", RadioFault.AUTHENTICATION),
    ("insufficient authorization", RadioFault.AUTHENTICATION),
    ("att error: 0x05", RadioFault.AUTHENTICATION),
    ("att error: 0x08", RadioFault.AUTHENTICATION),
    ("att error: 0x0c", RadioFault.AUTHENTICATION),
    ("att error: 0x0f", RadioFault.AUTHENTICATION),
    ("in progress", RadioFault.IN_PROGRESS),
    ("rfkill", RadioFault.POWERED_OFF),
    ("blocked", RadioFault.POWERED_OFF),
    ("not powered", RadioFault.POWERED_OFF),
    ("resource not ready", RadioFault.POWERED_OFF),
    ("network is down", RadioFault.POWERED_OFF),
    ("att error: 0x0e", RadioFault.LINK),
    ("not connected", RadioFault.LINK),
    ("adapter", RadioFault.NO_ADAPTER),
    ("att error", RadioFault.GATT),
)
"""Parts of a text, in lower case, in the order they are looked for. ATT 0x0e (unlikely error) is what BlueZ answers
to requests that were on their way when the link ended."""
_TELLING = frozenset({RadioFault.AUTHENTICATION, RadioFault.POWERED_OFF, RadioFault.LINK, RadioFault.NO_ADAPTER})


def dbus_fault(name: str, text: str = "") -> RadioFault:
    """What a D-Bus error means; its name decides, except where BlueZ gives many reasons under one name."""
    if name.startswith(_SPAWN) or text.lower().startswith((_UNIT, _DIED)):
        return RadioFault.NO_BLUEZ
    fault = _NAMES.get(name)
    if fault is None:
        return text_fault(text)
    if fault is RadioFault.GATT:
        said = text_fault(text, RadioFault.GATT)
        return said if said in _TELLING else fault
    return fault


def text_fault(text: str, otherwise: RadioFault = RadioFault.LINK) -> RadioFault:
    """What an error text means; the link is the commonest cause of what is not told."""
    lowered = text.lower()
    return next((fault for part, fault in _TEXTS if part in lowered), otherwise)


def os_fault(error: OSError | EOFError) -> RadioFault:
    """What a failure of the bus's own socket means."""
    return RadioFault.NOT_PERMITTED if isinstance(error, PermissionError) else RadioFault.NO_BLUEZ
