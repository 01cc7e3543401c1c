"""Where in a network int8 loses what it loses: each operator in int8 alone, all others in float.

The int8 file and the float file of one conversion hold the same operators. Each is cut out of both and shown the same:
what the float network has at its place. What it says more in int8 goes on through the rest of the float network. Knows
nothing of torch, of how the files were made or of bundles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import msgspec
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema  # type: ignore[import-untyped]

from device.bundle import TensorSpec, span
from device.inference import RUNTIMES, dequantize, quantize
from quantize.bench import PLAIN, interpreter_of
from quantize.convert import names_of, operator_of, tensor_of

Array = npt.NDArray[Any]
Values = dict[int, Array]
"""Tensor of a file -> its value."""

FILE_ID = b"TFL3"
WINDOWS = 16
"""Shown to each operator; the worst operator stands out on the first."""
INPUT = "INPUT"
"""Stands for the operator of what the network is shown."""
CONSTANT = re.compile(r"^Const_\d+$")
"""Part of a tensor's name that numbers its biases, other in each file."""
BINS = 40
"""Of the histogram of what passes through a tensor."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One operator of the int8 file."""

    position: int
    """In the file; inputs lie before 0."""
    operator: str
    tensor: str
    """Its output's name."""
    error: float
    """Of its output in the int8 network: root mean square against float, over that of float."""
    alone: float
    """The same where it alone is int8."""
    blame: float
    """Largest difference of an output of the network where it alone is int8."""
    low: float
    high: float
    """What its output can hold."""
    least: float
    greatest: float
    """What float has there."""
    histogram: tuple[int, ...]
    """Of float's values, over equal bins from the lesser of ``low`` and ``least`` to the greater of the others."""

    @property
    def name(self) -> str:
        """In a sentence."""
        return f"{self.operator} at {self.position} ({self.tensor.rpartition(';')[2]})"


