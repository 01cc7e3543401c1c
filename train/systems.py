"""The systems that are compared: networks of the same blocks, their fusion by decision, and classical models.

Knows nothing of folds or files: windows and training subjects in, probabilities of the asked windows out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline as Steps
from sklearn.pipeline import make_pipeline

from device.pipeline.features import FEATURES, columns, features
from device.pipeline.spec import MODALITIES, SignalSpec
from train.errors import LeakError
from train.fit import MASKS, FitConfig, NetworkConfig
from train.models import classical
from train.models.acc import AccConfig
from train.models.ecg_transformer import TransformerConfig
from train.models.emobed import EmoBedConfig
from train.objective import NO_CROSSMODAL, Crossmodal
from train.prepare import Prepared
from train.windows import Windows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """What differs from the attentive cross-modal network, and from its training."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """Keys of AccConfig: its connections' gates, its connections, a branch."""
    crossmodal: Mapping[str, float] | None = None
    """For an EmoBed network: keys of Crossmodal that are not as chosen."""
    hides: bool = True
    """Whether training hides a whole sensor at random."""
    is_pretrained: bool | None = None
    """Of a network with an ECG Transformer in it: whether its encoder begins as pre-training left it."""
    teacher: str | None = None
    """The system whose answers it learns beside the labels."""


_NEITHER = {"joint": 0.0, "triplet": 0.0}
NETWORKS: Mapping[str, Network] = {
    "acc": Network(),
    "unattended": Network({"attention": "none"}),
    "feature-fusion": Network({"stages": ()}),
    "ecg-only": Network({"modalities": ("ecg",)}),
    "eda-only": Network({"modalities": ("eda",)}),
    "emobed": Network(crossmodal={}, hides=False),
    "emobed-joint": Network(crossmodal={"triplet": 0.0}, hides=False),
    "emobed-triplet": Network(crossmodal={"joint": 0.0}, hides=False),
    "emobed-neither": Network(crossmodal=_NEITHER, hides=False),
    "modality-dropout": Network(crossmodal=_NEITHER),
    "emobed-ecg-only": Network({"modalities": ("ecg",)}, _NEITHER),
    "emobed-eda-only": Network({"modalities": ("eda",)}, _NEITHER),
    "emobed-transformer": Network(crossmodal={}, hides=False, is_pretrained=True),
    "emobed-transformer-scratch": Network(crossmodal={}, hides=False, is_pretrained=False),
    "emobed-distilled": Network(crossmodal={}, hides=False, teacher="emobed-transformer"),
    "transformer-pretrained": Network({"modalities": ("ecg",)}, is_pretrained=True),
    "transformer-scratch": Network({"modalities": ("ecg",)}, is_pretrained=False),
}
"""``emobed`` is trained jointly and with triplets, its siblings with one of both or neither; ``modality-dropout`` is
the same network that only loses a sensor at random; ``emobed-ecg-only`` never knew another sensor. In
``emobed-transformer`` an ECG Transformer takes the place of the ECG stem; ``emobed-distilled`` learns from it."""
ENCODING = tuple(name for name, network in NETWORKS.items() if network.is_pretrained is not None)
"""Networks with an ECG Transformer in them."""
TRANSFORMERS = tuple(name for name in ENCODING if NETWORKS[name].crossmodal is None)
"""Those that are nothing else."""
PROBES = {"transformer-probe": True, "transformer-probe-random": False}
"""Logistic regression on what an encoder gives that is not trained for the task; whether it is the pre-trained one."""
PROBED_BY = "classical-lr"
WITH_EMBEDDING = tuple(name for name, network in NETWORKS.items() if network.crossmodal is not None)
DECISION_FUSION = "decision-fusion"
"""Mean of the probabilities of ecg-only and eda-only; the one there is where a sensor is missing."""
PARTS = {"ecg": "ecg-only", "eda": "eda-only"}


SEEDLESS = ("classical-lda", "classical-lr", "classical-gb")
"""Systems that chance has no part in: one seed's figures are every seed's."""


LABELS = "-labels-"
"""In the name of a system that learns from fewer people than there are: ``transformer-scratch-labels-25``."""


def with_labels(system: str, share: float) -> str:
    """The name of a system that learns from a share of the training subjects: its own, where that is all of them."""
    return system if share == 1.0 else f"{system}{LABELS}{100 * share:g}"


def system_and_share(name: str) -> tuple[str, float]:
    """What :func:`with_labels` was given."""
    system, _, percent = name.partition(LABELS)
    return system, float(percent) / 100 if percent else 1.0


def needs_encoder(name: str) -> bool:
    """Whether a system has an ECG Transformer in it or in its teacher, or is a probe of one."""
    system = system_and_share(name)[0]
    return system in (*ENCODING, *PROBES) or (system in NETWORKS and NETWORKS[system].teacher in ENCODING)


