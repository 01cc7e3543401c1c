"""A recording gives back what was written, and never a record that was cut or changed."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import RecordingError
from device.notification import Arrival, ClockReading, Event, LinkChange, LinkState, Notification, Unrecorded
from device.recording import RecordingReader, RecordingWriter
from device.segment import MAGIC
from firmware_bridge.codecs import open_eda, polar_pmd

STREAMS = {"chest": polar_pmd.STREAM_INFO, "wrist": open_eda.STREAM_INFO}
HEAD = 8 + 10
"""Magic, and the fixed part of the head."""
END = 8 + 9

notifications = st.builds(
    Notification, st.sampled_from(sorted(STREAMS)), st.integers(0, 2**64 - 1), st.binary(max_size=512)
)


changes = st.builds(
    LinkChange,
    st.sampled_from(sorted(STREAMS)),
    st.integers(0, 2**64 - 1),
    st.sampled_from(get_args(LinkState)),
    st.text(max_size=100),
)


events = st.builds(Event, st.integers(0, 2**64 - 1), st.text(max_size=200))
missed = st.builds(Unrecorded, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=100))


def write(folder: Path, records: Sequence[Arrival]) -> Path:
    with RecordingWriter(folder, STREAMS) as writer:
        for record in records:
            writer.append(record)
    return writer.path


@settings(max_examples=40)
@given(records=st.lists(notifications | changes | events | missed, max_size=20))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, records: list[Arrival]) -> None:
    reader = RecordingReader(write(tmp_path_factory.mktemp("r"), records))
    assert list(reader) == records
    assert list(reader) == records  # a second iteration starts anew
    assert reader.closed
    assert reader.streams == STREAMS


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, list[Notification], list[int]]:
    """A small recording: file, records, and the offset after each record, the header's end first."""
    records = [Notification("wrist", 7, b"abc"), Notification("chest", 9, b""), Notification("wrist", 2**63, b"z" * 20)]
    path = write(tmp_path / "small", records)
    data = path.read_bytes()
    ends = [HEAD + int.from_bytes(data[10:14], "little")]
    for record in records:
        ends.append(ends[-1] + 8 + 10 + len(record.data))
    assert ends[-1] + END == len(data)
    return path, records, ends


def test_cut_at_every_byte(tmp_path: Path, small: tuple[Path, list[Notification], list[int]]) -> None:
    path, records, ends = small
    data, cut = path.read_bytes(), tmp_path / "cut"
    for size in range(len(data)):
        cut.write_bytes(data[:size])
        if size < ends[0]:
            with pytest.raises(RecordingError, match=r"cut: byte \d+: "):
                RecordingReader(cut, recover=True)
            continue
        whole = max(i for i, end in enumerate(ends) if end <= size)
        recovered = RecordingReader(cut, recover=True)
        assert list(recovered) == records[:whole]
        assert recovered.left_out == size - ends[whole]
        assert not recovered.closed
        if size in ends:  # as a killed process leaves it: whole, without the mark of a clean close
            assert list(RecordingReader(cut)) == records[:whole]
            assert recovered.damage is None
            continue
        with pytest.raises(RecordingError, match=rf"cut: byte {ends[whole]}: record {whole + 1}.*--recover"):
            list(RecordingReader(cut))
        assert recovered.damage is not None


def test_every_flipped_bit_is_caught(tmp_path: Path, small: tuple[Path, list[Notification], list[int]]) -> None:
    path, records, ends = small
    data, flipped = path.read_bytes(), tmp_path / "flipped"
    for at in range(len(data)):
        for bit in (0x01, 0x80):
            flipped.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            with pytest.raises(RecordingError):
                list(RecordingReader(flipped))
            if at >= ends[0]:
                whole = max(i for i, end in enumerate(ends) if end <= at)
                assert list(RecordingReader(flipped, recover=True)) == records[:whole]


