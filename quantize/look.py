"""What is inside bundles: one alone, or two side by side. Reads nothing but bundles.

Knows nothing of torch or of the converter; figures are those that the bundles hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from device.bundle import MODEL, PAGE, Bundle, span
from device.errors import BundleError
from quantize.report import MASK_WORDS


def tree(bundle: Bundle) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "path": bundle.path,
        "sha256": bundle.sha256,
        "signed_by": bundle.signature and bundle.signature.key,
        "manifest": msgspec.to_builtins(bundle.manifest),
        "report": bundle.report,
    }


def page_of(bundle: Bundle) -> str:
    """The report as HTML; raises BundleError where the bundle has none."""
    if not bundle.page:
        raise BundleError(bundle.path, PAGE, "is missing", "build the bundle with this affectd-quantize")
    return bundle.page


def inspection(bundle: Bundle, signed: str) -> RenderableType:
    """One bundle: what it is, its tensors with their ranges, its operators and its parity."""
    manifest = bundle.manifest
    about = [
        f"{manifest.name}: {manifest.task} ({', '.join(manifest.labels)})",
        f"sha256 {bundle.sha256}; signed {signed}",
        f"made {manifest.created:%Y-%m-%d} at affectd {manifest.provenance.commit[:12]}: {manifest.provenance.command}",
    ]
    return Group(*about, "", _tensors(bundle), _operators(bundle), _parity(bundle))


def _tensors(bundle: Bundle) -> Table:
    table = _table("tensors", ("", "shape", "type", "from", "to", "step"))
    manifest = bundle.manifest
    named = {**manifest.inputs, "output": manifest.output}
    named |= {} if manifest.embedding is None else {"embedding": manifest.embedding}
    for name, tensor in named.items():
        low, high = span(tensor)
        shape = "x".join(map(str, tensor.shape))
        table.add_row(name, shape, tensor.dtype, _figure(low), _figure(high), _figure(tensor.scale or None))
    return table


def _operators(bundle: Bundle) -> Table:
    model = bundle.report.get("model", {})
    title = f"{len(bundle.model)} bytes, {len(model.get('float_operators', ()))} operators in float"
    table = _table(title, ("operator", "times"))
    for name, times in sorted(model.get("operators", {}).items(), key=lambda item: (-item[1], item[0])):
        table.add_row(name, str(times))
    return table


def _parity(bundle: Bundle) -> Table:
    columns = ("against the float network", "windows", "agreement", "cosine", "balanced accuracy", "of float")
    table = _table("", columns)
    for p in bundle.manifest.parity:
        row = (p.agreement, p.cosine, p.balanced_accuracy_int8, p.balanced_accuracy_float)
        table.add_row(MASK_WORDS[p.mask], str(p.n_windows), *map(_figure, row))
    return table


def side_by_side(first: Bundle, second: Bundle) -> list[tuple[str, str, str]]:
    """(what, of the first, of the second) of everything that can be compared, equal or not."""
    one, other = _facts(first), _facts(second)
    return [(key, one.get(key, ""), other.get(key, "")) for key in dict.fromkeys((*one, *other))]


def comparison(first: Bundle, second: Bundle) -> RenderableType:
    """Two bundles, what differs in bold."""
    table = _table("", ("", first.path, second.path))
    for what, one, other in side_by_side(first, second):
        table.add_row(what, one, other, style=None if one == other else "bold")
    return table


def _facts(bundle: Bundle) -> dict[str, str]:
    m, model = bundle.manifest, bundle.report.get("model", {})
    facts = {
        "name": m.name,
        "task": m.task,
        "labels": ", ".join(m.labels),
        "network": f"{model.get('name', '')} {m.model_format or m.output.dtype}".strip(),
        "bytes": str(len(bundle.model)),
        "operators": str(sum(model.get("operators", {}).values())),
        "in float": str(len(model.get("float_operators", ()))),
        "window": f"{m.spec.window_s:g} s every {m.spec.stride_s:g} s, {m.spec.eda.context_s:g} s of EDA",
        "baseline": "needed" if m.spec.needs_baseline else "not needed",
        "surrogate ECG": "in training" if m.surrogate_ecg else "none",
        "data": ", ".join(f"{d.name} ({d.subjects})" for d in m.provenance.datasets),
        "embedding": "none" if m.embedding is None else f"{m.embedding.shape[-1]} dimensions",
        "commit": m.provenance.commit[:12],
        "network's sha256": m.sha256[MODEL][:16],
    }
    for mask in m.masks:
        facts[f"temperature, {MASK_WORDS[mask]}"] = _figure(m.temperature[mask])
        facts[f"least probability, {MASK_WORDS[mask]}"] = _figure(m.thresholds.min_probability[mask])
    for p in m.parity:
        facts[f"agreement with float, {MASK_WORDS[p.mask]}"] = _figure(p.agreement)
    for record in bundle.report.get("results", ()):
        if record["system"] == model.get("name"):
            facts[f"left-out people, {MASK_WORDS[record['mask']]}"] = _figure(record["balanced_accuracy"])
    return facts


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE)
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", overflow="fold")
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
