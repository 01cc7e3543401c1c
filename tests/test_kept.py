"""Conversions kept for the next time: whole or not at all, under a name that only the same content has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize import convert as converting
from quantize import kept
from quantize.convert import Inspection
from quantize.kept import fetch, keep, key_of


@given(st.lists(st.binary(max_size=4), max_size=5), st.lists(st.binary(max_size=4), max_size=5))
def test_other_parts_have_another_name(first: list[bytes], second: list[bytes]) -> None:
    assert (key_of(first) == key_of(second)) == (first == second)


def files(folder: Path, text: str = "x") -> list[Path]:
    (folder / "tflite").mkdir(parents=True, exist_ok=True)
    paths = [folder / "tflite" / "a.tflite", folder / "result.json"]
    for path in paths:
        path.write_text(f"{text} {path.name}")
    return paths


def test_what_is_kept_comes_back_and_nothing_else(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    assert not fetch(root, "k", out) and not out.exists()
    keep(root, "k", tmp_path / "in", files(tmp_path / "in"))
    assert fetch(root, "k", out)
    assert {str(p.relative_to(out)): p.read_text() for p in out.rglob("*.*")} == {
        "tflite/a.tflite": "x a.tflite", "result.json": "x result.json",
    }  # fmt: skip
    keep(root, "k", tmp_path / "in", files(tmp_path / "in", "later"))  # the first one stays
    assert fetch(root, "k", out) and (out / "result.json").read_text() == "x result.json"


def test_a_file_that_is_missing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keep(tmp_path / "root", "k", tmp_path, [tmp_path / "none"])
    assert not fetch(tmp_path / "root", "k", tmp_path / "out") and not [*(tmp_path / "root").iterdir()]


def test_the_longest_unused_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 2)
    root = tmp_path / "root"
    for age, key in ((300, "a"), (200, "b")):
        keep(root, key, tmp_path / "in", files(tmp_path / "in"))
        os.utime(root / key, (1e9 - age, 1e9 - age))
    assert fetch(root, "a", tmp_path / "out")  # used again
    keep(root, "c", tmp_path / "in", files(tmp_path / "in"))
    assert {path.name for path in root.iterdir()} == {"a", "c"}


def test_the_same_network_and_windows_are_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child stands still: what it wrote the first time is what the second run has, and any change is another."""
    import numpy as np

    runs: list[str] = []

    def child(job: object, folder: Path, log: Path, on_stage: object) -> dict[str, Inspection]:
        runs.append(folder.name)
        (folder / "tflite").mkdir()
        empty = Inspection(inputs={}, outputs={}, operators={}, foreign=(), float_operators=(), dtypes={})
        for suffix in converting.SUFFIXES.values():
            (folder / "tflite" / f"net{suffix}").write_text(f"{folder.name}{suffix}")
        found = dict.fromkeys(converting.SUFFIXES, empty)
        (folder / converting.RESULT).write_bytes(converting.msgspec.json.encode(found))
        log.write_text("said")
        return found

    monkeypatch.setattr(converting, "_run_child", child)
    onnx, windows = tmp_path / "net.onnx", {"x": np.zeros((4, 2, 8), np.float32)}
    onnx.write_bytes(b"one network")
    heard: list[str] = []

    def run(name: str) -> str:
        made = converting.convert(onnx, windows, tmp_path / name, heard.append, cache=tmp_path / "cache")
        assert made["int8"].log.read_text() == "said"
        return made["int8"].path.read_text()

    assert run("first") == run("second") == "first_full_integer_quant.tflite"
    assert runs == ["first"] and heard == ["as it came out before"]
    windows["x"][0, 0, 0] = 1.0
    assert run("third").startswith("third")
    onnx.write_bytes(b"another network")
    assert run("fourth").startswith("fourth") and runs == ["first", "third", "fourth"]
    (tmp_path / "observers.py").write_text("other ranges")
    monkeypatch.setattr(converting.observers, "__file__", str(tmp_path / "observers.py"))
    assert run("fifth").startswith("fifth")
