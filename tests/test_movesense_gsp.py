from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Codec, Options
from firmware_bridge.codecs import movesense_gsp
from firmware_bridge.codecs.movesense_gsp import (
    CODEC,
    RATES,
    RAW_CODEC,
    Answer,
    Command,
    EcgData,
    EcgInfo,
    Op,
    RawEcgData,
    Status,
)
from firmware_bridge.errors import DecodeError, ExchangeError
from firmware_bridge.exchange import Exchange
from firmware_bridge.packet import Packet

WORKED_START = bytes.fromhex("02 63 a9 21 00 00 0c 1f 88 1e 05 1e 8e 1d")
"""The first four of sixteen samples."""
WORKED_UV = (7948, 7816, 7685, 7566)
WORKED_COUNTS = (20835, 20488, 20147, 19833)
"""The same moment on the other path."""
WORKED = WORKED_START + 3 * WORKED_START[6:]

# A Movesense Flash at rest, as captured by sokolmarek/movesense-commander (MIT), layouts.hardware.test.ts.
CAPTURED = bytes.fromhex(
    "c3 06 02 00 ba ff c5 ff c9 ff c5 ff c1 ff c2 ff c2 ff c2 ff c1 ff c1 ff c1 ff c6 ff cb ff d0 ff cf ff ca ff"
)
CAPTURED_INFO = bytes.fromhex("07 7d 00 80 00 c8 00 fa 00 00 01 f4 01 00 02 10 00 03 28 00 64 00 96 00 01 00 00 00 3f")

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))


def sixteen(bits: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)] * 16)


paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
messages = st.one_of(
    st.builds(EcgData, ticks=u32, samples=sixteen(16), ref=u8),
    st.builds(RawEcgData, ticks=u32, samples=sixteen(32), ref=u8),
    st.builds(Answer, ref=u8, status=u16, payload=st.binary(max_size=30)),
    st.builds(Command, op=st.sampled_from([Op.SUBSCRIBE, Op.GET]), ref=u8, path=paths),
    st.builds(Command, op=st.sampled_from([Op.HELLO, Op.UNSUBSCRIBE]), ref=u8),
    st.builds(EcgInfo, rates=st.lists(u16, max_size=9).map(tuple), array_size=u16, filters=st.binary(max_size=20)),
)
# Arbitrary bytes seldom have a right head or size: most of them are given one.
garbled = st.one_of(
    st.binary(max_size=80),
    st.binary(max_size=40).map(lambda tail: bytes([1, 0x63]) + tail),
    st.binary(max_size=80).map(lambda tail: bytes([2, 0x63]) + tail),
    st.binary(max_size=20).map(lambda tail: bytes([4, 0x63]) + tail + b"\0"),
    st.binary(min_size=36, max_size=36).map(lambda tail: bytes([2, 0x63]) + tail),
    st.binary(min_size=68, max_size=68).map(lambda tail: bytes([2, 0x63]) + tail),
)
both = pytest.mark.parametrize("codec", [CODEC, RAW_CODEC], ids=lambda codec: codec.protocol)


def test_worked_notification() -> None:
    data = EcgData.from_bytes(WORKED)
    assert data == EcgData(ticks=8617, samples=WORKED_UV * 4)
    assert bytes(data) == WORKED
    assert CODEC.decoder().push(WORKED) == [Packet(8617, WORKED_UV * 4)]
    assert WORKED_UV[0] * CODEC.stream_info.scale == pytest.approx(7.948)


def test_the_raw_path_gives_the_same_values_by_its_scale() -> None:
    data = bytes(RawEcgData(8617, WORKED_COUNTS * 4))
    (packet,) = RAW_CODEC.decoder().push(data)
    assert packet == Packet(8617, WORKED_COUNTS * 4)
    uv = [count * RAW_CODEC.stream_info.scale * 1000 for count in packet.values]
    assert [round(value) for value in uv] == list(WORKED_UV * 4)
    assert pytest.approx(0.381469726563, abs=1e-12) == movesense_gsp.UV_PER_COUNT


def test_a_captured_notification() -> None:
    data = EcgData.from_bytes(b"\x02\x63" + CAPTURED)
    samples = (-70, -59, -55, -59, -63, -62, -62, -62, -63, -63, -63, -58, -53, -48, -49, -54)
    assert data == EcgData(132803, samples)


def test_captured_rates() -> None:
    info = EcgInfo.from_bytes(CAPTURED_INFO)
    assert (info.rates, info.array_size) == (RATES, 16)
    assert bytes(info) == CAPTURED_INFO


def test_worked_commands() -> None:
    start = bytes.fromhex("01 63 2f 4d 65 61 73 2f 45 43 47 2f 32 30 30 2f 6d 56 00")
    assert Command.from_bytes(start) == Command(Op.SUBSCRIBE, 0x63, "/Meas/ECG/200/mV")
    assert start in [getattr(rule.do, "data", b"") for rule in CODEC.start(Options()).values()]
    assert bytes.fromhex("02 63") == movesense_gsp.STOP


