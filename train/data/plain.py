"""Reader of the plain folder layout for anybody's own data: see docs/DATA.md, which documents it.

Knows nothing of any study or sensor. Strict on purpose: what is not documented is refused by name, because a loader
that guesses finds labels in the wrong place.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from train.data import edf
from train.data._channels import UNITS, factor
from train.data._checks import gap_notes, inside
from train.data._tables import MISSING, header, natural, number, numbers, read_lines
from train.data.errors import DataError
from train.data.types import Annotation, Floats, Recording, Signal

NAME = "plain"
TITLE = "plain folders: subject/ecg.csv, eda.csv, annotations.tsv, info.json"
LICENCE = "that of the data; info.json states it"
URL = "docs/DATA.md"

INFO = "info.json"
LABELS = "annotations.tsv"
MODALITIES = ("ecg", "eda", "bvp", "resp", "temp", "acc", "emg", "eeg")
MAX_OFF_GRID = 0.3
"""Of a sample's length: how far a stated time may lie from the sample it is put on."""
MAX_GAP_S = 24 * 3600.0
"""Longer without a sample, and the times are of two sessions or in another unit."""
REMEDY = "see docs/DATA.md"

Positive = Annotated[float, msgspec.Meta(gt=0)]


class SignalInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What info.json says of one signal."""

    sfreq: Positive
    """Hz."""
    units: Annotated[str, msgspec.Meta(min_length=1)]
    start: float = 0.0
    """Time of the first sample, s from the recording's start."""
    surrogate: bool = False
    """Rebuilt from other data, not measured."""


class Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """info.json."""

    signals: dict[str, SignalInfo] = {}
    start: dt.datetime | None = None
    """When the recording began."""
    licence: str | None = None
    source: str | None = None
    """Sensors, study, whom to ask."""
    notes: list[str] = []


def recognise(root: Path) -> bool:
    """Whether a subject or a session has an info.json."""
    return root.is_dir() and any(next(root.glob(f"{depth}/{INFO}"), None) for depth in ("*", "*/*"))


def subjects(root: Path) -> list[str]:
    """Names of the folders that hold an info.json, themselves or in their sessions."""
    found = natural({path.relative_to(root).parts[0] for d in ("*", "*/*") for path in root.glob(f"{d}/{INFO}")})
    if not found:
        raise DataError(str(root), "folder", f"holds no SUBJECT/{INFO} and no SUBJECT/SESSION/{INFO}", REMEDY)
    return found


def load(root: Path, subject: str) -> list[Recording]:
    """The subject's sessions in natural order, or its one recording."""
    folder = root / subject
    sessions = natural(path.parent.name for path in folder.glob(f"*/{INFO}"))
    if (folder / INFO).is_file():
        if sessions:
            reason = f"has {INFO} itself and in session {sessions[0]}"
            raise DataError(str(folder), "folder", reason, f"keep one: {REMEDY}")
        return [_recording(folder, subject, subject)]
    if not sessions:
        raise DataError(str(folder), "folder", f"holds no {INFO}", REMEDY)
    return [_recording(folder / session, subject, session) for session in sessions]


def _recording(folder: Path, subject: str, session: str) -> Recording:
    """One folder of files."""
    info = _info(folder / INFO)
    files = _signal_files(folder, info)
    signals: dict[str, Signal] = {}
    notes = list(info.notes)
    embedded: list[tuple[str, Annotation]] = []
    for modality, path in files.items():
        if path.suffix == ".csv":
            signals[modality] = _csv(path, modality, info.signals[modality])
        else:
            signals[modality], found, more = _edf(path, modality, info.signals.get(modality))
            embedded += [(f"{path.name}, {place}", note) for place, note in found]
            notes += more
    labels = folder / LABELS
    stated = [] if not labels.is_file() else _labels(labels)
    if stated and embedded:
        raise DataError(
            str(labels), "file", f"and annotations inside an EDF file: {embedded[0][0]}", "keep one of both"
        )
    if not stated and not embedded:
        notes.append("no annotations")
    annotations = inside(str(labels if stated else folder), stated or embedded, list(signals.values()))
    notes += [f"{name}: {text}" for name, text in (("licence", info.licence), ("source", info.source)) if text]
    return Recording(NAME, subject, session, signals, annotations, (*notes, *gap_notes(signals)))


