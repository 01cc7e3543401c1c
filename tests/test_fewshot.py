"""A few labels of the wearer's own: they move prototypes, can be taken back, and nothing judged overlaps them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_people import TINY, made_config, made_people, without
from test_inference import window
from tiny_bundle import space_bundle, tiny_space

from device.inference import Classifier
from device.pipeline.model_input import model_input
from device.space import PRIOR_WINDOWS, Shots, Space, evidence, moved
from train.augment import Augmentation
from train.confidence import answers, confidence, space_of
from train.evaluate import Fold, Material
from train.fewshot import SHOTS, judged_by_shots, support
from train.fit import MASKS, FitConfig, fit
from train.models.emobed import EmoBedConfig
from train.objective import Crossmodal
from train.select import Choice

SUBJECTS = ("P0", "P1", "P2")
FIT = FitConfig(epochs=6, batch=16, lr=2e-2, running_mean=0.0, augmentation=Augmentation(modality_dropout=0.0))
SHAPE = EmoBedConfig(**TINY, embedding=3, ecg_times=7680, eda_times=480)
SPACE = Space(prototypes={"ecg": ((0.0, 0.0), (2.0, 0.0))}, spread={"ecg": (1.0, 0.5)}, max_distance={"ecg": 9.0})
points = st.lists(st.floats(-5, 5), min_size=2, max_size=2)


@given(st.lists(st.tuples(points, st.integers(0, 1)), max_size=6), points, st.integers(0, 1))
def test_a_label_taken_back_leaves_nothing(before: list[tuple[list[float], int]], point: list[float], k: int) -> None:
    shots = Shots()
    for x, label in before:
        shots = shots.with_shot(x, label, "ecg", 2)
    back = shots.with_shot(point, k, "ecg", 2).with_shot(point, k, "ecg", 2, sign=-1)
    assert np.allclose(moved(SPACE, back, "ecg"), moved(SPACE, shots, "ecg"), atol=1e-9)
    assert msgspec.json.decode(msgspec.json.encode(shots), type=Shots) == shots
    if not before:
        with pytest.raises(ValueError, match="no window of class"):
            shots.with_shot(point, k, "ecg", 2, sign=-1)
        assert back.total["ecg"][k] == (0.0, 0.0)


@given(points, points, st.integers(0, 1), st.integers(1, 40))
def test_labels_draw_their_class_and_no_other_and_never_past_themselves(
    mine: list[float], x: list[float], k: int, n: int
) -> None:
    shots = Shots()
    for _ in range(n):
        shots = shots.with_shot(mine, k, "ecg", 2)
    found, known = moved(SPACE, shots, "ecg"), np.array(SPACE.prototypes["ecg"])
    assert found[1 - k] == pytest.approx(known[1 - k])
    share = n / (n + PRIOR_WINDOWS)
    assert found[k] == pytest.approx((1 - share) * known[k] + share * np.array(mine))
    more = evidence(x, SPACE, shots, "ecg")
    assert more[1 - k] == pytest.approx(0, abs=1e-12)
    closer = np.abs((np.array(x) - found[k]) / SPACE.spread["ecg"]) ** 2
    before = np.abs((np.array(x) - known[k]) / SPACE.spread["ecg"]) ** 2
    nearer = float(before.sum() - closer.sum())
    if abs(nearer) > 1e-6:  # below, rounding decides
        assert np.sign(more[k]) == np.sign(nearer)
    else:
        assert more[k] == pytest.approx(0, abs=1e-6)


def test_without_labels_nothing_is_moved() -> None:
    assert evidence([3.0, 1.0], SPACE, Shots(), "ecg").tolist() == [0.0, 0.0]
    of_eda = Shots().with_shot([1.0, 1.0], 0, "eda", 2)
    assert evidence([3.0, 1.0], SPACE, of_eda, "ecg").tolist() == [0.0, 0.0]


def test_the_device_takes_the_wearer_s_labels(tmp_path: Path) -> None:
    classifier = Classifier(space_bundle(tmp_path / "x.affect", tiny_space()))
    case = window({"ecg": 1.0, "eda": 1.0})
    plain = classifier.classify(case)
    assert plain.probabilities is not None and classifier.classify(case, shots=Shots()) == plain
    embedding = classifier.outputs(model_input(case.data, classifier.bundle.manifest.spec).arrays)[1]
    assert embedding is not None
    for k, label in enumerate(classifier.bundle.manifest.labels):
        shots = Shots()
        for _ in range(20):
            shots = shots.with_shot(embedding, k, "ecg+eda", 2)
        taught = classifier.classify(case, shots=shots)
        assert taught.probabilities is not None and taught.probabilities[label] > plain.probabilities[label]
        assert taught.distance == plain.distance  # what is strange stays strange


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), min_size=1, max_size=40), st.integers(1, 5))
def test_the_first_of_each_class_are_shown_and_do_not_overlap(rows: list[tuple[int, int]], n: int) -> None:
    label, start = np.array([k for k, _ in rows]), 20.0 * np.array([s for _, s in rows])
    shown = support(label, start, n, 60.0)
    for k in np.unique(label):
        mine = sorted(start[shown][label[shown] == k])
        assert 1 <= len(mine) <= n
        assert all(b - a >= 60 for a, b in pairwise(mine))
        assert mine[0] == start[label == k].min()


def test_the_same_windows_are_judged_whatever_was_shown() -> None:
    people = made_people(4)
    people[3] = without(people[3], "eda", slice(4, 6))
    windows = Material(people, made_config(), "cold_start").windows((60.0, 120.0))
    model = fit(windows, SUBJECTS, FIT, SHAPE, 0, crossmodal=Crossmodal()).model
    sure = confidence(windows, SUBJECTS, 0.5, FIT, SHAPE, Crossmodal())
    space = space_of(model, windows, SUBJECTS)
    index = np.flatnonzero(windows.subject == "P3")
    left, found = judged_by_shots(model, windows, index, MASKS["both"], sure, space, 60.0, (0, 1, 2))
    shown = support(windows.label[index], windows.start[index], 2, 60.0)
    assert len(shown) == 4 and not set(left) & set(shown) and len(left) == len(index) - 4
    plain = answers(model, windows, index[left], MASKS["both"], sure, space).probability
    assert np.allclose(found[0], plain, atol=1e-9)
    assert {n: p.shape for n, p in found.items()} == dict.fromkeys((0, 1, 2), plain.shape)
    assert not np.allclose(found[1], found[0])
    assert np.allclose(found[2].sum(axis=1), 1)


def test_a_fold_says_what_labels_would_give() -> None:
    material = Material(made_people(4), made_config(systems=("emobed",)), "calibrated")
    fold = Fold("P3", SUBJECTS)
    choice = material.choose_crossmodal(fold, Choice(60.0, 120.0, {}, SUBJECTS))
    fitted = material.network("emobed", fold, choice, 0)
    found = material.few_shot_masks(fitted, fold, choice, material.space(fitted, fold, choice))
    assert set(found) == {f"emobed-shots-{n}" for n in SHOTS}
    assert len({tuple(m["both"]["start"]) for m in found.values()}) == 1
