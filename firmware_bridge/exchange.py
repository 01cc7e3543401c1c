"""Control exchanges as tables: what to read, write or subscribe to, which answer counts, and what follows from it.

Sans-IO: an Exchange says what to do next and is told what came back; it knows nothing of radios, loops or clocks
(`radio/conversation.py` runs one over a link).

A table maps a state to its Rule, in the order of the conversation; it begins with the first state and ends at DONE. ::

    {
        "features":  Rule(Read(CONTROL), judge_features, {"ecg": "subscribe", "no ecg": Refusal(...)}),
        "subscribe": Rule(Subscribe(CONTROL), then="start"),
        "start":     Rule(Write(CONTROL, START), judge_start, {"ok": DONE, "busy": Refusal(...)}, answer=CONTROL),
    }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from firmware_bridge.errors import DecodeError, ExchangeError

DONE = "done"
"""The state after the last one."""
OK = "ok"
"""The outcome of whatever has nothing to judge."""
ANSWER_S = 10.0
"""Limit of one step: a first access may have to pair, a sleepy sensor answers within a second or two."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read a characteristic; its value is the answer."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write a characteristic."""

    uuid: str
    data: bytes
    response: bool = True


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to notifications or indications of a characteristic."""

    uuid: str


Action = Read | Write | Subscribe


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of an exchange that cannot go on."""

    reason: str
    """What is wrong, as in "has PMD, but no ECG"."""
    remedy: str
    """What a person can do."""
    permanent: bool = True
    """Whether a new connection would end the same way."""


def _fine(_value: bytes) -> str | None:
    return OK


@dataclass(frozen=True, slots=True)
class Rule:
    """One state: its action, how the answer is judged, and where each outcome leads."""

    do: Action
    judge: Callable[[bytes], str | None] = _fine
    """Answer to outcome; None: this is not the answer, wait on. A DecodeError from it means the same for a
    notification, and ends the exchange for the value of a Read."""
    then: Mapping[str, str | Refusal] | str = DONE
    """Outcome to the next state, or one state for the outcome OK."""
    answer: str | None = None
    """Characteristic whose notification is the answer; None: the action's own result is (a Read's value, else b"")."""
    limit_s: float = ANSWER_S
    """How long action and answer may take together."""

    def after(self, outcome: str) -> str | Refusal:
        """Next state; raises KeyError for an outcome the table does not name."""
        return {OK: self.then}[outcome] if isinstance(self.then, str) else self.then[outcome]


Table = Mapping[str, Rule]


class Exchange:
    """One run through a table.

    The shell performs ``rule.do``, reports it with ``did``, then hands on every notification with ``heard`` until the
    state changes; at ``done`` the answers lie in ``answers`` by the state that got them.
    """

    def __init__(self, protocol: str, table: Table) -> None:
        self.protocol = protocol
        self._table = table
        self.state = next(iter(table), DONE)
        self.answers: dict[str, bytes] = {}

    @property
    def done(self) -> bool:
        """Whether the table is at its end."""
        return self.state == DONE

    @property
    def rule(self) -> Rule:
        """The rule of the present state; not to be asked once done."""
        return self._table[self.state]

    def did(self, value: bytes = b"") -> None:
        """The action is done, with this value; raises ExchangeError where the value ends the exchange."""
        if self.rule.answer is None:
            try:
                self._judge(value)
            except DecodeError as error:
                raise self._refused(Refusal(str(error), "check what it is with `affectd-pair scan`")) from error

    def heard(self, uuid: str, data: bytes) -> None:
        """A notification came; anything but the awaited answer is left alone. Raises ExchangeError."""
        if self.done or uuid != self.rule.answer:
            return
        try:
            self._judge(data)
        except DecodeError:
            return

    def _judge(self, data: bytes) -> None:
        outcome = self.rule.judge(data)
        if outcome is None:
            return
        following = self.rule.after(outcome)
        if isinstance(following, Refusal):
            raise self._refused(following)
        self.answers[self.state] = bytes(data)
        self.state = following

    def _refused(self, refusal: Refusal) -> ExchangeError:
        return ExchangeError(self.protocol, self.state, refusal.reason, refusal.remedy, refusal.permanent)
