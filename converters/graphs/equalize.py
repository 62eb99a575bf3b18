"""Cross-layer equalisation: channels of very uneven ranges are made alike before 8 bits have to hold them. Exact in float.

Where a layer's output reaches the next layers only through operators that let a positive factor pass (ReLU, pooling, Reshape),
each channel can be divided by a factor that the next layers' weights take over (Nagel et al. 2019, arXiv 1906.04721). The
factors follow from what the samples showed of the activations, as weights have one scale an output channel anyway, and are
powers of two: divided and multiplied again, no bit of any answer changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from converters.graphs import intervals
from converters.graphs.channel_flow import Lane, bias_of_matmul, is_depthwise, plain_layer, through
from converters.graphs.graph_view import GraphView, Reader, attributes
from converters.graphs.observe import Batch, observe

_HOMOGENEOUS: Final = (
    "AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "ReduceMax",
    "ReduceMean", "Relu", "Reshape", "Squeeze", "Transpose",
)  # fmt: skip
"""f(s·x) = s·f(x) for every s > 0, channel by channel."""
_MOST: Final = 12
"""Factors are at most two to this power."""
_UNEVEN: Final = 2
"""Channels that differ by less, as a power of two, are alike already."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class _Pair:
    """A layer and all that read its channels. `ends` are their lanes."""

    layer: onnx.NodeProto
    channels: int
    ends: Sequence[tuple[onnx.NodeProto, Lane]]


def equalize(model: onnx.ModelProto, batches: Iterable[Batch]) -> int:
    """Even out, in place, the channels between layers; say between how many. Shapes are inferred; `batches` are samples.

    Raises `RecipeFailed` where the model does not run.
    """
    view = GraphView(model)
    pairs = [pair for node in view.nodes if (pair := _pair(view, node)) is not None]
    largest = _largest(model, pairs, batches)
    values: dict[str, NDArray[Any]] = {}
    changed = 0
    for pair in pairs:
        powers = _powers(view, pair, largest, values)
        if powers.max(initial=0) - powers.min(initial=0) >= _UNEVEN:
            _apply(view, pair, powers, values)
            changed += 1
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return changed


def _pair(view: GraphView, node: onnx.NodeProto) -> _Pair | None:
    """The layer and its readers, where every way between them lets factors pass and every weight is read once."""
    layer = plain_layer(view, node)
    channels = len(layer[0]) if layer else _depthwise_channels(view, node)
    start, axis = node, layer[2] if layer else 1
    if not channels:
        return None
    if node.op_type == "MatMul":
        place = bias_of_matmul(view, node)
        start = node if place is None else place.node
    if not all(_own(view, each) for each in (node, start)):
        return None
    order = np.arange(channels, dtype=np.int64)
    lane = Lane(start.output[0], axis, order, intervals.unbounded(channels), order)
    ends: list[tuple[onnx.NodeProto, Lane]] = []
    return _Pair(node, channels, ends) if _follow(view, lane, ends) and ends else None


def _depthwise_channels(view: GraphView, node: onnx.NodeProto) -> int:
    weights = view.operand(node, 1)
    return len(weights) if weights is not None and is_depthwise(node, weights) else 0


