"""What is inside bundles, shown alone and side by side; signing and verifying from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from test_signing import OURS, THEIRS, key_file, line, public
from tiny_bundle import CARD, MODEL, REPORT, tiny_bundle, tiny_manifest

from device.bundle import DEFAULT_BUNDLE, Bundle, TensorSpec, read_bundle, span, write_bundle
from device.errors import BundleError
from device.inference import Classifier
from device.selftest import probe_of
from quantize.cli import command
from quantize.look import side_by_side


def run(*args: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in args])


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    probe = probe_of(Classifier(tiny_bundle(tmp_path / "tiny.affect")))
    manifest = msgspec.structs.replace(tiny_manifest(), probe=probe)
    return write_bundle(tmp_path / "tiny.affect", manifest, MODEL, CARD, REPORT)


def test_a_tensor_s_range_is_what_eight_bits_can_hold() -> None:
    assert span(TensorSpec(name="x", shape=(1, 2), dtype="int8", scale=0.5, zero_point=-28)) == (-50.0, 77.5)
    assert span(TensorSpec(name="x", shape=(1, 2), dtype="float32", scale=0.0, zero_point=0)) == (None, None)


def test_the_shipped_bundle_is_laid_open() -> None:
    done = run("inspect", DEFAULT_BUNDLE)
    shipped = read_bundle(DEFAULT_BUNDLE)
    assert done.exit_code == 0, done.output
    for words in (shipped.sha256, "signed by nobody", "1x1x7680x2", "CONV_2D", f"{len(shipped.model)} bytes"):
        assert words in done.stdout
    tree = json.loads(run("inspect", DEFAULT_BUNDLE, "--json").stdout)
    assert msgspec.convert(tree["manifest"], type(shipped.manifest)) == shipped.manifest
    assert (tree["report"], tree["signed_by"]) == (shipped.report, None)


def test_the_page_of_a_bundle_is_handed_out(bundle: Bundle, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert isinstance(run("inspect", bundle.path, "--page", page).exception, BundleError) and not page.exists()
    shown = write_bundle(tmp_path / "shown.affect", tiny_manifest(), MODEL, CARD, REPORT, "<p>ä</p>")
    assert run("inspect", shown.path, "--page", page).exit_code == 0
    assert page.read_text(encoding="utf-8") == "<p>ä</p>"


def test_two_bundles_side_by_side(bundle: Bundle) -> None:
    rows = {what: (one, other) for what, one, other in side_by_side(bundle, read_bundle(DEFAULT_BUNDLE))}
    assert rows["name"][0] == "tiny" != rows["name"][1]
    assert rows["in float"] == ("0", "0") and rows["bytes"][0] == str(len(MODEL))
    assert rows["left-out people, EDA alone"][0] == "" != rows["left-out people, EDA alone"][1]
    assert all(one == other for _, one, other in side_by_side(bundle, bundle))
    done = run("compare", bundle.path, DEFAULT_BUNDLE, "--json")
    assert json.loads(done.stdout) == {what: list(values) for what, values in rows.items()}
    assert "left-out people" in run("compare", bundle.path, DEFAULT_BUNDLE).stdout


def test_sign_and_verify(bundle: Bundle, tmp_path: Path) -> None:
    key = key_file(tmp_path / "key", passphrase="secret", pem=True)
    signed = CliRunner().invoke(command, ["sign", bundle.path, "--key", str(key)], input="secret\n")
    assert signed.exit_code == 0 and f"signed by {public(OURS)}" in signed.stdout, signed.output
    (tmp_path / "ours").write_text(line(OURS, "the lab"))
    (tmp_path / "theirs").write_text(line(THEIRS))
    done = run("verify", bundle.path, "--trusted", tmp_path / "ours")
    assert done.exit_code == 0, done.output
    assert "signed by the lab" in done.stdout and "as when it was made" in done.stdout
    assert isinstance(run("verify", bundle.path, "--trusted", tmp_path / "theirs").exception, BundleError)
    assert run("verify", bundle.path, "--checkpoint", "x.pt").exit_code == 2


def test_what_is_no_command_is_a_checkpoint() -> None:
    said = [run(*args, "--calibration", "y", "-o", "z", "--bench", "nowhere") for args in (["x.pt"], ["make", "x.pt"])]
    assert [str(done.exception) for done in said] == 2 * ["bench: nowhere: is no machine; " + REMEDY]
    assert "Commands:" in run("--help").stdout


REMEDY = "give host, or ssh://user@machine, with /path/to/python behind it where its python3 has no runtime"
