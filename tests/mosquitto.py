"""A real mosquitto on a port of loopback, a reader that misses nothing, and certificates made for the occasion."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

UNPACKED = Path(__file__).parent.parent / ".tools" / "mosquitto"
DEADLINE_S = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.02)


def tool(name: str, folder: str) -> str:
    """Path of one of mosquitto's programs; skips the test, saying why, where there is none."""
    places = f"{os.environ['PATH']}:/usr/sbin:{UNPACKED / 'usr' / folder}"
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"no {name} here: run scripts/mosquitto, or apt-get install mosquitto")
    return found


def environment() -> dict[str, str]:
    libraries = [str(path) for path in UNPACKED.glob("usr/lib/*-linux-gnu*")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """Keeps sessions and retained messages over a restart."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._program = tool("mosquitto", "sbin")
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        anonymous = () if any("password_file" in line for line in lines) else ("allow_anonymous true",)
        config = (
            *(f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/"),
            *("max_queued_messages 0", "log_dest stdout", *anonymous, *lines),
        )
        (folder / "mosquitto.conf").write_text("\n".join(config) + "\n")
        if os.geteuid() == 0:  # as root it becomes this user
            with (folder / "mosquitto.conf").open("a") as file:
                file.write("user root\n")

    def start(self) -> Self:
        with (self.folder / "log").open("ab") as log:
            command = [self._program, "-c", str(self.folder / "mosquitto.conf")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
        until(self._listens, f"a broker on port {self.port}: {(self.folder / 'log').read_text()}")
        return self

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, (self.folder / "log").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Reader:
    """Subscribes with a session that outlives every connection, so that what it has not seen was not sent."""

    def __init__(self, broker: Broker, topic: str = "affectd/#", **login: str) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._subscribed = threading.Event()
        self._topic = topic
        self._client = Client(CallbackAPIVersion.VERSION2, f"reader-{broker.port}", protocol=MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._hear
        if login:
            self._client.username_pw_set(**login)
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", broker.port, clean_start=False, properties=session)
        self._client.loop_start()
        assert self._subscribed.wait(DEADLINE_S)

    def _hear(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        self.messages.append((message.topic, message.payload, message.retain))

    def of(self, topic: str) -> list[Any]:
        """Payloads of one topic, in the order they came."""
        return [json.loads(payload) for name, payload, _ in self.messages if name == topic]

    def last(self, topic: str) -> bytes | None:
        return next((payload for name, payload, _ in reversed(self.messages) if name == topic), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # paho leaves that to the collector


def once(payloads: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The rule of docs/MQTT.md for a reader: of equal (run, index) the first counts."""
    return list(dict.fromkeys((payload["run"], payload["index"]) for payload in payloads))


@dataclass(frozen=True)
class Certificates:
    """PEM files of a CA and of a server at 127.0.0.1 that it vouches for."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        folder.mkdir()
        ca_key, ca = _signed("affectd test CA", None, None)
        key, certificate = _signed("127.0.0.1", ca_key, ca)
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return made

    def lines(self) -> tuple[str, ...]:
        """What a broker's configuration says of them."""
        return f"cafile {self.ca}", f"certfile {self.certificate}", f"keyfile {self.key}"


def _signed(
    name: str, issuer_key: ec.EllipticCurvePrivateKey | None, issuer: x509.Certificate | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer_key or key
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        place = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
        builder = builder.add_extension(place, critical=False)
    return key, builder.sign(signer, hashes.SHA256())
