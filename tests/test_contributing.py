"""CONTRIBUTING's example of a sensor is a codec that works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.codec import Codec, Options
from firmware_bridge.exchange import Exchange
from firmware_bridge.packet import Packet

TEXT = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()


def example() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    module = sys.modules["example_sensor"] = ModuleType("example_sensor")  # dataclasses look their module up
    exec(compile(code, "CONTRIBUTING.md", "exec"), vars(module))
    return vars(module)


NAMES = example()
CODEC: Codec = NAMES["CODEC"]


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2))
def test_it_decodes_what_it_encodes(seq: int, ticks: int, samples: tuple[int, int]) -> None:
    data = bytes(NAMES["Data"](seq, ticks, samples))
    assert CODEC.decoder().push(data) == [Packet(ticks, samples, seq)]


def test_its_table_ends() -> None:
    exchange = Exchange(CODEC.protocol, CODEC.start(Options()))
    actions = []
    while not exchange.done:
        actions.append(exchange.rule.do)
        exchange.did()
    assert [type(action).__name__ for action in actions] == ["Subscribe", "Write"]
