"""``affectd-train``: bad input is one line and exit code 2; a small study goes from its files to a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from device.bundle import MASKS
from device.pipeline.spec import SignalSpec
from device.space import Space
from train import cli
from train.fit import load_checkpoint
from train.models.emobed import EmoBed
from train.report import folds

SUBJECTS = ("ann", "bob", "cid")
REST_S, QUIZ_S = 400.0, 80.0
RUN = """
dataset = "plain"
task = "rest/quiz"
systems = ["acc", "decision-fusion", "classical-lda"]
seeds = [0]
[labels]
labels = ["rest", "quiz"]
of = { rest = "rest", quiz = "quiz" }
rest = ["rest"]
[inner]
candidates = [[20, 20], [20, 40]]
epochs = 1
[fit]
epochs = 2
batch = 16
[model]
stem = 2
widths = [3, 3]
stages = [1]
hidden = 4
"""


def write_subject(folder: Path, seed: int, phases: tuple[tuple[str, float, float], ...]) -> None:
    """The plain layout: a heart that is faster under the quiz, a skin that answers it."""
    rng = np.random.default_rng(seed)
    whole_s = phases[-1][1] + phases[-1][2]
    t = np.arange(int(whole_s * 130)) / 130
    beats = np.cumsum(np.where(t < REST_S, 65 + 3 * seed, 90) / 60 / 130) % 1
    ecg = np.exp(-(((beats - 0.5) / 0.02) ** 2)) + 0.15 * np.exp(-(((beats - 0.8) / 0.05) ** 2))
    slow = np.arange(int(whole_s * 4)) / 4
    eda = 3 + 0.3 * np.sin(slow / 40) + 1.5 * (slow > REST_S) + rng.normal(0, 0.01, len(slow))
    folder.mkdir(parents=True)
    for name, values in (("ecg", ecg + rng.normal(0, 0.01, len(t))), ("eda", eda)):
        (folder / f"{name}.csv").write_text(f"{name}\n" + "".join(f"{v:.4f}\n" for v in values))
    rows = "".join(f"{onset}\t{duration}\t{text}\n" for text, onset, duration in phases)
    (folder / "annotations.tsv").write_text("onset\tduration\tdescription\n" + rows)
    signals = {"ecg": {"sfreq": 130, "units": "mV"}, "eda": {"sfreq": 4, "units": "uS"}}
    (folder / "info.json").write_text(json.dumps({"signals": signals}))


PHASES = (("rest", 0.0, REST_S), ("quiz", REST_S, QUIZ_S))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three subjects in ``data``, the evaluation in ``run.toml``."""
    folder = tmp_path_factory.mktemp("study")
    for seed, subject in enumerate(SUBJECTS):
        write_subject(folder / "data" / subject, seed, PHASES)
    (folder / "run.toml").write_text(RUN)
    return folder


