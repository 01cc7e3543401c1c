"""What is told from what: the labelled tasks of each data set, and how a recording's annotations become labels.

Knows nothing of signals or networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data.types import Annotation
from train.errors import TaskError

UNLABELLED = -1
JOIN_S = 1.0
"""Stretches of one label with less than this between them are one: labels are in whole seconds."""

Stretch = tuple[float, float, int]
"""Start and stop in s, label."""


@dataclass(frozen=True)
class Task:
    """One question asked of a recording."""

    name: str
    """Its name in configurations, result files and cards."""
    dataset: str
    """The data set it is asked of, as ``Recording.dataset`` says it; empty for anybody's."""
    labels: tuple[str, ...]
    """Classes, in the order of the network's outputs."""
    of: Mapping[str, int]
    """Description of an annotation -> label; what is not named has no label."""
    rest: tuple[str, ...]
    """Descriptions of the rest whose beginning is the resting baseline."""
    scale: tuple[float, float] | None = None
    """Least and greatest rating where ``labels`` are ratings to be told (``arousal``) and no classes; a network tells
    them as -1 to 1."""

    def __post_init__(self) -> None:
        if self.scale is not None:
            if not self.labels or self.of or not self.scale[0] < self.scale[1]:
                raise TaskError(self.name, "ratings need names, no descriptions, and a scale that rises")
            return
        if len(self.labels) < 2 or set(self.of.values()) != set(range(len(self.labels))):
            raise TaskError(self.name, "every label needs a description, and at least two are needed")
        if not self.rest:
            raise TaskError(self.name, "names no resting description, so that nobody could be calibrated")

    @property
    def rates(self) -> bool:
        """Whether ratings are told, and no classes."""
        return self.scale is not None


_REST = ("baseline", "relax", "questionnaire", "transition")

TASKS = (
    Task(
        "non-stress/stress",
        "wesad",
        ("non-stress", "stress"),
        {"baseline": 0, "amusement": 0, "stress": 1},
        ("baseline",),
    ),
    Task(
        "3-class",
        "wesad",
        ("baseline", "stress", "amusement"),
        {"baseline": 0, "stress": 1, "amusement": 2},
        ("baseline",),
    ),
    Task(
        "rest/task",
        "stress-predict",
        ("rest", "task"),
        dict.fromkeys(_REST, 0) | dict.fromkeys(("stroop", "interview", "hyperventilation"), 1),
        _REST,
    ),
    Task("arousal/valence", "wesad", ("arousal", "valence"), {}, ("baseline",), (1.0, 9.0)),
    Task("arousal/valence", "amigos", ("arousal", "valence"), {}, (), (1.0, 9.0)),
    Task("arousal/valence", "dreamer", ("arousal", "valence"), {}, (), (1.0, 5.0)),
    Task("arousal/valence", "recola", ("arousal", "valence"), {}, (), (-1.0, 1.0)),
)
"""WESAD's classes as Schmidt et al. (2018, ICMI) ask them, meditation left out; Stress-Predict's as its authors label
it. Ratings on the scales that the sets publish: self-assessment manikins in WESAD, AMIGOS and DREAMER, the mean of six
raters over time in RECOLA. Of their rests none is long enough to calibrate with, but WESAD's."""


def task_of(name: str, dataset: str) -> Task:
    """The known task of a data set; raises TaskError naming those there are."""
    for task in TASKS:
        if task.name == name and task.dataset == dataset:
            return task
    known = ", ".join(f"{task.name} ({task.dataset})" for task in TASKS)
    raise TaskError(
        name, f"is not known for {dataset}; known are {known}; other tasks take [labels] in the configuration"
    )


def stretches(annotations: Iterable[Annotation], of: Mapping[str, int]) -> list[Stretch]:
    """Labelled stretches in order of time, neighbours of one label joined."""
    out: list[Stretch] = []
    for a in sorted(annotations, key=lambda a: a.onset):
        label = of.get(a.description)
        if label is None:
            continue
        if out and out[-1][2] == label and a.onset - out[-1][1] < JOIN_S:
            out[-1] = (out[-1][0], max(out[-1][1], a.stop), label)
        else:
            out.append((a.onset, a.stop, label))
    return out


def labels_of(
    start: npt.NDArray[np.float64], stop: npt.NDArray[np.float64], within: Sequence[Stretch]
) -> npt.NDArray[np.int64]:
    """(n,) label of the stretch that holds all of ``start..stop`` s, UNLABELLED where none does."""
    out = np.full(len(start), UNLABELLED, dtype=np.int64)
    for a, b, label in within:
        out[(start >= a) & (stop <= b)] = label
    return out
