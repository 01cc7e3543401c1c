"""What somebody who helps needs to know, in one archive, and nothing of whom it is about.

Of configuration and status only numbers and words that are affectd's own are kept, of prose what is left without names,
labels, paths, addresses and everything in quotes. It knows nothing of sockets.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from device.bundle import DEFAULT_BUNDLE, read_bundle
from device.config import Config, SinksConfig, sensors_of
from device.errors import DeviceError
from device.inference import RUNTIMES, Reason
from device.log_level import LEVELS
from device.notification import LinkState
from device.pipeline.spec import MODALITIES
from device.profile import read_profile
from firmware_bridge import whole_file
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.protocols import PROTOCOLS

BLANK = "(blanked)"
OURS = frozenset(
    (
        *(*PROTOCOLS, *get_args(LinkState), *get_args(Reason), *RUNTIMES, *LEVELS, *MODALITIES),
        *("auto", *SinksConfig.__struct_fields__),
    )
)
"""Words of affectd's own, which say nothing of anybody."""
WHOLE = ("affectd", "bundle_sha256", "runtime")
"""Keys whose texts are affectd's own."""
PROSE = ("reason", "last_error", "last_bad")
"""Keys of texts for people."""
LEFT_OUT = ("prediction", "shots", "calibration")
"""Of a status: what somebody felt, and who it is."""
EVERYWHERE = frozenset(("var", "lib", "etc", "run", "opt", "srv", "home", "affectd", "recordings", ""))
"""Parts of paths that say nothing of anybody."""
JOURNAL_LINES = 2000
_PROSE = (
    re.compile(r"(?:[0-9A-Fa-f]{2}[:_-]){5}[0-9A-Fa-f]{2}"),
    re.compile(r"[\w.+-]+@[\w.-]+"),
    re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){3,}\b"),
    re.compile(r"\w+://\S+"),
    re.compile(r"(?<![\w/])~?/[^\s:;,)'\"]+"),
    re.compile(r"'[^']*'|\"[^\"]*\""),
)  # addresses of radios, people and machines; URLs, paths, everything in quotes


def blanked(tree: Any, words: Collection[str] = (), key: str = "") -> Any:
    """Numbers, keys and affectd's own words of something fit for JSON, and prose without ``words``."""
    if isinstance(tree, Mapping):
        return {name: blanked(value, words, name) for name, value in tree.items() if name not in LEFT_OUT}
    if isinstance(tree, list | tuple):
        return [blanked(value, words) for value in tree]
    if not isinstance(tree, str) or tree in OURS or key in WHOLE:
        return tree
    return without(tree, words) if key in PROSE else BLANK


def words_of(*trees: Any) -> Iterator[str]:
    """Every text among the values of trees, and its parts."""
    for tree in trees:
        if isinstance(tree, Mapping):
            yield from words_of(*tree.values())
        elif isinstance(tree, list | tuple):
            yield from words_of(*tree)
        elif isinstance(tree, str):
            yield tree
            yield from re.split(r"[/\s.]+", tree)


def without(text: str, words: Iterable[str]) -> str:
    """Prose without these words, whole and in any case, and without what looks like somebody's."""
    for pattern in _PROSE:
        text = pattern.sub(BLANK, text)
    known = sorted({word for word in words if word not in OURS | EVERYWHERE}, key=len, reverse=True)
    if not known:
        return text
    return re.sub(rf"(?<!\w)(?:{'|'.join(map(re.escape, known))})(?!\w)", BLANK, text, flags=re.IGNORECASE)


def own_words() -> list[str]:
    """Of this machine: its name and its user's."""
    names = [platform.node(), platform.node().partition(".")[0], Path.home().name]
    try:
        return [*names, getpass.getuser()]
    except (KeyError, OSError):  # a user without a name
        return names


def bundle(
    config: Mapping[str, Any] | None,
    status: Mapping[str, Any] | None,
    findings: Sequence[Mapping[str, str]],
    journal: Iterable[str],
    system: Mapping[str, str],
    personal: Iterable[str],
) -> dict[str, bytes]:
    """File name -> content. ``personal`` are words, from a profile or of the machine, that are nowhere to appear."""
    words = {*words_of(config, _of_status(status or {})), *personal}
    said = [{k: v if k == "level" else without(v, words) for k, v in finding.items()} for finding in findings]
    trees = {
        "system.json": {key: without(value, words) for key, value in system.items()},
        "configuration.json": blanked(config),
        "status.json": blanked(status, words),
        "doctor.json": said,
    }
    files = {name: json.dumps(tree, indent=2).encode() for name, tree in trees.items()}
    return files | {"journal.txt": "".join(f"{without(line, words)}\n" for line in journal).encode()}


def _of_status(status: Mapping[str, Any]) -> list[Any]:
    """Names of a status: the sensors', the bundle's, the wearer's and the wearer's labels."""
    sensors = [[sensor.get(key) for key in ("name", "address", "serial")] for sensor in status.get("sensors", ())]
    of_wearer = [status[key] for key in ("bundle", "recording") if key in status]
    person = (status.get("calibration") or {}).get("person")
    labels = list((status.get("shots") or {}).get("examples", ()))
    newest = list((status.get("prediction") or {}).get("probabilities") or ())
    return [sensors, of_wearer, person, labels, newest]


def of_wearer(config: Config) -> Iterator[str]:
    """Names and labels in the files that a configuration names, as far as they can be read."""
    for path in (config.inference.bundle or DEFAULT_BUNDLE, config.inference.calibrated):
        with contextlib.suppress(DeviceError):
            if path is not None:
                yield from read_bundle(path).manifest.labels
    with contextlib.suppress(DeviceError):
        if config.person.profile is not None:
            profile = read_profile(Path(config.person.profile))
            yield from words_of(profile.person, profile.subject, [example.label for example in profile.examples])
    with contextlib.suppress(DeviceError, FirmwareBridgeError):
        yield from words_of([msgspec.to_builtins(sensor) for sensor in sensors_of(config)])


def write(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the archive, whole or not at all; raises OSError."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"affectd-support/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    whole_file.replace(path, packed.getvalue())


def system() -> dict[str, str]:
    """Kernel, distribution, BlueZ; not the machine's name."""
    try:
        distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        distribution = ""
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"kernel": kernel, "distribution": distribution, "bluez": "".join(_said("bluetoothctl", "--version"))}


def journal() -> list[str]:
    """The unit's newest lines, where this user may read them."""
    return _said("journalctl", "-u", "affectd", "-n", str(JOURNAL_LINES), "-o", "cat", "--no-pager")


def _said(*command: str) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
