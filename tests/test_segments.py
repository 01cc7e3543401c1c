"""A run in many segments is one recording: across the seam, compressed, on a disk that fills, and within its bounds."""

from __future__ import annotations

import errno
import logging
import lzma
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle
from wearer_at_rest import infos, sent

from device.errors import RecordingError
from device.notification import Arrival, ClockReading, Event, LinkChange, Notification, Unrecorded
from device.recording import RecordingReader, RecordingWriter
from device.segment import MAGIC, SegmentReader, is_compressed
from device.session import open_session
from device.storage import BLOCK, Policy, compressed
from firmware_bridge.codecs import open_eda, polar_pmd

STREAMS = {"chest": polar_pmd.STREAM_INFO, "wrist": open_eda.STREAM_INFO}
DAY_S = 86_400
PACKING = Policy(segment_s=10.0, compress=True)


def at(second: float, size: int = 20, stream: str = "chest") -> Notification:
    return Notification(stream, round(second * 1e9), (int(second).to_bytes(8, "little") * size)[:size])


def write(directory: Path, arrivals: Sequence[Arrival], policy: Policy = PACKING) -> list[Path]:
    """The segments of one run."""
    with RecordingWriter(directory, STREAMS, policy) as writer:
        for arrival in arrivals:
            writer.append(arrival)
        writer.tend()
    return sorted(directory.glob(f"{writer.path.name[:7]}-*"))


