"""What D-Bus says, as real BlueZ 5.66 and 5.82 say it (tests/e2e), to the fault that decides what is tried next."""

from __future__ import annotations

import pytest

from firmware_bridge.errors import RadioFault
from firmware_bridge.radio.faults import dbus_fault

DIED = "Message recipient disconnected from message bus without replying"


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("org.freedesktop.DBus.Error.NoReply", DIED, RadioFault.NO_BLUEZ),  # killed while it was asked
        ("org.freedesktop.DBus.Error.NoReply", "Did not receive a reply.", RadioFault.TIMEOUT),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", "Process org.bluez exited", RadioFault.NO_BLUEZ),
        ("org.freedesktop.systemd1.NoSuchUnit", "Unit dbus-org.bluez.service not found.", RadioFault.NO_BLUEZ),
        (
            "org.freedesktop.DBus.Error.FileExists",  # systemd 257, of one that is masked
            "Unit dbus-org.bluez.service failed to load properly, please adjust/correct and reload service manager",
            RadioFault.NO_BLUEZ,
        ),
        ("org.bluez.Error.InProgress", "Operation already in progress", RadioFault.IN_PROGRESS),
        ("org.bluez.Error.Busy", "", RadioFault.IN_PROGRESS),  # the adapter is being switched on
        ("org.bluez.Error.NotReady", "Resource Not Ready", RadioFault.POWERED_OFF),
        ("org.bluez.Error.Failed", "le-connection-abort-by-local", RadioFault.LINK),
        ("org.bluez.Error.Failed", "Not connected", RadioFault.LINK),
        ("org.bluez.Error.NotPermitted", "Not paired", RadioFault.AUTHENTICATION),
        ("org.bluez.Error.Failed", "Operation failed with ATT error: 0x0e", RadioFault.LINK),
        ("org.bluez.Error.Failed", "Operation failed with ATT error: 0x0f", RadioFault.AUTHENTICATION),
        ("org.bluez.Error.AuthenticationFailed", "Authentication Failed", RadioFault.AUTHENTICATION),
    ],
)
def test_an_error_means(name: str, text: str, fault: RadioFault) -> None:
    assert dbus_fault(name, text) is fault
