"""Erases what this machine keeps of one subject: recordings, results, messages that wait, profile with labels.

Each place is done for itself and may be done again, so that an interruption costs a second call and nothing else. It
knows nothing of the command line; what it cannot erase, it says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device.config import Config
from device.errors import ProfileError, RecordingError, SinkError
from device.profile import Profile, read_profile
from device.recording import erase_held, held
from device.segment import SUFFIX, SegmentReader, is_unbegun
from device.sinks.database import Kind, opened, read_only, scrub, used
from device.sinks.jsonl import NAMED, mark_of
from device.sinks.message_log import LOG
from device.sinks.outbox import OUTBOX
from device.sinks.sqlite import RESULTS
from device.storage import clear
from firmware_bridge import whole_file

_OF_RUN = "run IN (SELECT id FROM run WHERE subject = ?)"
_RESULTS = (*((table, _OF_RUN) for table in ("prediction", "event", "sealed", "clock")), ("run", "subject = ?"))
"""Tables and which of their rows, runs last."""
_WHOSE = "nobody can tell whose it is"
_MESSAGES = (("message", "subject = ?"),)


@dataclass(frozen=True, slots=True)
class Erased:
    """What one place held, or holds yet where nothing is to be erased."""

    place: str
    what: str
    n: int


@dataclass(frozen=True, slots=True)
class Left:
    """What stays, or may be the subject's and stays."""

    place: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it."""

    subject: str
    """Empty: nobody was named."""
    dry_run: bool
    erased: tuple[Erased, ...]
    left: tuple[Left, ...]
    """To be seen to, and then this is to be done again."""
    elsewhere: tuple[Left, ...]
    """What lies where this machine cannot reach."""


def erase_subject(config: Config, subject: str, *, dry_run: bool = False) -> Report:
    """Erase, in the places that the configuration names; ``dry_run`` only counts. Raises RecordingError while affectd
    runs."""
    with held(Path(config.recording.directory)):
        places = (_recordings, _results, _lines, _messages, _profile)
        found = [it for place in places for it in _told(place, config, subject, dry_run)]
    erased = tuple(it for it in found if isinstance(it, Erased) and it.n)
    left = tuple(it for it in found if isinstance(it, Left))
    return Report(subject, dry_run, erased, left, tuple(_elsewhere(config, subject)))


Found = Iterator[Erased | Left]


def _told(place: Callable[[Config, str, bool], Found], config: Config, subject: str, dry: bool) -> Found:
    """What one place gives; its error does not keep the others from being erased."""
    try:
        yield from place(config, subject, dry)
    except RecordingError as error:
        yield Left(error.path, error.reason, error.remedy)
    except SinkError as error:
        yield Left(error.sink, error.reason, error.remedy)


def _recordings(config: Config, subject: str, dry: bool) -> Found:
    directory, segments = Path(config.recording.directory), []
    if not dry:
        with _changing(directory):
            clear(directory)
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        try:
            if not is_unbegun(path) and SegmentReader(path).header.subject == subject:
                segments.append(path)
        except RecordingError as error:
            yield Left(str(path), f"{_WHOSE}: {error.reason}", f"if it is to go: `affectd erase {path}`")
    if not dry:
        erase_held(segments)
    yield Erased(str(directory), "segments", len(segments))


def _results(config: Config, subject: str, dry: bool) -> Found:
    if config.sinks.sqlite is not None:
        path = Path(config.sinks.sqlite.path)
        for table, n in _rows(path, RESULTS, _RESULTS, subject, dry):
            yield Erased(str(path), f"rows of {table}", n)


def _messages(config: Config, subject: str, dry: bool) -> Found:
    if config.sinks.mqtt is not None:
        yield from _queued(Path(config.sinks.mqtt.outbox), OUTBOX, "messages that waited", subject, dry)
    if config.sinks.http is not None:
        yield from _queued(Path(config.sinks.http.log), LOG, "messages for readers", subject, dry)


def _queued(path: Path, kind: Kind, what: str, subject: str, dry: bool) -> Found:
    for _, n in _rows(path, kind, _MESSAGES, subject, dry):
        yield Erased(str(path), what, n)


def _rows(path: Path, kind: Kind, of: Iterable[tuple[str, str]], subject: str, dry: bool) -> Iterable[tuple[str, int]]:
    """Tables, and how many of their rows are the subject's."""
    if not path.exists():
        return []
    db = read_only(path, kind, alone=True) if dry else opened(path, kind, alone=True)
    with contextlib.closing(db), used(db, path, kind):
        if dry:
            counts = ((table, f"SELECT count(*) FROM {table} WHERE {where}") for table, where in of)
            return [(table, db.execute(query, (subject,)).fetchone()[0]) for table, query in counts]
        db.execute("BEGIN IMMEDIATE")
        found = [(table, db.execute(f"DELETE FROM {table} WHERE {where}", (subject,)).rowcount) for table, where in of]
        db.execute("COMMIT")
        scrub(db)
    return found


