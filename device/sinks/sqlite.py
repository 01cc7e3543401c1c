"""Predictions, events and the wall clock in an SQLite database: a table each, a row for each run of the daemon and each
bundle that made predictions in it, a view with wall times.

Every row is on the disk before the next one comes (WAL, synchronous FULL), so that a power cut takes at most the row
that is being written. It knows nothing of who reads it; a reader never stops the writer, nor the other way round.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from device.inference import Prediction
from device.notification import ClockReading, Event
from device.sealing import Sealer, padded
from device.sinks.base import Item, MadeBy, Written
from device.sinks.database import Kind, opened, used
from device.sinks.jsonl import to_tree

_VERSION_1 = """
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  host_ns INTEGER NOT NULL,  -- the host's clock at the start
  wall_ns INTEGER NOT NULL,  -- its wall clock at the same moment, ns since 1970
  bundle TEXT NOT NULL, bundle_sha256 TEXT NOT NULL, recording TEXT NOT NULL, affectd TEXT NOT NULL
) STRICT;
CREATE TABLE prediction (
  run INTEGER NOT NULL REFERENCES run, "index" INTEGER NOT NULL,
  start REAL NOT NULL, stop REAL NOT NULL,  -- s of the host's clock
  label TEXT,               -- NULL where it abstained
  abstained TEXT,           -- why
  probabilities TEXT,       -- JSON, of each label; NULL where the network was not run
  modalities TEXT NOT NULL, -- what the network has seen, e.g. ecg+eda
  sqi TEXT NOT NULL, problems TEXT NOT NULL,  -- JSON, of each modality
  distance REAL,            -- from the nearest class of known windows
  PRIMARY KEY (run, "index")
) STRICT, WITHOUT ROWID;
CREATE TABLE event (run INTEGER NOT NULL REFERENCES run, time REAL NOT NULL, description TEXT NOT NULL) STRICT;
CREATE VIEW timeline AS  -- everything with its wall time in UTC, as the host believed it when the run began
  SELECT strftime('%Y-%m-%dT%H:%M:%fZ', r.wall_ns / 1e9 + (x.time - r.host_ns / 1e9), 'unixepoch') AS wall, x.*
  FROM (
    SELECT run, stop AS time, 'prediction' AS kind, label AS what, abstained, probabilities, modalities FROM prediction
    UNION ALL SELECT run, time, 'event', description, NULL, NULL, NULL FROM event
  ) AS x JOIN run AS r ON r.id = x.run ORDER BY x.run, x.time;
"""
_VERSION_2 = """
CREATE TABLE clock (  -- a run's first reading of the wall clock, and one after each correction
  run INTEGER NOT NULL REFERENCES run,
  host_ns INTEGER NOT NULL, wall_ns INTEGER NOT NULL,  -- the host's clock, and what the wall clock said then
  asleep_ns INTEGER NOT NULL,        -- how long the machine had been suspended by then, since its start
  is_synchronised INTEGER NOT NULL   -- 1 where the wall clock was known to be right
) STRICT;
CREATE VIEW reading AS  -- rows of one start of the daemon, a bundle each, share its readings
  SELECT id AS run, host_ns, wall_ns, 0 AS is_synchronised FROM run
  UNION ALL SELECT r.id, c.host_ns, c.wall_ns, c.is_synchronised FROM clock AS c JOIN run AS o ON o.id = c.run
    JOIN run AS r ON r.host_ns = o.host_ns AND r.recording = o.recording;
CREATE VIEW dating AS  -- of each run the reading that dates it: the latest of a synchronised clock, else the latest
  SELECT run, host_ns, wall_ns, is_synchronised FROM (
    SELECT *, row_number() OVER (PARTITION BY run ORDER BY is_synchronised DESC, host_ns DESC) AS place FROM reading
  ) WHERE place = 1;
DROP VIEW timeline;
CREATE VIEW timeline AS  -- everything with its wall time in UTC as its run came to know it, and as believed then
  SELECT strftime('%Y-%m-%dT%H:%M:%fZ', d.wall_ns / 1e9 + (x.time - d.host_ns / 1e9), 'unixepoch') AS wall,
    x.run, x.time, x.kind, x.what, x.abstained, x.probabilities, x.modalities, d.is_synchronised, (
      SELECT strftime('%Y-%m-%dT%H:%M:%fZ', b.wall_ns / 1e9 + (x.time - b.host_ns / 1e9), 'unixepoch')
      FROM reading AS b WHERE b.run = x.run AND b.host_ns / 1e9 <= x.time ORDER BY b.host_ns DESC LIMIT 1
    ) AS believed
  FROM (
    SELECT run, "index" AS n, stop AS time, 'prediction' AS kind, label AS what, abstained, probabilities, modalities
    FROM prediction
    UNION ALL SELECT run, NULL, time, 'event', description, NULL, NULL, NULL FROM event
  ) AS x JOIN dating AS d ON d.run = x.run ORDER BY x.run, x.time, x.n;
