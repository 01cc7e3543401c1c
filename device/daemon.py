"""The daemon: ``run`` is the whole flow, sources to sinks, on one screen.

It knows nothing of protocols, of signals or of how a sink sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device import log_level
from device.calibration import Choice, Models
from device.config import Config, profile_of, sensors_of
from device.control import Answers, Control
from device.errors import DeviceError, SourceError
from device.inference import Prediction
from device.labelling import Labelling
from device.lean import load_signal
from device.marking import Marking
from device.notification import Arrival
from device.pausing import Pausing
from device.progress import Progress
from device.recording import RecordingWriter
from device.reloading import Reloading
from device.resting import Resting
from device.sealing import recipients_in
from device.service import kept_informed
from device.sinks.base import MadeBy
from device.sinks.configured import Sinks
from device.sinks.sqlite import Run
from device.sources.base import Source
from device.sources.ble import BleSource, ble_sources
from device.status import Status
from device.storage import Policy
from device.switching import Switching
from device.taping import Taping
from device.timekeeping import Timekeeping
from firmware_bridge.packet import StreamInfo
from firmware_bridge.stop import stop_on_signals

if TYPE_CHECKING:
    from device.pipeline.types import Chunk, Window
    from device.session import Classifies, Counts, Listener, Session

TEND_S = 10.0
"""Between two looks at whether segments are to be compressed or deleted: a sensor fills no disk in that time."""
QUEUE = 1024
"""Arrivals between the sources and the session: minutes of two sensors, so only a fast replay ever waits."""

_log = logging.getLogger(__name__)


async def run(
    config: Config,
    *,
    sources: Sequence[Source] | None = None,
    stop: asyncio.Event | None = None,
    reread: Callable[[], Config] | None = None,
) -> dict[str, Counts]:
    """Run until ``stop`` is set, a SIGTERM or SIGINT comes, or every source has ended; the counts of each stream.

    ``sources`` stands in for the configured sensors, ``reread`` gives the configuration anew at SIGHUP. Raises
    DeviceError where it cannot start or cannot record.
    """
    stop = stop or stop_on_signals()
    async with _open_sources(config, sources) as sources:
        streams = {name: info for source in sources for name, info in source.streams.items()}
        models = Models(config.inference, streams.values())
        choice = _choose(models, config)
        links = [source for source in sources if isinstance(source, BleSource)]
        with RecordingWriter(Path(config.recording.directory), streams, _policy(config)) as recording:
            timekeeping = Timekeeping(recording.header.clock, recording.keep)
            sinks = Sinks(_run_of(choice, recording), streams, choice.bundle.manifest.labels)
            marking = Marking(recording.keep)
            marking.publish = sinks.put
            taping = Taping(recording, marking.mark)
            pausing = Pausing(Path(config.control.state), links, marking.mark)
            status = Status(choice, recording, links, timekeeping, sinks=sinks, taping=taping, pausing=pausing)
            resting = Resting(config, models, streams.values(), choice, partial(_change_over, status, sinks))
            labelling = Labelling(profile_of(config), status, subject=config.person.subject)
            publish = partial(_publish, sinks=sinks, status=status, labelling=labelling)
            infos, renew = streams.values(), partial(_renew, sinks)
            switching = Switching(config, infos, status, resting, labelling, publish, marking.mark, renew)
            reloading = Reloading(config, reread, sinks, switching)
            orders = _orders(taping, pausing, switching, reloading)
            control = Control(status.to_json, links, resting.answers, labelling.answers, marking.answers, orders)
            progress = Progress(sync_s := lambda: reloading.config.recording.fsync_s)
            hear = partial(_each, (resting.listen, labelling.listen, sinks.listen))
            backlog = Backlog(status, publish)
            async with (
                sinks.running(config.sinks),
                _repeating(progress.syncing(recording.sync), sync_s),
                _repeating(recording.tend, lambda: TEND_S, recording.leave_off),
                timekeeping.watching(sinks.put),
                pausing.kept(),
                reloading.on_signal(),
                control.listening(Path(config.control.socket)),
                _opening(config, status, streams, hear, stop, backlog) as opening,
                kept_informed(opening, stop, status.in_words, progress.made),
                contextlib.aclosing(merged(sources, stop, progress.arrived)) as arrivals,
            ):
                _log.info("bundle %s, recording to %s", choice.bundle.manifest.name, recording.path)
                async for arrival in arrivals:
                    if pausing.admits(arrival):
                        taping.keep(arrival)
                        control.tap(arrival)
                        resting.tap(arrival)
                        labelling.tap(arrival)
                        backlog.append(arrival)
                        if not stop.is_set():
                            backlog.catch_up()
                    progress.done()
                session = await opening
                backlog.catch_up()
                publish(session.flush())
    _report(session)
    return session.stats


def _choose(models: Models, config: Config) -> Choice:
    """The bundle to begin with; why not the calibrated one is said once."""
    choice = models.choose(profile_of(config), config.person.subject)
    if choice.calibration.reason is not None:
        _log.warning("cold start: %s", choice.calibration.reason)
    if choice.labels.reason is not None:
        _log.warning("the wearer's labels are not used: %s", choice.labels.reason)
    return choice


def _policy(config: Config) -> Policy:
    taped = config.recording
    bounds = taped.keep_days, taped.max_bytes, taped.min_free_bytes
    recipients = recipients_in(taped.recipients)
    return Policy(taped.segment_s, taped.compress, *bounds, recipients, config.person.subject or "")


def _orders(
    taping: Taping, pausing: Pausing, switching: Switching, reloading: Reloading
) -> dict[str, Callable[[dict[str, Any]], Answers]]:
    """What control carries out whole, by the name of the request."""
    return {
        "recording": taping.answers,
        "pause": pausing.answer_pause,
        "resume": pausing.answer_resume,
        "bundle": switching.answers,
        "reload": reloading.answers,
        "log-level": log_level.answers,
    }


def _change_over(status: Status, sinks: Sinks, choice: Choice, classifier: Classifies) -> None:
    """Go on with a wearer's new baseline, between two arrivals."""
    if status.session is not None:  # it gave the windows of the baseline, so it is there
        status.session.use(classifier, choice.baseline, choice.shots)
        status.choice = choice
        _renew(sinks, choice)
        _log.info("calibrated: bundle %s", choice.bundle.manifest.name)


