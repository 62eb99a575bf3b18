"""How fast models are on this device: latency, throughput, CPU time and memory, each model in a process of its own.

All cases take turns in short bursts, so that what else happens on the device, or its growing warm, hits all of them alike:
their ratios mean more than their numbers. For the best way of running one model, see `runtime.tuning.measurement.tune`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from runtime.children import Child
from runtime.device_facts import DeviceFacts, device_facts
from runtime.errors import ChildFailed, InvalidInput
from runtime.sources import Contender, contenders
from runtime.tuning import bench_child
from runtime.tuning.bench_child import Open, Opened, Ran, Run

CASES: Final = 64
_BURST_S: Final = 0.15
_LEAST_ROUNDS: Final = 3
_OPEN_TIMEOUT_S: Final = 120.0
_RUN_TIMEOUT_S: Final = 60.0

Progress = Callable[[str, float], None]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a model, a variant of it, a number of threads (None: the engine's own) and a batch size.

    With a `failure` (for people) nothing else was measured. Latencies are seconds of a whole batch; CPU time, throughput and
    `ratio` (the median time of one sample ÷ that of the first line) are of a sample. `memory_bytes` is anonymous memory that
    loading and a first run took, and `load_s` the seconds of loading: both are the model's, whatever the batch.
    """

    model: str
    variant: str
    threads: int | None
    batch: int
    failure: str | None = None
    engine: str = ""
    runs: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    samples_per_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    load_s: float | None = None
    ratio: float | None = None


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and on what. `seconds` is how long it took."""

    device: DeviceFacts
    seconds: float
    rows: tuple[Measured, ...]


def bench(
    models: Sequence[Path],
    *,
    variant: str | None = None,
    every_variant: bool = False,
    threads: Sequence[int | None] = (None,),
    batches: Sequence[int] = (1,),
    seconds: float = 10.0,
    on_progress: Progress = lambda _text, _done: None,
) -> Benchmark:
    """Measure bundles or bare model files for about `seconds`, each at least three times for a moment.

    Of a bundle the `variant`, or every one, or the preferred. A case that fails is a line that says why. Raises
    `ModelRejected` where a model is not there or has not that variant, `InvalidInput` where there are too many cases.
    """
    began = time.perf_counter()
    found = [(path, each) for path in models for each in _chosen(path, variant, every_variant=every_variant)]
    count = len(found) * len(threads) * len(batches)
    if not 0 < count <= CASES:
        raise InvalidInput(f"{count} cases were asked for; 1 to {CASES} can be measured at once. Ask for fewer.")
    with contextlib.ExitStack() as held:
        cases = []
        for at, (path, each) in enumerate(found):
            on_progress(f"opening {path.name} {each.name}", 0.1 * at / len(found))
            for number in threads:
                cases += _open(held.enter_context(Child(bench_child.__name__)), path, each, number, tuple(batches))
        _take_turns([case for case in cases if not case.failure], seconds, on_progress)
    rows = [case.measured() for case in cases]
    first = next((_sample_s(row) for row in rows if row.p50_s is not None), None)
    return Benchmark(
        device=device_facts(),
        seconds=round(time.perf_counter() - began, 2),
        rows=tuple(msgspec.structs.replace(row, ratio=_ratio(row, first)) for row in rows),
    )


def _chosen(path: Path, variant: str | None, *, every_variant: bool) -> list[Contender]:
    there = contenders(path)
    if every_variant:
        return list(there)
    named = [each for each in there if variant is None or each.name == variant]
    if not named:
        raise InvalidInput(f"{path} has no variant {variant!r}. It has: {', '.join(each.name for each in there)}.")
    return named[:1]


class _Case:
    """One line to be, and its child."""

    def __init__(self, child: Child, row: Measured) -> None:
        self.failure = row.failure
        self._child = child
        self._row = row
        self._seconds: list[float] = []
        self._cpu_s = 0.0

    def run(self, seconds: float) -> None:
        """One burst; when it fails, the case is over."""
        try:
            order = Run(batch=self._row.batch, seconds=seconds)
            ran = self._child.ask(order, Ran, timeout_s=seconds + _RUN_TIMEOUT_S)
        except ChildFailed as error:
            self.failure = str(error)
            return
        self._seconds += ran.seconds
        self._cpu_s += ran.cpu_s

    def measured(self) -> Measured:
        """The line."""
        if self.failure or not self._seconds:
            return msgspec.structs.replace(self._row, failure=self.failure)
        p50, p95, p99 = np.quantile(self._seconds, (0.5, 0.95, 0.99)).tolist()
        samples = len(self._seconds) * self._row.batch
        return msgspec.structs.replace(
            self._row,
            runs=len(self._seconds),
            p50_s=p50,
            p95_s=p95,
            p99_s=p99,
            samples_per_s=samples / sum(self._seconds),
            cpu_s=self._cpu_s / samples,
        )


def _open(child: Child, path: Path, contender: Contender, threads: int | None, batches: tuple[int, ...]) -> list[_Case]:
    order = Open(
        model=str(contender.source.path),
        session_options=dict(contender.source.session_options),
        threads=threads,
        golden=None if contender.golden is None else str(contender.golden),
        batches=batches,
    )
    row = Measured(model=path.name, variant=contender.name, threads=threads, batch=1)
    try:
        opened = child.ask(order, Opened, timeout_s=_OPEN_TIMEOUT_S)
    except ChildFailed as error:
        return [_Case(child, msgspec.structs.replace(row, batch=size, failure=str(error))) for size in batches]
    refused = "the model takes one sample at a time"
    return [
        _Case(
            child,
            msgspec.structs.replace(
                row,
                batch=size,
                engine=opened.engine,
                memory_bytes=opened.memory_bytes,
                load_s=opened.load_s,
                failure=None if size in opened.batches else refused,
            ),
        )
        for size in batches
    ]


def _take_turns(cases: list[_Case], seconds: float, on_progress: Progress) -> None:
    """Bursts of all cases in turn until the time is up, the order reversed each time."""
    began, done, rounds = time.perf_counter(), 0.0, 0
    burst_s = min(_BURST_S, seconds / max(1, len(cases) * _LEAST_ROUNDS))
    while cases and (rounds < _LEAST_ROUNDS or done < 1.0):
        for case in cases if rounds % 2 == 0 else reversed(cases):
            case.run(burst_s)
            done = (time.perf_counter() - began) / seconds
            on_progress(f"round {rounds + 1}", min(1.0, 0.1 + 0.9 * done))
        cases = [case for case in cases if not case.failure]
        rounds += 1


def _sample_s(row: Measured) -> float | None:
    return None if row.p50_s is None else row.p50_s / row.batch


def _ratio(row: Measured, first: float | None) -> float | None:
    own = _sample_s(row)
    return None if own is None or not first else round(own / first, 3)
