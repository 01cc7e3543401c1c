"""Timing: turn and turn about, here and on another machine; what is counted beside it. No time is looked at."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from test_quantize import CONFIG, SPEC, checkpoint_tree

from device.bundle import read_bundle
from quantize import bench, latency
from quantize.bench import interleaved, measure
from quantize.errors import BenchError
from quantize.export import Checkpoint, export_onnx, random_inputs, read_checkpoint, run_onnx
from quantize.latency import Target, count_macs, product, static_int8, target_of
from train.fit import network, save_checkpoint
from train.models import acc
from train.models.ecg_transformer import TransformerConfig

SHIPPED = Path(__file__).parent.parent / "device" / "bundles" / "default.affect"
SMALL = TransformerConfig(eda_times=240, stem=4, width=16, layers=2, heads=2, feed=24, hidden=8)


class Clock:
    """Scripted time: a run says how long it took."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[int] = []

    def __call__(self) -> int:
        return self.now

    def run(self, which: int, ns: int) -> Callable[[], None]:
        def run() -> None:
            self.calls.append(which)
            self.now += ns

        return run


def test_each_round_gives_every_variant_its_turn_in_another_order() -> None:
    clock, ns = Clock(), (1000, 2000, 7000)
    found = interleaved([clock.run(k, t) for k, t in enumerate(ns)], rounds=20, calls=3, clock=clock)
    assert [set(us) for us in found] == [{1.0}, {2.0}, {7.0}] and all(len(us) == 60 for us in found)
    turns = np.array(clock.calls[3 * bench.WARM_UP :]).reshape(20, 3, 3)
    assert (turns == turns[:, :, :1]).all()
    assert all(sorted(turn) == [0, 1, 2] for turn in turns[:, :, 0].tolist())
    assert len({tuple(turn) for turn in turns[:, :, 0].tolist()}) > 3


def made(tmp_path: Path, config: acc.AccConfig | TransformerConfig) -> Checkpoint:
    net = network(config)
    save_checkpoint(tmp_path / "net.pt", net, SPEC, ("rest", "task"), checkpoint_tree(net)["provenance"])
    return read_checkpoint(tmp_path / "net.pt")


def test_multiply_accumulates_are_those_counted_on_torch(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, CONFIG)
    assert count_macs(export_onnx(checkpoint, tmp_path / "net.onnx")) == acc.count_macs(checkpoint.network)


def test_attention_counts_as_well(tmp_path: Path) -> None:
    path, n, c = export_onnx(made(tmp_path, SMALL), tmp_path / "net.onnx"), SMALL.n_tokens + 1, SMALL.width
    stem = 480 * 4 * 2 * 32 + 120 * c * 4 * 8
    layer = n * (4 * c * c + 2 * c * SMALL.feed) + 2 * n * n * c
    assert count_macs(path) == stem + 2 * layer + 2 * c * 8 + 8 * 2


def test_the_peer_is_int8_and_says_nearly_the_same(tmp_path: Path) -> None:
    checkpoint = made(tmp_path, CONFIG)
    float_file, windows = export_onnx(checkpoint, tmp_path / "net.onnx"), random_inputs(checkpoint, 30)
    path = static_int8(float_file, windows, tmp_path / "int8.onnx")
    weights = [w for w in onnx.load(str(path)).graph.initializer if len(w.dims) == 4]
    assert weights and {w.data_type for w in weights} == {onnx.TensorProto.INT8}
    told = [run_onnx(p, windows) for p in (float_file, path)]
    assert np.corrcoef(told[0].ravel(), told[1].ravel())[0, 1] > 0.99


