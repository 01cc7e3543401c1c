"""EmoBed's network: an absent sensor contributes nothing, each sensor alone is what its embedding says, its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from device.pipeline.spec import default_spec
from train.fit import load_checkpoint, network, save_checkpoint
from train.models.acc import MODALITIES
from train.models.ecg_transformer import TransformerConfig
from train.models.emobed import EmoBed, EmoBedConfig, fused

SHAPE = EmoBedConfig(ecg_times=2048, eda_times=256)
ENCODER = TransformerConfig(ecg_times=2048, stem=4, width=8, layers=1, heads=2, feed=8)
"""An ECG Transformer in place of the ECG stem."""
MASKS = {"both": (1.0, 1.0), "ecg": (1.0, 0.0), "eda": (0.0, 1.0), "none": (0.0, 0.0)}


def model(config: EmoBedConfig = SHAPE) -> EmoBed:
    """With BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = EmoBed(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)  # messages begin as nothing
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.normal_(module.bias, std=0.5)
    return net.eval()


def inputs(n: int = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, 1, SHAPE.ecg_times, generator=rng), torch.randn(n, 2, 1, SHAPE.eda_times, generator=rng)


def shown(name: str, n: int = 3) -> Tensor:
    return torch.tensor(MASKS[name]).expand(n, 2)


@settings(max_examples=20, deadline=None)
@given(
    absent=st.sampled_from(MODALITIES),
    scale=st.floats(0.01, 100.0),
    stages=st.sets(st.sampled_from([0, 1, 2])),
    encoder=st.sampled_from([None, ENCODER]),
)
@torch.no_grad()
def test_an_absent_sensor_contributes_nothing(
    absent: str, scale: float, stages: set[int], encoder: TransformerConfig | None
) -> None:
    net, (ecg, eda) = model(replace(SHAPE, stages=tuple(stages), encoder=encoder)), inputs()
    other = (ecg * scale + 1, eda) if absent == "ecg" else (ecg, eda * scale + 1)
    mask = shown("eda" if absent == "ecg" else "ecg")
    assert torch.equal(net(ecg, eda, mask), net(*other, mask))
    assert not torch.equal(net(ecg, eda, shown("both")), net(*other, shown("both")))


@torch.no_grad()
def test_one_sensor_s_place_does_not_depend_on_whether_the_other_is_hidden_or_cut_off() -> None:
    net, (ecg, eda) = model(), inputs()
    whole, alone = net.both_ways(ecg, eda, shown("both"))
    assert torch.equal(whole, net.embedding(ecg, eda, shown("both")))
    for name in MODALITIES:
        assert torch.equal(alone[name], net.embedding(ecg, eda, shown(name)))
        assert torch.equal(net.head(alone[name]), net(ecg, eda, shown(name)))
    together = net.embeddings(ecg, eda, shown("both"))
    assert not torch.allclose(together["ecg"], alone["ecg"])  # messages arrive
    assert torch.allclose(net.embedding(ecg, eda, shown("both")), (together["ecg"] + together["eda"]) / 2)


def test_the_mean_is_over_what_is_there() -> None:
    ecg, eda = torch.full((4, 2), 3.0), torch.full((4, 2), 5.0)
    mask = torch.tensor([MASKS["both"], MASKS["ecg"], MASKS["eda"], MASKS["none"]])
    assert fused({"ecg": ecg, "eda": eda}, mask)[:, 0].tolist() == [4.0, 3.0, 5.0, 0.0]
    assert fused({"eda": eda}, mask)[:, 0].tolist() == [5.0, 0.0, 5.0, 0.0]


@torch.no_grad()
def test_a_network_of_one_sensor_has_no_part_of_the_other() -> None:
    ecg, eda = inputs()
    for name in MODALITIES:
        net = model(replace(SHAPE, modalities=(name,)))
        assert list(net.projections) == list(net.branches) == [name]
        assert not len(net.connections)
        other = (ecg, eda + 1) if name == "ecg" else (ecg + 1, eda)
        assert torch.equal(net(ecg, eda, shown("both")), net(*other, shown(name)))


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(ValueError, match="one dimension or more"):
        EmoBedConfig(embedding=0)
    with pytest.raises(ValueError, match="stages"):
        EmoBedConfig(stages=(5,))
    with pytest.raises(ValueError, match="encoder of 2048 samples"):
        EmoBedConfig(encoder=ENCODER)


@pytest.mark.parametrize("encoder", [None, ENCODER])
def test_a_checkpoint_gives_the_same_network_back(tmp_path: Path, encoder: TransformerConfig | None) -> None:
    net, (ecg, eda) = model(replace(SHAPE, embedding=5, encoder=encoder)), inputs()
    save_checkpoint(tmp_path / "e.pt", net, default_spec(), ("a", "b"), {})
    back, content = load_checkpoint(tmp_path / "e.pt")
    assert type(back) is EmoBed
    assert back.config == net.config
    assert content["model"]["name"] == "emobed"
    assert torch.equal(back(ecg, eda, shown("both")), net(ecg, eda, shown("both")))
    assert type(network(back.config)) is EmoBed
