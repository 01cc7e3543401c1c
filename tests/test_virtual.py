from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codecs import polar_pmd
from firmware_bridge.codecs.polar_pmd import EcgFrame
from firmware_bridge.virtual.clock import SensorClock
from firmware_bridge.virtual.errors import SignalError, SpecError
from firmware_bridge.virtual.signals import SHIPPED, Signal, find_beats, noise, read, shipped
from firmware_bridge.virtual.spec import SensorSpec, parse
from firmware_bridge.virtual.stream import Faults, Stream

RATES = {"ecg-130": 130.0, "ecg-200": 200.0, "eda-8": 8.0}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_signal_runs_on_into_its_beginning(name: str) -> None:
    values = shipped(name, RATES[name]).values
    assert 115 < len(values) / RATES[name] < 125
    assert abs(values[0] - values[-1]) <= sorted(abs(b - a) for a, b in pairwise(values))[len(values) * 9 // 10]


@pytest.mark.parametrize("name", ["ecg-130", "ecg-200"])
def test_beats_of_a_shipped_ecg_are_those_of_a_heart_also_over_the_join(name: str) -> None:
    signal = shipped(name, RATES[name])
    beats = signal.beats_between(0, 3 * len(signal.values))
    assert len(beats) == 3 * len(signal.beats)
    intervals = [(b - a) / signal.sfreq for a, b in pairwise(beats)]
    assert min(intervals) > 0.7
    assert max(intervals) < 1.25


def test_a_beat_is_the_top_of_its_wave() -> None:
    flat = [0] * 100
    assert find_beats([*flat, 2, 900, 1000, 800, *flat, 700, 990, 980, *flat], 130.0) == (102, 205)


@given(st.lists(st.integers(0, 5000), min_size=3, max_size=3).map(sorted))
def test_beats_of_two_stretches_are_those_of_both(cuts: list[int]) -> None:
    signal = Signal([0] * 50 + [1000] + [0] * 50, 130.0)
    first, middle, last = cuts
    both = signal.beats_between(first, middle) + signal.beats_between(middle, last)
    assert both == signal.beats_between(first, last) == [at for at in range(first, last) if at % 101 == 50]


def test_noise_is_the_seed_s_and_no_heart_s() -> None:
    assert noise("a", 130.0) == noise("a", 130.0) != noise("b", 130.0)
    assert max(map(abs, noise("a", 130.0).values)) < 300


def decode(data: bytes) -> list[polar_pmd.Packet]:
    return polar_pmd.CODEC.decoder().push(data)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1\n-2\n3\n", [1, -2, 3]),
        ("# uV\n1.4\n\n2.6 # high\n", [1, 3]),
        ("5,0.1\n6,0.2\n", [5, 6]),
        (f"{bytes(EcgFrame(1, (7, -8))).hex()}\n{bytes(EcgFrame(2, (9,))).hex(' ')}\n", [7, -8, 9]),
    ],
)
def test_a_user_s_signal(tmp_path: Path, text: str, values: list[int]) -> None:
    path = tmp_path / "signal"
    path.write_text(text)
    assert read(path, 130.0, decode) == Signal(values, 130.0)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "whole file"),
        (b"# nothing\n", "whole file"),
        (b"\xff\xfe", "whole file"),
        (b"1\ntwo\n", "line 2"),
        (b"nan\n", "line 1"),
        (b"1\n1e999\n", "line 2"),
        (b"0102030405060708\n", "line 1"),
        (b"00 00 00 c9 1b 76 61 0c 0\n", "line 1"),
    ],
)
def test_a_file_that_is_no_signal(tmp_path: Path, content: bytes, place: str) -> None:
    path = tmp_path / "signal"
    path.write_bytes(content)
    with pytest.raises(SignalError) as caught:
        read(path, 130.0, decode)
    assert (caught.value.path, caught.value.place) == (str(path), place)


def test_a_capture_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "signal"
    path.write_text("00112233445566778899\n")
    with pytest.raises(SignalError, match="hold no samples"):
        read(path, 130.0, lambda _data: [])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="cannot be read"):
        read(tmp_path / "none", 130.0, decode)


