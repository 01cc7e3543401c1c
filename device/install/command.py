"""`affectd install` and `affectd uninstall`: which steps are taken when, and the way back from a version that fails.

It knows nothing of how a step is carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from device.config import example_config, load_config
from device.errors import DeviceError, InstallError
from device.install import plan
from device.install.machine import Machine
from device.install.plan import CONFIG, CURRENT, MARK, PREVIOUS, UNIT, VERSIONS, Command, Layout, Release
from device.install.wheel import UNITS
from firmware_bridge.daemon_client import status as ask_status
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.registry import read as read_registry

DPKG = PurePosixPath("/var/lib/dpkg/info/affectd.list")
PAIRED_NEXT = "no sensor is paired yet: `sudo -u affectd affectd-pair add`, then `affectd install`"
LOG = "see `journalctl -u affectd`"


@dataclass(frozen=True, slots=True)
class How:
    """What does not depend on the version."""

    layout: Layout = plan.LOCAL
    live: bool = True
    """Whether this very system runs, under systemd."""
    enable: bool = True
    """Whether it is to be started at every boot, and now."""


def install(
    machine: Machine,
    release: Release,
    how: How,
    *,
    python: str,
    extras: tuple[str, ...] = (),
    wheels: str | None = None,
) -> str:
    """Install a release, or go over to it; what there is to say at the end. Raises InstallError, ConfigError and
    RegistryError, and then what was installed before is installed still."""
    _refuse_package(machine)
    before = machine.led_to(CURRENT)
    extras = extras or _extras(machine, before)
    venv = plan.folder_of(release, extras, _python_version(machine, python))
    try:
        if not machine.at(venv / MARK).exists():
            machine.do(plan.building(release, venv, extras, python, wheels))
        machine.do([plan.affectd(venv, "bundle", "verify"), *plan.configuring(example_config())])
        machine.do([plan.affectd(venv, "config", "check", CONFIG)])
        return f"{venv.name} is installed; {_change(machine, venv, release.files, how)}"
    finally:
        _tidy(machine)


def roll_back(machine: Machine, how: How) -> str:
    """Go back to the version before; what there is to say at the end. Raises as :func:`install` does."""
    _refuse_package(machine)
    venv = machine.led_to(PREVIOUS)
    if venv is None:
        raise InstallError(str(PREVIOUS), "no version before this one", "name the wheel: `affectd install WHEEL`")
    machine.do([plan.affectd(venv, "config", "check", CONFIG)])
    return f"{venv.name} is installed again; {_change(machine, venv, _files(machine, venv), how)}"


def uninstall(machine: Machine, how: How, *, purge: bool) -> str:
    """Remove what :func:`install` has made; what there is to say at the end. Raises InstallError."""
    _refuse_package(machine)
    machine.do(plan.removing(how.layout, live=how.live, purge=purge))
    if purge:
        return "affectd, its configuration and everything it had recorded are gone"
    return f"affectd is gone; {CONFIG.parent} and {plan.STATE} are as they were"


def _change(machine: Machine, to: PurePosixPath, files: Mapping[str, bytes], how: How) -> str:
    """Go over to a version; where it does not work, back to the one that ran before."""
    before, previous = machine.led_to(CURRENT), machine.led_to(PREVIOUS)
    try:
        return _activate(machine, to, previous if before == to else before, files, how)
    except (DeviceError, FirmwareBridgeError) as error:
        if before is None or before == to:
            raise
        reason = f"does not work: {error}".replace(";", ",")
        machine.say(f"{to.name} {reason}")
        try:
            _activate(machine, before, previous, _files(machine, before), how)
        except (DeviceError, FirmwareBridgeError) as second:
            raise InstallError(to.name, f"{reason}, nor does {before.name}, which is back: {second}", LOG) from error
        raise InstallError(to.name, reason, f"{before.name} is back, with all data; {LOG}") from error


def _activate(
    machine: Machine,
    to: PurePosixPath,
    previous: PurePosixPath | None,
    files: Mapping[str, bytes],
    how: How,
) -> str:
    """Put a version's files in place, switch to it and, where there is a sensor, wait until it works."""
    first, running = not machine.at(how.layout.places()[UNIT]).exists(), machine.led_to(CURRENT)
    machine.do((*plan.placing(files, how.layout, live=how.live), *plan.switching(to, previous, how.layout)))
    if not how.live:
        machine.do([plan.ENABLE_BELOW] if first and how.enable else [])
        return "it starts with the system" if how.enable else "nothing is enabled"
    machine.do([plan.RELOAD, *([plan.ENABLE] if first and how.enable else [])])
    if not how.enable or not _enabled(machine):
        return "it is not started: `systemctl enable --now affectd` does that"
    if not _paired(machine):
        return PAIRED_NEXT
    _start(machine, to, plan.START if running == to else plan.RESTART)
    return "it runs: `affectd status` says how it is"


