"""The int8 figures of an evaluation: each fold's network converted, and run on its test subject by the device's code.

Knows nothing of how the folds were trained: affectd-train loso leaves its first seed's networks beside its results.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device.bundle import DISCLAIMER, write_bundle
from device.inference import Classifier
from device.pipeline.spec import MODALITIES
from quantize.calibrate import Pool, calibration_inputs, select
from quantize.convert import convert
from quantize.errors import ResultsError
from quantize.export import Checkpoint, export_onnx, read_checkpoint
from quantize.package import draft_manifest
from train.config import Config
from train.evaluate import Material
from train.fit import MASKS
from train.loso import Places, write_json
from train.prepare import Prepared
from train.systems import asked
from train.windows import Windows

SYSTEM = "acc"
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
    """An int8 record beside every float record of the first seed; those already there are kept."""
    global _work
    seed, places = config.seeds[0], Places(out, config)
    for mode in config.modes:
        material = Material(people, config, mode)
        todo = [s for s in material.subjects if not _is_made(places, mode, s, seed)]
        for candidate in config.inner.candidates if todo else ():
            material.windows(candidate)
        _work = _Work(material, places, seed)
        with get_context("fork").Pool(workers) as pool:
            for done, line in enumerate(pool.imap(_convert_one, todo), 1):
                say(f"{config.task}, {mode}, int8 {done}/{len(todo)}: {line}")
        _work = None


def _is_made(places: Places, mode: str, subject: str, seed: int) -> bool:
    """Whether the int8 record belongs to the float record that is there."""
    floats, int8 = places.fold(mode, SYSTEM, subject, seed), places.fold(mode, f"{SYSTEM}-{RUNTIME}", subject, seed)
    if not floats.is_file():
        raise ResultsError(floats, "", "is missing", REMEDY)
    return int8.is_file() and json.loads(int8.read_text())["key"] == json.loads(floats.read_text())["key"]


def _convert_one(subject: str) -> str:
    work = _work
    assert work is not None
    mode = work.material.mode
    source = work.places.fold(mode, SYSTEM, subject, work.seed)
    record = json.loads(source.read_text())
    checkpoint = read_checkpoint(source.with_suffix(".pt"))
    choice = (float(record["choice"]["window_s"]), float(record["choice"]["eda_context_s"]))
    windows = work.material.windows(choice)
    with tempfile.TemporaryDirectory(prefix="affectd-fold-") as folder:
        classifier = int8_classifier(checkpoint, _pool(windows, str(source)), Path(folder))
        record["masks"] = dict(_masks(classifier, windows, subject, record["masks"]))
    record["runtime"] = RUNTIME
    write_json(work.places.fold(mode, f"{SYSTEM}-{RUNTIME}", subject, work.seed), record)
    return f"{subject}: {', '.join(record['masks'])}"


def int8_classifier(checkpoint: Checkpoint, pool: Pool, folder: Path) -> Classifier:
    """The device's classifier on the checkpoint's int8 file, calibrated on its training subjects."""
    chosen = select(pool, checkpoint.subjects("train_subjects"), len(checkpoint.labels), seed=0)
    inputs = calibration_inputs(pool, chosen, checkpoint.spec)
    converted = convert(
        export_onnx(checkpoint, folder / "model.onnx"), inputs, folder, n_outputs=len(checkpoint.outputs)
    )
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
    """Each mask's record with the int8 file's probabilities, window by window as the device does it."""
    for name, record in floats.items():
        index = asked(windows, subject, MASKS[name])
        probability = np.array([_one(classifier, windows, int(i), name) for i in index])
        yield name, {**record, "probability": np.round(probability, 5).tolist()}


def _one(classifier: Classifier, windows: Windows, i: int, mask: str) -> npt.NDArray[np.float64]:
    """(n_outputs,) probabilities of one window, shown what the mask allows of what is present."""
    shown = [m for k, m in enumerate(MODALITIES) if windows.present[i, k] and MASKS[mask][k]]
    return classifier.probabilities({m: getattr(windows, m)[i] for m in shown}).astype(np.float64)
