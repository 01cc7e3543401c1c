"""Errors of firmware_bridge.

FirmwareBridgeError
+-- DecodeError     bytes that are not what the protocol says; carries the protocol, the offset and the bytes
+-- RegistryError   the file of paired sensors is wrong; carries the file and the place
+-- UnknownProtocolError   (protocols.py) no codec of that name
+-- RadioError             (pair/scan.py) no adapter, no D-Bus, or a sensor that does not answer
"""

from __future__ import annotations


class FirmwareBridgeError(Exception):
    """Root of every error this package raises on purpose."""


class DecodeError(FirmwareBridgeError):
    """A notification that does not follow its protocol."""

    def __init__(self, protocol: str, data: bytes, offset: int, reason: str) -> None:
        self.protocol = protocol
        self.data = bytes(data)
        self.offset = offset
        self.reason = reason
        super().__init__(f"{protocol}: byte {offset} of {len(data)}: {reason}")


class RegistryError(FirmwareBridgeError):
    """The file of paired sensors cannot be used."""

    def __init__(self, path: str, place: str, reason: str) -> None:
        self.path = path
        self.place = place
        self.reason = reason
        super().__init__(f"{path}: {place}: {reason}")
