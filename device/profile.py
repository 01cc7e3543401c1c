"""A person's profile: how the wearer is at rest and what he has labelled, one JSON file.

It knows nothing of how a rest is recorded, of sensors or of networks.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from device.errors import ProfileError
from device.pipeline.features import OF
from device.pipeline.model_input import Baseline
from device.pipeline.spec import MODALITIES, SignalSpec
from device.space import KEPT, Example
from firmware_bridge import whole_file
from firmware_bridge.private import make_folder

FORMAT = "affectd-profile/1"
MAX_BYTES = 4 << 20
"""A profile is some kB, and up to 3 MB with ``KEPT`` labelled windows of the largest space that can be trained."""
RECORD = "record a new one with `affectd baseline`"
_AFTER_THE_WINDOW = ("clip",)
"""Keys of a SignalSpec that no window depends on."""
_CHANNEL = ("name", "units")
"""What of a channel a resting median depends on; how it is scaled for a network comes after."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One person's file. A key that is added later gets a default, so that the files of today stay readable."""

    format: str = FORMAT
    person: str | None = None
    """What the wearer wants to be called."""
    subject: str | None = None
    """What a study calls the wearer; None where nobody was named."""
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    """When the rest was recorded."""
    fingerprint: str
    """Of the SignalSpec whose windows it was made from: see ``fingerprint``."""
    modalities: tuple[str, ...]
    """Which it serves, in the order of ``MODALITIES``."""
    rest_s: float
    """Length of the rest in s."""
    sqi: dict[str, float]
    """Per modality: median quality of the rest's windows, 0 to 1."""
    baseline: Baseline
    """Resting medians per channel and mean features, with the number of windows they were taken from."""
    examples: tuple[Example, ...] = ()
    """The wearer's own labelled windows, the oldest first, of any network."""

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what contradicts itself."""
        check_person(self.person)
        if not self.modalities or list(self.modalities) != [m for m in MODALITIES if m in self.modalities]:
            raise ValueError(f"modalities {list(self.modalities)}: expected some of {', '.join(MODALITIES)}, in order")
        if not 0 < self.rest_s < math.inf or self.baseline.n_windows < 1:
            raise ValueError("rest_s and n_windows must be more than 0")
        if set(self.sqi) != set(self.modalities) or not all(0 <= sqi <= 1 for sqi in self.sqi.values()):
            raise ValueError("sqi must be from 0 to 1, once per modality")
        if not all(map(math.isfinite, (*self.baseline.center.values(), *self.baseline.features.values()))):
            raise ValueError("baseline must be finite")
        if len(self.examples) > KEPT:
            raise ValueError(f"{len(self.examples)} examples where {KEPT} are kept at most")


def check_person(person: str | None) -> None:
    """Raise ValueError for what nobody can be called."""
    if person is not None and not (person.strip() and person.isprintable()):
        raise ValueError(f"person {person!r}: expected printable text")


def fingerprint(spec: SignalSpec) -> str:
    """sha256, hex, of all that shapes a window and decides whether it counts.

    Rates, filters, warm-up and EDA context make the numbers of a window; its length makes the features, stride and
    join_wait_s the set of windows, sqi_min those of them that are used. Left out is what comes after the window: how a
    channel is scaled (mode, knee, center, scale) and clipped. So a cold-start and a calibrated spec of one version
    have one fingerprint, and where two specs do, a running session may change from one to the other.
    """
    exact = msgspec.convert(msgspec.to_builtins(spec), SignalSpec)  # 60 and 60.0 are one number
    shaping: dict[str, Any] = {k: v for k, v in msgspec.to_builtins(exact).items() if k not in _AFTER_THE_WINDOW}
    for modality in MODALITIES:
        channels = [{key: channel[key] for key in _CHANNEL} for channel in shaping[modality]["channels"]]
        shaping[modality] = shaping[modality] | {"channels": channels}
    return hashlib.sha256(msgspec.json.encode(shaping, order="sorted")).hexdigest()


def check_fit(profile: Profile, spec: SignalSpec, modalities: Iterable[str], path: Path | str = "") -> None:
    """Raise ProfileError where a profile does not serve a model of this spec with sensors of these modalities."""
    if profile.fingerprint != fingerprint(spec):
        reason = "made with another version of the model, whose windows are others"
        raise ProfileError(path, "fingerprint", reason, RECORD)
    for modality in modalities:
        if modality not in profile.modalities:
            reason = f"serves {'+'.join(profile.modalities)} alone, and an {modality} sensor is attached"
            raise ProfileError(path, "modalities", reason, f"{RECORD}, all sensors worn")
        known = (*profile.baseline.center, *profile.baseline.features)
        missing = [name for name in (*spec.ch_names(modality), *OF[modality]) if name not in known]
        if missing:
            raise ProfileError(path, f"baseline {missing[0]}", "is not in it: another affectd made it", RECORD)


def read_profile(path: Path) -> Profile:
    """Read and check a profile; raises ProfileError and nothing else for a bad file."""
    data = _read_bytes(path)
    try:
        version = msgspec.json.decode(data, type=_Format).format
        if version != FORMAT:
            reason = f"{version!r} where this affectd reads {FORMAT!r}"
            raise ProfileError(path, "format", reason, RECORD)
        return msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        reason, _, place = str(error).partition(" - at `$")
        raise ProfileError(path, place.strip("`."), f"no profile, or a damaged one: {reason}", RECORD) from error


def write_profile(path: Path, profile: Profile) -> None:
    """Replace the file as a whole or not at all, for the owner alone (0600); raises ProfileError."""
    check_place(path)
    data = msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"
    if len(data) > MAX_BYTES:
        raise ProfileError(
            path, "", f"would be larger than {MAX_BYTES} bytes", "forget labels: `affectd label --forget`"
        )
    try:
        make_folder(path.parent)
        whole_file.replace(path, data)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise ProfileError(path, "", f"cannot be written: {error}", _ELSEWHERE) from error


def with_labels_at(path: Path, profile: Profile) -> Profile:
    """A new baseline with name and labels of the profile that it will replace, if one can be read there."""
    try:
        before = read_profile(path)
        check_subject(before, profile.subject, path)
    except ProfileError:
        return profile
    return msgspec.structs.replace(profile, examples=before.examples, person=profile.person or before.person)


_ELSEWHERE = "choose a file in a folder that this user may write"


def check_place(path: Path, person: str | None = None, subject: str | None = None) -> None:
    """Raise ProfileError where no profile (of a person, of a subject) can be written, or something else would be lost:
    known before the rest."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        writable = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
        foreign = writable and path.exists() and not _is_ours(path)
    except OSError as error:
        raise ProfileError(path, "", f"cannot be written: {error}", _ELSEWHERE) from error
    if not writable:
        raise ProfileError(path, "", f"cannot be written: {folder} is no folder of this user's", _ELSEWHERE)
    if foreign:
        raise ProfileError(path, "", "is there and is no profile", "choose another file, or remove this one")
    _check_same(path, person, subject)


