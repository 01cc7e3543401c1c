"""The evaluation law in code: folds, planted leaks that must be caught on the real way, masks, fusion, odd people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_people import (
    CALM,
    N_BASELINE,
    N_CALM,
    N_STRESS,
    TABLE,
    N,
    made_config,
    made_encoder,
    made_people,
    made_person,
    only_calm,
    spoiled,
    without,
)
from sklearn.preprocessing import StandardScaler

from train import evaluate
from train.config import Inner, TaskTable, TransformerTable
from train.errors import LeakError
from train.evaluate import Fold, Material, assert_baseline_not_scored, assert_no_leak, folds, run_fold
from train.prepare import MAX_BRIDGED, Prepared
from train.select import Choice
from train.systems import NETWORKS, PROBES, classical_model, fused
from train.windows import Windows, network_windows

SYSTEMS = (*NETWORKS, "decision-fusion", "classical-lda", "classical-rf", "classical-gb", "classical-lr", *PROBES)
FAST = (*NETWORKS, "decision-fusion", "classical-lda", "classical-lr", *PROBES)
SHORT, LONG = (60.0, 60.0), (60.0, 120.0)
SUBJECTS = ("P0", "P1", "P2", "P3", "P4")
CHOICE = Choice(*LONG, {}, SUBJECTS[1:])
WORN = Fold("P0", SUBJECTS[1:])


def people() -> list[Prepared]:
    """P0 lacks EDA in two windows and beats in one; P3 wears no ECG at all; P4 is never stressed."""
    found = made_people(5)
    bridged = np.where(np.arange(N) == 9, MAX_BRIDGED + 0.1, 0.0)
    found[0] = replace(without(found[0], "eda", slice(6, 8)), bridged=bridged)
    found[3] = without(found[3], "ecg")
    found[4] = only_calm(found[4])
    return found


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Material]:
    encoder = made_encoder(tmp_path_factory.mktemp("encoder") / "encoder.pt")
    config = made_config(systems=SYSTEMS, transformer=TransformerTable(str(encoder)))
    return {mode: Material(people(), config, mode) for mode in evaluate.MODES}


@pytest.fixture
def cold(materials: dict[str, Material]) -> Material:
    return materials["cold_start"]


@pytest.fixture
def calibrated(materials: dict[str, Material]) -> Material:
    return materials["calibrated"]


def whole_fold(material: Material, fold: Fold, systems: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """A fold as train.loso runs it: the choice first, then every system; its masks by system."""
    choice = material.choose(fold)
    return {system: masks for system, masks, _ in run_fold(material, fold, choice, seed, systems)}


@given(st.sets(st.text(min_size=1, max_size=4), min_size=2, max_size=12))
def test_folds_are_disjoint_and_cover_everyone(subjects: set[str]) -> None:
    found = folds([*subjects, *subjects])
    assert sorted(f.test for f in found) == sorted(subjects)
    for fold in found:
        assert_no_leak(fold.train, [fold.test], "folds")
        assert {*fold.train, fold.test} == subjects


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_a_fold_without_a_leak_passes_under_every_system(materials: dict[str, Material], mode: str) -> None:
    for fold in folds(materials[mode].subjects):
        systems = FAST if fold.test == "P0" else ("acc",)
        found = whole_fold(materials[mode], fold, systems)
        assert list(found) == list(systems)


def test_choosing_looks_at_training_subjects_only(cold: Material) -> None:
    """Whatever the test subject's windows hold, the choice and its scores are the same."""
    wider = {"stem": 4, "widths": [8, 8], "stages": [1], "hidden": 8, "dropout": 0.1}
    config = made_config(
        inner=Inner((SHORT, LONG), epochs=20),
        fit={"batch": 16, "lr": 2e-2, "mixup": 0.0, "running_mean": 0.0},
        model=wider,
    )
    honest, other = (Material(cold.people, config, cold.mode) for _ in range(2))
    other._windows = {c: spoiled(honest.windows(c), "P0") for c in (SHORT, LONG)}
    assert other.choose(WORN) == honest.choose(WORN)
    his = Fold("P1", ("P0", "P2", "P3", "P4"))  # where P0 trains, it does change
    assert other.choose(his) != honest.choose(his)


@pytest.mark.parametrize("system", ["classical-lda", "classical-rf"])
def test_a_class_that_no_training_subject_shows_gets_no_probability(system: str) -> None:
    three = msgspec.structs.replace(TABLE, labels=(*TABLE.labels, "joy"), of=TABLE.of | {"song": "joy"})
    material = Material(made_people(3), made_config(labels=three), "cold_start")
    masks = material.classical_masks(system, Fold("P0", ("P1", "P2")), CHOICE, 0)
    assert list(masks) == ["both", "ecg", "eda"]
    for found in masks.values():
        probability = np.array(found["probability"])
        assert not probability[:, 2].any() and np.allclose(probability.sum(axis=1), 1.0)


