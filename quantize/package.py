"""The whole way from a checkpoint to a bundle, on one screen; and the manifest that goes into it.

Knows nothing of the command line. A bundle that fails its gate is not written unless that is insisted on.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from device.bundle import (
    DISCLAIMER,
    MODEL_FORMATS,
    Bundle,
    Manifest,
    Parity,
    Provenance,
    TensorSpec,
    Thresholds,
    masks_of,
    write_bundle,
)
from device.inference import RUNTIMES, Classifier, file_layout
from device.selftest import probe_of
from device.space import Space
from quantize.calibrate import (
    PARITY_PER_MASK,
    PER_MASK,
    Floats32,
    Pool,
    calibration_inputs,
    central,
    check_labels,
    select,
    summary,
)
from quantize.convert import SUFFIXES, Converted, convert, usable
from quantize.corners import Corner, corners
from quantize.errors import GateError, ResultsError
from quantize.export import REMEDY_CHECKPOINT, Checkpoint, export_onnx, run_torch
from quantize.graph import check_graph
from quantize.layers import WINDOWS, Layer, guilty, layers
from quantize.page import page
from quantize.report import card
from quantize.verify import (
    MAX_DROP,
    MAX_ECE_CHANGE,
    MIN_AGREEMENT,
    Comparison,
    Wanted,
    compare,
    compare_onnx,
    gate,
    parity,
    refusals,
    wanted_of,
)
from train.errors import CheckpointError

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "onnx2tf", "tensorflow")
"""Their versions shape the file."""
MIN_PROBABILITY, MAX_CLIPPED_SHARE = 0.5, 0.25
"""Where the checkpoint has none: a label must be more likely than not; a quarter of a window out of range is no
window of the kind the network has seen. Free choices."""
SHARES = (1.0, 0.99, 0.98)
"""See ``calibrate.central``: finer near the decision, coarser at the extremes. On one network (4 epochs of
Stress-Predict, 600 windows per mask) 8-18 labels differed at 1, 6-8 at 0.99 and 1-6 at 0.98, while the largest error of
a probability grew from 0.05 to 0.12 and 0.20; on another, whose error lay in inner layers, it helped little. That it
ends at 0.98 is a free choice."""
UNCALIBRATED = 1.0
"""The temperature that leaves the logits as they are."""
ONNX, DRAFT, REPORT = "model.onnx", ".affect", "report.json"
AUTO, INT8 = "auto", "int8"
INTEGERS = tuple(name for name, dtype in MODEL_FORMATS.items() if dtype != "float32")
FASTER, LARGER = 1.5, 1.1
"""What a larger file must give, and may cost, to be taken for its speed; free choices."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One file and its judgement."""

    share: float
    file: Converted
    draft: Bundle | None = None
    """The file as a bundle that says nothing of itself yet: enough to run it. None where it cannot be used."""
    found: Sequence[Comparison] = ()
    refused: Sequence[str] = ()
    """What runtimes say that do not take it."""
    corners: Sequence[Corner] = ()

    @property
    def failures(self) -> list[str]:
        """What does not hold; empty where it passes."""
        at_corners = (failure for it in self.corners for failure in it.failures())
        return [*self.file.wrong, *self.refused, *gate(self.found), *at_corners]

    @property
    def twin(self) -> Path:
        """The float file of the same conversion."""
        path = self.file.path
        return path.with_name(path.name.replace(SUFFIXES[self.file.format], SUFFIXES["float32"]))

    @property
    def size(self) -> int:
        """In bytes."""
        return self.file.path.stat().st_size


class LosoRecord(msgspec.Struct, frozen=True):
    """What the card takes of one of train's LOSO records; others of its keys are left where they are."""

    mode: str
    """``cold_start`` or ``calibrated``."""
    system: str
    mask: str
    subjects: int
    balanced_accuracy: float
    ci95: tuple[float, float]
    """Of the balanced accuracy, by bootstrap over subjects."""
    auroc: float | None = None
    label_share: float = 1.0
    """Of the training subjects, those whose labels it learned from."""
    task: str | None = None
    """What was told from what; a file may hold several tasks."""
    runtime: str = "float"
    """``float`` or ``int8``."""


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen."""

    seed: int = 0
    """Of the choice of windows."""
    per_mask: int = PER_MASK
    """Calibration windows per mask."""
    parity_per_mask: int = PARITY_PER_MASK
    """Parity windows per mask."""
    shares: tuple[float, ...] = SHARES
    """Shares of the calibration windows that set the int8 ranges, tried in turn until one passes the gate."""
    recipe: str = AUTO
    """The format to make, a key of ``MODEL_FORMATS``; or ``auto``: judge them all and take the best that passes."""
    force: bool = False
    """Write a bundle that failed its gate; its card says so."""


Timing = Callable[[Mapping[str, Path], Mapping[str, Floats32]], Mapping[str, Any]]
"""Files by format and network inputs of the windows that calibrate -> what quantize.latency says of them."""


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle that is on disk."""

    bundle: Bundle
    report: Mapping[str, Any]
    """As in the bundle."""
    timed: Mapping[str, Any]
    """What ``time`` has said."""


