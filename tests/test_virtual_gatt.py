"""Every virtual sensor, met by a simulated central as affectd meets a real one: real GATT, pairing and encryption."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from firmware_bridge.codec import Codec, Options
from firmware_bridge.codecs import heart_rate, movesense_gsp, open_eda, polar_pmd
from firmware_bridge.codecs.heart_rate import RR_HZ, HeartRate
from firmware_bridge.errors import ExchangeError, RadioError, RadioFault
from firmware_bridge.packet import Packet
from firmware_bridge.protocols import PROTOCOLS
from firmware_bridge.radio.conversation import Conversation
from firmware_bridge.virtual.central import EnterPasskey, SimulatedCentral, SimulatedClient, simulated_central
from firmware_bridge.virtual.errors import CommandError, SpecError
from firmware_bridge.virtual.sensors import VirtualSensor
from firmware_bridge.virtual.signals import Signal, shipped

LIMIT_S = 30.0
"""Longer than anything takes; a test that gets there has failed."""
ECG = shipped("ecg-130", 130.0)
EDA = shipped("eda-8", 8.0)
BATTERY_LEVEL = "00002a19-0000-1000-8000-00805f9b34fb"


def run(scenario: Coroutine[object, object, None]) -> None:
    """To its end, with nothing left behind."""

    async def whole() -> None:
        async with asyncio.timeout(4 * LIMIT_S):
            await scenario
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0.005)


@dataclass
class Host:
    """The only sensor of a central, and one link to it."""

    central: SimulatedCentral
    sensor: VirtualSensor
    client: SimulatedClient
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    ends: int = 0

    async def start(self, protocol: str, options: Options = Options()) -> dict[str, bytes]:  # noqa: B008  # frozen
        codec = PROTOCOLS[protocol]
        conversation = Conversation(protocol, self.client, lambda uuid, data: self.heard.append((uuid, data)))
        return await conversation.run(codec.start(options))

    def packets(self, protocol: str) -> list[Packet]:
        codec = PROTOCOLS[protocol]
        decoder = codec.decoder()
        return [packet for uuid, data in self.heard if uuid == codec.data_uuid for packet in decoder.push(data)]

    async def collect(self, protocol: str, n: int) -> list[Packet]:
        await until(lambda: len(self.packets(protocol)) >= n)
        return self.packets(protocol)

    async def again(self) -> None:
        """Connect anew."""
        self.heard.clear()
        self.client = await connected(self)

    async def ask(self, uuid: str, command: str) -> str:
        """Write in hexadecimal, and the indication that answers."""
        before = len(self.heard)
        await self.client.write(uuid, bytes.fromhex(command))
        await until(lambda: len(self.heard) > before)
        return self.heard[before][1].hex(" ")


async def connected(host: Host) -> SimulatedClient:
    def ended() -> None:
        host.ends += 1

    return await host.central.connect(host.sensor.address, limit_s=LIMIT_S, on_disconnect=ended)


@asynccontextmanager
async def link(text: str, *, pair: bool = True, enter_passkey: EnterPasskey | None = None) -> AsyncIterator[Host]:
    async with simulated_central(text, enter_passkey=enter_passkey) as central:
        (sensor,) = central.sensors.values()
        host = Host(central, sensor, None)  # type: ignore[arg-type]  # at once
        host.client = await connected(host)
        if pair:
            await host.client.pair()
        yield host


async def fault_of(work: Awaitable[object]) -> RadioFault:
    with pytest.raises(RadioError) as caught:
        await work
    return caught.value.fault


def expected(protocol: str, packet: Packet, sfreq: float) -> tuple[int, ...]:
    """What was measured at the times the packet says."""
    if protocol == polar_pmd.PROTOCOL:
        last = round((packet.ticks - polar_pmd.CLOCK_RESET_TICKS) / 1e9 * sfreq)
        return ECG.run(last - len(packet.values) + 1, len(packet.values))
    return EDA.run(round(packet.ticks / 1000 * sfreq), len(packet.values))


STREAMS = [
    ("polar-h10:speed=20", polar_pmd.PROTOCOL, 130.045, 73),
    ("polar-h10:speed=20,sfreq=127.4,ppm=-80", polar_pmd.PROTOCOL, 127.4, 73),
    ("open-eda:speed=20", open_eda.PROTOCOL, 8.0, 4),
    ("open-eda:speed=20,mtu=23", open_eda.PROTOCOL, 8.0, 3),
]


@pytest.mark.parametrize(("text", "protocol", "sfreq", "size"), STREAMS)
def test_what_arrives_is_what_was_measured(text: str, protocol: str, sfreq: float, size: int) -> None:
    async def scenario() -> None:
        async with link(text) as host:
            answers = await host.start(protocol)
            assert PROTOCOLS[protocol].describe(answers) == PROTOCOLS[protocol].stream_info
            packets = await host.collect(protocol, 6)
            for packet in packets:
                assert packet.values == expected(protocol, packet, sfreq)
            steps = [(b.ticks - a.ticks) / PROTOCOLS[protocol].stream_info.tick_hz for a, b in pairwise(packets)]
            assert steps == pytest.approx([size / sfreq] * len(steps), abs=0.0011)  # EDA stamps whole ms
            await Conversation(protocol, host.client, lambda *_: None).run(PROTOCOLS[protocol].stop)
            assert host.sensor.state()["streaming"] is False

    run(scenario())


def test_a_user_s_signal(tmp_path: object) -> None:
    path = f"{tmp_path}/ramp"
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123  # tmp_path is typed as an object only
        file.writelines(f"{value}\n" for value in range(1000))

    async def scenario() -> None:
        async with link(f"open-eda:speed=20,signal={path}") as host:
            await host.start(open_eda.PROTOCOL)
            for packet in await host.collect(open_eda.PROTOCOL, 3):
                assert packet.values == Signal(range(1000), 8.0).run(round(packet.ticks / 125), 4)

    run(scenario())


def test_loss_leaves_holes_and_nothing_else() -> None:
    async def scenario() -> None:
        async with link("open-eda:speed=100,loss=0.3,seed=4") as host:
            await host.start(open_eda.PROTOCOL)
            packets = await host.collect(open_eda.PROTOCOL, 40)
            counters = [packet.seq for packet in packets if packet.seq is not None]
            assert counters == sorted(set(counters))
            assert len(counters) < counters[-1] + 1 - counters[0] < 3 * len(counters)
            for a, b in pairwise(packets):
                assert (b.ticks - a.ticks) // 500 == (b.seq or 0) - (a.seq or 0)
            for packet in packets:
                assert packet.values == expected(open_eda.PROTOCOL, packet, 8.0)

    run(scenario())


def test_duplicates_come_twice_in_a_row() -> None:
    async def scenario() -> None:
        async with link("polar-h10:speed=50,duplicates=0.3,seed=1") as host:
            await host.start(polar_pmd.PROTOCOL)
            packets = await host.collect(polar_pmd.PROTOCOL, 40)
            ticks = [packet.ticks for packet in packets]
            assert ticks == sorted(ticks)
            assert all(ticks.count(tick) <= 2 for tick in ticks)
            assert len(set(ticks)) < len(ticks)

    run(scenario())


SECURE = {
    "polar-h10": ((polar_pmd.CONTROL_UUID, polar_pmd.START), (polar_pmd.CONTROL_UUID, polar_pmd.DATA_UUID)),
    "open-eda": ((open_eda.CONTROL_UUID, open_eda.START), (open_eda.DATA_UUID, open_eda.STATUS_UUID)),
}


@pytest.mark.parametrize("kind", SECURE)
def test_nothing_secret_before_encryption(kind: str) -> None:
    (control, command), subscriptions = SECURE[kind]

    async def scenario() -> None:
        async with link(kind, pair=False) as host:
            assert await fault_of(host.client.write(control, command)) is RadioFault.AUTHENTICATION
            for uuid in subscriptions:
                assert await fault_of(host.client.subscribe(uuid, lambda _: None)) is RadioFault.AUTHENTICATION
            assert host.sensor.state()["encrypted"] is False
            await host.client.pair()
            await host.client.subscribe(control, lambda _: None)
            await host.client.write(control, command)
            assert host.sensor.state()["encrypted"] is True

    run(scenario())


def test_what_may_be_read_without_bond() -> None:
    async def scenario() -> None:
        async with link("open-eda:serial=0815", pair=False) as host:
            assert open_eda.Info.from_bytes(await host.client.read(open_eda.INFO_UUID)).rate_mhz == 8000
            assert await host.client.read("00002a25-0000-1000-8000-00805f9b34fb") == b"0815"
            assert await host.client.read("00002a00-0000-1000-8000-00805f9b34fb") == b"Open EDA"
            assert await host.client.read(BATTERY_LEVEL) == bytes([87])
            assert await fault_of(host.client.read(polar_pmd.CONTROL_UUID)) is RadioFault.GATT
            assert await fault_of(host.client.read(open_eda.CONTROL_UUID)) is RadioFault.GATT

    run(scenario())


async def _enter(passkey: int | None) -> int | None:
    return passkey


@pytest.mark.parametrize("entered", [42, 43, None])
def test_passkey(entered: int | None) -> None:
    async def scenario() -> None:
        async with link("open-eda:passkey=42", pair=False, enter_passkey=lambda: _enter(entered)) as host:
            if entered == 42:
                await host.client.pair()
                await host.start(open_eda.PROTOCOL)
            else:
                assert await fault_of(host.client.pair()) is RadioFault.AUTHENTICATION
            assert host.sensor.state()["bonded"] is (entered == 42)

    run(scenario())


def test_a_sensor_with_passkey_refuses_a_host_without_keyboard() -> None:
    async def scenario() -> None:
        async with link("open-eda:passkey=42", pair=False) as host:
            with pytest.raises(RadioError):
                await host.client.pair()
                await host.start(open_eda.PROTOCOL)
            await until(lambda: host.ends)
            assert host.sensor.state()["bonded"] is False

    run(scenario())


def test_a_bond_encrypts_the_next_link_by_itself() -> None:
    async def scenario() -> None:
        async with link("polar-h10:speed=20") as host:
            await host.client.disconnect()
            await host.client.disconnect()
            assert host.ends == 1
            await host.again()
            assert host.sensor.state()["encrypted"] is True
            await host.client.pair()
            await host.start(polar_pmd.PROTOCOL)
            await host.collect(polar_pmd.PROTOCOL, 1)

    run(scenario())


def test_a_bond_forgotten_by_the_sensor_must_be_forgotten_by_the_host() -> None:
    async def scenario() -> None:
        async with link("polar-h10") as host:
            await host.sensor.forget_bond()
            await until(lambda: host.ends)
            assert await fault_of(connected(host)) is RadioFault.AUTHENTICATION
            assert host.ends == 1
            await host.central.forget(host.sensor.address)
            await host.again()
            assert host.sensor.state()["encrypted"] is False
            await host.client.pair()
            assert host.sensor.state()["bonded"] is True

    run(scenario())


def test_after_a_dropped_link_the_signal_goes_on_where_a_real_one_would() -> None:
    async def scenario() -> None:
        async with link("open-eda:speed=20") as host:
            await host.start(open_eda.PROTOCOL)
            before = (await host.collect(open_eda.PROTOCOL, 3))[-1]
            await host.sensor.drop()
            await until(lambda: host.ends)
            assert await fault_of(host.client.read(open_eda.INFO_UUID)) is RadioFault.LINK
            await host.again()
            boot_id = open_eda.Info.from_bytes(await host.client.read(open_eda.INFO_UUID)).boot_id
            assert boot_id == host.sensor.state()["boot_id"]
            await host.start(open_eda.PROTOCOL)
            after = (await host.collect(open_eda.PROTOCOL, 1))[0]
            assert after.ticks > before.ticks + 1000
            assert after.seq is not None
            assert before.seq is not None
            assert after.seq > before.seq
            assert after.values == expected(open_eda.PROTOCOL, after, 8.0)
            assert (host.ends, host.sensor.state()["disconnects"]) == (1, 1)

    run(scenario())


def test_a_call_the_end_of_the_link_interrupts_fails_at_once() -> None:
    async def scenario() -> None:
        async with link("open-eda") as host:
            call = asyncio.ensure_future(host.client.write(open_eda.CONTROL_UUID, open_eda.START))
            await asyncio.sleep(0)
            await host.sensor.drop(for_s=0.05)
            assert await fault_of(call) is RadioFault.LINK
            await host.again()

    run(scenario())


@pytest.mark.parametrize("bond", ["kept", "lost"])
def test_reset(bond: str) -> None:
    async def scenario() -> None:
        async with link("open-eda:speed=20") as host:
            old = open_eda.Info.from_bytes((await host.start(open_eda.PROTOCOL))["info"])
            await host.collect(open_eda.PROTOCOL, 3)
            await until(lambda: host.sensor.board.clock.now() > 15)
            await host.sensor.reset(bond=bond, for_s=0.01)
            assert host.sensor.board.clock.now() < 10
            await until(lambda: host.ends)
            assert host.sensor.state()["bonded"] is (bond == "kept")
            if bond == "lost":
                await host.central.forget(host.sensor.address)
            await host.again()
            await host.client.pair()
            new = open_eda.Info.from_bytes((await host.start(open_eda.PROTOCOL))["info"])
            first = (await host.collect(open_eda.PROTOCOL, 1))[0]
            assert new.boot_id != old.boot_id
            assert first.seq == 0
            assert first.values == expected(open_eda.PROTOCOL, first, 8.0)
            assert host.sensor.state()["resets"] == 1

    run(scenario())


@pytest.mark.parametrize("cure", ["start", "connect", "resume"])
def test_silence_and_what_ends_it(cure: str) -> None:
    protocol = polar_pmd.PROTOCOL

    async def expect_packets(host: Host, any_come: bool) -> None:
        if any_come:
            await host.collect(protocol, 1)
        else:
            await asyncio.sleep(0.1)  # time for nine
            assert host.packets(protocol) == []

    async def scenario() -> None:
        async with link("polar-h10:speed=50") as host:
            await host.start(protocol)
            await host.collect(protocol, 2)
            await host.sensor.silence(until=cure)
            await host.client.read(BATTERY_LEVEL)  # its answer comes behind the packets that are on their way
            host.heard.clear()
            await asyncio.sleep(0.1)
            assert host.packets(protocol) == []
            assert host.sensor.state()["connected"] is True
            restarted = "f0 02 00 00 00"
            assert await host.ask(polar_pmd.CONTROL_UUID, "03 00") == "f0 03 00 00 00"
            assert await host.ask(polar_pmd.CONTROL_UUID, polar_pmd.START.hex()) == restarted
            await expect_packets(host, cure == "start")
            await host.sensor.drop()
            await until(lambda: host.ends)
            await host.again()
            await host.start(protocol)
            await expect_packets(host, cure in ("start", "connect"))
            await host.sensor.resume()
            await host.collect(protocol, 1)

    run(scenario())


def test_a_vanished_sensor_is_not_found_until_it_appears() -> None:
    async def scenario() -> None:
        async with link("open-eda") as host:
            await host.sensor.vanish()
            await until(lambda: host.ends)
            with pytest.raises(RadioError) as caught:
                await host.central.connect(host.sensor.address, limit_s=0.3, on_disconnect=lambda: None)
            assert caught.value.fault is RadioFault.NOT_FOUND
            await host.sensor.appear()
            await host.again()

    run(scenario())


def test_a_sensor_away_for_a_while_comes_back_by_itself() -> None:
    async def scenario() -> None:
        async with link("open-eda") as host:
            await host.sensor.drop(for_s=0.1, goodbye=True)
            assert host.sensor.state()["advertising"] is False
            await host.again()

    run(scenario())


def test_a_late_start() -> None:
    async def scenario() -> None:
        async with link("polar-h10:speed=50,late_s=10") as host:
            began = host.sensor.board.clock.now()
            await host.start(polar_pmd.PROTOCOL)
            first = (await host.collect(polar_pmd.PROTOCOL, 1))[0]
            assert (first.ticks - polar_pmd.CLOCK_RESET_TICKS) / 1e9 - began > 10

    run(scenario())


def test_open_eda_with_electrodes_off() -> None:
    async def scenario() -> None:
        async with link("open-eda:speed=20") as host:
            statuses = list[bytes]()
            await host.client.subscribe(open_eda.STATUS_UUID, statuses.append)
            await host.start(open_eda.PROTOCOL)
            await host.sensor.lead_off()
            await until(lambda: host.packets(open_eda.PROTOCOL)[-1:] and statuses)
            host.heard.clear()
            packets = await host.collect(open_eda.PROTOCOL, 3)
            assert {value for packet in packets[1:] for value in packet.values} == {open_eda.OPEN_VALUE}
            await host.sensor.lead_on()
            await until(lambda: len(statuses) == 2)
            assert [open_eda.Status.from_bytes(data).electrode_off for data in statuses] == [True, False]

    run(scenario())


def test_an_h10_off_the_skin_streams_noise_and_no_pulse() -> None:
    async def scenario() -> None:
        async with link("polar-h10:speed=20,lead_off=yes") as host:
            pulses = list[bytes]()
            await host.client.subscribe(heart_rate.MEASUREMENT_UUID, pulses.append)
            await host.start(polar_pmd.PROTOCOL)
            packets = await host.collect(polar_pmd.PROTOCOL, 3)
            assert max(abs(value) for packet in packets for value in packet.values) < 300
            await until(lambda: pulses)
            assert HeartRate.from_bytes(pulses[-1]) == HeartRate(0, contact=False)

    run(scenario())


@pytest.mark.parametrize(("kind", "sfreq"), [("heart-rate", 130.0), ("polar-h10", 130.045)])
def test_heart_rate_is_that_of_the_ecg(kind: str, sfreq: float) -> None:
    async def scenario() -> None:
        async with link(f"{kind}:speed=50", pair=False) as host:
            heard = list[bytes]()
            await host.client.subscribe(heart_rate.MEASUREMENT_UUID, heard.append)
            await until(lambda: len(heard) > 40)
            measured = [HeartRate.from_bytes(data) for data in heard]
            told = [interval for each in measured for interval in each.rr or ()]
            beats = ECG.beats_between(0, round(120 * sfreq))
            true = [round((b - a) / sfreq * RR_HZ) for a, b in pairwise(beats)]
            begin = next(at for at in range(len(true)) if true[at : at + len(told)] == told)
            assert begin >= 0
            assert len(told) > 30
            assert all(50 < each.bpm < 75 and each.contact for each in measured[10:])

    run(scenario())


PMD_DIALOGUE = [
    ("01 00", "f0 01 00 00 00 00 01 82 00 01 01 0e 00"),
    ("03 00", "f0 03 00 06 00"),
    ("02 00 00 01 83 00 01 01 0e 00", "f0 02 00 08 00"),
    ("02 00 00 01 82 00 01 01 0e 00", "f0 02 00 00 00"),
    ("02 00 00 01 82 00 01 01 0e 00", "f0 02 00 06 00"),
    ("02 02", "f0 02 02 03"),
    ("05 00", "f0 05 00 03"),
    ("09 00", "f0 09 00 01"),
    ("02", "f0 02 00 01"),
    ("03 00", "f0 03 00 00 00"),
]
EDA_DIALOGUE = [
    ("02", "f0 02 00"),
    ("03 a0 0f 00 00", "f0 03 00"),
    ("03 a1 0f 00 00", "f0 03 02"),
    ("03 a0", "f0 03 02"),
    ("01", "f0 01 00"),
    ("01", "f0 01 00"),
    ("03 40 1f 00 00", "f0 03 03"),
    ("01 01", "f0 01 02"),
    ("07", "f0 07 01"),
    ("02", "f0 02 00"),
    ("03 40 1f 00 00", "f0 03 00"),
]


@pytest.mark.parametrize(
    ("kind", "uuid", "dialogue"),
    [("polar-h10", polar_pmd.CONTROL_UUID, PMD_DIALOGUE), ("open-eda", open_eda.CONTROL_UUID, EDA_DIALOGUE)],
)
def test_control_point(kind: str, uuid: str, dialogue: list[tuple[str, str]]) -> None:
    async def scenario() -> None:
        async with link(kind) as host:
            await host.client.subscribe(uuid, lambda data: host.heard.append((uuid, data)))
            assert [(command, await host.ask(uuid, command)) for command, _ in dialogue] == dialogue

    run(scenario())


def test_open_eda_at_another_rate() -> None:
    async def scenario() -> None:
        async with link("open-eda:speed=20") as host:
            answers = await host.start(open_eda.PROTOCOL, Options(sfreq=4.0))
            assert PROTOCOLS[open_eda.PROTOCOL].describe(answers).sfreq == 4.0
            for packet in await host.collect(open_eda.PROTOCOL, 3):
                first = round(packet.ticks / 1000 * 4) * 2
                assert packet.values == tuple(EDA.at(number) for number in range(first, first + 8, 2))

    run(scenario())


def test_an_h10_whose_frames_do_not_fit_says_so() -> None:
    async def scenario() -> None:
        async with link("polar-h10:mtu=185") as host:
            assert host.client.mtu == 185
            with pytest.raises(ExchangeError, match="do not fit"):
                await host.start(polar_pmd.PROTOCOL)

    run(scenario())


def test_a_scan_tells_names_and_services() -> None:
    async def scenario() -> None:
        async with simulated_central("polar-h10:serial=0A1B2C3D", "open-eda", "heart-rate:name=Näh") as central:
            found = {}
            async with central.scan() as one, central.scan() as other:
                async for advertisement in one:
                    found[advertisement.name] = advertisement.service_uuids
                    if len(found) == 3:
                        break
                await anext(aiter(other))
            assert found == {
                "Polar H10 0A1B2C3D": (heart_rate.SERVICE_UUID,),
                "Open EDA": (open_eda.SERVICE_UUID,),
                "Näh": (heart_rate.SERVICE_UUID,),
            }

    run(scenario())


def test_a_central_comes_up_by_itself_and_is_closed_twice() -> None:
    async def scenario() -> None:
        central = simulated_central("open-eda")
        async with central.scan() as heard:
            address = (await anext(aiter(heard))).address
        client = await central.connect(address, limit_s=LIMIT_S, on_disconnect=lambda: None)
        assert open_eda.SERVICE_UUID in client.services
        await central.close()
        await central.close()

    run(scenario())


@pytest.mark.parametrize(
    "texts", [("toaster",), ("open-eda", "open-eda"), ("open-eda:id=a", "open-eda:id=b,address=C0:AF:FE:C7:00:01")]
)
def test_sensors_that_cannot_be_together(texts: tuple[str, ...]) -> None:
    async def scenario() -> None:
        with pytest.raises(SpecError):
            await simulated_central(*texts).__aenter__()

    run(scenario())


@pytest.mark.parametrize(
    ("command", "arguments", "reason"),
    [
        ("explode", {}, "no such command"),
        ("power_off", {}, "no such command"),
        ("drop", {"seconds": 3}, "expected for_s, goodbye"),
        ("resume", {"now": True}, "expected nothing"),
        ("drop", {"for_s": True}, "expected a float"),
        ("drop", {"for_s": float("inf")}, "finite"),
        ("drop", {"goodbye": 1}, "expected a bool"),
        ("reset", {"bond": "double-oh"}, "kept or lost"),
        ("silence", {"until": "doomsday"}, "start, connect, resume"),
        ("fault", {"loss": 2}, "share"),
    ],
)
def test_commands_that_make_no_sense(command: str, arguments: dict[str, object], reason: str) -> None:
    async def scenario() -> None:
        async with simulated_central("open-eda") as central:
            before = central.sensors["open-eda"].state()
            with pytest.raises(CommandError, match=reason):
                await central.sensors["open-eda"].do(command, arguments)
            assert central.sensors["open-eda"].state() | {"uptime_s": 0} == before | {"uptime_s": 0}

    run(scenario())


def test_faults_change_while_it_runs() -> None:
    async def scenario() -> None:
        async with link("open-eda:speed=50") as host:
            await host.start(open_eda.PROTOCOL)
            await host.collect(open_eda.PROTOCOL, 1)
            await host.sensor.do("fault", {"loss": 1.0, "ppm": 100})
            await asyncio.sleep(0.05)  # what is under way arrives
            host.heard.clear()
            await asyncio.sleep(0.05)
            assert host.packets(open_eda.PROTOCOL) == []
            await host.sensor.do("fault", {"loss": 0})
            await host.collect(open_eda.PROTOCOL, 2)
            assert host.sensor.board.clock.rate == pytest.approx(50 * 1.0001)

    run(scenario())


ECG_200 = shipped("ecg-200", 200.0)
COMMAND, NOTIFY = movesense_gsp.COMMAND_UUID, movesense_gsp.NOTIFY_UUID
SUBSCRIBE_MV = "01 63 2f 4d 65 61 73 2f 45 43 47 2f 32 30 30 2f 6d 56 00"
SUBSCRIBE_RAW = "01 07 2f 4d 65 61 73 2f 45 43 47 2f 32 30 30 00"


@asynccontextmanager
async def movesense(options: str = "") -> AsyncIterator[Host]:
    async with link(f"movesense:speed=20{options}", pair=False) as host:
        await host.client.subscribe(NOTIFY, lambda data: host.heard.append((NOTIFY, data)))
        yield host


@pytest.mark.parametrize("mtu", [517, 23])
@pytest.mark.parametrize(
    ("command", "layout", "scale"), [(SUBSCRIBE_MV, "<I16h", 1.0), (SUBSCRIBE_RAW, "<I16i", 0.38146973)]
)
def test_movesense_ecg(mtu: int, command: str, layout: str, scale: float) -> None:
    async def scenario() -> None:
        async with movesense(f",mtu={mtu}") as host:
            reference = command[3:5]
            assert await host.ask(COMMAND, command) == f"01 {reference} c8 00"
            await until(lambda: sum(data[0] == 2 for _, data in host.heard) > 3)
            assert await host.ask(COMMAND, f"02 {reference}")
            assert all(data[1] == int(reference, 16) and len(data) <= mtu - 3 for _, data in host.heard)
            parts = [data[2:] for _, data in host.heard if data[0] > 1]
            size = struct.calcsize(layout)
            first = b"".join(parts)[:size]
            ticks, *values = struct.unpack(layout, first)
            expected_uv = ECG_200.run(round(ticks / 5), 16)
            assert [round(value * scale) for value in values] == list(expected_uv)

    run(scenario())


@pytest.mark.parametrize("codec", [movesense_gsp.CODEC, movesense_gsp.RAW_CODEC], ids=lambda codec: codec.protocol)
def test_movesense_by_its_own_tables(codec: Codec) -> None:
    async def scenario() -> None:
        async with link("movesense:speed=20,loss=0.2", pair=False) as host:
            conversation = Conversation(codec.protocol, host.client, lambda uuid, data: host.heard.append((uuid, data)))
            for _ in range(2):
                info = codec.describe(await conversation.run(codec.start(Options())))
                await until(lambda: len(host.heard) > 10)
                decoder = codec.decoder()
                packets = [packet for _, data in host.heard for packet in decoder.push(data)]
                for packet in packets:
                    values = tuple(round(value * info.scale * 1000) for value in packet.values)
                    assert values == ECG_200.run(round(packet.ticks / 5), 16)
                assert {(b.ticks - a.ticks) % 80 for a, b in pairwise(packets)} == {0}
                await conversation.run(codec.stop)
                host.heard.clear()

    run(scenario())


def test_movesense_dialogue() -> None:
    dialogue = [
        ("00 01", "01 01 01 " + b"00000001\0Movesense\0C0:AF:FE:C7:00:01\0GATT SensorData\0virtual\0".hex(" ")),
        ("04 02 " + b"/Meas/ECG/Info\0".hex(" "), "01 02 c8 00 01 c8 00 10 00 01 28 00 01 00 00 00 3f"),
        ("04 03 " + b"/Nonsense\0".hex(" "), "01 03 94 01"),
        ("01 04 " + b"/Meas/ECG/999/mV\0".hex(" "), "01 04 94 01"),
        ("02 05", "01 05 94 01"),
        ("08 06 00 00 00 00 00 00 00 00", "01 06 c8 00"),
        ("09 07 03", "01 07 90 01"),
    ]

    async def scenario() -> None:
        async with movesense() as host:
            assert [(command, await host.ask(COMMAND, command)) for command, _ in dialogue] == dialogue

    run(scenario())


def test_movesense_out_of_slots_answers_429_until_it_reboots() -> None:
    async def scenario() -> None:
        async with movesense() as host:
            for reference in ("01", "02"):
                await host.client.write(COMMAND, bytes.fromhex(f"04 {reference}") + b"/Info\0")
            assert await host.ask(COMMAND, SUBSCRIBE_MV) == "01 63 ad 01"
            await host.client.disconnect()
            await host.again()
            await host.client.subscribe(NOTIFY, lambda data: host.heard.append((NOTIFY, data)))
            assert await host.ask(COMMAND, SUBSCRIBE_MV) == "01 63 ad 01"
            await host.client.write(COMMAND, bytes.fromhex("07 09 05"))  # reboot
            await until(lambda: host.ends == 2)
            await host.again()
            await host.client.subscribe(NOTIFY, lambda data: host.heard.append((NOTIFY, data)))
            assert await host.ask(COMMAND, SUBSCRIBE_MV) == "01 63 c8 00"

    run(scenario())
