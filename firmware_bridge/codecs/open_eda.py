"""Open EDA over BLE, version 1: affectd's own profile for home-made wrist sensors (PROTOCOL.md).

Knows nothing of radios, of pairing, or of how a sensor measures.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from firmware_bridge.codec import Codec, EachNotification, Evidence, Options
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import DONE, OK, Read, Refusal, Rule, Subscribe, Table, Write
from firmware_bridge.packet import Packet, StreamInfo

PROTOCOL = "open-eda"
VERSION = 1

# Base d220xxxx-e050-4774-8f46-7cfd5c3f80b3, drawn at random once; xxxx counts service and characteristics.
SERVICE_UUID = "d2200001-e050-4774-8f46-7cfd5c3f80b3"
INFO_UUID = "d2200002-e050-4774-8f46-7cfd5c3f80b3"
DATA_UUID = "d2200003-e050-4774-8f46-7cfd5c3f80b3"
STATUS_UUID = "d2200004-e050-4774-8f46-7cfd5c3f80b3"
CONTROL_UUID = "d2200005-e050-4774-8f46-7cfd5c3f80b3"

MAX_SAMPLES = 126
"""Samples in one notification: an attribute value has at most 512 bytes."""
OPEN_VALUE = -(2**31)
"""Sent for a sample that could not be taken because the electrodes are open."""
SATURATED_VALUE = 2**31 - 1
"""Sent for a sample beyond the sensor's range."""

DEFAULT_RATE_MHZ = 8_000
"""Default rate in mHz: EDA has nothing of use above 3 Hz, and every open sensor met runs near 8 Hz."""
DEFAULT_CLOCK_HZ = 1_000
SFREQ_TOLERANCE = 0.05
"""Relative error of the rate a maker may have: an RC oscillator without calibration."""


class Unit(IntEnum):
    """Unit of the values."""

    NANOSIEMENS = 0
    OHM = 1
    """Reserved: conductance is not linear in ohm, and a stream is read by a scale alone."""


def _stream_info(sfreq: float, tick_hz: float) -> StreamInfo:
    return StreamInfo(
        protocol=PROTOCOL,
        modality="eda",
        ch_names=("eda",),
        units="uS",
        scale=0.001,  # sent in nS
        sfreq=sfreq,
        sfreq_tolerance=SFREQ_TOLERANCE,
        tick_hz=tick_hz,
        tick_bits=32,
        stamped="first",
        seq_bits=16,
        value_range=(OPEN_VALUE, SATURATED_VALUE),
    )


STREAM_INFO = _stream_info(DEFAULT_RATE_MHZ / 1000, DEFAULT_CLOCK_HZ)
"""A sensor of the default rate; for any other, ``Info.stream_info``."""


@dataclass(frozen=True, slots=True)
class Info:
    """A read of the Info characteristic: how to read the data."""

    boot_id: int
    """Changes at every reset of the sensor: the clock and ``seq`` have started anew."""
    rate_mhz: int = DEFAULT_RATE_MHZ
    """Samples per 1000 s."""
    clock_hz: int = DEFAULT_CLOCK_HZ
    """Ticks per second of the clock that stamps the data."""
    unit: Unit = Unit.NANOSIEMENS
    n_channels: int = 1
    """Version 1 has one."""

    _LAYOUT = struct.Struct("<BBIBII")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect_version(data)
        _expect_size(data, cls._LAYOUT.size)
        _, n_channels, rate_mhz, unit, clock_hz, boot_id = cls._LAYOUT.unpack(data)
        if n_channels != 1:
            raise DecodeError(PROTOCOL, data, 1, f"{n_channels} channels: expected 1")
        if not rate_mhz:
            raise DecodeError(PROTOCOL, data, 2, "rate 0: expected more than 0 mHz")
        if unit not in tuple(Unit):
            raise DecodeError(PROTOCOL, data, 6, f"unit {unit}: expected 0 (nS)")
        if not clock_hz:
            raise DecodeError(PROTOCOL, data, 7, "clock 0: expected more than 0 Hz")
        return cls(boot_id, rate_mhz, clock_hz, Unit(unit), n_channels)

    def __bytes__(self) -> bytes:
        return self._LAYOUT.pack(VERSION, self.n_channels, self.rate_mhz, self.unit, self.clock_hz, self.boot_id)

    def stream_info(self) -> StreamInfo:
        """The stream of this sensor; raises DecodeError for unit 1, which no scale turns into conductance."""
        if self.unit is not Unit.NANOSIEMENS:
            reason = "unit 1 (ohm): expected 0; the sensor must send conductance in nS, 1e9 / ohm"
            raise DecodeError(PROTOCOL, bytes(self), 6, reason)
        return _stream_info(self.rate_mhz / 1000, float(self.clock_hz))


