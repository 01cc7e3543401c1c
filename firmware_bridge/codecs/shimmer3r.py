"""Shimmer3R GSR+ over BLE, set up to send skin conductance alone: a stream of data packets, answers between them.

Knows nothing of the other sensors of a Shimmer, of its SD card, or of the CRC mode (off after every connection).

Source: ShimmerResearch/shimmer-web-sdk (constants.ts, streamFraming.ts, calibration.ts, gsr.ts) and the firmware's
log-and-stream-common (gsr.c).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from firmware_bridge.codec import Codec, Evidence, Options
from firmware_bridge.codecs._framer import FrameError, Framer
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import DONE, OK, Refusal, Rule, Subscribe, Table, Write
from firmware_bridge.packet import Packet, StreamInfo

PROTOCOL = "shimmer3r-gsr"

SERVICE_UUID = "65333333-a115-11e2-9e9a-0800200ca100"
COMMAND_UUID = "65333333-a115-11e2-9e9a-0800200ca102"
"""Written without response."""
DATA_UUID = "65333333-a115-11e2-9e9a-0800200ca101"
"""All that the sensor says, by indication."""

TICK_HZ = 32768
TICK_SPAN = 2**24
RATE_HZ = 32.0
"""Default rate: mains of 50 and 60 Hz fold to 14 and 4 Hz, clear of EDA; at the makers' 51.2 Hz, 50 folds to 1.2 Hz."""
RATES_HZ = (1.0, 512.0)
"""Rates that may be asked for: above, its packets outrun a BLE link."""

REFERENCE_KOHM = (40.2, 287.0, 1000.0, 3300.0)
"""Feedback resistor of each range."""
ADC_MAX = 4095
ADC_OPEN = 683
"""Below it the amplifier is at its 0.5 V reference, which no skin reaches: the electrodes are open."""
V_RATIO = 3.0 / 0.5
"""Reference of the ADC over that of the amplifier, both in V."""


class Op(IntEnum):
    """First bytes of messages; those to the sensor are commands."""

    DATA = 0x00
    INQUIRY = 0x01
    INQUIRY_RESPONSE = 0x02
    SET_RATE = 0x05
    START = 0x07
    SET_SENSORS = 0x08
    STOP = 0x20
    SET_GSR_RANGE = 0x21
    STATUS_RESPONSE = 0x71
    """Behind INSTREAM."""
    INSTREAM = 0x8A
    BATTERY_RESPONSE = 0x94
    """Behind INSTREAM."""
    NACK = 0xFE
    ACK = 0xFF


_FROM_SENSOR = frozenset({Op.DATA, Op.INQUIRY_RESPONSE, Op.INSTREAM, Op.NACK, Op.ACK})

GSR_CHANNEL = 0x1C
SENSORS_GSR = bytes([Op.SET_SENSORS, 0x04, 0x00, 0x00])
RANGE_AUTO = bytes([Op.SET_GSR_RANGE, 0x04])
ASK = bytes([Op.INQUIRY])
START = bytes([Op.START])
STOP = bytes([Op.STOP])


def set_rate(divisor: int) -> bytes:
    """Command: one sample every ``divisor`` ticks, 1 to 65535."""
    return struct.pack("<BH", Op.SET_RATE, divisor)


def conductance_ps(gsr_range: int, adc: int) -> int:
    """Conductance in pS of a range, 0 to 3, and an ADC value; 0 for open electrodes, VALUE_MAX for a full ADC."""
    if adc < ADC_OPEN:
        return 0
    if adc >= ADC_MAX:
        return VALUE_MAX
    # R = reference / (V / 0.5 V - 1), V = adc * 3 V / 4095: linear in the ADC value
    return round((adc * V_RATIO / ADC_MAX - 1.0) / REFERENCE_KOHM[gsr_range] * 1e9)


VALUE_MAX = round((V_RATIO - 1.0) / REFERENCE_KOHM[0] * 1e9)
"""The largest conductance it can mean, 124 uS, in pS."""


def _stream_info(divisor: int) -> StreamInfo:
    return StreamInfo(
        protocol=PROTOCOL,
        modality="eda",
        ch_names=("eda",),
        units="uS",
        scale=1e-6,  # in pS
        sfreq=TICK_HZ / divisor,
        sfreq_tolerance=0.001,  # the stamps are of the crystal that times the samples
        tick_hz=float(TICK_HZ),
        tick_bits=24,
        stamped="first",
        value_range=(0, VALUE_MAX),
    )


STREAM_INFO = _stream_info(int(TICK_HZ / RATE_HZ))


