"""Recordings to windows, by the device's own Pipeline fed as the device feeds it; cached on disk by content.

Knows no filter and no window loop of its own: whatever shapes the signal lies in device.pipeline. Knows no labels:
the recording's annotations come along, and a task reads them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from device.pipeline.errors import PipelineError
from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Chunk, Clock, Window
from train.data import datasets
from train.data.errors import BeatsError
from train.data.surrogate import with_surrogate_ecg
from train.data.templates import default_templates
from train.data.types import Annotation, Recording, Signal
from train.errors import DataError, PrepareError, one_line

SLICE_S = 1.0
"""Signals enter the pipeline interleaved in slices this long, as notifications would."""
KEEP_EVERY = 3
"""Of the device's windows (one every 5 s) one in three is kept: neighbours overlap by 75 %."""
MAX_BRIDGED = 0.75
"""A window's surrogate ECG counts as absent where more of its beats than this were bridged: its heart rate is then the
neighbours', not its own. A free choice; at 0.5 Stress-Predict loses half of its ECG, at 0.75 a third."""
OVER_TIME = ("arousal", "valence")
"""Signals that are ratings."""
SURROGATE_SEED = 0
"""Of the surrogate ECG's shapes, gains and noise."""
NOT_SHAPING = ("check.py", "command.py", "datasets.py", "errors.py", "picture.py")
"""Files of train.data that no window depends on."""
MEMORY_BYTES = 1 << 30
"""Subjects are prepared side by side only while their files fit in this, twice over (bytes read and arrays made)."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Windows of one session of one person in physical units."""

    subject: str
    session: str
    surrogate: bool
    """Whether the ECG was rebuilt from the pulse."""
    ecg: npt.NDArray[np.float32]
    """(n, n_times, 2) ecg mV, hr 1/min; zeros where absent."""
    eda: npt.NDArray[np.float32]
    """(n, n_times, 2) tonic, phasic uS, the context before the window included; zeros where absent."""
    covered: npt.NDArray[np.bool_]
    """(n, 2) whether ecg, eda cover the window with quality of at least the spec's sqi_min."""
    bridged: npt.NDArray[np.float64]
    """(n,) share of the window whose surrogate beats were bridged rather than measured; 0 for real ECG."""
    start: npt.NDArray[np.float64]
    """(n,) s from the recording's start."""
    spans: npt.NDArray[np.float64]
    """(n_annotations, 2) start and stop of every annotation, s from the recording's start."""
    descriptions: npt.NDArray[np.str_]
    """(n_annotations,)."""
    rated: npt.NDArray[np.str_]
    """(n_ratings,) names of what was rated, e.g. ``arousal``."""
    ratings: npt.NDArray[np.float64]
    """(n, n_ratings) of each window, on the data set's own scale; NaN where there is none for all of it."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(n, 2) whether ecg, eda may be used: covered, and not mostly bridged."""
        return self.covered & np.stack([self.bridged <= MAX_BRIDGED, np.ones(len(self), bool)], axis=1)

    def annotations(self) -> list[Annotation]:
        """The recording's annotations."""
        rows = zip(self.spans.tolist(), self.descriptions.tolist(), strict=True)
        return [Annotation(start, stop - start, text) for (start, stop), text in rows]


@dataclass(frozen=True)
class Skipped:
    """A subject that could not be prepared."""

    subject: str
    reason: str


def windows_of(recording: Recording, spec: SignalSpec) -> Iterator[Window]:
    """Every window of a recording with ECG in mV and EDA in uS, through the device's pipeline."""
    signals = {m: _begun(recording.signals[m]) for m in MODALITIES if m in recording.signals}
    if not signals:
        raise PrepareError(recording.subject, f"has none of {MODALITIES}", "check the data set's folder")
    pipeline = Pipeline(spec, {m: s.sfreq for m, s in signals.items()})
    for chunk in _interleaved(signals):
        yield from pipeline.push(chunk)
    yield from pipeline.flush()


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
            low, high = (_index(signal, begin + (second + k) * SLICE_S) for k in (0, 1))
            yield from _chunks(modality, signal, low, high)


def _index(signal: Signal, time: float) -> int:
    """First sample at or after a time."""
    return int(np.clip(np.ceil((time - signal.start) * signal.sfreq), 0, len(signal.data)))


