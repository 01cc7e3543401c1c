"""Which device is meant: an address, the beginning of a name, or a choice from a scan.

Knows nothing of what is done with it.
"""

from __future__ import annotations

from firmware_bridge.pair.errors import PairError
from firmware_bridge.pair.kinds import UNKNOWN
from firmware_bridge.pair.person import Person
from firmware_bridge.pair.scan import SCAN_S, Found, Survey, scan
from firmware_bridge.radio.types import Central
from firmware_bridge.registry import is_address

HEAR_S = 10.0
"""Listened for an address, for its name; one that is silent may still be connected already."""
WAKE = "wear it (a strap wakes on wet skin), bring it close, and end its link to any phone"


async def find(central: Central, target: str | None, person: Person) -> Found:
    """The device that is meant; raises PairError, RadioError."""
    if target is None:
        return await _chosen(central, person)
    if is_address(target.upper()):
        return await _heard(central, target.upper())
    survey = await scan(central, SCAN_S)
    wanted = target.casefold()
    near = [it for it in survey.sorted() if it.name.casefold().startswith(wanted)]
    exact = [it for it in near if it.name.casefold() == wanted]
    match exact or [it for it in near if it.kind.usable] or near:
        case [one]:
            return one
        case []:
            raise PairError(target, f"no name heard within {SCAN_S:g} s begins so", f"{WAKE}; or give its address")
        case several:
            addresses = ", ".join(it.address for it in several[:8])
            raise PairError(target, f"{len(several)} devices are called so", f"give the address: one of {addresses}")


async def _heard(central: Central, address: str) -> Found:
    """As heard, or with nothing known of it: it may be connected already, and then it does not advertise."""

    def enough(survey: Survey) -> bool:
        found = survey.of(address)
        return found is not None and (bool(found.name) or found.kind.usable)

    survey = await scan(central, HEAR_S, enough=enough)
    return survey.of(address) or Found(address, "", 0, UNKNOWN)


async def _chosen(central: Central, person: Person) -> Found:
    person.say(f"Listening for {SCAN_S:g} s. Wear the sensors.")
    usable = [it for it in (await scan(central, SCAN_S)).sorted() if it.kind.usable]
    if not usable:
        raise PairError("add", "heard nothing that affectd can use", f"{WAKE}; `affectd-pair scan` shows the rest")
    for number, it in enumerate(usable, start=1):
        person.say(f"{number}  {it.address}  {it.rssi} dBm  {it.name or '(no name)'}: {it.kind.what}, {it.kind.use}")
    while True:
        answer = await person.ask(f"Which one [1-{len(usable)}, q: none]?")
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(usable):
            return usable[int(answer) - 1]
        if answer.lower() in ("q", ""):
            raise PairError("add", "none was chosen", "scan again when the right one is worn")
