"""What an encoder can be asked of ECG that nobody has labelled: to fill in what is hidden, to say what was done to it.

A pretext has a head of its own, which is thrown away afterwards, draws its questions from a seeded generator, and turns
encoder, head and a batch into a loss. Knows nothing of loops, of files or of emotion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from device.pipeline.features import ECG_FEATURES, ecg_features
from device.pipeline.spec import default_spec
from train.models.ecg_transformer import TOKEN_TIMES, EcgTransformer, TransformerConfig, summary

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator
ECG, HEART_RATE = 0, 1
"""Channels of a window; the device derives the second of the first."""
N_CHANS = 2
LEAST_SPREAD = 1e-3
"""Of a window whose ECG hardly moves, in model units."""
RHYTHM = (
    "hr_mean", "hr_sd", "hr_min", "hr_max", "hr_slope", "hr_late", "pnn20", "pnn50", "ln_rmssd", "sd_ratio", "ln_lf",
    "ln_hf", "lf_share",
)  # fmt: skip
"""Those of ECG_FEATURES that are asked for: of the heart rate, and neither powers, which a wrong beat blows up, nor the
place of a maximum, which jumps."""
FARTHEST = 3.0
"""Spreads from the batch's mean that a feature is held within."""


@dataclass(frozen=True, eq=False)
class Question:
    """A batch as the encoder sees it, and what is to be found."""

    ecg: Tensor
    """(N, 2, 1, n_times)."""
    answer: Tensor
    """What the head is to say; its shape is the pretext's."""
    hidden: Tensor
    """(N, n_times) 1 where the encoder sees nothing; all 0 where a pretext hides nothing."""
    rhythm: Tensor = field(default_factory=lambda: torch.empty(0))
    """(N, len(RHYTHM)) of the whole window, in spreads of the batch, where a pretext asks for it."""


class Pretext(Protocol):
    """A task that makes its own labels."""

    def head(self, config: TransformerConfig) -> nn.Module:
        """A fresh head for what the encoder gives."""
        ...

    def ask(self, ecg: Floats, rng: Rng) -> Question:
        """A question about windows (n, 2, n_times) of scaled model input, which stay as they are."""
        ...

    def loss(self, encoder: EcgTransformer, head: nn.Module, question: Question) -> Tensor:
        """One number; less is better."""
        ...


@dataclass(frozen=True)
class MaskedSignal:
    """Fill in hidden spans of the signal, judged on them alone (after BERT, Devlin et al. 2019, arXiv 1810.04805, as
    Vazquez-Rodriguez et al. 2022, arXiv 2204.05103, do it on ECG).

    Both channels are hidden, for a heart rate steps at every beat, and both are to be filled in: the beat's shape is
    local, the heart rate is what its neighbours tell. Share and spans are free choices.
    """

    share: float = 0.4
    """Of every window, hidden, about: spans may overlap."""
    shortest_s: float = 0.3
    """A QRS and its neighbourhood: less can be drawn through by ruler."""
    longest_s: float = 3.0
    """Two to four beats, which only rhythm and shape of the others can tell."""
    heart_rate: float = 1.0
    """Weight of the heart rate's error beside the ECG's."""
    sfreq: float = 128.0
    """Of the windows, Hz."""

    def head(self, config: TransformerConfig) -> nn.Module:
        """Every token's samples, channel after channel."""
        return nn.Conv2d(config.width, N_CHANS * TOKEN_TIMES, (1, 1))

    def ask(self, ecg: Floats, rng: Rng) -> Question:
        """``answer`` is (N, 2, n_times): the ECG in spreads of its window, so that no large lead outvotes the others,
        and the heart rate as the network reads it."""
        hidden = self.spans(len(ecg), ecg.shape[2], rng)
        answer = ecg.copy()
        signal = answer[:, ECG]
        signal -= signal.mean(axis=1, keepdims=True)
        signal /= np.maximum(signal.std(axis=1, keepdims=True), LEAST_SPREAD)
        seen = ecg * ~hidden[:, None]
        return Question(_nchw(seen), torch.from_numpy(answer), torch.from_numpy(hidden.astype(np.float32)))

    def spans(self, n: int, n_times: int, rng: Rng) -> npt.NDArray[np.bool_]:
        """(n, n_times) what is hidden: in every window spans of random length at random places until it is enough."""
        hidden = np.zeros((n, n_times), np.bool_)
        for row in hidden:
            while row.mean() < self.share:
                length = max(1, int(rng.uniform(self.shortest_s, self.longest_s) * self.sfreq))
                start = int(rng.integers(1 - length, n_times))
                row[max(0, start) : start + length] = True
        return hidden

    def filled(self, encoder: EcgTransformer, head: nn.Module, ecg: Tensor) -> Tensor:
        """(N, 2, n_times) the head's idea of the whole window, as ``answer`` of ``ask``."""
        return patched(head, encoder.encoded(ecg))

    def loss(self, encoder: EcgTransformer, head: nn.Module, question: Question) -> Tensor:
        """Mean squared error over hidden samples, of ECG and heart rate; the ECG's is 1 for who says nothing."""
        return self.error(self.filled(encoder, head, question.ecg), question)

    def error(self, filled: Tensor, question: Question) -> Tensor:
        """The same of what is filled in, (N, 2, n_times)."""
        squared = (filled - question.answer) ** 2
        each = (squared * question.hidden[:, None]).sum(dim=(0, 2)) / question.hidden.sum().clamp(min=1.0)
        return each[ECG] + self.heart_rate * each[HEART_RATE]


