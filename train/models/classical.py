"""The classical baseline: heart rate variability and skin conductance features of the same windows, three classifiers.

Knows nothing of networks; every statistic is fitted inside the fold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from device.pipeline.spec import SignalSpec
from train.prepare import Prepared

Floats = npt.NDArray[np.float64]

ECG_FEATURES = ("hr_mean", "hr_sd", "hr_min", "hr_max", "hr_slope", "rmssd", "sdnn", "pnn50")
EDA_FEATURES = (
    "tonic_mean",
    "tonic_sd",
    "tonic_slope",
    "tonic_range",
    "phasic_sd",
    "phasic_max",
    "scr_rate",
    "scr_sum",
)
SCR_MIN_US = 0.02
"""Smallest rise that counts as a skin conductance response; 0.01-0.05 uS is usual (Boucsein et al. 2012)."""


def ecg_features(data: Floats, sfreq: float) -> Floats:
    """(len(ECG_FEATURES),) from (n_times, 2) ecg mV, hr 1/min: each change of the held rate is one interval."""
    hr = data[:, 1].astype(float)
    new = np.flatnonzero(np.diff(hr, prepend=np.nan) != 0)
    rr = 60_000.0 / np.maximum(hr[new], 1.0)
    steps = np.diff(rr) if len(rr) > 2 else np.zeros(1)
    slope = np.polyfit(np.arange(len(hr)) / sfreq, hr, 1)[0]
    low, high = np.percentile(hr, [5, 95])
    rmssd, pnn50 = np.sqrt(np.mean(steps**2)), np.mean(np.abs(steps) > 50)
    return np.array([hr.mean(), hr.std(), low, high, slope, rmssd, rr.std(), pnn50])


def eda_features(data: Floats, sfreq: float) -> Floats:
    """(len(EDA_FEATURES),) from (n_times, 2) tonic, phasic uS."""
    tonic, phasic = data[:, 0].astype(float), data[:, 1].astype(float)
    slope = np.polyfit(np.arange(len(tonic)) / sfreq, tonic, 1)[0]
    rises = _rises(phasic)
    minutes = len(phasic) / sfreq / 60
    level = [tonic.mean(), tonic.std(), slope, np.ptp(tonic)]
    return np.array([*level, phasic.std(), phasic.max(), len(rises) / minutes, rises.sum()])


def _rises(phasic: Floats) -> Floats:
    """Heights of the trough-to-peak rises above SCR_MIN_US."""
    turn = np.flatnonzero(np.diff(np.sign(np.diff(phasic))) != 0) + 1
    points = phasic[np.concatenate([[0], turn, [len(phasic) - 1]])]
    steps = np.diff(points)
    return np.asarray(steps[steps > SCR_MIN_US])


def features(person: Prepared, spec: SignalSpec, *, calibrated: bool) -> Floats:
    """(n, 16) features, ECG's then EDA's; in calibrated mode less the mean over the person's resting baseline."""
    table = np.array(
        [
            np.concatenate([ecg_features(person.ecg[i], spec.ecg.sfreq), eda_features(person.eda[i], spec.eda.sfreq)])
            for i in range(len(person))
        ]
    )
    if not calibrated:
        return table
    rest = person.is_baseline & person.present.all(axis=1)
    return np.asarray(table - table[rest if rest.any() else person.is_baseline].mean(axis=0))


def columns(mask: str) -> slice:
    """The feature columns a set of sensors gives."""
    n = len(ECG_FEATURES)
    return {"both": slice(None), "ecg": slice(0, n), "eda": slice(n, None)}[mask]


def make(system: str, seed: int) -> Steps:
    """An unfitted classifier with its own scaler."""
    kinds: dict[str, ClassifierMixin] = {
        "classical-lda": LinearDiscriminantAnalysis(priors=[0.5, 0.5], solver="lsqr", shrinkage="auto"),
        "classical-lr": LogisticRegression(class_weight="balanced", C=0.1, max_iter=1000),
        "classical-rf": RandomForestClassifier(
            100, min_samples_leaf=10, class_weight="balanced_subsample", random_state=seed, n_jobs=1
        ),
    }
    return make_pipeline(StandardScaler(), kinds[system])


SYSTEMS = ("classical-lda", "classical-lr", "classical-rf")
