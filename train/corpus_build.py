"""Builds a corpus: records shared out to processes, windows to disk in order, the same bytes after any interruption.

While it is being built ``corpus.partial`` stands in the index's place: a line with the Plan, then a line for each
record, written after its windows are on disk. An interrupted build goes on behind the last whole line.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Self, TypeVar

import msgspec

from device.pipeline.spec import SignalSpec
from train.corpus import (
    FORMAT,
    INDEX,
    PARTIAL,
    SHARD_WINDOWS,
    STORED,
    Corpus,
    Halves,
    Index,
    Plan,
    Record,
    Shard,
    Source,
    check_size,
    counts_of,
    decoded,
    sha256_of,
    shape_of,
    shard_of,
    window_bytes,
)
from train.corpus_leads import Job, corpus_spec, digest, make
from train.data import datasets
from train.errors import DataError
from train.prepare import code_hash

NO_LICENCES: Mapping[str, str] = MappingProxyType({})
In = TypeVar("In")
Out = TypeVar("Out")


def build(
    roots: Sequence[Path],
    out: Path,
    *,
    dataset: str | None = None,
    licences: Mapping[str, str] = NO_LICENCES,
    spec: SignalSpec | None = None,
    strict: bool = False,
    workers: int = 1,
    shard_windows: int = SHARD_WINDOWS,
    say: Callable[[str], None] = lambda _: None,
) -> Corpus:
    """Every ECG lead of every record below the folders, as a corpus in ``out``; goes on where it was interrupted.

    ``licences`` are those of folders, by their names, whose reader knows none, as it is with WFDB and EDF.

    What cannot be used is named in the index and left out. Where ``strict``, a record or lead that gives nothing
    because it cannot be read, is too short or in another unit raises DataError instead. Never in memory: more than one
    record for each of the ``workers`` processes, and those that wait for their turn, as many again. Raises DataError
    where a folder is no known data set, a licence is of none of the folders, ``out`` is of other folders, files, spec
    or code, or nothing can be used.
    """
    if any(out.resolve().is_relative_to(root.resolve()) for root in roots):
        raise DataError(str(out), "folder", "lies in a data set, whose records it would change", "name one outside")
    plan, jobs = planned(roots, spec or corpus_spec(), shard_windows, dataset, licences)
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
    roots: Sequence[Path],
    spec: SignalSpec,
    shard_windows: int,
    dataset: str | None = None,
    licences: Mapping[str, str] = NO_LICENCES,
) -> tuple[Plan, list[Job]]:
    """The plan for some folders and the records they hold, in order.

    Raises DataError as ``datasets.find`` does, and for a licence of none of them.
    """
    sources: list[Source] = []
    jobs: list[Job] = []
    paths = [root.resolve() for root in roots]
    for k, root in enumerate(roots):
        if paths[k] in paths[:k]:
            raise DataError(str(root), "folder", "is given twice", "give each once")
        entry = datasets.find(root, dataset)
        same = [path.name for path in paths[:k]].count(paths[k].name)
        name = paths[k].name + (f"#{same + 1}" if same else "")
        sources.append(Source(name, entry.name, entry.title, licences.get(name, entry.licence), entry.url))
        everyone = tuple(entry.subjects(root))
        jobs += [Job(sources[-1], root, subject, everyone, spec) for subject in everyone]
    names = [source.name for source in sources]
    if strange := sorted({*licences} - {*names}):
        raise DataError(strange[0], "licence", "is of no folder here", f"name one of {', '.join(names)}")
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
            with shard_of(self.folder, at // size).open("ab") as file:
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
            Shard(shard_of(self.folder, k).name, n, sha256_of(shard_of(self.folder, k)))
            for k, n in enumerate(counts_of(self.windows, self.plan.shard_windows))
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
        elif decoded(lines[0], Plan, self.folder / PARTIAL) != self.plan:
            raise _other_plan(self.folder, decoded(lines[0], Plan, self.folder / PARTIAL), self.plan)
        return [decoded(line, Record, self.folder / PARTIAL) for line in lines[1:]]

    def _cut_shards(self) -> None:
        """Take away what belongs to no whole line."""
        counts = counts_of(self.windows, self.plan.shard_windows)
        for path in sorted(self.folder.glob("shard-*.f16"))[len(counts) :]:
            path.unlink()
        for k, windows in enumerate(counts):
            check_size(shard_of(self.folder, k), windows, self.plan.spec, more=True)
            os.truncate(shard_of(self.folder, k), windows * window_bytes(self.plan.spec))


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
