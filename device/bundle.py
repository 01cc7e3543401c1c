"""The model bundle ``name.affect``: one zip with the network, its manifest, its card and its report.

It knows nothing of how the network is run or trained. Nothing in a bundle is executed or unpickled.

The container is fixed to the byte (stored, not deflated; no times; parts in the order of ``PARTS``), so that equal
parts give an equal file and any changed byte is found.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from device.errors import BundleError
from device.pipeline.errors import SpecError
from device.pipeline.feature_input import FeatureSpec
from device.pipeline.spec import MODALITIES, SignalSpec
from device.space import Space
from firmware_bridge.packet import StreamInfo

DEFAULT_BUNDLE = Path(__file__).with_name("bundles") / "default.affect"
"""The bundle shipped with affectd."""
FORMAT = "affectd-bundle/2"
MANIFEST, MODEL, CARD, REPORT = PARTS = ("manifest.json", "model.tflite", "card.md", "report.json")
PAGE = "report.html"
"""The report as people read it; bundles from before it have none."""
SIGNATURE = "signature.json"
"""The last part, of a bundle that somebody vouches for."""
OPTIONAL = (PAGE, SIGNATURE)
HASHED = (MODEL, CARD, REPORT)
"""Parts whose sha256 the manifest carries; the manifest itself is covered by the container."""
MIB = 1 << 20
MAX_BYTES = {MANIFEST: MIB, MODEL: 16 * MIB, CARD: MIB, REPORT: 8 * MIB, PAGE: 4 * MIB, SIGNATURE: 1 << 10}
"""Largest size of each part: over 10 x what the shipped networks need, small beside a Raspberry Pi's memory."""
MODEL_FORMATS = {
    "int8": "int8", "int8x16": "int16", "dynamic-range": "float32", "float16": "float32", "float32": "float32",
}  # fmt: skip
"""How a tflite file holds numbers -> the type of its inputs and outputs. Weights and activations in int8; activations
in int16; weights alone in int8; weights in float16; nothing changed."""
MASKS = ("ecg+eda", "ecg", "eda")
"""Names of the sets of present modalities, in ``temperature`` and ``parity``."""
TEMPERATURES = (0.05, 20.0)
"""Far outside what calibration gives (0.5-5), well inside float32's range after the exponential."""
DISCLAIMER = "affectd is no medical device: its output is no diagnosis and must not guide treatment."
"""Every card says so."""
DISCLAIMER_WORDS = "no medical device"
DAMAGED = "copy the file again or build it with affectd-quantize"
REBUILD = "build it with affectd-quantize of this version"


def mask_name(modalities: Sequence[str]) -> str:
    """Name of a set of present modalities: a member of ``MASKS``."""
    return "+".join(m for m in MODALITIES if m in modalities)


def masks_of(modalities: Sequence[str]) -> tuple[str, ...]:
    """What a network of some modalities can be shown: members of ``MASKS``."""
    return tuple(mask for mask in MASKS if set(mask.split("+")) <= set(modalities))


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of the network, as the tflite file has it."""

    name: str
    """The tensor's name in the file. Never an index: a converter may reorder inputs."""
    shape: tuple[int, ...]
    """ecg and eda: (1, 1, n_times, n_chans), or (1, n_features) of the modality where the manifest has ``features``;
    mask: (1, 2) in the order ecg, eda; output: (1, n_outputs)."""
    dtype: Literal["int8", "int16", "float32"]
    scale: float
    """real = (stored - zero_point) * scale; 0.0 for float32, as the file says it."""
    zero_point: int


