"""The WESAD reader on small folders in its three published layouts, whole and broken, and on the real files."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_unpickle import python2

from train.data import _quest, respiban, wesad
from train.data.errors import DataError
from train.data.rr import beats
from train.data.types import Recording

REFERENCE = os.environ.get("AFFECTD_REFERENCE_DATA")
needs_reference = pytest.mark.skipif(REFERENCE is None, reason="AFFECTD_REFERENCE_DATA is not set: no WESAD files")
E4_LEAD_S = 7.5
"""The E4 is switched on this much before the RespiBAN."""
SECONDS = 150
HEADER = {
    "00:07:80:D8:AB:58": {
        "sensor": ["ECG", "EDA", "EMG", "TEMP", "XYZ", "XYZ", "XYZ", "RESPIRATION"],
        "device name": "RespiBan",
        "column": ["nSeq", "DI", "CH1", "CH2", "CH3", "CH4", "CH5", "CH6", "CH7", "CH8"],
        "sync interval": 2,
        "time": "9:39:1.0",
        "comments": "",
        "device connection": "BTH00:07:80:D8:AB:58",
        "channels": [1, 2, 3, 4, 5, 6, 7, 8],
        "date": "2017-5-22",
        "mode": 0,
        "digital IO": [0, 1],
        "firmware version": 770,
        "device": "biosignalsplux",
        "position": 0,
        "sampling rate": 700,
        "label": ["CH1", "CH2", "CH3", "CH4", "CH5", "CH6", "CH7", "CH8"],
        "resolution": [16, 16, 16, 16, 16, 16, 16, 16],
        "special": [{}, {}, {}, {}, {}, {}, {}, {}],
    }
}
"""As in S2_respiban.txt."""
QUEST = (
    "# Subj;S2;;;;;;;;\n"
    "# ORDER;Base;TSST;Medi 1;Fun;Medi 2;sRead;;;\n"
    "# START;0.03;0.35;1.05;1.3;2;1.02;;;\n"
    "# END;0.3;1;1.28;1.57;2.24;1.04;;;\n"
    ";;;;;;;;;\n" + "# PANAS;1;1;3;2;1;3;1;1;1\n" * 5 + ";;;;;;;;;\n"
    "# STAI;3;2;1;4;2;3;;;\n;;;;;;;;;\n"
    "# DIM;7;2;;;;;;;\n# DIM;5;4;;;;;;;\n# DIM;7;2;;;;;;;\n# DIM;8;1;;;;;;;\n# DIM;6;3;;;;;;;\n;;;;;;;;;\n"
    "# SSSQ;5;5;4;4;3;5;;;\n"
)
CONDITIONS = [
    ("baseline", 13.0, 7.0, {"valence": 7.0, "arousal": 2.0}),
    ("stress", 45.0, 5.0, {"valence": 5.0, "arousal": 4.0}),
    ("meditation", 75.0, 3.0, {"valence": 7.0, "arousal": 2.0}),
    ("amusement", 100.0, 7.0, {"valence": 8.0, "arousal": 1.0}),
    ("meditation", 130.0, 4.0, {"valence": 6.0, "arousal": 3.0}),
]
"""What QUEST says, 10 s after each start and 10 s before each end."""


def write_e4(folder: Path, subject: str, lead: float = E4_LEAD_S, seconds: int = SECONDS) -> Path:
    """SX_E4_Data; every sample of EDA and BVP is its time on the RespiBAN, so that a shift shows."""
    start = wesad.RESPIBAN_START_UTC[subject] - lead
    path = folder / f"{subject}_E4_Data"
    path.mkdir(parents=True)
    for name, rate in (("EDA", 4), ("BVP", 64), ("TEMP", 4), ("HR", 1)):
        times = np.arange(rate * (seconds + 5)) / rate - lead
        (path / f"{name}.csv").write_text(f"{start:.6f}\n{rate:.6f}\n" + "".join(f"{t:.6f}\n" for t in times))
    three = ", ".join([f"{start:.6f}"] * 3)
    (path / "ACC.csv").write_text(f"{three}\n32.0, 32.0, 32.0\n" + "64,-32,0\n" * 32 * (seconds + 5))
    (path / "IBI.csv").write_text(f"{start:.6f}, IBI\n4.0,0.75\n{lead + 1},0.8\n{lead + 2},1.0\n")
    (path / "tags.csv").write_text(f"{start + 3:.2f}\n")
    (path / "info.txt").write_text(".csv files in this archive are in the following format:\n")
    return path


def write_respiban(path: Path, counts: np.ndarray, header: object = HEADER) -> Path:
    """SX_respiban.txt with the 8 columns of ``counts``; lines end in a tab as OpenSignals writes them."""
    rows = enumerate(counts.tolist())
    lines = [f"{at}\t0\t" + "\t".join(map(str, row)) + "\t\n" for at, row in rows]
    path.write_text(f"# OpenSignals Text File Format\n# {json.dumps(header)}\n# EndOfHeader\n" + "".join(lines))
    return path


def pickle_content(seconds: int = 20) -> dict:
    """What SX.pkl holds; label as in the release, 10 s within the conditions."""
    rng = np.random.default_rng(0)
    n = 700 * seconds
    label = np.zeros(n, np.int32)
    label[700:3500], label[4200:7700], label[8000:8100], label[8400:9800], label[9900:10600] = 1, 2, 6, 4, 3
    label[11200:12600], label[-70:] = 4, 7
    chest = {name: rng.normal(size=(n, 1)) for name in ("ECG", "EMG", "EDA", "Resp")}
    chest |= {"ACC": rng.normal(size=(n, 3)), "Temp": np.full((n, 1), 34.25, np.float32)}
    wrist = {name: rng.normal(size=(rate * seconds, 1)) for name, rate in (("BVP", 64), ("EDA", 4), ("TEMP", 4))}
    wrist["ACC"] = np.full((32 * seconds, 3), [64.0, -32.0, 0.0])
    return {"signal": {"chest": chest, "wrist": wrist}, "label": label, "subject": "S2"}


def write_pickle(root: Path, content: object, subject: str = "S2") -> Path:
    (root / subject).mkdir(parents=True, exist_ok=True)
    (root / subject / f"{subject}.pkl").write_bytes(pickle.dumps(content, 2))
    return root


def told(recording: Recording) -> list[tuple[str, float, float, dict[str, float]]]:
    """Annotations rounded to a millisecond."""
    return [(a.description, round(a.onset, 3), round(a.duration, 3), dict(a.ratings)) for a in recording.annotations]


@pytest.fixture
def e4_only(tmp_path: Path) -> Path:
    write_e4(tmp_path / "S2", "S2")
    (tmp_path / "S2" / "S2_quest.csv").write_text(QUEST)
    return tmp_path


@pytest.fixture(scope="module")
def raw_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wesad")
    write_e4(root / "S2", "S2")
    (root / "S2" / "S2_quest.csv").write_text(QUEST)
    rng = np.random.default_rng(0)
    write_respiban(root / "S2" / "S2_respiban.txt", rng.integers(20000, 45000, (700 * SECONDS, 8)))
    return root


@pytest.fixture
def raw(raw_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(raw_once, tmp_path / "raw"))


# Which folders are WESAD


def test_subjects_are_found_by_name_and_counted_naturally(e4_only: Path) -> None:
    for name in ("S10", "S3"):
        write_pickle(e4_only, {}, name)
    (e4_only / "S4").mkdir()
    (e4_only / "notes").mkdir()
    assert wesad.recognise(e4_only)
    assert wesad.subjects(e4_only) == ["S2", "S3", "S10"]


def test_a_folder_without_subjects(tmp_path: Path) -> None:
    (tmp_path / "Raw_data" / "S01").mkdir(parents=True)
    assert not wesad.recognise(tmp_path)
    assert not wesad.recognise(tmp_path / "not there")
    with pytest.raises(DataError, match="top folder"):
        wesad.subjects(tmp_path)
    with pytest.raises(DataError, match="holds no data of WESAD"):
        wesad.load(tmp_path, "S2")


# SX_E4_Data alone


def test_e4_only_is_on_the_e4s_time(e4_only: Path) -> None:
    (recording,) = wesad.load(e4_only, "S2")
    assert (recording.dataset, recording.subject, recording.session) == ("wesad", "S2", "S2")
    assert {name: (s.sfreq, s.units, s.start, s.surrogate) for name, s in recording.signals.items()} == {
        "eda": (4.0, "uS", 0.0, False),
        "bvp": (64.0, "a.u.", 0.0, False),
        "ibi": (0.0, "s", 0.0, False),
        "temp": (4.0, "degC", 0.0, False),
        "acc": (32.0, "g", 0.0, False),
    }
    assert told(recording) == [(name, onset + E4_LEAD_S, *rest) for name, onset, *rest in CONDITIONS]
    for note in recording.annotations:  # samples are the time on the RespiBAN, which the questionnaire counts on
        eda = recording.signals["eda"]
        inside = eda.data[(eda.times() >= note.onset) & (eda.times() < note.stop), 0]
        assert inside[0] == pytest.approx(note.onset - E4_LEAD_S, abs=0.25)
    assert recording.notes == ("no chest sensor: no ECG",)


def test_the_zip_as_published_reads_as_the_folder(e4_only: Path) -> None:
    (unpacked,) = wesad.load(e4_only, "S2")
    folder = e4_only / "S2" / "S2_E4_Data"
    with zipfile.ZipFile(e4_only / "S2" / "S2_E4_Data.zip", "w") as packed:
        for path in folder.iterdir():
            packed.write(path, path.name)
    shutil.rmtree(folder)
    (recording,) = wesad.load(e4_only, "S2")
    assert told(recording) == told(unpacked)
    assert all(np.array_equal(s.data, unpacked.signals[name].data) for name, s in recording.signals.items())


def test_errors_inside_a_zip_name_the_zip(e4_only: Path) -> None:
    shutil.rmtree(e4_only / "S2" / "S2_E4_Data")
    path = e4_only / "S2" / "S2_E4_Data.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../EDA.csv", "1495437325.0\n4.0\n0.1\nabc\n")
    with pytest.raises(DataError) as error:
        wesad.load(e4_only, "S2")
    assert (error.value.path, error.value.place) == (str(path / "EDA.csv"), "line 4")
    assert not (e4_only / "S2" / "EDA.csv").exists()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot be unpacked") as error:
        wesad.load(e4_only, "S2")
    assert error.value.path == str(path)


def test_what_is_not_known_is_noted(e4_only: Path) -> None:
    (e4_only / "S2" / "S2_quest.csv").rename(e4_only / "S2_quest.csv")
    (recording,) = wesad.load(e4_only, "S2")
    assert recording.annotations == ()
    assert any("S2_quest.csv is missing" in note for note in recording.notes)
    own = e4_only / "S99"
    shutil.copytree(e4_only / "S2" / "S2_E4_Data", own / "S99_E4_Data")
    shutil.copy(e4_only / "S2_quest.csv", own / "S99_quest.csv")
    (recording,) = wesad.load(e4_only, "S99")
    assert recording.annotations == ()
    assert any("none of the published subjects" in note for note in recording.notes)


def test_an_e4_folder_of_another_subject(tmp_path: Path) -> None:
    write_e4(tmp_path / "S3", "S3")
    write_e4(tmp_path / "S2", "S2")
    shutil.rmtree(tmp_path / "S2" / "S2_E4_Data")
    (tmp_path / "S3" / "S3_E4_Data").rename(tmp_path / "S2" / "S2_E4_Data")
    with pytest.raises(DataError, match="another session than S2's"):
        wesad.load(tmp_path, "S2")


def test_conditions_outside_the_recording(e4_only: Path) -> None:
    path = e4_only / "S2" / "S2_quest.csv"
    path.write_text(QUEST.replace("2.24", "99.1"))
    with pytest.raises(DataError, match="labels outside the recording") as error:
        wesad.load(e4_only, "S2")
    assert error.value.path == str(path)


def test_a_wrist_without_eda_or_pulse(e4_only: Path) -> None:
    (e4_only / "S2" / "S2_E4_Data" / "EDA.csv").unlink()
    with pytest.raises(DataError, match=r"EDA\.csv: file: is missing"):
        wesad.load(e4_only, "S2")


# SX_quest.csv


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("# ORDER;Base", "# Ordre;Base", "line 20"),
        ("TSST", "Stroop", "line 2"),
        ("0.35", "0.75", "line 3, column 3"),
        ("0.35", "soon", "line 3, column 3"),
        ("0.35", "", "line 3, column 3"),
        ("1.57", "1.4", "line 4, column 5"),
        ("# DIM;8;1", "# DIM;80;1", "line 17"),
        ("# DIM;8;1", "# DIM;high;1", "line 17"),
        ("# DIM;8;1;;;;;;;\n", "", "line 17"),
    ],
)
def test_a_broken_questionnaire_is_named_by_line(tmp_path: Path, old: str, new: str, place: str) -> None:
    path = tmp_path / "S2_quest.csv"
    path.write_text(QUEST.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        _quest.read(path)
    assert (error.value.path, error.value.place) == (str(path), place)
    assert error.value.remedy


def test_minutes_and_seconds_are_no_decimals(tmp_path: Path) -> None:
    path = tmp_path / "S2_quest.csv"
    path.write_text(QUEST.replace("# DIM", "# MAD").replace("0.03", "0").replace("2.24", "10.08"))
    conditions = _quest.read(path)
    assert (conditions[0].onset, conditions[-1].stop) == (10.0, 608.0 - 10.0)
    assert conditions[0].ratings == {}


# SX_respiban.txt


def test_counts_become_units_by_the_readmes_formulas(tmp_path: Path) -> None:
    counts = np.array([[32768, 32768, 0, 32768, 28000, 33000, 38000, 65535], [65535, 0, 65535, 65535, 0, 0, 0, 0]])
    read = respiban.read(write_respiban(tmp_path / "S2_respiban.txt", counts))
    assert {name: (s.units, s.ch_names) for name, s in read.signals.items()} == {
        "ecg": ("mV", ("ecg",)),
        "eda": ("uS", ("eda",)),
        "emg": ("mV", ("emg",)),
        "temp": ("degC", ("temp",)),
        "acc": ("g", ("acc_x", "acc_y", "acc_z")),
        "resp": ("%", ("resp",)),
    }
    value = {name: signal.data for name, signal in read.signals.items()}
    assert value["ecg"][:, 0].tolist() == pytest.approx([0.0, 1.5], abs=1e-4)
    assert value["eda"][:, 0].tolist() == pytest.approx([12.5, 0.0])
    assert value["emg"][:, 0].tolist() == pytest.approx([-1.5, 1.5], abs=1e-4)
    # At half the supply the thermistor has its 10 kOhm of 25 degC; at all of it, it is not connected.
    assert value["temp"][0, 0] == pytest.approx(25.0, abs=0.05)
    assert np.isnan(value["temp"][1, 0])
    assert value["acc"][0].tolist() == [-1.0, 0.0, 1.0]
    assert value["resp"][:, 0].tolist() == pytest.approx([50.0, -50.0], abs=1e-2)
    assert read.sfreq == 700.0
    assert str(read.started) == "2017-05-22 09:39:01"


def rewritten(change: Callable[[dict], object]) -> Callable[[str], str]:
    """Edits the header's one device."""

    def edit(text: str) -> str:
        lines = text.split("\n")
        header = json.loads(lines[1][2:])
        change(next(iter(header.values())))
        return "\n".join([lines[0], f"# {json.dumps(header)}", *lines[2:]])

    return edit


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda text: text[:-3], "line 6"),
        (lambda text: text[: text.index("# End")], "line 2"),
        (lambda text: text[: text.index("0\t0")], "line 4"),
        (lambda text: text.replace("1\t0\t", "1\t", 1), "line 5"),
        (lambda text: text.replace("2\t0\t4", "2\t0\t-4", 1), "line 6"),
        (lambda text: text.replace("2\t0\t4", "2\t0\t70000\t4", 1), "line 6"),
        (lambda text: text.replace("2\t0\t44", "2\t0\t440044", 1), "line 6"),
        (lambda text: text.replace("2\t0\t44", "2\t0\tnan", 1), "line 6"),
        (lambda text: text.replace("# Open", "# Closed"), "line 1"),
        (lambda text: "", "line 1"),
        (lambda text: text.replace('{"00', '{00"'), "line 2"),
        (rewritten(lambda device: device.update({"sampling rate": "fast"})), "line 2, 'sampling rate'"),
        (rewritten(lambda device: device.update({"resolution": [12] * 8})), "line 2, 'resolution'"),
        (rewritten(lambda device: device["sensor"].__setitem__(0, "ECG2")), "line 2, 'sensor'"),
        (rewritten(lambda device: device["sensor"].__setitem__(0, "EDA")), "line 2, 'sensor'"),
        (rewritten(lambda device: device.pop("sensor")), "line 2, 'sensor'"),
    ],
)
def test_a_broken_respiban_file_is_named_by_line(tmp_path: Path, edit: Callable[[str], str], place: str) -> None:
    path = write_respiban(tmp_path / "S2_respiban.txt", np.full((3, 8), 44444))
    path.write_text(edit(path.read_text()))
    with pytest.raises(DataError) as error:
        respiban.read(path)
    assert (error.value.path, error.value.place) == (str(path), place)
    assert error.value.remedy


