"""Windows for training: the device's own, from the cache where nothing has changed; a bad subject stops no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_support import reference_data

from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import SignalSpec, default_spec
from device.pipeline.types import Chunk, Clock, Window
from train.data import stress_predict, wesad
from train.data.surrogate import with_surrogate_ecg
from train.data.templates import default_templates
from train.data.types import Annotation, Recording, Signal
from train.errors import DataError, PrepareError
from train.prepare import (
    KEEP_EVERY,
    MAX_BRIDGED,
    MEMORY_BYTES,
    SURROGATE_SEED,
    Prepared,
    _Job,
    _key,
    _side_by_side,
    bridged_share,
    files_of,
    load_prepared,
    prepare,
    prepare_dataset,
    save_prepared,
    windows_of,
)
from train.tasks import UNLABELLED, task_of
from train.windows import roles

SPEC = default_spec()
REST_S, TASK_S, LAST_S = 240.0, 120.0, 101.0  # an end that only a flush brings a window to
WHOLE_S = REST_S + TASK_S + LAST_S


def made_ecg(n_s: float, sfreq: float = 130.0, bpm: float = 72.0) -> Signal:
    """Narrow bumps at a steady rate with a little noise, mV."""
    t = np.arange(int(n_s * sfreq)) / sfreq
    phase = (t * bpm / 60) % 1
    ecg = np.exp(-(((phase - 0.5) / 0.02) ** 2)) + 0.15 * np.exp(-(((phase - 0.8) / 0.05) ** 2))
    ecg += np.random.default_rng(0).normal(0, 0.01, len(t))
    return Signal(ecg[:, None], sfreq, "mV", ("ecg",))


def made_eda(n_s: float, sfreq: float = 4.0) -> Signal:
    """A slow wave around 3 uS with small responses, led by the zero an E4 sends first."""
    t = np.arange(int(n_s * sfreq)) / sfreq
    eda = 3 + 0.5 * np.sin(t / 90) + 0.1 * np.exp(-(t % 20) / 4) * (t % 20)
    eda[0] = 0.0
    return Signal(eda[:, None], sfreq, "uS", ("eda",))


def made(signals: dict[str, Signal] | None = None) -> Recording:
    both = {"ecg": made_ecg(WHOLE_S), "eda": made_eda(WHOLE_S)} if signals is None else signals
    phases = (
        Annotation(0.0, REST_S, "baseline"),
        Annotation(REST_S, TASK_S, "stroop"),
        Annotation(REST_S + TASK_S, LAST_S, "relax"),
    )
    return Recording("made", "P01", "1", both, phases)


@pytest.fixture(scope="module")
def ours() -> list[Window]:
    return list(windows_of(made(), SPEC))


@pytest.fixture(scope="module")
def person() -> Prepared:
    return prepare(made(), SPEC)


def test_windows_are_the_devices_own(ours: list[Window]) -> None:
    """Fed by hand in other slices, the device's pipeline gives the same bits."""
    recording = made()
    pipeline = Pipeline(SPEC, {"ecg": 130.0, "eda": 4.0})
    found = []
    for second in range(0, int(WHOLE_S), 5):
        for modality, signal in recording.signals.items():
            low, high = int(second * signal.sfreq), int((second + 5) * signal.sfreq)
            low = max(low, 1) if modality == "eda" else low  # the E4's first zero is no measurement
            start = 1 / signal.sfreq if modality == "eda" else 0.0
            first = low - 1 if modality == "eda" else low
            data = signal.data[low:high]
            clock = Clock(0, start, 1 / signal.sfreq)
            found += pipeline.push(Chunk(modality, first, data, np.ones(len(data), bool), clock))
    found += pipeline.flush()
    assert len(ours) == len(found) > 40
    assert all(same(a, b) for a, b in zip(ours, found, strict=True))


