"""Looks at what the daemon needs: configuration, bundle, places on the disk, clock, socket; each finding has a remedy.

The radio is looked at by `affectd-pair doctor`. It opens nothing for writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from device.bundle import DEFAULT_BUNDLE, read_bundle
from device.config import Config, load_config, sensors_of
from device.errors import DeviceError
from device.health import DISK_FREE, problems
from device.machine import ROOT, machine
from device.profile import read_profile
from device.segment import SUFFIX, affectd_version
from device.selftest import check_everywhere
from device.signing import check_trusted
from device.sinks.secret import read_token
from device.sinks.sqlite import RESULTS
from device.wall import SYNCHRONISED, is_synchronised, kernel_error_us
from firmware_bridge.daemon_client import DaemonError, status
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.pair.doctor import Finding

_PACKAGES = ("numpy", "scipy", "msgspec", "bleak")


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    config: Path
    socket: Path | None = None
    """None: the configuration's."""
    root: Path = ROOT
    error_us: Callable[[], int | None] = kernel_error_us
    """The kernel's bound of the wall clock's error."""


def examine(patient: Patient) -> list[Finding]:
    """Every check, in the order in which causes come before their effects."""
    findings = [_versions()]
    try:
        config = load_config(patient.config)
        sensors = sensors_of(config)
    except (DeviceError, FirmwareBridgeError) as error:
        return [*findings, _failed("configuration", error), *_clock(patient)]
    told = ", ".join(f"{sensor.role}: {sensor.name}" for sensor in sensors)
    findings.append(Finding("configuration", "ok", f"{patient.config} is right ({told})"))
    findings += [*_bundles(config), *_places(config), *_profile(config), *_results(config), *_encryption(config)]
    findings += [*_token(config), *_room(config), *_clock(patient)]
    return [*findings, *_daemon(patient.socket or Path(config.control.socket))]


def _failed(check: str, error: Exception) -> Finding:
    reason, _, remedy = str(error).rpartition("; ")
    return Finding(check, "fail", reason or remedy, remedy if reason else "")


def _versions() -> Finding:
    packages = []
    for name in _PACKAGES:
        with contextlib.suppress(ModuleNotFoundError):
            packages.append(f"{name} {version(name)}")
    told = [f"affectd {affectd_version()}", f"Python {platform.python_version()}", *packages, platform.machine()]
    return Finding("versions", "ok", ", ".join(told))


def _bundles(config: Config) -> Iterator[Finding]:
    inference = config.inference
    for path in (inference.bundle or DEFAULT_BUNDLE, inference.calibrated):
        if path is None:
            continue
        try:
            bundle = read_bundle(path)
            if inference.trusted is not None:
                check_trusted(bundle, Path(inference.trusted))
            for runtime, worst in check_everywhere(bundle).items():
                what = f"{path} says on {runtime} what it said when it was made (within {worst:.2g})"
                yield Finding("bundle", "ok", what)
        except DeviceError as error:
            yield _failed("bundle", error)


def private_files(config: Config) -> Iterator[Path]:
    """Those that hold what somebody felt, as far as they are there."""
    sinks = (config.sinks.jsonl, config.sinks.sqlite)
    named = [*(sink.path for sink in sinks if sink is not None), config.person.profile, config.control.state]
    named += [config.sinks.http.log] if config.sinks.http is not None else []
    yield from (Path(name) for name in named if name is not None)
    with contextlib.suppress(OSError):
        yield from sorted(Path(config.recording.directory).glob(f"*{SUFFIX}"))


def _places(config: Config) -> Iterator[Finding]:
    """Directories can be written in; files are their owner's alone, and the owner is that of the directory."""
    files = [path for path in private_files(config) if _stat(path) is not None]
    for place in sorted({Path(config.recording.directory), *(path.parent for path in files)}):
        there = next(it for it in (place, *place.parents) if _stat(it) is not None)
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding("place", "fail", f"{there} cannot be written by this user", "chown it, or run as its owner")
        elif there == place:
            yield Finding("place", "ok", f"{place} can be written")
        else:
            yield Finding("place", "ok", f"{place} is made when it is needed")
    for path in files:
        yield from _file(path)