@dataclass(frozen=True)
class MaskedRhythm(MaskedSignal):
    """Fill in hidden spans, and say from what is left what the whole window's rhythm was.

    Filling in is a matter of beats, which every token knows of its neighbours; heart rate variability is a matter of
    the minute, for which CLS and the mean of the tokens stand. What is asked for is the signal's own and no label: the
    device's features of the heart rate (device.pipeline.features), as Spathis et al. 2021 (arXiv 2011.12121) have a
    network predict heart rate responses before it is asked for anything about people.
    """

    rhythm: float = 1.0
    """Weight of the rhythm's error beside that of what is hidden."""

    def head(self, config: TransformerConfig) -> nn.Module:
        """``fill`` for what is hidden, ``tell`` for the rhythm."""
        return nn.ModuleDict({"fill": super().head(config), "tell": nn.Linear(2 * config.width, len(RHYTHM))})

    def ask(self, ecg: Floats, rng: Rng) -> Question:
        """As of what is hidden alone; the rhythm is that of the whole window."""
        return replace(super().ask(ecg, rng), rhythm=torch.from_numpy(rhythms(ecg[:, HEART_RATE], self.sfreq)))

    def filled(self, encoder: EcgTransformer, head: nn.Module, ecg: Tensor) -> Tensor:
        """As of what is hidden alone."""
        assert isinstance(head, nn.ModuleDict)
        return super().filled(encoder, head["fill"], ecg)

    def loss(self, encoder: EcgTransformer, head: nn.Module, question: Question) -> Tensor:
        """That of what is hidden, and the rhythm's mean squared error, which is 1 for who says nothing."""
        assert isinstance(head, nn.ModuleDict)
        encoded = encoder.encoded(question.ecg)
        told = functional.mse_loss(head["tell"](summary(encoded)), question.rhythm)
        return self.error(patched(head["fill"], encoded), question) + self.rhythm * told


def patched(head: nn.Module, encoded: Tensor) -> Tensor:
    """(N, 2, n_times) the samples that a head tells of every token of an encoder's output."""
    patches: Tensor = head(encoded[:, :, :, 1:])
    return patches.reshape(len(encoded), N_CHANS, TOKEN_TIMES, -1).transpose(2, 3).flatten(2)


def rhythms(scaled: Floats, sfreq: float) -> Floats:
    """(n, len(RHYTHM)) features of heart rates (n, n_times) as a network reads them in cold start, in spreads of these
    n windows from their mean, held within FARTHEST."""
    hr = default_spec().ecg.channels[HEART_RATE]
    rate = scaled.astype(np.float64) * hr.scale + hr.center
    silent = np.zeros_like(rate[0])  # beats' shapes are not asked for
    found = np.array([ecg_features(np.stack([silent, each], axis=1), sfreq)[PLACES] for each in rate])
    spread = np.maximum(found.std(axis=0), LEAST_SPREAD)
    return np.clip((found - found.mean(axis=0)) / spread, -FARTHEST, FARTHEST).astype(np.float32)


