"""affectd-train explain: a picture of what in a recording speaks for a network's answer.

Knows nothing of how that is found or drawn.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", "root", required=True, type=click.Path(path_type=Path), help="A data set's top folder.")
@click.option("--subject", help="Whose recording; the first one's where left out.")
@click.option("--at", default=0.0, show_default=True, help="Take the first good window from here on, in s.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Write the SVG here."
)
def explain(checkpoint: Path, root: Path, subject: str | None, at: float, output: Path) -> None:
    """Draw one window of a recording with what in it speaks for CHECKPOINT's answer (integrated gradients).

    Of a Transformer also what its CLS token looks at.
    """
    import msgspec

    from device.pipeline.model_input import model_input
    from device.pipeline.spec import SignalSpec
    from train.data import datasets
    from train.errors import CheckpointError, DataError
    from train.explain import explain as run
    from train.fit import load_checkpoint
    from train.prepare import windows_of
    from train.report.explanation import drawing

    model, content = load_checkpoint(checkpoint)
    spec = msgspec.json.decode(content["spec"], type=SignalSpec)
    if spec.needs_baseline:
        reason = "needs the wearer's resting baseline, which no recording brings along"
        raise CheckpointError(str(checkpoint), "spec", reason, "give a network of mode cold_start")
    entry = datasets.find(root)
    everyone = entry.subjects(root)
    subject = subject or everyone[0]
    if subject not in everyone:
        raise click.BadParameter(f"{subject} is not among {', '.join(everyone)}", param_hint="--subject")
    reads = model.config.modalities
    for recording in entry.load(root, subject):
        for window in windows_of(recording, spec):
            good = [m for m in reads if window.is_good(m, spec.sqi_min)]
            if window.start >= at and good:
                found = run(model, model_input({m: window.data[m] for m in good}, spec).arrays)
                title = f"{entry.name} {subject}, {window.start:g} to {window.start + spec.window_s:g} s"
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(drawing(found, spec, content["labels"], title) + "\n", encoding="utf-8")
                click.echo(f"{output}: {title}, {content['labels'][found.answer]}")
                return
    raise DataError(str(root), subject, f"has no good window of {' or '.join(reads)} from {at:g} s on", "try others")
