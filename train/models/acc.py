"""Attentive cross-modal connections (ACC): one CNN per modality, linked by gated messages between their stages.

Knows nothing of training, of data sets or of quantization; every layer in it converts to int8.

Both branches reach one rate after the first stage and keep it, so that sample k from the end of one is the same moment
as sample k from the end of the other: EDA may be longer (its context), and a message covers the time both have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.models.blocks import Connection, ConvBlock, classifier
from train.models.ecg_transformer import TOKEN_TIMES, EcgTransformer, TransformerConfig

MODALITIES = ("ecg", "eda")
DIRECTIONS = ("ecg->eda", "eda->ecg")
N_CHANS = 2
"""Input channels of each modality: ecg and hr, tonic and phasic."""
ECG_STEM = (32, 16)
"""Kernel and stride of the ECG stem at 128 Hz: 250 ms spans a QRS and its neighbourhood; steps of 125 ms keep every
beat apart."""
ECG_FIRST = (16, 8)
"""Kernel and stride of ECG stage 0: 2 s, two beats, at 128 / 16 / 8 = 1 step/s, EDA's own rate there."""
EDA_FIRST = (8, 4)
"""Kernel and stride of EDA stage 0 at 4 Hz: 2 s, the rise of a skin conductance response, at 1 step/s."""
ENCODED_FIRST = (2 * ECG_STEM[1] * ECG_FIRST[1] // TOKEN_TIMES, ECG_STEM[1] * ECG_FIRST[1] // TOKEN_TIMES)
"""The same over the tokens of an ECG Transformer."""
ENCODER = "branches.ecg.0.0.encoder."
"""What names of its weights begin with."""
LATER = ((8, 4), (3, 1))
"""Kernel and stride of stages 1 and 2 of both branches: 0.25 steps/s, then the same once more."""


@dataclass(frozen=True)
class AccConfig:
    """Everything that shapes the network."""

    n_outputs: int = 2
    """Classes."""
    ecg_times: int = 7680
    """Samples of ECG that it reads: 60 s at 128 Hz."""
    eda_times: int = 1200
    """Samples of EDA that it reads: 300 s at 4 Hz, the window and the context before it; no shorter than ECG's time."""
    modalities: tuple[str, ...] = MODALITIES
    """Branches there are; with one alone the other input is not looked at."""
    stem: int = 12
    """Channels of the ECG stem."""
    widths: tuple[int, ...] = (16, 24, 32)
    """Channels after each stage, the same for both branches."""
    stages: tuple[int, ...] = (1, 2)
    """Stages after which the branches are connected; () for two branches that never meet before the head."""
    directions: tuple[str, ...] = DIRECTIONS
    """Which way messages go."""
    attention: Literal["gate", "channel", "none"] = "gate"
    """What scales a message: a gate for every moment, one for the whole window (squeeze-excite), or nothing."""
    hidden: int = 32
    """Units of the head's hidden layer."""
    dropout: float = 0.3
    """Dropout before each of the head's two layers, in training only."""
    encoder: TransformerConfig | None = None
    """An ECG Transformer in place of the ECG stem; None for the stem."""

    def __post_init__(self) -> None:
        if isinstance(self.encoder, Mapping):  # of a checkpoint
            object.__setattr__(self, "encoder", TransformerConfig(**self.encoder))
        if self.encoder is not None and self.encoder.ecg_times != self.ecg_times:
            raise ValueError(f"an encoder of {self.encoder.ecg_times} samples of ECG where there are {self.ecg_times}")
        for name in ("modalities", "widths", "directions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "stages", tuple(sorted(set(self.stages))))
        if not 1 <= len(self.widths) <= 1 + len(LATER):
            raise ValueError(f"widths {self.widths}: one to {1 + len(LATER)} stages")
        if any(not 0 <= stage < len(self.widths) for stage in self.stages):
            raise ValueError(f"stages {self.stages} where the network has stages 0..{len(self.widths) - 1}")
        if not set(self.directions) <= set(DIRECTIONS):
            raise ValueError(f"directions {self.directions} are not among {DIRECTIONS}")
        if not self.modalities or not set(self.modalities) <= set(MODALITIES):
            raise ValueError(f"modalities {self.modalities} are not among {MODALITIES}")
        if self.attention not in ("gate", "channel", "none"):
            raise ValueError(f"attention {self.attention!r} is none of gate, channel, none")
        if self.eda_times * 32 < self.ecg_times:
            raise ValueError(f"{self.eda_times} samples of EDA are shorter than {self.ecg_times} of ECG")

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, as a checkpoint holds them."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return plain | {"encoder": self.encoder and self.encoder.as_dict()}


def _branch(modality: str, config: AccConfig) -> nn.ModuleList:
    """The stages of one modality's CNN."""
    stage = _first_of_ecg(config) if modality == "ecg" else ConvBlock(N_CHANS, config.widths[0], *EDA_FIRST)
    pairs = zip(config.widths, config.widths[1:], LATER, strict=False)
    return nn.ModuleList([stage, *(ConvBlock(a, b, *shape) for a, b, shape in pairs)])


def _first_of_ecg(config: AccConfig) -> nn.Module:
    """ECG's stem and stage 0."""
    if config.encoder is not None:
        return nn.Sequential(Tokens(config.encoder), ConvBlock(config.encoder.width, config.widths[0], *ENCODED_FIRST))
    stem = ConvBlock(N_CHANS, config.stem, *ECG_STEM)
    return nn.Sequential(stem, ConvBlock(config.stem, config.widths[0], *ECG_FIRST))


class Tokens(nn.Module):
    """An ECG Transformer without its head: (N, 2, 1, ecg_times) to its tokens (N, width, 1, n_tokens), CLS left out."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.encoder = EcgTransformer(config)
        self.encoder.head = nn.Sequential()

    def forward(self, ecg: Tensor) -> Tensor:
        """Every token knows of all others."""
        return self.encoder.encoded(ecg)[:, :, :, 1:]


class ACC(nn.Module):
    """The two-branch network; see :class:`AccConfig` for its switches (Bhatti et al. 2021, arXiv 2108.02241)."""

    def __init__(self, config: AccConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AccConfig()
        self.branches = nn.ModuleDict({m: _branch(m, config) for m in config.modalities})
        self.connections = nn.ModuleDict()
        if set(config.modalities) == set(MODALITIES):
            for stage in config.stages:
                for direction in config.directions:
                    width = config.widths[stage]
                    self.connections[_key(stage, direction)] = Connection(width, width, attention=config.attention)
        parts = sum(1 if m == "ecg" else 2 for m in config.modalities)
        self.head = classifier(parts * config.widths[-1], config.hidden, config.n_outputs, config.dropout)

    def features(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Pooled features (N, parts * width): ECG's, then both of EDA's; those of absent modalities zero."""
        pooled = self.pooled(ecg, eda, mask)
        return torch.cat([pooled[m] * mask[:, i : i + 1] for i, m in enumerate(MODALITIES) if m in pooled], dim=1)

    def pooled(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Each branch's pooled features: ecg (N, width); eda (N, 2 * width), its window's, then window and context's.

        The means of now and of the whole let the head see a person's change without knowing his level.
        """
        return self.later(self.early(ecg, eda), mask)

    def early(self, ecg: Tensor, eda: Tensor) -> dict[str, Tensor]:
        """Each branch's features up to the first message, which no mask has a part in."""
        inputs = {"ecg": ecg, "eda": eda}
        x = {m: inputs[m] for m in self.config.modalities}
        for stage in range(self._first() + 1):
            x = {m: self.branches[m][stage](x[m]) for m in x}
        return x

    def later(self, x: dict[str, Tensor], mask: Tensor | None) -> dict[str, Tensor]:
        """The rest of ``pooled``, messages as the mask (N, 2) lets them through; without one there are none."""
        masks = {m: mask[:, i : i + 1].reshape(-1, 1, 1, 1) for i, m in enumerate(MODALITIES) if mask is not None}
        x = self._connected(self._first(), x, masks)
        for stage in range(self._first() + 1, len(self.config.widths)):
            x = self._connected(stage, {m: self.branches[m][stage](x[m]) for m in x}, masks)
        parts = {m: [x[m]] if m == "ecg" else [_last(x[m], self._window_steps()), x[m]] for m in x}
        return {m: torch.cat([part.mean(dim=3) for part in parts[m]], dim=1).flatten(1) for m in parts}

    def _first(self) -> int:
        """The first stage with messages, or the last of all."""
        return min((*self.config.stages, len(self.config.widths) - 1))

    def _window_steps(self) -> int:
        """Steps of the window itself after the last stage."""
        steps = self.config.ecg_times // (ECG_STEM[1] * ECG_FIRST[1])
        for _, stride in LATER[: len(self.config.widths) - 1]:
            steps //= stride
        return steps

    def _connected(self, stage: int, x: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Both branches' features after the messages of one stage, each made from the features before any message."""
        out = dict(x)
        for direction in DIRECTIONS:
            key = _key(stage, direction)
            if key in self.connections and masks:
                source, target = direction.split("->")
                n_source, n_target = x[source].shape[3], x[target].shape[3]
                message = self.connections[key](_last(x[source], min(n_source, n_target)), masks[source])
                out[target] = out[target] + functional.pad(message, (n_target - message.shape[3], 0))
        return out

    def forward(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, n_outputs) from ecg (N, 2, 1, ecg_times), eda (N, 2, 1, eda_times) and mask (N, 2).

        The mask is 1 where present, 0 where absent, in the order ecg, eda. Inputs are scaled and clipped by
        ``device.pipeline.model_input``; what stands in an absent modality's array has no influence (it must be finite).
        """
        logits: Tensor = self.head(self.features(ecg, eda, mask))
        return logits


def _last(x: Tensor, steps: int) -> Tensor:
    """The end of (N, n, 1, T)."""
    return x if steps == x.shape[3] else x[:, :, :, x.shape[3] - steps :]


def _key(stage: int, direction: str) -> str:
    """Name of a connection in the state dict (a module's name may hold no dot and no arrow)."""
    return f"stage{stage}_{direction.replace('->', '_to_')}"


def count_parameters(model: nn.Module) -> int:
    """Trained numbers, BatchNorm's included (they fold into the convolutions, so the int8 file holds fewer)."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: ACC) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one window, counted on a real forward pass."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    handles = [m.register_forward_hook(count) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(*example_inputs(model.config))
    finally:
        for handle in handles:
            handle.remove()
    return total


def example_inputs(config: AccConfig, n: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros in the shapes of :meth:`ACC.forward`, both modalities present."""
    return torch.zeros(n, N_CHANS, 1, config.ecg_times), torch.zeros(n, N_CHANS, 1, config.eda_times), torch.ones(n, 2)
