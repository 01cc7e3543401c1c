"""The E4 reader on small folders in the published layout, whole and broken, and on the real folders where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data import e4
from train.data.errors import DataError

START = 1644227574.0
REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no real E4 folders")


def write_folder(folder: Path, seconds: int = 20) -> Path:
    """A whole folder of ``seconds`` in the published layout."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f"{START:.6f}\n"
    write = lambda name, text: (folder / name).write_text(text)  # noqa: E731
    write("EDA.csv", head + "4.000000\n" + "".join(f"{k / 100:.6f}\n" for k in range(4 * seconds)))
    write("BVP.csv", f"{START:.2f}\n64.000000\n" + "".join(f"{k % 64:.2f}\n" for k in range(64 * seconds)))
    write("TEMP.csv", head + "4.000000\n" + "34.79\n" * 4 * seconds)
    write("HR.csv", f"{START + 10:.6f}\n1.000000\n" + "118.00\n" * (seconds - 10))
    three = ", ".join([f"{START:.6f}"] * 3)
    write("ACC.csv", f"{three}\n32.000000, 32.000000, 32.000000\n" + "64,-32,0\n" * 32 * seconds)
    write("IBI.csv", f"{START:.6f}, IBI\n4.000000,0.687500\n4.937500,0.937500\n")
    write("tags.csv", f"{START + 5:.2f}\n{START + 12:.2f}\n")
    return folder


def test_every_stream_with_its_units_rate_and_start(tmp_path: Path) -> None:
    read = e4.read_folder(write_folder(tmp_path / "S02"))
    assert read.start_utc == START
    assert {name: (s.sfreq, s.units, s.start, s.data.shape) for name, s in read.signals.items()} == {
        "eda": (4.0, "uS", 0.0, (80, 1)),
        "bvp": (64.0, "a.u.", 0.0, (1280, 1)),
        "temp": (4.0, "degC", 0.0, (80, 1)),
        "hr": (1.0, "1/min", 10.0, (10, 1)),
        "acc": (32.0, "g", 0.0, (640, 3)),
        "ibi": (0.0, "s", 0.0, (2, 2)),
    }
    assert read.signals["acc"].data[0].tolist() == [1.0, -0.5, 0.0]
    assert read.signals["ibi"].times().tolist() == [4.0, 4.9375]
    assert read.tags == (5.0, 12.0)


def test_optional_files_may_be_missing_and_tags_may_carry_the_subject(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "S02")
    for name in ("ACC", "HR", "IBI", "TEMP"):
        (folder / f"{name}.csv").unlink()
    (folder / "tags.csv").rename(folder / "tags_S02.csv")
    recording = e4.load(folder)
    assert sorted(recording.signals) == ["bvp", "eda"]
    assert [(a.onset, a.description) for a in recording.annotations] == [(5.0, "tag"), (12.0, "tag")]


@pytest.mark.parametrize(
    ("name", "broken", "place"),
    [
        ("EDA.csv", "", "line 1"),
        ("EDA.csv", f"{START}\n4.0\n", "line 3"),
        ("EDA.csv", f"{START}\n4.0\n0.1\n0.2\n0.", "line 5"),
        ("EDA.csv", f"{START}\n0\n0.1\n", "line 2"),
        ("EDA.csv", f"{START}\n4.0\n0.1\nabc\n", "line 4"),
        ("EDA.csv", f"{START}\n4.0\n0.1\nnan\n", "line 4"),
        ("EDA.csv", f"{START}\n4.0\n0.1\n\n0.2\n", "line 4"),
        ("EDA.csv", f"{START}\n4.0\n0.1,0.2\n", "line 3"),
        ("EDA.csv", "start\n4.0\n0.1\n", "line 1"),
        ("ACC.csv", f"{START}, {START}, {START}\n32, 32, 32\n1,2,3\n1,2\n", "line 4"),
        ("ACC.csv", f"{START}, {START}\n32, 32, 32\n1,2,3\n", "line 1"),
        ("IBI.csv", f"{START}\n4.0,0.8\n", "line 1"),
        ("IBI.csv", f"{START}, IBI\n4.0,0.8\n3.0,0.8\n", "line 3"),
        ("HR.csv", f"{START + 4000}\n1.0\n80\n", "line 1"),
        ("tags.csv", "16442\nabc\n", "line 2"),
    ],
)
def test_a_broken_file_is_named_with_line_and_remedy(tmp_path: Path, name: str, broken: str, place: str) -> None:
    folder = write_folder(tmp_path / "S02")
    (folder / name).write_text(broken)
    with pytest.raises(DataError) as caught:
        e4.read_folder(folder)
    assert (caught.value.path, caught.value.place) == (str(folder / name), place)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_file_cut_at_a_line_end_is_found_by_the_others(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "S02", seconds=60)
    lines = (folder / "BVP.csv").read_text().splitlines(keepends=True)
    (folder / "BVP.csv").write_text("".join(lines[:642]))
    with pytest.raises(DataError, match=r"BVP\.csv: line 642: ends 50 s before"):
        e4.read_folder(folder)


def test_bytes_that_are_no_text_and_an_empty_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "S02")
    (folder / "EDA.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not text"):
        e4.read_folder(folder)
    with pytest.raises(DataError, match="holds no E4 file"):
        e4.read_folder(tmp_path)


@given(
    values=st.lists(st.floats(-1e4, 1e4).map(lambda x: round(x, 6)), min_size=1, max_size=40),
    rate=st.sampled_from([1, 4, 64]),
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, values: list[float], rate: int) -> None:
    folder = tmp_path_factory.mktemp("e4")
    (folder / "EDA.csv").write_text(f"{START}\n{rate}\n" + "".join(f"{v!r}\n" for v in values))
    signal = e4.read_folder(folder).signals["eda"]
    assert signal.data[:, 0].tolist() == values
    assert signal.times().tolist() == (np.arange(len(values)) / rate).tolist()


@needs_reference
def test_real_folders_read_whole() -> None:
    root = Path(str(REFERENCE))
    folders = (
        sorted((root / "stress_predict/Raw_data").glob("S*"))[:3] + sorted((root / "wesad_e4").glob("S*/*E4*"))[:3]
    )
    assert len(folders) == 6
    for folder in folders:
        read = e4.read_folder(folder)
        rows = (folder / "EDA.csv").read_text().count("\n") - 2
        assert sorted(read.signals) == ["acc", "bvp", "eda", "hr", "ibi", "temp"]
        assert read.signals["eda"].data.shape == (rows, 1)
        assert read.signals["hr"].start == 10.0
