"""Annotations to labels: only whole stretches, neighbours joined, contradictions refused."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data import stress_predict
from train.data.types import Annotation
from train.errors import TaskError
from train.tasks import JOIN_S, TASKS, UNLABELLED, Task, labels_of, stretches, task_of

edges = st.lists(st.floats(0, 1000), min_size=2, max_size=12, unique=True).map(sorted)


@given(edges=edges, start=st.floats(0, 1000), length=st.floats(1, 100))
def test_a_window_has_a_label_only_wholly_inside_one_stretch(edges: list[float], start: float, length: float) -> None:
    within = [(a, b, i % 2) for i, (a, b) in enumerate(pairwise(edges))]
    label = labels_of(np.array([start]), np.array([start + length]), within)[0]
    holders = [lab for a, b, lab in within if a <= start and start + length <= b]
    assert label == (holders[0] if holders else UNLABELLED)


def test_neighbours_of_one_label_are_one_stretch_and_unknown_descriptions_none() -> None:
    phases = [
        Annotation(400.0, 60.0, "relax"),
        Annotation(0.0, 100.0, "baseline"),
        Annotation(100.0, 50.0, "transition"),
        Annotation(150.0, 60.0, "lunch"),
        Annotation(210.0, 60.0, "interview"),
        Annotation(270.0, 60.0, "hyperventilation"),
    ]
    task = task_of("rest/task", "stress-predict")
    assert stretches(phases, task.of) == [(0.0, 150.0, 0), (210.0, 330.0, 1), (400.0, 460.0, 0)]


def test_stress_predict_is_labelled_as_published() -> None:
    assert dict(task_of("rest/task", "stress-predict").of) == stress_predict.LABELS


def test_the_binary_task_of_wesad_is_the_three_class_one_with_two_joined() -> None:
    """Schmidt et al. 2018: stress against baseline and amusement; meditation in neither."""
    binary, three = task_of("non-stress/stress", "wesad"), task_of("3-class", "wesad")
    assert binary.of.keys() == three.of.keys() == {"baseline", "stress", "amusement"}
    assert {d for d, k in binary.of.items() if k == 1} == {"stress"} == {d for d, k in three.of.items() if k == 1}


@pytest.mark.parametrize("task", [t for t in TASKS if not t.rates], ids=lambda task: task.name)
def test_a_baseline_is_rest(task: Task) -> None:
    assert {task.of[description] for description in task.rest} == {0}


def test_contradictions_are_refused() -> None:
    with pytest.raises(TaskError, match="every label"):
        Task("t", "d", ("a", "b", "c"), {"x": 0, "y": 1}, ("x",))
    with pytest.raises(TaskError, match="every label"):
        Task("t", "d", ("a",), {"x": 0}, ("x",))
    with pytest.raises(TaskError, match="rest"):
        Task("t", "d", ("a", "b"), {"x": 0, "y": 1}, ())
    with pytest.raises(TaskError, match=r"3-class \(wesad\)"):
        task_of("arousal", "wesad")


lengths = st.floats(0.5, 200.0)
phases = st.lists(
    st.tuples(st.floats(0.0, 3.0), lengths, st.sampled_from(["calm", "quiz", "lunch"])), min_size=1, max_size=12
)


@given(phases=phases, start=st.floats(0, 1000), length=st.floats(1, 100), seed=st.randoms(use_true_random=False))
def test_all_of_a_labelled_window_is_annotated_so_but_for_short_pauses(
    phases: list[tuple[float, float, str]], start: float, length: float, seed: random.Random
) -> None:
    """Phase follows phase, with pauses between them, in whatever order they are given."""
    of, annotations, now = {"calm": 0, "quiz": 1}, [], 0.0
    for pause, duration, text in phases:
        annotations.append(Annotation(now + pause, duration, text))
        now += pause + duration
    shuffled = seed.sample(annotations, len(annotations))
    label = labels_of(np.array([start]), np.array([start + length]), stretches(shuffled, of))[0]
    if label == UNLABELLED:
        return
    edges = sorted({start, start + length, *(t for a in annotations for t in (a.onset, a.stop))})
    for low, high in pairwise(t for t in edges if start <= t <= start + length):
        at = [of.get(a.description) for a in annotations if a.onset <= low and high <= a.stop]
        assert at == [label] or (not at and high - low < JOIN_S)


@pytest.mark.parametrize(("pause", "n"), [(0.0, 1), (JOIN_S - 0.1, 1), (JOIN_S + 0.1, 2), (60.0, 2)])
def test_only_a_pause_of_less_than_a_second_is_passed_over(pause: float, n: int) -> None:
    annotations = [Annotation(0.0, 100.0, "calm"), Annotation(100.0 + pause, 50.0, "calm")]
    assert len(stretches(annotations, {"calm": 0})) == n
