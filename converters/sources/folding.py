"""Folds what exporters leave of batch normalisation, Mul and Add by constants, into the Conv, MatMul or Gemm before it.

Exact but for float32's rounding; the reader's proof, which runs afterwards, covers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]

_LAYERS: Final = frozenset({"Conv", "MatMul", "Gemm"})


def fold(model: onnx.ModelProto, *, tables: bool = False) -> int:
    """Fold, in place; gives the number of nodes that went. Values that are used twice, or asked for, stay as they are.

    `tables` promises that every value has two axes, which shape inference cannot know of classical models' operators.
    """
    ranks = _ranks(model)
    gone = 0
    while _Folding(model, ranks, 2 if tables else None).step():
        gone += 1
    return gone


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """How many axes each value has, where that can be known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values if value.type.tensor_type.HasField("shape")}


class _Folding:
    """One look at the graph. `step` changes it once."""

    def __init__(self, model: onnx.ModelProto, ranks: Mapping[str, int], unknown: int | None) -> None:
        self._unknown = unknown
        self._ranks = ranks
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._made_by = {name: node for node in self._graph.node for name in node.output}
        asked = [value.name for value in self._graph.output]
        used = [name for node in self._graph.node for name in node.input] + asked
        self._uses = {name: used.count(name) for name in set(used)}
        self._asked = set(asked)

    def step(self) -> bool:
        """Fold the first pair that can be."""
        return any(self._absorb(node) for node in self._graph.node if node.op_type in ("Mul", "Add"))

    def _absorb(self, node: onnx.NodeProto) -> bool:
        """Take one Mul or Add by a constant into the layer that feeds it."""
        fixed = [name for name in node.input if name in self._constants]
        fed = [name for name in node.input if name not in self._constants]
        if len(fixed) != 1 or len(fed) != 1 or self._uses[fed[0]] != 1 or fed[0] in self._asked:
            return False
        layer = self._made_by.get(fed[0])
        if layer is None or layer.op_type not in _LAYERS or layer.domain or not self._plain(layer):
            return False
        weights = self._array(layer.input[1])
        axis = _axis(layer)
        channels = weights.shape[axis]
        factors = _per_channel(self._array(fixed[0]), channels, conv=weights.ndim if layer.op_type == "Conv" else 0)
        if factors is None:
            return False
        bias = self._array(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else np.zeros(channels, np.float32)
        if node.op_type == "Mul":
            shape = [-1 if at == axis else 1 for at in range(weights.ndim)]
            self._write(layer, weights * factors.reshape(shape), bias * factors)
        else:
            self._write(layer, weights, bias + factors)
        layer.output[0] = node.output[0]
        self._graph.node.remove(node)
        return True

    def _plain(self, layer: onnx.NodeProto) -> bool:
        """Whether its weights are constants that nobody else uses, in a form that folding understands."""
        names = [name for name in layer.input[1:] if name]
        if any(name not in self._constants or self._uses[name] != 1 for name in names):
            return False
        weights = self._constants[layer.input[1]]
        if weights.data_type != onnx.TensorProto.FLOAT or any(self._array(name).ndim != 1 for name in names[1:]):
            return False
        attributes = {each.name: helper.get_attribute_value(each) for each in layer.attribute}
        if layer.op_type == "Gemm":
            return not attributes.get("transA") and attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        return layer.op_type == "Conv" or (len(weights.dims) == 2 and self._ranks.get(layer.input[0], self._unknown) == 2)

    def _array(self, name: str) -> Array:
        return np.asarray(numpy_helper.to_array(self._constants[name]))

    def _write(self, layer: onnx.NodeProto, weights: Array, bias: Array) -> None:
        """Put new weights into the layer; a product of matrices becomes a Gemm, which has a bias."""
        first = layer.input[1]
        names = (first, layer.input[2] if len(layer.input) > 2 and layer.input[2] else self._new(f"{first}_bias"))
        for name, values in zip(names, (weights, bias), strict=True):
            tensor = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
            if name in self._constants:
                self._constants[name].CopyFrom(tensor)
            else:
                self._graph.initializer.append(tensor)
        given = layer.input[0]
        del layer.input[:]
        layer.input.extend((given, *names))
        if layer.op_type == "MatMul":
            layer.op_type = "Gemm"

    def _new(self, name: str) -> str:
        while name in self._constants or name in self._made_by:
            name += "_"
        return name


def _axis(layer: onnx.NodeProto) -> int:
    """Which axis of the weights counts the outputs."""
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "MatMul":
        return 1
    turned = next((helper.get_attribute_value(each) for each in layer.attribute if each.name == "transB"), 0)
    return 0 if turned else 1


def _per_channel(values: Array, channels: int, *, conv: int) -> Array | None:
    """The constant as one number for each output, or None where it is not that. `conv`: axes of the convolution's values."""
    if values.dtype != np.float32:
        return None
    wanted = (1, channels, *(1 for _ in range(conv - 2))) if conv else (1, channels)
    if values.size == 1 and values.ndim <= len(wanted):
        return np.full(channels, values.reshape(()), np.float32)
    padded = (1,) * (len(wanted) - values.ndim) + values.shape
    return values.reshape(channels) if padded == wanted and values.size == channels else None
