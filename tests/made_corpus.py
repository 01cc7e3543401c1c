"""A corpus of made-up beats; started by torch.distributed.run with a folder, two processes pre-train on it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from train.corpus import FORMAT, Corpus, Lead, Plan, Record, Source
from train.corpus_build import Writer
from train.corpus_leads import corpus_spec
from train.pretrain import PretrainConfig, Randomisation, pretrain
from train.world import joined

SPEC = msgspec.structs.replace(corpus_spec(), window_s=10.0, stride_s=10.0)
NONE = Randomisation(**dict.fromkeys(Randomisation.__struct_fields__, 0.0))
TINY: dict[str, Any] = {"stem": 8, "width": 16, "heads": 2, "feed": 24, "layers": 1}


def config(**changes: Any) -> PretrainConfig:
    """A small network for a few steps."""
    few: dict[str, Any] = {"steps": 12, "batch": 8, "judge_every": 4, "judged": 16, "held_out": 0.3, "model": TINY}
    return msgspec.convert(few | changes, PretrainConfig)


def corpus(out: Path, people: int = 6, windows: int = 8) -> Corpus:
    """Each person has a rate and a shape of beat of his own; ecg in mV, heart rate in 1/min."""
    plan = Plan(FORMAT, SPEC, "", 16, (Source("made", "wfdb", "Made up", "CC0", "nowhere"),))
    n_times = SPEC.n_times("ecg")
    with Writer(out, plan) as writer:
        for k in range(people):
            rng = np.random.default_rng(k)
            period, width = 0.6 + 0.08 * k, 0.02 + 0.004 * k
            phase = (np.arange(n_times) / 128.0 + rng.random((windows, 1))) % period
            ecg = np.exp(-(((phase - 0.3) / width) ** 2)) + 0.01 * rng.standard_normal(phase.shape)
            data = np.stack([ecg, np.full_like(ecg, 60.0 / period)], axis=1).astype(np.float16)
            lead = Lead("", "II", 250.0, tuple(10.0 * i for i in range(windows)), {}, "")
            writer.add(Record("made", f"r{k}", f"p{k}", "", (lead,), (), ""), data)
        writer.finish()
    return Corpus.open(out)


def main(out: Path) -> None:
    """The same steps as alone, every batch shared out; each process writes what it ends with."""
    torch.set_num_threads(1)
    with joined() as world:
        if world.rank == 0:
            corpus(out / "corpus")
        world.wait()
        found = pretrain(Corpus.open(out / "corpus"), config(), out / "run", world=world)
        torch.save(found.encoder.state_dict(), out / f"{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
