"""One fold of leave-one-subject-out: every system on the same windows, under the evaluation law.

The law: no person on both sides of a split; nothing fitted on the test subject, no statistic, no epoch, no threshold;
two modes, never mixed: cold start (no data of the person) and calibrated (a resting baseline recorded before, and not
scored); every modality mask. Knows nothing of processes or of tables: train.loso shares out, train.report sums up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from device.pipeline.spec import MODALITIES, SignalSpec
from device.space import Space
from train.confidence import JUDGING, answers, confidence, space_of
from train.config import Config
from train.encoder import body, load_encoder
from train.errors import LeakError
from train.fewshot import judged_by_shots
from train.fit import MASKS, Fitted, Network, NetworkConfig, fit, predict, tensor
from train.models.acc import ENCODER, AccConfig
from train.models.ecg_transformer import EcgTransformer, TransformerConfig
from train.prepare import Prepared
from train.select import Candidate, Choice, choose, choose_crossmodal
from train.systems import (
    DECISION_FUSION,
    ENCODING,
    NETWORKS,
    PARTS,
    PROBED_BY,
    PROBES,
    asked,
    assert_scaled_on,
    classical_model,
    crossmodal,
    feature_table,
    fit_config,
    fused,
    masks_of,
    network_config,
    shown_features,
    system_and_share,
    with_labels,
)
from train.tasks import UNLABELLED, Task
from train.windows import Windows, network_windows, roles, shortened
from train.world import ALONE, World

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MODES = ("cold_start", "calibrated")
EMOBED = "emobed"
"""The system that says how sure it is, and learns from a few labels."""


@dataclass(frozen=True, eq=False)
class Fold:
    """One test subject and everyone else."""

    test: str
    train: tuple[str, ...]


def folds(subjects: Iterable[str]) -> list[Fold]:
    """One fold per subject, in order."""
    everyone = sorted(set(subjects))
    return [Fold(s, tuple(o for o in everyone if o != s)) for s in everyone]


def fewer(fold: Fold, share: float, seed: int) -> Fold:
    """The fold with a share of its training subjects, one at least; a smaller share is part of a larger one."""
    order = np.random.default_rng(seed).permutation(sorted(fold.train)).tolist()
    return replace(fold, train=tuple(sorted(order[: max(1, round(share * len(order)))])))


def assert_no_leak(train_subjects: Iterable[str], test_subjects: Iterable[str], where: str) -> None:
    """Raise LeakError where a person stands on both sides."""
    both = sorted(set(train_subjects) & set(test_subjects))
    if both:
        raise LeakError(f"subjects {', '.join(both)} on both sides of the split", where)


def assert_baseline_not_scored(person: Prepared, task: Task, spec: SignalSpec, scored_starts: Floats) -> None:
    """Raise LeakError where a scored window overlaps the resting baseline that calibrated it."""
    role = roles(person, task, spec)
    if not role.is_baseline.any() or not len(scored_starts):
        return
    if scored_starts.min() < person.start[role.is_baseline].max() + spec.window_s:
        raise LeakError(f"baseline windows of {person.subject} are scored", "calibrated mode")


def answers_by(system: str, choice: Choice) -> bool:
    """Whether a system's probabilities have a temperature, and its answers a threshold."""
    return system == EMOBED and choice.sure is not None


