from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtual

from firmware_bridge.codec import Codec, Options
from firmware_bridge.codecs import movesense_gsp, nuanic, open_eda, polar_pmd
from firmware_bridge.codecs.movesense_gsp import Answer, EcgInfo
from firmware_bridge.errors import DecodeError, ExchangeError, RadioError, RadioFault
from firmware_bridge.exchange import DONE, OK, Exchange, Read, Refusal, Rule, Subscribe, Table, Write
from firmware_bridge.packet import StreamInfo
from firmware_bridge.protocols import PROTOCOLS
from firmware_bridge.radio.conversation import Conversation

OURS = (polar_pmd.CODEC, open_eda.CODEC, movesense_gsp.CODEC, movesense_gsp.RAW_CODEC, nuanic.CODEC)
CODECS = {codec.protocol: codec for codec in (*PROTOCOLS.values(), *OURS)}
NOW_NS = 1_787_161_151_527_000_000
OPTIONS = (Options(), Options(sfreq=4.0, unix_ns=NOW_NS), Options(sfreq=250.0))


# -- the laws of a table


def _spelt_out(codec: Codec) -> Options:
    """The default rate by its number, and the time: what no codec may refuse."""
    return Options(sfreq=codec.stream_info.sfreq, unix_ns=NOW_NS)


def _tables() -> Iterator[tuple[str, Table]]:
    """Every start that is not refused at once, and every stop."""
    for name, codec in CODECS.items():
        yield f"{name} stop", codec.stop
        yield f"{name} start by default, told the time", codec.start(_spelt_out(codec))
        for options in OPTIONS:
            try:
                table = codec.start(options)
            except ValueError as error:
                assert str(error)
                continue
            yield f"{name} start {options.sfreq}", table


TABLES = dict(_tables())
every_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def _ends(rule: Rule) -> list[str | Refusal]:
    return [rule.then] if isinstance(rule.then, str) else list(rule.then.values())


def _states(rule: Rule) -> set[str]:
    return {end for end in _ends(rule) if isinstance(end, str)}


def _reached(table: Table, start: str) -> set[str]:
    found, new = {start}, {start}
    while new:
        new = {end for state in new if state != DONE for end in _states(table[state])} - found
        found |= new
    return found


@every_table
def test_every_end_is_a_state_or_done(table: Table) -> None:
    assert DONE not in table
    assert all(_states(rule) <= {*table, DONE} for rule in table.values())


@every_table
def test_every_state_is_reached_and_leads_to_done(table: Table) -> None:
    if table:
        assert _reached(table, next(iter(table))) == {*table, DONE}
    assert all(DONE in _reached(table, state) for state in table)


@every_table
def test_no_table_asks_for_ever(table: Table) -> None:
    """From every state on, each state is passed once at most."""
    assert all(state not in _reached(table, end) for state in table for end in _states(table[state]) - {DONE})


@every_table
def test_an_answer_is_waited_for_where_it_was_subscribed_to(table: Table) -> None:
    def subscribed(state: str, heard: frozenset[str]) -> bool:
        if state == DONE:
            return True
        rule = table[state]
        heard |= {rule.do.uuid} if isinstance(rule.do, Subscribe) else set()
        return rule.answer in {None, *heard} and all(subscribed(end, heard) for end in _states(rule))

    assert not table or subscribed(next(iter(table)), frozenset())


@every_table
def test_every_step_has_a_limit(table: Table) -> None:
    assert all(0 < rule.limit_s < 60 for rule in table.values())


def _polar(op: int, kind: int, status: int) -> bytes:
    return bytes(polar_pmd.Response(op, kind, status))


ANSWERS: list[bytes] = [
    b"",
    *(bytes([value]) for value in range(20)),
    *(bytes(polar_pmd.Features(bytes([mask]))) for mask in (0, 1, 4, 5, 255)),
    *(_polar(op, kind, status) for op in (1, 2, 3) for kind in (0, 2) for status in range(16)),
    *(bytes(open_eda.Info(0, rate_mhz, unit=unit)) for rate_mhz in (1, 4000, 8000, 250_000) for unit in open_eda.Unit),
    *(bytes(open_eda.Response(op, status)) for op in range(5) for status in range(5)),
    *(bytes(Answer(ref, status)) for ref in (0, 0x63, 0x64) for status in (0, 200, 202, 401, 404, 409, 429, 503)),
    *(
        bytes(Answer(0x64, 200, bytes(EcgInfo(rates, size))))
        for rates in ((), (125, 200, 250), (500,))
        for size in (0, 8, 16)
    ),
]
"""Answers of every sensor, to be put to every judge."""


