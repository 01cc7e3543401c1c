"""What people read of a bundle: card.md and the summary on the terminal. Every figure comes from manifest and report.

Knows nothing of how the figures were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from device.bundle import DISCLAIMER, Bundle, Manifest, Thresholds
from quantize.observers import MIN_MAX

KINDS = {
    "int8": "weights and activations in int8",
    "int8x16": "weights in int8 and activations in int16",
    "dynamic-range": "weights in int8 and activations in float",
    "float16": "weights in float16",
    "float32": "everything in float32",
}
MASK_WORDS = {"ecg+eda": "ECG and EDA", "both": "ECG and EDA", "ecg": "ECG alone", "eda": "EDA alone"}


def card(manifest: Manifest, report: Mapping[str, Any]) -> str:
    """The model card, Markdown."""
    sections = (
        [f"# {manifest.name}", DISCLAIMER],
        ["## What it is", *_what(manifest, report)],
        ["## Intended use", *_use(manifest)],
        ["## Trained on", *_trained(manifest, report)],
        ["## Validated on", *_validated(manifest, report)],
        [f"## {report['model']['format']} against float", *_parity(manifest, report)],
        ["## Limits", *_limits(manifest)],
    )
    return "\n\n".join(part for section in sections for part in section) + "\n"


def _what(m: Manifest, report: Mapping[str, Any]) -> list[str]:
    """Task, input and size."""
    model = report["model"]
    of_each = {"ecg": f"ECG at {m.spec.ecg.sfreq:g} Hz", "eda": f"EDA at {m.spec.eda.sfreq:g} Hz"}
    both = "; either may be absent" if len(m.modalities) > 1 else ", and nothing else"
    rates = f"{' and '.join(of_each[modality] for modality in m.modalities)}{both}"
    mode = (
        "It needs a resting baseline of the wearer (`affectd baseline`)."
        if m.spec.needs_baseline
        else "It works from a cold start: no data of the wearer is needed beforehand."
    )
    reads = "windows" if m.features is None else f"{len(m.features.names)} features of windows"
    return [
        f"A network ({model['name']}) that answers: {m.task}. Labels: {', '.join(m.labels)}. It reads {reads} of "
        f"{m.spec.window_s:g} s, one every {m.spec.stride_s:g} s, of {rates}. {mode}",
        f"TFLite with {KINDS[model['format']]}, {model['size_bytes']} bytes, {sum(model['operators'].values())} "
        f"operators, of which {len(model['float_operators'])} in float. "
        f"Format {model['format']}: {report['recipe']['why']}.",
    ]


def _use(m: Manifest) -> list[str]:
    """For whom and for what."""
    return [
        "Research and personal exploration of one's own signals, on one's own device. Not for diagnosis, treatment, "
        "hiring, policing, or any decision about a person."
    ]


def _trained(m: Manifest, report: Mapping[str, Any]) -> list[str]:
    """Data sets, and whether their ECG was ever measured."""
    rows = [
        (d.name, d.licence, d.subjects, "surrogate" if d.surrogate_ecg else "recorded", d.url)
        for d in m.provenance.datasets
    ]
    parts = [_markdown(("data set", "licence", "subjects", "ECG", "source"), rows)]
    if m.surrogate_ecg:
        parts.append(
            "Surrogate ECG is rebuilt from real beat times (measured at the wrist) and real beat shapes of other "
            "people. It is no recording of these people's hearts."
        )
    parts.append(f"Seeds {', '.join(map(str, m.provenance.seeds))}; affectd {m.provenance.commit}.")
    return parts


def _validated(m: Manifest, report: Mapping[str, Any]) -> list[str]:
    """Figures of the results file, and what has never been tried."""
    records = report["results"]
    if records:
        mode = "with a resting baseline" if m.spec.needs_baseline else "from a cold start"
        parts = [
            f"Leave-one-subject-out, float networks, {mode}: every figure is a mean over people whom the network that "
            f"was judged had never seen. {_recipe(report)}; {_held_out(report)}",
            _markdown(
                ("system", "sensors", "subjects", "balanced accuracy", "95 % interval", "AUROC"), _loso(m, records)
            ),
        ]
    else:
        parts = ["No leave-one-subject-out results were given when this bundle was made."]
    if m.surrogate_ecg:
        parts.append("It has never been validated on labelled ECG recorded at the chest.")
    return parts


def _recipe(report: Mapping[str, Any]) -> str:
    """How this bundle's own network is related to those of the table."""
    teacher, inner = report["training"].get("teacher"), report["training"].get("inner", {})
    if teacher is None:
        return "This bundle's own network follows the same recipe"
    near = ", ".join(f"{MASK_WORDS[mask]} {_figure(found['agreement'])}" for mask, found in inner.items())
    return (
        f"This bundle's own network is distilled from one of these systems, {teacher}, and says what it says for these "
        f"shares of windows of people that neither had seen: {near}"
    )


