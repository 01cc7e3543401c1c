"""affectd-pair add: it adds the right sensor whole, or nothing of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from pair_fakes import (
    GOOD,
    H9,
    HANG,
    HOSTILE,
    PHONE,
    STRAP,
    WRIST,
    FakePerson,
    FakeRadio,
    FakeSensor,
    Tool,
    h10,
    wrist,
)
from virtual_time import run_virtual

from firmware_bridge import registry
from firmware_bridge.codec import Codec
from firmware_bridge.codecs import heart_rate, nervous, open_eda, polar_pmd
from firmware_bridge.errors import ExchangeError, RadioError, RadioFault
from firmware_bridge.exchange import Read, Refusal, Rule, Subscribe
from firmware_bridge.pair.assess import Report
from firmware_bridge.pair.errors import PairError
from firmware_bridge.pair.identify import candidates, started
from firmware_bridge.pair.link import SERIAL_UUID, linked
from firmware_bridge.registry import Sensor

UNPAIRED = RadioError(STRAP, RadioFault.AUTHENTICATION, "Authentication Failed")


@pytest.fixture
def tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(tmp_path / "sensors.toml", capsys)


def test_a_strap_is_added_when_the_person_knows_the_pulse(tool: Tool) -> None:
    strap = h10(pulse=72)
    tool.radio, tool.person = FakeRadio(strap, wrist()), FakePerson("y")
    record = tool.json("add", STRAP.lower(), "--role", "ecg", "--name", "strap")
    assert registry.read(tool.path) == (Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", "0A1B2C3D", None, True),)
    assert record["proof"] == {"by": "pulse", "note": "heart rate 72/min by the strap, 72/min from its ECG"}
    assert record["battery"] == 87
    assert tool.person.asked == ["Is this your pulse? [y/n]"]
    assert strap.events == ["pair", "start", "stop", "disconnect"]
    assert (tool.radio.agents_for, tool.radio.agents, tool.radio.closed) == ([STRAP], [], 1)


def test_a_wristband_is_added_when_its_electrodes_feel_the_touch(tool: Tool) -> None:
    band = wrist([3.0] * 10 + [0.0] * 10 + [2.5] * 10)
    tool.radio, tool.person = FakeRadio(band, h10()), FakePerson(there=True)
    code, out, _ = tool("add", WRIST)
    assert code == 0
    assert registry.read(tool.path) == (Sensor("eda", "eda", WRIST, "open-eda", None, None, True),)
    assert "Whose it is: 0.00 uS released, 2.50 uS touched." in out
    assert tool.radio.held == [False, True]
    asked = [text.partition("- ")[2] for text in tool.person.shown if text]
    assert list(dict.fromkeys(asked)) == ["let go of the electrodes", "touch the electrodes now"]


@pytest.mark.parametrize(
    ("sensor", "person", "report", "reason"),
    [
        (h10(), FakePerson("what?", "n"), GOOD, "not your pulse; another sensor near may be yours"),
        (h10(), FakePerson(there=True), Report(), "no heart beat found within 60 s; moisten the electrodes"),
        (wrist([0.0] * 500), FakePerson(there=True), GOOD, "no step in conductance within 60 s (0.00 uS)"),
        (wrist([4.0] * 500), FakePerson(there=True), GOOD, "no step in conductance within 60 s (4.00 uS)"),
    ],
)
def test_a_sensor_that_is_not_proven_leaves_nothing(
    tool: Tool, sensor: FakeSensor, person: FakePerson, report: Report, reason: str
) -> None:
    tool.radio, tool.person, tool.report = FakeRadio(sensor), person, report
    assert reason in tool.fails("add", sensor.address, code=1)
    assert not tool.path.exists()
    assert sensor.events == ["pair", "start", "stop", "disconnect", "forget"]
    assert not sensor.bonded
    assert person.said[-1] == f"{sensor.address}: nothing was kept, no bond either."


def test_yes_asks_nothing_and_says_so(tool: Tool) -> None:
    tool.radio = FakeRadio(h10())
    record = tool.json("add", STRAP, "--yes")
    assert record["proof"]["by"] == "signal"
    assert "nobody was asked whose it is (--yes)" in record["proof"]["note"]


def test_no_proof_does_not_wait_for_a_signal(tool: Tool) -> None:
    tool.radio = FakeRadio(h10(stream=tuple))
    assert tool.json("add", STRAP, "--no-proof")["proof"]["by"] == "nothing"


def test_a_stream_that_never_comes_is_no_sensor(tool: Tool) -> None:
    strap = h10(stream=tuple)
    tool.radio = FakeRadio(strap)
    assert "the stream of polar-pmd-ecg: no answer within 35 s" in tool.fails("add", STRAP, "--yes")
    assert strap.events[-3:] == ["stop", "disconnect", "forget"]


def test_frames_of_another_vendor_on_the_same_uuid_are_refused(tool: Tool) -> None:
    tool.radio = FakeRadio(wrist(stream=lambda: [b"\xff\x00garbage"] * 100))
    assert "sends nothing that open-eda can read; another vendor may use" in tool.fails("add", WRIST, "--yes")
    assert not tool.path.exists()


def test_without_a_terminal_nothing_is_touched_before_it_is_said(tool: Tool) -> None:
    tool.radio = FakeRadio(h10())
    assert "no terminal to ask at whose signal it is; run it in one, or with --yes" in tool.fails("add", STRAP)
    assert "no terminal to choose at" in tool.fails("add", "--yes")
    assert (tool.radio.scans, tool.radio.sensors[STRAP].events) == (0, [])


# -- identification


@pytest.mark.parametrize(
    ("sensor", "args", "reason"),
    [
        (h10(), ("--role", "eda"), f"{STRAP}: gives ecg, not eda; add it with --role ecg"),
        (H9, (), "offers heart rate, but no ECG or EDA"),
        (HOSTILE, (), "offers neither ECG nor EDA that affectd can read; `affectd-pair sensors`"),
        (h10(values={polar_pmd.CONTROL_UUID: b"\x0f\x06"}), (), "has PMD, but no ECG"),
        (h10(values={polar_pmd.CONTROL_UUID: b""}), (), "byte 0 of 0: too short"),
        (h10(values={polar_pmd.CONTROL_UUID: HANG}), (), "no answer to 'features' within 10 s"),
        (wrist(info=bytes(open_eda.Info(boot_id=1, unit=open_eda.Unit.OHM))), (), "unit 1 (ohm)"),
        (h10(drops_after_s=2.0, pairs=HANG), (), f"{STRAP}: the link ended; bring it close"),
        (h10(pairs=HANG), (), f"{STRAP}: pairing: no answer within 60 s"),
        (h10(pairs=UNPAIRED), (), "Authentication Failed; pair it again"),
        (h10(connectable=RadioError(STRAP, RadioFault.IN_PROGRESS, "busy")), (), "busy; another program uses"),
    ],
)
def test_a_sensor_that_cannot_be_used_is_refused(
    tool: Tool, sensor: FakeSensor, args: tuple[str, ...], reason: str
) -> None:
    sensor.events.clear()
    tool.radio = FakeRadio(sensor)
    assert reason in tool.fails("add", sensor.address, "--yes", *args)
    assert not tool.path.exists()
    assert not sensor.bonded
    assert sensor.events.count("start") <= sensor.events.count("stop")


def test_a_sensor_that_is_not_heard(tool: Tool) -> None:
    tool.radio = FakeRadio()
    assert f"{STRAP}: not heard within 45 s; wear it" in tool.fails("add", STRAP, "--yes")


@pytest.mark.parametrize("serial", [UNPAIRED, HANG, b"", b"\x00\x00"])
def test_a_sensor_without_serial_number_did_not_say(tool: Tool, serial: object) -> None:
    tool.radio = FakeRadio(h10(values={polar_pmd.CONTROL_UUID: b"\x0f\x01", SERIAL_UUID: serial}))
    assert tool.json("add", STRAP, "--yes")["serial"] is None


def test_a_serial_number_is_not_trusted(tool: Tool) -> None:
    tool.radio = FakeRadio(h10(values={polar_pmd.CONTROL_UUID: b"\x0f\x01", SERIAL_UUID: b"\x1b[2J\xff12"}))
    assert tool.json("add", STRAP, "--yes")["serial"] == "[2J\ufffd12"


def test_a_rate_of_its_own_is_shown_and_kept(tool: Tool) -> None:
    tool.radio = FakeRadio(wrist(info=bytes(open_eda.Info(boot_id=1, rate_mhz=4000))))
    _, out, _ = tool("add", WRIST, "--yes")
    assert "It runs at 4 Hz, others of its kind at 8 Hz; kept as it is." in out
    assert registry.read(tool.path)[0].sfreq == 4.0


def test_of_several_that_share_a_service_the_one_it_answers_to_is_taken() -> None:
    """A Nordic UART may be anybody's: neither a refusal nor silence nor a missing characteristic is the end."""
    shy = replace(open_eda.CODEC, start=lambda _: {"ask": Rule(Subscribe(open_eda.CONTROL_UUID), answer="none")})
    lacking = replace(open_eda.CODEC, start=lambda _: {"ask": Rule(Read("none"))})
    refusing = replace(
        open_eda.CODEC,
        start=lambda _: {"ask": Rule(Read(open_eda.INFO_UUID), lambda _: "no", {"no": Refusal("a", "b")})},
    )
    band = wrist(bonded=True)

    async def scenario(codecs: list[Codec]) -> Codec:
        async with linked(FakeRadio(band), WRIST) as link, started(link, codecs) as feed:
            return feed.codec

    assert run_virtual(scenario([shy, lacking, refusing, open_eda.CODEC])) is open_eda.CODEC
    with pytest.raises(ExchangeError, match="a; b"):  # what the likeliest one says
        run_virtual(scenario([refusing, lacking]))


