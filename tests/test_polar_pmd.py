from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codecs import polar_pmd
from firmware_bridge.codecs.polar_pmd import (
    SETTING_BYTES,
    Command,
    EcgFrame,
    Features,
    Measurement,
    Op,
    Response,
    Setting,
    SettingId,
    Status,
    Stopped,
)
from firmware_bridge.errors import DecodeError
from firmware_bridge.packet import Packet

WORKED = bytes.fromhex("00 00 00 c9 1b 76 61 0c 0a 00 02 80 ff d2 04 00")

u8 = st.integers(0, 255)
int24 = st.integers(-(2**23), 2**23 - 1)
frames = st.builds(
    EcgFrame,
    ticks=st.integers(0, 2**64 - 1),
    samples=st.lists(int24, min_size=1, max_size=80).map(tuple),
    flags=st.sampled_from([0x00, 0x40, 0x80, 0xC0]),
)
settings_lists = st.lists(
    st.sampled_from(SettingId).flatmap(
        lambda key: st.builds(
            Setting,
            st.just(key),
            st.lists(st.integers(0, 256 ** SETTING_BYTES[key] - 1), max_size=3).map(tuple),
        )
    ),
    max_size=4,
).map(tuple)
responses = st.one_of(
    st.builds(Response, op=u8, measurement=u8, status=u8),
    st.builds(Response, op=u8, measurement=u8, status=u8, more=u8, parameters=st.binary(max_size=20)),
)
starts = st.builds(Command, op=st.just(Op.START), measurement=u8, settings=settings_lists)
other_commands = st.builds(Command, op=st.sampled_from([Op.GET_SETTINGS, Op.STOP, Op.GET_STATUS]), measurement=u8)

# An arbitrary frame seldom has a right header: half of them are given one.
garbled = st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda tail: WORKED[:10] + tail))


def test_worked_frame() -> None:
    frame = EcgFrame.from_bytes(WORKED)
    assert frame == EcgFrame(724_060_800_000_000_000, (-32766, 1234))
    assert bytes(frame) == WORKED
    assert frame.packet() == Packet(724_060_800_000_000_000, (-32766, 1234), seq=None)
    assert polar_pmd.decode_packet(WORKED) == frame.packet()


def test_frame_of_73_samples_fits_the_stated_mtu() -> None:
    assert len(bytes(EcgFrame(0, (0,) * 73))) == 229 == polar_pmd.MIN_ATT_MTU - 3


def test_values_in_mv_and_the_clock_of_the_worked_frame() -> None:
    info = polar_pmd.STREAM_INFO
    assert [value * info.scale for value in EcgFrame.from_bytes(WORKED).samples] == pytest.approx([-32.766, 1.234])
    assert (info.value_range[0] * info.scale, info.value_range[1] * info.scale) == pytest.approx((-20.0, 20.0))
    seconds = (724_060_800_000_000_000 + polar_pmd.EPOCH_UNIX_NS) / info.tick_hz
    assert seconds == 1_670_745_600.0  # 2022-12-11T08:00Z


@given(frames)
def test_frame_round_trip(frame: EcgFrame) -> None:
    assert EcgFrame.from_bytes(bytes(frame)) == frame


@given(frames)
def test_samples_equal_the_plain_definition_of_int24(frame: EcgFrame) -> None:
    data = bytes(frame)
    plain = [int.from_bytes(data[at : at + 3], "little", signed=True) for at in range(10, len(data), 3)]
    assert EcgFrame.from_bytes(data).samples == tuple(plain)


