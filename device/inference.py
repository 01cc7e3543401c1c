"""Run a bundle's network on one window and say what it found, or why it abstains.

It knows nothing of sensors, time bases or sinks. The one file that imports a TFLite runtime.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from device.bundle import MODEL, Bundle, TensorSpec, mask_name, stored_range
from device.durations import Durations
from device.errors import BundleError, InferenceError
from device.pipeline.feature_input import feature_input
from device.pipeline.model_input import Baseline, ModelInput, model_input
from device.pipeline.spec import MODALITIES
from device.pipeline.types import Floats, Window
from device.space import Shots, evidence

Float32 = npt.NDArray[np.float32]
Stored = npt.NDArray[np.int8] | npt.NDArray[np.int16] | Float32
"""Values as a tensor of the file holds them."""
Reason = Literal["warming_up", "gap", "contact", "quality", "out_of_range", "uncertain"]

RUNTIMES = ("ai-edge-litert", "tflite-runtime")
"""In the order ``auto`` tries them: LiteRT runs the same int8 file 2-4 x faster."""
INSTALL = {
    "ai-edge-litert": "pip install 'affectd[device]'",
    "tflite-runtime": "pip install 'affectd[tflite-runtime]' on Python 3.11 or before",
}
BANNER = b"INFO: Created TensorFlow Lite XNNPACK delegate"
"""A line that LiteRT's C++ side writes to stderr for every interpreter."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one window says."""

    index: int
    """The window's index."""
    start: float
    """Host time of the window's start in s."""
    stop: float
    """Host time of the window's end in s."""
    label: str | None
    """Most probable label; None where abstained."""
    probabilities: dict[str, float] | None
    """Per label; None where the network was not run."""
    modalities: tuple[str, ...]
    """Which the network has seen."""
    abstained: Reason | None
    """Why there is no label; see ``Classifier.classify``."""
    sqi: dict[str, float]
    """Per modality that covers the window."""
    problems: dict[str, tuple[str, ...]]
    """Per modality with any: its quality's problems, why it is missing, or ``out_of_range``."""
    distance: float | None = None
    """From the nearest class of known windows, 1 for a usual one; None where the network has no such space."""
    bundle: str = ""
    """Name of the bundle that made it."""
    bundle_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain types, ready for any JSON encoder."""
        problems = {modality: list(names) for modality, names in self.problems.items()}
        return {**asdict(self), "modalities": list(self.modalities), "problems": problems}


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the network makes of what it is shown, before anybody abstains."""

    probability: Float32
    """(n_outputs,) over the temperature of the mask."""
    distance: float | None
    """As in ``Prediction``."""
    is_familiar: bool
    """Whether no farther than ``max_distance`` of the mask; always where the network has no space."""
    is_sure: bool
    """Whether the largest probability reaches ``min_probability`` of the mask."""


