"""How the local server asks a model, whatever the protocol: where a request runs, what its failures mean, what is counted.

A model that answers within `INLINE_S` runs on the event loop's own thread, because handing a request to another thread costs
some 200 µs where a tiny model takes 20. A slower model, one not measured yet, or a large body goes to a small pool of
threads, so that health checks are answered meanwhile. A protocol gives only the work itself: bytes to inputs, outputs to bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Final

from fleet_io.clock import Clock
from fleet_protocol.tensors import DYNAMIC
from runtime.engine import Array
from runtime.errors import InferenceFailed, InvalidInput, MalformedRequest, NotServing
from runtime.exchange import Bodies, Body, Exchange, Refused, Response
from runtime.host import Inference, ModelHost, Served
from runtime.serving_statistics import Outcome, ServingStatistics, Spent

INLINE_S: Final = 0.002
INLINE_BYTES: Final = 64 * 1024


class Question:
    """One request for a model's answer. `body` is the request's, `served` what was active when it came."""

    def __init__(self, host: ModelHost, served: Served, version: str | None, body: Body) -> None:
        self.served = served
        self.body = body
        self.identity = served.identity
        """Of what answered; before that, of what was active."""
        self.finite = True
        self.samples = 1
        self._host = host
        self._version = version
        self._asked_ns = time.perf_counter_ns()
        self._begun_ns = self._decoded_ns = self._answered_ns = 0

    def begin(self) -> None:
        """The work on it begins."""
        self._begun_ns = time.perf_counter_ns()

    def infer(self, inputs: Mapping[str, Array]) -> Inference:
        """The model's answer, once. Raises what `ModelHost.infer` raises."""
        self._decoded_ns = time.perf_counter_ns()
        try:
            inference = self._host.infer(self.identity.model, inputs, version=self._version)
        finally:
            self._answered_ns = time.perf_counter_ns()
        self.identity, self.finite = inference.identity, inference.finite
        self.samples = _samples(self.served, inputs)
        return inference

    def spent(self) -> Spent:
        """Where the time went until now."""
        now = time.perf_counter_ns()
        decoded = self._decoded_ns or now
        answered = self._answered_ns or decoded
        return Spent(self._begun_ns - self._asked_ns, decoded - self._begun_ns, answered - decoded, now - answered)


Work = Callable[[Question], Response]
"""Reads the question's body, asks `Question.infer`, and writes the response."""


class Answering:
    """Asks the models of one host for every protocol."""

    def __init__(self, host: ModelHost, threads: Executor, bodies: Bodies, statistics: ServingStatistics, clock: Clock) -> None:
        self.host = host
        self.threads = threads
        self.bodies = bodies
        self.statistics = statistics
        self._clock = clock

    def describe(self, model: str, version: str | None) -> Served:
        """What is active. Raises `Refused` (404)."""
        try:
            return self.host.describe(model, version=version)
        except NotServing as error:
            raise Refused(404, str(error)) from error

    async def answer(
        self, exchange: Exchange, model: str, version: str | None, work: Work, *, lead_in: int | None = None
    ) -> Response:
        """Read the body (see `Bodies.read`), and `ask`. Raises `Refused`."""
        body = await self.bodies.read(exchange, lead_in=lead_in)
        try:
            return await self.ask(body, model, version, work)
        finally:
            self.bodies.release(body)

    async def ask(self, body: Body, model: str, version: str | None, work: Work) -> Response:
        """Do the work on a request that is here wholly, where it belongs. Raises `Refused`."""
        served = self.describe(model, version)
        question = Question(self.host, served, version, body)
        if served.typical_s is not None and served.typical_s < INLINE_S and len(body) <= INLINE_BYTES:
            return self._do(work, question)
        return await asyncio.get_running_loop().run_in_executor(self.threads, self._do, work, question)

    def _do(self, work: Work, question: Question) -> Response:
        outcome: Outcome = "failed"
        question.begin()
        try:
            response = work(question)
            outcome = "answered" if question.finite else "non_finite"
        except (MalformedRequest, InvalidInput) as error:
            outcome = "invalid"
            raise Refused(400, str(error)) from error
        except NotServing as error:  # another version came in between
            outcome = "invalid"
            raise Refused(404, str(error)) from error
        except InferenceFailed as error:
            outcome = "failed" if question.finite else "non_finite"
            raise Refused(500, str(error)) from error
        finally:
            identity = question.identity
            self.statistics.record(
                identity.model, identity.version, outcome, question.spent(), samples=question.samples, now=self._clock.now()
            )
        return response


def _samples(served: Served, inputs: Mapping[str, Array]) -> int:
    """How many samples the inputs hold: the first input's first dimension, where that is free."""
    first = served.inputs[0] if served.inputs else None
    if first is None or first.shape[:1] != (DYNAMIC,):
        return 1
    return int(inputs[first.name].shape[0])
