"""Inference against a float network in NumPy, on both runtimes, and each reason to abstain."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import (
    CARD,
    DATA,
    MODEL,
    REPORT,
    space_bundle,
    tiny_bundle,
    tiny_manifest,
    tiny_network,
    tiny_space,
)

from device.bundle import MASKS, Bundle, TensorSpec, write_bundle
from device.errors import BundleError, InferenceError
from device.inference import RUNTIMES, Classifier, Prediction, _load, _without_banner, dequantize, quantize
from device.pipeline.errors import PipelineError
from device.pipeline.model_input import Baseline, model_input
from device.pipeline.spec import MODALITIES, default_spec
from device.pipeline.types import Quality, Window

Float32 = npt.NDArray[np.float32]
TINY = tiny_network()
SPEC = default_spec()
MODULES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
QUANTIZATION_STEPS = 2.0
"""int8 may differ this much from float, in steps of the output; one of them is the output's own rounding."""

runtimes = pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                importlib.util.find_spec(module) is None, reason=f"{name} is not installed (it has no wheel here)"
            ),
        )
        for name, module in MODULES.items()
    ],
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.affect")


def some_inputs(n: int) -> list[dict[str, Float32]]:
    """Windows the network was not calibrated on; each mask in turn."""
    keep = (("ecg", "eda"), ("ecg",), ("eda",))
    return [{m: a[m] for m in keep[i % 3]} for i, a in enumerate(TINY.inputs(n, seed=7))]


def window(
    sqi: Mapping[str, float], problems: Mapping[str, tuple[str, ...]] | None = None, level: float = 3.0
) -> Window:
    """A window of plausible signals; a modality without an sqi is missing."""
    rng = np.random.default_rng(3)
    ecg = np.column_stack([rng.normal(0, 0.2, 7680), np.full(7680, 80.0)])
    eda = np.column_stack([np.full(240, level), rng.normal(0, 0.1, 240)])
    data = {m: x for m, x in (("ecg", ecg), ("eda", eda)) if m in sqi}
    quality = {m: Quality(value, (problems or {}).get(m, ())) for m, value in sqi.items()}
    return Window(4, 20.0, data, quality, {m: "gap" for m in MODALITIES if m not in sqi})


# --- arithmetic -----------------------------------------------------------------------------------------------------

INT8 = TensorSpec(name="x", shape=(1,), dtype="int8", scale=0.05, zero_point=-7)
FLOAT = TensorSpec(name="x", shape=(1,), dtype="float32", scale=0.0, zero_point=0)


@pytest.mark.parametrize(
    ("step", "stored"),
    [(127.6, 127), (128.0, 127), (255.0, 127), (1e30, 127), (-128.4, -128), (-129.0, -128), (-1e30, -128)],
)
def test_out_of_range_saturates(step: float, stored: int) -> None:
    value = (step - INT8.zero_point) * INT8.scale
    assert quantize(np.array([value], np.float32), INT8) == stored


def test_infinity_and_overflow_saturate() -> None:
    values = np.array([np.inf, -np.inf, 3e38, -3e38], np.float32)
    assert quantize(values, INT8).tolist() == [127, -128, 127, -128]


@given(
    steps=st.lists(st.integers(-(2**20), 2**20), min_size=1),
    part=st.floats(-0.49, 0.49),
    scale=st.floats(1e-3, 1e3),
    zero_point=st.integers(-128, 127),
)
def test_quantize_is_round_and_clip(steps: list[int], part: float, scale: float, zero_point: int) -> None:
    tensor = TensorSpec(name="x", shape=(1,), dtype="int8", scale=scale, zero_point=zero_point)
    values = np.array([(step + (part if abs(step) < 300 else 0)) * scale for step in steps], np.float32)
    expected = [min(max(step + zero_point, -128), 127) for step in steps]
    assert quantize(values, tensor).tolist() == expected


@given(st.integers(-128, 127), st.floats(1e-6, 1e6), st.integers(-128, 127))
def test_quantize_undoes_dequantize(stored: int, scale: float, zero_point: int) -> None:
    tensor = TensorSpec(name="x", shape=(1,), dtype="int8", scale=scale, zero_point=zero_point)
    assert quantize(dequantize(np.array([stored], np.int8), tensor), tensor).tolist() == [stored]


