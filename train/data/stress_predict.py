"""Reader of Stress-Predict (Iqbal et al. 2022, Sensors 22(21):8135; MIT): E4 folders of 35 people with task times.

Knows nothing of windows or networks.

Two sources say when a task ran, and they differ:
- ``Processed_data/Improved_All_Combined_hr_rsp_binary.csv`` holds a label per second for subjects 2-35. Its edges are
  the wearer's button presses (``tags_SXX.csv``) to the second: 193 of 204 edges have their press. The other eleven (S06
  all six, S17 three, S18 and S30 the first) are the time log's minutes, where a press is missing or wrong.
- ``Processed_data/Time_logs.xlsx`` holds every phase, in whole minutes written by hand, on a 12-hour clock without am
  and pm. "Irish standard time" is UTC here (the study ran 7 February to 9 March 2022, before the clocks changed): with
  that reading its 204 task edges lie a median of 20 s from the labels' edges, and 2 of them more than 100 s (start of
  the interview of S09 and S19; there EDA and heart rate move with the label, not with the log).
So the labels decide when the three tasks ran, and the time log only names and bounds what lies between them. A task
edge where both differ by more than 100 s is named in the recording's notes. S01 has no labels; its tasks come from the
time log alone, which the notes say, and ``subjects`` leaves it out unless asked.

Worth knowing: the first EDA sample of every file is 0 (the band starts so), and the wrist EDA of many is small (medians
of 0.13 to 4.8 uS; 14 of 34 below 0.35 uS), with little time below 0.05 uS (at most 4 %, S17).
"""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from train.data import e4
from train.data.errors import DataError
from train.data.types import Annotation, Floats, Recording

DATASET = "stress-predict"
TASKS = ("stroop", "interview", "hyperventilation")
"""In the order in which everyone did them."""
LABELS = {"baseline": 0, "relax": 0, "questionnaire": 0, "transition": 0} | dict.fromkeys(TASKS, 1)
"""Published label of each description: 1 while a task runs, 0 in all other time."""

