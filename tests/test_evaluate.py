"""The evaluation law in code: folds, planted leaks that must be caught, figures against sklearn and scipy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from device.pipeline.spec import default_spec
from train.errors import LeakError, ResultError
from train.evaluate import (
    MODES,
    _key,
    assert_baseline_not_scored,
    assert_no_leak,
    assert_scaled_on,
    bootstrap_interval,
    expected_calibration_error,
    folds,
    loso,
    metrics,
    summarise,
)
from train.fit import MASKS, FitConfig, fit
from train.models import classical
from train.models.acc import AccConfig
from train.prepare import Prepared, Windows, network_windows
from train.report import COLUMNS, read_records, table

SPEC = default_spec()
SUBJECTS = [f"P{i}" for i in range(8)]
TINY = AccConfig(stem=2, widths=(3,), stages=(0,), hidden=4)
QUICK = FitConfig(epochs=2, batch=16, every=1, inner_subjects=2)
N = 14
"""Windows of each made person: the first three are the resting baseline."""


def made(subject: str, seed: int) -> Prepared:
    """Task windows have a faster heart and a higher tonic level; one window has no EDA, one no label."""
    rng = np.random.default_rng(seed)
    label = np.arange(N) // 2 % 2
    label[:3] = 0
    label[-1] = -1
    rate = 70 + 12 * label[:, None] + rng.normal(0, 3, (N, 7680 // 128)).cumsum(1) * 0.1
    ecg = np.stack([rng.normal(0, 0.1, (N, 7680)), np.repeat(rate, 128, axis=1)], axis=2)
    eda = np.stack([2 + label[:, None] + rng.normal(0, 0.2, (N, 240)), rng.normal(0, 0.05, (N, 240))], axis=2)
    present = np.ones((N, 2), bool)
    present[5, 1] = False
    start = 60.0 * np.arange(N)
    is_baseline = start < 180.0
    is_scored = (start >= 180.0) & (label >= 0)
    return Prepared(
        subject, ecg.astype(np.float32), eda.astype(np.float32), present, start, label, is_baseline, is_scored
    )


@pytest.fixture(scope="module")
def people() -> list[Prepared]:
    return [made(s, i) for i, s in enumerate(SUBJECTS)]


@pytest.fixture(scope="module")
def windows(people: list[Prepared]) -> Windows:
    return network_windows(people, SPEC)


@given(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=12))
def test_folds_are_disjoint_and_cover_everyone(subjects: set[str]) -> None:
    found = folds(subjects)
    assert sorted(f.test for f in found) == sorted(subjects)
    for fold in found:
        assert_no_leak(fold.train, [fold.test], "folds")
        assert {*fold.train, fold.test} == subjects


def test_a_subject_on_both_sides_is_caught() -> None:
    with pytest.raises(LeakError, match="S04"):
        assert_no_leak(["S02", "S04"], ["S04"], "planted")


def test_a_scaler_fitted_on_everyone_is_caught() -> None:
    rng = np.random.default_rng(0)
    x, test_x, y = rng.normal(0, 1, (40, 3)), rng.normal(4, 1, (10, 3)), np.arange(40) % 2
    model = classical.make("classical-lr", 0).fit(x, y)
    assert_scaled_on(model, x, "honest")
    model.steps[0] = ("standardscaler", StandardScaler().fit(np.concatenate([x, test_x])))
    with pytest.raises(LeakError, match="scaler"):
        assert_scaled_on(model, x, "planted")


def test_a_scored_baseline_window_is_caught(people: list[Prepared]) -> None:
    person = people[0]
    assert_baseline_not_scored(person, person.is_scored, SPEC.window_s)
    planted = person.is_scored.copy()
    planted[np.flatnonzero(person.is_baseline)[-1]] = True
    with pytest.raises(LeakError, match="baseline"):
        assert_baseline_not_scored(person, planted, SPEC.window_s)
    overlapping = replace(person, start=np.where(person.is_scored, person.start - 30.0, person.start))
    with pytest.raises(LeakError, match="baseline"):
        assert_baseline_not_scored(overlapping, person.is_scored, SPEC.window_s)


def test_training_reads_nothing_of_a_subject_left_out(windows: Windows) -> None:
    """The strongest form of the law: whatever the test subject's windows hold, the weights are the same bits."""
    other = windows.subject == SUBJECTS[0]
    spoiled = replace(
        windows,
        ecg=np.where(other[:, None, None], np.float32(5.0), windows.ecg),
        eda=np.where(other[:, None, None], np.float32(-5.0), windows.eda),
        label=np.where(other, 1 - windows.label.clip(0), windows.label),
    )
    honest = [fit(w, SUBJECTS[1:], QUICK, TINY, 3).model.state_dict() for w in (windows, spoiled)]
    assert all(torch.equal(honest[0][k], honest[1][k]) for k in honest[0])
    leaking = [fit(w, SUBJECTS, QUICK, TINY, 3).model.state_dict() for w in (windows, spoiled)]
    assert not all(torch.equal(leaking[0][k], leaking[1][k]) for k in leaking[0])


