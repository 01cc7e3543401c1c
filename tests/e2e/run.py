"""affectd against the real BlueZ of a Debian release: pairing, streaming, every fault we know of, what is left behind.

    .venv/bin/python tests/e2e/run.py bookworm [trixie] [--disconnects N] [--only TEXT] [--keep FOLDER]

The kernel, bluetoothd, D-Bus and systemd run in QEMU; affectd's tools run on the host and reach them over the guest's
system bus, so that the emulation slows BlueZ down but not what is measured. Virtual sensors are the other end of the
guest's controller. Exit code 1 if anything fails; the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from image import SUITES, image, say
from scenes import Result, Scene, Scenes, finish
from stage import ROLES, SENSORS, Stage, StageError, fresh, staged
from vm import booted

from device.notification import Arrival, LinkChange, Notification
from device.recording import RecordingReader
from firmware_bridge.protocols import PROTOCOLS

OTHERS = ("movesense", "open-eda:id=shows-passkey,passkey=135790")
"""On the air as well, for the pairing tool alone."""
PROTOCOL_OF = {"chest": "polar-pmd-ecg", "wrist": "open-eda"}
SLACK_S = 3.0
"""A packet that was on its way when the fault came holds samples from before it."""
RECOVERY_S = 30.0
"""The bar: from the fault to data again, the detection of a silence included."""
PATIENCE_S = 60.0
"""Waited for a recovery before it counts as none."""
STOP_S = 5.0
PAUSE_S = 2.0
"""Some data between two faults."""
PREDICTION_S = 150.0
TEST_S = "25"
"""Of `affectd-pair test`: the least with which it judges quality."""
CONFIG = """\
[radio]
registry = "{scratch}/sensors.toml"
[control]
socket = "{scratch}/affectd.sock"
[recording]
directory = "{scratch}/recordings"
[sinks.jsonl]
path = "{scratch}/predictions.jsonl"
"""


@dataclass(frozen=True, slots=True)
class Break:
    """A stretch of the host's monotonic clock, s, in which these sensors may miss data."""

    start: float
    stop: float
    sensors: frozenset[str]


