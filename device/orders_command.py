"""Commands that change a running affectd (pause, recording, bundle, configuration, log level), and what came of each.

It knows nothing of how they are carried out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from firmware_bridge.daemon_client import ask

ORDER_S = 60.0
"""For an answer: a small machine loads and tries a network in seconds."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds_of(text: str) -> float:
    """``1h30m`` to 5400; raises ValueError."""
    found = _SPAN.fullmatch(text)
    if found is None or not any(found.groups()):
        raise ValueError(f"{text!r}: expected a time like 30m, 2h or 1h30m")
    return sum(int(n) * unit for n, unit in zip(found.groups(), _UNITS.values(), strict=True) if n)


async def order(socket: Path, name: str, **what: Any) -> dict[str, Any]:
    """What a running affectd answers to one; raises DaemonError."""
    async with ask(socket, {"do": name, **what}, answer_s=ORDER_S) as answers:
        return {key: value for key, value in (await anext(answers)).items() if key != "ok"}


def paused(answer: Mapping[str, Any]) -> list[str]:
    """After `affectd pause`."""
    until = until_when(answer["paused"])
    lines = [f"Paused {until}: the sensors are let go, nothing of them is recorded or predicted."]
    if answer["outlives_restart"]:
        return [*lines, "A restart changes nothing of that. `affectd resume` goes on."]
    return [*lines, f"A restart of affectd would end it: {answer['reason']}."]


def until_when(pause: Mapping[str, Any]) -> str:
    """A pause's end."""
    if pause["until"] is None:
        return "until `affectd resume`"
    return f"until {datetime.fromisoformat(pause['until']).astimezone():%Y-%m-%d %H:%M}"


def resumed(answer: Mapping[str, Any]) -> list[str]:
    """After `affectd resume`."""
    return ["Going on: sensors are connected to again."] if answer["resumed"] else ["It was not paused."]


def recording(answer: Mapping[str, Any]) -> list[str]:
    """After `affectd recording`."""
    state = "on" if answer["on"] else "off"
    if not answer["changed"]:
        return [f"Raw recording was {state} already."]
    if answer["on"]:
        return ["Raw data is recorded from now on."]
    return [
        "Raw data is not recorded from now on; predictions go on.",
        "That lasts until `affectd recording start`, or until affectd is started anew.",
    ]


def switched(answer: Mapping[str, Any], path: Path) -> list[str]:
    """After `affectd bundle use`."""
    said = answer["switched"]
    tried = f"its self-test is passed on {said['runtime']} (largest difference {said['largest_difference']:.2g})"
    lines = [f"Predictions are made with {said['bundle']} from now on; {tried}."]
    if said["warms_up"]:
        lines.append("It reads other windows than the one before: it warms up first.")
    keep = f'[inference] bundle = "{path}" in the configuration keeps it'
    return [*lines, f"That lasts until affectd ends; {keep}."]


def reloaded(answer: Mapping[str, Any]) -> list[str]:
    """After `affectd reload`."""
    changed, waiting = answer["changed"], answer["restart"]
    lines = [f"Changed: {', '.join(changed)}." if changed else "Nothing was changed."]
    if waiting:
        lines.append(f"As before until `systemctl restart affectd`: {', '.join(waiting)}.")
    return lines


def log_level(answer: Mapping[str, Any]) -> list[str]:
    """After `affectd log-level`."""
    return [f"Logging {answer['level']} and above, until affectd ends."]
