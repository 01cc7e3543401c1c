"""One explained window drawn as SVG: the signals, coloured by what speaks for the answer and what against it.

Knows nothing of networks or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from device.pipeline.spec import SignalSpec
from train.explain import Explanation
from train.report.plots import OURS_COLOUR, QUIET, STYLE, THEIRS_COLOUR, WIDTH, svg

Floats = npt.NDArray[np.float64]

SMOOTH_S = {"ecg": 0.05, "eda": 1.0}
"""Spread over which the parts are summed up before they become a colour: single samples cannot be seen."""
STRONGEST = 99.0
"""Percentile of the parts that has the full colour."""
ROW_INCHES = 1.25
DPI = 200
"""Of the coloured lines, which are pixels: thousands of strokes would make a file of megabytes."""
COLOURS = LinearSegmentedColormap.from_list("for and against", (THEIRS_COLOUR, "#c8ccd1", OURS_COLOUR))
"""Against, neither, for."""
WORDS = {"ecg": "ECG, scaled", "hr": "heart rate, scaled", "tonic": "tonic EDA, scaled", "phasic": "phasic EDA, scaled"}


def drawing(found: Explanation, spec: SignalSpec, labels: Sequence[str], title: str) -> str:
    """A row for each channel and, of a Transformer, for what CLS looks at in each layer.

    Time is in s of the window; EDA's context lies before 0.
    """
    channels = [(m, i) for m in found.arrays for i in range(len(found.arrays[m]))]
    layers = 0 if found.attended is None else len(found.attended)
    with rc_context({**STYLE, "savefig.dpi": DPI}):
        figure = Figure(figsize=(WIDTH, ROW_INCHES * (len(channels) + 0.6 * layers) + 0.5), layout="constrained")
        rows = figure.subplots(
            len(channels) + layers, 1, sharex=False, squeeze=False,
            gridspec_kw={"height_ratios": [1.0] * len(channels) + [0.6] * layers},
        )[:, 0]  # fmt: skip
        said = ", ".join(f"{name} {p:.0%}" for name, p in zip(labels, found.probability, strict=True))
        figure.suptitle(f"{title}: {said}; blue speaks for {labels[found.answer]}, orange against it", fontsize=9)
        for axes, (modality, i) in zip(rows, channels, strict=False):
            x, sfreq = found.arrays[modality][i].astype(float), spec.of(modality).sfreq
            t = spec.window_s + (np.arange(len(x)) - len(x)) / sfreq
            _coloured(axes, t, x, gaussian_filter1d(found.parts[modality][i], SMOOTH_S[modality] * sfreq))
            axes.set_ylabel(WORDS.get(spec.ch_names(modality)[i], spec.ch_names(modality)[i]))
        for k in range(layers):
            _attended(rows[len(channels) + k], found.attended[k], spec.window_s)  # type: ignore[index]
            rows[len(channels) + k].set_ylabel(f"layer {k + 1}")
        rows[-1].set_xlabel("s")
        return svg(figure, title)


def _coloured(axes: Axes, t: Floats, x: Floats, parts: Floats) -> None:
    """A line whose colour says what its samples contribute."""
    strongest = max(float(np.percentile(np.abs(parts), STRONGEST)), np.finfo(float).tiny)
    points = np.stack([t, x], axis=1)
    lines = LineCollection(np.stack([points[:-1], points[1:]], axis=1), cmap=COLOURS, linewidths=1.1, rasterized=True)
    lines.set_array(np.clip((parts[:-1] + parts[1:]) / (2 * strongest), -1, 1))
    lines.set_clim(-1, 1)
    axes.add_collection(lines)
    axes.set(xlim=(t[0], t[-1]), ylim=(x.min() - 0.2, x.max() + 0.2))


def _attended(axes: Axes, weights: Floats, window_s: float) -> None:
    """Bars of what CLS takes of each token; the line is what each would have if all were alike."""
    width = window_s / len(weights)
    axes.bar((np.arange(len(weights)) + 0.5) * width, weights, width, color=OURS_COLOUR)
    axes.axhline(weights.sum() / len(weights), color=QUIET, linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, window_s), ylim=(0, None))
    axes.grid(False)