def test_float_tensors_pass_unchanged() -> None:
    values = np.array([1e20, -0.3], np.float32)
    assert quantize(values, FLOAT).tolist() == values.tolist() == dequantize(values, FLOAT).tolist()


# --- the network ----------------------------------------------------------------------------------------------------


@runtimes
def test_int8_follows_the_float_network(bundle: Bundle, runtime: str) -> None:
    classifier = Classifier(bundle, runtime)
    step = bundle.manifest.output.scale
    for arrays in some_inputs(30):
        np.testing.assert_allclose(classifier.logits(arrays), TINY.reference(arrays), atol=QUANTIZATION_STEPS * step)


@pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES.values()),
    reason="one of the two runtimes is not installed",
)
def test_runtimes_agree_within_one_step(bundle: Bundle) -> None:
    a, b = (Classifier(bundle, runtime) for runtime in RUNTIMES)
    output = bundle.manifest.output
    for arrays in some_inputs(30):
        steps = quantize(a.logits(arrays), output).astype(int) - quantize(b.logits(arrays), output).astype(int)
        assert np.abs(steps).max() <= 1


@runtimes
def test_far_input_is_the_largest_input(bundle: Bundle, runtime: str) -> None:
    """127.6 steps must not wrap to -128 on the way into the network."""
    classifier = Classifier(bundle, runtime)
    ecg = bundle.manifest.inputs["ecg"]
    largest = np.float32((127 - ecg.zero_point) * ecg.scale)
    for beyond in (largest + 0.6 * ecg.scale, 2 * largest, 100 * largest):
        same = classifier.logits({"ecg": np.full((2, 7680), largest, np.float32)})
        assert classifier.logits({"ecg": np.full((2, 7680), beyond, np.float32)}).tolist() == same.tolist()


@runtimes
@pytest.mark.parametrize("present", MODALITIES)
def test_absent_is_mask_zero_whatever_it_holds(bundle: Bundle, runtime: str, present: str) -> None:
    classifier = Classifier(bundle, runtime)
    arrays = some_inputs(1)[0]
    expected = classifier.logits({present: arrays[present]})
    absent = {"ecg": "eda", "eda": "ecg"}[present]
    rng = np.random.default_rng(0)
    tensor = bundle.manifest.inputs[absent]
    interpreter = classifier._interpreter
    assert (interpreter.get_tensor(classifier._index[absent]) == tensor.zero_point).all()
    for garbage in (rng.integers(-128, 128, tensor.shape), np.full(tensor.shape, 127), np.full(tensor.shape, -128)):
        classifier.logits(arrays)  # leaves other values behind everywhere
        classifier.logits({present: arrays[present]})
        interpreter.set_tensor(classifier._index[absent], garbage.astype(np.int8))
        interpreter.invoke()
        stored = interpreter.get_tensor(classifier._index["output"])[0]
        assert dequantize(stored, bundle.manifest.output).tolist() == expected.tolist()


@runtimes
def test_an_earlier_window_leaves_nothing_behind(bundle: Bundle, runtime: str) -> None:
    classifier, windows = Classifier(bundle, runtime), some_inputs(9)
    forward = [classifier.logits(arrays).tolist() for arrays in windows]
    backward = [classifier.logits(arrays).tolist() for arrays in reversed(windows)]
    assert forward == backward[::-1]


@runtimes
def test_float32_file(tmp_path: Path, runtime: str) -> None:
    """A network left in float32 runs through the same calls."""

    def as_float(tensor: TensorSpec) -> TensorSpec:
        return msgspec.structs.replace(tensor, dtype="float32", scale=0.0, zero_point=0)

    m = tiny_manifest()
    m = msgspec.structs.replace(
        m, inputs={key: as_float(tensor) for key, tensor in m.inputs.items()}, output=as_float(m.output)
    )
    model = (DATA / "tiny_float32.tflite").read_bytes()
    classifier = Classifier(write_bundle(tmp_path / "x.affect", m, model, CARD, REPORT), runtime)
    for arrays in some_inputs(6):
        np.testing.assert_allclose(classifier.logits(arrays), TINY.reference(arrays), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
def test_temperature_of_the_mask(bundle: Bundle, mask: str) -> None:
    tempered = replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, temperature=dict.fromkeys(MASKS, 1.0) | {mask: 2.0})
    )
    arrays = {m: a for m, a in some_inputs(1)[0].items() if m in mask.split("+")}
    classifier = Classifier(tempered)
    logits = classifier.logits(arrays).astype(float) / 2.0
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(classifier.answer(arrays).probability, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "modalities"),
        ({"emg": np.zeros((2, 7680), np.float32)}, "emg"),
        ({"ecg": np.zeros((7680, 2), np.float32)}, "ecg of shape"),
        ({"eda": np.full((2, 240), np.nan, np.float32)}, "eda holds NaN"),
    ],
)
def test_what_is_no_input(bundle: Bundle, arrays: dict[str, Float32], words: str) -> None:
    with pytest.raises(InferenceError, match=words):
        Classifier(bundle).logits(arrays)


