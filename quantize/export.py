"""Checkpoint -> torch network -> ONNX file, each step proved equal to the one before.

Knows nothing of calibration, of TFLite or of bundles.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from device.bundle import masks_of
from device.pipeline.errors import SpecError
from device.pipeline.feature_input import FeatureSpec
from device.pipeline.spec import MODALITIES, SignalSpec
from quantize.errors import ExportError
from quantize.rewrite import TOLERANCE, session_of
from train.distil import load_student
from train.errors import CheckpointError
from train.fit import load_checkpoint
from train.models import student
from train.models.emobed import EmoBed

Floats32 = npt.NDArray[np.float32]

KEYS = ("model", "spec", "labels", "provenance")
"""Of a checkpoint, beside what train.fit reads."""
ARGUMENTS = (*MODALITIES, "mask")
"""Of every network, in order; the ONNX file has those of them that it reads, by these names."""
OUTPUT, EMBEDDING = "logits", "embedding"
"""Names of the ONNX outputs; the second only where the network has a space."""
OPSET = 18
"""The dynamo exporter's own opset in torch 2.6-2.13; an older one would need a lossy down-conversion."""
N_CHECKED = 8
"""Random windows on which ONNX and torch are compared; a wrong operator differs on the first."""
REMEDY_CHECKPOINT = "write it with affectd-train of this version"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A trained network with everything needed to package it."""

    path: str
    network: nn.Module
    """In eval mode; forward(ecg, eda, mask) -> logits."""
    model_name: str
    config: Mapping[str, Any]
    spec: SignalSpec
    labels: tuple[str, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureSpec | None = None
    """What the network reads where it does not read the samples."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the file gives, in order."""
        return (OUTPUT, EMBEDDING) if isinstance(self.network, EmoBed) else (OUTPUT,)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which the network reads."""
        return tuple(m for m in MODALITIES if m in self.config.get("modalities", MODALITIES))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of what the file reads, in order."""
        return (*self.modalities, "mask")

    def input_shape(self, modality: str) -> tuple[int, ...]:
        """What the network reads of one window: (n_chans, n_times), or (n_features,)."""
        if self.features is not None:
            return (len(self.features.of(modality)),)
        return len(self.spec.ch_names(modality)), self.spec.n_times(modality)

    def subjects(self, key: str) -> tuple[str, ...]:
        """``train_subjects`` or ``test_subjects`` of the provenance."""
        return tuple(str(subject) for subject in self.provenance.get(key, ()))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running code from it; raises CheckpointError and nothing else for a bad file."""
    network, features, tree = _load(path)
    for key in KEYS:
        if key not in tree:
            raise CheckpointError(str(path), key, "is missing", REMEDY_CHECKPOINT)
    checkpoint = Checkpoint(
        path=str(path),
        network=network,
        model_name=str(tree["model"]["name"]),
        config=dict(tree["model"]["config"]),
        spec=_spec(path, tree["spec"]),
        labels=tuple(str(label) for label in tree["labels"]),
        provenance=dict(tree["provenance"]),
        features=features,
    )
    _check_outputs(checkpoint)
    return checkpoint


def _load(path: Path) -> tuple[nn.Module, FeatureSpec | None, dict[str, Any]]:
    """A network of samples, or a student of features, and the checkpoint's content."""
    if _name(path) == student.NAME:
        return load_student(path)
    network, tree = load_checkpoint(path)
    return network, None, tree


def _name(path: Path) -> str:
    """The model's name in a checkpoint; empty where it is none, which its reader then explains."""
    try:
        return str(torch.load(path, map_location="cpu", weights_only=True)["model"]["name"])
    except Exception:  # torch's readers raise many kinds for a file that is none of theirs
        return ""


def _spec(path: Path, raw: bytes) -> SignalSpec:
    """The checkpoint's SignalSpec."""
    try:
        return msgspec.json.decode(raw, type=SignalSpec)
    except (msgspec.DecodeError, SpecError, TypeError) as error:
        raise CheckpointError(str(path), "spec", str(error), REMEDY_CHECKPOINT) from error


def _check_outputs(checkpoint: Checkpoint) -> None:
    """One logit per label, all finite."""
    logits = run_torch(checkpoint.network, random_inputs(checkpoint, 1))
    if logits.shape != (1, len(checkpoint.labels)):
        reason = f"{len(checkpoint.labels)} labels where the network gives {logits.shape[1]} logits"
        raise CheckpointError(checkpoint.path, "labels", reason, REMEDY_CHECKPOINT)
    if not np.isfinite(logits).all():
        raise CheckpointError(checkpoint.path, "state", "the network gives logits that are not finite", "train anew")


def random_inputs(checkpoint: Checkpoint, n: int, seed: int = 0) -> dict[str, Floats32]:
    """``n`` seeded noise windows within the clip, masks cycling: ecg, eda (n, *input_shape), mask (n, 2)."""
    rng = np.random.default_rng(seed)
    shows = [[m in mask.split("+") for m in MODALITIES] for mask in masks_of(checkpoint.modalities)]
    masks = np.array(shows, np.float32)[np.arange(n) % len(shows)]
    arrays = {"mask": masks}
    for column, modality in enumerate(MODALITIES):
        shape, clip = checkpoint.input_shape(modality), checkpoint.spec.clip
        shown = masks[:, column].reshape(n, *(1 for _ in shape))
        arrays[modality] = (np.clip(rng.standard_normal((n, *shape)), -clip, clip) * shown).astype(np.float32)
    return arrays


