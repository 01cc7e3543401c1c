"""What an installation does to a machine, as data: folders, files, links and commands, in their order.

It knows nothing of how a step is carried out, and touches nothing. Paths are those of the installed system; where that
lies below another root, only `device/install/machine.py` knows.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from firmware_bridge.registry import SERVICE

HOME = PurePosixPath("/opt/affectd")
VERSIONS = HOME / "versions"
CURRENT = HOME / "current"
"""What runs: a link into VERSIONS."""
PREVIOUS = HOME / "previous"
"""What ran before it, to go back to."""
MARK = "installed.json"
"""In a version's folder, written last: a folder without it was not finished."""
CONFIG = PurePosixPath("/etc/affectd/affectd.toml")
STATE = PurePosixPath("/var/lib/affectd")
REGISTRY = PurePosixPath(SERVICE)
DROP_INS = PurePosixPath("/etc/systemd/system/affectd.service.d")
UNIT = "affectd.service"
PROGRAMS = ("affectd", "affectd-pair")
EXTRAS = ("device", "web", "mqtt", "sign", "encrypt")
"""Installed unless others are named: what the configuration may ask for."""
VENV_REMEDY = "install what is missing: `apt install python3-venv`"
SYSUSERS = PurePosixPath("/usr/lib/sysusers.d/affectd.conf")
TMPFILES = PurePosixPath("/usr/lib/tmpfiles.d/affectd.conf")
_PLACES = {
    "affectd-sysusers.conf": SYSUSERS,
    "affectd-tmpfiles.conf": TMPFILES,
    "affectd-dbus.conf": PurePosixPath("/usr/share/dbus-1/system.d/affectd.conf"),
    "affectd-polkit.rules": PurePosixPath("/usr/share/polkit-1/rules.d/50-affectd.rules"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the places differ between an administrator's installation and a package's."""

    units: PurePosixPath
    programs: PurePosixPath

    def places(self) -> dict[str, PurePosixPath]:
        """Name in `device/systemd` to place; the unit, which needs the others, comes last."""
        return _PLACES | {UNIT: self.units / UNIT}


LOCAL = Layout(PurePosixPath("/etc/systemd/system"), PurePosixPath("/usr/local/bin"))
PACKAGE = Layout(PurePosixPath("/usr/lib/systemd/system"), PurePosixPath("/usr/bin"))
"""A Debian package's: its files are dpkg's."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Is there."""

    path: PurePosixPath

    def __str__(self) -> str:
        return f"folder {self.path}"


@dataclass(frozen=True, slots=True)
class File:
    """Holds this; one that is to be kept is left as it is where it is there."""

    path: PurePosixPath
    content: bytes
    keep: bool = False

    def __str__(self) -> str:
        return f"file {self.path}{' unless one is there' if self.keep else ''}"


@dataclass(frozen=True, slots=True)
class Link:
    """Leads there, from one moment to the next."""

    path: PurePosixPath
    target: PurePosixPath

    def __str__(self) -> str:
        return f"link {self.path} -> {self.target}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Is gone, with everything in it."""

    path: PurePosixPath

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class Move:
    """A venv made below another root names its own place, not that one."""

    path: PurePosixPath

    def __str__(self) -> str:
        return f"its own place in the scripts of {self.path}"


@dataclass(frozen=True, slots=True)
class Command:
    """Has been run. A path in it is one of the installed system, a str is taken as it is."""

    argv: tuple[str | PurePosixPath, ...]
    remedy: str = "see what it says"
    optional: bool = False
    """Whether the rest goes on where it fails."""

    def __str__(self) -> str:
        return f"run {shlex.join(map(str, self.argv))}"


Step = Folder | File | Link | Remove | Move | Command


@dataclass(frozen=True, slots=True)
class Release:
    """What is to be installed."""

    version: str
    digest: str
    """SHA-256 of the wheel's contents, however they were packed."""
    wheel: str
    """The wheel's path, on the machine that installs."""
    constraints: str
    """File of the versions of everything else, likewise."""
    files: Mapping[str, bytes]
    """What is in its `device/systemd`."""


def folder_of(release: Release, extras: Iterable[str], python: str) -> PurePosixPath:
    """Folder for a release with its extras on a Python: another one for whatever else is in it."""
    parts = "\0".join((release.digest, python, *sorted(extras)))
    return VERSIONS / f"{release.version}-{hashlib.sha256(parts.encode()).hexdigest()[:8]}"


def building(
    release: Release, venv: PurePosixPath, extras: Iterable[str], python: str, wheels: str | None
) -> Iterator[Step]:
    """A venv with the release; with a folder of ``wheels``, from these alone and without a network."""
    chosen = ",".join(sorted(extras))
    source = ("--no-index", "--find-links", wheels) if wheels else ()
    pip = (venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    yield Remove(venv)
    yield Folder(VERSIONS)
    yield Command((python, "-m", "venv", venv), VENV_REMEDY)
    yield Command(
        (*pip, "--no-warn-script-location", *source, "--constraint", release.constraints, f"{release.wheel}[{chosen}]"),
        "see whether the network and the disk are all right, or give a folder of --wheels",
    )
    yield Move(venv)
    yield File(venv / MARK, json.dumps({"version": release.version, "extras": sorted(extras)}).encode())


def affectd(venv: PurePosixPath, *arguments: str | PurePosixPath) -> Command:
    """An affectd of some version, run where it stands."""
    return Command((venv / "bin/python", venv / "bin/affectd", *arguments), "correct that first")


def configuring(example: str) -> Iterator[Step]:
    """A configuration to begin with, for sensors that are yet to be paired."""
    yield Folder(CONFIG.parent)
    yield File(CONFIG, first_config(example).encode(), keep=True)


def placing(files: Mapping[str, bytes], layout: Layout, *, live: bool) -> Iterator[Step]:
    """A version's files for systemd, D-Bus and polkit; the service's user comes before what names it."""
    for name, place in layout.places().items():
        if name not in files:
            yield Remove(place)
            continue
        yield File(place, files[name])
        if live and place == SYSUSERS:
            yield Command(("systemd-sysusers", place))
        if live and place == TMPFILES:
            yield Command(("systemd-tmpfiles", "--create", place))


def switching(to: PurePosixPath, previous: PurePosixPath | None, layout: Layout) -> Iterator[Step]:
    """From now on it is this version that runs, with that one to go back to."""
    yield Remove(PREVIOUS) if previous is None else Link(PREVIOUS, previous.relative_to(HOME))
    yield Link(CURRENT, to.relative_to(HOME))
    for program in PROGRAMS:
        yield Link(layout.programs / program, CURRENT / "bin" / program)


ENABLE_BELOW = Command(("systemctl", "--root", PurePosixPath("/"), "enable", UNIT))
"""Where no systemd runs, or another system's."""
ENABLE = Command(("systemctl", "enable", UNIT))
RELOAD = Command(("systemctl", "daemon-reload"))
FORGIVE = Command(("systemctl", "reset-failed", UNIT), optional=True)
"""Else the limit of its starts may hold."""
START = Command(("systemctl", "start", UNIT), "see `journalctl -u affectd`")
RESTART = Command(("systemctl", "restart", UNIT), START.remedy)
"""Both come back once it is ready, or has failed."""


def removing(layout: Layout, *, live: bool, purge: bool) -> Iterator[Step]:
    """The whole installation; the data, the configuration and the user whose they are only if they are to go."""
    if live:
        yield Command(("systemctl", "disable", "--now", UNIT), optional=True)
    for place in reversed(layout.places().values()):
        yield Remove(place)
    for program in PROGRAMS:
        yield Remove(layout.programs / program)
    if live:
        yield RELOAD
    if purge:
        yield from (Remove(path) for path in (CONFIG.parent, DROP_INS, STATE))
    if purge and live:
        yield Command(("userdel", "affectd"), optional=True)
    yield Remove(HOME)


_HEADER = re.compile(r"\[\[?([\w.]+)\]\]?\s*$")
_ON = ("sinks.jsonl", "sinks.sqlite")


def first_config(example: str) -> str:
    """The example, with the registry of affectd-pair in place of its sensors, and no sink that needs somebody else."""
    lines, inside = [], ""
    for line in example.splitlines():
        if header := _HEADER.match(line):
            inside = header[1]
        off = inside == "sensors" or (inside.startswith("sinks.") and not inside.startswith(_ON))
        if inside == "radio" and line.startswith("# registry = "):
            line = f'registry = "{REGISTRY}"'
        lines.append(f"# {line}" if off and line and not line.startswith("#") else line)
    return "\n".join(lines) + "\n"
