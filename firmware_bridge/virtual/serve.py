"""Virtual sensors around one virtual adapter that belongs to a kernel, until told to stop.

Knows nothing of what the kernel does with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bumble.transport import open_transport
from bumble.transport.common import Transport

from firmware_bridge.stop import stop_on_signals
from firmware_bridge.virtual.air import Air, AirController
from firmware_bridge.virtual.board import ADVERTISE_MS, Say
from firmware_bridge.virtual.control import ControlSocket
from firmware_bridge.virtual.errors import ServeError, SpecError
from firmware_bridge.virtual.sensors import VirtualSensor, address_of
from firmware_bridge.virtual.spec import SensorSpec, parse

VHCI_REMEDY = "`modprobe hci_vhci` and run as root, or give another --transport"
OTHER_REMEDY = "start what listens there (QEMU) first, or give another --transport"


def say(sensor: str, event: str) -> None:
    """One line per event, at once."""
    print(f"{sensor}: {event}", flush=True)


def distinct(specs: Sequence[SensorSpec]) -> list[tuple[SensorSpec, str]]:
    """Each with its address; raises SpecError where two have the same id or address."""
    placed = [(spec, spec.address or address_of(place)) for place, spec in enumerate(specs)]
    for what, values in (("id", [spec.key for spec in specs]), ("address", [address for _, address in placed])):
        for value in values:
            if values.count(value) > 1:
                raise SpecError(value, f"two sensors have this {what}: give one another by `{what}=`")
    return placed


@asynccontextmanager
async def sensors_on(
    air: Air, specs: Sequence[SensorSpec], tell: Say, advertise_ms: float = ADVERTISE_MS
) -> AsyncIterator[dict[str, VirtualSensor]]:
    """The sensors, powered on, by id, for as long as it is entered."""
    async with AsyncExitStack() as stack:
        sensors = {}
        for spec, address in distinct(specs):
            sensors[spec.key] = sensor = VirtualSensor(spec, address, air, tell, advertise_ms)
            await sensor.power_on()
            stack.push_async_callback(sensor.power_off)
        yield sensors


async def serve(texts: Sequence[str], transport: str, control: Path | None, seed: int, adapter: str) -> None:
    """Until SIGTERM or SIGINT; raises SpecError, SignalError, ServeError."""
    specs = [parse(text, seed=seed) for text in texts]
    logging.basicConfig(level=logging.ERROR)
    stop = stop_on_signals()
    air = Air()
    async with AsyncExitStack() as stack:
        sensors = await stack.enter_async_context(sensors_on(air, specs, say))
        if control is not None:
            await stack.enter_async_context(ControlSocket(control, sensors))
        hci = await _open(transport)
        stack.push_async_callback(hci.close)
        AirController("adapter", air, host_source=hci.source, host_sink=hci.sink, public_address=adapter)
        say("adapter", f"{adapter} on {transport} ready")
        await _until(stop, hci, transport)


async def _open(transport: str) -> Transport:
    try:
        return await open_transport(transport)
    except OSError as error:
        remedy = VHCI_REMEDY if transport.startswith("vhci") else OTHER_REMEDY
        raise ServeError(transport, f"cannot open: {error}", remedy) from error
    except (ValueError, RuntimeError) as error:  # bumble's errors of transports are RuntimeErrors
        raise ServeError(transport, f"no such transport: {error}", "use vhci or unix-client:PATH") from error


async def _until(stop: asyncio.Event, hci: Transport, transport: str) -> None:
    lost: asyncio.Future[Any] = hci.source.terminated
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    await asyncio.wait({lost, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not stop.is_set():
        raise ServeError(transport, "the other end is gone", OTHER_REMEDY)
