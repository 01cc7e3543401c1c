"""The attentive cross-modal network: its switches change the graph, an absent modality has no influence, its cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from device.pipeline.spec import SignalSpec, default_spec
from train.config import Inner
from train.errors import CheckpointError
from train.fit import FORMAT, load_checkpoint, network, save_checkpoint
from train.models.acc import ACC, DIRECTIONS, AccConfig, count_macs, count_parameters, example_inputs
from train.systems import ENCODING, NETWORKS, network_config
from train.windows import shortened

MAX_MACS = 10_000_000
"""Multiply-accumulates of one window that the design allows."""
MAX_INT8_BYTES = 128_000
MAX_ENCODING_INT8_BYTES = 512_000
"""The design's bar for the whole file; weights are one byte each."""
ATTENTION = ("gate", "channel", "none")
SHORT: dict[str, Any] = {"ecg_times": 2048, "eda_times": 256}
"""16 s of ECG, 64 s of EDA: what holds for these holds for longer ones, sooner."""


def model(config: AccConfig, seed: int = 0) -> ACC:
    """A network with BatchNorm statistics that are not the initial ones, ready to predict."""
    torch.manual_seed(seed)
    net = ACC(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # messages begin as nothing
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    return net.eval()


def inputs(config: AccConfig, n: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 1, config.ecg_times, generator=rng), torch.randn(n, 2, 1, config.eda_times, generator=rng)


def forward(net: ACC, ecg: Tensor, eda: Tensor, mask: tuple[float, float]) -> Tensor:
    with torch.no_grad():
        return net(ecg, eda, torch.tensor(mask).expand(len(ecg), 2))


def parts(net: ACC, ecg: Tensor, eda: Tensor) -> dict[str, Tensor]:
    """The head's input by name: ECG's window, EDA's window, EDA's window and context."""
    with torch.no_grad():
        found = net.features(ecg, eda, torch.ones(len(ecg), 2))
    return dict(zip(("ecg", "eda", "whole"), found.split(net.config.widths[-1], dim=1), strict=True))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5)


def candidate(window_s: float, context_s: float) -> AccConfig:
    """The default network for a candidate of the inner choice."""
    longest = msgspec.structs.replace(default_spec(), eda=msgspec.structs.replace(default_spec().eda, context_s=300.0))
    spec = shortened(longest, window_s, context_s)
    return AccConfig(ecg_times=spec.n_times("ecg"), eda_times=spec.n_times("eda"))


def test_the_default_is_the_largest_candidate() -> None:
    largest = max((candidate(*c) for c in Inner().candidates), key=lambda c: (c.ecg_times, c.eda_times))
    assert largest == AccConfig()


@pytest.mark.parametrize("system", NETWORKS)
def test_costs_stay_below_the_bars_for_every_candidate(system: str) -> None:
    for shape in Inner().candidates:
        net = network(network_config(system, candidate(*shape)))
        assert count_macs(net) <= MAX_MACS
        most = MAX_ENCODING_INT8_BYTES if system in ENCODING else MAX_INT8_BYTES
        assert count_parameters(net) <= most // 2  # the other half is the file's structure


@pytest.mark.parametrize("attention", ATTENTION)
def test_macs_are_those_of_a_hand_count(attention: Any) -> None:
    config = AccConfig(n_outputs=3, stem=4, widths=(3, 6), stages=(1,), attention=attention, hidden=5)
    ecg = 480 * 4 * 2 * 32 + 60 * 3 * 4 * 16 + 15 * 6 * 3 * 8
    eda = 300 * 3 * 2 * 8 + 75 * 6 * 3 * 8
    gate = {"gate": 15, "channel": 1, "none": 0}[attention]  # moments at which it is asked
    assert count_macs(ACC(config)) == ecg + eda + 2 * (15 + gate) * 6 * 6 + 3 * 6 * 5 + 5 * 3


@settings(max_examples=20)
@given(
    absent=st.sampled_from(["ecg", "eda"]),
    directions=st.sets(st.sampled_from(DIRECTIONS)),
    stages=st.sets(st.sampled_from([0, 1, 2])),
    attention=st.sampled_from(ATTENTION),
    scale=st.floats(0.01, 100.0),
)
def test_an_absent_modality_has_no_influence(
    absent: str, directions: set[str], stages: set[int], attention: Any, scale: float
) -> None:
    config = AccConfig(directions=tuple(sorted(directions)), stages=tuple(stages), attention=attention, **SHORT)
    net, (ecg, eda) = model(config), inputs(config)
    mask = (0.0, 1.0) if absent == "ecg" else (1.0, 0.0)
    other = (ecg * scale + 1.0, eda) if absent == "ecg" else (ecg, eda * scale + 1.0)
    assert same(forward(net, ecg, eda, mask), forward(net, *other, mask))
    assert not same(forward(net, ecg, eda, (1.0, 1.0)), forward(net, *other, (1.0, 1.0)))


