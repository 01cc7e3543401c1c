"""Chooses the bundle: the calibrated one where the wearer's profile serves it, else the one for cold start.

It knows nothing of how a profile is recorded or of how a network is run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from device.bundle import DEFAULT_BUNDLE, Bundle, check_streams, read_bundle
from device.config import InferenceConfig
from device.errors import BaselineError, BundleError, ProfileError
from device.pipeline.model_input import Baseline
from device.pipeline.spec import SignalSpec
from device.profile import Profile, check_fit, fingerprint, read_profile
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


@dataclass(frozen=True, slots=True)
class Choice:
    """What predictions are made with."""

    bundle: Bundle
    baseline: Baseline | None
    calibration: Calibration


class Models:
    """The configured bundles, checked against the attached sensors; raises BundleError where one cannot be used."""

    def __init__(self, config: InferenceConfig, infos: Collection[StreamInfo]) -> None:
        self._modalities = tuple(info.modality for info in infos)
        self._cold = _read(config.bundle or DEFAULT_BUNDLE, infos)
        self._calibrated = None if config.calibrated is None else _read(config.calibrated, infos)
        if self._calibrated is not None and not self._calibrated.manifest.spec.needs_baseline:
            remedy = "name it as [inference] bundle"
            raise BundleError(self._calibrated.path, "spec", "is not calibrated: it needs no baseline", remedy)

    def choose(self, path: Path | None) -> Choice:
        """What the profile in a file allows; a profile that cannot be used is a reason, never an error."""
        if path is None:
            return Choice(self._cold, None, Calibration("cold_start"))
        try:
            return self.choice_for(read_profile(path), path)
        except ProfileError as error:
            return Choice(self._cold, None, Calibration("cold_start", reason=str(error)))

    def choice_for(self, profile: Profile, path: Path) -> Choice:
        """The first bundle that the profile serves; raises ProfileError where it serves none that wants one."""
        refusals = []
        for bundle in self._wanting():
            try:
                check_fit(profile, bundle.manifest.spec, self._modalities, path)
            except ProfileError as error:
                refusals.append(error)
            else:
                return Choice(bundle, profile.baseline, Calibration("calibrated", profile.person))
        if refusals:
            raise refusals[0]
        return Choice(self._cold, None, Calibration("cold_start", reason=UNUSED))

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


def _read(path: str | Path, infos: Collection[StreamInfo]) -> Bundle:
    bundle = read_bundle(path)
    check_streams(bundle.manifest.spec, infos, bundle.path)
    return bundle
