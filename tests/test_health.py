"""Health and metrics, of a status alone; what a scraper reads is checked with Prometheus' own parser."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from device.durations import BOUNDS_S, Durations
from device.errors import WebError
from device.health import notes, problems
from device.machine import machine
from device.metrics import exposition
from device.web.serve import read_key

PERSONAL = ("Ada", "stress", "rest", "A0:9E:1A:00:00:01", "Ada's strap", "/home/ada")
LINK = {
    "state": "streaming", "reason": "", "since_s": 900.0, "last_s": 0.4, "connections": 2, "drops": 1, "restarts": 0,
    "notifications": 7, "battery": 87,
}  # fmt: skip
STREAM = {
    "notifications": 1300, "connections": 2, "bad": 1, "last_bad": None, "samples": 990, "lost_samples": 10, "gaps": 2,
    "sfreq": 130.045, "sfreq_nominal": 130.0, "drift_ppm": -12.5,
}  # fmt: skip
WELL: dict[str, Any] = {
    "affectd": "0.1.0",
    "bundle": "acc",
    "bundle_sha256": "ab" * 32,
    "calibration": {"mode": "calibrated", "person": "Ada", "reason": None},
    "running_s": 7260.0,
    "recording": {"path": "/home/ada/r.affrec", "records": 12, "on": True, "left_out": 0},
    "paused": None,
    "sensors": [{"name": "Ada's strap", "address": "A0:9E:1A:00:00:01", "role": "ecg", "link": LINK, "stream": STREAM}],
    "sinks": [
        {"name": "sqlite", "published": 9, "dropped": 0, "failed": 1, "failing": 0, "queued": 0, "queue": 256,
         "last_error": "x"}
    ],
    "predictions": 100,
    "abstentions": {"contact": 3, "warming_up": 12},
    "predicted_s": 4.0,
    "rests_on": "ecg",
    "lag_s": 1.25,
    "inference": {"runtime": "r", "bounds_s": BOUNDS_S, "n": 85, "sum_s": 0.5, "counts": [5] + [8] * 10},
    "prediction": {"label": "stress", "probabilities": {"rest": 0.25, "stress": 0.75}, "sqi": {"ecg": 0.875}},
    "machine": {"memory_bytes": 99_000_000, "cpu_celsius": 51.5, "disk_bytes": 2**34, "disk_free_bytes": 2**33},
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """WELL with one value changed, by its dotted path."""
    status = copy.deepcopy(WELL)
    *way, last = (int(key) if key.isdigit() else key for key in path.split("."))
    part = status
    for key in way:
        part = part[key]
    part[last] = value
    return status


def test_what_is_well_is_healthy() -> None:
    assert problems(WELL) == [] == notes(WELL)


@pytest.mark.parametrize(
    ("path", "value", "part", "what"),
    [
        ("sensors.0.link.last_s", 121.0, "Ada's strap", "no data for 121 s (streaming)"),
        ("sensors.0.link.state", "refused", "Ada's strap", "(refused)"),
        ("sensors.0.link.last_s", None, "Ada's strap", "no data for 7260 s"),
        ("sensors.0.stream.lost_samples", 200, "Ada's strap", "17% of its samples"),
        ("sensors.0.stream.drift_ppm", -300.0, "Ada's strap", "off by -300 ppm"),
        ("inference", None, "network", "still being loaded"),
        ("predicted_s", 1200.0, "predictions", "none for 20 min (ecg)"),
        ("sinks.0.failing", 3, "sink sqlite", "3 failures in a row: x"),
        ("sinks.0.queued", 256, "sink sqlite", "its queue is full"),
        ("machine.disk_free_bytes", 2**28, "disk", "256 MB are free"),
        ("machine.cpu_celsius", 85.0, "processor", "85 degrees"),
    ],
)
def test_each_thing_that_goes_wrong_is_named_with_what_to_do(path: str, value: Any, part: str, what: str) -> None:
    (found,) = problems(changed(path, value))
    assert found.part == part and what in found.what and found.remedy


@pytest.mark.parametrize("path", ["machine.disk_free_bytes", "machine.cpu_celsius", "sensors.0.stream"])
def test_what_is_not_known_is_no_problem(path: str) -> None:
    assert problems(changed(path, None)) == []


def test_a_pause_and_a_loan_are_none() -> None:
    paused = changed("sensors.0.link.last_s", 9999.0) | {"paused": {"until": None}, "predicted_s": 9999.0}
    assert problems(paused) == [] and "affectd resume" in notes(paused)[0]
    lent = changed("sensors.0.link", LINK | {"state": "paused", "last_s": 9999.0})
    assert problems(lent) == []


def parsed(status: dict[str, Any]) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition(status))}


def test_prometheus_reads_what_is_there() -> None:
    read = parsed(json.loads(json.dumps(WELL)))  # as it comes over the socket
    kinds = {name: family.type for name, family in read.items()}
    assert kinds["affectd_abstentions"] == "counter" and kinds["affectd_sensor_clock_drift_ppm"] == "gauge"
    values = {(s.name, *sorted(s.labels.values())): s.value for family in read.values() for s in family.samples}
    assert values["affectd_abstentions_total", "contact"] == 3
    assert values["affectd_sensor_rate_hertz", "ecg"] == 130.045
    assert values["affectd_sensor_link_state", "ecg", "streaming"] == 1
    assert sum(v for k, v in values.items() if k[0] == "affectd_sensor_link_state") == 1
    assert values["affectd_sqi", "ecg"] == 0.875
    assert values["affectd_disk_free_bytes",] == 2**33
    assert values["affectd_info", "0.1.0", "ab" * 32, "acc"] == 1
    buckets = [s for s in read["affectd_inference_seconds"].samples if s.name.endswith("_bucket")]
    assert [s.value for s in buckets] == [5 + 8 * k for k in range(11)]
    assert [float(s.labels["le"]) for s in buckets] == [*BOUNDS_S, math.inf]
    assert kinds["affectd_inference_seconds"] == "histogram"
    assert values["affectd_inference_seconds_count",] == 85


def test_nothing_of_the_wearer_is_in_them() -> None:
    text = exposition(WELL)
    assert not [word for word in PERSONAL if word in text.replace("restarts", "")]


def test_what_is_not_known_has_no_line() -> None:
    unknown = changed("machine.cpu_celsius", None) | {"inference": None, "prediction": None, "predicted_s": None}
    unknown["sensors"][0]["stream"] = None
    read = parsed(unknown)
    assert not {"affectd_cpu_celsius", "affectd_inference_seconds", "affectd_sqi", "affectd_sensor_samples"} & set(read)
    assert "affectd_sensor_battery_percent" in read


@given(name=st.text(max_size=30).filter(lambda text: "\r" not in text))
def test_every_name_arrives_as_it_is(name: str) -> None:
    lines = "\n".join(
        line for line in exposition(changed("bundle", name)).split("\n") if line.startswith("affectd_info")
    )
    (family,) = text_string_to_metric_families(lines + "\n")
    assert family.samples[0].labels["bundle"] == name


def test_durations_are_counted_at_their_bounds() -> None:
    durations = Durations()
    for seconds in (0.0, 0.001, 0.0011, 1.0, 2.0):
        durations.add(seconds)
    assert (durations.n, durations.counts[0], durations.counts[1]) == (5, 2, 1)
    assert durations.counts[-2:] == [1, 1] and durations.sum_s == pytest.approx(3.0021)


def test_the_machine_is_read_where_it_says_something(tmp_path: Path) -> None:
    for number, text in enumerate(("48312\n", "51500\n", "off\n")):
        zone = tmp_path / "sys/class/thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    found = machine(tmp_path, tmp_path)
    assert (found["cpu_celsius"], found["memory_bytes"]) == (51.5, None)
    assert 0 < found["disk_free_bytes"] <= found["disk_bytes"]
    assert machine(tmp_path / "none")["disk_bytes"] is None and machine(tmp_path)["memory_bytes"] > 1 << 20


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("a" * 32 + "\n")
    path.chmod(0o600)
    assert read_key(path) == "a" * 32
    path.chmod(0o640)
    with pytest.raises(WebError, match="others may read this key"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(WebError, match="a key of 5 characters; `openssl rand"):
        read_key(path)
    with pytest.raises(WebError, match="no key can be read"):
        read_key(tmp_path / "none")