def _chunks(modality: str, signal: Signal, low: int, high: int) -> Iterator[Chunk]:
    """Samples low..high of the first channel; one chunk, or several around samples that are not there (NaN)."""
    data = signal.data[low:high, :1]
    known = np.concatenate([[0], np.isfinite(data[:, 0]), [0]]).astype(np.int8)
    clock = Clock(0, signal.start, 1.0 / signal.sfreq)
    edges = np.flatnonzero(np.diff(known))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield Chunk(modality, low + start, data[start:stop], np.ones(stop - start, dtype=bool), clock)


def prepare(recording: Recording, spec: SignalSpec) -> Prepared:
    """Every third window of one recording that any sensor covers; raises PrepareError where there is none."""
    kept: list[Window] = []
    arrays: dict[str, list[npt.NDArray[np.float32]]] = {m: [] for m in MODALITIES}
    for window in windows_of(recording, spec):
        if window.data and window.index % KEEP_EVERY == 0:
            for m in MODALITIES:
                arrays[m].append(_array(window, m, spec))
            kept.append(Window(window.index, window.start, {}, window.quality))
    if not kept:
        raise PrepareError(recording.subject, f"no window of {spec.window_s:g} s is covered", "look at it: data check")
    start = np.array([w.start for w in kept])
    ecg = recording.signals.get("ecg")
    return Prepared(
        recording.subject,
        recording.session,
        bool(ecg is not None and ecg.surrogate),
        np.stack(arrays["ecg"]),
        np.stack(arrays["eda"]),
        np.array([[m in w.quality and w.quality[m].sqi >= spec.sqi_min for m in MODALITIES] for w in kept]),
        bridged_share(start, start + spec.window_s, recording.annotations),
        start,
        np.array([(a.onset, a.stop) for a in recording.annotations]).reshape(-1, 2),
        np.array([a.description for a in recording.annotations], dtype=np.str_),
        *ratings_of(start, start + spec.window_s, recording),
    )


def ratings_of(
    start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], recording: Recording
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.float64]]:
    """(n_ratings,) names and (n, n_ratings) ratings of the windows start..stop s.

    A rating of a stretch is that of every window within it; a rating over time is the mean over raters and window, and
    there is none where less than half of the window was rated.
    """
    over_time = {m: recording.signals[m] for m in OVER_TIME if m in recording.signals}
    names = sorted({name for a in recording.annotations for name in a.ratings} | set(over_time))
    out = np.full((len(start), len(names)), np.nan)
    for a in recording.annotations:
        within = (start >= a.onset) & (stop <= a.stop)
        for name, value in a.ratings.items():
            out[within, names.index(name)] = value
    for name, signal in over_time.items():
        known = np.isfinite(signal.data).any(axis=1)
        mean = np.nanmean(np.where(known[:, None], signal.data, 0.0), axis=1)
        times = signal.times()
        for i in range(len(start)):
            inside = known & (times >= start[i]) & (times < stop[i])
            if inside.sum() >= signal.sfreq * (stop[i] - start[i]) / 2:
                out[i, names.index(name)] = mean[inside].mean()
    return np.array(names, dtype=np.str_), out


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


@dataclass(frozen=True)
class _Job:
    """One subject to prepare, in another process."""

    dataset: str
    root: Path
    subject: str
    spec: bytes
    path: Path


