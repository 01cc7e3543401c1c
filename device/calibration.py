"""Chooses the bundle: the calibrated one where the wearer's profile serves it, else the one for cold start; and which
of the wearer's own labels serve it.

It knows nothing of how a profile is recorded or of how a network is run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from device.bundle import DEFAULT_BUNDLE, MODEL, Bundle, check_streams, read_bundle
from device.config import InferenceConfig
from device.errors import BaselineError, BundleError, ProfileError
from device.pipeline.model_input import Baseline
from device.pipeline.spec import SignalSpec
from device.profile import Profile, check_fit, check_subject, fingerprint, read_profile
from device.signing import check_trusted
from device.space import Example, Shots, shots_of, usable
from firmware_bridge.packet import StreamInfo

UNUSED = "no bundle in use reads a profile; name a calibrated one as [inference] calibrated"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `affectd status` says of it."""

    mode: Literal["cold_start", "calibrated"]
    person: str | None = None
    """What the wearer wants to be called."""
    reason: str | None = None
    """Why it is cold start although a profile is configured."""


NO_SPACE = "it has no embedding space for them; use a bundle of the network emobed"
OTHER_NETWORK = "made with another network; label anew, or go back to its bundle"


@dataclass(frozen=True, slots=True)
class OwnLabels:
    """What `affectd status` says of the wearer's own labels."""

    examples: dict[str, int] = field(default_factory=dict)
    """Windows of each class; those in use, or else those that are not."""
    in_use: bool = False
    reason: str | None = None
    """Why they are not used although there are some."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What predictions are made with."""

    bundle: Bundle
    baseline: Baseline | None
    calibration: Calibration
    shots: Shots | None = None
    """The wearer's own labelled windows that serve the bundle's network."""
    labels: OwnLabels = OwnLabels()


def network_of(bundle: Bundle) -> str:
    """What tells a network from another: sha256, hex, of the tflite file."""
    return bundle.manifest.sha256[MODEL]


def own_labels(bundle: Bundle, examples: Sequence[Example]) -> tuple[Shots | None, OwnLabels]:
    """What the wearer's labelled windows are to a bundle's network."""
    manifest = bundle.manifest
    if not examples:
        return None, OwnLabels()
    if manifest.space is None:
        return None, OwnLabels(_counted(examples), reason=f"bundle {manifest.name}: {NO_SPACE}")
    mine = usable(examples, network_of(bundle), manifest.labels, manifest.space)
    if not mine:
        return None, OwnLabels(_counted(examples), reason=OTHER_NETWORK)
    return shots_of(mine, manifest.labels), OwnLabels(_counted(mine), in_use=True)


def _counted(examples: Sequence[Example]) -> dict[str, int]:
    return dict(Counter(example.label for example in examples))


def with_labels(choice: Choice, examples: Sequence[Example]) -> Choice:
    """The same choice with what of the wearer's labelled windows serves it."""
    shots, labels = own_labels(choice.bundle, examples)
    return replace(choice, shots=shots, labels=labels)


def check_baseline(bundle: Bundle, baseline: Baseline | None) -> None:
    """Raise BundleError where a bundle needs the wearer's baseline and there is none."""
    if bundle.manifest.spec.needs_baseline and baseline is None:
        remedy = "record one (`affectd baseline --recording`), or use a bundle that works without"
        raise BundleError(bundle.path, "spec", "needs the wearer's resting baseline, and there is none", remedy)


class Models:
    """The configured bundles, checked against the attached sensors; raises BundleError where one cannot be used."""

    def __init__(self, config: InferenceConfig, infos: Collection[StreamInfo]) -> None:
        self._modalities = tuple(info.modality for info in infos)
        read = partial(_read, infos=infos, trusted=None if config.trusted is None else Path(config.trusted))
        self._cold = read(config.bundle or DEFAULT_BUNDLE)
        self._calibrated = None if config.calibrated is None else read(config.calibrated)
        if self._calibrated is not None and not self._calibrated.manifest.spec.needs_baseline:
            remedy = "name it as [inference] bundle"
            raise BundleError(self._calibrated.path, "spec", "is not calibrated: it needs no baseline", remedy)

    def choose(self, path: Path | None, subject: str | None = None) -> Choice:
        """What the profile in a file allows; a profile that cannot be used is a reason, never an error."""
        if path is None:
            return Choice(self._cold, None, Calibration("cold_start"))
        examples: Sequence[Example] = ()
        try:
            profile = read_profile(path)
            check_subject(profile, subject, path)
            examples = profile.examples
            return self.choice_for(profile, path)
        except ProfileError as error:
            return with_labels(Choice(self._cold, None, Calibration("cold_start", reason=str(error))), examples)

    def choice_for(self, profile: Profile, path: Path) -> Choice:
        """The first bundle that the profile serves; raises ProfileError where it serves none that wants one."""
        refusals = []
        for bundle in self._wanting():
            try:
                check_fit(profile, bundle.manifest.spec, self._modalities, path)
            except ProfileError as error:
                refusals.append(error)
            else:
                calibration = Calibration("calibrated", profile.person)
                return with_labels(Choice(bundle, profile.baseline, calibration), profile.examples)
        if refusals:
            raise refusals[0]
        return with_labels(Choice(self._cold, None, Calibration("cold_start", reason=UNUSED)), profile.examples)

    def check_windows(self, spec: SignalSpec) -> None:
        """Raise BaselineError where a baseline of windows of this spec would serve no bundle that wants one."""
        wanting = self._wanting()
        if wanting and fingerprint(spec) not in {fingerprint(bundle.manifest.spec) for bundle in wanting}:
            reason = f"{wanting[0].path} reads other windows than the bundle that runs"
            remedy = f"take it from a recording: `affectd baseline --recording FILE --bundle {wanting[0].path}`"
            raise BaselineError("", reason, remedy)

    def _wanting(self) -> list[Bundle]:
        known = (bundle for bundle in (self._calibrated, self._cold) if bundle is not None)
        return [bundle for bundle in known if bundle.manifest.spec.needs_baseline]


def _read(path: str | Path, infos: Collection[StreamInfo], trusted: Path | None) -> Bundle:
    bundle = read_bundle(path)
    if trusted is not None:
        check_trusted(bundle, trusted)
    check_streams(bundle.manifest.spec, infos, bundle.path, bundle.manifest.modalities)
    return bundle
