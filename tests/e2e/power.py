"""affectd on a machine whose power goes, again and again, and that sleeps: Debian in QEMU, real BlueZ, journaled ext4.

    .venv/bin/python tests/e2e/power.py bookworm [--cuts N] [--states N] [--seed N] [--keep FOLDER]

The service streams and records, results and messages for a broker that is away are kept, events are marked. At a random
moment QEMU is killed, and of what the guest had written and not flushed, the disk loses some at random. It is booted on
what is left, goes on by itself, and is cut again. Each disk is held against what left the virtual sensors and what was
acknowledged; so is the disk at ``--states`` other moments of each run. Before, the machine is suspended to memory.
Exit code 1 if anything fails; the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import contextlib
import json
import py_compile
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from image import cached, call, image, say
from scenes import Result, Scenes, finish
from stage import PROJECT, ROLES, SENSORS, Stage, StageError, answering, attach, environment, fresh, on_air
from survivors import PROTOCOL_OF, Witness, examined, is_broken_off, stream_of
from vm import Guest, booted
from wheels import PYTHONS, own_wheel, unpacked, wheels
from wire import Wire
from write_log import Write, copied, cut, writes

from device.install.machine import Machine
from device.install.plan import (
    CONFIG,
    CURRENT,
    DROP_INS,
    LOCAL,
    MARK,
    PROGRAMS,
    STATE,
    UNIT,
    VERSIONS,
    File,
    placing,
    switching,
)
from device.notification import ClockReading, LinkChange, Notification
from device.recording import RecordingReader
from firmware_bridge.protocols import PROTOCOLS

FSYNC_S = 2.0
LATE_S = 3.0
"""On its way through an emulated machine: from a sensor to the recording, from a flush that is due to its end."""
CUT_S = (4.0, 45.0)
"""Between streaming and the cut, at random."""
STREAMING_S = 240.0
"""Emulated, on two busy cores; bars of seconds are in run.py."""
READY_S = 600.0
COMMAND_S = 120.0
SLEEP_S = 25
WAKE_S = 120.0
CLOCK_S = 1.5
"""An RTC that is read when a PC wakes tells whole seconds."""
SYSTEM_MB, DATA_MB = 2000, 128
FSTAB = f"""\
/dev/vdc /data ext4 defaults 0 2
/data/affectd {STATE} none bind,x-systemd.requires-mounts-for=/data 0 0
/data/bluetooth /var/lib/bluetooth none bind,x-systemd.requires-mounts-for=/data 0 0
"""
SETTINGS = f"""\
[radio]
registry = "{STATE}/sensors.toml"
[recording]
directory = "{STATE}/recordings"
fsync_s = {FSYNC_S}
segment_s = 15.0
min_free_bytes = 1000000
[sinks.jsonl]
path = "{STATE}/predictions.jsonl"
[sinks.sqlite]
path = "{STATE}/results.db"
[sinks.mqtt]
host = "127.0.0.1"
tls = false
outbox = "{STATE}/outbox.db"
"""
"""Segments so short that cuts fall between two and into compressing one; nobody listens at the broker's port."""
SLOW = b"[Service]\nTimeoutStartSec=900\n"
BROKEN_OFF = "was broken off"
MARK_QUICKLY = """python3 -S -c 'import json, socket, sys
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect("/run/affectd/affectd.sock")
    asking.sendall(json.dumps({"do": "mark", "description": sys.argv[1]}).encode() + b"\\n")
    print(asking.recv(4096).decode())'"""
"""`affectd mark` itself takes ten seconds when emulated."""
PROGRAM = "#!{python}\nimport sys\nfrom device.{module} import main\nsys.exit(main())\n"