def test_line_numbers_that_jump_are_noted(tmp_path: Path) -> None:
    path = write_respiban(tmp_path / "S2_respiban.txt", np.full((5, 8), 30000))
    path.write_text(path.read_text().replace("\n3\t0", "\n9\t0"))
    assert respiban.read(path).notes == (
        "chest: line numbers jump 2 times, first at line 7; samples are taken as even",
    )


# SX_respiban.txt with SX_E4_Data


def test_raw_is_on_the_respibans_time(raw: Path) -> None:
    (recording,) = wesad.load(raw, "S2")
    assert told(recording) == CONDITIONS
    signals = recording.signals
    assert {name: s.sfreq for name, s in signals.items()} == {
        **dict.fromkeys(("ecg", "eda_chest", "emg", "temp_chest", "acc_chest", "resp"), 700.0),
        **{"eda": 4.0, "bvp": 64.0, "ibi": 0.0, "temp": 4.0, "acc": 32.0},
    }
    assert signals["ecg"].duration == SECONDS
    for name in ("eda", "bvp"):  # each sample of the wrist is its own time on the RespiBAN
        assert 0 <= signals[name].start < 1 / signals[name].sfreq
        assert signals[name].data[:, 0] == pytest.approx(signals[name].times(), abs=1e-3)
    assert signals["ibi"].times().tolist() == pytest.approx([1.0, 2.0], abs=1e-3)
    assert recording.notes == ()


