"""Chooses window length and EDA context inside a fold: each candidate is fitted and judged on training subjects only.

Knows nothing of the test subject: it is not among the subjects given, and the choice says whom it looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train.config import Inner
from train.fit import MASKS, FitConfig, Network, NetworkConfig, fit, predict
from train.metrics import balanced_accuracy, concordance
from train.objective import CROSSMODAL, NO_CROSSMODAL, Crossmodal
from train.systems import asked
from train.windows import Windows

if TYPE_CHECKING:
    from train.confidence import Confidence

Floats = npt.NDArray[np.float64]
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
    crossmodal: Crossmodal = CROSSMODAL
    """What EmoBed's network is trained for."""
    sure: Confidence | None = None
    """When EmoBed's network is to answer."""

    @property
    def candidate(self) -> Candidate:
        """Window and EDA context, s."""
        return self.window_s, self.eda_context_s


def choose(
    windows: Mapping[Candidate, Windows],
    subjects: Sequence[str],
    inner: Inner,
    fit_config: FitConfig,
    model_config: NetworkConfig,
    seed: int = 0,
) -> Choice:
    """The first candidate, unless another tells the judging part of the subjects clearly better.

    Each is fitted for a short time on the other part. Clearly is by more than one standard error of the difference
    over the judging subjects (the rule of Breiman et al. 1984 for choosing a tree): few judge, and chance is no reason.
    """
    if len(windows) < 2:
        return Choice(*next(iter(windows)), {}, ())
    judges, others = split(subjects, inner.share, seed)
    quick = replace(fit_config, epochs=inner.epochs)
    scores = {c: _scores(windows[c], judges, others, quick, model_config, seed) for c in windows}
    shown = {f"{window:g}/{context:g}": round(_mean(found), 4) for (window, context), found in scores.items()}
    return Choice(*_first_or_better(scores), shown, tuple(sorted(subjects)))


def choose_crossmodal(
    choice: Choice,
    windows: Windows,
    subjects: Sequence[str],
    candidates: Sequence[Crossmodal],
    inner: Inner,
    fit_config: FitConfig,
    model_config: NetworkConfig,
    seed: int = 0,
) -> Choice:
    """The same choice with a way of EmoBed's training, chosen likewise: the first candidate, unless one is better."""
    if len(candidates) < 2:
        return replace(choice, crossmodal=candidates[0])
    judges, others = split(subjects, inner.share, seed)
    quick = replace(fit_config, epochs=inner.epochs)
    scores = {c: _scores(windows, judges, others, quick, model_config, seed, c) for c in candidates}
    shown = {_words(c): round(_mean(found), 4) for c, found in scores.items()}
    looked_at = tuple(sorted({*choice.subjects, *subjects}))
    best = _first_or_better(scores)
    return replace(choice, crossmodal=best, scores={**choice.scores, **shown}, subjects=looked_at)


def _first_or_better(scores: Mapping[Any, Floats]) -> Any:
    best = next(iter(scores))
    for candidate, found in scores.items():
        if _is_clear(found - scores[best]):
            best = candidate
    return best


def _words(crossmodal: Crossmodal) -> str:
    return " ".join(f"{name}={value}" for name, value in vars(crossmodal).items())


def _is_clear(gain: Floats) -> bool:
    """Whether a gain per person is larger than its standard error; people who cannot be compared do not count."""
    known = gain[np.isfinite(gain)]
    error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else 0.0
    return bool(len(known) and known.mean() > error)


def _mean(scores: Floats) -> float:
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0


def split(subjects: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """(judging, fitting) subjects: disjoint, together all, both of them people."""
    order = np.random.default_rng(seed).permutation(sorted(set(subjects))).tolist()
    n = min(max(1, round(share * len(order))), len(order) - 1)
    return order[:n], order[n:]


def parts(subjects: Sequence[str], share: float, seed: int) -> list[list[str]]:
    """Subjects dealt into as many parts as ``share`` goes into 1, two at least and none empty; of one person nobody can
    be judged by another: one part with nobody."""
    order = np.random.default_rng(seed).permutation(sorted(set(subjects))).tolist()
    n = min(max(2, round(1 / share)), len(order))
    return [order[k::n] for k in range(n)] if n > 1 else [[]]


def _scores(
    windows: Windows,
    judges: Sequence[str],
    others: Sequence[str],
    config: FitConfig,
    base: NetworkConfig,
    seed: int,
    crossmodal: Crossmodal = NO_CROSSMODAL,
) -> Floats:
    """(n_judges,) balanced accuracy or concordance of each, mean over the masks; NaN where nothing can be asked."""
    shaped = replace(base, ecg_times=windows.ecg.shape[2], eda_times=windows.eda.shape[2])
    model = fit(windows, others, config, shaped, seed, crossmodal=crossmodal).model
    return np.array([_score(model, windows, subject) for subject in judges])


def _score(model: Network, windows: Windows, subject: str) -> float:
    found = []
    for mask in MASKS.values():
        index = asked(windows, subject, mask)
        if len(index):
            found.append(_merit(windows, index, predict(model, windows, index, mask).astype(float)))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def _merit(windows: Windows, index: npt.NDArray[np.int64], told: Floats) -> float:
    """Balanced accuracy of classes; concordance of ratings, mean over those that vary."""
    if not windows.target.shape[1]:
        return balanced_accuracy(windows.label[index], told)
    found = concordance(told, windows.target[index].astype(float))
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
