"""affectd-pair: scan for sensors, add, list and remove them.

Knows nothing of bytes or of bleak: it puts scan.py and the registry together for a person at a terminal.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from firmware_bridge import registry
from firmware_bridge.errors import FirmwareBridgeError, RegistryError
from firmware_bridge.pair.scan import Found, Radio, RadioError, bleak_radio, clean, identify, scan
from firmware_bridge.protocols import codec
from firmware_bridge.registry import Role, Sensor

PROGRAM = "affectd-pair"
SCAN_S = 8.0
"""Long enough to hear a sensor that advertises every 2 s."""
_LINE_LENGTH = 400
"""Of an error's line; longer than any of ours."""
_EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True, slots=True)
class Setup:
    """What every command needs."""

    path: Path
    radio: Radio | None
    """None: the machine's own, opened when a command needs it."""


def main(args: Sequence[str] | None = None, radio: Radio | None = None) -> None:
    """Console entry point: exit code 2 and one line on stderr for any error."""
    try:
        group.main(args, prog_name=PROGRAM, standalone_mode=False, obj=radio)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(_EXIT_ERROR)
    except click.Abort:
        sys.exit(_EXIT_INTERRUPTED)
    except click.ClickException as error:
        _fail(error.format_message())
    except FirmwareBridgeError as error:
        _fail(str(error))


def _fail(reason: str) -> None:
    click.echo(f"{PROGRAM}: {clean(' '.join(reason.split()), _LINE_LENGTH)}", err=True)
    sys.exit(_EXIT_ERROR)


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    try:
        click.echo(f"{PROGRAM} {version('affectd')}")
    except PackageNotFoundError:
        click.echo(f"{PROGRAM}, run from its source tree")
    context.exit()


def _address(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not registry.is_address(value.upper()):
        raise click.BadParameter(f"{value!r}: expected six pairs like A0:9E:1A:00:00:01; `{PROGRAM} scan` shows them")
    return value.upper()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option(
    *("--file", "path"),
    type=click.Path(path_type=Path),
    envvar="AFFECTD_SENSORS",
    default=registry.default_path,
    show_default="$XDG_CONFIG_HOME/affectd/sensors.toml",
    help="Where paired sensors are kept (or AFFECTD_SENSORS).",
)
@click.pass_context
def group(context: click.Context, path: Path) -> None:
    """Find, identify and remember the sensors that affectd reads."""
    context.obj = Setup(path, context.obj)


@group.command("scan")
@click.option("--seconds", type=click.FloatRange(1, 300), default=SCAN_S, show_default=True, help="How long to listen.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def scan_command(setup: Setup, seconds: float, as_json: bool) -> None:
    """Show what advertises nearby and what affectd can take from it."""
    found = asyncio.run(scan(seconds, setup.radio or bleak_radio()))
    if as_json:
        click.echo(json.dumps([_record(it) for it in found], indent=2))
    elif found:
        _table(("address", "name", "dBm", "what", "affectd can take"), map(_row, found))
    else:
        click.echo("Nothing heard. Wear the sensor (a strap wakes on wet skin), and end its link to any phone.")


def _row(found: Found) -> tuple[str, ...]:
    return found.address, found.name, str(found.rssi), found.kind.what, found.kind.use


def _record(found: Found) -> dict[str, object]:
    kind = found.kind
    record = {"address": found.address, "name": found.name, "rssi": found.rssi}
    return record | {"what": kind.what, "use": kind.use, "protocol": kind.protocol}


@group.command("add")
@click.argument("address", callback=_address)
@click.option("--role", required=True, type=click.Choice(get_args(Role)), help="What affectd takes from it.")
@click.option("--name", help="What to call it; the role by default.")
@click.pass_obj
def add_command(setup: Setup, address: str, role: Role, name: str | None) -> None:
    """Connect to the sensor at ADDRESS, identify it and remember it."""
    sensors = registry.read(setup.path)
    name = clean(name or role) or role
    _refuse_taken(setup.path, sensors, address, role, name)
    identity = asyncio.run(identify(address, setup.radio or bleak_radio()))
    modality = codec(identity.protocol).STREAM_INFO.modality
    if modality != role:
        raise RadioError(f"{address}: gives {modality}, not {role}; add it with --role {modality}")
    sensor = Sensor(role, name, address, identity.protocol, identity.serial)
    registry.write(setup.path, (*sensors, sensor))
    click.echo(f"{name}: {address} added ({identity.protocol}).")


def _refuse_taken(path: Path, sensors: Iterable[Sensor], address: str, role: str, name: str) -> None:
    for it in sensors:
        for key, value in (("role", role), ("address", address), ("name", name)):
            if getattr(it, key) == value:
                reason = (
                    f"{key} {value!r} is taken by {it.name!r} ({it.address}); `{PROGRAM} remove {it.address}` first"
                )
                raise RegistryError(str(path), f"sensor.{key}", reason)


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.pass_obj
def list_command(setup: Setup, as_json: bool) -> None:
    """Show the sensors that were added."""
    sensors = registry.read(setup.path)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(sensors), indent=2))
    elif sensors:
        rows = ((it.role, it.name, it.address, it.protocol, it.serial or "") for it in sensors)
        _table(("role", "name", "address", "protocol", "serial"), rows)
    else:
        click.echo(f"No sensor added yet; `{PROGRAM} scan` shows what is near.")


@group.command("remove")
@click.argument("sensor")
@click.pass_obj
def remove_command(setup: Setup, sensor: str) -> None:
    """Forget SENSOR, a name or an address."""
    sensors = registry.read(setup.path)
    left = tuple(it for it in sensors if it.name != sensor and it.address != sensor.upper())
    if len(left) == len(sensors):
        raise RegistryError(str(setup.path), "sensor", f"none is called {sensor!r}; `{PROGRAM} list` shows them")
    registry.write(setup.path, left)
    click.echo(f"{sensor}: removed.")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Cells are Text, not str: a name may hold what rich would take for markup."""
    table = Table()
    for head in heads:
        table.add_column(head, no_wrap=head == "address", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
