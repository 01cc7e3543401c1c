"""affectd-train pretrain: an encoder from a corpus of unlabelled ECG.

Knows nothing of how it is trained.
"""

from __future__ import annotations

from pathlib import Path

import click

REPORT, CARD = "report.html", "encoder.md"
"""In the output folder: what the encoder learned, in pictures; and the card that goes with it."""


@click.command()
@click.argument("folder", metavar="CORPUS", type=click.Path(path_type=Path))
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="TOML file; see train/runs.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option("--on", default="cpu", show_default=True, help="torch's name of the processor.")
@click.option("--stop-after", type=click.IntRange(1), help="Steps after which it stops for now.")
def pretrain(folder: Path, path: Path, out: Path, on: str, stop_after: int | None) -> None:
    """Pre-train an ECG encoder on CORPUS, the folder that the command corpus wrote; goes on where it was interrupted.

    Alone it uses one process; started by torchrun it shares every batch with the others.
    """
    from train.cli import UNFINISHED, Progress, provenance, refuse_no_processor
    from train.corpus import Corpus
    from train.encoder import load_encoder
    from train.pretrain import ENCODER, read_config
    from train.pretrain import pretrain as run
    from train.world import joined

    config, found = read_config(path), Corpus.open(folder)
    refuse_no_processor(on)
    with joined() as world:
        say = Progress() if world.rank == 0 else _silent
        say(f"{len(found)} windows of {len(found.index.records)} records; {config.pretext}, {config.steps} steps")
        about = provenance(f"affectd-train pretrain --config {path}")
        made = run(found, config, out, on=on, world=world, stop_after=stop_after, provenance=about, say=say)
    if not made.is_done:
        click.echo(f"stopped after {stop_after} of {config.steps} steps; run again to go on")
        raise SystemExit(UNFINISHED)
    if world.rank == 0:
        from train.report.pretraining import card, page

        about = load_encoder(out / ENCODER)[1]
        (out / REPORT).write_text(page(made, found, config, about), encoding="utf-8")
        (out / CARD).write_text(card(made, about), encoding="utf-8")
        click.echo(f"{out / ENCODER}: held-out people's loss {made.history[-1]['held_out']:.3f}; see {out / REPORT}")


def _silent(line: str) -> None:
    """What processes but the first say."""
