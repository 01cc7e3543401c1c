"""Recordings to labelled windows, by the device's own Pipeline fed as the device feeds it; cached on disk by content.

Knows no filter and no window loop of its own: whatever shapes the signal lies in device.pipeline.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from device.pipeline.model_input import Baseline, baseline_from, model_input
from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Chunk, Clock, Window
from train.data import stress_predict
from train.data.surrogate import with_surrogate_ecg
from train.data.templates import default_templates
from train.data.types import Annotation, Recording, Signal
from train.errors import PrepareError

LABELS = ("rest", "task")
UNLABELLED = -1
SLICE_S = 1.0
"""Signals enter the pipeline interleaved in slices this long, as notifications would."""
KEEP_EVERY = 3
"""Of the device's windows (one every 5 s) one in three is kept: neighbours overlap by 75 %."""
BASELINE_S = 180.0
"""Length of the resting baseline of calibrated mode, within the 2-5 min of the evaluation law."""
MAX_BRIDGED = 0.5
"""A window's surrogate ECG counts as absent where more of its beats than this were bridged: bridged beats are smooth,
and movement makes them more frequent in tasks, so that a network could read the label from their smoothness."""
SURROGATE_SEED = 0
"""Of the surrogate ECG's shapes, gains and noise."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Windows of one person in physical units."""

    subject: str
    ecg: npt.NDArray[np.float32]
    """(n, n_times, 2) ecg mV, hr 1/min; zeros where absent."""
    eda: npt.NDArray[np.float32]
    """(n, n_times, 2) tonic, phasic uS; zeros where absent."""
    present: npt.NDArray[np.bool_]
    """(n, 2) whether ecg, eda cover the window with quality of at least the spec's sqi_min."""
    start: npt.NDArray[np.float64]
    """(n,) s from the recording's start."""
    label: npt.NDArray[np.int64]
    """(n,) index into LABELS, UNLABELLED where the window lies in no single stretch."""
    is_baseline: npt.NDArray[np.bool_]
    """(n,) inside the resting baseline."""
    is_scored: npt.NDArray[np.bool_]
    """(n,) labelled and clear of the baseline: what calibrated mode may score."""

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of many people as the network's input."""

    ecg: npt.NDArray[np.float32]
    """(n, 2, n_times), scaled and clipped."""
    eda: npt.NDArray[np.float32]
    """(n, 2, n_times), scaled and clipped."""
    present: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int64]
    subject: npt.NDArray[np.str_]
    start: npt.NDArray[np.float64]
    is_scored: npt.NDArray[np.bool_]
    """(n,) may be scored in this mode."""

    def __len__(self) -> int:
        return len(self.label)


def windows_of(recording: Recording, spec: SignalSpec) -> list[Window]:
    """Every window of a recording with ECG in mV and EDA in uS, through the device's pipeline."""
    signals = {m: _begun(recording.signals[m]) for m in MODALITIES if m in recording.signals}
    if not signals:
        raise PrepareError(recording.subject, f"has none of {MODALITIES}", "check the data set's folder")
    pipeline = Pipeline(spec, {m: s.sfreq for m, s in signals.items()})
    windows = [w for chunk in _interleaved(signals) for w in pipeline.push(chunk)]
    return windows + pipeline.flush()


def _begun(signal: Signal) -> Signal:
    """Without the zeros some bands send before their first measurement (an E4's first EDA sample is 0)."""
    first = int(np.argmax(signal.data[:, 0] != 0.0))
    start = signal.start + first / signal.sfreq
    return Signal(signal.data[first:], signal.sfreq, signal.units, signal.ch_names, start, signal.surrogate)


def _interleaved(signals: dict[str, Signal]) -> Iterator[Chunk]:
    begin = min(s.start for s in signals.values())
    end = max(s.stop for s in signals.values())
    for second in range(int(np.ceil((end - begin) / SLICE_S))):
        for modality, signal in signals.items():
            low, high = (
                int(
                    np.clip(
                        np.ceil((begin + (second + k) * SLICE_S - signal.start) * signal.sfreq), 0, len(signal.data)
                    )
                )
                for k in (0, 1)
            )
            if high > low:
                clock = Clock(0, signal.start, 1.0 / signal.sfreq)
                yield Chunk(modality, low, signal.data[low:high, :1], np.ones(high - low, dtype=bool), clock)


def label_of(start: float, stop: float, stretches: Sequence[tuple[float, float, int]]) -> int:
    """The label of the one stretch that holds all of start..stop, else UNLABELLED."""
    return next((label for a, b, label in stretches if a <= start and stop <= b), UNLABELLED)


def stretches_of(annotations: Sequence[Annotation]) -> list[tuple[float, float, int]]:
    """Labelled stretches (start, stop, label) with neighbours of one label joined."""
    out: list[tuple[float, float, int]] = []
    for a in sorted(annotations, key=lambda a: a.onset):
        label = stress_predict.LABELS.get(a.description)
        if label is None:
            continue
        if out and out[-1][2] == label and a.onset - out[-1][1] < 1.0:
            out[-1] = (out[-1][0], max(out[-1][1], a.stop), label)
        else:
            out.append((a.onset, a.stop, label))
    return out


