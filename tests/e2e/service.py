"""affectd as a service of a Debian release, in a container: installed, run, broken in every way, upgraded, removed.

    sudo .venv/bin/python tests/e2e/service.py bookworm [trixie] [--only TEXT] [--lintian] [--keep FOLDER]

Real systemd, D-Bus, polkit, journal, dpkg and Python of the release, and no network; a stand-in for bluetoothd with two
sensors. Exit code 1 if anything fails; the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from container import booted
from image import say
from rootfs import root
from scenes import Result, Scenes, finish
from stage import PROJECT, StageError, fresh
from unit import AS_AFFECTD, CONFIG, STATE, Unit
from vm import GuestError
from wheels import PYTHONS, another, own_wheel, unpacked, wheels

from device.notification import Notification
from device.sinks.sqlite import RESULTS
from firmware_bridge.protocols import PROTOCOLS

SENSORS = {"chest": ("A0:9E:1A:00:00:01", "ecg", "polar-pmd-ecg"), "wrist": ("A0:9E:1A:00:00:02", "eda", "open-eda")}
NEXT, BROKEN = "90.0", "91.0"
"""Versions to come."""
BREAKS = """
RESULTS = Kind(
    RESULTS.what, RESULTS.key, (*RESULTS.versions, "CREATE TABLE mood (level INTEGER) STRICT;"),
    {**RESULTS.backwards, RESULTS.version + 1: "DROP TABLE mood;"},
)
as_before = opened

def opened(*arguments, **options):
    as_before(*arguments, **options).close()
    raise RuntimeError("broken on purpose")
"""
"""Of its database: first it has other tables, then it fails."""
EXPOSURE = 1.5
STOP_S = 5.0
FSYNC_S = 1.0
INSTALL_S = 600.0
LINTIAN_S = 1200.0
BLUETOOTHD = """\
[Unit]
ConditionPathIsDirectory=
[Service]
ExecStart=
ExecStart=/usr/bin/python3 -B /src/tests/e2e/bluetoothd.py
Environment=PYTHONPATH=/src:/src/tests:/libraries
ProtectHome=no
CapabilityBoundingSet=
"""
"""The stand-in, in BlueZ's own unit: its policy, its name on the bus, its restart are the real ones."""
CLOCK = """\
import time
from pathlib import Path

real_ns, offset_ns = time.time_ns, Path(__file__).with_name("offset_ns")
time.time_ns = lambda: real_ns() + int(offset_ns.read_text())
time.time = lambda: time.time_ns() / 1e9
"""
"""A wall clock that can be set: Python imports it before anything else."""
OFFLINE = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels"
QUICK = ("RestartSec=1", "WatchdogSec=12")
"""Of the unit while it is tested; docs/SERVICE.md has the real ones."""
Act = Callable[[], Awaitable[str]]


