from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import registry
from firmware_bridge.errors import RegistryError
from firmware_bridge.registry import Sensor

STRAP = Sensor("ecg", "strap", "A0:9E:1A:00:00:01", "polar-pmd-ecg", "0A1B2C3D", 131.5, True)
WRIST = Sensor("eda", "wrist", "C0:FF:EE:00:00:02", "open-eda")

visible = st.characters(exclude_categories=["C", "Z"], include_characters=' "\\')
printable = st.text(visible, min_size=1, max_size=30).filter(str.strip)
addresses = st.binary(min_size=6, max_size=6).map(lambda value: value.hex(":").upper())
straps = st.builds(
    Sensor,
    role=st.just("ecg"),
    name=printable,
    address=addresses,
    protocol=st.just("polar-pmd-ecg"),
    serial=st.none() | printable,
    sfreq=st.none() | st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False),
    bonded=st.booleans(),
)


def _write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _entry(**changes: str) -> str:
    fields = {"role": "ecg", "name": "strap", "address": "A0:9E:1A:00:00:01", "protocol": "polar-pmd-ecg"} | changes
    return "[[sensor]]\n" + "".join(f'{key} = "{value}"\n' for key, value in fields.items())


def test_write_then_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sensors.toml"
    registry.write(path, [STRAP, WRIST])
    assert registry.read(path) == (STRAP, WRIST)


def test_no_file_no_sensors(tmp_path: Path) -> None:
    assert registry.read(tmp_path / "sensors.toml") == ()


def test_no_sensors_is_a_file_too(tmp_path: Path) -> None:
    registry.write(tmp_path / "sensors.toml", [])
    assert registry.read(tmp_path / "sensors.toml") == ()


@given(straps)
def test_every_name_and_serial_survives_toml(sensor: Sensor) -> None:
    fields = {
        key: value for key, value in zip(sensor.__struct_fields__, _values(sensor), strict=True) if value is not None
    }
    assert tomllib.loads(registry.dumps([sensor])) == {"sensor": [fields]}


def _values(sensor: Sensor) -> tuple[object, ...]:
    return tuple(getattr(sensor, field) for field in sensor.__struct_fields__)


def test_the_file_is_for_its_owner_alone_even_where_it_was_not(tmp_path: Path) -> None:
    path = _write(tmp_path / "sensors.toml", "")
    path.chmod(0o666)
    registry.write(path, [STRAP])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "sensors.toml"
    registry.write(path, [STRAP])
    before = path.read_bytes()
    with pytest.raises(RegistryError, match=r"sensor\.role: 2 sensors with role 'ecg'"):
        registry.write(path, [STRAP, Sensor("ecg", "other", "A0:9E:1A:00:00:09", "polar-pmd-ecg")])
    assert path.read_bytes() == before
    directory = tmp_path / "taken"
    directory.mkdir()
    with pytest.raises(RegistryError, match="cannot be written"):
        registry.write(directory, [STRAP])
    assert sorted(it.name for it in tmp_path.iterdir()) == ["sensors.toml", "taken"]


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    _write(tmp_path / "file", "")
    with pytest.raises(RegistryError, match=r"file/sensors\.toml: file: cannot be written \(.*\); choose a file"):
        registry.write(tmp_path / "file" / "sensors.toml", [STRAP])


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("[[sensor]]\nrole == 1\n", "line 2, column 7", "Invalid value"),
        ("a", "end of document", "Expected '='"),
        (b"\xff\xfe", "byte 0", "not UTF-8"),
        ("sensors = []\n", "file", "unknown field `sensors`"),
        (_entry() + 'colour = "red"\n', "sensor[0]", "unknown field `colour`"),
        (_entry() + _entry(role="eda", bond="x"), "sensor[1]", "unknown field `bond`"),
        (_entry(role="emg"), "sensor[0].role", "Invalid enum value 'emg'"),
        ("sensor = 1\n", "sensor", "Expected `array`, got `int`"),
        ("[[sensor]]\n", "sensor[0]", "missing required field `role`"),
        (_entry() + "serial = 7\n", "sensor[0].serial", "Expected `str | null`, got `int`"),
        (_entry() + "sfreq = nan\n", "sensor[0]", "sfreq nan: expected a rate in Hz"),
        (_entry() + "sfreq = 0\n", "sensor[0]", "sfreq 0"),
        (_entry(address="a0:9e:1a:00:00:01"), "sensor[0]", "in upper case"),
        (_entry(address="Polar"), "sensor[0]", "address 'Polar'"),
        (_entry(name=""), "sensor[0]", "name ''"),
        (_entry(name="\\u001b[31m"), "sensor[0]", "expected printable text"),
        (_entry(protocol="polar"), "sensor[0]", "unknown protocol 'polar': expected one of"),
        (_entry(protocol="open-eda"), "sensor[0]", "role 'ecg' with protocol 'open-eda', which gives 'eda'"),
        (_entry() + _entry(name="b", address="A0:9E:1A:00:00:02"), "sensor.role", "2 sensors with role 'ecg'"),
        (_entry() + _entry(role="eda", protocol="open-eda", name="b"), "sensor.address", "2 sensors with address"),
    ],
)
def test_a_wrong_file_names_the_place_and_the_remedy(
    tmp_path: Path, text: str | bytes, place: str, reason: str
) -> None:
    path = _write(tmp_path / "sensors.toml", text)
    with pytest.raises(RegistryError) as caught:
        registry.read(path)
    assert caught.value.path == str(path)
    assert caught.value.place == place
    assert reason in caught.value.reason
    assert caught.value.remedy and str(caught.value).endswith(f"{caught.value.reason}; {caught.value.remedy}")


@pytest.mark.parametrize("value", ["9", "[", "{a="])
def test_absurd_toml_is_one_clear_error(tmp_path: Path, value: str) -> None:
    """tomllib answers these with ValueError and RecursionError, which are none of its own."""
    with pytest.raises(RegistryError, match="pair again"):
        registry.read(_write(tmp_path / "sensors.toml", "a = " + value * 20_000))


def test_a_directory_is_no_registry(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="file: cannot be read"):
        registry.read(tmp_path)


@given(st.binary(max_size=60) | st.text(alphabet='[]sensor="\n1.#{}\\', max_size=60).map(str.encode))
def test_arbitrary_files_raise_only_registry_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = _write(tmp_path_factory.getbasetemp() / "arbitrary.toml", data)
    try:
        registry.read(path)
    except RegistryError as error:
        assert error.path == str(path)


def test_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert registry.default_path() == Path("/somewhere/affectd/sensors.toml")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    assert registry.default_path() == Path.home() / ".config" / "affectd" / "sensors.toml"


def test_the_service_s_user_has_the_service_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    file, owner = tmp_path / "sensors.toml", tmp_path.stat().st_uid or 1000
    os.chown(tmp_path, owner, -1)
    for user, expected in ((owner, file), (owner + 1, Path("/somewhere/affectd/sensors.toml"))):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert registry.default_path(file) == expected
    os.chown(tmp_path, os.getuid(), -1)
    monkeypatch.setattr(os, "geteuid", os.getuid)
    if os.getuid() == 0:  # root's own folder is no service's
        assert registry.default_path(file) == Path("/somewhere/affectd/sensors.toml")
