"""`Stream`: a source, a model and a destination, joined by a bounded line. One thread reads, the caller's thread answers.

Each item is prepared for, answered by and read as one version of the model, whichever is active then; where none is, or the
model has no room, the item waits, and so do those behind it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from fleet_io.clock import Clock, SystemClock
from runtime.errors import ModelUnwell, NotServing, Overloaded, RuntimeFailure, StreamBroken
from runtime.hosting.host import Inference, ModelHost, Served
from runtime.inputs import from_files, from_json, from_message, opening
from runtime.processing import Prepared
from runtime.streaming.line import Line, Policy
from runtime.streaming.places import Answered, Item, Results, Source

_PATIENCE_S: Final = 0.2
_FAREWELL_S: Final = 5.0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the items. `left`: they waited when the stream was stopped, and nothing was done with them."""

    answered: int = 0
    failed: int = 0
    dropped: int = 0
    """Before they reached the model, because newer ones came or the line was full."""
    unwritten: int = 0
    """Results that the destination did not take."""
    left: int = 0


class Stream:
    """Runs one model on every item. `run` is called once."""

    def __init__(
        self,
        host: ModelHost,
        name: str,
        source: Source,
        results: Results,
        *,
        policy: Policy = "block",
        waiting: int = 8,
        clock: Clock | None = None,
    ) -> None:
        """`host` answers for the model `name`; `waiting`: most items in the line, 1 or more."""
        self._host, self._name = host, name
        self._source, self._results = source, results
        self._line = Line(waiting, policy)
        self._clock = clock or SystemClock()
        self._counts: dict[str, int] = dict.fromkeys(Counts.__struct_fields__, 0)
        self._counting = threading.Lock()
        self._fault: StreamBroken | None = None

    def run(self, stop: threading.Event) -> Counts:
        """Answer every item until the source ends or `stop` is set. Raises `StreamBroken` where one of the ends is gone."""
        reader = threading.Thread(target=self._read, args=(stop,), name="stream-source", daemon=True)
        reader.start()
        try:
            while not stop.is_set() and not self._line.is_over:
                item = self._line.take(_PATIENCE_S)
                if item is not None:
                    self._do(item, stop)
        finally:
            stop.set()
            reader.join(_FAREWELL_S)
            self._results.close()
        if self._fault is not None:
            raise self._fault
        return self.counts()

    def counts(self) -> Counts:
        """What became of the items until now."""
        with self._counting:
            return Counts(**{**self._counts, "left": self._counts["left"] + len(self._line)})

    def give(self, item: Item, stop: threading.Event) -> bool:
        """Put an item into the line: what `Source.read` is given. False: the stream is stopping."""
        taken, dropped = self._line.put(item, stop, wait=self._source.can_wait)
        if not taken and not self._source.can_wait:
            dropped = item
        if dropped is not None:
            self._count("dropped")
            self._source.settle(dropped)
        return not stop.is_set()

    def _read(self, stop: threading.Event) -> None:
        try:
            self._source.read(lambda item: self.give(item, stop), stop)
        except StreamBroken as error:
            self._fault = error
        except Exception as error:  # noqa: BLE001 - a fault of a source must end the stream with its reason, not leave it waiting
            self._fault = StreamBroken(f"The source failed: {str(error) or type(error).__name__}.")
        finally:
            self._line.end()

    def _do(self, item: Item, stop: threading.Event) -> None:
        answered = self._answer(item, stop)
        if answered is None:
            self._count("left")
            return
        written = self._results.write(answered)
        self._count("failed" if answered.error else "answered")
        if written:
            self._source.settle(item)
        elif not stop.is_set():
            self._count("unwritten")
            self._source.settle(item)

    def _answer(self, item: Item, stop: threading.Event) -> Answered | None:
        """None: the stream was stopped before any version could be asked."""
        while not stop.is_set():
            with contextlib.suppress(NotServing, Overloaded, ModelUnwell):
                return self._asked(item)
            stop.wait(_PATIENCE_S)
        return None

    def _asked(self, item: Item) -> Answered:
        """Raises `NotServing`, `Overloaded` or `ModelUnwell`, after which the item may be asked again."""
        plain = Answered(item=item.name, time=self._clock.now(), model=self._name)
        started = time.perf_counter()
        served = self._host.describe(self._name)
        try:
            prepared = _prepared(item, served)
            inference = self._host.infer(self._name, prepared.inputs, version=served.identity.version)
            if not inference.finite:
                return msgspec.structs.replace(plain, error="The model answered NaN or infinity.")
            made = _made(inference, prepared, served)
        except (NotServing, Overloaded, ModelUnwell):
            raise
        except RuntimeFailure as error:
            return msgspec.structs.replace(plain, error=str(error))
        except MemoryError as error:  # of this item: the next one may be smaller
            return msgspec.structs.replace(plain, error=f"There is not enough memory for it: {str(error) or 'none is left'}.")
        seconds = round(time.perf_counter() - started, 6)
        return msgspec.structs.replace(plain, version=inference.identity.version, seconds=seconds, **made)

    def _count(self, what: str) -> None:
        with self._counting:
            self._counts[what] += 1


def _made(inference: Inference, prepared: Prepared, served: Served) -> dict[str, Any]:
    processor = served.processor
    if processor is not None and processor.processing.results:
        return {"results": processor.results(inference.outputs, prepared.placements)}
    return {"outputs": {name: array.tolist() for name, array in inference.outputs.items()}}


def _prepared(item: Item, served: Served) -> Prepared:
    """Raises `InvalidInput`, or `DecoderMissing`."""
    content, specs, processor = item.content, served.inputs, served.processor
    if isinstance(content, Path):
        return from_files([content], specs, processor)
    if isinstance(content, np.ndarray):
        return opening(processor).prepare([content])
    if item.is_json:
        return Prepared(from_json(content, specs, processor), [])
    return from_message(content, specs, processor)
