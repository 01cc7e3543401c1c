"""Consistent Overhead Byte Stuffing: any bytes to bytes without a zero, and back.

Does not know what is packed, nor of the zero that ends a frame on the wire.

Source: S. Cheshire and M. Baker, "Consistent Overhead Byte Stuffing", IEEE/ACM Transactions on Networking 7:159 (1999).
"""

from __future__ import annotations

LONGEST = 0xFF
"""Code of a block of 254 bytes that no zero follows; a code n below it is n - 1 bytes and a zero."""


class CobsError(ValueError):
    """Bytes that no encoder makes; carries the offset."""

    def __init__(self, offset: int, reason: str) -> None:
        self.offset = offset
        super().__init__(reason)


def encode(data: bytes) -> bytes:
    """Bytes of any value to bytes of 1 to 255, one longer for each 254 begun."""
    packed = bytearray()
    runs = data.split(b"\x00")
    for number, run in enumerate(runs):
        while len(run) >= LONGEST - 1:
            packed += bytes([LONGEST]) + run[: LONGEST - 1]
            run = run[LONGEST - 1 :]
            if not run and number == len(runs) - 1:
                return bytes(packed)
        packed += bytes([len(run) + 1]) + run
    return bytes(packed)


def decode(packed: bytes) -> bytes:
    """The reverse of ``encode``; raises CobsError."""
    data = bytearray()
    at = 0
    while at < len(packed):
        code = packed[at]
        block = packed[at + 1 : at + code]
        if not code or 0 in block:
            raise CobsError(at if not code else at + 1 + block.index(0), "a zero: expected bytes of 1 to 255")
        if len(block) != code - 1:
            raise CobsError(at, f"block of {code - 1} bytes with {len(block)} left")
        data += block
        at += code
        if code != LONGEST and at < len(packed):
            data.append(0)
    return bytes(data)
