"""Movesense GATT SensorData Protocol (GSP): ECG of the Movesense MD, HR+, HR2 and Flash, in uV or in raw counts.

Knows nothing of the sensor's log, of its other measurements, nor of its own protocol Whiteboard. Sensors whose firmware
lacks the GATT SensorData app have no GSP: they show a heart rate service only.

Source: Movesense, "GATT SensorData Protocol specification" (GD-77); payloads as captured from a Movesense Flash by
sokolmarek/movesense-commander (docs/gsp-protocol.md, layouts.hardware.test.ts), which the specification leaves open.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from firmware_bridge.codec import Codec, Evidence, Options
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import DONE, OK, Refusal, Rule, Subscribe, Table, Write
from firmware_bridge.packet import Packet, StreamInfo

PROTOCOL = "movesense-ecg"
RAW_PROTOCOL = "movesense-ecg-raw"

SERVICE_UUID = "34802252-7185-4d5d-b431-630e7050e8f0"
"""Not advertised: a packet of 31 bytes has no room for it beside the name."""
COMMAND_UUID = "34800001-7185-4d5d-b431-630e7050e8f0"
NOTIFY_UUID = "34800002-7185-4d5d-b431-630e7050e8f0"

RATES = (125, 128, 200, 250, 256, 500, 512)
"""Rates in Hz a sensor of current firmware offers; older firmware may lack some."""
RATE_HZ = 200
"""Default: the rate of every capture seen; R peaks to 5 ms."""
SAMPLES = 16
"""Samples of one notification (ArraySize of /Meas/ECG/Info)."""
UV_PER_COUNT = 1e6 / 2**17 / 20
"""0.38147 uV: the ADC's reference of 1 V over 17 bits and a sign, behind a gain of 20 (published as 0.381469726563)."""
ADC_RANGE = (-(2**17), 2**17 - 1)

STREAM_REF = 0x63
"""Our reference of the subscription: its answer and its data bear it."""
INFO_REF = 0x64
"""Our reference of the question for the rates."""
ATT_HEADER = 3


def _stream_info(protocol: str, rate_hz: int) -> StreamInfo:
    raw = protocol == RAW_PROTOCOL
    return StreamInfo(
        protocol=protocol,
        modality="ecg",
        ch_names=("ecg",),
        units="mV",
        scale=UV_PER_COUNT / 1000 if raw else 0.001,  # counts, or uV
        sfreq=float(rate_hz),
        sfreq_tolerance=0.01,  # no figure is published; a crystal, with room
        tick_hz=1000.0,
        tick_bits=32,
        stamped="first",
        value_range=ADC_RANGE if raw else (-(2**15), 2**15 - 1),
    )


STREAM_INFO = _stream_info(PROTOCOL, RATE_HZ)
RAW_STREAM_INFO = _stream_info(RAW_PROTOCOL, RATE_HZ)


class Op(IntEnum):
    """Commands. A GET of ``/Info`` is never answered, and keeps one of the sensor's few slots until it is restarted."""

    HELLO = 0
    SUBSCRIBE = 1
    UNSUBSCRIBE = 2
    GET = 4


@dataclass(frozen=True, slots=True)
class Command:
    """A write to the command characteristic."""

    op: Op
    ref: int
    """Chosen by the host; UNSUBSCRIBE has that of its SUBSCRIBE."""
    path: str = ""
    """Resource of SUBSCRIBE and GET; the others have none."""

    @classmethod
    def from_bytes(cls, data: bytes, protocol: str = PROTOCOL) -> Self:
        """Decode what a host writes (a virtual sensor does); raises DecodeError."""
        if len(data) < 2:
            raise DecodeError(protocol, data, len(data), "too short: expected a command and a reference")
        if data[0] not in tuple(Op):
            raise DecodeError(protocol, data, 0, f"command {data[0]}: expected one of 0, 1, 2, 4")
        op = Op(data[0])
        return cls(op, data[1], _path(data, protocol) if _has_path(op) else _nothing(data, protocol))

    def __bytes__(self) -> bytes:
        if _has_path(self.op) != bool(self.path) or "\0" in self.path:
            raise ValueError(f"{self.op.name} of {self.path!r}: SUBSCRIBE and GET have a path, the others none")
        return bytes([self.op, self.ref]) + (self.path.encode() + b"\0" if self.path else b"")


def _has_path(op: Op) -> bool:
    return op in (Op.SUBSCRIBE, Op.GET)


def _path(data: bytes, protocol: str) -> str:
    if len(data) < 4 or data.find(b"\0", 2) != len(data) - 1:
        raise DecodeError(protocol, data, len(data), "expected a path that ends with its only zero byte")
    try:
        return data[2:-1].decode()
    except UnicodeDecodeError as error:
        raise DecodeError(protocol, data, 2 + error.start, "path is not UTF-8") from error


def _nothing(data: bytes, protocol: str) -> str:
    if len(data) > 2:
        raise DecodeError(protocol, data, 2, f"surplus bytes: expected 2 for command {data[0]}")
    return ""