def stored_range(tensor: TensorSpec) -> tuple[int, int]:
    """The least and greatest value that an integer tensor can store; (0, 0) for float."""
    bits = {"int8": 8, "int16": 16}.get(tensor.dtype)
    return (0, 0) if bits is None else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def span(tensor: TensorSpec) -> tuple[float | None, float | None]:
    """The least and greatest real value that an integer tensor can hold; None for float."""
    if tensor.dtype == "float32":
        return None, None
    low, high = (tensor.scale * (edge - tensor.zero_point) for edge in stored_range(tensor))
    return low, high


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Below or beyond these the device abstains. The least sqi is in the SignalSpec."""

    min_probability: dict[str, float]
    """Per mask that the network can be shown: a prediction whose largest probability is below this is ``uncertain``."""
    max_clipped_share: float
    """A modality with a larger share of clipped input values is ``out_of_range``."""


class DataSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data set the network has learned from."""

    name: str
    licence: str
    subjects: int
    """Subjects used for training."""
    surrogate_ecg: bool
    """Whether its ECG was made from beat times, not recorded."""
    url: str
    """Where the set and its licence can be found."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the network can be made again."""

    datasets: tuple[DataSet, ...]
    commit: str
    """Revision of affectd that trained it."""
    seeds: tuple[int, ...]
    command: str
    """Command line that made it."""
    packages: dict[str, str]
    """Versions of the packages that shape the result."""


class Parity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file on the device's own inference against the float network, for one mask."""

    mask: str
    """A member of ``MASKS``."""
    n_windows: int
    agreement: float
    """Share of windows with the same most probable label."""
    cosine: float
    """Mean cosine of the logits."""
    balanced_accuracy_float: float | None
    """None where the windows have no labels."""
    balanced_accuracy_int8: float | None
    """Of the file, also where it is float32."""


class Probe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle's test of itself, which needs nothing but the bundle; device.selftest makes and runs it."""

    seed: int
    """Of the windows."""
    logits: dict[str, tuple[tuple[float, ...], ...]]
    """Per mask that the network can be shown, (n, n_outputs) of the file when the bundle was made."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything but the weights that shapes a prediction, and where it comes from."""

    format: str = FORMAT
    """Version of this layout."""
    name: str
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    """When the network was built."""
    task: str
    """What the labels answer, e.g. ``rest against stress task``."""
    labels: tuple[str, ...]
    """In the order of the outputs."""
    spec: SignalSpec
    """From sensor samples to the model's input."""
    features: FeatureSpec | None = None
    """What the model reads instead of the samples: features of them, scaled."""
    inputs: dict[str, TensorSpec]
    """Keys mask and those of ecg, eda that the network reads."""
    output: TensorSpec
    """The logits."""
    embedding: TensorSpec | None = None
    """A second output, (1, n): where the window lies in the network's space, if it has one."""
    space: Space | None = None
    """Where known windows lie in it."""
    model_format: str | None = None
    """How the tflite file holds numbers, a key of ``MODEL_FORMATS``; None in bundles that do not say it yet."""
    thresholds: Thresholds
    temperature: dict[str, float]
    """Per mask: logits are divided by this before the softmax; 1.0 leaves them as they are."""
    surrogate_ecg: bool
    """Whether any ECG in training was made from beat times; agrees with ``provenance``."""
    provenance: Provenance
    parity: tuple[Parity, ...]
    """One per mask that the network can be shown."""
    probe: Probe | None = None
    """What it said of windows that anybody can make again."""
    sha256: dict[str, str] = {}
    """Of each other part; filled in by ``write_bundle``."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which the network reads."""
        return tuple(m for m in MODALITIES if m in self.inputs)

    @property
    def masks(self) -> tuple[str, ...]:
        """What it can be shown: keys of everything that differs per mask."""
        return masks_of(self.modalities)


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ed25519 (RFC 8032) over the manifest, and so over every part; device.signing makes and checks it."""

    key: str
    """The public key, 32 bytes in base64."""
    signature: str
    """64 bytes in base64."""

    def __post_init__(self) -> None:
        for name, size in (("key", 32), ("signature", 64)):
            if len(base64.b64decode(getattr(self, name), validate=True)) != size:
                raise ValueError(f"{name} is not {size} bytes in base64")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that has passed every check."""

    path: str
    """Where it was read or written; for messages."""
    manifest: Manifest
    model: bytes
    """The tflite file."""
    card: str
    report: dict[str, Any]
    sha256: str
    """Of the whole file, hex."""
    manifest_sha256: str
    """Of the manifest, hex, which holds those of the other parts: what a signature is about."""
    signature: Signature | None = None
    page: str = ""
    """The report as HTML that loads nothing; empty where there is none."""


