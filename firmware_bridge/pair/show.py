"""What the tool shows: tables that live while a scan runs, and plain ones where there is no terminal.

Knows nothing of radios. Cells are Text, not str: a name may hold what rich would take for markup.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from firmware_bridge.pair.doctor import Finding
from firmware_bridge.pair.scan import Found, Survey
from firmware_bridge.pair.text import clean
from firmware_bridge.registry import Sensor

REFRESH_S = 0.25
"""Between two drawings of a live table."""
ROWS = 40
"""Rows of a live table: a terminal has about as many lines."""
LINE = 400
"""Characters of a message, longer than any of ours: it may quote what a device said."""
NEAR_DBM, FAR_DBM = -70, -85
"""Above the first a link holds through a body and a room; below the second it will not."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table whose first column stays whole."""
    out = Table(box=box.SIMPLE_HEAD)
    for number, head in enumerate(heads):
        out.add_column(head, no_wrap=number == 0, overflow="fold")
    for row in rows:
        out.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return out


def print_table(shown: Table) -> None:
    """On the standard output."""
    Console().print(shown)


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """On the standard output."""
    print_table(table(heads, rows))


SCAN_HEADS = ("address", "name", "signal", "what it seems to be", "affectd can take")


def survey_table(found: Sequence[Found], sensors: Sequence[Sensor], now_s: float | None = None) -> Table:
    """What a scan heard; with ``now_s``, in the loop's time, how long ago."""
    return table(SCAN_HEADS, (_found_row(it, sensors, now_s) for it in found))


def _found_row(found: Found, sensors: Sequence[Sensor], now_s: float | None) -> list[str | Text]:
    kind, added = found.kind, added_as(found, sensors)
    name = Text(found.name).append(f" = {added}" if added else "", style="cyan")
    use = Text(kind.use, style="green" if kind.usable else "dim")
    use.append(f" ({kind.basis})" if kind.basis else "", style="dim")
    return [found.address, name, _signal(found, now_s), kind.what, use]


def added_as(found: Found, sensors: Sequence[Sensor]) -> str:
    """``strap (ecg)``; empty: it was not added."""
    return next((f"{it.name} ({it.role})" for it in sensors if it.address == found.address), "")


def _signal(found: Found, now_s: float | None) -> Text:
    style = "green" if found.rssi >= NEAR_DBM else "red" if found.rssi < FAR_DBM else "yellow"
    age = "" if now_s is None else f", {max(0.0, now_s - found.heard_s):.0f} s ago"
    return Text(f"{found.rssi} dBm{age}", style=style)


@contextlib.contextmanager
def live_survey(sensors: Sequence[Sensor], clock_s: Callable[[], float]) -> Iterator[Callable[[Survey], None]]:
    """A table on the terminal's standard error that follows a scan; elsewhere nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    drawn = -REFRESH_S
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def follow(survey: Survey) -> None:
            nonlocal drawn
            if clock_s() - drawn >= REFRESH_S:
                drawn = clock_s()
                live.update(survey_table(survey.sorted()[:ROWS], sensors, drawn), refresh=True)

        yield follow


_LEVEL_STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def print_findings(findings: Iterable[Finding]) -> None:
    """What the doctor found, each with its remedy."""
    print_table(table(("check", "", "found", "what to do"), map(_finding_row, findings)))


def _finding_row(it: Finding) -> list[str | Text]:
    level = Text(it.level, style=_LEVEL_STYLE[it.level])
    return [it.check, level, clean(it.what, LINE), clean(it.remedy, LINE)]
