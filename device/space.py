"""The emotion embedding space: where known windows of each class lie, and how far a new one is from all of them.

Pure: knows no network and no file.
"""

from __future__ import annotations

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

    def distance(self, embedding: npt.ArrayLike, mask: str) -> float:
        """How far an embedding (n,) lies from the nearest prototype."""
        return float(distances(embedding, self.prototypes[mask], self.spread[mask]).min())


def distances(embedding: npt.ArrayLike, prototypes: npt.ArrayLike, spread: npt.ArrayLike) -> Floats:
    """(..., n_outputs) from embeddings (..., n) to prototypes (n_outputs, n): root mean square of the differences in
    spreads (n,), so that 1 is as far as a usual window of the class itself."""
    x = np.asarray(embedding, float)[..., None, :]
    return np.asarray(np.sqrt((((x - np.asarray(prototypes, float)) / np.asarray(spread, float)) ** 2).mean(axis=-1)))
