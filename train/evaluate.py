"""Leave-one-subject-out evaluation of networks and classical baselines on the same folds, under the evaluation law.

The law: no person on both sides of a split; nothing fitted on the test subject, no statistic, no epoch, no threshold;
two modes, never mixed: cold start (no data of the person) and calibrated (a resting baseline recorded before, and not
scored); every modality mask; per-subject figures; intervals by bootstrap over subjects; the majority class beside them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import wilcoxon
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.pipeline import Pipeline as Steps

from device.pipeline.model_input import model_input
from device.pipeline.spec import SignalSpec, default_spec
from train.errors import LeakError
from train.fit import MASKS, FitConfig, config_record, fit, predict
from train.models import classical
from train.models.acc import AccConfig
from train.prepare import LABELS, Prepared, Windows, network_windows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MODES = ("cold_start", "calibrated")
BOOTSTRAPS = 2000
ECE_BINS = 10


@dataclass(frozen=True, eq=False)
class Fold:
    """One test subject and everyone else."""

    test: str
    train: tuple[str, ...]


def folds(subjects: Iterable[str]) -> list[Fold]:
    """One fold per subject, in order."""
    everyone = sorted(set(subjects))
    return [Fold(s, tuple(o for o in everyone if o != s)) for s in everyone]


def assert_no_leak(train_subjects: Iterable[str], test_subjects: Iterable[str], where: str) -> None:
    """Raise LeakError where a person stands on both sides."""
    both = sorted(set(train_subjects) & set(test_subjects))
    if both:
        raise LeakError(f"subjects {', '.join(both)} on both sides of the split", where)


def assert_scaled_on(model: Steps, x: Floats, where: str) -> None:
    """Raise LeakError where a classifier's scaler was fitted on anything but the training rows ``x``."""
    scaler = model[0]
    if scaler.n_samples_seen_ != len(x) or not np.allclose(scaler.mean_, x.mean(axis=0)):
        raise LeakError("the scaler's mean is not that of the training rows", where)


def assert_baseline_not_scored(person: Prepared, scored: npt.NDArray[np.bool_], window_s: float) -> None:
    """Raise LeakError where a scored window overlaps the resting baseline that calibrated it."""
    if not person.is_baseline.any():
        return
    end = person.start[person.is_baseline].max() + window_s
    if (scored & (person.start < end)).any():
        raise LeakError(f"baseline windows of {person.subject} are scored", "calibrated mode")


def metrics(label: Ints, probability: Floats) -> dict[str, float]:
    """Figures of one person from labels (n,) and probabilities (n, 2); AUROC is nan where one class is missing."""
    predicted = probability.argmax(axis=1)
    two = len(np.unique(label)) == 2
    return {
        "balanced_accuracy": float(balanced_accuracy_score(label, predicted)) if two else float("nan"),
        "macro_f1": float(f1_score(label, predicted, average="macro", labels=[0, 1], zero_division=0.0)),
        "accuracy": float((label == predicted).mean()),
        "auroc": float(roc_auc_score(label, probability[:, 1])) if two else float("nan"),
        "ece": expected_calibration_error(label, probability),
        "majority": float(max(np.mean(label == c) for c in np.unique(label))),
        "n_windows": float(len(label)),
    }


def expected_calibration_error(label: Ints, probability: Floats) -> float:
    """ECE over ECE_BINS equal bins of the winning probability (Guo et al. 2017, arXiv 1706.04599)."""
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))


@dataclass(frozen=True, eq=False)
class _Job:
    """What the workers share by forking."""

    mode: str
    people: dict[str, Prepared]
    windows: Windows
    features: dict[str, Floats]
    fit_config: FitConfig
    model_config: AccConfig
    spec: SignalSpec
    key: str


_job: _Job | None = None


