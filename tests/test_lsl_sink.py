"""The LSL sink, read back by another process: every sample at its time, gaps explicit, nothing beyond this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pylsl
import pytest
from mosquitto import until
from mqtt_sinks import ANOTHER, STREAMS
from test_daemon import CHEST, WRIST, daemon_config, published
from test_sqlite_sink import SURE, UNSURE

from device.config import LslConfig
from device.daemon import run
from device.errors import SinkError
from device.notification import Event
from device.pipeline.types import Chunk, Clock
from device.sinks import lsl
from device.sinks.base import Listens
from device.sinks.lsl import FILL_SAMPLES, PORTS, LslSink, filled
from device.sources.virtual import VirtualSource

LABELS = ("rest", "stress")
READER = """
import json, os, sys, pylsl
want = json.loads(sys.argv[1])
inlets = {}
for name in want:
    (found,) = pylsl.resolve_bypred(f"starts-with(source_id,'affectd-test{os.getppid()}-{name}')", timeout=60)
    inlets[name] = pylsl.StreamInlet(found)
    inlets[name].open_stream(timeout=60)
about = {name: inlet.info(timeout=60) for name, inlet in inlets.items()}
print("ready", flush=True)
told = {}
for name, inlet in inlets.items():
    samples = [inlet.pull_sample(timeout=60) for _ in range(want[name])]
    rest, _ = inlet.pull_chunk(timeout=0.0)
    told[name] = {
        "type": about[name].type(), "sfreq": about[name].nominal_srate(), "more": len(rest),
        "labels": about[name].get_channel_labels(), "units": about[name].get_channel_units(),
        "correction": inlet.time_correction(timeout=60), "samples": samples,
    }
print(json.dumps(told))
"""


def chunk(modality: str, start: int, n: int, period: float, *, n_chans: int = 1, time_s: float = 1000.0) -> Chunk:
    data = (np.arange(start, start + n, dtype=float)[:, None] + np.zeros(n_chans)) / 8
    return Chunk(modality, start, data, np.ones(n, bool), Clock(0, time_s, period))


@contextmanager
def opened(config: LslConfig | None = None) -> Iterator[LslSink]:
    sink = LslSink(config or LslConfig(), STREAMS, LABELS, f"test{os.getpid()}")
    try:
        yield sink
    finally:
        asyncio.run(sink.close())


@contextmanager
def reading(tmp_path: Path, **want: int) -> Iterator[subprocess.Popen[str]]:
    """Another process that has subscribed to these outlets, each for so many samples."""
    config = tmp_path / "lsl.cfg"
    config.write_text("[ports]\nIPv6 = disable\n[multicast]\nResolveScope = machine\n[log]\nlevel = -2\n")
    command = [sys.executable, "-c", READER, json.dumps(want)]
    env = {**os.environ, "LSLAPICFG": str(config)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child


def heard(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    told: dict[str, Any] = json.loads(child.stdout.readline())
    return told


def test_lsl_s_clock_is_the_host_s_monotonic_clock() -> None:
    assert lsl._offset(pylsl.local_clock) == 0.0
    assert lsl._offset(lambda: time.monotonic() + 5.0) == pytest.approx(5.0, abs=0.1)


def test_another_process_reads_every_sample_at_its_time(tmp_path: Path) -> None:
    """Three chunks of ECG with a gap that is filled and one that is not, EDA, predictions and an event."""
    ecg = [chunk("ecg", 0, 20, 1 / 130), chunk("ecg", 25, 20, 1 / 130), chunk("ecg", 3000, 5, 1 / 130)]
    eda = [chunk("eda", 0, 8, 1 / 8)]
    event = Event(1_500_000_000, "stroop start")
    with opened() as sink, reading(tmp_path, chest=50, wrist=8, markers=3, probabilities=2) as child:
        assert isinstance(sink, Listens)
        for part in (*ecg, *eda):
            sink.listen(part)
        for item in (SURE, UNSURE, event):
            asyncio.run(sink.publish(item))
        told = heard(child)
    kinds = {name: (said["type"], said["sfreq"], said["units"]) for name, said in told.items()}
    assert kinds == {
        "chest": ("ECG", 130.0, ["millivolts"]), "wrist": ("EDA", STREAMS["wrist"].sfreq, ["microsiemens"]),
        "markers": ("Markers", 0.0, None), "probabilities": ("Probabilities", 0.0, None),
    }  # fmt: skip
    assert all(abs(said["correction"]) < 0.1 and said["more"] == 0 for said in told.values())
    values, times = (np.array(column) for column in zip(*told["chest"]["samples"], strict=True))
    indices = np.r_[0:45, 3000:3005]
    np.testing.assert_allclose(times, 1000.0 + indices / 130, atol=1e-9)
    np.testing.assert_array_equal(values[:, 0], np.where((indices >= 20) & (indices < 25), np.nan, indices / 8))
    assert [sample for sample, _ in told["wrist"]["samples"]] == eda[0].data.tolist()
    assert told["probabilities"]["labels"] == list(LABELS)
    (sure, at), (unsure, _) = told["probabilities"]["samples"]
    assert (sure, at) == (pytest.approx([0.2, 0.8]), SURE.stop) and np.isnan(unsure).all()
    markers = [(json.loads(text), at) for (text,), at in told["markers"]["samples"]]
    assert markers[0] == (json.loads(json.dumps(SURE.to_json())), SURE.stop)
    assert markers[2] == ({"event": "stroop start", "start": 1.5}, 1.5)


RENEWED = """
import os, pylsl
find = f"starts-with(source_id,'affectd-test{os.getppid()}-probabilities')"
def inlet():
    (found,) = pylsl.resolve_bypred(find, timeout=60)
    opened = pylsl.StreamInlet(found)
    opened.open_stream(timeout=60)
    return opened
