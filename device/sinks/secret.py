"""What a sink must not tell: passwords and tokens in files that their owner alone may read, keys of certificates.

It knows nothing of what they open.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from pathlib import Path

from device.config import HttpConfig
from device.errors import SinkError
from device.sealing import Box

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{22,256}")
"""128 bits or more, in characters that a header and a WebSocket's subprotocol may have."""
_KEY = re.compile("[0-9A-Fa-f]{64}")
"""256 bits."""
_MAKE = "`openssl rand -hex 16` makes one"


def read_secret(sink: str, what: str, path: str | None) -> str | None:
    """From a file that its owner alone may read, or systemd's credential SINK_WHAT; None where there is neither.

    Raises SinkError.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    file = Path(path) if path is not None else Path(folder, f"{sink}_{what}") if folder is not None else None
    if file is None or (path is None and not file.exists()):
        return None
    try:
        with file.open("rb") as opened:
            mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
            secret = opened.read().decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SinkError(f"{sink}: {file}", f"no {what}: {reason}", f"see [sinks.{sink}] {what}_file") from error
    is_credential = folder is not None and file.parent == Path(folder)
    if mode & (0o007 if is_credential else 0o077):  # a credential's ACL shows in the group's bits
        raise SinkError(f"{sink}: {file}", f"a {what} that others may read (mode {mode:o})", f"chmod 600 {file}")
    return secret


def read_token(config: HttpConfig) -> str | None:
    """What readers show; None where there is none, which only loopback may do without. Raises SinkError."""
    token = read_secret("http", "token", config.token_file)
    if token is None and not config.is_loopback:
        reason = f"{config.host} can be reached from elsewhere, and there is no token"
        raise SinkError("http", reason, f"name its file in [sinks.http] token_file; {_MAKE}")
    if token is not None and not _TOKEN.fullmatch(token):
        reason = f"a token of {len(token)} characters, or with others than letters, digits and ._~-"
        raise SinkError("http", reason, _MAKE)
    return token


def read_box(sink: str, what: str, path: str | None) -> Box | None:
    """What seals a file that the daemon reads again, from the secret of its key; None where there is no key. Raises
    SinkError, KeyFileError."""
    key = read_secret(sink, what, path)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        reason = f"its {what} is not of 64 hexadecimal digits"
        raise SinkError(sink, reason, f"see [sinks.{sink}] {what}_file; `openssl rand -hex 32` makes one")
    return Box(bytes.fromhex(key))


def load_certificate(context: ssl.SSLContext, sink: str, certificate: str, key: str | None) -> None:
    """Into ``context``; raises SinkError."""
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        remedy = f"name PEM files of one pair, the key without a passphrase, in [sinks.{sink}] certificate and key"
        raise SinkError(f"{sink}: {certificate}", f"no certificate: {error}", remedy) from error
