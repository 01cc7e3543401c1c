"""Chooses window length and EDA context inside a fold: each candidate is fitted and judged on training subjects only.

Knows nothing of the test subject: it is not among the subjects given, and the choice says whom it looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from train.config import Inner
from train.fit import MASKS, FitConfig, fit, predict
from train.metrics import balanced_accuracy
from train.models.acc import AccConfig
from train.systems import asked
from train.windows import Windows

Candidate = tuple[float, float]
"""Window and EDA context, s."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what."""

    window_s: float
    eda_context_s: float
    scores: dict[str, float]
    """Candidate as ``window/context`` -> mean balanced accuracy over the judging subjects and the masks."""
    subjects: tuple[str, ...]
    """Everyone who was looked at."""

    @property
    def candidate(self) -> Candidate:
        """Window and EDA context, s."""
        return self.window_s, self.eda_context_s


def choose(
    windows: Mapping[Candidate, Windows],
    subjects: Sequence[str],
    inner: Inner,
    fit_config: FitConfig,
    model_config: AccConfig,
    seed: int = 0,
) -> Choice:
    """The candidate that tells the judging part of the subjects best, after a short fit on the other part."""
    judges, others = split(subjects, inner.share, seed)
    quick = replace(fit_config, epochs=inner.epochs)
    scores = {c: _score(windows[c], judges, others, quick, model_config, seed) for c in windows}
    best = max(scores, key=lambda c: scores[c])  # of equals the first
    shown = {f"{window:g}/{context:g}": round(score, 4) for (window, context), score in scores.items()}
    return Choice(*best, shown, tuple(sorted(subjects)))


def split(subjects: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(judging, fitting) subjects: disjoint, together all, both of them people."""
    order = np.random.default_rng(seed).permutation(sorted(set(subjects))).tolist()
    n = min(max(1, round(share * len(order))), len(order) - 1)
    return order[:n], order[n:]


def _score(
    windows: Windows, judges: Sequence[str], others: Sequence[str], config: FitConfig, base: AccConfig, seed: int
) -> float:
    shaped = replace(base, ecg_times=windows.ecg.shape[2], eda_times=windows.eda.shape[2])
    model = fit(windows, others, config, shaped, seed).model
    found = []
    for mask in MASKS.values():
        for subject in judges:
            index = asked(windows, subject, mask)
            if len(index):
                found.append(
                    balanced_accuracy(windows.label[index], predict(model, windows, index, mask).astype(float))
                )
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0
