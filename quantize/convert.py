"""ONNX -> TFLite in five formats with onnx2tf, in a child process, and proof that each file is what it is called.

Knows nothing of torch, of where calibration comes from or of bundles. The one file that imports the converter.

The parent writes ``job.json`` and starts ``python -m quantize.convert job.json``; the child converts, reads the
files' flatbuffers and writes ``result.json``. TensorFlow's memory, warnings and crashes stay in the child.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from device.bundle import MODEL_FORMATS, TensorSpec
from quantize import observers
from quantize.errors import ConvertError, RoomError
from quantize.kept import fetch, keep, key_of
from quantize.observers import MIN_MAX, N_BINS, OBSERVERS, counted

Floats32 = npt.NDArray[np.float32]

MEAN, STD = 0.0, 1.0
"""The converter would subtract and divide: model inputs are scaled already."""
ROOM = 300 << 20
"""Bytes that the converter's files take beside the calibration windows, and more; our networks want a sixth of it."""
LIMIT_S = 1800.0
"""The child is killed after this: 50 x what the shipped network takes on one core."""
N_LAST_LINES = 12
"""Lines of the log shown on failure: a Python traceback's last frames and its message."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""Terminal colours, which the converter writes into its log."""
REMEDY_LOG = "its last words say what it could not do"
REMEDY_LAYERS = "write the network with layers that survive (train/models/blocks.py)"
CONVERTERS = ("onnx2tf", "tensorflow", "onnx", "numpy")
"""Packages whose versions shape the files."""
LOG, JOB, RESULT = "convert.log", "job.json", "result.json"
SAME_STEPS = (
    "TRANSPOSE",
    "RESHAPE",
    "MINIMUM",
    "MAXIMUM",
    "STRIDED_SLICE",
    "SLICE",
    "GATHER",
    "SPLIT",
    "CONCATENATION",
)
"""Operators whose int8 output has the scale and zero point of their inputs."""
INTEGER = ("INT8", "INT16", "INT32", "INT64", "BOOL")
"""Tensor types a network without float may hold: data, biases, shapes."""


