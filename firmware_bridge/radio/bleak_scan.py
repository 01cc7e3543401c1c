"""One scan for all who search: it begins with the first listener and ends with the last.

Knows nothing of sensors. Scanning takes air time from the links of an adapter, hence one scan, and none unheard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

from bleak import BleakScanner
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.bleak_bus import stop_own_discovery
from firmware_bridge.radio.bleak_errors import radio_error
from firmware_bridge.radio.bluez import Adapter
from firmware_bridge.radio.bounded import bounded
from firmware_bridge.radio.types import Advertisement

START_S = 8.0
"""Limit of starting a scan: BlueZ answers once the controller scans."""
STOP_S = 3.0
"""Limit of stopping one."""
RECENT_S = 3.0
"""A listener that joins a running scan gets what was heard so shortly before: BlueZ reports a device that goes on as
before only every 10 s or so."""
RECENT = 1024
"""More devices than these are not remembered: private addresses change by the minute."""
NO_RSSI = -127
"""What bleak gives where BlueZ has none: a change of a property, not an advertisement."""
QUEUE = 4096
"""Advertisements a listener may leave unread; more are dropped, for everyone repeats itself."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """One advertisement, with what bleak needs to connect."""

    device: BLEDevice
    advertisement: Advertisement


Inbox = asyncio.Queue[Heard | RadioError]


class SharedScan:
    """The scan of one adapter."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._scanner: BleakScanner | None = None
        self._adapter = ""
        self._inboxes: set[Inbox] = set()
        self._recent: dict[str, tuple[float, Heard]] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        """Whether the radio scans."""
        return self._scanner is not None

    @contextlib.asynccontextmanager
    async def listening(self, adapter: Adapter) -> AsyncIterator[Inbox]:
        """Advertisements while inside, or the RadioError that ended the scan; raises RadioError."""
        inbox: Inbox = asyncio.Queue(QUEUE)
        await self._join(inbox, adapter)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)
            if not self._inboxes:
                await asyncio.shield(self._stopped())

    def fail(self, path: str, error: RadioError) -> None:
        """The adapter of that path (empty: BlueZ as a whole) is gone: tell every listener, who then leaves."""
        if self._adapter.startswith(path):
            for inbox in self._inboxes:
                _put(inbox, error)

    async def close(self) -> None:
        """Wait until nothing of it is left."""
        await self._stopped()
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def _join(self, inbox: Inbox, adapter: Adapter) -> None:
        """Listen from before the scan begins: the radio may go while it does."""
        async with self._lock:
            if self._scanner is not None and self._adapter != adapter.path:
                await self._stop(self._forget_scanner())
            self._adapter = adapter.path
            self._inboxes.add(inbox)
            try:
                if self._scanner is None:
                    self._scanner = await self._start(adapter)
            except BaseException:
                self._inboxes.discard(inbox)
                raise
            now = asyncio.get_running_loop().time()
            for heard_at, heard in self._recent.values():
                if now - heard_at <= RECENT_S:
                    _put(inbox, heard)

    async def _start(self, adapter: Adapter) -> BleakScanner:
        try:
            return await self._started(adapter)
        except RadioError as error:
            if error.fault is not RadioFault.IN_PROGRESS:
                raise
            await stop_own_discovery(adapter.path)
            return await self._started(adapter)

    async def _started(self, adapter: Adapter) -> BleakScanner:
        scanner = BleakScanner(self._heard, bluez={"adapter": adapter.name})
        try:
            await bounded(scanner.start(), START_S)
        except BaseException as error:
            if isinstance(error, TimeoutError | asyncio.CancelledError):  # asked for, perhaps begun, not answered yet
                self._in_background(self._stop_unanswered(adapter.path))
            if isinstance(error, Exception):
                raise radio_error(adapter.name, error, "scan") from error
            raise
        return scanner

    async def _stop_unanswered(self, path: str) -> None:
        async with self._lock:
            if self._scanner is None:
                await stop_own_discovery(path)

    def _stopped(self) -> asyncio.Task[None]:
        """Stop in a task of its own, which no listener's cancellation ends."""
        return self._in_background(self._stop_unless_wanted())

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="stop scan")
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        return task

    async def _stop_unless_wanted(self) -> None:
        async with self._lock:
            if not self._inboxes:
                await self._stop(self._forget_scanner())

    def _forget_scanner(self) -> BleakScanner | None:
        scanner, self._scanner = self._scanner, None
        self._recent.clear()
        return scanner

    async def _stop(self, scanner: BleakScanner | None) -> None:
        if scanner is not None:
            try:
                await bounded(scanner.stop(), STOP_S)
            except Exception as error:  # the radio may be gone, and its scan with it
                _log.debug("the scan does not stop in good order: %r", error)

    def _heard(self, device: BLEDevice, data: AdvertisementData) -> None:
        if data.rssi == NO_RSSI:
            return
        services = tuple(uuid.lower() for uuid in data.service_uuids)
        advertisement = Advertisement(device.address.upper(), data.local_name or "", data.rssi, services)
        heard = Heard(device, advertisement)
        if len(self._recent) >= RECENT:
            self._recent.clear()
        self._recent[advertisement.address] = (asyncio.get_running_loop().time(), heard)
        for inbox in self._inboxes:
            _put(inbox, heard)


def _put(inbox: Inbox, item: Heard | RadioError) -> None:
    if inbox.full():
        inbox.get_nowait()
    inbox.put_nowait(item)
