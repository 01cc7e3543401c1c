"""Bugs of BlueZ that hurt sensors, by version, and what is done about each.

Knows nothing of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int]

OLDEST: Version = (5, 55)
"""bleak needs it."""


@dataclass(frozen=True, slots=True)
class Bug:
    """One bug, of the versions ``first`` to ``last``."""

    first: Version
    last: Version
    what: str
    remedy: str
    met: bool
    """Whether affectd goes round it, so that nothing needs to be done."""


BUGS = (
    Bug(
        (5, 66),
        (5, 85),
        "bluetoothd crashes at a scan after AcquireNotify (bluez #1781; met here with 5.66)",
        "affectd uses StartNotify; other programs that use AcquireNotify may still crash it",
        True,
    ),
    Bug(
        (5, 0),
        (5, 64),
        "it does not say whether a device is bonded, only whether it is paired",
        "affectd takes the one for the other",
        True,
    ),
    Bug(
        (5, 0),
        (5, 79),
        "it does not say why a link ended, so a bond that the sensor has lost looks like a bad link",
        "where a sensor cannot be reached although it advertises: `affectd-pair add ADDRESS --replace`",
        True,
    ),
    Bug(
        (5, 87),
        (5, 87),
        "bluetoothd crashes where a link ends while a subscription is pending (bluez #2538)",
        "use 5.86 or a later version; affectd notices the crash and connects again",
        False,
    ),
)
"""From our own runs and the projects' trackers; the bounds of the first are the versions it was seen with."""


def parse(version: str) -> Version | None:
    """``5.66`` or ``5.66-1`` to numbers; None for what is no version."""
    major, _, rest = version.strip().partition(".")
    minor = "".join(char for char in rest.partition("-")[0].partition(".")[0] if char.isdigit())
    return (int(major), int(minor)) if major.isascii() and major.isdigit() and minor.isascii() and minor else None


def bugs_of(version: Version) -> list[Bug]:
    """Those a version has."""
    return [bug for bug in BUGS if bug.first <= version <= bug.last]
