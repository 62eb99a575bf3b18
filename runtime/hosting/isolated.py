"""Models in processes of their own: a crash or a hang of the engine is an error of one request, and the next one works.

    model = load_isolated(sources.find(Path("digits.onnx")))
    model({"pixels": batch})

An isolated model costs a process, and some 200 µs and two copies of the tensors a request; requests take turns. When its
process dies, the request that it was at gets `InferenceFailed`, and the next one starts it again. A model that keeps dying
rests before it is started, twice as long each time; meanwhile `ModelUnwell` says so at once.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Final

from runtime import tensor_file
from runtime.children import Child
from runtime.engine import Array
from runtime.errors import ChildFailed, InferenceFailed, InvalidInput, MalformedRequest, ModelRejected, ModelUnwell
from runtime.hosting import isolated_child
from runtime.hosting.admission import HANG_S
from runtime.hosting.isolated_child import Open, Opened, Ran, Run, Weigh, Weighed
from runtime.hosting.order import ToOpen
from runtime.model import Model
from runtime.processing import Processor
from runtime.sources import Source

OPEN_TIMEOUT_S: Final = 120.0
FORGOTTEN_S: Final = 60.0
"""So long a crash counts."""
_FIRST_REST_S: Final = 0.25
_LONGEST_REST_S: Final = 30.0


class IsolatedEngine:
    """One model in a child process; see `Engine`. A run that takes longer than `hang_s` seconds is ended with its process."""

    def __init__(self, source: Source, *, threads: int | None = None, hang_s: float = HANG_S) -> None:
        """Start the process and load the model in it. Raises `ModelRejected`."""
        self._source = source
        self._threads = threads
        self._hang_s = hang_s
        self._turn = threading.Lock()
        self._crashes: deque[float] = deque(maxlen=16)
        self._child: Child | None = None
        self._exchange = -1
        try:
            self._child, opened = self._started()
        except ChildFailed as error:
            raise ModelRejected(f"{source.path} cannot be loaded in a process of its own: {error}") from error
        self.inputs: Final = opened.inputs
        self.outputs: Final = opened.outputs
        self.description: Final = f"{opened.description}, isolated"
        self.choice: Final = opened.choice

    @property
    def pid(self) -> int | None:
        """Of the child process; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`. Raises `ModelUnwell` too."""
        with self._turn:
            child = self._standing()
            try:
                order = Run(inputs=tensor_file.write(self._exchange, inputs))
                ran = child.ask(order, Ran, timeout_s=self._hang_s)
                outputs = tensor_file.read(self._exchange, ran.outputs)
            except (ChildFailed, MalformedRequest, OSError) as error:
                self._fell()
                raise InferenceFailed(
                    f"{self._source.identity.model} lost its process: {error} It is started again."
                ) from error
            except BaseException:
                self._fell()  # it may be anywhere in this request, and would take the next one's answer for this one's
                raise
        if ran.invalid_input is not None:
            raise InvalidInput(ran.invalid_input)
        if ran.failure is not None:
            raise InferenceFailed(ran.failure)
        return self._ordered(outputs)

    def weigh(self) -> int:
        """Anonymous memory of the process in bytes, after one run. Raises `ModelRejected`."""
        with self._turn:
            try:
                return self._standing().ask(Weigh(), Weighed, timeout_s=OPEN_TIMEOUT_S).memory_bytes
            except ChildFailed as error:
                self._fell()
                raise ModelRejected(f"{self._source.path} cannot answer in a process of its own: {error}") from error

    def close(self) -> None:
        """See `Engine`. Waits for the run that is under way."""
        with self._turn:
            self._let_go()

    def _started(self) -> tuple[Child, Opened]:
        """The process and the file to it, whose name goes away once both have it: a kill leaves nothing in memory."""
        child = Child(isolated_child.__name__)
        model = ToOpen.of(self._source, Path(self._source.path).absolute(), threads=self._threads)
        try:
            with tensor_file.create() as exchange:
                opened = child.ask(Open(model=model, exchange=exchange.name), Opened, timeout_s=OPEN_TIMEOUT_S)
                self._exchange = os.dup(exchange.fileno())
        except BaseException:
            child.close()
            raise
        return child, opened

    def _standing(self) -> Child:
        """The process, started again where that is needed and may be. Raises `ModelUnwell` or `InferenceFailed`."""
        if self._child is not None:
            return self._child
        now = time.perf_counter()
        while self._crashes and now - self._crashes[0] > FORGOTTEN_S:
            self._crashes.popleft()
        count = len(self._crashes)
        rest_s = min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** (count - 2)) if count > 1 else 0.0
        if count and now - self._crashes[-1] < rest_s:
            raise ModelUnwell(
                f"{self._source.identity.model} lost its process {count} times in the last minute, and rests for {rest_s:g} s. "
                "Ask later, or activate another version."
            )
        try:
            self._source.check_unchanged()
            self._child, _ = self._started()
        except (ChildFailed, ModelRejected, OSError) as error:
            self._crashes.append(time.perf_counter())
            raise ModelUnwell(f"{self._source.identity.model} lost its process and cannot be started again: {error}") from error
        return self._child

    def _let_go(self) -> None:
        if self._child is not None:
            self._child.close()
            os.close(self._exchange)
            self._child = None

    def _fell(self) -> None:
        self._let_go()
        self._crashes.append(time.perf_counter())

    def _ordered(self, outputs: dict[str, Array]) -> list[Array]:
        if set(outputs) != {spec.name for spec in self.outputs}:
            raise InferenceFailed(f"{self._source.identity.model} answered {', '.join(outputs) or 'nothing'} from its process.")
        return [outputs[spec.name] for spec in self.outputs]


def load_isolated(source: Source, *, threads: int | None = None, hang_s: float = HANG_S) -> Model:
    """Open a model in a process of its own. Raises `ModelRejected`."""
    return _model(IsolatedEngine(source, threads=threads, hang_s=hang_s), source)


class InChildren:
    """Loads each model of a pool into a process of its own; see `runtime.hosting.pool.Loader`."""

    def __init__(self, *, threads: int | None = None, hang_s: float = HANG_S) -> None:
        self._threads = threads
        self._hang_s = hang_s

    def weigh(self, source: Source) -> int:
        """See `Loader`: what the whole process takes."""
        engine = IsolatedEngine(source, threads=self._threads, hang_s=self._hang_s)
        try:
            return engine.weigh()
        finally:
            engine.close()

    def open(self, source: Source) -> Model:
        """See `Loader`."""
        return load_isolated(source, threads=self._threads, hang_s=self._hang_s)


def _model(engine: IsolatedEngine, source: Source) -> Model:
    processing = source.processing
    try:
        processor = Processor(processing, engine.inputs, engine.outputs, source.labels) if processing else None
        return Model(engine, processor, source.labels)
    except BaseException:
        engine.close()
        raise