class Material:
    """Everything of one task and mode that folds share: windows and features for every candidate, made when needed."""

    def __init__(self, people: Sequence[Prepared], config: Config, mode: str) -> None:
        self.people, self.config, self.mode, self.task = people, config, mode, config.the_task()
        self.longest = config.longest(calibrated=mode == "calibrated")
        self._windows: dict[Candidate, Windows] = {}
        self._features: dict[Candidate, Floats] = {}
        self._representations: dict[tuple[Candidate, int | None], Floats] = {}

    @cached_property
    def subjects(self) -> list[str]:
        """Everyone, in order."""
        return sorted({p.subject for p in self.people})

    @cached_property
    def surrogate(self) -> dict[str, bool]:
        """Subject -> whether his ECG was rebuilt from the pulse."""
        return {p.subject: p.surrogate for p in self.people}

    def spec(self, candidate: Candidate) -> SignalSpec:
        """The spec of a candidate in this mode."""
        return shortened(self.longest, *candidate)

    def windows(self, candidate: Candidate) -> Windows:
        """Everyone's labelled windows; a shorter context shares its samples with the longest."""
        if candidate not in self._windows:
            whole = (candidate[0], self.longest.eda.context_s)
            if whole not in self._windows:
                self._windows[whole] = network_windows(self.people, self.task, self.longest, self.spec(whole))
            full = self._windows[whole]
            self._windows[candidate] = replace(full, eda=full.eda[:, :, -self.spec(candidate).n_times("eda") :])
        return self._windows[candidate]

    def features(self, candidate: Candidate) -> Floats:
        """Features in the order of ``windows``; NaN where a modality is absent."""
        if candidate not in self._features:
            parts = []
            for person in self.people:
                role = roles(person, self.task, self.longest)
                baseline = role.is_baseline if self.mode == "calibrated" else None
                used = np.flatnonzero(role.label != UNLABELLED)
                parts.append(feature_table(person, used, self.spec(candidate), baseline))
            self._features[candidate] = np.concatenate([p for p in parts if len(p)])
        return self._features[candidate]

    def choose(self, fold: Fold) -> Choice:
        """Window and context, from training subjects only."""
        candidates = [(float(a), float(b)) for a, b in self.config.inner.candidates]
        choice = choose(
            {c: self.windows(c) for c in candidates},
            fold.train,
            self.config.inner,
            self.config.fit_config(),
            self._base(),
        )
        assert_no_leak(choice.subjects, [fold.test], f"choice of the window, fold {fold.test}")
        return choice

    def choose_crossmodal(self, fold: Fold, choice: Choice, *, answers: bool = True) -> Choice:
        """The same choice, what EmoBed's network is trained for and, where it ``answers``, when; from training subjects
        only."""
        windows, inner = self.windows(choice.candidate), self.config.inner
        how, network = fit_config(EMOBED, self.config.fit_config()), self._network(EMOBED, choice)
        chosen = choose_crossmodal(choice, windows, fold.train, self.config.emobed.crossmodals(), inner, how, network)
        if self.task.rates or not answers:
            return chosen
        sure = confidence(windows, fold.train, JUDGING, how, network, chosen.crossmodal)
        assert_no_leak({*chosen.subjects, *sure.subjects}, [fold.test], f"choice of the training, fold {fold.test}")
        return replace(chosen, sure=sure)

    def network(
        self,
        system: str,
        fold: Fold,
        choice: Choice,
        seed: int,
        *,
        teacher: Network | None = None,
        on: str = "cpu",
        world: World = ALONE,
        on_epoch: Callable[[dict[str, float]], None] = lambda _: None,
    ) -> Fitted:
        """A system's network, trained without the test subject; ``teacher`` is one that was, too."""
        spec = self.spec(choice.candidate)
        fitted = fit(
            self.windows(choice.candidate), fold.train, fit_config(system, self.config.fit_config()),
            self._network(system, choice), seed,
            sfreqs=(spec.ecg.sfreq, spec.eda.sfreq), crossmodal=crossmodal(system, choice.crossmodal), on=on,
            pretrained=self._pretrained(system, choice), teacher=teacher, world=world, on_epoch=on_epoch,
        )  # fmt: skip
        assert_no_leak(fitted.train_subjects, [fold.test], f"fold {fold.test}, {system}")
        return fitted

    def _network(self, system: str, choice: Choice) -> NetworkConfig:
        spec = self.spec(choice.candidate)
        base = replace(self._base(), ecg_times=spec.n_times("ecg"), eda_times=spec.n_times("eda"))
        encoder = self._encoder[0].config if system in ENCODING else None
        return network_config(system, base, self.config.emobed.embedding, encoder)

    @cached_property
    def _encoder(self) -> tuple[EcgTransformer, dict[str, Any]]:
        """As pre-training left it, and what it learned from."""
        return load_encoder(self.config.transformer.path)

    def learned_before(self, system: str) -> list[dict[str, Any]]:
        """Data sets that a system's network begins with having learned from, as a checkpoint says them."""
        said = self._encoder[1] if system in NETWORKS and NETWORKS[system].is_pretrained else {}
        return list(said.get("datasets", ()))

    def _pretrained(self, system: str, choice: Choice) -> dict[str, Tensor]:
        """Weights that a system's network begins with, by name."""
        if not NETWORKS[system].is_pretrained:
            return {}
        config = self._network(system, choice)
        prefix, encoding = ("", config) if isinstance(config, TransformerConfig) else (ENCODER, config.encoder)
        return {prefix + name: w for name, w in body(load_encoder(self.config.transformer.path, encoding)[0]).items()}

    def representation(self, candidate: Candidate, seed: int | None) -> Floats:
        """(n, 2 * width) of every window's ECG in the order of ``windows``; with a seed by an encoder as it begins."""
        if (candidate, seed) not in self._representations:
            encoder, _ = self._encoder
            if seed is not None:
                torch.manual_seed(seed)
                encoder = EcgTransformer(encoder.config).eval()
            self._representations[candidate, seed] = represented(encoder, self.windows(candidate))
        return self._representations[candidate, seed]

    def _base(self) -> AccConfig:
        return AccConfig(**{**self.config.model, "n_outputs": len(self.task.labels)})

    def judged(self, fold: Fold, choice: Choice, mask: str) -> Ints:
        """Indices of the test subject's windows scored under a mask; raises LeakError for a baseline window."""
        windows = self.windows(choice.candidate)
        index = asked(windows, fold.test, MASKS[mask])
        if self.mode == "calibrated":
            begin = 0
            for person in self.people:  # each session has its own clock and its own rest
                end = begin + int((roles(person, self.task, self.longest).label != UNLABELLED).sum())
                if person.subject == fold.test:
                    his = index[(index >= begin) & (index < end)]
                    assert_baseline_not_scored(person, self.task, self.longest, windows.start[his])
                begin = end
        return index

    def record_of(self, index: Ints, probability: Floats, fold: Fold, choice: Choice) -> dict[str, Any]:
        """What a fold file says of one mask."""
        windows = self.windows(choice.candidate)
        total = int(((windows.subject == fold.test) & windows.is_scored).sum())
        told = np.round(probability, 5).tolist()
        if self.task.rates:
            said = {"target": np.round(windows.target[index].astype(float), 5).tolist(), "told": told}
        else:
            said = {"label": windows.label[index].tolist(), "probability": told}
        return {"start": windows.start[index].tolist(), **said, "total": total}

    def space(self, fitted: Fitted, fold: Fold, choice: Choice) -> Space:
        """Where the training subjects' windows lie for a network that says how sure it is."""
        return space_of(fitted.model, self.windows(choice.candidate), fold.train)

    def network_masks(
        self, fitted: Fitted, system: str, fold: Fold, choice: Choice, space: Space | None = None
    ) -> dict[str, Any]:
        """Every mask a network can be asked under, on the test subject; with ``space`` what it would answer as well."""
        windows, out = self.windows(choice.candidate), {}
        for name, mask in masks_of(system).items():
            index = self.judged(fold, choice, name)
            if not len(index):
                continue
            if space is None or choice.sure is None:
                probability = predict(fitted.model, windows, index, mask).astype(float)
                out[name] = self.record_of(index, probability, fold, choice)
            else:
                found = answers(fitted.model, windows, index, mask, choice.sure, space)
                out[name] = self.record_of(index, found.probability, fold, choice) | {
                    "distance": np.round(found.distance, 4).tolist(),
                    "is_sure": found.is_sure.tolist(),
                    "is_familiar": found.is_familiar.tolist(),
                }
        return out

    def few_shot_masks(self, fitted: Fitted, fold: Fold, choice: Choice, space: Space) -> dict[str, dict[str, Any]]:
        """``emobed-shots-3`` and its like: every mask's record once so many of the person's windows are labelled."""
        windows, out = self.windows(choice.candidate), {}
        assert choice.sure is not None
        for name, mask in MASKS.items():
            index = self.judged(fold, choice, name)
            if len(index):
                left, found = judged_by_shots(fitted.model, windows, index, mask, choice.sure, space, choice.window_s)
                for n, probability in found.items():
                    record = self.record_of(index[left], probability, fold, choice)
                    out.setdefault(f"{EMOBED}-shots-{n}", {})[name] = record
        return out

    def decision_masks(self, parts: Mapping[str, Fitted], fold: Fold, choice: Choice) -> dict[str, Any]:
        """Fusion by decision of the two networks of one modality each."""
        windows, out = self.windows(choice.candidate), {}
        for name, mask in MASKS.items():
            index = self.judged(fold, choice, name)
            if len(index):
                shown = windows.present[index] & (np.array(mask) > 0)
                each = [predict(parts[m].model, windows, index, MASKS[m]).astype(float) for m in PARTS]
                out[name] = self.record_of(index, fused(*each, shown[:, 0], shown[:, 1]), fold, choice)
        return out

    def classical_masks(self, system: str, fold: Fold, choice: Choice, seed: int) -> dict[str, Any]:
        """A classical system, fitted for every mask anew."""
        windows, table, out = self.windows(choice.candidate), self.features(choice.candidate), {}
        for name, mask in MASKS.items():
            shown = (windows.present & (np.array(mask) > 0)).any(axis=1)
            train = windows.of(fold.train)
            train = train[shown[train]]
            record = self._classical(system, shown_features(table, name), train, name, fold, choice, seed)
            out |= {name: record} if record else {}
        return out

    def probe_masks(self, system: str, fold: Fold, choice: Choice, seed: int) -> dict[str, Any]:
        """What an encoder that is not trained for the task lets a logistic regression tell, of ECG alone."""
        windows = self.windows(choice.candidate)
        table = self.representation(choice.candidate, None if PROBES[system] else seed)
        train = windows.of(fold.train)
        train = train[windows.present[train, MODALITIES.index("ecg")]]
        record = self._classical(PROBED_BY, table, train, "ecg", fold, choice, seed)
        return {"ecg": record} if record else {}

    def _classical(
        self, system: str, table: Floats, train: Ints, mask: str, fold: Fold, choice: Choice, seed: int
    ) -> dict[str, Any] | None:
        """What a classical model of some rows of a table says of the test subject's; None where it has nothing to learn
        from or nobody to judge."""
        label, index = self.windows(choice.candidate).label[train], self.judged(fold, choice, mask)
        known = np.unique(label)
        if not len(index) or len(known) < 2:
            return None
        model = classical_model(system, seed, len(known)).fit(table[train], label)
        assert_scaled_on(model, table[train], f"fold {fold.test}, {system}")
        probability = np.zeros((len(index), len(self.task.labels)))
        probability[:, known] = model.predict_proba(table[index])
        return self.record_of(index, probability, fold, choice)


