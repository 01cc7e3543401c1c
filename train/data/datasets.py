"""The data sets that affectd-train can read: one entry each, and which of them a folder on disk is.

Knows nothing of any layout: each entry's own module does, and is imported when it is first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from train.data.errors import DataError
from train.data.types import Recording

SHOWN_NAMES = 6
"""Names of a folder's content that an error quotes."""
SEARCHED_FOLDERS = 200
"""Folders below a wrong path that are asked whether they were meant: enough for any set, and over in a moment."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """One data set, or one layout that anybody's data can have."""

    name: str
    """Key on the command line and ``Recording.dataset``."""
    title: str
    layout: str
    """Files by which it is recognised, in a few words."""
    licence: str
    url: str
    recognise: Callable[[Path], bool]
    """Whether a folder is its top folder, by names alone."""
    subjects: Callable[[Path], list[str]]
    """Subjects on disk in natural order. Raises DataError where there is none."""
    load: Callable[[Path, str], list[Recording]]
    """Sessions of one subject in order. Raises DataError where a file breaks the layout."""

    def learned_from(self, subjects: int, surrogate_ecg: bool) -> dict[str, Any]:
        """What a checkpoint, and a bundle's card after it, says of the data that a network learned from."""
        about = {"name": self.name, "licence": self.licence, "url": self.url}
        return {**about, "subjects": subjects, "surrogate_ecg": surrogate_ecg}


_LAYOUTS = {
    "wesad": "S2/S2.pkl, or S2/S2_respiban.txt and S2/S2_E4_Data, or S2/S2_E4_Data alone",
    "stress-predict": "Raw_data/S01 and Processed_data",
    "amigos": "Data_Preprocessed_P01.mat, ...",
    "recola": "RECOLA-Biosignals-recordings/P16.csv, ...",
    "dreamer": "DREAMER.mat",
    "mitbih-tpcp": "100.npz, 100_all.csv, 100_pvc.csv, ...",
    "neurokit": "bio_resting_8min_100hz.csv, ecg_1000hz.csv, ...",
    "plain": "SUBJECT/ecg.csv or ecg.edf, eda.csv, annotations.tsv, info.json",
    "e4": "SUBJECT/EDA.csv, BVP.csv, ...",
    "wfdb": "RECORD.hea and RECORD.dat",
    "edf": "SUBJECT.edf",
}
"""Name -> layout. The order of recognition: published sets first, then layouts that they may also fulfil in part."""
_ANYBODYS = ("plain", "e4", "wfdb", "edf")
"""Layouts that are no single set's own: folders fulfil them by chance, or in part."""
_MODULES = {"mitbih-tpcp": "mitbih_tpcp", "wfdb": "wfdb_records"}
"""Entries whose module in train.data has another name."""


def names() -> tuple[str, ...]:
    """Every name that ``get`` knows."""
    return tuple(_LAYOUTS)


def known() -> Iterator[DataSet]:
    """Every data set in the order of recognition."""
    return map(get, _LAYOUTS)


def get(name: str) -> DataSet:
    """The data set of that name. Raises DataError for any other name."""
    if name not in _LAYOUTS:
        raise DataError(name, "data set", "is not known", f"known are {', '.join(_LAYOUTS)}")
    if name in _ADAPTED:
        return _ADAPTED[name]()
    module = _module(_MODULES.get(name, name))
    return DataSet(
        name, module.TITLE, _LAYOUTS[name], module.LICENCE, module.URL, module.recognise, module.subjects, module.load
    )


def find(root: Path, name: str | None = None) -> DataSet:
    """The data set whose top folder ``root`` is: the named one, unasked, or the first that recognises it.

    Raises DataError where none does, with the known layouts and what was found; and where only a layout of anybody's
    does while a published set lies next to it, as for the folder of E4 folders inside Stress-Predict.
    """
    if not root.is_dir():
        reason = "is a file" if root.exists() else "does not exist"
        raise DataError(str(root), "folder", reason, "give the data set's top folder")
    if name is not None:
        return get(name)
    found = next((entry for entry in known() if entry.recognise(root)), None)
    if found is None or found.name in _ANYBODYS:
        _refuse_one_off(root, found)
    if found is None:
        layouts = "; ".join(f"{name}: {layout}" for name, layout in _LAYOUTS.items())
        raise DataError(str(root), "folder", _unknown(root), f"known are {layouts}; with --dataset one is believed")
    return found