def test_a_classical_system_with_one_class_to_learn_from_is_not_asked() -> None:
    people = [made_person("P0"), only_calm(made_person("P1")), only_calm(made_person("P2"))]
    material = Material(people, made_config(), "cold_start")
    assert material.classical_masks("classical-lda", Fold("P0", ("P1", "P2")), CHOICE, 0) == {}


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_nothing_of_the_test_subject_reaches_his_figures_but_his_own_windows(
    materials: dict[str, Material], mode: str
) -> None:
    """Half of his windows and labels changed: what every system says of the other half stays bit for bit."""
    honest = materials[mode]
    half = made_person("P0", 77)
    for name in ("ecg", "eda"):
        getattr(half, name)[:12] = getattr(honest.people[0], name)[:12]
    longer = np.array([(0.0, 480.0), (480.0, 900.0)])  # the quiz: one more window has a label
    half = replace(half, covered=honest.people[0].covered, bridged=honest.people[0].bridged, spans=longer)
    changed = Material([half, *honest.people[1:]], honest.config, mode)
    systems = ("acc", "decision-fusion", "classical-lda")
    found = [whole_fold(m, WORN, systems) for m in (honest, changed)]
    for system in systems:
        for mask in ("both", "ecg", "eda"):
            first = [
                [p for s, p in zip(f[system][mask]["start"], f[system][mask]["probability"], strict=True) if s < 720]
                for f in found
            ]
            assert len(first[0]) >= 5 and first[0] == first[1]
    assert found[0]["acc"]["ecg"] != found[1]["acc"]["ecg"]


class TestLeakage:
    """Four leaks, each put in on purpose where the real functions would have to make it, each caught with LeakError."""

    def test_a_subject_on_both_sides(self, cold: Material) -> None:
        shared = Fold("P0", SUBJECTS)
        with pytest.raises(LeakError, match="subjects P0 on both sides of the split"):
            whole_fold(cold, shared, ("acc",))

    @pytest.mark.parametrize("system", [*NETWORKS, "decision-fusion"])
    def test_a_network_that_was_shown_the_test_subject(
        self, cold: Material, monkeypatch: pytest.MonkeyPatch, system: str
    ) -> None:
        def on_everyone(windows: Windows, subjects: object, *args: Any, **options: Any) -> object:
            return fit(windows, SUBJECTS, *args, **options)

        fit = evaluate.fit
        monkeypatch.setattr(evaluate, "fit", on_everyone)
        with pytest.raises(LeakError, match=r"leak in fold P0, .*: subjects P0 on both sides"):
            list(run_fold(cold, WORN, CHOICE, 0, (system,)))

    @pytest.mark.parametrize("system", ["classical-lda", "classical-rf", "classical-lr"])
    @pytest.mark.parametrize("mode", evaluate.MODES)
    def test_a_scaler_fitted_on_everyone(
        self, materials: dict[str, Material], monkeypatch: pytest.MonkeyPatch, system: str, mode: str
    ) -> None:
        table = materials[mode].features(LONG)

        def leaking(*args: Any) -> object:
            model = classical_model(*args)
            scaler = next(step for _, step in model.steps if isinstance(step, StandardScaler))
            on_training = scaler.fit_transform
            monkeypatch.setattr(scaler, "fit_transform", lambda x, y=None: (on_training(x), scaler.fit(all_rows()))[0])
            all_rows = lambda: model[0].transform(table)  # noqa: E731
            return model

        monkeypatch.setattr(evaluate, "classical_model", leaking)
        with pytest.raises(LeakError, match=f"leak in fold P0, {system}: the scaler"):
            list(run_fold(materials[mode], WORN, CHOICE, 0, (system,)))

    def test_a_classical_system_that_was_shown_the_test_subject(self, cold: Material) -> None:
        with pytest.raises(LeakError, match="leak in fold P0: subjects P0 on both sides"):
            list(run_fold(cold, Fold("P0", SUBJECTS), CHOICE, 0, ("classical-lda",)))

    def test_a_choice_made_with_the_test_subject(self, cold: Material, monkeypatch: pytest.MonkeyPatch) -> None:
        def with_everyone(windows: Any, subjects: tuple[str, ...], *args: Any) -> Choice:
            return choose(windows, (*subjects, "P0"), *args)

        choose = evaluate.choose
        monkeypatch.setattr(evaluate, "choose", with_everyone)
        with pytest.raises(LeakError, match="leak in choice of the window, fold P0: subjects P0"):
            whole_fold(cold, WORN, ("classical-lda",))

    @pytest.mark.parametrize("system", ["acc", "eda-only", "decision-fusion", "classical-lda"])
    def test_a_scored_window_of_the_resting_baseline(self, system: str) -> None:
        material = Material(people(), made_config(systems=SYSTEMS), "calibrated")
        windows = material.windows(LONG)
        honest = windows.is_scored
        assert (~honest).sum() == 5 * N_BASELINE
        last = np.flatnonzero((windows.subject == "P0") & ~honest)[-1]
        material._windows[LONG] = replace(windows, is_scored=honest | (np.arange(len(windows)) == last))
        with pytest.raises(LeakError, match="leak in calibrated mode: baseline windows of P0 are scored"):
            list(run_fold(material, WORN, CHOICE, 0, (system,)))

    def test_a_scored_window_that_only_overlaps_the_baseline(self, calibrated: Material) -> None:
        person, spec = calibrated.people[0], calibrated.longest
        assert_baseline_not_scored(person, calibrated.task, spec, np.array([300.0, 700.0]))
        assert_baseline_not_scored(person, calibrated.task, spec, np.array([]))
        with pytest.raises(LeakError, match="baseline"):
            assert_baseline_not_scored(person, calibrated.task, spec, np.array([299.0, 700.0]))


