"""How much a running affectd logs.

It knows nothing of where logs go.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, get_args

from device import journal
from device.config import LogLevel
from device.errors import RequestError

LEVELS = get_args(LogLevel)


def set_level(name: str) -> None:
    """From now on; raises RequestError for another word than LEVELS."""
    if name not in LEVELS:
        raise RequestError(f"no log level {name!r}", f"choose {', '.join(LEVELS)}")
    journal.set_level(name)


async def answers(request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The answer to `affectd log-level`."""
    name = str(request.get("level"))
    set_level(name)
    yield {"level": name}
