"""Two hundred devices on one broker that restarts half-way: nothing is lost and nothing is twice, by the rule."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from mosquitto import Broker, Reader, once, until

PROCESSES, DEVICES, MESSAGES = 4, 50, 12
"""Devices in each process: one has room for 1024 descriptors under select(2), which paho uses."""
FLEET = """
import asyncio, sys
from dataclasses import replace
sys.path.insert(0, {tests!r})
from pathlib import Path
from device.sinks.base import QueuedSink
from device.sinks.mqtt import MqttSink
from mqtt_sinks import RUN, STREAMS, SURE, configured

async def devices(first):
    folder = Path({folder!r})
    sinks = []
    for k in range(first, first + {devices}):
        config = configured({port}, folder, device=f"d{{k:03}}", outbox=str(folder / f"d{{k:03}}.db"))
        sinks.append(QueuedSink(MqttSink(config, RUN, STREAMS, f"{{k:032x}}"), 256))
    tasks = [asyncio.create_task(sink.run()) for sink in sinks]
    for index in range({messages}):
        if index == {messages} // 2:
            print("half", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        for sink in sinks:
            sink.put(replace(SURE, index=index))
    while any(sink.published < {messages} or sink.sink.waiting for sink in sinks):
        await asyncio.sleep(0.05)
    await asyncio.gather(*(sink.close(task) for sink, task in zip(sinks, tasks)))
    assert not sum(sink.dropped + sink.failed + sink.sink.dropped for sink in sinks)

asyncio.run(devices(int(sys.argv[1])))
"""


def test_two_hundred_devices_and_a_broker_that_restarts(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Reader(broker) as reader, ExitStack() as stack:
        keys = {"devices": DEVICES, "messages": MESSAGES, "port": broker.port}
        code = FLEET.format(tests=str(Path(__file__).parent), folder=str(tmp_path), **keys)
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code, str(k * DEVICES)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for k in range(PROCESSES)
        ]  # fmt: skip
        for child in children:
            assert child.stdout is not None and child.stdin is not None
            assert child.stdout.readline() == "half\n"
        broker.stop()
        for child in children:
            assert child.stdin is not None
            print("go on", file=child.stdin, flush=True)
        broker.start()
        assert [child.wait() for child in children] == PROCESSES * [0]
        devices = [f"affectd/d{k:03}" for k in range(PROCESSES * DEVICES)]
        until(lambda: said(reader, b"offline") >= len(devices), "the last of every device")
        until(lambda: len(seen(reader)) >= len(devices) * MESSAGES, "all of every device")
    runs: dict[str, list[int]] = {}
    for run, index in seen(reader):
        runs.setdefault(run, []).append(index)
    assert list(runs.values()) == len(devices) * [list(range(MESSAGES))]
    assert {p["run"] for device in devices for p in reader.of(f"{device}/prediction")[:1]} == set(runs)
    assert said(reader, b"online") >= 2 * len(devices)  # before and after the restart


def seen(reader: Reader) -> list[tuple[str, int]]:
    """By the rule, of all devices."""
    return once([json.loads(payload) for topic, payload, _ in reader.messages if topic.endswith("/prediction")])


def said(reader: Reader, word: bytes) -> int:
    return sum(payload == word for topic, payload, _ in reader.messages if topic.endswith("/availability"))
