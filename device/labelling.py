"""The wearer's own labels while the daemon streams: what was just lived becomes an example, or is taken back.

It knows nothing of sockets or of terminals, nor of how an example moves a prediction.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from device.bundle import Bundle, mask_name
from device.calibration import NO_SPACE, Choice, network_of, with_labels
from device.errors import LabelError
from device.inference import Prediction
from device.notification import Arrival
from device.pipeline.types import Chunk, Window
from device.profile import Profile, check_subject, read_profile, write_profile
from device.space import KEPT, Example
from device.wall import host_s

if TYPE_CHECKING:
    from device.session import Session

STALE_S = 60.0
"""A window that ended so long ago is another moment than the one the wearer means: it was as long itself."""
_WHY = {
    "warming_up": "the sensors have just started",
    "gap": "the sensors' signals have gaps",
    "contact": "a sensor has no contact with the skin",
    "quality": "the signals are too poor",
    "out_of_range": "the signals lie outside what the network knows",
}


class LabelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for; nothing of it: only what there is."""

    label: str | None = None
    """The newest window is an example of it; with ``undo`` the newest example of it is taken back."""
    undo: bool = False
    """Take back the newest example."""
    forget: bool = False
    """Take back all."""

    def __post_init__(self) -> None:
        if self.forget and (self.undo or self.label is not None):
            raise ValueError("forget goes alone")


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request has changed."""

    did: Literal["labelled", "took_back", "forgot"]
    n: int
    """Windows."""
    label: str | None = None
    """Of the one window; None of many."""
    when: datetime | None = None
    """When it was labelled."""
    mask: str | None = None
    """Which sensors it had."""
    age_s: float | None = None
    """How long before the request it ended; None unless it was labelled now."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The labelled windows of one network."""

    bundle: str
    """Name of its bundle."""
    network: str
    """sha256 of the network."""
    examples: dict[str, int]
    """Windows of each class."""


class LabelAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a request, and what there is now."""

    bundle: str
    """Name of the bundle in use."""
    network: str
    """sha256 of its network."""
    labels: tuple[str, ...]
    """Those that it has."""
    in_use: bool
    """Whether labelled windows have a part in predictions."""
    reason: str | None
    """Why not, although there are some; or why there can be none."""
    kept: tuple[Kept, ...]
    """All labelled windows, by network, the oldest first."""
    change: Change | None = None


class Running(Protocol):
    """What labelling looks at and changes; :class:`device.status.Status` is one."""

    session: Session | None
    choice: Choice


class Labelling:
    """Makes examples of the running session's windows and keeps them in the wearer's profile.

    ``clock`` gives seconds that only grow; it measures how long ago something came.
    """

    def __init__(
        self,
        path: Path | None,
        running: Running,
        clock: Callable[[], float] = host_s,
        *,
        subject: str | None = None,
    ) -> None:
        self._path = path
        self._subject = subject
        self._running = running
        self._clock = clock
        self._ahead_s = 0.0
        """The sensors' host time less the clock's."""
        self._coming: dict[int, Window] = {}
        """Windows that are being classified."""
        self._newest: Prediction | None = None
        self._lived: tuple[Window, Prediction] | None = None
        """The newest that the network has read."""
        self._given: list[tuple[float, Example]] = []
        """Start of each window labelled in this run: none of another run can overlap them."""

    def use(self, path: Path | None, *, forget: bool) -> None:
        """Labels go into this file from now on; ``forget`` where the session goes on with other windows."""
        self._path = path
        if forget:
            self._coming.clear()
            self._newest = self._lived = None

    def tap(self, arrival: Arrival) -> None:
        """Take the time from an arrival."""
        self._ahead_s = arrival.host_ns / 1e9 - self._clock()

    def listen(self, item: Chunk | Window) -> None:
        """The session's listener."""
        if isinstance(item, Window):
            self._coming[item.index] = item

    def note(self, prediction: Prediction) -> None:
        """Take what a window was classified as."""
        window = self._coming.pop(prediction.index, None)
        self._newest = prediction
        if window is not None and prediction.probabilities is not None:
            self._lived = window, prediction

    async def answers(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The one answer; raises LabelError or ProfileError where nothing was changed."""
        yield {"labels": msgspec.to_builtins(self.answer(request))}

    def answer(self, request: dict[str, Any]) -> LabelAnswer:
        """Do what is asked; raises LabelError or ProfileError, and then nothing was changed."""
        try:
            asked = msgspec.convert(request, LabelRequest)
        except msgspec.ValidationError as error:
            raise LabelError(f"no request for one: {error}", "use the affectd of the same version") from error
        if asked.forget:
            return self._answer(self._forget())
        if asked.undo:
            return self._answer(self._undo(asked.label))
        return self._answer(None if asked.label is None else self._label(asked.label))

    def _label(self, label: str) -> Change:
        bundle = self._running.choice.bundle
        _check_label(label, bundle)
        profile = self._profile()
        window, age_s = self._newest_lived()
        self._check_free(window, label, profile.examples)
        example = Example(
            label=label,
            when=datetime.now(UTC),
            bundle=bundle.manifest.name,
            network=network_of(bundle),
            embedding=self._embedding(window),
        )
        self._keep(profile, (*profile.examples, example)[-KEPT:])
        self._given = [(start, it) for start, it in self._given if it in profile.examples]
        self._given.append((window.start, example))
        return Change("labelled", 1, label, example.when, _mask(example), round(age_s, 3))

    def _undo(self, label: str | None) -> Change:
        profile = self._profile()
        fitting = [i for i, it in enumerate(profile.examples) if label in (None, it.label)]
        if not fitting:
            which = "" if label is None else f" {label!r}"
            raise LabelError(f"no window is labelled{which}", "`affectd label --list` shows which are")
        taken = profile.examples[fitting[-1]]
        self._keep(profile, [it for i, it in enumerate(profile.examples) if i != fitting[-1]])
        return Change("took_back", 1, taken.label, taken.when, _mask(taken))

    def _forget(self) -> Change:
        profile = self._profile()
        self._keep(profile, ())
        return Change("forgot", len(profile.examples))

    def _keep(self, profile: Profile, examples: Sequence[Example]) -> None:
        """In the file first: what cannot be kept is not used either."""
        assert self._path is not None
        write_profile(self._path, msgspec.structs.replace(profile, examples=tuple(examples)))
        self._running.choice = with_labels(self._running.choice, examples)
        if self._running.session is not None:
            self._running.session.learn(self._running.choice.shots)

    def _profile(self) -> Profile:
        if self._path is None:
            remedy = "set [person] profile, and record a baseline: `affectd baseline`"
            raise LabelError("labels are kept in the wearer's profile, and the daemon has no file for it", remedy)
        if not _is_there(self._path):
            reason = f"labels are kept in the wearer's profile, and {self._path} is not there yet"
            raise LabelError(reason, "record a baseline first: `affectd baseline`")
        profile = read_profile(self._path)
        check_subject(profile, self._subject, self._path)
        return profile

    def _newest_lived(self) -> tuple[Window, float]:
        """The newest window that was classified, and how long ago it ended in s."""
        if self._newest is None:
            remedy = "wait a minute or two; `affectd status` shows whether the sensors stream"
            raise LabelError("there is no window yet", remedy)
        now = self._clock() + self._ahead_s
        if self._lived is not None and now - self._lived[1].stop < STALE_S:
            return self._lived[0], now - self._lived[1].stop
        if now - self._newest.stop >= STALE_S:
            reason = f"the newest window ended {now - self._newest.stop:.0f} s ago, {STALE_S:g} s are the most"
            raise LabelError(reason, "`affectd status` says why nothing comes from the sensors")
        raise _not_classified(self._newest.abstained)

    def _check_free(self, window: Window, label: str, examples: Sequence[Example]) -> None:
        """Raise LabelError where an example shows some of the window's seconds."""
        window_s = self._running.choice.bundle.manifest.spec.window_s
        for start, example in reversed(self._given):
            wait_s = start + window_s - window.start
            if wait_s <= 0 or example not in examples:
                continue
            if example.label == label:
                remedy = f"label again in {math.ceil(wait_s)} s, if it lasts"
                raise LabelError(f"some of these {window_s:g} s are an example of {label!r} already", remedy)
            reason = f"some of these {window_s:g} s are labelled {example.label!r} already"
            undo = f"affectd label {shlex.quote(example.label)} --undo"
            raise LabelError(reason, f"take that back first (`{undo}`), or wait {math.ceil(wait_s)} s")

    def _embedding(self, window: Window) -> dict[str, tuple[float, ...]]:
        session = self._running.session
        found = {} if session is None else session.embeddings(window)
        if not found:  # a network that was gone over to since may not read it
            raise _not_classified("out_of_range")
        return {mask: tuple(map(float, x)) for mask, x in found.items()}

    def _answer(self, change: Change | None) -> LabelAnswer:
        choice = self._running.choice
        manifest, reason = choice.bundle.manifest, choice.labels.reason
        if manifest.space is None:
            reason = f"bundle {manifest.name}: {NO_SPACE}"
        return LabelAnswer(
            bundle=manifest.name,
            network=network_of(choice.bundle),
            labels=manifest.labels,
            in_use=choice.labels.in_use,
            reason=reason,
            kept=() if self._path is None or not _is_there(self._path) else _grouped(read_profile(self._path).examples),
            change=change,
        )


def _check_label(label: str, bundle: Bundle) -> None:
    """Raise LabelError for a label that the bundle does not have, and for a bundle that can learn none."""
    manifest = bundle.manifest
    if label not in manifest.labels:
        folded = {known.casefold(): known for known in manifest.labels}
        near = difflib.get_close_matches(label.casefold(), folded, n=1)
        meant = f" (did you mean {folded[near[0]]!r}?)" if near else ""
        reason = f"unknown label {label!r}{meant}"
        raise LabelError(reason, f"bundle {manifest.name} has {', '.join(manifest.labels)}")
    if manifest.space is None:
        reason, _, remedy = NO_SPACE.partition("; ")
        raise LabelError(f"bundle {manifest.name} cannot use labels: {reason}", remedy)


def _not_classified(why: str | None) -> LabelError:
    reason = f"nothing of the last {STALE_S:g} s was classified: {_WHY.get(why or '', why)}"
    return LabelError(reason, "see `affectd status`, and label again once it predicts")


def _grouped(examples: Sequence[Example]) -> tuple[Kept, ...]:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for example in examples:
        counts.setdefault((example.bundle, example.network), Counter())[example.label] += 1
    return tuple(Kept(bundle, network, dict(count)) for (bundle, network), count in counts.items())


def _mask(example: Example) -> str:
    """The window's own: the one with the most sensors."""
    return mask_name("+".join(example.embedding).split("+"))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # and reading it says what is wrong
