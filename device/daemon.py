"""The daemon: ``run`` is the whole flow, sources to sinks, on one screen.

It knows nothing of protocols, of signals or of how a sink sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from device.bundle import read_bundle
from device.config import Config, SinksConfig
from device.errors import DeviceError, SourceError
from device.inference import Prediction
from device.notification import Notification
from device.recording import RecordingWriter
from device.session import DEFAULT_BUNDLE, Counts, Session, open_session
from device.sinks.base import QueuedSink
from device.sinks.jsonl import JsonlSink
from device.sources.base import Source
from device.sources.ble import BleSource

QUEUE = 1024
"""Notifications between the sources and the session: minutes of two sensors, so only a fast replay ever waits."""

_log = logging.getLogger(__name__)


async def run(
    config: Config, *, sources: Sequence[Source] | None = None, stop: asyncio.Event | None = None
) -> dict[str, Counts]:
    """Run until ``stop`` is set, a SIGTERM or SIGINT comes, or every source has ended; the counts of each stream.

    ``sources`` stands in for the configured sensors. Raises DeviceError where it cannot start or cannot record.
    """
    stop = stop or _stop_on_signals()
    sources = [BleSource(sensor) for sensor in config.sensors] if sources is None else sources
    streams = {name: info for source in sources for name, info in source.streams.items()}
    bundle = read_bundle(config.inference.bundle or DEFAULT_BUNDLE)
    session = open_session(bundle, streams, runtime=config.inference.runtime, threads=config.inference.threads)
    states = States()
    with RecordingWriter(Path(config.recording.directory), streams) as recording:
        async with (
            _open_sinks(config.sinks) as sinks,
            _repeating(recording.sync, config.recording.fsync_s),
            contextlib.aclosing(merged(sources, stop)) as notifications,
        ):
            _log.info("bundle %s, recording to %s", bundle.manifest.name, recording.path)
            async for notification in notifications:
                recording.append(notification)
                _publish(session.push(notification), sinks, states)
            _publish(session.flush(), sinks, states)
    _report(session)
    return session.stats


def _publish(predictions: Iterable[Prediction], sinks: Iterable[QueuedSink], states: States) -> None:
    for prediction in predictions:
        states.note(prediction)
        for sink in sinks:
            sink.put(prediction)


async def merged(sources: Sequence[Source], stop: asyncio.Event) -> AsyncGenerator[Notification, None]:
    """Notifications of all sources as they come, until ``stop`` or the end of all.

    One task per source; one that fails is said and never stops another. Raises the last error where all have failed.
    """
    queue: asyncio.Queue[Notification | None] = asyncio.Queue(QUEUE)
    tasks = [asyncio.create_task(_drain(source, queue), name=source.name) for source in sources]
    guards = [asyncio.create_task(_end_of(tasks, queue)), asyncio.create_task(_stopped(stop, tasks))]
    try:
        while (notification := await queue.get()) is not None:
            yield notification
    finally:
        await _cancel([*tasks, *guards])
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors and len(errors) == len(tasks):
        raise errors[-1]


async def _drain(source: Source, queue: asyncio.Queue[Notification | None]) -> None:
    """Move one source's notifications to the queue; closing the generator stops the sensor's stream."""
    try:
        async with contextlib.aclosing(source.notifications()) as notifications:
            async for notification in notifications:
                await queue.put(notification)
    except DeviceError as error:
        _log.error("source %s ends: %s", source.name, error)
        raise
    except Exception as error:
        _log.exception("source %s ends", source.name)
        raise SourceError(source.name, f"stopped by {error!r}", "see the log, and report it") from error
    _log.info("source %s has ended", source.name)


async def _end_of(tasks: Sequence[asyncio.Task[None]], queue: asyncio.Queue[Notification | None]) -> None:
    await asyncio.wait(tasks)
    await queue.put(None)


async def _stopped(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    await stop.wait()
    _log.info("stopping")
    for task in tasks:
        task.cancel()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End tasks and wait until each has cleaned up."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def _open_sinks(config: SinksConfig) -> AsyncIterator[list[QueuedSink]]:
    """The configured sinks, each with its queue and task; at the end each gets a while to finish."""
    sinks = []
    if config.jsonl is not None:
        sinks.append(QueuedSink(JsonlSink(Path(config.jsonl.path)), config.jsonl.queue))
    tasks = [asyncio.create_task(sink.run(), name=f"sink {sink.sink.name}") for sink in sinks]
    try:
        yield sinks
    finally:
        await asyncio.gather(*(sink.close(task) for sink, task in zip(sinks, tasks, strict=True)))
        for sink in sinks:
            _log.info(
                "sink %s: %d published, %d dropped, %d failed",
                sink.sink.name,
                sink.published,
                sink.dropped,
                sink.failed,
            )


@contextlib.asynccontextmanager
async def _repeating(action: Callable[[], None], period_s: float) -> AsyncIterator[None]:
    """Meanwhile call something slow every so often, outside the event loop."""

    done = asyncio.Event()

    async def repeat() -> None:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), period_s)
            try:
                await asyncio.to_thread(action)
            except OSError as error:
                _log.error("recording: not on the disk yet: %s", error)

    task = asyncio.create_task(repeat(), name="fsync")
    try:
        yield
    finally:
        done.set()  # not cancelled: a thread cannot be, and it may still use the file
        await task


def _stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM (systemd) and SIGINT (a terminal) set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class States:
    """Logs each change of what predictions rest on."""

    def __init__(self) -> None:
        self._last: tuple[tuple[str, ...], str | None] | None = None

    def note(self, prediction: Prediction) -> None:
        """Look at one prediction."""
        state = (prediction.modalities, prediction.abstained)
        if state != self._last:
            self._last = state
            _log.info("predicting from %s%s", "+".join(state[0]) or "nothing", f": {state[1]}" if state[1] else "")


def _report(session: Session) -> None:
    for name, counts in session.stats.items():
        assembly = counts.assembly
        _log.info(
            "stream %s: %d notifications, %d bad, %d samples, %d lost in %d gaps, %.3f Hz",
            *(name, counts.notifications, counts.bad.total()),
            *(assembly.samples, assembly.lost_samples, assembly.gaps, assembly.sfreq),
        )
