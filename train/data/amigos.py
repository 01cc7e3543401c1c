"""Reader of AMIGOS (Miranda-Correa et al. 2021, IEEE Trans. Affective Computing 12:479), the preprocessed files.

Knows nothing of windows or networks. Nobody of this project has the data (a signed agreement is needed); the layout
below is what its read-me and public code that reads it agree on, and the tests write files in it.

Layout: ``Data_Preprocessed_P01.mat`` .. ``P40.mat``, one folder each or side by side. Cells of 20 trials (16 short and
4 long videos): ``joined_data`` (n_times, 17) at 128 Hz: 14 EEG (Emotiv EPOC), ECG right, ECG left, GSR; the first 5 s
of a trial are baseline. ``labels_selfassessment`` (1, 12): arousal, valence, dominance, liking, familiarity on 1 to 9,
then seven basic emotions as 0 or 1. ``VideoIDs``. A trial that was not recorded is an empty cell.
``labels_ext_annotation`` (ratings by others, per 20 s clip) is not read: where a clip begins is not in the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data import _matlab, _shimmer
from train.data._checks import gap_notes, refuse_infinite
from train.data._tables import natural
from train.data.errors import DataError
from train.data.types import Annotation, Floats, Recording, Signal

NAME = "amigos"
TITLE = "AMIGOS: affect, personality and mood of individuals and groups (preprocessed)"
LICENCE = "signed agreement, academic use only"
URL = "https://www.eecs.qmul.ac.uk/mmv/datasets/amigos/"

RATE_HZ = 128.0
BASELINE_S = 5.0
EEG = ("AF3", "F7", "F3", "FC5", "T7", "P7", "O1", "O2", "P8", "T8", "FC6", "F4", "F8", "AF4")
ECG = ("ecg_right", "ecg_left")
COLUMNS = len(EEG) + len(ECG) + 1
SCALES = ("arousal", "valence", "dominance", "liking", "familiarity")
EMOTIONS = ("neutral", "disgust", "happiness", "surprise", "anger", "fear", "sadness")
RATING_RANGE = (1.0, 9.0)
USUALLY_LEFT_OUT = frozenset({"P09", "P12", "P21", "P22", "P23", "P24", "P33"})
"""Studies of the set skip these people for missing data."""
VARIABLES = ("joined_data", "labels_selfassessment", "VideoIDs")
PATTERNS = tuple(f"{folders}Data_Preprocessed_P*.mat" for folders in ("", "*/", "*/*/"))
REMEDY = _matlab.REMEDY


def recognise(root: Path) -> bool:
    """Whether files of the set lie in the folder, by name."""
    return any(next(root.glob(pattern), None) is not None for pattern in PATTERNS) if root.is_dir() else False


def subjects(root: Path) -> list[str]:
    """P01, P02, ... as far as they are there."""
    return natural(_files(root))


def load(root: Path, subject: str) -> list[Recording]:
    """One Recording per recorded trial, in the file's order: ``ecg`` (mV), ``eda`` (uS), ``eeg``; session = video.

    Annotations: ``baseline`` (5 s) and ``video`` with the self-assessment as ratings.
    """
    path = _files(root).get(subject)
    if path is None:
        raise DataError(str(root), subject, f"there is no Data_Preprocessed_{subject}.mat", "see the list of subjects")
    trials, labels, videos = _read(path)
    recorded = [index for index, trial in enumerate(trials) if trial.size]
    if not recorded:
        raise DataError(str(path), "joined_data", "no trial was recorded", REMEDY)
    for index in recorded:
        _check_shape(path, index, trials[index])
    ecg, ecg_note = _shimmer.ecg_to_mv(trials[index][:, len(EEG) : -1] for index in recorded)
    converted = _shimmer.gsr_to_us(trials[index][:, -1] for index in recorded)
    if converted is None and any(np.isfinite(trials[index][:, -1]).any() for index in recorded):
        reason = "column 17 (GSR) fits neither ohm, kilohm, uS nor siemens"
        raise DataError(str(path), "joined_data", reason, "tell us its unit: it is not published")
    eda, eda_note = converted or ([np.full(len(trials[index]), np.nan) for index in recorded], "")
    common = [note for note in (ecg_note, eda_note, _missing(videos, recorded)) if note]
    if subject in USUALLY_LEFT_OUT:
        common.append("studies of this set usually leave this person out: parts are missing")
    return [
        _recording(path, subject, videos[index], _signals(trials[index], ecg[k], eda[k]), labels[index], common)
        for k, index in enumerate(recorded)
    ]


def _files(root: Path) -> dict[str, Path]:
    """Subject -> file."""
    found = [path for pattern in PATTERNS for path in sorted(root.glob(pattern))]
    if not found:
        raise DataError(str(root), "folder", "holds no Data_Preprocessed_P01.mat", "point to the unpacked data set")
    return {path.stem.removeprefix("Data_Preprocessed_"): path for path in reversed(found)}


def _read(path: Path) -> tuple[list[Floats], list[Floats], list[str]]:
    """(trials, self-assessments, video names), equally many."""
    found = _matlab.find(path, [(name,) for name in VARIABLES])
    trials, labels, videos = (_cells(path, name, found.get((name,))) for name in VARIABLES)
    if not len(trials) == len(labels) == len(videos):
        reason = f"{len(trials)} trials, {len(labels)} self-assessments, {len(videos)} videos"
        raise DataError(str(path), "joined_data", reason, REMEDY)
    names = [video if isinstance(video, str) else f"{index + 1}" for index, video in enumerate(videos)]
    return [_floats(path, "joined_data", t) for t in trials], [_floats(path, VARIABLES[1], x) for x in labels], names


def _cells(path: Path, name: str, value: object) -> list[object]:
    """The cells of one variable."""
    if not isinstance(value, list):
        raise DataError(str(path), name, "is missing or no row of cells", REMEDY)
    return value


def _floats(path: Path, name: str, value: object) -> Floats:
    """The numbers of one cell."""
    if not isinstance(value, np.ndarray):
        raise DataError(str(path), name, "a cell holds no numbers", REMEDY)
    return value.astype(float)


def _check_shape(path: Path, index: int, trial: Floats) -> None:
    """(n_times, 17), longer than its baseline."""
    place = f"joined_data, trial {index + 1}"
    if trial.ndim != 2 or trial.shape[1] != COLUMNS:
        raise DataError(str(path), place, f"shape {trial.shape} where the layout has (n, {COLUMNS})", REMEDY)
    if len(trial) <= BASELINE_S * RATE_HZ:
        raise DataError(str(path), place, f"{len(trial) / RATE_HZ:.1f} s: ends before its video begins", REMEDY)


def _missing(videos: list[str], recorded: list[int]) -> str:
    """A note that names the trials without data."""
    lost = [video for index, video in enumerate(videos) if index not in recorded]
    return f"videos without data: {', '.join(lost)}" if lost else ""


def _signals(trial: Floats, ecg: Floats, eda: Floats) -> dict[str, Signal]:
    """The trial's modalities; those without any sample left out."""
    made = {
        "ecg": Signal(ecg, RATE_HZ, "mV", ECG),
        "eda": Signal(eda[:, None], RATE_HZ, "uS", ("eda",)),
        "eeg": Signal(trial[:, : len(EEG)], RATE_HZ, "a.u.", EEG),
    }
    return {name: signal for name, signal in made.items() if not np.isnan(signal.data[:, 0]).all()}


