"""Makes a resting baseline of the windows of a few minutes of rest, and says meanwhile what is wrong with them.

It knows no clock but the windows' own times, and nothing of sensors, files or sockets.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import chain

import msgspec
import numpy as np

from device.errors import BaselineError
from device.pipeline.model_input import baseline_of
from device.pipeline.quality import RANGE_US
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Window
from device.profile import Profile, fingerprint

REST_S = 180.0
"""A rest, unless another length is asked for: the figures of calibrated mode began with three minutes."""
REST_RANGE_S = (120.0, 300.0)
"""The evaluation law's resting baseline is 2-5 min; nobody has tested another."""
NEEDED_S = 90.0
"""Least good signal per modality: half of the usual rest. In 34 people of Stress-Predict the median heart rate of 90 s
of rest lies within 3.5 /min of that of 300 s, and the skin's level within a third, 19 times in 20."""
RESTLESS_BPM = 10.0
"""A heart rate that changes by more from the rest's beginning to its end is not at rest: in the same people's quiet
baselines, 3 min long, 19 of 20 changed by less than 8.6 /min."""
RESTLESS_TONIC = 1.5
"""Nor is a skin conductance level that changes by a larger factor: 19 of 20 changed by less than 1.52."""

_CURE = {
    "missing": "attach the {m} sensor, or take a baseline without it (`--allow`)",
    "gap": "bring the {m} sensor close; `affectd status` shows its losses",
    "warming_up": "wait until the {m} sensor streams: `affectd status` shows it",
    "contact": "wear the {m} sensor firmly, moisten its electrodes",
    "flat": "wear the {m} sensor firmly, moisten its electrodes",
    "motion": "sit still, with the arm supported",
    "noise": "sit still, moisten the electrodes",
}
_ANY_CURE = "check the {m} sensor, and rest once more"


def check_worn(modalities: Sequence[str], attached: Collection[str]) -> None:
    """Raise BaselineError where a modality has no sensor."""
    for modality in modalities:
        if modality not in attached:
            others = "".join(f", or take a baseline of {m} alone (`--allow {m}`)" for m in attached)
            raise BaselineError(modality, "there is no sensor of it", f"attach one{others}")


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rest is going, after one window."""

    elapsed_s: float
    """Of the rest, as far as windows tell: they come some seconds late."""
    rest_s: float
    good_s: dict[str, float]
    """Per modality: seconds of the rest that lie in a window of sufficient quality."""
    problems: dict[str, tuple[str, ...]]
    """Per modality that the newest window cannot use: why it is missing, or its quality's problems."""
    warnings: tuple[str, ...]
    """Why this may be no rest, for people."""
    done: bool
    """Whether the last window of the rest has come."""