def _own(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether the node's constants are read by it alone."""
    return all(len(view.readers(name)) == 1 for name in node.input if name and view.constant(name) is not None)


def _follow(view: GraphView, lane: Lane, ends: list[tuple[onnx.NodeProto, Lane]]) -> bool:
    readers = view.readers(lane.value)
    return lane.value not in view.outputs and bool(readers) and all(_step(view, reader, lane, ends) for reader in readers)


def _step(view: GraphView, reader: Reader, lane: Lane, ends: list[tuple[onnx.NodeProto, Lane]]) -> bool:
    node = reader.node
    if reader.position == 0 and _own(view, node) and _takes(view, node, lane):
        ends.append((node, lane))
        return True
    if reader.position != 0 or node.op_type not in _HOMOGENEOUS:
        return False
    step = through(view, reader, lane)
    return step is not None and _follow(view, replace(step[0], interval=lane.interval), ends)


def _takes(view: GraphView, node: onnx.NodeProto, lane: Lane) -> bool:
    """Whether a layer's weights can take factors of the lane's channels over."""
    layer = plain_layer(view, node)
    if layer is not None:
        return layer[2] == lane.axis and layer[0].shape[1] == len(lane.columns)
    return lane.axis == 1 and _depthwise_channels(view, node) == len(lane.columns)


def _largest(model: onnx.ModelProto, pairs: Sequence[_Pair], batches: Iterable[Batch]) -> dict[str, Vector]:
    """The largest magnitude at each position of each end's axis of channels."""
    axes = {lane.value: lane.axis for pair in pairs for _, lane in pair.ends}
    found: dict[str, Vector] = {}
    for shown in observe(model, list(axes), batches):
        for name, array in shown.items():
            others = tuple(at for at in range(array.ndim) if at != axes[name])
            seen = np.abs(array).max(axis=others).astype(np.float64)
            found[name] = np.maximum(found.get(name, 0.0), seen)
    return found


def _powers(view: GraphView, pair: _Pair, largest: dict[str, Vector], values: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """The exponent of each channel's factor, so that activations and the weights that read them are as uneven as each other.

    Depthwise weights have a scale each, so that they take all of it. A channel that is never active is left alone.
    """
    active, weights = np.zeros(pair.channels), np.zeros(pair.channels)
    for node, lane in pair.ends:
        if lane.value in largest and len(largest[lane.value]) == len(lane.columns):
            np.maximum.at(active, lane.columns, largest[lane.value])
        if plain_layer(view, node) is not None:
            np.maximum.at(weights, lane.columns, _by_input(node, _value(view, node, 1, values)))
    summed = weights.any()
    usable = (active > 0) & ((weights > 0) if summed else True)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.log2(active / weights) / 2 if summed else np.log2(active)
    exponent = np.where(usable, exponent, 0.0)
    middle = np.median(exponent[usable]) if usable.any() else 0.0
    powers = np.where(usable, np.clip(np.rint(exponent - middle), -_MOST, _MOST), 0.0)
    return powers.astype(np.int64)


def _by_input(node: onnx.NodeProto, weights: NDArray[Any]) -> Vector:
    """The largest weight that reads each input."""
    axis = 1 - _output_axis(node)
    return np.asarray(np.abs(weights).max(axis=tuple(at for at in range(weights.ndim) if at != axis)), np.float64)


def _output_axis(node: onnx.NodeProto) -> int:
    return 0 if node.op_type == "Conv" or attributes(node).get("transB") else 1


def _value(view: GraphView, node: onnx.NodeProto, position: int, values: dict[str, NDArray[Any]]) -> NDArray[Any]:
    name = node.input[position]
    found = values[name] if name in values else view.constant(name)
    assert found is not None
    return found


def _apply(view: GraphView, pair: _Pair, powers: NDArray[np.int64], values: dict[str, NDArray[Any]]) -> None:
    node = pair.layer
    values[node.input[1]] = _scaled(_value(view, node, 1, values), -powers, _output_axis(node))
    place = bias_of_matmul(view, node) if node.op_type == "MatMul" else Reader(node, 2)
    if place is not None and place.position < len(place.node.input) and place.node.input[place.position]:
        bias = _value(view, place.node, place.position, values)
        values[place.node.input[place.position]] = _scaled(np.broadcast_to(bias.reshape(-1), powers.shape), -powers, 0)
    for reader, lane in pair.ends:
        axis = 0 if plain_layer(view, reader) is None else 1 - _output_axis(reader)
        values[reader.input[1]] = _scaled(_value(view, reader, 1, values), powers[lane.columns], axis)


def _scaled(values: NDArray[Any], powers: NDArray[np.int64], axis: int) -> NDArray[np.float32]:
    """Two to these powers times the values, channel by channel along `axis`."""
    shape = [1] * values.ndim
    shape[axis] = -1
    return np.asarray(np.ldexp(values, powers.reshape(shape)), np.float32)
