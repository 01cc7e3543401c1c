"""Who vouches for a bundle: Ed25519 signatures (RFC 8032), and the keys that a device trusts.

Keys are OpenSSH's, so that those people have will do: a private key of ``ssh-keygen -t ed25519``, public ones in a file
like ``authorized_keys``. It knows nothing of what is in a bundle.
"""

from __future__ import annotations

import base64
import importlib.util
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from device.bundle import SIGNATURE, Bundle, Signature, read_bundle, with_signature
from device.errors import BundleError, KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

CONTEXT = b"affectd-bundle-signature/1\n"
"""Before what is signed: a key that signs other things too can never have signed this by accident."""
KIND = "ssh-ed25519"
INSTALL = "pip install 'affectd[sign]'"
MAKE = "make one: ssh-keygen -t ed25519 -f bundle-key"


def sign(path: Path, key_path: Path, ask: Callable[[], str] = lambda: "") -> Bundle:
    """Put a signature into a bundle's file; ``ask`` gives the passphrase of a key that has one.

    Raises BundleError for a bundle that cannot be signed, KeyFileError for a key that cannot be used.
    """
    key = _private_key(key_path, ask)
    bundle = read_bundle(path)
    public = _encoded(key.public_key())
    made = Signature(key=public, signature=base64.b64encode(key.sign(_statement(bundle))).decode())
    return with_signature(path, made)


def check_signature(bundle: Bundle) -> str | None:
    """The public key (base64) that has signed a bundle, None for an unsigned one; BundleError for a wrong signature."""
    if bundle.signature is None:
        return None
    _need_library()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    given = bundle.signature
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(given.key))
        public.verify(base64.b64decode(given.signature), _statement(bundle))
    except InvalidSignature as error:
        raise BundleError(bundle.path, SIGNATURE, "is not that of this manifest", "get the bundle anew") from error
    return given.key


def check_trusted(bundle: Bundle, trusted: Path) -> str:
    """Name of the trusted key that has signed a bundle; raises BundleError where none has, KeyFileError."""
    names = trusted_keys(trusted)
    key = check_signature(bundle)
    if key is None:
        raise BundleError(bundle.path, SIGNATURE, f"is missing, and only keys of {trusted} are trusted", "sign it")
    if key not in names:
        raise BundleError(bundle.path, SIGNATURE, f"is by a key that is not in {trusted}", "sign it with a trusted key")
    return names[key]


def trusted_keys(path: Path) -> dict[str, str]:
    """Public key (base64) -> name, of a file like ``authorized_keys``; raises KeyFileError that names the line."""
    _need_library()
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            reason = "anybody may write to it, and so be trusted"
            raise KeyFileError(path, "", reason, f"`chmod o-w {path}`, and look at what is in it")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise KeyFileError(path, "", f"cannot be read: {reason}", "name a file of public keys") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            key, name = _public_key(path, number, line)
            found[key] = name or f"line {number}"
    return found


def _statement(bundle: Bundle) -> bytes:
    """What is signed."""
    return CONTEXT + bundle.manifest_sha256.encode()


def _public_key(path: Path, number: int, line: str) -> tuple[str, str]:
    """A line's key and the name behind it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    kind, _, rest = line.strip().partition(" ")
    body, _, name = rest.strip().partition(" ")
    try:
        key = load_ssh_public_key(f"{kind} {body}".encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, number, "is no public key", f"write `{KIND} AAAA... NAME`") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(path, number, f"is a key of {kind}, not {KIND}", MAKE)
    return _encoded(key), name.strip()


def _private_key(path: Path, ask: Callable[[], str]) -> Ed25519PrivateKey:
    """An OpenSSH or PEM file's key."""
    _need_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise KeyFileError(path, "", f"cannot be read: {error.strerror}", MAKE) from error
    load = load_ssh_private_key if b"OPENSSH" in raw[:64] else load_pem_private_key
    try:
        try:
            key = load(raw, None)
        except TypeError:  # it has a passphrase
            key = load(raw, ask().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, "", f"is no key that can be read ({error})", MAKE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(path, "", "is no Ed25519 key", MAKE)
    return key


def _need_library() -> None:
    """Raise KeyFileError where signatures cannot be made or checked at all."""
    if importlib.util.find_spec("cryptography") is None:
        raise KeyFileError("", "", "signatures need the package cryptography", INSTALL)


def _encoded(key: Ed25519PublicKey) -> str:
    """The raw 32 bytes in base64."""
    return base64.b64encode(key.public_bytes_raw()).decode()
