"""affectd-train beats: what a pre-trained encoder is worth on real ECG, premature beats of people it has never seen.

Knows nothing of how that is judged.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from train.data.types import Signal

DATASET = "mitbih-tpcp"
HEADER, LENGTH = 24, struct.Struct("<I")
"""Of a capture by h10_ecg: bytes before the first notification; each stands behind its length."""
SIZES = (0.5, 1.0)
"""Multiples of the sensor's noise."""
REMEDY = "give an encoder whose configuration names them in `without`, as train/runs/pretrain/cpu.toml does"


@click.command()
@click.argument("path", metavar="ENCODER", type=click.Path(path_type=Path))
@click.option("--data", "root", type=click.Path(path_type=Path), help="MIT-BIH's records as tpcp has them.")
@click.option("--noise", type=click.Path(path_type=Path), help="A Polar H10's notifications, for its noise.")
@click.option("--people", default="1,3,6", show_default=True, help="How many people teach: each number on its own.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the records here (JSON).")
def beats(
    path: Path, root: Path | None, noise: Path | None, people: str, seeds: str, workers: int, output: Path | None
) -> None:
    """Fine-tune ENCODER to find premature ventricular beats in ECG as it was recorded.

    Beside it the same network from scratch, and encoders held still. Each person is judged by networks of others, at
    several rates and with a chest strap's noise.
    """
    from train.beats import SFREQS, Beats, BeatsConfig, at_rate, noise_of, summed_up, tokens_of, with_noise
    from train.cli import Progress, data_root, provenance
    from train.corpus_leads import corpus_spec
    from train.data import mitbih_tpcp
    from train.encoder import load_encoder
    from train.world import one_thread

    say, spec = Progress(), corpus_spec()
    encoder, about = load_encoder(path)
    root = data_root(root, DATASET)
    subjects = mitbih_tpcp.subjects(root)
    _refuse_seen(path, about, subjects)
    known = {s: Beats(s, _ecg(root, s), *mitbih_tpcp.beats(root, s)) for s in subjects}
    whole = {s: tokens_of(person, spec) for s, person in known.items()}
    judged = [s for s in subjects if whole[s].can_judge]
    say(f"{len(subjects)} people, {len(judged)} with enough premature beats: {', '.join(judged)}")
    changed = {s: {f"{sfreq:g} Hz": tokens_of(at_rate(known[s], sfreq), spec) for sfreq in SFREQS} for s in judged}
    if noise:
        strap = _capture(noise)
        left = noise_of(strap, spec)
        for k, s in enumerate(judged):
            as_strap = at_rate(known[s], strap.sfreq)
            for size in SIZES:
                name = f"{strap.sfreq:g} Hz, {size:g} x noise of a Polar H10"
                changed[s][name] = tokens_of(with_noise(as_strap, size * left, seed=k), spec)
    counts, tried = ([int(part) for part in text.split(",")] for text in (people, seeds))
    everyone = [whole[s] for s in judged]
    jobs = [(everyone, changed[s], encoder, spec, BeatsConfig(), s, counts, seed) for seed in tried for s in judged]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("fork"), initializer=one_thread) as pool:
        for done, found in enumerate(pool.map(_judged, jobs), 1):
            rows += found
            say(f"{done} of {len(jobs)}: {found[0]['subject']}, seed {found[0]['seed']}")
    made = {**provenance(f"affectd-train beats {path.name}"), "encoder": about.get("commit", "unknown")}
    records = [{**record, **made} for record in summed_up(rows)]
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    click.echo(table(records))


def _refuse_seen(path: Path, about: Mapping[str, Any], subjects: Sequence[str]) -> None:
    """CheckpointError where pre-training may have looked at somebody who is to judge."""
    from train.corpus_leads import person_of
    from train.errors import CheckpointError

    without = set(about.get("pretraining", {}).get("without", ()))
    seen = sorted({person_of(DATASET, "", s) for s in subjects} - without)
    if seen:
        raise CheckpointError(str(path), "pretraining.without", f"lacks {', '.join(seen)}, who are to judge", REMEDY)


def _ecg(root: Path, subject: str) -> Signal:
    from train.data import mitbih_tpcp

    return mitbih_tpcp.load(root, subject)[0].signals["ecg"]


def _capture(path: Path) -> Signal:
    """A Polar H10's ECG from its notifications as h10_ecg stores them."""
    import numpy as np

    from firmware_bridge.codecs import polar_pmd
    from train.data.types import Signal

    info, blob, at, values = polar_pmd.CODEC.stream_info, path.read_bytes(), HEADER, []
    while at + LENGTH.size <= len(blob):
        (length,) = LENGTH.unpack_from(blob, at)
        frame = blob[at + LENGTH.size : at + LENGTH.size + length]
        at += LENGTH.size + length
        if len(frame) == length:  # the last one may be cut
            values += polar_pmd.decode_packet(frame).values
    return Signal(np.array(values, float)[:, None] * info.scale, info.sfreq, "mV", ("ECG",))


def _judged(job: tuple[Any, ...]) -> list[dict[str, Any]]:
    from train.beats import leave_one_out

    return leave_one_out(*job)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """AUROC and its interval, a row for each number of people who teach and input, a column for each system."""
    from train.report.words import interval, table_lines

    systems = list(dict.fromkeys(r["system"] for r in records))
    cells = {(r["people"], r["input"], r["system"]): f"{r['auroc']:.3f} ({interval(r['ci95'])})" for r in records}
    rows = list(dict.fromkeys((r["people"], r["input"]) for r in records))
    judged = {(r["people"], r["input"]): str(r["subjects"]) for r in records}
    body = [(str(n), name, judged[n, name], *(cells[n, name, s] for s in systems)) for n, name in rows]
    return table_lines(("people", "input", "judged", *systems), body).rstrip("\n")
