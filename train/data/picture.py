"""One picture of a subject: every signal over the whole time, labels as coloured bands, a minute and 10 s of the heart.

Knows nothing of data sets; draws what Recordings hold, and samples that are missing as missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.data.check import signal_values, span_s
from train.data.types import Annotation, Floats, Recording, Signal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, DPI = 13.0, 110
STRIP_IN, TALL_IN, THIN_IN, ZOOM_IN, FRAME_IN = 0.32, 1.35, 0.62, 1.75, 1.75
"""Heights of the labels' strip, of ECG and EDA, of any other signal, of the zooms, and of all around them."""
BINS = 1200
"""Columns that a signal is drawn in: about one a pixel."""
MAX_CHANNELS = 6
"""Of a signal; more lines than that hide each other."""
MAX_OTHERS = 8
"""Panels beside ECG and EDA; more would not fit a screen. The others are named below the picture."""
MAX_LEGEND = 14
LEFT, RIGHT = 0.075, 0.985
"""Edges of the panels, share of the width."""
LABEL_AT = -0.046
"""Middle of the names beside the panels, share of a panel's width."""
MINUTE_S, ZOOM_S = 60.0, 10.0
SESSION_GAP = 0.01
"""Room between sessions, share of the whole time."""
ROBUST_PERCENT = (0.5, 99.5)
"""Of the columns' extremes: what lies outside may be cut off, so that an artefact does not flatten all the rest."""
MAX_STRETCH = 2.0
"""Nothing is cut off while that makes the panel's range at most this much larger."""
LETTER = 0.0062
"""Width of a letter on the strip, share of the axis."""

USUAL_COLOURS = {
    "baseline": "#4e79a7", "rest": "#4e79a7", "relax": "#76b7b2", "stress": "#e15759", "task": "#e15759",
    "neutral": "#4e79a7", "amusement": "#edc948", "meditation": "#59a14f", "stroop": "#e15759", "interview": "#f28e2b",
    "hyperventilation": "#b07aa1", "questionnaire": "#9c755f", "transition": "#d4d4d4",
}  # fmt: skip
"""The same colour in every data set for what means the same."""
MORE_COLOURS = (
    "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5", "#1f77b4",
    "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf",
)  # fmt: skip
SIGNAL_COLOURS = {"ecg": "#8c1d40", "eda": "#0b6e4f", "bvp": "#a2402c"}
CHANNEL_COLOURS = ("#3b4a6b", "#7a8fb8", "#b0793f", "#6b8e5a", "#8a5a83", "#777777")
MISSING = {"facecolor": "white", "edgecolor": "#7f7f7f", "hatch": "/////", "lw": 0.0}
"""Hatched, not coloured: colours belong to labels."""
PAPER = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
"""Behind text that stands on a signal."""


@dataclass(slots=True)
class Palette:
    """Description -> colour, the same for every subject that one palette draws."""

    given: dict[str, str] = field(default_factory=dict)

    def __call__(self, description: str) -> str:
        """Colour as #rrggbb."""
        if description not in self.given:
            taken = sum(name not in USUAL_COLOURS for name in self.given)
            more = MORE_COLOURS[taken % len(MORE_COLOURS)]
            self.given[description] = USUAL_COLOURS.get(description, more)
        return self.given[description]


