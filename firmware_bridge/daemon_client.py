"""Asks a running affectd over its UNIX socket: lines of JSON, one request per connection.

Knows nothing of radios or signals. Requests: ``{"do": "status"}`` gives one answer; ``{"do": "lend", "address": A}``
lends the radio (and, with an address, the sensor, which the daemon lets go) until the connection is closed;
``{"do": "watch", "sensor": NAME}`` hands on each notification of a streaming sensor; ``{"do": "baseline", ...}``
records a rest, says how it goes and at last what came of it, and ends with the connection;
``{"do": "label", "label": L}`` makes the newest window an example of L, ``"undo": true`` takes the newest example back
(with a label that label's), ``"forget": true`` all of them, neither of the three changes nothing: one answer, whose
``labels`` says what was changed and what there is; ``{"do": "mark", "description": TEXT}`` records an event. Carried
out whole, even where nobody waits for the one answer any more, are ``{"do": "pause", "for_s": S}`` (null: until
``{"do": "resume"}``), ``{"do": "recording", "on": false}``, ``{"do": "bundle", "path": P}``, ``{"do": "reload"}`` and
``{"do": "log-level", "level": L}``. Every
answer has ``ok``; where false, ``error`` and ``remedy`` say more.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from firmware_bridge.errors import FirmwareBridgeError

DEFAULT_SOCKET = Path("/run/affectd/affectd.sock")
ANSWER_S = 15.0
"""A daemon that lends a sensor first stops its stream and disconnects, which takes a few seconds."""
LINE_BYTES = 1 << 20
"""Longest line: a status of many sensors is some kB."""


class DaemonError(FirmwareBridgeError):
    """A running affectd cannot be asked, or refuses; carries the socket, the reason and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        self.path = path
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{path}: {reason}; {remedy}")


def socket_path() -> Path:
    """Where affectd listens: AFFECTD_SOCKET, or the service's own place."""
    return Path(os.environ.get("AFFECTD_SOCKET") or DEFAULT_SOCKET)


def listened_at(path: Path) -> bool:
    """Whether somebody listens at a UNIX socket; the file alone may be that of a program that was killed."""
    with socket.socket(socket.AF_UNIX) as trial:
        try:
            trial.connect(str(path))
        except OSError:
            return False
        return True


@asynccontextmanager
async def ask(
    path: Path, request: dict[str, Any], *, answer_s: float = ANSWER_S
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Answers to one request, the first already known to be ``ok``; raises DaemonError.

    The request holds while inside. ConnectionRefusedError inside a DaemonError's cause: nobody listens, a dead socket.
    """
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES)
    except (OSError, TimeoutError) as error:
        raise _unreachable(path, error) from error
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        first = await _first(path, reader, answer_s)
        yield _answers(path, first, reader)
    except TimeoutError as error:
        raise DaemonError(path, f"no answer within {answer_s:g} s", "see its log: `journalctl -u affectd`") from error
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _first(path: Path, reader: asyncio.StreamReader, limit_s: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(limit_s):
            return _answer(path, await reader.readline())
    except ConnectionError as error:
        raise _unreachable(path, error) from error


async def status(path: Path) -> dict[str, Any]:
    """The daemon's status; raises DaemonError."""
    async with ask(path, {"do": "status"}) as answers:
        return dict((await anext(answers))["status"])


async def _answers(path: Path, first: dict[str, Any], reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    yield first
    while line := await reader.readline():
        yield _answer(path, line)


def _answer(path: Path, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        ok = answer["ok"]
    except (ValueError, TypeError, KeyError) as error:
        raise DaemonError(path, "no answer that can be read", "is it affectd that listens there?") from error
    if not ok:
        raise DaemonError(path, str(answer.get("error")), str(answer.get("remedy") or "see `affectd status`"))
    return dict(answer)


def _unreachable(path: Path, error: Exception) -> DaemonError:
    if isinstance(error, PermissionError):
        return DaemonError(path, "not permitted", "run as the user of the service, or join its group")
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return DaemonError(
            path, "no affectd listens there", "start it (`systemctl start affectd`), or name its --socket"
        )
    return DaemonError(path, f"cannot be reached ({error})", "see its log: `journalctl -u affectd`")
