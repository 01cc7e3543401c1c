"""affectd-train: look at data, prepare windows, evaluate leave-one-subject-out, report, fit the shipped network.

Knows nothing of how any step is done; turns errors into one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import click

from device.pipeline.errors import PipelineError
from train.beats_command import beats
from train.corpus_command import corpus
from train.data.command import data
from train.distil_command import distil, save_windows
from train.errors import DataError, TrainError
from train.explain_command import explain
from train.pretrain_command import pretrain
from train.report.command import report

BAD_INPUT = 2
"""Exit code for anything the user can put right."""
UNFINISHED = 3
"""Exit code of an evaluation that stopped because its time was over."""
INTERRUPTED = 130
"""As a shell reports it."""
HERE = Path(__file__).parent
REFERENCE = {"mitbih-tpcp": "mitbih_tpcp", "stress-predict": "stress_predict", "wesad": "wesad_e4"}
"""Data set -> its folder below AFFECTD_REFERENCE_DATA."""
FITTED = ("acc", "emobed", "transformer-pretrained", "transformer-scratch")
"""Systems whose network may become a bundle."""
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


class Progress:
    """One line on stderr per step, with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, line: str) -> None:
        """Say what has been done or begins."""
        print(f"[{time.monotonic() - self._begin:5.0f} s] {line}", file=sys.stderr, flush=True)


def data_root(given: Path | None, dataset: str) -> Path:
    """The data set's top folder: as given, or below the reference recordings."""
    reference = os.environ.get("AFFECTD_REFERENCE_DATA")
    if given is None and (reference is None or dataset not in REFERENCE):
        raise DataError("--data", "option", "is missing", f"give the top folder of {dataset}")
    return given or Path(str(reference)) / REFERENCE[dataset]


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
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "unknown"
    return out


def _seeds(text: str) -> tuple[int, ...]:
    """Comma separated seeds."""
    if not all(seed.strip().isdecimal() for seed in text.split(",")):
        raise click.BadParameter(f"{text!r} is not whole numbers with commas between", param_hint="--seeds")
    return tuple(int(seed) for seed in text.split(","))


def provenance(command: str) -> dict[str, Any]:
    """What every result says of how it was made."""
    return {"commit": _commit(), "command": command, "versions": _versions()}


def refuse_no_processor(name: str) -> None:
    """Raise click.BadParameter where torch has no such processor."""
    import torch

    try:
        torch.zeros(1).to(name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise click.BadParameter(f"{name!r} cannot be used ({reason})", param_hint="--on") from error


data_option = click.option("--data", "root", type=click.Path(path_type=Path), help="The data set's top folder.")
out_option = click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs-out"), show_default=True, help="Working folder."
)
workers_option = click.option(
    "--workers", default=os.cpu_count() or 1, show_default="one per core", type=click.IntRange(1), help="Processes."
)
config_option = click.option(
    "--config", "path", required=True, type=click.Path(path_type=Path), help="Evaluation (TOML), e.g. of train/runs."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="affectd")
def command() -> None:
    """Train and evaluate affectd's networks."""


command.add_command(beats)
command.add_command(corpus)
command.add_command(data)
command.add_command(distil)
command.add_command(explain)
command.add_command(pretrain)
command.add_command(report)


def _people(root: Path, config: Any, out: Path, workers: int, say: Progress) -> tuple[list[Any], dict[str, str]]:
    """Prepared people with both of what the task needs, and the hash of each one's files."""
    from train.data import datasets
    from train.errors import PrepareError
    from train.prepare import data_hash, prepare_dataset
    from train.windows import roles

    people, _ = prepare_dataset(
        root, config.longest(), out / "prepared", dataset=config.dataset, workers=workers, say=say
    )
    kept, task = [], config.the_task()
    for person in people:
        try:
            labels = set(roles(person, task, config.longest()).label.tolist()) - {-1}
        except PrepareError as error:
            say(f"left out {error}")
            continue
        if len(labels) < len(task.labels):
            lacks = ", ".join(name for k, name in enumerate(task.labels) if k not in labels)
            say(f"subject {person.subject} has no window of {lacks}; kept, but scored for the rest only")
        kept.append(person)
    if not kept:
        raise PrepareError("of everyone", f"nobody has a covered window of {', '.join(task.rest)}")
    everyone = datasets.get(config.dataset).subjects(root)
    return kept, {s: data_hash(root, s, everyone)[:16] for s in everyone}


