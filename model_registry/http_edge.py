"""The edge between HTTP and everything else: who may call, how much is read, and which status each error has.

A handler takes a `Call` and gives a `Reply`, in a thread; it never sees a request object. No error leaves as a traceback, and
every refusal has the one shape `{"error": {"code", "message", "hint"}}`.
"""

from __future__ import annotations

import copy
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
from anyio import from_thread
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from fleet_protocol.errors import InvalidName, LimitExceeded, ProtocolError
from model_registry import errors

log = logging.getLogger(__name__)

SMALL_BODY: Final = 64 * 1024
_JSON: Final = "application/json"

_ANSWERS: Final[dict[type[Exception], tuple[int, str]]] = {
    errors.InvalidRequest: (400, "invalid_request"),
    InvalidName: (400, "invalid_name"),
    LimitExceeded: (413, "too_large"),
    ProtocolError: (400, "malformed"),
    errors.AccessRefused: (401, "access_refused"),
    errors.ClaimRefused: (403, "claim_refused"),
    errors.RenewalRefused: (403, "renewal_refused"),
    errors.BlobMissing: (404, "blob_missing"),
    errors.NotFound: (404, "not_found"),
    errors.VersionTaken: (409, "version_taken"),
    errors.PublishedMeanwhile: (409, "published_meanwhile"),
    errors.DeviceNameTaken: (409, "device_name_taken"),
    errors.RolloutRefused: (409, "rollout_refused"),
    errors.BlobRefused: (422, "blob_refused"),
    errors.MetadataRefused: (422, "metadata_refused"),
    errors.TooManyAttempts: (429, "too_many_attempts"),
    errors.StoreFailed: (507, "store_failed"),
    errors.Damaged: (500, "damaged"),
    errors.RegistryError: (500, "failed"),
}


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler may know of a request. `pieces` gives the body of an upload, once; `body` is empty then."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    address: str
    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: `content` is bytes as they are, or anything that JSON can say."""

    content: object = None
    status: int = 200
    media_type: str = _JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Reply]


@dataclass(frozen=True, slots=True)
class Edge:
    """Makes routes whose callers must bring the bearer token `token`, unless they are `public`."""

    token: str

    def route(self, method: str, path: str, handler: Handler, *, public: bool = False, limit: int = SMALL_BODY) -> Route:
        """A route that reads at most `limit` bytes of body before it calls `handler`."""

        async def answer(request: Request) -> Response:
            body = await _read(request, limit)
            return await run_in_threadpool(lambda: _respond(handler(_call(request, body))))

        return self._made(method, path, answer, public=public)

    def upload(self, path: str, handler: Handler) -> Route:
        """A `PUT` route whose body is handed to `handler` piece by piece, as it arrives."""

        async def answer(request: Request) -> Response:
            stream = request.stream()

            async def next_piece() -> bytes | None:
                return await anext(stream, None)

            def pieces() -> Iterator[bytes]:
                while (piece := from_thread.run(next_piece)) is not None:
                    yield piece

            return await run_in_threadpool(lambda: _respond(handler(_call(request, b"", pieces()))))

        return self._made("PUT", path, answer, public=False)

    def guarded(self, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
        """Somebody else's routes, behind the same token."""
        return [self._guarded(route) for route in routes]

    def _guarded(self, route: BaseRoute) -> BaseRoute:
        assert isinstance(route, (Route, Mount))
        inner, made = route.app, copy.copy(route)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                self._check(Headers(scope=scope).get("authorization", ""))
            except errors.AccessRefused as error:
                await refusal(error)(scope, receive, send)
            else:
                await inner(scope, receive, send)

        made.app = app
        return made

    def _made(self, method: str, path: str, answer: Callable[[Request], Awaitable[Response]], *, public: bool) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                if not public:
                    self._check(request.headers.get("authorization", ""))
                return await answer(request)
            except (errors.RegistryError, ProtocolError) as error:
                return refusal(error)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception:  # a fault of ours: the caller learns that it is one, the log learns what
                log.exception("%s %s failed", request.method, request.url.path)
                return refusal(errors.RegistryError("The registry failed.", "Its log says why."))

        return Route(path, endpoint, methods=[method])

    def _check(self, header: str) -> None:
        scheme, _, given = header.partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise errors.AccessRefused(
                "The bearer token is missing or wrong.", "Use the data directory of the `edgeward up` that answers here."
            )


def refusal(error: Exception) -> Response:
    """The response for an error of ours or of the protocol."""
    status, code = next((_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS), (500, "failed"))
    message = error.message if isinstance(error, errors.RegistryError) else str(error)
    hint = error.hint if isinstance(error, errors.RegistryError) else ""
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    return _respond(Reply({"error": {"code": code, "message": message, "hint": hint}}, status, headers=headers))


def _respond(reply: Reply) -> Response:
    content = reply.content if isinstance(reply.content, bytes) else msgspec.json.encode(reply.content)
    return Response(content, reply.status, headers=dict(reply.headers), media_type=reply.media_type)


def _call(request: Request, body: bytes, pieces: Iterator[bytes] | None = None) -> Call:
    address = request.client.host if request.client is not None else "unknown"
    return Call(request.path_params, request.query_params, body, address, pieces or iter(()))


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise LimitExceeded(f"the request has more than {limit} bytes of body")
    return bytes(body)
