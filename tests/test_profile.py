"""A person's profile: read back as written, refused with place and remedy where it cannot serve."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wearer_at_rest import profile

from device.errors import ProfileError
from device.pipeline.model_input import Baseline
from device.pipeline.spec import MODALITIES, SignalSpec, default_spec
from device.profile import (
    MAX_BYTES,
    Profile,
    check_fit,
    check_place,
    check_subject,
    fingerprint,
    read_profile,
    with_labels_at,
    write_profile,
)
from device.space import Example

numbers = st.floats(allow_nan=False, allow_infinity=False)
names = st.none() | st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1).filter(
    lambda text: bool(text.strip()) and text.isprintable()
)
profiles = st.builds(
    lambda person, seconds, sqi, hr, n: profile(
        person=person,
        rest_s=seconds,
        sqi={"ecg": sqi, "eda": 1 - sqi},
        baseline=Baseline({"ecg": 0.0, "hr": hr, "tonic": -hr, "phasic": 0.0}, n),
    ),
    names,
    st.floats(1e-3, 1e6),
    st.floats(0, 1),
    numbers,
    st.integers(1, 10**6),
)


@given(written=profiles)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, written: Profile) -> None:
    path = tmp_path_factory.mktemp("p") / "person.json"
    write_profile(path, written)
    assert read_profile(path) == written


def test_it_is_for_the_owners_eyes_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "people" / "ada.json"
    write_profile(path, profile())
    first = path.open()  # a reader of the old one keeps the old one
    write_profile(path, profile(person="Grace"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["ada.json"]
    with first:
        assert json.load(first)["person"] == "Ada"
    assert read_profile(path).person == "Grace"


def damaged(**changes: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        tree = json.loads(data)
        for key, value in changes.items():
            parent, _, leaf = key.rpartition("__")
            (tree[parent] if parent else tree)[leaf] = value
        return json.dumps(tree).encode()

    return change


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda data: data[:-40], "no profile, or a damaged one"),
    "nothing": (lambda _: b"", "no profile, or a damaged one"),
    "no JSON": (lambda _: b"\x89affrec\n", "no profile, or a damaged one"),
    "another file": (lambda _: b'{"sensors": []}', "no profile, or a damaged one"),
    "nested": (lambda _: b'{"format":' + b"[" * 100_000, "no profile, or a damaged one"),
    "later format": (damaged(format="affectd-profile/2"), "format: 'affectd-profile/2' where this affectd reads"),
    "unknown key": (damaged(prototypes=[1]), "unknown field `prototypes`"),
    "unknown inner key": (damaged(baseline__spread={}), "baseline: no profile, or a damaged one"),
    "no name": (damaged(person=" "), "expected printable text"),
    "a name of two lines": (damaged(person="A\nB"), "expected printable text"),
    "no time zone": (damaged(created="2026-11-21T12:00:00"), "created: no profile"),
    "no modality": (damaged(modalities=[]), "expected some of ecg, eda"),
    "unknown modality": (damaged(modalities=["ecg", "emg"]), "expected some of ecg, eda"),
    "out of order": (damaged(modalities=["eda", "ecg"]), "expected some of ecg, eda"),
    "no rest": (damaged(rest_s=0), "rest_s and n_windows must be more than 0"),
    "no window": (damaged(baseline__n_windows=0), "rest_s and n_windows must be more than 0"),
    "no quality": (damaged(sqi={"ecg": 1.0}), "sqi must be from 0 to 1, once per modality"),
    "no such quality": (damaged(sqi={"ecg": 1.0, "eda": 1.5}), "sqi must be from 0 to 1"),
    "no number": (damaged(baseline__center={"hr": math.nan}), "no profile, or a damaged one"),
    "too large": (lambda data: data + b" " * MAX_BYTES, "larger than"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_with_its_place_and_a_remedy(tmp_path: Path, case: str) -> None:
    path = tmp_path / "ada.json"
    write_profile(path, profile())
    spoil, message = BAD[case]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ProfileError) as caught:
        read_profile(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_no_file_and_no_plain_file(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no such file; record a baseline with `affectd baseline`"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(ProfileError, match="is no file"):
        read_profile(tmp_path)
    for act in (read_profile, lambda path: write_profile(path, profile())):
        with pytest.raises(ProfileError):
            act(tmp_path / "a\0b")


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    other = tmp_path / "affectd.toml"
    other.write_text("[inference]\n")
    for path, reason in ((other, "is there and is no profile"), (other / "x.json", "cannot be written")):
        for write in (check_place, lambda path: write_profile(path, profile())):
            with pytest.raises(ProfileError, match=reason):
                write(path)
    assert other.read_text() == "[inference]\n"
    later = tmp_path / "later.json"
    later.write_text('{"format": "affectd-profile/9"}')
    write_profile(later, profile())
    assert read_profile(later) == profile()


def test_nobody_s_profile_is_written_over_by_another_s(tmp_path: Path) -> None:
    path = tmp_path / "ada.json"
    write_profile(path, profile(person="Ada"))
    with pytest.raises(ProfileError, match="person: is the profile of Ada, not of Bob; choose another file"):
        check_place(path, "Bob")
    check_place(path, "Ada")
    check_place(path)
    assert with_labels_at(path, profile(person=None)).person == "Ada"
    write_profile(path, profile(person=None))
    check_place(path, "Bob")
    assert with_labels_at(path, profile(person="Bob")).person == "Bob"


def test_one_subject_s_profile_serves_no_other(tmp_path: Path) -> None:
    path, when = tmp_path / "person.json", profile().created
    example = Example(label="rest", when=when, bundle="tiny", network="ab" * 32, embedding={"ecg": (0.6, 0.8)})
    write_profile(path, profile(person=None, subject="P07", examples=(example,)))
    with pytest.raises(ProfileError, match="subject: is the profile of P07, not of P08; choose another file"):
        check_place(path, None, "P08")
    with pytest.raises(ProfileError, match="subject: is the profile of P07, not of P08"):
        check_subject(read_profile(path), "P08", path)
    for same in ("P07", None):
        check_place(path, None, same)
        assert with_labels_at(path, profile(person=None, subject=same)).examples == (example,)
    assert not with_labels_at(path, profile(person=None, subject="P08")).examples
    check_subject(profile(), "P08", path)  # nobody's name is in it: it is whose it is used for


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of every value of a spec but the channels' names, which are fixed."""
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    elif path[-1] != "name":
        yield path


