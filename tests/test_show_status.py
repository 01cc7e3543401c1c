"""`affectd status` for people: what it says fits a narrow terminal, and says why."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from device.show import print_status

LINK = {"state": "streaming", "reason": "", "since_s": 75.2, "connections": 3, "battery": 87}
STREAM = {"sfreq": 130.045, "samples": 990, "lost_samples": 10, "gaps": 2, "bad": 1}
BASE: dict[str, Any] = {
    "affectd": "0.1.0",
    "running_s": 7260.0,
    "bundle": "acc",
    "recording": {
        "path": "/r.affrec",
        "records": 12,
        "on": True,
        "unrecorded": 0,
        "segments": 3,
        "bytes": 1_234_567,
        "oldest": "o.affrec",
    },
    "machine": {"disk_free_bytes": 70 * 10**9},
    "paused": None,
    "predictions": 4,
    "rests_on": "ecg",
    "prediction": {"label": "rest", "probabilities": {"rest": 0.8, "stress": 0.2}, "modalities": ["ecg"]},
}


def shown(**changes: Any) -> str:
    out = io.StringIO()
    print_status(BASE | changes, Console(file=out, width=80))
    return out.getvalue()


def test_a_streaming_sensor_and_the_newest_prediction() -> None:
    text = shown(sensors=[{"name": "chest", "role": "ecg", "link": LINK, "stream": STREAM}])
    assert "running for 2 h 1 min" in text
    for part in (
        "chest (ecg)",
        "streaming",
        "1 min",
        "130.0",
        "1.0%",
        "87 %",
        "4 predictions, now from ecg",
        "rest 80%",
    ):
        assert part in text


def test_the_clock_says_whether_it_is_known_and_what_was_corrected() -> None:
    clock = {"is_synchronised": False, "corrections": 0, "corrected": None}
    assert "clock not known to be synchronised\n" in shown(sensors=[], clock=clock)
    clock = {"is_synchronised": True, "corrections": 2, "corrected": {"by_s": -0.5, "ago_s": 130.0}}
    assert "clock synchronised; 2 corrections, the last by -0.500 s 2 min ago\n" in shown(sensors=[], clock=clock)


def test_the_recording_tells_its_size_and_what_is_missing() -> None:
    assert shown(sensors=[]).splitlines()[1:3] == [
        "recording /r.affrec, 12 records",
        "3 segments, 1.2 MB, since o.affrec; 70.0 GB free",
    ]
    text = shown(sensors=[], recording=BASE["recording"] | {"unrecorded": 7, "bytes": 999})
    assert "7 records could not be recorded; the log says why" in text and "1.0 kB" in text


def test_a_pause_and_a_recording_that_is_off_are_said() -> None:
    text = shown(sensors=[], paused={"until": None}, recording=BASE["recording"] | {"on": False})
    assert "paused for privacy" in text and "raw data is not recorded" in text


def test_a_link_in_trouble_says_why_below_the_table() -> None:
    link = LINK | {"state": "waiting", "reason": "the link is gone; bring it close", "battery": None}
    text = shown(sensors=[{"name": "wrist", "role": "eda", "link": link, "stream": None}], prediction=None, rests_on="")
    assert "wrist: the link is gone; bring it close" in text
    assert "still loading" in text and "no prediction yet" in text


def test_calibration_is_told_with_its_reason() -> None:
    for calibration, line in (
        ({"mode": "calibrated", "person": "Ada", "reason": None}, "calibrated for Ada"),
        ({"mode": "calibrated", "person": None, "reason": None}, "calibrated for the wearer"),
        (
            {"mode": "cold_start", "person": None, "reason": "/p: no such file; rest"},
            "cold start: /p: no such file; rest",
        ),
    ):
        assert line in shown(sensors=[], calibration=calibration).splitlines()
    assert "cold" not in shown(sensors=[], calibration={"mode": "cold_start", "person": None, "reason": None})


def test_an_abstention_is_told_with_its_reason() -> None:
    text = shown(sensors=[], prediction={"label": None, "abstained": "warming_up"})
    assert "newest: abstains (warming_up)" in text
