"""A virtual sensor's running stream: makes each packet when its last sample is taken, and loses or doubles some.

Knows nothing of protocols or of bumble: bytes come from ``encode`` and go to ``send``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from firmware_bridge.virtual.clock import SensorClock
from firmware_bridge.virtual.spec import SensorSpec

Cure = Literal["start", "connect", "resume"]
"""What ends a silence: the next start command, the next link, or nothing but the command ``resume``."""
Send = Callable[[bytes], Awaitable[None]]
"""One notification to whoever has subscribed."""


@dataclass
class Faults:
    """What is wrong with a sensor just now; changed by commands."""

    loss: float
    duplicates: float
    late_s: float
    lead_off: bool
    silent_until: Cure | None = None
    """Packets are made, none is sent, until then."""

    @classmethod
    def of(cls, spec: SensorSpec) -> Faults:
        """What the sensor is asked to begin with."""
        return cls(spec.loss, spec.duplicates, spec.late_s, spec.lead_off)


@dataclass
class Counts:
    """What became of the packets; a packet sent twice counts once in ``sent``."""

    made: int = 0
    sent: int = 0
    lost: int = 0
    doubled: int = 0


@dataclass
class Stream:
    """``n`` samples at ``sfreq`` a packet, numbered since power-on."""

    name: str
    clock: SensorClock
    faults: Faults
    luck: random.Random
    send: Send
    counts: Counts = field(default_factory=Counts)
    _task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._task is not None

    def start(self, sfreq: float, n: int, encode: Callable[[int], bytes]) -> None:
        """Begin with the next sample; ``encode`` gets the number of a packet's first. Does nothing where it runs."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(sfreq, n, encode))

    def stop(self) -> None:
        """End at once; does nothing where it does not run."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, sfreq: float, n: int, encode: Callable[[int], bytes]) -> None:
        await asyncio.sleep(self.faults.late_s / self.clock.rate)
        first = math.ceil(self.clock.now() * sfreq)
        while True:
            await asyncio.sleep(max(0.0, self.clock.wait_s((first + n - 1) / sfreq)))
            await self._deliver(encode(first))
            first += n

    async def _deliver(self, data: bytes) -> None:
        """The dice are thrown for every packet, so that equal seeds hit equal packets whatever else happens."""
        lost, doubled = self.luck.random() < self.faults.loss, self.luck.random() < self.faults.duplicates
        self.counts.made += 1
        if lost or self.faults.silent_until is not None:
            self.counts.lost += 1
            return
        await self.send(data)
        self.counts.sent += 1
        if doubled:
            await self.send(data)
            self.counts.doubled += 1
