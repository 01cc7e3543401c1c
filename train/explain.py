"""What in one window speaks for an answer: integrated gradients of every sample, and what a Transformer's CLS looks at.

Knows nothing of files or of drawing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from device.pipeline.spec import MODALITIES
from train.fit import Network, tensor
from train.models.ecg_transformer import EcgTransformer

Floats32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

STEPS = 128
"""Points on the way from nothing to the window: the parts then add up to the whole within a percent or so."""
BATCH = 32


@dataclass(frozen=True, eq=False)
class Explanation:
    """One window, as the network sees it, and what speaks for one of its answers."""

    arrays: Mapping[str, Floats32]
    """Modality -> (n_chans, n_times) scaled input; those that the network was shown."""
    probability: Floats
    """(n_outputs,)."""
    answer: int
    """Which is explained: the most probable."""
    parts: Mapping[str, Floats]
    """Modality -> (n_chans, n_times) of ``total``, by sample: above 0 it speaks for the answer, below against it."""
    total: float
    """By how much the answer's logit, over the mean of the others', exceeds that of a window of zeros."""
    attended: Floats | None
    """(n_layers, n_tokens) what CLS takes of each token, for a Transformer."""


def explain(model: Network, arrays: Mapping[str, Floats32]) -> Explanation:
    """Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) from a window of zeros.

    ``arrays`` are one window's, as device.pipeline.model_input gives them; what is absent is not shown.
    """
    model.eval()
    shapes = {"ecg": (2, model.config.ecg_times), "eda": (2, model.config.eda_times)}
    whole = [torch.from_numpy(arrays.get(m, np.zeros(shapes[m], np.float32)))[None] for m in MODALITIES]
    mask = torch.tensor([[float(m in arrays) for m in MODALITIES]])
    with torch.no_grad():
        logits = model(*(x[:, :, None] for x in whole), mask)[0]
    answer = int(logits.argmax())
    slopes = [torch.zeros_like(x[0], dtype=torch.float64) for x in whole]
    middles = (torch.arange(STEPS) + 0.5) / STEPS
    for part in middles.split(BATCH):
        inputs = [(part[:, None, None] * x).requires_grad_() for x in whole]
        found = model(*(x[:, :, None] for x in inputs), mask.expand(len(part), -1))
        gradients = torch.autograd.grad(_margin(found, answer).sum(), inputs, allow_unused=True)
        for slope, gradient in zip(slopes, gradients, strict=True):
            if gradient is not None:
                slope += gradient.double().sum(0) / STEPS
    with torch.no_grad():
        nothing = model(*(torch.zeros_like(x)[:, :, None] for x in whole), mask)
        total = float(_margin(logits[None], answer) - _margin(nothing, answer))
        attended = None
        if isinstance(model, EcgTransformer):
            attended = model.attended(tensor(whole[0].numpy()))[0].double().numpy()
    parts = {m: (s * x[0]).numpy() for m, s, x in zip(MODALITIES, slopes, whole, strict=True) if m in arrays}
    shown = {m: arrays[m] for m in MODALITIES if m in model.config.modalities and m in arrays}
    told = torch.softmax(logits.double(), dim=0).numpy()
    return Explanation(shown, told, answer, {m: parts[m] for m in shown}, total, attended)


def _margin(logits: torch.Tensor, answer: int) -> torch.Tensor:
    """(N,) an answer's logit over the mean of the others'."""
    others = [k for k in range(logits.shape[1]) if k != answer]
    return logits[:, answer] - logits[:, others].mean(dim=1)
