"""Graphs of any 1-D network, written anew: every step is equal to the one before and does what it is for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from test_graph import Trapped
from torch import Tensor, nn

from quantize.export import quiet_exporter
from quantize.graph import findings
from quantize.rewrite import (
    STEPS,
    TOLERANCE,
    difference,
    divide_by_multiplying,
    flat_linears,
    fold_batch_norm,
    rewritten,
    scale_before_product,
    two_dimensional,
)


def exported(network: nn.Module, *shape: int) -> ModelProto:
    """As torch writes it: batch 1, static."""
    torch.manual_seed(0)
    with quiet_exporter():
        program = torch.onnx.export(
            network.eval(), (torch.zeros(1, *shape),), dynamo=True, opset_version=18, verbose=False
        )
    assert program is not None
    return program.model_proto


def kinds(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


class Block(nn.Module):
    """A residual block over time as it is written everywhere, with what comes between."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.one = nn.Conv1d(inside, out, 5, stride=stride, padding=2, bias=False)
        self.norm = nn.BatchNorm1d(out)
        self.two = nn.Conv1d(out, out, 3, padding=2, dilation=2, groups=2)
        self.short = nn.Conv1d(inside, out, 1, stride=stride)
        self.gate = nn.Conv1d(out, out, 1)
        self.scale = nn.Parameter(torch.randn(1, out, 1))
        for norm in (self.norm,):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.one(x)))
        h = self.two(h) * torch.sigmoid(self.gate(h.mean(dim=2, keepdim=True))) / 1.7
        return torch.relu(h * self.scale + self.short(x))


class ResNet1d(nn.Module):
    """One like those of the literature on ECG."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(3, 8, 7, 2, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(3, 2, 1))
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 16, 2))
        self.pool = nn.AvgPool1d(4)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.blocks(nn.functional.pad(self.stem(x), (2, 1))))
        h = torch.cat([h[:, :8], h[:, 8:] * 0.5], dim=1)
        return self.head(torch.cat([h.mean(dim=-1), h.amax(dim=-1)], dim=1))


class Sequence(nn.Module):
    """Convolution, then linear layers and attention on what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 4, stride=4)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x)).transpose(1, 2)
        weight = torch.softmax(self.query(h) @ self.key(h).transpose(1, 2) / 8**0.5, dim=-1)
        return self.head((weight @ self.value(h)).mean(dim=1))


def test_a_residual_network_comes_out_in_two_dimensions_without_a_norm() -> None:
    model = exported(ResNet1d(), 3, 256)
    made, steps = rewritten(model)
    assert all(step.is_kept and step.error <= TOLERANCE for step in steps)
    said = {step.what: step.times for step in steps}
    assert said["Conv1d as Conv2d"] == 9 + 2  # every convolution, and both poolings
    assert said["division by a constant as a product"] == 2
    assert "BatchNormalization" not in kinds(made) and "Div" not in kinds(made)
    weights = {tensor.name: tensor.dims for tensor in made.graph.initializer}
    assert {len(weights[node.input[1]]) for node in made.graph.node if node.op_type == "Conv"} == {4}
    assert not {"Squeeze", "Unsqueeze", "Transpose"} & set(kinds(made))
    assert [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 1, 256]
    onnx.checker.check_model(made, full_check=True)
    assert [f for f in findings(made) if f.severity != "untested"] == []