SUFFIXES = {
    "int8": "_full_integer_quant.tflite",
    "int8 percentile": "_full_integer_quant_percentile.tflite",
    "int8 mse": "_full_integer_quant_mse.tflite",
    "int8x16": "_full_integer_quant_with_int16_act.tflite",
    "dynamic-range": "_dynamic_range_quant.tflite",
    "float16": "_float16.tflite",
    "float32": "_float32.tflite",
}
"""What onnx2tf calls its file of each of the bundle's formats; of int8 one for each observer but the plainest."""
STAGES = {
    "Model conversion started": "operators",
    "saved_model output started": "TensorFlow graph",
    "Float32 tflite output complete": "float file",
    "Signature information": "int8 ranges",
    "Full INT8 Quantization tflite output complete": "int8 file",
    "what every tensor holds": "int8 files by observer",
    "Full INT8 Quantization with int16 activations tflite output complete": "int8 file with int16 activations",
}
"""Piece of the converter's log -> what it has begun or done, for the progress line."""
OPTIONS: dict[str, Any] = {
    # what comes out
    "output_integer_quantized_tflite": True,
    "quant_type": "per-channel",  # weights: one scale per output channel
    "input_quant_dtype": "int8",
    "output_quant_dtype": "int8",
    "output_dynamic_range_quantized_tflite": True,
    "output_signaturedefs": False,  # the names of the ONNX inputs reach the signature without it
    "output_h5": False,
    "output_keras_v3": False,
    "output_tfv1_pb": False,
    "output_weights": False,
    "copy_onnx_input_output_names_to_tflite": False,  # rewrites the file through JSON; we look up by name
    "disable_model_save": False,  # the int8 step reads the saved model
    # what goes in: ours, never image statistics, never a download
    "onnx_graph": None,
    "quant_norm_mean": "[[[[0.0]]]]",
    "quant_norm_std": "[[[[1.0]]]]",
    "tf_input_cache": None,
    "batch_size": None,  # static 1 already
    "overwrite_input_shape": None,
    "shape_hints": None,
    "value_hints": None,
    # layout: ecg and eda become (1, 1, n_times, n_chans), the mask stays
    "keep_ncw_or_nchw_or_ncdhw_input_names": None,
    "keep_nwc_or_nhwc_or_ndhwc_input_names": None,
    "keep_shape_absolutely_input_names": ["mask"],
    # the graph as exported
    "not_use_onnxsim": True,  # torch's exporter has folded it; onnxsim is an outside program
    "not_use_opname_auto_generate": True,
    "input_names_to_interrupt_model_conversion": None,
    "output_names_to_interrupt_model_conversion": None,
    "replace_to_pseudo_operators": None,
    "param_replacement_file": "",
    "auto_generate_json": False,
    "auto_generate_json_on_error": False,
    "enable_auto_split_model": False,
    "auto_split_max_size_mb": 1024,
    # operators this project's networks do not have
    "disable_group_convolution": False,
    "enable_accumulation_type_float16": False,
    "enable_batchmatmul_unfold": False,
    "enable_rnn_unroll": False,
    "no_large_tensor": False,
    "output_nms_with_dynamic_tensor": False,
    "switch_nms_version": "v4",
    "disable_suppression_flextranspose": False,
    "number_of_dimensions_after_flextranspose_compression": 6,
    "disable_suppression_flexstridedslice": False,
    "number_of_dimensions_after_flexstridedslice_compression": 5,
    "optimization_for_gpu_delegate": False,
    "replace_argmax_to_reducemax_and_indices_is_int64": False,
    "replace_argmax_to_reducemax_and_indices_is_float32": False,
    "replace_argmax_to_fused_argmax_and_indices_is_int64": False,
    "replace_argmax_to_fused_argmax_and_indices_is_float32": False,
    "fused_argmax_scale_ratio": 0.5,
    "mvn_epsilon": 1e-10,
    # its own checks: each operator's layout against onnxruntime while converting; the whole is checked by verify.py
    "disable_strict_mode": False,
    "onnxruntime_output_memmap": False,
    "onnxruntime_output_memmap_dir": None,
    "check_gpu_delegate_compatibility": False,
    "check_onnx_tf_outputs_elementwise_close": False,
    "check_onnx_tf_outputs_elementwise_close_full": False,
    "check_onnx_tf_outputs_sample_data_normalization": "norm",
    "check_onnx_tf_outputs_elementwise_close_rtol": 0.0,
    "check_onnx_tf_outputs_elementwise_close_atol": 1e-4,
    "non_verbose": False,
    "verbosity": "info",
}
"""Every option of ``onnx2tf.convert`` but the paths; the child refuses a converter that has another one."""
PATH_OPTIONS = ("input_onnx_file_path", "output_folder_path", "custom_input_op_name_np_data_path")


class Inspection(msgspec.Struct, frozen=True):
    """What a TFLite file holds, read from its flatbuffer."""

    inputs: dict[str, TensorSpec]
    """Name in the signature (ours) -> tensor."""
    outputs: dict[str, TensorSpec]
    operators: dict[str, int]
    """Operator -> how often."""
    foreign: tuple[str, ...]
    """Operators outside the TFLite builtins (Flex, custom)."""
    float_operators: tuple[str, ...]
    """``operator: tensor type, ...`` of each operator with an input or output that is not integer."""
    dtypes: dict[str, int]
    """Tensor type -> how many."""


class _Job(msgspec.Struct):
    """What the child does."""

    result: str
    onnx: str
    folder: str
    files: dict[str, str]
    """By format."""
    calibration: dict[str, str]


@dataclass(frozen=True, slots=True)
class Converted:
    """One TFLite file."""

    variant: str
    """A key of ``SUFFIXES``."""
    path: Path
    inspection: Inspection
    names: tuple[str, ...]
    """Of the ONNX file's outputs, in their order."""
    wrong: tuple[str, ...]
    """What is not as its format says; empty where it can be used."""
    log: Path

    @property
    def format(self) -> str:
        """Of the bundle's formats."""
        return format_of(self.variant)

    @property
    def observer(self) -> str:
        """What chose the ranges of int8."""
        return self.variant.split()[1] if " " in self.variant else MIN_MAX

    @property
    def twin(self) -> Path:
        """The float file of the same conversion."""
        return self.path.with_name(self.path.name.replace(SUFFIXES[self.variant], SUFFIXES["float32"]))

    @property
    def model(self) -> bytes:
        """The file."""
        return self.path.read_bytes()

    @property
    def output(self) -> TensorSpec:
        """The logits."""
        return self._outputs[0]

    @property
    def embedding(self) -> TensorSpec | None:
        """The second output, where there is one."""
        return self._outputs[1] if len(self._outputs) > 1 else None

    @property
    def _outputs(self) -> list[TensorSpec]:
        """In the order of the ONNX file's, whose names some formats keep; in others the converter numbers them."""
        found = self.inspection.outputs
        names = self.names if set(self.names) == set(found) else sorted(found)
        return [found[name] for name in names]


