"""The machine's Central, with the real bleak against the fake org.bluez: it connects, adopts, and never hangs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from fake_bluez import HANG, IN_PROGRESS, NO_REPLY, Characteristic, FakeBluez, FakeSensor, private_bus

from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.radio.bleak_central import bleak_central
from firmware_bridge.radio.bleak_link import Limits
from firmware_bridge.radio.bluez import Bluez, Change
from firmware_bridge.radio.bluez_repairs import BluezRepairs
from firmware_bridge.radio.types import Central

ADDRESS = "A0:9E:1A:00:00:01"
OTHER = "A0:9E:1A:00:00:02"
SERVICE, READ, NOTIFY = (f"0000{part}-0000-1000-8000-00805f9b34fb" for part in ("aa00", "aa01", "aa02"))
ABSENT = "0000aa09-0000-1000-8000-00805f9b34fb"
Scenario = Callable[[FakeBluez, FakeSensor, Central], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with private_bus(tmp_path_factory.mktemp("bus")):
        yield


def sensor_of(address: str = ADDRESS) -> FakeSensor:
    services = {
        SERVICE: {
            READ: Characteristic(("read", "write"), b"\x01\x02"),
            NOTIFY: Characteristic(("notify", "read"), b"\x0f"),
        }
    }
    return FakeSensor(address, services)


def play(scenario: Scenario, adapter: str | None = None, limits: Limits | None = None) -> None:
    """Run a scenario; afterwards no task and no descriptor may be left."""

    async def scene() -> None:
        sensor = sensor_of()
        async with FakeBluez(sensor, sensor_of(OTHER)) as fake:
            central = bleak_central(adapter, limits=limits or Limits())
            try:
                await scenario(fake, sensor, central)
            finally:
                await central.close()
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = descriptors()
    asyncio.run(scene())
    assert descriptors() == before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def connect(central: Central, address: str = ADDRESS, *, limit_s: float = 5.0):  # type: ignore[no-untyped-def]
    ended = asyncio.Event()
    return await central.connect(address, limit_s=limit_s, on_disconnect=ended.set), ended


def test_it_connects_reads_writes_and_is_notified() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, ended = await connect(central)
        assert (client.services, client.mtu) == ({SERVICE}, 247)
        assert await client.read(READ) == b"\x01\x02"
        await client.write(READ, b"\x03")
        assert sensor.writes == [(READ, b"\x03")]
        heard: list[bytes] = []
        await client.subscribe(NOTIFY, heard.append)
        fake.notify(sensor, NOTIFY, b"\x07\x08")
        await client.read(READ)
        assert heard == [b"\x07\x08"]
        assert fake.calls["AcquireNotify"] == 0
        await client.disconnect()
        await client.disconnect()
        assert ended.is_set()
        assert not sensor.connected
        assert fake.calls["Disconnect"] == 1

    play(scenario)


def fault_of(error: pytest.ExceptionInfo[RadioError]) -> RadioFault:
    return error.value.fault


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


def test_one_scan_serves_all_and_ends_with_the_last() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        async with central.scan() as first, central.scan() as second:
            for advertisements in (first, second):
                found = set()
                async for advertisement in advertisements:
                    assert (advertisement.name, advertisement.rssi) == ("fake", -55)
                    assert advertisement.service_uuids == (SERVICE,)
                    found.add(advertisement.address)
                    if len(found) == 2:
                        break
                assert found == {ADDRESS, OTHER}
            assert len(fake.discovering) == 1
        await until(lambda: not fake.discovering)
        assert (fake.calls["StartDiscovery"], fake.calls["StopDiscovery"]) == (1, 1)

    play(scenario)


def test_no_scan_while_streaming_and_sensors_connect_side_by_side() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        await asyncio.gather(connect(central), connect(central, OTHER))
        assert all(each.connected for each in fake.sensors)
        assert not fake.discovering
        assert fake.calls["StartDiscovery"] == 1

    play(scenario)


def test_a_sensor_left_connected_by_a_dead_process_is_adopted() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.leave_connected(sensor)
        client, _ = await connect(central)
        assert await client.read(READ) == b"\x01\x02"
        assert fake.calls["Connect"] == fake.calls["StartDiscovery"] == 0

    play(scenario)


def test_one_left_connected_without_services_is_let_go_of_and_connected() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.leave_connected(sensor)
        fake._resolved.clear()
        client, _ = await connect(central)
        assert await client.read(READ) == b"\x01\x02"
        assert (fake.calls["Disconnect"], fake.calls["Connect"]) == (1, 1)

    play(scenario)


def test_an_aborted_connection_is_tried_again_at_once() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.fail("Connect", ("org.bluez.Error.Failed", "Software caused connection abort"))
        await connect(central)
        assert fake.calls["Connect"] == 2

    play(scenario)


@pytest.mark.parametrize(
    ("member", "fault", "meaning"),
    [
        ("StartDiscovery", IN_PROGRESS, RadioFault.IN_PROGRESS),
        ("StartDiscovery", ("org.bluez.Error.NotReady", "Resource Not Ready"), RadioFault.POWERED_OFF),
        ("StartDiscovery", ("org.freedesktop.DBus.Error.AccessDenied", "Rejected"), RadioFault.NOT_PERMITTED),
        ("Connect", IN_PROGRESS, RadioFault.IN_PROGRESS),
        ("Connect", NO_REPLY, RadioFault.TIMEOUT),
        ("Connect", ("org.bluez.Error.Failed", "br-connection-key-missing"), RadioFault.AUTHENTICATION),
        ("Connect", ("org.bluez.Error.Failed", "Input/output error"), RadioFault.LINK),
        ("GetManagedObjects", ("org.freedesktop.DBus.Error.Spawn.ChildExited", "died"), RadioFault.NO_BLUEZ),
    ],
)
def test_what_a_failed_connection_means(member: str, fault: tuple[str, str], meaning: RadioFault) -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.fail(member, fault, times=4)
        with pytest.raises(RadioError) as failed:
            await connect(central)
        assert fault_of(failed) is meaning

    play(scenario)


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (("org.bluez.Error.NotPermitted", "Not paired"), RadioFault.AUTHENTICATION),
        (("org.bluez.Error.NotPermitted", "Read not permitted"), RadioFault.GATT),
        (("org.bluez.Error.Failed", "Operation failed with ATT error: 0x0f"), RadioFault.AUTHENTICATION),
        (("org.bluez.Error.Failed", "Operation failed with ATT error: 0x80"), RadioFault.GATT),
        (("org.bluez.Error.Failed", "Operation failed with ATT error: 0x0e"), RadioFault.LINK),
        (("org.bluez.Error.Failed", "Not connected"), RadioFault.LINK),
        (HANG, RadioFault.TIMEOUT),
    ],
)
def test_what_a_failed_request_means(fault: str | tuple[str, str], meaning: RadioFault) -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, _ = await connect(central)
        fake.fail("ReadValue", fault)
        with pytest.raises(RadioError) as failed:
            await client.read(READ)
        assert fault_of(failed) is meaning
        assert await client.read(READ) == b"\x01\x02"

    play(scenario, limits=Limits(request=1.0) if fault is HANG else None)


def test_a_characteristic_it_has_not_is_told() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, _ = await connect(central)
        with pytest.raises(RadioError, match="has no characteristic 0000aa09") as failed:
            await client.read(ABSENT)
        assert fault_of(failed) is RadioFault.GATT

    play(scenario)


@pytest.mark.parametrize("member", ["StartDiscovery", "Connect", "GetManagedObjects", "StopDiscovery"])
def test_a_call_that_never_returns_ends_with_the_limit(member: str) -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.fail(member, HANG)
        with pytest.raises(RadioError) as failed:
            await connect(central, limit_s=0.2)
        assert fault_of(failed) is RadioFault.TIMEOUT
        await connect(central)

    play(scenario)


def test_a_disconnection_that_never_returns_ends_with_the_limit() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, ended = await connect(central)
        fake.fail("Disconnect", HANG)
        await client.disconnect()
        assert ended.is_set()
        client, _ = await connect(central)
        assert fake.calls["Connect"] == 1

    play(scenario, limits=Limits(disconnect=0.05))


def test_a_connection_cancelled_at_any_moment_leaves_no_scan_and_no_link() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        for turns in range(60):
            task = asyncio.create_task(connect(central))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                await task.result()[0].disconnect()
            await until(lambda: not fake.discovering and not sensor.connected)

    play(scenario)


def test_a_cancelled_search_ends_its_scan() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        sensor.in_range = False
        task = asyncio.create_task(connect(central))
        await until(lambda: bool(fake.discovering))
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        await until(lambda: not fake.discovering)

    play(scenario)


def test_a_scan_that_was_asked_for_but_never_answered_is_stopped() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.fail("StartDiscovery", HANG)
        task = asyncio.create_task(connect(central))
        await until(lambda: fake.calls["StartDiscovery"] == 1)
        task.cancel()
        await asyncio.wait({task})
        await until(lambda: fake.calls["StopDiscovery"] == 1)

    play(scenario)


def test_a_sensor_out_of_reach_is_not_found() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        sensor.in_range = False
        with pytest.raises(RadioError, match=f"{ADDRESS}: not heard within 0 s, 1 other devices were") as failed:
            await connect(central, limit_s=0.3)
        assert fault_of(failed) is RadioFault.NOT_FOUND
        assert not fake.discovering

    play(scenario)


def test_the_end_of_a_link_is_told_once() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        ends: list[int] = []
        client = await central.connect(ADDRESS, limit_s=5, on_disconnect=lambda: ends.append(1))
        fake.drop(sensor)
        await until(lambda: bool(ends))
        with pytest.raises(RadioError) as failed:
            await client.read(READ)
        assert fault_of(failed) is RadioFault.LINK
        await client.disconnect()
        assert ends == [1]

    play(scenario)


def test_a_killed_bluetoothd_ends_every_link_and_its_successor_is_found() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        (client, ended), (_, other) = await connect(central), await connect(central, OTHER)
        heard: list[bytes] = []
        await client.subscribe(NOTIFY, heard.append)
        await fake.kill()
        async with asyncio.timeout(30):
            await ended.wait()
            await other.wait()
        with pytest.raises(RadioError) as failed:
            await connect(central)
        assert fault_of(failed) is RadioFault.NO_BLUEZ
        await client.disconnect()
        await fake.restart()
        renewed, _ = await connect(central)
        await renewed.subscribe(NOTIFY, heard.append)
        fake.notify(sensor, NOTIFY, b"\x01")
        await renewed.read(READ)
        assert heard == [b"\x01"]

    play(scenario)


def test_the_adapter_switched_off_ends_the_links() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        _, ended = await connect(central)
        fake.power(False)
        async with asyncio.timeout(30):
            await ended.wait()
        with pytest.raises(RadioError, match="bluetoothctl power on") as failed:
            await connect(central)
        assert fault_of(failed) is RadioFault.POWERED_OFF
        fake.power(True)
        await connect(central)

    play(scenario)


def test_the_adapter_switched_off_ends_a_search() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        sensor.in_range = False
        task = asyncio.create_task(connect(central))
        await until(lambda: bool(fake.discovering))
        fake.power(False)
        with pytest.raises(RadioError) as failed:
            await task
        assert fault_of(failed) is RadioFault.POWERED_OFF

    play(scenario)


def test_an_unplugged_adapter_is_found_again_under_another_name() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        _, ended = await connect(central)
        fake.unplug()
        async with asyncio.timeout(30):
            await ended.wait()
        with pytest.raises(RadioError, match="F0:F0:F0:F0:F0:01: no such adapter; there is none") as failed:
            await connect(central)
        assert fault_of(failed) is RadioFault.NO_ADAPTER
        fake.plug_in("hci1")
        await connect(central)
        assert sensor.connected

    play(scenario, "F0:F0:F0:F0:F0:01")


def test_another_adapter_is_not_taken_instead() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        with pytest.raises(RadioError, match="there is hci0"):
            await connect(central)

    play(scenario, "F0:F0:F0:F0:F0:09")


def test_pairing_needs_an_agent() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, _ = await connect(central)
        with pytest.raises(RadioError) as failed:
            await client.pair()
        assert fault_of(failed) is RadioFault.AUTHENTICATION
        fake.agent = True
        await client.pair()
        await client.pair()
        assert sensor.bonded
        await client.disconnect()
        await central.forget(ADDRESS)
        assert not sensor.bonded

    play(scenario)


def test_a_bond_the_sensor_has_lost_is_told_where_bluez_tells_it() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        fake.tells_reasons, sensor.bonded, sensor.bond_kept = True, True, False
        with pytest.raises(RadioError, match="lost its bond") as failed:
            await connect(central)
        assert fault_of(failed) is RadioFault.AUTHENTICATION
        sensor.bond_kept = True
        await connect(central)

    play(scenario)


def test_a_second_subscription_is_made_anew() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, _ = await connect(central)
        old: list[bytes] = []
        new: list[bytes] = []
        await client.subscribe(NOTIFY, old.append)
        await client.subscribe(NOTIFY, new.append)
        fake.notify(sensor, NOTIFY, b"\x01")
        await client.read(READ)
        assert (old, new) == ([], [b"\x01"])
        assert (fake.calls["StartNotify"], fake.calls["StopNotify"]) == (2, 1)

    play(scenario)


def test_bluez_echoes_a_read_to_whoever_subscribed() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        client, _ = await connect(central)
        heard: list[bytes] = []
        await client.subscribe(NOTIFY, heard.append)
        assert await client.read(NOTIFY) == b"\x0f"
        assert heard == [b"\x0f"]  # why the tables read before they subscribe

    play(scenario)


def test_without_a_bus_there_is_no_bluez(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")

    async def scenario() -> None:
        central = bleak_central()
        with pytest.raises(RadioError, match="no system bus") as failed:
            await connect(central)
        assert fault_of(failed) is RadioFault.NO_BLUEZ
        await central.close()

    asyncio.run(scenario())


def test_what_bluez_says_of_itself() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        bluez = Bluez()
        assert await bluez.running()
        assert await bluez.version() == "5.66"
        (adapter,) = await bluez.adapters()
        assert (adapter.name, adapter.address, adapter.powered) == ("hci0", "F0:F0:F0:F0:F0:01", True)
        assert await bluez.adapter() == await bluez.adapter("hci0") == await bluez.adapter("f0:f0:f0:f0:f0:01")
        fake.leave_connected(sensor)
        (device,) = await bluez.devices(ADDRESS)
        assert (device.connected, device.bonded, device.resolved) == (True, False, True)
        assert await bluez.devices(OTHER) == ()
        await bluez.close()

    play(scenario)


def test_the_repairs_do_what_they_say() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        bluez = Bluez()
        repairs = BluezRepairs(bluez, "F0:F0:F0:F0:F0:01")
        news: list[int] = []
        stop = repairs.watch(lambda: news.append(1))
        assert await repairs.adapter_name() == "hci0 (F0:F0:F0:F0:F0:01)"
        sensor.bonded = True
        fake.leave_connected(sensor)
        await repairs.clear(ADDRESS)
        assert (sensor.connected, sensor.bonded, fake.calls["RemoveDevice"]) == (False, True, 0)
        await repairs.unbond(ADDRESS)
        assert not await repairs.bonded(ADDRESS)
        await repairs.power(False)
        assert (fake.powered, news) == (False, [])
        await repairs.power(True)
        await until(lambda: news == [1])
        fake.rfkill = True
        with pytest.raises(RadioError, match="rfkill") as failed:
            await repairs.power(True)
        assert fault_of(failed) is RadioFault.POWERED_OFF
        stop()
        await bluez.close()

    play(scenario)


def test_systemd_is_asked_to_restart_the_service() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        bluez = Bluez()
        repairs = BluezRepairs(bluez)
        refusal = (
            "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
            "Interactive authentication required.",
        )
        fake.fail("RestartUnit", refusal)
        with pytest.raises(RadioError, match=r"bluetooth.service: not restarted: .*polkit rule") as failed:
            await repairs.restart_service()
        assert fault_of(failed) is RadioFault.NOT_PERMITTED
        changes: list[Change] = []
        bluez.watch(lambda change, _: changes.append(change))
        await repairs.restart_service()
        await until(lambda: changes == [Change.GONE, Change.BACK])
        await connect(central)
        await bluez.close()

    play(scenario)


def test_a_restart_of_the_bus_itself_is_survived(tmp_path: Path) -> None:
    async def scene() -> None:
        central = bleak_central()
        for _ in range(2):
            with private_bus(tmp_path):
                fake = FakeBluez(sensor_of())
                await fake.start()
                _, ended = await connect(central)
            async with asyncio.timeout(30):
                await ended.wait()
            await fake.kill()
        await central.close()
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = descriptors()
    asyncio.run(scene())
    assert descriptors() == before


def test_nothing_leaks_over_many_connections() -> None:
    async def scenario(fake: FakeBluez, sensor: FakeSensor, central: Central) -> None:
        await connect(central, OTHER)
        counts = set()
        for number in range(40):
            client, ended = await connect(central)
            await client.subscribe(NOTIFY, lambda _: None)
            if number % 2:
                fake.drop(sensor)
                await ended.wait()
            await client.disconnect()
            await asyncio.sleep(0)
            counts.add((descriptors(), len(asyncio.all_tasks())))
        assert len(counts) <= 2  # a scan that just stops may be counted

    play(scenario)