class Service(Scenes):
    """One release, from bare to bare."""

    def __init__(self, unit: Unit, only: str | None) -> None:
        super().__init__()
        self.unit = unit
        self.sh = unit.sh
        self.only = only
        self.bare: set[str] = set()

    async def play(self, name: str, act: Act) -> None:
        """A scene that took as long as it took."""

        async def scene() -> tuple[float, str]:
            begun = time.monotonic()
            note = await act()
            return time.monotonic() - begun, note

        await self.do(name, scene)

    # From bare to running

    async def install(self) -> str:
        """One command, on a system with nothing but what docs/INSTALL.md asks for."""
        self.bare = await self.files()
        said = await self.sh(f"{OFFLINE} /src/scripts/install", INSTALL_S)
        if "no sensor is paired yet" not in said or await self.unit.show("UnitFileState") != "enabled":
            raise StageError(said)
        looks = (await self.sh(f"stat -c '%U %a' {STATE} {CONFIG}")).split("\n")
        if looks[:2] != ["affectd 700", "root 644"]:
            raise StageError(f"{STATE} and {CONFIG}: {looks}")
        return "waits for a sensor; " + (await self.sh("affectd --version; python3 --version")).replace("\n", ", ")

    async def files(self) -> set[str]:
        """All but what a running system writes and what dpkg keeps for itself."""
        skipped = " -o ".join(
            f"-path '{it}'" for it in ("/proc", "/sys", "/run", "/tmp", "/var/tmp", "/var/log", "/dev")
        )
        mounts = "-path /src -o -path /wheels -o -path /libraries -o -path /harness -o -path /var/lib/dpkg"
        return set((await self.sh(f"find / \\( {skipped} -o {mounts} \\) -prune -o -print")).splitlines())

    async def pair(self) -> str:
        """As the service's user, over the real bus."""
        for name, (address, role, _) in SENSORS.items():
            tool = f"{AS_AFFECTD} affectd-pair --file {STATE}/sensors.toml"
            await self.sh(f"{tool} add {address} --role {role} --name {name} --yes --json")
        return "as affectd, who is in no group"

    async def start(self) -> str:
        """Ready is when it can stream: the network is loaded, the socket answers."""
        await self.unit.drop_in("quick", *QUICK)
        await self.unit.configure(fsync_s=str(FSYNC_S))
        starting = asyncio.create_task(self.sh("affectd install", INSTALL_S))
        await self.unit.active()
        found = await self.unit.status()
        if not found or found["inference"] is None:
            raise StageError(f"ready, but cannot predict: {found}")
        if "it runs" not in (said := await starting):
            raise StageError(said)
        seconds = await self.unit.streaming()
        return f"ready with {found['inference']['runtime']}, both stream {seconds:.1f} s later"

    async def words(self) -> str:
        """What `systemctl status` shows."""
        wanted = "chest streaming, wrist streaming"

        async def holds() -> bool:
            return (await self.unit.show("StatusText")).startswith(wanted)

        await self.unit.until(wanted, holds)
        return await self.unit.show("StatusText")

    async def hardened(self) -> str:
        """What systemd thinks of the unit, and what the kernel says of the process."""
        judged = await self.sh(f"systemd-analyze security --threshold={EXPOSURE * 10:.0f} --no-pager affectd.service")
        if said := await self.sh("systemd-analyze verify affectd.service 2>&1"):
            raise StageError(f"verify: {said}")
        pid = await self.unit.show("MainPID")
        text = await self.sh(f"cat /proc/{pid}/status")
        has = dict(re.findall(r"^(\w+):\s+(\S+)", text, re.MULTILINE))
        wanted = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16}
        if has["Uid"] == "0" or any(has[key] != value for key, value in wanted.items()):
            raise StageError(f"{ {key: has[key] for key in ('Uid', *wanted)} }")
        exposure = judged.rpartition("affectd.service: ")[2].split()[0]
        return f"exposure {exposure}, uid {has['Uid']}, no privileges, seccomp"

    async def journal(self) -> str:
        """Fields, and nothing that the sensors measure."""
        entries = [it for it in await self.unit.logged("", "affectd.service") if "LOGGER" in it]
        states = {(it["AFFECTD_SENSOR"], it["AFFECTD_STATE"]) for it in entries if "AFFECTD_STATE" in it}
        if not {(name, "streaming") for name in SENSORS} <= states:
            raise StageError(f"no fields of the sensors: {states}")
        if bad := [it["MESSAGE"] for it in entries if int(it["PRIORITY"]) <= 4]:
            raise StageError(f"a good start warns: {bad}")
        if any(key not in it for it in entries for key in ("CODE_FILE", "CODE_LINE", "CODE_FUNC", "SYSLOG_IDENTIFIER")):
            raise StageError("an entry without its place")
        return f"{len(entries)} entries with fields, {len(states)} states of links, no warning"

    # Policies and Bluetooth

    async def polkit(self) -> str:
        """Restarting bluetooth.service, and nothing else, and for nobody else."""
        before = await self.unit.show("MainPID", "bluetooth")
        asks = "systemctl --no-ask-password"
        await self.unit.refused(f"runuser -u nobody -- {asks} restart bluetooth", "authentication required")
        await self.unit.refused(f"{AS_AFFECTD} {asks} stop bluetooth", "authentication required")
        await self.unit.refused(f"{AS_AFFECTD} {asks} restart dbus", "authentication required")
        if await self.unit.show("MainPID", "bluetooth") != before:
            raise StageError("refused, and done")
        await self.sh(f"{AS_AFFECTD} {asks} restart bluetooth")
        if await self.unit.show("MainPID", "bluetooth") == before:
            raise StageError("allowed, and not done")
        seconds = await self.unit.streaming()
        return f"affectd may, others may not; both stream again after {seconds:.1f} s"

    async def bluetooth(self) -> str:
        """Missing at the start, late, restarted, killed: states, no errors."""
        pid, notes = "", []
        await self.sh("systemctl stop affectd; systemctl mask --runtime --now bluetooth")
        begun = time.monotonic()
        await self.sh("systemctl start affectd", 150)
        pid = await self.unit.show("MainPID")
        found = await self.unit.status()
        states = {it["link"]["state"] for it in found["sensors"]}
        if "streaming" in states:
            raise StageError(f"streaming without Bluetooth: {states}")
        notes.append(f"missing: ready after {time.monotonic() - begun:.1f} s, {await self.unit.show('StatusText')}")
        await self.sh("systemctl unmask --runtime bluetooth; systemctl start bluetooth")
        notes.append(f"late: {await self.unit.streaming():.1f} s")
        for name, line in {
            "restarted": "systemctl restart bluetooth",
            "killed": "systemctl kill -s KILL bluetooth",
        }.items():
            before = await self.connections()
            await self.sh(f"systemctl reset-failed bluetooth; {line}")  # else it counts as started too often
            if name == "killed":
                await self.sh("systemctl start bluetooth")

            async def anew(before: int = before) -> bool:
                return await self.connections() >= before + len(SENSORS)

            seconds = await self.unit.until(f"connected anew after bluetooth was {name}", anew)
            notes.append(f"{name}: {seconds + await self.unit.streaming():.1f} s")
        if await self.unit.show("MainPID") != pid:
            raise StageError("it was started anew")
        return "; ".join(notes)

    async def connections(self) -> int:
        """Links made so far, in all."""
        return sum(it["link"]["connections"] for it in (await self.unit.status()).get("sensors", []))

    # Running

    async def reload(self) -> str:
        """SIGHUP: the configuration is another, and not one sample is lost; a wrong one changes nothing."""
        before, since = await self.unit.status(), await self.unit.now()
        good = (self.unit.root / CONFIG[1:]).read_text()
        await self.unit.configure(level='"debug"')
        await self.sh("systemctl reload affectd")
        await self.unit.says(since, "changed log.level")
        since = await self.unit.now()
        await self.unit.guest.write(CONFIG, good + "\n[nonsense]\n")
        await self.sh("systemctl reload affectd")
        said = await self.unit.says(since, "nonsense")
        await self.unit.guest.write(CONFIG, good)
        await self.sh("systemctl reload affectd")
        await asyncio.sleep(2)
        after = await self.unit.status()
        if after["pid"] != before["pid"]:
            raise StageError("it was started anew")
        if _lost(after) != _lost(before):
            raise StageError(f"(lost samples, gaps, connections) were {_lost(before)}, are {_lost(after)}")
        return f"nothing lost; a wrong one: {said}"

    async def second(self) -> str:
        """Another daemon beside it."""
        before = await self.unit.status()
        said = await self.unit.refused(f"{AS_AFFECTD} affectd run --config {CONFIG}", "another affectd", rc=2)
        after = await self.unit.status()
        if (after["pid"], after["recording"]["path"]) != (before["pid"], before["recording"]["path"]):
            raise StageError(f"the first one did not go on: {after}")
        return said

    async def killed(self) -> str:
        """kill -9: it comes back, and what was older than the stated interval is there."""
        await self.sh("affectd mark 'before the kill'")
        before = await self.unit.status()
        paths, restarts = self.unit.segments(), await self.unit.restarts()
        await asyncio.sleep(FSYNC_S)
        await self.sh("systemctl kill -s KILL affectd")

        async def again() -> bool:
            return await self.unit.restarts() > restarts and await self.unit.show("ActiveState") == "active"

        seconds = await self.unit.until("started again", again)
        seconds += await self.unit.streaming()
        recorded, _ = self.unit.recorded(paths, recover=True)
        if len(recorded) < (wanted := before["recording"]["records"]):
            raise StageError(f"{len(recorded)} of {wanted} records are left")
        if "before the kill" not in await self.events():
            raise StageError(f"the event is not in the database: {await self.events()}")
        if lost := _missing(recorded):
            raise StageError(f"what is left has holes: {lost}")
        return f"both stream after {seconds:.1f} s; {len(recorded)} records of {wanted} and the event are there"

    async def events(self) -> list[str]:
        """Those in the database."""
        code = f"import sqlite3; print(*sqlite3.connect('{STATE}/results.db').execute('SELECT description FROM event'))"
        return re.findall(r"\('([^']*)',\)", await self.sh(f'{AS_AFFECTD} python3 -c "{code}"'))

    async def stuck(self) -> str:
        """SIGSTOP: the watchdog ends it, it says where it was, and comes back."""
        restarts, since = await self.unit.restarts(), await self.unit.now()
        await self.sh("systemctl kill -s STOP affectd")

        async def again() -> bool:
            return await self.unit.restarts() > restarts and await self.unit.show("ActiveState") == "active"

        seconds = await self.unit.until("started again", again)
        said = [it["MESSAGE"] for it in await self.unit.logged(since) if "MESSAGE" in it]
        if not any("Watchdog timeout" in it for it in said) or not any(
            "Fatal Python error: Aborted" in it for it in said
        ):
            raise StageError(f"no traceback by the watchdog: {said}")
        await self.unit.streaming()
        return f"ended by the watchdog with a traceback, started again after {seconds:.1f} s"

    async def stop(self) -> str:
        """Quick; the sensors are stopped, the recording is sealed."""
        since, begun = await self.unit.now(), time.monotonic()
        await self.sh("systemctl stop affectd")
        seconds = time.monotonic() - begun
        await self.unit.expect("Result", "success")
        stopped = [it["MESSAGE"] for it in await self.unit.logged(since, "bluetooth.service")]
        _, closed = self.unit.recorded(self.unit.segments(), recover=False)
        if seconds > STOP_S or len([it for it in stopped if "stopped" in it]) != len(SENSORS) or not closed:
            raise StageError(f"{seconds:.1f} s, sealed: {closed}, sensors: {stopped}")
        return f"{seconds:.1f} s, streams stopped, segments sealed"

    # Refusals

    async def refusals(self) -> str:
        """What somebody must change first: exit code 2, no further start, nothing touched."""
        db, sensors = f"{STATE}/results.db", f"{STATE}/sensors.toml"
        version = f"import sqlite3; sqlite3.connect('{db}').execute('PRAGMA user_version = {{}}')"
        cases = {
            "a database of a newer affectd": (
                f'{AS_AFFECTD} python3 -c "{version.format(99)}"',
                f'{AS_AFFECTD} python3 -c "{version.format(RESULTS.version)}"',
                "newer affectd",
            ),
            "a registry that it may not read": (f"chown root {sensors}", f"chown affectd {sensors}", "cannot be read"),
            "a database that it may not write": (f"chown root {db}", f"chown affectd {db}", "cannot be written"),
            "a recording that it may not write": (
                f"chown root {STATE}/recordings; chmod 700 {STATE}/recordings",
                f"chown affectd {STATE}/recordings",
                "recordings",
            ),
        }
        for name, (spoil, mend, word) in cases.items():
            before = await self.sh(f"sha256sum {db} {sensors}")
            await self.sh(spoil)
            await self.fails(name, word)
            await self.sh(mend)
            if name != "a database of a newer affectd" and await self.sh(f"sha256sum {db} {sensors}") != before:
                raise StageError(f"{name}: it was changed")
        await self.unit.restart()
        return f"{', '.join(cases)}: exit code 2, once"

    async def fails(self, what: str, *words: str) -> None:
        """It does not start, says why, and is not started again."""
        await self.sh("systemctl stop affectd; systemctl reset-failed affectd || true")
        since = await self.unit.now()
        await self.unit.refused("systemctl start affectd")
        await asyncio.sleep(2)  # RestartSec= is less
        found = [await self.unit.show(it) for it in ("ActiveState", "ExecMainStatus", "NRestarts")]
        if found != ["failed", "2", "0"]:
            raise StageError(f"{what}: {found}: {await self.unit.words()}")
        said = " ".join(it["MESSAGE"] for it in await self.unit.logged(since, "affectd.service"))
        if any(word not in said for word in words):
            raise StageError(f"{what}: {said!r} has no {words}")

    # Secrets, disk, clock

    async def credentials(self) -> str:
        """The broker's password is root's alone, and the broker hears who has it."""
        secret = "e2e-secret"
        await self.sh(
            f"mkdir -p /etc/affectd/credentials && cd /etc/affectd/credentials && printf {secret} >mqtt_password"
            f" && chmod 600 mqtt_password && mosquitto_passwd -b -c /etc/mosquitto/passwd affectd {secret}"
            " && chown mosquitto /etc/mosquitto/passwd"
        )
        await self.unit.guest.write(
            "/etc/mosquitto/conf.d/e2e.conf", "listener 1883 127.0.0.1\npassword_file /etc/mosquitto/passwd\n"
        )
        await self.sh("systemctl restart mosquitto")
        await self.unit.drop_in("secret", "LoadCredential=mqtt_password:/etc/affectd/credentials/mqtt_password")
        before = (self.unit.root / CONFIG[1:]).read_text()
        mqtt = '\n[sinks.mqtt]\nhost = "127.0.0.1"\ntls = false\nusername = "affectd"\ndevice = "e2e"\n'
        await self.unit.guest.write(CONFIG, before + mqtt)
        since = await self.unit.now()
        await self.unit.restart()
        hears = f"mosquitto_sub -h 127.0.0.1 -u affectd -P {secret} -t 'affectd/e2e/#' -C 1 -W 30 -v"
        topic = (await self.sh(hears)).split()[0]
        if secret in "".join(str(it) for it in await self.unit.logged(since, "affectd.service")):
            raise StageError("the password is in the log")
        others = f"printf x >{STATE}/password; chown affectd {STATE}/password; chmod 644 {STATE}/password"
        await self.sh(others)
        await self.unit.guest.write(CONFIG, before + mqtt + f'password_file = "{STATE}/password"\n')
        await self.fails("a key that others may read", "chmod 600")
        await self.unit.guest.write(CONFIG, before)
        await self.unit.drop_in("secret")
        await self.sh(f"rm {STATE}/password {STATE}/mqtt-outbox.db*; systemctl stop mosquitto")
        await self.unit.restart()
        return f"heard {topic}; not in the log; a file that others may read is refused"

    async def full(self) -> str:
        """Raw data goes first, then none is recorded, results go on; with room again, so does the recording."""
        before = (self.unit.root / CONFIG[1:]).read_text()
        await self.sh(
            "systemctl stop affectd; mkdir /kept && cp -a /var/lib/affectd/sensors.toml /kept"
            f" && mount -t tmpfs -o size=8m,mode=700,uid=$(id -u affectd),gid=$(id -g affectd) tmpfs {STATE}"
            f" && cp -a /kept/sensors.toml {STATE}"
        )
        await self.unit.configure(segment_s="5.0", min_free_bytes=str(2 << 20), compress="false")
        since = await self.unit.now()
        await self.unit.restart()
        await asyncio.sleep(12)  # two segments
        await self.sh(f"fallocate -l 6100K {STATE}/filler")
        deleted = await self.unit.says(since, "deleted")
        refused = await self.unit.says(since, "not recording")
        await self.sh("affectd mark 'disk full'")
        if "disk full" not in await self.events():
            raise StageError("a result was not written while there was room for results")
        await self.sh(f"dd if=/dev/zero of={STATE}/filler2 bs=4k 2>/dev/null || true")
        await asyncio.sleep(5)
        await self.unit.expect("ActiveState", "active")
        await self.sh(f"rm {STATE}/filler {STATE}/filler2")
        again = await self.unit.says(since, "recording again")
        await self.sh("affectd mark 'room again'")
        if "room again" not in await self.events() or await self.unit.restarts():
            raise StageError(f"it does not write results again: {await self.unit.words()}")
        await self.sh(f"systemctl stop affectd; umount {STATE}")
        await self.unit.guest.write(CONFIG, before)
        await self.unit.restart()
        return "; ".join((deleted.rpartition(": ")[2], refused.rpartition(": ")[2] or refused, again))

    async def clock(self) -> str:
        """Steps of years, of this process's wall clock alone: the machine's is not a container's to set."""
        await self.unit.guest.write("/run/e2e-clock/sitecustomize.py", CLOCK)
        await self.sh("echo 0 >/run/e2e-clock/offset_ns")
        await self.unit.drop_in("clock", "Environment=PYTHONPATH=/run/e2e-clock")
        await self.unit.restart()
        before = await self.unit.status()
        pid, said = await self.unit.show("MainPID"), []
        for days in (1500, -500, 0):
            since = await self.unit.now()
            offset_ns = days * 86_400 * 10**9
            await self.sh(f"echo {offset_ns} >/run/e2e-clock/next; mv /run/e2e-clock/next /run/e2e-clock/offset_ns")
            said.append((await self.unit.says(since, "the wall clock was set")).split(",")[0].rpartition(" by ")[2])
        found = await self.unit.status()
        if (lost := _lost(found)) != _lost(before) or await self.unit.show("MainPID") != pid:
            raise StageError(f"(lost samples, gaps, connections) were {_lost(before)}, are {lost}")
        await self.unit.drop_in("clock")
        await self.unit.restart()
        return f"{', '.join(said)}; no gap"

    # Versions

    async def upgrade(self) -> str:
        """To a next version, which keeps everything."""
        kept = await self.data()
        said = await self.sh(f"affectd install /own/affectd-{NEXT}-py3-none-any.whl --wheels /wheels", INSTALL_S)
        await self.runs(NEXT)
        if lost := kept - await self.data():
            raise StageError(f"gone: {lost}")
        return said.strip().rpartition("\n")[2]

    async def broken(self) -> str:
        """To one that makes the database another one and does not start: the one before is back, with all it had."""
        kept, since = await self.data(), await self.unit.now()
        line = f"affectd install /own/affectd-{BROKEN}-py3-none-any.whl --wheels /wheels"
        done = await self.unit.guest.run(line, limit=INSTALL_S)
        if done.rc != 2 or "is back, with all data" not in done.err or "broken on purpose" not in done.err:
            raise StageError(f"exit code {done.rc}: {done.err}")
        await self.runs(NEXT)
        if lost := kept - await self.data():
            raise StageError(f"gone: {lost}")
        await self.unit.says(since, f"(version {RESULTS.version + 1} of its tables) goes back")
        return done.err.strip().rpartition("\n")[2]

    async def back(self) -> str:
        """To the version before."""
        kept = await self.data()
        said = await self.sh("affectd install --rollback", INSTALL_S)
        await self.runs(self.version)
        if lost := kept - await self.data():
            raise StageError(f"gone: {lost}")
        return said.strip().rpartition("\n")[2]

    version = ""
    """Of this checkout."""
    with_lintian = False

    async def runs(self, version: str) -> None:
        """It is that one that runs, and streams."""
        await self.unit.streaming()
        if (found := (await self.unit.status())["affectd"]) != version:
            raise StageError(f"{found} runs, not {version}")

    async def data(self) -> set[str]:
        """Names of recordings, of what else is kept, and events."""
        kept = (await self.sh(f"cd {STATE} && find . -name 'r0*-*' -o -name sensors.toml")).splitlines()
        return {it.removesuffix(".xz") for it in kept} | set(await self.events())

    # The end

    async def uninstall(self) -> str:
        """Data and configuration stay; with --purge nothing does."""
        kept = await self.data()
        await self.sh("cp -a $(readlink -f /opt/affectd/current) /var/tmp/affectd", INSTALL_S)
        again = "/var/tmp/affectd/bin/python /var/tmp/affectd/bin/affectd"
        await self.sh("affectd uninstall", INSTALL_S)
        await self.unit.refused("systemctl cat affectd")
        if await self.data() != kept or not (self.unit.root / CONFIG[1:]).exists():
            raise StageError("data or configuration is gone")
        left = await self.files() - self.bare
        places = (STATE, str(Path(CONFIG).parent))
        if odd := sorted(it for it in left if not it.startswith(places) and not self.passing(it)):
            raise StageError(f"left behind: {odd}")
        await self.sh(f"cp -a {STATE}/sensors.toml /var/tmp/; {again} uninstall --purge --yes", INSTALL_S)
        await self.sh("rm -r /var/tmp/affectd", INSTALL_S)
        if odd := sorted(it for it in await self.files() - self.bare if not self.passing(it)):
            raise StageError(f"left after --purge: {odd}")
        return f"{len(kept)} recordings and events stay; after --purge nothing does"

    @staticmethod
    def passing(path: str) -> bool:
        """Whether it is of the stage, or of the system's own making."""
        stage = ("/kept", "/var/lib/bluetooth", "/etc/mosquitto", "/root/.cache")
        return path.startswith((*stage, "/var/lib/systemd")) or "/__pycache__" in path

    # A Debian package

    async def build(self) -> str:
        """Begun beside the first scenes, looked at here."""

        async def built() -> bool:
            return await self.unit.show("ActiveState", "deb") in ("inactive", "failed")

        await self.unit.until("built", built, INSTALL_S)
        if await self.unit.show("Result", "deb") != "success":
            raise StageError(await self.sh("journalctl -u deb -o cat --no-pager -n 20"))
        (self.deb,) = (await self.sh("ls /var/tmp/deb/*.deb")).split()
        return self.deb.rpartition("/")[2]

    async def lintian(self) -> str:
        """No error and no warning without a reason in the package; its look at 7000 files takes minutes."""
        line = f"lintian --allow-root --fail-on error,warning {self.deb}"
        done = await self.unit.guest.run(line, limit=LINTIAN_S)
        if done.rc:
            raise StageError(f"lintian: {done.out}{done.err}")
        return "no error, no warning"

    deb = ""

    async def package(self) -> str:
        """Installed, upgraded, removed, purged; data goes with the last alone."""
        before = await self.files()
        said = await self.sh(f"dpkg -i {self.deb} 2>&1", INSTALL_S)
        if "pair a sensor" not in said:
            raise StageError(said)
        await self.sh(f"install -o affectd -g affectd -m 600 /var/tmp/sensors.toml {STATE}/")
        await self.sh("systemctl restart affectd", 150)
        await self.unit.streaming()
        await self.unit.refused("affectd install", "use apt", rc=2)
        pid, kept = await self.unit.show("MainPID"), await self.data()
        await self.sh(
            f"cd /var/tmp && dpkg-deb -R {self.deb} tree && sed -i 's/^Version: .*/&+next/' tree/DEBIAN/control"
            " && dpkg-deb -Znone --build tree next.deb && rm -r tree && dpkg -i next.deb 2>&1",
            INSTALL_S,
        )
        await self.unit.streaming()
        if kept - await self.data() or await self.unit.show("MainPID") == pid:
            raise StageError("an upgrade has lost data, or has not started the new one")
        await self.sh("dpkg -r affectd 2>&1", INSTALL_S)
        if kept - await self.data() or not (self.unit.root / CONFIG[1:]).exists():
            raise StageError("removing has lost data")
        await self.unit.refused("systemctl is-active affectd")
        await self.sh("dpkg -P affectd 2>&1; rm /var/tmp/next.deb")
        if odd := sorted(it for it in await self.files() - before if not self.passing(it)):
            raise StageError(f"left after a purge: {odd}")
        return "installed, upgraded with all data, removed, purged"

    def scenes(self) -> dict[str, Act]:
        """All, in order: each needs those before it only to have it running."""
        return {
            "install on a bare system": self.install,
            "pair": self.pair,
            "ready when it can stream": self.start,
            "status words": self.words,
            "hardened": self.hardened,
            "journal": self.journal,
            "polkit": self.polkit,
            "bluetooth missing, late, restarted": self.bluetooth,
            "reload": self.reload,
            "a second daemon": self.second,
            "killed -9": self.killed,
            "stuck": self.stuck,
            "clean stop": self.stop,
            "refusals": self.refusals,
            "credentials": self.credentials,
            "a full disk": self.full,
            "a clock set by years": self.clock,
            "upgrade": self.upgrade,
            "a broken upgrade": self.broken,
            "rollback": self.back,
            "uninstall": self.uninstall,
            "build a package": self.build,
            **({"lintian": self.lintian} if self.with_lintian else {}),
            "a package's life": self.package,
        }