def tell(of):
    print(of.info(timeout=60).get_channel_labels(), flush=True)
first = inlet()
tell(first)
print(first.pull_sample(timeout=60)[0], flush=True)
input()
second = inlet()
tell(second)
print(second.pull_sample(timeout=60)[0], flush=True)
print(first.pull_chunk(timeout=0.0)[0], flush=True)
input()
third = inlet()
tell(third)
print(third.pull_sample(timeout=60)[0], flush=True)
"""


def test_other_labels_are_another_outlet(tmp_path: Path) -> None:
    """However many they are: an inlet that is there gets none of them, whoever looks anew finds the new one alone."""
    config = tmp_path / "lsl.cfg"
    config.write_text("[ports]\nIPv6 = disable\n[multicast]\nResolveScope = machine\n[log]\nlevel = -2\n")
    env = {**os.environ, "LSLAPICFG": str(config)}
    command = [sys.executable, "-c", RENEWED]
    with opened() as sink, subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=env) as child:
        assert child.stdin is not None and child.stdout is not None

        def told() -> Any:
            return json.loads(child.stdout.readline().replace("'", '"').replace("nan", "NaN"))

        def say(**probabilities: float) -> None:
            asyncio.run(sink.publish(replace(SURE, probabilities=probabilities)))

        assert told() == ["rest", "stress"]
        say(rest=0.25, stress=0.75)
        assert told() == [0.25, 0.75]
        asyncio.run(sink.renew(replace(ANOTHER, labels=("calm", "tense"))))
        child.stdin.write("\n")
        child.stdin.flush()
        assert told() == ["calm", "tense"]
        until(lambda: sink._probabilities.have_consumers(), "the second inlet")
        say(calm=0.125, tense=0.875)
        assert told() == [0.125, 0.875]
        assert told() == []
        asyncio.run(sink.renew(ANOTHER))
        child.stdin.write("\n")
        child.stdin.flush()
        assert told() == list(ANOTHER.labels)
        until(lambda: sink._probabilities.have_consumers(), "the third inlet")
        say(calm=0.5, tense=0.25, sad=0.25)
        assert told() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("renewed", [False, True])
def test_the_outlets_listen_on_loopback_alone(renewed: bool) -> None:
    """The library's own scope keeps discovery on the machine, but not its data and time sockets."""
    with opened() as sink:
        if renewed:
            asyncio.run(sink.renew(ANOTHER))
        kinds, devices = set(), set()
        for sock in lsl._sockets():
            with sock:
                if sock.family == socket.AF_INET and sock.getsockname()[1] in PORTS:
                    kinds.add(sock.type)
                    devices.add(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0"))
    assert kinds == {socket.SOCK_STREAM, socket.SOCK_DGRAM} and devices == {b"lo"}


@pytest.mark.parametrize(("scope", "is_kept"), [("machine", True), ("link", False), ("site", False)])
def test_the_scope_reaches_the_library(scope: str, is_kept: bool) -> None:
    before = os.environ.get("LSLAPICFG")
    with lsl._configured(scope):
        text = Path(os.environ["LSLAPICFG"]).read_text()
    assert os.environ.get("LSLAPICFG") == before
    assert f"ResolveScope = {scope}\n" in text
    assert ("ListenAddress = 127.0.0.1" in text, "IPv6 = disable" in text) == (is_kept, is_kept)


def test_short_gaps_are_nan_and_long_ones_are_steps() -> None:
    part = chunk("ecg", 1000, 3, 0.01, n_chans=2)
    for stop, n_missing in ((None, 0), (1000, 0), (1001, 0), (990, 10), (500, 500), (499, 0)):
        data, times = filled(part, stop, FILL_SAMPLES)
        assert data.shape == (3 + n_missing, 2) and len(times) == len(data)
        assert np.isnan(data[:n_missing]).all() and (data[n_missing:] == part.data).all()
        np.testing.assert_allclose(times, 1000.0 + np.arange(1000 - n_missing, 1003) * 0.01, rtol=0, atol=1e-9)


def test_a_full_queue_drops_the_oldest_chunk_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is held up as a slow library would do it."""
    with opened(LslConfig(chunks=3)) as sink:
        sink._wake.set = lambda: None  # type: ignore[method-assign]
        for k in range(10):
            sink.listen(chunk("ecg", k, 1, 1 / 130))
        assert sink.dropped == 7 and [c.start for c in sink._chunks] == [7, 8, 9]
        del sink._wake.set
    assert sink.sent == 3


def test_a_library_that_is_not_here_is_said_with_what_to_do() -> None:
    code = "from device.sinks.lsl import _library; _library()"
    env = {**os.environ, "PYLSL_LIB": __file__}  # there, and no library
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert f"{SinkError.__name__}: lsl: the library liblsl is not here; pylsl brings it for x86-64" in done.stderr


def test_the_daemon_gives_it_every_chunk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = daemon_config(tmp_path)
    config = msgspec.structs.replace(config, sinks=msgspec.structs.replace(config.sinks, lsl=LslConfig()))
    stats = asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
    chunks = sum(counts.assembly.packets for counts in stats.values())
    assert f"sink lsl: {chunks} chunks sent, 0 dropped" in caplog.text
    assert f"sink lsl: {len(published(config)) + 1} published, 0 dropped, 0 failed" in caplog.text