def draw(subject: str, title: str, recordings: Sequence[Recording], path: Path, palette: Palette) -> None:
    """Write the picture of one subject's recordings, one after the other, as PNG."""
    from matplotlib.figure import Figure

    order = _order(recordings)
    shown, left_out = order[: 2 + MAX_OTHERS], order[2 + MAX_OTHERS :]
    heart = next((name for name in ("ecg", "bvp") if name in shown and _has_samples(name, recordings)), None)
    heights = [STRIP_IN, *(TALL_IN if name in ("ecg", "eda", heart) else THIN_IN for name in shown)]
    total = sum(heights) + FRAME_IN + (ZOOM_IN if heart else 0)
    figure = Figure((WIDTH_IN, total), dpi=DPI, facecolor="white")
    bottom = (ZOOM_IN + 1.05 if heart else 0.5) / total
    grid = figure.add_gridspec(
        len(heights), 1, height_ratios=heights, left=LEFT, right=RIGHT, top=1 - 0.8 / total, bottom=bottom, hspace=0.12
    )
    axes = [figure.add_subplot(cell) for cell in grid]
    starts = _starts(recordings)
    _strip(axes[0], recordings, starts, palette)
    for ax, name in zip(axes[1:], shown, strict=True):
        ax.sharex(axes[0])
        _overview(ax, name, recordings, starts, palette)
    for ax in axes[:-1]:
        ax.tick_params(labelbottom=False, bottom=False)
    _time_axis(axes[-1], recordings, starts, left_out)
    if heart:
        _zooms(figure, heart, recordings, starts, axes[1 + shown.index(heart)], total, palette)
    figure.text(LEFT, 1 - 0.26 / total, f"{subject} · {title}", fontsize=13, weight="bold", va="center")
    figure.savefig(path)


def _order(recordings: Sequence[Recording]) -> list[str]:
    """Modalities as they are drawn: ECG (without one the pulse), EDA, all others."""
    names = list(dict.fromkeys(name for recording in recordings for name in recording.signals))
    first = [name for name in ("ecg", "eda") if name in names]
    if "ecg" not in names and "bvp" in names:
        first.insert(0, "bvp")
    return first + [name for name in names if name not in first]


def _has_samples(name: str, recordings: Sequence[Recording]) -> bool:
    return any(rec.signals[name].duration > 0 for rec in recordings if name in rec.signals)


def _span(recording: Recording) -> tuple[float, float]:
    spans = [span_s(signal) for signal in recording.signals.values()]
    return min((a for a, _ in spans), default=0.0), max((b for _, b in spans), default=0.0)


def _starts(recordings: Sequence[Recording]) -> list[float]:
    """Where each recording's time 0 lies on the picture's axis, s."""
    spans = [_span(recording) for recording in recordings]
    gap = SESSION_GAP * sum(b - a for a, b in spans)
    starts, at = [], 0.0
    for low, high in spans:
        starts.append(at - low)
        at += high - low + gap
    return starts


def _end(recordings: Sequence[Recording], starts: Sequence[float]) -> float:
    return max((start + _span(rec)[1] for rec, start in zip(recordings, starts, strict=True)), default=0.0) or 1.0


def _bands(recordings: Sequence[Recording], starts: Sequence[float]) -> Iterator[tuple[float, Annotation]]:
    for recording, start in zip(recordings, starts, strict=True):
        yield from ((start + annotation.onset, annotation) for annotation in recording.annotations)


def _strip(ax: Axes, recordings: Sequence[Recording], starts: Sequence[float], palette: Palette) -> None:
    """The labels by name, a legend with their total time above, presses without duration as lines."""
    end = _end(recordings, starts)
    totals: dict[str, float] = {}
    for onset, a in _bands(recordings, starts):
        totals[a.description] = totals.get(a.description, 0.0) + a.duration
        if a.duration == 0:
            ax.axvline(onset / 60, color=palette(a.description), lw=1.2)
            continue
        ax.axvspan(onset / 60, (onset + a.duration) / 60, color=palette(a.description), lw=0)
        if a.duration > LETTER * len(a.description) * end:
            ax.text((onset + a.duration / 2) / 60, 0.47, a.description, ha="center", va="center", fontsize=8)
    ax.set(yticks=[], ylim=(0, 1))
    _name(ax, "labels")
    if not totals:
        ax.text(0.5, 0.47, "no labels", transform=ax.transAxes, ha="center", va="center", fontsize=8, color="0.4")
    _legend(ax, totals, _any_missing(recordings), palette)


def _any_missing(recordings: Sequence[Recording]) -> bool:
    return any(np.isnan(signal_values(signal)).any() for rec in recordings for signal in rec.signals.values())