def test_another_unit_is_refused_and_another_scale_is_not() -> None:
    def told(**changes: object) -> Codec:
        return replace(open_eda.CODEC, describe=lambda _: replace(open_eda.STREAM_INFO, **changes))

    async def scenario(codec: Codec) -> float:
        async with linked(FakeRadio(wrist(bonded=True)), WRIST) as link, started(link, [codec]) as feed:
            return feed.info.scale

    assert run_virtual(scenario(told(scale=1e-6))) == 1e-6
    with pytest.raises(PairError, match="sends eda in kohm: expected eda in uS; set the sensor to that unit"):
        run_virtual(scenario(told(units="kohm")))


def test_a_name_decides_which_codec_is_tried_first() -> None:
    services = frozenset({nervous.SERVICE_UUID})
    assert [it.stream_info.modality for it in candidates(WRIST, "EDA 7201", services, None)] == ["eda", "ecg"]
    assert [it.stream_info.modality for it in candidates(WRIST, "ECG 6543", services, None)] == ["ecg", "eda"]
    assert [it.stream_info.modality for it in candidates(WRIST, "ECG 6543", services, "eda")] == ["eda"]


def test_a_ring_that_is_silent_off_the_finger_is_touched_all_the_same(tool: Tool) -> None:
    ring = wrist([3.0] * 20, bonded=True, wakes_after_s=10.0)
    tool.radio, tool.person = FakeRadio(ring), FakePerson(there=True)
    assert tool.json("add", WRIST)["proof"]["note"] == "0.00 uS released, 3.00 uS touched"


