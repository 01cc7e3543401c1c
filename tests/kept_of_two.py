"""A device that has kept something of two subjects and of one whom nobody named, and a process that is killed while it
erases: ``python kept_of_two.py TEMPLATE FOLDER`` tries every moment, each on a copy of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import wearer_at_rest
from test_sqlite_sink import RUN, SURE

from device.config import (
    Config,
    HttpConfig,
    JsonlConfig,
    MqttConfig,
    PersonConfig,
    RadioConfig,
    RecordingConfig,
    SinksConfig,
    SqliteConfig,
)
from device.erasing import erase_subject
from device.inference import Prediction
from device.notification import ClockReading, Event, Notification
from device.profile import write_profile
from device.recording import RecordingWriter
from device.sinks.jsonl import JsonlSink
from device.sinks.message_log import MessageLog
from device.sinks.outbox import Outbox
from device.sinks.sqlite import SqliteSink
from device.storage import Policy
from firmware_bridge.protocols import PROTOCOLS

SUBJECTS = ("P07", "P08", "")
STREAMS = {"chest": PROTOCOLS["polar-pmd-ecg"].stream_info}
ROWS = 40
MOMENTS = ("os.remove", "os.rename", "os.truncate", "tempfile.mkstemp", "sqlite3.connect")
STATEMENTS = ("DELETE", "COMMIT", "VACUUM", "PRAGMA wal")


def secret_of(subject: str) -> str:
    """What must be nowhere, and in no other file."""
    return f"secret-of-{subject or 'nobody'}-"


def configured(folder: Path, **person: str | None) -> Config:
    return Config(
        radio=RadioConfig(registry=str(folder / "sensors.toml")),
        person=PersonConfig(**{"profile": str(folder / "person.json"), **person}),
        recording=RecordingConfig(directory=str(folder / "r")),
        sinks=SinksConfig(
            jsonl=JsonlConfig(path=str(folder / "predictions.jsonl")),
            sqlite=SqliteConfig(path=str(folder / "results.db")),
            mqtt=MqttConfig(host="broker", tls=False, device="dev", outbox=str(folder / "outbox.db")),
            http=HttpConfig(log=str(folder / "log.db")),
        ),
    )


def said(subject: str, index: int) -> tuple[Prediction, Event, ClockReading]:
    words = f"{secret_of(subject)}{index}"
    prediction = replace(SURE, index=index, start=float(index), stop=index + 60.0, label=words)
    return prediction, Event(index * 10**9, words), ClockReading(index * 10**9, 10**18 + index)


def furnish(folder: Path) -> None:
    """As three runs of the daemon leave it, the profile the first one's."""
    config = configured(folder)
    for subject in SUBJECTS:
        policy = Policy(subject=subject)
        with RecordingWriter(Path(config.recording.directory), STREAMS, policy) as recording:
            for index in range(ROWS):
                recording.append(Notification("chest", index * 10**9, f"{secret_of(subject)}{index}".encode()))
        assert config.sinks.jsonl and config.sinks.sqlite and config.sinks.mqtt
        jsonl = JsonlSink(Path(config.sinks.jsonl.path), subject)
        results = SqliteSink(Path(config.sinks.sqlite.path), replace(RUN, subject=subject, recording=subject))
        outbox = Outbox(Path(config.sinks.mqtt.outbox), 1000, subject)
        log = MessageLog(folder / "log.db", 1000, subject)
        for item in itertools.chain.from_iterable(said(subject, index) for index in range(ROWS)):
            jsonl.write(item)
            results.write(item)
            for messages in (outbox, log):
                messages.put("t", msgspec.json.encode(item))
        jsonl.finish()
        results._db.close()
        outbox.close()
        log.close()
    write_profile(folder / "person.json", wearer_at_rest.profile(subject="P07", person=secret_of("P07")))


def killed_at(folder: Path, moment: int) -> None:
    """Erase P07, and be killed at the ``moment``-th thing that is done to a disk."""
    left = itertools.count(moment, -1)

    def hook(event: str, _: tuple[object, ...]) -> None:
        if event in MOMENTS:
            strike()

    def traced(*arguments: Any, connect: Any = sqlite3.connect, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **options)
        db.set_trace_callback(statement)
        return db

    def statement(sql: str) -> None:
        if sql.startswith(STATEMENTS):
            strike()

    def strike() -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sqlite3.connect = traced
    erase_subject(configured(folder), "P07")


def main(template: Path, folder: Path) -> None:
    for moment in itertools.count():
        work = folder / str(moment)
        shutil.copytree(template, work)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                killed_at(work, moment)
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        if not os.WIFSIGNALED(status):
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
