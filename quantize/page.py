"""The report of one bundle as a page that loads nothing: every file that was judged, parity, corners, operators, time.

Knows nothing of how a figure was made. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from device.bundle import DISCLAIMER
from quantize.layers import Layer, guilty
from quantize.report import KINDS, MASK_WORDS
from train.report.figures import natural
from train.report.page import templates
from train.report.plots import OURS_COLOUR, QUIET, STYLE, THEIRS_COLOUR, WIDTH, svg

N_RANGES = 9
"""Operators whose values are drawn: those that cost most."""
_templates = templates.overlay(
    loader=jinja2.ChoiceLoader(
        [jinja2.FileSystemLoader(Path(__file__).parent), templates.loader or jinja2.DictLoader({})]
    )
)


def page(
    name: str, task: str, report: Mapping[str, Any], timed: Mapping[str, Any], medians: Mapping[str, float]
) -> str:
    """The page; ``timed`` is what quantize.latency says, or nothing, ``medians`` its us of a window by format."""
    found = [msgspec.convert(layer, Layer) for layer in report["layers"]]
    own = [c for c in report["parity"] if "onnx" not in c["against"]]
    passed = [k for k, it in enumerate(report["attempts"]) if it["format"] == report["recipe"]["taken"]]
    return _templates.get_template("page.html.j2").render(
        title=f"{name}: {task}" if task else name,
        report=report,
        kinds=KINDS,
        words=MASK_WORDS,
        disclaimer=DISCLAIMER,
        taken=passed[-1],
        own=own,
        people=sorted({person for c in own for person in c["subjects"]}, key=natural),
        layers=found,
        worst=guilty(found) if found else None,
        depth=Markup(depth(found)) if found else "",
        ranges=Markup(ranges(found)) if found else "",
        timed=timed,
        medians=medians,
    )


def depth(found: Sequence[Layer]) -> str:
    """Errors by depth, and below what each operator costs."""
    at = [layer.position for layer in found]  # inputs lie before 0
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        above.plot(at, [layer.error for layer in found], color=OURS_COLOUR, label="with everything before it in int8")
        above.plot(at, [layer.alone for layer in found], color=THEIRS_COLOUR, label="alone in int8")
        above.set(ylabel="relative error", ylim=(0, None))
        above.legend(loc="upper left")
        worst = guilty(found)
        colours = [THEIRS_COLOUR if layer is worst else QUIET for layer in found]
        below.bar(at, [layer.blame for layer in found], color=colours)
        below.set(
            ylabel="moves an output by",
            xlabel="inputs and operators, in the order of the file",
            xlim=(at[0] - 0.7, at[-1] + 0.7),
        )
        return svg(figure, "Error of each operator by depth")


def ranges(found: Sequence[Layer]) -> str:
    """Histograms of float's values at the operators that cost most, with the chosen ranges."""
    chosen = sorted(found, key=lambda layer: -layer.blame)[:N_RANGES]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
        panels = figure.subplots(3, 3, squeeze=False).ravel()
        for axes, layer in zip(panels, chosen, strict=False):
            edges = np.linspace(min(layer.low, layer.least), max(layer.high, layer.greatest), len(layer.histogram) + 1)
            axes.axvspan(layer.low, layer.high, color=OURS_COLOUR, alpha=0.12, linewidth=0)
            axes.stairs(layer.histogram, edges, fill=True, color=OURS_COLOUR)
            axes.set_yscale("symlog", linthresh=10)
            axes.set_title(f"{layer.operator} at {layer.position}", loc="left")
            axes.tick_params(labelleft=False)
        for axes in panels[len(chosen) :]:
            axes.remove()
        return svg(figure, "Values of the operators that cost most, and the ranges chosen for them")
