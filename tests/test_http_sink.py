"""The HTTP sink and its readers, other processes among them: once and in order, whoever is slow, killed or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mosquitto import Certificates, free_port, until
from mqtt_sinks import ANOTHER, RUN, STREAMS
from test_daemon import Scripted, daemon_config, of, published
from test_mqtt_sink import READING, check
from test_sqlite_sink import SURE, UNSURE
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from device.config import HttpConfig
from device.daemon import run
from device.errors import SinkError
from device.inference import Prediction
from device.metrics import exposition
from device.notification import Event
from device.sinks import http, readers
from device.sinks.base import QueuedSink
from device.sinks.http import CROWD, SEND_BYTES, HttpSink
from device.sinks.message_log import MessageLog
from device.sinks.readers import HEARD_BYTES, TOKEN_PROTOCOL
from firmware_bridge.daemon_client import status

TOKEN = "0123456789abcdef" * 2
API = Path(__file__).parent.parent / "docs" / "API.md"
READER = """
import json, sys
from websockets.sync.client import connect
url, since = sys.argv[1:]
with connect(url + (f"?since={since}" if since else ""), proxy=None) as stream:
    for text in stream:
        entry = json.loads(text)
        print(entry["position"], entry["topic"], entry["message"].get("index"), flush=True)
