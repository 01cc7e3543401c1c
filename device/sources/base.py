"""What every source is, and the pacing that plays notifications as if they came from a radio.

It knows nothing of protocols, radios or files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from device.notification import Arrival
from firmware_bridge.packet import StreamInfo

YIELD_EVERY = 256
"""Notifications between two turns of the event loop when nothing is waited for, so that a stop is heard."""


class Source(Protocol):
    """Gives arrivals until it ends or is closed."""

    @property
    def name(self) -> str:
        """What people call it in logs and messages."""

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """How to read each stream it gives, by the name in its notifications."""

    def notifications(self) -> AsyncGenerator[Arrival, None]:
        """Start, and give notifications in order of arrival; closing the generator lets go of the sensor."""


async def paced(
    notifications: Iterable[Arrival],
    speed: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncGenerator[Arrival, None]:
    """Give out each notification when it is due at ``speed`` times real time; at once where speed is None."""
    begun, first = clock(), None
    for number, notification in enumerate(notifications):
        if speed is None:
            if number % YIELD_EVERY == 0:
                await sleep(0.0)
        else:
            first = notification.host_ns if first is None else first
            due = begun + (notification.host_ns - first) / 1e9 / speed
            await sleep(max(0.0, due - clock()))
        yield notification
