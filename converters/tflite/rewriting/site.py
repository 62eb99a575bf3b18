"""Where one ONNX node is replaced by others: what is known of its inputs, and new nodes and constants that take its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

AXES_AS_INPUT: Final = 18
"""The operator set from which on all reductions take their axes as an input; ReduceSum does from 13."""


_OWN_OPSET: Final = 17
"""For models that have none, because all their operators are of another domain."""


class NotKnown(Exception):
    """A size, type or constant that is not known (yet): the node stays as it is."""


class Known:
    """What is known of a model's tensors: constants, and shapes and types where inference found them."""

    def __init__(self, model: onnx.ModelProto, shapes: onnx.GraphProto) -> None:
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=_OWN_OPSET)
        self.read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
        self.types = {value.name: value.type for value in (*shapes.input, *shapes.value_info, *shapes.output)}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._stored[node.output[0]] = node.attribute[0].t

    def constant(self, name: str) -> Array | None:
        """The elements of a constant."""
        return numpy_helper.to_array(self._stored[name]) if name in self._stored else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises `NotKnown` where any size is not."""
        if name in self._stored:
            return tuple(self._stored[name].dims)
        tensor = self._tensor(name)
        if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise NotKnown
        return tuple(dim.dim_value for dim in tensor.shape.dim)

    def dtype(self, name: str) -> np.dtype[Any]:
        """The element type."""
        kind = self._stored[name].data_type if name in self._stored else self._tensor(name).elem_type
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind))

    def _tensor(self, name: str) -> Any:  # noqa: ANN401  # protobuf has no types
        if name not in self.types or not self.types[name].HasField("tensor_type"):
            raise NotKnown
        tensor = self.types[name].tensor_type
        if tensor.elem_type == TensorProto.UNDEFINED:
            raise NotKnown
        return tensor


class Site:
    """One node, and what shall stand in its place. Names that are returned are those of new tensors."""

    def __init__(self, known: Known, node: onnx.NodeProto) -> None:
        self.known = known
        self.node = node
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}

    @property
    def opset(self) -> int:
        """The operator set by which nodes are read, and which new ones must obey."""
        return self.known.opset

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def has_output(self, index: int) -> bool:
        """Whether the optional output is wanted."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def is_read(self, index: int) -> bool:
        """Whether anybody reads an output."""
        return self.has_output(index) and self.node.output[index] in self.known.read

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  # as many types as ONNX has
        """An attribute, or its default; text is decoded."""
        found = self._attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else found

    def input(self, index: int = 0) -> str:
        """The name of an input that must be given."""
        return str(self.node.input[index])

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an input. Raises `NotKnown`."""
        return self.known.shape(self.input(index))

    def dtype(self, index: int = 0) -> np.dtype[Any]:
        """The element type of an input. Raises `NotKnown`."""
        return self.known.dtype(self.input(index))

    def result_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of an output. Raises `NotKnown`."""
        return self.known.shape(str(self.node.output[index]))

    def constant(self, index: int) -> Array | None:
        """The elements of an input, where it is a constant."""
        return self.known.constant(self.input(index)) if self.has(index) else None

    def needed(self, index: int) -> Array:
        """The elements of an input that must be constant. Raises `NotKnown`."""
        found = self.constant(index)
        if found is None:
            raise NotKnown
        return found

    def integers(self, index: int, attribute: str) -> list[int] | None:
        """Integers that older operator sets give as an attribute and newer ones as an input. Raises `NotKnown`."""
        if self.has(index):
            return [int(each) for each in self.needed(index).reshape(-1)]
        given = self.attribute(attribute)
        return None if given is None else [int(each) for each in np.atleast_1d(given)]

    def stored(self, values: Array) -> str:
        """A new constant."""
        name = f"{self._stem()}/constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def number(self, value: float, index: int = 0) -> str:
        """A new constant without axes, of an input's type."""
        return self.stored(np.array(value, self.dtype(index)))

    def whole(self, values: Sequence[int] | Array) -> str:
        """New int64 constants, as ONNX is told sizes, axes and places."""
        return self.stored(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:  # noqa: ANN401  # ONNX's
        """A new node; the name of its first result."""
        return self.add_many(op, *inputs, outputs=outputs, **attributes)[0]

    def add_many(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:  # noqa: ANN401  # ONNX's
        """A new node; the names of all its results."""
        stem = f"{self._stem()}/{op}{len(self.nodes)}"
        names = [stem, *(f"{stem}.{at}" for at in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=stem, **attributes))
        return names

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """The same elements in another shape."""
        return self.add("Reshape", name, self.whole(shape))

    def reduce(self, op: str, name: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """A reduction along axes, in the words of the operator set."""
        if self.opset >= (13 if op == "ReduceSum" else AXES_AS_INPUT):
            return self.add(op, name, self.whole(axes), keepdims=int(keep))
        return self.add(op, name, axes=list(axes), keepdims=int(keep))

    def cut(self, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """Places `start` up to `end` of one axis."""
        if self.opset < 10 and step == 1:
            return self.add("Slice", name, starts=[start], ends=[end], axes=[axis])
        return self.add("Slice", name, *(self.whole([each]) for each in (start, end, axis, step)))

    def _stem(self) -> str:
        return str(next(name for name in self.node.output if name))
