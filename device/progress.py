"""Whether the daemon gets on: what has come from the sensors is worked through, and what was written reaches the disk.

Pure: knows nothing of sensors, disks or who asks; the clock comes by argument.
"""

from __future__ import annotations

import time
from collections.abc import Callable

DISK_S = 60.0
"""How long a disk may take over a sync: an SD card that tidies itself up takes tens of seconds."""


class Progress:
    """Counts what comes and what is done; ``sync_every_s`` tells how often the disk is asked to sync.

    Silence is no lack of progress: with nothing to do nothing is behind.
    """

    def __init__(self, sync_every_s: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sync_every_s = sync_every_s
        self._synced = clock()
        self._arrived = self._done = self._mark = 0

    def arrived(self) -> None:
        """Something has come."""
        self._arrived += 1

    def done(self) -> None:
        """The oldest that was not done is recorded and worked through."""
        self._done += 1

    def syncing(self, sync: Callable[[], None]) -> Callable[[], None]:
        """``sync``, which may run in any thread, watched: one that fails has still come back."""

        def watched() -> None:
            try:
                sync()
            finally:
                self._synced = self._clock()

        return watched

    def made(self) -> bool:
        """Whether all is done that had come when this was last true, and the disk answers.

        Who works slowly falls behind by the time between two answers at most; who is stuck never gets there.
        """
        if self._done < self._mark or self._clock() - self._synced > self._sync_every_s() + DISK_S:
            return False
        self._mark = self._arrived
        return True