def loso(
    people: Sequence[Prepared],
    out: Path,
    *,
    mode: str,
    seeds: Sequence[int],
    fit_config: FitConfig,
    model_config: AccConfig,
    workers: int = 2,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Every fold of one mode; one JSON per fold and seed in ``out``: an interrupted run goes on where it was."""
    global _job
    spec = default_spec(calibrated=mode == "calibrated")
    out.mkdir(parents=True, exist_ok=True)
    named = {p.subject: p for p in people}
    tasks = [(fold, seed, out / f"{mode}-{fold.test}-{seed}.json") for fold in folds(named) for seed in seeds]
    key = _key(people, spec, fit_config, model_config)
    todo = [t for t in tasks if not _is_made(t[2], key)]
    if todo:
        say(f"{mode}: scaling {sum(map(len, people))} windows of {len(people)} people")
        features = {p.subject: classical.features(p, spec, calibrated=mode == "calibrated") for p in people}
        _job = _Job(mode, named, network_windows(people, spec), features, fit_config, model_config, spec, key)
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            for done, line in enumerate(pool.map(_run_fold, todo), 1):
                say(f"{mode} {done}/{len(todo)}: {line}")
        _job = None
    return [json.loads(t[2].read_text()) for t in tasks]


def _key(people: Sequence[Prepared], spec: SignalSpec, fit_config: FitConfig, model_config: AccConfig) -> str:
    """Hash of everything a fold's figures depend on beside its subject and seed."""
    digest = hashlib.sha256(repr((spec, fit_config, model_config)).encode())
    for person in people:
        for value in vars(person).values():
            digest.update(np.ascontiguousarray(value).tobytes())
    here = Path(__file__).parent
    for source in (*sorted(here.glob("models/*.py")), here / "fit.py", here / "prepare.py", Path(__file__)):
        digest.update(source.read_bytes())
    digest.update(Path(inspect.getfile(model_input)).read_bytes())
    return digest.hexdigest()[:16]


def _is_made(path: Path, key: str) -> bool:
    """Whether a fold's file is there and from the same code, configuration and windows."""
    return path.exists() and json.loads(path.read_text()).get("key") == key


def _run_fold(task: tuple[Fold, int, Path]) -> str:
    fold, seed, path = task
    assert _job is not None
    torch.set_num_threads(1)
    assert_no_leak(fold.train, [fold.test], f"fold {fold.test}")
    systems = {"acc": _network_fold(_job, fold, seed), **_classical_fold(_job, fold, seed)}
    record = {
        "key": _job.key,
        "mode": _job.mode,
        "test": fold.test,
        "seed": seed,
        "config": config_record(_job.fit_config, _job.model_config),
        "systems": systems,
    }
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(record))
    partial.replace(path)
    figures = (f"{name} {s['both']['balanced_accuracy']:.2f}" for name, s in systems.items() if "both" in s)
    return f"{fold.test} seed {seed}: {', '.join(figures)}"


def _network_fold(job: _Job, fold: Fold, seed: int) -> dict[str, dict[str, float]]:
    fitted = fit(job.windows, list(fold.train), job.fit_config, job.model_config, seed)
    assert_no_leak(fitted.train_subjects, [fold.test], f"fold {fold.test}, fit")
    mine = (job.windows.subject == fold.test) & job.windows.is_scored
    if job.mode == "calibrated":
        person = job.people[fold.test]
        assert_baseline_not_scored(person, mine[job.windows.subject == fold.test], job.spec.window_s)
    out = {}
    for name, mask in MASKS.items():
        index = np.flatnonzero(mine & (job.windows.present >= np.array(mask)).all(axis=1))
        if len(index):
            probability = predict(fitted.model, job.windows, index, mask).astype(float)
            out[name] = metrics(job.windows.label[index], probability)
    return out


