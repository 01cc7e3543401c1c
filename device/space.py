"""The emotion embedding space: where known windows of each class lie, how far a new one is from all of them, and where
the wearer's own lie.

Pure: knows no network and no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Known windows by mask (a member of ``device.bundle.MASKS``)."""

    prototypes: dict[str, tuple[tuple[float, ...], ...]]
    """(n_outputs, n) mean embedding of each class."""
    spread: dict[str, tuple[float, ...]]
    """(n,) standard deviation within classes."""
    max_distance: dict[str, float]
    """A window farther than this from every prototype is like none that is known."""

    def distance(self, embedding: npt.ArrayLike, mask: str) -> Floats:
        """(...) how far each of embeddings (..., n) lies from the nearest prototype."""
        return np.asarray(distances(embedding, self.prototypes[mask], self.spread[mask]).min(axis=-1))


def distances(embedding: npt.ArrayLike, prototypes: npt.ArrayLike, spread: npt.ArrayLike) -> Floats:
    """(..., n_outputs) from embeddings (..., n) to prototypes (n_outputs, n): root mean square of the differences in
    spreads (n,), so that 1 is as far as a usual window of the class itself."""
    x = np.asarray(embedding, float)[..., None, :]
    return np.asarray(np.sqrt((((x - np.asarray(prototypes, float)) / np.asarray(spread, float)) ** 2).mean(axis=-1)))


PRIOR_WINDOWS = 5.0
"""So many labelled windows of the wearer weigh as much as everybody else's prototype. A free choice."""
TRUST = 0.015
"""Share of the likelihood that a moved prototype is believed: dimensions go together and their sum says too much, and
the network knows most of it already. With 0.1 a few labels turned some people's answers over (train/LOG.md, run 5)."""


class Shots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The wearer's own labelled windows, as sums, so that what they move can be moved back.

    Classes by the mean of their examples are Snell et al. 2017 (arXiv 1703.05175).
    """

    count: dict[str, tuple[int, ...]] = {}
    """Per mask, (n_outputs,) windows of each class."""
    total: dict[str, tuple[tuple[float, ...], ...]] = {}
    """Per mask, (n_outputs, n) sum of their embeddings."""

    def with_shot(self, embedding: npt.ArrayLike, label: int, mask: str, n_outputs: int, sign: int = 1) -> Shots:
        """One window more; or less, with ``sign`` -1, to take it back."""
        x = np.asarray(embedding, float)
        count = np.array(self.count.get(mask, (0,) * n_outputs))
        total = np.array(self.total.get(mask, np.zeros((n_outputs, len(x)))))
        count[label] += sign
        total[label] += sign * x
        if count[label] < 0:
            raise ValueError(f"no window of class {label} under {mask} to take back")
        if count[label] == 0:
            total[label] = 0.0  # exactly: rounding must not stay behind
        counts, totals = tuple(count.tolist()), tuple(map(tuple, total.tolist()))
        return Shots(count={**self.count, mask: counts}, total={**self.total, mask: totals})


def moved(space: Space, shots: Shots, mask: str) -> Floats:
    """(n_outputs, n) prototypes, each drawn to the wearer's own windows of its class."""
    known = np.asarray(space.prototypes[mask], float)
    if mask not in shots.count:
        return known
    count = np.asarray(shots.count[mask], float)[:, None]
    return np.asarray((PRIOR_WINDOWS * known + np.asarray(shots.total[mask], float)) / (PRIOR_WINDOWS + count))


def evidence(embedding: npt.ArrayLike, space: Space, shots: Shots, mask: str) -> Floats:
    """(..., n_outputs) to be added to logits of embeddings (..., n): how much likelier each class is by the wearer's
    prototypes than by everybody's; zero without shots."""
    spread = space.spread[mask]
    before = distances(embedding, space.prototypes[mask], spread) ** 2
    after = distances(embedding, moved(space, shots, mask), spread) ** 2
    return np.asarray(TRUST * len(spread) / 2 * (before - after))


IN_USE = 60
"""So many of the wearer's newest labelled windows move prototypes: six times what outweighs everybody's, an hour of
signal, and after a change of electrodes or of season the old ones leave by themselves."""
KEPT = 100
"""So many are kept in all; the oldest goes first. More than ``IN_USE``, so that 40 can be taken back one by one and
those that they had displaced come back exactly."""


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One window that the wearer has labelled."""

    label: str
    """What it was, in the words of the bundle."""
    when: Annotated[datetime, msgspec.Meta(tz=True)]
    """When it was labelled."""
    bundle: str
    """Name of the bundle it was made with, for people."""
    network: str
    """sha256, hex, of that bundle's network: another one's space is another space."""
    embedding: dict[str, tuple[float, ...]]
    """By mask (a member of ``device.bundle.MASKS``): under the window's own and, where that has both sensors, under
    each one's alone."""

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what moves nothing or cannot be computed with."""
        if not self.embedding or not all(map(math.isfinite, chain.from_iterable(self.embedding.values()))):
            raise ValueError("embedding must be finite, under one mask or more")


def usable(examples: Sequence[Example], network: str, labels: Sequence[str], space: Space) -> list[Example]:
    """Those of one network whose labels and shapes are those of its space."""
    n = {mask: len(spread) for mask, spread in space.spread.items()}
    return [
        example
        for example in examples
        if example.network == network
        and example.label in labels
        and all(n.get(mask) == len(x) for mask, x in example.embedding.items())
    ]


def shots_of(examples: Sequence[Example], labels: Sequence[str]) -> Shots | None:
    """The sums of the newest ``IN_USE`` of some usable examples, None of none.

    Summed anew, in their order: the same examples give the same bits, whatever was labelled and taken back between.
    """
    shots = None
    for example in examples[-IN_USE:]:
        for mask, x in example.embedding.items():
            shots = (shots or Shots()).with_shot(x, labels.index(example.label), mask, len(labels))
    return shots
