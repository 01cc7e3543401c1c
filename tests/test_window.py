"""Windows: on the grid, joined on time, never over a gap, and the missing named with their reason."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import cut_up

from device.pipeline.spec import default_spec
from device.pipeline.types import Chunk, Clock, Floats, Quality, Window
from device.pipeline.window import Joiner

SPEC = default_spec()
RATE = {"ecg": 128, "eda": 4}


def clean(data: Floats, sfreq: float) -> Quality:
    return Quality(1.0)


def joiner(*modalities: str) -> Joiner:
    names = modalities or ("ecg", "eda")
    return Joiner(SPEC, names, dict.fromkeys(names, clean))


def ramp(modality: str, start_s: float, stop_s: float) -> Chunk:
    """Both channels hold the sample's own grid index."""
    start, stop = int(start_s * RATE[modality]), int(stop_s * RATE[modality])
    data = np.repeat(np.arange(start, stop, dtype=float)[:, None], 2, axis=1)
    return Chunk(modality, start, data, np.ones(stop - start, dtype=bool), Clock(0, 0.0, 1.0 / RATE[modality]))


def interleaved(chunks: list[Chunk]) -> list[Chunk]:
    return sorted(chunks, key=lambda c: c.stop / RATE[c.modality])


def seconds(modality: str, start_s: int, stop_s: int) -> list[Chunk]:
    return [ramp(modality, s, s + 1) for s in range(start_s, stop_s)]


def push_all(stage: Joiner, chunks: list[Chunk]) -> list[Window]:
    return [w for chunk in chunks for w in stage.push(chunk)] + stage.flush()


def assert_exact(window: Window) -> None:
    for modality, data in window.data.items():
        start = round(window.index * SPEC.stride_s * RATE[modality])
        assert np.array_equal(data[:, 0], np.arange(start, start + SPEC.n_times(modality)))


def test_windows_lie_on_the_grid_and_hold_their_own_samples() -> None:
    windows = push_all(joiner(), interleaved(seconds("ecg", 1000, 1100) + seconds("eda", 1000, 1100)))
    whole = [w for w in windows if set(w.data) == {"ecg", "eda"}]
    assert [w.start for w in whole] == [1000.0 + 5.0 * i for i in range(9)]
    for window in whole:
        assert_exact(window)


def test_before_the_first_full_window_the_reason_is_warming_up() -> None:
    windows = push_all(joiner(), interleaved(seconds("ecg", 1000, 1100) + seconds("eda", 1000, 1100)))
    early = [w for w in windows if not w.data]
    assert len(early) == 11
    assert all(set(w.missing.values()) == {"warming_up"} for w in early)


@settings(max_examples=60)
@given(gaps=st.lists(st.tuples(st.sampled_from(["ecg", "eda"]), st.integers(5, 290), st.integers(1, 60)), max_size=4))
def test_no_window_spans_a_gap_and_every_gap_is_named(gaps: list[tuple[str, int, int]]) -> None:
    lost = {m: {s for g, at, n in gaps if g == m for s in range(at, at + n)} for m in RATE}
    chunks = [c for m in RATE for s in range(300) if s not in lost[m] for c in [ramp(m, s, s + 1)]]
    for window in push_all(joiner(), interleaved(chunks)):
        assert_exact(window)
        span = set(range(int(window.start), int(window.start + SPEC.window_s)))
        for modality in RATE:
            covered = span.isdisjoint(lost[modality]) and min(span) >= 0 and max(span) < 300
            assert (modality in window.data) == covered
            assert (modality in window.missing) == (not covered)


def test_a_modality_that_falls_silent_holds_up_the_other_for_join_wait_only() -> None:
    stage = joiner()
    push = interleaved(seconds("ecg", 0, 200) + seconds("eda", 0, 100))
    windows = [w for chunk in push for w in stage.push(chunk)]
    assert windows[-1].start + SPEC.window_s == 200 - SPEC.join_wait_s
    assert set(windows[-1].data) == {"ecg"}
    assert windows[-1].missing == {"eda": "gap"}


def test_silence_of_every_sensor_makes_no_windows() -> None:
    chunks = interleaved(seconds("ecg", 0, 100) + seconds("ecg", 50_000, 50_100))
    assert len(push_all(joiner("ecg"), chunks)) < 60


