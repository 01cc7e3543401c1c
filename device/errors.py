"""Errors of device; each one's text is one line that names the place and the remedy.

They know nothing of how the command line shows them.

DeviceError
+-- FileError             a file that cannot be used; carries path, place, reason, remedy
|   +-- BundleError       a model bundle; place is the part, the key or the sensor's stream
|   +-- RecordingError    a recording; place is a byte offset or the name of a part
|   +-- ConfigError       a configuration file; place is a line number or the name of a key
|   +-- KeyFileError      a file of keys; place is a line number
|   +-- ProfileError      a person's profile; place is the name of a key
|   +-- ControlError      the socket that the daemon listens at
|   +-- StateError        a file of what outlives a restart
+-- BaselineError         a rest that gives no baseline; carries place (a modality, or empty), reason, remedy
+-- LabelError            a window that cannot be labelled, or no label to take back; carries reason, remedy
+-- RequestError          a running daemon cannot do what it is asked; carries reason, remedy
+-- EventError            what cannot be marked; carries reason, remedy
+-- InferenceError        the network cannot be run; carries reason, remedy
+-- SourceError           a source gives no notifications; carries source, reason, remedy
+-- SinkError             a sink takes no predictions; carries sink, reason, remedy
+-- WebError              the wearer's page cannot be served; carries reason, remedy
+-- InstallError          an installation cannot be made, or does not work; carries place, reason, remedy
"""

from __future__ import annotations

import os
from typing import ClassVar

from device.pipeline.errors import PortableError


class DeviceError(PortableError):
    """Root of every error device raises on purpose."""


def _one_line(*parts: str) -> str:
    """Join the parts that say something and fold line breaks, which a wrapped error's text may bring along."""
    return " ".join(": ".join(part for part in parts if part).split())


class FileError(DeviceError):
    """A file that cannot be used."""

    number: ClassVar[str] = "byte"
    """What ``place`` counts where it is a number."""

    def __init__(self, path: str | os.PathLike[str], place: str | int, reason: str, remedy: str) -> None:
        self.path = os.fspath(path)
        self.place = place
        self.reason = reason
        self.remedy = remedy
        where = f"{self.number} {place}" if isinstance(place, int) else place
        super().__init__(_one_line(self.path, where, f"{reason}; {remedy}" if remedy else reason))


class BundleError(FileError):
    """A model bundle that cannot be used; ``place`` is the part, the key or the sensor's stream."""


class RecordingError(FileError):
    """A recording that cannot be used; ``place`` is a byte offset or the name of a part."""


class KeyFileError(FileError):
    """A file of keys that cannot be used; ``place`` is a line number."""

    number: ClassVar[str] = "line"


class ConfigError(FileError):
    """A configuration file that cannot be used; ``place`` is a line number or the name of a key."""

    number = "line"


class ProfileError(FileError):
    """A person's profile that cannot be used; ``place`` is the name of a key."""


class ControlError(FileError):
    """A socket that the daemon cannot listen at."""


class StateError(FileError):
    """A file of what outlives a restart that cannot be used."""


class BaselineError(DeviceError):
    """A rest that gives no baseline."""

    def __init__(self, place: str, reason: str, remedy: str) -> None:
        self.place = place
        """A modality; empty where it is none's fault."""
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line("baseline", place, f"{reason}; {remedy}"))


class LabelError(DeviceError):
    """A window that cannot be labelled, or no label to take back."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line("label", f"{reason}; {remedy}"))


class RequestError(DeviceError):
    """A running daemon cannot do what it is asked."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line(f"{reason}; {remedy}"))


class EventError(DeviceError):
    """A description that says nothing, or too much."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line(f"{reason}; {remedy}"))


class InferenceError(DeviceError):
    """The network cannot be run here."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line(f"{reason}; {remedy}"))


class SourceError(DeviceError):
    """A source that gives no notifications."""

    def __init__(self, source: str, reason: str, remedy: str) -> None:
        self.source = source
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line(source, f"{reason}; {remedy}"))


class SinkError(DeviceError):
    """A sink that takes no predictions."""

    def __init__(self, sink: str, reason: str, remedy: str) -> None:
        self.sink = sink
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line(sink, f"{reason}; {remedy}"))


class WebError(DeviceError):
    """The wearer's page cannot be served."""

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line("web", f"{reason}; {remedy}"))


class InstallError(DeviceError):
    """An installation that cannot be made, or does not work."""

    def __init__(self, place: str, reason: str, remedy: str) -> None:
        self.place = place
        """A file, a command or a version."""
        self.reason = reason
        self.remedy = remedy
        super().__init__(_one_line(place, f"{reason}; {remedy}"))