class Tool:
    """affectd-train, called as a user does."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        with pytest.raises(SystemExit) as leave:
            cli.main([str(arg) for arg in args])
        out, err = self._capsys.readouterr()
        return int(leave.value.code or 0), out, err

    def on(self, study: Path, command: str, *more: object) -> tuple[int, str, str]:
        """A command on the study."""
        given = ("--config", study / "run.toml", "--data", study / "data", "--out", study / "out", "--workers", 1)
        return self(command, *given, *more)


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(capsys)


@pytest.mark.parametrize("name", [[], *([name] for name in cli.command.commands), ["data", "check"], ["data", "list"]])
def test_every_command_says_what_it_does(tool: Tool, name: list[str]) -> None:
    code, out, err = tool(*name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(['affectd-train', *name])} ") and len(out.splitlines()) > 4
    if not name:
        assert {"prepare", "loso", "report", "fit", "data"} <= {line.split()[0] for line in out.splitlines() if line}


def test_it_says_its_version(tool: Tool) -> None:
    code, out, _ = tool("--version")
    assert code == 0 and out.startswith("affectd-train")


STUDY = "--config {run} --data {data} "
BAD: dict[str, tuple[str, str]] = {
    "no command's name": ("fly", "No such command 'fly'; see `affectd-train --help`"),
    "no option's name": ("loso --fly", "No such option"),
    "no configuration": ("loso", "Missing option '--config'; see `affectd-train loso --help`"),
    "configuration that is not there": ("prepare --config {tmp}/none.toml", "none.toml: file: No such file"),
    "bad configuration": ("fit --config {tmp}/bad.toml", "bad.toml: fit.epochs: 0 is not within"),
    "unknown task": ("fit --config {tmp}/task.toml", "task 'nothing': is not known for plain"),
    "no data": ("loso --config {run}", "--data: option: is missing; give the top folder of plain"),
    "data that is not there": ("prepare --config {run} --data {tmp}/none", "none: folder: does not exist"),
    "a file as data": ("prepare --config {run} --data {tmp}/bad.toml", "bad.toml: folder: is a file"),
    "an empty folder": ("loso --config {run} --data {tmp}/empty", "empty: "),
    "nobody at rest": ("loso --config {run} --data {tmp}/restless", "nobody has a covered window of rest"),
    "one person": ("loso --config {run} --data {tmp}/one", "fewer than two people"),
    "seeds in words": (f"loso {STUDY} --seeds 1,two", "'1,two' is not whole numbers"),
    "no processor": (f"loso {STUDY} --on abacus", "'abacus' cannot be used"),
    "negative minutes": (f"loso {STUDY} --minutes -1", "Invalid value for '--minutes'"),
    "no workers": (f"prepare {STUDY} --workers 0", "Invalid value for '--workers'"),
    "unknown mode": (f"fit {STUDY} --mode warm", "Invalid value for '--mode'"),
    "unknown parallel": (f"loso {STUDY} --parallel windows", "Invalid value for '--parallel'"),
    "without a stranger": (f"fit {STUDY} --without ann,dan", "dan is not among ann, bob, cid"),
    "without anybody": (f"fit {STUDY} --without ann,bob,cid", "it leaves nobody to train on"),
    "out is a file": (f"prepare {STUDY} --out {{tmp}}/bad.toml", "bad.toml"),
    "report of nothing": ("report {tmp}/none", "none: "),
    "demo without data": ("demo-data", "--data: option: is missing; give the top folder of stress-predict"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    tool: Tool, tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.delenv("AFFECTD_REFERENCE_DATA", raising=False)
    (tmp_path / "bad.toml").write_text(RUN.replace("epochs = 2", "epochs = 0"))
    (tmp_path / "task.toml").write_text('dataset = "plain"\ntask = "nothing"\nsystems = ["acc"]\n')
    (tmp_path / "empty").mkdir()
    if case == "nobody at rest":
        write_subject(tmp_path / "restless" / "ann", 0, (("quiz", 0.0, 60.0),))
    if case == "one person":
        write_subject(tmp_path / "one" / "ann", 0, PHASES)
    args, message = BAD[case]
    given = args.format(tmp=tmp_path, run=study / "run.toml", data=study / "data").split()
    if "--data" in given and "--out" not in given:
        given += ["--out", str(study / "out" if STUDY.split()[-1] in args else tmp_path / "out")]
    code, out, err = tool(*given)
    last = err.splitlines()[-1]
    assert code == 2, err
    assert last.startswith("affectd-train: ") and message in last
    assert "Traceback" not in err and out == ""
    assert all(line.startswith("[") for line in err.splitlines()[:-1])  # progress


def test_an_interruption_is_said_in_one_line(tool: Tool, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.loso.loso", interrupted)
    code, _, err = tool.on(study, "loso")
    assert code == 130
    assert err.splitlines()[-1] == "affectd-train: interrupted; what is done is on disk, run again to go on"


def test_windows_are_prepared_once(tool: Tool, study: Path) -> None:
    tool.on(study, "prepare")
    code, out, err = tool.on(study, "prepare")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(SUBJECTS)
    assert all("windows: 25 rest, 4 quiz" in line for line in lines), lines
    assert all("usable ECG 100%, EDA 100%" in line for line in lines)
    assert len(list((study / "out" / "prepared").glob("*.npz"))) == 3


def test_an_evaluation_goes_on_where_its_time_was_over_and_is_reported(tool: Tool, study: Path) -> None:
    code, out, _ = tool.on(study, "loso", "--minutes", 0)
    assert code == cli.UNFINISHED and "some are left: run again" in out
    code, out, err = tool.on(study, "loso", "--seeds", "0, 3")
    assert code == 0 and "some are left" not in out
    assert "rest/quiz, calibrated, fold 6/6" in err
    found, problems = folds.read(study / "out")
    assert not problems
    assert len(found) == 2 * 3 * 2 * 3  # modes, systems, seeds, subjects
    assert {(f.subject, f.seed) for f in found} == {(s, seed) for s in SUBJECTS for seed in (0, 3)}
    about = found[0].provenance
    assert set(about["data"]) == set(SUBJECTS) and about["command"].startswith("affectd-train loso --config")
    assert not found[0].surrogate_ecg
    code, out, _ = tool.on(study, "loso", "--seeds", "0,3", "--minutes", 0)
    assert code == 0  # nothing is left
    code, out, err = tool("report", study / "out", "-o", study / "report.html", "--records", study / "loso.json")
    assert (code, err) == (0, "")
    records = json.loads((study / "loso.json").read_text())
    assert {r["system"] for r in records} >= {"acc", "decision-fusion", "classical-lda"}
    assert {r["mode"] for r in records} == {"cold_start", "calibrated"}
    assert "rest/quiz" in (study / "report.html").read_text()
    code, out, _ = tool("report", study / "out")
    assert code == 0 and "acc" in out


@pytest.mark.parametrize("mode", ["cold_start", "calibrated"])
def test_a_network_for_the_bundle_comes_with_its_windows_and_its_card(tool: Tool, study: Path, mode: str) -> None:
    code, out, err = tool.on(study, "fit", "--mode", mode, "--seed", 4, "--without", "bob")
    assert code == 0 and "acc.pt: trained" in out
    assert "choosing the window on 2 people, without bob" in err and "epoch 1: loss" in err
    model, content = load_checkpoint(study / "out" / "acc.pt")
    about = content["provenance"]
    assert (about["train_subjects"], about["test_subjects"], about["seeds"]) == (["ann", "cid"], ["bob"], [4])
    assert about["command"].endswith(f"--mode {mode} --seed 4 --without bob")
    assert content["labels"] == ["rest", "quiz"]
    spec = msgspec.json.decode(content["spec"], type=SignalSpec)
    assert spec.needs_baseline == (mode == "calibrated")
    with np.load(study / "out" / "windows.npz", allow_pickle=False) as windows:
        assert windows["ecg"].shape[1:] == (2, model.config.ecg_times) == (2, spec.n_times("ecg"))
        assert windows["eda"].shape[1:] == (2, model.config.eda_times) == (2, spec.n_times("eda"))
        assert set(windows["subject"]) == set(SUBJECTS)
        assert set(windows["label"]) == {0, 1}


def test_emobed_s_checkpoint_says_when_its_network_is_to_answer(tool: Tool, study: Path) -> None:
    code, out, err = tool.on(study, "fit", "--system", "emobed", "--without", "bob")
    assert code == 0 and "emobed.pt: trained" in out and "when it is sure enough" in err
    model, content = load_checkpoint(study / "out" / "emobed.pt")
    about = content["provenance"]
    assert type(model) is EmoBed and "--system emobed" in about["command"]
    space = msgspec.convert(about["space"], Space)
    assert set(about["temperature"]) == set(about["thresholds"]["min_probability"]) == set(MASKS)
    assert {len(row) for rows in space.prototypes.values() for row in rows} == {model.config.embedding}
    assert set(space.max_distance) == set(space.spread) == set(MASKS)
