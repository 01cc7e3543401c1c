"""Windows at the corners of what a network can be shown: zeros, flat, saturated, nothing at all.

Calibration windows hold none of them, a device meets all of them. Knows nothing of how the file was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy.special import softmax

from device.bundle import Bundle
from device.pipeline.spec import MODALITIES
from quantize.calibrate import Floats32
from quantize.export import Checkpoint, run_torch
from quantize.verify import classifiers

NOTHING = "nothing"
"""The set of sensors of a window that has none."""
DECIDED = 0.9
"""A float network that gives a label at least this is certain, and a file that says another is wrong; a free choice:
inputs that nobody has recorded may move a narrower decision."""


class Corner(msgspec.Struct, frozen=True, kw_only=True):
    """What the file makes of one such window."""

    corner: str
    mask: str
    """A mask, or ``nothing``."""
    against: str
    """The runtime."""
    is_answered: bool
    """Whether a device would ask the network at all: not of what is mostly out of range."""
    is_finite: bool
    probability_float: float
    """That the float network gives its label."""
    probability: float
    """That the file gives the same label."""

    def failures(self) -> list[str]:
        """What does not hold, one text each."""
        place = f"{self.corner}, {self.mask} on {self.against}"
        if not self.is_finite:
            return [f"{place}: a logit is not finite"]
        if self.is_answered and self.probability_float >= DECIDED and not self.probability >= 1 - DECIDED:
            told = f"{self.probability:.2f} where float gives {self.probability_float:.2f}"
            return [f"{place}: the label has {told}"]
        return []


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """One window at a corner."""

    corner: str
    mask: str
    is_answered: bool
    arrays: Mapping[str, Floats32]


def windows(shape: tuple[int, ...], clip: float, share: float) -> dict[str, tuple[bool, Floats32]]:
    """By corner, whether a device would ask of it, and one modality's scaled input of the shape given.

    ``clip`` bounds what is scaled; of more than ``share`` at the bound a device does not ask.
    """
    begin = np.arange(shape[-1]) < int(share * shape[-1])
    rows = {
        "zeros": (True, 0.0),
        "flat": (True, clip / 4),
        "high for a while": (True, np.where(begin, clip, 0.0)),
        "low for a while": (True, np.where(begin, -clip, 0.0)),
        "saturated high": (False, clip),
        "saturated low": (False, -clip),
        "saturated in turn": (False, np.where(np.arange(shape[-1]) % 2, clip, -clip)),
    }
    return {
        corner: (is_answered, np.broadcast_to(np.asarray(row, np.float32), shape).copy())
        for corner, (is_answered, row) in rows.items()
    }


def corners(bundle: Bundle, checkpoint: Checkpoint) -> list[Corner]:
    """Every corner under every mask, and nothing at all, on every runtime here."""
    shown = [*_shown(bundle, checkpoint), _Shown(NOTHING, NOTHING, False, {})]
    wanted = [_float(checkpoint, one.arrays) for one in shown]
    return [
        _corner(one, classifier.runtime, logits, classifier.forward(one.arrays)[0])
        for classifier in classifiers(bundle)
        for one, logits in zip(shown, wanted, strict=True)
    ]


def _shown(bundle: Bundle, checkpoint: Checkpoint) -> Iterator[_Shown]:
    clip, share = checkpoint.spec.clip, bundle.manifest.thresholds.max_clipped_share
    made = {m: windows(checkpoint.input_shape(m), clip, share) for m in checkpoint.modalities}
    for mask in bundle.manifest.masks:
        modalities = mask.split("+")
        for corner, (is_answered, _) in made[modalities[0]].items():
            yield _Shown(corner, mask, is_answered, {m: made[m][corner][1] for m in modalities})


def _float(checkpoint: Checkpoint, shown: Mapping[str, Floats32]) -> Floats32:
    """(n_outputs,) of the float network."""
    absent = {m: np.zeros(checkpoint.input_shape(m), np.float32) for m in MODALITIES}
    arrays = {m: shown.get(m, absent[m])[np.newaxis] for m in MODALITIES}
    mask = np.array([[m in shown for m in MODALITIES]], np.float32)
    return np.asarray(run_torch(checkpoint.network, {**arrays, "mask": mask})[0], np.float32)


def _corner(one: _Shown, runtime: str, wanted: Floats32, got: Floats32) -> Corner:
    label = int(wanted.argmax())
    return Corner(
        corner=one.corner,
        mask=one.mask,
        against=runtime,
        is_answered=one.is_answered,
        is_finite=bool(np.isfinite(got).all()),
        probability_float=float(softmax(wanted)[label]),
        probability=float(softmax(got)[label]),
    )
