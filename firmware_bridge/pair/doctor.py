"""Looks at the machine for what keeps sensors from being heard, bonded and streamed; each finding has a remedy.

Knows nothing of how facts are come by: `facts.py` does. A check that cannot be made is a finding itself.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firmware_bridge import registry
from firmware_bridge.daemon_client import DaemonError
from firmware_bridge.errors import RadioError, RadioFault, RegistryError
from firmware_bridge.pair.bluez_bugs import OLDEST, bugs_of, parse
from firmware_bridge.pair.facts import (
    Facts,
    KnownDevice,
    bluetooth_switches,
    kernel_radios,
    machine_model,
    wireless_interfaces,
)
from firmware_bridge.pair.kinds import recognise
from firmware_bridge.pair.loan import LINKED, daemon_status
from firmware_bridge.pair.text import clean
from firmware_bridge.registry import Sensor

Level = Literal["ok", "warn", "fail"]
_CHANNEL = re.compile(r"channel \d+ \((\d+) MHz\)")
_GHZ_5 = 4000
"""MHz; Wi-Fi below shares its band with Bluetooth."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    what: str
    remedy: str = ""
    """Empty: nothing to do."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    facts: Facts
    registry: Path
    socket: Path | None
    adapter: str | None
    """Address of the adapter that is to be used; None: the first."""


async def examine(patient: Patient) -> list[Finding]:
    """Every check, in the order in which causes come before their effects."""
    findings = [*_rfkill(patient), *_permissions(patient)]
    reachable = await _bluez(patient)
    findings += reachable
    if all(it.level != "fail" for it in reachable):
        for look in (_version, _adapters, _agent):
            findings += await _told(look, patient)
    findings += await _told(_wifi, patient)
    sensors, found = _sensors(patient)
    status, told = await _daemon(patient)
    findings += [*found, *told]
    if all(it.level != "fail" for it in reachable):
        findings += await _told(lambda it: _links(it, sensors, status), patient)
        findings += await _told(lambda it: _bonds(it, sensors), patient)
    return findings


async def _told(look: Callable[[Patient], AsyncIterator[Finding]], patient: Patient) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings += [finding async for finding in look(patient)]
    except RadioError as error:
        findings.append(Finding("D-Bus", "fail", f"{error.what}: {error.reason}", error.remedy))
    return findings


def _rfkill(patient: Patient) -> Iterable[Finding]:
    for switch in bluetooth_switches(patient.facts.root):
        if switch.hard:
            yield Finding(
                "rfkill", "fail", f"{switch.name} is switched off by the machine", "use its switch or its key"
            )
        elif switch.soft:
            yield Finding("rfkill", "fail", f"{switch.name} is blocked", "`rfkill unblock bluetooth`")
        else:
            yield Finding("rfkill", "ok", f"{switch.name} is not blocked")
    if not kernel_radios(patient.facts.root):
        remedy = "plug in a Bluetooth adapter; on a Raspberry Pi see that dtoverlay=disable-bt is not in config.txt"
        yield Finding("kernel", "fail", "the kernel has no Bluetooth radio", remedy)


def _permissions(patient: Patient) -> Iterable[Finding]:
    if patient.facts.groups() & {"bluetooth", "root"}:
        yield Finding("groups", "ok", "this user is in the group bluetooth, or root")
    else:
        remedy = "`usermod -aG bluetooth USER` and log in again, where BlueZ refuses"
        yield Finding("groups", "warn", "this user is not in the group bluetooth", remedy)


async def _bluez(patient: Patient) -> list[Finding]:
    try:
        if await patient.facts.bluez.running():
            await patient.facts.bluez.adapters()
            return [Finding("bluetoothd", "ok", "runs, and answers this user")]
    except RadioError as error:
        return [Finding("bluetoothd", "fail", f"{error.what}: {error.reason}", error.remedy)]
    return [Finding("bluetoothd", "fail", "does not run", RadioFault.NO_BLUEZ.value)]


async def _version(patient: Patient) -> AsyncIterator[Finding]:
    told = await patient.facts.bluez.version() or await _version_of_tools(patient.facts)
    version = parse(told) if told else None
    if version is None:
        yield Finding(
            "BlueZ", "warn", "its version cannot be told", "`bluetoothctl --version`; 5.55 or newer is needed"
        )
        return
    name = f"{version[0]}.{version[1]}"
    if version < OLDEST:
        yield Finding("BlueZ", "fail", f"{name} is too old", "install 5.55 or newer (Debian 11 has it)")
        return
    yield Finding("BlueZ", "ok", name)
    for bug in bugs_of(version):
        yield Finding("BlueZ", "ok" if bug.met else "warn", f"{name}: {bug.what}", bug.remedy)


async def _version_of_tools(facts: Facts) -> str | None:
    """``bluetoothctl: 5.66``."""
    printed = await facts.command(["bluetoothctl", "--version"])
    return printed.rpartition(" ")[2] if printed else None


async def _adapters(patient: Patient) -> AsyncIterator[Finding]:
    adapters = await patient.facts.bluez.adapters()
    if not adapters:
        yield Finding("adapter", "fail", "BlueZ has none", RadioFault.NO_ADAPTER.value)
    wanted = patient.adapter
    if adapters and wanted is not None and all(it.address != wanted for it in adapters):
        here = ", ".join(f"{it.name} {it.address}" for it in adapters)
        yield Finding("adapter", "fail", f"there is no {wanted}", f"choose one of: {here}")
    on = any(it.powered for it in adapters)
    for it in adapters:
        what = f"{it.name} {it.address}"
        if it.powered:
            yield Finding("adapter", "ok", f"{what} is on")
        else:
            level: Level = "warn" if on and it.address != wanted else "fail"
            yield Finding("adapter", level, f"{what} is off", "`bluetoothctl power on`; AutoEnable=true keeps it so")
    if len(adapters) > 1 and wanted is None:
        yield Finding(
            "adapter", "ok", f"{len(adapters)} adapters: the first that is on is used", "or --adapter ADDRESS"
        )


async def _agent(patient: Patient) -> AsyncIterator[Finding]:
    try:
        await patient.facts.agent_possible()
    except RadioError as error:
        yield Finding("agent", "fail", f"none can be registered ({error.reason}): no sensor can bond", error.remedy)
    else:
        yield Finding("agent", "ok", "one can be registered: `affectd-pair add` has its own")


async def _wifi(patient: Patient) -> AsyncIterator[Finding]:
    interfaces = wireless_interfaces(patient.facts.root)
    if not interfaces:
        yield Finding("Wi-Fi", "ok", "none")
        return
    channels = [int(mhz) for mhz in _CHANNEL.findall(await patient.facts.command(["iw", "dev"]) or "")]
    model, names = machine_model(patient.facts.root), ", ".join(clean(it) for it in interfaces)
    combined = " One chip does both on a Raspberry Pi." if "Raspberry Pi" in model else ""
    if channels and min(channels) > _GHZ_5:
        yield Finding("Wi-Fi", "ok", f"{names}: 5 GHz, out of Bluetooth's way")
        return
    band = "on 2.4 GHz, Bluetooth's own band" if channels else "its band cannot be told"
    remedy = "use 5 GHz or a cable; else a USB Bluetooth adapter on a short extension lead"
    yield Finding("Wi-Fi", "warn", f"{names}: {band}.{combined}", remedy)


def _sensors(patient: Patient) -> tuple[Sequence[Sensor], list[Finding]]:
    try:
        sensors = registry.read(patient.registry)
    except RegistryError as error:
        return (), [Finding("sensors", "fail", f"{error.path}: {error.place}: {error.reason}", error.remedy)]
    if not sensors:
        return (), [Finding("sensors", "warn", "none was added", "`affectd-pair add`")]
    return sensors, [Finding("sensors", "ok", ", ".join(f"{it.name} ({it.role})" for it in sensors))]


async def _daemon(patient: Patient) -> tuple[dict[str, Any] | None, list[Finding]]:
    socket = patient.socket
    try:
        status = await daemon_status(socket)
    except DaemonError as error:
        return None, [Finding("affectd", "fail", f"{error.path}: {error.reason}", error.remedy)]
    if status is not None:
        return status, [Finding("affectd", "ok", f"runs ({len(status['sensors'])} sensors)")]
    if socket is not None and socket.is_socket():
        remedy = "`systemctl start affectd`; it clears the socket away"
        return None, [Finding("affectd", "warn", f"{socket}: nobody listens, one was killed", remedy)]
    return None, [Finding("affectd", "ok", "does not run")]


async def _links(patient: Patient, sensors: Sequence[Sensor], status: dict[str, Any] | None) -> AsyncIterator[Finding]:
    """A connected sensor does not advertise, and nobody else can have it."""
    owned = {it["address"] for it in (status or {}).get("sensors", ()) if it["link"]["state"] in LINKED}
    stale = 0
    for device in await patient.facts.bluez.devices():
        if device.connected and device.address not in owned and _is_sensor(device, sensors):
            stale += 1
            what = f"{device.address} {_name(device)} is connected, and no affectd has it".replace("  ", " ")
            yield Finding("links", "warn", what, f"`bluetoothctl disconnect {device.address}`")
    if not stale:
        yield Finding("links", "ok", "no sensor is held by a program that died")


def _is_sensor(device: KnownDevice, sensors: Sequence[Sensor]) -> bool:
    """Not a keyboard, nor a loudspeaker."""
    uuids = [str(it) for it in device.properties.get("UUIDs", ())]
    return any(it.address == device.address for it in sensors) or recognise(_name(device), uuids).usable


def _name(device: KnownDevice) -> str:
    return clean(str(device.properties.get("Name", "")))


async def _bonds(patient: Patient, sensors: Sequence[Sensor]) -> AsyncIterator[Finding]:
    """The file of sensors against BlueZ; what a sensor has lost shows only when it is connected."""
    devices = await patient.facts.bluez.devices()
    held = {device.address for device in devices if device.bonded}
    for sensor in sensors:
        what = f"{sensor.name} ({sensor.address})"
        if sensor.bonded and sensor.address not in held:
            remedy = f"`affectd-pair add {sensor.address} --replace`"
            yield Finding("bonds", "fail", f"{what} was bonded, and BlueZ has lost it", remedy)
        elif sensor.bonded:
            yield Finding("bonds", "ok", f"{what} is bonded")
        elif sensor.address in held:
            remedy = f"`affectd-pair add {sensor.address} --replace` makes one that is looked after"
            yield Finding("bonds", "warn", f"{what} was added without a bond, and BlueZ has one", remedy)
    added = {sensor.address for sensor in sensors}
    for device in devices:
        if device.bonded and device.address not in added and _is_sensor(device, ()):
            what = f"{device.address} {_name(device)} is bonded, and was never added".replace("  ", " ")
            yield Finding("bonds", "warn", what, f"`affectd-pair remove {device.address}`, or add it")


def worst(findings: Iterable[Finding]) -> Level:
    """Of all of them."""
    levels = {it.level for it in findings}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"
