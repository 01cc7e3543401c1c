"""The table of streaming protocols: a name to the Codec that reads it.

Knows nothing of radios. A new sensor is one file in codecs/, which ends in a ``Codec``, and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from firmware_bridge.codec import Codec
from firmware_bridge.codecs import bitalino, movesense_gsp, nervous, nuanic, open_eda, polar_pmd, shimmer3r
from firmware_bridge.errors import FirmwareBridgeError

_CODECS: tuple[Codec, ...] = (
    polar_pmd.CODEC,
    movesense_gsp.CODEC,
    movesense_gsp.RAW_CODEC,
    nervous.ECG_CODEC,
    open_eda.CODEC,
    nuanic.CODEC,
    nervous.EDA_CODEC,
    shimmer3r.CODEC,
    bitalino.CODEC,
)

PROTOCOLS: Mapping[str, Codec] = MappingProxyType({codec.protocol: codec for codec in _CODECS})
"""Every streaming protocol by its name in registry, configuration and recordings. Where a sensor speaks several, the
first is the one to take.
"""


class UnknownProtocolError(FirmwareBridgeError):
    """A protocol name that is not in the table; carries the name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)}")


def codec(protocol: str) -> Codec:
    """The codec of a protocol; raises UnknownProtocolError."""
    try:
        return PROTOCOLS[protocol]
    except KeyError:
        raise UnknownProtocolError(protocol) from None
