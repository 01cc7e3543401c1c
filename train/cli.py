"""affectd-train: prepare windows, evaluate leave-one-subject-out, fit the shipped network, write the demo's subject.

Knows nothing of how any step is done; turns errors into one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from device.pipeline.errors import PipelineError
from train.errors import DataError, TrainError

BAD_INPUT = 2
"""Exit code for anything the user can put right."""
DATA_SETS = {"name": "Stress-Predict", "licence": "MIT", "url": "https://doi.org/10.3390/s22218135"}
HERE = Path(__file__).parent


def _say(line: str, begin: float = time.monotonic()) -> None:
    print(f"[{time.monotonic() - begin:5.0f} s] {line}", file=sys.stderr, flush=True)


def _stress_predict(data: Path | None) -> Path:
    """The data set's top folder: as given, or below the reference recordings."""
    reference = os.environ.get("AFFECTD_REFERENCE_DATA")
    root = data or (Path(reference) / "stress_predict" if reference else None)
    if root is None:
        raise DataError("--data", "option", "is missing", "give Stress-Predict's top folder")
    return root


def _commit() -> str:
    """The commit in use, ``+`` where the tree differs from it, ``unknown`` outside a checkout."""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=HERE, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip()


def _versions() -> dict[str, str]:
    out = {"python": sys.version.split()[0]}
    for package in ("torch", "numpy", "scipy", "scikit-learn"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "unknown"
    return out


data_option = click.option("--data", type=click.Path(path_type=Path), help="Stress-Predict's top folder.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs-out"), show_default=True, help="Working folder."
)
workers_option = click.option("--workers", default=2, show_default=True, help="Processes.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="affectd")
def command() -> None:
    """Train and evaluate affectd's networks."""


def _people(data: Path | None, out: Path, workers: int) -> list[Any]:
    from device.pipeline.spec import default_spec
    from train.prepare import prepare_stress_predict

    root = _stress_predict(data)
    return prepare_stress_predict(root, default_spec(), out / "prepared", workers=workers, say=_say)


@command.command()
@data_option
@out_option
@workers_option
def prepare(data: Path | None, out: Path, workers: int) -> None:
    """Run every recording through the device's pipeline and keep the labelled windows."""
    people = _people(data, out, workers)
    for person in people:
        rest, task = (int((person.label == k).sum()) for k in (0, 1))
        ecg, eda = person.present.mean(axis=0)
        print(f"{person.subject}: {rest} windows at rest, {task} at task; usable ECG {ecg:.0%}, EDA {eda:.0%}")


@command.command()
@data_option
@out_option
@workers_option
@click.option("--mode", type=click.Choice(["cold_start", "calibrated", "all"]), default="all", show_default=True)
@click.option("--seeds", default="0", show_default=True, help="Comma separated.")
@click.option("--results", type=click.Path(path_type=Path), default=Path("results/stress_predict_loso.json"))
def loso(data: Path | None, out: Path, workers: int, mode: str, seeds: str, results: Path) -> None:
    """Leave-one-subject-out over all labelled subjects; goes on where it was interrupted."""
    from train import evaluate
    from train.fit import FitConfig
    from train.models.acc import AccConfig
    from train.report import table

    people = _people(data, out, workers)
    records = [
        record
        for name in (evaluate.MODES if mode == "all" else (mode,))
        for record in evaluate.loso(
            people,
            out / "folds",
            mode=name,
            seeds=[int(s) for s in seeds.split(",")],
            fit_config=FitConfig(),
            model_config=AccConfig(),
            workers=workers,
            say=_say,
        )
    ]
    provenance = {"commit": _commit(), "command": f"affectd-train loso --seeds {seeds}", "packages": _versions()}
    summary = evaluate.summarise(records, provenance)
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(summary, indent=1) + "\n")
    print(table(summary))


@command.command()
@data_option
@out_option
@workers_option
@click.option("--seed", default=0, show_default=True)
def fit(data: Path | None, out: Path, workers: int, seed: int) -> None:
    """Train the shipped network (cold start) on everyone but the demo's subject; write checkpoint and windows."""
    import numpy as np

    from device.pipeline.spec import default_spec
    from train.demo_data import DEMO_SUBJECT
    from train.evaluate import assert_no_leak
    from train.fit import FitConfig, config_record, fit, save_checkpoint
    from train.models.acc import AccConfig
    from train.prepare import LABELS, network_windows

    people = _people(data, out, workers)
    spec = default_spec()
    windows = network_windows(people, spec)
    subjects = [p.subject for p in people if p.subject != DEMO_SUBJECT]
    _say(f"fitting on {len(subjects)} people, without {DEMO_SUBJECT}")
    config = FitConfig(epochs=12, every=2)
    fitted = fit(windows, subjects, config, AccConfig(), seed)
    assert_no_leak(fitted.train_subjects, [DEMO_SUBJECT], "the shipped network")
    for row in fitted.history:
        _say(f"epoch {row['epoch']}: loss {row['loss']:.4f}, inner loss {row['inner_loss']:.4f}")
    provenance = {
        "name": "acc-stress-predict",
        "task": "rest against stress task",
        "train_subjects": list(fitted.train_subjects),
        "test_subjects": [DEMO_SUBJECT],
        "datasets": [{**DATA_SETS, "subjects": len(subjects), "surrogate_ecg": True}],
        "seeds": [seed],
        "commit": _commit(),
        "command": f"affectd-train fit --seed {seed}",
        "packages": _versions(),
        "epoch": fitted.epoch,
        **config_record(config, AccConfig()),
    }
    save_checkpoint(out / "acc.pt", fitted.model, spec, LABELS, provenance)
    np.savez(
        out / "windows.npz",
        ecg=windows.ecg, eda=windows.eda, present=windows.present, label=windows.label, subject=windows.subject,
    )  # fmt: skip
    print(f"{out / 'acc.pt'}: epoch {fitted.epoch}; windows for quantization in {out / 'windows.npz'}")


@command.command("demo-data")
@data_option
@click.option("--to", type=click.Path(path_type=Path), default=HERE.parent / "device" / "demo" / "data")
def demo_data(data: Path | None, to: Path) -> None:
    """Write the held-out subject (surrogate ECG, real EDA, task times) as the demo's files."""
    from train.demo_data import write_demo_subject

    for path in write_demo_subject(_stress_predict(data), to):
        print(f"{path}: {path.stat().st_size} bytes")


@command.command()
@click.argument("results", type=click.Path(path_type=Path))
def report(results: Path) -> None:
    """Print a results file as a Markdown table."""
    from train.report import read_records, table

    print(table(read_records(results)))


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    try:
        command(args, prog_name="affectd-train")
    except (TrainError, PipelineError, OSError) as error:
        print(f"affectd-train: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
