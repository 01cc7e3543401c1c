"""One connected sensor and its stream, let go of in good order whatever happens: stopped, then disconnected.

Knows nothing of which sensor it is, nor of reconnecting: a tool that loses its link says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from firmware_bridge.codec import Codec, Options
from firmware_bridge.errors import DecodeError, FirmwareBridgeError, RadioError, RadioFault
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.pair.errors import PairError
from firmware_bridge.radio.conversation import Conversation
from firmware_bridge.radio.types import Central, GattClient

CONNECT_S = 45.0
"""A worn sensor advertises at least every 2 s, connecting with service discovery takes up to 30 s beside Wi-Fi."""
CALL_S = 12.0
"""Limit of one call: a GATT read after a failed pairing may never return."""
PAIR_S = 60.0
"""Limit of pairing: SMP allows 30 s between two steps, one of which is a person typing (Core 5.4, 3 H 3.4)."""
LET_GO_S = 8.0
"""Limit of each step of the leaving; BlueZ's own disconnection takes 2 s."""
UNREADABLE = 20
"""Notifications in a row from the first on that cannot be read: another vendor uses the same UUID."""
KEPT = 4096
"""Packets that may wait to be read; beyond it the oldest go."""

SERIAL_UUID = "00002a25-0000-1000-8000-00805f9b34fb"
"""Serial number string of the SIG's Device Information service."""
BATTERY_UUID = "00002a19-0000-1000-8000-00805f9b34fb"
"""Battery level of the SIG's Battery service, percent."""

T = TypeVar("T")


async def limited(work: Awaitable[T], limit_s: float, what: str, doing: str) -> T:
    """The work's result within a limit; RadioError after it."""
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        raise RadioError(what, RadioFault.TIMEOUT, f"{doing}: no answer within {limit_s:g} s") from None


async def let_go(work: Awaitable[Any]) -> None:
    """Leave politely, but leave: failures and silence change nothing any more."""
    with contextlib.suppress(FirmwareBridgeError, TimeoutError):
        async with asyncio.timeout(LET_GO_S):
            await work


class Link:
    """A connected sensor."""

    def __init__(self, address: str, client: GattClient, ended: asyncio.Event) -> None:
        self.address = address
        self.client = client
        self._ended = ended

    @property
    def ended(self) -> bool:
        """Whether the link is gone."""
        return self._ended.is_set()

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; RadioError as soon as the link ends, which a pending call may never tell."""
        task, end = asyncio.create_task(work), asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise RadioError(self.address, RadioFault.LINK, "the link ended")
            return task.result()
        finally:
            task.cancel()
            end.cancel()
            await asyncio.wait({task, end}, timeout=LET_GO_S)

    async def pair(self) -> None:
        """Pair and bond, unless bonded; raises RadioError."""
        await self.unless_ended(limited(self.client.pair(), PAIR_S, self.address, "pairing"))

    async def read(self, uuid: str) -> bytes | None:
        """Value of a characteristic; None where the sensor has none, or does not say."""
        try:
            return await limited(self.client.read(uuid), CALL_S, self.address, "read")
        except RadioError:
            return None

    async def battery(self) -> int | None:
        """Percent; None: the sensor does not say."""
        value = await self.read(BATTERY_UUID)
        return value[0] if value and value[0] <= 100 else None


@asynccontextmanager
async def linked(central: Central, address: str) -> AsyncIterator[Link]:
    """Connected while inside; raises RadioError."""
    ended = asyncio.Event()
    client = await central.connect(address, limit_s=CONNECT_S, on_disconnect=ended.set)
    try:
        yield Link(address, client, ended)
    finally:
        await let_go(client.disconnect())


class Feed:
    """What a started stream sends."""

    def __init__(self, link: Link, codec: Codec) -> None:
        self.info: StreamInfo = codec.stream_info
        """As this very sensor describes itself, once started."""
        self.codec = codec
        self.notifications = 0
        self.bad = 0
        """Notifications that do not follow the protocol."""
        self._link = link
        self._decoder = codec.decoder()
        self._packets: deque[tuple[Packet, int]] = deque(maxlen=KEPT)
        self._came = asyncio.Event()
        self._read_any = False

    def hear(self, uuid: str, data: bytes) -> None:
        """One notification."""
        if uuid != self.codec.data_uuid:
            return
        now_ns = round(asyncio.get_running_loop().time() * 1e9)
        self.notifications += 1
        try:
            packets = self._decoder.push(data)
        except DecodeError as error:
            self.bad += 1
            packets = list(error.packets)
        self._packets.extend((packet, now_ns) for packet in packets)
        self._read_any |= bool(packets)
        self._came.set()

    async def packets(self) -> AsyncGenerator[tuple[Packet, int], None]:
        """Each packet with its arrival in ns, until the stream fails: RadioError or PairError says how."""
        limit_s = self.codec.first_s
        while True:
            while self._packets:
                limit_s = self.codec.stall_s
                yield self._packets.popleft()
            doing = f"the stream of {self.codec.protocol}"
            await self._link.unless_ended(limited(self._more(), limit_s, self._link.address, doing))

    async def packets_or_quiet(self, quiet_s: float) -> AsyncGenerator[Packet | None, None]:
        """Each packet, and None whenever none has come for so long: some sensors are silent off the skin."""
        while True:
            while self._packets:
                yield self._packets.popleft()[0]
            try:
                await self._link.unless_ended(asyncio.wait_for(self._more(), quiet_s))
            except TimeoutError:
                yield None

    async def _more(self) -> None:
        """Wait for a notification; raises PairError where none so far could be read."""
        self._came.clear()
        if not self._read_any and self.bad >= UNREADABLE:
            raise PairError(self._link.address, f"sends nothing that {self.codec.protocol} can read", FOREIGN)
        await self._came.wait()


FOREIGN = "another vendor may use the same UUID, or its firmware another version; `affectd-pair sensors` lists ours"


@asynccontextmanager
async def streaming(link: Link, codec: Codec, options: Options) -> AsyncIterator[Feed]:
    """Streaming while inside, stopped whatever happens; raises ExchangeError, DecodeError, RadioError, PairError."""
    feed = Feed(link, codec)
    talk = Conversation(codec.protocol, link.client, feed.hear)
    try:
        try:
            answers = await link.unless_ended(talk.run(codec.start(options)))
        except ValueError as error:
            raise PairError(codec.protocol, str(error), "pair it again at its own rate") from error
        feed.info = codec.describe(answers)
        yield feed
    finally:
        if not link.ended:
            await let_go(talk.run(codec.stop))