def prepare_dataset(
    root: Path,
    spec: SignalSpec,
    cache: Path,
    *,
    dataset: str | None = None,
    workers: int = 2,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[list[Prepared], list[Skipped]]:
    """Every subject of a data set, with surrogate ECG where none was measured, and those that had to be left out.

    From the cache where code, spec and data are the same. Interrupt it at will: finished subjects stay. Raises
    DataError where ``root`` is no known data set, PrepareError where no subject is left.
    """
    entry = datasets.find(root, dataset)
    everyone = entry.subjects(root)
    cache.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.encode(spec)
    jobs = [
        _Job(entry.name, root, s, encoded, cache / f"{_file_name(entry.name, s)}-{_key(root, s, everyone, spec)}.npz")
        for s in everyone
    ]
    todo = [job for job in jobs if not job.path.exists()]
    skipped = _prepare_all(todo, _side_by_side(root, todo, everyone, workers), say) if todo else {}
    people = [person for job in jobs if job.subject not in skipped for person in load_prepared(job.path)]
    if not people:
        raise PrepareError("of everyone", f"nothing could be prepared: {next(iter(skipped.values()), '')}")
    return people, [Skipped(subject, reason) for subject, reason in skipped.items()]


def _side_by_side(root: Path, todo: Sequence[_Job], everyone: Sequence[str], workers: int) -> int:
    """Processes that memory allows: a subject's files are in memory twice at most, as read and as arrays."""
    largest = max(sum(f.stat().st_size for f in files_of(root, job.subject, everyone)) for job in todo)
    return max(1, min(workers, len(todo), int(MEMORY_BYTES / (2 * max(largest, 1)))))


def _prepare_all(todo: Sequence[_Job], workers: int, say: Callable[[str], None]) -> dict[str, str]:
    """Run the jobs; subject -> reason of those that failed."""
    skipped = {}
    with ProcessPoolExecutor(workers) as pool:
        for done, (job, reason) in enumerate(zip(todo, pool.map(_prepare_one, todo), strict=True), 1):
            if job.path.exists():
                say(f"prepared {job.subject} ({done} of {len(todo)})" + (f", not {reason}" if reason else ""))
            else:
                say(f"left out {job.subject}: {reason}")
                skipped[job.subject] = reason
    return skipped


def _prepare_one(job: _Job) -> str:
    """Prepare one subject into its file, if any session gives windows; the reason where it or a session does not."""
    sessions, reasons = [], []
    try:
        spec = msgspec.json.decode(job.spec, type=SignalSpec)
        for recording in datasets.get(job.dataset).load(job.root, job.subject):
            try:
                sessions.append(prepare(_with_ecg(recording), spec))
            except (BeatsError, PrepareError) as error:  # too short, or hardly any pulse: others may be better
                reasons.append(f"session {recording.session}: {error}")
    except (DataError, PipelineError) as error:
        return one_line(error)
    if sessions:
        save_prepared(job.path, sessions)
    return " ".join("; ".join(reasons).split())


def _with_ecg(recording: Recording) -> Recording:
    if datasets.needs_surrogate_ecg(recording):
        return with_surrogate_ecg(recording, default_templates(), SURROGATE_SEED)
    return recording


def save_prepared(path: Path, sessions: Sequence[Prepared]) -> None:
    """Write the sessions of one person to an .npz file that is there whole or not at all."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez(file, **{f"{i}.{k}": np.asarray(v) for i, p in enumerate(sessions) for k, v in vars(p).items()})
    partial.replace(path)


def load_prepared(path: Path) -> list[Prepared]:
    """The sessions of one person as ``save_prepared`` wrote them; runs no code from the file."""
    plain = {"subject": str, "session": str, "surrogate": bool}
    with np.load(path, allow_pickle=False) as file:
        n = len({key.partition(".")[0] for key in file.files})
        names = [f.name for f in fields(Prepared)]
        return [Prepared(*(plain.get(k, lambda x: x)(file[f"{i}.{k}"]) for k in names)) for i in range(n)]


def _file_name(dataset: str, subject: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{dataset}-{subject}")


def files_of(root: Path, subject: str, everyone: Sequence[str]) -> list[Path]:
    """Files that a subject's recordings may depend on: all of the data set's but those that only name others."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith("."))
    named = ((path, _names_in(path.relative_to(root)) & set(everyone)) for path in found)
    return [path for path, names in named if subject in names or not names]


def _names_in(path: Path) -> set[str]:
    """Every name that a path may carry: its parts, their stems and the words between underscores."""
    whole = path.with_suffix("")
    return {
        str(whole),
        str(path),
        *path.parts,
        whole.name,
        *(w for part in path.parts for w in re.split(r"[_.]", part)),
    }


def data_hash(root: Path, subject: str, everyone: Sequence[str]) -> str:
    """sha256 over names and bytes of a subject's files."""
    digest = hashlib.sha256()
    for path in files_of(root, subject, everyone):
        digest.update(str(path.relative_to(root)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _key(root: Path, subject: str, everyone: Sequence[str], spec: SignalSpec) -> str:
    """Hash of everything the windows depend on: code, spec, and the subject's files."""
    return hashlib.sha256((code_hash(spec) + data_hash(root, subject, everyone)).encode()).hexdigest()[:16]


def code_hash(spec: SignalSpec) -> str:
    """Hash of the code that makes windows and of what of the spec shapes them.

    How channels are scaled and clipped comes after the windows, so that both modes share them.
    """
    parts = msgspec.to_builtins(spec)
    shaping = {k: v for k, v in parts.items() if k not in ("clip", *MODALITIES)}
    shaping |= {m: {k: v for k, v in parts[m].items() if k != "channels"} for m in MODALITIES}
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode())
    code = Path(inspect.getfile(Pipeline)).parent, Path(inspect.getfile(datasets)).parent
    for source in sorted(p for folder in code for p in (*folder.glob("*.py"), *folder.glob("*.npz"))):
        if source.name not in NOT_SHAPING:
            digest.update(source.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]