def test_it_says_what_torch_says() -> None:
    network = ResNet1d()
    made, _ = rewritten(exported(network, 3, 256))
    x = torch.randn(1, 3, 256)
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString())
    (told,) = session.run(None, {session.get_inputs()[0].name: x[:, :, None].numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(told, network(x).numpy(), atol=1e-4)


def test_linear_layers_and_attention_survive() -> None:
    model = exported(Sequence(), 2, 64)
    before = {f.operator for f in findings(model) if f.severity in ("breaks", "wrong")}
    made, steps = rewritten(model)
    assert before >= {"MatMul"} and all(step.is_kept for step in steps)
    assert [f for f in findings(made) if f.severity in ("breaks", "wrong")] == []
    onnx.checker.check_model(made, full_check=True)


def test_the_line_that_made_a_node_stays_with_it() -> None:
    made, _ = rewritten(exported(Trapped(), 2, 64))
    left = [f for f in findings(made) if f.severity in ("breaks", "wrong")]
    assert {f.operator for f in left} >= {"LayerNormalization"} and all("test_graph.py:" in f.where for f in left)


def small(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], out: list[int]
) -> ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("y", out))]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "inputs", "constants", "attributes", "out"),
    [
        ("Pad", ["h", "pads"], {"pads": np.array([0, 1, 2, 0, 0, 3])}, {"mode": "constant"}, [1, 5, 17]),
        (
            "Slice", ["h", "b", "e", "a"],
            {"b": np.array([1, 2]), "e": np.array([3, 9]), "a": np.array([-2, 2])}, {}, [1, 2, 7],
        ),
        ("Concat", ["h", "h"], {}, {"axis": -1}, [1, 4, 24]),
        ("ReduceMean", ["h", "a"], {"a": np.array([-1])}, {"keepdims": 0}, [1, 4]),
        ("ReduceMax", ["h", "a"], {"a": np.array([1])}, {"keepdims": 0}, [1, 12]),
        ("ReduceSum", ["h", "a"], {"a": np.array([1, 2])}, {"keepdims": 1}, [1, 1, 1]),
        ("Flatten", ["h"], {}, {"axis": 1}, [1, 48]),
        ("Reshape", ["h", "s"], {"s": np.array([1, -1])}, {}, [1, 48]),
        ("Reshape", ["h", "s"], {"s": np.array([0, 0, -1])}, {}, [1, 4, 12]),
        ("Transpose", ["h"], {}, {"perm": [0, 2, 1]}, [1, 12, 4]),
        ("Softmax", ["h"], {}, {"axis": 1}, [1, 4, 12]),
        ("Mul", ["h", "k"], {"k": np.linspace(1, 2, 4, dtype=np.float32)[:, None]}, {}, [1, 4, 12]),
        ("Add", ["k", "h"], {"k": np.linspace(1, 2, 12, dtype=np.float32)}, {}, [1, 4, 12]),
        ("GlobalMaxPool", ["h"], {}, {}, [1, 4, 1]),
    ],
)  # fmt: skip
def test_what_may_follow_a_convolution_is_the_same_in_two_dimensions(
    kind: str, inputs: list[str], constants: dict[str, np.ndarray], attributes: dict[str, object], out: list[int]
) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 2, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], strides=[2], pads=[1, 1]),
        helper.make_node(kind, inputs, ["y"], **attributes),
    ]
    model = small(nodes, weights | constants, [1, 2, 24], out)
    onnx.checker.check_model(model, full_check=True)
    made, times = two_dimensional(onnx.shape_inference.infer_shapes(model))
    assert times == 1 and difference(model, made) <= TOLERANCE
    assert [d.dim_value for d in made.graph.output[0].type.tensor_type.shape.dim] == out
    onnx.checker.check_model(made, full_check=True)


OPERATORS = st.sampled_from(["conv", "wide", "pool", "mean", "relu", "add", "norm", "flip", "cat"])


class Drawn(nn.Module):
    """Any of these one after the other; the shape says which fits."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.conv = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=1) for _ in names)
        self.wide = nn.ModuleList(nn.Conv1d(4, 4, 5, padding=2, stride=2) for _ in names)
        self.norm = nn.ModuleList(nn.BatchNorm1d(4) for _ in names)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv[0](x)
        for k, name in enumerate(self.names):
            if name in ("conv", "wide", "norm"):
                h = getattr(self, name)[k](h)
            elif name == "pool":
                h = nn.functional.avg_pool1d(h, 2)
            elif name == "mean":
                h = h * h.mean(dim=2, keepdim=True)
            elif name == "relu":
                h = torch.relu(h)
            elif name == "add":
                h = h + torch.tanh(h)
            elif name == "flip":
                h = h.transpose(1, 2).softmax(dim=-1).transpose(1, 2)
            elif name == "cat":
                h = torch.cat([h[:, 2:], h[:, :2]], dim=1)
        return h.flatten(1)


def test_other_weights_are_a_difference_and_what_does_not_run_is_the_largest() -> None:
    first, second = (small_convolution(k) for k in (1.0, 2.0))
    assert difference(first, first) == 0.0 < TOLERANCE < difference(first, second)
    second.graph.node[0].op_type = "NoSuchThing"
    assert difference(first, second) == float("inf")


def small_convolution(weight: float) -> ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    return small([node], {"w": np.full((4, 2, 3), weight, np.float32)}, [1, 2, 24], [1, 4, 22])


@settings(max_examples=6, deadline=None)
@given(st.lists(OPERATORS, min_size=1, max_size=6))
def test_any_chain_stays_equal(names: list[str]) -> None:
    network = Drawn(names)
    model = exported(network, 4, 512)
    made, steps = rewritten(model)
    assert all(step.is_kept for step in steps), [str(step) for step in steps]
    assert difference(model, made) <= len(steps) * TOLERANCE


def test_a_step_that_changes_what_is_said_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = exported(nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU()), 2, 64)

    def worse(given: ModelProto) -> tuple[ModelProto, int]:
        made = ModelProto()
        made.CopyFrom(given)
        made.graph.node[-1].op_type = "Identity"
        return made, 1

    monkeypatch.setitem(STEPS, "worse", worse)  # type: ignore[arg-type]
    made, steps = rewritten(model)
    assert [(step.what, step.is_kept) for step in steps] == [("Conv1d as Conv2d", True), ("worse", False)]
    assert "Relu" in kinds(made) and "not equal" in str(steps[-1])


def test_what_needs_nothing_is_left_alone(tmp_path: Path) -> None:
    model = exported(nn.Sequential(nn.Conv2d(2, 4, (1, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(248, 3)), 2, 1, 64)
    made, steps = rewritten(model)
    assert steps == [] and made is model
    for step in (fold_batch_norm, divide_by_multiplying, scale_before_product, flat_linears, two_dimensional):
        assert step(model)[1] == 0
    assert io.BytesIO(made.SerializeToString()).getvalue() == model.SerializeToString()