def _start(machine: Machine, venv: PurePosixPath, starting: Command) -> None:
    """Start a version and hear from it; raises InstallError, DaemonError."""
    try:
        machine.do([plan.FORGIVE, starting])
    except InstallError as error:
        reason = error.reason
        with contextlib.suppress(InstallError):
            reason = _last_words(machine) or reason
        raise InstallError(UNIT, f"does not become ready: {reason}", LOG) from error
    if machine.dry:
        return
    found = asyncio.run(ask_status(machine.at(PurePosixPath(load_config(machine.at(CONFIG)).control.socket))))
    version = _mark(machine, venv)["version"]
    if found.get("affectd") != version:
        raise InstallError(UNIT, f"affectd {found.get('affectd')} answers, not {version}", "stop the other one")


def _last_words(machine: Machine) -> str:
    """Of the service's newest process; raises InstallError where there is no journal."""
    invocation = machine.ask("systemctl", "show", "--property=InvocationID", "--value", UNIT).strip()
    return machine.ask("journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", "-n1", "-ocat", "--no-pager").strip()


def _paired(machine: Machine) -> bool:
    """Whether there is a sensor to read."""
    path = machine.at(CONFIG)
    if machine.dry and not path.exists():
        return False
    config = load_config(path)
    registry = config.radio.registry
    return bool(config.sensors or (registry and read_registry(machine.at(PurePosixPath("/", registry)))))


def _enabled(machine: Machine) -> bool:
    """Whether nobody has disabled it; before the first time, nobody has."""
    if machine.dry:
        return True
    try:
        return machine.ask("systemctl", "is-enabled", UNIT).strip() == "enabled"
    except InstallError:
        return False


def _python_version(machine: Machine, python: str) -> str:
    """Such as 3.11; raises InstallError where it is too old."""
    code = "import sys; sys.version_info >= (3, 11) or sys.exit(1); print('%d.%d' % sys.version_info[:2])"
    return machine.ask(python, "-c", code, remedy="name a Python of at least 3.11 with --python").strip()


def _mark(machine: Machine, venv: PurePosixPath) -> dict[str, object]:
    try:
        found = json.loads(machine.at(venv / MARK).read_bytes())
    except (OSError, ValueError) as error:
        remedy = "remove its folder, and install again"
        raise InstallError(str(venv / MARK), f"cannot be read: {error}", remedy) from error
    return dict(found)


def _extras(machine: Machine, venv: PurePosixPath | None) -> tuple[str, ...]:
    """Those of the version that is there: an upgrade has what it had."""
    if venv is None:
        return plan.EXTRAS
    extras = _mark(machine, venv).get("extras")
    return tuple(map(str, extras)) if isinstance(extras, list) else plan.EXTRAS


def _files(machine: Machine, venv: PurePosixPath) -> dict[str, bytes]:
    """What is in the `device/systemd` of an installed version."""
    found = machine.at(venv).glob(f"lib/python*/site-packages/{UNITS}*")
    return {path.name: path.read_bytes() for path in found}


def _tidy(machine: Machine) -> None:
    """Remove the versions that nothing leads to."""
    kept = {machine.led_to(CURRENT), machine.led_to(PREVIOUS)}
    machine.do(plan.Remove(venv) for venv in _versions(machine) if venv not in kept)


def _versions(machine: Machine) -> Iterator[PurePosixPath]:
    here = machine.at(VERSIONS)
    return (VERSIONS / path.name for path in sorted(here.iterdir()) if not machine.dry) if here.is_dir() else iter(())


def _refuse_package(machine: Machine) -> None:
    if machine.at(DPKG).exists():
        reason = "affectd is installed as a Debian package here"
        raise InstallError(str(DPKG), reason, "use apt, or remove the package first: `apt remove affectd`")
