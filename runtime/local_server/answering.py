"""How the local server asks a model, whatever the protocol: where a request runs, what its failures mean, what is counted.

A request first gets a place with its model, at once or in the model's bounded line, or it is refused. A model that answers
within `INLINE_S` then runs on the event loop's own thread, because handing a request to another thread costs some 200 µs where
a tiny model takes 20. A slower model, one not measured yet or of which a run hangs, or a large body goes to another thread, so
that others are answered meanwhile; there, who asked waits no longer than its deadline, however long the model does. A protocol
gives only the work itself: bytes to inputs, outputs to bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Final, NamedTuple, TypeVar

from fleet_io.clock import Clock
from runtime.engine import Array
from runtime.errors import (
    DeadlineExceeded,
    InvalidInput,
    MalformedRequest,
    MemoryBudgetExceeded,
    ModelUnwell,
    NotServing,
    Overloaded,
    RuntimeFailure,
)
from runtime.hosting.entrance import Place
from runtime.hosting.experiment import KEY_HEADER, serving_for
from runtime.hosting.room import Inference, Served
from runtime.hosting.serving import Serving
from runtime.local_server.exchange import Bodies, Body, Exchange, Header, Refused, Response
from runtime.local_server.serving_statistics import Outcome, ServingStatistics, Spent
from runtime.processing import Processor
from runtime.processing.placing import Placement

INLINE_S: Final = 0.002
INLINE_BYTES: Final = 64 * 1024
TIMEOUT_S: Final = 60.0
"""What a request is given that says nothing of it."""

T = TypeVar("T")


class Wishes(NamedTuple):
    """What a request says of itself: how many seconds it allows (None: the server's own), how important it is, its key."""

    timeout_s: float | None = None
    priority: int = 0
    key: str | None = None
    """By which an experiment chooses who answers; see `runtime.hosting.experiment`."""


NO_WISHES: Final = Wishes()


_USUAL_LEVEL: Final = 2
_LAST_LEVEL: Final = 3
"""Triton's levels of priority, as they are taken here: before the others, as the others, after the others."""


def wishes_of(timeout_us: int | None, level: int, key: str | None = None) -> Wishes:
    """Wishes as Triton's clients say them: microseconds, and a level of which 1 is the most important (0: it says none)."""
    timeout_s = timeout_us / 1e6 if timeout_us else None
    return Wishes(timeout_s, _USUAL_LEVEL - min(level or _USUAL_LEVEL, _LAST_LEVEL), key)


class Question:
    """One request for a model's answer. `body` is the request's, `model` the version in which it has its place."""

    __slots__ = (
        "_answered_ns",
        "_asked_ns",
        "_decoded_ns",
        "_place",
        "_sampled",
        "begun_ns",
        "body",
        "finite",
        "identity",
        "is_small",
        "model",
        "samples",
    )

    def __init__(self, place: Place, body: Body, asked_ns: int) -> None:
        room = place.entered()
        self.model = room.model
        self.identity = room.identity
        self.is_small = len(body) <= INLINE_BYTES and room.is_quick(INLINE_S)
        """Whether the work on it may hold up the event loop."""
        self.body = body
        self.finite = True
        self.samples = 1
        self._sampled = room.sampled
        self._place = place
        self._asked_ns = asked_ns
        self.begun_ns = 0
        """When the work on it began."""
        self._decoded_ns = self._answered_ns = 0

    def infer(self, inputs: Mapping[str, Array], *, raw: bool = False, results: bool = False) -> Inference:
        """The model's answer, once; `raw`: to what its declared processing makes of the inputs.

        `results`: the results that it declares, as texts of JSON, are in the place of its outputs. Raises as `ModelHost.infer`.
        """
        placements: list[Placement] = []
        if results:
            inputs, placements = self._with_results().taken(inputs, raw=raw)
        elif raw:
            inputs = self._processor().raw(inputs)
        self._decoded_ns = time.perf_counter_ns()
        try:
            inference = self._place.infer(inputs)
            self.finite = inference.finite
        finally:
            self._answered_ns = time.perf_counter_ns()
        if self._sampled is not None:
            self.samples = len(inputs[self._sampled])
        if results:
            texts = self._with_results().texts(inference.outputs, placements)
            return Inference(texts, inference.identity, inference.labels, self.finite)  # a shadow may still hold the other
        return inference

    def _processor(self) -> Processor:
        if self.model.processor is None:
            raise InvalidInput(f"{self.identity.model} declares no processing. Give its own tensors.")
        return self.model.processor

    def _with_results(self) -> Processor:
        processor = self.model.processor
        if processor is None or not processor.processing.results:
            raise InvalidInput(f"{self.identity.model} declares no results. Ask for its outputs.")
        return processor

    def end(self) -> tuple[int, int, int, int]:
        """The work on it is over: where the time went, the parts of `Spent`."""
        self._place.give_back()
        now = time.perf_counter_ns()
        decoded = self._decoded_ns or now
        answered = self._answered_ns or decoded
        return self.begun_ns - self._asked_ns, decoded - self.begun_ns, answered - decoded, now - answered


Work = Callable[[Question], Response]
"""Reads the question's body, asks `Question.infer`, and writes the response."""


class Answering:
    """Asks the models of one host for every protocol, from any event loop."""

    def __init__(
        self,
        host: Serving,
        threads: Executor,
        bodies: Bodies,
        statistics: ServingStatistics,
        clock: Clock,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.host = host
        self.threads = threads
        self.bodies = bodies
        self.statistics = statistics
        self._clock = clock
        self._timeout_s = timeout_s

    def describe(self, model: str, version: str | None) -> Served:
        """What answers; a model that is not loaded is, on this thread. Raises `Refused`."""
        try:
            return self.host.describe(model, version=version)
        except RuntimeFailure as error:
            raise refusal(error) from error

    async def described(self, model: str, version: str | None) -> Served:
        """The same, and another thread loads where that is needed."""
        if self.host.at_hand(model):
            return self.describe(model, version)
        return await asyncio.get_running_loop().run_in_executor(self.threads, self.describe, model, version)

    async def answer(
        self,
        exchange: Exchange,
        model: str,
        version: str | None,
        work: Work,
        *,
        lead_in: int | None = None,
        wishes: Callable[[Body], Wishes] | None = None,
    ) -> Response:
        """Read the body (see `Bodies.read`), and `ask`; `wishes` reads those of a body. Raises `Refused`."""
        body = await self.bodies.read(exchange, lead_in=lead_in)
        try:
            wished = NO_WISHES if wishes is None else wishes(body)
            key = exchange.headers.get(KEY_HEADER)
            if key is not None:
                wished = wished._replace(key=key.decode("utf-8", "surrogateescape"))
            return await self.ask(body, model, version, work, wished)
        except MalformedRequest as error:
            raise Refused(400, str(error)) from error
        finally:
            self.bodies.release(body)

    async def ask(self, body: Body, model: str, version: str | None, work: Work, wishes: Wishes = NO_WISHES) -> Response:
        """Do the work on a request that is here wholly, where it belongs. Raises `Refused`."""
        asked_ns = time.perf_counter_ns()
        timeout_s = self._timeout_s if wishes.timeout_s is None else wishes.timeout_s
        deadline = self._clock.monotonic() + timeout_s
        try:
            serving = self.host if wishes.key is None or version is not None else serving_for(self.host, wishes.key)
            if not serving.at_hand(model):
                await self._fetch(serving, model, deadline)
            place = serving.place(model, version=version, deadline=deadline, priority=wishes.priority)
            if not place.decided:
                await _decision(place)
            question = Question(place, body, asked_ns)
        except RuntimeFailure as error:
            self._count_refused(error, model, asked_ns)
            raise refusal(error) from error
        if question.is_small:
            return self._do(work, question)
        return await self._do_elsewhere(work, question, timeout_s, deadline)

    async def _fetch(self, serving: Serving, model: str, deadline: float) -> None:
        """Until it is at hand. Raises `RuntimeFailure`."""
        loop = asyncio.get_running_loop()
        while not serving.at_hand(model):
            fetching = loop.run_in_executor(self.threads, partial(serving.fetch, model, deadline=deadline))
            await _within(fetching, deadline - self._clock.monotonic(), model)

    async def _do_elsewhere(self, work: Work, question: Question, timeout_s: float, deadline: float) -> Response:
        """On another thread, which goes on when the deadline is over: nothing can stop a model that runs."""
        doing = asyncio.get_running_loop().run_in_executor(self.threads, self._do, work, question)
        try:
            return await _within(doing, deadline - self._clock.monotonic(), question.identity.model)
        except DeadlineExceeded as error:
            raise Refused(504, f"{error} It was allowed {timeout_s:g} s.") from error

    def _do(self, work: Work, question: Question) -> Response:
        question.begun_ns = time.perf_counter_ns()
        try:
            response = work(question)
        except RuntimeFailure as error:
            self._count(question, _outcome(error) if question.finite else "non_finite")
            raise refusal(error) from error
        except BaseException:
            self._count(question, "failed")
            raise
        self._count(question, "answered" if question.finite else "non_finite")
        return response

    def _count(self, question: Question, outcome: Outcome) -> None:
        identity, spent = question.identity, question.end()
        if outcome == "answered":
            now = self._clock.now()
            self.statistics.answered(identity.model, identity.version, spent, samples=question.samples, now=now)
        else:
            self.statistics.failed(identity.model, identity.version, outcome, spent)

    def _count_refused(self, error: RuntimeFailure, model: str, asked_ns: int) -> None:
        """Count it where there is such a model."""
        identity = next((each for each in self.host.identities() if each.model == model), None)
        if identity is not None:
            spent = Spent(queue=time.perf_counter_ns() - asked_ns)
            self.statistics.failed(model, identity.version, _outcome(error), spent)


class _Meaning(NamedTuple):
    """What a failure is over HTTP, and what it counts as."""

    status: int
    outcome: Outcome
    headers: tuple[Header, ...] = ()


_MEANINGS: Final[dict[type[RuntimeFailure], _Meaning]] = {
    MalformedRequest: _Meaning(400, "invalid"),
    InvalidInput: _Meaning(400, "invalid"),
    NotServing: _Meaning(404, "invalid"),
    Overloaded: _Meaning(503, "overloaded", ((b"retry-after", b"1"),)),
    ModelUnwell: _Meaning(503, "unwell", ((b"retry-after", b"10"),)),
    MemoryBudgetExceeded: _Meaning(503, "overloaded"),
    DeadlineExceeded: _Meaning(504, "late"),
}
_FAILED: Final = _Meaning(500, "failed")


def refusal(error: RuntimeFailure) -> Refused:
    """How a failure is said over HTTP."""
    meaning = _MEANINGS.get(type(error), _FAILED)
    return Refused(meaning.status, str(error), *meaning.headers)


def _outcome(error: RuntimeFailure) -> Outcome:
    return _MEANINGS.get(type(error), _FAILED).outcome


async def _decision(place: Place) -> None:
    """Until the place is decided, which costs a task that is cancelled meanwhile its place."""
    turn = asyncio.Event()
    place.call(partial(_wake, asyncio.get_running_loop(), turn))
    try:
        while (patience := place.patience()) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await turn.wait()
    except BaseException:
        place.give_back()
        raise


async def _within(doing: asyncio.Future[T], seconds: float, model: str) -> T:
    """Its result; it goes on when `DeadlineExceeded` is raised."""
    done, _ = await asyncio.wait({doing}, timeout=max(0.0, seconds))
    if not done:
        doing.add_done_callback(_forget)
        raise DeadlineExceeded(f"{model} did not answer in time. Allow more time, or ask later.")
    return doing.result()


def _forget(done: asyncio.Future[T]) -> None:
    """Nobody waits any more for how it ended; it was counted."""
    if not done.cancelled():
        done.exception()


def _wake(loop: asyncio.AbstractEventLoop, turn: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
        loop.call_soon_threadsafe(turn.set)