def _lines(config: Config, subject: str, dry: bool) -> Found:
    if config.sinks.jsonl is None or not (path := Path(config.sinks.jsonl.path)).exists():
        return
    mark = mark_of(subject)

    def is_theirs(line: bytes) -> bool:
        return line.startswith(mark) if mark else not line.startswith(NAMED)

    with _changing(path), path.open("rb") as file:
        n = sum(map(is_theirs, file))
        if not dry:
            _tidy(path)
            file.seek(0)
            whole_file.rewrite(path, (line for line in file if not is_theirs(line)))
    yield Erased(str(path), "lines", n)


def _profile(config: Config, subject: str, dry: bool) -> Found:
    """The file is the subject's by the name in it, or, where it has none, by whom it is used for."""
    if config.person.profile is None:
        return
    path = Path(config.person.profile)
    if not dry:
        with _changing(path):
            _tidy(path)
    if not path.exists():
        return
    try:
        profile = read_profile(path)
    except ProfileError as error:
        yield Left(str(path), f"{_WHOSE}: {error.reason}", f"if it is to go: `rm {path}`")
        return
    if not _is_of(profile, subject, config):
        return
    if not dry:
        with _changing(path):
            path.unlink()
            whole_file.sync_directory(path.parent)
    yield Erased(str(path), "profile", 1)
    yield Erased(str(path), "labels", len(profile.examples))


def _is_of(profile: Profile, subject: str, config: Config) -> bool:
    if profile.subject is not None:
        return profile.subject == subject
    used_for = config.person.subject
    return subject in (used_for, profile.person) if subject else used_for is None


def _tidy(path: Path) -> None:
    for unfinished in whole_file.unfinished(path):
        unfinished.unlink()


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Raise SinkError for what the disk refuses."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be changed: {error.strerror}"
        raise SinkError(str(path), reason, "do it as its owner, or as root, and with room on the disk") from error


def _elsewhere(config: Config, subject: str) -> Iterator[Left]:
    sinks = config.sinks
    if sinks.mqtt is not None:
        below = sinks.mqtt.topic or f"affectd/{sinks.mqtt.device or 'DEVICE'}"
        what = f"what it was given below {below}, and what its readers keep"
        yield Left(
            f"broker {sinks.mqtt.host}", what, "ask who runs it; it retains no prediction, but the device's state"
        )
    if sinks.http is not None:
        yield Left("readers", "what programs have read over HTTP", "erase what they keep")
    if sinks.lsl is not None:
        yield Left("LSL", "what programs have read from the outlets", "erase their recordings")
    if subject and config.person.subject == subject:
        what = f"subject = {subject!r} in [person]: what comes from now on is theirs again"
        yield Left("the configuration", what, "name the next wearer there before the next start")
    yield Left("the journal", "when sensors were worn, no result", "`journalctl --rotate --vacuum-time=1s`")
    yield Left("elsewhere", "copies, exports, files that the configuration names no more", "delete those yourself")
    what = "blocks of deleted files, until the disk needs them"
    yield Left("the card or SSD", what, "its own secure erase; what was encrypted is noise without the private key")


def in_words(report: Report) -> Iterator[str]:
    """For people, a line each."""
    did = "would be erased" if report.dry_run else "erased"
    for it in report.erased:
        yield f"{it.place}: {it.n} {it.what} {did}"
    if not report.erased:
        yield f"nothing of {report.subject or 'nobody named'} is here"
    for left in report.left:
        yield f"LEFT {left.place}: {left.reason}; {left.remedy}"
    for left in report.elsewhere:
        yield f"not reached: {left.place}: {left.reason}; {left.remedy}"
