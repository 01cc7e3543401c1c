"""A pause for privacy: sensors are let go, nothing of them is recorded or predicted, until it ends or is ended.

It knows nothing of sockets, radios or sinks. What is paused stays so over a restart: only its end is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from device.errors import RequestError, StateError
from device.notification import Arrival, Notification
from firmware_bridge import whole_file
from firmware_bridge.private import make_folder

PAUSED, RESUMED = "affectd: paused", "affectd: resumed"
"""Events, in the recording and the sinks."""
REASON = "paused for privacy; `affectd resume` goes on"
LONGEST_S = 31 * 86400.0
"""Of a pause with an end; a longer one is one without."""
_MAX_BYTES = 4096

_log = logging.getLogger(__name__)


class Pausable(Protocol):
    """What a pause asks of a sensor's source; :class:`device.sources.ble.BleSource` is one."""

    async def pause(self, why: str = ...) -> None:
        """Stop the stream, let go of the link and stay away."""

    async def resume(self) -> None:
        """Go on."""


class PauseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for."""

    for_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)] | None = None
    """After so long it ends by itself; without it `affectd resume` ends it."""


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One that lasts; the file holds it."""

    since: Annotated[datetime, msgspec.Meta(tz=True)]
    until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """None: until somebody ends it."""

    def left_s(self, now: datetime) -> float | None:
        """How long it lasts yet; a wall clock that went back makes it no longer than it was to be."""
        if self.until is None:
            return None
        return (self.until - max(now, self.since)).total_seconds()


def read_pause(place: Path) -> Pause | None:
    """The pause in a file, None without one; raises StateError where it cannot be read."""
    try:
        with place.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Pause)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(place, "", f"cannot be read: {error.strerror}", "`affectd resume` ends the pause") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StateError(
            place, "", f"is no pause that this affectd knows: {error}", "`affectd resume` ends it"
        ) from error


class Pausing:
    """Begins and ends pauses; ``mark`` makes an event, ``now`` gives the wall time in UTC."""

    def __init__(
        self,
        place: Path,
        links: Iterable[Pausable],
        mark: Callable[[str], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._place = place
        self._links = tuple(links)
        self._mark = mark
        self._now = now
        self._changing = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self.pause: Pause | None = None
        """The one that lasts."""
        self.held_back = 0
        """Notifications that came all the same, and went nowhere."""

    def admits(self, arrival: Arrival) -> bool:
        """Whether an arrival may go on: in a pause what sensors send may not."""
        if self.pause is None or not isinstance(arrival, Notification):
            return True
        self.held_back += 1
        return False

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Go on with a pause that a restart has cut; one that cannot be read lasts until somebody ends it."""
        try:
            pause = read_pause(self._place)
        except StateError as error:
            _log.error("paused: %s", error)
            pause = Pause(self._now())
        if pause is not None and _lasts(pause.left_s(self._now())):
            await self._hold(pause)
        elif pause is not None:
            self._forget()
        try:
            yield
        finally:
            self._cancel_end()

    async def begin(self, for_s: float | None = None) -> str | None:
        """Pause, or give the pause that lasts another end; why it would not outlive a restart, None where it does."""
        async with self._changing:
            since = self._now() if self.pause is None else self.pause.since
            until = None if for_s is None else self._now() + timedelta(seconds=for_s)
            pause = Pause(since, until)
            await self._hold(pause)
            return self._keep(pause)

    async def end(self) -> bool:
        """Go on; whether there was a pause. Raises StateError where a restart would be paused."""
        async with self._changing:
            if self.pause is None:
                return False
            self._cancel_end()
            self.pause = None
            try:
                self._mark(RESUMED)
            finally:
                await asyncio.gather(*(link.resume() for link in self._links))
                self._forget()
            return True

    def to_json(self) -> dict[str, Any] | None:
        """The pause that lasts, for status; times in s."""
        if self.pause is None:
            return None
        left_s = self.pause.left_s(self._now())
        return {**msgspec.to_builtins(self.pause), "left_s": None if left_s is None else max(0.0, round(left_s, 3))}

    async def answer_pause(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answer to `affectd pause`."""
        try:
            asked = msgspec.convert(request, PauseRequest)
        except msgspec.ValidationError as error:
            raise RequestError(f"no pause: {error}", "say how long: `affectd pause --for 30m`") from error
        lost = await self.begin(asked.for_s)
        yield {"paused": self.to_json(), "outlives_restart": lost is None, "reason": lost}

    async def answer_resume(self, _: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answer to `affectd resume`."""
        yield {"resumed": await self.end()}

    async def _hold(self, pause: Pause) -> None:
        """First of all nothing goes on; then the sensors are let go."""
        is_new, self.pause = self.pause is None, pause
        self._cancel_end()
        if (left_s := pause.left_s(self._now())) is not None:
            self._ending = asyncio.create_task(self._end_in(left_s), name="end of the pause")
        if is_new:
            await asyncio.gather(*(link.pause(REASON) for link in self._links))
            self._mark(PAUSED)

    async def _end_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._ending = None  # it is not to cancel itself
        try:
            await self.end()
        except Exception as error:  # nobody asked, so nobody else hears it
            _log.error("the pause has ended: %s", error)

    def _cancel_end(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None

    def _keep(self, pause: Pause) -> str | None:
        try:
            make_folder(self._place.parent)
            whole_file.replace(self._place, msgspec.json.encode(pause))
        except OSError as error:
            reason = f"{self._place}: cannot be written: {error.strerror}; make [control] state writable"
            _log.error("a restart would end the pause: %s", reason)
            return reason
        return None

    def _forget(self) -> None:
        try:
            self._place.unlink(missing_ok=True)
        except OSError as error:
            remedy = "remove it, or a restart is paused again"
            raise StateError(self._place, "", f"cannot be removed: {error.strerror}", remedy) from error


def _lasts(left_s: float | None) -> bool:
    return left_s is None or left_s > 0
