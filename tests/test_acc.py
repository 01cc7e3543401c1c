"""The attentive cross-modal network: its switches change the graph, an absent modality has no influence, its cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from device.pipeline.spec import SignalSpec, default_spec
from train.errors import CheckpointError
from train.fit import FORMAT, load_checkpoint, save_checkpoint
from train.models.acc import ACC, DIRECTIONS, N_TIMES, AccConfig, count_macs, count_parameters, example_inputs

MAX_MACS = 4_000_000
"""Multiply-accumulates of one window that the design allows."""
MAX_INT8_BYTES = 128_000
"""The design's bar for the whole file; weights are one byte each."""


def model(config: AccConfig | None = None, seed: int = 0) -> ACC:
    """A network with BatchNorm statistics that are not the initial ones, ready to predict."""
    torch.manual_seed(seed)
    net = ACC(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.5)
    return net.eval()


def inputs(n: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 1, N_TIMES["ecg"], generator=rng), torch.randn(n, 2, 1, N_TIMES["eda"], generator=rng)


def forward(net: ACC, ecg: Tensor, eda: Tensor, mask: tuple[float, float]) -> Tensor:
    with torch.no_grad():
        return net(ecg, eda, torch.tensor(mask).expand(len(ecg), 2))


def test_input_lengths_are_the_specs() -> None:
    spec = default_spec()
    assert {m: spec.n_times(m) for m in N_TIMES} == N_TIMES


def test_costs_stay_below_the_bars() -> None:
    net = ACC()
    assert count_macs(net) <= MAX_MACS
    assert count_parameters(net) <= MAX_INT8_BYTES // 2


def test_macs_are_those_of_a_hand_count() -> None:
    config = AccConfig(stem=4, widths=(3,), stages=(), hidden=5)
    stem, first, eda = 960 * 4 * 2 * 16, 240 * 3 * 4 * 8, 240 * 3 * 2 * 7
    assert count_macs(ACC(config)) == stem + first + eda + 6 * 5 + 5 * 2


@settings(max_examples=20, deadline=None)
@given(
    absent=st.sampled_from(["ecg", "eda"]),
    directions=st.sets(st.sampled_from(DIRECTIONS)),
    attention=st.booleans(),
    scale=st.floats(0.01, 100.0),
)
def test_an_absent_modality_has_no_influence(absent: str, directions: set[str], attention: bool, scale: float) -> None:
    net = model(AccConfig(directions=tuple(sorted(directions)), attention=attention))
    ecg, eda = inputs()
    mask = (0.0, 1.0) if absent == "ecg" else (1.0, 0.0)
    other = (ecg * scale + 1.0, eda) if absent == "ecg" else (ecg, eda * scale + 1.0)
    assert torch.equal(forward(net, ecg, eda, mask), forward(net, *other, mask))
    assert not torch.equal(forward(net, ecg, eda, (1.0, 1.0)), forward(net, *other, (1.0, 1.0)))


def test_without_connections_each_branch_sees_its_own_input_only() -> None:
    net = model(AccConfig(stages=()))
    width = net.config.widths[-1]
    ecg, eda = inputs()
    both = net.features(ecg, eda, torch.ones(2, 2))
    other = net.features(ecg + 1.0, eda, torch.ones(2, 2))
    assert torch.equal(both[:, width:], other[:, width:])
    assert not torch.equal(both[:, :width], other[:, :width])


@pytest.mark.parametrize(("direction", "moved"), [("ecg->eda", "eda"), ("eda->ecg", "ecg")])
def test_one_direction_reaches_the_other_branch_only(direction: str, moved: str) -> None:
    net = model(AccConfig(directions=(direction,), stages=(1,)))
    half = {"ecg": slice(0, net.config.widths[-1]), "eda": slice(net.config.widths[-1], None)}
    ecg, eda = inputs()
    before = net.features(ecg, eda, torch.ones(2, 2))
    source = (ecg + 1.0, eda) if moved == "eda" else (ecg, eda + 1.0)
    target = (ecg, eda + 1.0) if moved == "eda" else (ecg + 1.0, eda)
    assert not torch.equal(before[:, half[moved]], net.features(*source, torch.ones(2, 2))[:, half[moved]])
    still = "ecg" if moved == "eda" else "eda"
    assert torch.equal(before[:, half[still]], net.features(*target, torch.ones(2, 2))[:, half[still]])


@pytest.mark.parametrize("stages", [(), (0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("attention", [True, False])
def test_switches_decide_which_modules_exist(stages: tuple[int, ...], attention: bool) -> None:
    net = ACC(AccConfig(stages=stages, attention=attention))
    assert len(net.connections) == len(stages) * len(DIRECTIONS)
    gates = [name for name, _ in net.named_parameters() if ".gate." in name]
    assert bool(gates) == bool(stages and attention)


def test_a_closed_gate_equals_no_connection() -> None:
    net = model(AccConfig(stages=(1,)))
    for connection in net.connections.values():
        nn.init.zeros_(connection.gate.weight)
        nn.init.constant_(connection.gate.bias, -200.0)
    plain = model(AccConfig(stages=()))
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("connections.")})
    ecg, eda = inputs()
    assert torch.allclose(forward(net, ecg, eda, (1.0, 1.0)), forward(plain, ecg, eda, (1.0, 1.0)))


def test_only_layers_that_convert_to_int8() -> None:
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Linear, nn.Dropout)
    leaves = [m for m in ACC().modules() if not list(m.children())]
    assert all(isinstance(m, allowed) for m in leaves)
    assert all(m.kernel_size[0] == 1 for m in leaves if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("field", "value"),
    [("stages", (3,)), ("stages", (-1,)), ("directions", ("eda->eda",)), ("widths", ()), ("widths", (8, 8, 8, 8))],
)
def test_contradictory_configurations_are_refused(field: str, value: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=field):
        AccConfig(**{field: value})


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    config = AccConfig(widths=(8, 12), stages=(1,), directions=("ecg->eda",), attention=False)
    net = model(config)
    path = tmp_path / "deep" / "net.pt"
    save_checkpoint(path, net, default_spec(calibrated=True), ("rest", "task"), {"seeds": [1]})
    again, content = load_checkpoint(path)
    ecg, eda = inputs()
    assert again.config == config
    assert not again.training
    assert torch.equal(forward(net, ecg, eda, (1.0, 0.0)), forward(again, ecg, eda, (1.0, 0.0)))
    assert spec_of(content["spec"]) == default_spec(calibrated=True)
    assert (content["format"], content["labels"], content["provenance"]) == (FORMAT, ["rest", "task"], {"seeds": [1]})


def spec_of(data: bytes) -> SignalSpec:
    import msgspec

    return msgspec.json.decode(data, type=SignalSpec)


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


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"format": FORMAT, "model": np.dtype, "state": print}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_example_inputs_fit_the_network() -> None:
    assert model()(*example_inputs(3)).shape == (3, 2)
