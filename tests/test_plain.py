"""The plain layout as docs/DATA.md documents it: its own example, every strict rule, and laws of reading back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from train.data import plain
from train.data.errors import DataError

ECG = np.sin(np.arange(260) / 9)
INFO: dict[str, Any] = {"signals": {"ecg": {"sfreq": 130, "units": "mV"}, "eda": {"sfreq": 4, "units": "uS"}}}


def csv(name: str, values: Any) -> str:
    """One column."""
    return f"{name}\n" + "".join(f"{v}\n" for v in values)


def write(folder: Path, info: Any = INFO, **files: str) -> Path:
    """A whole recording of 2 s, with some files changed (``ecg_csv`` is ecg.csv) or left out (None)."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        "ecg_csv": csv("ecg", ECG.tolist()),
        "eda_csv": csv("eda", [4.0, 4.1, 4.2, 4.3, 4.4, 4.5, 4.6, 4.7]),
        "annotations_tsv": "onset\tduration\tdescription\tarousal\n0\t1\tbaseline\tn/a\n1\t1.0\tstress\t6.5\n",
        "info_json": info if isinstance(info, str) else json.dumps(info, indent=1),
    } | files
    for name, content in made.items():
        if content is not None:
            (folder / name.replace("_", ".")).write_text(content, "utf-8")
    return folder


def test_a_whole_recording(tmp_path: Path) -> None:
    info = INFO | {"start": "2026-05-01T10:00:00+02:00", "licence": "CC0", "source": "two straps", "notes": ["a pilot"]}
    write(tmp_path / "anna", info)
    assert plain.recognise(tmp_path) and plain.subjects(tmp_path) == ["anna"]
    (recording,) = plain.load(tmp_path, "anna")
    assert (recording.dataset, recording.subject, recording.session) == ("plain", "anna", "anna")
    assert {n: (s.sfreq, s.units, s.data.shape) for n, s in recording.signals.items()} == {
        "ecg": (130, "mV", (260, 1)),
        "eda": (4, "uS", (8, 1)),
    }
    assert np.array_equal(recording.signals["ecg"].data[:, 0], ECG)
    assert [(a.onset, a.duration, a.description, dict(a.ratings)) for a in recording.annotations] == [
        (0, 1, "baseline", {}),
        (1, 1, "stress", {"arousal": 6.5}),
    ]
    assert recording.notes == ("a pilot", "licence: CC0", "source: two straps")


def test_sessions_in_natural_order_and_no_annotations(tmp_path: Path) -> None:
    for subject, session in (("p10", "1"), ("p2", "day10"), ("p2", "day2")):
        write(tmp_path / subject / session, annotations_tsv=None)
    assert plain.recognise(tmp_path) and plain.subjects(tmp_path) == ["p2", "p10"]
    recordings = plain.load(tmp_path, "p2")
    assert [r.session for r in recordings] == ["day2", "day10"]
    assert recordings[0].notes == ("no annotations",)


def test_units_are_converted_and_missing_samples_are_gaps(tmp_path: Path) -> None:
    info = {"signals": {"ecg": {"sfreq": 130, "units": "µV", "start": 0.5}, "eda": {"sfreq": 4, "units": "S"}}}
    info["signals"] |= {"temp": {"sfreq": 1, "units": "degC"}}
    ecg = ["n/a", "", "NaN", *(ECG[3:] * 1000).tolist()]
    write(
        tmp_path / "p", info, ecg_csv=csv("lead", ecg), eda_csv=csv("eda", [4e-6] * 8), temp_csv=csv("t", [33.1, 33.2])
    )
    (recording,) = plain.load(tmp_path, "p")
    ecg_signal = recording.signals["ecg"]
    assert (ecg_signal.units, ecg_signal.start, ecg_signal.ch_names) == ("mV", 0.5, ("lead",))
    np.testing.assert_allclose(ecg_signal.data[3:, 0], ECG[3:])
    np.testing.assert_allclose(recording.signals["eda"].data, 4)
    assert recording.signals["temp"].units == "degC"
    assert recording.notes == ("ecg: 3 of 260 samples are NaN, from 0.5 s on",)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.integers(0, 40), min_size=2), start=st.floats(0, 1e6), jitter=st.floats(-0.2, 0.2))
