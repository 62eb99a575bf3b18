"""Threads for work that may never end: started when needed, never more than allowed, and nobody waits for them for long."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from runtime.local_server.threads import DaemonThreads
from tests.support.waiting import until

WAIT_S = 20.0
NUMBERS = itertools.count()


@pytest.fixture
def threads() -> Iterator[DaemonThreads]:
    made = DaemonThreads(2, name=f"test {next(NUMBERS)}")
    yield made
    made.shutdown(wait=False)


def running(threads: DaemonThreads) -> int:
    return sum(each.name.startswith(f"{threads._name}_") for each in threading.enumerate())


def test_results_and_errors_come_back(threads: DaemonThreads) -> None:
    def fails() -> None:
        raise ValueError("broken")

    assert threads.submit(lambda: threading.current_thread().daemon).result(WAIT_S)
    with pytest.raises(ValueError, match="broken"):
        threads.submit(fails).result(WAIT_S)


def test_an_idle_thread_is_used_again_and_no_more_are_started_than_allowed(threads: DaemonThreads) -> None:
    for at in range(3):
        assert threads.submit(lambda: 1).result(WAIT_S) == 1
        until(lambda: threads._idle == 1, f"the thread of job {at} is idle")
    assert running(threads) == 1
    may_end = threading.Event()
    waiting = [threads.submit(may_end.wait, WAIT_S) for _ in range(5)]
    assert running(threads) == 2
    may_end.set()
    assert all(each.result(WAIT_S) for each in waiting)


def test_after_the_end_nothing_is_taken_any_more(threads: DaemonThreads) -> None:
    threads.submit(lambda: 1).result(WAIT_S)
    threads.shutdown()
    assert running(threads) == 0
    with pytest.raises(RuntimeError, match="have ended"):
        threads.submit(lambda: 1)


def test_the_end_waits_for_work_under_way(threads: DaemonThreads) -> None:
    started, may_end = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        assert may_end.wait(WAIT_S)

    done = threads.submit(work)
    assert started.wait(WAIT_S)
    threading.Timer(0.05, may_end.set).start()
    threads.shutdown(within_s=WAIT_S)
    assert done.done()


@pytest.mark.parametrize(("wait", "within_s"), [(True, 0.05), (False, WAIT_S)])
def test_the_end_does_not_wait_for_work_that_never_ends(threads: DaemonThreads, wait: bool, within_s: float) -> None:
    may_end = threading.Event()
    work = threads.submit(may_end.wait, WAIT_S)
    threads.shutdown(wait=wait, within_s=within_s)
    assert not work.done()
    may_end.set()
