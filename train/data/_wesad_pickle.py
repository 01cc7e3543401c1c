"""SX.pkl of WESAD: chest, wrist and labels on one clock -> signals and labelled stretches.

Knows nothing of the raw files or of questionnaires.

A dictionary: ``subject``; ``signal``, in it ``chest`` and ``wrist``, in each an array (n_times, n_chans) per channel;
``label``, an integer for every sample of the chest. Rates are not in the file: they are what WESAD's readme says, and
lengths are checked against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train.data import e4, unpickle
from train.data.errors import DataError
from train.data.types import Annotation, Signal

CHEST_HZ = 700.0
MAX_LENGTH_OFF_S = 1.0
"""In all 15 files wrist and labels end within 0.25 s; another rate would be off by many seconds."""
LABELS = {1: "baseline", 2: "stress", 3: "amusement", 4: "meditation"}
"""0 is transient or not defined; 5 to 7 are to be ignored."""
MAX_LABEL = 7
REMEDY = "get SX.pkl again from the data set"


@dataclass(frozen=True, slots=True)
class _Channel:
    """How one array reads."""

    modality: str
    units: str
    sfreq: float
    ch_names: tuple[str, ...]
    divisor: float = 1.0


_XYZ = ("acc_x", "acc_y", "acc_z")
CHANNELS = {
    "chest": {
        "ACC": _Channel("acc_chest", "g", CHEST_HZ, _XYZ),
        "ECG": _Channel("ecg", "mV", CHEST_HZ, ("ecg",)),
        "EMG": _Channel("emg", "mV", CHEST_HZ, ("emg",)),
        "EDA": _Channel("eda_chest", "uS", CHEST_HZ, ("eda",)),
        "TEMP": _Channel("temp_chest", "degC", CHEST_HZ, ("temp",)),
        "RESP": _Channel("resp", "%", CHEST_HZ, ("resp",)),
    },
    "wrist": {
        "ACC": _Channel("acc", "g", 32.0, _XYZ, e4.ACC_COUNTS_PER_G),
        "BVP": _Channel("bvp", "a.u.", 64.0, ("bvp",)),
        "EDA": _Channel("eda", "uS", 4.0, ("eda",)),
        "TEMP": _Channel("temp", "degC", 4.0, ("temp",)),
    },
}
"""Device and name in capitals (the chest's are written ``Temp`` and ``Resp``) -> channel."""


def read(path: Path, subject: str) -> tuple[dict[str, Signal], tuple[Annotation, ...], tuple[str, ...]]:
    """Signals, labelled stretches in order, notes. Raises DataError naming the key."""
    content = _mapping(path, "top", unpickle.load(path))
    if content.get("subject", subject) != subject:
        raise DataError(
            str(path), "'subject'", f"is {content['subject']!r}, not {subject!r}", "put back the right file"
        )
    label = _label(path, content.get("label"))
    devices = _mapping(path, "'signal'", content.get("signal"))
    if unknown := sorted(devices.keys() - CHANNELS.keys()) or (not devices and ["nothing"]):
        raise DataError(str(path), "'signal'", f"holds {', '.join(unknown)}; known are chest and wrist", REMEDY)
    signals: dict[str, Signal] = {}
    for device in (name for name in CHANNELS if name in devices):
        signals |= _device(path, device, devices[device], len(label) / CHEST_HZ)
    _same_length(path, signals, label)
    notes = tuple(f"no {device} sensor in the file" for device in CHANNELS if device not in devices)
    return signals, _stretches(label), notes


def _mapping(path: Path, place: str, value: object) -> Mapping[str, object]:
    """The value as a dictionary with names as keys, or DataError."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DataError(str(path), place, f"is no dictionary of names but {type(value).__name__}", REMEDY)
    return value


def _device(path: Path, device: str, value: object, duration: float) -> dict[str, Signal]:
    """Every channel of ``chest`` or ``wrist``."""
    known, place = CHANNELS[device], f"'signal', '{device}'"
    arrays = {name.upper(): array for name, array in _mapping(path, place, value).items()}
    unknown, missing = sorted(arrays.keys() - known.keys()), sorted(known.keys() - arrays.keys())
    if unknown or missing:
        told = [f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("has", unknown)) if names]
        raise DataError(str(path), place, f"{' and '.join(told)}; known are {', '.join(known)}", REMEDY)
    return {
        channel.modality: _signal(path, f"{place}, '{name}'", arrays[name], channel, duration)
        for name, channel in known.items()
    }


def _signal(path: Path, place: str, value: object, channel: _Channel, duration: float) -> Signal:
    """One array, checked for shape and rate."""
    data, n_chans = _array(path, place, value), len(channel.ch_names)
    if data.ndim == n_chans == 1:
        data = data[:, None]
    if data.shape[1:] != (n_chans,):
        raise DataError(str(path), place, f"has shape {data.shape} where it has (n_times, {n_chans})", REMEDY)
    if abs(len(data) / channel.sfreq - duration) > MAX_LENGTH_OFF_S:
        want = f"at {channel.sfreq:g} Hz there would be {channel.sfreq * duration:.0f}"
        raise DataError(str(path), place, f"{len(data)} samples in {duration:.1f} s of labels: {want}", REMEDY)
    samples = data.astype(np.float64, copy=False)
    samples = samples if channel.divisor == 1.0 else samples / channel.divisor
    return Signal(samples, channel.sfreq, channel.units, channel.ch_names)


def _array(path: Path, place: str, value: object) -> npt.NDArray[np.generic]:
    """The value as a plain array of numbers, or DataError."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
        what = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(str(path), place, f"is no array of numbers but {what}", REMEDY)
    return np.asarray(value)


def _label(path: Path, value: object) -> npt.NDArray[np.int64]:
    """(n_times,) labels 0 to 7."""
    label = _array(path, "'label'", value)
    if label.ndim != 1 or not len(label):
        raise DataError(str(path), "'label'", f"has shape {label.shape} where it has (n_times,)", REMEDY)
    bad = np.flatnonzero(~np.isin(label, range(MAX_LABEL + 1)))
    if len(bad):
        raise DataError(str(path), f"'label', sample {bad[0]}", f"{label[bad[0]]:g} is not 0 to {MAX_LABEL}", REMEDY)
    return label.astype(int)


def _same_length(path: Path, signals: Mapping[str, Signal], label: npt.NDArray[np.int64]) -> None:
    """DataError where the chest does not have a sample for each label."""
    for name, signal in signals.items():
        if signal.sfreq == CHEST_HZ and len(signal.data) != len(label):
            reason = f"{len(label)} labels for {len(signal.data)} samples of {name}: labels outside the recording"
            raise DataError(str(path), "'label'", reason, REMEDY)


def _stretches(label: npt.NDArray[np.int64]) -> tuple[Annotation, ...]:
    """Runs of the four conditions."""
    edges = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    return tuple(
        Annotation(start / CHEST_HZ, (stop - start) / CHEST_HZ, LABELS[label[start]])
        for start, stop in pairwise(edges)
        if label[start] in LABELS
    )