def convert(
    onnx: Path,
    calibration: Mapping[str, Floats32],
    folder: Path,
    on_stage: Callable[[str], None] = lambda _: None,
    outputs: Sequence[str] = ("logits",),
    cache: Path | None = None,
) -> dict[str, Converted]:
    """Convert an ONNX file; one file for each of ``SUFFIXES``, in that order. Raises ConvertError with the last lines.

    ``calibration`` holds each of the file's inputs as the network sees it, ecg and eda (n, n_chans, n_times) and mask
    (n, 2); ``outputs`` are its outputs' names in their order; ``folder`` gets every intermediate file and the log;
    ``on_stage`` hears what the converter is at. What the same file and windows came to before is taken from ``cache``.
    """
    folder = folder.absolute()  # the child runs in it
    folder.mkdir(parents=True, exist_ok=True)
    made, log = folder / "tflite", folder / LOG
    files = {name: made / f"{onnx.stem}{suffix}" for name, suffix in SUFFIXES.items()}
    for path in files.values():
        path.unlink(missing_ok=True)
    names = {name: str(path) for name, path in files.items()}
    _check_room(folder, calibration)
    paths = _save_calibration(calibration, folder)
    key = _key(onnx, paths) if cache is not None else ""
    if cache is not None and fetch(cache, key, folder):
        on_stage("as it came out before")
        found = msgspec.json.decode((folder / RESULT).read_bytes(), type=dict[str, Inspection])
    else:
        found = _run_child(
            _Job(str(folder / RESULT), str(onnx.absolute()), str(made), names, paths), folder, log, on_stage
        )
        if cache is not None:
            keep(cache, key, folder, [*files.values(), folder / RESULT, log])
    shapes = {name: _file_shape(array) for name, array in calibration.items()}
    wrong = {v: tuple(faults(found[v], format_of(v), shapes, len(outputs))) for v in files}
    return {v: Converted(v, path, found[v], tuple(outputs), wrong[v], log) for v, path in files.items()}


def variant_of(form: str, observer: str) -> str:
    """Key of a format's file whose ranges an observer chose; other formats than int8 have one alone."""
    return f"{form} {observer}" if form == "int8" and observer != MIN_MAX else form


def format_of(variant: str) -> str:
    """The format of such a key."""
    return variant.split()[0]


def usable(file: Converted) -> Converted:
    """The file itself; raises ConvertError where it is not what its format says."""
    if file.wrong:
        raise ConvertError(f"{file.format}: {file.wrong[0]}", REMEDY_LAYERS, file.log)
    return file


def faults(
    inspection: Inspection, form: str, shapes: Mapping[str, tuple[int, ...]], n_outputs: int = 1
) -> Iterator[str]:
    """What keeps a file from being used as one of its format, with our inputs in the shapes given."""
    due_type = MODEL_FORMATS[form]
    found = {name: tensor.shape for name, tensor in inspection.inputs.items()}
    if found != dict(shapes) or len(inspection.outputs) != n_outputs:
        has, due = f"{found} and {len(inspection.outputs)} outputs", f"{dict(shapes)} and {n_outputs}"
        yield f"the file has inputs {has} where {due} are due"
    if due_type != "float32" and inspection.float_operators:
        yield f"float operators are left: {'; '.join(inspection.float_operators[:5])}"
    if inspection.foreign:
        yield f"operators no runtime has: {', '.join(inspection.foreign)}"
    for name, tensor in {**inspection.inputs, **inspection.outputs}.items():
        if tensor.dtype != due_type or (tensor.scale > 0) == (due_type == "float32"):
            yield f"{name} is {tensor.dtype} with scale {tensor.scale}, not {due_type}"