@command.command()
@config_option
@data_option
@out_option
@workers_option
def prepare(path: Path, root: Path | None, out: Path, workers: int) -> None:
    """Run every recording through the device's pipeline and keep the windows."""
    from train.config import read_config
    from train.windows import roles

    config = read_config(path)
    people, _ = _people(data_root(root, config.dataset), config, out, workers, Progress())
    task = config.the_task()
    for person in people:
        label = roles(person, task, config.longest()).label
        counts = ", ".join(f"{int((label == k).sum())} {name}" for k, name in enumerate(task.labels))
        ecg, eda = person.present.mean(axis=0)
        made = "surrogate ECG" if person.surrogate else "ECG"
        print(f"{person.subject}: windows: {counts}; usable {made} {ecg:.0%}, EDA {eda:.0%}")


@command.command()
@config_option
@data_option
@out_option
@workers_option
@click.option("--on", default="cpu", show_default=True, help="torch's name of the processor, e.g. cuda.")
@click.option(
    "--parallel",
    type=click.Choice(["folds", "data"]),
    default="folds",
    show_default=True,
    help="Under torchrun: what the processes share out, subjects or every batch.",
)
@click.option("--minutes", type=click.FloatRange(0), help="Begin no fold after this; run again to go on.")
@click.option("--tensorboard", is_flag=True, help="Write training curves below OUT/tensorboard.")
@click.option("--seeds", help="Instead of the configuration's, comma separated.")
def loso(
    path: Path,
    root: Path | None,
    out: Path,
    workers: int,
    on: str,
    parallel: str,
    minutes: float | None,
    tensorboard: bool,
    seeds: str | None,
) -> None:
    """Leave one subject out, for every mode, system and seed; goes on where it was interrupted.

    Alone it uses every core; started by torchrun it shares the work with other processes and machines.
    """
    import msgspec

    from train.config import read_config
    from train.loso import Options
    from train.loso import loso as run
    from train.world import joined

    say = Progress()
    config = read_config(path)
    if seeds:
        config = msgspec.structs.replace(config, seeds=_seeds(seeds))
    refuse_no_processor(on)
    with joined() as world:
        if world.rank == 0:
            people, hashes = _people(data_root(root, config.dataset), config, out, workers, say)
        world.wait()
        if world.rank:  # from the first one's cache, where the disk is shared; else prepared here as well
            people, hashes = _people(data_root(root, config.dataset), config, out, workers, say)
        limit = float("inf") if minutes is None else minutes
        options = Options(workers, on, parallel, limit, tensorboard)
        about = {**provenance(f"affectd-train loso --config {path}"), "data": hashes}
        complete = run(people, config, out, options=options, world=world, provenance=about, say=say)
    print(f"{config.task}: folds are in {out / 'folds'}" + ("" if complete else "; some are left: run again"))
    if not complete:
        sys.exit(UNFINISHED)


def left_out(without: str, subjects: Sequence[str]) -> list[str]:
    """The people of ``--without``, sorted; each is one of the subjects, and somebody else is left."""
    names = sorted(set(without.split(",")) - {""})
    if unknown := sorted(set(names) - set(subjects)):
        raise click.BadParameter(f"{unknown[0]} is not among {', '.join(subjects)}", param_hint="--without")
    if set(names) == set(subjects):
        raise click.BadParameter("it leaves nobody to train on", param_hint="--without")
    return names


