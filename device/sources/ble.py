"""A sensor on the radio: connect, start its stream, hand on its notifications, reconnect, and always stop the stream.

It knows nothing of signals. The one file of device that imports bleak, and only once a connection is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from device.errors import SourceError
from device.notification import Notification
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.errors import DecodeError
from firmware_bridge.packet import StreamInfo
from firmware_bridge.protocols import codec
from firmware_bridge.registry import Sensor

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
    """How long each step may take, s. Every await on the radio has a limit: a call into BlueZ may never return."""

    connect: float = 30.0
    """bleak's own default."""
    request: float = 10.0
    """One read, write or subscription; a first one may have to pair."""
    first: float = 35.0
    """Until the first notification: an H10 may start up to 30 s late."""
    stall: float = 10.0
    """Between notifications: 18 frames of an H10, 20 of an open EDA sensor."""
    leave: float = 1.0
    """Each of the two steps on the way out: a clean stop takes under 5 s in all, a dead link or not."""
    backoff: float = 1.0
    """Before the second attempt to connect; doubles up to ``backoff_max``."""
    backoff_max: float = 60.0


class GattClient(Protocol):
    """The part of ``bleak.BleakClient`` that is used; a scripted fake offers the same."""

    async def connect(self) -> None:
        """Connect, or raise."""

    async def disconnect(self) -> None:
        """Let go of the link."""

    async def read_gatt_char(self, uuid: str, /) -> bytearray:
        """Value of a characteristic."""

    async def write_gatt_char(self, uuid: str, data: bytes, /, response: bool) -> None:
        """Write a characteristic."""

    async def start_notify(self, uuid: str, callback: Callable[[Any, bytearray], None], /) -> None:
        """Subscribe to notifications or indications."""


ClientFactory = Callable[..., GattClient]
"""Called as ``factory(address, disconnected_callback=..., timeout=...)``."""


class Answer(Protocol):
    """A sensor's answer to a command."""

    @property
    def op(self) -> int:
        """The command."""

    @property
    def status(self) -> int:
        """0 is success."""


_ANSWERS: Mapping[str, Callable[[bytes], Answer]] = {
    polar_pmd.PROTOCOL: polar_pmd.Response.from_bytes,
    open_eda.PROTOCOL: open_eda.Response.from_bytes,
}
_STARTED: Mapping[str, frozenset[int]] = {
    polar_pmd.PROTOCOL: frozenset({polar_pmd.Status.OK, polar_pmd.Status.ALREADY_IN_STATE}),
    open_eda.PROTOCOL: frozenset({open_eda.Result.OK}),
}


class _LinkError(Exception):
    """The link failed in a way that a new connection may cure."""


