"""What the doctor looks at: files, BlueZ, the daemon, and two commands. A test puts in its own.

Knows nothing of what is good or bad.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from firmware_bridge.pair.errors import PairError

COMMAND_S = 5.0
"""Limit of a command that only prints what it knows."""


class Adapter(Protocol):
    """One radio; `radio/bluez.py` has it."""

    @property
    def name(self) -> str:
        """``hci0``."""

    @property
    def address(self) -> str:
        """Its own address."""

    @property
    def powered(self) -> bool:
        """Whether it is on."""


class KnownDevice(Protocol):
    """One device that BlueZ knows of."""

    @property
    def address(self) -> str:
        """Bluetooth address."""

    @property
    def connected(self) -> bool:
        """Whether there is a link."""

    @property
    def bonded(self) -> bool:
        """Whether the host holds a bond."""

    @property
    def properties(self) -> Mapping[str, Any]:
        """All of Device1."""


class Bluez(Protocol):
    """BlueZ over D-Bus; every call raises RadioError."""

    async def running(self) -> bool:
        """Whether bluetoothd is on the bus."""

    async def adapters(self) -> Sequence[Adapter]:
        """Every adapter."""

    async def devices(self, address: str | None = None) -> Sequence[KnownDevice]:
        """Every device."""

    async def version(self) -> str | None:
        """``5.66``; None where it is hidden."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything outside."""

    bluez: Bluez
    agent_possible: Callable[[], Awaitable[None]]
    """Registers an agent and takes it back; raises RadioError."""
    root: Path = Path("/")
    """Of the file system that is looked at."""
    command: Callable[[Sequence[str]], Awaitable[str | None]] = field(default_factory=lambda: run_command)
    """What a program prints; None where it fails, or is not there."""
    groups: Callable[[], frozenset[str]] = field(default_factory=lambda: own_groups)
    """Names of this user's groups."""


@asynccontextmanager
async def machine_facts() -> AsyncIterator[Facts]:
    """This machine's; raises PairError where the D-Bus library is missing."""
    try:
        from firmware_bridge.pair.agent import agent_possible
        from firmware_bridge.radio.bluez import Bluez as BluezOnBus
    except ImportError as error:
        remedy = "install it: pip install 'affectd[device]'"
        raise PairError("doctor", f"dbus-fast cannot be imported ({error})", remedy) from error
    bluez = BluezOnBus()
    try:
        yield Facts(bluez, agent_possible)
    finally:
        await bluez.close()


async def run_command(arguments: Sequence[str]) -> str | None:
    """Standard output of a program; None where it fails, is missing, or does not end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(COMMAND_S):
            out, _ = await process.communicate()
    except TimeoutError:
        out = None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return out.decode(errors="replace") if out is not None and process.returncode == 0 else None


def own_groups() -> frozenset[str]:
    """Names of this process's groups."""
    names = set()
    for number in {os.getegid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            names.add(grp.getgrgid(number).gr_name)
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Switch:
    """One rfkill switch."""

    name: str
    soft: bool
    """Blocked by a command."""
    hard: bool
    """Blocked by a switch of the machine."""


def bluetooth_switches(root: Path) -> list[Switch]:
    """Every rfkill switch of a Bluetooth radio (Documentation/ABI/stable/sysfs-class-rfkill)."""
    folders = sorted(root.glob("sys/class/rfkill/rfkill*"))
    mine = [it for it in folders if text(it / "type") == "bluetooth"]
    return [Switch(text(it / "name") or it.name, text(it / "soft") == "1", text(it / "hard") == "1") for it in mine]


def kernel_radios(root: Path) -> list[str]:
    """Names of the radios that the kernel has, whatever BlueZ says."""
    return sorted(it.name for it in root.glob("sys/class/bluetooth/hci*") if re.fullmatch(r"hci\d+", it.name))


def wireless_interfaces(root: Path) -> list[str]:
    """Names of the Wi-Fi interfaces."""
    folders = {it.parent.name for it in root.glob("sys/class/net/*/wireless")}
    lines = (text(root / "proc/net/wireless") or "").splitlines()[2:]
    return sorted(folders | {line.partition(":")[0].strip() for line in lines if ":" in line})


def machine_model(root: Path) -> str:
    """``Raspberry Pi 4 Model B Rev 1.4``; empty where the machine does not say."""
    return (text(root / "proc/device-tree/model") or "").strip("\0 ")


def text(path: Path) -> str | None:
    """Contents of a small file, stripped; None where it cannot be read."""
    try:
        return path.read_bytes()[:4096].decode(errors="replace").strip()
    except OSError:
        return None
