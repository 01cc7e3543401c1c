"""Folds to one self-contained HTML page: no script, nothing loaded from anywhere.

Knows nothing of where folds come from or where the page goes; figures and ablation make its numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from train.report import figures
from train.report.ablation import Ablation
from train.report.drawings import drawings, find, lead_system
from train.report.figures import OURS, Group
from train.report.folds import MASKS, Fold
from train.report.markdown import ablations, by_group, people_and_seeds
from train.report.words import (
    MODE_WORDS,
    SURROGATE,
    column_words,
    figure,
    interval,
    p_value,
    p_words,
    sensors,
    system_words,
)

Record = Mapping[str, Any]
FIRST_CHOICES = 6
"""Values of one choice that are named one by one; of more, the middle and the ends."""
templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters.update(
    figure=figure, interval=interval, p_value=p_value, p_words=p_words, column=column_words, system=system_words
)


def page(folds: Sequence[Fold], problems: Sequence[str] = (), title: str = "Leave-one-subject-out results") -> str:
    """The page of all folds; ``problems`` are said at its top."""
    made = figures.groups(folds)
    records = figures.records(folds)
    of_group = by_group(records)
    ends = [edge for record in records for edge in record["ci95"]]
    return templates.get_template("page.html.j2").render(
        title=title,
        problems=[*problems, *(f"{_title(g)}: {m}" for g, of in made.items() for m in figures.missing(of))],
        surrogate=SURROGATE if any(record["surrogate_ecg"] for record in records) else None,
        overview=[_overview(group, of_group[group]) for group in made if group in of_group],
        ablations=[
            {"mode": MODE_WORDS[a.mode], "of": a, "sees": sensors(a.sees, a.surrogate_ecg), "rows": _ablation_rows(a)}
            for a in ablations(records)
        ],
        groups=[_section(group, made[group], of_group[group]) for group in made if group in of_group],
        origins=_origins(folds),
        least=float(np.floor(min(ends, default=0.0) * 10) / 10),
        ours=OURS,
    )


def _title(group: Group) -> str:
    return f"{column_words(group[:2])}, {MODE_WORDS[group[2]]}"


def _anchor(group: Group) -> str:
    return "-".join("".join(c if c.isalnum() else "-" for c in part) for part in group)


def _overview(group: Group, of_group: Sequence[Record]) -> dict[str, Any]:
    lead, best = lead_system(of_group), figures.best_classical(of_group)
    return {
        "title": column_words(group[:2]),
        "mode": MODE_WORDS[group[2]],
        "anchor": _anchor(group),
        "lead": lead,
        "ours": find(of_group, lead),
        "best": find(of_group, best),
        "surrogate": any(record["surrogate_ecg"] for record in of_group),
    }


def _ablation_rows(found: Ablation) -> list[dict[str, Any]]:
    return [
        {
            "system": row.system,
            "sensors": sensors(row.mask, found.surrogate_ecg),
            "cells": [
                (row.margins.get(column), found.best_classical.get(column) == row.system) for column in found.columns
            ],
        }
        for row in found.rows
    ]


def _section(group: Group, folds: Sequence[Fold], of_group: Sequence[Record]) -> dict[str, Any]:
    surrogate = any(record["surrogate_ecg"] for record in of_group)
    return {
        "title": _title(group),
        "anchor": _anchor(group),
        "people": people_and_seeds(of_group),
        "surrogate": surrogate,
        "tables": _tables(of_group, surrogate),
        "drawings": drawings(_title(group), folds, of_group),
        "choices": _choices(folds),
        "persons": _persons(of_group),
    }


def _tables(of_group: Sequence[Record], surrogate: bool) -> list[dict[str, Any]]:
    """One block of rows a mask, the best network or model of each marked."""
    out = []
    for mask in MASKS:
        rows = [record for record in of_group if record["mask"] == mask]
        if rows:
            best = max(record["balanced_accuracy"] for record in rows)
            out.append({"sensors": sensors(mask, surrogate and mask != "eda"), "rows": rows, "best": best})
    return out


def _choices(folds: Sequence[Fold]) -> dict[str, Any]:
    """Per system and thing chosen: the values, and in brackets the folds that chose them."""
    found = figures.choices(folds)
    keys = list(dict.fromkeys(key for counters in found.values() for key in counters))
    rows = [(system, [_counted(counters.get(key, Counter())) for key in keys]) for system, counters in found.items()]
    return {"keys": [key.replace("_", " ") for key in keys], "rows": rows}


def _counted(counter: Counter[Any]) -> str:
    if len(counter) > FIRST_CHOICES and all(isinstance(v, int | float) for v in counter):
        values = list(counter.elements())
        return f"{min(values):g} to {max(values):g}, median {np.median(values):g}"
    return ", ".join(f"{_value(value)} ({n})" for value, n in counter.most_common())


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _persons(of_group: Sequence[Record]) -> dict[str, Any]:
    """Balanced accuracy of every person, with all sensors a system sees."""
    columns: dict[str, Record] = {}
    for record in sorted(
        of_group, key=lambda r: figures.system_order(figures.name_of(r))
    ):  # stable: more sensors first
        if record["runtime"] == "float" and record["system"] not in figures.KNOW_NOTHING:
            columns.setdefault(figures.name_of(record), record)
    people = sorted({s for record in columns.values() for s in record["per_subject"]}, key=figures.natural)
    rows = [(s, [record["per_subject"].get(s) for record in columns.values()]) for s in people]
    return {"systems": list(columns), "rows": rows}


def _origins(folds: Sequence[Fold]) -> dict[str, Any]:
    """Everything that the folds say of their making, each thing once."""
    runs: Counter[tuple[str, str]] = Counter()
    versions: dict[str, set[str]] = {}
    configs: dict[str, set[str]] = {}
    data: dict[tuple[str, str], set[str]] = {}
    for fold in folds:
        said = fold.provenance
        runs[str(said.get("commit", "unknown")), str(said.get("command", "unknown"))] += 1
        for package, version in dict(said.get("versions") or {}).items():
            versions.setdefault(package, set()).add(str(version))
        if said.get("config"):
            text = json.dumps(said["config"], indent=1, sort_keys=True)
            configs.setdefault(text, set()).add(f"{_title((fold.dataset, fold.task, fold.mode))}: {fold.system}")
        for subject, digest in dict(said.get("data") or {}).items():
            data.setdefault((fold.dataset, str(subject)), set()).add(str(digest))
    return {
        "runs": sorted(runs.items()),
        "versions": [(package, ", ".join(sorted(found))) for package, found in sorted(versions.items())],
        "configs": [(", ".join(sorted(names)), text) for text, names in sorted(configs.items())],
        "data": [
            (dataset, subject, ", ".join(sorted(found)))
            for (dataset, subject), found in sorted(data.items(), key=lambda i: (i[0][0], figures.natural(i[0][1])))
        ],
    }
