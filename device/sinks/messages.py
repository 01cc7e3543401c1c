"""What is published over MQTT and HTTP: each payload as plain types, and a device as Home Assistant wants it described.

docs/MQTT.md documents them, docs/mqtt.schema.json is what tests hold them to. Pure: it opens nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from device.inference import Prediction
from device.notification import ClockReading, Event
from device.pipeline.spec import MODALITIES
from device.sinks.base import Item
from device.sinks.sqlite import Run
from firmware_bridge.packet import StreamInfo

SCHEMA = 1
"""Version of the payloads; a change that a reader must know of raises it."""
ONLINE, OFFLINE = "online", "offline"
Topic = Literal["prediction", "event", "clock"]
"""One message a window; one for whatever somebody marks; one for each reading of the wall clock: at the start of a run,
and after each correction."""


@dataclass(frozen=True, slots=True)
class Topics:
    """Where a device publishes."""

    base: str

    @property
    def availability(self) -> str:
        """``online`` or ``offline``, retained; the last will."""
        return f"{self.base}/availability"

    @property
    def state(self) -> str:
        """What runs, retained."""
        return f"{self.base}/state"

    def of(self, topic: Topic) -> str:
        """One message for each item."""
        return f"{self.base}/{topic}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What every message of one run says of its origin."""

    device: str
    run: str
    """Unlike any other run of any device."""

    def of_prediction(self, prediction: Prediction, offset_ns: int) -> dict[str, Any]:
        """Payload of ``prediction``; ``offset_ns`` is wall clock minus the host's clock."""
        return self._begin(prediction.index, prediction.stop, offset_ns) | {
            key: value for key, value in prediction.to_json().items() if key != "index"
        }

    def of_event(self, event: Event, index: int, offset_ns: int) -> dict[str, Any]:
        """Payload of ``event``, the ``index``-th of this run."""
        time = event.host_ns / 1e9
        return self._begin(index, time, offset_ns) | {"time": time, "description": event.description}

    def of_clock(self, reading: ClockReading, index: int) -> dict[str, Any]:
        """Payload of ``clock``, the ``index``-th of this run."""
        time = reading.host_ns / 1e9
        begun = self._begin(index, time, reading.wall_ns - reading.host_ns)
        return begun | {"time": time, "is_synchronised": reading.is_synchronised, "asleep_s": reading.asleep_ns / 1e9}

    def _begin(self, index: int, time: float, offset_ns: int) -> dict[str, Any]:
        wall = wall_time(round(time * 1e9) + offset_ns)
        return {"schema": SCHEMA, "device": self.device, "run": self.run, "index": index, "wall": wall}

    def of_state(self, run: Run, streams: Mapping[str, StreamInfo], **kept: Mapping[str, Any]) -> dict[str, Any]:
        """Payload of ``state``: what runs, and nothing of anybody's body; ``kept`` is what a sink says of its store."""
        sensors = [
            {"name": name, "modality": info.modality, "protocol": info.protocol, "sfreq": info.sfreq}
            for name, info in streams.items()
        ]
        begun = {"schema": SCHEMA, "device": self.device, "run": self.run, "since": wall_time(run.wall_ns)}
        bundle = {"name": run.bundle, "sha256": run.bundle_sha256}
        return begun | {"affectd": run.affectd, "bundle": bundle, "sensors": sensors, **kept}


class Messages:
    """Items in, messages out; of a run, it counts what has no index of its own."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._counts: Counter[type] = Counter()

    def of(self, item: Item, offset_ns: int) -> tuple[Topic, bytes]:
        """Topic and payload in JSON; ``offset_ns`` is wall clock minus the host's clock."""
        index = self._counts[type(item)]
        topic: Topic
        match item:
            case Event():
                topic, payload = "event", self._stamp.of_event(item, index, offset_ns)
            case ClockReading():
                topic, payload = "clock", self._stamp.of_clock(item, index)
            case _:
                topic, payload = "prediction", self._stamp.of_prediction(item, offset_ns)
        self._counts[type(item)] += 1
        return topic, msgspec.json.encode(payload)


def wall_time(wall_ns: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(wall_ns / 1e9, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def discovery(device: str, topics: Topics, run: Run, modalities: tuple[str, ...]) -> dict[str, Any]:
    """Home Assistant's device discovery payload: one message describes the device and all its entities.

    What a sensor that is here no more has left there, goes: an entity of a platform and nothing else is removed.

    https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
    """
    name = f"affectd-{device}"
    entities: dict[str, dict[str, Any]] = {
        "label": {"name": "Label", "value_template": "{{ value_json.label }}"},
        "probability": {
            "name": "Probability",
            "value_template": _percent("value_json.probabilities[value_json.label]", "value_json.label"),
            **_PERCENT,
        },
        "abstained": {
            "name": "Abstained",
            "value_template": "{{ value_json.abstained or 'no' }}",
            "entity_category": "diagnostic",
        },
    }
    for modality in modalities:
        quality = f"value_json.sqi.get('{modality}')"
        entities[f"quality_{modality}"] = {
            "name": f"{modality.upper()} quality",
            "value_template": _percent(quality, f"{quality} is not none"),
            "entity_category": "diagnostic",
            **_PERCENT,
        }
    told = {"platform": "sensor", "state_topic": topics.of("prediction"), "availability_topic": topics.availability}
    connected = {
        "platform": "binary_sensor",
        "name": "Connected",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": topics.availability,
        "payload_on": ONLINE,
        "payload_off": OFFLINE,
    }
    components = {key: told | entity for key, entity in entities.items()} | {"connected": connected}
    here = {key: one | {"unique_id": f"{name}-{key}"} for key, one in components.items()}
    gone = {f"quality_{modality}": {"platform": "sensor"} for modality in MODALITIES if modality not in modalities}
    maker = {"manufacturer": "affectd", "model": run.bundle, "sw_version": run.affectd}
    return {
        "device": {"identifiers": [name], "name": name, **maker},
        "origin": {"name": "affectd", "sw_version": run.affectd},
        "components": here | gone,
        "qos": 1,
    }


_PERCENT = {"unit_of_measurement": "%", "state_class": "measurement"}


def _percent(share: str, known: str) -> str:
    """Template of a share in per cent; ``None``, which Home Assistant shows as unknown, where it is not known."""
    return f"{{{{ ({share} * 100) | round(1) if {known} else None }}}}"
