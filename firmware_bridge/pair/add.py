"""Adding a sensor: find, connect, identify, bond, start, prove, remember; or nothing of it.

Knows nothing of the command line. Where it fails after bonding, the bond is dropped again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from firmware_bridge import registry
from firmware_bridge.errors import RegistryError
from firmware_bridge.pair.answers import PersonAnswers
from firmware_bridge.pair.assess import Assess
from firmware_bridge.pair.errors import PairError
from firmware_bridge.pair.find import find
from firmware_bridge.pair.identify import candidates, started
from firmware_bridge.pair.link import SERIAL_UUID, Feed, Link, let_go, linked
from firmware_bridge.pair.loan import lent
from firmware_bridge.pair.person import Person
from firmware_bridge.pair.proof import NO_PROOF, Hold, Proof, prove, see_signal
from firmware_bridge.pair.radio import Radio
from firmware_bridge.pair.scan import Found
from firmware_bridge.pair.text import clean
from firmware_bridge.registry import Role, Sensor


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    target: str | None = None
    """Address or beginning of a name; None: choose from a scan."""
    role: Role | None = None
    """None: whatever it gives."""
    name: str | None = None
    """What to call it; None: the role."""
    replace: bool = False
    """Take the place of sensors that have its role, name or address."""
    yes: bool = False
    """Ask nothing."""
    prove: bool = True
    passkey: int | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What came of it."""

    sensor: Sensor
    proof: Proof
    replaced: tuple[Sensor, ...] = ()
    battery: int | None = None
    """Percent."""
    default_sfreq: float = 0.0
    """Rate of its protocol where nothing else is said, Hz."""
    daemon: bool = False
    """Whether affectd runs, and does not know of it yet."""


async def add(wish: Wish, path: Path, socket: Path | None, radio: Radio, assess: Assess, person: Person) -> Added:
    """Add one sensor; raises any FirmwareBridgeError, and then nothing has changed."""
    sensors = registry.read(path)
    _refuse_unasked(wish, person)
    _refuse_taken(path, sensors, wish, wish.name or wish.role, wish.role)
    async with lent(socket, _address_of(wish.target)) as daemon:
        found = await find(radio.central, wish.target, person)
        _refuse_taken(path, sensors, wish, None, None, found.address)
        if any(it.address == found.address for it in sensors):  # --replace: its side of the bond may be lost
            await radio.central.forget(found.address)
        async with _undone_on_failure(radio, found.address, person):
            added = await _meet(wish, found, radio, assess, person, partial(_refuse_taken, path, sensors, wish))
            replaced = _refuse_taken(path, sensors, wish, added.sensor.name, added.sensor.role, added.sensor.address)
            registry.write(path, (*(it for it in sensors if it not in replaced), added.sensor))
        for old in replaced:
            if old.bonded and old.address != found.address:
                await let_go(radio.central.forget(old.address))
    return dataclasses.replace(added, replaced=tuple(replaced), daemon=daemon)


def _address_of(target: str | None) -> str | None:
    return target.upper() if target is not None and registry.is_address(target.upper()) else None


def _refuse_unasked(wish: Wish, person: Person) -> None:
    """What cannot be asked is better said before the radio is used."""
    if person.there:
        return
    if wish.target is None:
        raise PairError("add", "no terminal to choose at", "name the sensor: `affectd-pair add ADDRESS`")
    if wish.prove and not wish.yes:
        remedy = "run it in one, or with --yes (ask nothing) or --no-proof"
        raise PairError("add", "no terminal to ask at whose signal it is", remedy)


def _refuse_taken(
    path: Path, sensors: Iterable[Sensor], wish: Wish, name: str | None, role: str | None, address: str | None = None
) -> list[Sensor]:
    """Sensors that must go for this one; RegistryError unless that was asked for."""
    wanted = (("role", role), ("address", address or _address_of(wish.target)), ("name", name))
    taken = [(it, key) for it in sensors for key, value in wanted if value is not None and getattr(it, key) == value]
    if taken and not wish.replace:
        it, key = taken[0]
        reason = f"{key} {getattr(it, key)!r} is taken by {it.name!r} ({it.address})"
        remedy = f"add with --replace, or `affectd-pair remove {it.address}` first"
        raise RegistryError(str(path), f"sensor.{key}", reason, remedy)
    return list(dict.fromkeys(it for it, _ in taken))


@asynccontextmanager
async def _undone_on_failure(radio: Radio, address: str, person: Person) -> AsyncIterator[None]:
    """A bond made inside does not outlive a failure inside; one that was there before does."""
    kept = await radio.bonded(address)
    try:
        yield
    except BaseException:
        if not kept:
            await let_go(radio.central.forget(address))
            person.say(f"{address}: nothing was kept, no bond either.")
        raise


async def _meet(
    wish: Wish, found: Found, radio: Radio, assess: Assess, person: Person, refuse: Callable[[str, str], object]
) -> Added:
    """Connected: everything that the sensor itself has to say."""
    person.say(f"{found.address} {found.name}: connecting")
    async with linked(radio.central, found.address) as link:
        codecs = candidates(found.address, found.name, link.client.services, wish.role)
        bonded = any(codec.secure for codec in codecs)
        if bonded:
            async with radio.agent(found.address, PersonAnswers(person, wish.passkey, wish.yes)):
                await link.pair()
        serial, battery = await _serial(link), await link.battery()
        async with started(link, codecs) as feed:
            person.say(f"{found.address}: {feed.codec.device}, {feed.codec.protocol}")
            refuse(wish.name or feed.info.modality, feed.info.modality)  # before a person has to do anything
            proof = await _proof(wish, link, feed, assess, person, partial(radio.hold, link.address))
            sensor = _sensor(wish, found, feed, serial, bonded and radio.keeps_bonds)
    return Added(sensor, proof, (), battery, feed.codec.stream_info.sfreq)


async def _serial(link: Link) -> str | None:
    value = await link.read(SERIAL_UUID)
    return (clean(value.decode(errors="replace")) or None) if value else None


async def _proof(wish: Wish, link: Link, feed: Feed, assess: Assess, person: Person, hold: Hold) -> Proof:
    if not wish.prove:
        return NO_PROOF
    return await (see_signal(feed) if wish.yes else prove(link, feed, assess, person, hold))


def _sensor(wish: Wish, found: Found, feed: Feed, serial: str | None, bonded: bool) -> Sensor:
    """Its entry; a rate other than its protocol's own is part of it."""
    role, sfreq = feed.info.modality, feed.info.sfreq
    own = None if sfreq == feed.codec.stream_info.sfreq else sfreq
    try:
        return Sensor(role, wish.name or role, found.address, feed.codec.protocol, serial, own, bonded)
    except ValueError as error:
        raise PairError(found.address, str(error), "choose another --name") from error


def as_record(added: Added) -> dict[str, object]:
    """For --json."""
    sensor: dict[str, object] = msgspec.to_builtins(added.sensor)
    proof = {"by": added.proof.by, "note": added.proof.note}
    rest = {"proof": proof, "battery": added.battery, "replaced": [it.name for it in added.replaced]}
    return sensor | rest | {"daemon_running": added.daemon}
