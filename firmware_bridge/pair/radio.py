"""The radio as the tool uses it: a Central, an agent that answers while pairing, and what the host knows of bonds.

Knows nothing of sensors. Bluetooth libraries are imported when a radio is opened, not before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from firmware_bridge.pair.errors import PairError
from firmware_bridge.radio.types import Central

if TYPE_CHECKING:
    from firmware_bridge.radio.bluez import Bluez
    from firmware_bridge.virtual.central import SimulatedCentral


class Answers(Protocol):
    """What an agent is told while a device pairs; the device's own rules apply to all of it."""

    @property
    def capability(self) -> str:
        """What this host can do, in BlueZ's words."""

    async def passkey(self) -> int | None:
        """The six digits that the sensor shows; None: do not pair."""

    async def confirm(self, passkey: int) -> bool:
        """Whether the sensor shows the same six digits."""

    def display(self, passkey: int) -> None:
        """Six digits to be entered on the sensor."""


class Radio(Protocol):
    """An open radio."""

    @property
    def central(self) -> Central:
        """Scans and connects."""

    @property
    def keeps_bonds(self) -> bool:
        """Whether a bond outlives the program."""

    def agent(self, address: str, answers: Answers) -> AbstractAsyncContextManager[None]:
        """Meanwhile answer what pairing with this device asks, and refuse every other device."""

    async def bonded(self, address: str) -> bool:
        """Whether this host holds a bond with a device."""

    async def hold(self, address: str, touching: bool) -> None:
        """What a person was asked to do with the electrodes; a simulated one does it."""


OpenRadio = Callable[[str | None], AbstractAsyncContextManager[Radio]]
"""Opens the radio of an adapter's address; None: the machine's first."""


@dataclass(frozen=True, slots=True)
class MachineRadio:
    """The machine's own adapter, over BlueZ."""

    central: Central
    bluez: Bluez
    keeps_bonds: bool = True

    def agent(self, address: str, answers: Answers) -> AbstractAsyncContextManager[None]:
        """Our own Agent1 as BlueZ's default one, for as long as it is entered."""
        from firmware_bridge.pair.agent import pairing_agent

        return pairing_agent(address, answers)

    async def bonded(self, address: str) -> bool:
        """As BlueZ says."""
        return await self.bluez.bonded(address)

    async def hold(self, address: str, touching: bool) -> None:
        """People have hands of their own."""


@asynccontextmanager
async def machine_radio(adapter: str | None) -> AsyncIterator[Radio]:
    """The machine's own adapter; raises PairError where its libraries are missing."""
    try:
        from firmware_bridge.radio.bleak_central import bleak_central
        from firmware_bridge.radio.bluez import Bluez
    except ImportError as error:
        remedy = "install it: pip install 'affectd[device]'"
        raise PairError("radio", f"bleak cannot be imported ({error})", remedy) from error
    bluez = Bluez()
    central = bleak_central(adapter, bluez=bluez)
    try:
        yield MachineRadio(central, bluez)
    finally:
        await central.close()
        await bluez.close()


@dataclass(slots=True)
class SimulatedRadio:
    """Virtual sensors within reach of a radio that is not there."""

    central: SimulatedCentral
    keeps_bonds: bool = False
    asked: list[Answers] = field(default_factory=list)
    """Whoever answers while a sensor pairs."""

    @asynccontextmanager
    async def agent(self, address: str, answers: Answers) -> AsyncIterator[None]:
        """Meanwhile answer for the simulated host."""
        self.asked.append(answers)
        try:
            yield
        finally:
            self.asked.remove(answers)

    async def bonded(self, address: str) -> bool:
        """Bonds end with the program, hence none from before."""
        return False

    async def hold(self, address: str, touching: bool) -> None:
        """Let go of a virtual sensor's electrodes, or touch them."""
        for sensor in self.central.sensors.values():
            if sensor.address == address:
                await (sensor.lead_on() if touching else sensor.lead_off())


@asynccontextmanager
async def simulated_radio(adapter: str | None = None) -> AsyncIterator[Radio]:
    """One virtual sensor of each kind; raises PairError where bumble is missing."""
    try:
        from firmware_bridge.virtual.central import simulated_central
        from firmware_bridge.virtual.sensors import KINDS
    except ImportError as error:
        remedy = "install it: pip install 'affectd[simulate]'"
        raise PairError("--simulate", f"bumble cannot be imported ({error})", remedy) from error
    asked: list[Answers] = []

    async def enter_passkey() -> int | None:
        return await asked[-1].passkey() if asked else None

    central = simulated_central(*KINDS, enter_passkey=enter_passkey)
    try:
        yield SimulatedRadio(central, asked=asked)
    finally:
        await central.close()
