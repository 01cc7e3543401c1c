"""Nervous EDA and Nervous ECG (INL, Lyon): Protocol Buffers in COBS frames over the Nordic UART service.

Knows nothing of radios. The service tells nothing, half of all hobby sensors have it: the sensor's model number does.
A frame may be cut over several notifications, as the ECG's firmware does on small MTUs.

Source: sensors-inl/Nervous-Sensors (protocol/renforce.proto, codec.py, nervous_eda.py, nervous_ecg.py) and the makers'
firmware, sensors-inl/Nervous-ECG (measurement.c, hardware/README.md) and sensors-inl/Nervous-EDA (main.c, eda_dsp.c).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from firmware_bridge.codec import Codec, Evidence, Options
from firmware_bridge.codecs import _cobs as cobs
from firmware_bridge.codecs import _protobuf as pb
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import DONE, OK, Read, Refusal, Rule, Subscribe, Table, Write
from firmware_bridge.packet import Packet, StreamInfo

EDA_PROTOCOL = "nervous-eda"
ECG_PROTOCOL = "nervous-ecg"

SERVICE_UUID = "6e400001-b5a3-f393-e0a9-e50e24dcca9e"
"""Nordic UART: said by thousands of other devices too."""
WRITE_UUID = "6e400002-b5a3-f393-e0a9-e50e24dcca9e"
NOTIFY_UUID = "6e400003-b5a3-f393-e0a9-e50e24dcca9e"
MODEL_UUID = "00002a24-0000-1000-8000-00805f9b34fb"
"""Model Number String of the Device Information service."""
EDA_MODEL = b"Nervous EDA"
ECG_MODEL = b"Nervous ECG"
"""How the model numbers begin: ``Nervous EDA Sensors``, ``Nervous ECG``."""
NAME_PATTERN = r"(?:RENFORCE )?{kind} [0-9A-F]{{4}}"
"""Whole advertised names, kind EDA or ECG; older firmware put RENFORCE before it."""

DELIMITER = b"\x00"
MAX_FRAME = 1024
"""Bytes without a delimiter that are no frame any more: the longest message, 16 impedances, has under 230."""
US_PER_S = 1_000_000
TICK_BITS = 64

PS_MAX = 10**9
"""Conductance taken as a short circuit, 1000 uS, in pS: ten times the moistest skin."""

ECG_COUNT_MV = 3300 / 4 / 2**13 / 631
"""mV at the electrodes per count: a quarter of the 3.3 V supply over 13 bits and a sign, behind a gain of 56 dB."""
ECG_FULL_SCALE = 2**13
"""Counts of a full ADC, either way."""


def _stream_info(protocol: str) -> StreamInfo:
    ecg = protocol == ECG_PROTOCOL
    return StreamInfo(
        protocol=protocol,
        modality="ecg" if ecg else "eda",
        ch_names=("ecg",) if ecg else ("eda",),
        units="mV" if ecg else "uS",
        scale=ECG_COUNT_MV if ecg else 1e-6,  # counts, or pS
        sfreq=512.0 if ecg else 8.0,
        sfreq_tolerance=0.02,  # the ECG's firmware waits between buffers for a time adjusted by experiment
        tick_hz=float(US_PER_S),
        tick_bits=TICK_BITS,
        stamped="first",
        value_range=(-ECG_FULL_SCALE, ECG_FULL_SCALE - 1) if ecg else (0, PS_MAX),
    )


EDA_STREAM_INFO = _stream_info(EDA_PROTOCOL)
ECG_STREAM_INFO = _stream_info(ECG_PROTOCOL)


def _fields(protocol: str, data: bytes) -> tuple[pb.Field, ...]:
    try:
        return pb.fields(data)
    except pb.WireError as error:
        raise DecodeError(protocol, data, error.offset, str(error)) from error


@dataclass(frozen=True, slots=True)
class Timestamp:
    """Message Timestamp: the sensor's clock, and what the host writes to set it."""

    seconds: int
    """Since 1970 once set."""
    us: int = 0

    @classmethod
    def from_bytes(cls, data: bytes, protocol: str = EDA_PROTOCOL) -> Self:
        """Decode; raises DecodeError."""
        found = _fields(protocol, data)
        return cls(pb.last_varint(found, 1), pb.last_varint(found, 2) & pb.U32_MASK)

    @classmethod
    def of_unix_ns(cls, unix_ns: int) -> Self:
        """Wall time in ns since 1970, cut to microseconds."""
        return cls(*divmod(unix_ns // 1000, US_PER_S))

    def __bytes__(self) -> bytes:
        return pb.varint_field(1, self.seconds) + pb.varint_field(2, self.us)

    @property
    def ticks(self) -> int:
        """In microseconds, modulo 2**64."""
        return (self.seconds * US_PER_S + self.us) & pb.U64_MASK


def _timestamp(found: tuple[pb.Field, ...], number: int, protocol: str, data: bytes) -> Timestamp:
    parts = pb.every_bytes(found, number)
    if not parts:
        raise DecodeError(protocol, data, len(data), f"no timestamp: expected field {number}")
    return Timestamp.from_bytes(b"".join(parts), protocol)


@dataclass(frozen=True, slots=True)
class Impedance:
    """Message Impedance, in ohm; 32-bit floats."""

    real: float
    imag: float = 0.0

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        found = _fields(EDA_PROTOCOL, data)
        return cls(*struct.unpack("<2f", pb.last_fixed32(found, 1) + pb.last_fixed32(found, 2)))

    def __bytes__(self) -> bytes:
        real, imag = struct.pack("<f", self.real), struct.pack("<f", self.imag)
        return pb.fixed32_field(1, real) + pb.fixed32_field(2, imag)

    @property
    def conductance_ps(self) -> int:
        """1 / |Z| in pS: 0 for open electrodes or what is no number, PS_MAX for a short circuit."""
        ohm = math.hypot(self.real, self.imag)
        if math.isnan(ohm):
            return 0
        return PS_MAX if ohm * PS_MAX <= 1e12 else round(1e12 / ohm)


@dataclass(frozen=True, slots=True)
class EdaBuffer:
    """Message EdaBuffer: one measurement in time, the impedance at each frequency of a spectrum."""

    impedances: tuple[Impedance, ...]
    """Lowest frequency first, at least one; the firmware sends 16, from 12 Hz on. No samples in time."""
    timestamp: Timestamp
    """Taken when the measurement's last quarter second has been computed."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        found = _fields(EDA_PROTOCOL, data)
        impedances = tuple(Impedance.from_bytes(part) for part in pb.every_bytes(found, 1))
        if not impedances:
            raise DecodeError(EDA_PROTOCOL, data, len(data), "no impedance: expected field 1")
        return cls(impedances, _timestamp(found, 2, EDA_PROTOCOL, data))

    def __bytes__(self) -> bytes:
        impedances = b"".join(pb.bytes_field(1, bytes(impedance)) for impedance in self.impedances)
        return impedances + pb.bytes_field(2, bytes(self.timestamp))

    def packet(self) -> Packet:
        """Conductance at the lowest frequency, the nearest to what EDA is."""
        return Packet(self.timestamp.ticks, (self.impedances[0].conductance_ps,))


class Leads(IntEnum):
    """Electrodes that have come off."""

    ON = 0
    LEFT_OFF = 1
    RIGHT_OFF = 2
    BOTH_OFF = 3


@dataclass(frozen=True, slots=True)
class EcgBuffer:
    """Message EcgBuffer: samples in time."""

    samples: tuple[int, ...]
    """Counts, 16 bits, oldest first, at least one; the firmware sends 100."""
    leads: Leads
    timestamp: Timestamp
    """At the FIRST sample."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode; raises DecodeError."""
        found = _fields(ECG_PROTOCOL, data)
        parts = pb.every_bytes(found, 1)
        raw = parts[-1] if parts else b""
        if not raw or len(raw) % 2:
            raise DecodeError(ECG_PROTOCOL, data, len(data), f"{len(raw)} bytes of samples: expected 2 for each")
        leads = pb.last_varint(found, 2)
        if leads not in tuple(Leads):
            raise DecodeError(ECG_PROTOCOL, data, len(data), f"electrode status {leads}: expected 0 to 3")
        timestamp = _timestamp(found, 3, ECG_PROTOCOL, data)
        return cls(struct.unpack(f"<{len(raw) // 2}h", raw), Leads(leads), timestamp)

    def __bytes__(self) -> bytes:
        samples = pb.bytes_field(1, struct.pack(f"<{len(self.samples)}h", *self.samples))
        return samples + pb.varint_field(2, self.leads) + pb.bytes_field(3, bytes(self.timestamp))

    def packet(self) -> Packet:
        """Counts, held to the ADC's range; all at its end while both electrodes are off."""
        low, high = ECG_STREAM_INFO.value_range
        if self.leads is Leads.BOTH_OFF:
            return Packet(self.timestamp.ticks, (high,) * len(self.samples))
        return Packet(self.timestamp.ticks, tuple(min(max(value, low), high) for value in self.samples))


def frame(message: bytes) -> bytes:
    """A message as it goes over the air."""
    return cobs.encode(message) + DELIMITER


class FrameDecoder:
    """Notifications, which hold frames and pieces of them, to packets."""

    def __init__(self, protocol: str, decode: Callable[[bytes], EdaBuffer | EcgBuffer]) -> None:
        self._protocol = protocol
        self._decode = decode
        self._pending = b""

    def push(self, data: bytes) -> list[Packet]:
        """Packets now complete; raises DecodeError, whose ``packets`` are those on both sides of the fault."""
        *frames, self._pending = (self._pending + data).split(DELIMITER)
        packets: list[Packet] = []
        faults: list[DecodeError] = []
        for packed in filter(None, frames):
            try:
                packets.append(self._packet(packed))
            except DecodeError as error:
                faults.append(error)
        if len(self._pending) > MAX_FRAME:
            faults.append(self._endless())
        if faults:
            raise DecodeError(self._protocol, faults[0].data, faults[0].offset, faults[0].reason, packets)
        return packets

    def _packet(self, packed: bytes) -> Packet:
        try:
            message = cobs.decode(packed)
        except cobs.CobsError as error:
            raise DecodeError(self._protocol, packed, error.offset, str(error)) from error
        return self._decode(message).packet()

    def _endless(self) -> DecodeError:
        """Keeps one byte, so that what is left of the frame is still seen as part of a broken one."""
        lost, self._pending = self._pending, self._pending[-1:]
        return DecodeError(self._protocol, lost, MAX_FRAME, f"{len(lost)} bytes without a zero: expected a frame's end")


def start_table(model: bytes, options: Options) -> Table:
    """Make sure of the model, set the sensor's clock, subscribe: it streams from then on. Raises ValueError."""
    kind = "EDA" if model == EDA_MODEL else "ECG"
    info = EDA_STREAM_INFO if model == EDA_MODEL else ECG_STREAM_INFO
    if options.sfreq not in (None, info.sfreq):
        raise ValueError(f"{info.protocol} at {options.sfreq:g} Hz: the sensor has {info.sfreq:g} Hz only")
    other = Refusal(f"is no Nervous {kind}", "pair it as what it is, see `affectd-pair scan`")
    clock = frame(bytes(Timestamp.of_unix_ns(options.unix_ns)))
    return {
        "model": Rule(
            Read(MODEL_UUID),
            lambda value: OK if value.startswith(model) else "other",
            {OK: "set clock", "other": other},
        ),
        "set clock": Rule(Write(WRITE_UUID, clock, response=False), then="subscribe"),
        "subscribe": Rule(Subscribe(NOTIFY_UUID), then=DONE),
    }


STOP: Table = {}
"""Nothing to be said: a sensor stops when the link ends."""


def _start_eda(options: Options) -> Table:
    return start_table(EDA_MODEL, options)


def _start_ecg(options: Options) -> Table:
    return start_table(ECG_MODEL, options)


def _describe_eda(_answers: Mapping[str, bytes]) -> StreamInfo:
    return EDA_STREAM_INFO


def _describe_ecg(_answers: Mapping[str, bytes]) -> StreamInfo:
    return ECG_STREAM_INFO


EDA_CODEC = Codec(
    stream_info=EDA_STREAM_INFO,
    device="Nervous EDA",
    service_uuid=SERVICE_UUID,
    data_uuid=NOTIFY_UUID,
    decoder=lambda: FrameDecoder(EDA_PROTOCOL, EdaBuffer.from_bytes),
    start=_start_eda,
    stop=STOP,
    describe=_describe_eda,
    evidence=Evidence(
        "worked-frame",
        "nervous-sensors 0.2.2 with its .proto, and the makers' firmware",
        "on hardware; that |Z| at 12 Hz, the lowest frequency sent, is near the direct-current conductance of"
        " other sensors; its stamp is late by up to a quarter second; the model number of old firmware",
    ),
    names=("EDA ", "RENFORCE EDA "),
    service_tells=False,  # the Nordic UART service
)

ECG_CODEC = Codec(
    stream_info=ECG_STREAM_INFO,
    device="Nervous ECG",
    service_uuid=SERVICE_UUID,
    data_uuid=NOTIFY_UUID,
    decoder=lambda: FrameDecoder(ECG_PROTOCOL, EcgBuffer.from_bytes),
    start=_start_ecg,
    stop=STOP,
    describe=_describe_ecg,
    evidence=Evidence(
        "worked-frame",
        "nervous-sensors 0.2.2 with its .proto, and the makers' firmware and board",
        "on hardware; amplitude is not calibrated: the makers say arbitrary units, its scale is worked out of board"
        " and firmware and holds at 13 Hz in a 7 to 24 Hz band; the model number of old firmware",
    ),
    names=("ECG ", "RENFORCE ECG "),
    service_tells=False,  # the Nordic UART service
    stall_s=5.0,  # 25 frames
)
