"""Follows each layer's output channels through the operators that keep them apart, to the layers that sum over them again.

A lane is one value on that way: which axis holds the channels, which channel each position of that axis belongs to, and between
which bounds each channel lies. Operators that mix channels, or that this module does not know, end the way: then nothing about
the group may be changed. Pure: it reads a graph and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converters import intervals
from converters.graph_view import Array, GraphView, Reader, attributes, is_standard
from converters.intervals import Interval

MARGIN: Final = 1000.0
"""Inner values are taken to stay within so many times the largest one that the samples showed."""

_SPATIAL_FROM: Final = 2


@dataclass(frozen=True)
class Lane:
    """A value on a group's way. `columns[i]` is the channel at position i of `axis`."""

    value: str
    axis: int
    columns: NDArray[np.int64]
    interval: Interval


@dataclass(frozen=True)
class Cut:
    """A constant that must lose what belongs to removed channels. Without `axis` it is a Reshape's target."""

    node: onnx.NodeProto
    position: int
    axis: int | None
    columns: NDArray[np.int64]


@dataclass(frozen=True)
class End:
    """A layer that sums over the channels. `foldable` where a constant channel may become part of its bias."""

    node: onnx.NodeProto
    lane: Lane
    foldable: bool


@dataclass
class Group:
    """The channels of one layer, everything on their way, and where it ends. `whole` is false where the way was lost."""

    producer: onnx.NodeProto
    channels: int
    cuts: list[Cut] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    whole: bool = True


class Flow:
    """Groups of one graph, in order of computation. `largest` holds the largest magnitude that samples showed of a value."""

    def __init__(self, view: GraphView, largest: Mapping[str, float]) -> None:
        self._view = view
        self._largest = largest
        self._lanes: dict[str, Lane] = {}

    def groups(self) -> list[Group]:
        """Every layer's group, those too whose way was lost."""
        found = []
        for node in self._view.nodes:
            lane = self._produced(node)
            if lane is not None:
                group = Group(node, len(lane.columns))
                self._follow(lane, group)
                found.append(group)
        return found

    def _produced(self, node: onnx.NodeProto) -> Lane | None:
        """The lane that begins at a layer, or None for other operators."""
        layer = plain_layer(self._view, node)
        if layer is None:
            return None
        weights, bias, axis = layer
        given = self._given(node.input[0], weights.shape[1])
        made = intervals.weighted_sum(given, weights, bias, padded=is_padded(node))
        return Lane(node.output[0], axis, np.arange(len(weights), dtype=np.int64), made)

    def _given(self, value: str, width: int) -> Interval:
        lane = self._lanes.get(value)
        known = intervals.unbounded(width)
        if lane is not None and len(lane.columns) == width:
            known = Interval(lane.interval.low[lane.columns], lane.interval.high[lane.columns])
        return self._bounded(value, known)

    def _bounded(self, value: str, interval: Interval) -> Interval:
        return interval.clamp(MARGIN * self._largest[value]) if value in self._largest else interval

    def _follow(self, lane: Lane, group: Group) -> None:
        self._lanes[lane.value] = lane
        if lane.value in self._view.outputs or not self._view.readers(lane.value):
            group.whole = False
        for reader in self._view.readers(lane.value):
            end = self._end(reader, lane)
            if end is not None:
                group.ends.append(end)
                continue
            step = _through(self._view, reader, replace(lane, interval=self._bounded(lane.value, lane.interval)))
            if step is None:
                group.whole = False
                continue
            group.cuts += step[1]
            self._follow(step[0], group)

    def _end(self, reader: Reader, lane: Lane) -> End | None:
        layer = plain_layer(self._view, reader.node)
        if layer is None or reader.position != 0 or layer[2] != lane.axis or layer[0].shape[1] != len(lane.columns):
            return None
        biased = reader.node.op_type != "MatMul" or bias_of_matmul(self._view, reader.node) is not None
        return End(reader.node, lane, foldable=biased and not is_padded(reader.node))


def plain_layer(view: GraphView, node: onnx.NodeProto) -> tuple[Array, Array, int] | None:
    """A layer's weights [outputs, inputs, …taps], its bias [outputs] and its axis of channels; None for other operators.

    Layers with computed or foreign parts (groups, transposed inputs, factors, a computed bias) count as other operators.
    """
    weights = view.operand(node, 1) if is_standard(node) else None
    if weights is None or weights.dtype != np.float32:
        return None
    told = attributes(node)
    if node.op_type == "Conv" and told.get("group", 1) == 1:
        bias = _bias(view, node, weights.shape[0])
        return None if bias is None else (weights, bias, 1)
    if node.op_type == "Gemm" and not told.get("transA") and told.get("alpha", 1.0) == told.get("beta", 1.0) == 1.0:
        matrix = weights if told.get("transB") else weights.T
        bias = _bias(view, node, matrix.shape[0])
        return None if bias is None else (matrix, bias, 1)
    if node.op_type == "MatMul" and weights.ndim == 2:
        shape = view.shape(node.output[0])
        return None if shape is None else (weights.T, np.zeros(weights.shape[1], np.float32), len(shape) - 1)
    return None


