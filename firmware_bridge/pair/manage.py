"""Renaming and removing sensors that were added.

Knows nothing of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from firmware_bridge import registry
from firmware_bridge.errors import RegistryError
from firmware_bridge.pair.loan import lent
from firmware_bridge.pair.radio import Radio
from firmware_bridge.registry import Sensor


@dataclass(frozen=True, slots=True)
class Removed:
    """What was forgotten."""

    address: str
    name: str
    """Empty: it was not in the file."""
    bond_dropped: bool


def named(path: Path, sensors: Sequence[Sensor], key: str) -> Sensor:
    """The sensor of a name or an address; raises RegistryError."""
    found = [it for it in sensors if key in (it.name, it.address) or key.upper() == it.address]
    if not found:
        raise RegistryError(str(path), "sensor", f"none is called {key!r}", "`affectd-pair list` shows them")
    return found[0]


def rename(path: Path, key: str, name: str) -> Sensor:
    """Another name for a sensor; raises RegistryError."""
    sensors = registry.read(path)
    old = named(path, sensors, key)
    try:
        new = Sensor(**{**msgspec.structs.asdict(old), "name": name})
    except ValueError as error:
        raise RegistryError(str(path), "sensor.name", str(error), "choose another name") from error
    registry.write(path, (new if it is old else it for it in sensors))
    return new


async def remove(
    path: Path, socket: Path | None, key: str, radio: Callable[[], AbstractAsyncContextManager[Radio]] | None
) -> Removed:
    """Forget a sensor; with a radio its bond too, first, so that no bond is left that nobody knows of."""
    sensors = registry.read(path)
    unknown = registry.is_address(key.upper()) and all(it.address != key.upper() for it in sensors)
    if unknown and radio is not None:
        return Removed(key.upper(), "", await _drop_bond(socket, key.upper(), radio))
    sensor = named(path, sensors, key)
    dropped = radio is not None and sensor.bonded and await _drop_bond(socket, sensor.address, radio)
    registry.write(path, (it for it in sensors if it is not sensor))
    return Removed(sensor.address, sensor.name, dropped)


async def _drop_bond(
    socket: Path | None, address: str, radio: Callable[[], AbstractAsyncContextManager[Radio]]
) -> bool:
    async with lent(socket, address), radio() as opened:
        bonded = await opened.bonded(address)
        await opened.central.forget(address)
    return bonded
