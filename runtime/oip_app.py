"""The Open Inference Protocol v2 over HTTP, as a bare ASGI application: routes, limits, and errors as `{"error": "…"}`.

Where a request runs: a model that answers within `INLINE_S` runs on the event loop's own thread, because handing a request to
another thread costs some 200 µs where a tiny model takes 20. A slower model, one not measured yet, or a large body goes to a
small pool of threads, so that health checks are answered meanwhile. The bytes held for requests are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple

import msgspec

from fleet_protocol.tensors import TensorSpec
from runtime import oip
from runtime.errors import InferenceFailed, InvalidInput, MalformedRequest, NotServing
from runtime.host import ModelHost

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

NAME: Final = "edgeward"
PROTOCOL_VERSION: Final = "2"

BODY_BYTES: Final = 8 * 1024 * 1024
"""One request's body. JSON numbers take up to 16 times their text in memory while they are read."""
HELD_BODIES: Final = 4
"""All bodies under way together may hold so many times the limit of one."""
INLINE_S: Final = 0.002
INLINE_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 30.0
"""A client that sends slower than this is let go."""
_UNREAD_BYTES: Final = 64 * 1024 * 1024
_UNREAD_TIMEOUT_S: Final = 5.0


class _Response(NamedTuple):
    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _Refused(Exception):
    """A request that gets an error response."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.response = _Response(status, msgspec.json.encode({"error": message}), headers)


class _RefusedUnread(_Refused):
    """An error response before the whole body was read. The connection ends with it."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(status, message, *headers, (b"connection", b"close"))


class _Gone(Exception):
    """The client hung up."""


class Application:
    """Answers for the models of one host."""

    def __init__(self, host: ModelHost, threads: Executor, *, body_bytes: int = BODY_BYTES) -> None:
        self._host = host
        self._threads = threads
        self._body_bytes = body_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3, HTTP only."""
        try:
            response = await self._respond(scope, receive)
        except _Refused as refusal:
            response = refusal.response
            if isinstance(refusal, _RefusedUnread):
                await _let_finish(scope, receive)
        except _Gone:
            return
        except Exception:  # whatever it was, the next request must work
            log.exception("a request to %s failed", scope["path"])
            response = _Refused(500, "The server failed on this request; its log says how.").response
        length = (b"content-length", str(len(response.body)).encode())
        headers = [(b"content-type", b"application/json"), length, *response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, scope: Scope, receive: Receive) -> _Response:
        parts = scope["path"].split("/")
        match parts[1:]:
            case ["v2"]:
                _only(scope, "GET")
                return _json({"name": NAME, "version": PROTOCOL_VERSION, "extensions": []})
            case ["v2", "health", "live"]:
                _only(scope, "GET")
                return _json({"live": True})
            case ["v2", "health", "ready"]:
                _only(scope, "GET")
                ready = bool(self._host.identities())
                return _json({"ready": ready}, 200 if ready else 503)
            case ["v2", "models", name, *rest]:
                return await self._model(scope, receive, name, rest)
        raise _Refused(404, f"There is nothing at {scope['path']}. The Open Inference Protocol begins at /v2.")

    async def _model(self, scope: Scope, receive: Receive, name: str, rest: list[str]) -> _Response:
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        match rest:
            case []:
                _only(scope, "GET")
                return self._metadata(name, version)
            case ["ready"]:
                _only(scope, "GET")
                return self._ready(name, version)
            case ["infer"]:
                _only(scope, "POST")
                return await self._infer(scope, receive, name, version)
        raise _Refused(404, f"There is nothing at {scope['path']}. A model has /infer and /ready.")

    def _metadata(self, name: str, version: str | None) -> _Response:
        try:
            served = self._host.describe(name, version=version)
        except NotServing as error:
            raise _Refused(404, str(error)) from error
        return _json(
            {
                "name": name,
                "versions": [served.identity.version],
                "platform": served.engine,
                "inputs": _specs(served.inputs),
                "outputs": _specs(served.outputs),
            }
        )

    def _ready(self, name: str, version: str | None) -> _Response:
        try:
            self._host.describe(name, version=version)
        except NotServing as error:
            raise _Refused(404, str(error)) from error
        return _json({"name": name, "ready": True})

    async def _infer(self, scope: Scope, receive: Receive, name: str, version: str | None) -> _Response:
        body = await self._body(scope, receive)
        try:
            if self._runs_inline(name, version, body):
                return self._answer(name, version, body)
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, name, version, body)
        except NotServing as error:
            raise _Refused(404, str(error)) from error
        finally:
            self._held -= len(body)

    def _runs_inline(self, name: str, version: str | None, body: bytes) -> bool:
        typical_s = self._host.describe(name, version=version).typical_s
        return typical_s is not None and typical_s < INLINE_S and len(body) <= INLINE_BYTES

    def _answer(self, name: str, version: str | None, body: bytes) -> _Response:
        try:
            request = oip.decode_request(body)
            inference = self._host.infer(name, request.inputs, version=version)
            if not inference.finite:
                raise InferenceFailed(f"{name} {inference.identity.version} answered NaN or infinity, which JSON cannot say.")
            content = oip.encode_response(inference.outputs, model=name, version=inference.identity.version, request=request)
        except (MalformedRequest, InvalidInput) as error:
            raise _Refused(400, str(error)) from error
        except InferenceFailed as error:
            raise _Refused(500, str(error)) from error
        return _Response(200, content)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The request's body; its bytes count as held until the caller gives them back."""
        _check_headers(scope, self._body_bytes)
        pieces = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    self._hold(pieces, message.get("body", b""))
                    if not message.get("more_body", False):
                        return bytes(pieces)
        except TimeoutError as error:
            self._held -= len(pieces)
            raise _RefusedUnread(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from error
        except BaseException:
            self._held -= len(pieces)
            raise

    def _hold(self, pieces: bytearray, piece: bytes) -> None:
        if len(pieces) + len(piece) > self._body_bytes:
            raise _too_large(self._body_bytes)
        if self._held + len(piece) > self._body_bytes * HELD_BODIES:
            raise _RefusedUnread(503, "Too many large requests at once. Try again.", (b"retry-after", b"1"))
        pieces += piece
        self._held += len(piece)


async def _let_finish(scope: Scope, receive: Receive) -> None:
    """Read on and keep nothing: most clients look for an answer only after they sent everything; a reset would destroy it."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return  # this one waits for our answer before it sends
    unread = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_UNREAD_TIMEOUT_S):
            while unread < _UNREAD_BYTES:
                message = await receive()
                unread += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def _check_headers(scope: Scope, body_bytes: int) -> None:
    headers = dict(scope["headers"])
    if b"inference-header-content-length" in headers:
        raise _RefusedUnread(400, "The binary tensor extension is not spoken here; send tensors as JSON.")
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise _RefusedUnread(415, "Bodies are not inflated here; send the request without Content-Encoding.")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > body_bytes:
        raise _too_large(body_bytes)


def _too_large(limit: int) -> _Refused:
    return _RefusedUnread(413, f"The body is larger than {limit} bytes. Send fewer samples in one request.")


def _only(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise _RefusedUnread(405, f"{scope['path']} takes {method}.", (b"allow", method.encode()))


def _specs(specs: Iterable[TensorSpec]) -> list[dict[str, object]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": spec.shape} for spec in specs]


def _json(value: object, status: int = 200) -> _Response:
    return _Response(status, msgspec.json.encode(value))
