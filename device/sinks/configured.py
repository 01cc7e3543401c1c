"""The configured sinks while the daemon runs: each is opened, changed and closed without the others.

It knows nothing of what they are given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.config import HttpConfig, JsonlConfig, LslConfig, MqttConfig, SinksConfig, SqliteConfig
from device.errors import DeviceError, SinkError
from device.notification import ClockReading
from device.sealing import recipients_in
from device.sinks.base import Item, Listens, MadeBy, QueuedSink, Sink, device_id
from device.sinks.jsonl import JsonlSink
from device.sinks.sqlite import Run, SqliteSink
from firmware_bridge.packet import StreamInfo

if TYPE_CHECKING:
    from device.pipeline.types import Chunk, Window

Table = JsonlConfig | SqliteConfig | MqttConfig | LslConfig | HttpConfig
"""One table ``[sinks.*]``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenSink:
    """A sink, as its table wants it, with the task that publishes."""

    table: Table
    queued: QueuedSink
    task: asyncio.Task[None]

    async def close(self) -> None:
        """Give it a while to finish, close it and say what became of all."""
        queued = self.queued
        try:
            await queued.close(self.task)
        except Exception as error:  # a sink's own trouble, whatever it is, must not end the others
            _log.warning("sink %s: does not close: %s", queued.sink.name, error)
        counts = queued.published, queued.dropped, queued.failed
        _log.info("sink %s: %d published, %d dropped, %d failed", queued.sink.name, *counts)


class Sinks:
    """Those that are open; ``run``, ``streams`` and ``labels`` are what they are told of the daemon."""

    def __init__(self, run: Run, streams: Mapping[str, StreamInfo], labels: Sequence[str]) -> None:
        self._run = run
        self._run_id = uuid.uuid4().hex
        self._streams = streams
        self._made_by = MadeBy(run.bundle, run.bundle_sha256, tuple(labels))
        self._open: dict[str, OpenSink] = {}
        self._read: ClockReading | None = None

    def put(self, item: Item) -> None:
        """Queue one for each; one that is opened later begins with the newest reading of the clock."""
        if isinstance(item, ClockReading):
            self._read = item
        for it in self._open.values():
            it.queued.put(item)

    def renew(self, made_by: MadeBy) -> None:
        """What comes from now on is made with this; tell those who tell others, unless it is what it was."""
        if made_by != self._made_by:
            self._made_by, self._run = made_by, self._run.with_bundle(made_by)
            for it in self._open.values():
                it.queued.renew(made_by)

    def listen(self, item: Chunk | Window) -> None:
        """Hand on what flows inside the session to those that take signals too."""
        for it in self._open.values():
            if isinstance(it.queued.sink, Listens):
                it.queued.sink.listen(item)

    def to_json(self) -> list[dict[str, Any]]:
        """How each does."""
        return [it.queued.to_json() for it in self._open.values()]

    @contextlib.asynccontextmanager
    async def running(self, config: SinksConfig) -> AsyncIterator[None]:
        """Meanwhile they are open; at the end each gets a while to finish."""
        await self.adopt(config, await self.opened(config))
        try:
            yield
        finally:
            await _close(self._open.values())

    async def opened(self, config: SinksConfig) -> dict[str, OpenSink]:
        """Those that are not open yet as a configuration wants them; raises SinkError, and then none is opened."""
        opened: dict[str, OpenSink] = {}
        try:
            for name, table in _tables(config).items():
                if name not in self._open or self._open[name].table != table:
                    queued = QueuedSink(await asyncio.to_thread(self._sink, table), table.queue)
                    opened[name] = OpenSink(table, queued, asyncio.create_task(queued.run(), name=f"sink {name}"))
        except DeviceError:
            await _close(opened.values())
            raise
        return opened

    async def adopt(self, config: SinksConfig, opened: dict[str, OpenSink]) -> None:
        """Go on with these; those that a configuration does not name or wants otherwise finish and close."""
        wanted, before = _tables(config), self._open
        self._open = {name: opened.get(name) or before[name] for name in wanted}
        if self._read is not None:
            for it in opened.values():
                it.queued.put(self._read)
        await _close(it for name, it in before.items() if self._open.get(name) is not it)

    def _sink(self, table: Table) -> Sink:
        match table:
            case JsonlConfig():
                return JsonlSink(Path(table.path), self._run.subject, recipients_in(table.recipients))
            case SqliteConfig():
                return SqliteSink(Path(table.path), self._run, recipients_in(table.recipients))
            case MqttConfig():
                with _needing("mqtt", "mqtt"):
                    from device.sinks.mqtt import MqttSink
                return MqttSink(table, self._run, self._streams, self._run_id)
            case HttpConfig():
                with _needing("http", "web"):
                    from device.sinks.http import HttpSink
                return HttpSink(table, self._run, self._streams, self._run_id)
            case LslConfig():
                from device.sinks.lsl import LslSink  # numpy comes with it

                return LslSink(table, self._streams, self._made_by.labels, table.device or device_id())


@contextlib.contextmanager
def _needing(name: str, extra: str) -> Iterator[None]:
    """Raise SinkError where a package that a sink is made of is not there."""
    try:
        yield
    except ImportError as error:
        raise SinkError(name, f"a package is not here ({error.name})", f"pip install 'affectd[{extra}]'") from error


def _tables(config: SinksConfig) -> dict[str, Table]:
    tables = {name: getattr(config, name) for name in config.__struct_fields__}
    return {name: table for name, table in tables.items() if table is not None}


async def _close(sinks: Iterable[OpenSink]) -> None:
    await asyncio.gather(*(it.close() for it in sinks))
