"""Quantization-aware training: a network learns to say, rounded to eight bits, what it said in float.

Fake quantization in plain torch (Jacob et al. 2018, arXiv 1712.05877): weights of convolutions and linear layers in one
step per output channel, what these layers read in one step per tensor, rounded forward and let through backward. It
needs no labels: the float network is its own teacher (Hinton et al. 2015, arXiv 1503.02531). The float weights are what
comes out; the converter finds the ranges anew. BatchNorm stays as it is: it folds into a channel's step.

Knows nothing of what a network is for, nor of files.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from quantize.calibrate import Floats32

LEVELS = 127
"""Of a weight, to each side: TFLite's int8 weights leave -128 out."""
LOW, HIGH = -128, 127
N_SAID = 6
"""Epochs at most that are told of."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """How it learns."""

    epochs: int = 6
    least_steps: int = 300
    """Where these epochs are fewer steps, because there are few windows, more of them."""
    batch: int = 32
    lr: float = 1e-3
    seed: int = 0


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to: error of the rounded network, of its teacher's outputs' variance, before and after."""

    before: float
    after: float
    windows: int
    epochs: int


class RoundedWeight(nn.Module):
    """A weight as int8 holds it: symmetric, one step per output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        """The same shape; the gradient passes."""
        flat = weight.detach().abs().flatten(1).amax(1)
        step = (flat / LEVELS).clamp_min(torch.finfo(weight.dtype).tiny)
        zero = torch.zeros_like(step, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, step, zero, 0, -LEVELS, LEVELS)


class RoundedInput:
    """What a layer reads as int8 holds it: one step over the range that it has met; a forward pre-hook."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0
        self.watches = True
        """Whether it still widens its range, and rounds nothing."""

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The arguments of the layer, the first of them rounded."""
        x, *rest = given
        if self.watches:
            self.low, self.high = min(self.low, float(x.detach().min())), max(self.high, float(x.detach().max()))
            return given
        step = max((self.high - self.low) / (HIGH - LOW), torch.finfo(x.dtype).tiny)
        zero = int(np.clip(round(LOW - self.low / step), LOW, HIGH))
        return (torch.fake_quantize_per_tensor_affine(x, step, zero, LOW, HIGH), *rest)


@contextmanager
def rounded(network: nn.Module) -> Iterator[Sequence[RoundedInput]]:
    """The network with every layer rounded, until the end of the block; then the float weights are back, as learned."""
    layers = [module for module in network.modules() if isinstance(module, LAYERS)]
    inputs = [RoundedInput() for _ in layers]
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in zip(layers, inputs, strict=True)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def tune(
    network: nn.Module,
    windows: Mapping[str, Floats32],
    tuning: Tuning | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Teach a network in place; ``windows`` are its arguments in their order, (n, ...).

    It stays in eval mode: what it says without rounding changes little. The weights of the best epoch are kept, those
    that it had where none is better.
    """
    tuning = tuning or Tuning()
    arrays = [torch.from_numpy(np.ascontiguousarray(array)) for array in windows.values()]
    teacher = copy.deepcopy(network).eval()
    n, rng = len(arrays[0]), np.random.default_rng(tuning.seed)
    wanted = _said(teacher, arrays)
    spread = [said.var() + 1e-6 for said in wanted]

    def loss_of(chosen: Tensor | slice) -> Tensor:
        told = _outputs(network(*(array[chosen] for array in arrays)))
        parts = [((a - b[chosen]) ** 2).mean() / s for a, b, s in zip(told, wanted, spread, strict=True)]
        return torch.stack(parts).sum()

    network.eval()
    with rounded(network) as inputs:
        _said(network, arrays)
        for hook in inputs:
            hook.watches = False
        before = after = _mean_loss(loss_of, n, tuning.batch)
        best = copy.deepcopy(network.state_dict())
        optimizer = torch.optim.Adam(network.parameters(), tuning.lr)
        batches = max(1, n // tuning.batch)
        epochs = max(tuning.epochs, -(-tuning.least_steps // batches))
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        for epoch in range(epochs):
            for chosen in np.array_split(rng.permutation(n), batches):
                optimizer.zero_grad()
                loss = loss_of(torch.from_numpy(chosen))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            slower.step()
            error = _mean_loss(loss_of, n, tuning.batch)
            if (epoch + 1) % -(-epochs // N_SAID) == 0:
                say(f"learn to be rounded: {epoch + 1}/{epochs}, error {error:.2g} of {before:.2g}")
            if error < after:
                after, best = error, copy.deepcopy(network.state_dict())
        network.load_state_dict(best)
    return Tuned(before=before, after=after, windows=n, epochs=epochs)


def _mean_loss(loss_of: Callable[[Tensor | slice], Tensor], n: int, batch: int) -> float:
    with torch.no_grad():
        return float(np.mean([float(loss_of(slice(k, k + batch))) for k in range(0, n, batch)]))


def _said(network: nn.Module, arrays: Sequence[Tensor], batch: int = 64) -> list[Tensor]:
    """Every output for all windows."""
    starts = range(0, len(arrays[0]), batch)
    with torch.no_grad():
        parts = [_outputs(network(*(array[k : k + batch] for array in arrays))) for k in starts]
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def _outputs(said: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (said,) if isinstance(said, Tensor) else said
