"""Serves the wearer's page until it is stopped, on loopback alone.

It knows nothing of what is on the page.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from device.errors import WebError
from firmware_bridge.stop import stop_on_signals

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
        stop = stop_on_signals()
        ready(f"http://{LOOPBACK}:{runner.addresses[0][1]}/#{key}")
        await stop.wait()
    finally:
        await runner.cleanup()
