"""Filters against scipy on the whole signal, for any cut of the stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from tests_support import cut_up

from device.pipeline.errors import PipelineError, SpecError
from device.pipeline.filters import EcgFilter, EdaFilter, ecg_sos, eda_sos
from device.pipeline.spec import default_spec
from device.pipeline.types import Chunk, Clock

SPEC = default_spec()


def raw_chunk(modality: str, x: np.ndarray, sfreq: float, start: int = 0) -> Chunk:
    clock = Clock(0, 0.0, 1.0 / sfreq)
    return Chunk(modality, start, x[:, None].astype(float), np.ones(len(x), dtype=bool), clock)


def scipy_whole(sos: np.ndarray, x: np.ndarray) -> np.ndarray:
    return signal.sosfilt(sos, x, zi=signal.sosfilt_zi(sos) * x[0])[0]


@settings(max_examples=50)
@given(seed=st.integers(0, 999), n_times=st.integers(1, 900), cuts=st.lists(st.integers(1, 900), max_size=20))
def test_ecg_filter_is_scipy_on_the_whole_signal_bit_for_bit(seed: int, n_times: int, cuts: list[int]) -> None:
    x = np.random.default_rng(seed).normal(5.0, 2.0, n_times)
    stage = EcgFilter(SPEC.ecg, 130.0)
    out = np.concatenate([stage.push(c).data[:, 0] for c in cut_up(raw_chunk("ecg", x, 130.0), cuts)])
    assert np.array_equal(out, scipy_whole(ecg_sos(SPEC.ecg, 130.0), x))


@settings(max_examples=50)
@given(seed=st.integers(0, 999), n_times=st.integers(1, 400), cuts=st.lists(st.integers(1, 400), max_size=20))
def test_eda_filter_is_scipy_on_the_whole_signal_bit_for_bit(seed: int, n_times: int, cuts: list[int]) -> None:
    x = np.random.default_rng(seed).normal(5.0, 0.2, n_times)
    stage = EdaFilter(SPEC.eda, 8.0)
    out = np.concatenate([stage.push(c).data for c in cut_up(raw_chunk("eda", x, 8.0), cuts)])
    clean_sos, tonic_sos = eda_sos(SPEC.eda, 8.0)
    clean = scipy_whole(clean_sos, x)
    tonic = scipy_whole(tonic_sos, clean)
    assert np.array_equal(out, np.column_stack([tonic, clean - tonic]))


def test_constant_signal_is_settled_from_its_first_sample() -> None:
    ecg = EcgFilter(SPEC.ecg, 130.0).push(raw_chunk("ecg", np.full(500, 17.0), 130.0))
    eda = EdaFilter(SPEC.eda, 4.0).push(raw_chunk("eda", np.full(500, 17.0), 4.0))
    assert np.abs(ecg.data).max() < 1e-9
    assert eda.data == pytest.approx(np.tile([17.0, 0.0], (500, 1)), abs=1e-9)


def test_a_gap_restarts_the_filter_and_marks_its_warm_up() -> None:
    x = np.random.default_rng(0).normal(0.0, 1.0, 1000)
    stage = EcgFilter(SPEC.ecg, 130.0)
    stage.push(raw_chunk("ecg", x, 130.0))
    after = stage.push(raw_chunk("ecg", x, 130.0, start=1001))
    warmup = round(SPEC.ecg.warmup_s * 130.0)
    assert np.array_equal(after.data[:, 0], scipy_whole(ecg_sos(SPEC.ecg, 130.0), x))
    assert not after.valid[:warmup].any()
    assert after.valid[warmup:].all()


def test_nan_and_a_rate_too_low_are_refused() -> None:
    with pytest.raises(PipelineError, match="no number"):
        EcgFilter(SPEC.ecg, 130.0).push(raw_chunk("ecg", np.array([0.0, np.nan]), 130.0))
    with pytest.raises(SpecError, match=r"ecg\.lowpass_hz: 40\.0 Hz asked of a sensor at 64\.0 Hz"):
        EcgFilter(SPEC.ecg, 64.0)
