"""Reader of the twelve MIT-BIH Arrhythmia records that the package tpcp carries: one ECG lead and its beats.

Knows nothing of windows or networks.

Layout: ``100.npz`` with ``ecg`` (n_times,) in mV and ``fs`` in Hz; ``100_all.csv``, the sample positions of all beats
(column ``R``), and ``100_pvc.csv``, those of the premature ventricular ones (``PVC``). tpcp itself publishes the ECG as
``100.pk.gz``; a pickle is a program, so it is not read here: docs/DATA.md has the line that makes ``100.npz`` of it.

Source: Moody and Mark 2001, IEEE Eng. in Med. and Biol. 20(3):45-50; Goldberger et al. 2000, Circulation 101(23).
tpcp's ``create_database.py`` takes the first signal of each record as wfdb gives it, so in mV (200 steps per mV), and
the codes of all beats; PVC is code V alone. That signal is MLII but for OTHER_LEADS. tpcp says of it: example data, to
evaluate algorithms take the original.

A subject is a record. tpcp's twelve are of twelve people, who are in other collections too: QTDB's sel100, sel102,
sel104, sel114, sel116 and sel123 are stretches of these very records.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data._checks import gap_notes, refuse_infinite
from train.data._tables import natural, numbers, read_lines
from train.data.errors import DataError
from train.data.types import Floats, Recording, Signal
from train.errors import one_line

NAME = "mitbih-tpcp"
TITLE = "MIT-BIH Arrhythmia, the 12 records of tpcp (Moody and Mark 2001), ECG for pre-training"
LICENCE = "ODC-By 1.0"
URL = "https://github.com/mad-lab-fau/tpcp/tree/main/example_data/ecg_mit_bih_arrhythmia"

RECORD = "[0-9][0-9][0-9]"
"""How the database numbers its records."""
OTHER_LEADS = {"102": "V5", "104": "V5", "114": "V5"}
"""Record -> its first signal where that is not MLII: dressings in the way (102, 104), signals reversed (114)."""
ONE_PERSON = ("201", "202")
"""Of the 48 records, the two that are of one person. tpcp has neither; who adds them should know."""
REMEDY = "get the file again from tpcp's example data"
AS_NPZ = "write 100.npz from 100.pk.gz as docs/DATA.md says"


def recognise(root: Path) -> bool:
    """Whether some record has its ECG and its beats there."""
    return not {*_records(root, ".npz"), *_records(root, ".pk.gz")}.isdisjoint(_records(root, "_all.csv"))


def subjects(root: Path) -> list[str]:
    """The records with an ECG: 100, 102, ..."""
    found = natural(_records(root, ".npz"))
    if not found:
        pickled = bool(_records(root, ".pk.gz"))
        reason = "holds pickles (100.pk.gz), which are not read, and no 100.npz" if pickled else "holds no 100.npz"
        raise DataError(str(root), "folder", reason, AS_NPZ if pickled else "point to the folder of 100.npz")
    return found


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording with ``ecg`` (mV). Its beats are no annotations, which label stretches: see ``beats``."""
    path = root / f"{subject}.npz"
    ecg, sfreq = _ecg(path)
    made = {"ecg": Signal(ecg[:, None], sfreq, "mV", (OTHER_LEADS.get(subject, "MLII"),))}
    refuse_infinite(str(path), "", made, REMEDY)
    notes = [f"{' and '.join(ONE_PERSON)} are of one person"] if subject in ONE_PERSON else []
    return [Recording(NAME, subject, subject, made, (), (*notes, *gap_notes(made)))]


def beats(root: Path, subject: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """When the heart beat, (n_beats,) in s from the recording's start, and which beats are premature ventricular.

    The cardiologists' labels as tpcp gives them, in order. Raises DataError where a file is missing or broken, a
    position lies outside the ECG, or a premature beat is not among all beats.
    """
    ecg, sfreq = _ecg(root / f"{subject}.npz")
    everyone = _positions(root / f"{subject}_all.csv", "R", len(ecg))
    path = root / f"{subject}_pvc.csv"
    premature = _positions(path, "PVC", len(ecg))
    if len(strange := np.setdiff1d(premature, everyone)):
        reason = f"is not among the beats of {subject}_all.csv"
        raise DataError(str(path), f"PVC at sample {strange[0]:.0f}", reason, REMEDY)
    return everyone / sfreq, np.isin(everyone, premature)


def _records(root: Path, ending: str) -> list[str]:
    """Numbers of the records that have a file with that ending."""
    return [path.name.removesuffix(ending) for path in root.glob(RECORD + ending)]


def _ecg(path: Path) -> tuple[Floats, float]:
    """(n_times,) mV and the rate in Hz."""
    if not path.is_file():
        raise DataError(str(path), "file", "is missing", "see the list of subjects")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            ecg, fs = np.asarray(held["ecg"]), np.asarray(held["fs"])  # a member that is no array comes as bytes
    except Exception as error:  # whatever the library's parser trips over in a foreign file
        reason = one_line(error)[:120] or type(error).__name__
        raise DataError(str(path), "file", f"cannot be read as npz with ecg and fs ({reason})", REMEDY) from None
    if ecg.ndim != 1 or ecg.dtype.kind != "f" or not ecg.size:
        raise DataError(str(path), "ecg", f"{ecg.dtype} of shape {ecg.shape}, not real numbers of (n_times,)", REMEDY)
    if fs.shape != () or fs.dtype.kind not in "iuf" or not 0 < fs < np.inf:
        raise DataError(str(path), "fs", f"{str(fs)[:40]!r} is not one rate in Hz", REMEDY)
    return ecg.astype(float), float(fs)


def _positions(path: Path, column: str, n_times: int) -> Floats:
    """Sample positions below the header ``,column``: whole, rising and inside the ECG; none in a file without rows."""
    lines = read_lines(path, REMEDY)
    if lines[0].strip() != f",{column}":
        raise DataError(str(path), "line 1", f"is {lines[0][:40]!r}, not ',{column}'", REMEDY)
    if len(lines) == 1:
        return np.empty(0)
    found = numbers(path, lines, 2, ",", REMEDY)[:, 1]
    good = (found % 1 == 0) & (found < n_times) & (np.diff(found, prepend=-1) > 0)
    if not good.all():
        at = int(good.argmin())
        reason = f"{found[at]:g} does not follow as a sample of {n_times}"
        raise DataError(str(path), f"line {at + 2}", reason, REMEDY)
    return found
