"""A bundle's network for microcontrollers: a C array and its header for TensorFlow Lite Micro, tried there first.

The network runs in TFLM's own interpreter, on the windows of the bundle's test of itself, beside TFLite's reference
kernels. That happens in a child process: an arena that is too small may end it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device.bundle import DISCLAIMER, Bundle, TensorSpec
from device.inference import Stored, file_layout, quantize
from device.pipeline.spec import MODALITIES
from device.selftest import made_up
from quantize.bench import interpreter_of
from quantize.errors import McuError

Ints = npt.NDArray[np.int64]

WINDOWS, SEED = 8, 1
"""Made-up windows of each set of sensors that both interpreters are shown."""
ARENA_FIRST = 1 << 20
"""Bytes for the first look at what the network needs."""
ARENA_STEP = 1024
"""What is needed is rounded up to this, and one more: the recording interpreter that counts needs a little itself."""
MOST_STEPS = 1
"""Of a logit, that TFLM may differ from the reference kernels: some of its kernels round the other way."""
ALIGNMENT = 16
"""Of the array: TFLM reads weights in place."""
INSTALL = "pip install 'affectd[mcu]' on x86-64 and Python 3.10 to 3.12"
SOURCE, HEADER = "affectd_model.c", "affectd_model.h"
ALLOCATED = re.compile(r"Arena allocation total (\d+) bytes")
NAMES = {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "AVERAGE_POOL_2D": "AveragePool2D",
         "MAX_POOL_2D": "MaxPool2D", "BATCH_MATMUL": "BatchMatMul"}  # fmt: skip
"""Operators whose name in TFLM is not that of the file in camel case."""


@dataclass(frozen=True)
class Mcu:
    """What came of it."""

    arena_bytes: int
    worst_steps: int
    """Largest difference of an output to the reference kernels, in int8 steps."""
    identical: float
    """Share of the outputs' values that are equal to the bit."""
    operators: tuple[str, ...]
    """As TFLM's resolver names them."""
    inputs: tuple[str, ...]
    """ecg, eda, mask in the file's own order."""


def export(bundle: Bundle, folder: Path) -> Mcu:
    """Write both files; raises McuError where TFLM cannot run the network or says something else."""
    found = tried(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADER).write_text(header(bundle, found), encoding="ascii", errors="replace")
    (folder / SOURCE).write_text(source(bundle), encoding="ascii", errors="replace")
    return found


def tried(bundle: Bundle, first: int = ARENA_FIRST) -> Mcu:
    """Run the network both ways, at first with a large arena, then with as small a one as it needs."""
    operators = tuple(operator_name(name) for name in sorted(bundle.report["model"]["operators"]))
    if bundle.manifest.output.dtype != "int8":
        raise McuError(bundle.path, "is a float network", "build one that is int8 from end to end")
    windows = _windows(bundle)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(bundle.model)
        named = {f"{k}-{name}": array for k, window in enumerate(windows) for name, array in window.items()}
        np.savez(folder / "windows.npz", **named)
        needed = _child(bundle, folder, first)["arena"]
        arena = (needed // ARENA_STEP + 2) * ARENA_STEP
        told = _child(bundle, folder, arena)
        wanted = _reference(folder / "model.tflite", windows)
    steps, identical = compared(bundle.path, np.array(told["outputs"]), wanted)
    names = {tensor.name: name for name, tensor in bundle.manifest.inputs.items()}
    inputs = tuple(names[name] for name in told["inputs"])
    return Mcu(arena, steps, identical, operators, inputs)


def compared(path: str, said: Ints, wanted: Ints) -> tuple[int, float]:
    """Largest difference of two interpreters' outputs (n, values) in steps, and the share that is equal; McuError."""
    far = np.abs(said - wanted)
    if far.max() > MOST_STEPS:
        reason = f"an output differs by {far.max()} steps from TFLite's reference kernels"
        raise McuError(path, reason, "take another version of TFLM, and report the network")
    return int(far.max()), float((far == 0).mean())


def operator_name(name: str) -> str:
    """``FULLY_CONNECTED`` as ``AddFullyConnected`` ends."""
    return NAMES.get(name) or "".join(word.capitalize() for word in name.split("_"))


def _windows(bundle: Bundle) -> list[dict[str, Stored]]:
    """Inputs by tensor name, as the file holds them; all sets of sensors."""
    manifest, out = bundle.manifest, []
    for mask in manifest.masks:
        for window in made_up(manifest, mask, WINDOWS, SEED):
            arrays = {}
            for m in manifest.modalities:
                tensor = manifest.inputs[m]
                absent = quantize(np.zeros(tensor.shape, np.float32), tensor)
                arrays[tensor.name] = file_layout(quantize(window[m], tensor)) if m in window else absent
            column, tensor = np.array([[m in window for m in MODALITIES]], np.float32), manifest.inputs["mask"]
            arrays[tensor.name] = quantize(column, tensor)
            out.append(arrays)
    return out


def _reference(path: Path, windows: Sequence[Mapping[str, Stored]]) -> Ints:
    """(n, values of all outputs) of TFLite's reference kernels."""
    interpreter = interpreter_of(str(path), "ai-edge-litert", 1, "BUILTIN_REF")
    index = {tensor["name"]: tensor["index"] for tensor in interpreter.get_input_details()}
    rows = []
    for window in windows:
        for name, value in window.items():
            interpreter.set_tensor(index[name], value)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(tensor["index"]).ravel() for tensor in interpreter.get_output_details()]
        rows.append(np.concatenate(outputs))
    return np.array(rows, np.int64)


