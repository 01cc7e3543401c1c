"""What an encoder knows of real ECG: which beats are premature ventricular, told token by token, people apart.

Emotion is judged on surrogate ECG where no chest ECG was recorded; beats are judged here on ECG as it was recorded,
with the cardiologists' labels. Knows nothing of files, of processes or of how an encoder was pre-trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import resample_poly
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional

from device.pipeline.filters import EcgFilter
from device.pipeline.resample import Resampler
from device.pipeline.rpeaks import FILTER_DELAY_S, RPeakDetector
from device.pipeline.spec import SignalSpec
from device.pipeline.types import Chunk, Clock
from train.corpus_leads import lead_of
from train.data.types import Recording, Signal
from train.encoder import HEAD
from train.metrics import auroc, balanced_accuracy, subject_bootstrap
from train.models.ecg_transformer import TOKEN_TIMES, EcgTransformer, TransformerConfig
from train.pretrain import Randomisation, randomised, scaled

Floats = npt.NDArray[np.float64]
Floats32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OTHER, PREMATURE, NO_BEAT = 0, 1, -1
"""Labels of tokens; those without a beat are not judged."""
LEAST = 10
"""Tokens of each label below which a person is not judged: ranks among fewer say nothing."""
FIGURES = ("auroc", "average_precision", "balanced_accuracy")
AS_RECORDED = "as recorded"
SYSTEMS = ("pretrained", "scratch", "probe", "probe-random")
"""Fine-tuned, trained from scratch, and encoders held still (pre-trained, or as they begin) under a trained head."""
PRETRAINED, STILL = ("pretrained", "probe"), ("probe", "probe-random")
BEAT_S = (0.25, 0.45)
"""Of a beat, what is taken off before and after its R peak."""
SFREQS = (125.0, 130.0, 200.0, 250.0, 256.0, 500.0, 512.0)
"""Hz, rates of chest straps and recorders that a network is tried at which never saw them."""


@dataclass(frozen=True, eq=False)
class Beats:
    """One person's ECG and when his heart beat."""

    subject: str
    ecg: Signal
    """(n_times, 1) mV."""
    at: Floats
    """(n_beats,) s of its R peaks."""
    is_premature: Bools
    """(n_beats,)."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Windows of one person and what their tokens are."""

    subject: str
    windows: Floats32
    """(n, 2, n_times) in physical units."""
    label: Ints
    """(n, n_tokens) OTHER, PREMATURE or NO_BEAT."""

    @property
    def can_judge(self) -> bool:
        """Whether there are enough tokens of both labels."""
        return min((self.label == OTHER).sum(), (self.label == PREMATURE).sum()) >= LEAST


@dataclass(frozen=True)
class BeatsConfig:
    """How a network learns beats; free choices, the same for every system."""

    steps: int = 150
    batch: int = 16
    lr: float = 3e-3
    """Peak of a one-cycle schedule."""
    pretrained_lr: float = 0.3
    """Of ``lr``, the share with which pre-trained weights move."""
    weight_decay: float = 1e-2
    randomisation: Randomisation = field(default_factory=Randomisation)


