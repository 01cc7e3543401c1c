"""The live view of a Player in a terminal, and what is printed where there is none.

It knows nothing of how predictions are made.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from device.demo.loader import DemoRecording
from device.demo.player import KEEP_S, STREAMS, Player, describe, seconds_of
from device.demo.plot import braille
from device.inference import Prediction

DISCLAIMER = "Not a medical device. For research."
WIDTH, HEIGHT = 110, 31
"""Characters of the screenshot."""
PLOT_HEIGHT = 5
SILENT_S = 3.0
"""A sensor that has sent nothing for so long is shown as silent."""
UNITS = {"ecg": "mV", "eda": "uS"}
COLOURS = {"ecg": "green", "eda": "cyan"}
LABEL_COLOURS = ("blue", "red", "yellow", "magenta", "cyan", "green")
"""Of the labels, in the model's order."""
REST_WORDS = ("rest", "baseline", "neutral", "relax", "questionnaire", "transition")
"""In a task's description: it is drawn in the first label's colour, any other task in the second's."""
GLYPHS = {("ecg", "eda"): "█", ("ecg",): "▄", ("eda",): "▀"}
ABSTAINED = "·"
_NAME_WIDTH = 10


def render(player: Player, width: int) -> Layout:
    """The whole view for a terminal ``width`` characters wide."""
    layout = Layout()
    layout.split_column(
        Layout(_header(player), size=1),
        Layout(_signal(player, "ecg", width), size=PLOT_HEIGHT + 2),
        Layout(_signal(player, "eda", width), size=PLOT_HEIGHT + 2),
        Layout(name="now", size=9),
        Layout(_strip(player, width), size=6),
        Layout(_footer(), size=1),
    )
    layout["now"].split_row(Layout(_prediction(player)), Layout(_counters(player)))
    return layout


def _header(player: Player) -> Text:
    recording = player.recording
    place = f"{player.now:.0f} of {recording.duration:.0f} s"
    return Text.assemble((" affectd demo ", "reverse bold"), f"  {recording.name}  {place}  ", _notice(player))


def _notice(player: Player) -> Text:
    if not player.predictions:
        return Text("waiting for the first window", "dim")
    last = player.predictions[-1]
    whole = len(last.modalities) == len(STREAMS)
    return Text(describe(last), "bold green" if whole else "bold yellow")


def _signal(player: Player, modality: str, width: int) -> Panel:
    """One signal, scrolling, with what it is and where it is silent."""
    trace = {"ecg": player.recording.ecg, "eda": player.recording.eda}[modality]
    times, values = player.signal(modality)
    span = (player.now - KEEP_S[modality], player.now)
    shown = values[times >= span[0]] if len(times) else values
    title = Text.assemble((modality.upper(), "bold"), " surrogate " if trace.surrogate else " ")
    if len(shown):
        title.append(f"{shown.min():.2f} to {shown.max():.2f} {UNITS[modality]}, last {KEEP_S[modality]:g} s")
    if player.silent_s(modality) > SILENT_S:
        title.append(f"  silent for {player.silent_s(modality):.0f} s", "bold yellow")
    lines = braille(times, values, span, max(width - 4, 1), PLOT_HEIGHT)
    return Panel(Text("\n".join(lines), COLOURS[modality], no_wrap=True), title=title, title_align="left")


def _prediction(player: Player) -> Panel:
    """The newest prediction: quality per modality, probability per label."""
    table = Table.grid(padding=(0, 1))
    last = player.predictions[-1] if player.predictions else None
    for modality in STREAMS:
        table.add_row(*_quality(last, modality))
    for number, label in enumerate(player.labels):
        share = last.probabilities[label] if last and last.probabilities else 0.0
        table.add_row(Text(label, "bold"), _bar(share, LABEL_COLOURS[number % len(LABEL_COLOURS)]), f"{share:.0%}")
    if last and last.abstained:
        table.add_row("abstains", Text(last.abstained, "yellow"), "")
    when = f"window {seconds_of(last.start):.0f} to {seconds_of(last.stop):.0f} s" if last else "prediction"
    return Panel(table, title=when, title_align="left")


def _quality(last: Prediction | None, modality: str) -> tuple[Text, Text, str]:
    """Name, sqi bar, state of one modality."""
    if last is None or modality not in last.sqi:
        why = last.problems.get(modality, ("",))[0] if last else ""
        return Text(f"{modality.upper()} sqi", "dim"), _bar(0.0, "dim"), why
    active = modality in last.modalities
    state = "active" if active else ", ".join(last.problems.get(modality, ("left out",)))
    return Text(f"{modality.upper()} sqi", "bold" if active else "dim"), _bar(last.sqi[modality], "green"), state


def _bar(share: float, colour: str, width: int = 24) -> Text:
    full = round(share * width)
    return Text("█" * full, colour).append("░" * (width - full), "dim")