def same(a: Window, b: Window) -> bool:
    return (
        (a.index, a.start, a.quality) == (b.index, b.start, b.quality)
        and a.data.keys() == b.data.keys()
        and all(np.array_equal(a.data[m], b.data[m]) for m in a.data)
    )


def test_prepared_windows_are_every_third_of_the_devices(person: Prepared, ours: list[Window]) -> None:
    kept = [w for w in ours if w.data and w.index % KEEP_EVERY == 0]
    assert person.start.tolist() == [w.start for w in kept]
    assert (np.round(person.start / SPEC.stride_s) % KEEP_EVERY == 0).all()
    assert np.array_equal(person.ecg[5], kept[5].data["ecg"].astype(np.float32))
    assert np.array_equal(person.eda[5], kept[5].data["eda"].astype(np.float32))


def test_a_missing_modality_is_absent_and_zero() -> None:
    signals = dict(made().signals)
    short = replace(signals["eda"], data=signals["eda"].data[: 160 * 4])
    person = prepare(made({**signals, "eda": short}), SPEC)
    late = person.start > 160
    assert person.present[late, 0].all()
    assert not person.present[late, 1].any()
    assert not person.eda[late].any()
    assert person.present[~late].any(axis=0).all()


def test_a_recording_without_signals_or_too_short_is_refused() -> None:
    with pytest.raises(PrepareError, match="P01"):
        list(windows_of(made({}), SPEC))
    with pytest.raises(PrepareError, match="no window of 60 s"):
        prepare(made({"ecg": made_ecg(30.0)}), SPEC)


def test_missing_samples_are_a_gap(ours: list[Window]) -> None:
    """NaN in a signal: no window spans it, and the others hold what they held."""
    ecg = made_ecg(WHOLE_S)
    ecg.data[int(200 * 130.0) : int(201 * 130.0)] = np.nan
    found = {w.index: w for w in windows_of(made({**made().signals, "ecg": ecg}), SPEC)}
    before = [w for w in ours if w.start + SPEC.window_s <= 195.0]
    assert len(before) > 10
    assert all(same(w, found[w.index]) for w in before)
    over = [w for w in found.values() if w.start < 201.0 and w.start + SPEC.window_s > 200.0]
    assert over
    assert all("ecg" not in w.data and "eda" in w.data for w in over)


def test_annotations_come_along(person: Prepared) -> None:
    assert person.annotations() == list(made().annotations)
    assert (person.subject, person.session, person.surrogate) == ("P01", "1", False)


def test_a_window_of_poor_quality_is_there_but_not_covered() -> None:
    ecg = made_ecg(200.0)
    ecg.data[100 * 130 : 130 * 130, 0] += np.random.default_rng(1).normal(0, 5.0, 30 * 130)
    noisy = made({"ecg": ecg, "eda": made_eda(200.0)})
    kept = [w for w in windows_of(noisy, SPEC) if w.data and w.index % KEEP_EVERY == 0]
    good = [[m in w.data and w.quality[m].sqi >= SPEC.sqi_min for m in ("ecg", "eda")] for w in kept]
    person = prepare(noisy, SPEC)
    assert person.covered.tolist() == good
    poor = [i for i, w in enumerate(kept) if "ecg" in w.data and not good[i][0]]
    assert poor
    assert all(person.ecg[i].any() and not person.present[i, 0] for i in poor)


def test_a_mostly_bridged_window_has_no_ecg(person: Prepared) -> None:
    bridged = np.where(np.arange(len(person)) % 2 == 0, MAX_BRIDGED + 0.01, MAX_BRIDGED)
    assert np.array_equal(
        replace(person, bridged=bridged).present[:, 0], person.covered[:, 0] & (bridged <= MAX_BRIDGED)
    )
    assert np.array_equal(replace(person, bridged=bridged).present[:, 1], person.covered[:, 1])


