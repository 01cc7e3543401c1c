"""Takes a session's windows while its wearer rests: from a recording, or while the daemon streams.

It knows nothing of sockets, of terminals or of how a baseline is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from device.baseline import REST_S, BaselineRecorder, Progress
from device.inference import Prediction
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Chunk, Window
from device.profile import Profile, check_person
from device.recording import RecordingReader
from firmware_bridge.registry import Role

if TYPE_CHECKING:
    from device.pipeline.model_input import Baseline


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

    def classify(self, window: Window, baseline: Baseline | None = None) -> Prediction:
        return Prediction(window.index, window.start, window.start, None, None, (), "uncertain", {}, {})


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
