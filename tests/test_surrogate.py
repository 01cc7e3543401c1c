"""The surrogate ECG gives back the beats it was made from, its QT follows its law, the seed decides the rest."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rr import beat_series, pulse, recording

from device.pipeline.filters import EcgFilter
from device.pipeline.rpeaks import RPeakDetector
from device.pipeline.spec import default_spec
from device.pipeline.types import Chunk, Clock
from train.data import rr, stress_predict, surrogate
from train.data import templates as templates_module
from train.data.errors import BeatsError, DataError, TemplateError
from train.data.templates import TEMPLATE_HZ, build_templates, default_templates, read_templates, write_templates
from train.data.types import Floats

REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(
    REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no QTDB, no E4 folders"
)
TEMPLATES = default_templates()
SFREQ = surrogate.ECG_HZ


def r_peaks(ecg: Floats, sfreq: float) -> Floats:
    """R peaks in s, found by the device's own filter and detector."""
    clock = Clock(0, 0.0, 1 / sfreq)
    chunk = Chunk("ecg", 0, ecg[:, None], np.ones(len(ecg), bool), clock)
    detector = RPeakDetector(sfreq)
    found = detector.push(EcgFilter(default_spec().ecg, sfreq).push(chunk)) + detector.flush()
    return np.array([peak.position for peak in found]) / sfreq


def made(beats: Floats, duration: float, seed: int, snr_db: float | None = None) -> Floats:
    rng = np.random.default_rng(seed)
    return surrogate.surrogate_ecg(beats, duration, SFREQ, rng, TEMPLATES, snr_db=snr_db).data[:, 0]


def check_beats(beats: Floats, ecg: Floats) -> None:
    """>= 99 % of the beats found, none put in, median interval error <= 5 ms, at a constant delay."""
    found = r_peaks(ecg, SFREQ)
    inner = beats[(beats > 1) & (beats < len(ecg) / SFREQ - 1)]
    nearest = found[np.abs(found[None] - inner[:, None]).argmin(axis=1)]
    late = nearest - inner
    hit = np.abs(late - np.median(late)) < 0.05
    assert hit.mean() >= 0.99
    assert abs(np.median(late)) < 0.01
    assert np.median(np.abs(np.diff(nearest) - np.diff(inner))) <= 0.005
    extra = found[(found > 1.2) & (found < len(ecg) / SFREQ - 1.2)]
    assert len(extra) <= 1.01 * len(inner) + 1


@settings(max_examples=40)
@given(
    mean=st.floats(0.4, 1.2),
    breathing=st.floats(0.0, 0.1),
    jitter=st.floats(0.0, 0.03),
    seed=st.integers(0, 2**16),
)
def test_the_beats_come_back(mean: float, breathing: float, jitter: float, seed: int) -> None:
    beats = beat_series(mean, breathing, jitter, seed, 120)
    check_beats(beats, made(beats, 120, seed))


@pytest.mark.parametrize("kind", range(len(TEMPLATES.names)))
def test_the_beats_come_back_from_every_template_at_the_lowest_snr(kind: int) -> None:
    one = replace(
        TEMPLATES,
        waves=TEMPLATES.waves[[kind]],
        qrs_on=TEMPLATES.qrs_on[[kind]],
        qrs_off=TEMPLATES.qrs_off[[kind]],
        t_end=TEMPLATES.t_end[[kind]],
        rr=TEMPLATES.rr[[kind]],
        names=TEMPLATES.names[kind : kind + 1],
    )
    beats = beat_series(0.75, 0.05, 0.02, kind, 120)
    rng = np.random.default_rng(kind)
    ecg = surrogate.surrogate_ecg(beats, 120, SFREQ, rng, one, snr_db=surrogate.SNR_RANGE_DB[0])
    check_beats(beats, ecg.data[:, 0])


def test_it_is_called_surrogate_and_looks_like_a_strap() -> None:
    ecg = surrogate.surrogate_ecg(beat_series(0.8, 0.05, 0.01, 1), 180, SFREQ, np.random.default_rng(1), TEMPLATES)
    assert ecg.surrogate
    assert (ecg.units, ecg.ch_names, ecg.sfreq, ecg.data.shape) == ("mV", ("ecg",), 130.0, (23400, 1))
    assert np.allclose(ecg.data * 1000, np.rint(ecg.data * 1000), atol=1e-9)
    power = np.abs(np.fft.rfft(ecg.data[:, 0])) ** 2
    hz = np.fft.rfftfreq(len(ecg.data), 1 / SFREQ)
    assert power[(hz > 0.7) & (hz < 40)].sum() > 0.98 * power.sum()


@settings(max_examples=15)
@given(snr_db=st.floats(5, 30), seed=st.integers(0, 99))
def test_the_noise_has_the_stated_power(snr_db: float, seed: int) -> None:
    beats = beat_series(0.8, 0.05, 0.01, seed)
    clean, noisy = made(beats, 180, seed, np.inf), made(beats, 180, seed, snr_db)
    found = 10 * np.log10((clean**2).mean() / ((noisy - clean) ** 2).mean())
    # Whole uV are a noise of their own, 0.3 uV: it tells at the highest ratios.
    assert found == pytest.approx(snr_db, abs=0.2)


@pytest.mark.parametrize("interval", [0.5, 0.7, 1.0, 1.2])
def test_qt_follows_fridericia(interval: float) -> None:
    beats = 0.5 + interval * np.arange(200)
    for kind in range(len(TEMPLATES.names)):
        on, off, end = TEMPLATES.qrs_on[kind], TEMPLATES.qrs_off[kind], TEMPLATES.t_end[kind]
        stretch = surrogate.qt_stretch(beats, TEMPLATES, kind)[-1]
        qt = off - on + stretch * (end - off)
        assert qt / interval ** (1 / 3) == pytest.approx((end - on) / TEMPLATES.rr[kind] ** (1 / 3), rel=1e-3)


