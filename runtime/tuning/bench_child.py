"""The child that runs one model for a benchmark: `python -m runtime.tuning.bench_child`, asked by `runtime.tuning.benching`.

Each model and number of threads has a process of its own, so that CPU time, memory and crashes are its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from runtime.engine import Array
from runtime.errors import InvalidInput
from runtime.example_inputs import repeated, sample_requests, takes_batches
from runtime.hosting.memory import anonymous_bytes
from runtime.model import Model, load

_MOST_RUNS: Final = 5000
"""In one burst: what is told must fit into one line."""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load the model, and run each batch size once."""

    model: str
    session_options: dict[str, str]
    threads: int | None
    golden: str | None
    batches: tuple[int, ...]


class Run(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run one batch size again and again for `seconds`."""

    batch: int
    seconds: float


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Open`. `batches`: those that the model took."""

    engine: str
    load_s: float
    memory_bytes: int
    batches: tuple[int, ...]


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Run`: seconds of each run, and CPU seconds of all."""

    seconds: list[float]
    cpu_s: float


class Runner:
    """One open model."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._requests: dict[int, dict[str, Array]] = {}

    def answer(self, order: Open | Run) -> Opened | Ran:
        """Do what is ordered. Raises `RuntimeFailure`."""
        return self._open(order) if isinstance(order, Open) else self._run(order)

    def _open(self, order: Open) -> Opened:
        before, started = anonymous_bytes(), time.perf_counter()
        model = self._model = load(Path(order.model), session_options=order.session_options, threads=order.threads)
        load_s = time.perf_counter() - started
        [request] = sample_requests(model.inputs, order.golden, count=1)
        model(request)
        memory_bytes = max(0, anonymous_bytes() - before)
        sizes = order.batches if takes_batches(model.inputs) else (1,)
        self._requests = {size: repeated(request, size) if size > 1 else request for size in sizes}
        for each in self._requests.values():
            model(each)
        return Opened(engine=model.engine, load_s=load_s, memory_bytes=memory_bytes, batches=sizes)

    def _run(self, order: Run) -> Ran:
        if self._model is None or order.batch not in self._requests:
            raise InvalidInput("That model or batch is not open in this child process. Open it first.")
        model, request, seconds = self._model, self._requests[order.batch], list[float]()
        cpu_before, began = time.process_time(), time.perf_counter()
        ended = began
        while not seconds or (ended - began < order.seconds and len(seconds) < _MOST_RUNS):
            started = ended
            model(request)
            ended = time.perf_counter()
            seconds.append(ended - started)
        return Ran(seconds=seconds, cpu_s=time.process_time() - cpu_before)


if __name__ == "__main__":
    from runtime.children import serve

    serve(Open | Run, Runner().answer)  # type: ignore[arg-type]  # a union is no type[T] to mypy, and msgspec takes it
