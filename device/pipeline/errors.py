"""Errors of device.pipeline.

PipelineError
+-- SpecError     a SignalSpec that contradicts itself, or that a sensor cannot satisfy; carries the place
"""

from __future__ import annotations

import copyreg
from typing import Any


class PortableError(Exception):
    """An error made of other arguments than its text that nevertheless arrives whole from another process.

    The inherited way calls ``__init__`` with the text alone, which fails where the errors of workers are collected.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class PipelineError(PortableError):
    """Root of every error the pipeline raises on purpose."""


class SpecError(PipelineError):
    """A SignalSpec that cannot be used."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(f"{place}: {reason}")
