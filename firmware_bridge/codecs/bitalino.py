"""BITalino over BLE, one analogue channel: frames of skin conductance with a 4-bit count and a CRC.

Knows nothing of the other channels, of the simulated mode or of the digital outputs. Frames carry no time: the count is
the clock, at 10 Hz it wraps every 1.6 s, and a loss of 16 frames, or of any multiple, is seen by arrival time alone.

Source: BITalinoWorld/firmware-bitalino-revolution (main.c, live.c, uart.c) and the makers' frame decoders; EDA in uS
after PLUX, "BITalino (r)evolution EDA Sensor Data Sheet".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from firmware_bridge.codec import Codec, Evidence, Options
from firmware_bridge.codecs._framer import FrameError, Framer
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import DONE, Rule, Subscribe, Table, Write
from firmware_bridge.packet import Packet, StreamInfo

PROTOCOL = "bitalino-eda"

SERVICE_UUID = "c566488a-0882-4e1b-a6d0-0b717e652234"
COMMAND_UUID = "4051eb11-bf0a-4c74-8730-a48f4193fcea"
FRAMES_UUID = "40fdba6b-672e-47c4-808a-e529adff3633"

RATES = (1, 10, 100, 1000)
"""Rates in Hz, by their code in the rate command."""
RATE_HZ = 10
"""The one rate used: 1 Hz is too slow for EDA; at 100 Hz the count wraps in 0.16 s, and a radio link is later."""
EDA_CHANNEL = 2
"""A3, where the (r)evolution board has its EDA sensor; A1 is 0."""

ADC_MAX = 1023
"""Ten bits; an end of the range is out of range."""
VCC = 3.3
"""Supply and reference of the ADC in V."""
V_PER_US = 0.132
"""Sensor output in V per uS."""
SEQ_SPAN = 16
LONGEST_RUN = 7
"""Frames of one Packet: less than half the count's span, so that the step from stamp to stamp has one meaning."""


def conductance_ps(adc: int) -> int:
    """ADC value, 0 to 1023, to conductance in pS: adc / 2**10 * VCC / 0.132 uS."""
    return round(adc / (ADC_MAX + 1) * VCC / V_PER_US * 1e6)


STREAM_INFO = StreamInfo(
    protocol=PROTOCOL,
    modality="eda",
    ch_names=("eda",),
    units="uS",
    scale=1e-6,  # in pS
    sfreq=float(RATE_HZ),
    sfreq_tolerance=0.01,  # a crystal, and room for a ceramic resonator
    tick_hz=float(RATE_HZ),
    tick_bits=4,
    stamped="first",
    value_range=(0, conductance_ps(ADC_MAX)),
)

CRC_POLYNOMIAL = 0b10011
"""x^4 + x + 1."""


def _through_nibble(crc: int) -> int:
    """A remainder of four bits after four more have been shifted in."""
    for _ in range(4):
        crc = crc << 1 ^ CRC_POLYNOMIAL * (crc >> 3)
    return crc


_CRC_OF_NIBBLE = tuple(_through_nibble(crc) for crc in range(16))


def crc4(data: bytes) -> int:
    """CRC of a frame, whose last four bits are taken as zero: start 0, most significant bit first."""
    crc = 0
    for byte in data[:-1]:
        crc = _CRC_OF_NIBBLE[crc] ^ byte >> 4
        crc = _CRC_OF_NIBBLE[crc] ^ byte & 0x0F
    crc = _CRC_OF_NIBBLE[crc] ^ data[-1] >> 4
    return _CRC_OF_NIBBLE[crc]


@dataclass(frozen=True, slots=True)
class Frame:
    """One sample of one analogue channel."""

    seq: int
    """Counts frames, modulo 16."""
    adc: int
    """0 to 1023."""
    digital: int = 0
    """I1, I2, O1, O2 in bits 3 to 0."""

    SIZE = 3

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        if len(data) != cls.SIZE:
            reason = f"{len(data)} bytes: expected {cls.SIZE}"
            raise DecodeError(PROTOCOL, data, min(len(data), cls.SIZE), reason)
        if crc4(data) != data[2] & 0x0F:
            raise DecodeError(PROTOCOL, data, 2, f"CRC {data[2] & 0x0F}: expected {crc4(data)}")
        if data[0] & 0x03:
            raise DecodeError(PROTOCOL, data, 0, "low two bits are of a second channel: expected one channel")
        return cls(data[2] >> 4, (data[1] & 0x0F) << 6 | data[0] >> 2, data[1] >> 4)

    def __bytes__(self) -> bytes:
        if not (0 <= self.seq < SEQ_SPAN and 0 <= self.adc <= ADC_MAX and 0 <= self.digital <= 0x0F):
            raise ValueError(f"{self}: seq and digital have 4 bits, adc has 10")
        head = bytes([self.adc << 2 & 0xFF, self.digital << 4 | self.adc >> 6, self.seq << 4])
        return head[:2] + bytes([head[2] | crc4(head)])


