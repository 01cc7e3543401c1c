"""The unlabelled ECG that a network is pre-trained on: every lead's windows from the device's own pipeline, on disk.

Knows no filter and no window loop (train.prepare has them), no labels and no network.

A corpus is a folder. ``shard-00000.f16``, ``shard-00001.f16``, ... hold windows one after the other, each (2, n_times)
little-endian float16: ecg in mV, heart rate in 1/min. ``corpus.json`` (Index) says whose they are, where they come from
and what was left out, and why. While it is being built ``corpus.partial`` stands in its place: a line with the Plan,
then a line for each record, written after its windows are on disk. An interrupted build goes on behind the last whole
line, and ends with the same bytes as one that was not interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, zip_longest
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from device.pipeline.errors import PipelineError
from device.pipeline.spec import CHANNELS, SignalSpec, default_spec
from device.pipeline.types import Window
from device.pipeline.window import SETTLE_S
from train.data import datasets
from train.data.check import ECG_SWING_MV, PIECE_S, defect, typical_swing
from train.data.types import Recording, Signal
from train.errors import DataError, TrainError
from train.prepare import code_hash, data_hash, windows_of

Halves = npt.NDArray[np.float16]
Indices = npt.NDArray[np.int64]
In = TypeVar("In")
Out = TypeVar("Out")

FORMAT = 1
"""Of the folder; raised whenever an older program would misread it."""
INDEX, PARTIAL = "corpus.json", "corpus.partial"
SHARD_WINDOWS = 1024
"""Windows in every shard but the last: 31 MB at 60 s, large enough to be few and small enough to copy."""
STORED = np.dtype("<f2")
"""float16 is off by at most 2^-11 of a value: 0.5 uV at 1 mV, where electrodes alone make 10 uV, and 0.06/min below
256/min."""
LARGEST_MV = 32.0
"""No heart is near it after the band-pass; below it float16 is off by 8 uV at most."""
V_MV = ECG_SWING_MV[1] / 1000
"""A lead in V that is believed to be in mV swings by no more than this."""
REMEDY = "build it anew: affectd-train corpus"
SAME_PERSON = {"202": "201"}
"""Records of the MIT-BIH Arrhythmia Database that are of one person (its directory)."""

_ORIGINAL = re.compile(r"(?:sel)?(e?\d+)")
"""QTDB's selNNN is a stretch of record NNN of another database; ``e`` begins those of the European ST-T Database."""
_PATIENT = re.compile(r"(?:p|patient|person|subject|sub)[-_]?\d+", re.IGNORECASE)
"""A folder with all records of one person, as in the PTB, ECG-ID and MIMIC databases."""


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is written as JSON."""


class Source(_Struct, frozen=True):
    """One folder that records came from."""

    name: str
    """The folder's own, numbered where two are called the same."""
    dataset: str
    """Of train.data.datasets."""
    title: str
    licence: str
    url: str


class Plan(_Struct, frozen=True):
    """What a build starts from."""

    format: int
    spec: SignalSpec
    code: str
    """Hash of the code that makes windows, and of what of the spec shapes them."""
    shard_windows: int
    sources: tuple[Source, ...]


class Lead(_Struct, frozen=True):
    """One channel of one session."""

    session: str
    lead: str
    sfreq: float
    """Hz, before resampling."""
    starts: tuple[float, ...]
    """Of each window that was kept, s from the recording's start."""
    skipped: dict[str, int]
    """Why windows were left out -> how many."""
    problem: str
    """Why all of the lead was left out; empty where it was not."""


