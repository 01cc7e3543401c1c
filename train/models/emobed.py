"""EmoBed: both sensors meet in one emotion embedding space, and one recognition network reads it.

After Han, Zhang, Ren & Schuller 2019 (arXiv 1907.10428): joint training through a shared recognition network, and a
space in which the embedding of either modality stands for the emotion. Read here on the trunk of the attentive
cross-modal network, whose messages carry the mask: an absent modality contributes nothing anywhere. What makes the
space one is the objective (train.objective), not the network. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from train.models.acc import ACC, MODALITIES, AccConfig
from train.models.blocks import classifier

PARTS = {"ecg": 1, "eda": 2}
"""Pooled parts of each branch: EDA's window, and its window with context."""


@dataclass(frozen=True)
class EmoBedConfig(AccConfig):
    """Everything that shapes the network: the trunk's switches and the space."""

    embedding: int = 32
    """Dimensions of the space."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding < 1:
            raise ValueError(f"embedding {self.embedding}: one dimension or more")


class EmoBed(ACC):
    """Branches with masked connections, a projection of each into one space, one head for whatever is there."""

    config: EmoBedConfig

    def __init__(self, config: EmoBedConfig | None = None) -> None:
        config = config or EmoBedConfig()
        super().__init__(config)
        width = config.widths[-1]
        self.projections = nn.ModuleDict(
            {m: nn.Linear(PARTS[m] * width, config.embedding) for m in MODALITIES if m in config.modalities}
        )
        self.head = classifier(config.embedding, config.hidden, config.n_outputs, config.dropout)

    def embeddings(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Each modality's place in the space, (N, embedding); that of an absent one means nothing."""
        return self._projected(self.pooled(ecg, eda, mask))

    def both_ways(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``embedding``, and each modality's place as if it were the only one there: no message reaches it."""
        early = self.early(ecg, eda)
        together, alone = (self._projected(self.later(early, m)) for m in (mask, None))
        return fused(together, mask), alone

    def _projected(self, pooled: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {m: project(pooled[m]) for m, project in self.projections.items()}

    def embedding(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Where a window lies in the space (N, embedding): the mean over the modalities that are there."""
        return fused(self.embeddings(ecg, eda, mask), mask)

    def forward(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, n_outputs); arguments as those of :meth:`ACC.forward`."""
        logits: Tensor = self.head(self.embedding(ecg, eda, mask))
        return logits


def fused(embeddings: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """Mean (N, embedding) over the modalities present; zeros where none is.

    Written without a division, which int8 does badly: one alone weighs 1, one of two a half.
    """
    shown = {m: mask[:, i : i + 1] for i, m in enumerate(MODALITIES) if m in embeddings}
    if len(shown) == 1:
        return next(embeddings[m] * shown[m] for m in shown)
    halves = 1.0 - 0.5 * shown["eda"], 1.0 - 0.5 * shown["ecg"]
    return embeddings["ecg"] * (shown["ecg"] * halves[0]) + embeddings["eda"] * (shown["eda"] * halves[1])
