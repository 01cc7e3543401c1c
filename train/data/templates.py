"""Beat templates and noise for the surrogate ECG, averaged from the QT Database, and the small file that holds them.

Knows nothing of beat times or of how a surrogate is put together (surrogate.py).

Source: QT Database 1.0.0 (Laguna, Mark, Goldberger, Moody 1997, Computers in Cardiology 24:673; PhysioNet, Open Data
Commons Attribution License 1.0). ``templates.npz`` beside this file is made from it, by::

    python -m train.data.templates <folder of QTDB> train/data/templates.npz
"""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from train.data.errors import DataError, TemplateError
from train.data.types import Floats

FORMAT = "affectd-beat-templates/1"
SOURCE = (
    "QT Database 1.0.0, PhysioNet, Open Data Commons Attribution License 1.0; averaged and resampled, see templates.py"
)

QTDB_HZ = 250.0
TEMPLATE_HZ = 500.0
"""Twice the source: the warped template is then read by straight lines without an audible corner."""
BEFORE_S, AFTER_S = 0.36, 0.70
"""Room around R for the longest P and T at a resting rate."""
GRID_S = np.arange(-round(BEFORE_S * TEMPLATE_HZ), round(AFTER_S * TEMPLATE_HZ) + 1) / TEMPLATE_HZ
"""Time of each template sample from R, s."""
BAND_HZ = (0.3, 55.0)
"""Zero phase: keeps the ST segment flat below, and above leaves nothing that 130 Hz would fold back."""
MAX_LAG_S = 0.02
"""Annotated beats are moved by at most this much to line up with their average."""
MAX_R_SHIFT_S = 0.08
"""Annotated beats sit on the QRS, not always on R's top."""
EDGE_S = 0.04
"""A template fades to zero over this long outside P and T."""

MIN_NORMAL_SHARE = 0.95
MIN_BEATS = 300
MIN_SNR_DB = 14.0
"""Power of the average beat over power of what it leaves of each beat."""
R_RANGE_MV = (0.3, 3.0)
MAX_S_TO_R = 0.6
"""A strap's lead has an upright R that no other wave outweighs."""
MIN_T_MV, MIN_T_TO_R = 0.05, 0.06
"""Upright T: the people of the data sets are healthy volunteers."""
MAX_DIP_TO_T = 0.3
"""No sunken ST segment, no two-phase T."""
MAX_QRS_S = 0.13
QT_RANGE_S = (0.30, 0.48)

