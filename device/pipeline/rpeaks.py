"""R peaks of a streamed, filtered ECG, each given out after a bounded delay, and the heart rate they give.

Knows nothing of sensors, of windows or of annotations, and never looks across a gap.

After Pan & Tompkins (1985, IEEE Trans Biomed Eng 32:230) and Hamilton (2002, Computers in Cardiology 29:101): the tops
of a QRS envelope are judged against running medians of beats and of noise, with their T-wave rule and their
search-back. As a delay is allowed, a candidate is judged when the candidates of the next ``LOOKAHEAD_S`` are known, so
that the search-back needs no timer and every decision depends on absolute positions alone: bit-equal for any cut.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile
from statistics import median

import numpy as np

from device.pipeline.qrs import Candidate, Candidates
from device.pipeline.types import Chunk

T_WAVE_S = 0.42
"""A blunt deflection this soon after a beat is its T wave; 60 ms above Pan & Tompkins' figure, for long QT."""
T_WAVE_SHARPNESS = 0.5
"""Blunt: less than this share of the beat's own sharpness (Pan & Tompkins: half the slope)."""
SEARCH_BACK_S = 0.36
"""A weak candidate sooner than this after a beat, or before the next one, is not looked at again."""
LOOKAHEAD_S = 1.5
"""Candidates of this stretch are known when one is judged; two thirds of a pause at 27 beats per minute."""
THRESHOLD = 0.4
"""A beat's height, as a share of the way from the noise level to the beat level."""
WEAK = 0.35
"""A weak candidate reaches this share of the threshold (Pan & Tompkins: half)."""
LONG_RR = 1.7
"""An interval longer than this many usual ones hides a beat (Pan & Tompkins: 1.66)."""
DECAY_AFTER_RR = 2.0
"""After this many usual intervals without a beat the threshold begins to fall: the amplitude has changed."""
DECAY_S = 1.0
"""It then halves this often."""
MEMORY = 8
"""Beats, noise tops and intervals remembered (Hamilton 2002)."""
OUTLIER = 3.0
"""A beat counts as at most this many times the level, so that a burst does not deafen the detector."""
FILTER_DELAY_S = 0.006
"""The band-pass before (0.5-40 Hz, order 2) delays a QRS (10-25 Hz) by 5.0-7.1 ms; not taken off the peaks here."""
USUAL_RR_S = 1.0
"""Usual interval before any is known."""
LONGEST_RR_S = 2.0
"""A longer interval is remembered as this: a pause says little about the next beat."""
EARLIER = 1.2
"""Of two deflections of opposite sign the earlier wins unless the later is this much larger: R before a deep S."""
POLARITY_MEMORY = 0.125
"""Weight of a new beat in the running height of either sign, and of that height twice in the choice of sign."""


@dataclass(frozen=True, slots=True)
class RPeak:
    """One R peak (or the QRS's main deflection, where it points down)."""

    index: int
    """Sample on the index axis of the chunks."""
    offset: float
    """Where between samples the top lies, -0.5..0.5 samples from ``index``."""

    @property
    def position(self) -> float:
        """Index and offset in one number."""
        return self.index + self.offset


