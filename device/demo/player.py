"""Plays one demo recording: virtual sensors into a Session, and everything the view shows of it.

It knows nothing of terminals or of real time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import numpy as np

from device.bundle import Bundle
from device.demo.loader import DemoRecording
from device.inference import Prediction
from device.pipeline.types import Chunk, Floats, Window
from device.session import Counts, Tally, open_session
from device.sources.virtual import BEGIN_NS, VirtualSensor, notifications

CHEST, WRIST = "chest", "wrist"
STREAMS = {"ecg": CHEST, "eda": WRIST}
DROP_FROM, DROP_FOR = 0.5, 0.2
"""Half-way the wrist sensor is gone for a fifth of the recording."""
KEEP_S = {"ecg": 6.0, "eda": 180.0}
"""Seconds of each signal that are shown."""
WHY = {"gap": "lost", "warming_up": "settling", "contact": "without skin contact", "out_of_range": "out of range"}
"""A modality's problem, for people; any other is poor quality."""


def virtual_sensors(recording: DemoRecording) -> tuple[VirtualSensor, VirtualSensor]:
    """A Polar H10 on the chest, and an open EDA sensor on the wrist that drops out half-way."""
    ecg, eda = recording.ecg, recording.eda
    gone = DROP_FROM * recording.duration, (DROP_FROM + DROP_FOR) * recording.duration
    return (
        VirtualSensor(CHEST, "polar-pmd-ecg", ecg.data, ecg.sfreq, ecg.start),
        VirtualSensor(WRIST, "open-eda", eda.data, eda.sfreq, eda.start, dropouts=(gone,)),
    )


class Player:
    """One recording on its way through the session."""

    def __init__(self, recording: DemoRecording, bundle: Bundle, runtime: str = "auto") -> None:
        self.recording = recording
        self.labels = bundle.manifest.labels
        self.stride_s = bundle.manifest.spec.stride_s
        self.now = 0.0
        """Second of the recording that has been reached."""
        self.busy_s = 0.0
        """Seconds spent in the session: from notification bytes to prediction."""
        self.predictions: list[Prediction] = []
        self.tally = Tally()
        self._sensors = virtual_sensors(recording)
        self._signals: dict[str, deque[Chunk]] = {"ecg": deque(), "eda": deque()}
        streams = {sensor.name: sensor.info() for sensor in self._sensors}
        self._session = open_session(bundle, streams, runtime=runtime, listener=self._see)

    def steps(self) -> Iterator[list[Prediction]]:
        """Push one notification after the other; the new predictions of each, ``now`` set to its arrival."""
        for notification in notifications(self._sensors):
            self.now = seconds_of(notification.host_ns / 1e9)
            begun = time.perf_counter()
            new = self._session.push(notification)
            self.busy_s += time.perf_counter() - begun
            yield self._take(new)
        yield self._take(self._session.flush())

    def _take(self, new: list[Prediction]) -> list[Prediction]:
        for prediction in new:
            self.tally.add(prediction)
        self.predictions += new
        return new

    def _see(self, item: Chunk | Window) -> None:
        """Keep the signals that are shown."""
        if isinstance(item, Chunk):
            kept = self._signals[item.modality]
            kept.append(item)
            while seconds_of(kept[0].clock.at(kept[0].stop)) < self.now - KEEP_S[item.modality]:
                kept.popleft()

    @property
    def counts(self) -> dict[str, Counts]:
        """Per stream."""
        return self._session.stats

    @property
    def realtime_factor(self) -> float:
        """Seconds of signal per second spent in the session."""
        return self.now / max(self.busy_s, 1e-9)

    def signal(self, modality: str) -> tuple[Floats, Floats]:
        """What is shown of a modality: (n_times,) seconds of the recording, (n_times,) mV or uS."""
        chunks = self._signals[modality]
        if not chunks:
            return np.zeros(0), np.zeros(0)
        times = np.concatenate([chunk.times() for chunk in chunks])
        return times - BEGIN_NS / 1e9, np.concatenate([chunk.data[:, 0] for chunk in chunks])

    def silent_s(self, modality: str) -> float:
        """Seconds since the newest sample of a modality."""
        chunks = self._signals[modality]
        return self.now - seconds_of(chunks[-1].clock.at(chunks[-1].stop - 1)) if chunks else self.now


def seconds_of(host: float) -> float:
    """Host time in s to seconds of the recording."""
    return host - BEGIN_NS / 1e9


def describe(prediction: Prediction) -> str:
    """What a prediction rests on, for people."""
    missing = [
        f"{modality.upper()} {WHY.get(names[0], 'too poor')}"
        for modality, names in prediction.problems.items()
        if modality not in prediction.modalities
    ]
    if prediction.abstained and not prediction.modalities:
        return f"no prediction ({prediction.abstained}): {', '.join(missing)}"
    if len(prediction.modalities) == 1:
        return f"{', '.join(missing)}: predicting from {prediction.modalities[0].upper()} alone"
    return "predicting from ECG + EDA"