# -- which device is meant


def test_a_name_will_do(tool: Tool) -> None:
    tool.radio = FakeRadio(h10(), H9_elsewhere(), HOSTILE)
    assert tool.json("add", "polar", "--yes")["address"] == STRAP  # the H9 is of no use


def H9_elsewhere() -> FakeSensor:  # noqa: N802
    return FakeSensor("A0:9E:1A:00:00:07", "Polar H9 1", (heart_rate.SERVICE_UUID,))


def test_a_name_that_several_have_is_refused_with_their_addresses(tool: Tool) -> None:
    other = h10()
    other.address = "A0:9E:1A:00:00:08"
    tool.radio = FakeRadio(h10(), other)
    line = tool.fails("add", "Polar H10", "--yes")
    assert f"2 devices are called so; give the address: one of {STRAP}, A0:9E:1A:00:00:08" in line
    assert "no name heard within 8 s begins so" in tool.fails("add", "Movesense", "--yes")


def test_without_a_target_a_person_chooses(tool: Tool) -> None:
    tool.radio, tool.person = FakeRadio(HOSTILE, wrist(), h10()), FakePerson("0", "7", "2")
    assert tool.json("add", "--no-proof")["address"] == WRIST
    assert [line[:20] for line in tool.person.said if line[0].isdigit()] == [f"1  {STRAP}", f"2  {WRIST}"]
    assert PHONE not in "".join(tool.person.said)
    tool.person = FakePerson("q")
    assert "none was chosen" in tool.fails("add", "--no-proof")
    tool.radio = FakeRadio(HOSTILE)
    assert "heard nothing that affectd can use" in tool.fails("add", "--no-proof")


# -- what is taken


def test_what_is_taken_is_refused_before_the_radio_is_used(tool: Tool) -> None:
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg")])
    for args, taken in (
        ((WRIST, "--role", "ecg"), "role 'ecg'"),
        ((STRAP, "--role", "eda"), f"address '{STRAP}'"),
        ((WRIST, "--name", "strap"), "name 'strap'"),
    ):
        line = tool.fails("add", *args, "--yes")
        assert f"{taken} is taken by 'strap' ({STRAP})" in line
        assert f"add with --replace, or `affectd-pair remove {STRAP}` first" in line
    assert tool.radio.scans == 0