def network_config(
    system: str, base: AccConfig, embedding: int = EmoBedConfig.embedding, encoder: TransformerConfig | None = None
) -> NetworkConfig:
    """The configuration of a system's network; ``encoder`` is that of the pre-trained one."""
    task = {k: getattr(base, k) for k in ("n_outputs", "ecg_times", "eda_times", "dropout")}
    encoding = replace(encoder or TransformerConfig(), **task)
    if system in TRANSFORMERS:
        return encoding
    config = replace(base, **NETWORKS[system].model, encoder=encoding if system in ENCODING else None)
    return EmoBedConfig(**vars(config), embedding=embedding) if system in WITH_EMBEDDING else config


def fit_config(system: str, base: FitConfig) -> FitConfig:
    """How a system's network is trained."""
    if NETWORKS[system].hides:
        return base
    return replace(base, augmentation=replace(base.augmentation, modality_dropout=0.0))


def crossmodal(system: str, chosen: Crossmodal) -> Crossmodal:
    """What a system's network is trained for beside its task."""
    differs = NETWORKS[system].crossmodal
    return NO_CROSSMODAL if differs is None else replace(chosen, **differs)


def sweeps(name: str) -> bool:
    """Whether a system's training has something of EmoBed's to choose."""
    system, _ = system_and_share(name)
    differs = NETWORKS[system].crossmodal if system in NETWORKS else None
    return differs is not None and differs != _NEITHER


def masks_of(system: str) -> dict[str, tuple[float, float]]:
    """Masks under which a system can be asked at all."""
    modalities = ("ecg",) if system in PROBES else NETWORKS.get(system, Network()).model.get("modalities", MODALITIES)
    return {mask: shown for mask, shown in MASKS.items() if mask in modalities or len(modalities) > 1}


def asked(windows: Windows, subject: str, mask: tuple[float, float]) -> Ints:
    """Indices of a person's scored windows that have anything under a mask."""
    shown = (windows.present & (np.array(mask) > 0)).any(axis=1)
    return np.flatnonzero((windows.subject == subject) & windows.is_scored & shown)


def fused(ecg: Floats, eda: Floats, has_ecg: npt.NDArray[np.bool_], has_eda: npt.NDArray[np.bool_]) -> Floats:
    """Mean of two systems' probabilities (n, n_outputs) over the modalities a window has."""
    weight = np.stack([has_ecg, has_eda]).astype(float)[:, :, None]
    return np.asarray((np.stack([ecg, eda]) * weight).sum(axis=0) / weight.sum(axis=0))


def feature_table(person: Prepared, used: Ints, spec: SignalSpec, is_baseline: npt.NDArray[np.bool_] | None) -> Floats:
    """(len(used), n_features), NaN where a modality is absent; less their mean over the resting baseline, if given."""
    table = _features(person, used, spec)
    if is_baseline is None:
        return table
    rest = _features(person, np.flatnonzero(is_baseline), spec)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(rest).any(axis=0)
        mean = np.where(known, np.nanmean(np.where(known, rest, 0.0), axis=0), 0.0)
    return np.asarray(table - mean)


def _features(person: Prepared, index: Ints, spec: SignalSpec) -> Floats:
    rows = []
    for i in index:
        row = features({m: getattr(person, m)[i][-spec.n_times(m) :] for m in MODALITIES}, spec)
        for k, modality in enumerate(MODALITIES):
            if not person.present[i, k]:
                row[columns(modality)] = np.nan
        rows.append(row)
    return np.array(rows).reshape(len(index), len(FEATURES))


def classical_model(system: str, seed: int, n_outputs: int) -> Steps:
    """An unfitted classical system: missing features by the training median, then the classifier with its scaler."""
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), *_steps(system, seed, n_outputs))


def _steps(system: str, seed: int, n_outputs: int) -> list[Any]:
    return [step for _, step in classical.make(system, seed, n_outputs).steps]


def shown_features(table: Floats, mask: str) -> Floats:
    """Columns of the sensors a mask allows."""
    return table if mask == "both" else table[:, columns(mask)]


def assert_scaled_on(model: Steps, x: Floats, where: str) -> None:
    """Raise LeakError where a classifier's scaler was fitted on anything but the training rows ``x``."""
    known = [column[np.isfinite(column)] for column in x.T]
    if not np.allclose(model[0].statistics_, [np.median(c) if len(c) else 0.0 for c in known]):
        raise LeakError("what fills missing features is not the median of the training rows", where)
    scaler = next((step for _, step in model.steps if hasattr(step, "n_samples_seen_")), None)
    if scaler is None:
        return
    filled = model[0].transform(x)
    if scaler.n_samples_seen_ != len(x) or not np.allclose(scaler.mean_, filled.mean(axis=0)):
        raise LeakError("the scaler's mean is not that of the training rows", where)
