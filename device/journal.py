"""Logs for journald with their fields, over its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).

Knows nothing of what is logged; a field is what a record brings along in ``extra``, under one of the names here.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

JOURNAL = Path("/run/systemd/journal/socket")
FIELDS = ("sensor", "state", "reason", "rung", "sink", "source", "address")
"""Of a record's ``extra``: ``sensor`` becomes AFFECTD_SENSOR."""
ERROR = 3
"""Syslog's priority of an error."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, ERROR), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7
CHATTY = ("bleak", "dbus_fast", "bleak_retry_connector")
"""Libraries that say more than anybody can read below ``info``."""
_SEALED = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""What journald asks of a file in memory: nobody may change it any more."""


def begin_logging(level: str, stream: TextIO, environ: Mapping[str, str] = os.environ, journal: Path = JOURNAL) -> None:
    """Log to the journal where ``stream`` leads there, else in lines to ``stream``."""
    if under_journal(stream, environ) and journal.exists():
        handler: logging.Handler = JournalHandler(journal)
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    set_level(level)


def set_level(name: str) -> None:
    """Log from this level on, e.g. "info"; raises KeyError for a word that is none."""
    level = logging.getLevelNamesMapping()[name.upper()]
    logging.getLogger().setLevel(level)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(level, logging.INFO))


def under_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to ``stream`` goes to the journal: systemd names its device and inode."""
    try:
        opened = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{opened.st_dev}:{opened.st_ino}"


class JournalHandler(logging.Handler):
    """One datagram per record. Never waits: what the journal does not take is counted, and told once it does again."""

    def __init__(self, path: Path = JOURNAL) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the rest has fields of its own
        self.lost = 0
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            if self.lost:
                self._send(_datagram({"MESSAGE": f"{self.lost} log entries lost: the journal was busy", "PRIORITY": 4}))
                self.lost = 0
            self._send(_datagram(dict(_fields(record, self.format(record)))))
        except OSError:
            self.lost += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()
        super().close()

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, self._path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_in_memory(datagram)

    def _send_in_memory(self, data: bytes) -> None:
        """What is too long for a datagram travels as a sealed file in memory."""
        with os.fdopen(os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
            file.write(data)
            file.flush()
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALED)
            rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, file.fileno().to_bytes(4, sys.byteorder)
            self._socket.sendmsg([], [rights], 0, self._path)


def _fields(record: logging.LogRecord, message: str) -> Iterator[tuple[str, object]]:
    """What journald is told of one record; systemd.journal-fields(7)."""
    yield "MESSAGE", message
    yield "PRIORITY", next((priority for level, priority in _PRIORITIES if record.levelno >= level), _DEBUG)
    yield "SYSLOG_IDENTIFIER", "affectd"
    yield "LOGGER", record.name
    yield "CODE_FILE", record.pathname
    yield "CODE_LINE", record.lineno
    yield "CODE_FUNC", record.funcName
    for name in FIELDS:
        if (value := getattr(record, name, None)) not in (None, ""):
            yield f"AFFECTD_{name.upper()}", value


def _datagram(fields: Mapping[str, object]) -> bytes:
    return b"".join(_field(name.encode(), str(value).encode(errors="replace")) for name, value in fields.items())


def _field(name: bytes, value: bytes) -> bytes:
    """``NAME=value``; a value of several lines goes with its length, u64 little-endian."""
    if b"\n" in value:
        return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name + b"=" + value + b"\n"
