"""What every reader returns: a Recording of Signals and Annotations, times in seconds from the recording's start.

Knows nothing of any one data set's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

IRREGULAR_RATE = 0.0
"""``Signal.sfreq`` of a signal without a rate (LSL's convention): its first column is then the time in s."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A labelled stretch of a recording."""

    onset: float
    """s from the recording's start."""
    duration: float
    """s."""
    description: str
    ratings: Mapping[str, float] = field(default_factory=dict)
    """What was said of this stretch, e.g. ``{"arousal": 6.5}``, on the data set's own scale."""

    @property
    def stop(self) -> float:
        """End in s from the recording's start."""
        return self.onset + self.duration


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """One modality as the sensor gave it, at its own rate."""

    data: Floats
    """(n_times, n_chans); NaN where there is no sample: a gap."""
    sfreq: float
    """Hz, or IRREGULAR_RATE."""
    units: str
    ch_names: tuple[str, ...]
    start: float = 0.0
    """Time of the first sample, s from the recording's start."""
    surrogate: bool = False
    """Rebuilt from other data, not measured."""

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.data.shape[1] != len(self.ch_names):
            raise ValueError(f"signal of shape {self.data.shape} with channels {self.ch_names}")
        if self.sfreq < 0:
            raise ValueError(f"sfreq {self.sfreq} Hz is negative")

    @property
    def duration(self) -> float:
        """Length in s; 0 for an irregular signal."""
        return len(self.data) / self.sfreq if self.sfreq else 0.0

    @property
    def stop(self) -> float:
        """End in s from the recording's start."""
        return self.start + self.duration

    def times(self) -> Floats:
        """(n_times,) s from the recording's start."""
        if not self.sfreq:
            return self.start + self.data[:, 0]
        return self.start + np.arange(len(self.data)) / self.sfreq


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One session of one person."""

    dataset: str
    subject: str
    session: str
    signals: Mapping[str, Signal]
    """Modality -> signal."""
    annotations: tuple[Annotation, ...] = ()
    """In order of onset."""
    notes: tuple[str, ...] = field(default=())
    """What a reader of results should know of this recording, one sentence each."""
