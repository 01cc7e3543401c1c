"""Flat records to Markdown, and a results file back to flat records.

Knows nothing of how the records were made; reads only what is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.errors import ResultError
from train.report import ratings
from train.report.ablation import Ablation, ablation, one_sensor
from train.report.figures import MODES, name_of
from train.report.words import (
    MODE_WORDS,
    SURROGATE,
    column_words,
    figure,
    interval,
    p_value,
    p_words,
    sensors,
    system_words,
    table_lines,
)

Record = Mapping[str, Any]

COLUMNS = ("mode", "system", "mask", "bal. acc.", "95 %", "macro-F1", "acc.", "AUROC", "ECE", "p (acc)")
RESULT_COLUMNS = ("system", "sensors", *COLUMNS[3:-1], "ECE, all", "scored", "complete", "p (acc)")
ANSWER_COLUMNS = ("system", "sensors", "answered", "bal. acc. of the answers", "familiar")
FILE_COLUMNS = ("file", "sensors", "windows named as in float", "bal. acc.", "in float")
READING = """Leave-one-subject-out: nothing was fitted on the person who is judged; every choice was made on an inner
split of the others. Each figure is made per person and seed, averaged over seeds, then over people; the interval is a
95 % bootstrap over people. *ECE* is a person's, which is never small with few windows; *ECE, all* is that of
everybody's windows together. *scored* is the share of labelled windows that could be scored with these sensors.
*p (acc)* is Wilcoxon's signed-rank p of `acc` against the row with the same sensors, paired over people, two-sided,
not corrected for the number of rows. The *majority class* is the one commonest among everybody else. *Which sensors
there are* looks at no signal either: where it beats the majority class, the absence of a sensor tells something, and
*complete*, the balanced accuracy of the windows that have both sensors, is the figure to trust. *Calibrated* may
use a resting baseline of the person, recorded before and not scored; *cold start* nothing of the person. *int8* rows
are of the first seed alone: the networks that were kept, run by the device's own code."""


