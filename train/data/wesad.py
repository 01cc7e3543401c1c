"""Reader of WESAD (Schmidt et al. 2018) in three layouts: SX.pkl; SX_respiban.txt with SX_E4_Data; SX_E4_Data alone.

Knows nothing of windows or networks. The first layout that a subject's folder holds is read, in that order.

- ``SX.pkl`` (python 2, made with the authors' synchronisation): chest 700 Hz, wrist at the E4's rates, labels.
- ``SX_respiban.txt``: the chest alone, as counts. The wrist comes from ``SX_E4_Data`` (or the ``.zip`` as published),
  conditions from ``SX_quest.csv``.
- ``SX_E4_Data`` alone: wrist and conditions; no ECG (train.data.surrogate can rebuild one from the pulse).

Both raw layouts need to know when the RespiBAN, whose clock ``SX_quest.csv`` counts on, was started on the E4's clock.
The authors found that from a double tap on the chest and gave the result only as SX.pkl, which is a cut out of both raw
recordings. RESPIBAN_START_UTC says where: with it the raw layouts get the very times of SX.pkl.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from train.data import _checks, _quest, _tables, _wesad_pickle, e4, respiban
from train.data.errors import DataError
from train.data.types import IRREGULAR_RATE, Annotation, Recording, Signal

NAME = "wesad"
TITLE = "WESAD (Schmidt et al. 2018)"
LICENCE = "scientific, non-commercial use with citation (CC BY 4.0 according to the UCI repository)"
URL = "https://doi.org/10.1145/3242969.3242985"

RESPIBAN_START_UTC = {
    "S2": 1495438738.766,
    "S3": 1495625157.448,
    "S4": 1497344218.794,
    "S5": 1497357719.683,
    "S6": 1497440400.196,
    "S7": 1499340599.631,
    "S8": 1499686081.093,
    "S9": 1499772359.777,
    "S10": 1500967501.701,
    "S11": 1500982379.718,
    "S13": 1502191979.563,
    "S14": 1502263860.571,
    "S15": 1502350198.574,
    "S16": 1502367659.432,
    "S17": 1502437140.203,
}
"""Unix time of the RespiBAN's first sample on the E4's clock, s, right to an ACC sample (1/32 s).

Start of the E4 folder, plus where the ACC of SX.pkl begins in it, minus where the ECG of SX.pkl begins in
SX_respiban.txt: both found by exact match on the release and published in an audit of it. Checked here against another
source, window means published from SX.pkl and matched to the E4 folders: the starts of all 15 baselines agree within
1/32 s (tests/test_wesad.py)."""

LOCAL_ZONE = dt.timezone(dt.timedelta(hours=2))
"""German summer time: all sessions ran from May to August 2017."""
MAX_CLOCK_OFF_S = 10.0
"""The computer's clock in SX_respiban.txt is -0.7 to 3.6 s off the E4's in the release."""
MAX_CSV_BYTES = 64 << 20
"""The largest file of an E4 folder has 3 MB."""

PICKLE, RESPIBAN, QUEST, E4_FOLDER, E4_ZIP = (".pkl", "_respiban.txt", "_quest.csv", "_E4_Data", "_E4_Data.zip")
"""Endings behind the subject's name."""
CHEST_NAMES = {"eda": "eda_chest", "temp": "temp_chest", "acc": "acc_chest"}
"""Modalities that the wrist has, too."""
WRIST = ("eda", "bvp", "ibi", "temp", "acc")
"""What is read of an E4 folder: heart rate is an average of what ``ibi`` holds."""
LAYOUT = "S2/S2.pkl, or S2/S2_respiban.txt and S2/S2_E4_Data, or S2/S2_E4_Data alone"

_SUBJECT = re.compile(r"S\d+")


def recognise(root: Path) -> bool:
    """Whether folders S2, S3, ... with one of the three layouts lie in ``root``."""
    try:
        return any(_has_data(folder) for folder in root.iterdir())
    except OSError:
        return False


def subjects(root: Path) -> list[str]:
    """Subjects on disk, S2 before S10. Raises DataError where there is none."""
    found = [folder.name for folder in root.iterdir() if _has_data(folder)] if root.is_dir() else []
    if not found:
        reason = "holds no folder S2, S3, ... of WESAD"
        raise DataError(str(root), "folder", reason, f"point to the data set's top folder with {LAYOUT}")
    return _tables.natural(found)


