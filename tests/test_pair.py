from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bleak.exc import BleakDBusError, BleakError

from firmware_bridge import registry
from firmware_bridge.codecs import heart_rate, open_eda, polar_pmd
from firmware_bridge.pair import cli
from firmware_bridge.pair.scan import (
    SERIAL_UUID,
    Client,
    Device,
    Radio,
    RadioError,
    clean,
    identify,
    recognise,
    scan,
)
from firmware_bridge.registry import Sensor

STRAP, WRIST, PHONE = "A0:9E:1A:00:00:01", "C0:FF:EE:00:00:02", "11:22:33:44:55:66"
H10_FEATURES = bytes.fromhex("0F 05 00")


@dataclass(frozen=True)
class Advertised:
    address: str
    local_name: str | None
    rssi: int
    service_uuids: list[str]


@dataclass(frozen=True)
class Offered:
    uuid: str


@dataclass(frozen=True)
class Peripheral:
    """A scripted sensor: what it advertises, and the value of each characteristic (an exception is raised)."""

    advertised: Advertised
    services: Iterable[Offered] = ()
    values: Mapping[str, bytes | Exception] = field(default_factory=dict)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def read_gatt_char(self, char_specifier: str, /) -> bytearray:
        value = self.values.get(char_specifier, BleakError(f"Characteristic {char_specifier} was not found!"))
        if isinstance(value, Exception):
            raise value
        return bytearray(value)


def radio_of(*peripherals: Peripheral) -> Radio:
    by_address = {it.advertised.address: it for it in peripherals}

    async def discover(_seconds: float) -> Mapping[str, tuple[Device, Advertised]]:
        return {address: (it.advertised, it.advertised) for address, it in by_address.items()}

    async def find(address: str, _seconds: float) -> Device | None:
        return by_address[address].advertised if address in by_address else None

    return Radio(discover, find, lambda device, _seconds: by_address[device.address], (BleakError,))


def failing(error: Exception) -> Radio:
    async def fail(*_: object) -> None:
        raise error

    return Radio(fail, fail, lambda *_: Peripheral(Advertised(STRAP, None, 0, [])), (BleakError,))  # type: ignore[arg-type]


def h10(**values: bytes | Exception) -> Peripheral:
    return Peripheral(
        Advertised(STRAP, "Polar H10 0A1B2C3D", -61, [heart_rate.SERVICE_UUID]),
        [Offered(heart_rate.SERVICE_UUID), Offered(polar_pmd.SERVICE_UUID)],
        {
            polar_pmd.CONTROL_UUID: values.get("features", H10_FEATURES),
            SERIAL_UUID: values.get("serial", b"0A1B2C3D\x00"),
        },
    )


def wrist(unit: open_eda.Unit = open_eda.Unit.NANOSIEMENS) -> Peripheral:
    return Peripheral(
        Advertised(WRIST, None, -72, [open_eda.SERVICE_UUID.upper()]),
        [Offered(open_eda.SERVICE_UUID)],
        {open_eda.INFO_UUID: bytes(open_eda.Info(boot_id=1, unit=unit))},
    )


H9 = Peripheral(Advertised(STRAP, "Polar H9 0A1B", -50, [heart_rate.SERVICE_UUID]), [Offered(heart_rate.SERVICE_UUID)])
HOSTILE = Peripheral(Advertised(PHONE, "\x1b[31m[red]evil[/]\r\nPolar H10\u202e" + "A" * 200, -30, []))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sensors.toml"


def run(path: Path, *args: str, radio: Radio | None = None) -> None:
    cli.main(["--file", str(path), *args], radio)