def _recording(
    path: Path, subject: str, video: str, signals: dict[str, Signal], labels: Floats, common: list[str]
) -> Recording:
    """One trial."""
    refuse_infinite(str(path), f"video {video}", signals, REMEDY)
    notes = [*common, *(f"{name}: no sample in this trial" for name in ("ecg", "eda") if name not in signals)]
    ratings = _ratings(path, video, labels)
    if not ratings:
        notes.append("no self-assessment of this video")
    stop = max((signal.stop for signal in signals.values()), default=BASELINE_S)
    annotations = (
        Annotation(0.0, BASELINE_S, "baseline"),
        Annotation(BASELINE_S, stop - BASELINE_S, "video", ratings),
    )
    return Recording(NAME, subject, f"video {video}", signals, annotations, (*notes, *gap_notes(signals)))


def _ratings(path: Path, video: str, labels: Floats) -> dict[str, float]:
    """What the person said of the video; nothing where the cell is empty."""
    names = (*SCALES, *EMOTIONS)
    if not labels.size:
        return {}
    place = f"labels_selfassessment, video {video}"
    if labels.size != len(names):
        raise DataError(str(path), place, f"{labels.size} answers where the layout has {len(names)}", REMEDY)
    said = {name: float(x) for name, x in zip(names, labels.ravel(), strict=True) if np.isfinite(x)}
    for name, x in said.items():
        low, high = RATING_RANGE if name in SCALES else (0.0, 1.0)
        if not low <= x <= high:
            raise DataError(str(path), place, f"{name} is {x:g}, outside {low:g} .. {high:g}", REMEDY)
    return said
