"""Fold records: one test subject judged by one system with one seed, read from JSON and checked.

Knows nothing of how a fold was made, nor of what is said about many of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from train.errors import ResultError
from train.metrics import confusion, metrics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MASKS = ("both", "ecg", "eda")
HISTOGRAM_BINS = 200
"""Bins of the winning probability: 0.5 % each, finer than any curve is read."""
REMEDY = "remove the file and run affectd-train loso again: it makes this fold anew"
SUM_ERROR = 2e-2
"""Probabilities may miss a sum of one by this much: int8 softmax has steps of 1/256 a class."""


class MaskRecord(msgspec.Struct, frozen=True):
    """One mask of a fold file, as it is on disk."""

    start: list[float]
    """s, of each scored window."""
    label: list[int]
    probability: list[list[float]]
    total: int
    """Labelled windows, scored or not."""
    is_sure: list[bool] | None = None
    """Of a system that knows when not to answer: whether it would."""
    is_familiar: list[bool] | None = None
    """Whether the window is like those it learned from."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every fold file says of itself. Keys that are not listed are left where they are."""

    dataset: str
    task: str
    mode: Literal["cold_start", "calibrated"]
    system: str
    subject: str
    seed: int
    labels: list[str]
    surrogate_ecg: bool
    runtime: Literal["float", "int8"] = "float"
    provenance: dict[str, Any] = {}


class FoldRecord(Head, frozen=True, kw_only=True):
    """A fold file of classes, as it is on disk."""

    masks: dict[Literal["both", "ecg", "eda"], MaskRecord]
    choice: dict[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Score:
    """What one mask of one fold comes to. Of the windows themselves, of which there are millions, only the class that
    each is given is kept."""

    figures: Mapping[str, float]
    """As train.metrics.metrics gives them."""
    confusion: Ints
    """(n_classes, n_classes) windows, row: label, column: prediction."""
    windows: Ints
    """(HISTOGRAM_BINS,) windows by winning probability."""
    right: Ints
    """(HISTOGRAM_BINS,) of these, the right ones."""
    confidence: Floats
    """(HISTOGRAM_BINS,) sum of the winning probability."""
    total: int
    """Labelled windows, scored or not."""
    named: npt.NDArray[np.uint8]
    """(n,) class of the greatest probability, of each window."""
    answered: Ints | None = None
    """(n_classes, n_classes) confusion of the windows it would answer; None for a system that answers all."""
    familiar: int | None = None
    """Windows like those it learned from."""
    complete: Ints | None = None
    """Of everything there is: (n_classes, n_classes) confusion of the windows that have both sensors."""
    patterns: Ints | None = None
    """Of everything there is: (3, n_classes) windows that have both sensors, ECG alone, EDA alone."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One test subject, one system, one seed."""

    dataset: str
    task: str
    mode: str
    system: str
    runtime: str
    subject: str
    seed: int
    labels: tuple[str, ...]
    surrogate_ecg: bool
    choice: Mapping[str, Any]
    scores: Mapping[str, Score]
    """By mask."""
    provenance: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str, str, str, str, str, int]:
        """What no two folds of one report share."""
        return self.dataset, self.task, self.mode, self.system, self.runtime, self.subject, self.seed