def read_records(path: Path) -> list[dict[str, Any]]:
    """Flat records of one results file."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(str(path), "file", error.strerror or "cannot be read", "run affectd-train loso") from error
    except ValueError as error:
        raise ResultError(str(path), "file", "is not JSON", "run affectd-train loso again") from error
    if not isinstance(records, list):
        raise ResultError(str(path), "top level", "is not a list of records", "run affectd-train loso again")
    return records


def table(records: Sequence[Record]) -> str:
    """Every record as a row of one Markdown table, for the terminal; ratings after it."""
    rated = ratings.markdown([record for record in records if "ccc" in record])[1:]
    records = [record for record in records if "ccc" not in record]
    return "\n\n".join([*([_classes_table(records)] if records else []), *rated]) + ("\n" if rated else "")


def _classes_table(records: Sequence[Record]) -> str:
    return table_lines(
        COLUMNS, [(r["mode"].replace("_", " "), _system(r), r["mask"], *_figures(r), _p(r)) for r in records]
    )


def markdown(records: Sequence[Record]) -> str:
    """A whole page: a table for each data set, task and mode, and what each part of the network is worth."""
    parts = ["# Results"]
    if any(record["surrogate_ecg"] for record in records):
        parts.append(f"**{SURROGATE}**")
    rated = [record for record in records if "ccc" in record]
    classes = [record for record in records if "ccc" not in record]
    return "\n\n".join([*parts, *_of_classes(classes), *ratings.markdown(rated), *_made_by(records)]) + "\n"


def _of_classes(records: Sequence[Record]) -> list[str]:
    parts = [READING] if records else []
    for (dataset, task, mode), of_group in by_group(records).items():
        parts += [f"## {column_words((dataset, task))}, {MODE_WORDS[mode]}", people_and_seeds(of_group)]
        parts.append(table_lines(RESULT_COLUMNS, [_row(r) for r in of_group]).rstrip("\n"))
        parts += [*_answers(of_group), *_beside_float(of_group)]
    for found in ablations(records):
        sees = sensors(found.sees, found.surrogate_ecg)
        parts += [f"## What `{found.ours}` with {sees} is worth, {MODE_WORDS[found.mode]}", *_ablation(found)]
    return parts


def _made_by(records: Sequence[Record]) -> list[str]:
    return ["## Made by", *_origins(records)]


def by_group(records: Sequence[Record]) -> dict[tuple[str, str, str], list[Record]]:
    """Records by data set, task and mode, in their order."""
    out: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        out.setdefault((record["dataset"], record["task"], record["mode"]), []).append(record)
    return out


def people_and_seeds(of_group: Sequence[Record]) -> str:
    """How many people each row is a mean of, who is left out, and the seeds."""
    least, most = (f(record["subjects"] for record in of_group) for f in (min, max))
    people = f"{most} people" if least == most else f"{least} to {most} people"
    seeds = ", ".join(map(str, sorted({seed for record in of_group for seed in record["seeds"]})))
    left_out: dict[str, list[str]] = {}
    for record in of_group:
        if record.get("left_out"):
            left_out.setdefault(", ".join(record["left_out"]), []).append(record["mask"])
    because = (
        f" Without two classes to score, and so left out of some rows: {names} ({' and '.join(sorted(set(masks)))})."
        for names, masks in left_out.items()
    )
    return f"{people}; seeds {seeds}.{''.join(because)}"


def ablations(records: Sequence[Record]) -> list[Ablation]:
    """Every ablation that there is something for: ours by mode, then EmoBed by mode and by what it is shown."""
    ours = [ablation(records, mode) for mode in MODES]
    emobed = [one_sensor(records, mode, mask) for mode in MODES for mask in ("ecg", "eda", "both")]
    return [found for found in (*ours, *emobed) if found]


def _row(record: Record) -> tuple[str, ...]:
    coverage = record.get("coverage")
    scored = "" if coverage is None else f"{coverage:.0%}"
    ece = figure(record.get("ece_all"))
    complete = figure(record.get("complete_balanced_accuracy"))
    shown = _system(record), sensors(record["mask"], record["surrogate_ecg"]), *_figures(record)
    return *shown, ece, scored, complete, _p(record)


def _answers(of_group: Sequence[Record]) -> list[str]:
    """What systems that know when not to answer leave out."""
    rows = [
        (
            _system(record),
            sensors(record["mask"], record["surrogate_ecg"]),
            f"{record['answered']:.0%}",
            figure(record["answered_balanced_accuracy"]),
            f"{record['familiar']:.0%}",
        )
        for record in of_group
        if "answered" in record
    ]
    text = (
        "Answered are windows that are familiar and whose greatest probability reaches the threshold of their sensors."
    )
    return [text, table_lines(ANSWER_COLUMNS, rows).rstrip("\n")] if rows else []


def _beside_float(of_group: Sequence[Record]) -> list[str]:
    """What files for the device say beside the networks that they were made of."""
    rows = [
        (
            _system(record),
            sensors(record["mask"], record["surrogate_ecg"]),
            f"{record['agreement']:.1%}",
            figure(record["balanced_accuracy"]),
            figure(record["float_balanced_accuracy"]),
        )
        for record in of_group
        if "agreement" in record
    ]
    text = "Each fold's network as a file for the device, and the same network in float on the same windows."
    return [text, table_lines(FILE_COLUMNS, rows).rstrip("\n")] if rows else []


def _system(record: Record) -> str:
    return system_words(name_of(record), record.get("runtime", "float"))


def _figures(record: Record) -> tuple[str, ...]:
    rest = (figure(record[key]) for key in ("macro_f1", "accuracy", "auroc", "ece"))
    return figure(record["balanced_accuracy"]), interval(record["ci95"]), *rest


def _p(record: Record) -> str:
    return p_value(record.get("p_acc", record.get("wilcoxon_p_acc_against_this")))


def _ablation(found: Ablation) -> Iterator[str]:
    yield (
        f"Balanced accuracy of `{found.ours}` with {sensors(found.sees, found.surrogate_ecg)} minus that of the row: "
        "difference (95 % interval; p), paired over people. The mean weighs data sets alike; its p is over the people "
        "of all of them."
    )
    head = (f"`{found.ours}` against", "sees", *(column_words(column) for column in found.columns))
    body = []
    for row in found.rows:
        margins = (row.margins.get(column) for column in found.columns)
        cells = (
            "" if m is None else f"{m.difference:+.3f} ({interval(m.ci95, True)}; {p_words(m.p)})" for m in margins
        )
        body.append((row.system, sensors(row.mask, found.surrogate_ecg), *cells))
    yield table_lines(head, body).rstrip("\n")
    best = ", ".join(f"{column_words(column)} {system}" for column, system in found.best_classical.items())
    if best:
        yield f"Best classical model: {best}."


def _origins(records: Sequence[Record]) -> Iterator[str]:
    commands = sorted({(str(r.get("commit", "unknown")), str(r.get("command", "unknown"))) for r in records})
    yield "\n".join(f"- `{command}` at commit {commit}" for commit, command in commands)
