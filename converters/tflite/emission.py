"""What operators work with: values in their layouts, constants, and new operations. The graph grows here and nowhere else.

A `Value` is a logical ONNX tensor and how it is stored. `Emission.stored` gives it in another layout: for constants that is
done now, for others a TRANSPOSE is added, once. Operators ask for the layout that they need, and hand on the one that they
got, so that a convolutional net is transposed at its edges only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from converters.errors import UnsupportedOperator
from converters.tflite.graph import Array, Graph, Operation, Tensor
from converters.tflite.shapes import Layout, Shape, covers, identity
from converters.tflite.source import Node, Prepared

FLOAT: Final = np.dtype(np.float32)

NARROW: Final = (np.int8, np.uint8, np.int16)
"""Integers that TFLite takes for quantized numbers where it computes, and ends the process when they have no scale."""

_MOVES: Final = frozenset(
    {"CAST", "CONCATENATION", "GATHER", "RESHAPE", "SLICE", "SPLIT", "SPLIT_V", "STRIDED_SLICE", "TRANSPOSE"}
)
"""What TFLite does with narrow integers as they are."""


@dataclass(frozen=True)
class Value:
    """A logical tensor of `shape`, stored in `tensor` by `layout`.

    `shuffle` stands for a flattened tensor whose last axis is stored in another order: stored[:, i] is logical[:, shuffle[i]].
    A matrix takes its rows in that order instead, which costs nothing.
    """

    shape: Shape
    tensor: Tensor
    layout: Layout
    shuffle: Array | None = None

    @property
    def rank(self) -> int:
        """Number of logical axes."""
        return len(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether its elements are known."""
        return self.tensor.data is not None

    def position(self, axis: int) -> int:
        """Where a logical axis (negative: from the end) is stored."""
        return self.layout.index(axis % self.rank)


