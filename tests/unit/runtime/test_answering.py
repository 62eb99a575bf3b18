"""How the local server asks a model: what a request may say of itself, and places that come back whoever goes away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from fleet_io.clock import SystemClock
from runtime import ModelHost, ModelIdentity
from runtime.engine import Array
from runtime.hosting.admission import Limits
from runtime.local_server.answering import Answering, Question, Wishes, wishes_of
from runtime.local_server.exchange import Bodies, Refused, Response
from runtime.local_server.serving_statistics import ServingStatistics
from runtime.local_server.threads import DaemonThreads
from tests.support.engines import ScriptedEngine, model_of

X = {"x": np.zeros((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("timeout_us", "level", "wanted"),
    [
        (None, 0, Wishes(None, 0)),
        (0, 0, Wishes(None, 0)),
        (1_500_000, 0, Wishes(1.5, 0)),
        (1, 1, Wishes(1e-6, 1)),
        (None, 2, Wishes(None, 0)),
        (None, 3, Wishes(None, -1)),
        (None, 400, Wishes(None, -1)),
    ],
)
def test_wishes_are_tritons_microseconds_and_levels(timeout_us: int | None, level: int, wanted: Wishes) -> None:
    assert wishes_of(timeout_us, level) == wanted


def test_a_key_is_a_wish_too() -> None:
    assert wishes_of(None, 0, "customer 4") == Wishes(None, 0, "customer 4")


@pytest.fixture
def threads() -> Iterator[DaemonThreads]:
    made = DaemonThreads(4, name="test")
    yield made
    made.shutdown()


def work(question: Question) -> Response:
    question.infer(X)
    return Response(200, b"answered")


def test_who_goes_away_while_waiting_leaves_the_line(threads: DaemonThreads) -> None:
    may_answer, answering = threading.Event(), threading.Event()

    def answer(x: Array) -> Array:
        answering.set()
        assert may_answer.wait(20)
        return np.zeros((len(x), 3), np.float32)

    host = ModelHost(limits=Limits(running=1, waiting=1))
    host.activate(ModelIdentity("digits", "1.0.0", "sha256:" + "0" * 64, "float"), model_of(ScriptedEngine(answer)))
    asked = Answering(host, threads, Bodies(), ServingStatistics(), SystemClock())

    async def play() -> list[int]:
        running = asyncio.create_task(asked.ask(b"", "digits", None, work))
        await asyncio.get_running_loop().run_in_executor(None, answering.wait, 20)
        gone = asyncio.create_task(asked.ask(b"", "digits", None, work))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="wait for it already"):
            await asked.ask(b"", "digits", None, work)
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        waiting = asyncio.create_task(asked.ask(b"", "digits", None, work))
        await asyncio.sleep(0)
        may_answer.set()
        return [(await each).status for each in (running, waiting)]

    assert asyncio.run(asyncio.wait_for(play(), 30)) == [200, 200]
