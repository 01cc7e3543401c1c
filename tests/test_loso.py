"""A whole evaluation: what is on disk is not made again, and sharing out the work changes no figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from made_people import N_BASELINE, N, made_config, made_people, only_calm, without
from two_processes import SYSTEMS, his_windows, network, shared_config

from train import evaluate
from train import loso as module
from train.config import Config, EmoBedTable, Inner
from train.errors import LeakError, PrepareError
from train.evaluate import Fold
from train.fit import load_checkpoint, predict
from train.loso import Options, Places, key_of, loso
from train.prepare import Prepared
from train.report import folds as report_folds
from train.report.figures import records
from train.world import ALONE, World

ONE = Options(workers=1)
PROVENANCE = {"commit": "abc", "command": "test", "versions": {}, "data": {"P0": "sha"}}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As each worker has: sums in another order would differ in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**changes: Any) -> Config:
    """Quick: one system, one mode, no choice, unless told otherwise."""
    return made_config(**{"modes": ("cold_start",), "inner": Inner(((60.0, 60.0),), epochs=1)} | changes)


def run(people: list[Prepared], out: Path, asked: Config, options: Options = ONE, **more: Any) -> list[str]:
    """The lines it said."""
    said: list[str] = []
    assert loso(people, asked, out, options=options, provenance=PROVENANCE, say=said.append, **more)
    return said


def files(out: Path) -> dict[str, Any]:
    """Name -> content of every file; of checkpoints the weights."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".pt":
            found[name] = {k: v.tolist() for k, v in load_checkpoint(path)[0].state_dict().items()}
        else:
            found[name] = path.read_text()
    return found


