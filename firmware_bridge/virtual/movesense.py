"""A virtual Movesense with the GATT SensorData app: GSP's commands, ECG in uV and in counts, and heart rate.

Knows nothing of logbooks or motion, which it answers with 404.

Source: movesense.com, GATT SensorData Protocol; payloads as sokolmarek/movesense-commander measured them on hardware.
"""

from __future__ import annotations

import struct

from bumble.gatt import Service

from firmware_bridge.codecs import movesense_gsp as gsp
from firmware_bridge.codecs.movesense_gsp import Answer, Code, Command, EcgData, EcgInfo, Op, RawEcgData, Status
from firmware_bridge.errors import DecodeError
from firmware_bridge.virtual import gatt
from firmware_bridge.virtual.board import Board
from firmware_bridge.virtual.gatt import Properties
from firmware_bridge.virtual.heart_rate import HeartRatePart
from firmware_bridge.virtual.signals import Signal, noise, read, shipped

SYSTEM_MODE, UTC_TIME = 7, 8
"""Commands that no table of ours has."""
REBOOT = bytes([5])
"""System mode "Application"."""
ACCEPTED, BAD_REQUEST, CONFLICT = 202, 400, 409
PROTOCOL_VERSION = 1
MICROVOLT, COUNTS = (gsp.path(protocol, gsp.RATE_HZ) for protocol in (gsp.PROTOCOL, gsp.RAW_PROTOCOL))
SLOTS = 2
"""Requests that may wait for an answer; one that never gets any keeps its slot until the next boot."""
UNANSWERED = "/Info"
"""A resource that never answers, on real sensors too."""
FILTERS = struct.pack("<BHBf", 1, 40, 1, 0.5)
"""Low-pass and high-pass in Hz; arrays begin with their length."""
RESOURCES = {
    EcgInfo.PATH: bytes(EcgInfo((gsp.RATE_HZ,), gsp.SAMPLES, FILTERS)),
    "/System/Energy/Level": bytes([gatt.BATTERY_PERCENT]),
}


class Movesense:
    """Its firmware. Nothing needs a bond."""

    advertised = ("FDF3", "180D")

    def __init__(self, board: Board) -> None:
        self.name = f"Movesense {board.spec.serial}"
        self._board = board
        self._sfreq = board.spec.sfreq or float(gsp.RATE_HZ)
        path = board.spec.signal
        nominal = gsp.STREAM_INFO.sfreq
        self._ecg = read(path, nominal, gsp.CODEC.decoder().push) if path else shipped("ecg-200", nominal)
        self._noise = noise(f"{board.spec.seed}/{board.spec.key}/noise", self._sfreq)
        self._command = gatt.characteristic(board, gsp.COMMAND_UUID, Properties.WRITE, write=self._commanded)
        self._notify = gatt.characteristic(board, gsp.NOTIFY_UUID, Properties.NOTIFY)
        self._stream = board.stream("ecg", self._send)
        self._reference: int | None = None
        self._burnt = 0
        self._heart_rate = HeartRatePart(board, self._ecg, self._sfreq)

    def services(self) -> list[Service]:
        """GSP, heart rate, battery, information."""
        ecg = Service(gsp.SERVICE_UUID, [self._command, self._notify])
        about = gatt.device_information(self._board, "Suunto", "Movesense")
        return [ecg, self._heart_rate.service, gatt.battery(self._board), about]

    async def _send(self, data: bytes) -> None:
        """What exceeds the MTU goes on in a second notification of the same reference."""
        room, notify = self._board.mtu - 3, self._board.notifier(self._notify)
        await notify(data[:room])
        for at in range(room, len(data), room - 2):
            await notify(bytes([Code.CONTINUATION, data[1]]) + data[at : at + room - 2])

    def _commanded(self, data: bytes) -> None:
        if len(data) < 2:
            return
        if data[0] == Op.HELLO:
            texts = (self._board.spec.serial, "Movesense", self._board.address, "GATT SensorData", "virtual")
            strings = "".join(f"{text}\0" for text in texts).encode()
            self._board.spawn(self._send(bytes([Code.ANSWER, data[1], PROTOCOL_VERSION]) + strings))
        elif (answer := self._answer(data)) is not None:
            self._board.spawn(self._send(bytes(answer)))

    def _answer(self, data: bytes) -> Answer | None:
        """None: it never comes."""
        op, reference, payload = data[0], data[1], data[2:]
        if op == SYSTEM_MODE and payload == REBOOT:
            self._board.spawn(self._board.reboot())
            return Answer(reference, ACCEPTED)
        if self._burnt >= SLOTS:
            return Answer(reference, Status.BUSY)
        if op == UTC_TIME and len(payload) == 8:
            return Answer(reference, Status.OK)
        try:
            return self._do(Command.from_bytes(data))
        except DecodeError:
            return Answer(reference, BAD_REQUEST)

    def _do(self, command: Command) -> Answer | None:
        match command:
            case Command(Op.SUBSCRIBE, reference, path):
                return Answer(reference, self._subscribe(reference, path))
            case Command(Op.UNSUBSCRIBE, reference):
                return Answer(reference, self._unsubscribe(reference))
            case Command(Op.GET, _, path) if path == UNANSWERED:
                self._burnt += 1
                return None
            case Command(Op.GET, reference, path) if path in RESOURCES:
                return Answer(reference, Status.OK, RESOURCES[path])
        return Answer(command.ref, Status.NOT_FOUND)

    def _subscribe(self, reference: int, path: str) -> int:
        if path not in (MICROVOLT, COUNTS):
            return Status.NOT_FOUND
        if self._stream.running:
            return CONFLICT
        self._board.started()
        self._reference = reference
        self._stream.start(self._sfreq, gsp.SAMPLES, lambda first: self._packet(first, reference, path))
        return Status.OK

    def _unsubscribe(self, reference: int) -> int:
        if reference != self._reference:
            return Status.NOT_FOUND
        self._reference = None
        self._stream.stop()
        return Status.OK

    def _packet(self, first: int, reference: int, path: str) -> bytes:
        """Stamped with the time of its first sample, ms since power-on."""
        samples = self._electrode.run(first, gsp.SAMPLES)
        ticks = round(first / self._sfreq * 1000) % 2**32
        if path == COUNTS:
            return bytes(RawEcgData(ticks, tuple(round(uv / gsp.UV_PER_COUNT) for uv in samples), reference))
        low, high = gsp.STREAM_INFO.value_range
        return bytes(EcgData(ticks, tuple(max(low, min(high, uv)) for uv in samples), reference))

    @property
    def _electrode(self) -> Signal:
        return self._noise if self._board.faults.lead_off else self._ecg

    def ended(self) -> None:
        """Subscriptions end with the link; burnt slots stay burnt."""
        self._stream.stop()
        self._reference = None
        self._heart_rate.ended()

    def reset(self) -> None:
        """Only this frees the slots."""
        self._burnt = 0

    def electrodes(self) -> None:
        """The next packet shows it."""

    def state(self) -> dict[str, object]:
        """Slots that wait for ever."""
        return {"burnt_slots": self._burnt}
