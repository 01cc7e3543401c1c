"""A wearer at rest, for the tests of the baseline: the demo's real recording as what two sensors send."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from device.demo import loader
from device.notification import Notification
from device.pipeline.spec import SignalSpec, default_spec
from device.pipeline.types import Window
from device.recording import RecordingReader, RecordingWriter
from device.resting import windows_of
from device.sources.virtual import VirtualSensor, notifications
from firmware_bridge.packet import StreamInfo

CHEST, WRIST = "chest", "wrist"


@cache
def sensors() -> tuple[VirtualSensor, ...]:
    """Chest strap and wristband of NeuroKit's resting person, 5 min."""
    recording = loader.load("rest")
    ecg = VirtualSensor(CHEST, "polar-pmd-ecg", recording.ecg.data, recording.ecg.sfreq, recording.ecg.start)
    eda = VirtualSensor(WRIST, "open-eda", recording.eda.data, recording.eda.sfreq, recording.eda.start)
    return ecg, eda


@cache
def sent() -> tuple[Notification, ...]:
    """All that they send."""
    return tuple(notifications(sensors()))


def infos(*names: str) -> dict[str, StreamInfo]:
    """How to read some of their streams, all of them without names."""
    return {sensor.name: sensor.info() for sensor in sensors() if sensor.name in (names or (CHEST, WRIST))}


def record(folder: Path, *names: str) -> Path:
    """A recording of some of the streams, all of them without names."""
    with RecordingWriter(folder / "recordings", infos(*names)) as writer:
        for notification in sent():
            if notification.stream in infos(*names):
                writer.append(notification)
    return writer.path


def windows(folder: Path, spec: SignalSpec | None = None) -> list[Window]:
    """What the session makes of it."""
    return list(windows_of(RecordingReader(record(folder)), spec or default_spec()))
