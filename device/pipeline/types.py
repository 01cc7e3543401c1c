"""What flows through the pipeline: Chunk, then Window. Positions are integer sample indices; seconds come from a Clock.

Knows nothing of sensors' bytes, of models or of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Clock:
    """Affine map from a stream's sample index to seconds of the host's monotonic clock."""

    index: int
    """Reference sample."""
    time: float
    """Host time of the reference sample in s."""
    period: float
    """Seconds per sample, > 0."""

    def at(self, index: int) -> float:
        """Host time of one sample in s."""
        return self.time + (index - self.index) * self.period


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of consecutive samples of one stream, without a hole inside.

    A gap is explicit: this chunk's ``start`` is larger than the previous chunk's ``stop``.
    Two chunks cut out of one carry the same ``clock``, so that a cut changes no sample's time.
    """

    modality: str
    start: int
    """Index of the first sample on the stream's own clock."""
    data: Floats
    """(n_times, n_chans), physical units."""
    valid: Bools
    """(n_times,), False where a sample may not be used (saturated, filter warm-up)."""
    clock: Clock

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.valid.shape != (len(self.data),):
            raise ValueError(f"chunk of shape {self.data.shape} with valid of shape {self.valid.shape}")

    @property
    def stop(self) -> int:
        """Index after the last sample."""
        return self.start + len(self.data)

    def times(self) -> Floats:
        """(n_times,) host times in s."""
        return self.clock.time + (np.arange(self.start, self.stop) - self.clock.index) * self.clock.period

    def cut(self, index: int) -> tuple[Chunk, Chunk]:
        """Split before sample ``index`` (start < index < stop)."""
        n = index - self.start
        if not 0 < n < len(self.data):
            raise ValueError(f"cannot cut samples {self.start}..{self.stop} before {index}")
        return (
            Chunk(self.modality, self.start, self.data[:n], self.valid[:n], self.clock),
            Chunk(self.modality, index, self.data[n:], self.valid[n:], self.clock),
        )


@dataclass(frozen=True, slots=True)
class Quality:
    """Signal quality of one modality in one window, absolute (no other window is looked at)."""

    sqi: float
    """0 (unusable) to 1 (clean)."""
    problems: tuple[str, ...] = ()
    """What is wrong: ``contact``, ``saturated``, ``flat``, ``noise``, ``motion``, ``rate``."""


@dataclass(frozen=True, slots=True)
class Window:
    """The modalities' samples over one stretch of host time, joined on the model's sample grid.

    Window ``index`` covers host time ``[index * stride_s, index * stride_s + window_s)``.
    """

    index: int
    start: float
    """Host time of the window's start in s."""
    data: Mapping[str, Floats]
    """Per modality that covers the whole window: (n_times, n_chans) at the model's rate, EDA with its context."""
    quality: Mapping[str, Quality]
    """Per modality in ``data``."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Per modality that does not cover the window: the reason, ``warming_up`` or ``gap``."""

    def is_good(self, modality: str, sqi_min: float) -> bool:
        """Whether a modality covers the window with enough quality."""
        return modality in self.data and self.quality[modality].sqi >= sqi_min
