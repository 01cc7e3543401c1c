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

from device.bundle import (
    DISCLAIMER,
    Bundle,
    Manifest,
    Parity,
    Provenance,
    TensorSpec,
    Thresholds,
    masks_of,
    write_bundle,
)
from device.inference import Classifier
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
from quantize.convert import Converted, convert, float_twin
from quantize.errors import GateError, ResultsError
from quantize.export import REMEDY_CHECKPOINT, Checkpoint, export_onnx, run_torch
from quantize.graph import check_graph
from quantize.report import card
from quantize.verify import MAX_DROP, MIN_AGREEMENT, Comparison, compare, gate, parity
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
ONNX, DRAFT, REPORT = "model.onnx", "draft.affect", "report.json"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One conversion and its judgement."""

    share: float
    converted: Converted
    draft: Bundle
    """The file as a bundle that says nothing of itself yet: enough to run it."""
    found: Sequence[Comparison]
    failures: Sequence[str]


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
    force: bool = False
    """Write a bundle that failed its gate; its card says so."""


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle that is on disk."""

    bundle: Bundle
    report: Mapping[str, Any]
    """As in the bundle."""
    converted: Converted
    """Its model and what came out beside it, in the folder for intermediate files."""
    calibration: Mapping[str, Floats32]
    """Network inputs of the windows that the int8 ranges were chosen from."""


def build(
    checkpoint: Checkpoint,
    pool: Pool,
    output: Path,
    work: Path,
    *,
    results: Sequence[Mapping[str, Any]] = (),
    options: Options | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Built:
    """Export, convert, compare and write the bundle; intermediate files stay in ``work``.

    Raises QuantizeError for whatever goes wrong; GateError where int8 differs too much and ``force`` is not set.
    """
    options = options or Options()
    on_step("choose windows")
    blank = _without_figures(checkpoint)
    check_labels(pool, len(checkpoint.labels))
    trained = checkpoint.subjects("train_subjects")
    selection = select(
        pool,
        trained,
        len(checkpoint.labels),
        seed=options.seed,
        masks=masks_of(checkpoint.modalities),
        per_mask=options.per_mask,
        parity_per_mask=options.parity_per_mask,
    )
    inputs = calibration_inputs(pool, selection, checkpoint.spec)
    on_step("export to ONNX")
    onnx = export_onnx(checkpoint, work / ONNX)
    for finding in (noticed := check_graph(onnx)):
        on_step(str(finding))
    logits = run_torch(checkpoint.network, inputs)
    attempts: list[_Attempt] = []

    def attempt(share: float, converted: Converted, folder: Path) -> bool:
        """Compare a file with the float network; whether it passes the gate."""
        draft = write_bundle(folder / DRAFT, _filled(blank, converted), converted.model, DISCLAIMER, {})
        found = compare(draft, checkpoint.network, onnx, pool, selection.parity, lambda m: on_step(f"compare: {m}"))
        attempts.append(_Attempt(share, converted, draft, found, gate(found)))
        return not attempts[-1].failures

    for share in options.shares:
        kept = central(inputs, logits, share)
        folder = work / f"share-{100 * share:g}"
        on_step(f"int8 ranges of {len(kept['mask'])} windows ({share:.0%} of those chosen)")
        shown = {name: kept[name] for name in checkpoint.inputs}
        converted = convert(
            onnx, shown, folder, lambda stage: on_step(f"convert to int8: {stage}"), len(checkpoint.outputs)
        )
        if attempt(share, converted, folder):
            break
    else:
        if checkpoint.features is not None:
            on_step("int8 does not agree well enough: the float file instead")
            attempt(1.0, float_twin(converted), folder)
    best = min(attempts, key=lambda attempt: len(attempt.failures))
    report = _report(checkpoint, attempts, best, summary(pool, selection, trained), results)
    report["graph"] = [msgspec.to_builtins(finding) for finding in noticed]
    (work / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if best.failures and not options.force:
        raise GateError(best.failures, work / REPORT)
    on_step("write the bundle")
    figures, probe = parity(best.found), probe_of(Classifier(best.draft))
    made = msgspec.structs.replace(_filled(blank, best.converted, figures), probe=probe)
    return Built(
        write_bundle(output, made, best.draft.model, card(made, report), report), report, best.converted, inputs
    )


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
    chosen: Mapping[str, object],
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """report.json: flat figures, nothing that differs between two runs on equal input."""
    inspection = best.converted.inspection
    known = (*Provenance.__struct_fields__, "created", "name", "task", "thresholds", "temperature", "space")
    return {
        "model": {
            "name": checkpoint.model_name,
            "config": dict(checkpoint.config),
            "dtype": best.converted.output.dtype,
            "size_bytes": len(best.converted.model),
            "operators": inspection.operators,
            "float_operators": list(inspection.float_operators),
            "dtypes": inspection.dtypes,
        },
        "gate": {
            "passed": not best.failures,
            "failures": list(best.failures),
            "min_agreement": MIN_AGREEMENT,
            "max_balanced_accuracy_drop": MAX_DROP,
        },
        "parity": [{**msgspec.to_builtins(c), "balanced_accuracy_drop": c.drop} for c in best.found],
        "calibration_share": best.share,
        "attempts": [{"calibration_share": a.share, "failures": list(a.failures)} for a in attempts],
        "windows": dict(chosen),
        "training": {key: value for key, value in checkpoint.provenance.items() if key not in known},
        "results": [dict(record) for record in results],
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
