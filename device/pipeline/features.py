"""Features of one window for classical models: heart rate variability, beat shape, skin conductance.

Knows nothing of models, of people or of other windows: what a window holds is all that shapes its features.

Heart rate variability after Task Force of ESC and NASPE (1996, Circulation 93:1043), skin conductance responses after
Boucsein et al. (2012, Psychophysiology 49:1017). Every value is finite for any finite window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from device.pipeline.quality import HIDDEN_BEAT, ROUNDING, beats
from device.pipeline.spec import MODALITIES, SignalSpec
from device.pipeline.types import Floats

ECG_FEATURES = {
    "hr_mean": "1/min: mean heart rate over time",
    "hr_sd": "1/min: its standard deviation",
    "hr_min": "1/min: 5th percentile, which one wrong beat does not move",
    "hr_max": "1/min: 95th percentile",
    "hr_slope": "1/min/s: trend of the straight line",
    "hr_late": "1/min: mean of the last third less that of the first",
    "rmssd": "ms: root mean square of successive differences of NN intervals",
    "sdnn": "ms: standard deviation of NN intervals",
    "pnn20": "share of successive differences above 20 ms (Mietus et al. 2002, Heart 88:378)",
    "pnn50": "share of successive differences above 50 ms",
    "ln_rmssd": "ln ms: so that a person's change is a ratio",
    "sd_ratio": "SD1 / SD2 of the Poincare plot, 0 to about 1 (Brennan et al. 2001, IEEE Trans Biomed Eng 48:1342)",
    "ln_lf": "ln ms2: power of the NN intervals at 0.04-0.15 Hz",
    "ln_hf": "ln ms2: at 0.15-0.40 Hz, which breathing makes",
    "lf_share": "LF / (LF + HF)",
    "breath_hz": "Hz: where power between 0.1 and 0.5 Hz is densest, usually the breathing rate",
    "nn_share": "share of intervals that count as normal to normal",
    "r_mv": "mV: height of the median beat's QRS over its baseline",
    "qrs_mvs": "mV s: area under its QRS",
    "qrs_s": "s: area over height, the width of a rectangle as high",
    "t_ratio": "height of its T wave over that of its QRS, signed",
    "r_sd": "spread of the beats' heights over their median; breathing turns the heart's axis",
    "beat_sd": "RMS of what the beats do not share, over the RMS of what they do",
}
"""Name to unit and meaning; the first 17 from the heart rate, the others from the beats' shape."""
EDA_FEATURES = {
    "tonic_mean": "uS: mean tonic level",
    "tonic_sd": "uS: its standard deviation",
    "tonic_slope": "uS/s: trend of the straight line",
    "tonic_range": "uS: largest less smallest",
    "ln_tonic": "ln uS: of the mean, so that a person's change is a ratio",
    "tonic_trend": "1/s: trend over mean level",
    "tonic_late": "ln of the last third's mean over the first's",
    "tonic_place": "where between the window's least and largest tonic level its last 10 s lie, 0 to 1",
    "phasic_sd": "uS: standard deviation of the phasic part",
    "phasic_max": "uS: its maximum",
    "phasic_area": "uS: its mean distance from zero",
    "phasic_late": "ln of the standard deviation in the last third over that in the whole window",
    "ln_phasic": "ln uS: of the standard deviation",
    "scr_rate": "1/min: skin conductance responses",
    "scr_sum": "uS/min: their amplitudes together",
    "scr_mean": "uS: their mean amplitude",
    "scr_max": "uS: the largest amplitude",
    "scr_rise_s": "s: their mean rise time, trough to peak",
}
"""Name to unit and meaning; the first 8 from the tonic level, the others from the phasic part."""
OF = {"ecg": tuple(ECG_FEATURES), "eda": tuple(EDA_FEATURES)}
FEATURES = tuple(name for modality in MODALITIES for name in OF[modality])
"""The order of a feature vector."""