def load(root: Path, subject: str) -> list[Recording]:
    """The one session of a subject: ``ecg`` (chest, mV), ``eda`` (wrist, uS), ``bvp``, ``acc``, ``temp`` (wrist), ...

    Signals of the chest beside those of the wrist are ``eda_chest``, ``acc_chest``, ``temp_chest``; ``resp`` (%) and
    ``emg`` (mV) are the chest's. Annotations are ``baseline``, ``stress``, ``amusement`` and ``meditation``, with the
    person's ``valence`` and ``arousal``. Raises DataError where a file breaks its layout.
    """
    folder = root / subject
    if not _has_data(folder):
        raise DataError(str(folder), "folder", "holds no data of WESAD", f"the layout is {LAYOUT}")
    if _file(folder, PICKLE).exists():
        return [_pickled(folder)]
    return [_raw(folder) if _file(folder, RESPIBAN).exists() else _e4_only(folder)]


def _has_data(folder: Path) -> bool:
    """Whether a folder is a subject's, by names alone."""
    return bool(_SUBJECT.fullmatch(folder.name)) and any(
        _file(folder, ending).exists() for ending in (PICKLE, RESPIBAN, E4_FOLDER, E4_ZIP)
    )


def _file(folder: Path, ending: str) -> Path:
    """A file or folder of a subject, named with the subject as all of them are."""
    return folder / f"{folder.name}{ending}"


def _pickled(folder: Path) -> Recording:
    """SX.pkl; what the person said comes from the questionnaire."""
    signals, labelled, notes = _wesad_pickle.read(_file(folder, PICKLE), folder.name)
    said = _quest.read(_file(folder, QUEST)) if _file(folder, QUEST).is_file() else ()
    if [note.description for note in said] == [note.description for note in labelled]:
        labelled = tuple(replace(a, ratings=b.ratings) for a, b in zip(labelled, said, strict=True))
    elif said:
        notes = (*notes, f"{QUEST[1:]} has other conditions than the labels: no ratings")
    return _recording(folder, signals, labelled, notes)


def _raw(folder: Path) -> Recording:
    """SX_respiban.txt, on its own time, and what there is of the wrist moved to it."""
    chest = respiban.read(_file(folder, RESPIBAN))
    _check_chest(folder.name, chest)
    signals = {CHEST_NAMES.get(name, name): signal for name, signal in chest.signals.items()}
    wrist, wrist_notes = _wrist_beside(folder)
    signals |= wrist
    annotations, notes = _conditions(folder, 0.0, signals)
    return _recording(folder, signals, annotations, (*chest.notes, *wrist_notes, *notes))


def _check_chest(subject: str, chest: respiban.Respiban) -> None:
    """DataError for another rate, for missing sensors, and for a start that is not the published session's."""
    if chest.sfreq != _wesad_pickle.CHEST_HZ:
        reason = f"{chest.sfreq:g} Hz where WESAD has {_wesad_pickle.CHEST_HZ:g} Hz"
        raise DataError(str(chest.path), "line 2, 'sampling rate'", reason, respiban.REMEDY)
    if missing := [name for name in respiban.SENSORS if respiban.SENSORS[name].modality not in chest.signals]:
        raise DataError(str(chest.path), "line 2, 'sensor'", f"lacks {', '.join(missing)}", respiban.REMEDY)
    known = RESPIBAN_START_UTC.get(subject)
    if known is not None and chest.started is not None:
        off = chest.started.replace(tzinfo=LOCAL_ZONE).timestamp() - known
        if abs(off) > MAX_CLOCK_OFF_S:
            reason = f"starts {off:+.0f} s from the published session of {subject}"
            raise DataError(str(chest.path), "line 2, 'time'", reason, "put back the file of this subject")


def _wrist_beside(folder: Path) -> tuple[dict[str, Signal], tuple[str, ...]]:
    """The wrist's signals on the RespiBAN's time, from its start on."""
    if not (_file(folder, E4_FOLDER).exists() or _file(folder, E4_ZIP).exists()):
        return {}, (f"no {E4_FOLDER[1:]}: no wrist sensor",)
    if folder.name not in RESPIBAN_START_UTC:
        return {}, (f"{folder.name} is none of the published subjects: when its E4 began is not known; left out",)
    wrist = _wrist(folder)
    early = _since_e4_start(folder, wrist)
    return {name: _moved(signal, -early) for name, signal in wrist.signals.items()}, ()


