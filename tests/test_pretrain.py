"""Pre-training: the same weights however often it was interrupted, one or two processes; its files and their errors."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from made_corpus import NONE, SPEC, TINY, config, corpus
from torch import Tensor

from train.cli import UNFINISHED, command
from train.corpus import Corpus
from train.encoder import body, load_encoder
from train.errors import CheckpointError, ConfigError
from train.models.ecg_transformer import TransformerConfig
from train.pretext import MaskedSignal, Question
from train.pretrain import (
    ENCODER,
    HISTORY,
    STATE,
    Randomisation,
    judge,
    pretrain,
    randomised,
    rate,
    read_config,
    scaled,
)
from train.pretrain_command import CARD, REPORT
from train.report.plots import OURS_COLOUR
from train.report.pretraining import filling, page


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus(tmp_path_factory.mktemp("corpus") / "c")


@pytest.fixture(scope="module")
def whole(made: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A run that nobody interrupted."""
    out = tmp_path_factory.mktemp("whole")
    return out, pretrain(made, config(), out).encoder.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_it_learns_what_hidden_beats_look_like(made: Corpus, tmp_path: Path) -> None:
    """Beats and heart rate alike."""
    wider = {"stem": 8, "width": 24, "heads": 2, "feed": 32}
    how = config(steps=60, batch=28, judge_every=20, lr=5e-3, randomisation=NONE, model=wider)
    found = pretrain(made, how, tmp_path)
    assert found.is_done
    assert [row["step"] for row in found.history] == [20.0, 40.0, 60.0]
    assert found.history[-1]["loss"] < 0.8 * found.history[0]["loss"]


@pytest.mark.parametrize("stops", [(4,), (8,), (4, 8)])
def test_interrupted_it_goes_on_to_the_same_weights(
    made: Corpus, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path, stops: tuple[int, ...]
) -> None:
    for stop in stops:
        part = pretrain(made, config(), tmp_path, stop_after=stop)
        assert not part.is_done and not (tmp_path / ENCODER).exists()
    found = pretrain(made, config(), tmp_path)
    assert equal(found.encoder.state_dict(), whole[1])
    assert (tmp_path / HISTORY).read_bytes() == (whole[0] / HISTORY).read_bytes()


