"""Takes a session's windows while its wearer rests: from a recording, or while the daemon streams.

It knows nothing of sockets, of terminals or of how a baseline is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from device.baseline import REST_S, BaselineRecorder, Progress, check_worn
from device.calibration import UNUSED, Choice, Models, with_labels
from device.config import Config
from device.errors import BaselineError, ProfileError
from device.inference import Classifier, Prediction
from device.notification import Arrival
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Chunk, Window
from device.profile import Profile, check_person, check_place, with_labels_at, write_profile
from device.recording import RecordingReader
from firmware_bridge.packet import StreamInfo
from firmware_bridge.registry import Role

if TYPE_CHECKING:
    from device.inference import Float32
    from device.pipeline.model_input import Baseline
    from device.session import Classifies
    from device.space import Shots

SILENT_S = 30.0
"""Without a window for so long a rest is given up: one comes every stride, at most ``join_wait_s`` late."""


class BaselineRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for."""

    allow: Role | None = None
    """A baseline of this modality alone; without it one of all."""
    rest_s: float = REST_S
    person: str | None = None
    """What the wearer wants to be called."""
    keep: bool = True
    """Whether the daemon writes the profile where its configuration says, and uses it; else it only tells it."""

    def __post_init__(self) -> None:
        check_person(self.person)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which the baseline shall serve."""
        return MODALITIES if self.allow is None else (self.allow,)


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a rest."""

    profile: Profile
    path: str | None
    """Where it was written; None: nowhere yet."""
    in_use: bool
    """Whether predictions rest on it from now on."""
    warnings: tuple[str, ...]
    """Why it may have been no rest, for people."""
    note: str = ""
    """What becomes of it, for people."""


class _NoNetwork:
    """Stands in for a network where only windows are wanted."""

    def classify(self, window: Window, baseline: Baseline | None = None, shots: Shots | None = None) -> Prediction:
        return Prediction(window.index, window.start, window.start, None, None, (), "uncertain", {}, {})

    def embeddings(self, window: Window, baseline: Baseline | None = None) -> dict[str, Float32]:
        return {}


def windows_of(reader: RecordingReader, spec: SignalSpec) -> Iterator[Window]:
    """Every window of a recording, through the same Session as the daemon's."""
    from device.session import Session

    found: list[Window] = []

    def listen(item: Chunk | Window) -> None:
        if isinstance(item, Window):
            found.append(item)

    session = Session(_NoNetwork(), spec, reader.streams, listener=listen)
    for arrival in reader:
        session.push(arrival)
        yield from found
        found.clear()
    session.flush()
    yield from found


def rest_of(reader: RecordingReader, spec: SignalSpec, recorder: BaselineRecorder) -> Iterator[Progress]:
    """Give a recording's windows to a recorder until its rest is over."""
    for window in windows_of(reader, spec):
        progress = recorder.push(window)
        yield progress
        if progress.done:
            return


class Resting:
    """Records a wearer's rest from the windows of the daemon's running session, one rest at a time.

    ``change_over`` makes the session go on with another network and baseline.
    """

    def __init__(
        self,
        config: Config,
        models: Models,
        infos: Collection[StreamInfo],
        choice: Choice,
        change_over: Callable[[Choice, Classifies], None],
    ) -> None:
        self._config = config
        self._models = models
        self._attached = tuple(info.modality for info in infos)
        self._spec = choice.bundle.manifest.spec
        self._change_over = change_over
        self._now: float | None = None
        self._windows: asyncio.Queue[Window] | None = None

    @property
    def busy(self) -> bool:
        """Whether a rest is being recorded."""
        return self._windows is not None

    def use(self, config: Config, models: Models, choice: Choice) -> None:
        """From now on rests are for these models; only while none is being recorded."""
        self._config = config
        self._models = models
        self._spec = choice.bundle.manifest.spec

    def tap(self, arrival: Arrival) -> None:
        """Take the time from an arrival."""
        self._now = arrival.host_ns / 1e9

    def listen(self, item: Chunk | Window) -> None:
        """The session's listener."""
        if self._windows is not None and isinstance(item, Window):
            self._windows.put_nowait(item)

    async def answers(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Progress as it happens, at last the Outcome; closed before that, nothing is written.

        Raises BaselineError, ProfileError, BundleError or InferenceError where there is none.
        """
        try:
            asked = msgspec.convert(request, BaselineRequest)
        except msgspec.ValidationError as error:
            raise BaselineError("", f"no request for one: {error}", "use the affectd of the same version") from error
        recorder = self._recorder(asked)
        self._windows = asyncio.Queue()
        try:
            progress = recorder.begun()
            yield {"progress": msgspec.to_builtins(progress)}
            while not progress.done:
                progress = recorder.push(await _next(self._windows))
                yield {"progress": msgspec.to_builtins(progress)}
            yield {"outcome": msgspec.to_builtins(await self._end(asked, recorder, progress.warnings))}
        finally:
            self._windows = None

    def _recorder(self, asked: BaselineRequest) -> BaselineRecorder:
        """For a rest that begins now; all that can be known to be in its way is said before anybody sits still."""
        if self.busy:
            raise BaselineError("", "another one is being recorded", "wait until it is over")
        check_worn(asked.modalities, self._attached)
        if asked.keep:
            check_place(self._place(), asked.person, self._config.person.subject)
            self._models.check_windows(self._spec)
        if self._now is None:
            raise BaselineError("", "no sensor has sent anything yet", "`affectd status` says why")
        return BaselineRecorder(self._spec, asked.modalities, rest_s=asked.rest_s, begin=self._now)

    def _place(self) -> Path:
        if self._config.person.profile is None:
            raise BaselineError("", "the daemon has no file for it", "set [person] profile, or give --profile FILE")
        return Path(self._config.person.profile)

    async def _end(self, asked: BaselineRequest, recorder: BaselineRecorder, warnings: tuple[str, ...]) -> Outcome:
        """Make the profile and use it, all of that or none: nothing is awaited from the file on."""
        profile = await asyncio.to_thread(recorder.profile, datetime.now(UTC), asked.person)
        profile = msgspec.structs.replace(profile, subject=self._config.person.subject)
        if not asked.keep:
            return Outcome(profile, None, False, warnings)
        path, choice, classifier, note = self._place(), None, None, ""
        try:
            choice = self._models.choice_for(profile, path)
            note = f"{UNUSED[0].upper()}{UNUSED[1:]}."
        except ProfileError as error:  # of one sensor while two are attached: kept, for when it alone is worn
            note = f"It is not used now: {error.reason}."
        if choice is not None and choice.baseline is not None:
            inference = self._config.inference
            classifier = await asyncio.to_thread(Classifier, choice.bundle, inference.runtime, inference.threads)
        kept = with_labels_at(path, profile)
        write_profile(path, kept)
        if choice is None or classifier is None:
            return Outcome(profile, str(path), False, warnings, note)
        self._change_over(with_labels(choice, kept.examples), classifier)
        return Outcome(profile, str(path), True, warnings, "Predictions rest on it from now on.")


async def _next(windows: asyncio.Queue[Window]) -> Window:
    try:
        return await asyncio.wait_for(windows.get(), SILENT_S)
    except TimeoutError as error:
        remedy = "`affectd status` says why; then rest once more"
        raise BaselineError("", f"no sensor has sent anything for {SILENT_S:g} s", remedy) from error
