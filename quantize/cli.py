"""affectd-quantize: a checkpoint in, a verified int8 bundle out.

Knows nothing of how any step is done; turns errors into one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from device.bundle import MODEL_FORMATS, Bundle
from device.errors import DeviceError
from device.pipeline.errors import PipelineError
from quantize.calibrate import PARITY_PER_MASK, PER_MASK
from quantize.errors import ConvertError, GateError, GraphError, QuantizeError
from quantize.observers import OBSERVERS
from quantize.report import show
from train.errors import TrainError

KEPT = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "affectd"
CONVERTED = KEPT / "converted"
"""Where conversions are kept between runs; it may go at any time."""
CACHE = KEPT / "prepared"
"""Where windows prepared from a data set are kept between runs."""
RECIPES = ("auto", *MODEL_FORMATS)
OBSERVER = click.option(
    "--observer",
    "observers",
    type=click.Choice([*OBSERVERS]),
    callback=lambda _context, _option, name: (name,) if name else tuple(OBSERVERS),
    help="What chooses the int8 ranges (else each until one passes).",
)
BAD_INPUT = 2
"""Exit code for anything the user can put right."""
INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


HELP = {"help_option_names": ["-h", "--help"]}


class _OrMake(click.Group):
    """A group whose first word may be left out: what is no command is a checkpoint, to make a bundle of."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *HELP["help_option_names"]):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_OrMake, context_settings=HELP)
def command() -> None:
    """Turn a trained network into an int8 bundle that is proved equal to it, and look at bundles.

    `affectd-quantize CHECKPOINT ...` is short for `affectd-quantize make CHECKPOINT ...`.
    """