# --- file against manifest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["ecg", "eda", "mask", "output"])
@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"shape": (1, 1, 7, 2)}, {"dtype": "float32"}, {"scale": 0.5}, {"zero_point": 3}]
)
def test_manifest_that_the_file_contradicts(bundle: Bundle, key: str, change: dict[str, Any]) -> None:
    manifest = bundle.manifest
    if key == "output":
        manifest = msgspec.structs.replace(manifest, output=msgspec.structs.replace(manifest.output, **change))
    else:
        changed = {key: msgspec.structs.replace(manifest.inputs[key], **change)}
        manifest = msgspec.structs.replace(manifest, inputs=manifest.inputs | changed)
    with pytest.raises(BundleError) as caught:
        Classifier(replace(bundle, manifest=manifest))
    assert caught.value.place == f"model.tflite {key if key == 'output' else f'inputs.{key}'}"
    assert str(next(iter(change.values()))) in str(caught.value)


@runtimes
@pytest.mark.parametrize("model", [b"", b"garbage", b"\0" * 4096])
def test_model_that_is_no_network(bundle: Bundle, runtime: str, model: bytes) -> None:
    with pytest.raises(BundleError, match=r"model\.tflite"):
        Classifier(replace(bundle, model=model), runtime)


# --- runtimes -------------------------------------------------------------------------------------------------------


@runtimes
def test_runtime_by_name(bundle: Bundle, runtime: str) -> None:
    assert Classifier(bundle, runtime).runtime == runtime


def test_auto_takes_the_first_installed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [name for name in RUNTIMES if importlib.util.find_spec(MODULES[name])]
    assert Classifier(bundle).runtime == installed[0]
    for name in installed:
        monkeypatch.setitem(
            sys.modules, f"{MODULES[name]}.interpreter", None
        )  # how Python marks what cannot be imported
        rest = installed[installed.index(name) + 1 :]
        if rest:
            assert Classifier(bundle).runtime == rest[0]
    with pytest.raises(InferenceError, match=r"pip install 'affectd\[device\]'"):
        Classifier(bundle)
    with pytest.raises(InferenceError, match=r"tflite-runtime cannot be imported.*affectd\[tflite-runtime\]"):
        Classifier(bundle, "tflite-runtime")


def test_wrong_arguments(bundle: Bundle) -> None:
    with pytest.raises(InferenceError, match="choose auto, ai-edge-litert or tflite-runtime"):
        Classifier(bundle, "onnxruntime")
    with pytest.raises(InferenceError, match="0 threads"):
        Classifier(bundle, threads=0)


def test_numpy_2_under_tflite_runtime_is_said(bundle: Bundle) -> None:
    """tflite-runtime 2.14 beside numpy 2 imports, and then its Interpreter ends in a SystemError (seen with 2.4.6)."""

    def interpreter(**_: object) -> None:
        raise SystemError("<built-in method CreateWrapperFromBuffer> returned a result with an exception set")

    with pytest.raises(InferenceError, match=r"does not work with numpy .*numpy<2"):
        _load(bundle, "tflite-runtime", interpreter, 1)


@runtimes
def test_loading_is_silent(bundle: Bundle, runtime: str, capfd: pytest.CaptureFixture[str]) -> None:
    Classifier(bundle, runtime).logits(some_inputs(1)[0])
    assert capfd.readouterr() == ("", "")


def test_other_lines_pass(capfd: pytest.CaptureFixture[str]) -> None:
    with _without_banner():
        os.write(2, b"ERROR: one\nINFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nINFO: two\n")
    assert capfd.readouterr().err == "ERROR: one\nINFO: two\n"