def _file(path: Path) -> Iterator[Finding]:
    found, around = _stat(path), _stat(path.parent)
    if found is None or around is None:
        return
    if mode := stat.S_IMODE(found.st_mode) & 0o077:
        what = f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
        yield Finding("private", "warn" if not mode & 0o007 else "fail", what, f"`chmod 600 {path}`")
    if found.st_uid != around.st_uid:
        remedy = f"`chown --reference={path.parent} {path}`"
        yield Finding("private", "fail", f"{path} belongs to another user than its directory", remedy)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _profile(config: Config) -> Iterator[Finding]:
    if config.person.profile is None or _stat(Path(config.person.profile)) is None:
        return
    try:
        read_profile(Path(config.person.profile))
        yield Finding("profile", "ok", f"{config.person.profile} can be read")
    except DeviceError as error:
        yield _failed("profile", error)


def _results(config: Config) -> Iterator[Finding]:
    if config.sinks.sqlite is None or _stat(Path(config.sinks.sqlite.path)) is None:
        return
    path = config.sinks.sqlite.path
    try:
        with contextlib.closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as db:
            (number,) = db.execute("PRAGMA user_version").fetchone()
            (runs,) = db.execute("SELECT count(*) FROM run").fetchone()
    except sqlite3.Error as error:
        yield Finding("results", "fail", f"{path}: {error}", "move it away, then a new one is begun")
        return
    if number > RESULTS.version:
        yield Finding("results", "fail", f"{path} is of a newer affectd", "install that, or name another file")
    else:
        yield Finding("results", "ok", f"{path} holds {runs} runs")


def _token(config: Config) -> Iterator[Finding]:
    """A file's; systemd's credentials are the daemon's alone."""
    if config.sinks.http is None or config.sinks.http.token_file is None:
        return
    try:
        read_token(config.sinks.http)
        yield Finding("token", "ok", f"{config.sinks.http.token_file} is its owner's alone")
    except DeviceError as error:
        yield _failed("token", error)


def _encryption(config: Config) -> Iterator[Finding]:
    """Where some of what the sensors say is encrypted, what is not."""
    sinks = config.sinks
    keys = {"[recording]": config.recording.recipients}
    if sinks.sqlite is not None:
        keys["[sinks.sqlite]"] = sinks.sqlite.recipients
    if sinks.jsonl is not None:
        keys["[sinks.jsonl]"] = sinks.jsonl.recipients
    if sinks.http is not None:
        keys["[sinks.http]"] = sinks.http.log_key_file
    if sinks.mqtt is not None:
        keys["[sinks.mqtt]"] = sinks.mqtt.outbox_key_file
    if not any(keys.values()):
        return
    plain = [name for name, recipients in keys.items() if recipients is None]
    if plain:
        remedy = "give `recipients` or, for messages, a key; docs/RECORDINGS.md"
        yield Finding(
            "encryption", "warn", f"what {' and '.join(plain)} keep is not encrypted, other things are", remedy
        )
    else:
        yield Finding("encryption", "ok", "recordings and results are for their recipients alone")


def _room(config: Config) -> Iterator[Finding]:
    directory = Path(config.recording.directory)
    place = next(it for it in (directory, *directory.parents) if _stat(it) is not None)
    free = machine(place)["disk_free_bytes"]
    if free is None:
        yield Finding("disk", "warn", f"how much is free at {place} cannot be read", "see that it is mounted")
    elif free < DISK_FREE:
        remedy = "make room: move recordings elsewhere"
        yield Finding("disk", "fail", f"{free / 2**20:.0f} MB are free at {place}", remedy)
    else:
        yield Finding("disk", "ok", f"{free / 2**30:.1f} GB are free at {place}")


def _clock(patient: Patient) -> Iterator[Finding]:
    if is_synchronised(patient.error_us, patient.root / SYNCHRONISED.relative_to("/")):
        yield Finding("clock", "ok", "is known to be right")
    elif _stat(patient.root / "sys/class/rtc/rtc0") is not None:
        yield Finding("clock", "ok", "there is a battery-backed one")
    else:
        remedy = "`timedatectl set-ntp true`, or attach a real-time clock; durations are right in any case"
        yield Finding("clock", "warn", "not known to be set: wall times may be wrong", remedy)


def _daemon(socket: Path) -> Iterable[Finding]:
    try:
        said: dict[str, Any] = asyncio.run(status(socket))
    except DaemonError as error:
        return [Finding("daemon", "warn", f"{error.path}: {error.reason}", error.remedy)]
    if said["affectd"] != affectd_version():
        what = f"runs version {said['affectd']}, and this is {affectd_version()}"
        return [Finding("daemon", "warn", what, "`systemctl restart affectd`")]
    found = [Finding("daemon", "warn", f"{it.part}: {it.what}", it.remedy) for it in problems(said)]
    return found or [Finding("daemon", "ok", f"answers at {socket}")]