def plain(root: Path, subject: str, seconds: float = 130.0) -> None:
    """One subject in the plain layout."""
    folder = root / subject
    folder.mkdir(parents=True)
    for name, signal in (("ecg", made_ecg(seconds)), ("eda", made_eda(seconds))):
        (folder / f"{name}.csv").write_text("x\n" + "".join(f"{v:.5f}\n" for v in signal.data[:, 0]))
    info = {"signals": {"ecg": {"sfreq": 130, "units": "mV"}, "eda": {"sfreq": 4, "units": "uS"}}}
    (folder / "info.json").write_text(json.dumps(info))
    (folder / "annotations.tsv").write_text("onset\tduration\tdescription\n0\t100\tbaseline\n100\t30\tstroop\n")


def test_prepared_files_are_read_back_equal(tmp_path: Path, person: Prepared) -> None:
    save_prepared(tmp_path / "x.npz", [person, replace(person, session="2")])
    first, second = load_prepared(tmp_path / "x.npz")
    assert [k for k in vars(first) if not np.array_equal(vars(first)[k], vars(person)[k])] == []
    assert (first.session, second.session) == ("1", "2")
    assert type(first.subject) is str and type(first.surrogate) is bool
    assert not list(tmp_path.glob("*.part"))


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, person: Prepared) -> None:
    class Broken:
        def __array__(self) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_prepared(tmp_path / "x.npz", [person, replace(person, ecg=Broken())])
    assert not (tmp_path / "x.npz").exists()


def test_a_data_set_is_prepared_once_and_a_bad_subject_stops_no_other(tmp_path: Path) -> None:
    root, cache = tmp_path / "study", tmp_path / "cache"
    for subject in ("anna", "ben"):
        plain(root, subject)
    (root / "ben" / "ecg.csv").write_text("x\nnonsense\n")
    said: list[str] = []
    people, skipped = prepare_dataset(root, SPEC, cache, workers=1, say=said.append)
    assert [p.subject for p in people] == ["anna"]
    assert [s.subject for s in skipped] == ["ben"]
    assert "ecg.csv" in skipped[0].reason and "line 2" in skipped[0].reason
    assert len(said) == 2
    (root / "ben" / "ecg.csv").write_bytes((root / "anna" / "ecg.csv").read_bytes())
    people, skipped = prepare_dataset(root, SPEC, cache, workers=1, say=said.append)
    assert [p.subject for p in people] == ["anna", "ben"]
    assert not skipped
    assert said[2:] == ["prepared ben (1 of 1)"]  # anna came from the cache


def test_nobody_left_is_an_error(tmp_path: Path) -> None:
    plain(tmp_path / "study", "anna")
    (tmp_path / "study" / "anna" / "ecg.csv").write_text("x\nnonsense\n")
    with pytest.raises(PrepareError, match="nothing could be prepared"):
        prepare_dataset(tmp_path / "study", SPEC, tmp_path / "cache", workers=1)
    with pytest.raises(DataError):
        prepare_dataset(tmp_path / "nowhere", SPEC, tmp_path / "cache", workers=1)


def test_cache_key_follows_what_shapes_windows(tmp_path: Path) -> None:
    everyone = ["S02", "S03"]
    for subject in everyone:
        (tmp_path / "Raw_data" / subject).mkdir(parents=True)
        (tmp_path / "Raw_data" / subject / "EDA.csv").write_text("1\n4\n0\n")
    (tmp_path / "labels.csv").write_text("a\n")

    def key(spec: SignalSpec = SPEC) -> str:
        return _key(tmp_path, "S02", everyone, spec)

    first = key()
    assert first == key(default_spec(calibrated=True))  # scaling comes after the windows
    longer = msgspec.structs.replace(SPEC, eda=msgspec.structs.replace(SPEC.eda, context_s=90.0))
    changed = [msgspec.structs.replace(SPEC, stride_s=10.0), msgspec.structs.replace(SPEC, sqi_min=0.6), longer]
    assert len({first, *map(key, changed)}) == 4
    (tmp_path / "Raw_data" / "S03" / "EDA.csv").write_text("1\n4\n7\n")
    assert first == key()  # another subject's
    (tmp_path / "Raw_data" / "S02" / "EDA.csv").write_text("1\n4\n7\n")
    second = key()
    (tmp_path / "labels.csv").write_text("b\n")
    assert len({first, second, key()}) == 3


