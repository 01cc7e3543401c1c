"""The pre-training corpus: the device's own windows, equal bytes after any interruption, nothing left out unnamed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import wfdb
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from test_edf import channel
from test_edf import write as write_edf
from test_prepare import made_ecg
from test_wfdb_records import write
from tests_support import reference_data

from device.pipeline.pipeline import Pipeline
from device.pipeline.types import Chunk, Clock
from train.corpus import FORMAT, INDEX, PARTIAL, STORED, Corpus, Lead, Place, Plan, Record, Source, drawn
from train.corpus_build import Writer, _in_order, build, planned
from train.corpus_command import corpus as command
from train.corpus_command import tallies
from train.corpus_leads import LARGEST_MV, Job, corpus_spec, lead_of, make, person_of
from train.data import datasets, wfdb_records
from train.data.types import Recording, Signal
from train.errors import DataError

SPEC = corpus_spec()
SHORT = msgspec.structs.replace(SPEC, window_s=10.0, stride_s=10.0)
SHORT_S = 35.0
"""Just long enough for two short windows and what the pipeline settles in."""
WINDOW_BYTES = 2 * 2 * 1280
SMALL = {"spec": SHORT, "shard_windows": 3}
"""Of builds: shards that records do not end at."""
ELSEWHERE = """
import msgspec, os, signal
from pathlib import Path
from train.corpus_build import build
from train.corpus_leads import corpus_spec

def say(line):
    if "(2 of 5)" in line:
        os.kill(os.getpid(), signal.SIGKILL)

