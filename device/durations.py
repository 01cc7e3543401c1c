"""How long something took, each time: a number, a sum and a histogram.

It knows nothing of what took so long.
"""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""From a network on a desktop to one that a small machine barely carries, in s."""


@dataclass(slots=True)
class Durations:
    """Since its start."""

    n: int = 0
    sum_s: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    """Of those up to each bound and above the one before; at last those above all."""

    def add(self, seconds: float) -> None:
        """Count one."""
        self.n += 1
        self.sum_s += seconds
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += 1

    @contextlib.contextmanager
    def measured(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
        """Count what happens meanwhile, unless it fails."""
        begun = clock()
        yield
        self.add(clock() - begun)
