"""From a window's features to the numbers a classical model reads: chosen, scaled, clipped.

Does not know how a feature is made, and does not quantize: that belongs to the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from device.pipeline.errors import PipelineError
from device.pipeline.features import FEATURES, OF, columns, features
from device.pipeline.model_input import Baseline, Floats32, ModelInput
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Floats


class FeatureSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which features a model reads, and how each becomes a number near 1: ``clip((x - center) / scale)``.

    ``x`` is the feature less its mean over the wearer's resting baseline where the SignalSpec needs one.
    """

    names: tuple[str, ...]
    """Of ``FEATURES``, in that order; some of each modality."""
    center: tuple[float, ...]
    """Per name, subtracted."""
    scale: tuple[float, ...]
    """Per name, divided by; > 0."""

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what contradicts itself or the features there are."""
        unknown = [name for name in self.names if name not in FEATURES]
        if unknown:
            raise ValueError(f"there is no feature {unknown[0]!r}")
        if list(self.names) != sorted(set(self.names), key=FEATURES.index):
            raise ValueError("names are given twice or out of order")
        if not len(self.names) == len(self.center) == len(self.scale):
            raise ValueError(f"{len(self.names)} names, {len(self.center)} centers, {len(self.scale)} scales")
        if not all(map(math.isfinite, self.center)) or not all(0 < scale < math.inf for scale in self.scale):
            raise ValueError("center must be finite, and scale finite and > 0")
        for modality in MODALITIES:
            if not self.of(modality):
                raise ValueError(f"no feature of {modality}")

    def of(self, modality: str) -> tuple[str, ...]:
        """The names that a modality gives."""
        return tuple(name for name in self.names if name in OF[modality])


def feature_input(
    data: Mapping[str, Floats], spec: SignalSpec, chosen: FeatureSpec, baseline: Baseline | None = None
) -> ModelInput:
    """Features of one window as (n_features,) per modality, and the share of them that had to be clipped.

    Parameters
    ----------
    data : mapping of modality to (n_times, n_chans), physical units
    spec : SignalSpec
    chosen : FeatureSpec
    baseline : Baseline, optional
        Required, with its features, where the spec needs one; PipelineError without it.
    """
    arrays: dict[str, Floats32] = {}
    clipped: dict[str, float] = {}
    for modality, samples in data.items():
        row = features({modality: samples}, spec)[columns(modality)]
        x = dict(zip(OF[modality], row.tolist(), strict=True))
        rest = _rest(chosen.of(modality), baseline) if spec.needs_baseline else {}
        scales = zip(chosen.names, chosen.center, chosen.scale, strict=True)
        scaled = np.array([(x[n] - rest.get(n, 0.0) - center) / scale for n, center, scale in scales if n in x])
        arrays[modality] = np.clip(scaled, -spec.clip, spec.clip).astype(np.float32)
        clipped[modality] = float((np.abs(scaled) > spec.clip).mean())
    return ModelInput(arrays, clipped)


def _rest(names: tuple[str, ...], baseline: Baseline | None) -> Mapping[str, float]:
    """The wearer's resting features; PipelineError where one is not known."""
    known = baseline.features if baseline else {}
    missing = [name for name in names if name not in known]
    if missing:
        raise PipelineError(f"feature {missing[0]} needs the wearer's resting baseline; record one first")
    return known
