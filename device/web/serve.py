"""Serves the wearer's page until it is stopped, on loopback alone.

It knows nothing of what is on the page.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from device.errors import WebError
from firmware_bridge.stop import stop_on_signals

LOOPBACK = "127.0.0.1"
KEY_BYTES = 16
"""128 bits: nobody guesses them."""
MAX_KEY_BYTES = 1024
INSTALL = "pip install 'affectd[web]'"


def read_key(path: Path) -> str:
    """The key in a file that nobody but its owner can read; raises WebError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(MAX_KEY_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WebError(f"{path}: no key can be read: {error}", f"`openssl rand -hex {KEY_BYTES} > {path}`") from error
    if mode & 0o077:
        raise WebError(f"{path}: others may read this key (mode {mode:04o})", f"`chmod 600 {path}`, with a new key")
    if len(key) < 2 * KEY_BYTES or not key.isprintable():
        raise WebError(f"{path}: a key of {len(key)} characters", f"`openssl rand -hex {KEY_BYTES} > {path}`")
    return key


async def serve(daemon: Path, port: int, ready: Callable[[str], None], metrics_key: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` gets the address, key included, once it can be opened.

    ``port`` 0 takes any that is free, ``metrics_key`` is a scraper's. Raises WebError where it cannot listen, or
    aiohttp is not installed.
    """
    try:
        from aiohttp import web

        from device.web.app import make_app
    except ImportError as error:
        raise WebError(f"the page needs a package that is not here ({error.name})", INSTALL) from error
    key = secrets.token_urlsafe(KEY_BYTES)
    runner = web.AppRunner(make_app(daemon, key, metrics_key), handler_cancellation=True, access_log=None)
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
