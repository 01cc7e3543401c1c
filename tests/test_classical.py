"""The classical models: every class weighs the same, the scaler is the training rows' own, a seed fixes the rest."""

from __future__ import annotations

import numpy as np
import pytest

from train.models.classical import SYSTEMS, make


def made(n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds, the first class ten times as frequent as the others."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.full(200 if k == 0 else 20, k) for k in range(n_classes)])
    return rng.normal(0, 1, (len(label), 3)) * [1, 5, 100] + 1.2 * label[:, None] * [1, 5, 100], label


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_rare_class_is_found_as_often_as_a_common_one(system: str, n_classes: int) -> None:
    x, y = made(n_classes)
    probability = make(system, 0, n_classes).fit(x, y).predict_proba(made(n_classes, 1)[0])
    assert probability.shape == (len(y), n_classes)
    assert np.allclose(probability.sum(axis=1), 1)
    recall = [(probability[y == k].argmax(axis=1) == k).mean() for k in range(n_classes)]
    assert min(recall) > 0.35  # without equal weights the rare classes' is below 0.25
    assert np.mean(recall) > 1.4 / n_classes


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_seed_fixes_the_result_and_units_do_not_matter(system: str) -> None:
    x, y = made(2)
    first = make(system, 0).fit(x, y).predict_proba(x)
    assert np.array_equal(first, make(system, 0).fit(x, y).predict_proba(x))
    scaled = make(system, 0).fit(x * 1024, y).predict_proba(x * 1024)
    assert np.allclose(first, scaled, atol=1e-6)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_scaler_is_fitted_on_the_training_rows(system: str) -> None:
    x, y = made(2)
    scaler = make(system, 0).fit(x, y)[0]
    assert scaler.n_samples_seen_ == len(x)
    assert np.allclose(scaler.mean_, x.mean(axis=0))
