"""Beat times from a pulse: recovered from pulses made at known times, laws of the bridge, the E4's own intervals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from train.data import rr, stress_predict
from train.data.errors import BeatsError
from train.data.types import IRREGULAR_RATE, Floats, Recording, Signal

REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no Stress-Predict")
SFREQ = 64.0


def beat_series(mean: float, breathing: float, jitter: float, seed: int, duration: float = 180.0) -> Floats:
    """Beats with sinus arrhythmia at 15 per minute and white jitter, s."""
    rng = np.random.default_rng(seed)
    out = [0.3]
    while out[-1] < duration - 0.4:
        out.append(out[-1] + mean * (1 + breathing * np.sin(2 * np.pi * out[-1] / 4) + jitter * rng.standard_normal()))
    return np.array(out[:-1])


def pulse(beats: Floats, duration: float, noise: float = 0.0, seed: int = 0) -> Signal:
    """A pulse wave: steep rise, top, dicrotic wave, slow fall; size 1."""
    t = np.arange(round(duration * SFREQ)) / SFREQ
    since = t[:, None] - beats[None, :]
    top = np.exp(-0.5 * ((since - 0.16) / 0.07) ** 2) + 0.45 * np.exp(-0.5 * ((since - 0.42) / 0.09) ** 2)
    wave = 40 * top.sum(axis=1) + 40 * noise * np.random.default_rng(seed).standard_normal(len(t))
    return Signal(wave[:, None], SFREQ, "a.u.", ("bvp",))


def recording(bvp: Signal, ibi: Signal | None = None) -> Recording:
    return Recording("test", "S00", "S00", {"bvp": bvp} | ({"ibi": ibi} if ibi else {}))


@settings(max_examples=15)
@given(
    mean=st.floats(0.5, 1.15),
    breathing=st.floats(0.0, 0.08),
    jitter=st.floats(0.0, 0.02),
    seed=st.integers(0, 2**16),
)
@example(mean=0.5390625, breathing=0.0, jitter=0.0, seed=0).via("twice the period fits as well as the period")
def test_known_beats_are_recovered(mean: float, breathing: float, jitter: float, seed: int) -> None:
    truth = beat_series(mean, breathing, jitter, seed)
    found = rr.beats(recording(pulse(truth, 180, noise=0.01, seed=seed)))
    inner = truth[(truth > 3) & (truth < 177)]
    nearest = found.times[np.abs(found.times[None] - inner[:, None]).argmin(axis=1)]
    offset = np.median(nearest - inner)
    assert (np.abs(nearest - inner - offset) < 0.05).mean() >= 0.99
    assert np.median(np.abs(np.diff(nearest) - np.diff(inner))) < 0.005
    assert found.bridged_share < 0.08
    assert abs(len(found.times) - len(truth)) <= 3


@settings(max_examples=5)
@given(gain=st.floats(0.01, 100), start=st.floats(0, 500))
def test_size_of_the_pulse_and_its_start_change_nothing_else(gain: float, start: float) -> None:
    bvp = pulse(beat_series(0.8, 0.05, 0.01, 1), 180, noise=0.02)
    moved = Signal(bvp.data * gain, SFREQ, "a.u.", ("bvp",), start=start)
    one, other = rr.beats(recording(bvp)), rr.beats(recording(moved))
    assert np.allclose(other.times - start, one.times, atol=1e-6)
    assert np.array_equal(one.bridged, other.bridged)


def test_a_burst_of_motion_is_bridged_and_nothing_else() -> None:
    truth = beat_series(0.8, 0.04, 0.01, 2)
    bvp = pulse(truth, 180)
    burst = bvp.data.copy()
    burst[80 * 64 : 95 * 64, 0] += 300 * np.random.default_rng(3).standard_normal(15 * 64)
    found = rr.beats(recording(Signal(burst, SFREQ, "a.u.", ("bvp",))))
    middle = (found.times[1:] + found.times[:-1]) / 2
    assert found.bridged[(middle > 82) & (middle < 93)].all()
    assert not found.bridged[(middle > 5) & (middle < 72) | (middle > 103) & (middle < 175)].any()
    assert abs(len(found.times) - len(truth)) <= 3
    assert [a.description for a in found.annotations()].count("bridged") >= 1
    longest = max(found.annotations(), key=lambda a: a.duration)
    assert longest.onset < 82 < 93 < longest.stop


def test_a_hole_longer_than_any_path_is_bridged() -> None:
    bvp = pulse(beat_series(0.8, 0.04, 0.01, 4), 180)
    hole = bvp.data.copy()
    hole[60 * 64 : 90 * 64] = 0
    found = rr.beats(recording(Signal(hole, SFREQ, "a.u.", ("bvp",))))
    middle = (found.times[1:] + found.times[:-1]) / 2
    assert found.bridged[(middle > 61) & (middle < 89)].all()
    assert not found.bridged[(middle > 5) & (middle < 50)].any()
    assert found.rr.max() < 1.0


def test_beats_of_the_e4_fill_in_where_the_pulse_is_unclear() -> None:
    truth = beat_series(0.8, 0.04, 0.01, 5)
    bvp = pulse(truth, 180)
    blurred = bvp.data.copy()
    blurred[100 * 64 : 110 * 64] = bvp.data.mean()
    own = np.round(truth * 64) / 64
    ibi = Signal(np.stack([own[1:], np.diff(own)], axis=1), IRREGULAR_RATE, "s", ("time", "ibi"))
    blind = rr.beats(recording(Signal(blurred, SFREQ, "a.u.", ("bvp",))))
    helped = rr.beats(recording(Signal(blurred, SFREQ, "a.u.", ("bvp",)), ibi))
    assert blind.bridged_share > 0.05
    assert helped.bridged_share < blind.bridged_share / 2


def test_no_pulse_is_an_error_that_names_the_subject() -> None:
    for data in (np.zeros((64 * 100, 1)), np.random.default_rng(0).standard_normal((64 * 5, 1))):
        with pytest.raises(BeatsError, match=r"test S00: bvp: only .* leave this subject out"):
            rr.beats(recording(Signal(data, SFREQ, "a.u.", ("bvp",))))


@settings(max_examples=100)
@given(data=st.data())
def test_the_bridge_keeps_good_beats_covers_the_time_and_puts_in_plausible_ones(data: st.DataObject) -> None:
    times = beat_series(data.draw(st.floats(0.5, 1.1)), 0.05, 0.01, data.draw(st.integers(0, 999)), 100) + 5
    good = np.ones(len(times) - 1, bool)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + data.draw(st.integers(1, 15))] = False
    if not good.any():
        return
    found = rr.bridge(times, good, 0.0, 110.0)
    kept = np.unique(np.concatenate([times[:-1][good], times[1:][good]]))
    assert np.isin(kept, found.times).all()
    assert found.bridged.shape == (len(found.times) - 1,)
    assert (~found.bridged).sum() == good.sum()
    rr_s = np.diff(times)[good]
    assert found.rr.min() > 0.6 * rr_s.min()
    assert found.rr.max() < 1.6 * rr_s.max()
    assert found.times[0] < 1.6 * rr_s.max()
    assert found.times[-1] > 110 - 1.6 * rr_s.max()


def test_bridged_intervals_change_evenly_from_one_end_to_the_other() -> None:
    before, after = 0.5 + 0.8 * np.arange(40), 36.3 + 1.0 * np.arange(40)
    good = np.ones(79, bool)
    good[39] = False
    found = rr.bridge(np.concatenate([before, after]), good, 0.0, 76.0)
    put_in = found.rr[found.bridged & (found.times[:-1] > 31) & (found.times[:-1] < 37)]
    assert put_in.sum() == pytest.approx(36.3 - before[-1])
    assert np.diff(put_in) == pytest.approx(np.full(len(put_in) - 1, np.diff(put_in)[0]))
    assert (put_in > 0.75).all()
    assert (put_in < 1.05).all()


def test_a_jump_against_the_neighbours_is_refused() -> None:
    intervals = np.full(60, 0.8)
    intervals[[20, 40]] = (0.5, 1.7)
    assert np.flatnonzero(rr.jumps(intervals, np.ones(60, bool))).tolist() == [20, 40]


@needs_reference
@pytest.mark.parametrize("subject", ["S03", "S06", "S09", "S24", "S34"])
def test_intervals_match_the_e4s_where_it_gives_many(subject: str) -> None:
    real = stress_predict.load(Path(str(REFERENCE)) / "stress_predict", subject)
    times, _ = rr.pulse_beats(real.signals["bvp"])
    difference = np.abs(rr.interval_differences(times, real.signals["ibi"]))
    assert len(difference) > 1000
    # The E4's own grid of 15.6 ms alone makes a median of 4 to 6 ms.
    assert np.median(difference) < 0.008
    assert (difference > 0.1).mean() < 0.03
    assert rr.beats(real).bridged_share < 0.5


@settings(max_examples=40)
@given(
    mean=st.floats(0.5, 1.1),
    breathing=st.floats(0.0, 0.08),
    jitter=st.floats(0.005, 0.03),
    seed=st.integers(0, 2**16),
    holes=st.sets(st.sampled_from([0, 1, 2, 3, 4]), min_size=1, max_size=3),
)
def test_bridged_beats_vary_like_the_measured_ones_at_their_neighbours_rate(
    mean: float, breathing: float, jitter: float, seed: int, holes: set[int]
) -> None:
    """So that neither variability nor rate says where a bridge is: at the start, at the end, in between."""
    times = beat_series(mean, breathing, jitter, seed, 300)
    good = np.ones(len(times) - 1, bool)
    fifth = len(good) // 5
    for k in holes:
        good[k * fifth : (k + 1) * fifth] = False
    found = rr.bridge(times, good, 0.0, 300.0)
    put_in = found.rr[found.bridged]
    assert put_in.mean() == pytest.approx(found.rr[~found.bridged].mean(), rel=0.06)
    both = [np.diff(found.rr)[flags] for flags in (pairs(found.bridged), pairs(~found.bridged))]
    rmssd = [np.sqrt((d**2).mean()) for d in both]
    assert 0.5 < rmssd[0] / rmssd[1] < 1.7  # of a fifth of the beats; 0.99 in the median over people


def pairs(which: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(n - 1,) where an interval and the next are both of a kind."""
    return which[1:] & which[:-1]
