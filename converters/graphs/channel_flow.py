"""Follows layers' output channels through the operators that keep them apart, to the layers that sum over them again.

Each output channel of each layer is a number of its own. A lane is one value on the way: which axis holds the channels, which
channel each position of that axis belongs to, and between which bounds each channel lies. Where two lanes meet position by
position (a residual sum, a gate) their channels are bound together: what happens to one happens to the other. Behind a Concat
they go on side by side. Operators that mix channels, or that this module does not know, hold the channels that come in:
then nothing about these may be changed. Pure: it reads a graph and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.graphs import intervals
from converters.graphs.graph_view import Array, GraphView, Reader, attributes, is_standard
from converters.graphs.intervals import Interval

MARGIN: Final = 1000.0
"""Inner values are taken to stay within so many times the largest one that the samples showed."""

_SPATIAL_FROM: Final = 2

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Lane:
    """A value on the way. `columns[i]` is the place, within `ids` and `interval`, of what stands at position i of `axis`."""

    value: str
    axis: int
    columns: Ids
    interval: Interval
    ids: Ids
    """The number of each channel."""


@dataclass(frozen=True)
class Cut:
    """A constant that must lose what belongs to removed channels. Without `axis` it is a Reshape's target."""

    node: onnx.NodeProto
    position: int
    axis: int | None
    ids: Ids
    """The channel at each position."""


@dataclass(frozen=True)
class End:
    """A layer that sums over the channels. `foldable` where a constant channel may become part of its bias."""

    node: onnx.NodeProto
    lane: Lane
    foldable: bool


@dataclass(frozen=True)
class Producer:
    """A layer and the numbers of its output channels."""

    node: onnx.NodeProto
    ids: Ids


@dataclass
class Channels:
    """All channels of a graph: who makes them, what must be cut with them, who sums over them, which are bound together."""

    producers: list[Producer] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    bonds: list[tuple[Ids, Ids]] = field(default_factory=list)
    """Pairs of channels, position by position, that must go together or stay together."""
    held: list[Ids] = field(default_factory=list)
    """Channels about which nothing may be changed."""
    count: int = 0

    def fresh(self, width: int) -> Ids:
        """Numbers for so many more channels."""
        self.count += width
        return np.arange(self.count - width, self.count, dtype=np.int64)


class Flow:
    """The way through one graph. `largest` holds the largest magnitude that samples showed of a value."""

    def __init__(self, view: GraphView, largest: Mapping[str, float]) -> None:
        self._view = view
        self._largest = largest
        self._lanes: dict[str, Lane] = {}
        self._channels = Channels()

    def channels(self) -> Channels:
        """Everything about the graph's channels, in order of computation. Called once."""
        for node in self._view.nodes:
            self._visit(node)
        for name, lane in self._lanes.items():
            if name in self._view.outputs or not self._view.readers(name):
                self._channels.held.append(lane.ids)
        return self._channels

    def _visit(self, node: onnx.NodeProto) -> None:
        readers = [Reader(node, at) for at, name in enumerate(node.input) if name in self._lanes]
        if layer := plain_layer(self._view, node):
            for reader in readers:
                self._end(reader, layer)
            self._lanes[node.output[0]] = self._produced(node, layer)
        elif readers and not self._pass(node, readers):
            self._channels.held += [self._lanes[node.input[reader.position]].ids for reader in readers]

    def _end(self, reader: Reader, layer: tuple[Array, Array, int]) -> None:
        node, lane = reader.node, self._lanes[reader.node.input[reader.position]]
        if reader.position != 0 or layer[2] != lane.axis or layer[0].shape[1] != len(lane.columns):
            self._channels.held.append(lane.ids)
            return
        biased = node.op_type != "MatMul" or bias_of_matmul(self._view, node) is not None
        self._channels.ends.append(End(node, lane, foldable=biased and not is_padded(node)))

    def _produced(self, node: onnx.NodeProto, layer: tuple[Array, Array, int]) -> Lane:
        weights, bias, axis = layer
        given = self._given(node.input[0], weights.shape[1])
        made = intervals.weighted_sum(given, weights, bias, padded=is_padded(node))
        ids = self._channels.fresh(len(weights))
        self._channels.producers.append(Producer(node, ids))
        return Lane(node.output[0], axis, np.arange(len(weights), dtype=np.int64), made, ids)

    def _given(self, value: str, width: int) -> Interval:
        lane = self._lanes.get(value)
        known = intervals.unbounded(width)
        if lane is not None and len(lane.columns) == width:
            known = lane.interval.take(lane.columns)
        return self._bounded(value, known)

    def _bounded(self, value: str, interval: Interval) -> Interval:
        return interval.clamp(MARGIN * self._largest[value]) if value in self._largest else interval

    def _lane(self, name: str) -> Lane:
        """The lane of a value, its bounds as tight as the samples allow."""
        lane = self._lanes[name]
        return replace(lane, interval=self._bounded(name, lane.interval))

    def _pass(self, node: onnx.NodeProto, readers: Sequence[Reader]) -> bool:
        """Whether the channels go on behind an operator that is no layer."""
        if not is_standard(node) or any(node.output[1:]):
            return False
        if node.op_type == "Concat":
            after = self._side_by_side(node)
        elif len(readers) == 2 and node.op_type in _MEETINGS:
            after = self._meet(node)
        elif len(readers) == 1:
            step = through(self._view, readers[0], self._lane(node.input[readers[0].position]))
            after = None if step is None else step[0]
            self._channels.cuts += [] if step is None else step[1]
        else:
            after = None
        if after is not None:
            self._lanes[node.output[0]] = after
        return after is not None

    def _meet(self, node: onnx.NodeProto) -> Lane | None:
        """Two lanes, element by element: the channels at one position are bound together."""
        one, other = (self._lane(name) for name in node.input)
        shapes = [self._view.shape(lane.value) for lane in (one, other)]
        if shapes[0] is None or shapes[1] is None or len(shapes[0]) != len(shapes[1]) or one.axis != other.axis:
            return None
        if len(one.ids) != len(other.ids) or not np.array_equal(one.columns, other.columns):
            return None
        self._channels.bonds.append((one.ids, other.ids))
        met = _MEETINGS[node.op_type](one.interval, other.interval)
        return replace(one, value=node.output[0], interval=met)

    def _side_by_side(self, node: onnx.NodeProto) -> Lane | None:
        parts = [self._part(name) for name in node.input]
        lanes = [part for part in parts if part is not None]
        shape = self._view.shape(lanes[0].value)
        axis = attributes(node).get("axis", 0)
        if len(lanes) < len(parts) or shape is None or any(lane.axis != axis % len(shape) for lane in lanes):
            return None
        starts = np.cumsum([0, *(len(lane.ids) for lane in lanes)])
        return Lane(
            node.output[0],
            lanes[0].axis,
            np.concatenate([lane.columns + start for lane, start in zip(lanes, starts, strict=False)]),
            intervals.joined([lane.interval for lane in lanes]),
            np.concatenate([lane.ids for lane in lanes]),
        )

    def _part(self, name: str) -> Lane | None:
        """A value that is concatenated: its lane, or one whose channels are held, or None where not even the width is known."""
        if name in self._lanes:
            return self._lane(name)
        shape = self._view.shape(name)
        width = shape[1] if shape is not None and len(shape) > 1 else None
        if width is None:
            return None
        ids = self._channels.fresh(width)
        self._channels.held.append(ids)
        return Lane(name, 1, np.arange(width, dtype=np.int64), self._bounded(name, intervals.unbounded(width)), ids)


