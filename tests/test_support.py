"""What the doctor finds, and that nothing of anybody is in what is packed for somebody who helps."""

from __future__ import annotations

import copy
import json
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command_line import affectd
from hypothesis import given, settings
from hypothesis import strategies as st
from test_health import WELL
from test_operations import Life, proved
from wearer_at_rest import profile

from device import support
from device.config import Config, JsonlConfig, PersonConfig, RadioConfig, RecordingConfig, SinksConfig, SqliteConfig
from device.doctor import Patient, _encryption, examine
from device.profile import write_profile
from device.sinks.sqlite import RESULTS
from device.support import BLANK, OURS
from firmware_bridge.pair.doctor import Finding
from firmware_bridge.registry import Sensor

ADDRESS, HOST, PERSON, LABEL, USER = "C4:1A:9E:77:5B:02", "zebrafish", "Ottoline", "gloomy", "ottoline-q"
PERSONAL = (ADDRESS, HOST, PERSON, LABEL, USER, "Ottoline's strap", "stroop-7", "broker.example.org", "192.168.77.3")


def everywhere(tree: Any, text: str, key: str = "") -> Any:
    """The same with ``text`` for every text that is not affectd's own."""
    if isinstance(tree, dict):
        return {name: everywhere(value, text, name) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [everywhere(value, text) for value in tree]
    return text if isinstance(tree, str) and tree not in OURS and key not in support.WHOLE else tree


JOURNAL = [
    f"INFO device.sources.ble: sensor {PERSON}'s strap: streaming",
    f"WARNING device.sinks.base: sink sqlite: event 'stroop-7': /home/{USER}/x.db: full",
    f"INFO bleak: {ADDRESS} dev_{ADDRESS.replace(':', '_')} {ADDRESS.lower()} on {HOST}",
    f"mqtt://{USER}:secret@broker.example.org:1883 (192.168.77.3) {USER}@{HOST}.local fe80::1:2:3 {LABEL} ~/{PERSON}/y",
    f"INFO {PERSON.upper()} {LABEL.title()}, {HOST}",
]


def packed(config: Any, status: dict[str, Any], personal: tuple[str, ...]) -> str:
    findings = [asdict(Finding("place", "fail", f"/home/{USER}/x and {PERSON}", f"`chown {USER} x` on {HOST}"))]
    system = {"kernel": f"Linux {HOST} 6.1"}
    return "\n".join(
        text.decode() for text in support.bundle(config, status, findings, JOURNAL, system, personal).values()
    )


@pytest.mark.parametrize("text", PERSONAL)
def test_nothing_of_anybody_is_in_it_wherever_it_stood(text: str, tmp_path: Path) -> None:
    life = Life(tmp_path)
    assert isinstance(life.config, Config)
    config = everywhere(msgspec.to_builtins(life.config), text)
    status = everywhere(copy.deepcopy(WELL), text)
    status["shots"] = {"examples": {LABEL: 3}}
    status["calibration"]["person"] = PERSON
    for sensor in status["sensors"]:
        sensor["link"]["reason"] = f"{PERSON} {text}; bring {text} close to {ADDRESS}"
    found = packed(config, status, (HOST, USER, f"{PERSON}'s strap", PERSON, LABEL)).lower()
    assert not [word for word in PERSONAL if word.lower() in found]
    assert ADDRESS.replace(":", "_").lower() not in found and "secret" not in found
    assert "lost_samples" in found and "130.045" in found and "streaming" in found  # and yet it is of use


@settings(max_examples=50)
@given(name=st.from_regex(r"\A[a-zA-Z]{4,12}( [a-z]{4,9})?\Z").filter(lambda it: not OURS & {it, it.lower()}))
def test_any_name_is_blanked(name: str) -> None:
    words = [*support.words_of({"sensors": [{"name": name}]})]
    assert name not in support.without(f"sensor {name}: {name.upper()}, ({name})", words)
    assert support.blanked({"a": [{"name": name}]}) == {"a": [{"name": BLANK}]}


@pytest.fixture
def life(tmp_path: Path) -> Life:
    """A device whose owner has put their name wherever one can be put."""
    home = tmp_path / USER
    home.mkdir()
    life = Life(home)
    sensor = Sensor("ecg", f"{PERSON}'s strap", ADDRESS, "polar-pmd-ecg", serial=HOST)
    write_profile(home / "p.json", profile(person=PERSON))
    life.change(sensors=(sensor,), person=PersonConfig(profile=str(home / "p.json")))
    assert isinstance(life.config, Config)
    (home / "c.toml").write_text(
        f'[inference]\nbundle = "{life.first.path}"\n[person]\nprofile = "{home}/p.json"\n'
        f'[control]\nsocket = "{home}/s"\nstate = "{home}/pause.json"\n[recording]\ndirectory = "{home}/recordings"\n'
        f'[sinks.sqlite]\npath = "{home}/results.db"\n'
        f'[[sensors]]\nrole = "ecg"\nname = "{PERSON}\'s strap"\naddress = "{ADDRESS}"\nprotocol = "polar-pmd-ecg"\n'
    )
    return life


def test_the_archive_can_be_handed_on(
    life: Life, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "support.tar.gz"
    code, text, err = affectd(capsys, monkeypatch, "support-bundle", "--config", life.folder / "c.toml", "-o", out)
    assert (code, err) == (0, "") and "look through it" in text
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as archive:
        members = {it.name: archive.extractfile(it) for it in archive.getmembers()}
        whole = {name: file.read().decode() for name, file in members.items() if file is not None}
    assert set(whole) == {
        f"affectd-support/{name}"
        for name in ("system.json", "configuration.json", "status.json", "doctor.json", "journal.txt")
    }
    everything = "\n".join(whole.values())
    assert not [word for word in (PERSON, ADDRESS, USER, HOST, str(tmp_path)) if word.lower() in everything.lower()]
    checks = {it["check"]: it["level"] for it in json.loads(whole["affectd-support/doctor.json"])}
    assert checks["configuration"] == checks["bundle"] == "ok" and checks["daemon"] == "warn"


def found(life: Life, error_us: Callable[[], int | None] = lambda: None) -> dict[str, Finding]:
    """The worst finding of each check."""
    worst: dict[str, Finding] = {}
    for it in examine(Patient(life.folder / "c.toml", root=life.folder / "root", error_us=error_us)):
        if it.check not in worst or ("ok", "warn", "fail").index(it.level) > ("ok", "warn", "fail").index(
            worst[it.check].level
        ):
            worst[it.check] = it
    return worst


def test_a_clock_that_another_than_timesyncd_sets_is_well(life: Life) -> None:
    assert found(life, lambda: 16_000_000)["clock"].level == "warn"
    assert found(life, lambda: 2_000)["clock"].level == "ok"


@pytest.mark.parametrize(
    ("taped", "rows", "lines", "level"),
    [
        (None, None, True, None),
        ("r", None, False, "warn"),
        (None, "r", False, "warn"),
        ("r", "r", True, "warn"),
        ("r", "r", False, "ok"),
        ("r", "r", "r", "ok"),
    ],
)
def test_what_is_not_encrypted_beside_what_is_is_said(
    taped: str | None, rows: str | None, lines: bool | str, level: str | None
) -> None:
    sinks = SinksConfig(JsonlConfig("x", "r" if lines == "r" else None) if lines else None, SqliteConfig("y", rows))
    config = Config(radio=RadioConfig(registry="s"), recording=RecordingConfig(recipients=taped), sinks=sinks)
    assert [it.level for it in _encryption(config)] == ([] if level is None else [level])


def test_a_device_that_is_well(life: Life) -> None:
    (life.folder / "root/run/systemd/timesync").mkdir(parents=True)
    (life.folder / "root/run/systemd/timesync/synchronized").touch()
    told = found(life)
    assert {check: it.level for check, it in told.items() if it.level != "ok"} == {"daemon": "warn"}
    assert set(told) == {"versions", "configuration", "bundle", "place", "profile", "disk", "clock", "daemon"}


def bad_token(life: Life) -> None:
    (life.folder / "token").touch(0o644)
    config = (life.folder / "c.toml").read_text()
    (life.folder / "c.toml").write_text(f"{config}\n[sinks.http]\ntoken_file = '{life.folder / 'token'}'\n")


def wrong_config(life: Life) -> None:
    (life.folder / "c.toml").write_text("[inference]\nbundel = 1\n")


def broken_bundle(life: Life) -> None:
    assert life.first.manifest.probe is not None
    logits = {mask: tuple(tuple(x + 1 for x in row) for row in rows)
              for mask, rows in life.first.manifest.probe.logits.items()}  # fmt: skip
    proved(Path(life.first.path), probe=msgspec.structs.replace(life.first.manifest.probe, logits=logits))


def open_profile(life: Life) -> None:
    (life.folder / "p.json").chmod(0o644)


def group_profile(life: Life) -> None:
    (life.folder / "p.json").chmod(0o640)


def damaged_profile(life: Life) -> None:
    (life.folder / "p.json").write_text("{")


def newer_results(life: Life) -> None:
    with sqlite3.connect(life.folder / "results.db") as db:
        db.execute("CREATE TABLE run (id)")
        db.execute(f"PRAGMA user_version = {RESULTS.version + 1}")
    db.close()


def no_results(life: Life) -> None:
    (life.folder / "results.db").write_bytes(b"no database" * 100)


@pytest.mark.parametrize(
    ("harm", "check", "level", "what"),
    [
        (wrong_config, "configuration", "fail", "unknown key 'bundel'"),
        (broken_bundle, "bundle", "fail", "logits differ"),
        (open_profile, "private", "fail", "open to others (mode 0644)"),
        (group_profile, "private", "warn", "open to others (mode 0640)"),
        (damaged_profile, "profile", "fail", "p.json"),
        (newer_results, "results", "fail", "of a newer affectd"),
        (no_results, "results", "fail", "results.db"),
        (bad_token, "token", "fail", "a token that others may read (mode 644)"),
        (lambda _: None, "clock", "warn", "not known to be set"),
    ],
)
def test_what_is_wrong_is_found_with_what_to_do(life: Life, harm: Any, check: str, level: str, what: str) -> None:
    harm(life)
    it = found(life)[check]
    assert it.level == level and what in it.what and it.remedy


def test_the_doctor_s_verdict_is_an_exit_code(
    life: Life, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, _ = affectd(capsys, monkeypatch, "doctor", "--config", life.folder / "c.toml", "--json")
    assert code == 0 and json.loads(text)[1]["check"] == "configuration"
    damaged_profile(life)
    code, text, _ = affectd(capsys, monkeypatch, "doctor", "--config", life.folder / "c.toml")
    assert code == 1 and "profile" in text