def _legend(ax: Axes, totals: Mapping[str, float], missing: bool, palette: Palette) -> None:
    """Above the strip: each label with its total time, and what is hatched where there is some."""
    from matplotlib.patches import Patch

    named = {name: f"{name} {_minutes(total)}" if total else name for name, total in totals.items()}
    patches = [Patch(color=palette(name), label=text) for name, text in named.items()]
    room = MAX_LEGEND - missing
    if len(patches) > room:
        patches = [*patches[: room - 1], Patch(alpha=0, label=f"and {len(patches) - room + 1} more")]
    if missing:
        patches.append(Patch(**MISSING, label="no samples"))
    ax.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(-0.006, 1.0), ncols=7, fontsize=8, frameon=False,
        handlelength=1.2, handleheight=0.9, columnspacing=1.4,
    )  # fmt: skip


def _name(ax: Axes, text: str, at: float = LABEL_AT) -> None:
    """The panel's name, upright on its left."""
    ax.set_ylabel(text, rotation=0, ha="center", va="center", fontsize=9)
    ax.yaxis.set_label_coords(at, 0.5)


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"


def _overview(ax: Axes, name: str, recordings: Sequence[Recording], starts: Sequence[float], palette: Palette) -> None:
    """One modality of every recording over the whole time."""
    for onset, a in _bands(recordings, starts):
        if a.duration:
            ax.axvspan(onset / 60, (onset + a.duration) / 60, color=palette(a.description), alpha=0.22, lw=0)
    extremes = []
    drawn = [(rec.signals[name], start) for rec, start in zip(recordings, starts, strict=True) if name in rec.signals]
    for signal, start in drawn:
        bins = max(2, round(BINS * signal.duration / _end(recordings, starts)))
        for channel, colour in _channels(name, signal):
            extremes.append(_line(ax, signal, channel, start, bins, colour))
    _limits(ax, np.concatenate(extremes, axis=1) if extremes else np.empty((2, 0)))
    signal = drawn[0][0]
    surrogate = "\nsurrogate" if signal.surrogate else ""
    _name(ax, f"{name}\n{signal.units}{surrogate}")
    channels = signal_values(signal).shape[1]
    if channels > len(list(_channels(name, signal))):
        text = f"{signal.ch_names[0]} (1 of {channels})"
        ax.text(0.003, 0.94, text, transform=ax.transAxes, ha="left", va="top", fontsize=7, color="0.3", bbox=PAPER)
    ax.tick_params(labelsize=8)
    ax.locator_params(axis="y", nbins=4)
    ax.spines[["top", "right"]].set_visible(False)


def _channels(name: str, signal: Signal) -> list[tuple[int, str]]:
    """Channels to draw with their colours: of ECG and EDA the one that is used, of many the first."""
    count = signal_values(signal).shape[1]
    if name in SIGNAL_COLOURS:
        return [(0, SIGNAL_COLOURS[name])]
    return list(enumerate(CHANNEL_COLOURS[: count if count <= MAX_CHANNELS else 1]))


def _line(ax: Axes, signal: Signal, channel: int, start: float, bins: int, colour: str) -> Floats:
    """Draw one channel; (2, n) the lowest and highest value of each column."""
    values = signal_values(signal)[:, channel]
    if not signal.sfreq or len(values) <= 2 * bins:
        minutes = (start + signal.times()) / 60
        ax.plot(minutes, values, color=colour, lw=0.8, **({} if signal.sfreq else {"ls": "", "marker": ".", "ms": 1.5}))
        low = high = values
    else:
        edges = np.linspace(0, len(values), bins + 1).astype(int)
        minutes = (start + signal.start + edges[:-1] / signal.sfreq) / 60
        low, high = (pick.reduceat(values, edges[:-1]) for pick in (np.fmin, np.fmax))
        ax.fill_between(minutes, low, high, color=colour, lw=0.6, alpha=0.85, step="post")
    missing = np.isnan(low)
    if missing.any():
        ax.fill_between(minutes, 0, 1, where=missing, step="post", transform=ax.get_xaxis_transform(), **MISSING)
    return np.stack([low, high])


