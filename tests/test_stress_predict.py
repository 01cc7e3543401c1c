"""The Stress-Predict reader on a small data set in the published layout, whole and broken, and on the real one."""

from __future__ import annotations

import datetime as dt
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from test_e4 import write_folder

from train.data import stress_predict
from train.data.errors import DataError

REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no Stress-Predict")
START = dt.datetime(2022, 2, 7, 12, 50, 30, tzinfo=dt.UTC).timestamp()
HEADINGS = ["S. ID.", "Start Time", "End Time", "Session ID", "Consent", None, "Baseline/Questionniare", None]
HEADINGS += ["Stroop Test", None, "Relax", None, "Interview", None, "Relax", None, "Hyperventilation", None]
HEADINGS += ["Relax", None, "Questionniare", None, "Relax/Baseline", None, None, "Date"]
MINUTES = [51, 52, 53, 54, 54, 55, 55, 57, 57, 58, 58, 59, 59, 60, 60, 61, 61, 62]
"""Start and end of baseline, Stroop, ... in minutes after 12:00; the last are 1:00, 1:01, 1:02 on a 12-hour clock."""
TASK_SECONDS = [(145, 215), (265, 390), (451, 515)]
"""Label 1, s after START; the time log has 150-210, 270-390, 450-510."""


