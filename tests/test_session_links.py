"""What a change of link does to a session: bytes of one connection never meet those of the next."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from device.notification import Arrival, LinkChange, Notification, Unrecorded
from device.session import MAX_REASONS, Session, open_session
from firmware_bridge.codecs import shimmer3r
from firmware_bridge.protocols import PROTOCOLS

NAME = "wrist"
INFO = PROTOCOLS[shimmer3r.CODEC.protocol].stream_info


def frame(number: int) -> bytes:
    """One sample of a Shimmer3R at 32 Hz: range 2, ADC 2500 (the worked frame's)."""
    return b"\x00" + (number * 1024).to_bytes(3, "little") + bytes.fromhex("c4 89")


def at(number: int, data: bytes) -> Notification:
    return Notification(NAME, 10**12 + round(number / 32 * 1e9), data)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return open_session(tiny_bundle(tmp_path / "tiny.affect"), {NAME: INFO})


def play(session: Session, arrivals: list[Arrival]) -> None:
    for arrival in arrivals:
        session.push(arrival)


@pytest.mark.parametrize("told", [True, False])
def test_half_a_packet_does_not_meet_the_next_connection(session: Session, told: bool) -> None:
    whole: list[Arrival] = [at(i, frame(i)) for i in range(20)]
    cut: list[Arrival] = [at(20, frame(20)[:4])]
    change: list[Arrival] = [LinkChange(NAME, 10**12, "starting")] if told else []
    play(session, whole + cut + change + [at(i, frame(i)) for i in range(40, 60)])
    counts = session.stats[NAME]
    assert counts.connections == told
    assert (counts.bad.total() == 0) == told  # without the news, the halves make a packet that is none
    assert counts.assembly.gaps == 1


def test_other_changes_leave_a_packet_that_straddles_alone(session: Session) -> None:
    data = frame(0) + frame(1)
    play(session, [at(0, data[:8]), LinkChange(NAME, 10**12, "streaming"), at(1, data[8:]), at(2, frame(2))])
    assert session.stats[NAME].bad.total() == 0
    assert session.stats[NAME].assembly.samples >= 2


def test_half_a_packet_does_not_meet_what_follows_a_hole_in_the_recording(session: Session) -> None:
    cut: list[Arrival] = [at(0, frame(0)), at(1, frame(1)[:4]), Unrecorded(10**12, 3, "the disk is full")]
    play(session, cut + [at(i, frame(i)) for i in range(40, 60)])
    counts = session.stats[NAME]
    assert (counts.bad.total(), counts.connections, counts.assembly.gaps) == (0, 0, 1)


def test_a_month_of_hostile_bytes_fills_no_memory(session: Session) -> None:
    for number in range(300):
        session.push(at(number, bytes([0xEE]) * (number + 1)))
    assert len(session.stats[NAME].bad) <= MAX_REASONS + 1
