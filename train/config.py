"""The configuration of an evaluation: one TOML file, every key checked.

Knows nothing of how any of it is done.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import torch

from device.pipeline.errors import SpecError
from device.pipeline.spec import MODALITIES, SignalSpec, default_spec
from train.augment import Augmentation
from train.errors import ConfigError, TaskError
from train.fit import FitConfig
from train.models.acc import ACC, AccConfig, example_inputs
from train.objective import Crossmodal
from train.systems import NETWORKS, PROBES, WITH_EMBEDDING, with_labels
from train.tasks import Task, task_of
from train.windows import shortened

Kind = TypeVar("Kind", bound=msgspec.Struct)
Mode = Literal["cold_start", "calibrated"]
System = Literal[
    "acc", "unattended", "feature-fusion", "decision-fusion", "ecg-only", "eda-only",
    "classical-lda", "classical-rf", "classical-gb", "classical-lr",
    "emobed", "emobed-joint", "emobed-triplet", "emobed-neither", "modality-dropout",
    "emobed-ecg-only", "emobed-eda-only", "emobed-transformer", "emobed-transformer-scratch", "emobed-distilled",
    "transformer-pretrained", "transformer-scratch", "transformer-probe", "transformer-probe-random",
]  # fmt: skip
SOME = msgspec.Meta(min_length=1)
REMEDY = "see train/runs for examples"
NOT_GIVEN = {
    "n_outputs": "the task", "ecg_times": "the candidates", "eda_times": "the candidates", "encoder": "the system",
}  # fmt: skip
"""Keys of AccConfig that follow from other parts of the configuration."""
DEFAULT_ENCODER = Path(__file__).with_name("weights") / "ecg-encoder.pt"
"""Pre-trained by train/runs/pretrain/cpu.toml."""
COUNTS = ("epochs", "epoch_windows", "batch", "stem", "widths", "hidden")
"""Keys whose values are 1 or more; all other numbers are 0 or more."""
SHARES = (
    "label_smoothing", "running_mean", "pretrained_lr", "teaching", "dropout", "inversion", "ecg_loss", "context_loss",
    "modality_dropout",
)  # fmt: skip
"""Keys whose values are 1 or less."""


class TaskTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task of one's own: which annotation gets which label."""

    labels: tuple[str, ...]
    """Classes, in order."""
    of: dict[str, str]
    """Description of an annotation -> label."""
    rest: tuple[str, ...]
    """Descriptions of the rest whose beginning is the resting baseline."""


class RatingsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ratings of one's own: what is told, on which scale."""

    names: Annotated[tuple[str, ...], SOME]
    """Names of ratings, as the annotations have them."""
    scale: tuple[float, float]
    """Least and greatest."""
    rest: tuple[str, ...] = ()
    """Descriptions of the rest whose beginning is the resting baseline; without one nobody is calibrated."""


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The choice of window and context, made inside each fold on training subjects only."""

    candidates: tuple[tuple[float, float], ...] = ((60.0, 300.0), (60.0, 60.0), (30.0, 180.0))
    """(window, EDA context) in s; the first is kept unless another is clearly better. The longest of each is what is
    prepared."""
    share: float = 1 / 3
    """Of the training subjects, those that judge."""
    epochs: int = 4
    """Of each candidate's fit."""


class EmoBedTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """EmoBed's network and the ways of training it among which each fold chooses on its training subjects."""

    embedding: Annotated[int, msgspec.Meta(ge=1, le=256)] = 32
    """Dimensions of the space."""
    candidates: Annotated[tuple[dict[str, Any], ...], SOME] = ({},)
    """Keys of train.objective.Crossmodal; the first is kept unless another is clearly better."""

    def crossmodals(self) -> tuple[Crossmodal, ...]:
        """The candidates."""
        return tuple(Crossmodal(**candidate) for candidate in self.candidates)


class TransformerTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ECG Transformer's pre-trained encoder is, which also says how large the network is."""

    encoder: str = ""
    """Path of what affectd-train pretrain wrote; the one that comes with affectd where empty."""

    @property
    def path(self) -> Path:
        """Of the encoder."""
        return Path(self.encoder) if self.encoder else DEFAULT_ENCODER


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One evaluation: one task on one data set."""

    dataset: str
    """Name as ``affectd-train data list`` has it."""
    task: str
    systems: Annotated[tuple[System, ...], SOME]
    modes: Annotated[tuple[Mode, ...], SOME] = ("cold_start", "calibrated")
    seeds: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)], ...], SOME] = (0, 1, 2)
    labels: TaskTable | None = None
    """Where the task is not one of train.tasks."""
    ratings: RatingsTable | None = None
    """The same for ratings."""
    inner: Inner = Inner()
    emobed: EmoBedTable = EmoBedTable()
    transformer: TransformerTable = TransformerTable()
    label_shares: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0, le=1)], ...], SOME] = (1.0,)
    """Shares of the training subjects that systems learn from, the others' labels unseen; each is a run of its own."""
    fit: dict[str, Any] = {}
    """Keys of train.fit.FitConfig; ``augmentation`` is a table of train.augment.Augmentation."""
    model: dict[str, Any] = {}
    """Keys of train.models.acc.AccConfig, for all networks."""

    def runs(self) -> list[str]:
        """Names of the systems, each with each share of the labels."""
        return [with_labels(system, share) for share in self.label_shares for system in self.systems]

    def fit_config(self) -> FitConfig:
        """How networks are trained."""
        rest = dict(self.fit)
        return FitConfig(**rest | {"augmentation": Augmentation(**rest.get("augmentation", {}))})

    def the_task(self) -> Task:
        """The task; raises TaskError where it is unknown or contradicts itself."""
        if self.ratings is not None:
            return Task(self.task, self.dataset, self.ratings.names, {}, self.ratings.rest, self.ratings.scale)
        if self.labels is None:
            return task_of(self.task, self.dataset)
        table = self.labels
        unknown = sorted(set(table.of.values()) - set(table.labels))
        if unknown:
            raise TaskError(self.task, f"label {unknown[0]!r} is not among {', '.join(table.labels)}")
        of = {description: table.labels.index(label) for description, label in table.of.items()}
        return Task(self.task, self.dataset, table.labels, of, table.rest)

    def longest(self, *, calibrated: bool = False) -> SignalSpec:
        """The spec that every candidate is cut from."""
        spec = default_spec(calibrated=calibrated)
        window = max(window for window, _ in self.inner.candidates)
        context = max(context for _, context in self.inner.candidates)
        eda = msgspec.structs.replace(spec.eda, context_s=context)
        return msgspec.structs.replace(spec, window_s=window, eda=eda)


def read_config(path: Path) -> Config:
    """Read and check a configuration; raises ConfigError naming the key, or TaskError."""
    config = read_as(path, Config)
    _check(path, config)
    return config


def read_as(path: Path, kind: type[Kind]) -> Kind:
    """A TOML file as a struct; raises ConfigError naming the key that is wrong."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise ConfigError(str(path), "file", error.strerror or "cannot be read", REMEDY) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "TOML", str(error), REMEDY) from error
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        raise ConfigError(str(path), place.strip(".`") or "top level", reason, REMEDY) from error


def _check(path: Path, config: Config) -> None:
    """Refuse at once what would only fail in the first fold."""
    task = config.the_task()
    if task.rates and (of_classes := [s for s in config.systems if _tells_classes(s)]):
        raise ConfigError(str(path), "systems", f"{of_classes[0]} tells classes, the task is ratings", "leave it out")
    if not task.rest and "calibrated" in config.modes:
        raise ConfigError(str(path), "modes", "calibrated needs a resting stretch, the task has none", "leave it out")
    if config.labels and config.ratings:
        raise ConfigError(str(path), "ratings", "stands beside labels", "keep one of them")
    if not config.inner.candidates or not 0 < config.inner.share < 1 or config.inner.epochs < 1:
        raise ConfigError(str(path), "inner", "needs candidates, a share between 0 and 1, and an epoch", REMEDY)
    if min(config.label_shares) < 1 and (len(config.inner.candidates) > 1 or set(config.systems) & {*WITH_EMBEDDING}):
        reason = "leave labels out, which the choice of the window or of EmoBed's training would look at"
        raise ConfigError(str(path), "label_shares", reason, "give one candidate and no system of EmoBed's")
    _check_table(path, "fit.augmentation", config.fit.get("augmentation", {}), Augmentation)
    _check_table(path, "fit", config.fit, FitConfig)
    _check_table(path, "model", config.model, AccConfig)
    for i, candidate in enumerate(config.emobed.candidates):
        _check_table(path, f"emobed.candidates[{i}]", candidate, Crossmodal)
    for window, context in config.inner.candidates:
        try:
            spec = shortened(config.longest(), window, context)
            shape = {f"{m}_times": spec.n_times(m) for m in MODALITIES}
            network = AccConfig(**{**config.model, **shape})
            with torch.no_grad():
                ACC(network).eval()(*example_inputs(network))
        except (ValueError, SpecError, RuntimeError) as error:
            reason = f"window {window:g} s, EDA context {context:g} s: {error}"
            raise ConfigError(str(path), "inner.candidates", reason, REMEDY) from error


def _tells_classes(system: str) -> bool:
    """Whether a system has no form that tells ratings: classifiers, and who learns a teacher's probabilities."""
    return system.startswith("classical") or system in PROBES or bool(system in NETWORKS and NETWORKS[system].teacher)


def _check_table(path: Path, place: str, given: Any, kind: type[Any]) -> None:
    """Every key known, every value of its type and within its bounds."""
    try:
        msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        reason, _, inside = str(error).partition(" - at `$")
        raise ConfigError(str(path), place + inside.strip("`"), reason, REMEDY) from error
    for key, value in given.items():
        if key in NOT_GIVEN:
            raise ConfigError(str(path), f"{place}.{key}", f"follows from {NOT_GIVEN[key]}", "leave it out")
        if key not in kind.__dataclass_fields__:
            raise ConfigError(str(path), f"{place}.{key}", "is not known", REMEDY)
        least, most = int(key in COUNTS), 1 if key in SHARES else float("inf")
        numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int | float)]
        if not all(least <= v <= most and v < float("inf") for v in numbers):
            raise ConfigError(str(path), f"{place}.{key}", f"{value} is not within {least} and {most:g}", REMEDY)
