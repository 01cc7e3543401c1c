"""Polar Measurement Data (PMD), as the Polar H10 speaks it: ECG frames and the control point.

Knows nothing of the other PMD measurements (PPG, ACC, ...) beyond their numbers, nor of pairing.

Source: polarofficial/polar-ble-sdk, technical documentation ``online_measurement.pdf`` and the SDK's own parsers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from firmware_bridge.codec import Codec, EachNotification, Evidence, Options
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import DONE, OK, Read, Refusal, Rule, Subscribe, Table, Write
from firmware_bridge.packet import Packet, StreamInfo

PROTOCOL = "polar-pmd-ecg"

SERVICE_UUID = "fb005c80-02e7-f387-1cad-8acd2d8df0c8"
CONTROL_UUID = "fb005c81-02e7-f387-1cad-8acd2d8df0c8"
"""Control point: read (features), write (commands), indicate (responses)."""
DATA_UUID = "fb005c82-02e7-f387-1cad-8acd2d8df0c8"
"""Frames, by notification."""

EPOCH_UNIX_NS = 946_684_800_000_000_000
"""Unix time of the sensor clock's zero, 2000-01-01T00:00 (in ns)."""
CLOCK_RESET_TICKS = 599_616_000_000_000_000
"""What the sensor's clock starts from after a power-off, 2019-01-01T00:00 (in ns since 2000)."""
MIN_ATT_MTU = 232
"""A frame of 73 samples has 229 bytes, and ATT takes 3 of the MTU."""

STREAM_INFO = StreamInfo(
    protocol=PROTOCOL,
    modality="ecg",
    ch_names=("ecg",),
    units="mV",
    scale=0.001,  # sent in uV
    sfreq=130.0,
    sfreq_tolerance=0.05,  # H10_ECG_Explained: 2 % at 20..40 C, 5 % at -20..70 C
    tick_hz=1e9,
    tick_bits=64,
    stamped="last",
    value_range=(-20_000, 20_000),  # +-20 mV, H10_ECG_Explained
)


class Measurement(IntEnum):
    """PMD measurement types; the number is also the bit in :class:`Features`."""

    ECG = 0
    PPG = 1
    ACC = 2
    PPI = 3
    GYRO = 5
    MAG = 6
    SDK_MODE = 9


TYPE_MASK = 0x3F
"""Low six bits of a frame's first byte: the measurement."""
COMPRESSED = 0x80
"""Bit of the frame type: samples are delta-compressed (never so for ECG)."""

_HEAD = struct.Struct("<BQB")
_INT24 = (-(1 << 23), (1 << 23) - 1)
_PAD_BITS = 8  # an int24 in the upper three bytes of an int32


@dataclass(frozen=True, slots=True)
class EcgFrame:
    """One notification of the data characteristic: uncompressed ECG, frame type 0."""

    ticks: int
    """Sensor clock at the LAST sample, ns since 2000-01-01 (u64)."""
    samples: tuple[int, ...]
    """uV, oldest first; 73 as a rule, 72 was seen, at least one."""
    flags: int = 0
    """Upper two bits of the first byte; meaning not published, 0 on every sensor seen."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError on anything that is not an uncompressed ECG frame."""
        size = len(data)
        if size < _HEAD.size + 3:
            raise DecodeError(PROTOCOL, data, size, "too short: expected 10 header bytes and at least one sample")
        kind, ticks, frame_type = _HEAD.unpack_from(data)
        if kind & TYPE_MASK != Measurement.ECG:
            reason = f"measurement type {kind & TYPE_MASK}: expected {Measurement.ECG:d} (ECG)"
            raise DecodeError(PROTOCOL, data, 0, reason)
        if frame_type:
            raise DecodeError(PROTOCOL, data, 9, _frame_type_reason(frame_type))
        if (size - _HEAD.size) % 3:
            whole = size - (size - _HEAD.size) % 3
            raise DecodeError(PROTOCOL, data, whole, "sample cut short: expected 10 header bytes and 3 per sample")
        return cls(ticks, _unpack_int24(data), kind & ~TYPE_MASK)

    def __bytes__(self) -> bytes:
        if self.flags & TYPE_MASK:
            raise ValueError(f"flags {self.flags:#04x}: only the upper two bits of the first byte are flags")
        return _HEAD.pack(Measurement.ECG | self.flags, self.ticks, 0) + _pack_int24(self.samples)

    def packet(self) -> Packet:
        """The same samples as a Packet of the stream described by ``STREAM_INFO``."""
        return Packet(self.ticks, self.samples)


