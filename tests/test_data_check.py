"""``affectd-train data check``: what is found is told right, what is odd is named, what is broken stops no other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from test_e4 import write_folder
from test_stress_predict import write_set

from train.data import datasets
from train.data.check import check_subject, check_subjects, summary, typical_swing
from train.data.command import data
from train.data.datasets import DataSet
from train.data.errors import DataError
from train.data.picture import BINS, USUAL_COLOURS, Palette, draw
from train.data.types import IRREGULAR_RATE, Annotation, Recording, Signal

SECONDS = 120
RNG = np.random.default_rng(0)
BEAT = np.exp(-(((np.arange(0, 1, 1 / 130) - 0.4) / 0.012) ** 2))
"""One beat of 1 mV at 60/min and 130 Hz."""
REST, STRESS = Annotation(0, 60, "baseline"), Annotation(60, 60, "stress")


def ecg(scale: float = 1.0, units: str = "mV", seconds: int = SECONDS) -> Signal:
    return Signal(scale * np.tile(BEAT, seconds)[:, None], 130.0, units, ("ecg",))


def eda(level: float = 2.0, units: str = "uS", sfreq: float = 4.0) -> Signal:
    times = np.arange(SECONDS * int(sfreq)) / sfreq
    return Signal((level + 0.05 * level * np.sin(times / 9))[:, None], sfreq, units, ("eda",))


def recording(subject: str = "S2", session: str = "", **signals: Signal) -> Recording:
    return Recording("made", subject, session or subject, signals or {"ecg": ecg(), "eda": eda()}, (REST, STRESS))


def holed(signal: Signal, *holes: slice) -> Signal:
    values = signal.data.copy()
    for hole in holes:
        values[hole] = np.nan
    return replace(signal, data=values)


def warnings(*recordings: Recording) -> tuple[str, ...]:
    return check_subject("S2", recordings).warnings


def made(recordings: dict[str, list[Recording] | Exception]) -> DataSet:
    """A data set whose reader gives these, or raises them."""

    def load(root: Path, subject: str) -> list[Recording]:
        found = recordings[subject]
        if isinstance(found, Exception):
            raise found
        return found

    return DataSet("made", "Made", "", "none", "https://example.org", lambda _: True, lambda _: list(recordings), load)


def no_look(subject: str, recordings: Sequence[Recording]) -> None:
    return None


def test_signals_are_told_as_they_are() -> None:
    holes = holed(eda(), slice(10, 20), slice(40, 41), slice(470, 480))
    ibi = Signal(np.array([[1.0, 0.8], [1.9, 0.9]]), IRREGULAR_RATE, "s", ("time", "ibi"))
    (found,) = check_subject("S2", [recording(ecg=ecg(), eda=holes, ibi=ibi)]).recordings
    heart, skin, beats = found.signals
    assert (heart.modality, heart.units, heart.sfreq, heart.duration_s) == ("ecg", "mV", 130.0, SECONDS)
    assert (heart.missing, heart.gaps, heart.low, heart.high) == (0, 0, BEAT.min(), BEAT.max())
    assert (skin.missing, skin.gaps, skin.n_times) == (21, 3, 480)
    assert (beats.ch_names, beats.sfreq, beats.low, beats.high) == (("ibi",), 0, 0.8, 0.9)
    assert beats.duration_s == pytest.approx(0.9)
    assert not found.surrogate_ecg


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_gaps_are_the_runs_of_missing_samples(absent: list[bool]) -> None:
    values = np.where(absent, np.nan, 1.0)[:, None]
    (found,) = check_subject("S2", [recording(temp=Signal(values, 4.0, "degC", ("temp",)))]).recordings
    runs = "".join("x" if gone else " " for gone in absent).split()
    assert (found.signals[0].missing, found.signals[0].gaps) == (sum(absent), len(runs))
    assert (found.signals[0].low is None) == all(absent)


def test_labels_are_summed_and_rated() -> None:
    rated = [Annotation(0, 30, "film", {"arousal": 2.0}), Annotation(50, 40, "film", {"arousal": 7.5, "valence": 3.0})]
    whole = replace(recording(), annotations=(*rated, Annotation(95, 0, "press"), STRESS))
    (found,) = check_subject("S2", [whole]).recordings
    film, press, stress = found.labels
    assert (film.count, film.total_s, film.ratings) == (2, 70, {"arousal": (2.0, 7.5), "valence": (3.0, 3.0)})
    assert (press.count, press.total_s) == (1, 0)
    assert (stress.description, stress.total_s) == ("stress", 60)


def test_a_sound_recording_gives_no_warning() -> None:
    assert warnings(recording()) == ()


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ({"ecg": ecg(1000.0), "eda": eda()}, "is it in uV or raw counts?"),
        ({"ecg": ecg(0.001), "eda": eda()}, "is it in V?"),
        ({"ecg": ecg(0.0), "eda": eda()}, "ecg: most of it is flat"),
        ({"ecg": ecg(units="uV"), "eda": eda()}, "ecg: in uV, not mV"),
        ({"ecg": replace(ecg(), sfreq=64.0), "eda": eda()}, "ecg: 64 Hz is too slow for R peaks, which want 100 Hz"),
        ({"ecg": ecg(), "eda": eda(2000.0)}, "is it in nS, kOhm or raw counts?"),
        ({"ecg": ecg(), "eda": eda(2e-6)}, "electrodes without contact, or another unit?"),
        ({"ecg": ecg(), "eda": eda(units="kOhm")}, "eda: in kOhm, not uS"),
        ({"ecg": ecg(), "eda": replace(eda(), sfreq=0.5)}, "eda: 0.5 Hz is too slow"),
        ({"ecg": ecg(), "eda": replace(eda(), data=eda().data - 1.98)}, "of it is negative"),
        ({"ecg": ecg(), "eda": holed(eda(), slice(0, 48))}, "eda: 10% missing"),
        ({"ecg": ecg(), "eda": holed(eda(), slice(None))}, "eda: 100% missing"),
        ({"ecg": ecg(), "eda": replace(eda(), data=np.empty((0, 1)))}, "eda: no samples"),
        ({"ecg": ecg(), "eda": replace(eda(), data=eda().data[:200])}, "eda: runs in only 42% of the labelled time"),
        ({"temp": replace(eda(33.0), units="degC")}, "neither ECG, pulse nor EDA, only temp"),
        ({"ecg": ecg(seconds=100)}, "label 'stress' at 60.0 to 120.0 s lies outside the recording, 0.0 to 100.0 s"),
    ],
)  # fmt: skip
def test_what_is_odd_is_named(signals: dict[str, Signal], said: str) -> None:
    assert any(said in warning for warning in warnings(recording(**signals)))


def test_with_several_sessions_a_warning_names_its_own() -> None:
    found = warnings(recording(session="day 1"), recording(session="day 2", ecg=ecg(0.0), eda=eda()))
    assert found == ("day 2: ecg: most of it is flat",)


def test_nothing_read_is_worth_a_warning() -> None:
    assert warnings() == ("holds no recording",)


@given(st.floats(0.1, 5), st.floats(-50, 50), st.integers(0, 3))
def test_the_swing_withstands_an_offset_and_an_artefact(scale: float, offset: float, artefact: int) -> None:
    values = ecg(scale).data[:, 0] + offset
    values[1300 * artefact + 7] = 1e4
    assert typical_swing(values, 1300) == pytest.approx(scale * (BEAT.max() - BEAT.min()), rel=1e-6)


def test_a_class_that_most_others_have_is_missed() -> None:
    people = {f"S{k}": [recording(f"S{k}")] for k in range(2, 6)}
    people["S6"] = [replace(recording("S6"), annotations=(REST,))]
    people["S5"] = [
        replace(recording("S5"), annotations=(REST, STRESS, Annotation(5, 0, "press"), Annotation(7, 9, "own")))
    ]
    dataset = made(people)
    found = summary(dataset, Path("x"), list(check_subjects(dataset, Path("x"), list(people), no_look)))
    assert {s.subject: s.warnings for s in found.subjects if s.warnings} == {
        "S6": ("no 'stress', which 4 of the 4 others have",)
    }


def test_a_subject_that_fails_stops_no_other() -> None:
    broken = DataError("S3.pkl", "byte 12", "is cut", "get it again")
    people = {
        "S2": [recording()],
        "S3": broken,
        "S4": OSError("no disk"),
        "S5": KeyError("label"),
        "S6": [recording("S6")],
    }
    looked: list[str] = []
    dataset = made(people)
    read = list(check_subjects(dataset, Path("x"), list(people), lambda subject, _: looked.append(subject)))
    assert [s.subject for s in read] == list(people)
    assert looked == ["S2", "S6"]
    assert read[1].problem == "S3.pkl: byte 12: is cut; get it again"
    assert read[2].problem == "no disk"
    assert (
        read[3].problem is not None and "the reader itself failed: KeyError in test_data_check.py:" in read[3].problem
    )
    found = summary(dataset, Path("x"), read)
    assert [s.subject for s in found.failed] == ["S3", "S4", "S5"]
    assert not any(s.warnings for s in found.subjects)


def run(*args: object) -> Result:
    return CliRunner().invoke(data, [*map(str, args)], catch_exceptions=False)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three E4 folders, of which the second is cut."""
    for subject in ("P2", "P3", "P10"):
        write_folder(tmp_path / "set" / subject, seconds=40)
    text = (tmp_path / "set" / "P3" / "EDA.csv").read_text()
    (tmp_path / "set" / "P3" / "EDA.csv").write_text(text[:-3])
    return tmp_path / "set"


