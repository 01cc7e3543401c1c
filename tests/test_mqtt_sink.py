"""The MQTT sink before a real mosquitto: everything arrives, in order, once by the rule, whatever happens between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import stat
import subprocess
import sys
import threading
import tomllib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from jsonschema import Draft202012Validator
from mosquitto import Broker, Certificates, Reader, environment, once, tool, until
from mqtt_sinks import ANOTHER, STREAMS, configured
from test_daemon import CHEST, WRIST, daemon_config, published
from test_sqlite_sink import RUN, SURE, UNSURE

from device.config import MqttConfig
from device.daemon import run
from device.errors import SinkError
from device.notification import ClockReading, Event
from device.sinks.base import MadeBy, QueuedSink, device_id
from device.sinks.jsonl import JsonlSink
from device.sinks.messages import SCHEMA, Stamp, Topics, discovery
from device.sinks.mqtt import HEARD_BYTES, MqttSink
from device.sinks.outbox import OUTBOX, Outbox
from device.sinks.secret import read_secret
from device.sources.virtual import VirtualSource

DOCS = Path(__file__).parent.parent / "docs"
SCHEMAS = json.loads((DOCS / "mqtt.schema.json").read_text())
BASE = "affectd/dev"
WRITER = """
import sys, time, uuid
from dataclasses import replace
sys.path.insert(0, {tests!r})
from pathlib import Path
from device.sinks.mqtt import MqttSink
from mqtt_sinks import RUN, STREAMS, SURE, configured
sink = MqttSink(configured({port}, Path({folder!r})), RUN, STREAMS, uuid.uuid4().hex, dice=lambda: 1.0)
for index in range({first}, {first} + 100_000):
    sink.write(replace(SURE, index=index))
    print(index, flush=True)
    if index >= {hold}:
        time.sleep(3600)
