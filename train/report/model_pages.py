"""Fills the tables of docs/models from flat records, so that no figure is copied by hand.

A page marks a place with ``<!-- figures: SYSTEM ... -->`` and its end with ``<!-- end -->``; what stands between them
is made anew. Knows nothing of where pages and records are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from train.errors import ResultError
from train.report.figures import MODES, name_of
from train.report.folds import MASKS
from train.report.words import MODE_WORDS, column_words, figure, interval, sensors, table_lines

Record = Mapping[str, Any]
PLACE = re.compile(r"(<!-- figures: (?P<systems>[^>]+?) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def filled(page: str, records: Sequence[Record], path: str) -> str:
    """The page with every table made of the records; ResultError names a system that has none."""
    floats = [r for r in records if r["runtime"] == "float" and "balanced_accuracy" in r]
    known = {name_of(r) for r in floats}

    def table(found: re.Match[str]) -> str:
        systems = found["systems"].split()
        if missing := [s for s in systems if s not in known]:
            remedy = "give records of a run with it, or take it from the page"
            raise ResultError(path, "figures", f"no record of {missing[0]}", remedy)
        return f"{found[1]}\n{_table(floats, systems)}\n"

    return PLACE.sub(table, page)


def _table(records: Sequence[Record], systems: Sequence[str]) -> str:
    """Balanced accuracy and its interval: a row for each task, mode and set of sensors, a column for each system."""
    cells = {(*_row_of(r), name_of(r)): f"{figure(r['balanced_accuracy'])} ({interval(r['ci95'])})" for r in records}
    there = {_row_of(r): r for r in records if name_of(r) in systems}
    rows = sorted(there, key=lambda row: (*row[:2], MODES.index(row[2]), MASKS.index(row[3])))
    body = []
    for row in rows:
        dataset, task, mode, mask = row
        shown = column_words((dataset, task)), MODE_WORDS[mode], sensors(mask, there[row]["surrogate_ecg"])
        body.append((*shown, *(cells.get((*row, system), "") for system in systems)))
    return table_lines(("task", "mode", "sensors", *systems), body)


def _row_of(record: Record) -> tuple[str, str, str, str]:
    return record["dataset"], record["task"], record["mode"], record["mask"]
