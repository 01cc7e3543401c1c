from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codecs.heart_rate import HeartRate
from firmware_bridge.errors import DecodeError

u16 = st.integers(0, 2**16 - 1)
measurements = st.builds(
    HeartRate,
    bpm=u16,
    contact=st.sampled_from([None, False, True]),
    energy_kj=st.none() | u16,
    rr=st.none() | st.lists(u16, max_size=9).map(tuple),
)


def test_worked_notification() -> None:
    data = bytes.fromhex("10 48 34 03")
    measurement = HeartRate.from_bytes(data)
    assert measurement == HeartRate(bpm=72, contact=None, energy_kj=None, rr=(820,))
    assert [round(1000 * interval) for interval in measurement.rr_s] == [801]
    assert bytes(measurement) == data


@pytest.mark.parametrize(
    ("bpm", "contact", "energy_kj", "rr"),
    list(itertools.product([72, 300], [None, False, True], [None, 0, 65535], [None, (), (820,), (820, 1024, 65535)])),
)
def test_every_combination_of_optional_fields(
    bpm: int, contact: bool | None, energy_kj: int | None, rr: tuple[int, ...] | None
) -> None:
    measurement = HeartRate(bpm, contact, energy_kj, rr)
    assert HeartRate.from_bytes(bytes(measurement)) == measurement


@given(measurements)
def test_round_trip(measurement: HeartRate) -> None:
    assert HeartRate.from_bytes(bytes(measurement)) == measurement


@given(st.binary(max_size=30))
def test_arbitrary_bytes_raise_only_decode_error(data: bytes) -> None:
    try:
        measurement = HeartRate.from_bytes(data)
    except DecodeError as error:
        assert 0 <= error.offset <= len(data)
    else:
        assert HeartRate.from_bytes(bytes(measurement)) == measurement


@pytest.mark.parametrize(
    ("data", "measurement"),
    [
        ("01 48 00", HeartRate(72)),  # 16 bits though 8 would do
        ("02 48", HeartRate(72)),  # contact bit without "contact is supported": it did not say
        ("04 48", HeartRate(72, contact=False)),
        ("06 48", HeartRate(72, contact=True)),
        ("e0 48", HeartRate(72)),  # reserved bits
        ("1f 2c 01 05 00 00 04 34 03", HeartRate(300, True, 5, (1024, 820))),
    ],
)
def test_flags(data: str, measurement: HeartRate) -> None:
    assert HeartRate.from_bytes(bytes.fromhex(data)) == measurement


def test_no_intervals_no_seconds() -> None:
    assert HeartRate(72).rr_s == ()


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        ("", 0, "flags"),
        ("00", 1, "1 byte of heart rate"),
        ("01 48", 2, "2 bytes of heart rate"),
        ("08 48 01", 3, "energy"),
        ("00 48 34 03", 2, "2 surplus bytes"),
        ("10 48 34 03 00", 4, "cut short"),
    ],
)
def test_wrong_notifications_name_the_byte(data: str, offset: int, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        HeartRate.from_bytes(bytes.fromhex(data))
    assert caught.value.offset == offset
    assert reason in caught.value.reason
