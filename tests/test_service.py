"""affectd as a service: what it tells systemd, when its watchdog is fed, and the unit that starts it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bluez import BUS_CONFIG
from test_daemon import CHEST, WRIST, Scripted, of
from test_daemon import config as config
from tiny_bundle import tiny_bundle
from virtual_time import run_virtual

from device.cli import EXIT_ERROR, EXIT_PASSING
from device.config import Config
from device.daemon import merged, run
from device.progress import DISK_S, Progress
from device.recording import RecordingReader
from device.service import ServiceManager, kept_informed
from device.sources.virtual import VirtualSource

UNITS = Path(__file__).parent.parent / "device" / "systemd"
UNIT = UNITS / "affectd.service"
EXPOSURE = 15
"""Tenths: 1.5 of `systemd-analyze security`."""
LIMIT_S = 30.0


class Manager:
    """A service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1))
        self.socket.settimeout(LIMIT_S)

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def heard(self) -> str:
        return self.socket.recv(4096).decode()

    def until(self, wanted: str) -> list[str]:
        """Everything up to the first message that begins so."""
        heard = [self.heard()]
        while not heard[-1].startswith(wanted):
            heard.append(self.heard())
        return heard

    def pending(self) -> list[str]:
        self.socket.setblocking(False)
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(self.heard())
        return heard

    def environ(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **more}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as manager:
        yield manager


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_progress_for_hours() -> None:
    clock = Clock()
    progress = Progress(lambda: 5.0, clock)
    sync = progress.syncing(lambda: None)
    for _ in range(3600):
        clock.now += 5
        sync()
        assert progress.made()


def test_what_has_come_must_be_done_before_the_next_answer_but_one() -> None:
    progress = Progress(lambda: 5.0, Clock())
    progress.arrived()
    assert progress.made()  # it has only just come
    assert not progress.made()
    progress.arrived()
    progress.done()
    assert progress.made()  # all that had come when it was last true is done
    assert not progress.made()
    progress.done()
    assert progress.made()


def test_one_who_lags_gets_on_and_one_who_falls_behind_for_ever_does_not() -> None:
    """Looked at each 15 s: 10 arrivals a second, worked through 40 s late; then none at all."""
    progress = Progress(lambda: 5.0, Clock())
    made = []
    for second in range(600):
        for _ in range(10):
            progress.arrived()
            if 40 <= second < 300:
                progress.done()
        if second % 15 == 14:
            made.append(progress.made())
    fed = [number for number, well in enumerate(made) if well]
    assert max(later - sooner for sooner, later in itertools.pairwise(fed)) * 15 < 60
    assert 300 - 60 < fed[-1] * 15 <= 300


def test_what_waits_for_a_slow_consumer_has_arrived() -> None:
    async def consume() -> None:
        arrived: list[None] = []
        sources = [Scripted("chest", of("chest")[:5])]
        async with contextlib.aclosing(merged(sources, asyncio.Event(), lambda: arrived.append(None))) as arrivals:
            async for _ in arrivals:
                while len(arrived) < 5:
                    await asyncio.sleep(0)
                break

    asyncio.run(asyncio.wait_for(consume(), LIMIT_S))


@pytest.mark.parametrize("stuck", [True, False])
def test_a_disk_that_does_not_answer_is_no_progress(stuck: bool) -> None:
    clock = Clock()
    progress = Progress(lambda: 5.0, clock)

    def refuse() -> None:
        raise OSError(5, "Input/output error")

    clock.now += 5 + DISK_S
    assert progress.made()
    if not stuck:  # an error is an answer, and is logged elsewhere
        with pytest.raises(OSError, match="Input"):
            progress.syncing(refuse)()
    clock.now += 1
    assert progress.made() is not stuck


def test_the_manager_is_told_at_a_path_and_at_an_abstract_name(tmp_path: Path) -> None:
    for address in (str(tmp_path / "notify"), f"@affectd-test-{os.getpid()}"):
        with Manager(address) as manager:
            asyncio.run(ServiceManager(manager.environ()).tell("READY=1", "STATUS=a"))
            assert manager.heard() == "READY=1\nSTATUS=a"


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert ServiceManager({"NOTIFY_SOCKET": "/none", **environ}).watchdog_s == watchdog_s
    assert ServiceManager(environ).watchdog_s is None  # nobody to be told


def test_a_manager_that_has_gone_is_said_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell("READY=1"))
    assert "the service manager is not told 'READY=1'" in caplog.text