@given(garbled)
def test_arbitrary_bytes_raise_only_decode_error(data: bytes) -> None:
    for message in (EcgFrame, Features, Command, Response, Stopped):
        try:
            decoded = message.from_bytes(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)
            assert error.data == data
        else:
            assert bytes(decoded) == data


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "too short"),
        (WORKED[:10], 10, "at least one sample"),
        (WORKED[:12], 12, "at least one sample"),
        (b"\x02" + WORKED[1:], 0, "measurement type 2: expected 0 (ECG)"),
        (WORKED[:9] + b"\x80" + WORKED[10:], 9, "delta-compressed"),
        (WORKED[:9] + b"\x01" + WORKED[10:], 9, "frame type 0x01: expected 0x00"),
        (WORKED[:-1], 13, "sample cut short"),
        (WORKED + b"\x00\x00", 16, "sample cut short"),
    ],
)
def test_wrong_frames_name_the_byte_and_what_was_expected(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        EcgFrame.from_bytes(data)
    assert caught.value.offset == offset
    assert reason in caught.value.reason
    assert caught.value.protocol == "polar-pmd-ecg"


@pytest.mark.parametrize("samples", [(), (2**23,), (0, -(2**23) - 1)])
def test_what_cannot_be_sent_is_not_encoded(samples: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an ECG frame holds"):
        bytes(EcgFrame(0, samples))


def test_flags_cannot_turn_a_frame_into_another_measurement() -> None:
    with pytest.raises(ValueError, match="upper two bits"):
        bytes(EcgFrame(0, (0,), flags=2))


def test_worked_commands() -> None:
    assert bytes.fromhex("01 00") == polar_pmd.GET_SETTINGS
    assert bytes.fromhex("02 00 00 01 82 00 01 01 0E 00") == polar_pmd.START
    assert bytes.fromhex("03 00") == polar_pmd.STOP
    assert Command.from_bytes(polar_pmd.START) == Command(Op.START, Measurement.ECG, polar_pmd.ECG_SETTINGS)


def test_worked_settings_response() -> None:
    data = bytes.fromhex("F0 01 00 00 00 00 01 82 00 01 01 0E 00")
    response = Response.from_bytes(data)
    assert response == Response(Op.GET_SETTINGS, Measurement.ECG, Status.OK, more=0, parameters=data[5:])
    assert response.settings() == (Setting(SettingId.RATE, (130,)), Setting(SettingId.RESOLUTION, (14,)))
    assert bytes(response) == data


def test_every_setting_has_the_size_the_sdk_gives_it() -> None:
    parameters = "00 01 82 00  01 01 0E 00  02 02 02 00 04 00  03 01 E8 03 00 00  04 01 03  05 01 00 00 80 3F"
    parameters += "06 01" + "AB" * 16
    response = Response(Op.GET_SETTINGS, Measurement.ACC, Status.OK, more=0, parameters=bytes.fromhex(parameters))
    assert [(setting.id, setting.values) for setting in response.settings()] == [
        (SettingId.RATE, (130,)),
        (SettingId.RESOLUTION, (14,)),
        (SettingId.RANGE, (2, 4)),
        (SettingId.RANGE_MILLIUNIT, (1000,)),
        (SettingId.CHANNELS, (3,)),
        (SettingId.FACTOR, (0x3F800000,)),
        (SettingId.SECURITY, (int("AB" * 16, 16),)),
    ]


def test_a_response_without_the_byte_more_does_not_say() -> None:
    assert Response.from_bytes(bytes.fromhex("F0 03 00 06")) == Response(Op.STOP, 0, Status.ALREADY_IN_STATE, None)
    assert Response.from_bytes(bytes.fromhex("F0 03 00 00 00")).more == 0


def test_a_feature_read_echoed_as_an_indication_is_no_response() -> None:
    with pytest.raises(DecodeError, match="0x0f: expected 0xf0"):
        Response.from_bytes(bytes.fromhex("0F 05 00"))


def test_features() -> None:
    features = Features.from_bytes(bytes.fromhex("0F 05 02"))
    assert [m.name for m in Measurement if m in features] == ["ECG", "ACC", "SDK_MODE"]
    assert 200 not in features
    assert polar_pmd.read_info(bytes.fromhex("0F 05 00")) is polar_pmd.STREAM_INFO
    with pytest.raises(DecodeError, match=r"byte 1 of 2: features 0x06: expected bit 0 \(ECG\)"):
        polar_pmd.read_info(bytes.fromhex("0F 06"))


def test_stop_notice() -> None:
    assert Stopped.from_bytes(bytes.fromhex("01 00 02")) == Stopped((Measurement.ECG, Measurement.ACC))


@given(st.one_of(starts, other_commands))
def test_command_round_trip(command: Command) -> None:
    assert Command.from_bytes(bytes(command)) == command


@given(responses)
def test_response_round_trip(response: Response) -> None:
    assert Response.from_bytes(bytes(response)) == response


@given(settings_lists)
def test_settings_of_a_response_round_trip(settings: tuple[Setting, ...]) -> None:
    response = Response(Op.GET_SETTINGS, 0, 0, more=0, parameters=b"".join(map(bytes, settings)))
    assert Response.from_bytes(bytes(response)).settings() == settings


@given(st.binary(max_size=40))
def test_arbitrary_settings_raise_only_decode_error(parameters: bytes) -> None:
    try:
        settings = Response(Op.GET_SETTINGS, 0, 0, more=0, parameters=parameters).settings()
    except DecodeError:
        return
    assert b"".join(map(bytes, settings)) == parameters


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        ("F0 01 00 00 00 07 01 00", 5),
        ("F0 01 00 00 00 00", 6),
        ("F0 01 00 00 00 00 02 82 00", 9),
        ("F0 01 00 00 00 00 01 82", 8),
    ],
)
def test_wrong_settings_name_the_byte(data: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        Response.from_bytes(bytes.fromhex(data)).settings()
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("data", "offset"), [("", 0), ("02", 1), ("09 00", 0), ("03 00 00", 2), ("02 00 00 01", 4), ("02 00 08 01", 2)]
)
def test_wrong_commands_name_the_byte(data: str, offset: int) -> None:
    with pytest.raises(DecodeError) as caught:
        Command.from_bytes(bytes.fromhex(data))
    assert caught.value.offset == offset


MAGIC = b"H10 ECG v1.0 binary data"


def _notifications(path: Path) -> Iterator[bytes]:
    """Records of the capture: u32 length, bytes; the last one is cut short."""
    data, offset = path.read_bytes(), len(MAGIC)
    assert data.startswith(MAGIC)
    while offset + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, offset)
        if offset + 4 + size > len(data):
            return
        yield data[offset + 4 : offset + 4 + size]
        offset += 4 + size


@pytest.mark.skipif(
    "AFFECTD_REFERENCE_DATA" not in os.environ,
    reason="AFFECTD_REFERENCE_DATA is unset: no real capture of a Polar H10 (polar_h10_pmd/notifications.bin)",
)
def test_a_real_h10_decodes_and_encodes_to_the_same_bytes() -> None:
    capture = Path(os.environ["AFFECTD_REFERENCE_DATA"]) / "polar_h10_pmd" / "notifications.bin"
    notifications = list(_notifications(capture))
    frames = [EcgFrame.from_bytes(data) for data in notifications]
    assert len(frames) == 12_355
    assert [bytes(frame) for frame in frames] == notifications
    # SOURCE.txt of the capture: 73 samples each, 130.045 Hz, 6934.8 s, no gap
    assert {len(frame.samples) for frame in frames} == {73}
    span_s = (frames[-1].ticks - frames[0].ticks) / polar_pmd.STREAM_INFO.tick_hz
    assert span_s == pytest.approx(6934.8, abs=0.1)
    assert 73 * (len(frames) - 1) / span_s == pytest.approx(130.045, abs=0.01)
    low, high = polar_pmd.STREAM_INFO.value_range
    assert all(low < value < high for frame in frames for value in frame.samples)
