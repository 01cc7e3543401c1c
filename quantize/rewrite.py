"""Writes an ONNX graph anew where int8 or the fast kernels need it otherwise, and proves that each step keeps it equal.

Knows nothing of torch, of calibration or of TFLite. What cannot be written anew is quantize.graph's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common

Array = npt.NDArray[Any]

BATCH_NORM = (
    common.fuse_batchnorm_into_conv_rule, common.fuse_batchnorm_into_conv_transpose_rule,
    common.fuse_batchnorm_into_gemm_rule,
)  # fmt: skip
TOLERANCE = 1e-4
"""Largest difference of an output between torch and ONNX, or two graphs, relative to 1 + the largest: some 1000 x
float32's own rounding, 1/10 of what int8 costs."""
N_CHECKED = 4
"""Random windows on which a graph and its successor are compared."""
CHANNELS, TIMES, HEIGHT = 1, 2, 2
"""Axes of (n, n_chans, n_times), and of what comes between in (n, n_chans, 1, n_times)."""
PER_VALUE = frozenset({
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Elu", "HardSwish", "HardSigmoid", "Identity", "Dropout", "Erf",
    "Exp", "Sqrt", "Neg", "Abs", "BatchNormalization", "GlobalAveragePool", "GlobalMaxPool",
})  # fmt: skip
"""Operators that do the same to (n, n_chans, 1, n_times)."""
BETWEEN = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})
"""Operators between two or more tensors of shapes that broadcast."""
WINDOWED = frozenset({"Conv", "MaxPool", "AveragePool"})
REDUCED = frozenset({"ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"})


class Rewrite(msgspec.Struct, frozen=True, kw_only=True):
    """One step."""

    what: str
    times: int
    error: float
    """Largest difference of an output from before it."""
    is_kept: bool
    """False where that is more than ``TOLERANCE`` allows: the graph is as before."""

    def __str__(self) -> str:
        kept = "" if self.is_kept else "; not equal, left as it was"
        return f"{self.what}: {self.times} times, largest difference {self.error:.2g}{kept}"


def rewritten(model: ModelProto) -> tuple[ModelProto, list[Rewrite]]:
    """The graph after every step that changes something and keeps what it says; and the steps."""
    steps = []
    for what, step in STEPS.items():
        made, times = step(onnx.shape_inference.infer_shapes(model))
        if not times:
            continue
        error = difference(model, made)
        steps.append(Rewrite(what=what, times=times, error=error, is_kept=error <= TOLERANCE))
        model = made if steps[-1].is_kept else model
    return model, steps


def difference(first: ModelProto, second: ModelProto, n: int = N_CHECKED) -> float:
    """Largest difference of an output over 1 + the largest value, on seeded noise; inf where one does not run."""
    rng = np.random.default_rng(0)
    shapes = {value.name: _shape(value) for value in first.graph.input}
    worst = 0.0
    try:
        sessions = [session_of(model) for model in (first, second)]
        for _ in range(n):
            window = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
            one, other = (run(session, window) for session in sessions)
            for a, b in zip(one, other, strict=True):
                worst = max(worst, float(np.abs(a - b).max() / (1 + np.abs(a).max())))
    except Exception:  # onnxruntime's own errors share no root
        return float("inf")
    return worst


def run(
    session: onnxruntime.InferenceSession, window: Mapping[str, npt.NDArray[np.float32]]
) -> list[npt.NDArray[np.float32]]:
    """Outputs of one window, whose arrays may lack axes of size 1 that the graph has."""
    given = {value.name: window[value.name].reshape(value.shape) for value in session.get_inputs()}
    return [np.asarray(found, np.float32) for found in session.run(None, given)]