@dataclass(frozen=True, slots=True)
class Data:
    """A data packet with GSR as its one channel."""

    ticks: int
    """Sensor clock at the sample, 1/32768 s, modulo 2**24 (512 s)."""
    gsr_range: int
    """Feedback resistor, 0 to 3, as the automatic range chose it."""
    adc: int
    """0 to 4095."""

    SIZE = 6

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect(data, Op.DATA, cls.SIZE)
        if len(data) > cls.SIZE:
            raise DecodeError(PROTOCOL, data, cls.SIZE, f"{len(data) - cls.SIZE} surplus bytes: expected {cls.SIZE}")
        gsr = int.from_bytes(data[4:6], "little")
        if gsr >> 12 & 0x03:
            raise DecodeError(PROTOCOL, data, 5, "bits 12 and 13 of GSR set: expected a 12-bit value")
        return cls(int.from_bytes(data[1:4], "little"), gsr >> 14, gsr & ADC_MAX)

    def __bytes__(self) -> bytes:
        if not (0 <= self.gsr_range < len(REFERENCE_KOHM) and 0 <= self.adc <= ADC_MAX):
            raise ValueError(f"{self}: the range has 2 bits, the value 12")
        gsr = self.gsr_range << 14 | self.adc
        return bytes([Op.DATA]) + self.ticks.to_bytes(3, "little") + gsr.to_bytes(2, "little")

    def packet(self) -> Packet:
        """The sample in pS."""
        return Packet(self.ticks, (conductance_ps(self.gsr_range, self.adc),))


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Answer to ASK: how the sensor is set up."""

    divisor: int
    """Ticks per sample."""
    channels: tuple[int, ...]
    """Their ids, in the order of a data packet."""
    configuration: bytes = bytes(7)
    buffer_size: int = 1

    _HEAD = struct.Struct("<BH7sBB")
    HEAD_SIZE = _HEAD.size
    SIZE_AT = 10
    """Where the number of channels is."""
    MOST_CHANNELS = 32
    """No Shimmer comes near it: more is no inquiry response."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect(data, Op.INQUIRY_RESPONSE, cls._HEAD.size)
        _, divisor, configuration, n_channels, buffer_size = cls._HEAD.unpack_from(data)
        size = cls._HEAD.size + n_channels
        if n_channels > cls.MOST_CHANNELS or len(data) != size:
            raise DecodeError(PROTOCOL, data, min(size, len(data)), f"{len(data)} bytes: expected {size}")
        if not divisor:
            raise DecodeError(PROTOCOL, data, 1, "rate divisor 0: expected more")
        return cls(divisor, tuple(data[cls._HEAD.size :]), configuration, buffer_size)

    def __bytes__(self) -> bytes:
        head = self._HEAD.pack(
            Op.INQUIRY_RESPONSE, self.divisor, self.configuration, len(self.channels), self.buffer_size
        )
        return head + bytes(self.channels)

    def stream_info(self) -> StreamInfo:
        """The stream at this sensor's rate; raises DecodeError where it sends anything but GSR."""
        if self.channels != (GSR_CHANNEL,):
            raise DecodeError(PROTOCOL, bytes(self), self.SIZE_AT, f"channels {self.channels}: expected (28,) (GSR)")
        return _stream_info(self.divisor)


def _expect(data: bytes, op: Op, size: int) -> None:
    if not data or data[0] != op:
        raise DecodeError(PROTOCOL, data, 0, f"{data[:1].hex() or 'nothing'}: expected {op:02x} ({op.name.lower()})")
    if len(data) < size:
        raise DecodeError(PROTOCOL, data, len(data), f"too short: expected {size} bytes")


def answer_size(data: bytes) -> int | None:
    """Size of the answer these bytes begin with; 0 where they begin with none, None where more are needed."""
    if not data:
        return None
    if data[0] in (Op.ACK, Op.NACK):
        return 1
    if data[0] == Op.INQUIRY_RESPONSE:
        return _inquiry_size(data)
    if data[0] == Op.INSTREAM:
        return _instream_size(data)
    return 0


def _inquiry_size(data: bytes) -> int | None:
    if len(data) <= Inquiry.SIZE_AT:
        return None
    n_channels = data[Inquiry.SIZE_AT]
    if n_channels > Inquiry.MOST_CHANNELS:
        return 0
    size = Inquiry.HEAD_SIZE + n_channels
    return size if len(data) >= size else None


def _instream_size(data: bytes) -> int | None:
    if len(data) < 2:
        return None
    if data[1] == Op.STATUS_RESPONSE:
        return _status_size(data)
    if data[1] == Op.BATTERY_RESPONSE:
        return 5 if len(data) >= 5 else None
    return 0


def _status_size(data: bytes) -> int | None:
    """One byte of status; since firmware 1.0.24 another, 0 or 1, told from a data packet by what comes behind it."""
    if len(data) < 4:
        return None
    if data[3] > 1:
        return 3
    if data[3] == 1:
        return 4
    if len(data) < 5:
        return None
    return 4 if data[4] in _FROM_SENSOR else 3


def _read(data: bytes) -> Data:
    try:
        return Data.from_bytes(data)
    except DecodeError as error:
        raise FrameError(error.offset, error.reason) from error


STEP_TICKS = TICK_HZ
"""Longest step between packets that needs no confirmation: a second, the slowest rate."""


def _follows(data: Data, following: Data) -> bool:
    return 0 < (following.ticks - data.ticks) % TICK_SPAN <= STEP_TICKS


