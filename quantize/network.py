"""Any network over 1-D signals: a torch module of the user's or an ONNX file in, a TFLite file proved equal out.

Knows nothing of affectd's own networks, of masks or of bundles.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import ModelProto
from torch import nn

from device.inference import RUNTIMES, dequantize, file_layout, quantize
from quantize.bench import interpreter_of, silenced
from quantize.calibrate import PARITY_PER_MASK, PER_MASK, Floats32, Ints, Pool, balanced
from quantize.convert import Converted
from quantize.errors import CalibrationError, ExportError, NetworkError
from quantize.export import N_CHECKED, write_onnx
from quantize.observers import OBSERVERS
from quantize.page import page
from quantize.qat import Tuned, tune
from quantize.recipe import (
    AUTO,
    SHARES,
    Attempt,
    Conversion,
    attempts_of,
    check_passed,
    choose,
    formats_of,
    graph_report,
    judgement,
    medians_of,
    operators_alone,
    ready,
)
from quantize.rewrite import TOLERANCE, run, session_of
from quantize.verify import Comparison, Wanted, comparison

LABEL, SUBJECT = "label", "subject"
"""Arrays of the windows' file that are no inputs."""
NOBODY = "everybody"
"""Stands for the person where none is named."""
ALL = "all"
"""Stands for the set of sensors: an unknown network has one."""
MIN_WINDOWS = 40
"""Half of them choose the ranges; fewer than 20 leave those to a handful of moments."""
MAX_ERROR = 0.1
"""Of a network with one output: largest error, root mean square, over the spread of its outputs; a free choice."""
ORIGINAL, ONNX, REPORT, PAGE = "original.onnx", "model.onnx", "report.json", "report.html"
REMEDY_SOURCE = "give an ONNX file, package.module:factory or path/to/file.py:factory"

Timing = Callable[[Path, Mapping[str, Path], Mapping[str, Floats32]], Mapping[str, Any]]
"""ONNX file, TFLite files by format and windows -> what quantize.latency says of them."""


@dataclass(frozen=True, slots=True, eq=False)
class UserWindows:
    """Windows of the user's signals."""

    path: str
    arrays: Mapping[str, Floats32]
    """By input, (n, ...)."""
    labels: Ints | None
    subjects: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.subjects)

    def of(self, names: Sequence[str], chosen: Ints) -> dict[str, Floats32]:
        """Some windows of some inputs."""
        return {name: self.arrays[name][chosen] for name in names}

    def example(self, names: Sequence[str]) -> list[Floats32]:
        """The first window, with its batch axis."""
        return [self.arrays[name][:1] for name in names]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network of the user's, as ONNX."""

    name: str
    model: ModelProto
    inputs: tuple[str, ...]
    module: nn.Module | None = None
    """In eval mode, where it came as one."""


