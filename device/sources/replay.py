"""A recording as a source: the same notifications with the same host times, as fast as wanted.

It knows nothing of what the bytes mean.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from device.notification import Arrival
from device.recording import RecordingReader
from device.sources.base import paced
from firmware_bridge.packet import StreamInfo


class ReplaySource:
    """Plays one run: a segment, several, or a directory; ``speed`` in times of real time, None for at once."""

    def __init__(
        self,
        path: Path | Sequence[Path],
        *,
        speed: float | None = None,
        recover: bool = False,
        identity: Path | None = None,
    ) -> None:
        self.reader = RecordingReader(path, recover=recover, identity=identity)
        self.speed = speed

    @property
    def name(self) -> str:
        """The recording's file."""
        return str(self.reader.path)

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """Streams of the recording's header."""
        return self.reader.streams

    def notifications(self) -> AsyncGenerator[Arrival, None]:
        """Every notification, in the order of arrival; raises RecordingError at a damaged record."""
        return paced(self.reader, self.speed)
