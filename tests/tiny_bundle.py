"""A bundle around tests/data/tiny.tflite, for every test that needs one. Its numbers stand for nothing."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import msgspec

from device.bundle import (
    DISCLAIMER,
    MASKS,
    Bundle,
    DataSet,
    Manifest,
    Parity,
    Provenance,
    TensorSpec,
    Thresholds,
    write_bundle,
)
from device.pipeline.spec import SignalSpec, default_spec
from device.space import Space

DATA = Path(__file__).with_name("data")
MODEL = (DATA / "tiny.tflite").read_bytes()
CARD = f"# tiny\n\n{DISCLAIMER}\n"
SPACE_MODEL = (DATA / "tiny_space.tflite").read_bytes()
REPORT = {"measured": [1, 2.5, None], "by": {"mask": "ecg"}}


def tiny_network() -> ModuleType:
    """The script that made tiny.tflite; its numpy half is the float network."""
    spec = importlib.util.spec_from_file_location("make_tiny_tflite", DATA / "make_tiny_tflite.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_manifest(spec: SignalSpec | None = None, min_probability: float = 0.0) -> Manifest:
    """Manifest of tiny.tflite; scales and zero points are those the file holds."""
    step = 0.0470588244497776
    return Manifest(
        name="tiny",
        created=datetime(2026, 11, 20, 12, tzinfo=UTC),
        task="rest against stress",
        labels=("rest", "stress"),
        spec=spec or default_spec(),
        inputs={
            "ecg": TensorSpec(
                name="serving_default_ecg:0", shape=(1, 1, 7680, 2), dtype="int8", scale=step, zero_point=-1
            ),
            "eda": TensorSpec(
                name="serving_default_eda:0", shape=(1, 1, 240, 2), dtype="int8", scale=step, zero_point=-1
            ),
            "mask": TensorSpec(
                name="serving_default_mask:0", shape=(1, 2), dtype="int8", scale=0.003921568859368563, zero_point=-128
            ),
        },
        output=TensorSpec(
            name="PartitionedCall:0", shape=(1, 2), dtype="int8", scale=0.04793337732553482, zero_point=-108
        ),
        thresholds=Thresholds(min_probability=dict.fromkeys(MASKS, min_probability), max_clipped_share=0.2),
        temperature=dict.fromkeys(MASKS, 1.0),
        surrogate_ecg=True,
        provenance=Provenance(
            datasets=(
                DataSet(name="noise", licence="none", subjects=1, surrogate_ecg=True, url="https://example.org"),
                DataSet(name="more noise", licence="none", subjects=2, surrogate_ecg=False, url="https://example.org"),
            ),
            commit="0" * 40,
            seeds=(1, 2),
            command="python tests/data/make_tiny_tflite.py",
            packages={"tensorflow": "2.19.0"},
        ),
        parity=tuple(
            Parity(
                mask=mask,
                n_windows=10,
                agreement=1.0,
                cosine=0.999,
                balanced_accuracy_float=None,
                balanced_accuracy_int8=None,
            )
            for mask in MASKS
        ),
    )


def tiny_bundle(path: Path, spec: SignalSpec | None = None, min_probability: float = 0.0) -> Bundle:
    """Write the tiny bundle to ``path``."""
    return write_bundle(path, tiny_manifest(spec, min_probability), MODEL, CARD, REPORT)


def space_bundle(path: Path, space: Space, min_probability: dict[str, float] | None = None) -> Bundle:
    """Write a bundle whose network gives its features (1, 8) as well."""
    embedding = TensorSpec(
        name="PartitionedCall:1", shape=(1, 8), dtype="int8", scale=0.043991751968860626, zero_point=-128
    )
    manifest = msgspec.structs.replace(tiny_manifest(), embedding=embedding, space=space)
    if min_probability is not None:
        thresholds = Thresholds(min_probability=min_probability, max_clipped_share=0.2)
        manifest = msgspec.structs.replace(manifest, thresholds=thresholds)
    return write_bundle(path, manifest, SPACE_MODEL, CARD, REPORT)


def tiny_space(max_distance: float = 1e6, **of_mask: float) -> Space:
    """Prototypes at zero and one, spread one."""
    return Space(
        prototypes=dict.fromkeys(MASKS, ((0.0,) * 8, (1.0,) * 8)),
        spread=dict.fromkeys(MASKS, (1.0,) * 8),
        max_distance={**dict.fromkeys(MASKS, max_distance), **of_mask},
    )
