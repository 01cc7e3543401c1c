"""What the shipped bundles make of real windows, as a file; or how far this machine is from another one's file.

    python outputs.py make FILE         on the one machine: windows, and each network's outputs
    python outputs.py compare FILE      on the other: one line of JSON

Windows are those of the demo's recordings, by `device.pipeline`. The other machine is given all of them, and makes
those of the shorter recordings itself: an emulated one needs minutes for an hour of signals. Runs with what an
installation has.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device.bundle import DEFAULT_BUNDLE, TensorSpec, read_bundle
from device.demo.loader import available, load
from device.demo.player import virtual_sensors
from device.inference import Classifier, quantize
from device.pipeline.model_input import model_input
from device.pipeline.types import Chunk, Window
from device.session import Session
from device.sources.virtual import notifications

Float32 = npt.NDArray[np.float32]
BUNDLES = sorted(DEFAULT_BUNDLE.parent.glob("*.affect"))
LONG = "stress"
SHORT = [name for name in available() if name != LONG]


def inputs(classifier: Classifier, recordings: Sequence[str]) -> dict[str, Float32]:
    """Every window as the network reads it: modality to (n_windows, n_chans, n_times), not yet rounded."""
    spec, reads = classifier.bundle.manifest.spec, classifier.bundle.manifest.modalities
    made: list[dict[str, Float32]] = []

    def see(item: Chunk | Window) -> None:
        if isinstance(item, Window) and set(reads) <= set(item.data):
            made.append(model_input({m: item.data[m] for m in reads}, spec).arrays)

    for name in recordings:
        sensors = virtual_sensors(load(name))
        session = Session(classifier, spec, {it.name: it.info() for it in sensors}, listener=see)
        for notification in notifications(sensors):
            session.push(notification)
        session.flush()
    return {m: np.stack([arrays[m] for arrays in made]) for m in reads}


def outputs(classifier: Classifier, given: dict[str, Float32]) -> dict[str, Float32]:
    """``output MASK`` and ``embedding MASK`` to (n_windows, n), in steps of int8."""
    manifest, found = classifier.bundle.manifest, {}
    for mask in manifest.masks:
        rows = zip(*(given[m] for m in mask.split("+")), strict=True)
        told = [classifier.outputs(dict(zip(mask.split("+"), row, strict=True))) for row in rows]
        found[f"output {mask}"] = _steps(np.stack([logits for logits, _ in told]), manifest.output)
        if manifest.embedding is not None:
            embeddings = np.stack([it for _, it in told if it is not None])
            found[f"embedding {mask}"] = _steps(embeddings, manifest.embedding)
    return found


def _steps(real: Float32, tensor: TensorSpec) -> Float32:
    """The integers that the file's tensor held."""
    return np.asarray(quantize(real, tensor), np.float32)


def make(path: Path) -> None:
    """Windows and outputs of this machine."""
    arrays = {}
    for bundle in BUNDLES:
        classifier = Classifier(read_bundle(bundle))
        short, given = inputs(classifier, SHORT), inputs(classifier, available())
        found = {f"made {m}": short[m] for m in short} | {f"input {m}": given[m] for m in given}
        found |= outputs(classifier, given)
        arrays |= {f"{bundle.stem} {key}": array for key, array in found.items()}
    np.savez_compressed(path, **arrays)


def compare(path: Path) -> dict[str, Any]:
    """By bundle: what its pipeline and its network give here of what they gave there."""
    with np.load(path) as archive:
        theirs = {key: archive[key] for key in archive.files}
    return {bundle.stem: _compared(bundle, theirs) for bundle in BUNDLES} | {"peak_mb": _peak_mb()}


def _compared(bundle: Path, theirs: dict[str, Float32]) -> dict[str, Any]:
    classifier = Classifier(read_bundle(bundle))
    manifest = classifier.bundle.manifest
    given = {m: theirs[f"{bundle.stem} input {m}"] for m in manifest.modalities}
    there, here = {m: theirs[f"{bundle.stem} made {m}"] for m in manifest.modalities}, inputs(classifier, SHORT)
    begun = time.perf_counter()
    found = outputs(classifier, given)
    seconds = (time.perf_counter() - begun) / sum(len(it) for key, it in found.items() if key.startswith("output"))
    pairs = [(array, theirs[f"{bundle.stem} {key}"]) for key, array in found.items() if key.startswith("output")]
    rounded = {m: [_steps(made[m], manifest.inputs[m]) for made in (here, there)] for m in here}
    return {
        "runtime": classifier.runtime,
        "emulated_seconds": seconds,
        "relabelled": sum(int((own.argmax(axis=1) != their.argmax(axis=1)).sum()) for own, their in pairs),
        "float": {f"made {m}": _apart(here[m], there[m]) for m in here},
        "int8": {f"made {m}": _apart(*pair) for m, pair in rounded.items()}
        | {key: _apart(array, theirs[f"{bundle.stem} {key}"]) for key, array in found.items()},
    }


def _apart(own: Float32, theirs: Float32) -> dict[str, float]:
    """How many values differ, of how many, and by how much at most."""
    if own.shape != theirs.shape:
        return {"differ": theirs.size, "of": theirs.size, "most": float("inf")}
    far = np.abs(own.astype(np.float64) - theirs)
    return {"differ": int((far > 0).sum()), "of": far.size, "most": float(far.max())}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    command, place = sys.argv[1:]
    if command == "make":
        make(Path(place))
    else:
        print(json.dumps(compare(Path(place))))
