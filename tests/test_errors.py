"""Every error of ours that a worker raises arrives in the process that waits for it, whole."""

from __future__ import annotations

import importlib
import inspect
import pickle
from pathlib import Path

import pytest

from device.pipeline.errors import PortableError
from quantize.errors import CalibrationError, GateError
from train.errors import LeakError

MODULES = ("device.pipeline.errors", "device.errors", "train.errors", "quantize.errors")
ERRORS = [
    kind
    for name in MODULES
    for kind in vars(importlib.import_module(name)).values()
    if inspect.isclass(kind) and issubclass(kind, PortableError) and kind.__module__ == name
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_error_arrives(kind: type[PortableError]) -> None:
    error = kind.__new__(kind, "what it says")
    error.place = "here"  # type: ignore[attr-defined]
    error.__cause__ = None
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, "what it says", {"place": "here"})


@pytest.mark.parametrize(
    "error",
    [
        CalibrationError("a.npz", "subjects", "too few", "prepare more"),
        GateError(["both: agreement 0.9"], Path("report.json")),
        LeakError("subject S2 on both sides", "fold S2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_error_carries_arrives(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_there_are_errors_to_try() -> None:
    assert len(ERRORS) > 20
