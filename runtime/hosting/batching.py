"""Micro-batching without waiting: requests that wait while the engine is busy are run together when it is free again.

    model = batched(runtime.load(Path("digits.onnx")), most=16)

A request that finds the engine idle runs at once and alone, so nobody ever waits for company. Only requests whose shapes are
equal but for the number of samples are merged, up to `most` samples, and each gets its own rows; sequences also go with others
of their bucket of lengths, where `runtime.hosting.padding` can. When a merged run fails, each request is run alone, so that one
bad request never fails another's. Merging pays where `Tuning.batch_gains` says so
(`most_worth`); elsewhere it only costs: it is for models whose larger batches are cheaper by the sample.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Final

import numpy as np

from fleet_protocol.tensors import TensorSpec
from runtime.engine import Array, Engine
from runtime.errors import RuntimeFailure
from runtime.example_inputs import takes_batches
from runtime.hosting.padding import Padding, bucket, padding_for
from runtime.model import Model

LEAST_GAIN: Final = 1.2

_Key = tuple[tuple[str, tuple[int, ...]], ...]


def most_worth(gains: Mapping[int, float], *, side_by_side: int = 1) -> int:
    """The largest batch whose throughput is more than `LEAST_GAIN` times that of single requests; 1 where none is.

    `side_by_side`: so many single requests would run at the same time instead, each on cores of its own.
    """
    return max((size for size, gain in gains.items() if gain > LEAST_GAIN * side_by_side), default=1)


def batched(model: Model, *, most: int, pads: bool = False) -> Model:
    """The same model, which merges requests that wait, up to `most` samples; as it is where it takes no batches.

    `pads`: padding sequences changes no answer of it (`runtime.hosting.padding`). It takes `model` over: close the one that is
    given back. Raises `ValueError` when `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most = {most} samples cannot be run together. Give 1 or more.")
    if most == 1 or not takes_batches(model.inputs) or not takes_batches(model.outputs):
        return model
    padding = padding_for(model.inputs, model.outputs) if pads else None
    return model.through(lambda engine: BatchingEngine(engine, most=most, padding=padding))


class _Request:
    """One request that waits. `turn` is set when it leads a group, or when its answer is there."""

    __slots__ = ("error", "group", "inputs", "key", "length", "outputs", "samples", "turn")

    def __init__(self, inputs: dict[str, Array], padding: Padding | None) -> None:
        self.inputs = inputs
        sizes = {array.shape[0] for array in inputs.values()}
        self.samples = sizes.pop()
        self.length = None if padding is None else padding.length(inputs)
        """Of its sequences, where those can be padded."""
        shapes = [(name, array.shape[1:] if self.length is None else (bucket(self.length),)) for name, array in inputs.items()]
        self.key: _Key | None = None if sizes else tuple(shapes)
        """What must be equal to be merged; None: its inputs do not even go together themselves."""
        self.turn = threading.Event()
        self.group: list[_Request] = []
        self.outputs: list[Array] = []
        self.error: BaseException | None = None

    def answer(self) -> list[Array]:
        """What came of it."""
        if self.error is not None:
            raise self.error
        return self.outputs


class BatchingEngine:
    """An engine that runs one request at a time, or several that are merged; see `Engine`."""

    def __init__(self, engine: Engine, *, most: int, padding: Padding | None = None) -> None:
        self._engine = engine
        self._most = most
        self._padding = padding
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[_Request] = deque()
        self.inputs: Final[tuple[TensorSpec, ...]] = engine.inputs
        self.outputs: Final[tuple[TensorSpec, ...]] = engine.outputs
        self.description: Final = engine.description
        self.choice: Final = engine.choice

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        """See `Engine`."""
        with self._lock:
            request = _Request(inputs, self._padding) if self._busy else None
            if request is not None:
                self._waiting.append(request)
            self._busy = True
        if request is None:
            try:
                return self._engine.run(inputs)
            finally:
                self._hand_on()
        request.turn.wait()
        if request.group:
            try:
                self._run_together(request.group)
            finally:
                self._hand_on()
        return request.answer()

    def close(self) -> None:
        """See `Engine`."""
        self._engine.close()

    def _hand_on(self) -> None:
        """The engine is free: whoever came first leads those who can be merged with it."""
        with self._lock:
            if not self._waiting:
                self._busy = False
                return
            leader = self._waiting.popleft()
            leader.group = [leader, *self._company(leader)]
        leader.turn.set()

    def _company(self, leader: _Request) -> list[_Request]:
        """Out of the line, those who are merged with the leader."""
        company: list[_Request] = []
        left: deque[_Request] = deque()
        samples = leader.samples
        for each in self._waiting:
            if leader.key is not None and each.key == leader.key and samples + each.samples <= self._most:
                company.append(each)
                samples += each.samples
            else:
                left.append(each)
        self._waiting = left
        return company

    def _run_together(self, group: list[_Request]) -> None:
        """Answer all of them. The first is the one whose thread this is."""
        try:
            if len(group) == 1 or not self._merged(group):
                self._one_by_one(group)
        except BaseException as error:
            for each in group:
                each.error = each.error or error
            raise
        finally:
            for each in group[1:]:
                each.turn.set()

    def _merged(self, group: list[_Request]) -> bool:
        """Whether one run answered them all."""
        parts = self._of_one_shape(group)
        inputs = {name: np.concatenate([each[name] for each in parts]) for name in group[0].inputs}
        total = sum(each.samples for each in group)
        try:
            outputs = self._engine.run(inputs)
        except RuntimeFailure:
            return False
        if any(array.shape[:1] != (total,) for array in outputs):
            return False
        at = 0
        for each in group:
            rows = [array[at : at + each.samples] for array in outputs]
            each.outputs = rows if self._padding is None or each.length is None else self._padding.cropped(rows, each.length)
            at += each.samples
        return True

    def _of_one_shape(self, group: list[_Request]) -> list[dict[str, Array]]:
        """The inputs of each, padded to the longest sequence where lengths differ."""
        lengths = {each.length for each in group if each.length is not None}
        if self._padding is None or len(lengths) < 2:
            return [each.inputs for each in group]
        longest, padding = max(lengths), self._padding
        return [padding.padded(each.inputs, longest) for each in group]

    def _one_by_one(self, group: list[_Request]) -> None:
        for each in group:
            try:
                each.outputs = self._engine.run(each.inputs)
            except RuntimeFailure as error:
                each.error = error
