"""A Debian in QEMU whose Bluetooth controller has its other end on the host, and whose system bus can be reached there.

Knows nothing of sensors or of affectd. What talks to BlueZ runs on the host, at full speed: it is the guest's kernel
and bluetoothd all the same. Software emulation always: a /dev/kvm that opens need not run a stock kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image import QEMU

BOOT_S = 300.0
"""Limit of a boot; 20 s on two quiet cores, 40 s as arm64."""
PREPARE = "ip link set lo up; ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up; systemctl start bus.socket"
CMDLINE = (
    "quiet panic=-1 mitigations=off nokaslr net.ifnames=0 systemd.show_status=0 systemd.getty_auto=0 "
    "systemd.mask=serial-getty@hvc0.service"
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """What QEMU is to be."""

    qemu: str
    board: tuple[str, ...]
    cpu: str
    console: str
    memory_mb: int = 512

    def options(self) -> tuple[str, ...]:
        """QEMU's."""
        cmdline = f"console={self.console} {CMDLINE} systemd.mask=serial-getty@{self.console}.service"
        return ("-cpu", self.cpu, *self.board, "-m", str(self.memory_mb), "-append", cmdline)


PC = Hardware(QEMU["amd64"], ("-M", "q35"), "max", "ttyS0")
PI = Hardware(QEMU["arm64"], ("-M", "virt,gic-version=3"), "cortex-a72", "ttyAMA0")
"""The processor of a Raspberry Pi 4; cortex-a53 is a Pi 3's, cortex-a76 a Pi 5's."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command in the guest came to."""

    rc: int
    out: str
    err: str


class GuestError(Exception):
    """A command in the guest failed, or the guest is gone."""


class Guest:
    """Runs commands in a booted guest; any number at once."""

    bus_address = ""
    """Of the guest's system bus, as D-Bus libraries take it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._task = asyncio.create_task(self._listen(reader))

    async def run(self, sh: str, *, limit: float = 60.0, stdin: str = "") -> Done:
        """Run a line of bash as root, whatever it returns."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"id": number, "sh": sh, "limit": limit, "input": stdin}).encode() + b"\n")
        async with asyncio.timeout(limit + 30):
            return await future

    async def check(self, sh: str, *, limit: float = 60.0, stdin: str = "") -> str:
        """Run a line of bash and give its output; raises GuestError where it fails."""
        done = await self.run(sh, limit=limit, stdin=stdin)
        if done.rc:
            raise GuestError(f"{sh!r} returned {done.rc}: {done.out[-1500:]}{done.err[-3000:]}")
        return done.out

    async def write(self, path: str, text: str) -> None:
        """Put a file into the guest."""
        await self.check(f"mkdir -p $(dirname {path}) && cat > {path}", stdin=text)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            answer: dict[str, Any] = json.loads(line)
            future = self._waiting.pop(answer.pop("id"), None)
            if future and not future.done():
                future.set_result(Done(**answer))
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(GuestError("the guest is gone; see serial.log"))

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        self._writer.close()


@contextlib.asynccontextmanager
async def booted(
    image: Path,
    scratch: Path,
    hardware: Hardware = PC,
    changes: Path | None = None,
    *,
    keeps: bool = True,
    devices: Sequence[str] = (),
) -> AsyncIterator[Guest]:
    """A guest with the other end of its controller at ``scratch/bt.sock``; at the end its power is cut.

    What it writes goes into its memory, or into ``changes``, an ext4 image, unless that is not what it ``keeps``.
    ``devices``: more options of QEMU.
    """
    disks = [(image / "root.img", "readonly=on")]
    disks += [(changes, "cache=unsafe" if keeps else "snapshot=on")] if changes else []
    qemu = await asyncio.create_subprocess_exec(
        *_qemu(image, scratch, hardware, disks, bus_port := _free_port()),
        *devices,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=(scratch / "qemu.log").open("wb"),
    )
    try:
        guest = await _connected(scratch / "rpc.sock", qemu)
        try:
            await guest.check(PREPARE, limit=BOOT_S)
            guest.bus_address = f"tcp:host=127.0.0.1,port={bus_port}"
            yield guest
        finally:
            await guest.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            qemu.kill()
        await qemu.wait()


def _qemu(
    image: Path, scratch: Path, hardware: Hardware, disks: Sequence[tuple[Path, str]], bus_port: int
) -> list[str]:
    def chardev(name: str) -> tuple[str, str]:
        return "-chardev", f"socket,id={name},path={scratch / name}.sock,server=on,wait=off"

    return [
        *(hardware.qemu, "-accel", "tcg,thread=multi", *hardware.options(), "-smp", "2"),
        *("-nographic", "-no-reboot", "-monitor", "none"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{bus_port}-10.0.2.15:7000"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-serial", f"file:{scratch / 'serial.log'}"),
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.gz")),
        *(part for disk, how in disks for part in ("-drive", f"file={disk},if=virtio,format=raw,{how}")),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *(*chardev("rpc"), "-device", "virtserialport,chardev=rpc,name=affectd"),
        *(*chardev("bt"), "-device", "virtconsole,chardev=bt"),
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


async def _connected(path: Path, qemu: asyncio.subprocess.Process) -> Guest:
    """Connect to QEMU; the guest answers once its service runs."""
    deadline = time.monotonic() + BOOT_S
    while not path.exists():
        if qemu.returncode is not None or time.monotonic() > deadline:
            raise GuestError(f"QEMU did not start (exit code {qemu.returncode}); see qemu.log")
        await asyncio.sleep(0.1)
    return Guest(*await asyncio.open_unix_connection(path, limit=1 << 24))