PLACES = [tuple(ECG_FEATURES).index(name) for name in RHYTHM]


@dataclass(frozen=True)
class TransformRecognition:
    """Say which of six things was done to the signal, or none (Sarkar & Etemad 2020, arXiv 2002.03898).

    Each transform is a yes or no of its own, as there. Sizes are free choices near the paper's.
    """

    noise: float = 0.5
    """Spread of added noise, in spreads of the window."""
    gain: float = 2.0
    """Scaling, up or down."""
    pieces: int = 9
    """That a window is cut into before they are put in another order."""
    warp: float = 1.25
    """How much faster one half of the pieces goes, and how much slower the other."""

    def head(self, config: TransformerConfig) -> nn.Module:
        """One logit for each transform and for none."""
        return nn.Linear(2 * config.width, 1 + len(TRANSFORMS))

    def ask(self, ecg: Floats, rng: Rng) -> Question:
        """``answer`` is (N, 7): 1 for what was done, first the column of nothing; all are as frequent."""
        done = rng.permutation(np.arange(len(ecg)) % (1 + len(TRANSFORMS)))
        makes: list[Callable[[Floats, TransformRecognition, Rng], Floats]] = [_as_it_is, *TRANSFORMS.values()]
        changed = np.stack([makes[k](window, self, rng) for k, window in zip(done, ecg, strict=True)])
        answer = np.eye(1 + len(TRANSFORMS), dtype=np.float32)[done]
        return Question(_nchw(changed), torch.from_numpy(answer), torch.zeros(len(ecg), ecg.shape[2]))

    def loss(self, encoder: EcgTransformer, head: nn.Module, question: Question) -> Tensor:
        """Binary cross-entropy, mean over the seven questions."""
        logits = head(summary(encoder.encoded(question.ecg)))
        return functional.binary_cross_entropy_with_logits(logits, question.answer)


def _as_it_is(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    return window


def _noisy(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    """The ECG with white noise; the heart rate was made before."""
    out = window.copy()
    out[ECG] += rng.normal(0.0, how.noise * window[ECG].std(), window.shape[1]).astype(np.float32)
    return out


def _scaled(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    out = window.copy()
    out[ECG] *= np.float32(how.gain if rng.random() < 0.5 else 1.0 / how.gain)
    return out


def _negated(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    out = window.copy()
    out[ECG] *= -1.0
    return out


def _reversed(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    return np.ascontiguousarray(window[:, ::-1])


def _permuted(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    """Pieces of the same length in an order that is not theirs."""
    edges = np.linspace(0, window.shape[1], how.pieces + 1).astype(int)
    order = rng.permutation(how.pieces)
    while (order == np.arange(how.pieces)).all():
        order = rng.permutation(how.pieces)
    return np.concatenate([window[:, edges[k] : edges[k + 1]] for k in order], axis=1)


def _warped(window: Floats, how: TransformRecognition, rng: Rng) -> Floats:
    """Pieces by turns faster and slower; begin, end and length stay."""
    speed = np.where((np.arange(how.pieces) + rng.integers(2)) % 2, how.warp, 1.0 / how.warp)
    at = np.concatenate([[0.0], np.cumsum(speed)])
    n = window.shape[1]
    read = np.interp(np.arange(n), np.linspace(0, n - 1, how.pieces + 1), at / at[-1] * (n - 1))
    return np.stack([np.interp(read, np.arange(n), channel) for channel in window]).astype(np.float32)


TRANSFORMS: Mapping[str, Callable[[Floats, TransformRecognition, Rng], Floats]] = {
    "noise": _noisy,
    "scaling": _scaled,
    "negation": _negated,
    "time reversal": _reversed,
    "permutation": _permuted,
    "time warping": _warped,
}
"""What can be done to a window (2, n_times), by the paper's names."""
PRETEXTS: Mapping[str, Callable[[], Pretext]] = {
    "masked": MaskedSignal, "masked-rhythm": MaskedRhythm, "transforms": TransformRecognition,
}  # fmt: skip
"""By the names that configurations use."""


def _nchw(windows: Floats) -> Tensor:
    """(n, 2, n_times) to the network's (n, 2, 1, n_times)."""
    return torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32))[:, :, None]
