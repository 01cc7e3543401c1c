"""``python -m firmware_bridge.virtual``: virtual sensors on a kernel's Bluetooth stack. ``serve --help`` tells more.

Knows nothing of bumble until its arguments are read, as importing it takes seconds on a small machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.virtual.spec import ADDRESS

EPILOG = """sensors:
  KIND[:key=value,...] with KIND one of polar-h10, heart-rate, movesense, open-eda, and the keys
  id, name, address, serial, passkey, signal, sfreq, ppm, speed, loss, duplicates, late_s, mtu, lead_off, seed;
  signal=FILE gives own samples (uV, nS), one a line, or notifications in hexadecimal, one a line.

commands, one JSON object a line on the control socket:
  {"sensor": ID, "do": COMMAND} with COMMAND one of drop [for_s, goodbye], vanish, appear,
  silence [until: start, connect or resume], resume, reset [bond: kept or lost, for_s], forget-bond [drop],
  lead-off, lead-on, fault [loss, duplicates, late_s, ppm]; and {"do": "state"}.

transports:
  vhci (the kernel module hci_vhci, as root), unix-client:PATH (an H4 UART as QEMU's chardev gives it),
  or any other of bumble's."""


def _address(text: str) -> str:
    if not ADDRESS.fullmatch(text.upper()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected six bytes, as F0:F0:F0:F0:F0:01")
    return text.upper()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m firmware_bridge.virtual", description=__doc__.split(":")[0])
    serve = parser.add_subparsers(dest="command", required=True, metavar="serve").add_parser(
        "serve",
        help="put virtual sensors within reach of a kernel's Bluetooth adapter",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("sensors", nargs="+", metavar="SENSOR", help="see below")
    serve.add_argument("--transport", default="vhci", help="how the adapter reaches the kernel (default: vhci)")
    serve.add_argument("--control", type=Path, metavar="SOCKET", help="UNIX socket for commands")
    serve.add_argument("--seed", type=int, default=0, help="of losses, duplicates, noise and boot ids (default: 0)")
    serve.add_argument("--adapter", type=_address, default="F0:F0:F0:F0:F0:01", help="the adapter's public address")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 after SIGTERM or SIGINT, 1 where something is in the way."""
    asked = _parser().parse_args(arguments)
    from firmware_bridge.virtual.serve import serve  # bumble is slow to import, --help need not wait

    try:
        asyncio.run(serve(asked.sensors, asked.transport, asked.control, asked.seed, asked.adapter))
    except FirmwareBridgeError as error:
        print(f"virtual: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
