"""Weight-only int8: each large weight tensor becomes int8 with one scale an output channel, and is unpacked at load.

Symmetric, full range (−127…127): arithmetic stays float, so nothing can saturate. onnxruntime.quantization has no such
recipe for ordinary layers; this is the whole of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from converters.graphs.graph_view import has_subgraphs

_LEVELS: Final = 127
_UNPACKING: Final = 70
"""Bytes of one more node and one more constant."""
_BIASED: Final = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Packed:
    """Weights in 8 bits: `values` ≈ the weights over `scales`, which lie along `axis`, 0 or more."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int

    def unpacked(self) -> NDArray[np.float32]:
        """The weights as a layer sees them."""
        others = tuple(at for at in range(self.values.ndim) if at != self.axis)
        return self.values.astype(np.float32) * np.expand_dims(self.scales, others)


def packed_weights(model: onnx.ModelProto, *, smallest: int) -> dict[str, Packed]:
    """By name, the float32 weights of at least `smallest` elements that take less room in 8 bits."""
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in fixed}
    found = {}
    for name, axis in dict(_weights(graph)).items():
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < smallest or not np.isfinite(values).all():
            continue
        packed = Packed(*pack(values, axis), axis % values.ndim)
        if packed.values.nbytes + packed.scales.nbytes + _UNPACKING < values.nbytes:
            found[name] = packed
    return found


def quantize_weights(model: onnx.ModelProto, *, smallest: int) -> int:
    """Replace, in place, the weights that `packed_weights` finds; say how many tensors."""
    graph, unpacking = model.graph, []
    found = packed_weights(model, smallest=smallest)
    kept = [tensor for tensor in graph.initializer if tensor.name not in found]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, packed in found.items():
        graph.initializer.append(numpy_helper.from_array(packed.values, f"{name}/int8"))
        graph.initializer.append(numpy_helper.from_array(packed.scales, f"{name}/scale"))
        unpacking.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}/int8", f"{name}/scale"], [name], name=f"{name}/unpack", axis=packed.axis
            )
        )
    _put_first(graph, unpacking)
    return len(unpacking)


def halve_weights(model: onnx.ModelProto, *, smallest: int = 256) -> int:
    """Store, in place, large float32 weights as 16-bit floats, unpacked by a Cast; say how many tensors.

    What 16 bits hold only as infinity stays as it is.
    """
    return _halve(model.graph, [each for each in model.graph.initializer if int(np.prod(each.dims)) >= smallest])


def halve_named(model: onnx.ModelProto, names: Collection[str]) -> int:
    """The same for these tensors."""
    return _halve(model.graph, [each for each in model.graph.initializer if each.name in names])


def halve_rest(model: onnx.ModelProto) -> int:
    """The same for biases and small weights of layers that then take less room: beside 8-bit weights, 11 bits lose nothing."""
    names = {name for node in model.graph.node if node.op_type in _BIASED for name in node.input[1:3]}
    rest = [each for each in model.graph.initializer if each.name in names]
    return _halve(model.graph, [each for each in rest if 2 * int(np.prod(each.dims)) > _UNPACKING])


def _halve(graph: onnx.GraphProto, tensors: list[onnx.TensorProto]) -> int:
    fixed = {value.name for value in (*graph.input, *graph.output)}
    unpacking = []
    for tensor in tensors:
        if tensor.data_type != onnx.TensorProto.FLOAT or tensor.name in fixed:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        unpacking.append(helper.make_node("Cast", [f"{name}/half"], [name], name=f"{name}/unpack", to=onnx.TensorProto.FLOAT))
    _put_first(graph, unpacking)
    return len(unpacking)


def quantize_tables(model: onnx.ModelProto, *, smallest: int = 4096) -> int:
    """Replace, in place, float32 tables from which rows are picked (embeddings) by int8 with a scale a row; say how many.

    Rows are picked first and unpacked then, so that a large table costs no more time than a small one.
    """
    graph = model.graph
    if has_subgraphs(model):  # they may read a table too, unseen from here
        return 0
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    count = 0
    for name in dict.fromkeys(node.input[0] for node in graph.node if _picks_rows(node)):
        readers = [node for node in graph.node if name in node.input]
        tensor = tensors.get(name)
        if tensor is None or name in fixed or tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
            continue
        if int(np.prod(tensor.dims)) < smallest or not all(_picks_rows(node) and node.input[0] == name for node in readers):
            continue
        packed, scales = pack(numpy_helper.to_array(tensor), 0)
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(packed, f"{name}/int8"))
        graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{name}/scale"))
        for node in readers:
            _pick_then_unpack(graph, node, name)
        count += 1
    return count


def _picks_rows(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gather" and not any(attribute.name == "axis" and attribute.i for attribute in node.attribute)


def _pick_then_unpack(graph: onnx.GraphProto, node: onnx.NodeProto, name: str) -> None:
    at, made = list(graph.node).index(node), node.output[0]
    steps = [
        helper.make_node("Gather", [f"{name}/int8", node.input[1]], [f"{made}/int8"], name=f"{made}/pick", axis=0),
        helper.make_node("Gather", [f"{name}/scale", node.input[1]], [f"{made}/scale"], name=f"{made}/scales", axis=0),
        helper.make_node("Cast", [f"{made}/int8"], [f"{made}/levels"], name=f"{made}/levels", to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [f"{made}/levels", f"{made}/scale"], [made], name=f"{made}/unpack"),
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*rest[:at], *steps, *rest[at + 1 :]])


def pack(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values of the same shape, and float32[channels] scales along `axis`: `values ≈ int8 × scale`."""
    others = tuple(at for at in range(values.ndim) if at != axis % values.ndim)
    largest = np.abs(values).max(axis=others)
    scales = np.where(largest > np.finfo(np.float32).tiny * _LEVELS, largest / _LEVELS, np.float32(1)).astype(np.float32)
    packed = np.rint(values / np.expand_dims(scales, others)).clip(-_LEVELS, _LEVELS).astype(np.int8)
    return packed, scales


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Each layer's weight tensor and its axis of output channels."""
    for node in graph.node:
        if node.op_type == "Conv":
            yield node.input[1], 0
        elif node.op_type == "ConvTranspose":
            yield node.input[1], 1
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            yield node.input[1], 0 if transposed else 1
        elif node.op_type == "MatMul":
            yield node.input[1], -1
        elif node.op_type == "Gather":
            yield node.input[0], 0


def _put_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Nodes stand in the order of computation."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
