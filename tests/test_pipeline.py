"""The whole path's laws on a real recording, the demo's: bit-equal for any cut, no window over a gap."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import cut_up

from device.demo.loader import load
from device.pipeline.errors import SpecError
from device.pipeline.pipeline import EdaPath, Pipeline
from device.pipeline.spec import MODALITIES, SignalSpec, default_spec
from device.pipeline.types import Chunk, Clock, Window

SPEC = default_spec()
SECONDS = 110.0
REST = load("rest")
RATES = {"ecg": REST.ecg.sfreq, "eda": REST.eda.sfreq}


def seconds_of(modality: str, low: float, high: float) -> Chunk:
    sfreq = RATES[modality]
    start, stop = round(low * sfreq), round(high * sfreq)
    data = (REST.ecg if modality == "ecg" else REST.eda).data[start:stop, None]
    return Chunk(modality, start, data, np.ones(len(data), dtype=bool), Clock(0, 1000.0, 1.0 / sfreq))


def slices(step: float, lost: set[int] = frozenset()) -> list[Chunk]:  # type: ignore[assignment]
    whole = [(m, low) for low in np.arange(0.0, SECONDS, step) for m in MODALITIES]
    return [seconds_of(m, low, low + step) for m, low in whole if m != "ecg" or int(low) not in lost]


def run(chunks: list[Chunk], spec: SignalSpec = SPEC) -> list[Window]:
    pipeline = Pipeline(spec, RATES)
    return [w for chunk in chunks for w in pipeline.push(chunk)] + pipeline.flush()


def assert_same(windows: list[Window], expected: list[Window]) -> None:
    assert [w.index for w in windows] == [w.index for w in expected]
    for window, other in zip(windows, expected, strict=True):
        assert window.missing == other.missing
        assert window.quality == other.quality
        assert window.data.keys() == other.data.keys()
        assert all(np.array_equal(window.data[m], other.data[m]) for m in other.data)


EXPECTED = run(slices(2.0))


def test_a_real_recording_gives_usable_windows_with_a_plausible_heart_rate() -> None:
    whole = [w for w in EXPECTED if set(w.data) == set(MODALITIES)]
    assert len(whole) >= 6
    for window in whole:
        assert {m: d.shape for m, d in window.data.items()} == {m: (SPEC.n_times(m), 2) for m in MODALITIES}
        assert all(q.sqi >= SPEC.sqi_min for q in window.quality.values())
        assert 50.0 < np.median(window.data["ecg"][:, 1]) < 110.0
        assert 5.0 < np.median(window.data["eda"][:, 0]) < 25.0


@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(0, 109), st.integers(1, 400)), max_size=40))
def test_any_cut_of_the_stream_gives_the_same_bits(cuts: list[tuple[int, int]]) -> None:
    chunks = [
        piece
        for number, chunk in enumerate(slices(2.0))
        for piece in cut_up(chunk, [at for which, at in cuts if which == number])
    ]
    assert_same(run(chunks), EXPECTED)


@settings(max_examples=8)
@given(st.sets(st.integers(1, 98), min_size=1, max_size=3))
def test_no_window_spans_a_gap_and_eda_goes_on(lost: set[int]) -> None:
    for window in run(slices(1.0, lost)):
        seconds = range(int(window.start - 1000.0), int(window.start - 1000.0 + SPEC.window_s))
        assert not ("ecg" in window.data and lost & set(seconds))
        if "eda" in window.data:
            other = next(w for w in EXPECTED if w.index == window.index)
            assert np.array_equal(window.data["eda"], other.data["eda"])


def test_rates_that_cannot_serve_are_refused() -> None:
    with pytest.raises(SpecError, match=r"ecg\.lowpass_hz"):
        Pipeline(SPEC, {"ecg": 64.0})
    with pytest.raises(SpecError, match="streams"):
        Pipeline(SPEC, {"resp": 64.0})


SHORT = msgspec.structs.replace(SPEC, window_s=30.0)
LONG = msgspec.structs.replace(SHORT, eda=msgspec.structs.replace(SPEC.eda, context_s=60.0))
"""30 s of EDA come with every window of 30 s: in 110 s some have them all, and some do not."""
GAP_S = (46.0, 48.0)


def with_gap() -> list[Chunk]:
    return [c for c in slices(1.0) if c.modality != "eda" or not GAP_S[0] <= c.start / RATES["eda"] < GAP_S[1]]


def clean_eda(low: float, high: float) -> tuple[int, np.ndarray]:
    """An uninterrupted stretch in one piece: grid index of its first sample that may be used, and all from there."""
    (clean,) = EdaPath(LONG, RATES["eda"]).push(seconds_of("eda", low, high))
    first = int(np.argmax(clean.valid))
    assert clean.valid[first:].all()
    return clean.start + first, clean.data[first:]


@pytest.mark.parametrize(
    ("chunks", "stretches"),
    [(slices(2.0), [(0.0, SECONDS)]), (with_gap(), [(0.0, GAP_S[0]), (GAP_S[1], SECONDS)])],
    ids=["whole", "gap"],
)
def test_context_is_the_clean_stream_held_at_the_start_and_at_a_gap(
    chunks: list[Chunk], stretches: list[tuple[float, float]]
) -> None:
    n_whole = n_held = 0
    clean = [clean_eda(*stretch) for stretch in stretches]
    for window in run(chunks, LONG):
        if "eda" not in window.data:
            continue
        stop = round((window.start + LONG.window_s) * LONG.eda.sfreq)
        first, data = next((f, d) for f, d in clean if f <= stop - LONG.n_window("eda") and stop <= f + len(d))
        wanted = np.arange(stop - LONG.n_times("eda"), stop)
        assert np.array_equal(window.data["eda"], data[np.maximum(wanted, first) - first])
        n_held += int(wanted[0] < first)
        n_whole += int(wanted[0] >= first)
    assert n_held >= 3
    assert n_whole >= 3 or len(stretches) > 1


@pytest.mark.parametrize("chunks", [slices(2.0), with_gap()], ids=["whole", "gap"])
def test_a_spec_with_context_gives_the_same_windows_after_it(chunks: list[Chunk]) -> None:
    longer, plain = run(chunks, LONG), run(chunks, SHORT)
    cropped = [
        Window(w.index, w.start, {m: d[-LONG.n_window(m) :] for m, d in w.data.items()}, w.quality, w.missing)
        for w in longer
    ]
    assert any("eda" in w.data for w in plain)
    assert_same(cropped, plain)


@settings(max_examples=6)
@given(st.lists(st.tuples(st.integers(0, 216), st.integers(1, 200)), max_size=40))
def test_any_cut_of_the_stream_gives_the_same_context(cuts: list[tuple[int, int]]) -> None:
    chunks = [
        piece
        for number, chunk in enumerate(with_gap())
        for piece in cut_up(chunk, [at for which, at in cuts if which == number])
    ]
    assert_same(run(chunks, LONG), EXPECTED_LONG)


EXPECTED_LONG = run(with_gap(), LONG)
