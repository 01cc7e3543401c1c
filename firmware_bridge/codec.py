"""What a file of codecs/ offers for each stream it can read: a Codec, one line in ``protocols.py``.

Knows nothing of radios. A Codec says how a sensor is recognised, how its stream is started and stopped (tables of
``exchange.py``), how its notifications become Packets, and how well each of these claims is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Literal, Protocol

from firmware_bridge.exchange import Table
from firmware_bridge.packet import Packet, StreamInfo

Basis = Literal["capture", "specification", "worked-frame", "reverse-engineered"]
"""What the best support of a codec is, best first: bytes recorded from a real sensor; a published specification with
its examples; frames worked by hand from the maker's or a third party's source; reverse engineering by others."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """On what the codec rests."""

    basis: Basis
    source: str
    """The document, the source or the capture, in a few words."""
    unproven: str = ""
    """What has been shown by nobody yet; empty: nothing known of."""


class Decoder(Protocol):
    """Notifications of one connection in, Packets out."""

    def push(self, data: bytes) -> list[Packet]:
        """One notification's bytes to the packets now complete, in order.

        Raises DecodeError, whose ``packets`` are the good ones of the same push; the next push goes on behind it.
        """


class EachNotification:
    """The Decoder of protocols in which a notification is one packet."""

    def __init__(self, decode: Callable[[bytes], Packet]) -> None:
        self._decode = decode

    def push(self, data: bytes) -> list[Packet]:
        """One packet."""
        return [self._decode(data)]


@dataclass(frozen=True, slots=True)
class Options:
    """What the host wants or knows when it starts a stream."""

    sfreq: float | None = None
    """Rate in Hz the sensor is to be set to; None: its default."""
    unix_ns: int = 0
    """Wall time, for sensors whose clock the host sets, ns since 1970."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One stream of one kind of sensor."""

    stream_info: StreamInfo
    """The stream at its default rate; its ``protocol`` is the name in the table of protocols."""
    device: str
    """What people call it, e.g. ``Polar H10 chest strap``."""
    service_uuid: str
    """Service that shows after connecting that the sensor speaks the protocol."""
    data_uuid: str
    """Characteristic whose notifications go to the decoder."""
    decoder: Callable[[], Decoder]
    """A fresh decoder, one per connection."""
    start: Callable[[Options], Table]
    """Identify, set up, subscribe and start. May refuse an option the sensor does not have with ValueError."""
    stop: Table
    """To be run before leaving, from whatever state the sensor is in; empty where it stops with the link."""
    describe: Callable[[Mapping[str, bytes]], StreamInfo]
    """Answers of a finished start to what this very sensor sends; raises DecodeError."""
    evidence: Evidence
    names: tuple[str, ...] = ()
    """How advertised names begin."""
    advertised: tuple[str, ...] = ()
    """Advertised services that tell the sensor, beside ``service_uuid``."""
    service_tells: bool = True
    """Whether ``service_uuid`` alone tells the sensor; not where half the world uses it (Nordic UART)."""
    secure: bool = False
    """Whether the stream needs an encrypted link, hence a bond."""
    min_mtu: int = 23
    """ATT MTU below which its packets do not fit."""
    first_s: float = 15.0
    """Longest time from start to the first notification."""
    stall_s: float = 10.0
    """Longest silence of a stream that is well."""

    def offered_by(self, services: Set[str]) -> bool:
        """Whether advertised services (128-bit, lower case) tell the sensor."""
        telling = {self.service_uuid, *self.advertised} if self.service_tells else set(self.advertised)
        return not telling.isdisjoint(services)

    @property
    def protocol(self) -> str:
        """Its name in registry, configuration and recordings."""
        return self.stream_info.protocol