NEEDED = ("install", "pair", "ready", "uninstall")
"""Scenes that come always."""


def _lost(status: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Lost samples, gaps and connections of each sensor."""
    return {
        it["name"]: (it["stream"]["lost_samples"], it["stream"]["gaps"], it["link"]["connections"])
        for it in status["sensors"]
    }


def _missing(recorded: list[object]) -> list[str]:
    """Places where a sensor's own clock says that packets are missing while its link held."""
    found = []
    for name, (_, _, protocol) in SENSORS.items():
        codec = PROTOCOLS[protocol]
        decoder, last = codec.decoder(), None
        for it in recorded:
            if getattr(it, "stream", None) != name:
                continue
            if not isinstance(it, Notification):
                last = None
                continue
            (packet,) = decoder.push(it.data)
            step = 0.0 if last is None else (packet.ticks - last) / codec.stream_info.tick_hz
            if step > 1.5 * len(packet.values) / codec.stream_info.sfreq:
                found.append(f"{name}: {step:.1f} s")
            last = packet.ticks
    return found


async def suite(name: str, scratch: Path, only: str | None, with_lintian: bool) -> list[Result]:
    """One Debian release."""
    own, libraries = scratch / "own", scratch / "libraries"
    wheel = own_wheel(own)
    another(wheel, NEXT)
    another(wheel, BROKEN, **{"sinks/sqlite": (PROJECT / "device/sinks/sqlite.py").read_text() + BREAKS})
    downloaded = wheels(name)
    unpacked("dbus_fast", downloaded, libraries)
    binds = {"/src": PROJECT, "/own": own, "/wheels": downloaded, "/libraries": libraries}
    async with booted(root(name), scratch, binds) as guest:
        service = Service(unit := Unit(guest, scratch / "root"), only)
        service.with_lintian = with_lintian
        service.version = wheel.name.split("-")[1]
        try:
            state = (await guest.run("systemctl is-system-running --wait")).out.strip()
            say(f"{name}: up, {state}, {(await unit.sh('systemctl --version')).splitlines()[0]}")
            await guest.write("/etc/systemd/system/bluetooth.service.d/e2e.conf", BLUETOOTHD)
            await unit.sh("systemctl daemon-reload; systemctl stop mosquitto; systemctl start bluetooth")
            if only is None or only in "build a package's life":
                deb = f"env OUT=/var/tmp/deb {OFFLINE} /src/scripts/deb /own/{wheel.name}"
                await unit.sh(f"systemd-run --quiet --unit=deb --nice=5 --property=RemainAfterExit=no {deb}")
            for scene, act in service.scenes().items():
                if only is None or only in scene or scene.startswith(NEEDED):
                    await service.play(scene, act)
        finally:
            (scratch / "guest.log").write_text((await guest.run("journalctl -b --no-pager -o short-precise")).out)
    return service.results


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="+", choices=PYTHONS)
    parser.add_argument("--only", help="Scenes whose name holds this text; installing and starting come always.")
    parser.add_argument("--lintian", action="store_true", help="Have lintian judge the package: minutes more.")
    parser.add_argument("--keep", type=Path, help="Keep logs and what was changed in this folder.")
    arguments = parser.parse_args()
    if os.geteuid():
        raise SystemExit("e2e: booting a container wants root: sudo make e2e-service")
    results: dict[str, list[Result]] = {}
    with tempfile.TemporaryDirectory(prefix="affectd-e2e-") as temporary:
        for name in arguments.suites:
            scratch = fresh((arguments.keep or Path(temporary)) / name)
            try:
                results[name] = asyncio.run(suite(name, scratch, arguments.only, arguments.lintian))
            except GuestError as error:
                raise SystemExit(f"e2e: {name}: {error}") from error
    finish(results)


if __name__ == "__main__":
    main()