class _Format(msgspec.Struct):
    """The one key that every version of the manifest has."""

    format: str


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle and check every key, size and hash; raises BundleError and nothing else for a bad file."""
    return _parse(os.fspath(path), _read_bytes(Path(path)))


def write_bundle(
    path: str | os.PathLike[str], manifest: Manifest, model: bytes, card: str, report: Mapping[str, Any], page: str = ""
) -> Bundle:
    """Write a bundle, hashes filled in; equal arguments give equal bytes, and a reader never sees half a file.

    What could not be read back is refused with BundleError before anything is written.
    """
    parts = {MODEL: model, CARD: card.encode(), REPORT: _json(report), **({PAGE: page.encode()} if page else {})}
    manifest = msgspec.structs.replace(manifest, sha256={name: _sha256(part) for name, part in parts.items()})
    data = pack({MANIFEST: _json(manifest), **parts})
    bundle = _parse(os.fspath(path), data)
    _replace(Path(path), data)
    return bundle


def with_signature(path: str | os.PathLike[str], signature: Signature) -> Bundle:
    """Put a signature into a bundle's file, in the place of any before; raises BundleError."""
    _, parts = _checked(os.fspath(path), _read_bytes(Path(path)))
    data = pack({**parts, SIGNATURE: _json(signature)})
    bundle = _parse(os.fspath(path), data)
    _replace(Path(path), data)
    return bundle


def check_streams(
    spec: SignalSpec,
    infos: Iterable[StreamInfo],
    path: str | os.PathLike[str] = "",
    modalities: Sequence[str] = MODALITIES,
) -> None:
    """Raise BundleError, naming both sides, where attached sensors cannot give what the spec asks for.

    One of the ``modalities`` that the network reads is enough; a second sensor of the same one is not.
    """
    infos = tuple(infos)
    for modality, n in Counter(info.modality for info in infos).items():
        if n > 1:
            raise BundleError(path, f"spec.{modality}", f"{n} {modality} sensors are attached", "keep one of them")
    if not infos:
        raise BundleError(path, "spec", f"needs one of {', '.join(modalities)}, no sensor is attached", "attach one")
    if not any(info.modality in modalities for info in infos):
        attached = f"bundle reads {', '.join(modalities)}, attached is {', '.join(info.modality for info in infos)}"
        raise BundleError(path, "inputs", attached, f"attach {' or '.join(modalities)} or use another bundle")
    for info in infos:
        _check_stream(spec, info, os.fspath(path))


def _check_stream(spec: SignalSpec, info: StreamInfo, path: str) -> None:
    """One sensor against the spec: a single column, its units, and a rate that holds the band at its worst."""
    sensor, part = f"{info.protocol} sensor", spec.of(info.modality)
    remedy = f"use another {info.modality} sensor or a bundle for this one"
    if len(info.ch_names) != 1:
        reason = f"bundle reads 1 channel, {sensor} sends {len(info.ch_names)} ({', '.join(info.ch_names)})"
        raise BundleError(path, f"spec.{info.modality}.channels", reason, remedy)
    units = part.channels[0].units
    if info.units != units:
        reason = f"bundle reads {units}, {sensor} sends {info.units}"
        raise BundleError(path, f"spec.{info.modality}.channels", reason, remedy)
    slowest = info.sfreq * (1 - info.sfreq_tolerance)
    if slowest / 2 <= part.lowpass_hz:
        reason = (
            f"bundle reads up to {part.lowpass_hz:g} Hz and needs more than {2 * part.lowpass_hz:g} samples/s, "
            f"{sensor} may send {slowest:g}"
        )
        raise BundleError(path, f"spec.{info.modality}.lowpass_hz", reason, remedy)