def nchw(arrays: Mapping[str, Floats32]) -> dict[str, Floats32]:
    """ecg and eda (n, n_chans, n_times) -> (n, n_chans, 1, n_times), the network's layout."""
    return {name: a[:, :, None, :] if a.ndim == 3 else a for name, a in arrays.items()}


def run_torch(network: nn.Module, arrays: Mapping[str, Floats32]) -> Floats32:
    """Logits (n, n_outputs) of the float network; arrays as in :func:`random_inputs`."""
    return _run_torch(network, arrays)


def embed_torch(network: EmoBed, arrays: Mapping[str, Floats32]) -> Floats32:
    """Embeddings (n, embedding) of the float network."""
    return _run_torch(network.embedding, arrays)


def _run_torch(forward: Callable[..., torch.Tensor], arrays: Mapping[str, Floats32]) -> Floats32:
    batch = 64  # bounds memory, not results: the network is in eval mode
    shown = nchw(arrays)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(shown["mask"]), batch):
            inputs = [torch.from_numpy(np.ascontiguousarray(shown[name][start : start + batch])) for name in ARGUMENTS]
            parts.append(forward(*inputs).numpy())
    return np.asarray(np.concatenate(parts), np.float32)


def run_onnx(path: Path, arrays: Mapping[str, Floats32], output: str = OUTPUT) -> Floats32:
    """(n, size) of one of its outputs under onnxruntime, one window at a time as the file is made."""
    session = session_of(onnx.load(str(path)))
    shown = nchw(arrays)
    names = [value.name for value in session.get_inputs()]
    rows = [
        session.run([output], {name: shown[name][i : i + 1] for name in names})[0] for i in range(len(shown["mask"]))
    ]
    return np.asarray(np.concatenate(rows), np.float32)


def export_onnx(checkpoint: Checkpoint, path: Path) -> Path:
    """Write the network as ONNX with static batch 1 and prove it equal to torch; raises ExportError."""
    example = nchw(random_inputs(checkpoint, 1))
    shown = {name: example[name] for name in checkpoint.inputs}
    write_onnx(exported(checkpoint), shown, checkpoint.outputs, path)
    check_onnx(path, checkpoint)
    return path


def write_onnx(network: nn.Module, example: Mapping[str, Floats32], outputs: Sequence[str] | None, path: Path) -> None:
    """A network in eval mode as ONNX, static, its inputs named as the example's arrays; raises ExportError."""
    with quiet_exporter():
        try:
            program = torch.onnx.export(
                network.eval(),
                tuple(torch.from_numpy(array) for array in example.values()),
                dynamo=True,  # the legacy exporter writes operators neither TFLite runtime loads
                input_names=list(example),
                output_names=None if outputs is None else list(outputs),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ExportError(str(error).splitlines()[0], "use layers that ONNX knows") from error
    if program is None:
        raise ExportError("the exporter gave nothing back", "use torch >= 2.6")
    program.save(str(path))


def check_onnx(path: Path, checkpoint: Checkpoint) -> None:
    """Raise ExportError unless the file is valid ONNX, has our names and static shapes, and agrees with torch."""
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf's and onnx's own errors share no root
        raise ExportError(f"onnx.checker refuses it ({str(error).splitlines()[0]})", "use layers ONNX knows") from error
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}
    outputs = tuple(value.name for value in model.graph.output)
    if (tuple(shapes), outputs) != (checkpoint.inputs, checkpoint.outputs):
        reason = f"has {[*shapes, *outputs]} where {[*checkpoint.inputs, *checkpoint.outputs]} were asked for"
        raise ExportError(reason, "use another torch")
    if any(shape[0] != 1 or 0 in shape for shape in shapes.values()):
        raise ExportError(f"shapes {shapes} are not static with batch 1", "write the network without dynamic axes")
    arrays = random_inputs(checkpoint, N_CHECKED, seed=1)
    network = checkpoint.network
    both = {OUTPUT: run_torch(network, arrays)}
    if isinstance(network, EmoBed):
        both[EMBEDDING] = embed_torch(network, arrays)
    for name, wanted in both.items():
        error_max = float(np.abs(wanted - run_onnx(path, arrays, name)).max())
        if not error_max <= TOLERANCE * (1 + float(np.abs(wanted).max())):
            raise ExportError(f"its {name} differ from torch by {error_max:.2g}", "report the network's layers")


class _WithEmbedding(nn.Module):
    """EmoBed's network with both of its outputs."""

    def __init__(self, network: EmoBed) -> None:
        super().__init__()
        self.network = network

    def forward(self, ecg: torch.Tensor, eda: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and embedding."""
        embedding = self.network.embedding(ecg, eda, mask)
        return self.network.head(embedding), embedding


class _OfOneModality(nn.Module):
    """A network without the argument that it does not look at."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, shown: torch.Tensor, mask: torch.Tensor) -> Any:
        """What the network gives."""
        return self.network(shown, shown, mask)


def exported(checkpoint: Checkpoint) -> nn.Module:
    """What becomes the file: it reads ``inputs`` and gives ``outputs``, around the checkpoint's own network."""
    network = checkpoint.network
    whole = _WithEmbedding(network) if isinstance(network, EmoBed) else network
    return (whole if len(checkpoint.modalities) > 1 else _OfOneModality(whole)).eval()


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hold back what torch's exporter says about itself (missing torchvision, its own deprecations)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
