"""affectd-train distil: the best classical model as a small network, with the windows that quantization needs.

Knows nothing of how a student learns. It ends as ``affectd-train fit`` does, for affectd-quantize to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from train.distil import Distilled, Table
    from train.evaluate import Material
    from train.windows import Windows

TEACHERS = ("best", "classical-lda", "classical-lr", "classical-rf", "classical-gb")
CHECKPOINT, WINDOWS = "classical.pt", "classical.npz"


@click.command()
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="Evaluation (TOML).")
@click.option("--data", "root", type=click.Path(path_type=Path), help="The data set's top folder.")
@click.option("--out", default=Path("runs-out"), show_default=True, type=click.Path(path_type=Path))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Processes that prepare windows.")
@click.option("--mode", type=click.Choice(["cold_start", "calibrated"]), default="cold_start", show_default=True)
@click.option("--window", "window_s", default=60.0, show_default=True, help="s; no longer than the candidates'.")
@click.option("--context", "context_s", default=300.0, show_default=True, help="Of EDA, s; likewise.")
@click.option("--teacher", type=click.Choice(TEACHERS), default="best", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--without", default="", help="Subjects to leave out, comma separated.")
def distil(
    path: Path, root: Path | None, out: Path, workers: int, mode: str, window_s: float, context_s: float, teacher: str,
    seed: int, without: str,
) -> None:  # fmt: skip
    """Distil the best classical model into a network that a bundle can hold; for affectd-quantize."""
    from train.cli import Progress, _people, data_root, left_out
    from train.config import read_config
    from train.distil import distil as teach
    from train.distil import save_student, scaled
    from train.evaluate import Material

    say = Progress()
    config = read_config(path)
    people, _ = _people(data_root(root, config.dataset), config, out, workers, say)
    material = Material(people, config, mode)
    kept = left_out(without, material.subjects)
    try:
        spec = material.spec((window_s, context_s))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--window, --context") from error
    say(f"features of {len(material.subjects)} people, {window_s:g} s with {context_s:g} s of EDA")
    table = table_of(material, (window_s, context_s))
    subjects, labels = [s for s in material.subjects if s not in kept], material.task.labels
    chosen = None if teacher == "best" else teacher
    made = teach(table, subjects, len(labels), spec.clip, teacher=chosen, seed=seed, say=say)
    command = f"affectd-train distil --config {path} --mode {mode} --window {window_s:g} --context {context_s:g}"
    command += f" --teacher {teacher} --seed {seed}" + (f" --without {','.join(kept)}" if kept else "")
    about = _provenance(material, made, kept, seed, command)
    save_student(out / CHECKPOINT, made, spec, labels, about)
    save_windows(out / WINDOWS, scaled(table.x, table.present, made.features, spec.clip), table)
    print(f"{out / CHECKPOINT}: distilled from {made.teacher}; windows for quantization in {out / WINDOWS}")


def table_of(material: Material, candidate: tuple[float, float]) -> Table:
    """Features of everyone's labelled windows."""
    from train.distil import Table

    windows = material.windows(candidate)
    return Table(material.features(candidate), windows.present, windows.label, windows.subject)


def save_windows(path: Path, inputs: Mapping[str, npt.NDArray[np.float32]], rows: Table | Windows) -> None:
    """A network's ``ecg`` and ``eda`` inputs for every window, as affectd-quantize reads them."""
    np.savez(
        path,
        ecg=inputs["ecg"], eda=inputs["eda"], present=rows.present, label=rows.label, subject=rows.subject,
    )  # fmt: skip


def _provenance(material: Material, made: Distilled, kept: list[str], seed: int, command: str) -> dict[str, Any]:
    from train.cli import _commit, _versions
    from train.data import datasets

    dataset, config = datasets.get(material.config.dataset), material.config
    surrogate = any(material.surrogate[s] for s in made.train_subjects)
    return {
        "name": f"classical-{config.dataset}",
        "task": config.task,
        "teacher": made.teacher,
        "teacher_scores": made.scores,
        "inner": made.inner,
        "train_subjects": list(made.train_subjects),
        "test_subjects": kept,
        "datasets": [dataset.learned_from(len(made.train_subjects), surrogate)],
        "seeds": [seed],
        "commit": _commit(),
        "command": command,
        "packages": _versions(),
    }
