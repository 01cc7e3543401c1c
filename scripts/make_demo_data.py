"""Make the demo's recordings `rest` and `event` from NeuroKit's (MIT, see NOTICE).

    AFFECTD_REFERENCE_DATA=~/.cache/affectd-reference python scripts/make_demo_data.py

ECG stays at 100 Hz. EDA is brought to 8 Hz, what an open EDA sensor sends, with a filter against aliasing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from device.demo.loader import DATA, Annotation, DemoRecording, Trace, write

SFREQ = 100.0
"""Hz, of both files."""
EDA_SFREQ = 8.0
EDA_UP, EDA_DOWN = 2, 25
"""100 Hz * 2 / 25 = 8 Hz"""
PHOTO_THRESHOLD = 2.5
"""V, half of what the photosensor gives: below it a picture is on the screen."""
ABOUT = "BIOPAC recording at {sfreq:g} Hz of the NeuroKit2 example data `{file}` (Makowski et al. 2021, MIT licence)"
CONDITIONS = ("negative picture", "neutral picture", "neutral picture", "negative picture")
"""Of the four pictures, as NeuroKit2's documentation of the file gives them."""


def columns(path: Path) -> dict[str, np.ndarray]:
    """Columns of a NeuroKit CSV by lower-case name, (n_times,) each: ECG in mV, EDA in uS."""
    header, *rows = path.read_text().splitlines()
    table = np.array([row.split(",") for row in rows], dtype=float)
    return dict(zip(header.lower().split(","), table.T, strict=True))


def shown(photosensor: np.ndarray) -> list[tuple[float, float]]:
    """(onset, duration) in s of each stretch in which the photosensor (n_times,) is dark."""
    dark = np.concatenate([[False], photosensor < PHOTO_THRESHOLD, [False]])
    onsets, ends = (np.flatnonzero(np.diff(dark.astype(int)) == step) for step in (1, -1))
    return [(onset / SFREQ, (end - onset) / SFREQ) for onset, end in zip(onsets, ends, strict=True)]


def recording(name: str, path: Path, conditions: tuple[str, ...]) -> DemoRecording:
    """One NeuroKit file as a demo recording."""
    table = columns(path)
    about = ABOUT.format(sfreq=SFREQ, file=path.name)
    eda = resample_poly(table["eda"], EDA_UP, EDA_DOWN, padtype="line")
    stretches = shown(table["photosensor"])
    return DemoRecording(
        name,
        Trace(table["ecg"], SFREQ, 0.0, False, about),
        Trace(eda, EDA_SFREQ, 0.0, False, f"{about}, resampled to {EDA_SFREQ:g} Hz"),
        tuple(Annotation(*stretch, what) for stretch, what in zip(stretches, conditions, strict=True)),
    )


def main() -> None:
    """Write both recordings."""
    folder = os.environ.get("AFFECTD_REFERENCE_DATA")
    if not folder:
        sys.exit("make_demo_data: set AFFECTD_REFERENCE_DATA to the folder of the unpacked reference recordings")
    neurokit = Path(folder) / "neurokit"
    write(recording("rest", neurokit / "bio_resting_8min_100hz.csv", ("rest",)), DATA)
    write(recording("event", neurokit / "bio_eventrelated_100hz.csv", CONDITIONS), DATA)


if __name__ == "__main__":
    main()
