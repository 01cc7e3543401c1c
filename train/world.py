"""Several processes as one: who of how many, and what they must agree on (torch.distributed, started by torchrun).

Knows nothing of training: gradients to average, work to share out, a point to wait at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long a process waits for the slowest at the end: folds differ, machines too."""


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int = 0
    size: int = 1

    def share(self, work: Sequence[T]) -> list[T]:
        """This process's part of the work; the parts of all are disjoint and cover it."""
        return list(work[self.rank :: self.size])

    def as_first(self, value: T) -> T:
        """What the first process has there, so that all do the same: clocks and disks differ."""
        if self.size == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, 0)
        return told[0]

    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size > 1:
            _average([p.grad for p in model.parameters() if p.grad is not None], self.size)

    def average_buffers(self, model: nn.Module) -> None:
        """Replace running statistics by their mean over the processes, so that all hold the same network."""
        if self.size > 1:
            _average([b for b in model.buffers() if b.is_floating_point()], self.size)

    def wait(self) -> None:
        """Until everyone is here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


@torch.no_grad()
def _average(tensors: Sequence[Tensor], size: int) -> None:
    """One message for all of them."""
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= size
    at = 0
    for tensor in tensors:
        tensor.copy_(flat[at : at + tensor.numel()].reshape(tensor.shape))
        at += tensor.numel()


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun's environment describes; alone where there is none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def one_thread() -> None:
    """What a worker among several begins with: each has a core of its own."""
    torch.set_num_threads(1)
