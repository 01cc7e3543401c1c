"""``affectd-train data``: the data sets that can be read, and what one on disk holds.

Knows nothing of layouts or of how signals are judged.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from train.data import datasets
from train.data.check import DataCheck, LabelCheck, SignalCheck, SubjectCheck, check_subjects, summary
from train.data.errors import DataError
from train.data.picture import Palette, draw
from train.data.types import Recording

SOME_FAILED = 1
"""Exit code where at least one subject could not be read."""
NAMED_SUBJECTS = 8
"""Subjects that a line about several names one by one."""


@click.group()
def data() -> None:
    """See which data sets can be read, and what one on disk holds."""


@data.command("list")
def list_() -> None:
    """List the data sets and layouts that can be read, with licence and address."""
    for entry in datasets.known():
        click.echo(f"{entry.name:<15} {entry.title}")
        for name, text in (("files", entry.layout), ("licence", entry.licence), ("more at", entry.url)):
            click.echo(f"{'':<15} {name:<8} {text}")


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", type=click.Choice(datasets.names()), help="Which it is; found out where left out.")
@click.option("--subject", "wanted", multiple=True, help="Only this subject; may be given again.")
@click.option(
    "--pictures", type=click.Path(path_type=Path, file_okay=False), help="Draw each subject into this folder."
)
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON on standard output.")
@click.pass_context
def check(
    context: click.Context,
    path: Path,
    dataset: str | None,
    wanted: tuple[str, ...],
    pictures: Path | None,
    as_json: bool,
) -> None:
    """Say what the data set at PATH holds, subject by subject: signals, labels, gaps, and what cannot be read.

    A subject that cannot be read is named and stops no other; the exit code is then 1.
    """
    entry = datasets.find(path, dataset)
    subjects = _chosen(path, entry.subjects(path), wanted)
    with _pictures(entry.title, pictures) as (look, drawn), _progress(len(subjects)) as advance:
        found = []
        for subject in check_subjects(entry, path, subjects, look):
            found.append(subject)
            advance(subject.subject)
    result = summary(entry, path, found)
    if as_json:
        click.echo(json.dumps(_record(result, drawn), indent=1, allow_nan=False))
    else:
        _print(result, drawn)
    if result.failed:
        context.exit(SOME_FAILED)


def _chosen(path: Path, there: Sequence[str], wanted: Sequence[str]) -> Sequence[str]:
    """The wanted subjects in the data set's order; all where none is named."""
    for name in wanted:
        if name not in there:
            raise DataError(str(path), f"subject {name}", "is not there", f"there are {_named(there, len(there))}")
    return [name for name in there if name in wanted] if wanted else there


@contextlib.contextmanager
def _pictures(
    title: str, folder: Path | None
) -> Iterator[tuple[Callable[[str, Sequence[Recording]], None], dict[str, Path]]]:
    """What draws each subject, and the pictures drawn so far."""
    drawn: dict[str, Path] = {}
    palette = Palette()

    def look(subject: str, recordings: Sequence[Recording]) -> None:
        if folder is not None and recordings:
            folder.mkdir(parents=True, exist_ok=True)
            drawn[subject] = folder / f"{subject.replace('/', '_')}.png"
            draw(subject, title, recordings, drawn[subject], palette)

    yield look, drawn


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal's standard error; elsewhere nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=total)
        yield lambda subject: progress.update(task, advance=1, description=f"read {subject}")


def _record(result: DataCheck, drawn: dict[str, Path]) -> dict[str, Any]:
    record = asdict(result)
    for subject in record["subjects"]:
        picture = drawn.get(subject["subject"])
        subject["picture"] = str(picture) if picture else None
    return {**record, "failed": [subject.subject for subject in result.failed]}


def _print(result: DataCheck, drawn: dict[str, Path]) -> None:
    click.echo(f"{result.title}, licence {result.licence}, {result.url}")
    click.echo(f"{result.root}: {_count(len(result.subjects), 'subject')}")
    console = Console()
    read = [subject for subject in result.subjects if subject.problem is None]
    if read:
        console.print(_signal_table(read))
    if any(rec.labels for s in read for rec in s.recordings):
        console.print(_label_table(read))
    elif read:
        click.echo("no labels")
    for text, subjects in _grouped((s.subject, note) for s in read for rec in s.recordings for note in rec.notes):
        click.echo(f"note: {_named(subjects, len(read))}: {text}")
    surrogate = [s.subject for s in read if any(rec.surrogate_ecg for rec in s.recordings)]
    if surrogate:
        click.echo(f"note: {_named(surrogate, len(read))}: no ECG; training rebuilds a surrogate ECG from the pulse")
    for text, subjects in _grouped((s.subject, warning) for s in read for warning in s.warnings):
        click.secho(f"warning: {_named(subjects, len(read))}: {text}", fg="yellow")
    for subject in result.failed:
        click.secho(f"cannot be read: {subject.subject}: {subject.problem}", fg="red")
    if drawn:
        click.echo(f"{_count(len(drawn), 'picture')} in {next(iter(drawn.values())).parent}")
    warned = sum(bool(subject.warnings) for subject in read)
    click.echo(f"{_count(len(read), 'subject')} read, {warned} with warnings, {len(result.failed)} cannot be read")