def score(record: MaskRecord, n_classes: int) -> Score:
    """Figures, confusion and histogram of one mask; ValueError says what does not fit."""
    label, probability = np.array(record.label, np.int64), _probability(record, n_classes)
    if len(label) != len(probability) or len(label) != len(record.start):
        raise ValueError(f"has {len(record.start)} starts, {len(label)} labels and {len(probability)} probabilities")
    if len(label) and not (label.min() >= 0 and label.max() < n_classes):
        raise ValueError(f"has labels from {label.min()} to {label.max()} for {n_classes} classes")
    if record.total < len(label):
        raise ValueError(f"scores {len(label)} windows of a total of {record.total}")
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    place = np.minimum((confidence * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    return Score(
        metrics(label, probability),
        confusion(label, probability),
        np.bincount(place, minlength=HISTOGRAM_BINS),
        np.bincount(place[right], minlength=HISTOGRAM_BINS),
        np.bincount(place, confidence, minlength=HISTOGRAM_BINS).astype(float),
        record.total,
        probability.argmax(axis=1).astype(np.uint8),
        *_answers(record, label, probability),
    )


def _by_presence(record: FoldRecord) -> dict[str, Ints]:
    """``complete`` and ``patterns`` of a Score: a window that a sensor's own mask scores as well has that sensor."""
    whole = record.masks["both"]
    label, probability = np.array(whole.label, np.int64), np.array(whole.probability, float)
    parts = [record.masks[mask].start if mask in record.masks else () for mask in ("ecg", "eda")]
    ecg, eda = (_among(whole.start, part) for part in parts)
    patterns = [np.bincount(label[which], minlength=len(record.labels)) for which in (ecg & eda, ecg & ~eda, ~ecg)]
    return {"complete": confusion(label[ecg & eda], probability[ecg & eda]), "patterns": np.array(patterns)}


def _among(whole: Sequence[float], part: Sequence[float]) -> npt.NDArray[np.bool_]:
    """(len(whole),) which moments are in ``part``, some of them in the same order (two sessions may share a clock)."""
    left = iter(part)
    wanted = next(left, None)
    found = np.zeros(len(whole), bool)
    for i, moment in enumerate(whole):
        if moment == wanted:
            found[i], wanted = True, next(left, None)
    return found


def _answers(record: MaskRecord, label: Ints, probability: Floats) -> tuple[Ints | None, int | None]:
    """Confusion of what would be answered, and how many windows are familiar; ValueError says what does not fit."""
    if record.is_sure is None or record.is_familiar is None:
        return None, None
    sure, familiar = np.array(record.is_sure, bool), np.array(record.is_familiar, bool)
    if not len(sure) == len(familiar) == len(label):
        raise ValueError(f"has {len(label)} labels, and {len(sure)} and {len(familiar)} answers")
    answered = sure & familiar
    return confusion(label[answered], probability[answered]), int(familiar.sum())


def _probability(record: MaskRecord, n_classes: int) -> Floats:
    """(n, n_classes); every row a distribution."""
    lengths = {len(row) for row in record.probability}
    if lengths - {n_classes}:
        raise ValueError(f"has probabilities of {sorted(lengths)} classes, the labels name {n_classes}")
    probability = np.array(record.probability, float).reshape(-1, n_classes)
    if len(probability) and (probability.min() < 0 or np.abs(probability.sum(axis=1) - 1).max() > SUM_ERROR):
        raise ValueError("has probabilities that are no distribution")
    return probability


def parse(record: Mapping[str, Any] | bytes, path: str) -> Fold:
    """One fold from its JSON or from what the JSON holds; ResultError names ``path`` and the place."""
    try:
        if isinstance(record, bytes):
            found = msgspec.json.decode(record, type=FoldRecord)
        else:
            found = msgspec.convert(record, FoldRecord)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        raise ResultError(path, place.strip("`") or "top level", what, REMEDY) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultError(path, "file", f"is not JSON ({error})", REMEDY) from error
    return _fold(found, path)


def _fold(record: FoldRecord, path: str) -> Fold:
    if len(set(record.labels)) < max(2, len(record.labels)):
        raise ResultError(path, "$.labels", f"names no two classes or one twice: {', '.join(record.labels)}", REMEDY)
    scores: dict[str, Score] = {}
    for mask in (m for m in MASKS if m in record.masks):
        try:
            scores[mask] = score(record.masks[mask], len(record.labels))
        except ValueError as error:
            raise ResultError(path, f"$.masks.{mask}", str(error), REMEDY) from error
    if "both" in scores and len(scores) > 1:
        scores["both"] = replace(scores["both"], **_by_presence(record))
    given = {k: getattr(record, k) for k in FoldRecord.__struct_fields__ if k not in ("labels", "masks")}
    return Fold(**given, labels=tuple(record.labels), scores=scores)


def read(root: Path) -> tuple[list[Fold], list[ResultError]]:
    """Folds below ``root`` (a run's folder or its ``folds``), and what is wrong with the files left out."""
    top = root / "folds" if (root / "folds").is_dir() else root
    if not top.is_dir():
        raise ResultError(str(root), "folder", "is not there", "give the folder that affectd-train loso wrote")
    folds: dict[tuple[object, ...], tuple[Fold, Path]] = {}
    problems: list[ResultError] = []
    for path in sorted(top.rglob("*.json")):
        try:
            fold = parse(path.read_bytes(), str(path))
            if fold.identity in folds:
                raise ResultError(str(path), "file", f"is the same fold as {folds[fold.identity][1]}", "remove one")
            folds[fold.identity] = fold, path
        except OSError as error:
            problems.append(ResultError(str(path), "file", error.strerror or "cannot be read", REMEDY))
        except ResultError as error:
            problems.append(error)
    if not folds:
        first = f"; the first of {len(problems)} others: {problems[0]}" if problems else ""
        raise ResultError(str(top), "folder", f"holds no fold that can be read{first}", "run affectd-train loso")
    return [fold for fold, _ in folds.values()], problems


def as_folds(folds: Sequence[Fold | Mapping[str, Any]]) -> list[Fold]:
    """Folds as given, records among them parsed."""
    return [f if isinstance(f, Fold) else parse(f, f"record {i}") for i, f in enumerate(folds)]
