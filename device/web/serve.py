"""Serves the wearer's page until it is stopped, on loopback alone.

It knows nothing of what is on the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from device.errors import WebError

LOOPBACK = "127.0.0.1"
KEY_BYTES = 16
"""128 bits: nobody guesses them."""
INSTALL = "pip install 'affectd[web]'"


async def serve(daemon: Path, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` gets the address, key included, once it can be opened.

    ``port`` 0 takes any that is free. Raises WebError where it cannot listen, or aiohttp is not installed.
    """
    try:
        from aiohttp import web

        from device.web.app import make_app
    except ImportError as error:
        raise WebError(f"the page needs a package that is not here ({error.name})", INSTALL) from error
    key = secrets.token_urlsafe(KEY_BYTES)
    runner = web.AppRunner(make_app(daemon, key), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, port)
        try:
            await site.start()
        except OSError as error:
            raise WebError(f"port {port} of this machine: {error.strerror}", "give another --port") from error
        with _stop_signals() as stopped:
            ready(f"http://{LOOPBACK}:{runner.addresses[0][1]}/#{key}")
            await stopped.wait()
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Set by SIGINT or SIGTERM."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
