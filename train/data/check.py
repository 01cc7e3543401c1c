"""What a data set on disk holds, subject by subject: signals, labels, notes, warnings, and what could not be read.

Knows nothing of terminals or pictures; of layouts only what a DataSet tells.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from train.data.datasets import DataSet, needs_surrogate_ecg
from train.data.types import Annotation, Floats, Recording, Signal
from train.errors import TrainError, one_line

ECG_SWING_MV = (0.1, 20.0)
"""Usual rise and fall within PIECE_S. A chest lead gives 0.3 to 5 mV; uV read as mV give hundreds, V thousandths."""
PIECE_S = 10.0
"""Long enough for several beats, short enough that the baseline's wander adds little."""
EDA_LEVEL_US = (0.01, 60.0)
"""Median of a recording. 49 real wrists give 0.13 to 6.2 uS; nS, kOhm and raw counts lie far above."""
MIN_ECG_HZ = 100.0
"""Below, R peaks cannot be placed well enough for the intervals between them."""
MIN_EDA_HZ = 1.0
"""Below, the rise of a skin conductance response falls between samples."""
MAX_MISSING = 0.05
"""Share of a signal that may be missing before it is worth a warning."""
MIN_COVER = 0.9
"""Share of the labelled time in which ECG and EDA are expected to run."""
LABEL_SLACK_S = 1.0
"""Labels and signals are often cut to whole seconds each on their own."""
USUAL_SHARE = 0.5
"""A label that this share of the other subjects has is expected of everyone."""


@dataclass(frozen=True, slots=True)
class SignalCheck:
    """One signal of one recording."""

    modality: str
    ch_names: tuple[str, ...]
    units: str
    sfreq: float
    """Hz; 0 for an irregular signal."""
    start_s: float
    duration_s: float
    n_times: int
    missing: int
    """Samples that are no number in some channel."""
    gaps: int
    """Runs of such samples."""
    low: float | None
    """Smallest value of any channel; None where there is none."""
    high: float | None
    surrogate: bool


@dataclass(frozen=True, slots=True)
class LabelCheck:
    """All annotations of one description in one recording."""

    description: str
    count: int
    total_s: float
    ratings: dict[str, tuple[float, float]]
    """Lowest and highest of each rating."""


@dataclass(frozen=True, slots=True)
class RecordingCheck:
    """One session."""

    session: str
    signals: tuple[SignalCheck, ...]
    labels: tuple[LabelCheck, ...]
    """In order of first onset."""
    surrogate_ecg: bool
    """No ECG was measured; affectd-train rebuilds one from the pulse and says so."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SubjectCheck:
    """One subject: either recordings or the problem that kept them from being read."""

    subject: str
    recordings: tuple[RecordingCheck, ...] = ()
    warnings: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def described(self) -> set[str]:
        """Descriptions of every annotation that lasts."""
        return {label.description for rec in self.recordings for label in rec.labels if label.total_s > 0}


@dataclass(frozen=True, slots=True)
class DataCheck:
    """Everything that was found."""

    dataset: str
    title: str
    licence: str
    url: str
    root: str
    subjects: tuple[SubjectCheck, ...] = field(default=())

    @property
    def failed(self) -> tuple[SubjectCheck, ...]:
        """Subjects that could not be read."""
        return tuple(subject for subject in self.subjects if subject.problem is not None)


Look = Callable[[str, Sequence[Recording]], None]
"""What else is to be done with the recordings of a subject while they are in memory."""


def check_subjects(dataset: DataSet, root: Path, subjects: Sequence[str], look: Look) -> Iterator[SubjectCheck]:
    """Check one subject after the other; only one is in memory at a time. A subject that fails stops no other."""
    for subject in subjects:
        yield _read(dataset, root, subject, look)


def _read(dataset: DataSet, root: Path, subject: str, look: Look) -> SubjectCheck:
    try:
        recordings = dataset.load(root, subject)
    except (TrainError, OSError) as error:
        return SubjectCheck(subject, problem=one_line(error))
    except Exception as error:  # a reader's own defect must not hide what the others hold
        return SubjectCheck(subject, problem=defect(error))
    look(subject, recordings)
    return check_subject(subject, recordings)


def summary(dataset: DataSet, root: Path, subjects: Sequence[SubjectCheck]) -> DataCheck:
    """All subjects together, with the warnings that need a comparison between them."""
    compared = tuple(_compared(subject, subjects) for subject in subjects)
    return DataCheck(dataset.name, dataset.title, dataset.licence, dataset.url, str(root), compared)


def check_subject(subject: str, recordings: Sequence[Recording]) -> SubjectCheck:
    """What the recordings of one subject hold."""
    checks = tuple(_recording(recording) for recording in recordings)
    warnings = [
        f"{recording.session}: {text}" if len(recordings) > 1 else text
        for recording in recordings
        for text in _warnings(recording)
    ]
    return SubjectCheck(subject, checks, tuple(warnings) if recordings else ("holds no recording",))


def defect(error: Exception) -> str:
    """A reader's own failure in one line, with its place."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(at.filename).name}:{at.lineno}"
    return f"the reader itself failed: {type(error).__name__} in {where}: {one_line(error)}; report this"


