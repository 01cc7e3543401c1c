"""Fits one network: a training loop read top to bottom, the epoch chosen on an inner split of the training subjects.

Knows nothing of the test subject, of files of data sets or of the device.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from device.pipeline.spec import SignalSpec
from train.errors import CheckpointError
from train.models.acc import ACC, AccConfig
from train.prepare import UNLABELLED, Windows

FORMAT = "affectd-checkpoint/1"
MASKS: dict[str, tuple[float, float]] = {"both": (1.0, 1.0), "ecg": (1.0, 0.0), "eda": (0.0, 1.0)}
"""Evaluated sets of sensors: which of (ecg, eda) the network sees."""


@dataclass(frozen=True)
class FitConfig:
    """Everything that shapes one training run but the network itself."""

    epochs: int = 6
    batch: int = 64
    lr: float = 2e-3
    """Peak of a one-cycle schedule."""
    weight_decay: float = 1e-2
    every: int = 3
    """Of each person's windows one in this many trains in an epoch, another phase each time."""
    modality_dropout: float = 0.4
    """Share of training windows that lose one modality, ECG or EDA by turns."""
    label_smoothing: float = 0.05
    inner_subjects: int = 5
    """Training subjects kept aside to choose the epoch."""
    hr_noise: float = 0.1
    """Spread of a constant shift of the scaled heart rate: 1.5 beats/min."""
    phasic_gain: float = 0.2
    """Spread of the log of a gain on the scaled phasic EDA: electrodes and skin differ."""
    tonic_shift: float = 0.3
    """Spread of a constant shift of the scaled tonic level: a fifth of the level, more or less."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network and how it got there."""

    model: ACC
    epoch: int
    history: tuple[dict[str, float], ...]
    train_subjects: tuple[str, ...]
    """Subjects whose windows moved the weights or chose the epoch."""


def fit(windows: Windows, subjects: list[str], config: FitConfig, model_config: AccConfig, seed: int) -> Fitted:
    """Train on the named subjects only."""
    _seed(seed)
    order = np.random.default_rng(seed).permutation(sorted(subjects))
    inner, outer = set(order[: config.inner_subjects]), set(order[config.inner_subjects :])
    usable = (windows.label != UNLABELLED) & windows.present.any(axis=1)
    train = np.flatnonzero(usable & np.isin(windows.subject, list(outer)))
    valid = np.flatnonzero(usable & windows.is_scored & np.isin(windows.subject, list(inner)))

    model = ACC(model_config).to(memory_format=torch.channels_last)  # a third faster on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    steps = -(-len(train) // config.every // config.batch) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps * config.epochs + 1)
    counts = np.bincount(windows.label[train], minlength=model_config.n_outputs)
    weight = torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    loss_of = nn.CrossEntropyLoss(weight, label_smoothing=config.label_smoothing)

    best: tuple[float, int, dict[str, Tensor]] | None = None
    history: list[dict[str, float]] = []
    rng = np.random.default_rng(seed + 1)
    for epoch in range(config.epochs):
        model.train()
        chosen = rng.permutation(train[epoch % config.every :: config.every])
        losses = []
        for batch in np.array_split(chosen, max(1, len(chosen) // config.batch)):
            ecg, eda, mask = _augmented(windows, batch, config, rng)
            loss = loss_of(model(ecg, eda, mask), torch.from_numpy(windows.label[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        inner_loss = _inner_loss(model, windows, valid)
        history.append({"epoch": epoch, "loss": float(np.mean(losses)), "inner_loss": inner_loss})
        if best is None or inner_loss < best[0]:
            best = inner_loss, epoch, {k: v.clone() for k, v in model.state_dict().items()}
    assert best is not None
    model.load_state_dict(best[2])
    return Fitted(model.eval(), best[1], tuple(history), tuple(sorted(subjects)))


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _augmented(
    windows: Windows, batch: npt.NDArray[np.int64], config: FitConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with what differs between wearings: lead polarity, a shifted level, a gain, a lost sensor."""
    n = len(batch)
    ecg, eda = windows.ecg[batch].copy(), windows.eda[batch].copy()
    ecg[:, 0] *= rng.choice([-1.0, 1.0], (n, 1)).astype(np.float32)
    ecg[:, 1] += rng.normal(0.0, config.hr_noise, (n, 1)).astype(np.float32)
    eda[:, 1] *= np.exp(rng.normal(0.0, config.phasic_gain, (n, 1))).astype(np.float32)
    eda[:, 0] += rng.normal(0.0, config.tonic_shift, (n, 1)).astype(np.float32)
    mask = windows.present[batch].astype(np.float32)
    lost = rng.random(n) < config.modality_dropout
    column = rng.integers(0, 2, n)
    keeps_other = mask[np.arange(n), 1 - column] > 0
    rows = np.flatnonzero(lost & keeps_other)
    mask[rows, column[rows]] = 0.0
    return _tensor(ecg), _tensor(eda), torch.from_numpy(mask)


def _tensor(x: npt.NDArray[np.float32]) -> Tensor:
    """(n, n_chans, n_times) to the network's (n, n_chans, 1, n_times)."""
    return torch.from_numpy(x)[:, :, None, :].contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(
    model: nn.Module, windows: Windows, index: npt.NDArray[np.int64], mask: tuple[float, float], batch: int = 128
) -> npt.NDArray[np.float32]:
    """(len(index), n_outputs) probabilities of the float network under one mask."""
    model.eval()
    out = []
    for part in np.array_split(index, max(1, len(index) // batch)):
        shown = torch.tensor(mask).expand(len(part), 2)
        logits = model(_tensor(windows.ecg[part]), _tensor(windows.eda[part]), shown)
        out.append(torch.softmax(logits, dim=1).numpy())
    return np.concatenate(out)


def _inner_loss(model: nn.Module, windows: Windows, index: npt.NDArray[np.int64]) -> float:
    """Class-balanced cross-entropy on the inner subjects, mean over the masks."""
    losses = []
    for mask in MASKS.values():
        usable = index[(windows.present[index] >= np.array(mask)).all(axis=1)]
        label = windows.label[usable]
        if not len(usable):
            continue
        p = predict(model, windows, usable, mask)[np.arange(len(usable)), label]
        per_class = [-np.log(np.maximum(p[label == c], 1e-6)).mean() for c in np.unique(label)]
        losses.append(float(np.mean(per_class)))
    return float(np.mean(losses))


def save_checkpoint(
    path: Path, model: ACC, spec: SignalSpec, labels: tuple[str, ...], provenance: dict[str, Any]
) -> None:
    """Write weights with all that is needed to use them; read back with ``weights_only``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": {"name": "acc", "config": model.config.as_dict()},
        "state": model.state_dict(),
        "spec": msgspec.json.encode(spec),
        "labels": list(labels),
        "provenance": provenance,
    }
    torch.save(content, path)


def load_checkpoint(path: Path) -> tuple[ACC, dict[str, Any]]:
    """The network in evaluation mode and the checkpoint's other content; runs no code from the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise CheckpointError(str(path), "format", f"{content['format']!r} where {FORMAT!r} is due", "train anew")
        model = ACC(AccConfig(**content["model"]["config"]))
        model.load_state_dict(content["state"])
    except CheckpointError:
        raise
    except Exception as error:  # torch's readers raise many kinds for a file that is none of theirs
        raise CheckpointError(str(path), "file", f"cannot be read ({type(error).__name__})", "train anew") from error
    return model.eval(), content


def config_record(config: FitConfig, model_config: AccConfig) -> dict[str, Any]:
    """Both configurations as plain values, for result files."""
    return {"fit": asdict(config), "model": model_config.as_dict()}
