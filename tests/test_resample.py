"""Resampling against the analytic signal, bit-equal for any cut, never over a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import cut_up

from device.pipeline.resample import HALF, Resampler
from device.pipeline.types import Chunk, Clock


def sine(sfreq: float, seconds: float, hz: float, time: float = 3.21, start: int = 0) -> Chunk:
    n_times = int(seconds * sfreq)
    chunk = Chunk("ecg", start, np.zeros((n_times, 1)), np.ones(n_times, dtype=bool), Clock(start, time, 1.0 / sfreq))
    return Chunk("ecg", start, np.sin(2 * np.pi * hz * chunk.times())[:, None], chunk.valid, chunk.clock)


@pytest.mark.parametrize(
    ("sfreq", "hz", "out"), [(130.045, 40.0, 128.0), (128.3, 38.0, 128.0), (700.0, 40.0, 128.0), (8.0, 1.0, 4.0)]
)
def test_samples_are_the_analytic_signal_at_grid_times(sfreq: float, hz: float, out: float) -> None:
    (chunk,) = Resampler("ecg", out, 1).push(sine(sfreq, 60.0, hz))
    grid = np.arange(chunk.start, chunk.stop) / out
    assert np.array_equal(chunk.times(), grid)
    assert np.abs(chunk.data[:, 0] - np.sin(2 * np.pi * hz * grid)).max() < 4e-3
    assert chunk.stop / out > 3.21 + 60.0 - (HALF + 1) / sfreq - 1 / out


def test_same_rate_on_the_grid_changes_no_bit() -> None:
    x = np.random.default_rng(0).normal(size=(400, 2))
    chunk = Chunk("eda", 0, x, np.ones(400, dtype=bool), Clock(0, 100.0, 0.25))
    (out,) = Resampler("eda", 4.0, 2).push(chunk)
    assert np.array_equal(out.data, x[out.start - 400 : out.stop - 400])


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(1, 1300), max_size=30), sfreq=st.floats(100.0, 300.0))
def test_any_cut_gives_the_same_bits(cuts: list[int], sfreq: float) -> None:
    whole = sine(sfreq, 5.0, 7.0)
    (expected,) = Resampler("ecg", 128.0, 1).push(whole)
    stage = Resampler("ecg", 128.0, 1)
    pieces = [out for piece in cut_up(whole, cuts) for out in stage.push(piece)]
    assert [p.start for p in pieces[1:]] == [p.stop for p in pieces[:-1]]
    assert pieces[0].start == expected.start
    assert np.array_equal(np.concatenate([p.data for p in pieces]), expected.data)
    assert np.array_equal(np.concatenate([p.valid for p in pieces]), expected.valid)


def test_nothing_is_interpolated_over_a_gap() -> None:
    stage = Resampler("ecg", 128.0, 1)
    (before,) = stage.push(sine(130.0, 2.0, 5.0))
    (after,) = stage.push(sine(130.0, 2.0, 5.0, time=3.21 + 2.5, start=int(2.5 * 130)))
    assert before.stop / 128.0 <= 3.21 + 2.0
    assert after.start / 128.0 >= 3.21 + 2.5


def test_an_invalid_sample_spoils_only_its_own_support() -> None:
    chunk = sine(130.0, 4.0, 5.0)
    valid = chunk.valid.copy()
    valid[260] = False
    (out,) = Resampler("ecg", 128.0, 1).push(Chunk("ecg", 0, chunk.data, valid, chunk.clock))
    bad = out.times()[~out.valid]
    assert len(bad) == pytest.approx(2 * HALF, abs=1)
    assert np.abs(bad - chunk.times()[260]).max() <= HALF / 130.0
