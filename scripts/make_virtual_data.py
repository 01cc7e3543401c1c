"""Make the signals of the virtual sensors from the demo's recording at rest (NeuroKit2, MIT, see NOTICE).

    python scripts/make_virtual_data.py

Two minutes of ECG and EDA of one person, cut so that the end runs on into the beginning: the ECG from one beat's
diastole to another's, the EDA blended over its last seconds.
"""

from __future__ import annotations

import numpy as np

from device.demo.loader import load
from device.sources.virtual import resample
from firmware_bridge.virtual.signals import DATA, SHIPPED, find_beats

START_S, LENGTH_S = 200.0, 120.0
"""A stretch without artefact."""
BEFORE_R_S = 0.3
"""The cut lies this long before an R wave: after the last T wave, before the P wave."""
BLEND_S = 10.0
"""The EDA before the stretch fades into its end, so that the level meets the beginning's."""
HEADER = """# {what}
# From the demo's recording `rest` (NeuroKit2 example data bio_resting_8min_100hz.csv, Makowski et al. 2021, MIT
# licence, see NOTICE), seconds {start:.2f} to {stop:.2f}; its end runs on into its beginning.
# Made by scripts/make_virtual_data.py.
"""


def between_beats(ecg: np.ndarray, sfreq: float) -> tuple[int, int]:
    """[first, last) of whole heart cycles, each cut ``BEFORE_R_S`` before an R wave."""
    beats = np.array(find_beats(list(np.rint(ecg * 1000)), sfreq)) - round(BEFORE_R_S * sfreq)
    first = beats[beats >= START_S * sfreq][0]
    return int(first), int(beats[beats >= first + LENGTH_S * sfreq][0])


def levelled(values: np.ndarray) -> np.ndarray:
    """(n_times,) with a ramp added, so that the sample after the last would be the first."""
    return values - np.linspace(0.0, values[-1] - values[0], len(values))


def blended(eda: np.ndarray, first: int, last: int, n: int) -> np.ndarray:
    """[first, last) of (n_times,), its last ``n`` samples fading into the ``n`` before ``first``."""
    weight = np.linspace(0.0, 1.0, n)
    fade = eda[last - n : last] * (1 - weight) + eda[first - n : first] * weight
    return np.concatenate([eda[first : last - n], fade])


def store(name: str, what: str, seconds: tuple[float, float], values: np.ndarray) -> None:
    """Write one signal, an integer per line."""
    head = HEADER.format(what=what, start=seconds[0], stop=seconds[1])
    (DATA / SHIPPED[name]).write_text(head + "".join(f"{round(value * 1000)}\n" for value in values), encoding="ascii")


def main() -> None:
    """Write the three files."""
    rest = load("rest")
    first, last = between_beats(rest.ecg.data, rest.ecg.sfreq)
    seconds = (first / rest.ecg.sfreq, last / rest.ecg.sfreq)
    for sfreq in (130.0, 200.0):
        ecg = resample(rest.ecg.data[first : last + 1], rest.ecg.sfreq, sfreq)
        n_times = round((last - first) / rest.ecg.sfreq * sfreq)
        store(f"ecg-{sfreq:g}", f"ECG in uV at {sfreq:g} Hz, one sample per line.", seconds, levelled(ecg[:n_times]))
    eda_first, eda_last = (round(second * rest.eda.sfreq) for second in seconds)
    eda = blended(rest.eda.data, eda_first, eda_last, round(BLEND_S * rest.eda.sfreq))
    store("eda-8", f"Skin conductance in nS at {rest.eda.sfreq:g} Hz, one sample per line.", seconds, eda)


if __name__ == "__main__":
    main()
