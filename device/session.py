"""The synchronous heart: notifications in, predictions out. Daemon, replay, demo and tests all use this one.

It knows nothing of radios, files, clocks or asyncio.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from device.bundle import Bundle, check_streams
from device.calibration import check_baseline
from device.inference import Classifier, Float32, Prediction
from device.notification import Arrival, ClockReading, Event, LinkChange, Notification, Unrecorded
from device.pipeline.assemble import Assembler, StreamStats
from device.pipeline.model_input import Baseline
from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import SignalSpec
from device.pipeline.types import Chunk, Window
from device.space import Shots
from firmware_bridge.errors import DecodeError
from firmware_bridge.packet import Packet, StreamInfo
from firmware_bridge.protocols import codec

MAX_REASONS = 64
"""Kinds of bad notification counted apart: a month of hostile bytes must not fill the memory."""

Listener = Callable[[Chunk | Window], None]
"""Sees what flows inside: each raw Chunk in physical units, each Window before it is classified."""


class Classifies(Protocol):
    """What a session asks of a network; :class:`device.inference.Classifier` is one."""

    def classify(self, window: Window, baseline: Baseline | None = None, shots: Shots | None = None) -> Prediction:
        """Prediction for one window."""

    def embeddings(self, window: Window, baseline: Baseline | None = None) -> dict[str, Float32]:
        """Where it lies in the network's space, by mask; empty where there is none."""


@dataclass(slots=True)
class Counts:
    """One stream since its start."""

    connections: int = 0
    """Connections that came as far as setting up the stream."""
    notifications: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Notifications that do not follow the protocol, by reason; the stream goes on after each."""
    last_bad: DecodeError | None = None
    assembly: StreamStats = field(default_factory=StreamStats)
    """Samples, gaps, fitted rate."""


class Session:
    """decode, assemble, filter, window, classify: one ``push`` per notification.

    Parameters
    ----------
    classifier : Classifies
    spec : SignalSpec
        The classifier's own.
    streams : mapping of stream name to StreamInfo
        At most one per modality. Raises BundleError where they cannot give what the spec asks for.
    baseline : Baseline, optional
        The wearer's, where the spec needs one.
    listener : callable, optional
    shots : Shots, optional
        The wearer's own labelled windows.
    """

    def __init__(
        self,
        classifier: Classifies,
        spec: SignalSpec,
        streams: Mapping[str, StreamInfo],
        baseline: Baseline | None = None,
        listener: Listener | None = None,
        shots: Shots | None = None,
    ) -> None:
        self.streams = dict(streams)
        self._pipeline = self._pipeline_of(spec)
        self.use(classifier, baseline, shots)
        self._listener = listener or (lambda _: None)
        self._codecs = {name: codec(info.protocol) for name, info in streams.items()}
        self._decoders = {name: it.decoder() for name, it in self._codecs.items()}
        self._assemblers = {name: Assembler(info) for name, info in streams.items()}
        self.stats = {name: Counts(assembly=part.stats) for name, part in self._assemblers.items()}

    def push(self, arrival: Arrival) -> list[Prediction]:
        """One arrival to the predictions that are now certain; bytes that are no packet are only counted."""
        if isinstance(arrival, Event | ClockReading):  # says nothing of the signals
            return []
        if isinstance(arrival, Unrecorded):  # half a packet from before it must not meet one from behind it
            self._decoders = {name: it.decoder() for name, it in self._codecs.items()}
            return []
        counts = self.stats[arrival.stream]
        if isinstance(arrival, LinkChange):
            if arrival.state == "starting":  # half a packet of the connection before must not meet this one's
                counts.connections += 1
                self._decoders[arrival.stream] = self._codecs[arrival.stream].decoder()
            return []
        counts.notifications += 1
        predictions: list[Prediction] = []
        for packet in self._decode(arrival, counts):
            for chunk in self._assemblers[arrival.stream].push(packet, arrival.host_ns):
                self._listener(chunk)
                predictions += self._classify(self._pipeline.push(chunk))
        return predictions

    def _decode(self, notification: Notification, counts: Counts) -> Sequence[Packet]:
        try:
            return self._decoders[notification.stream].push(notification.data)
        except DecodeError as error:
            counts.bad[error.reason if len(counts.bad) < MAX_REASONS else "other"] += 1
            counts.last_bad = error
            return error.packets

    def use(self, classifier: Classifies, baseline: Baseline | None, shots: Shots | None = None) -> None:
        """Go on with another network on the same windows (of an equal ``device.profile.fingerprint``); none is lost."""
        self.classifier = classifier
        self._baseline = baseline
        self._shots = shots

    def go_over(
        self, spec: SignalSpec, classifier: Classifies, baseline: Baseline | None, shots: Shots | None = None
    ) -> list[Prediction]:
        """Go on with a network on other windows; those begun are given out as at the end, the new ones warm up.

        Decoders and fitted clocks go on. Raises BundleError or SpecError for a spec that the streams cannot serve, and
        then nothing has changed.
        """
        pipeline = self._pipeline_of(spec)
        predictions = self.flush()
        self._pipeline = pipeline
        self.use(classifier, baseline, shots)
        return predictions

    def _pipeline_of(self, spec: SignalSpec) -> Pipeline:
        check_streams(spec, self.streams.values())
        return Pipeline(spec, {info.modality: info.sfreq for info in self.streams.values()})

    def learn(self, shots: Shots | None) -> None:
        """Go on with other labelled windows of the wearer's, from the next window on."""
        self._shots = shots

    def embeddings(self, window: Window) -> dict[str, Float32]:
        """Where one of its windows lies in the network's space, by mask, with the wearer's baseline."""
        return self.classifier.embeddings(window, self._baseline)

    def flush(self) -> list[Prediction]:
        """At the end: predictions for the windows some modality still covers."""
        return self._classify(self._pipeline.flush())

    def _classify(self, windows: Iterable[Window]) -> list[Prediction]:
        predictions = []
        for window in windows:
            self._listener(window)
            predictions.append(self.classifier.classify(window, self._baseline, self._shots))
        return predictions