def test_the_product_whose_rate_is_the_machine_s_is_one_of_integers(tmp_path: Path) -> None:
    session = onnxruntime.InferenceSession(str(product(tmp_path / "peak.onnx")))
    one = np.zeros((latency.PEAK_SIZE,) * 2, np.uint8)
    one[0, 0] = 3
    (weight,) = onnx.load(str(tmp_path / "peak.onnx")).graph.initializer
    (found,) = session.run(None, {"x": one})
    assert (found[0] == 3 * onnx.numpy_helper.to_array(weight)[0].astype(int)).all() and not found[1:].any()


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, str]]:
    (tmp_path / "int8.tflite").write_bytes(read_bundle(SHIPPED).model)
    (tmp_path / "broken.tflite").write_bytes(b"no file of that kind")
    product(tmp_path / "peak.onnx")
    names = {"int8": "int8.tflite", "broken": "broken.tflite", "peak": "peak.onnx"}
    return [(form, str(tmp_path / name)) for form, name in names.items()]


def test_every_variant_has_its_record_or_its_reason(files: list[tuple[str, str]]) -> None:
    found = measure(files, {"more": lambda: None}, rounds=2)
    wanted = {(r, "int8", n, True) for r in bench.MODULES for n in bench.THREADS if n <= (os.cpu_count() or 1)}
    wanted |= {(r, "int8", 1, False) for r in bench.MODULES} | {("onnxruntime", "peak", 1, False)}
    there = {(r["runtime"], r["format"], r["threads"], r["xnnpack"]): r for r in found}
    assert wanted | {("more", "float32", 1, False)} <= set(there) and len(there) == len(found)
    for (_, form, *_), record in there.items():
        assert ("error" in record) == (form == "broken") != ("median_us" in record)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("host", Target()),
        ("ssh://pi@edge.local", Target("pi@edge.local")),
        ("ssh://edge:2222/opt/affectd/venv/bin/python", Target("edge", 2222, "/opt/affectd/venv/bin/python")),
    ],
)
def test_a_machine_is_this_one_or_one_that_ssh_knows(text: str, target: Target) -> None:
    assert target_of(text) == target


@pytest.mark.parametrize("text", ["", "edge", "ssh://", "http://edge", "ssh://-oProxyCommand=x"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="give host, or ssh://user@machine"):
        target_of(text)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh whose other machine is this one; what it was asked is in the file returned."""
    there, said = tmp_path / "bin", tmp_path / "asked"
    there.mkdir()
    script = there / "ssh"
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {said}\nfor last; do :; done\nexec sh -c "$last"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{there}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return said


def test_another_machine_needs_nothing_of_affectd_and_keeps_nothing(
    ssh: Path, files: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = (tmp_path / "bench.py").write_text(
        Path(bench.__file__).read_text().replace(f"ROUNDS, CALLS = {bench.ROUNDS}", "ROUNDS, CALLS = 2")
    )
    assert quick
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "bench.py"))
    before = set(tmp_path.iterdir())
    there = Target("pi@edge", 2222, python=sys.executable)
    found = latency._there(there, [(form, Path(path)) for form, path in files])
    assert found["cores"] == os.cpu_count() and {r["format"] for r in found["latency"]} == {"int8", "broken", "peak"}
    assert ssh.read_text().splitlines()[:6] == ["-o", "BatchMode=yes", "-p", "2222", "--", "pi@edge"]
    assert set(tmp_path.iterdir()) - before == {ssh}
    json.dumps(found, allow_nan=False)


def test_a_machine_that_cannot_is_named_with_its_last_words(ssh: Path, files: list[tuple[str, str]]) -> None:
    with pytest.raises(BenchError, match=r"pi@edge: .*no-such-python.*; it needs a key"):
        latency._there(Target("pi@edge", python="/no-such-python"), [(form, Path(path)) for form, path in files])


def test_shares_are_of_the_peak_of_the_same_run() -> None:
    rows = [
        {"format": "int8", "median_us": 100.0}, {"format": "peak", "median_us": latency.PEAK_SIZE**3 / 50_000},
        {"format": "float32", "error": "no"},
    ]  # fmt: skip
    found = latency._with_shares({"machine": "m", "latency": rows}, macs=1_000_000)
    assert (found["macs"], found["peak_macs_per_us"]) == (1_000_000, 50_000.0)
    assert found["latency"] == [rows[0] | {"peak_share": 0.2}, rows[2]]