def test_worked_answers() -> None:
    assert Answer.from_bytes(bytes.fromhex("01 63 c8 00")) == Answer(0x63, Status.OK)
    assert Answer.from_bytes(bytes.fromhex("01 07 ad 01")) == Answer(0x07, Status.BUSY)


@given(messages)
def test_round_trip(message: EcgData | Answer | Command | EcgInfo) -> None:
    assert type(message).from_bytes(bytes(message)) == message


@given(garbled)
def test_arbitrary_bytes_raise_only_decode_error(data: bytes) -> None:
    for message in (EcgData, RawEcgData, Answer, Command, EcgInfo):
        try:
            decoded = message.from_bytes(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)
            assert error.data == data
        else:
            assert bytes(decoded) == data


@given(st.sampled_from([CODEC, RAW_CODEC]), garbled)
def test_the_decoder_leaves_alone_what_is_not_its_data(codec: Codec, data: bytes) -> None:
    ours = data[:1] == b"\x02" and data[1:2] == b"\x63"
    try:
        packets = codec.decoder().push(data)
    except DecodeError as error:
        assert error.protocol == codec.protocol
        assert len(data) < 2 or data[0] not in (1, 2, 3) or data[1] == 0x63
    else:
        assert len(packets) == ours


@both
def test_answers_and_other_subscriptions_are_no_packets(codec: Codec) -> None:
    decoder = codec.decoder()
    for data in ("01 63 c8 00", "01 64 c8 00 07", "02 64 00", "03 64 00", "01 00 01 32 00"):
        assert decoder.push(bytes.fromhex(data)) == []