def prepare(recording: Recording, spec: SignalSpec) -> Prepared:
    """Label the windows of one recording; raises PrepareError where no resting baseline begins it."""
    stretches = stretches_of(recording.annotations)
    kept = [w for w in windows_of(recording, spec) if w.data and w.index % KEEP_EVERY == 0]
    start = np.array([w.start for w in kept])
    stop = start + spec.window_s
    label = np.array([label_of(a, b, stretches) for a, b in zip(start, stop, strict=True)], dtype=np.int64)
    present = np.array([[m in w.data and w.quality[m].sqi >= spec.sqi_min for m in MODALITIES] for w in kept])
    rest = np.flatnonzero((label == 0) & present.all(axis=1))
    if not len(rest):
        raise PrepareError(recording.subject, "no usable window at rest", "leave the subject out")
    end = start[rest[0]] + BASELINE_S
    arrays = {m: np.stack([_array(w, m, spec) for w in kept]) for m in MODALITIES}
    is_baseline = (label == 0) & (stop <= end)
    is_scored = (label != UNLABELLED) & (start >= end)
    present[:, 0] &= bridged_share(start, stop, recording.annotations) <= MAX_BRIDGED
    return Prepared(recording.subject, arrays["ecg"], arrays["eda"], present, start, label, is_baseline, is_scored)


def bridged_share(
    start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], annotations: Sequence[Annotation]
) -> npt.NDArray[np.float64]:
    """(n,) share of each window whose beats were bridged rather than measured; windows lie at start..stop s."""
    bridged = [a for a in annotations if a.description == "bridged"]
    overlaps = [np.clip(np.minimum(stop, a.stop) - np.maximum(start, a.onset), 0.0, None) for a in bridged]
    return np.asarray(sum(overlaps, np.zeros(len(start))) / (stop - start))


def _array(window: Window, modality: str, spec: SignalSpec) -> npt.NDArray[np.float32]:
    if modality in window.data:
        return window.data[modality].astype(np.float32)
    return np.zeros((spec.n_times(modality), len(spec.ch_names(modality))), dtype=np.float32)


def prepare_stress_predict(
    root: Path, spec: SignalSpec, cache: Path, *, workers: int = 2, say: Callable[[str], None] = lambda _: None
) -> list[Prepared]:
    """All 34 labelled subjects with surrogate ECG; from the cache where code, spec and data are the same.

    ``root`` is the data set's top folder. Interrupt it at will: finished subjects stay.
    """
    names = stress_predict.subjects(root)
    cache.mkdir(parents=True, exist_ok=True)
    jobs = [(root, name, msgspec.json.encode(spec), cache / f"{name}-{_key(root, name, spec)}.npz") for name in names]
    todo = [job for job in jobs if not job[3].exists()]
    if todo:
        with ProcessPoolExecutor(workers) as pool:
            for done, name in enumerate(pool.map(_prepare_one, todo), 1):
                say(f"prepared {name} ({done} of {len(todo)})")
    return [_load(job[3]) for job in jobs]


def _prepare_one(job: tuple[Path, str, bytes, Path]) -> str:
    root, name, spec_json, path = job
    spec = msgspec.json.decode(spec_json, type=SignalSpec)
    recording = with_surrogate_ecg(stress_predict.load(root, name), default_templates(), SURROGATE_SEED)
    prepared = prepare(recording, spec)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(file, **{k: np.asarray(v) for k, v in vars(prepared).items()})
    partial.replace(path)
    return name


def _load(path: Path) -> Prepared:
    with np.load(path, allow_pickle=False) as file:
        return Prepared(**{k: str(file[k]) if k == "subject" else file[k] for k in file.files})


def _key(root: Path, name: str, spec: SignalSpec) -> str:
    """Hash of everything the windows depend on: code, spec, and the subject's files.

    How channels are scaled and clipped comes after the windows, so that both modes share them.
    """
    parts = msgspec.to_builtins(spec)
    shaping = {k: v for k, v in parts.items() if k not in ("clip", *MODALITIES)}
    shaping |= {m: {k: v for k, v in parts[m].items() if k != "channels"} for m in MODALITIES}
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode())
    code = Path(inspect.getfile(Pipeline)).parent, Path(inspect.getfile(stress_predict)).parent
    for source in sorted(p for folder in code for p in (*folder.glob("*.py"), *folder.glob("*.npz"))):
        digest.update(source.read_bytes())
    digest.update(Path(__file__).read_bytes())
    for file in sorted((root / "Raw_data" / name).iterdir()):
        digest.update(file.name.encode() + str(file.stat().st_size).encode())
    return digest.hexdigest()[:16]


def baseline_of(prepared: Prepared, spec: SignalSpec) -> Baseline:
    """The person's resting medians, from baseline windows only."""
    samples = {}
    for index, modality in enumerate(MODALITIES):
        used = prepared.is_baseline & prepared.present[:, index]
        if not used.any():
            used = prepared.is_baseline
        samples[modality] = getattr(prepared, modality)[used].reshape(-1, 2)
    return baseline_from(samples, spec, int(prepared.is_baseline.sum()))


def network_windows(people: Sequence[Prepared], spec: SignalSpec) -> Windows:
    """Scale and clip as the device does; with each person's own baseline where the spec asks for one."""
    parts = [_network_windows(person, spec) for person in people]
    return Windows(*(np.concatenate([part[i] for part in parts]) for i in range(7)))


def _network_windows(person: Prepared, spec: SignalSpec) -> tuple[npt.NDArray[np.generic], ...]:
    baseline = baseline_of(person, spec) if spec.needs_baseline else None
    scored = person.is_scored if spec.needs_baseline else person.label != UNLABELLED
    arrays = [
        model_input({"ecg": person.ecg[i].astype(float), "eda": person.eda[i].astype(float)}, spec, baseline).arrays
        for i in range(len(person))
    ]
    ecg, eda = (np.stack([a[m] for a in arrays]) for m in MODALITIES)
    subject = np.full(len(person), person.subject)
    return ecg, eda, person.present, person.label, subject, person.start, scored
