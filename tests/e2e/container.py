"""A Debian booted in systemd-nspawn: its own systemd, D-Bus, polkit and journal; no network, and no change stays.

Knows nothing of what is tested. The kernel is this machine's, and has no Bluetooth for a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from image import call
from vm import Guest, GuestError

BOOT_S = 60.0
"""Limit of a boot; it takes half a second on two quiet cores."""
STOP_S = 20.0
SOCKET = """\
[Socket]
ListenStream=/harness/rpc.sock
Accept=yes
"""
SERVICE = """\
[Service]
WorkingDirectory=/src/tests/e2e
ExecStart=/usr/bin/python3 -B -c 'import guest; guest.serve(0)'
StandardInput=socket
StandardOutput=journal
Environment=HOME=/root
"""
"""guest.py as in QEMU, with a socket in place of the port."""


@contextlib.asynccontextmanager
async def booted(root: Path, scratch: Path, binds: Mapping[str, Path]) -> AsyncIterator[Guest]:
    """A container over ``root``, which is not written, with folders bound into it to be read; off at the end.

    Its /harness is ``scratch/harness``. Raises GuestError where this machine cannot do it.
    """
    (harness := scratch / "harness").mkdir()
    with _layered(root, scratch) as merged:
        _settle(merged)
        with (scratch / "nspawn.log").open("wb") as log:
            nspawn = await asyncio.create_subprocess_exec(
                *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
                *("--private-network", "--directory", merged, f"--bind={harness}:/harness"),
                *(f"--bind-ro={here}:{there}" for there, here in binds.items()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            guest = await _connected(harness / "rpc.sock", nspawn, scratch)
            try:
                yield guest
            finally:
                await guest.close()
        finally:
            await _off(nspawn)


@contextlib.contextmanager
def _layered(root: Path, scratch: Path) -> Iterator[Path]:
    """The root file system with what is changed beside it."""
    lower, upper, work, merged = root, scratch / "changes", scratch / "work", scratch / "root"
    for folder in (upper, work, merged):
        folder.mkdir()
    call("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", merged)
    try:
        yield merged
    finally:
        subprocess.run(["umount", "--lazy", str(merged)], check=True)


def _settle(root: Path) -> None:
    """A name, and the service that listens to the host."""
    (root / "etc/hostname").write_text("affectd-e2e\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    units = root / "etc/systemd/system"
    (units / "guest.socket").write_text(SOCKET)
    (units / "guest@.service").write_text(SERVICE)
    wants = units / "sockets.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "guest.socket").symlink_to("/etc/systemd/system/guest.socket")


async def _connected(path: Path, nspawn: asyncio.subprocess.Process, scratch: Path) -> Guest:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and nspawn.returncode is None:
        with contextlib.suppress(OSError):
            return Guest(*await asyncio.open_unix_connection(path, limit=1 << 24))
        await asyncio.sleep(0.1)
    said = (scratch / "nspawn.log").read_text(errors="replace").strip()
    raise GuestError(
        "this machine boots no container: systemd-nspawn wants root, namespaces, cgroups and overlayfs. It said: "
        + (said[-1500:] or "nothing")
    )


async def _off(nspawn: asyncio.subprocess.Process) -> None:
    """As by its power button, and then by force."""
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        nspawn.terminate()
        async with asyncio.timeout(STOP_S):
            await nspawn.wait()
    if nspawn.returncode is None:
        nspawn.kill()
        await nspawn.wait()
