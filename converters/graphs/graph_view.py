"""An ONNX graph as passes want to see it: constants as arrays, who makes a value, who reads it, attributes as values.

A view is taken once and is right until its model is changed. Nothing here changes a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]

_STANDARD: Final = ("", "ai.onnx")


@dataclass(frozen=True)
class Reader:
    """One place where a value is read: the node and the position among its inputs."""

    node: onnx.NodeProto
    position: int


class GraphView:
    """A model's graph, indexed by the names of its values."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes = list(graph.node)
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = frozenset(value.name for value in graph.output)
        fixed = {*self.inputs, *self.outputs}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in fixed}
        self._arrays: dict[str, Array] = {}
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[Reader]] = defaultdict(list)
        for node in self.nodes:
            for position, name in enumerate(node.input):
                self._readers[name].append(Reader(node, position))
        self._shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}

    def constant(self, name: str) -> Array | None:
        """The value of a constant, or None where the value is computed or given."""
        if name not in self._tensors:
            return None
        if name not in self._arrays:
            self._arrays[name] = numpy_helper.to_array(self._tensors[name])
        return self._arrays[name]

    def operand(self, node: onnx.NodeProto, position: int) -> Array | None:
        """The constant at an input of a node, or None where there is none."""
        return self.constant(node.input[position]) if position < len(node.input) else None

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value, or None for inputs and constants."""
        return self._makers.get(name)

    def readers(self, name: str) -> list[Reader]:
        """Every place in the graph that reads a value."""
        return self._readers.get(name, [])

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The shape as far as it is known; None for a free axis, and in place of the whole where nothing is known."""
        return self._shapes.get(name)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weights (Conv, Gemm, MatMul) that counts its outputs."""
    return 0 if node.op_type == "Conv" or attributes(node).get("transB") else 1


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the operator is ONNX's own and not some engine's."""
    return node.domain in _STANDARD


def has_subgraphs(model: onnx.ModelProto) -> bool:
    """Whether some node carries a graph of its own (If, Loop, Scan), or the model brings functions."""
    return bool(model.functions) or any(True for node in model.graph.node for _ in subgraphs(node))


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def layer_weights(node: onnx.NodeProto) -> int | None:
    """The position of the weights among the inputs of a layer that multiplies and sums; None for other operators."""
    return 1 if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and is_standard(node) else None


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(each.dim_value if each.HasField("dim_value") else None for each in kind.shape.dim)
