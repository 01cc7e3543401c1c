"""Who advertises nearby: advertisements in, a bounded survey of devices out.

Knows nothing of what carries the advertisements or of how they are shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from firmware_bridge.pair.kinds import Kind, recognise
from firmware_bridge.pair.text import clean
from firmware_bridge.radio.types import Advertisement, Central
from firmware_bridge.registry import is_address

SCAN_S = 8.0
"""Long enough to hear a sensor that advertises every 2 s, several of its advertisements lost."""
MAX_DEVICES = 512
"""Kept at a time: a crowded hall has 200; addresses made up by the thousand must not fill the memory."""
MAX_SERVICES = 32
"""Kept of one device: an advertisement holds at most 14 of 16 bits, extended ones some hundred."""
_BREATHE = 64
"""Advertisements after which others get their turn: a flood may never wait."""


@dataclass(frozen=True, slots=True)
class Found:
    """One device that was heard, its name fit to print."""

    address: str
    name: str
    rssi: int
    """Received power of the newest advertisement, dBm."""
    kind: Kind
    heard_s: float = 0.0
    """When last, in the loop's time."""
    services: frozenset[str] = frozenset()


class Survey:
    """Everything heard so far, at most ``MAX_DEVICES``."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}
        self.left_out = 0
        """Devices that had to make room."""

    def hear(self, heard: Advertisement, now_s: float) -> None:
        """Take one advertisement; a later one adds what an earlier did not say."""
        address = heard.address.upper()
        if not is_address(address):
            return
        before = self._found.pop(address, None)
        name = clean(heard.name) or (before.name if before else "")
        services = before.services if before else frozenset[str]()
        if len(services) < MAX_SERVICES:
            services |= {uuid.lower() for uuid in heard.service_uuids[:MAX_SERVICES]}
        if len(self._found) >= MAX_DEVICES:
            self._make_room()
        self._found[address] = Found(address, name, heard.rssi, recognise(name, services), now_s, services)

    def _make_room(self) -> None:
        """The one heard longest ago goes, of those of no use if there are any."""
        useless = (address for address, found in self._found.items() if not found.kind.usable)
        del self._found[next(useless, next(iter(self._found)))]
        self.left_out += 1

    def of(self, address: str) -> Found | None:
        """One device, if it was heard."""
        return self._found.get(address)

    def sorted(self) -> list[Found]:
        """What affectd can use first, then what is known, then the nearest."""
        return sorted(self._found.values(), key=lambda it: (not it.kind.usable, not it.kind.use, -it.rssi, it.address))


async def scan(
    central: Central,
    seconds: float,
    heard: Callable[[Survey], None] = lambda _: None,
    enough: Callable[[Survey], bool] = lambda _: False,
) -> Survey:
    """Listen for some seconds or until there is enough; ``heard`` is told of every advertisement. Raises RadioError."""
    survey, loop, count = Survey(), asyncio.get_running_loop(), 0
    end = loop.time() + seconds
    async with central.scan() as advertisements:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                async for advertisement in advertisements:
                    survey.hear(advertisement, loop.time())
                    heard(survey)
                    count += 1
                    if enough(survey):
                        break
                    if count % _BREATHE == 0:
                        await asyncio.sleep(0)
    return survey
