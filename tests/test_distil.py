"""The student against its teacher, and the way from it to a bundle that the device runs."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_people import made_config, made_people, without

from device.bundle import MASKS as BUNDLE_MASKS
from device.bundle import Bundle, read_bundle
from device.errors import InferenceError
from device.inference import Classifier
from device.pipeline.feature_input import feature_input
from device.pipeline.features import FEATURES, columns, features
from device.pipeline.model_input import baseline_of
from device.pipeline.spec import MODALITIES, default_spec
from device.pipeline.types import Quality, Window
from quantize.calibrate import CalibrationError, read_pool
from quantize.errors import GateError
from quantize.export import read_checkpoint
from quantize.package import Options, build, read_results
from train.distil import DistilConfig, Distilled, Table, distil, load_student, predict, save_student, scaled, scaling
from train.distil_command import save_windows, table_of
from train.errors import CheckpointError, TrainError
from train.evaluate import Material
from train.fit import MASKS
from train.models.student import Student, StudentConfig

SPEC = default_spec()
LABELS = ("rest", "stress")
PEOPLE = [f"S{i}" for i in range(1, 10)]
QUICK = DistilConfig(mixed=1000, epochs=20)


def make_window(label: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Label 1 has a faster, steadier heart and a higher, busier EDA, in physical units."""
    t = np.arange(SPEC.n_times("ecg")) / SPEC.ecg.sfreq
    rr = rng.normal(850 - 200 * label + rng.normal(0, 60), 50 - 25 * label, 140)
    beats = np.cumsum(rr) / 1000 - 2
    k = np.searchsorted(beats, t, side="right") - 1
    ecg = np.exp(-(((t - beats[k]) / 0.02) ** 2)) + 0.02 * rng.normal(size=len(t))
    n = SPEC.n_times("eda")
    tonic = 2 + 2 * label + rng.normal(0, 0.7) + 0.01 * rng.normal(size=n).cumsum()
    phasic = np.convolve(rng.random(n) < 0.02 + 0.03 * label, np.exp(-np.arange(40) / 10))[:n] * 0.2
    return {"ecg": np.stack([ecg, 60_000 / rr[k]], axis=1), "eda": np.stack([tonic, phasic], axis=1)}


def make_table(per_person: int = 18) -> tuple[Table, list[dict[str, np.ndarray]]]:
    """Windows of PEOPLE, every sixth without EDA and every sixth without ECG, and their features."""
    rng = np.random.default_rng(0)
    label = np.tile(np.arange(per_person) % 2, len(PEOPLE))
    windows = [make_window(k, rng) for k in label]
    x = np.array([features(w, SPEC) for w in windows])
    present = np.ones((len(x), 2), bool)
    present[4::6, 1] = present[5::6, 0] = False
    for k, m in enumerate(MODALITIES):
        x[~present[:, k], columns(m)] = np.nan
    return Table(x, present, label, np.repeat(PEOPLE, per_person)), windows


@dataclass
class Made:
    """What the tests share."""

    table: Table
    windows: list[dict[str, np.ndarray]]
    distilled: Distilled


@pytest.fixture(scope="module")
def made() -> Made:
    table, windows = make_table()
    return Made(table, windows, distil(table, PEOPLE[:-1], 2, SPEC.clip, QUICK, teacher="classical-rf"))


# --- learning -------------------------------------------------------------------------------------------------------


def test_the_student_says_what_its_teacher_says(made: Made) -> None:
    for mask, found in made.distilled.inner.items():
        assert found["agreement"] > 0.9, (mask, found)
        assert abs(found["student"] - found["teacher"]) < 0.08, (mask, found)
    assert made.distilled.teacher == "classical-rf"
    assert made.distilled.train_subjects == tuple(PEOPLE[:-1])


def test_the_best_teacher_is_taken(made: Made) -> None:
    """Both labels on either side of a third: no line tells them, a tree does."""
    rng = np.random.default_rng(1)
    label = made.table.label
    x = rng.normal(size=made.table.x.shape)
    x[:, [FEATURES.index("hr_mean"), FEATURES.index("ln_tonic")]] = 0.1 * rng.normal(size=(len(x), 2)) + (
        label * rng.choice([-1, 1], len(x))
    ).reshape(-1, 1)
    table = Table(x, np.ones((len(x), 2), bool), label, made.table.subject)
    found = distil(table, PEOPLE, 2, SPEC.clip, replace(QUICK, mixed=50, epochs=1))
    assert found.teacher in ("classical-rf", "classical-gb")
    assert found.scores[found.teacher] > 0.8 > found.scores["classical-lr"]


