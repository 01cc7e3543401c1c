"""What affectd tells systemd: that it is ready, how it is, that it gets on, that it stops.

The protocol is that of sd_notify(3): a datagram of lines to the socket that NOTIFY_SOCKET names; without one nothing is
told. Knows nothing of sensors: the words and the progress come by argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

LOOK_S = 1.0
"""Between two looks at what there is to say of the state."""
FEEDS = 4
"""Times that a watchdog is fed within its limit, where all is well."""

_log = logging.getLogger(__name__)


class ServiceManager:
    """The service manager that started this process, if any did; a file's path or an abstract name leads to it."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self.watchdog_s = _watchdog_s(environ) if path else None
        """It ends a process that it has not heard of for so long; None: never."""

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return bool(self._address)

    async def tell(self, *lines: str) -> None:
        """Send one message; waits where the manager is busy, says where it is gone."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.connect(self._address)
                await asyncio.get_running_loop().sock_sendall(sender, "\n".join(lines).encode())
        except OSError as error:
            _log.warning("the service manager is not told %r: %s", lines[0], error)


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """As sd_watchdog_enabled(3): only for the process that WATCHDOG_PID names, or for any."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


@contextlib.asynccontextmanager
async def kept_informed(
    opening: asyncio.Future[Any],
    stop: asyncio.Event,
    words: Callable[[], str],
    progress: Callable[[], bool],
    manager: ServiceManager | None = None,
) -> AsyncIterator[None]:
    """Meanwhile tell the service manager: ready once ``opening`` is done, ``words`` as they change, that it stops once
    ``stop`` is set; and feed its watchdog while there is ``progress``.
    """
    manager = manager or ServiceManager()
    if not manager.listens:
        yield
        return
    telling: list[Coroutine[Any, Any, None]] = [_announce(manager, opening, stop), _describe(manager, words)]
    if manager.watchdog_s is not None:
        telling.append(_feed(manager, manager.watchdog_s / FEEDS, progress))
    tasks = [asyncio.create_task(each, name="service manager") for each in telling]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _announce(manager: ServiceManager, opening: asyncio.Future[Any], stop: asyncio.Event) -> None:
    """The beginning and the end."""
    try:
        await asyncio.wait({opening})
        if not stop.is_set():  # which a failure to open has set
            await manager.tell("READY=1")
        await stop.wait()
    finally:
        await manager.tell("STOPPING=1")


async def _describe(manager: ServiceManager, words: Callable[[], str]) -> None:
    said = ""
    while True:
        if (status := " ".join(words().split())) != said:
            said = status
            await manager.tell(f"STATUS={status}")
        await asyncio.sleep(LOOK_S)


async def _feed(manager: ServiceManager, period_s: float, progress: Callable[[], bool]) -> None:
    well = True
    while True:
        before, well = well, progress()
        if well:
            await manager.tell("WATCHDOG=1")
        elif before:
            _log.error("no progress: what the sensors sent is not worked through, or the disk does not answer")
        await asyncio.sleep(period_s)
