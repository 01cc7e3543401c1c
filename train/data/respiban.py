"""Reader of RespiBAN recordings as WESAD has them: an OpenSignals text file of counts -> mV, uS, %, degC and g.

Knows nothing of WESAD's wrist, labels or subjects.

Line 2 is JSON: for each device its sensors in the order of the columns, rate, resolution and the start on the local
clock. Below ``# EndOfHeader`` one sample per line: line number, digital inputs, then a column per sensor. Formulas and
their constants (supply of 3 V, 16 bit) are those of WESAD's readme, II.1.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.data.errors import DataError
from train.data.types import Floats, Signal

BITS = 16
COUNTS = 1 << BITS
VCC = 3.0
"""Supply of the sensors, V."""
EDA_V_PER_US = 0.12
XYZ_COUNTS = (28000.0, 38000.0)
"""Counts at -1 g and at 1 g."""
NTC_OHM = 1e4
"""Resistor in series with the thermistor."""
NTC = (1.12764514e-3, 2.34282709e-4, 8.77303013e-8)
"""Steinhart-Hart coefficients of the thermistor, 1/K."""
KELVIN = 273.15
REMEDY = "get the file again from the data set; this one is cut or edited"

_START = "# OpenSignals Text File Format"
_END = "# EndOfHeader"
_MAX_HEADER_LINES = 20
_FIRST_SENSOR = 2
"""Columns before the sensors': line number and digital inputs."""

MAX_INT = 1 << 31

Ints = npt.NDArray[np.int32]


def _bipolar(counts: Floats) -> Floats:
    return (counts / COUNTS - 0.5) * VCC


def _eda(counts: Floats) -> Floats:
    return counts / COUNTS * VCC / EDA_V_PER_US


def _temp(counts: Floats) -> Floats:
    """Thermistor in a divider; NaN where it is open or short."""
    with np.errstate(divide="ignore", invalid="ignore"):
        volts = counts * VCC / (COUNTS - 1)
        log = np.log(NTC_OHM * volts / (VCC - volts))
        degrees = 1 / (NTC[0] + NTC[1] * log + NTC[2] * log**3) - KELVIN
    return np.where(np.isfinite(log), degrees, np.nan)


def _acc(counts: Floats) -> Floats:
    low, high = XYZ_COUNTS
    return (counts - low) / (high - low) * 2 - 1


def _resp(counts: Floats) -> Floats:
    return (counts / COUNTS - 0.5) * 100


@dataclass(frozen=True, slots=True)
class _Sensor:
    """What a sensor's counts become."""

    modality: str
    units: str
    convert: Callable[[Floats], Floats]
    ch_names: tuple[str, ...]


_RESP = _Sensor("resp", "%", _resp, ("resp",))
SENSORS = {
    "ECG": _Sensor("ecg", "mV", _bipolar, ("ecg",)),
    "EDA": _Sensor("eda", "uS", _eda, ("eda",)),
    "EMG": _Sensor("emg", "mV", _bipolar, ("emg",)),
    "TEMP": _Sensor("temp", "degC", _temp, ("temp",)),
    "XYZ": _Sensor("acc", "g", _acc, ("acc_x", "acc_y", "acc_z")),
    "RESPIRATION": _RESP,
    "RESP": _RESP,
}
"""Names in the header."""


@dataclass(frozen=True, slots=True, eq=False)
class Respiban:
    """All that one file holds."""

    path: Path
    started: dt.datetime | None
    """Start on the computer's local clock, in whole seconds, without a zone; None where the header has none."""
    sfreq: float
    """Hz."""
    signals: dict[str, Signal]
    """``ecg``, ``eda``, ``emg``, ``temp``, ``acc``, ``resp``, as far as there are sensors for them."""
    notes: tuple[str, ...]