class Record(_Struct, frozen=True):
    """What one subject of a source gave; in WFDB and EDF folders that is one record."""

    source: str
    subject: str
    person: str
    """Records of one person must not be on both sides of a split."""
    sha256: str
    """Over names and bytes of its files."""
    leads: tuple[Lead, ...]
    notes: tuple[str, ...]
    """The reader's."""
    problem: str
    """Why it could not be read; empty where it could."""

    @property
    def windows(self) -> int:
        """How many were kept, of all leads."""
        return sum(len(lead.starts) for lead in self.leads)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Where and why all of something was left out."""
        yield from [("record", self.problem)] if self.problem else []
        yield from ((f"lead {lead.lead}", lead.problem) for lead in self.leads if lead.problem)

    def skipped(self) -> Counter[str]:
        """Why windows were left out -> how many, over all leads."""
        return sum((Counter(lead.skipped) for lead in self.leads), Counter[str]())


class Shard(_Struct, frozen=True):
    """One file of windows."""

    name: str
    windows: int
    sha256: str


class Index(_Struct, frozen=True):
    """All that ``corpus.json`` holds. Windows lie in the order of records, their leads, and time."""

    plan: Plan
    records: tuple[Record, ...]
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Job:
    """One record to be made, in this process or another."""

    source: Source
    root: Path
    subject: str
    everyone: tuple[str, ...]
    spec: SignalSpec


# One record: files in, windows out.


def corpus_spec() -> SignalSpec:
    """The shipped networks' spec, with windows that do not overlap."""
    spec = default_spec()
    return msgspec.structs.replace(spec, stride_s=spec.window_s)


def person_of(dataset: str, source: str, subject: str) -> str:
    """Whom a subject of a source is; for a record of QTDB the same as for that which it was cut from."""
    if dataset == "wfdb":
        *folders, name = subject.split("/")
        patient = next((folder for folder in reversed(folders) if _PATIENT.fullmatch(folder)), None)
        original = _ORIGINAL.fullmatch(name)
        if patient is None and original:
            return SAME_PERSON.get(original[1], original[1])
        subject = patient or subject
    return f"{source}/{subject}"


def make(job: Job) -> tuple[Record, Halves]:
    """One record and its windows, (n, 2, n_times); a record that cannot be read says so and has none."""
    recordings, problem = _loaded(job)
    made = [lead_of(recording, lead, job.spec) for recording in recordings for lead in _leads(recording)]
    record = Record(
        job.source.name,
        job.subject,
        person_of(job.source.dataset, job.source.name, job.subject),
        digest(job),
        tuple(lead for lead, _ in made),
        tuple(note for recording in recordings for note in recording.notes),
        problem or ("" if made else "has no ECG"),
    )
    kept = [windows for _, windows in made if len(windows)]
    return record, np.concatenate(kept) if kept else np.empty((0, *shape_of(job.spec)), STORED)


def _loaded(job: Job) -> tuple[list[Recording], str]:
    """The record as its reader gives it, or why it does not: one that fails stops no other."""
    try:
        return datasets.get(job.source.dataset).load(job.root, job.subject), ""
    except (TrainError, OSError) as error:
        return [], _line(error)
    except Exception as error:
        return [], defect(error)


def _leads(recording: Recording) -> list[Signal]:
    """Each channel of a recording's ECG on its own."""
    if "ecg" not in recording.signals:
        return []
    ecg = recording.signals["ecg"]
    return [replace(ecg, data=ecg.data[:, k : k + 1], ch_names=(name,)) for k, name in enumerate(ecg.ch_names)]


def digest(job: Job) -> str:
    """sha256 over names and bytes of the record's files."""
    return data_hash(job.root, job.subject, job.everyone)


def shape_of(spec: SignalSpec) -> tuple[int, int]:
    """(n_chans, n_times) of one window."""
    return len(CHANNELS["ecg"]), spec.n_times("ecg")