def _child(bundle: Bundle, folder: Path, arena: int) -> dict[str, Any]:
    """What TFLM says in a process of its own: outputs, and the arena it took."""
    command = [sys.executable, "-P", "-m", "quantize.mcu", str(folder), str(arena)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "said.json").is_file():
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        remedy = INSTALL if "No module named" in last else "use operators that TFLM has"
        raise McuError(bundle.path, f"TensorFlow Lite Micro does not run it with {arena} bytes: {last}", remedy)
    allocated = ALLOCATED.search(done.stdout + done.stderr)
    return {**json.loads((folder / "said.json").read_text()), "arena": int(allocated[1]) if allocated else arena}


def _run_in_child(folder: Path, arena: int) -> None:
    """Show every window to TFLM; write what it says."""
    from tflite_micro import runtime  # type: ignore[import-untyped]

    plain = interpreter_of(str(folder / "model.tflite"), "ai-edge-litert", 1)
    order, n_outputs = [tensor["name"] for tensor in plain.get_input_details()], len(plain.get_output_details())
    micro = runtime.Interpreter.from_file(str(folder / "model.tflite"), arena_size=arena)
    with np.load(folder / "windows.npz") as file:
        arrays = {name: file[name] for name in file.files}
    outputs: list[list[int]] = []
    for k in range(len(arrays) // len(order)):
        for place, name in enumerate(order):
            micro.set_input(arrays[f"{k}-{name}"], place)
        micro.invoke()
        outputs.append([int(x) for n in range(n_outputs) for x in micro.get_output(n).ravel()])
    (folder / "said.json").write_text(json.dumps({"inputs": order, "outputs": outputs}))
    micro.print_allocations()


def header(bundle: Bundle, found: Mcu) -> str:
    """The C header: sizes, quantization, labels and the operators that the network needs."""
    m = bundle.manifest
    lines = [
        f"/* {_in_comment(f'{m.name}: {m.task}')}.",
        f" * From {_in_comment(Path(bundle.path).name)}, sha256 {bundle.sha256}, by affectd-quantize mcu.",
        f" * {DISCLAIMER} */",
        "#ifndef AFFECTD_MODEL_H",
        "#define AFFECTD_MODEL_H",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"#define AFFECTD_MODEL_BYTES {len(bundle.model)}",
        f"/* A flatbuffer, {ALIGNMENT} bytes aligned: tflite::GetModel(affectd_model). */",
        "extern const unsigned char affectd_model[AFFECTD_MODEL_BYTES];",
        "",
        "/* What the network needs beside its weights, measured. */",
        f"#define AFFECTD_ARENA_BYTES {found.arena_bytes}",
        "",
        "/* real = (int8 - zero point) * scale; inputs lie as (time, channel). */",
    ]
    for name, tensor in {**m.inputs, "output": m.output}.items():
        lines += _tensor(name, tensor)
    lines += ["/* Which input of the interpreter is which. */"]
    lines += [f"#define AFFECTD_INPUT_{name.upper()} {place}" for place, name in enumerate(found.inputs)]
    lines += [
        "",
        f"#define AFFECTD_SFREQ_ECG {m.spec.ecg.sfreq:g}",
        f"#define AFFECTD_SFREQ_EDA {m.spec.eda.sfreq:g}",
        f"#define AFFECTD_N_LABELS {len(m.labels)}",
        "#define AFFECTD_LABELS {" + ", ".join(json.dumps(label) for label in m.labels) + "}",
        "/* Logits are divided by these before the softmax; below the probability there is no answer. */",
    ]
    for mask in m.masks:
        name = mask.upper().replace("+", "_")
        lines.append(f"#define AFFECTD_TEMPERATURE_{name} {m.temperature[mask]:#.6g}f")
        lines.append(f"#define AFFECTD_MIN_PROBABILITY_{name} {m.thresholds.min_probability[mask]:#.6g}f")
    add = " ".join(f"(resolver).Add{name}();" for name in found.operators)
    lines += [
        "",
        "/* tflite::MicroMutableOpResolver<AFFECTD_N_OPERATORS> resolver; AFFECTD_ADD_OPERATORS(resolver) */",
        f"#define AFFECTD_N_OPERATORS {len(found.operators)}",
        f"#define AFFECTD_ADD_OPERATORS(resolver) {add}",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _in_comment(text: str) -> str:
    """Text that ends no comment of C."""
    return text.replace("*/", "* /")


def _tensor(name: str, tensor: TensorSpec) -> list[str]:
    upper = name.upper()
    return [
        f"#define AFFECTD_{upper}_VALUES {int(np.prod(tensor.shape))}",
        f"#define AFFECTD_{upper}_SCALE {tensor.scale:#.9g}f",
        f"#define AFFECTD_{upper}_ZERO_POINT ({tensor.zero_point})",
    ]


def source(bundle: Bundle) -> str:
    """The C file with the network's bytes."""
    rows = [", ".join(f"0x{byte:02x}" for byte in bundle.model[k : k + 16]) for k in range(0, len(bundle.model), 16)]
    body = ",\n  ".join(rows)
    align = (
        "#if defined(__cplusplus)\n#define AFFECTD_ALIGN alignas(16)\n#elif defined(__GNUC__)\n"
        "#define AFFECTD_ALIGN __attribute__((aligned(16)))\n#else\n#define AFFECTD_ALIGN _Alignas(16)\n#endif\n"
    )
    return f'#include "{HEADER}"\n\n{align}\nAFFECTD_ALIGN const unsigned char affectd_model[] = {{\n  {body}\n}};\n'


if __name__ == "__main__":
    _run_in_child(Path(sys.argv[1]), int(sys.argv[2]))