"""


@contextlib.contextmanager
def serving(folder: Path, patience_s: float = 30.0, **keys: Any) -> Iterator[HttpSink]:
    config = HttpConfig(**{"port": 0, "log": str(folder / "log.db"), "device": "dev", **keys})
    sink = HttpSink(config, RUN, STREAMS, uuid.uuid4().hex, patience_s=patience_s)
    try:
        yield sink
    finally:
        asyncio.run(sink.close())


def fill(sink: HttpSink, *indices: int, item: Prediction = SURE) -> None:
    for index in indices:
        sink.write(replace(item, index=index))


def got(sink: HttpSink, path: str, **headers: str) -> Any:
    """What is answered, or (status, error, remedy) of a refusal."""
    request = urllib.request.Request(f"http://127.0.0.1:{sink.port}/v1/{path}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            said = json.load(error)
            assert set(said) == {"error", "remedy"} and error.headers["X-Content-Type-Options"] == "nosniff"
            return error.code, said["error"], said["remedy"]


def stream(sink: HttpSink, since: str | None = None, **keys: Any) -> ClientConnection:
    query = "" if since is None else f"?since={since}"
    return connect(f"ws://127.0.0.1:{sink.port}/v1/stream{query}", proxy=None, **keys)


def heard(reader: ClientConnection, n: int) -> list[dict[str, Any]]:
    """The next ``n``, each as the schema says."""
    entries = [json.loads(reader.recv(timeout=30)) for _ in range(n)]
    for entry in entries:
        check("entry", entry)
        check(entry["topic"], entry["message"])
    return entries


def indices(entries: list[dict[str, Any]]) -> list[int]:
    return [it["message"]["index"] for it in entries if it["topic"] == "prediction"]


def start(sink: HttpSink) -> str:
    """Position before everything."""
    return f"{got(sink, 'state')['log']['newest'].partition('-')[0]}-0"


def test_what_is_read_is_what_the_schema_says_and_what_was_published(tmp_path: Path) -> None:
    with serving(tmp_path) as sink, stream(sink) as reader:
        (state,) = heard(reader, 1)
        for item in (READING, SURE, Event(75_000_000_000, "stroop start"), UNSURE):
            asyncio.run(sink.publish(item))
        entries = heard(reader, 4)
        page = got(sink, "messages")
        check("page", page)
        assert page["messages"] == entries and page["next"] == entries[-1]["position"]
        assert got(sink, "state")["log"] == {"newest": page["next"], "kept": 4, "most": 120_000}
        assert got(sink, "messages?limit=1")["messages"] == entries[-1:]
        rest = got(sink, f"messages?since={state['position']}&limit=3")
        assert rest["messages"] == entries[:3]
        assert got(sink, f"messages?since={rest['next']}") == {"messages": entries[3:], "next": page["next"]}
        assert got(sink, f"messages?since={page['next']}") == {"messages": [], "next": page["next"]}
    assert [it["topic"] for it in entries] == ["clock", "prediction", "event", "prediction"]
    told = json.loads(json.dumps(SURE.to_json()))
    assert {key: entries[1]["message"][key] for key in told} == told
    assert {it["message"]["run"] for it in entries} == {state["message"]["run"]}
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.glob("log.db*"))


def test_those_who_read_live_are_told_of_another_bundle_in_its_place(tmp_path: Path) -> None:
    """Over WebSocket and as server-sent events; the position goes on from what was read."""
    with serving(tmp_path) as sink, stream(sink) as reader:
        events = urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/v1/stream", timeout=30)
        with events:
            heard(reader, 1)
            fill(sink, 1)
            before = heard(reader, 1)
            asyncio.run(sink.renew(ANOTHER))
            (state,) = heard(reader, 1)
            fill(sink, 2)
            after = heard(reader, 1)
            said = [events.readline() for _ in range(16)]
        assert got(sink, "state")["bundle"] == {"name": "another", "sha256": "1" * 64} == state["message"]["bundle"]
        assert got(sink, f"messages?since={state['position']}")["messages"] == after
    assert (state["topic"], state["position"]) == ("state", before[0]["position"])
    assert indices(before) + indices(after) == [1, 2]
    told = [json.loads(line[6:]) for line in said if line.startswith(b"data: ")]
    assert [it["topic"] for it in told] == ["state", "prediction", "state", "prediction"]
    assert told[2]["message"]["bundle"] == state["message"]["bundle"]


def test_a_reader_that_is_killed_comes_again_and_has_everything_once(tmp_path: Path) -> None:
    """Another process; between its lives some is published, and the daemon is started anew."""
    positions: list[str] = []
    seen: list[int] = []

    def read(sink: HttpSink, n: int) -> None:
        url, since = f"ws://127.0.0.1:{sink.port}/v1/stream", positions[-1] if positions else start(sink)
        command = [sys.executable, "-c", READER, url, since]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(n + 1)]
            child.send_signal(signal.SIGKILL)
            lines += [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        for position, topic, index in (line.split() for line in lines):
            assert topic in ("state", "prediction")
            positions.append(position)
            seen.extend([int(index)] if topic == "prediction" else [])

    def write(sink: HttpSink, *numbers: int) -> threading.Thread:
        thread = threading.Thread(target=fill, args=(sink, *numbers))
        thread.start()
        return thread

    with serving(tmp_path) as sink:
        for begin in range(0, 300, 100):
            thread = write(sink, *range(begin, begin + 100))
            read(sink, 30)
            thread.join()
    with serving(tmp_path) as sink:
        fill(sink, *range(300, 310))
        with stream(sink, positions[-1]) as reader:
            seen += indices(heard(reader, 1 + 310 - len(seen)))
    assert seen == list(range(310))


def test_who_comes_too_late_is_told_what_is_lost(tmp_path: Path) -> None:
    with serving(tmp_path, log_messages=5) as sink:
        begin = start(sink)
        fill(sink, *range(12))
        with stream(sink, begin) as reader:
            _, gap, *entries = heard(reader, 7)
        assert gap["message"] == {"lost": 7} and indices(entries) == [7, 8, 9, 10, 11]
        assert got(sink, f"messages?since={begin}")["messages"] == [gap, *entries]
        assert got(sink, f"messages?since={gap['position']}")["messages"] == entries
        assert got(sink, "messages")["messages"] == entries


def test_a_position_of_a_log_that_is_gone_is_no_silent_beginning(tmp_path: Path) -> None:
    with serving(tmp_path) as sink:
        fill(sink, 0, 1, 2)
        position = got(sink, "messages")["next"]
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    with serving(tmp_path) as sink:
        with stream(sink, position) as reader:
            state, gap = heard(reader, 2)
            assert state["position"] == position and gap["message"] == {"lost": None}
            fill(sink, *range(7))
            assert indices(heard(reader, 7)) == list(range(7))
        with stream(sink, gap["position"]) as reader:
            assert indices(heard(reader, 8)) == list(range(7))


FAT = replace(SURE, problems={"ecg": ("motion" * 1000,)})
MANY = 16 * SEND_BYTES // 6000
"""Of them, more than all buffers on the way hold."""


@contextlib.contextmanager
def deaf(sink: HttpSink, since: str) -> Iterator[ClientConnection]:
    """A reader that takes next to nothing unless it is read from."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", sink.port))
        with stream(sink, since, sock=sock, max_queue=1) as reader:
            yield reader