@dataclass(frozen=True)
class _File:
    """A TFLite file whose operators can be cut out."""

    path: Path

    @cached_property
    def model(self) -> Any:
        """Its content."""
        return schema.ModelT.InitFromPackedBuf(bytearray(self.path.read_bytes()), 0)

    @property
    def graph(self) -> Any:
        """Its one subgraph."""
        return self.model.subgraphs[0]

    def is_constant(self, tensor: int) -> bool:
        """Whether its value is in the file."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def reads(self, operator: Any) -> list[int]:
        """Tensors that an operator needs and the file does not hold."""
        return [int(i) for i in operator.inputs if i >= 0 and not self.is_constant(i)]

    def is_scaled(self, tensor: int) -> bool:
        """Whether it stands for real values, by a scale."""
        said = self.graph.tensors[tensor].quantization
        return said is not None and said.scale is not None and len(said.scale) > 0

    def name(self, tensor: int) -> str:
        """Of a tensor, less what differs between two files of one network."""
        parts = self.graph.tensors[tensor].name.decode().split(";")
        return ";".join(part for part in parts if not CONSTANT.match(part))

    def kind(self, operator: Any) -> str:
        """Of an operator."""
        return operator_of(self.model.operatorCodes[operator.opcodeIndex], _OPERATORS)

    def spec(self, tensor: int) -> TensorSpec:
        """How it holds real values."""
        return tensor_of(self.graph.tensors[tensor], _TYPES)

    def stored(self, tensor: int, value: Array) -> Array:
        """Real values as the file holds them."""
        return quantize(value, self.spec(tensor))

    def real(self, tensor: int, stored: Array) -> Array:
        """Real values of what the file holds."""
        return dequantize(stored, self.spec(tensor))

    def part(self, operators: Sequence[Any], instead: int | None = None) -> _Part:
        """Some operators alone, with every tensor that they make as an output; ``instead`` is given, not made."""
        outputs = [int(i) for o in operators for i in o.outputs if int(i) != instead]
        needed = dict.fromkeys(i for o in operators for i in self.reads(o) if i not in outputs)
        if not outputs:
            return _Part((), (), None)
        model = schema.ModelT.InitFromPackedBuf(bytearray(self.path.read_bytes()), 0)
        graph = model.subgraphs[0]
        graph.operators, graph.inputs, graph.outputs = list(operators), list(needed), outputs
        model.signatureDefs, model.metadata, model.metadataBuffer = None, None, None
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=FILE_ID)
        interpreter = interpreter_of(bytes(builder.Output()), RUNTIMES[0], 1, PLAIN)
        return _Part(list(needed), outputs, interpreter)


_TYPES = names_of(schema.TensorType)
_OPERATORS = names_of(schema.BuiltinOperator)


@dataclass(frozen=True)
class _Part:
    """Some operators of a file, ready to run on many windows."""

    inputs: Sequence[int]
    outputs: Sequence[int]
    interpreter: Any

    def run(self, values: Mapping[int, Array]) -> Values:
        """Outputs of one window; none where there are no operators."""
        if self.interpreter is None:
            return {}
        details = zip(self.inputs, self.interpreter.get_input_details(), strict=True)
        for tensor, detail in details:
            self.interpreter.set_tensor(
                detail["index"], values[tensor].astype(detail["dtype"]).reshape(detail["shape"])
            )
        self.interpreter.invoke()
        found = zip(self.outputs, self.interpreter.get_output_details(), strict=True)
        return {tensor: self.interpreter.get_tensor(detail["index"]) for tensor, detail in found}


def layers(
    float32: Path,
    int8: Path,
    windows: Sequence[Mapping[str, Array]],
    on_layer: Callable[[int, int], None] = lambda done, of: None,
) -> list[Layer]:
    """Every input, and every operator of the int8 file that has a counterpart, in its order.

    ``windows`` are the network's inputs in float, by name (``ecg``, ``eda``, ``mask``), in the file's layout.
    """
    both = _both(_File(float32), _File(int8), windows)
    ints = both.ints
    n = len(ints.graph.inputs)
    steps: list[tuple[int, Any]] = [(k - n, int(i)) for k, i in enumerate(ints.graph.inputs)]
    steps += [(position, o) for position, o in enumerate(ints.graph.operators) if both.knows(o)]
    found = []
    for done, (position, step) in enumerate(steps, 1):
        if position < 0:
            found.append(both.layer(position, INPUT, step, both.entry(step)))
        else:
            found.append(both.layer(position, ints.kind(step), int(step.outputs[0]), both.own(step)))
        on_layer(done, len(steps))
    return found


def guilty(found: Sequence[Layer]) -> Layer:
    """The operator whose eight bits alone change the network's outputs most."""
    return max(found, key=lambda layer: layer.blame)


def twins(floats: _File, ints: _File) -> dict[int, int]:
    """Tensor of the int8 file -> the one of the float file that holds the same in float; those without are left out.

    By operator and name. What int8 has more, a change of scale, holds what it was made of.
    """
    known = {(floats.kind(o), floats.name(o.outputs[0])): int(o.outputs[0]) for o in floats.graph.operators}
    entry = {floats.name(i): int(i) for i in floats.graph.inputs}
    found = {int(i): entry[ints.name(i)] for i in ints.graph.inputs if ints.name(i) in entry}
    for operator in ints.graph.operators:
        key, output = (ints.kind(operator), ints.name(operator.outputs[0])), int(operator.outputs[0])
        if key in known:
            found[output] = known[key]
        elif key[0] == "QUANTIZE" and int(operator.inputs[0]) in found:
            found[output] = found[int(operator.inputs[0])]
    return found


