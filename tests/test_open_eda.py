from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import firmware_bridge
from firmware_bridge.codecs import open_eda
from firmware_bridge.codecs.open_eda import (
    MAX_SAMPLES,
    Command,
    Data,
    Info,
    Op,
    Response,
    Result,
    Status,
    Unit,
    max_samples,
)
from firmware_bridge.errors import DecodeError
from firmware_bridge.packet import Packet

SPECIFICATION = (Path(firmware_bridge.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
MESSAGES = {message.__name__: message for message in (Info, Data, Status, Command, Response)}
WORKED = bytes.fromhex("01 04 01 02 87 d6 12 00 03 14 00 00 04 14 00 00 06 14 00 00 05 14 00 00")
INFO = bytes(Info(boot_id=7))

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
int32 = st.integers(-(2**31), 2**31 - 1)
positive = st.integers(1, 2**32 - 1)
messages = st.one_of(
    st.builds(Info, boot_id=u32, rate_mhz=positive, clock_hz=positive, unit=st.sampled_from(Unit)),
    st.builds(Data, seq=u16, ticks=u32, samples=st.lists(int32, min_size=1, max_size=MAX_SAMPLES).map(tuple)),
    st.builds(Status, st.booleans(), st.booleans(), st.booleans()),
    st.builds(Command, st.sampled_from([Op.START, Op.STOP])),
    st.builds(Command, st.just(Op.SET_RATE), u32),
    st.builds(Response, op=u8, status=u8),
)
# An arbitrary message seldom has a right start: most of them are given one.
garbled = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: b"\x01" + tail),
    st.binary(max_size=60).map(lambda tail: WORKED[:8] + tail),
    st.binary(min_size=15, max_size=15).map(lambda value: b"\x01\x01" + value[2:6] + b"\x00" + value[7:]),
)


def test_worked_notification() -> None:
    data = Data.from_bytes(WORKED)
    assert data == Data(seq=513, ticks=1_234_567, samples=(5123, 5124, 5126, 5125))
    assert bytes(data) == WORKED
    assert data.packet() == Packet(ticks=1_234_567, values=(5123, 5124, 5126, 5125), seq=513)
    assert open_eda.decode_packet(WORKED) == data.packet()
    assert data.samples[0] * open_eda.STREAM_INFO.scale == pytest.approx(5.123)


@given(messages)
def test_round_trip(message: Info | Data | Status | Command | Response) -> None:
    assert type(message).from_bytes(bytes(message)) == message


@given(garbled)
def test_arbitrary_bytes_raise_only_decode_error(data: bytes) -> None:
    for message in MESSAGES.values():
        try:
            decoded = message.from_bytes(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)
            assert error.data == data
        else:
            assert bytes(decoded) == data