def read(path: Path) -> Respiban:
    """Read a file. Raises DataError (line, remedy) where it is not what OpenSignals writes, or ends within a line."""
    try:
        skip, header = _header(path)
        counts = _counts(path, skip, _columns(path, header))
    except OSError as error:
        raise DataError(str(path), "file", f"cannot be read ({error.strerror})", REMEDY) from None
    sfreq, names = float(header["sampling rate"]), header["sensor"]
    signals = {}
    for name in dict.fromkeys(names):
        sensor = SENSORS[name]
        columns = [_FIRST_SENSOR + at for at, other in enumerate(names) if other == name]
        signals[sensor.modality] = Signal(
            sensor.convert(counts[:, columns].astype(float)), sfreq, sensor.units, sensor.ch_names
        )
    return Respiban(path, _started(header), sfreq, signals, _jumps(counts[:, 0], skip))


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Number of lines before the first sample, and what line 2 says of the one device."""
    with path.open("rb") as file:
        lines = [line.decode("latin1").strip() for _, line in zip(range(_MAX_HEADER_LINES), file, strict=False)]
    if not lines or lines[0] != _START:
        raise DataError(str(path), "line 1", f"is not {_START!r}", REMEDY)
    if _END not in lines:
        raise DataError(str(path), f"line {len(lines)}", f"no {_END!r} up to here", REMEDY)
    try:
        devices = json.loads(lines[1].lstrip("# "))
        (device,) = devices.values()
        return lines.index(_END) + 1, dict(device)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(str(path), "line 2", "is not JSON with one device", REMEDY) from None


def _columns(path: Path, header: Mapping[str, Any]) -> int:
    """Number of columns. Raises DataError where the header contradicts itself or the formulas."""
    names, rate = header.get("sensor"), header.get("sampling rate")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(str(path), "line 2, 'sensor'", "is no list of names", REMEDY)
    for name, times in Counter(names).items():
        if name not in SENSORS:
            raise DataError(str(path), "line 2, 'sensor'", f"{name!r} is not known ({', '.join(SENSORS)})", REMEDY)
        if times != len(SENSORS[name].ch_names):
            reason = f"{name} is there {times} times where it has {len(SENSORS[name].ch_names)} columns"
            raise DataError(str(path), "line 2, 'sensor'", reason, REMEDY)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise DataError(str(path), "line 2, 'sampling rate'", f"{rate!r} is no rate in Hz", REMEDY)
    if set(header.get("resolution", [BITS])) != {BITS}:
        reason = f"{header['resolution']} where the formulas are for {BITS} bit"
        raise DataError(str(path), "line 2, 'resolution'", reason, "convert the file to 16 bit")
    return _FIRST_SENSOR + len(names)


def _started(header: Mapping[str, Any]) -> dt.datetime | None:
    """Start on the local clock: date as 2017-5-22, time as 9:39:1.0."""
    numbers = [int(part) for part in re.findall(r"\d+", f"{header.get('date')} {header.get('time')}")]
    try:
        year, month, day, hour, minute, second = numbers[:6]
        return dt.datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None


def _counts(path: Path, skip: int, columns: int) -> Ints:
    """(n_times, columns) as written."""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - 1, 0))
        cut = file.read(1) != b"\n"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of a table without rows, which is refused below
            counts = np.loadtxt(path, np.int32, comments=None, skiprows=skip, ndmin=2, encoding="latin1")
    except (ValueError, OverflowError):
        raise _bad_line(path, skip, columns) from None
    sensors = counts[:, _FIRST_SENSOR:]
    if cut or counts.shape[1] != columns or counts.min() < 0 or sensors.max(initial=0) >= COUNTS:
        raise _bad_line(path, skip, columns)
    return counts


def _bad_line(path: Path, skip: int, columns: int) -> DataError:
    """The first line that is not what it should be; the slow way."""
    number = skip
    for number, line in _samples(path, skip):
        if reason := _fault(line, columns):
            return DataError(str(path), f"line {number}", reason, REMEDY)
    return DataError(str(path), f"line {number + 1}", "ends before the first sample", REMEDY)


def _fault(line: str, columns: int) -> str:
    """What is wrong with a line; nothing where it is whole."""
    cells = line.split()
    if not line.endswith("\n"):
        return "the file ends in the middle of a line"
    if len(cells) != columns:
        return f"{len(cells)} columns where the header has {columns}"
    for at, cell in enumerate(cells):
        limit = COUNTS if at >= _FIRST_SENSOR else MAX_INT
        if not (cell.isdecimal() and int(cell) < limit):
            return f"{cell[:20]!r} is no integer from 0 to {limit - 1}"
    return ""


def _samples(path: Path, skip: int) -> Iterator[tuple[int, str]]:
    """Numbered lines after the header."""
    with path.open(encoding="latin1") as file:
        for number, line in enumerate(file, 1):
            if number > skip:
                yield number, line


def _jumps(numbers: Ints, skip: int) -> tuple[str, ...]:
    """A note where line numbers do not count on: samples may have been lost there, the readme says nothing of it."""
    steps = np.diff(numbers)
    at = np.flatnonzero(steps != 1)
    if not len(at):
        return ()
    return (f"chest: line numbers jump {len(at)} times, first at line {skip + at[0] + 2}; samples are taken as even",)
