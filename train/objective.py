"""What a network is trained for: the task, and EmoBed's two ways of letting one modality learn from the other.

Knows nothing of loops, optimizers, files or people: a network and one batch in, one number out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from train.models.acc import ACC, MODALITIES
from train.models.emobed import EmoBed

Distance = Literal["cosine", "euclidean"]
Mining = Literal["all", "semi-hard", "hard"]
NEARLY = 1e-12
"""Under the root of a distance: its slope at zero is infinite."""


@dataclass(frozen=True)
class Crossmodal:
    """EmoBed's training (Han et al. 2019, arXiv 1907.10428); weights, margin and distance are free choices."""

    joint: float = 1.0
    """Weight of the task as each modality tells it alone, through the shared recognition network."""
    triplet: float = 0.3
    """Weight of the triplets: an anchor of one modality, a positive and a negative of the other."""
    margin: float = 0.3
    """By how much nearer a positive is to be than a negative."""
    distance: Distance = "cosine"
    mining: Mining = "all"
    """Which triplets of a batch count: ``all``; the ``hard``est positive and negative of each anchor (Hermans et al.
    2017, arXiv 1703.07737); ``semi-hard``, for each positive the nearest negative that lies farther (Schroff et al.
    2015, arXiv 1503.03832), which leaves alone what lies nearer."""


CROSSMODAL = Crossmodal()
NO_CROSSMODAL = Crossmodal(joint=0.0, triplet=0.0)
"""The task alone."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sees."""

    ecg: Tensor
    """(N, 2, 1, ecg_times)."""
    eda: Tensor
    """(N, 2, 1, eda_times)."""
    mask: Tensor
    """(N, 2) 1 where a modality is shown."""
    task: Callable[[Tensor], Tensor]
    """(N, n_outputs) of the network to (N,) losses."""
    label: Tensor
    """(N,) of the emotion that each window shows most of, for triplets."""
    purity: float = 1.0
    """How much of it: 1, or less where windows are blends."""


def task_loss(model: ACC, batch: Batch) -> Tensor:
    """The task alone, with whatever the mask shows."""
    return batch.task(model(batch.ecg, batch.eda, batch.mask)).mean()


def crossmodal_loss(model: EmoBed, batch: Batch, how: Crossmodal) -> Tensor:
    """The task with what the mask shows; with each modality by itself; and the triplets between both."""
    loss = task_loss(model, batch)
    if not how.joint and not how.triplet:
        return loss
    alone = model.alone(batch.ecg, batch.eda)
    shown = {m: batch.mask[:, i] for i, m in enumerate(MODALITIES) if m in alone}
    if how.joint:
        each = (_mean(batch.task(model.head(alone[m])), shown[m]) for m in alone)
        loss = loss + how.joint * sum(each, torch.zeros_like(loss))
    if how.triplet and len(alone) == len(MODALITIES):
        there = {m: shown[m] > 0 for m in shown}
        loss = loss + how.triplet * batch.purity * triplet_loss(alone["ecg"], alone["eda"], batch.label, there, how)
    return loss


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def triplet_loss(ecg: Tensor, eda: Tensor, label: Tensor, there: dict[str, Tensor], how: Crossmodal) -> Tensor:
    """Crossmodal triplets of both directions: anchors of ECG among EDA, anchors of EDA among ECG.

    ``ecg`` and ``eda`` are (N, n) embeddings, ``label`` (N,), ``there`` (N,) per modality whether it counts.
    """
    far = distances(ecg, eda, how.distance)
    same = label[:, None] == label[None, :]
    counts = there["ecg"][:, None] & there["eda"][None, :]
    forth = _one_way(far, same & counts, ~same & counts, how)
    back = _one_way(far.T, (same & counts).T, (~same & counts).T, how)
    return forth + back


def distances(a: Tensor, b: Tensor, kind: Distance) -> Tensor:
    """(N, M) from each row of (N, n) to each of (M, n): 1 - cosine, 0 to 2; or Euclidean."""
    if kind == "cosine":
        return 1.0 - functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * a @ b.T
    return (squares.clamp(min=0.0) + NEARLY).sqrt()


def _one_way(far: Tensor, positive: Tensor, negative: Tensor, how: Crossmodal) -> Tensor:
    """Mean hinge over the chosen triplets of one direction; ``far`` (N, M) from anchors to the others."""
    if how.mining == "hard":
        usable = positive.any(1) & negative.any(1)
        to_positive = far.masked_fill(~positive, -torch.inf).amax(1)[usable]
        to_negative = far.masked_fill(~negative, torch.inf).amin(1)[usable]
        return _hinge(to_positive - to_negative + how.margin)
    anchor, chosen = torch.nonzero(positive & negative.any(1, keepdim=True), as_tuple=True)
    to_positive, others, are_negative = far[anchor, chosen], far[anchor], negative[anchor]
    if how.mining == "all":
        return _hinge((to_positive[:, None] - others + how.margin)[are_negative])
    farther = are_negative & (others > to_positive[:, None])
    nearest = others.masked_fill(~farther, torch.inf).amin(1)
    farthest = others.masked_fill(~are_negative, -torch.inf).amax(1)
    to_negative = torch.where(farther.any(1), nearest, farthest)
    return _hinge(to_positive - to_negative + how.margin)


def _hinge(violation: Tensor) -> Tensor:
    """Mean of what is above zero; 0 where there are no triplets."""
    return violation.clamp(min=0.0).sum() / max(1, violation.numel())


def ccc(predicted: Tensor, wanted: Tensor) -> Tensor:
    """(n,) concordance correlation of each column of (N, n), -1 to 1 (Lin 1989, Biometrics 45:255)."""
    mean, target = predicted.mean(0), wanted.mean(0)
    spread, target_spread = predicted.var(0, unbiased=False), wanted.var(0, unbiased=False)
    together = ((predicted - mean) * (wanted - target)).mean(0)
    return 2 * together / (spread + target_spread + (mean - target) ** 2 + NEARLY)
