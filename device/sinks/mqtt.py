"""Predictions and events to an MQTT 5 broker over TLS. What the broker has not taken waits on the disk, in order.

One thread owns the connection, so that a broker that hangs, or a name that is not found, holds up nobody else. We
subscribe to nothing. docs/MQTT.md says what is published and how a reader sees everything exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTv5, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from device.config import MqttConfig
from device.errors import SinkError
from device.sinks.base import Item, MadeBy, Written, device_id
from device.sinks.messages import OFFLINE, ONLINE, Messages, Stamp, Topics, discovery
from device.sinks.outbox import Outbox
from device.sinks.secret import load_certificate, read_box, read_secret
from device.sinks.sqlite import Run
from device.wall import host_ns
from firmware_bridge.packet import StreamInfo

IN_FLIGHT = 20
"""Messages on their way without an acknowledgement; a broker may ask for fewer."""
POLL_S = 0.25
"""Longest wait before the outbox is looked at again."""
CONNACK_S = 10.0
"""A broker that has not answered a connection by then hangs."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
REFUSED_PAUSE_S = 300.0
"""Between attempts while a person must do something; each pause is cut by up to half, lest a fleet come at once."""
STEADY_S = 300.0
"""A connection that has held this long was well: what breaks it is a new trouble."""
OFTEN = 2
"""Connections that were accepted and broke soon, after which it is no accident."""
LAST_S = 1.0
"""At the end, for what still waits; then it stays for the next start."""
JOIN_S = 1.5
"""At the end, for the thread; one that hangs in a connection attempt is left."""
HEARD_BYTES = 1 << 20
"""A broker has nothing to say to us but acknowledgements: one that sends more than this is not listened to."""
ACK_BYTES = 256
"""Of that, for each acknowledgement."""

_log = logging.getLogger(__name__)


class _LinkError(Exception):
    """The connection cannot go on; ``refused`` where only a person can help."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class MqttSink(Written):
    """Publishes for one run of the daemon."""

    name = "mqtt"

    def __init__(
        self,
        config: MqttConfig,
        run: Run,
        streams: Mapping[str, StreamInfo],
        run_id: str,
        *,
        dice: Callable[[], float] = random.random,
    ) -> None:
        """Open the outbox and begin to connect; raises SinkError for files that cannot be used."""
        self.device = config.device or device_id()
        self.topics = Topics(config.topic or f"affectd/{self.device}")
        self._config = config
        self._run = run
        self._streams = streams
        self._dice = dice
        self._stamp = Stamp(self.device, run_id)
        self._messages = Messages(self._stamp)
        self._tls = _tls(config) if config.tls else None
        self._password = read_secret("mqtt", "password", config.password_file)
        box = read_box("mqtt", "outbox_key", config.outbox_key_file)
        self._outbox = Outbox(Path(config.outbox), config.outbox_messages, run.subject, box)
        self._said = ""
        self._attempts = 0
        self._since_s = math.inf
        self._stop = threading.Event()
        self._deadline = 0.0
        if not config.tls and self._password is not None:
            _log.warning("sink mqtt: tls = false: the password goes to %s in the clear", config.host)
        self._thread = threading.Thread(target=self._serve, name="mqtt", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Messages that the broker has not taken yet."""
        return self._outbox.waiting

    @property
    def dropped(self) -> int:
        """Messages that the outbox's bound has cost."""
        return self._outbox.dropped

    def write(self, item: Item) -> None:
        """Put one on the disk, for the thread to send."""
        topic, payload = self._messages.of(item, time.time_ns() - host_ns())
        self._outbox.put(self.topics.of(topic), payload)

    async def renew(self, made_by: MadeBy) -> None:
        """What stays with the broker tells of this from now on, or as soon as it is there."""
        self._run = self._run.with_bundle(made_by)

    async def close(self) -> None:
        """Send what waits, for a moment; the rest stays for the next start."""
        self._deadline = time.monotonic() + LAST_S
        self._stop.set()
        await asyncio.to_thread(self._thread.join, JOIN_S)
        _log.info("sink mqtt: %d messages stay for the next start, %d dropped so far", self.waiting, self.dropped)
        self._outbox.close()

    def _serve(self) -> None:
        """The thread: one connection after the other."""
        while not self._stop.is_set():
            try:
                self._converse()
            except Exception as error:  # whatever a broker does must not end the sender
                if not self._stop.is_set():
                    self._pause(_trouble(error))

    def _pause(self, trouble: _LinkError) -> None:
        """Say what is new, and wait."""
        held_s, self._since_s = time.monotonic() - self._since_s, math.inf
        if held_s > STEADY_S:
            self._attempts, self._said = 0, ""
        pause_s = REFUSED_PAUSE_S if trouble.refused else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._attempts)
        often = self._attempts >= OFTEN and held_s > 0  # a broker need not say that it throws us out
        said = f"{trouble}{'; does another device have this name ([sinks.mqtt] device)?' if often else ''}"
        self._attempts = min(self._attempts + 1, 10)
        where = f"{self._config.host}:{self._config.port_number}"
        level = logging.DEBUG if said == self._said else logging.WARNING
        self._said = said
        _log.log(level, "sink mqtt: %s: %s; %d messages wait", where, said, self._outbox.waiting)
        self._stop.wait(pause_s * (1 - self._dice() / 2))

    def _converse(self) -> None:
        """One connection: say who we are, then send what is in the outbox, until it breaks or the end."""
        link = _Link(self._config, self.device, self.topics, self._tls, self._password)
        try:
            link.open()
            self._since_s = time.monotonic()
            _log.info("sink mqtt: connected to %s, %d messages wait", self._config.host, self._outbox.waiting)
            told = self._describe(link)
            link.keep(self.topics.availability, ONLINE.encode())
            link.settle()
            last = 0
            while not self._is_done():
                if told is not self._run:
                    link.settle()
                    told = self._describe(link)
                    link.settle()
                for message in self._outbox.after(last, link.room) if self._outbox.newest > last else ():
                    link.send(message.topic, message.payload, message.id)
                    last = message.id
                link.turn()
                if taken := link.taken():
                    self._outbox.remove(taken)
        finally:
            link.close()

    def _is_done(self) -> bool:
        return self._stop.is_set() and (self._outbox.waiting == 0 or time.monotonic() > self._deadline)

    def _describe(self, link: _Link) -> Run:
        """What stays with the broker for whoever comes later, and of which run that is told."""
        run = self._run
        outbox = {"waiting": self._outbox.waiting, "dropped": self._outbox.dropped}
        state = self._stamp.of_state(run, self._streams, outbox=outbox)
        link.keep(self.topics.state, msgspec.json.encode(state))
        if self._config.home_assistant:
            modalities = tuple(info.modality for info in self._streams.values())
            payload = discovery(self.device, self.topics, run, modalities)
            topic = f"{self._config.discovery_prefix}/device/affectd-{self.device}/config"
            link.keep(topic, msgspec.json.encode(payload))
        return run


