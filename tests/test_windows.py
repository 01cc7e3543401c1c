"""Windows as networks read them: labelled by whole stretches, scaled as on the device, a baseline nobody scores."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_people import CALM_S, STRESS_S, made_config, made_people, made_person, without
from test_prepare import made_ecg, made_eda

from device.pipeline.model_input import baseline_of as device_baseline_of
from device.pipeline.model_input import model_input
from device.pipeline.types import Quality, Window
from train.data.types import Annotation, Recording
from train.errors import PrepareError
from train.prepare import Prepared, prepare, windows_of
from train.tasks import UNLABELLED
from train.windows import BASELINE_S, baseline_of, network_windows, only, roles, shortened

CONFIG = made_config()
TASK = CONFIG.the_task()
SPEC = CONFIG.longest()
CALIBRATED = CONFIG.longest(calibrated=True)


@pytest.fixture(scope="module")
def person() -> Prepared:
    return made_person("P0")


def test_labels_follow_the_annotations(person: Prepared) -> None:
    label = roles(person, TASK, SPEC).label
    for start, found in zip(person.start, label, strict=True):
        stop = start + SPEC.window_s
        inside = {0: stop <= CALM_S, 1: start >= CALM_S and stop <= STRESS_S}
        assert found == next((k for k, yes in inside.items() if yes), UNLABELLED)


@settings(max_examples=50)
@given(first=st.integers(0, 6), shift=st.floats(0, 59.0))
def test_baseline_comes_first_and_is_clear_of_what_is_scored(first: int, shift: float) -> None:
    """However late the sensors come on, and wherever the windows lie."""
    person = made_person("P0")
    person = without(replace(person, start=person.start + shift), "ecg", slice(0, first))
    role = roles(person, TASK, SPEC)
    base, scored = person.start[role.is_baseline], person.start[role.after_baseline]
    assert len(base) >= 1
    assert base.max() + SPEC.window_s <= base.min() + BASELINE_S
    assert not len(scored) or scored.min() >= base.max() + SPEC.window_s
    assert (role.label[role.after_baseline] != UNLABELLED).all()
    assert base.min() >= person.start[first]
    assert 120.0 <= BASELINE_S <= 300.0


def test_someone_who_never_rests_is_refused(person: Prepared) -> None:
    with pytest.raises(PrepareError, match=r"P0.*rest"):
        roles(replace(person, descriptions=np.array(["lunch", "quiz"])), TASK, SPEC)
    with pytest.raises(PrepareError, match="P0"):
        roles(without(without(person, "ecg"), "eda"), TASK, SPEC)


def test_a_sensor_that_was_never_worn_delays_no_baseline(person: Prepared) -> None:
    role = roles(without(person, "ecg"), TASK, SPEC)
    assert np.array_equal(role.is_baseline, roles(person, TASK, SPEC).is_baseline)


def test_baseline_is_the_devices_baseline(person: Prepared) -> None:
    role = roles(person, TASK, SPEC)
    good = {"ecg": Quality(1.0), "eda": Quality(1.0)}
    rest = [
        Window(i, person.start[i], {"ecg": person.ecg[i].astype(float), "eda": person.eda[i].astype(float)}, good)
        for i in np.flatnonzero(role.is_baseline)
    ]
    here, there = baseline_of(person, role.is_baseline, SPEC), device_baseline_of(rest, SPEC)
    assert here.n_windows == there.n_windows == 5
    assert here.center == pytest.approx(there.center, rel=1e-5, abs=1e-5)


def test_nothing_but_the_baseline_moves_the_baseline(person: Prepared) -> None:
    role = roles(person, TASK, SPEC)
    spoiled = replace(person, ecg=person.ecg.copy(), eda=person.eda.copy())
    spoiled.ecg[~role.is_baseline] += 50.0
    spoiled.eda[~role.is_baseline] += 50.0
    spoiled.eda[role.is_baseline, : -SPEC.n_window("eda")] += 50.0  # nor the context before a window of it
    assert baseline_of(spoiled, role.is_baseline, SPEC) == baseline_of(person, role.is_baseline, SPEC)


@pytest.mark.parametrize("spec", [SPEC, CALIBRATED], ids=["cold_start", "calibrated"])
def test_network_windows_are_the_devices_model_input(person: Prepared, spec: msgspec.Struct) -> None:
    role = roles(person, TASK, SPEC)
    windows = network_windows([person], TASK, SPEC, spec)
    baseline = baseline_of(person, role.is_baseline, SPEC) if spec.needs_baseline else None
    data = {"ecg": person.ecg[7].astype(float), "eda": person.eda[7].astype(float)}
    expected = model_input(data, spec, baseline).arrays
    at = int(np.flatnonzero(windows.start == person.start[7])[0])
    assert np.array_equal(windows.ecg[at], expected["ecg"])
    assert np.array_equal(windows.eda[at], expected["eda"])
    assert windows.start.tolist() == person.start[role.label != UNLABELLED].tolist()
    scored = role.after_baseline if spec.needs_baseline else role.label != UNLABELLED
    assert windows.start[windows.is_scored].tolist() == person.start[scored].tolist()


def test_a_shorter_candidate_is_the_end_of_the_longer_one(person: Prepared) -> None:
    """The same moments are judged; what is read of them is the end, scaled by itself."""
    whole = network_windows([person], TASK, CALIBRATED, CALIBRATED)
    context = network_windows([person], TASK, CALIBRATED, shortened(CALIBRATED, 60.0, 60.0))
    assert np.array_equal(context.eda, whole.eda[:, :, -240:])
    assert np.array_equal(context.ecg, whole.ecg)
    half_spec = shortened(CALIBRATED, 30.0, 60.0)
    half = network_windows([person], TASK, CALIBRATED, half_spec)
    assert half.ecg.shape[2] == 3840
    assert np.array_equal(half.ecg[:, 1], whole.ecg[:, 1, 3840:])  # the rate: by the baseline
    alone = model_input(
        {"ecg": person.ecg[0, 3840:].astype(float)}, half_spec, baseline_of(person, np.arange(15) < 5, SPEC)
    )
    assert np.array_equal(half.ecg[0, 0], alone.arrays["ecg"][0])  # the ECG: by its own spread
    for a, b in ((context, whole), (half, whole)):
        assert np.array_equal(a.label, b.label)
        assert np.array_equal(a.is_scored, b.is_scored)


def test_a_longer_candidate_is_refused() -> None:
    for window_s, context_s in ((90.0, 120.0), (60.0, 180.0)):
        with pytest.raises(ValueError, match="prepared were 60 s"):
            shortened(SPEC, window_s, context_s)


@pytest.fixture(scope="module")
def worn() -> Recording:
    """Five minutes, EDA lost for a second: through the pipeline, not made up as windows."""
    eda = made_eda(300.0)
    eda.data[4 * 130 : 4 * 131] = np.nan
    phases = (Annotation(0.0, 200.0, "rest"), Annotation(200.0, 100.0, "quiz"))
    return Recording("made", "P0", "1", {"ecg": made_ecg(300.0), "eda": eda}, phases)


@pytest.mark.parametrize(
    ("window_s", "context_s"), [(60.0, 60.0), (60.0, 90.0), (30.0, 60.0), (30.0, 0.0)], ids=lambda x: f"{x:g}"
)
def test_a_shorter_candidate_is_what_the_device_gives_for_the_shorter_spec(
    worn: Recording, worn_person: Prepared, window_s: float, context_s: float
) -> None:
    """Both through the whole pipeline: what the network reads is the same to the bit, in either mode."""
    own = {w.start + window_s: w for w in windows_of(worn, shortened(SPEC, window_s, context_s))}
    baseline = baseline_of(worn_person, roles(worn_person, TASK, SPEC).is_baseline, SPEC)
    for longest in (SPEC, CALIBRATED):
        short = shortened(longest, window_s, context_s)
        windows = network_windows([worn_person], TASK, longest, short)
        whole = np.flatnonzero(windows.present.all(axis=1))
        assert len(whole) >= 5
        for i in whole:
            window = own[windows.start[i] + longest.window_s]
            stored = {m: data.astype(np.float32).astype(float) for m, data in window.data.items()}
            expected = model_input(stored, short, baseline).arrays
            assert np.array_equal(windows.ecg[i], expected["ecg"])
            assert np.array_equal(windows.eda[i], expected["eda"])


@pytest.fixture(scope="module")
def worn_person(worn: Recording) -> Prepared:
    return prepare(worn, SPEC)


def test_no_window_over_the_gap_is_shown_and_the_context_ends_at_it(worn_person: Prepared) -> None:
    spans_gap = (worn_person.start < 131.0) & (worn_person.start + SPEC.window_s > 130.0)
    assert spans_gap.any()
    assert not worn_person.covered[spans_gap, 1].any()
    after = np.flatnonzero(worn_person.covered[:, 1] & (worn_person.start > 131.0))
    first = worn_person.eda[after[0]]
    held = int((first == first[0]).all(axis=1).argmin())
    assert held > 4 * (60.0 - (worn_person.start[after[0]] - 131.0))  # the filter's warm-up comes on top


@settings(max_examples=30)
@given(
    lost=st.lists(st.tuples(st.sampled_from(["ecg", "eda"]), st.integers(0, 13)), max_size=8),
    phases=st.lists(st.floats(30.0, 400.0), min_size=2, max_size=5),
)
def test_calibrated_mode_scores_nothing_that_its_baseline_saw(lost: list[tuple[str, int]], phases: list[float]) -> None:
    person = made_person("P0")
    for modality, at in lost:
        person = without(person, modality, slice(at, at + 1))
    stops = np.cumsum(phases)
    names = np.array([("rest", "quiz")[i % 2] for i in range(len(phases))])
    person = replace(person, spans=np.stack([stops - phases, stops], axis=1), descriptions=names)
    try:
        role = roles(person, TASK, SPEC)
    except PrepareError:
        return
    assert role.is_baseline.any()
    cold, calibrated = (network_windows([person], TASK, SPEC, spec) for spec in (SPEC, CALIBRATED))
    seen_until = person.start[role.is_baseline].max() + SPEC.window_s
    assert (calibrated.start[calibrated.is_scored] >= seen_until).all()
    assert cold.is_scored.all()
    assert np.array_equal(cold.label, calibrated.label)
    rest = [(a, b) for (a, b), name in zip(person.spans, names, strict=True) if name == "rest"]
    inside = [any(a <= s and s + SPEC.window_s <= b for a, b in rest) for s in person.start[role.is_baseline]]
    assert all(inside)


def test_people_are_kept_apart_and_scaled_by_their_own_rest() -> None:
    people = made_people(3)
    every = network_windows(people, TASK, SPEC, CALIBRATED)
    for person in people:
        alone = network_windows([person], TASK, SPEC, CALIBRATED)
        his = only(every, np.flatnonzero(every.subject == person.subject))
        assert all(np.array_equal(getattr(his, name), getattr(alone, name)) for name in vars(alone))
    assert set(every.subject[every.of(["P1"])]) == {"P1"}


def test_a_window_that_no_sensor_covers_is_used_for_nothing(person: Prepared) -> None:
    bare = without(without(person, "ecg", slice(6, 8)), "eda", slice(6, 8))
    windows = network_windows([bare], TASK, SPEC, SPEC)
    assert not set(windows.start[windows.of(["P0"])]) & set(person.start[6:8])
    assert len(windows.of(["P0"])) == len(windows) - 2
