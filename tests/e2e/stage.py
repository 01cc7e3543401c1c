"""The parts of a test on the host: virtual sensors, the daemon, the tools; between them the guest with the real BlueZ.

Knows nothing of what is tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vm import Guest

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SENSORS = {"chest": "polar-h10", "wrist": "open-eda"}
"""Name in affectd to kind of virtual sensor."""
ROLES = {"chest": "ecg", "wrist": "eda"}
LIMIT_S = 60.0
"""Of a tool's run; all of them take under 30 s."""
BLUEZ_S = 240.0
"""For bluetoothd to come up where a whole machine starts beside it, emulated; 5 s on two quiet cores."""
POLL_S = 0.2
CALLERS = 6
"""Tools that may wait in vain before the first scenario."""


class StageError(Exception):
    """A part of the test does not do what it should."""


@dataclass(slots=True)
class Stage:
    """Everything that a scenario plays with."""

    guest: Guest
    scratch: Path
    environment: dict[str, str]
    daemon: asyncio.subprocess.Process | None = None

    async def tool(self, *command: str, ok: tuple[int, ...] = (0,), limit: float = LIMIT_S) -> str:
        """Run one of affectd's tools to its end and give its output."""
        process = await asyncio.create_subprocess_exec(
            *(BIN / command[0], *command[1:]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
        )
        try:
            async with asyncio.timeout(limit):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            raise StageError(f"{' '.join(command)}: still running after {limit:g} s") from None
        if process.returncode not in ok:
            raise StageError(f"{' '.join(command)}: exit code {process.returncode}: {out.decode()}{err.decode()}")
        return out.decode()

    async def start_daemon(self) -> None:
        """As its service would; its log is appended to one file."""
        with (self.scratch / "daemon.log").open("ab") as log:
            self.daemon = await asyncio.create_subprocess_exec(
                *(BIN / "affectd", "run", "--config", self.scratch / "affectd.toml"),
                stderr=log,
                env=self.environment,
            )

    async def status(self) -> dict[str, Any] | None:
        """What the daemon says; None while it does not."""
        from firmware_bridge.daemon_client import DaemonError, status

        try:
            return await status(Path(self.environment["AFFECTD_SOCKET"]))
        except DaemonError:
            if self.daemon is not None and self.daemon.returncode is not None:
                raise StageError(f"the daemon ended with {self.daemon.returncode}; see daemon.log") from None
            return None

    async def sensors(self) -> dict[str, dict[str, Any]]:
        """The status of each sensor by its name; none while the daemon does not answer."""
        found = await self.status()
        return {sensor["name"]: sensor for sensor in found["sensors"]} if found else {}

    async def until(self, what: str, limit: float, holds: Callable[[dict[str, dict[str, Any]]], bool]) -> float:
        """Seconds until the sensors' status is so; raises StageError."""
        begun = time.monotonic()
        while True:
            sensors = await self.sensors()
            if sensors and holds(sensors):
                return time.monotonic() - begun
            if time.monotonic() - begun > limit:
                seen = {name: (it["link"]["state"], it["link"]["reason"]) for name, it in sensors.items()}
                raise StageError(f"not {what} within {limit:g} s: {seen}")
            await asyncio.sleep(POLL_S)

    async def fault(self, sensor: str, do: str, **arguments: object) -> dict[str, Any]:
        """A command to a virtual sensor."""
        reader, writer = await asyncio.open_unix_connection(self.scratch / "air.sock")
        try:
            writer.write(json.dumps({"sensor": sensor, "do": do, **arguments}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(await reader.readline())
        finally:
            writer.close()
            await writer.wait_closed()
        if not answer.pop("ok"):
            raise StageError(f"{sensor} {do}: {answer}")
        return answer

    async def virtual(self, sensor: str) -> dict[str, Any]:
        """State of a virtual sensor."""
        state: dict[str, Any] = (await self.fault(sensor, "state"))["sensors"][sensor]
        return state


@contextlib.asynccontextmanager
async def staged(guest: Guest, scratch: Path, sensors: Sequence[str], config: str) -> AsyncIterator[Stage]:
    """Virtual sensors on the air, BlueZ up in the guest, the daemon's configuration written; all gone at the end."""
    (scratch / "affectd.toml").write_text(config.format(scratch=scratch))
    stage = Stage(guest, scratch, environment(guest, scratch))
    async with on_air(scratch, scratch / "bt.sock", sensors) as air:
        try:
            await attach(guest, air)
            await answering(stage)
            yield stage
        finally:
            await _ended(stage.daemon)


def environment(guest: Guest, scratch: Path) -> dict[str, str]:
    """Of affectd's tools on the host."""
    return {
        **os.environ,
        "DBUS_SYSTEM_BUS_ADDRESS": guest.bus_address,
        "AFFECTD_SOCKET": str(scratch / "affectd.sock"),
        "AFFECTD_SENSORS": str(scratch / "sensors.toml"),
        "PYTHONPATH": str(PROJECT),
        "COLUMNS": "120",
    }


@contextlib.asynccontextmanager
async def on_air(scratch: Path, line: Path, sensors: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """Virtual sensors around a controller whose UART is a UNIX socket; commands to them at ``scratch/air.sock``."""
    with (scratch / "air.log").open("wb") as log:
        air = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "firmware_bridge.virtual", "serve", "--transport", f"unix-client:{line}"),
            *("--control", scratch / "air.sock", *sensors),
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )
    try:
        yield air
    finally:
        await _ended(air)


async def _ended(process: asyncio.subprocess.Process | None) -> None:
    if process is None or process.returncode is not None:
        return
    process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await process.wait()
    if process.returncode is None:
        process.kill()


async def attach(guest: Guest, air: asyncio.subprocess.Process) -> None:
    """The controller, by the line that a Raspberry Pi's has too, and BlueZ on it."""
    await guest.check("modprobe hci_uart uhid; systemd-run --unit=btattach btattach -B /dev/hvc0 -P h4")
    await guest.check("for i in $(seq 100); do [ -e /sys/class/bluetooth/hci0 ] && exit 0; sleep 0.2; done; exit 1")
    if air.returncode is not None:
        raise StageError(f"the virtual sensors ended with {air.returncode}; see air.log")
    await guest.check("systemctl enable --now bluetooth", limit=BLUEZ_S)
    powered = "busctl get-property org.bluez /org/bluez/hci0 org.bluez.Adapter1 Powered"
    await guest.check(
        f"for i in $(seq 60); do {powered} | grep -q true && exit 0; bluetoothctl power on; sleep 1; done; exit 1",
        limit=BLUEZ_S,
    )


async def answering(stage: Stage) -> None:
    """Until BlueZ has answered a tool once: an emulated machine that has just booted may let its first caller wait."""
    for _ in range(CALLERS):
        if await stage.tool("affectd-pair", "scan", "--seconds", "1", "--json", ok=(0, 2)):
            return
    raise StageError(f"BlueZ has not answered {CALLERS} times; see the guest's log")


def fresh(path: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
