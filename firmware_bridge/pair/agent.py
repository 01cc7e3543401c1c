"""Our own org.bluez.Agent1: answers what pairing with one device asks, refuses every other device, and goes again.

Knows nothing of sensors or of the person: `answers` does. The methods are those of BlueZ's doc/org.bluez.Agent.rst.
Current kernels ask for confirmation even where a sensor pairs without (Just Works), so there is no pairing without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dbus_fast import BusType, DBusError, InvalidAddressError, Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.pair.radio import Answers
from firmware_bridge.radio.faults import dbus_fault, os_fault

PATH = f"/org/affectd/agent{os.getpid()}"
BLUEZ, BLUEZ_PATH = "org.bluez", "/org/bluez"
MANAGER, AGENT = "org.bluez.AgentManager1", "org.bluez.Agent1"
REJECTED, CANCELED = "org.bluez.Error.Rejected", "org.bluez.Error.Canceled"
CALL_S = 5.0
"""BlueZ answers these from memory."""

_log = logging.getLogger(__name__)


class _RefusedError(Exception):
    """Said to BlueZ."""


class Agent:
    """Answers for one device."""

    def __init__(self, address: str, answers: Answers) -> None:
        self._device = "/dev_" + address.upper().replace(":", "_")
        self._answers = answers
        self._asked: set[asyncio.Task[None]] = set()
        self._methods: dict[str, Callable[[list[Any]], Awaitable[tuple[str, list[Any]]]]] = {
            "RequestPasskey": self._passkey,
            "RequestConfirmation": self._confirm,
            "DisplayPasskey": self._display,
            "RequestAuthorization": self._agree,
            "AuthorizeService": self._agree,
        }

    def handle(self, bus: MessageBus, message: Message) -> Message | bool | None:
        """One message of the bus; what is not for us is left to others."""
        if message.message_type is not MessageType.METHOD_CALL or message.interface != AGENT or message.path != PATH:
            return None
        if message.member in ("Release", "Cancel"):
            self.cancel()
            return Message.new_method_return(message)
        task = asyncio.create_task(self._answer(bus, message), name="agent")
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return True

    def cancel(self) -> None:
        """Whatever is being asked is not asked any more."""
        for task in self._asked:
            task.cancel()

    async def closed(self) -> None:
        """Cancel, and wait until nothing runs."""
        self.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _answer(self, bus: MessageBus, message: Message) -> None:
        try:
            signature, body = await self._say(message)
            reply = Message.new_method_return(message, signature, body)
        except _RefusedError as refused:
            _log.warning("refused: %s", refused)
            reply = Message.new_error(message, REJECTED, str(refused))
        except asyncio.CancelledError:
            reply = Message.new_error(message, CANCELED, "no longer asked")
        with contextlib.suppress(Exception):  # the bus may be gone, and then nobody waits for the answer
            await bus.send(reply)

    async def _say(self, message: Message) -> tuple[str, list[Any]]:
        method = self._methods.get(message.member or "")
        if method is None:  # PIN codes are of classic Bluetooth
            raise _RefusedError(f"{message.member} is not answered")
        if not message.body or not str(message.body[0]).endswith(self._device):
            raise _RefusedError(f"{message.body[:1]} is not the device that is being paired")
        return await method(message.body)

    async def _passkey(self, _body: list[Any]) -> tuple[str, list[Any]]:
        passkey = await self._answers.passkey()
        if passkey is None:
            raise _RefusedError("no passkey was given")
        return "u", [passkey]

    async def _confirm(self, body: list[Any]) -> tuple[str, list[Any]]:
        if not await self._answers.confirm(int(body[1])):
            raise _RefusedError("the digits are not those of the sensor")
        return "", []

    async def _display(self, body: list[Any]) -> tuple[str, list[Any]]:
        self._answers.display(int(body[1]))
        return "", []

    async def _agree(self, _body: list[Any]) -> tuple[str, list[Any]]:
        """Just Works: the device is the one that was asked for, there is nothing more to know."""
        return "", []


@asynccontextmanager
async def pairing_agent(address: str, answers: Answers) -> AsyncIterator[None]:
    """The default agent while inside; raises RadioError."""
    agent = Agent(address, answers)
    async with _bus() as bus:
        bus.add_message_handler(lambda message: agent.handle(bus, message))
        await _call(bus, "RegisterAgent", "os", [PATH, answers.capability])
        try:
            await _call(bus, "RequestDefaultAgent", "o", [PATH])
            yield
        finally:
            await agent.closed()
            with contextlib.suppress(RadioError):
                await _call(bus, "UnregisterAgent", "o", [PATH])


@asynccontextmanager
async def _bus() -> AsyncIterator[MessageBus]:
    try:
        bus = MessageBus(bus_type=BusType.SYSTEM)
    except InvalidAddressError as error:
        raise RadioError("D-Bus", RadioFault.NO_BLUEZ, f"no system bus: {error}") from error
    try:
        await _connect(bus)
    except BaseException:
        bus.disconnect()
        raise
    try:
        yield bus
    finally:
        bus.disconnect()
        with contextlib.suppress(Exception):  # it replays what ended the bus
            async with asyncio.timeout(CALL_S):
                await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def _connect(bus: MessageBus) -> None:
    try:
        async with asyncio.timeout(CALL_S):
            await bus.connect()
    except (OSError, EOFError) as error:  # TimeoutError is an OSError
        raise RadioError("D-Bus", os_fault(error), f"no system bus ({error!r})") from error
    except (AuthError, DBusError) as error:
        raise RadioError("D-Bus", RadioFault.NOT_PERMITTED, f"the bus refuses this user: {error}") from error


async def _call(bus: MessageBus, member: str, signature: str, body: list[Any]) -> None:
    message = Message(
        destination=BLUEZ, path=BLUEZ_PATH, interface=MANAGER, member=member, signature=signature, body=body
    )
    try:
        async with asyncio.timeout(CALL_S):
            reply = await bus.call(message)
    except (OSError, EOFError, AttributeError, DBusError) as error:  # a bus that ends meanwhile, or a silent BlueZ
        raise RadioError("agent", RadioFault.NO_BLUEZ, f"{member}: no answer ({error!r})") from error
    if reply.message_type is MessageType.ERROR:
        text = str(reply.body[0]) if reply.body else ""
        raise RadioError("agent", dbus_fault(str(reply.error_name), text), f"{member}: {text or reply.error_name}")


async def agent_possible() -> None:
    """Register an agent that answers nothing, and take it back; raises RadioError where BlueZ does not let us."""
    async with _bus() as bus:
        await _call(bus, "RegisterAgent", "os", [PATH, "NoInputNoOutput"])
        await _call(bus, "UnregisterAgent", "o", [PATH])