# --- predictions ----------------------------------------------------------------------------------------------------


def test_prediction_of_a_good_window(bundle: Bundle) -> None:
    classifier, good = Classifier(bundle), window({"ecg": 0.9, "eda": 0.5}, {"eda": ("motion",)})
    prediction = classifier.classify(good)
    expected = classifier.answer(model_input(good.data, SPEC).arrays).probability.tolist()
    assert prediction.probabilities == dict(zip(("rest", "stress"), expected, strict=True))
    assert sum(expected) == pytest.approx(1.0)
    assert prediction.label == ("rest", "stress")[int(np.argmax(expected))]
    assert (prediction.index, prediction.start, prediction.stop) == (4, 20.0, 80.0)
    assert prediction.modalities == ("ecg", "eda") and prediction.abstained is None
    assert prediction.sqi == {"ecg": 0.9, "eda": 0.5} and prediction.problems == {"eda": ("motion",)}


def test_goes_on_with_the_modality_that_is_left(bundle: Bundle) -> None:
    classifier = Classifier(bundle)
    alone = classifier.classify(window({"ecg": 0.9}))
    assert alone.modalities == ("ecg",) and alone.abstained is None and alone.problems == {"eda": ("gap",)}
    for level in (3.0, 1e6, -1e6):  # whatever a bad modality holds
        bad = classifier.classify(window({"ecg": 0.9, "eda": 0.49}, {"eda": ("noise",)}, level))
        assert bad.modalities == ("ecg",) and bad.probabilities == alone.probabilities
        assert bad.problems == {"eda": ("noise",)}
    far = classifier.classify(window({"ecg": 0.9, "eda": 0.9}, {"eda": ("rate",)}, level=100.0))
    assert far.modalities == ("ecg",) and far.probabilities == alone.probabilities
    assert far.problems == {"eda": ("rate", "out_of_range")}


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Window(0, 0.0, {}, {}, {"ecg": "warming_up", "eda": "warming_up"}), "warming_up"),
        (Window(0, 0.0, {}, {}, {"ecg": "warming_up", "eda": "gap"}), "gap"),
        (Window(0, 0.0, {}, {}, {"ecg": "gap"}), "gap"),
        (window({"ecg": 0.0, "eda": 0.4}, {"ecg": ("noise",), "eda": ("flat", "contact")}), "contact"),
        (window({"eda": 0.0}, {"eda": ("contact",)}), "contact"),
        (window({"ecg": 0.49, "eda": 0.1}, {"ecg": ("noise",)}), "quality"),
        (window({"eda": 0.9}, level=100.0), "out_of_range"),
        (window({"ecg": 0.1, "eda": 0.9}, {"ecg": ("contact",)}, level=100.0), "out_of_range"),
    ],
)
def test_abstains(bundle: Bundle, case: Window, reason: str) -> None:
    prediction = Classifier(bundle).classify(case)
    assert prediction.abstained == reason
    assert prediction.label is None and prediction.probabilities is None and prediction.modalities == ()
    assert set(prediction.problems) >= set(case.missing)


def test_uncertain_keeps_its_probabilities(tmp_path: Path) -> None:
    prediction = Classifier(tiny_bundle(tmp_path / "x.affect", min_probability=1.0)).classify(
        window({"ecg": 1, "eda": 1})
    )
    assert (prediction.label, prediction.abstained) == (None, "uncertain")
    assert prediction.modalities == ("ecg", "eda") and set(prediction.probabilities or {}) == {"rest", "stress"}


# --- the space ------------------------------------------------------------------------------------------------------


@runtimes
def test_the_second_output_is_the_float_network_s(tmp_path: Path, runtime: str) -> None:
    classifier = Classifier(space_bundle(tmp_path / "x.affect", tiny_space()), runtime)
    plain = Classifier(tiny_bundle(tmp_path / "y.affect"), runtime)
    step = classifier.bundle.manifest.embedding
    assert step is not None
    for arrays in some_inputs(12):
        logits, embedding = classifier.outputs(arrays)
        assert embedding is not None and embedding.shape == (8,)
        assert np.abs(embedding - TINY.embedding(arrays)).max() <= QUANTIZATION_STEPS * step.scale
        assert np.array_equal(logits, plain.logits(arrays))
        assert plain.outputs(arrays)[1] is None


