"""One HTTP request and its response, as the local server's protocols see them: ASGI's types, refusals, and bounded bodies.

Nothing here knows what a request means. A refusal is an exception that carries its own response, `{"error": "…"}`, which is
how the Open Inference Protocol and TensorFlow Serving both say errors. All bodies under way are counted against one bound,
and a body grows only as its bytes arrive, whatever its headers claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from runtime.hosting import memory
from runtime.local_server.patience import Patience

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
Body = bytes | memoryview

JSON_TYPE: Final = b"application/json"

BODY_BYTES: Final = 16 * 1024 * 1024
"""One request's body: 26 pictures of 224 × 224 as FP32. JSON numbers take up to 16 times their text in memory while they are
read."""
HELD_BODIES: Final = 2
"""All bodies under way together may hold so many times the limit of one."""
BODY_TIMEOUT_S: Final = 30.0
"""A client that sends slower than this is let go."""
_UNREAD_BYTES: Final = 64 * 1024 * 1024
_UNREAD_TIMEOUT_S: Final = 5.0


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole response; the content length is added when it is sent."""

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: tuple[Header, ...] = ()


class Refused(Exception):
    """A request that gets an error response."""

    def __init__(self, status: int, message: str, *headers: Header) -> None:
        super().__init__(message)
        self.response = Response(status, msgspec.json.encode({"error": message}), headers=headers)


class RefusedUnread(Refused):
    """An error response before the whole body was read. The connection ends with it."""

    def __init__(self, status: int, message: str, *headers: Header) -> None:
        super().__init__(status, message, *headers, (b"connection", b"close"))


class Gone(Exception):
    """The client hung up."""


class Exchange:
    """One request: where it goes and what it says. `parts` is the path without its leading slash, cut at the others."""

    __slots__ = ("came_whole", "headers", "method", "parts", "path", "receive")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self.path: str = scope["path"]
        self.parts: list[str] = self.path.removeprefix("/").split("/")
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.came_whole = False
        """Whether the last of its body was received; to ask for more would be to wait until the client hangs up."""

    def only(self, method: str) -> None:
        """Raises `Refused` when the request's method is another."""
        if self.method != method:
            raise RefusedUnread(405, f"{self.path} takes {method}.", (b"allow", method.encode()))

    def nothing_here(self, hint: str) -> Refused:
        """The refusal of a path that means nothing."""
        return Refused(404, f"There is nothing at {self.path}. {hint}")

    async def let_finish(self) -> None:
        """Read on and keep nothing: most clients look for an answer only after they sent everything; a reset destroys it."""
        if self.came_whole or b"expect" in self.headers:
            return  # nothing comes any more, or only after our answer
        unread = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UNREAD_TIMEOUT_S):
                while unread < _UNREAD_BYTES:
                    message = await self.receive()
                    unread += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return


LARGE_BYTES: Final = 1 << 20
TRIM_AFTER_BYTES: Final = 16 << 20
"""Many large messages at once leave holes in the C library's memory: 60 of 4 MB over gRPC, again and again, 0.9 GB of them."""

ANSWERED_S: Final = 1.0
"""By then the answers have left too."""


class Bodies:
    """Reads bodies of at most `limit` bytes, and of `HELD_BODIES` times that all together, whichever protocol they come by.

    `read` is for one event loop, that of HTTP.
    """

    def __init__(self, limit: int = BODY_BYTES, give_back: Callable[[float], None] = memory.give_back_soon) -> None:
        self.limit = limit
        self._give_back = give_back
        self._lock = threading.Lock()
        self._patience = Patience()
        self.held = 0
        """Bytes of all bodies that were read, wholly or in part, and not yet released."""
        self._gone = 0

    async def read(self, exchange: Exchange, *, lead_in: int | None = None) -> Body:
        """The whole body, which counts as held until it is given to `release`.

        With `lead_in` it lies so many bytes behind an address that suits every number, so that what begins `-lead_in`
        bytes into it can be used as numbers where it is. Raises `Refused` or `Gone`.
        """
        _check_headers(exchange, self.limit)
        try:
            return await self._patience.wait(self._gathered(exchange, lead_in), BODY_TIMEOUT_S)
        except TimeoutError as error:
            raise RefusedUnread(408, f"The body did not arrive within {BODY_TIMEOUT_S:g} s.") from error

    async def _gathered(self, exchange: Exchange, lead_in: int | None) -> Body:
        pieces = bytearray(lead_in or 0)
        took = 0
        try:
            while True:
                message = await exchange.receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                piece: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                exchange.came_whole = not more
                if took + len(piece) > self.limit:
                    raise _too_large(self.limit)
                self.hold(len(piece))
                took += len(piece)
                if lead_in is None and not pieces and not more:
                    return piece
                pieces += piece
                if not more:
                    return bytes(pieces) if lead_in is None else memoryview(pieces)[lead_in:]
        except BaseException:
            self._let_go(took)
            raise

    def release(self, body: Body) -> None:
        """The body is not needed any more. After many large ones, what they took goes back to the system."""
        size = len(body)
        self._let_go(size)
        if size >= LARGE_BYTES:
            self._gone += size
            if self._gone >= TRIM_AFTER_BYTES and not self.held:
                self._gone = 0
                self._give_back(ANSWERED_S)

    def hold(self, size: int) -> None:
        """Count so many bytes more as held. Raises `Refused` when all together would be too many."""
        with self._lock:
            if self.held + size > self.limit * HELD_BODIES:
                raise RefusedUnread(503, "Too many large requests at once. Try again.", (b"retry-after", b"1"))
            self.held += size

    def _let_go(self, size: int) -> None:
        with self._lock:
            self.held -= size


def json_response(value: object, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(status, msgspec.json.encode(value))


def _check_headers(exchange: Exchange, limit: int) -> None:
    encoding = exchange.headers.get(b"content-encoding")
    if encoding is not None and encoding.lower() != b"identity":
        raise RefusedUnread(415, "Bodies are not inflated here; send the request without Content-Encoding.")
    length = exchange.headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> Refused:
    return RefusedUnread(413, f"The body is larger than {limit} bytes. Send fewer samples in one request.")