class BleSource:
    """One paired sensor. ``client`` stands in for ``bleak.BleakClient``."""

    def __init__(
        self,
        sensor: Sensor,
        *,
        client: ClientFactory | None = None,
        timings: Timings | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.sensor = sensor
        self.codec = codec(sensor.protocol)
        self.timings = timings or Timings()
        self._client = client
        self._clock_ns = clock_ns
        self._sleep = sleep

    @property
    def name(self) -> str:
        """The sensor's name."""
        return self.sensor.name

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """One stream, named like the sensor, at the protocol's nominal rate."""
        return {self.sensor.name: self.codec.STREAM_INFO}

    async def notifications(self) -> AsyncGenerator[Notification, None]:
        """Notifications, over as many connections as it takes; raises SourceError where no new connection can help."""
        failures = 0
        while True:
            try:
                async with contextlib.aclosing(self._connection()) as notifications:
                    async for notification in notifications:
                        failures = 0
                        yield notification
            except (_LinkError, TimeoutError, OSError, EOFError, _bleak_error()) as error:
                wait = min(self.timings.backoff * 2**failures, self.timings.backoff_max)
                failures += 1
                reason = str(error) or type(error).__name__
                _log.warning("sensor %s: %s; next attempt in %g s", self.name, reason, wait)
                await self._sleep(wait)

    async def _connection(self) -> AsyncGenerator[Notification, None]:
        """Notifications of one connection; a callback that comes after its end finds a queue that nobody reads."""
        queue: asyncio.Queue[Notification | None] = asyncio.Queue()
        factory = self._client or _bleak_client()
        client = factory(
            self.sensor.address, disconnected_callback=lambda _: queue.put_nowait(None), timeout=self.timings.connect
        )
        try:
            async with asyncio.timeout(self.timings.connect):
                await client.connect()
            await self._start(client, queue)
            _log.info("sensor %s: streaming", self.name)
            limit = self.timings.first
            while (notification := await self._next(queue, limit)) is not None:
                limit = self.timings.stall
                yield notification
            raise _LinkError("the link is gone")
        finally:
            await self._leave(client)

    async def _next(self, queue: asyncio.Queue[Notification | None], limit: float) -> Notification | None:
        try:
            return await asyncio.wait_for(queue.get(), limit)
        except TimeoutError:
            raise _LinkError(f"connected, but silent for {limit:g} s") from None

    async def _start(self, client: GattClient, queue: asyncio.Queue[Notification | None]) -> None:
        """Check that it is the sensor we know, subscribe, start."""
        await self._check(client)
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        def on_data(_: object, data: bytearray) -> None:
            queue.put_nowait(Notification(self.sensor.name, self._clock_ns(), bytes(data)))

        await self._request(client.start_notify(self.codec.DATA_UUID, on_data))
        subscribe = client.start_notify(self.codec.CONTROL_UUID, lambda _, data: answers.put_nowait(bytes(data)))
        await self._request(subscribe)
        await self._request(client.write_gatt_char(self.codec.CONTROL_UUID, self.codec.START, response=True))
        async with asyncio.timeout(self.timings.request):
            await self._started(answers)

    async def _check(self, client: GattClient) -> None:
        value = await self._request(client.read_gatt_char(self.codec.INFO_UUID))
        expected = self.codec.STREAM_INFO
        try:
            info = self.codec.read_info(bytes(value))
        except DecodeError as error:
            remedy = "use a sensor that speaks it, or pair again with `affectd-pair add`"
            raise SourceError(self.name, f"is not what it was paired as: {error}", remedy) from error
        if info != expected:
            found, wanted = f"{info.sfreq:g} Hz, clock {info.tick_hz:g} Hz", f"{expected.sfreq:g}, {expected.tick_hz:g}"
            raise SourceError(self.name, f"sends {found} where {wanted} is expected", "set the sensor to it")

    async def _started(self, answers: asyncio.Queue[bytes]) -> None:
        """Wait for the answer to START; another answer, or none that can be read, is not it."""
        protocol = self.sensor.protocol
        while True:
            try:
                answer = _ANSWERS[protocol](await answers.get())
            except DecodeError as error:
                _log.debug("sensor %s: %s", self.name, error)
                continue
            if answer.op == self.codec.START[0]:
                break
        if answer.status not in _STARTED[protocol]:
            raise _LinkError(f"refuses to start its stream, status {answer.status}")

    async def _leave(self, client: GattClient) -> None:
        """Stop the stream, which would empty the sensor's battery, and disconnect; a dead link may refuse both."""
        trouble = (TimeoutError, OSError, EOFError, _bleak_error())
        with contextlib.suppress(*trouble):
            async with asyncio.timeout(self.timings.leave):
                await client.write_gatt_char(self.codec.CONTROL_UUID, self.codec.STOP, response=True)
        with contextlib.suppress(*trouble):
            async with asyncio.timeout(self.timings.leave):
                await client.disconnect()

    async def _request(self, awaitable: Awaitable[T]) -> T:
        async with asyncio.timeout(self.timings.request):
            return await awaitable


def _bleak_client() -> ClientFactory:
    try:
        from bleak import BleakClient
    except ImportError as error:
        raise SourceError("bluetooth", "bleak is not installed", "pip install 'affectd[device]'") from error
    return cast(ClientFactory, BleakClient)


def _bleak_error() -> type[Exception]:
    """bleak's root error; without bleak nothing can raise it."""
    try:
        from bleak.exc import BleakError
    except ImportError:
        return _LinkError
    return BleakError
