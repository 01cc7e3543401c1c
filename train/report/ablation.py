"""What each part of the network is worth: margins of ours over every other system, paired over people.

Knows only flat records, so that it can be made again from results/loso.json alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from train.metrics import paired, stratified_bootstrap, wilcoxon_p
from train.report.figures import CLASSICAL, CROSSMODAL, KNOW_NOTHING, OURS, SHOTS, name_of, system_order
from train.report.folds import MASKS

Floats = npt.NDArray[np.float64]
Record = Mapping[str, Any]
Column = tuple[str, str]
"""Data set and task."""

MEAN: Column = ("mean", "of the two-class tasks")


@dataclass(frozen=True)
class Margin:
    """Balanced accuracy of ours, of the other, and the difference over the people whom both judged."""

    ours: float
    theirs: float
    difference: float
    ci95: tuple[float, float]
    p: float | None
    people: int


@dataclass(frozen=True)
class AblationRow:
    """One system against ours; ``mask`` is what the system sees."""

    system: str
    mask: str
    margins: Mapping[Column, Margin]


@dataclass(frozen=True)
class Ablation:
    """One mode's table."""

    mode: str
    ours: str
    sees: str
    """The mask of ours."""
    columns: tuple[Column, ...]
    rows: tuple[AblationRow, ...]
    best_classical: Mapping[Column, str]
    """The classical model with the highest balanced accuracy in a column."""
    surrogate_ecg: bool


def ablation(records: Sequence[Record], mode: str) -> Ablation | None:
    """Margins of ours with both sensors over every float system in ``mode``, each with all it sees; None where ours is
    not there."""
    wanted = [record for record in records if SHOTS not in record["system"]]
    return _ablation(wanted, mode, OURS, "both")


def one_sensor(records: Sequence[Record], mode: str, mask: str) -> Ablation | None:
    """Margins of EmoBed under ``mask`` over its siblings, the network that only loses a sensor at random, that of one
    sensor, and ours, all under the same mask; None where EmoBed is not there."""
    known = (*CROSSMODAL, OURS)
    wanted = [record for record in records if record["system"] in known and record["mask"] == mask]
    return _ablation(wanted, mode, CROSSMODAL[0], mask)


def _ablation(records: Sequence[Record], mode: str, system_of_ours: str, sees: str) -> Ablation | None:
    table: dict[str, dict[Column, Record]] = {}
    for record in records:
        system = name_of(record)
        if (record["mode"], record["runtime"]) == (mode, "float") and system not in KNOW_NOTHING:
            by_column = table.setdefault(system, {})
            column = record["dataset"], record["task"]
            if column not in by_column or _sees_more(record, by_column[column]):
                by_column[column] = record
    ours = table.pop(system_of_ours, {})
    if not ours or not table:
        return None
    two_class = tuple(c for c in sorted(ours) if _n_classes(ours[c]) == 2)
    several = len({dataset for dataset, _ in two_class}) > 1
    rows = tuple(
        AblationRow(s, _mask(theirs), _margins(ours, theirs, two_class if several else ()))
        for s, theirs in sorted(table.items(), key=lambda item: system_order(item[0]))
    )
    columns = (*sorted(ours), *([MEAN] if several else []))
    surrogate = any(record["surrogate_ecg"] for record in ours.values())
    return Ablation(mode, system_of_ours, sees, columns, rows, _best_classical(rows, columns), surrogate)


def _sees_more(record: Record, than: Record) -> bool:
    return MASKS.index(record["mask"]) < MASKS.index(than["mask"])


def _mask(by_column: Mapping[Column, Record]) -> str:
    return next(iter(by_column.values()))["mask"]


def _n_classes(record: Record) -> int:
    return len(record.get("labels") or record["task"].split("/"))


def _margins(
    ours: Mapping[Column, Record], theirs: Mapping[Column, Record], averaged: Sequence[Column]
) -> dict[Column, Margin]:
    pairs = {c: (ours[c]["per_subject"], theirs[c]["per_subject"]) for c in sorted(ours) if c in theirs}
    pairs = {c: (mine, other) for c, (mine, other) in pairs.items() if set(mine) & set(other)}
    out = {c: margin([pair]) for c, pair in pairs.items()}
    if averaged and set(averaged) <= set(pairs):
        out[MEAN] = margin([pairs[c] for c in averaged])
    return out


def margin(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Margin:
    """Ours against theirs, a pair of ``per_subject`` for each data set: each set counts the same for the mean, each
    person the same for the test."""
    differences = [paired(mine, other) for mine, other in pairs]
    common = [sorted(set(mine) & set(other)) for mine, other in pairs]
    return Margin(
        ours=_mean_of_means([[mine[s] for s in c] for (mine, _), c in zip(pairs, common, strict=True)]),
        theirs=_mean_of_means([[other[s] for s in c] for (_, other), c in zip(pairs, common, strict=True)]),
        difference=_mean_of_means(differences),
        ci95=stratified_bootstrap(differences),
        p=wilcoxon_p(np.concatenate(differences)),
        people=sum(map(len, differences)),
    )


def _mean_of_means(groups: Sequence[Sequence[float] | Floats]) -> float:
    return float(np.mean([np.mean(group) for group in groups]))


def _best_classical(rows: Sequence[AblationRow], columns: Sequence[Column]) -> dict[Column, str]:
    out = {}
    for column in columns:
        there = [r for r in rows if r.system.startswith(CLASSICAL) and column in r.margins]
        if there:
            out[column] = max(there, key=lambda r: r.margins[column].theirs).system
    return out