def decode_packet(data: bytes) -> Packet:
    """Notification of ``DATA_UUID`` to Packet; raises DecodeError."""
    return EcgFrame.from_bytes(data).packet()


def _frame_type_reason(frame_type: int) -> str:
    if frame_type & COMPRESSED:
        return f"frame type {frame_type:#04x}, delta-compressed: expected 0x00 (raw int24)"
    return f"frame type {frame_type:#04x}: expected 0x00 (raw int24)"


def _unpack_int24(data: bytes) -> tuple[int, ...]:
    """Widen each int24 to an int32 by strided copies: three times as fast as a loop over int.from_bytes."""
    n = (len(data) - _HEAD.size) // 3
    wide = bytearray(4 * n)
    wide[1::4] = data[10::3]
    wide[2::4] = data[11::3]
    wide[3::4] = data[12::3]
    return tuple([value >> _PAD_BITS for value in struct.unpack(f"<{n}i", wide)])


def _pack_int24(samples: tuple[int, ...]) -> bytes:
    if not samples or min(samples) < _INT24[0] or max(samples) > _INT24[1]:
        raise ValueError(f"an ECG frame holds at least one sample, each in {_INT24[0]}..{_INT24[1]} uV")
    wide = struct.pack(f"<{len(samples)}i", *samples)
    narrow = bytearray(3 * len(samples))
    narrow[0::3], narrow[1::3], narrow[2::3] = wide[0::4], wide[1::4], wide[2::4]
    return bytes(narrow)


@dataclass(frozen=True, slots=True)
class Features:
    """What a read of the control point answers: which measurements the sensor has."""

    mask: bytes
    """Bit ``m % 8`` of byte ``m // 8`` is measurement ``m``."""

    CODE = 0x0F

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode a read of ``CONTROL_UUID``; raises DecodeError."""
        _expect(data, 0, cls.CODE, "a feature read")
        if len(data) < 2:
            raise DecodeError(PROTOCOL, data, len(data), "too short: expected at least one byte of feature bits")
        return cls(bytes(data[1:]))

    def __bytes__(self) -> bytes:
        return bytes([self.CODE]) + self.mask

    def __contains__(self, measurement: int) -> bool:
        byte, bit = divmod(measurement, 8)
        return byte < len(self.mask) and bool(self.mask[byte] >> bit & 1)


def read_info(data: bytes) -> StreamInfo:
    """A read of the control point to StreamInfo; raises DecodeError where the sensor has PMD but no ECG."""
    if Measurement.ECG not in Features.from_bytes(data):
        raise DecodeError(PROTOCOL, data, 1, f"features {data[1]:#04x}: expected bit 0 (ECG)")
    return STREAM_INFO


class SettingId(IntEnum):
    """Keys of the settings list."""

    RATE = 0
    RESOLUTION = 1
    RANGE = 2
    RANGE_MILLIUNIT = 3
    CHANNELS = 4
    FACTOR = 5
    SECURITY = 6


SETTING_BYTES = {
    SettingId.RATE: 2,
    SettingId.RESOLUTION: 2,
    SettingId.RANGE: 2,
    SettingId.RANGE_MILLIUNIT: 4,
    SettingId.CHANNELS: 1,
    SettingId.FACTOR: 4,
    SettingId.SECURITY: 16,
}
"""Bytes of one value of each setting, little-endian."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One entry of a settings list: every value on offer, or the one that is asked for."""

    id: SettingId
    values: tuple[int, ...]
    """Unsigned integers; FACTOR carries the 32 bits of an IEEE float."""

    def __bytes__(self) -> bytes:
        size = SETTING_BYTES[self.id]
        return bytes([self.id, len(self.values)]) + b"".join(value.to_bytes(size, "little") for value in self.values)


