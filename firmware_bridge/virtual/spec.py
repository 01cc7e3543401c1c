"""What is asked of one virtual sensor: ``KIND[:key=value,...]`` as text, SensorSpec as a value.

Knows nothing of what the kinds are; ``sensors.py`` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from firmware_bridge.virtual.errors import SpecError

ADDRESS = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2}){5}")
STATIC_RANDOM = 0xC0
"""The two upper bits of a static random address are set (Core 5.4, Vol 6, Part B, 1.3.2.1)."""
LAST_PASSKEY = 999_999
SMALLEST_MTU, LARGEST_MTU = 23, 517
"""Of ATT over LE: the default, and the largest that is of use (an attribute has at most 512 bytes)."""


@dataclass(frozen=True)
class SensorSpec:
    """One virtual sensor. Raises SpecError."""

    kind: str
    """``polar-h10``, ``heart-rate``, ``movesense`` or ``open-eda``."""
    id: str = ""
    """Its name in commands and events; empty: the kind."""
    name: str = ""
    """Advertised name; empty: the kind's own."""
    address: str = ""
    """Static random address; empty: by its place in the row."""
    serial: str = "00000001"
    """Serial number, in Device Information and, for some kinds, in the name."""
    passkey: int | None = None
    """Six digits it shows for pairing; None: it pairs without asking (Just Works)."""
    signal: Path | None = None
    """The user's own samples; None: the shipped recording."""
    sfreq: float | None = None
    """True sampling rate in Hz by the sensor's own clock; None: the kind's."""
    ppm: float = 0.0
    """How much faster the sensor's clock runs than the host's, in 1e-6."""
    speed: float = 1.0
    """Seconds of the sensor per second of the host: for quick tests."""
    loss: float = 0.0
    """Share of the packets that are made and never sent."""
    duplicates: float = 0.0
    """Share of the packets that are sent twice."""
    late_s: float = 0.0
    """Seconds between a start and the first packet beyond what the protocol needs."""
    mtu: int = LARGEST_MTU
    """Largest ATT MTU it agrees to."""
    lead_off: bool = False
    """Whether the electrodes are off the skin from the start."""
    seed: int = 0
    """Equal seeds give equal losses, duplicates, noise and boot ids."""

    def __post_init__(self) -> None:
        for share in ("loss", "duplicates"):
            self._expect(0 <= getattr(self, share) <= 1, f"{share} must be a share from 0 to 1")
        self._expect(self.speed > 0, "speed must be more than 0")
        self._expect(self.sfreq is None or self.sfreq > 0, "sfreq must be more than 0 Hz")
        self._expect(self.late_s >= 0, "late_s must not be negative")
        self._expect(self.passkey is None or 0 <= self.passkey <= LAST_PASSKEY, "passkey must have six digits")
        self._expect(SMALLEST_MTU <= self.mtu <= LARGEST_MTU, f"mtu must be {SMALLEST_MTU} to {LARGEST_MTU}")
        self._expect(not self.address or _is_static(self.address), "address must be static random, as C0:..:.. to FF")

    def _expect(self, fine: bool, reason: str) -> None:
        if not fine:
            raise SpecError(self.id or self.kind, reason)

    @property
    def key(self) -> str:
        """Its name in commands and events."""
        return self.id or self.kind


def _is_static(address: str) -> bool:
    return bool(ADDRESS.fullmatch(address)) and int(address[:2], 16) >= STATIC_RANDOM


def _boolean(text: str) -> bool:
    return {"yes": True, "no": False}[text]


_READ: Mapping[str, Callable[[str], object]] = {
    "id": str,
    "name": str,
    "address": str.upper,
    "serial": str,
    "passkey": int,
    "signal": Path,
    "sfreq": float,
    "ppm": float,
    "speed": float,
    "loss": float,
    "duplicates": float,
    "late_s": float,
    "mtu": int,
    "lead_off": _boolean,
    "seed": int,
}
assert set(_READ) | {"kind"} == {field.name for field in fields(SensorSpec)}


def parse(text: str, *, seed: int = 0) -> SensorSpec:
    """``open-eda:passkey=123456,loss=0.1`` to a SensorSpec; raises SpecError."""
    kind, _, rest = text.partition(":")
    values: dict[str, object] = {"seed": seed}
    for item in filter(None, rest.split(",")):
        key, separator, value = item.partition("=")
        if key not in _READ or not separator:
            raise SpecError(text, f"{item!r}: expected KEY=VALUE with KEY one of {', '.join(_READ)}")
        try:
            values[key] = _READ[key](value)
        except (ValueError, KeyError):
            raise SpecError(text, f"{item!r}: {value!r} is no value of {key}") from None
    return SensorSpec(kind, **values)  # type: ignore[arg-type]  # _READ gives each field its type
