"""Errors of train.

TrainError
+-- DataError         a data set on disk is not what its published layout says; carries file, place and remedy
+-- TaskError         a task that is not known or contradicts itself; carries the task and the reason
+-- ConfigError       a configuration that cannot be used; carries file, place and remedy
+-- PrepareError      a Recording that cannot become windows; carries the subject and the reason
+-- CheckpointError   a checkpoint that cannot be used; carries file, place and remedy
+-- LeakError         something of a test subject reached training; carries what and where
+-- ResultError       a results file that is not what report expects; carries file, place and remedy
"""

from __future__ import annotations

from device.pipeline.errors import PortableError


def one_line(error: Exception) -> str:
    """What an error says, whatever lines it says it in."""
    return " ".join(str(error).split())


class TrainError(PortableError):
    """Root of every error this package raises on purpose."""


class _FileError(TrainError):
    """A file that cannot be used: one line naming file, place, reason and remedy."""

    def __init__(self, path: str, place: str, reason: str, remedy: str = "") -> None:
        self.path = path
        self.place = place
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{path}: {place}: {reason}" + (f"; {remedy}" if remedy else ""))


class DataError(_FileError):
    """A data set that does not follow its published layout."""


class CheckpointError(_FileError):
    """A checkpoint that cannot be read or does not fit the code."""


class ResultError(_FileError):
    """A results file that cannot be read."""


class ConfigError(_FileError):
    """A configuration that cannot be used."""


class TaskError(TrainError):
    """A task that cannot be asked."""

    def __init__(self, task: str, reason: str) -> None:
        self.task = task
        self.reason = reason
        super().__init__(f"task {task!r}: {reason}")


class PrepareError(TrainError):
    """A recording that gives no usable windows."""

    def __init__(self, subject: str, reason: str, remedy: str = "") -> None:
        self.subject = subject
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"subject {subject}: {reason}" + (f"; {remedy}" if remedy else ""))


class LeakError(TrainError):
    """Test data that reached training: the result would be worth nothing."""

    def __init__(self, what: str, where: str) -> None:
        self.what = what
        self.where = where
        super().__init__(f"leak in {where}: {what}")