def _e4_only(folder: Path) -> Recording:
    """Wrist alone, on the E4's own time; conditions where it is known when the RespiBAN began on it."""
    wrist = _wrist(folder)
    shift = _since_e4_start(folder, wrist) if folder.name in RESPIBAN_START_UTC else None
    annotations, notes = _conditions(folder, shift, wrist.signals)
    return _recording(folder, wrist.signals, annotations, ("no chest sensor: no ECG", *notes))


def _since_e4_start(folder: Path, wrist: e4.E4Folder) -> float:
    """Start of the RespiBAN, s from the E4's. Raises DataError where it lies outside the E4's recording."""
    since = RESPIBAN_START_UTC[folder.name] - wrist.start_utc
    stop = max(signal.stop for signal in wrist.signals.values())
    if not 0 <= since < stop:
        reason = f"is of another session than {folder.name}'s, which began {since:+.0f} s from its start"
        raise DataError(str(wrist.path), "start", reason, "put back the files of this subject")
    return since


def _wrist(folder: Path) -> e4.E4Folder:
    """SX_E4_Data, unpacked or as published."""
    path = _file(folder, E4_FOLDER)
    read = e4.read_folder(path, WRIST) if path.is_dir() else _unzipped(_file(folder, E4_ZIP))
    for needed in ("eda", "bvp"):
        if needed not in read.signals:
            raise DataError(str(read.path / f"{needed.upper()}.csv"), "file", "is missing", e4.REMEDY)
    return read


def _unzipped(path: Path) -> e4.E4Folder:
    """The E4 folder inside a zip, through a temporary folder; errors name the zip."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with zipfile.ZipFile(path) as packed:
                for info in packed.infolist():
                    inside = Path(info.filename).name
                    if inside in {f"{modality.upper()}.csv" for modality in WRIST} and info.file_size <= MAX_CSV_BYTES:
                        Path(name, inside).write_bytes(packed.read(info))
            return replace(e4.read_folder(Path(name), WRIST), path=path)
        except DataError as error:
            raise DataError(
                str(path / Path(error.path).relative_to(name)), error.place, error.reason, error.remedy
            ) from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise DataError(str(path), "zip", f"cannot be unpacked ({error})", e4.REMEDY) from None


def _moved(signal: Signal, by: float) -> Signal:
    """The signal ``by`` s later, without what then lies before 0."""
    start = signal.start + by
    if signal.sfreq == IRREGULAR_RATE:
        return replace(signal, data=signal.data[start + signal.data[:, 0] >= 0], start=start)
    skip = max(math.ceil(-start * signal.sfreq), 0)
    return replace(signal, data=signal.data[skip:], start=start + skip / signal.sfreq)


def _conditions(
    folder: Path, shift: float | None, signals: Mapping[str, Signal]
) -> tuple[tuple[Annotation, ...], tuple[str, ...]]:
    """Conditions of the questionnaire ``shift`` s later, or none and a note that says why."""
    path = _file(folder, QUEST)
    if not path.is_file():
        return (), (f"{path.name} is missing: condition times are missing",)
    if shift is None:
        return (), (f"{folder.name} is none of the published subjects: condition times on the E4's clock are missing",)
    moved = [replace(note, onset=note.onset + shift) for note in _quest.read(path)]
    placed = [("lines START and END", note) for note in moved]
    return _checks.inside(str(path), placed, list(signals.values())), ()


def _recording(
    folder: Path, signals: Mapping[str, Signal], annotations: tuple[Annotation, ...], notes: tuple[str, ...]
) -> Recording:
    """The Recording of what was read, checked as every reader's."""
    _checks.refuse_infinite(str(folder), "", signals, "get the subject's files again from the data set")
    gaps = _checks.gap_notes({name: signal for name, signal in signals.items() if signal.sfreq})
    none = () if annotations else ("no labelled condition",)
    return Recording(NAME, folder.name, folder.name, signals, annotations, (*notes, *none, *gaps))
