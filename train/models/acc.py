"""Attentive cross-modal connections (ACC): one CNN per modality, linked by gated messages between their stages.

Knows nothing of training, of data sets or of quantization; every layer in it converts to int8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from train.models.blocks import Connection, ConvBlock

MODALITIES = ("ecg", "eda")
DIRECTIONS = ("ecg->eda", "eda->ecg")
N_CHANS = 2
"""Input channels of each modality: ecg and hr, tonic and phasic."""
N_TIMES = {"ecg": 7680, "eda": 240}
"""Samples of a 60 s window at 128 and 4 Hz."""
ECG_STEM = (16, 8)
"""Kernel and stride of the ECG stem: 125 ms spans a QRS complex; 62 ms steps keep every beat apart."""
ECG_FIRST = (8, 4)
"""Kernel and stride of ECG stage 0: together with the stem 7680 / 32 = 240 steps, EDA's own number."""
EDA_FIRST = (7, 1)
"""Kernel and stride of EDA stage 0: 1.75 s, the rise of a skin conductance response, at full rate."""
LATER = (8, 4)
"""Kernel and stride of every later stage of both branches: 240 -> 60 -> 15 steps."""


@dataclass(frozen=True)
class AccConfig:
    """Everything that shapes the network."""

    n_outputs: int = 2
    """Classes."""
    stem: int = 16
    """Channels of the ECG stem."""
    widths: tuple[int, ...] = (24, 32, 48)
    """Channels after each stage, the same for both branches."""
    stages: tuple[int, ...] = (0, 1)
    """Stages after which the branches are connected; () for two branches that never meet before the head."""
    directions: tuple[str, ...] = DIRECTIONS
    """Which way messages go."""
    attention: bool = True
    """Whether a message is scaled by its gate."""
    hidden: int = 32
    """Units of the head's hidden layer."""
    dropout: float = 0.3
    """Dropout before each of the head's two layers, in training only."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "stages", tuple(sorted(set(self.stages))))
        object.__setattr__(self, "directions", tuple(self.directions))
        if not 1 <= len(self.widths) <= 3:
            raise ValueError(f"widths {self.widths}: one to three stages (240, 60, 15 steps)")
        if any(not 0 <= stage < len(self.widths) for stage in self.stages):
            raise ValueError(f"stages {self.stages} where the network has stages 0..{len(self.widths) - 1}")
        if not set(self.directions) <= set(DIRECTIONS):
            raise ValueError(f"directions {self.directions} are not among {DIRECTIONS}")

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, as a checkpoint holds them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _branch(modality: str, config: AccConfig) -> nn.ModuleList:
    """The stages of one modality's CNN, all branches equally long in time after each of them."""
    stages = nn.ModuleList()
    for index, width in enumerate(config.widths):
        if index:
            stages.append(ConvBlock(config.widths[index - 1], width, *LATER))
        elif modality == "ecg":
            stem = ConvBlock(N_CHANS, config.stem, *ECG_STEM)
            stages.append(nn.Sequential(stem, ConvBlock(config.stem, width, *ECG_FIRST)))
        else:
            stages.append(ConvBlock(N_CHANS, width, *EDA_FIRST))
    return stages


class ACC(nn.Module):
    """The two-branch network; see :class:`AccConfig` for its switches (Bhatti et al. 2021, arXiv 2108.02241)."""

    def __init__(self, config: AccConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AccConfig()
        self.ecg = _branch("ecg", config)
        self.eda = _branch("eda", config)
        self.connections = nn.ModuleDict()
        for stage in config.stages:
            for direction in config.directions:
                width = config.widths[stage]
                self.connections[_key(stage, direction)] = Connection(width, width, attention=config.attention)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(2 * config.widths[-1], config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.n_outputs),
        )

    def features(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Pooled features (N, 2 * width), ECG's then EDA's; an absent modality's half is zero."""
        masks = {"ecg": mask[:, 0:1].reshape(-1, 1, 1, 1), "eda": mask[:, 1:2].reshape(-1, 1, 1, 1)}
        for stage in range(len(self.config.widths)):
            ecg, eda = self.ecg[stage](ecg), self.eda[stage](eda)
            ecg, eda = self._connected(stage, ecg, eda, masks)
        pooled = [x.mean(dim=3, keepdim=True) * masks[m] for m, x in (("ecg", ecg), ("eda", eda))]
        return torch.cat(pooled, dim=1).flatten(1)

    def _connected(self, stage: int, ecg: Tensor, eda: Tensor, masks: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both branches' features after the messages of one stage, each made from the features before any message."""
        to_eda, to_ecg = _key(stage, "ecg->eda"), _key(stage, "eda->ecg")
        new_eda = eda + self.connections[to_eda](ecg, masks["ecg"]) if to_eda in self.connections else eda
        new_ecg = ecg + self.connections[to_ecg](eda, masks["eda"]) if to_ecg in self.connections else ecg
        return new_ecg, new_eda

    def forward(self, ecg: Tensor, eda: Tensor, mask: Tensor) -> Tensor:
        """Logits (N, n_outputs) from ecg (N, 2, 1, 7680), eda (N, 2, 1, 240) and mask (N, 2), 1 present, 0 absent.

        The mask's order is ecg, eda. Inputs are scaled and clipped by ``device.pipeline.model_input``; what stands in
        an absent modality's array has no influence (it must be finite).
        """
        logits: Tensor = self.head(self.features(ecg, eda, mask))
        return logits


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
            model.eval()(*example_inputs(1))
    finally:
        for handle in handles:
            handle.remove()
    return total


def example_inputs(n: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros in the shapes of :meth:`ACC.forward`, both modalities present."""
    return torch.zeros(n, N_CHANS, 1, N_TIMES["ecg"]), torch.zeros(n, N_CHANS, 1, N_TIMES["eda"]), torch.ones(n, 2)
