"""The recorder of a resting baseline, on real rest and on what is no rest, and `affectd baseline --recording`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wearer_at_rest
from command_line import affectd
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle

from device.baseline import NEEDED_S, REST_S, BaselineRecorder, Progress
from device.baseline_command import guidance, summary
from device.errors import BaselineError
from device.pipeline.model_input import baseline_of
from device.pipeline.spec import MODALITIES, default_spec
from device.pipeline.types import Quality, Window
from device.profile import Profile, fingerprint, read_profile
from device.resting import Outcome
from train.prepare import Prepared
from train.tasks import task_of
from train.windows import BASELINE_S, roles
from train.windows import baseline_of as baseline_in_training

SPEC = default_spec()
NOW = datetime(2026, 11, 21, tzinfo=UTC)
GOOD = Quality(1.0)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> list[Window]:
    """A real person at rest."""
    return wearer_at_rest.windows(tmp_path_factory.mktemp("rest"))


def recorded(windows: Sequence[Window], *modalities: str, **options: Any) -> tuple[BaselineRecorder, Progress]:
    recorder = BaselineRecorder(SPEC, modalities or MODALITIES, **options)
    for window in windows:
        progress = recorder.push(window)
    return recorder, progress


def test_the_profile_is_the_baseline_of_the_windows_inside_the_rest(windows: list[Window]) -> None:
    recorder, progress = recorded(windows)
    (first, *_) = [w for w in windows if set(w.data) == {"ecg", "eda"}]
    rest = [w for w in windows if first.start <= w.start and w.start + 60 <= first.start + REST_S]
    assert len(rest) == 25
    profile = recorder.profile(NOW, "Ada")
    assert profile.baseline == baseline_of(rest, SPEC)
    assert profile.fingerprint == fingerprint(SPEC)
    assert (profile.modalities, profile.rest_s, profile.sqi) == (MODALITIES, REST_S, {"ecg": 1.0, "eda": 1.0})
    assert progress.done
    assert progress.good_s == {"ecg": REST_S, "eda": REST_S}
    assert progress.warnings == ()


def test_it_is_the_baseline_that_training_takes(windows: list[Window]) -> None:
    kept = [w for w in windows if w.index % 3 == 0 and set(w.data) == {"ecg", "eda"}]
    start = np.array([w.start for w in kept])
    person = Prepared(
        *("Ada", "1", False),
        *(np.stack([w.data[m] for w in kept]).astype(np.float32) for m in MODALITIES),
        covered=np.ones((len(kept), 2), bool),
        bridged=np.zeros(len(kept)),
        start=start,
        spans=np.array([[start[0], start[-1] + 60.0]]),
        descriptions=np.array(["baseline"]),
        rated=np.empty(0, np.str_),
        ratings=np.empty((len(kept), 0)),
    )
    expected = baseline_in_training(
        person, roles(person, task_of("rest/task", "stress-predict"), SPEC).is_baseline, SPEC
    )
    here = recorded(kept, rest_s=BASELINE_S)[0].profile(NOW).baseline
    assert here.n_windows == expected.n_windows > 10
    assert here.center == pytest.approx(expected.center, rel=1e-5, abs=1e-5)


def made(index: int, hr: float = 60.0, tonic: float = 2.0, **changes: Any) -> Window:
    """A window, every 15 s, in which both channels stand still but for a little life."""
    life = np.sin(np.arange(7680) / 40)
    data = {
        "ecg": np.column_stack([0.3 * life, hr + life]),
        "eda": np.column_stack([tonic + 0.001 * life[:240], 0.001 * life[:240]]),
    }
    return replace(Window(3 * index, 15.0 * index, data, {"ecg": GOOD, "eda": GOOD}), **changes)


def without(window: Window, modality: str, reason: str | None = "gap") -> Window:
    """As if a sensor gave nothing; without a reason as if there were none."""
    others = {m: d for m, d in window.data.items() if m != modality}
    missing = {} if reason is None else {modality: reason}
    return replace(window, data=others, quality={m: window.quality[m] for m in others}, missing=missing)


def poor(window: Window, modality: str, *problems: str) -> Window:
    return replace(window, quality={**window.quality, modality: Quality(0.2, problems)})


@settings(max_examples=30, deadline=None)
@given(
    begin=st.floats(0, 200),
    rest_s=st.floats(120, 300),
    bad=st.sets(st.integers(0, 40)),
)
def test_good_signal_is_the_time_that_good_windows_inside_the_rest_cover(
    begin: float, rest_s: float, bad: set[int]
) -> None:
    windows = [poor(made(i), "eda", "motion") if i in bad else made(i) for i in range(41)]
    _, progress = recorded(windows, begin=begin, rest_s=rest_s)
    inside = [w for w in windows if w.start >= begin and w.start + 60 <= begin + rest_s]
    covered = np.zeros(700, bool)
    for window in inside:
        if window.index // 3 not in bad:
            covered[int(window.start) : int(window.start) + 60] = True
    assert progress.good_s["eda"] == covered.sum()
    assert progress.done


def test_every_step_says_how_far_it_is_and_what_is_wrong() -> None:
    recorder = BaselineRecorder(SPEC, rest_s=120.0, begin=100.0)
    assert guidance(recorder.begun()).endswith("; 2 min to go; ECG not known yet, EDA not known yet")
    said = recorder.push(made(3))
    assert (said.elapsed_s, said.good_s, said.done) == (5.0, {"ecg": 0.0, "eda": 0.0}, False)  # began before the rest
    said = recorder.push(poor(made(7), "eda", "contact", "motion"))
    assert (said.elapsed_s, said.good_s) == (65.0, {"ecg": 60.0, "eda": 0.0})
    assert said.problems == {"eda": ("contact", "motion")}
    assert guidance(said) == "sit still, do not talk; 55 s to go; ECG good, EDA no contact"
    assert recorder.push(without(made(8), "ecg")).problems == {"ecg": ("gap",)}
    assert recorder.push(without(made(9), "ecg", None)).problems == {"ecg": ("missing",)}
    assert recorder.push(poor(made(9), "ecg")).problems == {"ecg": ("quality",)}
    assert recorder.push(made(20)).elapsed_s == 120.0


TOO_LITTLE = {
    "contact": (
        [made(0), *(poor(made(i), "eda", "contact") for i in range(1, 13))],
        r"eda: 60 s of good eda in 180 s of rest, 90 s are needed; mostly contact; wear the eda sensor firmly",
    ),
    "gaps": (
        [made(0), *(without(made(i), "ecg") for i in range(1, 13))],
        r"ecg: 60 s of good ecg .*; mostly gap; bring the ecg sensor close",
    ),
    "moved": (
        [made(0), *(poor(made(i), "eda", "motion") for i in range(1, 13))],
        r"mostly motion; sit still, with the arm supported",
    ),
    "no sensor": (
        [without(made(i), "eda", None) for i in range(13)],
        r"eda: 0 s of good eda .*; mostly missing; attach the eda sensor, or take a baseline without it \(`--allow`\)",
    ),
    "never both": (
        [poor(made(i), "ecg", "noise") if i % 2 else poor(made(i), "eda", "rate") for i in range(13)],
        r"0 s of good eda .*; mostly rate; check the eda sensor, and rest once more",
    ),
    "no window": ([], r"0 s of good ecg"),
    "too short": ([made(i) for i in range(4)], r"the signal ends before 180 s of rest are over; rest once more"),
}


@pytest.mark.parametrize("case", TOO_LITTLE)
def test_a_rest_with_too_little_good_signal_gives_no_profile(case: str) -> None:
    windows, message = TOO_LITTLE[case]
    recorder = BaselineRecorder(SPEC)
    for window in windows:
        recorder.push(window)
    with pytest.raises(BaselineError, match=message):
        recorder.profile(NOW)


def test_a_little_trouble_is_no_harm() -> None:
    windows = [made(i) if i % 5 else poor(made(i, tonic=40.0), "eda", "motion") for i in range(1, 14)]
    recorder, progress = recorded(windows)
    assert progress.good_s["eda"] >= NEEDED_S
    profile = recorder.profile(NOW)
    assert profile.baseline.center["tonic"] == pytest.approx(2.0, abs=0.01)
    assert profile.sqi["eda"] == 1.0


def test_one_sensor_serves_its_modality_only() -> None:
    recorder, _ = recorded([without(made(i), "eda", None) for i in range(13)], "ecg")
    profile = recorder.profile(NOW)
    assert profile.modalities == ("ecg",)
    assert set(profile.baseline.center) == {"ecg", "hr"}


@pytest.mark.parametrize(
    ("last", "warning"),
    [
        ({"hr": 75.0}, "not at rest: the heart rate rose from 60 to 75 /min"),
        ({"hr": 48.0}, "not at rest: the heart rate fell from 60 to 48 /min"),
        ({"hr": 68.0}, None),
        ({"tonic": 3.4}, "not at rest: the skin conductance rose from 2 to 3.4 uS"),
        ({"tonic": 1.2}, "not at rest: the skin conductance fell from 2 to 1.2 uS"),
        ({"tonic": 2.8}, None),
    ],
)
def test_a_wearer_who_is_not_at_rest_is_told(last: dict[str, float], warning: str | None) -> None:
    steps = np.linspace(0, 1, 9)
    start = {"hr": 60.0, "tonic": 2.0}
    windows = [made(i, **{n: v + s * (last.get(n, v) - v) for n, v in start.items()}) for i, s in enumerate(steps)]
    _, progress = recorded(windows)
    assert progress.warnings == ((warning,) if warning else ())


def test_a_dry_skin_near_the_least_level_is_not_restless() -> None:
    assert recorded([made(i, tonic=0.02 + 0.003 * i) for i in range(9)])[1].warnings == ()


@pytest.mark.parametrize("rest_s", [60.0, 119.0, 301.0])
def test_other_lengths_are_refused(rest_s: float) -> None:
    with pytest.raises(BaselineError, match=rf"a rest of {rest_s:g} s where 120 to 300 s are possible; choose another"):
        BaselineRecorder(SPEC, rest_s=rest_s)


def test_the_end_is_told_in_plain_words() -> None:
    profile = recorded([made(i) for i in range(13)])[0].profile(NOW, "Ada")
    lines = summary(Outcome(profile, "/ada.json", False, ("not at rest: x",), "It is used from the next start."))
    assert lines == [
        "The resting baseline of Ada, from 3 min of rest:",
        "  heart rate 60 /min (signal quality 100%)",
        "  skin conductance 2 uS (signal quality 100%)",
        "Warning: not at rest: x. Rest once more if that is not the wearer's usual calm.",
        "Written to /ada.json; it is health data, readable by its owner alone.",
        "It is used from the next start.",
    ]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wearer_at_rest.record(tmp_path_factory.mktemp("recorded"))


def test_a_rest_out_of_a_recording(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    recording: Path,
    windows: list[Window],
) -> None:
    path = tmp_path / "ada.json"
    bundle = tiny_bundle(tmp_path / "cold.affect", SPEC).path
    args = ("baseline", "--recording", recording, "--bundle", bundle, "--person", "Ada", "--profile", path)
    code, text, err = affectd(capsys, monkeypatch, *args, "--from", 30, "--to", 200, "--json")
    assert (code, err) == (0, "")
    *steps, last = [json.loads(line) for line in text.splitlines()]
    assert [step["progress"]["done"] for step in steps] == [False] * (len(steps) - 1) + [True]
    begin = wearer_at_rest.sent()[0].host_ns / 1e9 + 30
    rest = [w for w in windows if begin <= w.start and w.start + 60 <= begin + 170]
    profile = read_profile(path)
    assert profile.baseline == baseline_of(rest, SPEC)
    assert (profile.person, profile.rest_s) == ("Ada", 170.0)
    assert last["outcome"] == {
        "profile": json.loads(path.read_text()),
        "path": str(path),
        "in_use": False,
        "warnings": [],
        "note": "",
    }
    code, text, _ = affectd(capsys, monkeypatch, *args)
    assert code == 0
    assert f"heart rate {read_profile(path).baseline.center['hr']:.0f} /min" in text


def test_a_rest_of_one_sensor_only_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = wearer_at_rest.record(tmp_path, wearer_at_rest.CHEST)
    path = tmp_path / "ada.json"
    args = ("baseline", "--recording", alone, "--profile", path, "--json")
    code, _, err = affectd(capsys, monkeypatch, *args)
    assert code == 2
    assert "baseline: eda: there is no sensor of it; attach one, or take a baseline of ecg alone (`--allow ecg`)" in err
    assert not path.exists()
    code, _, _ = affectd(capsys, monkeypatch, *args, "--allow", "ecg")
    assert code == 0
    assert read_profile(path).modalities == ("ecg",)


BAD = {
    "no file to write": (["--recording", "{recording}"], "--recording needs --profile"),
    "no recording": (
        ["--profile", "{tmp}/p", "--from", "1"],
        "--identity, --from, --to and --bundle go with --recording",
    ),
    "another file": (["--recording", "{recording}", "--profile", "{tmp}/other"], "other: is there and is no profile"),
    "no name": (["--recording", "{recording}", "--profile", "{tmp}/p", "--person", " "], "expected printable text"),
    "too short": (
        ["--recording", "{recording}", "--profile", "{tmp}/p", "--from", "1", "--to", "60"],
        "a rest of 59 s where 120 to 300 s are possible",
    ),
    "too late": (
        ["--recording", "{recording}", "--profile", "{tmp}/p", "--from", "200"],
        "the signal ends before 180 s of rest are over",
    ),
    "half a minute": (["--minutes", "0.5"], "0.5 is not in the range 2<=x<=5"),
    "no daemon": (["--socket", "{tmp}/none.sock"], "no affectd listens there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recording: Path, case: str
) -> None:
    (tmp_path / "other").write_text("[inference]\n")
    args, message = BAD[case]
    code, _, err = affectd(
        capsys, monkeypatch, "baseline", "--json", *(arg.format(tmp=tmp_path, recording=recording) for arg in args)
    )
    assert code == 2
    assert err.startswith("affectd: ") and err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_replay_uses_a_profile_that_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recording: Path
) -> None:
    path = tmp_path / "ada.json"
    bundle = tiny_bundle(tmp_path / "calibrated.affect", default_spec(calibrated=True)).path
    args = ("--recording", recording, "--bundle", bundle, "--profile", path)
    assert affectd(capsys, monkeypatch, "baseline", *args, "--json")[0] == 0
    code, _, err = affectd(capsys, monkeypatch, "replay", recording, "--bundle", bundle, "--json")
    assert code == 2 and "needs the wearer's resting baseline, and there is none; record one" in err
    code, text, err = affectd(capsys, monkeypatch, "replay", recording, "--bundle", bundle, "--profile", path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(text)["predictions"] > 50
    profile: Profile = read_profile(path)
    path.write_text(path.read_text().replace(profile.fingerprint, "0" * 64))
    code, _, err = affectd(capsys, monkeypatch, "replay", recording, "--bundle", bundle, "--profile", path)
    assert code == 2 and "ada.json: fingerprint: made with another version" in err