def _info(path: Path) -> Info:
    """info.json, checked key by key."""
    try:
        text = path.read_text("utf-8")
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DataError(str(path), f"line {error.lineno}", f"is not JSON ({error.msg})", REMEDY) from None
    except (OSError, ValueError) as error:
        raise DataError(str(path), "file", str(error), REMEDY) from None
    try:
        info = msgspec.convert(found, Info)
    except msgspec.ValidationError as error:
        raise DataError(str(path), f"line {_line_of(text, str(error))}", str(error), REMEDY) from None
    for modality, signal in info.signals.items():
        place = f"line {_line_of(text, f'`{modality}`')}"
        if modality not in MODALITIES:
            raise DataError(str(path), place, f"{modality!r} is none of {', '.join(MODALITIES)}", REMEDY)
        if modality in UNITS and factor(modality, signal.units) is None:
            known = ", ".join(UNITS[modality][1])
            raise DataError(str(path), place, f"{modality} in {signal.units!r}, known are {known}", REMEDY)
    return info


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object without a key given twice."""
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"key {twice[0]!r} is given twice")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are no JSON."""
    raise ValueError(f"{name} is not JSON")


def _line_of(text: str, message: str) -> int:
    """Line of the last key or value that a message quotes; 1 where it quotes none."""
    words = re.findall(r"[A-Za-z_]\w*", " ".join(re.findall(r"`([^`]*)`", message)))
    for word in reversed(words):
        for at, line in enumerate(text.splitlines(), 1):
            if f'"{word}"' in line:
                return at
    return 1


