"""Peace with a running affectd: it owns the radio, and lends it.

Knows nothing of sensors. A socket at which nobody listens is no daemon.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from firmware_bridge.daemon_client import DaemonError, ask
from firmware_bridge.daemon_client import status as ask_status

LINKED = ("starting", "streaming", "silent")
"""States in which affectd is connected to a sensor (device/notification.py)."""


def absent(error: DaemonError) -> bool:
    """Whether nobody listens there, or nobody ever did."""
    return isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)


async def daemon_status(socket: Path | None) -> dict[str, Any] | None:
    """Status of a running daemon; None where there is none. Raises DaemonError."""
    if socket is None:
        return None
    try:
        return await ask_status(socket)
    except DaemonError as error:
        if absent(error):
            return None
        raise


async def held(socket: Path | None) -> tuple[str, ...]:
    """Names of the sensors that a running affectd is connected to: they do not advertise. Raises DaemonError."""
    status = await daemon_status(socket)
    return tuple(str(it["name"]) for it in (status or {}).get("sensors", ()) if it["link"]["state"] in LINKED)


@asynccontextmanager
async def lent(socket: Path | None, address: str | None = None) -> AsyncIterator[bool]:
    """The radio, and one sensor with it, are ours while inside; whether there is a daemon. Raises DaemonError."""
    async with AsyncExitStack() as stack:
        yield await _borrow(stack, socket, address)


async def _borrow(stack: AsyncExitStack, socket: Path | None, address: str | None) -> bool:
    if socket is None:
        return False
    try:
        answers = await stack.enter_async_context(ask(socket, {"do": "lend", "address": address}))
        await anext(answers)
    except DaemonError as error:
        if absent(error):
            return False
        raise
    return True
