"""Metrics that a caller brings: a function that asks a model and says how good it is, more being better.

What is asked answers as the variant does that is judged: through `runtime`, on one thread, in batches that the model takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from converters.errors import RecipeFailed

Array = NDArray[Any]
Ask = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Answering:
    """A model as a metric sees it: `model({"pixels": x})["scores"]`, or with one input `model(x)`, the first output.

    The first axis counts samples; there may be any number of them.
    """

    def __init__(self, ask: Ask, inputs: Sequence[str], outputs: Sequence[str], batch: int) -> None:
        self._ask = ask
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._batch = batch

    @overload
    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...
    @overload
    def __call__(self, inputs: Array) -> Array: ...
    def __call__(self, inputs: Mapping[str, Array] | Array) -> dict[str, Array] | Array:
        """Raises what the engine raises where the arrays do not fit."""
        if isinstance(inputs, Mapping):
            return self._answered(inputs)
        if len(self.inputs) != 1:
            raise TypeError(f"The model takes {', '.join(self.inputs)}: give a mapping of arrays by these names.")
        return self._answered({self.inputs[0]: np.asarray(inputs)})[self.outputs[0]]

    def _answered(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        count = len(next(iter(inputs.values())))
        pieces = [
            self._ask({name: values[start : start + self._batch] for name, values in inputs.items()})
            for start in range(0, max(count, 1), self._batch)
        ]
        return {name: np.concatenate([np.asarray(piece[name]) for piece in pieces]) for name in self.outputs}


Evaluate = Callable[[Answering], float]


def score(evaluate: Evaluate, model: Answering) -> float:
    """What the metric says of a model. Raises `RecipeFailed` where it fails, or gives no number."""
    try:
        value = float(evaluate(model))
    except Exception as error:  # the caller's own code
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeFailed(f"cannot be judged: the metric raised {type(error).__name__}: {said.rstrip('.')}") from error
    if not math.isfinite(value):
        raise RecipeFailed(f"cannot be judged: the metric gave {value}")
    return value


def name_of(evaluate: Evaluate) -> str:
    """What people call it."""
    name = getattr(evaluate, "__name__", type(evaluate).__name__)
    return "the given metric" if name == "<lambda>" else str(name)
