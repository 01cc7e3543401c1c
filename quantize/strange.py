"""Signals that no bundle should answer: what a real recording becomes when its sensors are off, swapped or others.

Knows nothing of how a bundle was made: each strange recording goes through the device's own pipeline and classifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfiltfilt

from device.inference import Classifier
from train.data import datasets
from train.data.surrogate import with_surrogate_ecg
from train.data.templates import default_templates
from train.data.types import Recording, Signal
from train.prepare import SURROGATE_SEED, windows_of

Floats = npt.NDArray[np.float64]
ECG_HZ, EDA_HZ = 130.0, 4.0
ECG_MV, EDA_US = 0.3, 1.0
"""Spread that a stranger is given: that of a usual signal, so that its size alone does not tell it."""
BREATHS_HZ = (0.1, 0.5)
"""Where breathing moves the pulse's amplitude."""


def _ecg(data: Floats) -> dict[str, Signal]:
    return {"ecg": Signal(data[:, None], ECG_HZ, "mV", ("ecg",))}


def _eda(data: Floats) -> dict[str, Signal]:
    return {"eda": Signal(data[:, None], EDA_HZ, "uS", ("eda",))}


def _at(signal: Signal, sfreq: float) -> Floats:
    """The first channel at another rate, a straight line between samples; gaps are bridged, nobody will see them."""
    x = signal.data[:, 0]
    known = np.isfinite(x)
    times = np.arange(int(len(x) / signal.sfreq * sfreq)) / sfreq
    return np.interp(times, np.flatnonzero(known) / signal.sfreq, x[known])


def _sized(x: Floats, spread: float, center: float = 0.0) -> Floats:
    return np.asarray(center + spread * (x - x.mean()) / max(float(x.std()), 1e-9))


def _n(recording: Recording, sfreq: float) -> int:
    return int(max(s.duration for s in recording.signals.values()) * sfreq)


def _breathing(recording: Recording) -> Floats:
    """A recorded chest's, or what breathing leaves in the pulse."""
    if "resp" in recording.signals:
        return _at(recording.signals["resp"], ECG_HZ)
    pulse = _at(recording.signals["bvp"], ECG_HZ)
    return np.asarray(sosfiltfilt(butter(2, BREATHS_HZ, "bandpass", fs=ECG_HZ, output="sos"), pulse))


def _length(signal: Signal) -> Signal:
    """The length of a vector, as one channel."""
    return replace(signal, data=np.linalg.norm(signal.data, axis=1, keepdims=True), ch_names=("length",))


_Make = Callable[[Recording, np.random.Generator], Mapping[str, Signal]]
KINDS: Mapping[str, tuple[tuple[str, ...], _Make]] = {
    "flat": ((), lambda r, _: _ecg(np.zeros(_n(r, ECG_HZ))) | _eda(np.full(_n(r, EDA_HZ), 2.0))),
    "noise": (
        (),
        lambda r, rng: _ecg(rng.normal(0, ECG_MV, _n(r, ECG_HZ))) | _eda(np.abs(rng.normal(3, EDA_US, _n(r, EDA_HZ)))),
    ),
    "ECG and EDA swapped": (
        ("ecg", "eda"),
        lambda r, _: (
            _ecg(_sized(_at(r.signals["eda"], ECG_HZ), ECG_MV))
            | _eda(_sized(_at(r.signals["ecg"], EDA_HZ), EDA_US, 4 * EDA_US))
        ),
    ),
    "pulse wave as ECG": (("bvp",), lambda r, _: _ecg(_sized(_at(r.signals["bvp"], ECG_HZ), ECG_MV))),
    "breathing as ECG": (("bvp",), lambda r, _: _ecg(_sized(_breathing(r), ECG_MV))),
    "movement as ECG": (("acc",), lambda r, _: _ecg(_sized(_at(_length(r.signals["acc"]), ECG_HZ), ECG_MV))),
    "movement as EDA": (("acc",), lambda r, _: _eda(_sized(_at(_length(r.signals["acc"]), EDA_HZ), EDA_US, 4.0))),
    "skin temperature as EDA": (("temp",), lambda r, _: _eda(_at(r.signals["temp"], EDA_HZ))),
    "pulse wave as EDA": (("bvp",), lambda r, _: _eda(_sized(_at(r.signals["bvp"], EDA_HZ), EDA_US, 4.0))),
}
"""What it is -> the signals it is made of, and how."""
ITSELF = "itself"
"""The recording as it is, beside which the others are read."""


def strange(recording: Recording, seed: int = 0) -> Iterator[tuple[str, Recording]]:
    """Every kind that can be made of a recording's signals."""
    rng = np.random.default_rng(seed)
    for kind, (needed, make) in KINDS.items():
        if set(needed) <= set(recording.signals):
            yield kind, replace(recording, signals=make(recording, rng), annotations=())


def with_ecg(recording: Recording) -> Recording:
    """A wrist's recording with the surrogate ECG that training would give it, its own signals kept."""
    if not datasets.needs_surrogate_ecg(recording):
        return recording
    made = with_surrogate_ecg(recording, default_templates(), SURROGATE_SEED)
    return replace(made, signals={**recording.signals, **made.signals})


def outcomes(classifier: Classifier, recording: Recording) -> Counter[str]:
    """Reason of every abstention, ``answered`` for the rest, over all windows of a recording that have begun."""
    windows = windows_of(recording, classifier.bundle.manifest.spec)
    found = (classifier.classify(window).abstained or "answered" for window in windows)
    return Counter(reason for reason in found if reason != "warming_up")


def middle(recording: Recording, seconds: float) -> Recording:
    """So much from the middle of every signal with a rate, on one time axis that begins at 0."""
    begin = max(0.0, (min(s.stop for s in recording.signals.values() if s.sfreq) - seconds) / 2)
    signals = {}
    for name, signal in recording.signals.items():
        low = max(0, round((begin - signal.start) * signal.sfreq))
        part = signal.data[low : low + round(seconds * signal.sfreq)]
        if len(part):
            signals[name] = replace(signal, data=part, start=0.0)
    return replace(recording, signals=signals, annotations=())


def table(classifier: Classifier, recordings: Iterable[Recording], seconds: float) -> list[dict[str, Any]]:
    """A row for each kind: windows, the share that abstained, and why; so much of each recording is taken."""
    total: dict[str, Counter[str]] = {ITSELF: Counter()}
    for recording in (middle(with_ecg(each), seconds) for each in recordings):
        if {"ecg", "eda"} & set(recording.signals):
            total[ITSELF] += outcomes(classifier, recording)
        for kind, made in strange(recording):
            total.setdefault(kind, Counter()).update(outcomes(classifier, made))
    return [
        {
            "kind": kind,
            "windows": counts.total(),
            "abstained": round(1 - counts["answered"] / counts.total(), 4) if counts else None,
            "reasons": {reason: n for reason, n in counts.most_common() if reason != "answered"},
        }
        for kind, counts in total.items()
    ]