def test_zeros_that_a_power_cut_leaves_are_no_record(small: tuple[Path, list[Notification], list[int]]) -> None:
    path, records, ends = small
    path.write_bytes(path.read_bytes()[: ends[-1]] + bytes(64))
    assert list(RecordingReader(path, recover=True)) == records


def test_a_record_after_the_end_is_refused(small: tuple[Path, list[Notification], list[int]]) -> None:
    path, records, ends = small
    data = path.read_bytes()
    path.write_bytes(data + data[ends[0] : ends[1]])
    recovered = RecordingReader(path, recover=True)
    assert list(recovered) == records
    assert recovered.damage is not None and "follows the end" in str(recovered.damage)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_recording_from_before_segments_is_read(
    tmp_path: Path, small: tuple[Path, list[Notification], list[int]], version: int
) -> None:
    """As affectd of then wrote it: at first the version was not in the header's checksum."""
    path, records, ends = small
    data = path.read_bytes()
    header = msgspec.json.decode(data[HEAD : ends[0]])
    for key in ("run", "number", "before", "recorded_ns"):
        del header[key]
    text = msgspec.json.encode(header)
    covered = struct.pack("<H", version) + text if version == 3 else text
    path.write_bytes(MAGIC + struct.pack("<HII", version, len(text), zlib.crc32(covered)) + text + data[ends[0] :])
    assert list(RecordingReader(path)) == records


def test_a_record_type_of_the_future_is_named(small: tuple[Path, list[Notification], list[int]]) -> None:
    path, _, ends = small
    payload = b"\x63later"
    length = len(payload).to_bytes(4, "little")
    crc = zlib.crc32(length + payload).to_bytes(4, "little")
    path.write_bytes(path.read_bytes()[: ends[-1]] + length + crc + payload)
    with pytest.raises(RecordingError, match="record 4: type 99 that this version"):
        list(RecordingReader(path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"time,ecg\n0,1\n")
    with pytest.raises(RecordingError, match="not a recording of affectd"):
        RecordingReader(other)
    other.write_bytes(MAGIC + bytes([9, 0]) + bytes(8))
    with pytest.raises(RecordingError, match="format version 9, expected 5"):
        RecordingReader(other)
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        RecordingReader(tmp_path / "none")


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "b", [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_one_process_records_into_a_directory(tmp_path: Path) -> None:
    with (
        RecordingWriter(tmp_path, STREAMS),
        pytest.raises(RecordingError, match="another affectd records here; stop it"),
    ):
        RecordingWriter(tmp_path, STREAMS)
    RecordingWriter(tmp_path, STREAMS).close()


def test_what_was_appended_is_there_without_a_close(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, STREAMS)
    record = Notification("chest", 1, b"x")
    writer.append(record)
    reader = RecordingReader(writer.path)
    assert list(reader) == [record]
    assert not reader.closed
    writer.close()
    writer.close()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    import resource
    import signal

    writer = RecordingWriter(tmp_path, STREAMS)
    whole = Notification("chest", 1, b"x" * 100)
    writer.append(whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size + 50, before[1]))
    try:
        with pytest.raises(RecordingError, match="record 2: cannot be written: File too large; make room"):
            writer.append(Notification("chest", 2, b"y" * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    writer.append(whole)
    writer.close()
    missing = Unrecorded(2, 1, "File too large")
    assert list(RecordingReader(writer.path)) == [whole, missing, whole]


def test_the_header_dates_the_records(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path, STREAMS, clocks=lambda: ClockReading(5_000, 1_800_000_000_000_000_000))
    writer.close()
    header = RecordingReader(writer.path).header
    assert (header.host_ns, header.wall_ns) == (5_000, 1_800_000_000_000_000_000)
    assert header.created == "2027-01-15T08:00:00+00:00"
    assert msgspec.json.decode(msgspec.json.encode(header))["streams"]["wrist"]["units"] == "uS"
