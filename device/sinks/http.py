"""Predictions and events for programs that come and read them over HTTP: live over WebSocket, and what they missed.

Everything goes into a log on the disk first, from which readers are served. A thread with an event loop of its own does
that, so that no reader, however many and whatever they send, holds up a sample. docs/API.md is what readers rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from device.config import HttpConfig
from device.errors import SinkError
from device.sinks.base import Item, MadeBy, Written, device_id
from device.sinks.message_log import MessageLog
from device.sinks.messages import Messages, Stamp
from device.sinks.readers import PATIENCE_S, Door, Readers
from device.sinks.secret import load_certificate, read_box, read_token
from device.sinks.sqlite import Run
from device.wall import host_ns
from firmware_bridge.packet import StreamInfo

REQUEST_S = 10.0
"""For a connection to be encrypted, and for a request to come."""
CROWD = 2
"""Connections for each reader that may be there; beyond it not even a refusal."""
SEND_BYTES = 1 << 16
"""What the kernel holds for a reader that does not take it."""
LAST_S = 1.0
"""At the end, for readers to take what they have not had; they may ask for it after the next start."""
CUT_S = 0.1
"""For one that has not, then."""
JOIN_S = 2.5
ACCEPT_PAUSE_S = 1.0
"""Where the system has no room for a connection."""

_log = logging.getLogger(__name__)


class HttpSink(Written):
    """Serves readers for one run of the daemon."""

    name = "http"

    def __init__(
        self,
        config: HttpConfig,
        run: Run,
        streams: Mapping[str, StreamInfo],
        run_id: str,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Open the log and begin to serve; raises SinkError for what cannot be used."""
        door = _door(config, read_token(config))
        self._tls = _tls(config)
        self._run = run
        self._streams = streams
        self._stamp = Stamp(config.device or device_id(), run_id)
        self._messages = Messages(self._stamp)
        self._crowd = CROWD * config.readers
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        box = read_box("http", "log_key", config.log_key_file)
        with contextlib.ExitStack() as opened:
            listening = opened.enter_context(_listening(config))
            self.port: int = listening.getsockname()[1]
            self._log = MessageLog(Path(config.log), config.log_messages, run.subject, box)
            opened.pop_all()
        self._readers = Readers(self._log, door, self._state, config.readers, patience_s)
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, args=[listening], name="http", daemon=True)
        self._thread.start()
        self._loop.result()
        if not config.is_loopback and not config.tls:
            _log.warning("sink http: tls = false: the token and all that is read go over the network in the clear")
        _log.info("sink http: readers are served at %s, port %d", config.host, self.port)

    def readers(self) -> dict[str, int]:
        """Counts, for a status."""
        return self._readers.told()

    def write(self, item: Item) -> None:
        """Put one on the disk, and wake who waits for it."""
        self._log.put(*self._messages.of(item, time.time_ns() - host_ns()))
        self._loop.result().call_soon_threadsafe(self._readers.wake)

    async def renew(self, made_by: MadeBy) -> None:
        """Tell those who read live, too."""
        self._run = self._run.with_bundle(made_by)
        self._loop.result().call_soon_threadsafe(self._readers.renew)

    async def close(self) -> None:
        """Let readers have the last of it, for a moment."""
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self._loop.result().call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, JOIN_S)
        self._log.close()

    def _state(self) -> dict[str, Any]:
        log = self._log
        kept = {"newest": log.position(log.newest), "kept": log.waiting, "most": log.most}
        return self._stamp.of_state(self._run, self._streams, log=kept)

    def _serve(self, listening: socket.socket) -> None:
        """The thread."""
        try:
            with listening:
                asyncio.run(self._served(listening))
        except Exception as error:
            _log.exception("sink http: nobody is served any more")
            if not self._loop.done():
                self._loop.set_exception(error)

    async def _served(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1, "http"))  # the log is read by one at a time
        runner = web.AppRunner(
            self._readers.app(),
            handler_cancellation=True,
            access_log=None,
            logger=_Complaints(self._readers),
            keepalive_timeout=REQUEST_S,
            lingering_time=0.0,
            auto_decompress=False,
            shutdown_timeout=CUT_S,
        )
        await runner.setup()
        assert runner.server is not None
        accepting = asyncio.create_task(self._accept(listening, runner.server))
        self._loop.set_result(loop)
        await self._stop.wait()
        accepting.cancel()
        await self._readers.leave(LAST_S)
        await runner.cleanup()

    async def _accept(self, listening: socket.socket, server: web.Server) -> None:
        """Connections, as many as there is room for."""
        greeted: set[asyncio.Task[None]] = set()
        while True:
            try:
                peer, _ = await asyncio.get_running_loop().sock_accept(listening)
            except OSError as error:
                _log.warning("sink http: no connection can be taken: %s", error.strerror or error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(greeted) + len(server.connections) >= self._crowd:
                self._readers.refused += 1
                peer.close()
                continue
            task = asyncio.create_task(self._greet(peer, server))
            greeted.add(task)
            task.add_done_callback(greeted.discard)

    async def _greet(self, peer: socket.socket, server: web.Server) -> None:
        """Hand one to the server, encrypted where that is wanted."""
        limit = {"ssl_handshake_timeout": REQUEST_S} if self._tls else {}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(server, peer, ssl=self._tls, **limit)
        except OSError:  # no TLS, or not in time
            self._readers.refused += 1
            peer.close()


class _Complaints(logging.Logger):
    """What the server has to say of bytes that are no request is only counted: anybody could fill a log with it."""

    def __init__(self, readers: Readers) -> None:
        super().__init__(__name__)
        self._readers = readers

    def handle(self, record: logging.LogRecord) -> None:
        """Our own errors are said."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            self._readers.refused += 1
        else:
            _log.error("sink http: a request ends", exc_info=error)


def _door(config: HttpConfig, token: str | None) -> Door:
    host = socket.gethostname().lower()
    own = set() if config.is_loopback else {host, f"{host}.local"}
    names = frozenset(own | {name.lower() for name in config.names})
    return Door(token, frozenset(it.lower() for it in config.origins), names, not config.is_loopback)


def _listening(config: HttpConfig) -> socket.socket:
    """Raises SinkError."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host, config.port), family=family, backlog=64)
    except OSError as error:
        reason = f"cannot listen at {config.host}, port {config.port}: {error.strerror or error}"
        raise SinkError("http", reason, "choose another [sinks.http] host or port") from error
    listening.setblocking(False)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)  # those that are accepted have it from here
    return listening


def _tls(config: HttpConfig) -> ssl.SSLContext | None:
    """Raises SinkError."""
    if config.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, "http", config.certificate, config.key)
    return context
