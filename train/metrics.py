"""Figures of merit for one person's windows, and intervals and tests over people. Any number of classes.

Knows nothing of folds, files, networks or tables: labels and probabilities in, numbers out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, wilcoxon

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BOOTSTRAPS = 2000
ECE_BINS = 10
FEWEST_PAIRS = 6
"""Below six pairs Wilcoxon's two-sided p cannot fall under 0.05, so it is not asked."""
FIGURES = ("balanced_accuracy", "macro_f1", "accuracy", "auroc", "ece")
EQUAL = 1e-9
"""Two figures nearer than this are the same: what is left is rounding, and it must not break a tie."""


def metrics(label: Ints, probability: Floats) -> dict[str, float]:
    """All figures of one person from labels (n,) and probabilities (n, n_classes), with the majority share and n."""
    return {
        "balanced_accuracy": balanced_accuracy(label, probability),
        "macro_f1": macro_f1(label, probability),
        "accuracy": accuracy(label, probability),
        "auroc": auroc(label, probability),
        "ece": ece(label, probability),
        "majority": majority(label),
        "n_windows": float(len(label)),
    }


def concordance(told: Floats, target: Floats) -> Floats:
    """(n_ratings,) Lin's concordance correlation of each column of (n, n_ratings), -1 to 1; nan where the target does
    not vary: there is nothing to follow."""
    spread = target.var(axis=0) + told.var(axis=0) + (told.mean(axis=0) - target.mean(axis=0)) ** 2
    together = ((told - told.mean(axis=0)) * (target - target.mean(axis=0))).mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(target.var(axis=0) > EQUAL, 2 * together / spread, np.nan)


def confusion(label: Ints, probability: Floats) -> Ints:
    """Counts (n_classes, n_classes), row: label, column: the class with the greatest probability."""
    n = probability.shape[1]
    out = np.zeros((n, n), np.int64)
    np.add.at(out, (label, probability.argmax(axis=1)), 1)
    return out


def balanced_accuracy(label: Ints, probability: Floats) -> float:
    """Mean recall of the classes that occur in ``label`` (n,); nan where fewer than two do."""
    return balanced_accuracy_of(confusion(label, probability))


def balanced_accuracy_of(table: Ints) -> float:
    """The same from a confusion table (n_classes, n_classes), row: label."""
    of_class = table.sum(axis=1)
    occurs = of_class > 0
    if occurs.sum() < 2:
        return float("nan")
    return float((table.diagonal()[occurs] / of_class[occurs]).mean())


def macro_f1(label: Ints, probability: Floats) -> float:
    """Mean F1 of the classes that were labelled or predicted; nan without windows."""
    return macro_f1_of(confusion(label, probability))


def macro_f1_of(table: Ints) -> float:
    """The same from a confusion table (n_classes, n_classes), row: label."""
    both = table.sum(axis=0) + table.sum(axis=1)
    seen = both > 0
    return float((2 * table.diagonal()[seen] / both[seen]).mean()) if seen.any() else float("nan")


def accuracy(label: Ints, probability: Floats) -> float:
    """Share of windows whose likeliest class is right; nan without windows."""
    return float((probability.argmax(axis=1) == label).mean()) if len(label) else float("nan")


def auroc(label: Ints, probability: Floats) -> float:
    """Area under the ROC: of class 1 for two classes, else mean of one-vs-rest; nan where fewer than two occur."""
    occurs = np.unique(label)
    if len(occurs) < 2:
        return float("nan")
    positive = [1] if probability.shape[1] == 2 else occurs
    return float(np.mean([_area(label == c, probability[:, c]) for c in positive]))


def _area(positive: npt.NDArray[np.bool_], score: Floats) -> float:
    """Mann-Whitney's U as a share of all pairs; a tie counts half."""
    n = int(positive.sum())
    u = rankdata(score)[positive].sum() - n * (n + 1) / 2
    return float(u / (n * (len(positive) - n)))


def reliability(label: Ints, probability: Floats, bins: int = ECE_BINS) -> tuple[Floats, Floats, Ints]:
    """Per equal bin of the winning probability: mean confidence, accuracy (nan where empty) and number of windows."""
    confidence = probability.max(axis=1)
    right = (probability.argmax(axis=1) == label).astype(float)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    total = np.where(count > 0, count, np.nan)
    return (
        np.bincount(place, confidence, minlength=bins) / total,
        np.bincount(place, right, minlength=bins) / total,
        count,
    )


def ece(label: Ints, probability: Floats, bins: int = ECE_BINS) -> float:
    """Expected calibration error over equal bins of the winning probability (Guo et al. 2017, arXiv 1706.04599)."""
    if not len(label):
        return float("nan")
    confidence, right, count = reliability(label, probability, bins)
    return float(np.nansum(np.abs(confidence - right) * count) / count.sum())


def majority(label: Ints) -> float:
    """Accuracy of always naming this person's commonest class; nan without windows."""
    return float(np.bincount(label).max() / len(label)) if len(label) else float("nan")


def subject_bootstrap(values: Sequence[float] | Floats, n: int = BOOTSTRAPS, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values``, one a person, by resampling people."""
    return stratified_bootstrap([values], n, seed)


def stratified_bootstrap(
    groups: Sequence[Sequence[float] | Floats], n: int = BOOTSTRAPS, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of the groups' means; people are resampled within their group."""
    if not groups or not all(len(g) for g in groups):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.asarray(g, float), (n, len(g))).mean(axis=1) for g in groups]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return float(low), float(high)


def paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Floats:
    """Differences ours - theirs over the people both have, in the order of their names."""
    common = sorted(set(ours) & set(theirs))
    difference = np.array([ours[s] - theirs[s] for s in common], float)
    return np.where(np.abs(difference) < EQUAL, 0.0, difference)


def wilcoxon_p(difference: Sequence[float] | Floats) -> float | None:
    """Two-sided Wilcoxon signed-rank p of paired differences; None below FEWEST_PAIRS or where all are zero."""
    rounded = np.round(np.asarray(difference, float) / EQUAL) * EQUAL  # equal differences share a rank
    if len(rounded) < FEWEST_PAIRS or not rounded.any():
        return None
    return float(wilcoxon(rounded).pvalue)
