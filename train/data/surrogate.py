"""Surrogate ECG: real beat shapes and real noise at given beat times, as a Polar H10 would send it. Never just "ECG".

Knows nothing of where the beat times come from (rr.py) or of labels: a task changes a surrogate by its beat times only.

What is real: beat times (from the person's pulse), beat shapes and noise (from QTDB records of other people). What is
modelled: the QT interval follows the RR interval; breathing (read from the RR series itself) moves amplitude and
baseline; each person gets one shape, one gain and one noise level by chance. What is not there: ectopic beats, motion
artefacts, lost contact, changes of shape with posture. Where beat times were bridged, heart rate variability is too
small.
"""

from __future__ import annotations

import zlib

import numpy as np
from scipy import signal

from train.data import rr
from train.data.errors import BeatsError
from train.data.templates import NOISE_HZ, TEMPLATE_HZ, Templates
from train.data.types import Floats, Recording, Signal

ECG_HZ = 130.0
"""Nominal rate of a Polar H10."""
STRAP_BAND_HZ = (0.7, 40.0)
"""Band of a Polar H10's ECG, by its maker."""
STRAP_ORDERS = (1, 2)
"""Free choice (the maker names no orders): causal Butterworth high-pass and low-pass; R comes about 3 ms late."""
STRAP_LSB_MV = 0.001
"""The strap sends whole uV."""
SNR_RANGE_DB = (14.0, 30.0)
"""Free choice: a strap worn well, from a slim dry one to a good one."""
GAIN_SPREAD = 0.25
"""Standard deviation of the log of the person's gain (free choice)."""
MIN_R_MV, MAX_R_MV = 0.4, 2.5
"""R amplitudes seen on a chest strap."""
QT_EXPONENT = 1 / 3
"""Fridericia 1920: QT is proportional to the cube root of RR."""
QT_MEMORY_BEATS = 20.0
"""QT follows a running mean of RR, not each single beat (time constant; free choice, about a quarter of a minute)."""
MIN_STRETCH, MAX_STRETCH = 0.5, 1.5
"""Limits of the stretch of J .. T end."""
BREATH_HZ = (0.12, 0.5)
"""Breathing of an adult who sits, 7 to 30 per minute."""
BREATH_GRID_HZ = 4.0
BREATH_AMPLITUDE = 0.06
"""Share by which breathing changes the beat's size."""
BREATH_BASELINE_MV = 0.05
"""Movement of the baseline by breathing, before the strap's own high-pass."""
NOISE_ROWS_EACH = 3
"""Noise of one person comes from this many records."""
NOISE_FADE_S = 0.5
"""Two noise rows overlap this long."""


def surrogate_ecg(
    beat_times_s: Floats,
    duration_s: float,
    sfreq: float,
    rng: np.random.Generator,
    templates: Templates,
    *,
    snr_db: float | None = None,
) -> Signal:
    """Surrogate ECG of one person, (n_times, 1) mV at ``sfreq``, from time 0 to ``duration_s``.

    ``beat_times_s`` (n_beats,) ascending s; R lies there up to the strap's constant delay. ``snr_db`` is the power of
    the beats over that of the noise after the strap's filter; drawn from SNR_RANGE_DB where None, no noise where
    ``inf``. The same generator state gives the same bits. Raises BeatsError for beats that cannot be placed.
    """
    if len(beat_times_s) < 3 or (np.diff(beat_times_s) <= 0).any() or duration_s <= 0:
        raise BeatsError("beat_times_s", f"{len(beat_times_s)} beats", "needs at least 3, ascending, and time to fill")
    kind = int(rng.integers(len(templates.names)))
    gain = float(rng.lognormal(0.0, GAIN_SPREAD))
    drawn = float(rng.uniform(*SNR_RANGE_DB))
    r_mv = templates.waves[kind, templates.r_index]
    gain = float(np.clip(gain * r_mv, MIN_R_MV, MAX_R_MV) / r_mv)
    n = round(duration_s * sfreq)
    beats = gain * _beats(np.asarray(beat_times_s, float), n, sfreq, templates, kind)
    clean = _strap(beats, sfreq)
    noise = _strap(_noise(n, sfreq, rng, templates), sfreq)
    level = 10 ** (-(drawn if snr_db is None else snr_db) / 20) * np.sqrt((clean**2).mean() / (noise**2).mean())
    ecg = np.rint((clean + level * noise) / STRAP_LSB_MV) * STRAP_LSB_MV
    return Signal(ecg[:, None], sfreq, "mV", ("ecg",), surrogate=True)


def with_surrogate_ecg(recording: Recording, templates: Templates, seed: int) -> Recording:
    """The recording with ``ecg`` (surrogate, mV, 130 Hz) rebuilt from its pulse, and ``eda``, on one time axis.

    Bridged stretches of the beat series become annotations ``bridged``. Shape, gain and noise depend on ``seed`` and
    the subject's name only, not on which recordings were made before. Raises BeatsError where there is little pulse.
    """
    found = rr.beats(recording)
    bvp = recording.signals["bvp"]
    rng = np.random.default_rng([seed, zlib.crc32(f"{recording.dataset}/{recording.subject}".encode())])
    ecg = surrogate_ecg(found.times - bvp.start, bvp.duration, ECG_HZ, rng, templates)
    signals = {"ecg": Signal(ecg.data, ecg.sfreq, ecg.units, ecg.ch_names, bvp.start, surrogate=True)}
    if "eda" in recording.signals:
        signals["eda"] = recording.signals["eda"]
    annotations = tuple(sorted((*recording.annotations, *found.annotations()), key=lambda a: a.onset))
    note = f"surrogate ECG from the wrist pulse; {100 * found.bridged_share:.0f} % of the time bridged"
    notes = (*recording.notes, note)
    return Recording(recording.dataset, recording.subject, recording.session, signals, annotations, notes)


