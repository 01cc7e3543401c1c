"""Augmentation: each part does what it says within its bound, and none shows what is not there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.augment import NONE, Augmentation, augmented, mixed

N, RATES = 64, (128.0, 4.0)
PARTS = list(Augmentation.__dataclass_fields__)


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ecg = rng.normal(0, 1, (N, 2, 3840)).astype(np.float32)
    ecg[:, 1] = np.linspace(-1, 1, 3840)
    return ecg, rng.normal(0, 1, (N, 2, 480)).astype(np.float32)


def run(
    how: Augmentation, present: np.ndarray | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    given_ = np.ones((N, 2), bool) if present is None else present
    return augmented(*batch(), given_, how, RATES, np.random.default_rng(seed))


def test_none_changes_nothing() -> None:
    ecg, eda, mask = run(NONE)
    assert np.array_equal(ecg, batch()[0])
    assert np.array_equal(eda, batch()[1])
    assert (mask == 1).all()


@pytest.mark.parametrize("part", PARTS)
def test_every_part_does_something_and_the_same_for_the_same_seed(part: str) -> None:
    how = replace(NONE, **{part: 0.5})
    changed = any(not np.array_equal(a, b) for a, b in zip(run(how), run(NONE), strict=True))
    assert changed
    assert all(np.array_equal(a, b) for a, b in zip(run(how), run(how), strict=True))
    assert all(a.dtype == np.float32 for a in run(how))


@pytest.mark.parametrize("rate_error", [0.0, 0.01])
def test_the_given_windows_are_left_alone(rate_error: float) -> None:
    ecg, eda = batch()
    how = Augmentation(rate_error=rate_error, ecg_loss=0.5, context_loss=0.5)
    augmented(ecg, eda, np.ones((N, 2), bool), how, RATES, np.random.default_rng(0))
    assert np.array_equal(ecg, batch()[0])
    assert np.array_equal(eda, batch()[1])


@settings(max_examples=30)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_the_mask_shows_only_what_is_there_and_never_nothing(seed: int, share: float) -> None:
    present = np.random.default_rng(seed).random((N, 2)) < 0.6
    _, _, mask = run(replace(NONE, modality_dropout=share), present, seed)
    assert not mask[~present].any()
    assert mask.any(axis=1)[present.any(axis=1)].all()
    assert np.array_equal(mask[~present.all(axis=1)], present[~present.all(axis=1)])


def test_dropout_takes_either_sensor_as_often_as_it_says() -> None:
    _, _, mask = augmented(
        np.zeros((4000, 2, 64), np.float32), np.zeros((4000, 2, 32), np.float32), np.ones((4000, 2), bool),
        replace(NONE, modality_dropout=0.4), RATES, np.random.default_rng(1),
    )  # fmt: skip
    assert (1 - mask).mean(axis=0) == pytest.approx([0.2, 0.2], abs=0.03)


def test_inversion_turns_the_lead_and_not_the_rate() -> None:
    ecg, _, _ = run(replace(NONE, inversion=0.5))
    sign = ecg[:, 0, 0] / batch()[0][:, 0, 0]
    assert set(np.round(sign).tolist()) == {-1.0, 1.0}
    assert np.allclose(ecg[:, 0], sign[:, None] * batch()[0][:, 0])
    assert np.array_equal(ecg[:, 1], batch()[0][:, 1])


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_a_rate_error_stays_within_its_bound_and_keeps_the_end(seed: int) -> None:
    ecg, eda, _ = run(replace(NONE, rate_error=0.01), seed=seed)
    ramp = ecg[:, 1] * 3839 / 2 + 3839 / 2  # the sample that each was read from
    assert np.abs(ramp[:, -1] - 3839).max() < 0.01
    assert np.abs(np.diff(ramp, axis=1)).max() < 2.01
    assert np.abs(ramp - np.arange(3840)).max() <= 0.01 * 3840 + 1
    assert np.array_equal(eda[:, :, -1], batch()[1][:, :, -1])


def test_wander_is_slow_bounded_and_on_the_ecg_alone() -> None:
    ecg, eda, _ = run(replace(NONE, wander=0.2))
    wave = ecg[:, 0] - batch()[0][:, 0]
    assert 0.05 < np.abs(wave).max() <= 0.2 + 1e-6
    power = (np.abs(np.fft.rfft(wave * np.hanning(3840), axis=1)) ** 2).sum(axis=0)
    hertz = np.fft.rfftfreq(3840, 1 / 128)
    assert power[hertz <= 0.7].sum() > 0.99 * power.sum()
    assert np.array_equal(ecg[:, 1], batch()[0][:, 1])
    assert np.array_equal(eda, batch()[1])


def test_lost_contact_is_flat_for_at_most_5_s_with_its_rate_held() -> None:
    ecg, _, _ = run(replace(NONE, ecg_loss=1.0))
    for lead, rate in zip(ecg[:, 0], ecg[:, 1], strict=True):
        flat = np.flatnonzero(lead == 0)
        assert 128 <= len(flat) <= 5 * 128
        assert flat[-1] - flat[0] == len(flat) - 1
        assert len(set(rate[flat].tolist())) == 1
        assert rate[flat[0]] == rate[flat[0] - 1]


def test_lost_context_holds_the_oldest_sample_and_leaves_the_end() -> None:
    _, eda, _ = run(replace(NONE, context_loss=1.0))
    for was, now in zip(batch()[1], eda, strict=True):
        kept = int(np.argmax((was == now).all(axis=0)))
        assert kept <= 480 * 4 // 5
        assert np.array_equal(now[:, kept:], was[:, kept:])
        assert np.array_equal(now[:, :kept], np.repeat(was[:, kept : kept + 1], kept, axis=1))


def test_shifts_and_gain_are_constant_over_a_window() -> None:
    ecg, eda, _ = run(replace(NONE, hr_shift=0.2, tonic_shift=0.3, phasic_gain=0.2))
    for moved in (ecg[:, 1] - batch()[0][:, 1], eda[:, 0] - batch()[1][:, 0], eda[:, 1] / batch()[1][:, 1]):
        assert np.ptp(moved, axis=1).max() < 1e-3
        assert np.std(moved[:, 0]) > 0.1


@settings(max_examples=30)
@given(seed=st.integers(0, 999), size=st.floats(0.01, 2.0), seconds=st.integers(10, 90))
def test_wander_never_exceeds_its_size_in_a_window_of_any_length(seed: int, size: float, seconds: int) -> None:
    flat = np.zeros((8, 2, seconds * 128), np.float32), np.zeros((8, 2, seconds * 4), np.float32)
    how = replace(NONE, wander=size)
    ecg, _, _ = augmented(*flat, np.ones((8, 2), bool), how, RATES, np.random.default_rng(seed))
    assert np.abs(ecg).max() <= size * (1 + 1e-6)
    assert np.abs(np.diff(ecg[:, 0])).max() <= size * 2 * np.pi * 0.5 / 128 * (1 + 1e-3)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), error=st.floats(0.0, 0.05), seconds=st.integers(10, 90))
def test_a_rate_error_reads_each_sample_from_where_it_says(seed: int, error: float, seconds: int) -> None:
    """Both sensors, every channel alike: sample k before the end from k times a rate within the bound."""
    n_ecg, n_eda = seconds * 128, seconds * 4
    ecg, eda = (np.broadcast_to(np.arange(n, dtype=np.float32), (3, 2, n)) for n in (n_ecg, n_eda))
    how = replace(NONE, rate_error=error)
    for out in augmented(ecg, eda, np.ones((3, 2), bool), how, RATES, np.random.default_rng(seed))[:2]:
        last = out.shape[2] - 1
        ago = last - np.arange(last + 1)
        assert np.array_equal(out, np.broadcast_to(out[0, 0], out.shape))
        assert (np.abs(last - out[0, 0] - ago) <= error * ago + 0.5 + 1e-3).all()


@settings(max_examples=25)
@given(seed=st.integers(0, 999), seconds=st.sampled_from([30, 60]), context=st.sampled_from([0, 60]))
def test_all_parts_together_keep_shape_and_mask(seed: int, seconds: int, context: int) -> None:
    rng = np.random.default_rng(seed)
    ecg = rng.normal(0, 1, (9, 2, seconds * 128)).astype(np.float32)
    eda = rng.normal(0, 1, (9, 2, (seconds + context) * 4)).astype(np.float32)
    present = rng.random((9, 2)) < 0.6
    new_ecg, new_eda, mask = augmented(ecg, eda, present, Augmentation(), RATES, rng)
    assert (new_ecg.shape, new_eda.shape, mask.shape) == (ecg.shape, eda.shape, present.shape)
    assert np.isfinite(new_ecg).all() and np.isfinite(new_eda).all()
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert not mask[~present].any()
    assert mask.any(axis=1)[present.any(axis=1)].all()


@pytest.mark.parametrize(("part", "modality"), [("inversion", 0), ("ecg_loss", 0), ("context_loss", 1)])
def test_a_share_is_the_share_of_windows(part: str, modality: int) -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(0, 1, (2000, 2, 640)).astype(np.float32), rng.normal(0, 1, (2000, 2, 40)).astype(np.float32)
    how = replace(NONE, **{part: 0.3})
    after = augmented(*before, np.ones((2000, 2), bool), how, RATES, rng)
    assert (before[modality] != after[modality]).any(axis=(1, 2)).mean() == pytest.approx(0.3, abs=0.04)
    assert np.array_equal(before[1 - modality], after[1 - modality])


@given(st.integers(0, 99), st.integers(1, 12))
@settings(max_examples=30)
def test_a_blend_lies_between_two_windows_and_shows_what_both_show(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    ecg, eda = (rng.normal(size=(n, 2, k)).astype(np.float32) for k in (64, 16))
    mask = np.array([[1, 1], [1, 0], [0, 1]], np.float32)[rng.integers(0, 3, n)]
    new_ecg, new_eda, shown, order, share = mixed(ecg, eda, mask, 0.3, rng)
    assert sorted(order) == list(range(n)) and 0 <= share <= 1
    for new, old in ((new_ecg, ecg), (new_eda, eda)):
        assert new.dtype == np.float32
        assert np.allclose(new, share * old + (1 - share) * old[order], atol=1e-6)
    assert shown.any(axis=1).all() and (shown <= mask).all()
    for i in range(n):
        common = mask[i] * mask[order[i]]
        assert np.array_equal(shown[i], common if common.any() else mask[i])


def test_no_blends_leave_all_as_it_is() -> None:
    arrays = np.ones((3, 2, 8), np.float32), np.zeros((3, 2, 4), np.float32), np.ones((3, 2), np.float32)
    *same, order, share = mixed(*arrays, 0.0, np.random.default_rng(0))
    assert all(a is b for a, b in zip(same, arrays, strict=True))
    assert order.tolist() == [0, 1, 2] and share == 1.0
