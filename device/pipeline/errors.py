"""Errors of device.pipeline.

PipelineError
+-- SpecError     a SignalSpec that contradicts itself, or that a sensor cannot satisfy; carries the place
"""

from __future__ import annotations


class PipelineError(Exception):
    """Root of every error the pipeline raises on purpose."""


class SpecError(PipelineError):
    """A SignalSpec that cannot be used."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(f"{place}: {reason}")
