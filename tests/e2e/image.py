"""Builds what one Debian suite needs to boot in QEMU: kernel, initramfs and root image, cached by a hash of the inputs.

Knows nothing of what will be tested. Sources of Debian packages are the machine's own, with the suite's name put in.
The root of another architecture is put together without running any of its programs: its packages' files, and beside
them what the same packages' scripts have made of a root of this machine's own. Emulated, the scripts take half an hour.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
OWN_SUITE = "bookworm"
"""The suite that the machine's own sources name."""
SUITES = ("bookworm", "trixie")
"""BlueZ 5.66 on Linux 6.1, and BlueZ 5.82 on Linux 6.12."""
QEMU = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
"""By Debian's name of the architecture."""
OWN_ARCH = "amd64"
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "cpio": "cpio",
    "depmod": "kmod",
    "xz": "xz-utils",
}
DEBS = "systemd,systemd-sysv,dbus,bluez,python3,python3-venv,kmod,udev,procps,iproute2,libdbus-1-3,busybox-static"
BOOT_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "crc32c_generic", "ext4", "overlay"),
    "virtio_net",
)
"""What the initramfs loads, before there is a root file system."""
GUEST_MODULES = (
    *("bluetooth", "hci_uart", "hci_vhci", "uhid", "rfkill"),
    # LE Secure Connections: without the random generators the kernel cannot create its ECDH context.
    *("cmac", "ecdh_generic", "drbg", "jitterentropy_rng", "sha512_generic", "seqiv", "ecb", "ccm", "ctr"),
    *("algif_hash", "algif_skcipher"),
)
MERGED = ("bin", "sbin", "lib", "lib64")
"""Links to the folders of the same names in /usr."""
NOT_MADE = ("var/lib/dpkg/", "var/lib/apt/", "var/cache/", "etc/ld.so.cache")
"""Says which packages of which architecture are installed, or is made anew at need."""
IMAGE_BYTES = 900_000_000
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "affectd-e2e"
"""Folder of what is kept from one run to the next."""
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "systemd-timesyncd.service", "e2scrub_reap.service"),
    *("getty@tty1.service", "serial-getty@ttyS0.service", "systemd-pcrphase.service", "dpkg-db-backup.timer"),
    *("fstrim.timer", "logrotate.timer", "systemd-random-seed.service", "systemd-update-utmp.service"),
    *("systemd-journal-flush.service", "systemd-binfmt.service", "keyboard-setup.service", "console-setup.service"),
)

os.environ["PATH"] += ":/usr/sbin:/sbin"  # depmod and mke2fs, which are not on everybody's path

_begun = time.monotonic()


def say(text: str) -> None:
    """Progress, with the seconds so far."""
    print(f"e2e: [{time.monotonic() - _begun:5.1f} s] {text}", file=sys.stderr, flush=True)


def call(*command: str | Path, **options: object) -> None:
    """Run a tool; its output is shown where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"e2e: {command[0]} failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def image(suite: str, arch: str = OWN_ARCH) -> Path:
    """Folder with vmlinuz, initrd.gz and root.img of a suite, built where it is not in the cache."""
    install_tools({tool: package for tool, package in TOOLS.items() if tool not in {*QEMU.values()} - {QEMU[arch]}})
    name = suite if arch == OWN_ARCH else f"{arch}-{suite}"

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".root-") as scratch:
            _build(suite, arch, Path(scratch), folder)

    return cached(name, _inputs(name), make)


def cached(name: str, inputs: Iterable[str], make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` has filled, once for the same inputs."""
    folder = CACHE / f"{name}-{hashlib.sha256(chr(0).join(inputs).encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{name}-") as scratch:
        (made := Path(scratch) / "made").mkdir()
        make(made)
        made.rename(folder)
    for old in CACHE.glob(f"{name}-*"):
        if old != folder:
            shutil.rmtree(old)
    say(f"{name}: made, in {folder}")
    return folder


def _inputs(name: str) -> list[str]:
    """Everything the image depends on but the state of the archive."""
    files = (Path(__file__), Path(__file__).with_name("guest.py"))
    return [name, *(path.read_text() for path in files)]


