"""What a processor that adds 8-bit products in 16 bits makes of an int8 model: the int8 trap, seen from a machine without it.

x86 processors without VNNI multiply u8 activations with s8 weights by `vpmaddubsw`: each two neighbouring products are added
in int16, and what does not fit is cut off. Most layers cannot reach that (two weights whose sum is at most 128 in magnitude
never do); for those that can, the golden samples are computed layer by layer, less what such a processor would lose.
Depthwise convolutions use other instructions and lose nothing, as do layers whose weights are unsigned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from converters.errors import RecipeFailed
from converters.graphs.graph_view import Array, GraphView, attributes
from converters.graphs.observe import Batch, session

_LOW: Final = -(2**15)
_HIGH: Final = 2**15 - 1
_LARGEST: Final = 255
_FUSED: Final = ("Relu", "Clip")
"""Engines fold these into the integer layer before them."""

Matrix = NDArray[np.int32]


@dataclass(frozen=True)
class Layer:
    """An integer layer that can saturate. `weights` is int32 [terms, outputs], terms in the order in which they are added."""

    node: onnx.NodeProto
    given: str
    """Its activations, 8 bits."""
    zero_point: int
    scale: NDArray[np.float32]
    """Real value of one unit of the sum, by output."""
    weights: Matrix

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The first terms of those pairs that can overflow at some output."""
        return np.flatnonzero(risky(self.weights).any(axis=1)) * 2


def risky(weights: Matrix) -> NDArray[np.bool_]:
    """Which pairs of neighbouring terms can leave 16 bits with some activations: bool [pairs, outputs]."""
    first, second = _halves(weights)
    most = (np.maximum(first, 0) + np.maximum(second, 0)) * _LARGEST
    least = (np.minimum(first, 0) + np.minimum(second, 0)) * _LARGEST
    return np.asarray((most > _HIGH) | (least < _LOW))


def lost(activations: NDArray[np.uint8], weights: Matrix) -> Matrix:
    """How much of each exact sum is cut off: int32 [rows, outputs], from u8 [rows, terms] and int32 [terms, outputs]."""
    found = np.zeros((len(activations), weights.shape[1]), np.int32)
    padded = np.pad(activations, ((0, 0), (0, len(weights) % 2)))
    first, second = _halves(weights)
    for pair in np.flatnonzero(risky(weights).any(axis=1)):
        found += _excess(padded[:, 2 * pair], padded[:, 2 * pair + 1], first[pair], second[pair])
    return found


def _halves(weights: Matrix) -> tuple[Matrix, Matrix]:
    even = np.pad(weights, ((0, len(weights) % 2), (0, 0)))
    return even[0::2], even[1::2]


def _excess(one: Array, other: Array, first: Matrix, second: Matrix) -> Matrix:
    exact = np.multiply.outer(one.astype(np.int32), first) + np.multiply.outer(other.astype(np.int32), second)
    return np.asarray(exact - np.clip(exact, _LOW, _HIGH), np.int32)


def layers_at_risk(model: onnx.ModelProto) -> list[Layer]:
    """The integer layers of a QDQ model that can saturate with some input. Empty: the model is safe, whatever comes."""
    view = GraphView(model)
    found = (_layer(view, node) for node in view.nodes)
    return [layer for layer in found if layer is not None and len(layer.pairs)]


def emulate(model: onnx.ModelProto, batches: Iterable[Batch]) -> Iterator[list[Array]]:
    """The model's outputs for each batch, in order, as a saturating processor gives them. Raises `RecipeFailed`."""
    runner = _Runner(model, layers_at_risk(model))
    for batch in batches:
        yield runner.run(batch)


