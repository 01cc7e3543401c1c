"""Runs a whole evaluation: folds shared out over processes and machines, every result on disk as soon as it is there.

Knows nothing of networks or of tables. Interrupt it at will; run again, it goes on where it was: a fold file is taken
as it is when everything it depends on (windows, code, configuration) is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from train.confidence import Confidence, when_to_answer
from train.config import Config
from train.data import datasets
from train.encoder import load_encoder
from train.errors import PrepareError
from train.evaluate import EMOBED, Fold, Material, answers_by, assert_no_leak, folds, run_fold
from train.fit import config_record, save_checkpoint
from train.metrics import concordance
from train.models.acc import AccConfig
from train.objective import Crossmodal
from train.prepare import Prepared
from train.report.ratings import FOLDER as RATINGS
from train.select import Choice
from train.systems import SEEDLESS, needs_encoder, sweeps, system_and_share
from train.world import ALONE, World, one_thread

HERE = Path(__file__).parent
KEEP_NETWORKS = ("acc", "emobed", "transformer-pretrained")
"""Systems whose int8 file is worth making of every fold."""
SHAPING = (
    "augment.py", "confidence.py", "evaluate.py", "fewshot.py", "fit.py", "metrics.py", "objective.py", "select.py",
    "systems.py", "tasks.py", "windows.py", "models/acc.py", "models/blocks.py", "models/emobed.py",
    "../device/pipeline/model_input.py", "../device/pipeline/spec.py", "../device/space.py",
)  # fmt: skip
"""Files that every fold's figures depend on, beside the prepared windows."""
SHAPING_ALSO = {
    "network": (), "classical": ("models/classical.py", "../device/pipeline/features.py"),
    "transformer": ("encoder.py", "models/classical.py", "models/ecg_transformer.py"),
}  # fmt: skip
"""Kind of system -> files that only its figures depend on."""


@dataclass(frozen=True)
class Places:
    """Where the files of one evaluation lie."""

    out: Path
    config: Config

    def fold(self, mode: str, system: str, subject: str, seed: int, suffix: str = ".json") -> Path:
        """Result of one system on one subject."""
        return self._of(mode) / system / f"{_plain(subject)}-{seed}{suffix}"

    def choice(self, mode: str, subject: str) -> Path:
        """What was chosen inside a fold."""
        return self.out / "choices" / self.config.dataset / _plain(self.config.task) / mode / f"{_plain(subject)}.json"

    def crossmodal(self, mode: str, subject: str, answers: bool = True) -> Path:
        """What was chosen inside a fold of EmoBed's training, and when it answers."""
        return self.choice(mode, subject).with_suffix(".emobed.json" if answers else ".crossmodal.json")

    def board(self, mode: str, system: str, subject: str, seed: int) -> Path:
        """Tensorboard's folder of one fit."""
        parts = (self.config.dataset, _plain(self.config.task), mode, system, f"{_plain(subject)}-{seed}")
        return self.out.joinpath("tensorboard", *parts)

    def _of(self, mode: str) -> Path:
        kind = RATINGS if self.config.the_task().rates else "folds"
        return self.out / kind / self.config.dataset / _plain(self.config.task) / mode


def _plain(name: str) -> str:
    return name.replace("/", "-").replace(" ", "-")


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a figure."""

    workers: int = 2
    """Processes on this machine."""
    on: str = "cpu"
    """torch's name of the processor that fits networks."""
    parallel: str = "folds"
    """In a world of several: ``folds`` shares out subjects, ``data`` the windows of every batch."""
    minutes: float = float("inf")
    """After this no new fold is begun."""
    tensorboard: bool = False
    keep_networks: tuple[str, ...] = KEEP_NETWORKS
    """Systems whose network of the first seed is kept beside its result."""


@dataclass(frozen=True, eq=False)
class _Work:
    """What the workers share by forking."""

    material: Material
    places: Places
    keys: Mapping[str, str]
    """Kind of system -> hash of all its figures depend on."""
    provenance: Mapping[str, Any]
    options: Options
    world: World
    deadline: float

    def key(self, system: str) -> str:
        """Hash of everything that a system's figures depend on beside its subject and seed."""
        return self.keys[_kind(system)]