class Classifier:
    """One bundle on one runtime. Not for two threads at once."""

    def __init__(self, bundle: Bundle, runtime: str = "auto", threads: int = 1) -> None:
        """Load the network.

        ``runtime`` is ``auto`` or a member of ``RUNTIMES``. Raises InferenceError where it cannot run here and
        BundleError where the tflite file is not what the manifest says.
        """
        if threads < 1:
            raise InferenceError(f"{threads} threads", "give 1 or more")
        self.bundle = bundle
        self.runtime, interpreter_type = _import_runtime(runtime)
        self._interpreter = _load(bundle, self.runtime, interpreter_type, threads)
        self._index = _tensor_indices(bundle, self._interpreter)
        inputs, reads = bundle.manifest.inputs, bundle.manifest.modalities
        self.durations = Durations()
        self._absent = {m: quantize(np.zeros(inputs[m].shape, np.float32), inputs[m]) for m in reads}

    def logits(self, arrays: Mapping[str, Float32]) -> Float32:
        """Logits (n_outputs,) alone; arguments as those of ``outputs``."""
        return self.outputs(arrays)[0]

    def outputs(self, arrays: Mapping[str, Float32]) -> tuple[Float32, Float32 | None]:
        """Logits (n_outputs,) and embedding (n,), None where the network has none.

        Of float32 arrays, (n_chans, n_times) or (n_features,); one without a key is absent: it enters as zeros with
        mask 0. Raises InferenceError for what is not the network's input.
        """
        self._check(arrays)
        return self.forward(arrays)

    def forward(self, arrays: Mapping[str, Float32]) -> tuple[Float32, Float32 | None]:
        """As ``outputs``, without a look at the arrays: there may be none."""
        manifest = self.bundle.manifest
        for m in manifest.modalities:
            tensor = manifest.inputs[m]
            value = file_layout(quantize(arrays[m], tensor)) if m in arrays else self._absent[m]
            self._interpreter.set_tensor(self._index[m], value)
        mask = np.array([[m in arrays for m in MODALITIES]], np.float32)
        self._interpreter.set_tensor(self._index["mask"], quantize(mask, manifest.inputs["mask"]))
        try:
            with self.durations.measured():
                self._interpreter.invoke()
        except RuntimeError as error:
            raise InferenceError(f"{self.bundle.path}: the network stopped: {error}", "try another runtime") from error
        embedding = None if manifest.embedding is None else self._read("embedding", manifest.embedding)
        return self._read("output", manifest.output), embedding

    def _read(self, name: str, tensor: TensorSpec) -> Float32:
        """Real values of an output, flat."""
        return dequantize(self._interpreter.get_tensor(self._index[name]).reshape(-1), tensor)

    def answer(self, arrays: Mapping[str, Float32], shots: Shots | None = None) -> Answer:
        """What the network makes of arrays as those of ``outputs``; ``shots`` as for ``classify``."""
        manifest, mask = self.bundle.manifest, mask_name(tuple(arrays))
        logits, embedding = self.outputs(arrays)
        distance, is_familiar = None, True
        if manifest.space is not None and embedding is not None:
            distance = float(manifest.space.distance(embedding, mask))
            is_familiar = distance <= manifest.space.max_distance[mask]
            if shots is not None:
                logits = logits + evidence(embedding, manifest.space, shots, mask).astype(np.float32)
        probability = _softmax(logits / np.float32(manifest.temperature[mask]))
        is_sure = bool(probability.max() >= manifest.thresholds.min_probability[mask])
        return Answer(probability, distance, is_familiar, is_sure)

    def classify(self, window: Window, baseline: Baseline | None = None, shots: Shots | None = None) -> Prediction:
        """Prediction for one window; ``shots`` are the wearer's own labelled windows, where the network has a space.

        A modality that the network reads is left out where it is missing, where its sqi is below the spec's
        ``sqi_min``, and where more than ``max_clipped_share`` of its input is clipped. With none left it abstains, with
        the first of these that holds:

        1. ``warming_up``   no modality covers the window, all because they have just started
        2. ``gap``          no modality covers the window
        3. ``contact``      none is good enough, one of them for want of skin contact
        4. ``quality``      none is good enough
        5. ``out_of_range`` the good ones lie outside what the network was calibrated for, or, with the probabilities
                            given, the window lies farther from all known ones than ``max_distance`` of its mask
        6. ``uncertain``    the largest probability is below ``min_probability`` of its mask; the probabilities are
                            given

        Raises PipelineError where the spec needs the wearer's resting baseline and none is given.
        """
        arrays, problems, unread = self._readable(window, baseline)
        if unread is not None:
            return self._prediction(window, problems, unread)
        answer = self.answer(arrays, shots)
        reason: Reason | None = None if answer.is_sure else "uncertain"
        if not answer.is_familiar:
            reason = "out_of_range"
        return self._prediction(window, problems, reason, tuple(arrays), answer)

    def embeddings(self, window: Window, baseline: Baseline | None = None) -> dict[str, Float32]:
        """Where a window lies in the network's space, (n,) by mask: under the one that ``classify`` gives it and, where
        that has both sensors, under each one's alone. Empty where the network reads nothing of it or has no space."""
        arrays, _, _ = self._readable(window, baseline)
        shown = [tuple(arrays)] if arrays else []
        shown += [(m,) for m in arrays] if len(arrays) > 1 else []
        found = {mask_name(names): self.outputs({m: arrays[m] for m in names})[1] for names in shown}
        return {mask: embedding for mask, embedding in found.items() if embedding is not None}

    def _readable(
        self, window: Window, baseline: Baseline | None
    ) -> tuple[dict[str, Float32], dict[str, tuple[str, ...]], Reason | None]:
        """What the network reads of a window, each modality's problems, and why it reads nothing where it does."""
        manifest = self.bundle.manifest
        problems = {m: window.quality[m].problems for m in window.data if window.quality[m].problems}
        problems |= {m: (reason,) for m, reason in window.missing.items()}
        good = {m: window.data[m] for m in manifest.modalities if window.is_good(m, manifest.spec.sqi_min)}
        if not good:
            return {}, problems, _why_none(window, manifest.modalities)
        inputs = self._input(good, baseline)
        far = {m for m in good if inputs.clipped[m] > manifest.thresholds.max_clipped_share}
        problems |= {m: (*problems.get(m, ()), "out_of_range") for m in far}
        arrays = {m: inputs.arrays[m] for m in good if m not in far}
        return arrays, problems, None if arrays else "out_of_range"

    def _input(self, data: Mapping[str, Floats], baseline: Baseline | None) -> ModelInput:
        """What the network reads: samples, or features of them."""
        spec, chosen = self.bundle.manifest.spec, self.bundle.manifest.features
        return model_input(data, spec, baseline) if chosen is None else feature_input(data, spec, chosen, baseline)

    def _prediction(
        self,
        window: Window,
        problems: dict[str, tuple[str, ...]],
        abstained: Reason | None,
        modalities: tuple[str, ...] = (),
        answer: Answer | None = None,
    ) -> Prediction:
        """Name the outputs; the most probable is the label where nothing is against it."""
        manifest = self.bundle.manifest
        named: dict[str, float] | None = None
        if answer is not None:
            named = dict(zip(manifest.labels, answer.probability.tolist(), strict=True))
        return Prediction(
            index=window.index,
            start=float(window.start),
            stop=float(window.start) + manifest.spec.window_s,
            label=max(named, key=named.__getitem__) if named and abstained is None else None,
            probabilities=named,
            modalities=modalities,
            abstained=abstained,
            sqi={m: float(quality.sqi) for m, quality in window.quality.items()},
            problems={m: tuple(problems[m]) for m in MODALITIES if m in problems},
            distance=None if answer is None else answer.distance,
            bundle=manifest.name,
            bundle_sha256=self.bundle.sha256,
        )

    def _check(self, arrays: Mapping[str, Float32]) -> None:
        """Known modalities, at least one, each of the network's shape and free of NaN (which int8 cannot say)."""
        remedy = "build the arrays with device.pipeline.model_input or feature_input and the bundle's spec"
        reads = self.bundle.manifest.modalities
        if not arrays or not set(arrays) <= set(reads):
            raise InferenceError(f"modalities {sorted(arrays)} where some of {', '.join(reads)} are needed", remedy)
        for m, array in arrays.items():
            shape = self.bundle.manifest.inputs[m].shape
            needed = shape[:1:-1] if len(shape) == 4 else shape[1:]
            if array.shape != needed:
                raise InferenceError(f"{m} of shape {array.shape} where {needed} is needed", remedy)
            if np.isnan(array).any():
                raise InferenceError(f"{m} holds NaN", remedy)


