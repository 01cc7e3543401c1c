"""Figures of one data set, task and mode drawn as SVG for a page that loads nothing.

Knows nothing of folds or HTML: numbers in, SVG text out. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from train.report.figures import Bars, natural

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]

OURS_COLOUR = "#0b6193"
THEIRS_COLOUR = "#e08a1e"
QUIET = "#7d8590"
WIDTH = 9.6
"""Inches: 691 px at the 72 px per inch of SVG."""
HEIGHT = 2.9
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # real text: it can be searched, and read out
    "svg.hashsalt": "affectd",  # ids that depend on the content alone
}


def per_subject(ours: Bars, theirs: Bars | None, chance: float, label: str) -> str:
    """Bars of balanced accuracy per person, ours beside the best classical model; lines span the seeds."""
    both = [b for b in (ours, theirs) if b is not None]
    people = sorted({s for b in both for s in b.mean}, key=natural)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = _panels(figure, 1, 1)[0]
        for i, one in enumerate(both):
            _bars(axes, one, people, i, len(both))
        axes.axhline(chance, color=QUIET, linewidth=1, linestyle="--", label="chance")
        axes.set(ylim=(0, 1), ylabel="balanced accuracy", xlim=(-0.6, len(people) - 0.4))
        axes.set_xticks(range(len(people)), people, rotation=90 if len(people) > 20 else 0)
        axes.grid(False, axis="x")
        _legend(figure)
        return svg(figure, label)


def _bars(axes: Axes, one: Bars, people: Sequence[str], i: int, n: int) -> None:
    width = 0.8 / n
    place = {s: j + (i - (n - 1) / 2) * width for j, s in enumerate(people)}
    colour = (OURS_COLOUR, THEIRS_COLOUR)[i]
    there = [s for s in people if s in one.mean]
    x, mean = [place[s] for s in there], [one.mean[s] for s in there]
    axes.bar(x, mean, width * 0.92, color=colour, label=f"{one.system} (mean {np.mean(mean):.3f})")
    axes.vlines(x, *zip(*(one.span[s] for s in there), strict=True), color="black", linewidth=0.8)


def confusions(tables: Mapping[str, Floats], labels: Sequence[str], label: str) -> str:
    """One matrix a mask: share of each true class, and windows of one seed in brackets."""
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH, HEIGHT + 0.3 * (len(labels) - 2)))
        for i, (axes, (name, table)) in enumerate(zip(_panels(figure, len(tables)), tables.items(), strict=True)):
            _matrix(axes, table, labels, named=i == 0)
            axes.set_title(name)
        return svg(figure, label)


def _matrix(axes: Axes, table: Floats, labels: Sequence[str], named: bool) -> None:
    of_class = table.sum(axis=1, keepdims=True)
    share = np.divide(table, of_class, out=np.zeros_like(table, float), where=of_class > 0)
    axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for (row, column), value in np.ndenumerate(share):
        colour = "white" if value > 0.55 else "black"
        text = f"{value:.0%}\n({table[row, column]:.0f})"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=8)
    middle = np.arange(len(labels)) + 0.5
    axes.set_xticks(middle, labels)
    axes.set_yticks(middle, labels, rotation=90, va="center")
    axes.set_ylim(len(labels), 0)
    axes.set(xlabel="predicted", ylabel="true" if named else "")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def reliabilities(
    panels: Mapping[str, tuple[tuple[Floats, Floats, Floats] | None, tuple[Floats, Floats, Floats] | None]],
    names: tuple[str, str | None],
    label: str,
) -> str:
    """One diagram a mask: accuracy over confidence, the area of a dot its share of the windows."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        there = [c for curves in panels.values() for c in curves if c is not None]
        left, bottom = (min([0.5, *(float(c[i].min()) for c in there)]) - 0.03 for i in (0, 1))
        for axes, (title, curves) in zip(_panels(figure, len(panels)), panels.items(), strict=True):
            axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle="--")
            for curve, name, colour in zip(curves, names, (OURS_COLOUR, THEIRS_COLOUR), strict=True):
                if curve is not None:
                    confidence, right, share = curve
                    axes.plot(confidence, right, color=colour, linewidth=1.4, label=name)
                    axes.scatter(confidence, right, 4 + 160 * share, color=colour, alpha=0.75, linewidths=0)
            axes.set(title=title, xlabel="confidence", xlim=(left, 1.02), ylim=(bottom, 1.04))
        figure.axes[0].set_ylabel("accuracy")
        _legend(figure)
        return svg(figure, label)


def coverages(
    panels: Mapping[str, tuple[Curve | None, Curve | None, float]], names: tuple[str, str | None], label: str
) -> str:
    """One panel a mask: accuracy of what is answered over the share that is answered; dashed the majority class."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        lowest = min(_lowest(panel) for panel in panels.values())
        for axes, (title, (ours, theirs, majority)) in zip(_panels(figure, len(panels)), panels.items(), strict=True):
            axes.axhline(majority, color=QUIET, linewidth=1, linestyle="--", label="majority class")
            for curve, name, colour in zip((ours, theirs), names, (OURS_COLOUR, THEIRS_COLOUR), strict=True):
                if curve is not None:
                    axes.plot(*curve, color=colour, linewidth=1.6, label=name)
                    axes.plot(curve[0][-1], curve[1][-1], "o", color=colour, markersize=4)
            axes.set(title=title, xlabel="answered windows", xlim=(0, 1.02), ylim=(lowest, 1.01))
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        figure.axes[0].set_ylabel("accuracy of answers")
        _legend(figure)
        return svg(figure, label)


def _lowest(panel: tuple[Curve | None, Curve | None, float]) -> float:
    values = [panel[2], *(float(curve[1].min()) for curve in panel[:2] if curve is not None)]
    return max(0.0, float(np.floor(min(values) * 10 - 0.2)) / 10)


def _panels(figure: Figure, n: int, places: int = 3) -> list[Axes]:
    """The first n of so many places, which have one size in every figure; the vertical axis is shared."""
    made = figure.subplots(1, places, sharey=places > 1, squeeze=False)[0]
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.44 / HEIGHT, top=1 - 0.55 / HEIGHT, wspace=0.14)
    for empty in made[n:]:
        empty.remove()
    return list(made[:n])


def _legend(figure: Figure) -> None:
    """One legend for all panels."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(list(found.values()), list(found), loc="upper left", ncols=4, borderaxespad=0)


def svg(figure: Figure, label: str) -> str:
    """The figure as an SVG element that a reader of the page hears as ``label``."""
    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg", f"<svg role='img' aria-label={quoteattr(label)}", 1).strip()
