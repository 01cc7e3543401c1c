"""Reads the configuration anew while the daemon runs (SIGHUP, `affectd reload`) and changes what can be changed.

A file that is wrong, a sink that does not open or a bundle that fails its test leaves all as it was; what wants a
restart is named. It knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from device.config import Config, sensors_of
from device.errors import DeviceError, RequestError
from device.log_level import set_level
from device.sinks.configured import Sinks
from device.switching import Switching
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.registry import Sensor

LIVE = ("inference", "person.profile", "log", "recording.fsync_s", "sinks.jsonl", "sinks.sqlite")
"""What is changed while sensors stream: tables whole, or single keys. All else wants a restart: a broker and readers,
too, as outbox and log have one owner, and outlets, as their library reads its configuration once; another wearer, as a
run is of one."""
RESTART = "`systemctl restart affectd`"

_log = logging.getLogger(__name__)


class Reloading:
    """Knows the configuration in use. ``read`` reads and checks the file, None where there is none."""

    def __init__(self, config: Config, read: Callable[[], Config] | None, sinks: Sinks, switching: Switching) -> None:
        self.config = config
        """As the file was when it was last taken over, without what waits for a restart."""
        self._read = read
        self._sinks = sinks
        self._switching = switching
        self._sensors = sensors_of(config) if read else ()

    @contextlib.asynccontextmanager
    async def on_signal(self) -> AsyncIterator[None]:
        """Meanwhile SIGHUP reloads, where there is a file, and what comes of it is logged."""
        if self._read is None:
            yield
            return
        asked, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        serving = asyncio.create_task(self._serve(asked), name="reload")
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            serving.cancel()
            await asyncio.wait({serving})

    async def _serve(self, asked: asyncio.Event) -> None:
        while await asked.wait():
            asked.clear()
            with contextlib.suppress(DeviceError):  # is logged already
                await self.reload()

    async def answers(self, _: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answer to `affectd reload`; raises DeviceError, and then nothing has changed."""
        changed, waiting = await self.reload()
        yield {"changed": changed, "restart": waiting}

    async def reload(self) -> tuple[list[str], list[str]]:
        """Dotted keys that were changed, and those that wait for a restart; raises DeviceError, and then none was."""
        if self._read is None:
            raise RequestError("this affectd was started without a configuration file", RESTART)
        async with self._switching.changing:
            try:
                live, waiting = await self._changed(self._read)
            except DeviceError as error:
                _log.error("the configuration is as it was: %s", error)
                raise
        _log.info(
            "configuration: changed %s, with a restart %s", *(", ".join(it) or "nothing" for it in (live, waiting))
        )
        return live, waiting

    async def _changed(self, read: Callable[[], Config]) -> tuple[list[str], list[str]]:
        wanted, sensors = await asyncio.to_thread(_read, read)
        changed = {*_differing(self.config, wanted)} | ({"sensors"} if sensors != self._sensors else set())
        live = {key for key in changed if _within(key, *LIVE)}
        with_network = any(_within(key, "inference", "person") for key in live)
        await self._take_over(_merged(self.config, wanted), with_network)
        return sorted(live), sorted(changed - live)

    async def _take_over(self, config: Config, with_network: bool) -> None:
        """First what may fail: a failure before the last lines takes all of it back."""
        in_use = self._switching.config
        inference = config.inference if config.inference != self.config.inference else in_use.inference
        opened = await self._sinks.opened(config.sinks)
        try:
            if with_network:
                network = msgspec.structs.replace(in_use, inference=inference, person=config.person)
                self._switching.go_over(await self._switching.prepared(network))
        except BaseException:
            await asyncio.gather(*(it.close() for it in opened.values()))
            raise
        if config.log != self.config.log:
            set_level(config.log.level)
        self.config = config
        await self._sinks.adopt(config.sinks, opened)


def _read(read: Callable[[], Config]) -> tuple[Config, tuple[Sensor, ...]]:
    """The file's, and its sensors, which may stand in affectd-pair's file; raises DeviceError."""
    config = read()
    try:
        return config, sensors_of(config)
    except FirmwareBridgeError as error:
        raise RequestError(*str(error).rsplit("; ", 1)) from error


def _differing(old: Any, new: Any, within: str = "") -> Iterator[str]:
    """Dotted keys that differ; of tables that are there once only, the table."""
    for name in old.__struct_fields__:
        a, b, key = getattr(old, name), getattr(new, name), f"{within}{name}"
        if isinstance(a, msgspec.Struct) and type(a) is type(b):
            yield from _differing(a, b, f"{key}.")
        elif a != b:
            yield key


def _within(key: str, *tables: str) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _merged(old: Config, new: Config) -> Config:
    """What is in use from now on: of the new one what needs no restart."""
    recording = msgspec.structs.replace(old.recording, fsync_s=new.recording.fsync_s)
    person = msgspec.structs.replace(new.person, subject=old.person.subject)
    sinks = msgspec.structs.replace(old.sinks, jsonl=new.sinks.jsonl, sqlite=new.sinks.sqlite)
    return msgspec.structs.replace(
        old, inference=new.inference, person=person, log=new.log, sinks=sinks, recording=recording
    )
