"""`affectd install` and `uninstall`: what they change, that it can be undone, the way back from a bad version."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socketserver
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import pytest
from command_line import affectd

from device.config import example_config, parse_config, sensors_of
from device.errors import ConfigError, InstallError
from device.install import machine, plan, wheel
from device.install.command import PAIRED_NEXT, How, install, roll_back, uninstall
from device.install.machine import Machine
from device.install.plan import Release
from firmware_bridge import registry
from firmware_bridge.registry import Sensor

PROJECT = Path(__file__).parent.parent
UNITS = {path.name: path.read_bytes() for path in (PROJECT / "device" / "systemd").iterdir()}
STRAP = Sensor("ecg", "strap", "A0:9E:1A:00:00:01", "polar-pmd-ecg")
PYTHON = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def release(version: str, digest: str = "") -> Release:
    unit = {"affectd.service": f"# of {version}\n".encode() + UNITS["affectd.service"]}
    return Release(version, digest or version, f"/wheels/{version}.whl", "/wheels/requirements.lock", UNITS | unit)


class System:
    """A machine's Python, systemd and journal, as far as an installation asks them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.releases = {it.wheel: it for it in map(release, ("1.0", "1.1", "1.2"))}
        self.done: list[str] = []
        self.fails: dict[str, str] = {}
        """Part of a command to what it says; with "VERSION|" before it, while that is the current one."""
        self.said: list[str] = []
        self.enabled = False

    @property
    def current(self) -> str:
        return (self.root / "opt/affectd/current").readlink().name.rpartition("-")[0]

    def __call__(self, argv: Sequence[str], remedy: str) -> str:
        command = " ".join(argv).replace(str(self.root), "")
        self.done.append(command)
        for part, reason in self.fails.items():
            version, _, wanted = part.rpartition("|")
            if wanted in command and (not version or version == self.current):
                raise InstallError(f"`{command}`", reason, remedy)
        match argv:
            case [_, "-c", _]:
                return "3.11\n"
            case [_, "-m", "venv", folder]:
                (Path(folder) / "bin").mkdir(parents=True)
            case [python, "-m", "pip", *_, wanted]:
                units = Path(python).parents[1] / "lib/python3.11/site-packages/device/systemd"
                units.mkdir(parents=True)
                for name, content in self.releases[wanted.partition("[")[0]].files.items():
                    (units / name).write_bytes(content)
            case ["systemctl", "enable", _]:
                self.enabled = True
            case ["systemctl", "is-enabled", _]:
                return "enabled\n" if self.enabled else "disabled\n"
            case ["systemctl", "show", "--property=InvocationID", "--value", _]:
                return "0f\n"
            case ["journalctl", "_SYSTEMD_INVOCATION_ID=0f", *_]:
                return "affectd: no such model\n"
        return ""

    def machine(self, *, dry: bool = False) -> Machine:
        return Machine(self.root, dry=dry, say=self.said.append, call=self)

    def install(self, version: str, *, dry: bool = False, **more: tuple[str, ...]) -> str:
        return install(self.machine(dry=dry), release(version), How(), python="python3", **more)  # type: ignore[arg-type]

    def pair(self) -> None:
        registry.write(self.root / "var/lib/affectd/sensors.toml", [STRAP])
        (self.root / "var/lib/affectd/results.db").write_bytes(b"a month")

    def tree(self) -> dict[str, object]:
        """Everything below the root: contents, targets and modes."""
        return {str(path.relative_to(self.root)): _looks(path) for path in sorted(self.root.rglob("*"))}

    def calls(self, text: str) -> list[str]:
        return [command for command in self.done if text in command]


