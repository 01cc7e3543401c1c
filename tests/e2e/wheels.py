"""Wheels for a Debian release's Python: affectd's own as it is in this checkout, and what it needs, downloaded once.

Knows nothing of where they are installed.
"""

from __future__ import annotations

import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from image import OWN_ARCH, cached, call, say
from packaging.requirements import Requirement
from stage import PROJECT

from device.install.plan import EXTRAS

LOCK = PROJECT / "requirements.lock"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
"""Of the two releases."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""Architecture in a wheel's name, by Debian's name of it."""
BACKEND = ("hatchling", "editables")
"""What builds affectd from its source folder."""
GLIBC = range(17, 37)
"""Minors of the C libraries whose wheels run on Debian 12."""


def wheels(suite: str, arch: str = OWN_ARCH) -> Path:
    """Folder with all that affectd needs there, as ``pip download`` leaves it; its own wheel is not there."""
    python, machine = PYTHONS[suite], MACHINES[arch]
    pins, required = "\n".join(_pins(python)), sorted(_required())

    def make(folder: Path) -> None:
        say(f"{suite} {arch}: wheels for Python {python}")
        constraints = folder / "constraints"
        constraints.write_text(pins)
        tags = [*(f"manylinux_2_{minor}_{machine}" for minor in GLIBC), f"manylinux2014_{machine}"]
        call(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", folder / "wheels"),
            *("--python-version", python, *(f"--platform={tag}" for tag in tags)),
            *("--constraint", constraints, *required, *BACKEND),
        )

    return cached(f"wheels-{arch}-{suite}", (pins, *required), make) / "wheels"


def _pins(python: str) -> Iterator[str]:
    """The lock file's lines for one Python, without their markers: pip would judge them by its own."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for line in LOCK.read_text().split("\n"):
        wanted = Requirement(line) if line else None
        if wanted and (wanted.marker is None or wanted.marker.evaluate(environment)):
            yield f"{wanted.name}{wanted.specifier}"


def _required() -> Iterator[str]:
    """What affectd's wheel asks for with the usual extras."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    yield from project["dependencies"]
    for extra in EXTRAS:
        yield from project["optional-dependencies"][extra]


def own_wheel(folder: Path) -> Path:
    """affectd's wheel as it is in this checkout."""
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=PROJECT)
    (wheel,) = folder.glob("affectd-*.whl")
    return wheel


def another(wheel: Path, version: str, **changed: str) -> Path:
    """A copy of affectd's wheel with another version number; ``changed``: other contents, by a module's name."""
    before = wheel.name.split("-")[1]
    made = wheel.with_name(wheel.name.replace(before, version, 1))
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".dist-info/METADATA"):
                content = content.replace(f"\nVersion: {before}\n".encode(), f"\nVersion: {version}\n".encode())
            if name.endswith(".dist-info/RECORD"):
                content = content.replace(
                    f"affectd-{before}.dist-info".encode(), f"affectd-{version}.dist-info".encode()
                )
            for module, text in changed.items():
                content = text.encode() if name == f"device/{module}.py" else content
            new.writestr(name.replace(f"affectd-{before}.dist-info", f"affectd-{version}.dist-info"), content)
    return made


def unpacked(wheel: str, wheels: Path, folder: Path) -> None:
    """One wheel's files, for a Python that has no pip."""
    (found,) = wheels.glob(f"{wheel}-*.whl")
    with zipfile.ZipFile(found) as archive:
        archive.extractall(folder)