PHASES = {"Baseline/Questionniare": "baseline", "Stroop Test": "stroop", "Relax": "relax", "Interview": "interview"} | {
    "Hyperventilation": "hyperventilation",
    "Questionniare": "questionnaire",
    "Relax/Baseline": "relax",
}
"""The time log's own headings, its spelling kept, to descriptions. ``Consent`` precedes the recording."""
FIRST_MORNING_HOUR = 8
"""Sessions began between 9:05 and 15:34, so that an hour below 8 on the log's 12-hour clock is in the afternoon."""
MAX_LOG_OFFSET_S = 100.0
"""A hand-written minute is right to about 60 s and the press comes within seconds; more is worth a note."""
TAG_MATCH_S = 0.6
"""Labels are whole seconds: a press belongs to an edge when it rounds to it."""
LABEL_FILE = Path("Processed_data", "Improved_All_Combined_hr_rsp_binary.csv")
LOG_FILE = Path("Processed_data", "Time_logs.xlsx")
REMEDY = "get Processed_data again from github.com/italha-d/Stress-Predict-Dataset"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the sources of task times of one subject agree; None where the subject has no labels."""

    subject: str
    log_offsets_s: tuple[float, ...] | None
    """Label edge minus time log, for start and end of each task in order, s."""
    edges_tagged: int | None
    """Of the six label edges, those with a button press."""
    same_share: float | None
    """Share of labelled seconds on which label and time log agree."""


def subjects(root: Path, *, labelled: bool = True) -> tuple[str, ...]:
    """Subjects on disk in order: the 34 with labels, or all 35."""
    found = sorted(folder.name for folder in (root / "Raw_data").glob("S[0-9][0-9]") if folder.is_dir())
    if not found:
        raise DataError(str(root), "Raw_data", "holds no folder S01, S02, ...", "point to the data set's top folder")
    if not labelled:
        return tuple(found)
    have = set(np.unique(_label_table(root)[:, 0]).astype(int))
    return tuple(name for name in found if int(name[1:]) in have)


def load(root: Path, subject: str) -> Recording:
    """One subject: ``eda`` (uS, 4 Hz), ``bvp`` (64 Hz), ``ibi`` (irregular), and every phase as an annotation.

    Annotations follow each other without a hole; what is no phase is ``transition``. Their descriptions are keys of
    LABELS.
    """
    folder = e4.read_folder(root / "Raw_data" / subject, ("eda", "bvp", "ibi"))
    for needed in ("eda", "bvp"):
        if needed not in folder.signals:
            raise DataError(str(folder.path / f"{needed.upper()}.csv"), "file", "is missing", e4.REMEDY)
    log = _time_log(root, subject)
    stop = max(signal.stop for signal in folder.signals.values())
    shifted = [Annotation(a.onset - folder.start_utc, a.duration, a.description) for a in log]
    labels = _labels(root, subject)
    if labels is None:
        notes: tuple[str, ...] = ("no published labels: all phases are the time log's, right to about a minute",)
        return Recording(DATASET, subject, subject, folder.signals, _tiled([], shifted, stop), notes)
    tasks = _tasks(root, subject, labels - [folder.start_utc, 0])
    notes = _disagreements(tasks, shifted)
    return Recording(DATASET, subject, subject, folder.signals, _tiled(tasks, shifted, stop), notes)


def agreement(root: Path, subject: str) -> Agreement:
    """Figures of how labels, time log and button presses of one subject agree."""
    labels = _labels(root, subject)
    if labels is None:
        return Agreement(subject, None, None, None)
    folder = e4.read_folder(root / "Raw_data" / subject, ("eda",))
    tasks, log = _tasks(root, subject, labels), _time_log(root, subject)
    edges = [edge for task in tasks for edge in (task.onset, task.stop)]
    tags = np.asarray(folder.tags) + folder.start_utc
    tagged = sum(bool((np.abs(tags - edge) <= TAG_MATCH_S).any()) for edge in edges)
    logged = np.zeros(len(labels), bool)
    for phase in log:
        if phase.description in TASKS:
            logged |= (labels[:, 0] >= phase.onset) & (labels[:, 0] < phase.stop)
    return Agreement(subject, _offsets(tasks, log), tagged, float((logged == (labels[:, 1] == 1)).mean()))


def _offsets(tasks: Sequence[Annotation], log: Sequence[Annotation]) -> tuple[float, ...]:
    """Label edge minus log edge, start and end of each task, s."""
    logged = {phase.description: phase for phase in log}
    pairs = [(task, logged[task.description]) for task in tasks]
    return tuple(edge for a, b in pairs for edge in (a.onset - b.onset, a.stop - b.stop))


def _disagreements(tasks: Sequence[Annotation], log: Sequence[Annotation]) -> tuple[str, ...]:
    """A note for each task edge on which label and log differ too far."""
    edges = [f"{task.description} {edge}" for task in tasks for edge in ("start", "end")]
    offsets = _offsets(tasks, log)
    return tuple(
        f"{edge}: label {offset:+.0f} s from the time log"
        for edge, offset in zip(edges, offsets, strict=True)
        if abs(offset) > MAX_LOG_OFFSET_S
    )


def _tiled(tasks: Sequence[Annotation], log: Sequence[Annotation], stop: float) -> tuple[Annotation, ...]:
    """Tasks at their labelled times, the log's other phases in the room they leave, ``transition`` elsewhere."""
    names = [phase.description for phase in log]
    out = list(tasks)
    for at, phase in enumerate(log):
        if tasks and phase.description in TASKS:
            continue
        before = [t.stop for t in tasks if t.description in names[:at]]
        after = [t.onset for t in tasks if t.description in names[at:]]
        start = _snapped(phase.onset, at and names[at - 1], tasks, max(before, default=0.0))
        out += _within(phase.description, start, phase.stop, max(before, default=0.0), min(after, default=stop))
    return _without_holes(sorted(out, key=lambda a: a.onset), stop)


def _snapped(onset: float, previous: str | int, tasks: Sequence[Annotation], stop: float) -> float:
    """A phase that the log begins right after a task begins at the task's labelled end."""
    return stop if any(task.description == previous for task in tasks) else onset


def _within(description: str, start: float, stop: float, low: float, high: float) -> list[Annotation]:
    """The phase cut to ``low`` .. ``high``; nothing when nothing is left."""
    start, stop = max(start, low, 0.0), min(stop, high)
    return [Annotation(start, stop - start, description)] if stop > start else []


def _without_holes(phases: Sequence[Annotation], stop: float) -> tuple[Annotation, ...]:
    """Cut overlaps (hand-written times) and name holes ``transition``."""
    out: list[Annotation] = []
    end = 0.0
    for phase in phases:
        if phase.onset > end:
            out.append(Annotation(end, phase.onset - end, "transition"))
        out += _within(phase.description, phase.onset, phase.stop, end, stop)
        end = max(end, min(phase.stop, stop))
    if stop > end:
        out.append(Annotation(end, stop - end, "transition"))
    return tuple(out)


def _tasks(root: Path, subject: str, labels: Floats) -> list[Annotation]:
    """The three runs of label 1 in ``labels`` (n, 2) [time s, label], as the three tasks in order."""
    edges = np.flatnonzero(np.diff(labels[:, 1], prepend=0, append=0))
    if len(edges) != 2 * len(TASKS):
        place = f"participant {int(subject[1:])}"
        raise DataError(str(root / LABEL_FILE), place, f"{len(edges) // 2} runs of label 1 where 3 tasks ran", REMEDY)
    starts, stops = labels[edges[::2], 0], labels[edges[1::2] - 1, 0] + 1
    return [Annotation(float(a), float(b - a), name) for a, b, name in zip(starts, stops, TASKS, strict=True)]


