"""The figures of docs/models are those of results/loso.json, and its pictures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from train.errors import ResultError
from train.report.model_pages import filled

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "models").glob("*.md"))
RECORDS = json.loads((ROOT / "results" / "loso.json").read_text())


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_filling_a_page_again_changes_nothing(path: Path) -> None:
    text = path.read_text()
    assert filled(text, RECORDS, str(path)) == text
    assert "<!-- figures: " in text and "| WESAD " in text
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).is_file(), link


def test_a_table_has_a_row_for_each_task_mode_and_set_of_sensors_and_nothing_is_made_up() -> None:
    page = "before\n<!-- figures: ecg-only acc -->\nstale <!-- no end --> \n<!-- end -->\nafter\n"
    made = filled(page, RECORDS, "page.md")
    assert made.startswith("before\n<!-- figures: ecg-only acc -->\n\n| task | mode | sensors | ecg-only | acc |\n")
    assert made.endswith("|\n\n<!-- end -->\nafter\n") and "stale" not in made
    found = {(r["dataset"], r["task"], r["mode"], r["mask"]) for r in RECORDS if r["system"] == "acc"}
    assert made.count("\n| ") == 2 + len(found)
    (one,) = (r for r in RECORDS if (r["dataset"], r["mode"], r["system"], r["mask"], r["runtime"]) == (
        "stress-predict", "calibrated", "acc", "both", "float"))  # fmt: skip
    low, high = one["ci95"]
    begins = "| Stress-Predict rest/task | calibrated | surrogate ECG + EDA"
    (row,) = (line for line in made.splitlines() if line.startswith(begins))
    assert row.endswith(f"|  | {one['balanced_accuracy']:.3f} ({low:.3f}-{high:.3f}) |")  # ecg-only never sees both


def test_fewer_labels_have_a_row_for_each_share_and_the_margin_of_the_first_system_over_the_second() -> None:
    made = filled("<!-- labels: transformer-pretrained transformer-scratch -->\n<!-- end -->", RECORDS, "page.md")
    ours, theirs = (
        next(
            r for r in RECORDS if (r["dataset"], r["mode"], r["system"], r.get("label_share"), r["runtime"]) == (
                "wesad", "cold_start", system, 0.25, "float"))
        for system in ("transformer-pretrained", "transformer-scratch")
    )  # fmt: skip
    both = ours["balanced_accuracy"], theirs["balanced_accuracy"]
    margin = np.mean([ours["per_subject"][s] - theirs["per_subject"][s] for s in ours["per_subject"]])
    row = f"| cold start | 25% | WESAD non-stress/stress | {both[0]:.3f} | {both[1]:.3f} | {margin:+.3f} ("
    assert row in made and made.count("| cold start | 10% | WESAD ") == 1


def test_a_system_without_a_record_is_named() -> None:
    with pytest.raises(ResultError, match="no record of nobody"):
        filled("<!-- figures: acc nobody -->\n<!-- end -->", RECORDS, "page.md")