"""


def sink_of(config: MqttConfig) -> MqttSink:
    return MqttSink(config, RUN, STREAMS, uuid.uuid4().hex, dice=lambda: 1.0)


@asynccontextmanager
async def running(config: MqttConfig) -> AsyncIterator[MqttSink]:
    sink = sink_of(config)
    try:
        yield sink
    finally:
        await sink.close()


READING = ClockReading(75_500_000_000, 1_700_000_000_250_000_000, 3_000_000_000, True)


def fill(sink: MqttSink, *indices: int) -> None:
    for index in indices:
        sink.write(replace(SURE, index=index))


def closed(sink: MqttSink) -> None:
    asyncio.run(sink.close())


def check(kind: str, payload: object) -> None:
    Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": SCHEMAS["$defs"]}).validate(payload)


def test_all_that_is_published_is_what_the_schema_says(tmp_path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMAS)
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        sink = sink_of(configured(broker.port, tmp_path))
        events = Event(75_000_000_000, "stroop start"), Event(76_000_000_000, "stroop end")
        for item in (READING, SURE, events[0], UNSURE, events[1]):
            asyncio.run(sink.publish(item))
        until(lambda: len(reader.messages) >= 7 and not sink.waiting, "seven messages")
        closed(sink)
        until(lambda: reader.last(f"{BASE}/availability") == b"offline", "offline")
    kinds = ("prediction", "event", "clock", "state")
    predictions, events, (clock,), (state,) = (reader.of(f"{BASE}/{kind}") for kind in kinds)
    for kind, payloads in zip(kinds, (predictions, events, [clock], [state]), strict=True):
        for payload in payloads:
            check(kind, payload)
            assert payload["schema"] == SCHEMA and payload["run"] == state["run"]
    told = [{**p.to_json(), "problems": {k: list(v) for k, v in p.problems.items()}} for p in (SURE, UNSURE)]
    assert [{key: got[key] for key in want} for got, want in zip(predictions, told, strict=True)] == told
    assert [(e["index"], e["time"], e["description"]) for e in events] == [
        (0, 75.0, "stroop start"),
        (1, 76.0, "stroop end"),
    ]
    assert [s["name"] for s in state["sensors"]] == ["chest", "wrist"] and state["bundle"]["name"] == RUN.bundle
    assert (clock["index"], clock["time"], clock["wall"]) == (0, 75.5, "2023-11-14T22:13:20.250Z")
    assert (clock["asleep_s"], clock["is_synchronised"]) == (3.0, True)
    said = [payload for topic, payload, _ in reader.messages if topic.endswith("availability")]
    assert said == [b"online", b"offline"]
    with pytest.raises(Exception, match="nobody"):
        check("event", {**events[0], "nobody": "knows"})


def test_who_comes_later_finds_state_availability_and_discovery(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        sink = sink_of(configured(broker.port, tmp_path, home_assistant=True))
        fill(sink, 1)
        until(lambda: not sink.waiting, "the prediction is with the broker")
        with Reader(broker, "#") as reader:
            until(lambda: len(reader.messages) >= 3, "three retained messages")
            closed(sink)
    retained = {topic: payload for topic, payload, is_retained in reader.messages if is_retained}
    assert set(retained) == {f"{BASE}/availability", f"{BASE}/state", "homeassistant/device/affectd-dev/config"}
    told = json.loads(retained["homeassistant/device/affectd-dev/config"])
    assert told["device"]["identifiers"] == ["affectd-dev"] and told["origin"]["name"] == "affectd"
    entities = told["components"]
    assert set(entities) == {"label", "probability", "abstained", "quality_ecg", "quality_eda", "connected"}
    assert len({entity["unique_id"] for entity in entities.values()}) == len(entities)
    for key, entity in entities.items():
        topic = "availability" if key == "connected" else "prediction"
        assert entity["state_topic"] == f"{BASE}/{topic}"
        assert (entity.get("availability_topic") == f"{BASE}/availability") == (key != "connected")


def test_another_bundle_is_told_anew_to_whoever_comes_later(tmp_path: Path) -> None:
    """While the broker is there, and while it is away; what lay between is all there."""
    config = configured(0, tmp_path, home_assistant=True)
    with Broker(tmp_path / "broker") as broker, Reader(broker, "#") as reader:
        sink = sink_of(msgspec.structs.replace(config, port=broker.port))
        fill(sink, 1)
        until(lambda: not sink.waiting, "the first is with the broker")
        asyncio.run(sink.renew(ANOTHER))
        fill(sink, 2)
        until(lambda: len(reader.of(f"{BASE}/state")) == 2 and not sink.waiting, "the second state")
        broker.stop()
        asyncio.run(sink.renew(MadeBy("third", "3" * 64, ())))
        fill(sink, 3)
        broker.start()
        until(lambda: len(reader.of(f"{BASE}/state")) >= 3 and not sink.waiting, "the third state")
        closed(sink)
        until(lambda: reader.last(f"{BASE}/availability") == b"offline", "offline")
    states, devices = reader.of(f"{BASE}/state"), reader.of("homeassistant/device/affectd-dev/config")
    for state in states:
        check("state", state)
    told = [RUN.bundle, "another", "third"]  # the reader, too, comes again, and gets what is retained
    assert list(dict.fromkeys(it["bundle"]["name"] for it in states)) == told
    assert list(dict.fromkeys(it["device"]["model"] for it in devices)) == told
    assert states[1]["bundle"]["sha256"] == "1" * 64 and len({it["run"] for it in states}) == 1
    assert [it["index"] for it in reader.of(f"{BASE}/prediction")] == [1, 2, 3]


def test_the_entities_of_a_sensor_that_is_here_no_more_are_removed() -> None:
    """Home Assistant removes an entity of which it is told the platform and nothing else."""
    both, one = (discovery("dev", Topics(BASE), RUN, it)["components"] for it in (("ecg", "eda"), ("ecg",)))
    assert one.pop("quality_eda") == {"platform": "sensor"}
    assert {key: both[key] for key in one} == one and set(both) - set(one) == {"quality_eda"}


def test_home_assistant_s_templates_give_what_the_prediction_says(tmp_path: Path) -> None:
    from jinja2 import Environment

    entities = discovery("dev", Topics(BASE), RUN, ("ecg", "eda"))["components"]
    shown = {}
    for name, item in (("sure", SURE), ("unsure", UNSURE)):
        payload = Stamp("dev", "0" * 32).of_prediction(replace(item, sqi={"ecg": 0.9}), 0)
        shown[name] = {
            key: Environment().from_string(entity["value_template"]).render(value_json=payload)
            for key, entity in entities.items()
            if key != "connected"
        }
    assert shown["sure"] == {
        "label": "stress", "probability": "80.0", "abstained": "no", "quality_ecg": "90.0", "quality_eda": "None",
    }  # fmt: skip
    assert shown["unsure"]["label"] == shown["unsure"]["probability"] == "None"
    assert shown["unsure"]["abstained"] == "contact"


def test_tls_with_a_ca_of_one_s_own_and_a_password(tmp_path: Path) -> None:
    made = Certificates.make(tmp_path / "pem")
    passwords = tmp_path / "passwords"
    command = [tool("mosquitto_passwd", "bin"), "-b", "-c", str(passwords), "dev", "s3cret"]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    with Broker(tmp_path / "broker", *made.lines(), f"password_file {passwords}") as broker:
        keys = {"ca": str(made.ca), "username": "dev", "password_file": str(secret)}
        sink = sink_of(configured(broker.port, tmp_path, **keys))
        fill(sink, 1, 2)
        until(lambda: not sink.waiting, "both are with the broker")
        closed(sink)


def test_what_a_person_must_mend_is_said_and_nothing_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another CA, a wrong password, a topic that this user may not write, no TLS at all."""
    made, other = Certificates.make(tmp_path / "pem"), Certificates.make(tmp_path / "other")
    passwords, secret, rights = tmp_path / "passwords", tmp_path / "secret", tmp_path / "acl"
    command = [tool("mosquitto_passwd", "bin"), "-b", "-c", str(passwords), "dev", "s3cret"]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    rights.write_text(f"user dev\ntopic write {BASE}/availability\ntopic write {BASE}/state\n")
    lines = (*made.lines(), f"password_file {passwords}", f"acl_file {rights}")
    login = {"username": "dev", "password_file": str(secret)}
    with Broker(tmp_path / "broker", *lines) as broker:
        for password, keys, message in (
            ("s3cret", {"ca": str(other.ca), **login}, "certificate is not trusted"),
            ("guessed", {"ca": str(made.ca), **login}, "refused: Not authorized; see [sinks.mqtt] username"),
            ("s3cret", {"ca": str(made.ca), **login}, "a message is refused: Not authorized"),
            ("s3cret", {"tls": False, **login}, "the broker closes the connection"),
        ):
            secret.touch(0o600)
            secret.write_text(password)
            sink = sink_of(configured(broker.port, tmp_path, **keys))
            fill(sink, 1)
            until(lambda message=message: message in caplog.text, message)
            assert sink.waiting > 0
            closed(sink)
            assert password not in caplog.text
            caplog.clear()
    outbox = Outbox(tmp_path / "outbox.db", 10)
    assert outbox.waiting == 4
    outbox.close()


