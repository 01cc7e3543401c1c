"""When a process that serves is to end.

Standard library only; knows nothing of what it serves.
"""

from __future__ import annotations

import asyncio
import signal


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM (systemd) and SIGINT (a terminal) set, for as long as the running loop lives."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