_work: _Work | None = None


def loso(
    people: Sequence[Prepared],
    config: Config,
    out: Path,
    *,
    options: Options | None = None,
    world: World = ALONE,
    provenance: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> bool:
    """Every fold of every mode that is not yet there; whether all of this process's are now."""
    global _work
    if len({person.subject for person in people}) < 2:
        raise PrepareError("of everyone", "fewer than two people have usable windows at rest", "data check says why")
    _assert_own_files({person.subject for person in people})
    options = options or Options()
    deadline = time.monotonic() + 60 * options.minutes
    complete = True
    for mode in config.modes:
        keys = {
            kind: key_of(people, config, mode, kind) for kind in sorted({_kind(s) for s in ("acc", *config.runs())})
        }
        _work = _Work(
            Material(people, config, mode), Places(out, config), keys, provenance or {}, options, world, deadline
        )
        complete &= _run_mode(_work, mode, say)
        _work = None
    world.wait()
    return complete


def _assert_own_files(subjects: Iterable[str]) -> None:
    """Raise PrepareError where two people's results would go into one file."""
    taken: dict[str, str] = {}
    for subject in sorted(subjects):
        other = taken.setdefault(_plain(subject), subject)
        if other != subject:
            raise PrepareError(subject, f"would share its files with subject {other!r}", "rename one of them")


def _run_mode(work: _Work, mode: str, say: Callable[[str], None]) -> bool:
    config, places = work.material.config, work.places
    mine = folds(work.material.subjects)
    if work.options.parallel == "folds":
        mine = work.world.share(mine)
    todo = [
        (fold, seed, missing)
        for seed in config.seeds
        for fold in mine
        if (missing := [s for s in config.runs() if not _is_made(places.fold(mode, s, fold.test, seed), work.key(s))])
    ]
    todo = _fit_world(work).as_first(todo)
    if not todo:
        return True
    say(f"{config.task}, {mode}: windows of {len(work.material.subjects)} people")
    _make_material(work, any(s.startswith("classical") for _, _, systems in todo for s in systems))
    wanted = {fold.test for fold, *_ in todo}
    chosen = [fold for fold in mine if fold.test in wanted]
    for done, line in enumerate(_mapped(work, _choose_one, [(fold,) for fold in chosen]), 1):
        say(f"{config.task}, {mode}, inner choice {done}/{len(chosen)}: {line}")
    begin, left = time.monotonic(), 0
    for done, line in enumerate(_mapped(work, _run_one, todo), 1):
        left += not line
        rest = (time.monotonic() - begin) / done * (len(todo) - done)
        about = f"{config.task}, {mode}, fold {done}/{len(todo)} (about {rest / 60:.0f} min more)"
        say(f"{about}: {line or 'left for later'}")
    return left == 0


def _make_material(work: _Work, with_features: bool) -> None:
    """Windows and features before forking, so that all workers share them."""
    for candidate in work.material.config.inner.candidates:
        work.material.windows(candidate)
        if with_features:
            work.material.features(candidate)


def _mapped(work: _Work, job: Callable[..., str], jobs: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """Results in order; in this process where one is enough or the processes must keep step."""
    if work.options.workers == 1 or work.options.parallel == "data" or work.options.on != "cpu":
        yield from (job(*args) for args in jobs)
        return
    with ProcessPoolExecutor(work.options.workers, mp_context=get_context("fork"), initializer=one_thread) as pool:
        yield from pool.map(job, *zip(*jobs, strict=True))


def _choose_one(fold: Fold) -> str:
    assert _work is not None
    if _is_over(_work):
        return f"{fold.test}: left for later"
    choice = _choice(_work, fold)
    return f"{fold.test}: {choice.window_s:g} s with {choice.eda_context_s:g} s of EDA"


def _choice(work: _Work, fold: Fold) -> Choice:
    """The fold's choice; raises LeakError where the test subject has a part in it or in what follows."""
    choice = _fit_world(work).as_first(_own_choice(work, fold))
    assert_no_leak((*choice.subjects, *fold.train), [fold.test], f"choice of the window, fold {fold.test}")
    return choice


def _own_choice(work: _Work, fold: Fold) -> Choice:
    """From disk where it was made before from the same."""
    path = work.places.choice(work.material.mode, fold.test)
    return _kept(work, path, lambda: work.material.choose(fold))


def _crossmodal_choice(work: _Work, fold: Fold, choice: Choice, answers: bool) -> Choice:
    """With what EmoBed's network is trained for and, where it ``answers``, when."""
    whole, part = (work.places.crossmodal(work.material.mode, fold.test, is_whole) for is_whole in (True, False))
    answers |= _is_made(whole, work.key("acc"))
    made = _fit_world(work).as_first(
        _kept(work, whole if answers else part, lambda: work.material.choose_crossmodal(fold, choice, answers=answers))
    )
    assert_no_leak((*made.subjects, *fold.train), [fold.test], f"choice of the training, fold {fold.test}")
    return made


def _kept(work: _Work, path: Path, make: Callable[[], Choice]) -> Choice:
    """A choice from disk where it was made before from the same, else made and kept."""
    if _is_made(path, work.key("acc")):
        tree = json.loads(path.read_text())
        tree.pop("key")
        crossmodal, sure = Crossmodal(**tree.pop("crossmodal")), tree.pop("sure")
        sure = sure and Confidence(**sure | {"subjects": tuple(sure["subjects"])})
        return Choice(**{**tree, "subjects": tuple(tree["subjects"])}, crossmodal=crossmodal, sure=sure)
    choice = make()
    if work.world.rank == 0 or work.options.parallel == "folds":
        write_json(path, {**asdict(choice), "key": work.key("acc")})
    return choice


def _run_one(fold: Fold, seed: int, systems: Sequence[str]) -> str:
    """One subject and seed; what it gave, or nothing where time is over."""
    work = _work
    assert work is not None
    if _is_over(work):
        return ""
    material, places = work.material, work.places
    choice = _choice(work, fold)
    if any(sweeps(system) for system in systems):
        choice = _crossmodal_choice(work, fold, choice, EMOBED in systems)
    figures, copied = [], _copied(work, fold, seed, systems)
    with _Board(places, material.mode, fold.test, seed, work.options.tensorboard) as board:
        rest = [system for system in systems if system not in copied]
        results = run_fold(
            material, fold, choice, seed, rest, on=work.options.on, world=_fit_world(work), on_epoch=board.write
        )
        for system, masks, fitted in results:
            if work.world.rank and work.options.parallel == "data":
                continue
            if fitted and system in work.options.keep_networks and seed == material.config.seeds[0]:
                _keep(work, fold, choice, seed, system, fitted.model)
            record = _record(work, fold, choice, seed, system, masks, fitted.history if fitted else ())
            write_json(places.fold(material.mode, system, fold.test, seed), record)
            figures.append(f"{system} {_accuracy(masks):.2f}")
    return f"{fold.test}, seed {seed}: {', '.join(figures)}"


def _copied(work: _Work, fold: Fold, seed: int, systems: Sequence[str]) -> set[str]:
    """Systems without chance whose figures another seed has: its file is written again under this one's name."""
    mode, done = work.material.mode, set()
    for system in set(systems) & set(SEEDLESS):
        for other in work.material.config.seeds:
            path = work.places.fold(mode, system, fold.test, other)
            if other != seed and _is_made(path, work.key(system)):
                record = json.loads(path.read_text()) | {"seed": seed}
                write_json(work.places.fold(mode, system, fold.test, seed), record)
                done.add(system)
                break
    return done


def _is_over(work: _Work) -> bool:
    """Whether time is over, by the first one's clock where all work on the same fold."""
    return _fit_world(work).as_first(time.monotonic() > work.deadline)


def _fit_world(work: _Work) -> World:
    return work.world if work.options.parallel == "data" else ALONE


def _accuracy(masks: Mapping[str, Any]) -> float:
    """Share of right windows, or mean concordance, under the widest mask, for the progress line."""
    if not masks:
        return float("nan")
    first = next(iter(masks.values()))
    if "target" in first:
        return float(np.mean(concordance(np.array(first["told"]), np.array(first["target"]))))
    return float((np.argmax(first["probability"], axis=1) == np.array(first["label"])).mean())


def _record(
    work: _Work,
    fold: Fold,
    choice: Choice,
    seed: int,
    system: str,
    masks: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    material = work.material
    base = AccConfig(**{**material.config.model, "n_outputs": len(material.task.labels)})
    return {
        "dataset": material.config.dataset,
        "task": material.config.task,
        "mode": material.mode,
        "system": system,
        "label_share": system_and_share(system)[1],
        "subject": fold.test,
        "seed": seed,
        "runtime": "float",
        "labels": list(material.task.labels),
        "surrogate_ecg": material.surrogate[fold.test],
        "choice": {
            "window_s": choice.window_s,
            "eda_context_s": choice.eda_context_s,
            **(asdict(choice.crossmodal) if sweeps(system) else {}),
            "scores": choice.scores,
        },
        "history": list(history),
        "masks": masks,
        **({"confidence": asdict(choice.sure)} if choice.sure and answers_by(system, choice) else {}),
        "key": work.key(system),
        "provenance": {**work.provenance, "config": config_record(material.config.fit_config(), base)},
    }


def _keep(work: _Work, fold: Fold, choice: Choice, seed: int, system: str, model: Any) -> None:
    """The fold's network as a checkpoint, for what is asked of it later (its int8 file)."""
    material = work.material
    path = work.places.fold(material.mode, system, fold.test, seed, ".pt")
    dataset, said = datasets.get(material.config.dataset), work.provenance
    windows, answering = material.windows(choice.candidate), {}
    if choice.sure and answers_by(system, choice):
        answering = when_to_answer(model, windows, fold.train, choice.sure)
    surrogate = any(material.surrogate[s] for s in fold.train)
    about = {
        "name": f"{system}-{material.config.dataset}",
        "task": material.config.task,
        "train_subjects": list(fold.train),
        "test_subjects": [fold.test],
        "datasets": [dataset.learned_from(len(fold.train), surrogate), *material.learned_before(system)],
        "seeds": [seed],
        "commit": said.get("commit", "unknown"),
        "command": said.get("command", ""),
        "packages": said.get("versions", {}),
        **answering,
    }
    save_checkpoint(path, model, material.spec(choice.candidate), material.task.labels, about)


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """A JSON file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(tree))
    partial.replace(path)


def _is_made(path: Path, key: str) -> bool:
    """Whether a file is there and was made from the same."""
    try:
        return bool(json.loads(path.read_text())["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _kind(system: str) -> str:
    """What kind of files a system's figures depend on."""
    if needs_encoder(system):
        return "transformer"
    return "classical" if system.startswith("classical") else "network"


def key_of(people: Sequence[Prepared], config: Config, mode: str, kind: str) -> str:
    """Hash of everything a fold's figures depend on beside its subject, seed and system.

    Raises CheckpointError where an encoder is wanted and not there.
    """
    aside = ("seeds", "systems", "modes", "label_shares", "transformer")
    shaping = {k: v for k, v in msgspec.to_builtins(config).items() if k not in aside}
    digest = hashlib.sha256(json.dumps([mode, shaping], sort_keys=True).encode())
    for person in people:
        for value in vars(person).values():
            digest.update(np.ascontiguousarray(value).tobytes())
    for name in (*SHAPING, *SHAPING_ALSO[kind]):
        digest.update((HERE / name).read_bytes())
    if kind == "transformer":
        load_encoder(config.transformer.path)  # for its error
        digest.update(config.transformer.path.read_bytes())
    return digest.hexdigest()[:16]


class _Board:
    """Curves of each fit for tensorboard, where they are wanted."""

    def __init__(self, places: Places, mode: str, subject: str, seed: int, wanted: bool) -> None:
        self._where = (places, mode, subject, seed)
        self._wanted = wanted
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def write(self, system: str, row: Mapping[str, float]) -> None:
        """One epoch of a system's fit."""
        if not self._wanted:
            return
        if system not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # seconds, and only where it is wanted

            places, mode, subject, seed = self._where
            self._writers[system] = SummaryWriter(str(places.board(mode, system, subject, seed)))
        for name in row.keys() - {"epoch"}:
            self._writers[system].add_scalar(name, row[name], int(row["epoch"]))
