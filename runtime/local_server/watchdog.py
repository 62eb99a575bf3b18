"""Notices when an event loop does not turn any more: a quick model that runs on its thread (`answering.INLINE_S`) hangs.

A thread asks each loop now and then to say that it turns. That is one callback every few seconds; requests pay nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Final

_LOOKS: Final = 10
"""So many in a row must stay unanswered. Looks are counted and not seconds, which pass while a process is stopped too."""


class Watchdog:
    """Calls `hung` once, on its own thread, when one of the loops does not turn for `hang_s` seconds."""

    def __init__(self, loops: Iterable[asyncio.AbstractEventLoop], hung: Callable[[], object], *, hang_s: float) -> None:
        self._pulses = [_Pulse(loop) for loop in loops]
        self._hung = hung
        self._look_s = hang_s / _LOOKS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. A second call does nothing."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._look_s):
            if any(pulse.look() > _LOOKS for pulse in self._pulses):
                self._hung()
                return


class _Pulse:
    """Whether one loop turns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turned = True
        self._missed = 0

    def look(self) -> int:
        """How many looks in a row it has not turned for."""
        if self._turned:
            self._turned, self._missed = False, 0
            with contextlib.suppress(RuntimeError):  # it is closed, which is another matter
                self._loop.call_soon_threadsafe(self._turn)
        self._missed += 1
        return 0 if self._loop.is_closed() else self._missed

    def _turn(self) -> None:
        self._turned = True
