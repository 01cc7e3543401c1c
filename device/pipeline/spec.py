"""SignalSpec: every number that shapes the model's input, in one frozen object that the bundle carries.

Training and device build their Pipeline from it, so neither can differ from the other.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from device.pipeline.errors import SpecError


class ChannelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one channel becomes a number the network can read: ``clip((c(x) - center) / scale)``, c as ``knee`` says."""

    name: str
    """``ecg`` (mV), ``hr`` (1/min), ``tonic`` or ``phasic`` (uS)."""
    units: str
    knee: float
    """0: ``c(x) = x``. Above: ``c(x) = asinh(x / knee)``, linear below the knee (in ``units``) and logarithmic above,
    so that 8 bits resolve a skin of 0.1 uS and one of 20 uS alike."""
    center: float
    """Subtracted; ``c`` of the person's own resting median instead where ``mode`` is ``baseline``."""
    scale: float
    """Divided by; the window's own spread instead where ``mode`` is ``window``."""
    mode: Literal["fixed", "window", "baseline"]
    """``fixed``: the two numbers above. ``window``: center and scale by the window's own median and standard
    deviation, with ``scale`` as the least deviation. ``baseline``: center by the person's resting baseline, ``scale``
    as above."""


class EcgSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chest sensor's path."""

    sfreq: float
    """Model's rate in Hz."""
    highpass_hz: float
    lowpass_hz: float
    order: int
    """Order of the Butterworth prototype of the band-pass."""
    warmup_s: float
    """Filter output marked invalid after a start or a gap, s."""
    channels: tuple[ChannelSpec, ...]


class EdaSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wrist sensor's path."""

    sfreq: float
    """Model's rate in Hz."""
    lowpass_hz: float
    """Cut-off of the cleaning low-pass."""
    tonic_hz: float
    """Cut-off of the low-pass that gives the tonic level; phasic = clean - tonic."""
    order: int
    """Order of each Butterworth low-pass."""
    warmup_s: float
    """Filter output marked invalid after a start or a gap, s."""
    channels: tuple[ChannelSpec, ...]
    context_s: float
    """The network reads this much EDA, ending where the window ends, and never less than the window (0: just that): a
    change of the slow level shows only against what was before. Beyond a start or a gap the oldest sample stands."""


class SignalSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From sensor samples to the model's input."""

    ecg: EcgSpec
    eda: EdaSpec
    window_s: float
    stride_s: float
    join_wait_s: float
    """A window is given out without a modality that lags this far behind the other, s."""
    sqi_min: float
    """A modality below this quality counts as absent."""
    clip: float
    """Model input is clipped to +- this, after scaling."""

    def __post_init__(self) -> None:
        _check(self)

    def n_times(self, modality: str) -> int:
        """Samples of a modality that the network reads: the window and, for EDA, the context before it."""
        return self.n_window(modality) + self.n_context(modality)

    def n_window(self, modality: str) -> int:
        """Samples of one window of a modality."""
        return round(self.window_s * self.of(modality).sfreq)

    def n_context(self, modality: str) -> int:
        """Samples before the window that come with it."""
        more_s = self.eda.context_s - self.window_s if modality == "eda" else 0.0
        return max(0, round(more_s * self.of(modality).sfreq))

    def of(self, modality: str) -> EcgSpec | EdaSpec:
        """The modality's own part."""
        parts: dict[str, EcgSpec | EdaSpec] = {"ecg": self.ecg, "eda": self.eda}
        return parts[modality]

    def ch_names(self, modality: str) -> tuple[str, ...]:
        """Channel names of a modality, in order."""
        return tuple(channel.name for channel in self.of(modality).channels)

    @property
    def needs_baseline(self) -> bool:
        """Whether a resting baseline of the wearer is required."""
        return any(c.mode == "baseline" for m in MODALITIES for c in self.of(m).channels)


MODALITIES = ("ecg", "eda")
CHANNELS = {"ecg": ("ecg", "hr"), "eda": ("tonic", "phasic")}


def _check(spec: SignalSpec) -> None:
    """Refuse a spec that contradicts itself."""
    for modality in MODALITIES:
        part = spec.of(modality)
        names = spec.ch_names(modality)
        if names != CHANNELS[modality]:
            raise SpecError(f"{modality}.channels", f"{names} where the pipeline makes {CHANNELS[modality]}")
        lengths = {"window_s": spec.window_s, "stride_s": spec.stride_s}
        for name, seconds in lengths.items():
            if seconds <= 0 or (seconds * part.sfreq) % 1:
                raise SpecError(name, f"{seconds} s is not a whole, positive number of samples at {part.sfreq} Hz")
        if any(channel.scale <= 0 or channel.knee < 0 for channel in part.channels):
            raise SpecError(f"{modality}.channels", "scale must be > 0 and knee >= 0")
        if part.order < 1 or part.warmup_s < 0:
            raise SpecError(modality, "order must be >= 1 and warmup_s >= 0")
    if spec.eda.context_s < 0 or (spec.eda.context_s * spec.eda.sfreq) % 1:
        raise SpecError("eda.context_s", f"{spec.eda.context_s} s is not a whole number of samples, 0 or more")
    if not 0 < spec.ecg.highpass_hz < spec.ecg.lowpass_hz < spec.ecg.sfreq / 2:
        raise SpecError("ecg", "0 < highpass_hz < lowpass_hz < sfreq / 2 does not hold")
    if not 0 < spec.eda.tonic_hz < spec.eda.lowpass_hz < spec.eda.sfreq / 2:
        raise SpecError("eda", "0 < tonic_hz < lowpass_hz < sfreq / 2 does not hold")
    if spec.clip <= 0 or spec.join_wait_s < 0 or not 0 <= spec.sqi_min <= 1:
        raise SpecError("spec", "clip > 0, join_wait_s >= 0, 0 <= sqi_min <= 1 does not hold")


def default_spec(*, calibrated: bool = False) -> SignalSpec:
    """The spec of the shipped networks.

    Band edges: ECG 0.5-40 Hz is the monitoring band (a Polar H10 itself passes 0.7-40 Hz); EDA tonic below 0.05 Hz
    and phasic above it is the usual split (Boucsein et al. 2012, Psychophysiology 49:1017). Centers and scales are
    free choices near the middle of healthy adults at rest; knees are the least level with contact (0.05 uS) and the
    least skin conductance response (0.02 uS), which puts 0.03-20 uS and +-4 uS inside the clip.
    """
    mode: Literal["fixed", "baseline"] = "baseline" if calibrated else "fixed"
    return SignalSpec(
        ecg=EcgSpec(
            sfreq=128.0,
            highpass_hz=0.5,
            lowpass_hz=40.0,
            order=2,
            warmup_s=2.0,
            channels=(
                ChannelSpec("ecg", "mV", 0.0, 0.0, 0.02, "window"),
                ChannelSpec("hr", "1/min", 0.0, 75.0, 15.0, mode),
            ),
        ),
        eda=EdaSpec(
            sfreq=4.0,
            lowpass_hz=1.0,
            tonic_hz=0.05,
            order=2,
            warmup_s=10.0,
            channels=(
                ChannelSpec("tonic", "uS", 0.05, 3.5, 0.7, mode),
                ChannelSpec("phasic", "uS", 0.02, 0.0, 1.0, "fixed"),
            ),
            context_s=0.0,
        ),
        window_s=60.0,
        stride_s=5.0,
        join_wait_s=10.0,
        sqi_min=0.5,
        clip=6.0,
    )
