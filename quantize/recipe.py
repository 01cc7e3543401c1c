"""Which file of a conversion is taken: each one judged, and why that one.

Knows nothing of what a network is for, nor how it is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from device.bundle import MODEL_FORMATS, Bundle
from device.inference import RUNTIMES, file_layout
from quantize.calibrate import Floats32, central
from quantize.convert import Converted, convert, usable, variant_of
from quantize.corners import Corner
from quantize.errors import GateError
from quantize.graph import Finding, check_graph
from quantize.layers import WINDOWS, Layer, guilty, layers
from quantize.qat import Tuned
from quantize.rewrite import Rewrite, rewritten
from quantize.verify import MAX_DROP, MAX_ECE_CHANGE, MIN_AGREEMENT, Comparison, gate

AUTO, INT8 = "auto", "int8"
"""The recipe that chooses, and the format that it tries first."""
INTEGERS = tuple(name for name, dtype in MODEL_FORMATS.items() if dtype != "float32")
SHARES = (1.0, 0.99, 0.98)
"""See ``calibrate.central``: finer near the decision, coarser at the extremes. On one network (4 epochs of
Stress-Predict, 600 windows per mask) 8-18 labels differed at 1, 6-8 at 0.99 and 1-6 at 0.98, while the largest error of
a probability grew from 0.05 to 0.12 and 0.20; on another, whose error lay in inner layers, it helped little. That it
ends at 0.98 is a free choice."""
FASTER, LARGER = 1.5, 1.1
"""What a larger file must give, and may cost, to be taken for its speed; free choices."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One file and its judgement."""

    share: float
    file: Converted
    draft: Bundle | None = None
    """The file as a bundle that says nothing of itself yet: enough to run it. None where it cannot be used."""
    found: Sequence[Comparison] = ()
    refused: Sequence[str] = ()
    """What runtimes say that do not take it."""
    corners: Sequence[Corner] = ()
    tuned: Tuned | None = None
    """How the network learned to be rounded, where it did."""

    @property
    def failures(self) -> list[str]:
        """What does not hold; empty where it passes."""
        at_corners = (failure for it in self.corners for failure in it.failures())
        return [*self.file.wrong, *self.refused, *gate(self.found), *at_corners]

    @property
    def can_run(self) -> bool:
        """Whether it was run at all."""
        return bool(self.found)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.file.path.stat().st_size


def ready(path: Path, on_step: Callable[[str], None]) -> tuple[list[Rewrite], list[Finding]]:
    """Write an ONNX file anew where that helps; what was done, and what is left. Raises GraphError."""
    model, steps = rewritten(onnx.load(str(path)))
    if steps:
        onnx.save(model, str(path))
    noticed = check_graph(path)
    for line in (*steps, *noticed):
        on_step(str(line))
    return steps, noticed


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is to be converted."""

    onnx: Path
    inputs: Mapping[str, Floats32]
    """Of the windows that calibrate, by input of the file: (n, n_chans, n_times) or (n, size)."""
    outputs: Floats32
    """(n, n_outputs) of the float network for them."""
    names: Sequence[str]
    """Of the file's outputs, in their order."""
    folder: Path
    """For what comes out, one folder inside for each share."""
    cache: Path | None = None
    """Where what comes out is kept for the next time."""

    def run(self, share: float, on_step: Callable[[str], None]) -> dict[str, Converted]:
        """Every format, with int8 ranges of the central share of the windows."""
        kept = central(self.inputs, self.outputs, share)
        n = len(next(iter(kept.values())))
        on_step(f"int8 ranges of {n} windows ({share:.0%} of those chosen)")
        folder = self.folder / f"share-{100 * share:g}"
        return convert(self.onnx, kept, folder, lambda stage: on_step(f"convert: {stage}"), self.names, self.cache)


def attempts_of(
    conversion: Conversion,
    recipe: str,
    shares: Sequence[float],
    observers: Sequence[str],
    judged: Callable[[float, Converted], Attempt],
    on_step: Callable[[str], None],
    again: Callable[[], tuple[Conversion, Tuned]] | None = None,
) -> list[Attempt]:
    """The format that is asked for, over the shares until one passes; with ``auto`` int8 so, and then every other.

    The first of the observers chooses the ranges of int8 for every share; the others are tried where none passes.

    Where none passes ``again`` gives what has learned to be rounded, to be tried over the shares in its turn.
    """
    first, others = (INT8, [f for f in MODEL_FORMATS if f != INT8]) if recipe == AUTO else (recipe, [])
    tries = [(share, observers[0]) for share in (shares if first in INTEGERS else shares[:1])]
    tries += [(shares[0], observer) for observer in observers[1:] if first == INT8]

    def until_one_passes(source: Conversion, made: dict[float, dict[str, Converted]]) -> Iterator[Attempt]:
        for share, observer in tries:
            if share not in made:
                made[share] = source.run(share, on_step)
            yield (attempt := judged(share, made[share][variant_of(first, observer)]))
            if not attempt.failures:
                return

    made: dict[float, dict[str, Converted]] = {}
    attempts = [*until_one_passes(conversion, made)]
    if again is not None and first in INTEGERS and attempts[-1].failures:
        anew, tuned = again()
        attempts += [replace(attempt, tuned=tuned) for attempt in until_one_passes(anew, {})]
    return attempts + [judged(shares[0], made[shares[0]][name]) for name in others]