def _read_bytes(path: Path) -> bytes:
    """The file, no more of it than a bundle may hold."""
    limit = sum(MAX_BYTES.values())
    try:
        if not path.is_file():  # a pipe or a device would block, a folder has no bytes
            raise BundleError(path, "", "no such file", "give the path of a .affect file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise BundleError(path, "", str(error), "give the path of a readable .affect file") from error
    if len(data) > limit:
        raise BundleError(path, "", f"larger than {limit} bytes", "give the path of a .affect file")
    return data


def _parse(path: str, data: bytes) -> Bundle:
    """What a bundle's bytes hold."""
    return _checked(path, data)[0]


def _checked(path: str, data: bytes) -> tuple[Bundle, dict[str, bytes]]:
    """Check the container from outside to inside; the bundle and its parts as they are."""
    parts = _unzip(path, data)
    manifest = _manifest(path, parts[MANIFEST])
    for name in (name for name in parts if name not in (MANIFEST, SIGNATURE)):
        if manifest.sha256.get(name) != _sha256(parts[name]):
            raise BundleError(path, name, "its sha256 is not the one in manifest.json", DAMAGED)
    card, report = _card(path, parts[CARD]), _report(path, parts[REPORT])
    if data != pack(parts):
        raise BundleError(path, "zip", "its bytes are not as affectd writes them (damaged or packed anew)", DAMAGED)
    signature = _signature(path, parts[SIGNATURE]) if SIGNATURE in parts else None
    if PAGE in manifest.sha256 and PAGE not in parts:
        raise BundleError(path, PAGE, "is missing", DAMAGED)
    page = _text(path, PAGE, parts.get(PAGE, b""))
    hashes = _sha256(data), _sha256(parts[MANIFEST])
    return Bundle(path, manifest, parts[MODEL], card, report, *hashes, signature, page), parts


def _unzip(path: str, data: bytes) -> dict[str, bytes]:
    """The parts, by name; none is ever written to disk, so no name can lead anywhere."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            _check_entries(path, archive.infolist())
            return {name: archive.read(name) for name in archive.namelist()}
    except (
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,  # encrypted, or (NotImplementedError) a feature zipfile lacks
        ValueError,
    ) as error:
        raise BundleError(path, "zip", f"cannot be read: {error or 'it ends too early'}", DAMAGED) from error


def _check_entries(path: str, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Exactly the four parts and at most the optional ones, stored, none too large; before any of them is read."""
    names = [entry.filename for entry in entries]
    for name in (*PARTS, *OPTIONAL):
        if names.count(name) != 1 and (name in PARTS or name in names):
            raise BundleError(path, name, f"is there {names.count(name)} times where 1 is needed", DAMAGED)
    for entry in entries:
        if entry.filename not in (*PARTS, *OPTIONAL):
            raise BundleError(path, ascii(entry.filename), "is no part of a bundle", DAMAGED)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BundleError(path, entry.filename, "is compressed where bundles store", DAMAGED)
        if entry.file_size > MAX_BYTES[entry.filename]:
            reason = f"{entry.file_size} bytes, more than {MAX_BYTES[entry.filename]}"
            raise BundleError(path, entry.filename, reason, "build a smaller network, card or report")


def _manifest(path: str, raw: bytes) -> Manifest:
    """Decode the manifest; every key is looked at."""
    try:
        version = msgspec.json.decode(raw, type=_Format).format
        if version != FORMAT:
            reason = f"{version!r} where this affectd reads {FORMAT!r}"
            raise BundleError(path, f"{MANIFEST} format", reason, REBUILD)
        manifest = msgspec.json.decode(raw, type=Manifest)
        json.loads(raw, object_pairs_hook=_unique)
    except SpecError as error:
        raise BundleError(path, f"{MANIFEST} spec {error.place}", error.reason, REBUILD) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        reason, _, place = str(error).partition(" - at `$")
        raise BundleError(path, f"{MANIFEST} {place.strip('.`')}".strip(), reason, REBUILD) from error
    for place, reason in _contradictions(manifest):
        raise BundleError(path, f"{MANIFEST} {place}", reason, REBUILD)
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a key given twice, of which JSON readers silently keep one."""
    tree = dict(pairs)
    if len(tree) != len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return tree


def _contradictions(m: Manifest) -> Iterable[tuple[str, str]]:
    """(place, reason) of each thing in which the manifest disagrees with itself."""
    if not m.name or not m.task:
        yield "name", "name and task must not be empty"
    if len(set(m.labels)) != len(m.labels) or len(m.labels) < 2 or "" in m.labels:
        yield "labels", f"{list(m.labels)} are not two or more different labels"
    yield from _wrong_tensors(m)
    yield from _wrong_keys("thresholds.min_probability", m.thresholds.min_probability, m.masks)
    if not all(0 <= value <= 1 for value in m.thresholds.min_probability.values()):
        yield "thresholds.min_probability", "must be from 0 to 1"
    if not 0 <= m.thresholds.max_clipped_share <= 1:
        yield "thresholds.max_clipped_share", "must be from 0 to 1"
    yield from _wrong_space(m)
    yield from _wrong_keys("temperature", m.temperature, m.masks)
    low, high = TEMPERATURES
    if not all(low <= value <= high for value in m.temperature.values()):
        yield "temperature", f"must be from {low} to {high}"
    if sorted(p.mask for p in m.parity) != sorted(m.masks):
        yield "parity", f"must have each of {', '.join(m.masks)} once"
    if any(p.n_windows < 1 for p in m.parity):
        yield "parity", "n_windows must be >= 1"
    if m.surrogate_ecg != any(d.surrogate_ecg for d in m.provenance.datasets):
        yield "surrogate_ecg", f"{m.surrogate_ecg} where provenance.datasets say otherwise"
    yield from _wrong_keys("sha256", m.sha256, (*HASHED, *({PAGE} & m.sha256.keys())))
    if m.probe is not None:
        yield from _wrong_keys("probe.logits", m.probe.logits, m.masks)
        if not all(rows and {len(row) for row in rows} == {len(m.labels)} for rows in m.probe.logits.values()):
            yield "probe.logits", f"must be rows of {len(m.labels)} numbers for each mask"
        if not 0 <= m.probe.seed < 1 << 32:
            yield "probe.seed", "must be from 0 to 2**32 - 1"


def _wrong_space(m: Manifest) -> Iterable[tuple[str, str]]:
    """An embedding without known windows, or the other way round; sizes and signs."""
    if m.embedding is None or m.space is None:
        if (m.embedding is None) != (m.space is None):
            yield "space", "embedding and space belong together, one of them is missing"
        return
    shape, (classes, size) = m.embedding.shape, (len(m.labels), m.embedding.shape[-1])
    if len(shape) != 2 or shape[0] != 1:
        yield "embedding.shape", f"{shape} where (1, n) is needed"
    for key in ("prototypes", "spread", "max_distance"):
        yield from _wrong_keys(f"space.{key}", getattr(m.space, key), m.masks)
    for rows in m.space.prototypes.values():
        if len(rows) != classes or any(len(row) != size for row in rows):
            yield "space.prototypes", f"must be {classes} rows of {size} numbers for each mask"
    if any(len(row) != size or not min(row) > 0 for row in m.space.spread.values()):
        yield "space.spread", f"must be {size} numbers above 0 for each mask"
    if not all(value >= 0 for value in m.space.max_distance.values()):
        yield "space.max_distance", "must be 0 or more"


def _wrong_keys(place: str, given: Mapping[str, object], wanted: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Keys of a table that are missing or unknown."""
    for key in wanted:
        if key not in given:
            yield f"{place}.{key}", "is missing"
    for key in given:
        if key not in wanted:
            yield f"{place}.{key}", "is unknown"


def _wrong_tensors(m: Manifest) -> Iterable[tuple[str, str]]:
    """Shapes against spec and labels, and each tensor's own numbers."""
    shapes: dict[str, tuple[int, ...]] = {k: _input_shape(m, k) for k in m.modalities}
    shapes["mask"] = (1, len(MODALITIES))
    if not m.modalities:
        yield "inputs", f"are none of {', '.join(MODALITIES)}"
    shown = "+".join(m.temperature).split("+")
    for modality in (k for k in MODALITIES if k in shown and k not in m.inputs):
        yield f"inputs.{modality}", "is missing, and temperature has it"
    yield from _wrong_keys("inputs", m.inputs, tuple(shapes))
    tensors = {f"inputs.{k}": (m.inputs[k], shape) for k, shape in shapes.items() if k in m.inputs}
    tensors["output"] = (m.output, (1, len(m.labels)))
    if m.embedding is not None:
        tensors["embedding"] = (m.embedding, m.embedding.shape)
    for place, (tensor, shape) in tensors.items():
        if tensor.shape != shape:
            yield f"{place}.shape", f"{tensor.shape} where spec, features and labels give {shape}"
        low, high = stored_range(tensor)
        if tensor.dtype != "float32" and not (0 < tensor.scale < math.inf and low <= tensor.zero_point <= high):
            yield place, f"an {tensor.dtype} tensor needs scale > 0 and zero_point from {low} to {high}"
        if tensor.dtype == "float32" and (tensor.scale, tensor.zero_point) != (0.0, 0):
            yield place, "a float32 tensor has scale 0 and zero_point 0"
        if m.model_format is not None and tensor.dtype != MODEL_FORMATS.get(m.model_format):
            yield f"{place}.dtype", f"{tensor.dtype} in a network of model_format {m.model_format!r}"
    names = [m.inputs[k].name for k in m.inputs]
    if len(set(names)) != len(names):
        yield "inputs", f"tensor names {names} are not different"


def _input_shape(m: Manifest, modality: str) -> tuple[int, ...]:
    """What the network reads of a modality: samples, or features."""
    if m.features is not None:
        return (1, len(m.features.of(modality)))
    return (1, 1, m.spec.n_times(modality), len(m.spec.ch_names(modality)))


def _signature(path: str, raw: bytes) -> Signature:
    """The signature, not yet checked: whose it is, is another question."""
    try:
        return msgspec.json.decode(raw, type=Signature)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BundleError(path, SIGNATURE, f"is no signature: {error}", "sign the bundle anew") from error


def _card(path: str, raw: bytes) -> str:
    """The card's text."""
    card = _text(path, CARD, raw)
    if DISCLAIMER_WORDS not in " ".join(card.split()):
        raise BundleError(path, CARD, f"does not say {DISCLAIMER_WORDS!r}", f"put in: {DISCLAIMER}")
    return card


def _text(path: str, name: str, raw: bytes) -> str:
    """A part that people read."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BundleError(path, name, f"is not UTF-8: byte {error.start}", REBUILD) from error


def _report(path: str, raw: bytes) -> dict[str, Any]:
    """The report's tree."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BundleError(path, REPORT, f"is no JSON object: {error}", REBUILD) from error


def _json(tree: object) -> bytes:
    """Indented JSON, keys in the order given."""
    return msgspec.json.format(msgspec.json.encode(tree), indent=2) + b"\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pack(parts: Mapping[str, bytes]) -> bytes:
    """The bytes of a bundle with these parts, unchecked.

    APPNOTE.TXT 6.3 sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (its end). Written here and not by
    ``zipfile``, whose headers differ between versions of Python, because readers compare every byte.
    """
    version, no_flags, stored, time, date = 20, 0, 0, 0, 0x21  # version 2.0 of the format; 1980-01-01 00:00
    unix, regular_file = 3 << 8 | version, 0o100644 << 16
    local, central = b"", b""
    names = [name for name in (*PARTS, *OPTIONAL) if name in parts]
    for name in names:
        data, raw_name = parts[name], name.encode()
        size = len(data)
        common = (version, no_flags, stored, time, date, zlib.crc32(data), size, size, len(raw_name), 0)
        central += (
            struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", unix, *common, 0, 0, 0, regular_file, len(local)) + raw_name
        )
        local += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", *common) + raw_name + data
    n = len(names)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, n, n, len(central), len(local), 0)
    return local + central + end


def _replace(path: Path, data: bytes) -> None:
    """Put the whole file in place at once, on disk before it gets its name."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise BundleError(path, "", f"cannot be written: {error}", "choose a folder you may write to") from error
