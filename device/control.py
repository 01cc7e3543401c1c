"""The daemon's UNIX socket: status, the loan of a sensor to a tool, a look at what a sensor sends, a baseline,
the wearer's labels, events.

It knows nothing of radios or signals. `firmware_bridge/daemon_client.py` says what goes over it and asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from device.errors import ControlError, DeviceError
from device.notification import Arrival, LinkState, Notification
from firmware_bridge.daemon_client import listened_at
from firmware_bridge.packet import StreamInfo
from firmware_bridge.registry import Sensor

_MODE = 0o660
"""The service's user and its group: a status tells when somebody is at home."""
WATCH_QUEUE = 256
"""Notifications a watcher may lag behind; beyond it the oldest is dropped, and the daemon never waits."""
REQUEST_BYTES = 1 << 16
REQUEST_S = 10.0
"""For a request to come: it is one line that a tool has at hand."""
READ_S = 30.0
"""For whoever asks to read an answer; beyond it, it hangs or does not mean to."""
TALKS = 64
"""At once: a daemon has a handful of tools, and each costs it a task and a descriptor."""
CROWD = 4 * TALKS
"""Beyond it not even a refusal."""

_log = logging.getLogger(__name__)

Answers = AsyncGenerator[dict[str, Any], None]
"""To a request that takes its time; raises DeviceError where it is refused, and is closed when nobody listens."""


class Link(Protocol):
    """What control asks of a link."""

    @property
    def state(self) -> LinkState:
        """Where it stands."""


class Lendable(Protocol):
    """What control asks of a sensor's source; :class:`device.sources.ble.BleSource` is one."""

    @property
    def sensor(self) -> Sensor:
        """The sensor."""

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """Its stream."""

    @property
    def link(self) -> Link:
        """Its link."""

    async def pause(self) -> None:
        """Stop the stream, let go of the link and stay away."""

    async def resume(self) -> None:
        """Go on."""


