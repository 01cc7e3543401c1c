"""A bundle's test of itself: windows made from a seed, and what the network said of them when the bundle was made.

A runtime, a processor or a damaged library that computes something else is found before it predicts. It needs no data
and no training code.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from device.bundle import MANIFEST, Bundle, Manifest, Probe
from device.errors import BundleError, InferenceError
from device.inference import RUNTIMES, Classifier

Float32 = npt.NDArray[np.float32]

WINDOWS = 6
"""Of each set of sensors; a free choice: a wrong kernel shows on the first."""
STEPS = 3
"""Runtimes round int8 differently, by a step or two of a logit; three are more than that and change no plain label."""
FLOAT_ERROR = 1e-3
"""The same for networks that are finer than int8."""
ROUNDED_ERROR = 0.05
"""The same for networks that round their activations as they go, each runtime in its own way."""


def probe_of(classifier: Classifier, n: int = WINDOWS, seed: int = 0) -> Probe:
    """What a network says of ``n`` made-up windows of each set of sensors."""
    manifest = classifier.bundle.manifest
    return Probe(
        seed=seed,
        logits={
            mask: tuple(tuple(classifier.logits(window).tolist()) for window in made_up(manifest, mask, n, seed))
            for mask in manifest.masks
        },
    )


def check_probe(bundle: Bundle, runtime: str = "auto") -> tuple[str, float]:
    """The runtime and the largest difference of a logit to when the bundle was made.

    Raises BundleError where it is more than rounding or there is no probe, InferenceError without that runtime.
    """
    probe, manifest = bundle.manifest.probe, bundle.manifest
    if probe is None:
        raise BundleError(bundle.path, f"{MANIFEST} probe", "is missing", "build the bundle with this affectd")
    classifier = Classifier(bundle, runtime)
    allowed = _allowed(manifest)
    worst = 0.0
    for mask, rows in probe.logits.items():
        told = [classifier.logits(window) for window in made_up(manifest, mask, len(rows), probe.seed)]
        error = float(np.abs(np.array(told) - np.array(rows, np.float32)).max())
        worst = max(worst, error)
        if not error <= allowed * 1.001:  # the sum of steps is rounded
            reason = f"{mask} on {classifier.runtime}: logits differ by {error:.3g} from when it was made"
            raise BundleError(bundle.path, f"{MANIFEST} probe", reason, "use another runtime, or install this one anew")
    return classifier.runtime, worst


def _allowed(manifest: Manifest) -> float:
    """Largest difference of a logit that is no reason to worry."""
    if manifest.output.dtype == "int8":
        return STEPS * manifest.output.scale
    return ROUNDED_ERROR if manifest.model_format == "dynamic-range" else FLOAT_ERROR


def check_everywhere(bundle: Bundle) -> dict[str, float]:
    """``check_probe`` on every runtime that works here; InferenceError where none does."""
    found, reasons = {}, []
    for name in RUNTIMES:
        try:
            runtime, worst = check_probe(bundle, name)
            found[runtime] = worst
        except InferenceError as error:
            reasons.append(str(error))
    if not found:
        raise InferenceError("; ".join(reasons), "install one of them")
    return found


def made_up(manifest: Manifest, mask: str, n: int, seed: int) -> Iterator[dict[str, Float32]]:
    """Windows of noise within the clip, as the network reads them: ECG-like fast, EDA-like slow.

    Of numpy's ``RandomState``, whose numbers are the same in every version.
    """
    rng = np.random.RandomState(seed)
    for _ in range(n):
        window = {}
        for modality in mask.split("+"):
            shape = manifest.inputs[modality].shape
            size = shape[:1:-1] if len(shape) == 4 else shape[1:]
            noise = rng.standard_normal(size) + rng.standard_normal((*size[:-1], 1))
            window[modality] = np.clip(noise, -manifest.spec.clip, manifest.spec.clip).astype(np.float32)
        yield window
