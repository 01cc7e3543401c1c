"""The ECG Transformer: what its parts are by definition, what has no influence, that it learns, and its cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from train.models.acc import count_parameters
from train.models.ecg_transformer import (
    STEP,
    TOKEN_TIMES,
    Attention,
    Centred,
    EcgTransformer,
    Layer,
    TransformerConfig,
    positions,
    summary,
)

SHAPE = TransformerConfig(ecg_times=16 * TOKEN_TIMES, eda_times=64, width=16, heads=2, feed=24, stem=8)
MAX_INT8_BYTES = 512_000
"""The design's bar for the whole file; weights are one byte each."""


def model(config: TransformerConfig = SHAPE) -> EcgTransformer:
    """With BatchNorm that is not as it begins, where layers do nothing."""
    torch.manual_seed(0)
    net = EcgTransformer(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    return net.eval()


def ecg(n: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, 2, 1, SHAPE.ecg_times, generator=torch.Generator().manual_seed(seed))


def asked(net: EcgTransformer, x: Tensor, mask: tuple[float, float] = (1.0, 0.0)) -> Tensor:
    return net(x, torch.zeros(len(x), 2, 1, 64), torch.tensor(mask).expand(len(x), 2))


@torch.no_grad()
def test_attention_is_that_of_torch() -> None:
    """With the same projections, torch's own scaled dot product gives the same."""
    torch.manual_seed(0)
    attention = Attention(16, 4).eval()
    nn.init.ones_(attention.out[1].weight)
    x = torch.randn(3, 16, 1, 11)
    heads = [p(x)[:, :, 0].reshape(3, 4, 4, 11).transpose(2, 3) for p in (attention.query, attention.key)]
    value = attention.value(x)[:, :, 0].reshape(3, 4, 4, 11).transpose(2, 3)
    mixed = nn.functional.scaled_dot_product_attention(*heads, value, scale=1.0)
    wanted = attention.out(mixed.transpose(2, 3).reshape(3, 16, 1, 11))
    torch.testing.assert_close(attention(x), wanted)
    torch.testing.assert_close(attention.weights(x).sum(dim=3), torch.ones(3, 4, 11))


def test_queries_begin_divided_by_the_root_of_a_head_s_size() -> None:
    torch.manual_seed(0)
    attention, x = Attention(32, 2).train(), torch.randn(64, 32, 1, 20)
    assert attention.query(x).std().item() == pytest.approx(1 / 4, rel=0.02)
    assert attention.key(x).std().item() == pytest.approx(1.0, rel=0.05)


@given(size=st.floats(0.1, 1000.0))
@torch.no_grad()
def test_what_is_multiplied_second_ends_where_eight_bits_with_a_zero_in_the_middle_do(size: float) -> None:
    """TFLite: scale = (max - min) / 255 and zero point = -128 - min / scale, which is to be 0."""
    torch.manual_seed(0)
    found = Centred(8, 8).train()(size * torch.randn(64, 8, 1, 40))
    low, high = found.min().item(), found.max().item()
    scale = (high - low) / 255
    assert scale == pytest.approx(STEP, rel=1e-4)
    assert round(-128 - low / scale) == 0


@torch.no_grad()
def test_layers_begin_as_nothing() -> None:
    torch.manual_seed(0)
    net = EcgTransformer(SHAPE)
    assert torch.equal(net.encoded(ecg()), net.tokens(ecg()))
    assert not torch.equal(model().encoded(ecg()), model().tokens(ecg()))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_without_positions_the_order_of_tokens_says_nothing_and_with_them_it_does(seed: int) -> None:
    net, tokens = model(), model().stem(ecg())
    order = torch.randperm(SHAPE.n_tokens, generator=torch.Generator().manual_seed(seed))

    def said(x: Tensor) -> Tensor:
        x = torch.cat([net.cls.expand(len(x), -1, -1, -1), x], dim=3)
        for layer in net.layers:
            x = layer(x)
        return summary(x)

    assert torch.allclose(said(tokens), said(tokens[:, :, :, order]), atol=1e-4)
    assert not torch.allclose(said(tokens + net.position), said(tokens[:, :, :, order] + net.position), atol=1e-3)
    assert torch.equal(said(tokens + net.position), net.representation(ecg()))


@torch.no_grad()
def test_a_token_stands_for_its_own_time_and_its_neighbours_and_cls_for_all() -> None:
    net, x = model(), ecg(1)
    spoilt = x.clone()
    spoilt[:, :, :, 5 * TOKEN_TIMES : 6 * TOKEN_TIMES] += 5.0
    changed = (net.tokens(x) != net.tokens(spoilt)).any(dim=1).flatten()
    assert changed.nonzero().flatten().tolist() == [5, 6, 7]  # CLS is the first
    assert (net.encoded(x) != net.encoded(spoilt))[:, :, :, 0].any()


def test_positions_are_the_paper_s() -> None:
    found = positions(50, 8)[0, :, 0].numpy()
    for channel in range(8):
        angle = np.arange(50) / 10000 ** (2 * (channel // 2) / 8)
        np.testing.assert_allclose(found[channel], np.cos(angle) if channel % 2 else np.sin(angle), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(-100.0, 100.0))
@torch.no_grad()
def test_without_ecg_its_array_says_nothing_and_eda_never_does(scale: float) -> None:
    net, x = model(), ecg()
    assert torch.equal(asked(net, x, (0.0, 1.0)), asked(net, x * scale + 1, (0.0, 1.0)))
    assert not torch.equal(asked(net, x), asked(net, x + 1))
    shown, eda = torch.tensor((1.0, 1.0)).expand(3, 2), torch.full((3, 2, 1, 64), scale)
    assert torch.equal(net(x, eda, shown), asked(net, x))


@torch.no_grad()
def test_what_cls_attends_to_adds_up_to_the_rest_of_itself() -> None:
    net, x = model(), ecg()
    found = net.attended(x)
    assert found.shape == (3, SHAPE.layers, SHAPE.n_tokens)
    own = net.layers[0].attention.weights(net.tokens(x))[:, :, 0, 0].mean(dim=1)
    torch.testing.assert_close(found[:, 0].sum(dim=1) + own, torch.ones(3))


def test_every_weight_has_a_part_in_the_answer() -> None:
    net = model().train()
    asked(net, ecg(8)).square().sum().backward()
    silent = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert not silent


def test_it_learns_to_tell_a_fast_rhythm_from_a_slow_one() -> None:
    """By the ECG channel alone: a pulse each 0.5 s or each 0.9 s, at a random phase."""
    rng = np.random.default_rng(0)

    def beats(n: int) -> tuple[Tensor, Tensor]:
        label = rng.integers(0, 2, n)
        period = np.where(label, 0.5, 0.9)[:, None]
        phase = (np.arange(SHAPE.ecg_times) / 128.0 + rng.random((n, 1))) % period
        signal = np.exp(-((phase / 0.03) ** 2)) + 0.1 * rng.standard_normal(phase.shape)
        x = np.stack([signal, np.zeros_like(signal)], axis=1)[:, :, None]
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(label)

    torch.manual_seed(0)
    net = EcgTransformer(replace(SHAPE, dropout=0.0)).train()
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(60):
        x, label = beats(32)
        loss = nn.functional.cross_entropy(asked(net, x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, label = beats(200)
    with torch.no_grad():
        assert (asked(net.eval(), x).argmax(1) == label).float().mean() > 0.9


def test_the_default_fits_its_file() -> None:
    net = EcgTransformer()
    assert net.config.n_tokens == 120
    assert count_parameters(net) < MAX_INT8_BYTES / 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modalities": ("ecg", "eda")}, "reads ecg"),
        ({"ecg_times": 7681}, "whole number of tokens"),
        ({"ecg_times": 0}, "whole number of tokens"),
        ({"width": 18, "heads": 4}, "heads of even size"),
        ({"heads": 0}, "heads of even size"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(TransformerConfig(), **changes)


@torch.no_grad()
def test_a_layer_adds_to_what_was_there() -> None:
    torch.manual_seed(0)
    layer, x = Layer(16, 2, 24).eval(), torch.randn(2, 16, 1, 9)
    assert torch.equal(layer(x), x)
    nn.init.ones_(layer.feed[2][1].weight)
    torch.testing.assert_close(layer(x), x + layer.feed(x))
