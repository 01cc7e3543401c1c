"""``affectd-train report``: an HTML page, flat records and Markdown from the folds of a run.

Knows nothing of figures or drawing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

SOME_LEFT_OUT = 1
"""Exit code where a fold's file could not be read."""


def _file(name: str, text: str) -> Callable[[Command], Command]:
    return click.option(name, type=click.Path(path_type=Path, dir_okay=False), help=text)


@click.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the HTML page here.")
@_file("--records", "Write the flat records here (JSON).")
@_file("--markdown", "Write the tables here (Markdown).")
@click.option(
    "--pages", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Fill the tables of the .md below."
)
@click.option(
    "--add", is_flag=True, help="Keep what the records file already says of other systems, data sets and tasks."
)
@click.pass_context
def report(
    context: click.Context,
    results: Path,
    output: Path | None,
    records: Path | None,
    markdown: Path | None,
    pages: Path | None,
    add: bool,
) -> None:
    """Say what RESULTS came to: the folder of a run, or its flat records (then no page can be drawn).

    With --add the tables are of everything that the records file then holds, the HTML page of RESULTS alone.
    Without options the figures are printed as one table. A fold that cannot be read is named and stops no other; the
    exit code is then 1.
    """
    from train.report import figures, folds, ratings
    from train.report.markdown import markdown as to_markdown
    from train.report.markdown import read_records, table
    from train.report.model_pages import filled

    rated, problems = ratings.read(results)
    found = []
    if not results.is_file() and (not rated or (results / "folds").is_dir()):
        found, others = folds.read(results)
        problems += others
    flat = [*figures.records(found), *ratings.records(rated)] if found or rated else read_records(results)
    if add:
        if records is None:
            raise click.UsageError("--add needs the --records to which they are added")
        flat = figures.added(read_records(records) if records.exists() else [], flat)
    for problem in problems:
        click.echo(f"affectd-train: {' '.join(str(problem).split())}", err=True)
    if output:
        if not found:
            raise click.UsageError(
                f"{results} holds no folds of classes; the page needs those that affectd-train loso wrote"
            )
        from train.report.page import page

        _write(output, page(found, [str(problem) for problem in problems]))
    if records:
        _write(records, json.dumps(flat, indent=1, allow_nan=False) + "\n")
    if markdown:
        _write(markdown, to_markdown(flat))
    for path in sorted(pages.glob("*.md")) if pages else ():
        _write(path, filled(path.read_text(encoding="utf-8"), flat, str(path)))
    if not (output or records or markdown or pages):
        click.echo(table(flat), nl=False)
    if problems:
        context.exit(SOME_LEFT_OUT)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    click.echo(f"{path}: {path.stat().st_size} bytes")
