"""affectd-train corpus: any folders with ECG become the corpus that a network is pre-trained on.

Knows nothing of how it is made or read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from train.data import datasets

if TYPE_CHECKING:
    from rich.table import Table

    from device.pipeline.spec import SignalSpec
    from train.corpus import Corpus, Index, Record, Source


def _by_folder(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """``FOLDER=LICENCE`` as a mapping."""
    pairs = [text.partition("=") for text in given]
    wrong = [text for text, (name, _, licence) in zip(given, pairs, strict=True) if not (name and licence)]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not FOLDER=LICENCE, such as 'qtdb=ODC-By 1.0'")
    return {name: licence for name, _, licence in pairs}


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option("--dataset", type=click.Choice(datasets.names()), help="What every PATH is; found out where left out.")
@click.option(
    "--licence",
    "licences",
    multiple=True,
    metavar="FOLDER=LICENCE",
    callback=_by_folder,
    help="What a PATH, by its last name, may be used under, where its format does not say: of WFDB and EDF.",
)
@click.option("--strict", is_flag=True, help="Refuse a record or lead that cannot be used, instead of naming it.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes that make windows.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON on standard output.")
def corpus(
    paths: tuple[Path, ...], out: Path, dataset: str | None, licences: Mapping[str, str], strict: bool, workers: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Run every ECG lead below each PATH through the device's pipeline and keep its good windows for pre-training.

    Interrupt it at will and run it again: it goes on with the next record. On a finished corpus it checks that nothing
    has changed.
    """
    from train.cli import Progress
    from train.corpus_build import build

    made = build(paths, out, dataset=dataset, licences=licences, strict=strict, workers=workers, say=Progress())
    found = tallies(made.index)
    if as_json:
        click.echo(json.dumps(_record(made, found), indent=1, allow_nan=False))
    else:
        _print(made, found)


@dataclass(frozen=True)
class Tally:
    """One source in figures."""

    source: str
    dataset: str
    licence: str
    records: int
    used: int
    """Records with windows."""
    people: int
    """With windows."""
    leads: int
    """With windows."""
    windows: int
    hours: float
    sfreqs: tuple[float, ...]
    """Hz, of leads with windows, before resampling."""
    skipped: dict[str, int]
    """Why windows were left out -> how many, the most frequent first."""
    left_out: dict[str, str]
    """Record, or record and lead -> why all of it was left out."""


def tallies(index: Index) -> list[Tally]:
    """Each source in figures, in order."""
    by_source = {s.name: [r for r in index.records if r.source == s.name] for s in index.plan.sources}
    return [_tally(source, by_source[source.name], index.plan.spec) for source in index.plan.sources]


def _tally(source: Source, records: Sequence[Record], spec: SignalSpec) -> Tally:
    used = [record for record in records if record.windows]
    leads = [lead for record in used for lead in record.leads if lead.starts]
    windows = sum(record.windows for record in used)
    skipped = sum((record.skipped() for record in records), Counter[str]())
    left_out = {f"{r.subject}, {place}": reason for r in records for place, reason in r.problems()}
    return Tally(
        source.name, source.dataset, source.licence,
        len(records), len(used), len({record.person for record in used}), len(leads),
        windows, windows * spec.window_s / 3600, tuple(sorted({lead.sfreq for lead in leads})),
        dict(skipped.most_common()), left_out,
    )  # fmt: skip


def _bytes(made: Corpus) -> int:
    return sum(path.stat().st_size for path in made.folder.iterdir())


def _record(made: Corpus, found: Sequence[Tally]) -> dict[str, object]:
    return {
        "folder": str(made.folder),
        "windows": len(made),
        "window_s": made.spec.window_s,
        "hours": sum(tally.hours for tally in found),
        "bytes": _bytes(made),
        "shards": len(made.index.shards),
        "sources": [asdict(tally) for tally in found],
    }


def _print(made: Corpus, found: Sequence[Tally]) -> None:
    from rich.console import Console

    Console().print(_sources(found))
    for tally in found:
        skipped = ", ".join(f"{n} {reason}" for reason, n in tally.skipped.items())
        click.echo(f"{tally.source}: licence {tally.licence}; windows skipped: {skipped or 'none'}")
        for place, reason in tally.left_out.items():
            click.secho(f"left out: {tally.source}: {place}: {reason}", fg="yellow")
    hours = sum(tally.hours for tally in found)
    shards = len(made.index.shards)
    click.echo(
        f"{made.folder}: {len(made)} windows of {made.spec.window_s:g} s, {hours:.1f} h, "
        f"{_bytes(made) / 1e6:.1f} MB in {shards} shard" + ("" if shards == 1 else "s")
    )


def _sources(found: Sequence[Tally]) -> Table:
    """A row for each source."""
    from train.data.command import plain_table

    table = plain_table(
        ("source", "data set", "records", "used", "people", "leads", "Hz", "windows", "hours"), "  >>>> >>"
    )
    for tally in found:
        counts = (tally.records, tally.used, tally.people, tally.leads)
        rates = ", ".join(f"{sfreq:g}" for sfreq in tally.sfreqs)
        cells = (tally.source, tally.dataset, *map(str, counts), rates, str(tally.windows), f"{tally.hours:.1f}")
        table.add_row(*cells)
    return table
