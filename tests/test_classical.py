"""The classical baseline's features against known signals, and its scaler against its training rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.pipeline.spec import default_spec
from train.models.classical import (
    ECG_FEATURES,
    EDA_FEATURES,
    SYSTEMS,
    columns,
    ecg_features,
    eda_features,
    features,
    make,
)
from train.prepare import Prepared

SPEC = default_spec()
N_ECG, N_EDA = SPEC.n_times("ecg"), SPEC.n_times("eda")


def held_rate(rr_ms: np.ndarray) -> np.ndarray:
    """(N_ECG, 2) with a flat ECG and the rate of each interval held until the next beat, as the pipeline gives it."""
    beats = np.round(np.cumsum(rr_ms) / 1000 * SPEC.ecg.sfreq).astype(int)
    at = np.searchsorted(beats, np.arange(N_ECG), side="right").clip(max=len(rr_ms) - 1)
    return np.stack([np.zeros(N_ECG), 60_000 / rr_ms[at]], axis=1)


def named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def test_heart_rate_variability_of_known_intervals() -> None:
    rr = np.tile([800.0, 860.0], 60)
    found = named(ECG_FEATURES, ecg_features(held_rate(rr), SPEC.ecg.sfreq))
    assert found["rmssd"] == pytest.approx(60.0)
    assert found["sdnn"] == pytest.approx(30.0, abs=0.1)
    assert found["pnn50"] == 1.0
    assert 60_000 / 860 <= found["hr_min"] < found["hr_mean"] < found["hr_max"] <= 60_000 / 800


def test_a_steady_heart_has_no_variability() -> None:
    found = named(ECG_FEATURES, ecg_features(held_rate(np.full(100, 750.0)), SPEC.ecg.sfreq))
    assert found["hr_mean"] == pytest.approx(80.0)
    assert [found[k] for k in ("hr_sd", "rmssd", "sdnn", "pnn50", "hr_slope")] == pytest.approx([0.0] * 5, abs=1e-9)


@settings(deadline=None)
@given(slope=st.floats(-0.02, 0.02), level=st.floats(1.5, 20.0))
def test_tonic_trend_is_recovered(slope: float, level: float) -> None:
    t = np.arange(N_EDA) / SPEC.eda.sfreq
    data = np.stack([level + slope * t, np.zeros(N_EDA)], axis=1)
    found = named(EDA_FEATURES, eda_features(data, SPEC.eda.sfreq))
    assert found["tonic_slope"] == pytest.approx(slope, abs=1e-9)
    assert found["tonic_range"] == pytest.approx(abs(slope) * t[-1], abs=1e-9)
    assert found["scr_rate"] == 0.0


@pytest.mark.parametrize(("height", "expected"), [(0.05, 4), (0.015, 0)])
def test_responses_are_counted_from_the_smallest_that_counts(height: float, expected: int) -> None:
    t = np.arange(N_EDA) / SPEC.eda.sfreq
    phasic = sum(height * np.exp(-(((t - at) / 2) ** 2)) for at in (10, 22, 34, 46))
    found = named(EDA_FEATURES, eda_features(np.stack([np.full(N_EDA, 2.0), phasic], axis=1), SPEC.eda.sfreq))
    assert found["scr_rate"] == pytest.approx(expected)
    assert found["scr_sum"] == pytest.approx(expected * height, rel=0.02)


def person(offset: float = 0.0) -> Prepared:
    """Six windows; the first two are the resting baseline."""
    rng = np.random.default_rng(0)
    ecg = np.stack([held_rate(rng.normal(800, 30, 100) - offset) for _ in range(6)]).astype(np.float32)
    eda = (rng.random((6, N_EDA, 2)) + np.array([2.0 + offset, 0.0])).astype(np.float32)
    first = np.arange(6) < 2
    return Prepared(
        "P", ecg, eda, np.ones((6, 2), bool), np.arange(6) * 60.0, np.array([0, 0, 0, 1, 1, 0]), first, ~first
    )


def test_calibrated_features_are_relative_to_the_baseline_alone() -> None:
    plain = features(person(), SPEC, calibrated=False)
    relative = features(person(), SPEC, calibrated=True)
    assert np.allclose(relative, plain - plain[:2].mean(axis=0))
    assert np.allclose(relative[:2].mean(axis=0), 0.0)


def test_sets_of_sensors_split_the_columns() -> None:
    every = np.arange(len(ECG_FEATURES) + len(EDA_FEATURES))
    assert every[columns("both")].tolist() == [*every[columns("ecg")], *every[columns("eda")]]
    assert len(every[columns("ecg")]) == len(ECG_FEATURES)


@pytest.mark.parametrize("system", SYSTEMS)
def test_classifiers_learn_and_scale_on_their_training_rows(system: str) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    x = rng.normal(5.0, 2.0, (120, 16)) + 3.0 * y[:, None]
    model = make(system, 0).fit(x, y)
    assert np.allclose(model[0].mean_, x.mean(axis=0))
    assert (model.predict(x) == y).mean() > 0.95
    assert np.allclose(model.predict_proba(x).sum(axis=1), 1.0)
    again = make(system, 0).fit(x, y)
    assert np.array_equal(model.predict_proba(x), again.predict_proba(x))