def _signal_files(folder: Path, info: Info) -> dict[str, Path]:
    """Modality -> its file; every signal file is known and every stated signal has one."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".csv", ".edf"):
            continue
        if path.stem not in MODALITIES:
            raise DataError(
                str(path), "file", f"is no signal of {', '.join(MODALITIES)}", f"rename or move it: {REMEDY}"
            )
        if path.stem in found:
            raise DataError(str(path), "file", f"and {found[path.stem].name} say the same", "keep one of both")
        if path.suffix == ".csv" and path.stem not in info.signals:
            reason = f"says nothing of {path.name}: its rate and units are unknown"
            raise DataError(str(folder / INFO), "signals", reason, f"add {path.stem!r}: {REMEDY}")
        found[path.stem] = path
    for modality in info.signals:
        if modality not in found:
            raise DataError(str(folder / f"{modality}.csv"), "file", f"is missing though {INFO} names it", REMEDY)
    if not found:
        raise DataError(str(folder), "folder", "holds no ecg.csv, ecg.edf, eda.csv or eda.edf", REMEDY)
    return {modality: found[modality] for modality in MODALITIES if modality in found}


def _csv(path: Path, modality: str, info: SignalInfo) -> Signal:
    """One signal; with a ``time`` column its missing samples are put in as NaN."""
    lines = read_lines(path, REMEDY)
    names = header(path, lines, ",", REMEDY)
    data = numbers(path, lines, len(names), ",", REMEDY)
    start = info.start
    if "time" in names:
        if names[0] != "time" or len(names) < 2:
            raise DataError(str(path), "line 1", "'time' is to be the first of at least two columns", REMEDY)
        start, data, names = *_on_grid(path, data, info), names[1:]
    scale = (factor(modality, info.units) or 1.0) if modality in UNITS else 1.0
    units = UNITS[modality][0] if modality in UNITS else info.units
    return Signal(data * scale, info.sfreq, units, tuple(names), start, info.surrogate)


def _on_grid(path: Path, data: Floats, info: SignalInfo) -> tuple[float, Floats]:
    """(first time, samples on the grid of the stated rate); where times leave samples out there is NaN."""
    times = data[:, 0]
    if info.start:
        raise DataError(str(path), "line 1", f"has times, and {INFO} a start", "keep one of both")
    at = (times - times[0]) * info.sfreq
    index = np.rint(at)
    steps = np.diff(index, prepend=-1)
    bad = np.flatnonzero(~(np.abs(at - index) <= MAX_OFF_GRID) | ~(steps >= 1) | ~(steps <= MAX_GAP_S * info.sfreq))
    if len(bad):
        line = int(bad[0])
        reason = f"time {times[line]:g} s does not follow at {info.sfreq:g} Hz"
        raise DataError(str(path), f"line {line + 2}", reason, f"correct sfreq in {INFO} or the times")
    whole = np.full((int(index[-1]) + 1, data.shape[1] - 1), np.nan)
    whole[index.astype(int)] = data[:, 1:]
    return float(times[0]), whole


def _edf(path: Path, modality: str, info: SignalInfo | None) -> tuple[Signal, list[tuple[str, Annotation]], list[str]]:
    """One signal, its annotations, notes. What info.json says must be what the header says."""
    if modality not in UNITS:
        raise DataError(str(path), "file", "only ecg and eda are read from EDF", f"write {modality}.csv")
    made, annotations, notes = edf.read_file(path)
    if modality not in made:
        raise DataError(str(path), "header", f"holds no channel named like {modality}", REMEDY)
    signal = made[modality]
    if info is None:
        return signal, annotations, notes
    if abs(signal.sfreq / info.sfreq - 1) > 1e-6:
        reason = f"{modality} is {info.sfreq:g} Hz, in {path.name} {signal.sfreq:g} Hz"
        raise DataError(str(path.with_name(INFO)), "signals", reason, "correct the wrong one")
    same = Signal(signal.data, signal.sfreq, signal.units, signal.ch_names, info.start, info.surrogate)
    moved = [(at, Annotation(a.onset + info.start, a.duration, a.description)) for at, a in annotations]
    return same, moved, notes


def _labels(path: Path) -> list[tuple[str, Annotation]]:
    """annotations.tsv with the line of each; further columns are ratings."""
    lines = read_lines(path, REMEDY)
    names = ["description" if name == "trial_type" else name for name in header(path, lines, "\t", REMEDY)]
    if names[:3] != ["onset", "duration", "description"]:
        reason = f"begins with {names[:3]}, not onset, duration, description with tabs between"
        raise DataError(str(path), "line 1", reason, REMEDY)
    return [(f"line {at}", _label(path, at, line.split("\t"), names)) for at, line in enumerate(lines[1:], 2)]


def _label(path: Path, at: int, cells: list[str], names: list[str]) -> Annotation:
    """One line; ``n/a`` as duration is 0, as rating no rating (BIDS)."""
    if len(cells) != len(names):
        raise DataError(str(path), f"line {at}", f"{len(cells)} columns where the header has {len(names)}", REMEDY)
    said: Mapping[str, str] = {n: cell.strip() for n, cell in zip(names, cells, strict=True)}
    absent = {name for name, cell in said.items() if cell.lower() in MISSING}
    onset = number(path, at, said["onset"], REMEDY)
    duration = 0.0 if "duration" in absent else number(path, at, said["duration"], REMEDY)
    if duration < 0:
        raise DataError(str(path), f"line {at}", f"duration {duration:g} s is negative", REMEDY)
    if "description" in absent:
        raise DataError(str(path), f"line {at}", "has no description", REMEDY)
    ratings = {name: number(path, at, said[name], REMEDY) for name in names[3:] if name not in absent}
    return Annotation(onset, duration, said["description"], ratings)
