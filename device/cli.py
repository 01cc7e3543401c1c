"""``affectd``: the command line of the device. Turns errors into one line on stderr and exit code 2.

It knows nothing of signals; every command hands its arguments on.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from device.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from device.calibration import own_labels
from device.cli_kept import erase, results
from device.cli_orders import COMMANDS, use
from device.config import Config, config_schema, example_config, load_config
from device.errors import DeviceError, InstallError, SourceError
from device.inference import Prediction
from device.journal import ERROR, begin_logging, under_journal
from device.pipeline.errors import PipelineError
from device.pipeline.spec import MODALITIES
from device.profile import check_fit, check_person, read_profile
from device.recording import RecordingReader
from device.segment import affectd_version
from device.sinks.jsonl import JsonlSink
from firmware_bridge.daemon_client import ask, socket_path
from firmware_bridge.daemon_client import status as ask_status
from firmware_bridge.errors import FirmwareBridgeError

if TYPE_CHECKING:
    from device.install.machine import Machine
    from device.pipeline.model_input import Baseline
    from device.session import Session, Tally
    from device.space import Shots
    from firmware_bridge.registry import Role

EXIT_ERROR = 2
"""Bad input or a condition the user can change."""
EXIT_PASSING = 1
"""What may pass, or does so with a new file: a disk that is full or fails, a source that ended. The service is started
again."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

FilePath = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(affectd_version(), message="affectd %(version)s")
def cli() -> None:
    """Stress and emotion from ECG and EDA, on the wearer's own device. Not a medical device."""


@cli.command()
@click.option("--config", "path", type=FilePath, required=True, help="Configuration in TOML.")
@click.option("--bundle", type=FilePath, help="Model bundle instead of the configuration's.")
@click.option("--verbose", "-v", is_flag=True, help="Log everything, whatever [log] level says.")
def run(path: Path, bundle: Path | None, verbose: bool) -> None:
    """Read the sensors and predict until stopped."""
    from device.daemon import run as run_daemon

    read = partial(_configured, path, bundle)
    config = read()
    begin_logging("debug" if verbose else config.log.level, sys.stderr)
    asyncio.run(run_daemon(config, reread=read))


def _configured(path: Path, bundle: Path | None) -> Config:
    """A file, with the bundle of the command line where there is one."""
    config = load_config(path)
    if bundle is None:
        return config
    return msgspec.structs.replace(config, inference=msgspec.structs.replace(config.inference, bundle=str(bundle)))