def ages(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def people() -> list[Prepared]:
    """P1 is never stressed, P2 wears no ECG in half of the windows; nobody's ECG is measured but P0's."""
    found = made_people(3)
    found[1] = only_calm(found[1])
    found[2] = without(found[2], "ecg", slice(1, N, 2))
    return [replace(p, surrogate=p.subject != "P0") for p in found]


BOTH = made_config(systems=("acc", "eda-only", "decision-fusion", "classical-lda"), seeds=(0, 5))
"""Both modes, two seeds, a choice of two."""


@pytest.fixture(scope="module")
def whole(people: list[Prepared], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    run(people, out, BOTH)
    return out


def test_what_chance_has_no_part_in_is_fitted_once_and_says_for_each_seed_what_a_fit_would(
    people: list[Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, fits = config(systems=("classical-lda", "classical-gb", "classical-rf"), seeds=(0, 5)), []
    fit = evaluate.classical_model
    monkeypatch.setattr(evaluate, "classical_model", lambda system, *args: fits.append(system) or fit(system, *args))
    run(people, tmp_path / "both", asked)
    assert fits.count("classical-rf") == 2 * fits.count("classical-lda") == 2 * fits.count("classical-gb") > 0
    run(people, tmp_path / "alone", msgspec.structs.replace(asked, seeds=(5,)))
    alone = files(tmp_path / "alone" / "folds")
    assert alone == {name: text for name, text in files(tmp_path / "both" / "folds").items() if name in alone}


def test_how_sure_to_be_is_judged_where_a_system_asks_for_it_and_then_for_all(
    people: list[Prepared], tmp_path: Path
) -> None:
    """EmoBed after its sibling has its temperatures; who comes after it takes its choice."""
    two, out = people[::2], tmp_path / "out"
    run(two, out, config(systems=("emobed-joint",)))
    choices = {p.name: p for p in (out / "choices").rglob("*.json")}
    assert set(choices) == {"P0.crossmodal.json", "P0.json", "P2.crossmodal.json", "P2.json"}
    assert json.loads(choices["P0.crossmodal.json"].read_text())["sure"] is None
    run(two, out, config(systems=("emobed",)))
    (record,) = (out / "folds").rglob("emobed/P0-0.json")
    assert set(json.loads(record.read_text())["confidence"]["temperature"]) == {"ecg+eda", "ecg", "eda"}
    for path in choices.values():
        path.unlink()
    run(two, out, config(systems=("emobed", "emobed-triplet")))
    assert {p.name for p in (out / "choices").rglob("*.crossmodal.json")} == set()


def test_two_people_whose_files_would_be_one_are_refused(tmp_path: Path) -> None:
    people = [replace(p, subject=name) for p, name in zip(made_people(3), ("a b", "c", "a-b"), strict=True)]
    with pytest.raises(PrepareError, match=r"a-b.*would share its files with subject 'a b'"):
        loso(people, config(), tmp_path, options=ONE)
    assert not any(tmp_path.iterdir())


class CutError(Exception):
    """In the middle of writing a file."""


def test_an_interrupted_run_goes_on_and_ends_with_the_files_of_one_that_was_not(
    people: list[Prepared], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, write = 0, module.write_json

    def failing(path: Path, tree: dict[str, Any]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".1.part").write_text('{"key": "ha')  # power cut: half of it, under the partial name
            raise CutError
        write(path, tree)

    monkeypatch.setattr(module, "write_json", failing)
    for survives in (2, 5, 9):  # inside the choices, then inside folds, in the one mode and the other
        left = survives
        before = ages(tmp_path)
        with pytest.raises(CutError):
            run(people, tmp_path, BOTH)
        after = ages(tmp_path)
        assert all(after[name] == age for name, age in before.items() if name.endswith(".json"))
    left = 999
    run(people, tmp_path, BOTH)
    for partial in tmp_path.rglob("*.part"):
        partial.unlink()
    assert files(tmp_path) == files(whole)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "P1-0.json"
    module.write_json(path, {"key": "old"})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(CutError))
    with pytest.raises(CutError):
        module.write_json(path, {"key": "new"})
    assert json.loads(path.read_text()) == {"key": "old"}


def test_what_is_done_is_not_done_again(people: list[Prepared], whole: Path) -> None:
    before = ages(whole)
    assert run(people, whole, BOTH) == []
    assert ages(whole) == before


def test_a_fold_that_is_broken_or_of_something_else_is_made_anew(people: list[Prepared], tmp_path: Path) -> None:
    spoilt = ("{", '{"key": "of other code"}', "{}", "[1]", "", None)
    asked = config(seeds=(0, 1, 2))
    run(people, tmp_path, asked)
    expected, before = files(tmp_path), ages(tmp_path)
    paths = [Places(tmp_path, asked).fold("cold_start", "acc", p.subject, seed) for p in people for seed in (1, 2)]
    for path, content in zip(paths, spoilt, strict=True):
        path.unlink() if content is None else path.write_text(content)
    assert "fold 6/6" in run(people, tmp_path, asked)[-1]
    assert files(tmp_path) == expected
    changed = {name for name, age in ages(tmp_path).items() if age != before[name]}
    assert changed == {str(path.relative_to(tmp_path)) for path in paths}


def test_a_system_asked_for_later_is_added_to_what_is_there(people: list[Prepared], whole: Path) -> None:
    before = ages(whole)
    run(people, whole, msgspec.structs.replace(BOTH, systems=("acc", "classical-lr"), seeds=(5,)))
    after = ages(whole)
    assert {n: a for n, a in after.items() if n in before} == before
    added = {Path(n).parts[-2] for n in after.keys() - before.keys()}
    assert added == {"classical-lr"}
    for path in whole.rglob("classical-lr/*"):
        path.unlink()


def test_emobed_s_training_is_chosen_once_in_each_fold_and_said(people: list[Prepared], tmp_path: Path) -> None:
    candidates = ({"triplet": 0.1}, {"triplet": 1.0, "distance": "euclidean"})
    asked = config(systems=("emobed", "emobed-joint", "acc"), emobed=EmoBedTable(3, candidates), seeds=(0, 1))
    run(people, tmp_path, asked)
    places = Places(tmp_path, asked)
    for person in ("P0", "P1", "P2"):
        chosen = json.loads(places.crossmodal("cold_start", person).read_text())
        assert person not in chosen["subjects"]
        assert len(chosen["scores"]) == len(candidates)  # of one window there is nothing to choose
        for system, triplet in (("emobed", True), ("emobed-joint", True), ("acc", False)):
            for seed in asked.seeds:
                said = json.loads(places.fold("cold_start", system, person, seed).read_text())["choice"]
                assert ("triplet" in said) == triplet
                assert not triplet or said["distance"] == chosen["crossmodal"]["distance"]
    kept = load_checkpoint(places.fold("cold_start", "emobed", "P0", 0, ".pt"))[0]
    assert vars(kept.config)["embedding"] == 3
    before = ages(tmp_path)
    assert not run(people, tmp_path, asked)
    assert ages(tmp_path) == before
    with pytest.raises(LeakError, match="P0"):
        path = places.crossmodal("cold_start", "P0")
        path.write_text(path.read_text().replace('"subjects": ["P1"', '"subjects": ["P0", "P1"'))
        places.fold("cold_start", "emobed", "P0", 1).unlink()
        run(people, tmp_path, asked)


def test_keys_follow_windows_mode_configuration_and_code(
    people: list[Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config()
    key = key_of(people, asked, "cold_start", "network")
    assert key == key_of(people, asked, "cold_start", "network")
    changed = np.array(people[0].eda)
    changed[3, 7, 1] += 1e-3
    same = (("systems", ("eda-only",)), ("seeds", (7,)), ("modes", ("calibrated",)))
    for name, value in same:  # of which a fold's figures do not depend
        assert key_of(people, msgspec.structs.replace(asked, **{name: value}), "cold_start", "network") == key
    keys = [
        key,
        key_of(people, asked, "calibrated", "network"),
        key_of(people[1:], asked, "cold_start", "network"),
        key_of([replace(people[0], eda=changed), *people[1:]], asked, "cold_start", "network"),
        key_of(
            [replace(people[0], descriptions=people[0].descriptions[::-1]), *people[1:]], asked, "cold_start", "network"
        ),
        key_of([replace(people[0], subject="Q0"), *people[1:]], asked, "cold_start", "network"),
        *(
            key_of(people, config(**{name: value}), "cold_start", "network")
            for name, value in (("fit", {"epochs": 3}), ("model", {}), ("inner", Inner()), ("labels", None))
        ),
        key_of(people, asked, "cold_start", "classical"),
    ]
    monkeypatch.setattr(module, "SHAPING", module.SHAPING[1:])
    keys.append(key_of(people, asked, "cold_start", "network"))
    assert len(set(keys)) == len(keys)
    every = (*module.SHAPING, *(name for names in module.SHAPING_ALSO.values() for name in names))
    assert all((module.HERE / name).is_file() for name in every)


def test_a_changed_feature_makes_classical_folds_anew_and_no_other(
    people: list[Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(systems=("acc", "classical-lda"))
    run(people, tmp_path, asked)
    before = ages(tmp_path)
    fewer = {"classical": module.SHAPING_ALSO["classical"][1:]}
    monkeypatch.setattr(module, "SHAPING_ALSO", {**module.SHAPING_ALSO, **fewer})
    run(people, tmp_path, asked)
    changed = {name for name, age in ages(tmp_path).items() if age != before[name]}
    assert len(changed) == 3 and all("classical-lda" in name for name in changed)


def test_after_its_minutes_no_fold_is_begun(people: list[Prepared], tmp_path: Path) -> None:
    said: list[str] = []
    late = Options(workers=1, minutes=0.0)
    assert not loso(people, config(), tmp_path, options=late, say=said.append)
    assert "left for later" in said[-1]
    assert not list(tmp_path.rglob("*.json"))
    assert not loso(people, config(), tmp_path, options=replace(late, workers=2))
    run(people, tmp_path, config())
    assert loso(people, config(), tmp_path, options=late)  # nothing is left that would have to be begun


def test_records_are_what_the_report_reads(people: list[Prepared], whole: Path) -> None:
    found, problems = report_folds.read(whole)
    assert not problems
    assert len(found) == 2 * 2 * 3 * len(BOTH.systems)
    assert {(f.mode, f.seed) for f in found} == {(m, s) for m in BOTH.modes for s in BOTH.seeds}
    assert {f.subject: f.surrogate_ecg for f in found} == {"P0": False, "P1": True, "P2": True}
    for fold in found:
        calibrated = fold.mode == "calibrated"
        n = N - 1 - N_BASELINE * calibrated - (6 if fold.subject == "P1" else 0)
        wanted = {"eda"} if fold.system == "eda-only" else {"both", "ecg", "eda"}
        assert set(fold.scores) == wanted
        assert {s.total for s in fold.scores.values()} == {n}
        assert fold.labels == ("calm", "stress") and fold.runtime == "float"
        assert fold.provenance["commit"] == "abc"
        assert fold.provenance["config"]["fit"]["epochs"] == 2
        assert (fold.choice["window_s"], fold.choice["eda_context_s"]) in BOTH.inner.candidates
        assert fold.scores["eda"].figures["n_windows"] == n
    flat = records(found)
    assert {r["system"] for r in flat} >= set(BOTH.systems)
    one = next(r for r in flat if (r["mode"], r["system"], r["mask"]) == ("calibrated", "acc", "eda"))
    assert np.isfinite(one["balanced_accuracy"])


def test_kept_networks_give_the_figures_of_their_folds(people: list[Prepared], whole: Path) -> None:
    """Of the first seed only, and of the cross-modal network only."""
    kept = sorted(whole.rglob("*.pt"))
    assert [p.parent.name for p in kept] == ["acc"] * 6 and {p.stem[-2:] for p in kept} == {"-0"}
    for path in kept:
        model, content = load_checkpoint(path)
        record = json.loads(path.with_suffix(".json").read_text())
        subject = record["subject"]
        assert content["provenance"]["test_subjects"] == [subject]
        assert subject not in content["provenance"]["train_subjects"]
        material = module.Material(people, BOTH, record["mode"])
        candidate = record["choice"]["window_s"], record["choice"]["eda_context_s"]
        windows = material.windows(candidate)
        assert content["spec"] == msgspec.json.encode(material.spec(candidate))
        index = np.flatnonzero((windows.subject == subject) & windows.is_scored)
        found = predict(model, windows, index, (0.0, 1.0))
        assert np.allclose(found, record["masks"]["eda"]["probability"], atol=2e-5)


def test_workers_change_no_figure(people: list[Prepared], whole: Path, tmp_path: Path) -> None:
    run(people, tmp_path, BOTH, Options(workers=2))
    assert files(tmp_path) == files(whole)


def test_curves_are_written_where_they_are_wanted(
    people: list[Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))  # else it loads tensorflow: 5 s
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(people, tmp_path, config(), replace(ONE, tensorboard=True))
    boards = sorted((tmp_path / "tensorboard").rglob("events*"))
    assert [p.parent.name for p in boards] == ["P0-0", "P1-0", "P2-0"]
    curve = EventAccumulator(str(boards[0]))
    curve.Reload()
    record = json.loads(Places(tmp_path, config()).fold("cold_start", "acc", "P0", 0).read_text())
    assert [e.value for e in curve.Scalars("loss")] == pytest.approx([row["loss"] for row in record["history"]])


def test_a_leak_stops_the_run_even_where_the_choice_was_made_before(
    people: list[Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(systems=("classical-lda",))
    run(people, tmp_path, asked)
    made = Places(tmp_path, asked).fold("cold_start", "classical-lda", "P0", 0)
    made.unlink()
    monkeypatch.setattr(module, "folds", lambda subjects: [Fold("P0", tuple(subjects))])
    with pytest.raises(LeakError, match="subjects P0 on both sides"):
        run(people, tmp_path, asked)
    monkeypatch.undo()
    path = Places(tmp_path, asked).choice("cold_start", "P0")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"subjects": ["P0", "P1"]}))
    with pytest.raises(LeakError, match="choice of the window, fold P0: subjects P0"):
        run(people, tmp_path, asked)
    assert not made.exists()


def test_shares_are_disjoint_and_cover_the_work() -> None:
    for size in (1, 2, 3, 7):
        parts = [World(rank, size).share(range(5)) for rank in range(size)]
        assert sorted(k for part in parts for k in part) == list(range(5))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert ALONE.as_first("mine") == "mine"


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote, started as a user starts them."""
    out = tmp_path_factory.mktemp("together")
    script = Path(__file__).with_name("two_processes.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *launch],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same evaluation in this process."""
    out = tmp_path_factory.mktemp("alone")
    assert loso(made_people(3), shared_config(), out, options=ONE)
    return out


def test_two_processes_share_the_folds_and_give_the_same_files(together: Path, alone: Path) -> None:
    """Each fold once: a second one would differ in nothing, but each process says what it made."""
    assert files(together / "folds") == files(alone)


def test_two_processes_share_every_batch_and_end_with_one_network(together: Path) -> None:
    first, second = (torch.load(together / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["head.1.weight"], network(ALONE, epochs=0).state_dict()["head.1.weight"])
    windows = his_windows()
    index = np.arange(len(windows))
    single, shared = network(ALONE), network(ALONE, epochs=0)
    shared.load_state_dict(first)
    expected, found = (predict(model, windows, index, (1.0, 1.0)) for model in (single, shared))
    assert np.abs(expected[:, 1] - 0.5).mean() > 0.3  # it knows something
    assert np.abs(expected - found).mean() < 0.1


def test_gradients_and_running_statistics_become_their_means(together: Path) -> None:
    for rank in (0, 1):
        assert json.loads((together / f"means{rank}.json").read_text()) == {"gradient": 1.5, "statistic": 15.0}


def test_two_processes_on_one_batch_write_each_fold_once(together: Path, alone: Path) -> None:
    assert not (together / "no-shared-disk").exists()  # the second one writes nothing
    found, single = (files(p) for p in (together / "data", alone))
    assert found.keys() == single.keys()
    classical = {k: v for k, v in single.items() if "classical" in k or "choices" in k}
    assert classical.items() <= found.items()
    folds, problems = report_folds.read(together / "data")
    assert not problems and len(folds) == 3 * len(SYSTEMS)


def test_two_processes_stop_together_by_the_first_ones_clock(together: Path) -> None:
    assert not list((together / "late").rglob("*.json"))
