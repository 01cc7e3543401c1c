"""Assembly against laws (a lost packet is a gap and moves nothing else) and against a real Polar H10 capture."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import reference_data

from device.pipeline.assemble import Assembler
from device.pipeline.types import Chunk
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.packet import Packet

PMD = polar_pmd.STREAM_INFO
N = 73
TRUE_SFREQ = 130.045
EPOCH = 599_616_000_000_000_000


def pmd_packets(n_packets: int, sfreq: float = TRUE_SFREQ, first: int = 0) -> list[tuple[Packet, int]]:
    """Frames as an H10 sends them, sample value = sample number, with their time of measurement in ns."""
    packets = []
    for i in range(first, first + n_packets):
        end = (i + 1) * N - 1
        ns = round(end / sfreq * 1e9)
        packets.append((Packet(EPOCH + ns, tuple(range(i * N, (i + 1) * N))), 10**9 + ns))
    return packets


def assemble(packets: list[tuple[Packet, int]], assembler: Assembler) -> list[Chunk]:
    return [chunk for packet, host_ns in packets for chunk in assembler.push(packet, host_ns)]


def test_uninterrupted_stream_has_no_gap_and_finds_the_rate() -> None:
    assembler = Assembler(PMD)
    chunks = assemble(pmd_packets(400), assembler)
    assert [c.start for c in chunks] == [i * N for i in range(400)]
    assert assembler.stats.gaps == 0
    assert assembler.stats.sfreq == pytest.approx(TRUE_SFREQ, abs=1e-3)
    assert np.concatenate([c.data[:, 0] for c in chunks]) == pytest.approx(np.arange(400 * N) * PMD.scale)


@settings(max_examples=60)
@given(
    lost=st.sets(st.integers(4, 118), max_size=60),
    sfreq=st.floats(128.0, 131.0),
    latency=st.lists(st.floats(0.0, 0.2), min_size=120, max_size=120),
)
def test_a_lost_packet_shifts_no_later_sample_by_more_than_one_period(
    lost: set[int], sfreq: float, latency: list[float]
) -> None:
    packets = [(p, ns + int(late * 1e9)) for (p, ns), late in zip(pmd_packets(120, sfreq), latency, strict=True)]
    kept = [packet for i, packet in enumerate(packets) if i not in lost]
    assembler = Assembler(PMD)
    whole, holed = Assembler(PMD), assembler
    index_of = {c.data[0, 0]: c for c in assemble(packets, whole)}
    for chunk in assemble(kept, holed):
        assert abs(chunk.start - round(chunk.data[0, 0] / PMD.scale)) <= 1
        assert chunk.data[0, 0] in index_of
    gaps = sum(1 for i in lost if i - 1 not in lost)
    assert assembler.stats.gaps == gaps
    assert assembler.stats.lost_samples == pytest.approx(len(lost) * N, abs=max(1, gaps))


def test_gap_is_dated_by_the_sensor_clock() -> None:
    packets = pmd_packets(300)
    chunks = assemble(packets[:100] + packets[200:], Assembler(PMD))
    after = chunks[100]
    assert after.start - chunks[99].stop == 100 * N
    assert after.clock.at(after.start) - chunks[99].clock.at(chunks[99].stop - 1) == pytest.approx(
        (100 * N + 1) / TRUE_SFREQ, abs=0.001
    )


@given(st.lists(st.floats(0.0, 3.0), min_size=200, max_size=200))
@settings(max_examples=30)
def test_times_increase_whatever_the_latency(latency: list[float]) -> None:
    packets = [(p, ns + int(late * 1e9)) for (p, ns), late in zip(pmd_packets(200), latency, strict=True)]
    times = np.concatenate([c.times() for c in assemble(packets, Assembler(PMD))])
    assert (np.diff(times) > 0).all()


def test_latency_is_one_sided_so_the_prompt_notification_dates_the_stream() -> None:
    rng = np.random.default_rng(1)
    packets = [(p, ns + int(rng.exponential(0.05) * 1e9)) for p, ns in pmd_packets(1200)]
    last = assemble(packets, Assembler(PMD))[-1]
    true = packets[-1][0].ticks - EPOCH + 10**9
    assert last.clock.at(last.stop - 1) == pytest.approx(true * 1e-9, abs=0.02)


def test_duplicates_and_late_packets_are_counted_and_left_out() -> None:
    packets = pmd_packets(10)
    order = [packets[i] for i in (0, 1, 1, 2, 4, 3, 5)]
    assembler = Assembler(PMD)
    assert len(assemble(order, assembler)) == 5
    assert (assembler.stats.duplicates, assembler.stats.late, assembler.stats.gaps) == (1, 1, 1)


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_a_reset_sensor_clock_makes_a_gap_dated_by_the_host(jump_s: float) -> None:
    packets = pmd_packets(100)
    later = [(replace(p, ticks=p.ticks + int(jump_s * 1e9)), ns) for p, ns in packets[60:]]
    assembler = Assembler(PMD)
    chunks = assemble(packets[:50] + later, assembler)
    assert assembler.stats.resets == 1
    assert chunks[50].start - chunks[49].stop == pytest.approx(10 * N, abs=2)
    assert chunks[50].clock.at(chunks[50].start) > chunks[49].clock.at(chunks[49].stop - 1)


def test_saturated_samples_are_invalid() -> None:
    low, high = PMD.value_range
    chunk = assemble([(Packet(EPOCH, (0, high, low, high - 1)), 10**9)], Assembler(PMD))[0]
    assert chunk.valid.tolist() == [True, False, False, True]


@settings(max_examples=40)
@given(lost=st.sets(st.integers(1, 198), max_size=80), start=st.integers(0, 2**32 - 1), seq=st.integers(0, 65535))
def test_open_eda_counter_and_clock_wrap(lost: set[int], start: int, seq: int) -> None:
    info = open_eda.STREAM_INFO
    packets = []
    for i in range(200):
        ms = round(i * 4 / 8.0 * 1000)
        packet = Packet((start + ms) % 2**32, tuple(range(i * 4, i * 4 + 4)), (seq + i) % 65536)
        packets.append((packet, 5 * 10**9 + ms * 10**6 + 375 * 10**6))
    assembler = Assembler(info)
    chunks = assemble([p for i, p in enumerate(packets) if i not in lost], assembler)
    assert all(c.start == round(c.data[0, 0] / info.scale) for c in chunks)
    assert assembler.stats.lost_samples == 4 * len(lost)


def test_real_polar_h10_capture_has_its_true_rate_and_no_false_gap() -> None:
    blob = (reference_data() / "polar_h10_pmd" / "notifications.bin").read_bytes()
    assembler, offset, decoded = Assembler(PMD), 24, 0
    first = None
    while offset + 4 <= len(blob):
        (length,) = struct.unpack_from("<I", blob, offset)
        frame = blob[offset + 4 : offset + 4 + length]
        offset += 4 + length
        if len(frame) < length:
            break
        packet = polar_pmd.decode_packet(frame)
        first = packet.ticks if first is None else first
        assembler.push(packet, packet.ticks - first)
        decoded += 1
    assert decoded == 12_355
    assert assembler.stats.gaps == assembler.stats.resets == assembler.stats.late == assembler.stats.duplicates == 0
    assert assembler.stats.samples == 12_355 * N
    assert assembler.stats.sfreq == pytest.approx(130.045, abs=0.01)


SHORT = replace(open_eda.STREAM_INFO, sfreq=10.0, tick_hz=10.0, tick_bits=4, seq_bits=0)
"""A sensor without a clock: a counter of 4 bits stamps each sample, and wraps after 1.6 s."""


def counted(first: int, n_times: int, late: float = 0.0) -> tuple[Packet, int]:
    """Packet of samples first, first + 1, ... with its arrival."""
    values = tuple(range(first, first + n_times))
    return Packet(first % 16, values), round(1e9 * (100 + (first + n_times - 1) / 10 + late))


@settings(max_examples=200)
@given(
    lost=st.sets(st.integers(2, 60), max_size=50),
    late=st.lists(st.floats(0.0, 0.79), min_size=70, max_size=70),  # just under half the clock's span
)
def test_a_clock_that_wraps_within_seconds_is_unwrapped_by_arrival(lost: set[int], late: list[float]) -> None:
    sent = [counted(3 * i, 3, late[i]) for i in range(70) if i not in lost]
    arrivals = list(np.maximum.accumulate([host for _, host in sent]))  # a link keeps the order
    assembler = Assembler(SHORT)
    chunks = assemble([(packet, int(host)) for (packet, _), host in zip(sent, arrivals, strict=True)], assembler)
    values = np.concatenate([np.rint(chunk.data[:, 0] / SHORT.scale).astype(int) for chunk in chunks])
    starts = np.concatenate([np.arange(chunk.start, chunk.start + len(chunk.data)) for chunk in chunks])
    assert (values == starts).all()  # multiples of 16 lost samples included
    assert assembler.stats.lost_samples == 3 * len(lost)
    assert assembler.stats.resets == 0


def test_a_gap_longer_than_half_a_clock_of_24_bits() -> None:
    info = replace(SHORT, tick_hz=32768.0, tick_bits=24)
    assembler = Assembler(info)
    for i in [*range(50), *range(4000, 4050)]:  # 395 s of the clock's 512
        assembler.push(Packet(round(i * 3276.8) % 2**24, (i,)), round(1e9 * (100 + i / 10)))
    assert (assembler.stats.gaps, assembler.stats.lost_samples, assembler.stats.resets) == (1, 3950, 0)


def test_a_sensor_that_says_it_has_restarted_begins_a_new_clock() -> None:
    assembler = Assembler(open_eda.STREAM_INFO)
    for i in range(20):
        boot = 1 if i < 10 else 2  # restarts within a second: its ticks alone would not tell
        assembler.push(Packet(500 * i, (1, 2, 3, 4), seq=i, boot=boot), 10**9 * 5 + 500_000_000 * i)
    assert (assembler.stats.resets, assembler.stats.gaps, assembler.stats.samples) == (1, 1, 80)
