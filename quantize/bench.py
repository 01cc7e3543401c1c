"""How long one window takes: every file of a conversion on every runtime, turn and turn about in one run.

Runs on this machine, or, sent there as it is, on another one: it needs Python, numpy and a runtime, nothing of affectd.
Machines are noisy, so figures of two runs are not to be compared: ratios within one are.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], object]
"""One window through one network."""

THREADS = (1, 2, 4)
"""Of TFLite's runtimes, as far as the machine has cores."""
ROUNDS, CALLS = 60, 5
"""Each round gives every variant its turn, in an order of its own, for so many windows one after the other."""
WARM_UP = 10
"""Windows of each variant before the first round: caches, and what runtimes put off until they are called."""
SEED = 0
LOW, HIGH = 10, 90
"""Percentiles beside the median."""
MODULES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
ONNXRUNTIME = "onnxruntime"
PLAIN = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
"""A runtime's own kernels, without XNNPACK."""


def variants(files: Sequence[tuple[str, str]], cores: int) -> Iterator[tuple[dict[str, Any], Callable[[], Run]]]:
    """What can be measured of files (format and path): what it is, and how to make it ready."""
    for form, path in files:
        if path.endswith(".onnx"):
            yield _said(ONNXRUNTIME, form, 1), partial(onnx_run, path)
            continue
        for runtime in MODULES:
            for threads in (n for n in THREADS if n <= cores):
                yield _said(runtime, form, threads), partial(tflite_run, path, runtime, threads)
            plain = _said(runtime, form, 1) | {"xnnpack": False}
            yield plain, partial(tflite_run, path, runtime, 1, xnnpack=False)


def _said(runtime: str, form: str, threads: int) -> dict[str, Any]:
    return {"runtime": runtime, "format": form, "threads": threads, "xnnpack": runtime in MODULES}


def interpreter_of(model: str | bytes, runtime: str, threads: int, kernels: str = "") -> Any:
    """A TFLite file (path or content) on one of the runtimes, where ``kernels``, a name of its OpResolverType, does not
    say otherwise with the kernels that it takes by itself."""
    module = __import__(MODULES[runtime], fromlist=["Interpreter"])
    how: dict[str, Any] = {"model_path" if isinstance(model, str) else "model_content": model, "num_threads": threads}
    if kernels:
        how["experimental_op_resolver_type"] = getattr(module.OpResolverType, kernels)
    interpreter = module.Interpreter(**how)
    interpreter.allocate_tensors()
    return interpreter


def tflite_run(path: str, runtime: str, threads: int, *, xnnpack: bool = True) -> Run:
    """A TFLite file; without XNNPACK by the runtime's own kernels."""
    interpreter = interpreter_of(path, runtime, threads, "" if xnnpack else PLAIN)
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], _values(tensor["shape"], tensor["dtype"]))
    return interpreter.invoke  # type: ignore[no-any-return]


def onnx_run(path: str) -> Run:
    """An ONNX file under onnxruntime, on one thread."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}
    given = {value.name: _values(value.shape, kinds[value.type]) for value in session.get_inputs()}
    return lambda: session.run(None, given)


def _values(shape: Sequence[int], dtype: Any) -> np.ndarray[Any, Any]:
    """Any values: what they are changes no time."""
    return (np.random.default_rng(SEED).normal(0, 1, shape) * (1 if dtype == np.float32 else 30)).astype(dtype)


def interleaved(
    runs: Sequence[Run], rounds: int = ROUNDS, calls: int = CALLS, clock: Callable[[], int] = time.perf_counter_ns
) -> list[list[float]]:
    """us of every call of each, in the order of ``runs``; all of them meet the same weather."""
    rng = np.random.default_rng(SEED)
    for run in runs:
        for _ in range(WARM_UP):
            run()
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for k in rng.permutation(len(runs)):
            for _ in range(calls):
                begin = clock()
                runs[k]()
                found[k].append((clock() - begin) / 1000)
    return found


def measure(
    files: Sequence[tuple[str, str]],
    more: Mapping[str, Run] | None = None,
    say: Callable[[str], None] = lambda _: None,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """Records of all variants; ``more`` are runs of other kinds on one thread, by runtime.

    A variant that cannot run here says why in ``error``.
    """
    ready: list[tuple[dict[str, Any], Run]] = []
    failed: list[dict[str, Any]] = []
    for said, make in variants(files, os.cpu_count() or 1):
        try:
            with silenced():
                run = make()
                run()
            ready.append((said, run))
        except Exception as error:  # runtimes raise what they like for a file they do not know
            failed.append(
                {**said, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            )
    ready += [(_said(runtime, "float32", 1), run) for runtime, run in (more or {}).items()]
    say(f"time {len(ready)} variants, {rounds} rounds of {CALLS} windows each")
    times = interleaved([run for _, run in ready], rounds)
    return [said | _figures(us) for (said, _), us in zip(ready, times, strict=True)] + failed


def _figures(us: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(us, [LOW, 50, HIGH])
    return {"median_us": round(float(middle), 1), "p10_us": round(float(low), 1), "p90_us": round(float(high), 1)}


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Without what the runtimes' C++ sides write to stderr for every interpreter."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "model\t", "hardware")):
                name = line.partition(":")[2].strip()
    return {"machine": name, "architecture": platform.machine(), "cores": os.cpu_count() or 1}


def main() -> None:
    """Of files (JSON on stdin: format and path of each), the records as JSON on stdout."""
    files = json.load(sys.stdin)
    print(json.dumps({**machine(), "latency": measure(files)}))


if __name__ == "__main__":
    main()
