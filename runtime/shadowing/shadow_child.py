"""The process in which a candidate runs: `python -m runtime.shadowing.shadow_child`, asked by `runtime.shadowing.shadow`.

It has the lowest priority and a memory limit of its own, and may crash, hang or eat memory: the live version answers from
another process. Inputs and the live answers come through a file that lies in memory; its name goes away once both have it.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Final

import msgspec

from fleet_protocol.processing import Processing
from fleet_protocol.tensors import TensorSpec
from runtime import tensor_file
from runtime.errors import InferenceFailed, InvalidInput
from runtime.model import Model, load
from runtime.shadowing.shadow_record import Comparison, compare
from runtime.tensor_file import Tensor

LEAST_PRIORITY: Final = 19


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Load the candidate, within `memory_bytes` more than this process takes before."""

    model: str
    session_options: dict[str, str]
    threads: int
    memory_bytes: int
    exchange: str
    processing: Processing | None = None


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Open`. `cpu_s`: all CPU time of the process until now."""

    inputs: tuple[TensorSpec, ...]
    cpu_s: float


class Try(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Ask the candidate, and hold its answer against the live one."""

    inputs: tuple[Tensor, ...]
    live: tuple[Tensor, ...]
    size: int


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Try`. `cpu_s`: all CPU time of the process until now."""

    comparison: Comparison
    cpu_s: float


class Understudy:
    """The candidate."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._exchange = -1

    def answer(self, order: Open | Try) -> Opened | Tried:
        """Do what is ordered. Raises `ModelRejected`."""
        if isinstance(order, Open):
            return self._open(order)
        return Tried(comparison=self._try(order), cpu_s=time.process_time())

    def _open(self, order: Open) -> Opened:
        self._exchange = os.open(order.exchange, os.O_RDONLY)
        _limit_memory(order.memory_bytes)
        self._model = load(
            Path(order.model),
            session_options=order.session_options,
            threads=order.threads,
            processing=order.processing,
        )
        return Opened(inputs=self._model.inputs, cpu_s=time.process_time())

    def _try(self, order: Try) -> Comparison:
        assert self._model is not None
        inputs, live = (tensor_file.read(self._exchange, each) for each in (order.inputs, order.live))
        started = time.perf_counter()
        try:
            outputs = self._model(inputs)
        except (InvalidInput, InferenceFailed) as error:
            return Comparison(outcome="failed", why=str(error))
        return compare(live, outputs, seconds=time.perf_counter() - started)


def _limit_memory(more_bytes: int) -> None:
    """Address space, since that is what every system can bound; one that does not say what is taken sets no limit."""
    try:
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = taken + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == "__main__":
    from runtime.children import serve

    os.nice(LEAST_PRIORITY)
    serve(Open | Try, Understudy().answer)  # type: ignore[arg-type]  # a union is no type[T] to mypy, and msgspec takes it
