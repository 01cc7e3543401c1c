"""Channels as a file's header names them -> ECG in mV and EDA in uS: what a name and a unit mean.

Knows nothing of file formats. Units come from the header only: nothing is guessed from amplitudes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from train.data.errors import DataError
from train.data.types import Floats, Signal

TO_MV = {"nV": 1e-6, "uV": 1e-3, "mV": 1.0, "V": 1e3}
TO_US = {"nS": 1e-3, "uS": 1.0, "mS": 1e3, "S": 1e6}
SPELLINGS = {"µ": "u", "μ": "u", "micro": "u", "milli": "m", "nano": "n", "volts": "V", "volt": "V"} | {
    "siemens": "S",
    "umho": "uS",
}
"""Other ways to write a unit, replaced in this order."""
UNITS = {"ecg": ("mV", TO_MV), "eda": ("uS", TO_US)}

_ECG = re.compile(r"E[CK]G", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:LEAD[ _-]?)?(?:I{1,3}|-?AV[RLF]|V\d{1,2}R?|V[XYZ]|V\d-V\d|"
    r"MOD\.?V\d|ML(?:I{1,3}|\d)|MV\d|MCL\d|C[CMV]\d|D\d)",
    re.IGNORECASE,
)
"""Leads as WFDB and EDF files name them: limb, chest, Frank, and the modified ones of Holter recorders."""
_EDA = re.compile(r"(?<![A-Z])(?:EDA|GSR|SCL)(?![A-Z])|ELECTRODERM|GALVANIC|SKIN[ _]?COND", re.IGNORECASE)
_NOT_ECG = re.compile(r"RESP|RATE|MARK|EVENT|QUALITY|IMPED", re.IGNORECASE)
"""Channels made of an ECG that are none."""


@dataclass(frozen=True, slots=True, eq=False)
class Channel:
    """One channel of a file."""

    name: str
    units: str
    """As the header writes it."""
    sfreq: float
    """Hz."""
    data: Floats
    """(n_times,)"""


def kind_of(name: str) -> str | None:
    """Modality a channel's name stands for: ``ecg``, ``eda`` or None."""
    name = name.strip()
    if _EDA.search(name):
        return "eda"
    is_ecg = _LEAD.fullmatch(name) or (_ECG.search(name) and not _NOT_ECG.search(name))
    return "ecg" if is_ecg else None


def factor(modality: str, units: str) -> float | None:
    """What to multiply by for mV (``ecg``) or uS (``eda``); None for a unit that is not known."""
    units = units.strip()
    for spelling, plain in SPELLINGS.items():
        units = re.sub(spelling, plain, units, flags=re.IGNORECASE)
    known = UNITS[modality][1]
    # Case tells milli from mega and siemens from seconds, except that writers of EDF often shout or whisper.
    return known.get(units) or {name.lower(): value for name, value in known.items()}.get(units.lower())


def signals(path: str, channels: Iterable[Channel], remedy: str) -> tuple[dict[str, Signal], list[str]]:
    """Channels -> ``ecg`` and ``eda``, those of one modality side by side, and notes on what was left out.

    Raises DataError where a channel's unit is not known, its rate is not positive, or none is ECG or EDA.
    """
    groups: dict[str, list[Channel]] = {}
    notes, seen = [], []
    for channel in channels:
        seen.append(f"{channel.name!r} ({channel.units or 'no unit'})")
        modality = kind_of(channel.name)
        if modality is None:
            notes.append(f"channel {seen[-1]} is neither ECG nor EDA by its name: left out")
        elif modality == "eda" and factor("ecg", channel.units):
            notes.append(f"eda: channel {seen[-1]} is the sensor's voltage, no conductance: left out")
        else:
            groups.setdefault(modality, []).append(channel)
    if not groups:
        names = ", ".join(seen) or "no channel"
        raise DataError(path, "header", f"no channel is ECG in volts or EDA in siemens; there is {names}", remedy)
    return {modality: _joined(path, modality, groups[modality], remedy, notes) for modality in sorted(groups)}, notes


def _joined(path: str, modality: str, group: list[Channel], remedy: str, notes: list[str]) -> Signal:
    """The channels that share the first one's rate and length, converted."""
    first = group[0]
    if not first.sfreq > 0:
        raise DataError(path, f"channel {first.name!r}", f"rate {first.sfreq:g} Hz", remedy)
    columns, names = [], []
    for channel in group:
        if (channel.sfreq, len(channel.data)) != (first.sfreq, len(first.data)):
            notes.append(f"{modality}: channel {channel.name!r} has another rate than {first.name!r}: left out")
            continue
        scale = factor(modality, channel.units)
        if scale is None:
            known = ", ".join(UNITS[modality][1])
            reason = f"unit {channel.units!r} is not known ({known})"
            raise DataError(path, f"channel {channel.name!r}", reason, "write the true unit into the header")
        columns.append(channel.data * scale)
        names.append(channel.name)
    return Signal(np.stack(columns, axis=1), first.sfreq, UNITS[modality][0], tuple(names))