def test_raw_without_wrist_or_of_nobody_published(raw: Path) -> None:
    shutil.copytree(raw / "S2", raw / "S99")
    for path in (raw / "S99").iterdir():
        path.rename(path.with_name(path.name.replace("S2", "S99")))
    shutil.rmtree(raw / "S2" / "S2_E4_Data")
    for subject, note in (("S2", "no wrist sensor"), ("S99", "when its E4 began is not known")):
        (recording,) = wesad.load(raw, subject)
        assert "eda" not in recording.signals
        assert any(note in told for told in recording.notes)
        assert told(recording) == CONDITIONS


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        (lambda device: device.update({"sampling rate": 350}), "line 2, 'sampling rate'", "350 Hz where WESAD has 700"),
        (lambda device: device.update({"date": "2017-5-24"}), "line 2, 'time'", "from the published session of S2"),
    ],
)
def test_a_chest_at_another_rate_or_of_another_day(
    raw: Path, change: Callable[[dict], object], place: str, reason: str
) -> None:
    path = raw / "S2" / "S2_respiban.txt"
    path.write_text(rewritten(change)(path.read_text()))
    with pytest.raises(DataError, match=reason) as error:
        wesad.load(raw, "S2")
    assert (error.value.path, error.value.place) == (str(path), place)


