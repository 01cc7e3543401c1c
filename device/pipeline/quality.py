"""Signal quality of one window of ECG or EDA, absolute: from physiology and physics, not from other windows.

Does not know the person, the sensor or what the window is used for.

ECG after Orphanidou et al. (2015, IEEE J Biomed Health Inform 19:832): beats must resemble their own template and their
rate must be possible; to which amplitude, sharpness and prominence of the beats are added. EDA after Kleckner et al.
(2018, IEEE Trans Biomed Eng 65:1460): range 0.05-60 uS, slope within 10 uS/s, and 5 s around whatever breaks them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from device.pipeline.types import Bools, Floats, Quality

Indices = npt.NDArray[np.int64]
Ramp = tuple[float, float]
"""Value that scores 0, value that scores 1; half-way between scores 0.5, the usual limit of what is used."""

FLAT_MV = 0.02
"""Less than this from the 2nd to the 98th percentile is no body: electrode noise alone is 0.01-0.03 mV."""
HUGE_MV: Ramp = (12.0, 8.0)
"""Spread of an electrode that hangs loose; the widest QRS of the reference records spread 6 mV."""
BEAT_MV: Ramp = (0.02, 0.08)
"""Prominence of the beats: 0.19 mV in the weakest 0.2 % of reference windows, 0.03 mV for a pulse wave taken as ECG."""
SHARPNESS: Ramp = (0.05, 0.25)
"""Prominence over the window's spread: below 0.1 for respiration, EDA or pulse taken as ECG, above 0.3 for ECG."""
PROMINENCE: Ramp = (4.0, 8.0)
"""Prominence over the RMS of the rest: 1-3 for noise of any colour, 3-6 where an amplifier clips, above 6 in 99.8 % of
reference windows."""
ALIKE: Ramp = (0.3, 0.7)
"""Share of beats that resemble the template; half of them still do in bigeminy."""
ALIKE_CORRELATION = 0.66
"""A beat resembles the template from this correlation on (Orphanidou et al. 2015)."""
RATE_BPM = (30.0, 220.0)
"""Median rates outside this are no heart's."""
JUMP = 0.3
"""Neighbouring intervals that differ by more than this share of the longer make a jump."""
JUMPS: Ramp = (1.0, 0.7)
"""Share of jumps: fibrillation passes; lasting bigeminy does not, for its rate alternates and says nothing."""
FEWEST_BEATS = 3
"""Fewer beats have no template and no rate."""
TEMPLATE_S = 0.2
"""Half the template's length: QRS and its surroundings without most of the T wave."""
SEARCH_S = 0.08
"""The prominence of a beat is looked for within this of its R peak."""
QRS_S = (0.1, 0.15)
"""Before and after an R peak, taken as QRS and left out of the rest."""
NEIGHBOUR_S = 0.031
"""Prominence is how far a sample stands out of the two this far to its sides: half a narrow QRS."""
HIDDEN_BEAT = 1.5
"""At the window's end, the rate unchanged for more than this many intervals: beats were due, come or not."""
ROUNDING = 1.5
"""Samples by which an interval and the indices of its beats may differ."""
PAUSE_S = 3.0
"""No pause between beats is longer (Orphanidou et al. 2015)."""
COVERED: Ramp = (0.25, 0.75)
"""Share of the window that is not in such a pause."""

RANGE_US = (0.05, 60.0)
"""Skin conductance of a skin in contact (Kleckner et al. 2018)."""
SLOPE_US_S = 10.0
"""Skin changes no faster, uS/s (Kleckner et al. 2018)."""
FALL_SHARE = 0.29
"""Nor falls by a larger share in 1 s: a response takes 2 s or more to lose half of itself (Dawson, Schell & Filion,
Handbook of Psychophysiology), and that is 29 % a second off a level that is nothing but response."""
SPREAD_S = 5.0
"""Samples this near to one that breaks a rule are not used either (Kleckner et al. 2018)."""
FLAT_US = 0.001
"""Range of a whole window without life: one step of an Empatica E4 (900 pS) and less."""
ROUGH: Ramp = (0.8, 0.5)
"""What a mean over ``SMOOTH_S`` takes away, over all that is not a straight line: at most 0.62 in the 14,273 reference
windows of two bands, 0.5-1 for pulse or movement taken as EDA."""
SMOOTH_S = 2.0
"""A response rises for 1-3 s (Boucsein 2012, Electrodermal Activity): a mean over this leaves most of it."""
QUIET_US = 0.05
"""Added to what roughness is measured by: a quiet skin is nothing but the last digit's steps."""
PROBLEM_SHARE = 0.1
"""A rule broken for this share of the window is named as a problem."""