def counts(masks: dict[str, Any]) -> dict[str, int]:
    return {mask: len(record["label"]) for mask, record in masks.items()}


def test_every_mask_scores_what_it_shows_and_says_how_many_there_are(materials: dict[str, Material]) -> None:
    """P0: 14 windows, 9 after the baseline, of them two without EDA and one without beats."""
    for mode, total, systems in (("cold_start", N - 1, FAST), ("calibrated", N - 1 - N_BASELINE, SYSTEMS)):
        for system, masks, fitted in run_fold(materials[mode], WORN, CHOICE, 0, systems):
            expected = {"both": total, "ecg": total - 1, "eda": total - 2}
            if system.endswith("-only"):
                own = system.split("-")[-2]
                expected = {own: expected[own]}
            elif system.startswith("transformer"):
                expected = {"ecg": expected["ecg"]}
            assert counts(masks) == expected
            assert (fitted is not None) == (system in NETWORKS)
            for record in masks.values():
                assert record["total"] == total
                assert np.allclose(np.sum(record["probability"], axis=1), 1, atol=1e-4)
                assert min(record["start"]) >= (300 if mode == "calibrated" else 0)
                assert [s >= 480 for s in record["start"]] == [bool(k) for k in record["label"]]


def test_a_person_without_ecg_is_judged_by_eda_alone(cold: Material) -> None:
    fold = Fold("P3", ("P0", "P1", "P2", "P4"))
    for system, masks, _ in run_fold(cold, fold, CHOICE, 0, ("acc", "ecg-only", "decision-fusion", "classical-lda")):
        expected = {} if system == "ecg-only" else {"both": N_CALM + N_STRESS, "eda": N_CALM + N_STRESS}
        assert counts(masks) == expected
        if system != "classical-lda" and masks:
            assert masks["both"]["probability"] == masks["eda"]["probability"]


def test_a_person_with_one_class_is_scored_for_that(calibrated: Material) -> None:
    fold = Fold("P4", SUBJECTS[:4])
    for _, masks, _ in run_fold(calibrated, fold, CHOICE, 0, ("acc", "decision-fusion", "classical-lda")):
        assert counts(masks) == dict.fromkeys(("both", "ecg", "eda"), N_CALM - N_BASELINE)
        assert all(set(record["label"]) == {CALM} for record in masks.values())


PAUSE = TaskTable(("calm", "stress"), {"pause": "calm", "quiz": "stress"}, ("rest",))
"""A task in which the rest of the baseline has no label of its own."""


def test_each_session_is_checked_against_its_own_rest() -> None:
    """The second session's rest begins after ten minutes: windows of the first, earlier by its clock, are no leak."""
    first, *others = made_people(3)
    second = replace(first, session="2", start=first.start + 600, spans=first.spans + 600)
    material = Material([first, second, *others], made_config(), "calibrated")
    fold = Fold("P0", ("P1", "P2"))
    (masks,) = (m for _, m, _ in run_fold(material, fold, CHOICE, 0, ("acc",)))
    assert counts(masks) == dict.fromkeys(("both", "ecg", "eda"), 2 * (N - 1 - N_BASELINE))
    windows = material.windows(LONG)
    scored = windows.is_scored.copy()
    scored[N - 1] = True  # the first one labelled of the second session
    material._windows[LONG] = replace(windows, is_scored=scored)
    with pytest.raises(LeakError, match="baseline windows of P0"):
        list(run_fold(material, fold, CHOICE, 0, ("acc",)))


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_a_person_with_no_labelled_window_is_judged_by_nobody(mode: str) -> None:
    nobody = replace(made_person("P9"), spans=np.array([(0.0, 400.0)]), descriptions=np.array(["rest"]))
    config = made_config(labels=PAUSE, systems=SYSTEMS)
    material = Material([*named("pause"), nobody], config, mode)
    for _, masks, _ in run_fold(material, Fold("P9", ("P0", "P1", "P2")), CHOICE, 0, ("acc", "classical-lda")):
        assert masks == {}