def _beats(times: Floats, n: int, sfreq: float, templates: Templates, kind: int) -> Floats:
    """(n,) mV: the template at every beat, warped and sized, plus the baseline's breathing."""
    wave, r = templates.waves[kind], templates.r_index
    stretch = qt_stretch(times, templates, kind)
    tail = (len(wave) - r) / TEMPLATE_HZ * MAX_STRETCH
    first = np.ceil((times - r / TEMPLATE_HZ) * sfreq).astype(int)
    index = first[:, None] + np.arange(int((r / TEMPLATE_HZ + tail) * sfreq) + 1)
    since = index / sfreq - times[:, None]
    j = templates.qrs_off[kind]
    since = np.where(since > j, j + (since - j) / stretch[:, None], since)
    breath_times, breath = breathing(times)
    size = 1 + BREATH_AMPLITUDE * np.interp(times, breath_times, breath)
    shape = np.interp(since * TEMPLATE_HZ + r, np.arange(len(wave)), wave, left=0.0, right=0.0) * size[:, None]
    inside = (index >= 0) & (index < n)
    ecg = np.bincount(index[inside], shape[inside], minlength=n)
    return ecg + BREATH_BASELINE_MV * np.interp(np.arange(n) / sfreq, breath_times, breath)


def qt_stretch(times: Floats, templates: Templates, kind: int) -> Floats:
    """(n_beats,) factor on J .. T end that gives each beat Fridericia's QT for the running mean of RR."""
    intervals = np.diff(times)
    intervals = np.concatenate([intervals[:1], intervals])
    keep = np.exp(-1 / QT_MEMORY_BEATS)
    mean, _ = signal.lfilter([1 - keep], [1, -keep], intervals, zi=[keep * np.median(intervals[:20])])
    on, off, end = templates.qrs_on[kind], templates.qrs_off[kind], templates.t_end[kind]
    qt = (end - on) * (mean / templates.rr[kind]) ** QT_EXPONENT
    return np.clip((qt - (off - on)) / (end - off), MIN_STRETCH, MAX_STRETCH)


def breathing(times: Floats) -> tuple[Floats, Floats]:
    """Times in s and breathing in about -1.5..1.5 there, read from the RR series' own sinus arrhythmia."""
    grid = np.arange(times[0], times[-1] + 1 / BREATH_GRID_HZ, 1 / BREATH_GRID_HZ)
    tachogram = np.interp(grid, times[1:], np.diff(times))
    sos = signal.butter(2, BREATH_HZ, "bandpass", fs=BREATH_GRID_HZ, output="sos")
    wave = signal.sosfiltfilt(sos, tachogram, padlen=min(len(grid) - 1, 60))
    power = signal.sosfiltfilt(
        signal.butter(1, 0.02, fs=BREATH_GRID_HZ, output="sos"), wave**2, padlen=min(len(grid) - 1, 60)
    )
    # Where the beats were bridged there is no arrhythmia to read: nothing is blown up out of rounding.
    return grid, np.clip(wave / np.sqrt(2 * np.maximum(power, 1e-5)), -1.5, 1.5)


def _noise(n: int, sfreq: float, rng: np.random.Generator, templates: Templates) -> Floats:
    """(n,) noise of about unit power: NOISE_ROWS_EACH real rows, one after the other by chance, turned by chance."""
    rows = templates.noise[rng.permutation(len(templates.noise))[:NOISE_ROWS_EACH]]
    fade = round(NOISE_FADE_S * NOISE_HZ)
    need = int(n * NOISE_HZ / sfreq) + 2
    step = rows.shape[1] - fade
    ramp = np.sqrt(
        np.clip(np.minimum(np.arange(rows.shape[1]) + 0.5, np.arange(rows.shape[1])[::-1] + 0.5) / fade, 0, 1)
    )
    out = np.zeros(need + 2 * rows.shape[1])
    for start in range(0, need, step):
        row = rows[rng.integers(len(rows))][:: rng.choice((-1, 1))]
        out[start : start + len(row)] += row * ramp * rng.choice((-1.0, 1.0))
    return np.interp(np.arange(n) / sfreq * NOISE_HZ + fade, np.arange(len(out)), out)


def _strap(ecg: Floats, sfreq: float) -> Floats:
    """The strap's own band as a causal filter, settled on the first sample."""
    high = signal.butter(STRAP_ORDERS[0], STRAP_BAND_HZ[0], "highpass", fs=sfreq, output="sos")
    low = signal.butter(STRAP_ORDERS[1], STRAP_BAND_HZ[1], "lowpass", fs=sfreq, output="sos")
    sos = np.concatenate([high, low])
    return signal.sosfilt(sos, ecg, zi=signal.sosfilt_zi(sos) * ecg[0])[0]
