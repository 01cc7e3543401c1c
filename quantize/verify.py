"""Parity: the same windows through torch, ONNX and a file, per mask and person, and the gate that judges it.

Knows nothing of how the file was made. The file runs through the device's own inference, on every runtime here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from scipy.stats import binom
from torch import nn

from device.bundle import Bundle, Parity
from device.errors import BundleError, DeviceError, InferenceError
from device.inference import RUNTIMES, Classifier
from device.pipeline.spec import MODALITIES
from device.space import Space
from quantize.calibrate import Floats32, Ints, Pool
from quantize.export import embed_torch, run_onnx, run_torch
from train.metrics import balanced_accuracy, ece, subject_bootstrap
from train.models.emobed import EmoBed

Floats = npt.NDArray[np.float64]

MIN_AGREEMENT = 0.98
"""Least share of windows with the float network's label (DESIGN.md, numbers to hold)."""
MAX_DROP = 0.01
"""Largest loss of balanced accuracy, 1 point (same place)."""
MAX_ECE_CHANGE = 0.02
"""Largest growth of the expected calibration error; a free choice, well below the 0.05 that it is held to."""
CHANCE = 0.01
"""A person fails where so few of his windows agree that ``MIN_AGREEMENT`` would give it less often than this, over all
people of a mask together."""


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
    balanced_accuracy_float: float | None
    """None where the windows have no labels, as everything that needs them."""
    balanced_accuracy: float | None
    """Of this implementation."""
    familiar_agreement: float | None = None
    """Share of windows held for familiar, or for strange, by both; None for a network without a space."""
    drop_ci95: tuple[float, float] | None
    """Of the mean over people of the balanced accuracy lost, by bootstrap over them."""
    subjects: dict[str, float]
    """Agreement of each person's windows."""
    subjects_failed: tuple[str, ...]
    """Whose agreement is too low to be chance."""
    ece_change: float | None
    """Of the expected calibration error, the temperature of the mask applied; more than 0 is worse."""

    @property
    def drop(self) -> float | None:
        """Balanced accuracy lost."""
        if self.balanced_accuracy is None or self.balanced_accuracy_float is None:
            return None
        return self.balanced_accuracy_float - self.balanced_accuracy

    def failures(self) -> list[str]:
        """What of the gate does not hold, one text each."""
        place = f"{self.mask} on {self.against}"
        found = []
        if not self.agreement >= MIN_AGREEMENT:
            found.append(f"{place}: agreement {self.agreement:.3f} < {MIN_AGREEMENT}")
        if self.drop is not None and not self.drop <= MAX_DROP:
            found.append(f"{place}: balanced accuracy drops by {self.drop:.3f} > {MAX_DROP}")
        if self.familiar_agreement is not None and not self.familiar_agreement >= MIN_AGREEMENT:
            found.append(f"{place}: agreement on what is familiar {self.familiar_agreement:.3f} < {MIN_AGREEMENT}")
        if self.subjects_failed:
            each = ", ".join(f"{subject} {self.subjects[subject]:.3f}" for subject in self.subjects_failed)
            found.append(f"{place}: agreement too low for chance on {each}")
        if self.ece_change is not None and not self.ece_change <= MAX_ECE_CHANGE:
            found.append(f"{place}: calibration error grows by {self.ece_change:.3f} > {MAX_ECE_CHANGE}")
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What the float network makes of the windows that judge one mask."""

    mask: str
    inputs: Mapping[str, Floats32]
    labels: Ints | None
    subjects: npt.NDArray[np.str_]
    temperature: float
    logits: Floats32
    """(n, n_outputs)."""
    embeddings: Floats32 | None
    """(n, size) where the network has a space."""


def wanted_of(
    network: nn.Module, pool: Pool, chosen: Mapping[str, Ints], temperature: Mapping[str, float]
) -> list[Wanted]:
    """Of each mask that ``temperature`` has; ``chosen`` says which windows."""
    found = []
    for mask, value in temperature.items():
        inputs = pool.inputs(chosen[mask], mask)
        embeddings = embed_torch(network, inputs) if isinstance(network, EmoBed) else None
        logits = run_torch(network, inputs)
        who = pool.subjects[chosen[mask]]
        found.append(Wanted(mask, inputs, pool.labels[chosen[mask]], who, value, logits, embeddings))
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
    found, reasons = _tried(bundle)
    if not found:
        raise InferenceError("; ".join(map(str, reasons)), "install one of them")
    return found


def refusals(bundle: Bundle) -> list[str]:
    """What each runtime says that is here and does not take the file."""
    return [
        " ".join(error.reason.split(". ")[0].split()) for error in _tried(bundle)[1] if isinstance(error, BundleError)
    ]


def _tried(bundle: Bundle) -> tuple[list[Classifier], list[DeviceError]]:
    found: list[Classifier] = []
    errors: list[DeviceError] = []
    for runtime in RUNTIMES:
        try:
            found.append(Classifier(bundle, runtime))
        except (InferenceError, BundleError) as error:
            errors.append(error)
    return found, errors


def compare(
    bundle: Bundle, wanted: Sequence[Wanted], on_mask: Callable[[str], None] = lambda _: None
) -> list[Comparison]:
    """The bundle on every runtime here against the float network, for each mask."""
    runs, space = classifiers(bundle), bundle.manifest.space
    found = []
    for one in wanted:
        on_mask(one.mask)
        for classifier in runs:
            got, embeddings = run_int8(classifier, one.inputs, one.mask)
            judged = comparison(one, classifier.runtime, got)
            if one.embeddings is not None and space is not None:
                alike = _familiar(space, one.embeddings, one.mask) == _familiar(space, embeddings, one.mask)
                judged = msgspec.structs.replace(judged, familiar_agreement=float(alike.mean()))
            found.append(judged)
    return found


def compare_onnx(onnx: Path, wanted: Sequence[Wanted]) -> list[Comparison]:
    """The ONNX file under onnxruntime against the float network, for each mask."""
    return [comparison(one, "onnxruntime", run_onnx(onnx, one.inputs)) for one in wanted]


def _familiar(space: Space, embeddings: Floats32, mask: str) -> npt.NDArray[np.bool_]:
    """(n,) whether each of (n, size) lies near what is known."""
    return np.asarray(space.distance(embeddings, mask) <= space.max_distance[mask])


def comparison(wanted: Wanted, against: str, got: Floats32) -> Comparison:
    """Figures of logits (n, n_outputs) against the float network's."""
    first, second = wanted.logits.astype(np.float64), got.astype(np.float64)
    same = first.argmax(1) == second.argmax(1)
    people = {str(subject): wanted.subjects == subject for subject in np.unique(wanted.subjects)}
    return Comparison(
        mask=wanted.mask,
        against=against,
        n_windows=len(same),
        agreement=float(same.mean()),
        cosine=float(_cosine(first, second).mean()),
        error_max=float(np.abs(first - second).max()),
        probability_error_max=float(np.abs(softmax(first, axis=1) - softmax(second, axis=1)).max()),
        subjects={subject: float(same[of].mean()) for subject, of in people.items()},
        subjects_failed=tuple(s for s, of in people.items() if _too_low(same[of], len(people))),
        **_skill(wanted, first, second, [*people.values()]),
    )


def _skill(wanted: Wanted, first: Floats, second: Floats, people: Sequence[npt.NDArray[np.bool_]]) -> dict[str, Any]:
    """What can be said where the windows have labels."""
    labels = wanted.labels
    if labels is None:
        return dict.fromkeys(("balanced_accuracy_float", "balanced_accuracy", "drop_ci95", "ece_change"))
    skill = [[balanced_accuracy(labels[of], logits[of]) for logits in (first, second)] for of in people]
    sure = [ece(labels, softmax(logits / wanted.temperature, axis=1)) for logits in (first, second)]
    return {
        "balanced_accuracy_float": balanced_accuracy(labels, first),
        "balanced_accuracy": balanced_accuracy(labels, second),
        "drop_ci95": subject_bootstrap([float_ - file for float_, file in skill]),
        "ece_change": sure[1] - sure[0],
    }


def _too_low(same: npt.NDArray[np.bool_], n_people: int) -> bool:
    """Whether a person's windows agree less often than ``MIN_AGREEMENT`` gives by chance, over ``n_people``."""
    return bool(binom.cdf(int(same.sum()), len(same), MIN_AGREEMENT) < CHANCE / n_people)


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
