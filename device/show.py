"""`affectd status` for people.

It knows nothing of sockets; it shows what ``device.status.Status.to_json`` says.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from device.health import lost_share, notes
from device.timekeeping import in_words

_STYLE = {"streaming": "green", "refused": "red", "silent": "yellow", "waiting": "yellow", "paused": "cyan"}

_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


def print_status(status: dict[str, Any], console: Console | None = None) -> None:
    """One table of the sensors, and a line on what comes out."""
    console = console or Console()
    console.print(f"affectd {status['affectd']}, running for {_span(status['running_s'])}, bundle {status['bundle']}")
    if calibrated := calibration(status.get("calibration")):
        console.print(Text(calibrated))
    if labels := _own_labels(status.get("shots")):
        console.print(Text(labels))
    for line in _recording(status["recording"], status["machine"]["disk_free_bytes"]):
        console.print(line)
    if said := _clock(status.get("clock")):
        console.print(Text(said))
    if status["sensors"]:
        console.print(_sensors(status["sensors"]))
    for sensor in status["sensors"]:
        if reason := sensor["link"]["reason"]:
            console.print(Text(f"{sensor['name']}: {reason}", style=_STYLE.get(sensor["link"]["state"], "")))
    if any(sensor["stream"] is None for sensor in status["sensors"]):
        console.print("the network is still loading; what comes is recorded already")
    for note in notes(status):
        console.print(Text(note, style="cyan"))
    rests_on = status["rests_on"] or "nothing yet"
    console.print(Text(f"{status['predictions']} predictions, now from {rests_on}"))
    console.print(Text(newest(status["prediction"])))


def calibration(said: dict[str, Any] | None) -> str:
    """Empty where there is no profile, nor a reason for it."""
    if said is None:
        return ""
    if said["mode"] == "calibrated":
        return f"calibrated for {said['person'] or 'the wearer'}"
    return f"cold start: {said['reason']}" if said["reason"] else ""


def _recording(said: dict[str, Any], free: int | None) -> list[Text]:
    lines = [Text(f"recording {said['path']}, {said['records']} records")]
    kept = f"{said['segments']} segments, {_size(said['bytes'])}, since {said['oldest']}"
    lines.append(Text(kept if free is None else f"{kept}; {_size(free)} free"))
    if said["unrecorded"]:
        lines.append(Text(f"{said['unrecorded']} records could not be recorded; the log says why", style="red"))
    return lines


def _clock(said: dict[str, Any] | None) -> str:
    """Empty where an older affectd says nothing of it."""
    if said is None:
        return ""
    known = f"clock {in_words(said['is_synchronised'])}"
    if (last := said["corrected"]) is None:
        return known
    return f"{known}; {said['corrections']} corrections, the last by {last['by_s']:+.3f} s {_span(last['ago_s'])} ago"


def _size(n_bytes: int) -> str:
    unit = next((it for it in ("kB", "MB") if n_bytes < _UNITS[it] * 1000), "GB")
    return f"{n_bytes / _UNITS[unit]:.1f} {unit}"


def _own_labels(shots: dict[str, Any] | None) -> str:
    """Empty where the wearer has labelled nothing."""
    if shots is None or not shots["examples"]:
        return ""
    counts = ", ".join(f"{label} {n}" for label, n in shots["examples"].items())
    return f"labels of your own: {counts}" + ("" if shots["in_use"] else f"; not used: {shots['reason']}")


def _sensors(sensors: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("sensor", "link", "for", "links", "Hz", "lost", "gaps", "bad", "battery"):
        table.add_column(head, overflow="fold")
    for sensor in sensors:
        link, stream = sensor["link"], sensor["stream"]
        state = Text(link["state"], style=_STYLE.get(link["state"], ""))
        cells = [_span(link["since_s"]), str(link["connections"])]
        if stream is not None:
            cells += [f"{stream['sfreq']:.2f}", f"{lost_share(stream):.1%}", str(stream["gaps"]), str(stream["bad"])]
            cells += ["" if link["battery"] is None else f"{link['battery']} %"]
        table.add_row(Text(f"{sensor['name']} ({sensor['role']})"), state, *cells)
    return table


def newest(prediction: dict[str, Any] | None) -> str:
    """What the newest prediction says, or why it says nothing."""
    if prediction is None:
        return "no prediction yet"
    if prediction["label"] is None:
        return f"newest: abstains ({prediction['abstained']})"
    share = prediction["probabilities"][prediction["label"]]
    return f"newest: {prediction['label']} {share:.0%} from {'+'.join(prediction['modalities'])}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{rest} s"