def _check_room(folder: Path, calibration: Mapping[str, Floats32]) -> None:
    """RoomError where the disk would be full before the end."""
    needed = ROOM + sum(array.nbytes for array in calibration.values())
    if (free := shutil.disk_usage(folder).free) < needed:
        reason = f"{free / 1e6:.0f} MB are free where {needed / 1e6:.0f} MB are needed"
        raise RoomError(folder, reason, "make room, or let --work or TMPDIR name a folder on another disk")


def _save_calibration(calibration: Mapping[str, Floats32], folder: Path) -> dict[str, str]:
    """Write each input's array in the converter's layout; input -> path."""
    paths = {}
    for name, array in calibration.items():
        nhwc = array.transpose(0, 2, 1)[:, None] if array.ndim == 3 else array
        path = folder / f"calibration_{name}.npy"
        np.save(path, np.ascontiguousarray(nhwc, np.float32))
        paths[name] = str(path.absolute())
    return paths


def _key(onnx: Path, calibration: Mapping[str, str]) -> str:
    """Of all that shapes the files: network and windows, converter and its options, this file and the observers'."""
    versions = ",".join(f"{name} {importlib.metadata.version(name)}" for name in CONVERTERS)
    said = f"{onnx.name} {versions} {sorted(OPTIONS.items(), key=str)} {sorted(calibration)}"
    windows = (Path(calibration[name]).read_bytes() for name in sorted(calibration))
    code = (Path(source).read_bytes() for source in (__file__, observers.__file__))
    return key_of([said.encode(), *code, onnx.read_bytes(), *windows])


def _file_shape(array: Floats32) -> tuple[int, ...]:
    """Shape of one window in the file: (1, 1, n_times, n_chans), or (1, 2) for the mask."""
    return (1, 1, array.shape[2], array.shape[1]) if array.ndim == 3 else (1, array.shape[1])


def _run_child(job: _Job, folder: Path, log: Path, on_stage: Callable[[str], None]) -> dict[str, Inspection]:
    """Run a job in a child, its output going to the log; raises ConvertError unless every file is there."""
    job_path, result = folder / JOB, Path(job.result)
    result.unlink(missing_ok=True)
    job_path.write_bytes(msgspec.json.encode(job))
    # -P: a file in the work folder must not pass for a module
    command = [sys.executable, "-P", "-m", "quantize.convert", str(job_path.absolute())]
    code = _watch(command, folder, log, on_stage)
    last = _last_lines(log)
    if code != 0:
        died = f"was killed by signal {-code}" if code < 0 else f"stopped with exit code {code}"
        raise ConvertError(f"the converter {died}", REMEDY_LOG, log, last)
    missing = [name for name, path in job.files.items() if not Path(path).is_file()]
    if missing or not result.is_file():
        reason = f"the converter ended without an error and wrote no {' and no '.join(missing or [RESULT])}"
        raise ConvertError(reason, REMEDY_LOG, log, last)
    return msgspec.json.decode(result.read_bytes(), type=dict[str, Inspection])


def _watch(command: list[str], folder: Path, log: Path, on_stage: Callable[[str], None]) -> int:
    """Exit code of the command; each line goes to the log, each stage to ``on_stage``. No child outlives this."""
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as child,
    ):
        limit = threading.Timer(LIMIT_S, child.kill)
        limit.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                file.write(COLOUR.sub("", line))
                for mark in [mark for mark in STAGES if mark in line]:
                    on_stage(STAGES[mark])
            return child.wait()
        finally:
            limit.cancel()
            child.kill()


