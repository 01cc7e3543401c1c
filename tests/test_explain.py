"""What speaks for an answer: the parts add up to the whole, come from what was shown, and are drawn where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_people import SMALL
from tests_support import reference_data
from torch import nn

from device.pipeline.spec import default_spec
from train.cli import command
from train.explain import Explanation, explain
from train.fit import Network, network, save_checkpoint
from train.models.acc import AccConfig
from train.models.emobed import EmoBedConfig
from train.report.explanation import drawing

SHAPE = {"eda_times": 240, "stem": 4, "widths": (4, 6, 8), "hidden": 8}
CONFIGS = (AccConfig(**SHAPE), EmoBedConfig(**SHAPE), replace(SMALL, eda_times=240))
RNG = np.random.default_rng(0)
ECG, EDA = (RNG.standard_normal((2, n)).astype(np.float32) for n in (7680, 240))


def made(config: AccConfig) -> Network:
    """With BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = network(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("shown", [("ecg", "eda"), ("ecg",)])
def test_the_parts_add_up_to_what_the_answer_gains(config: AccConfig, shown: tuple[str, ...]) -> None:
    arrays = {"ecg": ECG, "eda": EDA}
    found = explain(made(config), {m: arrays[m] for m in shown})
    assert set(found.parts) == {*shown} & {*config.modalities} == set(found.arrays)
    assert sum(p.sum() for p in found.parts.values()) == pytest.approx(found.total, abs=0.02 * abs(found.total) + 1e-3)
    assert found.probability.sum() == pytest.approx(1) and found.answer == found.probability.argmax()


def test_of_a_straight_line_every_part_is_its_own_weight() -> None:
    class Straight(nn.Module):
        config = AccConfig(**SHAPE)

        def forward(self, ecg: torch.Tensor, eda: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            first = 2.0 * ecg[:, 0, 0, 100] - 3.0 * eda[:, 1, 0, 7]
            return torch.stack([torch.zeros_like(first), first], dim=1)

    ecg, eda = np.zeros((2, 7680), np.float32), np.zeros((2, 240), np.float32)
    ecg[0, 100], eda[1, 7] = 5.0, 1.0
    found = explain(Straight(), {"ecg": ecg, "eda": eda})  # type: ignore[arg-type]
    assert (found.answer, found.total) == (1, pytest.approx(7.0))
    assert found.parts["ecg"][0, 100] == pytest.approx(10.0) and found.parts["eda"][1, 7] == pytest.approx(-3.0)
    assert np.abs(found.parts["ecg"]).sum() == pytest.approx(10.0)


def test_a_transformer_also_says_what_cls_looks_at() -> None:
    found = explain(made(CONFIGS[2]), {"ecg": ECG})
    assert found.attended is not None and found.attended.shape == (SMALL.layers, SMALL.n_tokens)
    assert (found.attended >= 0).all() and (found.attended.sum(axis=1) <= 1 + 1e-6).all()
    assert explain(made(CONFIGS[0]), {"ecg": ECG}).attended is None


def test_the_picture_has_a_row_for_everything_there_is() -> None:
    parts = {"ecg": np.ones((2, 7680)), "eda": -np.ones((2, 240))}
    found = Explanation({"ecg": ECG, "eda": EDA}, np.array([0.2, 0.8]), 1, parts, 1.0, np.full((2, 120), 1 / 120))
    text = drawing(found, default_spec(), ("rest", "stress"), "somebody")
    assert all(word in text for word in ("rest 20%, stress 80%", "blue speaks for stress", "phasic EDA", "layer 2"))
    assert text == drawing(found, default_spec(), ("rest", "stress"), "somebody")
    alone = replace(found, arrays={"ecg": ECG}, attended=None)
    assert "EDA" not in drawing(alone, default_spec(), ("rest", "stress"), "somebody")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "net.pt"
    spec = default_spec()
    config = replace(SMALL, ecg_times=spec.n_times("ecg"), eda_times=spec.n_times("eda"))
    save_checkpoint(path, made(config), spec, ("rest", "stress"), {})
    return path


def test_the_command_draws_a_real_recording(checkpoint: Path, tmp_path: Path) -> None:
    root = reference_data() / "neurokit"
    asked = ["explain", str(checkpoint), "--data", str(root), "--subject", "bio_resting_5min_100hz", "--at", "60"]
    result = CliRunner().invoke(command, [*asked, "-o", str(tmp_path / "one.svg")], catch_exceptions=False)
    assert result.exit_code == 0 and "neurokit bio_resting_5min_100hz, 60 to 120 s" in result.output
    assert (tmp_path / "one.svg").read_text().startswith("<svg")
    late = CliRunner().invoke(command, [*asked[:-1], "9999", "-o", str(tmp_path / "two.svg")])
    assert "has no good window of ecg from 9999 s on" in str(late.exception) and not (tmp_path / "two.svg").exists()
    asked[5] = "nobody"
    assert CliRunner().invoke(command, [*asked, "-o", str(tmp_path / "two.svg")]).exit_code == 2
