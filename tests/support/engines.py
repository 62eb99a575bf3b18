"""An engine whose answers and failures a test decides. It has to be named; nothing falls back to it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from fleet_protocol.tensors import TensorSpec
from runtime import Model
from runtime.engine import Array

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 3))


class ScriptedEngine:
    """Calls `answer` for each run; says when it was closed."""

    description = "scripted"
    choice = "a test asked for it"

    def __init__(
        self,
        answer: Callable[[Array], Array],
        *,
        inputs: tuple[TensorSpec, ...] = (X,),
        outputs: tuple[TensorSpec, ...] = (SCORES,),
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.closed = threading.Event()
        self._answer = answer

    def run(self, inputs: dict[str, Array]) -> list[Array]:
        assert not self.closed.is_set(), "asked after it was closed"
        return [self._answer(next(iter(inputs.values())))]

    def close(self) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()


def fixed(*row: float) -> ScriptedEngine:
    """Answers the same row of scores for every sample."""
    return ScriptedEngine(lambda x: np.tile(np.array(row, np.float32), (len(x), 1)))


def model_of(engine: ScriptedEngine) -> Model:
    return Model(engine)
