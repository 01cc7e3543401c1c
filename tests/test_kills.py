"""A recorder that is killed at any moment leaves everything it has synced, and opens without repair."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from killed_recorder import record

from device.recording import RecordingReader
from device.segment import is_compressed

RUNS_IN_ONE_PLACE = 10
"""Each start meets what the killed one before has left."""


@pytest.fixture
def recorder() -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("killed_recorder.py")
    env = os.environ | {"PYTHONPATH": str(script.parent.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, script], text=True, bufsize=1, env=env, **pipes) as process:  # type: ignore[call-overload]
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0


def killed(recorder: subprocess.Popen[str], directory: Path, chance: random.Random) -> tuple[str, int]:
    """Its run and how much it has synced, of a process killed at random."""
    assert recorder.stdin is not None and recorder.stdout is not None
    print(directory, file=recorder.stdin, flush=True)
    said = [recorder.stdout.readline().strip() for _ in range(chance.randint(1, 12))]
    pid = next((int(line) for line in said if line.isdecimal()), None)
    if pid is None:
        pid = int(next(line for line in until(recorder.stdout, said) if line.isdecimal()))
    for _ in range(chance.randint(0, 3000)):
        pass
    os.kill(pid, signal.SIGKILL)
    said += until(recorder.stdout, said, "")
    run = next((line.split()[1] for line in said if line.startswith("began")), "")
    return run, max((int(line.split()[1]) for line in said if line.startswith("synced")), default=0)


def until(lines: IO[str], said: list[str], end: str | None = None) -> list[str]:
    """More lines up to one that is a number, or ``end``."""
    found = []
    for line in lines:
        found.append(line.strip())
        if found[-1] == end or (end is None and found[-1].isdecimal()):
            break
    return found


def check(recorder: subprocess.Popen[str], folder: Path, kills: int) -> tuple[int, int]:
    """Records and compressed segments that were there after so many kills, in all."""
    chance, found_records, found_compressed = random.Random(kills), 0, 0
    for kill in range(kills):
        directory = folder / str(kill // RUNS_IN_ONE_PLACE)
        directory.mkdir(exist_ok=True)
        run, synced = killed(recorder, directory, chance)
        if not run:
            assert synced == 0
            continue
        paths = sorted(directory.glob(f"{run}-*.affrec"))
        found = list(RecordingReader(paths))
        assert len(found) >= synced and found == [record(number) for number in range(len(found))], (run, synced)
        found_records += len(found)
        found_compressed += sum(is_compressed(path) for path in paths)
    return found_records, found_compressed


def test_forty_kills(recorder: subprocess.Popen[str], tmp_path: Path) -> None:
    records, compressed = check(recorder, tmp_path, 40)
    assert records > 40 and compressed > 4


@pytest.mark.slow
def test_six_hundred_kills(recorder: subprocess.Popen[str], tmp_path: Path) -> None:
    records, compressed = check(recorder, tmp_path, 600)
    assert records > 600 and compressed > 60