def clock(minute: int) -> dt.time:
    return dt.time((12 + minute // 60 - 1) % 12 + 1, minute % 60)


def write_set(root: Path) -> Path:
    """Subject S02 with labels and S01 without, 12 minutes each."""
    book = openpyxl.Workbook()
    book.active.append(HEADINGS)
    book.active.append([None] * 4 + ["Start", "End"] * 10)
    for subject in ("S01", "S02"):
        times = [clock(m) for m in (50, 51, *MINUTES)]
        book.active.append([subject, None, None, 1, *times, "Day 1", dt.datetime(2022, 2, 7)])
    (root / "Processed_data").mkdir(parents=True)
    book.save(root / stress_predict.LOG_FILE)
    seconds = np.arange(9, 715)
    label = sum(((seconds >= a) & (seconds < b)).astype(int) for a, b in TASK_SECONDS)
    rows = [f"2,80,{'' if s == 20 else 12.1},{START + s:.0f},{v}\n" for s, v in zip(seconds, label, strict=True)]
    (root / stress_predict.LABEL_FILE).write_text("Participant,HR,respr,Time(sec),Label\n" + "".join(rows))
    for subject in ("S01", "S02"):
        folder = write_folder(root / "Raw_data" / subject, seconds=720)
        for name in ("EDA", "BVP", "IBI"):
            text = (folder / f"{name}.csv").read_text().split("\n", 1)
            tail = ", IBI\n" if name == "IBI" else "\n"
            (folder / f"{name}.csv").write_text(f"{START:.6f}{tail}{text[1]}")
        tags = [START + edge for task in TASK_SECONDS for edge in task]
        (folder / "tags.csv").unlink()
        (folder / f"tags_{subject}.csv").write_text("".join(f"{tag:.2f}\n" for tag in tags))
    return root


def test_tasks_follow_the_labels_and_the_rest_the_log(tmp_path: Path) -> None:
    recording = stress_predict.load(write_set(tmp_path), "S02")
    assert [(a.description, a.onset, a.stop) for a in recording.annotations] == [
        ("transition", 0, 30),
        ("baseline", 30, 90),
        ("transition", 90, 145),
        ("stroop", 145, 215),
        ("relax", 215, 265),
        ("interview", 265, 390),
        ("relax", 390, 450),
        ("transition", 450, 451),
        ("hyperventilation", 451, 515),
        ("relax", 515, 570),
        ("questionnaire", 570, 630),
        ("relax", 630, 690),
        ("transition", 690, 720),
    ]
    assert sorted(recording.signals) == ["bvp", "eda", "ibi"]
    assert recording.notes == ()


def test_agreement_of_the_sources(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    found = stress_predict.agreement(root, "S02")
    assert found.log_offsets_s == (-5.0, 5.0, -5.0, 0.0, 1.0, 5.0)
    assert found.edges_tagged == 6
    assert found.same_share == pytest.approx(1 - 21 / 706)
    assert stress_predict.agreement(root, "S01").same_share is None


def test_a_subject_without_labels_is_left_out_unless_asked(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    assert stress_predict.subjects(root) == ("S02",)
    assert stress_predict.subjects(root, labelled=False) == ("S01", "S02")
    recording = stress_predict.load(root, "S01")
    assert [a.onset for a in recording.annotations if a.description in stress_predict.TASKS] == [150, 270, 450]
    assert "no published labels" in recording.notes[0]


def _labels(root: Path, old: str, new: str) -> Path:
    path = root / stress_predict.LABEL_FILE
    path.write_text(path.read_text().replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("Participant,HR", "Subject,HR", "line 1"),
        (f"2,80,12.1,{START + 11:.0f},0\n", f"2,80,12.1,{START + 11:.0f}\n", "line 4"),
        (f"2,80,12.1,{START + 11:.0f},0\n", "", "line 4"),
        (f"2,80,12.1,{START + 11:.0f},0\n", f"2,80,12.1,{START + 11:.0f},2\n", "line 4"),
        (f"2,80,12.1,{START + 300:.0f},1\n", f"2,80,12.1,{START + 300:.0f},0\n", "participant 2"),
        (f"{START + 714:.0f},0\n", f"{START + 714:.0f},0", "line 707"),
    ],
)
def test_a_broken_label_file_is_named(tmp_path: Path, old: str, new: str, place: str) -> None:
    root = write_set(tmp_path)
    path = _labels(root, old, new)
    with pytest.raises(DataError) as caught:
        stress_predict.load(root, "S02")
    assert (caught.value.path, caught.value.place) == (str(path), place)
    assert caught.value.remedy


def _edit(root: Path, row: int, column: int, value: object) -> None:
    book = openpyxl.load_workbook(root / stress_predict.LOG_FILE)
    book.active.cell(row, column).value = value
    book.save(root / stress_predict.LOG_FILE)


@pytest.mark.parametrize(
    ("row", "column", "value", "place"),
    [
        (1, 9, "Test", "row 1"),
        (4, 9, "half past", "row 4, column I"),
        (4, 1, "S03", "row 4"),
        (4, 26, None, "row 4"),
    ],
)
def test_a_broken_time_log_is_named(tmp_path: Path, row: int, column: int, value: object, place: str) -> None:
    root = write_set(tmp_path)
    _edit(root, row, column, value)
    with pytest.raises(DataError) as caught:
        stress_predict.load(root, "S02")
    assert (caught.value.path, caught.value.place) == (str(root / stress_predict.LOG_FILE), place)


def test_missing_and_cut_files(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    whole = (root / stress_predict.LOG_FILE).read_bytes()
    (root / stress_predict.LOG_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable"):
        stress_predict.load(root, "S02")
    (root / stress_predict.LOG_FILE).unlink()
    with pytest.raises(DataError, match="is missing"):
        stress_predict.load(root, "S02")
    (root / "Raw_data/S02/EDA.csv").unlink()
    with pytest.raises(DataError, match=r"EDA\.csv: file: is missing"):
        stress_predict.load(root, "S02")
    with pytest.raises(DataError, match="holds no folder S01"):
        stress_predict.subjects(tmp_path / "elsewhere")


@needs_reference
def test_the_real_set_has_34_labelled_subjects_whose_sources_agree() -> None:
    root = Path(str(REFERENCE)) / "stress_predict"
    names = stress_predict.subjects(root)
    assert names == tuple(f"S{k:02d}" for k in range(2, 36))
    found = [stress_predict.agreement(root, name) for name in names[::3]]
    # Read in another time zone, or without am / pm, the log would be off by whole hours.
    assert max(abs(offset) for one in found for offset in one.log_offsets_s or ()) < 180
    assert min(one.same_share or 0 for one in found) > 0.85


@needs_reference
@pytest.mark.parametrize("subject", ["S01", "S06", "S18", "S19", "S35"])
def test_real_phases_tile_the_recording_in_the_protocols_order(subject: str) -> None:
    recording = stress_predict.load(Path(str(REFERENCE)) / "stress_predict", subject)
    phases = recording.annotations
    assert phases[0].onset == 0
    assert all(before.stop == pytest.approx(after.onset) for before, after in pairwise(phases))
    assert {phase.description for phase in phases} <= set(stress_predict.LABELS)
    tasks = [phase.description for phase in phases if stress_predict.LABELS[phase.description]]
    assert tasks == list(stress_predict.TASKS)
    assert sum(p.duration for p in phases if p.description == "baseline") >= (240 if subject == "S01" else 500)
    assert bool(recording.notes) == (subject in ("S01", "S19"))
