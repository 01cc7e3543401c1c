"""Fine-tuning an encoder that comes from a file, with the labels of all training subjects or of some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_people import SMALL, made_config, made_encoder, made_people

from train.config import Config, Inner, TransformerTable, read_config
from train.encoder import load_encoder
from train.errors import CheckpointError, ConfigError
from train.evaluate import Fold, Material, fewer, folds, run_fold
from train.fit import FitConfig, fit
from train.loso import Options, loso
from train.metrics import balanced_accuracy
from train.models.acc import ENCODER
from train.models.ecg_transformer import EcgTransformer
from train.prepare import Prepared
from train.report.figures import records
from train.report.folds import read
from train.systems import system_and_share, with_labels
from train.windows import Windows, network_windows

SYSTEMS = ("transformer-pretrained", "transformer-scratch", "transformer-probe", "transformer-probe-random")
ONE = Options(workers=1)


@pytest.fixture(scope="module")
def people() -> list[Prepared]:
    return made_people(5)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_encoder(tmp_path_factory.mktemp("encoder") / "encoder.pt")


def asked(encoder: Path, **changes: Any) -> Config:
    given = {"systems": SYSTEMS, "modes": ("cold_start",), "inner": Inner(((60.0, 60.0),), epochs=1)}
    return made_config(**given | {"transformer": TransformerTable(str(encoder))} | changes)


def run(people: list[Prepared], config: Config, out: Path) -> dict[str, dict[str, Any]]:
    """``system/subject`` -> what its file says."""
    assert loso(people, config, out, options=ONE)
    paths = (out / "folds").rglob("*.json")
    return {f"{p.parent.name}/{p.stem.rpartition('-')[0]}": json.loads(p.read_text()) for p in paths}


@pytest.fixture(scope="module")
def whole(people: list[Prepared], encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(people, asked(encoder, label_shares=(1.0, 0.5)), out)
    return out


def windows_of(people: list[Prepared]) -> Windows:
    config = made_config(inner=Inner(((60.0, 60.0),)))
    return network_windows(people, config.the_task(), config.longest(), config.longest())


def test_every_system_is_judged_on_ecg_alone_once_for_each_share_of_the_labels(whole: Path) -> None:
    found, problems = read(whole)
    assert not problems and {tuple(fold.scores) for fold in found} == {("ecg",)}
    assert {fold.system for fold in found} == {with_labels(s, share) for s in SYSTEMS for share in (1.0, 0.5)}
    told = {(r["system"], r["label_share"], r["mask"]) for r in records(found) if r["system"] in SYSTEMS}
    assert told == {(s, share, "ecg") for s in SYSTEMS for share in (1.0, 0.5)}


def test_pre_trained_weights_and_fewer_labels_change_what_is_told(whole: Path) -> None:
    told = {}
    for path in (whole / "folds").rglob("P0-0.json"):
        told[path.parent.name] = json.dumps(json.loads(path.read_text())["masks"]["ecg"]["probability"])
    assert len(set(told.values())) == len(told) == 2 * len(SYSTEMS)


def test_what_a_random_encoder_gives_tells_what_the_heart_rate_does(whole: Path) -> None:
    for path in (whole / "folds").rglob("transformer-probe*/*.json"):
        mask = json.loads(path.read_text())["masks"]["ecg"]
        assert balanced_accuracy(torch.tensor(mask["label"]).numpy(), torch.tensor(mask["probability"]).numpy()) > 0.8


@pytest.mark.parametrize(("share", "n"), [(0.001, 1), (0.1, 1), (0.25, 4), (0.5, 7), (1.0, 14)])
def test_a_smaller_share_of_the_people_is_part_of_a_larger_one(share: float, n: int) -> None:
    fold = Fold("S2", tuple(f"S{i}" for i in range(3, 17)))
    parts = [set(fewer(fold, s, seed=3).train) for s in (share, min(1.0, 2 * share), 1.0)]
    assert len(parts[0]) == n and parts[0] <= parts[1] <= parts[2] == set(fold.train)
    assert {fewer(fold, 0.1, seed).train for seed in range(20)} != {fewer(fold, 0.1, 0).train}


@pytest.mark.parametrize(("system", "share"), [("acc", 1.0), ("transformer-probe", 0.25), ("acc", 0.125)])
def test_names_say_the_share(system: str, share: float) -> None:
    assert system_and_share(with_labels(system, share)) == (system, share)


def test_what_is_held_still_stays_as_pre_training_left_it_and_the_head_moves(
    people: list[Prepared], encoder: Path
) -> None:
    begun, _ = load_encoder(encoder, SMALL)
    state = {name: w for name, w in begun.state_dict().items() if not name.startswith("head.")}
    torch.manual_seed(0)
    as_it_began = dict(EcgTransformer(SMALL).named_parameters()) | state
    moved = {}
    for share in (0.0, 1.0):
        config = FitConfig(epochs=1, batch=16, pretrained_lr=share)
        model = fit(windows_of(people), ["P0", "P1"], config, SMALL, 0, pretrained=state).model
        moved[share] = {n for n, weight in model.named_parameters() if not torch.equal(weight, as_it_began[n])}
    assert moved[0.0] == {name for name, _ in begun.named_parameters() if name.startswith("head.")}
    assert {"stem.0.0.weight", "cls", "position", *moved[0.0]} <= moved[1.0]


def test_an_encoder_in_another_network_begins_as_pre_training_left_it(people: list[Prepared], encoder: Path) -> None:
    """Held still it stays; the rest of the network learns, and its student has none of it."""
    systems = ("emobed-transformer", "emobed-transformer-scratch", "emobed-distilled")
    config = asked(encoder, systems=systems, fit={"epochs": 2, "batch": 16, "pretrained_lr": 0.0})
    material = Material(people, config, "cold_start")
    fold = folds(material.subjects)[0]
    found = {name: fitted for name, _, fitted in run_fold(material, fold, material.choose(fold), 0, systems)}
    state = {name: fitted.model.state_dict() for name, fitted in found.items()}
    weights = [name for name, _ in EcgTransformer(SMALL).named_parameters() if not name.startswith("head.")]
    begun = load_encoder(encoder, SMALL)[0].state_dict()
    assert all(torch.equal(state["emobed-transformer"][ENCODER + name], begun[name]) for name in weights)
    assert not torch.equal(state["emobed-transformer-scratch"][ENCODER + "cls"], begun["cls"])
    assert not any(name.startswith(ENCODER) for name in state["emobed-distilled"])
    assert material.learned_before("emobed-transformer") == material.learned_before("emobed-distilled") == []


@pytest.mark.parametrize(("least", "epochs"), [(0, 2), (4, 2), (5, 3), (11, 6)])
def test_few_windows_are_gone_through_more_often(people: list[Prepared], least: int, epochs: int) -> None:
    config = FitConfig(epochs=2, batch=7, least_steps=least)
    fitted = fit(windows_of(people), ["P0"], config, SMALL, 0)  # 14 windows: 2 steps an epoch
    assert len(fitted.history) == epochs


def test_an_encoder_that_is_not_there_stops_before_any_fold(people: list[Prepared], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt.*affectd-train pretrain"):
        loso(people, asked(tmp_path / "none.pt"), tmp_path / "out", options=ONE)
    assert not (tmp_path / "out").exists()


def test_another_encoder_makes_the_transformers_anew_and_nothing_else(people: list[Prepared], tmp_path: Path) -> None:
    path = made_encoder(tmp_path / "encoder.pt")
    config = asked(path, systems=("eda-only", "transformer-pretrained"))
    before = run(people[:3], config, tmp_path / "out")
    made_encoder(path, seed=100)
    after = run(people[:3], config, tmp_path / "out")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"transformer-pretrained/P{i}" for i in range(3)}


def test_an_encoder_of_other_windows_is_refused(people: list[Prepared], encoder: Path, tmp_path: Path) -> None:
    shorter = asked(encoder, inner=Inner(((30.0, 60.0),)), systems=("transformer-pretrained",))
    with pytest.raises(CheckpointError, match="ecg_times"):
        loso(people[:3], shorter, tmp_path, options=ONE)


ASKED = """
dataset = "wesad"
task = "non-stress/stress"
systems = [{system}]
label_shares = [1.0, 0.25]
{inner}
"""
ONE_CANDIDATE = "inner.candidates = [[60.0, 60.0]]"


@pytest.mark.parametrize(("system", "inner"), [('"acc"', ""), ('"acc", "emobed"', ONE_CANDIDATE)])
def test_a_choice_that_would_see_the_labels_left_out_is_refused(system: str, inner: str, tmp_path: Path) -> None:
    path = tmp_path / "asked.toml"
    path.write_text(ASKED.format(system=system, inner=inner))
    with pytest.raises(ConfigError, match="label_shares"):
        read_config(path)
    path.write_text(ASKED.format(system='"acc"', inner=ONE_CANDIDATE))
    assert read_config(path).runs() == ["acc", "acc-labels-25"]