class _Judge:
    """Decides, in order, which candidates of one gapless run are beats. Remembers levels; sees no samples."""

    def __init__(self, sfreq: float) -> None:
        self._sfreq = sfreq
        self._t_wave = round(T_WAVE_S * sfreq)
        self._apart = round(SEARCH_BACK_S * sfreq)
        self._beats: deque[float] = deque(maxlen=MEMORY)
        self._noise: deque[float] = deque(maxlen=MEMORY)
        self._intervals: deque[float] = deque(maxlen=MEMORY)
        self._last: Candidate | None = None

    def learn(self, candidates: Iterable[Candidate]) -> None:
        """Start from the tallest candidate of the first stretch; true beats soon outvote it if it was none."""
        self._beats.append(max(c.height for c in candidates))

    def is_beat(self, c: Candidate, later: list[Candidate], horizon: int) -> bool:
        """Judge ``c``, knowing the candidates ``later`` up to the sample ``horizon``."""
        silence = self._silence(c)
        threshold = self._threshold() * math.exp2(-silence)
        if c.height >= threshold:
            beat = not self._is_t_wave(c)
        else:
            beat = c.height >= WEAK * threshold and self._is_missing(c, later, horizon, threshold)
        if beat and silence > 0.0 and c.height < self._threshold():
            self._beats.clear()  # the amplitude has changed: what was learnt holds no more
            self._noise.clear()
        self._remember(c, beat)
        return beat

    def _usual(self) -> float:
        return median(self._intervals) if self._intervals else USUAL_RR_S * self._sfreq

    def _silence(self, c: Candidate) -> float:
        """How far beyond any likely interval ``c`` is, in units of DECAY_S."""
        if self._last is None:
            return 0.0
        silent = c.index - self._last.index - DECAY_AFTER_RR * self._usual()
        return max(0.0, silent / (DECAY_S * self._sfreq))

    def _threshold(self) -> float:
        beat, noise = median(self._beats), median(self._noise) if self._noise else 0.0
        return noise + THRESHOLD * max(0.0, beat - noise)

    def _is_t_wave(self, c: Candidate) -> bool:
        last = self._last
        if last is None or c.index - last.index >= self._t_wave:
            return False
        return c.sharpness < T_WAVE_SHARPNESS * last.sharpness

    def _is_missing(self, c: Candidate, later: list[Candidate], horizon: int, threshold: float) -> bool:
        """Whether ``c`` is the tallest weak candidate in an interval that is too long to be one."""
        if self._last is None or c.index - self._last.index < self._apart:
            return False
        after = next((other.index for other in later if other.height >= threshold), horizon)
        longest = LONG_RR * self._usual()
        if after - self._last.index <= longest:
            return False
        end = min(after - self._apart, self._last.index + 1.1 * longest)
        rivals = takewhile(lambda other: other.index <= end, later)
        return c.index <= end and all(other.height < c.height for other in rivals)

    def _remember(self, c: Candidate, beat: bool) -> None:
        if not beat:
            self._noise.append(c.height)
            return
        if self._last is not None:
            self._intervals.append(min(c.index - self._last.index, LONGEST_RR_S * self._sfreq))
        self._beats.append(min(c.height, OUTLIER * median(self._beats)) if self._beats else c.height)
        self._last = c


class _Fiducial:
    """Picks the sample that stands for a beat: the same deflection, up or down, from beat to beat."""

    def __init__(self) -> None:
        self._up: float | None = None
        self._down = 0.0

    def of(self, c: Candidate) -> RPeak:
        """The R peak of a beat."""
        if self._up is None:
            self._up, self._down = c.up.height, c.down.height
        self._up += POLARITY_MEMORY * (c.up.height - self._up)
        self._down += POLARITY_MEMORY * (c.down.height - self._down)
        up, down = c.up.height + 2.0 * self._up, c.down.height + 2.0 * self._down
        points_up = EARLIER * up >= down if c.up.index < c.down.index else up >= EARLIER * down
        chosen = c.up if points_up else c.down
        return RPeak(chosen.index, chosen.offset)


class RPeakDetector:
    """R peaks of one streamed ECG lead.

    Parameters
    ----------
    sfreq : float
        Rate of the chunks in Hz, 100 or more for good locations (128 here).

    The peaks are those of the signal given, ``FILTER_DELAY_S`` after those of the raw one.
    """

    def __init__(self, sfreq: float) -> None:
        self._find = Candidates(sfreq)
        self._sfreq = sfreq
        self._lookahead = round(LOOKAHEAD_S * sfreq)
        self._most = self._lookahead // self._find.reach + 1
        self.delay = self._lookahead + self._find.reach + self._find.before
        """Samples from a beat to its decision at the latest."""
        self.settled = 0
        """Every R peak with index < settled has been given out; no later peak of this run will be before it."""
        self._stop: int | None = None

    def push(self, chunk: Chunk) -> list[RPeak]:
        """Filtered ECG, (n_times, 1), to the R peaks that are now certain, in order.

        A chunk that does not continue the last one ends that run (whose last peaks come out now) and begins another.
        """
        if not len(chunk.data):
            return []
        ended = []
        if chunk.start != self._stop:
            ended = self.flush()
            self._restart(chunk.start, float(chunk.data[0, 0]))
        self._stop = chunk.stop
        self._pending += self._find.push(chunk.data[:, 0])
        peaks = self._judge(chunk.stop - self._find.reach - 1)
        self.settled = max(self._start, chunk.stop - self.delay)
        return ended + peaks

    def flush(self) -> list[RPeak]:
        """End the run: the peaks of its last ``delay`` samples, judged by what is known."""
        if self._stop is None:
            return []
        stop, self._stop = self._stop, None
        self._pending += self._find.finish()
        peaks = self._judge(stop + self._lookahead, stop)
        self.settled = stop
        return peaks

    def _restart(self, start: int, first: float) -> None:
        self._start, self._pending = start, list[Candidate]()
        self._find.restart(start, first)
        self._decide, self._fiducial, self._last = _Judge(self._sfreq), _Fiducial(), start - self._find.reach
        self._learnt = False

    def _judge(self, known: int, stop: int | None = None) -> list[RPeak]:
        """Judge every candidate whose lookahead is known; all candidates up to ``known`` are pending or judged."""
        peaks = []
        n = 0
        while n < len(self._pending) and self._pending[n].index + self._lookahead <= known:
            c = self._pending[n]
            n += 1
            horizon = c.index + self._lookahead
            later = [other for other in self._pending[n : n + self._most] if other.index <= horizon]
            if not self._learnt:
                self._learnt = True
                self._decide.learn([c, *later])
            if self._decide.is_beat(c, later, horizon):
                peaks += self._accept(self._fiducial.of(c), stop)
        del self._pending[:n]
        return peaks

    def _accept(self, peak: RPeak, stop: int | None) -> list[RPeak]:
        """Keep the promises: peaks lie in the run, in order and apart."""
        apart = peak.index - self._last >= self._find.reach
        inside = self._start <= peak.index and (stop is None or peak.index < stop)
        if not (apart and inside):
            return []
        self._last = peak.index
        return [peak]


