"""Whatever comes to the control socket, however slowly, from however many: others are answered, nothing is raised."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_control import Source
from virtual_time import run_virtual

from device.bundle import read_bundle
from device.control import CROWD, READ_S, REQUEST_BYTES, REQUEST_S, TALKS, Control, _say
from device.marking import Marking
from device.notification import Event
from device.pausing import Pausing
from device.taping import Taping
from firmware_bridge.daemon_client import DaemonError, status

Answer = dict[str, Any]


async def opened(request: Answer) -> AsyncGenerator[Answer, None]:
    """As `affectd bundle use` opens what it is told, with nothing looked at first."""
    yield {"name": read_bundle(Path(request["path"])).manifest.name}


def control_at(folder: Path) -> Control:
    """The daemon's own answers, without a daemon."""
    events: list[Event] = []
    marking = Marking(events.append)
    pausing = Pausing(folder / "pause.json", [], marking.mark)
    orders = {
        "pause": pausing.answer_pause, "resume": pausing.answer_resume, "bundle": opened,
        "recording": Taping(None, marking.mark).answers,  # type: ignore[arg-type]
    }  # fmt: skip
    return Control(lambda: {"well": True}, [Source("chest", 1)], mark=marking.answers, orders=orders)


async def asked(path: Path, sent: bytes) -> bytes:
    """Send, say no more, and read to the end."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(sent)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def told(folder: Path, talk: Callable[[Path], Awaitable[None]]) -> list[Answer]:
    """What the loop heard of that nobody caught; in the end the socket still answers."""
    heard: list[Answer] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        path = folder / "s"
        async with asyncio.timeout(30), control_at(folder).listening(path):
            await talk(path)
            assert await status(path) == {"well": True}

    asyncio.run(scenario())
    return heard


_WORD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just("\ud800"), st.just("/\0")
)
_ANYTHING = st.recursive(
    _WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(["description", "for_s", "on", "path", "level", "address", "sensor", "x"])
_KINDS = ["status", "watch", "mark", "pause", "resume", "recording", "bundle", "lend", "baseline"]
_REQUESTS = st.builds(
    lambda do, rest: json.dumps({**rest, "do": do}).encode(),
    st.sampled_from(_KINDS) | _ANYTHING,
    st.dictionaries(_KEYS, _ANYTHING, max_size=3),
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    sent=st.lists(_REQUESTS | st.binary(max_size=200) | st.builds(json.dumps, _ANYTHING).map(str.encode), max_size=3)
)
@example(sent=[b"[" * (REQUEST_BYTES // 2)])
@example(sent=[b'{"do":' * 5000])
@example(sent=[b'{"do": "bundle"}'])  # an error that nobody foresaw
@example(sent=[b'{"do": "bundle", "path": "/\\u0000"}'])
@example(sent=[b'{"do": "bundle", "path": "/\\ud800"}'])
@example(sent=[b'{"do": "pause", "for_s": NaN}'])
@example(sent=[b'{"do": "pause", "for_s": ' + b"9" * 5000 + b"}"])
@example(sent=[b"\xff\xfe{\x00}\x00"])
def test_no_bytes_raise_or_stop_the_answers_to_others(
    tmp_path_factory: pytest.TempPathFactory, sent: list[bytes]
) -> None:
    async def talk(path: Path) -> None:
        answer = await asked(path, b"\n".join(sent) + b"\n")
        assert answer.endswith(b"\n")
        assert all(isinstance(json.loads(line)["ok"], bool) for line in answer.splitlines())

    assert told(tmp_path_factory.mktemp("h"), talk) == []


def test_more_than_a_handful_are_refused_and_a_place_that_is_free_again_is_given(tmp_path: Path) -> None:
    async def talk(path: Path) -> None:
        idle = [await asyncio.open_unix_connection(path) for _ in range(TALKS)]
        try:
            with pytest.raises(DaemonError, match=f"{TALKS} tools ask already; end some of them"):
                await status(path)
            idle += [await asyncio.open_unix_connection(path) for _ in range(CROWD - TALKS)]
            with pytest.raises(DaemonError, match=r"no answer that can be read|cannot be reached"):
                await status(path)
        finally:
            for _, writer in idle:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for _, writer in idle))
        while not json.loads(await asked(path, b'{"do": "status"}\n'))["ok"]:
            await asyncio.sleep(0.001)

    assert told(tmp_path, talk) == []


def test_who_writes_too_slowly_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        said: list[bytes] = []

        class Writer:
            def write(self, data: bytes) -> None:
                said.append(data)

            async def drain(self) -> None:
                pass

            def close(self) -> None:
                pass

            async def wait_closed(self) -> None:
                pass

        begun = loop.time()
        for _ in range(3):
            reader.feed_data(b"{")
        await control_at(tmp_path)._talk(reader, Writer())  # type: ignore[arg-type]
        assert loop.time() - begun == pytest.approx(REQUEST_S)
        assert json.loads(said[0])["ok"] is False

    run_virtual(scenario())


def test_who_does_not_read_is_let_go_of() -> None:
    class Deaf:
        def __init__(self) -> None:
            self.transport, self.aborted = self, False

        def write(self, _: bytes) -> None:
            pass

        async def drain(self) -> None:
            await asyncio.Event().wait()

        def abort(self) -> None:
            self.aborted = True

    async def scenario() -> None:
        deaf, begun = Deaf(), asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            await _say(deaf, {})  # type: ignore[arg-type]
        assert deaf.aborted and asyncio.get_running_loop().time() - begun == pytest.approx(READ_S)

    run_virtual(scenario())
