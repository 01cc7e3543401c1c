"""What networks are trained for: triplets against a loop over all of them, CCC against its definition, every weight."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train.metrics import concordance
from train.models.acc import MODALITIES
from train.models.emobed import EmoBed, EmoBedConfig
from train.objective import (
    NO_CROSSMODAL,
    Batch,
    Crossmodal,
    alike_by_label,
    alike_by_rating,
    ccc,
    class_loss,
    crossmodal_loss,
    distances,
    rating_loss,
    task_loss,
    triplet_loss,
)

N = 7
SHAPE = EmoBedConfig(ecg_times=2048, eda_times=256, stem=2, widths=(3, 3), stages=(1,), hidden=4, embedding=3)
MINING: list[Any] = ["all", "semi-hard", "hard"]
DISTANCE: list[Any] = ["cosine", "euclidean"]


def slow_distance(a: Tensor, b: Tensor, kind: str) -> float:
    if kind == "euclidean":
        return float(torch.dist(a, b))
    return 1 - float(nn.functional.cosine_similarity(a, b, dim=0))


def slow_one_way(
    anchors: Tensor, others: Tensor, label: Tensor, there: Tensor, with_: Tensor, how: Crossmodal
) -> float:
    """Every triplet by itself: the definition, in loops."""
    hinges = []
    for a in range(len(label)):
        far = [slow_distance(anchors[a], others[i], how.distance) for i in range(len(label))]
        usable = [i for i in range(len(label)) if there[a] and with_[i]]
        positives = [i for i in usable if label[i] == label[a]]
        negatives = [i for i in usable if label[i] != label[a]]
        if not positives or not negatives:
            continue
        if how.mining == "all":
            pairs = list(product(positives, negatives))
        elif how.mining == "hard":
            pairs = [(max(positives, key=far.__getitem__), min(negatives, key=far.__getitem__))]
        else:
            pairs = []
            for p in positives:
                farther = [i for i in negatives if far[i] > far[p]]
                pairs.append((p, min(farther, key=far.__getitem__) if farther else max(negatives, key=far.__getitem__)))
        hinges += [max(0.0, far[p] - far[n] + how.margin) for p, n in pairs]
    return float(np.mean(hinges)) if hinges else 0.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    mining=st.sampled_from(MINING),
    distance=st.sampled_from(DISTANCE),
    margin=st.floats(0.0, 1.5),
    classes=st.integers(1, 3),
)
def test_triplets_are_those_of_the_definition(
    seed: int, mining: Any, distance: Any, margin: float, classes: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    ecg, eda = torch.randn(N, 4, generator=rng), torch.randn(N, 4, generator=rng)
    label = torch.randint(0, classes, (N,), generator=rng)
    there = {m: torch.rand(N, generator=rng) > 0.3 for m in MODALITIES}
    how = Crossmodal(margin=margin, distance=distance, mining=mining)
    forth = slow_one_way(ecg, eda, label, there["ecg"], there["eda"], how)
    back = slow_one_way(eda, ecg, label, there["eda"], there["ecg"], how)
    counts = there["ecg"][:, None] & there["eda"][None, :]
    same, other = alike_by_label(label)
    assert float(triplet_loss(ecg, eda, same & counts, other & counts, how)) == pytest.approx(forth + back, abs=2e-5)


@pytest.mark.parametrize("distance", DISTANCE)
@pytest.mark.parametrize("mining", MINING)
def test_triplets_bring_one_emotion_together_across_sensors(mining: Any, distance: Any) -> None:
    """Free points that follow the loss alone: in the end each is nearest to the other sensor's of its label."""
    torch.manual_seed(1)
    label = torch.tensor([0, 0, 0, 1, 1, 1])
    points = [nn.Parameter(torch.randn(6, 3)) for _ in range(2)]
    how = Crossmodal(mining=mining, distance=distance)
    optimizer = torch.optim.Adam(points, 0.05)
    for _ in range(300):
        loss = triplet_loss(points[0], points[1], *alike_by_label(label), how)
        optimizer.zero_grad()
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in points if p.grad is not None)
        optimizer.step()
    far = distances(points[0], points[1], distance).detach()
    for table in (far, far.T):
        assert torch.equal(label[table.argmin(1)], label)
    assert float(loss.detach()) < 0.05


@given(st.integers(0, 1000))
def test_ccc_is_lin_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(1, 2, (20, 2)), rng.normal(0, 1, (20, 2))
    slope = np.array([np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(2)])
    wanted = 2 * slope * x.std(0) * y.std(0) / (x.var(0) + y.var(0) + (x.mean(0) - y.mean(0)) ** 2)
    for other, expected in ((y, wanted), (x, [1, 1]), (2 * x.mean(0) - x, [-1, -1])):
        assert of(x, other, np.ones(20)) == pytest.approx(expected)
        assert concordance(x, other) == pytest.approx(expected)
    weight = rng.integers(0, 3, 20)
    some = np.repeat(np.arange(20), weight)
    assert of(x, y, weight.astype(float)) == pytest.approx(of(x[some], y[some], np.ones(len(some))))
    flat = np.column_stack([np.ones(20), y[:, 1]])
    assert np.isnan(concordance(x, flat)).tolist() == [True, False]