async def a_life(manager: Manager, progress: Progress, stuck_s: float, *, fails: bool = False) -> list[str]:
    """What is told: open after 20 s, streaming after 30 s; from 200 s on, if at all, something that is never done."""
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_reader(manager.socket, lambda: heard.append(manager.heard()))
    stop = asyncio.Event()
    opening: asyncio.Future[Any] = loop.create_future()
    said = ["chest searching"]
    informant = ServiceManager(manager.environ(WATCHDOG_USEC="60000000"))
    async with kept_informed(opening, stop, lambda: said[0], progress.made, informant):
        await asyncio.sleep(20)
        if fails:
            stop.set()
        opening.set_result(None)
        await asyncio.sleep(10)
        said[0] = "chest\nstreaming"
        await asyncio.sleep(170)
        if stuck_s:
            progress.arrived()
            await asyncio.sleep(stuck_s)
        stop.set()
        await asyncio.sleep(1)
    loop.remove_reader(manager.socket)
    return heard


def test_a_service_says_what_becomes_of_it(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    heard = run_virtual(a_life(manager, Progress(lambda: 1e6), stuck_s=0))
    assert [line for line in heard if line != "WATCHDOG=1"] == [
        *("STATUS=chest searching", "READY=1", "STATUS=chest streaming", "STOPPING=1")
    ]
    assert heard[:4] == ["STATUS=chest searching", "WATCHDOG=1", "WATCHDOG=1", "READY=1"]  # not before 15 s
    assert heard.count("WATCHDOG=1") == 200 // 15 + 1
    assert not caplog.records


def test_a_stuck_session_is_not_fed_and_this_is_said_once(manager: Manager, caplog: pytest.LogCaptureFixture) -> None:
    heard = run_virtual(a_life(manager, Progress(lambda: 1e6), stuck_s=300))
    assert heard.count("WATCHDOG=1") == 200 // 15 + 2  # one more: it had only just come
    assert [r.message for r in caplog.records] == [
        "no progress: what the sensors sent is not worked through, or the disk does not answer"
    ]


def test_a_start_that_fails_is_never_ready(manager: Manager) -> None:
    heard = run_virtual(a_life(manager, Progress(lambda: 1e6), stuck_s=0, fails=True))
    assert "READY=1" not in heard and "STOPPING=1" in heard


def test_without_a_manager_nothing_is_done() -> None:
    async def nobody() -> None:
        async with kept_informed(asyncio.Future(), asyncio.Event(), str, bool, ServiceManager({})):
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(nobody())


STREAMING = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_daemon import CHEST, WRIST
from device.config import load_config
from device.daemon import run
from device.sources.virtual import VirtualSource
asyncio.run(run(load_config(Path({path!r})), sources=[VirtualSource([CHEST, WRIST], speed=1.0)]))
"""
CLI = "import sys; sys.argv = ['affectd', 'run', '--config', {path!r}]; from device.cli import main; main()"
CONFIG = """
[[sensors]]
role = "ecg"
name = "chest"
address = "A0:9E:1A:00:00:01"
protocol = "polar-pmd-ecg"
[inference]
bundle = "{folder}/tiny.affect"
[control]
socket = "{folder}/affectd.sock"
[recording]
directory = "{folder}/recordings"
fsync_s = 0.2
"""


@contextlib.contextmanager
def started(script: str, manager: Manager, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A daemon in a process of its own, on a machine without D-Bus, whose watchdog is fed twenty times a second."""
    tiny_bundle(tmp_path / "tiny.affect")
    path = tmp_path / "affectd.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    command = [sys.executable, "-c", script.format(tests=str(Path(__file__).parent), path=str(path))]
    env = {**os.environ, **manager.environ(WATCHDOG_USEC="200000"), "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/none"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            yield daemon
        finally:
            daemon.kill()


def test_a_daemon_that_streams_is_ready_fed_and_stops_in_good_order(manager: Manager, tmp_path: Path) -> None:
    with started(STREAMING, manager, tmp_path) as daemon:
        start = manager.until("READY=1")
        assert "STATUS=no prediction yet" in start
        (path,) = (tmp_path / "recordings").iterdir()
        written = path.stat().st_size
        for _ in range(40):  # 2 s of data, each worked through
            manager.until("WATCHDOG=1")
        assert path.stat().st_size > written
        daemon.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert daemon.wait(timeout=5) == 0  # what TimeoutStopSec and the user expect
    reader = RecordingReader(path)
    assert {arrival.stream for arrival in reader} >= {"chest"}
    assert reader.closed


def test_a_machine_without_bluetooth_is_ready_says_so_and_is_fed(manager: Manager, tmp_path: Path) -> None:
    with started(CLI, manager, tmp_path) as daemon:
        heard = manager.until("READY=1")
        while "STATUS=chest waiting" not in heard:
            heard.append(manager.heard())
        for _ in range(3):
            manager.until("WATCHDOG=1")
        daemon.send_signal(signal.SIGTERM)
        manager.until("STOPPING=1")
        assert daemon.wait(timeout=5) == 0
    (path,) = (tmp_path / "recordings").iterdir()
    reader = RecordingReader(path)
    assert list(reader) and reader.closed


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))\n" + CLI


