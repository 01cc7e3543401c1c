"""Waits for something no longer than a limit, even where it does not end when it is cancelled.

Knows nothing of radios. ``asyncio.timeout`` waits for the clean-up of what it cancels, and the clean-up of a connection
is one more call into BlueZ, which may never return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

GRACE_S = 1.0
"""How long something cancelled may take to clean up; then it is cancelled again, which ends the clean-up too."""
CANCELS = 3
"""How often; one for the work, one for its clean-up, one to spare."""


async def bounded(work: Awaitable[T], limit_s: float) -> T:
    """What the work gives; raises TimeoutError after the limit, at the latest ``CANCELS * GRACE_S`` later."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:
        if not task.done():
            await end(task)
    if task.cancelled():
        raise TimeoutError
    return task.result()


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task until it is done; one that swallows every cancellation is left behind."""
    for _ in range(CANCELS):
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)
        if task.done():
            return


async def finish(task: asyncio.Task[Any], limit_s: float) -> None:
    """Wait until a task has cleaned up, even while being cancelled oneself; then be cancelled."""
    loop = asyncio.get_running_loop()
    until = loop.time() + limit_s
    cancelled = False
    while not task.done() and loop.time() < until:
        try:
            await asyncio.wait({task}, timeout=until - loop.time())
        except asyncio.CancelledError:
            cancelled = True
    if not task.done():
        task.cancel()
    if cancelled:
        raise asyncio.CancelledError
