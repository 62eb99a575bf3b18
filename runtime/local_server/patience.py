"""Bounds how long many tasks wait, at a microsecond each: one timer looks after all of them, where `asyncio.timeout` starts
one for each, which costs a small request a twentieth of its time. So a wait may last `LOOK_S` longer than it was allowed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

LOOK_S: Final = 0.5

T = TypeVar("T")


class Patience:
    """Waits of the tasks of one event loop."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Task[Any], float] = {}
        self._over: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.TimerHandle | None = None

    async def wait(self, awaited: Awaitable[T], seconds: float) -> T:
        """What is awaited. Raises `TimeoutError` when that takes longer."""
        task = asyncio.current_task()
        assert task is not None
        self._until[task] = time.perf_counter() + seconds
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(LOOK_S, self._look, loop)
        try:
            return await awaited
        except asyncio.CancelledError:
            if task in self._over and not task.uncancel():
                raise TimeoutError from None
            raise
        finally:
            del self._until[task]
            self._over.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._looking = loop.call_later(LOOK_S, self._look, loop) if self._until else None
        now = time.perf_counter()
        for task, until in self._until.items():
            if until <= now and task not in self._over:
                self._over.add(task)
                task.cancel()
