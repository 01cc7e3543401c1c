"""The training loop: the same seed gives the same bits, only the named subjects count, and it learns what is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_people import CALM, STRESS, TINY, N, made_config, made_people, spoiled, without
from torch import Tensor

from train.augment import NONE
from train.evaluate import Material
from train.fit import MASKS, FitConfig, _balance, _class_weights, _running_mean, fit, predict
from train.models.acc import AccConfig
from train.windows import Windows, only

SHAPE = AccConfig(**TINY, ecg_times=7680, eda_times=480)
QUICK = FitConfig(epochs=2, batch=16)
SUBJECTS = ("P0", "P1", "P2")


@pytest.fixture(scope="module")
def windows() -> Windows:
    """Four people; P0 has no EDA in two windows, P1 nothing at all in one."""
    people = made_people(4)
    people[0] = without(people[0], "eda", slice(3, 5))
    people[1] = without(without(people[1], "eda", slice(2, 3)), "ecg", slice(2, 3))
    return Material(people, made_config(), "cold_start").windows((60.0, 120.0))


def weights(windows: Windows, subjects: tuple[str, ...] = SUBJECTS, seed: int = 3) -> dict[str, Tensor]:
    return fit(windows, subjects, QUICK, SHAPE, seed).model.state_dict()


def are_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before(windows: Windows) -> None:
    first = weights(windows)
    torch.manual_seed(99)
    np.random.default_rng(99).random()
    torch.rand(7)
    assert are_same(first, weights(windows))
    assert not are_same(first, weights(windows, seed=4))


def test_only_the_named_subjects_move_weights(windows: Windows) -> None:
    """The strongest form of the law: whatever the other's windows hold, the weights are the same bits."""
    other = spoiled(windows, "P3")
    assert are_same(weights(windows), weights(other))
    assert are_same(weights(windows), weights(only(windows, np.flatnonzero(windows.subject != "P3"))))
    everyone = (*SUBJECTS, "P3")
    assert not are_same(weights(windows, everyone), weights(other, everyone))


def test_windows_without_a_label_or_a_sensor_do_not_count(windows: Windows) -> None:
    assert len(windows) == 4 * (N - 1)  # the one without a label is not among them
    nothing = ~windows.present.any(axis=1)
    assert nothing.sum() == 1
    spoilt = replace(windows, ecg=np.where(nothing[:, None, None], np.float32(9), windows.ecg))
    assert are_same(weights(windows), weights(spoilt))
    unlabelled = replace(windows, label=np.where(nothing, -1, windows.label))
    assert are_same(weights(windows), weights(unlabelled))


def test_a_network_of_one_sensor_learns_from_all_windows_that_have_it_and_no_others(windows: Windows) -> None:
    alone = replace(SHAPE, modalities=("eda",))
    has = windows.present[:, 1]
    bare = replace(windows, present=windows.present & [False, True])  # no ECG, hence no window to be taken EDA from
    each = (windows, only(windows, np.flatnonzero(has)), bare)
    found = [fit(one, SUBJECTS, QUICK, alone, 3).model.state_dict() for one in each]
    assert are_same(found[0], found[1])
    assert are_same(found[0], found[2])
    nobody = replace(windows, present=windows.present & [True, False])
    fit(nobody, SUBJECTS, QUICK, alone, 3)  # there is no crash where nobody wears it


def test_windows_are_left_as_they_were(windows: Windows) -> None:
    before = {name: getattr(windows, name).copy() for name in Windows.__dataclass_fields__}
    weights(windows)
    assert all(np.array_equal(getattr(windows, name), was) for name, was in before.items())


def test_it_says_whom_it_saw_and_every_epoch(windows: Windows) -> None:
    said: list[dict[str, float]] = []
    found = fit(windows, ("P2", "P0"), replace(QUICK, epochs=3), SHAPE, 0, on_epoch=said.append)
    assert found.train_subjects == ("P0", "P2")
    assert [row["epoch"] for row in found.history] == [0, 1, 2]
    assert said == list(found.history)
    assert all(np.isfinite(row["loss"]) for row in said)
    assert not found.model.training


@pytest.mark.parametrize(("epoch_windows", "steps"), [(1000, [3, 3]), (14, [1, 1]), (5, [1, 1])])
def test_an_epoch_takes_no_more_windows_than_it_may(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, epoch_windows: int, steps: list[int]
) -> None:
    """Of 42 windows those of one epoch are not those of the next where they cannot all be taken."""
    seen: list[np.ndarray] = []

    def spy(ecg: np.ndarray, eda: np.ndarray, present: np.ndarray, *_: object) -> tuple[np.ndarray, ...]:
        seen.append(ecg[:, 0, -1])  # no two windows have the same
        return ecg, eda, present.astype(np.float32)

    monkeypatch.setattr("train.fit.augmented", spy)
    all_there = replace(windows, present=np.ones_like(windows.present))
    fit(all_there, SUBJECTS, replace(QUICK, epoch_windows=epoch_windows, batch=14), SHAPE, 0)
    assert len(seen) == sum(steps)
    epochs = [{float(v) for x in seen[sum(steps[:i]) : sum(steps[: i + 1])] for v in x} for i in range(2)]
    assert all(len(e) <= 1.5 * epoch_windows for e in epochs)
    if epoch_windows >= 42:
        assert epochs[0] == epochs[1] and len(epochs[0]) == 42
    else:
        assert not epochs[0] & epochs[1]


def test_classes_weigh_the_same_in_all() -> None:
    label = np.array([0] * 30 + [1] * 6 + [2] * 4)
    weight = _class_weights(label, 3).numpy()
    assert np.allclose(weight * np.bincount(label), len(label) / 3)
    assert np.isfinite(_class_weights(label, 4).numpy()).all()


