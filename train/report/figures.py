"""Folds to numbers: flat records, and what tables and plots of one data set, task and mode show.

Knows nothing of files, of HTML or of drawing. Figures are made per person and seed, averaged over a person's seeds,
then over people; whoever has fewer than two classes in a mask has no balanced accuracy there: left out, and named.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from train.errors import ResultError
from train.metrics import ECE_BINS, FIGURES, balanced_accuracy_of, macro_f1_of, paired, subject_bootstrap, wilcoxon_p
from train.report.folds import HISTOGRAM_BINS, MASKS, Fold, as_folds
from train.systems import system_and_share, with_labels

Floats = npt.NDArray[np.float64]

OURS = "acc"
"""The system whose margins are tested."""
SIBLINGS = ("acc", "unattended", "feature-fusion", "decision-fusion", "ecg-only", "eda-only")
CROSSMODAL = (
    "emobed", "emobed-joint", "emobed-triplet", "emobed-neither", "modality-dropout", "emobed-ecg-only",
    "emobed-eda-only",
)  # fmt: skip
"""EmoBed's network and what its training is compared with."""
FLOAT = "float"
"""The runtime that every other is compared with."""
SHOTS = "-shots-"
"""In the name of a system that was shown some of the person's windows: it is judged on those that are left."""
CLASSICAL = "classical-"
MAJORITY = "majority"
PRESENCE = "presence"
KNOW_NOTHING = (MAJORITY, PRESENCE)
"""Systems that look at no signal: what they reach is owed to the data."""
MODES = ("calibrated", "cold_start")
DIGITS = 4
PERSON_DIGITS = 6
"""Per person: enough that a paired test of the written figures is a test of the figures."""
LEAST_COVERAGE = 0.02
"""A curve ends where fewer of the windows are left: a handful says nothing."""

Record = Mapping[str, Any]
"""A flat record, as in results/loso.json."""
Group = tuple[str, str, str]
"""Data set, task, mode: figures of two groups never meet in one mean, save where a table says so."""


@dataclass(frozen=True, eq=False)
class Row:
    """One system under one mask in one group."""

    system: str
    runtime: str
    mask: str
    folds: Sequence[Fold]
    people: Mapping[str, Mapping[str, float]]
    """Figures of each person who has a balanced accuracy, seeds averaged."""
    left_out: tuple[str, ...]
    coverage: float


def natural(name: str) -> list[tuple[int, str]]:
    """Sorting key: S2 before S10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def system_order(system: str) -> tuple[int, int, str]:
    """Sorting key: ours and its siblings, EmoBed and its rivals, other networks, classical models, the majority."""
    for place, family in ((0, SIBLINGS), (1, CROSSMODAL), (4, KNOW_NOTHING)):
        if system in family:
            return place, family.index(system), ""
    return 3 if system.startswith(CLASSICAL) else 2, 0, system


def groups(folds: Iterable[Fold]) -> dict[Group, list[Fold]]:
    """Folds by data set, task and mode."""
    out: dict[Group, list[Fold]] = {}
    for fold in folds:
        of_group = out.setdefault((fold.dataset, fold.task, fold.mode), [])
        if of_group and of_group[0].labels != fold.labels:
            named = " and ".join("/".join(f.labels) for f in (of_group[0], fold))
            place = f"{fold.dataset} {fold.task} {fold.mode}, {fold.system}, {fold.subject}"
            raise ResultError("folds", place, f"labels differ: {named}", "keep the folds of one run only")
        of_group.append(fold)
    return dict(sorted(out.items(), key=lambda item: (*item[0][:2], MODES.index(item[0][2]))))


def rows(folds: Sequence[Fold]) -> list[Row]:
    """Systems and masks of one group, in the order of tables; those that nobody can be scored by are not there."""
    by_system: dict[tuple[str, str], list[Fold]] = {}
    for fold in folds:
        by_system.setdefault((fold.system, fold.runtime), []).append(fold)
    ordered = sorted(by_system.items(), key=lambda item: (system_order(item[0][0]), item[0][1]))
    made = (_row(*key, mask, of_system) for mask in MASKS for key, of_system in ordered)
    return [row for row in made if row.people]


def _row(system: str, runtime: str, mask: str, folds: Sequence[Fold]) -> Row:
    found: dict[str, list[Mapping[str, float]]] = {}
    for fold in folds:
        if mask in fold.scores and np.isfinite(fold.scores[mask].figures["balanced_accuracy"]):
            found.setdefault(fold.subject, []).append(fold.scores[mask].figures)
    people = {s: {k: float(np.mean([f[k] for f in found[s]])) for k in found[s][0]} for s in sorted(found, key=natural)}
    left_out = sorted({f.subject for f in folds} - set(people), key=natural)
    return Row(system, runtime, mask, folds, people, tuple(left_out), _coverage(folds, mask))


def _coverage(folds: Sequence[Fold], mask: str) -> float:
    """Scored share of the labelled windows, mean over people and seeds."""
    shares = [
        fold.scores[mask].windows.sum() / fold.scores[mask].total if mask in fold.scores else 0.0
        for fold in folds
        if mask not in fold.scores or fold.scores[mask].total
    ]
    return float(np.mean(shares)) if shares else 0.0


def records(folds: Sequence[Fold | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Flat records, as in results/loso.json: per data set, task and mode one for each mask, system and runtime."""
    out: list[dict[str, Any]] = []
    for of_group in groups(as_folds(folds)).values():
        floats = {(f.system, f.subject, f.seed): f for f in of_group if f.runtime == FLOAT}
        out += [_record(row) | _beside_float(row, floats) for row in _with_baselines(rows(of_group))]
    return _compared(out)


