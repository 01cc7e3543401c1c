"""The recovery ladder as a table: which rung when, for whom, how soon, and what it never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.sources.ladder import (
    APART_S,
    HARMFUL,
    JITTER,
    LADDERS,
    REFUSED_S,
    SILENT,
    WAITS_S,
    Fault,
    Ladder,
    Rung,
    Shared,
)
from firmware_bridge.errors import RadioFault

FAULTS = st.sampled_from([*RadioFault, SILENT])


def ladder(shared: Shared | None = None, dice: float = 0.5) -> Ladder:
    return Ladder(shared or Shared(), lambda: dice)


def rungs(fault: Fault, n: int, *, alone: bool = True) -> list[Rung]:
    climbing, shared = [], Shared()
    one = ladder(shared)
    for number in range(n):
        step = one.failed(fault, now_s=1000.0 * number, alone=alone)
        shared.did(step.rung, 1000.0 * number)
        climbing.append(step.rung)
    return climbing


def test_every_fault_has_a_ladder() -> None:
    assert set(LADDERS) == {*RadioFault, SILENT}


@pytest.mark.parametrize("fault", LADDERS)
def test_alone_it_climbs_as_the_table_says_and_begins_again(fault: Fault) -> None:
    assert rungs(fault, 2 * len(LADDERS[fault])) == [*LADDERS[fault]] * 2


@pytest.mark.parametrize("fault", LADDERS)
def test_beside_a_streaming_sensor_nothing_touches_the_adapter(fault: Fault) -> None:
    assert not set(rungs(fault, 20, alone=False)) & HARMFUL


def test_a_silent_stream_is_started_anew_at_once_then_connected_anew() -> None:
    one = ladder()
    first, second = (one.failed(SILENT, 0.0, alone=True) for _ in range(2))
    assert (first.rung, first.wait_s, second.rung) == (Rung.RESTART, 0.0, Rung.RECONNECT)
    assert ladder().failed(SILENT, 0.0, alone=True, restartable=False).rung is Rung.RECONNECT


def test_progress_begins_at_the_foot() -> None:
    one = ladder()
    for _ in range(5):
        one.failed(RadioFault.LINK, 0.0, alone=True)
    one.progress()
    assert one.failed(RadioFault.LINK, 0.0, alone=True).wait_s == WAITS_S[0]
    assert one.failed(RadioFault.AUTHENTICATION, 0.0, alone=True).rung is Rung.RECONNECT


def test_each_kind_climbs_its_own_ladder_and_all_together_wait_longer() -> None:
    one = ladder()
    faults = [RadioFault.LINK, RadioFault.TIMEOUT, RadioFault.AUTHENTICATION, RadioFault.TIMEOUT]
    steps = [one.failed(fault, 0.0, alone=True) for fault in faults]
    assert [step.rung for step in steps] == [Rung.RECONNECT, Rung.RECONNECT, Rung.RECONNECT, Rung.CLEAR]
    assert [step.wait_s for step in steps] == [*WAITS_S[:4]]


def test_one_power_cycle_serves_all_for_a_while() -> None:
    shared = Shared()
    first, second = ladder(shared), ladder(shared)
    for each in (first, second):
        for _ in range(LADDERS[RadioFault.LINK].index(Rung.POWER)):
            each.failed(RadioFault.LINK, 0.0, alone=True)
    assert first.failed(RadioFault.LINK, 100.0, alone=True).rung is Rung.POWER
    shared.did(Rung.POWER, 100.0)
    assert second.failed(RadioFault.LINK, 101.0, alone=True).rung is Rung.RECONNECT
    for _ in range(len(LADDERS[RadioFault.LINK]) - 1):
        second.failed(RadioFault.LINK, 101.0, alone=True)
    assert second.failed(RadioFault.LINK, 100.0 + APART_S[Rung.POWER], alone=True).rung is Rung.POWER


@given(st.lists(st.tuples(FAULTS, st.booleans()), min_size=1, max_size=60), st.floats(0, 1, exclude_max=True))
def test_no_wait_is_longer_than_a_minute_and_jitter_is_bounded(story: list[tuple[Fault, bool]], dice: float) -> None:
    exact, shaken = ladder(dice=0.5), ladder(dice=dice)
    for number, (fault, alone) in enumerate(story):
        plain = exact.failed(fault, float(number), alone=alone)
        step = shaken.failed(fault, float(number), alone=alone)
        assert step.rung is plain.rung
        assert abs(step.wait_s - plain.wait_s) <= JITTER * plain.wait_s + 1e-9
        assert 0 <= plain.wait_s <= REFUSED_S
        if plain.rung is not Rung.RESTART:
            assert plain.wait_s >= WAITS_S[0]


@pytest.mark.parametrize("fault", [fault for fault in LADDERS if fault is not RadioFault.NOT_PERMITTED])
def test_the_first_attempts_are_quick(fault: Fault) -> None:
    one = ladder()
    waits = [one.failed(fault, 0.0, alone=True).wait_s for _ in range(2)]
    assert sum(waits) <= 10


def test_a_search_beside_a_streaming_sensor_is_rarer_but_never_rare() -> None:
    def waits(alone: bool) -> list[float]:
        one = ladder()
        return [one.failed(RadioFault.NOT_FOUND, 0.0, alone=alone).wait_s for _ in range(12)]

    assert max(waits(True)) == 2.0
    assert max(waits(False)) == 10.0
    assert all(beside >= alone for alone, beside in zip(waits(True), waits(False), strict=True))


def test_nothing_is_ever_restarted_for_a_sensor_that_is_away_or_for_a_permission() -> None:
    for fault in (RadioFault.NOT_FOUND, RadioFault.NOT_PERMITTED, RadioFault.AUTHENTICATION, RadioFault.GATT):
        assert Rung.SYSTEMD not in rungs(fault, 40)


def test_a_bond_is_touched_for_a_failed_authentication_alone() -> None:
    assert [fault for fault, steps in LADDERS.items() if Rung.PAIR in steps] == [RadioFault.AUTHENTICATION]