class DataDecoder:
    """Notifications, which hold any number of data packets, answers and pieces of them, to Packets of one sample.

    A data packet that lost bytes on its way takes those of the next: its value may be wrong before that shows.
    """

    def __init__(self) -> None:
        self._framer = Framer(Data.SIZE, _read, _follows, answer_size)

    @property
    def held(self) -> int:
        """Bytes kept for the next push."""
        return self._framer.held

    def push(self, data: bytes) -> list[Packet]:
        """Packets now certain; raises DecodeError, whose ``packets`` are those on both sides of the fault."""
        found, fault = self._framer.push(data)
        packets = [item.packet() for item in found]
        if fault is not None:
            buffer, error = fault
            raise DecodeError(PROTOCOL, buffer, error.offset, error.reason, packets)
        return packets


def _answers(data: bytes) -> Iterator[bytes]:
    """Answers of one notification, whatever data packets lie between; a cut one ends it."""
    while data:
        size = answer_size(data)
        if size:
            yield data[:size]
        elif size is None or data[0] != Op.DATA:
            return
        data = data[size or Data.SIZE :]


def _acknowledged(data: bytes) -> str | None:
    outcomes = {int(Op.ACK): OK, int(Op.NACK): "refused"}
    return next((outcomes[answer[0]] for answer in _answers(data) if answer[0] in outcomes), None)


def _inquiry(data: bytes) -> Inquiry | None:
    found = [answer for answer in _answers(data) if answer[0] == Op.INQUIRY_RESPONSE]
    return Inquiry.from_bytes(found[0]) if found else None


def _judge_inquiry(divisor: int) -> Callable[[bytes], str | None]:
    def judge(data: bytes) -> str | None:
        inquiry = _inquiry(data)
        if inquiry is None:
            return "refused" if _acknowledged(data) == "refused" else None
        if inquiry.channels != (GSR_CHANNEL,):
            return "channels"
        return OK if inquiry.divisor == divisor else "rate"

    return judge


_REMEDY = "take it off its dock, end what it records, and try again"


def _command(data: bytes, then: str, what: str) -> Rule:
    """Rule of a command that is acknowledged and no more."""
    outcomes: dict[str, str | Refusal] = {OK: then, "refused": Refusal(f"refuses {what}", _REMEDY, permanent=False)}
    return Rule(Write(COMMAND_UUID, data, response=False), _acknowledged, outcomes, answer=DATA_UUID)


def divisor_of(sfreq: float) -> int:
    """Ticks per sample at a rate in Hz, as the makers round it (down); raises ValueError."""
    if not RATES_HZ[0] <= sfreq <= RATES_HZ[1]:
        raise ValueError(f"{PROTOCOL} at {sfreq:g} Hz: expected {RATES_HZ[0]:g} to {RATES_HZ[1]:g}")
    return int(TICK_HZ / sfreq)


def start_table(options: Options) -> Table:
    """Stop what a dead process left running, set up GSR alone, ask whether that was taken, start. Raises ValueError."""
    divisor = divisor_of(RATE_HZ if options.sfreq is None else options.sfreq)
    return {
        "subscribe": Rule(Subscribe(DATA_UUID), then="halt"),
        "halt": _command(STOP, "set rate", "to stop"),
        "set rate": _command(set_rate(divisor), "set sensors", f"a rate of {TICK_HZ / divisor:g} Hz"),
        "set sensors": _command(SENSORS_GSR, "set range", "to send GSR alone"),
        "set range": _command(RANGE_AUTO, "inquiry", "the automatic range"),
        "inquiry": Rule(
            Write(COMMAND_UUID, ASK, response=False),
            _judge_inquiry(divisor),
            {
                OK: "start",
                "channels": Refusal("does not send GSR alone", "use a Shimmer3R GSR+ unit"),
                "rate": Refusal("does not take the rate", "pair it again without a rate"),
                "refused": Refusal("refuses to say how it is set up", _REMEDY, permanent=False),
            },
            answer=DATA_UUID,
        ),
        "start": _command(START, DONE, "to start"),
    }


def _describe(answers: Mapping[str, bytes]) -> StreamInfo:
    inquiry = _inquiry(answers["inquiry"])
    if inquiry is None:
        raise DecodeError(PROTOCOL, answers["inquiry"], 0, "no inquiry response")
    return inquiry.stream_info()


CODEC = Codec(
    stream_info=STREAM_INFO,
    device="Shimmer3R GSR+",
    service_uuid=SERVICE_UUID,
    data_uuid=DATA_UUID,
    decoder=DataDecoder,
    start=start_table,
    stop={"stop": Rule(Write(COMMAND_UUID, STOP, response=False))},
    describe=_describe,
    evidence=Evidence(
        "worked-frame",
        "shimmer-web-sdk and the firmware's own source, both by the maker",
        "on hardware; that it takes 32 Hz; how far values jump where the automatic range switches;"
        " newer firmware prefers to notify on ..ca102",
    ),
    names=("Shimmer3R",),
    stall_s=5.0,  # 160 packets
)