"""
_VERSION_3 = """
ALTER TABLE run ADD COLUMN subject TEXT NOT NULL DEFAULT '';  -- [person] subject; empty: nobody was named
ALTER TABLE run ADD COLUMN sealed TEXT NOT NULL DEFAULT '';   -- key of its rows in the table below, wrapped for readers
CREATE TABLE sealed (  -- predictions and events that were encrypted, in their order, in place of rows of their tables
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run, body BLOB NOT NULL
) STRICT;
"""
RESULTS = Kind("database", "[sinks.sqlite] path", (_VERSION_1, _VERSION_2, _VERSION_3))
_PREDICTION = "INSERT OR REPLACE INTO prediction VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CLOCK = "INSERT INTO clock VALUES (?, ?, ?, ?, ?)"
_EVENT = "INSERT INTO event VALUES (?, ?, ?)"
_RUN = """INSERT INTO run (host_ns, wall_ns, bundle, bundle_sha256, recording, affectd, subject, sealed)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_SEALED = "INSERT INTO sealed (run, body) VALUES (?, ?)"
_PLAIN = "SELECT EXISTS (SELECT 1 FROM prediction) OR EXISTS (SELECT 1 FROM event)"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """What the database says of one run of the daemon."""

    host_ns: int
    wall_ns: int
    bundle: str
    bundle_sha256: str
    recording: str
    """First segment of the raw notifications."""
    affectd: str
    subject: str = ""
    """Of whom; empty where nobody was named."""

    def with_bundle(self, made_by: MadeBy) -> Run:
        """The same run, predicting with another bundle."""
        return replace(self, bundle=made_by.bundle, bundle_sha256=made_by.bundle_sha256)


class SqliteSink(Written):
    """Appends to one database; several runs of the daemon share it, one after the other."""

    name = "sqlite"

    def __init__(self, path: Path, run: Run, recipients: tuple[str, ...] = ()) -> None:
        """Open or begin a database; with ``recipients``, public keys of age, they alone read what it will hold.
        Raises SinkError."""
        self.path = Path(path)
        self._sealer = Sealer(recipients) if recipients else None
        self._db = opened(self.path, RESULTS)
        with used(self._db, self.path, RESULTS):
            self._begin(run)
            if self._sealer is not None and self._db.execute(_PLAIN).fetchone()[0]:
                _log.warning("%s: what it held before is not encrypted, and stays so; move it away", self.path)

    def _begin(self, run: Run) -> None:
        self._of = run
        key = "" if self._sealer is None else self._sealer.wrapped
        self._run = self._db.execute(_RUN, (*(getattr(run, k) for k in Run.__slots__), key)).lastrowid

    def write(self, item: Item) -> None:
        """Put one row on the disk; the first prediction of another bundle begins another row of its run."""
        if isinstance(item, ClockReading):
            read = item.host_ns, item.wall_ns, item.asleep_ns, item.is_synchronised
            self._db.execute(_CLOCK, (self._run, *read))
            return
        if isinstance(item, Prediction) and item.bundle_sha256 not in ("", self._of.bundle_sha256):
            self._begin(replace(self._of, bundle=item.bundle, bundle_sha256=item.bundle_sha256))
        if self._sealer is not None:
            self._db.execute(_SEALED, (self._run, self._sealer.seal(padded(msgspec.json.encode(to_tree(item))))))
        elif isinstance(item, Event):
            self._db.execute(_EVENT, (self._run, item.host_ns / 1e9, item.description))
        else:
            self._db.execute(_PREDICTION, (self._run, *_row(item)))

    async def close(self) -> None:
        """Close the database; its write-ahead log goes into the file."""
        await asyncio.to_thread(self._db.close)


def _row(item: Prediction) -> tuple[object, ...]:
    probabilities = None if item.probabilities is None else json.dumps(item.probabilities)
    said = item.label, item.abstained, probabilities, "+".join(item.modalities)
    quality = json.dumps(item.sqi), json.dumps(item.problems), item.distance
    return item.index, item.start, item.stop, *said, *quality