def test_without_connections_each_branch_sees_its_own_input_only() -> None:
    net = model(AccConfig(stages=(), **SHORT))
    ecg, eda = inputs(net.config)
    before, after = parts(net, ecg, eda), parts(net, ecg + 1.0, eda)
    assert same(before["eda"], after["eda"]) and same(before["whole"], after["whole"])
    assert not same(before["ecg"], after["ecg"])


@pytest.mark.parametrize("attention", ATTENTION)
def test_messages_begin_as_nothing(attention: Any) -> None:
    """A fresh network is the one without connections, and a first step already makes them something."""
    torch.manual_seed(0)
    net = ACC(AccConfig(attention=attention, **SHORT))
    bare = ACC(AccConfig(stages=(), **SHORT))
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("connections")})
    ecg, eda = inputs(net.config, n=8)
    assert same(forward(net.eval(), ecg, eda, (1.0, 1.0)), forward(bare.eval(), ecg, eda, (1.0, 1.0)))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    nn.functional.cross_entropy(net.train()(ecg, eda, torch.ones(8, 2)), torch.arange(8) % 2).backward()
    optimizer.step()
    assert all((c.projection[1].weight != 0).all() for c in net.connections.values())


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize(("source", "target"), [("ecg", "eda"), ("eda", "ecg")])
def test_one_direction_reaches_the_other_branch_only(source: str, target: str, attention: Any) -> None:
    net = model(AccConfig(directions=(f"{source}->{target}",), stages=(1,), attention=attention, **SHORT))
    given = dict(zip(("ecg", "eda"), inputs(net.config), strict=True))
    before = parts(net, **given)
    assert not same(before[target], parts(net, **given | {source: given[source] + 1.0})[target])
    assert same(before[source], parts(net, **given | {target: given[target] + 1.0})[source])


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_message_to_eda_covers_the_window_and_not_the_context_before_it(attention: Any) -> None:
    net = model(AccConfig(widths=(4,), stages=(0,), directions=("ecg->eda",), attention=attention, **SHORT))
    ecg, eda = inputs(net.config)
    before, after = parts(net, ecg, eda), parts(net, ecg + 1.0, eda)
    assert not close(before["eda"], after["eda"])
    context = [64 * p["whole"] - 16 * p["eda"] for p in (before, after)]  # sums of 64 s and of the last 16 s
    assert torch.allclose(*context, atol=1e-4)


@pytest.mark.parametrize("attention", ATTENTION)
def test_what_eda_was_before_the_window_reaches_the_context_alone(attention: Any) -> None:
    """A message to ECG is made of the window's own time; one stage reads 2 s, so that 4 s before it are clear."""
    net = model(AccConfig(widths=(4,), stages=(0,), attention=attention, **SHORT))
    ecg, eda = inputs(net.config)
    other = eda.clone()
    other[..., : -(16 + 4) * 4] += 1.0
    before, after = parts(net, ecg, eda), parts(net, ecg, other)
    assert close(before["ecg"], after["ecg"]) and close(before["eda"], after["eda"])
    assert not close(before["whole"], after["whole"])


def test_messages_of_one_stage_are_made_before_any_is_added() -> None:
    """With both directions each branch gets what it gets with its own direction alone."""
    both = model(AccConfig(widths=(4,), stages=(0,), **SHORT))
    ecg, eda = inputs(both.config)
    for direction, target in (("ecg->eda", "eda"), ("eda->ecg", "ecg")):
        one = ACC(AccConfig(widths=(4,), stages=(0,), directions=(direction,), **SHORT)).eval()
        one.load_state_dict({k: v for k, v in both.state_dict().items() if k in one.state_dict()})
        assert close(parts(one, ecg, eda)[target], parts(both, ecg, eda)[target])


