"""affectd's unit in a booted container: what systemd, the journal, the disk and the daemon say of it.

Knows nothing of what is tested.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from stage import POLL_S, StageError
from vm import Guest

from device.notification import Arrival
from device.recording import RecordingReader

STREAMING_S = 60.0
"""From a fault to data again: waited for, before it counts as none."""
DROP_INS = "/run/systemd/system/affectd.service.d"
STATE = "/var/lib/affectd"
CONFIG = "/etc/affectd/affectd.toml"
AS_AFFECTD = "runuser -u affectd --"


class Unit:
    """Of one container, whose files are below ``root`` here, too."""

    def __init__(self, guest: Guest, root: Path) -> None:
        self.guest = guest
        self.root = root

    async def sh(self, line: str, limit: float = 60.0) -> str:
        """Output of a line of bash, as root; raises GuestError where it fails."""
        return await self.guest.check(line, limit=limit)

    async def refused(self, line: str, *words: str, rc: int | None = None) -> str:
        """What a line says that must fail, with these words in it."""
        done = await self.guest.run(line)
        said = done.out + done.err
        if done.rc == 0 or rc not in (None, done.rc) or any(word not in said for word in words):
            raise StageError(f"{line!r} should be refused, with {words}: exit code {done.rc}: {said}")
        return said.strip().rpartition("\n")[2]

    async def show(self, name: str, unit: str = "affectd") -> str:
        """A property, as systemctl has it."""
        return (await self.sh(f"systemctl show --value --property={name} {unit}")).strip()

    async def restarts(self) -> int:
        """How often systemd has started it again of itself."""
        return int(await self.show("NRestarts"))

    async def expect(self, name: str, wanted: str) -> None:
        """A property is so; raises StageError."""
        if (found := await self.show(name)) != wanted:
            raise StageError(f"{name} is {found!r}, not {wanted!r}: {await self.words()}")

    async def words(self) -> str:
        """The last it has logged."""
        return await self.sh("journalctl -u affectd -n 12 -o cat --no-pager")

    async def logged(self, since: str, by: str = "") -> list[dict[str, str]]:
        """Entries of the journal after a cursor, empty for all; ``by`` a unit, or by any.

        journalctl itself is not asked for the unit: with a cursor of another one's it leaves out the first entry.
        """
        after = f"--after-cursor='{since}'" if since else ""
        lines = await self.sh(f"journalctl --sync; journalctl --no-pager -a -o json {after}")
        entries = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
        return [it for it in entries if by in ("", it.get("_SYSTEMD_UNIT"))]

    async def now(self) -> str:
        """A cursor: where the journal ends."""
        last = await self.sh("journalctl --sync; journalctl -n 1 -o json --no-pager --output-fields=MESSAGE")
        return str(json.loads(last)["__CURSOR"])

    async def says(self, since: str, text: str, limit: float = STREAMING_S) -> str:
        """Wait until affectd logs a text; raises StageError."""
        found: list[str] = []

        async def heard() -> bool:
            entries = await self.logged(since, "affectd.service")
            found[:] = [str(it.get("MESSAGE")) for it in entries if text in str(it.get("MESSAGE"))]
            return bool(found)

        await self.until(f"logged {text!r}", heard, limit)
        return found[-1]

    async def status(self) -> dict[str, Any]:
        """What the daemon says; empty while it does not."""
        done = await self.guest.run("affectd status --json")
        found: dict[str, Any] = json.loads(done.out) if done.rc == 0 else {}
        return found

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], limit: float = STREAMING_S) -> float:
        """Seconds until it is so; raises StageError."""
        begun = time.monotonic()
        while not await holds():
            if time.monotonic() - begun > limit:
                raise StageError(f"not {what} within {limit:g} s: {await self.words()}")
            await asyncio.sleep(POLL_S)
        return time.monotonic() - begun

    async def streaming(self) -> float:
        """Seconds until data comes from both sensors."""

        async def holds() -> bool:
            sensors = (await self.status()).get("sensors", [])
            return bool(sensors) and all(
                it["link"]["state"] == "streaming" and (it["stream"] or {}).get("notifications") for it in sensors
            )

        return await self.until("streaming", holds)

    async def active(self, state: str = "active", limit: float = STREAMING_S) -> float:
        """Seconds until systemd has it so."""

        async def holds() -> bool:
            return await self.show("ActiveState") == state

        return await self.until(state, holds, limit)

    async def drop_in(self, name: str, *lines: str) -> None:
        """Put lines into its [Service], until the container ends; none: take them away."""
        path = f"{DROP_INS}/{name}.conf"
        if lines:
            await self.guest.write(path, "\n".join(("[Service]", *lines, "")))
        else:
            await self.sh(f"rm {path}")
        await self.sh("systemctl daemon-reload")

    async def configure(self, **changed: str) -> None:
        """Give keys that are in its configuration other values, as TOML has them."""
        text = (self.root / CONFIG[1:]).read_text()
        for key, value in changed.items():
            text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
            if found != 1:
                raise StageError(f"{found} lines with {key} in {CONFIG}")
        await self.guest.write(CONFIG, text)

    async def restart(self) -> None:
        """As somebody does who has changed its configuration."""
        await self.sh("systemctl reset-failed affectd; systemctl restart affectd", limit=150)
        await self.streaming()

    def segments(self) -> Sequence[Path]:
        """Of the newest run."""
        every = sorted((self.root / STATE[1:] / "recordings").glob("r*"))
        run = every[-1].name.partition("-")[0]
        return [path for path in every if path.name.startswith(run)]

    def recorded(self, paths: Sequence[Path], *, recover: bool) -> tuple[list[Arrival], bool]:
        """All of a run, and whether it was closed."""
        reader = RecordingReader(paths, recover=recover)
        return list(reader), reader.closed
