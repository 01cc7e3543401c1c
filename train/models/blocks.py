"""Layers that survive int8 conversion: (1, k) convolution blocks and the connection between two modalities.

Knows nothing of a whole network or of what the channels mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Strided (1, k) convolution, BatchNorm, ReLU6: (N, in, 1, T) -> (N, out, 1, T / stride).

    Conv2d and not Conv1d because the converter turns Conv1d into transposes around a Conv2d. The convolution has no
    bias: BatchNorm, which the converter folds into it, brings one. ``kernel - stride`` must be even, so that the
    padding is the same on both sides and the length divides cleanly. ReLU6 and not ReLU because rare windows reach 30
    with ReLU while most of a feature map lies below 1, and one int8 scale has to serve both.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        if kernel < stride or (kernel - stride) % 2:
            raise ValueError(f"kernel {kernel} and stride {stride}: kernel - stride must be even and >= 0")
        padding = (0, (kernel - stride) // 2)
        super().__init__(
            nn.Conv2d(n_in, n_out, (1, kernel), stride=(1, stride), padding=padding, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU6(),
        )


def classifier(n_in: int, hidden: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """(N, n_in) to logits (N, n_outputs) through one hidden layer, with dropout before both."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(n_in, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, n_outputs)
    )


class Connection(nn.Module):
    """One cross-modal connection: a message from the source's features to the target's, scaled by attention.

    ``message = source_mask * projection(source) * sigmoid(gate(source))``, both 1x1 convolutions. Attention ``gate``
    looks at every moment by itself, ``channel`` at the source's mean over time (squeeze-excite, Hu et al. 2018, arXiv
    1709.01507), ``none`` leaves the gate out. The shared, gated intermediate representation is Bhatti et al. 2021
    (arXiv 2108.02241), read as "project, gate, add"; the exact form of the gate is a free choice. A message begins as
    nothing (the last BatchNorm's scale is zero, after Goyal et al. 2017, arXiv 1706.02677, for residual branches): the
    branches learn by themselves first, and from each other what helps.
    """

    def __init__(self, n_source: int, n_target: int, *, attention: str) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Conv2d(n_source, n_target, (1, 1), bias=False), nn.BatchNorm2d(n_target))
        nn.init.zeros_(self.projection[1].weight)
        self.gate = None if attention == "none" else nn.Conv2d(n_source, n_target, (1, 1))
        self.pooled = attention == "channel"

    def forward(self, source: Tensor, source_mask: Tensor) -> Tensor:
        """Message (N, n_target, 1, T) from source (N, n_source, 1, T) and its mask (N, 1, 1, 1)."""
        message: Tensor = self.projection(source)
        if self.gate is not None:
            seen = source.mean(dim=3, keepdim=True) if self.pooled else source
            message = message * torch.sigmoid(self.gate(seen))
        return message * source_mask