def _looks(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    return path.read_bytes() if path.is_file() else "folder", stat.filemode(path.stat().st_mode)


@pytest.fixture
def system() -> Iterator[System]:
    """Below a short path: that of a UNIX socket is limited."""
    with tempfile.TemporaryDirectory() as folder:
        yield System(Path(folder))


@contextlib.contextmanager
def daemon(system: System, version: Callable[[], str] | None = None) -> Iterator[None]:
    """Answers `affectd status` with the version that is current, or another."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            found = {"ok": True, "status": {"affectd": version() if version else system.current}}
            self.wfile.write(json.dumps(found).encode() + b"\n")

    path = system.root / "run/affectd/affectd.sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with socketserver.UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
    path.unlink()


@pytest.fixture
def at_work(system: System) -> Iterator[System]:
    """1.0 is installed, a sensor paired, the daemon answers."""
    system.install("1.0")
    system.pair()
    with daemon(system):
        system.install("1.0")
        yield system


# The plan


def test_the_first_configuration_waits_for_affectd_pair(tmp_path: Path) -> None:
    config = parse_config(plan.first_config(example_config()))
    assert (config.sensors, config.radio.registry) == ((), "/var/lib/affectd/sensors.toml")
    assert config.sinks.jsonl is not None and config.sinks.sqlite is not None
    there = parse_config(plan.first_config(example_config()).replace("/var/lib", str(tmp_path)))
    with pytest.raises(ConfigError, match="no sensor in it"):
        sensors_of(there)


def test_no_sink_that_needs_somebody_else_is_on_at_first() -> None:
    text = "[sinks.jsonl]\npath = 1\n[sinks.other]\nhost = 2\n[[sinks.other.more]]\nx = 3\n[log]\nlevel = 4\n"
    off = "[sinks.jsonl]\npath = 1\n# [sinks.other]\n# host = 2\n# [[sinks.other.more]]\n# x = 3\n[log]\nlevel = 4\n"
    assert plan.first_config(text) == off


def test_the_user_is_made_before_anything_names_it() -> None:
    steps = [str(step) for step in plan.placing(UNITS, plan.LOCAL, live=True)]
    assert steps[:2] == [f"file {plan.SYSUSERS}", f"run systemd-sysusers {plan.SYSUSERS}"]
    assert steps[-1] == "file /etc/systemd/system/affectd.service"


def test_each_file_says_where_it_goes_and_the_unit_starts_the_current_version() -> None:
    assert set(plan.LOCAL.places()) == set(UNITS)
    for name, place in plan.LOCAL.places().items():
        assert name == plan.UNIT or str(place).encode() in UNITS[name]
    start = f"ExecStart={plan.CURRENT}/bin/affectd run --config {plan.CONFIG}"
    assert start in UNITS["affectd.service"].decode().splitlines()


def test_whatever_differs_is_another_folder() -> None:
    one = release("1.0")
    folders = {
        plan.folder_of(one, ("a", "b"), "3.11"),
        plan.folder_of(one, ("a",), "3.11"),
        plan.folder_of(one, ("a", "b"), "3.13"),
        plan.folder_of(release("1.0", "rebuilt"), ("a", "b"), "3.11"),
    }
    assert len(folders) == 4
    assert plan.folder_of(one, ("b", "a"), "3.11") in folders


# Installing


def test_a_first_installation_waits_for_a_sensor(system: System) -> None:
    assert system.install("1.0").endswith(PAIRED_NEXT)
    tree = system.tree()
    for place in plan.LOCAL.places().values():
        content, mode = tree[str(place)[1:]]  # type: ignore[misc]
        assert mode == "-rw-r--r--" and content
    assert tree["opt/affectd"] == ("folder", "drwxr-xr-x")
    assert system.calls("systemctl") == [
        "systemctl daemon-reload",
        "systemctl enable affectd.service",
        "systemctl is-enabled affectd.service",
    ]


def test_once_a_sensor_is_paired_it_is_started_and_heard(system: System) -> None:
    system.install("1.0")
    system.pair()
    with daemon(system):
        assert "it runs" in system.install("1.0")
    assert system.calls(" start ") == ["systemctl start affectd.service"]
    assert not system.calls(" restart ")
    assert len(system.calls("-m venv")) == 1


def test_installing_again_changes_nothing(at_work: System) -> None:
    before, done = at_work.tree(), len(at_work.done)
    at_work.install("1.0")
    assert at_work.tree() == before
    assert not [command for command in at_work.done[done:] if "pip" in command or " restart " in command]


def test_a_configuration_that_is_there_stays(at_work: System) -> None:
    config = at_work.root / "etc/affectd/affectd.toml"
    config.write_text(config.read_text() + "# mine\n")
    at_work.install("1.1")
    assert config.read_text().endswith("# mine\n")


def test_one_that_is_disabled_is_not_started(at_work: System) -> None:
    at_work.enabled = False
    done = len(at_work.done)
    assert "not started" in at_work.install("1.1")
    assert not [it for it in at_work.done[done:] if " enable " in it or "start " in it]


def test_a_dry_run_says_what_a_run_says_and_changes_nothing(system: System) -> None:
    before = system.tree()
    system.install("1.0", dry=True)
    assert system.tree() == before
    dry, system.said = system.said, []
    system.install("1.0")
    assert dry == system.said
    assert any("daemon-reload" in line for line in dry)


@pytest.mark.parametrize("sensor", [True, False])
def test_purging_leaves_what_was_there_before(system: System, sensor: bool) -> None:
    before = set(system.tree())
    system.install("1.0")
    if sensor:
        system.pair()
    uninstall(system.machine(), How(), purge=True)
    left = {path for path in set(system.tree()) - before if (system.root / path).is_file()}
    assert left == set()
    assert not (system.root / "opt/affectd").exists()


def test_uninstalling_leaves_data_and_configuration(at_work: System) -> None:
    kept = {path: look for path, look in at_work.tree().items() if path.startswith(("var/lib/affectd", "etc/affectd"))}
    assert len(kept) > 3
    uninstall(at_work.machine(), How(), purge=False)
    tree = at_work.tree()
    assert {path: tree[path] for path in kept} == kept
    files = {path for path in tree if (at_work.root / path).is_file() and path not in kept}
    assert files == set()
    assert at_work.calls("systemctl disable --now affectd.service")
    assert not at_work.calls("userdel")


def test_below_another_root_nothing_is_started(system: System) -> None:
    said = install(system.machine(), release("1.0"), How(live=False), python="python3")
    assert "starts with the system" in said
    assert system.calls("systemctl") == ["systemctl --root  enable affectd.service"]
    assert not system.calls("systemd-sysusers")


def test_a_package_has_its_own_places_and_enables_nothing(system: System) -> None:
    install(system.machine(), release("1.0"), How(plan.PACKAGE, live=False, enable=False), python="python3")
    assert (system.root / "usr/bin/affectd").is_symlink()
    assert (system.root / "usr/lib/systemd/system/affectd.service").is_file()
    assert not (system.root / "usr/local").exists() and not (system.root / "etc/systemd").exists()
    assert not system.calls("systemctl")


def test_a_debian_package_is_left_to_apt(system: System) -> None:
    (system.root / "var/lib/dpkg/info").mkdir(parents=True)
    (system.root / "var/lib/dpkg/info/affectd.list").touch()
    before = system.tree()
    with pytest.raises(InstallError, match="use apt"):
        system.install("1.0")
    with pytest.raises(InstallError, match="use apt"):
        uninstall(system.machine(), How(), purge=True)
    assert system.tree() == before


def test_a_program_of_somebody_else_is_not_replaced(system: System) -> None:
    other = system.root / "usr/local/bin/affectd"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with pytest.raises(InstallError, match="not of affectd's making"):
        system.install("1.0")
    assert other.read_text() == "mine"


def test_two_at_once_are_refused(system: System) -> None:
    busy = pytest.raises(InstallError, match="another `affectd install` is at work")
    with system.machine().alone(plan.HOME), busy, system.machine().alone(plan.HOME):
        raise AssertionError


# Upgrades


def test_an_upgrade_has_the_extras_of_before_and_keeps_one_version_to_go_back_to(at_work: System) -> None:
    at_work.install("1.0", extras=("device", "lsl"))
    at_work.install("1.1")
    at_work.install("1.2")
    assert at_work.calls("pip")[-1].endswith("1.2.whl[device,lsl]")
    versions = sorted(path.name.partition("-")[0] for path in (at_work.root / "opt/affectd/versions").iterdir())
    assert versions == ["1.1", "1.2"]
    assert at_work.current == "1.2"
    assert len(at_work.calls(" restart ")) == 3


FAULTS = {
    "a build": ("pip install", "no such package"),
    "a bundle": ("bundle verify", "differs"),
    "a configuration": ("config check", "unknown key"),
    "a start": ("1.1|restart affectd", "timeout"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upgrade_that_fails_leaves_all_as_it_was(at_work: System, fault: str) -> None:
    before = at_work.tree()
    part, reason = FAULTS[fault]
    at_work.fails[part] = reason
    with pytest.raises(InstallError, match="no such model" if fault == "a start" else reason) as raised:
        at_work.install("1.1")
    assert at_work.tree() == before
    assert at_work.current == "1.0"
    if fault == "a start":
        assert at_work.calls(" restart ") == ["systemctl restart affectd.service"] * 2
        assert re.search(r"1\.0-\w+ is back, with all data; see `journalctl", str(raised.value))
    else:
        assert not at_work.calls(" restart ")


def test_a_daemon_that_is_not_the_new_one_is_no_success(system: System) -> None:
    system.install("1.0")
    system.pair()
    with daemon(system, lambda: "1.0"):
        system.install("1.0")
        before = system.tree()
        with pytest.raises(InstallError, match=r"affectd 1\.0 answers, not 1\.1"):
            system.install("1.1")
        assert system.tree() == before


def test_a_silent_daemon_is_no_success(at_work: System) -> None:
    (at_work.root / "run/affectd/affectd.sock").rename(at_work.root / "gone")
    try:
        with pytest.raises(InstallError, match=r"no affectd listens there.*nor does 1\.0"):
            at_work.install("1.1")
    finally:
        (at_work.root / "gone").rename(at_work.root / "run/affectd/affectd.sock")
    assert at_work.current == "1.0"


def test_going_back_and_forth(at_work: System) -> None:
    at_work.install("1.1")
    newer = at_work.tree()
    assert roll_back(at_work.machine(), How()).startswith("1.0-")
    assert at_work.current == "1.0"
    unit = (at_work.root / "etc/systemd/system/affectd.service").read_text()
    assert unit.startswith("# of 1.0\n")
    roll_back(at_work.machine(), How())
    assert at_work.tree() == newer


def test_going_back_to_what_fails_comes_forth_again(at_work: System) -> None:
    at_work.install("1.1")
    before = at_work.tree()
    at_work.fails["1.0|restart affectd"] = "timeout"
    with pytest.raises(InstallError, match=r"1\.1-\w+ is back"):
        roll_back(at_work.machine(), How())
    assert at_work.tree() == before


def test_there_is_nothing_to_go_back_to(at_work: System) -> None:
    with pytest.raises(InstallError, match="no version before this one"):
        roll_back(at_work.machine(), How())


# The wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (found,) = folder.iterdir()
    return found


def test_the_wheel_has_all_that_is_read_at_run_time(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    folders = ("device/systemd", "device/bundles", "device/web/static", "device/demo/data")
    tracked = subprocess.run(["git", "ls-files", *folders], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert len(tracked.stdout.split()) > 20
    assert set(tracked.stdout.split()) <= names
    found = wheel.release(built, tmp_path, PYTHON)
    assert Path(found.constraints).read_bytes() == (PROJECT / "requirements.lock").read_bytes()
    assert found.files == UNITS


@pytest.mark.parametrize("fault", ["absent", "no zip", "another's", "no lock", "no source"])
def test_what_is_no_wheel_of_affectd_is_refused(built: Path, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "it.whl"
    if fault == "no source":
        path.mkdir()
    elif fault == "no zip":
        path.write_text("hello")
    elif fault != "absent":
        with zipfile.ZipFile(built) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if fault == "no lock" and name.endswith("requirements.lock"):
                    continue
                new.writestr(name, content.replace(b"Name: affectd", b"Name: other") if "METADATA" in name else content)
    with pytest.raises(InstallError, match=r"it\.whl: not a (wheel|source folder) of affectd.*name the wheel"):
        wheel.release(path, tmp_path, PYTHON)


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed packages but affectd."""
    folder = tmp_path_factory.mktemp("dependencies")
    (site,) = {Path(path) for path in sys.path if path.endswith("site-packages") and path.startswith(sys.prefix)}
    for path in site.iterdir():
        if "affectd" not in path.name and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)
    return folder