def _recording(recording: Recording) -> RecordingCheck:
    signals = tuple(_signal(name, signal) for name, signal in recording.signals.items())
    descriptions = dict.fromkeys(annotation.description for annotation in recording.annotations)
    labels = tuple(_label(recording.annotations, description) for description in descriptions)
    return RecordingCheck(recording.session, signals, labels, needs_surrogate_ecg(recording), recording.notes)


def _signal(modality: str, signal: Signal) -> SignalCheck:
    values = signal_values(signal)
    present = np.isfinite(values)
    absent = ~present.all(axis=1)
    gaps = int(np.count_nonzero(np.diff(absent.astype(np.int8), prepend=0) == 1))
    found = values[present]
    low, high = (float(found.min()), float(found.max())) if found.size else (None, None)
    names = signal.ch_names if signal.sfreq else signal.ch_names[1:]
    return SignalCheck(
        modality, names, signal.units, signal.sfreq, signal.start, span_s(signal)[1] - span_s(signal)[0],
        len(values), int(absent.sum()), gaps, low, high, signal.surrogate,
    )  # fmt: skip


def _label(annotations: Sequence[Annotation], description: str) -> LabelCheck:
    own = [annotation for annotation in annotations if annotation.description == description]
    rated: dict[str, list[float]] = {}
    for annotation in own:
        for name, value in annotation.ratings.items():
            rated.setdefault(name, []).append(value)
    ratings = {name: (min(values), max(values)) for name, values in rated.items()}
    return LabelCheck(description, len(own), math.fsum(annotation.duration for annotation in own), ratings)


def signal_values(signal: Signal) -> Floats:
    """(n_times, n_chans) without the column of times that an irregular signal has."""
    return signal.data if signal.sfreq else signal.data[:, 1:]


def span_s(signal: Signal) -> tuple[float, float]:
    """First and last time of a signal, s from the recording's start."""
    if signal.sfreq:
        return signal.start, signal.stop
    times = signal.times()
    return (float(times[0]), float(times[-1])) if len(times) else (signal.start, signal.start)


def _warnings(recording: Recording) -> Iterator[str]:
    """All that is not forbidden, and still seldom right."""
    signals = recording.signals
    if not {"ecg", "bvp", "eda"} & set(signals):
        yield f"neither ECG, pulse nor EDA, only {', '.join(signals) or 'nothing'}"
    for name, signal in signals.items():
        missing = (~np.isfinite(signal_values(signal))).any(axis=1).mean() if len(signal.data) else 1.0
        if missing > MAX_MISSING:
            yield f"{name}: {missing:.0%} missing" if len(signal.data) else f"{name}: no samples"
    for name in ("ecg", "eda"):
        if name in signals and np.isfinite(signals[name].data[:, 0]).any():
            yield from (_ecg_warnings if name == "ecg" else _eda_warnings)(signals[name])
            yield from _cover_warnings(name, signals[name], recording.annotations)
    yield from _outside(recording)