def _signal_table(read: Sequence[SubjectCheck]) -> Table:
    """A row for each signal of each subject, over its sessions."""
    table = plain_table(("subject", "signal", "Hz", "length", "missing", "lowest", "highest", "unit"), "  >>>>> ")
    for subject in read:
        kinds: dict[tuple[str, float, str], list[SignalCheck]] = {}
        for signal in (signal for recording in subject.recordings for signal in recording.signals):
            kinds.setdefault((signal.modality, signal.sfreq, signal.units), []).append(signal)
        for row, ((modality, sfreq, units), signals) in enumerate(kinds.items()):
            name = modality + (f" ({len(signals[0].ch_names)})" if len(signals[0].ch_names) > 1 else "")
            length = _clock(math.fsum(signal.duration_s for signal in signals))
            rate = f"{sfreq:g}" if sfreq else "events"
            cells = (name, rate, length, _missing(signals), *_range(signals), units)
            last = len(kinds) > 1 and row == len(kinds) - 1
            table.add_row(Text(subject.subject if row == 0 else ""), *map(Text, cells), end_section=last)
    return table


def _missing(signals: Sequence[SignalCheck]) -> str:
    """Share that is missing and in how many gaps."""
    missing, gaps = sum(signal.missing for signal in signals), sum(signal.gaps for signal in signals)
    share = missing / max(1, sum(signal.n_times for signal in signals))
    return f"{share:.2%} in {_count(gaps, 'gap')}" if missing else ""


def _range(signals: Sequence[SignalCheck]) -> tuple[str, str]:
    lows = [signal.low for signal in signals if signal.low is not None]
    highs = [signal.high for signal in signals if signal.high is not None]
    return (f"{min(lows):.4g}", f"{max(highs):.4g}") if lows else ("", "")


def _label_table(read: Sequence[SubjectCheck]) -> Table:
    """A row for each subject: how long each label lasts in all, and the range of its ratings."""
    table = plain_table(("subject", "sessions", "labels, total time"), " > ")
    for subject in read:
        described: dict[str, list[LabelCheck]] = {}
        for label in (label for recording in subject.recordings for label in recording.labels):
            described.setdefault(label.description, []).append(label)
        texts = [_label(name, labels) for name, labels in described.items()]
        table.add_row(
            Text(subject.subject), str(len(subject.recordings)), Text(", ".join([*texts, *_ratings(described)]))
        )
    return table


def _label(name: str, labels: Sequence[LabelCheck]) -> str:
    total, count = math.fsum(label.total_s for label in labels), sum(label.count for label in labels)
    return f"{name} {_clock(total)}" if total else f"{name} {count} x"


def _ratings(described: dict[str, list[LabelCheck]]) -> Iterator[str]:
    """Lowest and highest of each rating over all labels."""
    ranges: dict[str, list[float]] = {}
    for label in (label for labels in described.values() for label in labels):
        for name, edges in label.ratings.items():
            ranges.setdefault(name, []).extend(edges)
    for name, values in ranges.items():
        yield f"rated {name} {min(values):g} to {max(values):g}"


def plain_table(heads: Sequence[str], align: str) -> Table:
    """An empty table; ``align`` has ``>`` for each column that is to stand at the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for head, side in zip(heads, align, strict=True):
        table.add_column(head, justify="right" if side == ">" else "left", no_wrap=head == "subject", overflow="fold")
    return table


def _grouped(pairs: Iterator[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Text -> the subjects of whom it is said."""
    found: dict[str, dict[str, None]] = {}
    for subject, text in pairs:
        found.setdefault(text, {})[subject] = None
    return ((text, list(subjects)) for text, subjects in found.items())


def _named(subjects: Sequence[str], total: int) -> str:
    """``S2, S3``, or ``all 15 subjects``."""
    if len(subjects) == total > 1 and total > NAMED_SUBJECTS:
        return f"all {total} subjects"
    more = f" and {len(subjects) - NAMED_SUBJECTS} more" if len(subjects) > NAMED_SUBJECTS else ""
    return ", ".join(subjects[:NAMED_SUBJECTS]) + more


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _clock(seconds: float) -> str:
    """``1:05:20`` or ``5:20``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
