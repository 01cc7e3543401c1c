"""A Transformer over ECG that converts to full int8: strided stem, encoder, a CLS token that stands for the window.

After Vazquez-Rodriguez et al. 2022 (arXiv 2204.05103), who pre-train one on masked ECG and fine-tune it for emotion;
the sizes are free choices, made for the edge. Nothing in it normalizes at run time: every BatchNorm stands behind a
projection and folds into it, where a LayerNorm in eight bits would cost most of the accuracy. Projections are 1x1
convolutions, which the converter keeps as they are, where linear layers on a sequence become matrix products with
constants. Knows nothing of training, of pretexts or of data sets.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.models.blocks import ConvBlock, classifier

N_CHANS = 2
"""Input channels: ecg and hr."""
STEM_1 = (32, 16)
"""Kernel and stride of the stem's first layer at 128 Hz: 250 ms spans a QRS and its neighbourhood."""
STEM_2 = (8, 4)
"""Of its second at 8 steps/s: a token each 0.5 s, so that no two beats of a resting heart share one."""
TOKEN_TIMES = STEM_1[1] * STEM_2[1]
"""Samples that a token stands for."""
SLOWEST = 10000.0
"""Longest wavelength of the positional encoding over 2 pi, in tokens (Vaswani et al. 2017, arXiv 1706.03762)."""
POSITION = 0.1
"""Size of the positional encoding at the start: less than what the stem says of the signal."""

STEP = 0.02
"""Of a centred projection in eight bits: its ends lie at 2.5 spreads, where calibration is sure to find values."""


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that shapes the network."""

    n_outputs: int = 2
    """Classes."""
    ecg_times: int = 7680
    """Samples of ECG that it reads: 60 s at 128 Hz."""
    eda_times: int = 1200
    """Samples of EDA that a bundle hands over; not looked at."""
    modalities: tuple[str, ...] = ("ecg",)
    """What it reads."""
    stem: int = 16
    """Channels between the stem's layers."""
    width: int = 48
    """Channels of a token."""
    layers: int = 2
    heads: int = 4
    """Of each layer's attention; they share the width."""
    feed: int = 96
    """Units between a layer's two feed-forward projections."""
    hidden: int = 32
    """Units of the head's hidden layer."""
    dropout: float = 0.3
    """Before each of the head's two layers, in training only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        if self.modalities != ("ecg",):
            raise ValueError(f"modalities {self.modalities}: it reads ecg and nothing else")
        if self.ecg_times < TOKEN_TIMES or self.ecg_times % TOKEN_TIMES:
            raise ValueError(f"{self.ecg_times} samples of ECG are not a whole number of tokens of {TOKEN_TIMES}")
        if self.heads < 1 or self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads of even size")

    @property
    def n_tokens(self) -> int:
        """Tokens of a window, without CLS."""
        return self.ecg_times // TOKEN_TIMES

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, as a checkpoint holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class Projection(nn.Sequential):
    """1x1 convolution and the BatchNorm that folds into it: (N, in, 1, L) -> (N, out, 1, L)."""

    def __init__(self, n_in: int, n_out: int, scale: float = 1.0) -> None:
        """``scale`` is what the outputs' spread begins with."""
        super().__init__(nn.Conv2d(n_in, n_out, (1, 1), bias=False), nn.BatchNorm2d(n_out))
        nn.init.constant_(self[1].weight, scale)


