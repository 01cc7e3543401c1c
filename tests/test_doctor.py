"""affectd-pair doctor: every ailment it knows is found, named with its remedy, and nothing healthy is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_fakes import STRAP, WRIST, Tool

from device.control import Control
from firmware_bridge import registry
from firmware_bridge.codecs import polar_pmd
from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.pair.bluez_bugs import BUGS, bugs_of, parse
from firmware_bridge.pair.facts import Facts, own_groups, run_command
from firmware_bridge.registry import Sensor

PHONES = "0000110b-0000-1000-8000-00805f9b34fb"


@dataclass
class Adapter:
    name: str = "hci0"
    address: str = "B8:27:EB:00:00:01"
    powered: bool = True


@dataclass
class Device:
    address: str
    connected: bool = False
    bonded: bool = False
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Bluez:
    runs: bool = True
    radios: Sequence[Adapter] = (Adapter(),)
    known: Sequence[Device] = ()
    told: str | None = "5.82"
    fails: RadioError | None = None

    async def running(self) -> bool:
        if self.fails:
            raise self.fails
        return self.runs

    async def adapters(self) -> Sequence[Adapter]:
        return self.radios

    async def devices(self, address: str | None = None) -> Sequence[Device]:
        return self.known

    async def version(self) -> str | None:
        return self.told


@dataclass
class Clinic:
    """A machine that is well, to be made ill."""

    tool: Tool
    root: Path
    bluez: Bluez = field(default_factory=Bluez)
    printed: dict[str, str] = field(default_factory=lambda: {"iw": "channel 36 (5180 MHz), width: 80 MHz"})
    groups: frozenset[str] = frozenset({"bluetooth"})
    agent: Callable[[], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.file("sys/class/bluetooth/hci0/x", "")
        for name, value in (("type", "bluetooth"), ("name", "hci0"), ("soft", "0"), ("hard", "0")):
            self.file(f"sys/class/rfkill/rfkill1/{name}", value + "\n")
        self.file("sys/class/rfkill/rfkill0/type", "wlan\n")
        self.file("sys/class/rfkill/rfkill0/soft", "1\n")
        self.file("sys/class/net/wlan0/wireless/x", "")
        registry.write(self.tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", bonded=True)])
        self.bluez.known = [Device(STRAP, bonded=True)]
        self.tool.more["facts"] = self.facts
        self.tool.run = asyncio.run

    def file(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    @asynccontextmanager
    async def facts(self) -> Any:
        async def command(arguments: Sequence[str]) -> str | None:
            return self.printed.get(arguments[0])

        async def no_agent() -> None:
            return None

        yield Facts(self.bluez, self.agent or no_agent, self.root, command, lambda: self.groups)

    def examine(self, code: int) -> dict[tuple[str, str], str]:
        """What is not ok, by check and level."""
        import json

        got, out, _ = self.tool("doctor", "--json")
        assert got == code
        findings = json.loads(out)
        assert all(it["remedy"] for it in findings if it["level"] != "ok")
        return {(it["check"], it["level"]): f"{it['what']}; {it['remedy']}" for it in findings if it["level"] != "ok"}


@pytest.fixture
def clinic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Clinic:
    return Clinic(Tool(tmp_path / "sensors.toml", capsys), tmp_path / "root")


def test_a_machine_that_is_well(clinic: Clinic) -> None:
    assert clinic.examine(0) == {}
    code, out, _ = clinic.tool("doctor")
    assert code == 0
    assert "5.82" in out
    assert "StartNotify" in out  # what affectd goes round is told, and no ailment


def _soft(clinic: Clinic) -> None:
    clinic.file("sys/class/rfkill/rfkill1/soft", "1\n")


def _hard(clinic: Clinic) -> None:
    clinic.file("sys/class/rfkill/rfkill1/hard", "1\n")


def _no_radio(clinic: Clinic) -> None:
    (clinic.root / "sys/class/bluetooth/hci0").rename(clinic.root / "sys/class/bluetooth/x")


def _stranger(clinic: Clinic) -> None:
    clinic.groups = frozenset({"users"})


def _no_bus(clinic: Clinic) -> None:
    clinic.bluez.fails = RadioError("D-Bus", RadioFault.NOT_PERMITTED, "AccessDenied")


def _no_bluetoothd(clinic: Clinic) -> None:
    clinic.bluez.runs = False


def _old(clinic: Clinic) -> None:
    clinic.bluez.told = "5.50"


def _crashing(clinic: Clinic) -> None:
    clinic.bluez.told = "5.87"


def _hidden(clinic: Clinic) -> None:
    clinic.bluez.told = None


def _no_adapter(clinic: Clinic) -> None:
    clinic.bluez.radios = ()


def _off(clinic: Clinic) -> None:
    clinic.bluez.radios = [Adapter(powered=False)]


def _one_off(clinic: Clinic) -> None:
    clinic.bluez.radios = [Adapter(), Adapter("hci1", "00:1A:7D:00:00:02", False)]


def _no_agent(clinic: Clinic) -> None:
    async def refuses() -> None:
        raise RadioError("agent", RadioFault.NOT_PERMITTED, "RegisterAgent: AccessDenied")

    clinic.agent = refuses


def _wifi(clinic: Clinic) -> None:
    clinic.printed["iw"] = "channel 6 (2437 MHz), width: 20 MHz"
    clinic.file("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")


def _wifi_unknown(clinic: Clinic) -> None:
    clinic.printed.clear()
    clinic.file("proc/net/wireless", "Inter-| sta\n face | tus\nwlan1: 0000   54.  -56.  -256\n")


def _stale(clinic: Clinic) -> None:
    clinic.bluez.known = [Device(STRAP, True, True, {"Name": "Polar\x1b H10"})]


def _stale_other(clinic: Clinic) -> None:
    clinic.bluez.known = [*clinic.bluez.known, Device(WRIST, True, properties={"UUIDs": [polar_pmd.SERVICE_UUID]})]


def _bond_lost(clinic: Clinic) -> None:
    clinic.bluez.known = [Device(STRAP)]


def _bond_extra(clinic: Clinic) -> None:
    registry.write(clinic.tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg")])


def _bond_unknown(clinic: Clinic) -> None:
    strange = Device(WRIST, bonded=True, properties={"Name": "Polar H10 9"})
    clinic.bluez.known = [*clinic.bluez.known, strange]


def _broken_file(clinic: Clinic) -> None:
    clinic.tool.path.write_text("sensor = 1")


def _dead_socket(clinic: Clinic) -> None:
    import socket

    clinic.tool.socket = clinic.root / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(clinic.tool.socket))


@pytest.mark.parametrize(
    ("ail", "check", "level", "what"),
    [
        (_soft, "rfkill", "fail", "hci0 is blocked; `rfkill unblock bluetooth`"),
        (_hard, "rfkill", "fail", "hci0 is switched off by the machine"),
        (_no_radio, "kernel", "fail", "the kernel has no Bluetooth radio; plug in"),
        (_stranger, "groups", "warn", "usermod -aG bluetooth"),
        (_no_bus, "bluetoothd", "fail", "D-Bus: AccessDenied; add this user to the group"),
        (_no_bluetoothd, "bluetoothd", "fail", "does not run; install BlueZ"),
        (_old, "BlueZ", "fail", "5.50 is too old; install 5.55"),
        (_crashing, "BlueZ", "warn", "5.87: bluetoothd crashes where a link ends while a subscription is pending"),
        (_hidden, "BlueZ", "warn", "its version cannot be told"),
        (_no_adapter, "adapter", "fail", "BlueZ has none; plug in"),
        (_off, "adapter", "fail", "hci0 B8:27:EB:00:00:01 is off; `bluetoothctl power on`"),
        (_one_off, "adapter", "warn", "hci1 00:1A:7D:00:00:02 is off"),
        (_no_agent, "agent", "fail", "AccessDenied): no sensor can bond"),
        (
            _wifi,
            "Wi-Fi",
            "warn",
            "wlan0: on 2.4 GHz, Bluetooth's own band. One chip does both on a Raspberry Pi.; use 5 GHz",
        ),
        (_wifi_unknown, "Wi-Fi", "warn", "wlan0, wlan1: its band cannot be told"),
        (_stale, "links", "warn", f"{STRAP} Polar H10 is connected, and no affectd has it; `bluetoothctl disconnect"),
        (_stale_other, "links", "warn", f"{WRIST} is connected"),
        (_bond_lost, "bonds", "fail", f"BlueZ has lost it; `affectd-pair add {STRAP} --replace`"),
        (_bond_extra, "bonds", "warn", "was added without a bond, and BlueZ has one"),
        (_bond_unknown, "bonds", "warn", f"{WRIST} Polar H10 9 is bonded, and was never added; `affectd-pair remove"),
        (_broken_file, "sensors", "fail", "Expected `array`"),
        (_dead_socket, "affectd", "warn", "nobody listens, one was killed; `systemctl start affectd`"),
    ],
)
def test_every_ailment_is_found_with_its_remedy(
    clinic: Clinic, ail: Callable[[Clinic], None], check: str, level: str, what: str
) -> None:
    ail(clinic)
    found = clinic.examine(1 if level == "fail" else 0)
    assert what in found[check, level]
    if level == "warn" or check not in ("bluetoothd", "sensors"):
        assert list(found) == [(check, level)]  # and nothing else


def test_an_adapter_that_was_asked_for_must_be_there_and_on(clinic: Clinic) -> None:
    code, _, err = clinic.tool("--adapter", "00:1A:7D:00:00:02", "doctor")
    assert (code, "there is no 00:1A:7D:00:00:02; choose one of: hci0 B8:27:EB:00:00:01" in err) == (1, True)
    _one_off(clinic)
    code, _, err = clinic.tool("--adapter", "00:1A:7D:00:00:02", "doctor")
    assert (code, "hci1 00:1A:7D:00:00:02 is off" in err) == (1, True)


def test_other_people_s_devices_are_none_of_its_business(clinic: Clinic) -> None:
    headset = Device("00:11:22:33:44:55", True, True, {"Name": "Headset", "UUIDs": [PHONES]})
    clinic.bluez.known = [*clinic.bluez.known, headset]
    assert clinic.examine(0) == {}


def test_a_link_that_affectd_has_is_not_stale(clinic: Clinic, tmp_path: Path) -> None:
    _stale(clinic)
    clinic.tool.socket = tmp_path / "live"
    sensors = [{"address": STRAP, "link": {"state": "streaming"}}]

    async def beside(work: Any) -> Any:
        async with Control(lambda: {"sensors": sensors}, []).listening(tmp_path / "live"):
            return await work

    clinic.tool.run = lambda work: asyncio.run(beside(work))
    assert clinic.examine(0) == {}
    sensors[0]["link"] = {"state": "waiting"}
    assert ("links", "warn") in clinic.examine(0)


def test_the_version_comes_from_the_tools_where_the_adapter_hides_it(clinic: Clinic) -> None:
    _hidden(clinic)
    clinic.printed["bluetoothctl"] = "bluetoothctl: 5.87\n"
    assert "5.87: bluetoothd crashes" in clinic.examine(0)["BlueZ", "warn"]


def test_a_bus_that_goes_away_meanwhile_is_a_finding(clinic: Clinic) -> None:
    class Dying(Bluez):
        async def devices(self, address: str | None = None) -> Sequence[Device]:
            raise RadioError("D-Bus", RadioFault.NO_BLUEZ, "the system bus is lost")

    clinic.bluez = Dying()
    assert "D-Bus: the system bus is lost" in clinic.examine(1)["D-Bus", "fail"]


def test_simulated_sensors_have_no_doctor(clinic: Clinic) -> None:
    assert "leave --simulate away" in clinic.tool.fails("--simulate", "doctor")


# -- versions, commands


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("5.66", (5, 66)),
        ("5.66-1+deb12u2", (5, 66)),
        (" 5.8 ", (5, 8)),
        ("5.79.1", (5, 79)),
        ("", None),
        ("six.", None),
    ],
)
def test_versions_are_numbers(text: str, version: tuple[int, int] | None) -> None:
    assert parse(text) == version


@given(st.text(max_size=12))
def test_no_text_is_a_version_by_mistake(text: str) -> None:
    version = parse(text)
    assert version is None or version[0] >= 0


def test_every_bug_is_of_some_version() -> None:
    assert all(bug in bugs_of(bug.first) and bug in bugs_of(bug.last) for bug in BUGS)
    assert not any("AcquireNotify" in bug.what for bug in bugs_of((5, 86)))


def test_commands_and_groups_of_this_machine() -> None:
    async def scene() -> list[str | None]:
        return [await run_command(it) for it in (["echo", "5.66"], ["false"], ["/no/such/program"])]

    assert asyncio.run(scene()) == ["5.66\n", None, None]
    assert own_groups() <= frozenset(Path("/etc/group").read_text().replace("\n", ":").split(":"))
