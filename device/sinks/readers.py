"""Readers of the message log over HTTP: pages of what is kept; what comes live, over WebSocket or server-sent events.

It takes no orders, and knows nothing of the daemon. Each reader is served from the log at its own pace, so that a slow
one costs the others nothing, and memory one batch. docs/API.md is what readers rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from device.guarding import HEADERS, HOSTS, host_of, refused, same
from device.sinks.message_log import Entry, MessageLog

BATCH = 64
"""Messages read from the disk at once: about 40 kB."""
PAGE = 100
MOST = 1000
"""Messages of a page: if not asked for, and at most."""
PATIENCE_S = 30.0
"""For a reader to take what is sent; beyond it, it hangs, and may come again."""
CLOSE_S = 1.0
"""For a reader to hear that, and why, it is let go of."""
HEARTBEAT_S = 20.0
"""Of silence, after which a reader is asked whether it is there; half of it later it is gone."""
HEARD_BYTES = 1024
"""A reader has nothing to say but pongs and goodbyes."""
RETRY_S = 5
PROTOCOL = "affectd"
"""Subprotocol of WebSocket. A browser, which cannot give a header there, offers the token as a second one."""
TOKEN_PROTOCOL = "affectd.token."

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
T = TypeVar("T")


class _RefusedError(Exception):
    """A request that is refused, for people."""

    def __init__(self, status: int, reason: str, remedy: str, headers: dict[str, str] | None = None) -> None:
        self.response = refused(status, reason, remedy, headers)


class _Behind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stream is asked for."""

    since: str | None = None
    """Position of the last message that the reader has; from now on if not given."""