@cli.command()
@click.option("--socket", "path", type=FilePath, default=socket_path, help="Where the daemon listens.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(path: Path, as_json: bool) -> None:
    """Say what a running affectd does: each sensor's link, its signal, the newest prediction."""
    from device.show import print_status

    found = asyncio.run(ask_status(path))
    if as_json:
        click.echo(json.dumps(found))
    else:
        print_status(found)


@cli.command()
@click.argument("recording", type=FilePath, nargs=-1, required=True, metavar="RECORDING...")
@click.option("--bundle", type=FilePath, default=DEFAULT_BUNDLE, help="Model bundle; default: the shipped one.")
@click.option("--profile", type=FilePath, help="The wearer's profile: baseline and labels.")
@click.option("--runtime", default="auto", help="TFLite runtime.")
@click.option("--recover", is_flag=True, help="Replay a damaged recording up to its last whole record.")
@click.option("--identity", type=FilePath, help="File of your age key, for an encrypted recording.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a line per prediction.")
@click.option("--out", type=FilePath, help="Append the predictions to this file, one line of JSON each.")
def replay(
    recording: tuple[Path, ...],
    bundle: Path,
    profile: Path | None,
    runtime: str,
    recover: bool,
    identity: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Send a recording through the whole path again, bit for bit.

    RECORDING is a segment, several of one run, or a directory with one run.
    """
    from device.session import Tally, open_session

    reader = RecordingReader(recording, recover=recover, identity=identity)
    loaded = read_bundle(bundle)
    baseline, shots = (None, None) if profile is None else _of_wearer(profile, loaded, reader)
    session = open_session(loaded, reader.streams, runtime=runtime, baseline=baseline, shots=shots)
    sink = JsonlSink(out) if out else None
    tally, begun = Tally(), time.perf_counter()
    span = [0, 0]
    try:
        if sink:
            sink.write(reader.clock)
        for prediction in _predictions(reader, session, span):
            tally.add(prediction)
            if sink:
                sink.write(prediction)
            if not as_json:
                click.echo(f"{reader.wall_of(round(prediction.stop * 1e9)):%Y-%m-%d %H:%M:%S}Z  {_line(prediction)}")
    finally:
        if sink:
            sink.finish()
    seconds = (span[1] - span[0]) / 1e9
    summary = tally.to_json(seconds / (time.perf_counter() - begun), loaded.sha256)
    click.echo(json.dumps(summary) if as_json else _summary(tally, session))
    if reader.damage:
        click.echo(f"affectd: {reader.left_out} bytes left out: {reader.damage.reason}", err=True)


def _of_wearer(path: Path, bundle: Bundle, reader: RecordingReader) -> tuple[Baseline, Shots | None]:
    """The baseline of a profile that fits the bundle and the recording, and its labels; raises ProfileError."""
    profile = read_profile(path)
    check_fit(profile, bundle.manifest.spec, [info.modality for info in reader.streams.values()], path)
    shots, labels = own_labels(bundle, profile.examples)
    if labels.reason is not None:
        click.echo(f"affectd: {path}: its labels are not used: {labels.reason}", err=True)
    elif shots is None and not bundle.manifest.spec.needs_baseline:
        click.echo(f"affectd: {bundle.path} works without a profile; {path} changes nothing", err=True)
    return profile.baseline, shots


def _predictions(reader: RecordingReader, session: Session, span: list[int]) -> Iterable[Prediction]:
    """Predictions of a recording; ``span`` becomes the host times of its first and last notification."""
    for arrival in reader:
        span[0] = span[0] or arrival.host_ns
        span[1] = arrival.host_ns
        yield from session.push(arrival)
    yield from session.flush()


def _line(prediction: Prediction) -> str:
    """One prediction for people."""
    if prediction.label is None or prediction.probabilities is None:
        said = f"abstains: {prediction.abstained}"
    else:
        share = prediction.probabilities[prediction.label]
        said = f"{prediction.label} {share:.0%} from {'+'.join(prediction.modalities)}"
    return f"{prediction.start:.0f}-{prediction.stop:.0f} s  {said}"


def _summary(tally: Tally, session: Session) -> str:
    bad = sum(counts.bad.total() for counts in session.stats.values())
    gaps = sum(counts.assembly.gaps for counts in session.stats.values())
    return f"{tally.windows} windows, {tally.predictions} predictions, {gaps} gaps, {bad} bad notifications"


def _printable(_: click.Context, __: click.Parameter, person: str | None) -> str | None:
    try:
        check_person(person)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return person


@cli.command()
@click.option("--minutes", type=click.FloatRange(2, 5), default=3.0, show_default=True, help="Length of the rest.")
@click.option("--person", callback=_printable, help="What the wearer wants to be called.")
@click.option("--profile", type=FilePath, help="File to write; default: the daemon's own [person] profile.")
@click.option("--allow", type=click.Choice(MODALITIES), help="Take a baseline of this sensor alone.")
@click.option("--socket", type=FilePath, default=socket_path, help="Where the daemon listens.")
@click.option(
    "--recording",
    type=FilePath,
    multiple=True,
    help="Take the rest out of this recording, a directory or segments of one run; no daemon is asked.",
)
@click.option("--identity", type=FilePath, help="With --recording: file of your age key, where it is encrypted.")
@click.option("--from", "begin_s", type=click.FloatRange(min=0), help="Its beginning, s from the recording's start.")
@click.option("--to", "end_s", type=click.FloatRange(min=0), help="Its end, s from the recording's start.")
@click.option("--bundle", type=FilePath, help="With --recording: the model it is for; default: the shipped one.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per step, the outcome last.")
def baseline(
    minutes: float,
    person: str | None,
    profile: Path | None,
    allow: Role | None,
    socket: Path,
    recording: tuple[Path, ...],
    identity: Path | None,
    begin_s: float | None,
    end_s: float | None,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Record how the wearer is at rest, so that calibrated models know this person: sit still for some minutes."""
    from device.baseline_command import from_daemon, from_recording, opened_screen
    from device.resting import BaselineRequest

    if not recording and any(given is not None for given in (identity, begin_s, end_s, bundle)):
        raise click.UsageError("--identity, --from, --to and --bundle go with --recording")
    if recording and profile is None:
        raise click.UsageError("--recording needs --profile, the file to write")
    rest_s = 60.0 * minutes
    if end_s is not None:
        begin_s = end_s - rest_s if begin_s is None else begin_s
        rest_s = end_s - begin_s
    request = BaselineRequest(allow, rest_s, person, keep=profile is None)
    with opened_screen(as_json) as screen:
        if recording and profile is not None:
            reader = RecordingReader(recording, identity=identity)
            from_recording(reader, bundle or DEFAULT_BUNDLE, request, profile, screen, begin_s=begin_s)
        else:
            asyncio.run(from_daemon(socket, request, profile, screen))


@cli.command()
@click.argument("name", metavar="LABEL", required=False)
@click.option("--undo", is_flag=True, help="Take back the last one, or the last one of LABEL.")
@click.option("--list", "listed", is_flag=True, help="Show how many windows are labelled, and for which bundle.")
@click.option("--forget", is_flag=True, help="Take back all of them.")
@click.option("--yes", is_flag=True, help="With --forget: do not ask.")
@click.option("--socket", type=FilePath, default=socket_path, help="Where the daemon listens.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def label(name: str | None, undo: bool, listed: bool, forget: bool, yes: bool, socket: Path, as_json: bool) -> None:
    """Say what you live just now (`affectd label stress`): the newest window becomes an example of LABEL.

    Without LABEL and options: show the labels that the bundle has.
    """
    from device import label_command
    from device.labelling import LabelRequest

    if undo + listed + forget > 1 or (name is not None and (listed or forget)):
        raise click.UsageError("choose one of LABEL, --undo, --list and --forget")
    if yes and not forget:
        raise click.UsageError("--yes goes with --forget")
    if forget and not yes:
        n = label_command.number_kept(asyncio.run(label_command.from_daemon(socket, LabelRequest())))
        click.confirm(f"Forget the labels of {n} windows?", abort=True, err=True)
    answer = asyncio.run(label_command.from_daemon(socket, LabelRequest(name, undo, forget)))
    if as_json:
        click.echo(msgspec.json.encode(answer))
        return
    show = label_command.changed if name or undo or forget else label_command.known
    for line in (label_command.listed if listed else show)(answer):
        click.echo(line)


@cli.command()
@click.argument("description", metavar="EVENT")
@click.option("--socket", type=FilePath, default=socket_path, help="Where the daemon listens.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def mark(description: str, socket: Path, as_json: bool) -> None:
    """Record that something happens just now (`affectd mark "stroop start"`), beside signals and predictions."""
    answer = asyncio.run(_marked(socket, description))
    where = "" if answer.get("recorded", True) else ", but not in the recording: the disk refuses it"
    click.echo(json.dumps(answer) if as_json else f"marked: {answer['marked']}{where}")


async def _marked(socket: Path, description: str) -> dict[str, Any]:
    async with ask(socket, {"do": "mark", "description": description}) as answers:
        return {k: v for k, v in (await anext(answers)).items() if k != "ok"}


@cli.group()
def config() -> None:
    """Check a configuration, or print an example."""


@config.command()
@click.argument("path", type=FilePath)
def check(path: Path) -> None:
    """Say whether a configuration is right."""
    loaded = load_config(path)
    sensors = ", ".join(f"{sensor.role}: {sensor.name}" for sensor in loaded.sensors)
    click.echo(f"{path}: right ({sensors})")


@config.command()
def schema() -> None:
    """Print the configuration's JSON Schema, for editors that check and complete TOML."""
    click.echo(json.dumps(config_schema(), indent=2))


@config.command()
def example() -> None:
    """Print a configuration with every key, its meaning and its default."""
    click.echo(example_config(), nl=False)


@cli.group()
def bundle() -> None:
    """Look at model bundles."""


@bundle.command()
@click.argument("path", type=FilePath, default=DEFAULT_BUNDLE)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def show(path: Path, as_json: bool) -> None:
    """Check a bundle and say what it is."""
    loaded = read_bundle(path)
    click.echo(_manifest(loaded) if as_json else _description(loaded))


@bundle.command()
@click.argument("path", type=FilePath, default=DEFAULT_BUNDLE)
@click.option("--trusted", type=FilePath, help="Public keys, one of which must have signed it.")
def verify(path: Path, trusted: Path | None) -> None:
    """Check a bundle, its signature, and that it says here what it said when it was made."""
    from device.selftest import check_everywhere
    from device.signing import check_trusted

    loaded = read_bundle(path)
    click.echo(f"{path}: every part is whole, sha256 {loaded.sha256}")
    by = _signed(loaded) if trusted is None else f"by {check_trusted(loaded, trusted)}, whom you trust"
    click.echo(f"signed {by}")
    for runtime, worst in check_everywhere(loaded).items():
        click.echo(f"{runtime}: as when it was made (largest difference of a logit {worst:.2g})")


def _manifest(loaded: Bundle) -> str:
    return msgspec.json.encode(loaded.manifest).decode()


def _signed(loaded: Bundle) -> str:
    from device.signing import check_signature

    key = check_signature(loaded)
    return "by nobody" if key is None else f"by the Ed25519 key {key}; [inference] trusted says whose that is"


def _description(loaded: Bundle) -> str:
    manifest = loaded.manifest
    spec = manifest.spec
    return "\n".join(
        [
            f"{manifest.name}: {manifest.task}",
            f"labels      {', '.join(manifest.labels)}",
            f"created     {manifest.created.isoformat()}",
            f"sha256      {loaded.sha256}",
            f"signed      {_signed(loaded)}",
            f"network     {len(loaded.model)} bytes",
            f"window      {spec.window_s:g} s every {spec.stride_s:g} s",
            f"baseline    {'needed' if spec.needs_baseline else 'not needed'}",
            f"ECG         {'surrogate in training' if manifest.surrogate_ecg else 'measured'}",
            "",
            loaded.card.rstrip(),
        ]
    )


@cli.command()
@click.option("--bundle", type=FilePath, default=DEFAULT_BUNDLE, help="Model bundle; default: the shipped one.")
@click.option("--runtime", default="auto", help="TFLite runtime.")
@click.option("--fast", is_flag=True, help="As fast as possible, without the live view.")
@click.option(
    "--speed", type=click.FloatRange(min=0, min_open=True), help="Times real time; default: about 30 s in all."
)
@click.option("--only", type=click.Choice(["rest", "event", "stress"]), help="Play one of the recordings.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
@click.option("--screenshot", type=FilePath, help="Write the view, late in the last recording, to this SVG file.")
def demo(
    bundle: Path,
    runtime: str,
    fast: bool,
    speed: float | None,
    only: str | None,
    as_json: bool,
    screenshot: Path | None,
) -> None:
    """Play real recordings through virtual sensors and the whole path; half-way the wrist sensor drops out."""
    from device.demo.show import show_all

    loaded = read_bundle(bundle)
    summary = show_all(loaded, runtime=runtime, fast=fast, speed=speed, only=only, screenshot_path=screenshot)
    if as_json:
        click.echo(json.dumps(summary))


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option("--socket", type=FilePath, default=socket_path, help="Where the daemon listens.")
@click.option("--metrics-key", type=FilePath, help="File of the key for /metrics; default: the one in the address.")
def web(port: int, socket: Path, metrics_key: Path | None) -> None:
    """Serve the wearer's page to browsers on this device: a guided rest, labels of your own, how things are.

    /metrics is for Prometheus, with the key as a bearer token (`authorization: credentials_file`).
    It listens on loopback alone; from elsewhere: ssh -L 8765:127.0.0.1:8765 DEVICE.
    """
    from device.web.serve import read_key, serve

    key = None if metrics_key is None else read_key(metrics_key)
    asyncio.run(serve(socket, port, lambda address: click.echo(f"open {address} (Ctrl-C ends it)"), key))


for command in (*COMMANDS, erase, results):
    cli.add_command(command)
bundle.add_command(use)


@cli.command()
@click.argument("source", type=FilePath, required=False)
@click.option("--root", type=FilePath, help="Install into the system below this folder, and start nothing.")
@click.option("--python", default="/usr/bin/python3", show_default=True, help="Python that will run it.")
@click.option(
    "--extra", "extras", multiple=True, help="Extras of the wheel; default: those of before, or the usual ones."
)
@click.option("--wheels", type=FilePath, help="Folder with the wheels of everything else: no network is used.")
@click.option("--package", is_flag=True, help="With --root: places of a Debian package; nothing is enabled.")
@click.option("--no-enable", is_flag=True, help="Start it neither now nor with the system.")
@click.option("--rollback", is_flag=True, help="Go back to the version before.")
@click.option("--dry-run", is_flag=True, help="Say every step and take none.")
def install(
    source: Path | None,
    root: Path | None,
    python: str,
    extras: tuple[str, ...],
    wheels: Path | None,
    package: bool,
    no_enable: bool,
    rollback: bool,
    dry_run: bool,
) -> None:
    """Install affectd as a service, or another version of it: SOURCE, a wheel or source folder, else this very one.

    A version that does not become ready is taken back. As root; docs/INSTALL.md.
    """
    from device.install import command, plan, wheel

    if package and root is None:
        raise click.UsageError("--package goes with --root")
    if rollback and (source or extras or wheels):
        raise click.UsageError("--rollback takes a version that is there: no SOURCE, --extra or --wheels")
    machine, live = _machine(root, dry_run)
    how = command.How(plan.PACKAGE if package else plan.LOCAL, live, enable=not (package or no_enable))
    with machine.alone(plan.HOME), tempfile.TemporaryDirectory(prefix="affectd-") as scratch:
        if rollback:
            click.echo(command.roll_back(machine, how))
            return
        release = wheel.release(source, Path(scratch), python)
        folder = None if wheels is None else str(wheels.absolute())
        click.echo(command.install(machine, release, how, python=python, extras=extras, wheels=folder))


@cli.command()
@click.option("--root", type=FilePath, help="From the system below this folder.")
@click.option("--purge", is_flag=True, help="The configuration, recordings and results as well.")
@click.option("--yes", is_flag=True, help="With --purge: do not ask.")
@click.option("--dry-run", is_flag=True, help="Say every step and take none.")
def uninstall(root: Path | None, purge: bool, yes: bool, dry_run: bool) -> None:
    """Remove what `affectd install` has made; data and configuration stay."""
    from device.install import command, plan

    if yes and not purge:
        raise click.UsageError("--yes goes with --purge")
    machine, live = _machine(root, dry_run)
    if purge and not yes and not dry_run:
        click.confirm("Remove everything that was recorded, and the configuration?", abort=True, err=True)
    with machine.alone(plan.HOME):
        click.echo(command.uninstall(machine, command.How(live=live), purge=purge))


def _machine(root: Path | None, dry: bool) -> tuple[Machine, bool]:
    """Where to install, and whether that system runs; raises InstallError for want of root."""
    from device.install.machine import Machine

    if root is None and not dry and os.geteuid():
        raise InstallError("affectd", "only root may do this", "run it with sudo, or give a folder as --root")
    live = root is None and Path("/run/systemd/system").is_dir()
    return Machine((root or Path("/")).absolute(), dry=dry, say=click.echo), live


def main() -> None:
    """Entry point."""
    try:
        cli(standalone_mode=False)
    except (DeviceError, FirmwareBridgeError, PipelineError) as error:
        _fail(str(error), EXIT_PASSING if _passing(error) else EXIT_ERROR)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "affectd"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except click.ClickException as error:
        _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)


def _passing(error: Exception) -> bool:
    """Whether the disk or a source is at fault, and not what somebody has written or chosen."""
    cause = error.__cause__
    return isinstance(error, SourceError) or (isinstance(cause, OSError) and cause.errno in _DISK_ERRORS)


def _fail(message: str, code: int = EXIT_ERROR) -> None:
    priority = f"<{ERROR}>" if under_journal(sys.stderr) else ""  # taken off by journald
    click.echo(f"{priority}affectd: {' '.join(message.split())}", err=True)
    sys.exit(code)
