"""Nuanic ring (the successor of the Moodmetric ring): skin resistance of a finger, one sample per notification.

Knows nothing of the ring's own stress index, its motion data, its flash memory, nor of the older Moodmetric ring, which
has other services and whose bytes nobody has put a unit to. A change of mode mutes the ring for a minute: the mode is
read first, written only where it is another, and left alone on the way out. The ring thus stays in raw mode, and
its own app shows no stress index until it sets its mode again.

Source: nuanic-ring 0.3.0 (PhelaPoscam/Nuanic_Moodmetric_BLE, MIT), by reverse engineering.
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

PROTOCOL = "nuanic-eda"

SERVICE_UUID = "5491faaf-b0c2-4167-8f3d-bc6b31db69e7"
EDA_UUID = "42dcb71b-1817-43bd-8ea3-7272780a1c9f"
"""Resistance, by notification; silent in other modes than raw, and off the finger."""
MODE_UUID = "3cce21a7-e602-4e02-8c52-1e0366c1c846"
RATE_UUID = "516b0fb6-d861-4619-9dd0-0105e8b85128"
CLOCK_UUID = "dc9c31a7-fbd3-467a-8777-10900c423d3b"

RATES = range(3, 17)
"""Rates in Hz, in one byte."""
RATE_HZ = 8
"""Default: 125 ms, a whole number of ms as the ring's clock has it; EDA has nothing of use above 3 Hz."""
NS_PER_MS = 1_000_000
MUTE_S = 60.0
"""Silence after a change of mode."""
FIRST_S = 75.0
"""The mute, and a quarter more."""

PS_OHM = 10**12
"""Conductance in pS = PS_OHM / ohm."""
PS_MAX = 10**9
"""Conductance taken as a short circuit, 1000 uS, in pS: ten times the moistest skin."""
OPEN_OHM = 2**32 - 1
"""All ones, the largest resistance that can be sent: taken as open electrodes, 0 pS."""


def _stream_info(rate_hz: int) -> StreamInfo:
    return StreamInfo(
        protocol=PROTOCOL,
        modality="eda",
        ch_names=("eda",),
        units="uS",
        scale=1e-6,  # in pS
        sfreq=float(rate_hz),
        sfreq_tolerance=0.02,  # periods are whole ms: 15 Hz is 66 or 67 ms, 1 % off; 16 Hz was seen as 63 ms
        tick_hz=1000.0,
        tick_bits=64,
        stamped="first",
        value_range=(0, PS_MAX),
    )


STREAM_INFO = _stream_info(RATE_HZ)


class Mode(IntEnum):
    """What the ring sends and keeps."""

    STANDBY = 0
    RAW = 1
    LIVE = 2
    RESEARCH = 3


def _expect_size(data: bytes, size: int) -> None:
    if len(data) != size:
        raise DecodeError(PROTOCOL, data, min(len(data), size), f"{len(data)} bytes: expected {size}")


