"""How sure to be, and when not to answer: temperatures, thresholds, and where known windows lie in the space.

Everything is fitted on training subjects: temperatures and thresholds on each of them by a network that has not seen
him, so that they hold for a new person; prototypes on all, by the network that is used. Knows nothing of folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from device.bundle import mask_name
from device.pipeline.spec import MODALITIES
from device.space import Space
from train.fit import MASKS, FitConfig, Network, NetworkConfig, fit, predicted
from train.objective import Crossmodal
from train.select import parts
from train.systems import asked
from train.windows import Windows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COVERAGE = 0.8
"""Share of a new person's windows that are to be answered, of those that any sensor covers. A free choice."""
FAMILIAR = 0.97
"""Share of a new person's windows that are to count as familiar: three false alarms in a hundred. A free choice: with
one in a hundred, half of the windows of skin temperature taken as EDA were familiar (train/LOG.md)."""
JUDGING = 0.2
"""Share of the training subjects that judges a network fitted on the others: the fewer, the more is that network like
the one that learns from all."""
TEMPERATURES = (0.1, 10.0)
"""Searched between; beyond them probabilities are all alike or all certain."""
NAMES = {
    mask: mask_name([m for m, is_shown in zip(MODALITIES, shown, strict=True) if is_shown])
    for mask, shown in MASKS.items()
}
"""Mask as evaluations call it -> as bundles do."""
NOWHERE = dict.fromkeys(NAMES.values(), float("inf"))
"""No distance is too far."""
LEAST_SPREAD = 1e-3
"""Of a dimension in which a class does not vary: distances stay finite."""


@dataclass(frozen=True)
class Confidence:
    """What turns logits into an answer or an abstention, by mask as bundles name them."""

    temperature: dict[str, float]
    min_probability: dict[str, float]
    """Below it there is no answer; at least ``coverage`` of the judged windows lie above."""
    max_distance: dict[str, float]
    """Beyond it a window is like none that is known."""
    coverage: float = COVERAGE
    subjects: tuple[str, ...] = ()
    """On whom it was fitted."""


def confidence(
    windows: Windows,
    subjects: Sequence[str],
    share: float,
    config: FitConfig,
    model_config: NetworkConfig,
    crossmodal: Crossmodal,
    seed: int = 0,
    coverage: float = COVERAGE,
) -> Confidence:
    """See how sure networks may be of people whom they have not seen, each person alike.

    The subjects are dealt into as many parts as ``share`` goes into 1; each part judges a network fitted on the others.
    """
    judged = []
    for judges in parts(subjects, share, seed):
        others = [s for s in subjects if s not in judges]
        model = fit(windows, others, config, model_config, seed, crossmodal=crossmodal).model
        judged.append((judges, model, space_of(model, windows, others)))
    found: dict[str, dict[str, float]] = {"temperature": {}, "min_probability": {}, "max_distance": {}}
    for mask, shown in MASKS.items():
        name = NAMES[mask]
        tried = [_tried(windows, *each, shown, name) for each in judged]
        index, logits, far = (np.concatenate(column) for column in zip(*tried, strict=True))
        weight = _each_alike(windows.subject[index])
        t = temperature(logits, windows.label[index], weight)
        found["temperature"][name] = t
        sure = softmax(logits / t, axis=1).max(axis=1)
        found["min_probability"][name] = _quantile(sure, 1 - coverage, weight, of_none=1.0)  # know nothing, say nothing
        found["max_distance"][name] = _quantile(far, FAMILIAR, weight, of_none=0.0)
    return Confidence(**found, coverage=coverage, subjects=tuple(sorted(subjects)))


def _tried(
    windows: Windows, judges: Sequence[str], model: Network, space: Space, shown: tuple[float, float], name: str
) -> tuple[Ints, Floats, Floats]:
    """Indices of the judges' windows that have what is shown, a network's logits of them and their distances."""
    index = np.concatenate([np.empty(0, np.int64), *(asked(windows, subject, shown) for subject in judges)])
    index = index[_complete(windows, shown)[index]]
    logits, embedding = predicted(model, windows, index, shown)
    return index, logits, space.distance(embedding, name)