def added(known: Sequence[Record], new: Sequence[Record]) -> list[dict[str, Any]]:
    """Records of a results file and new ones in the order of tables; a new one takes the place of its older self.

    What looks at no signal stays as it is known: it may have been judged on the windows of more systems.
    """
    there = {_identity(r): r for r in known}
    there |= {_identity(r): r for r in new if r["system"] not in KNOW_NOTHING or _identity(r) not in there}
    return _compared([there[key] for key in sorted(there, key=_place)])


def _compared(made: Sequence[Record]) -> list[dict[str, Any]]:
    """Records of classes with the p of ours against each, where ours is among them."""
    ours = {_identity(r)[:4]: r["per_subject"] for r in made if _is_ours(r)}
    return [{**r, "p_acc": _p(ours.get(_identity(r)[:4]), r)} if "p_acc" in r else dict(r) for r in made]


def _p(ours: Mapping[str, float] | None, record: Record) -> float | None:
    return None if ours is None or _is_ours(record) else rounded(wilcoxon_p(paired(ours, record["per_subject"])))


def _is_ours(record: Record) -> bool:
    return bool((record["system"], record["runtime"]) == (OURS, "float"))


def _identity(record: Record) -> tuple[str, str, str, str, str, str]:
    return *(record[key] for key in ("dataset", "task", "mode", "mask")), name_of(record), record["runtime"]


def _place(identity: tuple[str, str, str, str, str, str]) -> tuple[Any, ...]:
    """Sorting key: as :func:`groups` and :func:`rows` have it."""
    dataset, task, mode, mask, system, runtime = identity
    return dataset, task, MODES.index(mode), MASKS.index(mask), system_order(system), runtime


def name_of(record: Record) -> str:
    """What folds call the system of a flat record, share of the labels included."""
    return with_labels(record["system"], record.get("label_share", 1.0))


def _scores(row: Row) -> dict[str, float]:
    return {s: round(figures["balanced_accuracy"], PERSON_DIGITS) for s, figures in row.people.items()}


