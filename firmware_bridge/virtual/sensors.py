"""The virtual sensors by kind, and everything that can be made to happen to one, as methods and as JSON commands.

Knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import cast, get_args

from bumble.hci import HCI_ErrorCode

from firmware_bridge.virtual.air import Air
from firmware_bridge.virtual.board import ADVERTISE_MS, Board, Firmware, Say
from firmware_bridge.virtual.errors import CommandError, SpecError
from firmware_bridge.virtual.heart_rate import HeartRateStrap
from firmware_bridge.virtual.movesense import Movesense
from firmware_bridge.virtual.open_eda import OpenEda
from firmware_bridge.virtual.polar import PolarH10
from firmware_bridge.virtual.spec import SensorSpec
from firmware_bridge.virtual.stream import Cure

KINDS: Mapping[str, Callable[[Board], Firmware]] = {
    "polar-h10": PolarH10,
    "heart-rate": HeartRateStrap,
    "movesense": Movesense,
    "open-eda": OpenEda,
}
"""Every kind of sensor there is."""

BOOT_S = 1.0
"""From power-on to the first advertisement."""
LOSS = int(HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR)
"""What a host sees when a sensor goes out of reach or dies: its supervision timeout."""
GOODBYE = int(HCI_ErrorCode.REMOTE_USER_TERMINATED_CONNECTION_ERROR)
"""What a host sees when the sensor ends the link."""


class VirtualSensor:
    """One sensor on the air. Its methods are the commands; each returns when it has happened."""

    def __init__(self, spec: SensorSpec, address: str, air: Air, say: Say, advertise_ms: float = ADVERTISE_MS) -> None:
        if spec.kind not in KINDS:
            raise SpecError(spec.kind, f"no such sensor: expected one of {', '.join(KINDS)}")
        self.spec = spec
        self.board = Board(spec, address, air, say, advertise_ms)
        self.board.reboot = self.reset
        self._absence: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Static random address, upper case."""
        return self.board.address

    async def power_on(self) -> None:
        """Boot, and advertise."""
        await self.board.power_on(KINDS[self.spec.kind](self.board))

    async def power_off(self) -> None:
        """Leave the air for good."""
        await self.board.power_off()

    def state(self) -> dict[str, object]:
        """All there is to know of it."""
        return self.board.state()

    async def drop(self, for_s: float = 0.0, goodbye: bool = False) -> None:
        """Lose the link, out of reach for a while; ``goodbye``: end it as a sensor does that is taken off."""
        await self._leave(GOODBYE if goodbye else LOSS)
        await self._return_after(for_s)

    async def vanish(self) -> None:
        """Lose the link and advertise no more."""
        await self._leave(LOSS)
        self.board.say("has vanished")

    async def appear(self) -> None:
        """Advertise again."""
        self.board.visible = True
        await self.board.advertise()

    async def silence(self, until: str = "connect") -> None:
        """Stay connected, answer commands, notify nothing, until the next ``start``, ``connect`` or ``resume``."""
        if until not in get_args(Cure):
            raise CommandError(f"until {until!r}: expected one of {', '.join(get_args(Cure))}")
        self.board.faults.silent_until = cast(Cure, until)
        self.board.say(f"falls silent until {until}")

    async def resume(self) -> None:
        """End a silence."""
        self.board.faults.silent_until = None

    async def reset(self, bond: str = "kept", for_s: float = BOOT_S) -> None:
        """Reboot: the link is lost, clock and counters start anew."""
        if bond not in ("kept", "lost"):
            raise CommandError(f"bond {bond!r}: expected kept or lost")
        await self._leave(LOSS)
        if bond == "lost":
            self.board.forget_bonds()
        self.board.resets += 1
        self.board.clock.reset()
        self.board.firmware.reset()
        self.board.say(f"resets, bond {bond}")
        await self._return_after(for_s)

    async def forget_bond(self, drop: bool = True) -> None:
        """Lose its keys of every host, and by default the link, so that the next one shows it."""
        self.board.forget_bonds()
        self.board.say("has forgotten its bonds")
        if drop:
            await self.drop()

    async def lead_off(self) -> None:
        """Electrodes off the skin."""
        self.board.faults.lead_off = True
        self.board.firmware.electrodes()

    async def lead_on(self) -> None:
        """Electrodes on the skin."""
        self.board.faults.lead_off = False
        self.board.firmware.electrodes()

    async def fault(
        self,
        loss: float | None = None,
        duplicates: float | None = None,
        late_s: float | None = None,
        ppm: float | None = None,
    ) -> None:
        """From now on lose and double this share of the packets, start so late, drift so much."""
        faults = self.board.faults
        for name, share in (("loss", loss), ("duplicates", duplicates)):
            if share is not None and not 0 <= share <= 1:
                raise CommandError(f"{name} {share}: expected a share from 0 to 1")
        faults.loss = faults.loss if loss is None else loss
        faults.duplicates = faults.duplicates if duplicates is None else duplicates
        faults.late_s = faults.late_s if late_s is None else late_s
        if ppm is not None:
            self.board.clock.drift(ppm)

    async def do(self, command: str, arguments: Mapping[str, object]) -> None:
        """A command by name, as ``forget-bond``; raises CommandError."""
        if command not in COMMANDS:
            raise CommandError(f"no such command {command!r}: expected one of state, {', '.join(COMMANDS)}")
        method: Callable[..., Awaitable[None]] = getattr(self, COMMANDS[command])
        known = inspect.signature(method).parameters
        for name, value in arguments.items():
            if name not in known:
                raise CommandError(f"{command} has no {name!r}: expected {', '.join(known) or 'nothing'}")
            _check(name, value, str(known[name].annotation))
        await method(**arguments)

    async def _leave(self, reason: int) -> None:
        if self._absence is not None:
            self._absence.cancel()
        self.board.visible = False
        await self.board.hang_up(reason)
        await self.board.advertise()

    async def _return_after(self, for_s: float) -> None:
        if for_s > 0:
            self._absence = self.board.spawn(self._wait_and_appear(for_s))
        else:
            await self.appear()

    async def _wait_and_appear(self, for_s: float) -> None:
        await asyncio.sleep(for_s)
        await self.appear()


COMMANDS = {
    name: name.replace("-", "_")
    for name in (
        *("drop", "vanish", "appear", "silence", "resume", "reset", "forget-bond"),
        *("lead-off", "lead-on", "fault"),
    )
}
"""Names of the commands to the names of the methods."""
_TYPES: Mapping[str, tuple[type, ...]] = {"bool": (bool,), "str": (str,), "float": (int, float)}


def _check(name: str, value: object, annotation: str) -> None:
    """JSON's own types against the method's."""
    expected = annotation.removesuffix(" | None")
    if not isinstance(value, _TYPES[expected]) or (expected == "float" and isinstance(value, bool)):
        raise CommandError(f"{name} {value!r}: expected a {expected}")
    if isinstance(value, int | float) and not 0 <= abs(value) < float("inf"):
        raise CommandError(f"{name} {value!r}: expected a finite number")


def address_of(place: int) -> str:
    """The static random address of the sensor at this place in the row, when it has no other."""
    return f"C0:AF:FE:C7:{place // 256:02X}:{place % 256 + 1:02X}"
