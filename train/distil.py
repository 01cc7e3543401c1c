"""Distils the best classical model into a small network that TFLite can run: same features, same answers.

Knows nothing of data sets, files of windows or the device. Everything is fitted on the training subjects given.

Hinton et al. (2015, arXiv 1503.02531): the student learns the teacher's probabilities. As features are cheap to mix, it
learns them between the windows too (Zhang et al. 2018, arXiv 1710.09412), so that it follows the teacher where a new
person will lie and not only on the training windows, of which a forest knows every label.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from sklearn.pipeline import Pipeline as Steps
from torch import nn

from device.pipeline.feature_input import FeatureSpec
from device.pipeline.features import FEATURES, columns
from device.pipeline.spec import MODALITIES, SignalSpec
from train.errors import CheckpointError, TrainError
from train.fit import FORMAT, MASKS
from train.metrics import balanced_accuracy
from train.models.student import NAME, Student, StudentConfig
from train.select import split
from train.systems import classical_model, shown_features

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

TEACHERS = ("classical-lda", "classical-lr", "classical-rf", "classical-gb")
"""Of equals the simpler."""
INPUTS = (*MODALITIES, "mask")
"""In the order of the student's arguments."""
FLAT = 1e-9
"""A feature that spreads less in training says nothing; it is left as it is and not blown up."""
PARTS = 3
"""The training subjects are parted so often to choose the teacher, each part judging once."""


@dataclass(frozen=True, eq=False)
class Table:
    """Features of the labelled windows of many people."""

    x: Floats
    """(n, len(FEATURES)), NaN where the modality is absent; in calibrated mode less the person's resting mean."""
    present: Bools
    """(n, 2) whether ecg, eda may be used."""
    label: Ints
    subject: npt.NDArray[np.str_]

    def of(self, subjects: Sequence[str]) -> Table:
        """The usable windows of some people."""
        at = np.isin(self.subject, list(subjects)) & self.present.any(axis=1)
        return Table(self.x[at], self.present[at], self.label[at], self.subject[at])

    def having(self, mask: str) -> Bools:
        """(n,) whether every sensor of the mask may be used."""
        return np.asarray((self.present | (np.array(MASKS[mask]) == 0)).all(axis=1))

    def showing(self, mask: str) -> Bools:
        """(n,) whether the mask leaves anything of the window."""
        return np.asarray((self.present & (np.array(MASKS[mask]) > 0)).any(axis=1))


@dataclass(frozen=True)
class DistilConfig:
    """Everything that shapes the student's training."""

    hidden: tuple[int, int] = (48, 24)
    mixed: int = 12_000
    """Rows mixed from pairs of training windows for each mask, which the teacher labels."""
    noise: float = 0.1
    """Spread added to each scaled feature of a mixed row."""
    epochs: int = 40
    batch: int = 256
    lr: float = 5e-3
    """Peak of a one-cycle schedule."""
    weight_decay: float = 1e-3


@dataclass(frozen=True, eq=False)
class Distilled:
    """A student, what it reads, and how near it came."""

    student: Student
    features: FeatureSpec
    teacher: str
    scores: dict[str, float]
    """Candidate teacher -> mean balanced accuracy over training subjects and masks, each judged unseen."""
    inner: dict[str, dict[str, float]]
    """Mask -> agreement of student and teacher, and the balanced accuracy of each, on unseen training subjects."""
    train_subjects: tuple[str, ...]