@command.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--calibration",
    required=True,
    type=click.Path(path_type=Path),
    help="Windows (.npz of affectd-train fit) or data set.",
)
@click.option(
    "--cache", default=CACHE, show_default=True, type=click.Path(path_type=Path), help="For a data set's windows."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle, NAME.affect.")
@click.option("--results", type=click.Path(path_type=Path), help="LOSO results (JSON) for the card.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep ONNX, TFLite and log here (else only on failure).")
@click.option("--seed", default=0, show_default=True, help="Of the choice of windows.")
@click.option("--windows", default=PER_MASK, show_default=True, help="Calibration windows for each set of sensors.")
@click.option("--judges", default=PARITY_PER_MASK, show_default=True, help="Parity windows for each set of sensors.")
@click.option("--share", type=click.FloatRange(0.5, 1.0), help="Of windows that set int8 ranges (else 1, 0.99, 0.98).")
@OBSERVER
@click.option("--recipe", default="auto", show_default=True, type=click.Choice(RECIPES), help="Format of the file.")
@click.option("--qat", is_flag=True, help="Where int8 fails, let the network learn to be rounded, and try again.")
@click.option("--force", is_flag=True, help="Write the bundle even where it differs too much; its card says so.")
@click.option("--bench", metavar="host|ssh://USER@MACHINE", help="Time it too, on this machine or on another one.")
@click.option("--records", type=click.Path(path_type=Path), help="Put flat records of every format in this JSON file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def make(
    checkpoint: Path,
    calibration: Path,
    cache: Path,
    output: Path,
    results: Path | None,
    work: Path | None,
    seed: int,
    windows: int,
    judges: int,
    share: float | None,
    observers: tuple[str, ...],
    recipe: str,
    qat: bool,
    force: bool,
    bench: str | None,
    records: Path | None,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into a bundle and prove it equal to the float network, for every set of sensors.

    With --recipe auto every format is judged and the smallest that passes is taken (with --bench a faster one that is
    hardly larger); --recipe int8 insists.
    """
    say = Progress()
    say("start torch")  # seconds, hence not at the top of this file
    from quantize.calibrate import read_pool
    from quantize.export import ARGUMENTS, nchw, random_inputs, read_checkpoint
    from quantize.latency import latency, target_of, torch_run_of
    from quantize.package import ONNX, Options, build, read_results
    from quantize.recipe import SHARES
    from quantize.records import merge
    from quantize.records import records as flat

    target = target_of(bench) if bench else None
    say("read checkpoint and windows")
    loaded = read_checkpoint(checkpoint)
    figures = read_results(results, loaded) if results else []
    pool = read_pool(calibration, loaded.spec, cache, str(loaded.provenance.get("task", "")), say, loaded.features)
    shares = (share,) if share else SHARES
    options = Options(seed, windows, judges, observers, shares, recipe, qat, CONVERTED, force)
    with _work(work) as folder:

        def time(files: Mapping[str, Path], shown: Mapping[str, Any]) -> Mapping[str, Any]:
            if target is None:
                return {}
            arrays = nchw(random_inputs(loaded, 1))
            run = torch_run_of(loaded.network, [arrays[name] for name in ARGUMENTS])
            return latency(target, run, folder / ONNX, files, shown, folder, say)

        built = build(loaded, pool, output, folder, results=figures, options=options, on_step=say, time=time)
    if records is not None:
        say(f"records in {records}")
        merge(
            records,
            flat({**built.report, "task": built.bundle.manifest.task}, built.timed, _arena(built.bundle), _said()),
        )
    if as_json:
        print(json.dumps({**built.report, **built.timed, **_outcome(built.bundle), "seconds": round(say.seconds, 1)}))
    else:
        show(Console(), built.bundle, built.report, say.seconds, built.timed)


def _arena(bundle: Bundle) -> int | None:
    """Bytes that TensorFlow Lite Micro needs; None for what it does not run, and where it is not installed."""
    from quantize.errors import McuError
    from quantize.mcu import tried

    try:
        return tried(bundle).arena_bytes
    except McuError:
        return None


def _said() -> str:
    """The command line, its paths without their folders."""
    words = (Path(word).name if "/" in word else word for word in sys.argv[1:])
    return " ".join(["affectd-quantize", *words])


@command.command()
@click.argument("source")
@click.option(
    "--calibration", required=True, type=click.Path(path_type=Path), help="Windows: .npz, an array per input."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder.")
@click.option("--weights", type=click.Path(path_type=Path), help="State of the module (torch.save of its state_dict).")
@click.option("--seed", default=0, show_default=True, help="Of the choice of windows.")
@OBSERVER
@click.option("--recipe", default="auto", show_default=True, type=click.Choice(RECIPES), help="Format of the file.")
@click.option("--qat", is_flag=True, help="Where int8 fails, let the module learn to be rounded, and try again.")
@click.option("--force", is_flag=True, help="Write the file even where it differs too much.")
@click.option("--bench", metavar="host|ssh://USER@MACHINE", help="Time it too, on this machine or on another one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def network(
    source: str,
    calibration: Path,
    output: Path,
    weights: Path | None,
    seed: int,
    observers: tuple[str, ...],
    recipe: str,
    qat: bool,
    force: bool,
    bench: str | None,
    as_json: bool,
) -> None:
    """Turn any network over 1-D signals into a TFLite file that is proved equal to it.

    SOURCE is an ONNX file, or a torch module: package.module:factory or path/to/file.py:factory, whose code is run and
    which returns the module. The windows are arrays (n, ...) named as the network's inputs or the arguments of its
    forward; `label` (n,) and `subject` (n,), where they are there, make the choice balanced and the gates per person.
    """
    say = Progress()
    say("start torch")
    from quantize.latency import latency, target_of, torch_run_of
    from quantize.network import build_network, read_network, read_windows

    target = target_of(bench) if bench else None
    say("read network and windows")
    loaded = read_network(source, weights, shown := read_windows(calibration))

    def time(onnx: Path, files: Mapping[str, Path], some: Mapping[str, Any]) -> Mapping[str, Any]:
        if target is None:
            return {}
        run = None if loaded.module is None else torch_run_of(loaded.module, shown.example(loaded.inputs))
        return latency(target, run, onnx, files, some, output, say)

    report, timed = build_network(
        loaded, shown, output, recipe=recipe, seed=seed, observers=observers, qat=qat, force=force, cache=CONVERTED,
        on_step=say, time=time,
    )  # fmt: skip
    if as_json:
        print(json.dumps({**report, **timed, "seconds": round(say.seconds, 1)}))
    else:
        show(Console(), None, report, say.seconds, timed)
        print(output)


BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))


@command.command()
@BUNDLE
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write its report as HTML here.")
@click.option("--json", "as_json", is_flag=True, help="Print manifest and report as one JSON object.")
def inspect(bundle: Path, page: Path | None, as_json: bool) -> None:
    """Show what is inside BUNDLE: tensors and their ranges, operators, parity, who signed it."""
    from device.bundle import read_bundle
    from device.signing import check_signature
    from quantize.look import inspection, page_of, tree

    loaded = read_bundle(bundle)
    signer = check_signature(loaded)
    if page is not None:
        page.write_text(page_of(loaded), encoding="utf-8")
    if as_json:
        print(json.dumps(tree(loaded)))
    else:
        Console().print(inspection(loaded, f"by {signer or 'nobody'}"), soft_wrap=True)


@command.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Show two bundles side by side; what differs is bold."""
    from device.bundle import read_bundle
    from quantize.look import comparison, side_by_side

    both = read_bundle(first), read_bundle(second)
    if as_json:
        print(json.dumps({what: values for what, *values in side_by_side(*both)}))
    else:
        Console().print(comparison(*both))


@command.command()
@BUNDLE
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder.")
def mcu(bundle: Path, output: Path) -> None:
    """Write BUNDLE's network as C for TensorFlow Lite Micro, tried there beside TFLite's reference kernels."""
    from device.bundle import read_bundle
    from quantize.mcu import HEADER, SOURCE, export

    found = export(read_bundle(bundle), output)
    print(f"{output / HEADER}, {output / SOURCE}: arena {found.arena_bytes} bytes, {len(found.operators)} operators")
    steps = "to the bit" if not found.worst_steps else f"within {found.worst_steps} step"
    print(f"as TFLite's reference kernels {steps}, {found.identical:.1%} of the values equal")


@command.command()
@BUNDLE
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Ed25519 private key (ssh-keygen).")
def sign(bundle: Path, key: Path) -> None:
    """Sign BUNDLE in place; a device that trusts the key runs it, whoever brought it."""
    from device.signing import check_signature
    from device.signing import sign as put

    done = put(bundle, key, lambda: str(click.prompt(f"passphrase of {key}", hide_input=True, err=True)))
    print(f"{bundle}: signed by {check_signature(done)}, sha256 {done.sha256}")


@command.command()
@BUNDLE
@click.option("--trusted", type=click.Path(path_type=Path), help="Public keys, one of which must have signed it.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="What it was made of: runs every gate again.")
@click.option("--calibration", type=click.Path(path_type=Path), help="With --checkpoint: the windows, as for make.")
@click.option("--cache", default=CACHE, show_default=True, type=click.Path(path_type=Path), help="As for make.")
@click.option("--seed", default=0, show_default=True, help="As for make.")
def verify(
    bundle: Path, trusted: Path | None, checkpoint: Path | None, calibration: Path | None, cache: Path, seed: int
) -> None:
    """Check BUNDLE: its parts, its signature, that it says here what it said when it was made.

    That needs no training code. With --checkpoint and --calibration every parity gate is run again.
    """
    if (checkpoint is None) != (calibration is None):
        raise click.UsageError("--checkpoint and --calibration go together")
    from device.bundle import read_bundle
    from device.selftest import check_everywhere
    from device.signing import check_signature, check_trusted

    say, loaded = Progress(), read_bundle(bundle)
    signer = check_trusted(loaded, trusted) if trusted else check_signature(loaded)
    print(f"{bundle}: every part is whole, sha256 {loaded.sha256}; signed by {signer or 'nobody'}")
    for runtime, worst in check_everywhere(loaded).items():
        print(f"{runtime}: as when it was made (largest difference of a logit {worst:.2g})")
    if checkpoint is not None and calibration is not None:
        _regate(loaded, checkpoint, calibration, cache, seed, say)


def _regate(bundle: Bundle, path: Path, calibration: Path, cache: Path, seed: int, say: Progress) -> None:
    """Run every parity gate again; raises GateError where one does not hold."""
    say("start torch")
    from quantize.calibrate import read_pool, select
    from quantize.export import export_onnx, read_checkpoint
    from quantize.package import ONNX, REPORT
    from quantize.verify import compare as run_all
    from quantize.verify import compare_onnx, gate, wanted_of

    loaded = read_checkpoint(path)
    pool = read_pool(calibration, loaded.spec, cache, str(loaded.provenance.get("task", "")), say, loaded.features)
    trained, masks = loaded.subjects("train_subjects"), bundle.manifest.masks
    chosen = select(pool, trained, len(loaded.labels), seed=seed, masks=masks).parity
    with _work(None) as folder:
        wanted = wanted_of(loaded.network, pool, chosen, bundle.manifest.temperature)
        found = [*compare_onnx(export_onnx(loaded, folder / ONNX), wanted), *run_all(bundle, wanted, say)]
        (folder / REPORT).write_bytes(msgspec.json.encode(found))
        if failures := gate(found):
            raise GateError(failures, folder / REPORT)
    for c in found:
        print(f"{c.mask} on {c.against}: agreement {c.agreement:.3f}, balanced accuracy {-(c.drop or 0):+.3f}")


@click.command(context_settings=HELP)
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="The evaluation (TOML).")
@click.option("--data", "root", type=click.Path(path_type=Path), help="The data set's top folder.")
@click.option("--out", default=Path("runs-out"), show_default=True, type=click.Path(path_type=Path), help="Its folder.")
@click.option("--workers", default=os.cpu_count() or 1, show_default="one per core", type=click.IntRange(1))
def folds(path: Path, root: Path | None, out: Path, workers: int) -> None:
    """Convert the networks that affectd-train loso kept and judge each int8 file on its own test subject."""
    say = Progress()
    say("start torch")
    from quantize.folds import int8_folds
    from train.cli import data_root
    from train.config import read_config
    from train.prepare import prepare_dataset

    config = read_config(path)
    people, _ = prepare_dataset(
        data_root(root, config.dataset), config.longest(), out / "prepared", dataset=config.dataset, say=say
    )
    int8_folds(people, config, out, workers=workers, say=say)


@click.command(context_settings=HELP)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", "root", required=True, type=click.Path(path_type=Path), help="A data set's top folder.")
@click.option("--subjects", default="", help="Comma separated; everyone if not given. Nobody who trained it.")
@click.option("--minutes", default=15.0, show_default=True, help="Taken from the middle of each recording.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def strange(bundle: Path, root: Path, subjects: str, minutes: float, as_json: bool) -> None:
    """Show BUNDLE signals that it should not answer (flat, noise, swapped, other kinds), made of real recordings."""
    say = Progress()
    from device.bundle import read_bundle
    from device.inference import Classifier
    from quantize.strange import table
    from train.data import datasets
    from train.data.types import Recording

    classifier, entry = Classifier(read_bundle(bundle)), datasets.find(root)
    everyone = entry.subjects(root)
    wanted = subjects.split(",") if subjects else everyone
    if unknown := sorted(set(wanted) - set(everyone)):
        raise click.BadParameter(f"{unknown[0]} is not among {', '.join(everyone)}", param_hint="--subjects")

    def recordings() -> Iterator[Recording]:
        for subject in wanted:
            say(subject)
            yield from entry.load(root, subject)

    rows = table(classifier, recordings(), 60 * minutes)
    if as_json:
        print(json.dumps({"bundle_sha256": classifier.bundle.sha256, "kinds": rows}))
        return
    for row in rows:
        why = ", ".join(f"{reason} {n}" for reason, n in row["reasons"].items())
        share = "" if row["abstained"] is None else f"{row['abstained']:7.1%}"
        print(f"{row['kind']:26} {share} of {row['windows']} windows abstain  {why}")


class Progress:
    """One line on stderr per step, with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begin

    def __call__(self, step: str) -> None:
        """Say what begins now."""
        print(f"[{self.seconds:4.0f} s] {step}", file=sys.stderr, flush=True)


def _outcome(bundle: Bundle) -> dict[str, Any]:
    """What the JSON object says of the file itself."""
    return {"bundle": bundle.path, "bundle_sha256": bundle.sha256}


@contextmanager
def _work(chosen: Path | None) -> Iterator[Path]:
    """The folder for intermediate files; one of our own goes away unless an error names a file in it."""
    folder = chosen or Path(tempfile.mkdtemp(prefix="affectd-quantize-"))
    folder.mkdir(parents=True, exist_ok=True)
    keep = chosen is not None
    try:
        yield folder
    except (ConvertError, GateError):
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of affectd-quantize."""
    _run(command, args, "affectd-quantize")


def folds_main(args: Sequence[str] | None = None) -> None:
    """Entry point of affectd-quantize-folds."""
    _run(folds, args, "affectd-quantize-folds")


def strange_main(args: Sequence[str] | None = None) -> None:
    """Entry point of affectd-quantize-strange."""
    _run(strange, args, "affectd-quantize-strange")


def _run(entry: click.Command, args: Sequence[str] | None, name: str) -> None:
    try:
        code = entry(args, prog_name=name, standalone_mode=False)
    except (QuantizeError, TrainError, DeviceError, PipelineError, OSError) as error:
        print("\n".join(explain(error, name)), file=sys.stderr)
        sys.exit(BAD_INPUT)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print(f"{name}: interrupted, nothing was written; run it again: what was converted is kept", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(code or 0)


def explain(error: Exception, name: str = "affectd-quantize") -> list[str]:
    """Lines for stderr: the end of the converter's log where it failed, then one clear line."""
    log = [f"  | {line}" for line in error.last_lines] if isinstance(error, ConvertError) else []
    log += [f"  {line}" for line in error.findings] if isinstance(error, GraphError) else []
    return [*log, f"{name}: {' '.join(str(error).split())}"]


if __name__ == "__main__":
    main()
