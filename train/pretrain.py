"""Pre-trains an ECG encoder on a corpus: a loop read top to bottom, which goes on where it was interrupted as if it had
not been.

Every step depends on the seed and its own number alone, so that the state on disk is weights, optimizer and a step.
Knows nothing of labels or of emotion; what is asked of the encoder is a pretext's affair.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from device.pipeline.model_input import model_input
from device.pipeline.spec import SignalSpec
from train.augment import Augmentation, augmented
from train.config import REMEDY, read_as
from train.corpus import Corpus
from train.encoder import HEAD, save_encoder, write
from train.errors import CheckpointError, ConfigError
from train.models.ecg_transformer import EcgTransformer, TransformerConfig
from train.pretext import PRETEXTS, Pretext, Question
from train.world import ALONE, World

Floats = npt.NDArray[np.float32]
STATE, ENCODER, HISTORY = "state.pt", "encoder.pt", "history.jsonl"
"""In the output folder: what it goes on from, what fine-tuning begins with, a line for each look at held-out people."""
EDA_RATE = 4.0
"""Hz; the augmentation wants EDA, of which there is none."""
_POSITIVE = msgspec.Meta(gt=0)
_SHARE = msgspec.Meta(gt=0, lt=1)


class Randomisation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs between the ECG of a hospital's recorder and of a chest strap, put on windows at random.

    The band is the device's own: every lead has been through its filter. Sizes are free choices.
    """

    gain: float = 0.5
    """Spread of the log of the lead's size: leads differ by a factor of two and more."""
    noise_mv: float = 0.03
    """Largest spread of added noise, mV: dry electrodes in movement; recorders have 0.005."""
    rate_error: float = 0.02
    """Largest relative error of the clock: straps measured 128-131 Hz where 130 Hz is said."""
    inversion: float = 0.5
    wander: float = 0.2
    ecg_loss: float = 0.1
    """These as in train.augment.Augmentation."""

    def augmentation(self) -> Augmentation:
        """The part that fine-tuning has as well."""
        return Augmentation(
            rate_error=self.rate_error, inversion=self.inversion, wander=self.wander, ecg_loss=self.ecg_loss,
            hr_shift=0.0, tonic_shift=0.0, phasic_gain=0.0, context_loss=0.0, modality_dropout=0.0,
        )  # fmt: skip


class PretrainConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One pre-training."""

    pretext: Literal["masked", "masked-rhythm", "transforms"] = "masked"
    steps: Annotated[int, _POSITIVE] = 4000
    batch: Annotated[int, _POSITIVE] = 64
    """Windows of one step, of all processes together."""
    lr: Annotated[float, _POSITIVE] = 2e-3
    """Greatest, after the warm-up; it falls to nothing along a half cosine."""
    warmup: Annotated[float, _SHARE] = 0.05
    """Share of the steps."""
    weight_decay: float = 1e-2
    held_out: Annotated[float, _SHARE] = 0.1
    """Share of the windows, of whole people, that only judge."""
    without: tuple[str, ...] = ()
    """People, by the corpus' names, whom nothing is to look at: others will be tested on them."""
    judged: Annotated[int, _POSITIVE] = 512
    """Of those, looked at every time: the same ones and the same questions."""
    judge_every: Annotated[int, _POSITIVE] = 200
    """Steps between two looks, and between two states on disk."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products; weights and sums stay float32."""
    seed: int = 0
    randomisation: Randomisation = Randomisation()
    model: dict[str, Any] = {}
    """Keys of train.models.ecg_transformer.TransformerConfig."""

    def transformer(self, spec: SignalSpec) -> TransformerConfig:
        """The network for windows of a spec."""
        return TransformerConfig(**{**self.model, "ecg_times": spec.n_times("ecg"), "eda_times": spec.n_times("eda")})


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What came of it."""

    encoder: EcgTransformer
    """In evaluation mode, on the CPU; its head for emotion is as it began."""
    head: nn.Module
    """The pretext's."""
    history: tuple[dict[str, float], ...]
    """Per look: step, loss of the steps since the last one, loss of held-out people."""
    is_done: bool