def test_a_rare_class_is_not_given_up(windows: Windows) -> None:
    """Nothing to tell them by and nine of one to one of the other: the weighted loss leaves both as likely."""
    rare = np.arange(len(windows)) % 10 == 0
    blind = replace(windows, ecg=0 * windows.ecg, eda=0 * windows.eda, label=rare.astype(np.int64))
    still = replace(QUICK, epochs=12, lr=2e-2, augmentation=NONE)
    model = fit(blind, SUBJECTS, still, replace(SHAPE, dropout=0.0), 0).model
    found = predict(model, blind, np.arange(4), MASKS["both"])
    assert np.abs(found[:, 1] - 0.5).max() < 0.15


def test_it_learns_what_an_easy_problem_holds_and_tells_it_of_another_person(windows: Windows) -> None:
    wider = replace(SHAPE, stem=4, widths=(8, 8), hidden=16, dropout=0.1)
    model = fit(windows, SUBJECTS, replace(QUICK, epochs=25, lr=1e-2), wider, 0).model
    his = np.flatnonzero(windows.subject == "P3")
    for name, mask in MASKS.items():
        right = predict(model, windows, his, mask).argmax(axis=1) == windows.label[his]
        assert right.mean() >= 0.85, name
    assert set(windows.label[his]) == {CALM, STRESS}


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([(1, 1), (1, 0), (0, 1)])), min_size=3, max_size=60))
def test_balance_makes_the_classes_weigh_the_same_among_the_windows_that_have_a_sensor(
    rows: list[tuple[int, tuple[int, int]]],
) -> None:
    label, present = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], bool)
    of_all, balance = _class_weights(label, 3), _balance(label, present, 3)
    for name, which in {"ecg": present[:, 0], "eda": present[:, 1], "ecg+eda": present.all(axis=1)}.items():
        assert (name in balance) == which.any()
        if which.any():
            sums = [float((of_all * balance[name])[k]) * (label[which] == k).sum() for k in np.unique(label[which])]
            np.testing.assert_allclose(sums, sums[0], rtol=1e-5)


def test_predictions_are_distributions_of_each_window_by_itself(windows: Windows) -> None:
    model = fit(windows, SUBJECTS, QUICK, SHAPE, 0).model.train()
    index = np.array([30, 2, 41, 7])
    found = predict(model, windows, index, MASKS["both"])
    assert found.shape == (4, 2) and np.allclose(found.sum(axis=1), 1)
    assert np.allclose(found, predict(model, windows, index, MASKS["both"], batch=1), atol=1e-6)
    assert np.allclose(found[::-1], predict(model, windows, index[::-1], MASKS["both"]), atol=1e-6)


def test_a_mask_hides_a_sensor_and_never_shows_one_that_is_absent(windows: Windows) -> None:
    model = fit(windows, SUBJECTS, QUICK, SHAPE, 0).model
    index = np.flatnonzero(windows.subject == "P0")
    other = replace(windows, eda=windows.eda + 1)
    ecg_only = predict(model, windows, index, MASKS["ecg"])
    assert np.array_equal(ecg_only, predict(model, other, index, MASKS["ecg"]))
    both, spoilt = (predict(model, w, index, MASKS["both"]) for w in (windows, other))
    absent = ~windows.present[index, 1]
    assert absent.sum() == 2
    assert np.array_equal(both[absent], spoilt[absent])
    assert np.allclose(both[absent], ecg_only[absent], atol=1e-6)
    assert not np.allclose(both[~absent], spoilt[~absent], atol=1e-6)


def test_a_student_follows_its_teacher_where_the_labels_say_the_opposite(windows: Windows) -> None:
    long = FitConfig(epochs=20, batch=16, lr=1e-2, augmentation=NONE)
    teacher = fit(windows, SUBJECTS, long, SHAPE, 0).model
    wrong = replace(windows, label=1 - windows.label)
    asked = windows.of(("P3",))
    right = {}
    for teaching in (0.0, 1.0):
        taught = fit(wrong, SUBJECTS, replace(long, teaching=teaching), SHAPE, 1, teacher=teacher).model
        right[teaching] = (predict(taught, windows, asked, MASKS["both"]).argmax(1) == windows.label[asked]).mean()
    assert right[0.0] < 0.1 and right[1.0] > 0.9


def test_the_running_mean_remembers_less_at_first() -> None:
    """Against the same mean written as one weighted sum."""
    values, mean = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)), _running_mean(0.9)
    so_far = values[0].clone()
    for n, value in enumerate(values[1:], 1):
        mean([so_far], [value], torch.tensor(n))
    decays = np.minimum(0.9, (1 + np.arange(1, 40)) / (10 + np.arange(1, 40)))
    share = np.append(np.cumprod(decays[::-1])[::-1][1:], 1.0) * (1 - decays)
    expected = values[0] * np.prod(decays) + (values[1:] * torch.from_numpy(share)[:, None]).sum(dim=0)
    assert torch.allclose(so_far, expected.float(), atol=1e-5)


@pytest.mark.parametrize("name", ["mixup", "running_mean"])
def test_each_of_both_changes_the_weights_and_0_switches_it_off(windows: Windows, name: str) -> None:
    plain = replace(QUICK, mixup=0.0, running_mean=0.0)
    with_it = replace(plain, **{name: getattr(QUICK, name)})
    first, other = (fit(windows, SUBJECTS, config, SHAPE, 3).model.state_dict() for config in (plain, with_it))
    assert not are_same(first, other)
    assert all(torch.isfinite(value).all() for value in other.values())