def _environment(folder: Path) -> dict[str, str]:
    """The child's environment: this package on its path, no GPU (same bits everywhere), Keras' settings kept here."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    quiet = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "KERAS_HOME": str(folder),
    }
    return {**os.environ, **quiet, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _last_lines(log: Path) -> list[str]:
    """The end of the log without blank lines."""
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-N_LAST_LINES:]


# From here on: the child.


def _child(job_path: Path) -> None:
    """Do the job."""
    sys.addaudithook(_refuse_network)
    job = msgspec.json.decode(job_path.read_bytes(), type=_Job)
    _onnx2tf(job)
    _observe(job)
    there = {name: path for name, path in job.files.items() if Path(path).is_file()}
    found = {name: _inspect(Path(path).read_bytes()) for name, path in there.items()}
    Path(job.result).write_bytes(msgspec.json.encode(found))


def _refuse_network(event: str, _: tuple[Any, ...]) -> None:
    """Audit hook: the converter fetches sample images where it thinks it lacks data; it must not."""
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError("the converter tried to reach the network; calibration data must come from here")


def _onnx2tf(job: _Job) -> None:
    """Call the converter with every option named."""
    import inspect as signatures

    import onnx2tf  # type: ignore[import-untyped]

    known = set(signatures.signature(onnx2tf.convert).parameters)
    chosen = {*OPTIONS, *PATH_OPTIONS}
    if known != chosen:
        raise SystemExit(f"this onnx2tf has other options than this tool names: {sorted(known ^ chosen)}")
    data = [[name, path, MEAN, STD] for name, path in job.calibration.items()]
    paths: tuple[Any, ...] = (job.onnx, job.folder, data)
    onnx2tf.convert(**OPTIONS, **dict(zip(PATH_OPTIONS, paths, strict=True)))


def _observe(job: _Job) -> None:
    """Write the int8 files anew, with ranges of what every tensor holds while it holds it.

    The converter's own look at them comes too late where two share memory: of a product that a sum overwrites it notes
    the sum, whose steps are up to eight times as coarse.
    """
    import tensorflow as tf  # type: ignore[import-untyped]
    from tensorflow.lite.python import schema_py_generated as schema  # type: ignore[import-untyped]
    from tensorflow.lite.python.convert import mlir_quantize  # type: ignore[import-untyped]

    print("what every tensor holds")
    inputs = {name: np.load(path) for name, path in job.calibration.items()}
    n = min(map(len, inputs.values()))
    windows = [{name: array[i : i + 1] for name, array in inputs.items()} for i in range(n)]
    converter = tf.lite.TFLiteConverter.from_saved_model(job.folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.representative_dataset = lambda: iter(windows)
    converter._experimental_calibrate_only = True
    calibrated = bytes(converter.convert())
    held = _held(calibrated, windows)
    for observer, range_of in OBSERVERS.items():
        model = schema.ModelT.InitFromPackedBuf(bytearray(calibrated), 0)
        seconds = _second_factors(model)
        for i, (counts, low, high) in held.items():
            quantization = model.subgraphs[0].tensors[i].quantization
            ends = range_of(counts, low, high)
            quantization.min, quantization.max = ([end] for end in (_as_weights(*ends) if i in seconds else ends))
        made = mlir_quantize(_packed(model), input_data_type=tf.int8, output_data_type=tf.int8)
        Path(job.files[variant_of("int8", observer)]).write_bytes(made)


def _second_factors(model: Any) -> set[int]:
    """Tensors that products of two activations take second, and what they are made of in the same steps."""
    from tensorflow.lite.python import schema_py_generated as schema

    graph, names = model.subgraphs[0], names_of(schema.BuiltinOperator)
    kinds = [operator_of(code, names) for code in model.operatorCodes]
    makers = {op.outputs[0]: op for op in graph.operators}
    waiting = [op.inputs[1] for op in graph.operators if kinds[op.opcodeIndex] == "BATCH_MATMUL"]
    found: set[int] = set()
    while waiting:
        found.add(i := waiting.pop())
        if i in makers and kinds[makers[i].opcodeIndex] in SAME_STEPS:
            waiting.extend(makers[i].inputs)
    return found


def _as_weights(low: float, high: float) -> tuple[float, float]:
    """The range with its zero in the middle and -128 unused: what kernels take a second factor for.

    LiteRT 2.1 multiplies as if its zero point were 0. XNNPACK's kernels for processors without dot products of eight
    bits (Cortex-A53, A72) add two products in 16 bits, which is too few for (-128)(-128) twice.
    """
    end = max(-low, high)
    return -end * 128 / 127, end


def _held(
    model: bytes, windows: Sequence[Mapping[str, Floats32]]
) -> dict[int, tuple[npt.NDArray[np.int64], float, float]]:
    """Tensor of a float file that has a range -> what it holds over some windows: counts, least, greatest."""
    import tensorflow as tf
    from tensorflow.lite.python import schema_py_generated as schema

    tensors = schema.ModelT.InitFromPackedBuf(bytearray(model), 0).subgraphs[0].tensors
    ranged = [i for i, t in enumerate(tensors) if t.quantization is not None and t.quantization.min is not None]
    kind = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(
        model_content=model, experimental_preserve_all_tensors=True, experimental_op_resolver_type=kind
    )
    interpreter.allocate_tensors()
    run = interpreter.get_signature_runner()

    def shown() -> Iterator[dict[int, Floats32]]:
        for window in windows:
            run(**window)
            yield {i: interpreter.get_tensor(i) for i in ranged}

    low, high = dict.fromkeys(ranged, np.inf), dict.fromkeys(ranged, -np.inf)
    for values in shown():
        for i, held in values.items():
            low[i], high[i] = min(low[i], float(held.min())), max(high[i], float(held.max()))
    counts = {i: np.zeros(N_BINS, np.int64) for i in ranged if high[i] > low[i]}
    for values in shown():
        for i in counts:
            counts[i] += counted(values[i], low[i], high[i])
    return {i: (found, low[i], high[i]) for i, found in counts.items()}


def _packed(model: Any) -> bytes:
    """A file of the schema's objects."""
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _inspect(data: bytes) -> Inspection:
    """Read operators and tensors of the file's one subgraph."""
    from tensorflow.lite.python import schema_py_generated as schema

    types, names = names_of(schema.TensorType), names_of(schema.BuiltinOperator)
    model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
    (graph,) = model.subgraphs
    codes = [operator_of(code, names) for code in model.operatorCodes]
    used = [(codes[op.opcodeIndex], [i for i in (*op.inputs, *op.outputs) if i >= 0]) for op in graph.operators]
    mixed = [(op, sorted({types[graph.tensors[i].type] for i in tensors} - {*INTEGER})) for op, tensors in used]
    inputs, outputs = _named(model, graph)
    return Inspection(
        inputs={name: tensor_of(graph.tensors[i], types) for name, i in inputs.items()},
        outputs={name: tensor_of(graph.tensors[i], types) for name, i in outputs.items()},
        operators=dict(Counter(op for op, _ in used)),
        foreign=tuple(sorted({op for op, _ in used if op.startswith(("Flex", "CUSTOM"))})),
        float_operators=tuple(f"{op}: {', '.join(kinds)}" for op, kinds in mixed if kinds),
        dtypes=dict(Counter(types[tensor.type] for tensor in graph.tensors)),
    )