def _layer(view: GraphView, node: onnx.NodeProto) -> Layer | None:
    if node.op_type not in ("Conv", "MatMul", "Gemm") or len(node.input) < 2:
        return None
    told = attributes(node)
    if node.op_type == "Conv" and (told.get("group", 1) != 1 or not _requantized(view, node)):
        return None
    activations, weights = (_unpacked(view, node.input[position]) for position in (0, 1))
    if activations is None or weights is None or told.get("transA"):
        return None
    values = view.constant(weights.input[0])
    if values is None or values.dtype != np.int8:
        return None
    zero_point = view.operand(activations, 2)
    scales = [view.operand(each, 1) for each in (activations, weights)]
    if any(scale is None for scale in scales) or (zero_point is not None and zero_point.dtype not in (np.uint8, np.int8)):
        return None
    offset = 0 if zero_point is None else int(zero_point.reshape(-1)[0]) + (128 if zero_point.dtype == np.int8 else 0)
    matrix = _matrix(node.op_type, values.astype(np.int32), transposed=bool(told.get("transB")))
    scale = np.broadcast_to(np.multiply(*(np.asarray(each).reshape(-1) for each in scales)), matrix.shape[1:])
    return Layer(node, activations.input[0], offset, scale, matrix)


def _matrix(operator: str, values: Matrix, *, transposed: bool) -> Matrix:
    """Terms by outputs. A convolution's terms are added tap by tap, within a tap channel by channel."""
    if operator == "Conv":
        return np.moveaxis(values, 1, -1).reshape(len(values), -1).T
    return values.T if transposed else values.reshape(-1, values.shape[-1])


def _unpacked(view: GraphView, name: str) -> onnx.NodeProto | None:
    node = view.maker(name)
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _requantized(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a convolution's output is packed again: only then do engines compute it in integers."""
    readers = view.readers(node.output[0])
    if len(readers) == 1 and readers[0].node.op_type in _FUSED:
        readers = view.readers(readers[0].node.output[0])
    return bool(readers) and all(reader.node.op_type == "QuantizeLinear" for reader in readers)


@dataclass(frozen=True)
class _Stretch:
    """Nodes that are run at once; the last one is `layer`, where it is not None."""

    session: object
    wanted: tuple[str, ...]
    needed: tuple[str, ...]
    layer: Layer | None


class _Runner:
    """Runs a graph in stretches, each up to a layer at risk, whose output is corrected before the next stretch reads it."""

    def __init__(self, model: onnx.ModelProto, layers: list[Layer]) -> None:
        self._outputs = [value.name for value in model.graph.output]
        self._stretches = list(_stretches(model, layers))

    def run(self, batch: Batch) -> list[Array]:
        """The outputs for one batch."""
        values: Batch = dict(batch)
        for stretch in self._stretches:
            given = {name: values[name] for name in stretch.needed}
            try:
                made = stretch.session.run(list(stretch.wanted), given)  # type: ignore[attr-defined]  # onnxruntime has no types
            except Exception as error:
                raise RecipeFailed(f"fails on the data: {str(error).splitlines()[0]}") from error
            values |= dict(zip(stretch.wanted, made, strict=True))
            if stretch.layer is not None:
                output = stretch.layer.node.output[0]
                values[output] = _corrected(stretch.layer, values[stretch.layer.given], values[output])
        return [values[name] for name in self._outputs]


def _stretches(model: onnx.ModelProto, layers: list[Layer]) -> Iterator[_Stretch]:
    at_risk = {layer.node.output[0]: layer for layer in layers}
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes, start = list(model.graph.node), 0
    asked = {value.name for value in model.graph.output} | {layer.given for layer in layers}
    for end, node in enumerate(nodes, 1):
        layer = at_risk.get(node.output[0])
        if layer is None and end < len(nodes):
            continue
        part = nodes[start:end]
        made = {name for each in part for name in each.output if name}
        later = {name for each in nodes[end:] for name in each.input} | asked
        needed = {name for each in part for name in each.input if name} - made - constants
        wanted = tuple(sorted(made & later))
        yield _Stretch(session(_part(model, part, sorted(needed), wanted)), wanted, tuple(sorted(needed)), layer)
        start = end


def _part(model: onnx.ModelProto, nodes: list[onnx.NodeProto], needed: list[str], wanted: tuple[str, ...]) -> bytes:
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    types = _types(model)
    for field in (graph.node, graph.input, graph.output, graph.initializer, graph.value_info):
        del field[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.input.extend(helper.make_tensor_value_info(name, types.get(name, onnx.TensorProto.FLOAT), None) for name in needed)
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    return part.SerializeToString()


def _types(model: onnx.ModelProto) -> dict[str, int]:
    shown = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*shown.input, *shown.value_info, *shown.output)}