def named(calm: str) -> list[Prepared]:
    """Three people whose second calm part goes by another name, so that resting windows have no label."""
    spans = np.array([(0.0, 360.0), (360.0, 480.0), (480.0, 840.0)])
    return [replace(p, spans=spans, descriptions=np.array(["rest", calm, "quiz"])) for p in made_people(3)]


def test_fusion_by_decision_is_that_of_its_two_parts(cold: Material) -> None:
    found = {s: m for s, m, _ in run_fold(cold, WORN, CHOICE, 0, ("ecg-only", "eda-only", "decision-fusion"))}
    own = {m: by_start(found[f"{m}-only"][m]) for m in ("ecg", "eda")}
    together = {m: by_start(found["decision-fusion"][m]) for m in ("both", "ecg", "eda")}
    assert together["ecg"] == own["ecg"] and together["eda"] == own["eda"]
    kinds = set()
    for start, p in together["both"].items():
        has = [start in own[m] for m in ("ecg", "eda")]
        each = [np.array([own[m].get(start, [0.0, 0.0])]) for m in ("ecg", "eda")]
        assert np.allclose(p, fused(*each, np.array(has[:1]), np.array(has[1:])), atol=2e-5)
        kinds.add(tuple(has))
    assert kinds == {(True, True), (True, False), (False, True)}


def by_start(record: dict[str, Any]) -> dict[float, list[float]]:
    return dict(zip(record["start"], record["probability"], strict=True))


def test_its_parts_are_not_reported_unasked(cold: Material) -> None:
    assert [s for s, *_ in run_fold(cold, WORN, CHOICE, 0, ("decision-fusion",))] == ["decision-fusion"]


def test_the_same_seed_gives_the_same_figures_whatever_else_is_asked(cold: Material) -> None:
    def masks(seed: int, *systems: str) -> dict[str, Any]:
        return {s: m for s, m, _ in run_fold(cold, WORN, CHOICE, seed, systems)}

    many = masks(3, "acc", "feature-fusion", "classical-lr")
    assert masks(3, "feature-fusion")["feature-fusion"] == many["feature-fusion"]
    assert masks(3, "classical-lr")["classical-lr"] == many["classical-lr"]
    assert masks(4, "feature-fusion")["feature-fusion"] != many["feature-fusion"]


def test_every_epoch_is_told_with_its_system(cold: Material) -> None:
    said: list[tuple[str, dict[str, float]]] = []
    tell: Callable[..., None] = lambda system, row: said.append((system, row))  # noqa: E731
    fitted = {s: f for s, _, f in run_fold(cold, WORN, CHOICE, 0, ("ecg-only", "acc"), on_epoch=tell)}
    assert said == [(s, row) for s in ("acc", "ecg-only") for row in fitted[s].history]
    assert fitted["acc"].train_subjects == WORN.train


@pytest.mark.parametrize("mode", evaluate.MODES)
def test_a_shorter_context_is_that_cut_before_scaling(materials: dict[str, Material], mode: str) -> None:
    material = materials[mode]
    direct = network_windows(material.people, material.task, material.longest, material.spec(SHORT))
    shared = material.windows(SHORT)
    for name in Windows.__dataclass_fields__:
        assert np.array_equal(getattr(direct, name), getattr(shared, name)), name
    assert len(material.features(SHORT)) == len(shared)


def test_calibrated_mode_centres_each_person_by_his_own_rest(materials: dict[str, Material]) -> None:
    """The level a person always has is gone from it, and is there in cold start."""
    higher = [replace(p, eda=p.eda + np.float32([2.0, 0.0])) for p in materials["calibrated"].people]
    for mode, material in materials.items():
        other = Material(higher, material.config, mode).windows(LONG)
        shift = np.abs(np.median(other.eda[:, 0], axis=1) - np.median(material.windows(LONG).eda[:, 0], axis=1))
        calm = (material.windows(LONG).label == CALM) & material.windows(LONG).present[:, 1]
        assert (shift[calm].max() < 0.1) == (mode == "calibrated")


def test_networks_are_shaped_by_the_choice(cold: Material) -> None:
    for candidate, n_eda in ((SHORT, 240), (LONG, 480)):
        fitted = cold.network("eda-only", WORN, Choice(*candidate, {}, ()), 0)
        assert (fitted.model.config.ecg_times, fitted.model.config.eda_times) == (7680, n_eda)
        assert fitted.model.config.modalities == ("eda",)
        assert not any(isinstance(p, torch.Tensor) and p.isnan().any() for p in fitted.model.parameters())