class BaselineRecorder:
    """Windows in, Progress out; at the end a Profile.

    Parameters
    ----------
    spec : SignalSpec
        The windows' own.
    modalities : sequence of str
        Which the baseline shall serve; each needs ``NEEDED_S`` of good signal.
    rest_s : float
        Length of the rest in s, within ``REST_RANGE_S``. BaselineError for another.
    begin : float, optional
        Host time in s of the rest's beginning; without it the rest begins with the first window that all the
        modalities cover well, as in training.
    """

    def __init__(
        self,
        spec: SignalSpec,
        modalities: Sequence[str] = MODALITIES,
        *,
        rest_s: float = REST_S,
        begin: float | None = None,
    ) -> None:
        low, high = max(REST_RANGE_S[0], spec.window_s), REST_RANGE_S[1]
        if not low <= rest_s <= high:
            reason = f"a rest of {rest_s:g} s where {low:g} to {high:g} s are possible"
            raise BaselineError("", reason, "choose another length")
        self.modalities = tuple(m for m in MODALITIES if m in modalities)
        self.rest_s = rest_s
        self._spec = spec
        self._begin = begin
        self._windows: list[Window] = []
        self._bad: dict[str, Counter[str]] = {m: Counter() for m in self.modalities}
        """Problems of the rest's windows, and of those before a rest that has not begun."""
        self._done = False

    def begun(self) -> Progress:
        """How the rest is going before any window has come."""
        return self._progress(0.0, dict.fromkeys(self.modalities, ("waiting",)))

    def push(self, window: Window) -> Progress:
        """Take one window; those that do not lie wholly inside the rest are only looked at."""
        if self._begin is None and all(window.is_good(m, self._spec.sqi_min) for m in self.modalities):
            self._begin = window.start
        problems = {m: self._problems(window, m) for m in self.modalities if not window.is_good(m, self._spec.sqi_min)}
        if self._begin is None or self._is_inside(window, self._begin):
            for modality, names in problems.items():
                self._bad[modality].update(names)
        if self._begin is not None:
            if self._is_inside(window, self._begin):
                self._windows.append(window)
            next_stop = window.start + self._spec.stride_s + self._spec.window_s
            self._done = self._done or next_stop > self._begin + self.rest_s
        elapsed_s = 0.0 if self._begin is None else window.start + self._spec.window_s - self._begin
        return self._progress(elapsed_s, problems)

    def _is_inside(self, window: Window, begin: float) -> bool:
        return window.start >= begin and window.start + self._spec.window_s <= begin + self.rest_s

    def profile(self, created: datetime, person: str | None = None) -> Profile:
        """The profile of the rest; raises BaselineError where it is not over or held too little good signal."""
        self._check()
        return Profile(
            person=person,
            created=created,
            fingerprint=fingerprint(self._spec),
            modalities=self.modalities,
            rest_s=self.rest_s,
            sqi={m: float(np.median(self._sqis(m))) for m in self.modalities},
            baseline=baseline_of(self._windows, self._spec, self.modalities),
        )

    def _check(self) -> None:
        if self._begin is None:
            raise self._too_little(max(self.modalities, key=lambda m: self._bad[m].total()))
        if not self._done:
            raise BaselineError("", f"the signal ends before {self.rest_s:g} s of rest are over", "rest once more")
        for modality in self.modalities:
            if self._good_s(modality) < NEEDED_S:
                raise self._too_little(modality)

    def _too_little(self, modality: str) -> BaselineError:
        good_s, (problem, _) = self._good_s(modality), (*self._bad[modality].most_common(1), ("", 0))[0]
        reason = f"{good_s:g} s of good {modality} in {self.rest_s:g} s of rest, {NEEDED_S:g} s are needed"
        reason += f"; mostly {problem.replace('_', ' ')}" if problem else ""
        return BaselineError(modality, reason, _CURE.get(problem, _ANY_CURE).format(m=modality))

    def _progress(self, elapsed_s: float, problems: Mapping[str, tuple[str, ...]]) -> Progress:
        return Progress(
            elapsed_s=min(max(elapsed_s, 0.0), self.rest_s),
            rest_s=self.rest_s,
            good_s={m: self._good_s(m) for m in self.modalities},
            problems=dict(problems),
            warnings=tuple(chain.from_iterable(self._restless(m) for m in self.modalities)),
            done=self._done,
        )

    def _problems(self, window: Window, modality: str) -> tuple[str, ...]:
        if modality in window.data:
            return window.quality[modality].problems or ("quality",)
        return (window.missing.get(modality, "missing"),)

    def _good(self, modality: str) -> list[Window]:
        return [window for window in self._windows if window.is_good(modality, self._spec.sqi_min)]

    def _good_s(self, modality: str) -> float:
        """Seconds that good windows cover; they overlap."""
        total, covered_to = 0.0, -math.inf
        for window in self._good(modality):
            stop = window.start + self._spec.window_s
            total += min(self._spec.window_s, stop - covered_to)
            covered_to = stop
        return total

    def _sqis(self, modality: str) -> list[float]:
        return [w.quality[modality].sqi for w in self._windows if modality in w.data]

    def _restless(self, modality: str) -> list[str]:
        """What speaks against a rest: the first good window against the last one."""
        good = self._good(modality)
        if not good:
            return []
        channel = {"ecg": "hr", "eda": "tonic"}[modality]
        first, last = (self._median(window, modality, channel) for window in (good[0], good[-1]))
        way = "rose" if last > first else "fell"
        if channel == "hr" and abs(last - first) > RESTLESS_BPM:
            return [f"not at rest: the heart rate {way} from {first:.0f} to {last:.0f} /min"]
        low, high = sorted(max(level, RANGE_US[0]) for level in (first, last))
        if channel == "tonic" and high > RESTLESS_TONIC * low:
            return [f"not at rest: the skin conductance {way} from {first:.2g} to {last:.2g} uS"]
        return []

    def _median(self, window: Window, modality: str, channel: str) -> float:
        """Of a channel over the window alone, without the context before it."""
        samples = window.data[modality][-self._spec.n_window(modality) :]
        return float(np.median(samples[:, self._spec.ch_names(modality).index(channel)]))
