"""What importing costs: the pure path loads no radio and no event loop, the device part no torch and no converter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "tensorflow", "onnx", "onnx2tf", "onnxruntime", "sklearn", "pandas", "matplotlib", "wfdb"}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_pipeline_is_pure() -> None:
    assert loaded_by("import device.pipeline.pipeline").isdisjoint(HEAVY | {"bleak", "click", "rich", "dbus_fast"})


@pytest.mark.parametrize("module", ["device.cli", "device.daemon", "device.demo.show", "device.pair"])
def test_the_device_part_is_light(module: str) -> None:
    assert loaded_by(f"import {module}").isdisjoint(HEAVY | {"bleak", "tflite_runtime", "ai_edge_litert"})


@pytest.mark.parametrize("module", ["device.cli", "device.daemon", "device.pair"])
def test_what_starts_often_or_after_a_crash_loads_no_scipy(module: str) -> None:
    """Importing scipy.signal takes 2 s here and several on a small machine; a session loads it, in a thread."""
    assert "scipy" not in loaded_by(f"import {module}")


def test_a_session_of_the_daemon_loads_no_scipy_stats() -> None:
    """24 MB of 70, for a function that nobody calls; whoever does gets it."""
    code = """
import sys
from device.lean import load_signal
load_signal()
import device.session, device.daemon
print(sorted(it for it in sys.modules if it.startswith("scipy.stats")))
from scipy import signal
import numpy as np
x = np.sin(np.linspace(0, 60, 600))
print(signal.find_peaks_cwt(x, np.arange(5, 15)).tolist())
print("scipy.stats" in sys.modules and sys.modules["scipy.stats"].norm.cdf(0.0))
import scipy.stats
print(scipy.stats.scoreatpercentile([1, 2, 3], 50))
"""
    without = code.replace("load_signal()\n", "import scipy.signal\n", 1)
    lean, plain = (
        subprocess.run([sys.executable, "-c", it], capture_output=True, text=True, check=True).stdout.splitlines()
        for it in (code, without)
    )
    assert lean[0] == "[]" and plain[0] != "[]"
    assert lean[1:] == plain[1:] and len(lean) == 4 and lean[1] != "[]" and lean[2] == "0.5"


def test_the_server_of_a_sink_is_loaded_only_with_it() -> None:
    assert loaded_by("import device.daemon, device.cli, device.doctor").isdisjoint({"aiohttp", "paho"})


def test_codecs_are_the_standard_library_alone() -> None:
    assert loaded_by("import firmware_bridge.protocols").isdisjoint({"numpy", "scipy", "msgspec", "bleak"})