def test_the_last_will_says_that_a_killed_device_is_gone(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader, writing(broker, tmp_path, 0, 0) as child:
        until(lambda: reader.last(f"{BASE}/availability") == b"online", "online")
        child.send_signal(signal.SIGKILL)
        until(lambda: reader.last(f"{BASE}/availability") == b"offline", "the last will")


def writing(broker: Broker, folder: Path, first: int, hold: int) -> subprocess.Popen[str]:
    """Another process that publishes from ``first`` on, and after ``hold`` waits."""
    code = WRITER.format(tests=str(Path(__file__).parent), port=broker.port, folder=str(folder), first=first, hold=hold)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_everything_arrives_once_and_in_order_after_the_broker_was_away(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        sink = sink_of(configured(broker.port, tmp_path))
        fill(sink, *range(50))
        until(lambda: reader.of(f"{BASE}/prediction"), "the first")
        broker.stop()
        fill(sink, *range(50, 200))
        broker.start()
        fill(sink, *range(200, 220))
        until(lambda: len(once(reader.of(f"{BASE}/prediction"))) == 220, "all of them")
        closed(sink)
    assert [index for _, index in once(reader.of(f"{BASE}/prediction"))] == list(range(220))


def test_a_killed_publisher_s_messages_are_there_once_by_the_rule(tmp_path: Path) -> None:
    """Each run is killed while it sends; what it had put on the disk comes with the next, under its own run."""
    told = []
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        for run in range(3):
            with writing(broker, tmp_path, 1000 * run, 100_000) as child:
                assert child.stdout is not None
                before = len(reader.messages)
                until(lambda before=before: len(reader.messages) > before + 60, "messages of this run")
                child.send_signal(signal.SIGKILL)
                told.append(len([line for line in child.stdout.read().splitlines() if line.isdigit()]))
        sink = sink_of(configured(broker.port, tmp_path))
        until(lambda: not sink.waiting, "what was left is sent")
        fill(sink, 5000)
        until(lambda: 5000 in [p["index"] for p in reader.of(f"{BASE}/prediction")], "the last")
        closed(sink)
    seen = once(reader.of(f"{BASE}/prediction"))
    runs = list(dict.fromkeys(run for run, _ in seen))
    assert len(runs) == 4
    for k, n in enumerate(told):
        indices = [index for run, index in seen if run == runs[k]]
        assert indices == list(range(1000 * k, 1000 * k + len(indices))) and n <= len(indices) <= n + 1


def test_a_frozen_broker_holds_up_nobody(tmp_path: Path) -> None:
    async def scenario(broker: Broker) -> None:
        lines = QueuedSink(JsonlSink(tmp_path / "lines"), 500)
        queued = QueuedSink(sink := sink_of(configured(broker.port, tmp_path)), 500)
        tasks = [asyncio.create_task(part.run()) for part in (lines, queued)]
        await asyncio.to_thread(until, lambda: reader.last(f"{BASE}/availability") == b"online", "online")
        broker.freeze()
        for index in range(300):
            for part in (lines, queued):
                part.put(replace(SURE, index=index))
        while lines.published < 300 or queued.published < 300:
            await asyncio.sleep(0.01)
        assert sink.waiting == 300 and queued.dropped == queued.failed == 0
        broker.thaw()
        await asyncio.to_thread(until, lambda: not sink.waiting, "all of them are with the broker")
        await asyncio.gather(*(part.close(task) for part, task in zip((lines, queued), tasks, strict=True)))

    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        asyncio.run(scenario(broker))
        until(lambda: len(reader.of(f"{BASE}/prediction")) >= 300, "all of them")
    assert [index for _, index in once(reader.of(f"{BASE}/prediction"))] == list(range(300))


def test_a_stop_leaves_what_is_not_sent_for_the_next_start(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        broker.freeze()  # connections are taken by the kernel, and never answered
        sink = sink_of(configured(broker.port, tmp_path))
        fill(sink, *range(30))
        closed(sink)
        broker.thaw()
        sink = sink_of(configured(broker.port, tmp_path))
        fill(sink, 30)
        until(lambda: len(reader.of(f"{BASE}/prediction")) == 31, "all of them")
        closed(sink)
    assert [p["index"] for p in reader.of(f"{BASE}/prediction")] == list(range(31))
    assert len({p["run"] for p in reader.of(f"{BASE}/prediction")}) == 2


def test_two_devices_of_one_name_are_told_so_by_a_broker_that_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Debian 12's mosquitto closes the older connection without a reason code."""
    with Broker(tmp_path / "broker") as broker:
        sinks = [sink_of(configured(broker.port, tmp_path / name)) for name in ("first", "second")]
        until(lambda: "does another device have this name ([sinks.mqtt] device)?" in caplog.text, "said")
        for sink in sinks:
            closed(sink)


def answering(server: socket.socket, said: bytes) -> threading.Thread:
    """A broker that takes one connection and says what it is told to, whatever it hears."""

    def answer() -> None:
        peer, _ = server.accept()
        with peer, contextlib.suppress(OSError):
            peer.recv(1 << 16)
            peer.sendall(said)
            while peer.recv(1 << 16):
                pass

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


ACCEPTED = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"\x20\x03\x00\x88\x00", "refused: Server unavailable"),
        (ACCEPTED + b"\xe0\x02\x8e\x00", "Session taken over; give each device its own [sinks.mqtt] device"),
        (ACCEPTED + b"\xe0\x02\x8b\x00", "the broker ends it: Server shutting down"),
    ],
)
def test_reason_codes_are_said_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: bytes, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = answering(server, said)
        sink = sink_of(configured(server.getsockname()[1], tmp_path))
        until(lambda: message in caplog.text, message)
        closed(sink)
        thread.join()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (ACCEPTED + b"\x30\xff\xff\xff\x7f" + bytes(2 * HEARD_BYTES), "the broker sends what nobody asked for"),
        (ACCEPTED + b"\x30\x05\xff\xff" + b"\xff" * 300, "messages wait"),
        (b"\x20\x06\x00\x00\x03\xff\xff\xff", "messages wait"),
        (ACCEPTED + b"\x40\x02\xff\xff\xf0\x00\x00\x00\xff\xff\xff", "messages wait"),
        (b"\xff" * 64, "messages wait"),
    ],
    ids=["huge", "garbage", "properties", "acknowledgements", "bits"],
)
def test_a_hostile_broker_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: bytes, message: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = answering(server, said)
        sink = sink_of(configured(server.getsockname()[1], tmp_path, keepalive=5))
        fill(sink, 1)
        until(lambda: message in caplog.text, message)
        assert sink.waiting == 1
        closed(sink)
        thread.join()


