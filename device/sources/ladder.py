"""What to try next when a link fails: a table from the kind of failure to the rungs of a ladder.

Pure: knows nothing of radios, loops or clocks; the time and the dice come by argument. A sensor has a Ladder each;
the rungs that touch the adapter, hence everybody, are counted in the Shared of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from firmware_bridge.errors import RadioFault


class Rung(Enum):
    """One thing to try; its value says what, for people."""

    RESTART = "start the stream anew"
    RECONNECT = "connect anew"
    CLEAR = "clear stale state"
    POWER = "switch the adapter off and on"
    SYSTEMD = "restart bluetooth.service"
    POWER_ON = "switch the adapter on"
    WAIT = "wait for the radio"
    PAIR = "pair anew"
    REFUSED = "wait for a person"


SILENT: Final = "silent"
Fault = RadioFault | Literal["silent"]
"""``silent``: the link stands, the data has stopped."""

_RESTART, _RECONNECT, _CLEAR, _POWER, _SYSTEMD = Rung.RESTART, Rung.RECONNECT, Rung.CLEAR, Rung.POWER, Rung.SYSTEMD

LADDERS: Mapping[Fault, tuple[Rung, ...]] = {
    # A sensor that starts late or has forgotten its subscription needs no new link; a radio that loses data does.
    SILENT: (_RESTART, _RECONNECT, _RECONNECT, _CLEAR, _POWER, _RECONNECT, _SYSTEMD),
    # Interference and walls: most attempts after the first succeed by themselves.
    RadioFault.LINK: (_RECONNECT, _RECONNECT, _RECONNECT, _CLEAR, _RECONNECT, _POWER, _RECONNECT, _SYSTEMD),
    # Not worn or away, usually: nothing to repair, unless the scan is deaf.
    RadioFault.NOT_FOUND: (_RECONNECT, _RECONNECT, _RECONNECT, _CLEAR, _RECONNECT, _POWER, _RECONNECT, _RECONNECT),
    # A call that never returned has left something half done.
    RadioFault.TIMEOUT: (_RECONNECT, _CLEAR, _RECONNECT, _POWER, _RECONNECT, _SYSTEMD),
    # The state of a dead client stays for hours (bleak-retry-connector #226): waiting does not help.
    RadioFault.IN_PROGRESS: (_CLEAR, _RECONNECT, _POWER, _RECONNECT, _SYSTEMD),
    # Services cached wrongly, or a firmware in a bad state; the host's adapter has no part in it.
    RadioFault.GATT: (_RECONNECT, _CLEAR, _RECONNECT, _RECONNECT, Rung.REFUSED),
    # Whoever switched it off may switch it on; a device of its own does so itself. rfkill is a person's.
    RadioFault.POWERED_OFF: (Rung.WAIT, Rung.POWER_ON, Rung.WAIT, Rung.POWER_ON, Rung.WAIT, _SYSTEMD),
    # systemd restarts a bluetoothd that crashed; the name's return wakes who waits.
    RadioFault.NO_BLUEZ: (Rung.WAIT, Rung.WAIT, _SYSTEMD, Rung.WAIT, Rung.WAIT),
    # A USB reset takes seconds. A Pi's UART firmware that hangs comes back with the service, or not at all.
    RadioFault.NO_ADAPTER: (Rung.WAIT, Rung.WAIT, Rung.WAIT, _SYSTEMD, Rung.WAIT, Rung.WAIT),
    RadioFault.AUTHENTICATION: (_RECONNECT, Rung.PAIR, Rung.REFUSED),
    RadioFault.NOT_PERMITTED: (Rung.REFUSED,),
}
"""The n-th failure of a kind since data last came is answered by the n-th rung of its ladder; at the end the ladder is
climbed again, its quick waits left out."""

WAITS_S = (0.5, 0.5, 1.0, 2.0, 2.0, 4.0, 8.0)
"""Before the n-th attempt, whatever failed. The first are quick: recovery is to take under 30 s, and a first attempt
mostly succeeds."""
RADIO_WAIT_S = 4.0
"""WAIT, unless a change of the radio ends it before."""
SEARCH_BESIDE_S = 10.0
"""Longest wait between searches while another sensor streams, for a scan takes its air time; a search lasts as long."""
SEARCH_ALONE_S = 2.0
"""The same while no other does."""
REFUSED_S = 60.0
"""Between attempts that only a person's doing can make succeed."""
JITTER = 0.25
"""Every wait is up to so much longer or shorter, that two sensors do not stumble in step."""
APART_S: Mapping[Rung, float] = {_POWER: 60.0, _SYSTEMD: 300.0, Rung.POWER_ON: 2.0}
"""Least time between two such repairs, whoever asks for them."""
HARMFUL = frozenset({_POWER, _SYSTEMD})
"""What ends the links of everybody: not while another sensor streams."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to try, and when."""

    rung: Rung
    wait_s: float


class Shared:
    """What all ladders of one radio know of each other: the last repairs."""

    def __init__(self) -> None:
        self._last: dict[Rung, float] = {}

    def may(self, rung: Rung, now_s: float) -> bool:
        """Whether a repair is far enough from the last one of its kind."""
        last = self._last.get(rung)
        return last is None or now_s - last >= APART_S.get(rung, 0.0)

    def did(self, rung: Rung, now_s: float) -> None:
        """A repair begins."""
        self._last[rung] = now_s


class Ladder:
    """One sensor's way up; ``dice`` gives numbers in [0, 1)."""

    def __init__(self, shared: Shared, dice: Callable[[], float]) -> None:
        self._failures: Counter[Fault] = Counter()
        self._shared = shared
        self._dice = dice

    def progress(self) -> None:
        """Data has come: all is well."""
        self._failures.clear()

    def failed(self, fault: Fault, now_s: float, *, alone: bool, restartable: bool = True) -> Step:
        """The next step; ``alone``: no other sensor streams, ``restartable``: starting anew on the link is worth it."""
        place, number = self._failures[fault], self._failures.total()
        self._failures[fault] += 1
        rung = self._allowed(LADDERS[fault][place % len(LADDERS[fault])], now_s, alone, restartable)
        wait = self._wait_s(rung, fault, number, alone)
        return Step(rung, wait * (1 + JITTER * (2 * self._dice() - 1)))

    def _allowed(self, rung: Rung, now_s: float, alone: bool, restartable: bool) -> Rung:
        """The rung, or the one that harms nobody in its stead."""
        if rung is Rung.RESTART and not restartable:
            return Rung.RECONNECT
        if (rung in HARMFUL and not alone) or not self._shared.may(rung, now_s):
            return Rung.RECONNECT
        return rung

    def _wait_s(self, rung: Rung, fault: Fault, number: int, alone: bool) -> float:
        if rung is Rung.RESTART:
            return 0.0
        if rung is Rung.REFUSED:
            return REFUSED_S
        if rung is Rung.WAIT:
            return RADIO_WAIT_S
        wait = WAITS_S[min(number, len(WAITS_S) - 1)]
        if fault is RadioFault.NOT_FOUND:
            return min(wait, SEARCH_ALONE_S) if alone else min(2 * wait, SEARCH_BESIDE_S)
        return wait
