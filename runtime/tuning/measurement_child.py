"""The child that runs one candidate: `python -m runtime.tuning.measurement_child`, asked by `runtime.tuning.measurement`.

It opens one model in one way and then does what it is told: answer, run for a while, run now and then, run in batches. Each
candidate has a process of its own, so that CPU time and anonymous memory are its own, and a crash is its own too.
"""

from __future__ import annotations

import statistics
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from runtime import golden, trial
from runtime.engine import Array
from runtime.errors import InvalidInput
from runtime.example_inputs import repeated, sample_requests, takes_batches
from runtime.golden import GoldenSet
from runtime.hosting.memory import anonymous_bytes
from runtime.hosting.padding import padding_for
from runtime.hosting.usage import all_finite
from runtime.model import Model, load
from runtime.trial import TrialResult
from runtime.tuning.record import Burst

ANSWERED: Final = 8
"""Requests whose answers are kept for comparison."""
LEAST_CHECKED: Final = 16
_MOST_RUNS: Final = 20_000
_WARM_UP_RUNS: Final = 2


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load the model, and write the answers to a few requests into `answers` (.npz)."""

    model: str
    session_options: dict[str, str]
    threads: int | None
    provider: str | None = None
    golden: str | None
    answers: str


class Check(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Hold the answers to the golden inputs against the golden outputs, for about `seconds` at most."""

    golden: str
    seconds: float


class Run(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run again and again for `seconds`, then keep still for `settle_s`, so that nothing spins into another's turn."""

    seconds: float
    settle_s: float


class Pace(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run `runs` times, one every `period_s`, and count the CPU time, that of the engine's waiting threads included."""

    runs: int
    period_s: float


class Batch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run batches of these sizes and single requests in turn, for about `seconds`."""

    sizes: tuple[int, ...]
    seconds: float


class Pad(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Look whether padding the sample requests' sequences changes an answer."""


Order = Open | Check | Run | Pace | Batch | Pad


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Open`."""

    load_s: float
    memory_bytes: int
    engine: str
    takes_batches: bool
    finite: bool


class Paced(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Pace`: CPU seconds of one inference."""

    cpu_s: float


class Batched(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Batch`: throughput ÷ that of single requests, by size."""

    gains: dict[int, float]


class Padded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Pad`: the model can tell, and no answer changed."""

    holds: bool


class Worker:
    """One open model and what it is asked."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._requests: list[dict[str, Array]] = []

    def answer(self, order: Order) -> object:
        """Do what is ordered. Raises `RuntimeFailure`."""
        match order:
            case Open():
                return self._open(order)
            case Check():
                return self._check(order)
            case Run():
                return self._run(order)
            case Pace():
                return self._pace(order)
            case Batch():
                return self._batch(order)
            case Pad():
                return self._pad()

    def _open(self, order: Open) -> Opened:
        before, started = anonymous_bytes(), time.perf_counter()
        model = self._model = load(
            Path(order.model), session_options=order.session_options, threads=order.threads, provider=order.provider
        )
        load_s = time.perf_counter() - started
        requests = sample_requests(model.inputs, order.golden, count=ANSWERED)
        self._requests = requests
        answers = [model(request) for request in requests]
        for _ in range(_WARM_UP_RUNS):
            model(self._requests[0])
        memory = max(0, anonymous_bytes() - before)
        arrays = {f"{at}/{place}": array for at, each in enumerate(answers) for place, array in enumerate(each.values())}
        np.savez(order.answers, allow_pickle=False, **_travelling(arrays))
        return Opened(
            load_s=load_s,
            memory_bytes=memory,
            engine=model.engine,
            takes_batches=takes_batches(model.inputs),
            finite=all(map(all_finite, answers)),
        )

    def _check(self, order: Check) -> TrialResult:
        model = self._opened()
        wanted = golden.read(Path(order.golden))
        wanted = _thinned(wanted, max(LEAST_CHECKED, int(order.seconds / max(1e-6, self._once()))))
        answers, seconds = trial.ask(model, wanted)
        return trial.compare(model, wanted, answers, seconds)

    def _run(self, order: Run) -> Burst:
        model, request = self._opened(), self._requests[0]
        seconds: list[float] = []
        started = ended = time.perf_counter()
        while not seconds or (ended - started < order.seconds and len(seconds) < _MOST_RUNS):
            begun = ended
            model(request)
            ended = time.perf_counter()
            seconds.append(ended - begun)
        _wait(order.settle_s)
        return Burst(p50_s=statistics.median(seconds), p95_s=float(np.quantile(seconds, 0.95)))

    def _pace(self, order: Pace) -> Paced:
        model = self._opened()
        _wait(order.period_s)
        waiting, before = 0.0, time.process_time()
        for _ in range(order.runs):
            started = time.perf_counter()
            model(self._requests[0])
            begun = time.thread_time()
            _wait(order.period_s - (time.perf_counter() - started))
            waiting += time.thread_time() - begun  # this thread's own waiting is the measurement's, and no inference's
        return Paced(cpu_s=max(0.0, time.process_time() - before - waiting) / order.runs)

    def _batch(self, order: Batch) -> Batched:
        model = self._opened()
        requests = {size: repeated(self._requests[0], size) for size in (1, *order.sizes)}
        for request in requests.values():
            model(request)  # a GPU's libraries look for the best kernels when they meet a new shape
        times: dict[int, list[float]] = {size: [] for size in requests}
        begun = time.perf_counter()
        while not times[1] or time.perf_counter() - begun < order.seconds:
            for size, request in requests.items():
                started = time.perf_counter()
                model(request)
                times[size].append((time.perf_counter() - started) / size)
        middle = {size: statistics.median(each) for size, each in times.items()}
        return Batched(gains={size: round(middle[1] / middle[size], 3) for size in order.sizes})

    def _pad(self) -> Padded:
        model = self._opened()
        padding = padding_for(model.inputs, model.outputs)
        return Padded(holds=padding is not None and all(padding.holds(model, request) for request in self._requests))

    def _once(self) -> float:
        started = time.perf_counter()
        self._opened()(self._requests[0])
        return time.perf_counter() - started

    def _opened(self) -> Model:
        if self._model is None:
            raise InvalidInput("No model is open in this child process. Open one first.")
        return self._model


def _thinned(wanted: GoldenSet, samples: int) -> GoldenSet:
    """Evenly chosen samples, where all would take too long; without labels, since a part says too little of accuracy."""
    if samples >= wanted.samples:
        return GoldenSet(wanted.inputs, wanted.outputs, None)
    chosen = np.linspace(0, wanted.samples - 1, samples).astype(int)
    return GoldenSet(
        {name: array[chosen] for name, array in wanted.inputs.items()},
        {name: array[chosen] for name, array in wanted.outputs.items()},
        None,
    )


def _travelling(arrays: dict[str, Array]) -> dict[str, Array]:
    """Texts as fixed-width strings, since nothing here is pickled."""
    return {name: array.astype("U") if array.dtype == object else array for name, array in arrays.items()}


def _wait(seconds: float) -> None:
    if seconds > 0:
        threading.Event().wait(seconds)  # nobody sets it: engines' own threads go on, and that is what is measured


if __name__ == "__main__":
    from runtime.children import serve

    serve(Order, Worker().answer)  # type: ignore[arg-type]  # a union is no type[T] to mypy, and msgspec takes it
