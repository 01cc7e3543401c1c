from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Options
from firmware_bridge.codecs import shimmer3r
from firmware_bridge.codecs.shimmer3r import CODEC, Data, Inquiry, conductance_ps
from firmware_bridge.errors import DecodeError, ExchangeError
from firmware_bridge.exchange import Exchange, Subscribe, Write
from firmware_bridge.packet import Packet

WORKED = bytes.fromhex("00 40 e2 01 c4 89")
# Rate 51.2 Hz, seven bytes of configuration, one channel, buffer of one: GSR
INQUIRY = bytes.fromhex("02 80 02 01 02 03 04 05 06 07 01 01 1c")
DIVISOR = 1024

u24 = st.integers(0, 2**24 - 1)
items = st.builds(Data, u24, st.integers(0, 3), st.integers(0, 4095))
inquiries = st.builds(
    Inquiry,
    st.integers(1, 65535),
    st.lists(st.integers(0, 255), max_size=32).map(tuple),
    st.binary(min_size=7, max_size=7),
    st.integers(0, 255),
)
answers = st.one_of(
    st.sampled_from([b"\xff", b"\xfe", b"\x8a\x94\x01\x02\x03", b"\xff\x8a\x71\x33\x01", b"\x8a\x71\x13\x00"]),
    inquiries.map(bytes),
)


def stream(start: int, steps: Iterable[int]) -> list[Data]:
    """Data packets whose clock goes on by so many ticks; the value tells which it is."""
    ticks = accumulate(steps, initial=start)
    return [Data(at % 2**24, index % 4, 1000 + index) for index, at in enumerate(ticks)]


streams = st.builds(stream, u24, st.lists(st.sampled_from([DIVISOR, DIVISOR + 1, 2 * DIVISOR]), max_size=30))


def wire(sent: Iterable[Data]) -> bytes:
    return b"".join(map(bytes, sent))


def packets_of(sent: Iterable[Data]) -> list[Packet]:
    return [item.packet() for item in sent]


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


def test_worked_data_packet() -> None:
    item = Data.from_bytes(WORKED)
    assert item == Data(ticks=123_456, gsr_range=2, adc=2500)
    assert bytes(item) == WORKED
    assert item.packet() == Packet(123_456, (2_663_004,))
    assert CODEC.decoder().push(WORKED) == [item.packet()]
    info = shimmer3r.STREAM_INFO
    assert item.ticks / info.tick_hz == pytest.approx(3.768, abs=5e-4)
    assert item.packet().values[0] * info.scale == pytest.approx(2.663, abs=5e-4)


def test_the_worked_value_step_by_step() -> None:
    volt = 2500 * 3 / 4095
    kohm = 1000 / (volt / 0.5 - 1)
    assert (volt, kohm) == (pytest.approx(1.8315, abs=5e-5), pytest.approx(375.5, abs=0.05))
    assert conductance_ps(2, 2500) == round(1e9 / kohm)


@given(st.integers(0, 3), st.integers(683, 4094))
def test_conductance_is_the_inverse_of_the_makers_resistance(gsr_range: int, adc: int) -> None:
    kohm = (40.2, 287.0, 1000.0, 3300.0)[gsr_range] / (adc * 3 / 4095 / 0.5 - 1)
    value = conductance_ps(gsr_range, adc)
    assert value == pytest.approx(1e9 / kohm, abs=1)
    assert 0 < value < shimmer3r.VALUE_MAX


@pytest.mark.parametrize("gsr_range", range(4))
def test_open_electrodes_and_a_full_adc_lie_at_the_ends(gsr_range: int) -> None:
    assert shimmer3r.STREAM_INFO.value_range == (0, 124_378_109)
    assert conductance_ps(gsr_range, 682) == conductance_ps(gsr_range, 0) == 0
    assert conductance_ps(gsr_range, 4095) == 124_378_109


def test_worked_inquiry() -> None:
    inquiry = Inquiry.from_bytes(INQUIRY)
    assert inquiry == Inquiry(640, (0x1C,), bytes(range(1, 8)), 1)
    assert bytes(inquiry) == INQUIRY
    assert inquiry.stream_info().sfreq == 51.2
    with pytest.raises(DecodeError, match=r"channels \(28, 1\): expected \(28,\)"):
        Inquiry(640, (0x1C, 0x01)).stream_info()


@given(st.one_of(items, inquiries))
def test_round_trip(message: Data | Inquiry) -> None:
    assert type(message).from_bytes(bytes(message)) == message


@given(
    st.one_of(
        st.binary(max_size=30),
        st.binary(max_size=6).map(lambda tail: b"\x00" + tail),
        st.binary(max_size=30).map(lambda tail: INQUIRY[:10] + tail),
    )
)
def test_arbitrary_bytes_are_a_message_or_a_decode_error(data: bytes) -> None:
    for message in (Data, Inquiry):
        try:
            decoded = message.from_bytes(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)
            assert error.data == data
        else:
            assert bytes(decoded) == data


