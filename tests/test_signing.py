"""Signed bundles: who signed is told, any change is found, and only trusted keys count where some are named."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tiny_bundle import CARD, REPORT, tiny_manifest

from device.bundle import PARTS, SIGNATURE, Bundle, pack, read_bundle, write_bundle
from device.calibration import Models
from device.config import InferenceConfig
from device.errors import BundleError, KeyFileError
from device.signing import CONTEXT, check_signature, check_trusted, sign, trusted_keys
from firmware_bridge.packet import StreamInfo

ECG = StreamInfo("polar-pmd-ecg", "ecg", ("ecg",), "mV", 0.001, 130.0, 0.05, 1e9, 64, "last")
OURS, THEIRS = (Ed25519PrivateKey.from_private_bytes(bytes([k]) * 32) for k in (1, 2))


RSA = rsa.generate_private_key(65537, 2048)


def key_file(
    path: Path, key: Ed25519PrivateKey | rsa.RSAPrivateKey = OURS, passphrase: str = "", pem: bool = False
) -> Path:
    hidden = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    form = PrivateFormat.PKCS8 if pem else PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(Encoding.PEM, form, hidden))
    return path


def line(key: Ed25519PrivateKey | rsa.RSAPrivateKey, name: str = "") -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() + f" {name}\n"


def public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


@pytest.fixture
def plain(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "plain.affect", tiny_manifest(), b"weights", CARD, REPORT)


@pytest.fixture
def signed(plain: Bundle, tmp_path: Path) -> Bundle:
    return sign(Path(plain.path), key_file(tmp_path / "key"))


def test_a_signature_is_over_the_manifest_as_it_lies_in_the_file(signed: Bundle) -> None:
    """Checked with nothing of ours but the statement's first words."""
    with zipfile.ZipFile(signed.path) as archive:
        assert archive.namelist() == [*PARTS, SIGNATURE]
        manifest = archive.read("manifest.json")
    assert signed.signature is not None
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signed.signature.key))
    key.verify(base64.b64decode(signed.signature.signature), CONTEXT + hashlib.sha256(manifest).hexdigest().encode())
    assert check_signature(read_bundle(signed.path)) == public(OURS)


def test_signing_changes_nothing_else_and_twice_is_once(plain: Bundle, signed: Bundle, tmp_path: Path) -> None:
    assert (signed.manifest, signed.model, signed.card, signed.report) == (
        plain.manifest, plain.model, plain.card, plain.report)  # fmt: skip
    assert signed.sha256 != plain.sha256 and signed.manifest_sha256 == plain.manifest_sha256
    assert check_signature(plain) is None
    assert sign(Path(signed.path), tmp_path / "key").sha256 == signed.sha256
    other = sign(Path(signed.path), key_file(tmp_path / "other", THEIRS))
    assert check_signature(other) == public(THEIRS)


def test_a_page_stays_in_its_place(tmp_path: Path) -> None:
    shown = write_bundle(tmp_path / "shown.affect", tiny_manifest(), b"weights", CARD, REPORT, "<p>so</p>")
    assert sign(Path(shown.path), key_file(tmp_path / "other key")).page == "<p>so</p>"
    with zipfile.ZipFile(shown.path) as archive:
        assert archive.namelist() == [*PARTS, "report.html", SIGNATURE]


def test_any_changed_byte_is_found(signed: Bundle) -> None:
    data, path = Path(signed.path).read_bytes(), Path(signed.path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :])
        with pytest.raises(BundleError):
            check_signature(read_bundle(path))


