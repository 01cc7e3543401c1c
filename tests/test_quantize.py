"""affectd-quantize: one real run on a small trained network, then what it says is checked against torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flatbuffers
import msgspec
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests_support import reference_data

from device.bundle import DISCLAIMER, MASKS, MODEL_FORMATS, Bundle, TensorSpec, read_bundle, span
from device.inference import RUNTIMES, Classifier, file_layout
from device.pipeline.model_input import model_input
from device.pipeline.spec import default_spec
from device.selftest import check_everywhere, probe_of
from device.space import Space
from quantize.calibrate import Pool, balanced, calibration_inputs, central, check_no_leak, read_pool, select
from quantize.cli import explain, main
from quantize.convert import SUFFIXES, Converted, Inspection, convert, faults, variant_of
from quantize.corners import Corner, corners, windows
from quantize.errors import CalibrationError, ConvertError, RoomError
from quantize.export import ARGUMENTS, Checkpoint, embed_torch, read_checkpoint, run_onnx, run_torch
from quantize.layers import Layer, guilty, layers
from quantize.observers import MIN_MAX, OBSERVERS
from quantize.package import Options, build
from quantize.recipe import AUTO, INT8, attempts_of, choose
from quantize.report import timing
from quantize.verify import (
    MAX_DROP,
    MIN_AGREEMENT,
    Comparison,
    Wanted,
    compare,
    compare_onnx,
    comparison,
    gate,
    parity,
    run_int8,
    wanted_of,
)
from train.augment import NONE
from train.confidence import confidence, when_to_answer
from train.fit import FORMAT, FitConfig, Network, save_checkpoint
from train.fit import fit as train_fit
from train.models.acc import ACC, AccConfig
from train.models.ecg_transformer import TransformerConfig
from train.models.emobed import EmoBed, EmoBedConfig
from train.objective import Crossmodal
from train.windows import Windows

ROOT = Path(__file__).resolve().parent.parent
SPEC = default_spec()
TRAINED = [f"S{i}" for i in range(1, 7)]
HELD_OUT = "S35"
PER_SUBJECT = 24
CONFIG = AccConfig(eda_times=240, stem=4, widths=(4, 6, 8), hidden=8)
ENCODER = TransformerConfig(stem=8, width=32, layers=1, heads=2, feed=32)
DEFAULT_BUNDLE = ROOT / "device" / "bundles" / "default.affect"


def make_person(subject: str, seed: int) -> Windows:
    """Label 1 has a faster heart and a busier, higher EDA, in physical units and beyond doubt, before scaling."""
    rng = np.random.default_rng(seed)
    labels = np.arange(PER_SUBJECT) % 2
    n, t = len(labels), np.arange(7680) / 128
    rate = (60 + 40 * labels + rng.normal(0, 4, n))[:, None]
    beats = np.exp(-(((((t * rate / 60 + rng.random((n, 1))) % 1) - 0.5) / 0.02) ** 2))
    ecg = np.stack([beats + 0.02 * rng.standard_normal(beats.shape), np.repeat(rate, 7680, 1)], 2)
    phasic = np.stack([np.convolve(row, np.exp(-np.arange(40) / 10))[:240] for row in rng.random((n, 240)) < 0.05])
    tonic = (2 + 3 * labels + rng.normal(0, 0.3, n))[:, None] + 0.02 * rng.standard_normal((n, 240)).cumsum(1)
    eda = np.stack([tonic, 0.3 * phasic * (1 + labels[:, None])], 2)
    arrays = [model_input({"ecg": ecg[i], "eda": eda[i]}, SPEC).arrays for i in range(n)]
    return Windows(
        ecg=np.stack([a["ecg"] for a in arrays]),
        eda=np.stack([a["eda"] for a in arrays]),
        present=np.ones((n, 2), bool),
        label=labels.astype(np.int64),
        target=np.empty((n, 0), np.float32),
        subject=np.full(n, subject),
        start=5.0 * np.arange(n),
        is_scored=np.ones(n, bool),
    )


def make_people(subjects: list[str]) -> Windows:
    people = [make_person(subject, seed) for seed, subject in enumerate(subjects)]
    return Windows(
        **{name: np.concatenate([getattr(p, name) for p in people]) for name in Windows.__dataclass_fields__}
    )


def make_pool(subjects: list[str]) -> Pool:
    w = make_people(subjects)
    present = {"ecg": w.present[:, 0], "eda": w.present[:, 1]}
    return Pool("made", {"ecg": w.ecg, "eda": w.eda}, present, w.label, w.subject)


def save_windows(w: Windows, path: Path, **instead: Any) -> Path:
    """As affectd-train writes them."""
    arrays = {"ecg": w.ecg, "eda": w.eda, "present": w.present, "label": w.label, "subject": w.subject}
    np.savez(path, **{key: value for key, value in (arrays | instead).items() if value is not None})
    return path


def fit(pool: Pool, n_steps: int = 100) -> ACC:
    """A few steps, enough for logits that mean something."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = ACC(CONFIG).train()
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(n_steps):
        indices = rng.choice(len(pool), 8)
        parts = [pool.inputs(indices, mask) for mask in MASKS]  # each batch under every mask, for BatchNorm's sake
        inputs = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in ARGUMENTS}
        tensors = [inputs[name] if name == "mask" else inputs[name][:, :, None] for name in ARGUMENTS]
        target = torch.from_numpy(np.tile(pool.labels[indices], len(MASKS)))
        loss = torch.nn.functional.cross_entropy(network(*tensors), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def checkpoint_tree(network: Network, **provenance: Any) -> dict[str, Any]:
    said = {
        "train_subjects": TRAINED,
        "test_subjects": [HELD_OUT],
        "datasets": [{"name": "made", "licence": "none", "subjects": 6, "surrogate_ecg": True, "url": "none"}],
        "seeds": [0],
        "commit": "0" * 40,
        "command": "pytest",
        "packages": {"numpy": np.__version__},
        "created": "2026-01-02T03:04:05+00:00",
        "task": "rest against task",
        "epochs": 3,
    }
    return {
        "format": FORMAT,
        "model": {"name": "acc", "config": network.config.as_dict()},
        "state": network.state_dict(),
        "spec": msgspec.json.encode(SPEC),
        "labels": ["rest", "task"],
        "provenance": said | provenance,
    }


@dataclass(frozen=True)
class Run:
    folder: Path
    stdout: str
    stderr: str

    @property
    def bundle(self) -> Path:
        return self.folder / "made.affect"

    @property
    def work(self) -> Path:
        return self.folder / "work"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with checkpoint.pt and windows.npz."""
    folder = tmp_path_factory.mktemp("quantize")
    save_windows(make_people([*TRAINED, HELD_OUT]), folder / "windows.npz")
    torch.save(checkpoint_tree(fit(make_pool(TRAINED))), folder / "checkpoint.pt")
    return folder


@pytest.fixture(scope="module")
def run(files: Path) -> Run:
    """The command itself, once: the converter alone takes half a minute."""
    loso = {"system": "acc", "mask": "both", "subjects": 6, "balanced_accuracy": 0.61234, "ci95": [0.5, 0.7]}
    records = [loso | {"mode": "cold_start", "auroc": 0.7}, loso | {"mode": "calibrated", "subjects": 99}]
    (files / "results.json").write_text(json.dumps(records))
    names = ("checkpoint.pt", "--calibration", "windows.npz", "--results", "results.json", "-o", "made.affect")
    command = [sys.executable, "-m", "quantize.cli", *names, "--work", "work", "--bench", "host", "--json"]
    environment = _environment() | {"XDG_CACHE_HOME": str(files / "cache")}  # nothing of an earlier run
    done = subprocess.run(command, cwd=files, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Run(files, done.stdout, done.stderr)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_file_is_int8_from_end_to_end(run: Run) -> None:
    report = read_bundle(run.bundle).report
    assert report["model"]["float_operators"] == []
    assert set(report["model"]["dtypes"]) <= {"INT8", "INT32"}
    assert sum(report["model"]["operators"].values()) > 20
    manifest = read_bundle(run.bundle).manifest
    assert {tensor.dtype for tensor in (*manifest.inputs.values(), manifest.output)} == {"int8"}


def test_every_format_is_judged_and_int8_taken(run: Run) -> None:
    report = read_bundle(run.bundle).report
    found = {attempt["format"]: attempt for attempt in report["attempts"]}
    assert list(found) == list(MODEL_FORMATS) and not any(attempt["failures"] for attempt in found.values())
    floats = {form: attempt["float_operators"] for form, attempt in found.items()}
    assert floats["int8"] == floats["int8x16"] == 0 and floats["float32"] == sum(report["model"]["operators"].values())
    assert report["recipe"]["asked"] == "auto" and report["recipe"]["taken"] == report["model"]["format"] == "int8"
    assert report["recipe"]["why"] == "the smallest of 5 that pass"
    assert found["float32"]["agreement"] == 1.0 and found["float32"]["balanced_accuracy_drop"] == 0.0


@pytest.mark.parametrize("form", [form for form in MODEL_FORMATS if form != "int8"])
def test_every_format_runs_as_a_bundle(form: str, run: Run) -> None:
    """As the tool's own draft of it: on both runtimes, near the float network, and with a test of itself."""
    draft = read_bundle(run.work / "share-100" / "tflite" / Path("model" + SUFFIXES[form]).with_suffix(".affect"))
    assert draft.manifest.model_format == form and draft.manifest.output.dtype == MODEL_FORMATS[form]
    bundle = replace(draft, manifest=msgspec.structs.replace(draft.manifest, probe=probe_of(Classifier(draft))))
    assert [*check_everywhere(bundle)] == [*RUNTIMES]
    pool, checkpoint = read_pool(run.folder / "windows.npz", SPEC, run.folder), run.folder / "checkpoint.pt"
    inputs = pool.inputs(np.arange(0, len(pool), 9), "ecg+eda")
    wanted = run_torch(read_checkpoint(checkpoint).network, inputs)
    np.testing.assert_allclose(run_int8(Classifier(bundle), inputs, "ecg+eda")[0], wanted, atol=0.05)


def test_json_on_stdout_progress_on_stderr(run: Run) -> None:
    (line,) = run.stdout.splitlines()
    said, bundle = json.loads(line), read_bundle(run.bundle)
    assert said["bundle_sha256"] == bundle.sha256
    assert {key: said[key] for key in bundle.report} == bundle.report
    for step in ("export to ONNX", "convert: int8 file", "compare int8", "compare float32"):
        assert step in run.stderr


def test_every_file_is_timed_beside_onnxruntime_and_torch(run: Run) -> None:
    said = json.loads(run.stdout)
    timed = {(r["runtime"], r["format"]) for r in said["latency"] if "median_us" in r}
    assert {("ai-edge-litert", form) for form in MODEL_FORMATS} <= timed
    assert {("onnxruntime", "int8"), ("onnxruntime", "float32"), ("torch", "float32")} <= timed
    assert said["macs"] > 0 and all(r["peak_share"] > 0 for r in said["latency"] if "median_us" in r)
    shown = Console(width=200, record=True)
    shown.print(timing(said))
    assert f"{said['macs']:,} multiply-accumulates" in shown.export_text()
    assert not {"latency", "machine"} & set(read_bundle(run.bundle).report)  # what differs from run to run


def shown(run: Run, n: int = 4) -> list[dict[str, Any]]:
    """Windows in the file's layout."""
    pool = read_pool(run.folder / "windows.npz", SPEC, run.folder)
    inputs = pool.inputs(np.arange(0, len(pool), len(pool) // n), "ecg+eda")
    return [{name: file_layout(array[i]) for name, array in inputs.items()} for i in range(len(inputs["mask"]))]


def made_files(run: Run) -> tuple[Path, Path]:
    made = run.work / "share-100" / "tflite"
    return made / f"model{SUFFIXES['float32']}", made / f"model{SUFFIXES['int8']}"


def test_every_operator_is_followed_and_the_last_says_what_the_file_says(run: Run) -> None:
    """Cut to pieces, both networks still say what each says as a whole."""
    windows, bundle = shown(run), read_bundle(run.bundle)
    found = layers(*made_files(run), windows)
    assert [layer.position for layer in found] == [*range(-3, sum(bundle.report["model"]["operators"].values()))]
    checkpoint, classifier = read_checkpoint(run.folder / "checkpoint.pt"), Classifier(bundle)
    arrays = {m: np.stack([w[m][0, 0].T for w in windows]) for m in ("ecg", "eda")}
    wanted = run_torch(checkpoint.network, arrays | {"mask": np.ones((len(windows), 2), np.float32)})
    told = np.stack([classifier.logits({m: arrays[m][i] for m in arrays}) for i in range(len(windows))])
    last = found[-1]
    error = np.sqrt(np.mean((told - wanted) ** 2) / np.mean(wanted**2))
    assert last.error == pytest.approx(error, abs=2 * bundle.manifest.output.scale / np.sqrt(np.mean(wanted**2)))
    assert (last.low, last.high) == pytest.approx(span(bundle.manifest.output))
    assert all(layer.alone < 0.2 for layer in found) and sum(last.histogram) == wanted.size
    assert {layer.alone for layer in found if layer.operator in ("RESHAPE", "TRANSPOSE", "STRIDED_SLICE")} == {0.0}


def overwritten(int8: Path) -> dict[str, tuple[float, float]]:
    """Products of a file that a sum reads and nothing else does -> the ends of their range."""
    model = schema.ModelT.InitFromPackedBuf(bytearray(int8.read_bytes()), 0)
    graph, kinds = model.subgraphs[0], schema.BuiltinOperator
    kind = {id(op): model.operatorCodes[op.opcodeIndex].builtinCode for op in graph.operators}
    products = [int(op.outputs[0]) for op in graph.operators if kind[id(op)] == kinds.MUL]
    readers = {i: [kind[id(op)] for op in graph.operators if i in op.inputs] for i in products}
    tensors = [graph.tensors[i] for i in products if readers[i] == [kinds.ADD]]
    steps = {t.name.decode(): (float(t.quantization.scale[0]), int(t.quantization.zeroPoint[0])) for t in tensors}
    return {name: (scale * (-128 - zero), scale * (127 - zero)) for name, (scale, zero) in steps.items()}


@pytest.mark.parametrize("observer", OBSERVERS)
def test_a_product_has_the_range_of_what_it_held_and_not_of_the_sum_that_overwrites_it(observer: str, run: Run) -> None:
    """Over the windows that calibrated; what the float file holds before the sum takes its memory is the reference."""
    folder, float32 = run.work / "share-100", made_files(run)[0]
    found = overwritten(float32.with_name("model" + SUFFIXES[variant_of("int8", observer)]))
    assert len(found) >= 4
    arrays = {name: np.load(folder / f"calibration_{name}.npy") for name in ARGUMENTS}
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(float32), experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)
    places = {d["name"]: d["index"] for d in interpreter.get_tensor_details() if d["name"] in found}
    held: dict[str, list[float]] = {name: [0.0] for name in found}
    for i in range(len(arrays["mask"])):
        interpreter.get_signature_runner()(**{name: array[i : i + 1] for name, array in arrays.items()})
        for name, index in places.items():
            value = interpreter.get_tensor(index)
            held[name] += [float(value.min()), float(value.max())]
    for name, (low, high) in found.items():
        least, most = min(held[name]), max(held[name])
        step = (high - low) / 255
        assert least - 2 * step <= low and high <= most + 2 * step, name
        assert observer != MIN_MAX or (low, high) == pytest.approx((least, most), abs=2 * step)


@pytest.mark.parametrize("position", [8, 27, 45])
def test_an_operator_whose_range_is_wrong_is_found(position: int, run: Run, tmp_path: Path) -> None:
    """The range of one output an eighth as wide as it was: its operator is found, not those that read it."""
    float32, int8 = made_files(run)
    model = schema.ModelT.InitFromPackedBuf(bytearray(int8.read_bytes()), 0)
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[position].outputs[0]].quantization.scale /= 8
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    (tmp_path / "damaged.tflite").write_bytes(bytes(builder.Output()))
    before, after = (layers(float32, path, shown(run)) for path in (int8, tmp_path / "damaged.tflite"))
    assert guilty(after).position == position and f"at {position} (" in guilty(after).name
    at = position + 3  # the inputs come first
    assert after[at].alone > 5 * before[at].alone
    assert [a.alone for a in after[:at]] == [b.alone for b in before[:at]]


def test_the_bundle_has_a_page_of_its_report(run: Run) -> None:
    bundle = read_bundle(run.bundle)
    assert [msgspec.convert(layer, Layer).position for layer in bundle.report["layers"]]
    worst = guilty([msgspec.convert(layer, Layer) for layer in bundle.report["layers"]])
    assert f"The most is {worst.operator} at {worst.position}" in " ".join(bundle.page.split())
    for words in (
        "the smallest of 5 that pass",
        "low for a while",
        f"<td>{HELD_OUT}</td>",
        "of the machine's int8 peak",
    ):
        assert words in bundle.page
    outside = re.findall(r"(?:src|href)=.(?!#)[^ >]*|url\((?!#)[^)]*|@import", bundle.page)
    assert outside == [] and bundle.page.count("<svg") == 2


def test_parity_in_the_manifest_comes_out_again(run: Run) -> None:
    bundle, pool = read_bundle(run.bundle), read_pool(run.folder / "windows.npz", SPEC, run.folder)
    checkpoint = read_checkpoint(run.folder / "checkpoint.pt")
    chosen = select(pool, TRAINED, 2, seed=0)
    wanted = wanted_of(checkpoint.network, pool, chosen.parity, bundle.manifest.temperature)
    found = [*compare_onnx(run.work / "model.onnx", wanted), *compare(bundle, wanted)]
    assert parity(found) == bundle.manifest.parity
    assert {p.mask for p in bundle.manifest.parity} == set(MASKS)
    assert gate(found) == []
    assert {c.against for c in found} == {"onnxruntime", *RUNTIMES}
    assert all({*c.subjects} == {*TRAINED, HELD_OUT} for c in found)


def test_another_networks_weights_fail_the_gate(run: Run) -> None:
    bundle, pool = read_bundle(run.bundle), read_pool(run.folder / "windows.npz", SPEC, run.folder)
    torch.manual_seed(1)
    chosen = select(pool, TRAINED, 2, seed=0).parity
    found = compare(bundle, wanted_of(ACC(CONFIG).eval(), pool, chosen, bundle.manifest.temperature))
    assert {failure.split(" on ")[0] for failure in gate(found)} == set(MASKS)


def test_runtimes_agree_to_one_step_or_two(run: Run) -> None:
    bundle, pool = read_bundle(run.bundle), read_pool(run.folder / "windows.npz", SPEC, run.folder)
    first, second = (Classifier(bundle, runtime) for runtime in RUNTIMES)
    for i in range(0, len(pool), 5):
        arrays = {m: pool.arrays[m][i] for m in ("ecg", "eda")}
        difference = np.abs(first.logits(arrays) - second.logits(arrays)).max()
        assert difference <= 4 * bundle.manifest.output.scale  # rounding of each runtime's own kernels, layer by layer


def test_onnx_equals_torch(run: Run) -> None:
    pool, checkpoint = (
        read_pool(run.folder / "windows.npz", SPEC, run.folder),
        read_checkpoint(run.folder / "checkpoint.pt"),
    )
    inputs = pool.inputs(np.arange(0, len(pool), 9), "ecg")
    wanted = run_torch(checkpoint.network, inputs)
    np.testing.assert_allclose(run_onnx(run.work / "model.onnx", inputs), wanted, atol=1e-5)


def test_two_outputs_keep_their_order_whatever_a_format_calls_them() -> None:
    spec = {k: TensorSpec(name="x", shape=(1, k), dtype="float32", scale=0.0, zero_point=0) for k in (2, 32)}
    for first, second in (("logits", "embedding"), ("output_0", "output_1"), ("Identity", "Identity_1")):
        found = inspected("float32", 0.0)
        found = msgspec.structs.replace(found, outputs={second: spec[32], first: spec[2]})
        file = Converted("float32", Path("x"), found, ("logits", "embedding"), (), Path("log"))
        assert file.output.shape == (1, 2) and file.embedding is not None and file.embedding.shape == (1, 32)


@pytest.fixture(scope="module", params=[None, ENCODER], ids=["stem", "transformer"])
def with_space(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, Pool, Checkpoint]:
    """EmoBed's network, trained a little as affectd-train does it, and its bundle; with its stem or a Transformer."""
    folder, people = tmp_path_factory.mktemp("space"), make_people([*TRAINED, HELD_OUT])
    shape = EmoBedConfig(**{**CONFIG.as_dict(), "embedding": 6, "encoder": request.param})
    how, objective = FitConfig(epochs=12, batch=16, augmentation=NONE, running_mean=0.8), Crossmodal()
    sure = confidence(people, TRAINED, 0.5, how, shape, objective)
    model = train_fit(people, TRAINED, how, shape, 0, crossmodal=objective).model
    about = checkpoint_tree(model, **when_to_answer(model, people, TRAINED, sure))["provenance"]
    save_checkpoint(folder / "emobed.pt", model, SPEC, ("rest", "task"), about)
    checkpoint = read_checkpoint(folder / "emobed.pt")
    pool = read_pool(save_windows(people, folder / "windows.npz"), SPEC, folder)
    made = build(checkpoint, pool, folder / "emobed.affect", folder, options=Options(recipe=INT8))
    return made.bundle, pool, checkpoint


def test_a_network_with_a_space_keeps_it_in_int8(with_space: tuple[Bundle, Pool, Checkpoint]) -> None:
    """Both outputs are int8, near the float network's, under every mask and on both runtimes."""
    bundle, pool, checkpoint = with_space
    manifest, network = bundle.manifest, checkpoint.network
    assert isinstance(network, EmoBed) and manifest.embedding is not None
    assert (manifest.embedding.dtype, manifest.embedding.shape) == ("int8", (1, 6))
    assert bundle.report["model"]["float_operators"] == []
    assert manifest.space == msgspec.convert(checkpoint.provenance["space"], Space)
    assert manifest.temperature == checkpoint.provenance["temperature"]
    assert all(c["familiar_agreement"] >= MIN_AGREEMENT for c in bundle.report["parity"] if c["against"] in RUNTIMES)
    assert "far from all that it has learned" in " ".join(bundle.card.split())
    for runtime in RUNTIMES:
        classifier = Classifier(bundle, runtime)
        for mask in MASKS:
            inputs = pool.inputs(np.arange(0, len(pool), 7), mask)
            wanted, got = embed_torch(network, inputs), run_int8(classifier, inputs, mask)[1]
            assert np.corrcoef(wanted.ravel(), got.ravel())[0, 1] > 0.98


def test_another_space_fails_the_gate(with_space: tuple[Bundle, Pool, Checkpoint]) -> None:
    """The same labels, but other places: what is familiar to one is strange to the other."""
    bundle, pool, checkpoint = with_space
    moved = read_checkpoint(Path(checkpoint.path)).network
    assert isinstance(moved, EmoBed)
    with torch.no_grad():
        for projection in moved.projections.values():
            projection.weight.neg_()
            projection.bias.neg_()
        moved.head[1].weight.neg_()
    chosen = select(pool, TRAINED, 2, seed=0).parity
    failures = gate(compare(bundle, wanted_of(moved, pool, chosen, bundle.manifest.temperature)))
    assert failures and all("familiar" in failure for failure in failures)


def test_card_says_what_it_must(run: Run) -> None:
    bundle = read_bundle(run.bundle)
    card = bundle.card
    assert DISCLAIMER in card
    assert "surrogate" in card
    assert "never been validated on labelled ECG" in card
    assert "| acc | surrogate ECG and EDA | 6 | 0.612 | 0.500 - 0.700 | 0.700 |" in card
    assert "| 99 |" not in card
    for p in bundle.manifest.parity:
        assert f"| {p.n_windows} | {p.agreement:.3f} | {p.cosine:.4f} |" in card
    assert bundle.report["training"]["epochs"] == 3
    assert "Format int8: the smallest of 5 that pass." in " ".join(card.split())
    assert bundle.report["windows"]["calibration_subjects"] == TRAINED


def test_converter_crash_shows_its_last_lines(tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no network at all")
    pool = make_pool(TRAINED)
    inputs = pool.inputs(np.arange(4), "ecg+eda")
    with pytest.raises(ConvertError) as caught:
        convert(bad, inputs, tmp_path / "work")
    log = caught.value.log.read_text()
    assert caught.value.last_lines and all(line in log for line in caught.value.last_lines)
    *shown, last = explain(caught.value)
    assert len(shown) == len(caught.value.last_lines)
    assert "exit code" in last and str(caught.value.log) in last


def test_too_little_disk_is_said_before_anything_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    with pytest.raises(RoomError, match=r"/work: 100 MB are free where 31\d MB are needed; make room, or let --work"):
        convert(tmp_path / "some.onnx", make_pool(TRAINED).inputs(np.arange(4), "ecg+eda"), tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_an_interruption_leaves_nothing_behind_and_says_what_to_do(files: Path, tmp_path: Path) -> None:
    """Ctrl-C while the converter runs, which goes to the whole group of processes as a terminal sends it."""
    output, scratch = tmp_path / "out.affect", tmp_path / "tmp"
    scratch.mkdir()
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)",
        "from quantize.cli import main; main()",
    )
    arguments = [str(files / "checkpoint.pt"), "--calibration", str(files / "windows.npz"), "-o", str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", "\n".join(code), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(scratch), "HOME": str(tmp_path)},
    ) as tool:
        assert tool.stderr is not None
        for line in tool.stderr:
            if "convert: operators" in line:
                os.killpg(tool.pid, signal.SIGINT)
                break
        last = [*tool.stderr][-1]
        assert tool.wait() == 130
    assert last == "affectd-quantize: interrupted, nothing was written; run it again: what was converted is kept\n"
    assert not output.exists() and not list(scratch.iterdir())


def refusal(capsys: pytest.CaptureFixture[str], checkpoint: Path, calibration: Path, *more: str) -> str:
    """The one line with which the command refuses."""
    output = checkpoint.parent / "refused.affect"
    with pytest.raises(SystemExit) as caught:
        main([str(checkpoint), "--calibration", str(calibration), "-o", str(output), *more])
    assert caught.value.code == 2
    assert not output.exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "missing"])
