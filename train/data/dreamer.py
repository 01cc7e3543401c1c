"""Reader of DREAMER (Katsigiannis, Ramzan 2018, IEEE J. Biomedical and Health Informatics 22:98; Zenodo 546113).

Knows nothing of windows or networks. Nobody of this project has the data (a signed agreement is needed); the tests
write files in the published layout.

Layout: ``DREAMER.mat``, one struct ``DREAMER``: ``Data`` (cell of 23 people), ``ECG_SamplingRate`` 256, ... Of each
person ``ECG.baseline`` and ``ECG.stimuli`` (cells of 18 film clips, each (n_times, 2)), ``ScoreValence``,
``ScoreArousal``, ``ScoreDominance`` (18, 1) on 1 to 5. The EEG is passed over. There is no EDA.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from train.data import _matlab, _shimmer
from train.data._checks import gap_notes, refuse_infinite
from train.data.errors import DataError
from train.data.types import Annotation, Floats, Recording, Signal

NAME = "dreamer"
TITLE = "DREAMER: emotion by film clips, ECG and EEG of wireless sensors (ECG only is read)"
LICENCE = "signed agreement, academic use only"
URL = "https://zenodo.org/records/546113"

FILE = "DREAMER.mat"
RATE_HZ = 256.0
LEADS = ("ecg_1", "ecg_2")
SCORES = {"valence": "ScoreValence", "arousal": "ScoreArousal", "dominance": "ScoreDominance"}
SCORE_RANGE = (1.0, 5.0)
PAUSE_S = 1.0
"""Shown between baseline and film as a gap; how long it was in truth is not in the file."""
REMEDY = _matlab.REMEDY


def recognise(root: Path) -> bool:
    """Whether DREAMER.mat lies in the folder."""
    return (root / FILE).is_file()


def subjects(root: Path) -> list[str]:
    """S1 .. S23, by the place in ``Data``."""
    people = ("DREAMER", "Data", _matlab.COUNT)
    count = _matlab.find(_file(root), [people]).get(people)
    if not isinstance(count, int) or count < 1:
        raise DataError(str(root / FILE), "DREAMER.Data", "is missing or empty", REMEDY)
    return [f"S{number}" for number in range(1, count + 1)]


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording per film clip: ``ecg`` (mV), baseline first, then the film; session = clip.

    Annotations: ``baseline`` and ``film`` with the scores as ratings.
    """
    path = _file(root)
    if subject not in subjects(root):
        raise DataError(str(path), "DREAMER.Data", f"holds no person {subject}", "see the list of subjects")
    person = ("DREAMER", "Data", int(subject[1:]) - 1)
    parts = [(*person, "ECG", "baseline"), (*person, "ECG", "stimuli"), *((*person, name) for name in SCORES.values())]
    _check_rate(path, _rate(path, path.stat().st_mtime_ns))
    found = _matlab.find(path, parts)
    rests, films = (_clips(path, subject, part[-1], found.get(part)) for part in parts[:2])
    if len(rests) != len(films):
        raise DataError(str(path), f"{subject}, ECG", f"{len(rests)} baselines, {len(films)} films", REMEDY)
    scores = {
        name: _scores(path, f"{subject}, {SCORES[name]}", found.get((*person, SCORES[name])), len(films))
        for name in SCORES
    }
    converted, note = _shimmer.ecg_to_mv([*rests, *films])
    pairs = zip(converted[: len(rests)], converted[len(rests) :], strict=True)
    return [
        _recording(path, subject, clip, pair, {name: float(given[clip]) for name, given in scores.items()}, note)
        for clip, pair in enumerate(pairs)
    ]


def _file(root: Path) -> Path:
    """DREAMER.mat, which must be there."""
    if not recognise(root):
        raise DataError(str(root / FILE), "file", "is missing", "point to the folder of DREAMER.mat")
    return root / FILE


@functools.lru_cache(maxsize=4)
def _rate(path: Path, stamp: int) -> object:
    """The file's own rate; kept, as it stands behind all people and reading so far takes seconds."""
    rate = ("DREAMER", "ECG_SamplingRate")
    return _matlab.find(path, [rate]).get(rate)


def _check_rate(path: Path, rate: object) -> None:
    """The file's own rate is the published one."""
    if not isinstance(rate, np.ndarray) or rate.size != 1 or rate.item() != RATE_HZ:
        told = f"{rate.ravel()[0]:g}" if isinstance(rate, np.ndarray) and rate.size else "missing"
        raise DataError(str(path), "DREAMER.ECG_SamplingRate", f"is {told}, published is {RATE_HZ:g}", REMEDY)


def _clips(path: Path, subject: str, part: object, value: object) -> list[Floats]:
    """ECG of all clips, each (n_times, 2)."""
    if not isinstance(value, list) or not value:
        raise DataError(str(path), f"{subject}, ECG.{part}", "is missing or no column of cells", REMEDY)
    for number, clip in enumerate(value, 1):
        if not isinstance(clip, np.ndarray) or clip.ndim != 2 or clip.shape[1] != len(LEADS) or not len(clip):
            shape = getattr(clip, "shape", "no numbers")
            raise DataError(str(path), f"{subject}, ECG.{part}{{{number}}}", f"{shape}, published is (n, 2)", REMEDY)
    return [clip.astype(float) for clip in value]


def _scores(path: Path, place: str, value: object, clips: int) -> Floats:
    """(clips,) scores within SCORE_RANGE."""
    if not isinstance(value, np.ndarray) or value.size != clips:
        raise DataError(str(path), place, f"is not {clips} numbers", REMEDY)
    scores = value.astype(float).ravel()
    if not ((scores >= SCORE_RANGE[0]) & (scores <= SCORE_RANGE[1])).all():
        raise DataError(str(path), place, f"a score is outside {SCORE_RANGE[0]:g} .. {SCORE_RANGE[1]:g}", REMEDY)
    return scores


def _recording(
    path: Path, subject: str, clip: int, pair: tuple[Floats, Floats], ratings: dict[str, float], note: str
) -> Recording:
    """Baseline, a pause, the film."""
    rest, film = pair
    pause = np.full((round(PAUSE_S * RATE_HZ), len(LEADS)), np.nan)
    parts = {"ecg": Signal(np.concatenate([rest, film]), RATE_HZ, "mV", LEADS)}
    refuse_infinite(str(path), f"{subject}, clip {clip + 1}", parts, REMEDY)
    signals = {"ecg": Signal(np.concatenate([rest, pause, film]), RATE_HZ, "mV", LEADS)}
    start = len(rest) / RATE_HZ
    annotations = (
        Annotation(0.0, start, "baseline"),
        Annotation(start + PAUSE_S, len(film) / RATE_HZ, "film", ratings),
    )
    pause_note = f"the pause between baseline and film is not published: {PAUSE_S:g} s without samples stands for it"
    notes = (note, pause_note, "no EDA in this set", *gap_notes(parts))
    return Recording(NAME, subject, f"clip {clip + 1}", signals, annotations, notes)
