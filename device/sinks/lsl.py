"""Raw signals, predictions and events as Lab Streaming Layer outlets, for whoever records them beside other things.

Every sample has its own time. Missing samples are NaN where the gap is short, so that a reader which lays an even rate
over the stream, as XDF's importers do, moves nothing; a longer gap is a step of the times, which they take for one.
docs/LSL.md says more. It knows nothing of who reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import os
import socket
import stat
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from device.config import LslConfig
from device.errors import SinkError
from device.inference import Prediction
from device.notification import ClockReading
from device.pipeline.types import Chunk, Floats
from device.sinks.base import Item, MadeBy
from device.sinks.jsonl import to_tree
from device.wall import host_s
from firmware_bridge.packet import StreamInfo

if TYPE_CHECKING:
    from device.pipeline.types import Window

FILL_SAMPLES = 500
FILL_S = 1.0
"""A gap is filled with NaN up to the longer of the two: pyxdf lays one rate over all that is not farther apart."""
CLOCK_S = 0.001
"""LSL's clock stands still while the machine sleeps and the host's does not; else a difference within this is the time
it takes to ask both."""
JOIN_S = 1.0
PORTS = range(16571, 16572 + 32)
"""LSL's own: discovery, then data and time."""
_CONFIG = """\
[ports]
AllowRandomPorts = false
{ipv6}
[multicast]
ResolveScope = {scope}
[log]
level = -1
"""
_log = logging.getLogger(__name__)
_UNITS = {"mV": "millivolts", "uS": "microsiemens"}
"""LSL's way to write them (XDF's meta data specifications)."""


class LslSink:
    """Outlets of one run; ``listen`` takes the signals, ``publish`` predictions and events."""

    name = "lsl"

    def __init__(
        self, config: LslConfig, streams: Mapping[str, StreamInfo], labels: Sequence[str], device: str
    ) -> None:
        """Open the outlets; raises SinkError where the library is not here or they cannot be kept to this machine."""
        self._lsl = _library()
        with _configured(config.scope):
            self._offset = _offset(self._lsl.local_clock)
            self._make = make = _maker(self._lsl, device)
            self._signals: dict[str, _Signal] = {
                info.modality: _Signal(make(name, info.modality.upper(), info.ch_names, info.units, info.sfreq), info)
                for name, info in streams.items()
            }
            self._labels = tuple(labels)
            self._probabilities = self._of_labels()
            self._markers = make("markers", "Markers", ("markers",), "", 0.0)
            self._is_kept = config.scope == "machine"
            if self._is_kept:
                _keep_to_loopback()
        self.sent = self.dropped = 0
        """Chunks."""
        self._chunks: deque[Chunk] = deque(maxlen=config.chunks)
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._serve, name="lsl", daemon=True)
        self._thread.start()

    def listen(self, item: Chunk | Window) -> None:
        """Queue a raw chunk, at once; the oldest is dropped where the queue is full."""
        if isinstance(item, Chunk):
            self.dropped += len(self._chunks) == self._chunks.maxlen
            self._chunks.append(item)
            self._wake.set()

    async def publish(self, item: Item) -> None:
        """A marker with all of it in JSON; a prediction's probabilities also as numbers, NaN where it has none."""
        if isinstance(item, ClockReading):  # it may have slept
            self._offset = _offset(self._lsl.local_clock)
        at = item.stop if isinstance(item, Prediction) else item.host_ns / 1e9
        self._markers.push_sample([msgspec.json.encode(to_tree(item)).decode()], at + self._offset)
        if isinstance(item, Prediction):
            told = item.probabilities or {}
            self._probabilities.push_sample([told.get(label, math.nan) for label in self._labels], at + self._offset)

    async def renew(self, made_by: MadeBy) -> None:
        """Other labels want another outlet, as what an outlet says of itself stays, one that no open inlet goes on in.

        Raises SinkError where it cannot be kept to this machine.
        """
        if made_by.labels != self._labels:
            self._labels = made_by.labels
            await asyncio.to_thread(self._replace)

    def _replace(self) -> None:
        del self._probabilities  # first, lest a reader find two
        self._probabilities = self._of_labels()
        if self._is_kept:
            _keep_to_loopback()

    def _of_labels(self) -> Any:
        of = hashlib.sha256(msgspec.json.encode(self._labels)).hexdigest()[:8]
        return self._make("probabilities", "Probabilities", self._labels, "", 0.0, f"-{of}")

    async def close(self) -> None:
        """Send what is queued, and take the outlets away."""
        self._stop = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, JOIN_S)
        _log.info("sink lsl: %d chunks sent, %d dropped", self.sent, self.dropped)
        self._signals.clear()
        del self._probabilities, self._markers

    def _serve(self) -> None:
        """The thread: chunks to their outlets."""
        while not (self._stop and not self._chunks):
            self._wake.wait()
            self._wake.clear()
            while self._chunks:
                chunk = self._chunks.popleft()
                self._signals[chunk.modality].push(chunk, self._offset)
                self.sent += 1


