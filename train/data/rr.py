"""Beat times and RR intervals from a wrist pulse (BVP), helped by the E4's own beats (IBI); artefacts bridged, flagged.

Knows nothing of ECG. It prepares a data set offline and looks at the whole recording: nothing here runs on the device.

1. The pulse is band-passed (zero phase) and differentiated; each steep rise is a candidate, timed between samples by a
   parabola on the slope (the steepest point varies less than the broad peak).
2. The local period comes from the slope's autocorrelation, followed through time by the best path.
3. One path through the candidates keeps to that period and to strong rises, so that dicrotic notches and bursts drop
   out.
4. An interval is kept where the pulses at both its ends look like those around them or the E4 confirms it, and where
   it does not jump against its neighbours. All else is bridged: as many beats as the neighbouring period asks for,
   intervals changing evenly but for a variability borrowed from the same person's measured beats of other times.
   Bridged heart rate is about right; bridged variability is typical of the person and says nothing of the moment. (A
   smooth bridge would say something: movement makes bridges, and movement goes with tasks.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from train.data.errors import BeatsError
from train.data.types import Annotation, Floats, Recording, Signal

Bools = npt.NDArray[np.bool_]

PULSE_BAND_HZ = (0.5, 8.0)
"""Holds the pulse and the harmonics that make its rise steep; below is wander, above is noise."""
FILTER_ORDER = 3
RR_RANGE_S = (0.33, 1.6)
"""Intervals of an adult who sits: 37 to 180 beats per minute."""
LEVEL_WINDOW_S = 8.0
"""About ten beats: the pulse's own size, followed as the band shifts on the skin."""
MIN_LEVEL = 0.02
"""Least local level as a share of the recording's: where the signal is all but flat, nothing is made large."""
TINY = 1e-9
"""Keeps a recording of zeros from being divided by zero."""
MIN_RISE = 0.25
"""A candidate rises at least this share of the local level; the dicrotic rise is often above it, noise mostly below."""
MAX_RISE = 1.5
"""A burst counts as no more than this many pulses."""
PERIOD_WINDOW_S, PERIOD_HOP_S = 10.0, 1.0
"""Autocorrelation over about 12 beats, once a second."""
HALF_WEIGHT = 0.3
"""Weight of the autocorrelation at half a lag beside that at the lag itself (free choice)."""
PERIOD_STEP_COST = 40.0
"""Cost of a change of log period by 1 per hop; a heart changes by about 2 % per second."""
TEMPO_COST = 12.0
"""Cost of an interval's squared log deviation from the period: 20 % off costs half a pulse."""
SKIP_COST = 0.8
"""Cost of each beat that a path leaves out: a little less than a pulse earns."""
MAX_SKIP = 8
"""A path may leave out up to this many beats; longer holes start it anew."""
SHAPE_S = (-0.15, 0.35)
"""Part of a pulse's slope that is compared, around its steepest point: the rise and the top, before the next rise."""
SHAPE_NEIGHBOURS = 15
"""A pulse is compared with the median of about this many around it."""
MIN_LIKENESS = 0.8
"""Correlation with that median below which a pulse is not trusted. Measured on Stress-Predict: from 0.95 up, intervals
differ from the E4's by a median of 6.5 ms (its grid is 15.6 ms), at 0.8 by 21 ms, below 0.5 by 90 ms."""
MAX_OFF_TEMPO = 0.5
"""An interval further off the local period holds a missed or an extra beat."""
MAX_JUMP = 0.22
"""Largest relative deviation from the median of the neighbours; breathing and ectopy at rest stay below."""
JUMP_NEIGHBOURS = 11
IBI_GRID_S = 1 / 64
"""Resolution of the E4's beats."""
CONFIRM_S = 0.06
"""An E4 beat (1/64 s grid) and a beat found here are the same when this close, after their common offset."""
MIN_BEATS = 30
"""Half a minute: less cannot say what is normal for this person."""


