"""What a virtual sensor measures: integers as its protocol sends them, repeated without end.

Knows nothing of clocks, packets or links. A sample is found by its number since power-on alone, so that a stream goes
on, after any interruption, where a real one would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from firmware_bridge.errors import DecodeError
from firmware_bridge.packet import Packet
from firmware_bridge.virtual.errors import SignalError

DATA = Path(__file__).parent / "data"
"""The shipped recordings, made by scripts/make_virtual_data.py."""
SHIPPED = {"ecg-130": "ecg_130hz_uv.txt", "ecg-200": "ecg_200hz_uv.txt", "eda-8": "eda_8hz_ns.txt"}
"""ECG at 130 and 200 Hz in uV, EDA at 8 Hz in nS: two minutes of a person at rest."""

BEAT_LEVEL = 0.5
"""A beat's top is above this share of the way from the median to the ``TALL`` quantile of the samples."""
TALL = 0.99
"""R waves fill about 3 % of an ECG, their upper half 1 %."""
REFRACTORY_S = 0.3
"""No two beats are closer, up to 200 beats per minute."""
CAPTURE_DIGITS = 16
"""A line of at least so many hexadecimal digits is a notification; no integer sample is as long."""
NOISE_UV = 40
"""Standard deviation of what an ECG electrode in the air picks up; real ones give anything from 10 uV to 20 mV."""
NOISE_SAMPLES = 997
"""Length of the noise's table: a prime, so that it falls on no rate."""


@dataclass(frozen=True)
class Signal:
    """Samples as sent, first to last, then again from the first."""

    values: Sequence[int]
    sfreq: float
    """Nominal rate in Hz."""

    def at(self, index: int) -> int:
        """Sample number ``index`` since power-on."""
        return self.values[index % len(self.values)]

    def run(self, first: int, n: int) -> tuple[int, ...]:
        """``n`` samples from number ``first`` on."""
        return tuple(self.at(index) for index in range(first, first + n))

    @cached_property
    def beats(self) -> tuple[int, ...]:
        """Index of each R wave's top in ``values``; for a clean ECG only."""
        return find_beats(self.values, self.sfreq)

    def beats_between(self, first: int, last: int) -> list[int]:
        """Sample numbers since power-on of the beats in [first, last)."""
        size = len(self.values)
        rounds = range(first // size, last // size + 1)
        return [at for turn in rounds for beat in self.beats if first <= (at := turn * size + beat) < last]


def find_beats(values: Sequence[int], sfreq: float) -> tuple[int, ...]:
    """Tops above a fixed level, one per stretch of ``REFRACTORY_S``: enough for a clean recording."""
    ordered = sorted(values)
    middle, tall = ordered[len(ordered) // 2], ordered[int(TALL * (len(ordered) - 1))]
    level = middle + BEAT_LEVEL * (tall - middle)
    refractory, beats = REFRACTORY_S * sfreq, list[int]()
    for index, value in enumerate(values):
        if value <= level:
            continue
        if not beats or index - beats[-1] > refractory:
            beats.append(index)
        elif value > values[beats[-1]]:
            beats[-1] = index
    return tuple(beats)


def noise(seed: str, sfreq: float) -> Signal:
    """An ECG electrode off the skin; equal seeds, equal noise."""
    source = random.Random(seed)
    return Signal([round(source.gauss(0, NOISE_UV)) for _ in range(NOISE_SAMPLES)], sfreq)


def shipped(name: str, sfreq: float) -> Signal:
    """One of the recordings of ``SHIPPED``."""
    return Signal(_numbers(DATA / SHIPPED[name], _lines(DATA / SHIPPED[name])), sfreq)


def read(path: Path, sfreq: float, decode: Callable[[bytes], list[Packet]]) -> Signal:
    """A user's file, sampled at ``sfreq``; raises SignalError.

    One number per line, in the unit the sensor sends (uV, nS); or one notification of the sensor per line in
    hexadecimal, which ``decode`` reads. ``#`` begins a comment; of a comma-separated line the first field counts.
    """
    lines = _lines(path)
    if all(_is_capture(text) for _, text in lines):
        return Signal(_decoded(path, lines, decode), sfreq)
    return Signal(_numbers(path, lines), sfreq)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise SignalError(str(path), "whole file", f"cannot be read as text: {error}") from error
    split = ((number, line.split("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1))
    if not (lines := [(number, line) for number, line in split if line]):
        raise SignalError(str(path), "whole file", "no samples: expected one number or notification per line")
    return lines


def _is_capture(text: str) -> bool:
    packed = text.replace(" ", "")
    return len(packed) >= CAPTURE_DIGITS and all(digit in "0123456789abcdefABCDEF" for digit in packed)


def _numbers(path: Path, lines: list[tuple[int, str]]) -> list[int]:
    values = []
    for number, text in lines:
        try:
            values.append(round(float(text.split(",")[0])))
        except (ValueError, OverflowError):
            raise SignalError(str(path), f"line {number}", f"{text!r}: expected one finite number") from None
    return values


def _decoded(path: Path, lines: list[tuple[int, str]], decode: Callable[[bytes], list[Packet]]) -> list[int]:
    values: list[int] = []
    for number, text in lines:
        try:
            packets = decode(bytes.fromhex(text))
        except (DecodeError, ValueError) as error:
            raise SignalError(str(path), f"line {number}", f"not a notification of this sensor: {error}") from error
        values += (value for packet in packets for value in packet.values)
    if not values:
        raise SignalError(str(path), "whole file", "its notifications hold no samples of this sensor")
    return values
