"""The int8 figures of an evaluation: each fold's network converted, and run on its test subject by the device's code.

Knows nothing of how the folds were trained: affectd-train loso leaves its first seed's networks beside its results.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from device.bundle import DISCLAIMER, masks_of, write_bundle
from device.inference import Answer, Classifier
from device.pipeline.spec import MODALITIES
from quantize.calibrate import Pool, calibration_inputs, select
from quantize.convert import convert, usable
from quantize.errors import ResultsError
from quantize.export import Checkpoint, export_onnx, read_checkpoint
from quantize.package import draft_manifest
from train.config import Config
from train.evaluate import Material
from train.fit import MASKS
from train.loso import KEEP_NETWORKS, Places, write_json
from train.prepare import Prepared
from train.systems import asked
from train.windows import Windows

RUNTIME = "int8"
REMEDY = "run affectd-train loso with this configuration first"


@dataclass(frozen=True, eq=False)
class _Work:
    """What the workers share by forking."""

    material: Material
    places: Places
    seed: int


_work: _Work | None = None


def int8_folds(
    people: Sequence[Prepared], config: Config, out: Path, *, workers: int, say: Callable[[str], None]
) -> None:
    """An int8 record beside every float record of the first seed whose network was kept; those already there stay."""
    global _work
    seed, places = config.seeds[0], Places(out, config)
    systems = [system for system in config.systems if system in KEEP_NETWORKS]
    if not systems:
        raise ResultsError(
            out, "systems", f"none of {', '.join(KEEP_NETWORKS)} is among them", "add one, run loso again"
        )
    for mode in config.modes:
        material = Material(people, config, mode)
        todo = [
            (system, subject)
            for system in systems
            for subject in material.subjects
            if not _is_made(places, mode, system, subject, seed)
        ]
        for candidate in config.inner.candidates if todo else ():
            material.windows(candidate)
        _work = _Work(material, places, seed)
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            for done, line in enumerate(pool.map(_convert_one, todo), 1):
                say(f"{config.task}, {mode}, int8 {done}/{len(todo)}: {line}")
        _work = None


def _is_made(places: Places, mode: str, system: str, subject: str, seed: int) -> bool:
    """Whether the int8 record belongs to the float record that is there."""
    floats, int8 = places.fold(mode, system, subject, seed), places.fold(mode, f"{system}-{RUNTIME}", subject, seed)
    if not floats.is_file():
        raise ResultsError(floats, "", "is missing", REMEDY)
    return int8.is_file() and json.loads(int8.read_text())["key"] == json.loads(floats.read_text())["key"]


def _convert_one(job: tuple[str, str]) -> str:
    work, (system, subject) = _work, job
    assert work is not None
    mode = work.material.mode
    source = work.places.fold(mode, system, subject, work.seed)
    record = json.loads(source.read_text())
    checkpoint = read_checkpoint(source.with_suffix(".pt"))
    choice = (float(record["choice"]["window_s"]), float(record["choice"]["eda_context_s"]))
    windows = work.material.windows(choice)
    with tempfile.TemporaryDirectory(prefix="affectd-fold-") as folder:
        classifier = int8_classifier(checkpoint, _pool(windows, str(source)), Path(folder))
        record["masks"] = dict(_masks(classifier, windows, subject, record["masks"]))
    record["runtime"] = RUNTIME
    write_json(work.places.fold(mode, f"{system}-{RUNTIME}", subject, work.seed), record)
    return f"{system}, {subject}: {', '.join(record['masks'])}"


def int8_classifier(checkpoint: Checkpoint, pool: Pool, folder: Path) -> Classifier:
    """The device's classifier on the checkpoint's int8 file, calibrated on its training subjects."""
    masks = masks_of(checkpoint.modalities)
    chosen = select(pool, checkpoint.subjects("train_subjects"), len(checkpoint.labels), seed=0, masks=masks)
    inputs = calibration_inputs(pool, chosen, checkpoint.spec)
    shown = {name: inputs[name] for name in checkpoint.inputs}
    onnx = export_onnx(checkpoint, folder / "model.onnx")
    converted = usable(convert(onnx, shown, folder, outputs=checkpoint.outputs)[RUNTIME])
    manifest = draft_manifest(checkpoint, converted)
    return Classifier(write_bundle(folder / "fold.affect", manifest, converted.model, DISCLAIMER, {}))


def _pool(windows: Windows, path: str) -> Pool:
    return Pool(
        path=path,
        arrays={m: getattr(windows, m) for m in MODALITIES},
        present={m: windows.present[:, i] for i, m in enumerate(MODALITIES)},
        labels=windows.label,
        subjects=windows.subject,
    )


def _masks(
    classifier: Classifier, windows: Windows, subject: str, floats: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each mask's record with what the int8 file makes of each window, one by one as the device does it."""
    for name, record in floats.items():
        found = [_one(classifier, windows, int(i), name) for i in asked(windows, subject, MASKS[name])]
        said = {"probability": np.round(np.array([a.probability for a in found], float), 5).tolist()}
        if classifier.bundle.manifest.space is not None:
            said["distance"] = [round(float(a.distance or 0.0), 4) for a in found]
            said["is_sure"] = [a.is_sure for a in found]
            said["is_familiar"] = [a.is_familiar for a in found]
        yield name, {**record, **said}


def _one(classifier: Classifier, windows: Windows, i: int, mask: str) -> Answer:
    """What is made of one window, shown what the mask allows of what is present."""
    shown = [m for k, m in enumerate(MODALITIES) if windows.present[i, k] and MASKS[mask][k]]
    return classifier.answer({m: getattr(windows, m)[i] for m in shown})
