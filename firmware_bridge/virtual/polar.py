"""A virtual Polar H10: PMD's control point and ECG, and the Heart Rate Service from the same beats.

Knows nothing of other PMD measurements than to refuse them.
"""

from __future__ import annotations

from bumble.gatt import Service

from firmware_bridge.codecs import polar_pmd
from firmware_bridge.codecs.polar_pmd import Command, EcgFrame, Features, Measurement, Op, Response, Status
from firmware_bridge.errors import DecodeError
from firmware_bridge.virtual import gatt
from firmware_bridge.virtual.board import Board
from firmware_bridge.virtual.gatt import Properties
from firmware_bridge.virtual.heart_rate import HeartRatePart
from firmware_bridge.virtual.signals import Signal, noise, read, shipped

TRUE_SFREQ = 130.045
"""Hz: what a real H10 that calls itself 130 Hz was measured at, over 115 min."""
FRAME_SAMPLES = 73
"""Samples of a frame, 229 bytes."""
FEATURES = Features(bytes([1 << Measurement.ECG]) + bytes(15))
INVALID_OP, NOT_SUPPORTED = 1, 3
"""Status codes of PmdControlPointResponse.kt that no host of ours asks for."""


class PolarH10:
    """Its firmware. The ECG needs a bond, the heart rate does not."""

    advertised = ("180D",)

    def __init__(self, board: Board) -> None:
        self.name = f"Polar H10 {board.spec.serial}"
        self._board = board
        self._sfreq = board.spec.sfreq or TRUE_SFREQ
        self._ecg = self._signal()
        self._noise = noise(f"{board.spec.seed}/{board.spec.key}/noise", self._sfreq)
        both = Properties.READ | Properties.WRITE | Properties.INDICATE
        self._control = gatt.characteristic(
            board, polar_pmd.CONTROL_UUID, both, read=lambda: bytes(FEATURES), write=self._command, secure=True
        )
        self._data = gatt.characteristic(board, polar_pmd.DATA_UUID, Properties.NOTIFY, secure=True)
        self._stream = board.stream("ecg", board.notifier(self._data))
        self._heart_rate = HeartRatePart(board, self._ecg, self._sfreq)

    def _signal(self) -> Signal:
        nominal = polar_pmd.STREAM_INFO.sfreq
        path = self._board.spec.signal
        return read(path, nominal, polar_pmd.CODEC.decoder().push) if path else shipped("ecg-130", nominal)

    def services(self) -> list[Service]:
        """Heart rate, PMD, battery, information."""
        pmd = Service(polar_pmd.SERVICE_UUID, [self._control, self._data])
        about = gatt.device_information(self._board, "Polar Electro Oy", "H10")
        return [self._heart_rate.service, pmd, gatt.battery(self._board), about]

    def _command(self, data: bytes) -> None:
        try:
            answer = self._answer(Command.from_bytes(data))
        except DecodeError:
            op, measurement = (*data, 0, 0)[:2]
            answer = Response(op, measurement, INVALID_OP)
        self._board.indicate(self._control, bytes(answer))

    def _answer(self, command: Command) -> Response:
        if command.measurement != Measurement.ECG:
            return Response(command.op, command.measurement, NOT_SUPPORTED)
        match command.op:
            case Op.GET_SETTINGS:
                offered = b"".join(map(bytes, polar_pmd.ECG_SETTINGS))
                return Response(command.op, Measurement.ECG, Status.OK, 0, offered)
            case Op.START:
                return Response(command.op, Measurement.ECG, self._start(command), 0)
            case Op.STOP:
                running = self._stream.running
                self._stream.stop()
                return Response(command.op, Measurement.ECG, Status.OK if running else Status.ALREADY_IN_STATE, 0)
        return Response(command.op, command.measurement, NOT_SUPPORTED)

    def _start(self, command: Command) -> Status:
        if self._stream.running:
            return Status.ALREADY_IN_STATE
        if command.settings != polar_pmd.ECG_SETTINGS:
            return Status.INVALID_RATE
        if self._board.mtu < polar_pmd.MIN_ATT_MTU:
            return Status.INVALID_MTU
        self._board.started()
        self._stream.start(self._sfreq, FRAME_SAMPLES, self._frame)
        return Status.OK

    def _frame(self, first: int) -> bytes:
        """Stamped with the time of its last sample, ns since a power-on that the sensor takes for 2019."""
        signal = self._noise if self._board.faults.lead_off else self._ecg
        last_s = (first + FRAME_SAMPLES - 1) / self._sfreq
        return bytes(EcgFrame(polar_pmd.CLOCK_RESET_TICKS + round(last_s * 1e9), signal.run(first, FRAME_SAMPLES)))

    def ended(self) -> None:
        """An H10 without link stops by itself."""
        self._stream.stop()
        self._heart_rate.ended()

    def reset(self) -> None:
        """Its clock is the board's; it counts nothing."""

    def electrodes(self) -> None:
        """The next frame shows it."""

    def state(self) -> dict[str, object]:
        """Nothing of its own."""
        return {}
