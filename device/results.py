"""Reads results as they were written, a database's or lines of JSON, decrypted where they are encrypted, a plain object
for each row or line.

It knows nothing of who writes it meanwhile.
"""

from __future__ import annotations

import base64
import contextlib
import heapq
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from device.errors import KeyFileError, SinkError
from device.inference import Prediction
from device.notification import ClockReading
from device.sealing import Opener
from device.sinks.database import read_only, used
from device.sinks.messages import wall_time
from device.sinks.sqlite import RESULTS

_RUNS = """SELECT r.id, r.subject, r.bundle, r.bundle_sha256, r.sealed, d.host_ns, d.wall_ns
FROM run AS r JOIN dating AS d ON d.run = r.id ORDER BY r.id"""
_PREDICTIONS = """SELECT "index", start, stop, label, probabilities, modalities, abstained, sqi, problems, distance
FROM prediction WHERE run = ? ORDER BY "index" """
_EVENTS = "SELECT time, description FROM event WHERE run = ? ORDER BY time"
_SEALED = "SELECT body FROM sealed WHERE run = ? ORDER BY id"
_COPY = "take it from a copy that nobody has changed"
_log = logging.getLogger(__name__)


def exported(path: Path, identity: Path | None = None) -> Iterator[dict[str, Any]]:
    """What a database or a file of lines holds. Raises SinkError, KeyFileError."""
    try:
        with path.open("rb") as file:
            is_lines = file.read(1) == b"{"
    except OSError:
        is_lines = False
    return _lines(path, identity) if is_lines else _rows(path, identity)


def _lines(path: Path, identity: Path | None) -> Iterator[dict[str, Any]]:
    """Each as it was before it was encrypted; one that a power cut tore is left out, and said."""
    openers: dict[object, Opener] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                tree = msgspec.json.decode(line, type=dict[str, Any])
            except ValueError:
                _log.warning("%s: line %d is no whole line", path, number)
                continue
            if "wrapped" in tree:
                openers[tree.get("key")] = _opener(str(tree["wrapped"]), path, identity)
            elif "sealed" in tree:
                yield _opened(tree, openers, f"{path}: line {number}")
            else:
                yield tree


def _opened(tree: dict[str, Any], openers: dict[object, Opener], place: str) -> dict[str, Any]:
    """One line; of whom it is, is in clear."""
    known = {"subject": tree["subject"]} if "subject" in tree else {}
    opener = openers.get(tree.get("key"))
    try:
        if opener is None:
            raise ValueError("the line of its key is not here")
        return known | msgspec.json.decode(opener.open(base64.b64decode(str(tree["sealed"]))), type=dict[str, Any])
    except ValueError as error:
        raise SinkError(place, str(error), _COPY) from error


def _opener(key: str, path: Path, identity: Path | None) -> Opener:
    if identity is None:
        raise KeyFileError(path, "", "is encrypted", "give --identity FILE, the age key of who may read it")
    return Opener(key, identity)


def _rows(path: Path, identity: Path | None) -> Iterator[dict[str, Any]]:
    """Predictions and events in the order of their time, run by run: what JSONL says of each, with its run, its
    subject and its wall time in UTC."""
    db = read_only(path, RESULTS)
    with contextlib.closing(db), used(db, path, RESULTS):
        for run, subject, bundle, sha256, key, host_ns, wall_ns in db.execute(_RUNS).fetchall():
            clock = ClockReading(host_ns, wall_ns)
            plain = _predictions(db, run, (bundle, sha256)), _events(db, run)
            for tree in heapq.merge(*plain, _sealed(db, run, key, path, identity), key=_time):
                wall = wall_time(clock.wall_of(round(_time(tree) * 1e9)))
                yield {"wall": wall, "run": run, "subject": subject or None} | tree


def _time(tree: dict[str, Any]) -> float:
    """When it was known, s of the host's clock."""
    return float(tree["stop"] if "stop" in tree else tree["start"])


def _predictions(db: sqlite3.Connection, run: int, bundle: tuple[str, str]) -> Iterator[dict[str, Any]]:
    decode = msgspec.json.decode
    for row in db.execute(_PREDICTIONS, (run,)):
        index, start, stop, label, probabilities, modalities, abstained, sqi, problems, distance = row
        known = None if probabilities is None else decode(probabilities)
        said = label, known, tuple(filter(None, modalities.split("+"))), abstained
        yield Prediction(index, start, stop, *said, decode(sqi), decode(problems), distance, *bundle).to_json()


def _events(db: sqlite3.Connection, run: int) -> Iterator[dict[str, Any]]:
    for time, description in db.execute(_EVENTS, (run,)):
        yield {"event": description, "start": time}


def _sealed(db: sqlite3.Connection, run: int, key: str, path: Path, identity: Path | None) -> Iterator[dict[str, Any]]:
    opener = None
    for number, (body,) in enumerate(db.execute(_SEALED, (run,)), start=1):
        opener = opener or _opener(key, path, identity)
        try:
            yield msgspec.json.decode(opener.open(body))
        except ValueError as error:
            reason = f"run {run}, encrypted row {number}: {error}"
            raise SinkError(str(path), reason, _COPY) from error