def _counters(player: Player) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_row("", *(Text(name, "bold") for name in player.counts))
    counts = player.counts.values()
    table.add_row("packets", *(str(c.notifications) for c in counts))
    table.add_row("bad", *(str(c.bad.total()) for c in counts))
    table.add_row("gaps", *(str(c.assembly.gaps) for c in counts))
    table.add_row("lost samples", *(str(c.assembly.lost_samples) for c in counts))
    table.add_row("rate", *(f"{c.assembly.sfreq:.3f} Hz" for c in counts))
    table.add_row("speed", f"{player.realtime_factor:,.0f} x real time", "")
    return Panel(table, title="streams", title_align="left")


Cell = tuple[str, str]
"""A character and its style."""


def _strip(player: Player, width: int) -> Panel:
    """Over the whole recording: the true tasks, and beside them what was predicted and from what."""
    n = max(width - 4 - _NAME_WIDTH, 1)
    true: list[Cell] = [(" ", "")] * n
    said: list[Cell] = [(" ", "")] * n
    for onset, duration, description in player.recording.annotations:
        begin, end = _columns(player, onset, onset + duration, n)
        text = f" {description} "[: end - begin].ljust(end - begin)
        true[begin:end] = [(character, f"white on {_task(description)}") for character in text]
    for prediction in player.predictions:
        begin, end = _columns(player, *_stretch(prediction, player), n)
        said[begin:end] = [(_glyph(prediction), _colour(prediction, player))] * (end - begin)
    cursor = " " * _columns(player, player.now, player.now, n)[0] + f"^ {_task_now(player)}"
    rows = (
        ("true", Text.assemble(*true)),
        ("predicted", Text.assemble(*said)),
        ("", Text(cursor)),
        ("", _legend(player)),
    )
    return Panel(Group(*(_named(*row) for row in rows)), title="predictions over time", title_align="left")


def _task_now(player: Player) -> str:
    """What truly goes on, which the strip has no room to say of a short task."""
    return ", ".join(a.description for a in player.recording.annotations if 0 <= player.now - a.onset < a.duration)


def _columns(player: Player, begin: float, end: float, n: int) -> tuple[int, int]:
    """Columns [begin, end), at least one, of a stretch in seconds."""
    first, last = (int(np.clip(second / player.recording.duration * n, 0, n)) for second in (begin, end))
    first = min(first, n - 1)
    return first, max(last, first + 1)


def _legend(player: Player) -> Text:
    legend = Text("█ ECG + EDA  ▄ ECG alone  ▀ EDA alone  · abstained   ", "dim")
    for number, label in enumerate(player.labels):
        legend.append(f"■ {label}  ", LABEL_COLOURS[number % len(LABEL_COLOURS)])
    return legend


def _named(name: str, text: Text) -> Text:
    return Text(name.ljust(_NAME_WIDTH), no_wrap=True).append_text(text)


def _stretch(prediction: Prediction, player: Player) -> tuple[float, float]:
    """Where a prediction is drawn: around its window's middle, as wide as windows step."""
    middle = seconds_of((prediction.start + prediction.stop) / 2)
    return middle - player.stride_s / 2, middle + player.stride_s / 2


def _glyph(prediction: Prediction) -> str:
    return ABSTAINED if prediction.label is None else GLYPHS[prediction.modalities]


def _colour(prediction: Prediction, player: Player) -> str:
    if prediction.label is None:
        return "dim"
    return LABEL_COLOURS[player.labels.index(prediction.label) % len(LABEL_COLOURS)]


def _task(description: str) -> str:
    return LABEL_COLOURS[0 if any(word in description.lower() for word in REST_WORDS) else 1]


def _footer() -> Text:
    return Text(f" {DISCLAIMER}   Sensors are virtual, their signals recorded.", "dim")


def screenshot(player: Player, path: Path) -> None:
    """Write the view as SVG."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True)
    console.print(render(player, WIDTH), height=HEIGHT)
    path.write_text(console.export_svg(title="affectd demo"))


class PlainProgress:
    """A line where something changes, for a log or a pipe."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self._said = ""

    def lines(self, new: list[Prediction]) -> list[str]:
        """What there is to say about new predictions."""
        lines = []
        for prediction in new:
            said = describe(prediction)
            if said != self._said:
                lines.append(f"{self.player.recording.name}: {seconds_of(prediction.stop):5.0f} s  {said}")
                self._said = said
        return lines


def opening(recording: DemoRecording) -> str:
    """A recording in a line."""
    surrogate = [m.upper() for m, trace in (("ecg", recording.ecg), ("eda", recording.eda)) if trace.surrogate]
    note = f", surrogate {', '.join(surrogate)}" if surrogate else ""
    return f"{recording.name}: {recording.duration:.0f} s of ECG and EDA{note}"


def closing(player: Player) -> str:
    """What came of a recording, in a line."""
    tally = player.tally
    parts = ", ".join(f"{count} from {names}" for names, count in tally.modalities.items() if count)
    abstained = ", ".join(f"{count} {reason}" for reason, count in tally.abstentions.items()) or "none"
    return (
        f"{player.recording.name}: {tally.windows} windows, {tally.predictions} predictions ({parts}), "
        f"abstained: {abstained}, {player.realtime_factor:,.0f} x real time"
    )
