"""The wearer's own labels: kept, used, taken back without a trace, and refused where they would mean nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import wearer_at_rest
from command_line import affectd
from hypothesis import given, settings
from hypothesis import strategies as st
from made_people import TINY
from test_calibration import INFOS
from test_inference import window
from tiny_bundle import CARD, REPORT, SPACE_MODEL, space_bundle, tiny_bundle, tiny_space
from wearer_at_rest import profile

from device.bundle import MASKS, Bundle, write_bundle
from device.calibration import NO_SPACE, OTHER_NETWORK, Models, own_labels
from device.config import (
    Config,
    ControlConfig,
    InferenceConfig,
    JsonlConfig,
    PersonConfig,
    RecordingConfig,
    SinksConfig,
)
from device.daemon import run
from device.errors import LabelError, ProfileError
from device.inference import Classifier, Prediction
from device.label_command import changed, known, listed
from device.labelling import STALE_S, Change, LabelAnswer, Labelling
from device.notification import Notification
from device.pipeline.model_input import model_input
from device.pipeline.spec import MODALITIES, default_spec
from device.pipeline.types import Window
from device.profile import read_profile, with_labels_at, write_profile
from device.recording import RecordingReader
from device.session import Session, open_session
from device.space import IN_USE, KEPT, Example, shots_of
from firmware_bridge.daemon_client import DaemonError, ask, status
from firmware_bridge.registry import Sensor
from train.confidence import Confidence
from train.fewshot import judged_by_shots, support
from train.fit import MASKS as SHOWN
from train.models.emobed import EmoBed, EmoBedConfig
from train.windows import Windows

GOOD = {"ecg": 1.0, "eda": 1.0}
LABELS = ("rest", "stress")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return space_bundle(tmp_path / "space.affect", tiny_space())


def another(path: Path) -> Bundle:
    """The same network in other bytes."""
    first = space_bundle(path, tiny_space())
    return write_bundle(path, first.manifest, SPACE_MODEL + bytes(4), CARD, REPORT)


def at(index: int, sqi: dict[str, float] | None = None, *problems: str) -> Window:
    """The window that begins at ``5 * index`` s; each differs from the others."""
    made = window(GOOD if sqi is None else sqi, dict.fromkeys(MODALITIES, problems), level=2.0 + 0.1 * (index % 40))
    return replace(made, index=index, start=5.0 * index)


class Life:
    """A wearer with a profile, a real session and its labels. Time passes only as windows come, or as told."""

    def __init__(self, bundle: Bundle, place: Path | None, profile_: Any = None) -> None:
        self.clock = 0.0
        self.place = place
        if place is not None and profile_ is not None:
            write_profile(place, profile_)
        self.choice = Models(InferenceConfig(bundle=bundle.path), INFOS).choose(place)
        self.labelling = Labelling(place, self, lambda: self.clock)
        self.session: Session | None = open_session(
            self.choice.bundle,
            wearer_at_rest.infos(),
            baseline=self.choice.baseline,
            shots=self.choice.shots,
            listener=self.labelling.listen,
        )

    def see(self, seen: Window) -> Prediction:
        """The session classifies a window 2 s after its end."""
        assert self.session is not None
        self.labelling.tap(Notification("chest", round((seen.start + 62.0) * 1e9), b""))
        (prediction,) = self.session._classify([seen])
        self.labelling.note(prediction)
        return prediction

    def ask(self, **request: Any) -> LabelAnswer:
        return self.labelling.answer(request)

    def says(self) -> list[dict[str, float] | None]:
        """Probabilities of some windows under every mask; they are no windows of his life."""
        assert self.session is not None
        cases = [at(900 + i, dict.fromkeys(mask.split("+"), 1.0)) for i, mask in enumerate(MASKS)]
        return [p.probabilities for p in (self.session._classify([case])[0] for case in cases)]

    def counts(self) -> dict[str, int]:
        assert self.place is not None
        kept = [example.label for example in read_profile(self.place).examples]
        return {label: kept.count(label) for label in LABELS}


@pytest.fixture
def ada(bundle: Bundle, tmp_path: Path) -> Life:
    return Life(bundle, tmp_path / "ada.json", profile())


# --- what labels do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS)
def test_a_label_draws_what_is_like_it_and_stays_after_a_restart(ada: Life, bundle: Bundle, label: str) -> None:
    before = ada.see(at(0))
    answer = ada.ask(label=label)
    assert answer.change is not None
    assert (answer.change.did, answer.change.label, answer.change.mask) == ("labelled", label, "ecg+eda")
    assert answer.change.age_s == 2.0
    after = ada.see(at(0))
    assert before.probabilities is not None and after.probabilities is not None
    assert after.probabilities[label] > before.probabilities[label]
    assert after.distance == before.distance
    again = Life(bundle, ada.place)
    assert again.says() == ada.says()
    assert again.choice.labels == ada.choice.labels
    assert (ada.choice.labels.examples, ada.choice.labels.in_use) == ({label: 1}, True)


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.sampled_from([*LABELS, "undo"]), min_size=1, max_size=8), more=st.sampled_from(LABELS))
def test_what_is_labelled_and_taken_back_leaves_no_bit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], more: str
) -> None:
    folder = tmp_path_factory.mktemp("law")
    ada = Life(space_bundle(folder / "space.affect", tiny_space()), folder / "ada.json", profile())
    plain, stack = ada.says(), []
    for i, step in enumerate([*steps, more]):
        if step != "undo":
            stack.append(ada.says())
            ada.see(at(12 * i))
            ada.ask(label=step)
        elif stack:
            ada.ask(undo=True)
            assert ada.says() == stack.pop()
    while stack:
        ada.ask(undo=True)
        assert ada.says() == stack.pop()
    assert ada.says() == plain
    assert ada.place is not None and read_profile(ada.place) == profile()
    with pytest.raises(LabelError, match="no window is labelled"):
        ada.ask(undo=True)


def test_forgetting_leaves_no_bit_and_the_baseline(ada: Life) -> None:
    plain = ada.says()
    for i, label in enumerate(LABELS * 2):
        ada.see(at(12 * i))
        ada.ask(label=label)
    assert ada.says() != plain
    assert ada.ask(forget=True).change == Change("forgot", 4)
    assert ada.says() == plain
    assert ada.place is not None and read_profile(ada.place) == profile()


def test_the_last_of_a_label_can_be_taken_back_by_name(ada: Life) -> None:
    for i, label in enumerate(("stress", "rest", "rest")):
        ada.see(at(12 * i))
        ada.ask(label=label)
    ada.ask(undo=True, label="stress")
    assert ada.counts() == {"rest": 2, "stress": 0}
    with pytest.raises(LabelError, match="no window is labelled 'stress'; `affectd label --list` shows which are"):
        ada.ask(undo=True, label="stress")


def example(number: int, network: str, label: str = "rest") -> Example:
    x = np.random.default_rng(number).normal(0, 1, (3, 8))
    embedding = {mask: tuple(map(float, row)) for mask, row in zip(MASKS, x, strict=True)}
    return Example(
        label=label, when=datetime(2026, 11, 21, tzinfo=UTC), bundle="tiny", network=network, embedding=embedding
    )


def test_the_number_is_bounded_the_oldest_goes_and_what_it_displaced_comes_back(bundle: Bundle, tmp_path: Path) -> None:
    network = bundle.manifest.sha256["model.tflite"]
    full = tuple(example(i, network, LABELS[i % 2]) for i in range(KEPT))
    ada = Life(bundle, tmp_path / "ada.json", profile(examples=full))
    plain = ada.says()
    alone = Life(bundle, tmp_path / "few.json", profile(examples=full[-IN_USE:]))
    assert alone.says() == plain
    ada.see(at(0))
    ada.ask(label="stress")
    assert ada.says() != plain
    kept = read_profile(tmp_path / "ada.json").examples
    assert len(kept) == KEPT and kept[:-1] == full[1:]
    ada.ask(undo=True)
    assert ada.says() == plain
    for more in range(1, KEPT - IN_USE + 1):  # however many are taken back, those in use are those of before
        assert (*full, *full)[more : KEPT + more][:-more][-IN_USE:] == full[-IN_USE:]
    with pytest.raises(ValueError, match="101 examples where 100 are kept at most"):
        profile(examples=(*full, full[0]))


def test_the_sum_does_not_know_of_what_was_taken_back(bundle: Bundle) -> None:
    """Adding and subtracting would leave a rounding behind; the same examples always give the same bits."""
    few = [example(i, "n", LABELS[i % 2]) for i in range(7)]
    shots = shots_of(few, LABELS)
    assert shots is not None and shots_of([], LABELS) is None
    back = shots.with_shot(few[0].embedding["ecg"], 0, "ecg", 2).with_shot(
        few[0].embedding["ecg"], 0, "ecg", 2, sign=-1
    )
    assert back.total != shots.total and shots_of(list(few), LABELS) == shots


def test_another_network_ignores_them_and_the_first_finds_them_again(ada: Life, bundle: Bundle, tmp_path: Path) -> None:
    plain = ada.says()
    ada.see(at(0))
    ada.ask(label="stress")
    taught = ada.says()
    other = Life(another(tmp_path / "other.affect"), ada.place)
    assert other.says() == plain != taught
    assert other.choice.labels.examples == {"stress": 1}
    assert (other.choice.labels.in_use, other.choice.labels.reason) == (False, OTHER_NETWORK)
    other.see(at(0))
    answer = other.ask(label="rest")  # overlaps none of its own run
    assert (answer.in_use, answer.reason) == (True, None)
    assert [kept.examples for kept in answer.kept] == [{"stress": 1}, {"rest": 1}]
    assert Life(bundle, ada.place).says() == taught
    no_space = Life(tiny_bundle(tmp_path / "plain.affect"), ada.place)
    assert no_space.choice.shots is None and NO_SPACE in str(no_space.choice.labels.reason)


def test_renamed_labels_and_other_shapes_are_not_used(bundle: Bundle) -> None:
    network = bundle.manifest.sha256["model.tflite"]
    good = example(0, network)
    short = msgspec.structs.replace(good, embedding={"ecg": (1.0,)})
    strange = msgspec.structs.replace(good, embedding={"emg": (1.0,) * 8})
    renamed = msgspec.structs.replace(good, label="calm")
    shots, labels = own_labels(bundle, [short, good, strange, renamed])
    assert shots == shots_of([good], LABELS) and labels.examples == {"rest": 1}


def test_it_is_seen_with_the_wearer_s_baseline_under_every_mask_it_has(bundle: Bundle, tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(bundle.manifest, spec=default_spec(calibrated=True))
    calibrated = write_bundle(tmp_path / "calibrated.affect", manifest, SPACE_MODEL, CARD, REPORT)
    ada = Life(calibrated, tmp_path / "ada.json", profile())
    classifier = Classifier(calibrated)
    for i, names in enumerate((MODALITIES, ("ecg",), ("eda",))):
        seen = at(12 * i, dict.fromkeys(names, 1.0))
        ada.see(seen)
        ada.ask(label="stress")
        arrays = model_input(seen.data, manifest.spec, profile().baseline).arrays
        expected = {"+".join(names): arrays} | {m: {m: arrays[m]} for m in names}
        found = read_profile(tmp_path / "ada.json").examples[-1].embedding
        assert set(found) == set(expected)
        for mask, shown in expected.items():
            assert np.array_equal(np.float32(found[mask]), classifier.outputs(shown)[1])


# --- the harness ----------------------------------------------------------------------------------------------------


class InTheFile(EmoBed):
    """What the evaluation asks of a network, answered by the device's file."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(EmoBedConfig(**TINY, embedding=8, ecg_times=7680, eda_times=240))
        self.classifier = classifier

    def _rows(self, which: int, ecg: torch.Tensor, eda: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows = []
        for i in range(len(ecg)):
            given = {"ecg": ecg[i, :, 0].numpy(), "eda": eda[i, :, 0].numpy()}
            rows.append(self.classifier.outputs({m: given[m] for k, m in enumerate(MODALITIES) if mask[i, k]})[which])
        return torch.from_numpy(np.stack([row for row in rows if row is not None]))

    def forward(self, ecg: torch.Tensor, eda: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._rows(0, ecg, eda, mask)

    def embedding(self, ecg: torch.Tensor, eda: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self._rows(1, ecg, eda, mask)


def as_in_training(seen: Sequence[Window], label: Sequence[int]) -> Windows:
    n = len(seen)
    arrays = [model_input(w.data, default_spec()).arrays for w in seen]
    shape = {"ecg": (2, 7680), "eda": (2, 240)}
    ecg, eda = (np.stack([a.get(m, np.zeros(shape[m], np.float32)) for a in arrays]) for m in MODALITIES)
    return Windows(
        ecg,
        eda,
        np.array([[m in w.data for m in MODALITIES] for w in seen]),
        np.array(label),
        np.empty((n, 0), np.float32),
        np.full(n, "P0"),
        np.array([w.start for w in seen]),
        np.ones(n, bool),
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_device_does_what_the_evaluation_did(bundle: Bundle, tmp_path: Path, n: int) -> None:
    """The same windows, shown and judged by train/fewshot.py and by the wearer himself."""
    sqi = [GOOD, GOOD, {"ecg": 1.0}, GOOD, {"eda": 1.0}, GOOD, GOOD, {"ecg": 1.0}, GOOD, GOOD, {"eda": 1.0}, GOOD]
    seen = [at(12 * i, s) for i, s in enumerate(sqi)]
    label = [i % 2 for i in range(len(seen))]
    windows, index = as_in_training(seen, label), np.arange(len(seen))
    assert bundle.manifest.space is not None
    sure = Confidence(dict.fromkeys(MASKS, 1.0), dict.fromkeys(MASKS, 0.0), dict.fromkeys(MASKS, 1e6))
    model = InTheFile(Classifier(bundle))
    left, found = judged_by_shots(model, windows, index, SHOWN["both"], sure, bundle.manifest.space, 60.0, (0, n))
    ada = Life(bundle, tmp_path / "ada.json", profile())
    for i in support(windows.label, windows.start, n, 60.0):
        ada.see(seen[i])
        ada.ask(label=LABELS[label[i]])
    judged = [ada.see(seen[i]).probabilities for i in left]
    assert len(judged) >= 6
    assert np.allclose([list(p.values()) for p in judged if p is not None], found[n], atol=1e-6)
    assert not np.allclose(found[n], found[0], atol=1e-4)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_labels_that_contradict_are_refused_until_one_is_taken_back(ada: Life) -> None:
    ada.see(at(0))
    ada.ask(label="rest")
    taught = ada.says()
    for index, wait in ((0, 60), (1, 55), (11, 5)):
        ada.see(at(index))
        message = rf"labelled 'rest' already; take that back first \(`affectd label rest --undo`\), or wait {wait} s"
        with pytest.raises(LabelError, match=message):
            ada.ask(label="stress")
        with pytest.raises(LabelError, match=f"are an example of 'rest' already; label again in {wait} s"):
            ada.ask(label="rest")
    assert ada.says() == taught and ada.counts() == {"rest": 1, "stress": 0}
    ada.see(at(12))  # the next minute
    ada.ask(label="stress")
    ada.ask(undo=True)
    ada.ask(undo=True)
    ada.see(at(13))
    ada.ask(label="stress")
    assert ada.counts() == {"rest": 0, "stress": 1}


def test_the_newest_that_was_classified_is_meant_while_it_is_not_stale(ada: Life) -> None:
    ada.see(at(0))
    ada.see(at(3, {"ecg": 0.1, "eda": 0.1}, "contact"))
    answer = ada.ask(label="rest")
    assert answer.change is not None and answer.change.age_s == 17.0
    ada.ask(undo=True)
    ada.clock += STALE_S - 17.0 - 0.1
    ada.ask(label="rest")
    ada.ask(undo=True)
    ada.clock += 0.2
    with pytest.raises(LabelError, match="a sensor has no contact with the skin; see `affectd status`"):
        ada.ask(label="rest")


def nothing(ada: Life) -> None:
    pass


def one(ada: Life) -> None:
    ada.see(at(0))


def silent(ada: Life) -> None:
    ada.see(at(0))
    ada.clock += 300.0


def poor(ada: Life) -> None:
    ada.see(at(0, {"ecg": 0.1, "eda": 0.1}, "noise"))


def later(ada: Life) -> None:
    one(ada)
    assert ada.place is not None
    ada.place.write_text(ada.place.read_text().replace("affectd-profile/1", "affectd-profile/2"))


def damaged(ada: Life) -> None:
    one(ada)
    assert ada.place is not None
    ada.place.write_text(ada.place.read_text()[:-10])


def gone(ada: Life) -> None:
    one(ada)
    assert ada.place is not None
    ada.place.unlink()


def far_away(ada: Life) -> None:
    """In a folder that nobody may write to, root included: the folder is a file system of the kernel's."""
    one(ada)
    assert ada.place is not None
    ada.place.unlink()
    ada.place.symlink_to("/proc/self/status")


REFUSED: dict[str, tuple[Callable[[Life], None], dict[str, Any], str]] = {
    "misspelt": (
        one,
        {"label": "sress"},
        r"unknown label 'sress' \(did you mean 'stress'\?\); bundle tiny has rest, st",
    ),
    "in capitals": (one, {"label": "STRESS"}, r"did you mean 'stress'"),
    "unknown": (one, {"label": "joy"}, r"unknown label 'joy'; bundle tiny has rest, stress"),
    "no window": (nothing, {"label": "rest"}, r"there is no window yet; wait a minute or two"),
    "silence": (
        silent,
        {"label": "rest"},
        r"the newest window ended 302 s ago, 60 s are the most; `affectd status` says",
    ),
    "poor signals": (
        poor,
        {"label": "rest"},
        r"nothing of the last 60 s was classified: the signals are too poor; see",
    ),
    "later profile": (later, {"label": "rest"}, r"format: 'affectd-profile/2' where this affectd reads"),
    "damaged profile": (damaged, {"label": "rest"}, r"no profile, or a damaged one"),
    "no profile": (gone, {"label": "rest"}, r"ada\.json is not there yet; record a baseline first: `affectd baseline`"),
    "nothing to forget in": (gone, {"forget": True}, r"record a baseline first"),
    "another file": (far_away, {"label": "rest"}, r"no profile, or a damaged one"),
    "nothing to take back": (one, {"undo": True}, r"no window is labelled"),
    "no text": (one, {"label": 3}, r"no request for one: Expected `str"),
    "unknown key": (one, {"lable": "rest"}, r"no request for one: Object contains unknown field"),
    "both": (one, {"label": "rest", "forget": True}, r"forget goes alone"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_is_refused_in_one_line_and_nothing_is_lost(ada: Life, case: str) -> None:
    prepare, request, message = REFUSED[case]
    plain = ada.says()
    prepare(ada)
    assert ada.place is not None
    before = ada.place.read_bytes() if ada.place.exists() and not ada.place.is_symlink() else None
    with pytest.raises((LabelError, ProfileError), match=message) as caught:
        ada.ask(**request)
    assert "; " in str(caught.value) and "\n" not in str(caught.value)
    assert ada.says() == plain
    if before is not None:
        assert ada.place.read_bytes() == before


def test_a_place_that_cannot_be_written_changes_nothing(ada: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    ada.see(at(0))
    plain = ada.says()
    assert ada.place is not None
    before = ada.place.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ProfileError, match=r"cannot be written: .*No space left on device; choose a file in a folder"):
        ada.ask(label="rest")
    monkeypatch.undo()
    assert ada.says() == plain and ada.place.read_bytes() == before
    assert [p.name for p in ada.place.parent.iterdir() if "ada" in p.name] == ["ada.json"]
    assert ada.ask(label="rest").in_use


def test_another_subject_s_profile_gets_no_label(bundle: Bundle, tmp_path: Path) -> None:
    life = Life(bundle, tmp_path / "p.json", profile(subject="P07"))
    life.see(at(0, dict.fromkeys(MODALITIES, 1.0)))
    life.labelling = Labelling(life.place, life, lambda: life.clock, subject="P08")
    before = (tmp_path / "p.json").read_bytes()
    for request in ({"label": LABELS[0]}, {"undo": True}, {"forget": True}):
        with pytest.raises(ProfileError, match="is the profile of P07, not of P08"):
            life.ask(**request)
    assert (tmp_path / "p.json").read_bytes() == before


def test_without_a_place_or_a_space_the_remedy_is_told(bundle: Bundle, tmp_path: Path) -> None:
    homeless = Life(bundle, None)
    homeless.see(at(0))
    with pytest.raises(
        LabelError, match=r"no file for it; set \[person\] profile, and record a baseline: `affectd base"
    ):
        homeless.ask(label="rest")
    assert homeless.ask().labels == LABELS
    plain = Life(tiny_bundle(tmp_path / "plain.affect"), tmp_path / "ada.json", profile())
    plain.see(at(0))
    message = "bundle tiny cannot use labels: it has no embedding space for them; use a bundle of the network emobed"
    with pytest.raises(LabelError, match=message):
        plain.ask(label="rest")
    assert plain.ask().reason is not None


def test_an_example_of_no_numbers_is_a_damaged_profile(ada: Life) -> None:
    ada.see(at(0))
    ada.ask(label="rest")
    assert ada.place is not None
    assert stat.S_IMODE(ada.place.stat().st_mode) == 0o600
    tree = json.loads(ada.place.read_text())
    for embedding in ({}, {"ecg": [1e999]}, {"ecg": ["x"]}):
        tree["examples"][0]["embedding"] = embedding
        ada.place.write_text(json.dumps(tree))
        with pytest.raises(ProfileError, match="no profile, or a damaged one"):
            read_profile(ada.place)


def test_today_s_profiles_are_read_and_a_new_baseline_keeps_the_labels(ada: Life, tmp_path: Path) -> None:
    assert ada.place is not None
    tree = json.loads(ada.place.read_text())
    del tree["examples"]
    ada.place.write_text(json.dumps(tree))
    assert read_profile(ada.place) == profile()
    ada.see(at(0))
    ada.ask(label="rest")
    new = profile(rest_s=120.0)
    kept = with_labels_at(ada.place, new)
    assert kept == msgspec.structs.replace(new, examples=read_profile(ada.place).examples) != new
    assert with_labels_at(tmp_path / "none.json", new) == new


# --- told to people -------------------------------------------------------------------------------------------------


def test_it_is_told_in_plain_words(ada: Life) -> None:
    assert known(ada.ask()) == ["bundle tiny has rest, stress"]
    assert listed(ada.ask()) == ["No window is labelled."]
    ada.see(at(0))
    assert changed(ada.ask(label="stress")) == [
        "The window that ended 2 s ago is an example of stress (from ecg+eda).",
        "bundle tiny, in use: stress 1",
    ]
    back = changed(ada.ask(undo=True))
    assert back[0].startswith("Taken back: stress, labelled 20") and back[1:] == ["No window is labelled."]
    assert changed(ada.ask(forget=True)) == ["Forgot 0 windows; predictions are as before the first label."]


# --- in the running daemon ------------------------------------------------------------------------------------------

SENT = [n for n in wearer_at_rest.sent() if n.host_ns <= wearer_at_rest.sent()[0].host_ns + 130e9]
ENOUGH = len(SENT) * 3 // 4


class Living:
    """Both sensors. After three quarters they send little by little, until the daemon predicts; then they wait until
    ``go_on``, and at the end until ``leave``."""

    name = "both"
    streams = wearer_at_rest.infos()

    def __init__(self) -> None:
        self.predicts, self.go_on, self.leave = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def notifications(self) -> AsyncGenerator[Notification, None]:
        for i, notification in enumerate(SENT):
            if i >= ENOUGH:  # the network is loaded meanwhile, and looks at what has come when more comes
                if self.predicts.is_set():
                    await self.go_on.wait()
                else:
                    await asyncio.sleep(0.1)
            yield notification
        await self.leave.wait()


@pytest.fixture
def config(tmp_path: Path, bundle: Bundle) -> Config:
    write_profile(tmp_path / "ada.json", profile())
    return Config(
        sensors=(Sensor(role="ecg", name="chest", address="A0:9E:1A:00:00:01", protocol="polar-pmd-ecg"),),
        inference=InferenceConfig(bundle=bundle.path),
        person=PersonConfig(profile=str(tmp_path / "ada.json")),
        control=ControlConfig(socket=str(tmp_path / "s")),
        recording=RecordingConfig(directory=str(tmp_path / "recordings")),
        sinks=SinksConfig(jsonl=JsonlConfig(path=str(tmp_path / "out.jsonl"), queue=1000)),
    )


async def daemon(config: Config, talk: Callable[[], Any]) -> list[dict[str, Any]]:
    """What the daemon says, asked by ``talk`` when three quarters have come."""
    source, path = Living(), Path(config.control.socket)
    assert config.sinks.jsonl is not None
    Path(config.sinks.jsonl.path).unlink(missing_ok=True)
    async with asyncio.timeout(300):
        running = asyncio.create_task(run(config, sources=[source], stop=asyncio.Event()))
        while not running.done():
            with contextlib.suppress(DaemonError):  # it does not listen yet
                if (await status(path))["predictions"] > 2:
                    break
            await asyncio.sleep(0.01)
        source.predicts.set()
        try:
            await talk()
        finally:
            source.go_on.set()
            source.leave.set()
            await running
    lines = [json.loads(line) for line in Path(config.sinks.jsonl.path).read_text().splitlines()]
    return [line for line in lines if "clock" not in line]


def replayed(config: Config, bundle: Bundle, shots: Any = None) -> list[dict[str, Any]]:
    path = sorted(Path(config.recording.directory).iterdir())[0]
    reader = RecordingReader(path)
    session = open_session(bundle, reader.streams, shots=shots)
    found = [p for arrival in reader for p in session.push(arrival)] + session.flush()
    return [json.loads(json.dumps(p.to_json())) for p in found]


def test_over_the_socket_it_is_used_from_the_next_window_on_and_after_a_restart(
    config: Config,
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    socket = Path(config.control.socket)

    async def label() -> None:
        assert (await status(socket))["shots"] == {"examples": {}, "in_use": False, "reason": None}
        async with ask(socket, {"do": "label", "label": "stress"}) as answers:
            answer = (await anext(answers))["labels"]
        assert (answer["change"]["did"], answer["in_use"]) == ("labelled", True)
        with pytest.raises(DaemonError, match="some of these 60 s are labelled 'stress' already; take that back first"):
            async with ask(socket, {"do": "label", "label": "rest"}):
                pass
        assert (await status(socket))["shots"] == {"examples": {"stress": 1}, "in_use": True, "reason": None}

    said = asyncio.run(daemon(config, label))
    (kept,) = read_profile(tmp_path / "ada.json").examples
    plain, taught = replayed(config, bundle), replayed(config, bundle, shots_of([kept], LABELS))
    assert len(said) == len(plain) and plain != taught
    assert [n for n in range(1, len(said)) if said[:n] == plain[:n] and said[n:] == taught[n:]]
    for secret in ("stress", *(str(x) for x in kept.embedding["ecg"] if x)):
        assert secret not in caplog.text

    async def commands() -> None:
        async def affectd_(*args: str) -> tuple[int, str, str]:
            return await asyncio.to_thread(affectd, capsys, monkeypatch, *args, "--socket", str(socket))

        assert await affectd_("label") == (0, "bundle tiny has rest, stress\n", "")
        assert await affectd_("label", "--list") == (0, "bundle tiny, in use: stress 1\n", "")
        code, text, _ = await affectd_("label", "--list", "--json")
        assert code == 0 and json.loads(text)["kept"][0]["examples"] == {"stress": 1}
        code, _, err = await affectd_("label", "sress")
        assert code == 2 and "did you mean 'stress'" in err and err.count("\n") == 1
        code, text, _ = await affectd_("label", "rest")  # of this run: overlaps nothing
        assert code == 0 and "an example of rest" in text
        code, text, _ = await affectd_("label", "--undo")
        assert code == 0 and text.startswith("Taken back: rest")
        code, text, _ = await affectd_("status")
        assert "labels of your own: stress 1\n" in text

    assert asyncio.run(daemon(config, commands)) == taught  # the label of the run before, from the first window on

    recording = sorted(Path(config.recording.directory).iterdir())[0]
    out = tmp_path / "replayed.jsonl"
    args = ("replay", recording, "--bundle", bundle.path, "--profile", tmp_path / "ada.json", "--out", out)
    code, _, err = affectd(capsys, monkeypatch, *args)
    assert (code, err) == (0, "")
    clock, *lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert clock["begins_run"] and lines == taught


BAD = {
    "two things": (["stress", "--list"], "choose one of LABEL, --undo, --list and --forget"),
    "two more": (["--undo", "--forget"], "choose one of LABEL, --undo, --list and --forget"),
    "yes to nothing": (["--yes"], "--yes goes with --forget"),
    "no daemon": (["stress"], "no affectd listens there"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_commands_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    args, message = BAD[case]
    code, _, err = affectd(capsys, monkeypatch, "label", *args, "--socket", tmp_path / "none.sock")
    assert code == 2 and message in err and err.count("\n") == 1