def _labels(root: Path, subject: str) -> Floats | None:
    """(n, 2) [Unix time s, label] of one subject, None where there is none."""
    table = _label_table(root)
    mine = np.flatnonzero(table[:, 0] == int(subject[1:]))
    if not len(mine):
        return None
    labels = table[mine, 1:]
    bad = np.flatnonzero((np.diff(labels[:, 0]) != 1) | ~np.isin(labels[1:, 1], (0, 1)))
    if len(bad):
        place = f"line {mine[bad[0]] + 3}"
        raise DataError(str(root / LABEL_FILE), place, "is not the next second with label 0 or 1", REMEDY)
    return labels


def _label_table(root: Path) -> Floats:
    """(n, 3) [participant, Unix time s, label]; the heart and breathing rates (with holes) are not read."""
    path = root / LABEL_FILE
    lines = _label_lines(path)
    try:
        return np.loadtxt(lines[1:], delimiter=",", usecols=(0, 3, 4), ndmin=2)
    except (ValueError, IndexError):
        raise DataError(str(path), f"line {_bad_line(lines)}", "is not 5 columns of numbers", REMEDY) from None


def _label_lines(path: Path) -> list[str]:
    """Lines of the label file, header checked."""
    if not path.is_file():
        raise DataError(str(path), "file", "is missing", REMEDY)
    text = path.read_text("utf-8", errors="replace")
    lines = text.splitlines()
    if not lines or lines[0].strip() != "Participant,HR,respr,Time(sec),Label" or len(lines) < 2:
        raise DataError(str(path), "line 1", "is not the published header followed by rows", REMEDY)
    if not text.endswith("\n"):
        raise DataError(str(path), f"line {len(lines)}", "the file ends in the middle of a line", REMEDY)
    return lines


def _bad_line(lines: Sequence[str]) -> int:
    """Number of the first row whose used columns are no numbers."""
    for at, line in enumerate(lines[1:], 2):
        parts = line.split(",")
        try:
            [float(parts[column]) for column in (0, 3, 4)]
        except (ValueError, IndexError):
            return at
    return len(lines)


def _time_log(root: Path, subject: str) -> list[Annotation]:
    """Phases of one subject from the time log; onset is a Unix time."""
    path = root / LOG_FILE
    rows = _log_rows(path)
    headings = [str(cell).strip() if cell else "" for cell in rows[0]]
    if missing := set(PHASES) - set(headings):
        raise DataError(str(path), "row 1", f"lacks the heading {sorted(missing)[0]!r}", REMEDY)
    for number, row in enumerate(rows[2:], 3):
        if row and row[0] == subject:
            return _phases(path, number, headings, row)
    raise DataError(str(path), f"row {len(rows)}", f"ends without subject {subject}", REMEDY)


def _log_rows(path: Path) -> list[tuple[object, ...]]:
    """Cells of the time log: two header rows (phases, merged over two columns; start and end), then the subjects."""
    if not path.is_file():
        raise DataError(str(path), "file", "is missing", REMEDY)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, EOFError):
        raise DataError(str(path), "file", "is not a readable .xlsx workbook", REMEDY) from None
    with_rows = [tuple(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    book.close()
    if len(with_rows) < 3:
        raise DataError(str(path), f"row {len(with_rows) + 1}", "ends before the first subject", REMEDY)
    return with_rows


def _phases(path: Path, number: int, headings: Sequence[str], row: Sequence[object]) -> list[Annotation]:
    """The row's phases in the log's order of columns."""
    day = next((cell for cell in reversed(row) if isinstance(cell, dt.datetime)), None)
    if day is None:
        raise DataError(str(path), f"row {number}", "has no date", REMEDY)
    out = []
    for column, heading in enumerate(headings):
        if heading in PHASES:
            start, stop = (_utc(path, number, column + k, day, row) for k in (0, 1))
            out.append(Annotation(start, stop - start, PHASES[heading]))
    return out


def _utc(path: Path, number: int, column: int, day: dt.datetime, row: Sequence[object]) -> float:
    """A cell of the 12-hour clock as Unix time (UTC: see the module's docstring)."""
    cell = row[column] if column < len(row) else None
    if isinstance(cell, dt.datetime):
        cell = cell.time()
    if not isinstance(cell, dt.time):
        place = f"row {number}, column {openpyxl.utils.get_column_letter(column + 1)}"
        raise DataError(str(path), place, f"{cell!r} is not a time of day", REMEDY)
    hour = cell.hour + (12 if cell.hour < FIRST_MORNING_HOUR else 0)
    return dt.datetime(day.year, day.month, day.day, hour, cell.minute, tzinfo=dt.UTC).timestamp()
