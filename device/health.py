"""Whether a running affectd does what it is there for: judged by its status alone.

It knows nothing of sockets or of how a status is made (``device.status.Status.to_json``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LOST_S = 120.0
"""Without data for so long a sensor is lost: the ladder's costly rungs are through by then."""
LOADING_S = 120.0
"""Loading scipy and a network takes seconds on a small machine."""
SILENT_S = 900.0
"""Without a prediction: a warm-up of minutes, and then windows that are good now and again."""
LOSS = 0.1
"""Share of lost samples; a strap that is worn loses next to none."""
DRIFT_PPM = 250.0
"""Crystals are within 20-100 ppm; more is a clock, or a fit, that is wrong."""
DISK_FREE = 1 << 29
"""Bytes: two sensors fill about 100 MB a day, so some days are left to somebody who makes room."""
HOT = 80.0
"""Degrees Celsius at which a Raspberry Pi begins to slow down."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that somebody should see to."""

    part: str
    """A sensor's or a sink's name, or what else it is about."""
    what: str
    remedy: str


def problems(status: Mapping[str, Any]) -> list[Problem]:
    """All of them; none: it is healthy. A pause is none."""
    found = [*_network(status), *_sinks(status), *_machine(status["machine"])]
    if status["paused"] is None:
        found = [*(it for sensor in status["sensors"] for it in _sensor(sensor, status["running_s"])), *found]
    return found


def notes(status: Mapping[str, Any]) -> list[str]:
    """What is as somebody wanted it, and yet worth knowing."""
    said = []
    if status["paused"] is not None:
        said.append("paused for privacy; `affectd resume` goes on")
    if not status["recording"]["on"]:
        said.append("raw data is not recorded; `affectd recording start` begins again")
    return said


def _sensor(sensor: Mapping[str, Any], running_s: float) -> Iterator[Problem]:
    link, stream, name = sensor["link"], sensor["stream"], sensor["name"]
    silent_s = running_s if link["last_s"] is None else link["last_s"]
    if link["state"] == "refused" or (link["state"] != "paused" and silent_s > LOST_S):
        remedy = link["reason"] or "see that it is worn, charged and near; `affectd-pair doctor` looks at the radio"
        yield Problem(name, f"no data for {silent_s:.0f} s ({link['state']})", remedy)
    if stream is None:
        return
    if (share := lost_share(stream)) > LOSS:
        yield Problem(name, f"{share:.0%} of its samples are lost", "bring it nearer, or the Wi-Fi to 5 GHz")
    if abs(stream["drift_ppm"]) > DRIFT_PPM:
        yield Problem(name, f"its clock is off by {stream['drift_ppm']:.0f} ppm", "restart the sensor, then affectd")


def lost_share(stream: Mapping[str, Any]) -> float:
    """Of a stream's samples, the share that did not arrive."""
    lost: int = stream["lost_samples"]
    samples: int = stream["samples"]
    return lost / max(1, lost + samples)


def _network(status: Mapping[str, Any]) -> Iterator[Problem]:
    if status["inference"] is None:
        if status["running_s"] > LOADING_S:
            yield Problem("network", "is still being loaded", "see its log: `journalctl -u affectd`")
        return
    silent_s = status["running_s"] if status["predicted_s"] is None else status["predicted_s"]
    if silent_s > SILENT_S and status["paused"] is None:
        why = status["rests_on"] or "no window has come"
        yield Problem("predictions", f"none for {silent_s / 60:.0f} min ({why})", "see that the sensors sit well")


def _sinks(status: Mapping[str, Any]) -> Iterator[Problem]:
    for sink in status["sinks"]:
        if sink["failing"]:
            what = f"{sink['failing']} failures in a row: {sink['last_error']}"
            yield Problem(f"sink {sink['name']}", what, "see its log: `journalctl -u affectd`")
        if sink["queued"] >= sink["queue"]:
            remedy = "see what it waits for; give it a larger queue"
            yield Problem(f"sink {sink['name']}", "its queue is full, the oldest is dropped", remedy)


def _machine(machine: Mapping[str, Any]) -> Iterator[Problem]:
    free, heat = machine["disk_free_bytes"], machine["cpu_celsius"]
    if free is not None and free < DISK_FREE:
        yield Problem("disk", f"{free / 2**20:.0f} MB are free", "make room: move recordings elsewhere")
    if heat is not None and heat >= HOT:
        yield Problem("processor", f"{heat:.0f} degrees Celsius", "give it air")