def _limits(ax: Axes, extremes: Floats) -> None:
    """The panel's range: everything, or where a few columns stand far out, most of it, and that is said."""
    extremes = extremes[:, np.isfinite(extremes).all(axis=0)]
    if not extremes.size:
        return
    full = float(extremes[0].min()), float(extremes[1].max())
    inner = float(np.percentile(extremes[0], ROBUST_PERCENT[0])), float(np.percentile(extremes[1], ROBUST_PERCENT[1]))
    cut = full[1] - full[0] > MAX_STRETCH * (inner[1] - inner[0]) > 0
    low, high = inner if cut else full
    margin = 0.08 * (high - low) or max(abs(high) * 0.05, 1e-3)
    ax.set_ylim(low - margin, high + margin)
    if cut:
        text = f"cut: {full[0]:.3g} to {full[1]:.3g} in all"
        ax.text(0.997, 0.94, text, transform=ax.transAxes, ha="right", va="top", fontsize=7, color="0.3", bbox=PAPER)


def _time_axis(ax: Axes, recordings: Sequence[Recording], starts: Sequence[float], left_out: Sequence[str]) -> None:
    """Minutes below the last panel, and what the picture does not show."""
    many = f", {len(recordings)} sessions one after the other" if len(recordings) > 1 else ""
    without = f"   not drawn: {', '.join(left_out)}" if left_out else ""
    ax.set_xlabel(f"time in min{many}{without}", fontsize=9)
    ax.set_xlim(0, _end(recordings, starts) / 60)


def _zooms(
    figure: Figure, name: str, recordings: Sequence[Recording], starts: Sequence[float],
    overview: Axes, total: float, palette: Palette,
) -> None:  # fmt: skip
    """A minute and ten seconds of it from the middle of the longest label, marked in the panel they come from."""
    drawn = [(rec, at) for rec, at in zip(recordings, starts, strict=True) if name in rec.signals]
    recording, shift = max(drawn, key=lambda pair: pair[0].signals[name].duration)
    signal, label = recording.signals[name], _longest(recording, name)
    middle = label.onset + label.duration / 2 if label else (signal.start + signal.stop) / 2
    grid = figure.add_gridspec(
        1, 2, width_ratios=(1.6, 1), left=LEFT, right=RIGHT, bottom=0.45 / total, top=(0.45 + ZOOM_IN - 0.25) / total,
        wspace=0.09,
    )  # fmt: skip
    wide, near = (figure.add_subplot(cell) for cell in grid)
    session = f" of {recording.session}" if drawn[1:] else ""
    minute, ten = (_inside(signal, middle, length) for length in (MINUTE_S, ZOOM_S))
    for ax, (first, last) in ((wide, minute), (near, ten)):
        _excerpt(ax, name, signal, first, last, f" of {label.description}" if label else "", session)
        if label:
            ax.spines["left"].set(color=palette(label.description), linewidth=4)
    _name(wide, signal.units, LABEL_AT / 0.6)
    wide.axvspan(*(edge - minute[0] for edge in ten), color="0.85", lw=0, zorder=0)
    overview.axvspan(*((shift + edge) / 60 for edge in minute), fill=False, ec="black", lw=1.0, zorder=3)


def _inside(signal: Signal, middle: float, length: float) -> tuple[float, float]:
    """``length`` seconds around ``middle``, moved and cut to lie inside the signal."""
    first = max(signal.start, min(middle - length / 2, signal.stop - length))
    return first, min(first + length, signal.stop)


def _excerpt(ax: Axes, name: str, signal: Signal, first: float, last: float, label: str, session: str) -> None:
    """The first channel from ``first`` to ``last``, s from the recording's start."""
    at, stop = (round((edge - signal.start) * signal.sfreq) for edge in (first, last))
    values = signal.data[at:stop, 0]
    ax.plot(np.arange(len(values)) / signal.sfreq, values, color=SIGNAL_COLOURS[name], lw=0.9)
    ax.set_title(f"{name}: {last - first:.0f} s{label}, from {first / 60:.1f} min{session}", fontsize=9, loc="left")
    ax.set_xlim(0, last - first)
    ax.set_xlabel("s", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _longest(recording: Recording, name: str) -> Annotation | None:
    """The longest label whose middle the signal covers."""
    low, high = span_s(recording.signals[name])
    inside = [a for a in recording.annotations if a.duration and low < a.onset + a.duration / 2 < high]
    return max(inside, key=lambda a: a.duration, default=None)