def test_bad_checkpoint(damage: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (files / "checkpoint.pt").read_bytes()
    broken = {"truncated": data[:-900], "flipped": b"\0" * 64 + data[64:], "empty": b"", "foreign": b"PK\3\4 hello"}
    path = tmp_path / "bad.pt"
    if damage in broken:
        path.write_bytes(broken[damage])
    assert str(path) in refusal(capsys, path, files / "windows.npz")


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("format", "affectd-checkpoint/0", "format"),
        ("labels", ["rest", "task", "fun"], "labels"),
        ("spec", b"{}", "spec"),
        ("model", {"name": "acc", "config": {"n_outputs": 3}}, "file"),
        ("model", {"name": "acc", "config": {"colour": 3}}, "file"),
        ("provenance", {"train_subjects": TRAINED, "datasets": [{"name": 3}]}, "provenance"),
        ("state", None, "file"),
        ("labels", None, "labels"),
    ],
)
def test_checkpoint_that_does_not_fit(
    key: str, value: object, place: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = torch.load(files / "checkpoint.pt", weights_only=True) | {key: value}
    if value is None:
        del tree[key]
    torch.save(tree, tmp_path / "bad.pt")
    line = refusal(capsys, tmp_path / "bad.pt", files / "windows.npz")
    assert f"bad.pt: {place}" in line


@pytest.mark.parametrize("absent", ["ecg", "eda"])
def test_calibration_without_a_modality(
    absent: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    column = ["ecg", "eda"].index(absent)
    windows = make_people(TRAINED)
    windows.present[:, column] = False
    line = refusal(capsys, files / "checkpoint.pt", save_windows(windows, tmp_path / "w.npz"))
    assert "mask ecg+eda: 0 labelled windows" in line


@pytest.mark.parametrize(
    ("subjects", "said"), [(["S35"], "S35"), (["S1", "S2", "S35"], "2 training subjects"), (["X1", "X2"], "X1, X2")]
)
def test_calibration_needs_training_subjects(
    subjects: list[str], said: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, files / "checkpoint.pt", save_windows(make_people(subjects), tmp_path / "w.npz"))
    assert "w.npz: subjects" in line
    assert said in line


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"eda": np.zeros((24, 2, 100), np.float32)}, "eda: shape (24, 2, 100)"),
        ({"present": np.ones((24, 3), bool)}, "present: "),
        ({"subject": np.array(["S1"])}, "subject: "),
        ({"label": np.full(24, 7)}, "label: 7..7"),
        ({"label": None}, "cannot be read"),
        ({"label": np.array([None] * 24)}, "cannot be read"),
    ],
)
def test_bad_windows(
    instead: dict[str, Any], said: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_windows(make_people(["S1"]), tmp_path / "w.npz", **instead)
    line = refusal(capsys, files / "checkpoint.pt", path)
    assert str(path) in line and said in line


@pytest.mark.parametrize(("data", "said"), [(None, "No such file"), (b"", "cannot"), (b"PK no", "cannot")])
def test_unreadable_windows(
    data: bytes | None, said: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if data is not None:
        (tmp_path / "w.npz").write_bytes(data)
    assert said in refusal(capsys, files / "checkpoint.pt", tmp_path / "w.npz")


def test_folder_that_is_no_data_set(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, files / "checkpoint.pt", tmp_path, "--cache", str(tmp_path / "cache"))
    assert str(tmp_path) in line


@pytest.mark.parametrize("content", ["{", "[]", '[{"mode": "cold_start"}]'])
def test_bad_results(content: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.json").write_text(content)
    line = refusal(capsys, files / "checkpoint.pt", files / "windows.npz", "--results", str(tmp_path / "r.json"))
    assert "r.json: " in line


def test_calibration_windows_are_training_subjects_of_every_mask() -> None:
    pool = make_pool([*TRAINED, HELD_OUT])
    chosen = select(pool, TRAINED, 2, seed=3)
    for mask, indices in chosen.calibration.items():
        _, counts = np.unique(
            [f"{s} {label}" for s, label in zip(pool.subjects[indices], pool.labels[indices], strict=True)],
            return_counts=True,
        )
        assert set(pool.subjects[indices]) == set(TRAINED)
        assert len(counts) == 2 * len(TRAINED) and counts.max() - counts.min() <= 1
        for judges in chosen.parity.values():
            assert not set(judges) & set(indices), mask
    masks = calibration_inputs(pool, chosen, SPEC)["mask"]
    assert {tuple(row) for row in masks.tolist()} == {(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)}


def test_central_leaves_out_the_extremes_and_nothing_for_one() -> None:
    logits = np.arange(200, dtype=np.float32).reshape(100, 2)
    inputs = {"mask": np.arange(100, dtype=np.float32)[:, None]}
    np.testing.assert_array_equal(central(inputs, logits, 1.0)["mask"], inputs["mask"])
    np.testing.assert_array_equal(central(inputs, logits, 0.9)["mask"][:, 0], np.arange(5, 95))


def test_leak_is_caught() -> None:
    pool = make_pool([*TRAINED, HELD_OUT])
    leak = {"ecg": np.flatnonzero(pool.subjects == HELD_OUT)[:1]}
    with pytest.raises(CalibrationError, match="S35"):
        check_no_leak(pool, leak, TRAINED)


def test_values_beyond_the_clip_do_not_calibrate() -> None:
    pool = make_pool(TRAINED)
    pool.arrays["eda"][:] = np.nan
    with pytest.raises(CalibrationError, match="eda: holds nan"):
        calibration_inputs(pool, select(pool, TRAINED, 2, seed=0), SPEC)


EMPTY = {m: np.zeros((0, 2, n), np.float32) for m, n in (("ecg", 7680), ("eda", 240))}
CELLS = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 1)), min_size=1, max_size=60)


