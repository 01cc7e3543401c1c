"""Reader of any WFDB record (PhysioNet): ECG for pre-training, and EDA where a record has it in siemens.

Knows nothing of any one database.

Layout: WFDB headers (``.hea``) in a folder or up to three folders deeper; a subject is a record, named by its path
without suffix. Which records are of the same person WFDB does not say: keep them on one side of a split yourself.
Reference annotations (beats, waves) are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from train.data._channels import Channel, signals
from train.data._checks import gap_notes
from train.data._tables import below, natural
from train.data.errors import DataError
from train.data.types import Recording
from train.errors import one_line

NAME = "wfdb"
TITLE = "any WFDB records (QT Database, MIT-BIH, ...), ECG for pre-training"
LICENCE = "that of the database"
URL = "https://physionet.org/about/database/"

REMEDY = "get the record's .hea and .dat files again"


def recognise(root: Path) -> bool:
    """Whether there is a WFDB header."""
    return root.is_dir() and next(below(root, "*.hea"), None) is not None


def subjects(root: Path) -> list[str]:
    """Records below the folder; segments of a longer record are not records of their own."""
    headers = list(below(root, "*.hea"))
    segments = {segment for path in headers for segment in _segments(path)}
    found = natural(path.relative_to(root).with_suffix("").as_posix() for path in headers if path not in segments)
    if not found:
        raise DataError(str(root), "folder", "holds no WFDB header (.hea)", "point to an unpacked database")
    return found


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording with ``ecg`` (mV) and ``eda`` (uS), whichever are there."""
    path = root / f"{subject}.hea"
    if not path.is_file():
        raise DataError(str(path), "file", "is missing", "see the list of subjects")
    made, notes = signals(str(path), _channels(path), "name the channels in the header")
    return [Recording(NAME, subject, subject, made, (), (*notes, *_gains(path), *gap_notes(made)))]


def _channels(path: Path) -> list[Channel]:
    """All channels of a record, each at its own rate."""
    import wfdb

    name = str(path.with_suffix(""))
    try:
        many = bool(_segments(path))
        record = wfdb.rdrecord(name, smooth_frames=many)
        columns = record.p_signal.T if many else record.e_p_signal
        frames = [1] * record.n_sig if many else record.samps_per_frame
        return [
            Channel(channel or "", unit or "", float(record.fs * per), np.asarray(data, float))
            for channel, unit, per, data in zip(record.sig_name, record.units, frames, columns, strict=True)
        ]
    except Exception as error:  # whatever the library's parser trips over in a foreign file
        reason = one_line(error)[:120] or type(error).__name__
        raise DataError(str(path), "record", f"cannot be read as WFDB ({reason})", REMEDY) from None


def _rows(path: Path) -> Iterator[list[str]]:
    """Fields of a header's lines, without comments."""
    text = path.read_text("utf-8", errors="replace")
    return (fields for line in text.splitlines() if (fields := line.partition("#")[0].split()))


def _segments(path: Path) -> list[Path]:
    """Headers of the segments that a multi-segment header names."""
    rows = list(_rows(path))
    if not rows or "/" not in rows[0][0]:
        return []
    return [path.with_name(f"{row[0]}.hea") for row in rows[1:]]


def _gains(path: Path) -> list[str]:
    """A note where the header states no gain: WFDB then assumes 200 units per mV."""
    rows = list(_rows(path))[1:]
    if any(len(row) < 3 or row[2].partition("(")[0].partition("/")[0] in ("0", "0.0") for row in rows):
        return ["ecg: amplitude is not calibrated (the header's gain is 0: WFDB takes 200 units per mV)"]
    return []
