from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codecs import polar_acc, polar_pmd
from firmware_bridge.codecs.polar_acc import AccFrame, DeltaAccFrame, DeltaBlock
from firmware_bridge.codecs.polar_pmd import Command, Measurement, Op
from firmware_bridge.errors import DecodeError

# Frames of polar-ble-sdk's AccDataTest, whose comments work them by hand.
RAW = bytes.fromhex("02 00 94 35 77 00 00 00 00 01  F7 FF FF FF E7 03  F8 FF FE FF E5 03")
DELTA = bytes.fromhex("02 65 00 00 00 00 00 00 00 81  F1 FF 14 00 F0 03  06 01 7B 0F 08")
DELTA_10_BITS = bytes.fromhex("02 00 94 35 77 00 00 00 00 80  71 07 F0 6A 9E 8D  0A 01 BE 5C BE 3A")
"""Cut after its second sample."""

u64 = st.integers(0, 2**64 - 1)
flags = st.sampled_from([0x00, 0x40, 0x80, 0xC0])


def signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)


def triples(bits: int, **limits: int) -> st.SearchStrategy[tuple[tuple[int, int, int], ...]]:
    return st.lists(st.tuples(*[signed(bits)] * 3), min_size=1, **limits).map(tuple)


raw_frames = st.sampled_from([0, 1, 2]).flatmap(
    lambda kind: st.builds(
        AccFrame, ticks=u64, samples=triples(8 * (kind + 1), max_size=40), frame_type=st.just(kind), flags=flags
    )
)
blocks = st.integers(1, 32).flatmap(lambda bits: st.builds(DeltaBlock, st.just(bits), triples(bits, max_size=20)))
delta_frames = st.builds(
    DeltaAccFrame,
    ticks=u64,
    reference=st.tuples(*[signed(16)] * 3),
    blocks=st.lists(blocks, max_size=3).map(tuple),
    frame_type=st.sampled_from([0, 1]),
    flags=flags,
)
# Arbitrary bytes seldom have a right head: most of them are given one.
garbled = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: RAW[:10] + tail),
    st.binary(max_size=60).map(lambda tail: DELTA[:16] + tail),
    st.tuples(st.integers(0, 33), st.integers(0, 3), st.binary(max_size=60)).map(
        lambda block: DELTA[:16] + bytes(block[:2]) + block[2]
    ),
)


def test_worked_raw_frame() -> None:
    frame = AccFrame.from_bytes(RAW)
    assert frame == AccFrame(2_000_000_000, ((-9, -1, 999), (-8, -2, 997)))
    assert bytes(frame) == RAW
    assert polar_acc.decode(RAW) == frame


@pytest.mark.parametrize(
    ("kind", "sample"), [(0, "F7 FF 7F"), (1, "F7 FF FF FF 7F 00"), (2, "F7 FF FF FF FF FF 7F 00 00")]
)
def test_a_raw_value_has_a_byte_more_per_type(kind: int, sample: str) -> None:
    """Worked by hand from the widths of the SDK's AccData, whose tests have type 1 only."""
    data = RAW[:9] + bytes([kind]) + 2 * bytes.fromhex(sample)
    assert AccFrame.from_bytes(data) == AccFrame(2_000_000_000, ((-9, -1, 127),) * 2, kind)


def test_worked_compressed_frame() -> None:
    frame = DeltaAccFrame.from_bytes(DELTA)
    assert frame.samples == ((-15, 20, 1008), (-20, 17, 1008))
    assert frame.blocks == (DeltaBlock(6, ((-5, -3, 0),), padding=2),)
    assert bytes(frame) == DELTA
    assert polar_acc.decode(DELTA) == frame


def test_worked_compressed_frame_of_10_bits() -> None:
    frame = DeltaAccFrame.from_bytes(DELTA_10_BITS)
    x, y, z = frame.reference
    assert frame.reference == (1905, 27376, -29282)
    assert frame.samples[1] == (x + 190, y - 105, z - 85)
    assert bytes(frame) == DELTA_10_BITS


def test_worked_commands() -> None:
    assert polar_acc.start_command() == bytes.fromhex("02 02 00 01 C8 00 01 01 10 00 02 01 08 00")
    assert Command.from_bytes(polar_acc.STOP) == Command(Op.STOP, Measurement.ACC)
    with pytest.raises(ValueError, match="an H10 has"):
        polar_acc.start_command(130)


@given(raw_frames)
def test_raw_round_trip(frame: AccFrame) -> None:
    assert AccFrame.from_bytes(bytes(frame)) == frame == polar_acc.decode(bytes(frame))


@given(delta_frames)
def test_compressed_round_trip(frame: DeltaAccFrame) -> None:
    assert DeltaAccFrame.from_bytes(bytes(frame)) == frame == polar_acc.decode(bytes(frame))


@given(triples(16, max_size=50))
def test_samples_are_the_sum_of_their_steps(samples: tuple[tuple[int, int, int], ...]) -> None:
    pairs = itertools.pairwise(samples)
    steps = tuple((b[0] - a[0], b[1] - a[1], b[2] - a[2]) for a, b in pairs)
    block = (DeltaBlock(17, steps),) if steps else ()
    assert DeltaAccFrame.from_bytes(bytes(DeltaAccFrame(0, samples[0], block))).samples == samples


@given(garbled)
def test_arbitrary_bytes_raise_only_decode_error(data: bytes) -> None:
    for decode in (AccFrame.from_bytes, DeltaAccFrame.from_bytes, polar_acc.decode):
        try:
            frame = decode(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)
            assert (error.data, error.protocol) == (data, "polar-pmd-acc")
        else:
            assert bytes(frame) == data
            assert frame.samples


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "10 header bytes"),
        (b"\x00" + RAW[1:], 0, "measurement type 0: expected 2 (ACC)"),
        (RAW[:9] + b"\x03" + RAW[10:], 9, "frame type 0x03: expected raw"),
        (RAW[:10], 10, "one or more samples of 6 bytes"),
        (RAW[:-1], 16, "one or more samples of 6 bytes"),
        (DELTA[:9] + b"\x82" + DELTA[10:], 9, "frame type 0x82: expected compressed"),
        (DELTA[:15], 15, "expected 16 bytes"),
        (DELTA[:17], 17, "width and number"),
        (DELTA[:16] + b"\x00\x01", 16, "1 steps of 0 bits"),
        (DELTA[:16] + b"\x21\x01" + bytes(20), 16, "1 steps of 33 bits"),
        (DELTA[:16] + b"\x06\x00", 16, "0 steps of 6 bits"),
        (DELTA[:-1], 20, "expected 1 steps of 3 x 6 bits"),
    ],
)
def test_wrong_frames_name_the_byte(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        polar_acc.decode(data)
    assert caught.value.offset == offset
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (AccFrame(0, ()), "at least one sample"),
        (AccFrame(0, ((0, 0, 0),), flags=2), "upper two bits"),
        (DeltaBlock(3, ((4, 0, 0),)), "step 4 does not fit 3 bits"),
        (DeltaBlock(3, ()), "0 steps"),
        (DeltaBlock(33, ((0, 0, 0),)), "33 bits"),
    ],
)
def test_what_cannot_be_sent_is_not_encoded(message: AccFrame | DeltaBlock, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bytes(message)


def test_ecg_and_acceleration_are_told_apart() -> None:
    with pytest.raises(DecodeError, match="measurement type 2"):
        polar_pmd.EcgFrame.from_bytes(RAW)