def test_a_chest_that_lacks_a_sensor(raw: Path) -> None:
    header = json.loads(json.dumps(HEADER))
    device = next(iter(header.values()))
    device["sensor"] = ["EDA", "EMG"]
    path = write_respiban(raw / "S2" / "S2_respiban.txt", np.full((3, 2), 30000), header)
    with pytest.raises(DataError, match="lacks ECG, TEMP, XYZ, RESPIRATION") as error:
        wesad.load(raw, "S2")
    assert error.value.path == str(path)


# SX.pkl


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_python_2_pickle(tmp_path: Path, protocol: int) -> None:
    content = pickle_content()
    write_pickle(tmp_path, {}).joinpath("S2", "S2.pkl").write_bytes(python2(content, protocol))
    (tmp_path / "S2" / "S2_quest.csv").write_text(QUEST)
    write_e4(tmp_path / "S2", "S2")
    (recording,) = wesad.load(tmp_path, "S2")
    assert told(recording) == [
        ("baseline", 1.0, 4.0, {"valence": 7.0, "arousal": 2.0}),
        ("stress", 6.0, 5.0, {"valence": 5.0, "arousal": 4.0}),
        ("meditation", 12.0, 2.0, {"valence": 7.0, "arousal": 2.0}),
        ("amusement", 14.143, 1.0, {"valence": 8.0, "arousal": 1.0}),
        ("meditation", 16.0, 2.0, {"valence": 6.0, "arousal": 3.0}),
    ]
    assert {name: (s.sfreq, s.units, s.data.shape) for name, s in recording.signals.items()} == {
        "acc_chest": (700.0, "g", (14000, 3)),
        "ecg": (700.0, "mV", (14000, 1)),
        "emg": (700.0, "mV", (14000, 1)),
        "eda_chest": (700.0, "uS", (14000, 1)),
        "temp_chest": (700.0, "degC", (14000, 1)),
        "resp": (700.0, "%", (14000, 1)),
        "acc": (32.0, "g", (640, 3)),
        "bvp": (64.0, "a.u.", (1280, 1)),
        "eda": (4.0, "uS", (80, 1)),
        "temp": (4.0, "degC", (80, 1)),
    }
    assert np.array_equal(recording.signals["eda"].data, content["signal"]["wrist"]["EDA"])
    assert np.array_equal(recording.signals["ecg"].data, content["signal"]["chest"]["ECG"])
    assert recording.signals["acc"].data[0].tolist() == [1.0, -0.5, 0.0]
    assert all(type(signal.data) is np.ndarray for signal in recording.signals.values())
    assert recording.notes == ()


