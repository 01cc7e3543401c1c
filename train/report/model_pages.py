"""Fills the tables of docs/models from flat records, so that no figure is copied by hand.

A page marks a place with ``<!-- figures: SYSTEM ... -->`` or, for shares of the labels and the first system's margin
over the second, ``<!-- labels: SYSTEM SYSTEM ... -->``, and its end with ``<!-- end -->``; what stands between them is
made anew. Knows nothing of where pages and records are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.errors import ResultError
from train.report.ablation import margin
from train.report.figures import MODES, name_of
from train.report.folds import MASKS
from train.report.words import MODE_WORDS, column_words, figure, interval, p_words, sensors, table_lines

Record = Mapping[str, Any]
PLACE = re.compile(r"(<!-- (?P<kind>figures|labels): (?P<systems>[^>]+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def filled(page: str, records: Sequence[Record], path: str) -> str:
    """The page with every table made of the records; ResultError names a system that has none."""
    floats = [r for r in records if r["runtime"] == "float" and "balanced_accuracy" in r]
    known = {name_of(r) for r in floats}

    def table(found: re.Match[str]) -> str:
        systems = found["systems"].split()
        if missing := [s for s in systems if s not in known]:
            remedy = "give records of a run with it, or take it from the page"
            raise ResultError(path, found["kind"], f"no record of {missing[0]}", remedy)
        made = _table if found["kind"] == "figures" else _labels_table
        return f"{found[1]}\n{made(floats, systems)}\n"

    return PLACE.sub(table, page)


def _table(records: Sequence[Record], systems: Sequence[str]) -> str:
    """Balanced accuracy and its interval: a row for each task, mode and set of sensors, a column for each system; of a
    task and mode that one system alone was judged on nothing."""
    cells = {(*_row_of(r), name_of(r)): f"{figure(r['balanced_accuracy'])} ({interval(r['ci95'])})" for r in records}
    there = {_row_of(r): r for r in records if name_of(r) in systems}
    judged = Counter(group for group, _ in {(_row_of(r)[:3], name_of(r)) for r in records if name_of(r) in systems})
    rows = sorted(
        (row for row in there if judged[row[:3]] > 1),
        key=lambda row: (*row[:2], MODES.index(row[2]), MASKS.index(row[3])),
    )
    body = []
    for row in rows:
        dataset, task, mode, mask = row
        shown = column_words((dataset, task)), MODE_WORDS[mode], sensors(mask, there[row]["surrogate_ecg"])
        body.append((*shown, *(cells.get((*row, system), "") for system in systems)))
    return table_lines(("task", "mode", "sensors", *systems), body)


def _row_of(record: Record) -> tuple[str, str, str, str]:
    return record["dataset"], record["task"], record["mode"], record["mask"]


def _labels_table(records: Sequence[Record], systems: Sequence[str]) -> str:
    """Balanced accuracy: a row for each mode, share of the labels and task that every system has, and their mean; last
    the first system's margin over the second."""
    cells = {(r["mode"], r.get("label_share", 1.0), (r["dataset"], r["task"]), r["system"]): r for r in records}
    places = {key[:3] for key in cells if all((*key[:3], system) in cells for system in systems)}
    body = []
    for mode, share in sorted({place[:2] for place in places}, key=lambda it: (MODES.index(it[0]), -it[1])):
        columns = sorted(column for m, s, column in places if (m, s) == (mode, share))
        for averaged in [[column] for column in columns] + ([columns] if len(columns) > 1 else []):
            each = {s: [cells[mode, share, column, s] for column in averaged] for s in systems}
            found = {s: float(np.mean([r["balanced_accuracy"] for r in mine])) for s, mine in each.items()}
            ours, theirs = ([r["per_subject"] for r in each[s]] for s in systems[:2])
            over = margin(list(zip(ours, theirs, strict=True)))
            said = f"{over.difference:+.3f} ({interval(over.ci95, signed=True)}; {p_words(over.p)})"
            name = column_words(averaged[0]) if len(averaged) == 1 else "mean"
            body.append((MODE_WORDS[mode], f"{share:.0%}", name, *(figure(found[s]) for s in systems), said))
    return table_lines(("mode", "labels", "task", *systems, f"{systems[0]} over {systems[1]}"), body)
