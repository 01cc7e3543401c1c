"""Makes what a Debian release needs to boot in systemd-nspawn, cached: its root file system, wheels for its Python.

Knows nothing of what will be tested. Nothing of affectd is in the root file system.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from image import CACHE, call, install_tools, say, suite_sources
from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[2]
LOCK = PROJECT / "requirements.lock"
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}
"""Of the two releases."""
TOOLS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap"}
DEBS = (
    *("systemd", "systemd-sysv", "dbus", "polkitd", "procps"),
    *("bluez", "python3-venv"),  # what docs/INSTALL.md asks for
    *("dpkg-dev", "lintian"),  # for scripts/deb, and for what comes of it
    *("mosquitto", "mosquitto-clients"),
)
UNREAD = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "info"))
EXTRAS = "device,web,mqtt,sign"
BACKEND = ("hatchling", "editables")
"""What builds affectd from its source folder."""
GLIBC = range(17, 37)
"""Minors of the C libraries whose wheels run on Debian 12."""


def root(suite: str) -> Path:
    """Its root file system, not to be written."""

    def make(folder: Path) -> None:
        install_tools(TOOLS)
        say(f"{suite}: Debian packages")
        sources = suite_sources(suite, folder)
        call(
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(DEBS)}", *UNREAD),
            *(suite, folder / "root", sources),
        )

    return _cached(f"root-{suite}", (*DEBS, *UNREAD), make) / "root"


def wheels(suite: str) -> Path:
    """Folder with all that affectd needs there, as ``pip download`` leaves it; its own wheel is not there."""
    pins, extras = "\n".join(_pins(PYTHONS[suite])), sorted(_required())

    def make(folder: Path) -> None:
        say(f"{suite}: wheels for Python {PYTHONS[suite]}")
        constraints = folder / "constraints"
        constraints.write_text(pins)
        machine = platform.machine()
        tags = [*(f"manylinux_2_{minor}_{machine}" for minor in GLIBC), f"manylinux2014_{machine}"]
        call(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", folder / "wheels"),
            *("--python-version", PYTHONS[suite], *(f"--platform={tag}" for tag in tags)),
            *("--constraint", constraints, *extras, *BACKEND),
        )

    return _cached(f"wheels-{suite}", (pins, *extras), make) / "wheels"


def _cached(name: str, inputs: Iterable[str], make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` has filled, once for the same inputs."""
    key = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{key}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as scratch:
            (made := Path(scratch) / "made").mkdir()
            make(made)
            made.rename(folder)
        for old in CACHE.glob(f"{name}-*"):
            if old != folder:
                shutil.rmtree(old)
    return folder


def _pins(python: str) -> Iterator[str]:
    """The lock file's lines for one Python, without their markers: pip would judge them by its own."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for line in LOCK.read_text().split("\n"):
        wanted = Requirement(line) if line else None
        if wanted and (wanted.marker is None or wanted.marker.evaluate(environment)):
            yield f"{wanted.name}{wanted.specifier}"


def _required() -> Iterator[str]:
    """What affectd's wheel asks for with the usual extras."""
    import tomllib

    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    yield from project["dependencies"]
    for extra in EXTRAS.split(","):
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
