"""Threads for work that may never end, such as a model that hangs: the program ends all the same.

The standard library's pool waits for all its threads when the interpreter ends; these are daemons.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job = Callable[[], None]


class DaemonThreads(Executor):
    """At most `most` threads, each started when there is work and no idle one."""

    def __init__(self, most: int, *, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._ended = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor`."""
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._lock:
            if self._ended:
                raise RuntimeError("These threads have ended.")
            self._jobs.put(do)
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._most:
                thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, within_s: float = 5.0) -> None:  # noqa: ARG002, FBT001, FBT002  # the standard library's signature
        """Take no more work. With `wait`, work under way is waited for, but no longer than `within_s` seconds."""
        with self._lock:
            self._ended = True
            threads = self._threads[:]
            for _ in threads:
                self._jobs.put(None)
        until = time.perf_counter() + (within_s if wait else 0.0)
        for thread in threads:
            thread.join(max(0.0, until - time.perf_counter()))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job
            with self._lock:
                self._idle += 1
