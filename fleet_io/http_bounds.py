"""uvicorn's HTTP/1.1, with bounds on what a client may send, or hold open, before its request reaches the application.

uvicorn bounds neither: a header or a path may grow without end (and a path's growth costs its length squared), a client may
take forever over them, and connections may come until the process has no file descriptors left for its own files. What
bodies may hold is the application's to say.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fleet_io.http_writes import JoinedWrites

HEAD_BYTES: Final = 64 * 1024
"""A request's line and headers; also what may follow its body (trailers)."""
HEAD_TIMEOUT_S: Final = 60.0
"""From a connection's beginning, or a request's first byte, until its headers are whole."""
CONNECTIONS: Final = 512
"""At once. Half of the 1,024 files that a process may usually have open."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Refusals are `{"error": "…"}`; none is written between the parts of an answer that is under way."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # uvicorn's
        super().__init__(*args, **options)
        self._unheard = 0
        """Bytes that came since the parser last handed anything over."""
        self._hurry: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """See `asyncio.Protocol`."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]  # it has all that one has
        if len(self.connections) > CONNECTIONS:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections. Close some, or try again.")
        self._hurry = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._heard()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unheard += len(data)
        super().data_received(data)
        if not self._unheard or self.transport.is_closing():
            return
        if self._unheard > HEAD_BYTES:
            message = f"The request's headers are larger than {HEAD_BYTES} bytes. Send what is large as its body."
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
        elif self._hurry is None:
            self._hurry = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._heard()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._heard()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        self._heard()
        super().on_message_complete()

    def _heard(self) -> None:
        self._unheard = 0
        if self._hurry is not None:
            self._hurry.cancel()
            self._hurry = None

    def _too_slow(self) -> None:
        if self._unheard:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"The request's headers did not arrive within {HEAD_TIMEOUT_S:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            body = json.dumps({"error": message})
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            self.transport.write(f"{head}\r\nconnection: close\r\n\r\n{body}".encode())
        self.transport.close()
