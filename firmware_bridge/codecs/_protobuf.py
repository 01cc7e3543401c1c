"""The wire format of Protocol Buffers, as far as small sensors use it: numbered fields to bytes, and back.

Knows no message: what a field means is the codec's affair. Groups, long out of use, are refused.

Source: protobuf.dev, "Encoding"; proto3 leaves out a field that holds its default.
"""

from __future__ import annotations

from dataclasses import dataclass

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_SIZE = {FIXED64: 8, FIXED32: 4}
_MORE = 0x80
_VARINT_BYTES = 10
"""Most bytes of a varint: 64 bits, seven in each."""
U64_MASK = 2**64 - 1
U32_MASK = 2**32 - 1


class WireError(ValueError):
    """Bytes that are no fields; carries the offset."""

    def __init__(self, offset: int, reason: str) -> None:
        self.offset = offset
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Field:
    """One field as found; of repeated ones there are several."""

    number: int
    wire_type: int
    value: int
    """Of a VARINT; else 0."""
    data: bytes
    """Of the other types; else empty."""


def fields(data: bytes) -> tuple[Field, ...]:
    """Every field in order; raises WireError."""
    found = []
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise WireError(start, f"field number {number}: expected 1 to {2**29 - 1}")
        if wire_type == VARINT:
            value, at = _varint(data, at)
            found.append(Field(number, wire_type, value, b""))
            continue
        size, at = _size(data, at, wire_type)
        if at + size > len(data):
            raise WireError(at, f"field {number} of {size} bytes with {len(data) - at} left")
        found.append(Field(number, wire_type, 0, data[at : at + size]))
        at += size
    return tuple(found)


def _size(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    if wire_type == BYTES:
        return _varint(data, at)
    if wire_type not in _FIXED_SIZE:
        raise WireError(at, f"wire type {wire_type}: expected 0, 1, 2 or 5")
    return _FIXED_SIZE[wire_type], at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_BYTES):
        if at + index >= len(data):
            raise WireError(len(data), "cut short within a number")
        byte = data[at + index]
        value |= (byte & ~_MORE) << 7 * index
        if not byte & _MORE:
            return value & U64_MASK, at + index + 1
    raise WireError(at, f"number of more than {_VARINT_BYTES} bytes")


def last_varint(found: tuple[Field, ...], number: int) -> int:
    """The last VARINT of that number, as the format asks; 0, its default, where there is none."""
    values = [field.value for field in found if field.number == number and field.wire_type == VARINT]
    return values[-1] if values else 0


def last_fixed32(found: tuple[Field, ...], number: int) -> bytes:
    """The last FIXED32 of that number; four zeros where there is none."""
    values = [field.data for field in found if field.number == number and field.wire_type == FIXED32]
    return values[-1] if values else bytes(4)


def every_bytes(found: tuple[Field, ...], number: int) -> tuple[bytes, ...]:
    """Every BYTES field of that number; joined, those of one embedded message are one message."""
    return tuple(field.data for field in found if field.number == number and field.wire_type == BYTES)


def varint_field(number: int, value: int) -> bytes:
    """A field of 0 to 2**64 - 1 as proto3 writes it: nothing for 0."""
    return _tag(number, VARINT) + _varint_bytes(value) if value else b""


def fixed32_field(number: int, data: bytes) -> bytes:
    """A field of four bytes as proto3 writes it: nothing for zeros."""
    return _tag(number, FIXED32) + data if any(data) else b""


def bytes_field(number: int, data: bytes) -> bytes:
    """A field of bytes or an embedded message, also where it is empty."""
    return _tag(number, BYTES) + _varint_bytes(len(data)) + data


def _tag(number: int, wire_type: int) -> bytes:
    return _varint_bytes(number << 3 | wire_type)


def _varint_bytes(value: int) -> bytes:
    written = bytearray()
    while value >= _MORE:
        written.append(value & ~_MORE & 0xFF | _MORE)
        value >>= 7
    return bytes(written) + bytes([value])