def _ecg_warnings(signal: Signal) -> Iterator[str]:
    if signal.units != "mV":
        yield f"ecg: in {signal.units}, not mV"
    if signal.sfreq < MIN_ECG_HZ:
        yield f"ecg: {signal.sfreq:g} Hz is too slow for R peaks, which want {MIN_ECG_HZ:g} Hz"
    swing = typical_swing(signal.data[:, 0], max(2, round(PIECE_S * signal.sfreq)))
    low, high = ECG_SWING_MV
    if swing == 0:
        yield "ecg: most of it is flat"
    elif not low <= swing <= high:
        guess = "in uV or raw counts" if swing > high else "in V"
        usual = f"{low:g} to {high:g} mV are usual"
        yield f"ecg: swings by {swing:.3g} {signal.units} in {PIECE_S:g} s, where {usual}; is it {guess}?"


def _eda_warnings(signal: Signal) -> Iterator[str]:
    if signal.units != "uS":
        yield f"eda: in {signal.units}, not uS"
    if signal.sfreq < MIN_EDA_HZ:
        yield f"eda: {signal.sfreq:g} Hz is too slow for skin conductance responses"
    values = signal.data[:, 0]
    level, low, high = float(np.nanmedian(values)), *EDA_LEVEL_US
    if level < low:
        yield f"eda: median {level:.3g} {signal.units}; electrodes without contact, or another unit?"
    elif level > high:
        yield f"eda: median {level:.3g} {signal.units}, where wrists have up to 20 uS; is it in nS, kOhm or raw counts?"
    elif (below := float(np.mean(values < 0))) > MAX_MISSING:
        yield f"eda: {below:.0%} of it is negative, which no conductance can be"


def typical_swing(values: Floats, piece: int) -> float:
    """Median over pieces of ``piece`` samples of highest minus lowest value; NaN are left out."""
    piece = min(piece, len(values))
    pieces = values[: len(values) // piece * piece].reshape(-1, piece)
    pieces = pieces[np.isfinite(pieces).any(axis=1)]
    return float(np.median(np.nanmax(pieces, axis=1) - np.nanmin(pieces, axis=1)))


def _cover_warnings(name: str, signal: Signal, annotations: Sequence[Annotation]) -> Iterator[str]:
    """A signal that does not run while labels do."""
    total = math.fsum(a.duration for a in annotations)
    start, stop = span_s(signal)
    inside = math.fsum(max(0.0, min(a.stop, stop) - max(a.onset, start)) for a in annotations)
    if total and inside < MIN_COVER * total:
        yield f"{name}: runs in only {inside / total:.0%} of the labelled time"


def _outside(recording: Recording) -> Iterator[str]:
    """Labels that reach outside every signal."""
    spans = [span_s(signal) for signal in recording.signals.values()]
    if not spans:
        return
    start, stop = min(span[0] for span in spans), max(span[1] for span in spans)
    for a in recording.annotations:
        if a.onset < start - LABEL_SLACK_S or a.stop > stop + LABEL_SLACK_S:
            yield (
                f"label {a.description!r} at {a.onset:.1f} to {a.stop:.1f} s lies outside the recording, "
                f"{start:.1f} to {stop:.1f} s"
            )


def _compared(subject: SubjectCheck, everyone: Sequence[SubjectCheck]) -> SubjectCheck:
    """The subject with a warning for each label that it lacks and most others have."""
    others = [other for other in everyone if other is not subject and other.problem is None]
    if subject.problem is not None or not others:
        return subject
    usual = sorted(set().union(*(other.described for other in others)) - subject.described)
    counts = {name: sum(name in other.described for other in others) for name in usual}
    lacks = tuple(
        f"no {name!r}, which {count} of the {len(others)} others have"
        for name, count in counts.items()
        if count > USUAL_SHARE * len(others)
    )
    return replace(subject, warnings=subject.warnings + lacks)
