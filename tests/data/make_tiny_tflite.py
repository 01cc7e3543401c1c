"""Write tests/data/tiny.tflite, a small int8 network with the inputs and outputs of the shipped ones,
tests/data/tiny_float32.tflite, the same before quantization, and tests/data/tiny_space.tflite, int8 with its features
as a second output.

Needs TensorFlow; the tests read only the files, and this module's numpy half as the reference:

    .venv/bin/python tests/data/make_tiny_tflite.py

Per modality: a strided convolution, ReLU, mean over time, times the mask; then one dense layer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SEED = 20261120
N_TIMES = {"ecg": 7680, "eda": 240}
N_CHANS = 2
N_FEATURES = 4
KERNEL = {"ecg": 16, "eda": 8}
STRIDE = {"ecg": 8, "eda": 4}
N_OUTPUTS = 2
CLIP = 6.0
"""Calibration covers +- this, the range the device clips its input to."""


def weights() -> dict[str, Floats]:
    """Random weights, the same every time."""
    rng = np.random.default_rng(SEED)
    shapes = {m: (1, KERNEL[m], N_CHANS, N_FEATURES) for m in N_TIMES} | {"dense": (2 * N_FEATURES, N_OUTPUTS)}
    return {name: rng.normal(0, 1 / np.sqrt(np.prod(s[:-1])), s).astype(np.float32) for name, s in shapes.items()}


def reference(arrays: Mapping[str, Floats]) -> Floats:
    """Logits (2,) of the float network by numpy; arrays (n_chans, n_times), a missing one is masked."""
    return embedding(arrays) @ weights()["dense"]


def embedding(arrays: Mapping[str, Floats]) -> Floats:
    """Features (8,) of the float network by numpy, its second output where it has one."""
    w = weights()
    features = [
        _features(arrays[m], w[m][0], STRIDE[m]) if m in arrays else np.zeros(N_FEATURES, np.float32) for m in N_TIMES
    ]
    return np.concatenate(features)


def _features(data: Floats, kernel: Floats, stride: int) -> Floats:
    """(n_features,) of one modality: convolution without padding, ReLU, mean over time."""
    views = np.lib.stride_tricks.sliding_window_view(data, len(kernel), axis=1)[:, ::stride]
    return np.maximum(np.einsum("ctk,kcf->tf", views, kernel), 0).mean(axis=0)


def inputs(n: int, seed: int) -> Iterator[dict[str, Floats]]:
    """Noise of several sizes, whole modalities only, (n_chans, n_times) per modality."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        size = rng.uniform(0.3, 2.0)
        yield {
            m: np.clip(rng.normal(rng.normal(), size, (N_CHANS, t)), -CLIP, CLIP).astype(np.float32)
            for m, t in N_TIMES.items()
        }


def _calibration() -> Iterator[dict[str, Floats]]:
    """Every mask, in the file's own layout (1, 1, n_times, n_chans)."""
    for i, arrays in enumerate(inputs(60, SEED)):
        mask = np.array([[(1, 1), (1, 0), (0, 1)][i % 3]], np.float32)
        arrays = {name: data.T[None, None] for name, data in arrays.items()}
        if i == 0:
            arrays = {name: np.full_like(data, CLIP) * np.array([1, -1], np.float32) for name, data in arrays.items()}
        yield {**arrays, "mask": mask}


def convert(int8: bool, space: bool = False) -> bytes:
    """The tflite file's bytes."""
    import tensorflow as tf

    w = {name: tf.constant(value) for name, value in weights().items()}

    class Tiny(tf.Module):  # type: ignore[misc]
        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec((1, 1, N_TIMES["ecg"], N_CHANS), tf.float32, "ecg"),
                tf.TensorSpec((1, 1, N_TIMES["eda"], N_CHANS), tf.float32, "eda"),
                tf.TensorSpec((1, 2), tf.float32, "mask"),
            ]
        )
        def __call__(self, ecg: Any, eda: Any, mask: Any) -> dict[str, Any]:
            features = []
            for i, (m, x) in enumerate((("ecg", ecg), ("eda", eda))):
                y = tf.nn.relu(tf.nn.conv2d(x, w[m], (1, STRIDE[m]), "VALID"))
                features.append(tf.reduce_mean(y, (1, 2)) * mask[:, i : i + 1])
            both = tf.concat(features, 1)
            logits = {"output_0": tf.matmul(both, w["dense"])}
            return {**logits, "output_1": both * 1.0} if space else {"logits": logits["output_0"]}

    tiny = Tiny()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([tiny.__call__.get_concrete_function()], tiny)
    if int8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = _calibration
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


if __name__ == "__main__":
    for name, how in (("tiny", (True,)), ("tiny_float32", (False,)), ("tiny_space", (True, True))):
        path = Path(__file__).with_name(f"{name}.tflite")
        path.write_bytes(convert(*how))
        sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")