def _outcome(rule: Rule, value: bytes) -> str | None:
    """None too for what is not an answer."""
    try:
        return rule.judge(value)
    except DecodeError:
        return None


@every_table
def test_every_outcome_of_a_judge_is_named(table: Table) -> None:
    for rule, value in itertools.product(table.values(), ANSWERS):
        outcome = _outcome(rule, value)
        assert outcome is None or rule.after(outcome)


@every_table
@settings(max_examples=50)
@given(data=st.data())
def test_every_outcome_of_any_answer_is_named(table: Table, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from(ANSWERS))
    value = start[: data.draw(st.integers(0, len(start)))] + data.draw(st.binary(max_size=20))
    for rule in table.values():
        outcome = _outcome(rule, value)
        assert outcome is None or rule.after(outcome)


def _come(table: Table) -> Iterator[str | Refusal]:
    """Where the answers can lead, from the first state on."""
    new, found = [next(iter(table), DONE)], set[str]()
    while new:
        state = new.pop()
        if state in {DONE, *found}:
            continue
        found.add(state)
        rule = table[state]
        ends = [rule.after(outcome) for value in ANSWERS if (outcome := _outcome(rule, value)) is not None]
        new += {end for end in ends if isinstance(end, str)}
        yield from ends


@every_table
def test_refusals_say_what_is_wrong_and_what_to_do(table: Table) -> None:
    for refusal in {end for end in _come(table) if isinstance(end, Refusal)}:
        assert refusal.reason and refusal.reason.isprintable()
        assert refusal.remedy and refusal.remedy.isprintable()


def _named(rule: Rule) -> set[str]:
    return {OK} if isinstance(rule.then, str) else set(rule.then)


@pytest.mark.parametrize("codec", OURS, ids=lambda codec: codec.protocol)
def test_every_named_outcome_can_come(codec: Codec) -> None:
    """With one of the options at least: a table may have states that others need."""
    tables = [table for name, table in TABLES.items() if name.startswith(f"{codec.protocol} ")]
    for state in {state for table in tables for state in table}:
        rules = [table[state] for table in tables if state in table]
        outcomes = {_outcome(rule, value) for rule, value in itertools.product(rules, ANSWERS)}
        assert outcomes - {None} == set().union(*map(_named, rules))


# -- the machine itself

TABLE: Table = {
    "ask": Rule(
        Read("r"), lambda value: value.decode() or None, {"yes": "tell", "no": Refusal("no", "ask again", False)}
    ),
    "tell": Rule(Write("w", b"!"), lambda value: OK if value == b"fine" else None, answer="n"),
}


def _begun(value: bytes = b"yes") -> Exchange:
    exchange = Exchange("p", TABLE)
    exchange.did(value)
    return exchange


def test_an_empty_table_is_done_at_once() -> None:
    assert Exchange("p", {}).done


def test_a_run_keeps_its_answers_by_state() -> None:
    exchange = _begun()
    exchange.did()
    exchange.heard("other", b"fine")
    exchange.heard("n", b"not an answer")
    assert exchange.state == "tell"
    exchange.heard("n", b"fine")
    assert exchange.done
    assert exchange.answers == {"ask": b"yes", "tell": b"fine"}
    exchange.heard("n", b"fine")  # what comes late is left alone


def test_a_refusal_carries_state_reason_remedy() -> None:
    with pytest.raises(ExchangeError, match="p: at 'ask': no; ask again") as caught:
        _begun(b"no")
    error = caught.value
    assert (error.protocol, error.state, error.reason, error.remedy, error.permanent) == (
        *("p", "ask", "no", "ask again"),
        False,
    )


def test_an_answer_may_come_before_the_write_is_confirmed() -> None:
    exchange = _begun()
    exchange.heard("n", b"fine")
    assert exchange.done


def test_a_value_read_that_does_not_decode_ends_the_exchange() -> None:
    exchange = Exchange(polar_pmd.PROTOCOL, polar_pmd.CODEC.start(Options()))
    with pytest.raises(ExchangeError, match="affectd-pair scan") as caught:
        exchange.did(b"\xff")
    assert caught.value.permanent


# -- conversations with scripted sensors


