"""What something seems to be from its advertisement, which anyone can forge: `add` asks the sensor itself.

Knows nothing of radios. What can be streamed is told by the codecs; only what cannot has a table here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from firmware_bridge.codec import Basis, Codec
from firmware_bridge.codecs import heart_rate
from firmware_bridge.packet import StreamInfo
from firmware_bridge.protocols import PROTOCOLS

HEART_RATE_ONLY = "nothing: RR intervals only, no ECG"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a device seems to be."""

    what: str
    use: str
    """What affectd can take from it."""
    protocols: tuple[str, ...] = ()
    """Codecs that may read it, the likeliest first; empty: none."""
    basis: Basis | None = None
    """How well the likeliest is known."""

    @property
    def usable(self) -> bool:
        """Whether affectd can take anything from it."""
        return bool(self.protocols)


UNKNOWN = Kind("unknown", "")
_HEART_RATE = Kind("heart rate sensor", HEART_RATE_ONLY)
_NOT_STREAMING = (
    ("Polar H9", Kind("Polar H9 chest strap", HEART_RATE_ONLY)),
    ("Empatica", Kind("Empatica wristband", "nothing: its protocol is not open")),
)
"""By the start of the name: what people own, and take for something that streams."""


def recognise(name: str, service_uuids: Iterable[str]) -> Kind:
    """What a name and the advertised services tell; a name tells more than a service, which several kinds may share."""
    offered = {uuid.lower() for uuid in service_uuids}
    if named := [codec for codec in PROTOCOLS.values() if name.startswith(codec.names)]:
        return _kind(named, "")
    if plain := [kind for start, kind in _NOT_STREAMING if name.startswith(start)]:
        return plain[0]
    if served := [codec for codec in PROTOCOLS.values() if codec.offered_by(offered)]:
        return _kind(served, "perhaps " if any(codec.names for codec in served) else "")
    return _HEART_RATE if heart_rate.SERVICE_UUID in offered else UNKNOWN


def _kind(codecs: list[Codec], doubt: str) -> Kind:
    likeliest = {codec.stream_info.modality: codec for codec in reversed(codecs)}
    what = " or ".join(likeliest[modality].device for modality in sorted(likeliest))
    use = " or ".join(use_of(likeliest[modality].stream_info) for modality in sorted(likeliest))
    return Kind(doubt + what, use, tuple(codec.protocol for codec in codecs), codecs[0].evidence.basis)


def use_of(info: StreamInfo) -> str:
    """``ECG 130 Hz``."""
    return f"{info.modality.upper()} {info.sfreq:g} Hz"