def test_the_same_seed_gives_the_same_student(made: Made) -> None:
    quick = replace(QUICK, mixed=100, epochs=2)
    one, two, other = (
        distil(made.table, PEOPLE, 2, SPEC.clip, quick, teacher="classical-lr", seed=seed).student.state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_of_a_left_out_person_gets_in(made: Made) -> None:
    quick = replace(QUICK, mixed=100, epochs=2)
    spoilt = made.table.x.copy()
    spoilt[made.table.subject == PEOPLE[-1]] = 1e6
    tables = (made.table, replace(made.table, x=spoilt))
    one, two = (distil(t, PEOPLE[:-1], 2, SPEC.clip, quick, teacher="classical-lr") for t in tables)
    assert one.features == two.features and one.scores == two.scores and one.inner == two.inner
    for name, weights in one.student.state_dict().items():
        assert torch.equal(weights, two.student.state_dict()[name])


def test_scaling_is_that_of_the_windows_that_have_the_feature(made: Made) -> None:
    chosen = scaling(made.table)
    assert chosen.names == FEATURES
    assert chosen.center == pytest.approx(np.nanmean(made.table.x, axis=0).tolist())
    spread = np.nanstd(made.table.x, axis=0)
    assert chosen.scale == pytest.approx(np.where(spread > 1e-9, spread, 1.0).tolist())


def test_an_absent_modality_has_no_influence(made: Made) -> None:
    student = made.distilled.student
    n = {m: getattr(student.config, f"n_{m}") for m in MODALITIES}
    rng = np.random.default_rng(0)
    inputs = {m: rng.normal(size=(8, n[m])).astype(np.float32) for m in MODALITIES}
    for k, absent in enumerate(MODALITIES):
        inputs["mask"] = np.tile(np.float32([k != 0, k != 1]), (8, 1))
        other = {**inputs, absent: rng.normal(size=(8, n[absent])).astype(np.float32)}
        assert np.array_equal(predict(student, inputs), predict(student, other))


def test_a_label_nobody_shows_is_named(made: Made) -> None:
    with pytest.raises(TrainError, match="no usable training window of label 2"):
        distil(made.table, PEOPLE, 3, SPEC.clip, QUICK)


@pytest.mark.parametrize("config", [{"n_ecg": 0, "n_eda": 1}, {"n_ecg": 1, "n_eda": 1, "n_outputs": 1}])
def test_a_student_without_inputs_or_choice_is_refused(config: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="or more"):
        StudentConfig(**config)


# --- train and device -----------------------------------------------------------------------------------------------


def test_training_scales_as_the_device_does(made: Made) -> None:
    chosen = made.distilled.features
    inputs = scaled(made.table.x, made.table.present, chosen, SPEC.clip)
    for i in range(12):
        data = {m: made.windows[i][m] for k, m in enumerate(MODALITIES) if made.table.present[i, k]}
        device = feature_input(data, SPEC, chosen).arrays
        for k, m in enumerate(MODALITIES):
            expected = device[m] if m in device else np.zeros_like(inputs[m][i])
            assert inputs[m][i] == pytest.approx(expected, abs=1e-5)
            assert inputs["mask"][i, k] == (m in device)


def test_calibrated_training_is_what_the_device_does(made: Made) -> None:
    spec = default_spec(calibrated=True)
    rest = [Window(i, 5.0 * i, w, {m: Quality(1.0) for m in w}) for i, w in enumerate(made.windows[:8:2])]
    baseline = baseline_of(rest, spec)
    table = np.array([features(w, spec) for w in made.windows[:18]])
    table -= table[[0, 2, 4, 6]].mean(axis=0)  # as train.systems.feature_table
    both = np.ones((18, 2), bool)
    chosen = scaling(Table(table, both, made.table.label[:18], made.table.subject[:18]))
    inputs = scaled(table, both, chosen, spec.clip)
    for i in range(18):
        device = feature_input(made.windows[i], spec, chosen, baseline).arrays
        assert all(inputs[m][i] == pytest.approx(device[m], abs=1e-4) for m in MODALITIES)


@pytest.mark.parametrize("mode", ["cold_start", "calibrated"])
def test_the_table_is_that_of_the_evaluation(mode: str) -> None:
    people = made_people(3)
    people[1] = without(people[1], "ecg", slice(9, 12))
    material = Material(people, made_config(), mode)
    table, windows = table_of(material, (60.0, 120.0)), material.windows((60.0, 120.0))
    assert np.array_equal(table.x, material.features((60.0, 120.0)), equal_nan=True)
    assert np.array_equal(np.isnan(table.x[:, columns("ecg")]).all(axis=1), ~windows.present[:, 0])
    assert np.array_equal(table.label, windows.label) and np.array_equal(table.subject, windows.subject)


# --- checkpoints ----------------------------------------------------------------------------------------------------


def provenance(**instead: Any) -> dict[str, Any]:
    return {
        "name": "classical-made",
        "task": "rest against stress",
        "teacher": "classical-rf",
        "inner": {mask: {"agreement": 0.97, "teacher": 0.9, "student": 0.9} for mask in MASKS},
        "train_subjects": PEOPLE[:-1],
        "test_subjects": [PEOPLE[-1]],
        "datasets": [{"name": "made", "licence": "none", "subjects": 8, "surrogate_ecg": True, "url": "none"}],
        "seeds": [0],
        "commit": "0" * 40,
        "command": "pytest",
        "packages": {"numpy": np.__version__},
        "created": "2026-01-02T03:04:05+00:00",
    } | instead


def test_a_checkpoint_comes_back_as_it_was(made: Made, tmp_path: Path) -> None:
    save_student(tmp_path / "x" / "c.pt", made.distilled, SPEC, LABELS, provenance())
    student, chosen, content = load_student(tmp_path / "x" / "c.pt")
    assert chosen == made.distilled.features and content["provenance"] == provenance()
    inputs = scaled(made.table.x, made.table.present, chosen, SPEC.clip)
    assert np.array_equal(predict(student, inputs), predict(made.distilled.student, inputs))
    loaded = read_checkpoint(tmp_path / "x" / "c.pt")
    assert loaded.features == chosen and loaded.model_name == "classical-mlp"


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from the file was run",)


def test_a_bad_checkpoint_is_named_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.pt"
    contents: dict[str, Any] = {
        "format": {"format": "affectd-checkpoint/0", "model": {"name": "classical-mlp"}},
        "due": {"format": "affectd-checkpoint/2", "model": {"name": "acc"}},
        "cannot be read": {"format": "affectd-checkpoint/2", "model": {"name": "classical-mlp", "config": {}}},
    }
    for reason, content in contents.items():
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=reason):
            load_student(path)
    torch.save(_Bomb(), path)
    for read in (load_student, read_checkpoint):
        with pytest.raises(CheckpointError):
            read(path)
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CheckpointError):
        load_student(path)
    assert "code from the file" not in capsys.readouterr().out


