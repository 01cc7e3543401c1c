"""Ratings: from stretches and raters to targets, from windows to what a network tells, and to a table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_amigos
import test_recola
from click.testing import CliRunner
from made_people import CALM_S, QUICK, TINY, N, made_config, made_people, made_person

from device.pipeline.spec import default_spec
from train.config import EmoBedTable, Inner, RatingsTable, read_config
from train.data.types import Annotation, Recording, Signal
from train.errors import ConfigError, TaskError
from train.evaluate import Fold, Material
from train.fit import MASKS, FitConfig, fit, predict
from train.loso import Options, Places, loso
from train.metrics import concordance
from train.models.acc import AccConfig
from train.models.emobed import EmoBedConfig
from train.objective import Crossmodal
from train.prepare import prepare_dataset, ratings_of
from train.report import ratings
from train.report.command import report
from train.systems import asked
from train.tasks import Task, task_of
from train.windows import Windows, roles

RATED = RatingsTable(("arousal",), (1.0, 9.0), ("rest",))
SUBJECTS = ("P0", "P1", "P2", "P3")
STARTS = np.arange(0.0, 200.0, 10.0)


def rated_config(**changes: Any) -> Any:
    return made_config(**{"labels": None, "ratings": RATED, "task": "arousal", "emobed": EmoBedTable(3)} | changes)


@pytest.fixture(scope="module")
def windows() -> Windows:
    return Material(made_people(5), rated_config(), "cold_start").windows((60.0, 120.0))


def recording(**signals: Signal) -> Recording:
    stretches = (
        Annotation(0.0, 100.0, "film", {"arousal": 2.0, "liking": 7.0}),
        Annotation(100.0, 90.0, "game", {"arousal": 8.0}),
        Annotation(30.0, 20.0, "marker"),
    )
    return Recording("x", "S1", "1", signals, stretches)


def test_a_stretch_s_rating_is_that_of_every_window_within_it() -> None:
    names, found = ratings_of(STARTS, STARTS + 60, recording())
    assert names.tolist() == ["arousal", "liking"]
    for start, row in zip(STARTS, found, strict=True):
        film, game = start + 60 <= 100, start >= 100 and start + 60 <= 190
        assert row.tolist() == pytest.approx(
            [2.0 if film else 8.0 if game else np.nan, 7.0 if film else np.nan], nan_ok=True
        )


def test_a_rating_over_time_is_the_mean_of_raters_and_window() -> None:
    rng = np.random.default_rng(0)
    data = rng.uniform(-1, 1, (150 * 25, 6))
    data[:, 5] = np.nan  # one rater said nothing
    data[40 * 25 : 75 * 25] = np.nan  # nobody said anything for 35 s
    raters = tuple(f"R{i}" for i in range(6))
    names, found = ratings_of(STARTS, STARTS + 60, recording(valence=Signal(data, 25.0, "1", raters, 10.0)))
    column = found[:, names.tolist().index("valence")]
    for start, value in zip(STARTS, column, strict=True):
        inside = data[max(0, int((start - 10) * 25)) : max(0, int((start + 50) * 25)), :5]
        known = np.isfinite(inside).all(axis=1)
        assert value == pytest.approx(inside[known].mean() if known.sum() >= 750 else np.nan, nan_ok=True)
    assert np.isfinite(column).any() and np.isnan(column).any()


def test_targets_are_the_scale_as_minus_one_to_one_and_the_unrated_have_no_label() -> None:
    person, task = made_person("P0"), rated_config().the_task()
    role = roles(person, task, rated_config().longest())
    assert role.label.tolist() == [0] * (N - 1) + [-1]
    assert role.target[:-1, 0] == pytest.approx((person.ratings[:-1, 0] - 1) / 4 - 1)
    assert role.is_baseline.sum() == 5 and role.after_baseline.sum() == N - 1 - 5
    other = replace(task, labels=("arousal", "valence"))
    assert (roles(person, other, rated_config().longest()).label == -1).all()


def test_without_a_rest_everything_is_scored_and_nobody_calibrated() -> None:
    task = replace(rated_config().the_task(), rest=())
    role = roles(made_person("P0"), task, rated_config().longest())
    assert not role.is_baseline.any() and role.after_baseline.sum() == N - 1


@pytest.mark.parametrize("emobed", [False, True])
def test_it_learns_to_rate_a_person_it_has_not_seen(windows: Windows, emobed: bool) -> None:
    shape = {**TINY, "n_outputs": 1, "ecg_times": 7680, "eda_times": 480}
    network = EmoBedConfig(**shape, embedding=4) if emobed else AccConfig(**shape)
    how = FitConfig(epochs=40, batch=16, lr=2e-2, running_mean=0.0, mixup=0.0)
    model = fit(windows, SUBJECTS, how, network, 0, crossmodal=Crossmodal()).model
    for name, mask in MASKS.items():
        index = asked(windows, "P4", mask)
        told = predict(model, windows, index, mask).astype(float)
        assert told.shape == (N - 1, 1)
        assert concordance(told, windows.target[index].astype(float))[0] > 0.4, name


def test_a_whole_evaluation_of_ratings_ends_in_a_table(tmp_path: Path) -> None:
    people = made_people(3)
    people[2] = replace(people[2], ratings=np.where(people[2].start[:, None] < CALM_S, people[2].ratings, np.nan))
    config = rated_config(
        systems=("acc", "emobed", "ecg-only", "eda-only", "decision-fusion"), modes=("cold_start", "calibrated")
    )
    assert loso(people, config, tmp_path, options=Options(workers=1), provenance={"commit": "abc", "command": "c"})
    assert not (tmp_path / "folds").exists()
    one = json.loads(Places(tmp_path, config).fold("calibrated", "emobed", "P0", 0).read_text())
    assert len(one["masks"]["both"]["told"]) == N - 1 - 5 and "confidence" not in one
    folds, problems = ratings.read(tmp_path)
    assert not problems and len(folds) == 2 * 5 * 3
    flat = ratings.records(folds)
    record = next(r for r in flat if (r["mode"], r["system"], r["mask"]) == ("cold_start", "acc", "both"))
    assert (record["subjects"], record["left_out"], record["commit"]) == (2, ["P2"], "abc")  # his rating never varies
    fold = next(f for f in folds if (f.mode, f.system, f.subject) == ("cold_start", "acc", "P1"))
    both = fold.masks["both"]
    wanted = concordance(np.array(both.told), np.array(both.target))[0]
    assert record["per_subject"]["P1"] == pytest.approx(wanted, abs=1e-4)
    assert {r["mask"] for r in flat if r["system"] == "ecg-only"} == {"ecg"}
    done = CliRunner().invoke(report, [str(tmp_path), "--records", str(tmp_path / "r.json")])
    assert done.exit_code == 0 and json.loads((tmp_path / "r.json").read_text()) == flat
    for source in (tmp_path, tmp_path / "r.json"):
        done = CliRunner().invoke(report, [str(source), "--markdown", str(tmp_path / "r.md")])
        text = (tmp_path / "r.md").read_text()
        assert done.exit_code == 0 and "| emobed | ECG + EDA |" in text and "arousal " in text


def test_a_bad_fold_is_named_and_costs_no_other(tmp_path: Path) -> None:
    good = {
        "dataset": "d", "task": "t", "mode": "cold_start", "system": "acc", "subject": "S1", "seed": 0,
        "labels": ["arousal"], "surrogate_ecg": False,
        "masks": {"both": {"start": [0, 5], "target": [[0], [1]], "told": [[0], [0.5]], "total": 2}},
    }  # fmt: skip
    bad: dict[str, Any] = {
        "a": {**good, "seed": "x"},
        "b": {**good, "masks": {"both": {"start": [0], "target": [[0], [1]], "told": [[0], [1]], "total": 2}}},
        "c": {**good, "masks": {"both": {"start": [0], "target": [[0, 1]], "told": [[0, 1]], "total": 2}}},
    }
    (tmp_path / "ratings").mkdir()
    for name, tree in {**bad, "good": good}.items():
        (tmp_path / "ratings" / f"{name}.json").write_text(json.dumps(tree))
    (tmp_path / "ratings" / "d.json").write_text("{")
    folds, problems = ratings.read(tmp_path)
    assert [fold.subject for fold in folds] == ["S1"]
    assert [Path(str(p).split(": ")[0]).name for p in problems] == ["a.json", "b.json", "c.json", "d.json"]


@pytest.mark.parametrize("name", ["amigos", "recola"])
def test_files_in_a_published_layout_become_rated_windows_and_a_network(name: str, tmp_path: Path) -> None:
    """Nobody here has these data: that the way is whole is all that is shown, on EDA alone."""
    rng, seconds, root = np.random.default_rng(0), 150, tmp_path / "data"
    for k, subject in enumerate(("P1", "P2", "P3")):
        slow = 5 + 0.2 * rng.standard_normal(seconds * 1000).cumsum() / 300
        if name == "recola":
            test_recola.write(root, subject, seconds, eda=slow)
        else:
            trials = [test_amigos.trial(seconds, 1e6 / (4 + k + 3 * j)) for j in range(2)]
            answers = [np.array([[2.5 + 4 * j, 3.0 + j, 5, 4, 2, 1, 0, 0, 0, 0, 0, 0]]) for j in range(2)]
            made = test_amigos.content(trials, labels_selfassessment=test_amigos.row(answers))
            test_amigos.write(root, subject, made)
    task = task_of("arousal/valence", name)
    inner = Inner(((60.0, 60.0),), epochs=1)
    config = made_config(
        dataset=name, task=task.name, labels=None, modes=("cold_start",), inner=inner, fit=QUICK, emobed=EmoBedTable(3)
    )
    people, skipped = prepare_dataset(root, config.longest(), tmp_path / "cache", dataset=name, workers=1)
    assert not skipped and {p.subject for p in people} == {"P1", "P2", "P3"}
    material = Material(people, config, "cold_start")
    windows = material.windows((60.0, 60.0))
    assert windows.target.shape == (len(windows), 2) and np.abs(windows.target).max() <= 1
    if name == "amigos":
        assert {tuple(row) for row in windows.target.round(3).tolist()} == {(-0.625, -0.5), (0.375, -0.25)}
    else:
        assert windows.target == pytest.approx(np.full(windows.target.shape, -0.05), abs=1e-6)  # the mean of six raters
    fold = Fold("P3", ("P1", "P2"))
    choice = material.choose(fold)
    fitted = material.network("emobed", fold, choice, 0)
    masks = material.network_masks(fitted, "emobed", fold, choice)
    assert np.array(masks["eda"]["told"]).shape == (len(masks["eda"]["start"]), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('systems = ["classical-rf"]', "systems: classical-rf tells classes"),
        ('systems = ["emobed-distilled"]', "systems: emobed-distilled tells classes"),
        ('systems = ["transformer-probe"]', "systems: transformer-probe tells classes"),
        ('[ratings]\nnames = ["arousal"]\nscale = [1, 9]', "modes: calibrated needs a resting stretch"),
        ('[ratings]\nnames = []\nscale = [1, 9]', "ratings.names"),
        ('[ratings]\nnames = ["a"]\nscale = [9, 1]', "a scale that rises"),
        (
            '[ratings]\nnames = ["a"]\nscale = [1, 9]\nrest = ["r"]\n'
            '[labels]\nlabels = ["a", "b"]\nrest = ["r"]\nof = {x = "a", y = "b"}',
            "stands beside labels",
        ),
    ],
)  # fmt: skip
def test_a_task_of_ratings_that_cannot_be_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    systems = "" if "systems" in text else 'systems = ["acc"]\n'
    path.write_text(f'dataset = "wesad"\ntask = "arousal/valence"\n{systems}{text}\n')
    with pytest.raises((ConfigError, TaskError), match=message):
        read_config(path)


def test_known_tasks_of_ratings() -> None:
    for name in ("wesad", "amigos", "dreamer", "recola"):
        task = task_of("arousal/valence", name)
        assert task.rates and task.labels == ("arousal", "valence")
    with pytest.raises(TaskError, match="scale that rises"):
        Task("x", "", ("a",), {}, (), (1.0, 1.0))
    assert default_spec().n_times("eda") == 240