def test_the_outbox_drops_the_oldest_beyond_its_bound_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "outbox.db"
    outbox = Outbox(path, 3)
    for k in range(7):
        outbox.put("t", b"%d" % k)
    assert [m.payload for m in outbox.after(0, 10)] == [b"4", b"5", b"6"]
    assert (outbox.waiting, outbox.dropped) == (3, 4)
    outbox.remove([1, 5])
    outbox.close()
    again = Outbox(path, 3)
    assert (again.waiting, again.dropped, again.newest) == (2, 4, 7)
    again.put("t", b"7")
    assert [m.id for m in again.after(6, 10)] == [7, 8]
    again.close()
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.parent.iterdir())


def test_an_outbox_that_is_another_s_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    first = Outbox(path, 3)
    with pytest.raises(SinkError, match="another program uses it"):
        Outbox(path, 3)
    first._db.execute(f"PRAGMA user_version = {OUTBOX.version + 1}")
    first.close()
    before = path.read_bytes()
    with pytest.raises(SinkError, match="is of a newer affectd"):
        Outbox(path, 3)
    assert path.read_bytes() == before
    path.write_bytes(b"no database" * 100)
    with pytest.raises(SinkError, match=r"no outbox of affectd.*move it away"):
        Outbox(path, 3)


def test_passwords_come_from_files_that_nobody_else_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert read_secret("mqtt", "password", None) is None
    secret = tmp_path / "mqtt_password"
    secret.write_text("pa ss\n")
    secret.chmod(0o640)
    with pytest.raises(SinkError, match=r"others may read \(mode 640\); chmod 600"):
        read_secret("mqtt", "password", str(secret))
    secret.chmod(0o400)
    assert read_secret("mqtt", "password", str(secret)) == "pa ss"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    for given in (None, str(secret)):
        secret.chmod(0o440)  # as systemd 257 has it, with an ACL for the service's user
        assert read_secret("mqtt", "password", given) == "pa ss"
        secret.chmod(0o444)
        with pytest.raises(SinkError, match=r"others may read \(mode 444\)"):
            read_secret("mqtt", "password", given)
    with pytest.raises(SinkError, match="no password: No such file"):
        read_secret("mqtt", "password", str(tmp_path / "none"))