@dataclass(frozen=True)
class _Both:
    """Two files of one network and what each has at every place, for some windows."""

    floats: _File
    ints: _File
    twin: Mapping[int, int]
    """Tensor of the int8 file -> tensor of the float file."""
    wanted: Sequence[Values]
    """Of the float file."""
    told: Sequence[Values]
    """Of the int8 file, as it holds them."""

    def knows(self, operator: Any) -> bool:
        """Whether all that an operator reads and makes stands for something in the float file."""
        return all(
            i in self.twin and self.ints.is_scaled(i) for i in (*self.ints.reads(operator), int(operator.outputs[0]))
        )

    def true(self, tensor: int) -> Array:
        """What float has in place of a tensor of the int8 file, windows first."""
        return np.stack([values[self.twin[tensor]] for values in self.wanted])

    def layer(self, position: int, operator: str, output: int, more: Array) -> Layer:
        """Its figures; ``more`` is what it alone says more in int8, windows first."""
        true, (low, high) = self.true(output), span(self.ints.spec(output))
        assert low is not None and high is not None  # an integer's
        told = np.stack([self.ints.real(output, values[output]) for values in self.told]).reshape(true.shape)
        least, greatest = float(true.min()), float(true.max())
        edges = min(low, least), max(high, greatest)
        return Layer(
            position=position,
            operator=operator,
            tensor=self.ints.name(output),
            error=_relative(true, told - true),
            alone=_relative(true, more),
            blame=self.blame(self.twin[output], true + more),
            low=low,
            high=high,
            least=least,
            greatest=greatest,
            histogram=tuple(np.histogram(true, BINS, edges)[0].tolist()),
        )

    def entry(self, tensor: int) -> Array:
        """What eight bits change of an input."""
        true = self.true(tensor)
        return np.asarray(self.ints.real(tensor, self.ints.stored(tensor, true)) - true)

    def own(self, operator: Any) -> Array:
        """What an operator in int8 says more than in float, both shown the same: float's values as int8 holds them.

        What is lost by holding them is that of the operators that made them.
        """
        part, output = self.ints.part([operator]), int(operator.outputs[0])
        twin = self.twin[output]
        makers = [o for o in self.floats.graph.operators if int(o.outputs[0]) == twin]
        same = self.floats.part(makers if self.floats.kind(makers[0]) == self.ints.kind(operator) else [])
        more = []
        for values in self.wanted:
            stored = {i: self.ints.stored(i, values[self.twin[i]]) for i in part.inputs}
            shown = values | {self.twin[i]: self.ints.real(i, value) for i, value in stored.items()}
            said = shown | same.run(shown)
            more.append(self.ints.real(output, part.run(stored)[output]).reshape(said[twin].shape) - said[twin])
        return np.stack(more)

    def blame(self, tensor: int, instead: Array) -> float:
        """Largest difference of an output of the float network where one of its tensors is replaced."""
        rest = self.floats.part(_after(self.floats, tensor), instead=tensor)
        outputs = [int(i) for i in self.floats.graph.outputs]
        worst = 0.0
        for values, value in zip(self.wanted, instead, strict=True):
            told = {tensor: value} | rest.run(values | {tensor: value})
            worst = max([worst, *(float(np.abs(told[i] - values[i]).max()) for i in outputs if i in told)])
        return worst


def _both(floats: _File, ints: _File, windows: Sequence[Mapping[str, Array]]) -> _Both:
    """Both files, run on every window."""
    twin = twins(floats, ints)
    entry = {name: int(i) for i in floats.graph.inputs for name in windows[0] if name in floats.name(i)}
    network, eight = floats.part(floats.graph.operators), ints.part(ints.graph.operators)
    wanted, told = [], []
    for window in windows:
        shown = {entry[name]: array for name, array in window.items()}
        wanted.append(shown | network.run(shown))
        entered = {int(i): ints.stored(i, wanted[-1][twin[i]]) for i in ints.graph.inputs}
        told.append(entered | eight.run(entered))
    return _Both(floats, ints, twin, wanted, told)


def _after(floats: _File, tensor: int) -> list[Any]:
    """Operators that depend on a tensor."""
    reached, found = {tensor}, []
    for operator in floats.graph.operators:  # a file's order is one in which they can run
        if reached & set(floats.reads(operator)):
            reached |= {int(i) for i in operator.outputs}
            found.append(operator)
    return found


def _relative(true: Array, difference: Array) -> float:
    """Root mean square of a difference over that of the true values; 0 where both are zero."""
    error, size = (float(np.sqrt(np.mean(np.square(a, dtype=np.float64)))) for a in (difference, true))
    return error / size if size else (0.0 if not error else float("inf"))