spec = msgspec.structs.replace(corpus_spec(), window_s=10.0, stride_s=10.0)
build([Path({root!r})], Path({out!r}), spec=spec, shard_windows=3, say=say)
"""
"""A build in a process of its own, ended by SIGKILL as soon as it has said that the second record is done."""
MANY = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def ecg(bpm: float = 72.0, scale: float = 1.0, seconds: float = SHORT_S, sfreq: float = 130.0) -> np.ndarray:
    """(n_times,) mV."""
    return scale * made_ecg(seconds, sfreq, bpm).data[:, 0]


def plain(folder: Path, kind: str, **info: object) -> None:
    """One subject in the plain layout with one signal."""
    folder.mkdir(parents=True)
    signals = {"ecg": (130, "mV", ecg(seconds=80)), "eda": (4, "uS", 3 + np.sin(np.arange(560) / 90))}
    sfreq, units, data = signals[kind]
    (folder / f"{kind}.csv").write_text("x\n" + "".join(f"{v:.5f}\n" for v in data))
    about = {"signals": {kind: {"sfreq": sfreq, "units": units, **info}}}
    (folder / "info.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two WFDB records of two leads and three of one; the fourth cannot be read."""
    root = tmp_path_factory.mktemp("set") / "db"
    for name, bpm in (("100", 70.0), ("sel100", 65.0)):
        write(root, name, {"MLII": "mV", "V5": "mV"}, np.stack([ecg(bpm), ecg(bpm, 0.5)], 1), 130.0)
    for name in ("a", "b", "c"):
        write(root, name, {"II": "mV"}, ecg(80)[:, None], 130.0)
    (root / "b.dat").write_bytes((root / "b.dat").read_bytes()[:300])
    return root


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def built(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Of the folder in one go, with shards that records do not end at."""
    return build([folder], tmp_path_factory.mktemp("built") / "out", **SMALL)


@pytest.fixture
def copy(built: Corpus, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built.folder, tmp_path / "copy"))


def unfinished(built: Corpus, out: Path, lines: int = 99, torn: int = 0, junk: int = 0) -> None:
    """What a build leaves that was ended after some lines, some bytes of the next, and some bytes of its windows."""
    every = [msgspec.json.encode(line) + b"\n" for line in (built.index.plan, *built.index.records)]
    out.mkdir()
    (out / PARTIAL).write_bytes(b"".join(every[:lines]) + b"".join(every[lines : lines + 1])[:-1][:torn])
    listed = sum(record.windows for record in built.index.records[: max(0, lines - 1)])
    windows = b"".join((built.folder / shard.name).read_bytes() for shard in built.index.shards)
    shard = 3 * WINDOW_BYTES
    there = (windows[: listed * WINDOW_BYTES] + b"\x55" * junk)[: len(windows)]
    for k, first in enumerate(range(0, len(there), shard)):
        (out / f"shard-{k:05d}.f16").write_bytes(there[first : first + shard])


# Windows.


def test_windows_are_the_devices_own(folder: Path, built: Corpus) -> None:
    """The device's pipeline, fed by hand in other slices, gives each lead's windows; float16 rounds them once."""
    (recording,) = wfdb_records.load(folder, "100")
    settle = 12.0  # s of warm-up and of looking for the first beats
    for k, lead in enumerate(("MLII", "V5")):
        data = recording.signals["ecg"].data[:, k : k + 1]
        pipeline = Pipeline(SHORT, {"ecg": 130.0})
        chunks = (
            Chunk("ecg", at, data[at : at + 650], np.ones(len(data[at : at + 650]), bool), Clock(0, -settle, 1 / 130))
            for at in range(0, len(data), 650)
        )
        found = [window for chunk in chunks for window in pipeline.push(chunk)] + pipeline.flush()
        theirs = np.stack([w.data["ecg"].T for w in found if w.start >= 0])
        mine = [i for i in range(len(built)) if (p := built.where(i)).subject == "100" and p.lead == lead]
        assert len(mine) == len(theirs) == 2
        assert np.array_equal(built.windows(mine), theirs.astype(np.float16).astype(np.float32))
        assert [built.where(i).start for i in mine] == [w.start + settle for w in found if w.start >= 0]


def test_each_window_says_where_it_is_from(built: Corpus) -> None:
    places = [built.where(i) for i in range(len(built))]
    assert places[2] == Place("db", "100", "100", "100", "V5", 12.0)
    assert [(p.subject, p.lead, p.start) for p in places[-2:]] == [("sel100", "V5", 12.0), ("sel100", "V5", 22.0)]
    assert len(built) == 2 * (2 + 2 + 1 + 1)
    heart = np.median(built.windows(range(len(built)))[:, 1], axis=1)
    rates = {"100": 70, "sel100": 65, "a": 80, "c": 80}
    assert heart == pytest.approx([rates[p.subject] for p in places], abs=1)
    peaks = built.windows(range(4))[:, 0].max(axis=1)
    assert peaks[:2] == pytest.approx(2 * peaks[2:], rel=0.05)  # the other lead, half as high


@given(st.lists(st.floats(-LARGEST_MV, LARGEST_MV, width=32) | st.floats(0, 512, width=32), min_size=1))
def test_what_is_stored_is_off_by_as_little_as_is_said(values: list[float]) -> None:
    x = np.array(values)
    assert (np.abs(x.astype(STORED).astype(float) - x) <= np.maximum(np.abs(x) * 2.0**-11, 2.0**-25)).all()
    assert np.abs(np.float16(0.9996) - 0.9996) < 0.0005 and abs(float(STORED.type(255.9)) - 255.9) < 0.0625


def test_any_loaders_folders_at_any_rates_make_one_corpus(tmp_path: Path) -> None:
    write(tmp_path / "a" / "db", "100", {"II": "mV"}, ecg(seconds=80, sfreq=360.0)[:, None], 360.0)
    write(tmp_path / "b" / "db", "sel100", {"II": "uV"}, ecg(scale=1000.0, seconds=80, sfreq=250.0)[:, None], 250.0)
    write_edf(tmp_path / "nights" / "n1.edf", channel(ecg(seconds=80, sfreq=200.0), 200, "ECG I", "mV"))
    plain(tmp_path / "study" / "anna", "ecg")
    roots = [tmp_path / name for name in ("a/db", "b/db", "nights", "study")]
    found = build(roots, tmp_path / "out")
    assert [(t.source, t.dataset, t.sfreqs, t.windows) for t in tallies(found.index)] == [
        ("db", "wfdb", (360.0,), 1), ("db#2", "wfdb", (250.0,), 1), ("nights", "edf", (200.0,), 1),
        ("study", "plain", (130.0,), 1),
    ]  # fmt: skip
    assert [found.where(i).person for i in range(4)] == ["100", "100", "nights/n1", "study/anna"]
    x = found.windows(range(4))
    assert np.median(x[:, 1], axis=1) == pytest.approx([72] * 4, abs=1)
    assert np.ptp(np.ptp(x[:, 0], axis=1)) < 0.2 * np.ptp(x[0, 0])  # all in mV
    assert [s.licence for s in found.index.plan.sources] == [datasets.find(root).licence for root in roots]
    plan, _ = planned(roots, SPEC, 3, licences={"db": "ODC-By 1.0", "nights": "CC0"})
    assert [s.licence for s in plan.sources] == [
        "ODC-By 1.0",
        datasets.find(roots[1]).licence,
        "CC0",
        datasets.find(roots[3]).licence,
    ]
    with pytest.raises(DataError, match="mitdb: licence: is of no folder here; name one of db, db#2, nights, study"):
        planned(roots, SPEC, 3, licences={"mitdb": "ODC-By 1.0"})
    with pytest.raises(DataError, match="is given twice"):
        planned([*roots, tmp_path / "a" / ".." / "a" / "db"], SPEC, 3)


def test_a_real_record_s_rate_is_that_of_its_published_beats(tmp_path: Path) -> None:
    """The first minutes of QTDB's sel100, both leads, against the beats that cardiologists marked."""
    theirs = wfdb.rdrecord(str(reference_data() / "qtdb" / "sel100"), sampto=150 * 250)
    write(tmp_path / "qtdb", "sel100", dict(zip(theirs.sig_name, theirs.units, strict=True)), theirs.p_signal, 250.0)
    found = build([tmp_path / "qtdb"], tmp_path / "out")
    places = [found.where(i) for i in range(len(found))]
    assert [(p.lead, p.start) for p in places] == [("MLII", 12), ("MLII", 72), ("V5", 12), ("V5", 72)]
    marked = wfdb.rdann(str(reference_data() / "qtdb" / "sel100"), "atr", sampto=150 * 250)
    beats = marked.sample[np.isin(marked.symbol, list("NAV"))] / 250
    for place, (x, rate) in zip(places, found.windows(range(4)), strict=True):
        inside = beats[(beats >= place.start) & (beats < place.start + SPEC.window_s)]
        assert np.median(rate) == pytest.approx(60 / np.median(np.diff(inside)), rel=0.02)
        assert 0.3 < np.ptp(x) < 5


# What is left out.


def recording(data: np.ndarray, sfreq: float = 130.0, **changes: object) -> tuple[Recording, Signal]:
    signal_ = replace(Signal(data[:, None], sfreq, "mV", ("II",)), **changes)
    return Recording("made", "P1", "P1", {"ecg": signal_}), signal_


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (ecg(scale=1000.0), {}, r"swings by 1.*e\+03 mV in 10 s, where 0.1 to 20 mV are usual: is it in uV or raw"),
        (ecg(scale=0.001), {}, "is it in V"),
        (ecg(), {"units": "uV"}, "is in uV, not mV"),
        (ecg(), {"surrogate": True}, "rebuilt from other data"),
        (np.full(5000, np.nan), {}, "has no samples"),
        (np.empty(0), {}, "has no samples"),
        (ecg(seconds=71.0), {}, "is too short: 71 s, where the first window ends after 72 s"),
        (ecg(sfreq=60.0), {"sfreq": 60.0}, "60"),
    ],
)
def test_a_lead_that_cannot_be_right_says_why(data: np.ndarray, changes: dict[str, object], said: str) -> None:
    lead, windows = lead_of(*recording(data, **changes), SPEC)
    assert (lead.starts, lead.skipped, windows.shape) == ((), {}, (0, 2, 7680))
    assert re.search(said, lead.problem)