def test_files_of_tls_that_are_none_are_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    for keys in ({"ca": str(tmp_path / "x.pem")}, {"ca": None, "certificate": str(tmp_path / "x.pem")}):
        with pytest.raises(SinkError, match=r"x\.pem: no (CA|certificate): .*; name (a PEM file|PEM files)"):
            sink_of(configured(1, tmp_path, **keys))


def test_the_daemon_publishes_to_the_broker_what_it_writes_to_the_disk(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        config = daemon_config(tmp_path)
        sinks = msgspec.structs.replace(config.sinks, mqtt=configured(broker.port, tmp_path))
        config = msgspec.structs.replace(config, sinks=sinks)
        asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
        until(lambda: reader.last(f"{BASE}/availability") == b"offline", "offline")
    written = published(config)
    assert [p["index"] for p in reader.of(f"{BASE}/prediction")] == [p["index"] for p in written] and len(written) >= 5
    for payload, line in zip(reader.of(f"{BASE}/prediction"), written, strict=True):
        check("prediction", payload)
        assert {key: payload[key] for key in line} == line
    (state,) = reader.of(f"{BASE}/state")
    assert state["bundle"]["name"] == "tiny" and [s["name"] for s in state["sensors"]] == ["chest", "wrist"]


def test_the_example_for_telegraf_asks_for_what_there_is() -> None:
    """Each path of its parsers is one that the schema has, and what tells two messages apart is among them."""
    example = tomllib.loads((DOCS / "examples" / "telegraf.conf").read_text())
    kinds = set()
    for consumer in example["inputs"]["mqtt_consumer"]:
        (topic,), (parser,) = consumer["topics"], consumer["json_v2"]
        assert (consumer["qos"], consumer["persistent_session"]) == (1, True)
        kinds.add(kind := topic.removeprefix("affectd/+/"))
        known = {key for name in (kind, "stamped", "begin") for key in SCHEMAS["$defs"][name]["properties"]}
        asked = {entry["path"].partition(".")[0] for entry in (*parser["tag"], *parser["field"])}
        assert asked <= known and {"device", "run", "index"} <= asked and parser["timestamp_path"] == "wall"
    assert kinds == {"prediction", "event"}
    assert len({consumer["client_id"] for consumer in example["inputs"]["mqtt_consumer"]}) == 2


def test_a_device_s_own_name_fits_a_topic() -> None:
    assert msgspec.convert({"host": "h", "device": device_id()}, MqttConfig).device == device_id()
