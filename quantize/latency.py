"""Times a conversion here or, over ssh, elsewhere: its files, onnxruntime's int8 of the same network, torch.

Knows nothing of how a run is timed; that is quantize.bench, which travels.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]
from torch import nn

from quantize import bench
from quantize.calibrate import Floats32
from quantize.errors import BenchError
from quantize.export import nchw
from quantize.rewrite import shapes_of

PEAK = "peak"
"""Format of the integer product whose rate stands for what the machine can do."""
PEAK_SIZE = 512
"""Its rows, columns and depth: large enough to fill a core, small enough for its cache."""
HERE, SSH = "host", "ssh"
PYTHON = "python3"
LIMIT_S = 600
"""A machine that has not answered by then is given up."""
COMMANDS = "d=$(mktemp -d) && tar -xf - -C $d && cd $d && {python} bench.py < job.json; s=$?; rm -rf $d; exit $s"


@dataclass(frozen=True)
class Target:
    """Where to measure."""

    host: str = ""
    """As ssh knows it; empty for this machine."""
    port: int | None = None
    python: str = PYTHON
    """Of the other machine, one that has numpy and a runtime."""


def target_of(text: str) -> Target:
    """``host``, or ``ssh://[user@]host[:port][/path/to/python]``; raises BenchError."""
    if text == HERE:
        return Target()
    parts = urlsplit(text)
    if parts.scheme != SSH or not parts.hostname or parts.hostname.startswith("-"):
        remedy = "give host, or ssh://user@machine, with /path/to/python behind it where its python3 has no runtime"
        raise BenchError(text, "is no machine", remedy)
    host = f"{parts.username}@{parts.hostname}" if parts.username else parts.hostname
    return Target(host, parts.port, parts.path or PYTHON)


def latency(
    target: Target,
    torch_run: bench.Run | None,
    model: Path,
    tflites: Mapping[str, Path],
    calibration: Mapping[str, Floats32],
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Machine, multiply-accumulates of a window, peak of the machine, and a record for each variant.

    ``model`` is the ONNX file, ``tflites`` the TFLite files by format, ``calibration`` network inputs as in
    quantize.export; ``folder`` gets onnxruntime's int8 file. ``torch_run`` is one window through torch, where there is
    such a network, and measured on this machine alone.
    """
    say("onnxruntime's own int8")
    files = list(tflites.items())
    files += [("float32", model), ("int8", static_int8(model, calibration, folder / "onnxruntime-int8.onnx"))]
    files += [(PEAK, product(folder / "peak.onnx"))]
    if target.host:
        say(f"time it on {target.host}")
        found = _there(target, files)
    else:
        with _one_thread():
            more = {} if torch_run is None else {"torch": torch_run}
            found = bench.machine() | {"latency": bench.measure(_paths(files), more, say)}
    return _with_shares(found, count_macs(model))


def _paths(files: list[tuple[str, Path]]) -> list[tuple[str, str]]:
    return [(form, str(path)) for form, path in files]


def _with_shares(found: dict[str, Any], macs: int) -> dict[str, Any]:
    """The records without the peak's own, each with the share of it that it reached."""
    of_peak = next((r["median_us"] for r in found["latency"] if r["format"] == PEAK and "median_us" in r), None)
    peak = PEAK_SIZE**3 / of_peak if of_peak else None
    rows = [
        r | ({"peak_share": float(f"{macs / r['median_us'] / peak:.3g}")} if peak and "median_us" in r else {})
        for r in found["latency"]
        if r["format"] != PEAK
    ]
    return found | {"macs": macs, "peak_macs_per_us": peak and round(peak, 1), "latency": rows}


def _there(target: Target, files: list[tuple[str, Path]]) -> dict[str, Any]:
    """What the other machine says; raises BenchError with its last words."""
    names = [(form, f"{k}-{path.name}") for k, (form, path) in enumerate(files)]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for (_, path), (_, name) in zip(files, names, strict=True):
            tar.add(path, name)
        tar.add(Path(bench.__file__), "bench.py")
        job = json.dumps(names).encode()
        entry = tarfile.TarInfo("job.json")
        entry.size = len(job)
        tar.addfile(entry, io.BytesIO(job))
    port = ["-p", str(target.port)] if target.port else []
    command = [SSH, "-o", "BatchMode=yes", *port, "--", target.host, COMMANDS.format(python=shlex.quote(target.python))]
    try:
        done = subprocess.run(command, input=packed.getvalue(), capture_output=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(target.host, str(error), "try ssh by hand") from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise BenchError(target.host, last[0], "it needs a key that asks nothing, python3, numpy and ai-edge-litert")
    try:
        return dict(json.loads(done.stdout))
    except ValueError as error:
        raise BenchError(
            target.host, "answered with something else than figures", "see that its shell is quiet"
        ) from error


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration windows, one at a time."""

    def __init__(self, arrays: Mapping[str, Floats32], names: list[str]) -> None:
        n = len(next(iter(arrays.values())))
        self._rows: Iterator[dict[str, Floats32]] = ({m: arrays[m][i : i + 1] for m in names} for i in range(n))

    def get_next(self) -> dict[str, Floats32] | None:
        """The next window's inputs; None after the last."""
        return next(self._rows, None)


def static_int8(model: Path, calibration: Mapping[str, Floats32], path: Path) -> Path:
    """onnxruntime's static int8 (QDQ, a scale for each weight's channel, plain ranges) of an ONNX file: the peer."""
    names = [value.name for value in onnx.load(str(model)).graph.input]
    folded = path.with_suffix(".folded.onnx")
    quant_pre_process(str(model), str(folded), skip_symbolic_shape=True)  # every shape is static
    quantize_static(
        str(folded), str(path), _Windows(nchw(calibration), names), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def torch_run_of(network: nn.Module, window: Sequence[Floats32]) -> bench.Run:
    """A network as torch runs it on a window, its arguments in their order."""
    given = [torch.from_numpy(array) for array in window]
    network.eval()

    def run() -> object:
        with torch.inference_mode():
            return network(*given)

    return run


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread, as the others beside it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def product(path: Path) -> Path:
    """An ONNX file with one product of two square int8 matrices."""
    rng = np.random.default_rng(0)
    shape = (PEAK_SIZE, PEAK_SIZE)
    weight = numpy_helper.from_array(rng.integers(-127, 128, shape, dtype=np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, shape)],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def count_macs(model: Path) -> int:
    """Multiply-accumulates of one run of an ONNX file: convolutions and matrix products."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(model)), strict_mode=True).graph
    shapes = shapes_of(graph)
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(shapes[node.output[0]])) * int(np.prod(shapes[node.input[1]][1:]))
        elif node.op_type in ("Gemm", "MatMul"):
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            depth = shapes[node.input[0]][0 if turned else -1]
            total += int(np.prod(shapes[node.output[0]])) * depth
    return total