@pytest.mark.parametrize(
    ("message", "data", "offset", "reason"),
    [
        (Data, b"", 0, "nothing: expected 00"),
        (Data, b"\x01" + WORKED[1:], 0, "01: expected 00"),
        (Data, WORKED[:5], 5, "too short"),
        (Data, WORKED + b"\x00", 6, "1 surplus bytes"),
        (Data, WORKED[:5] + b"\x99", 5, "bits 12 and 13"),
        (Inquiry, INQUIRY[:11], 11, "too short: expected 12"),
        (Inquiry, INQUIRY[:12], 12, "12 bytes: expected 13"),
        (Inquiry, INQUIRY[:1] + bytes(2) + INQUIRY[3:], 1, "rate divisor 0"),
    ],
)
def test_wrong_messages_name_the_byte(message: type[Data | Inquiry], data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        message.from_bytes(data)
    assert caught.value.offset == offset
    assert reason in caught.value.reason


# -- the stream


@given(streams, st.data())
def test_any_cuts_give_the_same_packets_with_answers_between(sent: list[Data], data: st.DataObject) -> None:
    pieces = []
    for item in sent:
        pieces += [bytes(item), *data.draw(st.lists(answers, max_size=1))]
    whole = b"".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, 10**6), max_size=12))
    for parts in ([whole], cut(whole, cuts), [whole[at : at + 1] for at in range(len(whole))]):
        assert listen(parts) == (packets_of(sent), 0)


@pytest.mark.parametrize("status", ["8a 71 33", "8a 71 33 00", "8a 71 33 01", "ff 8a 71 33 00", "8a 94 01 02 03"])
def test_unasked_messages_of_old_and_new_firmware_are_passed_over(status: str) -> None:
    sent = stream(70_000, [DIVISOR] * 5)
    data = wire(sent[:2]) + bytes.fromhex(status) + wire(sent[2:])
    assert listen([data]) == (packets_of(sent), 0)


def test_the_clock_wraps() -> None:
    sent = stream(2**24 - 2 * DIVISOR, [DIVISOR] * 4)
    decoder = CODEC.decoder()
    assert [decoder.push(bytes(item)) for item in sent] == [[item.packet()] for item in sent]


def test_behind_a_long_gap_a_packet_waits_for_the_next_to_confirm_it() -> None:
    sent = stream(0, [DIVISOR, 40 * 32768, DIVISOR])
    decoder = CODEC.decoder()
    assert decoder.push(wire(sent[:2])) == packets_of(sent[:2])
    assert decoder.push(wire(sent[2:3])) == []
    assert decoder.push(wire(sent[3:])) == packets_of(sent[2:])


def test_a_notification_that_comes_twice_is_given_twice() -> None:
    sent = stream(0, [DIVISOR] * 5)
    data = [wire(sent[:2]), wire(sent[2:4]), wire(sent[2:4]), wire(sent[4:])]
    assert listen(data) == (packets_of(sent[:4] + sent[2:]), 0)


@given(
    st.integers(0, 2**24 - 1),
    st.integers(3, 6),
    st.binary(min_size=1, max_size=40),
    st.lists(st.integers(0, 10**6), max_size=8),
)
def test_after_a_corrupt_stretch_it_finds_its_feet(start: int, at: int, garbage: bytes, cuts: list[int]) -> None:
    sent = stream(start, [DIVISOR] * 30)
    packets, _ = listen(cut(wire(sent[:at]) + garbage + wire(sent[at:]), cuts))
    assert packets[:at] == packets_of(sent[:at])
    # garbage may begin what looks like an answer of up to 44 bytes; the end is certain
    assert packets[-16:] == packets_of(sent[-16:])


@given(st.integers(0, 2**24 - 1), st.integers(1, 5))
def test_bytes_lost_from_the_middle_cost_few_packets(start: int, n_lost: int) -> None:
    sent = stream(start, [DIVISOR] * 20)
    data = wire(sent)
    packets, _ = listen([data[:33] + data[33 + n_lost :]])
    assert packets[:5] == packets_of(sent[:5])
    assert packets[-10:] == packets_of(sent[-10:])


def test_the_packets_on_both_sides_of_a_fault_are_kept() -> None:
    sent = stream(70_000, [DIVISOR] * 8)
    data = bytearray(wire(sent))
    data[6 * 3] = 0x37
    with pytest.raises(DecodeError, match="37: expected 00") as caught:
        CODEC.decoder().push(bytes(data))
    assert caught.value.offset == 6 * 3
    assert list(caught.value.packets) == packets_of(sent[:3] + sent[4:])