def test_a_signature_of_another_bundle_is_refused(signed: Bundle, tmp_path: Path) -> None:
    """Hashes and container right, as somebody would make them who changes the network."""
    other = write_bundle(tmp_path / "other.affect", tiny_manifest(), b"other weights", CARD, REPORT)
    with zipfile.ZipFile(signed.path) as archive, zipfile.ZipFile(other.path) as theirs:
        parts = {name: theirs.read(name) for name in PARTS} | {SIGNATURE: archive.read(SIGNATURE)}
    Path(other.path).write_bytes(pack(parts))
    with pytest.raises(BundleError, match="is not that of this manifest"):
        check_signature(read_bundle(other.path))


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"key": "AA==", "signature": "AA=="}', b'{"key": 1, "signature": "x"}'])
def test_what_is_no_signature_is_said(plain: Bundle, raw: bytes) -> None:
    with zipfile.ZipFile(plain.path) as archive:
        parts = {name: archive.read(name) for name in PARTS}
    Path(plain.path).write_bytes(pack({**parts, SIGNATURE: raw}))
    with pytest.raises(BundleError, match=r"signature\.json: is no signature"):
        read_bundle(plain.path)


def test_only_trusted_keys_count(plain: Bundle, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trusted.write_text(f"# the lab's\n\n{line(OURS, 'lab, Ada')}")
    assert trusted_keys(trusted) == {public(OURS): "lab, Ada"}
    with pytest.raises(BundleError, match=r"only keys of .*trusted are trusted"):
        check_trusted(plain, trusted)
    with pytest.raises(BundleError, match="by a key that is not in"):
        check_trusted(sign(Path(plain.path), key_file(tmp_path / "theirs", THEIRS)), trusted)
    assert check_trusted(sign(Path(plain.path), key_file(tmp_path / "ours")), trusted) == "lab, Ada"


def test_the_daemon_s_models_are_trusted_or_refused(signed: Bundle, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    config = InferenceConfig(bundle=signed.path, trusted=str(trusted))
    trusted.write_text(line(THEIRS))
    with pytest.raises(BundleError, match="is not in"):
        Models(config, [ECG])
    trusted.write_text(line(THEIRS) + line(OURS))
    assert Models(config, [ECG]).choose(None).bundle == signed
    with pytest.raises(BundleError, match="is missing"):
        Models(InferenceConfig(trusted=str(trusted)), [ECG])  # the shipped one


@pytest.mark.parametrize("pem", [False, True])
def test_keys_with_a_passphrase_ask_for_it(plain: Bundle, tmp_path: Path, pem: bool) -> None:
    path = key_file(tmp_path / "key", passphrase="secret", pem=pem)
    assert check_signature(sign(Path(plain.path), path, lambda: "secret")) == public(OURS)
    with pytest.raises(KeyFileError, match="no key that can be read"):
        sign(Path(plain.path), path, lambda: "wrong")
    with pytest.raises(KeyFileError, match="no key that can be read"):
        sign(Path(plain.path), path)


def test_other_keys_and_no_keys_are_named(plain: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    key_file(tmp_path / "rsa", RSA)
    for name, words in {
        "none": "cannot be read",
        "text": "no key that can be read",
        "rsa": "is no Ed25519 key",
    }.items():
        with pytest.raises(KeyFileError, match=f"{name}: .*{words}.*ssh-keygen -t ed25519"):
            sign(Path(plain.path), tmp_path / name)
    assert read_bundle(plain.path) == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh-ed25519 AAAA\n", "line 1: is no public key"),
        ("# one\nnonsense\n", "line 2: is no public key"),
        (line(RSA), "line 1: is a key of ssh-rsa"),
        ("\udcff", "is not text"),
    ],
    ids=["short", "nonsense", "rsa", "bytes"],
)  # fmt: skip
def test_a_line_that_is_no_key_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "trusted").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(KeyFileError, match=words):
        trusted_keys(tmp_path / "trusted")
    with pytest.raises(KeyFileError, match="cannot be read"):
        trusted_keys(tmp_path / "none")


def test_a_file_of_keys_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trusted"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(KeyFileError, match="anybody may write to it, and so be trusted; `chmod o-w"):
        trusted_keys(path)
    path.chmod(0o664)
    assert trusted_keys(path) == {}