def test_a_missing_device_gaps_and_other_conditions_are_noted(tmp_path: Path) -> None:
    content = pickle_content()
    del content["signal"]["wrist"]
    content["signal"]["chest"]["ECG"][7000:7010] = np.nan
    content["signal"]["chest"]["TEMP"] = content["signal"]["chest"].pop("Temp")
    content["label"][8400:] = 0
    write_pickle(tmp_path, content)
    (tmp_path / "S2" / "S2_quest.csv").write_text(QUEST)
    (recording,) = wesad.load(tmp_path, "S2")
    assert sorted(recording.signals) == ["acc_chest", "ecg", "eda_chest", "emg", "resp", "temp_chest"]
    assert [(a.description, a.ratings) for a in recording.annotations] == [("baseline", {}), ("stress", {})]
    assert recording.notes == (
        "no wrist sensor in the file",
        "quest.csv has other conditions than the labels: no ratings",
        "ecg: 10 of 14000 samples are NaN, from 10.0 s on",
    )


def at(*keys: str, to: object = None) -> Callable[[dict], None]:
    """Replaces, or with None removes, what lies at ``keys``."""

    def change(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        if to is None:
            del content[keys[-1]]
        else:
            content[keys[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "place", "reason"),
    [
        (at("signal"), "'signal'", "no dictionary"),
        (at("signal", to={}), "'signal'", "holds nothing"),
        (at("signal", "ankle", to={}), "'signal'", "ankle"),
        (at("signal", "chest", "ECG"), "'signal', 'chest'", "lacks ECG"),
        (at("signal", "chest", "ECG-1", to=1), "'signal', 'chest'", "has ECG-1"),
        (at("signal", "chest", "ECG", to="flat"), "'signal', 'chest', 'ECG'", "no array of numbers but str"),
        (at("signal", "chest", "ECG", to=[[1.0], [1.0, 2.0]]), "'signal', 'chest', 'ECG'", "but list"),
        (at("signal", "chest", "ECG", to=np.array(["a"])), "'signal', 'chest', 'ECG'", "but <U1"),
        (at("signal", "chest", "ECG", to=np.zeros((14000, 2))), "'signal', 'chest', 'ECG'", "shape"),
        (at("signal", "chest", "ECG", to=np.zeros((7000, 1))), "'signal', 'chest', 'ECG'", "at 700 Hz there would be"),
        (at("signal", "wrist", "EDA", to=np.zeros((640, 1))), "'signal', 'wrist', 'EDA'", "at 4 Hz there would be 80"),
        (at("signal", "chest", "ECG", to=np.full((14000, 1), np.inf)), "ecg, sample 0", "infinite"),
        (at("label"), "'label'", "no array of numbers but NoneType"),
        (at("label", to=np.zeros((14000, 2), int)), "'label'", "shape"),
        (at("label", to=np.full(14000, 8)), "'label', sample 0", "8 is not 0 to 7"),
        (at("label", to=np.full(14000, 0.5)), "'label', sample 0", "0.5 is not 0 to 7"),
        (at("label", to=np.zeros(14100, int)), "'label'", "labels outside the recording"),
        (at("subject", to="S3"), "'subject'", "'S3', not 'S2'"),
    ],
)
def test_a_pickle_that_is_not_the_published_one(
    tmp_path: Path, change: Callable[[dict], None], place: str, reason: str
) -> None:
    content = pickle_content()
    change(content)
    with pytest.raises(DataError, match=reason) as error:
        wesad.load(write_pickle(tmp_path, content), "S2")
    assert error.value.place == place
    assert error.value.path.startswith(str(tmp_path / "S2"))
    assert error.value.remedy


def test_a_malicious_pickle_stops_its_subject_only(e4_only: Path) -> None:
    write_pickle(e4_only, {}, "S3").joinpath("S3", "S3.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(DataError, match=r"S3\.pkl: pickle: asks for os.system"):
        wesad.load(e4_only, "S3")
    assert wesad.load(e4_only, "S2")


# The real files


@needs_reference
def test_the_real_pickle(tmp_path: Path) -> None:
    """53 s of S16's chest; the stretch is one of reading, label 7."""
    assert REFERENCE is not None
    (tmp_path / "S16").mkdir()
    (tmp_path / "S16" / "S16.pkl").symlink_to(Path(REFERENCE, "wesad_s16_53s", "S16_git.pkl"))
    (recording,) = wesad.load(tmp_path, "S16")
    assert recording.signals["ecg"].duration == 53.0
    assert np.ptp(recording.signals["ecg"].data) == pytest.approx(1.9427, abs=1e-3)
    assert np.linalg.norm(recording.signals["acc_chest"].data, axis=1).mean() == pytest.approx(0.9, abs=0.1)
    assert recording.annotations == ()
    assert recording.notes == ("no wrist sensor in the file", "no labelled condition")


@needs_reference
def test_the_real_wrists_agree_with_windows_published_from_the_pickles() -> None:
    """labels_aligned.csv: windows of a multiple of 2.5 s, matched to the E4 folders by their published means.

    A baseline's first window starts where its label does; other edges lie within a window's step of their label's.
    """
    assert REFERENCE is not None
    root = Path(REFERENCE, "wesad_e4")
    with (root / "labels_aligned.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert wesad.subjects(root) == list(wesad.RESPIBAN_START_UTC)
    for subject in ("S2", "S8", "S14", "S17"):
        (recording,) = wesad.load(root, subject)
        mine = [row for row in rows if row["subject"] == subject]
        assert [a.description for a in recording.annotations] == [row["name"] for row in mine]
        for note, row in zip(recording.annotations, mine, strict=True):
            assert note.onset == pytest.approx(float(row["e4_start_s"]), abs=2.5)
            assert note.stop == pytest.approx(float(row["e4_end_s"]), abs=3.1)
        assert recording.annotations[0].onset == pytest.approx(float(mine[0]["e4_start_s"]), abs=1 / 32)


@needs_reference
def test_every_published_start_agrees_with_those_windows() -> None:
    assert REFERENCE is not None
    root = Path(REFERENCE, "wesad_e4")
    with (root / "labels_aligned.csv").open() as file:
        baselines = [row for row in csv.DictReader(file) if row["name"] == "baseline"]
    assert len(baselines) == 15
    for row in baselines:
        label = wesad.RESPIBAN_START_UTC[row["subject"]] + float(row["schedule_start_s"]) + _quest.MARGIN_S
        assert label == pytest.approx(float(row["e4_unix_start"]) + float(row["e4_start_s"]), abs=1 / 32)


@needs_reference
def test_a_real_wrist_has_a_pulse_to_rebuild_an_ecg_from() -> None:
    assert REFERENCE is not None
    (recording,) = wesad.load(Path(REFERENCE, "wesad_e4"), "S2")
    rate = 60 / np.median(beats(recording).rr)
    assert 50 < rate < 100