@dataclass(frozen=True, slots=True)
class Data:
    """One notification of the Data characteristic."""

    seq: int
    """Counts packets, modulo 65536, the dropped ones too."""
    ticks: int
    """Sensor clock at the FIRST sample, modulo 2**32."""
    samples: tuple[int, ...]
    """nS, oldest first, equally spaced, 1 to 126."""

    _HEAD = struct.Struct("<BBHI")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect_version(data)
        if len(data) < cls._HEAD.size:
            raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {cls._HEAD.size} header bytes")
        _, n, seq, ticks = cls._HEAD.unpack_from(data)
        if not 1 <= n <= MAX_SAMPLES:
            raise DecodeError(PROTOCOL, data, 1, f"{n} samples: expected 1 to {MAX_SAMPLES}")
        _expect_size(data, cls._HEAD.size + 4 * n)
        return cls(seq, ticks, struct.unpack_from(f"<{n}i", data, cls._HEAD.size))

    def __bytes__(self) -> bytes:
        n = len(self.samples)
        if not 1 <= n <= MAX_SAMPLES:
            raise ValueError(f"{n} samples: a notification holds 1 to {MAX_SAMPLES}")
        return self._HEAD.pack(VERSION, n, self.seq, self.ticks) + struct.pack(f"<{n}i", *self.samples)

    def packet(self) -> Packet:
        """The same samples as a Packet of the stream described by ``Info.stream_info``."""
        return Packet(self.ticks, self.samples, self.seq)


def read_info(data: bytes) -> StreamInfo:
    """Value of ``INFO_UUID`` to StreamInfo; raises DecodeError."""
    return Info.from_bytes(data).stream_info()


def decode_packet(data: bytes) -> Packet:
    """Notification of ``DATA_UUID`` to Packet; raises DecodeError."""
    return Data.from_bytes(data).packet()