def test_times_put_every_sample_in_its_place_and_gaps_between(
    tmp_path: Path, kept: set[int], start: float, jitter: float
) -> None:
    """Law: reading back the samples that were there gives the whole, with NaN where one was not."""
    rate, ticks = 8.0, np.array(sorted(kept))
    times = start + (ticks + jitter * (ticks != ticks[0])) / rate
    rows = "".join(f"{t!r},{k}\n" for t, k in zip(times.tolist(), ticks, strict=True))
    info = {"signals": {"eda": {"sfreq": rate, "units": "uS"}}}
    write(tmp_path / "p", info, ecg_csv=None, annotations_tsv=None, eda_csv="time,eda\n" + rows)
    (tmp_path / "p" / "ecg.csv").unlink(missing_ok=True)
    signal = plain.load(tmp_path, "p")[0].signals["eda"]
    expected = np.full(ticks[-1] - ticks[0] + 1, np.nan)
    expected[ticks - ticks[0]] = ticks
    assert signal.start == times[0] and signal.ch_names == ("eda",)
    assert np.array_equal(signal.data[:, 0], expected, equal_nan=True)


def test_edf_with_its_own_annotations_and_what_info_adds(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", {"signals": INFO["signals"] | {"ecg": {"sfreq": 130, "units": "mV", "start": 1}}},
                   ecg_csv=None, annotations_tsv=None)  # fmt: skip
    lead = edfio.EdfSignal(ECG * 1000, 130, label="ECG", physical_dimension="uV")
    edfio.Edf([lead], annotations=[edfio.EdfAnnotation(0.5, 1, "stress")]).write(folder / "ecg.edf")
    (recording,) = plain.load(tmp_path, "p")
    np.testing.assert_allclose(recording.signals["ecg"].data[:, 0], ECG, atol=1e-3)
    assert recording.signals["ecg"].start == 1
    assert [(a.onset, a.description) for a in recording.annotations] == [(1.5, "stress")]
    (folder / "annotations.tsv").write_text("onset\tduration\tdescription\n0\t1\trest\n")
    with pytest.raises(DataError, match=r"annotations inside an EDF file: ecg\.edf, annotation 1; keep one"):
        plain.load(tmp_path, "p")
    (folder / "annotations.tsv").unlink()
    write(folder, INFO | {"signals": INFO["signals"] | {"ecg": {"sfreq": 250, "units": "mV"}}}, ecg_csv=None,
          annotations_tsv=None)  # fmt: skip
    with pytest.raises(DataError, match=r"info\.json: signals: ecg is 250 Hz, in ecg\.edf 130 Hz"):
        plain.load(tmp_path, "p")
    (folder / "ecg.edf").rename(folder / "bvp.edf")
    write(folder, {"signals": {"eda": INFO["signals"]["eda"]}}, ecg_csv=None, annotations_tsv=None)
    with pytest.raises(DataError, match="only ecg and eda are read from EDF"):
        plain.load(tmp_path, "p")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ecg_csv": "ecg\n0.1\nabc\n"}, r"ecg\.csv: line 3: 'abc' is not a number"),
        ({"ecg_csv": "ecg\n0.1\n0,2\n"}, r"ecg\.csv: line 3: 2 columns where the header has 1"),
        ({"ecg_csv": "ecg\n0.1\n1_0\n"}, r"ecg\.csv: line 3: '1_0' is not a number"),
        ({"ecg_csv": "ecg\n0.1\n-inf\n"}, r"ecg\.csv: line 3: '-inf' is not a number"),
        ({"ecg_csv": "ecg\n0.1\n0."}, r"ecg\.csv: line 3: the file ends in the middle of a line"),
        ({"ecg_csv": "ecg\n"}, r"ecg\.csv: line 2: ends before the first sample"),
        ({"ecg_csv": ""}, r"ecg\.csv: line 1: the file is empty"),
        ({"ecg_csv": "ecg,ecg\n1,2\n"}, r"ecg\.csv: line 1: column name 'ecg' is given twice"),
        ({"ecg_csv": "ecg,\n1,2\n"}, r"ecg\.csv: line 1: a column has no name"),
        ({"ecg_csv": "time\n1\n"}, r"ecg\.csv: line 1: 'time' is to be the first"),
        (
            {"ecg_csv": "time,ecg\n0,1\n0.0077,1\n0.012,1\n"},
            r"ecg\.csv: line 4: time 0.012 s does not follow at 130 Hz",
        ),
        ({"ecg_csv": "time,ecg\n1,1\n0,1\n"}, r"ecg\.csv: line 3: time 0 s does not follow"),
        ({"ecg_csv": "time,ecg\n0,1\n,1\n"}, r"ecg\.csv: line 3: time nan s does not follow"),
        ({"ecg_csv": "time,ecg\n0,1\n1e12,1\n"}, r"ecg\.csv: line 3: time 1e\+12 s does not follow"),
        ({"ecg_csv": None}, r"ecg\.csv: file: is missing though info.json names it"),
        ({"ecg2_csv": "x\n1\n"}, r"ecg2\.csv: file: is no signal of ecg, eda"),
        ({"bvp_csv": "x\n1\n"}, r"info\.json: signals: says nothing of bvp\.csv"),
        ({"ecg_edf": "x"}, r"ecg\.edf: file: and ecg\.csv say the same"),
        ({"annotations_tsv": "onset,duration,description\n"}, r"annotations\.tsv: line 1: begins with"),
        ({"annotations_tsv": "onset\tduration\tdescription\n1\t2\n"}, r"annotations\.tsv: line 2: 2 columns"),
        (
            {"annotations_tsv": "onset\tduration\tdescription\nx\t2\ty\n"},
            r"annotations\.tsv: line 2: 'x' is not a number",
        ),
        ({"annotations_tsv": "onset\tduration\tdescription\n0\t-1\ty\n"}, r"line 2: duration -1 s is negative"),
        ({"annotations_tsv": "onset\tduration\tdescription\n0\t1\t \n"}, r"line 2: has no description"),
        ({"annotations_tsv": "onset\tduration\tdescription\tx\n0\t1\ta\thigh\n"}, r"line 2: 'high' is not a number"),
        (
            {"annotations_tsv": "onset\tduration\tdescription\n0\t1\ta\n1\t60\tb\n"},
            r"annotations\.tsv: line 3: 'b' at 1 .. 61 s: labels outside the recording \(0 .. 2 s\)",
        ),
        ({"annotations_tsv": "onset\tduration\tdescription\n-5\t1\ta\n"}, r"line 2: 'a' at -5 .. -4 s: labels outside"),
    ],
)
def test_a_broken_file_is_named_with_line_and_remedy(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path / "p", **files)
    with pytest.raises(DataError, match=message) as caught:
        plain.load(tmp_path, "p")
    assert caught.value.remedy and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("{\n'signals': {}}", "line 2: is not JSON"),
        ("{}", r"info\.json: signals: says nothing of ecg\.csv"),
        ("[]", "line 1: Expected `object`"),
        ('{"signals": {"ecg": {"sfreq": NaN, "units": "mV"}}}', "NaN is not JSON"),
        ('{"signals": {}, "signals": {}}', "key 'signals' is given twice"),
        ({"sampling_rate": 130}, "line 2: Object contains unknown field `sampling_rate`"),
        (
            {"signals": {"ecg": {"sfreq": 130, "unit": "mV"}}},
            r"line \d: Object (contains unknown|missing required) field",
        ),
        ({"signals": {"ecg": {"sfreq": 0, "units": "mV"}}}, "line 4: Expected `float` > 0"),
        ({"signals": {"ecg": {"sfreq": "130", "units": "mV"}}}, "line 4: Expected `float`, got `str`"),
        ({"signals": {"ecg": {"sfreq": 130, "units": "counts"}}}, "line 3: ecg in 'counts', known are nV, uV, mV, V"),
        ({"signals": {"heart": {"sfreq": 1, "units": "1"}}}, "line 3: 'heart' is none of ecg, eda"),
        ({"start": "yesterday"}, "line 2: Invalid RFC3339"),
    ],
)
def test_a_broken_info_json_is_named_with_line_and_remedy(tmp_path: Path, info: Any, message: str) -> None:
    write(tmp_path / "p", info)
    with pytest.raises(DataError, match=message) as caught:
        plain.load(tmp_path, "p")
    assert caught.value.path.endswith("info.json") and caught.value.remedy and "\n" not in str(caught.value)