def quantize(values: Float32, tensor: TensorSpec) -> Stored:
    """Real values as the tensor stores them, of any shape; for a float32 tensor the values themselves.

    Rounds to nearest and saturates: without the clip NumPy's cast would wrap 127.6 to -128.
    """
    if tensor.dtype == "float32":
        return np.asarray(values, np.float32)
    with np.errstate(over="ignore"):  # an overflow is infinite and saturates like any large value
        steps = np.asarray(values, np.float32) / np.float32(tensor.scale)
    np.rint(steps, out=steps)
    steps += np.float32(tensor.zero_point)
    clipped: Stored = np.clip(steps, *stored_range(tensor), out=steps).astype(tensor.dtype)
    return clipped


def dequantize(stored: Stored, tensor: TensorSpec) -> Float32:
    """Real values (float32) of a stored tensor of any shape."""
    if tensor.dtype == "float32":
        return np.asarray(stored, np.float32)
    return (stored.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)


def file_layout(stored: Stored) -> Stored:
    """(n_chans, n_times) to the file's (1, 1, n_times, n_chans), (n_features,) to its (1, n_features).

    The only place that knows the file's layout. Stacked from its rows: 8 x faster than a contiguous copy of the
    transpose, which was most of ``logits``' own time.
    """
    if stored.ndim == 1:
        return stored[np.newaxis]
    layout: Stored = np.stack(tuple(stored), axis=-1)[np.newaxis, np.newaxis]
    return layout


def _softmax(logits: Float32) -> Float32:
    """(n_outputs,) probabilities; the largest logit is taken off first, so that none overflows."""
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), np.float32)


