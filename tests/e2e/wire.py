"""Between the guest's UART and the virtual controller: hands HCI packets on, whole, and remembers what sensors sent.

The power of the controller goes with the guest's: from a cut to the guest's next HCI reset nothing passes. Knows
nothing of what a notification means. H4 as in the Core Specification 5.4, Vol 4, Part A.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

RESET = bytes.fromhex("01030c00")
_HEADS = {1: (3, 2, 1), 2: (4, 2, 2), 3: (3, 2, 1), 4: (2, 1, 1)}
"""Type of a packet: bytes of its head, and in that the place and the size of the length of what follows."""
_ACL, _CONTINUED, _ATT, _NOTIFICATION = 2, 1, 4, 0x1B


@dataclass(frozen=True, slots=True)
class Sent:
    """A notification that was handed to the guest's controller line."""

    at: float
    """Monotonic seconds of this machine."""
    data: bytes


class H4:
    """Bytes in, whole packets out."""

    def __init__(self) -> None:
        self._pending = b""

    def push(self, data: bytes) -> Iterator[bytes]:
        """All that are whole by now."""
        self._pending += data
        while (size := self._size()) is not None and len(self._pending) >= size:
            packet, self._pending = self._pending[:size], self._pending[size:]
            yield packet

    def _size(self) -> int | None:
        if not self._pending:
            return None
        head, at, size = _HEADS[self._pending[0]]
        if len(self._pending) < 1 + head:
            return None
        return 1 + head + int.from_bytes(self._pending[1 + at : 1 + at + size], "little")


class Wire:
    """One controller, and one guest after the other."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self._controller: asyncio.StreamWriter | None = None
        self._guest: asyncio.StreamWriter | None = None
        self._is_on = False

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """The controller may connect to a UNIX socket."""
        server = await asyncio.start_unix_server(self._from_controller, path)
        try:
            yield
        finally:
            server.close()

    @contextlib.asynccontextmanager
    async def joined(self, path: Path) -> AsyncIterator[None]:
        """A guest's line, which QEMU has at a UNIX socket."""
        reader, self._guest = await asyncio.open_unix_connection(path)
        task = asyncio.create_task(self._from_guest(reader))
        try:
            yield
        finally:
            guest, self._guest, self._is_on = self._guest, None, False
            task.cancel()
            guest.close()
            await asyncio.wait({task})

    async def _from_guest(self, reader: asyncio.StreamReader) -> None:
        packets = H4()
        while data := await reader.read(4096):
            for packet in packets.push(data):
                self._is_on = self._is_on or packet == RESET
                if self._controller is not None:
                    self._controller.write(packet)

    async def _from_controller(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._controller, packets = writer, H4()
        try:
            while data := await reader.read(4096):
                for packet in packets.push(data):
                    self._hand_on(packet)
        finally:
            writer.close()

    def _hand_on(self, packet: bytes) -> None:
        if self._guest is None or not self._is_on:
            return
        self._guest.write(packet)
        if (data := notified(packet)) is not None:
            self.sent.append(Sent(time.monotonic(), data))


def notified(packet: bytes) -> bytes | None:
    """The value in a packet with an ATT notification; none of a sensor's is longer than one packet."""
    if packet[0] != _ACL or packet[2] >> 4 & 3 == _CONTINUED or packet[7:9] != _ATT.to_bytes(2, "little"):
        return None
    return packet[12:] if packet[9] == _NOTIFICATION else None
