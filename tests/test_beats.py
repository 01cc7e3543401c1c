"""Premature beats told by tokens: the labels, what a network of others makes of them, on whom it is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_people import SMALL
from tests_support import reference_data

from train import beats
from train.beats import (
    AS_RECORDED,
    NO_BEAT,
    OTHER,
    PREMATURE,
    Beats,
    BeatsConfig,
    Tokens,
    at_rate,
    fit_beats,
    judge_beats,
    leave_one_out,
    noise_of,
    peaks_of,
    summed_up,
    tokens_of,
    with_noise,
)
from train.beats_command import _capture
from train.cli import command
from train.corpus_leads import corpus_spec
from train.data.types import Signal
from train.encoder import save_encoder
from train.models.ecg_transformer import TOKEN_TIMES, EcgTransformer

SPEC = corpus_spec()
SFREQ = 250.0
SECONDS = 200.0
QUICK = BeatsConfig(steps=40, batch=8, lr=2e-2)


def made(subject: str, seed: int = 0, noise: float = 0.01) -> Beats:
    """A beat a second, give or take; every seventh or so comes early, is wide, and points down."""
    rng = np.random.default_rng(seed)
    at, early = [1.0], [False]
    while at[-1] < SECONDS - 2:
        early.append(bool(rng.random() < 1 / 7) and not early[-1])
        at.append(at[-1] + (0.6 if early[-1] else 1.3 if early[-2] else 0.95) + rng.normal(0, 0.02))
    t = np.arange(round(SECONDS * SFREQ)) / SFREQ
    ecg = rng.normal(0, noise, len(t))
    for when, is_early in zip(at, early, strict=True):
        height, width = (-1.2, 0.05) if is_early else (1.0, 0.015)
        ecg += height * np.exp(-0.5 * ((t - when) / width) ** 2)
    return Beats(subject, Signal(ecg[:, None], SFREQ, "mV", ("II",)), np.array(at), np.array(early))


@pytest.fixture(scope="module")
def people() -> list[Tokens]:
    return [tokens_of(made(f"P{k}", k), SPEC) for k in range(3)]


@pytest.fixture(scope="module")
def encoder() -> EcgTransformer:
    torch.manual_seed(5)
    return EcgTransformer(SMALL)


def test_every_beat_labels_the_token_in_which_the_window_shows_it() -> None:
    person = made("P", 1)
    found = tokens_of(person, SPEC)
    pieces = found.windows[:, 0].reshape(len(found.windows), -1, TOKEN_TIMES)
    swing = np.abs(pieces - np.median(pieces, axis=(1, 2), keepdims=True)).max(axis=2)
    assert np.median(swing[found.label == NO_BEAT]) < 0.25 < np.median(swing[found.label != NO_BEAT])
    down = pieces.min(axis=2) < -0.5
    assert down[found.label == PREMATURE].mean() > 0.95 and down[found.label == OTHER].mean() < 0.05
    whole = len(found.windows) * SPEC.window_s
    assert (found.label != NO_BEAT).sum() == pytest.approx(len(person.at) * whole / SECONDS, rel=0.1)


@pytest.mark.parametrize("sfreq", beats.SFREQS)
def test_another_rate_is_the_same_ecg(sfreq: float) -> None:
    person = made("P", 2)
    other = at_rate(person, sfreq)
    assert other.ecg.sfreq == pytest.approx(sfreq, rel=1e-6)
    assert other.ecg.duration == pytest.approx(person.ecg.duration, abs=0.02)
    first, second = (tokens_of(p, SPEC) for p in (person, other))
    assert np.array_equal(first.label, second.label)
    assert np.corrcoef(first.windows[:, 0].ravel(), second.windows[:, 0].ravel())[0, 1] > 0.99


def test_the_device_finds_the_beats_and_what_is_left_without_them_is_the_noise() -> None:
    person = made("P", 3, noise=0.0)
    calm = replace(person, ecg=made("P", 3, noise=0.0).ecg)
    regular = np.arange(1.0, SECONDS - 1)
    t = np.arange(len(calm.ecg.data)) / SFREQ
    clean = np.exp(-0.5 * ((t[:, None] - regular) / 0.015) ** 2).sum(axis=1)
    noise = np.random.default_rng(0).normal(0, 0.05, len(clean))
    ecg = replace(calm.ecg, data=(clean + noise)[:, None])
    found = peaks_of(ecg, SPEC)
    assert np.abs(found[:, None] - regular).min(axis=1).max() < 0.02 and len(found) >= len(regular) - 2
    left = noise_of(ecg, SPEC)
    assert np.std(left) == pytest.approx(0.05, rel=0.15)
    assert abs(np.corrcoef(left[:5000], clean[round(found[0] * SFREQ) :][:5000])[0, 1]) < 0.1


def test_noise_goes_round_and_leaves_the_beats_where_they_are() -> None:
    person, noise = made("P", 4), np.random.default_rng(1).normal(0, 0.1, 777)
    noisy = with_noise(person, noise, seed=3)
    added = (noisy.ecg.data - person.ecg.data)[:, 0]
    assert np.allclose(added[777:1554], added[:777]) and sorted(added[:777]) == pytest.approx(sorted(noise))
    assert not np.allclose(with_noise(person, noise, seed=4).ecg.data, noisy.ecg.data)


def test_a_network_of_others_tells_beats_that_are_easy_to_tell(people: list[Tokens], encoder: EcgTransformer) -> None:
    found = judge_beats(fit_beats(people[1:], "scratch", encoder, SPEC, QUICK, 0), people[0], SPEC)
    assert found["auroc"] > 0.95 and found["average_precision"] > 0.7
    assert all(p.can_judge for p in people)
    none = Tokens("P", people[0].windows, np.minimum(people[0].label, OTHER))
    assert not none.can_judge


@pytest.mark.parametrize("system", beats.SYSTEMS)
def test_what_begins_pre_trained_and_what_stays_still(
    system: str, people: list[Tokens], encoder: EcgTransformer
) -> None:
    before = {name: w.clone() for name, w in encoder.state_dict().items()}
    torch.manual_seed(9)
    fresh = EcgTransformer(SMALL).state_dict()
    teller = fit_beats(people[1:], system, encoder, SPEC, BeatsConfig(steps=2, batch=2), 9)
    found = teller.encoder.state_dict()
    begun = before if system in beats.PRETRAINED else fresh
    still = all(torch.equal(found[k], begun[k]) for k in begun)
    assert still == (system in beats.STILL)
    near = {k: float((found[k] - begun[k]).abs().max()) for k in ("cls", "position", "stem.0.0.weight")}
    assert max(near.values()) < 0.02  # two steps away, not another beginning
    assert all(torch.equal(encoder.state_dict()[name], w) for name, w in before.items())


def test_the_judged_person_teaches_nobody(
    people: list[Tokens], encoder: EcgTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[set[str]] = []
    fit = beats.fit_beats

    def watched(chosen: list[Tokens], *args: Any) -> object:
        taught.append({p.subject for p in chosen})
        return fit(chosen, *args)

    monkeypatch.setattr(beats, "fit_beats", watched)
    config = BeatsConfig(steps=1, batch=2)
    nothing = replace(people[0], windows=people[0].windows[:0], label=people[0].label[:0])
    changed = {"125 Hz": people[0], "in noise alone": nothing}
    rows = leave_one_out(people, changed, encoder, SPEC, config, "P0", (1, 2), 0)
    assert taught == [taught[0]] * 4 + [{"P1", "P2"}] * 4 and len(taught[0]) == 1
    asked = [(r["people"], r["input"]) for r in rows if r["system"] == "scratch"]
    assert asked == [(1, AS_RECORDED), (2, AS_RECORDED), (2, "125 Hz")]
    twice = [{**row, "auroc": row["auroc"] / 2, "seed": 1} for row in rows]
    (one,) = (r for r in summed_up([*rows, *twice]) if (r["system"], r["input"]) == ("probe", "125 Hz"))
    (row,) = (r for r in rows if (r["system"], r["input"]) == ("probe", "125 Hz"))
    assert (one["seeds"], one["subjects"]) == ([0, 1], 1)
    assert one["per_subject"]["P0"] == pytest.approx(0.75 * row["auroc"], abs=1e-4)


def test_a_strap_s_capture_is_read_as_its_sensor_sends_it() -> None:
    ecg = _capture(reference_data() / "polar_h10_pmd" / "notifications.bin")
    assert ecg.data.shape == (12_355 * 73, 1) and ecg.sfreq == 130.0
    assert 0.1 < np.ptp(ecg.data[1000:2300]) < 5.0


def test_an_encoder_that_may_have_seen_who_is_to_judge_is_refused(tmp_path: Path) -> None:
    root = reference_data() / "mitbih_tpcp"
    save_encoder(tmp_path / "encoder.pt", EcgTransformer(SMALL), {"pretraining": {"without": ["100", "102"]}})
    result = CliRunner().invoke(command, ["beats", str(tmp_path / "encoder.pt"), "--data", str(root)])
    assert result.exit_code == 1 and "lacks 104, 105" in str(result.exception)


@pytest.mark.slow
def test_the_command_on_real_ecg(tmp_path: Path) -> None:
    root = reference_data() / "mitbih_tpcp"
    without = [path.stem for path in root.glob("*.npz")]
    save_encoder(tmp_path / "encoder.pt", EcgTransformer(SMALL), {"pretraining": {"without": without}})
    asked = ["beats", str(tmp_path / "encoder.pt"), "--data", str(root), "--people", "1", "--seeds", "0"]
    result = CliRunner().invoke(command, [*asked, "-o", str(tmp_path / "beats.json")], catch_exceptions=False)
    records = json.loads((tmp_path / "beats.json").read_text())
    assert {r["system"] for r in records} == set(beats.SYSTEMS) and {r["subjects"] for r in records} == {7}
    assert "| 1 | as recorded |" in result.output
