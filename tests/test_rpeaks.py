"""R peaks and heart rate: laws of the stream, and the annotated records at hand."""

from __future__ import annotations

import numpy as np
import pytest
from ecg_references import SFREQ, chunk, pooled, rates, records, score, with_heart_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, sosfreqz
from tests_support import cut_up

from device.pipeline.rpeaks import FILTER_DELAY_S, HeartRate, RPeak, RPeakDetector
from device.pipeline.types import Chunk

BAR = 0.99

EXCEPTIONS = {
    # record: (sensitivity, precision), first lead, within 75 ms; in brackets what a tolerance of 150 ms gives
    "mitdb/104": (0.990, 0.988),  # paced, bursts of muscle noise; pacing spike or QRS is marked (0.998, 0.996)
    "mitdb/105": (0.993, 0.986),  # the noisiest record of the set: bursts of noise taken for beats (0.995, 0.988)
    "mitdb/108": (0.994, 0.989),  # QRS of 0.3 mV with P waves as sharp, and noise (0.994, 0.989)
    "qtdb/sele0129": (0.800, 0.747),  # marks at the QRS onset, 70-90 ms before its largest wave (0.993, 0.926)
    "qtdb/sele0133": (0.943, 0.943),  # marks at the QRS onset, 70-90 ms before a deep, notched S (1.000, 1.000)
}


