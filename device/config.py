"""The daemon's configuration: one frozen object per TOML table, every key checked, contradictions refused.

It knows nothing of how the values are used.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from device.errors import ConfigError
from firmware_bridge.daemon_client import DEFAULT_SOCKET
from firmware_bridge.registry import Sensor, is_address
from firmware_bridge.registry import read as read_registry

Runtime = Literal["auto", "ai-edge-litert", "tflite-runtime"]
LogLevel = Literal["debug", "info", "warning", "error"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
PlainName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
Origin = Annotated[str, msgspec.Meta(pattern="^https?://[^/?#\\s]+$")]
HostName = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9.-]{1,253}$")]


class InferenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[inference]``."""

    bundle: str | None = None
    """Model bundle; the one shipped with affectd if not given."""
    calibrated: str | None = None
    """Bundle to use instead where the wearer's profile serves it."""
    trusted: str | None = None
    """File of public keys, like ``authorized_keys``: a bundle that none of them has signed is refused."""
    runtime: Runtime = "auto"
    """TFLite runtime; ``auto`` takes the first that is installed."""
    threads: Count = 1
    """Threads of the runtime. One is enough: a window is classified in milliseconds."""


class PersonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[person]``."""

    subject: PlainName | None = None
    """What a study calls the wearer, in recordings and results, so that `affectd erase --subject` finds all of it."""
    profile: str | None = None
    """File of the wearer's resting baseline, which `affectd baseline` records, and labels; without it cold start."""


class RadioConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[radio]``."""

    adapter: str | None = None
    """Bluetooth adapter, by its address; the machine's default one if not given."""
    registry: str | None = None
    """File of the sensors paired with affectd-pair, read where there is no ``[[sensors]]`` table."""

    def __post_init__(self) -> None:
        if self.adapter is not None and not is_address(self.adapter):
            raise ValueError(f"{self.adapter!r}: expected an address like B8:27:EB:00:00:01, in upper case")


class ControlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[control]``."""

    socket: str = str(DEFAULT_SOCKET)
    """UNIX socket for `affectd status` and affectd-pair."""
    state: str = "/var/lib/affectd/pause.json"
    """File of a pause for privacy, so that a restart does not end it."""


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[log]``."""

    level: LogLevel = "info"
    """The least that is logged: to the journal as a service, else to stderr. Nothing the sensors measure is."""


class RecordingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[recording]``."""

    directory: str = "/var/lib/affectd/recordings"
    """Where the raw notifications go, in segments."""
    fsync_s: Positive = 5.0
    """A power cut takes at most the data of this many seconds."""
    recipients: str | None = None
    """File of age public keys for which it is encrypted; without it, it is not."""
    segment_s: Positive = 3600.0
    """Length of a segment, recorded time; a run of the daemon begins a new one."""
    compress: bool = True
    """Whether a segment that has ended is compressed, to two fifths; every tool reads it as it is."""
    keep_days: Count | None = None
    """Days of recording after which a segment is deleted; without it none is. Time in which affectd did not record does
    not count, because a device without a clock cannot tell it."""
    max_bytes: Count | None = None
    """Bytes that all segments may take: beyond it the oldest are deleted."""
    min_free_bytes: Annotated[int, msgspec.Meta(ge=0)] = 256 << 20
    """Bytes of the disk that are left to results and the system: below it the oldest segments are deleted, and with
    none left nothing is recorded until there is room; predictions go on."""


class JsonlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[sinks.jsonl]``."""

    path: str
    """File that gets one line of JSON per prediction, event and reading of the wall clock, appended."""
    recipients: str | None = None
    """File of age public keys for which the lines are encrypted; without it, they are not."""
    queue: Count = 256
    """Predictions that may wait for the disk; beyond it the oldest is dropped and counted."""


class SqliteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[sinks.sqlite]``."""

    path: str
    """Database that gets a row per prediction and event."""
    recipients: str | None = None
    """File of age public keys for which the rows are encrypted; without it, they are not."""
    queue: Count = 256
    """Predictions that may wait for the disk; beyond it the oldest is dropped and counted."""


class MqttConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[sinks.mqtt]``."""

    host: str
    """Broker, by the name that its certificate bears."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    """Its port; 8883, or 1883 where ``tls`` is false, if not given."""
    tls: bool = True
    """Whether the connection is encrypted and the broker proves who it is; only a written ``false`` turns it off."""
    ca: str | None = None
    """PEM file of the CA that vouches for the broker; the system's CAs if not given."""
    certificate: str | None = None
    """PEM file of this device's own certificate, where the broker wants one."""
    key: str | None = None
    """PEM file of the certificate's key, without a passphrase; in the certificate's file if not given."""
    username: str | None = None
    """Name that the broker knows this device by."""
    password_file: str | None = None
    """File of the password, for its owner's eyes only; systemd's credential ``mqtt_password`` if not given."""
    device: PlainName | None = None
    """Name of this device, unlike any other's; of host name and machine id if not given."""
    topic: Annotated[str, msgspec.Meta(pattern="^[^+#$/\\x00][^+#\\x00]{0,199}$")] | None = None
    """Topic below which everything is published; ``affectd/DEVICE`` if not given."""
    keepalive: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30
    """Seconds of silence after which either side asks whether the other is there."""
    home_assistant: bool = False
    """Whether Home Assistant is told of this device, so that it shows it."""
    discovery_prefix: Annotated[str, msgspec.Meta(pattern="^[^+#$\\x00]{1,100}$")] = "homeassistant"
    """Where Home Assistant looks for devices."""
    outbox: str = "/var/lib/affectd/mqtt-outbox.db"
    """File of the messages that wait while the broker is away."""
    outbox_messages: Count = 600_000
    """How many may wait: a month, one in 5 s, about 400 MB; beyond it the oldest is dropped and counted."""
    outbox_key_file: str | None = None
    """File of the key with which they are encrypted, 64 hexadecimal digits for the owner's eyes only; systemd's
    credential ``mqtt_outbox_key`` if not given. With neither, they are not encrypted."""
    queue: Count = 256
    """Predictions that may wait for the disk; beyond it the oldest is dropped and counted."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host is empty: name the broker")
        if self.key is not None and self.certificate is None:
            raise ValueError("key without certificate: name the file of the certificate too")
        if not self.tls and (self.ca is not None or self.certificate is not None):
            raise ValueError("ca or certificate with tls = false: without TLS nobody looks at them")

    @property
    def port_number(self) -> int:
        """The port, given or not."""
        return self.port or (8883 if self.tls else 1883)


class LslConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[sinks.lsl]``."""

    scope: Literal["machine", "link", "site"] = "machine"
    """Who can read: this machine, its network segment, or the site; LSL asks nobody for a password."""
    device: PlainName | None = None
    """Name of this device, unlike any other's; of host name and machine id if not given."""
    chunks: Count = 1024
    """Pieces of raw signal that may wait: minutes; beyond it the oldest is dropped and counted."""
    queue: Count = 256
    """Predictions that may wait; beyond it the oldest is dropped and counted."""


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table ``[sinks.http]``."""

    host: str = "127.0.0.1"
    """Address to listen at; one that can be reached from elsewhere wants a token, and TLS."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8766
    """Port to listen at."""
    token_file: str | None = None
    """File of the token that readers show, for its owner's eyes only; systemd's credential ``http_token`` if not given.
    On 127.0.0.1 there need be none, and then every program and user of this machine can read."""
    tls: bool = True
    """Whether connections from elsewhere are encrypted; only a written ``false`` turns it off."""
    certificate: str | None = None
    """PEM file of this device's certificate."""
    key: str | None = None
    """PEM file of the certificate's key, without a passphrase; in the certificate's file if not given."""
    names: tuple[HostName, ...] = ()
    """Names by which readers ask for this device, beside addresses and its host name; others are refused."""
    origins: tuple[Origin, ...] = ()
    """Web pages that may read, as ``http://localhost:3000``; all others are refused."""
    device: PlainName | None = None
    """Name of this device, unlike any other's; of host name and machine id if not given."""
    log: str = "/var/lib/affectd/http-log.db"
    """File of the messages that readers may still ask for."""
    log_messages: Count = 120_000
    """How many are kept: a week, one in 5 s, about 80 MB; the oldest goes first, and who comes late is told."""
    log_key_file: str | None = None
    """File of the key with which they are encrypted, 64 hexadecimal digits for the owner's eyes only; systemd's
    credential ``http_log_key`` if not given. With neither, they are not encrypted."""
    readers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    """Readers at the same time; one more is refused."""
    queue: Count = 256
    """Predictions that may wait for the disk; beyond it the oldest is dropped and counted."""

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            raise ValueError(f"host {self.host!r}: expected an address, as 127.0.0.1, or 0.0.0.0 for all") from None
        if self.key is not None and self.certificate is None:
            raise ValueError("key without certificate: name the file of the certificate too")
        if not self.tls and self.certificate is not None:
            raise ValueError("certificate with tls = false: keep one of them")
        if not self.is_loopback and self.tls and self.certificate is None:
            raise ValueError(
                f"host {self.host} can be reached from elsewhere: name a certificate, or write tls = false"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether nobody can reach it from elsewhere."""
        return ipaddress.ip_address(self.host).is_loopback


class SinksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tables ``[sinks.*]``; a sink without a table is off."""

    jsonl: JsonlConfig | None = None
    """Predictions as lines of JSON."""
    sqlite: SqliteConfig | None = None
    """Predictions and events in a database."""
    mqtt: MqttConfig | None = None
    """Predictions and events to a broker."""
    lsl: LslConfig | None = None
    """Raw signals, predictions and events as Lab Streaming Layer outlets."""
    http: HttpConfig | None = None
    """Predictions and events to programs that ask, live over WebSocket."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    sensors: tuple[Sensor, ...] = ()
    """One table ``[[sensors]]`` each, with the keys of the registry of paired sensors; one sensor per role."""
    radio: RadioConfig = RadioConfig()
    control: ControlConfig = ControlConfig()
    log: LogConfig = LogConfig()
    inference: InferenceConfig = InferenceConfig()
    person: PersonConfig = PersonConfig()
    recording: RecordingConfig = RecordingConfig()
    sinks: SinksConfig = SinksConfig()

    def __post_init__(self) -> None:
        if not self.sensors and self.radio.registry is None:
            raise ValueError("no sensor: [[sensors]] tables are needed, or [radio] registry = FILE of affectd-pair")
        if self.sensors and self.radio.registry is not None:
            raise ValueError("sensors twice: in [[sensors]] tables and in [radio] registry; keep one of them")
        if self.inference.calibrated is not None and self.person.profile is None:
            raise ValueError("[inference] calibrated without [person] profile: name the file for the wearer's baseline")
        for key in ("role", "name", "address"):
            _refuse_twice(key, (getattr(sensor, key) for sensor in self.sensors))


def sensors_of(config: Config) -> tuple[Sensor, ...]:
    """The sensors, from affectd-pair's file where the configuration names it; raises ConfigError, RegistryError."""
    if config.radio.registry is None:
        return config.sensors
    path = Path(config.radio.registry)
    sensors = read_registry(path)
    if not sensors:
        raise ConfigError(path, "", "no sensor in it", f"pair one: `affectd-pair --file {path} add`")
    return sensors


def profile_of(config: Config) -> Path | None:
    """The file of the wearer's profile, where there is to be one."""
    return None if config.person.profile is None else Path(config.person.profile)


def _refuse_twice(key: str, values: Iterable[str]) -> None:
    value, count = (Counter(values).most_common(1) or [("", 0)])[0]
    if count > 1:
        raise ValueError(f"{count} sensors with {key} {value!r}: each needs its own")


def load_config(path: Path) -> Config:
    """Read and check a file; raises ConfigError that names the line."""
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        remedy = "name a file that exists and may be read; `affectd config example` prints one"
        raise ConfigError(path, "", f"cannot be read: {error.strerror}", remedy) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"not UTF-8 at byte {error.start}", "save it as UTF-8") from error
    return parse_config(text, path)


