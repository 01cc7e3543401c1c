"""Makes what a Debian release needs to boot in systemd-nspawn, its root file system, cached.

Knows nothing of what will be tested. Nothing of affectd is in the root file system.
"""

from __future__ import annotations

from pathlib import Path

from image import cached, call, install_tools, say, suite_sources

TOOLS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap"}
DEBS = (
    *("systemd", "systemd-sysv", "dbus", "polkitd", "procps"),
    *("bluez", "python3-venv"),  # what docs/INSTALL.md asks for
    *("dpkg-dev", "lintian"),  # for scripts/deb, and for what comes of it
    *("mosquitto", "mosquitto-clients"),
)
UNREAD = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "info"))


def root(suite: str) -> Path:
    """Its root file system, not to be written."""
    install_tools(TOOLS)

    def make(folder: Path) -> None:
        say(f"{suite}: Debian packages")
        sources = suite_sources(suite, folder)
        call(
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(DEBS)}", *UNREAD),
            *(suite, folder / "root", sources),
        )

    return cached(f"root-{suite}", (*DEBS, *UNREAD), make) / "root"