def operators_alone(
    attempts: Sequence[Attempt], inputs: Mapping[str, Floats32], on_step: Callable[[str], None]
) -> list[Layer]:
    """Each operator of the first integer file, shown some windows (n, n_chans, n_times) or (n, size); empty without."""
    attempt = next((a for a in attempts if a.can_run and a.file.format in INTEGERS), None)
    if attempt is None:
        return []
    on_step(f"every operator of {attempt.file.format} alone")
    n = len(next(iter(inputs.values())))
    some = np.linspace(0, n - 1, min(WINDOWS, n)).astype(int)
    shown = [{name: file_layout(inputs[name][i]) for name in attempt.file.inspection.inputs} for i in some]
    return layers(attempt.file.twin, attempt.file.path, shown)


def choose(attempts: Sequence[Attempt], medians: Mapping[str, float], recipe: str) -> tuple[Attempt, str]:
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


def medians_of(timed: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """us of a window by runtime and format: on one thread, TFLite's with XNNPACK."""
    rows = (r for r in timed.get("latency", ()) if r["threads"] == 1 and "median_us" in r)
    return {(r["runtime"], r["format"]): r["median_us"] for r in rows if r["xnnpack"] or r["runtime"] not in RUNTIMES}


def formats_of(medians: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """By format, on the runtime that the device takes by default."""
    return {form: us for (runtime, form), us in medians.items() if runtime == RUNTIMES[0]}


def check_passed(best: Attempt, blamed: Sequence[Layer], report: Path, force: bool) -> None:
    """Raise ConvertError where the file cannot be used, GateError where it differs too much and nobody insists."""
    usable(best.file)
    if best.failures and not force:
        raise GateError(best.failures, report, f"most is lost in {guilty(blamed).name}" if blamed else "")


def described(attempt: Attempt) -> dict[str, Any]:
    """One attempt in the report."""
    return {
        "format": attempt.file.format,
        "calibration_share": attempt.share,
        "observer": attempt.file.observer,
        "size_bytes": attempt.size,
        "float_operators": len(attempt.file.inspection.float_operators),
        "agreement": min((c.agreement for c in attempt.found), default=None),
        "balanced_accuracy_drop": max((c.drop for c in attempt.found if c.drop is not None), default=None),
        "masks": {
            c.mask: {"agreement": c.agreement, "balanced_accuracy_drop": c.drop}
            for c in reversed(attempt.found)  # of several runtimes the device's first
        },
        "failures": attempt.failures,
        "tuned": None if attempt.tuned is None else msgspec.to_builtins(attempt.tuned),
    }


def judgement(
    best: Attempt, attempts: Sequence[Attempt], peers: Sequence[Comparison], recipe: Mapping[str, str]
) -> dict[str, Any]:
    """The part of a report that says what was taken and how it was judged."""
    inspection = best.file.inspection
    return {
        "model": {
            "format": best.file.format,
            "size_bytes": best.size,
            "operators": inspection.operators,
            "float_operators": list(inspection.float_operators),
            "dtypes": inspection.dtypes,
        },
        "recipe": dict(recipe),
        "gate": {
            "passed": not best.failures,
            "failures": best.failures,
            "min_agreement": MIN_AGREEMENT,
            "max_balanced_accuracy_drop": MAX_DROP,
            "max_ece_change": MAX_ECE_CHANGE,
        },
        "parity": [{**msgspec.to_builtins(c), "balanced_accuracy_drop": c.drop} for c in (*peers, *best.found)],
        "corners": [{**msgspec.to_builtins(corner), "failures": corner.failures()} for corner in best.corners],
        "calibration_share": best.share,
        "observer": best.file.observer,
        "tuned": None if best.tuned is None else msgspec.to_builtins(best.tuned),
        "attempts": [described(a) for a in attempts],
    }


def graph_report(steps: Sequence[Rewrite], noticed: Sequence[Finding], blamed: Sequence[Layer]) -> dict[str, Any]:
    """The part that says what the network is made of."""
    return {
        "rewrites": [str(step) for step in steps],
        "graph": [msgspec.to_builtins(finding) for finding in noticed],
        "layers": [msgspec.to_builtins(layer) for layer in blamed],
    }
