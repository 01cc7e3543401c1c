"""Carries out the steps of an installation, on this machine or on a system below a folder.

It knows nothing of what the steps are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from device.errors import InstallError
from device.install.plan import Command, File, Folder, Link, Move, Remove, Step
from firmware_bridge import whole_file

FILE_MODE = 0o644
"""Read by systemd, D-Bus, polkit and the service's user; secrets come as credentials."""
UMASK = 0o022
"""Root's own may be narrower, and the service's user has to read its programs."""


def call(argv: Sequence[str], remedy: str = "see what it says") -> str:
    """Run a command and give its output; raises InstallError with the last that it said."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except OSError as error:
        raise InstallError(argv[0], f"cannot be run: {error.strerror}", remedy) from error
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        said = [line for line in lines if line.strip() and not line.startswith("See ")]  # systemctl's advice comes last
        reason = f"exit code {done.returncode}: {said[-1] if said else 'it says nothing'}"
        raise InstallError(f"`{' '.join(argv)}`", reason, remedy)
    return done.stdout


class Machine:
    """The system below ``root``; with ``dry``, every step is said and none taken. ``call`` runs its commands."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        dry: bool = False,
        say: Callable[[str], None] = print,
        call: Callable[[Sequence[str], str], str] = call,
    ) -> None:
        self.root = root
        self.dry = dry
        self.say = say
        self.call = call

    @contextlib.contextmanager
    def alone(self, folder: PurePosixPath) -> Iterator[None]:
        """Meanwhile nobody else changes an installation; raises InstallError where somebody does."""
        if self.dry:
            yield
            return
        with contextlib.ExitStack() as held:
            try:
                self.at(folder).mkdir(parents=True, exist_ok=True)
                lock = os.open(self.at(folder), os.O_RDONLY)
                held.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                remedy = "wait until it has ended"
                raise InstallError(str(self.at(folder)), "another `affectd install` is at work", remedy) from error
            except OSError as error:
                raise InstallError(str(self.at(folder)), f"{error.strerror}", "make it a folder to write in") from error
            yield

    def at(self, path: PurePosixPath) -> Path:
        """Where a path of that system is here."""
        return self.root / path.relative_to("/")

    def do(self, steps: Iterable[Step]) -> None:
        """Take steps, in order; raises InstallError at the first that fails."""
        before = os.umask(UMASK)
        try:
            for step in steps:
                self.say(str(step))
                if not self.dry:
                    self._take(step)
        finally:
            os.umask(before)

    def _take(self, step: Step) -> None:
        if isinstance(step, Command):
            self._run(step)
            return
        try:
            self._change(step)
        except OSError as error:
            remedy = "correct that, and run it again: what is done already stays done"
            raise InstallError(str(self.at(step.path)), f"{error.strerror or error}", remedy) from error

    def _run(self, command: Command) -> None:
        try:
            self.ask(*command.argv, remedy=command.remedy)
        except InstallError as error:
            if not command.optional:
                raise
            self.say(f"  left out: {error.reason}")

    def ask(self, *argv: str | PurePosixPath, remedy: str = "see what it says") -> str:
        """Output of a command, whose paths are those of that system; raises InstallError."""
        translated = [str(self.at(part)) if isinstance(part, PurePosixPath) else part for part in argv]
        return self.call(translated, remedy)

    def _change(self, step: Folder | File | Link | Remove | Move) -> None:
        path = self.at(step.path)
        match step:
            case Folder():
                path.mkdir(parents=True, exist_ok=True)
            case File():
                if not (step.keep and path.exists()):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    whole_file.replace(path, step.content, FILE_MODE)
            case Link():
                _link(path, step.target)
            case Remove():
                _remove(path)
            case Move():
                _moved(path, step.path)

    def led_to(self, link: PurePosixPath) -> PurePosixPath | None:
        """Where a link leads, as a path of that system; None where there is none, or what it leads to is gone."""
        path = self.at(link)
        return link.parent / path.readlink() if path.is_symlink() and path.exists() else None


def _link(path: Path, target: PurePosixPath) -> None:
    """In place of a link that is there, at once; a file or folder that somebody else has put there stays."""
    if path.exists() and not path.is_symlink():
        raise FileExistsError(0, "is there, and not of affectd's making")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _moved(here: Path, there: PurePosixPath) -> None:
    """In the scripts of a venv and in what it says of itself."""
    made, meant = os.fsencode(here.absolute()), os.fsencode(there)
    if made == meant:
        return
    for path in (here / "pyvenv.cfg", *(here / "bin").iterdir()):
        if path.is_file() and not path.is_symlink() and made in (content := path.read_bytes()):
            path.write_bytes(content.replace(made, meant))