def _why_none(window: Window, modalities: Sequence[str]) -> Reason:
    """Why none of the modalities of a window is good; the order is that of ``Classifier.classify``."""
    there = [m for m in modalities if m in window.data]
    if not there:
        reasons = {window.missing[m] for m in modalities if m in window.missing}
        return "warming_up" if reasons == {"warming_up"} else "gap"
    contact = any("contact" in window.quality[m].problems for m in there)
    return "contact" if contact else "quality"


def _import_runtime(runtime: str) -> tuple[str, Any]:
    """(name, Interpreter type) of the runtime asked for, or of the first that is installed."""
    if runtime != "auto" and runtime not in RUNTIMES:
        raise InferenceError(f"unknown runtime {runtime!r}", f"choose auto, {' or '.join(RUNTIMES)}")
    failures = []
    for name in RUNTIMES if runtime == "auto" else (runtime,):
        try:
            return name, _interpreter_type(name)
        except ImportError as error:
            failures.append(f"{name} cannot be imported ({error})")
    remedy = INSTALL[RUNTIMES[0] if runtime == "auto" else runtime]
    raise InferenceError(", ".join(failures), remedy)


def _interpreter_type(runtime: str) -> Any:
    """The runtime's Interpreter; imported here because neither needs to be installed."""
    if runtime == "ai-edge-litert":
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
    else:
        from tflite_runtime.interpreter import Interpreter  # type: ignore[import-untyped]
    return Interpreter


def _load(bundle: Bundle, runtime: str, interpreter_type: Any, threads: int) -> Any:
    """An interpreter with its memory allocated."""
    try:
        with _without_banner():
            interpreter = interpreter_type(model_content=bundle.model, num_threads=threads)
            interpreter.allocate_tensors()
    except SystemError as error:  # what tflite-runtime 2.14, compiled for numpy 1, ends in under numpy 2
        version = importlib.metadata.version("numpy")
        remedy = f"pip install 'numpy<2', or use {RUNTIMES[0]}: {INSTALL[RUNTIMES[0]]}"
        raise InferenceError(f"{runtime} does not work with numpy {version}", remedy) from error
    except (ValueError, RuntimeError) as error:
        reason = f"{runtime} does not load it: {error}"
        raise BundleError(bundle.path, MODEL, reason, "use the other runtime or build the bundle again") from error
    return interpreter


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    """Hold back what is written to file descriptor 2 and let it go afterwards, less the runtime's banner."""
    try:
        stderr = os.dup(2)
    except OSError:  # closed: nobody would read the banner
        yield
        return
    with os.fdopen(os.memfd_create("stderr"), "r+b") as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not line.startswith(BANNER)))


def _tensor_indices(bundle: Bundle, interpreter: Any) -> dict[str, int]:
    """Index in the file of each input and of the output, found by name and compared with the manifest."""
    manifest = bundle.manifest
    inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}
    n_outputs = 1 if manifest.embedding is None else 2
    if len(inputs) != len(manifest.inputs) or len(outputs) != n_outputs:
        reason = f"has inputs {sorted(inputs)} and outputs {sorted(outputs)} where the manifest has 3 and {n_outputs}"
        raise BundleError(bundle.path, MODEL, reason, "build the bundle again with affectd-quantize")
    wanted = [(f"inputs.{key}", tensor, inputs) for key, tensor in manifest.inputs.items()]
    wanted.append(("output", manifest.output, outputs))
    if manifest.embedding is not None:
        wanted.append(("embedding", manifest.embedding, outputs))
    return {place.rpartition(".")[2]: _match(bundle.path, place, tensor, found) for place, tensor, found in wanted}


def _match(path: str, place: str, tensor: TensorSpec, found: Mapping[str, Mapping[str, Any]]) -> int:
    """Index of the tensor, once all that the manifest says of it is true of the file."""
    remedy = "build the bundle again with affectd-quantize"
    if tensor.name not in found:
        reason = f"manifest names {tensor.name!r}, the file has {sorted(found)}"
        raise BundleError(path, f"{MODEL} {place}", reason, remedy)
    detail = found[tensor.name]
    scale, zero_point = detail["quantization"]
    in_file = (tuple(int(n) for n in detail["shape"]), np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
    said = (tensor.shape, tensor.dtype, tensor.scale, tensor.zero_point)
    if in_file != said:
        reason = f"manifest says (shape, dtype, scale, zero_point) {said}, the file has {in_file}"
        raise BundleError(path, f"{MODEL} {place}", reason, remedy)
    return int(detail["index"])