class HeartRate:
    """Adds the heart rate to the ECG: (n_times, 1) chunks in, (n_times, 2) chunks ``ecg`` mV, ``hr`` 1/min out.

    ``hr[k]`` is 60 s over the interval between the last two R peaks at or before sample k, held until the next one;
    0 and not valid before there are two. What comes out lags by the detector's constant ``delay``.
    """

    def __init__(self, sfreq: float) -> None:
        self._sfreq = sfreq
        self._detector = RPeakDetector(sfreq)
        self._held: list[Chunk] = []
        self._stop: int | None = None
        self._due: deque[RPeak] = deque()
        self.peaks: tuple[RPeak, ...] = ()
        """R peaks that the latest ``push`` or ``flush`` gave out."""
        self._forget()

    @property
    def delay(self) -> int:
        """Samples by which the output lags."""
        return self._detector.delay

    def push(self, chunk: Chunk) -> list[Chunk]:
        """Take filtered ECG, (n_times, 1); give out what is settled."""
        ended, peaks = list[Chunk](), tuple[RPeak, ...]()
        if chunk.start != self._stop:
            ended = self.flush()
            peaks = self.peaks
        self._stop = chunk.stop
        self._held.append(chunk)
        return ended + self._release(self._detector.push(chunk), peaks)

    def flush(self) -> list[Chunk]:
        """End of the run or the recording: give out what is held."""
        out = self._release(self._detector.flush(), ())
        self._stop = None
        self._forget()
        return out

    def _forget(self) -> None:
        self._last: RPeak | None = None
        self._rate = 0.0

    def _release(self, found: list[RPeak], before: tuple[RPeak, ...]) -> list[Chunk]:
        self.peaks = (*before, *found)
        self._due.extend(found)
        out = []
        while self._held and self._held[0].start < self._detector.settled:
            chunk = self._held.pop(0)
            if chunk.stop > self._detector.settled:
                chunk, rest = chunk.cut(self._detector.settled)
                self._held.insert(0, rest)
            out.append(self._with_rate(chunk))
        return _joined(out)

    def _with_rate(self, chunk: Chunk) -> Chunk:
        rate = np.empty(len(chunk.data))
        filled = 0
        while self._due and self._due[0].index < chunk.stop:
            peak = self._due.popleft()
            at = peak.index - chunk.start
            rate[filled:at] = self._rate
            filled = at
            if self._last is not None:
                self._rate = 60.0 * self._sfreq / (peak.position - self._last.position)
            self._last = peak
        rate[filled:] = self._rate
        data = np.column_stack([chunk.data[:, 0], rate])
        return Chunk(chunk.modality, chunk.start, data, chunk.valid & (rate > 0.0), chunk.clock)


def _joined(chunks: list[Chunk]) -> list[Chunk]:
    """Neighbours on one clock as one chunk."""
    if len({chunk.clock for chunk in chunks}) != 1:
        return chunks
    data = np.concatenate([chunk.data for chunk in chunks])
    valid = np.concatenate([chunk.valid for chunk in chunks])
    return [Chunk(chunks[0].modality, chunks[0].start, data, valid, chunks[0].clock)]
