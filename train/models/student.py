"""The student: a small multilayer perceptron over a window's features, which converts to int8 as it stands.

Knows nothing of its teacher, of how features are made or scaled, or of data sets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from device.pipeline.spec import MODALITIES

NAME = "classical-mlp"
"""The model's name in checkpoints."""


@dataclass(frozen=True)
class StudentConfig:
    """Everything that shapes the network."""

    n_ecg: int
    """Features of the ECG."""
    n_eda: int
    n_outputs: int = 2
    hidden: tuple[int, int] = (48, 24)
    """Units of the hidden layers: some 4000 weights, a third of what a forest of 100 trees holds in nodes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.n_ecg, self.n_eda, *self.hidden) < 1 or len(self.hidden) != 2 or self.n_outputs < 2:
            raise ValueError(f"{self}: features and two hidden layers of one or more, two outputs or more")

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, as a checkpoint holds them."""
        return {**asdict(self), "hidden": list(self.hidden)}


class Student(nn.Module):
    """Features of both modalities and the mask, two hidden layers, logits."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        first, second = config.hidden
        self.layers = nn.Sequential(
            nn.Linear(config.n_ecg + config.n_eda + len(MODALITIES), first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, config.n_outputs),
        )

    def forward(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, n_outputs) from ecg (N, n_ecg), eda (N, n_eda) and mask (N, 2), 1 present, 0 absent.

        Features are scaled and clipped by ``device.pipeline.feature_input``; what stands in an absent modality's place
        has no influence (it must be finite).
        """
        logits: Tensor = self.layers(torch.cat([ecg * mask[:, 0:1], eda * mask[:, 1:2], mask], dim=1))
        return logits
