"""A bundle's test of itself: it holds where it was made, and a network that says something else is found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_bundle import CARD, MODEL, REPORT, tiny_bundle, tiny_manifest

from device.bundle import DEFAULT_BUNDLE, Bundle, read_bundle, write_bundle
from device.cli import cli
from device.errors import BundleError
from device.inference import RUNTIMES, Classifier
from device.selftest import STEPS, check_everywhere, check_probe, made_up, probe_of


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    probe = probe_of(Classifier(tiny_bundle(tmp_path / "draft.affect")))
    manifest = msgspec.structs.replace(tiny_manifest(), probe=probe)
    return write_bundle(tmp_path / "tiny.affect", manifest, MODEL, CARD, REPORT)


def moved(bundle: Bundle, mask: str, steps: float) -> Bundle:
    """The same bundle, made on a machine where one logit was another by so many steps."""
    probe = bundle.manifest.probe
    assert probe is not None
    (first, *rest) = probe.logits[mask]
    rows = ((first[0] + steps * bundle.manifest.output.scale, *first[1:]), *rest)
    changed = msgspec.structs.replace(probe, logits={**probe.logits, mask: rows})
    manifest = msgspec.structs.replace(bundle.manifest, probe=changed)
    return write_bundle(bundle.path, manifest, bundle.model, bundle.card, bundle.report)


def test_it_says_what_it_said_on_every_runtime(bundle: Bundle) -> None:
    found = check_everywhere(read_bundle(bundle.path))
    assert set(found) == set(RUNTIMES) and min(found.values()) == 0.0
    assert max(found.values()) <= STEPS * bundle.manifest.output.scale


def test_the_shipped_bundle_says_what_it_said() -> None:
    assert set(check_everywhere(read_bundle(DEFAULT_BUNDLE))) == set(RUNTIMES)


def test_the_windows_are_the_same_everywhere_and_reach_the_network(bundle: Bundle) -> None:
    """The first numbers of RandomState(7), which numpy has frozen; the network tells them apart."""
    (window,) = made_up(bundle.manifest, "ecg+eda", 1, 7)
    rng = np.random.RandomState(7)
    noise, level = rng.standard_normal((2, 7680)), rng.standard_normal((2, 1))
    assert np.array_equal(window["ecg"], np.clip(noise + level, -6, 6).astype(np.float32))
    assert window["eda"].shape == (2, 240) and abs(window["eda"]).max() <= bundle.manifest.spec.clip
    probe = bundle.manifest.probe
    assert probe is not None
    assert all(len(set(rows)) > 1 and np.std(rows) > 0 for rows in probe.logits.values())


@pytest.mark.parametrize("mask", ["ecg+eda", "ecg", "eda"])
def test_more_than_rounding_is_found_under_every_mask(bundle: Bundle, mask: str) -> None:
    assert check_probe(moved(bundle, mask, STEPS))[1] == pytest.approx(STEPS * bundle.manifest.output.scale, rel=1e-3)
    with pytest.raises(BundleError, match=rf"probe: {mask.replace('+', '.')} on ai-edge-litert: logits differ by"):
        check_probe(moved(bundle, mask, STEPS + 1))


def test_a_bundle_from_before_has_none(tmp_path: Path) -> None:
    old = tiny_bundle(tmp_path / "old.affect")
    with pytest.raises(BundleError, match="probe: is missing; build the bundle"):
        check_probe(old)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": -1}, "probe.seed"),
        ({"logits": {"ecg": ((0.0, 1.0),)}}, "probe.logits.ecg.eda: is missing"),
        ({"logits": dict.fromkeys(("ecg+eda", "ecg", "eda"), ((0.0,),))}, "must be rows of 2 numbers"),
        ({"logits": dict.fromkeys(("ecg+eda", "ecg", "eda"), ())}, "must be rows of 2 numbers"),
    ],
)
def test_a_probe_that_contradicts_its_bundle_is_named(bundle: Bundle, changes: dict[str, object], words: str) -> None:
    probe = bundle.manifest.probe
    assert probe is not None
    manifest = msgspec.structs.replace(bundle.manifest, probe=msgspec.structs.replace(probe, **changes))
    with pytest.raises(BundleError, match=words):
        write_bundle(bundle.path, manifest, MODEL, CARD, REPORT)


def test_the_command_says_what_holds_and_what_does_not(bundle: Bundle, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["bundle", "verify", bundle.path])
    assert done.exit_code == 0, done.output
    assert "every part is whole" in done.stdout and "signed by nobody" in done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines()[2:]] == list(RUNTIMES)
    (tmp_path / "trusted").write_text("")
    for args in (["--trusted", str(tmp_path / "trusted")], []):
        failed = CliRunner().invoke(cli, ["bundle", "verify", moved(bundle, "eda", 9).path, *args])
        assert isinstance(failed.exception, BundleError)
