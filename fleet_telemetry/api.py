"""The HTTP questions about telemetry, for `edgeward` and the console. Who may ask is decided in front of these routes.

Times are epoch seconds, durations seconds, shares fractions of 1. Answers are JSON; errors are
`{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from fleet_io.clock import Clock
from fleet_protocol.errors import ProtocolError
from fleet_protocol.names import check_name, check_version, version_key
from fleet_telemetry.aggregate import HOUR_S, ReleaseKey, Tally
from fleet_telemetry.errors import InvalidQuery, StoreUnavailable, TelemetryError
from fleet_telemetry.metrics import CONTENT_TYPE, exposition
from fleet_telemetry.reading import Reader

SHOWN_HOURS: Final = 48
MOST_EVENTS: Final = 1000
MOST_DEVICES: Final = 1000
EVENTS_OF_A_DEVICE: Final = 20

_STATUSES: Final[dict[type[TelemetryError], int]] = {InvalidQuery: 400, StoreUnavailable: 503}

Answer = Callable[[Request], object]


class Api:
    """Answers from one database. `waiting` tells how many messages wait to be stored, and how many found no room."""

    def __init__(self, reader: Reader, *, clock: Clock, waiting: Callable[[], tuple[int, int]]) -> None:
        self._reader = reader
        self._clock = clock
        self._waiting = waiting

    def routes(self) -> list[BaseRoute]:
        """All routes, without authentication."""
        return [
            _json_route("/v1/telemetry/models", self._models),
            _json_route("/v1/telemetry/models/{name}", self._model),
            _json_route("/v1/telemetry/devices", self._devices),
            _json_route("/v1/telemetry/devices/{name}", self._device),
            _json_route("/v1/telemetry/events", self._events),
            _json_route("/v1/telemetry/totals", self._totals),
            Route("/metrics", self._metrics, methods=["GET"]),
        ]

    def _models(self, _request: Request) -> object:
        return {"models": _grouped(self._reader.whole_life())}

    def _model(self, request: Request) -> object:
        name, version = _name(request.path_params["name"], "model name"), _version(request)
        since = self._clock.now() - SHOWN_HOURS * HOUR_S
        hours: dict[int, Tally] = {}
        for hour, _, tally in self._reader.by_hour(name, version, since):
            hours.setdefault(hour, Tally()).merge(tally)
        found = _grouped(self._reader.whole_life(name, version))
        return {
            "model": name,
            "releases": found[0]["releases"] if found else [],
            "hours": [{"hour": hour, **_summary(tally)} for hour, tally in sorted(hours.items())],
        }

    def _devices(self, request: Request) -> object:
        after = request.query_params.get("after", "")
        limit = _number(request, "limit", default=100, most=MOST_DEVICES)
        found = self._reader.devices(after, limit)
        devices = [{"device": name, "usage": _listed(usages)} for name, usages in found.items()]
        return {"devices": devices, "next": devices[-1]["device"] if len(devices) == limit else None}

    def _device(self, request: Request) -> object:
        name = _name(request.path_params["name"], "device name")
        return {
            "device": name,
            "usage": _listed(self._reader.device(name)),
            "rejected": self._reader.rejection(name),
            "events": self._reader.events(EVENTS_OF_A_DEVICE, device=name),
        }

    def _events(self, request: Request) -> object:
        device, model = request.query_params.get("device"), request.query_params.get("model")
        limit = _number(request, "limit", default=100, most=MOST_EVENTS)
        return {
            "events": self._reader.events(
                limit,
                device=None if device is None else _name(device, "device name"),
                model=None if model is None else _name(model, "model name"),
            )
        }

    def _totals(self, _request: Request) -> object:
        waiting, dropped = self._waiting()
        return {**msgspec.to_builtins(self._reader.totals()), "waiting": waiting, "dropped": dropped}

    def _metrics(self, _request: Request) -> Response:
        try:
            text = exposition(self._reader.whole_life(), self._reader.totals(), *self._waiting())
        except TelemetryError as error:
            return _refusal(error)
        return Response(text, media_type=CONTENT_TYPE)


def _json_route(path: str, answer: Answer) -> Route:
    def endpoint(request: Request) -> Response:  # not async: Starlette runs it beside its event loop
        try:
            return Response(msgspec.json.encode(answer(request)), media_type="application/json")
        except TelemetryError as error:
            return _refusal(error)

    return Route(path, endpoint, methods=["GET"])


def _refusal(error: TelemetryError) -> Response:
    code = "".join("_" + letter.lower() if letter.isupper() else letter for letter in type(error).__name__).strip("_")
    content = {"error": {"code": code, "message": error.message, "hint": error.hint}}
    return Response(msgspec.json.encode(content), _STATUSES.get(type(error), 500), media_type="application/json")


def _name(value: str, what: str) -> str:
    try:
        return check_name(value, what)
    except ProtocolError as error:
        raise InvalidQuery(f"{error}.") from error


def _version(request: Request) -> str | None:
    value = request.query_params.get("version")
    try:
        return None if value is None else check_version(value)
    except ProtocolError as error:
        raise InvalidQuery(f"{error}.") from error


def _number(request: Request, key: str, *, default: int, most: int) -> int:
    value = request.query_params.get(key, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 10 and 1 <= int(value) <= most):
        raise InvalidQuery(f"{key} = {value!r} is not allowed: use a number from 1 to {most}.")
    return int(value)


def _summary(tally: Tally) -> dict[str, object]:
    summary: dict[str, object] = msgspec.to_builtins(tally.summary())
    return summary


def _listed(usages: Iterable[tuple[ReleaseKey, Tally]]) -> list[dict[str, object]]:
    return [{**key._asdict(), **_summary(tally)} for key, tally in usages]


def _grouped(usages: Iterable[tuple[ReleaseKey, Tally]]) -> list[dict[str, object]]:
    """By model, and in it by release (newest version first), with the variants of each beneath their sum."""
    models: dict[str, dict[tuple[str, str], list[tuple[ReleaseKey, Tally]]]] = {}
    for key, tally in usages:
        models.setdefault(key.model, {}).setdefault((key.version, key.manifest), []).append((key, tally))
    return [
        {
            "model": model,
            "releases": [
                _release(version, manifest, found[version, manifest])
                for version, manifest in sorted(found, key=lambda each: (version_key(each[0]), each[1]), reverse=True)
            ],
        }
        for model, found in models.items()
    ]


def _release(version: str, manifest: str, variants: list[tuple[ReleaseKey, Tally]]) -> dict[str, object]:
    total = Tally()
    for _, tally in variants:
        total.merge(tally)
    beneath = [{"variant": key.variant, **_summary(tally)} for key, tally in variants]
    return {"version": version, "manifest": manifest, **_summary(total), "variants": beneath}
