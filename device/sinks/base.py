"""What a sink is, and the bounded queue that stands before each one.

It knows nothing of where a sink sends things.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import socket
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from device.inference import Prediction
from device.notification import ClockReading, Event

if TYPE_CHECKING:
    from device.pipeline.types import Chunk, Window

Item = Prediction | Event | ClockReading
"""What sinks take."""
CLOSE_TIMEOUT_S = 3.0
"""What is still queued at the end has this long: a clean stop takes under 5 s in all."""

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes one item at a time, as slowly as it must."""

    @property
    def name(self) -> str:
        """What it is called in logs."""

    async def publish(self, item: Item) -> None:
        """Send one; any error is counted, and the next is tried anew."""

    async def close(self) -> None:
        """Flush and let go; ``publish`` is not called again."""


@runtime_checkable
class Listens(Protocol):
    """A sink that takes signals too, apart from its queue."""

    def listen(self, item: Chunk | Window) -> None:
        """Take what flows inside the session; never waits."""


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What predictions are made with."""

    bundle: str
    """Its name."""
    bundle_sha256: str
    labels: tuple[str, ...]


@runtime_checkable
class Describes(Protocol):
    """A sink that tells readers what predictions are made with, apart from each of them."""

    async def renew(self, made_by: MadeBy) -> None:
        """Tell it anew: what is published from now on is made with this."""


class Written:
    """A sink that is done with an item once it is on the disk."""

    def write(self, item: Item) -> None:
        """Put one there."""
        raise NotImplementedError

    async def publish(self, item: Item) -> None:
        """Put one there, without holding up the event loop where that is slow."""
        await asyncio.to_thread(self.write, item)


@runtime_checkable
class Serves(Protocol):
    """A sink that readers come to."""

    def readers(self) -> dict[str, int]:
        """How many are there, were refused, were let go of."""


class QueuedSink:
    """A sink behind a queue: ``put`` never waits, and drops the oldest where the queue is full, because the newest is
    the one somebody looks at and every one can be had again by replaying the recording.
    """

    def __init__(self, sink: Sink, size: int) -> None:
        if size < 1:
            raise ValueError(f"a queue of {size}")
        self.sink = sink
        self.published = self.dropped = self.failed = 0
        self.failing = 0
        """Failures since the last success."""
        self.last_error = ""
        self._size = size
        self._queue: deque[Item | MadeBy] = deque()
        self._passed: MadeBy | None = None
        """What a full queue has pushed out: it is told before the next item."""
        self._wake = asyncio.Event()
        self._closing = False

    def put(self, item: Item) -> None:
        """Queue one, at once."""
        self._append(item)

    def renew(self, made_by: MadeBy) -> None:
        """What is put from now on is made with this; a sink that tells so does it in its place, also behind a full
        queue.
        """
        if isinstance(self.sink, Describes):
            self._append(made_by)

    def _append(self, item: Item | MadeBy) -> None:
        if len(self._queue) == self._size:
            oldest = self._queue.popleft()
            if isinstance(oldest, MadeBy):
                self._passed = oldest
            else:
                self.dropped += 1
        self._queue.append(item)
        self._wake.set()

    def to_json(self) -> dict[str, Any]:
        """How it does."""
        counts = {"published": self.published, "dropped": self.dropped, "failed": self.failed, "failing": self.failing}
        queue = {"queued": len(self._queue), "queue": self._size}
        readers = {"readers": self.sink.readers()} if isinstance(self.sink, Serves) else {}
        return {"name": self.sink.name, **counts, **queue, "last_error": self.last_error or None, **readers}

    async def run(self) -> None:
        """Publish until ``close``; one task calls this."""
        while not (self._closing and not self._queue):
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            passed, self._passed = self._passed, None
            await self._publish(passed or self._queue.popleft())

    async def _publish(self, item: Item | MadeBy) -> None:
        try:
            if isinstance(item, MadeBy):
                assert isinstance(self.sink, Describes)
                await self.sink.renew(item)
                return
            await self.sink.publish(item)
            self.published += 1
            self.failing = 0
        except Exception as error:  # a sink's own trouble, whatever it is, must not end the others
            self.failed += 1
            self.failing += 1
            self.last_error = str(error)
            _log.warning("sink %s: %s: %s", self.sink.name, _what(item), error, extra={"sink": self.sink.name})

    async def close(self, task: asyncio.Task[None], timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Let the task of ``run`` finish the queue, for a while, then close the sink."""
        self._closing = True
        self._wake.set()
        _, late = await asyncio.wait([task], timeout=timeout_s)
        if late:
            task.cancel()
            await asyncio.wait([task])
        await self.sink.close()


def _what(item: Item | MadeBy) -> str:
    """An item for people; of a prediction never what it says."""
    if isinstance(item, MadeBy):
        return f"bundle {item.bundle}"
    if isinstance(item, Prediction):
        return f"prediction {item.index}"
    return f"{'event' if isinstance(item, Event) else 'clock'} at {item.host_ns / 1e9:.3f} s"


def device_id() -> str:
    """Host name and a hash of the machine's id (which itself is nobody's business), fit for a topic."""
    try:
        machine = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        machine = b""
    host = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in socket.gethostname())
    return f"{host}-{hmac.new(machine, b'affectd', hashlib.sha256).hexdigest()[:8]}"