def _settings(data: bytes, offset: int) -> tuple[Setting, ...]:
    """Settings list from ``offset`` to the end of a control point message."""
    found = []
    while offset < len(data):
        setting, offset = _setting(data, offset)
        found.append(setting)
    return tuple(found)


def _setting(data: bytes, offset: int) -> tuple[Setting, int]:
    if data[offset] not in SETTING_BYTES:
        raise DecodeError(PROTOCOL, data, offset, f"setting {data[offset]}: expected one of 0..{max(SETTING_BYTES):d}")
    if offset + 1 == len(data):
        raise DecodeError(PROTOCOL, data, offset + 1, "too short: expected the number of values of the setting")
    key, count = SettingId(data[offset]), data[offset + 1]
    size, start = SETTING_BYTES[key], offset + 2
    stop = start + count * size
    if stop > len(data):
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {count} x {size} bytes of setting {key:d}")
    values = tuple(int.from_bytes(data[at : at + size], "little") for at in range(start, stop, size))
    return Setting(key, values), stop


class Op(IntEnum):
    """Commands of the control point."""

    GET_SETTINGS = 1
    START = 2
    STOP = 3
    GET_STATUS = 5


@dataclass(frozen=True, slots=True)
class Command:
    """A write to the control point."""

    op: Op
    measurement: int = Measurement.ECG
    settings: tuple[Setting, ...] = ()
    """Only START has any."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode what a host writes (a virtual sensor does); raises DecodeError."""
        if len(data) < 2:
            raise DecodeError(PROTOCOL, data, len(data), "too short: expected a command and a measurement type")
        if data[0] not in tuple(Op):
            raise DecodeError(PROTOCOL, data, 0, f"command {data[0]}: expected one of 1, 2, 3, 5")
        if len(data) > 2 and data[0] != Op.START:
            raise DecodeError(PROTOCOL, data, 2, f"surplus bytes: expected 2 for command {data[0]}")
        return cls(Op(data[0]), data[1], _settings(data, 2))

    def __bytes__(self) -> bytes:
        return bytes([self.op, self.measurement]) + b"".join(map(bytes, self.settings))


ECG_SETTINGS = (Setting(SettingId.RATE, (130,)), Setting(SettingId.RESOLUTION, (14,)))
"""The only settings an H10 offers: 130 Hz, 14 bit."""
GET_SETTINGS = bytes(Command(Op.GET_SETTINGS))
START = bytes(Command(Op.START, Measurement.ECG, ECG_SETTINGS))
STOP = bytes(Command(Op.STOP))
"""To be written before leaving: an H10 left streaming stays on until its battery is empty."""


class Status(IntEnum):
    """Status codes whose meaning is known; a sensor may send others."""

    OK = 0
    ALREADY_IN_STATE = 6
    INVALID_RATE = 8
    INVALID_MTU = 10
    INVALID_STATE = 12
    IN_CHARGER = 13