class ScriptedSensor:
    """A GattClient: values to be read, and what it notifies when something is written."""

    services: frozenset[str] = frozenset()
    mtu = 247

    def __init__(self, reads: Mapping[str, bytes], replies: Mapping[bytes, Sequence[bytes]], on: str = "") -> None:
        self.reads = dict(reads)
        self.replies = replies
        self.on = on
        """Characteristic that notifies the replies."""
        self.echoes_reads = False
        """As BlueZ does: a value read goes to the subscriber too."""
        self.writes: list[tuple[str, bytes]] = []
        self.callbacks: dict[str, Callable[[bytes], None]] = {}

    async def read(self, uuid: str) -> bytes:
        value = self.reads[uuid]
        if self.echoes_reads:
            self._notify(uuid, value)
        return value

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        self.writes.append((uuid, data))
        if uuid in self.reads and uuid != self.on:  # a control point takes commands, and keeps none
            self.reads[uuid] = data
        for reply in self.replies.get(data, ()):
            self._notify(self.on, reply)

    async def subscribe(self, uuid: str, callback: Callable[[bytes], None]) -> None:
        self.callbacks[uuid] = callback

    async def pair(self) -> None: ...

    async def disconnect(self) -> None: ...

    def _notify(self, uuid: str, value: bytes) -> None:
        if uuid in self.callbacks:
            self.callbacks[uuid](value)


def _converse(codec: Codec, sensor: ScriptedSensor, options: Options = OPTIONS[0]) -> StreamInfo:
    """Start; the stream it ends in. Raises ExchangeError, RadioError."""
    conversation = Conversation(codec.protocol, sensor, lambda _uuid, _data: None)
    return codec.describe(run_virtual(conversation.run(codec.start(options))))


def _silence(codec: Codec, sensor: ScriptedSensor, limit_s: float) -> tuple[RadioError, float]:
    """The error of a start whose steps have this limit, and the virtual seconds until it came."""

    async def start() -> tuple[RadioError, float]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        table = {state: dataclasses.replace(rule, limit_s=limit_s) for state, rule in codec.start(Options()).items()}
        with pytest.raises(RadioError) as caught:
            await Conversation(codec.protocol, sensor, lambda _uuid, _data: None).run(table)
        return caught.value, loop.time() - began_s

    return run_virtual(start())


FEATURES = bytes.fromhex("0F 05 00")
MOVESENSE_INFO = bytes(Answer(0x64, 200, bytes(EcgInfo(movesense_gsp.RATES, 16, b"filters"))))


def _writes(table: Table) -> list[bytes]:
    return [rule.do.data for rule in table.values() if isinstance(rule.do, Write)]


def _polar_h10(*replies: bytes) -> ScriptedSensor:
    reads = {polar_pmd.CONTROL_UUID: FEATURES}
    sensor = ScriptedSensor(reads, {polar_pmd.START: replies}, on=polar_pmd.CONTROL_UUID)
    sensor.echoes_reads = True
    return sensor


def _wristband(*replies: bytes) -> ScriptedSensor:
    reads = {open_eda.INFO_UUID: bytes(open_eda.Info(boot_id=1))}
    return ScriptedSensor(reads, {open_eda.START: replies}, on=open_eda.CONTROL_UUID)


def _movesense(*replies: bytes, codec: Codec = movesense_gsp.CODEC) -> ScriptedSensor:
    get_info, start = _writes(codec.start(Options()))
    return ScriptedSensor({}, {get_info: [MOVESENSE_INFO], start: replies}, on=movesense_gsp.NOTIFY_UUID)


def _ring(mode: int = 1, rate_hz: int = 8) -> ScriptedSensor:
    return ScriptedSensor({nuanic.MODE_UUID: bytes([mode]), nuanic.RATE_UUID: bytes([rate_hz])}, {})


POLAR_OK = _polar(2, 0, 0)
WRIST_OK = bytes(open_eda.Response(open_eda.Op.START, 0))
MOVESENSE_OK = bytes(Answer(0x63, 200))
ANSWERING: list[tuple[Codec, Callable[..., ScriptedSensor], bytes, list[bytes]]] = [
    (polar_pmd.CODEC, _polar_h10, POLAR_OK, [_polar(1, 0, 0), _polar(2, 2, 9), _polar(3, 0, 0), b"\x01\x00", FEATURES]),
    (open_eda.CODEC, _wristband, WRIST_OK, [bytes(open_eda.Response(2, 0)), bytes(open_eda.Response(3, 1))]),
    (movesense_gsp.CODEC, _movesense, MOVESENSE_OK, [b"\x02\x64\x00", b"\x03\x63\x00", bytes(Answer(0x01, 429))]),
]
"""Sensors that answer a start: the good answer, and what else may come in between."""
answering = pytest.mark.parametrize(
    ("codec", "sensor_of", "good", "others"), ANSWERING, ids=[codec.protocol for codec, *_ in ANSWERING]
)


