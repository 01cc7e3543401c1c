"""Errors of quantize; each one's text is one line that names file or step, place and remedy.

They know nothing of how the command line shows them.

QuantizeError                 (a bad checkpoint is train.errors.CheckpointError)
+-- CalibrationError    windows that must not or cannot calibrate; carries path, place, reason, remedy
+-- ResultsError        a results file the card cannot be written from; carries path, place, reason, remedy
+-- ExportError         the ONNX file is refused or differs from torch; carries reason, remedy
+-- GraphError          layers that will not survive; carries findings
+-- RoomError           a disk that would be full before the end; carries folder, reason, remedy
+-- ConvertError        the converter failed or its file is not full int8; carries reason, remedy, log, last_lines
+-- BenchError          a machine on which nothing could be timed; carries machine, reason, remedy
+-- NetworkError        a network of the user's that cannot be taken; carries source, reason, remedy
+-- McuError            a bundle that is nothing for microcontrollers; carries path, reason, remedy
+-- GateError           int8 differs too much from float; carries failures, report
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from device.pipeline.errors import PortableError


class QuantizeError(PortableError):
    """Root of every error this package raises on purpose."""


def one_line(*parts: str) -> str:
    """Join the parts that say something and fold line breaks, which a wrapped error's text may bring along."""
    return " ".join(": ".join(part for part in parts if part).split())


class _FileError(QuantizeError):
    """A file that cannot be used."""

    def __init__(self, path: str | os.PathLike[str], place: str, reason: str, remedy: str) -> None:
        self.path = os.fspath(path)
        self.place = place
        self.reason = reason
        self.remedy = remedy
        super().__init__(one_line(self.path, place, f"{reason}; {remedy}"))


class CalibrationError(_FileError):
    """Windows that must not or cannot calibrate; ``place`` is the array, the mask or the subjects."""


class ResultsError(_FileError):
    """A results file the card cannot be written from; ``place`` is its key."""


class ExportError(QuantizeError):
    """The ONNX file is refused by its checker or differs from the torch network."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(one_line("export to ONNX", f"{reason}; {remedy}"))


class GraphError(QuantizeError):
    """A network with layers that eight bits or the converter cannot take."""

    def __init__(self, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        """One line each: what, where in the model's source, why, and what to write instead."""
        rest = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(one_line("graph", f"{findings[0]}{rest}"))


class RoomError(QuantizeError):
    """A disk that would be full before the end."""

    def __init__(self, folder: Path, reason: str, remedy: str) -> None:
        self.folder = folder
        self.reason = reason
        self.remedy = remedy
        super().__init__(one_line(str(folder), f"{reason}; {remedy}"))


class ConvertError(QuantizeError):
    """The converter failed, or what it wrote is not the full int8 network that was asked for."""

    def __init__(self, reason: str, remedy: str, log: Path, last_lines: Sequence[str] = ()) -> None:
        self.reason = reason
        self.remedy = remedy
        self.log = log
        self.last_lines = tuple(last_lines)
        """The end of the converter's log."""
        super().__init__(one_line("conversion to int8", f"{reason}; {remedy}", f"log: {log}"))


class BenchError(QuantizeError):
    """A machine on which nothing could be timed."""

    def __init__(self, machine: str, reason: str, remedy: str) -> None:
        self.machine, self.reason, self.remedy = machine, reason, remedy
        super().__init__(one_line("bench", machine, f"{reason}; {remedy}"))


class NetworkError(QuantizeError):
    """A network of the user's, from a module or an ONNX file, that cannot be taken."""

    def __init__(self, source: str, reason: str, remedy: str) -> None:
        self.source, self.reason, self.remedy = source, reason, remedy
        super().__init__(one_line(source, f"{reason}; {remedy}"))


class McuError(QuantizeError):
    """A bundle that TensorFlow Lite Micro does not run, or runs to something else."""

    def __init__(self, path: str, reason: str, remedy: str) -> None:
        self.path, self.reason, self.remedy = path, reason, remedy
        super().__init__(one_line(path, f"{reason}; {remedy}"))


class GateError(QuantizeError):
    """The int8 network does not do what the float network does."""

    def __init__(self, failures: Sequence[str], report: Path, cause: str = "") -> None:
        self.failures = tuple(failures)
        self.report = report
        """The full report, kept so that the cause can be found."""
        self.cause = cause
        """Where in the network most is lost, as far as it is known."""
        remedy = "no bundle was written; train so that int8 keeps up, take --recipe auto, or give --force"
        what = "; ".join(part for part in (", ".join(self.failures), cause, remedy) if part)
        super().__init__(one_line("parity gate", what, f"report: {report}"))