def _classical_fold(job: _Job, fold: Fold, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    out: dict[str, dict[str, dict[str, float]]] = {system: {} for system in classical.SYSTEMS}
    for name, mask in MASKS.items():
        usable = {s: _usable(job, s, mask) for s in (*fold.train, fold.test)}
        x = np.concatenate([job.features[s][usable[s]] for s in fold.train])[:, classical.columns(name)]
        y = np.concatenate([job.people[s].label[usable[s]] for s in fold.train])
        test_x = job.features[fold.test][usable[fold.test]][:, classical.columns(name)]
        if not len(test_x):
            continue
        for system in classical.SYSTEMS:
            model = classical.make(system, seed).fit(x, y)
            assert_scaled_on(model, x, f"fold {fold.test}, {system}")
            out[system][name] = metrics(job.people[fold.test].label[usable[fold.test]], model.predict_proba(test_x))
    return out


def _usable(job: _Job, subject: str, mask: tuple[float, float]) -> npt.NDArray[np.bool_]:
    scored = job.windows.is_scored[job.windows.subject == subject]
    return scored & (job.people[subject].present >= np.array(mask)).all(axis=1)


def summarise(records: Sequence[dict[str, Any]], provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Flat records per mode, system and mask: means over subjects (seeds averaged first), with 95 % intervals."""
    out = []
    for mode in MODES:
        of_mode = [r for r in records if r["mode"] == mode]
        for system in ("acc", *classical.SYSTEMS):
            for mask in MASKS:
                table = _per_subject(of_mode, system, mask)
                if table:
                    out.append(_summary(table, mode, system, mask, of_mode, provenance))
        out.append(_majority(of_mode, mode, provenance))
    return [r for r in out if r]


def _per_subject(records: Sequence[dict[str, Any]], system: str, mask: str) -> dict[str, dict[str, float]]:
    """Subject -> figures, seeds averaged; people without both classes are left out."""
    found: dict[str, list[dict[str, float]]] = {}
    for record in records:
        figures = record["systems"][system].get(mask)
        if figures and np.isfinite(figures["balanced_accuracy"]):
            found.setdefault(record["test"], []).append(figures)
    return {s: {k: float(np.mean([f[k] for f in many])) for k in many[0]} for s, many in found.items()}


def _summary(
    table: dict[str, dict[str, float]],
    mode: str,
    system: str,
    mask: str,
    records: Sequence[dict[str, Any]],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    figures = ("balanced_accuracy", "macro_f1", "accuracy", "auroc", "ece")
    mean = {k: round(float(np.mean([row[k] for row in table.values()])), 4) for k in figures}
    scores = {s: round(row["balanced_accuracy"], 4) for s, row in sorted(table.items())}
    head = _head(mode, system, mask, len(table), records)
    record = {**head, **mean, "ci95": bootstrap_interval(list(scores.values())), "per_subject": scores}
    if system != "acc":
        record["wilcoxon_p_acc_against_this"] = _paired(_per_subject(records, "acc", mask), table)
    return {**record, **provenance}


def _head(mode: str, system: str, mask: str, n: int, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "dataset": "stress-predict",
        "task": "/".join(LABELS),
        "mode": mode,
        "system": system,
        "mask": mask,
        "runtime": "float",
        "subjects": n,
        "seeds": sorted({r["seed"] for r in records}),
        "surrogate_ecg": mask != "eda",
    }


def _majority(records: Sequence[dict[str, Any]], mode: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """What always naming the commoner class gives."""
    table = _per_subject(records, "classical-lda", "both")
    if not table:
        return {}
    accuracy = round(float(np.mean([row["majority"] for row in table.values()])), 4)
    return {
        **_head(mode, "majority", "both", len(table), records),
        "balanced_accuracy": 0.5,
        "macro_f1": round(accuracy / (1 + accuracy), 4),
        "accuracy": accuracy,
        "auroc": 0.5,
        "ece": None,
        "ci95": [0.5, 0.5],
        **provenance,
    }


def bootstrap_interval(scores: Sequence[float], seed: int = 0) -> list[float]:
    """95 % interval of the mean by resampling people."""
    rng = np.random.default_rng(seed)
    means = rng.choice(np.asarray(scores), (BOOTSTRAPS, len(scores))).mean(axis=1)
    return [round(float(q), 4) for q in np.percentile(means, [2.5, 97.5])]


def _paired(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> float | None:
    """Wilcoxon signed-rank p over the people both have; None where all are equal."""
    common = sorted(set(ours) & set(theirs))
    difference = np.array([ours[s]["balanced_accuracy"] - theirs[s]["balanced_accuracy"] for s in common])
    return round(float(wilcoxon(difference).pvalue), 4) if len(common) > 5 and difference.any() else None
