from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from itertools import pairwise

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as GoogleDecodeError
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Codec, Options
from firmware_bridge.codecs import _cobs as cobs
from firmware_bridge.codecs import _protobuf as pb
from firmware_bridge.codecs import nervous
from firmware_bridge.codecs.nervous import EcgBuffer, EdaBuffer, Impedance, Leads, Timestamp, frame
from firmware_bridge.errors import DecodeError, ExchangeError
from firmware_bridge.exchange import Exchange, Read, Subscribe, Write
from firmware_bridge.packet import Packet

WORKED = bytes.fromhex("04 0a 0a 0d 05 50 43 48 15 10 60 6a c6 12 0a 08 bf d4 97 d4 06 10 98 95 20 00")
STAMP = Timestamp(1_787_161_151, 527_000)
MAX = 10**9

CODECS = {"eda": nervous.EDA_CODEC, "ecg": nervous.ECG_CODEC}

float32 = st.floats(width=32, allow_nan=False)
stamps = st.builds(Timestamp, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
impedances = st.builds(Impedance, float32, float32)
eda_buffers = st.builds(EdaBuffer, st.lists(impedances, min_size=1, max_size=16).map(tuple), stamps)
ecg_buffers = st.builds(
    EcgBuffer,
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=100).map(tuple),
    st.sampled_from(Leads),
    stamps,
)
buffers = st.one_of(eda_buffers, ecg_buffers)


def pushed(codec: Codec, pieces: Iterable[bytes]) -> list[Packet]:
    decoder = codec.decoder()
    return [packet for piece in pieces for packet in decoder.push(piece)]


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({at % (len(data) + 1) for at in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(ends)]


# -- COBS


def run(first: int, last: int) -> bytes:
    return bytes(range(first, last + 1))


@pytest.mark.parametrize(
    ("plain", "packed"),
    [
        # the figure of Cheshire and Baker: the start of an IP header
        ("45 00 00 2c 4c 79 00 00 40 06 4f 37", "02 45 01 04 2c 4c 79 01 05 40 06 4f 37"),
        ("", "01"),
        ("00", "01 01"),
        ("00 00", "01 01 01"),
        ("11 22 00 33", "03 11 22 02 33"),
        ("11 00 00 00", "02 11 01 01 01"),
        (run(1, 0xFE).hex(), "ff" + run(1, 0xFE).hex()),
        ("00" + run(1, 0xFE).hex(), "01 ff" + run(1, 0xFE).hex()),
        (run(1, 0xFF).hex(), "ff" + run(1, 0xFE).hex() + "02 ff"),
        (run(2, 0xFF).hex() + "00", "ff" + run(2, 0xFF).hex() + "01 01"),
        (run(3, 0xFF).hex() + "00 01", "fe" + run(3, 0xFF).hex() + "02 01"),
    ],
)
def test_cobs_as_published(plain: str, packed: str) -> None:
    assert cobs.encode(bytes.fromhex(plain)) == bytes.fromhex(packed)
    assert cobs.decode(bytes.fromhex(packed)) == bytes.fromhex(plain)


def test_cobs_takes_the_last_code_that_the_original_encoder_adds_behind_254_bytes() -> None:
    assert cobs.decode(b"\xff" + run(1, 0xFE) + b"\x01") == run(1, 0xFE)


long_runs = st.lists(st.sampled_from([b"\x00", b"\x01", bytes([7]) * 253, bytes([7]) * 254]), max_size=8).map(b"".join)


@given(st.one_of(st.binary(max_size=600), long_runs))
def test_cobs_round_trip_without_a_zero_and_with_the_overhead_that_gives_it_its_name(data: bytes) -> None:
    packed = cobs.encode(data)
    assert cobs.decode(packed) == data
    assert 0 not in packed
    assert len(packed) <= len(data) + 1 + len(data) // 254


@pytest.mark.parametrize(("packed", "offset"), [("05 11 22", 0), ("02 11 03 11", 2), ("00", 0), ("03 11 00", 2)])
def test_broken_cobs_names_the_byte(packed: str, offset: int) -> None:
    with pytest.raises(cobs.CobsError) as caught:
        cobs.decode(bytes.fromhex(packed))
    assert caught.value.offset == offset


# -- Protocol Buffers, against the package of its makers

SCHEMA = {
    "Timestamp": [("time", 1, "UINT64", ""), ("us", 2, "UINT32", "")],
    "Impedance": [("real", 1, "FLOAT", ""), ("imag", 2, "FLOAT", "")],
    "EdaBuffer": [("data", 1, "MESSAGE", "*Impedance"), ("timestamp", 2, "MESSAGE", "Timestamp")],
    "EcgBuffer": [("data", 1, "BYTES", ""), ("lodpn", 2, "INT32", ""), ("timestamp", 3, "MESSAGE", "Timestamp")],
}


def google() -> dict[str, type]:
    """The messages of renforce.proto, built without a compiler."""
    file = descriptor_pb2.FileDescriptorProto(name="renforce.proto", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, members in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, embedded in members:
            label = kinds.LABEL_REPEATED if embedded.startswith("*") else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, type=getattr(kinds, f"TYPE_{kind}"), label=label)
            if embedded:
                added.type_name = "." + embedded.strip("*")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in SCHEMA}