@pytest.mark.parametrize("sqi", [{"ecg": 1.0, "eda": 1.0}, {"ecg": 1.0}, {"eda": 1.0}])
def test_a_window_far_from_all_known_ones_is_not_answered(tmp_path: Path, sqi: dict[str, float]) -> None:
    """The threshold is that of the window's own mask, and the probabilities are told all the same."""
    mask = "+".join(sqi)
    case = window(sqi)
    near = Classifier(space_bundle(tmp_path / "x.affect", tiny_space())).classify(case)
    assert near.label is not None and near.abstained is None and near.distance is not None
    lower = {mask: near.distance * 0.99}
    far = Classifier(space_bundle(tmp_path / "y.affect", tiny_space(**lower))).classify(case)
    assert (far.label, far.abstained, far.modalities) == (None, "out_of_range", tuple(sqi))
    assert (far.probabilities, far.distance) == (near.probabilities, near.distance)
    strict = dict.fromkeys(MASKS, 0.0) | {mask: 1.0}
    unsure = Classifier(space_bundle(tmp_path / "z.affect", tiny_space(), strict)).classify(case)
    assert (unsure.label, unsure.abstained) == (None, "uncertain")


def test_distances_are_those_of_the_embedding(tmp_path: Path) -> None:
    classifier = Classifier(space_bundle(tmp_path / "x.affect", tiny_space()))
    case = window({"ecg": 1.0, "eda": 1.0})
    spec = classifier.bundle.manifest.spec
    embedding = classifier.outputs(model_input(case.data, spec).arrays)[1]
    assert embedding is not None
    wanted = min(np.sqrt((embedding**2).mean()), np.sqrt(((embedding - 1) ** 2).mean()))
    assert classifier.classify(case).distance == pytest.approx(wanted, rel=1e-6)


def test_a_file_and_a_manifest_with_other_outputs_are_refused(tmp_path: Path) -> None:
    with_space = space_bundle(tmp_path / "x.affect", tiny_space())
    for model, manifest in ((MODEL, with_space.manifest), (with_space.model, tiny_manifest())):
        path = tmp_path / "wrong.affect"
        with pytest.raises(BundleError, match="outputs"):
            Classifier(write_bundle(path, manifest, model, CARD, REPORT))


def test_baseline_moves_the_input(tmp_path: Path) -> None:
    classifier = Classifier(tiny_bundle(tmp_path / "x.affect", default_spec(calibrated=True)))
    case = window({"ecg": 1.0, "eda": 1.0}, level=30.0)
    with pytest.raises(PipelineError, match="baseline"):
        classifier.classify(case)
    near = classifier.classify(case, Baseline({"hr": 80.0, "tonic": 29.0}))
    far = classifier.classify(case, Baseline({"hr": 80.0, "tonic": 0.1}))
    assert near.modalities == ("ecg", "eda") and far.modalities == ("ecg",)


@pytest.mark.parametrize("sqi", [{}, {"ecg": 1.0}, {"ecg": np.float64(0.2), "eda": np.float64(0.9)}])
def test_prediction_is_plain_json(bundle: Bundle, sqi: dict[str, float]) -> None:
    prediction: Prediction = Classifier(bundle).classify(window(sqi))
    tree = prediction.to_json()
    assert json.loads(json.dumps(tree)) == tree
    assert msgspec.json.decode(msgspec.json.encode(tree)) == tree
    assert set(tree) == {
        "index", "start", "stop", "label", "probabilities", "modalities", "abstained", "sqi", "problems", "distance",
        "bundle", "bundle_sha256",
    }  # fmt: skip
    assert (tree["bundle"], tree["bundle_sha256"]) == ("tiny", bundle.sha256)


@runtimes
@settings(max_examples=50)
@given(values=st.lists(st.floats(width=32, allow_nan=False), min_size=4, max_size=4))
def test_any_numbers_give_probabilities(bundle: Bundle, runtime: str, values: list[float]) -> None:
    a, b, c, d = values
    ecg = np.repeat(np.array([[a], [b]], np.float32), 7680, axis=1)
    eda = np.repeat(np.array([[c], [d]], np.float32), 240, axis=1)
    probabilities = Classifier(bundle, runtime).answer({"ecg": ecg, "eda": eda}).probability
    assert np.isfinite(probabilities).all() and probabilities.sum() == pytest.approx(1.0)