@dataclass(frozen=True, eq=False)
class Teller:
    """An encoder and a head that says of every token whether its beat is premature."""

    encoder: EcgTransformer
    head: nn.Conv2d

    is_still: bool
    """Whether the encoder is left as it is."""

    def logits(self, ecg: Tensor) -> Tensor:
        """(N, n_tokens) from ecg (N, 2, 1, n_times)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_still):
            encoded = self.encoder.encoded(ecg)
        found: Tensor = self.head(encoded[:, :, :, 1:])
        return found[:, 0, 0]


def tokens_of(person: Beats, spec: SignalSpec) -> Tokens:
    """The device's windows of an ECG, one after the other, with every token's label.

    A token with both kinds of beat is PREMATURE. The device's filter shows a beat FILTER_DELAY_S late.
    """
    recording = Recording("", person.subject, "1", {"ecg": person.ecg}, (), ())
    lead, windows = lead_of(recording, person.ecg, spec)
    sfreq = spec.ecg.sfreq
    n_tokens = spec.n_times("ecg") // TOKEN_TIMES
    label = np.full((len(lead.starts), n_tokens), NO_BEAT, np.int64)
    for row, start in zip(label, lead.starts, strict=True):
        token = np.floor((person.at + FILTER_DELAY_S - start) * sfreq / TOKEN_TIMES).astype(np.int64)
        inside = (token >= 0) & (token < n_tokens)
        for k, is_premature in zip(token[inside], person.is_premature[inside], strict=True):
            row[k] = max(row[k], PREMATURE if is_premature else OTHER)
    return Tokens(person.subject, windows.astype(np.float32), label)


def at_rate(person: Beats, sfreq: float) -> Beats:
    """The same ECG as a sensor of another rate would have sent it."""
    ratio = Fraction(sfreq / person.ecg.sfreq).limit_denominator(1000)
    data = resample_poly(person.ecg.data, ratio.numerator, ratio.denominator, axis=0)
    return replace(person, ecg=replace(person.ecg, data=data, sfreq=person.ecg.sfreq * float(ratio)))


def with_noise(person: Beats, noise: Floats, seed: int) -> Beats:
    """The same ECG with a sensor's noise (n,) mV at the ECG's own rate, from a random moment on and again and again."""
    begin = int(np.random.default_rng(seed).integers(len(noise)))
    found = np.resize(np.roll(noise, -begin), len(person.ecg.data))
    return replace(person, ecg=replace(person.ecg, data=person.ecg.data + found[:, None]))


def noise_of(ecg: Signal, spec: SignalSpec) -> Floats:
    """(n,) mV, what is left of an ECG when its median beat is taken off at every R peak, from the first to the last:
    wander, muscle, movement, and how beats differ."""
    x, before, after = ecg.data[:, 0], *(round(part * ecg.sfreq) for part in BEAT_S)
    peaks = np.rint(peaks_of(ecg, spec) * ecg.sfreq).astype(np.int64)
    whole = peaks[(peaks >= before) & (peaks < len(x) - after)]
    beats = np.stack([x[p - before : p + after] for p in whole])
    typical = np.median(beats - np.median(beats, axis=1, keepdims=True), axis=0)
    left = x.astype(float)
    for p in whole:
        left[p - before : p + after] -= typical
    return np.asarray(left[whole[0] : whole[-1]] - np.median(left))


def peaks_of(ecg: Signal, spec: SignalSpec) -> Floats:
    """(n_beats,) s after the first sample, by the device's filter and detector."""
    n = len(ecg.data)
    chunk = Chunk("ecg", 0, ecg.data.astype(float), np.ones(n, bool), Clock(0, 0.0, 1.0 / ecg.sfreq))
    (clean,) = Resampler("ecg", spec.ecg.sfreq, n_chans=1).push(EcgFilter(spec.ecg, ecg.sfreq).push(chunk))
    detector = RPeakDetector(spec.ecg.sfreq)
    found = [*detector.push(clean), *detector.flush()]
    return np.array([clean.clock.at(peak.index) for peak in found]) - FILTER_DELAY_S


def fit_beats(
    people: Sequence[Tokens], system: str, encoder: EcgTransformer, spec: SignalSpec, config: BeatsConfig, seed: int
) -> Teller:
    """A system trained on some people's tokens, every label weighing the same.

    ``encoder`` is the pre-trained one, which stays as it is.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    made = _encoder(system, encoder)
    teller = Teller(made, nn.Conv2d(made.config.width, 1, (1, 1)), system in STILL)
    windows, label = (np.concatenate([getattr(p, k) for p in people]) for k in ("windows", "label"))
    counts = np.bincount(label[label != NO_BEAT], minlength=2)
    weight = torch.tensor(counts.sum() / (2 * np.maximum(counts, 1)), dtype=torch.float32)
    rate = config.lr * (config.pretrained_lr if system in PRETRAINED else 1.0)
    groups = [{"params": teller.head.parameters(), "lr": config.lr}]
    groups += [] if teller.is_still else [{"params": _body(made), "lr": rate}]
    optimizer = torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay)
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=config.steps + 1)
    made.train(not teller.is_still)
    for _ in range(config.steps):
        chosen = rng.integers(len(windows), size=config.batch)
        shown = scaled(randomised(windows[chosen], spec, config.randomisation, rng), spec)
        wanted = torch.from_numpy(label[chosen])
        logits = teller.logits(torch.from_numpy(shown)[:, :, None])
        known = wanted != NO_BEAT
        loss = functional.binary_cross_entropy_with_logits(
            logits[known], wanted[known].float(), weight=weight[wanted[known]]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    made.eval()
    return teller


def _encoder(system: str, encoder: EcgTransformer) -> EcgTransformer:
    """A system's own copy, pre-trained or as the seed in use begins it."""
    made = EcgTransformer(TransformerConfig(**encoder.config.as_dict()))
    if system in PRETRAINED:
        made.load_state_dict(encoder.state_dict())
    return made


