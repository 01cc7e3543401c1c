"""Sinks: every prediction is a whole line, and a slow or broken sink holds up nobody."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import stat
from pathlib import Path

import pytest

from device.errors import SinkError
from device.inference import Prediction
from device.notification import ClockReading, Event
from device.sinks.base import MadeBy, QueuedSink
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


class Told(Gated):
    """One that tells what predictions are made with; a place of its list each."""

    async def renew(self, made_by: MadeBy) -> None:
        self.got.append(-len(made_by.labels))


@pytest.mark.parametrize(("size", "got"), [(9, [0, 1, -1, 2, 3, -2, 4]), (3, [-1, 3, -2, 4]), (1, [-2, 4])])
def test_what_is_told_of_a_bundle_keeps_its_place_also_where_a_full_queue_drops(size: int, got: list[int]) -> None:
    """What has been pushed out is told before the next item; of two, the newer alone."""

    async def scenario() -> None:
        sink = Told()
        queued = QueuedSink(sink, size)
        for index in range(5):
            if index in (2, 4):
                queued.renew(MadeBy("tiny", "", ("rest",) * (index // 2)))
            queued.put(prediction(index))
        sink.gate.set()
        task = asyncio.create_task(queued.run())
        await queued.close(task)
        assert sink.got == got
        assert queued.published + queued.dropped == 5 and queued.failed == 0

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


def test_jsonl_appends_and_ends_a_torn_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"index": 1}\n{"ind')
    sink = JsonlSink(path)
    sink.write(prediction(2))
    sink.finish()
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"index": 1}', '{"ind']
    assert json.loads(lines[2])["index"] == 2
    assert caplog.messages == [f"{path}: its last line was torn, and stays so"]


def test_jsonl_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot be written: Is a directory; name another file"):
        JsonlSink(tmp_path)


def test_jsonl_on_a_full_disk_says_so_and_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    sink = JsonlSink(path)
    sink.write(prediction(0))
    whole = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (len(whole) + 20, hard)
    )  # the kernel writes 20 bytes of the line, no more
    try:
        for _ in range(2):
            with pytest.raises(SinkError, match=r"cannot be written: .*; make room on its disk"):
                sink.write(prediction(1))
            assert path.read_bytes() == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    sink.write(prediction(2))
    sink.finish()
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 2]


def test_jsonl_into_what_is_always_full_or_is_no_file() -> None:
    sink = JsonlSink(Path("/dev/full"))
    with pytest.raises(SinkError, match=r"/dev/full: cannot be written: No space left on device; make room") as caught:
        sink.write(prediction(0))
    assert isinstance(caught.value.__cause__, OSError)
    sink.finish()
    JsonlSink(Path("/dev/null")).finish()


def test_each_line_says_of_whom_it_is(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    sink = JsonlSink(path, "P07")
    for item in (ClockReading(1, 2), prediction(1), Event(75_000_000_000, "stroop")):
        sink.write(item)
    sink.finish()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.pop("subject") for line in lines] == 3 * ["P07"]
    assert lines[1] == prediction(1).to_json() and lines[2] == {"event": "stroop", "start": 75.0}
