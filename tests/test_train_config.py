"""Configurations: every example reads, and every wrong key or value is refused by its place before anything is run."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_people import made_config

from device.pipeline.spec import default_spec
from train.augment import NONE, Augmentation
from train.config import Config, Inner, read_config
from train.data import datasets
from train.errors import ConfigError, TaskError
from train.fit import FitConfig

RUNS = sorted((Path(__file__).parents[1] / "train" / "runs").glob("*.toml"))
LEAST = 'dataset = "wesad"\ntask = "3-class"\nsystems = ["acc"]\n'
OWN = """
dataset = "plain"
task = "calm/stress"
systems = ["acc"]
[labels]
labels = ["calm", "stress"]
of = { rest = "calm", quiz = "stress", walk = "stress" }
rest = ["rest"]
"""


def read(folder: Path, text: str) -> Config:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_example_reads_and_is_used_to_the_last_key(path: Path) -> None:
    config = read_config(path)
    assert config.dataset in datasets.names()
    assert config.the_task().dataset == config.dataset
    given = tomllib.loads(path.read_text())
    assert holds(json.loads(msgspec.json.encode(config)), given)


def holds(whole: Any, part: Any) -> bool:
    """Whether all that is given stands in the whole."""
    if isinstance(part, dict):
        return set(part) <= set(whole) and all(holds(whole[k], v) for k, v in part.items())
    return bool(whole == part)


def test_there_are_examples_of_both_data_sets() -> None:
    assert {read_config(path).dataset for path in RUNS} == {"wesad", "stress-predict"}


def test_what_is_not_given_is_the_default(tmp_path: Path) -> None:
    config = read(tmp_path, LEAST)
    assert config == Config("wesad", "3-class", ("acc",))
    assert config.fit_config() == FitConfig()
    assert config.inner == Inner()
    assert set(config.modes) == {"cold_start", "calibrated"} and len(config.seeds) >= 3


def test_what_is_given_is_used(tmp_path: Path) -> None:
    text = """seeds = [4]