@dataclass(frozen=True, slots=True)
class Response:
    """An indication of the control point that answers a command."""

    op: int
    measurement: int
    status: int
    """0 is success; see :class:`Status`."""
    more: int | None = None
    """Not 0: the answer goes on in another indication. None: the sensor did not say."""
    parameters: bytes = b""

    CODE = 0xF0

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode an indication of ``CONTROL_UUID``; raises DecodeError (also on a read echoed as an indication)."""
        _expect(data, 0, cls.CODE, "a response")
        if len(data) < 4:
            raise DecodeError(PROTOCOL, data, len(data), "too short: expected 0xf0, command, measurement, status")
        more = data[4] if len(data) > 4 else None
        return cls(data[1], data[2], data[3], more, bytes(data[5:]))

    def __bytes__(self) -> bytes:
        if self.more is None and self.parameters:
            raise ValueError("parameters follow the byte `more`: it cannot be None")
        more = b"" if self.more is None else bytes([self.more])
        return bytes([self.CODE, self.op, self.measurement, self.status]) + more + self.parameters

    def settings(self) -> tuple[Setting, ...]:
        """Parameters of an answer to GET_SETTINGS; raises DecodeError."""
        return _settings(bytes(self), 5) if self.parameters else ()


@dataclass(frozen=True, slots=True)
class Stopped:
    """An indication the sensor sends by itself: it has stopped these measurements."""

    measurements: tuple[int, ...]

    CODE = 0x01

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode an indication of ``CONTROL_UUID``; raises DecodeError."""
        _expect(data, 0, cls.CODE, "a stop notice")
        return cls(tuple(data[1:]))

    def __bytes__(self) -> bytes:
        return bytes([self.CODE, *self.measurements])


def _expect(data: bytes, offset: int, code: int, what: str) -> None:
    if len(data) <= offset:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {code:#04x} ({what})")
    if data[offset] != code:
        raise DecodeError(PROTOCOL, data, offset, f"{data[offset]:#04x}: expected {code:#04x} ({what})")


def _has_ecg(features: bytes) -> str:
    return OK if Measurement.ECG in Features.from_bytes(features) else "no ecg"


def _started(data: bytes) -> str | None:
    answer = Response.from_bytes(data)
    if (answer.op, answer.measurement) != (Op.START, Measurement.ECG):
        return None
    outcomes = {int(Status.OK): OK, int(Status.ALREADY_IN_STATE): OK, int(Status.INVALID_MTU): "mtu"}
    return outcomes.get(answer.status, "refused")


def start_table(_options: Options) -> Table:
    """Read the features before subscribing: BlueZ hands a read's value to the subscriber as well."""
    return {
        "features": Rule(Read(CONTROL_UUID), _has_ecg, {OK: "subscribe control", "no ecg": _NO_ECG}),
        "subscribe control": Rule(Subscribe(CONTROL_UUID), then="subscribe data"),
        "subscribe data": Rule(Subscribe(DATA_UUID), then="start"),
        "start": Rule(
            Write(CONTROL_UUID, START),
            _started,
            {OK: DONE, "mtu": _MTU, "refused": _REFUSED},
            answer=CONTROL_UUID,
        ),
    }


_NO_ECG = Refusal("has PMD, but no ECG", "use a Polar H10; an H9 or a Verity has none")
_MTU = Refusal("its frames do not fit the connection (ATT MTU below 232)", "use another Bluetooth adapter", False)
_REFUSED = Refusal("refuses to start its ECG", "take it off its charger or strap for a minute, then try again", False)


def _describe(answers: Mapping[str, bytes]) -> StreamInfo:
    return read_info(answers["features"])


CODEC = Codec(
    stream_info=STREAM_INFO,
    device="Polar H10 chest strap",
    service_uuid=SERVICE_UUID,
    data_uuid=DATA_UUID,
    decoder=lambda: EachNotification(decode_packet),
    start=start_table,
    stop={"stop": Rule(Write(CONTROL_UUID, STOP))},
    describe=_describe,
    evidence=Evidence(
        "capture", "12,355 notifications of an H10; polar-ble-sdk and its documents", "two links at once"
    ),
    names=("Polar H10",),
    secure=True,
    min_mtu=MIN_ATT_MTU,
    first_s=35.0,  # an H10 may start up to 30 s late
    stall_s=5.0,  # 9 frames
)
