"""Result records to a Markdown table.

Knows nothing of how the records were made; reads only what is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.errors import ResultError

COLUMNS = ("mode", "system", "mask", "bal. acc.", "95 %", "macro-F1", "acc.", "AUROC", "ECE", "p (acc)")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Flat records of one results file."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(str(path), "file", error.strerror or "cannot be read", "run affectd-train loso") from error
    except ValueError as error:
        raise ResultError(str(path), "file", "is not JSON", "run affectd-train loso again") from error
    if not isinstance(records, list):
        raise ResultError(str(path), "top level", "is not a list of records", "run affectd-train loso again")
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown table; the last column is Wilcoxon's p of the acc network against the row, paired over subjects."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *(_row(record) for record in records)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    low, high = record["ci95"]
    figures = (_figure(record[k]) for k in ("macro_f1", "accuracy", "auroc", "ece"))
    p = record.get("wilcoxon_p_acc_against_this")
    head = (record["mode"].replace("_", " "), record["system"], record["mask"], _figure(record["balanced_accuracy"]))
    return (*head, f"{low:.3f}-{high:.3f}", *figures, "" if p is None else f"{p:.3f}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