def test_spec_from_text() -> None:
    assert parse("open-eda", seed=3) == SensorSpec("open-eda", seed=3)
    text = "open-eda:id=left,passkey=000042,loss=0.25,address=c0:00:00:00:00:01,signal=a/b,lead_off=yes,seed=9"
    assert parse(text, seed=3) == SensorSpec(
        *("open-eda", "left"),
        address="C0:00:00:00:00:01",
        passkey=42,
        signal=Path("a/b"),
        loss=0.25,
        lead_off=True,
        seed=9,
    )


@pytest.mark.parametrize(
    "text",
    [
        "polar-h10:loss",
        "polar-h10:colour=red",
        "polar-h10:kind=open-eda",
        "polar-h10:loss=1.5",
        "polar-h10:loss=nan",
        "polar-h10:duplicates=-1",
        "polar-h10:speed=0",
        "polar-h10:sfreq=0",
        "polar-h10:late_s=-1",
        "polar-h10:lead_off=perhaps",
        "polar-h10:passkey=1000000",
        "polar-h10:passkey=secret",
        "polar-h10:mtu=22",
        "polar-h10:address=00:11:22:33:44:55",
        "polar-h10:address=C0:11",
    ],
)
def test_a_spec_that_makes_no_sense(text: str) -> None:
    with pytest.raises(SpecError):
        parse(text)


def test_the_clock_drifts_from_where_it_is() -> None:
    host = 100.0
    clock = SensorClock(lambda: host, speed=2.0)
    host = 110.0
    assert clock.now() == 20.0
    assert clock.wait_s(26.0) == 3.0
    clock.drift(500_000.0)
    assert clock.now() == 20.0
    host = 120.0
    assert clock.now() == 20.0 + 10 * 2.0 * 1.5
    assert clock.wait_s(clock.now() + 3.0) == pytest.approx(1.0)
    clock.reset()
    assert clock.now() == 0.0


def packets(seed: int, n: int, **faults: float) -> tuple[list[int], Stream]:
    """Numbers of the packets that were sent, of a stream of ``n`` packets; a packet has 4 samples."""

    async def run() -> tuple[list[int], Stream]:
        sent, begin, enough = list[int](), list[int](), asyncio.Event()
        clock = SensorClock(asyncio.get_running_loop().time, speed=10_000.0)

        async def send(data: bytes) -> None:
            sent.append(int.from_bytes(data))

        stream = Stream("eda", clock, Faults(0, 0, 0, False), random.Random(seed), send)
        vars(stream.faults).update(faults)

        def encode(first: int) -> bytes:
            begin.append(first)
            if len(begin) == n:
                enough.set()
            return ((first - begin[0]) // 4).to_bytes(8)

        stream.start(8.0, 4, encode)
        await enough.wait()
        stream.stop()
        await asyncio.sleep(0)
        return sent, stream

    return asyncio.run(run())


def test_packets_follow_each_other_without_hole() -> None:
    sent, stream = packets(0, 200)
    assert sent == list(range(200))
    assert stream.counts.made == stream.counts.sent == len(sent) == 200
    assert not stream.running


def test_equal_seeds_lose_and_double_equal_packets() -> None:
    def pattern(seed: int, **faults: float) -> list[int]:
        sent, stream = packets(seed, 300, **faults)
        assert stream.counts.lost + stream.counts.sent == stream.counts.made == 300
        assert len(sent) == stream.counts.sent + stream.counts.doubled
        return sent

    assert pattern(1, loss=0.2, duplicates=0.1) == pattern(1, loss=0.2, duplicates=0.1)
    assert pattern(1, loss=0.2) != pattern(2, loss=0.2)
    assert 0.1 < 1 - len(pattern(1, loss=0.2)) / 300 < 0.3
    assert 330 < len(pattern(1, duplicates=0.2)) < 390
    # What is doubled does not hang on what is lost, nor the other way round.
    assert set(pattern(1, loss=0.2, duplicates=0.1)) == set(pattern(1, loss=0.2))


def test_everything_can_be_lost() -> None:
    assert packets(0, 50, loss=1.0)[0] == []
