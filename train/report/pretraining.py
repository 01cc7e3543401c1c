"""One pre-training as a page that loads nothing: its data, its loss, and what the encoder makes of people it never saw.

Knows nothing of how it was trained, nor where the page goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from device.bundle import DISCLAIMER
from train.corpus import Corpus
from train.encoder import body
from train.metrics import auroc
from train.pretext import PRETEXTS, TRANSFORMS, MaskedSignal, Question, TransformRecognition
from train.pretrain import PretrainConfig, Pretrained, scaled
from train.report.page import templates
from train.report.plots import OURS_COLOUR, QUIET, STYLE, THEIRS_COLOUR, WIDTH, svg
from train.report.words import table_lines

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

N_PICTURES = 4
"""People whose ECG is drawn."""
EXCERPT_S = 12.0
"""Of each window, from its middle."""
RECOGNISED = 512
"""Windows at most that are asked what was done to them."""
LOSS_WORDS = {
    "masked": "Mean squared error over what is hidden, of the ECG in spreads of each window and of the heart rate as "
    "the network reads it, added up; of the ECG alone it is 1 for who says nothing.",
    "masked-rhythm": "Mean squared error over what is hidden, of the ECG in spreads of each window and of the heart "
    "rate as the network reads it, and of the whole window's rhythm in spreads of a batch, added up; of the ECG and of "
    "the rhythm it is 1 for who says nothing.",
    "transforms": "Binary cross-entropy, mean over what may have been done and nothing.",
}


def page(made: Pretrained, corpus: Corpus, config: PretrainConfig, about: Mapping[str, Any]) -> str:
    """The page; ``about`` is what the encoder's file says of itself."""
    pretext = PRETEXTS[config.pretext]()
    _, held = corpus.split(config.held_out, config.seed, config.without)
    pictures, recognised = [], []
    if isinstance(pretext, MaskedSignal):
        pictures = [(person, Markup(drawing)) for person, drawing in fillings(made, corpus, pretext, held, config.seed)]
    elif isinstance(pretext, TransformRecognition):
        recognised = recognitions(made, corpus, pretext, held[:RECOGNISED], config.seed)
    return templates.get_template("pretraining.html.j2").render(
        title="Pre-training of the ECG encoder",
        windows=len(corpus),
        window_s=corpus.spec.window_s,
        steps=config.steps,
        batch=config.batch,
        held_out_people=len({corpus.where(int(i)).person for i in held}),
        datasets=about["datasets"],
        without=config.without,
        curve=Markup(curve(made.history, "Loss over steps")),
        loss_words=LOSS_WORDS[config.pretext],
        pictures=pictures,
        excerpt_s=EXCERPT_S,
        recognised=recognised,
        configuration=json.dumps({k: v for k, v in about.items() if k != "history"}, indent=2),
    )


def card(made: Pretrained, about: Mapping[str, Any]) -> str:
    """What goes with the encoder's file wherever it goes, Markdown; ``about`` as for :func:`page`."""
    config, rows = about["pretraining"], about["datasets"]
    without = ", ".join(config["without"])
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    weights = sum(weight.numel() for weight in body(made.encoder).values())
    loss = f"{made.history[-1]['held_out']:.3f}"
    sources = [(row["name"], row["licence"], str(row["subjects"]), row["url"]) for row in rows]
    parts = [
        "# ECG encoder",
        f"The encoder of affectd's ECG Transformer ({weights:,} weights), pre-trained without labels on "
        f"{about['windows']:,} windows of ECG. It begins networks for emotion; by itself it tells nothing.",
        DISCLAIMER,
        "## Learned from",
        table_lines(("data set", "licence", "people", "source"), sources).rstrip("\n"),
        f"Left out, to be tested on: {without}." if without else "Nobody was left out.",
        "## How",
        f"Pretext `{config['pretext']}`, {config['steps']:,} steps of {config['batch']} windows; loss of held-out "
        f"people {loss}. {LOSS_WORDS[config['pretext']]}",
        f"`{about.get('command', 'unknown')}` at commit {about.get('commit', 'unknown')}; {versions}.",
        "## Limits",
        "What it learned from was made to look like a chest strap's ECG by rate, gain, polarity, wander and noise; "
        "where no data set above is one's, it is none.",
    ]
    return "\n\n".join(parts) + "\n"


def curve(history: Sequence[Mapping[str, float]], label: str) -> str:
    """Loss of the steps and of held-out people over steps."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots()
        steps = [row["step"] for row in history]
        axes.plot(steps, [row["loss"] for row in history], color=QUIET, label="the steps since the last look")
        axes.plot(steps, [row["held_out"] for row in history], color=OURS_COLOUR, label="held-out people")
        axes.set(xlabel="step", ylabel="loss", xlim=(0, None))
        axes.legend()
        return svg(figure, label)


def fillings(made: Pretrained, corpus: Corpus, pretext: MaskedSignal, held: Ints, seed: int) -> list[tuple[str, str]]:
    """Of some held-out people, one window each: who it is, and what the encoder fills in of what is hidden."""
    rng = np.random.default_rng(seed)
    chosen: dict[str, int] = {}
    for index in rng.permutation(held).tolist():
        chosen.setdefault(corpus.where(index).person, index)
    out = []
    for index in list(chosen.values())[:N_PICTURES]:
        question = pretext.ask(scaled(corpus.windows([index]), corpus.spec), rng)
        with torch.no_grad():
            filled = pretext.filled(made.encoder, made.head, question.ecg)
        place = corpus.where(index)
        name = f"{place.source} {place.subject}, {place.lead}, at {place.start:.0f} s"
        out.append((name, filling(question, filled[0].numpy(), corpus.spec.ecg.sfreq, name)))
    return out


def filling(question: Question, filled: Floats, sfreq: float, label: str) -> str:
    """One window's middle, ECG and heart rate: recorded, hidden, filled in (2, n_times)."""
    n = round(EXCERPT_S * sfreq)
    begin = max(0, (filled.shape[1] - n) // 2)
    part = slice(begin, begin + n)
    recorded, hidden = question.answer[0].numpy()[:, part], question.hidden[0].numpy()[part] > 0
    t = np.arange(len(hidden)) / sfreq
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        rows = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
        for axes, given, told, words in zip(rows, recorded, filled[:, part], ("ECG", "heart rate"), strict=True):
            low, high = given.min() - 0.5, given.max() + 0.5
            where = hidden.tolist()
            axes.fill_between(t, low, high, where=where, color=THEIRS_COLOUR, alpha=0.15, linewidth=0, step="mid")
            axes.plot(t, given, color=QUIET, linewidth=0.9)
            axes.plot(t, np.where(hidden, told, np.nan), color=OURS_COLOUR, linewidth=1.3)
            axes.set(xlim=(0, t[-1]), ylim=(low, high), ylabel=words)
        rows[-1].set_xlabel("s")
        return svg(figure, label)


def recognitions(
    made: Pretrained, corpus: Corpus, pretext: TransformRecognition, held: Ints, seed: int
) -> list[tuple[str, float]]:
    """What may have been done -> how well it is told from everything else."""
    question = pretext.ask(scaled(corpus.windows(held), corpus.spec), np.random.default_rng(seed))
    with torch.no_grad():
        parts = question.ecg.split(64)
        told = torch.cat([torch.sigmoid(made.head(made.encoder.representation(part))) for part in parts]).numpy()
    done = question.answer.numpy().astype(np.int64)
    names = ("nothing", *TRANSFORMS)
    return [
        (name, auroc(done[:, k], np.stack([1 - told[:, k], told[:, k]], axis=1).astype(float)))
        for k, name in enumerate(names)
    ]
