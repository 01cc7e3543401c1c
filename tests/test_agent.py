"""Our Agent1 on a private bus, asked by a tiny org.bluez: it answers for one device, and leaves no trace."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus
from fake_bluez import private_bus

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.pair.agent import AGENT, CANCELED, MANAGER, REJECTED, agent_possible, pairing_agent

ADDRESS, OTHER = "A0:9E:1A:00:00:01", "A0:9E:1A:00:00:02"
DEVICE = "/org/bluez/hci1/dev_A0_9E_1A_00_00_01"
UUID = "0000180d-0000-1000-8000-00805f9b34fb"


@pytest.fixture(scope="module", autouse=True)
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with private_bus(tmp_path_factory.mktemp("bus")):
        yield


class Manager:
    """org.bluez as far as agents go; ``ask`` is what it does while a device pairs."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.refuses: dict[str, tuple[str, str]] = {}
        self._agent: tuple[str, str] = ("", "")
        self._bus: MessageBus | None = None

    async def __aenter__(self) -> Manager:
        self._bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        self._bus.add_message_handler(self._handle)
        await self._bus.request_name("org.bluez")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._bus is not None
        self._bus.disconnect()
        await self._bus.wait_for_disconnect()

    def _handle(self, message: Message) -> Message | None:
        if message.message_type is not MessageType.METHOD_CALL or message.interface != MANAGER:
            return None
        member = message.member or ""
        self.calls.append((member, list(message.body)))
        if member in self.refuses:
            return Message.new_error(message, *self.refuses[member])
        if member == "RegisterAgent":
            self._agent = (message.sender or "", message.body[0])
        return Message.new_method_return(message)

    async def ask(self, member: str, signature: str = "", *body: Any) -> tuple[str, Any]:
        """Name of the error (or empty) and the first value of an agent's answer."""
        assert self._bus is not None
        sender, path = self._agent
        call = Message(sender, path, AGENT, member, signature=signature, body=list(body))
        reply = await self._bus.call(call)
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            return str(reply.error_name), None
        return "", reply.body[0] if reply.body else None


class Person:
    """Answers as told, and writes down what it was asked."""

    def __init__(self, passkey: int | None = 123456, agrees: bool = True, capability: str = "KeyboardDisplay") -> None:
        self.capability = capability
        self.asked: list[object] = []
        self.thinks = asyncio.Event()
        self._passkey = passkey
        self._agrees = agrees

    async def passkey(self) -> int | None:
        self.asked.append("passkey")
        if self._passkey == -1:
            await self.thinks.wait()
        return self._passkey

    async def confirm(self, passkey: int) -> bool:
        self.asked.append(passkey)
        return self._agrees

    def display(self, passkey: int) -> None:
        self.asked.append(("display", passkey))


def play(scenario: Callable[[Manager], Awaitable[None]]) -> None:
    """Run a scenario; afterwards no task and no descriptor may be left."""

    async def scene() -> None:
        async with asyncio.timeout(20), Manager() as manager:
            await scenario(manager)
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    asyncio.run(scene())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_it_is_the_default_agent_while_it_is_wanted_and_then_gone() -> None:
    async def scenario(manager: Manager) -> None:
        async with pairing_agent(ADDRESS, Person(capability="NoInputNoOutput")):
            path = manager.calls[0][1][0]
            assert manager.calls == [("RegisterAgent", [path, "NoInputNoOutput"]), ("RequestDefaultAgent", [path])]
        assert manager.calls[2:] == [("UnregisterAgent", [path])]

    play(scenario)


def test_it_is_gone_as_well_after_a_failure_or_an_interruption() -> None:
    async def scenario(manager: Manager) -> None:
        with pytest.raises(ZeroDivisionError):
            async with pairing_agent(ADDRESS, Person()):
                raise ZeroDivisionError
        assert manager.calls[-1][0] == "UnregisterAgent"

        async def waits() -> None:
            async with pairing_agent(ADDRESS, Person()):
                await asyncio.Event().wait()

        task = asyncio.create_task(waits())
        while manager.calls[-1][0] != "RequestDefaultAgent":
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait({task})
        assert manager.calls[-1][0] == "UnregisterAgent"

    play(scenario)