class Code(IntEnum):
    """First byte of a notification."""

    ANSWER = 1
    DATA = 2
    CONTINUATION = 3


def _expect_head(data: bytes, code: Code, size: int, protocol: str) -> None:
    if len(data) < size:
        raise DecodeError(protocol, data, len(data), f"too short: expected {size} bytes")
    if data[0] != code:
        raise DecodeError(protocol, data, 0, f"code {data[0]}: expected {code:d} ({code.name.lower()})")


class Status(IntEnum):
    """Status codes whose meaning is known, as in HTTP; a sensor may send others."""

    OK = 200
    NOT_FOUND = 404
    BUSY = 429


@dataclass(frozen=True, slots=True)
class Answer:
    """A notification that answers a command other than HELLO, whose answer has no status."""

    ref: int
    status: int
    """See :class:`Status`."""
    payload: bytes = b""

    _HEAD = struct.Struct("<BBH")

    @classmethod
    def from_bytes(cls, data: bytes, protocol: str = PROTOCOL) -> Self:
        """Decode; raises DecodeError."""
        _expect_head(data, Code.ANSWER, cls._HEAD.size, protocol)
        _, ref, status = cls._HEAD.unpack_from(data)
        return cls(ref, status, bytes(data[cls._HEAD.size :]))

    def __bytes__(self) -> bytes:
        return self._HEAD.pack(Code.ANSWER, self.ref, self.status) + self.payload


@dataclass(frozen=True, slots=True)
class EcgInfo:
    """Payload of the answer to a GET of ``/Meas/ECG/Info``."""

    rates: tuple[int, ...]
    """Rates on offer, in Hz."""
    array_size: int
    """Samples of one notification."""
    filters: bytes = b""
    """Low-pass and high-pass filters on offer; not looked into."""

    PATH: ClassVar[str] = "/Meas/ECG/Info"

    @classmethod
    def from_bytes(cls, data: bytes, protocol: str = PROTOCOL) -> Self:
        """Decode; raises DecodeError."""
        n = data[0] if data else 0
        end = 1 + 2 * n + 2
        if len(data) < end:
            raise DecodeError(protocol, data, len(data), f"too short: expected {end} bytes for {n} rates and a size")
        *rates, array_size = struct.unpack_from(f"<{n + 1}H", data, 1)
        return cls(tuple(rates), array_size, bytes(data[end:]))

    def __bytes__(self) -> bytes:
        numbers = struct.pack(f"<{len(self.rates) + 1}H", *self.rates, self.array_size)
        return bytes([len(self.rates)]) + numbers + self.filters


@dataclass(frozen=True, slots=True)
class EcgData:
    """A data notification of ``/Meas/ECG/{rate}/mV``, which is in microvolt despite its name."""

    ticks: int
    """ms since the sensor's start at the FIRST sample, modulo 2**32."""
    samples: tuple[int, ...]
    """16, oldest first, in uV."""
    ref: int = STREAM_REF

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"<BBI{SAMPLES}h")
    STREAM: ClassVar[str] = PROTOCOL

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect_head(data, Code.DATA, 2, cls.STREAM)
        if len(data) != cls.LAYOUT.size:
            reason = f"{len(data)} bytes: expected {cls.LAYOUT.size}, {SAMPLES} samples of {cls.STREAM}"
            raise DecodeError(cls.STREAM, data, min(len(data), cls.LAYOUT.size), reason)
        _, ref, ticks, *samples = cls.LAYOUT.unpack(data)
        return cls(ticks, tuple(samples), ref)

    def __bytes__(self) -> bytes:
        if len(self.samples) != SAMPLES:
            raise ValueError(f"{len(self.samples)} samples: a notification holds {SAMPLES}")
        return self.LAYOUT.pack(Code.DATA, self.ref, self.ticks, *self.samples)

    def packet(self) -> Packet:
        """The same samples as a Packet."""
        return Packet(self.ticks, self.samples)


@dataclass(frozen=True, slots=True)
class RawEcgData(EcgData):
    """A data notification of ``/Meas/ECG/{rate}``: the same in counts of the ADC."""

    LAYOUT: ClassVar[struct.Struct] = struct.Struct(f"<BBI{SAMPLES}i")
    STREAM: ClassVar[str] = RAW_PROTOCOL


class StreamDecoder:
    """Notifications to packets: those of our subscription hold data, all others are left alone."""

    def __init__(self, message: type[EcgData]) -> None:
        self._message = message

    def push(self, data: bytes) -> list[Packet]:
        """No packet or one; raises DecodeError."""
        protocol = self._message.STREAM
        if len(data) < 2:
            raise DecodeError(protocol, data, len(data), "too short: expected a code and a reference")
        if data[0] not in tuple(Code):
            raise DecodeError(protocol, data, 0, f"code {data[0]}: expected 1, 2 or 3")
        if data[0] == Code.ANSWER or data[1] != STREAM_REF:
            return []
        if data[0] == Code.CONTINUATION:
            raise DecodeError(protocol, data, 0, "data goes on in a second notification: the link's MTU is too small")
        return [self._message.from_bytes(data).packet()]