class Emission:
    """One graph that is being made from one prepared model."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.graph = Graph()
        self._values: dict[str, Value] = {}
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], Tensor] = {}
        self._moved: dict[tuple[int, str, tuple[int, ...]], Tensor] = {}

    def take_inputs(self) -> None:
        """The model's inputs, stored as the application sends them."""
        for name in self.prepared.inputs:
            tensor = Tensor(name, self.prepared.shapes[name], self.prepared.dtypes[name])
            self.graph.inputs.append((name, tensor))
            self.set(name, Value(tensor.shape, tensor, identity(len(tensor.shape))))

    def set(self, name: str, value: Value) -> None:
        """The value of an ONNX tensor."""
        self._values[name] = value

    def get(self, name: str) -> Value:
        """The value of an ONNX tensor that was computed before or is constant."""
        if name not in self._values:
            found = self.constant_value(self.prepared.constants[name], name)
            shape = self.prepared.shapes[name]
            if not shape.is_fixed:
                found = Value(shape, self.for_each_sample(found.tensor, shape), found.layout)
            self._values[name] = found
        return self._values[name]

    def constant_value(self, data: Array, name: str) -> Value:
        """A constant in ONNX's own layout."""
        tensor = Tensor(name, Shape.fixed(data.shape), data.dtype, data)
        return Value(tensor.shape, tensor, identity(data.ndim))

    def constant(self, data: Array, name: str = "constant") -> Tensor:
        """A stored constant; equal ones are the same tensor."""
        key = (data.tobytes(), data.dtype.str, data.shape)
        if key not in self._constants:
            self._constants[key] = Tensor(name, Shape.fixed(data.shape), data.dtype, np.ascontiguousarray(data))
        return self._constants[key]

    def integers(self, values: Sequence[int]) -> Tensor:
        """int32[len(values)]: how TFLite is told axes, sizes and permutations."""
        return self.constant(np.array(values, np.int32), "integers")

    def scalar(self, value: float) -> Tensor:
        """One float32 number."""
        return self.constant(np.array(value, np.float32), "number")

    def add(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        shape: Shape,
        *,
        dtype: np.dtype[Any] | None = None,
        name: str = "",
        **options: Any,  # noqa: ANN401  # the schema's fields
    ) -> Tensor:
        """A new operation with one result. Without `dtype`, the result is of its first input's type."""
        if dtype is None:
            assert inputs[0] is not None
            dtype = inputs[0].dtype
        _refuse_narrow(kind, inputs)
        if 0 in shape.sizes:
            raise UnsupportedForm("its result has no elements, which TFLite does not store")
        made = Tensor(name or kind.lower(), shape, dtype)
        self.graph.operations.append(Operation(kind, list(inputs), [made], options))
        return made

    def add_many(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        shapes: Sequence[Shape],
        *,
        dtype: np.dtype[Any],
        **options: Any,  # noqa: ANN401  # the schema's fields
    ) -> list[Tensor]:
        """A new operation with several results."""
        made = [Tensor(kind.lower(), shape, dtype) for shape in shapes]
        self.graph.operations.append(Operation(kind, list(inputs), made, options))
        return list(made)

    def add_pair(self, kind: str, inputs: Sequence[Tensor], shape: Shape, second: np.dtype[Any]) -> tuple[Tensor, Tensor]:
        """A new operation with two results of one shape: the first of its input's type, the second of another."""
        made = Tensor(kind.lower(), shape, inputs[0].dtype), Tensor(f"{kind.lower()}/places", shape, second)
        _refuse_narrow(kind, inputs)
        self.graph.operations.append(Operation(kind, list(inputs), list(made), {}))
        return made

    def like(self, kind: str, inputs: Sequence[Tensor | None], **options: Any) -> Tensor:  # noqa: ANN401
        """A new operation whose result has its first input's shape and type."""
        assert inputs[0] is not None
        return self.add(kind, inputs, inputs[0].shape, **options)

    def stored(self, value: Value, layout: Layout) -> Tensor:
        """The value in this layout, which must have all its axes but those of size 1."""
        assert covers(layout, value.shape.wide_axes()), f"{layout} lacks axes of {value.shape}"
        tensor, order = self._ordered(value), value.layout
        wide = set(value.shape.wide_axes())
        wanted = [axis for axis in layout if axis in wide]
        if [axis for axis in order if axis in wide] != wanted:
            permutation = _permutation(order, layout, wide)
            tensor = self._transpose(tensor, permutation)
        return self._reshape(tensor, value.shape.stored(layout))

    def plain(self, value: Value) -> Tensor:
        """The value as ONNX has it."""
        return self.stored(value, identity(value.rank))

    def rearranged(self, value: Value, layout: Layout) -> Value:
        """The same value, stored in this layout."""
        return Value(value.shape, self.stored(value, layout), layout)

    def with_axes(self, value: Value, axes: Sequence[int]) -> Value:
        """The same value in a layout that has these logical axes."""
        wanted = [axis % value.rank for axis in axes]
        if covers(value.layout, wanted) and value.shuffle is None:
            return value
        return self.rearranged(value, identity(value.rank))

    def reshaped(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The same elements in another shape."""
        return self._reshape(tensor, shape)

    def for_each_sample(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The same for each sample, along the one free axis of `shape`: zeros, as many as there are samples, are added.

        BROADCAST_TO would need a shape that is known at run time only, and takes the rest of the graph from the delegate.
        """
        axis = shape.free.index(True)
        if shape.sizes[axis] > 1:  # a block for each sample: blocks get an axis of their own for as long
            if tensor.shape.sizes != shape.sizes:
                raise UnsupportedForm("it repeats one element more than once for each sample")
            apart = Shape((*shape.sizes[:axis], 1, *shape.sizes[axis:]), (*shape.free[: axis + 1], *shape.free[axis:]))
            apart = apart.with_size(axis + 1, shape.sizes[axis])
            return self._reshape(self.for_each_sample(self._reshape(tensor, Shape.fixed(apart.sizes)), apart), shape)
        source = next(each for _, each in self.graph.inputs if not each.shape.is_fixed)
        corner = Shape((1,) * len(source.shape), source.shape.free)
        first = [self.integers([0] * len(corner)), self.integers(corner.signature)]
        one = self._reshape(self.add("SLICE", [source, *first], corner), Shape((1,) * len(shape), shape.free))
        never = self.like("NOT_EQUAL", [one, one], dtype=np.dtype(np.bool_))
        return self.spread(never if tensor.dtype == np.bool_ else self.like("CAST", [never], dtype=tensor.dtype), tensor, shape)

    def spread(self, nothing: Tensor, tensor: Tensor, shape: Shape) -> Tensor:
        """The tensor in the shape that it has with `nothing`, zeros or untruths, beside it."""
        if tensor.dtype == np.bool_:
            return self.add("LOGICAL_OR", [nothing, tensor], shape)
        return self.add("ADD", [nothing, tensor], shape, fusedActivationFunction=0)

    def _ordered(self, value: Value) -> Tensor:
        """The stored tensor with a shuffled last axis put right."""
        if value.shuffle is None:
            return value.tensor
        key = (id(value.tensor), "gather", ())
        if key not in self._moved:
            order = self.constant(np.argsort(value.shuffle).astype(np.int32), "order")
            self._moved[key] = self.like("GATHER", [value.tensor, order], axis=len(value.layout) - 1, batchDims=0)
        return self._moved[key]

    def _transpose(self, tensor: Tensor, permutation: tuple[int, ...]) -> Tensor:
        shape = tensor.shape.stored(permutation)
        if tensor.data is not None:
            return self.constant(tensor.data.transpose(permutation), tensor.name)
        key = (id(tensor), "transpose", permutation)
        if key not in self._moved:
            self._moved[key] = self.add("TRANSPOSE", [tensor, self.integers(permutation)], shape, name=f"{tensor.name}/moved")
        return self._moved[key]

    def _reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        if tensor.shape == shape:
            return tensor
        if tensor.data is not None:
            return self.constant(tensor.data.reshape(shape.sizes), tensor.name)
        key = (id(tensor), "reshape", (len(shape), *shape.signature))
        if key not in self._moved:
            if sum(shape.free) > 1:
                raise UnsupportedOperator(f"needs {tensor.name!r} in a shape with two free axes, which TFLite cannot be told")
            self._moved[key] = self.add(
                "RESHAPE", [tensor, self.integers(shape.signature)], shape, name=f"{tensor.name}/shaped"
            )
        return self._moved[key]


def _refuse_narrow(kind: str, inputs: Sequence[Tensor | None]) -> None:
    narrow = next((each.dtype for each in inputs if each is not None and each.dtype in NARROW), None)
    if narrow is not None and kind not in _MOVES:
        raise UnsupportedForm(f"computing with {narrow} has no form. Cast it to int32 or float32 first")


class UnsupportedForm(ValueError):
    """What an operation cannot be given, said before it is known which node asks."""


def _permutation(order: Layout, layout: Layout, wide: set[int]) -> tuple[int, ...]:
    """Stored positions in the new order: that of `layout`, with axes of size 1 put where it has such, else last."""
    spare = [at for at, axis in enumerate(order) if axis not in wide]
    taken = []
    for axis in layout:
        if axis in wide:
            taken.append(order.index(axis))
        elif spare:
            taken.append(spare.pop(0))
    return (*taken, *spare)


class Call:
    """One node being emitted: its inputs, attributes and expected results, with errors that name it."""

    def __init__(self, emission: Emission, node: Node) -> None:
        self.emission = emission
        self.node = node

    @property
    def opset(self) -> int:
        """The operator set by which the node's form is read."""
        return self.emission.prepared.opset

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  # as many types as ONNX has
        """An attribute, or its default."""
        return self.node.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def has_output(self, index: int) -> bool:
        """Whether the optional output is wanted."""
        return index < len(self.node.outputs) and bool(self.node.outputs[index])

    def value(self, index: int = 0) -> Value:
        """An input that must be given."""
        name = self.node.inputs[index]
        if name in self.emission.prepared.varying:
            raise self.unsupported(f"its input {name!r} depends on the number of samples. Export it with a fixed number")
        return self.emission.get(name)

    def values(self) -> list[Value]:
        """All inputs."""
        return [self.value(index) for index in range(len(self.node.inputs))]

    def constant(self, index: int, what: str) -> Array:
        """An input whose elements must be known now."""
        name = self.node.inputs[index]
        if name not in self.emission.prepared.constants:
            data = self.value(index).tensor.data  # what passes a constant on has one too
            if data is not None and self.value(index).layout == identity(data.ndim):
                return data
            raise self.unsupported(f"its {what} {name!r} are computed at run time; export them as constants")
        if name in self.emission.prepared.varying or not self.emission.prepared.shapes[name].is_fixed:
            raise self.unsupported(f"its {what} {name!r} depend on the number of samples. Export it with a fixed number")
        return self.emission.prepared.constants[name]

    def optional(self, index: int, what: str) -> Array | None:
        """A constant input, or None where it is left out."""
        return self.constant(index, what) if self.has(index) else None

    def integers(self, index: int, attribute: str) -> list[int] | None:
        """Integers that older operator sets give as an attribute and newer ones as a constant input."""
        if self.has(index):
            return [int(value) for value in np.atleast_1d(self.constant(index, attribute))]
        given = self.attribute(attribute)
        return None if given is None else [int(value) for value in np.atleast_1d(given)]

    def result_shape(self, index: int = 0) -> Shape:
        """The logical shape of an output, as ONNX infers it."""
        found = self.emission.prepared.shapes.get(self.node.outputs[index])
        if found is None:
            raise self.unsupported("the shape of its result is not known before it runs")
        return found

    def result_type(self, index: int = 0) -> np.dtype[Any]:
        """The element type of an output."""
        return self.emission.prepared.dtypes[self.node.outputs[index]]

    def result(self, tensor: Tensor, layout: Layout, index: int = 0) -> Value:
        """An output that is stored in `tensor` by `layout`."""
        shape = self.result_shape(index)
        if tensor.shape != shape.stored(layout):
            raise self.unsupported(f"its result has the shape {tensor.shape}, where ONNX has {shape} stored as {layout}")
        return Value(shape, tensor, layout)

    def same(self, value: Value, tensor: Tensor) -> Value:
        """A result of the input's shape and layout, such as an activation's."""
        return replace(value, tensor=tensor)

    def unsupported(self, why: str) -> UnsupportedOperator:
        """The error that names this node."""
        return UnsupportedOperator(f"cannot be made: {self.node.describe()}: {why}")


Results = Value | list[Value]
