"""Messages that wait on the disk and are encrypted: read again with their key alone, and nothing of them without it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept_of_two import configured as all_configured
from mosquitto import Broker, Reader, until
from mqtt_sinks import RUN, STREAMS, configured
from test_http_sink import got, serving
from test_sqlite_sink import SURE, UNSURE

from device.erasing import erase_subject
from device.errors import SinkError
from device.sealing import BLOCK, Box
from device.sinks.database import opened
from device.sinks.message_log import LOG, MessageLog
from device.sinks.mqtt import MqttSink
from device.sinks.outbox import OUTBOX, Outbox
from device.sinks.secret import read_box

KEY, OTHER = Box(bytes(32)), Box(bytes(31) + b"\1")
SECRET = b"melancholy"
Opens = Callable[..., Outbox]


def payload(number: int) -> bytes:
    return b'{"n": %d, "label": "%s"}' % (number, SECRET * (number % 3))


def put(messages: Outbox, *numbers: int) -> None:
    for number in numbers:
        messages.put("prediction", payload(number))


MANY = f"""
WITH RECURSIVE row (n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM row WHERE n < 2000)
INSERT INTO message (topic, payload, subject)
SELECT 'prediction', CAST('{{"n": ' || n || ', "label": "{SECRET.decode()}"}}' AS BLOB), 'P08' FROM row
"""


def on_disk(path: Path) -> bytes:
    """The file and its logs."""
    return b"".join(it.read_bytes() for it in sorted(path.parent.glob(f"{path.name}*")))


def changed(path: Path, *statements: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.create_function("flipped", 1, lambda it: it[:40] + bytes([it[40] ^ 1]) + it[41:])
        return [row for it in statements for row in db.execute(it).fetchall()]


@pytest.fixture(params=[Outbox, MessageLog], ids=["outbox", "log"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Opens:
    def open_(box: Box | None = None, most: int = 1000, subject: str = "") -> Outbox:
        made: Outbox = request.param(tmp_path / "m.db", most, subject, box)
        return made

    return open_


def test_what_is_put_comes_out_and_is_nowhere_on_the_disk(opens: Opens, tmp_path: Path) -> None:
    """Over several openings; beyond the bound the oldest go, as ever."""
    for begin in (1, 11, 21):
        messages = opens(KEY, most=25)
        put(messages, *range(begin, begin + 10))
        assert SECRET not in on_disk(tmp_path / "m.db")
        messages.close()
    messages = opens(KEY, most=25)
    assert [(it.id, it.payload) for it in messages.after(0, 99)] == [(n, payload(n)) for n in range(6, 31)]
    assert (messages.waiting, messages.dropped, messages.newest) == (25, 5, 30)
    messages.remove([6, 30])
    put(messages, 31)  # no number comes twice
    assert [it.payload for it in messages.after(29, 9)] == [payload(31)]
    messages.close()
    sizes = changed(tmp_path / "m.db", "SELECT DISTINCT length(payload) FROM message")
    assert sizes == [(12 + BLOCK + 16,)] and SECRET not in on_disk(tmp_path / "m.db")


@pytest.mark.parametrize(("box", "reason"), [(None, "there is no key"), (OTHER, "with another key")])
def test_without_its_key_it_is_refused_and_keeps_all(
    opens: Opens, tmp_path: Path, box: Box | None, reason: str
) -> None:
    messages = opens(KEY)
    put(messages, 1, 2)
    messages.close()
    before = on_disk(tmp_path / "m.db")
    with pytest.raises(
        SinkError, match=rf"m\.db: is encrypted.*{reason}; give it its key \(see .*_key_file\), or move"
    ):
        opens(box)
    assert on_disk(tmp_path / "m.db") == before
    messages = opens(KEY)
    assert [it.payload for it in messages.after(0, 9)] == [payload(1), payload(2)]
    messages.close()


def test_what_was_readable_is_encrypted_once_there_is_a_key(
    opens: Opens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More of it than is done at a time, of two people; nothing stays of what it was, in free pages neither."""
    caplog.set_level(logging.INFO)
    for number, subject in ((1, "P07"), (2, "P08")):
        messages = opens(most=3000, subject=subject)
        put(messages, number)
        messages.close()
    changed(tmp_path / "m.db", MANY)
    assert SECRET in on_disk(tmp_path / "m.db")
    messages = opens(KEY, most=3000)
    assert SECRET not in on_disk(tmp_path / "m.db")
    assert "m.db: 2000 messages were not encrypted, and are now" in caplog.text
    assert [json.loads(it.payload)["n"] for it in messages.after(0, 3000)] == [*range(1, 2001)]
    messages.close()
    people = changed(tmp_path / "m.db", "SELECT subject, count(*) FROM message GROUP BY subject")
    assert people == [("P07", 1), ("P08", 1999)]


