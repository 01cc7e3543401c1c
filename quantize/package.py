"""The whole way from a checkpoint to a bundle, on one screen; and the manifest that goes into it.

Knows nothing of the command line. A bundle that fails its gate is not written unless that is insisted on.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

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
    balanced,
    calibration_inputs,
    check_labels,
    select,
    summary,
)
from quantize.convert import Converted
from quantize.corners import corners
from quantize.errors import ResultsError
from quantize.export import REMEDY_CHECKPOINT, Checkpoint, export_onnx, exported, nchw, run_torch
from quantize.observers import OBSERVERS
from quantize.page import page
from quantize.qat import Tuned, tune
from quantize.recipe import (
    AUTO,
    SHARES,
    Attempt,
    Conversion,
    attempts_of,
    check_passed,
    choose,
    formats_of,
    graph_report,
    judgement,
    medians_of,
    operators_alone,
    ready,
)
from quantize.report import card
from quantize.verify import (
    compare,
    compare_onnx,
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
PER_MASK_QAT = 800
"""Windows of each mask that a network learns to be rounded on; a free choice."""
UNCALIBRATED = 1.0
"""The temperature that leaves the logits as they are."""
ONNX, DRAFT, REPORT = "model.onnx", ".affect", "report.json"


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
    observers: tuple[str, ...] = tuple(OBSERVERS)
    """What chooses the int8 ranges; the first at every share, the others in turn where none passes."""
    shares: tuple[float, ...] = SHARES
    """Shares of the calibration windows that set the int8 ranges, tried in turn until one passes the gate."""
    recipe: str = AUTO
    """The format to make, a key of ``MODEL_FORMATS``; or ``auto``: judge them all and take the best that passes."""
    qat: bool = False
    """Where no integer file passes, let the network learn to be rounded and try again (quantize.qat)."""
    cache: Path | None = None
    """Where conversions are kept for the next time."""
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
    steps, noticed = ready(onnx, on_step)
    wanted = wanted_of(checkpoint.network, pool, selection.parity, blank.temperature)
    peers = compare_onnx(onnx, wanted)

    def judged(share: float, file: Converted) -> Attempt:
        """A file beside the float network."""
        if file.wrong:
            return Attempt(share, file)
        on_step(f"compare {file.format}")
        draft = write_bundle(file.path.with_suffix(DRAFT), _filled(blank, file), file.model, DISCLAIMER, {})
        return Attempt(share, file, draft, compare(draft, wanted), refusals(draft), corners(draft, checkpoint))

    shown, logits = {name: inputs[name] for name in checkpoint.inputs}, run_torch(checkpoint.network, inputs)
    conversion = Conversion(onnx, shown, logits, checkpoint.outputs, work, options.cache)

    def tuned() -> tuple[Conversion, Tuned]:
        """The network once it has learned to be rounded, on windows of its own training subjects."""
        learner = replace(checkpoint, network=copy.deepcopy(checkpoint.network))
        windows = _to_learn_from(pool, trained, masks, options.seed)
        said = tune(exported(learner), {name: windows[name] for name in checkpoint.inputs}, say=on_step)
        path = export_onnx(learner, work / "tuned.onnx")
        ready(path, on_step)
        logits = run_torch(learner.network, inputs)
        return Conversion(path, shown, logits, checkpoint.outputs, work / "tuned", options.cache), said

    again = tuned if options.qat else None
    attempts = attempts_of(conversion, options.recipe, options.shares, options.observers, judged, on_step, again)
    timed = time({a.file.format: a.file.path for a in attempts if a.can_run}, inputs)
    best, why = choose(attempts, medians := formats_of(medians_of(timed)), options.recipe)
    blamed = operators_alone((best, *attempts), wanted[0].inputs, on_step)
    recipe = {"asked": options.recipe, "taken": best.file.format, "why": why}
    said = judgement(best, attempts, peers, recipe) | graph_report(steps, noticed, blamed)
    report = _report(checkpoint, said, summary(pool, selection, trained), results)
    (work / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    check_passed(best, blamed, work / REPORT, options.force)
    draft = best.draft
    assert draft is not None  # a file that can be used has one
    on_step("write the bundle")
    figures, probe = parity(best.found), probe_of(Classifier(draft))
    made = msgspec.structs.replace(_filled(blank, best.file, figures), probe=probe)
    parts = card(made, report), report, page(made.name, made.task, report, timed, medians)
    return Built(write_bundle(output, made, draft.model, *parts), report, timed)


def _to_learn_from(pool: Pool, trained: Sequence[str], masks: Sequence[str], seed: int) -> dict[str, Floats32]:
    """Network inputs of windows of training subjects under every mask, balanced over people and labels."""
    own = np.isin(pool.subjects, list(trained))
    parts = [pool.inputs(balanced(pool, np.flatnonzero(own & pool.having(m)), PER_MASK_QAT, seed), m) for m in masks]
    return nchw({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


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
    judged: Mapping[str, Any],
    chosen: Mapping[str, object],
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """report.json: flat figures, nothing that differs between two runs on equal input."""
    known = (*Provenance.__struct_fields__, "created", "name", "task", "thresholds", "temperature", "space")
    return {
        **judged,
        "model": {"name": checkpoint.model_name, "config": dict(checkpoint.config), **judged["model"]},
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
    said = checkpoint.provenance
    task, system = said.get("task"), str(said.get("teacher", said.get("system", checkpoint.model_name)))
    mine = [
        r for r in records if r.mode == mode and (r.runtime, r.label_share) == ("float", 1.0) and r.task in (None, task)
    ]
    chosen = [msgspec.to_builtins(record) for record in mine]
    if not any(record["system"] == system for record in chosen):
        raise ResultsError(path, "mode", f"no record of {system} in mode {mode}", remedy)
    return chosen