def _record(row: Row) -> dict[str, Any]:
    first = row.folds[0]
    scores = _scores(row)
    return {
        **{key: getattr(first, key) for key in ("dataset", "task", "mode")},
        **dict(zip(("system", "label_share"), system_and_share(row.system), strict=True)),
        **{key: getattr(row, key) for key in ("mask", "runtime")},
        "subjects": len(row.people),
        "seeds": sorted({fold.seed for fold in row.folds}),
        **{key: rounded(np.mean([person[key] for person in row.people.values()])) for key in FIGURES},
        "ci95": [rounded(edge) for edge in subject_bootstrap(list(scores.values()))],
        "ece_all": rounded(_ece_of_all(row)),
        **_answered(row),
        "complete_balanced_accuracy": rounded(_complete(row)),
        "labels": list(first.labels),
        "surrogate_ecg": any(fold.surrogate_ecg for fold in row.folds) and row.mask != "eda",
        "majority": rounded(np.mean([person["majority"] for person in _majority(row).people.values()])),
        "coverage": rounded(row.coverage),
        "p_acc": None,
        "left_out": list(row.left_out),
        "per_subject": scores,
        **origin(row.folds),
    }


def _beside_float(row: Row, floats: Mapping[tuple[str, str, int], Fold]) -> dict[str, Any]:
    """Of a row that is not in float: share of a fold's windows that the float network names alike, mean over folds, and
    that network's balanced accuracy in these folds; nothing where it is not there or judged other windows."""
    if row.runtime == FLOAT:
        return {}
    judged = [fold for fold in row.folds if row.mask in fold.scores]
    known = (floats.get((fold.system, fold.subject, fold.seed)) for fold in judged)
    others = [other for other in known if other is not None and row.mask in other.scores]
    if len(others) < len(judged):
        return {}
    named = [(f.scores[row.mask].named, o.scores[row.mask].named) for f, o in zip(judged, others, strict=True)]
    if any(len(one) != len(other) for one, other in named):
        return {}
    people = _row(row.system, FLOAT, row.mask, others).people.values()
    return {
        "agreement": rounded(np.mean([(one == other).mean() for one, other in named if len(one)])),
        "float_balanced_accuracy": rounded(np.mean([figures["balanced_accuracy"] for figures in people])),
    }


def _ece_of_all(row: Row) -> float | None:
    """ECE of all people's windows together: one person has too few for his own to be told from chance."""
    if row.system in KNOW_NOTHING:
        return None
    of_row = [fold.scores[row.mask] for fold in row.folds if row.mask in fold.scores]
    fine = [np.sum([getattr(s, what) for s in of_row], axis=0) for what in ("windows", "right", "confidence")]
    windows, right, confidence = (part.reshape(ECE_BINS, -1).sum(axis=1) for part in fine)
    return float(np.abs(right - confidence).sum() / windows.sum())


def _answered(row: Row) -> dict[str, Any]:
    """Of a system that knows when not to answer: shares answered and familiar, balanced accuracy of the answers."""
    of_row = [fold.scores[row.mask] for fold in row.folds if row.mask in fold.scores]
    known = [s for s in of_row if s.answered is not None and s.windows.sum()]
    if row.system in KNOW_NOTHING or not known:
        return {}
    right = [balanced_accuracy_of(s.answered) for s in known if s.answered is not None and s.answered.sum()]
    return {
        "answered": rounded(np.mean([s.answered.sum() / s.windows.sum() for s in known if s.answered is not None])),
        "answered_balanced_accuracy": rounded(np.nanmean(right)) if np.isfinite(right).any() else None,
        "familiar": rounded(np.mean([s.familiar / s.windows.sum() for s in known if s.familiar is not None])),
    }


def rounded(value: float | np.floating[Any] | None) -> float | None:
    """A figure as records hold it; None where there is none."""
    return None if value is None or not np.isfinite(value) else round(float(value), DIGITS)


def origin(folds: Sequence[Any]) -> dict[str, Any]:
    """Where a row's figures are from; several values side by side where folds differ."""
    said = [fold.provenance for fold in folds]
    data = sorted({(str(k), str(v)) for origin in said for k, v in dict(origin.get("data") or {}).items()})
    return {
        "commit": " + ".join(sorted({str(origin.get("commit", "unknown")) for origin in said})),
        "command": " + ".join(sorted({str(origin.get("command", "unknown")) for origin in said})),
        "versions": {str(k): v for origin in said for k, v in dict(origin.get("versions") or {}).items()},
        "data": hashlib.sha256(repr(data).encode()).hexdigest()[:16] if data else None,
    }