def install_tools(tools: Mapping[str, str]) -> None:
    """Debian packages, by the tool that each has, of those that are missing; needs root for that."""
    missing = [package for tool, package in tools.items() if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid():
        raise SystemExit(f"e2e: run as root once, or first: apt-get install {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    call("apt-get", "update", env=environment)
    call("apt-get", "install", "-y", "--no-install-recommends", *missing, env=environment)


def _build(suite: str, arch: str, scratch: Path, built: Path) -> None:
    root, kernel = scratch / "root", scratch / "kernel"
    say(f"{suite} {arch}: Debian packages")
    archive = Archive(suite, scratch)
    archive.configured(root)
    if arch != OWN_ARCH:
        own = root.rename(scratch / "own")
        archive.unpacked(arch, _packages(own), root)
        _add_made(own, root)
    archive.kernel(arch, kernel)
    say(f"{suite} {arch}: kernel, initramfs and root image")
    (version,) = (path.name for path in (kernel / "lib" / "modules").iterdir())
    modules = Modules(kernel, version)
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), built / "vmlinuz")
    _initramfs(modules, root / "usr/bin/busybox", scratch / "initramfs", built / "initrd.gz")
    modules.install(root, [*BOOT_MODULES, *GUEST_MODULES])
    _settle(root)
    call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, built / "root.img", f"{IMAGE_BYTES // 1024}k")


def suite_sources(suite: str, folder: Path) -> Path:
    """A file of apt sources for a suite: the machine's own, with the suite's name put in."""
    own = next((path for path in SOURCES if path.exists()), None)
    if own is None:
        places = ", ".join(map(str, SOURCES))
        raise SystemExit(f"e2e: none of {places} is there: where would Debian's packages come from?")
    sources = (folder / "suite").with_suffix(own.suffix)
    sources.write_text(own.read_text().replace(OWN_SUITE, suite))
    return sources


class Archive:
    """Debian packages of a suite, from where the machine's own come."""

    def __init__(self, suite: str, scratch: Path) -> None:
        self._suite = suite
        self._scratch = scratch
        self._sources = suite_sources(suite, scratch)

    def configured(self, root: Path) -> None:
        """A minimal system of the machine's own architecture."""
        self._debootstrap(root, "--variant=minbase", f"--include={DEBS}")

    def unpacked(self, arch: str, packages: Iterable[str], root: Path) -> None:
        """The files of packages, and no more."""
        self._debootstrap(root, "--variant=extract", f"--architectures={arch}", f"--include={','.join(packages)}")

    def kernel(self, arch: str, folder: Path) -> None:
        """The newest kernel's files, of which none is configured: no triggers."""
        self.unpacked(arch, [f"linux-image-{arch}"], folder)

    def _debootstrap(self, root: Path, *options: str) -> None:
        tar = self._scratch / "root.tar"
        plain = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        call("mmdebstrap", "--mode=root", *options, *plain, self._suite, tar, self._sources)
        root.mkdir()
        for name in MERGED:
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        call("tar", "-xf", tar, "-C", root, "--keep-directory-symlink", "--exclude=./dev/*")
        tar.unlink()


def _packages(root: Path) -> list[str]:
    """Names of what is installed."""
    lines = (root / "var/lib/dpkg/status").read_text().splitlines()
    return [line.removeprefix("Package: ") for line in lines if line.startswith("Package: ")]


def _add_made(own: Path, root: Path) -> None:
    """What is in one root and in none of its packages, and so made by their scripts: accounts, links, settings."""
    lists = (path.read_text().splitlines() for path in (own / "var/lib/dpkg/info").glob("*.list"))
    packed = {_merged(line) for lines in lists for line in lines}
    paths = [path.relative_to(own) for path in sorted(own.rglob("*"))]
    for it in paths:
        if (own / it).is_symlink() and (root / it).is_dir() and not (root / it).is_symlink():  # /var/run, /var/lock
            (root / it).rmdir()
            (root / it).symlink_to((own / it).readlink())
    made = [it for it in paths if str(it) not in packed and not str(it).startswith(NOT_MADE)]
    listing = "".join(f"{it}\0" for it in made if not os.path.lexists(root / it))
    tar = own.with_suffix(".tar")
    call("tar", "-cf", tar, "-C", own, "--no-recursion", "--null", "--verbatim-files-from", "-T", "-", input=listing)
    call("tar", "-xf", tar, "-C", root, "--keep-directory-symlink")


def _merged(line: str) -> str:
    """A path as dpkg lists it, as it is where /bin and /lib lead to /usr."""
    path = line.removeprefix("/")
    return f"usr/{path}" if path.partition("/")[0] in MERGED else path