def read_config(path: Path) -> PretrainConfig:
    """Read and check a configuration; raises ConfigError naming the key."""
    config = read_as(path, PretrainConfig)
    try:
        TransformerConfig(**config.model)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(path), "model", str(error), REMEDY) from error
    return config


def pretrain(
    corpus: Corpus,
    config: PretrainConfig,
    out: Path,
    *,
    on: str = "cpu",
    world: World = ALONE,
    stop_after: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Pretrained:
    """Train until ``config.steps`` are done, or, for now, until ``stop_after``; what lies in ``out`` is gone on from.

    In a world of several each takes its share of every batch, and the gradients are averaged. Raises CheckpointError
    where the state in ``out`` is of another corpus or configuration.
    """
    pretext = PRETEXTS[config.pretext]()
    torch.manual_seed(config.seed)
    encoder = EcgTransformer(config.transformer(corpus.spec)).to(on)
    head = pretext.head(encoder.config).to(on)
    both = nn.ModuleDict({"encoder": encoder, "head": head})
    optimizer = torch.optim.AdamW(trained(both), config.lr, weight_decay=config.weight_decay)
    schedule = LambdaLR(optimizer, lambda step: rate(step / config.steps, config.warmup))
    step, history = _resumed(out / STATE, config, corpus, both, optimizer, schedule, on)
    train, held = corpus.split(config.held_out, config.seed, config.without)
    judged = np.random.default_rng(config.seed).choice(held, min(config.judged, len(held)), replace=False)
    share = max(1, config.batch // world.size)
    batches = corpus.batches(train, share, config.seed, rank=world.rank, world_size=world.size, start_step=step)
    last, losses = min(config.steps, stop_after or config.steps), []
    both.train()
    while step < last:
        rng = np.random.default_rng([config.seed, step, world.rank])
        windows = randomised(next(batches), corpus.spec, config.randomisation, rng)
        with torch.autocast(torch.device(on).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = pretext.loss(encoder, head, _moved(pretext.ask(scaled(windows, corpus.spec), rng), on))
        optimizer.zero_grad()
        loss.backward()
        world.average_gradients(both)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        step += 1
        if step % config.judge_every == 0 or step == config.steps:
            world.average_buffers(both)
            held_out = judge(pretext, encoder, head, corpus, judged, config, on)
            row = {"step": float(step), "loss": float(np.mean(losses)), "held_out": held_out}
            history, losses = (*history, row), []
            if world.rank == 0:
                _save(out, config, corpus, both, optimizer, schedule, step, history)
            say(f"step {step} of {config.steps}: loss {row['loss']:.3f}, of held-out people {row['held_out']:.3f}")
    world.wait()
    is_done = step == config.steps
    if is_done and world.rank == 0:
        save_encoder(out / ENCODER, encoder, {**(provenance or {}), **made_of(config, corpus, history)})
    return Pretrained(encoder.cpu().eval(), head.cpu().eval(), history, is_done)


def trained(both: nn.ModuleDict) -> list[nn.Parameter]:
    """What a pretext has a part in: all but the encoder's head for emotion."""
    return [p for name, p in both.named_parameters() if not name.startswith(f"encoder.{HEAD}")]


def rate(done: float, warmup: float) -> float:
    """Of the greatest learning rate, by the share of the steps that are done: up in a line, down in a half cosine."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - warmup) / (1.0 - warmup))))


def scaled(windows: Floats, spec: SignalSpec) -> Floats:
    """Windows (n, 2, n_times) in physical units as the network reads them: scaled and clipped by the device's code."""
    return np.stack([model_input({"ecg": window.T.astype(np.float64)}, spec).arrays["ecg"] for window in windows])


def randomised(windows: Floats, spec: SignalSpec, how: Randomisation, rng: np.random.Generator) -> Floats:
    """Windows (n, 2, n_times) in physical units as a chest strap might have given them; the given ones stay."""
    n = len(windows)
    eda = np.zeros((n, 2, 2), np.float32)
    present = np.ones((n, 2), np.bool_)
    out, _, _ = augmented(windows, eda, present, how.augmentation(), (spec.ecg.sfreq, EDA_RATE), rng)
    gain = np.exp(how.gain * rng.standard_normal((n, 1)))
    noise = how.noise_mv * rng.random((n, 1)) * rng.standard_normal(out[:, 0].shape)
    out[:, 0] = gain * out[:, 0] + noise
    return out


@torch.no_grad()
def judge(
    pretext: Pretext, encoder: EcgTransformer, head: nn.Module, corpus: Corpus, index: npt.NDArray[np.int64],
    config: PretrainConfig, on: str = "cpu",
) -> float:  # fmt: skip
    """Mean loss over windows as they were recorded, always asked the same; leaves both in training mode."""
    encoder.eval()
    head.eval()
    parts = np.array_split(index, max(1, len(index) // config.batch))
    losses = []
    for k, part in enumerate(parts):
        question = pretext.ask(scaled(corpus.windows(part), corpus.spec), np.random.default_rng([config.seed, k]))
        losses.append(float(pretext.loss(encoder, head, _moved(question, on))) * len(part))
    encoder.train()
    head.train()
    return sum(losses) / len(index)


def made_of(config: PretrainConfig, corpus: Corpus, history: tuple[dict[str, float], ...]) -> dict[str, Any]:
    """What an encoder's file says of its pre-training."""
    learned = []
    for source in corpus.index.plan.sources:
        people = {r.person for r in corpus.index.records if r.source == source.name and r.windows} - {*config.without}
        about = {"name": source.name, "licence": source.licence, "url": source.url}
        learned += [{**about, "subjects": len(people), "surrogate_ecg": False}] if people else []
    return {
        "pretraining": msgspec.to_builtins(config), "datasets": learned, "windows": len(corpus),
        "history": list(history),
    }  # fmt: skip


def _moved(question: Question, on: str) -> Question:
    return Question(**{name: part.to(on) for name, part in vars(question).items()})


def _key(config: PretrainConfig, corpus: Corpus) -> str:
    """What a state must have in common with a run that goes on from it."""
    index = msgspec.json.encode([config, corpus.index.plan, [shard.sha256 for shard in corpus.index.shards]])
    return index.decode()


def _resumed(
    path: Path, config: PretrainConfig, corpus: Corpus, both: nn.ModuleDict, optimizer: torch.optim.Optimizer,
    schedule: LambdaLR, on: str,
) -> tuple[int, tuple[dict[str, float], ...]]:  # fmt: skip
    """Steps done and their history, with everything loaded; (0, ()) where nothing is there."""
    if not path.is_file():
        return 0, ()
    try:
        state = torch.load(path, map_location=on, weights_only=True)
        key, step, history = state["key"], int(state["step"]), tuple(state["history"])
    except Exception as error:  # see load_encoder
        raise CheckpointError(str(path), "file", f"cannot be read ({type(error).__name__})", "delete it") from error
    if key != _key(config, corpus):
        raise CheckpointError(
            str(path), "key", "is of another corpus or configuration", "delete it, or give another --out"
        )
    both.load_state_dict(state["both"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return step, history


def _save(
    out: Path, config: PretrainConfig, corpus: Corpus, both: nn.ModuleDict, optimizer: torch.optim.Optimizer,
    schedule: LambdaLR, step: int, history: tuple[dict[str, float], ...],
) -> None:  # fmt: skip
    """State and history, each whole or not at all."""
    state = {
        "key": _key(config, corpus), "step": step, "history": list(history), "both": both.state_dict(),
        "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
    }  # fmt: skip
    write(out / STATE, state)
    (out / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf-8")
