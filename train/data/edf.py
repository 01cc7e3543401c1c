"""Reader of EDF, EDF+ and BDF files: one file, one recording; ECG and EDA by the names and units of the header.

Knows nothing of any study.

Layout: ``.edf`` or ``.bdf`` files in a folder or up to three folders deeper; a subject is a file, named by its path
without suffix. Annotations of EDF+ files are kept, those without duration with duration 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data._channels import Channel, signals
from train.data._checks import inside
from train.data._tables import below, natural
from train.data.errors import DataError
from train.data.types import Annotation, Recording, Signal
from train.errors import one_line

NAME = "edf"
TITLE = "any EDF, EDF+ or BDF files with ECG or EDA"
LICENCE = "that of the files"
URL = "https://www.edfplus.info"

REMEDY = "get the file again, or write it anew with the program that made it"


def recognise(root: Path) -> bool:
    """Whether there is an EDF or BDF file."""
    return root.is_dir() and next(_paths(root), None) is not None


def subjects(root: Path) -> list[str]:
    """Paths of the files below the folder, without suffix."""
    found = natural({path.relative_to(root).with_suffix("").as_posix() for path in _paths(root)})
    if not found:
        raise DataError(str(root), "folder", "holds no .edf or .bdf file", "point to a folder of EDF files")
    return found


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording with ``ecg`` (mV) and ``eda`` (uS), whichever are there."""
    path = next((p for p in _paths(root) if p.relative_to(root).with_suffix("").as_posix() == subject), None)
    if path is None:
        raise DataError(str(root), subject, "there is no such file", "see the list of subjects")
    read, annotations, notes = read_file(path)
    labelled = inside(str(path), annotations, list(read.values()))
    return [Recording(NAME, subject, path.name, read, labelled, tuple(notes))]


def read_file(path: Path) -> tuple[dict[str, Signal], list[tuple[str, Annotation]], list[str]]:
    """One file -> (signals, annotations with their place in the file, notes).

    Raises DataError where the file cannot be read, has gaps (EDF+D), or holds neither ECG nor EDA in a known unit.
    """
    import edfio

    reader = edfio.read_bdf if path.suffix.lower() == ".bdf" else edfio.read_edf
    try:
        with warnings.catch_warnings():
            # The library cuts a file that is shorter than its header says, with a warning; here that is an error.
            warnings.filterwarnings("error", message=".*data record")
            file = reader(path.read_bytes(), header_encoding="latin-1")
        whole = file.is_continuous
        channels = [
            Channel(s.label, s.physical_dimension, float(s.sampling_frequency), np.asarray(s.data, float))
            for s in file.signals
        ]
        found = [(a.onset, a.duration or 0.0, a.text) for a in file.annotations]
    except Exception as error:  # whatever the library's parser trips over in a foreign file
        raise DataError(str(path), "file", f"cannot be read as EDF ({_line(error)})", REMEDY) from None
    if not whole:
        raise DataError(str(path), "annotations", "has gaps (EDF+D)", "write it as EDF+C, one file per stretch")
    made, notes = signals(str(path), channels, "name the channels ECG or EDA in the header")
    notes_in_order = sorted(found)
    return made, [(f"annotation {k}", Annotation(*note)) for k, note in enumerate(notes_in_order, 1)], notes


def _line(error: Exception) -> str:
    """An error as one short line."""
    return one_line(error)[:120] or type(error).__name__


def _paths(root: Path) -> Iterator[Path]:
    """EDF and BDF files below the folder."""
    return (path for path in below(root, "*.[eEbB][dD][fF]") if path.is_file())
