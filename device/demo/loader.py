"""The demo's recordings on disk, in BIDS' layout for physiological data, and how to write them.

It knows nothing of sensors or of predictions.

A recording ``rest`` is ``rest_recording-ecg_physio.tsv.gz`` (one column, no header) with its ``.json`` sidecar, the
same for ``eda``, and ``rest_events.tsv`` (onset, duration, trial_type; seconds of the recording).
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from device.errors import RecordingError
from device.pipeline.types import Floats

DATA = Path(__file__).with_name("data")
ORDER = ("rest", "event", "stress")
"""In which the demo plays what is there."""
DECIMALS = 3
"""Of mV and of uS: steps of 1 uV and 1 nS, what the sensors send."""
_EVENTS_HEADER = ("onset", "duration", "trial_type")
_REMEDY = "install affectd again"


class Annotation(NamedTuple):
    """What truly went on for a while."""

    onset: float
    """Second of the recording."""
    duration: float
    """s"""
    description: str


@dataclass(frozen=True, slots=True)
class Trace:
    """One modality."""

    data: Floats
    """(n_times,) mV or uS."""
    sfreq: float
    start: float
    """Second of the recording of the first sample."""
    surrogate: bool
    """Whether it was made from something else than this modality's sensor."""
    description: str

    @property
    def stop(self) -> float:
        """Second after the last sample."""
        return self.start + len(self.data) / self.sfreq


@dataclass(frozen=True, slots=True)
class DemoRecording:
    """Both modalities and the truth."""

    name: str
    ecg: Trace
    eda: Trace
    annotations: tuple[Annotation, ...]

    @property
    def duration(self) -> float:
        """Seconds until the last sample."""
        return max(self.ecg.stop, self.eda.stop)


class _Column(msgspec.Struct, frozen=True):
    """BIDS: what a column holds."""

    Description: str
    Units: str


class _Sidecar(msgspec.Struct, frozen=True):
    """BIDS' keys, and ``Surrogate``."""

    SamplingFrequency: float
    StartTime: float
    Columns: tuple[str]
    Surrogate: bool
    ecg: _Column | None = None
    eda: _Column | None = None


def available(folder: Path = DATA) -> list[str]:
    """Names of the recordings at hand, in the demo's order."""
    return [name for name in ORDER if _physio(folder, name, "ecg").exists()]


def load(name: str, folder: Path = DATA) -> DemoRecording:
    """One recording; raises RecordingError that names the file."""
    ecg, eda = (_trace(_physio(folder, name, modality), modality) for modality in ("ecg", "eda"))
    return DemoRecording(name, ecg, eda, _annotations(folder / f"{name}_events.tsv"))


def write(recording: DemoRecording, folder: Path) -> None:
    """Write one recording; equal recordings give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for modality, units in (("ecg", "mV"), ("eda", "uS")):
        trace: Trace = getattr(recording, modality)
        path = _physio(folder, recording.name, modality)
        text = "".join(f"{value:.{DECIMALS}f}\n" for value in trace.data)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
        sidecar = {
            "SamplingFrequency": trace.sfreq,
            "StartTime": trace.start,
            "Columns": [modality],
            "Surrogate": trace.surrogate,
            modality: {"Description": trace.description, "Units": units},
        }
        _sidecar_path(path).write_text(json.dumps(sidecar, indent=2) + "\n")
    rows = [_EVENTS_HEADER, *((f"{a.onset:.2f}", f"{a.duration:.2f}", a.description) for a in recording.annotations)]
    (folder / f"{recording.name}_events.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


def _physio(folder: Path, name: str, modality: str) -> Path:
    return folder / f"{name}_recording-{modality}_physio.tsv.gz"


def _sidecar_path(physio: Path) -> Path:
    return physio.with_name(physio.name.removesuffix(".tsv.gz") + ".json")


def _trace(path: Path, modality: str) -> Trace:
    sidecar_path = _sidecar_path(path)
    try:
        sidecar = msgspec.json.decode(_read(sidecar_path), type=_Sidecar)
        column = {"ecg": sidecar.ecg, "eda": sidecar.eda}[modality]
        if column is None or sidecar.Columns != (modality,):
            raise msgspec.ValidationError(f"no column {modality}")
    except msgspec.DecodeError as error:
        raise RecordingError(sidecar_path, "", str(error), _REMEDY) from error
    try:
        data = np.array(gzip.decompress(_read(path)).split(), dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise RecordingError(path, "", f"cannot be read: {error}", _REMEDY) from error
    return Trace(data, sidecar.SamplingFrequency, sidecar.StartTime, sidecar.Surrogate, column.Description)


def _annotations(path: Path) -> tuple[Annotation, ...]:
    header, *rows = (tuple(line.split("\t")) for line in _read(path).decode().splitlines())
    try:
        if header != _EVENTS_HEADER:
            raise ValueError(f"columns {header}")
        return tuple(Annotation(float(onset), float(duration), what) for onset, duration, what in rows)
    except ValueError as error:
        raise RecordingError(path, "", str(error), _REMEDY) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordingError(path, "", f"cannot be read: {error.strerror}", _REMEDY) from error