def lead_of(recording: Recording, ecg: Signal, spec: SignalSpec) -> tuple[Lead, Halves]:
    """One lead, (n_times, 1) in mV, and its windows, (n, 2, n_times): ecg mV, heart rate 1/min.

    The recording is dated so that window 0 begins as soon as the pipeline has surely settled, and no part of a window's
    length later.
    """
    settle_s = spec.ecg.warmup_s + SETTLE_S
    dated = replace(recording, signals={"ecg": replace(ecg, start=-settle_s)})
    starts, skipped, windows = [], Counter[str](), []
    problem = unusable(ecg)
    try:
        for window in () if problem else windows_of(dated, spec):
            if window.start < 0:  # all that the settling left of the one before
                continue
            if reason := fault(window, spec):
                skipped[reason] += 1
            else:
                starts.append(window.start + settle_s + ecg.start)
                windows.append(window.data["ecg"].T.astype(STORED))
    except PipelineError as error:  # a rate that cannot carry the spec's band
        problem = _line(error)
    if not (problem or starts or skipped):
        first_s = settle_s + spec.window_s
        problem = f"is too short: {ecg.duration:.3g} s, where the first window ends after {first_s:g} s"
    told = Lead(recording.session, ecg.ch_names[0], ecg.sfreq, tuple(starts), dict(sorted(skipped.items())), problem)
    return told, np.stack(windows) if windows else np.empty((0, *shape_of(spec)), STORED)


def unusable(signal: Signal) -> str:
    """Why no window of a lead, (n_times, 1), can be right; empty where there is no reason."""
    values = signal.data[:, 0]
    if signal.surrogate:
        return "is rebuilt from other data, not measured"
    if signal.units != "mV":
        return f"is in {signal.units}, not mV"
    if not np.isfinite(values).any():
        return "has no samples"
    swing = typical_swing(values, max(2, round(PIECE_S * signal.sfreq)))
    if swing <= ECG_SWING_MV[1] and (swing == 0 or swing > V_MV):
        return ""
    guess = "V" if swing <= V_MV else "uV or raw counts"
    usual = "{:g} to {:g} mV are usual".format(*ECG_SWING_MV)
    return f"swings by {swing:.3g} mV in {PIECE_S:g} s, where {usual}: is it in {guess}? write its true unit there"


def fault(window: Window, spec: SignalSpec) -> str:
    """Why the device would not use a window's ECG, or it cannot be stored; empty where neither is so."""
    if "ecg" not in window.data:
        return window.missing["ecg"].replace("_", " ")
    if not window.is_good("ecg", spec.sqi_min):
        return ", ".join(window.quality["ecg"].problems) or "quality"
    return "" if np.abs(window.data["ecg"][:, 0]).max() <= LARGEST_MV else f"beyond {LARGEST_MV:g} mV"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


# The folder, while it is written.