def heart(seconds: float, bpm: float = 75.0, seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """A made-up filtered ECG at SFREQ, (n_times,) mV: QRS and T wave, intervals that vary by 3 %."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * SFREQ)) / SFREQ
    x = noise * rng.normal(size=len(t))
    for beat in beat_times(seconds, bpm, seed):
        x += np.exp(-(((t - beat) / 0.012) ** 2)) + 0.25 * np.exp(-(((t - beat - 0.28) / 0.05) ** 2))
    return x


def beat_times(seconds: float, bpm: float = 75.0, seed: int = 0) -> np.ndarray:
    """Where ``heart`` beats, s."""
    rng = np.random.default_rng(seed + 1)
    intervals = 60.0 / bpm * (1.0 + 0.03 * rng.normal(size=round(seconds * bpm / 60.0) + 5))
    beats = 0.4 + np.concatenate([[0.0], np.cumsum(intervals)])
    return beats[beats < seconds - 0.2]


def detect(chunks: list[Chunk]) -> list[RPeak]:
    """All peaks of a stream."""
    detector = RPeakDetector(SFREQ)
    return [peak for piece in chunks for peak in detector.push(piece)] + detector.flush()


def rate_of(chunks: list[Chunk]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[RPeak]]:
    """Index, data and validity of the whole output of HeartRate, and its peaks."""
    stage = HeartRate(SFREQ)
    out, peaks = list[Chunk](), list[RPeak]()
    for piece in chunks:
        out += stage.push(piece)
        peaks += stage.peaks
    out += stage.flush()
    peaks += stage.peaks
    index = np.concatenate([np.arange(c.start, c.stop) for c in out])
    return index, np.concatenate([c.data for c in out]), np.concatenate([c.valid for c in out]), peaks


def two_runs(gap: int) -> list[Chunk]:
    """Two runs with a gap of so many samples, which may be negative (the stream began anew)."""
    first = chunk(heart(12.0, noise=0.05), SFREQ, start=1000)
    return [first, chunk(heart(15.0, bpm=110.0, seed=4, noise=0.05), SFREQ, start=first.stop + gap)]


@settings(max_examples=40)
@given(st.lists(st.integers(1, 1900), max_size=60), st.sampled_from([1, 300, -2000]))
def test_any_cut_gives_the_same_bits(cuts: list[int], gap: int) -> None:
    whole = two_runs(gap)
    pieces = [piece for run in whole for piece in cut_up(run, cuts)]
    assert detect(pieces) == detect(whole)
    for cut, uncut in zip(rate_of(pieces), rate_of(whole), strict=True):
        np.testing.assert_array_equal(cut, uncut)


def test_sample_by_sample_gives_the_same_bits() -> None:
    whole = two_runs(77)
    pieces = [piece for run in whole for piece in cut_up(run, list(range(1, len(run.data))))]
    assert detect(pieces) == detect(whole)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 1900), max_size=40), st.integers(0, 3), st.floats(0.01, 0.6))
def test_settled_promise_holds(cuts: list[int], seed: int, noise: float) -> None:
    """Nothing comes out later before ``settled``, what comes out is in order, and the delay is bounded."""
    detector = RPeakDetector(SFREQ)
    seen = -1
    for piece in cut_up(chunk(heart(15.0, seed=seed, noise=noise), SFREQ), cuts):
        promise = detector.settled
        for peak in detector.push(piece):
            assert peak.index >= promise
            assert peak.index > seen
            seen = peak.index
        assert detector.settled >= piece.stop - 2.0 * SFREQ
        assert detector.settled == max(0, piece.stop - detector.delay)


@settings(max_examples=25)
@given(st.integers(30, 1500), st.integers(1, 400))
def test_a_gap_resets(length: int, gap: int) -> None:
    """After a gap the stream is as new: peaks and rate equal those of a detector that saw nothing before."""
    before = chunk(5.0 * heart(12.0, seed=9)[:length], SFREQ)
    after = chunk(heart(12.0, seed=2, noise=0.1), SFREQ, start=before.stop + gap)
    assert detect([before, after]) == detect([before]) + detect([after])
    index, data, valid, peaks = rate_of([before, after])
    alone = rate_of([after])
    again = index >= after.start
    np.testing.assert_array_equal(data[again], alone[1])
    np.testing.assert_array_equal(valid[again], alone[2])
    assert not any(before.stop <= peak.index < after.start for peak in peaks)


def test_no_interval_spans_a_gap() -> None:
    first, second = two_runs(500)
    index, data, valid, peaks = rate_of([first, second])
    fresh = [peak.index for peak in peaks if peak.index >= second.start]
    waiting = (index >= second.start) & (index < fresh[1])
    assert not valid[waiting].any()
    assert (data[waiting, 1] == 0.0).all()
    assert valid[index >= fresh[1]].all()


def test_heart_rate_is_that_of_the_last_two_peaks() -> None:
    x = heart(20.0)
    index, data, valid, peaks = rate_of([chunk(x, SFREQ)])
    np.testing.assert_array_equal(index, np.arange(len(x)))
    np.testing.assert_array_equal(data[:, 0], x)
    for k in range(len(x)):
        past = [peak for peak in peaks if peak.index <= k]
        assert valid[k] == (len(past) >= 2)
        if valid[k]:
            assert data[k, 1] == 60.0 * SFREQ / (past[-1].position - past[-2].position)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("bpm", [35.0, 75.0, 200.0])
def test_every_beat_of_either_polarity_from_the_first_on(sign: float, bpm: float) -> None:
    peaks = detect([chunk(sign * heart(60.0, bpm=bpm), SFREQ)])
    np.testing.assert_allclose([p.position / SFREQ for p in peaks], beat_times(60.0, bpm=bpm), atol=0.25 / SFREQ)
    assert all(-0.5 <= peak.offset <= 0.5 for peak in peaks)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_change_of_amplitude_is_followed(factor: float) -> None:
    x = heart(60.0, noise=0.002)
    x[30 * int(SFREQ) :] *= factor
    found = np.array([p.position / SFREQ for p in detect([chunk(x, SFREQ)])])
    missed = [beat for beat in beat_times(60.0) if np.abs(found - beat).min() > 0.02]
    assert all(30.0 <= beat <= 35.0 for beat in missed)
    assert len(found) + len(missed) == len(beat_times(60.0))


def test_silence_has_no_beat() -> None:
    assert detect([chunk(np.full(2000, 0.7), SFREQ)]) == []
    assert detect([chunk(np.zeros(1), SFREQ)]) == []


@pytest.mark.parametrize("sfreq", [128.0, 130.0, 250.0, 360.0])
def test_documented_delay_is_the_filters(sfreq: float) -> None:
    sos = butter(2, [0.5, 40.0], "bandpass", fs=sfreq, output="sos")
    hz = np.arange(10.0, 25.1, 0.5)
    _, response = sosfreqz(sos, worN=hz, fs=sfreq)
    delay = -np.diff(np.unwrap(np.angle(response))) / (2.0 * np.pi * np.diff(hz))
    np.testing.assert_allclose(delay, FILTER_DELAY_S, atol=0.0013)


def test_annotated_records() -> None:
    """MIT-BIH (12 records) and QTDB (105), first lead, within 75 ms: all but the exceptions reach the bar."""
    scores = {record.name: score(record) for record in records(0)}
    assert len(scores) == 117
    assert sum(sum(counts[:2]) for counts in scores.values()) > 110_000
    for group in ("mitdb/", "qtdb/", ""):
        sensitivity, precision = rates(pooled({n: counts for n, counts in scores.items() if n.startswith(group)}))
        assert min(sensitivity, precision) >= BAR, group
    below = {name: rates(counts) for name, counts in scores.items() if min(rates(counts)) < BAR}
    assert below.keys() == EXCEPTIONS.keys()
    for name, figures in below.items():
        assert figures == pytest.approx(EXCEPTIONS[name], abs=0.0015), name


def test_real_rate_agrees_with_annotated_intervals() -> None:
    """Median heart rate of each record whose beats are all marked, within 1 % of the marks'."""
    for record in records(0):
        if record.complete and record.name not in EXCEPTIONS:
            marked = 60.0 / np.median(np.diff(record.beats))
            found = 60.0 / np.median(np.diff(record.peaks))
            assert found == pytest.approx(marked, rel=0.01), record.name


def test_raw_path_gives_one_gapless_run() -> None:
    """The helper of these tests loses no sample of the path."""
    ecg, peaks = with_heart_rate(heart(30.0), SFREQ)
    assert len(ecg.data) > 29.5 * SFREQ
    assert len(peaks) == pytest.approx(len(beat_times(30.0)), abs=1)
