"""Observers: a range holds what it is said to hold, and loses least where it is said to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.observers import MIN_MAX, N_BINS, OBSERVERS, PERCENTILE, counted, least_error, percentile

KINDS = {
    "normal": lambda rng: rng.standard_normal(40_000),
    "rectified": lambda rng: np.maximum(rng.standard_normal(40_000), 0.0),
    "heavy tails": lambda rng: rng.standard_t(3, 40_000),
    "one far value": lambda rng: np.append(rng.standard_normal(39_999), 60.0),
    "negative": lambda rng: -rng.gamma(2.0, 1.0, 40_000),
    "far from zero": lambda rng: 5.0 + rng.random(40_000),
}


def made(kind: str, seed: int = 0) -> tuple[np.ndarray, float, float]:
    values = KINDS[kind](np.random.default_rng(seed)).astype(np.float32)
    return values, float(values.min()), float(values.max())


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What eight bits over a range make of values; zero is one of the 256."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step


def error(values: np.ndarray, found: tuple[float, float]) -> float:
    return float(np.mean((rounded(values, *found) - values) ** 2))


@given(st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=50), st.floats(-3, 0), st.floats(0.5, 3))
@settings(deadline=None)
def test_every_value_is_counted_once(values: list[float], low: float, high: float) -> None:
    x = np.array(values, np.float32)
    counts = counted(x, low, high)
    assert counts.shape == (N_BINS,) and counts.sum() == len(x)
    at = np.linspace(low, high, N_BINS + 1)
    assert abs((counts * (at[1:] + at[:-1]) / 2).sum() - np.clip(x, low, high).sum()) <= len(x) * (high - low) / N_BINS


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_lies_within_what_was_seen_or_reaches_for_zero(kind: str) -> None:
    values, low, high = made(kind)
    for name, range_of in OBSERVERS.items():
        first, last = range_of(counted(values, low, high), low, high)
        assert min(low, 0.0) <= first < last <= max(high, 0.0), name
    assert OBSERVERS[MIN_MAX](counted(values, low, high), low, high) == (low, high)


@pytest.mark.parametrize("kind", KINDS)
def test_a_percentile_s_range_holds_its_share(kind: str) -> None:
    values, low, high = made(kind)
    first, last = percentile(counted(values, low, high), low, high)
    inside = np.mean((values >= first) & (values <= last))
    assert inside >= PERCENTILE / 100
    narrower = np.mean((values >= first + (high - low) / N_BINS) & (values <= last - (high - low) / N_BINS))
    assert narrower < 1.0 - (1 - PERCENTILE / 100) / 2 or inside == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_least_error_is_no_more_than_that_of_any_narrower_range(kind: str) -> None:
    """By rounding every value as int8 does, against ranges cut at many shares of either end."""
    values, low, high = made(kind)
    ours = error(values, least_error(counted(values, low, high), low, high))
    others = [(a * low, b * high) for a in np.linspace(0.1, 1, 19) for b in np.linspace(0.1, 1, 19)]
    assert ours <= 1.05 * min(error(values, it) for it in others)


def test_one_far_value_costs_the_plain_range_and_not_the_others() -> None:
    values, low, high = made("one far value")
    plain, by_share, by_error = (
        error(values[:-1], OBSERVERS[name](counted(values, low, high), low, high)) for name in OBSERVERS
    )
    assert by_share < plain / 20 and by_error < plain
