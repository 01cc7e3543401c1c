"""What is erased of a subject is in no byte of any file, and what is others' is as it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import wearer_at_rest
from command_line import affectd
from kept_of_two import ROWS, STREAMS, SUBJECTS, configured, furnish, secret_of

from device.config import Config, LslConfig
from device.erasing import Erased, erase_subject
from device.errors import RecordingError
from device.profile import write_profile
from device.recording import RecordingWriter
from device.sinks.outbox import Outbox
from firmware_bridge import whole_file

TABLES = ("prediction", "event", "sealed", "clock", "run")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    furnish(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, template: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "state"))


def kept(folder: Path, subject: str) -> dict[str, Any]:
    """All that is somebody's, by place."""
    found: dict[str, Any] = {"lines": []}
    for line in (folder / "predictions.jsonl").read_text().splitlines():
        if json.loads(line).get("subject", "") == subject:
            found["lines"].append(line)
    with contextlib.closing(sqlite3.connect(folder / "results.db")) as db:
        (run,) = db.execute("SELECT id FROM run WHERE subject = ?", (subject,)).fetchone() or (0,)
        for table in TABLES:
            key = "id" if table == "run" else "run"
            found[table] = db.execute(f"SELECT * FROM {table} WHERE {key} = ?", (run,)).fetchall()
    with contextlib.closing(sqlite3.connect(folder / "outbox.db")) as db:
        found["messages"] = db.execute(
            "SELECT id, topic, payload FROM message WHERE subject = ?", (subject,)
        ).fetchall()
    secret = secret_of(subject).encode()
    found["recordings"] = {it.name: it.read_bytes() for it in (folder / "r").iterdir() if secret in it.read_bytes()}
    return found


def holding(folder: Path, word: str) -> set[str]:
    """Files in which a word is, wherever in their bytes."""
    return {it.name for it in folder.rglob("*") if it.is_file() and word.encode() in it.read_bytes()}


def test_nothing_of_one_subject_is_left_and_everything_of_the_others(folder: Path) -> None:
    before = {subject: kept(folder, subject) for subject in SUBJECTS}
    assert len(holding(folder, secret_of("P07"))) == 6
    report = erase_subject(configured(folder), "P07")
    assert not report.left
    assert {it.what: it.n for it in report.erased} == {
        "segments": 1,
        "rows of prediction": ROWS,
        "rows of event": ROWS,
        "rows of clock": ROWS,
        "rows of run": 1,
        "lines": 3 * ROWS,
        "messages that waited": 3 * ROWS,
        "messages for readers": 3 * ROWS,
        "profile": 1,
    }
    assert holding(folder, secret_of("P07")) == holding(folder, "P07") == set()
    assert not any(kept(folder, "P07").values())
    for subject in ("P08", ""):
        assert kept(folder, subject) == before[subject]
    again = erase_subject(configured(folder), "P07")
    assert (again.erased, again.left) == ((), ())


def test_what_was_of_nobody_s_name_goes_alone(folder: Path) -> None:
    before = kept(folder, "P08")
    assert {it.n for it in erase_subject(configured(folder), "").erased} == {1, ROWS, 3 * ROWS}
    assert holding(folder, secret_of("")) == set()
    assert kept(folder, "P08") == before and (folder / "person.json").exists()


def test_a_dry_run_says_the_same_and_changes_nothing(folder: Path, template: Path) -> None:
    def contents(where: Path) -> dict[str, bytes]:
        return {str(it.relative_to(where)): it.read_bytes() for it in where.rglob("*") if it.is_file()}

    dry = erase_subject(configured(folder), "P07", dry_run=True)
    assert contents(folder) == contents(template)
    assert dry.erased == erase_subject(configured(folder), "P07").erased


def test_killed_at_any_moment_a_second_call_finishes(template: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).parent / "kept_of_two.py"), str(template), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    codes = [int(line) for line in done.stdout.split()]
    assert codes == [-9] * (len(codes) - 1) + [0] and len(codes) > 12
    others = {subject: kept(template, subject) for subject in ("P08", "")}
    for moment in range(len(codes)):
        folder = tmp_path / str(moment)
        assert not erase_subject(configured(folder), "P07").left
        assert holding(folder, secret_of("P07")) == set()
        for subject, before in others.items():
            assert kept(folder, subject) == before
        assert not [it.name for it in folder.rglob(".*")]


def test_while_affectd_runs_nothing_is_erased(folder: Path, template: Path) -> None:
    with (
        RecordingWriter(folder / "r", STREAMS),
        pytest.raises(RecordingError, match="another affectd records here; stop it first"),
    ):
        erase_subject(configured(folder), "P07")
    assert kept(folder, "P07") == kept(template, "P07")


