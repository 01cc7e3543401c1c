"""Networks that are not affectd's: a module of the user's and an ONNX file, through the command, beside torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from device.inference import RUNTIMES, dequantize, quantize
from quantize.bench import interpreter_of
from quantize.cli import command, main
from quantize.network import read_network, read_windows

SOURCE = '''
"""A network for pulse waves, as somebody else writes it."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, inside, out):
        super().__init__()
        self.conv = nn.Conv1d(inside, out, 5, stride=2, padding=2, bias=False)
        self.norm = nn.BatchNorm1d(out)
        self.short = nn.Conv1d(inside, out, 1, stride=2)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + self.short(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(2, 8), Block(8, 16))
        self.head = nn.Linear(18, 3)

    def forward(self, ppg, about):
        return self.head(torch.cat([self.blocks(ppg).mean(-1), about], dim=1)) * 4


def make():
    torch.manual_seed(0)
    return Net()


def lopsided():
    """One hidden unit's range, 400 times as wide, makes every other's step coarse; in float nothing of it shows."""
    net = make()
    hidden, last = nn.Linear(18, 8), nn.Linear(8, 3)
    with torch.no_grad():
        hidden.weight[0] *= 400
        hidden.bias[0] = 400
        last.weight[:, 0] /= 400
    net.head = nn.Sequential(hidden, nn.ReLU(), last)
    return net


def number():
    return 3


def fails():
    raise ValueError("no such size")