def test_a_reader_that_takes_nothing_holds_up_nobody_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is published and read by another meanwhile; then it hears why it is let go of, and comes again."""
    monkeypatch.setattr(readers, "CLOSE_S", 60.0)

    async def publish(sink: HttpSink) -> QueuedSink:
        queued = QueuedSink(sink, MANY)
        task = asyncio.create_task(queued.run())
        for index in range(MANY):
            queued.put(replace(FAT, index=index))
        while queued.published < MANY:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        return queued

    with serving(tmp_path, patience_s=0.5) as sink:
        begin, had = start(sink), []
        with deaf(sink, begin) as slow, stream(sink, begin, max_queue=None) as reader:
            queued = asyncio.run(publish(sink))
            assert queued.dropped == queued.failed == 0
            assert indices(heard(reader, MANY + 1)) == list(range(MANY))
            until(lambda: sink.readers()["late"] == 1, "the slow one is let go of")
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    had.append(json.loads(slow.recv(timeout=30)))
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "too slow; come again with since")
        assert 0 < len(indices(had)) < MANY
        with stream(sink, had[-1]["position"]) as reader:
            rest = heard(reader, 1 + MANY - len(indices(had)))
        assert indices(had) + indices(rest) == list(range(MANY))


@pytest.mark.parametrize("path", ["stream", "messages?limit=1000"])
def test_who_never_takes_anything_is_cut_off(path: str, tmp_path: Path) -> None:
    with serving(tmp_path, patience_s=0.5) as sink:
        fill(sink, *range(MANY), item=FAT)
        since = f"{'&' if '?' in path else '?'}since={start(sink)}"
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", sink.port))
            peer.sendall(f"GET /v1/{path}{since} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            until(lambda: sink.readers() == {"reading": 0, "refused": 0, "late": 1}, "it is let go of")
            assert len(rest_of(peer)) < MANY * len("motion" * 1000)


def test_who_has_gone_without_a_word_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine still takes what is sent, but nobody answers to the heartbeat."""
    monkeypatch.setattr(readers, "HEARTBEAT_S", 0.2)
    handshake = {"Upgrade": "websocket", "Connection": "upgrade", "Sec-WebSocket-Version": "13"}
    with serving(tmp_path) as sink:
        reply = raw(sink, "GET /v1/stream", **handshake, **{"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
        assert reply.startswith("HTTP/1.1 101 ")
        until(lambda: sink.readers() == {"reading": 0, "refused": 0, "late": 1}, "it is let go of")


def test_who_speaks_is_shown_the_door(tmp_path: Path) -> None:
    with serving(tmp_path) as sink:
        for said, code in (("{}", 1008), (b"\0", 1008), ("x" * (HEARD_BYTES + 1), 1009)):
            with stream(sink) as reader:
                assert not reader.protocol.extensions  # nothing compressed, and so no bomb
                reader.send(said)
                with pytest.raises(ConnectionClosed) as closed:
                    while True:
                        reader.recv(timeout=30)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == code
        until(lambda: sink.readers()["reading"] == 0, "nobody is left")


@pytest.mark.parametrize(
    ("headers", "code", "said"),
    [
        ({}, 401, "the token is missing or wrong"),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401, "the token is missing"),
        ({"Authorization": f"Basic {TOKEN}"}, 401, "the token is missing"),
        ({"Authorization": "Bearer \xfc"}, 401, "the token is missing"),
        ({"Host": "evil.example"}, 403, "evil.example is not this device"),
        ({"Host": "127.0.0.1.evil.example:80"}, 403, "is not this device"),
        ({"Host": "192.168.1.7:8766"}, 403, "is not this device"),
        ({"Host": "[::1"}, 403, "a host without a name is not this device"),
        ({"Origin": "https://evil.example"}, 403, "this web page may not read"),
        ({"Origin": "null"}, 403, "this web page may not read"),
        ({"Origin": "http://localhost:3000.evil.example"}, 403, "this web page may not read"),
    ],
)
def test_who_may_not_read_is_refused(headers: dict[str, str], code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN + "\n")
    good = {} if code == 401 else {"Authorization": f"Bearer {TOKEN}"}
    keys = {"token_file": str(tmp_path / "token"), "origins": ("http://localhost:3000",)}
    with serving(tmp_path, **keys) as sink:
        for k, path in enumerate(("state", "messages", "stream")):
            answer = got(sink, path, **good, **headers)
            assert answer[0] == code and said in answer[1]
            assert sink.readers()["refused"] == k + 1
        assert got(sink, "state", Authorization=f"bearer {TOKEN}")["device"] == "dev"


def test_a_web_page_reads_where_it_is_named(tmp_path: Path) -> None:
    """A browser gives the token as a subprotocol, and asks beforehand where a header is to be sent."""
    page = "http://localhost:3000"
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    with serving(tmp_path, token_file=str(tmp_path / "token"), origins=(page,)) as sink:
        with stream(sink, origin=page, subprotocols=["affectd", TOKEN_PROTOCOL + TOKEN]) as reader:
            assert reader.subprotocol == "affectd" and heard(reader, 1)
        asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
        reply = raw(sink, "OPTIONS /v1/state", Origin=page, **asks)
        assert reply.startswith("HTTP/1.1 204 ") and f"Access-Control-Allow-Origin: {page}\r\n" in reply
        reply = raw(sink, "GET /v1/state", Origin=page, Authorization=f"Bearer {TOKEN}")
        assert reply.startswith("HTTP/1.1 200 ") and f"Access-Control-Allow-Origin: {page}\r\n" in reply
        for origin, method in (("http://evil.example", "GET"), (page, "POST")):
            reply = raw(sink, "OPTIONS /v1/state", Origin=origin, **{"Access-Control-Request-Method": method})
            assert reply.startswith("HTTP/1.1 40")
        assert raw(sink, "GET /v1/state").count("Access-Control") == 0


def rest_of(peer: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while part := peer.recv(1 << 16):
            answer += part
    return answer


def sent(sink: HttpSink, said: bytes, ends: bool = False) -> bytes:
    """All that comes back until the connection ends, by us, too, where what is said is not a whole request."""
    with socket.create_connection(("127.0.0.1", sink.port), timeout=30) as peer:
        with contextlib.suppress(ConnectionError):
            peer.sendall(said)
            if ends:
                peer.shutdown(socket.SHUT_WR)
        return rest_of(peer)


def raw(sink: HttpSink, request: str, **headers: str) -> str:
    lines = (f"{request} HTTP/1.1", "Host: 127.0.0.1", *(f"{key}: {value}" for key, value in headers.items()), "", "")
    return sent(sink, "\r\n".join(lines).encode("latin-1")).decode("latin-1")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("messages?limit=0", "Expected `int` >= 1"),
        ("messages?limit=1001", "Expected `int` <= 1000"),
        ("messages?limit=" + "9" * 4000, "not what can be asked"),
        ("messages?limit=1&limit=2", "a key twice"),
        ("messages?since=", "since: not a position"),
        ("messages?since=0123abcd-1%00", "since: not a position"),
        ("stream?since=%ff%fe", "since: not a position"),
        ("stream?since=0123abcd-" + "9" * 40, "since: not a position"),
        ("stream?topic=x", "unknown field `topic`"),
    ],
)
def test_what_cannot_be_asked_is_refused(path: str, said: str, tmp_path: Path) -> None:
    with serving(tmp_path) as sink:
        status, error, remedy = got(sink, path)
        assert status == 400 and said in error and remedy


