"""A status as metrics in the text format of Prometheus (version 0.0.4): how things run, never what somebody lives.

No label, probability or signal of the wearer is in them. It knows nothing of HTTP or of how a status is made.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

from device.notification import LinkState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[Mapping[str, str], float | None]
"""Labels and value; None: there is none, and so no line."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all that is known of it; a histogram's samples are made by ``_histogram``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    samples: tuple[tuple[str, Mapping[str, str], float | None], ...]
    """(what the name ends in, labels, value)."""


def exposition(status: Mapping[str, Any]) -> str:
    """The whole page; families without a value are left out."""
    return "".join(line + "\n" for family in families(status) for line in _lines(family))


def families(status: Mapping[str, Any]) -> list[Family]:
    """Everything that is measured."""
    return [*_daemon(status), *_sensors(status["sensors"]), *_sinks(status["sinks"]), *_machine(status["machine"])]


def _of(kind: Literal["counter", "gauge"], name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(f"affectd_{name}", kind, text, tuple(("", labels, value) for labels, value in samples))


def _one(kind: Literal["counter", "gauge"], name: str, text: str, value: float | None) -> Family:
    return _of(kind, name, text, [({}, value)])


def _daemon(status: Mapping[str, Any]) -> Iterator[Family]:
    info = {"version": str(status["affectd"]), "bundle": str(status["bundle"]), "sha256": status["bundle_sha256"]}
    yield _of("gauge", "info", "What runs.", [(info, 1)])
    yield _one("gauge", "running_seconds", "Since its start.", status["running_s"])
    yield _one("gauge", "paused", "Whether it is paused for privacy.", status["paused"] is not None)
    yield _one("gauge", "recording", "Whether raw data is recorded.", status["recording"]["on"])
    yield _one("counter", "recorded_total", "Records of the raw recording.", status["recording"]["records"])
    yield _one("counter", "windows_total", "Windows that were looked at.", status["predictions"])
    abstentions = [({"reason": reason}, n) for reason, n in status["abstentions"].items()]
    yield _of("counter", "abstentions_total", "Windows without a prediction.", abstentions)
    yield _one("gauge", "last_prediction_seconds", "Since the newest prediction.", status["predicted_s"])
    yield _one("gauge", "lag_seconds", "From the end of the newest window to its prediction.", status["lag_s"])
    newest = status["prediction"] or {"sqi": {}}
    quality = [({"modality": modality}, sqi) for modality, sqi in newest["sqi"].items()]
    yield _of("gauge", "sqi", "Signal quality of the newest window, 0 to 1.", quality)
    if status["inference"] is not None:
        yield _histogram("inference_seconds", "How long the network takes.", status["inference"])


def _histogram(name: str, text: str, of: Mapping[str, Any]) -> Family:
    bounds = [*(f"{bound:g}" for bound in of["bounds_s"]), "+Inf"]
    buckets = [("_bucket", {"le": le}, n) for le, n in zip(bounds, accumulate(of["counts"]), strict=True)]
    return Family(f"affectd_{name}", "histogram", text, (*buckets, ("_sum", {}, of["sum_s"]), ("_count", {}, of["n"])))


_STREAM = (
    ("counter", "notifications_total", "Notifications.", "notifications"),
    ("counter", "bad_total", "Notifications that do not follow the protocol.", "bad"),
    ("counter", "connections_total", "Connections that came as far as setting up the stream.", "connections"),
    ("counter", "samples_total", "Samples that arrived.", "samples"),
    ("counter", "lost_samples_total", "Samples that did not.", "lost_samples"),
    ("counter", "gaps_total", "Gaps.", "gaps"),
    ("gauge", "rate_hertz", "Fitted rate.", "sfreq"),
    ("gauge", "nominal_rate_hertz", "Rate that it is sold with.", "sfreq_nominal"),
    ("gauge", "clock_drift_ppm", "Of its clock to the host's, in parts per million.", "drift_ppm"),
)  # fmt: skip
_LINK = (
    ("counter", "drops_total", "Connections that ended without being let go of.", "drops"),
    ("counter", "restarts_total", "Streams started anew on the same link.", "restarts"),
    ("gauge", "battery_percent", "Charge at the last reading.", "battery"),
    ("gauge", "last_data_seconds", "Since data last came.", "last_s"),
)


def _sensors(sensors: Iterable[Mapping[str, Any]]) -> Iterator[Family]:
    """By role: a sensor's name and address are the wearer's own."""
    for part, table in (("stream", _STREAM), ("link", _LINK)):
        for kind, name, text, key in table:
            there = [({"sensor": sensor["role"]}, sensor[part][key]) for sensor in sensors if sensor[part] is not None]
            yield _of("counter" if kind == "counter" else "gauge", f"sensor_{name}", text, there)
    states = [
        ({"sensor": sensor["role"], "state": state}, sensor["link"]["state"] == state)
        for sensor in sensors
        for state in get_args(LinkState)
    ]
    yield _of("gauge", "sensor_link_state", "1 for the state that its link is in.", states)


def _sinks(sinks: Iterable[Mapping[str, Any]]) -> Iterator[Family]:
    for key, text in (("published", "taken"), ("dropped", "dropped for a full queue"), ("failed", "failed")):
        samples = [({"sink": sink["name"]}, sink[key]) for sink in sinks]
        yield _of("counter", f"sink_{key}_total", f"Predictions and events that were {text}.", samples)
    for key, text in (("queued", "What waits."), ("queue", "What may wait.")):
        yield _of("gauge", f"sink_{key}", text, [({"sink": sink["name"]}, sink[key]) for sink in sinks])
    served = [({"sink": sink["name"]}, sink["readers"]) for sink in sinks if "readers" in sink]
    yield _of("gauge", "sink_readers", "Readers that are there.", [(sink, n["reading"]) for sink, n in served])
    for key, text in (("refused", "Requests that were refused."), ("late", "Readers let go of, which took nothing.")):
        yield _of("counter", f"sink_readers_{key}_total", text, [(sink, n[key]) for sink, n in served])


def _machine(machine: Mapping[str, Any]) -> Iterator[Family]:
    yield _one("gauge", "memory_bytes", "Resident memory of the process.", machine["memory_bytes"])
    yield _one("gauge", "cpu_celsius", "Of the hottest zone.", machine["cpu_celsius"])
    yield _one("gauge", "disk_bytes", "Of the recordings' disk.", machine["disk_bytes"])
    yield _one("gauge", "disk_free_bytes", "Free on it.", machine["disk_free_bytes"])


def _lines(family: Family) -> Iterator[str]:
    there = [(end, labels, value) for end, labels, value in family.samples if value is not None]
    if not there:
        return
    yield f"# HELP {family.name} {_escaped(family.text)}"
    yield f"# TYPE {family.name} {family.kind}"
    for end, labels, value in there:
        pairs = ",".join(f'{key}="{_escaped(text, quote=True)}"' for key, text in labels.items())
        yield f"{family.name}{end}{f'{{{pairs}}}' if pairs else ''} {float(value):.17g}"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
