"""Encrypted lines of JSON: read by their recipients alone, by them like plain ones, after any end of the writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import affectd
from kept_of_two import configured, said
from test_mqtt_sink import READING
from test_sealing import Person
from test_sqlite_sink import SURE, UNSURE

from device.config import JsonlConfig, SinksConfig
from device.erasing import erase_subject
from device.errors import KeyFileError, SinkError
from device.notification import Event
from device.results import exported
from device.sinks.configured import Sinks
from device.sinks.jsonl import JsonlSink
from device.sinks.sqlite import Run

ITEMS = (READING, SURE, Event(75_000_000_000, "stroop start"), UNSURE)


def write(path: Path, *people: Person, subject: str = "P07", items: Any = ITEMS) -> Path:
    sink = JsonlSink(path, subject, tuple(it.public for it in people))
    for item in items:
        sink.write(item)
    sink.finish()
    return path


@pytest.fixture
def ada(tmp_path: Path) -> Person:
    return Person(tmp_path, "ada")


def plain(tmp_path: Path, **keys: Any) -> list[dict[str, Any]]:
    path = write(tmp_path / "plain.jsonl", **keys)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    return lines


@pytest.mark.parametrize("subject", ["P07", ""])
def test_its_recipients_read_what_plain_lines_say_and_nobody_else(tmp_path: Path, ada: Person, subject: str) -> None:
    ben, eve = Person(tmp_path, "ben"), Person(tmp_path, "eve")
    path = write(tmp_path / "lines", ada, ben, subject=subject)
    for person in (ada, ben):
        assert list(exported(path, person.identity)) == plain(tmp_path, subject=subject)
    with pytest.raises(KeyFileError, match=r"lines: is encrypted; give --identity FILE"):
        list(exported(path))
    with pytest.raises(KeyFileError, match="opens nothing that is encrypted for others"):
        list(exported(path, eve.identity))
    text = path.read_bytes()
    assert not any(word in text for word in (b"stress", b"stroop", b"contact", b"clock", b"index"))
    key, *lines = text.splitlines()
    assert b"wrapped" in key and len(lines) == len(ITEMS) and len({len(line) for line in lines}) == 1


def test_each_start_has_a_key_of_its_own_and_may_end_anyhow(
    tmp_path: Path, ada: Person, caplog: pytest.LogCaptureFixture
) -> None:
    """Three starts, of which the second was cut off in its last line, at every so many bytes of it."""
    path = write(tmp_path / "lines", ada)
    whole = path.read_bytes()
    second = write(tmp_path / "second", ada).read_bytes()
    last = second.rindex(b"{")
    for end in range(last + 1, len(second) - 1, 97):
        path.write_bytes(whole + second[:end])
        write(path, ada)
        caplog.clear()
        assert list(exported(path, ada.identity)) == [*(lines := plain(tmp_path)), *lines[:-1], *lines]
        assert "line 10 is no whole line" in caplog.text and "is not encrypted" not in caplog.text


def test_lines_of_two_keys_may_come_in_turns(tmp_path: Path, ada: Person) -> None:
    """As after a reload of the configuration, while the sink before finishes."""
    sinks = [JsonlSink(tmp_path / "lines", "P07", (ada.public,)) for _ in range(2)]
    for item in (SURE, UNSURE):
        for sink in sinks:
            sink.write(item)
    for sink in sinks:
        sink.finish()
    read = [line["index"] for line in exported(tmp_path / "lines", ada.identity)]
    assert read == [SURE.index, SURE.index, UNSURE.index, UNSURE.index]


def test_what_was_there_in_clear_is_said_and_read_with_the_rest(
    tmp_path: Path, ada: Person, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "lines")
    write(path, ada)
    assert f"{path}: what it held before is not encrypted, and stays so; move it away" in caplog.text
    assert list(exported(path, ada.identity)) == 2 * plain(tmp_path)


def test_a_line_that_was_changed_moved_or_has_no_key_is_refused(tmp_path: Path, ada: Person) -> None:
    path = write(tmp_path / "lines", ada)
    key, first, second, *rest = path.read_bytes().splitlines(keepends=True)
    for lines, number, reason in (
        ([key, second, first, *rest], 3, "it is not in its place"),
        ([key, first, first, *rest], 3, "it is not in its place"),
        ([key, first.replace(b"A", b"B"), second, *rest], 2, "."),
        ([first, second, *rest], 1, "the line of its key is not here"),
    ):
        path.write_bytes(b"".join(lines))
        with pytest.raises(SinkError, match=rf"lines: line {number}: {reason}.*; take it from a copy"):
            list(exported(path, ada.identity))


def test_one_subject_s_lines_are_erased_and_the_other_s_still_open(tmp_path: Path, ada: Person) -> None:
    config = configured(tmp_path)
    path = tmp_path / "predictions.jsonl"
    for subject in ("P07", "P08", "P07"):
        write(path, ada, subject=subject, items=said(subject, 1))
    report = erase_subject(config, "P07")
    assert [(Path(it.place).name, it.n) for it in report.erased] == [("predictions.jsonl", 8)]
    assert b"P07" not in path.read_bytes()
    assert list(exported(path, ada.identity)) == plain(tmp_path, subject="P08", items=said("P08", 1))


def test_the_configuration_names_the_recipients_and_the_command_opens_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ada: Person
) -> None:
    (tmp_path / "recipients").write_text(ada.public)
    table = JsonlConfig(str(tmp_path / "lines"), str(tmp_path / "recipients"))
    sink = Sinks(Run(0, 0, "tiny", "", "", "", "P07"), {}, ())._sink(table)
    assert isinstance(sink, JsonlSink) and SinksConfig(table).jsonl == table
    sink.write(SURE)
    sink.finish()
    code, out, _ = affectd(capsys, monkeypatch, "results", "export", table.path, "--identity", ada.identity)
    (line,) = out.splitlines()
    assert (code, json.loads(line)) == (0, *plain(tmp_path, items=[SURE]))
