"""A sensor on the radio: one supervised task that connects, streams, watches, recovers, and always stops the stream.

It knows nothing of signals, and of BlueZ only through the seams of ``ble_radio.py``. What to try after a failure is
the table in ``ladder.py``; what a connection's data goes through is in ``ble_session.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

from device.notification import Arrival, LinkChange, LinkState, Notification
from device.sources.ble_link import LinkStatus, log_change
from device.sources.ble_radio import Agent, Radio
from device.sources.ble_session import Session
from device.sources.ladder import SILENT, Fault, Ladder, Rung, Step
from device.wall import host_ns
from firmware_bridge.codec import Codec, Options
from firmware_bridge.errors import DecodeError, ExchangeError, RadioError, RadioFault
from firmware_bridge.packet import StreamInfo
from firmware_bridge.protocols import PROTOCOLS
from firmware_bridge.radio.bounded import finish
from firmware_bridge.radio.conversation import Conversation
from firmware_bridge.radio.types import GattClient
from firmware_bridge.registry import Sensor

CONNECT_S = 15.0
"""Limit of one attempt, search and all: two of them and a repair between fit into the 30 s of a recovery."""
LEAVE_S = 3.0
"""For stopping the stream and disconnecting, in all: BlueZ takes 2 s for the latter."""
STOP_S = 1.0
"""Of these, for stopping: a sensor that is there answers in 0.1 s."""
SLOW_START_S = 40.0
"""Sensors that take longer to begin (a ring is mute for 60 s after each change of mode) are not started anew on the
same link: it would cost as much as a connection."""
RESTARTED_S = 8.0
"""Longest wait for data after starting anew on the same link; a new connection gets its full time."""
BATTERY_S = 2.0
BATTERY_EVERY_S = 3600.0
"""Between readings of the battery, which lasts days to months."""
BATTERY_SERVICE, BATTERY_LEVEL = (f"0000{number}-0000-1000-8000-00805f9b34fb" for number in ("180f", "2a19"))
SAME_RATE = 1e-3
"""Relative difference of rates that are the same: no sensor offers two so close."""
SUSPECT = 3
"""Failures in a row on the way to data, of a sensor that is there and bonded, after which its bond is held for lost:
BlueZ 5.66 and 5.82 show a missing key as a link that ends at once, and say nothing more (tests/e2e)."""
LENT = "lent to a tool"
_BARREN = frozenset({RadioFault.LINK, RadioFault.TIMEOUT, RadioFault.GATT})
_NO_SIGN = frozenset({RadioFault.NO_BLUEZ, RadioFault.IN_PROGRESS, RadioFault.NO_ADAPTER})
"""Say nothing of the sensor either way: Linux 6.1 itself takes bluetoothd down where a link ends for a missing key."""

_log = logging.getLogger(__name__)


class _SilentError(Exception):
    """The stream has stopped and is not to be started anew on this link."""

    def __init__(self, step: Step, reason: str) -> None:
        self.step = step
        self.reason = reason


class BleSource:
    """One paired sensor; its generator never ends by itself. Fakes go into ``radio``."""

    def __init__(
        self,
        sensor: Sensor,
        radio: Radio,
        *,
        codec: Codec | None = None,
        clock_ns: Callable[[], int] = host_ns,
        unix_ns: Callable[[], int] = time.time_ns,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.sensor = sensor
        self.codec = codec or PROTOCOLS[sensor.protocol]
        self.link = LinkStatus()
        self._radio = radio
        self._ladder = Ladder(radio.shared, dice)
        self._clock_ns = clock_ns
        self._unix_ns = unix_ns
        self._arrivals: asyncio.Queue[Arrival | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._open = False
        self._lent = 0
        self._why = LENT
        self._halting = asyncio.Lock()
        self._pair_next = False
        self._barren = 0
        self._battery_s = -math.inf
        self._fields = {"sensor": sensor.name}

    @property
    def name(self) -> str:
        """The sensor's name."""
        return self.sensor.name

    @property
    def streams(self) -> Mapping[str, StreamInfo]:
        """One stream, named like the sensor, at the rate it is set to."""
        sfreq = self.sensor.sfreq or self.codec.stream_info.sfreq
        return {self.name: dataclasses.replace(self.codec.stream_info, sfreq=sfreq)}

    async def notifications(self) -> AsyncGenerator[Arrival, None]:
        """Data and changes of the link, over as many connections as it takes; closing it lets go of the sensor."""
        self._open = True
        try:
            if self._lent:
                self._say("paused", self._why)
            else:
                self._begin()
            while (arrival := await self._arrivals.get()) is not None:
                yield arrival
            if self._task is not None:
                self._task.result()
        finally:
            self._open = False
            await self._halt()
            self._say("ended")

    async def pause(self, why: str = LENT) -> None:
        """Let go of the sensor, for a tool; returns once it is free. Every pause needs its ``resume``."""
        self._lent += 1
        self._why = why
        async with self._halting:
            if self._lent and self._open and self.link.state != "paused":
                await self._halt()
                self._say("paused", why)

    async def resume(self) -> None:
        """The tool is done: go on."""
        self._lent = max(0, self._lent - 1)
        async with self._halting:
            if not self._lent and self._open and self._task is None:
                self._begin()

    def _begin(self) -> None:
        self.link.reason = self.link.rung = ""
        self._task = asyncio.create_task(self._keep(), name=f"link {self.name}")
        self._task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """Only a cancellation ends it in good order; anything else must reach who drains the generator."""
        if not task.cancelled():
            self._arrivals.put_nowait(None)

    async def _halt(self) -> None:
        """End the task; it stops the stream and disconnects, also while whoever waits here is cancelled."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await finish(task, LEAVE_S + 1)

    async def _keep(self) -> None:
        """Connect, stream, recover, for ever."""
        while True:
            seen = self._radio.changes
            try:
                await self._connection()
            except _SilentError as silent:
                await self._recover(silent.step, silent.reason, seen)
            except RadioError as error:
                await self._failed(error.fault, str(error), seen)
            except ExchangeError as error:
                if error.permanent:
                    await self._recover(self._refusal(), str(error), seen)
                else:
                    await self._failed(RadioFault.GATT, str(error), seen)
            except Exception as error:
                _log.exception("sensor %s: its link fails in an unforeseen way", self.name)
                await self._recover(self._refusal(), f"{error!r}; see the log, and report it", seen)

    async def _connection(self) -> None:
        """One connection from its search to its end, which is always an error."""
        if self.link.state != "searching":
            self._say("searching")
        name, address = self.name, self.sensor.address
        if self._pair_next and await self._radio.unbond(address):
            _log.warning("sensor %s: its bond is removed, for the sensor has lost its side", name, extra=self._fields)
        session = Session(name, self.codec, self._clock_ns, self._give, lambda why: self._say("streaming", why))
        client = await self._radio.central.connect(address, limit_s=CONNECT_S, on_disconnect=session.ended.set)
        try:
            self.link.connections += 1
            self.link.mtu = client.mtu
            self.link.adapter = await self._radio.adapter_name()
            await self._stream(client, session)
        finally:
            self._radio.streams(name, False)
            self.link.drops += session.ended.is_set()
            session.close()
            await self._leave(client, session)

    async def _stream(self, client: GattClient, session: Session) -> None:
        """Set up and watch; starts anew on the same link where the ladder says so."""
        conversation = Conversation(self.codec.protocol, client, session.hear)
        first_s = self.codec.first_s
        self._say("starting", await self._paired(client))
        while True:
            await session.unless_ended(self._start(conversation))
            session.accept()
            await self._read_battery(client)
            silent_s = await self._silence(client, session, first_s)
            step = self._silent(silent_s)
            self._say("silent", f"no data for {silent_s:g} s", rung=step.rung)
            self.link.restarts += 1
            with contextlib.suppress(TimeoutError, RadioError, ExchangeError):
                async with asyncio.timeout(STOP_S):
                    await session.unless_ended(conversation.run(self.codec.stop))
            first_s = min(self.codec.first_s, RESTARTED_S)
            self._say("starting", "anew on the same link", rung=step.rung)

    async def _paired(self, client: GattClient) -> str:
        """Pair where the ladder has come to it, or this host has lost its side of the bond; what to tell of it."""
        address = self.sensor.address
        if self.sensor.bonded and await self._radio.bonded(address) is False and not self._pair_next:
            if self._radio.agent is None:
                raise RadioError(address, RadioFault.AUTHENTICATION, "this host has lost its bond with it")
            self._pair_next = True
        if not self._pair_next or self._radio.agent is None:
            return ""
        self._pair_next = False
        async with self._radio.agent(address):
            await client.pair()
        told = "paired anew, for its bond was lost on one side"
        _log.warning("sensor %s: %s; if nobody reset it, see that it is yours", self.name, told, extra=self._fields)
        return told

    async def _start(self, conversation: Conversation) -> None:
        """Start the stream, and see that it is what the registry says; raises ExchangeError, RadioError."""
        try:
            table = self.codec.start(Options(sfreq=self.sensor.sfreq, unix_ns=self._unix_ns()))
            info = self.codec.describe(await conversation.run(table))
        except (DecodeError, ValueError) as error:
            remedy = "pair it again with `affectd-pair add`"
            raise ExchangeError(self.codec.protocol, "start", str(error), remedy, permanent=True) from error
        self._check(info)

    def _check(self, info: StreamInfo) -> None:
        """Raise ExchangeError where the sensor sends something else than the pipeline was built for."""
        expected = self.streams[self.name]
        for what, is_, wanted in (
            ("rate", f"{info.sfreq:g} Hz", f"{expected.sfreq:g} Hz"),
            ("unit", f"{info.scale:g} {info.units}", f"{expected.scale:g} {expected.units}"),
            ("clock", f"{info.tick_hz:g} Hz", f"{expected.tick_hz:g} Hz"),
        ):
            same = math.isclose(info.sfreq, expected.sfreq, rel_tol=SAME_RATE) if what == "rate" else is_ == wanted
            if not same:
                reason = f"its {what} is {is_}, the registry says {wanted}"
                remedy = "set the sensor to it, or pair it again with `affectd-pair add`"
                raise ExchangeError(self.codec.protocol, "start", reason, remedy, permanent=True)

    async def _read_battery(self, client: GattClient) -> None:
        """Its charge, where it tells; a failure is of no account."""
        now_s = asyncio.get_running_loop().time()
        if BATTERY_SERVICE in client.services and now_s - self._battery_s >= BATTERY_EVERY_S:
            self._battery_s = now_s
            with contextlib.suppress(RadioError, TimeoutError):
                async with asyncio.timeout(BATTERY_S):
                    value = await client.read(BATTERY_LEVEL)
                    self.link.battery = value[0] if len(value) == 1 and value[0] <= 100 else None

    async def _silence(self, client: GattClient, session: Session, first_s: float) -> float:
        """Wait for a silence that is too long; from time to time read the battery."""
        watch = asyncio.create_task(session.silence(first_s, self.codec.stall_s))
        try:
            while not (await asyncio.wait({watch}, timeout=BATTERY_EVERY_S))[0]:
                await self._read_battery(client)
            return watch.result()
        finally:
            watch.cancel()
            await asyncio.wait({watch})

    def _silent(self, silent_s: float) -> Step:
        """What to do about a silence: the step where it is a restart, else raises _SilentError."""
        self._radio.streams(self.name, False)
        slow = self.codec.first_s > SLOW_START_S
        step = self._next_step(SILENT, restartable=not slow)
        if step.rung is not Rung.RESTART:
            raise _SilentError(step, f"connected, but no data for {silent_s:g} s")
        return step

    def _give(self, notification: Notification) -> None:
        """Hand on data; the first after anything else means that all is well."""
        if self.link.state != "streaming":
            self._ladder.progress()
            self._barren = 0
            self._radio.streams(self.name, True)
            self._say("streaming")
        self.link.notifications += 1
        self.link.last_ns = notification.host_ns
        self._arrivals.put_nowait(notification)

    async def _failed(self, fault: RadioFault, reason: str, seen: int) -> None:
        """Recover from a failure as the table says."""
        if fault is RadioFault.LINK:
            fault, reason = self._explained(reason)
        if fault in _BARREN:
            self._barren += 1
        elif fault not in _NO_SIGN:
            self._barren = 0
        step = self._next_step(fault)
        if self._barren >= SUSPECT and self._radio.agent and await self._radio.bonded(self.sensor.address):
            self._barren = 0
            reason = f"{reason}; ended {SUSPECT} times before any data: its bond may be lost on one side"
            step = Step(Rung.PAIR, step.wait_s)
        await self._recover(step, reason, seen, searching=fault is RadioFault.NOT_FOUND)

    def _explained(self, reason: str) -> tuple[RadioFault, str]:
        """What ended a link, where BlueZ tells."""
        bond_lost, told = self._radio.end_of_link(self.sensor.address)
        if bond_lost:
            remedy = RadioFault.AUTHENTICATION.value
            return RadioFault.AUTHENTICATION, f"the sensor has lost its bond ({told}); {remedy}"
        return RadioFault.LINK, f"{reason} ({told})" if told else reason

    async def _recover(self, step: Step, reason: str, seen: int, *, searching: bool = False) -> None:
        """Wait, then do what the rung says."""
        if step.rung is Rung.PAIR and self._radio.agent is None:
            step = self._refusal()
        state: LinkState = "refused" if step.rung is Rung.REFUSED else "searching" if searching else "waiting"
        self._say(state, reason, rung=step.rung)
        if step.rung is Rung.REFUSED:
            await asyncio.sleep(step.wait_s)
        else:
            await self._radio.wait(step.wait_s, seen)
        if step.rung is Rung.PAIR:
            self._pair_next = True
        else:
            await self._radio.climb(step.rung, self.sensor.address)

    def _next_step(self, fault: Fault, *, restartable: bool = True) -> Step:
        now_s = asyncio.get_running_loop().time()
        return self._ladder.failed(fault, now_s, alone=self._radio.alone(self.name), restartable=restartable)

    def _refusal(self) -> Step:
        return self._ladder.failed(RadioFault.NOT_PERMITTED, asyncio.get_running_loop().time(), alone=False)

    async def _leave(self, client: GattClient, session: Session) -> None:
        """Stop the stream, which would empty the sensor's battery, and disconnect; a dead link may refuse both."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LEAVE_S
        trouble = (TimeoutError, RadioError, ExchangeError)
        if not session.ended.is_set():
            with contextlib.suppress(*trouble):
                async with asyncio.timeout(STOP_S):
                    await Conversation(self.codec.protocol, client, session.hear).run(self.codec.stop)
        with contextlib.suppress(*trouble):
            async with asyncio.timeout_at(until):
                await client.disconnect()

    def _say(self, state: LinkState, reason: str = "", *, rung: Rung | None = None) -> None:
        """Tell of the link's state, but not twice of a search; its status keeps why the search became needed."""
        again = state == self.link.state == "searching"
        if reason or state != "searching":
            self.link.reason, self.link.rung = reason, rung.value if rung else ""
        if not again:
            self.link.state, self.link.since_ns = state, self._clock_ns()
            change = LinkChange(self.name, self.link.since_ns, state, reason)
            log_change(change, self.link.rung)
            self._arrivals.put_nowait(change)


@contextlib.asynccontextmanager
async def ble_sources(
    sensors: Sequence[Sensor], *, adapter: str | None = None, agent: Agent | None = None
) -> AsyncIterator[list[BleSource]]:
    """The sources of paired sensors on the machine's radio (of an address; None: its first powered one).

    Nothing is opened before a source is used, so that a machine without BlueZ starts, and says so. ``agent`` is
    entered while a sensor whose bond is lost is paired anew; without one it is refused until a person does so.
    """
    from firmware_bridge.radio.bleak_central import bleak_central
    from firmware_bridge.radio.bluez import Bluez
    from firmware_bridge.radio.bluez_repairs import BluezRepairs

    async with contextlib.AsyncExitStack() as stack:
        bluez = Bluez()
        stack.push_async_callback(bluez.close)
        central = bleak_central(adapter, bluez=bluez)
        stack.push_async_callback(central.close)
        radio = Radio(central, BluezRepairs(bluez, adapter), agent=agent)
        stack.callback(radio.close)
        yield [BleSource(sensor, radio) for sensor in sensors]
