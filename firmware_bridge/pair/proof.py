"""Proof that a sensor is on the right person: the pulse is the wearer's, or the electrodes answer to a touch.

Knows nothing of bonds or of the registry. The judges are pure; what runs them shows and asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from statistics import median_low
from typing import Any, Literal

from firmware_bridge.codecs import heart_rate
from firmware_bridge.errors import DecodeError, RadioError
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.pair.assess import Assess, Assessor
from firmware_bridge.pair.errors import CheckFailedError
from firmware_bridge.pair.link import CALL_S, Feed, Link, limited
from firmware_bridge.pair.person import Person, agrees

CONTACT_US = 0.05
"""Least skin conductance of a skin in contact, uS (Kleckner et al. 2018, IEEE Trans Biomed Eng 65:1460)."""
RISE = 2.0
"""A touch at least doubles what leaks over released electrodes; letting go at least halves it."""
STEADY_S = 1.0
"""A level is the median of this long: a brush past the electrodes is no touch."""
PATIENCE_S = 60.0
"""For each thing a person is asked to do, or a pulse to be found in."""
QUIET_S = 3.0
"""Without data for so long, electrodes count as released: rings fall silent off the finger."""
FINAL_S = 2.0
"""A pulse is asked about when it has been there this long: the first beats may be noise."""

Phase = Literal["release", "touch", "done"]


@dataclass(frozen=True, slots=True)
class Proof:
    """How it was shown whose sensor it is."""

    by: Literal["pulse", "touch", "signal", "nothing"]
    note: str
    """For people, and for the output."""


class TouchJudge:
    """Values in, the phase out: electrodes released first, then touched."""

    def __init__(self, sfreq: float) -> None:
        self._recent: deque[float] = deque(maxlen=max(1, round(STEADY_S * sfreq)))
        self._highest = 0.0
        self.phase: Phase = "release"
        self.released = 0.0
        """Level of the released electrodes, uS."""
        self.level = 0.0
        """Present level, uS."""

    def silence(self) -> list[None]:
        """What a silent sensor would have sent."""
        return [None] * (self._recent.maxlen or 1)

    def push(self, value: float | None) -> None:
        """One sample in uS; None: the sensor has no value, as with open electrodes."""
        self._recent.append(max(0.0, value or 0.0))
        if len(self._recent) < (self._recent.maxlen or 1):
            return
        self.level = median_low(self._recent)
        if self.phase == "release":
            self._highest = max(self._highest, self.level)
            if self.level < max(CONTACT_US, self._highest / RISE):
                self.phase, self.released = "touch", self.level
        elif self.phase == "touch":
            self.released = min(self.released, self.level)
            if self.level >= max(CONTACT_US, RISE * self.released):
                self.phase = "done"


def values_of(packet: Packet, info: StreamInfo) -> Iterator[float | None]:
    """The first channel's samples in the stream's unit; None where the sensor has no value."""
    low, high = info.value_range
    for value in packet.values[:: len(info.ch_names)]:
        yield value * info.scale if low < value < high else None


Hold = Callable[[bool], Awaitable[None]]
"""Called with whether the electrodes are to be touched now."""


async def prove(link: Link, feed: Feed, assess: Assess, person: Person, hold: Hold) -> Proof:
    """Ask the person; raises CheckFailedError where it is not shown whose sensor it is, or what streaming raises."""
    try:
        if feed.info.modality == "ecg":
            return await _pulse(link, feed, assess(feed.info), person)
        return await _touch(link, feed, person, hold)
    finally:
        person.show("")


async def _touch(link: Link, feed: Feed, person: Person, hold: Hold) -> Proof:
    judge, loop = TouchJudge(feed.info.sfreq), asyncio.get_running_loop()
    asked, since = {"release": "let go of the electrodes", "touch": "touch the electrodes now"}, loop.time()
    patience_s = max(PATIENCE_S, feed.codec.first_s)
    await hold(False)
    async with contextlib.aclosing(feed.packets_or_quiet(QUIET_S)) as packets:
        async for packet in packets:
            before = judge.phase
            for value in judge.silence() if packet is None else values_of(packet, feed.info):
                judge.push(value)
            if judge.phase == "done":
                return Proof("touch", f"{judge.released:.2f} uS released, {judge.level:.2f} uS touched")
            if judge.phase != before:
                since = loop.time()
                await hold(True)
            person.show(f"{judge.level:6.2f} uS - {asked[judge.phase]}")
            if loop.time() - since > patience_s:
                reason = f"no step in conductance within {patience_s:g} s ({judge.level:.2f} uS)"
                raise CheckFailedError(link.address, reason, "is it this sensor that you hold? Moisten its electrodes")
    raise AssertionError("packets have no end")


async def _pulse(link: Link, feed: Feed, assessor: Assessor, person: Person) -> Proof:
    strap, loop = await _strap_rate(link), asyncio.get_running_loop()
    began = found = loop.time()
    async with contextlib.aclosing(feed.packets()) as packets, _asking() as question:
        async for packet, host_ns in packets:
            assessor.push(packet, host_ns)
            ours = assessor.report().heart_rate
            rate = strap() or ours
            found = loop.time() if rate is None else found
            person.show(_rates(strap(), ours))
            if rate is not None and loop.time() - found >= FINAL_S:
                question.put(lambda: agrees(person, "Is this your pulse?"))
            if (answer := question.answer()) is not None:
                return _judged(link, answer, _rates(strap(), ours))
            if rate is None and loop.time() - began > PATIENCE_S:
                reason = f"no heart beat found within {PATIENCE_S:g} s"
                raise CheckFailedError(link.address, reason, "moisten the electrodes, tighten the strap, sit still")
    raise AssertionError("packets have no end")


def _judged(link: Link, yes: bool, rates: str) -> Proof:
    if yes:
        return Proof("pulse", rates)
    raise CheckFailedError(link.address, f"{rates}: not your pulse", "another sensor near may be yours: scan again")


def _rates(strap: float | None, ours: float | None) -> str:
    if strap is None and ours is None:
        return "no heart beat yet - wear the sensor on moist skin"
    told = [f"{rate:.0f}/min {whose}" for rate, whose in ((strap, "by the strap"), (ours, "from its ECG")) if rate]
    return "heart rate " + ", ".join(told)


async def _strap_rate(link: Link) -> Callable[[], float | None]:
    """What the strap itself says of the heart rate, from now on; None: nothing (yet)."""
    latest: list[float] = []

    def heard(data: bytes) -> None:
        with contextlib.suppress(DecodeError):
            measured = heart_rate.HeartRate.from_bytes(data)
            latest[:] = [float(measured.bpm)] if measured.bpm and measured.contact is not False else []

    if heart_rate.SERVICE_UUID in link.client.services:
        with contextlib.suppress(RadioError):
            subscribed = link.client.subscribe(heart_rate.MEASUREMENT_UUID, heard)
            await limited(subscribed, CALL_S, link.address, "subscribe to the heart rate")
    return lambda: latest[0] if latest else None


class _Question:
    """One question, asked while data goes on."""

    def __init__(self) -> None:
        self.task: asyncio.Task[bool] | None = None

    def put(self, question: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        if self.task is None:
            self.task = asyncio.create_task(question())

    def answer(self) -> bool | None:
        return self.task.result() if self.task is not None and self.task.done() else None


@contextlib.asynccontextmanager
async def _asking() -> Any:
    question = _Question()
    try:
        yield question
    finally:
        if question.task is not None:
            question.task.cancel()
            await asyncio.wait({question.task})


async def see_signal(feed: Feed) -> Proof:
    """Wait for the first packet, ask nobody."""
    async with contextlib.aclosing(feed.packets()) as packets:
        await anext(packets)
    return Proof("signal", "a signal comes; nobody was asked whose it is (--yes)")


NO_PROOF = Proof("nothing", "not looked at whose signal it is (--no-proof)")
