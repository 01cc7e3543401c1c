"""One connection's data: what is handed on, what is dropped, and when it has been silent for too long.

Knows nothing of connecting, of BlueZ or of what a packet means beyond whether its codec can read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from device.notification import Notification
from device.wall import asleep_ns
from firmware_bridge.codec import Codec
from firmware_bridge.errors import DecodeError, RadioError, RadioFault

UNREADABLE = 20
"""Notifications in a row from a connection's first on that its codec cannot read: this is not a lost byte any more,
another vendor uses the same UUID, or the firmware speaks another version."""
SLEPT_NS = 10**9
"""A suspend that is longer ends a connection, as the kernel mostly does itself: of what comes thereafter nobody knows
whether it was sent before. A shorter one is a late notification, which a clock's fit bears."""
T = TypeVar("T")


class Session:
    """From a link's beginning to its end; what comes after is of another session and dropped."""

    def __init__(
        self,
        stream: str,
        codec: Codec,
        clock_ns: Callable[[], int],
        give: Callable[[Notification], None],
        unreadable: Callable[[str], None],
        asleep_ns: Callable[[], int] = asleep_ns,
    ) -> None:
        self.ended = asyncio.Event()
        """Set when the link is gone."""
        self.last_s = 0.0
        """When data last came, in the loop's time."""
        self._stream = stream
        self._data_uuid = codec.data_uuid
        self._clock_ns = clock_ns
        self._give = give
        self._unreadable = unreadable
        self._asleep_ns = asleep_ns
        self._slept_before_ns = asleep_ns()
        self._early: list[Notification] | None = []
        self._decoder = codec.decoder()
        self._unread: int | None = 0

    def hear(self, uuid: str, data: bytes) -> None:
        """A notification; only the stream's own are handed on."""
        if uuid != self._data_uuid or self._stream == "":
            return
        if self._slept():
            self.ended.set()
            return
        notification = Notification(self._stream, self._clock_ns(), data)
        self.last_s = asyncio.get_running_loop().time()
        if self._early is not None:
            self._early.append(notification)
        else:
            self._hand_on(notification)

    def accept(self) -> None:
        """It is the sensor we know: hand on what has come, and what will."""
        early, self._early = self._early, None
        for notification in early or ():
            self._hand_on(notification)

    def close(self) -> None:
        """Nothing that comes now counts."""
        self._stream = ""

    async def silence(self, first_s: float, stall_s: float) -> float:
        """Seconds without data that are too many; raises RadioError where the link ends.

        Data does not wake it: it looks every ``stall_s`` at the latest, and then knows when data last came.
        """
        began, limit = asyncio.get_running_loop().time(), first_s
        while True:
            if self.last_s > began:
                limit = stall_s
            left = max(began, self.last_s) + limit - asyncio.get_running_loop().time()
            if left <= 0:
                return limit
            try:
                async with asyncio.timeout(min(left, stall_s)):
                    await self.ended.wait()
            except TimeoutError:
                continue
            raise self._gone()

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; RadioError at once where the link ends meanwhile: BlueZ may never say."""
        task = asyncio.create_task(work)
        end = asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._gone()
            return task.result()
        finally:
            end.cancel()
            task.cancel()
            await asyncio.wait({task, end})

    def _gone(self) -> RadioError:
        why = "the machine has slept" if self._slept() else "the link is gone"
        return RadioError(self._stream, RadioFault.LINK, why)

    def _slept(self) -> bool:
        """Whether the machine was suspended during this connection."""
        return self._asleep_ns() - self._slept_before_ns > SLEPT_NS

    def _hand_on(self, notification: Notification) -> None:
        self._give(notification)
        if self._unread is not None:
            self._try_to_read(notification.data, self._unread)

    def _try_to_read(self, data: bytes, unread: int) -> None:
        """Until one packet is read, or too many cannot be."""
        try:
            if self._decoder.push(data):
                self._unread = None
        except DecodeError as error:
            if error.packets:
                self._unread = None
                return
            self._unread = unread + 1
            if self._unread >= UNREADABLE:
                self._unread = None
                self._unreadable(f"{UNREADABLE} notifications in a row are not its protocol's ({error})")