class _Signal:
    """One stream's outlet, and where it stands."""

    def __init__(self, outlet: Any, info: StreamInfo) -> None:
        self._outlet = outlet
        self._fill = max(FILL_SAMPLES, round(FILL_S * info.sfreq))
        self._stop: int | None = None

    def push(self, chunk: Chunk, offset: float) -> None:
        data, times = filled(chunk, self._stop, self._fill)
        self._stop = chunk.stop
        self._outlet.push_chunk(data.astype(np.float32), (times + offset).tolist())


def filled(chunk: Chunk, stop: int | None, most: int) -> tuple[Floats, Floats]:
    """Samples (n_times, n_chans) and times (n_times,), with NaN for up to ``most`` that are missing since ``stop``."""
    gap = 0 if stop is None else chunk.start - stop
    if not 0 < gap <= most:
        return chunk.data, chunk.times()
    missing = np.full((gap, chunk.data.shape[1]), np.nan)
    before = chunk.clock.time + (np.arange(chunk.start - gap, chunk.start) - chunk.clock.index) * chunk.clock.period
    return np.concatenate([missing, chunk.data]), np.concatenate([before, chunk.times()])


def _library() -> Any:
    """pylsl; raises SinkError."""
    try:
        import pylsl  # type: ignore[import-untyped]
    except ImportError as error:
        raise SinkError("lsl", f"a package is not here ({error.name})", "pip install 'affectd[lsl]'") from error
    except RuntimeError as error:  # pylsl without the library that it wraps
        remedy = "pylsl brings it for x86-64 only; elsewhere install it as docs/LSL.md says"
        raise SinkError("lsl", "the library liblsl is not here", remedy) from error
    return pylsl


@contextlib.contextmanager
def _configured(scope: str) -> Iterator[None]:
    """The library reads its configuration once in a process, when it is first used."""
    ipv6 = "IPv6 = disable" if scope == "machine" else ""
    listen = "\nListenAddress = 127.0.0.1" if scope == "machine" else ""
    with tempfile.NamedTemporaryFile("w", prefix="affectd-lsl-", suffix=".cfg") as file:
        file.write(_CONFIG.format(ipv6=ipv6, scope=scope + listen))
        file.flush()
        before = os.environ.get("LSLAPICFG")
        os.environ["LSLAPICFG"] = file.name
        try:
            yield
        finally:
            del os.environ["LSLAPICFG"]
            if before is not None:
                os.environ["LSLAPICFG"] = before


def _offset(clock: Callable[[], float]) -> float:
    """Seconds to add to the host's clock for LSL's; nothing where they are one."""
    before, now, after = host_s(), clock(), host_s()
    offset = now - (before + after) / 2
    return 0.0 if abs(offset) <= max(CLOCK_S, after - before) else offset


def _maker(lsl: Any, device: str) -> Callable[..., Any]:
    """Opens outlets."""

    def make(name: str, kind: str, channels: Sequence[str], unit: str, sfreq: float, of: str = "") -> Any:
        """``sfreq`` in Hz, 0 where it is irregular; ``of`` ends the source_id, by which inlets know an outlet again."""
        form = "string" if kind == "Markers" else "float32"
        info = lsl.StreamInfo(f"affectd {name}", kind, len(channels), sfreq, form, f"affectd-{device}-{name}{of}")
        info.desc().append_child_value("manufacturer", "affectd")
        labels = info.desc().append_child("channels")
        for label in channels:
            channel = labels.append_child("channel").append_child_value("label", label)
            if unit:
                channel.append_child_value("unit", _UNITS.get(unit, unit))
            channel.append_child_value("type", kind)
        return lsl.StreamOutlet(info)

    return make


def _keep_to_loopback() -> None:
    """Bind the library's sockets, which listen at every address whatever its scope, to the loopback interface.

    Raises SinkError where the kernel refuses (Linux before 5.7).
    """
    for sock in _sockets():
        with sock:
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] in PORTS:
                try:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
                except OSError as error:
                    remedy = 'leave [sinks.lsl] out, or allow others with scope = "link"'
                    raise SinkError("lsl", f"cannot be kept to this machine: {error.strerror}", remedy) from error


def _sockets() -> Iterator[socket.socket]:
    """Copies of this process's own sockets."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # closed meanwhile
            if stat.S_ISSOCK(entry.stat().st_mode):
                yield socket.socket(fileno=os.dup(int(entry.name)))