class _Link(Client):
    """One connection, used by one thread. paho's own reconnecting and resending stay off: the outbox does both."""

    def __init__(
        self, config: MqttConfig, device: str, topics: Topics, tls: ssl.SSLContext | None, password: str | None
    ) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, f"affectd-{device}", protocol=MQTTv5, reconnect_on_failure=False)
        self._settings = config
        self._accepted = False
        self._asked = IN_FLIGHT
        self._most = 1  # until the first is taken, so that the reason is heard where it is refused
        self._under_way: dict[int, int | None] = {}  # packet identifier -> message of the outbox
        self._taken: list[int] = []
        self._heard = 0
        self._progress_s = time.monotonic()
        self._refusal: _LinkError | None = None
        self.on_connect = self._connected
        self.on_publish = self._acknowledged
        self.on_disconnect = self._disconnected
        if config.username is not None or password is not None:
            self.username_pw_set(config.username or "", password)
        self._tls = tls
        if tls is not None:
            self.tls_set_context(tls)
        self.will_set(topics.availability, OFFLINE, qos=1, retain=True)

    def open(self) -> None:
        """Connect and be accepted; raises OSError, _LinkError."""
        wishes = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wishes.MaximumPacketSize = HEARD_BYTES
        settings = self._settings
        self.connect(settings.host, settings.port_number, settings.keepalive, clean_start=True, properties=wishes)
        deadline = time.monotonic() + CONNACK_S
        while not self._accepted:
            self.turn()
            if time.monotonic() > deadline:
                raise _LinkError(f"no answer in {CONNACK_S:.0f} s")

    @property
    def room(self) -> int:
        """Messages that may be sent now."""
        return max(0, self._most - len(self._under_way))

    def send(self, topic: str, payload: bytes, message: int | None = None, retain: bool = False) -> None:
        """Send one; ``message`` comes back from ``taken`` once the broker has it."""
        if not self._under_way:
            self._progress_s = time.monotonic()
        info = self.publish(topic, payload, qos=1, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise _LinkError(error_string(info.rc))
        self._under_way[info.mid] = message

    def keep(self, topic: str, payload: bytes) -> None:
        """Send one that the broker retains."""
        self.send(topic, payload, retain=True)

    def taken(self) -> list[int]:
        """Messages acknowledged since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def turn(self) -> None:
        """Let the network work for a moment; raises _LinkError where the connection is at its end."""
        code = self.loop(POLL_S)
        if self._refusal is not None:
            raise self._refusal
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise _LinkError("the connection is lost" if self._accepted else "the broker closes the connection")
        if self._under_way and time.monotonic() - self._progress_s > 2 * self._settings.keepalive:
            raise _LinkError("no acknowledgement")

    def settle(self) -> None:
        """Turn until all is acknowledged; raises _LinkError."""
        while self._under_way:
            self.turn()

    def close(self) -> None:
        """Let go, in good order where that is possible; the broker publishes the will."""
        self.on_disconnect = None
        self.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        self._reset_sockets()  # else the collector may come to the sockets before paho's own clean-up does

    def _connected(
        self, client: Client, userdata: Any, flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            remedy = "; see [sinks.mqtt] username, password_file, certificate" if reason.value in _LOGIN else ""
            self._refusal = _LinkError(f"refused: {reason}{remedy}", refused=reason.value not in _PASSING)
            return
        self._accepted = True
        self._asked = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))

    def _acknowledged(
        self, client: Client, userdata: Any, mid: int, reason: ReasonCode, properties: Properties | None
    ) -> None:
        self._progress_s = time.monotonic()
        self._heard = max(0, self._heard - ACK_BYTES)
        message = self._under_way.pop(mid, None)
        if reason.is_failure:
            said = f"a message is refused: {reason}; this user must be allowed to write what docs/MQTT.md lists"
            self._refusal = _LinkError(said, refused=reason.value not in _PASSING)
        elif message is not None:
            self._taken.append(message)
            self._most = self._asked

    def _disconnected(
        self, client: Client, userdata: Any, flags: DisconnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server and self._refusal is None:
            taken_over = reason.value == _TAKEN_OVER
            remedy = "; give each device its own [sinks.mqtt] device" if taken_over else ""
            self._refusal = _LinkError(f"the broker ends it: {reason}{remedy}", refused=taken_over)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        """As paho's, which forgets the socket of a handshake that fails."""
        assert self._tls is not None
        secure = self._tls.wrap_socket(tcp_sock, server_hostname=self._settings.host, do_handshake_on_connect=False)
        try:
            secure.settimeout(self.connect_timeout)
            secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return secure

    def _sock_recv(self, bufsize: int) -> bytes:
        """As paho's; a packet says itself how long it is, so that only here can a broker be stopped from filling the
        memory.
        """
        data = super()._sock_recv(bufsize)
        self._heard += len(data)
        if self._heard > HEARD_BYTES:
            self._refusal = _LinkError(
                f"the broker sends what nobody asked for, over {HEARD_BYTES} bytes", refused=True
            )
            raise ConnectionAbortedError(str(self._refusal))
        return data


_LOGIN = (0x86, 0x87, 0x8C)
"""Reason codes: bad user name or password, not authorized, bad authentication method."""
_PASSING = (0x80, 0x88, 0x89, 0x97, 0x9F)
"""Reason codes that mend themselves: unspecified, unavailable, busy, quota exceeded, connection rate exceeded."""
_TAKEN_OVER = 0x8E


def _trouble(error: Exception) -> _LinkError:
    """What went wrong, in words."""
    match error:
        case _LinkError():
            return error
        case ssl.SSLCertVerificationError():
            reason = f"its certificate is not trusted ({error.verify_message}); name its CA in [sinks.mqtt] ca"
            return _LinkError(reason, refused=True)
        case ssl.SSLError():
            return _LinkError(f"no TLS ({error.reason or error}); see [sinks.mqtt] port, certificate", refused=True)
        case socket.gaierror():
            return _LinkError(f"the name is not found ({error.strerror})")
        case OSError():
            return _LinkError(error.strerror or str(error))
    return _LinkError(f"stopped by {error!r}")


def _tls(config: MqttConfig) -> ssl.SSLContext:
    """Of the system's CAs or the one named, with our certificate where there is one; raises SinkError."""
    try:
        context = ssl.create_default_context(cafile=config.ca)
    except OSError as error:
        raise SinkError(f"mqtt: {config.ca}", f"no CA: {error}", "name a PEM file in [sinks.mqtt] ca") from error
    if config.certificate is not None:
        load_certificate(context, "mqtt", config.certificate, config.key)
    return context
