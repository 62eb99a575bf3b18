"""What applications ask of a model beside the call itself: one array in and out, answers in an event loop, streams in batches.

    scores = model.predict(pixels)                       # an array, or lists; the only input, the only output
    answers = await model.infer_async({"pixels": pixels})
    for scores in model.predict_batches(samples): ...

Everything ends in `Model.__call__`, which checks, and nothing here weakens its checks; lists become arrays, and that is all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import numpy as np

from fleet_protocol.tensors import DYNAMIC, TensorSpec
from runtime.engine import Array
from runtime.errors import InvalidInput
from runtime.exact_arrays import exact_array

Values = Any
"""An array, or numbers or texts in lists as deep as the input has dimensions."""

BATCH: Final = 32
"""Samples that are asked at once where the model takes any number."""
INLINE_S: Final = 0.0005
"""A run of this length is done on the event loop's own thread: to hand it to another one costs half as much."""
_SMOOTHING: Final = 0.2


class Session:
    """The part of `Model` that is written in terms of its call."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self) -> None:
        self._pace = _Pace()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Model`."""
        raise NotImplementedError

    def predict(self, inputs: Values) -> Array | dict[str, Array]:
        """The only output, or all by name where there are several.

        `inputs` is an array or nested lists for the only input, or a mapping of them by input name; lists become arrays of the
        input's type. Where pictures are taken, an encoded one as `bytes`, or a list of them, does too. Raises
        `InvalidInput` or `InferenceFailed`.
        """
        return self._sole(self(_pictures_in_batches(self._named(inputs))))

    async def infer_async(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """As the call, without blocking the event loop.

        A model that is known to answer requests of this size within `INLINE_S` runs right here; another one on a thread of
        the loop's executor. Raises as the call does.
        """
        size = sum(getattr(array, "nbytes", 0) for array in inputs.values())
        if self._pace.is_quick(size):
            return self._timed(inputs, size)
        import asyncio  # 30 ms that most programs never need

        return await asyncio.get_running_loop().run_in_executor(None, self._timed, inputs, size)

    async def predict_async(self, inputs: Values) -> Array | dict[str, Array]:
        """As `predict`, without blocking the event loop."""
        return self._sole(await self.infer_async(_pictures_in_batches(self._named(inputs))))

    def predict_batches(self, samples: Iterable[Values], *, batch: int | None = None) -> Iterator[Array | dict[str, Array]]:
        """For each sample what `predict` would give, in order, without the batch axis; asked in batches.

        `samples` may be endless: one batch is held at a time. Each is one sample for the only input, or a mapping by input
        name, without the batch axis. `batch` is the most that is asked at once, by default 32; a model of a fixed batch
        is always asked that many, the last time filled up. Raises `InvalidInput` or `InferenceFailed` when that sample's turn
        comes.
        """
        size = self._batch_size(batch)
        rest = iter(samples)
        while taken := [self._named(sample) for sample in islice(rest, size)]:
            filled = taken if self._takes_any() else [*taken, *[taken[-1]] * (size - len(taken))]
            answers = self({spec.name: _stacked(spec.name, filled) for spec in self.inputs})
            for at in range(len(taken)):
                yield self._sole({name: array[at] for name, array in answers.items()})

    def _named(self, inputs: Values) -> dict[str, Array]:
        if not isinstance(inputs, Mapping):
            if len(self.inputs) != 1:
                wanted = ", ".join(spec.describe() for spec in self.inputs)
                raise InvalidInput(f"The model has {len(self.inputs)} inputs: {wanted}. Give a mapping of arrays by name.")
            inputs = {self.inputs[0].name: inputs}
        specs = {spec.name: spec for spec in self.inputs}
        return {name: _as_array(value, specs.get(name)) for name, value in inputs.items()}

    def _sole(self, outputs: dict[str, Array]) -> Array | dict[str, Array]:
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _timed(self, inputs: Mapping[str, Array], size: int) -> dict[str, Array]:
        started = time.perf_counter()
        outputs = self(inputs)
        self._pace.took(time.perf_counter() - started, size)
        return outputs

    def _batch_size(self, asked: int | None) -> int:
        if asked is not None and asked < 1:
            raise InvalidInput(f"batch = {asked} asks nothing. Give 1 or more.")
        sizes = {spec.shape[0] if spec.shape else None for spec in self.inputs}
        if len(sizes) != 1 or None in sizes:
            wanted = ", ".join(spec.describe() for spec in self.inputs)
            raise InvalidInput(f"The inputs have no common batch axis: {wanted}. Call the model itself.")
        size = sizes.pop()
        return (asked or BATCH) if size == DYNAMIC or size is None else size

    def _takes_any(self) -> bool:
        return self.inputs[0].shape[0] == DYNAMIC


class _Pace:
    """How long runs take. Threads may write at the same time: then one of them counts, and that is enough."""

    def __init__(self) -> None:
        self._typical_s = float("inf")
        self._largest = 0
        """Bytes of the largest request among those that were timed."""

    def is_quick(self, size: int) -> bool:
        """Whether a request of so many bytes will most likely be answered within `INLINE_S`."""
        return self._typical_s < INLINE_S and size <= self._largest

    def took(self, seconds: float, size: int) -> None:
        """A request of `size` bytes took so long. A larger one than ever before begins the estimate anew."""
        if size > self._largest or self._typical_s == float("inf"):
            self._largest, self._typical_s = max(size, self._largest), seconds
        else:
            self._typical_s += _SMOOTHING * (seconds - self._typical_s)


def _as_array(value: Values, spec: TensorSpec | None) -> Array:
    """Lists as an array of the input's type; an array, or pictures, as they are, for the model to judge."""
    if isinstance(value, np.ndarray) or spec is None:
        return np.asarray(value)
    if isinstance(value, bytes) or (isinstance(value, list) and value and all(isinstance(each, bytes) for each in value)):
        return np.asarray(value, object)
    return exact_array(value, spec)


def _pictures_in_batches(inputs: dict[str, Array]) -> dict[str, Array]:
    """One picture alone is a batch of one."""
    return {name: array.reshape(1) if array.dtype == object and not array.ndim else array for name, array in inputs.items()}


def _stacked(name: str, samples: list[dict[str, Array]]) -> Array:
    try:
        return np.stack([sample[name] for sample in samples])
    except KeyError as error:
        raise InvalidInput(f"A sample lacks input {name}.") from error
    except ValueError as error:
        raise InvalidInput(f"The samples of one batch differ in input {name}: {error}. Give a smaller batch.") from error