def test_cache_key_follows_the_code_that_makes_windows(tmp_path: Path) -> None:
    """In a copy: a byte more in any file of the pipeline, of the readers, or in the beat shapes, makes another key."""
    here = Path(__file__).parents[1]
    shaping = ("device/pipeline/window.py", "device/pipeline/qrs.py", "train/data/rr.py", "train/data/templates.npz")
    for name in ("device", "train", "firmware_bridge"):
        ignored = shutil.ignore_patterns("__pycache__", "*.affect", "report", "models")
        shutil.copytree(here / name, tmp_path / name, ignore=ignored)
    (tmp_path / "data").mkdir()
    script = f"""
from pathlib import Path
from device.pipeline.spec import default_spec
from train.prepare import _key
key = lambda: _key(Path("data"), "S1", ["S1"], default_spec())
print(key())
for name in {(*shaping, "train/prepare.py", "train/fit.py")!r}:
    with Path(name).open("ab") as file:
        file.write(b"#")
    print(key())
"""
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    keys = told.stdout.split()
    assert len(keys) == 7
    assert len(set(keys[:-1])) == 6
    assert keys[-1] == keys[-2]  # how a network is fitted shapes no window


def test_what_was_prepared_is_read_back_and_a_half_written_file_is_not(tmp_path: Path, person: Prepared) -> None:
    root, cache = tmp_path / "study", tmp_path / "cache"
    plain(root, "anna")
    said: list[str] = []
    first, _ = prepare_dataset(root, SPEC, cache, workers=1, say=said.append)
    (made_file,) = cache.iterdir()
    whole = made_file.read_bytes()
    save_prepared(made_file, [replace(person, subject="from the cache")])
    assert [p.subject for p in prepare_dataset(root, SPEC, cache, workers=1, say=said.append)[0]] == ["from the cache"]
    made_file.unlink()
    half = made_file.with_suffix(".123.part")
    half.write_bytes(whole[: len(whole) // 2])
    again, _ = prepare_dataset(root, SPEC, cache, workers=1, say=said.append)
    assert said == ["prepared anna (1 of 1)"] * 2
    assert [k for k in vars(first[0]) if not np.array_equal(vars(first[0])[k], vars(again[0])[k])] == []


def test_a_session_too_short_for_a_window_is_named_and_costs_no_other(tmp_path: Path) -> None:
    plain(tmp_path / "study", "anna/1", 80.0)
    plain(tmp_path / "study", "anna/2", 40.0)
    for labels in (tmp_path / "study").rglob("annotations.tsv"):
        labels.write_text("onset\tduration\tdescription\n0\t30\tbaseline\n")
    said: list[str] = []
    people, skipped = prepare_dataset(tmp_path / "study", SPEC, tmp_path / "cache", workers=1, say=said.append)
    assert [(p.subject, p.session) for p in people] == [("anna", "1")]
    assert not skipped
    assert len(said) == 1
    assert "prepared anna" in said[0] and "not session 2" in said[0] and "no window of 60 s" in said[0]


def test_files_of_a_subject_are_all_but_those_of_others(tmp_path: Path) -> None:
    names = (
        "S1/a.csv",
        "S1/tags_S1.csv",
        "S11/a.csv",
        "S11.pkl",
        "Data_P_S11.mat",
        "labels.csv",
        "S1.dat",
        "deep/S11/x.hea",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(p.relative_to(tmp_path)) for p in files_of(tmp_path, "S1", ["S1", "S11"])]
    assert sorted(found) == ["S1.dat", "S1/a.csv", "S1/tags_S1.csv", "labels.csv"]


def test_a_session_named_as_another_subject_is_still_the_subjects_own(tmp_path: Path) -> None:
    for name in ("1/1/ecg.csv", "1/2/ecg.csv", "3/3/ecg.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    found = [str(p.relative_to(tmp_path)) for p in files_of(tmp_path, "1", ["1", "2", "3"])]
    assert found == ["1/1/ecg.csv", "1/2/ecg.csv"]


def test_large_files_are_prepared_one_after_the_other(tmp_path: Path) -> None:
    todo = [_Job("plain", tmp_path, s, b"", tmp_path) for s in ("S1", "S2")]
    for job in todo:
        with (tmp_path / f"{job.subject}.pkl").open("wb") as file:
            file.truncate(1000)
    assert _side_by_side(tmp_path, todo, ["S1", "S2"], 4) == 2
    with (tmp_path / "S1.pkl").open("wb") as file:
        file.truncate(900 << 20)  # a hole on disk, as large as an official pickle
    assert _side_by_side(tmp_path, todo, ["S1", "S2"], 4) == 1


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, MEMORY_BYTES), min_size=1, max_size=5), workers=st.integers(1, 8))
def test_files_read_side_by_side_fit_in_memory_twice(tmp_path: Path, sizes: list[int], workers: int) -> None:
    everyone = [f"S{i}" for i in range(len(sizes))]
    for subject in [f"S{i}" for i in range(5)]:
        (tmp_path / f"{subject}.pkl").unlink(missing_ok=True)
    for subject, size in zip(everyone, sizes, strict=True):
        with (tmp_path / f"{subject}.pkl").open("wb") as file:
            file.truncate(size)
    at_once = _side_by_side(tmp_path, [_Job("plain", tmp_path, s, b"", tmp_path) for s in everyone], everyone, workers)
    assert 1 <= at_once <= min(workers, len(sizes))
    assert at_once == 1 or at_once * 2 * max(sizes) <= MEMORY_BYTES
    assert at_once == min(workers, len(sizes)) or (at_once + 1) * 2 * max(sizes) > MEMORY_BYTES