def _corrected(layer: Layer, activations: Array, exact: Array) -> Array:
    """The layer's output less what is cut off."""
    if activations.dtype == np.int8:
        activations = (activations.astype(np.int16) + 128).astype(np.uint8)
    if layer.node.op_type != "Conv":
        rows = activations.reshape(-1, activations.shape[-1])
        missing = lost(rows, layer.weights) * layer.scale
        return np.asarray(exact - missing.reshape(exact.shape), exact.dtype)
    missing = _lost_by_convolution(layer, activations, exact.shape) * layer.scale
    maps = missing.reshape(exact.shape[0], *exact.shape[2:], exact.shape[1])
    return np.asarray(exact - np.moveaxis(maps, -1, 1), exact.dtype)


def _lost_by_convolution(layer: Layer, activations: NDArray[np.uint8], shape: tuple[int, ...]) -> Matrix:
    """The same as `lost`, with only those columns of the unfolded input made that a pair at risk needs."""
    window = _Window(layer, activations, shape)
    first, second = _halves(layer.weights)
    found = np.zeros((shape[0] * int(np.prod(shape[2:])), shape[1]), np.int32)
    for start in layer.pairs:
        at = start // 2
        outputs = np.flatnonzero(risky(np.stack([first[at], second[at]]))[0])
        found[:, outputs] += _excess(window.term(start), window.term(start + 1), first[at, outputs], second[at, outputs])
    return found


class _Window:
    """The unfolded input of a convolution, term by term."""

    def __init__(self, layer: Layer, activations: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        told, sizes = attributes(layer.node), shape[2:]
        axes = len(sizes)
        self._channels = activations.shape[1]
        self._kernel = tuple(told.get("kernel_shape", ()))
        self._strides = tuple(told.get("strides", (1,) * axes))
        self._dilations = tuple(told.get("dilations", (1,) * axes))
        self._sizes = sizes
        pads = _pads(told, activations.shape[2:], sizes, self._kernel)
        around = [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)]
        self._padded = np.pad(activations, around, constant_values=layer.zero_point)

    def term(self, index: int) -> NDArray[np.uint8]:
        """What every position of the output multiplies with one weight; zeros behind the last term."""
        tap, channel = divmod(index, self._channels)
        if tap >= int(np.prod(self._kernel)):
            return np.zeros(self._padded.shape[0] * int(np.prod(self._sizes)), np.uint8)
        offsets = np.unravel_index(tap, self._kernel)
        cut = tuple(
            slice(int(offset) * dilation, int(offset) * dilation + stride * (size - 1) + 1, stride)
            for offset, dilation, stride, size in zip(offsets, self._dilations, self._strides, self._sizes, strict=True)
        )
        return np.asarray(self._padded[(slice(None), channel, *cut)].reshape(-1))


def _pads(told: dict[str, object], given: tuple[int, ...], made: tuple[int, ...], kernel: tuple[int, ...]) -> list[int]:
    axes = len(made)
    auto = told.get("auto_pad", b"NOTSET")
    if auto in (b"NOTSET", b"VALID"):
        pads = told.get("pads", [0] * (2 * axes))
        assert isinstance(pads, list)
        return pads
    strides, dilations = (told.get(name, [1] * axes) for name in ("strides", "dilations"))
    assert isinstance(strides, list)
    assert isinstance(dilations, list)
    total = [
        max(0, (size - 1) * stride + (width - 1) * dilation + 1 - had)
        for size, stride, width, dilation, had in zip(made, strides, kernel, dilations, given, strict=True)
    ]
    small, large = [each // 2 for each in total], [each - each // 2 for each in total]
    return [*small, *large] if auto == b"SAME_UPPER" else [*large, *small]