class Writer:
    """Appends records to a folder; begins behind what an interrupted one left there.

    Raises DataError where the folder holds something else, another plan, or less than it says, and where another run
    is writing to it.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / PARTIAL).is_file():
            raise DataError(str(folder), "folder", "holds something that is no unfinished corpus", "name an empty one")
        self._file = (folder / PARTIAL).open("a+b")
        try:
            _lock(self._file, folder)
            self.records = self._resumed()
            self.windows = sum(record.windows for record in self.records)
            self._cut_shards()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, record: Record, windows: Halves) -> None:
        """One record and its windows, (n, 2, n_times); on disk when this returns."""
        if windows.shape != (record.windows, *shape_of(self.plan.spec)):
            raise ValueError(f"windows of shape {windows.shape} for a record with {record.windows}")
        at, size = self.windows, self.plan.shard_windows
        while len(windows):
            room = size - at % size
            with _shard(self.folder, at // size).open("ab") as file:
                _write(file, windows[:room].astype(STORED).tobytes())
            windows, at = windows[room:], at + min(room, len(windows))
        _write(self._file, msgspec.json.encode(record) + b"\n")
        self.records.append(record)
        self.windows = at

    def finish(self) -> Index:
        """Write the index, without which the folder is no corpus. Raises DataError where there is no window."""
        if not self.windows:
            reasons = {reason for record in self.records for _, reason in record.problems()}
            reasons |= {reason for record in self.records for reason in record.skipped()}
            raise DataError(str(self.folder), "corpus", f"no window can be used: {'; '.join(sorted(reasons))}")
        shards = tuple(
            Shard(_shard(self.folder, k).name, n, _sha256(_shard(self.folder, k)))
            for k, n in enumerate(_counts(self.windows, self.plan.shard_windows))
        )
        index = Index(self.plan, tuple(self.records), shards)
        whole = self.folder / f"{INDEX}.part"
        with whole.open("wb") as file:
            _write(file, msgspec.json.encode(index))
        whole.replace(self.folder / INDEX)
        (self.folder / PARTIAL).unlink()
        return index

    def _resumed(self) -> list[Record]:
        """Records of the whole lines; half a line is cut away."""
        self._file.seek(0)
        written = self._file.read()
        self._file.truncate(written.rfind(b"\n") + 1)
        *lines, _ = written.split(b"\n")
        if not lines:
            _write(self._file, msgspec.json.encode(self.plan) + b"\n")
        elif _decoded(lines[0], Plan, self.folder / PARTIAL) != self.plan:
            raise _other_plan(self.folder, _decoded(lines[0], Plan, self.folder / PARTIAL), self.plan)
        return [_decoded(line, Record, self.folder / PARTIAL) for line in lines[1:]]

    def _cut_shards(self) -> None:
        """Take away what belongs to no whole line."""
        counts = _counts(self.windows, self.plan.shard_windows)
        for path in sorted(self.folder.glob("shard-*.f16"))[len(counts) :]:
            path.unlink()
        for k, windows in enumerate(counts):
            _check_size(_shard(self.folder, k), windows, self.plan.spec, more=True)
            os.truncate(_shard(self.folder, k), windows * _window_bytes(self.plan.spec))


def _lock(file: BinaryIO, folder: Path) -> None:
    """Until the file is closed; not inherited by the processes that make windows, which may outlive a killed run."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise DataError(str(folder), PARTIAL, "another run is writing it", "wait for it, or end it") from None