def _follows(frame: Frame, following: Frame) -> bool:
    return following.seq == (frame.seq + 1) % SEQ_SPAN


def _read(data: bytes) -> Frame:
    try:
        return Frame.from_bytes(data)
    except DecodeError as error:
        raise FrameError(error.offset, error.reason) from error


class FrameDecoder:
    """Notifications, which hold any number of frames and pieces of them, to packets of frames that run on."""

    def __init__(self) -> None:
        self._framer = Framer(Frame.SIZE, _read, _follows, other=lambda _rest: 0)

    @property
    def held(self) -> int:
        """Bytes kept for the next push."""
        return self._framer.held

    def push(self, data: bytes) -> list[Packet]:
        """Packets now complete; raises DecodeError, whose ``packets`` are those on both sides of the fault."""
        frames, fault = self._framer.push(data)
        packets = _packets(frames)
        if fault is not None:
            buffer, error = fault
            raise DecodeError(PROTOCOL, buffer, error.offset, error.reason, packets)
        return packets


def _packets(frames: list[Frame]) -> list[Packet]:
    """Cut where frames are missing, and after LONGEST_RUN."""
    cuts = [0] if frames else []
    for at, (frame, following) in enumerate(pairwise(frames), start=1):
        if not _follows(frame, following) or at - cuts[-1] == LONGEST_RUN:
            cuts.append(at)
    runs = [frames[start:stop] for start, stop in pairwise([*cuts, len(frames)])]
    return [Packet(run[0].seq, tuple(conductance_ps(frame.adc) for frame in run)) for run in runs]


def set_rate(rate_hz: int) -> bytes:
    """Command that sets the rate; in idle mode only."""
    return bytes([RATES.index(rate_hz) << 6 | 0x03])


def start(channel: int) -> bytes:
    """Command that starts the stream of one channel, 0 to 5; in idle mode only."""
    return bytes([0x01 | 1 << 2 + channel])


STOP = b"\x00"
"""Ends the stream; in idle mode it sets the battery's threshold to its default, 3.4 V."""


def start_table(options: Options) -> Table:
    """Stop what a dead process left running, then set up and start; nothing is answered. Raises ValueError."""
    if options.sfreq not in (None, RATE_HZ):
        raise ValueError(f"{PROTOCOL} at {options.sfreq:g} Hz: a BITalino is read at {RATE_HZ} Hz only")
    return {
        "subscribe": Rule(Subscribe(FRAMES_UUID), then="halt"),
        "halt": Rule(Write(COMMAND_UUID, STOP), then="set rate"),
        "set rate": Rule(Write(COMMAND_UUID, set_rate(RATE_HZ)), then="start"),
        "start": Rule(Write(COMMAND_UUID, start(EDA_CHANNEL)), then=DONE),
    }


def _describe(_answers: Mapping[str, bytes]) -> StreamInfo:
    return STREAM_INFO


CODEC = Codec(
    stream_info=STREAM_INFO,
    device="BITalino BLE",
    service_uuid=SERVICE_UUID,
    data_uuid=FRAMES_UUID,
    decoder=FrameDecoder,
    start=start_table,
    stop={"stop": Rule(Write(COMMAND_UUID, STOP))},
    describe=_describe,
    evidence=Evidence(
        "worked-frame",
        "the makers' firmware and decoders; PLUX data sheet of the EDA sensor",
        "on hardware: whether A3 bears an EDA sensor (nothing says so), boards before (r)evolution have another scale,"
        " whether commands are taken with response",
    ),
    names=("BITalino",),
    stall_s=5.0,  # 50 frames
)
