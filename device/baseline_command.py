"""`affectd baseline`: guides a wearer through a rest, or takes one out of a recording, and writes the profile.

It knows nothing of signals; the daemon or a recorder says how the rest goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from device.baseline import BaselineRecorder, Progress, check_worn
from device.bundle import read_bundle
from device.errors import RecordingError
from device.profile import Profile, check_place, with_labels_at, write_profile
from device.recording import RecordingReader
from device.resting import BaselineRequest, Outcome, rest_of
from firmware_bridge.daemon_client import DaemonError, ask

GUIDE = "sit still, do not talk"
_STATE = {
    "waiting": "not known yet",
    "missing": "no sensor",
    "warming_up": "starting",
    "gap": "no signal",
    "contact": "no contact",
    "flat": "no contact",
    "saturated": "beyond its range",
    "noise": "noisy",
    "motion": "moved",
    "rate": "no heart's rate",
    "quality": "poor",
}
_NAMES = {"ecg": "ECG", "eda": "EDA"}


class Screen(Protocol):
    """What is told while a baseline is recorded."""

    def push(self, progress: Progress) -> None:
        """How the rest goes."""

    def end(self, outcome: Outcome) -> None:
        """What came of it."""


async def from_daemon(socket: Path, request: BaselineRequest, path: Path | None, screen: Screen) -> None:
    """Have a running affectd record a rest; written to ``path``, or by the daemon to its own [person] profile.

    Raises DaemonError where it cannot, ProfileError where ``path`` cannot be written. Whoever cancels it ends the rest
    and nothing is written.
    """
    if path is not None:
        check_place(path, request.person)
    async with ask(socket, {"do": "baseline", **msgspec.to_builtins(request)}) as answers:
        async for answer in answers:
            if "outcome" in answer:
                outcome = msgspec.convert(answer["outcome"], Outcome)
                screen.end(_kept(outcome, path) if path is not None else outcome)
                return
            screen.push(msgspec.convert(answer["progress"], Progress))
    raise DaemonError(socket, "it ended during the rest; nothing is written", "see its log: `journalctl -u affectd`")


def from_recording(
    reader: RecordingReader,
    bundle: Path,
    request: BaselineRequest,
    path: Path,
    screen: Screen,
    *,
    begin_s: float | None = None,
) -> None:
    """Take a rest out of a recording, from ``begin_s`` after its start or from the first good window on.

    Raises RecordingError, BundleError, BaselineError or ProfileError.
    """
    check_place(path, request.person)
    check_worn(request.modalities, [info.modality for info in reader.streams.values()])
    begin = None if begin_s is None else _start(reader) + begin_s
    spec = read_bundle(bundle).manifest.spec
    recorder = BaselineRecorder(spec, request.modalities, rest_s=request.rest_s, begin=begin)
    warnings: tuple[str, ...] = ()
    for progress in rest_of(reader, spec, recorder):
        screen.push(progress)
        warnings = progress.warnings
    profile = recorder.profile(reader.wall_of(reader.header.host_ns), request.person)
    screen.end(_kept(Outcome(profile, None, False, warnings), path))


def _start(reader: RecordingReader) -> float:
    """Host time of the first arrival in s."""
    for arrival in reader:
        return arrival.host_ns / 1e9
    raise RecordingError(reader.path, "", "holds no notification", "name another recording")


def _kept(outcome: Outcome, path: Path) -> Outcome:
    write_profile(path, with_labels_at(path, outcome.profile))
    return msgspec.structs.replace(outcome, path=str(path))


class JsonScreen:
    """One line of JSON per step; the last one has the outcome."""

    def push(self, progress: Progress) -> None:
        """Print it."""
        click.echo(json.dumps({"progress": msgspec.to_builtins(progress)}))

    def end(self, outcome: Outcome) -> None:
        """Print it."""
        click.echo(json.dumps({"outcome": msgspec.to_builtins(outcome)}))


class RichScreen:
    """A bar with the guidance beside it, for people."""

    def __init__(self, bar: Bar, console: Console) -> None:
        self._bar = bar
        self._console = console
        self._task = bar.add_task(GUIDE, total=None)
        self._warned: tuple[str, ...] = ()

    def push(self, progress: Progress) -> None:
        """Move the bar; a new warning gets a line of its own."""
        self._bar.update(
            self._task, total=progress.rest_s, completed=progress.elapsed_s, description=guidance(progress)
        )
        if progress.warnings and not self._warned:
            self._console.print(progress.warnings[0], markup=False)
        self._warned = progress.warnings

    def end(self, outcome: Outcome) -> None:
        """Say what came of it."""
        self._bar.stop()
        for line in summary(outcome):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def opened_screen(as_json: bool) -> Iterator[Screen]:
    """The screen that suits; the terminal is as before afterwards."""
    if as_json:
        yield JsonScreen()
        return
    console = Console()
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=console) as bar:
        yield RichScreen(bar, console)


def guidance(progress: Progress) -> str:
    """What to do, how long still, and how each signal is."""
    signals = ", ".join(f"{_NAMES[m]} {state}" for m, state in states(progress).items())
    return f"{GUIDE}; {_span(progress.rest_s - progress.elapsed_s)} to go; {signals}"


def states(progress: Progress) -> dict[str, str]:
    """How each modality's signal is, for people."""
    first = {m: progress.problems[m][0] if m in progress.problems else "good" for m in progress.good_s}
    return {m: _STATE.get(problem, problem) for m, problem in first.items()}


def summary(outcome: Outcome) -> list[str]:
    """What came of a rest, line by line."""
    profile = outcome.profile
    name = f" of {profile.person}" if profile.person else ""
    lines = [f"The resting baseline{name}, from {_span(profile.rest_s)} of rest:", *_levels(profile)]
    lines += [
        f"Warning: {warning}. Rest once more if that is not the wearer's usual calm." for warning in outcome.warnings
    ]
    lines.append(f"Written to {outcome.path}; it is health data, readable by its owner alone.")
    return lines if not outcome.note else [*lines, outcome.note]


def _levels(profile: Profile) -> list[str]:
    center = profile.baseline.center
    said: dict[str, Any] = {
        "ecg": lambda: f"heart rate {center['hr']:.0f} /min",
        "eda": lambda: f"skin conductance {center['tonic']:.2g} uS",
    }
    return [f"  {said[m]()} (signal quality {profile.sqi[m]:.0%})" for m in profile.modalities]


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    parts = [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest or not minutes)
    return " ".join(parts)