def refused(capsys: pytest.CaptureFixture[str], path: Path, *args: str, radio: Radio | None = None) -> str:
    """Run what must fail: exit code 2, nothing on stdout, one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as stopped:
        run(path, *args, radio=radio)
    out, err = capsys.readouterr()
    assert (stopped.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("affectd-pair: ")
    return err


# -- scan


def test_scan_shows_what_is_usable_first_then_the_nearest() -> None:
    other = Peripheral(Advertised("22:22:22:22:22:22", "TICKR", -20, [heart_rate.SERVICE_UUID]))
    found = asyncio.run(scan(1.0, radio_of(HOSTILE, other, wrist(), h10())))
    assert [(it.address, it.kind.protocol) for it in found] == [
        (STRAP, "polar-pmd-ecg"),
        (WRIST, "open-eda"),
        ("22:22:22:22:22:22", None),
        (PHONE, None),
    ]


@pytest.mark.parametrize(
    ("name", "services", "protocol", "use"),
    [
        ("Polar H10 0A1B2C3D", [], "polar-pmd-ecg", "ECG 130 Hz"),
        ("Polar H9 0A1B", [heart_rate.SERVICE_UUID], None, "no ECG"),
        ("Movesense 2222", [heart_rate.SERVICE_UUID], None, "not supported"),
        ("", [open_eda.SERVICE_UUID.upper()], "open-eda", "EDA"),
        ("Sense", [polar_pmd.SERVICE_UUID], "polar-pmd-ecg", "if it has any"),
        ("TICKR", [heart_rate.SERVICE_UUID], None, "RR intervals only"),
        ("My Polar H10", [], None, ""),
    ],
)
def test_recognise(name: str, services: list[str], protocol: str | None, use: str) -> None:
    kind = recognise(name, services)
    assert kind.protocol == protocol
    assert use in kind.use
    assert bool(kind.use) == bool(use)


def test_a_hostile_name_reaches_the_terminal_as_plain_text(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    run(path, "scan", "--seconds", "1", radio=radio_of(HOSTILE))
    out = capsys.readouterr().out
    assert not {"\x1b", "\r", "\u202e"} & set(out)
    assert "[red]" in out.replace("\n", "")  # shown, not obeyed
    assert "A" * 50 not in clean(HOSTILE.advertised.local_name or "")


def test_scan_as_json(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    run(path, "scan", "--seconds", "1", "--json", radio=radio_of(h10()))
    assert json.loads(capsys.readouterr().out) == [
        {
            "address": STRAP,
            "name": "Polar H10 0A1B2C3D",
            "rssi": -61,
            "what": "Polar H10 chest strap",
            "use": "ECG 130 Hz",
            "protocol": "polar-pmd-ecg",
        }
    ]


def test_scan_that_hears_nothing_says_what_to_do(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    run(path, "scan", "--seconds", "1", radio=radio_of())
    assert "Wear the sensor" in capsys.readouterr().out


# -- add, list, remove


def test_add_list_remove(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    radio = radio_of(h10(), wrist())
    run(path, "add", STRAP.lower(), "--role", "ecg", "--name", "strap", radio=radio)
    run(path, "add", WRIST, "--role", "eda", radio=radio)
    assert registry.read(path) == (
        Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", "0A1B2C3D"),
        Sensor("eda", "eda", WRIST, "open-eda", None),
    )
    capsys.readouterr()
    run(path, "list")
    assert {"strap", STRAP, WRIST} <= set(capsys.readouterr().out.split())
    run(path, "list", "--json")
    assert [it["address"] for it in json.loads(capsys.readouterr().out)] == [STRAP, WRIST]
    run(path, "remove", "strap")
    run(path, "remove", WRIST.lower())
    assert registry.read(path) == ()
    capsys.readouterr()
    run(path, "list")
    assert "affectd-pair scan" in capsys.readouterr().out


def test_add_refuses_what_is_taken_before_it_asks_the_radio(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    registry.write(path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg")])
    for address, role, name, taken in (
        (WRIST, "ecg", "b", "role 'ecg'"),
        (STRAP, "eda", "b", f"address '{STRAP}'"),
        (WRIST, "eda", "strap", "name 'strap'"),
    ):
        line = refused(capsys, path, "add", address, "--role", role, "--name", name, radio=failing(AssertionError()))
        assert f"{taken} is taken by 'strap'" in line
        assert f"`affectd-pair remove {STRAP}` first" in line


@pytest.mark.parametrize(
    ("peripheral", "role", "reason"),
    [
        (h10(), "eda", f"{STRAP}: gives ecg, not eda; add it with --role ecg"),
        (H9, "ecg", "offers heart rate, but no ECG or EDA"),
        (HOSTILE, "ecg", "offers neither ECG nor EDA"),
        (h10(features=bytes.fromhex("0F 06")), "ecg", "features 0x06: expected bit 0 (ECG)"),
        (h10(features=b""), "ecg", "byte 0 of 0: too short"),
        (
            h10(features=BleakDBusError("org.bluez.Error.NotPermitted", ["Insufficient encryption"])),
            "ecg",
            "pair it first",
        ),
        (wrist(unit=open_eda.Unit.OHM), "eda", "unit 1 (ohm)"),
    ],
)
def test_add_refuses_a_sensor_it_cannot_use(
    capsys: pytest.CaptureFixture[str], path: Path, peripheral: Peripheral, role: str, reason: str
) -> None:
    line = refused(capsys, path, "add", peripheral.advertised.address, "--role", role, radio=radio_of(peripheral))
    assert reason in line
    assert not path.exists()


def test_add_of_a_sensor_that_is_not_heard(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    assert f"{STRAP}: not heard within 15 s; wear it" in refused(
        capsys, path, "add", STRAP, "--role", "ecg", radio=radio_of()
    )


@pytest.mark.parametrize("serial", [BleakError("gone"), b"", b"\x00\x00"])
def test_a_sensor_without_serial_number_did_not_say(serial: bytes | Exception) -> None:
    assert asyncio.run(identify(STRAP, radio_of(h10(serial=serial)))).serial is None


def test_a_serial_number_is_not_trusted() -> None:
    assert asyncio.run(identify(STRAP, radio_of(h10(serial=b"\x1b[2J\xff12")))).serial == "[2J\ufffd12"


def test_remove_of_an_unknown_sensor(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    assert "none is called 'x'; `affectd-pair list` shows them" in refused(capsys, path, "remove", "x")


def test_a_broken_registry_is_one_line(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    path.write_text("sensor = 1\n")
    assert f"{path}: sensor: Expected `array`" in refused(capsys, path, "list")


# -- no radio


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError(2, "No such file or directory"), "systemctl start dbus bluetooth"),
        (TimeoutError(), "systemctl restart bluetooth"),
        (BleakError("No Bluetooth adapters found."), "plug in a Bluetooth adapter"),
        (BleakDBusError("org.bluez.Error.NotReady", ["Resource Not Ready"]), "bluetoothctl power on"),
        (BleakDBusError("org.freedesktop.DBus.Error.ServiceUnknown", ["org.bluez"]), "install BlueZ"),
        (BleakDBusError("org.freedesktop.DBus.Error.AccessDenied", ["rules"]), "group `bluetooth`"),
        (BleakDBusError("org.bluez.Error.InProgress", []), f"bluetoothctl disconnect {STRAP}"),
        (BleakError("two\nlines \x1b[31m"), "try again"),
        (BleakError(), "BleakError; bring it close"),
    ],
)
def test_a_radio_that_fails_is_one_line_with_a_remedy(
    capsys: pytest.CaptureFixture[str], path: Path, error: Exception, remedy: str
) -> None:
    assert remedy in refused(capsys, path, "add", STRAP, "--role", "ecg", radio=failing(error))
    assert "\x1b" not in refused(capsys, path, "scan", "--seconds", "1", radio=failing(error))


def test_a_defect_of_our_own_is_not_dressed_up_as_a_radio_error() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(scan(1.0, failing(ZeroDivisionError())))


def _tool(*args: str, setup: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    script = f"{setup}\nfrom firmware_bridge.pair.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_without_dbus_the_real_radio_is_one_line(tmp_path: Path) -> None:
    done = _tool("scan", "--seconds", "1", DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={tmp_path}/none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("affectd-pair: scan: no D-Bus (")
    assert done.stderr.count("\n") == 1


def test_without_bleak_the_tool_says_how_to_install_it() -> None:
    done = _tool("scan", setup="import sys; sys.modules['bleak'] = None")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'affectd[device]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_needs_no_radio_does_not_load_bleak(tmp_path: Path) -> None:
    check = "import sys, atexit; atexit.register(lambda: print('bleak' in sys.modules))"
    done = _tool("--file", str(tmp_path / "none.toml"), "list", setup=check)
    assert done.returncode == 0
    assert done.stdout.endswith("False\n")


# -- the command line itself


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["pair"], "No such command 'pair'"),
        (["scan", "--seconds", "soon"], "'soon' is not a valid float range"),
        (["scan", "--seconds", "0"], "'--seconds'"),
        (["add", STRAP], "Missing option '--role'"),
        (["add", STRAP, "--role", "emg"], "'emg' is not one of"),
        (["add", "polar", "--role", "ecg"], "'polar': expected six pairs like A0:9E:1A:00:00:01"),
    ],
)
def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str], path: Path, args: list[str], reason: str) -> None:
    assert reason in refused(capsys, path, *args, radio=failing(AssertionError()))


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out.startswith("affectd-pair")
    cli.main(["add", "--help"])
    assert "--role" in capsys.readouterr().out


def test_an_error_never_spans_lines(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    async def hostile(_seconds: float) -> Mapping[str, tuple[Device, Advertised]]:
        raise RadioError("one\ntwo\x1b[31m")

    radio = Radio(hostile, radio_of().find, radio_of().connect)
    assert refused(capsys, path, "scan", radio=radio) == "affectd-pair: one two[31m\n"
