"""Runs the tables of ``exchange.py`` over a link, with a limit on every step.

Knows nothing of protocols or of what carries the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.exchange import Action, Exchange, Read, Subscribe, Table, Write
from firmware_bridge.radio.types import GattClient

Hear = Callable[[str, bytes], None]
"""Called with (characteristic, value) for every notification, answers included."""


class Conversation:
    """All that is said to one connected sensor; ``hear`` gets every notification of what a table subscribed to."""

    def __init__(self, protocol: str, client: GattClient, hear: Hear) -> None:
        self.protocol = protocol
        self._client = client
        self._hear = hear
        self._inbox: asyncio.Queue[tuple[str, bytes]] | None = None

    async def run(self, table: Table) -> dict[str, bytes]:
        """From the first state to DONE; the answers by state. Raises ExchangeError, RadioError."""
        exchange = Exchange(self.protocol, table)
        self._inbox = asyncio.Queue()
        try:
            while not exchange.done:
                await self._step(exchange, self._inbox)
        finally:
            self._inbox = None
        return exchange.answers

    async def _step(self, exchange: Exchange, inbox: asyncio.Queue[tuple[str, bytes]]) -> None:
        state, limit_s = exchange.state, exchange.rule.limit_s
        try:
            async with asyncio.timeout(limit_s):
                exchange.did(await self._perform(exchange.rule.do))
                while exchange.state == state:
                    exchange.heard(*await inbox.get())
        except TimeoutError:
            reason = f"no answer to {state!r} within {limit_s:g} s"
            raise RadioError(self.protocol, RadioFault.TIMEOUT, reason) from None

    async def _perform(self, action: Action) -> bytes:
        match action:
            case Read(uuid):
                return await self._client.read(uuid)
            case Write(uuid, data, response):
                await self._client.write(uuid, data, response)
            case Subscribe(uuid):
                await self._client.subscribe(uuid, lambda data: self._arrived(uuid, data))
        return b""

    def _arrived(self, uuid: str, data: bytes) -> None:
        if self._inbox is not None:
            self._inbox.put_nowait((uuid, data))
        self._hear(uuid, data)
