"""The wearer's page over HTTP: a guided rest, labels of one's own, how things are.

It knows nothing of signals: it asks a running affectd over its control socket, as the commands do, and says the same
words. Whoever asks shows a key that only the owner's terminal has seen, so that no other page in the same browser, and
no other user of the machine, can ask.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from aiohttp import web

from device import label_command, show
from device.baseline import Progress
from device.baseline_command import GUIDE, states, summary
from device.guarding import HEADERS, HOSTS, host_of, refused, same
from device.label_command import from_daemon as label_at
from device.labelling import LabelAnswer, LabelRequest
from device.metrics import CONTENT_TYPE, exposition
from device.resting import BaselineRequest, Outcome
from firmware_bridge.daemon_client import DaemonError, ask
from firmware_bridge.daemon_client import status as status_at
from firmware_bridge.registry import Role

STATIC = Path(__file__).parent / "static"
PAGE = "page.html"
KEY_HEADER = "X-Affectd-Key"
REQUEST_BYTES = 4096
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_DAEMON = web.AppKey("daemon", Path)
_KEY = web.AppKey("key", str)
_METRICS_KEY = web.AppKey("metrics_key", str)


class RestRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page asks for when a rest is to begin; as the options of ``affectd baseline``."""

    minutes: Annotated[float, msgspec.Meta(ge=2, le=5)] = 3.0
    person: str | None = None
    allow: Role | None = None


def make_app(daemon: Path, key: str, metrics_key: str | None = None) -> web.Application:
    """The page, its API below ``/api``, ``/metrics`` and nothing else; ``daemon`` is the control socket.

    ``metrics_key`` opens ``/metrics`` alone, as a bearer token; without it the page's own key does.
    """
    app = web.Application(middlewares=[_guarded], client_max_size=REQUEST_BYTES)
    app[_DAEMON], app[_KEY], app[_METRICS_KEY] = daemon, key, metrics_key or key
    app.router.add_get("/", _page)
    app.router.add_get("/api/status", _status)
    app.router.add_get("/metrics", _metrics)
    app.router.add_post("/api/rest", _rest)
    app.router.add_post("/api/label", _label)
    app.router.add_static("/static", STATIC)
    return app


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what does not come from this machine's own page; turn what goes wrong into one JSON object."""
    if (host := host_of(request)) not in HOSTS:
        return refused(403, f"{host or 'a host without a name'} is not this machine", "open it as 127.0.0.1")
    if request.path.startswith("/api/") and not same(request.headers.get(KEY_HEADER, ""), request.app[_KEY]):
        return refused(403, "the key is missing or wrong", "open the address that `affectd web` prints, key included")
    if request.path == "/metrics" and not same(
        request.headers.get("Authorization", ""), f"Bearer {request.app[_METRICS_KEY]}"
    ):
        return refused(403, "the key is missing or wrong", "give it as a bearer token: `authorization` of the scraper")
    try:
        response = await handler(request)
    except DaemonError as error:
        return refused(503, error.reason, error.remedy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
        return refused(400, f"not a request of the page: {error}", "reload the page")
    if not response.prepared:
        response.headers.update(HEADERS)
    return response


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / PAGE)


async def _status(request: web.Request) -> web.Response:
    """How things are: sensors, the newest prediction, and each in words."""
    status = await status_at(request.app[_DAEMON])
    said = [show.newest(status["prediction"]), show.calibration(status.get("calibration"))]
    sensors = [
        {"name": sensor["name"], "role": sensor["role"], "state": sensor["link"]["state"], **_reason(sensor)}
        for sensor in status["sensors"]
    ]
    return web.json_response({"lines": [line for line in said if line], "sensors": sensors})


async def _metrics(request: web.Request) -> web.Response:
    """For a scraper: how things run."""
    text = exposition(await status_at(request.app[_DAEMON]))
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def _reason(sensor: dict[str, Any]) -> dict[str, str]:
    return {"reason": sensor["link"]["reason"]} if sensor["link"]["reason"] else {}


async def _rest(request: web.Request) -> web.StreamResponse:
    """A rest: one line of JSON per step, the outcome last; it ends, and nothing is written, when the page goes away."""
    asked = msgspec.json.decode(await request.read(), type=RestRequest)
    try:
        wanted = BaselineRequest(asked.allow, 60 * asked.minutes, asked.person or None)
    except ValueError as error:
        return refused(400, str(error), "give another name, or none")
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", **HEADERS})
    async with ask(request.app[_DAEMON], {"do": "baseline", **msgspec.to_builtins(wanted)}) as answers:
        await response.prepare(request)
        try:
            async for answer in answers:
                await response.write(_line(_step(answer)))
        except DaemonError as error:
            await response.write(_line({"error": error.reason, "remedy": error.remedy}))
    await response.write_eof()
    return response


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _step(answer: dict[str, Any]) -> dict[str, Any]:
    """How a rest goes, or what came of it, as the page shows it."""
    if "outcome" in answer:
        outcome = msgspec.convert(answer["outcome"], Outcome)
        return {"outcome": summary(outcome)}
    progress = msgspec.convert(answer["progress"], Progress)
    return {
        "guide": GUIDE,
        "elapsed_s": progress.elapsed_s,
        "rest_s": progress.rest_s,
        "states": states(progress),
        "problems": sorted(progress.problems),
        "warnings": progress.warnings,
    }


async def _label(request: web.Request) -> web.Response:
    """Make the newest window an example, take one back, or only say what there is; as ``affectd label``."""
    asked = msgspec.json.decode(await request.read(), type=LabelRequest)
    answer: LabelAnswer = await label_at(request.app[_DAEMON], asked)
    used = next((kept.examples for kept in answer.kept if kept.network == answer.network), {})
    said = label_command.changed(answer)[:1] if answer.change else []  # the rest is what the buttons show
    lines = [*said, *label_command.unused(answer)]
    return web.json_response({"labels": {label: used.get(label, 0) for label in answer.labels}, "lines": lines})