LARGEST = 1e6
"""Input is clipped to this, beyond any sensor's range in mV, uS or 1/min, so that no square overflows."""
NN_SHARE = 0.3
"""An interval this far off the median of the five around it is not normal to normal: an ectopic or a missed beat."""
HELD_S = 0.1
"""The rate is held for longer than this by any heart: one sample of each such stretch is enough for percentiles."""
FEWEST_NN = 5
"""Fewer intervals in a row have no variability."""
LF_HZ, HF_HZ, BREATH_HZ = (0.04, 0.15), (0.15, 0.4), (0.1, 0.5)
LEAST_MS = 1.0
"""Added before a logarithm of ms; its square before one of ms2."""
SPECTRUM_S = 60.0
"""A shorter window does not resolve 0.04 Hz: its spectral features are 0."""
BEAT_S = (0.2, 0.4)
"""Of a beat's shape, before and after the R peak."""
QRS_S = 0.06
"""The QRS lies within this of the R peak."""
BASE_S = (0.09, 0.06)
"""The isoelectric stretch before a QRS, from and to this long before the R peak."""
T_FROM_S, T_TO_RR = 0.14, 0.6
"""The T wave lies between this after the R peak and this share of the interval."""
FEWEST_BEATS = 3
SCR_MIN_US = 0.02
"""Smallest rise that counts as a skin conductance response; 0.01-0.05 uS is usual (Boucsein et al. 2012)."""
SCR_TURN_US = 0.005
"""A fall smaller than this, a few steps of a wrist sensor, does not end a rise."""
LEAST_US = 0.01
"""Added before a logarithm of uS: a fifth of the least level with contact, the noise of a phasic part."""
LAST_S = 10.0


def columns(modality: str) -> slice:
    """Where a modality's features lie in the vector."""
    start = FEATURES.index(OF[modality][0])
    return slice(start, start + len(OF[modality]))


def features(data: Mapping[str, npt.NDArray[np.floating[Any]]], spec: SignalSpec) -> Floats:
    """(len(FEATURES),) features of one window.

    Parameters
    ----------
    data : mapping of modality to (n_times, n_chans)
        As ``Window.data``: ecg mV and hr 1/min, tonic and phasic uS. The features of a modality that is left out are 0.
    spec : SignalSpec
        For the rates; a window may be of any length.
    """
    found = np.zeros(len(FEATURES))
    for modality, samples in data.items():
        bounded = np.clip(np.asarray(samples, dtype=np.float64), -LARGEST, LARGEST)
        found[columns(modality)] = MAKERS[modality](bounded, spec.of(modality).sfreq)
    return found


def ecg_features(data: Floats, sfreq: float) -> Floats:
    """(len(ECG_FEATURES),) from (n_times, 2) ecg mV, hr 1/min as ``HeartRate`` holds it from beat to beat."""
    ecg, hr = data[:, 0], np.maximum(data[:, 1], 0.0)
    peaks = _peaks(hr, sfreq)
    intervals = 60_000.0 / np.maximum(hr[peaks], 1.0)
    variability = _variability(peaks / sfreq, intervals, len(hr) / sfreq)
    return np.concatenate([_rate(hr, sfreq), variability, _shape(ecg, peaks, intervals, sfreq)])


def _peaks(hr: Floats, sfreq: float) -> npt.NDArray[np.int64]:
    """Samples of the R peaks that ``quality.beats`` finds, in a tenth of its time where every beat changes the rate."""
    steps = np.flatnonzero(np.diff(hr) != 0.0) + 1
    if len(steps) and hr[steps].min() > 0.0:
        due = 60.0 * sfreq / hr[steps]
        hides = np.diff(steps) - due[1:] + ROUNDING >= due[:-1]
        if not hides.any() and steps[0] <= due[0] and len(hr) - steps[-1] <= HIDDEN_BEAT * due[-1]:
            return steps
    peaks = beats(hr, sfreq)
    peaks = peaks[(peaks >= 0) & (peaks < len(hr))]
    return np.asarray(peaks[hr[peaks] > 0.0])


def eda_features(data: Floats, sfreq: float) -> Floats:
    """(len(EDA_FEATURES),) from (n_times, 2) tonic, phasic uS."""
    return np.concatenate([_tonic(data[:, 0], sfreq), _phasic(data[:, 1], sfreq)])


MAKERS = {"ecg": ecg_features, "eda": eda_features}


def _rate(hr: Floats, sfreq: float) -> Floats:
    """The first six of ECG_FEATURES."""
    ordered = np.sort(hr[:: max(1, round(sfreq * HELD_S))])
    low, high = ordered[[round(share * (len(ordered) - 1)) for share in (0.05, 0.95)]]
    first, last = _thirds(hr)
    return np.array([hr.mean(), hr.std(), low, high, _slope(hr, sfreq), last.mean() - first.mean()])


