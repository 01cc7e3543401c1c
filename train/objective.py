"""What a network is trained for: the task, and EmoBed's two ways of letting one modality learn from the other.

Knows nothing of loops, optimizers, files or people: a network and one batch in, one number out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.models.acc import MODALITIES
from train.models.emobed import EmoBed

Distance = Literal["cosine", "euclidean"]
Mining = Literal["all", "semi-hard", "hard"]
NEARLY = 1e-12
"""Under a root or a bar that may be zero."""
THIRDS = torch.tensor([1 / 3, 2 / 3])
"""Of all pairs of rated windows: the nearest third counts as the same emotion, the farthest as another."""


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
    task: Callable[[Tensor, Tensor], Tensor]
    """(N, n_outputs) of the network and (N,) weights of the windows to one loss."""
    same: Tensor
    """(N, N) whether two windows show the same emotion, for triplets."""
    other: Tensor
    """(N, N) whether they show different ones; what is neither is left out."""
    purity: float = 1.0
    """How much of it they show: 1, or less where windows are blends."""
    balance: Mapping[str, Tensor] = field(default_factory=dict)
    """Set of sensors -> (N,) weights with which the classes weigh the same among the windows that have these; without
    one all windows weigh the same."""

    def having(self, *modalities: str) -> Tensor:
        """(N,) weights of the windows that show all of these modalities, 0 for the others."""
        shown = torch.stack([self.mask[:, MODALITIES.index(m)] for m in modalities]).prod(dim=0)
        return shown * self.balance.get("+".join(modalities), 1.0)

    def as_shown(self) -> Tensor:
        """(N,) weights of all windows, each as one of those that have what it shows."""
        ecg, eda = (self.having(m) * (1.0 - self.mask[:, 1 - i]) for i, m in enumerate(MODALITIES))
        return self.having(*MODALITIES) + ecg + eda


def task_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The task alone, with whatever the mask shows."""
    return batch.task(model(batch.ecg, batch.eda, batch.mask), torch.ones_like(batch.mask[:, 0]))


def crossmodal_loss(model: EmoBed, batch: Batch, how: Crossmodal) -> Tensor:
    """The task with both modalities, with each by itself, and the triplets between them.

    A window of one modality counts as that modality's alone and as no other: where a sensor is missing more often in
    one class, its absence is not to tell. Without joint training the task is told from whatever a window shows.
    """
    if not how.joint and not how.triplet:
        return batch.task(model(batch.ecg, batch.eda, batch.mask), batch.as_shown())
    embedding, alone = model.both_ways(batch.ecg, batch.eda, batch.mask)
    shown = {m: batch.mask[:, i] for i, m in enumerate(MODALITIES) if m in alone}
    loss = batch.task(model.head(embedding), batch.having(*MODALITIES) if how.joint else batch.as_shown())
    if how.joint:
        each = (batch.task(model.head(alone[m]), batch.having(m)) for m in alone)
        loss = loss + how.joint * sum(each, torch.zeros_like(loss))
    if how.triplet and len(alone) == len(MODALITIES):
        counts = (shown["ecg"] > 0)[:, None] & (shown["eda"] > 0)[None, :]
        triplets = triplet_loss(alone["ecg"], alone["eda"], batch.same & counts, batch.other & counts, how)
        loss = loss + how.triplet * batch.purity * triplets
    return loss


def triplet_loss(ecg: Tensor, eda: Tensor, same: Tensor, other: Tensor, how: Crossmodal) -> Tensor:
    """Crossmodal triplets of both directions: anchors of ECG among EDA, anchors of EDA among ECG.

    ``ecg`` and ``eda`` are (N, n) embeddings; ``same`` and ``other`` (N, N), ECG's windows by EDA's, say which two may
    be anchor and positive, anchor and negative.
    """
    far = distances(ecg, eda, how.distance)
    return _one_way(far, same, other, how) + _one_way(far.T, same.T, other.T, how)


def alike_by_label(label: Tensor) -> tuple[Tensor, Tensor]:
    """(N, N) same and other class."""
    same = label[:, None] == label[None, :]
    return same, ~same


def alike_by_rating(target: Tensor) -> tuple[Tensor, Tensor]:
    """(N, N) the third of all pairs that is nearest by its ratings (N, n), and the third that is farthest."""
    far = torch.cdist(target, target)
    near, distant = torch.quantile(far, THIRDS.to(far))
    return far <= near, far > torch.maximum(near, distant)


def class_loss(losses: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A Batch's task from losses of each window: their weighted mean."""
    return lambda logits, weight: (losses(logits) * weight).sum() / weight.sum().clamp(min=1.0)


def rating_loss(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A Batch's task from ratings (N, n): 1 - CCC, mean over the ratings."""
    return lambda told, weight: (1.0 - ccc(told, target, weight)).mean()


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


def ccc(told: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(n,) concordance correlation of each column of (N, n) over rows of weights (N,), -1 to 1 (Lin 1989, Biometrics
    45:255)."""
    share = (weight / weight.sum().clamp(min=1.0))[:, None]
    mean, wanted = (told * share).sum(0), (target * share).sum(0)
    spread, wanted_spread = (((x - m) ** 2 * share).sum(0) for x, m in ((told, mean), (target, wanted)))
    together = ((told - mean) * (target - wanted) * share).sum(0)
    return 2 * together / (spread + wanted_spread + (mean - wanted) ** 2 + NEARLY)
