"""``affectd``: bad input is one line on stderr and exit code 2; good input gives what the session gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import affectd
from tiny_bundle import tiny_bundle

from device.config import example_config
from device.recording import RecordingReader, RecordingWriter
from device.session import open_session
from device.sources.virtual import VirtualSensor, notifications
from device.storage import Policy

SENSORS = (
    VirtualSensor("chest", "polar-pmd-ecg", np.sin(np.arange(9000) / 20), 100.0),
    VirtualSensor("wrist", "open-eda", 5 + np.sin(np.arange(720) / 99), 8.0),
)
SENT = list(notifications(SENSORS))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    with RecordingWriter(tmp_path / "recordings", {sensor.name: sensor.info() for sensor in SENSORS}) as writer:
        for notification in SENT:
            writer.append(notification)
    return writer.path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(tiny_bundle(tmp_path / "tiny.affect").path)


BAD = {
    "no command's name": (["fly"], "No such command 'fly'"),
    "no option's name": (["replay", "--fly", "x"], "No such option"),
    "no argument": (["replay"], "Missing argument 'RECORDING...'"),
    "no recording": (["replay", "{tmp}/none", "--bundle", "{tmp}/tiny.affect"], "none: cannot be read"),
    "foreign recording": (
        ["replay", "{tmp}/foreign", "--bundle", "{tmp}/tiny.affect"],
        "foreign: byte 0: not a recording",
    ),
    "cut recording": (["replay", "{tmp}/cut", "--bundle", "{tmp}/tiny.affect"], "cut short"),
    "no bundle": (["replay", "{recording}", "--bundle", "{tmp}/none.affect"], "none.affect: no such file"),
    "foreign bundle": (["bundle", "show", "{tmp}/foreign"], "foreign: zip"),
    "no runtime": (["replay", "{recording}", "--bundle", "{tmp}/tiny.affect", "--runtime", "torch"], "unknown runtime"),
    "no config": (["run", "--config", "{tmp}/none.toml"], "none.toml: cannot be read"),
    "unknown key": (
        ["config", "check", "{tmp}/wrong.toml"],
        "line 4: inference.thread: unknown key 'thread'; did you mean",
    ),
    "unwritable out": (["replay", "{recording}", "--bundle", "{tmp}/tiny.affect", "--out", "{tmp}"], "Is a directory"),
    "no bundle in the config": (["run", "--config", "{tmp}/right.toml"], "my-model.affect: no such file"),
    "no bundle on the command line": (
        ["run", "--config", "{tmp}/right.toml", "--bundle", "{tmp}/ecg.affect"],
        "ecg.affect: no such file",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    recording: Path,
    bundle: Path,
    case: str,
) -> None:
    (tmp_path / "foreign").write_bytes(b"hello, world")
    (tmp_path / "cut").write_bytes(recording.read_bytes()[:-100])
    (tmp_path / "wrong.toml").write_text("# c\n\n[inference]\nthread = 1\n")
    right = example_config().replace("# bundle = ", "bundle = ").replace("/etc/affectd", str(tmp_path))
    (tmp_path / "right.toml").write_text(right.replace("/var/lib/affectd", str(tmp_path)))
    args, message = BAD[case]
    code, _, err = affectd(capsys, monkeypatch, *(arg.format(tmp=tmp_path, recording=recording) for arg in args))
    assert code == 2
    assert err.startswith("affectd: ") and err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err


def test_replay_says_what_the_session_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recording: Path, bundle: Path
) -> None:
    session = open_session(tiny_bundle(bundle), {sensor.name: sensor.info() for sensor in SENSORS})
    expected = [p for n in SENT for p in session.push(n)] + session.flush()
    out = tmp_path / "out.jsonl"
    code, text, err = affectd(capsys, monkeypatch, "replay", recording, "--bundle", bundle, "--json", "--out", out)
    assert (code, err) == (0, "")
    summary = json.loads(text)
    assert set(summary) == {
        "windows",
        "predictions",
        "abstentions",
        "modalities",
        "realtime_factor",
        "bundle_sha256",
    }
    assert summary["windows"] == len(expected) == summary["predictions"] + sum(summary["abstentions"].values())
    clock, *lines = out.read_text().splitlines()
    read = RecordingReader(recording).clock
    assert json.loads(clock)["clock"] == read.wall_ns / 1e9 and json.loads(clock)["start"] == read.host_ns / 1e9
    assert [json.loads(line) for line in lines] == [json.loads(json.dumps(p.to_json())) for p in expected]
    code, text, _ = affectd(capsys, monkeypatch, "replay", recording, "--bundle", bundle)
    assert code == 0
    assert len(text.splitlines()) == len(expected) + 1
    begun = RecordingReader(recording).wall_of(round(expected[0].stop * 1e9))
    assert text.startswith(f"{begun:%Y-%m-%d %H:%M:%S}Z  {expected[0].start:.0f}-{expected[0].stop:.0f} s  ")


def test_the_segments_of_a_run_replay_like_one_recording(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recording: Path, bundle: Path
) -> None:
    streams = {sensor.name: sensor.info() for sensor in SENSORS}
    with RecordingWriter(tmp_path / "segments", streams, Policy(segment_s=17.0, compress=True)) as writer:
        for notification in SENT:
            writer.append(notification)
        writer.tend()
    segments = sorted((tmp_path / "segments").iterdir())
    assert len(segments) == 6
    told = [
        affectd(capsys, monkeypatch, "replay", *paths, "--bundle", bundle)
        for paths in ([recording], [tmp_path / "segments"], segments[::-1])
    ]
    assert told[0][0] == 0 and told[0][1].count("\n") > 2
    assert told[1] == told[2] == told[0]


def test_recover_replays_what_is_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recording: Path, bundle: Path
) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(recording.read_bytes()[:-100])
    code, text, err = affectd(capsys, monkeypatch, "replay", cut, "--bundle", bundle, "--recover")
    assert code == 0
    assert "bytes left out: record" in err
    assert "windows" in text.splitlines()[-1]


def test_config_and_bundle_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bundle: Path
) -> None:
    code, text, _ = affectd(capsys, monkeypatch, "config", "example")
    assert (code, text) == (0, example_config())
    (tmp_path / "c.toml").write_text(text)
    code, text, _ = affectd(capsys, monkeypatch, "config", "check", tmp_path / "c.toml")
    assert code == 0 and "ecg: chest strap, eda: wristband" in text
    code, text, _ = affectd(capsys, monkeypatch, "bundle", "show", bundle)
    assert code == 0 and "rest against stress" in text
    code, text, _ = affectd(capsys, monkeypatch, "bundle", "show", bundle, "--json")
    assert code == 0 and json.loads(text)["labels"] == ["rest", "stress"]
    code, text, _ = affectd(capsys, monkeypatch, "--version")
    assert code == 0 and text.startswith("affectd ")


def test_starting_loads_neither_torch_nor_bleak() -> None:
    code = "import sys, device.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "bleak", "tensorflow", "ai_edge_litert", "tflite_runtime"} & set(loaded)