def test_windows_of_another_kind_are_refused(made: Made, tmp_path: Path) -> None:
    chosen = made.distilled.features
    save_windows(tmp_path / "w.npz", scaled(made.table.x, made.table.present, chosen, SPEC.clip), made.table)
    pool = read_pool(tmp_path / "w.npz", SPEC, tmp_path, features=chosen)
    assert pool.arrays["ecg"].shape == (len(made.table.x), len(chosen.of("ecg")))
    with pytest.raises(CalibrationError, match="give the features that affectd-train distil wrote"):
        read_pool(tmp_path, SPEC, tmp_path, features=chosen)
    with pytest.raises(CalibrationError, match="where the checkpoint's spec gives"):
        read_pool(tmp_path / "w.npz", SPEC, tmp_path)


# --- to the device --------------------------------------------------------------------------------------------------


ONE_SHARE = Options(observers=("min-max",), shares=(1.0,))


def make_bundle(made: Made, distilled: Distilled, folder: Path, options: Options = ONE_SHARE, **results: Any) -> Bundle:
    """Through files, as the commands do it; one conversion."""
    save_student(folder / "c.pt", distilled, SPEC, LABELS, provenance())
    inputs = scaled(made.table.x, made.table.present, distilled.features, SPEC.clip)
    save_windows(folder / "w.npz", inputs, made.table)
    checkpoint = read_checkpoint(folder / "c.pt")
    pool = read_pool(folder / "w.npz", SPEC, folder, features=checkpoint.features)
    (folder / "work").mkdir(exist_ok=True)
    build(checkpoint, pool, folder / "b.affect", folder / "work", options=options, **results)
    return read_bundle(folder / "b.affect")


