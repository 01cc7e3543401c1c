"""The radio source over a scripted radio, in virtual time: it starts, watches, recovers in time, and always stops."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from scripted_radio import BATTERY, Peripheral, Script, ScriptedCentral, ScriptedRepairs, address, fault
from virtual_time import run_virtual

from device.notification import Arrival, LinkChange, Notification
from device.sources.ble import CONNECT_S, LEAVE_S, LENT, SUSPECT, BleSource
from device.sources.ble_radio import Radio
from device.sources.ble_session import UNREADABLE
from device.sources.ladder import REFUSED_S, Rung
from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.errors import RadioFault
from firmware_bridge.registry import Sensor

CHEST = Sensor(role="ecg", name="chest", address=address("chest"), protocol="polar-pmd-ecg")
WRIST = Sensor(role="eda", name="wrist", address=address("wrist"), protocol="open-eda")
FRAME = bytes(polar_pmd.EcgFrame(1, (1, 2, 3)))
DATA = bytes(open_eda.Data(1, 2, (3,)))
FEATURES = bytes(polar_pmd.Features(b"\x01"))
INFO = bytes(open_eda.Info(boot_id=7))
START, STOP = polar_pmd.START, polar_pmd.STOP
FOR_EVER = [FRAME] * 4000
RECOVERY_S = 30.0
"""Every fault of the matrix is over by then, its detection included."""


class Scene:
    """Sources on a scripted radio, and everything they gave, with when."""

    def __init__(self, *, agent: bool = False, **peripherals: Peripheral) -> None:
        self.peripherals = peripherals
        self.central = ScriptedCentral(**peripherals)
        self.repairs = ScriptedRepairs()
        self.radio = Radio(self.central, self.repairs, agent=(lambda _: contextlib.nullcontext()) if agent else None)
        self.got: list[tuple[float, Arrival]] = []
        sensors = {"chest": CHEST, "wrist": WRIST}
        self.sources = {name: self.source(sensors[name]) for name in peripherals}
        self._tasks: list[asyncio.Task[None]] = []

    def source(self, sensor: Sensor) -> BleSource:
        return BleSource(sensor, self.radio, clock_ns=lambda: round(self.now * 1e9), dice=lambda: 0.5)

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def __aenter__(self) -> Scene:
        self._tasks = [asyncio.create_task(self._drain(source)) for source in self.sources.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        for peripheral in self.peripherals.values():
            assert peripheral.connected == 0 or "disconnect" in peripheral.hangs
            for link in peripheral.links:
                link.drop()
        assert [task.exception() for task in self._tasks if not task.cancelled()] == []

    async def _drain(self, source: BleSource) -> None:
        async with contextlib.aclosing(source.notifications()) as arrivals:
            async for arrival in arrivals:
                self.got.append((self.now, arrival))

    async def data(self, n: int, stream: str = "chest") -> list[Notification]:
        """Wait until so many notifications have come."""
        await self.until(lambda: len(self.notifications(stream)) >= n)
        return self.notifications(stream)

    async def until(self, condition: Callable[[], bool], limit_s: float = 3600.0) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():
                await asyncio.sleep(0.05)

    def notifications(self, stream: str) -> list[Notification]:
        return [a for _, a in self.got if isinstance(a, Notification) and a.stream == stream]

    def states(self, stream: str = "chest") -> list[str]:
        return [a.state for _, a in self.got if isinstance(a, LinkChange) and a.stream == stream]

    def reasons(self, stream: str = "chest") -> list[str]:
        return [a.reason for _, a in self.got if isinstance(a, LinkChange) and a.stream == stream and a.reason]

    def longest_gap(self, stream: str = "chest") -> float:
        """Longest time without data, s."""
        times = [when for when, a in self.got if isinstance(a, Notification) and a.stream == stream]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def chest(*scripts: Script, **options: Any) -> Peripheral:
    return Peripheral(*scripts, info=options.pop("info", FEATURES), **options)


def wrist(*scripts: Script, **options: Any) -> Peripheral:
    return Peripheral(*scripts, info=options.pop("info", INFO), **options)


def recovered(
    first: Script, *then: Script, agent: bool = False, prepare: Callable[[Scene], None] = lambda s: s.now
) -> Scene:
    """Play a connection that streams and fails, then others; data must come again in time."""

    async def scenario() -> Scene:
        async with Scene(chest=chest(first, *then, FOR_EVER), agent=agent) as scene:
            prepare(scene)
            await scene.data(7)
            assert scene.longest_gap() <= RECOVERY_S
            assert scene.states()[-1] == "streaming"
            return scene

    return run_virtual(scenario())


def test_it_starts_hands_on_and_stops_the_stream() -> None:
    async def scenario() -> None:
        strap = chest([FRAME, FRAME, "stall"])
        async with Scene(chest=strap) as scene:
            source = scene.sources["chest"]
            assert source.streams == {"chest": polar_pmd.STREAM_INFO}
            got = await scene.data(2)
            assert [notification.data for notification in got] == [FRAME, FRAME]
            assert got[0].host_ns < got[1].host_ns
            assert scene.states() == ["searching", "starting", "streaming"]
            link = source.link
            assert (link.connections, link.drops, link.notifications, link.mtu) == (1, 0, 2, 247)
            assert (link.adapter, link.rung, link.last_ns) == ("hci0 (F0:F0:F0:F0:F0:01)", "", got[1].host_ns)
        assert strap.writes == [START, STOP]
        assert source.link.state == "ended"

    run_virtual(scenario())


def test_the_other_protocol_starts_its_own_way() -> None:
    async def scenario() -> None:
        band = wrist([DATA, "stall"])
        async with Scene(wrist=band) as scene:
            assert (await scene.data(1, "wrist"))[0].data == DATA
        assert band.writes == [open_eda.START, open_eda.STOP]

    run_virtual(scenario())


def test_a_dropped_link_is_made_anew() -> None:
    scene = recovered([FRAME, FRAME, "gone"])
    assert scene.states() == ["searching", "starting", "streaming", "waiting", "searching", "starting", "streaming"]
    assert scene.reasons()[0].startswith("chest: the link is gone; bring it close")
    assert scene.sources["chest"].link.drops == 1
    assert scene.longest_gap() < 5


def test_a_stalled_stream_is_started_anew_on_the_same_link() -> None:
    scene = recovered([FRAME, FRAME, "stall", FRAME, FRAME, FRAME, FRAME, FRAME, FRAME])
    assert scene.states() == ["searching", "starting", "streaming", "silent", "starting", "streaming"]
    assert scene.peripherals["chest"].writes == [START, STOP, START, STOP]
    link = scene.sources["chest"].link
    assert (link.connections, link.restarts, link.drops) == (1, 1, 0)
    assert scene.reasons() == ["no data for 5 s", "anew on the same link"]


def test_a_stall_that_starting_anew_does_not_cure_gets_a_new_link() -> None:
    scene = recovered([FRAME, FRAME, "stall", "stall"])
    assert (scene.sources["chest"].link.connections, scene.sources["chest"].link.restarts) == (2, 1)


def test_a_sensor_that_starts_late_is_waited_for() -> None:
    async def scenario() -> None:
        async with Scene(chest=chest([30.0, FRAME, "stall"])) as scene:
            await scene.data(1)
            assert scene.states() == ["searching", "starting", "streaming"]

    run_virtual(scenario())


def test_a_sensor_that_is_slow_by_nature_is_not_started_anew_on_the_same_link() -> None:
    async def scenario() -> None:
        ring = chest([FRAME, "stall", FRAME], FOR_EVER)
        async with Scene(chest=ring) as scene:
            source = scene.sources["chest"]
            source.codec = dataclasses.replace(source.codec, first_s=70.0)
            await scene.data(3)
            assert (source.link.restarts, source.link.connections) == (0, 2)

    run_virtual(scenario())


@pytest.mark.parametrize("call", ["read", "subscribe", "write"])
def test_a_call_that_never_returns_is_given_up(call: str) -> None:
    def prepare(scene: Scene) -> None:
        scene.peripherals["chest"].hangs.add(call)
        asyncio.get_running_loop().call_later(11.0, scene.peripherals["chest"].hangs.clear)

    async def scenario() -> None:
        async with Scene(chest=chest(FOR_EVER)) as scene:
            prepare(scene)
            await scene.until(lambda: bool(scene.notifications("chest")), RECOVERY_S)
            assert "no answer to" in scene.reasons()[0]

    run_virtual(scenario())


@pytest.mark.parametrize(
    "trouble",
    [
        [fault(RadioFault.LINK)] * 4,
        [fault(RadioFault.TIMEOUT)] * 3,
        [fault(RadioFault.NOT_FOUND)] * 6,
        [fault(RadioFault.POWERED_OFF)] * 3,
        [fault(RadioFault.NO_BLUEZ)] * 3,
        [fault(RadioFault.NO_ADAPTER)] * 3,
        [fault(RadioFault.IN_PROGRESS)] * 3,
        [fault(RadioFault.GATT)] * 3,
        [fault(RadioFault.AUTHENTICATION)],
        ["hang"],
    ],
)
def test_every_trouble_that_passes_is_over_in_time(trouble: list[Script]) -> None:
    recovered([FRAME, FRAME, "gone"], *trouble)


def cured_by(what: str, kind: RadioFault) -> Scene:
    """The sensor cannot be connected to until a repair is done."""

    def prepare(scene: Scene) -> None:
        strap = scene.peripherals["chest"]
        strap.scripts[1:] = [fault(kind)]
        scene.repairs.cures[what] = lambda: strap.scripts.__setitem__(slice(None), [FOR_EVER])

    return recovered([FRAME, FRAME, "gone"], prepare=prepare)


@pytest.mark.parametrize(
    ("kind", "done"),
    [
        (RadioFault.IN_PROGRESS, ["clear"]),
        (RadioFault.TIMEOUT, ["clear"]),
        (RadioFault.POWERED_OFF, ["on"]),
        (RadioFault.NO_BLUEZ, ["systemd"]),
    ],
)
def test_the_repair_that_cures_it_is_reached_in_time(kind: RadioFault, done: list[str]) -> None:
    assert cured_by(done[-1], kind).repairs.done == done


def test_a_radio_that_comes_back_ends_the_wait() -> None:
    def prepare(scene: Scene) -> None:
        asyncio.get_running_loop().call_later(4.5, scene.repairs.changed)

    scene = recovered([FRAME, FRAME, "gone"], fault(RadioFault.NO_BLUEZ), prepare=prepare)
    assert scene.longest_gap() < 4.5


def test_the_adapter_is_power_cycled_once_for_all_and_only_while_none_streams() -> None:
    async def scenario() -> None:
        strap, band = (
            chest([FRAME, "gone"], fault(RadioFault.LINK)),
            wrist([DATA] * 200 + ["gone"], fault(RadioFault.LINK)),
        )
        async with Scene(chest=strap, wrist=band) as scene:
            await scene.until(lambda: len(scene.notifications("wrist")) == 200)
            assert "off" not in scene.repairs.done
            for each in (strap, band):
                scene.repairs.cures["on"] = lambda each=each, both=(strap, band): [
                    one.scripts.__setitem__(slice(None), [[FRAME if one is strap else DATA] * 500]) for one in both
                ]
            await scene.until(lambda: len(scene.notifications("wrist")) > 205, 120.0)
            await scene.until(lambda: len(scene.notifications("chest")) > 5, 120.0)
            assert scene.repairs.done.count("off") == 1

    run_virtual(scenario())


def test_data_begins_the_ladder_at_its_foot() -> None:
    async def scenario() -> None:
        drop = [FRAME, "gone"]
        strap = chest(*[drop] * 12, FOR_EVER)
        async with Scene(chest=strap) as scene:
            await scene.data(15)
            assert scene.repairs.done == []
            assert scene.longest_gap() < 5

    run_virtual(scenario())


def test_a_radio_that_has_come_back_meanwhile_is_not_waited_for() -> None:
    async def scenario() -> None:
        radio = Radio(ScriptedCentral(), repairs := ScriptedRepairs())
        seen, began = radio.changes, asyncio.get_running_loop().time()
        repairs.changed()
        await radio.wait(60.0, seen)
        assert asyncio.get_running_loop().time() == began
        await radio.wait(60.0, radio.changes)
        assert asyncio.get_running_loop().time() == began + 60.0

    run_virtual(scenario())


def test_sensors_that_ask_for_a_repair_together_get_one() -> None:
    async def scenario() -> None:
        radio = Radio(ScriptedCentral(), repairs := ScriptedRepairs())
        await asyncio.gather(*(radio.climb(Rung.POWER, address(name)) for name in ("chest", "wrist")))
        assert repairs.done == ["off", "on"]

    run_virtual(scenario())


def test_an_rfkill_is_said_and_waited_for() -> None:
    async def scenario() -> None:
        strap = chest(fault(RadioFault.POWERED_OFF))
        async with Scene(chest=strap) as scene:
            scene.repairs.refuses["on"] = fault(RadioFault.POWERED_OFF)
            await scene.until(lambda: scene.repairs.done.count("on") > 3)
            assert "rfkill unblock bluetooth" in scene.sources["chest"].link.reason
            strap.scripts[:] = [FOR_EVER]
            scene.repairs.changed()
            await scene.data(1)

    run_virtual(scenario())


def test_a_sensor_away_is_searched_for_quietly() -> None:
    async def scenario() -> None:
        strap = chest(fault(RadioFault.NOT_FOUND))
        async with Scene(chest=strap) as scene:
            await scene.until(lambda: len(strap.attempts_s) > 40)
            assert scene.states() == ["searching"]
            assert "scripted NOT_FOUND" in scene.sources["chest"].link.reason
            assert "systemd" not in scene.repairs.done

    run_virtual(scenario())


def test_a_sensor_that_waits_holds_up_no_other() -> None:
    async def scenario() -> None:
        async with Scene(chest=chest("hang"), wrist=wrist([DATA] * 100)) as scene:
            await scene.data(20, "wrist")
            assert scene.now < 1000 + CONNECT_S

    run_virtual(scenario())


def test_a_lost_bond_is_refused_without_an_agent() -> None:
    async def scenario() -> None:
        strap = chest(fault(RadioFault.AUTHENTICATION))
        async with Scene(chest=strap) as scene:
            scene.repairs.bonds.add(CHEST.address)
            await scene.until(lambda: "refused" in scene.states())
            assert "pair it again" in scene.sources["chest"].link.reason
            assert scene.repairs.bonds == {CHEST.address}

    run_virtual(scenario())


def test_a_lost_bond_is_renewed_with_an_agent(caplog: pytest.LogCaptureFixture) -> None:
    def prepare(scene: Scene) -> None:
        scene.repairs.bonds.add(CHEST.address)

    lost = fault(RadioFault.AUTHENTICATION)
    scene = recovered([FRAME, FRAME, "gone"], lost, lost, agent=True, prepare=prepare)
    assert (scene.repairs.done, scene.repairs.bonds, scene.peripherals["chest"].paired) == (["unbond"], set(), 1)
    assert "paired anew, for its bond was lost on one side" in scene.reasons()
    assert "removed" in caplog.text


def test_a_lost_bond_that_bluez_does_not_remove_yet_is_not_connected_with() -> None:
    lost = fault(RadioFault.AUTHENTICATION)

    async def scenario() -> None:
        async with Scene(chest=chest(lost, lost, FOR_EVER), agent=True) as scene:
            scene.repairs.bonds.add(CHEST.address)
            scene.repairs.refuses["unbond"] = fault(RadioFault.TIMEOUT)
            await scene.until(lambda: scene.repairs.done.count("unbond") == 2)
            assert len(scene.peripherals["chest"].attempts_s) == 2
            del scene.repairs.refuses["unbond"]
            await scene.data(1)
            assert (scene.repairs.bonds, scene.peripherals["chest"].paired) == (set(), 1)
            assert "refused" not in scene.states()

    run_virtual(scenario())


def test_a_bonded_link_that_ends_again_and_again_before_data_counts_as_a_lost_bond() -> None:
    def prepare(scene: Scene) -> None:
        scene.repairs.bonds.add(CHEST.address)

    scene = recovered([FRAME, "gone"], *[fault(RadioFault.LINK)] * (SUSPECT - 1), agent=True, prepare=prepare)
    assert scene.peripherals["chest"].paired == 1
    scene = recovered([FRAME, "gone"], *[fault(RadioFault.LINK)] * (SUSPECT - 2), agent=True, prepare=prepare)
    assert (scene.peripherals["chest"].paired, scene.repairs.bonds) == (0, {CHEST.address})


def test_bluez_words_on_the_end_of_a_link_are_told() -> None:
    def prepare(scene: Scene) -> None:
        scene.repairs.end = (False, "Connection terminated by remote")

    scene = recovered([FRAME, FRAME, "gone"], prepare=prepare)
    assert scene.reasons()[0].endswith("(Connection terminated by remote)")


def test_a_link_that_ends_for_a_lost_bond_is_one() -> None:
    def prepare(scene: Scene) -> None:
        scene.repairs.bonds.add(CHEST.address)
        scene.repairs.end = (True, "authentication failure")
        scene.repairs.cures["unbond"] = lambda: setattr(scene.repairs, "end", (False, ""))

    scene = recovered([FRAME, FRAME, "gone"], fault(RadioFault.LINK), agent=True, prepare=prepare)
    assert (scene.repairs.done, scene.peripherals["chest"].paired) == (["unbond"], 1)


@pytest.mark.parametrize("agent", [False, True])
def test_a_bond_that_this_host_has_lost_is_renewed_or_refused(agent: bool) -> None:
    async def scenario() -> None:
        async with Scene(chest=chest(FOR_EVER), agent=agent) as scene:
            source = scene.sources["chest"]
            source.sensor = msgspec.structs.replace(CHEST, bonded=True)
            if agent:
                await scene.data(1)
                assert scene.peripherals["chest"].paired == 1
            else:
                await scene.until(lambda: source.link.state == "refused")
                assert "this host has lost its bond with it; pair it again" in source.link.reason

    run_virtual(scenario())


@pytest.mark.parametrize(
    ("name", "peripheral", "reason"),
    [
        ("chest", chest(FOR_EVER, info=bytes(polar_pmd.Features(b"\x04"))), "has PMD, but no ECG"),
        (
            "wrist",
            wrist([DATA] * 9, info=bytes(open_eda.Info(boot_id=7, rate_mhz=4000))),
            "its rate is 4 Hz, the registry says 8",
        ),
        ("wrist", wrist([DATA] * 9, info=b"\x01"), "too short"),
    ],
)
def test_another_sensor_than_paired_is_refused_slowly(name: str, peripheral: Peripheral, reason: str) -> None:
    async def scenario() -> None:
        async with Scene(**{name: peripheral}) as scene:
            await scene.until(lambda: len(peripheral.attempts_s) == 3)
            assert set(scene.states(name)) == {"searching", "starting", "refused"}
            assert reason in scene.reasons(name)[0]
            assert not scene.notifications(name)
            first, second, third = peripheral.attempts_s
            assert min(second - first, third - second) >= REFUSED_S

    run_virtual(scenario())


def test_a_refusal_that_may_pass_is_tried_again() -> None:
    async def scenario() -> None:
        invalid = bytes(polar_pmd.Response(polar_pmd.Op.START, 0, polar_pmd.Status.INVALID_MTU))
        strap = chest(FOR_EVER, answers={START: invalid})
        async with Scene(chest=strap) as scene:
            await scene.until(lambda: len(strap.attempts_s) == 3, RECOVERY_S)
            assert "refused" not in scene.states()

    run_virtual(scenario())


def test_frames_of_another_vendor_are_told_and_kept() -> None:
    async def scenario() -> None:
        strap = chest([b"\x99 nonsense"] * 30 + ["stall"])
        async with Scene(chest=strap) as scene:
            await scene.data(UNREADABLE + 5)
            link = scene.sources["chest"].link
            assert link.state == "streaming"
            assert link.reason.startswith("20 notifications in a row are not its protocol's (polar-pmd-ecg: byte 10")

    run_virtual(scenario())


def test_one_readable_frame_is_enough() -> None:
    async def scenario() -> None:
        strap = chest([*[b"\x99"] * (UNREADABLE - 1), FRAME, *[b"\x99"] * 30, "stall"])
        async with Scene(chest=strap) as scene:
            await scene.data(UNREADABLE + 20)
            assert scene.sources["chest"].link.reason == ""

    run_virtual(scenario())


def test_late_callbacks_of_an_old_connection_are_dropped() -> None:
    async def scenario() -> None:
        strap = chest([FRAME, "gone"], FOR_EVER)
        async with Scene(chest=strap) as scene:
            await scene.data(2)
            old = strap.links[0]
            old.send(b"late")
            await scene.data(4)
            assert all(notification.data == FRAME for notification in scene.notifications("chest"))

    run_virtual(scenario())


def test_answers_on_the_control_characteristic_are_no_data() -> None:
    async def scenario() -> None:
        strap = chest([FRAME, "stall"])
        async with Scene(chest=strap) as scene:
            await scene.data(1)
            strap.links[0].callbacks[polar_pmd.CONTROL_UUID](FEATURES)  # BlueZ's echo of a read
            await asyncio.sleep(1)
            assert len(scene.notifications("chest")) == 1

    run_virtual(scenario())


def test_a_tool_can_borrow_the_sensor() -> None:
    async def scenario() -> None:
        strap = chest(FOR_EVER)
        async with Scene(chest=strap) as scene:
            source = scene.sources["chest"]
            await scene.data(3)
            await source.pause()
            await source.pause()
            assert (strap.connected, strap.writes, source.link.state) == (0, [START, STOP], "paused")
            await source.resume()
            await asyncio.sleep(100)
            assert (len(strap.attempts_s), source.link.state) == (1, "paused")
            await source.resume()
            before = len(scene.notifications("chest"))
            await scene.data(before + 3)
            assert scene.states()[-4:] == ["paused", "searching", "starting", "streaming"]

    run_virtual(scenario())


@pytest.mark.parametrize("why", [LENT, "paused for privacy"])
def test_a_sensor_that_is_let_go_of_before_the_daemon_runs_stays_so(why: str) -> None:
    async def scenario() -> None:
        strap = chest(FOR_EVER)
        scene = Scene(chest=strap)
        await scene.sources["chest"].pause(why)
        async with scene:
            await asyncio.sleep(100)
            assert (strap.attempts_s, scene.states()) == ([], ["paused"])
            assert scene.sources["chest"].link.reason == why
            await scene.sources["chest"].resume()
            await scene.data(1)

    run_virtual(scenario())


@pytest.mark.parametrize("cancels", [1, 3])
def test_a_cancelled_task_still_stops_the_stream(cancels: int) -> None:
    async def scenario() -> None:
        strap = chest(FOR_EVER)
        async with Scene(chest=strap) as scene:
            await scene.data(1)
            (task,) = scene._tasks
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0.001)
            await asyncio.wait({task})
            assert task.cancelled()
            assert (strap.writes[-1], strap.connected) == (STOP, 0)

    run_virtual(scenario())


@pytest.mark.parametrize("hangs", [{"stop"}, {"disconnect"}, {"stop", "disconnect"}])
def test_a_link_that_hangs_does_not_hold_up_the_way_out(hangs: set[str]) -> None:
    async def scenario() -> None:
        strap = chest(FOR_EVER)
        async with Scene(chest=strap) as scene:
            await scene.data(1)
            strap.hangs |= hangs
            began = scene.now
            scene._tasks[0].cancel()
            await asyncio.wait(scene._tasks)
            assert scene.now - began <= LEAVE_S + 0.1

    run_virtual(scenario())


def test_a_search_is_ended_at_once() -> None:
    async def scenario() -> None:
        async with Scene(chest=chest("hang")) as scene:
            await asyncio.sleep(1)
            began = scene.now
            scene._tasks[0].cancel()
            await asyncio.wait(scene._tasks)
            assert scene.now == began

    run_virtual(scenario())


def test_the_battery_is_read_where_the_sensor_has_one() -> None:
    async def scenario() -> None:
        strap = chest([FRAME] * 40 + ["gone"], FOR_EVER * 4)
        strap.battery = 87
        async with Scene(chest=strap) as scene:
            await scene.data(1)
            assert scene.sources["chest"].link.battery == 87
            strap.battery = 86
            await scene.data(50)
            assert scene.sources["chest"].link.battery == 87
            await asyncio.sleep(3700)
            assert scene.sources["chest"].link.battery == 86
            assert BATTERY[0] in strap.links[-1].services

    run_virtual(scenario())


def test_a_fault_of_our_own_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with Scene(chest=chest(ZeroDivisionError("oops"), FOR_EVER)) as scene:
            await scene.data(1)
            assert "ZeroDivisionError('oops'); see the log" in scene.reasons()[0]

    run_virtual(scenario())
    assert "unforeseen" in caplog.text


def test_the_log_has_fields_for_the_journal(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        recovered([FRAME, FRAME, "gone"])
    records = [record for record in caplog.records if record.getMessage().startswith("sensor chest: waiting")]
    fields = [(record.sensor, record.state, record.rung, record.levelname) for record in records]  # type: ignore[attr-defined]
    assert fields == [("chest", "waiting", "connect anew", "WARNING")]


def test_a_radio_without_repairs_connects_anew() -> None:
    async def scenario() -> None:
        strap = chest(*[fault(RadioFault.IN_PROGRESS)] * 6, FOR_EVER)
        source = BleSource(CHEST, Radio(ScriptedCentral(chest=strap)), dice=lambda: 0.5)
        async with contextlib.aclosing(source.notifications()) as arrivals:
            async for arrival in arrivals:
                if isinstance(arrival, Notification):
                    break

    run_virtual(scenario())
