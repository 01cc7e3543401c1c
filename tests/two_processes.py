"""Started by torch.distributed.run: an evaluation of the made-up people, its folds shared out, then every batch.

``python -m torch.distributed.run ... two_processes.py OUT``; each rank also writes the network that it ends with.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from made_people import made_config, made_people
from torch import nn

from train.augment import NONE
from train.config import Config, Inner
from train.evaluate import Fold, Material
from train.loso import Options, loso
from train.models.acc import ACC
from train.select import Choice
from train.windows import Windows
from train.world import World, joined

CHOICE = Choice(60.0, 60.0, {}, ())
SYSTEMS = ("acc", "decision-fusion", "classical-lda")


def shared_config(**changes: Any) -> Config:
    """What both kinds of sharing run: each subject's choice is one of two."""
    inner = Inner(((60.0, 60.0), (60.0, 120.0)), epochs=1)
    return made_config(systems=SYSTEMS, modes=("cold_start",), inner=inner, **changes)


def network(world: World, epochs: int = 15) -> ACC:
    """A cross-modal network that does not see P0, each batch shared out; no chance but the seed's."""
    still = {"epochs": epochs, "batch": 14, "lr": 1e-2, "augmentation": asdict(NONE)}
    wider = {"stem": 4, "widths": [8, 8], "stages": [1], "hidden": 16, "dropout": 0.0}
    material = Material(made_people(3), shared_config(fit=still, model=wider), "cold_start")
    return material.network("acc", Fold("P0", ("P1", "P2")), CHOICE, 0, world=world).model


def his_windows() -> Windows:
    """P0's."""
    return Material(made_people(1), shared_config(), "cold_start").windows(CHOICE.candidate)


def means(world: World) -> dict[str, float]:
    """Of gradients 1 and 2, and of running means 10 and 20."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1.0 + world.rank)
    model[1].running_mean.fill_(10.0 * (1 + world.rank))
    world.average_gradients(model)
    world.average_buffers(model)
    assert len({float(g) for p in model.parameters() for g in p.grad.flatten()}) == 1
    return {"gradient": float(model[0].weight.grad[0, 0]), "statistic": float(model[1].running_mean[0])}


def main(out: Path) -> None:
    """All of it on this rank."""
    with joined() as world:
        people = made_people(3)
        shared = Options(workers=1, parallel="folds")
        assert loso(people, shared_config(), out / "folds", options=shared, world=world)
        missing = out / "data" if world.rank == 0 else out / "no-shared-disk"
        assert loso(people, shared_config(), missing, options=Options(workers=1, parallel="data"), world=world)
        late = Options(workers=1, parallel="data", minutes=0.0 if world.rank == 0 else 60.0)  # clocks differ
        assert not loso(people, shared_config(), out / "late", options=late, world=world)
        torch.save(network(world).state_dict(), out / f"rank{world.rank}.pt")
        (out / f"means{world.rank}.json").write_text(json.dumps(means(world)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
