"""What a run of scenes on a stage comes to: each passes or fails on its own, is told at once, and in a table.

Knows nothing of what the scenes are.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NoReturn

from image import say
from stage import StageError
from vm import GuestError

TICK_S = 60.0
Scene = Callable[[], Awaitable[tuple[float, str]]]
"""Gives its seconds and a note; raises StageError and others."""


@dataclass(slots=True)
class Result:
    """One scene."""

    name: str
    ok: bool
    seconds: float
    """To recovery, or in all."""
    note: str = ""


class Scenes:
    """One that fails does not stop the rest."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    async def do(self, name: str, scene: Scene) -> bool:
        """One scene: seconds and a note, or why it failed."""
        begun = time.monotonic()
        ticking = asyncio.create_task(_ticking(name))
        try:
            seconds, note = await scene()
            ok = True
        except (StageError, GuestError, TimeoutError) as error:
            ok, seconds, note = False, time.monotonic() - begun, f"{type(error).__name__}: {error}"
        except Exception:
            ok, seconds, note = False, time.monotonic() - begun, traceback.format_exc()
        finally:
            ticking.cancel()
        self.results.append(Result(name, ok, round(seconds, 1), note))
        say(f"{'ok  ' if ok else 'FAIL'} {name}: {seconds:.1f} s {note}")
        return ok


async def _ticking(name: str) -> None:
    """Says that a long scene goes on."""
    while True:
        await asyncio.sleep(TICK_S)
        say(f"     {name} goes on")


def finish(results: Mapping[str, Sequence[Result]]) -> NoReturn:
    """Print a table and, last, one JSON object; exit code 1 if anything failed."""
    for name, found in results.items():
        print(f"\n{name}")
        for it in found:
            print(f"  {'ok  ' if it.ok else 'FAIL'} {it.seconds:6.1f} s  {it.name:26} {it.note.strip()}")
    print(json.dumps({name: [asdict(it) for it in found] for name, found in results.items()}))
    sys.exit(not all(it.ok for found in results.values() for it in found))
