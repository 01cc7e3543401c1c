"""The choice inside a fold: disjoint parts of the given people, the more telling candidate, nothing of anybody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_people import TINY, made_config, made_people, only_calm, spoiled

from train.config import Inner
from train.evaluate import Material
from train.fit import FitConfig
from train.models.acc import AccConfig
from train.models.emobed import EmoBedConfig
from train.objective import NO_CROSSMODAL, Crossmodal
from train.select import Candidate, Choice, _is_clear, choose, choose_crossmodal, split
from train.windows import Windows

SUBJECTS = ("P0", "P1", "P2", "P3")
SHORT, LONG = (60.0, 60.0), (60.0, 120.0)
INNER = Inner((SHORT, LONG), epochs=15)
FIT = FitConfig(epochs=99, batch=16, lr=2e-2, mixup=0.0, running_mean=0.0)
MODEL = AccConfig(**TINY)


@pytest.fixture(scope="module")
def windows() -> dict[Candidate, Windows]:
    """Five people, the last one not among those who choose."""
    material = Material(made_people(5), made_config(), "cold_start")
    return {c: material.windows(c) for c in (SHORT, LONG)}


def blind(windows: Windows) -> Windows:
    return replace(windows, ecg=0 * windows.ecg, eda=0 * windows.eda)


def chosen(windows: Mapping[Candidate, Windows], inner: Inner = INNER) -> Choice:
    return choose(windows, SUBJECTS, inner, FIT, MODEL)


names = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=3)


@given(st.sets(names, min_size=2, max_size=30), st.floats(0.01, 0.99), st.integers(0, 9))
def test_judges_and_fitted_are_all_the_people_and_nobody_is_both(subjects: set[str], share: float, seed: int) -> None:
    judges, others = split(sorted(subjects), share, seed)
    assert judges and others and not set(judges) & set(others)
    assert {*judges, *others} == subjects
    assert abs(len(judges) - share * len(subjects)) <= 1
    assert split(sorted(subjects, reverse=True) * 2, share, seed) == (judges, others)


def test_the_candidate_that_tells_more_is_chosen(windows: dict[Candidate, Windows]) -> None:
    for better, worse in ((SHORT, LONG), (LONG, SHORT)):
        choice = chosen({SHORT: windows[SHORT], LONG: windows[LONG]} | {worse: blind(windows[worse])})
        assert choice.candidate == better
        scores = [choice.scores[f"{c[0]:g}/{c[1]:g}"] for c in (better, worse)]
        assert scores[0] > 0.8 and scores[1] == 0.5


def test_of_equals_the_first_is_chosen(windows: dict[Candidate, Windows]) -> None:
    nothing = {c: blind(w) for c, w in windows.items()}
    assert chosen(nothing, replace_epochs(1)).candidate == SHORT
    assert chosen(dict(reversed(nothing.items())), replace_epochs(1)).candidate == LONG


def replace_epochs(n: int) -> Inner:
    return Inner(INNER.candidates, epochs=n)


def test_it_says_whom_it_looked_at_and_looks_at_nobody_else(windows: dict[Candidate, Windows]) -> None:
    quick = replace_epochs(2)
    choice = chosen(windows, quick)
    assert choice.subjects == SUBJECTS
    assert chosen({c: spoiled(w, "P4") for c, w in windows.items()}, quick) == choice
    judge = split(SUBJECTS, INNER.share, 0)[0][0]
    assert chosen({c: spoiled(w, judge) for c, w in windows.items()}, quick) != choice


def test_fits_are_short_and_made_without_the_judges(
    windows: dict[Candidate, Windows], monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import select

    asked = []

    def spy(w: Windows, subjects: list[str], config: FitConfig, model: AccConfig, seed: int, **more: Any) -> object:
        asked.append((tuple(subjects), config, model.ecg_times, model.eda_times))
        return fit(w, subjects, config, model, seed, **more)

    fit = select.fit
    monkeypatch.setattr(select, "fit", spy)
    chosen(windows, replace_epochs(2))
    others = tuple(split(SUBJECTS, INNER.share, 0)[1])
    assert asked == [(others, replace(FIT, epochs=2), 7680, n_eda) for n_eda in (240, 480)]


def test_emobed_s_training_is_chosen_on_the_same_people_and_the_window_stays(
    windows: dict[Candidate, Windows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ways are fitted on the same part as windows are; a way that is alone needs no fit."""
    from train import select

    asked = []

    def spy(w: Windows, subjects: list[str], config: FitConfig, *rest: Any, crossmodal: Crossmodal) -> object:
        asked.append((tuple(subjects), config.epochs, crossmodal))
        return fit(w, subjects, config, *rest, crossmodal=crossmodal)

    fit = select.fit
    monkeypatch.setattr(select, "fit", spy)
    first, ways = Choice(*LONG, {"60/120": 0.9}, SUBJECTS), (NO_CROSSMODAL, Crossmodal(triplet=0.1))

    def choice(w: Windows, ways: tuple[Crossmodal, ...]) -> Choice:
        return choose_crossmodal(first, w, SUBJECTS, ways, replace_epochs(2), FIT, EmoBedConfig(**TINY))

    found = choice(windows[LONG], ways)
    others = tuple(split(SUBJECTS, INNER.share, 0)[1])
    assert asked == [(others, 2, way) for way in ways]
    assert found.crossmodal in ways
    assert (found.candidate, found.subjects, found.scores["60/120"], len(found.scores)) == (LONG, SUBJECTS, 0.9, 3)
    assert found == choice(spoiled(windows[LONG], "P4"), ways)
    assert choice(windows[LONG], ways[1:]) == replace(first, crossmodal=ways[1])
    assert len(asked) == 4


def test_judges_of_one_class_only_decide_nothing() -> None:
    people = [only_calm(p) if p.subject in split(SUBJECTS, INNER.share, 0)[0] else p for p in made_people(4)]
    material = Material(people, made_config(), "cold_start")
    choice = chosen({c: material.windows(c) for c in (LONG, SHORT)}, replace_epochs(1))
    assert choice.scores == {"60/120": 0.0, "60/60": 0.0}
    assert choice.candidate == LONG


def test_a_choice_of_one_person_takes_the_first(windows: dict[Candidate, Windows]) -> None:
    choice = choose(windows, ("P2",), replace_epochs(1), FIT, MODEL)
    assert (choice.candidate, choice.subjects) == (SHORT, ("P2",))
    assert np.array_equal([*choice.scores.values()], [0.0, 0.0])


@pytest.mark.parametrize(
    ("gain", "is_clear"),
    [
        ([0.1, 0.1, 0.1], True),
        ([0.3, -0.1, 0.1], False),  # mean 0.1, standard error 0.115
        ([0.3, -0.05, 0.1], True),  # mean 0.117, standard error 0.101
        ([0.0, 0.0], False),
        ([-0.2, -0.2], False),
        ([0.2, float("nan")], True),
        ([float("nan")], False),
    ],
)
def test_better_is_what_exceeds_its_standard_error(gain: list[float], is_clear: bool) -> None:
    assert _is_clear(np.array(gain)) == is_clear