def _held_out(report: Mapping[str, Any]) -> str:
    """Whom the bundle's own network has not seen."""
    names = report["training"].get("test_subjects") or []
    return f"it has never seen {', '.join(names)}." if names else "it has learned from all of these people."


def _sensors(m: Manifest, mask: str) -> str:
    """A mask in words; ECG that nobody measured is never called ECG."""
    words = MASK_WORDS.get(mask, mask)
    return words.replace("ECG", "surrogate ECG") if m.surrogate_ecg else words


def _loso(m: Manifest, records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row per record."""
    return [
        (
            r["system"],
            _sensors(m, r["mask"]),
            str(r["subjects"]),
            _figure(r["balanced_accuracy"]),
            " - ".join(_figure(edge) for edge in r["ci95"]),
            _figure(r["auroc"]),
        )
        for r in records
    ]


def _parity(m: Manifest, report: Mapping[str, Any]) -> list[str]:
    """The manifest's parity, and what it is not."""
    gate = report["gate"]
    parts = [
        "The same windows through the float network and through this file on the device's own inference. The windows "
        "are mostly of training subjects: the figures compare file and network and say nothing of skill.",
        _markdown(*_parity_table(m)),
    ]
    if report["calibration_share"] < 1:
        parts.append(
            f"The int8 ranges are those of the central {report['calibration_share']:.0%} of the calibration windows: "
            "more extreme windows saturate, and their probabilities come out less extreme."
        )
    if (observer := report["observer"]) != MIN_MAX:
        parts.append(f"Its int8 ranges are those of observer `{observer}`: what is rare in a tensor saturates.")
    if tuned := report.get("tuned"):
        parts.append(
            f"Before the conversion the network learned to be rounded (quantization-aware training without labels, "
            f"{tuned['epochs']} times over {tuned['windows']} windows of training subjects). It is compared with "
            "what it was before."
        )
    if not gate["passed"]:
        parts.append(f"**The parity gate FAILED** and was overruled: {'; '.join(gate['failures'])}.")
    return parts


def _parity_table(m: Manifest) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Header and one row per mask."""
    header = ("sensors", "windows", "agreement", "cosine", "balanced accuracy float", "this file")
    rows: list[tuple[str, ...]] = [
        (
            _sensors(m, p.mask),
            str(p.n_windows),
            _figure(p.agreement),
            f"{p.cosine:.4f}",
            _figure(p.balanced_accuracy_float),
            _figure(p.balanced_accuracy_int8),
        )
        for p in m.parity
    ]
    return header, rows


def _limits(m: Manifest) -> list[str]:
    """When not to believe it."""
    t = m.thresholds
    limits = [
        "Heart rate and skin conductance rise for many reasons: movement, heat, coffee, illness, joy. The network "
        "cannot tell them apart.",
        "People differ. A figure above is a mean over people; for one wearer it may be much lower.",
        f"It abstains where no signal is good enough (sqi < {m.spec.sqi_min:g}), where more than "
        f"{t.max_clipped_share:.0%} of the input is out of range, and where no label reaches {_least(t)}."
        + (" It abstains as well where a window lies far from all that it has learned from." if m.space else ""),
        DISCLAIMER,
    ]
    return ["\n".join(f"- {limit}" for limit in limits)]


def _least(t: Thresholds) -> str:
    """The least probability, for each mask where they differ."""
    values = {f"{value:.2g}" for value in t.min_probability.values()}
    if len(values) == 1:
        return values.pop()
    return ", ".join(f"{value:.2g} ({mask})" for mask, value in t.min_probability.items())


def _figure(value: Any) -> str:
    """A number to three digits; anything else as it is; nothing for None."""
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines)


def summary(bundle: Bundle | None, report: Mapping[str, Any], seconds: float) -> RenderableType:
    """What the terminal shows at the end."""
    title = f"{report['model']['format']} and ONNX against the float network"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("sensors", "run by", "n", "agree", "cosine", "worst", "bal.acc", "float"):
        table.add_column(column, justify="left" if column in ("sensors", "run by") else "right", no_wrap=True)
    for c in report["parity"]:
        cells = (c["agreement"], f"{c['cosine']:.4f}", c["error_max"], c["balanced_accuracy"])
        shown = (c["mask"], c["against"], c["n_windows"], *cells, c["balanced_accuracy_float"])
        table.add_row(*(_figure(cell) for cell in shown))
    return Group(table, _formats(report), *_verdict(bundle, report, seconds))


def _formats(report: Mapping[str, Any]) -> Table:
    """Every file that was judged."""
    table = Table(title="files that were judged", title_justify="left", box=box.SIMPLE)
    for column in ("format", "bytes", "in float", "agree", "bal.acc lost", "gate"):
        table.add_column(column, justify="left" if column in ("format", "gate") else "right", no_wrap=column != "gate")
    for it in report["attempts"]:
        share = "" if it["calibration_share"] == 1 else f" {it['calibration_share']:.0%}"
        share += "" if it["observer"] == MIN_MAX else f" {it['observer']}"
        share += " tuned" if it["tuned"] else ""
        cells = (it["size_bytes"], it["float_operators"], it["agreement"], it["balanced_accuracy_drop"])
        table.add_row(it["format"] + share, *(_figure(cell) for cell in cells), _gate(it["failures"]))
    return table


def _gate(failures: Sequence[str]) -> str:
    """The first thing that does not hold and how many more."""
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return f"{failures[0]}{more}" if failures else "passes"


def _verdict(bundle: Bundle | None, report: Mapping[str, Any], seconds: float) -> list[Text]:
    """The last lines."""
    model, failures = report["model"], report["gate"]["failures"]
    size = f"{model['size_bytes'] / 1000:.1f} kB, {sum(model['operators'].values())} operators"
    taken = f"{model['format']}: {report['recipe']['why']}"
    lines = [Text(taken), Text(f"{size}, {len(model['float_operators'])} in float; {seconds:.0f} s in all")]
    if report["calibration_share"] < 1:
        lines.append(Text(f"int8 ranges of the central {report['calibration_share']:.0%} of the calibration windows"))
    if report["observer"] != MIN_MAX:
        lines.append(Text(f"int8 ranges by observer {report['observer']}"))
    lines += [Text(f"gate: {failure}", style="red") for failure in failures]
    if bundle is not None:
        lines.append(Text(f"{bundle.path}  sha256 {bundle.sha256}", style="green" if not failures else "yellow"))
    return lines


def show(
    console: Console,
    bundle: Bundle | None,
    report: Mapping[str, Any],
    seconds: float,
    timed: Mapping[str, Any] | None = None,
) -> None:
    """Print the summary, and what quantize.latency has found."""
    console.print(summary(bundle, report, seconds), soft_wrap=True)
    if timed:
        console.print(timing(timed), soft_wrap=True)


def timing(timed: Mapping[str, Any]) -> RenderableType:
    """Every variant, the fastest first; below, what does not run, with the reason."""
    title = f"one window on {timed['machine']}, {timed['cores']} cores: {timed['macs']:,} multiply-accumulates"
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    for column in ("run by", "format", "threads", "XNNPACK", "median us", "10-90 %", "of int8 peak"):
        table.add_column(column, justify="left" if column in ("run by", "format") else "right", no_wrap=True)
    failed: dict[str, str] = {}
    rows = sorted(timed["latency"], key=lambda r: r.get("median_us", float("inf")))
    for r in rows:
        what = (r["runtime"], r["format"], str(r["threads"]), "yes" if r["xnnpack"] else "")
        if "error" in r:
            failed[f"{r['runtime']} {r['format']}"] = r["error"].split(". ")[0]
        else:
            spread, share = f"{r['p10_us']:.0f}-{r['p90_us']:.0f}", r.get("peak_share")
            table.add_row(*what, f"{r['median_us']:.0f}", spread, "" if share is None else f"{share:.0%}")
    return Group(table, *(Text(f"{what} does not run: {why}") for what, why in failed.items()))
