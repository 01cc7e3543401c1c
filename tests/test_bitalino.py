from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Options
from firmware_bridge.codecs import bitalino
from firmware_bridge.codecs.bitalino import CODEC, Frame, conductance_ps, crc4
from firmware_bridge.errors import DecodeError
from firmware_bridge.exchange import Exchange, Subscribe, Write
from firmware_bridge.packet import Packet

frames = st.builds(Frame, st.integers(0, 15), st.integers(0, 1023), st.integers(0, 15))


def stream(start: int, adcs: Iterable[int]) -> list[Frame]:
    return [Frame((start + at) % 16, adc) for at, adc in enumerate(adcs)]


streams = st.builds(stream, st.integers(0, 15), st.lists(st.integers(0, 1023), max_size=40))


def wire(sent: Iterable[Frame]) -> bytes:
    return b"".join(map(bytes, sent))


def spread(packets: Iterable[Packet]) -> list[tuple[int, int]]:
    """Each frame's (seq, value), however they were packed."""
    return [((packet.ticks + at) % 16, value) for packet in packets for at, value in enumerate(packet.values)]


def expected(sent: Iterable[Frame]) -> list[tuple[int, int]]:
    return [(item.seq, conductance_ps(item.adc)) for item in sent]


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({at % (len(data) + 1) for at in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in pairwise(ends)]


def listen(pieces: Iterable[bytes]) -> tuple[list[Packet], int]:
    """Packets of a stream that may be broken, and how often it was."""
    decoder = CODEC.decoder()
    packets: list[Packet] = []
    faults = 0
    for piece in pieces:
        try:
            packets += decoder.push(piece)
        except DecodeError as error:
            packets += error.packets
            faults += 1
    return packets, faults


def crc_by_division(data: bytes) -> int:
    """Remainder of the frame, its last four bits zero, divided by x^4 + x + 1: the long way."""
    value = int.from_bytes(data, "big") & ~0x0F
    for bit in range(8 * len(data) - 1, 3, -1):
        if value >> bit & 1:
            value ^= 0b10011 << bit - 4
    return value


@given(st.binary(min_size=1, max_size=8))
def test_the_crc_is_the_remainder_of_the_division(data: bytes) -> None:
    assert crc4(data) == crc_by_division(data)


def test_a_frame_worked_by_hand() -> None:
    # adc 512 = 0b1000_000000: low six bits 0, high four 8; seq 5; no digital line set.
    # 00 08 50 is 1000 0101 0000; less 10011 shifted by 7, 4, 3, 2, 1 and 0 it leaves 0001.
    worked = bytes.fromhex("00 08 51")
    assert crc_by_division(bytes.fromhex("00 08 50")) == 1
    assert Frame.from_bytes(worked) == Frame(seq=5, adc=512)
    assert bytes(Frame(5, 512)) == worked
    # all bits of every field, the digital lines I1 and O2
    assert bytes(Frame(15, 1023, 0b1001))[:2] == bytes.fromhex("fc 9f")
    assert CODEC.decoder().push(worked) == [Packet(5, (12_500_000,))]


@given(frames)
def test_round_trip(item: Frame) -> None:
    assert Frame.from_bytes(bytes(item)) == item


@given(frames, st.integers(0, 23), st.integers(1, 15))
def test_the_crc_finds_every_burst_of_up_to_four_bits(item: Frame, shift: int, burst: int) -> None:
    broken = (int.from_bytes(bytes(item), "big") ^ burst << shift) & 0xFFFFFF
    if broken != int.from_bytes(bytes(item), "big"):
        with pytest.raises(DecodeError):
            Frame.from_bytes(broken.to_bytes(3, "big"))


@given(st.binary(max_size=6))
def test_arbitrary_bytes_are_a_frame_or_a_decode_error(data: bytes) -> None:
    try:
        item = Frame.from_bytes(data)
    except DecodeError as error:
        assert 0 <= error.offset <= len(data)
        assert error.data == data
    else:
        assert bytes(item) == data


def test_a_frame_of_two_channels_is_refused() -> None:
    head = bytes([0x01, 0x00, 0x30])
    with pytest.raises(DecodeError, match="second channel"):
        Frame.from_bytes(head[:2] + bytes([0x30 | crc4(head)]))


@pytest.mark.parametrize("item", [Frame(16, 0), Frame(0, 1024), Frame(0, 0, 16), Frame(-1, 0)])
def test_what_cannot_be_sent_is_not_encoded(item: Frame) -> None:
    with pytest.raises(ValueError, match="4 bits"):
        bytes(item)


def test_conductance_after_the_data_sheet() -> None:
    # EDA = ADC / 2^10 * 3.3 V / 0.132 V/uS: 0 to 25 uS
    assert [conductance_ps(adc) for adc in (0, 1, 512)] == [0, 24_414, 12_500_000]
    assert conductance_ps(1023) * 1e-6 == pytest.approx(25.0, abs=0.03)
    assert bitalino.STREAM_INFO.value_range == (conductance_ps(0), conductance_ps(1023))


# -- the stream


@given(streams, st.lists(st.integers(0, 10**6), max_size=12))
def test_any_cuts_give_the_same_samples(sent: list[Frame], cuts: list[int]) -> None:
    data = wire(sent)
    for pieces in ([data], cut(data, cuts), [data[at : at + 1] for at in range(len(data))]):
        packets, faults = listen(pieces)
        assert (spread(packets), faults) == (expected(sent), 0)


def test_frames_of_one_notification_are_one_packet_up_to_half_the_count() -> None:
    sent = stream(13, range(100, 116))
    packets, _ = listen([wire(sent)])
    assert [(packet.ticks, len(packet.values)) for packet in packets] == [(13, 7), (4, 7), (11, 2)]


def test_a_hole_splits_the_packet() -> None:
    sent = stream(0, range(100, 110))
    packets, faults = listen([wire(sent[:3] + sent[5:])])
    assert [(packet.ticks, len(packet.values)) for packet in packets] == [(0, 3), (5, 5)]
    assert faults == 0


def test_a_single_frame_behind_a_hole_waits_for_the_next_to_confirm_it() -> None:
    sent = stream(0, range(100, 110))
    decoder = CODEC.decoder()
    assert spread(decoder.push(wire(sent[:3]))) == expected(sent[:3])
    assert decoder.push(wire(sent[6:7])) == []
    assert spread(decoder.push(wire(sent[7:8]))) == expected(sent[6:8])


def test_sixteen_lost_frames_cannot_be_seen_here() -> None:
    sent = stream(0, range(100, 140))
    packets, faults = listen([wire(sent[:4]), wire(sent[20:24])])
    assert (spread(packets), faults) == (expected(sent[:4] + sent[20:24]), 0)


@given(
    st.lists(st.integers(0, 1023), min_size=12, max_size=30),
    st.binary(min_size=1, max_size=20),
    st.integers(3, 6),
    st.lists(st.integers(0, 10**6), max_size=8),
)
def test_after_a_corrupt_stretch_it_finds_its_feet(adcs: list[int], garbage: bytes, at: int, cuts: list[int]) -> None:
    sent = stream(0, adcs)
    packets, _ = listen(cut(wire(sent[:at]) + garbage + wire(sent[at:]), cuts))
    found = spread(packets)
    assert found[:at] == expected(sent[:at])
    # garbage may hold what looks like frames, and may hide the first real ones; the end is certain
    assert found[-4:] == expected(sent)[-4:]


def test_the_frames_on_both_sides_of_a_fault_are_kept() -> None:
    sent = stream(0, range(500, 512))
    data = bytearray(wire(sent))
    data[3 * 4] ^= 0x10
    with pytest.raises(DecodeError, match="CRC") as caught:
        CODEC.decoder().push(bytes(data))
    assert caught.value.offset == 3 * 4 + 2
    assert spread(caught.value.packets) == expected(sent[:4] + sent[5:])


@given(st.lists(st.one_of(st.binary(max_size=80), st.just(b"\x00" * 60)), max_size=8))
def test_arbitrary_bytes_raise_only_decode_error_and_are_not_hoarded(notifications: list[bytes]) -> None:
    decoder = bitalino.FrameDecoder()
    for data in notifications:
        try:
            packets = decoder.push(data)
        except DecodeError as error:
            assert error.protocol == "bitalino-eda"
            assert 0 <= error.offset <= len(error.data)
            packets = list(error.packets)
        assert all(0 <= packet.ticks < 16 and 1 <= len(packet.values) <= 7 for packet in packets)
        assert decoder.held < 2 * Frame.SIZE


# -- the start


def test_worked_commands() -> None:
    assert [bitalino.set_rate(rate).hex() for rate in (1, 10, 100, 1000)] == ["03", "43", "83", "c3"]
    assert bitalino.start(bitalino.EDA_CHANNEL) == b"\x11"
    assert bitalino.STOP == b"\x00"


def test_the_start_stops_what_runs_before_it_sets_the_rate() -> None:
    exchange = Exchange("bitalino-eda", CODEC.start(Options(sfreq=10.0)))
    done = []
    while not exchange.done:
        done.append(exchange.rule.do)
        exchange.did()
    commands = [Write(bitalino.COMMAND_UUID, data) for data in (b"\x00", b"\x43", b"\x11")]
    assert done == [Subscribe(bitalino.FRAMES_UUID), *commands]
    assert CODEC.describe(exchange.answers) == bitalino.STREAM_INFO


@pytest.mark.parametrize("sfreq", [1.0, 8.0, 100.0, 1000.0])
def test_another_rate_is_refused(sfreq: float) -> None:
    with pytest.raises(ValueError, match=f"at {sfreq:g} Hz: a BITalino is read at 10 Hz only"):
        CODEC.start(Options(sfreq=sfreq))
