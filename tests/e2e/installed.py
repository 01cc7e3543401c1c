"""affectd as it is installed on a device: by its own installer, as a service, on an emulated machine with real BlueZ.

    .venv/bin/python tests/e2e/installed.py arm64 [amd64] [--suite SUITE] [--keep FOLDER]

The whole of affectd runs in the guest, from the wheels of its architecture and without a network. What it makes of the
demo's recordings is compared with this machine: windows, each network's int8 outputs, predictions. The virtual sensors
run here, at the other end of the guest's controller. Seconds in an emulated machine are nobody's but its own. Exit code
1 if anything fails; the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from image import QEMU, SUITES, call, image, say
from scenes import Result, Scenes, finish
from stage import BIN, PROJECT, ROLES, SENSORS, Stage, StageError, fresh, staged
from vm import PC, PI, Guest, Hardware, booted
from wheels import own_wheel, wheels

from device.demo.loader import load
from device.demo.player import virtual_sensors
from device.install.plan import CONFIG, CURRENT, REGISTRY, STATE
from device.recording import RecordingWriter
from device.sources.virtual import notifications

MEMORY_MB = 2048
"""A Raspberry Pi 4 of the smaller kind."""
HARDWARE = {"amd64": replace(PC, memory_mb=MEMORY_MB), "arm64": replace(PI, memory_mb=MEMORY_MB)}
OTHER_CPUS = {"amd64": (), "arm64": ("cortex-a53", "cortex-a76", "max")}
"""Raspberry Pi 3; Raspberry Pi 5, which has 8-bit dot products; all that QEMU knows. Each has kernels of its own."""
HERE = "/opt/e2e"
"""Where the guest finds what is to be installed and compared."""
DISK_MB = 3000
REPLAYED = "rest"
INSTALL_S = 5400.0
COMPARE_S = 3600.0
COMMAND_S = 300.0
PREDICTION_S = 400.0
STOP_S = 5.0
MEMORY_BAR_MB = 120.0
"""Resident while it streams."""
FLOAT_APART = 1e-6
"""Of a probability, of about 1: some units in its last place as float32."""
STEPS = {"default": 0, "ecg-transformer": 1}
"""Most that an int8 value may be apart. The Transformer multiplies activations with each other, and such products are
rounded otherwise for other processors."""


def payload(suite: str, arch: str, scratch: Path) -> Path:
    """Folder that the guest sees as ``HERE``."""
    folder = scratch / "changes" / "upper" / HERE.lstrip("/")
    folder.mkdir(parents=True)
    own_wheel(folder)
    shutil.copytree(wheels(suite, arch), folder / "wheels")
    (folder / "scripts").mkdir()
    shutil.copy(PROJECT / "scripts" / "install", folder / "scripts")
    shutil.copy(PROJECT / "requirements.lock", folder)
    shutil.copy(Path(__file__).with_name("outputs.py"), folder)
    return folder


def recorded(folder: Path) -> None:
    """A recording of the demo, as the daemon would have written it."""
    sensors = virtual_sensors(load(REPLAYED))
    streams = {sensor.name: sensor.info() for sensor in sensors}
    with RecordingWriter(folder, streams) as writer:
        for notification in notifications(sensors):
            writer.append(notification)


def disk(folder: Path, path: Path) -> Path:
    """An ext4 image of a folder, sparse."""
    call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, path, f"{DISK_MB}m")
    return path


def reference(folder: Path, scratch: Path) -> list[str]:
    """What this machine makes of the demo: outputs.npz and a recording into the folder, and its predictions."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    call(sys.executable, folder / "outputs.py", "make", folder / "outputs.npz", env=environment)
    recorded(folder / "recording")
    told = scratch / "predictions.jsonl"
    call(BIN / "affectd", "replay", "--json", "--out", told, folder / "recording", env=environment)
    return told.read_text().splitlines()