@answering
def test_a_good_start(codec: Codec, sensor_of: Callable[..., ScriptedSensor], good: bytes, others: list[bytes]) -> None:
    sensor = sensor_of(good)
    assert _converse(codec, sensor) == codec.stream_info
    assert codec.data_uuid in sensor.callbacks


@answering
def test_the_default_rate_by_its_number_is_the_default(
    codec: Codec, sensor_of: Callable[..., ScriptedSensor], good: bytes, others: list[bytes]
) -> None:
    assert _converse(codec, sensor_of(good), _spelt_out(codec)) == codec.stream_info


@answering
def test_other_answers_in_between_are_left_alone(
    codec: Codec, sensor_of: Callable[..., ScriptedSensor], good: bytes, others: list[bytes]
) -> None:
    assert _converse(codec, sensor_of(*others, b"", b"\xff" * 30, good, *others)) == codec.stream_info


@answering
def test_silence_ends_in_a_timeout(
    codec: Codec, sensor_of: Callable[..., ScriptedSensor], good: bytes, others: list[bytes]
) -> None:
    error, elapsed_s = _silence(codec, sensor_of(*others), limit_s=7.0)
    assert elapsed_s == 7.0
    assert (error.fault, error.what) == (RadioFault.TIMEOUT, codec.protocol)
    assert error.reason.startswith("no answer to 'start")
    assert error.reason.endswith("within 7 s")


@answering
@settings(max_examples=60)
@given(notifications=st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(ANSWERS)), max_size=6))
def test_arbitrary_answers_end_in_a_refusal_or_are_left_alone(
    codec: Codec,
    sensor_of: Callable[..., ScriptedSensor],
    good: bytes,
    others: list[bytes],
    notifications: list[bytes],
) -> None:
    try:
        assert _converse(codec, sensor_of(*notifications, good)) == codec.stream_info
    except ExchangeError as error:
        assert error.protocol == codec.protocol


READING: list[tuple[Codec, Callable[[], ScriptedSensor]]] = [
    (polar_pmd.CODEC, lambda: _polar_h10(POLAR_OK)),
    (open_eda.CODEC, lambda: _wristband(WRIST_OK)),
    (nuanic.CODEC, _ring),
]


@pytest.mark.parametrize(("codec", "sensor_of"), READING, ids=[codec.protocol for codec, _ in READING])
@settings(max_examples=60)
@given(value=st.one_of(st.binary(max_size=20), st.sampled_from(ANSWERS)))
def test_arbitrary_values_read_end_in_a_refusal(
    codec: Codec, sensor_of: Callable[[], ScriptedSensor], value: bytes
) -> None:
    sensor = sensor_of()
    sensor.reads = dict.fromkeys(sensor.reads, value)
    try:
        assert _converse(codec, sensor).protocol == codec.protocol
    except ExchangeError as error:
        assert error.permanent


@pytest.mark.parametrize(
    ("codec", "sensor", "reason"),
    [
        (polar_pmd.CODEC, _polar_h10(_polar(2, 0, 10)), "do not fit the connection"),
        (polar_pmd.CODEC, _polar_h10(_polar(2, 0, 13)), "refuses to start its ECG"),
        (open_eda.CODEC, _wristband(bytes(open_eda.Response(1, 3))), "refuses to start"),
        (movesense_gsp.CODEC, _movesense(bytes(Answer(0x63, 429))), "429"),
        (movesense_gsp.CODEC, _movesense(bytes(Answer(0x63, 404))), "older than 2.3"),
        (
            movesense_gsp.RAW_CODEC,
            _movesense(bytes(Answer(0x63, 404)), codec=movesense_gsp.RAW_CODEC),
            "no ECG at this rate",
        ),
        (nuanic.CODEC, _ring(mode=9), "mode 9"),
    ],
    ids=lambda value: value.protocol if isinstance(value, Codec) else None,
)
def test_refused_starts(codec: Codec, sensor: ScriptedSensor, reason: str) -> None:
    with pytest.raises(ExchangeError, match=reason):
        _converse(codec, sensor)


def test_a_polar_that_streams_already_is_started() -> None:
    assert _converse(polar_pmd.CODEC, _polar_h10(_polar(2, 0, 6))) == polar_pmd.STREAM_INFO


