"""Goes over to another bundle while the daemon runs: read, verified and tried first, then changed between two arrivals.

All that can fail comes before the change, so that where anything does the old network goes on as if nobody had asked.
It knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from device.calibration import Choice, Models, check_baseline
from device.config import Config, profile_of
from device.errors import BaselineError, RequestError
from device.inference import Classifier, Prediction
from device.labelling import Labelling
from device.profile import fingerprint
from device.resting import Resting
from device.selftest import check_probe
from device.status import Status
from firmware_bridge.packet import StreamInfo

if TYPE_CHECKING:
    from device.session import Session

_log = logging.getLogger(__name__)


class BundleRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for."""

    path: str
    """Absolute, as the daemon sees it."""


class Switched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is predicted with now."""

    bundle: str
    """Its name."""
    sha256: str
    before: str
    """sha256 of the one before."""
    runtime: str
    largest_difference: float
    """Of a logit in its self-test, to when it was made."""
    warms_up: bool
    """Whether it reads other windows than the one before, which begin anew."""
    calibrated: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network that may be gone over to."""

    before: Choice
    """What was predicted with when it was begun."""
    config: Config
    models: Models
    choice: Choice
    classifier: Classifier
    largest_difference: float


class Switching:
    """Changes what predictions are made with.

    ``mark`` makes an event, ``publish`` takes what the old network says last, ``renew`` hears of the new one.
    """

    def __init__(
        self,
        config: Config,
        infos: Collection[StreamInfo],
        status: Status,
        resting: Resting,
        labelling: Labelling,
        publish: Callable[[Iterable[Prediction]], None],
        mark: Callable[[str], object],
        renew: Callable[[Choice], None],
    ) -> None:
        self.config = config
        """Its ``inference`` and ``person`` are those in use."""
        self._infos = infos
        self._status = status
        self._resting = resting
        self._labelling = labelling
        self._publish = publish
        self._mark = mark
        self._renew = renew
        self.changing = asyncio.Lock()
        """Held from preparing to going over."""

    async def answers(self, request: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The answer to `affectd bundle use`; raises DeviceError, and then the old network goes on."""
        try:
            asked = msgspec.convert(request, BundleRequest)
        except msgspec.ValidationError as error:
            raise RequestError(f"no bundle: {error}", "use the affectd of the same version") from error
        if not Path(asked.path).is_absolute():
            raise RequestError(f"{asked.path}: not an absolute path", "give the whole path, as the daemon sees it")
        async with self.changing:
            inference = msgspec.structs.replace(self.config.inference, bundle=asked.path, calibrated=None)
            switched = self.go_over(await self.prepared(msgspec.structs.replace(self.config, inference=inference)))
        yield {"switched": msgspec.to_builtins(switched)}

    async def prepared(self, config: Config) -> Prepared:
        """Read, verify and try what a configuration names; raises BundleError, KeyFileError, InferenceError, and
        RequestError while there is nothing to change."""
        self._check_free()
        return await asyncio.to_thread(self._prepare, config, self._status.choice)

    def _prepare(self, config: Config, before: Choice) -> Prepared:
        inference = config.inference
        models = Models(inference, self._infos)
        choice = models.choose(profile_of(config), config.person.subject)
        check_baseline(choice.bundle, choice.baseline)
        _, worst = check_probe(choice.bundle, inference.runtime)
        classifier = Classifier(choice.bundle, inference.runtime, inference.threads)
        return Prepared(before, config, models, choice, classifier, worst)

    def go_over(self, prepared: Prepared) -> Switched:
        """Predict with it from the next arrival on; raises RequestError or SpecError, and then nothing has changed.

        Where both read the same windows not one is lost; else those that are begun end here, and the new ones warm up.
        """
        session, choice, old = self._check_free(), prepared.choice, self._status.choice
        if old is not prepared.before:
            raise RequestError("the wearer has labelled something meanwhile", "try again")
        spec = choice.bundle.manifest.spec
        warms_up = fingerprint(spec) != fingerprint(old.bundle.manifest.spec)
        if warms_up:
            self._publish(session.go_over(spec, prepared.classifier, choice.baseline, choice.shots))
        else:
            session.use(prepared.classifier, choice.baseline, choice.shots)
        self.config = prepared.config
        self._status.choice = choice
        self._resting.use(prepared.config, prepared.models, choice)
        self._labelling.use(profile_of(prepared.config), forget=warms_up)
        self._renew(choice)
        self._mark(f"affectd: bundle {choice.bundle.sha256}")
        _log.info("bundle %s, sha256 %s", choice.bundle.manifest.name, choice.bundle.sha256)
        return Switched(
            bundle=choice.bundle.manifest.name,
            sha256=choice.bundle.sha256,
            before=old.bundle.sha256,
            runtime=prepared.classifier.runtime,
            largest_difference=prepared.largest_difference,
            warms_up=warms_up,
            calibrated=choice.baseline is not None,
        )

    def _check_free(self) -> Session:
        """The session, where it may be changed; raises RequestError, BaselineError."""
        if self._status.session is None:
            raise RequestError("the network is still loading", "try again in some seconds")
        if self._resting.busy:
            raise BaselineError("", "one is being recorded", "wait until it is over")
        return self._status.session