def open_session(
    bundle: Bundle,
    streams: Mapping[str, StreamInfo],
    *,
    runtime: str = "auto",
    threads: int = 1,
    baseline: Baseline | None = None,
    listener: Listener | None = None,
    shots: Shots | None = None,
) -> Session:
    """Session on a bundle's network; raises BundleError or InferenceError where it cannot run with these streams."""
    check_streams(bundle.manifest.spec, streams.values(), bundle.path, bundle.manifest.modalities)
    check_baseline(bundle, baseline)
    return Session(Classifier(bundle, runtime, threads), bundle.manifest.spec, streams, baseline, listener, shots)


class Tally:
    """Counts predictions for a summary."""

    def __init__(self) -> None:
        self.windows = 0
        self.abstentions: Counter[str] = Counter()
        self.modalities: Counter[str] = Counter({"ecg+eda": 0, "ecg": 0, "eda": 0})
        """Predictions by the modalities the network saw."""

    @property
    def predictions(self) -> int:
        """Windows with a label."""
        return self.windows - self.abstentions.total()

    def add(self, prediction: Prediction) -> None:
        """Count one."""
        self.windows += 1
        if prediction.abstained is not None:
            self.abstentions[prediction.abstained] += 1
        else:
            self.modalities["+".join(prediction.modalities)] += 1

    def to_json(self, realtime_factor: float, bundle_sha256: str) -> dict[str, object]:
        """The summary that ``--json`` prints."""
        return {
            "windows": self.windows,
            "predictions": self.predictions,
            "abstentions": dict(self.abstentions),
            "modalities": dict(self.modalities),
            "realtime_factor": round(realtime_factor, 1),
            "bundle_sha256": bundle_sha256,
        }
