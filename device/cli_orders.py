"""The commands of ``affectd`` that change a running daemon, or say how it does.

It knows nothing of signals; what they say is in ``orders_command.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import msgspec

from device import orders_command
from device.config import load_config
from device.errors import DeviceError, StateError
from device.health import notes as of_note
from device.health import problems
from device.log_level import LEVELS
from device.metrics import exposition, families
from firmware_bridge.daemon_client import DaemonError, socket_path
from firmware_bridge.daemon_client import status as ask_status

EXIT_DEGRADED = 1
"""It runs, and somebody should see to it."""

FilePath = click.Path(path_type=Path)
_socket = click.option("--socket", type=FilePath, default=socket_path, help="Where the daemon listens.")
_config = click.option("--config", type=FilePath, required=True, help="The daemon's configuration.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def _order(socket: Path, as_json: bool, words: Callable[[dict[str, Any]], list[str]], name: str, **what: Any) -> None:
    answer = asyncio.run(orders_command.order(socket, name, **what))
    for line in [json.dumps(answer)] if as_json else words(answer):
        click.echo(line)


def _seconds(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else orders_command.seconds_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--for", "for_s", callback=_seconds, metavar="TIME", help="It ends by itself after this: 30m, 2h, 1h30m.")
@_socket
@_as_json
def pause(for_s: float | None, socket: Path, as_json: bool) -> None:
    """Let go of the sensors for privacy: nothing of them is recorded or predicted until `affectd resume`."""
    _order(socket, as_json, orders_command.paused, "pause", for_s=for_s)


@click.command()
@_socket
@_as_json
def resume(socket: Path, as_json: bool) -> None:
    """End a pause."""
    _order(socket, as_json, orders_command.resumed, "resume")


@click.command()
@click.argument("what", type=click.Choice(["stop", "start"]))
@_socket
@_as_json
def recording(what: str, socket: Path, as_json: bool) -> None:
    """Stop the recording of raw data, or start it again; predictions go on meanwhile."""
    _order(socket, as_json, orders_command.recording, "recording", on=what == "start")


@click.command()
@_socket
@_as_json
def reload(socket: Path, as_json: bool) -> None:
    """Read the configuration anew, as SIGHUP does: what can be changed is changed, and not one sample is lost."""
    _order(socket, as_json, orders_command.reloaded, "reload")


@click.command("log-level")
@click.argument("level", type=click.Choice(LEVELS))
@_socket
@_as_json
def log_level(level: str, socket: Path, as_json: bool) -> None:
    """Log more or less from now on."""
    _order(socket, as_json, orders_command.log_level, "log-level", level=level)


@click.command()
@click.argument("path", type=FilePath)
@_socket
@_as_json
def use(path: Path, socket: Path, as_json: bool) -> None:
    """Predict with another bundle from now on, without a restart; where it fails its test, the old one goes on."""
    whole = path.absolute()
    _order(socket, as_json, lambda answer: orders_command.switched(answer, whole), "bundle", path=str(whole))


@click.command()
@_socket
@_as_json
def health(socket: Path, as_json: bool) -> None:
    """Say whether a running affectd does what it is there for; exit code 1 where it does not, 2 where none runs."""
    status = asyncio.run(ask_status(socket))
    found, notes = problems(status), of_note(status)
    if as_json:
        click.echo(json.dumps({"healthy": not found, "problems": [asdict(it) for it in found], "notes": notes}))
    else:
        lines = [f"{it.part}: {it.what}; {it.remedy}" for it in found] or ["All is well."]
        for line in [*lines, *(f"note: {note}" for note in notes)]:
            click.echo(line)
    if found:
        sys.exit(EXIT_DEGRADED)


@click.command()
@_socket
@_as_json
def metrics(socket: Path, as_json: bool) -> None:
    """Print metrics in the text format of Prometheus: how things run, nothing of what somebody lives."""
    status = asyncio.run(ask_status(socket))
    click.echo(json.dumps([asdict(it) for it in families(status)]) if as_json else exposition(status), nl=as_json)


@click.command()
@_config
@click.option("--socket", type=FilePath, help="Where the daemon listens; default: as the configuration says.")
@_as_json
def doctor(config: Path, socket: Path | None, as_json: bool) -> None:
    """Look at what the daemon needs: configuration, bundle, files, room, clock; exit code 1 where something is broken.

    `affectd-pair doctor` looks at the radio.
    """
    from device.doctor import Patient, examine
    from firmware_bridge.pair.show import print_findings

    findings = examine(Patient(config, socket))
    if as_json:
        click.echo(json.dumps([asdict(it) for it in findings], indent=2))
    else:
        print_findings(findings)
    if any(it.level == "fail" for it in findings):
        sys.exit(EXIT_DEGRADED)


@click.command("support-bundle")
@_config
@click.option("--socket", type=FilePath, help="Where the daemon listens; default: as the configuration says.")
@click.option("-o", "--out", type=FilePath, required=True, help="Archive to write, e.g. support.tar.gz.")
def support_bundle(config: Path, socket: Path | None, out: Path) -> None:
    """Pack what somebody who helps needs: findings, status, configuration, log, with names, labels, paths and addresses
    blanked. Look through it before you send it."""
    from device import support
    from device.doctor import Patient, examine

    findings = [asdict(it) for it in examine(Patient(config, socket))]
    loaded, personal, said = None, support.own_words(), None
    with contextlib.suppress(DeviceError):
        loaded = load_config(config)
        personal += support.of_wearer(loaded)
        with contextlib.suppress(DaemonError):
            said = asyncio.run(ask_status(socket or Path(loaded.control.socket)))
    tree = None if loaded is None else msgspec.to_builtins(loaded)
    files = support.bundle(tree, said, findings, support.journal(), support.system(), personal)
    try:
        support.write(out, files)
    except OSError as error:
        raise StateError(out, "", f"cannot be written: {error.strerror}", "give another --out") from error
    click.echo(f"{out}: {', '.join(files)}; look through it before you send it")


COMMANDS = (doctor, support_bundle, pause, resume, recording, reload, log_level, health, metrics)
