"""What a classical model reads of a window: chosen features, scaled, clipped, less the wearer's resting ones."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from device.pipeline.errors import PipelineError
from device.pipeline.feature_input import FeatureSpec, feature_input
from device.pipeline.features import FEATURES, OF, features
from device.pipeline.model_input import Baseline, baseline_of
from device.pipeline.spec import MODALITIES, default_spec
from device.pipeline.types import Quality, Window

SPEC, CALIBRATED = default_spec(), default_spec(calibrated=True)
CHOSEN = FeatureSpec(("hr_mean", "rmssd", "ln_tonic", "scr_rate"), (75.0, 40.0, 1.0, 2.0), (10.0, 20.0, 0.5, 4.0))


def some_data(seed: int) -> dict[str, np.ndarray]:
    """A window of made-up but plausible signals."""
    rng = np.random.default_rng(seed)
    t, rr = np.arange(SPEC.n_times("ecg")) / SPEC.ecg.sfreq, rng.normal(800, 40, 100)
    beats = np.cumsum(rr) / 1000 - 2
    k = np.searchsorted(beats, t, side="right") - 1
    ecg = np.exp(-(((t - beats[k]) / 0.02) ** 2)) + 0.02 * rng.normal(size=len(t))
    tonic = 3 + 0.01 * rng.normal(size=SPEC.n_times("eda")).cumsum()
    return {
        "ecg": np.stack([ecg, 60_000 / rr[k]], axis=1),
        "eda": np.stack([tonic, 0.004 * rng.random(len(tonic))], axis=1),
    }


def of(data: dict[str, np.ndarray]) -> dict[str, float]:
    return dict(zip(FEATURES, features(data, SPEC).tolist(), strict=True))


def test_chosen_features_are_scaled() -> None:
    data = some_data(0)
    found, raw = feature_input(data, SPEC, CHOSEN), of(data)
    assert found.arrays["ecg"] == pytest.approx([(raw["hr_mean"] - 75) / 10, (raw["rmssd"] - 40) / 20], rel=1e-6)
    assert found.arrays["eda"] == pytest.approx([(raw["ln_tonic"] - 1) / 0.5, (raw["scr_rate"] - 2) / 4], rel=1e-6)
    assert {m: a.dtype for m, a in found.arrays.items()} == dict.fromkeys(MODALITIES, np.float32)
    assert found.clipped == {"ecg": 0.0, "eda": 0.0}


@pytest.mark.parametrize("modality", MODALITIES)
def test_one_modality_alone_is_the_same(modality: str) -> None:
    data = some_data(1)
    alone = feature_input({modality: data[modality]}, SPEC, CHOSEN)
    assert set(alone.arrays) == {modality}
    assert np.array_equal(alone.arrays[modality], feature_input(data, SPEC, CHOSEN).arrays[modality])


def test_what_is_far_off_is_clipped_and_counted() -> None:
    far = msgspec.structs.replace(CHOSEN, center=(75.0, -1e4, 1.0, 2.0))
    found = feature_input(some_data(2), SPEC, far)
    assert found.arrays["ecg"][1] == SPEC.clip
    assert found.clipped == {"ecg": 0.5, "eda": 0.0}


def test_calibrated_features_are_less_the_resting_ones() -> None:
    rest = [some_data(seed) for seed in (3, 4, 5)]
    windows = [Window(i, 5.0 * i, d, {m: Quality(1.0) for m in d}) for i, d in enumerate(rest)]
    baseline = baseline_of(windows, CALIBRATED)
    assert set(baseline.features) == set(FEATURES)
    mean = np.mean([features(d, SPEC) for d in rest], axis=0)
    assert list(baseline.features.values()) == pytest.approx(mean.tolist())
    change = FeatureSpec(CHOSEN.names, (0.0,) * 4, CHOSEN.scale)
    arrays = [feature_input(d, CALIBRATED, change, baseline).arrays for d in rest]
    assert np.mean([a["ecg"] for a in arrays], axis=0) == pytest.approx(0.0, abs=1e-5)
    assert np.mean([a["eda"] for a in arrays], axis=0) == pytest.approx(0.0, abs=1e-5)


def test_a_poor_window_is_no_rest() -> None:
    good, poor = some_data(6), {**some_data(7), "eda": np.full((SPEC.n_times("eda"), 2), 50.0)}
    windows = [
        Window(0, 0.0, good, {"ecg": Quality(1.0), "eda": Quality(1.0)}),
        Window(1, 5.0, poor, {"ecg": Quality(1.0), "eda": Quality(0.1)}),
    ]
    rest = baseline_of(windows, CALIBRATED).features
    assert [rest[n] for n in OF["eda"]] == pytest.approx([of(good)[n] for n in OF["eda"]])


@pytest.mark.parametrize("baseline", [None, Baseline({"hr": 70.0, "tonic": 2.0})])
def test_calibrated_features_need_the_resting_ones(baseline: Baseline | None) -> None:
    with pytest.raises(PipelineError, match="feature hr_mean needs the wearer's resting baseline"):
        feature_input(some_data(0), CALIBRATED, CHOSEN, baseline)
    feature_input(some_data(0), SPEC, CHOSEN, baseline)


def test_a_baseline_without_features_is_still_read() -> None:
    old = msgspec.json.decode(b'{"center": {"hr": 61.0}, "n_windows": 9}', type=Baseline)
    assert old == Baseline({"hr": 61.0}, 9, {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ("hr_mean", "rmssd", "ln_tonic", "valence")}, "no feature 'valence'"),
        ({"names": ("rmssd", "hr_mean", "ln_tonic", "scr_rate")}, "out of order"),
        ({"names": ("hr_mean", "hr_mean", "ln_tonic", "scr_rate")}, "given twice"),
        ({"names": ("hr_mean", "hr_sd", "rmssd", "sdnn")}, "no feature of eda"),
        ({"names": ("hr_mean", "rmssd", "ln_tonic")}, "3 names, 4 centers"),
        ({"scale": (1.0, 1.0, 1.0)}, "3 scales"),
        ({"scale": (1.0, 0.0, 1.0, 1.0)}, "scale finite and > 0"),
        ({"scale": (1.0, float("inf"), 1.0, 1.0)}, "scale finite and > 0"),
        ({"center": (1.0, float("nan"), 1.0, 1.0)}, "center must be finite"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        msgspec.convert({**msgspec.to_builtins(CHOSEN), **change}, FeatureSpec)
