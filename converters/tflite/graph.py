"""A TFLite graph under construction: tensors and operations as plain values, before they become bytes.

Names and numbers are those of the TFLite schema; nothing here needs LiteRT. Passes over a graph stand in `passes.py`, its
bytes in `serialise.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.tflite.shapes import Shape

Array = NDArray[Any]
Options = dict[str, Any]
"""Fields of an operation's options table, by the schema's names."""


class Padding(enum.IntEnum):
    """How a window treats the border."""

    SAME = 0
    VALID = 1


class Activation(enum.IntEnum):
    """What an operation applies to its own result."""

    NONE = 0
    RELU = 1
    RELU_N1_TO_1 = 2
    RELU6 = 3


@dataclass(eq=False)
class Tensor:
    """One stored tensor; `data` where it is constant."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    data: Array | None = None


@dataclass(eq=False)
class Operation:
    """One operation of the kind `CONV_2D` and the like; `options` by the schema's names."""

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Options = field(default_factory=dict)


@dataclass(eq=False)
class Graph:
    """Operations in order of computation; inputs and outputs with the names that the application uses."""

    inputs: list[tuple[str, Tensor]] = field(default_factory=list)
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor once: inputs first, then in order of appearance."""
        seen: set[int] = set()
        every = [tensor for _, tensor in self.inputs]
        for operation in self.operations:
            every += [tensor for tensor in (*operation.inputs, *operation.outputs) if tensor is not None]
        for tensor in (*every, *(tensor for _, tensor in self.outputs)):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor

    def consumers(self) -> dict[int, list[Operation]]:
        """Who reads a tensor, by the tensor's id; an operation stands once for each input."""
        found: dict[int, list[Operation]] = {}
        for operation in self.operations:
            for tensor in operation.inputs:
                if tensor is not None:
                    found.setdefault(id(tensor), []).append(operation)
        return found

    def producers(self) -> dict[int, Operation]:
        """Who makes a tensor, by the tensor's id."""
        return {id(tensor): operation for operation in self.operations for tensor in operation.outputs}
