"""The whole signal path as one object: raw chunks in, windows out.

Reads no bytes and knows no network; training feeds it chunks of a data set, the device chunks of its sensors.
"""

from __future__ import annotations

from collections.abc import Mapping

from device.pipeline.errors import SpecError
from device.pipeline.filters import EcgFilter, EdaFilter
from device.pipeline.quality import ecg_quality, eda_quality
from device.pipeline.resample import Resampler
from device.pipeline.rpeaks import HeartRate
from device.pipeline.spec import SignalSpec
from device.pipeline.types import Chunk, Window
from device.pipeline.window import Joiner

QUALITY = {"ecg": ecg_quality, "eda": eda_quality}


class EcgPath:
    """Raw ECG to (ecg, hr) at the model's rate."""

    def __init__(self, spec: SignalSpec, sfreq: float) -> None:
        self._filter = EcgFilter(spec.ecg, sfreq)
        self._resample = Resampler("ecg", spec.ecg.sfreq, n_chans=1)
        self.heart_rate = HeartRate(spec.ecg.sfreq)

    def push(self, chunk: Chunk) -> list[Chunk]:
        """One raw chunk to the clean chunks that are now certain."""
        return [out for clean in self._resample.push(self._filter.push(chunk)) for out in self.heart_rate.push(clean)]

    def flush(self) -> list[Chunk]:
        """At the end of a recording: what the beat finder still holds."""
        return self.heart_rate.flush()


class EdaPath:
    """Raw EDA to (tonic, phasic) at the model's rate."""

    def __init__(self, spec: SignalSpec, sfreq: float) -> None:
        self._filter = EdaFilter(spec.eda, sfreq)
        self._resample = Resampler("eda", spec.eda.sfreq, n_chans=2)

    def push(self, chunk: Chunk) -> list[Chunk]:
        """One raw chunk to the clean chunks that are now certain."""
        return self._resample.push(self._filter.push(chunk))

    def flush(self) -> list[Chunk]:
        """At the end of a recording: nothing is held."""
        return []


class Pipeline:
    """Filter, resample, find beats, window, join.

    Parameters
    ----------
    spec : SignalSpec
    sfreqs : mapping of modality to Hz
        Nominal rates of the streams that will come, e.g. ``{"ecg": 130.0, "eda": 8.0}``; filters are designed for
        them. A modality left out is never waited for. SpecError where a rate cannot carry the spec's band.
    """

    def __init__(self, spec: SignalSpec, sfreqs: Mapping[str, float]) -> None:
        self.spec = spec
        makers: dict[str, type[EcgPath] | type[EdaPath]] = {"ecg": EcgPath, "eda": EdaPath}
        unknown = set(sfreqs) - set(makers)
        if unknown or not sfreqs:
            raise SpecError("sfreqs", f"streams {sorted(sfreqs)} where {sorted(makers)} can be used")
        self.paths: dict[str, EcgPath | EdaPath] = {
            modality: makers[modality](spec, sfreq) for modality, sfreq in sfreqs.items()
        }
        self._join = Joiner(spec, self.paths, QUALITY)

    def clean(self, chunk: Chunk) -> list[Chunk]:
        """The first half of ``push``: one raw chunk to clean chunks at the model's rate."""
        return self.paths[chunk.modality].push(chunk)

    def join(self, chunk: Chunk) -> list[Window]:
        """The second half of ``push``: one clean chunk to the windows that are now certain."""
        return self._join.push(chunk)

    def push(self, chunk: Chunk) -> list[Window]:
        """One raw chunk, (n_times, 1) in mV or uS, to the windows that are now certain.

        Streams are fed interleaved in time, none more than ``spec.join_wait_s`` ahead of the others; one that lags
        further is missing from the windows given out meanwhile.
        """
        return [window for clean in self.clean(chunk) for window in self.join(clean)]

    def flush(self) -> list[Window]:
        """At the end of a recording: the windows some modality still covers to their end."""
        held = [clean for path in self.paths.values() for clean in path.flush()]
        return [window for clean in held for window in self.join(clean)] + self._join.flush()