class Run(Scenes):
    """All scenarios on one stage, in order."""

    def __init__(self, stage: Stage, only: str | None) -> None:
        super().__init__()
        self.stage = stage
        self.only = only
        self.breaks: list[Break] = []

    # Pairing

    async def scan(self) -> tuple[float, str]:
        begun = time.monotonic()
        found = json.loads(await self.stage.tool("affectd-pair", "scan", "--seconds", "6", "--json"))
        protocols = {protocol for it in found for protocol in it["protocols"]}
        if not {"polar-pmd-ecg", "open-eda"} <= protocols:
            raise StageError(f"scan found {found}")
        return time.monotonic() - begun, f"{len(found)} found"

    async def add(self, name: str) -> tuple[float, str]:
        begun = time.monotonic()
        address = (await self.stage.virtual(SENSORS[name]))["address"]
        command = ("affectd-pair", "add", address, "--role", ROLES[name], "--name", name, "--yes", "--json")
        await self.stage.tool(*command)
        info = await self.stage.guest.check(f"bluetoothctl info {address}")
        if "Paired: yes" not in info or not (await self.stage.virtual(SENSORS[name]))["bonded"]:
            raise StageError(f"not bonded: {info}")
        return time.monotonic() - begun, address

    async def add_by_passkey(self) -> tuple[float, str]:
        """Bond where the sensor shows six digits, then forget it; wrong digits make no bond."""
        begun = time.monotonic()
        address = (await self.stage.virtual("shows-passkey"))["address"]
        tool = ("affectd-pair", "--file", str(self.stage.scratch / "others.toml"))
        await self.stage.tool(*tool, "add", address, "--passkey", "246801", "--yes", "--json", ok=(1, 2))
        if (await self.stage.virtual("shows-passkey"))["bonded"]:
            raise StageError("bonded with wrong digits")
        await self.stage.tool(*tool, "add", address, "--passkey", "135790", "--yes", "--json")
        if not (await self.stage.virtual("shows-passkey"))["bonded"]:
            raise StageError("not bonded")
        await self.stage.tool(*tool, "remove", address)
        if "Paired: yes" in (await self.stage.guest.run(f"bluetoothctl info {address}")).out:
            raise StageError("the host's bond is still there")
        return time.monotonic() - begun, "wrong digits refused"

    async def test_stranger(self) -> tuple[float, str]:
        """Some seconds of a sensor that was never added."""
        begun = time.monotonic()
        address = (await self.stage.virtual("movesense"))["address"]
        tool = ("affectd-pair", "--file", str(self.stage.scratch / "others.toml"), "test", address)
        told = json.loads(await self.stage.tool(*tool, "--seconds", TEST_S, "--json"))
        return time.monotonic() - begun, _told(told)

    async def test_beside(self) -> tuple[float, str]:
        """Some seconds of a sensor that the daemon streams: it is watched, and nothing is taken away."""
        begun, before = time.monotonic(), await self.stage.sensors()
        told = json.loads(await self.stage.tool("affectd-pair", "test", "chest", "--seconds", TEST_S, "--json"))
        after = await self.stage.sensors()
        if any(after[name]["link"]["connections"] != before[name]["link"]["connections"] for name in SENSORS):
            raise StageError("the daemon lost a link")
        return time.monotonic() - begun, _told(told)

    # Streaming

    async def start(self) -> tuple[float, str]:
        begun = time.monotonic()
        await self.stage.start_daemon()
        await self._streaming(PATIENCE_S)
        return time.monotonic() - begun, "both stream"

    async def predict(self) -> tuple[float, str]:
        """Until a prediction rests on both sensors."""
        begun, path = time.monotonic(), self.stage.scratch / "predictions.jsonl"
        while time.monotonic() - begun < PREDICTION_S:
            lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
            lines = [it for it in lines if "label" in it]
            both = [it for it in lines if it["label"] is not None and set(it["modalities"]) == {"ecg", "eda"}]
            if both:
                return time.monotonic() - begun, f"{both[-1]['label']} from ECG and EDA, {len(lines)} windows"
            await asyncio.sleep(1)
        raise StageError(f"no prediction from both sensors in {PREDICTION_S:g} s: {lines[-3:]}")

    async def _streaming(self, limit: float) -> float:
        def holds(sensors: dict[str, Any]) -> bool:
            return all(it["link"]["state"] == "streaming" and it["link"]["notifications"] for it in sensors.values())

        return await self.stage.until("streaming", limit, holds)

    # Faults

    async def recover(
        self, affected: Sequence[str], break_: Callable[[], Awaitable[object]], *, brief: bool = False
    ) -> tuple[float, str]:
        """Break something; seconds from then until each affected sensor has given data over a link set up anew."""
        before, bugs = await self.stage.sensors(), 0 if brief else await self._kernel_bugs()
        begun = time.monotonic()
        await break_()

        def anew(sensors: dict[str, Any]) -> bool:
            return all(
                _fresh(before[name]["link"], sensors[name]["link"], time.monotonic() - begun) for name in affected
            )

        await self.stage.until("recovered", PATIENCE_S, anew)
        seconds = time.monotonic() - begun
        bugs = 0 if brief else await self._kernel_bugs() - bugs
        if bugs:  # every sensor loses its link where the guest's kernel takes bluetoothd down
            affected = list(SENSORS)
            await self._streaming(PATIENCE_S)
        self.breaks.append(Break(begun, time.monotonic(), frozenset(affected)))
        await asyncio.sleep(0 if brief else PAUSE_S)
        after = await self.stage.sensors()
        others = [name for name in SENSORS if name not in affected]
        torn = [name for name in others if after[name]["link"]["connections"] != before[name]["link"]["connections"]]
        if torn:
            raise StageError(f"{torn} lost their link too")
        if seconds > RECOVERY_S:
            raise StageError(f"took {seconds:.1f} s")
        return seconds, ", ".join(affected) + (f"; {bugs} BUGs in the guest's kernel" if bugs else "")

    async def _kernel_bugs(self) -> int:
        """How often the guest's kernel has stopped a process for a fault of its own."""
        return int(await self.stage.guest.check("dmesg | grep -c 'kernel BUG at' || true"))

    async def adapter_off(self) -> None:
        await self.stage.guest.check("bluetoothctl power off; sleep 3; bluetoothctl power on")

    async def bluetoothd(self, sig: str) -> None:
        """systemd does not restart a bluetoothd that was killed; D-Bus does, when it is called."""
        await self.stage.guest.check(f"systemctl kill -s {sig} bluetooth")

    async def host_forgets(self) -> None:
        """The host's side of the bond is gone, as after a reinstallation."""
        address = (await self.stage.virtual(SENSORS["chest"]))["address"]
        await self.stage.guest.check(f"bluetoothctl remove {address}")

    async def kill_daemon(self) -> tuple[float, str]:
        """kill -9, and a start as systemd would do after RestartSec; the links are still there."""
        assert self.stage.daemon is not None
        begun = time.monotonic()
        self.stage.daemon.kill()
        await self.stage.daemon.wait()
        links = {kind: (await self.stage.virtual(kind))["disconnects"] for kind in SENSORS.values()}
        await asyncio.sleep(1)
        await self.stage.start_daemon()
        await self._streaming(PATIENCE_S)
        seconds = time.monotonic() - begun
        torn = [kind for kind, before in links.items() if (await self.stage.virtual(kind))["disconnects"] != before]
        if torn:
            raise StageError(f"the links that were left were not taken over: {torn} had to connect anew")
        self.breaks.append(Break(begun, time.monotonic(), frozenset(SENSORS)))
        if seconds > RECOVERY_S:
            raise StageError(f"took {seconds:.1f} s")
        return seconds, "both links taken over"

    async def disconnects(self, number: int) -> tuple[float, str]:
        """Descriptors and tasks before and after so many lost links."""
        begun, before = time.monotonic(), await self._held()
        for _ in range(number):
            await self.recover(["wrist"], lambda: self.stage.fault("open-eda", "drop"), brief=True)
        await asyncio.sleep(3)
        after = await self._held()
        if after[0] > before[0] or after[1] > before[1]:
            raise StageError(f"(descriptors, tasks) grew from {before} to {after}")
        return time.monotonic() - begun, f"(descriptors, tasks) {before} before, {after} after {number}"

    async def _held(self) -> tuple[int, int]:
        """The least of some looks: the daemon's end of our own question may still be open at the first."""
        assert self.stage.daemon is not None
        found, open_now = await self.stage.status(), Path(f"/proc/{self.stage.daemon.pid}/fd")
        counts = []
        for _ in range(5):
            counts.append(len(list(open_now.iterdir())))
            await asyncio.sleep(0.1)
        return min(counts), found["tasks"] if found else -1

    # The end

    async def stop(self) -> tuple[float, str]:
        """SIGTERM: quick, and no sensor is left streaming."""
        assert self.stage.daemon is not None
        begun = time.monotonic()
        self.stage.daemon.send_signal(signal.SIGTERM)
        async with asyncio.timeout(4 * STOP_S):
            rc = await self.stage.daemon.wait()
        seconds = time.monotonic() - begun
        await asyncio.sleep(1)
        left = [kind for kind in SENSORS.values() if (await self.stage.virtual(kind))["streaming"]]
        if rc or left or seconds > STOP_S:
            raise StageError(f"exit code {rc} after {seconds:.1f} s; still streaming: {left}")
        return seconds, "no sensor streams"

    async def recordings(self) -> tuple[float, str]:
        """Every break is told in between the data, and data is missing in breaks alone."""
        begun = time.monotonic()
        paths = sorted((self.stage.scratch / "recordings").iterdir())
        every = (it for path in paths for it in RecordingReader(path, recover=True))
        arrivals = [it for it in every if isinstance(it, Notification | LinkChange)]
        notes = []
        for name in SENSORS:
            mine = [it for it in arrivals if it.stream == name]
            told = [it.host_ns / 1e9 for it in mine if isinstance(it, LinkChange)]
            breaks = [it for it in self.breaks if name in it.sensors]
            if untold := [it for it in breaks if not any(it.start <= at <= it.stop for at in told)]:
                raise StageError(f"{name}: nothing is recorded of {untold}")
            lost = self._lost_outside(name, mine, breaks)
            if lost:
                raise StageError(f"{name}: data is missing outside every break: {lost}")
            notes.append(f"{name}: {len(mine) - len(told)} notifications, {len(breaks)} breaks, all told")
        await self.stage.tool("affectd", "replay", "--recover", "--json", str(paths[-1]), limit=120)
        return time.monotonic() - begun, "; ".join(notes)

    def _lost_outside(
        self, name: str, arrivals: Sequence[Arrival], breaks: Sequence[Break]
    ) -> list[tuple[float, float]]:
        """Neighbours in time between which the sensor's own clock says that packets are missing, but for breaks."""
        codec = PROTOCOLS[PROTOCOL_OF[name]]
        decoder, last, found = codec.decoder(), None, []
        for it in arrivals:
            if not isinstance(it, Notification):
                continue
            (packet,) = decoder.push(it.data)
            at = it.host_ns / 1e9
            if last is not None:
                period = len(packet.values) / codec.stream_info.sfreq
                step = (packet.ticks - last[0]) / codec.stream_info.tick_hz
                if step > 1.5 * period and not any(b.start - SLACK_S <= at and last[1] <= b.stop for b in breaks):
                    found.append((last[1], at))
            last = packet.ticks, at
        return found

    async def matrix(self, disconnects: int) -> None:
        """Everything, in order."""
        await self.do("scan", self.scan)
        await self.do("pair and bond ECG", lambda: self.add("chest"))
        await self.do("pair and bond EDA", lambda: self.add("wrist"))
        await self.do("start", self.start)
        if self.only is None:  # the tool beside the daemon, while a first window of both signals fills
            await self.do("test beside the daemon", self.test_beside)
            await self.do("bond by passkey", self.add_by_passkey)
            await self.do("test a stranger", self.test_stranger)
        for name, scenario in self._faults(disconnects).items():
            if self.only is None or self.only in name:
                await self.do(name, scenario)
        await self.do("clean stop", self.stop)
        await self.do("recordings", self.recordings)

    def _faults(self, disconnects: int) -> dict[str, Scene]:
        def broken(affected: Sequence[str], do: Callable[[], Awaitable[object]]) -> Scene:
            return lambda: self.recover(affected, do)

        def sensor(name: str, do: str, **arguments: object) -> Scene:
            return broken([name], lambda: self.stage.fault(SENSORS[name], do, **arguments))

        both = list(SENSORS)
        return {
            "predict from both": self.predict,
            "link drop": sensor("chest", "drop"),
            "out of reach for 5 s": sensor("wrist", "drop", for_s=5),
            "stalled stream": sensor("chest", "silence", until="start"),
            "connected, but silent": sensor("chest", "silence", until="connect"),
            "peripheral reset": sensor("wrist", "reset"),
            "adapter off and on": broken(both, self.adapter_off),
            "bluetoothd SIGTERM": broken(both, lambda: self.bluetoothd("TERM")),
            "bluetoothd SIGKILL": broken(both, lambda: self.bluetoothd("KILL")),
            "daemon killed -9": self.kill_daemon,
            f"{disconnects} disconnects": lambda: self.disconnects(disconnects),
            "bond lost by the host": broken(["chest"], self.host_forgets),
            # Last: Linux 6.1 has a BUG here, and what comes after it in such a kernel proves nothing.
            "bond lost by the sensor": sensor("chest", "forget-bond"),
        }