@given(CELLS, st.integers(0, 70), st.integers(0, 2**31))
def test_balanced_gives_each_cell_its_turn(cells: list[tuple[str, int]], n: int, seed: int) -> None:
    subjects, labels = np.array([c[0] for c in cells]), np.array([c[1] for c in cells], np.int64)
    pool = Pool("made", EMPTY, {}, labels, subjects)
    chosen = balanced(pool, np.arange(len(cells)), n, seed)
    assert len(chosen) == min(n, len(cells)) == len(set(chosen))
    np.testing.assert_array_equal(chosen, balanced(pool, np.arange(len(cells)), n, seed))
    taken = {cell: sum(cells[i] == cell for i in chosen) for cell in set(cells)}
    short = [taken[cell] for cell in taken if taken[cell] < cells.count(cell)]
    assert not short or max(taken.values()) <= min(short) + 1


def test_gate_limits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((1000, 2)).astype(np.float32)
    labels = logits.argmax(1)
    flipped = logits.copy()
    flipped[:20] *= -1  # agreement 0.98, but 2 points of balanced accuracy
    wanted = made_wanted(logits, labels)
    same = comparison(wanted, "x", logits)
    assert (same.agreement, same.error_max, same.drop, same.failures()) == (1.0, 0.0, 0.0, [])
    assert same.cosine == pytest.approx(1.0)
    (failure,) = comparison(wanted, "x", flipped).failures()
    assert "balanced accuracy drops by 0.020" in failure
    flipped[:21] = -logits[:21]
    assert len(comparison(wanted, "x", flipped).failures()) == 2


