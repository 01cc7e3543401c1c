"""Choose the windows that fix the int8 ranges, and those that judge the result: seeded, balanced, without leaks.

Knows nothing of torch, of the converter or of how windows are made: train.prepare runs the device's pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from device.bundle import MASKS
from device.pipeline.feature_input import FeatureSpec
from device.pipeline.spec import MODALITIES, SignalSpec
from quantize.errors import CalibrationError
from train.data.datasets import find
from train.prepare import prepare_dataset
from train.tasks import UNLABELLED, task_of
from train.windows import network_windows

Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

PER_MASK = 120
"""Calibration windows for each mask, a free choice: some 4 of each person of a 30-person set."""
MIN_PER_MASK = 20
"""Fewer windows of a mask than this leave its ranges to a handful of moments; a free choice."""
MAX_SHARE = 0.25
"""Largest share of a mask's windows that calibrate: with three masks a quarter at least is left to judge."""
MIN_SUBJECTS = 5
"""Fewer people than this seldom span the range of skin conductance levels; a free choice."""
PARITY_PER_MASK = 600
"""Windows for the parity figures of each mask: an agreement of 0.98 is then known to +- 0.011 (95 %, binomial)."""
KEYS = (*MODALITIES, "present", "label", "subject")
"""Arrays of a file of windows, named and shaped as in train.windows.Windows."""
REMEDY_PATH = "give the windows that affectd-train fit wrote, or the data set's top folder"


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Windows of many people, as the network's input, to choose from."""

    path: str
    """Where they come from; for messages."""
    arrays: Mapping[str, Floats32]
    """Modality -> (n, n_chans, n_times) after ``device.pipeline.model_input``, or (n, n_features) after
    ``feature_input``; anything finite where absent."""
    present: Mapping[str, npt.NDArray[np.bool_]]
    """Modality -> (n,) whether it covers the window with enough quality."""
    labels: Ints
    """(n,) index into the checkpoint's labels, or UNLABELLED."""
    subjects: npt.NDArray[np.str_]
    """(n,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def having(self, mask: str) -> npt.NDArray[np.bool_]:
        """(n,) whether every modality of the mask is present."""
        shown: npt.NDArray[np.bool_] = np.stack([self.present[m] for m in mask.split("+")]).all(axis=0)
        return shown

    def inputs(self, indices: Ints, mask: str) -> dict[str, Floats32]:
        """Network inputs of some windows under a mask: what the mask leaves out is zero, as on the device."""
        shown = mask.split("+")
        arrays = {m: self.arrays[m][indices] * np.float32(m in shown) for m in MODALITIES}
        column = np.array([[m in shown for m in MODALITIES]], np.float32)
        return {**arrays, "mask": np.repeat(column, len(indices), axis=0)}


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Which windows calibrate and which judge, per mask."""

    calibration: Mapping[str, Ints]
    parity: Mapping[str, Ints]
    """Never one that calibrates, under any mask."""


def read_pool(
    path: Path,
    spec: SignalSpec,
    cache: Path,
    task: str = "",
    say: Callable[[str], None] = lambda _: None,
    features: FeatureSpec | None = None,
) -> Pool:
    """Windows made by the device's pipeline with the given spec; raises CalibrationError or TrainError.

    ``path`` is the file of windows that affectd-train wrote, or a data set's top folder (prepared here or taken from
    ``cache``), which is then labelled as ``task`` says. For a network of ``features`` only the file will do.
    """
    if path.is_dir() and features is not None:
        raise CalibrationError(path, "", "is a folder", "give the features that affectd-train distil wrote")
    if path.is_dir():
        people, _ = prepare_dataset(path, spec, cache, workers=1, say=say)
        windows = network_windows(people, task_of(task, find(path).name), spec, spec)
        content: dict[str, Any] = {key: getattr(windows, key) for key in KEYS}
    else:
        content = _read_file(path)
    pool = Pool(
        path=str(path),
        arrays={m: content[m] for m in MODALITIES},
        present={m: content["present"][:, i] for i, m in enumerate(MODALITIES)},
        labels=content["label"],
        subjects=content["subject"],
    )
    _check_shapes(pool, spec, features)
    return pool