def _patched(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + bytes([value]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("message", "data", "offset", "reason"),
    [
        (Data, b"", 0, "expected version 1"),
        (Data, _patched(WORKED, 0, 2), 0, "version 2: expected 1"),
        (Data, WORKED[:7], 7, "expected 8 header bytes"),
        (Data, _patched(WORKED[:8], 1, 0), 1, "0 samples: expected 1 to 126"),
        (Data, _patched(WORKED, 1, 127), 1, "127 samples"),
        (Data, _patched(WORKED, 1, 5), 24, "too short: expected 28 bytes"),
        (Data, _patched(WORKED, 1, 3), 20, "4 surplus bytes: expected 20"),
        (Data, WORKED[:23], 23, "too short: expected 24 bytes"),
        (Info, INFO[:14], 14, "too short: expected 15 bytes"),
        (Info, INFO + b"\x00", 15, "1 surplus bytes"),
        (Info, _patched(INFO, 0, 0), 0, "version 0"),
        (Info, _patched(INFO, 1, 2), 1, "2 channels: expected 1"),
        (Info, INFO[:2] + bytes(4) + INFO[6:], 2, "rate 0"),
        (Info, _patched(INFO, 6, 2), 6, "unit 2: expected 0 (nS)"),
        (Info, INFO[:7] + bytes(4) + INFO[11:], 7, "clock 0"),
        (Status, b"", 0, "too short"),
        (Status, b"\x08", 0, "bits 0 to 2"),
        (Command, b"\x09", 0, "command 9"),
        (Command, b"\x01\x00", 1, "surplus"),
        (Command, b"\x03\x00", 2, "expected 5 bytes"),
        (Response, b"\xf1\x01\x00", 0, "0xf1: expected 0xf0"),
        (Response, b"\xf0\x01", 2, "too short"),
    ],
)
def test_wrong_messages_name_the_byte(message: type[Data], data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        message.from_bytes(data)
    assert caught.value.offset == offset
    assert reason in caught.value.reason


def test_info_gives_the_stream_its_rate_and_clock() -> None:
    info = Info(boot_id=7, rate_mhz=15_625, clock_hz=32_768).stream_info()
    assert (info.sfreq, info.tick_hz, info.tick_bits, info.seq_bits) == (15.625, 32_768.0, 32, 16)
    assert Info(boot_id=0).stream_info() == open_eda.STREAM_INFO == open_eda.read_info(INFO)


def test_ohm_is_refused_because_no_scale_turns_it_into_conductance() -> None:
    ohm = _patched(INFO, 6, 1)
    assert Info.from_bytes(ohm).unit is Unit.OHM
    with pytest.raises(
        DecodeError, match=r"byte 6 of 15: unit 1 \(ohm\): expected 0; the sensor must send conductance"
    ):
        open_eda.read_info(ohm)


@pytest.mark.parametrize("samples", [(), (0,) * (MAX_SAMPLES + 1)])
def test_what_cannot_be_sent_is_not_encoded(samples: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 126"):
        bytes(Data(0, 0, samples))


@pytest.mark.parametrize("command", [Command(Op.START, 8000), Command(Op.SET_RATE)])
def test_a_rate_goes_with_set_rate_alone(command: Command) -> None:
    with pytest.raises(ValueError, match="SET_RATE has a rate"):
        bytes(command)


@given(st.integers(15, 600))
def test_max_samples_is_the_largest_packet_that_fits(mtu: int) -> None:
    def fits(n: int) -> bool:
        return len(bytes(Data(0, 0, (0,) * n))) <= mtu - 3

    n = max_samples(mtu)
    assert fits(n)
    assert n == MAX_SAMPLES or not fits(n + 1)


def test_no_sample_fits_the_smallest_links() -> None:
    assert max_samples(14) == max_samples(0) == 0


# -- PROTOCOL.md, the specification for makers

EXAMPLES = re.findall(r"```example\n(.+)\n(.+)\n```", SPECIFICATION)


def test_the_specification_has_examples_of_every_message() -> None:
    assert {text.partition("(")[0] for _, text in EXAMPLES} == set(MESSAGES)
    assert SPECIFICATION.count("```example") == len(EXAMPLES)
    assert WORKED.hex(" ") in {data for data, _ in EXAMPLES}


@pytest.mark.parametrize(("data", "text"), EXAMPLES)
def test_examples_of_the_specification(data: str, text: str) -> None:
    message = MESSAGES[text.partition("(")[0]].from_bytes(bytes.fromhex(data))
    assert repr(message) == text
    assert bytes(message).hex(" ") == data


def test_the_specification_names_the_uuids_of_the_codec() -> None:
    named = re.findall(r"^\| (\w+) \| `([0-9a-f-]{36})`", SPECIFICATION, re.MULTILINE)
    assert dict(named) == {
        "Service": open_eda.SERVICE_UUID,
        "Info": open_eda.INFO_UUID,
        "Data": open_eda.DATA_UUID,
        "Status": open_eda.STATUS_UUID,
        "Control": open_eda.CONTROL_UUID,
    }


def test_the_byte_tables_of_the_specification_have_no_hole() -> None:
    tables = [
        re.findall(r"^\| (\d+) \| (\d+) \| [ui]\d+ \|", section, re.MULTILINE)
        for section in re.split(r"^## ", SPECIFICATION, flags=re.MULTILINE)
    ]
    sizes = []
    for rows in filter(None, tables):
        ends = [int(offset) + int(size) for offset, size in rows]
        assert [int(offset) for offset, _ in rows] == [0, *ends[:-1]]
        sizes.append(ends[-1])
    assert sizes == [len(INFO), len(WORKED) - 4 * 4]


def test_the_mtu_table_of_the_specification() -> None:
    rows = re.findall(r"^\| (\d+)(?: \(no exchange\))? \| (\d+) \|$", SPECIFICATION, re.MULTILINE)
    assert len(rows) == 5
    assert all(max_samples(int(mtu)) == int(n) for mtu, n in rows)


def test_the_result_table_of_the_specification() -> None:
    rows = re.findall(r"^\| (\d) \| (?:done|unknown|invalid|not now)", SPECIFICATION, re.MULTILINE)
    assert [int(code) for code in rows] == [result.value for result in Result]
