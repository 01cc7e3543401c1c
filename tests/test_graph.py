"""What will not survive eight bits is named before the conversion, with the line of the model that makes it."""

from __future__ import annotations

import inspect
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_bench import made
from torch import Tensor, nn

from quantize.errors import GraphError
from quantize.export import export_onnx, quiet_exporter
from quantize.graph import KNOWN, SURVIVE, Finding, check_graph, findings
from train.models.acc import AccConfig
from train.models.ecg_transformer import TransformerConfig
from train.models.emobed import EmoBedConfig

SMALL = TransformerConfig(eda_times=240, stem=4, width=16, layers=1, heads=2, feed=16, hidden=8)


class Trapped(nn.Module):
    """A Transformer as one would write it anywhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 4, stride=4)
        self.query = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).transpose(1, 2)
        q = self.query(h)
        weight = torch.softmax(q @ h.transpose(1, 2) / 2.8, dim=-1)
        h = self.norm(weight @ h)
        h = nn.functional.gelu(h)
        return h.mean(dim=1)


@pytest.fixture(scope="module")
def trapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "trapped.onnx"
    with quiet_exporter():
        program = torch.onnx.export(Trapped().eval(), (torch.zeros(1, 2, 64),), dynamo=True, opset_version=18)
    assert program is not None
    program.save(str(path))
    return path


def line_of(text: str) -> str:
    """Of this file: where the trap stands."""
    lines, begin = inspect.getsourcelines(Trapped)
    return f"{__file__}:{begin + next(k for k, line in enumerate(lines) if text in line)}"


def test_every_trap_is_named_with_the_line_that_makes_it(trapped: Path) -> None:
    found = findings(onnx.load(str(trapped)))
    wanted = {
        ("slow", "Conv"): "self.stem(x)", ("wrong", "MatMul"): "self.query(h)", ("breaks", "Div"): "torch.softmax",
        ("wrong", "LayerNormalization"): "self.norm(", ("breaks", "Erf"): "functional.gelu",
        ("wrong", "Div"): "torch.softmax",
    }  # fmt: skip
    there: dict[tuple[str, str], Finding] = {(f.severity, f.operator): f for f in reversed(found)}
    assert set(there) == set(wanted)
    for key, text in wanted.items():
        assert there[key].where.startswith(line_of(text) + ", `"), there[key]
    assert "(module stem)" in there["slow", "Conv"].where


def test_what_stops_or_falsifies_the_conversion_is_an_error_with_all_of_it(trapped: Path) -> None:
    with pytest.raises(GraphError, match=r"and 5 more") as caught:
        check_graph(trapped)
    severities = [line.split(":")[0] for line in caught.value.findings]
    assert severities == ["wrong", "wrong", "breaks", "wrong", "wrong", "breaks"]
    assert all("; " in line and line_of("")[:-3].rpartition(":")[0] in line for line in caught.value.findings)


@pytest.mark.parametrize(
    "config",
    [
        AccConfig(eda_times=240, stem=4, widths=(4, 6, 8), hidden=8),
        EmoBedConfig(eda_times=240, stem=4, widths=(4, 6, 8), hidden=8, embedding=6, encoder=SMALL),
    ],
    ids=["acc", "emobed with a Transformer"],
)
def test_nothing_is_said_of_our_own_networks(tmp_path: Path, config: AccConfig) -> None:
    assert check_graph(export_onnx(made(tmp_path, config), tmp_path / "net.onnx")) == []


def graph(op: str, dims: list[int | str]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in "xy")
    node = helper.make_node(op, ["x"], ["y"], name="it")
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)])


def test_free_axes_and_operators_nobody_knows_are_named() -> None:
    (free,) = findings(graph("Relu", ["batch", 4]))
    assert (free.severity, "x has free axes (batch)" in free.reason) == ("breaks", True)
    (strange,) = findings(graph("Softsign", [1, 4]))
    assert str(strange) == f"untested: Softsign (it): {strange.reason}; {strange.remedy}"
    (known,) = findings(graph("Exp", [1, 4]))
    assert known.severity == "wrong"
    assert not SURVIVE & set(KNOWN)
