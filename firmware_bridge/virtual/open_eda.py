"""A virtual open EDA sensor, after PROTOCOL.md to the letter.

Knows nothing of other profiles.
"""

from __future__ import annotations

from bumble.gatt import Service

from firmware_bridge.codecs import open_eda
from firmware_bridge.codecs.open_eda import OPEN_VALUE, Command, Data, Info, Op, Response, Result, max_samples
from firmware_bridge.codecs.open_eda import Status as EdaStatus
from firmware_bridge.errors import DecodeError
from firmware_bridge.virtual import gatt
from firmware_bridge.virtual.board import Board
from firmware_bridge.virtual.gatt import Properties
from firmware_bridge.virtual.signals import Signal, read, shipped

PACKET_SAMPLES = 4
"""Half a second at 8 Hz."""
RATES_MHZ = {8_000: 1, 4_000: 2, 2_000: 4}
"""Rates it has, and of how many samples of its signal it then sends the first."""


class OpenEda:
    """Its firmware."""

    advertised = (open_eda.SERVICE_UUID,)
    name = "Open EDA"

    def __init__(self, board: Board) -> None:
        self._board = board
        self._eda = self._signal()
        self._boots = board.luck("boot")
        self._info = Info(boot_id=self._boots.getrandbits(32))
        self._seq = 0
        chars = Properties.READ | Properties.NOTIFY, Properties.WRITE | Properties.INDICATE
        self._about = gatt.characteristic(board, open_eda.INFO_UUID, Properties.READ, read=lambda: bytes(self._info))
        self._data = gatt.characteristic(board, open_eda.DATA_UUID, Properties.NOTIFY, secure=True)
        self._status = gatt.characteristic(board, open_eda.STATUS_UUID, chars[0], read=self._state_now, secure=True)
        self._control = gatt.characteristic(board, open_eda.CONTROL_UUID, chars[1], write=self._command, secure=True)
        self._stream = board.stream("eda", board.notifier(self._data))

    def _signal(self) -> Signal:
        path, nominal = self._board.spec.signal, open_eda.STREAM_INFO.sfreq
        return read(path, nominal, open_eda.CODEC.decoder().push) if path else shipped("eda-8", nominal)

    def services(self) -> list[Service]:
        """The profile, battery, information."""
        profile = Service(open_eda.SERVICE_UUID, [self._about, self._data, self._status, self._control])
        return [profile, gatt.battery(self._board), gatt.device_information(self._board, "affectd", "open EDA")]

    def _state_now(self) -> bytes:
        return bytes(EdaStatus(electrode_off=self._board.faults.lead_off))

    def _command(self, data: bytes) -> None:
        op = data[0] if data else 0
        try:
            result = self._do(Command.from_bytes(data))
        except DecodeError:
            result = Result.INVALID_PARAMETER if op in tuple(Op) else Result.UNKNOWN_COMMAND
        self._board.indicate(self._control, bytes(Response(op, result)))

    def _do(self, command: Command) -> Result:
        match command.op:
            case Op.START if not self._stream.running:
                self._start()
            case Op.STOP:
                self._stream.stop()
            case Op.SET_RATE if self._stream.running:
                return Result.INVALID_STATE
            case Op.SET_RATE if command.rate_mhz not in RATES_MHZ:
                return Result.INVALID_PARAMETER
            case Op.SET_RATE:
                self._info = Info(self._info.boot_id, command.rate_mhz or 0)
        return Result.OK

    def _start(self) -> None:
        self._board.started()
        size = min(PACKET_SAMPLES, max_samples(self._board.mtu))
        sfreq = self._sfreq
        self._stream.start(sfreq, size, lambda first: self._packet(first, size, sfreq))

    @property
    def _sfreq(self) -> float:
        """True rate in Hz: of the signal, or every second or fourth of its samples."""
        return (self._board.spec.sfreq or self._eda.sfreq) / RATES_MHZ[self._info.rate_mhz]

    def _packet(self, first: int, size: int, sfreq: float) -> bytes:
        step = RATES_MHZ[self._info.rate_mhz]
        numbers = range(first * step, (first + size) * step, step)
        samples = (OPEN_VALUE if self._board.faults.lead_off else self._eda.at(number) for number in numbers)
        seq, self._seq = self._seq, (self._seq + 1) % 2**16
        ticks = round(first / sfreq * self._info.clock_hz) % 2**32
        return bytes(Data(seq, ticks, tuple(samples)))

    def ended(self) -> None:
        """The stream stops by itself."""
        self._stream.stop()

    def reset(self) -> None:
        """Another boot_id; seq, clock and rate start anew."""
        self._info = Info(boot_id=self._boots.getrandbits(32))
        self._seq = 0

    def electrodes(self) -> None:
        """Status is notified when it changes."""
        self._board.spawn(self._notify_status())

    async def _notify_status(self) -> None:
        await self._board.notifier(self._status)(self._state_now())

    def state(self) -> dict[str, object]:
        """Packet counter and boot."""
        return {"seq": self._seq, "boot_id": self._info.boot_id, "rate_mhz": self._info.rate_mhz}
