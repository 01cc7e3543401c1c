"""Paired sensors on disk: ``sensors.toml``, one ``[[sensor]]`` table each, written by affectd-pair and read by affectd.

Knows nothing of radios or bonds: an entry says which sensor to look for, not whether it answers.
"""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from firmware_bridge import whole_file
from firmware_bridge.errors import RegistryError
from firmware_bridge.private import make_folder
from firmware_bridge.protocols import PROTOCOLS, UnknownProtocolError, codec

Role = Literal["ecg", "eda"]

SERVICE = Path("/var/lib/affectd/sensors.toml")
"""What the service reads, in the home of its user."""
_ADDRESS = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){5}")
_HEADER = "# Sensors paired with affectd. Written by affectd-pair; `affectd-pair list` shows it.\n"
_REMEDY = "correct it, or remove the file and pair again with `affectd-pair add`"


def is_address(text: str) -> bool:
    """Whether a text is a Bluetooth address as the registry keeps it."""
    return _ADDRESS.fullmatch(text) is not None


class Sensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One paired sensor."""

    role: Role
    """What affectd takes from it; one sensor per role."""
    name: str
    """What people call it; unique."""
    address: str
    """Bluetooth address, six pairs of upper-case hexadecimal digits; unique."""
    protocol: str
    """A name in ``firmware_bridge.protocols.PROTOCOLS``."""
    serial: str | None = None
    """Serial number; None: the sensor did not say."""
    sfreq: float | None = None
    """Rate in Hz it was paired at; None: its protocol's default. A sensor of another rate is set to it, or refused."""
    bonded: bool = False
    """Whether it was bonded: then its bond is never dropped without being asked for."""

    def __post_init__(self) -> None:
        for key, text in (("name", self.name), ("serial", self.serial)):
            if text is not None and not (text.strip() and text.isprintable()):
                raise ValueError(f"{key} {text!r}: expected printable text")
        if not is_address(self.address):
            raise ValueError(f"address {self.address!r}: expected six pairs like A0:9E:1A:00:00:01, in upper case")
        if self.protocol not in PROTOCOLS:
            raise ValueError(str(UnknownProtocolError(self.protocol)))
        modality = codec(self.protocol).stream_info.modality
        if modality != self.role:
            raise ValueError(f"role {self.role!r} with protocol {self.protocol!r}, which gives {modality!r}")
        if self.sfreq is not None and not 0 < self.sfreq < math.inf:
            raise ValueError(f"sfreq {self.sfreq:g}: expected a rate in Hz, more than 0")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    sensor: tuple[Sensor, ...] = ()


def default_path(service: Path = SERVICE) -> Path:
    """For the service's user the file that the service reads, else ``sensors.toml`` in the user's configuration
    directory (XDG)."""
    if _owned(service.parent):
        return service
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "affectd" / "sensors.toml"


def _owned(folder: Path) -> bool:
    """Whether a folder is this user's own; root's own is nobody's service."""
    try:
        return 0 != folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def read(path: Path) -> tuple[Sensor, ...]:
    """Sensors of a file, none where there is no file; raises RegistryError that names the line or the key."""
    try:
        text = path.read_bytes().decode()
        sensors = msgspec.convert(tomllib.loads(text), _File).sensor
    except FileNotFoundError:
        return ()
    except OSError as error:
        reason, remedy = f"cannot be read ({error.strerror})", "make it a file that this user may read"
        raise RegistryError(str(path), "file", reason, remedy) from error
    except UnicodeDecodeError as error:
        raise RegistryError(str(path), f"byte {error.start}", "not UTF-8", _REMEDY) from error
    except tomllib.TOMLDecodeError as error:
        raise RegistryError(str(path), *_toml_place(error), _REMEDY) from error
    except msgspec.ValidationError as error:
        raise RegistryError(str(path), *_key_place(error), _REMEDY) from error
    except (ValueError, RecursionError) as error:  # what tomllib lets through: absurd numbers, absurd nesting
        raise RegistryError(str(path), "file", f"not TOML that can be read ({error})", _REMEDY) from error
    _refuse_duplicates(path, sensors)
    return sensors


def write(path: Path, sensors: Iterable[Sensor]) -> None:
    """Replace the file as a whole or not at all, for the owner alone (0600); raises RegistryError."""
    sensors = tuple(sensors)
    _refuse_duplicates(path, sensors)
    try:
        make_folder(path.parent)
        whole_file.replace(path, dumps(sensors).encode())
    except OSError as error:
        remedy = "choose a file in a directory that this user may write"
        raise RegistryError(str(path), "file", f"cannot be written ({error.strerror})", remedy) from error


def dumps(sensors: Iterable[Sensor]) -> str:
    """Text of the file."""
    return _HEADER + "".join(f"\n[[sensor]]\n{_table(sensor)}" for sensor in sensors)


def _table(sensor: Sensor) -> str:
    # JSON's escapes are a subset of those of a TOML basic string, and no field holds a control character.
    values = msgspec.to_builtins(sensor).items()
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values if value is not None)


def _refuse_duplicates(path: Path, sensors: tuple[Sensor, ...]) -> None:
    for key in ("role", "name", "address"):
        value, count = (Counter(getattr(sensor, key) for sensor in sensors).most_common(1) or [("", 0)])[0]
        if count > 1:
            reason = f"{count} sensors with {key} {value!r}"
            raise RegistryError(str(path), f"sensor.{key}", reason, "keep one of them")


def _toml_place(error: tomllib.TOMLDecodeError) -> tuple[str, str]:
    """tomllib ends its message with "(at line 3, column 4)" or "(at end of document)"."""
    reason, found, place = str(error).rpartition(" (at ")
    return (place.rstrip(")"), reason) if found else ("file", str(error))


def _key_place(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec ends its message with " - at `$.sensor[0].role`"; an unknown key is named in the message itself."""
    reason, found, place = str(error).rpartition(" - at `$")
    return (place.strip("`."), reason) if found else ("file", str(error))