def test_stopped_between_two_states_it_repeats_the_steps_since_the_last(
    made: Corpus, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    pretrain(made, config(), tmp_path, stop_after=7)
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 4
    assert equal(pretrain(made, config(), tmp_path).encoder.state_dict(), whole[1])


def test_done_it_is_not_done_again(made: Corpus, whole: tuple[Path, dict[str, Tensor]]) -> None:
    before = (whole[0] / STATE).stat().st_mtime_ns
    again = pretrain(made, config(), whole[0])
    assert again.is_done and equal(again.encoder.state_dict(), whole[1])
    assert (whole[0] / STATE).stat().st_mtime_ns == before


@pytest.mark.parametrize("changes", [{"seed": 1}, {"lr": 1e-3}, {"pretext": "transforms"}])
def test_a_state_of_another_run_is_refused(
    made: Corpus, whole: tuple[Path, dict[str, Tensor]], changes: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"another corpus or configuration.*delete it"):
        pretrain(made, config(**changes), whole[0])


def test_a_state_of_another_corpus_is_refused(whole: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another corpus"):
        pretrain(corpus(tmp_path / "other", people=5), config(), whole[0])


def test_a_damaged_state_is_named(made: Corpus, tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"state\.pt: file: cannot be read"):
        pretrain(made, config(), tmp_path)


def test_held_out_people_do_not_teach(made: Corpus, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    """Spoil their windows on disk: the weights are the same, what is said of them is not."""
    other = corpus(tmp_path / "c")
    _, held = other.split(config().held_out, config().seed)
    size = 2 * 2 * SPEC.n_times("ecg")
    for k in held.tolist():
        path = other.folder / other.index.shards[k // 16].name
        data = bytearray(path.read_bytes())
        data[k % 16 * size : (k % 16 + 1) * size] = np.ones(size // 2, np.float16).tobytes()
        path.write_bytes(data)
    found = pretrain(other, config(), tmp_path / "run")
    assert equal(found.encoder.state_dict(), whole[1])
    assert (tmp_path / "run" / HISTORY).read_bytes() != (whole[0] / HISTORY).read_bytes()


def test_two_processes_end_with_one_network_near_that_of_one(
    whole: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    """Near, not equal: each process draws its own randomness, and BatchNorm sees half a batch."""
    script = Path(__file__).with_name("made_corpus.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert equal(first, second)
    weights = [k for k in first if k.startswith("stem") and first[k].is_floating_point()]
    away = [(first[k] - whole[1][k]).abs().mean() / (whole[1][k].abs().mean() + 1e-2) for k in weights]
    assert max(away) < 0.5


def test_bfloat16_stays_near_float32(made: Corpus, whole: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    found = pretrain(made, config(precision="bfloat16"), tmp_path)
    exact = [msgspec.json.decode(line) for line in (whole[0] / HISTORY).read_text().splitlines()]
    for row, wanted in zip(found.history, exact, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=0.1)
    assert all(p.dtype == torch.float32 for p in found.encoder.parameters())


def test_judging_changes_nothing_and_says_the_same_twice(made: Corpus, tmp_path: Path) -> None:
    found = pretrain(made, config(), tmp_path)
    encoder, head = found.encoder, found.head
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    a, b = (judge(MaskedSignal(), encoder, head, made, np.arange(12), config()) for _ in range(2))
    assert a == b and equal(before, dict(encoder.state_dict()))


def test_windows_are_scaled_as_on_the_device(made: Corpus) -> None:
    """The heart rate by the spec's centre and scale; the ECG in its own spreads, so that a lead's size says nothing."""
    windows = made.windows([0, 9])
    found, rate_of = scaled(windows, SPEC), SPEC.ecg.channels[1]
    np.testing.assert_allclose(found[:, 1], (windows[:, 1] - rate_of.center) / rate_of.scale, rtol=1e-5)
    larger = windows * np.float32([[3.0], [1.0]])
    np.testing.assert_allclose(scaled(larger, SPEC), found, atol=1e-4)
    assert found.shape == windows.shape and found.dtype == np.float32


def test_without_randomisation_windows_stay_and_with_it_no_two_are_alike(made: Corpus) -> None:
    windows = made.windows([3, 3, 3])
    kept = windows.copy()
    np.testing.assert_allclose(randomised(windows, SPEC, NONE, np.random.default_rng(0)), windows, atol=1e-6)
    found = randomised(windows, SPEC, Randomisation(), np.random.default_rng(0))
    np.testing.assert_array_equal(windows, kept)
    assert len({row.tobytes() for row in found}) == 3
    gains = np.log(found[:, 0].std(axis=1) / windows[:, 0].std(axis=1))
    assert np.ptp(gains) > 0.1


def test_the_rate_rises_to_one_and_falls_to_nothing() -> None:
    rates = [rate(step / 1000, 0.05) for step in range(1001)]
    assert rates[0] == 0.0 and rates[50] == 1.0 and rates[1000] == pytest.approx(0.0)
    assert all(a < b for a, b in pairwise(rates[:51]))
    assert all(a > b for a, b in pairwise(rates[50:]))


def test_an_encoder_is_read_back_for_another_task(whole: tuple[Path, dict[str, Tensor]]) -> None:
    wanted = TransformerConfig(**TINY, n_outputs=3, ecg_times=1280, eda_times=240, dropout=0.1)
    encoder, provenance = load_encoder(whole[0] / ENCODER, wanted)
    assert encoder.config == wanted
    body = {k: v for k, v in encoder.state_dict().items() if not k.startswith("head.")}
    assert equal(body, {k: v for k, v in whole[1].items() if not k.startswith("head.")})
    (learned,) = provenance["datasets"]
    assert (learned["licence"], learned["surrogate_ecg"]) == ("CC0", False) and learned["subjects"] > 1
    assert provenance["windows"] == 48
    assert provenance["pretraining"]["steps"] == 12


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (TransformerConfig(**{**TINY, "width": 32}, ecg_times=1280), "width: is 16 there"),
        (TransformerConfig(**TINY, ecg_times=7680), "ecg_times: is 1280 there"),
    ],
)
def test_an_encoder_of_another_shape_is_refused(
    whole: tuple[Path, dict[str, Tensor]], wanted: TransformerConfig, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_encoder(whole[0] / ENCODER, wanted)


def test_a_file_that_is_no_encoder_is_named(whole: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"nothing")
    for path, words in ((tmp_path / "x.pt", "cannot be read"), (whole[0] / STATE, "cannot be read")):
        with pytest.raises(CheckpointError, match=words):
            load_encoder(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = 0", "steps: Expected"),
        ("wrong = 1", "unknown field"),
        ("pretext = 'guess'", "pretext: Invalid"),
        ("[model]\nwidths = 3", "model: .*widths"),
        ("[model]\nheads = 5", "model: .*heads"),
        ("steps = ", "TOML"),
    ],
)
def test_a_configuration_is_checked(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(path)
    assert replace(TransformerConfig(), width=48) == TransformerConfig()


def test_the_command_goes_on_where_it_stopped_and_says_what_came_of_it(made: Corpus, tmp_path: Path) -> None:
    few = "steps = 4\nbatch = 8\njudge_every = 2\nheld_out = 0.3\n[model]\nwidth = 16\nheads = 2\nlayers = 1\n"
    (tmp_path / "c.toml").write_text(few)
    args = ["pretrain", str(made.folder), "--config", str(tmp_path / "c.toml"), "--out", str(tmp_path / "out")]
    part = CliRunner().invoke(command, [*args, "--stop-after", "2"])
    assert part.exit_code == UNFINISHED and "stopped after 2 of 4 steps" in part.stdout
    done = CliRunner().invoke(command, args)
    assert done.exit_code == 0, done.output
    assert "held-out people's loss" in done.stdout and "step 4 of 4" in done.stderr
    _, provenance = load_encoder(tmp_path / "out" / ENCODER)
    assert provenance["command"].startswith("affectd-train pretrain") and provenance["commit"]
    card = (tmp_path / "out" / CARD).read_text()
    assert "| CC0 |" in card and "4 steps of 8 windows" in card and provenance["commit"] in card
    found = re.search(r"Transformer \(([\d,]+) weights\)", card)
    state = body(load_encoder(tmp_path / "out" / ENCODER)[0])
    assert found and int(found[1].replace(",", "")) == sum(weight.numel() for weight in state.values())
    again = (tmp_path / "out" / REPORT).read_text()
    assert CliRunner().invoke(command, args).exit_code == 0  # a finished run draws its page again
    assert (tmp_path / "out" / REPORT).read_text() == again


@pytest.mark.parametrize(("pretext", "word"), [("masked", "fills in"), ("transforms", "time warping")])
def test_the_page_shows_held_out_people_alone(made: Corpus, tmp_path: Path, pretext: str, word: str) -> None:
    how = config(pretext=pretext, held_out=0.4)
    found = pretrain(made, how, tmp_path)
    text = page(found, made, how, load_encoder(tmp_path / ENCODER)[1])
    train, held = made.split(how.held_out, how.seed)
    assert word in text and "CC0" in text and "<script" not in text
    lines = [f"{p.source} {p.subject}, {p.lead}" for p in (made.where(int(i)) for i in (*train, *held))]
    drawn = [any(line in text for line in lines[: len(train)]), any(line in text for line in lines[len(train) :])]
    assert drawn == [False, pretext == "masked"]
    assert text.count("<figure>") == 1 + (pretext == "masked") * len({made.where(int(i)).person for i in held})


def test_what_is_filled_in_is_drawn_where_it_was_hidden_and_nowhere_else() -> None:
    n = 7680
    hidden = np.zeros((1, n), np.float32)
    hidden[0, 3500:4000] = 1.0
    question = Question(torch.zeros(1, 2, 1, n), torch.zeros(1, 2, n), torch.from_numpy(hidden))
    drawn = filling(question, np.full((2, n), 0.2, np.float32), 128.0, "somebody")
    nothing = filling(replace(question, hidden=torch.zeros(1, n)), np.full((2, n), 0.2, np.float32), 128.0, "somebody")
    line = re.compile(rf'<path d="([^"]*)"[^>]*stroke: {OURS_COLOUR}')
    at = [float(x) for x in re.findall(r"[ML] ([\d.]+) ", line.findall(drawn)[0])]
    begin, whole = (7680 - 12 * 128) // 2, 12 * 128 - 1
    shares = [(k - begin) / whole for k in (3500, 3999)]
    frame = re.search(r'<clipPath[^>]*>\s*<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', drawn)
    assert frame is not None and line.findall(nothing)[0].split() == ["M", "0", "0"] and "somebody" in nothing
    x, width = float(frame[1]), float(frame[2])
    assert [(edge - x) / width for edge in (min(at), max(at))] == pytest.approx(shares, abs=2e-3)


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_recipes_are_configurations(name: str) -> None:
    recipe = Path(__file__).parent.parent / "train" / "runs" / "pretrain" / f"{name}.toml"
    assert read_config(recipe).pretext == "masked-rhythm"