def _complete(row: Row) -> float | None:
    """Of a system that sees everything there is: balanced accuracy of the windows that have both sensors."""
    if row.system in KNOW_NOTHING:
        return None
    of_person: dict[str, list[float]] = {}
    for fold in row.folds:
        if row.mask in fold.scores and (table := fold.scores[row.mask].complete) is not None:
            of_person.setdefault(fold.subject, []).append(balanced_accuracy_of(table))
    means = [float(np.mean(found)) for found in of_person.values() if np.isfinite(found).all()]
    return float(np.mean(means)) if means else None


def _with_baselines(made: Sequence[Row]) -> list[Row]:
    """The rows, and after each mask's what can be said of its first row's windows without looking at a signal."""
    out: list[Row] = []
    for mask in MASKS:
        of_mask = [row for row in made if row.mask == mask]
        out += [*of_mask, *(_majority(row) for row in of_mask[:1])]
        known = next((row for row in of_mask if _patterns(row)), None)
        out += [_presence(known)] if known else []
    return out


def _patterns(row: Row) -> dict[str, npt.NDArray[np.int64]]:
    """Person -> (3, n_classes) windows by the sensors they have, where that is known."""
    found: dict[str, npt.NDArray[np.int64]] = {}
    for fold in row.folds:
        if fold.subject in row.people and row.mask in fold.scores:
            patterns = fold.scores[row.mask].patterns
            if patterns is not None:
                found[fold.subject] = patterns
    return found


def _presence(row: Row) -> Row:
    """What the sensors that there are tell by themselves: for each set of them the class that is commonest with it
    among everybody else, every class weighing the same. Where it beats the majority, the absence of a sensor tells."""
    of_person = _patterns(row)
    everyone = np.sum(list(of_person.values()), axis=0)
    people = {}
    for subject, mine in of_person.items():
        others = everyone - mine
        named = (others / np.maximum(others.sum(axis=0), 1)).argmax(axis=1)
        table = np.zeros((mine.shape[1], mine.shape[1]), np.int64)
        for k, count in zip(named, mine, strict=True):
            table[:, k] += count
        people[subject] = _without_probability(table)
    return Row(PRESENCE, "float", row.mask, row.folds, people, row.left_out, row.coverage)


def _majority(row: Row) -> Row:
    """What always naming the class gives that is commonest among everybody else: it learns nothing of the person."""
    tables = {
        s: np.sum([f.scores[row.mask].confusion for f in row.folds if f.subject == s and row.mask in f.scores], axis=0)
        for s in row.people
    }
    counts = {s: table.sum(axis=1) for s, table in tables.items()}
    everyone = np.sum(list(counts.values()), axis=0)
    people = {s: _constant(count, int((everyone - count).argmax())) for s, count in counts.items()}
    return Row(MAJORITY, "float", row.mask, row.folds, people, row.left_out, row.coverage)


def _constant(count: npt.NDArray[np.int64], named: int) -> dict[str, float]:
    """Figures of always naming one class, from the windows of each class."""
    table = np.zeros((len(count), len(count)), np.int64)
    table[:, named] = count
    return {**_without_probability(table), "auroc": 0.5, "majority": float(count[named] / count.sum())}


def _without_probability(table: npt.NDArray[np.int64]) -> dict[str, float]:
    """Figures that a confusion table gives by itself."""
    unknown = dict.fromkeys(("auroc", "ece", "majority"), float("nan"))
    accuracy = float(table.trace() / table.sum())
    return {
        **unknown,
        "accuracy": accuracy,
        "balanced_accuracy": balanced_accuracy_of(table),
        "macro_f1": macro_f1_of(table),
    }


def best_classical(made: Sequence[Mapping[str, Any]], mask: str = "both") -> str | None:
    """The classical system with the highest balanced accuracy among flat records of one group."""
    classical = [r for r in made if r["system"].startswith(CLASSICAL) and r["mask"] == mask and r["runtime"] == "float"]
    return max(classical, key=lambda r: r["balanced_accuracy"])["system"] if classical else None