class Disk:
    """A disk of so many bytes: it writes what fits, as a real one does, then refuses."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size

    def free(self, _: Path | None = None) -> int:
        return self.size - sum(path.stat().st_size for path in self.directory.iterdir())

    def write(self, fd: int, data: bytes) -> int:
        if (room := self.free()) <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data[:room])


def seconds(arrivals: Sequence[Arrival]) -> list[int]:
    return [arrival.host_ns // 10**9 for arrival in arrivals]


# The seam


arrivals = st.builds(at, st.floats(0, 50), st.integers(0, 60), st.sampled_from(sorted(STREAMS))) | st.builds(
    Event, st.integers(0, 50 * 10**9), st.text(max_size=20)
)


@settings(max_examples=40, deadline=None)
@given(records=st.lists(arrivals, max_size=30), compress=st.booleans())
def test_segments_read_as_one(tmp_path_factory: pytest.TempPathFactory, records: list[Arrival], compress: bool) -> None:
    directory = tmp_path_factory.mktemp("r")
    paths = write(directory, records, Policy(5.0, compress))
    for what in (directory, paths, paths[::-1]):
        reader = RecordingReader(what)
        assert list(reader) == records == list(reader)
        assert reader.closed and reader.damage is None
    alone = [SegmentReader(path) for path in paths]
    assert [arrival for segment in alone for arrival in segment] == records
    assert all(segment.closed for segment in alone)
    assert [segment.header.before for segment in alone] == [
        sum(len(list(other)) for other in alone[:i]) for i in range(len(alone))
    ]
    assert [is_compressed(path) for path in paths] == [compress] * (len(paths) - 1) + [False]


def test_predictions_across_the_seam_are_those_of_one_file(tmp_path: Path) -> None:
    """On the real recording of a resting person, as the bytes of two sensors."""

    def predictions(directory: Path) -> list[object]:
        session = open_session(tiny_bundle(tmp_path / "tiny.affect"), infos())
        return [p for it in RecordingReader(directory) for p in session.push(it)] + list(session.flush())

    for name, policy in (("one", Policy()), ("many", Policy(segment_s=7.3, compress=True))):
        with RecordingWriter(tmp_path / name, infos(), policy) as writer:
            for notification in sent():
                writer.append(notification)
            writer.tend()
    assert len(list((tmp_path / "one").iterdir())) == 1
    assert len(list((tmp_path / "many").iterdir())) > 40
    one = predictions(tmp_path / "one")
    assert len(one) > 20 and predictions(tmp_path / "many") == one


def test_a_segment_that_is_missing_is_said_and_is_a_hole(tmp_path: Path) -> None:
    records = [at(i) for i in range(40)]
    paths = write(tmp_path, records)
    assert list(RecordingReader(paths[1:])) == records[10:]  # the oldest go first, by policy
    without = [paths[0], *paths[2:]]
    with pytest.raises(
        RecordingError, match=r"10 records of its run before it are not there; name the whole directory"
    ):
        list(RecordingReader(without))
    reader = RecordingReader(without, recover=True)
    hole = Unrecorded(9 * 10**9, 10, "10 records of its run before it are not there")
    assert list(reader) == [*records[:10], hole, *records[20:]]
    assert reader.damage is not None


def test_damage_in_one_segment_costs_no_other(tmp_path: Path) -> None:
    records = [at(i) for i in range(40)]
    paths = write(tmp_path, records, Policy(10.0))
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:-100])
    with pytest.raises(RecordingError, match=r"record 8: cut short.*--recover"):
        list(RecordingReader(tmp_path))
    reader = RecordingReader(tmp_path, recover=True)
    assert [it for it in reader if not isinstance(it, Unrecorded)] == records[:17] + records[20:]
    assert reader.left_out == len(data) - 100 - (len(data) - 17 - 3 * 38)
    assert reader.damage is not None and "record 8" in str(reader.damage)


def test_several_runs_are_not_one_recording(tmp_path: Path) -> None:
    one, two = write(tmp_path, [at(1)]), write(tmp_path, [at(2)])
    with pytest.raises(RecordingError, match=r"of 2 runs of affectd.*name the segments of one"):
        RecordingReader(tmp_path)
    with pytest.raises(RecordingError, match="the same segment as"):
        RecordingReader(one * 2)
    assert list(RecordingReader(two)) == [at(2)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="holds no recording"):
        RecordingReader(tmp_path / "empty")


def test_runs_are_in_order_whatever_the_clock_says(tmp_path: Path) -> None:
    for wall_ns in (4 * 10**18, 10**9, 17 * 10**17):
        RecordingWriter(tmp_path, STREAMS, clocks=lambda wall_ns=wall_ns: ClockReading(0, wall_ns)).close()  # type: ignore[misc]
    found = [SegmentReader(path).header.wall_ns for path in sorted(tmp_path.iterdir())]
    assert found == [4 * 10**18, 10**9, 17 * 10**17]


# Torn writes


def test_a_run_that_is_torn_at_any_byte_of_its_last_segment_loses_nothing_before(tmp_path: Path) -> None:
    records: list[Arrival] = [at(i) for i in range(23)]
    paths = write(tmp_path / "whole", records)
    data, header = paths[-1].read_bytes(), SegmentReader(paths[-1]).start
    torn = tmp_path / "torn"
    shutil.copytree(tmp_path / "whole", torn)
    for size in range(len(data)):
        (torn / paths[-1].name).write_bytes(data[:size])
        whole = 20 + max(0, size - header) // 38
        assert list(RecordingReader(torn, recover=True)) == records[: min(whole, 23)]
        if size < header or (size - header) % 38 == 0:
            assert list(RecordingReader(torn)) == records[:whole]
    (torn / paths[-1].name).write_bytes(bytes(len(data)))
    assert (
        list(RecordingReader(torn)) == list(RecordingReader(sorted(torn.iterdir()))) == records[:20]
    )  # zeros, as a power cut leaves them


def test_what_a_crash_left_half_made_goes_at_the_next_start(tmp_path: Path) -> None:
    paths = write(tmp_path, [at(i) for i in range(23)])
    whole = paths[-1].read_bytes()
    for left in (b"", whole[:30], bytes(100)):
        paths[-1].write_bytes(left)
        paths[0].with_name(paths[0].name + ".part").write_bytes(b"half")
        RecordingWriter(tmp_path, STREAMS).close()
        assert not paths[-1].exists() and not list(tmp_path.glob("*.part"))
        assert list(RecordingReader(paths[:-1])) == [at(i) for i in range(20)]
    (tmp_path / "notes.affrec").write_text("somebody's own")
    RecordingWriter(tmp_path, STREAMS).close()
    assert (tmp_path / "notes.affrec").exists()


def test_a_newer_affectd_s_recordings_are_left(tmp_path: Path) -> None:
    """An upgrade that was taken back has written some."""
    (old,), (newer,) = write(tmp_path, [at(1)], Policy()), write(tmp_path, [at(2)], Policy())
    changed = newer.read_bytes()[: len(MAGIC)] + bytes([99]) + newer.read_bytes()[len(MAGIC) + 1 :]
    newer.write_bytes(changed)
    (own,) = write(tmp_path, [at(3)], Policy())
    assert newer.read_bytes() == changed and own.name > newer.name
    assert list(RecordingReader([old])) == [at(1)] and list(RecordingReader([own])) == [at(3)]


# Compression


def test_a_run_that_was_broken_off_is_said_at_the_next_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, [at(1), at(2)], Policy())
    (second,) = write(tmp_path, [at(3)], Policy())
    assert not caplog.records  # the first was closed
    second.write_bytes(second.read_bytes()[:-3])
    write(tmp_path, [at(4)], Policy())
    (said,) = caplog.messages
    assert said == f"{second}: was broken off, and is whole up to its last record; 14 bytes behind it are torn"


def test_compression_that_is_left_off_at_any_block_changes_nothing(tmp_path: Path) -> None:
    records = [at(i / 100, 60_000) for i in range(8)]
    (path,) = write(tmp_path, records)
    data = path.read_bytes()
    blocks = -(-len(data) // BLOCK)
    for last in range(blocks):
        looks = iter(range(blocks))
        assert compressed(path, lambda looks=looks, last=last: next(looks) == last) is None  # type: ignore[misc]
        assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]

    def fails() -> bool:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        compressed(path, fails)
    assert path.read_bytes() == data and list(tmp_path.iterdir()) == [path]
    part = compressed(path, lambda: False)
    assert part is not None and lzma.decompress(part.read_bytes()) == data
    for size in (0, 1, part.stat().st_size // 2, part.stat().st_size):  # killed before the rename: it does not count
        os.truncate(part, size)
        assert list(RecordingReader(tmp_path)) == records


def test_what_is_left_off_is_done_by_the_next_run(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path, STREAMS, PACKING) as writer:
        for second in range(25):
            writer.append(at(second))
        writer.leave_off()
        writer.tend()
        paths = sorted(tmp_path.iterdir())
        assert [is_compressed(path) for path in paths] == [False] * 3
    with RecordingWriter(tmp_path, STREAMS, PACKING) as writer:
        writer.tend()
    assert [is_compressed(path) for path in paths] == [True] * 3
    assert list(RecordingReader(paths)) == [at(second) for second in range(25)]


def test_compressed_segments_stay_private_and_small(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path, infos(), Policy(segment_s=200.0)) as writer:
        for notification in sent():
            writer.append(notification)
    before = {path: path.stat().st_size for path in tmp_path.iterdir()}
    with RecordingWriter(tmp_path, infos(), PACKING) as writer:  # what an earlier run has left is compressed, too
        writer.tend()
        assert writer.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    for path, size in before.items():
        assert is_compressed(path) and path.stat().st_size < 0.45 * size
        assert path.stat().st_mode & 0o777 == 0o600
    assert list(RecordingReader(sorted(before))) == list(sent())


def test_damage_of_a_compressed_segment_is_caught(tmp_path: Path) -> None:
    records = [at(i) for i in range(12)]
    path = write(tmp_path, records)[0]
    data, damaged = path.read_bytes(), tmp_path / "damaged"
    for at_byte in range(len(data)):
        for wrong in (data[:at_byte], data[:at_byte] + bytes([data[at_byte] ^ 1]) + data[at_byte + 1 :]):
            damaged.write_bytes(wrong)
            with pytest.raises(RecordingError):
                list(RecordingReader(damaged))
            try:
                reader = RecordingReader(damaged, recover=True)
            except RecordingError:
                continue
            found = list(reader)
            assert found == records[: len(found)]
            assert reader.damage is not None and reader.left_out > 0


# Bounds


def test_the_oldest_go_where_there_are_too_many_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    records = [at(i, 200) for i in range(60)]
    before = write(tmp_path, records[:30], Policy(10.0))
    sizes = [path.stat().st_size for path in before]
    with RecordingWriter(tmp_path, STREAMS, Policy(10.0, max_bytes=sum(sizes))) as writer:
        for record in records[30:]:
            writer.append(record)
        writer.tend()
        kept = sorted(tmp_path.iterdir())
        assert kept[-1] == writer.path and len(kept) == 3 and not set(kept) & set(before)
        assert list(RecordingReader(tmp_path)) == records[30:]
    said = [it.message for it in caplog.records]
    assert said == [
        f"{path}: deleted, {size} bytes: more than max_bytes = {sum(sizes)}"
        for path, size in zip(before, sizes, strict=True)
    ]
    with RecordingWriter(tmp_path, STREAMS, Policy(max_bytes=1)) as writer:  # never the live one
        writer.append(records[0])
        writer.tend()
        assert list(tmp_path.iterdir()) == [writer.path]


@pytest.mark.parametrize("jump_s", [0, 80 * 365 * DAY_S, -50 * 365 * DAY_S])
def test_age_is_recorded_time_whatever_the_clock_says(tmp_path: Path, jump_s: int) -> None:
    """Ten hours a day for a week, with a clock that jumps in the middle and no time kept while switched off."""
    wall_s, hour_s = 1_800_000_000, 3600
    for day in range(7):
        now = (wall_s + day * DAY_S + (jump_s if day >= 3 else 0)) * 10**9
        policy = Policy(segment_s=hour_s, keep_days=1)
        with RecordingWriter(tmp_path, STREAMS, policy, clocks=lambda now=now: ClockReading(0, now)) as writer:  # type: ignore[misc]
            for minute in range(0, 601, 5):  # the monotonic clock begins anew with each boot
                writer.append(at(minute * 60))
                writer.tend()
    kept = sorted(tmp_path.iterdir())
    headers = [SegmentReader(path).header for path in kept]
    end_ns = 70 * hour_s * 10**9
    assert end_ns - headers[0].recorded_ns <= DAY_S * 10**9 < end_ns - headers[0].recorded_ns + hour_s * 10**9
    assert [it.recorded_ns for it in headers] == sorted(it.recorded_ns for it in headers)


def test_a_clock_that_jumps_ahead_deletes_nothing(tmp_path: Path) -> None:
    for wall_ns in (0, 4 * 10**18):
        with RecordingWriter(
            tmp_path, STREAMS, Policy(10.0, keep_days=1), clocks=lambda w=wall_ns: ClockReading(0, w)
        ) as writer:  # type: ignore[misc]
            for second in range(30):
                writer.append(at(second))
            writer.tend()
    assert len(list(tmp_path.iterdir())) == 6


def test_a_place_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(RecordingError, match=r"taken: record 1: cannot be created: File exists; make the directory"):
        RecordingWriter(tmp_path / "taken", STREAMS)


def test_what_the_disk_must_leave_free_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(tmp_path, 4000)
    policy = Policy(10.0, min_free_bytes=1000)
    with RecordingWriter(tmp_path, STREAMS, policy, write=disk.write, free=disk.free) as writer:
        for second in range(20):
            writer.append(at(second))
        writer.tend()
        assert len(list(tmp_path.iterdir())) == 2
        disk.size = disk.size - disk.free() + 500  # somebody else fills it
        writer.tend()
        assert list(tmp_path.iterdir()) == [writer.path] and disk.free() >= 1000
        disk.size -= 1000
        writer.tend()
        for second in range(20, 23):
            assert not writer.keep(at(second))
        with pytest.raises(RecordingError, match=r"min_free_bytes = 1000 free; make room"):
            writer.append(Event(23 * 10**9, "stroop"))
        assert writer.to_json()["unrecorded"] == writer.unrecorded == 4
        disk.size += 2000
        writer.tend()
        assert writer.keep(at(24))
    found = list(RecordingReader(tmp_path))
    hole = Unrecorded(20 * 10**9, 4, "less than min_free_bytes = 1000 free")
    assert found == [*(at(i) for i in range(10, 20)), hole, at(24)]
    assert [it.levelname for it in caplog.records if "predictions go on" in it.message] == ["ERROR"]
    assert "recording again; 4 records are missing so far" in caplog.text


# A disk that fills


def test_a_full_disk_costs_the_oldest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(tmp_path, 6000)
    with RecordingWriter(tmp_path, STREAMS, Policy(10.0), write=disk.write, free=disk.free) as writer:
        for second in range(300):
            writer.keep(at(second, 60))
            assert disk.free() >= 0
        assert writer.unrecorded == 0
    found = seconds(list(RecordingReader(tmp_path)))
    assert found == list(range(found[0], 300)) and 20 < len(found) < 60
    assert "deleted, " in caplog.text and "the disk is full" in caplog.text


@pytest.mark.parametrize("size", range(1400, 1500))
def test_a_disk_that_is_full_at_any_byte_tears_no_record(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is left to delete: what comes is counted, and its place is told once there is room again."""
    disk = Disk(tmp_path, size)
    records: list[Arrival] = [at(i) if i % 3 else LinkChange("wrist", i * 10**9, "silent", "so") for i in range(40)]
    with RecordingWriter(tmp_path, STREAMS, write=disk.write, free=disk.free) as writer:
        for record in records[:30]:
            writer.keep(record)
        lost = writer.unrecorded
        assert 0 < lost < 30
        disk.size += 10_000
        for record in records[30:]:
            writer.keep(record)
        assert writer.unrecorded == lost
    kept = records[: 30 - lost]
    found = list(RecordingReader(tmp_path))
    holes = [it for it in found if isinstance(it, Unrecorded)]
    assert sum(hole.records for hole in holes) == lost
    assert holes[0].reason == "No space left on device"
    assert [it for it in found if not isinstance(it, Unrecorded)][: len(kept) - 1] == kept[: len(kept) - 1]
    assert found[-10:] == records[30:]
    assert len([it for it in caplog.records if "not recording" in it.message]) <= len(holes)