def test_a_sensor_away_from_the_start_is_never_waited_for_longer() -> None:
    windows = push_all(joiner("ecg", "eda"), seconds("ecg", 0, 100))
    assert [w.start for w in windows if "ecg" in w.data] == [5.0 * i for i in range(9)]


def test_an_unusable_sample_after_warm_up_makes_quality_zero() -> None:
    chunk = ramp("ecg", 0, 100)
    valid = chunk.valid.copy()
    valid[70 * 128] = False
    windows = push_all(joiner("ecg"), [Chunk("ecg", 0, chunk.data, valid, chunk.clock)])
    by_start = {w.start: w.quality["ecg"] for w in windows if "ecg" in w.data}
    assert by_start[5.0].sqi == 1.0
    assert by_start[15.0] == Quality(0.0, ("saturated",))


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(1, 128 * 100), max_size=40))
def test_any_cut_gives_the_same_windows(cuts: list[int]) -> None:
    expected = push_all(joiner("ecg"), [ramp("ecg", 7, 107)])
    windows = push_all(joiner("ecg"), cut_up(ramp("ecg", 7, 107), cuts))
    assert [w.index for w in windows] == [w.index for w in expected]
    for window, other in zip(windows, expected, strict=True):
        assert window.missing == other.missing
        assert all(np.array_equal(window.data[m], other.data[m]) for m in other.data)


LONG = msgspec.structs.replace(SPEC, eda=msgspec.structs.replace(SPEC.eda, context_s=90.0))


def with_context(*chunks: Chunk) -> list[Window]:
    return push_all(Joiner(LONG, ("ecg", "eda"), dict.fromkeys(("ecg", "eda"), clean)), interleaved(list(chunks)))


@settings(max_examples=30)
@given(gap=st.none() | st.tuples(st.integers(70, 150), st.integers(1, 20)), cuts=st.lists(st.integers(1, 3)))
def test_context_is_what_came_before_held_at_its_oldest_usable_sample(
    gap: tuple[int, int] | None, cuts: list[int]
) -> None:
    """EDA comes with the 30 s before its window; a start or a gap in them is bridged by the sample after it."""
    begin, end = (gap[0], sum(gap)) if gap else (300, 300)
    eda = seconds("eda", 0, min(begin, 300)) + (seconds("eda", end, 300) if gap else [])
    windows = with_context(*seconds("ecg", 0, 300), *[part for chunk in eda for part in cut_up(chunk, cuts)])
    whole = [w for w in windows if "eda" in w.data]
    assert len(whole) > 20
    for window in whole:
        oldest = 0 if window.start < begin else end * 4
        start = round(window.start * 4)
        wanted = np.maximum(np.arange(start - 120, start + 240), oldest)
        assert np.array_equal(window.data["eda"][:, 0], wanted)
        assert len(window.data.get("ecg", np.empty(60 * 128))) == 60 * 128


def test_context_ends_at_a_sample_that_may_not_be_used() -> None:
    chunks = seconds("eda", 0, 200)
    chunks[40].valid[:] = False
    windows = with_context(*seconds("ecg", 0, 200), *chunks)
    window = next(w for w in windows if w.start == 60.0)
    assert np.array_equal(window.data["eda"][:120, 0], np.maximum(np.arange(120, 240), 41 * 4))
    assert window.quality["eda"].sqi == 1.0


def test_quality_is_the_windows_own_whatever_came_before() -> None:
    """A context of poor signal makes no window poor: the quality is judged on the window's own samples."""

    def first_and_length(data: Floats, sfreq: float) -> Quality:
        return Quality(1.0, (f"{data[0, 0]:g} {len(data)}",))

    chunks = interleaved(seconds("ecg", 0, 200) + seconds("eda", 0, 200))
    longer = push_all(Joiner(LONG, ("ecg", "eda"), dict.fromkeys(("ecg", "eda"), first_and_length)), chunks)
    found = [w for w in longer if "eda" in w.data]
    assert found
    assert all(w.quality["eda"].problems == (f"{w.start * 4:g} 240",) for w in found)