def parse_config(text: str, path: Path = Path("config.toml")) -> Config:
    """Check a text; raises ConfigError that names the line of ``path``."""
    try:
        return msgspec.convert(tomllib.loads(text), Config)
    except msgspec.ValidationError as error:
        raise _invalid(text, path, str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(path, str(error)) from error
    except (ValueError, RecursionError) as error:  # what tomllib lets through: absurd numbers, absurd nesting
        raise ConfigError(path, "", f"not TOML that can be read: {error}", _REMEDY) from error


_REMEDY = "compare with `affectd config example`"


def _not_toml(path: Path, message: str) -> ConfigError:
    """tomllib ends its message with "(at line 3, column 4)" or "(at end of document)"."""
    reason, _, place = message.rpartition(" (at ")
    found = re.match(r"line (\d+)", place)
    return ConfigError(path, int(found[1]) if found else place.rstrip(")"), f"not TOML: {reason or message}", _REMEDY)


def _invalid(text: str, path: Path, message: str) -> ConfigError:
    """msgspec says "Object contains unknown field `x` - at `$.recording`"; the root has no "at"."""
    reason, _, place = message.partition(" - at `$")
    keys = _keys(place.rstrip("`"))
    unknown = re.search(r"unknown field `(.*)`", reason)
    if unknown:
        known = _known(keys)
        reason, keys, remedy = f"unknown key {unknown[1]!r}", (*keys, unknown[1]), _suggest(unknown[1], known)
    else:
        reason, remedy = reason.replace("Object missing required field", "missing key"), _REMEDY
    dotted = ".".join(str(key) for key in keys)
    line = _line(text, keys)
    return ConfigError(path, line or dotted, f"{dotted}: {reason}" if line and dotted else reason, remedy)


def _keys(place: str) -> tuple[str | int, ...]:
    """``.sensors[0].role`` to ("sensors", 0, "role")."""
    return tuple(int(index) if index else name for name, index in re.findall(r"\.?([\w-]+)|\[(\d+)\]", place))


def _known(keys: Iterable[str | int]) -> tuple[str, ...]:
    """Fields of the struct that a path of keys leads to."""
    struct: type[msgspec.Struct] = Config
    for key in keys:
        if isinstance(key, int):
            continue
        kind = next(field.type for field in msgspec.structs.fields(struct) if field.name == key)
        struct = next(part for part in (kind, *get_args(kind)) if hasattr(part, "__struct_fields__"))
    return struct.__struct_fields__


def _suggest(key: str, known: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known here: {', '.join(known)}"


class _Place(NamedTuple):
    """Where a key or a table's header stands."""

    keys: tuple[str | int, ...]
    line: int


_TABLE = re.compile(r"\s*(\[\[?)\s*([\w.\s\"'-]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


def _places(text: str) -> Iterable[_Place]:
    """Every line that starts a table or sets a key. Enough for this file's keys: a line inside a multi-line string
    may look like one, and can then at worst give a message a wrong line.
    """
    table: tuple[str | int, ...] = ()
    arrays: Counter[tuple[str, ...]] = Counter()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _TABLE.match(line):
            names = _names(header[2])
            table = names
            if header[1] == "[[":
                table = (*names, arrays[names])
                arrays[names] += 1
            yield _Place(table, number)
        elif key := _KEY.match(line):
            yield _Place((*table, *_names(key[1])), number)


def _names(dotted: str) -> tuple[str, ...]:
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))


def _line(text: str, keys: tuple[str | int, ...]) -> int | None:
    """Line of a key, or of the innermost table around it that has one."""
    lines: dict[tuple[str | int, ...], int] = {}
    for place in _places(text):
        for depth in range(1, len(place.keys) + 1):
            lines.setdefault(place.keys[:depth], place.line)
    while keys and keys not in lines:
        keys = keys[:-1]
    return lines.get(keys)


def config_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file, every key with what it means."""
    schema, components = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    structs: tuple[type[msgspec.Struct], ...] = (Config, Sensor, *_tables(Config))
    for kind in structs:
        documented = _documented(kind)
        for name, said in components[kind.__name__]["properties"].items():
            if words := documented.get(name):
                said["description"] = words
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "affectd configuration",
        **schema[0],
        "$defs": components,
    }


def _tables(struct: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """Structs of the tables inside a table, at any depth."""
    for found in msgspec.structs.fields(struct):
        for part in (found.type, *get_args(found.type)):
            if isinstance(part, type) and issubclass(part, msgspec.Struct):
                yield part
                yield from _tables(part)


def _documented(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Field -> the string that stands below it in the source; nothing where there is no source."""
    import ast
    import inspect
    import textwrap

    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Constant):
            found[field.target.id] = " ".join(str(text.value).split())
    return found


