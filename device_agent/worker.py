"""A thread for slow work, so that the event loop never waits for a disk, a network or a model.

The agent has two: one for what needs the network, one for what does not, so that a slow download never delays a roll-back.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

Job = Callable[[], None]
STOP_TIMEOUT_S = 5.0


class Worker(Protocol):
    """Does jobs one after the other: a thread, or a simulation's own list."""

    def submit(self, job: Job) -> None:
        """Do `job` after those that were submitted before it."""
        ...


class ThreadWorker:
    """The real one."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """See `Worker`."""
        self._jobs.put(job)

    def stop(self) -> None:
        """End after the job that is under way; those that wait are dropped, and done again at the next start."""
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # the thread must outlive every job
                log.exception("a job of the agent's worker failed")