def of(told: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return ccc(torch.from_numpy(told), torch.from_numpy(target), torch.from_numpy(weight)).numpy()


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_rated_windows_are_alike_where_their_ratings_are_near(ratings: list[float]) -> None:
    """No pair is both; nobody is another than himself; a pair nearer than one that is alike is alike."""
    target = torch.tensor(ratings)[:, None]
    same, other = alike_by_rating(target)
    assert not (same & other).any()
    assert same.diagonal().all()
    far = torch.cdist(target, target)
    assert not other.any() or far[same].max() < far[other].min()


def test_rating_loss_is_one_less_concordance_and_learns() -> None:
    torch.manual_seed(0)
    target = torch.rand(40, 2) * 2 - 1
    told = nn.Parameter(torch.zeros(40, 2))
    loss, weight = rating_loss(target), torch.ones(40)
    assert float(loss(target, weight)) == pytest.approx(0, abs=1e-6)
    assert float(loss(torch.zeros(40, 2), weight)) == pytest.approx(1, abs=1e-3)
    optimizer = torch.optim.Adam([told], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        now = loss(told, weight)
        now.backward()
        optimizer.step()
    assert now.item() < 0.01


def batch(mask: list[list[float]], label: list[int], seed: int = 0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    n, labels = len(mask), torch.tensor(label)
    return Batch(
        torch.randn(n, 2, 1, SHAPE.ecg_times, generator=rng),
        torch.randn(n, 2, 1, SHAPE.eda_times, generator=rng),
        torch.tensor(mask),
        class_loss(lambda logits: nn.functional.cross_entropy(logits, labels, reduction="none")),
        *alike_by_label(labels),
    )


@pytest.fixture
def model() -> EmoBed:
    torch.manual_seed(0)
    return EmoBed(SHAPE).eval()


BOTH, ECG, EDA = [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]


@torch.no_grad()
def test_joint_training_is_the_task_with_both_and_as_each_sensor_tells_it_alone(model: EmoBed) -> None:
    """Against three forward passes, each over the windows that have what is shown, classes balanced among these."""
    label = torch.tensor([0, 1, 1, 0, 1])
    balance = {"ecg+eda": torch.rand(5), "ecg": torch.rand(5), "eda": torch.rand(5)}
    step = replace(batch([BOTH, BOTH, ECG, EDA, EDA], label.tolist()), balance=balance)
    losses = []
    for name, shown, which in (
        ("ecg+eda", BOTH, [0, 1]), ("ecg", ECG, [0, 1, 2]), ("eda", EDA, [0, 1, 3, 4]),
    ):  # fmt: skip
        logits = model(step.ecg, step.eda, torch.tensor(shown).expand(5, 2))
        of_each = nn.functional.cross_entropy(logits, label, reduction="none") * balance[name]
        losses.append(of_each[which].sum() / max(1.0, float(balance[name][which].sum())))
    how = Crossmodal(joint=0.6, triplet=0.0)
    wanted = losses[0] + 0.6 * (losses[1] + losses[2])
    assert float(crossmodal_loss(model, step, how)) == pytest.approx(float(wanted), abs=1e-6)


@torch.no_grad()
def test_without_joint_training_it_is_the_task_with_what_is_shown(model: EmoBed) -> None:
    step = batch([BOTH, BOTH, ECG, EDA, EDA], [0, 1, 1, 0, 1])
    assert torch.equal(crossmodal_loss(model, step, NO_CROSSMODAL), task_loss(model, step))
    balance = {"ecg+eda": torch.full((5,), 2.0), "ecg": torch.full((5,), 3.0), "eda": torch.full((5,), 5.0)}
    assert replace(step, balance=balance).as_shown().tolist() == [2.0, 2.0, 3.0, 5.0, 5.0]


def test_what_an_absent_sensor_s_array_holds_has_no_influence(model: EmoBed) -> None:
    step, how = batch([BOTH, BOTH, ECG, EDA], [0, 1, 1, 0]), Crossmodal()
    ecg, eda = step.ecg.clone(), step.eda.clone()
    ecg[3], eda[2] = 7.0, -7.0
    assert torch.equal(crossmodal_loss(model, step, how), crossmodal_loss(model, replace(step, ecg=ecg, eda=eda), how))


@torch.no_grad()
def test_blends_count_less_for_triplets(model: EmoBed) -> None:
    step = batch([BOTH] * 4, [0, 1, 1, 0])
    whole, half, none = (
        float(crossmodal_loss(model, replace(step, purity=p), Crossmodal(joint=0.0, triplet=1.0, margin=1.0)))
        for p in (1.0, 0.5, 0.0)
    )
    assert whole > half > none
    assert half - none == pytest.approx((whole - none) / 2, rel=1e-5)
    assert none == pytest.approx(float(task_loss(model, step)))


def test_a_batch_without_triplets_costs_nothing_and_moves_nothing(model: EmoBed) -> None:
    for mask, label in (([BOTH] * 3, [1, 1, 1]), ([ECG] * 3, [0, 1, 1]), ([EDA], [0])):
        step = batch(mask, label)
        loss = crossmodal_loss(model, step, Crossmodal(joint=0.0))
        loss.backward()
        assert loss.item() == pytest.approx(task_loss(model, step).item())
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
