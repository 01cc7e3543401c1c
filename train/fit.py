"""Fits one network: a training loop read top to bottom, a fixed number of epochs, nothing chosen on the way.

Knows nothing of the test subject, of files of data sets or of the device. What is to be chosen (window, context) is
chosen before, in train.select.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from device.pipeline.spec import MODALITIES, SignalSpec
from train.augment import Augmentation, augmented, mixed
from train.errors import CheckpointError
from train.models.acc import ACC, AccConfig
from train.models.ecg_transformer import EcgTransformer, TransformerConfig
from train.models.emobed import EmoBed, EmoBedConfig
from train.objective import (
    NO_CROSSMODAL,
    Batch,
    Crossmodal,
    alike_by_label,
    alike_by_rating,
    class_loss,
    crossmodal_loss,
    rating_loss,
    task_loss,
)
from train.windows import Windows
from train.world import ALONE, World

Index = npt.NDArray[np.int64]
FORMAT = "affectd-checkpoint/2"
NetworkConfig = AccConfig | TransformerConfig
Network = ACC | EcgTransformer
KINDS: dict[str, type[NetworkConfig]] = {
    "acc": AccConfig, "emobed": EmoBedConfig, "ecg-transformer": TransformerConfig,
}  # fmt: skip
"""Name of a network in checkpoints -> its configuration."""
MASKS: dict[str, tuple[float, float]] = {"both": (1.0, 1.0), "ecg": (1.0, 0.0), "eda": (0.0, 1.0)}
"""Evaluated sets of sensors: which of (ecg, eda) the network may see, as far as they are present."""


@dataclass(frozen=True)
class FitConfig:
    """Everything that shapes one training run but the network itself."""

    epochs: int = 8
    least_steps: int = 0
    """Where these epochs are fewer steps, because there are few windows, more of them."""
    epoch_windows: int = 1024
    """Windows of one epoch, about: neighbours overlap by three quarters, so that of many only some are taken, others
    each time."""
    batch: int = 64
    lr: float = 3e-3
    """Peak of a one-cycle schedule."""
    pretrained_lr: float = 1.0
    """Of ``lr``, the share with which weights move that come from pre-training."""
    teaching: float = 0.5
    """Of the task's loss, the share that is about what a teacher says, where there is one (Hinton et al. 2015,
    arXiv 1503.02531)."""
    teaching_temperature: float = 2.0
    """What both networks' logits are divided by there: more of what the teacher thinks of the other classes."""
    weight_decay: float = 1e-2
    label_smoothing: float = 0.05
    mixup: float = 0.3
    """Size of :func:`train.augment.mixed`; 0 for no blends."""
    running_mean: float = 0.98
    """Decay per step of the mean of the weights that is kept: a memory of some 50 steps; 0 keeps the last."""
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network and how it got there."""

    model: Network
    history: tuple[dict[str, float], ...]
    """Per epoch: epoch, loss."""
    train_subjects: tuple[str, ...]
    """Subjects whose windows moved the weights."""


def fit(
    windows: Windows,
    subjects: Sequence[str],
    config: FitConfig,
    model_config: NetworkConfig,
    seed: int,
    *,
    sfreqs: tuple[float, float] = (128.0, 4.0),
    crossmodal: Crossmodal = NO_CROSSMODAL,
    pretrained: Mapping[str, Tensor] | None = None,
    teacher: Network | None = None,
    on: str = "cpu",
    world: World = ALONE,
    on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
) -> Fitted:
    """Train on the named subjects only; a network of one modality on the windows that have it, and never without it.

    ``crossmodal`` is what an EmoBed network is trained for beside its task; ``pretrained`` are the weights, by name,
    that do not begin at random; a ``teacher`` is asked about every blend, shown what the network is shown.
    ``on`` is torch's name of the processor. In a world of several each takes its share of every batch and the
    gradients are averaged: all end with the same network.
    """
    _seed(seed)
    present = windows.present & [m in model_config.modalities for m in MODALITIES]
    train = windows.of(subjects)
    own = train[present[train].any(axis=1)]
    train = own if len(own) else train  # nobody wears it: the network learns how common each class is
    model = network(model_config).to(on, memory_format=torch.channels_last)  # a third faster on a CPU
    foreign = model.load_state_dict(pretrained or {}, strict=False).unexpected_keys
    assert not foreign, f"{foreign[0]} is no weight of the network"
    groups = _by_rate(model, set(pretrained or ()), config)
    optimizer = torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay, fused=True)
    phases = max(1, round(len(train) / config.epoch_windows))
    batches = max(1, len(train) // phases // config.batch)
    taught_by = teacher and teacher.eval().to(on)
    kept = AveragedModel(model, multi_avg_fn=_running_mean(config.running_mean), use_buffers=True)
    epochs = max(config.epochs, -(-config.least_steps // batches))
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=batches * epochs + 1)
    weight = _class_weights(windows.label[train], model_config.n_outputs).to(on)
    shares = _balance(windows.label[train], present[train], model_config.n_outputs)
    balance = {sensors: table.to(on) for sensors, table in shares.items()}
    loss_of = nn.CrossEntropyLoss(weight, label_smoothing=config.label_smoothing, reduction="none")
    history: list[dict[str, float]] = []
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        model.train()
        chosen = rng.permutation(train[epoch % phases :: phases])
        total = 0.0
        for batch in np.array_split(chosen, batches):
            ecg, eda, mask = augmented(
                windows.ecg[batch], windows.eda[batch], present[batch], config.augmentation, sfreqs, rng
            )
            ecg, eda, mask, order, share = mixed(ecg, eda, mask, config.mixup, rng)
            mine = slice(world.rank, None, world.size)
            shown = tensor(ecg[mine], on), tensor(eda[mine], on), torch.from_numpy(mask[mine]).to(on)
            both = batch[mine], batch[order][mine]
            step = Batch(
                *shown, *_wanted(windows, *both, share, _taught(loss_of, taught_by, shown, config), balance, on)
            )
            loss = crossmodal_loss(model, step, crossmodal) if isinstance(model, EmoBed) else task_loss(model, step)
            optimizer.zero_grad()
            loss.backward()
            world.average_gradients(model)
            optimizer.step()
            schedule.step()
            kept.update_parameters(model)
            total += float(loss.detach())
        for each in (model, kept.module):
            world.average_buffers(each)
        history.append({"epoch": float(epoch), "loss": total / batches})
        on_epoch(history[-1])
    return Fitted(kept.module.eval().cpu(), tuple(history), tuple(sorted(subjects)))


def _running_mean(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]:
    """Of weights, given their means so far, their values and the steps done: shorter at first, not to remember the
    start. What counts something (BatchNorm's batches) is as it is."""

    def update(so_far: Sequence[Tensor], values: Sequence[Tensor], steps: Tensor) -> None:
        if not so_far[0].is_floating_point():
            torch._foreach_copy_(so_far, values)
            return
        torch._foreach_lerp_(so_far, values, 1.0 - min(decay, (1 + int(steps)) / (10 + int(steps))))

    return update


def network(config: NetworkConfig) -> Network:
    """A fresh network of the kind that its configuration is for."""
    if isinstance(config, TransformerConfig):
        return EcgTransformer(config)
    return EmoBed(config) if isinstance(config, EmoBedConfig) else ACC(config)


def _by_rate(model: nn.Module, pretrained: Set[str], config: FitConfig) -> list[dict[str, Any]]:
    """The weights in groups of one learning rate each: those that begin at random, then those that do not."""
    parts: tuple[list[Tensor], list[Tensor]] = [], []
    for name, weight in model.named_parameters():
        parts[name in pretrained].append(weight)
    rates = config.lr, config.lr * config.pretrained_lr
    return [{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True) if part]


def _wanted(
    windows: Windows,
    first: Index,
    other: Index,
    share: float,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    balance: Mapping[str, Tensor],
    on: str,
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor, float, Mapping[str, Tensor]]:
    """What a Batch is to tell of blends of windows ``first`` and ``other``: the task, who is alike, purity, balance."""
    if windows.target.shape[1]:
        target = torch.from_numpy(np.float32(share) * windows.target[first]).to(on)
        target += torch.from_numpy(np.float32(1 - share) * windows.target[other]).to(on)
        return rating_loss(target), *alike_by_rating(target), 1.0, {}
    labels = [torch.from_numpy(windows.label[index]).to(on) for index in (first, other)]

    def losses(logits: Tensor) -> Tensor:
        return share * loss_of(logits, labels[0]) + (1 - share) * loss_of(logits, labels[1])

    weights = {m: share * table[labels[0]] + (1 - share) * table[labels[1]] for m, table in balance.items()}
    return class_loss(losses), *alike_by_label(labels[share < 0.5]), abs(2 * share - 1), weights


def _taught(
    loss_of: Callable[[Tensor, Tensor], Tensor], teacher: Network | None, shown: Sequence[Tensor], config: FitConfig
) -> Callable[[Tensor, Tensor], Tensor]:
    """Losses (N,) of logits and labels that are in part about what a teacher makes of what is shown."""
    if teacher is None:
        return loss_of
    t = config.teaching_temperature
    with torch.no_grad():
        told = functional.softmax(teacher(*shown) / t, dim=1)

    def losses(logits: Tensor, label: Tensor) -> Tensor:
        surprise = functional.kl_div(functional.log_softmax(logits / t, dim=1), told, reduction="none").sum(dim=1)
        return (1 - config.teaching) * loss_of(logits, label) + config.teaching * t * t * surprise

    return losses


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _class_weights(label: npt.NDArray[np.int64], n_outputs: int) -> Tensor:
    """(n_outputs,) so that every class weighs the same in all."""
    counts = np.bincount(label, minlength=n_outputs)
    return torch.tensor(counts.sum() / (n_outputs * np.maximum(counts, 1)), dtype=torch.float32)


def _balance(label: npt.NDArray[np.int64], present: npt.NDArray[np.bool_], n_outputs: int) -> dict[str, Tensor]:
    """Set of sensors -> (n_outputs,) what class weights of all windows (n,) are to be multiplied with so that they are
    those of the windows that have these sensors."""
    of_all = _class_weights(label, n_outputs)
    has = {m: present[:, i] for i, m in enumerate(MODALITIES)} | {"+".join(MODALITIES): present.all(axis=1)}
    return {name: _class_weights(label[which], n_outputs) / of_all for name, which in has.items() if which.any()}


def tensor(x: npt.NDArray[np.float32], on: str = "cpu") -> Tensor:
    """(n, n_chans, n_times) to the network's (n, n_chans, 1, n_times)."""
    return torch.from_numpy(x)[:, :, None, :].to(on).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(
    model: nn.Module, windows: Windows, index: npt.NDArray[np.int64], mask: tuple[float, float], batch: int = 128
) -> npt.NDArray[np.float32]:
    """(len(index), n_outputs) probabilities, or ratings where these are told; each window is shown what the mask
    allows of what is present."""
    found = torch.cat([model(*part) for part in _batches(model, windows, index, mask, batch)])
    return (found if windows.target.shape[1] else torch.softmax(found, dim=1)).numpy()


@torch.no_grad()
def predicted(
    model: Network, windows: Windows, index: npt.NDArray[np.int64], mask: tuple[float, float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Logits (len(index), n_outputs) and embeddings (len(index), n), which only EmoBed's network has (n is 0)."""
    logits, embeddings = [], []
    for part in _batches(model, windows, index, mask):
        embedding = model.embedding(*part) if isinstance(model, EmoBed) else torch.empty(len(part[0]), 0)
        logits.append(model(*part).double().numpy())
        embeddings.append(embedding.double().numpy())
    return np.concatenate(logits), np.concatenate(embeddings)


def _batches(
    model: nn.Module, windows: Windows, index: npt.NDArray[np.int64], mask: tuple[float, float], batch: int = 128
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The network's arguments, some windows at a time; puts it into evaluation mode."""
    model.eval()
    for part in np.array_split(index, max(1, len(index) // batch)):
        shown = torch.from_numpy(windows.present[part].astype(np.float32) * np.float32(mask))
        yield tensor(windows.ecg[part]), tensor(windows.eda[part]), shown


def save_checkpoint(
    path: Path, model: Network, spec: SignalSpec, labels: tuple[str, ...], provenance: dict[str, Any]
) -> None:
    """Write weights with all that is needed to use them; read back with ``weights_only``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": {"name": _kind(model.config), "config": model.config.as_dict()},
        "state": model.state_dict(),
        "spec": msgspec.json.encode(spec),
        "labels": list(labels),
        "provenance": provenance,
    }
    torch.save(content, path)


def _kind(config: NetworkConfig) -> str:
    return next(name for name, kind in KINDS.items() if type(config) is kind)


def load_checkpoint(path: Path) -> tuple[Network, dict[str, Any]]:
    """The network in evaluation mode and the checkpoint's other content; runs no code from the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise CheckpointError(str(path), "format", f"{content['format']!r} where {FORMAT!r} is due", "train anew")
        model = network(KINDS[content["model"]["name"]](**content["model"]["config"]))
        model.load_state_dict(content["state"])
    except CheckpointError:
        raise
    except Exception as error:  # torch's readers raise many kinds for a file that is none of theirs
        raise CheckpointError(str(path), "file", f"cannot be read ({type(error).__name__})", "train anew") from error
    return model.eval(), content


def config_record(config: FitConfig, model_config: NetworkConfig) -> dict[str, Any]:
    """Both configurations as plain values, for result files."""
    return {"fit": asdict(config), "model": model_config.as_dict()}