def session_of(model: ModelProto) -> onnxruntime.InferenceSession:
    """Ready to run on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def fold_batch_norm(model: ModelProto) -> tuple[ModelProto, int]:
    """BatchNorm behind a convolution or a linear layer goes into its weights (onnxscript's rules)."""
    before = _count(model, "BatchNormalization")
    made = rewrite(model, pattern_rewrite_rules=BATCH_NORM) if before else model
    return made, before - _count(made, "BatchNormalization")


def divide_by_multiplying(model: ModelProto) -> tuple[ModelProto, int]:
    """A division by a constant becomes a product: int8 has no kernel for the first, or a poor one."""
    made, graph, constants = _copy(model)
    times = 0
    for node in graph.node:
        if node.op_type == "Div" and node.input[1] in constants and (constants[node.input[1]] != 0).all():
            node.op_type = "Mul"
            node.input[1] = _constant(graph, f"{node.output[0]}_inverse", _inverse(constants[node.input[1]]))
            times += 1
    return made, times


def scale_before_product(model: ModelProto) -> tuple[ModelProto, int]:
    """Attention's scale goes from the product of query and key to the query: behind it, it stops the converter."""
    made, graph, constants = _copy(model)
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    nodes: list[NodeProto] = []
    times = 0
    for node in graph.node:
        scale = next((name for name in node.input if name in constants and constants[name].size == 1), None)
        product = next(
            (makers[name] for name in node.input if name in makers and makers[name].op_type == "MatMul"), None
        )
        if (
            node.op_type == "Mul"
            and scale
            and product
            and users[product.output[0]] == 1
            and not set(product.input) & set(constants)
        ):
            scaled = f"{product.input[0]}_scaled_{times}"
            at = next(k for k, earlier in enumerate(nodes) if earlier is product)
            nodes.insert(at, helper.make_node("Mul", [product.input[0], scale], [scaled]))
            product.input[0], product.output[0] = scaled, node.output[0]
            times += 1
        else:
            nodes.append(node)
    _replace(graph, nodes)
    return made, times


def flat_linears(model: ModelProto) -> tuple[ModelProto, int]:
    """A linear layer on three or more axes works on two: with more it becomes a product that eight bits ruin."""
    made, graph, constants = _copy(model)
    shapes, nodes, times = shapes_of(graph), list[NodeProto](), 0
    for node in graph.node:
        shape = shapes.get(node.input[0], []) if node.op_type == "MatMul" else []
        if len(shape) < 3 or node.input[1] not in constants or constants[node.input[1]].ndim != 2:
            nodes.append(node)
            continue
        name, width = node.output[0], constants[node.input[1]].shape[1]
        flat = _constant(graph, f"{name}_flat", np.array([-1, shape[-1]], np.int64))
        back = _constant(graph, f"{name}_back", np.array([*shape[:-1], width], np.int64))
        nodes += [
            helper.make_node("Reshape", [node.input[0], flat], [f"{name}_in"]),
            helper.make_node("Gemm", [f"{name}_in", node.input[1]], [f"{name}_out"]),
            helper.make_node("Reshape", [f"{name}_out", back], [name]),
        ]
        _keep_notes(node, nodes[-3:])
        times += 1
    _replace(graph, nodes)
    return made, times


def two_dimensional(model: ModelProto) -> tuple[ModelProto, int]:
    """(n, n_chans, n_times) becomes (n, n_chans, 1, n_times) wherever that is the same, so that Conv1d is a Conv2d.

    Inputs too, in a network without any: files hold theirs in this layout.
    """
    shapes = shapes_of(model.graph)
    windowed = (node.output[0] for node in model.graph.node if node.op_type in WINDOWED)
    if not any(len(shapes.get(name, ())) == 3 for name in (*windowed, *(value.name for value in model.graph.input))):
        return model, 0
    made, _, _ = _copy(model)
    lifting = _Lifting(made.graph)
    lifting.lift()
    return made, lifting.times or len(lifting.lifted)


class _Lifting:
    """One graph on its way from three axes to four."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.shapes = shapes_of(graph)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.lifted: set[str] = set()
        """Tensors of three axes that have four now."""
        self.nodes: list[NodeProto] = []
        self.times = 0
        """Windowed operators that were written anew."""

    def lift(self) -> None:
        """Every node in its order; the outputs as they were."""
        for value in self.graph.input:
            shape = _shape(value)
            if len(shape) == 3:
                value.CopyFrom(
                    helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, _with_height(shape))
                )
                self.lifted.add(value.name)
        for node in list(self.graph.node):
            before = len(self.nodes)
            if not self._lift(node):
                self._lower(node)
            _keep_notes(node, self.nodes[before:])
        for value in self.graph.output:
            if value.name in self.lifted:
                self._rename(value.name, f"{value.name}_4d")
                self._add("Squeeze", [f"{value.name}_4d", self._height()], value.name)
        del self.graph.value_info[:]
        _replace(self.graph, self.nodes)

    def _lift(self, node: NodeProto) -> bool:
        """Write a node for four axes where that is the same; whether it was."""
        kind, ranks = node.op_type, [len(self.shapes.get(name, ())) for name in node.input if name]
        if kind in WINDOWED and ranks[0] == 3 and not self._odd(node):
            return self._windowed(node)
        if not any(name in self.lifted for name in node.input):
            return False
        if kind in PER_VALUE:
            return self._same(node, node.input[:1])
        if kind in BETWEEN and all(self._fits(name) for name in node.input):
            return self._same(node, node.input)
        if kind == "Concat" and set(ranks) == {3}:
            return self._joined(node)
        if kind in REDUCED or kind == "Squeeze":
            return self._reduced(node)
        if kind == "Pad" and len(node.input) < 4 and node.input[1] in self.constants:
            return self._padded(node)
        if kind == "Slice" and all(name in self.constants for name in node.input[1:]) and len(node.input) > 3:
            return self._sliced(node)
        if kind == "Flatten" and _attribute(node, "axis", 1) == 1:
            return self._copied(node)
        if kind == "Reshape" and len(self.shapes.get(node.output[0], ())) == 2:
            return 0 not in self.constants.get(node.input[1], np.zeros(1)) and self._copied(node)
        return False

    def _lower(self, node: NodeProto) -> None:
        """A node as it is, with three axes before it."""
        flat = {name: f"{name}_3d" for name in node.input if name in self.lifted}
        for name, low in flat.items():
            if not any(low in earlier.output for earlier in self.nodes):
                self._add("Squeeze", [name, self._height()], low)
        self._copied(node)
        self.nodes[-1].input[:] = [flat.get(name, name) for name in node.input]

    def _same(self, node: NodeProto, inputs: Sequence[str]) -> bool:
        """The same operator on four axes."""
        high = [self._high(name) for name in inputs]
        self._copied(node)
        self.nodes[-1].input[: len(high)] = high
        self.lifted.add(node.output[0])
        return True

    def _windowed(self, node: NodeProto) -> bool:
        self._same(node, node.input[:1])
        made = self.nodes[-1]
        if node.op_type == "Conv":
            made.input[1] = self._new(f"{node.input[1]}_2d", self.constants[node.input[1]][:, :, np.newaxis])
        for name in ("kernel_shape", "strides", "dilations"):
            if given := _attribute(node, name, None):
                _set(made, name, [1, *given])
        if pads := _attribute(node, "pads", None):
            _set(made, "pads", [0, pads[0], 0, pads[1]])
        self.times += 1
        return True

    def _joined(self, node: NodeProto) -> bool:
        self._same(node, node.input)
        _set(self.nodes[-1], "axis", _moved(_attribute(node, "axis", 0)))
        return True

    def _reduced(self, node: NodeProto) -> bool:
        axes = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        if axes is None:
            return False
        keeps = node.op_type != "Squeeze" and _attribute(node, "keepdims", 1)
        moved = [_moved(int(axis)) for axis in axes]
        if not keeps and len(self.shapes.get(node.output[0], ())) != 2:
            return False
        name = self._new(f"{node.output[0]}_axes", np.array(moved if keeps else sorted({*moved, HEIGHT}), np.int64))
        self._copied(node)
        self.nodes[-1].input[1] = name
        if keeps:
            self.lifted.add(node.output[0])
        return True

    def _padded(self, node: NodeProto) -> bool:
        pads = self.constants[node.input[1]].tolist()
        self._same(node, node.input[:1])
        half = [pads[:3], pads[3:]]
        wide = [value for side in half for value in (side[0], side[1], 0, side[2])]
        self.nodes[-1].input[1] = self._new(f"{node.output[0]}_pads", np.array(wide, np.int64))
        return True

    def _sliced(self, node: NodeProto) -> bool:
        axes = [_moved(int(axis)) for axis in self.constants[node.input[3]]]
        self._same(node, node.input[:1])
        self.nodes[-1].input[3] = self._new(f"{node.output[0]}_axes", np.array(axes, np.int64))
        return True

    def _copied(self, node: NodeProto) -> bool:
        made = NodeProto()
        made.CopyFrom(node)
        self.nodes.append(made)
        return True

    def _high(self, name: str) -> str:
        """A tensor with four axes; one of fewer than three as it is."""
        rank = len(self.shapes.get(name, ()))
        if name in self.constants:
            value = self.constants[name]
            return self._new(f"{name}_4d", np.expand_dims(value, -2)) if value.ndim in (2, 3) else name
        if name in self.lifted or rank < 3:
            return name
        if not any(f"{name}_4d" in earlier.output for earlier in self.nodes):
            self._add("Unsqueeze", [name, self._height()], f"{name}_4d")
        return f"{name}_4d"

    def _fits(self, name: str) -> bool:
        """Whether a tensor broadcasts as before beside four axes."""
        return name in self.constants or len(self.shapes.get(name, ())) in (0, 3)

    def _odd(self, node: NodeProto) -> bool:
        """Whether a windowed operator is of a kind that is left alone."""
        return len(node.output) > 1 or (node.op_type == "Conv" and node.input[1] not in self.constants)

    def _height(self) -> str:
        """The axis that comes between."""
        return self._new("height_axis", np.array([HEIGHT], np.int64))

    def _new(self, name: str, value: Array) -> str:
        """A constant, once."""
        return (
            name if name in {tensor.name for tensor in self.graph.initializer} else _constant(self.graph, name, value)
        )

    def _add(self, kind: str, inputs: Sequence[str], output: str) -> None:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_{kind.lower()}"))

    def _rename(self, old: str, new: str) -> None:
        """A tensor between nodes."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for k, name in enumerate(names):
                    if name == old:
                        names[k] = new


STEPS: Mapping[str, Callable[[ModelProto], tuple[ModelProto, int]]] = {
    "BatchNorm folded into weights": fold_batch_norm,
    "division by a constant as a product": divide_by_multiplying,
    "attention's scale before its product": scale_before_product,
    "linear layers on two axes": flat_linears,
    "Conv1d as Conv2d": two_dimensional,
}
"""In this order: what folds goes before what changes shapes."""


def _moved(axis: int) -> int:
    """An axis of three in four."""
    return {0: 0, 1: CHANNELS, 2: TIMES + 1}[axis % 3]


def _with_height(shape: Sequence[int]) -> list[int]:
    return [*shape[:HEIGHT], 1, *shape[HEIGHT:]]


def _copy(model: ModelProto) -> tuple[ModelProto, GraphProto, dict[str, Array]]:
    """A copy, its graph, and its constants by name."""
    made = ModelProto()
    made.CopyFrom(model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    return made, made.graph, constants


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def shapes_of(graph: GraphProto) -> dict[str, list[int]]:
    """Of every tensor whose shape is known."""
    values = {v.name: _shape(v) for v in (*graph.value_info, *graph.input, *graph.output)}
    return values | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _constant(graph: GraphProto, name: str, value: Array) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _inverse(value: Array) -> Array:
    """1 over it, of its own type."""
    return np.asarray(1 / value, value.dtype)


def _count(model: ModelProto, kind: str) -> int:
    return sum(node.op_type == kind for node in model.graph.node)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _set(node: NodeProto, name: str, value: object) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _replace(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    kept = [*nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _keep_notes(node: NodeProto, made: Sequence[NodeProto]) -> None:
    """What the exporter noted of a node goes with what stands for it."""
    for one in made:
        if not one.metadata_props:
            one.metadata_props.extend(node.metadata_props)
