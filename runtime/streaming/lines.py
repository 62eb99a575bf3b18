"""Lines of JSON out of a pipe, each an item. A line that is too long is an item that cannot be answered, and is not kept."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Final

from runtime.errors import StreamBroken
from runtime.streaming.places import Item

LINE_BYTES: Final = 16 * 1024 * 1024
_PIECE_BYTES: Final = 65536
_PATIENCE_S: Final = 0.2
_TOO_LONG: Final = b"<the line is too long>"
"""Stands for the line: no JSON, so that it is answered with an error."""


class LineItems:
    """Lines of the file descriptor `descriptor`, to its end. Empty lines are nothing. Items are named by their number."""

    can_wait = True

    def __init__(self, descriptor: int, *, limit: int = LINE_BYTES) -> None:
        self._descriptor, self._limit = descriptor, limit

    def read(self, give: Callable[[Item], bool], stop: threading.Event) -> None:
        """See `Source`. Reads with patience, since a thread that waits in a read keeps the process from ending."""
        kept, number, skipping = bytearray(), 0, False
        while not stop.is_set():
            piece = self._piece()
            if piece is None:
                continue
            *whole, rest = (bytes(kept) + (piece or b"\n")).split(b"\n")
            kept = bytearray(rest)
            for line in whole:
                number += 1
                content = _TOO_LONG if skipping or len(line) > self._limit else line.strip()
                skipping = False
                if content and not give(Item(f"line {number}", content, is_json=True)):
                    return
            if len(kept) > self._limit:
                kept.clear()
                skipping = True
            if not piece:
                return

    def settle(self, item: Item) -> None:
        """A pipe gives nothing twice."""

    def _piece(self) -> bytes | None:
        """What comes next; nothing at the end; None where nothing came for a moment. Raises `StreamBroken`."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], _PATIENCE_S)
            return os.read(self._descriptor, _PIECE_BYTES) if ready else None
        except OSError as error:
            raise StreamBroken(f"The input cannot be read any more: {error.strerror or error}.") from error