def test_a_start_on_a_full_disk_records_later(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 100)
    with RecordingWriter(tmp_path, STREAMS, write=disk.write, free=disk.free) as writer:
        writer.keep(at(1))
        writer.sync()
        writer.tend()
        assert list(tmp_path.iterdir()) == [] and writer.to_json()["segments"] == 0
        disk.size = 10_000
        writer.keep(at(2))
    assert list(RecordingReader(tmp_path)) == [Unrecorded(10**9, 1, "No space left on device"), at(2)]


def test_a_record_that_cannot_be_taken_back_ends_its_segment(tmp_path: Path) -> None:
    """A disk that fails in the middle of a record, whose file then cannot be cut either."""

    def breaks(fd: int, data: bytes) -> int:
        if not sound:
            os.write(fd, data[:7])
            os.set_blocking(fd, True)
            os.dup2(os.open(writer.path, os.O_RDONLY), fd)  # no ftruncate on it
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return os.write(fd, data)

    sound = True
    with RecordingWriter(tmp_path, STREAMS, write=breaks) as writer:
        writer.keep(at(1))
        sound = False
        writer.keep(at(2))
        sound = True
        writer.keep(at(3))
    reader = RecordingReader(tmp_path, recover=True)
    assert list(reader) == [at(1), Unrecorded(2 * 10**9, 1, "Input/output error"), at(3)]
    assert reader.left_out == 7


def test_what_status_tells(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 100_000)
    with RecordingWriter(tmp_path, STREAMS, Policy(10.0), write=disk.write, free=disk.free) as writer:
        for second in range(25):
            writer.append(at(second))
        paths = sorted(tmp_path.iterdir())
        assert writer.to_json() == {
            "path": str(paths[-1]),
            "records": 25,
            "unrecorded": 0,
            "segments": 3,
            "bytes": sum(path.stat().st_size for path in paths),
            "oldest": paths[0].name,
        }