_MEETINGS: Final[dict[str, Callable[[Interval, Interval], Interval]]] = {
    "Add": intervals.summed,
    "Sub": lambda one, other: intervals.summed(one, intervals.scaled(other, -1.0, 0.0)),
    "Mul": intervals.multiplied,
    "Max": lambda one, other: Interval(np.maximum(one.low, other.low), np.maximum(one.high, other.high)),
    "Min": lambda one, other: Interval(np.minimum(one.low, other.low), np.minimum(one.high, other.high)),
}


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


def is_depthwise(node: onnx.NodeProto, weights: Array) -> bool:
    """Whether a layer takes each channel by itself."""
    if node.op_type != "Conv" or not is_standard(node) or weights.dtype != np.float32:
        return False
    channels = len(weights)
    return channels > 1 and attributes(node).get("group", 1) == channels and weights.shape[1] == 1


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


def through(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    """The lane behind an operator that keeps channels apart, and what must be cut with them there; None for other operators."""
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
    if not is_depthwise(node, weights) or len(weights) != channels or bias is None:
        return None
    after = intervals.per_channel(lane.interval, weights, bias, padded=is_padded(node))
    cuts = [Cut(node, 1, 0, lane.ids[lane.columns])]
    if len(node.input) > 2 and node.input[2]:
        given = view.operand(node, 2)
        if given is None or given.shape != (channels,):
            return None
        cuts.append(Cut(node, 2, 0, lane.ids[lane.columns]))
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
    return replace(lane, value=node.output[0], interval=after), [
        Cut(node, at, 0, lane.ids[lane.columns]) for at in (1, 2, 3, 4)
    ]


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
        cuts.append(Cut(node, other, axis, lane.ids[lane.columns]))
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
    return _without(view, reader, lane, kept=bool(attributes(reader.node).get("keepdims", 1)))


def _squeeze(view: GraphView, reader: Reader, lane: Lane) -> Step | None:
    return _without(view, reader, lane, kept=False)


def _without(view: GraphView, reader: Reader, lane: Lane, *, kept: bool) -> Step | None:
    """Past a node that does away with axes, or keeps them with one place each; not with the channels' own."""
    shape, axes = view.shape(lane.value), _axes(view, reader.node)
    if shape is None or axes is None or reader.position != 0:
        return None
    gone = {axis % len(shape) for axis in axes}
    if lane.axis in gone:
        return None
    axis = lane.axis if kept else lane.axis - sum(each < lane.axis for each in gone)
    return replace(lane, value=reader.node.output[0], axis=axis), []


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
    return moved, [Cut(node, 1, None, lane.ids[columns])]


def _in_order(lane: Lane) -> bool:
    return len(lane.columns) == len(lane.ids) and bool((lane.columns == np.arange(len(lane.columns))).all())


_OPERATORS: Final[dict[str, Callable[[GraphView, Reader, Lane], Step | None]]] = {
    "Add": _arithmetic, "Sub": _arithmetic, "Mul": _arithmetic, "Div": _arithmetic,
    "Clip": _clip, "Conv": _depthwise, "BatchNormalization": _normalisation,
    "MaxPool": _pool, "AveragePool": _pool, "GlobalAveragePool": _pool, "GlobalMaxPool": _pool,
    "Pad": _pad, "ReduceMean": _mean, "ReduceMax": _mean, "Squeeze": _squeeze, "Transpose": _transpose,
    "Flatten": _flatten, "Reshape": _flatten,
}  # fmt: skip