def test_a_second_sensor_of_a_role_that_only_it_could_tell_is_refused_and_unbonded(tool: Tool) -> None:
    old = Sensor("eda", "old", "C0:FF:EE:00:00:09", "open-eda")
    registry.write(tool.path, [old])
    band = wrist()
    tool.radio, tool.person = FakeRadio(band), FakePerson(there=True)
    code, _, err = tool("add", WRIST)
    assert (code, "role 'eda' is taken by 'old'" in err) == (2, True)
    assert tool.person.shown == []  # nothing was asked for in vain
    assert registry.read(tool.path) == (old,)
    assert not band.bonded


def test_replace_takes_the_place_and_drops_the_old_bond(tool: Tool) -> None:
    chest = Sensor("ecg", "chest", STRAP, "polar-pmd-ecg")
    old = h10()
    old.address, old.bonded = "A0:9E:1A:00:00:09", True
    registry.write(
        tool.path,
        [Sensor("eda", "x", WRIST, "open-eda"), Sensor("ecg", "old", old.address, "polar-pmd-ecg", bonded=True)],
    )
    tool.radio = FakeRadio(h10(), old)
    assert tool.json("add", STRAP, "--name", "chest", "--replace", "--yes")["replaced"] == ["old"]
    assert [it.name for it in registry.read(tool.path)] == ["x", "chest"]
    assert registry.read(tool.path)[1].address == chest.address
    assert not old.bonded


def test_replace_of_itself_bonds_anew(tool: Tool) -> None:
    """The remedy of a bond that the sensor has lost."""
    registry.write(tool.path, [Sensor("ecg", "strap", STRAP, "polar-pmd-ecg", bonded=True)])
    strap = h10(bonded=True)
    tool.radio = FakeRadio(strap)
    assert tool.json("add", STRAP, "--replace", "--yes")["bonded"]
    assert strap.events[:2] == ["forget", "pair"]


# -- bonding


def test_a_bond_from_before_survives_a_failure(tool: Tool) -> None:
    strap = h10(bonded=True, stream=tuple)
    tool.radio = FakeRadio(strap)
    tool.fails("add", STRAP, "--yes")
    assert strap.bonded


def test_the_digits_of_a_sensor_are_asked_for_or_given(tool: Tool) -> None:
    tool.radio, tool.person = FakeRadio(h10(asks="passkey")), FakePerson("123 456", "y")
    assert tool.json("add", STRAP)["bonded"]
    tool.path.unlink()
    tool.radio, tool.person = FakeRadio(h10(asks="passkey")), FakePerson()
    assert tool.json("add", STRAP, "--passkey", "123456", "--yes")["bonded"]


@pytest.mark.parametrize(
    ("answer", "asks"), [("", "passkey"), ("12345x", "passkey"), ("1234567", "passkey"), ("n", "confirm")]
)
def test_wrong_digits_make_no_bond(tool: Tool, answer: str, asks: str) -> None:
    strap = h10(asks=asks)
    tool.radio, tool.person = FakeRadio(strap), FakePerson(answer)
    assert "Authentication Failed" in tool.fails("add", STRAP)
    assert not strap.bonded


def test_digits_are_compared_by_a_person_or_taken_on_request_alone(tool: Tool) -> None:
    tool.radio, tool.person = FakeRadio(h10(asks="confirm")), FakePerson("y", "y")
    assert tool.json("add", STRAP)["bonded"]
    assert tool.person.asked[0] == "Does it show 654321? [y/n]"
    tool.path.unlink()
    tool.radio, tool.person = FakeRadio(h10(asks="confirm")), FakePerson()
    assert "Authentication Failed" in tool.fails("add", STRAP, "--no-proof")
    assert tool.json("add", STRAP, "--yes")["bonded"]


# -- interrupted


@pytest.mark.parametrize("moment", [KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_interruption_leaves_the_sensor_stopped_and_nothing_behind(tool: Tool, moment: BaseException) -> None:
    strap = h10()
    tool.radio, tool.person = FakeRadio(strap), FakePerson(moment)
    code, out, err = tool("add", STRAP)
    assert (code, out, err.strip()) == (130, "", "")
    assert strap.events == ["pair", "start", "stop", "disconnect", "forget"]
    assert (tool.radio.agents, tool.radio.closed) == ([], 1)
    assert not tool.path.exists()