flood = st.sampled_from(
    [b"\xff" * 60, b"\x00" * 60, b"\x02" * 60, b"\x8a" * 60, b"\x8a\x71" * 30, WORKED + b"\xff" * 60]
)


@given(st.lists(st.one_of(st.binary(max_size=80), flood), max_size=8))
def test_arbitrary_bytes_raise_only_decode_error_and_are_not_hoarded(notifications: list[bytes]) -> None:
    decoder = shimmer3r.DataDecoder()
    for data in notifications:
        try:
            packets = decoder.push(data)
        except DecodeError as error:
            assert error.protocol == "shimmer3r-gsr"
            assert 0 <= error.offset <= len(error.data)
            packets = list(error.packets)
        assert all(0 <= packet.values[0] <= shimmer3r.VALUE_MAX for packet in packets)
        # at most a packet, two answers of 44 bytes at most, and a piece of the packet behind them
        assert decoder.held < 6 + 2 * 44 + 6


# -- the start


def begin(options: Options, *told: bytes | list[bytes]) -> tuple[Exchange, list[str]]:
    """A start to which the sensor answers so, one for each command; the commands written."""
    exchange = Exchange("shimmer3r-gsr", CODEC.start(options))
    assert exchange.rule.do == Subscribe(shimmer3r.DATA_UUID)
    exchange.did()
    written = []
    for answer in told:
        action = exchange.rule.do
        assert isinstance(action, Write) and action.uuid == shimmer3r.COMMAND_UUID and not action.response
        written.append(action.data.hex(" "))
        exchange.did()
        for notification in [answer] if isinstance(answer, bytes) else answer:
            exchange.heard(shimmer3r.DATA_UUID, notification)
    return exchange, written


ACK = b"\xff"


def test_worked_commands() -> None:
    exchange, written = begin(Options(sfreq=51.2), ACK, ACK, ACK, ACK, ACK + INQUIRY, ACK)
    assert written == ["20", "05 80 02", "08 04 00 00", "21 04", "01", "07"]
    assert exchange.done
    info = CODEC.describe(exchange.answers)
    assert (info.sfreq, info.tick_hz, info.tick_bits) == (51.2, 32768.0, 24)


def test_the_default_rate() -> None:
    inquiry = bytes(Inquiry(1024, (0x1C,)))
    exchange, written = begin(Options(), ACK, ACK, ACK, ACK, [ACK, inquiry], ACK + WORKED)
    assert written[1] == "05 00 04"
    assert exchange.done
    assert CODEC.describe(exchange.answers) == shimmer3r.STREAM_INFO
    assert shimmer3r.STREAM_INFO.sfreq == 32.0


def test_an_acknowledgement_is_found_behind_the_data_of_a_running_stream() -> None:
    exchange, _ = begin(Options(), [WORKED, WORKED + WORKED[:3], WORKED + ACK])
    assert exchange.state == "set rate"


def test_a_value_that_looks_like_an_acknowledgement_is_none() -> None:
    exchange, _ = begin(Options(), bytes(Data(0xFFFFFF, 0, 0x0FF)))
    assert exchange.state == "halt"


@pytest.mark.parametrize("n_before", range(6))
def test_a_refusal_ends_the_start_for_now(n_before: int) -> None:
    fine = [ACK, ACK, ACK, ACK, ACK + bytes(Inquiry(1024, (0x1C,)))]
    with pytest.raises(ExchangeError, match="refuses") as caught:
        begin(Options(), *fine[:n_before], b"\xfe")
    assert not caught.value.permanent


@pytest.mark.parametrize(
    ("inquiry", "reason"),
    [
        (Inquiry(1024, (0x1C, 0x00)), "does not send GSR alone"),
        (Inquiry(1024, ()), "does not send GSR alone"),
        (Inquiry(640, (0x1C,)), "does not take the rate"),
    ],
)
def test_a_sensor_that_is_set_up_otherwise_is_refused(inquiry: Inquiry, reason: str) -> None:
    with pytest.raises(ExchangeError, match=reason):
        begin(Options(), ACK, ACK, ACK, ACK, ACK + bytes(inquiry))


@pytest.mark.parametrize(("sfreq", "divisor"), [(1.0, 32768), (8.0, 4096), (50.0, 655), (51.2, 640), (512.0, 64)])
def test_the_divisor_is_rounded_down(sfreq: float, divisor: int) -> None:
    assert shimmer3r.divisor_of(sfreq) == divisor


@pytest.mark.parametrize("sfreq", [0.0, 0.5, 513.0, float("nan"), float("inf")])
def test_a_rate_beyond_the_sensor_is_refused(sfreq: float) -> None:
    with pytest.raises(ValueError, match="expected 1 to 512"):
        CODEC.start(Options(sfreq=sfreq))