def test_poor_windows_are_counted_by_reason_and_the_good_ones_between_are_kept() -> None:
    x = ecg(seconds=12 + 60 * 7 + 1)
    second = 130
    x[80 * second : 90 * second] = np.nan  # a gap in window 1
    x[133 * second : 191 * second] += np.random.default_rng(0).normal(0, 3, 58 * second)  # window 2
    x[253 * second : 311 * second] = 0.1  # most of window 4: flat
    x[340 * second] += 500  # a spike in window 5 that its sqi forgives
    lead, windows = lead_of(*recording(x), SPEC)
    assert sum(lead.skipped.values()) + len(lead.starts) == 7
    assert lead.starts == (12.0, 192.0, 372.0)
    assert len(windows) == 3 and np.isfinite(windows).all() and np.abs(windows[:, 0]).max() < LARGEST_MV
    assert lead.skipped["gap"] == 1 and lead.skipped["beyond 32 mV"] == 1
    assert {reason for reason in lead.skipped if reason not in ("gap", "beyond 32 mV")} <= {
        "noise", "contact", "flat", "contact, noise", "noise, rate", "contact, noise, rate",
    }  # fmt: skip


def test_a_lead_beside_an_unusable_one_is_kept_and_strict_refuses_both(tmp_path: Path) -> None:
    write(tmp_path / "db", "x", {"II": "mV", "V1": "mV"}, np.stack([ecg(), ecg(scale=1000.0)], 1), 130.0)
    found = build([tmp_path / "db"], tmp_path / "out", **SMALL)
    assert {found.where(i).lead for i in range(len(found))} == {"II"}
    ((place, reason),) = tallies(found.index)[0].left_out.items()
    assert place == "x, lead V1" and "uV or raw counts" in reason
    for out in ("out", "other"):  # one that is finished, and a new one
        with pytest.raises(DataError, match=r"lead V1: swings by .* is it in uV.*--strict"):
            build([tmp_path / "db"], tmp_path / out, strict=True, **SMALL)