@dataclass(frozen=True, slots=True, eq=False)
class Beats:
    """Beat times of one recording and what of them is not measured."""

    times: Floats
    """(n_beats,) s from the recording's start, ascending."""
    bridged: Bools
    """(n_beats - 1,) True where the interval after a beat was put in, not measured."""

    @property
    def rr(self) -> Floats:
        """(n_beats - 1,) intervals in s."""
        return np.diff(self.times)

    @property
    def bridged_share(self) -> float:
        """Share of the time that is bridged."""
        return float(self.rr[self.bridged].sum() / self.rr.sum())

    def annotations(self) -> tuple[Annotation, ...]:
        """Each bridged stretch as an annotation ``bridged``."""
        edges = np.flatnonzero(np.diff(self.bridged.astype(int), prepend=0, append=0))
        runs = [(self.times[a], self.times[b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        return tuple(Annotation(float(a), float(b - a), "bridged") for a, b in runs)


def beats(recording: Recording) -> Beats:
    """Beats of a recording with ``bvp`` and perhaps ``ibi``, covering all of the pulse's time.

    Raises BeatsError where hardly any pulse is found.
    """
    bvp = recording.signals["bvp"]
    times, regular = pulse_beats(bvp)
    ibi = recording.signals.get("ibi")
    good = regular
    if ibi is not None and len(ibi.data) > MIN_BEATS and len(times) > MIN_BEATS:
        times, good = _confirmed(times, regular, ibi)
    good = good & ~jumps(np.diff(times), good)
    if good.sum() < MIN_BEATS:
        reason = f"only {int(good.sum())} regular intervals in {bvp.duration:.0f} s"
        raise BeatsError(f"{recording.dataset} {recording.subject}", "bvp", reason, "leave this subject out")
    return bridge(times, good, bvp.start, bvp.stop)


def pulse_beats(bvp: Signal) -> tuple[Floats, Bools]:
    """Beat times in s, and for each interval between them whether both its pulses are well formed (no IBI needed)."""
    slope = pulse_slope(bvp.data[:, 0], bvp.sfreq)
    at, height = _candidates(slope, bvp.sfreq)
    if len(at) < MIN_BEATS:
        return np.empty(0), np.empty(0, bool)
    centers, period = track_period(slope, bvp.sfreq)
    when = at / bvp.sfreq
    chosen = _best_path(when, height, np.interp(when, centers, period))
    times = when[chosen]
    middle = (times[1:] + times[:-1]) / 2
    expected, found = np.interp(middle, centers, period), np.diff(times)
    clear = likeness(slope, bvp.sfreq, times) >= MIN_LIKENESS
    return bvp.start + times, clear[1:] & clear[:-1] & (np.abs(found / expected - 1) <= MAX_OFF_TEMPO)


def likeness(slope: Floats, sfreq: float, times: Floats) -> Floats:
    """(n_beats,) correlation of each pulse's slope with the median pulse around it, -1..1."""
    grid = np.arange(round(SHAPE_S[0] * sfreq), round(SHAPE_S[1] * sfreq) + 1) / sfreq
    shapes = np.interp(times[:, None] + grid, np.arange(len(slope)) / sfreq, slope)
    shapes -= shapes.mean(axis=1, keepdims=True)
    around = ndimage.median_filter(shapes, size=(SHAPE_NEIGHBOURS, 1), mode="nearest")
    around -= around.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(shapes, axis=1) * np.linalg.norm(around, axis=1)
    return (shapes * around).sum(axis=1) / np.maximum(norm, 1e-12)


def pulse_slope(bvp: Floats, sfreq: float) -> Floats:
    """(n_times,) rise of the band-passed pulse, in units of the local pulse's own rise."""
    sos = signal.butter(FILTER_ORDER, PULSE_BAND_HZ, "bandpass", fs=sfreq, output="sos")
    slope = np.gradient(signal.sosfiltfilt(sos, bvp))
    size = round(LEVEL_WINDOW_S * sfreq)
    beat = round(RR_RANGE_S[1] * sfreq)
    rises = ndimage.maximum_filter1d(slope, beat)[:: beat // 4]
    level = ndimage.median_filter(rises, max(3, 4 * size // beat))
    level = np.interp(np.arange(len(slope)), np.arange(len(rises)) * (beat // 4), level)
    least = max(MIN_LEVEL * float(np.median(level)), TINY)
    return np.clip(slope / np.maximum(level, least), -MAX_RISE, MAX_RISE)


def _candidates(slope: Floats, sfreq: float) -> tuple[Floats, Floats]:
    """Positions (between samples) and heights of the steep rises."""
    at, found = signal.find_peaks(slope, height=MIN_RISE, distance=max(1, round(0.25 * sfreq)))
    inner = (at > 0) & (at < len(slope) - 1)
    at, height = at[inner], found["peak_heights"][inner]
    left, mid, right = slope[at - 1], slope[at], slope[at + 1]
    bend = left - 2 * mid + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1.0), 0.0)
    return at + np.clip(shift, -0.5, 0.5), height


def track_period(slope: Floats, sfreq: float) -> tuple[Floats, Floats]:
    """Centres in s and pulse period in s, once per hop."""
    size, hop = round(PERIOD_WINDOW_S * sfreq), round(PERIOD_HOP_S * sfreq)
    lags = np.arange(round(RR_RANGE_S[0] * sfreq), round(RR_RANGE_S[1] * sfreq) + 1)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(slope, size // 2), size)[: len(slope) : hop]
    acf = _autocorrelation(frames, lags[-1] + 1)
    # Half the lag should not repeat: twice the period, which repeats as well as the period, then loses against it.
    half = (acf[:, lags // 2] + acf[:, (lags + 1) // 2]) / 2
    score = acf[:, lags] - HALF_WEIGHT * half
    path = _smoothest(score, PERIOD_STEP_COST * np.abs(np.log(lags[:, None] / lags[None, :])))
    centers = np.arange(len(frames)) * hop / sfreq
    return centers, lags[path] / sfreq


def _autocorrelation(frames: Floats, n_lags: int) -> Floats:
    """(n_frames, n_lags), unbiased in length, 1 at lag 0."""
    size = frames.shape[1]
    centred = frames - frames.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, 2 * size)) ** 2
    acf = np.fft.irfft(power)[:, :n_lags] * (size / (size - np.arange(n_lags)))
    return acf / np.maximum(acf[:, :1], 1e-12)


def _smoothest(score: Floats, step_cost: Floats) -> npt.NDArray[np.intp]:
    """Path of highest total score minus step costs (Viterbi)."""
    total = score[0]
    back = np.empty(score.shape, np.intp)
    for k in range(1, len(score)):
        options = total[None, :] - step_cost
        back[k] = options.argmax(axis=1)
        total = options[np.arange(len(total)), back[k]] + score[k]
    path = np.empty(len(score), np.intp)
    path[-1] = total.argmax()
    for k in range(len(score) - 1, 0, -1):
        path[k - 1] = back[k, path[k]]
    return path


def _best_path(when: Floats, height: Floats, period: Floats) -> npt.NDArray[np.intp]:
    """Candidates that keep to the period best (dynamic programming over predecessors)."""
    total = height.copy()
    back = np.full(len(when), -1)
    low = np.searchsorted(when, when - (MAX_SKIP + 1) * period)
    high = np.searchsorted(when, when - RR_RANGE_S[0])
    for k in range(1, len(when)):
        if low[k] == high[k]:
            # Nothing within reach (a hole in the pulse): go on from the best end before it.
            if high[k]:
                back[k] = int(total[: high[k]].argmax())
                total[k] += total[back[k]]
            continue
        ratio = (when[k] - when[low[k] : high[k]]) / period[k]
        whole = np.maximum(np.rint(ratio), 1.0)
        gain = total[low[k] : high[k]] - TEMPO_COST * np.log(ratio / whole) ** 2 - SKIP_COST * (whole - 1)
        best = int(gain.argmax())
        if gain[best] > 0:
            total[k] += gain[best]
            back[k] = low[k] + best
    return _trace(back, total)


def _trace(back: npt.NDArray[np.intp], total: Floats) -> npt.NDArray[np.intp]:
    """Follow the best path back from its end."""
    path = [int(total.argmax())]
    while back[path[-1]] >= 0:
        path.append(int(back[path[-1]]))
    return np.array(path[::-1])


def interval_differences(times: Floats, ibi: Signal) -> Floats:
    """(n,) s: interval found here minus the E4's own, over E4 intervals whose two beats are neighbours here too."""
    theirs, chained = _aligned(times, ibi)
    which = _nearest(times, theirs)
    both = np.flatnonzero(chained[1:] & (np.diff(which) == 1)) + 1
    return times[which[both]] - times[which[both - 1]] - ibi.data[both, 1]


def _confirmed(times: Floats, regular: Bools, ibi: Signal) -> tuple[Floats, Bools]:
    """Beats with the E4's where one is missing here, and intervals good as before or because the E4 has the same."""
    theirs, chained = _aligned(times, ibi)
    merged = np.sort(np.concatenate([times, _missing(times, theirs, chained)]))
    which = _nearest(theirs, merged)
    hit = np.abs(theirs[which] - merged) <= CONFIRM_S
    same = hit[1:] & hit[:-1] & (np.diff(which) == 1) & chained[which[1:]]
    was = np.searchsorted(times, (merged[1:] + merged[:-1]) / 2) - 1
    return merged, regular[np.clip(was, 0, len(regular) - 1)] | same


def _aligned(times: Floats, ibi: Signal) -> tuple[Floats, Bools]:
    """The E4's beats moved by the common offset (it times the pulse's foot), and which of them end a whole interval."""
    theirs = ibi.times()
    theirs = theirs + np.median(times[_nearest(times, theirs)] - theirs)
    return theirs, np.concatenate([[False], np.abs(np.diff(theirs) - ibi.data[1:, 1]) < IBI_GRID_S])


def _missing(times: Floats, theirs: Floats, chained: Bools) -> Floats:
    """E4 beats inside a run of its own that are far from every beat found here."""
    inside = chained & np.append(chained[1:], False)
    return theirs[inside & (np.abs(times[_nearest(times, theirs)] - theirs) > RR_RANGE_S[0])]


def _nearest(sorted_times: Floats, wanted: Floats) -> npt.NDArray[np.intp]:
    """Index of the nearest of ``sorted_times`` for each wanted time."""
    at = np.clip(np.searchsorted(sorted_times, wanted), 1, len(sorted_times) - 1)
    return at - (wanted - sorted_times[at - 1] < sorted_times[at] - wanted)


def jumps(rr: Floats, good: Bools) -> Bools:
    """(n,) True for intervals that are implausible, or jump against the median of the good ones around."""
    plausible = (rr >= RR_RANGE_S[0]) & (rr <= RR_RANGE_S[1])
    kept = np.flatnonzero(good & plausible)
    if len(kept) < MIN_BEATS:
        return ~plausible
    around = np.interp(np.arange(len(rr)), kept, ndimage.median_filter(rr[kept], JUMP_NEIGHBOURS))
    return ~plausible | (np.abs(rr / around - 1) > MAX_JUMP)


def bridge(times: Floats, good: Bools, start: float, stop: float) -> Beats:
    """Keep the good intervals; fill all other time from ``start`` to ``stop``, flagged.

    ``times`` (n,) s, ``good`` (n - 1,). The beats at both ends of a good interval stay where they are.
    """
    edges = np.flatnonzero(np.diff(good.astype(int), prepend=0, append=0))
    runs = list(zip(edges[::2], edges[1::2], strict=True))
    rr = np.diff(times)
    borrowed = _Variability(rr[good])
    pieces: list[Floats] = []
    flags: list[Bools] = []
    for k, (a, b) in enumerate(runs):
        if k:
            before = (times[runs[k - 1][1]], _level(rr, good, runs[k - 1][1] - 1))
            filled = _between(before, (times[a], _level(rr, good, a)), borrowed)
        else:
            filled = times[a] - _away(times[a] - start, _level(rr, good, a), borrowed)[::-1]
        pieces += [filled, times[a : b + 1]]
        # One interval follows each beat put in, and one more leads from the run before to the first of them.
        flags += [np.ones(len(filled) + (k > 0), bool), np.zeros(b - a, bool)]
    last, period = times[runs[-1][1]], _level(rr, good, runs[-1][1] - 1)
    pieces.append(last + _away(stop - last, period, borrowed))
    flags.append(np.ones(len(pieces[-1]), bool))
    return Beats(np.concatenate(pieces), np.concatenate(flags))


class _Variability:
    """Relative deviations of a person's measured intervals from those around them, given out in their own order."""

    def __init__(self, rr: Floats) -> None:
        around = ndimage.median_filter(rr, min(JUMP_NEIGHBOURS, len(rr)), mode="nearest")
        self._deviations = np.clip(rr / around - 1.0, -MAX_JUMP, MAX_JUMP)
        self._next = len(rr) // 2

    def take(self, n: int) -> Floats:
        """(n,) factors around 1."""
        at = (self._next + np.arange(n)) % len(self._deviations)
        self._next += n
        return 1.0 + self._deviations[at]


def _level(rr: Floats, good: Bools, at: int) -> float:
    """Median of the good intervals within five of ``at``, s."""
    near = slice(max(0, at - 5), at + 6)
    return float(np.median(rr[near][good[near]]))


def _between(before: tuple[float, float], after: tuple[float, float], borrowed: _Variability) -> Floats:
    """Beats strictly between two (time, interval) ends."""
    span = after[0] - before[0]
    n = max(1, round(span / ((before[1] + after[1]) / 2)))
    steps = np.linspace(before[1], after[1], n) * borrowed.take(n)
    return before[0] + np.cumsum(steps)[:-1] * (span / steps.sum())


def _away(span: float, period: float, borrowed: _Variability) -> Floats:
    """Distances, below ``span``, of the beats that follow an end at about one ``period`` each."""
    steps = np.cumsum(period * borrowed.take(int(span / period) + 1))
    return steps[steps <= span]
