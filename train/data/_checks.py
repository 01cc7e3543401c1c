"""What every reader checks in the end: gaps are told, nothing is infinite, annotations lie inside the recording.

Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from train.data.errors import DataError
from train.data.types import Annotation, Signal

MAX_OVERHANG_S = 1.0
"""An annotation's edge is typed or rounded to a second; what reaches further out belongs to another recording."""


def gap_notes(signals: Mapping[str, Signal]) -> tuple[str, ...]:
    """One sentence for each signal with samples missing, e.g. ``eda: 12 of 3456 samples are NaN, from 10.0 s on``."""
    notes = []
    for name, signal in signals.items():
        missing = np.isnan(signal.data[:, 0])
        if missing.any():
            first = signal.start + int(missing.argmax()) / signal.sfreq
            notes.append(f"{name}: {int(missing.sum())} of {len(missing)} samples are NaN, from {first:.1f} s on")
    return tuple(notes)


def refuse_infinite(path: str, place: str, signals: Mapping[str, Signal], remedy: str) -> None:
    """DataError where a sample is infinite: no sensor gave that."""
    for name, signal in signals.items():
        at = np.flatnonzero(np.isinf(signal.data).any(axis=1))
        if len(at):
            raise DataError(path, f"{place}, {name}, sample {at[0]}".lstrip(", "), "is infinite", remedy)


def inside(path: str, labelled: Iterable[tuple[str, Annotation]], signals: Sequence[Signal]) -> tuple[Annotation, ...]:
    """Annotations in order of onset, those that overhang by less than MAX_OVERHANG_S cut to the recording.

    ``labelled`` pairs each with its place in the file ``path`` for the message of the DataError.
    """
    stop = max((signal.stop for signal in signals), default=0.0)
    kept = []
    for place, note in labelled:
        if -note.onset >= MAX_OVERHANG_S or note.stop - stop >= MAX_OVERHANG_S:
            reason = f"{note.description!r} at {note.onset:g} .. {note.stop:g} s: labels outside the recording"
            raise DataError(path, place, f"{reason} (0 .. {stop:g} s)", "correct its onset and duration, in s")
        start, end = max(note.onset, 0.0), min(note.stop, stop)
        kept.append(Annotation(min(start, end), max(end - start, 0.0), note.description, note.ratings))
    return tuple(sorted(kept, key=lambda note: note.onset))