@dataclass(frozen=True, eq=False)
class Bars:
    """Balanced accuracy per person: mean over seeds, and the least and greatest seed."""

    system: str
    mean: Mapping[str, float]
    span: Mapping[str, tuple[float, float]]


def bars(folds: Sequence[Fold], system: str, mask: str = "both") -> Bars:
    """Bars of one float system of one group."""
    found: dict[str, list[float]] = {}
    for fold in _of(folds, system):
        value = fold.scores[mask].figures["balanced_accuracy"] if mask in fold.scores else float("nan")
        if np.isfinite(value):
            found.setdefault(fold.subject, []).append(value)
    return Bars(
        system,
        {s: float(np.mean(v)) for s, v in found.items()},
        {s: (min(v), max(v)) for s, v in found.items()},
    )


def confusion(folds: Sequence[Fold], system: str, mask: str) -> Floats | None:
    """Windows (n_classes, n_classes) of everybody, mean over seeds; None without any."""
    of_system = [fold for fold in _of(folds, system) if mask in fold.scores]
    if not of_system:
        return None
    seeds = len({fold.seed for fold in of_system})
    table = np.sum([fold.scores[mask].confusion for fold in of_system], axis=0) / seeds
    return table if table.sum() else None


def reliability(folds: Sequence[Fold], system: str, mask: str) -> tuple[Floats, Floats, Floats] | None:
    """Confidence, accuracy and share of the windows, per ECE bin that has any; all people and seeds together."""
    of_system = [fold.scores[mask] for fold in _of(folds, system) if mask in fold.scores]
    if not of_system:
        return None
    fine = [np.sum([getattr(s, what) for s in of_system], axis=0) for what in ("windows", "right", "confidence")]
    windows, right, confidence = (part.reshape(ECE_BINS, -1).sum(axis=1) for part in fine)
    filled = windows > 0
    if not filled.any():
        return None
    n = windows[filled]
    return confidence[filled] / n, right[filled] / n, n / n.sum()


def coverage_curve(folds: Sequence[Fold], system: str, mask: str) -> tuple[Floats, Floats] | None:
    """Answered share of all labelled windows and accuracy of the answers, for every least confidence.

    One threshold serves everybody, as on a device; each person counts the same, however many windows there are.
    """
    usable = [f.scores[mask] for f in _of(folds, system) if mask in f.scores and f.scores[mask].total]
    if not usable:
        return None
    kept, right = (
        np.mean([np.cumsum(getattr(s, what)[::-1]) / s.total for s in usable], axis=0) for what in ("windows", "right")
    )
    enough = kept >= LEAST_COVERAGE
    return (kept[enough], right[enough] / kept[enough]) if enough.any() else None


def _of(folds: Sequence[Fold], system: str) -> list[Fold]:
    return [fold for fold in folds if fold.system == system and fold.runtime == "float"]


def choices(folds: Sequence[Fold]) -> dict[str, dict[str, Counter[Any]]]:
    """Per float system of one group: what the inner folds chose, and how often."""
    out: dict[str, dict[str, Counter[Any]]] = {}
    for fold in sorted((f for f in folds if f.runtime == "float"), key=lambda f: system_order(f.system)):
        for key, value in fold.choice.items():
            out.setdefault(fold.system, {}).setdefault(key, Counter())[value if _hashable(value) else str(value)] += 1
    return out


def _hashable(value: object) -> bool:
    return isinstance(value, str | int | float | bool | None)


def missing(folds: Sequence[Fold]) -> list[str]:
    """Systems of one group that lack folds others have, in words."""
    wanted = {(fold.subject, fold.seed) for fold in folds}
    there: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for fold in folds:
        there.setdefault((fold.system, fold.runtime), set()).add((fold.subject, fold.seed))
    return [
        f"{system}{' int8' if runtime == 'int8' else ''}: {len(found)} of {len(wanted)} folds"
        for (system, runtime), found in sorted(there.items())
        if found != wanted
    ]


assert HISTOGRAM_BINS % ECE_BINS == 0, "reliability bins are made of whole histogram bins"
