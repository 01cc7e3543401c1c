"""Made-up people for every test that trains: few windows, a task that is easy to tell, and a network that is tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from device.pipeline.spec import SignalSpec
from train.config import Config, Inner, TaskTable
from train.encoder import save_encoder
from train.models.ecg_transformer import EcgTransformer, TransformerConfig
from train.prepare import Prepared
from train.windows import Windows

CALM_S, STRESS_S, WHOLE_S = 480.0, 840.0, 900.0
"""Calm lasts until the first, stress until the second; what follows has no label."""
N = 15
"""Windows of each, one a minute: 8 calm, of them 5 in the resting baseline, 6 stressed, 1 without a label."""
N_CALM, N_STRESS, N_BASELINE = 8, 6, 5
CALM, STRESS = 0, 1
TABLE = TaskTable(("calm", "stress"), {"rest": "calm", "quiz": "stress"}, ("rest",))
TINY: dict[str, Any] = {"stem": 2, "widths": [3, 3], "stages": [1], "hidden": 4}
QUICK: dict[str, Any] = {"epochs": 2, "batch": 16}


def made_config(**changes: Any) -> Config:
    """An evaluation of the made-up people that takes a moment."""
    given: dict[str, Any] = {
        "dataset": "plain",
        "task": "calm/stress",
        "systems": ("acc",),
        "labels": TABLE,
        "seeds": (0,),
        "inner": Inner(((60.0, 60.0), (60.0, 120.0)), epochs=1),
        "fit": QUICK,
        "model": TINY,
    }
    return Config(**given | changes)


SMALL = TransformerConfig(stem=4, width=8, layers=1, heads=2, feed=8, hidden=4)


def made_encoder(path: Path, seed: int = 99) -> Path:
    """The file of an encoder that nothing has trained, other than any that a test begins with."""
    torch.manual_seed(seed)
    save_encoder(path, EcgTransformer(SMALL), {"windows": 7})
    return path


def made_person(subject: str, seed: int = 0, spec: SignalSpec | None = None) -> Prepared:
    """Under stress the heart is faster and the tonic level higher; all windows have both sensors."""
    spec = spec or made_config().longest()
    rng = np.random.default_rng(seed)
    start = 60.0 * np.arange(N)
    stressed = (start >= CALM_S) & (start < STRESS_S)
    n_ecg, n_eda = spec.n_times("ecg"), spec.n_times("eda")
    seconds = np.repeat(rng.normal(0, 1, (N, n_ecg // 128)), 128, axis=1)
    rate = 70 + rng.normal(0, 2) + 15 * stressed[:, None] + seconds
    tonic = 3 + rng.normal(0, 0.3) + 3 * stressed[:, None] + rng.normal(0, 0.1, (N, n_eda))
    return Prepared(
        subject,
        "1",
        False,
        np.stack([rng.normal(0, 0.1, (N, n_ecg)), rate], axis=2).astype(np.float32),
        np.stack([tonic, rng.normal(0, 0.05, (N, n_eda))], axis=2).astype(np.float32),
        np.ones((N, 2), bool),
        np.zeros(N),
        start,
        np.array([(0.0, CALM_S), (CALM_S, STRESS_S)]),
        np.array(["rest", "quiz"]),
        np.array(["arousal"]),
        np.where(start >= STRESS_S, np.nan, np.where(stressed, 7.0, 3.0) + rng.normal(0, 0.5))[:, None],
    )


def made_people(n: int = 4, spec: SignalSpec | None = None) -> list[Prepared]:
    """P0, P1, ... with both sensors all the time."""
    return [made_person(f"P{i}", i, spec) for i in range(n)]


def without(person: Prepared, modality: str, windows: slice = slice(None)) -> Prepared:
    """The same person, not wearing a sensor in some windows: zeros, and not covered."""
    data, covered = getattr(person, modality).copy(), person.covered.copy()
    data[windows] = 0.0
    covered[windows, ("ecg", "eda").index(modality)] = False
    return replace(person, covered=covered, **{modality: data})


def only_calm(person: Prepared) -> Prepared:
    """The same person, never stressed: what was the quiz has no label."""
    return replace(person, spans=person.spans[:1], descriptions=person.descriptions[:1])


def spoiled(windows: Windows, subject: str) -> Windows:
    """The same windows, but for one person: other signals, other labels."""
    his = windows.subject == subject
    return replace(
        windows,
        ecg=np.where(his[:, None, None], np.float32(5.0), windows.ecg),
        eda=np.where(his[:, None, None], np.float32(-5.0), windows.eda),
        label=np.where(his, 1 - windows.label, windows.label),
    )