def test_breathing_is_read_from_the_intervals() -> None:
    beats = beat_series(0.8, 0.05, 0.0, 1)
    times, breath = surrogate.breathing(beats)
    spectrum = np.abs(np.fft.rfft(breath * np.hanning(len(breath))))
    assert np.fft.rfftfreq(len(breath), times[1] - times[0])[spectrum.argmax()] == pytest.approx(0.25, abs=0.01)
    assert np.abs(breath).max() <= 1.5
    still = surrogate.breathing(0.8 * np.arange(200))[1]
    assert np.abs(still).max() < 0.01


def test_the_seed_and_the_subject_are_all_it_depends_on() -> None:
    one = recording(pulse(beat_series(0.8, 0.05, 0.01, 1), 180))
    other = replace(one, subject="S99")
    first = surrogate.with_surrogate_ecg(one, TEMPLATES, 7).signals["ecg"].data
    surrogate.with_surrogate_ecg(other, TEMPLATES, 7)
    again = surrogate.with_surrogate_ecg(one, TEMPLATES, 7).signals["ecg"].data
    assert np.array_equal(first, again)
    assert not np.array_equal(first, surrogate.with_surrogate_ecg(other, TEMPLATES, 7).signals["ecg"].data)
    assert not np.array_equal(first, surrogate.with_surrogate_ecg(one, TEMPLATES, 8).signals["ecg"].data)


@pytest.mark.parametrize("beats", [np.array([1.0, 2.0]), np.array([1.0, 3.0, 2.0]), np.empty(0)])
def test_beats_that_cannot_be_placed_are_refused(beats: Floats) -> None:
    with pytest.raises(BeatsError, match="at least 3, ascending"):
        made(beats, 10, 0)


def test_the_template_file_survives_writing_and_names_its_source(tmp_path: Path) -> None:
    write_templates(tmp_path / "t.npz", TEMPLATES)
    again = read_templates(tmp_path / "t.npz")
    assert np.abs(again.waves - TEMPLATES.waves).max() <= 0.0005
    assert again.names == TEMPLATES.names
    with np.load(tmp_path / "t.npz") as held:
        meta = json.loads(str(held["meta"]))
    assert "Open Data Commons Attribution" in meta["source"]
    assert Path(templates_module.__file__).with_name("templates.npz").stat().st_size < 200_000


def test_templates_are_beats_with_their_marks_in_order() -> None:
    grid = (np.arange(TEMPLATES.waves.shape[1]) - TEMPLATES.r_index) / TEMPLATE_HZ
    assert (np.abs(TEMPLATES.waves.argmax(axis=1) - TEMPLATES.r_index) <= 1).all()
    assert (TEMPLATES.waves[:, [0, -1]] == 0).all()
    assert ((TEMPLATES.qrs_on < 0) & (TEMPLATES.qrs_off > 0) & (TEMPLATES.t_end > TEMPLATES.qrs_off + 0.1)).all()
    t_tops = grid[np.where(grid > 0.1, TEMPLATES.waves, -np.inf).argmax(axis=1)]
    assert ((t_tops > TEMPLATES.qrs_off) & (t_tops < TEMPLATES.t_end)).all()
    assert np.allclose((TEMPLATES.noise**2).mean(axis=1), 1)


def test_a_broken_template_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    whole = Path(templates_module.__file__).with_name("templates.npz")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:3000])
    newer = tmp_path / "newer.npz"
    with np.load(whole) as held:
        np.savez(newer, **{**held, "meta": np.array('{"format": "affectd-beat-templates/9"}')})
    lacking = tmp_path / "lacking.npz"
    np.savez(lacking, meta=np.array("{}"))
    for path in (cut, newer, lacking, tmp_path / "none.npz"):
        with pytest.raises(TemplateError, match=r"python -m train\.data\.templates") as caught:
            read_templates(path)
        assert caught.value.path == str(path)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert templates_module.main([str(tmp_path), str(tmp_path / "out.npz")]) == 2
    assert "holds no WFDB header" in capsys.readouterr().err
    assert templates_module.main([]) == 2
    with pytest.raises(DataError):
        build_templates(tmp_path)


@needs_reference
def test_the_shipped_templates_come_from_qtdb(tmp_path: Path) -> None:
    names = TEMPLATES.names[::12]
    for name in names:
        for path in (Path(str(REFERENCE)) / "qtdb").glob(f"{name.split('/')[0]}.*"):
            shutil.copy(path, tmp_path)
    built = build_templates(tmp_path)
    assert built.names == names
    assert np.abs(built.waves - TEMPLATES.waves[::12]).max() <= 0.0006


@needs_reference
@pytest.mark.parametrize("subject", ["S02", "S11", "S29"])
def test_a_real_persons_beats_come_back(subject: str) -> None:
    real = stress_predict.load(Path(str(REFERENCE)) / "stress_predict", subject)
    whole = surrogate.with_surrogate_ecg(real, TEMPLATES, 1)
    beats = rr.beats(real)
    check_beats(beats.times, whole.signals["ecg"].data[:, 0])
    assert sorted(whole.signals) == ["ecg", "eda"]
    assert whole.signals["ecg"].surrogate
    assert not whole.signals["eda"].surrogate
    assert "surrogate ECG" in whole.notes[-1]
    bridged = [a for a in whole.annotations if a.description == "bridged"]
    assert sum(a.duration for a in bridged) == pytest.approx(beats.bridged_share * (beats.times[-1] - beats.times[0]))
