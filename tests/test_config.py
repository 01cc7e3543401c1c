"""A configuration is taken as written or refused with its line and what to do."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from device.cli import cli
from device.config import Config, config_schema, example_config, load_config, parse_config, sensors_of
from device.errors import ConfigError
from firmware_bridge import registry

SENSOR = """\
[[sensors]]
role = "ecg"
name = "chest"
address = "A0:9E:1A:00:00:01"
protocol = "polar-pmd-ecg"
"""
WRIST = """\
[[sensors]]
role = "eda"
name = "wrist"
address = "A0:9E:1A:00:00:02"
protocol = "open-eda"
"""


def test_the_example_is_right_and_holds_the_defaults() -> None:
    example = parse_config(example_config())
    minimal = parse_config(SENSOR + WRIST)
    assert example.inference == minimal.inference
    assert example.recording == minimal.recording
    assert [sensor.role for sensor in example.sensors] == ["ecg", "eda"]
    assert example.sinks.jsonl is not None and example.sinks.jsonl.queue == 256


def whole_example() -> str:
    """With the sinks that send things elsewhere, which the example has as comments."""
    before, header, after = example_config().partition("# [sinks.mqtt]")
    return before + re.sub(r"^# (?=\[|\w+ = )", "", header + after, flags=re.MULTILINE)


def test_the_example_names_every_key() -> None:
    named = set(re.findall(r"^#? ?(\w+) = ", example_config(), re.MULTILINE))
    example = parse_config(whole_example())
    sinks = {name: getattr(example.sinks, name) for name in example.sinks.__struct_fields__}
    assert None not in sinks.values()
    structs = (
        *(example.radio, example.control, example.log, example.inference, example.person, example.recording),
        *(*sinks.values(), example.sensors[0]),
    )
    keys = {key for struct in structs for key in struct.__struct_fields__}
    assert keys - named == {"serial"}  # optional: pairing fills it in
    assert set(re.findall(r"^\[+([\w.]+)\]", whole_example(), re.MULTILINE)) == {
        *(part for part in Config.__struct_fields__ if part != "sinks"),
        *(f"sinks.{name}" for name in sinks),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SENSOR + "[recording]\nfsnyc_s = 1\n",
            "line 7: recording.fsnyc_s: unknown key 'fsnyc_s'; did you mean 'fsync_s'?",
        ),
        (SENSOR + "[recordin]\n", "line 6: recordin: unknown key 'recordin'; did you mean 'recording'?"),
        (
            SENSOR + "[sinks.jsonl]\npath = 'x'\nzzz = 1\n",
            "line 8: sinks.jsonl.zzz: unknown key 'zzz'; known here: path, recipients, queue",
        ),
        (SENSOR + WRIST + "rol = 'eda'\n", "line 11: sensors.1.rol: unknown key 'rol'; did you mean 'role'?"),
        (SENSOR + "[recording]\n\nfsync_s = 'often'\n", "line 8: recording.fsync_s: Expected `float`, got `str`"),
        (SENSOR + "[recording]\nfsync_s = 0\n", "line 7: recording.fsync_s: Expected `float` > 0"),
        (SENSOR + "[inference]\nruntime = 'torch'\n", "line 7: inference.runtime: Invalid enum value 'torch'"),
        (SENSOR + "[log]\nlevel = 'loud'\n", "line 7: log.level: Invalid enum value 'loud'"),
        (SENSOR + "[sinks.jsonl]\n", "line 6: sinks.jsonl: missing key `path`"),
        ("[recording]\nfsync_s = 1\n", "no sensor: [[sensors]] tables are needed, or [radio] registry"),
        ("sensors = []\n", "no sensor: [[sensors]] tables are needed, or [radio] registry"),
        (SENSOR + "[radio]\nregistry = 'x'\n", "sensors twice"),
        (SENSOR + "[radio]\nadapter = 'hci0'\n", "line 6: radio: 'hci0': expected an address"),
        (SENSOR + "[inference]\ncalibrated = 'x'\n", "[inference] calibrated without [person] profile: name the file"),
        (SENSOR + "[sinks.mqtt]\nhost = ''\n", "line 6: sinks.mqtt: host is empty"),
        (SENSOR + "[sinks.mqtt]\nhost = 'h'\nkey = 'x'\n", "line 6: sinks.mqtt: key without certificate"),
        (SENSOR + "[sinks.mqtt]\nhost = 'h'\ntls = false\nca = 'x'\n", "line 6: sinks.mqtt: ca or certificate with"),
        (SENSOR + "[sinks.mqtt]\nhost = 'h'\ndevice = 'a/b'\n", "line 8: sinks.mqtt.device: Expected `str` matching"),
        (SENSOR + "[sinks.mqtt]\nhost = 'h'\ntopic = 'a/#'\n", "line 8: sinks.mqtt.topic: Expected `str` matching"),
        (SENSOR + "[sinks.mqtt]\nhost = 'h'\npassword = 'x'\n", "did you mean 'password_file'?"),
        (SENSOR + "[sinks.http]\nhost = 'localhost'\n", "line 6: sinks.http: host 'localhost': expected an address"),
        (
            SENSOR + "[sinks.http]\nhost = '0.0.0.0'\n",
            "can be reached from elsewhere: name a certificate, or write tls",
        ),
        (SENSOR + "[sinks.http]\nkey = 'x'\n", "line 6: sinks.http: key without certificate"),
        (SENSOR + "[sinks.http]\ntls = false\ncertificate = 'x'\n", "certificate with tls = false: keep one of them"),
        (SENSOR + "[sinks.http]\norigins = ['*']\n", "line 7: sinks.http.origins.0: Expected `str` matching"),
        (SENSOR + "[sinks.http]\ntoken = 'x'\n", "did you mean 'token_file'?"),
        (SENSOR + SENSOR, "2 sensors with role 'ecg'"),
        (SENSOR + WRIST.replace("wrist", "chest"), "2 sensors with name 'chest'"),
        (SENSOR + WRIST.replace(":02", ":01"), "2 sensors with address 'A0:9E:1A:00:00:01'"),
        (SENSOR.replace("polar-pmd-ecg", "polar"), "line 1: sensors.0: unknown protocol 'polar'"),
        (SENSOR.replace('"ecg"', '"eda"'), "line 1: sensors.0: role 'eda' with protocol 'polar-pmd-ecg'"),
        (SENSOR + "[recording\n", "line 6: not TOML: "),
        (SENSOR + "name = 'twice'\n", "line 6: not TOML: Cannot overwrite a value"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_wrong_files_are_refused_with_their_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Path("c.toml"))
    assert str(caught.value).startswith("c.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*config example"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 5"):
        load_config(tmp_path / "latin.toml")


def test_sensors_come_from_the_file_of_affectd_pair(tmp_path: Path) -> None:
    path = tmp_path / "sensors.toml"
    config = parse_config(f'[radio]\nregistry = "{path}"\n')
    with pytest.raises(ConfigError, match=r"no sensor in it; pair one: `affectd-pair"):
        sensors_of(config)
    strap = parse_config(SENSOR).sensors
    registry.write(path, strap)
    assert sensors_of(config) == strap == sensors_of(parse_config(SENSOR))


def test_a_broker_is_spoken_to_in_the_clear_only_where_that_is_written() -> None:
    for text, tls, port in (("", True, 8883), ("tls = false", False, 1883), ("port = 1883", True, 1883)):
        mqtt = parse_config(f"{SENSOR}[sinks.mqtt]\nhost = 'h'\n{text}\n").sinks.mqtt
        assert mqtt is not None and (mqtt.tls, mqtt.port_number) == (tls, port)


def test_readers_from_elsewhere_are_served_in_the_clear_only_where_that_is_written() -> None:
    for text, is_loopback in (("", True), ("host = '::1'", True), ("host = '0.0.0.0'\ntls = false", False)):
        http = parse_config(f"{SENSOR}[sinks.http]\n{text}\n").sinks.http
        assert http is not None and http.is_loopback == is_loopback


def is_valid(text: str) -> bool:
    return bool(Draft202012Validator(config_schema()).is_valid(tomllib.loads(text)))


def test_the_schema_takes_what_we_take_and_refuses_what_we_refuse() -> None:
    Draft202012Validator.check_schema(config_schema())
    assert is_valid(example_config()) and is_valid(SENSOR)
    for wrong in (
        "[recordin]\n", "[recording]\nfsnyc_s = 1\n", "[recording]\nfsync_s = 0\n", "[inference]\nthreads = 0\n",
        "[sinks.jsonl]\nqueue = 1\n", '[inference]\nruntime = "tpu"\n', "[sinks.mqtt]\n",
    ):  # fmt: skip
        assert not is_valid(SENSOR + wrong), wrong
        with pytest.raises(ConfigError):
            parse_config(SENSOR + wrong)


def test_the_schema_says_what_each_key_means() -> None:
    defs = config_schema()["$defs"]
    described = {f"{table}.{key}" for table, found in defs.items() for key, said in found["properties"].items()
                 if "description" in said or "$ref" in said}  # fmt: skip
    assert described == {f"{table}.{key}" for table, found in defs.items() for key in found["properties"]}
    assert defs["RecordingConfig"]["properties"]["fsync_s"]["description"].startswith("A power cut takes at most")
    shown = CliRunner().invoke(cli, ["config", "schema"])
    assert json.loads(shown.stdout) == json.loads(json.dumps(config_schema()))
