"""What tests of the MQTT sink publish with, light enough for many processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from test_sqlite_sink import RUN, SURE

from device.config import MqttConfig
from device.sinks.base import MadeBy
from firmware_bridge.protocols import PROTOCOLS

__all__ = ["ANOTHER", "RUN", "STREAMS", "SURE", "configured"]

STREAMS = {"chest": PROTOCOLS["polar-pmd-ecg"].stream_info, "wrist": PROTOCOLS["open-eda"].stream_info}
ANOTHER = MadeBy("another", "1" * 64, ("calm", "tense", "sad"))
"""A bundle that is gone over to."""


def configured(port: int, folder: Path, **keys: Any) -> MqttConfig:
    plain = {} if "ca" in keys else {"tls": False}
    outbox = str(folder / "outbox.db")
    return MqttConfig(**{"host": "127.0.0.1", "port": port, "device": "dev", "outbox": outbox, **plain, **keys})