def test_a_disk_that_takes_no_more_is_tried_again(manager: Manager, tmp_path: Path) -> None:
    """Here a limit of the file's size stands in for it, within the recording's head."""
    with started(FULL, manager, tmp_path) as daemon:
        _, said = daemon.communicate(timeout=LIMIT_S)
    assert daemon.returncode == EXIT_PASSING
    assert f"RestartPreventExitStatus={EXIT_ERROR}\n" in UNIT.read_text()
    assert re.search(r"^affectd: .*record 1: cannot be created: File too large; ", said, re.M)


def test_neither_the_log_nor_the_state_tells_what_somebody_feels(
    config: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, manager: Manager
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, value in manager.environ().items():
        monkeypatch.setenv(name, value)
    asyncio.run(run(config, sources=[VirtualSource([CHEST, WRIST])], stop=asyncio.Event()))
    assert config.sinks.jsonl is not None
    predictions = [json.loads(line) for line in Path(config.sinks.jsonl.path).read_text().splitlines()]
    shares = {repr(share) for p in predictions for share in (p.get("probabilities") or {}).values()}
    assert shares  # there was something to tell
    told = caplog.text + "\n".join(manager.pending())
    assert "predicting from" in told
    assert not re.search(r"\bstress\b", told)
    assert not [share for share in shares if share in told]


def systemd(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: what systemd thinks of device/systemd is not checked")
    return subprocess.run([tool, *arguments], capture_output=True, text=True)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that is there."""
    path = tmp_path / UNIT.name
    path.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT.read_text(), flags=re.M))
    return path


def test_systemd_finds_no_fault_with_the_unit(unit: Path) -> None:
    checked = systemd("systemd-analyze", "verify", str(unit))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_unit_is_hardened(unit: Path) -> None:
    checked = systemd(
        "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(unit)
    )
    assert checked.returncode == 0, checked.stdout


def test_every_file_means_the_same_user(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    made = systemd("systemd-sysusers", f"--root={tmp_path}", str(UNITS / "affectd-sysusers.conf"))
    assert made.returncode == 0, made.stderr
    name, _, uid, gid, _, home, shell = (tmp_path / "etc" / "passwd").read_text().strip().split(":")
    assert (int(uid) < 1000, int(gid) < 1000, home, Path(shell).name) == (True, True, "/var/lib/affectd", "nologin")
    assert f"\nUser={name}\nGroup={name}\n" in UNIT.read_text()
    assert f'<policy user="{name}">' in (UNITS / "affectd-dbus.conf").read_text()
    assert f'subject.user == "{name}"' in (UNITS / "affectd-polkit.rules").read_text()


@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_lets_the_services_user_reach_bluez(policy: bool, tmp_path: Path) -> None:
    """Before a bus whose other policies let nobody; this user stands in for the service's."""
    ours = (UNITS / "affectd-dbus.conf").read_text().replace('"affectd"', f'"{getpass.getuser()}"')
    (tmp_path / "affectd.conf").write_text(ours)
    bus = BUS_CONFIG.format(socket=tmp_path / "bus")
    closed = '<policy context="default"><deny send_destination="org.bluez"/></policy>'
    include = f"<include>{tmp_path / 'affectd.conf'}</include>" if policy else ""
    (tmp_path / "bus.conf").write_text(bus.replace("</busconfig>", f"{closed}{include}</busconfig>"))
    command = ["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork", "--nopidfile", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        try:
            assert asyncio.run(_reached(str(tmp_path / "bus"))) is policy
        finally:
            daemon.terminate()


async def _reached(socket_path: str) -> bool:
    from dbus_fast import Message, MessageType
    from dbus_fast.aio import MessageBus

    bluez, client = [await MessageBus(bus_address=f"unix:path={socket_path}").connect() for _ in range(2)]
    try:
        await bluez.request_name("org.bluez")
        peer = {"destination": "org.bluez", "path": "/", "interface": "org.freedesktop.DBus.Peer", "member": "Ping"}
        reply = await client.call(Message(**peer))
        assert reply is not None
        return reply.message_type is not MessageType.ERROR
    finally:
        for bus in (bluez, client):
            bus.disconnect()
            await bus.wait_for_disconnect()
