"""Acceleration frames of Polar Measurement Data (PMD): raw of 8, 16 or 24 bits, and delta-compressed.

Knows nothing of the control point beyond the commands that start and stop acceleration on a Polar H10. affectd takes no
stream of it yet: there is no Codec.

Source: polarofficial/polar-ble-sdk, AccData and BlePMDClient, and their tests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Self

from firmware_bridge.codecs.polar_pmd import (
    COMPRESSED,
    TYPE_MASK,
    Command,
    Measurement,
    Op,
    Setting,
    SettingId,
)
from firmware_bridge.errors import DecodeError

PROTOCOL = "polar-pmd-acc"

Sample = tuple[int, int, int]
"""Acceleration along x, y, z; in mg but for compressed frames, see ``DeltaAccFrame``."""

AXES = 3
H10_RATES = (25, 50, 100, 200)
"""Rates in Hz of a Polar H10."""
H10_RANGES_G = (2, 4, 8)
"""Ranges in g of a Polar H10."""
RESOLUTION_BITS = 16

RAW_BYTES = (1, 2, 3)
"""Bytes of one value by the type of a raw frame; an H10 sends type 1."""
DELTA_TYPES = (0, 1)
"""Types of compressed frames; the reference sample of both has values of 16 bits."""
MAX_DELTA_BITS = 32
"""Widest delta a reader has to expect; 17 hold any step between values of 16 bits."""
MAX_COUNT = 255
"""Samples of one block: their number is one byte."""

_HEAD = struct.Struct("<BQB")
_REFERENCE = struct.Struct("<3h")


def start_command(rate_hz: int = 200, range_g: int = 8) -> bytes:
    """What starts acceleration; by default as every client of the H10 does. Raises ValueError."""
    if rate_hz not in H10_RATES or range_g not in H10_RANGES_G:
        raise ValueError(f"{rate_hz} Hz, {range_g} g: an H10 has {H10_RATES} Hz and {H10_RANGES_G} g")
    asked = ((SettingId.RATE, rate_hz), (SettingId.RESOLUTION, RESOLUTION_BITS), (SettingId.RANGE, range_g))
    return bytes(Command(Op.START, Measurement.ACC, tuple(Setting(key, (value,)) for key, value in asked)))


STOP = bytes(Command(Op.STOP, Measurement.ACC))
"""Stops acceleration alone; ECG runs on."""


def _head(data: bytes) -> tuple[int, int, int]:
    """Flags, ticks and the byte of the frame type; raises DecodeError."""
    if len(data) < _HEAD.size:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {_HEAD.size} header bytes")
    kind, ticks, frame_type = _HEAD.unpack_from(data)
    if kind & TYPE_MASK != Measurement.ACC:
        reason = f"measurement type {kind & TYPE_MASK}: expected {Measurement.ACC:d} (ACC)"
        raise DecodeError(PROTOCOL, data, 0, reason)
    return kind & ~TYPE_MASK, ticks, frame_type


def _head_bytes(flags: int, ticks: int, frame_type: int) -> bytes:
    if flags & TYPE_MASK:
        raise ValueError(f"flags {flags:#04x}: only the upper two bits of the first byte are flags")
    return _HEAD.pack(Measurement.ACC | flags, ticks, frame_type)


def _triples(values: Iterable[int]) -> tuple[Sample, ...]:
    axes = [iter(values)] * AXES
    return tuple(zip(*axes, strict=True))


@dataclass(frozen=True, slots=True)
class AccFrame:
    """One notification of raw samples."""

    ticks: int
    """Sensor clock at the LAST sample, ns since 2000-01-01 (u64)."""
    samples: tuple[Sample, ...]
    """In mg, oldest first, at least one."""
    frame_type: int = 1
    """Says how many bytes a value has, see ``RAW_BYTES``."""
    flags: int = 0
    """Upper two bits of the first byte; meaning not published."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError on anything but a raw acceleration frame."""
        flags, ticks, frame_type = _head(data)
        if frame_type >= len(RAW_BYTES):
            raise DecodeError(PROTOCOL, data, 9, f"frame type {frame_type:#04x}: expected raw, 0x00 to 0x02")
        size = RAW_BYTES[frame_type]
        n, rest = divmod(len(data) - _HEAD.size, AXES * size)
        if rest or not n:
            raise DecodeError(PROTOCOL, data, len(data) - rest, f"expected one or more samples of {AXES * size} bytes")
        starts = range(_HEAD.size, len(data), size)
        values = (int.from_bytes(data[at : at + size], "little", signed=True) for at in starts)
        return cls(ticks, _triples(values), frame_type, flags)

    def __bytes__(self) -> bytes:
        if not self.samples:
            raise ValueError("an acceleration frame holds at least one sample")
        size = RAW_BYTES[self.frame_type]
        values = (value.to_bytes(size, "little", signed=True) for value in chain.from_iterable(self.samples))
        return _head_bytes(self.flags, self.ticks, self.frame_type) + b"".join(values)


