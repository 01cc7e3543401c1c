"""affectd-pair: the command line. Turns errors into one line on stderr and an exit code.

Knows nothing of bytes or of bleak; every command hands its arguments on and shows what comes back.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from firmware_bridge import registry
from firmware_bridge.daemon_client import socket_path
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.pair import evidence
from firmware_bridge.pair.add import Added, Wish, as_record
from firmware_bridge.pair.add import add as add_sensor
from firmware_bridge.pair.check import CHECK_S, Outcome, check
from firmware_bridge.pair.doctor import Finding, Patient, examine
from firmware_bridge.pair.errors import CheckFailedError, PairError
from firmware_bridge.pair.loan import held, lent
from firmware_bridge.pair.manage import Removed
from firmware_bridge.pair.manage import remove as remove_sensor
from firmware_bridge.pair.manage import rename as rename_sensor
from firmware_bridge.pair.outside import PROGRAM, Outside, Setup, check_adapter, show_version
from firmware_bridge.pair.radio import simulated_radio
from firmware_bridge.pair.scan import SCAN_S, Found, Survey
from firmware_bridge.pair.scan import scan as listen
from firmware_bridge.pair.show import LINE, added_as, live_survey, print_findings, print_rows, print_table, survey_table
from firmware_bridge.pair.show_signal import live_signal, print_outcome
from firmware_bridge.pair.text import clean
from firmware_bridge.registry import Role, Sensor

_EXIT_BAD = 1
_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(args: Sequence[str] | None = None, *, outside: Outside) -> None:
    """Run a command; exits with 1 where a check comes out badly, 2 on an error, 130 where interrupted."""
    try:
        group.main(args, prog_name=PROGRAM, standalone_mode=False, obj=outside)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(_EXIT_ERROR)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(_EXIT_INTERRUPTED)
    except click.ClickException as error:
        _fail(error.format_message(), _EXIT_ERROR)
    except CheckFailedError as error:
        _fail(str(error), _EXIT_BAD)
    except FirmwareBridgeError as error:
        _fail(str(error), _EXIT_ERROR)


def _fail(reason: str, code: int) -> None:
    click.echo(f"{PROGRAM}: {clean(' '.join(reason.split()), LINE)}", err=True)
    sys.exit(code)


FilePath = click.Path(path_type=Path)
as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version, help="Show the version."
)
@click.option(
    *("--file", "path"),
    type=FilePath,
    envvar="AFFECTD_SENSORS",
    help="Where added sensors are kept (or AFFECTD_SENSORS).  [default: as the service's user its own, else "
    "$XDG_CONFIG_HOME/affectd/sensors.toml]",
)
@click.option("--socket", type=FilePath, default=socket_path, help="Where a running affectd listens.")
@click.option(
    "--adapter", callback=check_adapter, metavar="ADDRESS", help="Bluetooth adapter; the machine's first one."
)
@click.option("--simulate", is_flag=True, help="Virtual sensors in place of the radio, and a file of their own.")
@click.pass_context
def group(context: click.Context, path: Path | None, socket: Path, adapter: str | None, simulate: bool) -> None:
    """Find, identify, bond, check and remember the sensors that affectd reads."""
    outside: Outside = context.obj
    if simulate:
        outside = replace(outside, radio=simulated_radio)
        path = path or Path(context.with_resource(tempfile.TemporaryDirectory())) / "sensors.toml"
    if path is None:
        path = registry.default_path()
        if path == registry.SERVICE:
            click.echo(f"{PROGRAM}: sensors of the service, {path}", err=True)
    context.obj = Setup(outside, path, None if simulate else socket, adapter, simulate)


@group.command("scan")
@click.option("--seconds", type=click.FloatRange(1, 300), default=SCAN_S, show_default=True, help="How long to listen.")
@as_json_option
@click.pass_obj
def scan_command(setup: Setup, seconds: float, as_json: bool) -> None:
    """Show what advertises nearby and what affectd can take from it."""
    sensors = registry.read(setup.path)
    survey, silent = setup.run(_scan(setup, sensors, seconds))
    found = survey.sorted()
    if as_json:
        click.echo(json.dumps([_record(it, sensors) for it in found], indent=2))
    elif found:
        print_table(survey_table(found, sensors))
    else:
        click.echo("Nothing heard. Wear the sensor (a strap wakes on wet skin), and end its link to any phone.")
    if silent:
        click.echo(f"{', '.join(silent)}: connected to affectd, hence not heard here.", err=True)
    if survey.left_out:
        click.echo(f"{survey.left_out} devices more were heard and left out.", err=True)


async def _scan(setup: Setup, sensors: tuple[Sensor, ...], seconds: float) -> tuple[Survey, tuple[str, ...]]:
    silent = await held(setup.socket)
    async with lent(setup.socket), setup.outside.radio(setup.adapter) as radio:
        with live_survey(sensors, asyncio.get_running_loop().time) as follow:
            return await listen(radio.central, seconds, follow), silent


def _record(found: Found, sensors: tuple[Sensor, ...]) -> dict[str, object]:
    kind = found.kind
    record = {"address": found.address, "name": found.name, "rssi": found.rssi, "what": kind.what, "use": kind.use}
    return record | {"protocols": kind.protocols, "basis": kind.basis, "added_as": added_as(found, sensors) or None}


@group.command("add")
@click.argument("target", metavar="[ADDRESS|NAME]", required=False)
@click.option("--role", type=click.Choice(get_args(Role)), help="What affectd takes from it; what it gives by default.")
@click.option("--name", help="What to call it; the role by default.")
@click.option("--replace", is_flag=True, help="Take the place of the sensor that has its role, name or address.")
@click.option("--passkey", type=click.IntRange(0, 999_999), help="The six digits on the sensor; asked for by default.")
@click.option("--yes", is_flag=True, help="Ask nothing; whose signal it is then stays unproven.")
@click.option("--no-proof", is_flag=True, help="Do not even wait for a signal.")
@as_json_option
@click.pass_obj
def add_command(setup: Setup, /, no_proof: bool, as_json: bool, **wish: Any) -> None:
    """Find a sensor, bond with it, prove that it is yours, and remember it.

    Without a target, choose from a scan.
    """
    added = setup.run(_add(setup, Wish(**wish, prove=not no_proof)))
    click.echo(json.dumps(as_record(added), indent=2) if as_json else "\n".join(_told(added)))


async def _add(setup: Setup, wish: Wish) -> Added:
    outside = setup.outside
    async with outside.radio(setup.adapter) as radio:
        return await add_sensor(wish, setup.path, setup.socket, radio, outside.assess, outside.person())


def _told(added: Added) -> list[str]:
    it = added.sensor
    lines = [f"{it.name}: {it.address} added ({it.protocol}{', bonded' if it.bonded else ''})."]
    lines += [f"Whose it is: {added.proof.note}."]
    if it.sfreq is not None:
        lines += [f"It runs at {it.sfreq:g} Hz, others of its kind at {added.default_sfreq:g} Hz; kept as it is."]
    lines += [f"{old.name} ({old.address}) was replaced." for old in added.replaced if old.address != it.address]
    lines += ["Restart affectd so that it takes it: `systemctl restart affectd`."] if added.daemon else []
    return lines


@group.command("list")
@as_json_option
@click.pass_obj
def list_command(setup: Setup, as_json: bool) -> None:
    """Show the sensors that were added."""
    sensors = registry.read(setup.path)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(sensors), indent=2))
    elif sensors:
        print_rows(_LIST_HEADS, map(_row, sensors))
    else:
        click.echo(f"No sensor added yet; `{PROGRAM} scan` shows what is near.")


_LIST_HEADS = ("address", "name", "role", "protocol", "rate", "serial", "bonded")


def _row(it: Sensor) -> tuple[str, ...]:
    rate = f"{it.sfreq:g} Hz" if it.sfreq else "its own"
    return it.address, it.name, it.role, it.protocol, rate, it.serial or "", "yes" if it.bonded else "no"


@group.command("test")
@click.argument("sensor", metavar="NAME|ADDRESS")
@click.option("--seconds", type=click.FloatRange(3, 3600), default=CHECK_S, show_default=True, help="How much signal.")
@as_json_option
@click.pass_obj
def test_command(setup: Setup, sensor: str, seconds: float, as_json: bool) -> None:
    """Take a sensor's signal for a while, and judge it; exit code 1 where it is bad.

    A sensor that a running affectd streams is only watched. An ADDRESS that was never added will do, too.
    """
    outcome = setup.run(_check(setup, sensor, seconds))
    if as_json:
        click.echo(json.dumps(outcome.record(), indent=2))
    else:
        print_outcome(outcome)
    if outcome.problems:
        raise CheckFailedError(outcome.name or outcome.address, *_worst(outcome))


def _worst(outcome: Outcome) -> tuple[str, str]:
    more = f" ({len(outcome.problems) - 1} more)" if len(outcome.problems) > 1 else ""
    return outcome.problems[0] + more, f"`{PROGRAM} doctor` looks at the machine"


async def _check(setup: Setup, sensor: str, seconds: float) -> Outcome:
    outside = setup.outside
    with live_signal(seconds) as follow:
        return await check(
            sensor,
            seconds,
            setup.path,
            setup.socket,
            lambda: outside.radio(setup.adapter),
            outside.assess,
            outside.person(),
            follow,
        )


@group.command("rename")
@click.argument("sensor", metavar="NAME|ADDRESS")
@click.argument("name")
@as_json_option
@click.pass_obj
def rename_command(setup: Setup, sensor: str, name: str, as_json: bool) -> None:
    """Call a sensor something else."""
    renamed = rename_sensor(setup.path, sensor, name)
    click.echo(json.dumps(msgspec.to_builtins(renamed)) if as_json else f"{renamed.address}: now {renamed.name!r}.")


@group.command("remove")
@click.argument("sensor", metavar="NAME|ADDRESS")
@click.option("--keep-bond", is_flag=True, help="Leave the host's bond as it is, and the radio alone.")
@as_json_option
@click.pass_obj
def remove_command(setup: Setup, sensor: str, keep_bond: bool, as_json: bool) -> None:
    """Forget a sensor, and the bond with it; an ADDRESS that was never added may have one too."""
    removed = setup.run(_remove(setup, sensor, keep_bond))
    record = {"address": removed.address, "name": removed.name, "bond_dropped": removed.bond_dropped}
    said = "removed, its bond dropped" if removed.bond_dropped else "removed"
    click.echo(json.dumps(record) if as_json else f"{removed.name or removed.address}: {said}.")


async def _remove(setup: Setup, sensor: str, keep_bond: bool) -> Removed:
    return await remove_sensor(
        setup.path, setup.socket, sensor, None if keep_bond else lambda: setup.outside.radio(setup.adapter)
    )


@group.command("doctor")
@as_json_option
@click.pass_obj
def doctor_command(setup: Setup, as_json: bool) -> None:
    """Look at the machine: radio, BlueZ, permissions, Wi-Fi, links, bonds; exit code 1 where something is broken."""
    if setup.simulated:
        raise PairError("doctor", "looks at the machine itself", "leave --simulate away")
    findings = setup.run(_examine(setup))
    if as_json:
        click.echo(json.dumps([asdict(it) for it in findings], indent=2))
    else:
        print_findings(findings)
    if broken := [it for it in findings if it.level == "fail"]:
        raise CheckFailedError(broken[0].check, broken[0].what, broken[0].remedy)


async def _examine(setup: Setup) -> list[Finding]:
    async with setup.outside.facts() as facts:
        return await examine(Patient(facts, setup.path, setup.socket, setup.adapter))


@group.command("sensors")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
@as_json_option
def sensors_command(as_markdown: bool, as_json: bool) -> None:
    """Show every kind of sensor that affectd reads, and how well each is known."""
    if as_json:
        click.echo(json.dumps(evidence.records(), indent=2))
    elif as_markdown:
        click.echo(evidence.markdown(), nl=False)
    else:
        click.echo(evidence.paragraphs(), nl=False)
