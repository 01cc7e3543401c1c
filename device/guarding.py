"""What every HTTP server of affectd asks of whoever comes, and how it refuses.

It knows nothing of what is served.
"""

from __future__ import annotations

import hmac
import re

from aiohttp import web

HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names of this machine that nobody else has."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::\d+)?")


def host_of(request: web.Request) -> str:
    """The name by which this machine is asked, without the port; empty where there is none that can be read.

    One that is not ours tells a page that was given another name for us (DNS rebinding).
    """
    found = _HOST.fullmatch(request.headers.get("Host", ""))
    return found[1].lower() if found else ""


def same(given: str, key: str) -> bool:
    """Whether what was shown is the key, in a time that tells nothing."""
    return hmac.compare_digest(given.encode(errors="replace"), key.encode())


def refused(status: int, reason: str, remedy: str, headers: dict[str, str] | None = None) -> web.Response:
    """One JSON object that says why, and what to do."""
    said = {"error": reason, "remedy": remedy}
    return web.json_response(said, status=status, headers={**HEADERS, **(headers or {})})
