"""The seam between affectd and a radio: a Central scans and connects, a GattClient talks to one connected sensor.

Knows nothing of bleak, BlueZ or protocols. `bleak_central.py` is the machine's adapter, `virtual/central.py` a
simulated one; tests put in scripted fakes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One advertisement as heard; anyone can send anything."""

    address: str
    """Bluetooth address, upper case."""
    name: str
    """Local name as sent; not fit to print before ``clean``."""
    rssi: int
    """Received power in dBm."""
    service_uuids: tuple[str, ...] = ()
    """Advertised services, 128-bit, lower case."""


class GattClient(Protocol):
    """One connected sensor. Every call raises RadioError, and nothing else of the radio's own."""

    @property
    def services(self) -> frozenset[str]:
        """UUIDs of the services it offers, 128-bit, lower case."""

    @property
    def mtu(self) -> int:
        """ATT MTU negotiated."""

    async def read(self, uuid: str) -> bytes:
        """Value of a characteristic."""

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        """Write a characteristic."""

    async def subscribe(self, uuid: str, callback: Callable[[bytes], None]) -> None:
        """Call back with every notification or indication of a characteristic, until the link ends."""

    async def pair(self) -> None:
        """Pair and bond, unless bonded already."""

    async def disconnect(self) -> None:
        """Let go of the link; a second call does nothing."""


class Central(Protocol):
    """A radio that scans and connects. Raises RadioError."""

    def scan(self) -> AbstractAsyncContextManager[AsyncIterator[Advertisement]]:
        """Scanning while inside; the iterator gives each advertisement as it is heard, without end."""

    async def connect(self, address: str, *, limit_s: float, on_disconnect: Callable[[], None]) -> GattClient:
        """Find the sensor (or adopt the link a dead process left) and connect, within ``limit_s`` in all.

        ``on_disconnect`` is called once, when the link ends by whatever cause.
        """

    async def forget(self, address: str) -> None:
        """Drop the host's bond and all it remembers of the sensor."""

    async def close(self) -> None:
        """Let go of the radio."""
