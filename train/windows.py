"""Prepared people to what a network reads and is judged by: scaled windows, labels, the resting baseline.

Knows no data set and no network. A shorter window or context is the end of the prepared one, cut before scaling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from device.pipeline.model_input import Baseline, baseline_from, model_input
from device.pipeline.spec import MODALITIES, SignalSpec
from train.errors import PrepareError
from train.prepare import Prepared
from train.tasks import UNLABELLED, Stretch, Task, labels_of, stretches

BASELINE_S = 300.0
"""Length of the resting baseline of calibrated mode: the upper end of the evaluation law's 2-5 min."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Roles:
    """What each window of one person is to a task."""

    label: npt.NDArray[np.int64]
    """(n,) index into the task's labels, UNLABELLED where the window lies in no single stretch; 0 where it is rated."""
    target: npt.NDArray[np.float64]
    """(n, n_ratings) of the task, -1 to 1; (n, 0) for classes."""
    is_baseline: Bools
    """(n,) inside the resting baseline."""
    after_baseline: Bools
    """(n,) labelled and clear of the baseline: what calibrated mode may score."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of many people as the network's input."""

    ecg: npt.NDArray[np.float32]
    """(n, 2, n_times), scaled and clipped."""
    eda: npt.NDArray[np.float32]
    """(n, 2, n_times), scaled and clipped."""
    present: Bools
    """(n, 2) whether ecg, eda may be used."""
    label: npt.NDArray[np.int64]
    """(n,) class; 0 for all where ratings are told."""
    target: npt.NDArray[np.float32]
    """(n, n_ratings), -1 to 1; (n, 0) where classes are told."""
    subject: npt.NDArray[np.str_]
    start: npt.NDArray[np.float64]
    is_scored: Bools
    """(n,) may be scored in this mode."""

    def __len__(self) -> int:
        return len(self.label)

    def of(self, subjects: Sequence[str]) -> npt.NDArray[np.int64]:
        """Indices of the labelled windows of some people that any sensor covers."""
        usable = (self.label != UNLABELLED) & self.present.any(axis=1)
        return np.flatnonzero(usable & np.isin(self.subject, list(subjects)))


def shortened(spec: SignalSpec, window_s: float, context_s: float) -> SignalSpec:
    """The spec with a shorter window or EDA context; ValueError where either would be longer."""
    eda = msgspec.structs.replace(spec.eda, context_s=context_s)
    shorter = msgspec.structs.replace(spec, window_s=window_s, eda=eda)
    if any(shorter.n_times(m) > spec.n_times(m) for m in MODALITIES):
        longest = f"{spec.window_s:g} s with {spec.eda.context_s:g} s of EDA"
        raise ValueError(f"window {window_s:g} s, EDA context {context_s:g} s: prepared were {longest}")
    return shorter


def roles(person: Prepared, task: Task, spec: SignalSpec) -> Roles:
    """Labels and baseline of one person's windows, by the spec they were prepared with.

    Raises PrepareError where there is no covered window at rest to begin the baseline with.
    """
    stop = person.start + spec.window_s
    annotations = person.annotations()
    target = _targets(person, task)
    if task.rates:
        label = np.where(np.isfinite(target).all(axis=1), 0, UNLABELLED)
    else:
        label = labels_of(person.start, stop, stretches(annotations, task.of))
    if not task.rest:  # nobody can be calibrated: there is no baseline, and everything may be scored
        nothing = np.zeros(len(person), bool)
        return Roles(label, target, nothing, label != UNLABELLED)
    rest: list[Stretch] = stretches(annotations, dict.fromkeys(task.rest, 0))
    resting = np.flatnonzero((labels_of(person.start, stop, rest) == 0) & _all_there(person))
    if not len(resting):
        raise PrepareError(
            person.subject, f"no covered window at rest ({', '.join(task.rest)})", "leave the subject out"
        )
    begin = person.start[resting[0]]
    end = begin + BASELINE_S
    is_baseline = (labels_of(person.start, stop, rest) == 0) & (person.start >= begin) & (stop <= end)
    return Roles(label, target, is_baseline, (label != UNLABELLED) & (person.start >= end))


def _targets(person: Prepared, task: Task) -> npt.NDArray[np.float64]:
    """(n, n_ratings) of the task as -1 to 1, NaN where a person was not asked for one."""
    if task.scale is None:
        return np.empty((len(person), 0))
    low, high = task.scale
    names = person.rated.tolist()
    columns = [person.ratings[:, names.index(n)] if n in names else np.full(len(person), np.nan) for n in task.labels]
    return np.stack([2 * (column - low) / (high - low) - 1 for column in columns], axis=1)


def _all_there(person: Prepared) -> Bools:
    """(n,) windows covered by every sensor that the person wore at all, and by one at least."""
    worn = person.covered.any(axis=0)
    return np.asarray((person.covered | ~worn).all(axis=1) & worn.any())


def baseline_of(person: Prepared, is_baseline: Bools, spec: SignalSpec) -> Baseline:
    """The person's resting medians, from baseline windows only: usable ones, else covered ones, else any."""
    samples = {}
    for index, modality in enumerate(MODALITIES):
        kinds = [is_baseline & part[:, index] for part in (person.present, person.covered)]
        used = next((kind for kind in kinds if kind.any()), is_baseline)
        data = getattr(person, modality)[used][:, -spec.n_window(modality) :]
        samples[modality] = data.reshape(-1, data.shape[2])
    return baseline_from(samples, spec, int(is_baseline.sum()))


def network_windows(people: Sequence[Prepared], task: Task, prepared_by: SignalSpec, spec: SignalSpec) -> Windows:
    """Scale and clip as the device does, with each person's own baseline where ``spec`` asks for one.

    ``spec`` may have a shorter window or context than ``prepared_by``: the end of each window is taken, so that
    candidates are compared on the same moments.
    """
    parts = [_of_one(person, task, prepared_by, spec) for person in people]
    names = Windows.__dataclass_fields__
    return Windows(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _of_one(person: Prepared, task: Task, prepared_by: SignalSpec, spec: SignalSpec) -> Windows:
    role = roles(person, task, prepared_by)
    used = np.flatnonzero(role.label != UNLABELLED)
    baseline = baseline_of(person, role.is_baseline, prepared_by) if spec.needs_baseline else None
    cut = {m: getattr(person, m)[used][:, -spec.n_times(m) :] for m in MODALITIES}
    scaled = [
        model_input({m: cut[m][i].astype(float) for m in MODALITIES}, spec, baseline).arrays for i in range(len(used))
    ]
    shape = {m: (0, len(spec.ch_names(m)), spec.n_times(m)) for m in MODALITIES}
    ecg, eda = (np.stack([a[m] for a in scaled]) if scaled else np.empty(shape[m], np.float32) for m in MODALITIES)
    scored = role.after_baseline if spec.needs_baseline else role.label != UNLABELLED
    subject = np.full(len(used), person.subject)
    target = role.target[used].astype(np.float32)
    return Windows(ecg, eda, person.present[used], role.label[used], target, subject, person.start[used], scored[used])


def only(windows: Windows, index: npt.NDArray[np.int64]) -> Windows:
    """Some of the windows, in that order."""
    return replace(windows, **{name: getattr(windows, name)[index] for name in Windows.__dataclass_fields__})
