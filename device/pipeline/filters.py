"""Causal, streamed filters: ECG band-pass, EDA low-pass with tonic / phasic split.

Does not look ahead, knows no windows, and keeps its state between chunks: any cut of the stream gives the same bits.
"""

from __future__ import annotations

import numpy as np
from scipy import signal

from device.pipeline.errors import PipelineError, SpecError
from device.pipeline.spec import EcgSpec, EdaSpec
from device.pipeline.types import Bools, Chunk, Floats


class SosFilter:
    """Second-order sections with their state, settled on the first sample."""

    def __init__(self, sos: Floats) -> None:
        self.sos = sos
        self._settled = signal.sosfilt_zi(sos)
        self._state: Floats | None = None

    def restart(self) -> None:
        """Settle anew on the next sample."""
        self._state = None

    def push(self, x: Floats) -> Floats:
        """Filter (n_times,) samples, n_times >= 1; returns (n_times,)."""
        if self._state is None:
            self._state = self._settled * x[0]
        y, self._state = signal.sosfilt(self.sos, x, zi=self._state)
        return np.asarray(y, dtype=np.float64)


def ecg_sos(spec: EcgSpec, sfreq: float) -> Floats:
    """Second-order sections of the ECG band-pass at a sensor's nominal rate in Hz."""
    _check_band("ecg", spec.lowpass_hz, sfreq)
    band = [spec.highpass_hz, spec.lowpass_hz]
    return np.asarray(signal.butter(spec.order, band, "bandpass", fs=sfreq, output="sos"))


def eda_sos(spec: EdaSpec, sfreq: float) -> tuple[Floats, Floats]:
    """Second-order sections (clean, tonic) at a sensor's nominal rate in Hz."""
    _check_band("eda", spec.lowpass_hz, sfreq)
    clean = signal.butter(spec.order, spec.lowpass_hz, "lowpass", fs=sfreq, output="sos")
    tonic = signal.butter(spec.order, spec.tonic_hz, "lowpass", fs=sfreq, output="sos")
    return np.asarray(clean), np.asarray(tonic)


def _check_band(modality: str, lowpass_hz: float, sfreq: float) -> None:
    if lowpass_hz >= sfreq / 2:
        raise SpecError(
            f"{modality}.lowpass_hz", f"{lowpass_hz} Hz asked of a sensor at {sfreq} Hz, which carries {sfreq / 2} Hz"
        )


class _FilterStage:
    """Restart at a gap, mark the warm-up invalid, filter."""

    def __init__(self, sfreq: float, warmup_s: float) -> None:
        self._warmup = round(warmup_s * sfreq)
        self._expected: int | None = None
        self._ready = 0

    def push(self, chunk: Chunk) -> Chunk:
        """Filter one raw chunk of one channel."""
        if not np.isfinite(chunk.data).all():
            raise PipelineError(f"{chunk.modality}: sample that is no number; leave it out, so that it is a gap")
        if chunk.start != self._expected:
            self._ready = chunk.start + self._warmup
            self._restart()
        self._expected = chunk.stop
        warm: Bools = np.arange(chunk.start, chunk.stop) >= self._ready
        return Chunk(chunk.modality, chunk.start, self._filter(chunk.data[:, 0]), chunk.valid & warm, chunk.clock)

    def _restart(self) -> None:
        raise NotImplementedError

    def _filter(self, x: Floats) -> Floats:
        raise NotImplementedError


class EcgFilter(_FilterStage):
    """Raw ECG in mV to band-passed ECG, (n_times, 1)."""

    def __init__(self, spec: EcgSpec, sfreq: float) -> None:
        super().__init__(sfreq, spec.warmup_s)
        self._band = SosFilter(ecg_sos(spec, sfreq))

    def _restart(self) -> None:
        self._band.restart()

    def _filter(self, x: Floats) -> Floats:
        return self._band.push(x)[:, None]


class EdaFilter(_FilterStage):
    """Raw EDA in uS to tonic and phasic EDA, (n_times, 2); their sum is the cleaned signal."""

    def __init__(self, spec: EdaSpec, sfreq: float) -> None:
        super().__init__(sfreq, spec.warmup_s)
        clean, tonic = eda_sos(spec, sfreq)
        self._clean, self._tonic = SosFilter(clean), SosFilter(tonic)

    def _restart(self) -> None:
        self._clean.restart()
        self._tonic.restart()

    def _filter(self, x: Floats) -> Floats:
        clean = self._clean.push(x)
        tonic = self._tonic.push(clean)
        return np.column_stack([tonic, clean - tonic])
