"""In the guest: runs the commands that the host sends as lines of JSON on a virtio port, and answers each with a line.

Standard library only, and no more than this: what is tested is decided on the host.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading

PORT = "/dev/virtio-ports/affectd"
"""Opened by the host as a UNIX socket."""


def serve(port: int) -> None:
    """One thread per command: a tool that runs for long does not hold up the next."""
    lock = threading.Lock()
    with os.fdopen(port, "rb", buffering=0) as lines:
        pending = b""
        while data := lines.read(4096):
            *whole, pending = (pending + data).split(b"\n")
            for line in whole:
                threading.Thread(target=answer, args=(port, lock, json.loads(line)), daemon=True).start()


def answer(port: int, lock: threading.Lock, request: dict[str, object]) -> None:
    """Run ``sh`` for at most ``limit`` seconds."""
    try:
        done = subprocess.run(
            ["/bin/bash", "-c", str(request["sh"])],
            input=str(request.get("input", "")),
            capture_output=True,
            text=True,
            timeout=float(str(request["limit"])),
        )
        result = {"rc": done.returncode, "out": done.stdout, "err": done.stderr}
    except subprocess.TimeoutExpired as error:
        parts = {"out": error.stdout, "err": error.stderr}
        result = {"rc": 124} | {key: (part or b"").decode(errors="replace") for key, part in parts.items()}
    line = json.dumps({"id": request["id"], **result}).encode() + b"\n"
    with lock:
        while line:
            line = line[os.write(port, line) :]


if __name__ == "__main__":
    serve(os.open(PORT, os.O_RDWR))
