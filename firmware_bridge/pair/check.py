"""Testing a sensor: some seconds of its signal, and a verdict.

Knows nothing of the command line. A sensor that a running affectd streams is only watched: nothing is taken from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from firmware_bridge import registry
from firmware_bridge.codec import Codec
from firmware_bridge.daemon_client import DaemonError, ask
from firmware_bridge.errors import DecodeError, ExchangeError, RadioError, RadioFault
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.pair.answers import PersonAnswers
from firmware_bridge.pair.assess import Assess, Assessor, Report
from firmware_bridge.pair.errors import PairError
from firmware_bridge.pair.identify import candidates, started
from firmware_bridge.pair.link import Link, let_go, linked
from firmware_bridge.pair.loan import daemon_status, lent
from firmware_bridge.pair.manage import named
from firmware_bridge.pair.person import Person
from firmware_bridge.pair.radio import Radio
from firmware_bridge.pair.scan import scan
from firmware_bridge.protocols import codec
from firmware_bridge.registry import Sensor

CHECK_S = 30.0
"""Several windows of quality, and a rate to 1 %."""
HEAR_S = 5.0
"""Listened for the sensor's signal strength before connecting."""
LOST = 0.02
"""Larger shares of lost samples are bad: a link that is well loses none, and every loss is a gap of a window."""
GOOD = 0.5
"""Smaller shares of good windows are bad: affectd would abstain most of the time."""
JITTER_S = 1.0
"""How much earlier or later than usual a packet may arrive, as an error of the rate."""
JUDGED_S = 25.0
"""From this long on a signal without a single judged window is bad: filters and beats have had time to settle."""
LOW_BATTERY = 10
"""Percent; below it a sensor may stop within the hour."""

