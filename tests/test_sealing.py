"""An encrypted recording is read by its recipients alone, and by them like any other; erased, it is gone."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from command_line import affectd
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pyrage import decrypt, x25519
from test_segments import STREAMS, Disk, at
from tiny_bundle import tiny_bundle
from wearer_at_rest import infos, sent

from device.errors import KeyFileError, RecordingError
from device.recording import RecordingReader, RecordingWriter
from device.sealing import read_recipients
from device.segment import SegmentReader
from device.storage import Policy

RECORDS = [at(i, 40, stream) for i in range(25) for stream in STREAMS]


class Person:
    """Who may read: a pair of keys, as age-keygen writes them."""

    def __init__(self, folder: Path, name: str) -> None:
        identity = x25519.Identity.generate()
        self.key = identity
        self.public = str(identity.to_public())
        self.identity = folder / f"{name}.txt"
        self.identity.write_text(f"# created: today\n# public key: {self.public}\n{identity}\n")


@pytest.fixture
def people(tmp_path: Path) -> tuple[Person, Person, Person]:
    return Person(tmp_path, "ada"), Person(tmp_path, "ben"), Person(tmp_path, "eve")


@pytest.fixture
def policy(tmp_path: Path, people: tuple[Person, ...]) -> Policy:
    path = tmp_path / "recipients"
    path.write_text("# the study\n" + "\n".join(person.public for person in people[:2]) + "\n\n")
    return Policy(10.0, compress=True, recipients=read_recipients(path))


@pytest.fixture
def directory(tmp_path: Path, policy: Policy) -> Path:
    with RecordingWriter(tmp_path / "r", STREAMS, policy) as writer:
        for record in RECORDS:
            writer.append(record)
        writer.tend()
    return tmp_path / "r"


def test_each_recipient_reads_it_and_nobody_else(directory: Path, people: tuple[Person, ...]) -> None:
    ada, ben, eve = people
    for person in (ada, ben):
        reader = RecordingReader(directory, identity=person.identity)
        assert list(reader) == RECORDS == list(reader)
        assert reader.closed
    with pytest.raises(KeyFileError, match=r"eve\.txt: opens nothing that is encrypted for others"):
        list(RecordingReader(directory, identity=eve.identity))
    with pytest.raises(RecordingError, match="is encrypted; give --identity FILE"):
        list(RecordingReader(directory))
    with pytest.raises(KeyFileError, match="holds no private key"):
        eve.identity.write_text("# lost\n")
        list(RecordingReader(directory, identity=eve.identity))


def records_of(path: Path) -> list[bytes]:
    """Payloads as they lie in the file."""
    data, at_byte, found = path.read_bytes(), SegmentReader(path).start, []
    while at_byte < len(data):
        length = int.from_bytes(data[at_byte : at_byte + 4], "little")
        found.append(data[at_byte + 8 : at_byte + 8 + length])
        at_byte += 8 + length
    return found


def test_the_file_is_what_the_documentation_says(directory: Path, people: tuple[Person, ...]) -> None:
    """Read by other means than ours: age for the key, RFC 8439 for each record; no notification is in clear."""
    keys = set()
    for path in sorted(directory.iterdir()):
        key = decrypt(base64.b64decode(SegmentReader(path).header.sealed), [people[1].key])
        keys.add(key)
        opened = []
        for number, record in enumerate(records_of(path), start=1):
            assert record[0] == 6 and int.from_bytes(record[1:9], "little") == number
            opened.append(ChaCha20Poly1305(key).decrypt(bytes(4) + record[1:9], record[9:], None))
        assert [payload[0] for payload in opened] == [1] * (len(opened) - 1) + [2]
        assert all(payload[10:] not in path.read_bytes() for payload in opened[:-1])
    assert len(keys) == 3


def test_what_was_changed_moved_or_slipped_in_is_refused(directory: Path, people: tuple[Person, ...]) -> None:
    path = min(directory.iterdir())
    header, data = SegmentReader(path).start, path.read_bytes()
    size = 8 + len(records_of(path)[0])
    one, two = data[header : header + size], data[header + size : header + 2 * size]

    def reading(records: bytes) -> None:
        path.write_bytes(data[:header] + records)
        list(RecordingReader(path, identity=people[0].identity))

    reading(one + two)
    for wrong, why in ((two + one, "not in its place"), (one + one, "not in its place")):
        with pytest.raises(RecordingError, match=rf"record 2: it is {why}"):
            reading(wrong)
    with RecordingWriter(directory.parent / "other", STREAMS) as writer:
        writer.append(RECORDS[0])
    plain = writer.path.read_bytes()[SegmentReader(writer.path).start :]
    with pytest.raises(RecordingError, match="record 2: it is not sealed"):
        reading(one + plain)


def test_no_nonce_comes_twice_on_a_disk_that_refuses(
    tmp_path: Path, policy: Policy, people: tuple[Person, ...]
) -> None:
    tried: list[bytes] = []
    disk = Disk(tmp_path / "r", 2500)

    def write(fd: int, data: bytes) -> int:
        if data[8:9] == b"\x06":
            tried.append(data[9:17])
        return disk.write(fd, data)

    with RecordingWriter(tmp_path / "r", STREAMS, Policy(recipients=policy.recipients), write=write) as writer:
        for record in RECORDS:
            writer.keep(record)
        assert writer.unrecorded
        disk.size += 10_000
        writer.keep(RECORDS[0])
    assert len(tried) == len(set(tried))
    assert list(RecordingReader(tmp_path / "r", identity=people[0].identity))[-1] == RECORDS[0]


def test_wrong_keys_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "recipients"
    path.write_text("# of the study\nage1wrong\n")
    with pytest.raises(KeyFileError, match=r"recipients: line 2: is no public key of age"):
        read_recipients(path)
    path.write_text("")
    with pytest.raises(KeyFileError, match="holds no public key; make one"):
        read_recipients(path)
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        read_recipients(tmp_path / "none")


def test_replay_of_an_encrypted_recording_is_that_of_a_plain_one(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    policy: Policy,
    people: tuple[Person, ...],
) -> None:
    told = []
    for name, bounds in (("plain", Policy()), ("sealed", policy)):
        with RecordingWriter(tmp_path / name, infos(), bounds) as writer:
            for notification in sent():
                writer.append(notification)
        bundle, identity = tiny_bundle(tmp_path / "tiny.affect").path, people[0].identity
        told.append(affectd(capsys, monkeypatch, "replay", tmp_path / name, "--bundle", bundle, "--identity", identity))
    assert told[0] == told[1] and told[0][0] == 0 and told[0][1].count("\n") > 20
    code, _, err = affectd(capsys, monkeypatch, "replay", tmp_path / "sealed")
    assert code == 2 and "is encrypted; give --identity FILE" in err


def test_erasing_takes_the_key_and_then_the_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, directory: Path, people: tuple[Person, ...]
) -> None:
    segments = sorted(directory.iterdir())
    (directory / "notes.txt").write_text("somebody's own")
    held = os.open(segments[0], os.O_RDONLY)  # as a card keeps what nobody names any more
    with RecordingWriter(directory, STREAMS):
        code, _, err = affectd(capsys, monkeypatch, "erase", "--yes", segments[0])
        assert code == 2 and "another affectd records here" in err and segments[0].exists()
    code, text, _ = affectd(capsys, monkeypatch, "erase", "--yes", *segments[:2])
    assert (code, text) == (0, "erased 2 segments\n") and not segments[1].exists()
    left = os.pread(held, 1 << 20, 0)
    os.close(held)
    assert left and b"sealed" not in left and not left[:100].strip(b"\0")
    code, text, _ = affectd(capsys, monkeypatch, "erase", "--yes", directory)
    assert (code, text) == (0, "erased 2 segments\n")
    assert [it.name for it in directory.iterdir()] == ["notes.txt"]
    for wrong in (directory, directory / "notes.txt"):
        code, _, err = affectd(capsys, monkeypatch, "erase", "--yes", wrong)
        assert code == 2 and "holds no recording" in err