def test_a_real_installation_runs_and_can_be_packed_again(
    built: Path, dependencies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the real venv and pip; its dependencies are those of this process, so that no network is needed."""
    for name, value in {
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_COMPILE": "1",
        "PYTHONPATH": str(dependencies),
    }.items():
        monkeypatch.setenv(name, value)
    root = tmp_path / "root"
    code, out, err = affectd(
        capsys, monkeypatch, "install", built, "--root", root, "--python", PYTHON, "--package", "--extra", "device"
    )
    assert code == 0, err
    assert "is installed" in out.splitlines()[-1]
    (venv,) = (root / "opt/affectd/versions").iterdir()
    for path in (venv / "pyvenv.cfg", *(venv / "bin").iterdir()):
        assert path.is_symlink() or str(root).encode() not in path.read_bytes(), path
    assert (venv / "bin/affectd").read_text().startswith(f"#!/opt/affectd/versions/{venv.name}/bin/python")

    def run(*arguments: str) -> str:
        command = [str(venv / "bin/python"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    assert run(str(venv / "bin/affectd"), "--version").startswith("affectd 0")
    assert str(venv) in run("-c", "import device; print(device.__file__)")
    again = tmp_path / "again"
    again.mkdir()
    code = "import sys; from pathlib import Path; from device.install.wheel import release; "
    code += "print(release(None, Path(sys.argv[1]), sys.executable).digest)"
    assert run("-c", code, str(again)).strip() == wheel.release(built, tmp_path, PYTHON).digest
    (packed,) = again.glob("*.whl")
    assert record(packed) == record(built)


def record(path: Path) -> list[str]:
    """A wheel's own list of names, hashes and sizes."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/RECORD"))
        return sorted(archive.read(name).decode().split())


# The command line


def test_only_root_installs_on_the_machine_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in (["install", "x.whl"], ["uninstall"]):
        assert affectd(capsys, monkeypatch, *command)[::2] == (
            2,
            "affectd: affectd: only root may do this; run it with sudo, or give a folder as --root\n",
        )


@pytest.mark.parametrize(
    "arguments",
    [["install", "--package"], ["install", "--rollback", "x.whl"], ["uninstall", "--yes"]],
)
def test_options_that_contradict_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    code, _, err = affectd(capsys, monkeypatch, *arguments)
    assert code == 2
    assert "goes with" in err or "takes a version that is there" in err


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="wants systemd")
def test_systemd_makes_the_user(tmp_path: Path) -> None:
    place = tmp_path / str(plan.SYSUSERS)[1:]
    place.parent.mkdir(parents=True)
    place.write_bytes(UNITS["affectd-sysusers.conf"])
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", plan.SYSUSERS.name], check=True, capture_output=True)
    assert re.search(r"^affectd:.*:/var/lib/affectd:", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)


def test_a_command_that_fails_has_its_last_words_but_no_advice_in_the_error(tmp_path: Path) -> None:
    script = "echo one >&2; echo 'Job for affectd.service failed.' >&2; echo 'See \"systemctl status\".' >&2; exit 3"
    with pytest.raises(InstallError, match=r"exit code 3: Job for affectd\.service failed\.; look there$"):
        machine.call(["sh", "-c", script], "look there")
    with pytest.raises(InstallError, match="none: cannot be run: No such file or directory; look there"):
        machine.call([str(tmp_path / "none")], "look there")


def test_paths_of_another_root_are_its_own(tmp_path: Path) -> None:
    assert Machine(tmp_path).at(PurePosixPath("/etc/affectd")) == tmp_path / "etc/affectd"
