"""The demo: its recordings on disk, what it shows, and what it sums up."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests_support import reference_data
from tiny_bundle import tiny_bundle

from device import cli
from device.demo.loader import DATA, Annotation, DemoRecording, Trace, available, load, write
from device.demo.player import Player
from device.demo.plot import braille
from device.demo.show import show_all
from device.demo.view import render
from device.errors import RecordingError

SCRIPTS = Path(__file__).parents[1] / "scripts"
KEYS = {"windows", "predictions", "abstentions", "modalities", "realtime_factor", "bundle_sha256"}


def made(seconds: float = 300.0, surrogate: bool = False) -> DemoRecording:
    """A recording made of sines."""
    t = np.arange(round(seconds * 100)) / 100
    ecg = np.round(np.sin(2 * np.pi * 1.2 * t) ** 15, 3)
    eda = np.round(5 + np.sin(np.arange(round(seconds * 8)) / 80), 3)
    tasks = (Annotation(0.0, seconds / 2, "rest"), Annotation(seconds / 2, seconds / 4, "stroop"))
    return DemoRecording("stress", Trace(ecg, 100.0, 0.0, surrogate, "sines"), Trace(eda, 8.0, 0.5, False, "s"), tasks)


def shown(player: Player) -> str:
    console = Console(width=110, height=40, record=True, file=io.StringIO())
    console.print(render(player, 110), height=40)
    return console.export_text()


def test_what_is_written_is_loaded(tmp_path: Path) -> None:
    recording = made()
    write(recording, tmp_path)
    again = load("stress", tmp_path)
    for one, other in ((again.ecg, recording.ecg), (again.eda, recording.eda)):
        assert np.array_equal(one.data, other.data)
        assert (one.sfreq, one.start, one.surrogate) == (other.sfreq, other.start, other.surrogate)
    assert again.annotations == recording.annotations
    assert again.duration == recording.duration
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write(again, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert available(tmp_path) == ["stress"]


@pytest.mark.parametrize("suffix", ["recording-ecg_physio.tsv.gz", "recording-eda_physio.json", "events.tsv"])
def test_damaged_recordings_are_named(tmp_path: Path, suffix: str) -> None:
    write(made(20.0), tmp_path)
    path = tmp_path / f"stress_{suffix}"
    path.write_bytes(b"no")
    with pytest.raises(RecordingError, match=path.name):
        load("stress", tmp_path)
    path.unlink()
    with pytest.raises(RecordingError, match=f"{path.name}: cannot be read"):
        load("stress", tmp_path)


def test_the_shipped_recordings_are_real_sized() -> None:
    rest, event = load("rest"), load("event")
    assert rest.duration == pytest.approx(506.8, abs=0.2)
    assert event.duration == pytest.approx(150.0, abs=0.2)
    assert [a.description for a in rest.annotations] == ["rest"]
    assert [a.description.split()[0] for a in event.annotations] == ["negative", "neutral", "neutral", "negative"]
    assert not any(trace.surrogate for recording in (rest, event) for trace in (recording.ecg, recording.eda))
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 1.5e6


def test_the_script_makes_what_is_shipped() -> None:
    folder = reference_data() / "neurokit"
    spec = importlib.util.spec_from_file_location("make_demo_data", SCRIPTS / "make_demo_data.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    fresh = script.recording("event", folder / "bio_eventrelated_100hz.csv", script.CONDITIONS)
    shipped = load("event")
    assert np.abs(fresh.ecg.data - shipped.ecg.data).max() <= 0.0005 + 1e-9
    assert np.abs(fresh.eda.data - shipped.eda.data).max() <= 0.0005 + 1e-9
    for one, other in zip(fresh.annotations, shipped.annotations, strict=True):
        assert one.description == other.description
        assert one[:2] == pytest.approx(other[:2], abs=0.01)


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    width=st.integers(1, 30),
    height=st.integers(1, 6),
)
def test_a_plot_has_dots_just_where_there_are_samples(values: list[float], width: int, height: int) -> None:
    times = np.arange(len(values)) / 10
    times[len(times) // 2 :] += 5.0  # a gap
    span = (0.0, float(times[-1]) + 0.1)
    lines = braille(times, np.array(values), span, width, height)
    assert [len(line) for line in lines] == [width] * height
    columns = {int(t / span[1] * width * 2) for t in times}
    for column in range(2 * width):
        bits = 0b01000111 if column % 2 == 0 else 0b10111000
        drawn = any((ord(line[column // 2]) - 0x2800) & bits for line in lines)
        assert drawn == (column in columns)


def test_a_plot_spans_its_height() -> None:
    lines = braille(np.array([0.0, 1.0]), np.array([-1.0, 1.0]), (0.0, 2.0), 1, 2)
    left, right = 0x47, 0xB8  # every dot of a column of a character
    assert [ord(line) - 0x2800 for line in lines] == [right, right | left & 0x40]


def test_a_plot_does_not_join_what_a_gap_parts() -> None:
    (line,) = braille(np.array([0.0, 9.5]), np.array([-1.0, 1.0]), (0.0, 10.0), 5, 1)
    assert [ord(character) - 0x2800 for character in line] == [0x40, 0, 0, 0, 0x08]


def test_the_wrist_sensor_drops_out_and_the_view_says_so(tmp_path: Path) -> None:
    player = Player(made(surrogate=True), tiny_bundle(tmp_path / "tiny.affect"))
    steps = player.steps()
    for _ in steps:
        if player.now > 145.0:
            break
    assert "predicting from ECG + EDA" in shown(player)
    for _ in steps:
        if player.now > 200.0:
            break
    text = shown(player)
    assert "EDA lost: predicting from ECG alone" in text
    assert "silent for" in text
    assert "ECG surrogate" in text
    assert "Not a medical device" in text
    assert " rest " in text and " stroop " in text and "^ stroop" in text
    for _ in steps:
        pass
    assert player.counts["wrist"].assembly.gaps == 1
    assert player.counts["chest"].assembly.gaps == 0
    assert player.tally.modalities["ecg"] > 5
    assert player.tally.modalities["ecg+eda"] > 5


def test_the_command_prints_one_object_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.affect")
    svg = tmp_path / "shot.svg"
    args = ["affectd", "demo", "--bundle", bundle.path, "--fast", "--only", "rest", "--json", "--screenshot", str(svg)]
    monkeypatch.setattr(sys, "argv", args)
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert set(summary) == KEYS
    assert summary["bundle_sha256"] == bundle.sha256
    assert summary["windows"] == summary["predictions"] + sum(summary["abstentions"].values())
    assert summary["predictions"] == sum(summary["modalities"].values())
    assert summary["modalities"]["ecg"] > 0 and summary["modalities"]["ecg+eda"] > 0
    assert any("EDA lost: predicting from ECG alone" in line for line in lines)
    assert svg.read_text().startswith("<svg")


def test_a_terminal_gets_the_live_view(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=110, height=34)
    show_all(tiny_bundle(tmp_path / "tiny.affect"), only="event", speed=1000, console=console)
    assert screen.getvalue().count("affectd demo") > 1
    assert "EDA lost: predicting from ECG alone" in screen.getvalue()


def test_speed_paces_the_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.affect")
    monkeypatch.setattr(sys, "argv", ["affectd", "demo", "--bundle", bundle.path, "--only", "event", "--speed", "1000"])
    cli.main()
    out = capsys.readouterr().out
    assert out.startswith("event: 150 s of ECG and EDA\n")
    assert "Not a medical device" in out