@pytest.fixture(scope="module")
def bundle(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("classical")
    record = {"mode": "cold_start", "mask": "both", "subjects": 9, "balanced_accuracy": 0.8, "ci95": [0.7, 0.9]}
    path = folder / "loso.json"
    path.write_text(json.dumps([{**record, "system": system} for system in ("acc", "classical-rf")]))
    save_student(folder / "x.pt", made.distilled, SPEC, LABELS, provenance())
    results = read_results(path, read_checkpoint(folder / "x.pt"))
    return make_bundle(made, made.distilled, folder, results=results)


def test_the_bundle_holds_the_features_and_says_whom_it_follows(bundle: Bundle, made: Made) -> None:
    manifest = bundle.manifest
    assert manifest.features == made.distilled.features
    assert manifest.inputs["ecg"].shape == (1, len(made.distilled.features.of("ecg")))
    assert manifest.output.dtype == manifest.inputs["eda"].dtype == "int8"
    assert all(p.agreement >= 0.98 for p in manifest.parity)
    assert len(bundle.model) < 32_000
    text = " ".join(bundle.card.split())
    assert f"{len(FEATURES)} features of windows" in text
    assert "distilled from one of these systems, classical-rf" in text
    assert "ECG alone 0.970" in text


@pytest.mark.parametrize("shown", [MODALITIES, ("ecg",), ("eda",)])
def test_the_device_says_what_the_student_says(bundle: Bundle, made: Made, shown: tuple[str, ...]) -> None:
    classifier = Classifier(bundle)
    x = np.array([features(w, SPEC) for w in made.windows])
    mask = np.tile([m in shown for m in MODALITIES], (len(x), 1))
    wanted = predict(made.distilled.student, scaled(x, mask, made.distilled.features, SPEC.clip))
    got = []
    for i, data in enumerate(made.windows):
        quality = {m: Quality(1.0 if m in shown else 0.1) for m in MODALITIES}
        prediction = classifier.classify(Window(i, 5.0 * i, data, quality))
        assert prediction.modalities == shown and prediction.probabilities is not None
        got.append(list(prediction.probabilities.values()))
    assert (np.argmax(got, 1) == wanted.argmax(1)).mean() >= 0.97
    assert np.abs(np.array(got) - wanted).mean() < 0.03


def test_a_window_outside_what_was_learned_is_out_of_range(bundle: Bundle, made: Made) -> None:
    wild = {"eda": made.windows[0]["eda"] * 1e4}
    prediction = Classifier(bundle).classify(Window(0, 0.0, wild, {"eda": Quality(1.0)}, {"ecg": "gap"}))
    assert prediction.abstained == "out_of_range"
    assert prediction.problems == {"ecg": ("gap",), "eda": ("out_of_range",)}


@pytest.mark.parametrize("shape", [(3,), (2, 240), (1, 18), ()])
def test_arrays_of_another_shape_are_refused(bundle: Bundle, shape: tuple[int, ...]) -> None:
    with pytest.raises(InferenceError, match="is needed"):
        Classifier(bundle).logits({"eda": np.zeros(shape, np.float32)})


def test_where_int8_cannot_follow_the_smallest_file_that_can_is_taken(made: Made, tmp_path: Path) -> None:
    """Both logits ride on one large number, whose int8 steps are coarser than what tells them apart."""
    student = Student(made.distilled.student.config)
    student.load_state_dict(made.distilled.student.state_dict())
    last = student.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight += 300.0
    coarse = replace(made.distilled, student=student.eval())
    with pytest.raises(GateError, match=r"most is lost in FULLY_CONNECTED at \d+ \(.*take --recipe auto"):
        make_bundle(made, coarse, tmp_path, replace(ONE_SHARE, recipe="int8"))
    learned = make_bundle(made, coarse, tmp_path, replace(ONE_SHARE, recipe="int8", qat=True, force=True))
    attempts = learned.report["attempts"]
    assert [bool(attempt["tuned"]) for attempt in attempts] == [False, True]
    assert attempts[1]["tuned"]["after"] < attempts[1]["tuned"]["before"]
    bundle = make_bundle(made, coarse, tmp_path)
    assert bundle.manifest.output.dtype == bundle.manifest.inputs["ecg"].dtype == "float32"
    assert {p.mask: p.agreement for p in bundle.manifest.parity} == dict.fromkeys(BUNDLE_MASKS, 1.0)
    assert bundle.manifest.model_format != "int8" and "int8 fails: " in bundle.report["recipe"]["why"]
    data = made.windows[1]
    probabilities = Classifier(bundle).answer(feature_input(data, SPEC, made.distilled.features).arrays).probability
    inputs = scaled(features(data, SPEC)[None], np.ones((1, 2), bool), made.distilled.features, SPEC.clip)
    assert probabilities == pytest.approx(predict(student, inputs)[0], abs=0.02)
