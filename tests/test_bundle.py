"""The bundle: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import CARD, MODEL, REPORT, space_bundle, tiny_bundle, tiny_manifest, tiny_space

from device.bundle import MASKS, PARTS, check_streams, mask_name, pack, read_bundle, write_bundle
from device.errors import BundleError
from device.pipeline.spec import default_spec
from firmware_bridge.packet import StreamInfo

ECG = StreamInfo("polar-pmd-ecg", "ecg", ("ecg",), "mV", 0.001, 130.0, 0.05, 1e9, 64, "last")
EDA = StreamInfo("open-eda", "eda", ("eda",), "uS", 0.001, 8.0, 0.02, 1e6, 32, "first")
FREE_TABLES = ("provenance.packages",)
"""Tables whose keys are not fixed."""
LATER = (("features",), ("embedding",), ("space",), ("model_format",), ("probe",))
"""Keys that bundles from before them lack, and are read without."""
FEATURES = {"names": ["hr_mean", "rmssd", "ln_tonic"], "center": [75, 40, 1], "scale": [10, 20, 0.5]}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a tiny stand-in for the network, which reading does not open; most bytes are structure."""
    path = tmp_path_factory.mktemp("bundle") / "small.affect"
    write_bundle(path, tiny_manifest(), b"weights", CARD, REPORT)
    return path


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], BundleError]:
    """Read bytes as a bundle; the BundleError, or a failed test for anything else."""
    path = tmp_path_factory.mktemp("damaged") / "x.affect"

    def read(data: bytes) -> BundleError:
        path.write_bytes(data)
        with pytest.raises(BundleError) as caught:
            read_bundle(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: ") and "; " in text and "\n" not in text
        assert caught.value.remedy and caught.value.reason
        return caught.value

    return read


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file.getvalue()


def payload_of(path: Path) -> set[int]:
    """Positions of the parts' own bytes; the others are the zip's structure."""
    data = path.read_bytes()
    starts = {name: data.index(content) for name, content in parts_of(path).items()}
    return {i for name, content in parts_of(path).items() for i in range(starts[name], starts[name] + len(content))}


def with_manifest(path: Path, tree: Any) -> bytes:
    """The bundle with another manifest; everything else, CRCs included, is as it should be."""
    raw = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return pack({**parts_of(path), "manifest.json": raw})


def manifest_tree(path: Path) -> Any:
    return json.loads(parts_of(path)["manifest.json"])


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place below ``tree`` with its value, depth first."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*at, key), value
        yield from places(value, (*at, key))


def changed(tree: Any, at: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    """A copy of ``tree`` after ``change(parent, key)`` at one place."""
    copy = json.loads(json.dumps(tree))
    parent = copy
    for key in at[:-1]:
        parent = parent[key]
    change(parent, at[-1])
    return copy


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = tiny_bundle(tmp_path / "tiny.affect")
    bundle = read_bundle(tmp_path / "tiny.affect")
    assert bundle == written
    assert (bundle.model, bundle.card, bundle.report) == (MODEL, CARD, REPORT)
    assert msgspec.structs.replace(bundle.manifest, sha256={}) == tiny_manifest()
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.affect"]


def test_zipfile_reads_it(small: Path) -> None:
    with zipfile.ZipFile(small) as archive:
        assert archive.testzip() is None
        assert tuple(archive.namelist()) == PARTS
        assert archive.read("card.md").decode() == CARD


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    a, b = tiny_bundle(tmp_path / "a.affect"), tiny_bundle(tmp_path / "b.affect")
    assert a.sha256 == b.sha256
    assert (tmp_path / "a.affect").read_bytes() == (tmp_path / "b.affect").read_bytes()


def test_a_page_is_a_part_like_the_others(small: Path, tmp_path: Path, damaged: Callable[[bytes], BundleError]) -> None:
    path = tmp_path / "page.affect"
    written = write_bundle(path, tiny_manifest(), b"weights", CARD, REPORT, "<p>so</p>")
    assert read_bundle(path) == written and (written.page, read_bundle(small).page) == ("<p>so</p>", "")
    parts = parts_of(path)
    assert tuple(parts) == (*PARTS, "report.html")
    assert damaged(pack({**parts, "report.html": b"<p>no</p>"})).place == "report.html"
    assert damaged(pack({name: parts[name] for name in PARTS})).reason == "is missing"
    assert damaged(pack({**parts_of(small), "report.html": b"x"})).place == "report.html"
    data = path.read_bytes()
    for i in range(len(data)):
        damaged(data[:i] + bytes([data[i] ^ (1 << (i % 8))]) + data[i + 1 :])


def test_every_flipped_bit_is_found(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    """Every bit of the zip's structure, and one bit of every byte of the parts."""
    data, payload = small.read_bytes(), payload_of(small)
    for i in range(len(data)):
        for bit in (i % 8,) if i in payload else range(8):
            damaged(data[:i] + bytes([data[i] ^ (1 << bit)]) + data[i + 1 :])


def test_offsets_beyond_the_end(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    data = small.read_bytes()
    for i in sorted(set(range(len(data))) - payload_of(small)):
        for offset in (len(data) - 10, len(data), 2**31, 2**32 - 1):
            damaged(data[:i] + struct.pack("<I", offset) + data[i + 4 :])


@settings(max_examples=300)
@given(data=st.data())
def test_any_change_is_found(small: Path, damaged: Callable[[bytes], BundleError], data: st.DataObject) -> None:
    good = small.read_bytes()
    start = data.draw(st.integers(0, len(good)))
    stop = data.draw(st.integers(start, min(start + 8, len(good))))
    middle = data.draw(st.binary(max_size=8).filter(lambda new: new != good[start:stop]))
    bad = good[:start] + middle + good[stop:]
    if bad != good:
        damaged(bad)


def test_truncated_anywhere(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    data = small.read_bytes()
    for n in range(len(data)):
        damaged(data[:n])


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_foreign_bytes(damaged: Callable[[bytes], BundleError], data: bytes) -> None:
    damaged(data)


@pytest.mark.parametrize("part", PARTS)
def test_dropped_renamed_doubled_part(small: Path, damaged: Callable[[bytes], BundleError], part: str) -> None:
    parts = parts_of(small)
    rest = [(name, data) for name, data in parts.items() if name != part]
    assert damaged(zipped(rest)).place == part
    assert damaged(zipped([*rest, (f"../{part}", parts[part])])).place == part
    assert damaged(zipped([*rest, (part.upper(), parts[part])])).place == part
    with pytest.warns(UserWarning, match="Duplicate name"):
        doubled = zipped([*parts.items(), (part, b"other")])
    assert damaged(doubled).place == part


@pytest.mark.parametrize("name", ["extra.txt", "../../etc/passwd", "/abs", "a/", "model.tflite\n", "ümlaut"])
def test_added_part(small: Path, damaged: Callable[[bytes], BundleError], name: str) -> None:
    error = damaged(zipped([*parts_of(small).items(), (name, b"")]))
    assert error.place == ascii(name)


def test_packed_anew_or_compressed(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    entries = list(parts_of(small).items())
    assert "as affectd writes" in damaged(zipped(entries)).reason
    assert "compressed" in damaged(zipped(entries, zipfile.ZIP_DEFLATED)).reason
    assert "compressed" in damaged(zipped(entries, zipfile.ZIP_LZMA)).reason


def test_part_too_large(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    card = parts_of(small)["card.md"] + b" " * (1 << 20)
    error = damaged(pack({**parts_of(small), "card.md": card}))
    assert error.place == "card.md" and "more than" in error.reason


@pytest.mark.parametrize("part", [name for name in PARTS if name != "manifest.json"])
def test_wrong_hash(small: Path, damaged: Callable[[bytes], BundleError], part: str) -> None:
    parts = parts_of(small)
    error = damaged(pack({**parts, part: parts[part] + b" "}))
    assert error.place == part and "sha256" in error.reason


def test_every_missing_key_is_named(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    tree = manifest_tree(small)
    keys = [at for at, _ in places(tree) if isinstance(at[-1], str) and ".".join(map(str, at[:-1])) not in FREE_TABLES]
    assert len(keys) > 100 and set(LATER) < set(keys)
    for at in (at for at in keys if at not in LATER):
        error = damaged(with_manifest(small, changed(tree, at, lambda parent, key: parent.pop(key))))
        assert at[-1] in str(error), str(error)
        assert "missing" in error.reason


@pytest.mark.parametrize("at", LATER)
def test_a_bundle_from_before_a_key_means_what_it_meant(small: Path, tmp_path: Path, at: tuple[str, ...]) -> None:
    old = tmp_path / "old.affect"
    old.write_bytes(with_manifest(small, changed(manifest_tree(small), at, lambda parent, key: parent.pop(key))))
    assert read_bundle(old).manifest == read_bundle(small).manifest


def of_features(tree: Any, **instead: Any) -> Any:
    """The manifest of a network of features."""
    inputs = {m: {**tree["inputs"][m], "shape": [1, n]} for m, n in (("ecg", 2), ("eda", 1))}
    return {**tree, "features": {**FEATURES, **instead}, "inputs": {**tree["inputs"], **inputs}}


def test_a_network_of_features_is_read(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "classical.affect"
    path.write_bytes(with_manifest(small, of_features(manifest_tree(small))))
    manifest = read_bundle(path).manifest
    assert manifest.features is not None and manifest.features.of("ecg") == ("hr_mean", "rmssd")


@pytest.mark.parametrize(
    ("instead", "place", "reason"),
    [
        ({"names": ["hr_mean", "rmssd", "mood"]}, "features", "no feature 'mood'"),
        ({"scale": [10, 0, 0.5]}, "features", "scale finite and > 0"),
        ({"scale": [10, 20]}, "features", "2 scales"),
        ({"names": ["hr_mean", "rmssd", "sdnn"]}, "features", "no feature of eda"),
        ({"names": ["hr_mean", "ln_tonic", "scr_rate"]}, "inputs.ecg.shape", "where spec, features and labels give"),
        ({"unit": "mV"}, "features", "unknown field `unit`"),
    ],
)
def test_features_that_contradict_are_named(
    small: Path, damaged: Callable[[bytes], BundleError], instead: dict[str, Any], place: str, reason: str
) -> None:
    error = damaged(with_manifest(small, of_features(manifest_tree(small), **instead)))
    assert place in error.place and reason in error.reason


def test_every_unknown_key_is_named(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    tree = manifest_tree(small)
    tables = [
        (),
        *(at for at, value in places(tree) if isinstance(value, dict) and ".".join(map(str, at)) not in FREE_TABLES),
    ]
    assert len(tables) > 15

    for at in tables:
        bad = changed(tree, (*at, "misspelt"), lambda parent, key: parent.update({key: tree["inputs"]["ecg"]}))
        error = damaged(with_manifest(small, bad))
        assert "misspelt" in str(error) or ".".join(at) in str(error), str(error)


def test_every_value_of_another_type(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    tree = manifest_tree(small)
    for at, value in places(tree):
        for other in ({"x": {}}, True, [[]]):
            if isinstance(value, bool) and other is True:
                continue
            bad = changed(tree, at, lambda parent, key, other=other: parent.__setitem__(key, other))
            damaged(with_manifest(small, bad))


@pytest.mark.parametrize(
    ("at", "value", "place"),
    [
        ("format", "affectd-bundle/1", "format"),
        ("name", "", "name"),
        ("created", "2026-11-20T12:00:00", "created"),
        ("labels", ["rest"], "labels"),
        ("labels", ["rest", "rest"], "labels"),
        ("labels", ["rest", "stress", "amusement"], "output.shape"),
        ("spec.ecg.lowpass_hz", 64.0, "spec ecg"),
        ("spec.window_s", 60.1, "spec window_s"),
        ("spec.window_s", 30.0, "inputs.ecg.shape"),
        ("inputs.ecg.shape", [1, 1, 2, 7680], "inputs.ecg.shape"),
        ("inputs.eda.shape", [1, 240, 2], "inputs.eda.shape"),
        ("inputs.mask.shape", [1, 3], "inputs.mask.shape"),
        ("inputs.mask.dtype", "uint8", "inputs"),
        ("inputs.ecg.dtype", "float32", "inputs.ecg"),
        ("inputs.ecg.scale", 0.0, "inputs.ecg"),
        ("inputs.ecg.zero_point", 128, "inputs.ecg"),
        ("inputs.ecg.name", "serving_default_eda:0", "inputs"),
        ("output.shape", [2], "output.shape"),
        ("output.scale", -1.0, "output"),
        ("thresholds.min_probability", 0.5, "thresholds.min_probability"),
        ("thresholds.min_probability.ecg", 1.5, "thresholds.min_probability"),
        ("thresholds.min_probability", {"ecg": 0.5, "eda": 0.5}, "thresholds.min_probability"),
        ("thresholds.max_clipped_share", -0.1, "thresholds.max_clipped_share"),
        ("temperature.ecg", 0.0, "temperature"),
        ("surrogate_ecg", False, "surrogate_ecg"),
        ("parity", [], "parity"),
        ("parity.0.n_windows", 0, "parity"),
        ("parity.0.mask", "eda+ecg", "parity"),
        ("sha256.card.md", None, "sha256"),
    ],
)
def test_contradictions_are_named(
    small: Path, damaged: Callable[[bytes], BundleError], at: str, value: Any, place: str
) -> None:
    keys = ["sha256", "card.md"] if at.startswith("sha256") else [int(k) if k.isdigit() else k for k in at.split(".")]
    bad = changed(manifest_tree(small), tuple(keys), lambda parent, key: parent.__setitem__(key, value))
    error = damaged(with_manifest(small, bad))
    assert str(error.place).startswith(f"manifest.json {place}"), str(error)


@pytest.mark.parametrize(
    ("at", "value", "place"),
    [
        ("embedding", None, "space"),
        ("space", None, "space"),
        ("embedding.shape", [8], "embedding.shape"),
        ("embedding.shape", [1, 9], "space.prototypes"),
        ("embedding.scale", 0.0, "embedding"),
        ("space.prototypes.ecg", [[0.0] * 8], "space.prototypes"),
        ("space.prototypes.ecg", [[0.0] * 8, [0.0] * 7], "space.prototypes"),
        ("space.prototypes.ecg", [[0.0] * 8, [float("inf")] * 8], ""),
        ("space.spread.eda", [1.0] * 7 + [0.0], "space.spread"),
        ("space.spread.eda", [1.0] * 7, "space.spread"),
        ("space.max_distance.ecg", -1.0, "space.max_distance"),
        ("space.max_distance", {"ecg": 1.0}, "space.max_distance"),
        ("space.colour", "red", "space"),
    ],
)
def test_contradictions_of_a_space_are_named(
    tmp_path: Path, damaged: Callable[[bytes], BundleError], at: str, value: Any, place: str
) -> None:
    path = tmp_path / "space.affect"
    made = space_bundle(path, tiny_space())
    assert read_bundle(path).manifest == made.manifest
    keys = tuple(at.split("."))
    bad = changed(manifest_tree(path), keys, lambda parent, key: parent.__setitem__(key, value))
    assert str(damaged(with_manifest(path, bad)).place).startswith(f"manifest.json {place}".strip())


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff", b'{"format": "\xff"}', b"[" * 100_000, b'{"format": 1}', b'{"format": NaN}', b"null"],
)
def test_manifest_that_is_no_manifest(small: Path, damaged: Callable[[bytes], BundleError], raw: bytes) -> None:
    assert "manifest.json" in str(damaged(with_manifest(small, raw)))


def test_a_key_given_twice(small: Path, damaged: Callable[[bytes], BundleError]) -> None:
    raw = parts_of(small)["manifest.json"].rstrip()
    assert raw.endswith(b"}")
    error = damaged(with_manifest(small, raw[:-1] + b', "name": "other"}'))
    assert "'name' is given twice" in error.reason


@pytest.mark.parametrize(("part", "raw"), [("card.md", b"\xff"), ("card.md", b"all is well"), ("report.json", b"[1]")])
def test_unreadable_card_or_report(tmp_path: Path, small: Path, part: str, raw: bytes) -> None:
    parts = {**parts_of(small), part: raw}
    tree = json.loads(parts["manifest.json"])
    tree["sha256"][part] = hashlib.sha256(raw).hexdigest()
    path = tmp_path / "x.affect"
    path.write_bytes(pack({**parts, "manifest.json": json.dumps(tree).encode()}))
    with pytest.raises(BundleError, match=part):
        read_bundle(path)


def test_paths_that_are_no_bundle(tmp_path: Path) -> None:
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(1 << 30)
    for path in (tmp_path, tmp_path / "none.affect", fifo, "a\0b"):
        with pytest.raises(BundleError):
            read_bundle(path)
    with pytest.raises(BundleError, match="larger than"):
        read_bundle(large)


def test_refused_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.affect"
    tiny_bundle(path)
    before = path.read_bytes()
    bad = msgspec.structs.replace(tiny_manifest(), labels=("rest",))
    with pytest.raises(BundleError, match="labels"):
        write_bundle(path, bad, MODEL, CARD, REPORT)
    with pytest.raises(BundleError, match="cannot be written"):
        tiny_bundle(tmp_path / "none" / "a.affect")
    (tmp_path / "folder.affect").mkdir()
    with pytest.raises(BundleError, match="cannot be written"):
        tiny_bundle(tmp_path / "folder.affect")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.affect", "folder.affect"]


def test_mask_names() -> None:
    assert (mask_name(("eda", "ecg")), mask_name(("ecg",)), mask_name(["eda"])) == MASKS


def test_streams_that_fit() -> None:
    check_streams(default_spec(), (ECG, EDA))
    check_streams(default_spec(), (EDA,))
    check_streams(default_spec(), iter([ECG]))


@pytest.mark.parametrize(
    ("infos", "words"),
    [
        ((), ("no sensor", "ecg, eda")),
        ((ECG, ECG), ("2 ecg sensors",)),
        ((ECG, replace(EDA, units="nS")), ("open-eda", "uS", "nS")),
        ((replace(ECG, ch_names=("ecg", "ecg2")),), ("polar-pmd-ecg", "1 channel", "sends 2")),
        ((replace(ECG, sfreq=82.0),), ("polar-pmd-ecg", "40 Hz", "80", "77.9")),
        ((replace(EDA, sfreq=2.0, sfreq_tolerance=0.0),), ("open-eda", "1 Hz", "may send 2")),
    ],
)
def test_streams_that_do_not_fit(infos: tuple[StreamInfo, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(BundleError) as caught:
        check_streams(default_spec(), infos, "x.affect")
    assert all(word in str(caught.value) for word in ("x.affect", *words)), str(caught.value)


def test_lowest_rate_that_fits() -> None:
    check_streams(default_spec(), (replace(ECG, sfreq=84.3),))
    with pytest.raises(BundleError):
        check_streams(default_spec(), (replace(ECG, sfreq=84.2),))
