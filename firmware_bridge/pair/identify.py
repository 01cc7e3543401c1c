"""What a connected sensor is: by its services, by its name, and by starting its stream.

Knows nothing of bonds or of the registry.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from firmware_bridge.codec import Codec, Options
from firmware_bridge.codecs import heart_rate
from firmware_bridge.errors import DecodeError, ExchangeError, FirmwareBridgeError, RadioError, RadioFault
from firmware_bridge.packet import StreamInfo
from firmware_bridge.pair.errors import PairError
from firmware_bridge.pair.link import Feed, Link, streaming
from firmware_bridge.protocols import PROTOCOLS

_NOT_SPOKEN = frozenset({RadioFault.GATT, RadioFault.TIMEOUT})
"""Faults of a sensor that speaks another protocol: a characteristic is missing, a question finds no answer."""


def candidates(address: str, name: str, services: frozenset[str], role: str | None) -> list[Codec]:
    """Codecs that may read the sensor, those its name speaks for first; raises PairError where there is none."""
    served = [codec for codec in PROTOCOLS.values() if codec.service_uuid in services]
    if not served:
        raise _nothing(address, services)
    fitting = [codec for codec in served if role in (None, codec.stream_info.modality)]
    if not fitting:
        gives = served[0].stream_info.modality
        raise PairError(address, f"gives {gives}, not {role}", f"add it with --role {gives}")
    named = [codec for codec in fitting if name.startswith(codec.names)]
    return named + [codec for codec in fitting if codec not in named]


def _nothing(address: str, services: frozenset[str]) -> PairError:
    remedy = "`affectd-pair sensors` lists what affectd reads"
    if heart_rate.SERVICE_UUID in services:
        return PairError(address, "offers heart rate, but no ECG or EDA", remedy)
    return PairError(address, "offers neither ECG nor EDA that affectd can read", remedy)


@asynccontextmanager
async def started(link: Link, codecs: list[Codec], sfreq: float | None = None) -> AsyncIterator[Feed]:
    """The stream of the first codec that the sensor answers to; what the first one says where none does.

    Services are shared (the Nordic UART by half of all makers), and a name may have been changed.
    """
    async with AsyncExitStack() as stack:
        feed = await _first_that_answers(stack, link, codecs, Options(sfreq, time.time_ns()))
        check_units(feed.codec.stream_info, feed.info)
        yield feed


async def _first_that_answers(stack: AsyncExitStack, link: Link, codecs: list[Codec], options: Options) -> Feed:
    refusals: list[FirmwareBridgeError] = []
    for codec in codecs:
        try:
            return await stack.enter_async_context(streaming(link, codec, options))
        except (ExchangeError, DecodeError) as error:
            refusals.append(error)
        except RadioError as error:
            if error.fault not in _NOT_SPOKEN or link.ended:
                raise
            refusals.append(error)
    raise refusals[0]


def check_units(expected: StreamInfo, told: StreamInfo) -> None:
    """Refuse a sensor in another unit than its codec's; a scale of its own is fine."""
    if (told.units, told.modality, told.ch_names) != (expected.units, expected.modality, expected.ch_names):
        reason = f"sends {told.modality} in {told.units}: expected {expected.modality} in {expected.units}"
        raise PairError(told.protocol, reason, "set the sensor to that unit, or use another one")
