"""What affectd-pair judges a sensor by: the daemon's own pipeline, for rate, loss, quality and heart rate.

It knows nothing of radios or of the command line.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import msgspec
import numpy as np

from device.pipeline.assemble import Assembler
from device.pipeline.errors import PipelineError
from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import default_spec
from device.pipeline.types import Chunk, Window
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.pair.assess import Report

WINDOW_S = 10.0
"""Judged at a time: enough beats for a template, and 30 s still hold several windows. (Predictions use longer ones.)"""
STRIDE_S = 5.0
KEPT_S = 60.0
"""Raw samples kept for plots."""
SETTLE_NS = 3_000_000_000
"""The first packets may have waited for the subscription, and then come all at once."""
STALE_S = 6.0
"""A heart rate whose last beat is longer ago is none: two pauses of 3 s, the longest that quality allows."""


class PipelineAssessor:
    """One stream, through the pipeline as far as its windows: the Assessor of affectd-pair."""

    def __init__(self, info: StreamInfo) -> None:
        self._info = info
        self._assembler = Assembler(info)
        self._pipeline = _pipeline(info)
        self._quality = _Tally(info.modality)
        self._raw: deque[Chunk] = deque()
        self._begun_ns = 0
        self._first: tuple[int, int] | None = None
        self._last_ns = 0
        self._beat: tuple[float, float] | None = None

    def push(self, packet: Packet, host_ns: int) -> None:
        """Take one packet."""
        for chunk in self._assembler.push(packet, host_ns):
            self._raw.append(chunk)
            self._last_ns = host_ns
            self._begun_ns = self._begun_ns or host_ns
            if self._first is None and host_ns - self._begun_ns >= SETTLE_NS:
                stats = self._assembler.stats
                self._first = host_ns, stats.samples + stats.lost_samples
            for clean in self._pipeline.clean(chunk) if self._pipeline else ():
                self._note_beat(clean)
                self._quality.add(self._pipeline.join(clean) if self._pipeline else ())
        while self._raw and self._raw[0].stop < self._raw[-1].stop - KEPT_S * self._info.sfreq:
            self._raw.popleft()

    def _note_beat(self, clean: Chunk) -> None:
        """The heart rate, and when it last changed; every beat changes it."""
        if self._info.modality != "ecg" or not clean.valid.any():
            return
        rate = clean.data[:, 1]
        before = self._beat[0] if self._beat else 0.0
        changed = np.flatnonzero(np.diff(rate, prepend=before) != 0.0)
        if len(changed):
            self._beat = float(rate[-1]), float(clean.times()[changed[-1]])

    def report(self) -> Report:
        """On everything so far."""
        stats = self._assembler.stats
        return Report(
            samples=stats.samples,
            lost=stats.lost_samples,
            gaps=stats.gaps,
            duplicates=stats.duplicates,
            resets=stats.resets,
            sfreq=stats.sfreq,
            arriving=self._arriving(),
            good=self._quality.good,
            problems=tuple(name for name, _ in self._quality.problems.most_common()),
            heart_rate=self._heart_rate(),
            level=self._level(),
        )

    def _arriving(self) -> float | None:
        """Since it has settled; that packet's own samples were measured before it came, and do not count."""
        if self._first is None or self._last_ns <= self._first[0]:
            return None
        stats = self._assembler.stats
        samples = stats.samples + stats.lost_samples - self._first[1]
        return samples / ((self._last_ns - self._first[0]) * 1e-9)

    def _heart_rate(self) -> float | None:
        if self._beat is None or self._beat[0] <= 0.0:
            return None
        rate, since = self._beat
        return rate if float(self._raw[-1].times()[-1]) - since <= STALE_S else None

    def _level(self) -> float | None:
        if not self._raw or not self._raw[-1].valid[-1]:
            return None
        return float(self._raw[-1].data[-1, 0])

    def recent(self, seconds: float) -> Sequence[float]:
        """The newest raw samples of the first channel; NaN for lost and saturated ones."""
        if not self._raw:
            return []
        stop = self._raw[-1].stop
        start = max(self._raw[0].start, stop - round(seconds * self._info.sfreq))
        out = np.full(stop - start, np.nan)
        for chunk in self._raw:
            if chunk.stop > start:
                values = np.where(chunk.valid, chunk.data[:, 0], np.nan)
                out[max(chunk.start, start) - start : chunk.stop - start] = values[max(0, start - chunk.start) :]
        return [float(value) for value in out]


class _Tally:
    """Counts good and bad windows."""

    def __init__(self, modality: str) -> None:
        self._modality = modality
        self._judged = 0
        self._good = 0
        self.problems: Counter[str] = Counter()

    @property
    def good(self) -> float | None:
        """Share of good windows; None: none yet."""
        return self._good / self._judged if self._judged else None

    def add(self, windows: Sequence[Window]) -> None:
        """A window with a gap is bad, one in the warm-up is none."""
        for window in windows:
            quality, missing = window.quality.get(self._modality), window.missing.get(self._modality)
            if missing == "warming_up":
                continue
            self._judged += 1
            if quality is not None and quality.sqi >= default_spec().sqi_min:
                self._good += 1
            else:
                self.problems.update(quality.problems if quality else [str(missing)])


def _pipeline(info: StreamInfo) -> Pipeline | None:
    """None where the stream's rate cannot carry the band, and nothing can be judged."""
    spec = msgspec.structs.replace(default_spec(), window_s=WINDOW_S, stride_s=STRIDE_S)
    try:
        return Pipeline(spec, {info.modality: info.sfreq})
    except PipelineError:
        return None
