"""What reaches the journal: read back from a real socket by a reader written from the protocol's description."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.journal import JournalHandler, begin_logging, under_journal
from device.notification import LinkChange
from device.sources.ble_link import log_change


class Journald:
    """Takes entries at a socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def entry(self) -> dict[str, str]:
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        if fds:
            assert not data
            with os.fdopen(fds[0], "rb") as file:
                with pytest.raises(PermissionError):  # sealed
                    os.ftruncate(os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR), 0)
                file.seek(0)
                data = file.read()
        return dict(fields(data))


def fields(data: bytes) -> Iterator[tuple[str, str]]:
    """https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, Data Format."""
    while data:
        line, data = data.split(b"\n", 1)
        if b"=" in line:
            name, value = line.split(b"=", 1)
        else:
            name, length = line, int.from_bytes(data[:8], "little")
            value, rest = data[8 : 8 + length], data[8 + length :]
            assert rest[:1] == b"\n"
            data = rest[1:]
        yield name.decode(), value.decode()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    journald = Journald(tmp_path / "socket")
    with journald.socket:
        yield journald


@pytest.fixture
def log(journald: Journald) -> Iterator[logging.Logger]:
    handler = JournalHandler(journald.path)
    logger = logging.getLogger("device.sources.ble")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    handler.close()


def test_a_change_of_a_link_has_its_fields(journald: Journald, log: logging.Logger) -> None:
    log_change(LinkChange("chest strap", 5, "waiting", "no adapter"), "wait for the radio")
    entry = journald.entry()
    assert (entry.pop("CODE_FILE").endswith("ble_link.py"), int(entry.pop("CODE_LINE")) > 0) == (True, True)
    assert entry == {
        "MESSAGE": "sensor chest strap: waiting: no adapter",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "affectd",
        "LOGGER": "device.sources.ble",
        "CODE_FUNC": "log_change",
        "AFFECTD_SENSOR": "chest strap",
        "AFFECTD_STATE": "waiting",
        "AFFECTD_REASON": "no adapter",
        "AFFECTD_RUNG": "wait for the radio",
    }


@pytest.mark.parametrize(("level", "priority"), [(50, 2), (40, 3), (30, 4), (20, 6), (10, 7)])
def test_levels_are_the_priorities_of_syslog(
    journald: Journald, log: logging.Logger, level: int, priority: int
) -> None:
    log.log(level, "x")
    assert journald.entry()["PRIORITY"] == str(priority)


def test_lines_of_a_value_stay_one_value_and_forge_no_field(journald: Journald, log: logging.Logger) -> None:
    log.error("a\nPRIORITY=0", extra={"sensor": "x\nMESSAGE=forged", "password": "hunter2"})
    entry = journald.entry()
    assert (entry["MESSAGE"], entry["AFFECTD_SENSOR"]) == ("a\nPRIORITY=0", "x\nMESSAGE=forged")
    assert entry["PRIORITY"] == "3"
    assert "hunter2" not in str(entry)  # only known fields go


def test_a_traceback_is_part_of_the_message(journald: Journald, log: logging.Logger) -> None:
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        log.exception("sensor ends")
    message = journald.entry()["MESSAGE"]
    assert message.startswith("sensor ends\nTraceback") and message.endswith("ZeroDivisionError: oops")


def test_what_is_too_long_for_a_datagram_comes_sealed(journald: Journald, log: logging.Logger) -> None:
    text = "long\n" * 200_000
    log.info(text)
    assert journald.entry()["MESSAGE"] == text


def test_a_journal_that_takes_nothing_holds_nobody_up_and_hears_how_much_it_missed(
    journald: Journald, log: logging.Logger
) -> None:
    for number in range(2000):  # far more than its socket holds
        log.info("%d", number)
    taken = 0
    journald.socket.setblocking(False)
    try:
        while True:
            assert journald.entry()["MESSAGE"] == str(taken)
            taken += 1
    except BlockingIOError:
        pass
    assert 0 < taken < 2000
    log.info("again")
    assert journald.entry()["MESSAGE"] == f"{2000 - taken} log entries lost: the journal was busy"
    assert journald.entry()["MESSAGE"] == "again"


def test_only_a_stream_that_leads_to_the_journal_is_taken_for_one(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as a, (tmp_path / "b").open("w") as b:
        opened = os.fstat(a.fileno())
        environ = {"JOURNAL_STREAM": f"{opened.st_dev}:{opened.st_ino}"}
        assert under_journal(a, environ)
        assert not under_journal(b, environ)  # `affectd run 2>file` inside a service
        assert not under_journal(a, {})
        assert not under_journal(a, {"JOURNAL_STREAM": "nonsense"})


@pytest.mark.parametrize("service", [True, False])
def test_a_service_logs_to_the_journal_and_everybody_else_to_stderr(
    service: bool, journald: Journald, tmp_path: Path
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    with (tmp_path / "stderr").open("w") as stream:
        opened = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{opened.st_dev}:{opened.st_ino}"} if service else {}
        try:
            begin_logging("warning", stream, environ, journald.path)
            logging.getLogger("device.daemon").info("below the level")
            logging.getLogger("device.daemon").warning("said")
        finally:
            for handler in root.handlers:
                handler.close()
            root.handlers[:] = before
            root.setLevel(level)
    assert (tmp_path / "stderr").read_text() == ("" if service else "WARNING device.daemon: said\n")
    if service:
        assert journald.entry()["MESSAGE"] == "said"


def test_the_last_word_of_a_service_is_an_error_in_the_journal() -> None:
    """journald takes the priority off each line that a service writes to stderr."""
    reading, writing = os.pipe()
    opened = os.fstat(writing)
    command = "import sys; sys.argv = ['affectd', 'config', 'check', '/none']; from device.cli import main; main()"
    env = {**os.environ, "JOURNAL_STREAM": f"{opened.st_dev}:{opened.st_ino}"}
    done = subprocess.run([sys.executable, "-c", command], stderr=writing, env=env)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read().startswith("<3>affectd: /none: cannot be read")
    assert done.returncode == 2