modes = ["calibrated"]
[inner]
candidates = [[30, 30], [20, 60.5]]
epochs = 2
[fit]
epochs = 3
lr = 1
[fit.augmentation]
wander = 0
[model]
widths = [8, 9]
stages = []
attention = "channel"
"""
    config = read(tmp_path, LEAST + text)
    assert config.inner == Inner(((30.0, 30.0), (20.0, 60.5)), epochs=2)
    assert config.fit_config() == FitConfig(epochs=3, lr=1, augmentation=Augmentation(wander=0))
    assert config.model == {"widths": [8, 9], "stages": [], "attention": "channel"}
    assert made_config(fit={"augmentation": msgspec.to_builtins(NONE)}).fit_config().augmentation == NONE


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    task = read(tmp_path, OWN).the_task()
    assert (task.name, task.dataset, task.labels, task.rest) == ("calm/stress", "plain", ("calm", "stress"), ("rest",))
    assert task.of == {"rest": 0, "quiz": 1, "walk": 1}


@given(st.lists(st.tuples(st.integers(8, 60), st.integers(0, 400)), min_size=1, max_size=5), st.booleans())
def test_every_candidate_is_within_what_is_prepared(candidates: list[tuple[int, int]], calibrated: bool) -> None:
    longest = made_config(inner=Inner(tuple(candidates))).longest(calibrated=calibrated)
    assert longest.window_s == max(window for window, _ in candidates)
    assert longest.eda.context_s == max(context for _, context in candidates)
    assert longest.needs_baseline == calibrated
    assert longest.ecg == default_spec(calibrated=calibrated).ecg


BAD: dict[str, tuple[str, str]] = {
    "unknown key": ("epochs = 3", "top level: Object contains unknown field `epochs`"),
    "unknown system": ('systems = ["svm"]', r"systems\[0\]: Invalid enum value 'svm'"),
    "no system": ("systems = []", "systems: Expected `array` of length >= 1"),
    "unknown mode": ('modes = ["warm"]', r"modes\[0\]: Invalid enum value 'warm'"),
    "no mode": ("modes = []", "modes: Expected `array` of length >= 1"),
    "no seed": ("seeds = []", "seeds: Expected `array` of length >= 1"),
    "seed below 0": ("seeds = [0, -1]", r"seeds\[1\]: Expected `int` >= 0"),
    "half a seed": ("seeds = [0.5]", r"seeds\[0\]: Expected `int`, got `float`"),
    "task of no words": ("task = 3", "task: Expected `str`, got `int`"),
    "unknown inner key": ("[inner]\nfolds = 3", "inner: Object contains unknown field `folds`"),
    "candidate of three": (
        "[inner]\ncandidates = [[60, 60, 60]]",
        r"inner\.candidates\[0\]: Expected `array` of length 2",
    ),
    "no candidate": ("[inner]\ncandidates = []", "inner: needs candidates"),
    "share of all": ("[inner]\nshare = 1", "inner: needs .* a share between 0 and 1"),
    "share nan": ("[inner]\nshare = nan", "inner: needs .* a share between 0 and 1"),
    "no inner epoch": ("[inner]\nepochs = 0", "inner: needs .* an epoch"),
    "part of a sample": (
        "[inner]\ncandidates = [[60, 60.1]]",
        r"inner\.candidates: .*context_s: 60\.1 s is not a whole",
    ),
    "negative window": ("[inner]\ncandidates = [[-60, 60]]", r"inner\.candidates: .*window_s: -60\.0 s"),
    "endless window": ("[inner]\ncandidates = [[inf, 60]]", r"inner\.candidates: .*window_s: inf s"),
    "too short a window": ("[inner]\ncandidates = [[60, 60], [1, 60]]", r"inner\.candidates: window 1 s"),
    "unknown fit key": ("[fit]\nepoch = 3", r"fit\.epoch: is not known"),
    "epochs in words": ('[fit]\nepochs = "many"', r"fit\.epochs: Expected `int`, got `str`"),
    "part of an epoch": ("[fit]\nepochs = 1.5", r"fit\.epochs: Expected `int`, got `float`"),
    "no epoch": ("[fit]\nepochs = 0", r"fit\.epochs: 0 is not within 1 and inf"),
    "empty batch": ("[fit]\nbatch = 0", r"fit\.batch: 0 is not within"),
    "negative rate": ("[fit]\nlr = -1e-3", r"fit\.lr: -0\.001 is not within 0"),
    "endless rate": ("[fit]\nlr = inf", r"fit\.lr: inf is not within"),
    "rate nan": ("[fit]\nlr = nan", r"fit\.lr: nan is not within"),
    "augmentation no table": ("[fit]\naugmentation = true", r"fit\.augmentation: Expected `object`, got `bool`"),
    "unknown augmentation": ("[fit.augmentation]\nmixup = 1", r"fit\.augmentation\.mixup: is not known"),
    "more than all windows": (
        "[fit.augmentation]\ninversion = 1.5",
        r"fit\.augmentation\.inversion: 1\.5 is not within 0 and 1",
    ),
    "unknown model key": ("[model]\ndepth = 3", r"model\.depth: is not known"),
    "no channel": ("[model]\nwidths = [8, 8, 0]", r"model\.widths: \[8, 8, 0\] is not within 1"),
    "four stages": ("[model]\nwidths = [8, 8, 8, 8]", "model: widths .* one to 3 stages"),
    "stage that is not there": ("[model]\nstages = [3]", r"model: stages \(3,\)"),
    "unknown attention": ('[model]\nattention = "soft"', r"model\.attention: Invalid enum value 'soft'"),
    "outputs": ("[model]\nn_outputs = 4", r"model\.n_outputs: follows from the task; leave it out"),
    "lengths": ("[model]\necg_times = 99", r"model\.ecg_times: follows from the candidates; leave it out"),
    "labels of numbers": (
        '[labels]\nlabels = ["a", "b"]\nof = { x = 0 }\nrest = ["x"]',
        r"labels\.of.*: Expected `str`",
    ),
    "labels without rest": (
        '[labels]\nlabels = ["a", "b"]\nof = { x = "a" }',
        "labels: Object missing required field `rest`",
    ),
    "key twice": ("seeds = [1]\nseeds = [2]", "TOML: "),
    "no TOML": ("seeds = [1", "TOML: "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_refused_by_its_place(tmp_path: Path, case: str) -> None:
    addition, message = BAD[case]
    key = addition.split(" =")[0]
    kept = "".join(line for line in LEAST.splitlines(keepends=True) if not line.startswith(f"{key} ="))
    with pytest.raises(ConfigError, match=rf"run\.toml: {message}") as caught:
        read(tmp_path, kept + addition)
    assert caught.value.remedy and "\n" not in str(caught.value)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    for line in LEAST.splitlines():
        with pytest.raises(ConfigError, match=f"missing required field `{line.split(' =')[0]}`"):
            read(tmp_path, LEAST.replace(line + "\n", ""))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: file: No such file"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="file: Is a directory"):
        read_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="TOML: "):
        read_config(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"3-class"', '"4-class"', r"task '4-class': is not known for wesad; known are .*3-class"),
        ('"wesad"', '"plain"', r"task '3-class': is not known for plain"),
        ('quiz = "stress"', 'quiz = "strain"', "label 'strain' is not among calm, stress"),
        (', quiz = "stress", walk = "stress"', "", "every label needs a description"),
        ('rest = ["rest"]', "rest = []", "names no resting description"),
        ('labels = ["calm", "stress"]', 'labels = ["calm"]', "label 'stress' is not among calm"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text: Any = LEAST if old in LEAST else OWN
    with pytest.raises(TaskError, match=message):
        read(tmp_path, text.replace(old, new))