def example_config() -> str:
    """A whole file with every key, its meaning and its default."""
    return _EXAMPLE


_EXAMPLE = """\
# Configuration of affectd, read by `affectd run --config FILE`; `affectd config check FILE` tells whether it is right.

[inference]
# Model bundle; without this line the one shipped with affectd.
# bundle = "/etc/affectd/my-model.affect"
# Bundle to use instead once the wearer has recorded a resting baseline (`affectd baseline`); wants [person] profile.
# calibrated = "/etc/affectd/my-calibrated-model.affect"
# Public keys, a line `ssh-ed25519 AAAA... NAME` each: only bundles that one of them has signed are run, and so not the
# shipped one. `affectd-quantize sign` signs. Wants `pip install 'affectd[sign]'`.
# trusted = "/etc/affectd/trusted_keys"
# "auto" takes the first TFLite runtime that is installed; else "ai-edge-litert" or "tflite-runtime".
runtime = "auto"
# Threads of the runtime. One is enough: a window is classified in milliseconds.
threads = 1

[person]
# What a study calls the wearer, not the name: letters, digits, - and _. It stands in recordings and results, so that
# `affectd erase --subject` finds all of it. Change it with the wearer, and restart.
# subject = "P07"
# Where `affectd baseline` keeps how the wearer is at rest, for the owner's eyes only; without it cold start.
# `affectd label` keeps its labels there too.
# profile = "/var/lib/affectd/person.json"

[radio]
# Bluetooth adapter by its address; without this line the machine's default one. Its number may change, its address not.
# adapter = "B8:27:EB:00:00:01"
# File of the sensors that affectd-pair added; takes the place of the [[sensors]] tables below.
# registry = "/var/lib/affectd/sensors.toml"

[control]
# UNIX socket at which `affectd status` and affectd-pair ask this daemon.
socket = "/run/affectd/affectd.sock"
# Where `affectd pause` is remembered, so that a restart does not end a pause.
state = "/var/lib/affectd/pause.json"

[log]
# The least that is logged, to the journal as a service, else to stderr: "debug", "info", "warning" or "error".
level = "info"

[recording]
# Where the raw notifications go, in segments, for the owner's eyes only.
directory = "/var/lib/affectd/recordings"
# A power cut takes at most the data of this many seconds.
fsync_s = 5.0
# Public keys, a line `age1...` each (`age-keygen` makes the pairs): only who has one's private key, which does not
# belong on this device, can read what is recorded. Wants `pip install 'affectd[encrypt]'`.
# recipients = "/etc/affectd/recipients"
# Length of a segment in seconds; a run of the daemon begins a new one. `affectd replay` takes all of a run as one.
segment_s = 3600.0
# A segment that has ended is compressed (xz), to two fifths; every tool reads it as it is. Encrypted ones are not.
compress = true
# Days of recording after which a segment is deleted; without this line none is. Time in which affectd did not record
# does not count, because a device without a clock cannot tell it.
# keep_days = 30
# Bytes that all segments may take: beyond it the oldest are deleted. Without this line as many as the disk takes.
# max_bytes = 4000000000
# Bytes of the disk that are left to results and the system: below it the oldest segments are deleted, and with none
# left nothing is recorded until there is room. Predictions go on, and affectd never deletes any.
min_free_bytes = 268435456

# One [[sensors]] table for each paired sensor, at most one per role.
[[sensors]]
# What affectd takes from it: "ecg" (chest) or "eda" (wrist).
role = "ecg"
# What people call it.
name = "chest strap"
# Bluetooth address, in upper case; `affectd-pair list` shows it.
address = "A0:9E:1A:00:00:01"
# How it speaks: "polar-pmd-ecg" (Polar H10) or "open-eda".
protocol = "polar-pmd-ecg"
# Rate in Hz, where it is not the protocol's own default: the sensor is set to it, or refused.
# sfreq = 130.0
# Whether it is bonded; affectd never drops a bond without being asked.
# bonded = true

[[sensors]]
role = "eda"
name = "wristband"
address = "A0:9E:1A:00:00:02"
protocol = "open-eda"

# A sink without a table is off.
[sinks.jsonl]
# One line of JSON per prediction, event and reading of the wall clock, appended, for the owner's eyes only.
path = "/var/lib/affectd/predictions.jsonl"
# Public keys, as for recordings: only who has one's private key can read the lines (`affectd results export`).
# recipients = "/etc/affectd/recipients"
# Predictions that may wait for the disk; beyond it the oldest is dropped and counted.
queue = 256

[sinks.sqlite]
# A database with a row per prediction and event, each on the disk at once, for the owner's eyes only. Its view
# `timeline` has all of them with wall times: `sqlite3 results.db 'SELECT * FROM timeline'`.
path = "/var/lib/affectd/results.db"
# Public keys, as for recordings: only who has one's private key can read the rows (`affectd results export`).
# recipients = "/etc/affectd/recipients"
# As above.
queue = 256

# Predictions and events to an MQTT 5 broker; docs/MQTT.md has topics and payloads. Wants `pip install 'affectd[mqtt]'`.
# [sinks.mqtt]
# Broker, by the name that its certificate bears; port 8883, or 1883 where tls is false, unless another is given.
# host = "broker.example.org"
# port = 8883
# false: no encryption, and anybody may pose as the broker.
# tls = true
# CA that vouches for the broker, as a PEM file; without this line the system's CAs.
# ca = "/etc/affectd/ca.pem"
# This device's own certificate and its key, where the broker wants one.
# certificate = "/etc/affectd/device.pem"
# key = "/etc/affectd/device.key"
# The password is in a file that its owner alone may read; without this line systemd's credential mqtt_password.
# username = "device-07"
# password_file = "/etc/affectd/mqtt_password"
# Name of this device, unlike any other's; without this line of host name and machine id.
# device = "device-07"
# Without this line affectd/DEVICE.
# topic = "affectd/device-07"
# Seconds of silence after which either side asks whether the other is there.
# keepalive = 30
# Tells Home Assistant of this device, below the topic where it looks for devices.
# home_assistant = false
# discovery_prefix = "homeassistant"
# What waits while the broker is away: a month, one in 5 s, about 400 MB; beyond it the oldest is dropped and counted.
# outbox = "/var/lib/affectd/mqtt-outbox.db"
# outbox_messages = 600000
# Encrypts it with a key (`openssl rand -hex 32`) that its owner alone may read, best not on the same card; without this
# line systemd's credential mqtt_outbox_key.
# outbox_key_file = "/etc/affectd/mqtt_outbox_key"
# As above.
# queue = 256

# Raw signals, predictions and events as Lab Streaming Layer outlets (docs/LSL.md). Wants `pip install 'affectd[lsl]'`.
# [sinks.lsl]
# "machine": only programs on this machine can read; "link" or "site": everybody on its network can.
# scope = "machine"
# Name of this device, as above.
# device = "device-07"
# Pieces of raw signal that may wait: minutes; beyond it the oldest is dropped and counted.
# chunks = 1024
# As above.
# queue = 256

# Predictions and events to programs that ask, live over WebSocket (docs/API.md). Wants `pip install 'affectd[web]'`.
# [sinks.http]
# Address and port to listen at; an address that can be reached from elsewhere (0.0.0.0: all) wants a token, and TLS.
# host = "127.0.0.1"
# port = 8766
# The token that readers show is in a file that its owner alone may read; without this line systemd's credential
# http_token. With neither, every program and user of this machine can read, and nobody else.
# token_file = "/etc/affectd/http_token"
# false: others can listen in on what goes to elsewhere.
# tls = true
# This device's certificate and its key.
# certificate = "/etc/affectd/device.pem"
# key = "/etc/affectd/device.key"
# Names by which readers ask for this device, beside addresses and its host name.
# names = ["device-07.lab.example.org"]
# Web pages that may read; all others are refused.
# origins = ["http://localhost:3000"]
# Name of this device, as above.
# device = "device-07"
# What a reader that was away may still ask for: a week, one in 5 s, about 80 MB; one that comes too late is told.
# log = "/var/lib/affectd/http-log.db"
# log_messages = 120000
# Encrypts it, as above; without this line systemd's credential http_log_key.
# log_key_file = "/etc/affectd/http_log_key"
# Readers at the same time; one more is refused.
# readers = 16
# As above.
# queue = 256
"""
