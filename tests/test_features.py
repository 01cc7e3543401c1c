"""Features of a window against signals whose features are known, scipy's own functions, and any finite input."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from ecg_references import with_heart_rate
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks, lombscargle
from tests_support import reference_data

from device.pipeline.features import (
    ECG_FEATURES,
    EDA_FEATURES,
    FEATURES,
    SCR_MIN_US,
    _lomb,
    _peaks,
    columns,
    ecg_features,
    eda_features,
    features,
    responses,
)
from device.pipeline.quality import beats
from device.pipeline.spec import MODALITIES, default_spec

SPEC = default_spec()
ECG_HZ, EDA_HZ = SPEC.ecg.sfreq, SPEC.eda.sfreq
N_ECG, N_EDA = SPEC.n_times("ecg"), SPEC.n_times("eda")


@dataclass
class Heart:
    """Beats with the given intervals in ms, the first ones before the window."""

    rr: np.ndarray
    heights: np.ndarray | float = 1.0
    t_ratio: float = 0.25
    width_s: float = 0.012
    n: int = N_ECG
    at: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.at = np.round((np.cumsum(self.rr) / 1000 - 3.0) * ECG_HZ).astype(int)

    def window(self) -> np.ndarray:
        """(n, 2) ecg and the rate of each interval from its last beat on, as the pipeline holds it."""
        t, x = np.arange(self.n) / ECG_HZ, np.zeros(self.n)
        for at, height in zip(self.at, np.broadcast_to(self.heights, len(self.at)), strict=True):
            s = t - at / ECG_HZ
            x += height * (np.exp(-((s / self.width_s) ** 2)) + self.t_ratio * np.exp(-(((s - 0.26) / 0.04) ** 2)))
        held = np.searchsorted(self.at, np.arange(self.n), side="right") - 1
        return np.stack([x, 60_000 / self.rr[held]], axis=1)


def ecg(rr: np.ndarray, **shape: float) -> dict[str, float]:
    return dict(zip(ECG_FEATURES, ecg_features(Heart(rr, **shape).window(), ECG_HZ).tolist(), strict=True))


def eda(tonic: np.ndarray | float, phasic: np.ndarray | float = 0.0, n: int = N_EDA) -> dict[str, float]:
    data = np.stack([np.broadcast_to(tonic, n), np.broadcast_to(phasic, n)], axis=1).astype(float)
    return dict(zip(EDA_FEATURES, eda_features(data, EDA_HZ).tolist(), strict=True))


def bumps(heights: list[float], every_s: float = 10.0, n: int = N_EDA) -> np.ndarray:
    t = np.arange(n) / EDA_HZ
    return sum(h * np.exp(-(((t - every_s * (k + 0.5)) / 1.5) ** 2)) for k, h in enumerate(heights)) + np.zeros(n)


# --- the vector -----------------------------------------------------------------------------------------------------


def test_every_feature_has_a_name_a_place_and_a_meaning() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == len(ECG_FEATURES) + len(EDA_FEATURES)
    assert FEATURES[columns("ecg")] == tuple(ECG_FEATURES)
    assert FEATURES[columns("eda")] == tuple(EDA_FEATURES)
    assert all({**ECG_FEATURES, **EDA_FEATURES}.values())


@pytest.mark.parametrize("absent", MODALITIES)
def test_an_absent_modality_is_zero_and_changes_nothing_else(absent: str) -> None:
    rng = np.random.default_rng(0)
    both = {"ecg": Heart(rng.normal(800, 40, 90)).window(), "eda": rng.random((N_EDA, 2)) + 2}
    whole = features(both, SPEC)
    part = features({m: x for m, x in both.items() if m != absent}, SPEC)
    assert not part[columns(absent)].any()
    (present,) = (m for m in MODALITIES if m != absent)
    assert np.array_equal(part[columns(present)], whole[columns(present)])
    assert np.array_equal(part[columns(present)], features({present: both[present]}, SPEC)[columns(present)])


def test_stored_as_float32_the_features_are_nearly_the_same() -> None:
    rng = np.random.default_rng(1)
    both = {"ecg": Heart(rng.normal(800, 40, 90)).window(), "eda": rng.random((N_EDA, 2)) + 2}
    stored = {m: x.astype(np.float32) for m, x in both.items()}
    assert np.allclose(features(both, SPEC), features(stored, SPEC), rtol=1e-3, atol=1e-4)


VALUES = st.sampled_from([0.0, -0.0, 1e-300, 1e-9, 0.05, 1.0, 75.0, -75.0, 1e6, -1e6, 1e300, -1e300, 1.7e308])


@settings(max_examples=60)
@given(
    parts=st.lists(st.tuples(VALUES, VALUES, st.integers(1, 400), st.booleans()), min_size=1, max_size=12),
    n=st.sampled_from([1, 2, 3, 30, 240, 1200, 7680]),
    modality=st.sampled_from(MODALITIES),
    noise=st.sampled_from([0.0, 1e-12, 1e-3, 10.0]),
)
@example(parts=[(0.0, 0.0, 1, False)], n=7680, modality="ecg", noise=0.0)
@example(parts=[(1.0, 1e6, 1, True), (-1e6, 75.0, 1, True)], n=7680, modality="ecg", noise=0.0)
def test_any_finite_window_has_finite_features(
    parts: list[tuple[float, float, int, bool]], n: int, modality: str, noise: float
) -> None:
    blocks = [
        np.repeat([[a, b]], k, axis=0) * (np.arange(1, k + 1)[:, None] ** int(grow) / k) for a, b, k, grow in parts
    ]
    data = np.resize(np.concatenate(blocks), (n, 2)) + noise * np.random.default_rng(n).normal(size=(n, 2))
    found = features({modality: data}, SPEC)
    assert found.shape == (len(FEATURES),)
    assert np.isfinite(found).all(), [name for name, x in zip(FEATURES, found, strict=True) if not np.isfinite(x)]


@pytest.mark.parametrize("seconds", [30, 60, 180, 300])
def test_windows_of_any_length(seconds: int) -> None:
    found = eda(2.0, bumps([0.3] * (seconds // 10), n=4 * seconds), n=4 * seconds)
    assert found["scr_rate"] == pytest.approx(6.0)
    assert found["scr_mean"] == pytest.approx(0.3, rel=0.02)
    long = Heart(np.random.default_rng(0).normal(800, 30, 500), n=128 * seconds).window()
    assert (ecg_features(long, ECG_HZ)[12:14] == 0.0).all() == (seconds < 60)


# --- heart rate -----------------------------------------------------------------------------------------------------


def test_variability_of_known_intervals() -> None:
    found = ecg(np.tile([800.0, 860.0], 60))
    assert found["rmssd"] == pytest.approx(60.0)
    assert found["ln_rmssd"] == pytest.approx(np.log(61.0))
    assert found["sdnn"] == pytest.approx(30.0, abs=0.1)
    assert (found["pnn20"], found["pnn50"], found["nn_share"]) == (1.0, 1.0, 1.0)
    assert 60_000 / 860 <= found["hr_min"] < found["hr_mean"] < found["hr_max"] <= 60_000 / 800


def test_variability_by_the_formulas() -> None:
    rr = np.random.default_rng(2).normal(820, 35, 90)
    heart = Heart(rr)
    nn = rr[(heart.at >= 0) & (heart.at < N_ECG)]
    steps = np.diff(nn)
    found = ecg(rr)
    assert found["sdnn"] == pytest.approx(nn.std())
    assert found["rmssd"] == pytest.approx(np.sqrt(np.mean(steps**2)), rel=1e-9)
    assert found["pnn50"] == np.mean(np.abs(steps) > 50)
    assert found["pnn20"] == np.mean(np.abs(steps) > 20)
    sd1 = np.std((nn[1:] - nn[:-1]) / np.sqrt(2))
    sd2 = np.std((nn[1:] + nn[:-1]) / np.sqrt(2))
    assert found["sd_ratio"] == pytest.approx(sd1 / sd2, rel=0.06)


def test_a_steady_heart_has_no_variability() -> None:
    found = ecg(np.full(100, 750.0))
    assert found["hr_mean"] == pytest.approx(80.0)
    assert [found[k] for k in ("hr_sd", "rmssd", "sdnn", "pnn20", "hr_slope", "hr_late")] == pytest.approx([0.0] * 6)


def test_an_ectopic_beat_is_no_variability() -> None:
    rr = np.random.default_rng(3).normal(800, 15, 90)
    ectopic = rr.copy()
    ectopic[30:32] = 450.0, 1150.0
    clean, disturbed = ecg(rr), ecg(ectopic)
    assert disturbed["nn_share"] == pytest.approx(1 - 2 / 74, abs=0.002)
    for name in ("rmssd", "sdnn", "ln_hf"):
        assert disturbed[name] == pytest.approx(clean[name], rel=0.15)


def test_trend_of_the_rate() -> None:
    found = ecg(60_000 / (70 + 10 * np.linspace(0, 1, 75)))
    assert found["hr_slope"] == pytest.approx(10 / 60, rel=0.1)
    assert found["hr_late"] == pytest.approx(10 * 2 / 3, rel=0.1)


@pytest.mark.parametrize("hz", [0.08, 0.1, 0.2, 0.25, 0.3])
def test_power_lies_at_the_frequency_of_the_swing(hz: float) -> None:
    rr, t = [], 0.0
    while t < 70:
        rr.append(800 + 40 * np.sin(2 * np.pi * hz * t))
        t += rr[-1] / 1000
    found = ecg(np.array(rr))
    power = np.exp(found["ln_lf"]) + np.exp(found["ln_hf"])
    assert power == pytest.approx(40**2 / 2, rel=0.15)
    assert (found["lf_share"] > 0.9) if hz < 0.15 else (found["lf_share"] < 0.1)
    if hz >= 0.1:
        assert found["breath_hz"] == pytest.approx(hz, abs=1 / 60)


def test_periodogram_is_scipys() -> None:
    rng = np.random.default_rng(4)
    times = np.cumsum(rng.normal(0.8, 0.05, 70))
    x = rng.normal(0, 30, 70)
    frequencies = np.arange(2, 30) / 60
    expected = lombscargle(times, x, 2 * np.pi * frequencies) * 2 / len(x)
    assert np.allclose(_lomb(times, x, frequencies), expected)


@settings(max_examples=50)
@given(st.lists(st.sampled_from([300.0, 600.0, 800.0, 820.0, 2500.0]), min_size=30, max_size=60), st.integers(0, 99))
def test_beats_are_those_of_the_quality_check(rr: list[float], seed: int) -> None:
    jitter = np.random.default_rng(seed).normal(0, 5, len(rr)) * (seed % 3)
    hr = Heart(np.array(rr) + jitter).window()[:, 1]
    assert _peaks(hr, ECG_HZ).tolist() == [k for k in beats(hr, ECG_HZ).tolist() if k < N_ECG]


# --- shape of the beats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("gain", [0.3, 2.0])
def test_shape_of_known_beats(gain: float, sign: float) -> None:
    found = ecg(np.random.default_rng(5).normal(850, 20, 80), heights=gain * sign, t_ratio=0.3)
    assert found["r_mv"] == pytest.approx(gain, rel=0.02)
    assert found["qrs_mvs"] == pytest.approx(gain * 0.012 * np.sqrt(np.pi), rel=0.03)
    assert found["qrs_s"] == pytest.approx(0.012 * np.sqrt(np.pi), rel=0.03)
    assert found["t_ratio"] == pytest.approx(0.3, rel=0.03)
    assert (found["r_sd"], found["beat_sd"]) == pytest.approx((0.0, 0.0), abs=0.05)


def test_an_inverted_t_wave_and_breathing_heights() -> None:
    heights = 1 + 0.1 * np.sin(2 * np.pi * np.arange(80) / 5)
    found = ecg(np.full(80, 850.0) + np.arange(80) % 3, heights=heights, t_ratio=-0.2)
    assert found["t_ratio"] == pytest.approx(-0.2, rel=0.05)
    assert found["r_sd"] == pytest.approx(0.1 / np.sqrt(2), rel=0.05)
    assert found["beat_sd"] == pytest.approx(0.1 / np.sqrt(2), rel=0.3)


def test_shape_of_a_real_recording() -> None:
    raw = np.loadtxt(reference_data() / "neurokit" / "bio_resting_5min_100hz.csv", delimiter=",", skiprows=1)[:, 0]
    data = with_heart_rate(raw, 100.0)[0].data
    peaks, _ = find_peaks(raw, prominence=0.5 * np.ptp(np.percentile(raw, [0.1, 99.5])), distance=50)
    window = data[20 * 128 : 80 * 128]
    found = dict(zip(ECG_FEATURES, ecg_features(window, ECG_HZ).tolist(), strict=True))
    inside = peaks[(peaks >= 2000) & (peaks < 8000)]
    assert found["hr_mean"] == pytest.approx(6000 / np.diff(inside).mean(), rel=0.02)
    assert found["sdnn"] == pytest.approx(np.diff(inside).std() * 10, rel=0.1)
    assert found["r_mv"] == pytest.approx(np.median(raw[inside]) - np.median(raw), rel=0.2)
    assert 0.02 < found["qrs_s"] < 0.08 and 0.0 < found["t_ratio"] < 0.5


# --- skin conductance -----------------------------------------------------------------------------------------------


@given(slope=st.floats(-0.02, 0.02), level=st.floats(1.5, 20.0))
def test_tonic_trend_is_recovered(slope: float, level: float) -> None:
    t = np.arange(N_EDA) / EDA_HZ
    found = eda(level + slope * t)
    assert found["tonic_slope"] == pytest.approx(slope, abs=1e-9)
    assert found["tonic_slope"] == pytest.approx(np.polyfit(t, level + slope * t, 1)[0], abs=1e-9)
    assert found["tonic_range"] == pytest.approx(abs(slope) * t[-1], abs=1e-9)
    assert found["tonic_trend"] == pytest.approx(slope / found["tonic_mean"], abs=1e-9)
    assert np.sign(found["tonic_late"]) == np.sign(slope) or abs(slope) < 1e-9
    assert found["scr_rate"] == 0.0


def test_place_of_the_last_level() -> None:
    up = np.linspace(2, 3, N_EDA)
    assert eda(up)["tonic_place"] == pytest.approx(1 - 5 / 60, abs=0.01)
    assert eda(up[::-1])["tonic_place"] == pytest.approx(5 / 60, abs=0.01)
    assert eda(2.0)["tonic_place"] == 0.5


def test_level_in_logarithms_changes_by_ratios() -> None:
    rng = np.random.default_rng(6)
    tonic, phasic = 2 + 0.1 * rng.random(N_EDA), bumps([0.5, 0.2, 0.4])
    one, ten = eda(tonic, phasic), eda(10 * tonic, 10 * phasic)
    assert ten["ln_tonic"] - one["ln_tonic"] == pytest.approx(np.log(10), abs=0.01)
    assert ten["ln_phasic"] - one["ln_phasic"] == pytest.approx(np.log(10), abs=0.15)
    assert ten["tonic_late"] == pytest.approx(one["tonic_late"], abs=1e-3)


@pytest.mark.parametrize(("height", "expected"), [(0.05, 6), (0.015, 0)])
def test_responses_are_counted_from_the_smallest_that_counts(height: float, expected: int) -> None:
    found = eda(2.0, bumps([height] * 6))
    assert found["scr_rate"] == pytest.approx(expected)
    assert found["scr_sum"] == pytest.approx(expected * height, rel=0.02)
    assert found["scr_mean"] == pytest.approx(height * bool(expected), rel=0.02)


def test_responses_are_scipys_peaks() -> None:
    heights = [0.5, 0.1, 0.3, 0.9, 0.05, 0.2]
    phasic = bumps(heights)
    peaks, found = find_peaks(phasic, prominence=SCR_MIN_US)
    assert responses(phasic, EDA_HZ)[:, 0] == pytest.approx(found["prominences"], abs=0.01)
    starts = np.array([0, *(phasic[a:b].argmin() + a for a, b in pairwise(peaks))])
    assert responses(phasic, EDA_HZ)[:, 1] == pytest.approx((peaks - starts) / EDA_HZ, abs=0.5)


def test_a_shiver_of_the_sensor_does_not_split_a_response() -> None:
    step = 0.0009  # uS, one step of an Empatica E4
    rough = bumps([0.5, 0.1, 0.3, 0.9]) + step * np.resize([0, 1, 0, -1], N_EDA)
    assert responses(rough, EDA_HZ)[:, 0] == pytest.approx([0.5, 0.1, 0.3, 0.9], abs=0.01)


def test_a_response_that_the_window_cuts_counts_as_far_as_it_goes() -> None:
    rising = np.concatenate([np.zeros(200), np.linspace(0, 0.4, 40)])
    assert responses(rising, EDA_HZ) == pytest.approx(np.array([[0.4, 10.0]]), rel=0.05)
    assert len(responses(np.zeros(1), EDA_HZ)) == 0