def read_windows(path: Path) -> UserWindows:
    """The arrays of an .npz file; raises CalibrationError."""
    remedy = (
        "write it with numpy.savez: one float array (n, ...) for each input, label and subject (n,) if there are any"
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CalibrationError(path, "", f"cannot be read ({error})", remedy) from error
    lengths = {name: len(array) if array.ndim else 0 for name, array in content.items()}
    labels, subjects = content.pop(LABEL, None), content.pop(SUBJECT, None)
    if not content or len(set(lengths.values())) != 1:
        raise CalibrationError(path, "", f"has arrays of lengths {lengths}", remedy)
    (n,) = set(lengths.values())
    if n < MIN_WINDOWS:
        raise CalibrationError(path, "", f"{n} windows where {MIN_WINDOWS} are needed", "take more windows")
    for name, array in content.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise CalibrationError(path, name, "holds something else than finite numbers", remedy)
    people = np.full(n, NOBODY) if subjects is None else subjects.astype(str)
    arrays = {name: _three_axes(array.astype(np.float32)) for name, array in content.items()}
    return UserWindows(str(path), arrays, None if labels is None else labels.astype(np.int64), people)


def _three_axes(array: Floats32) -> Floats32:
    """(n, n_chans, 1, n_times) without the axis in between."""
    return array[:, :, 0] if array.ndim == 4 and array.shape[2] == 1 else array


def read_network(source: str, weights: Path | None, windows: UserWindows) -> Network:
    """An ONNX file, or the module that a factory makes; raises NetworkError, CalibrationError and ExportError."""
    if source.endswith(".onnx"):
        return _from_onnx(source, weights, windows)
    module = _made(source)
    if weights is not None:
        _load(module, weights)
    names = tuple(inspect.signature(module.forward).parameters)
    _check_names(source, names, windows)
    return Network(source.rpartition(":")[2], ModelProto(), names, module.eval())


def _from_onnx(source: str, weights: Path | None, windows: UserWindows) -> Network:
    if weights is not None:
        raise NetworkError(source, "is an ONNX file, which has its weights", "leave --weights out")
    try:
        model = onnx.load(source)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf's and onnx's own errors share no root
        reason = (str(error).splitlines() or ["it is none"])[0]
        raise NetworkError(source, f"cannot be read ({reason})", REMEDY_SOURCE) from error
    constants = {tensor.name for tensor in model.graph.initializer}
    names = tuple(value.name for value in model.graph.input if value.name not in constants)
    _check_names(source, names, windows)
    return Network(Path(source).stem, model, names)


def _made(source: str) -> nn.Module:
    """What the factory returns."""
    place, _, factory = source.rpartition(":")
    if not place:
        raise NetworkError(source, "names no factory", REMEDY_SOURCE)
    found = getattr(_imported(source, place), factory, None)
    if not callable(found):
        raise NetworkError(source, f"{place} has no {factory}", REMEDY_SOURCE)
    try:
        module = found()
    except Exception as error:  # code of the user's
        reason = f"{factory}() raises {type(error).__name__}: {error}"
        raise NetworkError(source, reason, "write a factory that needs no arguments") from error
    if not isinstance(module, nn.Module):
        raise NetworkError(source, f"{factory}() gives a {type(module).__name__}", "return a torch.nn.Module")
    return module


def _imported(source: str, place: str) -> ModuleType:
    """A module by its name or by its file."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # code of the user's
        reason = f"cannot be imported ({type(error).__name__}: {error})"
        raise NetworkError(source, reason, REMEDY_SOURCE) from error
    return module


def _load(module: nn.Module, weights: Path) -> None:
    """The module's state, from a file of tensors alone."""
    try:
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # torch's readers raise many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NetworkError(str(weights), f"is no state of this module ({reason})", "save its state_dict()") from error


def _check_names(source: str, names: Sequence[str], windows: UserWindows) -> None:
    """Every input has its windows, of names that stay what they are in every file."""
    odd = [name for name in names if not re.fullmatch(r"[A-Za-z_]\w*", name)]
    if odd:
        raise NetworkError(source, f"has an input {odd[0]!r}", "name inputs with letters, digits and _ alone")
    missing = [name for name in names if name not in windows.arrays]
    if missing:
        has = ", ".join(windows.arrays)
        raise CalibrationError(
            windows.path, missing[0], f"is missing, {has} are there", f"{source} reads {', '.join(names)}"
        )


def build_network(
    network: Network,
    windows: UserWindows,
    output: Path,
    *,
    recipe: str = AUTO,
    seed: int = 0,
    observers: Sequence[str] = tuple(OBSERVERS),
    shares: Sequence[float] = SHARES,
    qat: bool = False,
    force: bool = False,
    cache: Path | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    time: Timing = lambda onnx, files, windows: {},
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Export, write anew, convert, compare; ``output`` gets NAME.tflite, report.json and report.html.

    With ``qat`` a module learns to be rounded where no integer file passes, on the windows that do not judge. Returns
    the report and what ``time`` says. Raises QuantizeError for whatever goes wrong; GateError where the file differs
    too much and ``force`` is not set.
    """
    if qat and network.module is None:
        raise NetworkError(network.name, "is an ONNX file, which cannot learn", "give its module, or leave --qat out")
    output.mkdir(parents=True, exist_ok=True)
    work = output / "work"
    work.mkdir(exist_ok=True)
    calibration, judges = _chosen(windows, seed)
    on_step("export to ONNX" if network.module is not None else "check the ONNX file")
    model = _exported(network, windows, judges, work)
    onnx.save(model, str(work / ONNX))
    steps, noticed = ready(work / ONNX, on_step)
    wanted = _wanted(windows, judges, _told(model, windows.of(network.inputs, judges)), network.inputs)
    peer = comparison(wanted, "onnxruntime", _told(onnx.load(str(work / ONNX)), wanted.inputs))

    def judged(share: float, file: Converted) -> Attempt:
        """A file beside the float network, on every runtime here."""
        if file.wrong:
            return Attempt(share, file)
        on_step(f"compare {file.format}")
        return Attempt(share, file, None, *_compared(file, wanted))

    shown = windows.of(network.inputs, calibration)
    names = [o.name for o in model.graph.output]
    conversion = Conversion(work / ONNX, shown, _told(model, shown), names, work, cache)

    def tuned() -> tuple[Conversion, Tuned]:
        """The module once it has learned to be rounded."""
        learner, folder = replace(network, module=copy.deepcopy(network.module)), work / "tuned"
        assert learner.module is not None
        folder.mkdir(exist_ok=True)
        to_learn_from = np.setdiff1d(np.arange(len(windows)), judges)
        said = tune(learner.module, windows.of(network.inputs, to_learn_from), say=on_step)
        model = _exported(learner, windows, judges, folder)
        onnx.save(model, str(folder / ONNX))
        ready(folder / ONNX, on_step)
        return Conversion(folder / ONNX, shown, _told(model, shown), names, folder, cache), said

    attempts = attempts_of(conversion, recipe, shares, observers, judged, on_step, tuned if qat else None)
    timed = time(work / ONNX, {a.file.format: a.file.path for a in attempts if a.can_run}, shown)
    best, why = choose(attempts, medians := formats_of(medians_of(timed)), recipe)
    blamed = operators_alone((best, *attempts), wanted.inputs, on_step)
    report = judgement(best, attempts, [peer], {"asked": recipe, "taken": best.file.format, "why": why})
    report["model"]["name"] = network.name
    report |= graph_report(steps, noticed, blamed)
    report["windows"] = {"calibration": {ALL: _counts(windows, calibration)}, "parity": {ALL: _counts(windows, judges)}}
    (output / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (output / PAGE).write_text(page(network.name, "", report, timed, medians), encoding="utf-8")
    check_passed(best, blamed, output / REPORT, force)
    (output / f"{network.name}.tflite").write_bytes(best.file.model)
    return report, timed


def _chosen(windows: UserWindows, seed: int) -> tuple[Ints, Ints]:
    """Which windows calibrate and which judge, both balanced over people and labels."""
    labels = np.zeros(len(windows), np.int64) if windows.labels is None else windows.labels
    pool = Pool(windows.path, {}, {}, labels, windows.subjects)
    calibration = balanced(pool, np.arange(len(windows)), min(PER_MASK, len(windows) // 2), seed)
    rest = np.setdiff1d(np.arange(len(windows)), calibration)
    return calibration, balanced(pool, rest, PARITY_PER_MASK, seed + 1)


def _exported(network: Network, windows: UserWindows, judges: Ints, work: Path) -> ModelProto:
    """The network as ONNX; a module's is proved equal to it on some windows. Raises ExportError."""
    if network.module is None:
        return network.model
    path = work / ORIGINAL
    write_onnx(network.module, dict(zip(network.inputs, windows.example(network.inputs), strict=True)), None, path)
    model = onnx.load(str(path))
    some, said = windows.of(network.inputs, judges[:N_CHECKED]), []
    with torch.inference_mode():
        for i in range(N_CHECKED):
            window = [torch.from_numpy(some[name][i : i + 1]) for name in network.inputs]
            said.append(_first(network.module(*window)))
    error = float(np.abs(np.stack(said) - _told(model, some)).max())
    if not error <= TOLERANCE * (1 + float(np.abs(said).max())):
        raise ExportError(
            f"its outputs differ from torch by {error:.2g}", "put the module into eval mode in its factory"
        )
    return model


def _first(outputs: Any) -> Floats32:
    """The first output of a module, flat."""
    while isinstance(outputs, tuple | list):
        outputs = outputs[0]
    return np.asarray(outputs.numpy(), np.float32).reshape(-1)


def _told(model: ModelProto, arrays: Mapping[str, Floats32]) -> Floats32:
    """(n, size) of the first output under onnxruntime."""
    session, n = session_of(model), len(next(iter(arrays.values())))
    windows = ({name: array[i : i + 1] for name, array in arrays.items()} for i in range(n))
    return np.stack([run(session, window)[0].reshape(-1) for window in windows])


def _wanted(windows: UserWindows, judges: Ints, logits: Floats32, inputs: Sequence[str]) -> Wanted:
    """What the float network makes of the windows that judge."""
    labels = None if windows.labels is None else windows.labels[judges]
    if labels is not None and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        reason = f"{labels.min()}..{labels.max()} where the network has {logits.shape[1]} outputs"
        raise CalibrationError(windows.path, LABEL, reason, "give indices of the first output, or no label")
    return Wanted(ALL, windows.of(inputs, judges), labels, windows.subjects[judges], 1.0, logits, None)


def _compared(file: Converted, wanted: Wanted) -> tuple[list[Comparison], list[str]]:
    """The file on every runtime here, and what else is against it."""
    found, against = [], []
    for runtime in RUNTIMES:
        try:
            with silenced():
                interpreter = interpreter_of(str(file.path), runtime, 1)
        except ImportError:
            continue
        except (ValueError, RuntimeError) as error:
            against.append(f"{runtime} does not load it: {' '.join(str(error).split('. ')[0].split())}")
            continue
        got = _said(interpreter, file, wanted.inputs, len(wanted.logits))
        found.append(comparison(wanted, runtime, got))
        if wanted.logits.shape[1] == 1:
            far = float(np.sqrt(np.mean((got - wanted.logits) ** 2)) / (np.std(wanted.logits) or 1))
            said = f"{ALL} on {runtime}: error {far:.3f} of the outputs' spread > {MAX_ERROR}"
            against += [said] if not far <= MAX_ERROR else []
    return found, against


def _said(interpreter: Any, file: Converted, arrays: Mapping[str, Floats32], n: int) -> Floats32:
    """(n, size) of the first output, one window at a time."""
    index = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    (output,) = (d["index"] for d in interpreter.get_output_details() if d["name"] == file.output.name)
    rows = []
    for i in range(n):
        for name, tensor in file.inspection.inputs.items():
            interpreter.set_tensor(index[tensor.name], file_layout(quantize(arrays[name][i], tensor)))
        interpreter.invoke()
        rows.append(dequantize(interpreter.get_tensor(output), file.output).reshape(-1))
    return np.stack(rows)


def _counts(windows: UserWindows, chosen: Ints) -> dict[str, int]:
    return {"n_windows": len(chosen), "n_subjects": len(set(windows.subjects[chosen].tolist()))}