def changed(path: tuple[Any, ...]) -> SignalSpec:
    """The default spec with another value there that contradicts no other."""
    tree = json.loads(msgspec.json.encode(default_spec()))
    *parents, key = path
    part = tree
    for parent in parents:
        part = part[parent]
    others = {"mode": "baseline", "units": "kg", "order": 3, "sfreq": 2.0 * part["sfreq"] if "sfreq" in part else None}
    part[key] = others[key] if key in others else 0.5 * part[key] or 60.0
    return msgspec.convert(tree, SignalSpec)


AFTER_THE_WINDOW = {"clip", "knee", "center", "scale", "mode"}
PATHS = list(leaves(msgspec.to_builtins(default_spec())))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(map(str, path)))
def test_the_fingerprint_tells_of_all_that_shapes_a_window_and_of_nothing_else(path: tuple[Any, ...]) -> None:
    other = changed(path)
    assert other != default_spec()
    assert (fingerprint(other) == fingerprint(default_spec())) == (path[-1] in AFTER_THE_WINDOW)


def test_cold_start_and_calibrated_share_a_fingerprint_however_their_numbers_are_written() -> None:
    assert fingerprint(default_spec()) == fingerprint(default_spec(calibrated=True))
    assert fingerprint(msgspec.structs.replace(default_spec(), window_s=60)) == fingerprint(default_spec())
    assert len(bytes.fromhex(fingerprint(default_spec()))) == 32


def test_a_profile_serves_its_own_windows_and_sensors_only() -> None:
    calibrated = default_spec(calibrated=True)
    check_fit(profile(), calibrated, MODALITIES)
    check_fit(profile(), calibrated, ["eda"])
    check_fit(profile("ecg"), calibrated, ["ecg"])
    longer = msgspec.structs.replace(calibrated, window_s=30.0)
    with pytest.raises(ProfileError, match=r"p: fingerprint: made with another version .*; record a new one with"):
        check_fit(profile(), longer, MODALITIES, "p")
    with pytest.raises(ProfileError, match=r"p: modalities: serves ecg alone, and an eda sensor is attached; record"):
        check_fit(profile("ecg"), calibrated, MODALITIES, "p")
    lacks = profile(baseline=Baseline({"ecg": 0.0, "hr": 60.0, "tonic": 1.0, "phasic": 0.0}, 25))
    with pytest.raises(ProfileError, match=r"baseline hr_mean: is not in it: another affectd made it; record"):
        check_fit(lacks, calibrated, ["ecg"])