def distil(
    table: Table,
    subjects: Sequence[str],
    n_outputs: int,
    clip: float,
    config: DistilConfig | None = None,
    *,
    teacher: str | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Distilled:
    """Choose a teacher (or take the one given), and let a student learn from it, on the named subjects only."""
    config, subjects = config or DistilConfig(), sorted(set(subjects))
    missing = sorted(set(range(n_outputs)) - set(table.of(subjects).label.tolist()))
    if missing:
        raise TrainError(f"distil: no usable training window of label {missing[0]}; prepare more people")
    scores = {}
    for name in (teacher,) if teacher else TEACHERS:
        scores[name] = teacher_score(table, subjects, name, n_outputs, seed)
        say(f"{name}: balanced accuracy {scores[name]:.3f} on unseen training subjects")
    best = max(scores, key=lambda name: scores[name])
    judges, others = split(subjects, 1 / PARTS, seed)
    tried = _taught(table, others, best, n_outputs, clip, config, seed)
    inner = {mask: _nearness(table.of(judges), mask, *tried, clip) for mask in MASKS}
    for mask, found in inner.items():
        say(f"{mask}: student agrees with {best} on {found['agreement']:.3f} of unseen training windows")
    student, chosen, _ = _taught(table, subjects, best, n_outputs, clip, config, seed)
    return Distilled(student, chosen, best, scores, inner, tuple(subjects))


def teacher_score(table: Table, subjects: Sequence[str], system: str, n_outputs: int, seed: int) -> float:
    """Mean balanced accuracy of a classical system over people it has not seen, and over the masks."""
    found = []
    for judges in np.array_split(np.random.default_rng(seed).permutation(sorted(subjects)), min(PARTS, len(subjects))):
        models = teach(table.of(sorted(set(subjects) - set(judges))), system, n_outputs, seed)
        for subject in judges.tolist():
            seen = table.of([subject])
            found += [_accuracy(seen, mask, model) for mask, model in models.items()]
    return float(np.nanmean(found)) if np.isfinite(found).any() else 0.0


def _accuracy(table: Table, mask: str, model: Steps) -> float:
    at = table.showing(mask)
    if not at.any():
        return float("nan")
    return balanced_accuracy(table.label[at], model.predict_proba(shown_features(table.x[at], mask)))


def teach(table: Table, system: str, n_outputs: int, seed: int) -> dict[str, Steps]:
    """The classical system fitted for every mask, as the evaluation fits it."""
    models = {}
    for mask in MASKS:
        at = table.showing(mask)
        if at.any():
            models[mask] = classical_model(system, seed, n_outputs).fit(
                shown_features(table.x[at], mask), table.label[at]
            )
    return models


def scaling(table: Table) -> FeatureSpec:
    """Center and spread of every feature over the windows that have it."""
    center, scale = np.zeros(len(FEATURES)), np.ones(len(FEATURES))
    for k, modality in enumerate(MODALITIES):
        known = table.x[table.present[:, k], columns(modality)]
        if len(known):
            center[columns(modality)] = known.mean(axis=0)
            spread = known.std(axis=0)
            scale[columns(modality)] = np.where(spread > FLAT, spread, 1.0)
    return FeatureSpec(FEATURES, tuple(center.tolist()), tuple(scale.tolist()))


def scaled(x: Floats, shown: Bools, chosen: FeatureSpec, clip: float) -> dict[str, Floats32]:
    """Student's inputs, as ``device.pipeline.feature_input`` makes them: ecg, eda (n, n_features), mask (n, 2)."""
    whole = np.clip((x - np.array(chosen.center)) / np.array(chosen.scale), -clip, clip)
    out = {"mask": shown.astype(np.float32)}
    for k, modality in enumerate(MODALITIES):
        out[modality] = np.where(shown[:, k : k + 1], whole[:, columns(modality)], 0.0).astype(np.float32)
    return out


def _taught(
    table: Table, subjects: Sequence[str], system: str, n_outputs: int, clip: float, config: DistilConfig, seed: int
) -> tuple[Student, FeatureSpec, dict[str, Steps]]:
    """The student of some people's teachers, its features, and the teachers."""
    seen = table.of(subjects)
    models, chosen = teach(seen, system, n_outputs, seed), scaling(seen)
    rng = np.random.default_rng(seed)
    lessons = [_lesson(seen.x[seen.having(m)], m, models[m], chosen, clip, config, rng) for m in models]
    joined = {name: np.concatenate([inputs[name] for inputs, _ in lessons]) for name in INPUTS}
    return _fit(joined, np.concatenate([taught for _, taught in lessons]), config, seed), chosen, models


def _lesson(
    x: Floats,
    mask: str,
    teacher: Steps,
    chosen: FeatureSpec,
    clip: float,
    config: DistilConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, Floats32], Floats]:
    """Inputs and the teacher's probabilities of the windows that a mask shows, and of mixtures of two of them."""
    share = rng.random((config.mixed if len(x) else 0, 1))
    one, other = (x[rng.integers(max(1, len(x)), size=len(share))] for _ in range(2))
    mixed = share * one + (1 - share) * other
    mixed += config.noise * np.array(chosen.scale) * rng.standard_normal(mixed.shape)
    rows = np.concatenate([x, mixed])
    return scaled(rows, _only(mask, len(rows)), chosen, clip), _asked(teacher, rows, mask)