class Centred(nn.Sequential):
    """A projection whose eight bits have their zero in the middle: (N, in, 1, L) -> (N, out, 1, L) in spreads.

    LiteRT 2.1 multiplies two int8 matrices as if the second one's zero point were 0, without a word. Outputs of unit
    spread that end at -128 and 127 steps of the same size make it so.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, (1, 1), bias=False),
            nn.BatchNorm2d(n_out, affine=False),
            nn.Hardtanh(-128 * STEP, 127 * STEP),
        )


class Attention(nn.Module):
    """Every token looks at every other: (N, C, 1, L) -> (N, C, 1, L).

    The usual division by the root of a head's size is how queries begin, and theirs to change: an operator of its own
    breaks the converter.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query = Projection(width, width, scale=1.0 / math.sqrt(self.size))
        self.key = Centred(width, width)
        self.value = Centred(width, width)
        self.out = Projection(width, width, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """What each token is to be told."""
        mixed = self.weights(x) @ self._split(self.value(x))
        last = mixed.transpose(1, 2).reshape(x.shape[0], 1, x.shape[3], x.shape[1])
        told: Tensor = self.out(last.permute(0, 3, 1, 2))
        return told

    def weights(self, x: Tensor) -> Tensor:
        """(N, heads, L, L) how much token i, by its row, takes of token j; rows sum to 1."""
        scores = self._split(self.query(x)) @ self._split(self.key(x)).transpose(2, 3)
        return torch.softmax(scores, dim=3)

    def _split(self, x: Tensor) -> Tensor:
        """(N, C, 1, L) to (N, heads, L, size)."""
        last = x.permute(0, 2, 3, 1)  # as the converter has it: it leaves no transpose behind
        return last.reshape(x.shape[0], x.shape[3], self.heads, self.size).transpose(1, 2)


class Layer(nn.Module):
    """Attention, then a feed-forward pair, each added to what was there.

    Both begin as nothing (zero scale of their last BatchNorm, after Goyal et al. 2017, arXiv 1706.02677): depth comes
    as it helps.
    """

    def __init__(self, width: int, heads: int, feed: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.feed = nn.Sequential(Projection(width, feed), nn.ReLU6(), Projection(feed, width, scale=0.0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 1, L) to the same."""
        x = x + self.attention(x)
        fed: Tensor = x + self.feed(x)
        return fed


class EcgTransformer(nn.Module):
    """The encoder with a head for classes; see :class:`TransformerConfig`."""

    position: Tensor

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TransformerConfig()
        self.stem = nn.Sequential(
            ConvBlock(N_CHANS, config.stem, *STEM_1), ConvBlock(config.stem, config.width, *STEM_2)
        )
        self.position = nn.Parameter(POSITION * positions(config.n_tokens, config.width))
        self.cls = nn.Parameter(POSITION * torch.randn(1, config.width, 1, 1))
        self.layers = nn.ModuleList(Layer(config.width, config.heads, config.feed) for _ in range(config.layers))
        self.head = classifier(2 * config.width, config.hidden, config.n_outputs, config.dropout)

    def tokens(self, ecg: Tensor) -> Tensor:
        """(N, width, 1, 1 + n_tokens): CLS and the tokens in the order of time, before any knows of another."""
        tokens = self.stem(ecg) + self.position
        return torch.cat([self.cls.expand(len(tokens), -1, -1, -1), tokens], dim=3)

    def encoded(self, ecg: Tensor) -> Tensor:
        """The same after all layers, from ecg (N, 2, 1, ecg_times)."""
        x = self.tokens(ecg)
        for layer in self.layers:
            x = layer(x)
        return x

    def representation(self, ecg: Tensor) -> Tensor:
        """(N, 2 * width) that stands for the window: CLS, and the mean of its tokens."""
        return summary(self.encoded(ecg))

    def attended(self, ecg: Tensor) -> Tensor:
        """(N, layers, n_tokens) what CLS takes of each token, mean over the heads, for pictures."""
        x, found = self.tokens(ecg), []
        for layer in self.layers:
            found.append(layer.attention.weights(x)[:, :, 0, 1:].mean(dim=1))
            x = layer(x)
        return torch.stack(found, dim=1)

    def forward(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, n_outputs) from ecg (N, 2, 1, ecg_times) and mask (N, 2), in the order ecg, eda.

        EDA is not looked at. Without ECG the logits are the head's of nothing, whatever stands in its array (it must be
        finite).
        """
        logits: Tensor = self.head(self.representation(ecg) * mask[:, :1])
        return logits


def summary(encoded: Tensor) -> Tensor:
    """(N, 2 * width) of an encoder's output (N, width, 1, 1 + n_tokens): CLS, and the mean of the tokens."""
    return torch.cat([encoded[:, :, :, :1].flatten(1), encoded[:, :, :, 1:].mean(dim=3).flatten(1)], dim=1)


def positions(n_tokens: int, width: int) -> Tensor:
    """(1, width, 1, n_tokens) sines and cosines by turns, of wavelengths from 2 pi tokens on (Vaswani et al. 2017)."""
    pitch = SLOWEST ** (-torch.arange(0, width, 2) / width)
    angle = pitch[:, None] * torch.arange(n_tokens)
    return torch.stack([angle.sin(), angle.cos()], dim=1).reshape(1, width, 1, n_tokens)