def build(
    checkpoint: Checkpoint,
    pool: Pool,
    output: Path,
    work: Path,
    *,
    results: Sequence[Mapping[str, Any]] = (),
    options: Options | None = None,
    on_step: Callable[[str], None] = lambda _: None,
    time: Timing = lambda files, windows: {},
) -> Built:
    """Export, convert, compare and write the bundle; intermediate files stay in ``work``.

    Raises QuantizeError for whatever goes wrong; GateError where the file differs too much and ``force`` is not set.
    """
    options = options or Options()
    on_step("choose windows")
    blank = _without_figures(checkpoint)
    check_labels(pool, len(checkpoint.labels))
    trained, masks = checkpoint.subjects("train_subjects"), masks_of(checkpoint.modalities)
    sizes = {"per_mask": options.per_mask, "parity_per_mask": options.parity_per_mask}
    selection = select(pool, trained, len(checkpoint.labels), seed=options.seed, masks=masks, **sizes)
    inputs = calibration_inputs(pool, selection, checkpoint.spec)
    on_step("export to ONNX")
    onnx = export_onnx(checkpoint, work / ONNX)
    for finding in (noticed := check_graph(onnx)):
        on_step(str(finding))
    wanted = wanted_of(checkpoint.network, pool, selection.parity, blank.temperature)
    peers = compare_onnx(onnx, wanted)

    def judged(share: float, file: Converted) -> _Attempt:
        """A file beside the float network."""
        if file.wrong:
            return _Attempt(share, file)
        on_step(f"compare {file.format}")
        draft = write_bundle(file.path.with_suffix(DRAFT), _filled(blank, file), file.model, DISCLAIMER, {})
        return _Attempt(share, file, draft, compare(draft, wanted), refusals(draft), corners(draft, checkpoint))

    attempts = _attempts(checkpoint, onnx, inputs, work, options, judged, on_step)
    timed = time({a.file.format: a.file.path for a in attempts if a.draft}, inputs)
    best, why = choose(attempts, medians := _medians(timed), options.recipe)
    report = _report(checkpoint, attempts, best, peers, summary(pool, selection, trained), results)
    report["recipe"] = {"asked": options.recipe, "taken": best.file.format, "why": why}
    report["graph"] = [msgspec.to_builtins(finding) for finding in noticed]
    eight = next((a for a in (best, *attempts) if a.draft and a.file.format in INTEGERS), None)
    blamed = _layers(eight, wanted[0], on_step) if eight else []
    report["layers"] = [msgspec.to_builtins(layer) for layer in blamed]
    (work / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    draft = best.draft
    if draft is None:
        usable(best.file)
    if draft is None or (best.failures and not options.force):
        raise GateError(best.failures, work / REPORT, f"most is lost in {guilty(blamed).name}" if blamed else "")
    on_step("write the bundle")
    figures, probe = parity(best.found), probe_of(Classifier(draft))
    made = msgspec.structs.replace(_filled(blank, best.file, figures), probe=probe)
    shown = page(made, report, timed, medians)
    return Built(write_bundle(output, made, draft.model, card(made, report), report, shown), report, timed)


def _attempts(
    checkpoint: Checkpoint,
    onnx: Path,
    inputs: Mapping[str, Floats32],
    work: Path,
    options: Options,
    judged: Callable[[float, Converted], _Attempt],
    on_step: Callable[[str], None],
) -> list[_Attempt]:
    """The format that is asked for, over the shares until one passes; with ``auto`` int8 so, and then every other."""
    first, others = (INT8, [f for f in MODEL_FORMATS if f != INT8]) if options.recipe == AUTO else (options.recipe, [])
    logits = run_torch(checkpoint.network, inputs)
    attempts: list[_Attempt] = []
    unchanged: Mapping[str, Converted] = {}
    for share in options.shares if MODEL_FORMATS[first] != "float32" else options.shares[:1]:
        kept = central(inputs, logits, share)
        on_step(f"int8 ranges of {len(kept['mask'])} windows ({share:.0%} of those chosen)")
        shown = {name: kept[name] for name in checkpoint.inputs}
        folder = work / f"share-{100 * share:g}"
        files = convert(onnx, shown, folder, lambda stage: on_step(f"convert: {stage}"), len(checkpoint.outputs))
        unchanged = unchanged or files
        attempts.append(judged(share, files[first]))
        if not attempts[-1].failures:
            break
    return attempts + [judged(options.shares[0], unchanged[name]) for name in others]


def _layers(attempt: _Attempt, wanted: Wanted, on_step: Callable[[str], None]) -> list[Layer]:
    """Each operator of an integer file, shown some of the windows that judge it."""
    on_step(f"every operator of {attempt.file.format} alone")
    some = np.linspace(0, len(wanted.labels) - 1, min(WINDOWS, len(wanted.labels))).astype(int)
    names = attempt.file.inspection.inputs
    shown = [{name: file_layout(wanted.inputs[name][i]) for name in names} for i in some]
    return layers(attempt.twin, attempt.file.path, shown)


def choose(attempts: Sequence[_Attempt], medians: Mapping[str, float], recipe: str) -> tuple[_Attempt, str]:
    """The attempt to take, and why.

    The smallest of those that pass; a larger one where it is ``FASTER`` times as fast and at most ``LARGER`` times as
    large. ``medians`` are us of a window by format, as far as they were measured. Where none passes, the one that fails
    least.
    """
    passing = sorted((a for a in attempts if not a.failures), key=lambda a: a.size)
    if not passing:
        return min(attempts, key=lambda a: len(a.failures)), "none passes; this one fails least"
    best = passing[0]
    if recipe != AUTO:
        return best, "it was asked for"
    rest = [a.file.format for a in passing[1:]]
    why = f"the smallest of {len(passing)} that pass" if rest else "the only one that passes"
    for other in passing[1:]:
        ours, theirs = medians.get(best.file.format), medians.get(other.file.format)
        if ours and theirs and ours >= FASTER * theirs and other.size <= LARGER * best.size:
            why = (
                f"{ours / theirs:.1f} times as fast as {best.file.format}, {other.size / best.size:.2f} times as large"
            )
            best = other
    failed = {a.file.format: a.failures for a in attempts if a.failures}
    kept_out = [f"{name} fails: {failures[0]}" for name, failures in failed.items() if name != best.file.format]
    return best, "; ".join([why, *kept_out])


def _medians(timed: Mapping[str, Any]) -> dict[str, float]:
    """us of a window by format, on the runtime that the device takes by default, one thread."""
    return {
        r["format"]: r["median_us"]
        for r in timed.get("latency", ())
        if r["runtime"] == RUNTIMES[0] and r["threads"] == 1 and r["xnnpack"] and "median_us" in r
    }


def _without_figures(checkpoint: Checkpoint) -> Manifest:
    """What is known before the conversion, so that a checkpoint that says too little is refused in seconds.

    What the checkpoint does not say takes the defaults of this file.
    """
    said = checkpoint.provenance
    provenance, masks = _provenance(checkpoint), masks_of(checkpoint.modalities)
    thresholds = {
        "min_probability": dict.fromkeys(masks, MIN_PROBABILITY), "max_clipped_share": MAX_CLIPPED_SHARE,
    }  # fmt: skip
    uncalibrated = dict.fromkeys(masks, UNCALIBRATED)
    return Manifest(
        name=str(said.get("name", checkpoint.model_name)),
        created=_created(checkpoint),
        task=str(said.get("task", " against ".join(checkpoint.labels))),
        labels=checkpoint.labels,
        spec=checkpoint.spec,
        features=checkpoint.features,
        inputs={},
        output=TensorSpec(name="", shape=(), dtype="int8", scale=1.0, zero_point=0),
        thresholds=_read(checkpoint, "thresholds", {**thresholds, **said.get("thresholds", {})}, Thresholds),
        temperature=_read(checkpoint, "temperature", said.get("temperature", uncalibrated), dict[str, float]),
        space=_read(checkpoint, "space", said.get("space"), Space | None),
        surrogate_ecg=any(dataset.surrogate_ecg for dataset in provenance.datasets),
        provenance=provenance,
        parity=tuple(_no_parity(mask) for mask in masks),
    )


def draft_manifest(checkpoint: Checkpoint, converted: Converted) -> Manifest:
    """A manifest for a file that nobody has compared yet: enough to run it."""
    return _filled(_without_figures(checkpoint), converted)


def _no_parity(mask: str) -> Parity:
    """Stands where the figures of a mask will be."""
    return Parity(
        mask=mask, n_windows=1, agreement=0.0, cosine=0.0, balanced_accuracy_float=None, balanced_accuracy_int8=None
    )


def _filled(blank: Manifest, converted: Converted, figures: tuple[Parity, ...] = ()) -> Manifest:
    """The manifest with the file's tensors and, once they are known, the parity figures."""
    tensors = {
        "inputs": converted.inspection.inputs,
        "output": converted.output,
        "embedding": converted.embedding,
        "model_format": converted.format,
    }
    return msgspec.structs.replace(blank, **tensors, parity=figures or blank.parity)


def _provenance(checkpoint: Checkpoint) -> Provenance:
    """The checkpoint's own, with this tool's packages beside the trainer's."""
    keys = Provenance.__struct_fields__
    said = {key: checkpoint.provenance[key] for key in keys if key in checkpoint.provenance}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    said["packages"] = {**dict(said.get("packages", {})), **versions}
    provenance: Provenance = _read(checkpoint, "", said, Provenance)
    return provenance


def _created(checkpoint: Checkpoint) -> datetime:
    """When the network was trained, so that the same checkpoint gives the same bundle; now where it does not say."""
    said = checkpoint.provenance.get("created")
    return datetime.now(UTC).replace(microsecond=0) if said is None else _read(checkpoint, "created", said, datetime)


def _read(checkpoint: Checkpoint, key: str, value: Any, kind: Any) -> Any:
    """A value of the checkpoint's provenance as a typed object; raises CheckpointError naming the key."""
    try:
        return msgspec.convert(msgspec.to_builtins(value), kind)
    except msgspec.ValidationError as error:
        place = f"provenance.{key}".strip(".")
        raise CheckpointError(checkpoint.path, place, str(error), REMEDY_CHECKPOINT) from error


def _report(
    checkpoint: Checkpoint,
    attempts: Sequence[_Attempt],
    best: _Attempt,
    peers: Sequence[Comparison],
    chosen: Mapping[str, object],
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """report.json: flat figures, nothing that differs between two runs on equal input."""
    inspection = best.file.inspection
    known = (*Provenance.__struct_fields__, "created", "name", "task", "thresholds", "temperature", "space")
    return {
        "model": {
            "name": checkpoint.model_name,
            "config": dict(checkpoint.config),
            "format": best.file.format,
            "size_bytes": best.size,
            "operators": inspection.operators,
            "float_operators": list(inspection.float_operators),
            "dtypes": inspection.dtypes,
        },
        "gate": {
            "passed": not best.failures,
            "failures": list(best.failures),
            "min_agreement": MIN_AGREEMENT,
            "max_balanced_accuracy_drop": MAX_DROP,
            "max_ece_change": MAX_ECE_CHANGE,
        },
        "parity": [{**msgspec.to_builtins(c), "balanced_accuracy_drop": c.drop} for c in (*peers, *best.found)],
        "corners": [{**msgspec.to_builtins(corner), "failures": corner.failures()} for corner in best.corners],
        "calibration_share": best.share,
        "attempts": [_said(a) for a in attempts],
        "windows": dict(chosen),
        "training": {key: value for key, value in checkpoint.provenance.items() if key not in known},
        "results": [dict(record) for record in results],
    }


def _said(attempt: _Attempt) -> dict[str, Any]:
    """One attempt in the report."""
    return {
        "format": attempt.file.format,
        "calibration_share": attempt.share,
        "size_bytes": attempt.size,
        "float_operators": len(attempt.file.inspection.float_operators),
        "agreement": min((c.agreement for c in attempt.found), default=None),
        "balanced_accuracy_drop": max((c.drop for c in attempt.found), default=None),
        "failures": attempt.failures,
    }


def read_results(path: Path, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """LOSO records of the checkpoint's mode (networks, classical peers, majority) from a results file of train."""
    mode = "calibrated" if checkpoint.spec.needs_baseline else "cold_start"
    remedy = "give the results file of affectd-train evaluate"
    try:
        tree = msgspec.json.decode(path.read_bytes())
        records = msgspec.convert(tree, list[LosoRecord])
    except OSError as error:
        raise ResultsError(path, "", error.strerror or str(error), remedy) from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ResultsError(path, "", str(error), remedy) from error
    task = checkpoint.provenance.get("task")
    mine = [
        r for r in records if r.mode == mode and (r.runtime, r.label_share) == ("float", 1.0) and r.task in (None, task)
    ]
    chosen = [msgspec.to_builtins(record) for record in mine]
    system = str(checkpoint.provenance.get("teacher", checkpoint.model_name))
    if not any(record["system"] == system for record in chosen):
        raise ResultsError(path, "mode", f"no record of {system} in mode {mode}", remedy)
    return chosen