NOISE_HZ = 130.0
NOISE_S = 20.0
NOISE_ROWS = 24
NOISE_NEIGHBOURS = 15
"""Beats averaged around each one: enough to leave the noise in, few enough to follow the T wave's drift."""
MAX_NOISE_CREST = 6.0
"""Peak over rms of a noise row: above it the row is one burst and nothing else."""
NOISE_BAND_HZ = 0.7
"""Below it the strap's own high-pass leaves nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """Average beats and noise of real records."""

    waves: Floats
    """(n_templates, n_times) mV at TEMPLATE_HZ, zero outside P .. T."""
    r_index: int
    """Sample of R in every wave."""
    qrs_on: Floats
    """(n_templates,) s from R, < 0."""
    qrs_off: Floats
    """(n_templates,) s from R (the J point)."""
    t_end: Floats
    """(n_templates,) s from R."""
    rr: Floats
    """(n_templates,) median RR interval of the record, s."""
    names: tuple[str, ...]
    """Record and lead of each template, e.g. ``sel103/MLII``."""
    noise: Floats
    """(n_rows, n_times) at NOISE_HZ, unit power: what averages leave of real records, QRS parts damped."""
    noise_names: tuple[str, ...]


def default_templates() -> Templates:
    """The templates shipped with the package."""
    with resources.as_file(resources.files("train.data") / "templates.npz") as path:
        return read_templates(path)


def read_templates(path: Path) -> Templates:
    """Read a template file; raises TemplateError."""
    remedy = f"make it again: python -m train.data.templates QTDB {path}"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            meta = json.loads(str(held["meta"]))
            if meta.get("format") != FORMAT:
                raise TemplateError(str(path), "meta", f"format {meta.get('format')!r} is not {FORMAT!r}", remedy)
            noise = held["noise"].astype(float)
            marks = held["marks"].astype(float)
            waves = held["waves_uv"].astype(float) / 1000
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TemplateError(str(path), "file", f"cannot be read ({error})", remedy) from None
    noise /= np.sqrt((noise**2).mean(axis=1, keepdims=True))
    return Templates(
        waves=waves,
        r_index=round(BEFORE_S * TEMPLATE_HZ),
        qrs_on=marks[:, 0],
        qrs_off=marks[:, 1],
        t_end=marks[:, 2],
        rr=marks[:, 3],
        names=tuple(meta["templates"]),
        noise=noise,
        noise_names=tuple(meta["noise"]),
    )


def write_templates(path: Path, templates: Templates) -> None:
    """Write a template file: waves in uV as int16, noise as int8 at full scale per row."""
    meta = {
        "format": FORMAT,
        "source": SOURCE,
        "command": "python -m train.data.templates QTDB train/data/templates.npz",
        "units": "uV",
        "sfreq": TEMPLATE_HZ,
        "noise_sfreq": NOISE_HZ,
        "marks": "qrs_on, qrs_off, t_end (s from R), rr (s)",
        "templates": templates.names,
        "noise": templates.noise_names,
    }
    peak = np.abs(templates.noise).max(axis=1, keepdims=True)
    np.savez_compressed(
        path,
        meta=np.array(json.dumps(meta)),
        waves_uv=np.rint(templates.waves * 1000).astype(np.int16),
        marks=np.stack([templates.qrs_on, templates.qrs_off, templates.t_end, templates.rr], axis=1).astype(np.float32),
        noise=np.rint(templates.noise / peak * 127).astype(np.int8),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Lead:
    """One lead of one record, beat-averaged."""

    name: str
    wave: Floats
    marks: tuple[float, float, float, float]
    snr_db: float
    residual: Floats
    """(n,) mV at QTDB_HZ."""


def build_templates(qtdb: Path) -> Templates:
    """Average the normal beats of every lead of QTDB that passes the limits above, the better lead of each record."""
    records = sorted(path.stem for path in qtdb.glob("*.hea"))
    if not records:
        raise DataError(str(qtdb), "folder", "holds no WFDB header", "point to the unpacked QT Database 1.0.0")
    best: list[_Lead] = []
    for record in records:
        leads = [lead for lead in _leads(qtdb / record) if _fits(lead)]
        if leads:
            best.append(max(leads, key=lambda lead: lead.snr_db))
    if not best:
        raise DataError(str(qtdb), "folder", "holds no record that passes", "point to the unpacked QT Database 1.0.0")
    noisy = sorted(best, key=lambda lead: lead.snr_db)[:NOISE_ROWS]
    marks = np.array([lead.marks for lead in best])
    return Templates(
        waves=np.stack([lead.wave for lead in best]),
        r_index=round(BEFORE_S * TEMPLATE_HZ),
        qrs_on=marks[:, 0],
        qrs_off=marks[:, 1],
        t_end=marks[:, 2],
        rr=marks[:, 3],
        names=tuple(lead.name for lead in best),
        noise=np.stack([_noise_row(lead) for lead in noisy]),
        noise_names=tuple(lead.name for lead in noisy),
    )


def _leads(record: Path) -> list[_Lead]:
    """Both leads of one record; none where beats are not annotated or mostly not normal."""
    import wfdb

    if not record.with_suffix(".atr").is_file():
        return []
    beats = wfdb.rdann(str(record), "atr")
    symbols = np.array(beats.symbol)
    is_beat = np.isin(symbols, list("NLRBAaJSVrFejnE/fQ"))
    normal = beats.sample[symbols == "N"]
    if len(normal) < MIN_BEATS or len(normal) < MIN_NORMAL_SHARE * is_beat.sum():
        return []
    read = wfdb.rdrecord(str(record))
    found = []
    for lead, name in enumerate(read.sig_name):
        wave_marks = _wave_marks(wfdb.rdann(str(record), f"pu{lead}"), normal)
        if wave_marks is not None:
            ecg = np.nan_to_num(read.p_signal[:, lead], nan=float(np.nanmedian(read.p_signal[:, lead])))
            found.append(_averaged(f"{record.name}/{name}", ecg, normal, wave_marks))
    return found


def _wave_marks(marks: object, beats: npt.NDArray[np.int64]) -> Floats | None:
    """Medians of (P onset, QRS onset, QRS end, T end) in s from the annotated beat, by the automatic annotation."""
    symbol, sample = np.array(marks.symbol), np.asarray(marks.sample)  # type: ignore[attr-defined]
    rows = []
    for at in np.flatnonzero(symbol == "N"):
        before, after = symbol[max(0, at - 4) : at][::-1], symbol[at + 1 : at + 8]
        # Complete beats only: ( p ) ( N ) ( t ) with one or two t marks.
        if "".join(before) == "()p(" and "".join(after[:3]) == ")(t":
            end = at + 4 + (after[3:4] == ["t"]).any()
            if end < len(symbol) and symbol[end] == ")":
                beat = beats[np.abs(beats - sample[at]).argmin()]
                rows.append(sample[[at - 4, at - 1, at + 1, end]] - beat)
    return np.median(rows, axis=0) / QTDB_HZ if len(rows) >= MIN_BEATS // 3 else None


def _averaged(name: str, ecg: Floats, at: npt.NDArray[np.int64], marks: Floats) -> _Lead:
    """Average beat of a lead on the template grid, lined up on R between samples, and the residual."""
    sos = signal.butter(2, BAND_HZ, "bandpass", fs=QTDB_HZ, output="sos")
    ecg = signal.sosfiltfilt(sos, ecg)
    seconds = np.arange(len(ecg)) / QTDB_HZ
    times = at[(at > QTDB_HZ) & (at < len(ecg) - QTDB_HZ)] / QTDB_HZ
    for _ in range(3):
        beats = np.interp(times[:, None] + GRID_S, seconds, ecg)
        times = times + _lags(beats, np.median(beats, axis=0))
    wave = np.median(np.interp(times[:, None] + GRID_S, seconds, ecg), axis=0)
    near = np.abs(GRID_S) < MAX_R_SHIFT_S
    peak = GRID_S[near][np.argmax(wave[near])]
    p_on, on, off, t_end = marks - peak
    wave = _faded(np.interp(GRID_S + peak, GRID_S, wave), p_on, on, off, t_end)
    residual = _residual(ecg, times + peak)
    inside = (p_on <= GRID_S) & (t_end >= GRID_S)
    left = np.interp((times + peak)[:, None] + GRID_S[inside], seconds, residual)
    snr = 10 * np.log10((wave[inside] ** 2).mean() / max((left**2).mean(), 1e-12))
    return _Lead(name, wave, (on, off, t_end, float(np.median(np.diff(times)))), snr, residual)


def _lags(beats: Floats, wave: Floats) -> Floats:
    """Lag in s that lines each beat up with the average over the QRS, within MAX_LAG_S."""
    r = round(BEFORE_S * TEMPLATE_HZ)
    reach, half = round(MAX_LAG_S * TEMPLATE_HZ), round(0.06 * TEMPLATE_HZ)
    qrs = wave[r - half : r + half + 1] - wave[r - half : r + half + 1].mean()
    windows = np.lib.stride_tricks.sliding_window_view(
        beats[:, r - half - reach : r + half + reach + 1], len(qrs), axis=1
    )
    return (np.argmax(windows @ qrs, axis=1) - reach) / TEMPLATE_HZ


def _residual(ecg: Floats, times: Floats) -> Floats:
    """What the mean of the beats around each beat leaves of the lead above NOISE_BAND_HZ; QRS parts damped."""
    sos = signal.butter(2, NOISE_BAND_HZ, "highpass", fs=QTDB_HZ, output="sos")
    ecg = signal.sosfiltfilt(sos, ecg)
    seconds = np.arange(len(ecg)) / QTDB_HZ
    grid = np.arange(-round(BEFORE_S * QTDB_HZ), round(2 * QTDB_HZ)) / QTDB_HZ
    around = ndimage.uniform_filter1d(np.interp(times[:, None] + grid, seconds, ecg), NOISE_NEIGHBOURS, axis=0)
    left = np.zeros(len(ecg))
    for beat, (time, after) in enumerate(pairwise(times)):
        a, b = (int(np.ceil((edge - BEFORE_S) * QTDB_HZ)) for edge in (time, min(after, time + 2)))
        left[a:b] = ecg[a:b] - np.interp(seconds[a:b] - time, grid, around[beat])
    # Small misalignments of steep slopes are no noise: shrink what remains within 60 ms of R to a quarter.
    on_r = np.zeros(len(ecg))
    on_r[np.rint(times * QTDB_HZ).astype(int)] = 1.0
    return left * (1 - 0.75 * ndimage.gaussian_filter1d(ndimage.maximum_filter1d(on_r, 31), 4))


def _fits(lead: _Lead) -> bool:
    """Whether an average looks like a healthy person's beat on a chest strap."""
    on, off, t_end, _ = lead.marks
    r = float(lead.wave[round(BEFORE_S * TEMPLATE_HZ)])
    t_wave = lead.wave[(off + 0.04 < GRID_S) & (t_end > GRID_S)]
    if lead.snr_db < MIN_SNR_DB or not R_RANGE_MV[0] <= r <= R_RANGE_MV[1] or not len(t_wave):
        return False
    upright = -lead.wave.min() <= MAX_S_TO_R * r and lead.wave.max() <= r * 1.001
    has_t = t_wave.max() >= max(MIN_T_MV, MIN_T_TO_R * r) and -t_wave.min() <= MAX_DIP_TO_T * t_wave.max()
    return bool(upright and has_t and off - on <= MAX_QRS_S and QT_RANGE_S[0] <= t_end - on <= QT_RANGE_S[1])