def _renew(sinks: Sinks, choice: Choice) -> None:
    """Tell what predictions are made with from now on."""
    manifest = choice.bundle.manifest
    sinks.renew(MadeBy(manifest.name, choice.bundle.sha256, manifest.labels))


class Backlog:
    """What has come and was not looked at, because the session is still being opened; in order."""

    def __init__(self, status: Status, publish: Callable[[Iterable[Prediction]], None]) -> None:
        self._status = status
        self._publish = publish
        self._arrivals: list[Arrival] = []

    def append(self, arrival: Arrival) -> None:
        """Add one."""
        self._arrivals.append(arrival)

    def catch_up(self) -> None:
        """Publish what the session, where it is open, says of all."""
        if (session := self._status.session) is not None:
            arrivals, self._arrivals = self._arrivals, []
            for arrival in arrivals:
                self._publish(session.push(arrival))


@contextlib.asynccontextmanager
async def _opening(
    config: Config,
    status: Status,
    streams: Mapping[str, StreamInfo],
    listener: Listener,
    stop: asyncio.Event,
    backlog: Backlog,
) -> AsyncIterator[asyncio.Task[Session]]:
    """The session, opened in a thread, and what has come meanwhile given to it; a failure stops the daemon.

    Loading scipy and the TFLite runtime takes seconds on a small machine: meanwhile the sensors are connected to and
    recorded already, so that a daemon that was killed loses little.
    """

    choice, inference = status.choice, config.inference

    def open_() -> Session:
        load_signal()
        from device.session import open_session

        return open_session(
            choice.bundle,
            streams,
            runtime=inference.runtime,
            threads=inference.threads,
            baseline=choice.baseline,
            listener=listener,
        )

    async def adopt() -> Session:
        session = await asyncio.to_thread(open_)
        session.learn(status.choice.shots)  # as they are by now
        status.session = session
        backlog.catch_up()
        return session

    def opened(task: asyncio.Task[Session]) -> None:
        if not task.cancelled() and task.exception() is not None:
            stop.set()

    task = asyncio.create_task(adopt(), name="session")
    task.add_done_callback(opened)
    try:
        yield task
    finally:
        await asyncio.wait({task})


def _each(listeners: Iterable[Listener], item: Chunk | Window) -> None:
    for listen in listeners:
        listen(item)


