"""What a few labels of the wearer's own would give: the first windows of each class are shown, the rest is judged.

Nothing is trained: the labelled windows move prototypes, as on the device (device.space). Knows nothing of folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from device.pipeline.spec import MODALITIES
from device.space import Shots, Space, evidence
from train.confidence import Confidence
from train.fit import MASKS, Network, predicted
from train.windows import Windows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHOTS = (0, 1, 3, 5)
"""Labelled windows of each class."""


def support(label: Ints, start: Floats, n: int, apart_s: float) -> Ints:
    """Places of the first ``n`` windows of each class, no two of them overlapping: ``apart_s`` between starts."""
    chosen: list[int] = []
    for k in np.unique(label):
        mine: list[int] = []
        for i in np.flatnonzero(label == k)[np.argsort(start[label == k])]:
            if len(mine) < n and all(abs(start[i] - start[j]) >= apart_s for j in mine):
                mine.append(int(i))
        chosen += mine
    return np.array(sorted(chosen), np.int64)


def judged_by_shots(
    model: Network,
    windows: Windows,
    index: Ints,
    mask: tuple[float, float],
    sure: Confidence,
    space: Space,
    window_s: float,
    shots: Sequence[int] = SHOTS,
) -> tuple[Ints, dict[int, Floats]]:
    """Of one person's windows ``index``: places of those judged, and for each number of shots their probabilities.

    The same windows are judged whatever the number: those that overlap none of the most that are shown.
    """
    label, start = windows.label[index], windows.start[index]
    shown = support(label, start, max(shots), window_s)
    left = np.array([i for i in range(len(index)) if (np.abs(start[i] - start[shown]) >= window_s).all()], np.int64)
    logits, embedding = predicted(model, windows, index, mask)
    has = windows.present[index] & (np.array(mask) > 0)
    names = ["+".join(m for m, there in zip(MODALITIES, row, strict=True) if there) for row in has]
    out = {}
    for n in shots:
        mine = Shots()
        for i in support(label, start, n, window_s) if n else ():
            for name, value in _by_mask(model, windows, int(index[i]), names[i], embedding[i]):
                mine = mine.with_shot(value, int(label[i]), name, model.config.n_outputs)
        more = np.array([evidence(embedding[i], space, mine, names[i]) for i in left])
        scale = np.array([[sure.temperature[names[i]]] for i in left])
        out[n] = softmax((logits[left] + more) / scale, axis=1) if len(left) else np.empty((0, logits.shape[1]))
    return left, out


def _by_mask(model: Network, windows: Windows, i: int, name: str, embedding: Floats) -> list[tuple[str, Floats]]:
    """A labelled window's embedding under its own mask, and under each sensor's alone where it has both."""
    found = [(name, embedding)]
    if "+" in name:
        found += [(m, predicted(model, windows, np.array([i]), MASKS[m])[1][0]) for m in MODALITIES]
    return found
