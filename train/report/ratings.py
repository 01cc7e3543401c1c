"""What folds that tell ratings come to: concordance of each rating, per person, and its mean over people.

Knows nothing of classes, of HTML or of drawing. Such folds lie beside those of classes, in a folder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from train.errors import ResultError
from train.metrics import concordance, subject_bootstrap
from train.report.figures import natural, origin, rounded, system_order
from train.report.folds import MASKS, REMEDY, Head
from train.report.words import MODE_WORDS, column_words, figure, interval, sensors, system_words

FOLDER = "ratings"
"""Below a run's folder."""
HEAD = ("system", "sensors", "CCC", "95 %", "RMSE", "of each rating", "people")
READING = """Leave-one-subject-out, ratings as -1 to 1. *CCC* is Lin's concordance correlation of what was told with
what was rated, over a person's windows, mean over the ratings that vary, then over seeds and people; the interval is a
95 % bootstrap over people. A rating of a whole stretch is the same for each of its windows: a weak test."""


class MaskRecord(msgspec.Struct, frozen=True):
    """One mask of a fold file, as it is on disk."""

    start: list[float]
    target: list[list[float]]
    """(n, n_ratings), -1 to 1."""
    told: list[list[float]]
    total: int


class RatedFold(Head, frozen=True, kw_only=True):
    """A fold file of ratings, as it is on disk."""

    masks: dict[Literal["both", "ecg", "eda"], MaskRecord]


def read(root: Path) -> tuple[list[RatedFold], list[ResultError]]:
    """Folds below a run's folder that tell ratings, and what is wrong with the files left out; none is no error."""
    folds, problems = [], []
    for path in sorted((root / FOLDER).rglob("*.json")):
        try:
            folds.append(_checked(msgspec.json.decode(path.read_bytes(), type=RatedFold), path))
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at ")
            problems.append(ResultError(str(path), place.strip("`") or "top level", what, REMEDY))
        except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
            problems.append(ResultError(str(path), "file", f"cannot be read ({error})", REMEDY))
        except ResultError as error:
            problems.append(error)
    return folds, problems


def _checked(fold: RatedFold, path: Path) -> RatedFold:
    for mask, record in fold.masks.items():
        widths = {len(row) for row in (*record.target, *record.told)}
        if widths - {len(fold.labels)} or len({len(record.start), len(record.target), len(record.told)}) > 1:
            reason = f"its lists differ in length, or its rows are not of {len(fold.labels)} ratings"
            raise ResultError(str(path), f"$.masks.{mask}", reason, REMEDY)
    return fold


def records(folds: Sequence[RatedFold]) -> list[dict[str, Any]]:
    """Flat records as those of classes, with ``ccc`` and ``rmse`` in their place."""
    rows: dict[tuple[str, ...], list[RatedFold]] = {}
    for fold in folds:
        rows.setdefault((fold.dataset, fold.task, fold.mode, fold.system, fold.runtime), []).append(fold)
    ordered = sorted(rows.items(), key=lambda item: (*item[0][:3], system_order(item[0][3]), item[0][4]))
    made = (_record(mask, of_row) for _, of_row in ordered for mask in MASKS)
    return [record for record in made if record["subjects"]]


def _record(mask: str, folds: Sequence[RatedFold]) -> dict[str, Any]:
    first, found = folds[0], _people(mask, folds)
    scores = {s: float(np.nanmean([ccc for ccc, _ in of])) for s, of in found.items()}
    of_each = np.array([np.nanmean([ccc for ccc, _ in of], axis=0) for of in found.values()])
    return {
        **{key: getattr(first, key) for key in ("dataset", "task", "mode", "system")},
        "mask": mask,
        "runtime": first.runtime,
        "subjects": len(found),
        "seeds": sorted({fold.seed for fold in folds}),
        "ccc": rounded(np.mean(list(scores.values()))) if scores else None,
        "rmse": rounded(np.mean([rmse for of in found.values() for _, rmse in of])) if scores else None,
        "ccc_of": {name: rounded(np.nanmean(of_each[:, i])) for i, name in enumerate(first.labels)} if scores else {},
        "ci95": [rounded(edge) for edge in subject_bootstrap(list(scores.values()))] if scores else [],
        "labels": list(first.labels),
        "surrogate_ecg": any(fold.surrogate_ecg for fold in folds) and mask != "eda",
        "left_out": sorted({fold.subject for fold in folds} - set(found), key=natural),
        "per_subject": {s: rounded(value) for s, value in scores.items()},
        **origin(folds),
    }


def _people(mask: str, folds: Sequence[RatedFold]) -> dict[str, list[tuple[Any, float]]]:
    """Concordance of each rating and RMSE, a pair for every seed, of people with a rating that varies."""
    out: dict[str, list[tuple[Any, float]]] = {}
    for fold in sorted(folds, key=lambda fold: natural(fold.subject)):
        if mask in fold.masks and fold.masks[mask].start:
            told, target = np.array(fold.masks[mask].told), np.array(fold.masks[mask].target)
            ccc = concordance(told, target)
            if np.isfinite(ccc).any():
                out.setdefault(fold.subject, []).append((ccc, float(np.sqrt(((told - target) ** 2).mean()))))
    return out


def markdown(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Paragraphs of a page: a table for each data set, task and mode."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for record in flat:
        groups.setdefault((record["dataset"], record["task"], record["mode"]), []).append(record)
    parts = [READING] if groups else []
    for (dataset, task, mode), of_group in groups.items():
        rows = [HEAD, ["---"] * len(HEAD), *(_row(record) for record in of_group)]
        table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        parts += [f"## {column_words((dataset, task))}, {MODE_WORDS[mode]}", table]
    return parts


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    each = ", ".join(f"{name} {figure(value)}" for name, value in record["ccc_of"].items())
    return (
        system_words(record["system"], record["runtime"]),
        sensors(record["mask"], record["surrogate_ecg"]),
        figure(record["ccc"]),
        interval(record["ci95"], True),
        figure(record["rmse"]),
        each,
        str(record["subjects"]),
    )