def test_records_that_cannot_be_read_or_have_no_ecg_are_named(tmp_path: Path, folder: Path, built: Corpus) -> None:
    (problem,) = [record.problem for record in built.index.records if record.problem]
    assert "b.hea" in problem and "cannot be read as WFDB" in problem
    with pytest.raises(DataError, match="cannot be read as WFDB"):
        build([folder], tmp_path / "strict", strict=True, **SMALL)
    plain(tmp_path / "study" / "ben", "eda")
    with pytest.raises(DataError, match="no window can be used: has no ECG"):
        build([tmp_path / "study"], tmp_path / "out")
    assert not (tmp_path / "out" / INDEX).exists()
    plain(tmp_path / "rebuilt" / "cleo", "ecg", surrogate=True)
    _, (job,) = planned([tmp_path / "rebuilt"], SPEC, 3)
    record, windows = make(job)
    assert len(windows) == 0 and "not measured" in record.leads[0].problem


# Interrupted.


class EndedError(Exception):
    """Raised where a build is to end."""


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.integers(0, 6), torn=st.integers(0, 400), junk=st.integers(0, 5 * WINDOW_BYTES))
@example(lines=2, torn=60, junk=3000)
@example(lines=3, torn=0, junk=4 * WINDOW_BYTES + 1)
def test_however_often_it_was_ended_it_goes_on_to_the_same_bytes(
    folder: Path, built: Corpus, tmp_path: Path, lines: int, torn: int, junk: int
) -> None:
    """Once anywhere, even within a line or a window, and once more after the next record."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    unfinished(built, out, lines, torn, junk)
    said: list[str] = []

    def end(line: str) -> None:
        said.append(line)
        raise EndedError

    with contextlib.suppress(EndedError):
        build([folder], out, **SMALL, say=end)
    if len(said) + max(0, lines - 1) < 5:
        with pytest.raises(
            DataError, match=r"corpus\.partial: the corpus is not finished; run affectd-train corpus again"
        ):
            Corpus.open(out)
    build([folder], out, **SMALL, say=said.append)
    assert content(out) == content(built.folder)
    assert len(said) == 5 - max(0, lines - 1)  # what was done was not done again


def elsewhere(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    script = ELSEWHERE.format(root=str(root), out=str(out))
    here = Path(__file__).parents[1]
    return subprocess.run([sys.executable, "-c", script], cwd=here, capture_output=True, text=True, check=False)


def test_killed_it_goes_on_to_the_same_bytes(folder: Path, built: Corpus, tmp_path: Path) -> None:
    ended = elsewhere(folder, tmp_path / "out")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (tmp_path / "out" / PARTIAL).is_file() and not (tmp_path / "out" / INDEX).exists()
    said: list[str] = []
    build([folder], tmp_path / "out", **SMALL, say=said.append)
    assert content(tmp_path / "out") == content(built.folder)
    assert [line.split(":")[0] for line in said] == ["db b", "db c", "db sel100"]


def test_a_full_disk_costs_no_more_than_its_record(folder: Path, built: Corpus, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * WINDOW_BYTES + 999, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            build([folder], tmp_path / "out", **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    build([folder], tmp_path / "out", **SMALL)
    assert content(tmp_path / "out") == content(built.folder)


def test_several_processes_write_the_same_bytes(folder: Path, built: Corpus, tmp_path: Path) -> None:
    build([folder], tmp_path / "out", **SMALL, workers=2)
    assert content(tmp_path / "out") == content(built.folder)


def test_no_process_runs_far_ahead_of_what_is_written() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for k in range(20):
            taken.append(k)
            yield k

    for workers in (1, 2):
        taken.clear()
        for done, result in enumerate(_in_order(abs, jobs(), workers)):
            assert result == done
            assert len(taken) <= done + 2 + workers


def test_two_runs_do_not_write_one_folder(folder: Path, tmp_path: Path) -> None:
    plan, _ = planned([folder], SHORT, 3)
    with Writer(tmp_path / "out", plan):
        other = elsewhere(folder, tmp_path / "out")
    assert "another run is writing it; wait for it, or end it" in other.stderr


# Changed since.


@pytest.mark.parametrize("finished", [True, False])
def test_what_has_changed_since_is_noticed(folder: Path, built: Corpus, tmp_path: Path, finished: bool) -> None:
    root, out = tmp_path / "db", tmp_path / "out"
    shutil.copytree(folder, root)
    shutil.copytree(built.folder, out) if finished else unfinished(built, out)
    before = content(out)

    def again(match: str, **changes: object) -> None:
        with pytest.raises(DataError, match=match) as caught:
            build([root], out, **{**SMALL, **changes})
        assert "another folder, or delete" in caught.value.remedy
        assert content(out) == before

    again("spec: it was begun with another spec", spec=msgspec.structs.replace(SHORT, sqi_min=0.6))
    again("begun with another plan", shard_windows=4)
    (root / "a.dat").write_bytes((root / "c.dat").read_bytes()[::-1])
    again("a: its files have changed since it was put in")
    (root / "a.dat").write_bytes((folder / "a.dat").read_bytes())
    write(root, "aa", {"II": "mV"}, ecg()[:, None], 130.0)
    again("db aa: the folders hold other records by now")
    (root / "aa.hea").unlink()
    (root / "aa.dat").unlink()
    said: list[str] = []
    build([root], out, **SMALL, say=said.append)
    assert content(out) == content(built.folder) and said == []


def test_another_folder_is_another_corpus(folder: Path, copy: Path, tmp_path: Path) -> None:
    plain(tmp_path / "study" / "anna", "ecg")
    with pytest.raises(DataError, match="sources: it was begun with other folders"):
        build([folder, tmp_path / "study"], copy, **SMALL)


# Damaged and foreign folders.


def test_a_folder_that_holds_something_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shard-00000.f16").write_text("mine")
    with pytest.raises(DataError, match="holds something that is no unfinished corpus; name an empty one"):
        build([folder], tmp_path)
    assert content(tmp_path) == {"shard-00000.f16": b"mine"}
    before = content(folder)
    for out in (folder, folder / "new"):
        with pytest.raises(DataError, match="lies in a data set, whose records it would change; name one outside"):
            build([folder], out)
    assert content(folder) == before
    with pytest.raises(DataError, match=r"corpus.json: file: is missing: the folder is no corpus"):
        Corpus.open(folder)


def test_damage_is_named_with_its_file_and_remedy(copy: Path, folder: Path) -> None:
    shard, index = copy / "shard-00001.f16", copy / INDEX
    good, text = shard.read_bytes(), index.read_text()

    def refused(match: str) -> None:
        with pytest.raises(DataError, match=match) as caught:
            Corpus.open(copy)
        assert "affectd-train corpus" in caught.value.remedy and str(copy) in caught.value.path
        shard.write_bytes(good)
        index.write_text(text)

    shard.write_bytes(good[:-2])
    refused(r"shard-00001.f16: file: has \d+ bytes where \d+ belong; delete the folder")
    shard.write_bytes(good + b"xx")
    refused("has")
    shard.unlink()
    refused("has 0 bytes")
    index.write_text(text[:-9])
    refused("is not what a corpus has there")
    index.write_text("[1]")
    refused("is not what a corpus has there")
    index.write_text(text.replace(f'"format":{FORMAT}', f'"format":{FORMAT + 1}'))
    refused(f"format: is {FORMAT + 1}, where this program reads {FORMAT}")
    index.write_text(text.replace('"shard_windows":3', '"shard_windows":5'))
    refused("do not hold the windows")
    shard.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    Corpus.open(copy)  # as long as it should be
    with pytest.raises(DataError, match=r"shard-00001\.f16: content: is damaged"):
        build([folder], copy, **SMALL)


def test_an_unfinished_corpus_with_less_than_it_says_is_damaged(built: Corpus, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unfinished(built, out)
    os.truncate(out / "shard-00000.f16", 100)
    with pytest.raises(DataError, match=r"shard-00000\.f16: file: has 100 bytes"):
        build([folder], out, **SMALL)
    unfinished(built, tmp_path / "list")
    (tmp_path / "list" / PARTIAL).write_bytes(b"{}\n")
    with pytest.raises(DataError, match=r"corpus\.partial: file: is not what a corpus has there"):
        build([folder], tmp_path / "list", **SMALL)


# Reading.


def made_corpus(out: Path, records: list[tuple[str, list[int]]], shard_windows: int = 4) -> Corpus:
    """Records (name, windows of each lead) whose windows hold their own index; 1 s each."""
    short = msgspec.structs.replace(SPEC, window_s=1.0, stride_s=1.0)
    plan = Plan(FORMAT, short, "", shard_windows, (Source("made", "wfdb", "", "", ""),))
    shutil.rmtree(out, ignore_errors=True)
    with Writer(out, plan) as writer:
        at = 0
        for name, counts in records:
            leads = [Lead("", f"V{k}", 250.0, tuple(float(i) for i in range(n)), {}, "") for k, n in enumerate(counts)]
            n = sum(counts)
            values = np.arange(at, at + n, dtype=np.float16)[:, None, None] * np.ones((2, 128), np.float16)
            person = person_of("wfdb", "made", name)
            writer.add(Record("made", name, person, "", tuple(leads), (), ""), values)
            at += n
        writer.finish()
    return Corpus.open(out)


NAMES = ("100", "sel100", "201", "202", "e0104", "sele0104", "x", "y", "p1/a", "p1/b")
RECORDS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.integers(0, 5), min_size=1, max_size=3)),
    min_size=1, max_size=8, unique_by=lambda r: r[0],
)  # fmt: skip


@MANY
@given(records=RECORDS, size=st.integers(1, 9), data=st.data())
def test_windows_come_back_by_index_whatever_the_shards(
    tmp_path: Path, records: list[tuple[str, list[int]]], size: int, data: st.DataObject
) -> None:
    total = sum(sum(counts) for _, counts in records)
    assume(total > 0)
    made = made_corpus(tmp_path / "c", records, size)
    wanted = data.draw(st.lists(st.integers(0, total - 1), max_size=12))
    found = made.windows(wanted)
    assert found.shape == (len(wanted), 2, 128) and found.dtype == np.float32
    assert (found == np.array(wanted)[:, None, None]).all()
    expected = [(name, f"V{k}", float(i)) for name, counts in records for k, n in enumerate(counts) for i in range(n)]
    assert [(p.subject, p.lead, p.start) for p in map(made.where, range(total))] == expected
    assert sum(path.stat().st_size for path in made.folder.glob("shard-*")) == total * 2 * 128 * 2
    for wrong in ([total], [-1], [[0]]):
        with pytest.raises(IndexError):
            made.windows(wrong)
    for wrong in (total, -1):
        with pytest.raises(IndexError):
            made.where(wrong)


@MANY
@given(records=RECORDS, share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_no_person_is_on_both_sides(
    tmp_path: Path, records: list[tuple[str, list[int]]], share: float, seed: int
) -> None:
    counts = Counter[str]()
    for name, leads in records:
        counts[{"sel100": "100", "202": "201", "sele0104": "e0104", "p1/b": "p1/a"}.get(name, name)] += sum(leads)
    counts = +counts
    assume(len(counts) > 1)
    made = made_corpus(tmp_path / "c", records)
    train, held = made.split(share, seed)
    assert sorted([*train, *held]) == list(range(len(made))) and len(train) and len(held)
    assert not {made.where(i).person for i in train} & {made.where(i).person for i in held}
    assert len(held) <= share * len(made) or len(held) == min(counts.values())
    assert all(np.array_equal(a, b) for a, b in zip(made.split(share, seed), (train, held), strict=True))


def test_people_to_be_left_out_are_on_neither_side(tmp_path: Path) -> None:
    made = made_corpus(tmp_path / "c", [(f"r{k}", [2, 2]) for k in range(6)])
    names = sorted({made.where(i).person for i in range(len(made))})
    train, held = made.split(0.3, without=names[:3])
    assert {made.where(int(i)).person for i in (*train, *held)} == set(names[3:])
    assert {made.where(int(i)).person for i in train}.isdisjoint(made.where(int(i)).person for i in held)
    with pytest.raises(DataError, match=f"all windows are of {names[5]}; add"):
        made.split(0.3, without=names[:5])
    with pytest.raises(DataError, match="all windows are of people to be left out"):
        made.split(0.3, without=names)


def test_other_seeds_hold_out_others_and_one_person_cannot_be_split(tmp_path: Path) -> None:
    made = made_corpus(tmp_path / "c", [(f"r{k}", [2, 2]) for k in range(10)])
    held = [tuple(made.split(0.3, seed)[1].tolist()) for seed in range(8)]
    assert {len(h) for h in held} == {12} and len(set(held)) > 4
    with pytest.raises(DataError, match="all windows are of 100; add records of others"):
        made_corpus(tmp_path / "c", [("100", [3]), ("sel100", [4])]).split(0.5)
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            made.split(share)


@pytest.mark.parametrize(
    ("dataset", "subject", "person"),
    [
        ("wfdb", "sel100", "100"), ("wfdb", "100", "100"), ("wfdb", "mitdb/100", "100"), ("wfdb", "sel16265", "16265"),
        ("wfdb", "sele0104", "e0104"), ("wfdb", "202", "201"), ("wfdb", "select", "s/select"),
        ("wfdb", "patient001/s0010_re", "s/patient001"), ("wfdb", "p10/p10014354/81739927/81739927", "s/p10014354"),
        ("wfdb", "Person_01/rec_1", "s/Person_01"), ("edf", "100", "s/100"), ("plain", "anna", "s/anna"),
        ("mitbih-tpcp", "100", "100"), ("neurokit", "good_4000", "s/good_4000"),
    ],
)  # fmt: skip
def test_who_a_record_is_of(dataset: str, subject: str, person: str) -> None:
    assert person_of(dataset, "s", subject) == person


# Batches.

POOLS = st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True)


@given(pool=POOLS, batch=st.integers(1, 9), seed=st.integers(0, 99), world=st.integers(1, 4), epochs=st.integers(1, 3))
def test_every_epoch_is_a_permutation_that_the_ranks_share_out(
    pool: list[int], batch: int, seed: int, world: int, epochs: int
) -> None:
    steps = -(-epochs * len(pool) // (batch * world))
    ranks = [list(itertools.islice(drawn(pool, batch, seed, rank=r, world_size=world), steps)) for r in range(world)]
    assert all(len(chosen) == batch for rank in ranks for chosen in rank)
    stream = np.concatenate([chosen for step in zip(*ranks, strict=True) for chosen in step])
    for k in range(epochs):  # each window once an epoch, so by one rank only
        assert sorted(stream[k * len(pool) : (k + 1) * len(pool)].tolist()) == sorted(pool)
    alone = np.concatenate(list(itertools.islice(drawn(pool, batch * world, seed), steps)))
    assert np.array_equal(stream, alone)  # the same steps at whatever world size


@given(pool=POOLS, batch=st.integers(1, 9), seed=st.integers(0, 99), start=st.integers(0, 50), rank=st.integers(0, 2))
def test_from_step_k_on_it_is_what_an_uninterrupted_run_would_have_drawn(
    pool: list[int], batch: int, seed: int, start: int, rank: int
) -> None:
    whole = drawn(pool, batch, seed, rank=rank, world_size=3)
    later = drawn(pool, batch, seed, rank=rank, world_size=3, start_step=start)
    for expected, found in itertools.islice(zip(itertools.islice(whole, start, None), later, strict=False), 10):
        assert np.array_equal(expected, found)


def test_epochs_and_seeds_differ() -> None:
    pool = range(50)
    orders = [tuple(c.tolist()) for seed in (0, 1) for c in itertools.islice(drawn(pool, 50, seed), 20)]
    assert len(set(orders)) == 40
    for wrong in ({"index": []}, {"batch": 0}, {"rank": 2, "world_size": 2}, {"rank": -1}, {"start_step": -1}):
        with pytest.raises(ValueError, match="windows, batch"):
            drawn(**{"index": pool, "batch": 4, **wrong})


def test_batches_hold_the_windows_that_were_drawn(tmp_path: Path) -> None:
    made = made_corpus(tmp_path / "c", [(f"r{k}", [3, 4]) for k in range(4)])
    train, _ = made.split(0.3)
    options = {"rank": 1, "world_size": 2, "start_step": 3}
    pairs = zip(made.batches(train, 5, 7, **options), drawn(train, 5, 7, **options), strict=False)
    for x, chosen in itertools.islice(pairs, 9):
        assert x.shape == (5, 2, 128) and np.array_equal(x[:, 0, 0], chosen)


# The command.


def run(*args: object) -> Result:
    return CliRunner().invoke(command, [*map(str, args)], catch_exceptions=False)


@pytest.mark.parametrize("given", ["qtdb", "=ODC-By", "qtdb="])
def test_a_licence_without_its_folder_is_refused(given: str, tmp_path: Path) -> None:
    result = run(tmp_path, "--licence", given, "--out", tmp_path / "out")
    assert result.exit_code == 2 and f"'{given}' is not FOLDER=LICENCE" in " ".join(result.output.split())


def test_the_command_tells_each_record_and_sums_up(tmp_path: Path) -> None:
    root, out = tmp_path / "db", tmp_path / "out"
    write(root, "100", {"MLII": "mV", "V5": "mV"}, np.stack([ecg(seconds=80)] * 2, 1), 130.0)
    write(root, "sel100", {"MLII": "mV"}, ecg(seconds=80)[:, None], 130.0)
    write(root, "x", {"II": "mV"}, ecg(seconds=30)[:, None], 130.0)
    result = run(root, "--out", out)
    lines = [line.partition("s] ")[2] for line in result.stderr.splitlines()]
    assert lines[:2] == [
        "db 100: 2 windows of 2 leads (1 of 3)",
        "db sel100: 1 windows of 1 leads (2 of 3)",
    ]
    assert "left out: lead II is too short: 30 s" in lines[2] and len(lines) == 3
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["db", "wfdb", "3", "2", "1", "3", "130", "3", "0.1"] in rows
    assert "left out: db: x, lead II: is too short" in result.stdout and "3 windows of 60 s, 0.1 h" in result.stdout
    told = run(root, "--out", out, "--json")
    figures = json.loads(told.stdout)
    assert told.stderr == "" and (figures["windows"], figures["hours"], figures["shards"]) == (3, 0.05, 1)
    (source,) = figures["sources"]
    assert (source["people"], list(source["left_out"]), source["sfreqs"]) == (1, ["x, lead II"], [130.0])
    assert figures["bytes"] == sum(path.stat().st_size for path in out.iterdir())


def test_a_folder_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    with pytest.raises(DataError, match="follows no layout"):
        run(tmp_path / "odd", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run("--out", tmp_path / "out").exit_code == 2


def test_a_job_is_the_same_in_another_process(folder: Path) -> None:
    _, jobs = planned([folder], SHORT, 3)
    (here,), (there,) = ([make(j) for j in jobs[:1]], list(_in_order(make, jobs[:1], 2)))
    assert isinstance(jobs[0], Job) and here[0] == there[0] and np.array_equal(here[1], there[1])