def _body(encoder: EcgTransformer) -> list[nn.Parameter]:
    """What has a part in tokens: all but the head for emotion."""
    return [p for name, p in encoder.named_parameters() if not name.startswith(HEAD)]


@torch.no_grad()
def judge_beats(teller: Teller, person: Tokens, spec: SignalSpec, batch: int = 32) -> dict[str, float]:
    """Figures over the person's tokens that have a beat: auroc, average_precision, balanced_accuracy."""
    parts = np.array_split(np.arange(len(person.windows)), max(1, len(person.windows) // batch))
    shown = (torch.from_numpy(scaled(person.windows[part], spec))[:, :, None] for part in parts)
    told = torch.cat([torch.sigmoid(teller.logits(ecg)) for ecg in shown]).double().numpy()
    known = person.label != NO_BEAT
    label, premature = person.label[known], told[known]
    probability = np.stack([1 - premature, premature], axis=1)
    return {
        "auroc": auroc(label, probability),
        "average_precision": float(average_precision_score(label, premature)),
        "balanced_accuracy": balanced_accuracy(label, probability),
    }


def leave_one_out(
    people: Sequence[Tokens],
    changed: Mapping[str, Tokens],
    encoder: EcgTransformer,
    spec: SignalSpec,
    config: BeatsConfig,
    test: str,
    n_people: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """One person's figures under every system, learned from each of ``n_people`` of the others.

    A smaller number of them is part of a larger one. ``changed`` holds the same person's ECG seen otherwise, by name,
    which only those that learned from most are asked, and only where enough of it is fit to be judged.
    """
    others = [p for p in people if p.subject != test]
    order = np.random.default_rng(seed).permutation(len(others))
    (judged,) = (p for p in people if p.subject == test)
    otherwise = {name: it for name, it in changed.items() if it.can_judge}
    rows: list[dict[str, Any]] = []
    for n in n_people:
        chosen = [others[k] for k in order[:n]]
        for system in SYSTEMS:
            teller = fit_beats(chosen, system, encoder, spec, config, seed)
            asked = {AS_RECORDED: judged, **(otherwise if n == max(n_people) else {})}
            about = {"system": system, "people": n, "subject": test, "seed": seed}
            rows += [{**about, "input": name, **judge_beats(teller, it, spec)} for name, it in asked.items()]
    return rows


def summed_up(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Flat records: a system, how many taught it and what it is shown; figures of each person over his seeds, and their
    mean over people with its interval."""
    found: dict[tuple[str, int, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        of_person = found.setdefault((row["system"], row["people"], row["input"]), {})
        of_person.setdefault(row["subject"], []).append(row)
    return [_record(key, of_person) for key, of_person in found.items()]


def _record(key: tuple[str, int, str], of_person: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    means = {s: {f: float(np.nanmean([row[f] for row in its])) for f in FIGURES} for s, its in of_person.items()}
    values = [person[FIGURES[0]] for person in means.values()]
    return {
        **dict(zip(("system", "people", "input"), key, strict=True)),
        "subjects": len(means),
        "seeds": sorted({int(row["seed"]) for its in of_person.values() for row in its}),
        **{f: round(float(np.nanmean([person[f] for person in means.values()])), 4) for f in FIGURES},
        "ci95": [round(edge, 4) for edge in subject_bootstrap(values)],
        "per_subject": {s: round(person[FIGURES[0]], 4) for s, person in means.items()},
    }