def _write(file: BinaryIO, data: bytes) -> None:
    """To the disk, not only to its cache: a line must never be there without the windows that it tells of."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _shard(folder: Path, k: int) -> Path:
    return folder / f"shard-{k:05d}.f16"


def _counts(windows: int, size: int) -> list[int]:
    """Windows of each shard."""
    return [min(size, windows - first) for first in range(0, windows, size)]


def _window_bytes(spec: SignalSpec) -> int:
    n_chans, n_times = shape_of(spec)
    return n_chans * n_times * STORED.itemsize


def _check_size(path: Path, windows: int, spec: SignalSpec, *, more: bool = False) -> None:
    """DataError where a shard is missing or has not the bytes of its windows; ``more`` may be there on request."""
    expected, found = windows * _window_bytes(spec), path.stat().st_size if path.is_file() else 0
    if found < expected or (found > expected and not more):
        raise DataError(str(path), "file", f"has {found} bytes where {expected} belong", f"delete the folder; {REMEDY}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decoded(data: bytes, kind: type[Out], path: Path) -> Out:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise DataError(str(path), "file", f"is not what a corpus has there ({_line(error)})", REMEDY) from None


def _other_plan(folder: Path, there: Plan, wanted: Plan) -> DataError:
    """What differs between two plans, in the order of what a user would change."""
    said = {
        "sources": "other folders",
        "spec": "another spec",
        "code": "another version of the code that makes windows",
    }
    first = next((name for name in said if getattr(there, name) != getattr(wanted, name)), "plan")
    reason = f"it was begun with {said.get(first, 'another plan')}"
    return DataError(str(folder), first, reason, "build into another folder, or delete this one")


# Building.


def build(
    roots: Sequence[Path],
    out: Path,
    *,
    dataset: str | None = None,
    spec: SignalSpec | None = None,
    strict: bool = False,
    workers: int = 1,
    shard_windows: int = SHARD_WINDOWS,
    say: Callable[[str], None] = lambda _: None,
) -> Corpus:
    """Every ECG lead of every record below the folders, as a corpus in ``out``; goes on where it was interrupted.

    What cannot be used is named in the index and left out. Where ``strict``, a record or lead that gives nothing
    because it cannot be read, is too short or in another unit raises DataError instead. Never in memory: more than one
    record for each of the ``workers`` processes, and those that wait for their turn, as many again. Raises DataError
    where a folder is no known data set, ``out`` is of other folders, files, spec or code, or nothing can be used.
    """
    if any(out.resolve().is_relative_to(root.resolve()) for root in roots):
        raise DataError(str(out), "folder", "lies in a data set, whose records it would change", "name one outside")
    plan, jobs = planned(roots, spec or corpus_spec(), shard_windows, dataset)
    if (out / INDEX).is_file():
        return _finished(out, plan, jobs, strict, workers)
    with Writer(out, plan) as writer:
        _refuse_changed(out, writer.records, jobs, workers)
        done = len(writer.records)
        _refuse_problems(writer.records, jobs, strict)
        for k, (record, windows) in enumerate(_in_order(make, jobs[done:], workers), done):
            _refuse_problems([record], jobs[k:], strict)
            writer.add(record, windows)
            say(f"{told(record)} ({k + 1} of {len(jobs)})")
        writer.finish()
    return Corpus.open(out)


def planned(
    roots: Sequence[Path], spec: SignalSpec, shard_windows: int, dataset: str | None = None
) -> tuple[Plan, list[Job]]:
    """The plan for some folders and the records they hold, in order. Raises DataError as ``datasets.find`` does."""
    sources: list[Source] = []
    jobs: list[Job] = []
    paths = [root.resolve() for root in roots]
    for k, root in enumerate(roots):
        if paths[k] in paths[:k]:
            raise DataError(str(root), "folder", "is given twice", "give each once")
        entry = datasets.find(root, dataset)
        same = [path.name for path in paths[:k]].count(paths[k].name)
        name = paths[k].name + (f"#{same + 1}" if same else "")
        sources.append(Source(name, entry.name, entry.title, entry.licence, entry.url))
        everyone = tuple(entry.subjects(root))
        jobs += [Job(sources[-1], root, subject, everyone, spec) for subject in everyone]
    return Plan(FORMAT, spec, code_hash(spec), shard_windows, tuple(sources)), jobs


def told(record: Record) -> str:
    """A record in one line."""
    skipped = ", ".join(f"{n} {reason}" for reason, n in record.skipped().most_common())
    left_out = "; ".join(f"{place} {reason}" for place, reason in record.problems())
    said = f"{record.source} {record.subject}: {record.windows} windows of {len(record.leads)} leads"
    return said + (f", skipped {skipped}" if skipped else "") + (f"; left out: {left_out}" if left_out else "")


def _in_order(work: Callable[[In], Out], jobs: Iterable[In], workers: int) -> Iterator[Out]:
    """The work of each job, in order; no process is ahead of what was taken by more than ``workers`` jobs."""
    if workers == 1:
        yield from map(work, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: deque[Future[Out]] = deque()
        for job in jobs:
            if len(waiting) > workers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, job))
        while waiting:
            yield waiting.popleft().result()


def _finished(out: Path, plan: Plan, jobs: Sequence[Job], strict: bool, workers: int) -> Corpus:
    """What is there, if it is whole and the same would come out again."""
    corpus = Corpus.open(out)
    (out / PARTIAL).unlink(missing_ok=True)  # of a run that was ended between its last two steps
    if corpus.index.plan != plan:
        raise _other_plan(out, corpus.index.plan, plan)
    _refuse_changed(out, corpus.index.records, jobs, workers, whole=True)
    _refuse_problems(corpus.index.records, jobs, strict)
    corpus.verify()
    return corpus


def _refuse_changed(
    out: Path, records: Sequence[Record], jobs: Sequence[Job], workers: int, *, whole: bool = False
) -> None:
    """DataError where the records made so far are not the first ones of today's files, or not all of them."""
    remedy = f"build into another folder, or delete {out}"
    names = [(record.source, record.subject) for record in records]
    today = [(job.source.name, job.subject) for job in jobs][: None if whole else len(names)]
    for there, now in zip_longest(names, today):
        if there != now:
            raise DataError(str(out), " ".join(now or there), "the folders hold other records by now", remedy)
    for record, job, sha256 in zip(records, jobs, _in_order(digest, jobs[: len(records)], workers), strict=False):
        if record.sha256 != sha256:
            raise DataError(str(job.root), job.subject, "its files have changed since it was put in", remedy)