def test_what_somebody_holds_is_left_and_said_and_the_rest_goes(folder: Path) -> None:
    outbox = Outbox(folder / "outbox.db", 1000)
    with contextlib.closing(sqlite3.connect(folder / "results.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM prediction").fetchone()
        report = erase_subject(configured(folder), "P07")
    outbox.close()
    assert {(Path(it.place).name, it.reason) for it in report.left} == {
        (name, "another program uses it") for name in ("results.db", "outbox.db")
    }
    assert {Path(it.place).name for it in report.erased} == {"r", "predictions.jsonl", "person.json"}
    assert not erase_subject(configured(folder), "P07").left and holding(folder, secret_of("P07")) == set()


def test_a_recording_of_which_nobody_knows_whose_it_is_stays_and_is_said(folder: Path) -> None:
    path = min((folder / "r").glob("*"))
    path.write_bytes(path.read_bytes().replace(b'"subject"', b'"sobject"'))
    (folder / "person.json").write_text("{")
    left, profile = erase_subject(configured(folder), "P07").left
    assert profile.place.endswith("person.json") and profile.remedy == f"if it is to go: `rm {profile.place}`"
    assert left.place == str(path) and left.reason.startswith("nobody can tell whose it is")
    assert left.remedy == f"if it is to go: `affectd erase {path}`" and path.exists()


@pytest.mark.parametrize(
    ("inside", "used_for", "named", "goes"),
    [
        ({"subject": "P07"}, "P08", "P07", True),
        ({"subject": "P08"}, "P07", "P07", False),
        ({"subject": "P08", "person": "P07"}, "P07", "P07", False),
        ({"person": "P07"}, None, "P07", True),
        ({}, "P07", "P07", True),
        ({}, "P08", "P07", False),
        ({}, None, "", True),
        ({}, "P08", "", False),
        ({"subject": "P08"}, None, "", False),
    ],
)
def test_whose_a_profile_is(
    tmp_path: Path, inside: dict[str, str], used_for: str | None, named: str, goes: bool
) -> None:
    path = tmp_path / "person.json"
    write_profile(path, wearer_at_rest.profile(**{"person": None, **inside}))
    (tmp_path / ".person.json.abcdefgh").write_text("half a profile")
    report = erase_subject(configured(tmp_path, subject=used_for), named)
    assert (Erased(str(path), "profile", 1) in report.erased) == goes == (not path.exists())
    assert not (tmp_path / ".person.json.abcdefgh").exists()


def test_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    config = configured(tmp_path, subject="P07")
    config = msgspec.structs.replace(config, sinks=msgspec.structs.replace(config.sinks, lsl=LslConfig()))
    report = erase_subject(config, "P07")
    assert not report.erased and not report.left
    places = {it.place for it in report.elsewhere}
    assert {
        "broker broker",
        "readers",
        "LSL",
        "the configuration",
        "the journal",
        "elsewhere",
        "the card or SSD",
    } == places


@pytest.mark.skipif(os.getuid() != 0, reason="only root changes files for others")
def test_what_root_changes_stays_its_owner_s(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    erase_subject(configured(folder), "P07")
    assert {it.stat().st_uid for it in (folder, *folder.rglob("*"))} == {12345}


def written(config: Config, path: Path) -> Path:
    """The configuration as a file."""
    sinks = {name: {k: v for k, v in table.items() if v is not None} for name, table in _tables(config.sinks)}
    text = [f"[radio]\nregistry = {json.dumps(config.radio.registry)}\n"]
    text.append(f"[person]\nprofile = {json.dumps(config.person.profile)}\n")
    text.append(f"[recording]\ndirectory = {json.dumps(config.recording.directory)}\n")
    for name, table in sinks.items():
        text.append(f"[sinks.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    path.write_text("".join(text))
    return path


def _tables(sinks: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(name, table) for name, table in msgspec.to_builtins(sinks).items() if table is not None]


def test_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    config = written(configured(folder), tmp_path / "c.toml")

    def erase(*args: object) -> tuple[int, str, str]:
        return affectd(capsys, monkeypatch, "erase", "--config", config, *args)

    code, out, _ = erase("--subject", "P07", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["dry_run"] and len(json.loads(out)["erased"]) == 9
    with RecordingWriter(folder / "r", STREAMS):
        code, _, err = erase("--subject", "P07", "--yes")
    assert code == 2 and "another affectd records here" in err and err.count("\n") == 1
    code, out, _ = erase("--subject", "P07", "--yes")
    assert code == 0 and "person.json: 1 profile erased\n" in out and "not reached: broker broker" in out
    code, out, _ = erase("--subject", "P07", "--yes")
    assert code == 0 and out.startswith("nothing of P07 is here\n")
    path = min((folder / "r").glob("*"))
    path.write_bytes(path.read_bytes().replace(b'"subject"', b'"sobject"'))
    code, out, _ = erase("--unnamed", "--yes", "--json")
    assert code == 1 and json.loads(out)["left"]
    for wrong in ((), ("--subject", ""), ("--subject", "P07", "--unnamed"), ("--subject", "P07", folder / "r")):
        code, _, err = erase(*wrong)
        assert code == 2 and "name RECORDINGs, or --subject NAME, or --unnamed" in err


def test_a_file_that_is_rewritten_may_be_read_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"1\n2\n3\n")
    with path.open("rb") as file:
        whole_file.rewrite(path, (line for line in file if line != b"2\n"))
    assert path.read_bytes() == b"1\n3\n"