def path(protocol: str, rate_hz: int) -> str:
    """Resource of the ECG in uV, or in counts."""
    return f"/Meas/ECG/{rate_hz}" + ("" if protocol == RAW_PROTOCOL else "/mV")


STOP = bytes(Command(Op.UNSUBSCRIBE, STREAM_REF))
"""Its answer is not waited for: a sensor that has nothing to stop may not answer."""

_BUSY = Refusal(
    "answers 429 (no free request slot), and will until it is restarted",
    "take its battery out and put it back: connecting anew does not help",
    permanent=False,
)
_NO_MV = Refusal("has no ECG in mV: its firmware is older than 2.3", f"pair it as {RAW_PROTOCOL}, or update it")
_NO_ECG = Refusal("has no ECG at this rate", "pair it at another rate; see which firmware it has")
_REFUSED = Refusal("refuses to start its ECG", "take its battery out and put it back, then try again", permanent=False)
_OTHER_SIZE = Refusal(f"sends other than {SAMPLES} samples at a time", "update its firmware")


def _judge_info(rate_hz: int) -> Callable[[bytes], str | None]:
    """Firmware that cannot tell its rates is not held back: the subscription will."""

    def judge(data: bytes) -> str | None:
        answer = Answer.from_bytes(data)
        if answer.ref != INFO_REF:
            return None
        if answer.status != Status.OK:
            return "busy" if answer.status == Status.BUSY else OK
        try:
            info = EcgInfo.from_bytes(answer.payload)
        except DecodeError:
            return OK
        if info.array_size != SAMPLES:
            return "other size"
        return OK if rate_hz in info.rates else "other rates"

    return judge


def _judge_start(data: bytes) -> str | None:
    answer = Answer.from_bytes(data)
    if answer.ref != STREAM_REF:
        return None
    outcomes = {int(Status.OK): OK, int(Status.NOT_FOUND): "not found", int(Status.BUSY): "busy"}
    return outcomes.get(answer.status, "refused")


def _starting(rate_hz: int) -> str:
    """State that starts the stream; it bears the rate, for no answer does."""
    return f"start at {rate_hz} Hz"


def start_table(protocol: str, options: Options) -> Table:
    """Subscribe first, then ask, then start; raises ValueError for a rate no Movesense has."""
    rate_hz = RATE_HZ if options.sfreq is None else options.sfreq
    if rate_hz not in RATES:
        raise ValueError(f"{protocol} at {rate_hz:g} Hz: expected one of {', '.join(map(str, RATES))} Hz")
    start = _starting(int(rate_hz))
    subscribe = bytes(Command(Op.SUBSCRIBE, STREAM_REF, path(protocol, int(rate_hz))))
    no_path = _NO_ECG if protocol == RAW_PROTOCOL else _NO_MV
    return {
        "subscribe": Rule(Subscribe(NOTIFY_UUID), then="info"),
        "info": Rule(
            Write(COMMAND_UUID, bytes(Command(Op.GET, INFO_REF, EcgInfo.PATH))),
            _judge_info(int(rate_hz)),
            {OK: start, "busy": _BUSY, "other rates": _NO_ECG, "other size": _OTHER_SIZE},
            answer=NOTIFY_UUID,
        ),
        start: Rule(
            Write(COMMAND_UUID, subscribe),
            _judge_start,
            {OK: DONE, "busy": _BUSY, "not found": no_path, "refused": _REFUSED},
            answer=NOTIFY_UUID,
        ),
    }


def describe(protocol: str, answers: Mapping[str, bytes]) -> StreamInfo:
    """The stream at the rate that was started; raises DecodeError where none was."""
    for rate_hz in RATES:
        if _starting(rate_hz) in answers:
            return _stream_info(protocol, rate_hz)
    raise DecodeError(protocol, b"", 0, "no answer to a start")


def _codec(message: type[EcgData], device: str, evidence: Evidence) -> Codec:
    protocol = message.STREAM
    return Codec(
        stream_info=_stream_info(protocol, RATE_HZ),
        device=device,
        service_uuid=SERVICE_UUID,
        data_uuid=NOTIFY_UUID,
        decoder=lambda: StreamDecoder(message),
        start=lambda options: start_table(protocol, options),
        stop={"stop": Rule(Write(COMMAND_UUID, STOP))},
        describe=lambda answers: describe(protocol, answers),
        evidence=evidence,
        names=("Movesense ",),
        min_mtu=message.LAYOUT.size + ATT_HEADER,
        stall_s=5.0,  # 60 notifications
    )


_UNPROVEN = "that the time is the first sample's (so say the makers of its motion data), models other than the Flash"

CODEC = _codec(
    EcgData,
    "Movesense sensor",
    Evidence(
        "capture", "single notifications of a Movesense Flash, by movesense-commander and movesense-py", _UNPROVEN
    ),
)

RAW_CODEC = _codec(
    RawEcgData,
    "Movesense sensor, ECG in counts",
    Evidence(
        "worked-frame",
        "movesense-commander, which held both paths of a Movesense Flash side by side",
        f"{_UNPROVEN}, that counts keep to 18 bits",
    ),
)
