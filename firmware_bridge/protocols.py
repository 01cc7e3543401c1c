"""The table of streaming protocols: a name to the codec that decodes it, its characteristics and its commands.

Knows nothing of radios. A new sensor is one file in codecs/, with the names of ``Codec``, and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from firmware_bridge.codecs import open_eda, polar_pmd
from firmware_bridge.errors import FirmwareBridgeError
from firmware_bridge.packet import Packet, StreamInfo


class Codec(Protocol):
    """What a module of codecs/ offers for one stream."""

    @property
    def STREAM_INFO(self) -> StreamInfo:  # noqa: N802 - a constant of the module
        """The stream at the protocol's nominal rate; ``STREAM_INFO.protocol`` is the name in the table."""

    @property
    def SERVICE_UUID(self) -> str:  # noqa: N802
        """Service that shows after connecting that the sensor speaks the protocol."""

    @property
    def DATA_UUID(self) -> str:  # noqa: N802
        """Characteristic to subscribe to."""

    @property
    def CONTROL_UUID(self) -> str:  # noqa: N802
        """Characteristic to write commands to, with response."""

    @property
    def INFO_UUID(self) -> str:  # noqa: N802
        """Characteristic to read before starting."""

    @property
    def START(self) -> bytes:  # noqa: N802
        """Command that starts the stream."""

    @property
    def STOP(self) -> bytes:  # noqa: N802
        """Command to write before leaving."""

    def decode_packet(self, data: bytes) -> Packet:
        """Notification of ``DATA_UUID`` to Packet; raises DecodeError."""

    def read_info(self, data: bytes) -> StreamInfo:
        """Value of ``INFO_UUID`` to this sensor's StreamInfo; raises DecodeError where it cannot be used."""


_CODECS: tuple[Codec, ...] = (
    polar_pmd,
    open_eda,
)

PROTOCOLS: Mapping[str, Codec] = MappingProxyType({codec.STREAM_INFO.protocol: codec for codec in _CODECS})
"""Every streaming protocol by its name in registry, configuration and recordings."""


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


def decode(protocol: str, data: bytes) -> Packet:
    """One notification of a stream to Packet; raises UnknownProtocolError, DecodeError."""
    return codec(protocol).decode_packet(data)