@torch.no_grad()
def represented(encoder: EcgTransformer, windows: Windows, batch: int = 128) -> Floats:
    """(n, 2 * width) of every window's ECG."""
    parts = np.array_split(np.arange(len(windows.ecg)), max(1, len(windows.ecg) // batch))
    return torch.cat([encoder.representation(tensor(windows.ecg[part])) for part in parts]).double().numpy()


def run_fold(
    material: Material,
    fold: Fold,
    choice: Choice,
    seed: int,
    systems: Sequence[str],
    *,
    on: str = "cpu",
    world: World = ALONE,
    on_epoch: Callable[[str, dict[str, float]], None] = lambda *_: None,
) -> Iterable[tuple[str, dict[str, Any], Fitted | None]]:
    """Each asked system's masks and, for a network, what was fitted; one after the other as they are done."""
    assert_no_leak(fold.train, [fold.test], f"fold {fold.test}")
    by_share: dict[float, list[str]] = {}
    for name in systems:
        system, share = system_and_share(name)
        by_share.setdefault(share, []).append(system)
    for share, its in by_share.items():
        part = fold if share == 1.0 else fewer(fold, share, seed)
        for system, masks, fitted in _run_systems(material, part, choice, seed, its, on, world, on_epoch):
            yield with_labels(system, share), masks, fitted


def _run_systems(
    material: Material,
    fold: Fold,
    choice: Choice,
    seed: int,
    systems: Sequence[str],
    on: str,
    world: World,
    on_epoch: Callable[[str, dict[str, float]], None],
) -> Iterable[tuple[str, dict[str, Any], Fitted | None]]:
    fitted: dict[str, Fitted] = {}
    needed = {*systems, *(PARTS.values() if DECISION_FUSION in systems else ())}
    needed |= {teacher for s in needed if s in NETWORKS and (teacher := NETWORKS[s].teacher)}
    for system in (s for s in NETWORKS if s in needed):
        teacher = fitted.get(NETWORKS[system].teacher or "")
        fitted[system] = material.network(
            system, fold, choice, seed, teacher=teacher and teacher.model, on=on, world=world,
            on_epoch=lambda row, s=system: on_epoch(s, row),
        )  # fmt: skip
        if system in systems:
            space = material.space(fitted[system], fold, choice) if answers_by(system, choice) else None
            yield system, material.network_masks(fitted[system], system, fold, choice, space), fitted[system]
            if space is not None:
                for shots, masks in material.few_shot_masks(fitted[system], fold, choice, space).items():
                    yield shots, masks, None
    if DECISION_FUSION in systems:
        parts = {m: fitted[s] for m, s in PARTS.items()}
        yield DECISION_FUSION, material.decision_masks(parts, fold, choice), None
    for system in systems:
        if system in PROBES:
            yield system, material.probe_masks(system, fold, choice, seed), None
        elif system not in NETWORKS and system != DECISION_FUSION:
            yield system, material.classical_masks(system, fold, choice, seed), None
