"""Cuts windows on the host-time grid and joins the modalities; names with its reason a modality that is missing.

Knows nothing of filters or of the network. No window spans a gap; the context before a window ends at one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from device.pipeline.spec import SignalSpec
from device.pipeline.types import Bools, Chunk, Floats, Quality, Window

SETTLE_S = 10.0
"""Beyond the filter's own warm-up, the longest time granted to the heart rate to find its first beats, s."""

QualityOf = Callable[[Floats, float], Quality]
"""(n_times, n_chans) data and sfreq in Hz to Quality."""


@dataclass(slots=True)
class _Segment:
    """An uninterrupted stretch of one modality; positions are indices on the model's grid."""

    start: int
    stop: int
    settled_at_last: int
    """From here on an invalid sample is no longer warm-up."""
    ready: int | None = None
    """First valid sample, once seen."""
    chunks: deque[Chunk] = field(default_factory=deque)

    def push(self, chunk: Chunk) -> None:
        if self.ready is None and chunk.valid.any():
            self.ready = chunk.start + int(np.argmax(chunk.valid))
        self.chunks.append(chunk)
        self.stop = chunk.stop

    @property
    def settled(self) -> int:
        """First sample a window may begin with."""
        return self.settled_at_last if self.ready is None else min(self.ready, self.settled_at_last)

    def between(self, start: int, stop: int) -> tuple[Floats, Bools]:
        """Data (n_times, n_chans) and validity (n_times,) of a stretch that lies inside."""
        chunks = [c for c in self.chunks if c.start < stop and start < c.stop]
        inside = slice(start - chunks[0].start, stop - chunks[0].start)
        return np.concatenate([c.data for c in chunks])[inside], np.concatenate([c.valid for c in chunks])[inside]

    def drop_before(self, index: int) -> None:
        while self.chunks and self.chunks[0].stop <= index:
            self.chunks.popleft()


class Joiner:
    """Chunks of all modalities in, on the model's grid; windows out, in order."""

    def __init__(self, spec: SignalSpec, modalities: Iterable[str], quality: Mapping[str, QualityOf]) -> None:
        self.spec = spec
        self._quality = quality
        self._segments: dict[str, list[_Segment]] = {modality: [] for modality in modalities}
        self._first: dict[str, _Segment] = {}
        self._next: int | None = None

    def push(self, chunk: Chunk) -> list[Window]:
        """Take one chunk at the model's rate; give out the windows that are now certain."""
        segments = self._segments[chunk.modality]
        if not segments or chunk.start != segments[-1].stop:
            segments.append(self._begin(chunk))
        segments[-1].push(chunk)
        if self._next is None:
            start = chunk.start / self.spec.of(chunk.modality).sfreq
            self._next = math.floor((start - self.spec.window_s) / self.spec.stride_s) + 1
        return self._due(self.spec.join_wait_s)

    def flush(self) -> list[Window]:
        """At the end of a recording: the windows some modality still covers to their end."""
        return self._due(0.0)

    def _begin(self, chunk: Chunk) -> _Segment:
        part = self.spec.of(chunk.modality)
        settle = round((part.warmup_s + SETTLE_S) * part.sfreq)
        segment = _Segment(chunk.start, chunk.start, chunk.start + settle)
        self._first.setdefault(chunk.modality, segment)
        return segment

    def _due(self, wait_s: float) -> list[Window]:
        windows: list[Window] = []
        while self._next is not None and self._is_due(self._next, wait_s):
            if self._is_touched(self._next):
                windows.append(self._window(self._next))
            self._next += 1
            self._drop_before(self._next)
        return windows

    def _is_due(self, index: int, wait_s: float) -> bool:
        """Everyone has passed the window's end, or someone has waited long enough."""
        end = index * self.spec.stride_s + self.spec.window_s
        heads = [s[-1].stop / self.spec.of(m).sfreq if s else -math.inf for m, s in self._segments.items()]
        return min(heads) >= end or max(heads) >= end + wait_s

    def _span(self, modality: str, index: int) -> tuple[int, int]:
        start = round(index * self.spec.stride_s * self.spec.of(modality).sfreq)
        return start, start + self.spec.n_window(modality)

    def _is_touched(self, index: int) -> bool:
        """Whether any sensor was there at all; silence of all of them makes no windows."""
        spans = ((self._span(m, index), s) for m, segments in self._segments.items() for s in segments)
        return any(segment.start < stop and start < segment.stop for (start, stop), segment in spans)

    def _window(self, index: int) -> Window:
        data: dict[str, Floats] = {}
        quality: dict[str, Quality] = {}
        missing: dict[str, str] = {}
        for modality in self._segments:
            start, stop = self._span(modality, index)
            segment = self._covering(modality, start, stop)
            if segment is None:
                missing[modality] = self._why_missing(modality, start)
            else:
                data[modality], quality[modality] = self._cut(segment, modality, start, stop)
        return Window(index, index * self.spec.stride_s, data, quality, missing)

    def _covering(self, modality: str, start: int, stop: int) -> _Segment | None:
        for segment in self._segments[modality]:
            if segment.settled <= start and stop <= segment.stop:
                return segment
        return None

    def _why_missing(self, modality: str, start: int) -> str:
        """``warming_up`` until the stream's first segment has settled, ``gap`` ever after."""
        first = self._first.get(modality)
        return "warming_up" if first is None or start < first.settled else "gap"

    def _cut(self, segment: _Segment, modality: str, start: int, stop: int) -> tuple[Floats, Quality]:
        """Data and quality of a covered window; a sample that may not be used makes the quality 0."""
        data, valid = segment.between(start, stop)
        quality = self._quality[modality](data, self.spec.of(modality).sfreq)
        if not valid.all():
            quality = Quality(0.0, quality.problems or ("saturated",))
        n_context = self.spec.n_context(modality)
        return (np.concatenate([_context(segment, start, n_context), data]) if n_context else data), quality

    def _drop_before(self, index: int) -> None:
        for modality, segments in self._segments.items():
            start, _ = self._span(modality, index)
            for segment in segments:
                segment.drop_before(start - self.spec.n_context(modality))
            if segments:
                self._segments[modality] = [s for s in segments[:-1] if s.stop > start] + segments[-1:]


def _context(segment: _Segment, stop: int, n_times: int) -> Floats:
    """(n_times, n_chans) before ``stop``; the oldest usable sample also stands for all that came before it."""
    start = max(segment.settled, stop - n_times)
    data, valid = segment.between(start, stop + 1)  # one sample of the window, in case nothing is known before it
    unusable = np.flatnonzero(~valid[:-1])
    data = data[unusable[-1] + 1 :] if len(unusable) else data
    return np.concatenate([np.repeat(data[:1], n_times + 1 - len(data), axis=0), data[:-1]])