def ecg_quality(data: Floats, sfreq: float) -> Quality:
    """Quality of one window of ECG.

    Parameters
    ----------
    data : (n_times, 2)
        Band-passed ECG in mV; heart rate in 1/min, a step at each R peak, as ``HeartRate`` gives it.
    sfreq : float
        Hz.

    Returns
    -------
    Quality
        ``sqi`` is the worst of the scores; each score below 0.5 names its problem.
    """
    x, rate = data[:, 0], data[:, 1]
    low, high = np.percentile(x, [2.0, 98.0])
    spread = float(high - low)
    if spread < FLAT_MV:
        return Quality(0.0, ("flat",))
    peaks = beats(rate, sfreq)
    margin = round(TEMPLATE_S * sfreq)
    peaks = peaks[(peaks >= margin) & (peaks < len(x) - margin)]
    if len(peaks) < FEWEST_BEATS:
        return Quality(0.0, ("contact",))
    outstanding = _outstanding(x, round(NEIGHBOUR_S * sfreq))
    height = float(np.median(np.abs(_around(outstanding, peaks, round(SEARCH_S * sfreq))).max(axis=1)))
    scores = (
        ("contact", min(_score(height, BEAT_MV), _score(spread, HUGE_MV))),
        ("contact", _score(_covered(peaks, len(x), sfreq), COVERED)),
        ("noise", _score(height / spread, SHARPNESS)),
        ("noise", _score(height / (_rest(outstanding, peaks, sfreq) + 1e-12), PROMINENCE)),
        ("noise", _score(_alike(_around(x, peaks, margin)), ALIKE)),
        ("rate", _rate_score(np.diff(peaks) / sfreq)),
    )
    return _worst(scores)


def beats(rate: Floats, sfreq: float) -> Indices:
    """Sample indices of the beats that a heart rate, (n_times,) in 1/min, tells of.

    Every step is a beat. Where intervals are equal to the bit there is no step: such beats are known from the next
    step, which says how long ago the beat before it was, and at the window's end from the beats that were due.
    """
    steps = np.flatnonzero(np.diff(rate) != 0.0) + 1
    found = steps.tolist()
    for start, stop in pairwise([0, *found, len(rate)]):
        interval = 60.0 * sfreq / rate[start] if rate[start] > 0.0 else np.inf
        if stop < len(rate):
            last = stop - 60.0 * sfreq / rate[stop] if rate[stop] > 0.0 else start
        else:
            last = stop - 1 if stop - start > HIDDEN_BEAT * interval else start
        if start == 0:
            hidden = np.arange(last, 0.0, -interval) if np.isfinite(interval) else np.empty(0)
        else:
            hidden = start + interval * np.arange(1, 1 + max(0, int((last + ROUNDING - start) / interval)))
        found += np.round(hidden).astype(int).tolist()
    return np.unique(np.array(found, dtype=np.int64))


def _score(value: float, ramp: Ramp) -> float:
    """0 to 1 along a ramp, which may fall."""
    zero, one = ramp
    return min(1.0, max(0.0, (value - zero) / (one - zero)))


def _worst(scores: tuple[tuple[str, float], ...]) -> Quality:
    problems = dict.fromkeys(name for name, score in scores if score < 0.5)
    return Quality(min(score for _, score in scores), tuple(problems))


def _outstanding(x: Floats, side: int) -> Floats:
    """How far each sample stands out of the two ``side`` samples away, (n_times,)."""
    out = np.zeros_like(x)
    out[side:-side] = x[side:-side] - 0.5 * (x[: -2 * side] + x[2 * side :])
    return out


def _around(x: Floats, peaks: Indices, reach: int) -> Floats:
    """(n_peaks, 2 * reach + 1) samples around each peak."""
    return x[peaks[:, None] + np.arange(-reach, reach + 1)]


def _rest(outstanding: Floats, peaks: Indices, sfreq: float) -> float:
    """RMS of what stands out away from the beats; infinite where the beats leave nothing over."""
    before, after = (round(s * sfreq) for s in QRS_S)
    qrs = (peaks[:, None] + np.arange(-before, after + 1)).ravel()
    away = np.ones(len(outstanding), dtype=np.bool_)
    away[qrs[(qrs >= 0) & (qrs < len(away))]] = False
    return float(np.sqrt(np.mean(outstanding[away] ** 2))) if away.any() else np.inf


