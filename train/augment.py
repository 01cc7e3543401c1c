"""What differs between two wearings of the same sensors, put on training windows at random.

Knows no network and no labels. Works on scaled model input; where a size is in physical units the default scales of
``device.pipeline.spec`` turn it. Sizes are free choices, each with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Augmentation:
    """How much of what; 0 switches a part off."""

    rate_error: float = 0.01
    """Largest relative error of a sensor's clock: straps measured 128-131 Hz where 130 Hz is said."""
    inversion: float = 0.5
    """Share of windows whose ECG lead is turned round: straps are put on upside down."""
    wander: float = 0.2
    """Amplitude of a slow sine (0.1-0.5 Hz) on the ECG, in spreads of the window: breathing that passes the filter."""
    ecg_loss: float = 0.1
    """Share of windows whose ECG is flat for up to 5 s, its heart rate held: an electrode that slipped."""
    hr_shift: float = 0.15
    """Spread of a shift of the scaled heart rate: 2 beats a minute between two rests of one person."""
    tonic_shift: float = 0.3
    """Spread of a shift of the scaled tonic level: a fifth of the level, another electrode, another place."""
    phasic_gain: float = 0.2
    """Spread of the log of a gain on the scaled phasic EDA: electrodes and skin differ."""
    context_loss: float = 0.1
    """Share of windows whose EDA context is cut short, as after a gap: its oldest sample is held."""
    modality_dropout: float = 0.4
    """Share of windows that lose one whole sensor, ECG or EDA by turns."""


NONE = Augmentation(**dict.fromkeys(Augmentation.__dataclass_fields__, 0.0))
"""Leaves every window as it is."""


def augmented(
    ecg: Floats, eda: Floats, present: npt.NDArray[np.bool_], how: Augmentation, sfreqs: tuple[float, float], rng: Rng
) -> tuple[Floats, Floats, Floats]:
    """A batch as other wearings would have given it.

    Parameters
    ----------
    ecg, eda : (n, 2, n_times) scaled model input; left as they are, copies are changed.
    present : (n, 2) whether ecg, eda may be used.
    sfreqs : rates of ecg and eda in Hz.

    Returns
    -------
    ecg, eda : as given.
    mask : (n, 2) 1 where a modality is shown, never none of those present.
    """
    stretch = 1.0 + how.rate_error * rng.uniform(-1.0, 1.0, 2)
    ecg, eda = (_stretched(x, factor) for x, factor in zip((ecg, eda), stretch, strict=True))
    n = len(ecg)
    ecg[:, 0] += _wander(ecg.shape[2] / sfreqs[0], ecg.shape[2], n, how.wander, rng)
    _lose_contact(ecg, sfreqs[0], how.ecg_loss, rng)
    ecg[:, 0] *= np.where(rng.random((n, 1)) < how.inversion, -1.0, 1.0).astype(np.float32)
    ecg[:, 1] += _normal(n, how.hr_shift, rng)
    eda[:, 0] += _normal(n, how.tonic_shift, rng)
    eda[:, 1] *= np.exp(_normal(n, how.phasic_gain, rng))
    _lose_context(eda, how.context_loss, rng)
    return ecg, eda, _dropped(present, how.modality_dropout, rng)


def mixed(ecg: Floats, eda: Floats, mask: Floats, size: float, rng: Rng) -> tuple[Floats, Floats, Floats, Order, float]:
    """Every window blended with another of the batch (mixup, Zhang et al. 2018, arXiv 1710.09412).

    A blend shows what both windows show, or what the first shows where they have no sensor in common.

    Parameters
    ----------
    ecg, eda, mask : as :func:`augmented` gives them.
    size : both parameters of the Beta distribution that the blend's share is drawn from; 0 blends nothing.

    Returns
    -------
    ecg, eda, mask : as given.
    order : (n,) each window's partner.
    share : of the first window in every blend, 0 to 1; of its label likewise.
    """
    if not size:
        return ecg, eda, mask, np.arange(len(ecg)), 1.0
    share, order = float(rng.beta(size, size)), rng.permutation(len(ecg))
    ecg, eda = (np.float32(share) * x + np.float32(1 - share) * x[order] for x in (ecg, eda))
    common = mask * mask[order]
    return ecg, eda, np.where(common.any(axis=1, keepdims=True), common, mask), order, share


def _normal(n: int, spread: float, rng: Rng) -> Floats:
    return rng.normal(0.0, 1.0, (n, 1)).astype(np.float32) * np.float32(spread)


def _stretched(x: Floats, factor: float) -> Floats:
    """(n, n_chans, n_times) read ``factor`` times as fast, its end kept in place; some samples twice or not at all."""
    n_times = x.shape[2]
    at = np.rint(n_times - 1 - np.arange(n_times)[::-1] * factor)
    return np.take(x, np.clip(at, 0, n_times - 1).astype(np.int64), axis=2)


def _wander(seconds: float, n_times: int, n: int, size: float, rng: Rng) -> Floats:
    """(n, n_times) slow sines of random height, pitch and phase; straight between points 1/8 s apart."""
    knots = np.linspace(0.0, seconds, 2 + int(8 * seconds), dtype=np.float32)
    pitch, phase, height = (rng.random((n, 1), dtype=np.float32) for _ in range(3))
    wave = size * height * np.sin(2 * np.pi * ((0.1 + 0.4 * pitch) * knots + phase))
    at = np.linspace(0.0, len(knots) - 1.001, n_times, dtype=np.float32)
    low = at.astype(np.int64)
    weight = (at - low).astype(np.float32)
    step = np.diff(wave, axis=1)
    return np.asarray(np.take(wave, low, axis=1) + np.take(step, low, axis=1) * weight)


def _lose_contact(ecg: Floats, sfreq: float, share: float, rng: Rng) -> None:
    """Some windows: up to 5 s of flat ECG with the heart rate held at what it was before."""
    for i in np.flatnonzero(rng.random(len(ecg)) < share):
        length = int(rng.uniform(1.0, 5.0) * sfreq)
        start = int(rng.integers(1, max(2, ecg.shape[2] - length)))
        ecg[i, 0, start : start + length] = 0.0
        ecg[i, 1, start : start + length] = ecg[i, 1, start - 1]


def _lose_context(eda: Floats, share: float, rng: Rng) -> None:
    """Some windows: what lies before a random moment of the first four fifths is held at that moment's value."""
    for i in np.flatnonzero(rng.random(len(eda)) < share):
        begin = int(rng.integers(1, max(2, eda.shape[2] * 4 // 5)))
        eda[i, :, :begin] = eda[i, :, begin : begin + 1]


def _dropped(present: npt.NDArray[np.bool_], share: float, rng: Rng) -> Floats:
    """Mask (n, 2): what is present, less one modality in some rows that have both."""
    n = len(present)
    mask = present.astype(np.float32)
    column = rng.integers(0, 2, n)
    rows = np.flatnonzero((rng.random(n) < share) & present.all(axis=1))
    mask[rows, column[rows]] = 0.0
    return mask
