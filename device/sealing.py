"""Encryption of recordings and results: a random key per segment or run, wrapped with age for those who may read it.

The device holds public keys alone, so that who takes its card reads nothing; but for what it reads again itself, of
which it is given the key. It knows nothing of what is in them; only this file imports pyrage.
"""

from __future__ import annotations

import base64
import importlib.util
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.errors import KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

INSTALL = "pip install 'affectd[encrypt]'"
MAKE = "make one where recordings are to be read: age-keygen -o identity.txt"
_KEY_BYTES = 32
_NONCE = struct.Struct("<IQ")
"""96 bits: zero and the record's number."""
_NUMBER = struct.Struct("<Q")
_NONCE_BYTES = 12
BLOCK = 1024
"""Bytes; a prediction of three classes and two sensors takes half of it, an abstention less."""


class Sealer:
    """Seals the records of one segment, or the rows of one run (ChaCha20-Poly1305, RFC 8439), each with a number that
    none other has had.

    A key is of one segment or run that one process writes once, and numbers only go up, also over records that the disk
    refused: no nonce comes twice.
    """

    def __init__(self, recipients: tuple[str, ...]) -> None:
        from pyrage import encrypt, x25519

        key = secrets.token_bytes(_KEY_BYTES)
        self._cipher = _cipher(key)
        self._number = 0
        self.wrapped = base64.b64encode(encrypt(key, [x25519.Recipient.from_str(it) for it in recipients])).decode()
        """The key, for the header."""

    def seal(self, payload: bytes) -> bytes:
        """The record's number and its sealed bytes."""
        self._number += 1
        return _NUMBER.pack(self._number) + self._cipher.encrypt(_NONCE.pack(0, self._number), payload, None)


class Opener:
    """Opens what one Sealer has sealed, in its order; raises KeyFileError where the identity is not one of its."""

    def __init__(self, wrapped: str, identity: Path) -> None:
        _need_libraries()
        from pyrage import DecryptError, decrypt

        try:
            self._cipher = _cipher(decrypt(base64.b64decode(wrapped), _identities(identity)))
        except (DecryptError, ValueError) as error:
            reason = f"opens nothing that is encrypted for others ({error})"
            raise KeyFileError(identity, "", reason, "name the identity of one of its recipients") from error
        self._number = 0

    def open(self, sealed: bytes) -> bytes:
        """One record's payload; raises ValueError for one that was changed, or stands in another's place."""
        from cryptography.exceptions import InvalidTag

        number = int.from_bytes(sealed[: _NUMBER.size], "little")
        if number <= self._number:
            raise ValueError("it is not in its place")
        try:
            payload = self._cipher.decrypt(_NONCE.pack(0, number), sealed[_NUMBER.size :], None)
        except InvalidTag:
            raise ValueError("its seal is broken") from None
        self._number = number
        return payload


class Box:
    """Seals what this machine reads again, under a key that is kept elsewhere (ChaCha20-Poly1305).

    Nonces are random, which is safe for 2^32 messages: centuries of them.
    """

    def __init__(self, key: bytes) -> None:
        """Of 32 bytes; raises KeyFileError where a package is not here."""
        _need_libraries()
        self._cipher = _cipher(key)

    def seal(self, payload: bytes, place: bytes) -> bytes:
        """To be opened in the same ``place`` alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, payload, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """The payload; raises ValueError for another key, another place, or what was changed."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place)
        except InvalidTag:
            raise ValueError("its seal is broken") from None


def padded(text: bytes) -> bytes:
    """JSON, filled up so that its length does not tell what it says."""
    return text.ljust(-(-len(text) // BLOCK) * BLOCK)


def read_recipients(path: Path) -> tuple[str, ...]:
    """Public keys of age, a line ``age1...`` each; raises KeyFileError that names the line."""
    _need_libraries()
    from pyrage import RecipientError, x25519

    found = []
    for number, line in _lines(path):
        try:
            x25519.Recipient.from_str(line)
        except RecipientError as error:
            raise KeyFileError(
                path, number, "is no public key of age", "write `age1...`, as age-keygen says"
            ) from error
        found.append(line)
    if not found:
        raise KeyFileError(path, "", "holds no public key", MAKE)
    return tuple(found)


def recipients_in(path: str | None) -> tuple[str, ...]:
    """Those of a file that a configuration names; none where it names none. Raises KeyFileError."""
    return () if path is None else read_recipients(Path(path))


def _identities(path: Path) -> list[Any]:
    """Private keys of age, a line ``AGE-SECRET-KEY-1...`` each."""
    from pyrage import IdentityError, x25519

    found = []
    for number, line in _lines(path):
        try:
            found.append(x25519.Identity.from_str(line))
        except IdentityError as error:
            raise KeyFileError(path, number, "is no private key of age", MAKE) from error
    if not found:
        raise KeyFileError(path, "", "holds no private key", MAKE)
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that say something, with their numbers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise KeyFileError(path, "", f"cannot be read: {reason}", MAKE) from error
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _cipher(key: bytes) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)


def _need_libraries() -> None:
    """Raise KeyFileError where nothing can be sealed or opened at all."""
    for name in ("pyrage", "cryptography"):
        if importlib.util.find_spec(name) is None:
            raise KeyFileError("", "", f"what is encrypted needs the package {name}", INSTALL)