class Modules:
    """A kernel's modules, by name."""

    def __init__(self, kernel: Path, version: str) -> None:
        call("depmod", "-b", kernel, version)
        self.version = version
        self.folder = kernel / "lib" / "modules" / version
        lines = (self.folder / "modules.dep").read_text().splitlines()
        self._needs = {head: rest.split() for head, _, rest in (line.partition(":") for line in lines)}
        self._paths = {_module_name(path): path for path in self._needs}
        builtin = (self.folder / "modules.builtin").read_text().split()
        self._builtin = {_module_name(path) for path in builtin}

    def closure(self, names: Iterable[str]) -> list[Path]:
        """Files of the modules and of what they need, in the order of loading."""
        found: dict[str, None] = {}

        def add(path: str) -> None:
            for need in reversed(self._needs[path]):
                if need not in found:
                    add(need)
            found[path] = None

        for name in names:
            if name in self._paths:
                add(self._paths[name])
            elif name not in self._builtin:
                say(f"kernel {self.version} has no module {name}")
        return [self.folder / path for path in found]

    def install(self, root: Path, names: Iterable[str]) -> None:
        """Put modules into a root file system."""
        target = root / "usr" / "lib" / "modules" / self.version
        target.mkdir(parents=True, exist_ok=True)
        for path in self.closure(names):
            place = target / path.relative_to(self.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            shutil.copy(self.folder / name, target / name)
        call("depmod", "-b", root, self.version)


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
{loads}
for i in $(/bin/busybox seq 50); do [ -b /dev/vda ] && break; /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o ro,noload /dev/vda /image
if [ -b /dev/vdb ]; then
    /bin/busybox mount -t ext4 /dev/vdb /changes
else
    /bin/busybox mount -t tmpfs tmpfs /changes
fi
/bin/busybox mkdir -p /changes/upper /changes/work
/bin/busybox mount -t overlay overlay -o lowerdir=/image,upperdir=/changes/upper,workdir=/changes/work /root
/bin/busybox mount --move /dev /root/dev
/bin/busybox mount --move /proc /root/proc
/bin/busybox mount --move /sys /root/sys
exec /bin/busybox switch_root /root /sbin/init
"""


def _initramfs(modules: Modules, busybox: Path, folder: Path, target: Path) -> None:
    """Loads the disk's modules and lays the second disk, or a tmpfs, over the image, which so is never written."""
    for name in ("bin", "proc", "sys", "dev", "modules", "image", "changes", "root"):
        (folder / name).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin" / "busybox")
    files = modules.closure(BOOT_MODULES)
    for path in files:
        _copy_plain(path, folder / "modules")
    names = (path.name.removesuffix(".xz").removesuffix(".zst") for path in files)
    (folder / "init").write_text(INIT.format(loads="\n".join(f"/bin/busybox insmod /modules/{it}" for it in names)))
    (folder / "init").chmod(0o755)
    listing = subprocess.run(["find", "."], cwd=folder, capture_output=True, check=True).stdout
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=folder, input=listing, capture_output=True, check=True
    )
    target.write_bytes(gzip.compress(packed.stdout, 1))


def _copy_plain(path: Path, folder: Path) -> None:
    """Unpacked: busybox's insmod takes no compressed module."""
    unpack = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-dc"]}.get(path.suffix)
    if unpack is None:
        shutil.copy(path, folder / path.name)
    else:
        data = subprocess.run([*unpack, str(path)], capture_output=True, check=True).stdout
        (folder / path.stem).write_bytes(data)


UNIT = """\
[Unit]
Description=runs what the test on the host asks for
After=dbus.service
Wants=dbus.service
[Service]
ExecStart=/usr/bin/python3 /opt/guest.py
Environment=HOME=/root
Restart=always
[Install]
WantedBy=multi-user.target
"""


BUS_SOCKET = """\
[Unit]
Description=the system bus, for the host
[Socket]
ListenStream=10.0.2.15:7000
FreeBind=yes
"""
BUS_PROXY = """\
[Unit]
Requires=bus.socket
[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd /run/dbus/system_bus_socket
"""


def _settle(root: Path) -> None:
    """Name, machine id, quick boot, and the service that listens to the host."""
    (root / "etc/hostname").write_text("affectd-e2e\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    shutil.copy(Path(__file__).with_name("guest.py"), root / "opt/guest.py")
    units = root / "etc/systemd/system"
    (units / "guest.service").write_text(UNIT)
    (units / "bus.socket").write_text(BUS_SOCKET)
    (units / "bus.service").write_text(BUS_PROXY)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "guest.service").symlink_to("/etc/systemd/system/guest.service")
    for unit in MASKED:
        link = units / unit
        if not link.is_symlink():
            link.symlink_to("/dev/null")
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(root / "var/lib/apt", ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("arch", nargs="?", choices=QEMU, default=OWN_ARCH)
    arguments = parser.parse_args()
    print(image(arguments.suite, arguments.arch))
