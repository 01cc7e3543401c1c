"""The program ``python -m firmware_bridge.virtual serve``, met as by a kernel over a UART, and its control socket."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from bumble import core
from bumble.device import Device, DeviceConfiguration, Peer
from bumble.hci import Address, HCI_Reset_Command, OwnAddressType
from bumble.host import Host
from bumble.transport.unix import open_unix_server_transport

from firmware_bridge.virtual.__main__ import main
from firmware_bridge.virtual.control import ControlSocket
from firmware_bridge.virtual.errors import ServeError

LIMIT_S = 60.0
"""Longer than anything takes on a busy machine."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a UNIX socket's path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="virtual-"))
    yield path
    shutil.rmtree(path)


@dataclass
class Served:
    process: asyncio.subprocess.Process
    kernel: Device
    control: Path

    async def event(self, text: str) -> str:
        """The next line that has it."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while text not in (line := (await self.process.stdout.readline()).decode()):
                assert line, f"ended before {text!r}"
        return line.strip()

    async def ask(self, **request: object) -> dict[str, object]:
        reader, writer = await asyncio.open_unix_connection(self.control)
        writer.write(json.dumps(request).encode() + b"\n")
        answer: dict[str, object] = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        return answer

    async def state(self, sensor: str) -> dict[str, object]:
        sensors = (await self.ask(do="state", sensor=sensor))["sensors"]
        assert isinstance(sensors, dict)
        return dict(sensors[sensor])


@asynccontextmanager
async def served(folder: Path, *sensors: str) -> AsyncIterator[Served]:
    """Our end of the UART is a whole Bluetooth host with its own public address, as Linux is."""
    uart, control = folder / "bt", folder / "control"
    transport = await open_unix_server_transport(str(uart))
    arguments = ("--transport", f"unix-client:{uart}", "--control", str(control), *sensors)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "firmware_bridge.virtual", "serve", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    host = Host(controller_source=transport.source, controller_sink=transport.sink)
    kernel = Device(config=DeviceConfiguration(address=Address("C0:00:00:00:00:09")), host=host)
    program = Served(process, kernel, control)
    try:
        await program.event("ready")
        while transport.sink.transport is None:  # type: ignore[attr-defined]  # not accepted yet
            await asyncio.sleep(0.01)
        await kernel.power_on()
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        transport.server.close()  # type: ignore[attr-defined]
        await transport.close()
        await asyncio.sleep(0)


async def connected(program: Served, address: str) -> Peer:
    async with asyncio.timeout(LIMIT_S):
        link = await program.kernel.connect(Address(address), own_address_type=OwnAddressType.PUBLIC, timeout=None)
        peer = Peer(link)
        await peer.request_mtu(517)
        return peer


def test_from_first_link_to_sigterm(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, "polar-h10", "open-eda:id=wrist,passkey=123456") as program:
            peer = await connected(program, "C0:AF:FE:C7:00:01")
            assert "F0:F0:F0:F0:F0:01" in await program.event("polar-h10: connected")
            await peer.connection.pair()
            await program.event("polar-h10: paired")
            state = await program.state("polar-h10")
            assert (state["connected"], state["encrypted"], state["bonded"], state["mtu"]) == (True, True, True, 517)
            assert (await program.state("wrist"))["advertising"] is True

            assert await program.ask(sensor="polar-h10", do="drop", for_s=0.1) == {"ok": True}
            assert await program.event("polar-h10: disconnected") == (
                "polar-h10: disconnected, CONNECTION_TIMEOUT_ERROR"
            )
            await program.event("polar-h10: advertises")
            await connected(program, "C0:AF:FE:C7:00:01")
            assert (await program.state("polar-h10"))["disconnects"] == 1

            program.process.terminate()
            async with asyncio.timeout(LIMIT_S):
                assert await program.process.wait() == 0
            assert not program.control.exists()

    asyncio.run(scenario())


def test_connecting_to_a_sensor_out_of_reach_can_be_given_up(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, "open-eda") as program:
            await program.ask(sensor="open-eda", do="vanish")
            with pytest.raises(core.TimeoutError):  # only once the controller says that connecting has ended
                async with asyncio.timeout(LIMIT_S):
                    await program.kernel.connect(Address("C0:AF:FE:C7:00:01"), timeout=0.2)
            await program.ask(sensor="open-eda", do="appear")
            await connected(program, "C0:AF:FE:C7:00:01")

    asyncio.run(scenario())


def test_a_reset_of_the_adapter_ends_its_links(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, "open-eda") as program:
            await connected(program, "C0:AF:FE:C7:00:01")
            await program.kernel.send_sync_command(HCI_Reset_Command())
            await program.event("open-eda: disconnected")
            await program.event("open-eda: advertises")

    asyncio.run(scenario())


def test_the_program_ends_with_its_uart(folder: Path) -> None:
    async def scenario() -> None:
        server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), folder / "bt")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "firmware_bridge.virtual", "serve"),
            *("--transport", f"unix-client:{folder / 'bt'}", "heart-rate"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(LIMIT_S):
            _, errors = await process.communicate()
        assert process.returncode == 1
        assert b"the other end is gone" in errors
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toaster"], "no such sensor"),
        (["open-eda:colour=red"], "expected KEY=VALUE"),
        (["open-eda", "open-eda"], "give one another by `id=`"),
        (["open-eda:signal=/nowhere"], "/nowhere: whole file"),
        (["--transport", "vhci:/nowhere", "open-eda"], "modprobe hci_vhci"),
        (["--transport", "unix-client:/nowhere", "open-eda"], "start what listens there"),
        (["--transport", "telepathy", "open-eda"], "no such transport"),
        (["--control", "/nowhere/control", "open-eda"], "give another --control"),
    ],
)
def test_what_is_in_the_way_is_said_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("arguments", [[], ["serve"], ["serve", "--adapter", "here", "open-eda"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_control_socket_in_use_is_left_alone_and_a_dead_one_replaced(folder: Path) -> None:
    path = folder / "control"

    async def enter() -> None:
        async with ControlSocket(path, {}):
            assert path.stat().st_mode & 0o777 == 0o600

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ServeError, match="another program listens there"):
            asyncio.run(enter())
        assert path.exists()
    asyncio.run(enter())
    assert not path.exists()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\n", "no JSON"),
        (b"\xff\xfe\n", "no JSON"),
        (b"[" * 100_000 + b"\n", "no JSON"),
        (b"[1]\n", 'expected an object with "do"'),
        (b'{"do": 3}\n', 'expected an object with "do"'),
        (b'{"do": "drop"}\n', "no sensor None"),
        (b'{"do": "drop", "sensor": ["a"]}\n', "no sensor ['a']"),
        (b'{"do": "state", "sensor": "a"}\n', "no sensor 'a'"),
    ],
)
def test_a_line_that_is_no_command(line: bytes, error: str) -> None:
    answer = asyncio.run(ControlSocket(Path("unused"), {}).answer(line))
    assert answer["ok"] is False
    assert error in str(answer["error"])


def test_a_client_that_leaves_or_never_ends_its_line_does_no_harm(folder: Path) -> None:
    async def scenario() -> None:
        path = folder / "control"
        async with ControlSocket(path, {}):
            for sent in (b"", b'{"do":', b"x" * 200_000):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(sent)
                writer.write_eof()
                await reader.read()
                writer.close()
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"do": "state"}\n')
            assert json.loads(await reader.readline()) == {"ok": True, "sensors": {}}
            writer.close()

    asyncio.run(scenario())


def test_help_waits_for_no_bumble_and_serving_for_nothing_else() -> None:
    def loaded_by(module: str) -> set[str]:
        code = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
        return set(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        )

    assert "bumble" not in loaded_by("firmware_bridge.virtual.__main__")
    loaded = loaded_by("firmware_bridge.virtual.central")
    assert loaded.isdisjoint(
        {"numpy", "scipy", "device", "bleak", "click", "rich", "msgspec", "aiohttp", "usb1", "serial"}
    )
