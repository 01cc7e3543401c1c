"""What every command of affectd-pair needs: the outside, by argument, and what its options say.

Knows nothing of the commands.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import click

from firmware_bridge import registry
from firmware_bridge.pair.assess import Assess
from firmware_bridge.pair.facts import Facts, machine_facts
from firmware_bridge.pair.person import Person, Terminal
from firmware_bridge.pair.radio import OpenRadio, machine_radio

PROGRAM = "affectd-pair"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outside:
    """What the tool touches, by argument: a test puts in its own."""

    assess: Assess
    """Judges signals."""
    radio: OpenRadio = machine_radio
    person: Callable[[], Person] = Terminal
    facts: Callable[[], AbstractAsyncContextManager[Facts]] = machine_facts
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run


@dataclass(frozen=True, slots=True)
class Setup:
    """What every command needs."""

    outside: Outside
    path: Path
    socket: Path | None
    """Of the daemon; None: there is none to mind."""
    adapter: str | None
    simulated: bool

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; ended in good order by SIGTERM and SIGHUP too, as asyncio does it for Ctrl-C."""
        result: T = self.outside.run(_endable(work))
        return result


async def _endable(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:  # nohup
            continue
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Of --version."""
    if not wanted or context.resilient_parsing:
        return
    try:
        click.echo(f"{PROGRAM} {version('affectd')}")
    except PackageNotFoundError:
        click.echo(f"{PROGRAM}, run from its source tree")
    context.exit()


def check_adapter(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Of --adapter: an address, upper case."""
    if value is not None and not registry.is_address(value.upper()):
        raise click.BadParameter(f"{value!r}: expected an adapter's address; `{PROGRAM} doctor` shows them")
    return value and value.upper()
