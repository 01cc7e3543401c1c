"""The demo's Stress-Predict subject, never seen in training: how it was chosen, and its files.

Knows nothing of networks; its choice looks at signal quality and chance only, never at how well anyone is predicted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from device.demo.loader import Annotation, DemoRecording, Trace, write
from train.data import rr, stress_predict
from train.data.surrogate import with_surrogate_ecg
from train.data.templates import default_templates
from train.data.types import Signal
from train.prepare import SURROGATE_SEED

DEMO_SUBJECT = "S21"
"""``choose_demo_subject`` gives it."""
CHOICE_SEED = 2022
"""Year of the data set."""
MIN_TONIC_US = 1.0
"""Median EDA of a wearer whose electrodes plainly sat well."""
MAX_OPEN_SHARE = 0.01
"""Share of EDA samples below 0.05 uS, where there is no contact."""
MAX_BRIDGED = 0.4
"""Share of the time without trustworthy beats; over all subjects it is 0.07 to 0.87, median 0.48."""
CITATION = "Stress-Predict (Iqbal et al. 2022, Sensors 22(21):8135, MIT licence), subject {subject}"


def candidates(root: Path) -> list[str]:
    """Labelled subjects with good contact and a good pulse."""
    good = []
    for subject in stress_predict.subjects(root):
        recording = stress_predict.load(root, subject)
        eda = recording.signals["eda"].data[:, 0]
        contact = np.median(eda) >= MIN_TONIC_US and (eda < 0.05).mean() <= MAX_OPEN_SHARE
        if contact and rr.beats(recording).bridged_share <= MAX_BRIDGED:
            good.append(subject)
    return good


def choose_demo_subject(root: Path) -> str:
    """One of the candidates by chance."""
    return str(np.random.default_rng(CHOICE_SEED).choice(candidates(root)))


def write_demo_subject(root: Path, folder: Path) -> list[Path]:
    """Write surrogate ECG, EDA and task times as the demo's ``stress`` recording; returns the files."""
    recording = with_surrogate_ecg(stress_predict.load(root, DEMO_SUBJECT), default_templates(), SURROGATE_SEED)
    about = CITATION.format(subject=DEMO_SUBJECT)
    known = [a for a in recording.annotations if a.description in stress_predict.LABELS]
    demo = DemoRecording(
        "stress",
        _trace(recording.signals["ecg"], f"surrogate ECG made from the wrist pulse of {about}"),
        _trace(recording.signals["eda"], f"wrist EDA of {about}"),
        tuple(Annotation(a.onset, a.duration, a.description) for a in known),
    )
    write(demo, folder)
    return sorted(folder.glob("stress_*"))


def _trace(signal: Signal, description: str) -> Trace:
    return Trace(signal.data[:, 0], signal.sfreq, signal.start, signal.surrogate, description)
