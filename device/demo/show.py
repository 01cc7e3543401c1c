"""Runs the demo in real time: paces the players, draws them, sums them up.

It knows nothing of signals or of models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from device.bundle import Bundle
from device.demo.loader import DATA, DemoRecording, available, load
from device.demo.player import Player
from device.demo.view import DISCLAIMER, PlainProgress, closing, opening, render, screenshot
from device.errors import RecordingError
from device.inference import Prediction
from device.session import Tally

SHOW_S = 30.0
"""Seconds the whole demo takes unless told otherwise: long enough to see, short enough to watch."""
FRAMES_PER_S = 8
SCREENSHOT_AT = 0.9
"""Share of a recording at which the screenshot is taken: both sensors are back, and the strip shows the loss."""


def show_all(
    bundle: Bundle,
    *,
    runtime: str = "auto",
    fast: bool = False,
    speed: float | None = None,
    only: str | None = None,
    screenshot_path: Path | None = None,
    console: Console | None = None,
) -> dict[str, object]:
    """Play the recordings one after the other; the summary. ``speed`` is in times of real time.

    Raises DeviceError where a recording is missing or the bundle cannot run.
    """
    recordings = [load(name) for name in ([only] if only else available())]
    if not recordings:
        raise RecordingError(DATA, "", "holds none of the demo's recordings", "install affectd again")
    total, players = Tally(), []
    for recording in recordings:
        player = Player(recording, bundle, runtime)
        players.append(player)
        print(opening(recording), flush=True)
        pace = None if fast else speed or _default_speed(recording, recordings)
        _show(player, pace, screenshot_path, console or Console())
        print(closing(player), flush=True)
        for prediction in player.predictions:
            total.add(prediction)
    print(DISCLAIMER, flush=True)
    busy = sum(player.busy_s for player in players)
    return total.to_json(sum(player.now for player in players) / max(busy, 1e-9), bundle.sha256)


def _default_speed(recording: DemoRecording, recordings: list[DemoRecording]) -> float:
    """Longer recordings get more of SHOW_S, by the square root of their length, so that a short one is seen too."""
    share = math.sqrt(recording.duration) / sum(math.sqrt(other.duration) for other in recordings)
    return recording.duration / (SHOW_S * share)


def _show(player: Player, speed: float | None, screenshot_path: Path | None, console: Console) -> None:
    """Play one recording: the live view where there is a terminal to draw it in, lines where there is none."""
    steps = _paced(player, speed, screenshot_path)
    if speed is None or not console.is_terminal:
        progress = PlainProgress(player)
        for new in steps:
            for line in progress.lines(new):
                print(line, flush=True)
        return
    due = 0.0
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in steps:
            if time.monotonic() >= due:
                live.update(render(player, console.width), refresh=True)
                due = time.monotonic() + 1 / FRAMES_PER_S
        live.update(render(player, console.width), refresh=True)


def _paced(player: Player, speed: float | None, screenshot_path: Path | None) -> Iterator[list[Prediction]]:
    """The player's steps, each held back until it is due; takes the screenshot on its way."""
    begun = time.monotonic()
    for new in player.steps():
        if speed is not None:
            time.sleep(max(0.0, begun + player.now / speed - time.monotonic()))
        if screenshot_path and player.now >= SCREENSHOT_AT * player.recording.duration:
            screenshot(player, screenshot_path)
            screenshot_path = None
        yield new
