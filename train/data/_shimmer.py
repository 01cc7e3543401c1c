"""Shimmer 2 ECG and GSR as AMIGOS and DREAMER publish them -> mV and uS.

Knows nothing of the sets' layouts. Neither set states units in its files, so the values' own size decides between the
few the sensor and its software write, and each Recording says in its notes what was taken. The ranges lie apart by
physiology, and what fits none is refused.

Source of the scale: Shimmer's own drivers (ShimmerObject, Shimmer 2 ECG): 12 bits over 3 V, offset 2060, gain 175.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from train.data.types import Floats

ADC_MV_PER_COUNT = 3000.0 / 4095 / 175
ADC_ZERO = 2060.0
ADC_MAX = 4095.0
MIN_COUNTS = 300.0
"""Median of an ECG in counts is near ADC_ZERO; one in mV is never hundreds."""

GSR_UNITS = (
    ((1e4, 2e7), "ohm of skin resistance", 1e6, True),
    ((60.0, 1e4), "kilohm of skin resistance", 1e3, True),
    ((1e-3, 20.0), "uS of skin conductance", 1.0, False),
    ((1e-9, 1e-3), "siemens of skin conductance", 1e6, False),
)
"""(range of a person's median, unit, factor to uS, whether to divide by the value). Skin has 0.05 to 100 uS; 20 to 60
could be uS or kilohm, so that range is left out."""


def ecg_to_mv(trials: Iterable[Floats]) -> tuple[list[Floats], str]:
    """ECG of all trials of a person, each (n_times, n_leads) -> mV, and what was taken for its unit."""
    trials = list(trials)
    level = _median(trials)
    highest = max((float(np.nanmax(t, initial=-np.inf)) for t in trials), default=0.0)
    if level >= MIN_COUNTS and highest <= ADC_MAX:
        note = f"ecg: no unit is published; read as Shimmer 2 counts (median {level:.0f}), zero set to {ADC_ZERO:.0f}"
        return [(trial - ADC_ZERO) * ADC_MV_PER_COUNT for trial in trials], note
    return trials, "ecg: no unit is published; taken as mV"


def gsr_to_us(trials: Iterable[Floats]) -> tuple[list[Floats], str] | None:
    """GSR of all trials of a person, each (n_times,) -> uS, and what was taken for its unit.

    None where the values fit no unit of skin resistance or conductance. A value that is not positive is no measurement:
    NaN.
    """
    trials = [np.where(trial > 0, trial, np.nan) for trial in trials]
    level = _median(trials)
    for (low, high), unit, scale, is_resistance in GSR_UNITS:
        if low <= level < high:
            note = f"eda: no unit is published; read as {unit} (median {level:.3g})"
            return [scale / trial if is_resistance else scale * trial for trial in trials], note
    return None


def _median(trials: list[Floats]) -> float:
    """Median of all samples that are there; 0 where there is none."""
    values = np.concatenate([trial.ravel() for trial in trials]) if trials else np.empty(0)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else 0.0