class _RequestError(Exception):
    """A request that is refused, for people."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.answer = {"ok": False, "error": reason, "remedy": remedy}


class Control:
    """Answers requests; ``status`` makes the answer to the commonest one, ``baseline`` those to the longest, ``label``
    that of a wearer to what he lives, ``mark`` that to an event; ``orders``, by name, are carried out whole even where
    nobody waits for the answer any more."""

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        sources: Iterable[Lendable],
        baseline: Callable[[dict[str, Any]], Answers] | None = None,
        label: Callable[[dict[str, Any]], Answers] | None = None,
        mark: Callable[[dict[str, Any]], Answers] | None = None,
        orders: Mapping[str, Callable[[dict[str, Any]], Answers]] | None = None,
    ) -> None:
        self._status = status
        self._baseline = baseline
        self._label = label
        self._mark = mark
        self._orders = orders or {}
        self._sources = tuple(sources)
        self._lent: set[str] = set()
        self._watchers: dict[asyncio.Queue[Notification], str] = {}
        self._talks: set[asyncio.Task[None]] = set()

    def tap(self, arrival: Arrival) -> None:
        """Show one arrival to whoever watches its stream."""
        if not self._watchers or not isinstance(arrival, Notification):
            return
        for queue, stream in self._watchers.items():
            if stream == arrival.stream:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(arrival)

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Meanwhile answer at ``path``; raises ControlError where another affectd does, or the place is no good."""
        bound = _bind(path)
        server = await asyncio.start_unix_server(self._begin, sock=bound, limit=REQUEST_BYTES)
        try:
            yield
        finally:
            server.close()
            for talk in self._talks:
                talk.cancel()
            await asyncio.gather(*self._talks, return_exceptions=True)
            await server.wait_closed()
            path.unlink(missing_ok=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._talks) >= CROWD:
            writer.transport.abort()
            return
        talk = asyncio.create_task(self._talk(reader, writer), name="control")
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; what it holds is given back when the other side closes."""
        with contextlib.suppress(OSError):  # whoever asked has gone
            try:
                line = await _line(reader)  # first: what is closed with bytes unread loses its answer
                if len(self._talks) > TALKS:
                    raise _RequestError(f"{TALKS} tools ask already", "end some of them")
                await self._answer(_request(line), reader, writer)
            except _RequestError as refused:
                await _say(writer, refused.answer)
            except OSError:
                raise
            except Exception:  # whatever a request brings about, others are answered
                _log.exception("control: a request ends")
                await _say(writer, _RequestError("it cannot be answered", "see the log, and report it").answer)
            finally:
                writer.close()
                await writer.wait_closed()

    async def _answer(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match request:
            case {"do": "status"}:
                await _say(writer, {"ok": True, "status": self._status()})
            case {"do": "lend", **rest}:
                await self._lend(rest.get("address"), reader, writer)
            case {"do": "watch", "sensor": name}:
                await self._watch(str(name), reader, writer)
            case {"do": "baseline", **rest} if self._baseline is not None:
                await _tell_until_gone(self._baseline(rest), reader, writer)
            case {"do": "label", **rest} if self._label is not None:
                await _tell_until_gone(self._label(rest), reader, writer)
            case {"do": "mark", **rest} if self._mark is not None:
                await _tell_until_gone(self._mark(rest), reader, writer)
            case {"do": str(name), **rest} if name in self._orders:
                await _tell(self._orders[name](rest), writer)
            case _:
                raise _RequestError("unknown request", "use the affectd-pair of the same version")

    async def _lend(self, address: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Stay off the radio, all but the streams that run; with an address, off that sensor as well."""
        wanted = [it for it in self._sources if it.sensor.address == address or not _linked(it)]
        if taken := {it.sensor.name for it in wanted if it.sensor.address == address} & self._lent:
            raise _RequestError(f"{taken.pop()} is lent to another tool", "end that one first")
        mine = [it for it in wanted if it.sensor.name not in self._lent]
        self._lent |= {it.sensor.name for it in mine}
        try:
            await asyncio.gather(*(it.pause() for it in mine))
            await _say(writer, {"ok": True, "paused": [it.sensor.name for it in mine]})
            await reader.read()  # until the other side closes, or dies
        finally:
            self._lent -= {it.sensor.name for it in mine}
            await asyncio.gather(*(it.resume() for it in mine))

    async def _watch(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = next((it for it in self._sources if name in (it.sensor.name, it.sensor.address)), None)
        if source is None:
            raise _RequestError(f"no sensor {name!r}", "`affectd status` shows the sensors")
        if not _linked(source):
            raise _RequestError(f"{source.sensor.name} is not streaming", "`affectd status` says why")
        ((stream, info),) = source.streams.items()
        queue: asyncio.Queue[Notification] = asyncio.Queue(WATCH_QUEUE)
        self._watchers[queue] = stream
        gone = asyncio.create_task(reader.read())
        try:
            await _say(writer, {"ok": True, "stream": msgspec.to_builtins(info)})
            while (notification := await _next(queue, gone)) is not None:
                await _say(writer, {"ok": True, "host_ns": notification.host_ns, "data": notification.data.hex()})
        finally:
            del self._watchers[queue]
            gone.cancel()


async def _tell_until_gone(answers: Answers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send answers as they come; what makes them ends when the other side closes, or dies."""
    telling = asyncio.create_task(_tell(answers, writer))
    gone = asyncio.create_task(reader.read())
    try:
        await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
    finally:
        telling.cancel()
        gone.cancel()
        await asyncio.wait({telling, gone})


async def _tell(answers: Answers, writer: asyncio.StreamWriter) -> None:
    async with contextlib.aclosing(answers):
        try:
            async for answer in answers:
                await _say(writer, {"ok": True, **answer})
        except DeviceError as error:
            raise _RequestError(*str(error).rsplit("; ", 1)) from error


def _linked(source: Lendable) -> bool:
    return source.link.state in ("starting", "streaming", "silent")


async def _next(queue: asyncio.Queue[Notification], gone: asyncio.Task[bytes]) -> Notification | None:
    """The next notification; None once the other side has gone."""
    coming = asyncio.create_task(queue.get())
    try:
        await asyncio.wait({coming, gone}, return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else None
    finally:
        coming.cancel()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(REQUEST_S):
            return await reader.readline()
    except (ValueError, TimeoutError):  # a line beyond the limit, in bytes or in time
        return b""


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise _RequestError("not a request: a line with a JSON object is expected", "use `affectd status`")
    return request


async def _say(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    try:
        async with asyncio.timeout(READ_S):
            await writer.drain()
    except TimeoutError:
        writer.transport.abort()  # closing would wait until all is read
        raise


def _bind(path: Path) -> socket.socket:
    """A listening place for this process alone; what a killed one left is cleared away."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if listened_at(path):
            remedy = "stop it, or give this one another [control] socket"
            raise ControlError(path, "", "another affectd listens here", remedy)
        path.unlink(missing_ok=True)
        return _bound(path)
    except OSError as error:
        remedy = "choose another [control] socket (a short path in a directory that this user may write)"
        raise ControlError(path, "", f"cannot listen: {error.strerror or error}", remedy) from error


def _bound(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    old = os.umask(0o777 & ~_MODE)
    try:
        bound.bind(str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(old)
    return bound
