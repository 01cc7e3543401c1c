"""Metrics against sklearn and scipy, fold files and their faults, flat records, ablation, the page and its drawings."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)

from train import metrics as m
from train.errors import ResultError
from train.report import COLUMNS, figures, markdown, records, table
from train.report.ablation import MEAN, ablation, one_sensor
from train.report.command import report
from train.report.drawings import drawings
from train.report.folds import MASKS, Fold, parse, read
from train.report.page import page
from train.report.words import sensors

SETS = {
    ("wesad", "non-stress/stress"): (("non-stress", "stress"), ("S2", "S3", "S4", "S10", "S11", "S17")),
    ("wesad", "3-class"): (("baseline", "stress", "amusement"), ("S2", "S3", "S4", "S10", "S11", "S17")),
    ("stress-predict", "rest/task"): (("rest", "task"), tuple(f"S{i:02}" for i in range(1, 8))),
}
SKILL = {
    "acc": 1.3, "unattended": 1.1, "feature-fusion": 1.0, "decision-fusion": 0.9, "ecg-only": 0.8, "eda-only": 0.6,
    "classical-lda": 0.9, "classical-rf": 1.0, "classical-gb": 0.95,
}  # fmt: skip
ONE_SENSOR = {"ecg-only": ("ecg",), "eda-only": ("eda",)}
PROVENANCE = {
    "commit": "0fea6aa1fd31",
    "command": "affectd-train loso --config train/runs/<all>.toml",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "config": {"epochs": 12, "lr": 0.002},
}


def scored(rng: np.random.Generator, n_classes: int, skill: float, n: int = 60) -> dict[str, Any]:
    """Windows of which a share is without signals; the network is right more often the greater its skill."""
    label = np.sort(rng.integers(0, n_classes, n))
    logits = rng.normal(0, 1, (n, n_classes)) + skill * 2 * np.eye(n_classes)[label]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    keep = np.sort(rng.choice(n, n - 6, replace=False))
    return {
        "start": (30.0 * keep).tolist(),
        "label": label[keep].tolist(),
        "probability": probability[keep].tolist(),
        "total": n,
    }


def made(dataset: str, task: str, mode: str, system: str, subject: str, seed: int, **more: Any) -> dict[str, Any]:
    """One fold, as the harness writes it."""
    labels, subjects = SETS[dataset, task]
    person = subjects.index(subject)
    skill = SKILL[system] * (1 if mode == "calibrated" else 0.7) * (0.5 + person / len(subjects))
    rng = np.random.default_rng([person, seed, sorted(SKILL).index(system), len(labels), len(mode), len(dataset)])
    return {
        "dataset": dataset, "task": task, "mode": mode, "system": system, "subject": subject, "seed": seed,
        "runtime": "float", "labels": list(labels), "surrogate_ecg": True,
        "choice": {"window_s": [60.0, 30.0][rng.integers(2)], "eda_context_s": 120.0, "epoch": int(rng.integers(12))},
        "masks": {
            mask: scored(rng, len(labels), skill * (1 if mask == "both" else 0.8))
            for mask in ONE_SENSOR.get(system, MASKS)
        },
        "key": "sha", "provenance": {**PROVENANCE, "data": {subject: f"{person:016x}"}}, **more,
    }  # fmt: skip


def everything(seeds: int = 2) -> Iterator[dict[str, Any]]:
    """A whole run, acc as int8 as well; cold start for one task only, which is quicker to judge."""
    for (dataset, task), (_, subjects) in SETS.items():
        for mode in ("cold_start", "calibrated") if task == "3-class" else ("calibrated",):
            for system in SKILL:
                for subject in subjects:
                    for seed in range(seeds):
                        fold = made(dataset, task, mode, system, subject, seed)
                        yield fold
                        if system == "acc":
                            yield {**fold, "runtime": "int8"}


def write(root: Path, folds: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    """The folder tree of a run."""
    for fold in folds:
        system = fold["system"] + ("-int8" if fold["runtime"] == "int8" else "")
        slug = fold["task"].replace("/", "-").replace(" ", "-")
        folder = root / "folds" / fold["dataset"] / slug / fold["mode"] / system
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{fold['subject']}-{fold['seed']}.json").write_text(json.dumps(fold))


# ---- metrics


@st.composite
def judged(draw: st.DrawFn, classes: tuple[int, int] = (2, 4)) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and probabilities (n, n_classes); any class may be missing, and scores may tie."""
    n_classes, n = draw(st.integers(*classes)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = rng.integers(1, 8, (n, n_classes)).astype(float)
    return rng.integers(0, draw(st.integers(1, n_classes)), n), raw / raw.sum(axis=1, keepdims=True)


@settings(max_examples=60)
@given(judged())
def test_metrics_agree_with_sklearn(case: tuple[np.ndarray, np.ndarray]) -> None:
    label, probability = case
    predicted, n = probability.argmax(axis=1), probability.shape[1]
    assert (m.confusion(label, probability) == confusion_matrix(label, predicted, labels=range(n))).all()
    assert m.accuracy(label, probability) == pytest.approx(accuracy_score(label, predicted))
    assert m.macro_f1(label, probability) == pytest.approx(f1_score(label, predicted, average="macro", zero_division=0))
    occurs = np.unique(label)
    if len(occurs) < 2:
        assert np.isnan(m.balanced_accuracy(label, probability))
        assert np.isnan(m.auroc(label, probability))
        return
    recalls = [(predicted[label == c] == c).mean() for c in occurs]
    assert m.balanced_accuracy(label, probability) == pytest.approx(np.mean(recalls))
    if set(predicted) <= set(occurs):  # sklearn warns of a class that is predicted only
        assert m.balanced_accuracy(label, probability) == pytest.approx(balanced_accuracy_score(label, predicted))
    one = [roc_auc_score(label == c, probability[:, c]) for c in ([1] if n == 2 else occurs)]
    assert m.auroc(label, probability) == pytest.approx(np.mean(one))
    if n > 2 and len(occurs) == n:
        assert m.auroc(label, probability) == pytest.approx(roc_auc_score(label, probability, multi_class="ovr"))


def test_calibration_error_of_known_cases() -> None:
    label = np.array([0] * 8 + [1] * 2)
    assert m.ece(label, np.tile([0.8, 0.2], (10, 1))) == pytest.approx(0.0)  # right as often as it says
    assert m.ece(label, np.tile([1.0, 0.0], (10, 1))) == pytest.approx(0.2)
    confidence, right, count = m.reliability(label, np.tile([0.8, 0.2], (10, 1)))
    assert (count[8], confidence[8], right[8]) == (10, pytest.approx(0.8), pytest.approx(0.8))
    assert np.isnan(confidence[[0, 7, 9]]).all()


def test_figures_without_windows_are_nan() -> None:
    label, probability = np.zeros(0, int), np.zeros((0, 2))
    assert all(np.isnan(v) for k, v in m.metrics(label, probability).items() if k != "n_windows")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
@settings(max_examples=30)
def test_intervals_hold_the_mean_and_repeat(values: list[float], seed: int) -> None:
    low, high = m.subject_bootstrap(values, 400, seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == m.subject_bootstrap(values, 400, seed)
    if len(set(values)) == 1:
        assert low == pytest.approx(values[0]) == pytest.approx(high)


def test_interval_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    low, high = m.subject_bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    both = m.stratified_bootstrap([values, values + 0.2])
    assert np.mean(both) == pytest.approx(values.mean() + 0.1, abs=0.002)
    assert both[1] - both[0] == pytest.approx((high - low) / np.sqrt(2), rel=0.1)


def test_wilcoxon_is_scipys_and_knows_when_not_to_test() -> None:
    difference = np.random.default_rng(1).normal(0.02, 0.05, 15)
    assert m.wilcoxon_p(difference) == pytest.approx(wilcoxon(difference).pvalue)
    assert m.wilcoxon_p(difference[:5]) is None
    assert m.wilcoxon_p(np.zeros(10)) is None
    tied = m.wilcoxon_p([0.1, 0.1, 0.1, 0.1, 0.1, -0.1, 0.0])
    assert tied == m.wilcoxon_p(np.array([0.1, 0.3 - 0.2, 0.1, 0.1, 0.4 - 0.3, -0.1, 1e-17]))  # rounding breaks no tie
    assert m.paired({"S2": 0.3, "S3": 0.5, "S9": 1.0}, {"S3": 0.2, "S2": 0.1 + 0.2}).tolist() == [0.0, 0.3]


# ---- fold files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    write(root, everything())
    return root


@pytest.fixture(scope="module")
def folds(run: Path) -> list[Fold]:
    found, problems = read(run)
    assert not problems
    return found


def test_every_fold_is_read_and_scored_like_its_windows(folds: list[Fold]) -> None:
    assert len(folds) == (6 + 6 + 6 + 7) * 2 * 10  # people, seeds, systems and int8
    record = made("wesad", "3-class", "calibrated", "acc", "S10", 1)
    identity = parse(record, "x").identity
    fold = next(f for f in folds if f.identity == identity)
    windows = record["masks"]["both"]
    label, probability = np.array(windows["label"]), np.array(windows["probability"])
    score = fold.scores["both"]
    assert score.figures == m.metrics(label, probability)
    assert (score.windows.sum(), score.total) == (len(label), 60)
    assert score.right.sum() == score.confusion.trace() == (probability.argmax(axis=1) == label).sum()
    assert score.confidence.sum() == pytest.approx(probability.max(axis=1).sum())
    assert score.windows[int(probability[0].max() * 200)] > 0


FAULTS: dict[str, tuple[Any, str]] = {
    "label outside the classes": (lambda w: w["label"].__setitem__(0, 2), r"masks\.both.*labels from . to 2 for 2"),
    "negative label": (lambda w: w["label"].__setitem__(0, -1), r"masks\.both.*labels from -1"),
    "a label too few": (lambda w: w["label"].pop(), r"masks\.both.*54 starts, 53 labels"),
    "more classes than named": (lambda w: w["probability"][3].append(0.0), r"masks\.both.*\[2, 3\] classes"),
    "no distribution": (lambda w: w["probability"].__setitem__(0, [0.9, 0.9]), r"masks\.both.*no distribution"),
    "negative probability": (lambda w: w["probability"].__setitem__(0, [1.5, -0.5]), r"masks\.both.*no distribution"),
    "total too small": (lambda w: w.__setitem__("total", 3), r"masks\.both.*54 windows of a total of 3"),
    "text for a number": (lambda w: w.__setitem__("total", "all"), r"masks\[\.\.\.\]\.total"),
    "no labels": (lambda w: w.pop("label"), r"masks.*label"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_fold_is_named_and_the_rest_is_reported(fault: str, tmp_path: Path) -> None:
    good = [made("stress-predict", "rest/task", "calibrated", "acc", s, 0) for s in ("S01", "S03")]
    bad = made("stress-predict", "rest/task", "calibrated", "acc", "S02", 0)
    spoil, message = FAULTS[fault]
    spoil(bad["masks"]["both"])
    write(tmp_path, [*good, bad])
    found, problems = read(tmp_path)
    assert sorted(f.subject for f in found) == ["S01", "S03"]
    assert len(problems) == 1
    assert problems[0].path.endswith("S02-0.json")
    assert re.search(message, str(problems[0])), problems[0]
    assert "affectd-train loso" in problems[0].remedy


@pytest.mark.parametrize(
    ("content", "place"),
    [(b"{", "file"), (b"[]", "top level"), (b"\xff", "file"), (b'{"mode": "warm"}', r"mode|top level"), (b"", "file")],
)
def test_what_is_no_fold_is_named(content: bytes, place: str) -> None:
    with pytest.raises(ResultError) as caught:
        parse(content, "S2-0.json")
    assert caught.value.path == "S2-0.json"
    assert re.search(place, caught.value.place)


def test_labels_must_name_classes_and_agree_within_a_task(tmp_path: Path) -> None:
    one = made("stress-predict", "rest/task", "calibrated", "acc", "S01", 0)
    with pytest.raises(ResultError, match=r"\$\.labels.*rest, rest"):
        parse({**one, "labels": ["rest", "rest"]}, "x")
    other = {**made("stress-predict", "rest/task", "calibrated", "acc", "S02", 0), "labels": ["task", "rest"]}
    with pytest.raises(ResultError, match="S02: labels differ: rest/task and task/rest"):
        records([one, other])


def test_the_same_fold_twice_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="not there"):
        read(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="no fold"):
        read(tmp_path)
    write(tmp_path, [made("wesad", "3-class", "calibrated", "acc", "S2", 0)])
    path = next(tmp_path.rglob("*.json"))
    path.with_name("again.json").write_bytes(path.read_bytes())
    path.with_name("S3-0.json.part").write_text("{")  # what an interrupt leaves
    found, problems = read(tmp_path)
    assert len(found) == 1
    assert "same fold as" in str(problems[0])


# ---- flat records


@pytest.fixture(scope="module")
def flat(folds: list[Fold]) -> list[dict[str, Any]]:
    return records(folds)


def pick(flat: list[dict[str, Any]], *key: str) -> dict[str, Any]:
    keys = ("dataset", "task", "mode", "system", "mask", "runtime")
    return next(r for r in flat if all(r[k] == v for k, v in zip(keys, key, strict=False)))


def test_records_are_complete_and_json(flat: list[dict[str, Any]]) -> None:
    json.dumps(flat, allow_nan=False)
    keys = [(r["dataset"], r["task"], r["mode"], r["system"], r["mask"], r["runtime"]) for r in flat]
    assert len(set(keys)) == len(keys)
    # seven systems and the int8 file see all masks, two see one, each mask has its majority, both the sensors' presence
    assert len(keys) == (len(SETS) + 1) * (8 * 3 + 2 + 3 + 1)
    wanted = {
        "dataset", "task", "mode", "system", "mask", "runtime", "subjects", "seeds", "balanced_accuracy", "macro_f1",
        "accuracy", "auroc", "ece", "ci95", "surrogate_ecg", "commit", "command", "majority", "coverage", "p_acc",
    }  # fmt: skip
    assert all(wanted <= set(r) for r in flat)
    assert all(r["surrogate_ecg"] == (r["mask"] != "eda") for r in flat)
    assert {(r["commit"], tuple(r["seeds"]), r["coverage"]) for r in flat} == {("0fea6aa1fd31", (0, 1), 0.9)}


def test_a_record_is_the_mean_over_people_of_the_mean_over_seeds(flat: list[dict[str, Any]]) -> None:
    key = ("wesad", "3-class", "cold_start", "acc")
    people = []
    for subject in SETS["wesad", "3-class"][1]:
        masks = [made(*key, subject, seed)["masks"]["ecg"] for seed in (0, 1)]
        people.append(np.mean([m.balanced_accuracy(np.array(w["label"]), np.array(w["probability"])) for w in masks]))
    record = pick(flat, *key, "ecg")
    assert record["balanced_accuracy"] == pytest.approx(np.mean(people), abs=1e-4)
    assert list(record["per_subject"].values()) == pytest.approx(people, abs=1e-6)
    assert list(record["per_subject"]) == ["S2", "S3", "S4", "S10", "S11", "S17"]
    assert record["ci95"] == pytest.approx(m.subject_bootstrap(people), abs=1e-4)
    theirs = pick(flat, *key[:3], "classical-rf", "ecg")
    difference = [record["per_subject"][s] - theirs["per_subject"][s] for s in record["per_subject"]]
    assert theirs["p_acc"] == pytest.approx(wilcoxon(difference).pvalue, abs=1e-4)
    assert record["p_acc"] is None
    assert pick(flat, *key, "ecg", "int8")["p_acc"] is None  # these two are equal: there is nothing to test


def test_a_file_for_the_device_stands_beside_the_float_network_of_the_same_folds(folds: list[Fold]) -> None:
    key = ("wesad", "3-class", "cold_start", "acc")
    floats = [made(*key, subject, 0) for subject in ("S2", "S3")]
    files = [{**made(*key, subject, 0), "runtime": "int8"} for subject in ("S2", "S3")]
    windows = files[1]["masks"]["ecg"]["probability"]
    changed = [np.roll(row, 1).tolist() if i < 3 else row for i, row in enumerate(windows)]
    files[1]["masks"]["ecg"]["probability"] = changed
    beside = [pick(records([*floats, *files]), *key, mask, "int8") for mask in ("ecg", "eda")]
    assert beside[0]["agreement"] == pytest.approx(1 - 3 / len(windows) / 2, abs=1e-4) and beside[1]["agreement"] == 1.0
    assert beside[0]["float_balanced_accuracy"] == pick(records(floats), *key, "ecg")["balanced_accuracy"]
    assert beside[0]["float_balanced_accuracy"] != beside[0]["balanced_accuracy"]
    assert f"| acc int8 | surrogate ECG alone | {beside[0]['agreement']:.1%} |" in markdown(records([*floats, *files]))
    assert "agreement" not in pick(records([*floats, *files[:1]]), *key, "ecg", "float")
    assert "agreement" not in pick(records([*floats[:1], *files]), *key, "ecg", "int8")


def one_class(record: dict[str, Any], mask: str) -> dict[str, Any]:
    """The same with only the first class left in one mask."""
    windows = record["masks"][mask]
    kept = [i for i, label in enumerate(windows["label"]) if label == 0]
    windows.update({k: [windows[k][i] for i in kept] for k in ("start", "label", "probability")})
    return record


def test_who_has_one_class_in_a_mask_is_left_out_and_named() -> None:
    key = ("stress-predict", "rest/task", "calibrated", "acc")
    some = [made(*key, s, 0) for s in ("S01", "S02", "S03")]
    one_class(some[1], "eda")
    del some[2]["masks"]["ecg"]  # nobody there: the harness may leave the mask out
    found = records(some)
    eda, ecg = pick(found, *key, "eda"), pick(found, *key, "ecg")
    assert (eda["subjects"], eda["left_out"], set(eda["per_subject"])) == (2, ["S02"], {"S01", "S03"})
    assert (ecg["subjects"], ecg["left_out"], ecg["coverage"]) == (2, ["S03"], 0.6)
    assert "S02 (eda)" in markdown(found)
    nobody = records([one_class(made(*key, "S01", 0), "both")])
    assert {r["mask"] for r in nobody} == {"ecg", "eda"}


def test_the_majority_is_that_of_everybody_else() -> None:
    key = ("stress-predict", "rest/task", "calibrated", "acc")
    some = [made(*key, s, 0) for s in ("S01", "S02", "S03")]
    for record, zeros in zip(some, (10, 10, 40), strict=True):
        record["masks"]["both"]["label"] = [0] * zeros + [1] * (54 - zeros)
    record = pick(records(some), *key[:3], "majority", "both")
    # of S01's others 50 of 108 are in class 0: class 1 is named, and right 44 times of 54; likewise S02; S03: 14 times
    assert record["accuracy"] == pytest.approx((44 + 44 + 14) / 54 / 3, abs=1e-4)
    assert record["majority"] == pick(records(some), *key, "both")["majority"] == record["accuracy"]
    assert (record["balanced_accuracy"], record["auroc"], record["ece"]) == (0.5, 0.5, None)


def test_what_the_absence_of_a_sensor_tells_is_said() -> None:
    """ECG is missing in most windows of class 1: no signal is needed to tell them; the figure without them is there."""
    key = ("stress-predict", "rest/task", "calibrated", "acc")
    some = [made(*key, s, 0) for s in ("S01", "S02", "S03")]
    for record in some:
        masks = record["masks"]
        label = np.array([0] * 30 + [1] * 24)
        has = (label == 0) | (np.arange(54) % 4 == 0)
        right = np.where(has, np.arange(54) % 5 > 0, True)  # four of five windows with ECG, all of those without
        told = np.where(right, label, 1 - label)
        probability = np.stack([1 - told, told], axis=1).astype(float)
        whole = {"label": label, "probability": probability, "start": masks["both"]["start"]}
        for mask, which in (("both", np.arange(54)), ("ecg", np.flatnonzero(has)), ("eda", np.arange(54))):
            masks[mask].update({name: np.array(values)[which].tolist() for name, values in whole.items()})
    del some[2]["masks"]["ecg"]  # he never wears it
    found = records(some)
    has_one = [i for i in range(30, 54) if i % 4 == 0]
    ours = pick(found, *key, "both")
    recall = np.mean([i % 5 > 0 for i in range(30)]), np.mean([i % 5 > 0 for i in has_one])
    assert ours["complete_balanced_accuracy"] == pytest.approx(np.mean(recall), abs=1e-4)
    told = pick(found, *key[:3], "presence", "both")
    wanted = (1 + 1 - len(has_one) / 24) / 2
    assert told["per_subject"] == pytest.approx({"S01": wanted, "S02": wanted, "S03": 0.5}, abs=1e-6)
    assert told["auroc"] is None and told["ece"] is None
    assert pick(found, *key, "eda")["complete_balanced_accuracy"] is None
    assert "which sensors there are" in markdown(found) and "which sensors there are" in page(
        [parse(r, "") for r in some]
    )


# ---- curves, choices, ablation


def test_curves_end_where_everything_is_answered(folds: list[Fold], flat: list[dict[str, Any]]) -> None:
    group = ("wesad", "non-stress/stress", "calibrated")
    of_group = figures.groups(folds)[group]
    coverage, accuracy = figures.coverage_curve(of_group, "acc", "both")
    assert (np.diff(coverage) >= 0).all()
    record = pick(flat, *group, "acc", "both")
    assert (coverage[-1], accuracy[-1]) == (pytest.approx(0.9), pytest.approx(record["accuracy"], abs=1e-4))
    assert accuracy[0] > accuracy[-1]  # surer windows are oftener right
    confidence, right, share = figures.reliability(of_group, "acc", "both")
    assert share.sum() == pytest.approx(1)
    assert (right * share).sum() == pytest.approx(record["accuracy"], abs=1e-4)  # everybody has as many windows here
    assert (np.diff(confidence) > 0).all()
    assert figures.confusion(of_group, "acc", "both").sum() == 6 * 54
    assert figures.confusion(of_group, "eda-only", "both") is None
    assert (
        figures.coverage_curve(of_group, "eda-only", "ecg") is figures.reliability(of_group, "eda-only", "ecg") is None
    )


def test_choices_are_counted_and_missing_folds_named(folds: list[Fold]) -> None:
    of_group = figures.groups(folds)["wesad", "3-class", "cold_start"]
    chosen = figures.choices(of_group)["acc"]
    assert sum(chosen["window_s"].values()) == chosen["eda_context_s"][120.0] == 12
    assert list(figures.choices(of_group))[:2] == ["acc", "unattended"]
    assert not figures.missing(of_group)
    fewer = [f for f in of_group if (f.system, f.subject, f.runtime) != ("acc", "S2", "int8")]
    assert figures.missing(fewer) == ["acc int8: 10 of 12 folds"]


def test_ablation_pairs_people_and_weighs_data_sets_alike(flat: list[dict[str, Any]]) -> None:
    found = ablation(flat, "calibrated")
    assert found.columns[-1] == MEAN
    assert [r.system for r in found.rows][:5] == list(SKILL)[1:6]
    assert [(r.system, r.mask) for r in found.rows if r.mask != "both"] == [("ecg-only", "ecg"), ("eda-only", "eda")]
    row = next(r for r in found.rows if r.system == "ecg-only")
    columns = [("wesad", "non-stress/stress"), ("stress-predict", "rest/task")]
    differences = []
    for column in columns:
        ours = pick(flat, *column, "calibrated", "acc", "both")["per_subject"]
        theirs = pick(flat, *column, "calibrated", "ecg-only", "ecg")["per_subject"]
        differences.append(np.array([ours[s] - theirs[s] for s in ours]))
        margin = row.margins[column]
        assert margin.difference == pytest.approx(differences[-1].mean()) == pytest.approx(margin.ours - margin.theirs)
        assert margin.p == pytest.approx(wilcoxon(differences[-1]).pvalue)
    mean = row.margins[MEAN]  # the 3-class task is not in it
    assert mean.difference == pytest.approx(np.mean([d.mean() for d in differences]))
    assert (mean.p, mean.people) == (pytest.approx(wilcoxon(np.concatenate(differences)).pvalue), 13)
    assert mean.ci95[0] < mean.difference < mean.ci95[1]
    best = found.best_classical[MEAN]
    assert (
        best
        == max((r for r in found.rows if r.system.startswith("classical")), key=lambda r: r.margins[MEAN].theirs).system
    )
    assert ablation([r for r in flat if r["system"] != "acc"], "calibrated") is None


def test_one_sensor_is_compared_with_those_who_see_the_same(flat: list[dict[str, Any]]) -> None:
    """EmoBed's stand-in against the same network's stand-in of one sensor: people paired, nobody else in the table."""
    names = {"acc": "emobed", "ecg-only": "emobed-ecg-only", "unattended": "emobed-shots-3", "feature-fusion": "acc"}
    records = [r | {"system": names[r["system"]]} for r in flat if r["system"] in names and r["runtime"] == "float"]
    others = [r for r in flat if r["system"].startswith("classical") or r["system"] == "majority"]
    found = one_sensor([*others, *records], "cold_start", "ecg")
    assert found is not None
    assert (found.ours, found.sees, found.best_classical) == ("emobed", "ecg", {})
    assert [(row.system, row.mask) for row in found.rows] == [("acc", "ecg"), ("emobed-ecg-only", "ecg")]
    for row in found.rows:
        for dataset, task in found.columns[:-1]:
            ours, theirs = (
                pick(records, dataset, task, "cold_start", system, "ecg")["per_subject"]
                for system in ("emobed", row.system)
            )
            differences = [ours[s] - theirs[s] for s in ours]
            assert row.margins[dataset, task].difference == pytest.approx(np.mean(differences))
    assert one_sensor(flat, "cold_start", "ecg") is None
    shown = markdown([*others, *records])
    assert "## What `emobed` with surrogate ECG alone is worth, cold start" in shown
    assert "emobed-shots-3" not in shown.split("## What `acc`", 1)[1].split("## Made by")[0]


# ---- pages


class Links(HTMLParser):
    """What a browser would run or load, every id, every link, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [tag] if tag in ("script", "link", "iframe", "img", "object", "embed") else []
        for key, value in attrs:
            self.loads += [f"{tag} {key}"] if key.startswith("on") or key == "src" else []
            self.ids += [value or ""] if key == "id" else []
            self.links += [value or ""] if key.endswith("href") else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def few(folds: list[Fold]) -> list[Fold]:
    """Two tasks in one mode: enough for every part of a page, and quick to draw."""
    return [f for f in folds if f.mode == "calibrated" and f.task in ("3-class", "rest/task")]


@pytest.fixture(scope="module")
def html(few: list[Fold]) -> str:
    return page(few, ["folds/x.json: file: is not JSON <b>"])


def test_the_page_loads_nothing_and_its_links_lead_somewhere(html: str) -> None:
    found = Links()
    found.feed(html)
    assert not found.loads
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    outside = re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)\S+", html)
    assert not outside


def test_the_page_says_everything_it_should(html: str, few: list[Fold]) -> None:
    found = Links()
    found.feed(html)
    text = " ".join(" ".join(found.text).split())
    for record in records(few):
        if record["system"] != "majority":
            assert f"{record['balanced_accuracy']:.3f}" in text
    for words in (
        "Surrogate ECG.", "ECG is surrogate ECG", "surrogate ECG + EDA", "surrogate ECG alone", "EDA alone", "majority",
        "What acc with surrogate ECG + EDA is worth: calibrated",
        "Chosen by the inner folds", "120 (12)", "0fea6aa1fd31", "torch 2.13.0",
        "affectd-train loso --config train/runs/<all>.toml", "is not JSON <b>", "acc int8", "seeds 0, 1",
        "Reliability of acc", "Accuracy over coverage", "Confusion of acc", "0000000000000005",
    ):  # fmt: skip
        assert words in text, words
    assert "is worth: cold start" not in text
    assert "<b>" not in html


def test_a_system_with_a_rival_is_drawn_beside_it_where_it_does_not_lead(few: list[Fold]) -> None:
    of_group = next(iter(figures.groups(few).values()))
    acc = [fold for fold in of_group if fold.system == "acc"]
    rivals = [dataclasses.replace(fold, system="emobed") for fold in acc]
    captions = [caption for caption, _ in drawings("both", [*acc, *rivals], records([*acc, *rivals]))]
    assert len(captions) == 6 and all("emobed and acc" in caption for caption in captions[4:])
    alone = [caption for caption, _ in drawings("alone", rivals, records(rivals))]
    assert len(alone) == 4 and not any("and acc" in caption for caption in alone)


def test_drawings_are_whole_svg_with_a_label_and_repeat(html: str, few: list[Fold]) -> None:
    drawn = re.findall(r"<figure>(<svg.*?</svg>)", html, re.DOTALL)
    assert len(drawn) == 2 * 4
    for one in drawn:
        tree = ET.fromstring(one)
        assert tree.get("aria-label", "").startswith(("Stress-Predict rest/task, cal", "WESAD 3-class, cal"))
        texts = "".join(tree.itertext())
        assert "acc" in texts or "predicted" in texts
    matrix = ET.fromstring(drawn[1])
    assert any("%" in "".join(t.itertext()) for t in matrix.iter() if t.tag.endswith("text"))
    title, of_group = "Stress-Predict rest/task, calibrated", [f for f in few if f.task == "rest/task"]
    assert [svg for _, svg in drawings(title, of_group, records(of_group))] == drawn[:4]


def test_a_page_without_ours_without_classical_and_with_int8_alone(folds: list[Fold]) -> None:
    group = figures.groups(folds)["stress-predict", "rest/task", "calibrated"]
    alone = page([f for f in group if f.system == "eda-only"])
    assert "eda-only" in alone
    assert "is worth:" not in alone
    assert "urrogate" not in alone.replace("surrogate-", "")  # EDA alone is real
    int8 = page([f for f in group if f.runtime == "int8"])
    assert "acc int8" in int8
    assert "<figure>" not in int8


def test_real_ecg_is_called_ecg() -> None:
    real = {**made("wesad", "3-class", "calibrated", "acc", "S2", 0), "surrogate_ecg": False}
    assert "urrogate" not in page([parse(real, "x")])
    assert "urrogate" not in markdown(records([real]))
    assert [sensors("both", False), sensors("ecg", True)] == ["ECG + EDA", "surrogate ECG alone"]


def test_markdown_has_a_table_per_task_and_mode(flat: list[dict[str, Any]]) -> None:
    text = markdown(flat)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == len(flat) + 2 * 4 + 4 * (3 + 2) + 2 * (8 + 2)
    assert text.count("\n## ") == 4 + 2 + 1
    assert "surrogate ECG + EDA" in text
    assert "`affectd-train loso --config train/runs/<all>.toml` at commit 0fea6aa1fd31" in text
    lengths = {len({line.count("|") for line in block.splitlines()}) for block in text.split("\n\n") if block[0] == "|"}
    assert lengths == {1}
    assert len(table(flat).splitlines()) == len(flat) + 2
    assert {line.count("|") for line in table(flat).splitlines()} == {len(COLUMNS) + 1}


# ---- command


def test_command_writes_page_records_and_markdown_that_agree(tmp_path: Path) -> None:
    write(tmp_path, [made("stress-predict", "rest/task", "calibrated", s, p, 0) for s in ("acc", "classical-rf")
                     for p in SETS["stress-predict", "rest/task"][1]])  # fmt: skip
    to = {name: tmp_path / "out" / name for name in ("r.html", "loso.json", "RESULTS.md")}
    args = ["-o", to["r.html"], "--records", to["loso.json"], "--markdown", to["RESULTS.md"]]
    done = CliRunner().invoke(report, [str(a) for a in (tmp_path, *args)])
    assert done.exit_code == 0, done.output
    assert done.output.count(" bytes\n") == 3
    flat = json.loads(to["loso.json"].read_text())
    assert to["RESULTS.md"].read_text() == markdown(flat)
    assert to["r.html"].read_text().startswith("<!doctype html>")
    printed = CliRunner().invoke(report, [str(to["loso.json"])])
    assert (printed.exit_code, printed.output) == (0, table(flat))
    refused = CliRunner().invoke(report, [str(to["loso.json"]), "-o", str(tmp_path / "x.html")])
    assert refused.exit_code == 2
    assert "the page needs those that affectd-train loso wrote" in " ".join(refused.output.split())


@pytest.mark.parametrize("first", [True, False])
def test_parts_of_a_run_add_up_to_the_records_of_all_of_it(
    tmp_path: Path, flat: list[dict[str, Any]], first: bool
) -> None:
    """Whichever comes first; nothing is said twice, and p is of the systems that are there in the end."""
    to = {name: tmp_path / name for name in ("loso.json", "RESULTS.md")}
    for part in (first, not first):
        write(tmp_path / str(part), [f for f in everything() if (f["system"] in ("acc", "classical-rf")) == part])
        args = [tmp_path / str(part), "--records", to["loso.json"], "--add", "--markdown", to["RESULTS.md"]]
        assert CliRunner().invoke(report, [str(a) for a in args]).exit_code == 0
    found = json.loads(to["loso.json"].read_text())
    assert to["RESULTS.md"].read_text() == markdown(found)
    seen = [[r for r in of if first or r["system"] not in figures.KNOW_NOTHING] for of in (found, flat)]
    assert seen[0] == seen[1]  # what looks at no signal is judged on the windows of the systems that came first
    refused = CliRunner().invoke(report, [str(tmp_path / "True"), "--add"])
    assert (refused.exit_code, "--add needs the --records" in " ".join(refused.stderr.split())) == (2, True)


def test_command_names_a_bad_fold_and_goes_on(tmp_path: Path) -> None:
    write(tmp_path, [made("stress-predict", "rest/task", "calibrated", "acc", "S01", 0)])
    (tmp_path / "folds" / "bad.json").write_text("{")
    done = CliRunner().invoke(report, [str(tmp_path)])
    assert done.exit_code == 1
    assert "bad.json: file: is not JSON" in done.stderr
    assert "| calibrated | acc | both |" in done.stdout


def knowing(fold: dict[str, Any], least: float) -> dict[str, Any]:
    """The same fold of a system that answers from a probability on, and finds every fifth window strange."""
    masks = {}
    for mask, record in fold["masks"].items():
        best = np.max(record["probability"], axis=1)
        familiar = np.arange(len(best)) % 5 > 0
        masks[mask] = record | {"is_sure": (best >= least).tolist(), "is_familiar": familiar.tolist()}
    return fold | {"masks": masks}


def test_what_is_answered_is_counted_and_judged() -> None:
    key = ("wesad", "3-class", "calibrated")
    some = [knowing(made(*key, "acc", s, seed), 0.6) for s in SETS[key[:2]][1] for seed in (0, 1)]
    record = pick(records(some), *key, "acc", "both")
    share, accuracy, familiar = [], [], []
    for fold in some:
        both = fold["masks"]["both"]
        label, probability = np.array(both["label"]), np.array(both["probability"])
        answered = np.array(both["is_sure"]) & np.array(both["is_familiar"])
        share.append(answered.mean())
        familiar.append(np.mean(both["is_familiar"]))
        accuracy.append(m.balanced_accuracy(label[answered], probability[answered]))
    assert record["answered"] == pytest.approx(np.mean(share), abs=1e-4)
    assert record["answered_balanced_accuracy"] == pytest.approx(np.nanmean(accuracy), abs=1e-4)
    assert record["familiar"] == pytest.approx(np.mean(familiar), abs=1e-4)
    assert "| acc | surrogate ECG + EDA | " + f"{record['answered']:.0%} |" in markdown(records(some))
    plain = pick(records([made(*key, "acc", s, 0) for s in SETS[key[:2]][1]]), *key, "acc", "both")
    assert "answered" not in plain
    short = knowing(made(*key, "acc", SETS[key[:2]][1][0], 0), 0.6)
    short["masks"]["both"]["is_sure"] = [True]
    with pytest.raises(ResultError, match=r"masks.both.*answers"):
        parse(short, "x")


def test_calibration_error_of_all_windows_is_that_of_all_windows() -> None:
    key = ("stress-predict", "rest/task", "calibrated")
    some = [made(*key, "acc", s, seed) for s in SETS[key[:2]][1] for seed in (0, 1)]
    both = [fold["masks"]["both"] for fold in some]
    label, probability = (np.concatenate([np.array(b[name]) for b in both]) for name in ("label", "probability"))
    assert pick(records(some), *key, "acc", "both")["ece_all"] == pytest.approx(m.ece(label, probability), abs=1e-3)
