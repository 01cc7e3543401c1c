"""results/quantize.json: what its records say comes from report and times, and a network's new ones replace its old."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantize.errors import ResultsError
from quantize.records import merge, records

MASKS = {
    "ecg": {"agreement": 0.99, "balanced_accuracy_drop": 0.001},
    "eda": {"agreement": 1.0, "balanced_accuracy_drop": 0.0},
}


def attempt(form: str, size: int, masks: Any = MASKS, failures: Any = ()) -> dict[str, Any]:
    return {"format": form, "size_bytes": size, "float_operators": 0, "masks": masks, "failures": [*failures]}


def report(model: str = "acc") -> dict[str, Any]:
    first = attempt("int8", 90, {"ecg": {"agreement": 0.5, "balanced_accuracy_drop": 0.2}}, ["no"])
    attempts = [first, attempt("int8", 90), attempt("float32", 300), attempt("float16", 200, {})]
    return {"model": {"name": model}, "task": "rest/task", "recipe": {"taken": "int8"}, "attempts": attempts}


def time(runtime: str, form: str, us: float, threads: int = 1, xnnpack: bool = True) -> dict[str, Any]:
    return {"runtime": runtime, "format": form, "threads": threads, "xnnpack": xnnpack, "median_us": us}


TIMED = {
    "machine": "a core",
    "macs": 1000,
    "latency": [
        time("ai-edge-litert", "int8", 90),
        time("ai-edge-litert", "int8", 50, threads=2),
        time("ai-edge-litert", "int8", 200, xnnpack=False),
        time("tflite-runtime", "int8", 400),
        time("onnxruntime", "int8", 300, xnnpack=False),
        time("torch", "float32", 900, xnnpack=False),
        {"runtime": "ai-edge-litert", "format": "float16", "threads": 1, "xnnpack": True, "error": "no"},
    ],
}


def test_one_record_for_each_format_mask_and_peer() -> None:
    found = records(report(), TIMED, 4096, "affectd-quantize acc.pt")
    assert len(found) == 2 * 2 * 2  # int8 and float32, two masks, two peers
    (one,) = [r for r in found if (r["format"], r["mask"], r["peer"]) == ("int8", "ecg", "onnxruntime int8")]
    assert (one["latency_us"], one["peer_latency_us"], one["macs"], one["machine"]) == (90, 300, 1000, "a core")
    assert (one["agreement"], one["passes"], one["is_taken"], one["arena_bytes"]) == (0.99, True, True, 4096)
    assert {r["arena_bytes"] for r in found if r["format"] == "float32"} == {None}
    assert {(r["latency_us"], r["is_taken"]) for r in found if r["format"] == "float32"} == {(None, False)}


def test_without_times_there_is_one_for_each_format_and_mask() -> None:
    found = records(report(), {}, None, "x")
    assert len(found) == 4 and {r["peer"] for r in found} == {r["latency_us"] for r in found} == {None}


def test_a_network_s_new_records_replace_its_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "quantize.json"
    merge(path, records(report(), TIMED, 4096, "first"))
    merge(path, records(report("emobed"), {}, None, "other"))
    merged = merge(path, records(report(), {}, None, "second"))
    assert json.loads(path.read_text()) == merged and len(merged) == 8
    assert {(r["model"], r["command"]) for r in merged} == {("acc", "second"), ("emobed", "other")}


@pytest.mark.parametrize("content", ["{", "[1]", '[{"model": "acc"}]'])
def test_a_file_of_something_else_is_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "quantize.json"
    path.write_text(content)
    with pytest.raises(ResultsError, match="holds no records"):
        merge(path, records(report(), {}, None, "x"))
    assert path.read_text() == content


ROOT = Path(__file__).parent.parent
BARS = {"acc": (128e3, 2.0, 4.0), "emobed": (128e3, 2.0, 4.0), "ecg-transformer": (512e3, 1.0, 1.0)}
"""Network -> bytes at most, times as quick as onnxruntime's int8 and as torch."""


@pytest.mark.parametrize("model", BARS)
def test_the_networks_as_int8_files_are_within_their_bars_and_the_page_says_their_figures(model: str) -> None:
    known = json.loads((ROOT / "results" / "quantize.json").read_text())
    mine = [record for record in known if (record["model"], record["format"]) == (model, "int8")]
    most, than_onnxruntime, than_torch = BARS[model]
    assert all(r["is_taken"] and r["size_bytes"] <= most and r["float_ops"] == 0 for r in mine)
    assert all(r["agreement"] >= 0.98 and r["balanced_accuracy_drop"] <= 0.01 for r in mine)
    us, peers = mine[0]["latency_us"], {r["peer"]: r["peer_latency_us"] for r in mine}
    quicker = peers["onnxruntime int8"] / us, peers["torch float32"] / us
    assert quicker[0] >= than_onnxruntime and quicker[1] >= than_torch
    cells = (
        f"`{model}`",
        f"{mine[0]['size_bytes'] / 1e3:.1f} kB",
        f"{min(r['agreement'] for r in mine):.3f}",
        f"{us:.0f} us",
        f"{peers['onnxruntime int8']:.0f} us ({quicker[0]:.1f} x)",
        f"{peers['torch float32']:.0f} us ({quicker[1]:.0f} x)",
        f"{mine[0]['arena_bytes'] / 1024:.0f} KiB",
    )
    row = f"| {' | '.join(cells)} |"
    assert row in (ROOT / "docs" / "QUANTIZE.md").read_text()