@pytest.mark.parametrize(
    ("request_", "headers", "code"),
    [
        ("POST /v1/state", {}, 405),
        ("DELETE /v1/messages", {}, 405),
        ("GET /v1/../etc/passwd", {}, 404),
        ("GET /", {}, 404),
        ("GET /v1/state", {"Content-Length": "5", "Content-Encoding": "gzip"}, 413),
        ("GET /v1/state", {"Transfer-Encoding": "chunked"}, 413),
        ("GET /v1/stream", {"Upgrade": "websocket", "Connection": "upgrade"}, 400),
        ("GET /v1/stream", {"Upgrade": "websocket", "Sec-WebSocket-Protocol": "other"}, 400),
        ("GET /v1/state", {"X": "a" * 20_000}, 400),
        ("GET /" + "a" * 20_000, {}, 400),
        ("BREW /v1/state", {}, 400),
        ("GET /v1/state", {"Host ": "x"}, 400),
    ],
)
def test_what_is_no_request_of_a_reader_is_refused(
    request_: str, headers: dict[str, str], code: int, tmp_path: Path
) -> None:
    with serving(tmp_path) as sink:
        assert raw(sink, request_, **headers).split(" ", 2)[1] == str(code)
        assert sink.readers()["refused"] == 1
        assert got(sink, "state")["device"] == "dev"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpSink]:
    with serving(tmp_path_factory.mktemp("shared")) as sink:
        yield sink


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(said=st.binary(max_size=300) | st.text(max_size=100).map(lambda it: f"GET {it}\r\n\r\n".encode()))
@example(said=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS where there is none
@example(said=b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n")
@example(said=b"GET /v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n")
@example(said=b"GET /v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 500)
def test_no_bytes_stop_the_answers_to_others(shared: HttpSink, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    sent(shared, said, ends=True)
    assert got(shared, "state")["device"] == "dev"
    assert not [it for it in caplog.records if it.levelno >= logging.WARNING]


def test_who_says_nothing_or_too_slowly_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REQUEST_S", 0.3)
    with serving(tmp_path) as sink:
        for said in (b"", b"GET /v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "):
            with socket.create_connection(("127.0.0.1", sink.port), timeout=30) as peer:
                peer.sendall(said)
                assert peer.recv(1) == b""


def test_more_readers_than_wanted_are_refused_and_a_free_place_is_given(tmp_path: Path) -> None:
    with serving(tmp_path, readers=2) as sink, contextlib.ExitStack() as opened:
        first, second = (opened.enter_context(stream(sink)) for _ in range(2))
        assert heard(first, 1) and heard(second, 1)
        assert got(sink, "state") == (
            503,
            "2 readers are here already",
            "try again later, or raise [sinks.http] readers",
        )
        idle = [socket.create_connection(("127.0.0.1", sink.port), timeout=30) for _ in range(2 * CROWD)]
        refused = [peer for peer in idle if hung_up(peer)]
        for peer in idle:
            peer.close()
        assert len(refused) == 2  # the streams take the other places
        first.close()
        until(lambda: isinstance(got_or_none(sink), dict), "a place is free")
        assert sink.readers()["refused"] >= 3 and sink.readers()["reading"] <= 2


def hung_up(peer: socket.socket) -> bool:
    peer.settimeout(0.5)
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def got_or_none(sink: HttpSink) -> Any:
    try:
        return got(sink, "state")
    except (urllib.error.URLError, ConnectionError):
        return None


def test_events_as_a_browser_s_event_source_reads_them(tmp_path: Path) -> None:
    def events(sink: HttpSink, n: int, **headers: str) -> list[dict[str, str]]:
        request = urllib.request.Request(f"http://127.0.0.1:{sink.port}/v1/stream", headers=headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            lines = [response.readline().decode().rstrip("\n") for _ in range(4 * n)]
        assert lines[3::4] == [""] * n
        return [dict(line.split(": ", 1) for line in lines[4 * k : 4 * k + 3]) for k in range(n)]

    with serving(tmp_path) as sink:
        begin = start(sink)
        fill(sink, *range(6))
        first = events(sink, 4, **{"Last-Event-ID": begin})
        rest = events(sink, 4, **{"Last-Event-ID": first[-1]["id"]})
        assert [it["event"] for it in first] == ["state", "prediction", "prediction", "prediction"]
        entries = [json.loads(it["data"]) for it in (*first, *rest)]
        assert indices(entries) == list(range(6)) and rest[0]["id"] == first[-1]["id"]
        until(lambda: sink.readers()["reading"] == 0, "nobody is left")


def test_from_elsewhere_only_with_a_token_and_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    made = Certificates.make(tmp_path / "pem")
    tls = {"host": "0.0.0.0", "certificate": str(made.certificate), "key": str(made.key)}
    with pytest.raises(SinkError, match=r"0\.0\.0\.0 can be reached from elsewhere, and there is no token"):
        serving(tmp_path, **tls).__enter__()
    (tmp_path / "http_token").touch(0o600)
    (tmp_path / "http_token").write_text(TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with serving(tmp_path, **tls) as sink:
        trusted = ssl.create_default_context(cafile=str(made.ca))
        header = {"Authorization": f"Bearer {TOKEN}"}
        url = f"wss://127.0.0.1:{sink.port}/v1/stream"
        with connect(url, ssl=trusted, additional_headers=header, proxy=None) as reader:
            heard(reader, 1)
            assert sent(sink, b"GET /v1/state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") == b""
            until(lambda: sink.readers()["refused"] == 1, "what is not encrypted is refused")
            fill(sink, 5)
            assert indices(heard(reader, 1)) == [5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda it: it.write_text("short"), r"a token of 5 characters.*openssl rand -hex 16"),
        (lambda it: it.write_text(TOKEN + " x"), r"with others than letters, digits"),
        (lambda it: it.write_bytes(b"\xff" * 32), r"no token: not UTF-8; see \[sinks\.http\] token_file"),
        (lambda it: it.chmod(0o644), r"a token that others may read \(mode 644\); chmod 600"),
        (lambda it: it.unlink(), r"no token: No such file"),
    ],
)
def test_a_token_that_is_none_is_refused(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(TOKEN)
    make(tmp_path / "token")
    with pytest.raises(SinkError, match=message):
        serving(tmp_path, token_file=str(tmp_path / "token")).__enter__()


def test_what_cannot_be_opened_is_said_and_nothing_is_left_open(tmp_path: Path) -> None:
    with serving(tmp_path) as sink:
        with pytest.raises(SinkError, match=r"cannot listen at 127\.0\.0\.1, port \d+: Address already in use"):
            serving(tmp_path / "other", port=sink.port).__enter__()
        port = free_port()
        with pytest.raises(SinkError, match="another program uses it"):
            serving(tmp_path, port=port).__enter__()
        with serving(tmp_path / "other", port=port):
            pass
    (tmp_path / "other" / "log.db").write_bytes(b"no database" * 100)
    with pytest.raises(SinkError, match=r"name another file in \[sinks\.http\] log"):
        serving(tmp_path / "other").__enter__()


def test_the_example_of_the_page_reads_everything_once_however_often_it_is_stopped(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", API.read_text(), re.DOTALL)
    with serving(tmp_path) as sink:
        (tmp_path / "position").write_text(start(sink))
        code, seen = example.replace("8766", str(sink.port)), []
        for begin in (0, 3):
            fill(sink, *range(begin, begin + 3))
            with subprocess.Popen(
                [sys.executable, "-u", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
            ) as child:
                assert child.stdout is not None
                seen += [child.stdout.readline() for _ in range(3)]
                last = got(sink, "state")["log"]["newest"]
                until(lambda last=last: (tmp_path / "position").read_text() == last, "it knows where it is")
                child.send_signal(signal.SIGKILL)
                assert child.stdout.read() == ""
    assert len(seen) == 6 and all("stress" in line for line in seen)


def test_a_log_names_itself_once_and_keeps_its_positions(tmp_path: Path) -> None:
    logs = []
    for k in range(2):
        log = MessageLog(tmp_path / "log.db", 10)
        log.put("event", b"%d" % k)
        logs.append(log.position(log.newest))
        assert log.place(logs[0]) == 1 and log.place("00000000-1") == -1 == log.place(f"{logs[0]}9")
        with pytest.raises(ValueError, match="not a position"):
            log.place("1")
        log.close()
    assert [it.partition("-")[2] for it in logs] == ["1", "2"] and logs[0][:8] == logs[1][:8]


def test_the_daemon_serves_what_it_writes_to_the_disk(tmp_path: Path) -> None:
    """Read while it runs; its status and the metrics tell of the reader."""
    config = daemon_config(tmp_path)
    table = HttpConfig(port=free_port(), log=str(tmp_path / "log.db"))
    config = msgspec.structs.replace(config, sinks=msgspec.structs.replace(config.sinks, http=table))
    url = f"ws://127.0.0.1:{table.port}/v1/stream"
    stop = asyncio.Event()

    async def all_of_it() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        source = Scripted("chest", [], "wait")
        source.sent = of("chest")
        daemon = asyncio.create_task(run(config, sources=[source], stop=stop))
        while not (tmp_path / "affectd.sock").exists():
            await asyncio.sleep(0.01)
        with connect(url, proxy=None) as reader:
            entries: list[dict[str, Any]] = []
            while len(indices(entries)) < 5:
                entries += await asyncio.to_thread(heard, reader, 1)
            said = await status(tmp_path / "affectd.sock")
        stop.set()
        await daemon
        return entries, said

    entries, said = asyncio.run(all_of_it())
    lines = published(config)
    (first,) = [k for k, line in enumerate(lines) if line["index"] == indices(entries)[0]]
    for entry, line in zip((it for it in entries if it["topic"] == "prediction"), lines[first:], strict=False):
        assert {key: entry["message"][key] for key in line} == line
    (sink,) = [it for it in said["sinks"] if it["name"] == "http"]
    assert sink["failed"] == 0 and sink["readers"] == {"reading": 1, "refused": 0, "late": 0}
    text = exposition(said)
    assert (
        'affectd_sink_readers{sink="http"} 1\n' in text and 'affectd_sink_readers_late_total{sink="http"} 0\n' in text
    )
