"""Errors of affectd-pair, beside those of the radio, the sensor, the registry and the daemon, which pass through it.

FirmwareBridgeError
+-- PairError             something that cannot be done; carries what, reason, remedy; exit code 2
    +-- CheckFailedError  a check of a sensor came out badly; exit code 1
"""

from __future__ import annotations

from firmware_bridge.errors import FirmwareBridgeError


class PairError(FirmwareBridgeError):
    """What was asked for cannot be done."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        self.what = what
        """Address or name of a sensor, an option, or a part of the machine."""
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{what}: {reason}; {remedy}")


class CheckFailedError(PairError):
    """A sensor that answers, and does not pass."""