def _read_file(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file, by name; code in it is not run."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {key: file[key] for key in KEYS}
    except OSError as error:
        raise CalibrationError(path, "", error.strerror or str(error), REMEDY_PATH) from error
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise CalibrationError(path, "", f"cannot be read ({error})", REMEDY_PATH) from error
    if content["present"].shape != (len(content["label"]), len(MODALITIES)):
        raise CalibrationError(path, "present", f"has shape {content['present'].shape}", REMEDY_PATH)
    return content


def _check_shapes(pool: Pool, spec: SignalSpec, features: FeatureSpec | None) -> None:
    """Raise CalibrationError where the windows are not of the checkpoint's spec."""
    for m in MODALITIES:
        one = (len(spec.ch_names(m)), spec.n_times(m)) if features is None else (len(features.of(m)),)
        shape = (len(pool), *one)
        if pool.arrays[m].shape != shape:
            reason = f"shape {pool.arrays[m].shape} where the checkpoint's spec gives {shape}"
            raise CalibrationError(pool.path, m, reason, "prepare the windows with the checkpoint's own spec")
    if pool.subjects.shape != (len(pool),):
        raise CalibrationError(pool.path, "subject", f"has shape {pool.subjects.shape}", REMEDY_PATH)


def check_labels(pool: Pool, n_outputs: int) -> None:
    """Raise CalibrationError where a label is none of the network's."""
    if len(pool) and not UNLABELLED <= pool.labels.min() <= pool.labels.max() < n_outputs:
        reason = f"{pool.labels.min()}..{pool.labels.max()} where the network has 0..{n_outputs - 1}"
        raise CalibrationError(pool.path, "label", reason, "prepare the windows for the checkpoint's task")


def select(
    pool: Pool,
    train_subjects: Sequence[str],
    n_outputs: int,
    *,
    seed: int,
    masks: Sequence[str] = MASKS,
    per_mask: int = PER_MASK,
    parity_per_mask: int = PARITY_PER_MASK,
) -> Selection:
    """Calibration windows of training subjects only, balanced over subjects and labels for each mask.

    Raises CalibrationError where training subjects are unknown or absent, fewer than MIN_SUBJECTS, or where a mask or
    a label has no windows. The rest, of all subjects and balanced in the same way, judges the result.
    """
    _check_subjects(pool, train_subjects)
    trained = np.isin(pool.subjects, list(train_subjects))
    calibration = {}
    for number, mask in enumerate(masks):
        candidates = np.flatnonzero(trained & pool.having(mask) & (pool.labels != UNLABELLED))
        _check_candidates(pool, candidates, mask, n_outputs)
        n = min(per_mask, int(MAX_SHARE * len(candidates)))
        calibration[mask] = balanced(pool, candidates, n, seed + number)
    check_no_leak(pool, calibration, train_subjects)
    used = np.unique(np.concatenate(list(calibration.values())))
    parity = {}
    for number, mask in enumerate(masks):
        rest = np.setdiff1d(np.flatnonzero(pool.having(mask) & (pool.labels != UNLABELLED)), used)
        parity[mask] = balanced(pool, rest, parity_per_mask, seed + len(masks) + number)
        if not len(parity[mask]):
            raise CalibrationError(pool.path, f"mask {mask}", "no window is left to judge", "prepare more windows")
    return Selection(calibration, parity)


def balanced(pool: Pool, candidates: Ints, n: int, seed: int) -> Ints:
    """Up to ``n`` of the candidates, one of each (subject, label) in turn, at random inside; sorted."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(candidates)
    turn: dict[tuple[str, int], int] = {}
    order = []
    for index in shuffled:
        cell = (str(pool.subjects[index]), int(pool.labels[index]))
        order.append(turn.setdefault(cell, 0))
        turn[cell] += 1
    first = shuffled[np.argsort(np.array(order, np.int64), kind="stable")]
    return np.sort(first[:n])


def calibration_inputs(pool: Pool, selection: Selection, spec: SignalSpec) -> dict[str, Floats32]:
    """Network inputs of every calibration window under its mask, masks one after the other."""
    parts = [pool.inputs(indices, mask) for mask, indices in selection.calibration.items()]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in (*MODALITIES, "mask")}
    for m in MODALITIES:
        largest = float(np.abs(inputs[m]).max())
        if not largest <= spec.clip * (1 + 1e-6):  # float32's rounding; NaN fails as well
            reason = f"holds {largest:g} where the spec clips at {spec.clip:g}"
            raise CalibrationError(pool.path, m, reason, "prepare the windows with the checkpoint's own spec")
    return inputs


def central(inputs: Mapping[str, Floats32], logits: Floats32, share: float) -> dict[str, Floats32]:
    """Inputs without the windows that have a float logit outside the central ``share`` of all; all of them for 1.

    The converter's int8 ranges are plain minimum and maximum: a few extreme windows make every step coarser, and near
    the decision int8 then ties where float does not. Left out, they saturate: same label, less extreme probability.
    """
    tail = 50 * (1 - share)
    low, high = np.percentile(logits, [tail, 100 - tail])
    kept = ((logits >= low) & (logits <= high)).all(axis=1)
    return {name: array[kept] for name, array in inputs.items()}


def check_no_leak(pool: Pool, calibration: Mapping[str, Ints], train_subjects: Sequence[str]) -> None:
    """Raise CalibrationError where a calibration window is not of a training subject."""
    for mask, indices in calibration.items():
        foreign = sorted(set(pool.subjects[indices].tolist()) - set(train_subjects))
        if foreign:
            reason = f"subjects {_some(foreign)} are no training subjects of the checkpoint"
            raise CalibrationError(pool.path, f"mask {mask}", reason, "calibrate on training subjects only")


def summary(pool: Pool, selection: Selection, train_subjects: Sequence[str]) -> dict[str, object]:
    """Who calibrates and who judges, for the report."""
    return {
        "calibration": {mask: _counts(pool, indices) for mask, indices in selection.calibration.items()},
        "parity": {
            mask: {
                **_counts(pool, indices),
                "n_held_out": int((~np.isin(pool.subjects[indices], list(train_subjects))).sum()),
            }
            for mask, indices in selection.parity.items()
        },
        "calibration_subjects": sorted(
            {str(s) for indices in selection.calibration.values() for s in pool.subjects[indices]}
        ),
    }


def _counts(pool: Pool, indices: Ints) -> dict[str, object]:
    """Windows, people and windows per label of a choice."""
    labels, counts = np.unique(pool.labels[indices], return_counts=True)
    per_label = {str(label): int(count) for label, count in zip(labels, counts, strict=True)}
    return {"n_windows": len(indices), "n_subjects": len(set(pool.subjects[indices])), "per_label": per_label}


def _check_subjects(pool: Pool, train_subjects: Sequence[str]) -> None:
    """Enough training subjects among the windows'."""
    here = set(pool.subjects.tolist())
    known = here & set(train_subjects)
    if not known:
        reason = f"none of its subjects ({_some(sorted(here))}) is a training subject of the checkpoint"
        remedy = "calibrate on the windows the network was trained on, never on held-out subjects"
        raise CalibrationError(pool.path, "subjects", reason, remedy)
    if len(known) < MIN_SUBJECTS:
        reason = f"{len(known)} training subjects ({_some(sorted(known))}) where {MIN_SUBJECTS} are needed"
        raise CalibrationError(pool.path, "subjects", reason, "prepare more of the training subjects")


def _check_candidates(pool: Pool, candidates: Ints, mask: str, n_outputs: int) -> None:
    """Enough windows, people and every label for one mask."""
    place, remedy = f"mask {mask}", "prepare windows in which these sensors are worn"
    needed = int(MIN_PER_MASK / MAX_SHARE)
    if len(candidates) < needed:
        reason = f"{len(candidates)} labelled windows of training subjects where {needed} are needed"
        raise CalibrationError(pool.path, place, reason, remedy)
    n_subjects = len(set(pool.subjects[candidates].tolist()))
    if n_subjects < MIN_SUBJECTS:
        raise CalibrationError(pool.path, place, f"{n_subjects} subjects where {MIN_SUBJECTS} are needed", remedy)
    missing = sorted(set(range(n_outputs)) - set(pool.labels[candidates].tolist()))
    if missing:
        raise CalibrationError(pool.path, place, f"no window of labels {missing}", "prepare windows of every label")


def _some(names: Sequence[str]) -> str:
    """The first few names of a list."""
    few = 5  # one line stays readable
    return ", ".join(names[:few]) + (f" and {len(names) - few} more" if len(names) > few else "")
