"""Quantization-aware training: the rounding is TFLite's, and a network learns to say through it what it said before."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from test_quantize import TRAINED, fit, make_pool
from torch import nn
from torch.nn.utils import parametrize

from device.bundle import MASKS, TensorSpec
from device.inference import dequantize, quantize
from quantize.export import nchw
from quantize.qat import RoundedInput, RoundedWeight, Tuning, rounded, tune
from train.models.acc import ACC


def test_a_weight_is_rounded_as_tflite_stores_it() -> None:
    weight = torch.randn(5, 3, 1, 7) * torch.tensor([1e-3, 1, 1, 50, 0])[:, None, None, None]
    told = RoundedWeight()(weight)
    for channel, row in zip(weight.numpy(), told.numpy(), strict=True):
        step = np.abs(channel).max() / 127 or 1.0
        np.testing.assert_allclose(row, np.clip(np.rint(channel / step), -127, 127) * step, rtol=1e-5, atol=1e-9)


def test_an_input_is_rounded_as_the_device_stores_it() -> None:
    hook, layer = RoundedInput(), nn.Identity()
    x = torch.linspace(-0.7, 3.1, 500)
    assert hook(layer, (x,))[0] is x
    hook.watches = False
    step = (hook.high - hook.low) / 255
    tensor = TensorSpec(name="x", shape=(1,), dtype="int8", scale=step, zero_point=round(-128 - hook.low / step))
    wide = torch.cat([x, torch.tensor([-9.0, 9.0])])  # beyond what it has met it saturates
    (told,) = hook(layer, (wide,))
    np.testing.assert_allclose(told.numpy(), dequantize(quantize(wide.numpy(), tensor), tensor), atol=1e-6)


def test_the_gradient_passes_and_the_float_weights_come_back() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, (1, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(248, 3))
    before = copy.deepcopy(network.state_dict())
    x = torch.randn(8, 2, 1, 64)
    plain = network(x)
    with rounded(network) as inputs:
        network(x)
        for hook in inputs:
            hook.watches = False
        said = network(x)
        assert 0 < (said - plain).abs().max() < 0.1 and len(inputs) == 2
        said.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    assert not any(parametrize.is_parametrized(module) for module in network.modules())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    torch.testing.assert_close(network(x), plain)


@pytest.fixture(scope="module")
def trained() -> tuple[ACC, dict[str, np.ndarray]]:
    pool = make_pool(TRAINED)
    parts = [pool.inputs(np.arange(0, len(pool), 2), mask) for mask in MASKS]
    return fit(pool), nchw({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_a_network_learns_to_say_rounded_what_it_said(trained: tuple[ACC, dict[str, np.ndarray]]) -> None:
    network, windows = lopsided(trained[0]), trained[1]
    heard: list[str] = []
    said = tune(network, windows, say=heard.append)
    assert said.after < 0.85 * said.before and said.windows == len(windows["mask"]) and 2 <= len(heard) <= 6
    with torch.no_grad():
        arrays = [torch.from_numpy(array) for array in windows.values()]
        first, second = trained[0](*arrays), network(*arrays)
    assert (first.argmax(1) == second.argmax(1)).all()  # in float it is still what it was
    assert (first - second).square().mean() < 1e-2 * first.var()


def lopsided(network: ACC) -> ACC:
    """The same in float; in eight bits one hidden unit's range, 200 times as wide, makes every other's step coarse."""
    made = copy.deepcopy(network)
    before, last = [module for module in made.modules() if isinstance(module, nn.Linear)][-2:]
    with torch.no_grad():
        before.weight[0] *= 200
        before.bias[0] *= 200
        last.weight[:, 0] /= 200
    return made


def test_where_nothing_is_better_it_stays_what_it_was(trained: tuple[ACC, dict[str, np.ndarray]]) -> None:
    network = copy.deepcopy(trained[0])
    said = tune(network, trained[1], Tuning(epochs=1, lr=10.0))
    assert said.after == said.before
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained[0].state_dict().items())


def test_the_same_seed_gives_the_same_network(trained: tuple[ACC, dict[str, np.ndarray]]) -> None:
    made = [copy.deepcopy(trained[0]) for _ in range(3)]
    said = [tune(network, trained[1], Tuning(epochs=1, seed=k // 2)) for k, network in enumerate(made)]
    assert said[0] == said[1] != said[2]
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))
