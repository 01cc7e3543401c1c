"""The tools of `make e2e-power`: disks that a log of writes allows after a cut, and notifications on the wire."""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).with_name("e2e")))

import itertools

from wire import H4, RESET, notified
from write_log import SECTOR, cut, writes

SECTORS = 24
FLUSH = (0, b"", 1)
WRITES = st.tuples(st.integers(0, SECTORS - 4), st.integers(1, 4), st.just(0))


def log_of(entries: list[tuple[int, bytes, int]]) -> bytes:
    """As QEMU's blklogwrites writes it."""
    parts = [
        struct.pack("<4Q", at, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0") + data for at, data, flags in entries
    ]
    return bytes(SECTOR) + b"".join(parts)


@given(st.lists(WRITES | st.none(), max_size=12), st.integers(0, 2**32), st.integers(0, 3000))
def test_a_cut_keeps_what_was_flushed_and_makes_nothing_up(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, int, int] | None], seed: int, torn: int
) -> None:
    folder = tmp_path_factory.mktemp("disk")
    entries = [
        FLUSH if it is None else (it[0], bytes([number + 1]) * it[1] * SECTOR, it[2]) for number, it in enumerate(plan)
    ]
    (folder / "log").write_bytes(log_of(entries)[: -torn or None])
    (folder / "before").write_bytes(bytes(SECTORS * SECTOR))
    done = writes(folder / "log")
    assert len(done) <= len(entries) and (torn or len(done) == len(entries))
    lost = cut(folder / "before", folder / "log", done, random.Random(seed), folder / "after")
    disk = (folder / "after").read_bytes()
    flushed = max((number for number in range(len(done)) if entries[number] is FLUSH), default=-1)
    assert 0 <= lost <= len(done) - flushed - 1
    for sector in range(SECTORS):
        covering = [
            n for n in range(len(done)) if entries[n][0] <= sector < entries[n][0] + len(entries[n][1]) // SECTOR
        ]
        owed = max((n + 1 for n in covering if n < flushed), default=0)
        allowed = {owed, *(n + 1 for n in covering if n > flushed)}
        assert set(disk[sector * SECTOR : (sector + 1) * SECTOR]) <= allowed
        assert len(set(disk[sector * SECTOR : (sector + 1) * SECTOR])) == 1


ACL = bytes.fromhex("02 40 20 0a00 0600 0400 1b 2a00 010203")
"""Handle 0x040, a whole L2CAP frame for ATT: a notification of handle 0x002a."""


@given(st.lists(st.integers(0, 40), max_size=8))
def test_packets_are_whole_however_they_are_cut(cuts: list[int]) -> None:
    sent = RESET + ACL + bytes.fromhex("04 0e 04 01030c00") + ACL
    places, line = sorted({0, len(sent), *(it for it in cuts if it <= len(sent))}), H4()
    packets = [it for a, b in itertools.pairwise(places) for it in line.push(sent[a:b])]
    assert b"".join(packets) == sent and packets[1] == packets[3] == ACL
    assert [notified(it) for it in packets] == [None, bytes([1, 2, 3]), None, bytes([1, 2, 3])]