def test_bridged_share_is_the_overlap_with_bridged_stretches() -> None:
    annotations = (Annotation(10.0, 20.0, "bridged"), Annotation(0.0, 99.0, "rest"), Annotation(50.0, 5.0, "bridged"))
    share = bridged_share(np.array([0.0, 20.0, 100.0]), np.array([60.0, 80.0, 160.0]), annotations)
    assert share == pytest.approx([25 / 60, 15 / 60, 0.0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stress_predict", "wesad_e4"])
def test_a_real_person_gives_windows_of_every_label(name: str, tmp_path: Path) -> None:
    """Two hours of WESAD's wrist band, an hour of Stress-Predict's, with 60 s of context."""
    root = reference_data() / name
    recording = stress_predict.load(root, "S05") if name == "stress_predict" else wesad.load(root, "S2")[0]
    task = task_of("rest/task", "stress-predict") if name == "stress_predict" else task_of("3-class", "wesad")
    spec = msgspec.structs.replace(SPEC, eda=msgspec.structs.replace(SPEC.eda, context_s=120.0))
    person = prepare(with_surrogate_ecg(recording, default_templates(), SURROGATE_SEED), spec)
    assert person.surrogate
    assert (np.round(person.start / SPEC.stride_s) % KEEP_EVERY == 0).all()
    assert person.covered.mean(axis=0).min() > 0.8
    assert person.eda.shape[1] == 480
    role = roles(person, task, spec)
    assert set(role.label.tolist()) == {UNLABELLED, *range(len(task.labels))}
    assert role.is_baseline.sum() >= 10
    heart = np.median(person.ecg[person.present[:, 0], :, 1])
    assert 50 < heart < 110
    save_prepared(tmp_path / "x.npz", [person])
    (again,) = load_prepared(tmp_path / "x.npz")
    np.testing.assert_equal(vars(again), vars(person))  # NaN, where nobody rated, is equal to itself