def max_samples(mtu: int) -> int:
    """Samples that fit one notification at an ATT MTU (3 bytes of ATT, 8 of header, 4 per sample)."""
    return max(0, min(MAX_SAMPLES, (mtu - 3 - 8) // 4))


_ELECTRODE_OFF, _SATURATED, _OVERRUN = 0x01, 0x02, 0x04
_STATUS_BITS = _ELECTRODE_OFF | _SATURATED | _OVERRUN


@dataclass(frozen=True, slots=True)
class Status:
    """A read or notification of the Status characteristic."""

    electrode_off: bool = False
    saturated: bool = False
    overrun: bool = False
    """Samples were dropped on the sensor since the last Status."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect_size(data, 1)
        flags = data[0]
        if flags & ~_STATUS_BITS:
            raise DecodeError(PROTOCOL, data, 0, f"status {flags:#04x}: expected bits 0 to 2 only")
        return cls(bool(flags & _ELECTRODE_OFF), bool(flags & _SATURATED), bool(flags & _OVERRUN))

    def __bytes__(self) -> bytes:
        return bytes([_ELECTRODE_OFF * self.electrode_off | _SATURATED * self.saturated | _OVERRUN * self.overrun])


class Op(IntEnum):
    """Commands of the Control characteristic."""

    START = 1
    STOP = 2
    SET_RATE = 3


@dataclass(frozen=True, slots=True)
class Command:
    """A write to the Control characteristic."""

    op: Op
    rate_mhz: int | None = None
    """Only SET_RATE has one."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode what a host writes; raises DecodeError."""
        if not data:
            raise DecodeError(PROTOCOL, data, 0, "too short: expected a command")
        if data[0] not in tuple(Op):
            raise DecodeError(PROTOCOL, data, 0, f"command {data[0]}: expected 1 (start), 2 (stop) or 3 (set rate)")
        op = Op(data[0])
        _expect_size(data, 5 if op is Op.SET_RATE else 1)
        return cls(op, int.from_bytes(data[1:], "little") if op is Op.SET_RATE else None)

    def __bytes__(self) -> bytes:
        if (self.rate_mhz is not None) != (self.op is Op.SET_RATE):
            raise ValueError(f"rate {self.rate_mhz} with command {self.op.name}: SET_RATE has a rate, the others none")
        return bytes([self.op]) + (b"" if self.rate_mhz is None else struct.pack("<I", self.rate_mhz))


START = bytes(Command(Op.START))
STOP = bytes(Command(Op.STOP))


class Result(IntEnum):
    """Status codes of a response."""

    OK = 0
    UNKNOWN_COMMAND = 1
    INVALID_PARAMETER = 2
    INVALID_STATE = 3


@dataclass(frozen=True, slots=True)
class Response:
    """An indication of the Control characteristic."""

    op: int
    """The command it answers, as written by the host (it may be an unknown one)."""
    status: int
    """0 is success; see :class:`Result`."""

    CODE = 0xF0

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect_size(data, 3)
        if data[0] != cls.CODE:
            raise DecodeError(PROTOCOL, data, 0, f"{data[0]:#04x}: expected {cls.CODE:#04x} (a response)")
        return cls(data[1], data[2])

    def __bytes__(self) -> bytes:
        return bytes([self.CODE, self.op, self.status])


def _expect_version(data: bytes) -> None:
    if not data:
        raise DecodeError(PROTOCOL, data, 0, f"too short: expected version {VERSION}")
    if data[0] != VERSION:
        raise DecodeError(PROTOCOL, data, 0, f"version {data[0]}: expected {VERSION}")


def _expect_size(data: bytes, size: int) -> None:
    if len(data) < size:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {size} bytes")
    if len(data) > size:
        raise DecodeError(PROTOCOL, data, size, f"{len(data) - size} surplus bytes: expected {size}")


def _judge_info(rate_mhz: int | None) -> Callable[[bytes], str]:
    def judge(data: bytes) -> str:
        info = Info.from_bytes(data)
        info.stream_info()  # refuses ohm
        return OK if rate_mhz in (None, info.rate_mhz) else "other rate"

    return judge


def _judge_answer(op: Op) -> Callable[[bytes], str | None]:
    def judge(data: bytes) -> str | None:
        response = Response.from_bytes(data)
        if response.op != op:
            return None
        return OK if response.status == Result.OK else "refused"

    return judge


def _ask(command: Command, then: str, refused: str) -> Rule:
    """Rule of one command and its indication."""
    refusal = Refusal(f"refuses {refused}", "restart the sensor; see its firmware's notes", permanent=False)
    outcomes: dict[str, str | Refusal] = {OK: then, "refused": refusal}
    return Rule(Write(CONTROL_UUID, bytes(command)), _judge_answer(command.op), outcomes, answer=CONTROL_UUID)


def start_table(options: Options) -> Table:
    """Set the rate only where it differs; a sensor that runs on from a dead process is stopped for it."""
    rate_mhz = None if options.sfreq is None else round(options.sfreq * 1000)
    other = Refusal(f"does not run at {options.sfreq:g} Hz" if options.sfreq else "", "pair it again at its own rate")
    judge = _judge_info(rate_mhz)
    return {
        "info": Rule(Read(INFO_UUID), judge, {OK: "subscribe control", "other rate": "subscribe to set"}),
        "subscribe to set": Rule(Subscribe(CONTROL_UUID), then="halt"),
        "halt": _ask(Command(Op.STOP), "set rate", "to stop"),
        "set rate": Rule(
            Write(CONTROL_UUID, bytes(Command(Op.SET_RATE, rate_mhz or DEFAULT_RATE_MHZ))),
            _judge_answer(Op.SET_RATE),
            {OK: "info again", "refused": other},
            answer=CONTROL_UUID,
        ),
        "info again": Rule(Read(INFO_UUID), judge, {OK: "subscribe data", "other rate": other}),
        "subscribe control": Rule(Subscribe(CONTROL_UUID), then="subscribe data"),
        "subscribe data": Rule(Subscribe(DATA_UUID), then="start"),
        "start": _ask(Command(Op.START), DONE, "to start"),
    }


def _describe(answers: Mapping[str, bytes]) -> StreamInfo:
    return read_info(answers.get("info again", answers["info"]))


CODEC = Codec(
    stream_info=STREAM_INFO,
    device="open EDA sensor",
    service_uuid=SERVICE_UUID,
    data_uuid=DATA_UUID,
    decoder=lambda: EachNotification(decode_packet),
    start=start_table,
    stop={"stop": Rule(Write(CONTROL_UUID, STOP))},
    describe=_describe,
    evidence=Evidence("specification", "PROTOCOL.md, with a C encoder checked against this codec", "on hardware"),
    secure=True,
    min_mtu=23,
    stall_s=10.0,
)