def _told(report: dict[str, Any]) -> str:
    """What `affectd-pair test` found, in short."""
    if not report["ok"]:
        raise StageError(f"judged bad: {report['problems']}")
    found = report["report"]
    rate = f"{report['protocol']}, {found['sfreq']:.2f} Hz, {found['lost']} lost, good {found['good']}"
    return rate + (", watched through the daemon" if report["by_daemon"] else f", battery {report['battery']} %")


def _fresh(before: dict[str, Any], now: dict[str, Any], passed_s: float) -> bool:
    """Whether data comes over a link, or a stream, that was set up since."""
    set_up = now["connections"] > before["connections"] or now["restarts"] > before["restarts"]
    return set_up and now["state"] == "streaming" and now["last_s"] is not None and now["last_s"] < min(2.0, passed_s)


async def suite(name: str, scratch: Path, disconnects: int, only: str | None) -> list[Result]:
    """One Debian release."""
    folder = image(name)
    say(f"{name}: booting")
    async with booted(folder, scratch) as guest:
        versions = await guest.check("uname -r; bluetoothctl --version || true")
        say(f"{name}: up, {' '.join(versions.split())}")
        async with staged(guest, scratch, (*SENSORS.values(), *OTHERS), CONFIG) as stage:
            say(f"{name}: BlueZ is up")
            run = Run(stage, only)
            try:
                await run.matrix(disconnects)
            finally:
                journal = await guest.run("journalctl -b --no-pager -u bluetooth -u btattach; dmesg")
                (scratch / "guest.log").write_text(journal.out)
    return run.results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", choices=SUITES)
    parser.add_argument("--disconnects", type=int, default=5)
    parser.add_argument("--only", help="Faults whose name holds this text; pairing, start and stop come always.")
    parser.add_argument("--keep", type=Path, help="Keep logs and recordings in this folder.")
    arguments = parser.parse_args()
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="affectd-e2e-") as temporary:
        for name in arguments.suites:
            scratch = fresh((arguments.keep or Path(temporary)) / name)
            results[name] = asyncio.run(suite(name, scratch, arguments.disconnects, arguments.only))
    finish(results)


if __name__ == "__main__":
    main()