def bias_of_matmul(view: GraphView, node: onnx.NodeProto) -> Reader | None:
    """Where the constant stands that is added to a product, one number an output; None where there is none."""
    readers, weights = view.readers(node.output[0]), view.operand(node, 1)
    if len(readers) != 1 or readers[0].node.op_type != "Add" or weights is None or node.output[0] in view.outputs:
        return None
    place = Reader(readers[0].node, 1 - readers[0].position)
    bias = view.operand(place.node, place.position)
    return place if bias is not None and bias.shape == (weights.shape[1],) else None


def is_padded(node: onnx.NodeProto) -> bool:
    """Whether a window sees zeros beyond the border, which are not its channel's constant."""
    told = attributes(node)
    return any(told.get("pads", ())) or told.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def _bias(view: GraphView, node: onnx.NodeProto, width: int) -> Array | None:
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(width, np.float32)
    bias = view.operand(node, 2)
    if bias is None or bias.size not in (1, width) or bias.shape[-1:] not in ((), (1,), (width,)):
        return None
    return np.broadcast_to(bias.reshape(-1), (width,))


Step = tuple[Lane, list[Cut]]


def _through(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    node = reader.node
    if not is_standard(node) or any(node.output[1:]):
        return None
    if node.op_type in _OPERATORS:
        return _OPERATORS[node.op_type](view, reader, lane)
    if reader.position != 0:
        return None
    after = intervals.activated(lane.interval, node.op_type, attributes(node))
    return None if after is None else (replace(lane, value=node.output[0], interval=after), [])


def _clip(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    node, told = reader.node, attributes(reader.node)
    ends = [told.get("min", -intervals.HUGE), told.get("max", intervals.HUGE)]
    for position in (1, 2):
        if position < len(node.input) and node.input[position]:
            given = view.operand(node, position)
            if given is None or given.size != 1:
                return None
            ends[position - 1] = float(given.reshape(()))
    if reader.position != 0:
        return None
    clipped = Interval(np.clip(lane.interval.low, *ends), np.clip(lane.interval.high, *ends))
    return replace(lane, value=node.output[0], interval=clipped), []


def _depthwise(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    node, weights = reader.node, view.operand(reader.node, 1)
    if weights is None or reader.position != 0 or lane.axis != 1 or weights.dtype != np.float32:
        return None
    channels = len(lane.columns)
    bias = _bias(view, node, channels)
    if attributes(node).get("group", 1) != channels or weights.shape[:2] != (channels, 1) or bias is None:
        return None
    after = intervals.per_channel(lane.interval, weights, bias, padded=is_padded(node))
    cuts = [Cut(node, 1, 0, lane.columns)]
    if len(node.input) > 2 and node.input[2]:
        given = view.operand(node, 2)
        if given is None or given.shape != (channels,):
            return None
        cuts.append(Cut(node, 2, 0, lane.columns))
    return replace(lane, value=node.output[0], interval=after), cuts


def _normalisation(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    node = reader.node
    parts = [view.operand(node, position) for position in (1, 2, 3, 4)]
    if reader.position != 0 or lane.axis != 1 or attributes(node).get("training_mode"):
        return None
    if any(part is None or part.shape != (len(lane.columns),) for part in parts):
        return None
    scale, shift, mean, variance = (np.asarray(part, np.float64) for part in parts)
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    after = intervals.scaled(lane.interval, factor, shift - mean * factor)
    return replace(lane, value=node.output[0], interval=after), [Cut(node, at, 0, lane.columns) for at in (1, 2, 3, 4)]


def _arithmetic(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    """The lane and one constant: the same for all channels, or one number a channel."""
    node, other = reader.node, 1 - reader.position
    constant, shape = view.operand(node, other), view.shape(lane.value)
    if constant is None or shape is None or constant.ndim > len(shape) or (node.op_type in ("Sub", "Div") and other == 0):
        return None
    axis, cuts = lane.axis - (len(shape) - constant.ndim), []
    if constant.size > 1:
        if axis < 0 or constant.size != constant.shape[axis] or not _in_order(lane) or constant.size != len(lane.columns):
            return None
        cuts.append(Cut(node, other, axis, lane.columns))
    values = constant.astype(np.float64).reshape(-1)
    with np.errstate(divide="ignore"):
        factor = {"Mul": values, "Div": 1 / values}.get(node.op_type, np.ones(1))
    shift = {"Add": values, "Sub": -values}.get(node.op_type, np.zeros(1))
    if not np.isfinite(factor).all():
        return None
    return replace(lane, value=node.output[0], interval=intervals.scaled(lane.interval, factor, shift)), cuts


def _pool(_view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    node = reader.node
    interval = lane.interval
    if lane.axis != 1:
        return None
    if node.op_type == "AveragePool" and is_padded(node) and attributes(node).get("count_include_pad"):
        interval = interval.with_value(0.0)
    return replace(lane, value=node.output[0], interval=interval), []


def _pad(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    node, told = reader.node, attributes(reader.node)
    pads = view.operand(node, 1)
    value = view.operand(node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if pads is None or value is None or len(node.input) > 3 or reader.position != 0:
        return None
    rank = len(pads) // 2
    if pads[[lane.axis, lane.axis + rank]].any():
        return None
    kept = told.get("mode", b"constant") != b"constant"
    interval = lane.interval if kept else lane.interval.with_value(float(value.reshape(-1)[0]))
    return replace(lane, value=node.output[0], interval=interval), []


def _mean(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    shape, axes = view.shape(lane.value), _axes(view, reader.node)
    if shape is None or axes is None or reader.position != 0:
        return None
    gone = {axis % len(shape) for axis in axes}
    if lane.axis in gone:
        return None
    kept = attributes(reader.node).get("keepdims", 1)
    axis = lane.axis if kept else lane.axis - sum(each < lane.axis for each in gone)
    return replace(lane, value=reader.node.output[0], axis=axis), []


def _squeeze(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    shape, axes = view.shape(lane.value), _axes(view, reader.node)
    if shape is None or axes is None or reader.position != 0:
        return None
    gone = {axis % len(shape) for axis in axes}
    if lane.axis in gone:
        return None
    return replace(lane, value=reader.node.output[0], axis=lane.axis - sum(each < lane.axis for each in gone)), []


def _axes(view: GraphView, node: onnx.NodeProto) -> list[int] | None:
    if len(node.input) > 1 and node.input[1]:
        given = view.operand(node, 1)
        return None if given is None else [int(axis) for axis in given.reshape(-1)]
    told = attributes(node).get("axes")
    return None if told is None else list(told)


def _transpose(_view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    order = attributes(reader.node).get("perm")
    if order is None:
        return None
    return replace(lane, value=reader.node.output[0], axis=list(order).index(lane.axis)), []


def _flatten(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    """All axes but the first into one. A Reshape's target is cut with the channels."""
    node = reader.node
    before, after = view.shape(lane.value), view.shape(node.output[0])
    if before is None or after is None or len(after) != 2 or lane.axis == 0 or None in before[1:] or reader.position != 0:
        return None
    inner = int(np.prod([size for size in before[lane.axis + 1 :] if size]))
    outer = int(np.prod([size for size in before[1 : lane.axis] if size]))
    columns = np.tile(np.repeat(lane.columns, inner), outer)
    if after[1] != len(columns):
        return None
    moved = replace(lane, value=node.output[0], axis=1, columns=columns)
    if node.op_type == "Flatten":
        return (moved, []) if attributes(node).get("axis", 1) == 1 else None
    target = view.operand(node, 1)
    if target is None or target.shape != (2,) or target[1] not in (-1, len(columns)) or attributes(node).get("allowzero"):
        return None
    return moved, [Cut(node, 1, None, columns)]


def _in_order(lane: Lane) -> bool:
    return len(lane.columns) == len(lane.interval.low) and bool((lane.columns == np.arange(len(lane.columns))).all())


_OPERATORS: Final[dict[str, Callable[[GraphView, Reader, Lane], Step | None]]] = {
    "Add": _arithmetic, "Sub": _arithmetic, "Mul": _arithmetic, "Div": _arithmetic,
    "Clip": _clip, "Conv": _depthwise, "BatchNormalization": _normalisation,
    "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _pool, "GlobalMaxPool": _pool,
    "Pad": _pad, "ReduceMean": _mean, "ReduceMax": _mean, "Squeeze": _squeeze, "Transpose": _transpose,
    "Flatten": _flatten, "Reshape": _flatten,
}  # fmt: skip