@pytest.mark.parametrize(
    ("codec", "data", "offset", "reason"),
    [
        (CODEC, b"", 0, "too short"),
        (CODEC, b"\x02", 1, "too short"),
        (CODEC, b"\x00\x63", 0, "code 0: expected 1, 2 or 3"),
        (CODEC, WORKED[:-1], 37, "37 bytes: expected 38"),
        (CODEC, bytes(RawEcgData(0, (0,) * 16)), 38, "70 bytes: expected 38, 16 samples of movesense-ecg"),
        (RAW_CODEC, WORKED, 38, "38 bytes: expected 70, 16 samples of movesense-ecg-raw"),
        (RAW_CODEC, b"\x03\x63\x00", 0, "the link's MTU is too small"),
    ],
)
def test_wrong_notifications_say_what_is_wrong(codec: Codec, data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decoder().push(data)
    assert (caught.value.protocol, caught.value.offset) == (codec.protocol, offset)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        ("", 0),
        ("00", 1),
        ("03 63", 0),
        ("02 63 00", 2),
        ("01 63", 2),
        ("01 63 00", 3),
        ("04 63 2f", 3),
        ("01 63 2f 00 00", 5),
        ("01 63 2f ff 00", 3),
    ],
)
def test_wrong_commands_name_the_byte(data: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        Command.from_bytes(bytes.fromhex(data))
    assert caught.value.offset == offset


@pytest.mark.parametrize("command", [Command(Op.GET, 1), Command(Op.HELLO, 1, "/a"), Command(Op.GET, 1, "/a\0b")])
def test_commands_that_no_sensor_could_read_are_not_encoded(command: Command) -> None:
    with pytest.raises(ValueError, match="SUBSCRIBE and GET have a path"):
        bytes(command)


def test_a_notification_holds_sixteen_samples() -> None:
    with pytest.raises(ValueError, match="15 samples: a notification holds 16"):
        bytes(EcgData(0, (0,) * 15))


@both
def test_a_whole_notification_fits_the_stated_mtu(codec: Codec) -> None:
    message = EcgData if codec is CODEC else RawEcgData
    assert len(bytes(message(0, (0,) * 16))) + 3 == codec.min_mtu


@pytest.mark.parametrize(
    ("codec", "low_mv", "high_mv"), [(CODEC, -32.768, 32.767), (RAW_CODEC, -50.0, 49.9996)], ids=["mV", "raw"]
)
def test_the_range_in_mv(codec: Codec, low_mv: float, high_mv: float) -> None:
    low, high = (value * codec.stream_info.scale for value in codec.stream_info.value_range)
    assert (low, high) == pytest.approx((low_mv, high_mv), abs=1e-4)


# -- the exchange


def _started(codec: Codec, options: Options, *heard: bytes) -> Exchange:
    """All notifications of both steps, each handed to the exchange as it comes."""
    exchange = Exchange(codec.protocol, codec.start(options))
    exchange.did()
    exchange.did()
    for data in heard:
        before = exchange.state
        exchange.heard(codec.data_uuid, data)
        if exchange.state != before and not exchange.done:
            exchange.did()
    return exchange


INFO_OK = bytes(Answer(movesense_gsp.INFO_REF, Status.OK, CAPTURED_INFO))
START_OK = bytes(Answer(movesense_gsp.STREAM_REF, Status.OK))


@both
@pytest.mark.parametrize("rate_hz", RATES)
def test_start_at_each_rate(codec: Codec, rate_hz: int) -> None:
    exchange = _started(codec, Options(sfreq=float(rate_hz)), INFO_OK, START_OK)
    assert exchange.done
    info = codec.describe(exchange.answers)
    assert info.sfreq == rate_hz
    assert (info == codec.stream_info) == (rate_hz == 200)
    asked = codec.start(Options(sfreq=float(rate_hz)))[f"start at {rate_hz} Hz"].do
    suffix = "" if codec is RAW_CODEC else "/mV"
    assert Command.from_bytes(getattr(asked, "data")).path == f"/Meas/ECG/{rate_hz}{suffix}"  # noqa: B009


@pytest.mark.parametrize("sfreq", [0.0, 130.0, 200.5, float("nan")])
def test_a_rate_no_movesense_has_is_refused_at_once(sfreq: float) -> None:
    with pytest.raises(ValueError, match=r"movesense-ecg at .* Hz: expected one of 125, 128, 200"):
        CODEC.start(Options(sfreq=sfreq))


def test_answers_are_told_apart_by_reference() -> None:
    exchange = _started(CODEC, Options(), START_OK, b"\x02\x63\x00", bytes(Answer(0x01, 429)))
    assert exchange.state == "info"
    exchange.heard(CODEC.data_uuid, INFO_OK)
    exchange.did()
    exchange.heard(CODEC.data_uuid, INFO_OK)
    assert exchange.state == "start at 200 Hz"
    exchange.heard(CODEC.data_uuid, START_OK)
    assert exchange.done


@pytest.mark.parametrize(
    "answer", [Answer(0x64, 404), Answer(0x64, 503), Answer(0x64, 200), Answer(0x64, 200, b"\x09")]
)
def test_firmware_that_cannot_tell_its_rates_is_asked_all_the_same(answer: Answer) -> None:
    assert _started(CODEC, Options(), bytes(answer), START_OK).done


@pytest.mark.parametrize(
    ("codec", "heard", "reason", "remedy", "permanent"),
    [
        (CODEC, [Answer(0x64, 429)], "429", "take its battery out", False),
        (CODEC, [Answer(0x64, 200, bytes(EcgInfo((125, 250), 16)))], "no ECG at this rate", "another rate", True),
        (CODEC, [Answer(0x64, 200, bytes(EcgInfo((200,), 8)))], "other than 16 samples", "update", True),
        (CODEC, [INFO_OK, Answer(0x63, 429)], "429", "take its battery out", False),
        (CODEC, [INFO_OK, Answer(0x63, 404)], "older than 2.3", "pair it as movesense-ecg-raw", True),
        (RAW_CODEC, [INFO_OK, Answer(0x63, 404)], "no ECG at this rate", "another rate", True),
        (CODEC, [INFO_OK, Answer(0x63, 503)], "refuses to start", "battery", False),
    ],
)
def test_refusals(codec: Codec, heard: list[Answer | bytes], reason: str, remedy: str, permanent: bool) -> None:
    with pytest.raises(ExchangeError) as caught:
        _started(codec, Options(), *map(bytes, heard))
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy
    assert caught.value.permanent is permanent


def test_info_is_never_asked_for_what_is_never_answered() -> None:
    writes = [getattr(rule.do, "data", b"") for codec in (CODEC, RAW_CODEC) for rule in codec.start(Options()).values()]
    assert {Command.from_bytes(data).path for data in writes if data} == {
        "/Meas/ECG/Info",
        "/Meas/ECG/200/mV",
        "/Meas/ECG/200",
    }


def test_describe_needs_an_answer_to_a_start() -> None:
    with pytest.raises(DecodeError, match="no answer to a start"):
        CODEC.describe({"info": INFO_OK})


@pytest.mark.skipif(
    "AFFECTD_REFERENCE_DATA" not in os.environ,
    reason="AFFECTD_REFERENCE_DATA is unset: no real packet of a Movesense (movesense_gsp/packets.json)",
)
def test_a_real_packet_decodes_to_what_the_makers_converter_says() -> None:
    capture = Path(os.environ["AFFECTD_REFERENCE_DATA"]) / "movesense_gsp" / "packets.json"
    channel = json.loads(capture.read_text())["channels"]["/Meas/Ecg/200/mV"]
    payload, converted = bytes.fromhex(channel["packet_hex"]), channel["json_entry"]
    data = EcgData.from_bytes(b"\x02\x63" + payload)
    assert data.ticks == converted["Timestamp"]
    assert [value * CODEC.stream_info.scale for value in data.samples] == pytest.approx(converted["Samples"])
    assert bytes(data)[2:] == payload