Packets = AsyncGenerator[tuple[Packet, int], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """A stream that runs, from wherever."""

    info: StreamInfo
    packets: Packets
    bad: Callable[[], int]
    """Notifications that could not be read."""
    battery: int | None = None
    mtu: int | None = None
    rssi: int | None = None
    by_daemon: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test came to."""

    name: str
    address: str
    protocol: str
    units: str
    seconds: float
    nominal: float
    """Rate that the sensor is said to have, Hz."""
    report: Report
    bad: int
    battery: int | None
    mtu: int | None
    rssi: int | None
    by_daemon: bool
    problems: tuple[str, ...]
    """Empty: it is well."""
    notes: tuple[str, ...]
    """What is worth knowing, and no problem."""
    signal: tuple[float, ...]
    """Its newest samples, for a plot."""

    def record(self) -> dict[str, object]:
        """For --json."""
        fields = asdict(self)
        del fields["signal"]
        return {"ok": not self.problems} | fields


Follow = Callable[[StreamInfo, Assessor, float], None]
"""Called with every packet: the stream, its assessor, and the seconds since the first."""


async def check(
    key: str,
    seconds: float,
    path: Path,
    socket: Path | None,
    open_radio: Callable[[], AbstractAsyncContextManager[Radio]],
    assess: Assess,
    person: Person,
    follow: Follow = lambda *_: None,
) -> Outcome:
    """Take ``seconds`` of a sensor's signal; raises any FirmwareBridgeError where there is nothing to judge."""
    sensor = _sensor(key, path)
    address = sensor.address if sensor else key.upper()
    async with _stream(sensor, address, socket, open_radio, person) as taken:
        assessor = assess(taken.info)
        taken_s, fault = await _collect(taken, assessor, seconds, follow)
        report = assessor.report()
        problems, notes = verdict(report, taken, taken_s, seconds)
        return Outcome(
            name=sensor.name if sensor else "",
            address=address,
            protocol=taken.info.protocol,
            units=taken.info.units,
            seconds=round(taken_s, 3),
            nominal=taken.info.sfreq,
            report=report,
            bad=taken.bad(),
            battery=taken.battery,
            mtu=taken.mtu,
            rssi=taken.rssi,
            by_daemon=taken.by_daemon,
            problems=(*fault, *problems),
            notes=notes,
            signal=tuple(assessor.recent(seconds)),
        )


def _sensor(key: str, path: Path) -> Sensor | None:
    """None: an address that was never added."""
    sensors = registry.read(path)
    if registry.is_address(key.upper()) and all(it.address != key.upper() for it in sensors):
        return None
    return named(path, sensors, key)


async def _collect(taken: Taken, assessor: Assessor, seconds: float, follow: Follow) -> tuple[float, tuple[str, ...]]:
    """Seconds of signal taken, and what ended it before its time."""
    loop, began = asyncio.get_running_loop(), None
    async with contextlib.aclosing(taken.packets) as packets:
        try:
            async for packet, host_ns in packets:
                began = loop.time() if began is None else began
                assessor.push(packet, host_ns)
                follow(taken.info, assessor, loop.time() - began)
                if loop.time() - began >= seconds:
                    break
        except (RadioError, PairError, DaemonError) as error:
            return (0.0 if began is None else loop.time() - began), (f"the stream ended: {error}",)
    return (0.0 if began is None else loop.time() - began), ()


def verdict(report: Report, taken: Taken, seconds: float, asked_s: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Problems and notes."""
    problems, notes = [], []
    share = report.lost / max(1, report.lost + report.samples)
    if share > LOST:
        problems.append(f"{share:.1%} of the samples lost in {report.gaps} gaps: bring it closer, move Wi-Fi to 5 GHz")
    if (off := _rate_off(report, taken.info, seconds)) is not None:
        problems.append(f"sends {off:.1f} Hz: expected {taken.info.sfreq:g} Hz; add it again with --replace")
    if taken.bad():
        notes.append(f"{taken.bad()} notifications could not be read")
    if report.good is None and seconds >= JUDGED_S:
        problems.append("nothing in it could be judged: is it worn?")
    elif report.good is None and seconds >= asked_s:
        notes.append(f"too short to judge its quality: --seconds {JUDGED_S:g} or more")
    elif report.good is not None and report.good < GOOD:
        why = ", ".join(report.problems) or "unknown"
        problems.append(f"only {report.good:.0%} of it is good ({why}): moisten the electrodes, sit still")
    if taken.battery is not None and taken.battery < LOW_BATTERY:
        notes.append(f"battery at {taken.battery} %: change it soon")
    return tuple(problems), tuple(notes)


def _rate_off(report: Report, info: StreamInfo, seconds: float) -> float | None:
    """The rate of arrival where it is not the sensor's own, Hz."""
    if report.arriving is None or seconds <= 2 * JITTER_S:
        return None
    allowed = info.sfreq_tolerance + JITTER_S / seconds
    return report.arriving if abs(report.arriving / info.sfreq - 1) > allowed else None


@asynccontextmanager
async def _stream(
    sensor: Sensor | None,
    address: str,
    socket: Path | None,
    open_radio: Callable[[], AbstractAsyncContextManager[Radio]],
    person: Person,
) -> AsyncIterator[Taken]:
    """From the daemon where it streams the sensor, else over the radio."""
    link = _link_of(await daemon_status(socket), address)
    if socket is not None and link is not None and link["state"] in ("streaming", "silent"):
        async with _watched(socket, address, link) as taken:
            yield taken
        return
    async with lent(socket, address), open_radio() as radio, _connected(sensor, address, radio, person) as taken:
        yield taken


def _link_of(status: dict[str, Any] | None, address: str) -> dict[str, Any] | None:
    sensors = status["sensors"] if status else ()
    return next((it["link"] for it in sensors if it["address"] == address), None)


@asynccontextmanager
async def _watched(socket: Path, address: str, link: dict[str, Any]) -> AsyncIterator[Taken]:
    async with ask(socket, {"do": "watch", "sensor": address}) as answers:
        info = msgspec.convert((await anext(answers))["stream"], StreamInfo)
        watch = _Watch(address, codec(info.protocol), answers)
        yield Taken(info, watch.packets(), lambda: watch.bad, link.get("battery"), link.get("mtu"), None, True)


class _Watch:
    """Notifications that the daemon shows, decoded."""

    def __init__(self, address: str, codec: Codec, answers: AsyncIterator[dict[str, Any]]) -> None:
        self.bad = 0
        self._address = address
        self._codec = codec
        self._answers = answers

    async def packets(self) -> Packets:
        """Until the daemon or the stream ends: RadioError."""
        decoder, limit_s = self._codec.decoder(), self._codec.first_s
        while True:
            try:
                async with asyncio.timeout(limit_s):
                    answer = await anext(self._answers)
            except (TimeoutError, StopAsyncIteration):
                reason = f"affectd shows nothing of it within {limit_s:g} s; `affectd status` says why"
                raise RadioError(self._address, RadioFault.TIMEOUT, "no data", reason) from None
            limit_s = self._codec.stall_s
            try:
                packets = decoder.push(bytes.fromhex(answer["data"]))
            except DecodeError as error:
                self.bad, packets = self.bad + 1, list(error.packets)
            for packet in packets:
                yield packet, int(answer["host_ns"])


@asynccontextmanager
async def _connected(sensor: Sensor | None, address: str, radio: Radio, person: Person) -> AsyncIterator[Taken]:
    """Over the radio. A sensor that was never added leaves no bond."""
    survey = await scan(radio.central, HEAR_S, enough=lambda heard: heard.of(address) is not None)
    found = survey.of(address)
    kept = sensor is not None or await radio.bonded(address)
    try:
        async with linked(radio.central, address) as link:
            name = found.name if found else ""
            codecs = [codec(sensor.protocol)] if sensor else candidates(address, name, link.client.services, None)
            if any(it.secure for it in codecs) and not (sensor and radio.keeps_bonds):
                async with radio.agent(address, PersonAnswers(person)):
                    await link.pair()
            async with _started(link, codecs, sensor) as taken:
                yield taken if found is None else _with_rssi(taken, found.rssi)
    finally:
        if not kept:
            await let_go(radio.central.forget(address))


@asynccontextmanager
async def _started(link: Link, codecs: list[Codec], sensor: Sensor | None) -> AsyncIterator[Taken]:
    battery = await link.battery()
    try:
        async with started(link, codecs, sensor.sfreq if sensor else None) as feed:
            yield Taken(feed.info, feed.packets(), lambda: feed.bad, battery, link.client.mtu)
    except (ExchangeError, DecodeError) as error:
        if sensor is None:
            raise
        remedy = f"if it is another sensor now, `affectd-pair add {link.address} --replace`"
        raise PairError(link.address, f"is not as it was added ({error})", remedy) from error


def _with_rssi(taken: Taken, rssi: int) -> Taken:
    return Taken(taken.info, taken.packets, taken.bad, taken.battery, taken.mtu, rssi)