@pytest.mark.parametrize("stages", [(), (0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("attention", ATTENTION)
def test_switches_decide_which_modules_exist(stages: tuple[int, ...], attention: Any) -> None:
    net = ACC(AccConfig(stages=stages, attention=attention))
    assert len(net.connections) == len(stages) * len(DIRECTIONS)
    gates = [name for name, _ in net.named_parameters() if ".gate." in name]
    assert bool(gates) == bool(stages and attention != "none")


@pytest.mark.parametrize("own", ["ecg", "eda"])
def test_a_network_of_one_modality_looks_at_no_other(own: str) -> None:
    net = model(AccConfig(modalities=(own,), **SHORT))
    assert list(net.branches) == [own] and not net.connections
    ecg, eda = inputs(net.config)
    other = (ecg, eda + 1.0) if own == "ecg" else (ecg + 1.0, eda)
    alone = (1.0, 0.0) if own == "ecg" else (0.0, 1.0)
    assert same(forward(net, ecg, eda, (1.0, 1.0)), forward(net, *other, alone))


@pytest.mark.parametrize("attention", ["gate", "channel"])
def test_a_closed_gate_equals_no_connection(attention: Any) -> None:
    net = model(AccConfig(stages=(1,), attention=attention, **SHORT))
    for connection in net.connections.values():
        nn.init.zeros_(connection.gate.weight)
        nn.init.constant_(connection.gate.bias, -200.0)
    plain = model(AccConfig(stages=(), **SHORT))
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("connections.")})
    ecg, eda = inputs(net.config)
    assert torch.allclose(forward(net, ecg, eda, (1.0, 1.0)), forward(plain, ecg, eda, (1.0, 1.0)))


@pytest.mark.parametrize("attention", ["gate", "channel"])
def test_an_open_gate_equals_none(attention: Any) -> None:
    net = model(AccConfig(stages=(1,), attention=attention, **SHORT))
    for connection in net.connections.values():
        nn.init.zeros_(connection.gate.weight)
        nn.init.constant_(connection.gate.bias, 200.0)
    plain = ACC(AccConfig(stages=(1,), attention="none", **SHORT)).eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if ".gate." not in k})
    ecg, eda = inputs(net.config)
    assert torch.allclose(forward(net, ecg, eda, (1.0, 1.0)), forward(plain, ecg, eda, (1.0, 1.0)))


def test_only_layers_that_convert_to_int8() -> None:
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Linear, nn.Dropout)
    leaves = [m for m in ACC().modules() if not list(m.children())]
    assert all(isinstance(m, allowed) for m in leaves)
    assert all(m.kernel_size[0] == 1 for m in leaves if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages", (3,)),
        ("stages", (-1,)),
        ("directions", ("eda->eda",)),
        ("widths", ()),
        ("widths", (8, 8, 8, 8)),
        ("modalities", ()),
        ("modalities", ("ecg", "resp")),
        ("attention", "softmax"),
        ("attention", True),
        ("EDA", 239),
    ],
)
def test_contradictory_configurations_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        AccConfig(**{"eda_times" if field == "EDA" else field: value})


def test_a_configuration_survives_json_and_order_does_not_matter() -> None:
    config = AccConfig(stages=(2, 0, 2), modalities=("eda",), directions=(), attention="channel")
    assert config.stages == (0, 2)
    assert AccConfig(**msgspec.json.decode(msgspec.json.encode(config.as_dict()))) == config


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    config = AccConfig(widths=(8, 12), stages=(1,), directions=("ecg->eda",), attention="channel", **SHORT)
    net = model(config)
    path = tmp_path / "deep" / "net.pt"
    save_checkpoint(path, net, default_spec(calibrated=True), ("rest", "task"), {"seeds": [1]})
    again, content = load_checkpoint(path)
    ecg, eda = inputs(config)
    assert again.config == config
    assert not again.training
    assert same(forward(net, ecg, eda, (1.0, 0.0)), forward(again, ecg, eda, (1.0, 0.0)))
    assert msgspec.json.decode(content["spec"], type=SignalSpec) == default_spec(calibrated=True)
    assert (content["format"], content["labels"], content["provenance"]) == (FORMAT, ["rest", "task"], {"seeds": [1]})


def test_files_that_are_no_checkpoint_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        load_checkpoint(path)
    torch.save({"format": "another/1"}, path)
    with pytest.raises(CheckpointError, match="another/1"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [{"attention": True}, {"stem": 13}, {"depth": 3}])
def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path, net = tmp_path / "net.pt", ACC()
    save_checkpoint(path, net, default_spec(), ("rest", "task"), {})
    content = torch.load(path, weights_only=True)
    content["model"]["config"] |= change
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"net\.pt: file: .*; train anew"):
        load_checkpoint(path)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"format": FORMAT, "model": np.dtype, "state": print}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize("shape", Inner().candidates)
def test_example_inputs_fit_the_network(shape: tuple[float, float]) -> None:
    config = candidate(*shape)
    assert model(config)(*example_inputs(config, 3)).shape == (3, 2)
