"""Heart Rate Measurement of the Bluetooth SIG (0x2A37): heart rate, contact, energy and RR intervals.

Knows nothing of ECG: a strap that speaks only this gives no stream of samples, hence no Packet and no StreamInfo.

Source: Bluetooth SIG, Heart Rate Service 1.0 and GATT Specification Supplement, "Heart Rate Measurement".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from firmware_bridge.errors import DecodeError

PROTOCOL = "heart-rate"

SERVICE_UUID = "0000180d-0000-1000-8000-00805f9b34fb"
MEASUREMENT_UUID = "00002a37-0000-1000-8000-00805f9b34fb"

RR_HZ = 1024
"""RR intervals are sent in 1/1024 s."""

_WIDE_RATE = 0x01
_CONTACT = 0x02
_CONTACT_KNOWN = 0x04
_ENERGY = 0x08
_RR = 0x10
_U8_MAX = 0xFF


@dataclass(frozen=True, slots=True)
class HeartRate:
    """One notification. Reserved flag bits are ignored, as the standard asks."""

    bpm: int
    """Heart rate in 1/min; sent in 16 bits only where 8 do not hold it."""
    contact: bool | None = None
    """Skin contact; None: the sensor did not say."""
    energy_kj: int | None = None
    """Energy expended since the last reset in kJ; None: the sensor did not say."""
    rr: tuple[int, ...] | None = None
    """RR intervals in 1/1024 s, oldest first; None: the sensor did not say."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        if not data:
            raise DecodeError(PROTOCOL, data, 0, "too short: expected a byte of flags")
        flags = data[0]
        contact = bool(flags & _CONTACT) if flags & _CONTACT_KNOWN else None
        bpm, offset = _u16(data, 1, "heart rate") if flags & _WIDE_RATE else _u8(data, 1, "heart rate")
        energy = None
        if flags & _ENERGY:
            energy, offset = _u16(data, offset, "energy expended")
        return cls(bpm, contact, energy, _intervals(data, offset, bool(flags & _RR)))

    def __bytes__(self) -> bytes:
        flags = _WIDE_RATE if self.bpm > _U8_MAX else 0
        if self.contact is not None:
            flags |= _CONTACT_KNOWN | (_CONTACT if self.contact else 0)
        energy = b"" if self.energy_kj is None else struct.pack("<H", self.energy_kj)
        flags |= _ENERGY if energy else 0
        flags |= 0 if self.rr is None else _RR
        rate = struct.pack("<H" if self.bpm > _U8_MAX else "<B", self.bpm)
        return bytes([flags]) + rate + energy + struct.pack(f"<{len(self.rr or ())}H", *(self.rr or ()))

    @property
    def rr_s(self) -> tuple[float, ...]:
        """RR intervals in s; empty where the sensor did not say."""
        return tuple(interval / RR_HZ for interval in self.rr or ())


def _u8(data: bytes, offset: int, what: str) -> tuple[int, int]:
    if len(data) <= offset:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected 1 byte of {what}")
    return data[offset], offset + 1


def _u16(data: bytes, offset: int, what: str) -> tuple[int, int]:
    if len(data) < offset + 2:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected 2 bytes of {what}")
    return int.from_bytes(data[offset : offset + 2], "little"), offset + 2


def _intervals(data: bytes, offset: int, present: bool) -> tuple[int, ...] | None:
    size = len(data) - offset
    if not present:
        if size:
            raise DecodeError(PROTOCOL, data, offset, f"{size} surplus bytes: the flags announce no RR intervals")
        return None
    if size % 2:
        raise DecodeError(PROTOCOL, data, len(data) - 1, "RR interval cut short: expected 2 bytes each")
    return struct.unpack_from(f"<{size // 2}H", data, offset)