@dataclass(frozen=True, eq=False)
class Answers:
    """What is said of some windows."""

    probability: Floats
    """(n, n_outputs) over the temperature of each window's own mask."""
    distance: Floats
    """(n,) from the nearest prototype."""
    is_sure: npt.NDArray[np.bool_]
    """(n,) probable enough for the stated coverage."""
    is_familiar: npt.NDArray[np.bool_]


def answers(
    model: Network, windows: Windows, index: Ints, mask: tuple[float, float], sure: Confidence, space: Space
) -> Answers:
    """Windows as the device would answer them, each by the mask of what it has of what is shown."""
    logits, embedding = predicted(model, windows, index, mask)
    probability, distance = np.zeros_like(logits), np.zeros(len(index))
    is_sure, is_familiar = np.zeros(len(index), bool), np.zeros(len(index), bool)
    has = windows.present[index] & (np.array(mask) > 0)
    for name in NAMES.values():
        its = (has == [m in name.split("+") for m in MODALITIES]).all(axis=1)
        probability[its] = softmax(logits[its] / sure.temperature[name], axis=1)
        distance[its] = space.distance(embedding[its], name)
        is_sure[its] = probability[its].max(axis=1) >= sure.min_probability[name]
        is_familiar[its] = distance[its] <= sure.max_distance[name]
    return Answers(probability, distance, is_sure, is_familiar)


def space_of(
    model: Network, windows: Windows, subjects: Sequence[str], max_distance: Mapping[str, float] = NOWHERE
) -> Space:
    """Prototypes and spread of the subjects' windows, each person alike; a class that nobody shows lies at zero."""
    prototypes, spread = {}, {}
    train = windows.of(subjects)
    for mask, shown in MASKS.items():
        index = train[_complete(windows, shown)[train]]
        embedding, label = predicted(model, windows, index, shown)[1], windows.label[index]
        weight = _each_alike(windows.subject[index])
        means = np.zeros((model.config.n_outputs, embedding.shape[1]))
        for k in np.unique(label):
            means[k] = np.average(embedding[label == k], axis=0, weights=weight[label == k])
        rest = np.average((embedding - means[label]) ** 2, axis=0, weights=weight) if len(label) else means[0]
        prototypes[NAMES[mask]] = tuple(map(tuple, means.tolist()))
        spread[NAMES[mask]] = tuple(np.maximum(np.sqrt(rest), LEAST_SPREAD).tolist())
    return Space(prototypes=prototypes, spread=spread, max_distance=dict(max_distance))


def when_to_answer(model: Network, windows: Windows, subjects: Sequence[str], sure: Confidence) -> dict[str, Any]:
    """What a checkpoint says of its network's answers, as a bundle's manifest is to have it."""
    return {
        "temperature": sure.temperature,
        "thresholds": {"min_probability": sure.min_probability},
        "space": msgspec.to_builtins(space_of(model, windows, subjects, sure.max_distance)),
        "coverage": sure.coverage,
    }


def temperature(logits: Floats, label: Ints, weight: Floats) -> float:
    """What logits (n, n_outputs) are to be divided by so that labels (n,) are least surprising (Guo et al. 2017,
    arXiv 1706.04599); 1 where there are none."""
    if not len(label):
        return 1.0

    def surprise(log_t: float) -> float:
        likely = log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(label)), label]
        return -float(np.average(likely, weights=weight))

    found = minimize_scalar(surprise, bounds=np.log(TEMPERATURES).tolist(), method="bounded")
    return float(np.exp(found.x))


def _each_alike(subject: npt.NDArray[np.str_]) -> Floats:
    """(n,) weights with which every person counts the same."""
    _, place, count = np.unique(subject, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / count[place])


def _complete(windows: Windows, mask: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """(n,) windows that have everything a mask shows: with less they are under another mask."""
    return np.asarray((windows.present | (np.array(mask) == 0)).all(axis=1))


def _quantile(values: Floats, share: float, weight: Floats, of_none: float) -> float:
    """The value with a share of the weight below it."""
    if not len(values):
        return of_none
    order = np.argsort(values)
    below = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(below, share)), len(values) - 1)])