def test_folders_without_info_or_with_two(tmp_path: Path) -> None:
    assert not plain.recognise(tmp_path)
    with pytest.raises(DataError, match=r"holds no SUBJECT/info\.json"):
        plain.subjects(tmp_path)
    with pytest.raises(DataError, match=r"holds no info\.json"):
        plain.load(tmp_path, "p")
    write(tmp_path / "p")
    write(tmp_path / "p" / "1")
    with pytest.raises(DataError, match=r"has info\.json itself and in session 1"):
        plain.load(tmp_path, "p")


def test_the_documented_example_reads(tmp_path: Path) -> None:
    """docs/DATA.md shows each file of one subject; written as shown, they are a recording."""
    text = (Path(__file__).parents[1] / "docs" / "DATA.md").read_text()
    shown = dict(re.findall(r"`anna/([a-z]+\.[a-z]+)`(?:(?!```).)*```[a-z]*\n(.*?)```", text, re.DOTALL))
    assert sorted(shown) == ["annotations.tsv", "ecg.csv", "eda.csv", "info.json"]
    (tmp_path / "anna").mkdir()
    for name, content in shown.items():
        (tmp_path / "anna" / name).write_text(content)
    (recording,) = plain.load(tmp_path, "anna")
    assert sorted(recording.signals) == ["ecg", "eda"]
    assert [a.description for a in recording.annotations] == ["baseline", "stress"]
    assert np.isnan(recording.signals["ecg"].data).sum() > 0
