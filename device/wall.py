"""The machine's clocks: the one that dates all that comes, and the wall clock, which may be wrong and then be set.

It knows nothing of who records or shows what it reads.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path

from device.notification import ClockReading

MOVED_NS = 100_000_000
"""A correction or a sleep that is shorter is not worth a word: windows start every few seconds."""
TRIES = 5
"""Readings of which the quickest counts: what comes between two clocks' readings reads as a step of the wall clock."""
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
"""Made by systemd-timesyncd once it has reached a server; there, too, where ProtectClock= forbids to ask the kernel."""
_MAX_ERROR_US = 16_000_000
"""The kernel's bound of the clock's error while nobody disciplines it, us. systemd's timedated draws the line here and
not at STA_UNSYNC, too, for chrony without ``rtcsync`` leaves that set."""
_SUSPENDED = getattr(time, "CLOCK_BOOTTIME", None)


class _Timex(ctypes.Structure):
    """The head of ``struct timex``, see adjtimex(2), with more room than the rest of it takes."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 512),
    ]


def host_ns() -> int:
    """The host's clock, ns: CLOCK_BOOTTIME, which counts a suspend, too; where there is none, the monotonic one."""
    return time.monotonic_ns() if _SUSPENDED is None else time.clock_gettime_ns(_SUSPENDED)


def host_s() -> float:
    """The same in s."""
    return host_ns() / 1e9


def asleep_ns() -> int:
    """How long the machine has been suspended since its start, ns; to some us."""
    awake_ns = time.monotonic_ns()  # first, so that it is never less than none
    return host_ns() - awake_ns


@functools.cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def kernel_error_us() -> int | None:
    """The kernel's bound of the wall clock's error, us; None where it does not say."""
    timex = _Timex(modes=0)  # only looks, which needs no privilege
    adjtimex = getattr(_c_library(), "adjtimex", None)
    if adjtimex is None or adjtimex(ctypes.byref(timex)) < 0:
        return None
    return int(timex.maxerror)


def is_synchronised(error_us: Callable[[], int | None] = kernel_error_us, flag: Path = SYNCHRONISED) -> bool:
    """Whether the wall clock is known to be right: by the kernel, whoever sets it, or by systemd-timesyncd."""
    error = error_us()
    return (error is not None and error < _MAX_ERROR_US) or flag.exists()


def read_clocks(
    host: Callable[[], int] = host_ns,
    wall: Callable[[], int] = time.time_ns,
    asleep: Callable[[], int] = asleep_ns,
    synchronised: Callable[[], bool] = is_synchronised,
) -> ClockReading:
    """All of them at one moment: the wall clock between two looks at the host's, the quickest of some such readings."""
    readings, known = [], synchronised()  # first: what was synchronised by then was right when it was read
    for _ in range(TRIES):
        before, wall_ns, after = host(), wall(), host()
        readings.append((after - before, (before + after) // 2, wall_ns))
    _, middle_ns, wall_ns = min(readings)
    return ClockReading(middle_ns, wall_ns, asleep(), known)


def dating(readings: Iterable[ClockReading]) -> ClockReading:
    """The reading that dates a whole run: the latest of a synchronised clock, else the latest.

    One for all, so that what lies between two moments is what the host's clock has counted.
    """
    return max(readings, key=attrgetter("is_synchronised", "host_ns"))


class WallWatch:
    """Readings in; which of them say something new. Compared with the one that was told last, not with the one before,
    so that a slow drift is told, too.
    """

    def __init__(self, begin: ClockReading) -> None:
        self.told = begin

    def push(self, reading: ClockReading) -> bool:
        """Whether the wall clock was set, is synchronised now or no longer, or the machine has slept."""
        new = (
            abs(set_by_ns(self.told, reading)) > MOVED_NS
            or reading.asleep_ns - self.told.asleep_ns > MOVED_NS
            or reading.is_synchronised != self.told.is_synchronised
        )
        if new:
            self.told = reading
        return new


def set_by_ns(before: ClockReading, now: ClockReading) -> int:
    """How far ahead the wall clock was set between two readings, ns."""
    return now.wall_ns - before.wall_of(now.host_ns)