def _only(mask: str, n: int) -> Bools:
    """(n, 2) the sensors of a mask."""
    return np.repeat(np.array([MASKS[mask]]) > 0, n, axis=0)


def _asked(teacher: Steps, x: Floats, mask: str) -> Floats:
    """(n, n_outputs) the teacher's probabilities of some rows of a table."""
    shown = shown_features(x, mask)
    return np.asarray(teacher.predict_proba(shown) if len(x) else np.empty((0, len(teacher.classes_))))


def _fit(inputs: Mapping[str, Floats32], target: Floats, config: DistilConfig, seed: int) -> Student:
    """Cross-entropy to the teacher's probabilities."""
    random.seed(seed)
    torch.manual_seed(seed)
    sizes = {f"n_{m}": inputs[m].shape[1] for m in MODALITIES}
    student = Student(StudentConfig(**sizes, n_outputs=target.shape[1], hidden=config.hidden))
    tensors = [torch.from_numpy(inputs[name]) for name in INPUTS]
    wanted = torch.from_numpy(target.astype(np.float32))
    steps = config.epochs * -(-len(wanted) // config.batch)
    optimizer = torch.optim.AdamW(student.parameters(), config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)
    for _ in range(config.epochs):
        for batch in torch.randperm(len(wanted)).split(config.batch):
            loss = nn.functional.cross_entropy(student(*(t[batch] for t in tensors)), wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student.eval()


@torch.no_grad()
def predict(student: Student, inputs: Mapping[str, Floats32]) -> Floats:
    """(n, n_outputs) probabilities of inputs as ``scaled`` gives them."""
    logits = student.eval()(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return np.asarray(torch.softmax(logits, dim=1).numpy(), np.float64)


def _nearness(
    table: Table, mask: str, student: Student, chosen: FeatureSpec, models: Mapping[str, Steps], clip: float
) -> dict[str, float]:
    """How near the student is to the teacher on windows neither has seen."""
    at = table.having(mask)
    if not at.any() or mask not in models:
        return dict.fromkeys(("agreement", "teacher", "student"), float("nan"))
    taught = _asked(models[mask], table.x[at], mask)
    learned = predict(student, scaled(table.x[at], _only(mask, int(at.sum())), chosen, clip))
    return {
        "agreement": float((taught.argmax(axis=1) == learned.argmax(axis=1)).mean()),
        "teacher": balanced_accuracy(table.label[at], taught),
        "student": balanced_accuracy(table.label[at], learned),
    }


def save_student(
    path: Path, distilled: Distilled, spec: SignalSpec, labels: tuple[str, ...], provenance: Mapping[str, Any]
) -> None:
    """Write the student as a checkpoint that affectd-quantize takes; read back with ``weights_only``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "model": {"name": NAME, "config": distilled.student.config.as_dict()},
        "state": distilled.student.state_dict(),
        "spec": msgspec.json.encode(spec),
        "features": msgspec.json.encode(distilled.features),
        "labels": list(labels),
        "provenance": dict(provenance),
    }
    torch.save(content, path)


def load_student(path: Path) -> tuple[Student, FeatureSpec, dict[str, Any]]:
    """The student in evaluation mode, its features and the checkpoint's other content; runs no code from the file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT or content["model"]["name"] != NAME:
            found = f"{content['format']!r} of {content['model']['name']!r}"
            raise CheckpointError(str(path), "format", f"{found} where {FORMAT!r} of {NAME!r} is due", "distil anew")
        student = Student(StudentConfig(**content["model"]["config"]))
        student.load_state_dict(content["state"])
        chosen = msgspec.json.decode(content["features"], type=FeatureSpec)
    except CheckpointError:
        raise
    except Exception as error:  # torch's readers raise many kinds for a file that is none of theirs
        raise CheckpointError(str(path), "file", f"cannot be read ({type(error).__name__})", "distil anew") from error
    return student.eval(), chosen, content