@dataclass(frozen=True, slots=True)
class DeltaBlock:
    """Steps from sample to sample, all of one width."""

    bits: int
    """Bits of one step, 1 to 32; two's complement, the first step in the lowest bits of the first byte."""
    steps: tuple[Sample, ...]
    """1 to 255."""
    padding: int = 0
    """What fills the last byte, of no meaning; real sensors leave bits in it."""

    def __bytes__(self) -> bytes:
        if not 1 <= len(self.steps) <= MAX_COUNT or not 1 <= self.bits <= MAX_DELTA_BITS:
            raise ValueError(f"{len(self.steps)} steps of {self.bits} bits: expected 1 to 255 of 1 to 32 bits")
        half, packed, at = 1 << self.bits - 1, 0, 0
        for step in chain.from_iterable(self.steps):
            if not -half <= step < half:
                raise ValueError(f"step {step} does not fit {self.bits} bits")
            packed |= (step & 2 * half - 1) << at
            at += self.bits
        size = -(-at // 8)
        return bytes([self.bits, len(self.steps)]) + (packed | self.padding << at).to_bytes(size, "little")


def _block(data: bytes, offset: int) -> tuple[DeltaBlock, int]:
    """The block at an offset, and the offset behind it; raises DecodeError."""
    if len(data) < offset + 2:
        raise DecodeError(PROTOCOL, data, len(data), "too short: expected the width and number of steps")
    bits, count = data[offset], data[offset + 1]
    if not count or not 1 <= bits <= MAX_DELTA_BITS:
        raise DecodeError(PROTOCOL, data, offset, f"{count} steps of {bits} bits: expected 1 to 255 of 1 to 32 bits")
    used = count * AXES * bits
    start = offset + 2
    stop = start + -(-used // 8)
    if len(data) < stop:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {count} steps of {AXES} x {bits} bits")
    packed = int.from_bytes(data[start:stop], "little")
    return DeltaBlock(bits, _triples(_signed(packed, bits, count * AXES)), packed >> used), stop


def _signed(packed: int, bits: int, count: int) -> Iterator[int]:
    half, mask = 1 << bits - 1, (1 << bits) - 1
    for at in range(0, count * bits, bits):
        value = packed >> at & mask
        yield value - 2 * half if value & half else value


@dataclass(frozen=True, slots=True)
class DeltaAccFrame:
    """One notification of compressed samples: the first whole, then steps."""

    ticks: int
    """Sensor clock at the LAST sample, ns since 2000-01-01 (u64)."""
    reference: Sample
    """First sample, 16 bits each."""
    blocks: tuple[DeltaBlock, ...] = ()
    frame_type: int = 1
    """1: in mg, times the setting FACTOR where the sensor has one; 0: in units of FACTOR, which is in g."""
    flags: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError on anything but a compressed acceleration frame."""
        flags, ticks, frame_type = _head(data)
        if frame_type not in [COMPRESSED | known for known in DELTA_TYPES]:
            raise DecodeError(PROTOCOL, data, 9, f"frame type {frame_type:#04x}: expected compressed, 0x80 or 0x81")
        offset = _HEAD.size + _REFERENCE.size
        if len(data) < offset:
            raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {offset} bytes up to the first sample")
        reference = _REFERENCE.unpack_from(data, _HEAD.size)
        blocks = []
        while offset < len(data):
            block, offset = _block(data, offset)
            blocks.append(block)
        return cls(ticks, reference, tuple(blocks), frame_type & ~COMPRESSED, flags)

    def __bytes__(self) -> bytes:
        head = _head_bytes(self.flags, self.ticks, self.frame_type | COMPRESSED)
        return head + _REFERENCE.pack(*self.reference) + b"".join(map(bytes, self.blocks))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, oldest first; each is the one before plus its step."""
        found = [self.reference]
        for dx, dy, dz in chain.from_iterable(block.steps for block in self.blocks):
            x, y, z = found[-1]
            found.append((x + dx, y + dy, z + dz))
        return tuple(found)


def decode(data: bytes) -> AccFrame | DeltaAccFrame:
    """Notification of acceleration, raw or compressed; raises DecodeError."""
    compressed = len(data) >= _HEAD.size and data[_HEAD.size - 1] & COMPRESSED
    return DeltaAccFrame.from_bytes(data) if compressed else AccFrame.from_bytes(data)