def _alike(segments: Floats) -> float:
    """Share of the beats, (n_beats, n_times), that resemble their median."""
    segments = segments - segments.mean(axis=1, keepdims=True)
    template = np.median(segments, axis=0)
    energy = (segments**2).sum(axis=1) * (template**2).sum()
    correlation = (segments * template).sum(axis=1) / np.sqrt(energy + 1e-24)
    return float(np.mean(correlation >= ALIKE_CORRELATION))


def _covered(peaks: Indices, n_times: int, sfreq: float) -> float:
    """Share of the window that lies in no long pause."""
    intervals = np.diff(np.concatenate([[0], peaks, [n_times]]))
    return float(intervals[intervals <= PAUSE_S * sfreq].sum()) / n_times


def _rate_score(intervals: Floats) -> float:
    """Score of RR intervals in s, (n_intervals,): a heart's rate, and not jumping from beat to beat."""
    slowest, fastest = 60.0 / RATE_BPM[0], 60.0 / RATE_BPM[1]
    if not fastest <= np.median(intervals) <= slowest:
        return 0.0
    longer = np.maximum(intervals[1:], intervals[:-1])
    return _score(float(np.mean(np.abs(np.diff(intervals)) > JUMP * longer)), JUMPS)


def eda_quality(data: Floats, sfreq: float) -> Quality:
    """Quality of one window of EDA.

    Parameters
    ----------
    data : (n_times, 2)
        Tonic and phasic EDA in uS; their sum is the cleaned signal.
    sfreq : float
        Hz.

    Returns
    -------
    Quality
        ``sqi`` is the share of samples that break no rule and are not near one that does, or the score of how smooth
        these are where that is less; 0 for a flat window.
    """
    clean = data.sum(axis=1)
    if np.ptp(clean) < FLAT_US:
        dead = "contact" if clean[0] < RANGE_US[0] else "flat"
        return Quality(0.0, (dead,))
    broken = (
        ("contact", clean < RANGE_US[0]),
        ("saturated", clean > RANGE_US[1]),
        ("motion", _too_fast(clean, sfreq)),
    )
    reach = round(SPREAD_S * sfreq)
    spread = [(name, _widened(rule, reach)) for name, rule in broken]
    problems = tuple(name for name, rule in spread if rule.mean() >= PROBLEM_SHARE)
    bad = np.logical_or.reduce([rule for _, rule in spread])
    smooth = 1.0 if bad.all() else _score(_roughness(clean, sfreq, ~bad), ROUGH)
    return Quality(min(float(1.0 - bad.mean()), smooth), (*problems, *(("noise",) if smooth < 0.5 else ())))


def _roughness(clean: Floats, sfreq: float, used: Bools) -> float:
    """RMS of the quick part of the signal, (n_times,), over that of all but its line; of the used samples."""
    side = round(SMOOTH_S * sfreq / 2)
    mean = np.convolve(np.pad(clean, side, mode="edge"), np.full(2 * side + 1, 1.0 / (2 * side + 1)), mode="valid")
    quick, moving = (float(np.std(x[used])) for x in (clean - mean, clean - _line(clean)))
    return quick / (moving + QUIET_US)


def _line(x: Floats) -> Floats:
    """The straight line nearest to the signal, (n_times,)."""
    at = np.arange(len(x)) - 0.5 * (len(x) - 1)
    return np.asarray(x.mean() + at * (at @ x / (at @ at)))


def _too_fast(clean: Floats, sfreq: float) -> Bools:
    """Where the signal, (n_times,), changes faster than skin can."""
    second = round(sfreq)
    broken: Bools = np.abs(np.diff(clean, prepend=clean[0])) * sfreq > SLOPE_US_S
    broken[second:] |= clean[second:] < (1.0 - FALL_SHARE) * clean[:-second]
    return broken


def _widened(mask: Bools, reach: int) -> Bools:
    """True within ``reach`` samples of a True, (n_times,)."""
    hits = np.concatenate([[0], np.cumsum(mask)])
    at = np.arange(len(mask))
    return np.asarray(hits[np.minimum(at + reach + 1, len(mask))] > hits[np.maximum(at - reach, 0)])
