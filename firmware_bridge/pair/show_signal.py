"""A sensor's signal on the terminal while it is tested, and what the test came to.

Knows nothing of radios or of how a signal is judged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from firmware_bridge.packet import StreamInfo
from firmware_bridge.pair.assess import Assessor, Report
from firmware_bridge.pair.check import Follow, Outcome
from firmware_bridge.pair.plot import braille
from firmware_bridge.pair.show import LINE, REFRESH_S
from firmware_bridge.pair.text import clean

HEIGHT = 8
"""Lines of a plot."""
ECG_S, EDA_S = 5.0, 30.0
"""Shown at a time: a few beats are to be told apart, a skin conductance response takes seconds."""
WIDEST = 100
"""Characters of a plot: ECG of 5 s has 650 samples, more would not be sharper."""


@contextlib.contextmanager
def live_signal(seconds: float) -> Iterator[Follow]:
    """Plot and numbers on the terminal's standard error while a test runs; elsewhere nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    drawn = -REFRESH_S
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def follow(info: StreamInfo, assessor: Assessor, elapsed_s: float) -> None:
            nonlocal drawn
            now = asyncio.get_running_loop().time()
            if now - drawn >= REFRESH_S:
                drawn = now
                live.update(signal_view(info, assessor, elapsed_s, seconds, console.width), refresh=True)

        yield follow


def signal_view(info: StreamInfo, assessor: Assessor, elapsed_s: float, seconds: float, width: int) -> Group:
    """Plot, and a line of numbers."""
    shown_s = ECG_S if info.modality == "ecg" else EDA_S
    report = assessor.report()
    line = f"{elapsed_s:5.1f} of {seconds:g} s   {short(report, info.units)}"
    return Group(plot(assessor.recent(shown_s), info.units, width), Text(line))


def plot(values: Sequence[float], units: str, width: int) -> Text:
    """With its highest and lowest value beside."""
    finite = [value for value in values if value == value]
    labels = [f"{max(finite):.3g} {units}", f"{min(finite):.3g} {units}"] if finite else ["", ""]
    beside = max(map(len, labels)) + 1
    lines = braille(values, max(10, min(WIDEST, width - beside - 1)), HEIGHT)
    left = [labels[0], *[""] * (HEIGHT - 2), labels[1]]
    return Text("\n".join(f"{label:>{beside}} {line}" for label, line in zip(left, lines, strict=True)))


def short(report: Report, units: str) -> str:
    """``130.0 Hz, 0.0 % lost, good 100 %, 72/min``."""
    share = report.lost / max(1, report.lost + report.samples)
    parts = [f"{report.sfreq:.2f} Hz", f"{share:.1%} lost", f"{report.gaps} gaps"]
    parts += [f"good {report.good:.0%}"] if report.good is not None else []
    parts += [f"{report.heart_rate:.0f}/min"] if report.heart_rate else []
    parts += [f"{report.level:.3g} {units}"] if report.level is not None else []
    return ", ".join(parts)


def print_outcome(outcome: Outcome) -> None:
    """Plot, facts and verdict on the standard output."""
    console = Console()
    shown = outcome.signal[-round(ECG_S * outcome.nominal) :] if outcome.units == "mV" else outcome.signal
    if shown:
        console.print(plot(shown, outcome.units, console.width))
    facts = Table.grid(padding=(0, 2))
    for what, value in _facts(outcome):
        facts.add_row(Text(what, style="dim"), Text(value))
    console.print(facts)
    for text in outcome.problems:
        console.print(Text(f"bad: {clean(text, LINE)}", style="red"))
    for text in outcome.notes:
        console.print(Text(f"note: {clean(text, LINE)}", style="yellow"))
    if not outcome.problems:
        console.print(Text(f"{outcome.name or outcome.address} is well.", style="green"))


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    report = outcome.report
    how = ", as affectd streams it" if outcome.by_daemon else ""
    yield "sensor", f"{outcome.name} {outcome.address} ({outcome.protocol}){how}".strip()
    arriving = "" if report.arriving is None else f", {report.arriving:.2f} Hz by this machine's clock"
    yield "rate", f"{report.sfreq:.2f} Hz of {outcome.nominal:g} Hz{arriving}"
    share = report.lost / max(1, report.lost + report.samples)
    yield "lost", f"{report.lost} of {report.lost + report.samples} samples ({share:.2%}) in {report.gaps} gaps"
    yield "quality", "not judged" if report.good is None else f"{report.good:.0%} good"
    if report.heart_rate:
        yield "heart rate", f"{report.heart_rate:.0f}/min"
    for what, value, unit in (
        ("battery", outcome.battery, "%"),
        ("ATT MTU", outcome.mtu, "bytes"),
        ("signal", outcome.rssi, "dBm"),
    ):
        if value is not None:
            yield what, f"{value} {unit}"
