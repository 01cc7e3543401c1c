-- Made by the affectd before version 2 of the tables: SqliteSink(RUN) of tests/test_sqlite_sink.py, SURE, UNSURE and an event
-- written, then sqlite3.Connection.iterdump().
BEGIN TRANSACTION;
CREATE TABLE event (run INTEGER NOT NULL REFERENCES run, time REAL NOT NULL, description TEXT NOT NULL) STRICT;
INSERT INTO "event" VALUES(1,75.0,'stroop start');
CREATE TABLE prediction (
  run INTEGER NOT NULL REFERENCES run, "index" INTEGER NOT NULL,
  start REAL NOT NULL, stop REAL NOT NULL,  -- s of the host's monotonic clock
  label TEXT,               -- NULL where it abstained
  abstained TEXT,           -- why
  probabilities TEXT,       -- JSON, of each label; NULL where the network was not run
  modalities TEXT NOT NULL, -- what the network has seen, e.g. ecg+eda
  sqi TEXT NOT NULL, problems TEXT NOT NULL,  -- JSON, of each modality
  distance REAL,            -- from the nearest class of known windows
  PRIMARY KEY (run, "index")
) STRICT, WITHOUT ROWID;
INSERT INTO "prediction" VALUES(1,3,10.0,70.0,'stress',NULL,'{"rest": 0.2, "stress": 0.8}','ecg+eda','{"ecg": 0.9, "eda": 1.0}','{"ecg": ["motion"]}',0.7);
INSERT INTO "prediction" VALUES(1,4,10.0,70.0,NULL,'contact',NULL,'','{"ecg": 0.9, "eda": 1.0}','{"ecg": ["motion"]}',NULL);
CREATE TABLE run (
  id INTEGER PRIMARY KEY,
  host_ns INTEGER NOT NULL,  -- the host's monotonic clock at the start
  wall_ns INTEGER NOT NULL,  -- its wall clock at the same moment, ns since 1970: dates every time below
  bundle TEXT NOT NULL, bundle_sha256 TEXT NOT NULL, recording TEXT NOT NULL, affectd TEXT NOT NULL
) STRICT;
INSERT INTO "run" VALUES(1,5000000000,1700000000000000000,'tiny','ab12','x.affrec','0.1.0');
CREATE VIEW timeline AS  -- everything with its wall time in UTC, as the host believed it when the run began
  SELECT strftime('%Y-%m-%dT%H:%M:%fZ', r.wall_ns / 1e9 + (x.time - r.host_ns / 1e9), 'unixepoch') AS wall, x.*
  FROM (
    SELECT run, stop AS time, 'prediction' AS kind, label AS what, abstained, probabilities, modalities FROM prediction
    UNION ALL SELECT run, time, 'event', description, NULL, NULL, NULL FROM event
  ) AS x JOIN run AS r ON r.id = x.run ORDER BY x.run, x.time;
COMMIT;
PRAGMA user_version = 1;
