"""When not to answer: temperatures, thresholds for a coverage, prototypes; nobody judged is among those who teach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_people import TINY, made_config, made_people, spoiled, without
from scipy.special import softmax

from device.bundle import MASKS as NAMES
from device.space import Space, distances
from train.augment import Augmentation
from train.confidence import FAMILIAR, Confidence, _quantile, answers, confidence, space_of, temperature
from train.evaluate import Material
from train.fit import MASKS, FitConfig, fit, predict, predicted
from train.models.acc import AccConfig
from train.models.emobed import EmoBed, EmoBedConfig
from train.objective import Crossmodal
from train.select import parts
from train.windows import Windows

SUBJECTS = ("P0", "P1", "P2", "P3", "P4", "P5")
FIT = FitConfig(epochs=12, batch=16, lr=2e-2, running_mean=0.0, augmentation=Augmentation(modality_dropout=0.0))
SHAPE = EmoBedConfig(**TINY, embedding=3, ecg_times=7680, eda_times=480)
HOW = Crossmodal()


@pytest.fixture(scope="module")
def windows() -> Windows:
    """P6 is not asked; P0 lacks EDA in some windows, P1 ECG."""
    people = made_people(7)
    people[0] = without(people[0], "eda", slice(3, 5))
    people[1] = without(people[1], "ecg", slice(2, 9))
    return Material(people, made_config(), "cold_start").windows((60.0, 120.0))


@pytest.fixture(scope="module")
def sure(windows: Windows) -> Confidence:
    return confidence(windows, SUBJECTS, 0.5, FIT, SHAPE, HOW)


@pytest.fixture(scope="module")
def model(windows: Windows) -> EmoBed:
    found = fit(windows, SUBJECTS, FIT, SHAPE, 0, crossmodal=HOW).model
    assert isinstance(found, EmoBed)
    return found


@given(st.floats(0.2, 8.0), st.integers(0, 100))
def test_the_temperature_that_labels_were_drawn_with_is_found(t: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (6000, 3))
    cut = softmax(logits / t, axis=1).cumsum(axis=1)
    label = (rng.random((6000, 1)) > cut[:, :2]).sum(axis=1)
    assert temperature(logits, label, np.ones(6000)) == pytest.approx(t, rel=0.15)


def test_without_windows_the_temperature_is_one_and_nothing_is_answered(windows: Windows) -> None:
    assert temperature(np.empty((0, 2)), np.empty(0, int), np.empty(0)) == 1.0
    deaf = replace(windows, present=windows.present & [True, False])
    found = confidence(deaf, SUBJECTS, 0.5, FIT, SHAPE, HOW)
    for name in ("ecg+eda", "eda"):
        assert (found.temperature[name], found.min_probability[name], found.max_distance[name]) == (1.0, 1.0, 0.0)
    assert found.min_probability["ecg"] < 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_the_threshold_leaves_at_least_the_stated_share(values: list[float], share: float) -> None:
    x = np.array(values)
    threshold = _quantile(x, share, np.ones(len(x)), of_none=0.0)
    assert (x >= threshold).mean() >= 1 - share - 1e-9
    assert (x <= threshold).mean() >= share - 1e-9


def test_a_person_with_many_windows_counts_no_more_than_one_with_few() -> None:
    values, weight = np.array([0.9] * 90 + [0.1] * 10), np.array([1 / 90] * 90 + [1 / 10] * 10)
    assert _quantile(values, 0.4, weight, of_none=0.0) == 0.1
    assert _quantile(values, 0.4, np.ones(100), of_none=0.0) == 0.9


def test_only_the_given_subjects_have_a_part_and_judges_do_not_teach(windows: Windows, sure: Confidence) -> None:
    assert sure == confidence(spoiled(windows, "P6"), SUBJECTS, 0.5, FIT, SHAPE, HOW)
    assert sure.subjects == SUBJECTS
    judges, others = parts(SUBJECTS, 0.5, 0)
    taught = fit(windows, others, FIT, SHAPE, 0, crossmodal=HOW).model.state_dict()
    for judge in judges:
        again = fit(spoiled(windows, judge), others, FIT, SHAPE, 0, crossmodal=HOW).model.state_dict()
        assert all((taught[k] == again[k]).all() for k in taught)
    assert sure != confidence(spoiled(windows, judges[0]), SUBJECTS, 0.5, FIT, SHAPE, HOW)


def test_the_stated_shares_hold_for_the_judges(windows: Windows, sure: Confidence) -> None:
    """By windows: every person has as many, but for the masks of the two who lack some."""
    both = parts(SUBJECTS, 0.5, 0)
    is_sure, is_familiar = [], []
    for judges, others in (both, both[::-1]):
        inner = fit(windows, others, FIT, SHAPE, 0, crossmodal=HOW).model
        index = np.flatnonzero(np.isin(windows.subject, judges) & windows.present.all(axis=1))
        found = answers(inner, windows, index, MASKS["both"], sure, space_of(inner, windows, others))
        is_sure.append(found.is_sure)
        is_familiar.append(found.is_familiar)
    assert np.concatenate(is_sure).mean() >= sure.coverage - 0.05
    assert np.concatenate(is_familiar).mean() >= FAMILIAR - 0.05


@given(st.integers(1, 12), st.floats(0.01, 0.99), st.integers(0, 9))
def test_everybody_is_judged_once_and_by_others(n: int, share: float, seed: int) -> None:
    subjects = [f"P{k}" for k in range(n)]
    dealt = parts(subjects, share, seed)
    if n == 1:
        assert dealt == [[]]
    else:
        assert sorted(s for part in dealt for s in part) == sorted(subjects)
        assert len(dealt) >= 2 and all(dealt)


def test_prototypes_are_the_classes_means_each_person_alike(windows: Windows, model: EmoBed) -> None:
    space = space_of(model, windows, SUBJECTS)
    for mask, name in (("both", "ecg+eda"), ("ecg", "ecg"), ("eda", "eda")):
        shown = np.array(MASKS[mask]) > 0
        means: dict[int, list[np.ndarray]] = {0: [], 1: []}
        weights: dict[int, list[float]] = {0: [], 1: []}
        for subject in SUBJECTS:
            his = np.flatnonzero((windows.subject == subject) & windows.present[:, shown].all(axis=1))
            embedding = predicted(model, windows, his, MASKS[mask])[1]
            for k in (0, 1):
                of_class = embedding[windows.label[his] == k]
                means[k] += [of_class.mean(axis=0)] if len(of_class) else []
                weights[k] += [len(of_class) / len(his)] if len(of_class) else []
        wanted = [np.average(means[k], axis=0, weights=weights[k]) for k in (0, 1)]
        assert np.allclose(space.prototypes[name], wanted, atol=1e-6)
        assert min(space.spread[name]) > 0


def test_answers_are_those_of_each_window_s_own_mask(windows: Windows, model: EmoBed, sure: Confidence) -> None:
    """With both asked for, a window without EDA is answered as the mask of ECG says."""
    space = space_of(model, windows, SUBJECTS)
    sure = replace(sure, temperature=dict(zip(NAMES, (1.0, 2.0, 3.0), strict=True)))
    his = np.flatnonzero(windows.subject == "P0")
    both, ecg = (answers(model, windows, his, MASKS[mask], sure, space) for mask in ("both", "ecg"))
    lacks = ~windows.present[his, 1]
    assert lacks.sum() == 2
    for name in ("probability", "distance", "is_sure", "is_familiar"):
        assert np.array_equal(getattr(both, name)[lacks], getattr(ecg, name)[lacks])
    logits = predicted(model, windows, his, MASKS["ecg"])[0]
    assert np.allclose(ecg.probability, softmax(logits / 2.0, axis=1))
    one = replace(sure, temperature=dict.fromkeys(NAMES, 1.0))
    plain = answers(model, windows, his, MASKS["both"], one, space).probability
    assert np.allclose(plain, predict(model, windows, his, MASKS["both"]), atol=1e-6)


def test_a_window_like_none_that_is_known_is_far_from_all(windows: Windows, model: EmoBed, sure: Confidence) -> None:
    space = space_of(model, windows, SUBJECTS)
    index = np.flatnonzero(np.isin(windows.subject, SUBJECTS) & windows.present.all(axis=1))
    known = answers(model, windows, index, MASKS["both"], sure, space)
    strange = replace(windows, ecg=windows.ecg * 0 + 20, eda=windows.eda * 0 - 20)
    found = answers(model, strange, index, MASKS["both"], sure, space)
    assert np.median(found.distance) > 3 * np.median(known.distance)
    assert not found.is_familiar.any()


def test_a_network_without_a_space_has_logits_alone(windows: Windows) -> None:
    shape = AccConfig(**TINY, ecg_times=7680, eda_times=480)
    acc = fit(windows, SUBJECTS, replace(FIT, epochs=1), shape, 0).model
    logits, embedding = predicted(acc, windows, np.arange(5), MASKS["both"])
    assert embedding.shape == (5, 0)
    assert np.allclose(softmax(logits, axis=1), predict(acc, windows, np.arange(5), MASKS["both"]), atol=1e-6)


@given(st.integers(0, 1000))
def test_a_distance_of_one_is_a_usual_window_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prototypes, spread = rng.normal(0, 5, (2, 40)), rng.uniform(0.1, 3, 40)
    near = prototypes[1] + spread * rng.normal(0, 1, (200, 40))
    far = distances(near, prototypes, spread)
    assert far.shape == (200, 2)
    assert far[:, 1].mean() == pytest.approx(1, abs=0.05)
    space = Space(
        prototypes={"ecg": tuple(map(tuple, prototypes.tolist()))}, spread={"ecg": tuple(spread)}, max_distance={}
    )
    assert space.distance(near[0], "ecg") == pytest.approx(far[0].min())
    assert space.distance(prototypes[0], "ecg") == 0
