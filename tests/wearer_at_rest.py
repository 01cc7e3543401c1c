"""A wearer at rest, for the tests of the baseline: the demo's real recording as what two sensors send."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from device.demo import loader
from device.notification import Notification
from device.pipeline.features import OF
from device.pipeline.model_input import Baseline
from device.pipeline.spec import MODALITIES, SignalSpec, default_spec
from device.pipeline.types import Window
from device.profile import Profile, fingerprint
from device.recording import RecordingReader, RecordingWriter
from device.resting import windows_of
from device.sources.virtual import VirtualSensor, notifications
from firmware_bridge.packet import StreamInfo

CHEST, WRIST = "chest", "wrist"
SECONDS = 330
"""As much of it as the longest rest needs."""


@cache
def sensors() -> tuple[VirtualSensor, ...]:
    """Chest strap and wristband of NeuroKit's resting person."""
    recording = loader.load("rest")
    return _sensor(CHEST, "polar-pmd-ecg", recording.ecg), _sensor(WRIST, "open-eda", recording.eda)


def _sensor(name: str, protocol: str, trace: loader.Trace) -> VirtualSensor:
    return VirtualSensor(name, protocol, trace.data[: round(SECONDS * trace.sfreq)], trace.sfreq, trace.start)


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


CENTER = {"ecg": {"ecg": 0.01, "hr": 61.5}, "eda": {"tonic": 2.25, "phasic": 0.0}}


def profile(*modalities: str, **changes: Any) -> Profile:
    """Of a wearer called Ada, for the default spec, with some keys changed."""
    modalities = modalities or MODALITIES
    baseline = Baseline(
        {name: value for m in modalities for name, value in CENTER[m].items()},
        25,
        {name: 0.5 for m in modalities for name in OF[m]},
    )
    whole: dict[str, Any] = {
        "person": "Ada",
        "created": datetime(2026, 11, 21, 12, tzinfo=UTC),
        "fingerprint": fingerprint(default_spec()),
        "modalities": modalities,
        "rest_s": 180.0,
        "sqi": dict.fromkeys(modalities, 0.9),
        "baseline": baseline,
    }
    return Profile(**whole | changes)