@command.command()
@config_option
@data_option
@out_option
@workers_option
@click.option("--system", type=click.Choice(FITTED), default="acc", show_default=True, help="Network.")
@click.option("--mode", type=click.Choice(["cold_start", "calibrated"]), default="cold_start", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--without", default="", help="Subjects to leave out, comma separated.")
def fit(
    path: Path, root: Path | None, out: Path, workers: int, system: str, mode: str, seed: int, without: str
) -> None:
    """Train one network on everyone; write its checkpoint and the windows that quantization calibrates with."""
    from device.pipeline.spec import MODALITIES
    from train.confidence import when_to_answer
    from train.config import read_config
    from train.data import datasets
    from train.evaluate import Fold, Material
    from train.fit import config_record, save_checkpoint
    from train.systems import sweeps

    say = Progress()
    config = read_config(path)
    people, _ = _people(data_root(root, config.dataset), config, out, workers, say)
    material = Material(people, config, mode)
    kept = left_out(without, material.subjects)
    fold = Fold(",".join(kept), tuple(s for s in material.subjects if s not in kept))
    say(f"choosing the window on {len(fold.train)} people" + (f", without {fold.test}" if kept else ""))
    choice = material.choose(fold)
    say(f"{choice.window_s:g} s with {choice.eda_context_s:g} s of EDA: {choice.scores}")
    if sweeps(system):
        say("how to train it, and when it is sure enough to answer")
        choice = material.choose_crossmodal(fold, choice)
    fitted = material.network(
        system, fold, choice, seed, on_epoch=lambda row: say(f"epoch {row['epoch']:g}: loss {row['loss']:.4f}")
    )
    spec, windows = material.spec(choice.candidate), material.windows(choice.candidate)
    dataset, surrogate = datasets.get(config.dataset), any(material.surrogate.values())
    provenance = {
        "name": f"{system}-{config.dataset}",
        "system": system,
        "task": config.task,
        "train_subjects": list(fitted.train_subjects),
        "test_subjects": kept,
        "datasets": [dataset.learned_from(len(fold.train), surrogate), *material.learned_before(system)],
        "seeds": [seed],
        "commit": _commit(),
        "command": f"affectd-train fit --config {path} --system {system} --mode {mode} --seed {seed}"
        + (f" --without {fold.test}" if kept else ""),
        "packages": _versions(),
        "choice": choice.scores,
        **config_record(config.fit_config(), fitted.model.config),
        **(when_to_answer(fitted.model, windows, fold.train, choice.sure) if choice.sure else {}),
    }
    checkpoint = out / f"{system}.pt"
    save_checkpoint(checkpoint, fitted.model, spec, material.task.labels, provenance)
    save_windows(out / "windows.npz", {m: getattr(windows, m) for m in MODALITIES}, windows)
    print(f"{checkpoint}: trained; windows for quantization in {out / 'windows.npz'}")


@command.command("demo-data")
@data_option
@click.option("--to", type=click.Path(path_type=Path), default=HERE.parent / "device" / "demo" / "data")
def demo_data(root: Path | None, to: Path) -> None:
    """Write the held-out subject (surrogate ECG, real EDA, task times) as the demo's files."""
    from train.demo_data import write_demo_subject

    for path in write_demo_subject(data_root(root, "stress-predict"), to):
        print(f"{path}: {path.stat().st_size} bytes")


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    try:
        code = command(args, prog_name="affectd-train", standalone_mode=False)
    except (TrainError, PipelineError, OSError) as error:
        _fail(str(error), BAD_INPUT)
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else "affectd-train"
        _fail(f"{error.format_message().rstrip('.')}; see `{place} --help`", BAD_INPUT)
    except click.ClickException as error:
        _fail(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; what is done is on disk, run again to go on", INTERRUPTED)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print(f"affectd-train: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
