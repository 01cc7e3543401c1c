"""The person at the terminal: told, shown, asked.

Knows nothing of sensors. Questions wait on the loop, not in a thread, so that Ctrl-C ends them at once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Protocol, TextIO

_CLEAR_LINE = "\r\x1b[K"
_LINE_BYTES = 4096


class Person(Protocol):
    """Whoever runs the tool."""

    @property
    def there(self) -> bool:
        """Whether anybody can be asked."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def show(self, text: str) -> None:
        """A line that the next one replaces; empty: none."""

    async def ask(self, question: str) -> str:
        """The answer, stripped; not to be called where nobody is there."""


class Terminal:
    """Questions on the standard error stream, answers from the standard input: the output is for results alone."""

    def __init__(self, answers: TextIO | None = None, out: TextIO | None = None) -> None:
        self._answers = answers or sys.stdin
        self._out = out or sys.stderr
        self._shown = ""
        self._question = ""

    @property
    def there(self) -> bool:
        """Whether both streams are a terminal."""
        return self._answers.isatty() and self._out.isatty()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._write(f"{_CLEAR_LINE if self._shown else ''}{text}\n")
        self._shown = ""

    def show(self, text: str) -> None:
        """Replace the last line, on a terminal; elsewhere nothing."""
        if self._out.isatty():
            self._shown = text
            self._write(_CLEAR_LINE + text + (" " + self._question if self._question else ""))

    async def ask(self, question: str) -> str:
        """Ask after what is shown, and go on showing meanwhile."""
        self._question = question + " "
        self.show(self._shown)
        try:
            return await self._line()
        finally:
            self._question = self._shown = ""

    async def _line(self) -> str:
        """A terminal gives whole lines."""
        loop, line = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        handle = self._answers.fileno()

        def ready() -> None:
            if not line.done():
                line.set_result(os.read(handle, _LINE_BYTES))

        loop.add_reader(handle, ready)
        try:
            return str((await line).decode(errors="replace")).strip()
        finally:
            loop.remove_reader(handle)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


async def agrees(person: Person, question: str) -> bool:
    """Whether the answer is yes; asked again until it is one."""
    while True:
        answer = (await person.ask(f"{question} [y/n]")).lower()
        if answer in ("y", "yes", "n", "no"):
            return answer[0] == "y"
