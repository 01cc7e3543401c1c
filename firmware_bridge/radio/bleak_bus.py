"""bleak's own bus of a loop, of which it gives no handle: dropped, closed, and its scan stopped.

Knows nothing of sensors. The one place that touches bleak's private names; where a newer bleak has others, nothing
happens here, and only what is said in each docstring is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bleak.backends.bluezdbus import manager as bleak_manager
from dbus_fast import Message

from firmware_bridge.radio.bluez import ADAPTER, BLUEZ, CALL_S


def drop_bleak_bus() -> None:
    """A killed bluetoothd takes back nothing it said, and bleak would go on with devices connected to nobody.

    Closing its bus makes bleak end its clients and begin anew.
    """
    manager = _forget()
    if manager is not None and manager._bus is not None:
        manager._bus.disconnect()


async def close_bleak_bus() -> None:
    """bleak keeps its bus until the loop is gone; a process that goes on wants its descriptor back."""
    manager = _forget()
    if manager is None or manager._bus is None:
        return
    watcher = getattr(manager, "_bus_watcher_task", None)
    if watcher is not None:  # it would report a loss
        watcher.cancel()
        await asyncio.wait({watcher})
    manager._bus._finalize(None)  # as bleak does itself for a loop that has ended


async def stop_own_discovery(adapter_path: str) -> None:
    """End a scan whose stop was never answered: BlueZ counts it as ours, and refuses the next one."""
    manager = _instances().get(asyncio.get_running_loop())
    bus = manager and manager._bus
    if bus:
        message = Message(destination=BLUEZ, path=adapter_path, interface=ADAPTER, member="StopDiscovery")
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CALL_S):
                await bus.call(message)


def _instances() -> dict[asyncio.AbstractEventLoop, Any]:
    """bleak's caches of BlueZ's objects."""
    return getattr(bleak_manager, "_global_instances", {})


def _forget() -> Any:
    """The cache of this loop, taken away from bleak; None where there is none."""
    return _instances().pop(asyncio.get_running_loop(), None)