def _faded(wave: Floats, p_on: float, on: float, off: float, t_end: float) -> Floats:
    """The wave on its level before the QRS, brought to zero outside P .. T."""
    wave = wave - np.median(wave[(on - 0.02 <= GRID_S) & (on >= GRID_S)])
    start, stop = max(p_on - EDGE_S, GRID_S[0] + EDGE_S), min(t_end + EDGE_S, GRID_S[-1] - EDGE_S)
    at_start, at_stop = np.interp([start, stop], GRID_S, wave)
    # The level before the QRS stays zero: only what lies outside it is tilted.
    tilt = np.interp(GRID_S, [start, on, off, stop], [at_start, 0.0, 0.0, at_stop])
    fade = np.clip(np.minimum(GRID_S - start, stop - GRID_S) / EDGE_S + 1, 0, 1)
    return (wave - tilt) * 0.5 * (1 - np.cos(np.pi * fade))


def _noise_row(lead: _Lead) -> Floats:
    """Of the residual's even stretches of NOISE_S the one of median power, at NOISE_HZ and unit power."""
    noise = signal.resample_poly(lead.residual, 13, 25)
    size = round(NOISE_S * NOISE_HZ)
    # The first and the last row hold time before the first and after the last beat.
    rows = noise[: len(noise) // size * size].reshape(-1, size)[1:-1]
    rms = np.sqrt((rows**2).mean(axis=1))
    even = rows[np.abs(rows).max(axis=1) <= max(MAX_NOISE_CREST, np.sort(np.abs(rows).max(axis=1) / rms)[0]) * rms]
    row = even[np.argsort((even**2).mean(axis=1))[len(even) // 2]]
    return row / np.sqrt((row**2).mean())


def main(argv: list[str]) -> int:
    """Command: QTDB folder and output file."""
    if len(argv) != 2:
        print("usage: python -m train.data.templates QTDB OUT.npz", file=sys.stderr)
        return 2
    try:
        built = build_templates(Path(argv[0]))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    write_templates(Path(argv[1]), built)
    print(f"{len(built.names)} templates, {len(built.noise_names)} noise rows -> {argv[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