def names_of(enumeration: type) -> dict[int, str]:
    """Number -> name, of the schema's."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _named(model: Any, graph: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tensors of inputs and outputs by their names in the signature; by their own where a format comes without one."""
    if not model.signatureDefs:
        names = [tensor.name.decode() for tensor in graph.tensors]
        return {names[i]: i for i in graph.inputs}, {names[i]: i for i in graph.outputs}
    signature = model.signatureDefs[0]
    inputs, outputs = ({m.name.decode(): m.tensorIndex for m in side} for side in (signature.inputs, signature.outputs))
    return inputs, outputs


def operator_of(code: Any, names: Mapping[int, str]) -> str:
    """Name of an operator; the schema moved builtin codes above 127 to a second field."""
    if code.customCode:
        custom: str = code.customCode.decode()
        return custom if custom.startswith("Flex") else f"CUSTOM {custom}"
    return names[max(code.builtinCode, code.deprecatedBuiltinCode)]


def tensor_of(tensor: Any, types: Mapping[int, str]) -> TensorSpec:
    """One input or output as the bundle's manifest wants it."""
    quantized = tensor.quantization is not None and tensor.quantization.scale is not None
    dtypes: dict[str, Literal["int8", "int16"]] = {"INT8": "int8", "INT16": "int16"}
    return TensorSpec(
        name=tensor.name.decode(),
        shape=tuple(int(n) for n in tensor.shape),
        dtype=dtypes.get(types[tensor.type], "float32"),
        scale=float(tensor.quantization.scale[0]) if quantized else 0.0,
        zero_point=int(tensor.quantization.zeroPoint[0]) if quantized else 0,
    )


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
