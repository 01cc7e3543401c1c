"""affectd-pair: scan, list, rename, remove, and the command line itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_fakes import GOOD, H9, HOSTILE, PHONE, STRAP, WRIST, FakeRadio, FakeSensor, Tool, assess_as, h10, wrist
from virtual_time import run_virtual

from firmware_bridge import registry
from firmware_bridge.codecs import heart_rate, open_eda, polar_pmd
from firmware_bridge.errors import RadioError, RadioFault
from firmware_bridge.pair import cli
from firmware_bridge.pair.kinds import UNKNOWN, recognise
from firmware_bridge.pair.outside import Outside
from firmware_bridge.pair.scan import MAX_DEVICES, Survey, scan
from firmware_bridge.pair.show import survey_table
from firmware_bridge.pair.text import NAME_LENGTH, clean
from firmware_bridge.protocols import PROTOCOLS
from firmware_bridge.radio.types import Advertisement
from firmware_bridge.registry import Sensor


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(tmp_path / "sensors.toml", capsys)


# -- what a scan makes of what it hears


def test_scan_shows_what_is_usable_first_then_the_nearest() -> None:
    other = FakeSensor("22:22:22:22:22:22", "TICKR", (heart_rate.SERVICE_UUID,), rssi=-20)
    survey = run_virtual(scan(FakeRadio(HOSTILE, other, wrist(), h10()), 1.0))
    assert [it.address for it in survey.sorted()] == [STRAP, WRIST, other.address, PHONE]


@pytest.mark.parametrize(
    ("name", "services", "protocol", "use", "basis"),
    [
        ("Polar H10 0A1B2C3D", [], "polar-pmd-ecg", "ECG 130 Hz", "capture"),
        ("Polar H9 0A1B", [heart_rate.SERVICE_UUID], None, "nothing: RR intervals only, no ECG", None),
        ("", [open_eda.SERVICE_UUID.upper()], "open-eda", "EDA 8 Hz", "specification"),
        ("other", [polar_pmd.SERVICE_UUID], "polar-pmd-ecg", "ECG 130 Hz", "capture"),
        ("TICKR", [heart_rate.SERVICE_UUID], None, "nothing: RR intervals only, no ECG", None),
        ("Empatica E4", [], None, "nothing: its protocol is not open", None),
        ("phone", ["0000fee0-0000-1000-8000-00805f9b34fb"], None, "", None),
    ],
)
def test_recognise(name: str, services: list[str], protocol: str | None, use: str, basis: str | None) -> None:
    kind = recognise(name, services)
    assert (next(iter(kind.protocols), None), kind.use, kind.basis) == (protocol, use, basis)


def test_a_service_without_the_name_leaves_a_doubt() -> None:
    assert recognise("other", [polar_pmd.SERVICE_UUID]).what == "perhaps Polar H10 chest strap"
    assert recognise("", [open_eda.SERVICE_UUID]).what == "open EDA sensor"  # nobody else has that service


@pytest.mark.parametrize("codec", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_codec_is_recognised_by_its_names_and_by_its_service(codec) -> None:  # type: ignore[no-untyped-def]
    for name in codec.names:
        assert codec.protocol in recognise(name + "1234", []).protocols
    by_service = recognise("", [codec.service_uuid]).protocols
    assert (codec.protocol in by_service) == codec.service_tells


def test_a_later_advertisement_adds_what_an_earlier_did_not_say() -> None:
    survey = Survey()
    survey.hear(Advertisement(STRAP, "Polar H10 1", -60), 1.0)
    survey.hear(Advertisement(STRAP, "", -70, (heart_rate.SERVICE_UUID,)), 2.0)
    (found,) = survey.sorted()
    assert (found.name, found.rssi, found.heard_s) == ("Polar H10 1", -70, 2.0)
    assert found.services == {heart_rate.SERVICE_UUID}


# -- hostile advertisements

texts = st.text(st.characters(), max_size=60) | st.sampled_from(
    [
        "\x1b]0;owned\x07",
        "\u202eevil",
        "\u05d0\u05d1\u0661",
        "a" + "\u0301" * 200,
        "[red]x[/]",
        "\ud800",
        "\x9b31m",
        "{}%s",
    ]
)
advertisements = st.builds(
    Advertisement,
    address=texts | st.sampled_from([STRAP, WRIST]),
    name=texts,
    rssi=st.integers(-(2**15), 2**15),
    service_uuids=st.lists(texts | st.sampled_from([c.service_uuid for c in PROTOCOLS.values()]), max_size=40).map(
        tuple
    ),
)


@settings(max_examples=200)
@given(st.lists(advertisements, max_size=10))
def test_whatever_is_advertised_can_be_shown(heard: list[Advertisement]) -> None:
    survey = Survey()
    for number, it in enumerate(heard):
        survey.hear(it, float(number))
    for found in survey.sorted():
        assert found.name.isprintable()
        assert len(found.name) <= NAME_LENGTH
    survey_table(survey.sorted(), [], 100.0)


@given(texts)
def test_clean_text_stays_clean_and_fits_a_line(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert clean(text).isprintable()
    clean(text).encode()


def test_clean_keeps_what_is_readable() -> None:
    assert clean("Polar H10 \u00dc 0A1B\x00\x1b[31m") == "Polar H10 \u00dc 0A1B[31m"
    assert clean("a\u05d0b\u202e") == "a\\u05d0b"
    assert len(clean("x" * 10_000)) == NAME_LENGTH


def _made_up(n: int) -> Iterator[Advertisement]:
    for number in range(n):
        yield Advertisement(number.to_bytes(6, "big").hex(":").upper(), "Polar H10 evil" if number % 2 else "x", -10)


def test_made_up_addresses_fill_no_memory_and_a_sensor_that_goes_on_advertising_stays() -> None:
    survey = Survey()
    for number, it in enumerate(_made_up(20_000)):
        survey.hear(it, number)
        if number % 100 == 0:
            survey.hear(Advertisement(STRAP, "Polar H10 1", -60), number)
    assert len(survey.sorted()) == MAX_DEVICES
    assert survey.of(STRAP) is not None
    assert survey.left_out == 20_001 - MAX_DEVICES


def test_what_is_of_no_use_makes_room_first() -> None:
    survey = Survey()
    survey.hear(Advertisement(STRAP, "Polar H10 1", -60), 0.0)
    for it in _made_up(2 * MAX_DEVICES):
        survey.hear(replace(it, name="x"), 1.0)
    assert survey.of(STRAP) is not None  # heard once, long ago


def test_a_flood_does_not_keep_a_scan_from_ending() -> None:
    def flood() -> Iterator[Advertisement]:
        while True:
            yield Advertisement(PHONE, "x", -10)

    async def scenario() -> int:
        radio = FakeRadio()
        radio.extra = flood()
        return len((await scan(radio, 0.05)).sorted())

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == 1  # in real time: a virtual clock stands still in a flood


def test_scan_prints_hostile_names_harmlessly(tool: Tool) -> None:
    tool.radio = FakeRadio(HOSTILE, h10())
    code, out, _ = tool("scan", "--seconds", "1")
    assert code == 0
    assert not {"\x1b", "\r", "\u202e"} & set(out)
    assert "[red]" in "".join(out.split())  # shown, not obeyed
    assert "A" * 50 not in clean(HOSTILE.name)


def test_scan_as_json(tool: Tool) -> None:
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg")])
    tool.radio = FakeRadio(h10())
    assert tool.json("scan", "--seconds", "1") == [
        {
            "address": STRAP,
            "name": "Polar H10 0A1B2C3D",
            "rssi": -60,
            "what": "Polar H10 chest strap",
            "use": "ECG 130 Hz",
            "protocols": ["polar-pmd-ecg"],
            "basis": "capture",
            "added_as": "strap (ecg)",
        }
    ]


def test_scan_says_what_was_added_and_what_was_left_out(tool: Tool) -> None:
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg")])
    tool.radio = FakeRadio(h10())
    tool.radio.extra = _made_up(MAX_DEVICES + 10)
    _, out, err = tool("scan", "--seconds", "1")
    assert "strap (ecg)" in " ".join(out.split())
    assert "11 devices more were heard and left out" in err


def test_scan_that_hears_nothing_says_what_to_do(tool: Tool) -> None:
    _, out, _ = tool("scan", "--seconds", "1")
    assert "Wear the sensor" in out


def test_unknown_is_no_use() -> None:
    assert not UNKNOWN.usable
    assert not H9.secure


# -- list, rename, remove


def test_list_rename_remove(tool: Tool) -> None:
    strap = h10(bonded=True)
    tool.radio = FakeRadio(strap)
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", "1", 131.0, True)])
    _, out, _ = tool("list")
    assert {STRAP, "strap", "131", "yes"} <= set(out.split())
    assert tool.json("rename", STRAP.lower(), "chest")["name"] == "chest"
    assert tool.json("list")[0] == {
        "role": "ecg",
        "name": "chest",
        "address": STRAP,
        "protocol": "polar-pmd-ecg",
        "serial": "1",
        "sfreq": 131.0,
        "bonded": True,
    }
    assert tool.json("remove", "chest") == {"address": STRAP, "name": "chest", "bond_dropped": True}
    assert not strap.bonded
    assert registry.read(tool.path) == ()
    _, out, _ = tool("list")
    assert "affectd-pair scan" in out


def test_remove_can_leave_the_bond_and_the_radio_alone(tool: Tool) -> None:
    strap = h10(bonded=True)
    tool.radio = FakeRadio(strap)
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", bonded=True)])
    assert not tool.json("remove", "strap", "--keep-bond")["bond_dropped"]
    assert (strap.bonded, tool.opened) == (True, [])


def test_a_sensor_without_a_bond_is_removed_without_the_radio(tool: Tool) -> None:
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg")])
    assert not tool.json("remove", "strap")["bond_dropped"]
    assert tool.opened == []


def test_remove_of_an_address_that_was_never_added_drops_its_bond(tool: Tool) -> None:
    strap = h10(bonded=True)
    tool.radio = FakeRadio(strap)
    assert tool.json("remove", STRAP.lower()) == {"address": STRAP, "name": "", "bond_dropped": True}
    assert not strap.bonded


def test_a_bond_that_cannot_be_dropped_keeps_the_sensor(tool: Tool) -> None:
    """Else a bond would be left that nobody knows of."""
    sensor = Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", bonded=True)
    registry.write(tool.path, [sensor])
    tool.radio = NoBlueZ()
    assert "no system bus" in tool.fails("remove", "strap")
    assert registry.read(tool.path) == (sensor,)


class NoBlueZ(FakeRadio):
    async def bonded(self, address: str) -> bool:
        raise RadioError("D-Bus", RadioFault.NO_BLUEZ, "no system bus")


def test_names_that_lead_nowhere(tool: Tool) -> None:
    for command in (("remove", "x"), ("rename", "x", "y"), ("test", "x")):
        assert "none is called 'x'; `affectd-pair list` shows them" in tool.fails(*command)
    registry.write(tool.path, [Sensor("ecg", "a", STRAP, "polar-pmd-ecg"), Sensor("eda", "b", WRIST, "open-eda")])
    assert "2 sensors with name 'a'; keep one of them" in tool.fails("rename", "b", "a")
    assert "expected printable text; choose another name" in tool.fails("rename", "b", "\x1b")


def test_a_broken_registry_is_one_line(tool: Tool) -> None:
    tool.path.write_text("sensor = 1\n")
    assert f"{tool.path}: sensor: Expected `array`" in tool.fails("list")


# -- the command line itself


def test_a_radio_that_fails_is_one_line_with_a_remedy(tool: Tool) -> None:
    tool.radio = FakeRadio(fails=RadioError("hci0", RadioFault.POWERED_OFF, "two\nlines \x1b[31m"))
    for command in (("scan", "--seconds", "1"), ("add", STRAP, "--yes"), ("add", "Polar", "--yes")):
        line = tool.fails(*command)
        assert "two lines [31m; `rfkill unblock bluetooth`" in line
    assert tool.radio.closed == 3


def test_the_adapter_is_chosen_by_address(tool: Tool) -> None:
    tool("--adapter", "b8:27:eb:00:00:01", "scan", "--seconds", "1")
    assert tool.opened == ["B8:27:EB:00:00:01"]
    assert "'hci0': expected an adapter's address" in tool.fails("--adapter", "hci0", "scan")


def test_a_defect_of_our_own_is_not_dressed_up_as_an_error_of_the_user(tool: Tool) -> None:
    tool.radio = FakeRadio(fails=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        tool("scan", "--seconds", "1")


def _tool(*args: str, setup: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    script = f"{setup}\nfrom device.pair import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_without_dbus_the_real_radio_is_one_line(tmp_path: Path) -> None:
    done = _tool("scan", "--seconds", "1", DBUS_SYSTEM_BUS_ADDRESS=f"unix:path={tmp_path}/none")
    assert (done.returncode, done.stdout) == (2, "")
    assert "install BlueZ" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_bleak_the_tool_says_how_to_install_it() -> None:
    done = _tool("scan", setup="import sys; sys.modules['bleak'] = None")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'affectd[device]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_needs_no_radio_does_not_load_bleak(tmp_path: Path) -> None:
    check = "import sys, atexit; atexit.register(lambda: print([m for m in ('bleak', 'bumble') if m in sys.modules]))"
    done = _tool("--file", str(tmp_path / "none.toml"), "list", setup=check)
    assert done.returncode == 0
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["pair"], "No such command 'pair'"),
        (["scan", "--seconds", "soon"], "'soon' is not a valid float range"),
        (["scan", "--seconds", "0"], "'--seconds'"),
        (["add", STRAP, "--role", "emg"], "'emg' is not one of"),
        (["add", STRAP, "--passkey", "1234567"], "'--passkey'"),
    ],
)
def test_wrong_usage_is_one_line(tool: Tool, args: list[str], reason: str) -> None:
    assert reason in tool.fails(*args)
    assert tool.opened == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    outside = Outside(assess_as(GOOD))
    cli.main(["--version"], outside=outside)
    assert capsys.readouterr().out.startswith("affectd-pair")
    for command in ("scan", "add", "list", "test", "rename", "remove", "doctor", "sensors"):
        cli.main([command, "--help"], outside=outside)
        assert "--json" in capsys.readouterr().out


def test_simulated_sensors_need_no_radio_and_keep_no_file(tmp_path: Path) -> None:
    done = _tool("--simulate", "add", "Polar H10", "--yes", "--json", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["protocol"] == "polar-pmd-ecg"
    assert list(tmp_path.iterdir()) == []