def test_it_answers_for_its_device() -> None:
    async def scenario(manager: Manager) -> None:
        person = Person()
        async with pairing_agent(ADDRESS.lower(), person):
            assert await manager.ask("RequestPasskey", "o", DEVICE) == ("", 123456)
            assert await manager.ask("RequestConfirmation", "ou", DEVICE, 42) == ("", None)
            assert await manager.ask("DisplayPasskey", "ouq", DEVICE, 7, 0) == ("", None)
            assert await manager.ask("RequestAuthorization", "o", DEVICE) == ("", None)  # Just Works
            assert await manager.ask("AuthorizeService", "os", DEVICE, UUID) == ("", None)
            assert await manager.ask("Cancel") == ("", None)
            assert await manager.ask("Release") == ("", None)
        assert person.asked == ["passkey", 42, ("display", 7)]

    play(scenario)


@pytest.mark.parametrize("path", ["/org/bluez/hci0/dev_A0_9E_1A_00_00_02", "/org/bluez/hci0", "/", DEVICE + "/x"])
def test_every_other_device_is_rejected_and_nobody_is_asked(path: str) -> None:
    async def scenario(manager: Manager) -> None:
        person = Person()
        async with pairing_agent(ADDRESS, person):
            for member, signature, body in (
                ("RequestPasskey", "o", ()),
                ("RequestConfirmation", "ou", (42,)),
                ("DisplayPasskey", "ouq", (7, 0)),
                ("RequestAuthorization", "o", ()),
                ("AuthorizeService", "os", (UUID,)),
            ):
                assert await manager.ask(member, signature, path, *body) == (REJECTED, None), member
        assert person.asked == []

    play(scenario)


def test_what_a_person_refuses_and_what_is_of_classic_bluetooth_is_rejected() -> None:
    async def scenario(manager: Manager) -> None:
        async with pairing_agent(ADDRESS, Person(passkey=None, agrees=False)):
            assert await manager.ask("RequestPasskey", "o", DEVICE) == (REJECTED, None)
            assert await manager.ask("RequestConfirmation", "ou", DEVICE, 42) == (REJECTED, None)
            assert await manager.ask("RequestPinCode", "o", DEVICE) == (REJECTED, None)
            assert await manager.ask("RequestPasskey") == (REJECTED, None)  # without a device

    play(scenario)


def test_a_question_that_bluez_takes_back_is_not_asked_any_more() -> None:
    async def scenario(manager: Manager) -> None:
        person = Person(passkey=-1)
        async with pairing_agent(ADDRESS, person):
            question = asyncio.create_task(manager.ask("RequestPasskey", "o", DEVICE))
            while not person.asked:
                await asyncio.sleep(0.001)
            await manager.ask("Cancel")
            assert await question == (CANCELED, None)

    play(scenario)


def test_a_bluez_that_refuses_agents_is_one_clear_error() -> None:
    async def scenario(manager: Manager) -> None:
        manager.refuses["RegisterAgent"] = ("org.bluez.Error.AlreadyExists", "Already Exists")
        with pytest.raises(RadioError, match="agent: RegisterAgent: Already Exists"):
            async with pairing_agent(ADDRESS, Person()):
                raise AssertionError
        with pytest.raises(RadioError, match="RegisterAgent: Already Exists"):
            await agent_possible()

    play(scenario)


def test_whether_an_agent_is_possible_is_found_out_without_being_the_default_one() -> None:
    async def scenario(manager: Manager) -> None:
        await agent_possible()
        assert [member for member, _ in manager.calls] == ["RegisterAgent", "UnregisterAgent"]

    play(scenario)


def test_without_bluez_or_without_a_bus_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> RadioFault:
        try:
            await agent_possible()
        except RadioError as error:
            return error.fault
        raise AssertionError

    assert asyncio.run(scene()) is RadioFault.NO_BLUEZ  # nobody has the name
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    assert asyncio.run(scene()) is RadioFault.NO_BLUEZ
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "nonsense")
    assert asyncio.run(scene()) is RadioFault.NO_BLUEZ