@dataclass(frozen=True, slots=True)
class Eda:
    """One notification: one sample."""

    boot_count: int
    """Counts the ring's starts (u16): after one, its clock has started anew."""
    ticks: int
    """Ring clock at the sample, in ms (u64): since 1970 once set, or the ring's start."""
    ohm: int
    """Resistance of the skin, u32."""

    _LAYOUT = struct.Struct("<HQI")

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        _expect_size(data, cls._LAYOUT.size)
        return cls(*cls._LAYOUT.unpack(data))

    def __bytes__(self) -> bytes:
        return self._LAYOUT.pack(self.boot_count, self.ticks, self.ohm)

    @property
    def conductance_ps(self) -> int:
        """1 / ohm in pS; 0 (open) and PS_MAX (0 to 1000 ohm) are the ends of the range, where a value counts not."""
        if self.ohm == OPEN_OHM:
            return 0
        if self.ohm * PS_MAX <= PS_OHM:
            return PS_MAX
        return (PS_OHM + self.ohm // 2) // self.ohm

    def packet(self) -> Packet:
        """The sample as a Packet of one value."""
        return Packet(self.ticks, (self.conductance_ps,), boot=self.boot_count)


def decode_packet(data: bytes) -> Packet:
    """Notification of ``EDA_UUID`` to Packet; raises DecodeError."""
    return Eda.from_bytes(data).packet()


def read_mode(data: bytes) -> Mode:
    """A read of ``MODE_UUID``; raises DecodeError."""
    _expect_size(data, 1)
    if data[0] not in tuple(Mode):
        raise DecodeError(PROTOCOL, data, 0, f"mode {data[0]}: expected 0 (standby), 1 (raw), 2 (live) or 3 (research)")
    return Mode(data[0])


def read_rate(data: bytes) -> int:
    """A read of ``RATE_UUID``, in Hz; raises DecodeError."""
    _expect_size(data, 1)
    if data[0] not in RATES:
        raise DecodeError(PROTOCOL, data, 0, f"rate {data[0]} Hz: expected {RATES[0]} to {RATES[-1]}")
    return data[0]


def clock_bytes(unix_ns: int) -> bytes:
    """What sets the ring's clock to a time in ns since 1970: u64 ms."""
    return struct.pack("<Q", unix_ns // NS_PER_MS)


def _judge_mode(data: bytes) -> str:
    return OK if read_mode(data) is Mode.RAW else "other mode"


def _judge_rate(rate_hz: int) -> Callable[[bytes], str]:
    """A ring that has no rate yet, or one out of range, is set as any other."""

    def judge(data: bytes) -> str:
        _expect_size(data, 1)
        return OK if data[0] == rate_hz else "other rate"

    return judge


def start_table(options: Options) -> Table:
    """Write only what differs; the clock only where the host tells the time. Raises ValueError for an odd rate."""
    rate_hz = RATE_HZ if options.sfreq is None else options.sfreq
    if rate_hz not in RATES:
        raise ValueError(f"{PROTOCOL} at {rate_hz:g} Hz: expected a whole number, {RATES[0]} to {RATES[-1]} Hz")
    clock = {"set clock": Rule(Write(CLOCK_UUID, clock_bytes(options.unix_ns)), then="subscribe")}
    set_up = "set clock" if options.unix_ns > 0 else "subscribe"
    judge_rate = _judge_rate(int(rate_hz))
    return {
        "mode": Rule(Read(MODE_UUID), _judge_mode, {OK: "rate", "other mode": "set mode"}),
        "set mode": Rule(Write(MODE_UUID, bytes([Mode.RAW])), then="rate"),
        "rate": Rule(Read(RATE_UUID), judge_rate, {OK: set_up, "other rate": "set rate"}),
        "set rate": Rule(Write(RATE_UUID, bytes([int(rate_hz)])), then="rate again"),
        "rate again": Rule(Read(RATE_UUID), judge_rate, {OK: set_up, "other rate": _KEEPS_RATE}),
        **(clock if options.unix_ns > 0 else {}),
        "subscribe": Rule(Subscribe(EDA_UUID), then=DONE),
    }


_KEEPS_RATE = Refusal("does not take on the rate", "pair it again at another rate, 3 to 16 Hz")

STOP: Table = {}
"""Nothing to be said: notifications end with the link, and standby would cost the next start a mute of a minute."""


def _describe(answers: Mapping[str, bytes]) -> StreamInfo:
    return _stream_info(read_rate(answers.get("rate again", answers["rate"])))


CODEC = Codec(
    stream_info=STREAM_INFO,
    device="Nuanic ring",
    service_uuid=SERVICE_UUID,
    data_uuid=EDA_UUID,
    decoder=lambda: EachNotification(decode_packet),
    start=start_table,
    stop=STOP,
    describe=_describe,
    evidence=Evidence(
        "reverse-engineered",
        "nuanic-ring 0.3.0",
        "on hardware by us; that mode and rate can be read (its probes did), that a new rate does not mute,"
        " what it sends for open electrodes, that it needs a bond (its client makes one); off the finger it is silent",
    ),
    names=("Nuanic",),
    secure=True,
    first_s=FIRST_S,
)