def _refuse_problems(records: Sequence[Record], jobs: Sequence[Job], strict: bool) -> None:
    for record, job in zip(records, jobs, strict=False):
        for place, reason in record.problems() if strict else ():
            raise DataError(str(job.root / job.subject), place, reason, "or leave it out: without --strict")


# Reading.


@dataclass(frozen=True)
class Place:
    """Where a window is from."""

    source: str
    subject: str
    person: str
    session: str
    lead: str
    start: float
    """s from the recording's start."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus on disk; windows are read when they are asked for, through memory maps."""

    folder: Path
    index: Index
    leads: tuple[tuple[Record, Lead], ...]
    """That gave windows, in the order of these."""
    stops: Indices
    """(n_leads,) index after the last window of each."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The corpus in a folder.

        Raises DataError where it is none, not finished, of another format, or a shard is missing or cut.
        """
        index = _read_index(folder)
        leads = tuple((record, lead) for record in index.records for lead in record.leads if lead.starts)
        stops = np.cumsum([len(lead.starts) for _, lead in leads], dtype=np.int64)
        counts = [(_shard(folder, k).name, n) for k, n in enumerate(_counts(int(stops[-1]), index.plan.shard_windows))]
        if counts != [(shard.name, shard.windows) for shard in index.shards]:
            raise DataError(str(folder / INDEX), "shards", "do not hold the windows of the records", REMEDY)
        for shard in index.shards:
            _check_size(folder / shard.name, shard.windows, index.plan.spec)
        return cls(folder, index, leads, stops)

    def __len__(self) -> int:
        """Windows."""
        return int(self.stops[-1])

    @property
    def spec(self) -> SignalSpec:
        """What its windows were made with."""
        return self.index.plan.spec

    def verify(self) -> None:
        """Read every byte; DataError where one has changed since the corpus was built."""
        for shard in self.index.shards:
            if _sha256(self.folder / shard.name) != shard.sha256:
                path = str(self.folder / shard.name)
                raise DataError(path, "content", "is damaged", f"delete {self.folder}; {REMEDY}")

    def windows(self, indices: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Windows by their indices.

        Parameters
        ----------
        indices : (n,) whole numbers from 0 to ``len(self) - 1``
            In any order, also repeated. IndexError where there is no such window.

        Returns
        -------
        (n, 2, n_times) float32
            ecg in mV and heart rate in 1/min, off by at most 2^-11 of themselves (STORED).
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.ndim != 1 or ((wanted < 0) | (wanted >= len(self))).any():
            raise IndexError(f"windows {wanted.tolist()} of {len(self)}")
        shards, rows = np.divmod(wanted, self.index.plan.shard_windows)
        out = np.empty((len(wanted), *shape_of(self.spec)), dtype=np.float32)
        for k in np.unique(shards).tolist():
            out[shards == k] = self._mapped(k)[rows[shards == k]]
        return out

    def where(self, index: int) -> Place:
        """Where one window is from; IndexError where there is no such window."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        k = int(np.searchsorted(self.stops, index, side="right"))
        record, lead = self.leads[k]
        start = lead.starts[index - int(self.stops[k])]  # counted from the lead's end
        return Place(record.source, record.subject, record.person, lead.session, lead.lead, start)

    def split(self, share: float, seed: int = 0) -> tuple[Indices, Indices]:
        """Windows to train on and windows held out, both in order, no person in both.

        People are held out in an order drawn by ``seed``, each who still fits within ``share`` (0 to 1, both excluded)
        of the windows; where nobody fits, the one with the fewest. Raises DataError where there is only one person.
        """
        if not 0 < share < 1:
            raise ValueError(f"share {share} is not between 0 and 1")
        people = np.repeat([record.person for record, _ in self.leads], np.diff(self.stops, prepend=0))
        names, counts = np.unique(people, return_counts=True)
        if len(names) == 1:
            raise DataError(str(self.folder), "split", f"all windows are of {names[0]}", "add records of others")
        held, room = [], share * len(self)
        for k in np.random.default_rng(seed).permutation(len(names)).tolist():
            if counts[k] <= room:
                held.append(names[k])
                room -= counts[k]
        out = np.isin(people, held or [names[np.argmin(counts)]])
        return np.flatnonzero(~out), np.flatnonzero(out)

    def batches(
        self,
        index: npt.ArrayLike,
        batch: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Batches of windows, (batch, 2, n_times) each as ``windows`` gives them, without end; see ``drawn``."""
        order = drawn(index, batch, seed, rank=rank, world_size=world_size, start_step=start_step)
        return (self.windows(chosen) for chosen in order)

    def _mapped(self, k: int) -> npt.NDArray[np.float16]:
        shape = (self.index.shards[k].windows, *shape_of(self.spec))
        return np.memmap(_shard(self.folder, k), dtype=STORED, mode="r", shape=shape)


def drawn(
    index: npt.ArrayLike, batch: int, seed: int = 0, *, rank: int = 0, world_size: int = 1, start_step: int = 0
) -> Iterator[Indices]:
    """Which windows each batch of one rank holds, without end.

    Every epoch is another permutation of ``index``, (n,) window indices, and follows the one before without a break, so
    that a step may take from both. Of each step's ``batch * world_size`` windows rank r takes the r-th share: within
    an epoch no two ranks see the same window, and together they see the same windows at whatever world size. Step k
    depends on nothing that was drawn before it. Raises ValueError where nothing can be drawn so.
    """
    pool = np.asarray(index, dtype=np.int64)
    if pool.ndim != 1 or not len(pool) or batch < 1 or not 0 <= rank < world_size or start_step < 0:
        raise ValueError(f"{pool.shape} windows, batch {batch}, rank {rank} of {world_size}, step {start_step}")

    @lru_cache(maxsize=2)
    def epoch(k: int) -> Indices:
        return pool[np.random.default_rng([seed, k]).permutation(len(pool))]

    def step(k: int) -> Indices:
        first = (k * world_size + rank) * batch
        epochs, at = np.divmod(np.arange(first, first + batch), len(pool))
        return np.concatenate([epoch(e)[at[epochs == e]] for e in np.unique(epochs).tolist()])

    return map(step, count(start_step))


def _read_index(folder: Path) -> Index:
    path = folder / INDEX
    if not path.is_file():
        if (folder / PARTIAL).is_file():
            raise DataError(str(folder), PARTIAL, "the corpus is not finished", "run affectd-train corpus again")
        raise DataError(str(path), "file", "is missing: the folder is no corpus", "give a folder that corpus wrote")
    data = path.read_bytes()
    plan = _decoded(data, dict, path).get("plan")
    found = plan.get("format") if isinstance(plan, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise DataError(str(path), "format", f"is {found}, where this program reads {FORMAT}", REMEDY)
    index = _decoded(data, Index, path)
    if not any(record.windows for record in index.records):
        raise DataError(str(path), "records", "have no windows", REMEDY)
    return index