def made_wanted(logits: Any, labels: Any, subjects: Any = None) -> Wanted:
    """Of a float network that says these logits."""
    who = np.full(len(labels), "S1") if subjects is None else subjects
    return Wanted("ecg", {}, labels, who, 1.0, logits, None)


def made_comparison(first: Any, second: Any, labels: Any, subjects: Any) -> Comparison:
    return comparison(made_wanted(first, labels, subjects), "x", second)


def test_one_person_whom_the_file_fails_is_named() -> None:
    """Few windows of many: the whole still agrees well enough, the person does not."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2000, 2)).astype(np.float32)
    subjects = np.repeat([f"S{i}" for i in range(20)], 100)
    worse = logits.copy()
    worse[300:312] *= -1
    labels = rng.integers(0, 2, 2000)
    found = made_comparison(logits, worse, labels, subjects)
    assert found.agreement == 0.994 and found.subjects["S3"] == 0.88 and found.subjects_failed == ("S3",)
    assert any("too low for chance on S3 0.880" in failure for failure in found.failures())
    worse[300:312] = logits[300:312]
    worse[300:304] *= -1  # 96 of 100: no rarity among twenty people
    assert made_comparison(logits, worse, labels, subjects).subjects_failed == ()


def test_lost_calibration_fails_the_gate_though_every_label_is_kept() -> None:
    rng = np.random.default_rng(0)
    logits = np.stack([np.zeros(4000), rng.normal(0, 1, 4000)], 1).astype(np.float32)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-logits[:, 1]))).astype(np.int64)  # sure as it is right
    found = made_comparison(logits, 3 * logits, labels, np.full(4000, "S1"))
    assert found.agreement == 1.0 and found.drop == 0.0 and found.ece_change > 0.05
    (failure,) = found.failures()
    assert "calibration error grows" in failure
    assert made_comparison(3 * logits, logits, labels, np.full(4000, "S1")).failures() == []


def test_the_interval_of_what_is_lost_is_over_people() -> None:
    labels = np.tile([0, 1], 200)
    logits = np.eye(2, dtype=np.float32)[labels]
    subjects = np.repeat(["S1", "S2", "S3", "S4"], 100)
    worse = logits.copy()
    worse[:20] = worse[:20, ::-1]
    low, high = made_comparison(logits, worse, labels, subjects).drop_ci95
    assert low == 0.0 < 0.05 < high <= 0.2


@dataclass(frozen=True)
class Candidate:
    """What ``choose`` looks at."""

    file: Any
    size: int
    failures: list[str]


def candidates(**said: tuple[int, list[str]]) -> list[Any]:
    return [
        Candidate(SimpleNamespace(format=form.replace("_", "-")), size, failures)
        for form, (size, failures) in said.items()
    ]


@pytest.mark.parametrize(
    ("said", "medians", "taken", "why"),
    [
        ({"int8": (10, []), "float32": (40, [])}, {}, "int8", "the smallest of 2 that pass"),
        ({"int8": (10, ["no"]), "float32": (40, [])}, {}, "float32", "the only one that passes; int8 fails: no"),
        (
            {"int8": (100, []), "float16": (108, [])},
            {"int8": 90, "float16": 40},
            "float16",
            "2.2 times as fast as int8",
        ),
        ({"int8": (100, []), "float16": (108, [])}, {"int8": 50, "float16": 40}, "int8", "the smallest of 2"),
        ({"int8": (100, []), "float32": (400, [])}, {"int8": 90, "float32": 4}, "int8", "the smallest of 2"),
        ({"int8": (100, []), "float16": (108, [])}, {"float16": 40}, "int8", "the smallest of 2"),
        ({"int8": (100, ["a", "b"]), "float16": (108, ["a"])}, {}, "float16", "none passes"),
    ],
)
def test_the_recipe(said: dict[str, Any], medians: dict[str, float], taken: str, why: str) -> None:
    best, reason = choose(candidates(**said), medians, AUTO)
    assert best.file.format == taken and reason.startswith(why)


def test_a_format_that_was_asked_for_is_not_changed_for_speed() -> None:
    best, why = choose(candidates(int8=(10, [])), {"int8": 90, "float32": 1}, "int8")
    assert (best.file.format, why) == ("int8", "it was asked for")


def inspected(dtype: Any, scale: float, **more: Any) -> Inspection:
    tensor = TensorSpec(name="x", shape=(1, 2), dtype=dtype, scale=scale, zero_point=0)
    parts: dict[str, Any] = {"operators": {"ADD": 1}, "foreign": (), "float_operators": (), "dtypes": {}}
    return Inspection(inputs={"x": tensor}, outputs={"y": tensor}, **{**parts, **more})


@pytest.mark.parametrize(
    ("form", "found", "fault"),
    [
        ("int8", inspected("int8", 0.1), None),
        ("int8x16", inspected("int16", 0.1), None),
        ("float16", inspected("float32", 0.0, float_operators=("ADD: FLOAT32",)), None),
        ("int8", inspected("int8", 0.1, float_operators=("ADD: FLOAT32",)), "float operators are left: ADD: FLOAT32"),
        ("int8x16", inspected("int8", 0.1), "x is int8 with scale 0.1, not int16"),
        ("int8", inspected("int8", 0.0), "x is int8 with scale 0.0, not int8"),
        ("float32", inspected("float32", 0.0, foreign=("FlexErf",)), "operators no runtime has: FlexErf"),
    ],
)
def test_a_file_is_what_its_format_says(form: str, found: Inspection, fault: str | None) -> None:
    first = next(faults(found, form, {"x": (1, 2)}), None)
    assert first == fault
    assert "where {'x': (1, 3)} and 1 are due" in next(faults(found, form, {"x": (1, 3)}))


def test_corners_stay_within_what_a_device_answers() -> None:
    for name, (is_answered, array) in windows((2, 1000), 10.0, 0.25).items():
        assert array.shape == (2, 1000) and np.abs(array).max() <= 10.0
        assert is_answered == ((np.abs(array) >= 10.0).mean() <= 0.25), name


def test_another_network_is_found_at_the_corners(run: Run) -> None:
    """A file that turns round what is certain there, or says nothing finite, is refused."""
    bundle, checkpoint = read_bundle(run.bundle), read_checkpoint(run.folder / "checkpoint.pt")
    assert [f for corner in corners(bundle, checkpoint) for f in corner.failures()] == []
    assert {c.mask for c in corners(bundle, checkpoint)} == {*MASKS, "nothing"}
    last = [module for module in checkpoint.network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.neg_()
        last.bias.copy_(torch.tensor([40.0, -40.0]))
    assert any("the label has" in f for corner in corners(bundle, checkpoint) for f in corner.failures())
    said = {"corner": "zeros", "mask": "ecg", "against": "x", "is_answered": True}
    broken = Corner(**said, is_finite=False, probability_float=1.0, probability=float("nan"))
    assert broken.failures() == ["zeros, ecg on x: a logit is not finite"]


def test_the_shipped_bundle_has_passed_its_gate() -> None:
    bundle = read_bundle(DEFAULT_BUNDLE)
    report = bundle.report
    assert report["gate"]["passed"] and not report["model"]["float_operators"]
    assert report["model"]["size_bytes"] == len(bundle.model) <= 128_000
    for p in bundle.manifest.parity:
        assert p.agreement >= MIN_AGREEMENT, p.mask
        assert p.balanced_accuracy_float is not None and p.balanced_accuracy_int8 is not None
        assert p.balanced_accuracy_float - p.balanced_accuracy_int8 <= MAX_DROP, p.mask
        assert f"| {p.n_windows} | {p.agreement:.3f} | {p.cosine:.4f} |" in bundle.card
    assert not set(report["windows"]["calibration_subjects"]) & set(report["training"]["test_subjects"])


@pytest.mark.slow
def test_the_shipped_bundles_parity_comes_out_again(tmp_path: Path) -> None:
    """From the data set, through the pipeline, with the checkpoint that train/runs/default.sh left behind."""
    data, left = reference_data() / "stress_predict", ROOT / "runs-out"
    if not (left / "emobed.pt").is_file():
        pytest.skip("runs-out/emobed.pt is not there: run train/runs/default.sh first")
    bundle, checkpoint = read_bundle(DEFAULT_BUNDLE), read_checkpoint(left / "emobed.pt")
    pool = read_pool(data, checkpoint.spec, left / "prepared", checkpoint.provenance["task"])
    chosen = select(pool, checkpoint.subjects("train_subjects"), len(checkpoint.labels), seed=0)
    wanted = wanted_of(checkpoint.network, pool, chosen.parity, bundle.manifest.temperature)
    again = {p.mask: p for p in parity(compare(bundle, wanted))}
    for p in bundle.manifest.parity:  # within what another processor's rounding may move
        assert again[p.mask].n_windows == p.n_windows
        assert again[p.mask].agreement == pytest.approx(p.agreement, abs=3 / p.n_windows)
        assert again[p.mask].cosine == pytest.approx(p.cosine, abs=1e-3)
        assert again[p.mask].balanced_accuracy_int8 == pytest.approx(p.balanced_accuracy_int8, abs=3 / p.n_windows)


@dataclass
class Scripted:
    """A conversion whose files say which share and variant they are."""

    asked: list[float]

    def run(self, share: float, on_step: Any) -> dict[str, SimpleNamespace]:
        self.asked.append(share)
        return {v: SimpleNamespace(variant=v, share=share, format=v.split()[0]) for v in SUFFIXES}


@pytest.mark.parametrize(
    ("passes", "tried"),
    [
        ((1.0, "int8"), [(1.0, "int8")]),
        ((0.99, "int8"), [(1.0, "int8"), (0.99, "int8")]),
        ((1.0, "int8 mse"), [(1.0, "int8"), (0.99, "int8"), (1.0, "int8 percentile"), (1.0, "int8 mse")]),
        (None, [(1.0, "int8"), (0.99, "int8"), (1.0, "int8 percentile"), (1.0, "int8 mse")]),
    ],
)
def test_other_observers_are_tried_where_no_share_passes(
    passes: tuple[float, str] | None, tried: list[tuple[float, str]]
) -> None:
    conversion: Any = Scripted([])

    def judged(share: float, file: Any) -> Any:
        assert share == file.share
        return SimpleNamespace(share=share, file=file, failures=[] if (share, file.variant) == passes else ["no"])

    found = attempts_of(conversion, INT8, (1.0, 0.99), tuple(OBSERVERS), judged, lambda _: None)
    assert [(a.share, a.file.variant) for a in found] == tried
    assert conversion.asked == sorted({share for share, _ in tried}, reverse=True)
    alone = attempts_of(conversion, INT8, (1.0,), ("percentile",), judged, lambda _: None)
    assert [a.file.variant for a in alone] == ["int8 percentile"]
    wide = attempts_of(conversion, "int8x16", (1.0,), tuple(OBSERVERS), judged, lambda _: None)
    assert [a.file.variant for a in wide] == ["int8x16"]