GOOGLE = google()


def by_google(buffer: EdaBuffer | EcgBuffer) -> bytes:
    message = GOOGLE[type(buffer).__name__]()
    message.timestamp.SetInParent()
    message.timestamp.time, message.timestamp.us = buffer.timestamp.seconds, buffer.timestamp.us
    if isinstance(buffer, EcgBuffer):
        message.data = struct.pack(f"<{len(buffer.samples)}h", *buffer.samples)
        message.lodpn = buffer.leads
    else:
        for impedance in buffer.impedances:
            message.data.add(real=impedance.real, imag=impedance.imag)
    return message.SerializeToString()  # type: ignore[no-any-return]


@given(buffers)
def test_messages_are_byte_for_byte_those_of_the_protobuf_package(buffer: EdaBuffer | EcgBuffer) -> None:
    assert bytes(buffer) == by_google(buffer)
    assert type(buffer).from_bytes(by_google(buffer)) == buffer


unknown = st.one_of(
    st.builds(pb.varint_field, st.integers(5, 2**29 - 1), st.integers(0, 2**64 - 1)),
    st.builds(pb.bytes_field, st.integers(5, 2**29 - 1), st.binary(max_size=9)),
    st.builds(pb.fixed32_field, st.integers(5, 2**29 - 1), st.binary(min_size=4, max_size=4)),
)


@given(eda_buffers, st.lists(unknown, max_size=3), st.lists(unknown, max_size=3))
def test_fields_of_a_later_version_are_passed_over(buffer: EdaBuffer, before: list[bytes], behind: list[bytes]) -> None:
    assert EdaBuffer.from_bytes(b"".join(before) + bytes(buffer) + b"".join(behind)) == buffer


@given(st.one_of(st.binary(max_size=40), st.tuples(stamps, st.binary(max_size=20)).map(lambda p: bytes(p[0]) + p[1])))
def test_what_is_read_of_arbitrary_bytes_is_what_the_protobuf_package_reads(data: bytes) -> None:
    theirs = GOOGLE["Timestamp"]()
    try:
        ours = Timestamp.from_bytes(data)
    except DecodeError:
        return
    try:
        theirs.ParseFromString(data)
    except GoogleDecodeError as error:
        pytest.fail(f"{data.hex(' ')}: read as {ours}, but the protobuf package refuses it: {error}")
    assert ours == Timestamp(theirs.time, theirs.us)


@pytest.mark.parametrize("data", ["08 ff ff ff ff ff ff ff ff ff 7f", "10 ff ff ff ff ff 1f", "10 80 80 80 80 10"])
def test_numbers_too_long_for_their_field_are_cut_as_the_protobuf_package_does(data: str) -> None:
    theirs = GOOGLE["Timestamp"]()
    theirs.ParseFromString(bytes.fromhex(data))
    assert Timestamp.from_bytes(bytes.fromhex(data)) == Timestamp(theirs.time, theirs.us)