def _open_sources(
    config: Config, sources: Sequence[Source] | None
) -> contextlib.AbstractAsyncContextManager[Sequence[Source]]:
    """The sensors' sources on the machine's radio, unless others stand in for them."""
    if sources is None:
        return ble_sources(sensors_of(config), adapter=config.radio.adapter, agent=_agent)
    return contextlib.nullcontext(sources)


class _Nobody:
    """Answers for a daemon that nobody sits at: a sensor pairs without being asked (Just Works), or not at all."""

    capability = "NoInputNoOutput"

    async def passkey(self) -> int | None:
        return None

    async def confirm(self, passkey: int) -> bool:
        return True

    def display(self, passkey: int) -> None:
        pass


def _agent(address: str) -> contextlib.AbstractAsyncContextManager[None]:
    """BlueZ pairs with nobody unless an agent agrees; ours does for a known sensor that has lost its bond."""
    from firmware_bridge.pair.agent import pairing_agent

    return pairing_agent(address, _Nobody())


def _publish(predictions: Iterable[Prediction], sinks: Sinks, status: Status, labelling: Labelling) -> None:
    for prediction in predictions:
        labelling.note(prediction)
        if status.note(prediction):
            _log.info("predicting from %s", status.rests_on)
        sinks.put(prediction)


def _run_of(choice: Choice, recording: RecordingWriter) -> Run:
    """What is said of this run where its results are kept."""
    bundle, header = choice.bundle, recording.header
    clocks, made_by = (header.host_ns, header.wall_ns), (bundle.manifest.name, bundle.sha256)
    return Run(*clocks, *made_by, recording.path.name, header.affectd, header.subject)


async def merged(
    sources: Sequence[Source], stop: asyncio.Event, arrived: Callable[[], None]
) -> AsyncGenerator[Arrival, None]:
    """Arrivals of all sources as they come, until ``stop`` or the end of all; ``arrived`` hears of each at once.

    One task per source; one that fails is said and never stops another. Raises the last error where all have failed.
    """
    queue: asyncio.Queue[Arrival | None] = asyncio.Queue(QUEUE)
    tasks = [asyncio.create_task(_drain(source, queue, arrived), name=source.name) for source in sources]
    guards = [asyncio.create_task(_end_of(tasks, queue)), asyncio.create_task(_stopped(stop, tasks))]
    try:
        while (arrival := await queue.get()) is not None:
            yield arrival
    finally:
        await _cancel([*tasks, *guards])
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors and len(errors) == len(tasks):
        raise errors[-1]


async def _drain(source: Source, queue: asyncio.Queue[Arrival | None], arrived: Callable[[], None]) -> None:
    """Move one source's arrivals to the queue; closing the generator stops the sensor's stream."""
    try:
        async with contextlib.aclosing(source.notifications()) as arrivals:
            async for arrival in arrivals:
                arrived()
                await queue.put(arrival)
    except DeviceError as error:
        _log.error("source %s ends: %s", source.name, error, extra={"source": source.name})
        raise
    except Exception as error:
        _log.exception("source %s ends", source.name)
        raise SourceError(source.name, f"stopped by {error!r}", "see the log, and report it") from error
    _log.info("source %s has ended", source.name)


async def _end_of(tasks: Sequence[asyncio.Task[None]], queue: asyncio.Queue[Arrival | None]) -> None:
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
async def _repeating(
    action: Callable[[], None], period_s: Callable[[], float], leave_off: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """Meanwhile call something slow every so often, outside the event loop; ``leave_off`` ends one that runs."""

    done = asyncio.Event()

    async def repeat() -> None:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), period_s())
            try:
                await asyncio.to_thread(action)
            except OSError as error:
                _log.error("recording: not on the disk yet: %s", error)

    task = asyncio.create_task(repeat(), name="recording")
    try:
        yield
    finally:
        leave_off()
        done.set()  # not cancelled: a thread cannot be, and it may still use the file
        await task


def _report(session: Session) -> None:
    for name, counts in session.stats.items():
        assembly = counts.assembly
        _log.info(
            "stream %s: %d notifications, %d bad, %d samples, %d lost in %d gaps, %.3f Hz",
            *(name, counts.notifications, counts.bad.total()),
            *(assembly.samples, assembly.lost_samples, assembly.gaps, assembly.sfreq),
        )