def system(suite: str, scratch: Path) -> None:
    """Make system.img, an ext4 image with affectd as its installer leaves it, enabled; pip is slow when emulated."""
    upper = scratch / "system" / "upper"
    venv = VERSIONS / "power"
    site = upper / str(venv.relative_to("/")) / "lib" / f"python{PYTHONS[suite]}" / "site-packages"
    site.parent.mkdir(parents=True)
    call("cp", "-a", _libraries(suite), site)
    (scratch / "wheel").mkdir()
    unpacked("affectd", own_wheel(scratch / "wheel").parent, site)
    _compiled(site)
    machine = Machine(upper, say=lambda _: None)
    files = {path.name: path.read_bytes() for path in (PROJECT / "device" / "systemd").iterdir() if path.is_file()}
    machine.do([*placing(files, LOCAL, live=False), *switching(venv, None, LOCAL)])
    bin_ = machine.at(venv / "bin")
    bin_.mkdir()
    (bin_ / "python").symlink_to("/usr/bin/python3")
    machine.do([File(venv / "pyvenv.cfg", b"home = /usr/bin\n"), File(venv / MARK, b'{"version": "0", "extras": []}')])
    for program, module in zip(PROGRAMS, ("cli", "pair"), strict=True):
        (bin_ / program).write_text(PROGRAM.format(python=CURRENT / "bin/python", module=module))
        (bin_ / program).chmod(0o755)
    machine.do([File(CONFIG, SETTINGS.encode()), File(DROP_INS / "slow.conf", SLOW)])
    (upper / "etc" / "fstab").write_text(FSTAB)
    wants = upper / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / UNIT).symlink_to(LOCAL.places()[UNIT])
    _ext4(upper.parent, scratch / "system.img", SYSTEM_MB, "-O", "^has_journal")


def _libraries(suite: str) -> Path:
    """All that affectd needs, unpacked and compiled."""
    downloaded = wheels(suite)
    names = sorted(path.name for path in downloaded.glob("*.whl"))

    def make(folder: Path) -> None:
        for name in names:
            unpacked(name.partition("-")[0], downloaded, folder / "site-packages")
        _compiled(folder / "site-packages")

    return cached(f"libraries-{suite}", names, make) / "site-packages"


