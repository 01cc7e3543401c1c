"""Pretexts: what is hidden stays hidden, what was done to a window is what its name says, an encoder learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from device.pipeline.features import ECG_FEATURES, features
from device.pipeline.spec import default_spec
from train.models.ecg_transformer import TOKEN_TIMES, EcgTransformer, TransformerConfig
from train.pretext import PRETEXTS, RHYTHM, TRANSFORMS, MaskedRhythm, MaskedSignal, Pretext, TransformRecognition

SHAPE = TransformerConfig(ecg_times=16 * TOKEN_TIMES, eda_times=64, width=16, heads=2, feed=24, stem=8, dropout=0.0)
HOW = TransformRecognition()
COUNTING = np.arange(SHAPE.ecg_times, dtype=np.float32)


def windows(n: int = 14, seed: int = 0) -> np.ndarray:
    """A beat each 0.8 s at a random phase, and its heart rate."""
    rng = np.random.default_rng(seed)
    phase = (COUNTING / 128.0 + rng.random((n, 1))) % 0.8
    signal = np.exp(-(((phase - 0.4) / 0.03) ** 2)) + 0.02 * rng.standard_normal(phase.shape)
    return np.stack([signal, np.full_like(signal, 0.3)], axis=1).astype(np.float32)


def untouched(x: np.ndarray) -> np.ndarray:
    """The same numbers, which nobody may write to."""
    x.setflags(write=False)
    return x


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.05, 0.9), longest=st.floats(0.3, 4.0), seed=st.integers(0, 99))
def test_as_much_is_hidden_as_is_said_and_in_spans(share: float, longest: float, seed: int) -> None:
    how = MaskedSignal(share=share, longest_s=longest)
    hidden = how.spans(5, SHAPE.ecg_times, np.random.default_rng(seed))
    assert (hidden.mean(axis=1) >= share).all()
    assert (hidden.mean(axis=1) <= share + longest * how.sfreq / SHAPE.ecg_times).all()
    for row in hidden:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]]).astype(int)))
        lengths = (edges[1::2] - edges[::2])[(edges[::2] > 0) & (edges[1::2] < len(row))]
        assert (lengths >= int(how.shortest_s * how.sfreq)).all()


def test_the_encoder_sees_nothing_of_what_is_hidden_and_all_of_the_rest() -> None:
    x = windows()
    question = MaskedSignal().ask(untouched(x), np.random.default_rng(0))
    hidden = question.hidden.numpy() > 0
    seen = question.ecg.numpy()[:, :, 0]
    for channel in range(2):
        assert (seen[:, channel][hidden] == 0.0).all()
        np.testing.assert_array_equal(seen[:, channel][~hidden], x[:, channel][~hidden])
    other = np.where(hidden[:, None], 7.0, x).astype(np.float32)
    again = MaskedSignal().ask(other, np.random.default_rng(0))
    assert torch.equal(question.ecg, again.ecg) and torch.equal(question.hidden, again.hidden)


@given(gain=st.floats(0.05, 50.0), offset=st.floats(-3.0, 3.0))
@settings(deadline=None)
def test_the_answer_does_not_depend_on_the_lead_s_size(gain: float, offset: float) -> None:
    x = windows(2)
    larger = (x * np.float32([[gain], [1.0]]) + np.float32([[offset], [0.0]])).astype(np.float32)
    answers = [MaskedSignal().ask(each, np.random.default_rng(0)).answer for each in (x, larger)]
    torch.testing.assert_close(*answers, atol=2e-3, rtol=1e-3)


class CountsTokens(EcgTransformer):
    """An encoder whose tokens say their place."""

    def encoded(self, ecg: Tensor) -> Tensor:
        """CLS is -1."""
        places = torch.arange(-1, self.config.n_tokens, dtype=torch.float32)
        return places.expand(len(ecg), self.config.width, 1, -1)


def test_a_token_fills_in_its_own_samples() -> None:
    head = nn.Conv2d(SHAPE.width, 2 * TOKEN_TIMES, (1, 1))
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.weight[:, 0] = TOKEN_TIMES
        head.bias.copy_(torch.cat([torch.arange(TOKEN_TIMES), torch.arange(TOKEN_TIMES) + 0.5]))
    filled = MaskedSignal().filled(CountsTokens(SHAPE), head, torch.zeros(2, 2, 1, SHAPE.ecg_times))
    counting = torch.from_numpy(COUNTING).expand(2, -1)
    assert torch.equal(filled, torch.stack([counting, counting + 0.5], dim=1))


def test_the_loss_is_zero_for_who_knows_and_one_for_who_says_nothing_and_looks_at_hidden_samples_alone() -> None:
    class Says(MaskedSignal):
        def filled(self, encoder: EcgTransformer, head: nn.Module, ecg: Tensor) -> Tensor:
            return said

    question = Says().ask(windows(64), np.random.default_rng(0))
    said = question.answer
    assert Says().loss(EcgTransformer(SHAPE), nn.Identity(), question).item() == 0.0
    said = question.answer + 9.0 * (1.0 - question.hidden[:, None])
    assert Says().loss(EcgTransformer(SHAPE), nn.Identity(), question).item() == 0.0
    said = question.answer * torch.tensor([[0.0], [1.0]])
    assert Says().loss(EcgTransformer(SHAPE), nn.Identity(), question).item() == pytest.approx(1.0, abs=0.1)
    said = question.answer + torch.tensor([[0.0], [3.0]])
    assert Says().loss(EcgTransformer(SHAPE), nn.Identity(), question).item() == pytest.approx(9.0, rel=1e-4)
    assert Says(heart_rate=0.5).loss(EcgTransformer(SHAPE), nn.Identity(), question).item() == pytest.approx(4.5)


def test_the_rhythm_is_the_device_s_own_features_of_the_whole_window() -> None:
    """Whose 17 heart rates the device would have measured: faster, and more variable, from one window to the next."""
    spec, rng = default_spec(), np.random.default_rng(0)
    beats = [np.cumsum(rng.normal(0.6 + 0.02 * k, 0.004 * k, 200)) for k in range(17)]
    times = np.arange(60 * 128) / 128.0
    rate = np.stack([60.0 / np.diff(at)[np.searchsorted(at[1:-1], times + 5.0)] for at in beats])
    scale = spec.ecg.channels[1]
    x = np.stack([rng.standard_normal(rate.shape), (rate - scale.center) / scale.scale], axis=1).astype(np.float32)
    told = MaskedRhythm().ask(untouched(x), np.random.default_rng(0)).rhythm.numpy()
    assert told.shape == (17, len(RHYTHM))
    wanted = np.array(
        [features({"ecg": np.stack([each[0], r], axis=1)}, spec) for each, r in zip(x, rate, strict=True)]
    )
    for name in RHYTHM:
        column = wanted[:, tuple(ECG_FEATURES).index(name)]
        in_spreads = np.clip((column - column.mean()) / max(column.std(), 1e-3), -3.0, 3.0)
        np.testing.assert_allclose(told[:, RHYTHM.index(name)], in_spreads, atol=2e-3, err_msg=name)


def test_the_rhythm_s_error_is_zero_for_who_knows_and_one_for_who_says_nothing() -> None:
    class Told(EcgTransformer):
        def encoded(self, ecg: Tensor) -> Tensor:
            return known[:, :, None, None].expand(-1, -1, 1, 1 + self.config.n_tokens)

    pretext, encoder = MaskedRhythm(heart_rate=0.0), Told(SHAPE)
    question = pretext.ask(windows(64), np.random.default_rng(0))
    question = replace(
        question, rhythm=torch.randn(64, len(RHYTHM)).clamp(-3, 3), answer=torch.zeros_like(question.answer)
    )
    known = functional.pad(question.rhythm, (0, SHAPE.width - len(RHYTHM)))
    head = pretext.head(SHAPE)
    for weight in head.parameters():
        nn.init.zeros_(weight)
    assert pretext.loss(encoder, head, question).item() == pytest.approx(question.rhythm.square().mean().item())
    with torch.no_grad():
        head["tell"].weight[:, : SHAPE.width] = torch.eye(len(RHYTHM), SHAPE.width)
    assert pretext.loss(encoder, head, question).item() == pytest.approx(0.0, abs=1e-6)


def test_every_transform_is_asked_for_as_often_and_named_rightly() -> None:
    x = windows(28)
    question = HOW.ask(untouched(x), np.random.default_rng(0))
    assert question.answer.sum(dim=1).eq(1).all()
    assert question.answer.sum(dim=0).tolist() == [4.0] * 7
    same = [np.array_equal(a, b) for a, b in zip(question.ecg.numpy()[:, :, 0], x, strict=True)]
    assert same == (question.answer[:, 0] == 1).tolist()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", range(3))
def test_transforms_do_what_their_names_say(name: str, seed: int) -> None:
    x = untouched(windows(1, seed)[0])
    found = TRANSFORMS[name](x, HOW, np.random.default_rng(seed))
    assert found.dtype == np.float32 and found.shape == x.shape
    if name in ("noise", "scaling", "negation"):
        np.testing.assert_array_equal(found[1], x[1])
    match name:
        case "noise":
            assert (found[0] - x[0]).std() == pytest.approx(HOW.noise * x[0].std(), rel=0.1)
        case "scaling":
            assert round(float(found[0, 0] / x[0, 0]), 4) in (HOW.gain, 1 / HOW.gain)
        case "negation":
            np.testing.assert_array_equal(found[0], -x[0])
        case "time reversal":
            np.testing.assert_array_equal(found[:, ::-1], x)
        case "permutation":
            np.testing.assert_array_equal(np.sort(found[0]), np.sort(x[0]))
            assert (found[0] != x[0]).any()
        case "time warping":
            np.testing.assert_allclose(found[:, [0, -1]], x[:, [0, -1]], atol=1e-6)
            counting = TRANSFORMS[name](np.stack([COUNTING, COUNTING]), HOW, np.random.default_rng(seed))[0]
            speed = np.diff(counting)
            assert (speed > 0).all()
            assert speed.max() / speed.min() == pytest.approx(HOW.warp**2, rel=0.02)


@pytest.mark.parametrize("name", PRETEXTS)
def test_the_same_seed_asks_the_same(name: str) -> None:
    pretext = PRETEXTS[name]()
    a, b, c = (pretext.ask(windows(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.ecg, b.ecg) and torch.equal(a.answer, b.answer)
    assert not torch.equal(a.ecg, c.ecg)


@pytest.mark.parametrize(("name", "below"), [("masked", 0.9), ("masked-rhythm", 0.9), ("transforms", 0.3)])
def test_an_encoder_learns_it(name: str, below: float) -> None:
    """From windows whose beats come at other phases each time: saying nothing costs 1.0; guessing by share 0.41."""
    torch.manual_seed(0)
    pretext: Pretext = PRETEXTS[name]()
    encoder = EcgTransformer(replace(SHAPE, width=24)).train()
    head = pretext.head(encoder.config)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 5e-3)
    losses = []
    for step in range(90):
        question = pretext.ask(windows(28, step), np.random.default_rng(step))
        loss = pretext.loss(encoder, head, question)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[:3]) > below
    assert np.mean(losses[-10:]) < below
