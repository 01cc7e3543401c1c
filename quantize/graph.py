"""What of a network will not survive eight bits, said before anything is converted, with the line that makes it.

Each rule is a trap that was met: a converter that crashed, wrote nothing, or wrote a network that is wrong without a
word. Knows nothing of calibration, of TFLite or of bundles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import onnx

from quantize.errors import GraphError

Severity = Literal["breaks", "wrong", "untested", "slow"]
"""breaks: the converter stops. wrong: it does not, but the int8 network says something else. untested: an operator that
has never been through it here. slow: right, on kernels that are not the fast ones."""
STOPS: tuple[Severity, ...] = ("breaks", "wrong")

SURVIVE = {
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "Expand", "Flatten",
    "Gemm", "GlobalAveragePool", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad",
    "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators that become such as have int8 kernels in TFLite."""
KNOWN: dict[str, tuple[Severity, str, str]] = {
    "LayerNormalization": (
        "wrong", "its mean and variance do not fit eight bits: a Transformer lost most of its accuracy (cosine 0.93)",
        "put a BatchNorm behind each projection, which folds into it (train/models/ecg_transformer.py)",
    ),
    "InstanceNormalization": ("wrong", "its mean and variance do not fit eight bits", "use BatchNorm, which folds"),
    "GroupNormalization": ("wrong", "its mean and variance do not fit eight bits", "use BatchNorm, which folds"),
    "Gelu": ("breaks", "no TFLite kernel takes it in int8", "use ReLU6, which loses next to nothing"),
    "Erf": ("breaks", "no TFLite kernel takes it in int8 (it is what GELU is made of)", "use ReLU6 for GELU"),
    "Div": ("wrong", "int8 has no kernel for it, or a poor one", "multiply by the inverse"),
    "Einsum": ("breaks", "no converter writes it in int8", "write it as products of two matrices"),
    **dict.fromkeys(
        ("LSTM", "GRU", "RNN"),
        ("breaks", "a loop inside the network does not become full int8", "use convolutions over time"),
    ),
    **dict.fromkeys(
        ("Loop", "If", "Scan"),
        ("breaks", "the graph branches or loops", "write the network without Python branches on tensors"),
    ),
    **dict.fromkeys(
        ("Exp", "Log", "Pow", "Sqrt", "Reciprocal"),
        ("wrong", "its range is far wider than eight bits hold", "take it out of the network, before the input"),
    ),
}  # fmt: skip
"""Operators that are known not to: what happens, and what to write instead."""
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<text>[^\n]+)')
TRACE, SCOPES = "pkg.torch.onnx.stack_trace", "pkg.torch.onnx.name_scopes"
"""What torch's exporter notes at each node."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that will not survive."""

    severity: Severity
    operator: str
    node: str
    """Its name in the ONNX file."""
    reason: str
    remedy: str
    where: str = ""
    """File, line and text that made it, and the module, as far as the exporter noted them."""

    def __str__(self) -> str:
        place = f" at {self.where}" if self.where else f" ({self.node})"
        return f"{self.severity}: {self.operator}{place}: {self.reason}; {self.remedy}"


def check_graph(path: Path) -> list[Finding]:
    """What of an ONNX file is not at its best; raises GraphError where something stops or falsifies the conversion."""
    found = findings(onnx.load(str(path)))
    if stopping := [finding for finding in found if finding.severity in STOPS]:
        raise GraphError([str(finding) for finding in stopping])
    return found


def findings(model: onnx.ModelProto) -> list[Finding]:
    """Everything in a graph that has a rule, in the order of the nodes."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    rules = _Rules(graph)
    return [*_dynamic(graph), *(finding for node in graph.node for finding in rules.of(node))]


def _dynamic(graph: onnx.GraphProto) -> Iterator[Finding]:
    for value in graph.input:
        free = [d.dim_param or "?" for d in value.type.tensor_type.shape.dim if not d.dim_value]
        if free:
            yield Finding(
                "breaks", "input", value.name, f"{value.name} has free axes ({', '.join(free)})",
                "export with static shapes and a batch of 1",
            )  # fmt: skip


class _Rules:
    """What is wrong with a node, in its graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        values = (*graph.value_info, *graph.input, *graph.output)
        self._ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
        self._ranks |= {name: len(dims) for name, dims in self._constants.items()}
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._used_by: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.input:
                self._used_by.setdefault(name, []).append(node.op_type)

    def of(self, node: onnx.NodeProto) -> Iterator[Finding]:
        """All findings of one node."""
        if said := KNOWN.get(node.op_type):
            yield _finding(node, *said)
        elif node.op_type not in SURVIVE:
            reason = "nobody has seen it come through as full int8"
            yield _finding(node, "untested", reason, "look at what the gates say of the network")
        if node.op_type == "MatMul" and self._is_linear_on_a_sequence(node):
            reason = "a linear layer on three or more axes becomes a product with a constant that collapses to chance"
            yield _finding(node, "wrong", reason, "write it as a 1x1 Conv2d, or flatten to two axes first")
        if node.op_type in ("Mul", "Div") and self._scales_attention(node):
            reason = "a constant between two products stops the converter"
            yield _finding(node, "breaks", reason, "fold the attention's scale into the query's weights")
        if node.op_type == "Conv" and len(self._constants.get(node.input[1], ())) == 3:
            reason = "Conv1d becomes transposes around a Conv2d: 2 to 3 times as slow"
            yield _finding(node, "slow", reason, "write it as Conv2d with a kernel of (1, k)")

    def _is_linear_on_a_sequence(self, node: onnx.NodeProto) -> bool:
        fixed = [name in self._constants for name in node.input]
        return sum(fixed) == 1 and self._ranks.get(node.input[fixed.index(False)], 0) > 2

    def _scales_attention(self, node: onnx.NodeProto) -> bool:
        is_scale = any(name in self._constants and not self._constants[name] for name in node.input)
        made = [self._made_by[name].op_type for name in node.input if name in self._made_by]
        return is_scale and "MatMul" in made and "Softmax" in self._used_by.get(node.output[0], ())


def _finding(node: onnx.NodeProto, severity: Severity, reason: str, remedy: str) -> Finding:
    return Finding(severity, node.op_type, node.name, reason, remedy, _where(node))


def _where(node: onnx.NodeProto) -> str:
    """``model.py:7, `h = self.c(x)` (module c)``: the innermost line that is not torch's own."""
    noted = {entry.key: entry.value for entry in node.metadata_props}
    frames: Sequence[re.Match[str]] = list(FRAME.finditer(noted.get(TRACE, "")))
    own = [frame for frame in frames if "/torch/" not in frame["file"].replace("\\", "/")]
    if not own:
        return ""
    scopes = re.findall(r"'([^']*)'", noted.get(SCOPES, ""))
    module = ".".join(name for name in scopes[:-1] if name)
    place = f"{own[-1]['file']}:{own[-1]['line']}, `{own[-1]['text'].strip()}`"
    return f"{place} (module {module})" if module else place
