"""Windows for training: the device's own, labelled by whole stretches, with a resting baseline nobody scores."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.pipeline.model_input import baseline_of as device_baseline_of
from device.pipeline.model_input import model_input
from device.pipeline.pipeline import Pipeline
from device.pipeline.spec import default_spec
from device.pipeline.types import Chunk, Clock, Window
from train.data import stress_predict
from train.data.types import Annotation, Recording, Signal
from train.errors import PrepareError
from train.prepare import (
    BASELINE_S,
    KEEP_EVERY,
    LABELS,
    UNLABELLED,
    Prepared,
    _key,
    baseline_of,
    bridged_share,
    label_of,
    network_windows,
    prepare,
    prepare_stress_predict,
    stretches_of,
    windows_of,
)

SPEC = default_spec()
REST_S, TASK_S, LAST_S = 240.0, 120.0, 100.0
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
    return windows_of(made(), SPEC)


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
    assert np.array_equal(person.ecg[5], kept[5].data["ecg"].astype(np.float32))
    assert np.array_equal(person.eda[5], kept[5].data["eda"].astype(np.float32))


def test_labels_follow_the_annotations(person: Prepared) -> None:
    for start, label in zip(person.start, person.label, strict=True):
        stop = start + SPEC.window_s
        if stop <= REST_S or start >= REST_S + TASK_S:
            assert LABELS[label] == "rest"
        elif start >= REST_S and stop <= REST_S + TASK_S:
            assert LABELS[label] == "task"
        else:
            assert label == UNLABELLED


def test_baseline_comes_first_and_is_clear_of_what_is_scored(person: Prepared) -> None:
    base, scored = person.start[person.is_baseline], person.start[person.is_scored]
    assert len(base) > 3
    assert base.max() + SPEC.window_s <= base.min() + BASELINE_S
    assert scored.min() >= base.max() + SPEC.window_s
    assert (person.label[person.is_scored] != UNLABELLED).all()
    assert 120.0 <= BASELINE_S <= 300.0


def test_baseline_is_the_devices_baseline(person: Prepared, ours: list[Window]) -> None:
    rest = [w for w in ours if w.start in person.start[person.is_baseline].tolist()]
    here, there = baseline_of(person, SPEC), device_baseline_of(rest, SPEC)
    assert here.n_windows == there.n_windows
    assert here.center == pytest.approx(there.center, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("calibrated", [False, True])
def test_network_windows_are_the_devices_model_input(person: Prepared, calibrated: bool) -> None:
    spec = default_spec(calibrated=calibrated)
    windows = network_windows([person], spec)
    baseline = baseline_of(person, spec) if calibrated else None
    data = {"ecg": person.ecg[7].astype(float), "eda": person.eda[7].astype(float)}
    expected = model_input(data, spec, baseline).arrays
    assert np.array_equal(windows.ecg[7], expected["ecg"])
    assert np.array_equal(windows.eda[7], expected["eda"])
    scored = person.is_scored if calibrated else person.label != UNLABELLED
    assert np.array_equal(windows.is_scored, scored)


def test_a_missing_modality_is_absent_and_zero() -> None:
    signals = dict(made().signals)
    short = replace(signals["eda"], data=signals["eda"].data[: 160 * 4])
    person = prepare(made({**signals, "eda": short}), SPEC)
    late = person.start > 160
    assert person.present[late, 0].all()
    assert not person.present[late, 1].any()
    assert not person.eda[late].any()
    assert person.present[~late].any(axis=0).all()


def test_a_recording_without_rest_or_signals_is_refused() -> None:
    with pytest.raises(PrepareError, match="P01"):
        windows_of(made({}), SPEC)
    tasks = made({"ecg": made_ecg(80.0)})
    tasks = replace(tasks, annotations=(Annotation(0.0, 80.0, "stroop"),))
    with pytest.raises(PrepareError, match="rest"):
        prepare(tasks, SPEC)


edges = st.lists(st.floats(0, 1000), min_size=2, max_size=12, unique=True).map(sorted)


@settings(deadline=None)
@given(edges=edges, start=st.floats(0, 1000), length=st.floats(1, 100))
def test_a_window_has_a_label_only_wholly_inside_one_stretch(edges: list[float], start: float, length: float) -> None:
    stretches = [(a, b, i % 2) for i, (a, b) in enumerate(pairwise(edges))]
    label = label_of(start, start + length, stretches)
    holders = [lab for a, b, lab in stretches if a <= start and start + length <= b]
    assert label == (holders[0] if holders else UNLABELLED)


def test_neighbouring_rests_are_one_stretch_and_unknown_phases_none() -> None:
    phases = [
        Annotation(0.0, 100.0, "baseline"),
        Annotation(100.0, 50.0, "transition"),
        Annotation(150.0, 60.0, "lunch"),
        Annotation(210.0, 60.0, "interview"),
        Annotation(270.0, 60.0, "hyperventilation"),
        Annotation(400.0, 60.0, "relax"),
    ]
    assert stretches_of(phases) == [(0.0, 150.0, 0), (210.0, 330.0, 1), (400.0, 460.0, 0)]
    assert set(stress_predict.LABELS.values()) == {0, 1}


def test_cache_key_follows_what_shapes_windows(tmp_path: Path) -> None:
    (tmp_path / "Raw_data" / "S02").mkdir(parents=True)
    (tmp_path / "Raw_data" / "S02" / "EDA.csv").write_text("1\n4\n0\n")
    key = _key(tmp_path, "S02", SPEC)
    assert key == _key(tmp_path, "S02", default_spec(calibrated=True))
    assert key != _key(tmp_path, "S02", msgspec.structs.replace(SPEC, stride_s=10.0))
    assert key != _key(tmp_path, "S02", msgspec.structs.replace(SPEC, sqi_min=0.6))
    (tmp_path / "Raw_data" / "S02" / "EDA.csv").write_text("1\n4\n0\n1\n")
    assert key != _key(tmp_path, "S02", SPEC)


@pytest.mark.slow
def test_prepared_files_are_read_back_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, person: Prepared) -> None:
    """The second call reads what the first wrote, and runs no pipeline."""
    from tests_support import reference_data

    root = reference_data() / "stress_predict"
    monkeypatch.setattr(stress_predict, "subjects", lambda root: ("S05",))
    said: list[str] = []
    first = prepare_stress_predict(root, SPEC, tmp_path, workers=1, say=said.append)
    again = prepare_stress_predict(root, SPEC, tmp_path, workers=1, say=said.append)
    assert said == ["prepared S05 (1 of 1)"]
    assert [k for k in vars(first[0]) if not np.array_equal(vars(first[0])[k], vars(again[0])[k])] == []
    assert {0, 1} <= set(again[0].label.tolist())


def test_bridged_share_is_the_overlap_with_bridged_stretches() -> None:
    annotations = (Annotation(10.0, 20.0, "bridged"), Annotation(0.0, 99.0, "rest"), Annotation(50.0, 5.0, "bridged"))
    share = bridged_share(np.array([0.0, 20.0, 100.0]), np.array([60.0, 80.0, 160.0]), annotations)
    assert share == pytest.approx([25 / 60, 15 / 60, 0.0])
