"""Commands to running virtual sensors over a UNIX socket: one JSON object a line, one answer a line.

    {"sensor": "polar-h10", "do": "drop", "for_s": 5}    ->    {"ok": true}
    {"do": "state"}                                      ->    {"ok": true, "sensors": {"polar-h10": {...}}}

Knows nothing of what commands do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from firmware_bridge.daemon_client import listened_at
from firmware_bridge.private import FILE_MODE
from firmware_bridge.virtual.errors import CommandError, ServeError
from firmware_bridge.virtual.sensors import VirtualSensor


class ControlSocket:
    """Listens at ``path`` for as long as it is entered; raises ServeError."""

    def __init__(self, path: Path, sensors: Mapping[str, VirtualSensor]) -> None:
        self._path = path
        self._sensors = sensors
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> ControlSocket:
        if listened_at(self._path):
            raise ServeError(str(self._path), "another program listens there", "stop it, or give another --control")
        try:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._accept, self._path)
            self._path.chmod(FILE_MODE)
        except OSError as error:
            raise ServeError(str(self._path), f"cannot listen: {error}", "give another --control") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            for writer in self._clients.values():
                writer.close()
            await asyncio.gather(*self._clients)
            await self._server.wait_closed()
            self._path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._clients[task] = writer
        task.add_done_callback(self._clients.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for line in reader:
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line without end
            pass
        finally:
            writer.close()

    async def answer(self, line: bytes) -> dict[str, object]:
        """One line to its answer."""
        try:
            return {"ok": True, **await self._do(line)}
        except CommandError as error:
            return {"ok": False, "error": str(error)}

    async def _do(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            raise CommandError("no JSON: expected an object a line") from None
        if not isinstance(request, dict) or not isinstance(request.get("do"), str):
            raise CommandError('expected an object with "do"')
        command, key = request.pop("do"), request.pop("sensor", None)
        if command == "state" and key is None:
            return {"sensors": {name: sensor.state() for name, sensor in self._sensors.items()}}
        if not isinstance(key, str) or key not in self._sensors:
            raise CommandError(f"no sensor {key!r}: expected one of {', '.join(self._sensors)}")
        if command == "state":
            return {"sensors": {key: self._sensors[key].state()}}
        await self._sensors[key].do(command, request)
        return {}
