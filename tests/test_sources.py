"""Sources: virtual sensors say what they were given, and a recording replays bit for bit."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle

from device.bundle import Bundle
from device.inference import Prediction
from device.notification import Notification
from device.pipeline.assemble import Assembler
from device.pipeline.types import Chunk
from device.recording import RecordingWriter
from device.session import open_session
from device.sources.base import Source, paced
from device.sources.replay import ReplaySource
from device.sources.virtual import (
    BEGIN_NS,
    H10_SFREQ,
    LATENCY_S,
    VirtualSensor,
    VirtualSource,
    notifications,
    resample,
)
from firmware_bridge.protocols import codec

UV = 0.001
"""One step of a Polar H10 in mV; of an open EDA sensor, 1 nS, in uS."""


def ecg(seconds: float, sfreq: float = 100.0) -> np.ndarray:
    """A sum of sines below 40 Hz, mV."""
    t = np.arange(round(seconds * sfreq)) / sfreq
    return 0.8 * np.sin(2 * np.pi * 1.3 * t) + 0.2 * np.sin(2 * np.pi * 17.0 * t) + 0.1 * np.sin(2 * np.pi * 33.0 * t)


def beats(seconds: float) -> np.ndarray:
    """A QRS-like pulse 70 times a minute, mV at 100 Hz."""
    since_beat = np.arange(round(seconds * 100)) / 100 % (60 / 70) - 0.4
    return np.exp(-0.5 * (since_beat / 0.02) ** 2)


def eda(seconds: float, sfreq: float = 8.0) -> np.ndarray:
    """A slow rise with a ripple, uS."""
    t = np.arange(round(seconds * sfreq)) / sfreq
    return 4.0 + 0.01 * t + 0.3 * np.sin(2 * np.pi * 0.1 * t)


def chest(seconds: float, **options: object) -> VirtualSensor:
    return VirtualSensor("chest", "polar-pmd-ecg", ecg(seconds), 100.0, **options)  # type: ignore[arg-type]


def wrist(seconds: float, **options: object) -> VirtualSensor:
    return VirtualSensor("wrist", "open-eda", eda(seconds), 8.0, **options)  # type: ignore[arg-type]


def values(sensor: VirtualSensor) -> np.ndarray:
    """What its notifications decode to, in physical units."""
    decoder = codec(sensor.protocol).decoder()
    packets = [packet for n in notifications([sensor]) for packet in decoder.push(n.data)]
    return np.concatenate([packet.values for packet in packets]) * sensor.info().scale


def collect(source: Source) -> list[Notification]:
    async def scenario() -> list[Notification]:
        return [notification async for notification in source.notifications()]

    return asyncio.run(scenario())


def test_ecg_decodes_to_the_signal_at_the_sensors_true_rate() -> None:
    t = np.arange(21 * 73) / H10_SFREQ
    expected = (
        0.8 * np.sin(2 * np.pi * 1.3 * t) + 0.2 * np.sin(2 * np.pi * 17.0 * t) + 0.1 * np.sin(2 * np.pi * 33.0 * t)
    )
    got = values(chest(12.0))
    inner = slice(130, -130)  # the up-sampling filter knows nothing beyond the signal's ends
    assert len(got) == len(expected)
    assert np.abs(got - expected)[inner].max() < 0.5 * UV + 1e-3


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    assert np.abs(resample(ecg(10.0), 100.0, 100.0) - ecg(10.0)).max() < 1e-4


@given(data=st.lists(st.floats(0, 100), min_size=4, max_size=40), sfreq=st.sampled_from([4.0, 8.0]))
def test_eda_decodes_to_the_signal_within_half_a_step(data: list[float], sfreq: float) -> None:
    signal = np.array(data)
    got = values(VirtualSensor("wrist", "open-eda", signal, sfreq))
    assert len(got) == len(signal) // 4 * 4
    assert np.abs(got - signal[: len(got)]).max() <= 0.5 * UV + 1e-9


def test_the_assembler_finds_the_true_rate_and_no_gap() -> None:
    for sensor, sfreq in ((chest(300.0), H10_SFREQ), (wrist(300.0), 8.0)):
        assembler, decoder = Assembler(sensor.info()), codec(sensor.protocol).decoder()
        for notification in notifications([sensor]):
            for packet in decoder.push(notification.data):
                assembler.push(packet, notification.host_ns)
        assert assembler.stats.gaps == 0
        assert assembler.stats.sfreq == pytest.approx(sfreq, rel=2e-5)


def test_arrival_is_late_in_order_and_seeded() -> None:
    sensors = [chest(60.0), wrist(60.0)]
    got = list(notifications(sensors, seed=3))
    times = [n.host_ns for n in got]
    assert times == sorted(times)
    assert got == list(notifications(sensors, seed=3))
    assert times != [n.host_ns for n in notifications(sensors, seed=4)]
    for sensor in sensors:
        arrivals = [n.host_ns for n in got if n.stream == sensor.name]
        due = [BEGIN_NS + round((last + LATENCY_S) * 1e9) for last, _ in sensor.frames()]
        assert all(arrival >= moment for arrival, moment in zip(arrivals, due, strict=True))


def test_no_notification_overtakes_another() -> None:
    fast = VirtualSensor("wrist", "open-eda", np.arange(4000.0) / 100, 1000.0)  # one every 4 ms, delays of 20 ms
    arrived = list(notifications([fast]))
    assert [n.data for n in arrived] == [data for _, data in fast.frames()]
    assert all(one.host_ns < other.host_ns for one, other in itertools.pairwise(arrived))


def test_a_dropout_is_a_gap_of_its_length_and_shifts_nothing() -> None:
    sensor = wrist(60.0, dropouts=((20.0, 30.0),))
    assembler, decoder = Assembler(sensor.info()), codec(sensor.protocol).decoder()
    chunks: list[Chunk] = []
    for n in notifications([sensor]):
        for packet in decoder.push(n.data):
            chunks += assembler.push(packet, n.host_ns)
    lost = assembler.stats.lost_samples
    assert (assembler.stats.gaps, lost) == (1, 80)
    signal = eda(60.0)
    for chunk in chunks:
        assert np.abs(chunk.data[:, 0] - signal[chunk.start : chunk.stop]).max() <= 0.5 * UV + 1e-9


def test_loss_takes_about_its_share() -> None:
    whole, lossy = (len(list(notifications([wrist(600.0, loss=share)]))) for share in (0.0, 0.2))
    assert 0.7 * whole < lossy < 0.9 * whole
    assert not list(notifications([wrist(60.0, loss=1.0)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "heart-rate"}, "no virtual sensor speaks 'heart-rate'"),
        ({"data": np.zeros((3, 2))}, "data of shape"),
        ({"data": np.array([1.0, np.nan])}, "data of shape"),
        ({"loss": 1.5}, "loss 1.5"),
    ],
)
def test_virtual_sensors_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    given_options = {"name": "x", "protocol": "open-eda", "data": np.zeros(8), "sfreq": 8.0, **options}
    with pytest.raises(ValueError, match=message):
        VirtualSensor(**given_options)  # type: ignore[arg-type]


def test_pacing_waits_until_each_is_due() -> None:
    now, slept = 100.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    async def scenario() -> list[Notification]:
        return [notification async for notification in paced(sent, 2.0, clock=lambda: now, sleep=sleep)]

    sent = [Notification("a", round(1e9 * t), b"") for t in (5.0, 6.0, 6.5)]
    assert asyncio.run(scenario()) == sent
    assert slept == pytest.approx([0.0, 0.5, 0.25])


def test_a_recording_replays_bit_for_bit(tmp_path: Path, bundle: Bundle) -> None:
    heart = VirtualSensor("chest", "polar-pmd-ecg", beats(200.0), 100.0)
    source = VirtualSource([heart, wrist(200.0, dropouts=((90.0, 120.0),))], seed=1)
    live = open_session(bundle, source.streams)
    sent, predictions = collect(source), []
    with RecordingWriter(tmp_path, source.streams) as writer:
        for notification in sent:
            writer.append(notification)
            predictions += live.push(notification)
    predictions += live.flush()
    replay = ReplaySource(writer.path)
    assert replay.streams == source.streams
    again = open_session(bundle, replay.streams)
    got = collect(replay)
    assert got == sent
    assert [p for n in got for p in again.push(n)] + again.flush() == predictions
    assert {p.modalities for p in predictions} >= {("ecg",), ("ecg", "eda")}


GARBLED = (chest(75.0), wrist(75.0))
SENT = list(notifications(GARBLED))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny.affect")


@pytest.fixture(scope="module")
def undisturbed(bundle: Bundle) -> list[Prediction]:
    session = open_session(bundle, VirtualSource(GARBLED).streams)
    return [p for n in SENT for p in session.push(n)]


@settings(max_examples=8)
@given(at=st.integers(0, len(SENT) - 1), garbage=st.binary(max_size=9))  # too short for either protocol
def test_packets_of_garbage_change_no_prediction(
    bundle: Bundle, undisturbed: list[Prediction], at: int, garbage: bytes
) -> None:
    session = open_session(bundle, VirtualSource(GARBLED).streams)
    bad = Notification(SENT[at].stream, SENT[at].host_ns, garbage)
    got = [p for n in (*SENT[:at], bad, *SENT[at:]) for p in session.push(n)]
    assert got == undisturbed
    counts = session.stats[bad.stream]
    assert counts.bad.total() == 1
    assert counts.last_bad is not None and counts.last_bad.data == garbage
