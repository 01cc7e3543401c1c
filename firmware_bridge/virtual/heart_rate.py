"""A heart rate strap, such as the Polar H9: Heart Rate Service alone, from the beats of an ECG it does not show.

Knows nothing of PMD; the H10 has this service too.
"""

from __future__ import annotations

from itertools import pairwise

from bumble.gatt import Service

from firmware_bridge.codecs import heart_rate
from firmware_bridge.codecs.heart_rate import RR_HZ, HeartRate
from firmware_bridge.virtual import gatt
from firmware_bridge.virtual.board import Board
from firmware_bridge.virtual.gatt import Properties
from firmware_bridge.virtual.signals import Signal, shipped

NOTIFY_HZ = 1.0
"""A measurement per second, as the standard recommends."""
MEAN_BEATS = 6
"""Beats whose mean rate is shown."""
LOOK_BACK_S = 12.0
"""Long enough for ``MEAN_BEATS`` at 30 per minute."""
CHEST = bytes([1])
"""Body Sensor Location."""


class HeartRatePart:
    """Heart Rate Service (0x180D) of a board whose electrodes see ``ecg``, sampled truly at ``sfreq`` Hz."""

    def __init__(self, board: Board, ecg: Signal, sfreq: float) -> None:
        self._board, self._ecg, self._sfreq = board, ecg, sfreq
        measurement = gatt.characteristic(board, "2A37", Properties.NOTIFY)
        location = gatt.characteristic(board, "2A38", Properties.READ, read=lambda: CHEST)
        self._stream = board.stream("heart-rate", board.notifier(measurement))
        measurement.on("subscription", self._subscription)
        self.service = Service(heart_rate.SERVICE_UUID, [measurement, location])

    def _subscription(self, _bearer: object, notify: bool, _indicate: bool) -> None:
        if notify:
            self._stream.start(NOTIFY_HZ, 1, lambda second: bytes(self.measured(second)))
        else:
            self._stream.stop()

    def measured(self, second: int) -> HeartRate:
        """What is said at this second of uptime: the intervals that ended in the second before it."""
        if self._board.faults.lead_off:
            return HeartRate(0, contact=False)
        now = second / NOTIFY_HZ
        first = max(0, round((now - LOOK_BACK_S) * self._sfreq))
        beats = self._ecg.beats_between(first, round(now * self._sfreq))[-MEAN_BEATS - 1 :]
        fresh_from = (now - 1 / NOTIFY_HZ) * self._sfreq
        intervals = [(end - begin, end) for begin, end in pairwise(beats)]
        rr = tuple(round(length / self._sfreq * RR_HZ) for length, end in intervals if end >= fresh_from)
        mean = sum(length for length, _ in intervals) / len(intervals) if intervals else 0.0
        return HeartRate(round(60 * self._sfreq / mean) if mean else 0, contact=True, rr=rr or None)

    def ended(self) -> None:
        """No one listens."""
        self._stream.stop()


class HeartRateStrap:
    """The whole strap."""

    advertised = ("180D",)

    def __init__(self, board: Board) -> None:
        self.name = f"Polar H9 {board.spec.serial}"
        self._board = board
        ecg = shipped("ecg-130", 130.0)
        self._part = HeartRatePart(board, ecg, board.spec.sfreq or ecg.sfreq)

    def services(self) -> list[Service]:
        """Heart rate, battery, information."""
        about = gatt.device_information(self._board, "Polar Electro Oy", "H9")
        return [self._part.service, gatt.battery(self._board), about]

    def ended(self) -> None:
        """The link is gone."""
        self._part.ended()

    def reset(self) -> None:
        """Nothing counts here."""

    def electrodes(self) -> None:
        """The next measurement says so."""

    def state(self) -> dict[str, object]:
        """Nothing of its own."""
        return {}