'''


def save_windows(path: Path, n: int = 200, **instead: Any) -> Path:
    rng = np.random.default_rng(0)
    waves = rng.standard_normal((n, 2, 160)).cumsum(-1) * rng.uniform(0.1, 1, (n, 1, 1))
    arrays: dict[str, Any] = {
        "ppg": waves.astype(np.float32),
        "about": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "subject": np.repeat([f"P{k}" for k in range(10)], n // 10 + 1)[:n],
    }
    np.savez(path, **{key: value for key, value in (arrays | instead).items() if value is not None})
    return path


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an earlier run."""
    monkeypatch.setattr("quantize.cli.CONVERTED", tmp_path / "kept")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("network")
    (made / "pulse.py").write_text(SOURCE)
    save_windows(made / "windows.npz")
    return made


def test_a_module_of_somebody_else_becomes_full_int8_and_says_the_same(folder: Path) -> None:
    source, out = f"{folder / 'pulse.py'}:make", folder / "out"
    args = [
        "network",
        source,
        "--calibration",
        str(folder / "windows.npz"),
        "-o",
        str(out),
        "--recipe",
        "int8",
        "--json",
    ]
    done, again = (CliRunner().invoke(command, args, catch_exceptions=False) for _ in range(2))
    assert done.exit_code == again.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert "convert: int8 file" in done.stderr and "as it came out before" not in done.stderr
    assert "as it came out before" in again.stderr and "convert: int8 file" not in again.stderr
    assert {**json.loads(again.stdout), "seconds": 0} == {**report, "seconds": 0}
    assert report["model"]["float_operators"] == [] and report["gate"]["passed"]
    assert report["recipe"] == {"asked": "int8", "taken": "int8", "why": "it was asked for"}
    assert any(line.startswith("Conv1d as Conv2d: 4 times") for line in report["rewrites"])
    assert not {"TRANSPOSE", "EXPAND_DIMS"} & set(report["model"]["operators"])
    assert {c["against"] for c in report["parity"]} == {"onnxruntime", *RUNTIMES}
    assert all(c["balanced_accuracy"] is None and len(c["subjects"]) == 10 for c in report["parity"])
    assert json.loads((out / "report.json").read_text())["model"] == report["model"]
    page = (out / "report.html").read_text()
    assert "Conv1d as Conv2d" in page and "The ranges that were chosen" in page

    windows = read_windows(folder / "windows.npz")
    module = read_network(source, None, windows).module
    assert module is not None
    interpreter = interpreter_of(str(out / "make.tflite"), RUNTIMES[0], 1)
    told = [ask(interpreter, windows.arrays["ppg"][i], windows.arrays["about"][i]) for i in range(0, 200, 10)]
    with torch.inference_mode():
        wanted = module(*(torch.from_numpy(windows.arrays[name][::10]) for name in ("ppg", "about"))).numpy()
    assert np.corrcoef(np.ravel(told), wanted.ravel())[0, 1] > 0.99


def ask(interpreter: Any, ppg: Any, about: Any) -> Any:
    """The file by itself, with nothing of the tool's but its rounding."""
    for tensor in interpreter.get_input_details():
        value = ppg.T[None, None] if tuple(tensor["shape"]) == (1, 1, 160, 2) else about[None]
        scale, zero = tensor["quantization"]
        stored = np.clip(np.rint(value / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(tensor["index"], stored)
    interpreter.invoke()
    (out,) = interpreter.get_output_details()
    scale, zero = out["quantization"]
    return (interpreter.get_tensor(out["index"]).astype(np.float32) - zero) * scale


def test_a_module_learns_to_be_rounded_where_no_file_passes(folder: Path, tmp_path: Path) -> None:
    source, windows = f"{folder / 'pulse.py'}:lopsided", str(folder / "windows.npz")
    args = ["network", source, "--calibration", windows, "-o", str(tmp_path / "out"), "--recipe", "int8", "--qat"]
    done = CliRunner().invoke(command, [*args, "--observer", "min-max", "--force", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    attempts = json.loads(done.stdout)["attempts"]
    plain, tuned = ([a for a in attempts if (a["tuned"] is None) == is_plain] for is_plain in (True, False))
    assert attempts == [*plain, *tuned] and len(plain) == 3 and all(a["failures"] for a in plain)
    assert tuned[0]["tuned"]["after"] < 0.6 * tuned[0]["tuned"]["before"] and tuned[0]["tuned"]["windows"] == 100
    assert max(a["agreement"] for a in tuned) >= max(a["agreement"] for a in plain)


def save_regression(path: Path, name: str = "ppg") -> Path:
    """Mean of a filtered signal, one number: an ONNX file made by hand."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 2, 7)).astype(np.float32), "v": np.array([[1.0, -2, 3, 0.5]], np.float32)}
    nodes = [
        helper.make_node("Conv", [name, "w"], ["h"], pads=[3, 3]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["rate"], transB=1),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 160])]
    outputs = [helper.make_tensor_value_info("rate", TensorProto.FLOAT, [1, 1])]
    tensors = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, "rate", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return path


def test_an_onnx_file_with_one_number_to_say(folder: Path) -> None:
    source = save_regression(folder / "rate.onnx")
    args = ["network", str(source), "--calibration", str(folder / "windows.npz"), "-o", str(folder / "rate")]
    done = CliRunner().invoke(command, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads((folder / "rate" / "report.json").read_text())
    assert report["attempts"][0]["format"] == "int8" and report["recipe"]["asked"] == "auto"
    assert (folder / "rate" / "rate.tflite").stat().st_size == report["model"]["size_bytes"]
    assert all(c["error_max"] < 1 and c["agreement"] == 1.0 for c in report["parity"])


def refusal(capsys: pytest.CaptureFixture[str], source: str, calibration: Path, *more: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["network", source, "--calibration", str(calibration), "-o", str(calibration.parent / "no"), *more])
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    return line


def test_an_onnx_file_cannot_learn(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_regression(tmp_path / "rate.onnx")
    said = refusal(capsys, str(tmp_path / "rate.onnx"), folder / "windows.npz", "--qat")
    assert "is an ONNX file, which cannot learn; give its module" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{folder}/pulse.py:number", "number() gives a int; return a torch.nn.Module"),
        ("{folder}/pulse.py:fails", "fails() raises ValueError: no such size"),
        ("{folder}/pulse.py:nothing", "has no nothing"),
        ("{folder}/nothing.py:make", "cannot be imported (FileNotFoundError"),
        ("no.such.module:make", "cannot be imported (ModuleNotFoundError"),
        ("pulse", "names no factory; give an ONNX file"),
        ("{folder}/pulse.onnx", "cannot be read"),
    ],
)
def test_a_source_that_is_none(source: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(capsys, source.format(folder=folder), folder / "windows.npz")


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"about": None}, "about: is missing, ppg are there"),
        ({"about": np.zeros((3, 2), np.float32)}, "has arrays of lengths"),
        ({"ppg": np.full((200, 2, 160), np.nan, np.float32)}, "ppg: holds something else than finite numbers"),
        ({"ppg": np.full((200, 2), "x")}, "ppg: holds something else than finite numbers"),
        ({"about": np.array([None] * 200)}, "cannot be read"),
    ],
)
def test_windows_that_do_not_fit(
    instead: dict[str, Any], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_windows(tmp_path / "bad.npz", **instead)
    line = refusal(capsys, f"{folder / 'pulse.py'}:make", path)
    assert str(path) in line and said in line


def test_too_few_windows_and_foreign_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"{folder / 'pulse.py'}:make"
    assert "12 windows where 40 are needed" in refusal(capsys, source, save_windows(tmp_path / "few.npz", n=12))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pt")
    said = refusal(capsys, source, folder / "windows.npz", "--weights", str(tmp_path / "other.pt"))
    assert "other.pt: is no state of this module" in said
    named = save_regression(tmp_path / "odd.onnx", "input.1")
    assert "has an input 'input.1'" in refusal(capsys, str(named), folder / "windows.npz")


def test_weights_are_those_that_were_given(folder: Path, tmp_path: Path) -> None:
    windows = read_windows(folder / "windows.npz")
    source = f"{folder / 'pulse.py'}:make"
    first = read_network(source, None, windows).module
    assert first is not None
    state = {name: value + 1 if value.is_floating_point() else value for name, value in first.state_dict().items()}
    torch.save(state, tmp_path / "state.pt")
    second = read_network(source, tmp_path / "state.pt", windows).module
    assert second is not None and torch.equal(second.state_dict()["head.bias"], state["head.bias"])


def test_rounding_is_the_device_s() -> None:
    """What the judgement stores is what a device stores."""
    from device.bundle import TensorSpec

    tensor = TensorSpec(name="x", shape=(1, 4), dtype="int16", scale=0.001, zero_point=0)
    stored = quantize(np.array([0.0, 1.0, -40.0, 40.0], np.float32), tensor)
    assert stored.dtype == np.int16 and stored.tolist() == [0, 1000, -32768, 32767]
    assert dequantize(stored, tensor) == pytest.approx([0, 1, -32.768, 32.767])
