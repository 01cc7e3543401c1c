"""What a run of scenes on a stage comes to: each passes or fails on its own, is told at once, and in a table.

Knows nothing of what the scenes are.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass

from image import say
from stage import StageError
from vm import GuestError

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
    """Plays scenes in order; one that fails does not stop the rest."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    async def do(self, name: str, scene: Scene) -> None:
        """One scene: seconds and a note, or why it failed."""
        begun = time.monotonic()
        try:
            seconds, note = await scene()
            ok = True
        except (StageError, GuestError, TimeoutError) as error:
            ok, seconds, note = False, time.monotonic() - begun, f"{type(error).__name__}: {error}"
        except Exception:
            ok, seconds, note = False, time.monotonic() - begun, traceback.format_exc()
        self.results.append(Result(name, ok, round(seconds, 1), note))
        say(f"{'ok  ' if ok else 'FAIL'} {name}: {seconds:.1f} s {note}")


def finish(results: Mapping[str, list[Result]]) -> None:
    """The table, and one JSON object as the last line; ends the process with 1 where a scene has failed."""
    for name, found in results.items():
        print(f"\n{name}")
        for it in found:
            print(f"  {'ok  ' if it.ok else 'FAIL'} {it.seconds:6.1f} s  {it.name:26} {it.note.strip()}")
    print(json.dumps({name: [asdict(it) for it in found] for name, found in results.items()}))
    sys.exit(not all(it.ok for found in results.values() for it in found))