def _variability(times: Floats, intervals: Floats, seconds: float) -> Floats:
    """The next eleven, from the times of the beats in s and the interval that ends at each in ms."""
    normal = _is_normal(intervals)
    nn = intervals[normal]
    if len(nn) < FEWEST_NN:
        return np.zeros(11)
    steps = np.diff(intervals)[normal[1:] & normal[:-1]]
    steps = steps if len(steps) else np.zeros(1)
    rmssd, sdnn = float(np.sqrt(np.mean(steps**2))), float(nn.std())
    pnn = [float(np.mean(np.abs(steps) > ms)) for ms in (20.0, 50.0)]
    sd1, sd2 = rmssd / np.sqrt(2.0), np.sqrt(max(2.0 * sdnn**2 - rmssd**2 / 2.0, LEAST_MS**2))
    spectral = _spectral(times[normal], nn, seconds)
    return np.array([rmssd, sdnn, *pnn, np.log(rmssd + LEAST_MS), sd1 / sd2, *spectral, normal.mean()])


def _is_normal(intervals: Floats) -> npt.NDArray[np.bool_]:
    """(n,) whether each interval is near the median of the five around it."""
    if len(intervals) < FEWEST_NN:
        return np.ones(len(intervals), dtype=np.bool_)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(intervals, 2, mode="reflect"), 5)
    usual = np.median(around, axis=1)
    return np.asarray(np.abs(intervals - usual) <= NN_SHARE * usual)


def _spectral(times: Floats, nn: Floats, seconds: float) -> list[float]:
    """ln LF, ln HF, LF share and breathing frequency by Lomb's periodogram, which needs no resampling.

    Lomb (1976, Astrophys Space Sci 39:447); for NN intervals Laguna et al. (1998, IEEE Trans Biomed Eng 45:698).
    """
    if seconds < SPECTRUM_S:
        return [0.0] * 4
    frequencies = np.arange(np.ceil(LF_HZ[0] * seconds), np.floor(BREATH_HZ[1] * seconds) + 1) / seconds
    power = _lomb(times, _detrended(times, nn), frequencies)
    lf, hf = (float(power[_within(frequencies, band)].sum()) for band in (LF_HZ, HF_HZ))
    breath = _within(frequencies, BREATH_HZ)
    densest = float(frequencies[breath][power[breath].argmax()])
    return [float(np.log(lf + LEAST_MS**2)), float(np.log(hf + LEAST_MS**2)), lf / (lf + hf + LEAST_MS**2), densest]


def _detrended(times: Floats, x: Floats) -> Floats:
    """``x`` less its least-squares line."""
    t, centred = times - times.mean(), x - x.mean()
    return np.asarray(centred - t * (float(t @ centred) / max(float(t @ t), 1e-9)))


def _within(frequencies: Floats, band: tuple[float, float]) -> npt.NDArray[np.bool_]:
    return np.asarray((frequencies >= band[0]) & (frequencies < band[1]))


def _lomb(times: Floats, x: Floats, frequencies: Floats) -> Floats:
    """(n_frequencies,) power in units of x squared: a sine of amplitude A on one of them gives A squared over 2."""
    waves = np.exp(2.0j * np.pi * np.outer(frequencies, times))
    waves *= np.exp(-0.5j * np.angle((waves**2).sum(axis=1)))[:, None]
    power = np.zeros(len(frequencies))
    for wave in (waves.real, waves.imag):
        power += (wave @ x) ** 2 / np.maximum((wave**2).sum(axis=1), 1e-9)
    return power / len(x)


def _straightened(times: Floats, x: Floats) -> Floats:
    """``x`` less its mean and its trend over the times."""
    t, x = times - times.mean(), x - x.mean()
    return np.asarray(x - (t @ x) / max(float(t @ t), 1e-9) * t)


