"""Errors of virtual sensors.

FirmwareBridgeError (firmware_bridge/errors.py)
+-- VirtualError      root of these; carries nothing more
    +-- SpecError     a sensor that cannot be built as asked; carries the text, the reason
    +-- SignalError   a file of a signal that cannot be used; carries the path, the place, the reason
    +-- CommandError  a command no sensor can follow; carries the reason
    +-- ServeError    the transport or the socket cannot be opened; carries what, the reason, the remedy
"""

from __future__ import annotations

from firmware_bridge.errors import FirmwareBridgeError


class VirtualError(FirmwareBridgeError):
    """Root of every error of virtual sensors."""


class SpecError(VirtualError):
    """A description of a sensor that cannot be followed."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f"{text!r}: {reason}")


class SignalError(VirtualError):
    """A file that holds no signal."""

    def __init__(self, path: str, place: str, reason: str) -> None:
        self.path = path
        self.place = place
        self.reason = reason
        super().__init__(f"{path}: {place}: {reason}")


class CommandError(VirtualError):
    """A command that cannot be followed."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ServeError(VirtualError):
    """The virtual sensors cannot be put on the air."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        self.what = what
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{what}: {reason}; {remedy}")
