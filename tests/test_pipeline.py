"""The whole path's laws on a real recording, the demo's: bit-equal for any cut, no window over a gap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import cut_up

from device.demo.loader import load
from device.pipeline.errors import SpecError
from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import MODALITIES, default_spec
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


def run(chunks: list[Chunk]) -> list[Window]:
    pipeline = Pipeline(SPEC, RATES)
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


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 109), st.integers(1, 400)), max_size=40))
def test_any_cut_of_the_stream_gives_the_same_bits(cuts: list[tuple[int, int]]) -> None:
    chunks = [
        piece
        for number, chunk in enumerate(slices(2.0))
        for piece in cut_up(chunk, [at for which, at in cuts if which == number])
    ]
    assert_same(run(chunks), EXPECTED)


@settings(max_examples=8, deadline=None)
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