class Installed(Scenes):
    """Everything, in order."""

    def __init__(self, guest: Guest, hardware: Hardware, expected: list[str]) -> None:
        super().__init__()
        self.guest = guest
        self.hardware = hardware
        self.expected = expected

    async def install(self) -> tuple[float, str]:
        """By the documented command, without a network."""
        begun = time.monotonic()
        offline = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={HERE}/wheels"
        wheel = f"$(echo {HERE}/affectd-*.whl)"
        await self.guest.check(f"{offline} sh {HERE}/scripts/install {wheel} --wheels {HERE}/wheels", limit=INSTALL_S)
        seconds = time.monotonic() - begun
        version = await self.guest.check("affectd --version", limit=COMMAND_S)
        await self.guest.check(f"systemctl is-enabled affectd && id affectd && test -f {CONFIG}")
        size = await self.guest.check(f"du -smL {CURRENT} | cut -f1")
        return seconds, f"{version.strip()}, {size.strip()} MB"

    async def verify(self) -> tuple[float, str]:
        """Every shipped bundle says here what it said when it was made."""
        begun = time.monotonic()
        bundles = f"{CURRENT}/lib/python3*/site-packages/device/bundles/*.affect"
        told = await self.guest.check(
            f"for it in {bundles}; do affectd bundle verify $it || exit 1; done", limit=2 * COMMAND_S
        )
        return time.monotonic() - begun, "; ".join(line for line in told.splitlines() if "largest difference" in line)

    async def outputs(self) -> tuple[float, str]:
        """The same windows give the same int8, on this processor."""
        begun = time.monotonic()
        told = await self.guest.check(
            f"{CURRENT}/bin/python {HERE}/outputs.py compare {HERE}/outputs.npz", limit=COMPARE_S
        )
        found = json.loads(told)
        peak = found.pop("peak_mb")
        for bundle, it in found.items():
            say(f"{bundle} on {self.hardware.cpu}: {json.dumps(it)}")
            far = {key: apart for key, apart in it["int8"].items() if apart["most"] > STEPS[bundle]}
            if far:
                raise StageError(f"{bundle}: int8 values are more than {STEPS[bundle]} steps apart: {far}")
        return time.monotonic() - begun, "; ".join(map(_judged, found, found.values())) + f"; {peak:.0f} MB"

    async def replay(self) -> tuple[float, str]:
        """The whole path, as users run it, gives the same predictions."""
        begun = time.monotonic()
        out = "/tmp/predictions.jsonl"
        await self.guest.check(f"affectd replay --json --out {out} {HERE}/recording", limit=COMPARE_S)
        told = (await self.guest.check(f"cat {out}")).splitlines()
        pairs = [(json.loads(ours), json.loads(theirs)) for ours, theirs in zip(self.expected, told, strict=False)]
        differ = [pair for pair in pairs if not _is_same(*pair)]
        if len(told) != len(self.expected) or differ:
            raise StageError(f"{len(differ)} of {len(told)} lines differ, {len(self.expected)} expected: {differ[:1]}")
        exact = sum(ours == theirs for ours, theirs in pairs)
        return time.monotonic() - begun, f"{len(told)} lines, the same, {exact} of them to the last digit"

    async def pair(self, stage: Stage) -> tuple[float, str]:
        """As the service's user, over BlueZ."""
        begun = time.monotonic()
        tool = f"runuser -u affectd -- affectd-pair --file {REGISTRY}"
        for name, kind in SENSORS.items():
            address = (await stage.virtual(kind))["address"]
            add = f"{tool} add {address} --role {ROLES[name]} --name {name} --yes --json"
            await self.guest.check(add, limit=COMMAND_S)
            if not (await stage.virtual(kind))["bonded"]:
                raise StageError(f"{name} is not bonded")
        return time.monotonic() - begun, "both bonded"

    async def start(self) -> tuple[float, str]:
        """`affectd install` once more starts it, now that there are sensors."""
        begun = time.monotonic()
        again = f"affectd install {HERE}/affectd-*.whl --wheels {HERE}/wheels"
        said = (await self.guest.check(again, limit=INSTALL_S)).splitlines()[-1]
        shown = await self._shown("ActiveState", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        if shown["ActiveState"] != "active":
            raise StageError(f"the service is {shown['ActiveState']}: {said}")
        ready = int(shown["ActiveEnterTimestampMonotonic"]) - int(shown["ExecMainStartTimestampMonotonic"])
        return time.monotonic() - begun, f"ready {ready / 1e6:.1f} s after its start"

    async def predict(self) -> tuple[float, str]:
        """Until a prediction rests on both sensors; and what memory that took."""
        begun = time.monotonic()
        lines: list[dict[str, Any]] = []
        while time.monotonic() - begun < PREDICTION_S:
            written = await self.guest.check(f"cat {STATE}/predictions.jsonl 2>/dev/null || true")
            lines = [it for it in map(json.loads, written.splitlines()) if "label" in it]
            both = [it for it in lines if it["label"] is not None and set(it["modalities"]) == {"ecg", "eda"}]
            if both:
                told = await self.guest.check("grep -E 'VmHWM|VmRSS' /proc/$(systemctl show affectd -P MainPID)/status")
                peak, resident = (int(line.split()[1]) / 1024 for line in told.splitlines())
                if resident > MEMORY_BAR_MB:
                    raise StageError(f"the daemon takes {resident:.0f} MB, at most {peak:.0f} MB")
                memory = f"{resident:.0f} MB, at most {peak:.0f} MB"
                return time.monotonic() - begun, f"{both[-1]['label']}, {len(lines)} windows, {memory}"
            await asyncio.sleep(2)
        journal = await self.guest.check("journalctl -u affectd --no-pager -n 20")
        raise StageError(f"no prediction from both sensors in {PREDICTION_S:g} s: {lines[-1:]}\n{journal}")

    async def stop(self, stage: Stage) -> tuple[float, str]:
        """`systemctl stop`: quick, no failure, no sensor is left streaming, the recording is whole."""
        begun = time.monotonic()
        await self.guest.check("systemctl stop affectd", limit=COMMAND_S)
        shown = await self._shown(
            "Result", "ExecMainStatus", "ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic"
        )
        took = (int(shown["InactiveEnterTimestampMonotonic"]) - int(shown["ActiveExitTimestampMonotonic"])) / 1e6
        left = [kind for kind in SENSORS.values() if (await stage.virtual(kind))["streaming"]]
        if shown["Result"] != "success" or shown["ExecMainStatus"] != "0" or left or took > STOP_S:
            raise StageError(f"{shown} after {took:.1f} s; still streaming: {left}")
        told = await self.guest.check(f"affectd replay --json {STATE}/recordings", limit=COMMAND_S)
        windows = json.loads(told)["windows"]
        return time.monotonic() - begun, f"stopped in {took:.1f} s; its recording replays to {windows} windows"

    async def _shown(self, *names: str) -> dict[str, str]:
        """What systemd knows of the service."""
        told = await self.guest.check(f"systemctl show affectd {' '.join(f'-p {name}' for name in names)}")
        return dict(line.split("=", 1) for line in told.splitlines())


def _is_same(ours: object, theirs: object) -> bool:
    """JSON that is the same but for the last digits of a number: other processors round exp() otherwise."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs) <= FLOAT_APART
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_is_same(ours[key], theirs[key]) for key in ours)
    return ours == theirs


def _judged(bundle: str, found: dict[str, Any]) -> str:
    """One bundle's comparison, in short."""
    int8 = found["int8"]
    differ, of = sum(it["differ"] for it in int8.values()), sum(it["of"] for it in int8.values())
    steps = max(it["most"] for it in int8.values())
    said = (
        f"{differ} of {of} int8 values differ, by {steps:g} at most; {found['relabelled']} labels"
        if differ
        else "int8 equal"
    )
    most = max(it["most"] for it in found["float"].values())
    return f"{bundle}: {said}, windows {'equal' if not most else f'within {most:.2g}'}"


async def machine(suite: str, arch: str, scratch: Path) -> list[Result]:
    """One architecture."""
    folder = image(suite, arch)
    shared = payload(suite, arch, scratch)
    say(f"{arch}: this machine's own outputs")
    expected = reference(shared, scratch)
    changes = disk(scratch / "changes", scratch / "changes.img")
    hardware = HARDWARE[arch]
    say(f"{arch}: booting")
    async with booted(folder, scratch, hardware, changes) as guest:
        say(f"{arch}: up, {(await guest.check('uname -rm')).strip()}, {hardware.cpu}")
        run = Installed(guest, hardware, expected)
        if not await run.do("install", run.install):
            return run.results
        await run.do("bundle verify", run.verify)
        await run.do("int8 outputs", run.outputs)
        await run.do("replay", run.replay)
        async with staged(guest, scratch, tuple(SENSORS.values()), "") as stage:
            say(f"{arch}: BlueZ is up")
            await run.do("pair", lambda: run.pair(stage))
            await run.do("start the service", run.start)
            await run.do("predict from both", run.predict)
            await run.do("clean stop", lambda: run.stop(stage))
            await guest.check("systemctl disable affectd && sync")
    for cpu in OTHER_CPUS[arch]:
        other = replace(hardware, cpu=cpu)
        say(f"{arch}: booting on {cpu}")
        async with booted(folder, fresh(scratch / cpu), other, changes) as guest:
            again = Installed(guest, other, expected)
            await again.do(f"bundle verify on {cpu}", again.verify)
            await again.do(f"int8 outputs on {cpu}", again.outputs)
        run.results += again.results
    return run.results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="+", choices=QEMU)
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--keep", type=Path, help="Keep logs in this folder.")
    arguments = parser.parse_args()
    results: dict[str, Sequence[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="affectd-e2e-") as temporary:
        for arch in arguments.architectures:
            scratch = fresh((arguments.keep or Path(temporary)) / arch)
            results[f"{arguments.suite} {arch}"] = asyncio.run(machine(arguments.suite, arch, scratch))
    finish(results)


if __name__ == "__main__":
    main()