class _Page(_Behind, frozen=True, forbid_unknown_fields=True):
    """What a page is asked for; the newest messages without ``since``."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = PAGE


@dataclass(frozen=True, slots=True)
class Door:
    """Who may read."""

    token: str | None
    origins: frozenset[str] = frozenset()
    """Of web pages."""
    names: frozenset[str] = frozenset()
    """Of this machine, beside the usual ones."""
    takes_addresses: bool = False
    """Whether its addresses are names of it, too: no page is given an address for a name."""

    def check(self, request: web.Request) -> None:
        """Raise _RefusedError for one who may not."""
        host = host_of(request)
        if not (host in HOSTS or host in self.names or (self.takes_addresses and _is_address(host))):
            said = f"{host or 'a host without a name'} is not this device"
            raise _RefusedError(403, said, "ask by address, or add it to [sinks.http] names")
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() not in self.origins:
            raise _RefusedError(403, "this web page may not read", "add its origin to [sinks.http] origins")
        if request.method == "OPTIONS" and origin is not None:
            return  # a browser asks without the token whether the page may
        if self.token is not None and not same(_token(request), self.token):
            remedy = f"give it as a bearer token, or offer the subprotocols {PROTOCOL}, {TOKEN_PROTOCOL}TOKEN"
            raise _RefusedError(401, "the token is missing or wrong", remedy, {"WWW-Authenticate": "Bearer"})


class Readers:
    """Answers them; of one event loop, but for ``told``."""

    def __init__(
        self,
        log: MessageLog,
        door: Door,
        state: Callable[[], dict[str, Any]],
        most: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """``state`` is the payload of that name, ``most`` the number of readers at the same time."""
        self._messages = log
        self._door = door
        self._state = state
        self._most = most
        self._patience_s = patience_s
        self._news = asyncio.Event()
        self._renewals = 0
        self._stopping = False
        self._talks: set[asyncio.Task[Any]] = set()
        self.refused = self.late = 0
        """Requests and connections that were refused; readers that were let go of because they took nothing."""

    def app(self) -> web.Application:
        """Three places to read from, and nothing else."""
        app = web.Application(middlewares=[self._guarded])
        for path, handler in (("state", self._tell_state), ("messages", self._page), ("stream", self._stream)):
            app.router.add_get(f"/v1/{path}", handler, allow_head=False)
        return app

    def told(self) -> dict[str, int]:
        """Counts, for a status."""
        return {"reading": len(self._talks), "refused": self.refused, "late": self.late}

    def wake(self) -> None:
        """There is a new message."""
        self._news.set()
        self._news = asyncio.Event()

    def renew(self) -> None:
        """There is a new state."""
        self._renewals += 1
        self.wake()

    async def leave(self, for_s: float) -> None:
        """Let go of each as soon as it has all there is; of one that takes its time, after ``for_s``."""
        self._stopping = True
        self.wake()
        if self._talks:
            await asyncio.wait(self._talks, timeout=for_s)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse who may not read, or asks for what is not there, in one JSON object; no answer waits for ever."""
        try:
            self._door.check(request)
            response = _permit(request) if request.method == "OPTIONS" else await self._admitted(request, handler)
        except _RefusedError as error:
            self.refused += 1
            response = error.response
        except web.HTTPException as error:
            self.refused += 1
            response = refused(error.status, f"{request.method}: {error.reason}", "docs/API.md has what can be asked")
        if response.prepared:
            return response
        response.headers.update({**HEADERS, **self._shared(request)})
        response.force_close()
        with _aborting(request):
            await self._sent(_whole(request, response))
        return response

    def _shared(self, request: web.Request) -> dict[str, str]:
        """What tells a browser that the page, which has passed the door, may read the answer."""
        origin = request.headers.get("Origin", "")
        if origin.lower() not in self._door.origins:
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin", "Cross-Origin-Resource-Policy": "cross-origin"}

    async def _admitted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.can_read_body:
            raise _RefusedError(413, "a request has no body", "ask with GET and a query")
        if len(self._talks) >= self._most:
            remedy = "try again later, or raise [sinks.http] readers"
            raise _RefusedError(503, f"{self._most} readers are here already", remedy, {"Retry-After": str(RETRY_S)})
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            return await handler(request)
        finally:
            self._talks.discard(talk)

    async def _tell_state(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._state()), content_type="application/json")

    async def _page(self, request: web.Request) -> web.Response:
        asked = _asked(request, _Page)
        newest = self._messages.newest
        if asked.since is None:
            oldest = await asyncio.to_thread(lambda: self._messages.oldest)
            place = max(oldest - 1, newest - asked.limit, 0)
        else:
            place = self._place(asked.since)
        entries, place = await asyncio.to_thread(self._messages.read, place, asked.limit)
        page = {"messages": [msgspec.Raw(it.json) for it in entries], "next": self._messages.position(place)}
        return web.Response(body=msgspec.json.encode(page), content_type="application/json")

    def _place(self, position: str) -> int:
        try:
            return self._messages.place(position)
        except ValueError as error:
            raise _RefusedError(
                400, f"since: {error}", "give the position of a message as it was given to you"
            ) from error

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request, _Behind)
        since = request.headers.get("Last-Event-ID") if asked.since is None else asked.since
        since = self._messages.position(self._messages.newest) if since is None else since
        self._place(since)  # refused before it begins
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await self._over_events(request, since)
        return await self._over_websocket(request, since)

    async def _over_websocket(self, request: web.Request, since: str) -> web.WebSocketResponse:
        if not _offers(request, PROTOCOL):
            raise _RefusedError(400, "none of these subprotocols", f"offer {PROTOCOL}, or none")
        response = web.WebSocketResponse(
            protocols=[PROTOCOL], heartbeat=HEARTBEAT_S, compress=False, max_msg_size=HEARD_BYTES, timeout=CLOSE_S
        )
        with _aborting(request):
            await response.prepare(request)
            code, reason = await self._converse(response, since)
            async with asyncio.timeout(CLOSE_S):
                await response.close(code=code, message=reason.encode())
        return response

    async def _converse(self, response: web.WebSocketResponse, since: str) -> tuple[int, str]:
        """Tell until either side has had enough; the code and the reason with which it closes."""
        telling = asyncio.create_task(self._tell(since, lambda entry: response.send_str(entry.json.decode())))
        hearing = asyncio.create_task(response.receive())
        try:
            await asyncio.wait({telling, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
                return WSCloseCode.GOING_AWAY, "affectd stops; come again"
            if hearing.result().type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self.refused += 1
                return WSCloseCode.POLICY_VIOLATION, "nothing is taken here"
            return WSCloseCode.OK, ""
        except TimeoutError:
            return WSCloseCode.TRY_AGAIN_LATER, "too slow; come again with since"
        finally:
            self.late += isinstance(response.exception(), TimeoutError)  # it has not answered to the heartbeat
            await _ended(telling, hearing)

    async def _over_events(self, request: web.Request, since: str) -> web.StreamResponse:
        """https://html.spec.whatwg.org/multipage/server-sent-events.html"""
        headers = {"Content-Type": "text/event-stream", **HEADERS, **self._shared(request)}
        response = web.StreamResponse(headers=headers)
        response.force_close()
        with _aborting(request):
            await response.prepare(request)
            await self._tell(since, lambda entry: response.write(_event(entry)), lambda: response.write(b":\n\n"))
            await response.write_eof()
        return response

    async def _tell(
        self,
        since: str,
        send: Callable[[Entry], Awaitable[None]],
        ask: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Send what runs, all there is behind position ``since`` and then all that comes, until ``leave``; what runs
        also when it changes.

        ``ask`` is called in silence. Raises TimeoutError where nobody takes it.
        """
        place, renewals = self._place(since), -1
        while True:
            news = self._news
            if renewals != self._renewals:
                renewals = self._renewals
                await self._sent(send(Entry.of(since, "state", msgspec.json.encode(self._state()))))
            entries, place = await asyncio.to_thread(self._messages.read, place, BATCH)
            for entry in entries:
                await self._sent(send(entry))
                since = entry.position
            if entries:
                continue
            if self._stopping:
                return
            try:
                async with asyncio.timeout(HEARTBEAT_S if ask else None):
                    await news.wait()
            except TimeoutError:
                if ask is not None:
                    await self._sent(ask())

    async def _sent(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await sending
        except TimeoutError:
            self.late += 1
            raise


def _permit(request: web.Request) -> web.Response:
    """What a browser hears that asks beforehand."""
    asked = request.headers.get("Access-Control-Request-Method", "")
    if "Origin" not in request.headers or asked != "GET":
        raise web.HTTPMethodNotAllowed(request.method, ["GET"])
    headers = {"Access-Control-Allow-Methods": "GET", "Access-Control-Allow-Headers": "authorization, last-event-id"}
    return web.Response(status=204, headers=headers)


async def _whole(request: web.Request, response: web.StreamResponse) -> None:
    await response.prepare(request)
    await response.write_eof()


@contextlib.contextmanager
def _aborting(request: web.Request) -> Iterator[None]:
    """What nobody takes is not waited for: where sending fails the connection ends at once."""
    try:
        yield
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _event(entry: Entry) -> bytes:
    return f"id: {entry.position}\nevent: {entry.topic}\ndata: ".encode() + entry.json + b"\n\n"


def _asked(request: web.Request, kind: type[T]) -> T:
    query = request.query
    try:
        if len(query) != len(set(query)):
            raise msgspec.ValidationError("a key twice")
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _RefusedError(400, f"not what can be asked: {error}", "docs/API.md has what can be asked") from error


def _protocols(request: web.Request) -> list[str]:
    return [it.strip() for it in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]


def _offers(request: web.Request, protocol: str) -> bool:
    """Or nothing; then none is chosen."""
    return "Sec-WebSocket-Protocol" not in request.headers or protocol in _protocols(request)


def _token(request: web.Request) -> str:
    """What is shown; empty where nothing is."""
    shown = request.headers.get("Authorization", "")
    if shown[:7].lower() == "bearer ":
        return shown[7:].strip()
    return next((it.removeprefix(TOKEN_PROTOCOL) for it in _protocols(request) if it.startswith(TOKEN_PROTOCOL)), "")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
