"""A bundle whose network reads ECG alone: the Transformer, trained a little, converted, and run as the device does."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from test_bundle import ECG, EDA
from test_inference import window
from test_quantize import HELD_OUT, SPEC, TRAINED, checkpoint_tree, make_people, make_pool

from device.bundle import Bundle, check_streams, masks_of, read_bundle, write_bundle
from device.config import Config, ControlConfig, InferenceConfig, JsonlConfig, RecordingConfig, SinksConfig
from device.daemon import run
from device.demo.loader import load
from device.errors import BundleError, InferenceError
from device.inference import RUNTIMES, Classifier
from device.pipeline.spec import MODALITIES
from device.selftest import check_everywhere
from device.sources.virtual import VirtualSensor, VirtualSource
from firmware_bridge.registry import Sensor
from quantize.export import Checkpoint, export_onnx, read_checkpoint
from quantize.package import Options, build
from quantize.recipe import INT8
from quantize.verify import MIN_AGREEMENT
from train.augment import NONE
from train.fit import FitConfig, fit, save_checkpoint
from train.models.acc import AccConfig
from train.models.ecg_transformer import TransformerConfig
from train.models.emobed import EmoBedConfig

SHIPPED = Path(__file__).parent.parent / "device" / "bundles" / "ecg-transformer.affect"
SMALL = TransformerConfig(eda_times=240, stem=4, width=16, layers=1, heads=2, feed=16, hidden=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Checkpoint]:
    folder = tmp_path_factory.mktemp("ecg")
    config = FitConfig(epochs=6, batch=16, mixup=0.0, augmentation=NONE)
    model = fit(make_people(TRAINED), TRAINED, config, SMALL, 0).model
    save_checkpoint(folder / "ecg.pt", model, SPEC, ("rest", "task"), checkpoint_tree(model)["provenance"])
    checkpoint = read_checkpoint(folder / "ecg.pt")
    pool, options = make_pool([*TRAINED, HELD_OUT]), Options(recipe=INT8)
    return build(checkpoint, pool, folder / "ecg.affect", folder, options=options).bundle, checkpoint


@pytest.fixture(scope="module")
def bundle(made: tuple[Bundle, Checkpoint]) -> Bundle:
    return read_bundle(made[0].path)


def test_the_file_is_int8_from_end_to_end_and_reads_nothing_but_ecg(bundle: Bundle) -> None:
    manifest, model = bundle.manifest, bundle.report["model"]
    assert tuple(manifest.inputs) == ("ecg", "mask") and manifest.modalities == manifest.masks == ("ecg",)
    assert {tensor.dtype for tensor in (*manifest.inputs.values(), manifest.output)} == {"int8"}
    assert model["float_operators"] == [] and set(model["dtypes"]) <= {"INT8", "INT32", "INT64"}
    assert [p.mask for p in manifest.parity] == [*manifest.temperature] == [*manifest.thresholds.min_probability]
    (parity,) = manifest.parity
    assert parity.agreement >= MIN_AGREEMENT and parity.cosine > 0.99
    assert parity.balanced_accuracy_float is not None and parity.balanced_accuracy_float > 0.9


@pytest.mark.filterwarnings("ignore:Warning. Enabling `experimental_preserve_all_tensors`:UserWarning")
@pytest.mark.parametrize("which", ["made", "shipped"])
def test_the_second_of_two_activations_is_like_a_weight(which: str, bundle: Bundle) -> None:
    """Its zero is 0, as LiteRT multiplies, and it is never -128: a Cortex-A72 adds two products of it in 16 bits."""
    interpreter = Interpreter(
        model_content=bundle.model if which == "made" else read_bundle(SHIPPED).model,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    seconds = [op["inputs"][1] for op in interpreter._get_ops_details() if op["op_name"] == "BATCH_MATMUL"]
    rng, held = np.random.default_rng(0), []
    for spread in (1, 20, 60, 400):
        for given in interpreter.get_input_details():
            noise = rng.normal(0, spread, given["shape"]).cumsum(axis=-2)  # of the mask: something
            interpreter.set_tensor(given["index"], np.clip(noise, -128, 127).astype(np.int8))
        interpreter.invoke()
        held += [interpreter.get_tensor(i) for i in seconds]
    zeros = {d["index"]: d["quantization"][1] for d in interpreter.get_tensor_details()}
    assert len(seconds) >= 2 and {zeros[i] for i in seconds} == {0}
    assert min(int(it.min()) for it in held) == -127


def test_eda_changes_nothing_and_is_not_said_to_have_been_seen(bundle: Bundle) -> None:
    classifier = Classifier(bundle)
    both, alone = (classifier.classify(window(sqi)) for sqi in ({"ecg": 0.9, "eda": 0.9}, {"ecg": 0.9}))
    assert both.modalities == alone.modalities == ("ecg",)
    assert both.probabilities == alone.probabilities is not None
    assert both.sqi == {"ecg": 0.9, "eda": 0.9}


@pytest.mark.parametrize("missing", ["gap", "warming_up"])
def test_without_ecg_it_abstains_whatever_eda_there_is(bundle: Bundle, missing: str) -> None:
    found = Classifier(bundle).classify(replace(window({"eda": 0.9}), missing={"ecg": missing}))
    assert (found.abstained, found.label, found.modalities) == (missing, None, ())
    assert found.problems["ecg"] == (missing,)


def test_contact_of_a_sensor_that_it_does_not_read_is_no_reason(bundle: Bundle) -> None:
    loose = window({"ecg": 0.1, "eda": 0.1}, {"eda": ("contact",)})
    assert Classifier(bundle).classify(loose).abstained == "quality"


def test_what_it_does_not_read_is_refused_as_an_array(bundle: Bundle) -> None:
    with pytest.raises(InferenceError, match=r"\['eda'\] where some of ecg are needed"):
        Classifier(bundle).logits({"eda": np.zeros((2, 240), np.float32)})


def test_a_sensor_that_it_does_not_read_is_not_enough(bundle: Bundle) -> None:
    check_streams(SPEC, (ECG, EDA), bundle.path, bundle.manifest.modalities)
    with pytest.raises(BundleError, match="bundle reads ecg, attached is eda; attach ecg or use another bundle"):
        check_streams(SPEC, (EDA,), bundle.path, bundle.manifest.modalities)


@pytest.mark.parametrize(("modalities", "masks"), [(MODALITIES, 3), (("ecg",), 1), (("eda",), 1), ((), 0)])
def test_a_network_can_be_shown_what_it_reads(modalities: tuple[str, ...], masks: int) -> None:
    found = masks_of(modalities)
    assert len(found) == masks and all(set(mask.split("+")) <= set(modalities) for mask in found)


@pytest.mark.parametrize("kind", [AccConfig, EmoBedConfig])
@pytest.mark.parametrize("modality", MODALITIES)
def test_every_network_of_one_modality_is_exported_with_it_alone(
    made: tuple[Bundle, Checkpoint], tmp_path: Path, kind: type[AccConfig], modality: str
) -> None:
    shape = kind(eda_times=240, stem=4, widths=(4, 6, 8), hidden=4, modalities=(modality,))
    model = fit(make_people(TRAINED[:1]), TRAINED[:1], FitConfig(epochs=0), shape, 0).model
    save_checkpoint(tmp_path / "one.pt", model, SPEC, ("rest", "task"), checkpoint_tree(model)["provenance"])
    checkpoint = read_checkpoint(tmp_path / "one.pt")
    assert checkpoint.inputs == (modality, "mask")
    export_onnx(checkpoint, tmp_path / "one.onnx")  # which proves that its outputs are torch's


def test_a_manifest_without_any_modality_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    mask_alone = {"mask": bundle.manifest.inputs["mask"]}
    nothing = msgspec.structs.replace(bundle.manifest, inputs=mask_alone)
    with pytest.raises(BundleError, match="inputs: are none of ecg, eda"):
        write_bundle(tmp_path / "none.affect", nothing, bundle.model, bundle.card, {})


def test_the_shipped_transformer_is_int8_through_and_through_and_has_passed_its_gate() -> None:
    bundle = read_bundle(SHIPPED)
    manifest = bundle.manifest
    assert manifest.modalities == ("ecg",) and len(bundle.model) <= 512_000
    assert "of ECG at 128 Hz, and nothing else." in " ".join(bundle.card.split())
    assert bundle.report["model"]["float_operators"] == [] and bundle.report["gate"]["passed"]
    assert all(p.agreement >= MIN_AGREEMENT for p in manifest.parity)
    assert check_everywhere(bundle).keys() == set(RUNTIMES)


def test_the_daemon_runs_it_on_real_ecg_beside_a_wrist_that_it_does_not_read(tmp_path: Path) -> None:
    """A real rest, its ECG flat for its last minute: there it abstains, whatever the wrist has."""
    rest = load("rest")
    ecg, flat = rest.ecg.data.copy(), round(60 * rest.ecg.sfreq)
    ecg[-flat:] = ecg[-flat]
    chest = VirtualSensor("chest", "polar-pmd-ecg", ecg, rest.ecg.sfreq)
    sensors = [chest, VirtualSensor("wrist", "open-eda", rest.eda.data, rest.eda.sfreq)]
    config = Config(
        sensors=(Sensor(role="ecg", name="chest", address="A0:9E:1A:00:00:01", protocol="polar-pmd-ecg"),),
        inference=InferenceConfig(bundle=str(SHIPPED)),
        control=ControlConfig(socket=str(tmp_path / "affectd.sock")),
        recording=RecordingConfig(directory=str(tmp_path / "recordings")),
        sinks=SinksConfig(jsonl=JsonlConfig(path=str(tmp_path / "out.jsonl"))),
    )
    asyncio.run(run(config, sources=[VirtualSource(sensors)], stop=asyncio.Event()))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    predictions = [line for line in lines if "label" in line]
    seen = {tuple(p["modalities"]) for p in predictions}
    assert seen == {("ecg",), ()}
    assert {p["label"] for p in predictions} - {None} <= {"rest", "task"} and predictions[-1]["abstained"] == "contact"
