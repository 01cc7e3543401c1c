"""The wheel to install: a file, the build of a source folder, or the running affectd packed again.

It knows nothing of where it will be installed.
"""

from __future__ import annotations

import base64
import email
import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, PackagePath, distribution
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from device.errors import InstallError
from device.install.machine import call
from device.install.plan import VENV_REMEDY, Release

LOCK = "extra_metadata/requirements.lock"
"""In the wheel's dist-info: the versions that affectd was tested with."""
UNITS = "device/systemd/"
_ADDED = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})
"""What an installer writes into a dist-info."""
_REMEDY = "name the wheel or the source folder: `affectd install WHEEL`"
Caller = Callable[[Sequence[str], str], str]


def release(source: Path | None, scratch: Path, python: str, call: Caller = call) -> Release:
    """What ``source`` is, a wheel or a source folder, or else the running affectd; raises InstallError.

    What has to be made for it is made in ``scratch``.
    """
    wheel = _running(scratch) if source is None else source
    if wheel.is_dir():
        wheel = _built(wheel, scratch, python, call)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return _opened(wheel, archive, scratch)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InstallError(str(wheel), f"not a wheel of affectd: {error}", _REMEDY) from error


def _opened(wheel: Path, archive: zipfile.ZipFile, scratch: Path) -> Release:
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(archive.read(metadata))
    if said["Name"] != "affectd":
        raise ValueError(f"it is {said['Name']}")
    info = PurePosixPath(metadata).parent
    constraints = scratch / "requirements.lock"
    constraints.write_bytes(archive.read(str(info / LOCK)))
    digest = _digest(archive, str(info / "RECORD"))
    files = {PurePosixPath(name).name: archive.read(name) for name in archive.namelist() if name.startswith(UNITS)}
    return Release(str(said["Version"]), digest, str(wheel.absolute()), str(constraints), files)


def _digest(archive: zipfile.ZipFile, record: str) -> str:
    """Of names and contents: not of times, nor of how it was compressed."""
    total = hashlib.sha256()
    for name in sorted(set(archive.namelist()) - {record}):
        total.update(f"{name}\0{hashlib.sha256(archive.read(name)).hexdigest()}\n".encode())
    return total.hexdigest()


def _built(folder: Path, scratch: Path, python: str, call: Caller) -> Path:
    """The wheel of a source folder, built with a pip of its own: pipx and uv give affectd none."""
    if not (folder / "pyproject.toml").is_file():
        raise InstallError(str(folder), "not a source folder of affectd: no pyproject.toml", _REMEDY)
    call([python, "-m", "venv", str(scratch / "build")], VENV_REMEDY)
    pip = (str(scratch / "build/bin/python"), "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    call([*pip, "--no-deps", "--wheel-dir", str(scratch), str(folder.absolute())], "see whether the network is there")
    (wheel,) = scratch.glob("affectd-*.whl")
    return wheel


def _running(scratch: Path) -> Path:
    """The wheel that this affectd was installed from: made again, or its source folder, where it is run from there."""
    try:
        found = distribution("affectd")
    except PackageNotFoundError as error:
        raise InstallError("affectd", "this one is not installed itself", _REMEDY) from error
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Path(unquote(urlparse(origin["url"]).path))
    wheel = scratch / f"affectd-{found.version}-py3-none-any.whl"
    pack(wheel, [path for path in found.files or () if _is_ours(path)])
    return wheel


def _is_ours(path: PackagePath) -> bool:
    """Whether a file of an installation came with the wheel."""
    added = path.parts[0].endswith(".dist-info") and path.parts[-1] in _ADDED
    return ".." not in path.parts and "__pycache__" not in path.parts and not path.is_absolute() and not added


def pack(wheel: Path, files: Iterable[PackagePath]) -> None:
    """Write installed files as a wheel; the same files give the same bytes."""
    lines, info = [], ""
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            content = path.read_binary()
            archive.writestr(zipfile.ZipInfo(str(path)), content, zipfile.ZIP_DEFLATED)
            sha256 = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={sha256},{len(content)}\n")
            info = path.parts[0] if path.parts[0].endswith(".dist-info") else info
        record = f"{info}/RECORD"
        archive.writestr(zipfile.ZipInfo(record), "".join((*lines, f"{record},,\n")), zipfile.ZIP_DEFLATED)
