"""What a running affectd says of itself: `affectd status`, over the control socket.

It knows nothing of sockets or of how it is shown.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from device.calibration import Choice
from device.durations import BOUNDS_S
from device.inference import Classifier, Prediction
from device.machine import machine
from device.pausing import Pausing
from device.recording import RecordingWriter
from device.segment import affectd_version
from device.sinks.configured import Sinks
from device.sources.ble import BleSource
from device.taping import Taping
from device.timekeeping import Timekeeping
from device.wall import host_ns

if TYPE_CHECKING:
    from device.session import Counts, Session


class Status:
    """Looks at the daemon's parts, and remembers the newest prediction."""

    def __init__(
        self,
        choice: Choice,
        recording: RecordingWriter,
        links: Sequence[BleSource],
        timekeeping: Timekeeping,
        *,
        sinks: Sinks,
        taping: Taping,
        pausing: Pausing,
    ) -> None:
        self.session: Session | None = None
        """None while it is being opened."""
        self.choice = choice
        """What predictions are made with; changes where a baseline is recorded or a window labelled meanwhile."""
        self._recording = recording
        self._links = links
        self._timekeeping = timekeeping
        self._sinks = sinks
        self._taping = taping
        self._pausing = pausing
        self._begun_ns = host_ns()
        self._predictions = 0
        self._abstentions: Counter[str] = Counter()
        self._predicted_ns: int | None = None
        self._lag_s: float | None = None
        self._latest: Prediction | None = None
        self.rests_on = ""
        """What predictions rest on at present, for people; empty before the first."""

    def note(self, prediction: Prediction) -> bool:
        """Take the newest prediction; whether what predictions rest on has changed."""
        now_ns = host_ns()
        self._predictions += 1
        self._latest = prediction
        self._lag_s = round(now_ns / 1e9 - prediction.stop, 3)
        if prediction.abstained is None:
            self._predicted_ns = now_ns
        else:
            self._abstentions[prediction.abstained] += 1
        reason = f": {prediction.abstained}" if prediction.abstained else ""
        before, self.rests_on = self.rests_on, ("+".join(prediction.modalities) or "nothing") + reason
        return before != self.rests_on

    def in_words(self) -> str:
        """Each link and what predictions rest on, in a line; never what they say."""
        links = [f"{source.name} {source.link.state}" for source in self._links]
        if self.rests_on and (not links or any(source.link.state == "streaming" for source in self._links)):
            return "; ".join(filter(None, (", ".join(links), f"predictions rest on {self.rests_on}")))
        return ", ".join(links) or "no prediction yet"

    def to_json(self) -> dict[str, Any]:
        """Everything, fit for JSON; times in seconds ago."""
        return {
            "affectd": affectd_version(),
            "pid": os.getpid(),
            "running_s": self._ago(self._begun_ns),
            "bundle": self.choice.bundle.manifest.name,
            "calibration": asdict(self.choice.calibration),
            "shots": asdict(self.choice.labels),
            "bundle_sha256": self.choice.bundle.sha256,
            "recording": self._recording.to_json() | {"on": self._taping.on, "left_out": self._taping.left_out},
            "clock": self._timekeeping.to_json(),
            "paused": self._pausing.to_json(),
            "held_back": self._pausing.held_back,
            "sensors": [self._sensor(source) for source in self._links],
            "sinks": self._sinks.to_json(),
            "predictions": self._predictions,
            "abstentions": dict(self._abstentions),
            "predicted_s": None if self._predicted_ns is None else self._ago(self._predicted_ns),
            "lag_s": self._lag_s,
            "inference": self._inference(),
            "rests_on": self.rests_on,
            "prediction": None if self._latest is None else self._latest.to_json(),
            "tasks": len(asyncio.all_tasks()),
            "machine": machine(self._recording.path.parent),
        }

    def _inference(self) -> dict[str, Any] | None:
        """How long the network takes; None while it loads."""
        if self.session is None or not isinstance(self.session.classifier, Classifier):
            return None
        classifier = self.session.classifier
        return {"runtime": classifier.runtime, "bounds_s": BOUNDS_S, **asdict(classifier.durations)}

    def _sensor(self, source: BleSource) -> dict[str, Any]:
        link = asdict(source.link)
        for key in ("since", "last"):
            moment = link.pop(f"{key}_ns")
            link[f"{key}_s"] = self._ago(moment) if moment else None
        sensor: dict[str, Any] = msgspec.to_builtins(source.sensor)
        stream = None
        if self.session is not None:
            nominal = {"sfreq_nominal": self.session.streams[source.name].sfreq}
            stream = _stream(self.session.stats[source.name]) | nominal
        return sensor | {"link": link, "stream": stream}

    def _ago(self, moment_ns: int) -> float:
        return round((host_ns() - moment_ns) / 1e9, 3)


def _stream(counts: Counts) -> dict[str, Any]:
    bad = {"bad": counts.bad.total(), "last_bad": str(counts.last_bad) if counts.last_bad else None}
    return {"notifications": counts.notifications, "connections": counts.connections} | bad | asdict(counts.assembly)
