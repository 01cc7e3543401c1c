"""The RECOLA reader on small files in the published layout (nobody here has the data), whole and broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from train.data import recola
from train.data.errors import DataError

SECONDS = 3


def write(
    root: Path,
    subject: str = "P16",
    seconds: int = SECONDS,
    rated: tuple[str, ...] = recola.DIMENSIONS,
    eda: np.ndarray | None = None,
) -> None:
    """Biosignals and ratings of one person, names with their trailing blanks."""
    times = np.arange(seconds * 1000) / 1000
    eda = 4 + 0.1 * times if eda is None else eda
    rows = [f"{t:.3f};{np.sin(6 * t):.6f};{x:.6f}\n" for t, x in zip(times, eda, strict=True)]
    folder = root / recola.SIGNALS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{subject}.csv").write_text("time;ECG ;EDA \n" + "".join(rows))
    for dimension in rated:
        folder = root / recola.RATINGS / dimension
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{k / 25:.2f};" + ";".join(f"{r / 10 - 0.3:.2f}" for r in range(6)) + "\n" for k in range(25 * seconds + 1)
        ]
        (folder / f"{subject}.csv").write_text("time;FM1 ;FM2 ;FM3 ;FF1 ;FF2 ;FF3\n" + "".join(rows))


def edit(path: Path, line: int, text: str) -> None:
    """Replace one line."""
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


def test_signals_and_the_six_raters(tmp_path: Path) -> None:
    write(tmp_path)
    (recording,) = recola.load(tmp_path, "P16")
    assert {n: (s.sfreq, s.units, s.data.shape, s.start) for n, s in recording.signals.items()} == {
        "ecg": (1000.0, "mV", (3000, 1), 0.0),
        "eda": (1000.0, "uS", (3000, 1), 0.0),
        "arousal": (25.0, "1", (76, 6), 0.0),
        "valence": (25.0, "1", (76, 6), 0.0),
    }
    assert recording.signals["valence"].ch_names == ("FM1", "FM2", "FM3", "FF1", "FF2", "FF3")
    np.testing.assert_allclose(recording.signals["arousal"].data[7], np.arange(6) / 10 - 0.3)
    np.testing.assert_allclose(recording.signals["ecg"].data[:, 0], np.sin(6 * np.arange(3000) / 1000), atol=1e-6)
    np.testing.assert_allclose(recording.signals["eda"].data[-1, 0], 4.2999)


def test_missing_ratings_columns_and_samples_are_told(tmp_path: Path) -> None:
    write(tmp_path, "P9", rated=("arousal",))
    write(tmp_path, "P16")
    assert recola.recognise(tmp_path) and recola.subjects(tmp_path) == ["P9", "P16"]
    path = tmp_path / recola.SIGNALS / "P9.csv"
    path.write_text(path.read_text().replace("EDA ", "RES "))
    edit(path, 502, "0.500; ;4.0")
    (recording,) = recola.load(tmp_path, "P9")
    assert sorted(recording.signals) == ["arousal", "ecg"]
    assert {"valence: no ratings of this person", "eda: no column EDA"} <= set(recording.notes)
    assert "ecg: 1 of 3000 samples are NaN, from 0.5 s on" in recording.notes


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (recola.SIGNALS, 1, "t;ECG ;EDA ", "line 1: first column is 't'"),
        (recola.SIGNALS, 1, "time;a;b", "line 1: neither ECG nor EDA"),
        (recola.SIGNALS, 1, "time;ECG ;ECG", "line 1: column name 'ECG' is given twice"),
        (recola.SIGNALS, 100, "0.098;1,5;4", r"line 100: '1,5' is not a number \(decimal comma\?\)"),
        (recola.SIGNALS, 100, "0.098;1.5", "line 100: 2 columns where the header has 3"),
        (recola.SIGNALS, 100, "0.098;inf;4", "line 100: 'inf' is not a number"),
        (recola.SIGNALS, 100, ";1.5;4", "line 100: has no time"),
        (recola.SIGNALS, 100, "7.5;1.5;4", "line 100: time jumps from 0.097 to 7.5 s"),
        (recola.RATINGS / "arousal", 1, "time;FM1;FM2;FM3;FF1;FF2;X", "line 1: no column of rater FF3"),
        (recola.RATINGS / "valence", 9, "0.28;0;0;0;0;0;1.5", "line 9: a rating is outside -1 .. 1"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, file: Path, line: int, text: str, message: str) -> None:
    write(tmp_path)
    path = tmp_path / file / "P16.csv"
    edit(path, line, text)
    with pytest.raises(DataError, match=message) as caught:
        recola.load(tmp_path, "P16")
    assert caught.value.path == str(path) and caught.value.remedy


def test_a_wrong_rate_and_labels_outside_the_recording(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / recola.SIGNALS / "P16.csv"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:1] + whole[1::4]))
    with pytest.raises(DataError, match="column time: runs at 250 Hz, published is 1000 Hz"):
        recola.load(tmp_path, "P16")
    path.write_text("".join(whole[:1501]))
    with pytest.raises(
        DataError, match=r"arousal.P16\.csv: line 65: 2.52 s: labels outside the recording \(0 .. 1.5 s\)"
    ):
        recola.load(tmp_path, "P16")


def test_files_that_are_cut_missing_or_empty(tmp_path: Path) -> None:
    assert not recola.recognise(tmp_path)
    with pytest.raises(DataError, match="point to the data set's top folder"):
        recola.subjects(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        recola.load(tmp_path, "P16")
    write(tmp_path)
    path = tmp_path / recola.SIGNALS / "P16.csv"
    for content, message in (
        (path.read_text()[:-3], "middle of a line"),
        ("", "is empty"),
        ("time;ECG\n", "before the first"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            recola.load(tmp_path, "P16")
    path.write_bytes(b"\xff\xfe\x00\x00")
    with pytest.raises(DataError, match="is not text"):
        recola.load(tmp_path, "P16")