def test_a_polar_started_again_on_the_same_link_echoes_its_features() -> None:
    heard: list[bytes] = []
    conversation = Conversation("p", _polar_h10(POLAR_OK), lambda _uuid, data: heard.append(data))
    first = run_virtual(conversation.run(polar_pmd.CODEC.start(Options())))
    heard.clear()
    assert run_virtual(conversation.run(polar_pmd.CODEC.start(Options()))) == first
    assert heard == [FEATURES, POLAR_OK]  # the echo came, and was not taken for the answer to the start


def test_a_polar_without_ecg_is_not_started() -> None:
    sensor = _polar_h10(POLAR_OK)
    sensor.reads[polar_pmd.CONTROL_UUID] = bytes.fromhex("0F 04")
    with pytest.raises(ExchangeError, match="has PMD, but no ECG"):
        _converse(polar_pmd.CODEC, sensor)
    assert sensor.writes == []


class Wristband(ScriptedSensor):
    """An open EDA sensor that takes rates from 1 to 16 Hz and counts what it was told."""

    async def write(self, uuid: str, data: bytes, response: bool = True) -> None:
        command = open_eda.Command.from_bytes(data)
        bad = command.rate_mhz is not None and not 1000 <= command.rate_mhz <= 16_000
        if command.rate_mhz and not bad:
            self.reads[open_eda.INFO_UUID] = bytes(open_eda.Info(1, command.rate_mhz))
        self.writes.append((uuid, data))
        self._notify(self.on, bytes(open_eda.Response(command.op, open_eda.Result.INVALID_PARAMETER if bad else 0)))


def test_a_wristband_is_set_to_another_rate() -> None:
    sensor = Wristband(_wristband().reads, {}, on=open_eda.CONTROL_UUID)
    assert _converse(open_eda.CODEC, sensor, Options(sfreq=4.0)).sfreq == 4.0
    assert [open_eda.Command.from_bytes(data).op.name for _, data in sensor.writes] == ["STOP", "SET_RATE", "START"]
    with pytest.raises(ExchangeError, match="does not run at 250 Hz"):
        _converse(open_eda.CODEC, sensor, Options(sfreq=250.0))


def test_a_ring_is_set_up_in_order() -> None:
    sensor = _ring(mode=2, rate_hz=16)
    assert _converse(nuanic.CODEC, sensor, Options(sfreq=4.0, unix_ns=NOW_NS)).sfreq == 4.0
    assert [uuid for uuid, _ in sensor.writes] == [nuanic.MODE_UUID, nuanic.RATE_UUID, nuanic.CLOCK_UUID]
    assert list(sensor.callbacks) == [nuanic.EDA_UUID]
    sensor.writes.clear()
    _converse(nuanic.CODEC, sensor, Options(sfreq=4.0))
    assert sensor.writes == []


def test_the_raw_path_of_a_movesense() -> None:
    sensor = _movesense(MOVESENSE_OK, codec=movesense_gsp.RAW_CODEC)
    assert _converse(movesense_gsp.RAW_CODEC, sensor) == movesense_gsp.RAW_STREAM_INFO


@pytest.mark.parametrize("codec", OURS, ids=lambda codec: codec.protocol)
def test_every_stop_runs_without_an_answer(codec: Codec) -> None:
    sensor = ScriptedSensor({}, {})
    conversation = Conversation(codec.protocol, sensor, lambda _uuid, _data: None)
    asyncio.run(conversation.run(codec.stop))
    assert [data for _, data in sensor.writes] == _writes(codec.stop)


def test_a_conversation_hands_on_every_notification() -> None:
    heard: list[tuple[str, bytes]] = []
    sensor = _polar_h10(b"\x01\x00", POLAR_OK)
    conversation = Conversation("p", sensor, lambda uuid, data: heard.append((uuid, data)))
    asyncio.run(conversation.run(polar_pmd.CODEC.start(Options())))
    sensor.callbacks[polar_pmd.DATA_UUID](b"later")
    assert heard == [
        (polar_pmd.CONTROL_UUID, b"\x01\x00"),
        (polar_pmd.CONTROL_UUID, POLAR_OK),
        (polar_pmd.DATA_UUID, b"later"),
    ]


class Hanging(ScriptedSensor):
    """Never returns from a read."""

    async def read(self, uuid: str) -> bytes:
        await asyncio.Event().wait()
        return b""


def test_an_action_that_never_returns_ends_in_a_timeout() -> None:
    error, elapsed_s = _silence(polar_pmd.CODEC, Hanging({}, {}), limit_s=3.0)
    assert elapsed_s == 3.0
    assert (error.fault, error.reason) == (RadioFault.TIMEOUT, "no answer to 'features' within 3 s")
