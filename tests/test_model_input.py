"""Model input against the definition of its modes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from device.pipeline.errors import PipelineError
from device.pipeline.model_input import Baseline, baseline_of, model_input
from device.pipeline.spec import SignalSpec, default_spec
from device.pipeline.types import Quality, Window

RNG = np.random.default_rng(3)
ECG = np.column_stack([RNG.normal(0.1, 0.4, 7680), RNG.normal(80.0, 5.0, 7680)])
EDA = np.column_stack([RNG.normal(4.0, 0.5, 240), RNG.normal(0.0, 0.1, 240)])


def test_fixed_and_window_modes() -> None:
    spec = default_spec()
    out = model_input({"ecg": ECG, "eda": EDA}, spec).arrays
    assert {m: (a.shape, a.dtype) for m, a in out.items()} == {
        "ecg": ((2, 7680), np.float32),
        "eda": ((2, 240), np.float32),
    }
    ecg = (ECG[:, 0] - np.median(ECG[:, 0])) / ECG[:, 0].std()
    assert out["ecg"][0] == pytest.approx(np.clip(ecg, -spec.clip, spec.clip), abs=1e-5)
    assert out["ecg"][1] == pytest.approx((ECG[:, 1] - 75.0) / 15.0, abs=1e-5)
    assert out["eda"][0] == pytest.approx((np.arcsinh(EDA[:, 0] / 0.05) - 3.5) / 0.7, abs=1e-5)
    assert out["eda"][1] == pytest.approx(np.arcsinh(EDA[:, 1] / 0.02), abs=1e-5)


def test_gain_and_polarity_of_the_electrode_do_not_reach_the_network_as_size() -> None:
    spec = default_spec()
    small, large = (model_input({"ecg": ECG * [g, 1.0]}, spec).arrays["ecg"] for g in (1.0, 7.0))
    assert small == pytest.approx(large, abs=1e-4)


def test_a_flat_signal_is_not_blown_up() -> None:
    spec = default_spec()
    flat = np.column_stack([RNG.normal(0.0, 1e-6, 7680), np.full(7680, 60.0)])
    assert np.abs(model_input({"ecg": flat}, spec).arrays["ecg"][0]).max() < 1e-3


def test_calibrated_mode_subtracts_the_persons_rest_and_refuses_to_guess_it() -> None:
    spec = default_spec(calibrated=True)
    baseline = Baseline({"ecg": 0.0, "hr": 60.0, "tonic": 9.0, "phasic": 0.0})
    out = model_input({"ecg": ECG, "eda": EDA}, spec, baseline).arrays
    assert out["ecg"][1] == pytest.approx((ECG[:, 1] - 60.0) / 15.0, abs=1e-5)
    ratio = (np.arcsinh(EDA[:, 0] / 0.05) - np.arcsinh(9.0 / 0.05)) / 0.7
    assert out["eda"][0] == pytest.approx(ratio, abs=1e-5)
    with pytest.raises(PipelineError, match="resting baseline"):
        model_input({"ecg": ECG}, spec)


def test_baseline_is_the_median_over_usable_windows_only() -> None:
    good, bad = Quality(1.0), Quality(0.1, ("noise",))
    windows = [
        Window(0, 0.0, {"ecg": ECG, "eda": EDA}, {"ecg": good, "eda": good}),
        Window(1, 5.0, {"ecg": ECG + 100.0, "eda": EDA}, {"ecg": bad, "eda": good}),
    ]
    baseline = baseline_of(windows, default_spec())
    assert baseline.center["hr"] == pytest.approx(np.median(ECG[:, 1]))
    assert baseline.center["tonic"] == pytest.approx(np.median(EDA[:, 0]))
    with pytest.raises(PipelineError, match="no window of usable ecg"):
        baseline_of(windows[1:], default_spec())


def test_clipping_is_counted() -> None:
    out = model_input({"eda": EDA * [1e4, 1.0]}, default_spec())
    assert np.abs(out.arrays["eda"]).max() <= 6.0
    assert out.clipped["eda"] > 0.9


def with_context(spec: SignalSpec, context_s: float) -> SignalSpec:
    return msgspec.structs.replace(spec, eda=msgspec.structs.replace(spec.eda, context_s=context_s))


def test_the_context_of_a_resting_window_moves_no_baseline() -> None:
    """What came before the rest was not rest: the baseline is the one without a context."""
    before = np.column_stack([RNG.normal(40.0, 0.5, 480), RNG.normal(9.0, 0.1, 480)])
    good = {"ecg": Quality(1.0), "eda": Quality(1.0)}
    longer = Window(0, 0.0, {"ecg": ECG, "eda": np.concatenate([before, EDA])}, good)
    plain = Window(0, 0.0, {"ecg": ECG, "eda": EDA}, good)
    here, there = baseline_of([longer], with_context(default_spec(), 180.0)), baseline_of([plain], default_spec())
    assert (here.center, here.n_windows) == (there.center, there.n_windows)


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_context_changes_no_bit_of_the_window_after_it(calibrated: bool) -> None:
    spec = default_spec(calibrated=calibrated)
    baseline = Baseline({"ecg": 0.0, "hr": 60.0, "tonic": 9.0, "phasic": 0.0})
    before = np.column_stack([RNG.normal(40.0, 0.5, 120), RNG.normal(9.0, 0.1, 120)])
    longer = model_input({"eda": np.concatenate([before, EDA])}, with_context(spec, 90.0), baseline).arrays["eda"]
    assert longer.shape == (2, with_context(spec, 90.0).n_times("eda"))
    assert np.array_equal(longer[:, 120:], model_input({"eda": EDA}, spec, baseline).arrays["eda"])
