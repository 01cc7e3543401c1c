"""Started by test_kills.py: for each line on stdin, a directory, forks a process that records there until it is killed.

It says each process's number, then what that one says: how it began, and how many records it has synced. A killed
one's end is said as an empty line.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from device.notification import Notification
from device.recording import RecordingWriter
from device.storage import Policy
from firmware_bridge.codecs import polar_pmd

POLICY = Policy(segment_s=9.0, compress=True)
"""A new segment after each ninth record, and one compressed: what can be killed lies close together."""


def record(number: int) -> Notification:
    """The record of this place in a run."""
    return Notification("chest", number * 10**9, number.to_bytes(4, "big") * (number % 40))


def say(text: str) -> None:
    """In one write, which a kill cannot cut."""
    os.write(1, f"{text}\n".encode())


def run(directory: Path) -> None:
    """Record for ever."""
    writer = RecordingWriter(directory, {"chest": polar_pmd.STREAM_INFO}, POLICY)
    say(f"began {writer.path.name[:7]}")
    for number in count():
        writer.append(record(number))
        if number % 5 == 4:
            writer.sync()
            say(f"synced {number + 1}")
        if number % 7 == 6:
            writer.tend()


def main() -> None:
    """One process after the other."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(Path(line.strip()))
        say(str(pid))
        os.waitpid(pid, 0)
        say("")


if __name__ == "__main__":
    main()