@pytest.mark.parametrize("kind", [OUTBOX, LOG], ids=["outbox", "log"])
def test_a_file_of_an_older_affectd_is_taken_over(tmp_path: Path, kind: Any) -> None:
    """Before there was encryption; a position in a log stays one."""
    older = type(kind)(kind.what, kind.key, kind.versions[:-1])
    with contextlib.closing(opened(tmp_path / "m.db", older)) as db:
        db.execute("INSERT INTO message (topic, payload) VALUES ('prediction', ?)", (payload(1),))
        name = db.execute("SELECT name FROM log").fetchall() if kind is LOG else []
    messages = (MessageLog if kind is LOG else Outbox)(tmp_path / "m.db", 9, "", KEY)
    assert [it.payload for it in messages.after(0, 9)] == [payload(1)]
    if isinstance(messages, MessageLog):
        assert messages.position(1) == f"{name[0][0]}-1"
    messages.close()


TAMPERED = {
    "a bit": "UPDATE message SET payload = flipped(payload) WHERE id = 2",
    "cut": "UPDATE message SET payload = x'00' WHERE id = 2",
    "of another topic": "UPDATE message SET topic = 'event' WHERE id = 2",
    "moved": "UPDATE message SET payload = (SELECT payload FROM message WHERE id = 1) WHERE id = 2",
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_message_that_somebody_changed_is_dropped_and_said(
    opens: Opens, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    messages = opens(KEY)
    put(messages, 1, 2, 3)
    messages.close()
    changed(tmp_path / "m.db", TAMPERED[how])
    messages = opens(KEY)
    if isinstance(messages, MessageLog):
        entries, place = messages.read(0, 9)
        more, place = messages.read(place, 9)
        read = [json.loads(it.json) for it in (*entries, *more)]
        assert [it["message"].get("n", it["message"]) for it in read] == [1, {"lost": 1}, 3] and place == 3
    else:
        assert [it.payload for it in messages.after(0, 9)] == [payload(1), payload(3)]
    assert (messages.waiting, messages.dropped) == (2, 1)
    assert "m.db: the seals of 1 messages are broken; they are dropped" in caplog.text
    messages.close()
    again = opens(KEY)
    assert (again.waiting, again.dropped) == (2, 1)
    again.close()


def test_one_subject_is_erased_without_the_key(tmp_path: Path) -> None:
    config = all_configured(tmp_path)
    for kind, name in ((Outbox, "outbox.db"), (MessageLog, "log.db")):
        for subject in ("P07", "P08"):
            messages = kind(tmp_path / name, 9, subject, KEY)
            put(messages, 1, 2)
            messages.close()
    report = erase_subject(config, "P07")
    assert [(Path(it.place).name, it.n) for it in report.erased] == [("outbox.db", 2), ("log.db", 2)]
    for kind, name in ((Outbox, "outbox.db"), (MessageLog, "log.db")):
        messages = kind(tmp_path / name, 9, "", KEY)
        assert [(it.id, it.payload) for it in messages.after(0, 9)] == [(3, payload(1)), (4, payload(2))]
        messages.close()


def test_the_key_is_a_secret_like_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert read_box("mqtt", "outbox_key", None) is None
    file = tmp_path / "mqtt_outbox_key"
    file.write_text("Not Of These Digits".ljust(64, "0") + "\n")
    file.chmod(0o600)
    with pytest.raises(SinkError, match=r"64 hexadecimal digits; see \[sinks.mqtt\] outbox_key_file") as caught:
        read_box("mqtt", "outbox_key", str(file))
    assert "Not Of" not in str(caught.value)
    file.write_text("00" * 32 + "\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    box = read_box("mqtt", "outbox_key", None)
    assert box is not None and box.open(KEY.seal(SECRET, b"here"), b"here") == SECRET
    file.chmod(0o644)
    with pytest.raises(SinkError, match="outbox_key that others may read"):
        read_box("mqtt", "outbox_key", None)


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    (tmp_path / "key").chmod(0o600)
    return str(tmp_path / "key")


def test_the_broker_and_readers_get_what_the_disk_does_not_show(tmp_path: Path, key_file: str) -> None:
    """Messages that waited for the broker over a restart, and those that a reader over HTTP asks for after one."""
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader:
        for port, items in ((1, [SURE, UNSURE]), (broker.port, [replace(SURE, index=9)])):
            config = configured(port, tmp_path, outbox_key_file=key_file)
            sink = MqttSink(config, RUN, STREAMS, uuid.uuid4().hex)
            for item in items:
                sink.write(item)
            assert b"probabilities" not in on_disk(tmp_path / "outbox.db")
            if port != 1:
                until(lambda: not sink.waiting, "all are with the broker")  # noqa: B023
            asyncio.run(sink.close())
        until(lambda: len(reader.of("affectd/dev/prediction")) == 3, "three predictions")
    assert [it["index"] for it in reader.of("affectd/dev/prediction")] == [SURE.index, UNSURE.index, 9]
    with serving(tmp_path, log_key_file=key_file) as http:
        http.write(SURE)
    with serving(tmp_path, log_key_file=key_file) as http:
        (entry,) = got(http, "messages")["messages"]
        assert entry["message"]["probabilities"] == SURE.probabilities
        assert b"probabilities" not in on_disk(tmp_path / "log.db")
