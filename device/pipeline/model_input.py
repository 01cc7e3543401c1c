"""From a window's physical units to the numbers the network reads, (n_times, n_chans) to (n_chans, n_times).

The only place with that transpose. Does not quantize: that belongs to the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from device.pipeline.errors import PipelineError
from device.pipeline.features import OF, columns, features
from device.pipeline.spec import MODALITIES, ChannelSpec, SignalSpec
from device.pipeline.types import Floats, Window

Floats32 = npt.NDArray[np.float32]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wearer's resting level, per channel."""

    center: dict[str, float]
    """Channel name to resting median, in the channel's units."""
    n_windows: int = 0
    """Windows it was taken from."""
    features: dict[str, float] = {}
    """Feature name to its mean over the resting windows; for models that read features."""


def baseline_of(windows: Sequence[Window], spec: SignalSpec, modalities: Sequence[str] = MODALITIES) -> Baseline:
    """Resting median of every channel, and mean of every feature, over windows recorded at rest.

    Raises PipelineError where one of the modalities has no window of sufficient quality.
    """
    samples: dict[str, Floats] = {}
    rest: dict[str, float] = {}
    for modality in modalities:
        usable = [w for w in windows if w.is_good(modality, spec.sqi_min)]
        good = [w.data[modality][-spec.n_window(modality) :] for w in usable]
        if not good:
            raise PipelineError(f"baseline: no window of usable {modality}; check the sensor and rest once more")
        samples[modality] = np.concatenate(good)
        table = np.array([features({modality: w.data[modality]}, spec)[columns(modality)] for w in usable])
        rest.update(zip(OF[modality], table.mean(axis=0).tolist(), strict=True))
    return msgspec.structs.replace(baseline_from(samples, spec, len(windows)), features=rest)


def baseline_from(samples: Mapping[str, Floats] | Mapping[str, Floats32], spec: SignalSpec, n_windows: int) -> Baseline:
    """Median of every channel over (n_times, n_chans) resting samples per modality, from ``n_windows`` windows."""
    center: dict[str, float] = {}
    for modality, data in samples.items():
        center.update(zip(spec.ch_names(modality), np.median(data, axis=0).tolist(), strict=True))
    return Baseline(center, n_windows)


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the network reads, and how much of it had to be clipped."""

    arrays: Mapping[str, Floats32]
    """Modality to (n_chans, n_times), within +- spec.clip."""
    clipped: Mapping[str, float]
    """Modality to the share of clipped values in its worst channel."""


def model_input(data: Mapping[str, Floats], spec: SignalSpec, baseline: Baseline | None = None) -> ModelInput:
    """Scale and clip one window.

    Parameters
    ----------
    data : mapping of modality to (n_times, n_chans), physical units
    spec : SignalSpec
    baseline : Baseline, optional
        Required where a channel's mode is ``baseline``; PipelineError without it.
    """
    arrays: dict[str, Floats32] = {}
    clipped: dict[str, float] = {}
    for modality, samples in data.items():
        channels = spec.of(modality).channels
        scaled = np.stack([_scale(samples[:, i], c, baseline) for i, c in enumerate(channels)])
        arrays[modality] = np.clip(scaled, -spec.clip, spec.clip).astype(np.float32)
        clipped[modality] = float((np.abs(scaled) > spec.clip).mean(axis=1).max())
    return ModelInput(arrays, clipped)


def _scale(x: Floats, channel: ChannelSpec, baseline: Baseline | None) -> Floats:
    center, scale = channel.center, channel.scale
    x = _compressed(x, channel)
    if channel.mode == "window":
        center, scale = float(np.median(x)), max(channel.scale, float(np.std(x)))
    elif channel.mode == "baseline":
        if baseline is None:
            raise PipelineError(f"channel {channel.name} needs the wearer's resting baseline; record one first")
        center = float(_compressed(np.array(baseline.center[channel.name]), channel))
    return (x - center) / scale


def _compressed(x: Floats, channel: ChannelSpec) -> Floats:
    return np.arcsinh(x / channel.knee) if channel.knee else x