def test_a_field_sent_twice_counts_as_the_format_asks() -> None:
    twice = bytes(Timestamp(1, 2)) + bytes(Timestamp(3))
    assert Timestamp.from_bytes(twice) == Timestamp(3, 2)
    split = pb.bytes_field(2, bytes(Timestamp(1, 2))) + pb.bytes_field(2, bytes(Timestamp(3)))
    assert EdaBuffer.from_bytes(pb.bytes_field(1, bytes(Impedance(1.0))) + split).timestamp == Timestamp(3, 2)


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        ("08", 1, "cut short within a number"),
        ("08 ff ff ff ff ff ff ff ff ff ff 01", 1, "more than 10 bytes"),
        ("12 05 00", 2, "field 2 of 5 bytes with 1 left"),
        ("0d 00 00", 1, "field 1 of 4 bytes with 2 left"),
        ("0b", 1, "wire type 3"),
        ("00 00", 0, "field number 0"),
    ],
)
def test_broken_fields_name_the_byte(data: str, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        Timestamp.from_bytes(bytes.fromhex(data))
    assert caught.value.offset == offset


# -- messages


def test_worked_frame() -> None:
    buffer = EdaBuffer.from_bytes(cobs.decode(WORKED[:-1]))
    assert buffer == EdaBuffer((Impedance(200_000.0, -15_000.0),), STAMP)
    assert frame(bytes(buffer)) == WORKED
    packet = Packet(1_787_161_151_527_000, (4_985_997,))
    assert buffer.packet() == packet
    assert pushed(nervous.EDA_CODEC, [WORKED]) == [packet]
    assert packet.values[0] * nervous.EDA_STREAM_INFO.scale == pytest.approx(4.986, abs=5e-4)


def test_an_ecg_buffer_worked_by_hand() -> None:
    # field 1: 4 bytes, samples 1 and -2; field 2: left off; field 3: 1 s, 500000 us
    message = bytes.fromhex("0a 04 01 00 fe ff 10 01 1a 06 08 01 10 a0 c2 1e")
    buffer = EcgBuffer((1, -2), Leads.LEFT_OFF, Timestamp(1, 500_000))
    assert EcgBuffer.from_bytes(message) == buffer
    assert bytes(buffer) == message
    assert buffer.packet() == Packet(1_500_000, (1, -2))


@given(buffers)
def test_round_trip(buffer: EdaBuffer | EcgBuffer) -> None:
    assert type(buffer).from_bytes(bytes(buffer)) == buffer


@pytest.mark.parametrize(
    ("real", "imag", "value"),
    [
        (200_000.0, 0.0, 5_000_000),
        (3000.0, 4000.0, 200_000_000),
        (0.0, 0.0, MAX),
        (999.0, 0.0, MAX),
        (1e-30, 0.0, MAX),
        (math.inf, 0.0, 0),
        (3e38, 3e38, 0),
        (math.nan, 1.0, 0),
        (math.inf, math.nan, 0),
    ],
)
def test_a_short_circuit_open_electrodes_and_no_number_lie_at_the_ends(real: float, imag: float, value: int) -> None:
    assert nervous.EDA_STREAM_INFO.value_range == (0, MAX)
    assert Impedance(real, imag).conductance_ps == value


def test_of_a_spectrum_the_lowest_frequency_counts() -> None:
    spectrum = (Impedance(500_000.0), *[Impedance(1000.0 * n) for n in range(15, 0, -1)])
    assert EdaBuffer(spectrum, STAMP).packet() == Packet(STAMP.ticks, (2_000_000,))


def test_both_electrodes_off_and_a_full_adc_are_saturated() -> None:
    low, high = nervous.ECG_STREAM_INFO.value_range
    assert EcgBuffer((1, 2), Leads.BOTH_OFF, STAMP).packet().values == (high, high)
    assert EcgBuffer((-9000, 5, 9000), Leads.RIGHT_OFF, STAMP).packet().values == (low, 5, high)


def test_the_nominal_scale_of_the_ecg() -> None:
    # AD8232 at a gain of 56 dB; ADC: difference, a quarter of 3.3 V in 13 bits and a sign
    full_scale_mv = 3300 / 4 / 10 ** (56 / 20)
    info = nervous.ECG_STREAM_INFO
    assert (
        info.value_range[0] * info.scale == pytest.approx(-full_scale_mv, rel=1e-3) == pytest.approx(-1.307, abs=1e-3)
    )


@given(stamps)
def test_ticks_are_microseconds_in_64_bits(stamp: Timestamp) -> None:
    assert stamp.ticks == (stamp.seconds * 10**6 + stamp.us) % 2**64


@pytest.mark.parametrize(
    ("message", "data", "reason"),
    [
        (EdaBuffer, b"", "no impedance"),
        (EdaBuffer, pb.bytes_field(1, b""), "no timestamp: expected field 2"),
        (EcgBuffer, pb.bytes_field(3, b""), "0 bytes of samples"),
        (EcgBuffer, pb.bytes_field(1, b"abc") + pb.bytes_field(3, b""), "3 bytes of samples"),
        (EcgBuffer, pb.bytes_field(1, b"ab"), "no timestamp: expected field 3"),
        (EcgBuffer, pb.bytes_field(1, b"ab") + pb.varint_field(2, 4), "electrode status 4: expected 0 to 3"),
    ],
)
def test_wrong_messages_say_what_was_expected(message: type[EdaBuffer | EcgBuffer], data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        message.from_bytes(data)


@given(eda_buffers, ecg_buffers)
def test_no_sensor_is_read_as_the_other(eda: EdaBuffer, ecg: EcgBuffer) -> None:
    with pytest.raises(DecodeError):
        pushed(nervous.ECG_CODEC, [frame(bytes(eda))])
    with pytest.raises(DecodeError):
        pushed(nervous.EDA_CODEC, [frame(bytes(ecg))])


# -- the stream

ECG = EcgBuffer(tuple(range(100)), Leads.ON, STAMP)


@given(st.lists(eda_buffers, max_size=5), st.lists(st.integers(0, 10**6), max_size=12))
def test_any_cuts_give_the_same_packets(sent: list[EdaBuffer], cuts: list[int]) -> None:
    data = b"".join(frame(bytes(buffer)) for buffer in sent)
    packets = [buffer.packet() for buffer in sent]
    assert pushed(nervous.EDA_CODEC, [data]) == packets
    assert pushed(nervous.EDA_CODEC, cut(data, cuts)) == packets
    assert pushed(nervous.EDA_CODEC, [data[at : at + 1] for at in range(len(data))]) == packets


def test_a_frame_longer_than_an_mtu_of_23_comes_in_slices() -> None:
    data = frame(bytes(ECG))
    assert len(data) > 200
    assert pushed(nervous.ECG_CODEC, [data[at : at + 20] for at in range(0, len(data), 20)]) == [ECG.packet()]


def test_the_packets_on_both_sides_of_a_broken_frame_are_kept() -> None:
    good = EdaBuffer((Impedance(1e5),), STAMP)
    decoder = nervous.EDA_CODEC.decoder()
    with pytest.raises(DecodeError, match="block of 8 bytes with 2 left") as caught:
        decoder.push(WORKED + b"\x09\x11\x22\x00" + frame(bytes(good)) + WORKED[:7])
    assert caught.value.packets == (EdaBuffer((Impedance(200_000.0, -15_000.0),), STAMP).packet(), good.packet())
    assert decoder.push(WORKED[7:]) == [caught.value.packets[0]]


@given(st.binary(max_size=60), st.lists(st.integers(0, 10**6), max_size=5))
def test_after_a_corrupt_stretch_the_next_frame_is_read(garbage: bytes, cuts: list[int]) -> None:
    decoder = nervous.EDA_CODEC.decoder()
    packets: list[Packet] = []
    for piece in cut(WORKED + garbage + b"\x00" + WORKED, cuts):
        try:
            packets += decoder.push(piece)
        except DecodeError as error:
            packets += error.packets
    worked = EdaBuffer.from_bytes(cobs.decode(WORKED[:-1])).packet()
    assert packets[0] == packets[-1] == worked


def test_bytes_without_end_are_let_go_of() -> None:
    decoder = nervous.EDA_CODEC.decoder()
    faults = 0
    for _ in range(100):
        try:
            assert decoder.push(b"\x55" * 244) == []
        except DecodeError as error:
            faults += 1
            assert len(error.data) <= nervous.MAX_FRAME + 244
    assert faults == 100 * 244 // (nervous.MAX_FRAME + 244) + 1
    with pytest.raises(DecodeError):
        decoder.push(b"\x00")
    assert len(decoder.push(WORKED)) == 1


@given(st.sampled_from(sorted(CODECS)), st.lists(st.one_of(st.binary(max_size=80), st.just(WORKED)), max_size=6))
def test_arbitrary_bytes_raise_only_decode_error(kind: str, notifications: list[bytes]) -> None:
    codec = CODECS[kind]
    decoder = codec.decoder()
    for data in notifications:
        try:
            packets = decoder.push(data)
        except DecodeError as error:
            assert error.protocol == codec.protocol
            assert 0 <= error.offset <= len(error.data)
            packets = list(error.packets)
        low, high = codec.stream_info.value_range
        assert all(low <= value <= high for packet in packets for value in packet.values)


# -- the start


def test_the_start_makes_sure_of_the_model_and_sets_the_clock() -> None:
    exchange = Exchange("nervous-eda", nervous.EDA_CODEC.start(Options(unix_ns=1_787_161_151_527_000_999)))
    assert exchange.rule.do == Read("00002a24-0000-1000-8000-00805f9b34fb")
    exchange.did(b"Nervous EDA Sensors")
    clock = exchange.rule.do
    assert isinstance(clock, Write) and clock.uuid == nervous.WRITE_UUID and not clock.response
    assert Timestamp.from_bytes(cobs.decode(clock.data[:-1])) == STAMP
    assert clock.data[-1:] == b"\x00"
    exchange.did()
    assert exchange.rule.do == Subscribe(nervous.NOTIFY_UUID)
    exchange.did()
    assert exchange.done
    assert nervous.EDA_CODEC.describe(exchange.answers) == nervous.EDA_STREAM_INFO


@given(st.integers(0, 2**63 - 1))
def test_the_clock_fits_the_firmware(unix_ns: int) -> None:
    # its buffer holds a Timestamp of 17 bytes and one more
    assert len(frame(bytes(Timestamp.of_unix_ns(unix_ns)))) <= 18


@pytest.mark.parametrize(("kind", "model"), [("eda", b"Nervous ECG"), ("ecg", b"Nervous EDA Sensors"), ("ecg", b"")])
def test_another_device_with_the_nordic_service_is_refused(kind: str, model: bytes) -> None:
    exchange = Exchange("nervous", CODECS[kind].start(Options()))
    with pytest.raises(ExchangeError, match=f"is no Nervous {kind.upper()}") as caught:
        exchange.did(model)
    assert caught.value.permanent


@pytest.mark.parametrize(("kind", "sfreq"), [("eda", 8.0), ("ecg", 512.0)])
def test_a_rate_that_the_sensor_does_not_have_is_refused(kind: str, sfreq: float) -> None:
    assert CODECS[kind].start(Options(sfreq=sfreq)).keys() == CODECS[kind].start(Options()).keys()
    with pytest.raises(ValueError, match=f"nervous-{kind} at 4 Hz: the sensor has {sfreq:g} Hz only"):
        CODECS[kind].start(Options(sfreq=4.0))
