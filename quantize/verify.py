"""Parity: the same windows through torch, ONNX and the int8 file, per mask, and the gate that judges it.

Knows nothing of how the file was made. The int8 file runs through the device's own inference, on every runtime here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from torch import nn

from device.bundle import Bundle, Parity
from device.errors import InferenceError
from device.inference import RUNTIMES, Classifier
from device.pipeline.spec import MODALITIES
from device.space import Space
from quantize.calibrate import Floats32, Ints, Pool
from quantize.export import embed_torch, run_onnx, run_torch
from train.metrics import balanced_accuracy
from train.models.emobed import EmoBed

Floats = npt.NDArray[np.float64]

MIN_AGREEMENT = 0.98
"""Least share of windows with the float network's label (DESIGN.md, numbers to hold)."""
MAX_DROP = 0.01
"""Largest loss of balanced accuracy, 1 point (same place)."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One implementation's logits against the float network's, for one mask."""

    mask: str
    against: str
    """``onnxruntime`` or a member of ``device.inference.RUNTIMES``."""
    n_windows: int
    agreement: float
    """Share of windows with the same most probable label."""
    cosine: float
    """Mean cosine of the logits."""
    error_max: float
    """Largest difference of a logit."""
    probability_error_max: float
    """Largest difference of a probability (softmax)."""
    balanced_accuracy_float: float
    balanced_accuracy: float
    """Of this implementation."""
    familiar_agreement: float | None = None
    """Share of windows held for familiar, or for strange, by both; None for a network without a space."""

    @property
    def drop(self) -> float:
        """Balanced accuracy lost."""
        return self.balanced_accuracy_float - self.balanced_accuracy

    def failures(self) -> list[str]:
        """What of the gate does not hold, one text each."""
        place = f"{self.mask} on {self.against}"
        found = []
        if not self.agreement >= MIN_AGREEMENT:
            found.append(f"{place}: agreement {self.agreement:.3f} < {MIN_AGREEMENT}")
        if not self.drop <= MAX_DROP:
            found.append(f"{place}: balanced accuracy drops by {self.drop:.3f} > {MAX_DROP}")
        if self.familiar_agreement is not None and not self.familiar_agreement >= MIN_AGREEMENT:
            found.append(f"{place}: agreement on what is familiar {self.familiar_agreement:.3f} < {MIN_AGREEMENT}")
        return found


def run_int8(classifier: Classifier, inputs: Mapping[str, Floats32], mask: str) -> tuple[Floats32, Floats32]:
    """Logits (n, n_outputs) and embeddings (n, size) of windows under a mask, one by one as the device does it."""
    shown = [m for m in MODALITIES if m in mask.split("+")]
    n = len(inputs["mask"])
    outputs = [classifier.outputs({m: inputs[m][i] for m in shown}) for i in range(n)]
    none = np.empty(0, np.float32)
    return np.stack([it for it, _ in outputs]), np.stack([none if it is None else it for _, it in outputs])


def classifiers(bundle: Bundle) -> list[Classifier]:
    """The bundle on every runtime that works here; raises InferenceError where none does."""
    found, reasons = [], []
    for runtime in RUNTIMES:
        try:
            found.append(Classifier(bundle, runtime))
        except InferenceError as error:
            reasons.append(str(error))
    if not found:
        raise InferenceError("; ".join(reasons), "install one of them")
    return found


def compare(
    bundle: Bundle,
    network: nn.Module,
    onnx: Path,
    pool: Pool,
    chosen: Mapping[str, Ints],
    on_mask: Callable[[str], None] = lambda _: None,
) -> list[Comparison]:
    """Every implementation against torch for each mask; ``chosen`` says which windows of which mask."""
    runs = classifiers(bundle)
    found = []
    for mask in bundle.manifest.masks:
        on_mask(mask)
        inputs, labels = pool.inputs(chosen[mask], mask), pool.labels[chosen[mask]]
        wanted = run_torch(network, inputs)
        found.append(comparison(mask, "onnxruntime", wanted, run_onnx(onnx, inputs), labels))
        for classifier in runs:
            got, embeddings = run_int8(classifier, inputs, mask)
            judged = comparison(mask, classifier.runtime, wanted, got, labels)
            if isinstance(network, EmoBed) and (space := bundle.manifest.space):
                alike = _familiar(space, embed_torch(network, inputs), mask) == _familiar(space, embeddings, mask)
                judged = msgspec.structs.replace(judged, familiar_agreement=float(alike.mean()))
            found.append(judged)
    return found


def _familiar(space: Space, embeddings: Floats32, mask: str) -> npt.NDArray[np.bool_]:
    """(n,) whether each of (n, size) lies near what is known."""
    return np.asarray(space.distance(embeddings, mask) <= space.max_distance[mask])


def comparison(mask: str, against: str, wanted: Floats32, got: Floats32, labels: Ints) -> Comparison:
    """Figures of ``got`` against ``wanted``, logits (n, n_outputs) both."""
    first, second = wanted.astype(np.float64), got.astype(np.float64)
    return Comparison(
        mask=mask,
        against=against,
        n_windows=len(labels),
        agreement=float((first.argmax(1) == second.argmax(1)).mean()),
        cosine=float(_cosine(first, second).mean()),
        error_max=float(np.abs(first - second).max()),
        probability_error_max=float(np.abs(softmax(first, axis=1) - softmax(second, axis=1)).max()),
        balanced_accuracy_float=balanced_accuracy(labels, first),
        balanced_accuracy=balanced_accuracy(labels, second),
    )


def gate(comparisons: Sequence[Comparison]) -> list[str]:
    """Everything that does not hold, over all masks and implementations; empty where the bundle may be written."""
    return [failure for comparison in comparisons for failure in comparison.failures()]


def parity(comparisons: Sequence[Comparison]) -> tuple[Parity, ...]:
    """The manifest's figures: for each mask those of the runtime the device takes by default."""
    best = next(runtime for runtime in RUNTIMES if any(c.against == runtime for c in comparisons))
    return tuple(
        Parity(
            mask=c.mask,
            n_windows=c.n_windows,
            agreement=c.agreement,
            cosine=c.cosine,
            balanced_accuracy_float=c.balanced_accuracy_float,
            balanced_accuracy_int8=c.balanced_accuracy,
        )
        for c in comparisons
        if c.against == best
    )


def _cosine(x: Floats, y: Floats) -> Floats:
    """(n,) cosine of each row; 1 where both are zero."""
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    dots = (x * y).sum(axis=1)
    return np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), np.where((x == y).all(axis=1), 1.0, 0.0))
