"""The ONNX graph that a TFLite file becomes: which tensor is which value, in which order of axes.

TFLite puts channels last, ONNX' convolutions want them first. A value is kept in the order in which it was made, and turned
only where an operator needs the other one; the turned form is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converters.errors import SourceRejected

Array = NDArray[Any]
Order = Literal["last", "first"]
"""Where the channels of a value stand; `last` for everything that has not four axes."""

OPSET: Final = 17
IR_VERSION: Final = 8
_TURNS: Final[dict[Order, tuple[int, ...]]] = {"first": (0, 3, 1, 2), "last": (0, 2, 3, 1)}


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file; `data` where it is a constant."""

    at: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None
    scaled: bool
    """Whether its numbers stand for others: it is quantized."""


@dataclass(frozen=True)
class Operator:
    """One operator of the file; `options` is the schema's table for its kind, or None."""

    at: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any

    def describe(self) -> str:
        """For people."""
        return f"{self.kind} (operator {self.at})"


class Writer:
    """Collects nodes and constants. Every method that makes a value gives its name."""

    def __init__(self, tensors: Sequence[Tensor], inputs: Sequence[int], names: Sequence[str]) -> None:
        self.tensors = tensors
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._count = 0
        self._values: dict[int, dict[Order, str]] = {at: {"last": name} for at, name in zip(inputs, names, strict=True)}
        self._inputs = [
            helper.make_tensor_value_info(name, element(tensors[at]), ["batch", *tensors[at].shape[1:]])
            for at, name in zip(inputs, names, strict=True)
        ]
        self._taken = set(names)

    def constant(self, at: int) -> Array | None:
        """A tensor's numbers, where the file holds them, or an operator gave them."""
        return self.tensors[at].data if at >= 0 else None

    def keep(self, values: Array | np.floating[Any]) -> str:
        """A new constant."""
        name = self._new("c")
        self._constants[name] = np.ascontiguousarray(values)
        return name

    def orders(self, at: int) -> set[Order]:
        """In which orders a value is there already."""
        return set(self._values.get(at, ()))

    def value(self, at: int, order: Order = "last") -> str:
        """The value of a tensor, turned where it must be. Constants are `last` unless they have four axes."""
        known = self._values.setdefault(at, {})
        if order not in known:
            data = self.constant(at)
            if data is not None:
                known[order] = self.keep(np.transpose(data, _TURNS["first"]) if order == "first" else data)
            elif not known:
                raise SourceRejected(f"The tensor {self.tensors[at].name!r} is used before it is made: the file is damaged.")
            else:
                other = next(iter(known.values()))
                known[order] = self.add("Transpose", [other], perm=list(_TURNS[order]))
        return known[order]

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:  # noqa: ANN401  # as many types as ONNX has
        """A node with one output."""
        name = self._new("v")
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def add_several(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:  # noqa: ANN401
        """A node with several outputs."""
        names = [self._new("v") for _ in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def give(self, at: int, value: str, order: Order = "last") -> None:
        """Say that a tensor is this value."""
        self._values[at] = {order: value}

    def finish(self, outputs: Sequence[int]) -> onnx.ModelProto:
        """The model, outputs named as in the file."""
        made = []
        for at in outputs:
            tensor = self.tensors[at]
            name = tensor.name if tensor.name not in self._taken else self._new("output")
            self._taken.add(name)
            self._nodes.append(helper.make_node("Identity", [self.value(at)], [name]))
            made.append(helper.make_tensor_value_info(name, element(tensor), ["batch", *tensor.shape[1:]]))
        weights = [numpy_helper.from_array(values, name) for name, values in self._constants.items()]
        graph = helper.make_graph(self._nodes, "tflite", self._inputs, made, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _new(self, prefix: str) -> str:
        self._count += 1
        return self._new(prefix) if f"{prefix}{self._count}" in self._taken else f"{prefix}{self._count}"


def element(tensor: Tensor) -> int:
    """ONNX' number for a tensor's type. Raises `SourceRejected`."""
    try:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)))
    except (TypeError, KeyError) as error:
        raise SourceRejected(f"The tensor {tensor.name!r} is {tensor.dtype}, which is not read.") from error
