"""Sequences of different lengths as one batch, for models that have a mask: padded behind, and their answers cut off again.

    padding = padding_for(model.inputs, model.outputs)     # None: no mask, so no padding
    padding is not None and padding.holds(model, request)  # seen, not believed: it changes no answer of this request

An input that is named as a mask (`MASKS`) says that zeros in it are not looked at; whether the model keeps to that is found by
running it. Lengths go together in buckets, the powers of two, so that less than half of what is run is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fleet_protocol.tensors import DYNAMIC, TensorSpec
from runtime.engine import Array
from runtime.errors import RuntimeFailure

MASKS: Final = frozenset({"attention_mask", "input_mask"})
"""What Hugging Face's exporters call it, and BERT's first authors."""

LIKENESS: Final = 1e-4
"""How much of an output's largest value an answer may change by: float32 rounds differently in other shapes."""


def bucket(length: int) -> int:
    """The lengths that go together with this one are those up to this power of two."""
    return 1 << max(0, length - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Padding:
    """Which outputs have a row for each element of the sequence, by place; every input has."""

    along: tuple[bool, ...]

    def length(self, inputs: Mapping[str, Array]) -> int | None:
        """Of the sequences in a request; None where its inputs do not agree."""
        lengths = {array.shape[1] for array in inputs.values()}
        return lengths.pop() if len(lengths) == 1 else None

    def padded(self, inputs: Mapping[str, Array], length: int) -> dict[str, Array]:
        """The same with zeros behind every sequence, up to `length`."""
        return {name: np.pad(array, ((0, 0), (0, length - array.shape[1]))) for name, array in inputs.items()}

    def cropped(self, outputs: Sequence[Array], length: int) -> list[Array]:
        """What was answered to the first `length` elements of each sequence."""
        return [
            np.ascontiguousarray(array[:, :length]) if along else array
            for array, along in zip(outputs, self.along, strict=True)
        ]

    def holds(self, run: Callable[[dict[str, Array]], dict[str, Array]], request: dict[str, Array]) -> bool:
        """Whether padding this request to the next two buckets changes none of its answers."""
        length = self.length(request)
        if length is None:
            return False
        wanted = list(run(request).values())
        return all(self._alike(run, request, wanted, length, bucket(length + 1) * times) for times in (1, 2))

    def _alike(
        self,
        run: Callable[[dict[str, Array]], dict[str, Array]],
        request: dict[str, Array],
        wanted: list[Array],
        length: int,
        longer: int,
    ) -> bool:
        try:
            answers = self.cropped(list(run(self.padded(request, longer)).values()), length)
        except RuntimeFailure:
            return False
        return all(_close(one, other) for one, other in zip(wanted, answers, strict=True))


def padding_for(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Padding | None:
    """How sequences of such a model are padded; None where it has no mask, or inputs that are no sequences of numbers."""
    if not MASKS.intersection(spec.name for spec in inputs):
        return None
    if any(spec.shape != (DYNAMIC, DYNAMIC) or spec.datatype == "BYTES" for spec in inputs):
        return None
    return Padding(tuple(len(spec.shape) > 1 and spec.shape[1] == DYNAMIC for spec in outputs))


def _close(wanted: Array, answer: Array) -> bool:
    if wanted.shape != answer.shape:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, answer))
    return bool(np.allclose(answer, wanted, rtol=0.0, atol=LIKENESS * float(np.max(np.abs(wanted), initial=0.0))))