def test_fit_is_repeatable_and_says_whom_it_saw(windows: Windows) -> None:
    first, again = (fit(windows, SUBJECTS[2:], QUICK, TINY, 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
    assert first.train_subjects == tuple(SUBJECTS[2:])
    assert len(first.history) == QUICK.epochs
    assert first.epoch == int(np.argmin([row["inner_loss"] for row in first.history]))


probabilities = st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), min_size=4, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@settings(deadline=None)
@given(probabilities)
def test_figures_are_sklearns(rows: list[tuple[bool, float]]) -> None:
    label = np.array([int(label) for label, _ in rows])
    p = np.array([[1 - q, q] for _, q in rows])
    found, predicted = metrics(label, p), p.argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(label, predicted, average="macro", zero_division=0.0))
    assert found["auroc"] == pytest.approx(roc_auc_score(label, p[:, 1]))
    assert 0.0 <= found["ece"] <= 1.0


def test_calibration_error_of_known_forecasts() -> None:
    label = np.array([1, 1, 1, 0])
    assert expected_calibration_error(label, np.tile([0.25, 0.75], (4, 1))) == pytest.approx(0.0)
    assert expected_calibration_error(label, np.tile([0.0, 1.0], (4, 1))) == pytest.approx(0.25)


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    scores = np.random.default_rng(0).normal(0.7, 0.1, 400)
    low, high = bootstrap_interval(scores.tolist())
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert [low, high] == pytest.approx([scores.mean() - half, scores.mean() + half], abs=0.002)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module")
def records(people: list[Prepared], out: Path) -> list[dict[str, object]]:
    """Both modes over six made people, as the tool runs them."""
    found = []
    for mode in MODES:
        found += loso(people[:6], out, mode=mode, seeds=[0], fit_config=QUICK, model_config=TINY, workers=1)
    return found


def test_every_fold_scores_its_own_subject_under_every_mask(records: list[dict[str, object]]) -> None:
    assert [(r["mode"], r["test"]) for r in records] == [(m, s) for m in MODES for s in SUBJECTS[:6]]
    for record in records:
        n = {"cold_start": N - 1, "calibrated": N - 1 - 3}[record["mode"]]
        for system in ("acc", *classical.SYSTEMS):
            counts = {mask: record["systems"][system][mask]["n_windows"] for mask in MASKS}
            assert counts == {"both": n - 1, "ecg": n, "eda": n - 1}


def test_an_interrupted_run_goes_on(people: list[Prepared], out: Path, records: list[dict[str, object]]) -> None:
    kept = out / "cold_start-P1-0.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "kept": True}))
    (out / "cold_start-P2-0.json").unlink()
    stale = out / "cold_start-P3-0.json"
    stale.write_text(json.dumps({**json.loads(stale.read_text()), "key": "of other code", "stale": True}))
    said: list[str] = []
    again = loso(
        people[:6], out, mode="cold_start", seeds=[0], fit_config=QUICK, model_config=TINY, workers=1, say=said.append
    )
    assert again[1]["kept"]
    assert len(said) == 3
    assert again[2:4] == records[2:4]


def test_a_folds_key_follows_configuration_spec_and_windows(people: list[Prepared]) -> None:
    few = people[:2]
    changed = replace(few[1], present=~few[1].present)
    keys = {
        _key(few, SPEC, QUICK, TINY),
        _key(few, default_spec(calibrated=True), QUICK, TINY),
        _key(few, SPEC, replace(QUICK, lr=1e-3), TINY),
        _key(few, SPEC, QUICK, replace(TINY, attention=False)),
        _key([few[0], changed], SPEC, QUICK, TINY),
        _key(few[:1], SPEC, QUICK, TINY),
    }
    assert len(keys) == 6
    assert _key(few, SPEC, QUICK, TINY) in keys


def test_summary_is_flat_complete_and_agrees_with_the_folds(records: list[dict[str, object]]) -> None:
    summary = summarise(records, {"commit": "abc", "command": "test"})
    keys = {(r["mode"], r["system"], r["mask"]) for r in summary}
    systems = ("acc", *classical.SYSTEMS)
    assert keys == {(m, s, k) for m in MODES for s in systems for k in MASKS} | {(m, "majority", "both") for m in MODES}
    by_key = {(r["mode"], r["system"], r["mask"]): r for r in summary}
    ours = by_key["cold_start", "acc", "both"]
    scores = [r["systems"]["acc"]["both"]["balanced_accuracy"] for r in records if r["mode"] == "cold_start"]
    assert ours["balanced_accuracy"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert (ours["subjects"], ours["seeds"], ours["commit"]) == (6, [0], "abc")
    assert ours["ci95"][0] <= ours["balanced_accuracy"] <= ours["ci95"][1]
    assert not by_key["cold_start", "acc", "eda"]["surrogate_ecg"]
    rows = [by_key["cold_start", s, "both"]["per_subject"] for s in ("acc", "classical-rf")]
    difference = np.array([rows[0][s] - rows[1][s] for s in rows[0]])
    p = by_key["cold_start", "classical-rf", "both"]["wilcoxon_p_acc_against_this"]
    assert p == (pytest.approx(wilcoxon(difference).pvalue, abs=1e-3) if difference.any() else None)


def test_report_has_a_row_for_every_record(records: list[dict[str, object]], tmp_path: Path) -> None:
    summary = summarise(records, {})
    (tmp_path / "r.json").write_text(json.dumps(summary))
    lines = table(read_records(tmp_path / "r.json")).splitlines()
    assert len(lines) == 2 + len(summary)
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}'])
def test_unreadable_results_are_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResultError, match=r"r\.json"):
        read_records(path)