def _check_same(path: Path, person: str | None, subject: str | None) -> None:
    """Raise ProfileError where the file is somebody else's."""
    try:
        before = read_profile(path)
    except ProfileError:
        return
    check_subject(before, subject, path)
    _refuse_other(path, "person", before.person, person)


def check_subject(profile: Profile, subject: str | None, path: Path) -> None:
    """Raise ProfileError where a profile is of another subject; one of nobody's name is whose it is used for."""
    _refuse_other(path, "subject", profile.subject, subject)


def _refuse_other(path: Path, key: str, before: str | None, now: str | None) -> None:
    if now is not None and before is not None and before != now:
        remedy = "choose another file, or move this one away"
        raise ProfileError(path, key, f"is the profile of {before}, not of {now}", remedy)


class _Format(msgspec.Struct):
    """The one key that every version of a profile has."""

    format: str


def _is_ours(path: Path) -> bool:
    try:
        return msgspec.json.decode(_read_bytes(path), type=_Format).format.startswith(FORMAT.partition("/")[0])
    except (ProfileError, msgspec.DecodeError, ValueError, RecursionError):
        return False


def _read_bytes(path: Path) -> bytes:
    """The file, no more of it than a profile may hold."""
    try:
        if not path.exists():
            raise ProfileError(path, "", "no such file", "record a baseline with `affectd baseline`")
        if not path.is_file():  # a pipe or a device would block
            raise ProfileError(path, "", "is no file", "give the path of a profile")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProfileError(path, "", f"cannot be read: {error}", "make it a file that this user may read") from error
    if len(data) > MAX_BYTES:
        raise ProfileError(path, "", f"larger than {MAX_BYTES} bytes", "give the path of a profile")
    return data
