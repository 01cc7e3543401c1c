from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Options
from firmware_bridge.codecs import nuanic
from firmware_bridge.codecs.nuanic import CODEC, PS_MAX, Eda, Mode
from firmware_bridge.errors import DecodeError, ExchangeError
from firmware_bridge.exchange import Exchange, Read, Subscribe, Write
from firmware_bridge.packet import Packet

WORKED = bytes.fromhex("07 00 27 08 1b 1b a0 01 00 00 90 d0 03 00")
NOW_NS = 1_787_161_151_527_000_000
"""The moment of the worked notification."""

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
edas = st.builds(Eda, boot_count=u16, ticks=u64, ohm=u32)


def test_worked_notification() -> None:
    eda = Eda.from_bytes(WORKED)
    assert eda == Eda(boot_count=7, ticks=1_787_161_151_527, ohm=250_000)
    assert bytes(eda) == WORKED
    packet = Packet(1_787_161_151_527, (4_000_000,), seq=None, boot=7)
    assert eda.packet() == packet
    assert CODEC.decoder().push(WORKED) == [packet]
    assert packet.values[0] * CODEC.stream_info.scale == pytest.approx(4.0)  # uS


@given(edas)
def test_round_trip(eda: Eda) -> None:
    assert Eda.from_bytes(bytes(eda)) == eda


@given(st.one_of(st.binary(max_size=30), st.binary(min_size=14, max_size=14)))
def test_arbitrary_bytes_raise_only_decode_error(data: bytes) -> None:
    try:
        eda = Eda.from_bytes(data)
    except DecodeError as error:
        assert (error.data, error.offset) == (data, min(len(data), 14))
        assert len(data) != 14
    else:
        assert bytes(eda) == data


@given(st.binary(max_size=3))
def test_arbitrary_settings_raise_only_decode_error(data: bytes) -> None:
    for read, known in ((nuanic.read_mode, range(4)), (nuanic.read_rate, range(3, 17))):
        try:
            value = read(data)
        except DecodeError as error:
            assert 0 <= error.offset <= len(data)
            assert len(data) != 1 or data[0] not in known
        else:
            assert bytes([value]) == data


@given(st.integers(1001, 2**32 - 2))
def test_conductance_is_one_over_resistance_to_the_picosiemens(ohm: int) -> None:
    assert abs(Eda(0, 0, ohm).conductance_ps - 1e12 / ohm) <= 0.5


@given(st.integers(1001, 2**32 - 3))
def test_more_ohm_never_conducts_more(ohm: int) -> None:
    assert Eda(0, 0, ohm).conductance_ps >= Eda(0, 0, ohm + 1).conductance_ps


@pytest.mark.parametrize(
    ("ohm", "ps", "counts"),
    [
        (0, PS_MAX, False),  # a short circuit, or no measurement
        (1, PS_MAX, False),
        (1000, PS_MAX, False),
        (1001, 999_000_999, True),
        (250_000, 4_000_000, True),
        (2**32 - 2, 233, True),
        (2**32 - 1, 0, False),  # open
    ],
)
def test_what_is_no_skin_is_at_an_end_of_the_range(ohm: int, ps: int, counts: bool) -> None:
    low, high = CODEC.stream_info.value_range
    value = Eda(0, 0, ohm).conductance_ps
    assert value == ps
    assert (low < value < high) == counts


# -- the exchange


def _run(
    options: Options, mode: int, rate_hz: int, takes_rate: bool = True
) -> tuple[Exchange, list[tuple[str, bytes]]]:
    """Against a ring of these settings; what was written to it."""
    exchange = Exchange(CODEC.protocol, CODEC.start(options))
    ring = {nuanic.MODE_UUID: bytes([mode]), nuanic.RATE_UUID: bytes([rate_hz])}
    writes = []
    while not exchange.done:
        match exchange.rule.do:
            case Read(uuid):
                exchange.did(ring[uuid])
            case Write(uuid, data):
                writes.append((uuid, data))
                if takes_rate or uuid != nuanic.RATE_UUID:
                    ring[uuid] = data
                exchange.did()
            case Subscribe(uuid):
                assert uuid == CODEC.data_uuid
                exchange.did()
    return exchange, writes


def test_a_ring_that_is_set_up_is_left_alone() -> None:
    exchange, writes = _run(Options(), mode=Mode.RAW, rate_hz=8)
    assert writes == []
    assert CODEC.describe(exchange.answers) == CODEC.stream_info == nuanic.STREAM_INFO


@pytest.mark.parametrize("mode", [Mode.STANDBY, Mode.LIVE, Mode.RESEARCH])
def test_another_mode_is_changed_once(mode: Mode) -> None:
    _, writes = _run(Options(), mode=mode, rate_hz=8)
    assert writes == [(nuanic.MODE_UUID, b"\x01")]


@pytest.mark.parametrize("rate_hz", range(3, 17))
def test_every_rate(rate_hz: int) -> None:
    exchange, writes = _run(Options(sfreq=float(rate_hz)), mode=Mode.RAW, rate_hz=0)
    assert writes == [(nuanic.RATE_UUID, bytes([rate_hz]))]
    assert CODEC.describe(exchange.answers).sfreq == rate_hz
    exchange, writes = _run(Options(sfreq=float(rate_hz)), mode=Mode.RAW, rate_hz=rate_hz)
    assert writes == []
    assert CODEC.describe(exchange.answers).sfreq == rate_hz


def test_the_clock_is_set_where_the_host_tells_the_time() -> None:
    _, writes = _run(Options(unix_ns=NOW_NS), mode=Mode.LIVE, rate_hz=16)
    assert writes == [
        (nuanic.MODE_UUID, b"\x01"),
        (nuanic.RATE_UUID, b"\x08"),
        (nuanic.CLOCK_UUID, WORKED[2:10]),
    ]


def test_a_ring_that_does_not_take_on_the_rate_is_refused() -> None:
    with pytest.raises(ExchangeError, match=r"at 'rate again': does not take on the rate; pair it again") as caught:
        _run(Options(sfreq=16.0), mode=Mode.RAW, rate_hz=8, takes_rate=False)
    assert caught.value.permanent


@pytest.mark.parametrize("sfreq", [0.0, 2.0, 7.5, 17.0, 130.0, float("nan")])
def test_a_rate_no_ring_has_is_refused_at_once(sfreq: float) -> None:
    with pytest.raises(ValueError, match="expected a whole number, 3 to 16 Hz"):
        CODEC.start(Options(sfreq=sfreq))


@pytest.mark.parametrize("value", [b"", b"\x04", b"\x01\x00"])
def test_a_mode_that_is_none_ends_the_exchange(value: bytes) -> None:
    exchange = Exchange(CODEC.protocol, CODEC.start(Options()))
    with pytest.raises(ExchangeError, match="at 'mode'"):
        exchange.did(value)


def test_the_first_notification_may_take_as_long_as_the_ring_is_mute() -> None:
    assert CODEC.first_s > nuanic.MUTE_S


def test_leaving_changes_no_mode() -> None:
    assert Exchange(CODEC.protocol, CODEC.stop).done