def _shape(ecg: Floats, peaks: npt.NDArray[np.int64], intervals: Floats, sfreq: float) -> Floats:
    """The last six of ECG_FEATURES, from the median beat and the beats around it."""
    before, after = (round(s * sfreq) for s in BEAT_S)
    inside = (peaks >= before) & (peaks < len(ecg) - after)
    if inside.sum() < FEWEST_BEATS:
        return np.zeros(6)
    segments = ecg[peaks[inside][:, None] + np.arange(-before, after + 1)]
    base_from, base_to = (before - round(s * sfreq) for s in BASE_S)
    segments = segments - segments[:, base_from : base_to + 1].mean(axis=1, keepdims=True)
    beat = np.median(segments, axis=0)
    reach = round(QRS_S * sfreq)
    qrs = slice(before - reach, before + reach + 1)
    top = before - reach + int(np.abs(beat[qrs]).argmax())
    height, area = abs(float(beat[top])), float(np.abs(beat[qrs]).sum()) / sfreq
    if height < 1e-6:
        return np.zeros(6)
    heights = segments[:, top] * np.sign(beat[top])
    rest = float(np.sqrt(np.mean((segments - beat) ** 2)))
    spread = float(heights.std()) / height
    wave = _t_wave(beat, before, float(np.median(intervals)) / 1000.0, sfreq) * np.sign(beat[top])
    return np.array([height, area, area / height, wave / height, spread, rest / float(np.sqrt(np.mean(beat**2)))])


def _t_wave(beat: Floats, center: int, rr_s: float, sfreq: float) -> float:
    """The median beat's largest deflection where a T wave lies, mV, signed."""
    start = center + round(T_FROM_S * sfreq)
    stop = min(len(beat), max(start + 1, center + round(T_TO_RR * rr_s * sfreq)))
    wave = beat[start:stop]
    return float(wave[np.abs(wave).argmax()])


def _tonic(tonic: Floats, sfreq: float) -> Floats:
    """The first eight of EDA_FEATURES."""
    mean, slope, (first, last) = tonic.mean(), _slope(tonic, sfreq), _thirds(tonic)
    least, largest = tonic.min(), tonic.max()
    now = tonic[-round(LAST_S * sfreq) :].mean()
    place = (now - least) / (largest - least) if largest - least > 1e-9 else 0.5
    late = _ln(last.mean()) - _ln(first.mean())
    trend = slope / max(mean, LEAST_US)
    return np.array([mean, tonic.std(), slope, largest - least, _ln(mean), trend, late, place])


def _phasic(phasic: Floats, sfreq: float) -> Floats:
    """The last ten of EDA_FEATURES."""
    sd, minutes = float(phasic.std()), len(phasic) / sfreq / 60.0
    late = _ln(float(_thirds(phasic)[1].std())) - _ln(sd)
    found = responses(phasic, sfreq)
    heights, rises = found[:, 0], found[:, 1]
    total = float(heights.sum())
    each = [total / len(found), float(heights.max()), float(rises.mean())] if len(found) else [0.0] * 3
    level = [sd, float(phasic.max()), float(np.abs(phasic).mean()), late, _ln(sd)]
    return np.array([*level, len(found) / minutes, total / minutes, *each])


def responses(phasic: Floats, sfreq: float) -> Floats:
    """(n, 2) skin conductance responses of (n_times,) uS: amplitude in uS and rise time in s, trough to peak.

    A rise ends where the signal falls by SCR_TURN_US or the window ends, and counts from SCR_MIN_US.
    """
    turns = np.flatnonzero(np.diff(np.sign(np.diff(phasic))) != 0) + 1
    at = [0, *turns.tolist(), len(phasic) - 1]
    values = phasic[at].tolist()
    found = []
    trough = peak = 0
    for k in range(1, len(at)):
        if values[k] > values[peak]:
            peak = k
        elif values[peak] - values[k] >= SCR_TURN_US or values[k] <= values[trough]:
            found.append((trough, peak))
            trough = peak = k
    found.append((trough, peak))
    rises = [(values[b] - values[a], (at[b] - at[a]) / sfreq) for a, b in found]
    return np.array([rise for rise in rises if rise[0] >= SCR_MIN_US]).reshape(-1, 2)


def _ln(us: float) -> float:
    return float(np.log(max(us, 0.0) + LEAST_US))


def _slope(x: Floats, sfreq: float) -> float:
    """Of the least-squares line, per s."""
    t = np.arange(len(x)) - 0.5 * (len(x) - 1)
    return float(t @ x) / max(float(t @ t), 1.0) * sfreq


def _thirds(x: Floats) -> tuple[Floats, Floats]:
    """The first third and the last."""
    n = max(1, len(x) // 3)
    return x[:n], x[-n:]
