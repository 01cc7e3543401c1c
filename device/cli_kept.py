"""The commands of ``affectd`` for what it keeps: read results, erase what is somebody's.

It knows nothing of how anything is stored.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from device.config import load_config
from device.errors import StateError
from device.recording import erase_all, to_erase
from firmware_bridge import whole_file

EXIT_LEFT = 1
"""Something is left that somebody must see to."""

FilePath = click.Path(path_type=Path)


@click.command()
@click.argument("recording", type=FilePath, nargs=-1, metavar="[RECORDING...]")
@click.option("--subject", metavar="NAME", help="Everything of this wearer, see [person] subject.")
@click.option("--unnamed", is_flag=True, help="Everything of the time when [person] subject was not set.")
@click.option("--config", type=FilePath, help="The daemon's configuration, which names the places.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and erase nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="With --yes or --dry-run: print one JSON object.")
def erase(
    recording: tuple[Path, ...],
    subject: str | None,
    unnamed: bool,
    config: Path | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase what is kept of a wearer: recordings, results, messages that wait, profile and labels. Or recordings alone:
    segments, or all that a directory holds. Not while affectd runs. Exit code 1 where something is left.

    A card or an SSD may keep erased blocks until it needs them. What was encrypted is noise there, but perhaps for who
    has the private key: destroy that, too, where nobody is to read it again.
    """
    if bool(recording) + (subject is not None) + unnamed != 1 or subject == "":
        raise click.UsageError("name RECORDINGs, or --subject NAME, or --unnamed")
    if recording:
        if config is not None or dry_run or as_json:
            raise click.UsageError("--config, --dry-run and --json go with --subject or --unnamed")
        _erase_recordings(recording, yes)
        return
    if config is None:
        raise click.UsageError("--subject and --unnamed need --config FILE")
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json needs --yes or --dry-run")
    _erase_subject(config, subject or "", dry_run, yes, as_json)


def _erase_recordings(recording: tuple[Path, ...], yes: bool) -> None:
    segments = to_erase(recording)
    if not yes:
        click.confirm(f"Erase {len(segments)} segments for good?", abort=True, err=True)
    erase_all(segments)
    click.echo(f"erased {len(segments)} segments")


def _erase_subject(path: Path, subject: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    from device.erasing import erase_subject, in_words

    config = load_config(path)
    if not (yes or dry_run):
        for line in in_words(erase_subject(config, subject, dry_run=True)):
            click.echo(line)
        click.confirm("Erase all of it for good?", abort=True, err=True)
    report = erase_subject(config, subject, dry_run=dry_run)
    for line in [json.dumps(asdict(report))] if as_json else in_words(report):
        click.echo(line)
    if report.left:
        sys.exit(EXIT_LEFT)


@click.group()
def results() -> None:
    """Read what was predicted."""


@results.command()
@click.argument("file", type=FilePath)
@click.option("--identity", type=FilePath, help="File of your age key, for encrypted results.")
@click.option("--out", type=FilePath, help="Write to this file, for your eyes only, instead of stdout.")
def export(file: Path, identity: Path | None, out: Path | None) -> None:
    """What the file of [sinks.sqlite] or [sinks.jsonl] holds, a line of JSON each; a database's with wall time."""
    from device.results import exported

    rows = exported(file, identity)
    if out is None:
        for row in rows:
            click.echo(json.dumps(row))
        return
    try:
        whole_file.rewrite(out, _lines(rows))
    except OSError as error:
        raise StateError(out, "", f"cannot be written: {error.strerror}", "give another --out") from error


def _lines(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps(row).encode() + b"\n"