def test_the_command_names_the_broken_file_and_goes_on(folders: Path) -> None:
    result = run("check", folders)
    assert result.exit_code == 1
    assert f"cannot be read: P3: {folders}/P3/EDA.csv: line 162: the file ends in the middle of a line" in result.stdout
    assert "2 subjects read, 0 with warnings, 1 cannot be read" in result.stdout
    assert "note: P2, P10: no ECG; training rebuilds a surrogate ECG from the pulse" in result.stdout
    assert result.stdout.index("P2 ") < result.stdout.index("P10")
    assert result.stderr == ""


def test_the_table_holds_each_signal(folders: Path) -> None:
    lines = [line.split() for line in run("check", folders, "--subject", "P2").stdout.splitlines()]
    assert ["P2", "eda", "4", "0:40", "0", "1.59", "uS"] in lines
    assert ["bvp", "64", "0:40", "0", "63", "a.u."] in lines
    assert ["acc", "(3)", "32", "0:40", "-0.5", "1", "g"] in lines
    assert ["P2", "1", "tag", "2", "x"] in lines


def test_json_holds_all_of_it(folders: Path) -> None:
    result = run("check", folders, "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (record["dataset"], record["failed"]) == ("e4", ["P3"])
    first, second, _ = record["subjects"]
    assert (first["subject"], first["problem"], first["picture"]) == ("P2", None, None)
    assert {s["modality"]: s["n_times"] for s in first["recordings"][0]["signals"]}["bvp"] == 64 * 40
    assert first["recordings"][0]["surrogate_ecg"] is True
    assert "EDA.csv: line 162" in second["problem"]


def test_a_labelled_set_that_is_whole(tmp_path: Path) -> None:
    result = run("check", write_set(tmp_path))
    assert result.exit_code == 0
    labels = " ".join(result.stdout.split())
    assert "stroop 1:10" in labels and "interview 2:05" in labels and "hyperventilation 1:04" in labels
    assert "1 subject read, 0 with warnings, 0 cannot be read" in result.stdout


def test_wrong_input_is_a_data_error(folders: Path) -> None:
    with pytest.raises(DataError, match="subject P4: is not there; there are P2, P3, P10"):
        run("check", folders, "--subject", "P4")
    with pytest.raises(DataError, match="does not exist"):
        run("check", folders / "nowhere")
    assert run("check", folders, "--dataset", "swell").exit_code == 2


def test_list_names_every_data_set() -> None:
    result = run("list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in datasets.names())


def test_pictures_of_all_that_could_be_read(folders: Path, tmp_path: Path) -> None:
    result = run("check", folders, "--pictures", tmp_path / "out" / "png", "--json")
    assert sorted(path.name for path in (tmp_path / "out" / "png").iterdir()) == ["P10.png", "P2.png"]
    assert json.loads(result.stdout)["subjects"][0]["picture"] == str(tmp_path / "out" / "png" / "P2.png")


def picture(tmp_path: Path, *recordings: Recording) -> np.ndarray:
    """(rows, columns, 3) of the drawn picture, 0..1."""
    from matplotlib.image import imread

    draw("S2", "Made", recordings, tmp_path / "S2.png", Palette())
    return imread(tmp_path / "S2.png")[:, :, :3]


def share(image: np.ndarray, colour: str) -> float:
    """Share of the pixels that have a colour, #rrggbb."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return float((np.abs(image - wanted).max(axis=2) < 0.01).mean())


def test_labels_are_bands_of_their_colours(tmp_path: Path) -> None:
    image = picture(tmp_path, recording())
    baseline, stress = (share(image, USUAL_COLOURS[name]) for name in ("baseline", "stress"))
    assert baseline > 0.015 and stress > 0.015
    assert share(picture(tmp_path, replace(recording(), annotations=(REST,))), USUAL_COLOURS["stress"]) == 0


def test_missing_samples_are_drawn_as_missing(tmp_path: Path) -> None:
    def grey(image: np.ndarray) -> float:
        flat = image.max(axis=2) - image.min(axis=2) < 0.01
        return float((flat & (image[:, :, 0] > 0.3) & (image[:, :, 0] < 0.9)).mean())

    bare = replace(recording(), annotations=())
    gap = replace(bare, signals={"ecg": ecg(), "eda": holed(eda(), slice(120, 240))})
    # A quarter of the EDA panel, which is about a fifth of the picture, is hatched.
    assert grey(picture(tmp_path, gap)) > grey(picture(tmp_path, bare)) + 0.01


@pytest.mark.parametrize(
    "signals",
    [
        {},
        {"temp": Signal(np.full((480, 1), 33.0), 4.0, "degC", ("temp",))},
        {"ecg": replace(ecg(), data=np.empty((0, 1)))},
        {"ecg": replace(ecg(), data=np.zeros((1, 1)))},
        {"ecg": holed(ecg(), slice(None)), "eda": holed(eda(), slice(None))},
        {"ibi": Signal(np.empty((0, 2)), IRREGULAR_RATE, "s", ("time", "ibi"))},
        {"eeg": Signal(RNG.normal(size=(400, 14)), 128.0, "uV", tuple(f"e{k}" for k in range(14)))},
        {f"other {k}": eda() for k in range(20)},
        {"ecg": replace(ecg(), start=-3.5), "eda": replace(eda(), start=7.0)},
        {"ecg": ecg(seconds=7)},
        {"ecg": Signal(RNG.normal(size=(2 * BINS + 1, 2)), 700.0, "mV", ("I", "II"))},
    ],
)
def test_anything_can_be_drawn(signals: dict[str, Signal], tmp_path: Path) -> None:
    """Warnings are errors here: no empty range, no mean of nothing."""
    draw(
        "S2",
        "Made",
        [Recording("made", "S2", "S2", signals, (REST, Annotation(3, 0, "press")))],
        tmp_path / "a.png",
        Palette(),
    )
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_many_sessions_share_one_axis(tmp_path: Path) -> None:
    sessions = [recording(session=f"film {k}") for k in range(20)]
    many = [replace(rec, annotations=(Annotation(0, SECONDS, rec.session),)) for rec in sessions]
    assert picture(tmp_path, *many).shape[1] == 1430


def test_colours_stay_with_their_labels() -> None:
    palette = Palette()
    first = [palette(name) for name in ("stress", "film 1", "film 2")]
    assert first[0] == USUAL_COLOURS["stress"] and first[1] != first[2]
    assert [palette(name) for name in ("film 2", "film 1", "stress")] == first[::-1]
