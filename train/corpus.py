"""The unlabelled ECG that a network is pre-trained on, as it lies on disk, and its reader.

Knows neither how it is made (train.corpus_build) nor labels nor networks.

A corpus is a folder. ``shard-00000.f16``, ``shard-00001.f16``, ... hold windows one after the other, each (2, n_times)
little-endian float16: ecg in mV, heart rate in 1/min. ``corpus.json`` (Index) says whose they are, where they come from
and what was left out, and why. While it is being built ``corpus.partial`` stands in its place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from device.pipeline.spec import CHANNELS, SignalSpec
from train.errors import DataError, one_line

Halves = npt.NDArray[np.float16]
Indices = npt.NDArray[np.int64]
Out = TypeVar("Out")

FORMAT = 1
"""Of the folder; raised whenever an older program would misread it."""
INDEX, PARTIAL = "corpus.json", "corpus.partial"
SHARD_WINDOWS = 1024
"""Windows in every shard but the last: 31 MB at 60 s, large enough to be few and small enough to copy."""
STORED = np.dtype("<f2")
"""float16 is off by at most 2^-11 of a value: 0.5 uV at 1 mV, where electrodes alone make 10 uV, and 0.06/min below
256/min."""
REMEDY = "build it anew: affectd-train corpus"


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
        counts = [
            (shard_of(folder, k).name, n) for k, n in enumerate(counts_of(int(stops[-1]), index.plan.shard_windows))
        ]
        if counts != [(shard.name, shard.windows) for shard in index.shards]:
            raise DataError(str(folder / INDEX), "shards", "do not hold the windows of the records", REMEDY)
        for shard in index.shards:
            check_size(folder / shard.name, shard.windows, index.plan.spec)
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
            if sha256_of(self.folder / shard.name) != shard.sha256:
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

    def split(self, share: float, seed: int = 0, without: Collection[str] = ()) -> tuple[Indices, Indices]:
        """Windows to train on and windows held out, both in order, no person in both, nobody of ``without`` in any.

        People are held out in an order drawn by ``seed``, each who still fits within ``share`` (0 to 1, both excluded)
        of the windows; where nobody fits, the one with the fewest. Raises DataError where there is only one person.
        """
        if not 0 < share < 1:
            raise ValueError(f"share {share} is not between 0 and 1")
        people = np.repeat([record.person for record, _ in self.leads], np.diff(self.stops, prepend=0))
        wanted = ~np.isin(people, list(without))
        names, counts = np.unique(people[wanted], return_counts=True)
        if len(names) < 2:
            only = ", ".join(names) or "people to be left out"
            raise DataError(str(self.folder), "split", f"all windows are of {only}", "add records of others")
        held, room = [], share * counts.sum()
        for k in np.random.default_rng(seed).permutation(len(names)).tolist():
            if counts[k] <= room:
                held.append(names[k])
                room -= counts[k]
        out = np.isin(people, held or [names[np.argmin(counts)]])
        return np.flatnonzero(wanted & ~out), np.flatnonzero(out)

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
        return np.memmap(shard_of(self.folder, k), dtype=STORED, mode="r", shape=shape)


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
    plan = decoded(data, dict, path).get("plan")
    found = plan.get("format") if isinstance(plan, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise DataError(str(path), "format", f"is {found}, where this program reads {FORMAT}", REMEDY)
    index = decoded(data, Index, path)
    if not any(record.windows for record in index.records):
        raise DataError(str(path), "records", "have no windows", REMEDY)
    return index


def shape_of(spec: SignalSpec) -> tuple[int, int]:
    """(n_chans, n_times) of one window."""
    return len(CHANNELS["ecg"]), spec.n_times("ecg")


def shard_of(folder: Path, k: int) -> Path:
    """The file of shard ``k``."""
    return folder / f"shard-{k:05d}.f16"


def counts_of(windows: int, size: int) -> list[int]:
    """Windows of each shard."""
    return [min(size, windows - first) for first in range(0, windows, size)]


def window_bytes(spec: SignalSpec) -> int:
    """Of one window on disk."""
    n_chans, n_times = shape_of(spec)
    return n_chans * n_times * STORED.itemsize


def check_size(path: Path, windows: int, spec: SignalSpec, *, more: bool = False) -> None:
    """DataError where a shard is missing or has not the bytes of its windows; ``more`` may be there on request."""
    expected, found = windows * window_bytes(spec), path.stat().st_size if path.is_file() else 0
    if found < expected or (found > expected and not more):
        raise DataError(str(path), "file", f"has {found} bytes where {expected} belong", f"delete the folder; {REMEDY}")


def sha256_of(path: Path) -> str:
    """Of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoded(data: bytes, kind: type[Out], path: Path) -> Out:
    """What ``path`` holds as JSON; DataError where it is something else."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise DataError(str(path), "file", f"is not what a corpus has there ({one_line(error)})", REMEDY) from None
