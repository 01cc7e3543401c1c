"""Sinks: every prediction is a whole line, and a slow or broken sink holds up nobody."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from device.errors import SinkError
from device.inference import Prediction
from device.sinks.base import QueuedSink
from device.sinks.jsonl import JsonlSink


def prediction(index: int) -> Prediction:
    return Prediction(
        index=index,
        start=5.0 * index,
        stop=5.0 * index + 60.0,
        label="rest",
        probabilities={"rest": 0.75, "stress": 0.25},
        modalities=("ecg",),
        abstained=None,
        sqi={"ecg": 1.0},
        problems={"eda": ("gap",)},
    )


class Gated:
    """A sink that waits for leave, fails on the indices it is told to, and keeps what it got."""

    name = "gated"

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.gate = asyncio.Event()
        self.fails = fails
        self.got: list[int] = []
        self.closed = False

    async def publish(self, prediction: Prediction) -> None:
        await self.gate.wait()
        if prediction.index in self.fails:
            raise OSError("the broker is away")
        self.got.append(prediction.index)

    async def close(self) -> None:
        self.closed = True


def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    async def scenario() -> None:
        sink = Gated()
        queued = QueuedSink(sink, size=3)
        for index in range(10):
            queued.put(prediction(index))
        task = asyncio.create_task(queued.run())
        sink.gate.set()
        await queued.close(task)
        assert sink.got == [7, 8, 9]
        assert (queued.published, queued.dropped, queued.failed) == (3, 7, 0)
        assert sink.closed

    asyncio.run(scenario())


def test_a_failure_is_counted_and_the_next_is_tried() -> None:
    async def scenario() -> None:
        sink = Gated(fails=frozenset({1}))
        sink.gate.set()
        queued = QueuedSink(sink, size=9)
        task = asyncio.create_task(queued.run())
        for index in range(4):
            queued.put(prediction(index))
            await asyncio.sleep(0)
        await queued.close(task)
        assert sink.got == [0, 2, 3]
        assert (queued.published, queued.dropped, queued.failed) == (3, 0, 1)

    asyncio.run(scenario())


def test_a_sink_that_hangs_is_left_at_the_end() -> None:
    async def scenario() -> None:
        sink = Gated()
        queued = QueuedSink(sink, size=9)
        task = asyncio.create_task(queued.run())
        queued.put(prediction(0))
        await queued.close(task, timeout_s=0.01)
        assert task.cancelled()
        assert sink.closed and not sink.got

    asyncio.run(scenario())


def test_a_queue_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="a queue of 0"):
        QueuedSink(Gated(), 0)


def test_jsonl_writes_what_the_prediction_says(tmp_path: Path) -> None:
    path = tmp_path / "a" / "predictions.jsonl"

    async def scenario() -> None:
        sink = JsonlSink(path)
        await sink.publish(prediction(0))
        await sink.publish(prediction(1))
        await sink.close()

    asyncio.run(scenario())
    assert [json.loads(line) for line in path.read_text().splitlines()] == [prediction(i).to_json() for i in range(2)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_jsonl_appends_and_ends_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"index": 1}\n{"ind')
    sink = JsonlSink(path)
    sink.write(prediction(2))
    sink.finish()
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"index": 1}', '{"ind']
    assert json.loads(lines[2])["index"] == 2


def test_jsonl_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot be written: Is a directory; name another file"):
        JsonlSink(tmp_path)
