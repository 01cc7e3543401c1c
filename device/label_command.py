"""`affectd label`: asks a running affectd, and says for people what came of it.

It knows nothing of signals or of profiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from device.labelling import Kept, LabelAnswer, LabelRequest
from firmware_bridge.daemon_client import ask


async def from_daemon(socket: Path, request: LabelRequest) -> LabelAnswer:
    """What a running affectd answers; raises DaemonError."""
    async with ask(socket, {"do": "label", **msgspec.to_builtins(request)}) as answers:
        return msgspec.convert((await anext(answers))["labels"], LabelAnswer)


def number_kept(answer: LabelAnswer) -> int:
    """Labelled windows of every network."""
    return sum(sum(kept.examples.values()) for kept in answer.kept)


def known(answer: LabelAnswer) -> list[str]:
    """The labels that the bundle has, line by line."""
    return [f"bundle {answer.bundle} has {', '.join(answer.labels)}", *unused(answer)]


def listed(answer: LabelAnswer) -> list[str]:
    """All that is labelled, line by line."""
    if not answer.kept:
        return ["No window is labelled."]
    lines = [f"bundle {kept.bundle}, {_state(kept, answer)}: {_counts(kept.examples)}" for kept in answer.kept]
    return [*lines, *unused(answer)]


def unused(answer: LabelAnswer) -> list[str]:
    """Why labels have no part in predictions; nothing where they have."""
    return [] if answer.reason is None else [f"Labels are not used: {answer.reason}."]


def changed(answer: LabelAnswer) -> list[str]:
    """What a request has changed and what there is now, line by line."""
    change = answer.change
    if change is None:
        return listed(answer)
    windows = "1 window" if change.n == 1 else f"{change.n} windows"
    if change.did == "forgot":
        return [f"Forgot {windows}; predictions are as before the first label."]
    when = f", labelled {change.when.astimezone():%Y-%m-%d %H:%M}" if change.when else ""
    if change.did == "took_back":
        return [f"Taken back: {change.label}{when}.", *listed(answer)]
    ended = f"{change.age_s:.0f} s ago" if change.age_s is not None else "just now"
    return [f"The window that ended {ended} is an example of {change.label} (from {change.mask}).", *listed(answer)]


def _state(kept: Kept, answer: LabelAnswer) -> str:
    if kept.network != answer.network:
        return f"another network ({kept.network[:8]})"
    return "in use" if answer.in_use else "not in use"


def _counts(examples: Mapping[str, int]) -> str:
    return ", ".join(f"{label} {n}" for label, n in examples.items())
