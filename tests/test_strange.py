"""Signals no bundle should answer: they are made of what was recorded, have its size, and go the device's own way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests_support import reference_data
from tiny_bundle import tiny_bundle

from device.inference import Classifier
from quantize.cli import strange_main
from quantize.strange import ITSELF, KINDS, middle, outcomes, strange, table
from train.data.types import Recording, Signal

SECONDS = 200.0


def recording() -> Recording:
    """What a wrist gives, and an ECG."""
    rng = np.random.default_rng(0)

    def noise(sfreq: float, n: int = 1) -> np.ndarray:
        return rng.normal(0, 1, (int(SECONDS * sfreq), n)).cumsum(axis=0) / 50 + 2

    t = np.arange(int(SECONDS * 130)) / 130
    beats = np.exp(-((((t * 1.2) % 1 - 0.5) / 0.02) ** 2)) + rng.normal(0, 0.01, len(t))
    signals = {
        "ecg": Signal(beats[:, None], 130.0, "mV", ("ecg",)),
        "eda": Signal(np.abs(noise(4.0)) + 2, 4.0, "uS", ("eda",)),
        "bvp": Signal(noise(64.0), 64.0, "a.u.", ("bvp",)),
        "temp": Signal(30 + 0.01 * noise(4.0), 4.0, "degC", ("temp",)),
        "acc": Signal(noise(32.0, 3), 32.0, "g", ("x", "y", "z")),
    }
    return Recording("made", "S1", "1", signals)


def test_every_kind_is_made_where_its_signals_are_there() -> None:
    made = dict(strange(recording()))
    assert set(made) == set(KINDS)
    wrist = recording()
    del wrist.signals["ecg"], wrist.signals["acc"]  # type: ignore[attr-defined]
    assert set(KINDS) - set(dict(strange(wrist))) == {"ECG and EDA swapped", "movement as ECG", "movement as EDA"}
    for kind, each in made.items():
        for modality, signal in each.signals.items():
            assert modality in ("ecg", "eda") and np.isfinite(signal.data).all(), kind
            assert signal.duration == pytest.approx(SECONDS, abs=1)


def test_a_stranger_has_a_usual_size() -> None:
    """So that only its shape can tell it."""
    made = dict(strange(recording()))
    for kind in ("noise", "ECG and EDA swapped", "pulse wave as ECG", "breathing as ECG", "movement as ECG"):
        assert made[kind].signals["ecg"].data.std() == pytest.approx(0.3, rel=0.05)


def test_swapped_is_swapped() -> None:
    whole, made = recording(), dict(strange(recording()))["ECG and EDA swapped"]
    ecg = made.signals["ecg"].data[:, 0]
    at = (np.arange(len(whole.signals["eda"].data)) * 32.5).astype(int)
    assert np.corrcoef(ecg[at], whole.signals["eda"].data[:, 0])[0, 1] > 0.99


def test_the_middle_is_cut_from_every_signal_at_once() -> None:
    found = middle(recording(), 60.0)
    assert {name: signal.duration for name, signal in found.signals.items()} == dict.fromkeys(found.signals, 60.0)
    assert np.array_equal(found.signals["eda"].data, recording().signals["eda"].data[280:520])
    assert middle(recording(), 1e6).signals["ecg"].duration == SECONDS


def test_a_flat_line_is_never_answered_and_a_good_signal_is(tmp_path: Path) -> None:
    """A network that answers everything: what abstains is the device's quality."""
    classifier = Classifier(tiny_bundle(tmp_path / "x.affect"))
    good = outcomes(classifier, middle(recording(), SECONDS))
    assert good["answered"] > 0.8 * good.total() > 0
    rows = {row["kind"]: row for row in table(classifier, [recording()], SECONDS)}
    assert rows[ITSELF]["windows"] == good.total()
    assert rows["flat"]["abstained"] == 1.0 and rows["flat"]["windows"] > 0
    assert sum(rows["flat"]["reasons"].values()) == rows["flat"]["windows"]


def test_the_command_says_it_for_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    root, bundle = reference_data() / "stress_predict", "device/bundles/default.affect"
    strange_main_ok = [bundle, "--data", str(root), "--subjects", "S21", "--minutes", "3"]
    with pytest.raises(SystemExit) as done:
        strange_main(strange_main_ok)
    out = capsys.readouterr().out
    assert done.value.code == 0 and "pulse wave as ECG" in out and "windows abstain" in out
    with pytest.raises(SystemExit) as done:
        strange_main([*strange_main_ok[:3], "--subjects", "S99"])
    assert done.value.code == 2 and "S99 is not among" in capsys.readouterr().err