def needs_surrogate_ecg(recording: Recording) -> bool:
    """Whether an ECG can only be rebuilt from the pulse (train.data.surrogate), because none was measured."""
    return "ecg" not in recording.signals and "bvp" in recording.signals


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key that puts S2 before S10."""
    parts: list[str] = []
    for letter in name:
        if parts and parts[-1][0].isdecimal() == letter.isdecimal():
            parts[-1] += letter
        else:
            parts.append(letter)
    return tuple((False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts)


def _module(name: str) -> ModuleType:
    return import_module(f"train.data.{name}")


def _unknown(root: Path) -> str:
    return f"follows no layout that affectd-train knows; it holds {_content(root)}"


def _refuse_one_off(root: Path, found: DataSet | None) -> None:
    """DataError where a published set's top folder is above or below the given one."""
    published = [entry for entry in known() if entry.name not in _ANYBODYS]
    for near in (root.resolve().parent, *_below(root)):
        meant = next((entry for entry in published if entry.recognise(near)), None)
        if meant is not None:
            reason = f"could be read as {found.name}, but a published set is near" if found else _unknown(root)
            all_the_same = f", or --dataset {found.name}" if found else ""
            raise DataError(str(root), "folder", reason, f"{near} is {meant.title}: give that path{all_the_same}")


def _content(root: Path) -> str:
    """The first names in a folder."""
    inside = sorted((path.name for path in root.iterdir() if not path.name.startswith(".")), key=natural)
    more = f" and {len(inside) - SHOWN_NAMES} more" if len(inside) > SHOWN_NAMES else ""
    return (", ".join(inside[:SHOWN_NAMES]) + more) or "nothing"


def _below(root: Path) -> list[Path]:
    """Folders below ``root``, one level, then two."""
    first = _folders(root)[:SEARCHED_FOLDERS]
    second = (path for folder in first for path in _folders(folder))
    return first + list(islice(second, SEARCHED_FOLDERS))


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder, in natural order; none where it cannot be read."""
    try:
        return sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural(path.name))
    except OSError:
        return []


def _stress_predict() -> DataSet:
    """Stress-Predict: one session a subject; only those with published labels."""
    module = _module("stress_predict")
    return DataSet(
        "stress-predict",
        "Stress-Predict (Iqbal et al. 2022)",
        _LAYOUTS["stress-predict"],
        "MIT",
        "https://doi.org/10.3390/s22218135",
        lambda root: (root / "Raw_data").is_dir() and (root / "Processed_data").is_dir(),
        lambda root: list(module.subjects(root)),
        lambda root, subject: [module.load(root, subject)],
    )


def _e4() -> DataSet:
    """Empatica E4 folders of no published study: each subject's own, or a folder of sessions."""
    module = _module("e4")
    return DataSet(
        "e4",
        "Empatica E4 folders",
        _LAYOUTS["e4"],
        "the owner's",
        "https://support.empatica.com",
        lambda root: bool(_e4_subjects(root)),
        _some_e4_subjects,
        lambda root, subject: [module.load(folder, subject) for folder in _e4_folders(root, subject)],
    )


_ADAPTED = {"stress-predict": _stress_predict, "e4": _e4}
"""Readers whose module is not itself the entry: one gives a single recording, the other reads a single folder."""


def _some_e4_subjects(root: Path) -> list[str]:
    found = sorted(_e4_subjects(root), key=natural)
    if not found:
        raise DataError(str(root), "folder", "holds no E4 folder", f"the layout is {_LAYOUTS['e4']}")
    return found


def _e4_folders(root: Path, subject: str) -> list[Path]:
    folders = _e4_subjects(root).get(subject)
    if folders is None:
        raise DataError(str(root / subject), "folder", "holds no E4 folder", f"the layout is {_LAYOUTS['e4']}")
    return folders


def _e4_subjects(root: Path) -> dict[str, list[Path]]:
    """Subject -> its E4 folders: ``root`` itself, ``root/SUBJECT`` or ``root/SUBJECT/SESSION``."""
    if _is_e4(root):
        return {root.resolve().name: [root]}
    found: dict[str, list[Path]] = {}
    for folder in _folders(root):
        if sessions := [path for path in (folder, *_folders(folder)) if _is_e4(path)]:
            found[folder.name] = sessions
    return found


def _is_e4(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("EDA.csv", "BVP.csv"))