def _compiled(folder: Path) -> None:
    """The service must not write there, and times are lost on the way."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, quiet=2, workers=0, invalidation_mode=mode)


def _ext4(folder: Path, path: Path, megabytes: int, *options: str) -> Path:
    call("mke2fs", "-q", "-t", "ext4", *options, "-d", folder, path, f"{megabytes}m")
    return path


class Power(Scenes):
    """One machine, from cut to cut."""

    def __init__(self, suite: str, scratch: Path, wire: Wire, air: asyncio.subprocess.Process, seed: int) -> None:
        super().__init__()
        self.suite, self.scratch, self.wire, self.air = suite, scratch, wire, air
        self.chance = random.Random(seed)
        self.system = scratch / "system.img"
        for name in ("affectd", "bluetooth"):
            (scratch / "data" / name).mkdir(parents=True)
        self.disk = _ext4(scratch / "data", scratch / "data.img", DATA_MB, "-E", "lazy_itable_init=0")
        self.marked: dict[str, float] = {}
        self.cuts: list[float] = []
        self.stops: list[tuple[float, float]] = []
        self.boots = self.lost = 0
        self.is_broken_off = False

    @property
    def folder(self) -> Path:
        """Of the latest boot."""
        return self.scratch / f"boot-{self.boots}"

    @property
    def log(self) -> Path:
        """Of what it has written to the disk."""
        return self.folder / "writes.log"

    @contextlib.asynccontextmanager
    async def booted(self) -> AsyncIterator[Guest]:
        """The machine on its disk, BlueZ up; its power is cut at the end."""
        self.boots += 1
        fresh(self.folder)
        self.log.touch()
        disk = copied(self.disk, self.folder / "data.img")
        node = {"file": f"driver=file,node-name=data,filename={disk},cache.no-flush=on"}
        node["log"] = f"driver=file,node-name=log,filename={self.log},cache.no-flush=on"
        node["both"] = "driver=blklogwrites,node-name=both,file=data,log=log"
        devices = [part for it in node.values() for part in ("-blockdev", it)]
        devices += ["-device", "virtio-blk-pci,drive=both,write-cache=on,addr=0x10"]  # behind the others: /dev/vdc
        root = image(self.suite)
        try:
            async with (
                booted(root, self.folder, changes=self.system, keeps=False, devices=devices) as guest,
                self.wire.joined(self.folder / "bt.sock"),
            ):
                await attach(guest, self.air)
                try:
                    yield guest
                finally:
                    self.cuts.append(time.monotonic())
        finally:
            before, self.disk = self.disk, self.folder / "left.img"
            self.lost = cut(before, self.log, writes(self.log), self.chance, self.disk)

    async def pair(self) -> tuple[float, str]:
        """Both sensors, while the service waits for some; all of it is on the disk when the machine is switched off."""
        begun = time.monotonic()
        async with self.booted() as guest:
            stage = Stage(guest, self.scratch, environment(guest, self.scratch))
            await answering(stage)
            for name, kind in SENSORS.items():
                address = (await stage.virtual(kind))["address"]
                await stage.tool("affectd-pair", "add", address, "--role", ROLES[name], "--name", name, "--yes")
            await guest.write(f"{STATE}/sensors.toml", (self.scratch / "sensors.toml").read_text())
            await guest.check(f"chown affectd: {STATE}/sensors.toml; chmod 600 {STATE}/sensors.toml; sync")
            mounted = (await guest.check(f"findmnt -n -o SOURCE,FSTYPE,OPTIONS {STATE}")).strip()
        self.wire.sent.clear()
        return time.monotonic() - begun, mounted

    async def cut(self, states: int) -> tuple[float, str]:
        """Streaming, cut; then what is left there, and in other states that the disk went through."""
        begun, grown, before = time.monotonic(), [(time.monotonic(), 0)], self.disk
        async with self.booted() as guest, _watching(self.log, grown):
            recovered = await self._recovered(guest)
            await self._streaming(guest)
            if self.is_broken_off and BROKEN_OFF not in await self._journal(guest):
                raise StageError(f"nothing is said of the recording that was broken off: {await self._journal(guest)}")
            marking = asyncio.create_task(self._marking(guest))
            await asyncio.sleep(seconds := self.chance.uniform(*CUT_S))
            marking.cancel()
        done = writes(self.log)
        note = await asyncio.to_thread(self._left, self.disk, self.cuts[-1])
        self.is_broken_off = is_broken_off(self.scratch / "left/affectd")
        lost_else = [await asyncio.to_thread(self._other, before, done, grown) for _ in range(states)]
        told = f"{seconds:.1f} s and {len(done)} writes after streaming, {self.lost} of them lost"
        told += f"; {states} other states with {min(lost_else)} to {max(lost_else)} lost" if lost_else else ""
        return time.monotonic() - begun, f"{recovered}; {told}; {note}"

    def _other(self, before: Path, done: Sequence[Write], grown: Sequence[tuple[float, int]]) -> int:
        """Look at the disk after some of its writes; how many of these it has lost."""
        number = self.chance.randrange(1, len(done))
        at = next(when for when, size in reversed(grown) if size < done[number - 1].end)
        lost = cut(before, self.log, done[:number], self.chance, self.scratch / "state.img")
        self._left(self.scratch / "state.img", at)
        return lost

    def _left(self, disk: Path, at: float) -> str:
        """What a disk holds that was cut at ``at``; raises StageError."""
        copy, folder = copied(disk, self.scratch / "fsck.img"), fresh(self.scratch / "left")
        _fsck(copy, "-p")  # replays the journal, as mounting does
        _fsck(copy, "-fn")
        call("debugfs", "-R", f"rdump /affectd {folder}", copy)
        cuts = (*(it for it in self.cuts if it < at), at)
        witness = Witness(self.wire.sent, self.marked, cuts, FSYNC_S + LATE_S, self.stops)
        return examined(folder / "affectd", witness)

    async def _journal(self, guest: Guest) -> str:
        """What affectd has said since this boot; kept beside the disk."""
        journal = await guest.check("journalctl -b --no-pager -o cat -u affectd")
        (self.folder / "affectd.log").write_text(journal)
        return journal

    async def _recovered(self, guest: Guest) -> str:
        """What the kernel says of the file system it found."""
        said = await guest.check("systemctl show systemd-fsck@dev-vdc -P Result; dmesg | grep 'EXT4-fs.*vdc'")
        if "error" in said or not said.startswith("success"):
            raise StageError(f"the file system: {said}")
        return "journal replayed" if "recovery complete" in said else "nothing to replay"

    async def _streaming(self, guest: Guest) -> float:
        """Until the service, which nobody has started, records both sensors; seconds."""
        begun, first = time.monotonic(), len(self.wire.sent)
        while {stream_of(it.data) for it in self.wire.sent[first:]} < SENSORS.keys():
            if time.monotonic() - begun > STREAMING_S:
                journal = (await guest.run("journalctl -b --no-pager -n 40 -u affectd -u bluetooth -u btattach")).out
                raise StageError(f"not streaming within {STREAMING_S:g} s:\n{journal}")
            await asyncio.sleep(0.2)
        return time.monotonic() - begun

    async def _marking(self, guest: Guest) -> None:
        """One event after the other, and when each was acknowledged."""
        while True:
            text = f"mark {len(self.marked)} of boot {self.boots}"
            if '"marked"' in (await guest.run(f"{MARK_QUICKLY} '{text}'")).out:
                self.marked[text] = time.monotonic()

    async def sleep(self) -> tuple[float, str]:
        """Suspend to memory: the gap is as long as it was, dates are right behind it, each link was made anew once."""
        async with self.booted() as guest:
            await self._streaming(guest)
            await guest.check("until systemctl is-active affectd; do sleep 1; done", limit=READY_S)
            await asyncio.sleep(2 * LATE_S)
            before, asleep = await self._status(guest), time.monotonic()
            await guest.check(f"rtcwake -m mem -s {SLEEP_S}", limit=SLEEP_S + COMMAND_S)
            awake = time.monotonic()
            await self._streaming(guest)
            seconds = time.monotonic() - awake
            await asyncio.sleep(4 * LATE_S)
            after = await self._status(guest)
            journal = await self._journal(guest)
            if "the machine has slept" not in journal:
                raise StageError(f"nothing is said of the sleep: {journal}")
            restarts = await guest.check("systemctl show affectd -P NRestarts -P Result")
            if before["pid"] != after["pid"] or {*restarts.split()} != {"0", "success"}:
                raise StageError(f"affectd was started again: {restarts}")
            anew = _connections(after) - _connections(before)
            if not len(SENSORS) <= anew <= 2 * len(SENSORS):
                raise StageError(f"{anew} connections after the sleep")
            stopping = time.monotonic()
            await guest.check("systemctl stop affectd", limit=COMMAND_S)
            self.stops.append((stopping, time.monotonic()))
            await asyncio.sleep(FSYNC_S + LATE_S)  # of what was before a clean stop, nothing may be lost
        note = self._left(self.disk, self.cuts[-1])
        slept = self._slept(Path(after["recording"]["path"]).name.partition("-")[0], asleep, awake)
        return seconds, f"{anew} connections anew; {slept}; {note}"

    async def _status(self, guest: Guest) -> dict[str, object]:
        found: dict[str, object] = json.loads(await guest.check("affectd status --json", limit=COMMAND_S))
        return found

    def _slept(self, run: str, asleep: float, awake: float) -> str:
        """Positions, durations and dates of the run that slept between these moments, in short; raises StageError."""
        sent_at, told = {it.data: it.at for it in self.wire.sent}, []
        reader = RecordingReader(sorted((self.scratch / "left/affectd/recordings").glob(f"{run}-*")))
        arrivals = list(reader)
        asleep_s = max(it.asleep_ns for it in arrivals if isinstance(it, ClockReading)) / 1e9
        if abs(asleep_s - SLEEP_S) > 2 * CLOCK_S:
            raise StageError(f"a sleep of {SLEEP_S} s is recorded as one of {asleep_s:.1f} s")
        date = time.time() - time.monotonic()
        for name, protocol in PROTOCOL_OF.items():
            mine = [it for it in arrivals if isinstance(it, Notification) and it.stream == name]
            if inside := [it for it in mine if asleep + LATE_S < sent_at[it.data] < awake - LATE_S]:
                raise StageError(f"{name}: {len(inside)} notifications of the sleep")
            if not any(isinstance(it, LinkChange) and it.stream == name and it.state == "waiting" for it in arrivals):
                raise StageError(f"{name}: the recording does not say that the link was lost")
            first, last = mine[0], mine[-1]
            codec = PROTOCOLS[protocol]
            ticks = [codec.decoder().push(it.data)[0].ticks for it in (first, last)]
            by_sensor = (ticks[1] - ticks[0]) / codec.stream_info.tick_hz
            by_host = (last.host_ns - first.host_ns) / 1e9
            by_date = (
                reader.wall_of(last.host_ns) - datetime.fromtimestamp(sent_at[last.data] + date, UTC)
            ).total_seconds()
            told.append(f"{name}: {by_sensor:.1f} s by its clock, {by_host - by_sensor:+.2f} s, dates {by_date:+.2f} s")
            if abs(by_host - by_sensor) > CLOCK_S or abs(by_date) > CLOCK_S:
                raise StageError(told[-1])
        return "; ".join(told)


def _connections(status: dict[str, object]) -> int:
    return sum(it["link"]["connections"] for it in status["sensors"])  # type: ignore[attr-defined]


def _fsck(disk: Path, how: str) -> None:
    done = subprocess.run(["e2fsck", how, disk], capture_output=True, text=True)
    if done.returncode > (1 if how == "-p" else 0):  # 1: the journal was replayed
        raise StageError(f"e2fsck {how}: {done.returncode}: {done.stdout[-2000:]}{done.stderr[-500:]}")


@contextlib.asynccontextmanager
async def _watching(log: Path, grown: list[tuple[float, int]]) -> AsyncIterator[None]:
    """Meanwhile note how far a log has grown, so that each of its writes has a date."""

    async def look() -> None:
        while True:
            grown.append((time.monotonic(), log.stat().st_size))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


async def suite(name: str, scratch: Path, asked: argparse.Namespace) -> list[Result]:
    """One Debian release."""
    system(name, scratch)
    wire = Wire()
    async with wire.listening(scratch / "hci.sock"), on_air(scratch, scratch / "hci.sock", [*SENSORS.values()]) as air:
        power = Power(name, scratch, wire, air, asked.seed)
        if await power.do("pair", power.pair):
            await power.do("suspend to memory", power.sleep)
            for number in range(asked.cuts):
                await power.do(f"power cut {number + 1}", lambda: power.cut(asked.states))
    return power.results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", choices=PYTHONS)
    parser.add_argument("--cuts", type=int, default=5, help="Boots that end in a power cut (default: 5).")
    parser.add_argument("--states", type=int, default=20, help="Other moments of each, not booted (default: 20).")
    parser.add_argument("--seed", type=int, default=1, help="Of moments and losses (default: 1).")
    parser.add_argument("--keep", type=Path, help="Keep disks and logs in this folder.")
    asked = parser.parse_args()
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="affectd-e2e-") as temporary:
        for name in asked.suites:
            scratch = fresh((asked.keep or Path(temporary)) / name)
            say(f"{name}: seed {asked.seed}")
            results[name] = asyncio.run(suite(name, scratch, asked))
    finish(results)


if __name__ == "__main__":
    main()
